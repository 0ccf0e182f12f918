"""One source of a fit on the command line: what it brings to the corpus, and what the fit does to what it holds out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.cli.progress import labelled
from fast_tokenizer.cli.tables import Result
from fast_tokenizer.cli.workflow import (
    MEASURED_CHUNKS,
    Recording,
    Report,
    sample_chunks,
    split_holdout,
    take_statistics,
    thinned,
)
from fast_tokenizer.cutting import Cut
from fast_tokenizer.fitting import FitOptions, FitPart
from fast_tokenizer.io import Trajectories
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.normalize import NormalizerKind
from fast_tokenizer.statistics import NormalizerStatistics
from fast_tokenizer.tokenizer import FastTokenizer


@dataclass(frozen=True, slots=True, eq=False)
class _Chunks:
    """A source's chunks to fit on, read anew each time."""

    source: Source

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        return self.source.cut.model_chunks(self.source.fitted)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The trajectories of one embodiment, and how they become chunks.

    Attributes:
        recording: Where they come from.
        cut: How they are cut.
        fitted: Those to fit on that have a chunk.
        held: Those to measure on that have one.
        options: `normalize` is the statistics to take.
        name: Of the embodiment, or None.
    """

    recording: Recording
    cut: Cut
    fitted: Trajectories
    held: Trajectories
    options: FitOptions
    name: str | None = None

    @property
    def chunks(self) -> int:
        """Chunks to fit on."""
        return int(self.cut.count(self.fitted.lengths).sum())

    @property
    def available(self) -> int:
        """Those that --max-chunks and --sample-fraction leave."""
        if self.options.sample_fraction is not None:
            return max(1, round(self.options.sample_fraction * self.chunks))
        return self.chunks if self.options.max_chunks is None else min(self.chunks, self.options.max_chunks)

    @property
    def coefficients_of_a_chunk(self) -> int:
        """T * D."""
        return self.cut.horizon * self.recording.action_dim

    def part(self, count: int, report: Report) -> FitPart:
        """So many of the chunks, with the statistics of all. Reads the trajectories for statistics or a sample."""
        if self.options.engine == "ray":
            from fast_tokenizer.distributed import TrajectoryChunks

            return FitPart(TrajectoryChunks(self.fitted, self.cut), self.options, self.name)
        kind = self.options.statistics
        statistics = None if kind is None else NormalizerStatistics()
        chunks: Iterable[NDArray[np.floating]]
        if count < self.chunks:
            sample = sample_chunks(self.fitted, self.cut, count, self.options.seed, statistics, report)
            chunks = (block.values for block in sample.drain())
        else:
            if statistics is not None:
                take_statistics(self.fitted, self.cut, statistics, report)
            chunks = _Chunks(self)
        normalizer = None if kind is None or statistics is None else statistics.normalizer(kind, clip=self.options.clip)
        options = replace(self.options, normalize=normalizer, clip=None, max_chunks=None, sample_fraction=None)
        return FitPart(chunks, options, self.name, left_out=self.chunks - count)


def prepare(
    recording: Recording,
    cut: Cut,
    holdout: float,
    *,
    normalize: str,
    clip: float | None = None,
    name: str | None = None,
    **options: Any,
) -> Source:
    """A source; refuses bad options, and data without a chunk, before anything is read."""
    parts = split_holdout(recording.trajectories, holdout)
    fitted, held = (part.select(cut.count(part.lengths) > 0) for part in parts)
    if not len(fitted):
        raise ValueError(f"none of the {len(parts[0])} episodes to fit on has {cut.shortest} steps")
    kind = None if normalize == "none" else cast(NormalizerKind, str(normalize))
    if kind is None and clip is not None:
        raise ValueError("--clip needs --normalize")
    fit_options = FitOptions(
        normalize=kind,
        clip=clip,
        dimension_names=recording.dimension_names,
        hz=recording.hz,
        relative=cut.relative,
        **options,
    )
    return Source(recording, cut, fitted, held, fit_options, name)


def fit_and_measure(
    recording: Recording,
    cut: Cut,
    holdout: float,
    report: Report,
    *,
    label: str = "",
    **options: Any,
) -> Result:
    """Fits on most episodes, and measures on the others where any is long enough."""
    start = time.perf_counter()
    source = prepare(recording, cut, holdout, **options)

    def told(stage: str, done: int, total: int | None) -> None:
        labelled(report, label)(stage, done, source.available if stage == "quantize" else total)

    part = source.part(source.available, told)
    tokenizer = FastTokenizer.of_parts([part], told)
    return measured(source, tokenizer, time.perf_counter() - start, told)


def measured(source: Source, tokenizer: FastTokenizer, seconds: float, report: Report) -> Result:
    """A fitted tokenizer, measured on the source's held-out episodes, if there are any."""
    on = source.held if len(source.held) else source.fitted
    if source.options.engine == "ray":
        on = thinned(on, source.cut, MEASURED_CHUNKS)
    total = int(source.cut.count(on.lengths).sum())

    def chunks() -> Iterator[NDArray[np.floating]]:
        done = 0
        for block in source.cut.model_chunks(on, gather=True):
            yield block
            done += len(block)
            report("measure", done, total)

    summary = tokenizer.fit_summary
    assert summary is not None
    own = summary.embodiments.get(source.name or "")
    if own is not None:
        summary = replace(
            summary,
            chunks=own.chunks,
            chunks_left_out=own.chunks_left_out,
            coefficients=own.coefficients,
            clipped=own.clipped,
            saturated=own.outside,
        )
    tokenizer = tokenizer if source.name is None else tokenizer.embodiment(source.name)
    quality = evaluate(tokenizer.without_relative(), chunks())  # the state that is added again changes no error
    return Result(
        tokenizer,
        replace(summary, seconds=seconds),
        quality,
        held_out=len(source.held) > 0,
        episodes=source.recording.episodes(source.cut.shortest),
        cut=source.cut,
        lengths=source.recording.trajectories.lengths,
    )
