"""Pictures of results: cost against N, T, D and V, and the time of encoding's stages against the memory's limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from benchmarks import growth
from benchmarks.rows import PUBLISHED, Row

mpl.use("Agg")

AXIS_LABELS = {"N": "chunks N", "T": "horizon T", "D": "dimensions D", "V": "vocabulary V"}
#: Seconds of what: over N of everything, otherwise of one chunk. The fit is always of everything.
UNIT = {True: "seconds", False: "seconds a chunk"}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes the pictures whose rows are there."""
    by_question = {name: [r for r in rows if r.question == name and not r.problem] for name in ("growth", "stages")}
    drawn = []
    for name, picture in (("growth", _growth), ("stages", _stages)):
        if by_question[name]:
            figure = picture(by_question[name])
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close(figure)
            drawn.append(folder / f"{name}.png")
    return drawn


def _growth(rows: Sequence[Row]) -> plt.Figure:
    """A row of panels a stage, a column an axis; both scales logarithmic, so that an exponent is a slope."""
    figure, panels = plt.subplots(3, 4, figsize=(16, 10), squeeze=False, layout="constrained")
    place = {(stage, axis): panels[i][j] for i, stage in enumerate(growth.STAGES) for j, axis in enumerate(growth.AXES)}
    for axis, stage, name, x, y in growth.curves(rows):
        exponent = growth.fitted_exponent(x, y) if x else float("nan")
        style = "--" if name.startswith(PUBLISHED) else "-"
        place[stage, axis].plot(x, y, style, marker="o", markersize=3, label=f"{name}: {axis}^{exponent:.2f}")
    for (stage, axis), panel in place.items():
        _label(panel, stage, axis)
    return figure


def _label(panel: Axes, stage: str, axis: str) -> None:
    panel.set(xscale="log", yscale="log", title=stage, xlabel=AXIS_LABELS[axis])
    panel.xaxis.set_minor_formatter(NullFormatter())  # else they overlap on a short axis
    panel.set_ylabel(UNIT[axis == "N" or stage == "fit"])
    panel.grid(alpha=0.3)
    if panel.lines:
        panel.legend(fontsize=7)


def _stages(rows: Sequence[Row]) -> plt.Figure:
    """Three bars a workload, nanoseconds a symbol, and a line where the memory's limit is."""
    figure, panel = plt.subplots(figsize=(9, 0.7 * len(rows) + 1.5), layout="constrained")
    for i, stage in enumerate(("encode", "dct", "bpe")):
        at = [place + (i - 1) * 0.25 for place in range(len(rows))]
        panel.barh(at, [_per_symbol(row, stage) for row in rows], height=0.22, label=stage)
    limits = [_per_symbol(row, "limit") for row in rows]
    panel.scatter(limits, range(len(rows)), marker="|", s=900, color="black", label="reading the chunks once", zorder=3)
    panel.set_yticks(range(len(rows)), [row.workload for row in rows])
    panel.set(xlabel="nanoseconds a symbol, one thread", xscale="log")
    panel.invert_yaxis()
    panel.legend()
    return figure


def _per_symbol(row: Row, stage: str) -> float:
    return row.figures[stage] / (row.figures["bytes_per_chunk"] / 4) * 1e9
