"""The Markdown report and its pictures, from the saved results alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ki import plots
from benchmarks.ki.arms import ARMS
from benchmarks.ki.predictions import outcomes
from benchmarks.ki.records import Run, Runs, choose_rate
from benchmarks.ki.statistics import Interval, mean_interval, paired
from benchmarks.report import markdown_table

Results = Mapping[str, Any]
REFERENCE = "KI"

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

WORLD = """\
Pictures of 12 x 12 pixels show four objects and a gripper. A backbone is pretrained on questions about colour, shape and
place of objects. Then the robot is told to reach a colour: its arm starts at the gripper, bows to the side that the
gripper's look says, and ends beside the object on that side. No question was ever about the look. In training {on_plate:.0%}
of the commands name the one object on a white plate; in the tests a command names any of the four."""

ARM_NOTES = """\
- `pi0`: flow loss, into the backbone; no targets. `joint`: flow and cross-entropy of the tokens, no cut. `KI`: the same
  with the cut at keys and values. `frozen`: flow loss, the backbone stays as pretrained.
- `+VQA`: {vqa_batch} questions beside the {robot_batch} demonstrations of every batch. The others have the demonstrations alone.
- `frozen+VQA` is mode KI whose demonstrations have no targets: the backbone is trained by questions alone, and the flow
  loss is cut off.
- Targets are FAST tokens (scale {fast_scale:g}, vocabulary {fast_vocabulary}, fitted on the demonstrations); `binning`: one of {bins} tokens
  for each of the 16 values of a chunk.
- Paired: in a seed all arms have the same pretrained backbone, new expert, demonstrations, order, noise and times.
- Each tower's gradient is clipped by its own norm. The expert's learning rate is {expert_rate:g} in all arms; the backbone's
  is chosen for each arm."""

MEASURE_NOTES = """\
- *Answers*: share of {test_questions} new questions whose answer has the highest logit of the whole vocabulary, or (masked) of the
  words that can answer a question of its kind. Chance, masked: 1/6, 1/6 and 1/9 for the three kinds.
- *Follows swapped command*: same picture, state and noise, commanded in turn each object that is not on the plate: share
  of the {test_scenes} x 3 endpoints that are nearest to where the commanded object is to be reached. A policy that ignores the
  command has 0.250 if it goes anywhere and 0 if it goes to the plate. *Follows any command*: the command is any object.
- *Endpoint error*: mean distance from the end of the sampled chunk ({euler_steps} Euler steps) to the right place, in units in
  which neighbouring cells are {spacing:g} apart. *Right side*: nearest of four directions from the nearest object; chance 0.250.
- Brackets are 95 % intervals of Student's t over {seeds} seeds; they are not corrected for their number."""


def write(results: Results, folder: Path) -> list[Path]:
    """Writes ki.md and the pictures; returns their paths."""
    runs = Runs(results["runs"], results["settings"]["threshold"])
    pictures = plots.draw(results, runs, folder)
    report = folder / "ki.md"
    report.write_text(text(results, runs, [p.name for p in pictures]))
    return [report, *pictures]


def text(results: Results, runs: Runs, pictures: Sequence[str]) -> str:
    """The report."""
    s = results["settings"] | {"seeds": len(results["settings"]["seeds"])} | results["world"]
    parts = [
        "# What knowledge insulation does to a small model",
        f"Made by `python -m benchmarks.ki` from `ki.json`; nothing here is written by hand but what the columns mean.\n\n"
        f"{results['machine']}. Settings {results['fingerprint']}: {_settings(results['settings'])}.",
        "## The task\n\n" + WORLD.format(**s),
        "Endpoint errors of policies that know a part, mean over the seeds:\n\n" + _references(results),
        "## The arms\n\n" + ARM_NOTES.format(**s),
        "## What was looked at before\n\n" + results["looked_at"],
        "## Predictions\n\nWritten down before the runs, in `benchmarks/ki/predictions.py`, which says how they are judged.\n\n"
        + _predictions(runs),
        "## After equal steps\n\n" + MEASURE_NOTES.format(**s) + "\n\n" + _figures(runs, MEASUREMENTS),
        f"### Paired differences to {REFERENCE}\n\n" + _differences(runs, MEASUREMENTS),
        "## In equal time\n\nRead where the fastest arm of the seed has done all its steps, between measurements by a straight "
        "line. Time is that of the processor in training steps, one thread.\n\n" + _equal_time(runs),
        f"## Steps to an endpoint error of {s['threshold']:g}\n\nMeasured every {s['evaluate_every']} steps, each seed by "
        "itself. `>`: not reached by the last step (censored).\n\n" + _thresholds(runs),
        "## Gradients in the backbone\n\n" + _gradient_notes(results["settings"]) + "\n\n" + _gradients(runs),
        "## The choice of learning rates\n\nOne run of each on seed "
        f"{results['settings']['selection_seed']}, which is not reported above. The rate with the smallest endpoint error "
        "after the last step is taken, on scenes in which the command names any object; this was settled before.\n\n"
        + _sweep(results),
        "## Pretraining\n\n" + _pretraining(results),
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def _settings(settings: Mapping[str, Any]) -> str:
    names = (
        "steps",
        "robot_batch",
        "vqa_batch",
        "demonstrations",
        "pretraining_steps",
        "pretraining_batch",
        "width",
        "expert_width",
        "depth",
        "seeds",
        "backbone_rates",
        "expert_rate",
    )
    return ", ".join(f"{name} {settings[name]}" for name in names)


def spelled(interval: Interval, digits: int, sign: str = "") -> str:
    """Mean and interval in brackets."""
    if math.isinf(interval.low):
        return f"{interval.mean:{sign}.{digits}f}"
    return f"{interval.mean:{sign}.{digits}f} [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]"


def _names(runs: Runs) -> list[str]:
    return [arm.name for arm in ARMS if arm.name in runs.arms]


def _references(results: Results) -> str:
    names = list(results["pretraining"][0]["references"])
    means = [mean_interval([p["references"][n] for p in results["pretraining"]]).mean for n in names]
    return markdown_table(["policy", "endpoint error"], [[n, f"{m:.3f}"] for n, m in zip(names, means, strict=True)])


def _predictions(runs: Runs) -> str:
    found = outcomes(runs)
    counts = {v: sum(o.verdict == v for o in found) for v in ("held", "contradicted", "undecided")}
    lines = [
        [
            o.prediction.claim,
            o.prediction.source,
            f"{o.prediction.measurement}: {o.prediction.first} - {o.prediction.second}",
            "> 0" if o.prediction.sign > 0 else "< 0",
            spelled(o.difference, _digits(o.difference), "+"),
            o.verdict,
        ]
        for o in found
    ]
    summary = ", ".join(f"{n} {v}" for v, n in counts.items())
    header = ["prediction", "source", "difference", "predicted", "found", "verdict"]
    return f"Of {len(found)}: {summary}.\n\n{markdown_table(header, lines)}"


def _digits(interval: Interval) -> int:
    return 0 if abs(interval.mean) >= 20 else 3


def _figures(runs: Runs, columns: Sequence[tuple[str, str, int]]) -> str:
    lines = [
        [
            arm,
            f"{runs[arm][0].record['rate']:g}",
            *(spelled(mean_interval(runs.values(arm, m)), d) for _, m, d in columns),
        ]
        for arm in _names(runs)
    ]
    return markdown_table(["arm", "backbone's rate", *(title for title, _, _ in columns)], lines)


def _differences(runs: Runs, columns: Sequence[tuple[str, str, int]]) -> str:
    lines = [
        [arm, *(spelled(paired(runs.values(arm, m), runs.values(REFERENCE, m)), d, "+") for _, m, d in columns)]
        for arm in _names(runs)
        if arm != REFERENCE
    ]
    return markdown_table([f"arm - {REFERENCE}", *(title for title, _, _ in columns)], lines)


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


def _gradient_notes(settings: Mapping[str, Any]) -> str:
    return (
        f"Gradients of {settings['gradient_samples']} single training examples, taken without a cut whatever the arm was "
        "trained with, so that `KI` and `frozen` show what the flow loss would do. Signal to noise is the squared length of the "
        "mean over the variance summed over parameters, both unbiased: where there is no signal it scatters around 0. The "
        "cosine is that of the mean gradient with the questions' mean gradient; noise in both makes it smaller. Figures are "
        "means over the seeds with their interval; then the mean of the seeds' own bootstrap intervals (over examples). "
        "t = 1 is noise."
    )


def _gradients(runs: Runs) -> str:
    lines = []
    for arm in _names(runs):
        for i, taken in enumerate(runs[arm][0].record["gradients"]):
            for loss in taken["losses"]:
                each = [run.record["gradients"][i]["losses"][loss] for run in runs[arm]]
                cosine = _gradient_cell(each, "cosine") if "cosine" in each[0] else ""
                norm = spelled(mean_interval([e["norm"] for e in each]), 3)
                lines.append([arm, str(taken["step"]), loss, norm, _gradient_cell(each, "ratio"), cosine])
    return markdown_table(
        ["arm", "after step", "loss", "length of the mean", "signal to noise", "cosine with questions"], lines
    )


def _gradient_cell(each: Sequence[Mapping[str, float]], name: str) -> str:
    own = [mean_interval([e[f"{name}_{end}"] for e in each]).mean for end in ("low", "high")]
    return f"{spelled(mean_interval([e[name] for e in each]), 3)}; {own[0]:.3f} to {own[1]:.3f}"


def _sweep(results: Results) -> str:
    lines = []
    for arm in ARMS:
        swept = [record for record in results["sweep"] if record["arm"] == arm.name]
        if not swept:
            lines.append([arm.name, "", "no choice: the backbone is not trained", *[""] * 3])
            continue
        chosen = choose_rate(swept)
        for record in swept:
            run = Run(record)
            cells = [run.last["error"], record["swapped"]["follow"], run.last["full"]]
            mark = "chosen" if record["rate"] == chosen else ""
            lines.append([arm.name, f"{record['rate']:g}", mark, *(f"{c:.3f}" for c in cells)])
    header = ["arm", "backbone's rate", "", "endpoint error", "follows swapped command", "answers, full vocabulary"]
    return markdown_table(header, lines)


def _pretraining(results: Results) -> str:
    cells: Callable[[Mapping[str, Any]], list[str]] = lambda p: [  # noqa: E731
        str(p["seed"]),
        f"{p['full']:.3f}",
        f"{p['masked']:.3f}",
        f"{p['seconds']:.0f}",
    ]
    header = ["seed", "answers, full vocabulary", "answers, masked", "seconds"]
    return markdown_table(header, [cells(p) for p in results["pretraining"]])
