"""Tokens against error, over scales: this library's fit, the published fit, and naive binning, on the same chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: Scales that are tried, as factors on the tokenizer's own.
SCALE_FACTORS = (0.125, 0.175, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
#: Bins a value that naive binning is tried with.
BINS = (16, 32, 64, 128, 256, 512, 1024)

#: The error that the suggested scale keeps to, if none is given: 1 % of the range [-1, 1].
DEFAULT_MAX_RMSE = 0.02

NATIVE, PUBLISHED, NAIVE = "fast_tokenizer, refitted", "published fit", "naive binning"


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One setting of one method.

    Attributes:
        setting: The scale; a factor on the tokenizer's scales, where it has one per dimension (of its refits and of
            itself: `RateDistortion.factors`); or the number of bins.
        mean_token_length: Tokens of a chunk.
        bits_per_chunk: Tokens times log2 of the vocabulary's size.
        reconstruction_rmse: In normalised units.
        reconstruction_max_abs_error: In normalised units.
        lost: Coefficients that saturated, or that a published vocabulary has no ids for; of naive binning, values
            outside the bins. They are what rounding alone does not explain of the error.
    """

    setting: float
    mean_token_length: float
    bits_per_chunk: float
    reconstruction_rmse: float
    reconstruction_max_abs_error: float
    lost: int


@dataclass(frozen=True, slots=True)
class RateCurve:
    """One method, from coarse to fine.

    Attributes:
        name: Which.
        points: One a setting that could be measured.
        left_out: Why others could not.
    """

    name: str
    points: tuple[RatePoint, ...]
    left_out: tuple[str, ...] = ()

    def at(self, setting: float) -> RatePoint | None:
        """The point of a setting, where there is one."""
        return next((p for p in self.points if p.setting == setting), None)


@dataclass(frozen=True, slots=True)
class RateDistortion:
    """The curves, each measured on the same chunks.

    Attributes:
        curves: Of this library's fit, of the published fit, of naive binning.
        tokenizer: The tokenizer of the report itself.
        vocab_size: Ids of every fitted vocabulary, at most.
        fitted_chunks: Chunks that each point was fitted on.
        measured_chunks: Chunks that each was measured on.
        separate_episodes: Whether those lie in other episodes.
        factors: Whether the tokenizer has one scale per dimension: its settings are factors on them.
    """

    curves: tuple[RateCurve, ...]
    tokenizer: RatePoint
    vocab_size: int
    fitted_chunks: int
    measured_chunks: int
    separate_episodes: bool
    factors: bool = False

    def curve(self, name: str) -> RateCurve:
        """By name."""
        return next(c for c in self.curves if c.name == name)


def rate_distortion(
    pipeline: Pipeline,
    fitted: NDArray[np.floating],
    measured: NDArray[np.floating],
    *,
    separate_episodes: bool,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RateDistortion:
    """Fits at every scale, and measures.

    This library's refits have the tokenizer's coding options, those of a published tokenizer the defaults. All methods
    see the actions as the pipeline's normaliser gives them, clipping included; errors are of the actions as they were
    recorded.

    Args:
        pipeline: Its scale, vocabulary size and normaliser are those of the refits.
        fitted: (M, T, D) to fit on, in recorded units.
        measured: (N, T, D) to measure on, in recorded units.
        separate_episodes: Whether the two come from different episodes.
        progress: Told how many points are done.
    """
    sweep = _Sweep(pipeline, fitted, measured, progress)
    tokens = pipeline.encode(measured)
    decoded, _ = pipeline.decode(tokens, *measured.shape[1:])
    error = (decoded - measured) * pipeline.unit(measured.shape[2])
    return RateDistortion(
        curves=(sweep.fits(NATIVE), sweep.fits(PUBLISHED), sweep.bins()),
        tokenizer=_encoded_point(sweep.setting(NATIVE, 1.0), tokens, pipeline.tokenizer.vocab_size, error),
        vocab_size=pipeline.tokenizer.vocab_size,
        fitted_chunks=len(fitted),
        measured_chunks=len(measured),
        separate_episodes=separate_episodes,
        factors=sweep.factors,
    )


class _Sweep:
    """What all methods are fitted and measured on, and how many points are done."""

    def __init__(
        self,
        pipeline: Pipeline,
        fitted: NDArray[np.floating],
        measured: NDArray[np.floating],
        progress: Callable[[int, int], None],
    ) -> None:
        self._tokenizer = pipeline.tokenizer
        self.own = np.atleast_1d(np.asarray(pipeline.tokenizer.spec.scale, np.float64))
        self._inputs, self._held = _normalized_inputs(pipeline, fitted), _normalized_inputs(pipeline, measured)
        self._target = pipeline.normalized(measured)
        self._alive = pipeline.unit(measured.shape[2]) > 0  # a constant dimension has no unit to measure in
        self.factors = len(self.own) > 1
        self._progress, self._done = progress, 0

    def fits(self, name: str) -> RateCurve:
        """A fit at every scale."""
        points, left_out = [], []
        for factor in SCALE_FACTORS:
            setting = self.setting(name, factor)
            scales = self._scaled(factor) if self.factors and name == NATIVE else np.array([setting])
            try:
                tokenizer = _refitted(self._tokenizer, name, self._inputs, scales)
            except ValueError as problem:  # such as a vocabulary with no room for the symbols
                reason = str(problem).split(";")[0]  # then follows what its user could do, who is not there
                left_out.append(f"{scale_text(setting, self.factors and name == NATIVE)}: {reason}")
            else:
                tokens = tokenizer.encode(self._held)
                decoded, _ = tokenizer.decode_with_status(tokens, *self._held.shape[1:])
                error = (decoded - self._target) * self._alive
                points.append(_encoded_point(setting, tokens, tokenizer.vocab_size, error))
            self._step()
        return RateCurve(name, tuple(points), tuple(left_out))

    def bins(self) -> RateCurve:
        """Naive binning at every number of bins."""
        low, high = self._inputs.min(axis=(0, 1)), self._inputs.max(axis=(0, 1))
        outside = int(((self._held < low) | (self._held > high)).sum())
        values = self._held.shape[1] * self._held.shape[2]
        points = []
        for bins in BINS:
            error = (_binned(self._held, low, high, bins) - self._target) * self._alive
            points.append(_point(bins, values, values * math.log2(bins), error, outside))
            self._step()
        return RateCurve(NAIVE, tuple(points))

    def setting(self, name: str, factor: float) -> float:
        """Of a method's point: the published fit takes one scale, around the mean of the tokenizer's."""
        if self.factors and name == NATIVE:
            return factor
        mean = float(self.own.mean())
        return mean if factor == 1 else float(f"{mean * factor:.3g}")

    def _scaled(self, factor: float) -> NDArray[np.float64]:
        return self.own if factor == 1 else np.array([float(f"{s * factor:.3g}") for s in self.own])

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done, 2 * len(SCALE_FACTORS) + len(BINS))


def scale_text(setting: float, factors: bool) -> str:
    """A setting in words.

    Example:
        >>> scale_text(10.0, False), scale_text(0.7, True)
        ('scale 10', 'x 0.7 of its scales')
    """
    return f"x {setting:g} of its scales" if factors else f"scale {setting:g}"


def _normalized_inputs(pipeline: Pipeline, chunks: NDArray[np.floating]) -> NDArray[np.float64]:
    """As a tokenizer without a normaliser would get them: clipped where the normaliser clips."""
    if pipeline.normalizer is None:
        return np.asarray(chunks, np.float64)
    return pipeline.normalizer.apply(chunks)


def _refitted(
    tokenizer: FastTokenizer, name: str, inputs: NDArray[np.float64], scales: NDArray[np.float64]
) -> FastTokenizer:
    """With the same number of ids and the same coding, at another scale, on normalised chunks."""
    spec = tokenizer.spec
    scale = float(scales[0]) if len(scales) == 1 else scales.tolist()
    if name == PUBLISHED:
        return FastTokenizer.fit(inputs, spec.vocab_size, scale, compat="published")
    if not isinstance(spec, TokenizerSpec):
        return FastTokenizer.fit(inputs, spec.vocab_size, scale)
    return FastTokenizer.fit(
        inputs,
        spec.vocab_size,
        scale,
        order=spec.order,
        end_of_block=spec.end_of_block,
        parsing=spec.parsing,
        dead_zone=spec.dead_zone,
    )


def _encoded_point(setting: float, tokens: TokenBatch, vocab_size: int, error: NDArray[np.floating]) -> RatePoint:
    rate = float(tokens.lengths.mean())
    return _point(
        setting, rate, rate * math.log2(vocab_size), error, int(tokens.saturated.sum() + tokens.dropped.sum())
    )


def _point(setting: float, tokens: float, bits: float, error: NDArray[np.floating], lost: int) -> RatePoint:
    rmse, worst = float(np.sqrt(np.square(error).mean())), float(np.abs(error).max())
    return RatePoint(setting, tokens, bits, rmse, worst, lost)


def _binned(
    chunks: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], bins: int
) -> NDArray[np.float64]:
    """Each value by the middle of its bin; `bins` equal ones lie between a dimension's low and high (D,)."""
    width = (high - low) / bins
    alive = width > 0
    at = np.floor((chunks - low) / np.where(alive, width, 1.0)).clip(0, bins - 1)
    return np.where(alive, low + (at + 0.5) * width, low)


@dataclass(frozen=True, slots=True)
class ScaleSuggestion:
    """Which of the scales tried to take.

    Attributes:
        scale: The smallest that keeps to the error; a factor on the tokenizer's scales, where it has one per dimension
            (`RateDistortion.factors`). None: none does.
        mean_token_length: Tokens of a chunk at that scale.
        reconstruction_rmse: The error at that scale, in normalised units.
        max_rmse: The error to keep to.
        lost: Coefficients that saturated (or had no ids) at that scale, in the chunks measured.
    """

    scale: float | None
    mean_token_length: float | None
    reconstruction_rmse: float | None
    max_rmse: float
    lost: int | None = None


def suggest_scale(points: Sequence[RatePoint], max_rmse: float = DEFAULT_MAX_RMSE) -> ScaleSuggestion:
    """The smallest scale that keeps to an error.

    Not the knee of the curve: the curve bends evenly, and the point furthest from the line between its ends moves with
    the ends (of one recorded set it was scale 4, 10 or 15, as the scales tried lay around 3, 10 or 30).

    Args:
        points: Of refits, and of the tokenizer itself; in any order. Of equal scales, the first.
        max_rmse: Error to keep to, in normalised units.

    Example:
        >>> rates = [RatePoint(s, t, 0, e, 0, 0) for s, t, e in ((5, 10, 0.1), (10, 14, 0.03), (20, 40, 0.02))]
        >>> suggest_scale(rates, 0.03).scale, suggest_scale(rates).scale, suggest_scale(rates, 0.01).scale
        (10, 20, None)
    """
    for point in sorted(points, key=lambda p: p.setting):
        if point.reconstruction_rmse <= max_rmse:
            rate, rmse = point.mean_token_length, point.reconstruction_rmse
            return ScaleSuggestion(point.setting, rate, rmse, max_rmse, point.lost)
    return ScaleSuggestion(None, None, None, max_rmse)
