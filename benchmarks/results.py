"""What a run leaves: results.json with every figure, results.md with the tables, and pictures."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth, machine
from benchmarks.case import ROOT
from benchmarks.data import HELD_SEED, TRAIN_SEED
from benchmarks.report import Table
from benchmarks.rows import Row
from benchmarks.sizes import Sizes

FOLDER = ROOT / "benchmarks" / "results"

#: In the order of the report.
QUESTIONS = (
    "fit",
    "encode",
    "artefacts",
    "decode",
    "dct",
    "bpe_training",
    "bpe_encoding",
    "tokens",
    "stages",
    "growth",
)


def question_of(module: str) -> str:
    """The name that rows carry."""
    return module.replace("_", " ")


def tables(rows: Sequence[Row]) -> list[Table]:
    """Of all questions that have rows."""
    found: list[Table] = []
    for name in QUESTIONS:
        asked = [row for row in rows if row.question == question_of(name)]
        if asked:
            module: Any = importlib.import_module(f"benchmarks.{name}")
            found += module.tables(asked)
    return found


def write(rows: Sequence[Row], sizes: Sizes, took: dict[str, float], folder: Path = FOLDER) -> None:
    """Writes all of it; `took` are the seconds of each case."""
    results = write_json(rows, sizes, took, folder)
    (folder / "results.md").write_text(_markdown(results, tables(rows), _pictures(rows, folder)))


def write_json(rows: Sequence[Row], sizes: Sizes, took: dict[str, float], folder: Path) -> dict[str, Any]:
    """Writes the figures, and returns what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": machine.describe(),
        "sizes": sizes.name,
        "seconds": took,
        "seeds": {"train": TRAIN_SEED, "held out": HELD_SEED},
        "rows": [row.to_json() for row in rows],
        "exponents": growth.exponents([row for row in rows if row.question == "growth"]),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return results


def read(folder: Path = FOLDER) -> tuple[dict[str, Any], list[Row]]:
    """The machine's description with the sizes, and the rows."""
    results = json.loads((folder / "results.json").read_text())
    return {**results["machine"], "sizes": results["sizes"]}, [Row(**row) for row in results["rows"]]


def _pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """None without matplotlib, except in CI."""
    try:
        from benchmarks import plots
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        return []
    return plots.draw(rows, folder)


def _markdown(results: dict[str, Any], parts: Sequence[Table], pictures: Sequence[Path]) -> str:
    about, seconds = results["machine"], sum(results["seconds"].values())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = f"""# Results

{about["cpu"]}, {about["cores"]} cores, {about["memory_gib"]} GiB; {about["system"]}; Python {about["python"]}; kernel
{about["kernel"]}; commit {about["commit"]}; {about["date"]}; sizes: {results["sizes"]}; {seconds:,.0f} s in all.

{versions}.

[README.md](../README.md) says how each figure is taken. "time / ours" compares with ours on one thread.
"""
    images = "\n".join(f"![{path.stem}]({path.name})\n" for path in pictures)
    return "\n".join([head, images, *(table.markdown() for table in parts)])
