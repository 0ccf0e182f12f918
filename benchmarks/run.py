"""The whole suite: `python -m benchmarks.run`.

Every case in a fresh process, results to benchmarks/results. `--only fit encode` asks some questions anew and keeps the
rest. `--quick` takes tiny sizes, asserts equality only and writes nothing; `--full` is what gets published. `--readme`
puts the measured tables of the last results into the project's README, without measuring.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import readme, results, suite
from benchmarks.case import Case
from benchmarks.rows import Row
from benchmarks.sizes import SIZES, Sizes


def cases(sizes: Sizes, questions: Sequence[str] = results.QUESTIONS) -> list[Case]:
    """Of these questions."""
    found: list[Case] = []
    for name in questions:
        module: Any = importlib.import_module(f"benchmarks.{name}")
        found += module.cases(sizes)
    return found


def main() -> None:
    """Measures, or writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suite.add_sizes(parser)
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the results")
    parser.add_argument(
        "--readme", action="store_true", help="put the results' figures into README.md and docs/; measure nothing"
    )
    parser.add_argument("--only", nargs="+", choices=results.QUESTIONS, help="ask these; keep the others' results")
    arguments = parser.parse_args()
    if arguments.readme:
        readme.update(*results.read(arguments.out), arguments.out)
        return
    measure(SIZES[arguments.sizes], arguments.only or results.QUESTIONS, arguments.out, Console())


def measure(sizes: Sizes, questions: Sequence[str], out: Path, console: Console) -> None:
    """Runs everything, and exits with an error when something was wrong."""
    with tempfile.TemporaryDirectory() as scrap:
        # Of a quick run the report is made, to see that it can be, but tiny sizes say nothing worth keeping.
        folder = Path(scrap) if sizes.name == "quick" else out

        def keep(rows: list[Row], took: dict[str, float]) -> None:
            results.write_json(rows, sizes, took, folder)

        rows, took = suite.run_cases(cases(sizes, questions), sizes, console, keep)
        results.write(rows, sizes, took, folder)
        readme.blocks(*results.read(folder))
    if sizes.name != "quick":
        for table in results.tables(rows):
            console.print(table.rich())
        console.print(f"written to {out}")
    wrong = suite.wrong(rows, sizes)
    console.print(f"{len(rows)} rows in {sum(took.values()):.0f} s, {len(wrong)} wrong")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
