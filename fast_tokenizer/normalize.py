"""Per-dimension normalisation: part of the artefact, so that fitting and use cannot differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_MAGNITUDE

NormalizerKind = Literal["quantile", "min-max", "mean-std", "identity"]


@dataclass(frozen=True, slots=True, eq=False)
class Normalizer:
    """Maps each action dimension to about [-1, 1]: ``y = (x - center) / half_range``.

    ===========  =====================  ======================
    kind         center                 half_range
    ===========  =====================  ======================
    quantile     (q01 + q99) / 2        (q99 - q01) / 2
    min-max      (min + max) / 2        (max - min) / 2
    mean-std     mean                   standard deviation
    identity     0                      1
    ===========  =====================  ======================

    A dimension that never changes has ``half_range`` 0: it maps to 0 and comes back as ``center``, exactly. A
    dimension whose quantiles coincide although it does change (a gripper that moves in fewer than 1 % of the
    steps) takes its minimum and maximum instead.

    Values beyond the range are kept unless ``clip`` is given; then ``y`` is cut to [-clip, clip]. The tokenizer
    counts what is cut, and what leaves a constant dimension's constant.

    Attributes:
        kind: How the statistics were taken.
        center: (D,) float64, in the actions' units.
        half_range: (D,) float64, in the actions' units, not negative.
        clip: Bound on the normalised value, or None.

    Example:
        >>> actions = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
        >>> normalizer = Normalizer.fit(actions, "min-max")
        >>> normalizer.apply(actions)[:, 0]
        array([-1.,  0.,  1.])
        >>> normalizer.invert(normalizer.apply(actions))[:, 1]
        array([5., 5., 5.])
    """

    kind: NormalizerKind
    center: NDArray[np.float64]
    half_range: NDArray[np.float64]
    clip: float | None = None
    _gain: NDArray[np.float64] = field(init=False, repr=False)

    def __reduce__(self) -> tuple[type[Normalizer], tuple[object, ...]]:
        return type(self), (self.kind, self.center, self.half_range, self.clip)

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormalizerKind):
            raise ValueError(f"normalizer kind must be one of {get_args(NormalizerKind)}, got {self.kind!r}")
        center = np.array(self.center, dtype=np.float64)
        half_range = np.array(self.half_range, dtype=np.float64)
        if center.ndim != 1 or center.shape != half_range.shape or center.size == 0:
            raise ValueError(
                f"center and half_range must be vectors of one length, got {center.shape} and {half_range.shape}"
            )
        for name, values in (("center", center), ("half_range", half_range)):
            _refuse(name, values, ~np.isfinite(values), "must be finite, half_range >= 0")
        _refuse("half_range", half_range, half_range < 0, "must be finite, half_range >= 0")
        _refuse("center", center, np.abs(center) > MAX_MAGNITUDE, "must lie within +-1e100")
        too_small, too_large = (half_range > 0) & (half_range < 1 / MAX_MAGNITUDE), half_range > MAX_MAGNITUDE
        _refuse("half_range", half_range, too_small | too_large, "must lie in 1e-100..1e100, or be 0")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip must be positive and finite, or None, got {self.clip}")
        gain = np.where(half_range == 0, 0.0, 1.0 / np.where(half_range == 0, 1.0, half_range))
        for values in (center, half_range, gain):
            values.flags.writeable = False
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "half_range", half_range)
        object.__setattr__(self, "_gain", gain)

    @classmethod
    def fit(
        cls,
        actions: NDArray[np.floating],
        kind: NormalizerKind = "quantile",
        *,
        clip: float | None = None,
    ) -> Normalizer:
        """Takes the statistics of recorded actions.

        Args:
            actions: (..., D) float, in raw units; all but the last axis are samples.
            kind: See the class.
            clip: Bound on the normalised value, or None.

        Raises:
            ValueError: No samples, or a value that is not finite.
        """
        rows = sample_rows(actions)
        require_finite_rows(rows)
        return cls.from_rows([rows], kind, clip=clip)

    @classmethod
    def from_rows(
        cls, parts: Sequence[NDArray[np.floating]], kind: NormalizerKind, *, clip: float | None = None
    ) -> Normalizer:
        """As `fit`, of finite rows that lie in several arrays (n_i, D). Holds a copy of one dimension at a time."""
        return cls.from_summaries((summarize(column) for column in columns(parts)), kind, clip=clip)

    @classmethod
    def from_summaries(
        cls, summaries: Iterable[DimensionSummary], kind: NormalizerKind, *, clip: float | None = None
    ) -> Normalizer:
        """From what is known of each dimension. Here stand the rules of the class docstring, and nowhere else."""
        if kind not in get_args(NormalizerKind):
            raise ValueError(f"normalizer kind must be one of {get_args(NormalizerKind)}, got {kind!r}")
        center, half_range = np.array([_center_and_half_range(s, kind) for s in summaries]).T
        return cls(kind, center, half_range, clip)

    @property
    def action_dim(self) -> int:
        """Number of dimensions D."""
        return len(self.center)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """(D,) bool: dimensions that never changed."""
        return np.equal(self.half_range, 0)

    def apply(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Normalises (..., D) actions, as the native core does: the same float64 operations in the same order."""
        y = (self._checked(actions) - self.center) * self._gain
        return y if self.clip is None else np.clip(y, -self.clip, self.clip)

    def invert(self, normalized: NDArray[np.floating]) -> NDArray[np.float64]:
        """Back to raw units: (..., D) float64."""
        return self._checked(normalized) * self.half_range + self.center

    def _checked(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != self.action_dim:
            raise ValueError(f"expected (..., {self.action_dim}) values, got shape {array.shape}")
        return array


def sample_rows(actions: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., D) actions as rows (n, D). Raises ValueError when there are none."""
    rows = np.asarray(actions)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(f"normalizer statistics need actions of shape (..., D), got {rows.shape}")
    return rows.reshape(-1, rows.shape[-1])


def require_finite_rows(rows: NDArray[np.floating], first: int = 0) -> None:
    """Raises the ValueError that names a value that is not finite; `first` is the number of the first row."""
    if not np.isfinite(rows).all():
        row, d = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise ValueError(f"action at row {first + row}, dimension {d} is {rows[row, d]}; actions must be finite")


def columns(parts: Sequence[NDArray[np.floating]]) -> Iterator[NDArray[np.float64]]:
    """The D dimensions of rows (n_i, D), one at a time: (sum of n_i,) float64 in rising order, a copy."""
    for d in range(parts[0].shape[1]):
        column = np.concatenate([part[:, d] for part in parts], dtype=np.float64)
        # In order, so that sums do not depend on the order of the samples; + 0.0 takes the sign off zeros.
        column.sort()
        column += 0.0
        yield column


@dataclass(frozen=True, slots=True)
class DimensionSummary:
    """What a normaliser needs to know of one dimension, in the actions' units."""

    low: float
    high: float
    mean: float
    std: float
    q01: float
    q99: float


def summarize(ordered: NDArray[np.float64]) -> DimensionSummary:
    """Exact summary of one dimension's (n,) values in rising order; may reorder them."""
    low, high = float(ordered[0]), float(ordered[-1])
    with np.errstate(over="ignore", invalid="ignore"):  # sums of huge values: refused, if they are used
        mean, std = float(ordered.mean()), float(ordered.std())
    q01, q99 = (float(q) for q in np.quantile(ordered, [0.01, 0.99], overwrite_input=True))
    return DimensionSummary(low, high, mean, std, q01, q99)


def _center_and_half_range(s: DimensionSummary, kind: NormalizerKind) -> tuple[float, float]:
    """Center and half range of one dimension; a half range of 0 if it is constant."""
    if kind == "identity":
        return 0.0, 1.0
    if kind == "mean-std":
        center, half_range = s.mean, s.std
    else:
        low, high = (s.q01, s.q99) if kind == "quantile" and s.q01 != s.q99 else (s.low, s.high)
        center, half_range = low + (high - low) / 2, (high - low) / 2
    # A range too small to divide by is no range; a constant's mean may be off by a rounding error.
    return (s.low, 0.0) if s.low == s.high or half_range < 1 / MAX_MAGNITUDE else (center, half_range)


def _refuse(name: str, values: NDArray[np.float64], bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        d = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name} of dimension {d} is {values[d]}; it {rule}")
