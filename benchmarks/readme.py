"""The measured figures of the README and of docs/, from the folder of results: none there is typed by hand."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tokens
from benchmarks.artefacts import FAST_PLUS
from benchmarks.case import ROOT
from benchmarks.coding import CODINGS
from benchmarks.ki.predictions import outcomes
from benchmarks.ki.records import Runs
from benchmarks.ki.statistics import mean_interval
from benchmarks.report import markdown_table, significant
from benchmarks.rows import OURS, PUBLISHED, Row

#: Where figures may stand, each between its markers.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
WORKLOADS = ("aloha", "droid", "libero")
#: Those whose rows the table shows.
QUESTIONS = ("encode", "artefacts", "decode", "fit", "tokens")
#: Columns of the tables that `benchmarks.coding` writes, and what the README calls them.
CODING_COLUMNS = {
    "recorded set": "recorded set",
    "published fit": "published fit",
    "defaults": "defaults",
    "all options": "best options",
    "entropy: context model": "context model",
}
UNIVERSAL_COLUMNS = {
    "recorded set": "recorded set",
    "FAST+": "FAST+",
    "frequency-first": "`default()`",
    "dimension-first": '`default("dimension-first")`',
}
#: Rows of the table on knowledge insulation, and what `benchmarks.ki` calls them.
INSULATION = {
    "questions still answered": "full",
    "follows a swapped command": "swapped_follow",
    "endpoint error": "error",
    "endpoint error in equal time": "error_in_equal_time",
}
#: Columns of the table on the grammar's cost.
COST_COLUMNS = ("vocabulary", "B", "softmax", "processor", "processor / softmax")
#: Columns of the tables on the training loop.
COLLATE_COLUMNS = ("", "own", "own, of a step")
WAITING_COLUMNS = ("tokenized by", "workers", "waits", "beyond nothing, of a step")
#: Errors that differ by a larger share are said to.
EQUAL_ERROR = 0.05


def replace_between(text: str, name: str, block: str) -> str:
    """Puts a block between `<!-- name -->` and `<!-- /name -->`: on lines of its own, unless both stand in one line.

    Raises:
        ValueError: The markers are not there, once each and in this order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    between = pattern.search(text)
    if text.count(start) != 1 or text.count(end) != 1 or between is None:
        raise ValueError(f"expected {start} and {end}, once each and in this order")
    edge = "\n" if "\n" in between.group() else ""
    return pattern.sub(lambda _: f"{start}{edge}{block}{edge}{end}", text)


def blocks(about: dict[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Each marker's name and what stands there; a table without rows is left out, and what stands there stays."""
    found = {}
    if any(row.question == "encode" for row in rows):
        found["measured"] = f"{_caption(about)}\n\n{_against_published(rows)}"
        found["speed"] = _in_words(rows)
    if streamed := _million(rows):
        found["million"] = streamed
    recorded = [row for row in rows if row.question == "tokens" and row.workload.startswith("recorded ")]
    if recorded:
        found["recorded"] = tokens.readme_table(recorded)
    return found


def update(about: dict[str, Any], rows: Sequence[Row], folder: Path) -> None:
    """Rewrites the pages, from the rows and the tables in the folder."""
    for page, text in rewritten(about, rows, folder).items():
        page.write_text(text)


def rewritten(about: dict[str, Any], rows: Sequence[Row], folder: Path) -> dict[Path, str]:
    """Each page with the figures of these rows and of the tables in the folder.

    Raises:
        ValueError: What was measured has a place on no page.
    """
    found = blocks(about, rows)
    if (robustness := folder / "robustness.md").exists():
        found["robustness"] = fast_plus_lines(robustness.read_text())
    if (coding := folder / "coding.md").exists():
        found |= coding_blocks(coding.read_text())
    if (cost := folder / "constrained.md").exists():
        found["grammar-cost"] = cost_lines(cost.read_text())
    if (training := folder / "training.md").exists():
        found["training"] = training_lines(training.read_text())
    if (insulation := folder / "ki.json").exists():
        found["ki"] = insulation_lines(json.loads(insulation.read_text()))
    texts = {page: page.read_text() for page in PAGES}
    for name, block in found.items():
        with_it = [page for page, text in texts.items() if f"<!-- {name} -->" in text]
        if not with_it:
            raise ValueError(f"no page has the marker <!-- {name} -->")
        for page in with_it:
            texts[page] = replace_between(texts[page], name, block)
    return texts


def insulation_lines(results: Mapping[str, Any]) -> str:
    """Of the results of `benchmarks.ki`: each arm with FAST tokens or none, and what became of the predictions."""
    runs = Runs(results["runs"], results["settings"]["threshold"])
    arms = [arm for arm in runs.arms if "binning" not in arm]
    means = [[f"{mean_interval(runs.values(arm, name)).mean:.2f}" for arm in arms] for name in INSULATION.values()]
    lines = [[label, *cells] for label, cells in zip(INSULATION, means, strict=True)]
    verdicts = Counter(outcome.verdict for outcome in outcomes(runs))
    counted = ", ".join(f"{verdicts[v]} {v}" for v in ("held", "contradicted", "undecided"))
    caption = f"Of {verdicts.total()} predictions that were written down before: {counted}."
    return f"{markdown_table(['mean of the seeds', *arms], lines)}\n\n{caption}"


def fast_plus_lines(robustness: str) -> str:
    """Of the table that `benchmarks.robustness` writes: one id replaced or missing, on FAST+."""
    lines = [line for line in robustness.splitlines() if line.startswith("|")]
    shown = [line for line in lines[2:] if line.startswith(("| substitution | FAST+", "| deletion | FAST+"))]
    return "\n".join([*lines[:2], *shown])


def coding_blocks(coding: str) -> dict[str, str]:
    """Of the tables that `benchmarks.coding` writes: the README's columns, and the two means in words.

    Raises:
        ValueError: A table or a column is not there.
    """
    options = _lines_of(coding, "What each coding option is worth", CODING_COLUMNS)
    errors = _lines_of(coding, "Errors at which that is", ("recorded set", "published fit", "defaults", "all options"))
    universal = _lines_of(coding, "Vocabularies for any robot", UNIVERSAL_COLUMNS)
    measured = next(line for line in coding.splitlines() if line.startswith("Measured "))
    tables = [
        markdown_table(list(columns.values()), [[line[name] for name in columns] for line in lines])
        for columns, lines in ((CODING_COLUMNS, options), (UNIVERSAL_COLUMNS, universal))
    ]
    fewer = [_fewer(options[-1][name]) for name in ("defaults", "all options")]
    worth = {name: change for name, change in options[-1].items() if "%" in change}
    return {
        "coding-options": markdown_table(["options", "tokens"], [[_spelled(n), c] for n, c in worth.items()]),
        "coding": "\n\n".join([measured, tables[0], _unequal_errors(errors), tables[1]]),
        "coding-mean": f"{fewer[0]} with the defaults and {fewer[1]} with the best options",
    }


def cost_lines(constrained: str) -> str:
    """Of the table that `benchmarks.constrained` writes: a step of the grammar and of the softmax beside it."""
    lines = _lines_of(constrained, "The grammar at each step of generation", COST_COLUMNS)
    return markdown_table(list(COST_COLUMNS), [[line[name] for name in COST_COLUMNS] for line in lines])


def training_lines(training: str) -> str:
    """Of the tables that `benchmarks.training` writes: what a batch costs, and what the main process waits."""
    tables = [
        markdown_table(columns, [[line[name] for name in columns] for line in _lines_of(training, title, columns)])
        for title, columns in (("Collate", COLLATE_COLUMNS), ("Waiting for data", WAITING_COLUMNS))
    ]
    measured = next(line for line in training.splitlines() if line.startswith("Measured "))
    return "\n\n".join([measured, *tables])


def _spelled(coding: str) -> str:
    """A column of the table on coding options as arguments of `fit`."""
    options = {name: json.dumps(value) if isinstance(value, str) else value for name, value in CODINGS[coding].items()}
    return ", ".join(f"`{name}={value}`" for name, value in options.items()) or "defaults"


def _lines_of(text: str, title: str, columns: Iterable[str]) -> list[dict[str, str]]:
    """The lines of the table under a title, by the names of their columns."""
    _, found, section = text.partition(f"## {title}\n")
    if not found:
        raise ValueError(f"expected a table {title!r}")
    shown = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *lines = ([cell.strip() for cell in line[1:-1].split("|")] for line in shown)
    if lacking := set(columns) - set(header):
        raise ValueError(f"table {title!r}: expected a column {min(lacking)!r}, got {header}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def _fewer(change: str) -> str:
    """A change such as "-6.0%" in words."""
    percent = float(change.removesuffix("%"))
    return f"{abs(percent):.1f} % {'fewer' if percent <= 0 else 'more'}"


def _unequal_errors(errors: Sequence[Mapping[str, str]]) -> str:
    """Where the tokens are not at the same error, whoever that favours."""
    found = []
    for line in errors:
        published, *ours = (float(line[n].split(" / ")[0]) for n in ("published fit", "defaults", "all options"))
        if any(abs(error / published - 1) > EQUAL_ERROR for error in ours):
            found.append(f"{line['recorded set']} ({' / '.join(f'{error:.4f}' for error in (published, *ours))})")
    if not found:
        return f"Errors on the held-out chunks agree within {EQUAL_ERROR:.0%}."
    return (
        f"Errors on the held-out chunks agree within {EQUAL_ERROR:.0%}, but for (RMSE of published fit / defaults / "
        f"best options): {', '.join(found)}."
    )


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


def _pairs(rows: Sequence[Row], question: str, setting: str) -> list[tuple[Row, Row]]:
    """The published pipeline's row and ours, of one thread, for each workload that has both."""
    index = {
        (r.workload, r.competitor): r
        for r in rows
        if (r.question, r.setting) == (question, setting) and (r.threads == 1 or r.competitor != OURS) and not r.problem
    }
    keys = [((w, PUBLISHED), (w, OURS)) for w in WORKLOADS]
    return [(index[a], index[b]) for a, b in keys if a in index and b in index]


def _in_words(rows: Sequence[Row]) -> str:
    """How many times as fast, and how much smaller, over the workloads."""

    def span(question: str, setting: str, figure: str) -> tuple[float, float]:
        ratios = [them.figures[figure] / us.figures[figure] for them, us in _pairs(rows, question, setting)]
        return min(ratios, default=math.nan), max(ratios, default=math.nan)

    most = "100,000 chunks"
    encode, decode, fit = (
        "{:.0f} to {:.0f}".format(*span(question, setting, "seconds"))
        for question, setting in (("encode", "batch 256"), ("decode", "batch 256"), ("fit", most))
    )
    least, greatest = span("fit", most, "added_mib")
    return (
        f"batches are encoded {encode} and decoded {decode} times as fast, and {most} are fitted {fit} times as fast, "
        f"in 1/{greatest:.0f} to 1/{least:.0f} of the memory"
    )


def _million(rows: Sequence[Row]) -> str | None:
    """What a fit of a million chunks takes, by the table on growth."""
    found = [r for r in rows if (r.question, r.workload, r.setting, r.competitor) == ("growth", "N", "1,000,000", OURS)]
    timed = min((r for r in found if not r.problem), key=lambda r: r.figures["fit"], default=None)
    if timed is None:
        return None
    return f"{timed.figures['fit']:.1f} s and {timed.figures['added_mib'] / 1024:.1f} GiB"


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
