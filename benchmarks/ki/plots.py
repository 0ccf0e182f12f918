"""Pictures: retention against control, curves, steps to the threshold, gradients by flow time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ki.arms import ARMS
from benchmarks.ki.records import Runs
from benchmarks.ki.statistics import mean_interval

mpl.use("Agg")

#: Of the axis of curves: the untrained expert's error is far above all that matters.
HIGHEST_ERROR = 0.9

_FAMILIES = {"pi0": "tab:gray", "joint": "tab:red", "KI": "tab:blue", "frozen": "tab:green"}
_MARKERS = {(False, False): "o", (True, False): "s", (False, True): "^", (True, True): "D"}


def style(arm: str) -> dict[str, Any]:
    """Colour by what the flow loss may change, marker and line by questions and binning."""
    family = arm.split("+")[0].split(",")[0]
    vqa, binning = "+VQA" in arm, "binning" in arm
    lines = {(False, False): "-", (True, False): "--", (False, True): ":", (True, True): "-."}
    return {"color": _FAMILIES[family], "marker": _MARKERS[vqa, binning], "linestyle": lines[vqa, binning]}


def draw(results: Mapping[str, Any], runs: Runs, folder: Path) -> list[Path]:
    """Writes the pictures."""
    figures = {
        "ki-pareto": pareto(results, runs),
        "ki-curves": curves(runs),
        "ki-threshold": thresholds(runs, results["settings"]["steps"]),
        "ki-gradients": gradients(runs),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=90, bbox_inches="tight", pil_kwargs={"optimize": True})
        plt.close(figure)
    return paths


def _arms(runs: Runs) -> list[str]:
    return [arm.name for arm in ARMS if arm.name in runs.arms]


def pareto(results: Mapping[str, Any], runs: Runs) -> Figure:
    """Answers kept against endpoint error and against commands followed; small: the rates that were swept."""
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for panel, (measurement, label) in zip(
        panels,
        (("error", "endpoint error (left is better)"), ("swapped_follow", "follows swapped command")),
        strict=True,
    ):
        for arm in _arms(runs):
            x, y = (mean_interval(runs.values(arm, m)) for m in (measurement, "full"))
            look = style(arm) | {"linestyle": "none"}
            ends = [[v.mean - v.low] if np.isfinite(v.low) else [0] for v in (x, y)]
            panel.errorbar(x.mean, y.mean, xerr=ends[0], yerr=ends[1], label=arm, capsize=3, markersize=8, **look)
            swept = [r for r in results["sweep"] if r["arm"] == arm]
            at = [r["curve"][-1]["error"] if measurement == "error" else r["swapped"]["follow"] for r in swept]
            panel.plot(at, [r["curve"][-1]["full"] for r in swept], markersize=3, alpha=0.6, **look)
        panel.set(xlabel=label, ylabel="answers, full vocabulary", ylim=(-0.05, 1.05))
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    return figure


def curves(runs: Runs) -> Figure:
    """Means over the seeds by step, and by time."""
    figure, panels = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    for row, clock in zip(panels, ("step", "seconds"), strict=True):
        for panel, (name, label) in zip(
            row,
            (("full", "answers, full vocabulary"), ("error", "endpoint error"), ("follow", "follows any command")),
            strict=True,
        ):
            for arm in _arms(runs):
                x = np.mean([run.column(clock) for run in runs[arm]], axis=0)
                y = np.array([run.column(name) for run in runs[arm]])
                look = style(arm)
                panel.plot(x, y.mean(axis=0), label=arm, markersize=3, **look)
                panel.fill_between(x, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.06)
            panel.set(xlabel="steps" if clock == "step" else "seconds of processor time in steps", ylabel=label)
            panel.grid(alpha=0.3)
            if name == "error":
                panel.axhline(runs.threshold, color="black", linewidth=0.7)
                panel.set_ylim(0, HIGHEST_ERROR)
    _legend_outside(figure, panels[0, 0])
    return figure


def _legend_outside(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)


def thresholds(runs: Runs, steps: int) -> Figure:
    """Each seed's steps to the threshold; an open arrow: not reached."""
    arms = _arms(runs)
    figure, panel = plt.subplots(figsize=(9, 0.45 * len(arms) + 1.5), layout="constrained")
    for place, arm in enumerate(arms):
        reached = [run.reached(runs.threshold) for run in runs[arm]]
        spread = place + np.linspace(-0.25, 0.25, len(reached))
        color = style(arm)["color"]
        for y, r in zip(spread, reached, strict=True):
            panel.plot(
                r.at, y, marker=">" if r.censored else "o", color=color, markerfacecolor="none" if r.censored else color
            )
    panel.set_yticks(range(len(arms)), arms)
    panel.set(
        xlabel=f"steps to an endpoint error of {runs.threshold:g}; arrows: not reached in {steps}",
        xlim=(0, steps * 1.05),
    )
    panel.invert_yaxis()
    panel.grid(alpha=0.3)
    return figure


def gradients(runs: Runs) -> Figure:
    """Signal to noise and cosine by flow time, and of the action tokens, for each time they were taken."""
    arms = _arms(runs)
    shifts = dict(zip(arms, np.linspace(-0.035, 0.035, len(arms)), strict=True))  # else the bars cover each other
    stages = [taken["step"] for taken in runs[arms[0]][0].record["gradients"]]
    figure, panels = plt.subplots(
        2, max(1, len(stages)), figsize=(7 * max(1, len(stages)), 9), squeeze=False, layout="constrained"
    )
    for i, step in enumerate(stages):
        for row, (name, label) in enumerate((("ratio", "signal to noise"), ("cosine", "cosine with questions"))):
            for arm in arms:
                taken = [run.record["gradients"][i]["losses"] for run in runs[arm]]
                _by_time(panels[row, i], taken, name, arm, shifts[arm])
            panels[row, i].set(
                title=f"after step {step}", ylabel=label, xlabel="flow time t (1 is noise); right: action tokens"
            )
            panels[row, i].axhline(0, color="black", linewidth=0.7)
            panels[row, i].grid(alpha=0.3)
    if stages:
        _legend_outside(figure, panels[0, 0])
    return figure


def _by_time(panel: Axes, losses: Sequence[Mapping[str, Any]], name: str, arm: str, shift: float) -> None:
    times = [key for key in losses[0] if key.startswith("flow")]
    at = [float(key.rsplit(" ", 1)[1]) + shift for key in times]
    intervals = [mean_interval([each[key][name] for each in losses]) for key in times]
    tokens = mean_interval([each["action tokens"][name] for each in losses])
    half = [v.high - v.mean if np.isfinite(v.high) else 0 for v in (*intervals, tokens)]
    look = style(arm)
    panel.errorbar(at, [v.mean for v in intervals], yerr=half[:-1], label=arm, markersize=4, capsize=2, **look)
    panel.errorbar(
        [1.15 + shift], [tokens.mean], yerr=half[-1:], markersize=4, capsize=2, **(look | {"linestyle": "none"})
    )
