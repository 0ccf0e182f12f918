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
        rounding: (T,) what rounding alone leaves of these actions, each dimension at its scale and with the dead zone,
            over all dimensions: `errors`, but for what saturates or is clipped.
        bandwidth: By share: the lowest frequency that this share of the energy lies at or below, frequency 0 left out,
            which is where a chunk is, not how it moves. Empty where nothing moves.
    """

    frequency: NDArray[np.float64]
    in_hz: bool
    actions: NDArray[np.float64]
    actions_by_dimension: NDArray[np.float64]
    errors: NDArray[np.float64]
    rounding: NDArray[np.float64]
    bandwidth: dict[float, float]


def spectrum(
    actions: NDArray[np.float64],
    decoded: NDArray[np.float64],
    hz: float | None,
    scales: NDArray[np.float64],
    dead_zone: float = 0.5,
) -> Spectrum:
    """Of normalised chunks (N, T, D) before and after; `scales` (D,) or (1,) and the dead zone are the tokenizer's."""
    horizon = actions.shape[1]
    coefficients = dct2(np.ascontiguousarray(actions))
    energy = np.square(coefficients).mean(axis=0)
    scaled = coefficients * scales
    rounded = np.where(np.abs(scaled) < dead_zone, 0.0, np.rint(scaled)) / scales
    frequency = np.arange(horizon) / (2 * horizon) * (1.0 if hz is None else hz)
    reached = np.cumsum(energy[1:].sum(axis=1))
    moves = len(reached) > 0 and reached[-1] > 0
    return Spectrum(
        frequency=frequency,
        in_hz=hz is not None,
        actions=energy.mean(axis=1),
        actions_by_dimension=energy,
        errors=np.square(dct2(np.ascontiguousarray(decoded - actions))).mean(axis=(0, 2)),
        rounding=np.square(rounded - coefficients).mean(axis=(0, 2)),
        bandwidth={
            share: float(frequency[1:][np.searchsorted(reached, share * reached[-1])]) for share in _SHARES if moves
        },
    )
