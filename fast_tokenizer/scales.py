"""The smallest scales that keep an error: fewer levels, fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._core import dct2, dct3
from fast_tokenizer.chunk import ChunkBlock
from fast_tokenizer.normalize import Normalizer

#: Values of the chunks that scales are fitted on, at most: enough for three digits, in about a second.
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
    values = np.asarray(target, np.float64)
    if values.ndim > 1 or values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} must be positive, a number or one per dimension, got {target!r}")
    return tuple(float(v) for v in np.atleast_1d(values))


def fit_scales(
    blocks: Sequence[ChunkBlock],
    normalizer: Normalizer | None,
    *,
    dead_zone: float = 0.5,
    target_rmse: tuple[float, ...] | None = None,
    target_max_error: tuple[float, ...] | None = None,
) -> tuple[float, ...]:
    """The smallest scale of each dimension at which the chunks come back within the targets.

    Args:
        blocks: Chunks of one D.
        normalizer: Of the chunks; values that it clips are not counted as errors.
        dead_zone: See `TokenizerSpec`.
        target_rmse: Root mean square error, in raw units: of each dimension, over all chunks.
        target_max_error: Largest error of any value, in raw units.

    Returns:
        D scales.

    Raises:
        ValueError: A target of another D.

    Example:
        >>> chunks = np.cumsum(np.random.default_rng(0).normal(0, [0.05, 0.5], (200, 50, 2)), axis=1)
        >>> fine, coarse = fit_scales([ChunkBlock(chunks, None, 0)], None, target_rmse=(0.05,))
        >>> fine < coarse < 6  # where most coefficients are below half a step, less is lost
        True
    """
    D = blocks[0].action_dim
    arrays = [array for block in blocks for array in _arrays(block)]
    half_range = np.ones(D) if normalizer is None else normalizer.half_range
    normalized = [a.astype(np.float64) if normalizer is None else normalizer.apply(a) for a in arrays]
    coefficients = [dct2(np.ascontiguousarray(a)) for a in normalized]
    longest = max(a.shape[1] for a in arrays)
    scales = np.full(D, 0.0)
    for name, target, measure, worst in (
        ("target_rmse", target_rmse, _rmse, 1.0),
        ("target_max_error", target_max_error, _max_error, np.sqrt(2 * longest)),
    ):
        if target is None:
            continue
        if len(target) not in (1, D):
            raise ValueError(f"{name} has {len(target)} entries, the chunks have {D} dimensions")
        allowed = np.broadcast_to(np.array(target), D)
        scales = np.maximum(scales, _smallest(coefficients, half_range, allowed, measure, dead_zone, worst))
    return tuple(float(s) for s in scales)


def _arrays(block: ChunkBlock) -> list[NDArray[np.floating]]:
    """The chunks as arrays (N, T, D)."""
    if block.row_offsets is None:
        return [block.values]
    return [rows[None] for rows in np.split(block.values, block.row_offsets[1:-1])]


_Measure = Callable[[list[NDArray[np.float64]]], NDArray[np.float64]]


def _smallest(
    coefficients: list[NDArray[np.float64]],
    half_range: NDArray[np.float64],
    allowed: NDArray[np.float64],
    measure: _Measure,
    dead_zone: float,
    worst: float,
) -> NDArray[np.float64]:
    """(D,) smallest scales whose errors, in raw units, stay within `allowed`."""

    def fits(power: NDArray[np.int64]) -> NDArray[np.bool_]:
        errors = measure([_error(c, _STEP ** power.astype(np.float64), dead_zone) for c in coefficients])
        return np.asarray(errors * half_range <= allowed)

    # Below `low` all is 0; at `high` no coefficient can be off by too much.
    largest = np.max([np.abs(c).max(axis=(0, 1)) for c in coefficients], axis=0)
    still = (half_range == 0) | (largest == 0)
    low = _power(0.49 / np.where(still, 0.49, largest)) - 1
    high = np.maximum(_power(worst * dead_zone * np.where(still, 0.0, half_range) / allowed), low) + 1
    at_low = fits(low)
    high = np.where(at_low, low, high)
    while (high - low > 1).any():  # errors fall with the scale, but for wiggles: `high` always fits
        middle = (low + high) // 2
        good = fits(middle)
        high, low = np.where(good, middle, high), np.where(good, low, middle)
    return np.where(still, 1.0, _STEP ** high.astype(np.float64))


def _power(scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """The power of `_STEP` next above; of 0 the lowest that is used."""
    powers: NDArray[np.int64] = np.ceil(np.log(np.maximum(scale, 1e-30)) / np.log(_STEP)).astype(np.int64)
    return powers


def _error(c: NDArray[np.float64], scale: NDArray[np.float64], dead_zone: float) -> NDArray[np.float64]:
    scaled = c * scale
    quantized = np.where(np.abs(scaled) < dead_zone, 0.0, np.rint(scaled))
    return np.asarray(quantized / scale - c)


def _rmse(errors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The transform is orthonormal: squares add up to the same before it and after."""
    squares = np.sum([np.square(e).sum(axis=(0, 1)) for e in errors], axis=0)
    return np.asarray(np.sqrt(squares / sum(e.shape[0] * e.shape[1] for e in errors)))


def _max_error(errors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.max([np.abs(dct3(np.ascontiguousarray(e))).max(axis=(0, 1)) for e in errors], axis=0))
