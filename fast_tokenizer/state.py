"""The robot's state as the 256 bins that a pi0-FAST prompt names."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import without_tensors

OutOfRange = Literal["clip", "refuse"]

#: Lower edges of the bins; all are exact in float64 and float32.
_EDGES = np.linspace(-1, 1, 257)[:-1]


def state_bins(states: ArrayLike, out_of_range: OutOfRange = "clip") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins of a state in [-1, 1], of equal width 1/128; bin b begins at ``b / 128 - 1``, and 1 is in the last.

    openpi does not clip: a value below -1 gets bin -1, which is text that the model has otherwise never seen.

    Args:
        states: (N, S), NumPy or torch.
        out_of_range: Values outside [-1, 1] go to bin 0 or 255 and are counted, or are refused.

    Returns:
        Bins (N, S) in 0..255, and (N,) values of each state outside [-1, 1].

    Raises:
        ValueError: Not numbers, not of rank 2, not finite; or out of range where that is refused.

    Example:
        >>> bins, clipped = state_bins([[-1.5, -1.0, 0.0, 0.99, 1.0]])
        >>> bins.tolist(), clipped.tolist()
        ([[0, 0, 128, 254, 255]], [1])
    """
    if out_of_range not in get_args(OutOfRange):
        raise ValueError(f"out_of_range must be 'clip' or 'refuse', got {out_of_range!r}")
    try:
        array = np.asarray(without_tensors(states))
    except (ValueError, TypeError, RuntimeError) as error:  # ragged, or tensors within tensors
        raise ValueError(f"expected states of shape (N, S), got no array of numbers: {error}") from None
    if array.shape == (0,):  # an empty batch, of which a list does not say S
        array = array.reshape(0, 0)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        hint = "; for one state pass [state]" if array.ndim == 1 else ""
        raise ValueError(f"expected states of shape (N, S), got {array.dtype} of shape {array.shape}{hint}")
    array = array.astype(np.float64)
    outside = ~(np.abs(array) <= 1)
    refused = outside if out_of_range == "refuse" else ~np.isfinite(array)
    if refused.any():
        row, dimension = (int(i) for i in np.argwhere(refused)[0])
        raise ValueError(
            f"state {row}, dimension {dimension}: expected a value in [-1, 1], got {array[row, dimension]}; "
            f"{int(refused.sum())} of {array.size} values are such"
        )
    # digitize, not arithmetic: a value just below an edge must not be rounded onto it.
    bins = np.digitize(array, _EDGES) - 1
    return np.maximum(bins, 0), outside.sum(axis=1)
