"""Which coefficients of a chunk a sequence of symbols describes. The core does it for whole batches, in decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.spec import TokenizerSpec


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Symbols put where they belong in a chunk.

    Attributes:
        coefficients: (T, D) int32, a row per frequency; 0 where no symbol says what it is.
        symbol: (T, D) int64, number of the symbol that says it: its own, or the end of its block; -1 where none does.
        extra: Symbols behind the end of the chunk.
    """

    coefficients: NDArray[np.int32]
    symbol: NDArray[np.int64]
    extra: int

    @property
    def missing(self) -> int:
        """Coefficients that no symbol says."""
        return int((self.symbol < 0).sum())


def place(symbols: NDArray[np.integer], spec: TokenizerSpec, T: int, D: int) -> Placed:
    """Places (n,) symbols of a native tokenizer in a chunk of T steps and D dimensions.

    Example:
        >>> spec = TokenizerSpec(10.0, -2, 2, np.empty((0, 2)), order="dimension-first", end_of_block="dimension")
        >>> placed = place(np.array([3, 5, 2, 1, 2, 4]), spec, T=3, D=2)  # 5 ends the block of the first dimension
        >>> placed.coefficients
        array([[ 1,  0],
               [ 0, -1],
               [ 0,  0]], dtype=int32)
        >>> placed.symbol.T.tolist(), placed.extra
        ([[0, 1, 1], [2, 3, 4]], 1)
    """
    size = T * D
    block = T if spec.end_of_block == "dimension" else size
    owner, coefficients = np.full(size, -1), np.zeros(size, np.int32)
    ends = np.flatnonzero(symbols == spec.end_symbol) if spec.end_symbol is not None else np.empty(0, np.int64)
    levels = spec.levels
    at = read = 0
    for end in [*ends.tolist(), len(symbols)]:
        count = min(end - read, size - at)
        owner[at : at + count] = np.arange(read, read + count)
        coefficients[at : at + count] = levels[symbols[read : read + count]]
        at, read = at + count, read + count
        if read < end or at == size:  # no room for this one
            break
        if end < len(symbols):
            after = (at // block + 1) * block
            owner[at:after] = end
            at, read = after, end + 1
    shape, extra = (T, D), len(symbols) - read
    if spec.order == "frequency-first":
        return Placed(coefficients.reshape(shape), owner.reshape(shape), extra)
    return Placed(coefficients.reshape(D, T).T, owner.reshape(D, T).T, extra)
