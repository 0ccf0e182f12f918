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
    """Writes all of it; `took` are the seconds of each case. Questions that were not asked keep their old rows."""
    results = write_json(rows, sizes, took, folder)
    together = [Row(**row) for row in results["rows"]]
    (folder / "results.md").write_text(_markdown(results, tables(together), _pictures(together, folder)))


def write_json(rows: Sequence[Row], sizes: Sizes, took: dict[str, float], folder: Path) -> dict[str, Any]:
    """Writes the figures, and returns what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine.describe()
    asked = {row.question for row in rows}
    old = _old(folder)
    kept = [row for row in old["rows"] if row["question"] not in asked]
    when = {name: said for name, said in old["measured"].items() if name in {row["question"] for row in kept}}
    results = {
        "machine": about,
        "measured": when | dict.fromkeys(sorted(asked), f"{about['commit']} on {about['date'][:10]}"),
        "sizes": sizes.name,
        "seconds": {case: s for case, s in old["seconds"].items() if case.split(" / ")[0] not in asked} | took,
        "seeds": {"train": TRAIN_SEED, "held out": HELD_SEED},
        "rows": [*kept, *(row.to_json() for row in rows)],
        "exponents": growth.exponents([row for row in rows if row.question == "growth"]) or old["exponents"],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return results


def read(folder: Path = FOLDER) -> tuple[dict[str, Any], list[Row]]:
    """The machine's description with the sizes, and the rows."""
    results = json.loads((folder / "results.json").read_text())
    about = {**results["machine"], "sizes": results["sizes"], "measured": results["measured"]}
    return about, [Row(**row) for row in results["rows"]]


def _old(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    if file.exists():
        old: dict[str, Any] = json.loads(file.read_text())
        return old
    return {"rows": [], "measured": {}, "seconds": {}, "exponents": []}


def _pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """None without matplotlib, except in CI."""
    try:
        from benchmarks import plots
    except ImportError:
        if os.environ.get("FAST_TOKENIZER_CI"):
            raise
        return []
    return plots.draw(rows, folder)


def _markdown(results: dict[str, Any], parts: Sequence[Table], pictures: Sequence[Path]) -> str:
    about, seconds = results["machine"], sum(results["seconds"].values())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    when = "; ".join(f"{name} at commit {said}" for name, said in results["measured"].items())
    head = f"""# Results

{about["cpu"]}, {about["cores"]} cores, {about["memory_gib"]} GiB; {about["system"]}; Python {about["python"]}; kernel
{about["kernel"]}; {when}; sizes: {results["sizes"]}; {seconds:,.0f} s in all.

{versions}.

[README.md](../README.md) says how each figure is taken. "time / ours" compares with ours on one thread.
"""
    images = "\n".join(f"![{path.stem}]({path.name})\n" for path in pictures)
    return "\n".join([head, images, *(table.markdown() for table in parts)])
