"""The smallest scales that keep an error: fewer levels, fewer tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._core import dct2, dct3
from fast_tokenizer.chunk import ChunkBlock
from fast_tokenizer.normalize import Normalizer

#: Values of the chunks that scales are fitted on, at most; then all chunks are asked whether they keep them.
SAMPLE_VALUES = 1 << 22
#: Scales are powers of this: no finer than the sample knows them.
_STEP = 1.005


def check_target(name: str, target: ArrayLike | None) -> tuple[float, ...] | None:
    """An error target as a tuple of one entry, or one a dimension.

    Raises:
        ValueError: It is not positive and finite.
    """
    if target is None:
        return None
    try:
        values = np.asarray(target, np.float64)
    except (TypeError, ValueError):
        values = np.array([])
    meaningful = values.ndim <= 1 and values.size > 0 and bool((np.isfinite(values) & (values > 0)).all())
    if isinstance(target, bool) or not meaningful:
        raise ValueError(f"{name} must be positive, a number or one per dimension, got {target!r}")
    return tuple(float(v) for v in np.atleast_1d(values))


@dataclass(frozen=True, slots=True)
class ErrorTargets:
    """Errors to keep, in raw units; of each dimension, or one for all. None: any.

    Attributes:
        rmse: Root mean square error of a dimension, over all chunks.
        max_error: Largest error of any value of a dimension.
    """

    rmse: tuple[float, ...] | None = None
    max_error: tuple[float, ...] | None = None

    def allowed(self, action_dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both for D dimensions, infinite where any error will do.

        Raises:
            ValueError: Targets of another D.
        """
        return _per_dimension("target_rmse", self.rmse, action_dim), _per_dimension(
            "target_max_error", self.max_error, action_dim
        )


def _per_dimension(name: str, target: tuple[float, ...] | None, D: int) -> NDArray[np.float64]:
    if target is None:
        return np.full(D, np.inf)
    if len(target) not in (1, D):
        raise ValueError(f"{name} has {len(target)} entries, the chunks have {D} dimensions")
    return np.broadcast_to(np.array(target), D)


def fit_scales(
    blocks: Sequence[ChunkBlock], normalizer: Normalizer | None, targets: ErrorTargets, dead_zone: float = 0.5
) -> tuple[float, ...]:
    """The smallest scale of each dimension at which the chunks come back within the targets.

    Args:
        blocks: Chunks of one D.
        normalizer: Of the chunks; what it clips is not counted as an error.
        targets: The errors to keep.
        dead_zone: See `TokenizerSpec`.

    Returns:
        D scales.

    Raises:
        ValueError: Targets of another D.

    Example:
        >>> chunks = np.cumsum(np.random.default_rng(0).normal(0, [0.05, 0.5], (200, 50, 2)), axis=1)
        >>> fine, coarse = fit_scales([ChunkBlock(chunks, None, 0)], None, ErrorTargets(rmse=(0.05,)))
        >>> fine < coarse < 6  # where most coefficients are below half a step, less is lost
        True
    """
    D = blocks[0].action_dim
    allowed = targets.allowed(D)
    half_range = np.ones(D) if normalizer is None else normalizer.half_range
    coefficients = [c for block in blocks for c in _coefficients(block, normalizer)]

    def fits(power: NDArray[np.int64]) -> NDArray[np.bool_]:
        errors = _Errors(D)
        for c in coefficients:
            errors.add(c, _STEP ** power.astype(np.float64), dead_zone)
        return errors.excess(half_range, allowed) <= 1

    # Below `low` all is 0; at `high` no coefficient can be off by too much.
    largest = np.max([np.abs(c).max(axis=(0, 1)) for c in coefficients], axis=0)
    still = (half_range == 0) | (largest == 0)
    low = _power(0.49 / np.where(still, 0.49, largest)) - 1
    safe = safe_scales(half_range, allowed, dead_zone, max(c.shape[1] for c in coefficients))
    high = np.maximum(_power(np.where(still, 0.0, safe)), low) + 1
    high = np.where(fits(low), low, high)
    while (high - low > 1).any():  # errors fall with the scale, but for wiggles: `high` always fits
        middle = (low + high) // 2
        good = fits(middle)
        high, low = np.where(good, middle, high), np.where(good, low, middle)
    return tuple(float(s) for s in np.where(still, 1.0, _STEP ** high.astype(np.float64)))


def safe_scales(
    half_range: NDArray[np.float64],
    allowed: tuple[NDArray[np.float64], NDArray[np.float64]],
    dead_zone: float,
    horizon: int,
) -> NDArray[np.float64]:
    """(D,) scales that keep the targets on any chunk of that horizon: each coefficient may be off by the dead zone."""
    rmse, max_error = allowed
    return np.asarray(dead_zone * half_range * np.maximum(1 / rmse, np.sqrt(2 * horizon) / max_error))


def excess(
    blocks: Iterable[ChunkBlock],
    normalizer: Normalizer | None,
    scales: Sequence[float],
    targets: ErrorTargets,
    dead_zone: float,
) -> tuple[NDArray[np.float64], int]:
    """(D,) errors over what the targets allow (the worse of the two, at most 1 where kept), and the longest horizon."""
    errors, longest, D = _Errors(len(scales)), 0, len(scales)
    for block in blocks:
        for c in _coefficients(block, normalizer):
            errors.add(c, np.array(scales), dead_zone)
            longest = max(longest, c.shape[1])
    half_range = np.ones(D) if normalizer is None else normalizer.half_range
    return errors.excess(half_range, targets.allowed(D)), longest


def _coefficients(block: ChunkBlock, normalizer: Normalizer | None) -> Iterator[NDArray[np.float64]]:
    """Of normalised chunks, (N, T, D)."""
    for chunks in block.rectangles():
        normalized = chunks.astype(np.float64) if normalizer is None else normalizer.apply(chunks)
        yield dct2(np.ascontiguousarray(normalized))


class _Errors:
    """What rounding does to each dimension, in normalised units."""

    def __init__(self, D: int) -> None:
        self._squares, self._largest, self._rows = np.zeros(D), np.zeros(D), 0

    def add(self, coefficients: NDArray[np.float64], scale: NDArray[np.float64], dead_zone: float) -> None:
        """Of (N, T, D) more. The transform is orthonormal: squares add up to the same before it and after."""
        scaled = coefficients * scale
        error = np.where(np.abs(scaled) < dead_zone, 0.0, np.rint(scaled)) / scale - coefficients
        self._squares += np.square(error).sum(axis=(0, 1))
        self._largest = np.maximum(self._largest, np.abs(dct3(error)).max(axis=(0, 1)))
        self._rows += error.shape[0] * error.shape[1]

    def excess(
        self, half_range: NDArray[np.float64], allowed: tuple[NDArray[np.float64], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        rmse = np.sqrt(self._squares / self._rows) * half_range / allowed[0]
        return np.maximum(rmse, self._largest * half_range / allowed[1])


def _power(scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """The power of `_STEP` next above; of 0 the lowest that is used."""
    powers: NDArray[np.int64] = np.ceil(np.log(np.maximum(scale, 1e-30)) / np.log(_STEP)).astype(np.int64)
    return powers
