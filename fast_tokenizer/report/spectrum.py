"""Where the energy of the motion lies, and where the energy of the error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import dct2

_SHARES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Mean squares of the T DCT coefficients of normalised actions; together they are T times the mean square value.

    Attributes:
        frequency: (T,) in Hz where the rate is known, otherwise in cycles a step.
        in_hz: Whether it is known.
        actions: (T,) of the recorded actions, over all dimensions.
        actions_by_dimension: (T, D).
        errors: (T,) of what decoding leaves.
        rounding_floor: Mean square error of rounding to whole coefficients, 1 / (12 scale^2), over the dimensions.
        bandwidth: By share: the lowest frequency that this share of the energy lies at or below, frequency 0 left out,
            which is where a chunk is, not how it moves. Empty where nothing moves.
    """

    frequency: NDArray[np.float64]
    in_hz: bool
    actions: NDArray[np.float64]
    actions_by_dimension: NDArray[np.float64]
    errors: NDArray[np.float64]
    rounding_floor: float
    bandwidth: dict[float, float]


def spectrum(
    actions: NDArray[np.float64], decoded: NDArray[np.float64], hz: float | None, scales: NDArray[np.float64]
) -> Spectrum:
    """Of normalised chunks (N, T, D) before and after; `scales` (D,) or (1,) are the tokenizer's."""
    horizon = actions.shape[1]
    energy = np.square(dct2(np.ascontiguousarray(actions))).mean(axis=0)
    frequency = np.arange(horizon) / (2 * horizon) * (1.0 if hz is None else hz)
    reached = np.cumsum(energy[1:].sum(axis=1))
    moves = len(reached) > 0 and reached[-1] > 0
    return Spectrum(
        frequency=frequency,
        in_hz=hz is not None,
        actions=energy.mean(axis=1),
        actions_by_dimension=energy,
        errors=np.square(dct2(np.ascontiguousarray(decoded - actions))).mean(axis=(0, 2)),
        rounding_floor=float(np.mean(1 / (12 * np.square(scales)))),
        bandwidth={
            share: float(frequency[1:][np.searchsorted(reached, share * reached[-1])]) for share in _SHARES if moves
        },
    )
