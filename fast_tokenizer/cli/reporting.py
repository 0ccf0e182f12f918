"""What the command `report` does, from a recording to the page."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fast_tokenizer.cli.files import save_file
from fast_tokenizer.cli.workflow import Recording, Report, split_holdout, take_statistics
from fast_tokenizer.cutting import Cut
from fast_tokenizer.io import Trajectories
from fast_tokenizer.normalize import Normalizer, NormalizerKind
from fast_tokenizer.report.numbers import LEFT_OUT, ReportNumbers, measure
from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.report.rates import DEFAULT_MAX_RMSE, scale_text
from fast_tokenizer.report.sample import Sample, draw_sample
from fast_tokenizer.statistics import NormalizerStatistics
from fast_tokenizer.tokenizer import FastTokenizer

#: The refits take so many times as many chunks as are measured; neither takes more values than this.
_FITTED_PER_MEASURED, _MAX_VALUES = 4, 10_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """How a report is made; the command's help says what each means.

    Raises:
        ValueError: Bad options; no file need be read to say so.
    """

    holdout: float = 0.2
    normalize: NormalizerKind | Literal["none"] = "none"
    max_chunks: int = 2000
    max_rmse: float = DEFAULT_MAX_RMSE

    def __post_init__(self) -> None:
        if self.max_chunks < 1:
            raise ValueError(f"--max-chunks must be positive, got {self.max_chunks}")
        if not self.max_rmse > 0:
            raise ValueError(f"--max-rmse must be positive, got {self.max_rmse}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"--holdout must lie in [0, 1), got {self.holdout}")


def require_matplotlib() -> None:
    """Before any work. Raises ImportError that says how to install it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("the report needs the package matplotlib: pip install 'fast-tokenizer[report]'")


def measure_recording(
    tokenizer: FastTokenizer, fingerprint: str, recording: Recording, cut: Cut, options: Options, report: Report
) -> ReportNumbers:
    """Measures on held-out episodes; on all of them, where none are held out or long enough.

    `fingerprint` is that of the whole artefact, which may have more embodiments. Where actions are relative, relative
    ones are compared: the state that is added again changes no error.

    Raises:
        ValueError: No episode is long enough; or the tokenizer does not take the data.
    """
    kind = None if options.normalize == "none" else options.normalize
    if kind is not None and tokenizer.spec.normalizer is not None:
        raise ValueError(f"--normalize {kind}: the tokenizer normalises by itself ({tokenizer.spec.normalizer.kind})")
    parts = split_holdout(recording.trajectories, options.holdout)
    others, held = (part.select(cut.count(part.lengths) > 0) for part in parts)
    separate = len(others) > 0 and len(held) > 0
    if not separate:
        others = held = recording.trajectories.select(cut.count(recording.trajectories.lengths) > 0)
    if not len(held):
        raise ValueError(f"none of the {len(recording.trajectories)} episodes has {cut.shortest} steps")

    def drawn(stage: str, trajectories: Trajectories, most: int) -> Sample:
        bounded = max(1, min(most, _MAX_VALUES // (cut.horizon * recording.action_dim)))
        return draw_sample(trajectories, cut, bounded, progress=lambda done, total: report(stage, done, total))

    before = None if kind is None else _normalizer(others, cut, kind, report)
    sample = drawn("draw chunks", held, options.max_chunks)
    fitted = drawn("draw chunks to refit on", others, options.max_chunks * _FITTED_PER_MEASURED) if separate else sample
    numbers = measure(
        Pipeline(tokenizer.without_relative(), before),
        sample,
        fitted,
        measured_on=LEFT_OUT if separate else "given episodes",
        hz=recording.hz,
        dimension_names=recording.dimension_names,
        max_rmse=options.max_rmse,
        progress=report,
    )
    return replace(numbers, about=replace(numbers.about, fingerprint=fingerprint))


def _normalizer(trajectories: Trajectories, cut: Cut, kind: NormalizerKind, report: Report) -> Normalizer:
    statistics = NormalizerStatistics()
    take_statistics(trajectories, cut, statistics, report)
    return statistics.normalizer(kind)


def notes(recording: Recording, cut: Cut) -> list[str]:
    """What the page says of the data: what was left out or filled, and what is relative."""
    counts, lengths = recording.episodes(cut.shortest), recording.trajectories.lengths
    found = counts.lines().splitlines() if counts.left_out else []
    if cut.episode_end != "drop":
        found.append(cut.line(lengths))
    if cut.relative is not None:
        dimensions = ", ".join(map(str, cut.relative.dimensions))
        found.append(f"Dimensions {dimensions} are relative to the state at a chunk's start, here and in the figures.")
    return found


def write(
    numbers: ReportNumbers, title: str, notes: list[str], output: Path, figures: Path | None, report: Report
) -> dict[str, Any]:
    """Draws, and writes the page and the figures. Returns where they are."""
    from fast_tokenizer.report.figures import draw, save_pngs
    from fast_tokenizer.report.page import render

    report("draw figures", 0, None)
    pictures = draw(numbers)
    page = render(numbers, pictures, title=title, notes=notes).encode()
    save_file(output, lambda file: file.write(page))
    files = [] if figures is None else save_pngs(pictures, figures)
    return {"output": str(output), "figures": [str(file) for file in files]}


def summary(numbers: ReportNumbers) -> str:
    """The page in a few lines."""
    h, scale = numbers.reconstruction.headline, numbers.scale
    suggested = "scale none" if scale.scale is None else scale_text(scale.scale, numbers.rates.factors)
    lost = "" if scale.scale is None else f"; {scale.lost:,} coefficients lost to saturation"
    lines = [
        f"Measured on {h.chunks:,} chunks of {numbers.about.measured_on}",
        f"  tokens a chunk   {h.mean_token_length:.1f} (median {h.p50_token_length:g}, 99 % {h.p99_token_length:.0f}, "
        f"most {h.max_token_length}), {h.compression_ratio:.1f} x fewer than values",
        f"  error, normal.   RMSE {h.reconstruction_rmse:.4f}, largest {h.reconstruction_max_abs_error:.3f}",
        f"  worst chunk      {numbers.reconstruction.worst.place}",
        f"  lost             {h.saturated:,} coefficients saturated, {h.dropped:,} dropped; "
        f"{h.clipped:,} values clipped",
        f"  suggested        {suggested} (the smallest tried with RMSE {scale.max_rmse:g}{lost}); "
        f"max length {numbers.max_len.recommended}",
    ]
    return "\n".join(lines)
