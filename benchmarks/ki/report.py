"""The Markdown report and its pictures, from the saved results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ki import notes, plots
from benchmarks.ki.arms import ARMS, BY_NAME
from benchmarks.ki.predictions import NEAR_CHANCE, NO_ANSWERS, chance, gradient_difference, outcomes
from benchmarks.ki.records import Run, Runs, choose_rate
from benchmarks.ki.statistics import Interval, mean_interval, paired
from benchmarks.report import markdown_table

Results = Mapping[str, Any]
REFERENCE = "KI"
#: The measurement, from the end, that the last is compared with to say whether a curve has come to rest.
LATE = 3
#: Settings that the head prints; ki.json holds all.
SHOWN = (
    *("steps", "robot_batch", "vqa_batch", "demonstrations", "pretraining_steps", "pretraining_batch"),
    *("width", "expert_width", "depth", "seeds", "backbone_rates", "expert_rate"),
)

#: Column, measurement, decimals, and as what it is written.
MEASUREMENTS = (
    ("answers, full vocabulary", "full", 3),
    ("answers, masked", "masked", 3),
    ("KL to pretrained, nats", "kl", 2),
    ("follows swapped command", "swapped_follow", 3),
    ("goes to the plate instead", "swapped_plate", 3),
    ("endpoint error", "error", 3),
    ("right side", "side", 3),
    ("endpoint error, scenes as trained", "trained_error", 3),
)
EQUAL_TIME = (
    ("answers, full vocabulary", "full_in_equal_time", 3),
    ("answers, masked", "masked_in_equal_time", 3),
    ("follows any command", "follow_in_equal_time", 3),
    ("endpoint error", "error_in_equal_time", 3),
)


def write(results: Results, folder: Path) -> list[Path]:
    """Writes ki.md and the pictures; returns their paths."""
    runs = Runs(results["runs"], results["settings"]["threshold"])
    pictures = plots.draw(results, runs, folder)
    report = folder / "ki.md"
    report.write_text(text(results, runs, [p.name for p in pictures]))
    return [report, *pictures]


def text(results: Results, runs: Runs, pictures: Sequence[str]) -> str:
    """The report."""
    s = results["settings"] | results["world"] | {"seeds": len(results["settings"]["seeds"])}
    s |= {
        "highest_error": plots.HIGHEST_ERROR,
        "chance": chance(),
        "near_chance": NEAR_CHANCE,
        "no_answers": NO_ANSWERS,
    }
    sections = [
        ("# What knowledge insulation does to a small model", _head(results)),
        ("## The task", notes.TASK.format(**s), notes.REFERENCES, _references(results)),
        ("## The arms", notes.ARMS.format(**s, **results["parameters"]), notes.LOSS_TOKENS, _loss_tokens(results)),
        ("## What was looked at before", notes.LOOKED_AT),
        ("## Predictions", notes.PREDICTIONS.format(**s), _predictions(runs)),
        ("## After equal steps", notes.MEASUREMENTS.format(**s), _figures(runs)),
        (f"### Paired differences to {REFERENCE}", _differences(runs)),
        ("### Each seed", notes.SEEDS, _falling(runs), _seeds(runs)),
        ("## In equal time", notes.EQUAL_TIME, _equal_time(runs)),
        (f"## Steps to an endpoint error of {s['threshold']:g}", notes.THRESHOLD.format(**s), _thresholds(runs)),
        ("## Gradients in the backbone", notes.GRADIENTS.format(**s), _gradients(runs)),
        ("### Action tokens less flow", notes.GRADIENT_DIFFERENCES, _gradient_differences(runs)),
        ("## The choice of learning rates", notes.RATES.format(**s), _sweep(results)),
        ("## Pretraining", _pretraining(results)),
        [part for name in pictures for part in (f"![{name}]({name})", notes.PICTURES[name].format(**s))],
    ]
    return "\n\n".join(part for section in sections for part in section) + "\n"


def _head(results: Results) -> str:
    settings = ", ".join(f"{name} {results['settings'][name]}" for name in SHOWN)
    return (
        "Made by `python -m benchmarks.ki` from `ki.json`; every figure and verdict is computed,\n"
        "but those of *What was looked at before*, which were noted by hand.\n\n"
        f"{results['machine']}. Settings {results['fingerprint']}: {settings}."
    )


def spelled(interval: Interval, digits: int, sign: str = "") -> str:
    """Mean and interval in brackets."""
    if math.isinf(interval.low):
        return f"{interval.mean:{sign}.{digits}f}"
    return f"{interval.mean:{sign}.{digits}f} [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]"


def _names(runs: Runs) -> list[str]:
    return [arm.name for arm in ARMS if arm.name in runs.arms]


def _references(results: Results) -> str:
    reported = [p["references"] for p in results["pretraining"] if p["seed"] in results["settings"]["seeds"]]
    names = list(reported[0])
    means = [mean_interval([known[n] for known in reported]).mean for n in names]
    return markdown_table(["policy", "endpoint error"], [[n, f"{m:.3f}"] for n, m in zip(names, means, strict=True)])


def _loss_tokens(results: Results) -> str:
    lines = [
        [arm, f"{t['chunk']:.2f}", f"{t['question']:.2f}" if t["question"] else "", f"{t['questions_share']:.1%}"]
        for arm, t in results["loss_tokens"].items()
    ]
    header = ["arm", "tokens of a chunk", "tokens of a question", "questions' share of the cross-entropy"]
    return markdown_table(header, lines)


def _predictions(runs: Runs) -> str:
    found = outcomes(runs)
    counts = {v: sum(o.verdict == v for o in found) for v in ("held", "contradicted", "undecided")}
    lines = [
        [
            o.prediction.claim,
            o.prediction.source,
            o.compared,
            "> 0" if o.prediction.sign > 0 else "< 0",
            spelled(o.difference, _digits(o.difference), "+"),
            o.verdict,
            "; ".join(o.notes),
        ]
        for o in found
    ]
    summary = ", ".join(f"{n} {v}" for v, n in counts.items())
    floor = sum(o.both_at_chance for o in found)
    header = ["prediction", "source", "difference", "predicted", "found", "verdict", "note"]
    return f"Of {len(found)}: {summary}. Both arms at chance: {floor} of these.\n\n{markdown_table(header, lines)}"


def _digits(interval: Interval) -> int:
    return 0 if abs(interval.mean) >= 20 else 3


def _figures(runs: Runs) -> str:
    lines = [
        [
            arm,
            f"{runs[arm][0].record['rate']:g}" if BY_NAME[arm].trains_backbone else "frozen",
            *(spelled(mean_interval(runs.values(arm, m)), d) for _, m, d in MEASUREMENTS),
        ]
        for arm in _names(runs)
    ]
    return markdown_table(["arm", "backbone's rate", *(title for title, _, _ in MEASUREMENTS)], lines)


def _differences(runs: Runs) -> str:
    lines = [
        [arm, *(spelled(paired(runs.values(arm, m), runs.values(REFERENCE, m)), d, "+") for _, m, d in MEASUREMENTS)]
        for arm in _names(runs)
        if arm != REFERENCE
    ]
    return markdown_table([f"arm - {REFERENCE}", *(title for title, _, _ in MEASUREMENTS)], lines)


def _seeds(runs: Runs) -> str:
    shown = ("error", "swapped_follow", "full")
    lines = []
    for arm in _names(runs):
        cells = [" / ".join(f"{runs.value(run, m):.2f}" for m in shown) for run in runs[arm]]
        lines.append([arm, *cells, spelled(_late_change(runs, arm), 3, "+")])
    seeds = [f"seed {run.seed}" for run in runs[_names(runs)[0]]]
    return markdown_table(["arm", *seeds, f"change of error in the last {_late_steps(runs)} steps"], lines)


def _falling(runs: Runs) -> str:
    """Which curves had not come to rest."""
    falling = [arm for arm in _names(runs) if _late_change(runs, arm).high < 0]
    named = ", ".join(f"`{arm}`" for arm in falling) or "none"
    return f"Arms whose error still falls at the end, with the whole interval below 0: {named}."


def _late_change(runs: Runs, arm: str) -> Interval:
    """Of the endpoint error, from the last measurement but two to the last."""
    return paired(*([run.column("error")[i] for run in runs[arm]] for i in (-1, -LATE)))


def _late_steps(runs: Runs) -> int:
    steps = runs[_names(runs)[0]][0].column("step")
    return int(steps[-1] - steps[-LATE])


def _equal_time(runs: Runs) -> str:
    lines = [
        [
            arm,
            f"{mean_interval(runs.values(arm, 'seconds')).mean:.1f}",
            _mean_steps(runs, arm),
            *(spelled(mean_interval(runs.values(arm, m)), d) for _, m, d in EQUAL_TIME),
        ]
        for arm in _names(runs)
    ]
    return markdown_table(
        ["arm", "seconds for all steps", "steps in equal time", *(t for t, _, _ in EQUAL_TIME)], lines
    )


def _mean_steps(runs: Runs, arm: str) -> str:
    return f"{mean_interval(runs.values(arm, 'step_in_equal_time')).mean:.0f}"


def _thresholds(runs: Runs) -> str:
    seeds = [run.seed for run in runs[_names(runs)[0]]]
    lines = []
    for arm in _names(runs):
        reached = [run.reached(runs.threshold) for run in runs[arm]]
        censored = sum(r.censored for r in reached)
        lines.append([arm, *map(str, reached), f"{len(reached) - censored} of {len(reached)}"])
    return markdown_table(["arm", *(f"seed {seed}" for seed in seeds), "reached"], lines)


def _gradients(runs: Runs) -> str:
    lines, measured = [], ("norm", "ratio", "cosine")
    for arm in _names(runs):
        for i, taken in enumerate(runs[arm][0].record["gradients"]):
            for loss in taken["losses"]:
                each = [run.record["gradients"][i]["losses"][loss] for run in runs[arm]]
                cells = [spelled(mean_interval([e[n] for e in each]), 3) if n in each[0] else "" for n in measured]
                cells[1] += f"; {_bootstrap(each)}"
                lines.append([arm, str(taken["step"]), loss, *cells])
    return markdown_table(
        ["arm", "after step", "loss", "length of the mean", "signal to noise", "cosine with questions"], lines
    )


def _bootstrap(each: Sequence[Mapping[str, float]]) -> str:
    own = [mean_interval([e[f"ratio_{end}"] for e in each]).mean for end in ("low", "high")]
    return f"{own[0]:.3f} to {own[1]:.3f}"


def _gradient_differences(runs: Runs) -> str:
    steps = [taken["step"] for taken in runs[_names(runs)[0]][0].record["gradients"]]
    found = {
        arm: [gradient_difference(runs[arm], "ratio", "action tokens", "flow", step) for step in steps]
        for arm in _names(runs)
    }
    every = [interval.verdict(1) for intervals in found.values() for interval in intervals]
    summary = (
        f"Of {len(every)} differences {every.count('held')} have the whole interval above 0, "
        f"{every.count('contradicted')} below."
    )
    lines = [[arm, *(spelled(f, 3, "+") for f in intervals)] for arm, intervals in found.items()]
    return f"{summary}\n\n{markdown_table(['arm', *(f'after step {step}' for step in steps)], lines)}"


def _sweep(results: Results) -> str:
    known = {p["seed"]: p["references"]["any object, right side"] for p in results["pretraining"]}
    lines = []
    for arm in ARMS:
        swept = [record for record in results["sweep"] if record["arm"] == arm.name]
        if not swept:
            lines.append([arm.name, "", "no choice: the backbone is not trained", *[""] * 3])
            continue
        chosen, edges = choose_rate(swept), {f([record["rate"] for record in swept]) for f in (min, max)}
        for record in swept:
            run = Run(record)
            cells = [run.last["error"], record["swapped"]["follow"], run.last["full"]]
            remarks = {"chosen": True, "at the edge": chosen in edges, "none has learned": cells[0] > known[run.seed]}
            mark = ", ".join(r for r, holds in remarks.items() if holds) if record["rate"] == chosen else ""
            lines.append([arm.name, f"{record['rate']:g}", mark, *(f"{c:.3f}" for c in cells)])
    header = ["arm", "backbone's rate", "", "endpoint error", "follows swapped command", "answers, full vocabulary"]
    return markdown_table(header, lines)


def _pretraining(results: Results) -> str:
    lines = [
        [str(p["seed"]), f"{p['full']:.3f}", f"{p['masked']:.3f}", f"{p['seconds']:.0f}"]
        for p in results["pretraining"]
    ]
    return markdown_table(["seed", "answers, full vocabulary", "answers, masked", "seconds"], lines)
