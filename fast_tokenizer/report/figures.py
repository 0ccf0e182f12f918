"""The figures of a report, drawn with matplotlib: as PNG files, and as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fast_tokenizer.report.numbers import ReportNumbers
from fast_tokenizer.report.picture import INK, Picture, as_element, style
from fast_tokenizer.report.rates import NAIVE, NATIVE, PUBLISHED, scale_text
from fast_tokenizer.report.reconstruction import ChunkExample

_OURS, _THEIRS, _PLAIN, _ALERT = "#2f7fd6", "#e08a1e", "#8b939e", "#d6455d"
_METHODS = {NATIVE: (_OURS, "o"), PUBLISHED: (_THEIRS, "s"), NAIVE: (_PLAIN, "^")}

_SIZE = (5.6, 3.5)
#: Dimensions of a chunk that are drawn, at most: those with the largest errors.
_SHOWN_DIMENSIONS = 8
#: Normalised units that a panel of a chunk shows, at least.
_LEAST_SPAN = 0.2


def draw(numbers: ReportNumbers) -> dict[str, Picture]:
    """All figures of a report, by name, in the order of the page."""
    pictures = {}
    with style():
        for name, (title, drawer) in _FIGURES.items():
            figure = drawer(numbers)
            if figure is not None:
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # once is enough, and takes as long as drawing
                pictures[name] = Picture(name, title, as_element(figure, name), figure)
    return pictures


def save_pngs(pictures: Mapping[str, Picture], folder: Path) -> list[Path]:
    """Writes them as `folder/NAME.png`; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for picture in pictures.values():
        files.append(folder / f"{picture.name}.png")
        files[-1].write_bytes(picture.png())
    return files


def _panel(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    return figure, figure.add_subplot()


def _log_if_positive(axis: str, panel: Axes, *values: Any) -> None:
    """Logarithmic where there is something to show so; an error of 0 has no logarithm."""
    if all(np.size(v) and np.min(v) > 0 for v in values):
        getattr(panel, f"set_{axis}scale")("log")
        _label_log(getattr(panel, f"{axis}axis"))


def _label_log(axis: Axis) -> None:
    """Ticks at 1, 2, 5 of each decade, as plain numbers: the ranges here are often shorter than a decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e5 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def _at_least(panel: Axes, span: float) -> None:
    """Widens the y axis to a span: what hardly moves shall not look as if it did."""
    low, high = panel.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        panel.set_ylim(middle - span / 2, middle + span / 2)


# ---- The figures -------------------------------------------------------------------------------------


def _rates(numbers: ReportNumbers, what: str, label: str) -> Figure:
    rates = numbers.rates
    figure, panel = _panel((5.6, 4.0))
    errors, costs = [], []
    for name, (colour, marker) in _METHODS.items():
        points = rates.curve(name).points
        x, y = [getattr(p, what) for p in points], [p.reconstruction_rmse for p in points]
        panel.plot(x, y, color=colour, marker=marker, label=name)
        errors += y
        costs += x
    own = rates.tokenizer
    panel.plot(
        [getattr(own, what)],
        [own.reconstruction_rmse],
        "*",
        color=_ALERT,
        markersize=13,
        label="this tokenizer" if rates.factors else f"this tokenizer, {scale_text(own.setting, False)}",
    )
    for point in rates.curve(NATIVE).points:
        panel.annotate(
            f"{point.setting:g}",
            (getattr(point, what), point.reconstruction_rmse),
            xytext=(-4, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=_OURS,
        )
    _log_if_positive("x", panel, costs)
    _log_if_positive("y", panel, errors, own.reconstruction_rmse)
    panel.margins(x=0.08)
    panel.set(xlabel=label, ylabel="RMSE, normalised")
    panel.legend()
    return figure


def _rate_tokens(numbers: ReportNumbers) -> Figure:
    return _rates(numbers, "mean_token_length", "tokens a chunk")


def _rate_bits(numbers: ReportNumbers) -> Figure:
    return _rates(numbers, "bits_per_chunk", "bits a chunk (tokens x log2 of the vocabulary)")


def _spectrum(numbers: ReportNumbers) -> Figure:
    s = numbers.spectrum
    figure, panel = _panel()
    for d in range(s.actions_by_dimension.shape[1]):
        panel.plot(s.frequency, s.actions_by_dimension[:, d], color=_PLAIN, linewidth=0.6, alpha=0.5)
    panel.plot(s.frequency, s.actions, color=_OURS, marker=".", label="actions, all dimensions")
    panel.plot(s.frequency, s.errors, color=_ALERT, label="error after decoding")
    panel.plot(s.frequency, s.rounding, color=INK, linewidth=1.4, linestyle=":", label="error of rounding alone")
    positive = s.actions_by_dimension[s.actions_by_dimension > 0]
    if positive.size:
        panel.set_yscale("log", nonpositive="mask")
        shown = [*s.rounding[s.rounding > 0], *s.actions[s.actions > 0]]
        panel.set_ylim(min(shown) / 30, max(shown) * 5)  # a dimension that never moves would stretch it without end
    panel.set(xlabel="frequency, Hz" if s.in_hz else "frequency, cycles a step", ylabel="mean square, normalised")
    panel.legend(loc="upper right")
    return figure


def _token_lengths(numbers: ReportNumbers) -> Figure:
    lengths, headline = numbers.reconstruction.token_lengths, numbers.reconstruction.headline
    figure, panel = _panel()
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // 50))
    panel.hist(lengths, bins=(np.arange(low, high + width + 1, width) - 0.5).tolist(), color=_OURS)
    for value, name, dashes in (
        (headline.p50_token_length, "median", "-"),
        (headline.p99_token_length, "99th percentile", "--"),
        (headline.max_token_length, "most", ":"),
    ):
        panel.axvline(value, color=INK, linewidth=1.2, linestyle=dashes, label=f"{name} {value:.0f}")
    panel.set(xlabel="tokens a chunk", ylabel="chunks")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _token_ranks(numbers: ReportNumbers) -> Figure:
    usage = numbers.usage
    counts = np.sort(usage.counts[usage.counts > 0])[::-1] / usage.counts.sum()
    figure, panel = _panel()
    panel.plot(np.arange(1, len(counts) + 1), counts, color=_OURS, label=f"{usage.ids_used:,} ids used")
    panel.axhline(1 / usage.vocab_size, color=INK, linewidth=1, linestyle=":", label="all equally frequent")
    panel.axvline(usage.vocab_size, color=_PLAIN, linewidth=1.2, linestyle="--", label=f"{usage.vocab_size:,} ids")
    panel.set(xscale="log", yscale="log", xlabel="rank of the id", ylabel="share of all tokens")
    panel.legend()
    return figure


def _expansion_lengths(numbers: ReportNumbers) -> Figure:
    usage = numbers.usage
    figure, panel = _panel()
    longest = max(2, int(usage.expansion_lengths.max()))
    edges = np.unique(np.concatenate([np.arange(9), np.geomspace(8, longest + 1, 20).astype(int), [longest + 1]]))
    in_vocabulary, _ = np.histogram(usage.expansion_lengths, edges)
    in_tokens, _ = np.histogram(usage.expansion_lengths, edges, weights=usage.counts)
    at = np.arange(len(edges) - 1)
    panel.bar(at - 0.2, in_vocabulary / in_vocabulary.sum(), 0.4, color=_PLAIN, label="of the vocabulary's ids")
    panel.bar(at + 0.2, in_tokens / in_tokens.sum(), 0.4, color=_OURS, label="of the tokens of these chunks")
    labels = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(edges.tolist())]
    panel.set_xticks(at, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    panel.set(xlabel="symbols that a token stands for", ylabel="share")
    panel.grid(visible=False, axis="x")
    panel.legend()
    return figure


def _entropy(numbers: ReportNumbers) -> Figure:
    bounds = numbers.entropy_tokens
    figure, panel = _panel((5.6, 2.4))
    bars = (
        ("this tokenizer", numbers.reconstruction.headline.mean_token_length, _OURS),
        ("order 0", bounds.order_0, _PLAIN),
        ("per frequency\nand dimension", bounds.per_place, _PLAIN),
        ("adaptive context", bounds.context, _PLAIN),
    )
    at = np.arange(len(bars))
    panel.barh(at, [tokens for _, tokens, _ in bars], 0.6, color=[colour for *_, colour in bars])
    for place, (_, tokens, _) in zip(at, bars, strict=True):
        panel.annotate(
            f"{tokens:.1f}", (tokens, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    panel.set_yticks(at, [name for name, *_ in bars])
    panel.margins(x=0.12)
    panel.set(ylim=(len(bars) - 0.5, -0.5), xlabel="tokens a chunk", xlim=(0, None))
    panel.grid(visible=False, axis="y")
    return figure


def _chunk(numbers: ReportNumbers, chunk: ChunkExample) -> Figure:
    """The dimensions with the largest errors, recorded and decoded."""
    horizon, dims = chunk.recorded.shape
    shown = np.sort(np.argsort(-chunk.normalized_errors, kind="stable")[:_SHOWN_DIMENSIONS])
    columns = 1 if len(shown) == 1 else 2
    rows = -(-len(shown) // columns)
    hz = numbers.about.hz
    time = np.arange(horizon) / (hz or 1)
    figure = Figure(figsize=(5.6, 1.0 + 1.45 * rows))
    for i, d in enumerate(shown.tolist()):
        panel = figure.add_subplot(rows, columns, i + 1)
        marker = "." if horizon <= 30 else ""
        panel.plot(time, chunk.recorded[:, d], color=_PLAIN, linewidth=3, label="recorded")
        panel.plot(time, chunk.decoded[:, d], color=_OURS, linewidth=1.3, marker=marker, label="decoded")
        _at_least(panel, _LEAST_SPAN * float(chunk.half_range[d]))
        worst = d == chunk.dimension and chunk.max_abs_error > 0
        panel.set_title(_short(numbers.about.dimension_names[d]), color=_ALERT if worst else INK)
        if i >= len(shown) - columns:
            panel.set_xlabel("step" if hz is None else "seconds")
        if i == 0:
            handles, labels = panel.get_legend_handles_labels()
    note = f"{len(shown)} of {dims} dimensions: those with the largest errors" if len(shown) < dims else None
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure


def _typical_chunk(numbers: ReportNumbers) -> Figure:
    return _chunk(numbers, numbers.reconstruction.typical)


def _worst_chunk(numbers: ReportNumbers) -> Figure:
    return _chunk(numbers, numbers.reconstruction.worst)


def _worst_episode(numbers: ReportNumbers) -> Figure:
    """The worst chunk's dimensions with the largest errors, with its neighbours in time."""
    episode, worst, hz = numbers.episode, numbers.reconstruction.worst, numbers.about.hz
    length, dims = episode.recorded.shape
    horizon = numbers.about.time_horizon
    shown = np.argsort(-worst.normalized_errors, kind="stable")[: min(3, dims)]
    time = (episode.first_step + np.arange(length)) / (hz or 1)
    figure = Figure(figsize=(5.6, 0.9 + 1.5 * len(shown)))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    end = min(episode.worst_step + horizon, length - 1)
    for panel, d in zip(panels, shown.tolist(), strict=True):
        panel.axvspan(time[episode.worst_step], time[end], color=_ALERT, alpha=0.15, linewidth=0, label="worst chunk")
        for join in range(horizon, length, horizon):
            panel.axvline(time[join], color=_PLAIN, linewidth=0.8, linestyle=":")
        panel.plot(time, episode.recorded[:, d], color=_PLAIN, linewidth=3, label="recorded")
        panel.plot(time, episode.decoded[:, d], color=_OURS, linewidth=1.3, label="decoded")
        _at_least(panel, _LEAST_SPAN * float(worst.half_range[d]))
        panel.set_title(_short(numbers.about.dimension_names[d]))
        panel.grid(visible=False, axis="x")
    panels[-1].set_xlabel("step of the episode" if hz is None else "seconds from the episode's start")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure


def _dimension_errors(numbers: ReportNumbers) -> Figure:
    dimensions = numbers.reconstruction.dimensions
    figure, panel = _panel((5.6, 1.4 + 0.24 * len(dimensions)))
    at = np.arange(len(dimensions))
    series = (
        ([d.rmse for d in dimensions], "RMSE", _OURS, "o"),
        ([d.p99_abs_error for d in dimensions], "99th percentile", _THEIRS, "s"),
        ([d.max_abs_error for d in dimensions], "largest", _ALERT, "D"),
    )
    low, high = np.array(series[0][0]), np.array(series[2][0])
    panel.hlines(at, low, high, color=_PLAIN, linewidth=1.2)
    for values, name, colour, marker in series:
        panel.plot(values, at, marker, color=colour, label=name)
    if (low > 0).any():
        panel.set_xscale("log", nonpositive="mask")
        _label_log(panel.xaxis)
    panel.set_yticks(at, [_short(d.name) for d in dimensions])
    panel.set_ylim(len(dimensions) - 0.5, -0.5)
    panel.set_xlabel("absolute error, normalised")
    panel.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _prefix_errors(numbers: ReportNumbers) -> Figure | None:
    if numbers.prefix is None:
        return None
    curve = numbers.prefix.by_fraction
    figure, panel = _panel()
    share = 100 * curve.at
    panel.plot(share, curve.actions_rmse, color=_OURS, marker=".", label="RMSE to the recorded actions")
    panel.plot(share, curve.decoded_rmse, color=_OURS, linestyle="--", label="RMSE to all tokens decoded")
    panel.plot(share, curve.actions_max_abs_error, color=_ALERT, marker=".", label="largest error to the recorded")
    if (curve.actions_rmse > 0).any():
        panel.set_yscale("log", nonpositive="mask")
        _label_log(panel.yaxis)
    panel.set(xlabel="share of a chunk's tokens that were read, %", ylabel="error, normalised")
    panel.legend()
    return figure


def _losses(numbers: ReportNumbers) -> Figure | None:
    dimensions = numbers.reconstruction.dimensions
    if not any(d.saturated or d.clipped for d in dimensions):
        return None
    figure, panel = _panel((5.6, 1.4 + 0.24 * len(dimensions)))
    at = np.arange(len(dimensions))
    panel.barh(at - 0.2, [d.saturated for d in dimensions], 0.4, color=_ALERT, label="saturated coefficients")
    panel.barh(at + 0.2, [d.clipped for d in dimensions], 0.4, color=_THEIRS, label="clipped values")
    panel.set_yticks(at, [_short(d.name) for d in dimensions])
    panel.set_ylim(len(dimensions) - 0.5, -0.5)
    panel.set_xlabel("count")
    panel.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _edits(numbers: ReportNumbers) -> Figure | None:
    results = numbers.edits.results
    if not results:
        return None
    figure, panel = _panel((5.6, 3.0))
    at = np.arange(len(results))
    found = np.array([100 * r.found_share for r in results])
    panel.barh(at, found, 0.6, color=_OURS, label="found by strict decoding")
    panel.barh(at, 100 - found, 0.6, left=found, color=_ALERT, label="taken for well-formed")
    panel.set_yticks(at, [r.harm for r in results])
    panel.set(xlim=(0, 100), ylim=(len(results) - 0.5, -0.5), xlabel="share of the sequences, %")
    panel.grid(visible=False, axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _printable(text: str) -> str:
    """As it is, without mathematics."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")


def _short(name: str, most: int = 28) -> str:
    return _printable(name if len(name) <= most else f"{name[: most - 3]}...")


_FIGURES: Mapping[str, tuple[str, Callable[[ReportNumbers], Figure | None]]] = {
    "rate_tokens": ("Tokens against error", _rate_tokens),
    "rate_bits": ("Bits against error", _rate_bits),
    "spectrum": ("Energy by frequency", _spectrum),
    "token_lengths": ("Tokens a chunk", _token_lengths),
    "token_ranks": ("How often each id occurs", _token_ranks),
    "expansion_lengths": ("What tokens stand for", _expansion_lengths),
    "entropy": ("Tokens against entropy", _entropy),
    "typical_chunk": ("A typical chunk", _typical_chunk),
    "worst_chunk": ("The worst chunk", _worst_chunk),
    "worst_episode": ("Around the worst chunk", _worst_episode),
    "dimension_errors": ("Error of each dimension", _dimension_errors),
    "prefix_errors": ("Error after the first tokens", _prefix_errors),
    "losses": ("Saturation and clipping", _losses),
    "edits": ("One wrong id", _edits),
}
