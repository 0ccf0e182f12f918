"""What the language model learns in place of actions: `FastTokenizer`, or another tokenizer of chunks, for comparison.

Naive binning is what RT-2 and OpenVLA have; the knowledge insulation paper compares FAST with
it, dense and with a stride of 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import integer
from fast_tokenizer.chunk import ChunksLike
from fast_tokenizer.tokens import TokenBatch


class DiscreteTargets(Protocol):
    """Turns chunks into token ids. `FastTokenizer` is one."""

    @property
    def vocab_size(self) -> int:
        """Token ids are 0..vocab_size - 1."""

    def encode(self, chunks: ChunksLike) -> TokenBatch:
        """Token ids of chunks (N, T, D), with what was lost of each."""


@dataclass(frozen=True, slots=True)
class Binning:
    """One token for each value: the number of its bin among equal ones over [-1, 1], step after step.

    Attributes:
        bins: Ids 0..bins - 1; values outside [-1, 1] go to the first or last, and are counted as clipped.
        stride: Only every stride-th step is written.

    Raises:
        ValueError: A number that is not positive.

    Example:
        >>> Binning(bins=4).encode(np.array([[[-1.0, -0.4], [0.1, 3.0]]])).to_list()
        [[0, 1, 2, 3]]
        >>> Binning(stride=5).encode(np.zeros((1, 50, 2))).lengths.tolist()
        [20]
    """

    bins: int = 256
    stride: int = 1

    def __post_init__(self) -> None:
        integer("bins", self.bins, 1, 2**20, "positive")
        integer("stride", self.stride, 1, 2**20, "positive")

    @property
    def vocab_size(self) -> int:
        """The number of bins."""
        return self.bins

    def encode(self, chunks: ChunksLike) -> TokenBatch:
        """Token ids of normalised chunks (N, T, D).

        Raises:
            ValueError: No rectangle of finite numbers.
        """
        values = np.asarray(chunks, np.float64)
        if values.ndim != 3:
            raise ValueError(f"expected chunks (N, T, D), got shape {values.shape}")
        if not np.isfinite(values).all():
            chunk = int((~np.isfinite(values)).any((1, 2)).argmax())
            raise ValueError(f"chunk {chunk} has values that are not finite")
        kept = values[:, :: self.stride].reshape(len(values), -1)
        ids = np.floor((kept + 1) / 2 * self.bins).clip(0, self.bins - 1).astype(np.int32)
        flat = TokenBatch.from_padded(ids)
        clipped = (abs(kept) > 1).sum(1).astype(np.int32)
        return TokenBatch(flat.ids, flat.offsets, flat.saturated, clipped)

    def centers(self, ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """The middle of each bin."""
        return (np.asarray(ids) + 0.5) / self.bins * 2 - 1
