"""A tokenizer and the normalisation before it, from recorded actions to ids and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.decode_status import DecodeStatus
from fast_tokenizer.metrics import half_range_inverse
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """What happens to recorded actions: normalised, encoded, decoded, and brought back to their units.

    Attributes:
        tokenizer: Any tokenizer of one embodiment; it takes relative actions where it has been fitted on such
            (`FastTokenizer.without_relative`).
        before: A normaliser for a tokenizer that has none of its own, such as a published one; or None.

    Raises:
        ValueError: Both have one.
    """

    tokenizer: FastTokenizer
    before: Normalizer | None = None

    def __post_init__(self) -> None:
        if self.before is not None and self.tokenizer.spec.normalizer is not None:
            raise ValueError("the tokenizer has a normaliser of its own; actions must not be normalised before it")

    @property
    def normalizer(self) -> Normalizer | None:
        """The one normaliser that actions pass, or None."""
        return self.tokenizer.spec.normalizer if self.before is None else self.before

    def inputs(self, chunks: NDArray[np.floating]) -> NDArray[np.floating]:
        """Chunks (N, T, D) in recorded units as the tokenizer takes them."""
        return chunks if self.before is None else self.before.apply(chunks)

    def outputs(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """What the tokenizer decodes to, in recorded units."""
        return actions if self.before is None else self.before.invert(actions)

    def encode(self, chunks: NDArray[np.floating]) -> TokenBatch:
        """Ids of chunks (N, T, D) in recorded units."""
        return self.tokenizer.encode(self.inputs(chunks))

    def decode(self, tokens: TokenBatch, horizon: int, dims: int) -> tuple[NDArray[np.floating], DecodeStatus]:
        """(N, T, D) in recorded units, repaired where that is needed, and the status."""
        actions, status = self.tokenizer.decode_with_status(tokens, horizon, dims)
        return self.outputs(actions), status

    def normalized(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., D) in recorded units as normalised ones, without clipping; as they are without a normaliser."""
        if self.normalizer is None:
            return np.asarray(actions, np.float64)
        return replace(self.normalizer, clip=None).apply(actions)

    def unit(self, dims: int) -> NDArray[np.float64]:
        """(D,) factor from errors in recorded units to normalised ones; 0 for a constant dimension."""
        return half_range_inverse(self.normalizer, dims)

    def clipped(self, chunks: NDArray[np.floating]) -> NDArray[np.int64]:
        """(D,) values of chunks (N, T, D) that the normaliser cuts, or sets to a dimension's constant."""
        normalizer, lost = self.normalizer, np.zeros(chunks.shape[2], np.int64)
        if normalizer is None:
            return lost
        if normalizer.clip is not None:
            lost += (np.abs(self.normalized(chunks)) > normalizer.clip).sum(axis=(0, 1))
        lost += ((chunks != normalizer.center) & normalizer.constant).sum(axis=(0, 1))
        return lost
