"""The measured tables of the project's README, from results.json: no figure there is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import tokens
from benchmarks.artefacts import FAST_PLUS
from benchmarks.case import ROOT
from benchmarks.report import markdown_table, significant
from benchmarks.rows import OURS, PUBLISHED, Row

README = ROOT / "README.md"
WORKLOADS = ("aloha", "droid", "libero")
#: Those whose rows the table shows.
QUESTIONS = ("encode", "artefacts", "decode", "fit", "tokens")


def replace_between(text: str, name: str, block: str) -> str:
    """Puts a block between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: The markers are not there, once each and in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if text.count(start) != 1 or text.count(end) != 1 or not pattern.search(text):
        raise ValueError(f"expected {start} and {end}, once each and in this order")
    return pattern.sub(lambda _: f"{start}\n{block}\n{end}", text)


def blocks(about: dict[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Each marker's name and what stands there; a table without rows is left out, and what stands there stays."""
    found = {}
    if any(row.question == "encode" for row in rows):
        found["measured"] = f"{_caption(about)}\n\n{_against_published(rows)}"
    recorded = [row for row in rows if row.question == "tokens" and row.workload.startswith("recorded ")]
    if recorded:
        found["recorded"] = tokens.readme_table(recorded)
    return found


def update(about: dict[str, Any], rows: Sequence[Row], folder: Path) -> None:
    """Rewrites the README, from the rows and the tables in the folder."""
    text = README.read_text()
    robustness = folder / "robustness.md"
    found = {"robustness": fast_plus_lines(robustness.read_text())} if robustness.exists() else {}
    for name, block in (blocks(about, rows) | found).items():
        text = replace_between(text, name, block)
    README.write_text(text)


def fast_plus_lines(robustness: str) -> str:
    """Of the table that `benchmarks.robustness` writes: one id replaced or missing, on FAST+."""
    lines = [line for line in robustness.splitlines() if line.startswith("|")]
    shown = [line for line in lines[2:] if line.startswith(("| substitution | FAST+", "| deletion | FAST+"))]
    return "\n".join([*lines[:2], *shown])


def _caption(about: dict[str, Any]) -> str:
    shown: dict[str, list[str]] = {}
    for question, when in about["measured"].items():
        if question in QUESTIONS:
            shown.setdefault(when, []).append(question)
    several = len(shown) > 1
    places = [f"commit {when}" + (f" ({', '.join(names)})" if several else "") for when, names in shown.items()]
    return (
        f"Measured at {', '.join(places)}: {about['cpu']}, {about['cores']} cores, kernel {about['kernel']}, Python "
        f"{about['python']}; ours on one thread."
    )


def _against_published(rows: Sequence[Row]) -> str:
    index = {
        (r.question, r.workload, r.setting, r.competitor): r for r in rows if r.threads == 1 or r.competitor != OURS
    }
    shapes = {r.workload: r.setting for r in rows if r.question == "tokens"}
    lines = []
    for title, question, setting in _lines(rows):
        cells = []
        for workload in WORKLOADS:
            at = shapes.get(workload, "") if question == "tokens" else setting
            pair = [index.get((question, workload, at, competitor)) for competitor in (PUBLISHED, OURS)]
            cells.append("-" if any(row is None for row in pair) else _cell(question, *pair))  # type: ignore[misc]
        lines.append([title, *cells])
    header = ["published / ours", *(f"{workload}, {shapes.get(workload, '')}" for workload in WORKLOADS)]
    return markdown_table(header, lines)


def _lines(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Title, question and setting of each line."""
    fits = dict.fromkeys(r.setting for r in rows if r.question == "fit" and r.workload in WORKLOADS)
    return [
        ("encode, 256 chunks a call, us a chunk", "encode", "batch 256"),
        ("encode, one chunk a call, us", "encode", "batch 1"),
        ("FAST+ imported, 256 chunks a call, us a chunk", "artefacts", f"{FAST_PLUS}, batch 256"),
        ("decode, 256 chunks a call, us a chunk", "decode", "batch 256"),
        *((f"fit, {setting}, s and added MiB", "fit", setting) for setting in fits),
        ("tokens a chunk", "tokens", ""),
    ]


def _cell(question: str, published: Row, ours: Row) -> str:
    bad = [row for row in (published, ours) if row.problem]
    if bad:
        return f"{bad[0].competitor}: {bad[0].problem}"
    if question == "tokens":
        return f"{published.figures['tokens']:.1f} / {ours.figures['tokens']:.1f}"
    unit = 1.0 if question == "fit" else 1e6
    them, us = published.figures["seconds"], ours.figures["seconds"]
    cell = f"{significant(them * unit)} / {significant(us * unit)} ({significant(them / us)} x)"
    if question == "fit":
        cell += f"; {published.figures['added_mib']:,.0f} / {ours.figures['added_mib']:,.0f}"
    return cell
