"""Means with their intervals, paired differences, and steps to a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95

Verdict = Literal["held", "contradicted", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def verdict(self, sign: Literal[1, -1]) -> Verdict:
        """Whether the whole interval is on the side of 0 that was predicted: 1 above, -1 below."""
        low, high = sorted((sign * self.low, sign * self.high))
        if low > 0:
            return "held"
        return "contradicted" if high < 0 else "undecided"


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval over the seeds. One value, or none, has an interval without ends."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x.mean()) if len(x) else math.nan, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def paired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Of a - b, value by value: seeds are paired."""
    return mean_interval([x - y for x, y in zip(a, b, strict=True)])


@dataclass(frozen=True)
class Reached:
    """When a curve first came to the threshold: `at`, or never up to `at` (censored)."""

    at: float
    censored: bool

    def __str__(self) -> str:
        return f"{'> ' if self.censored else ''}{self.at:g}"


def time_to(threshold: float, times: Sequence[float], errors: Sequence[float]) -> Reached:
    """The first time, of those measured, at which the error is at most the threshold."""
    for time, error in zip(times, errors, strict=True):
        if error <= threshold:
            return Reached(time, False)
    return Reached(times[-1], True)


def at_time(when: float, times: Sequence[float], values: Sequence[float]) -> float:
    """A curve's value between two measurements, by a straight line.

    Raises:
        ValueError: The curve does not cover the time.
    """
    if not times[0] <= when <= times[-1] * (1 + 1e-9):
        raise ValueError(f"time {when} is outside the curve's {times[0]} to {times[-1]}")
    return float(np.interp(when, times, values))


# ---- Gradients of single samples, by their inner products --------------------------------------------


def mean_square(products: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Unbiased squared length of the mean gradient: inner products (n, n) of different samples only.

    Args:
        products: Inner products of n gradients.
        weights: How often each sample counts; None: once.
    """
    w = np.ones(len(products)) if weights is None else weights
    pairs = np.outer(w, w)
    np.fill_diagonal(pairs, 0)
    return float((pairs * products).sum() / pairs.sum())


def signal_to_noise(products: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """|mean|^2 / variance of n gradients, both unbiased; the variance is summed over the parameters.

    The estimate of a vanishing signal scatters around 0, and can be negative.
    """
    w = np.ones(len(products)) if weights is None else weights
    signal = mean_square(products, weights)
    return signal / (float(w @ np.diag(products) / w.sum()) - signal)


def cosine(a: NDArray[np.float64], b: NDArray[np.float64], ab: NDArray[np.float64]) -> float:
    """Of the mean gradients of two sets of samples, by the products within a (n, n), within b (m, m) and across (n, m).

    Noise in the two means makes it smaller than that of the expected gradients. It has no bootstrap: copies of a sample
    in both factors of a product would make noise look like signal.
    """
    return float(ab.mean() / math.sqrt(a.mean() * b.mean()))


def bootstrap_signal_to_noise(products: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> Interval:
    """The estimate with the percentile interval of resampled samples. A sample is never paired with its own copy."""
    n = len(products)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    drawn = drawn[(drawn > 0).sum(axis=1) > 1]  # one sample alone has no pair
    return _percentiles(signal_to_noise(products), [signal_to_noise(products, w) for w in drawn])


def _percentiles(estimate: float, resampled: Sequence[float]) -> Interval:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(estimate, float(low), float(high))
