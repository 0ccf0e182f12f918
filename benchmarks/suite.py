"""Runs cases one after the other, each in a fresh process, and shows how far it is."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.case import Case, run_fresh
from benchmarks.data import CACHE
from benchmarks.rows import OURS, Row
from benchmarks.sizes import SIZES, Sizes

#: Problems that are not the competitor's own: something here is wrong.
WRONG = ("differs", "failed")
#: Nothing to look into: it is in the table.
EXPECTED = ("", "impossible", "left out")


def run_cases(
    cases: Sequence[Case],
    sizes: Sizes,
    console: Console,
    after_each: Callable[[list[Row], dict[str, float]], None] = lambda _, __: None,
) -> tuple[list[Row], dict[str, float]]:
    """Rows of all cases, and the seconds that each took: also given to `after_each`, as far as they are known.

    What does not go as planned is printed at once.
    """
    rows: list[Row] = []
    took: dict[str, float] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as cache, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(cases))
        os.environ[CACHE] = cache
        try:
            for case in cases:
                progress.update(task, description=case.title)
                start = time.monotonic()
                for row in run_fresh(case, sizes.timeout):
                    rows.append(row)
                    if row.problem not in EXPECTED:
                        progress.console.print(
                            f"{case.title}: {row.setting} {row.competitor}: {row.problem}: {row.reason}"
                        )
                took[case.title] = round(time.monotonic() - start, 2)
                after_each(rows, took)
                progress.advance(task)
        finally:
            del os.environ[CACHE]
    return rows, took


def wrong(rows: Iterable[Row], sizes: Sizes) -> list[Row]:
    """Rows that must not be: ours never dies, and with tiny sizes nobody does."""
    return [
        row
        for row in rows
        if row.problem in WRONG
        or (row.problem in ("killed", "timed out") and (sizes.name == "quick" or row.competitor == OURS))
    ]


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """`--quick` and `--full`."""
    choice = parser.add_mutually_exclusive_group()
    for name, does in (("quick", "tiny sizes: asserts equality, times mean nothing"), ("full", "what gets published")):
        choice.add_argument(f"--{name}", dest="sizes", action="store_const", const=name, help=does)
    parser.set_defaults(sizes="default")


def main(question: str) -> None:
    """One question by itself: `question` is its module."""
    module: Any = importlib.import_module(question)
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser)
    sizes = SIZES[parser.parse_args().sizes]
    console = Console()
    rows, _ = run_cases(list(module.cases(sizes)), sizes, console)
    for table in module.tables(rows):
        console.print(table.rich())
    if wrong(rows, sizes):
        raise SystemExit("something is wrong: see above")
