"""Per-dimension normalisation: part of the artefact, so that fitting and use cannot differ."""

from __future__ import annotations

import math
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
        rows = np.asarray(actions)
        if rows.ndim < 2 or rows.size == 0:
            raise ValueError(f"normalizer statistics need actions of shape (..., D), got {rows.shape}")
        rows = rows.reshape(-1, rows.shape[-1])
        if not np.isfinite(rows).all():
            row, d = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
            raise ValueError(f"action at row {row}, dimension {d} is {rows[row, d]}; actions must be finite")
        center, half_range = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        if kind != "identity":
            for d in range(rows.shape[1]):
                center[d], half_range[d] = _statistics(rows[:, d], kind)
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


def _statistics(samples: NDArray[np.floating], kind: NormalizerKind) -> tuple[float, float]:
    """Center and half range of one dimension; a half range of 0 if it is constant."""
    # In order, so that sums do not depend on the order of the samples; + 0.0 takes the sign off zeros.
    ordered = np.sort(samples.astype(np.float64)) + 0.0
    low, high = float(ordered[0]), float(ordered[-1])
    if kind == "mean-std":
        center, half_range = float(ordered.mean()), float(ordered.std())
    else:
        q_low, q_high = (float(q) for q in np.quantile(ordered, [0.01, 0.99])) if kind == "quantile" else (low, high)
        if q_low == q_high:
            q_low, q_high = low, high
        center, half_range = q_low + (q_high - q_low) / 2, (q_high - q_low) / 2
    # A range too small to divide by is no range; a constant's mean may be off by a rounding error.
    return (low, 0.0) if low == high or half_range < 1 / MAX_MAGNITUDE else (center, half_range)


def _refuse(name: str, values: NDArray[np.float64], bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        d = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name} of dimension {d} is {values[d]}; it {rule}")
