"""Token ids of a batch of chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

#: A `TokenBatch`, one sequence of ids per chunk, or a padded (N, L) integer array (with a mask).
TokensLike: TypeAlias = "TokenBatch | Iterable[Sequence[int] | NDArray[np.integer]] | NDArray[np.integer]"


class TokenBatch(Sequence[NDArray[np.int32]]):
    """The token ids of N chunks, one after the other, without padding.

    Behaves as a list of arrays; `batch[i]` is a view, `batch[i:j]` another batch.

    Attributes:
        ids: (total,) int32. (int64 when made from ids that do not fit, which no tokenizer has.)
        offsets: (N + 1,) int64; chunk i has ``ids[offsets[i]:offsets[i + 1]]``.
        saturated: (N,) int32; coefficients of each chunk that were cut to the fitted range.
        clipped: (N,) int32; values of each chunk that the normaliser cut.
        dropped: (N,) int32; coefficients of each chunk that have no or not all of their ids, as a published vocabulary
            lacks one of their bytes. No other tokenizer drops any.
        rechecked: (N,) bool; chunks of a published tokenizer whose rounding scipy decided, as they have a coefficient
            on a tie, or one beyond what the native quantizer reaches.

    Example:
        >>> batch = TokenBatch.from_lists([[5, 6, 7], [8]])
        >>> len(batch), batch[0].tolist(), batch.lengths.tolist()
        (2, [5, 6, 7], [3, 1])
        >>> ids, mask = batch.pad(4, pad_id=-1)
        >>> ids.tolist()
        [[5, 6, 7, -1], [8, -1, -1, -1]]
    """

    __slots__ = ("_dropped", "_rechecked", "clipped", "ids", "offsets", "saturated")

    def __init__(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        saturated: NDArray[np.int32],
        clipped: NDArray[np.int32],
        dropped: NDArray[np.int32] | None = None,
        rechecked: NDArray[np.bool_] | None = None,
    ) -> None:
        self.ids, self.offsets, self.saturated, self.clipped = ids, offsets, saturated, clipped
        self._dropped, self._rechecked = dropped, rechecked  # None: all zero, which costs nothing to say

    @classmethod
    def from_lists(cls, sequences: Iterable[Sequence[int] | NDArray[np.integer]]) -> TokenBatch:
        """A batch of given sequences, with no saturation or clipping known.

        Raises:
            ValueError: A sequence that is not one-dimensional or not of integers.
        """
        arrays = [_integer_array(s, f"sequence {i}", 1) for i, s in enumerate(sequences)]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        ids = np.concatenate([np.empty(0, np.int32), *arrays])
        return cls(ids, offsets, *np.zeros((2, len(arrays)), np.int32))

    @classmethod
    def from_flat(cls, ids: NDArray[np.integer], offsets: NDArray[np.integer]) -> TokenBatch:
        """A batch of ids (total,) and offsets (N + 1,), with no saturation or clipping known.

        Raises:
            ValueError: They are no integers, or the offsets do not rise from 0 to the number of ids.
        """
        array, ends = _integer_array(ids, "ids", 1), _integer_array(offsets, "offsets", 1).astype(np.int64)
        counts = np.zeros((2, max(0, len(ends) - 1)), np.int32)
        batch = cls(array, ends, *counts)
        batch._check()
        return batch

    @classmethod
    def from_padded(cls, ids: NDArray[np.integer], mask: NDArray[np.bool_] | None = None) -> TokenBatch:
        """A batch from an (N, L) array; `mask` (N, L) is true where an id counts (everywhere by default).

        Raises:
            ValueError: Wrong rank, dtype, or a mask of another shape.
        """
        array = _integer_array(ids, "token ids", 2)
        if mask is None:
            lengths = np.full(len(array), array.shape[1])
        else:
            keep = np.asarray(mask)
            if keep.shape != array.shape:
                raise ValueError(f"mask has shape {keep.shape}, the token ids {array.shape}")
            keep = keep.astype(bool)
            array, lengths = array[keep], keep.sum(axis=1)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(array.reshape(-1), offsets, *np.zeros((2, len(lengths)), np.int32))

    @classmethod
    def coerce(cls, tokens: TokensLike, mask: NDArray[np.bool_] | None = None) -> TokenBatch:
        """Any of the forms that `decode` takes, as a batch."""
        if isinstance(tokens, TokenBatch):
            if mask is not None:
                raise ValueError("a mask goes with a padded array; a TokenBatch has none")
            tokens._check()
            return tokens
        if hasattr(tokens, "__array__"):
            return cls.from_padded(np.asarray(tokens), mask)
        if mask is not None:
            return cls.from_padded(np.asarray(list(tokens)), mask)
        return cls.from_lists(tokens)

    @classmethod
    def concatenate(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """One batch of all chunks, in order."""
        starts = np.cumsum([0, *(len(b.ids) for b in batches)])
        offsets = [b.offsets[:-1] + start for b, start in zip(batches, starts, strict=False)]
        return cls(
            np.concatenate([np.empty(0, np.int32), *(b.ids for b in batches)]),
            np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            np.concatenate([np.empty(0, np.int32), *(b.saturated for b in batches)]),
            np.concatenate([np.empty(0, np.int32), *(b.clipped for b in batches)]),
            np.concatenate([np.empty(0, np.int32), *(b.dropped for b in batches)]),
            np.concatenate([np.empty(0, np.bool_), *(b.rechecked for b in batches)]),
        )

    def _with_ids(self, ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> TokenBatch:
        """The same chunks, with all that was counted of them, under other ids."""
        return TokenBatch(ids, offsets, self.saturated, self.clipped, self._dropped, self._rechecked)

    def _check(self) -> None:
        """A batch need not come from `encode`: refuse arrays that are no ids, before they are taken for some."""
        for name, array in (("ids", self.ids), ("offsets", self.offsets)):
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError(f"{name} must be a list of integers, got {array.dtype} of shape {array.shape}")
        ends = self.offsets
        if len(ends) == 0 or ends[0] != 0 or ends[-1] != len(self.ids) or (ends[1:] < ends[:-1]).any():
            raise ValueError(f"offsets must rise from 0 to the number of ids, {len(self.ids)}")

    @property
    def dropped(self) -> NDArray[np.int32]:
        """(N,) coefficients whose ids are not all there; see the class."""
        return np.zeros(len(self), np.int32) if self._dropped is None else self._dropped

    @property
    def rechecked(self) -> NDArray[np.bool_]:
        """(N,) chunks that scipy rounded; see the class."""
        return np.zeros(len(self), np.bool_) if self._rechecked is None else self._rechecked

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each chunk."""
        return np.diff(self.offsets)

    def to_list(self) -> list[list[int]]:
        """Plain lists of Python integers."""
        return [ids.tolist() for ids in self]

    def pad(self, max_len: int | None = None, pad_id: int = -1) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Pads on the right to one rectangle.

        Args:
            max_len: Width L; None: the longest sequence.
            pad_id: Fills the rest. The default is no token id, so that forgetting the mask shows.

        Returns:
            ids (N, L) int32 and mask (N, L) bool, true on tokens.

        Raises:
            ValueError: A sequence is longer than `max_len`; nothing is cut.
        """
        if not -(2**31) <= pad_id < 2**31:
            raise ValueError(f"pad_id must fit int32, got {pad_id}")
        if self.ids.dtype != np.int32:
            raise ValueError("the batch holds ids that do not fit int32; no tokenizer has such")
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        width = longest if max_len is None else max_len
        if longest > width:
            raise ValueError(
                f"chunk {int(lengths.argmax())} has {longest} tokens, more than max_len {max_len}; "
                f"{int((lengths > width).sum())} of {len(self)} chunks are too long"
            )
        mask = np.arange(width) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, np.int32)
        ids[mask] = self.ids
        return ids, mask

    def take(self, order: NDArray[np.integer]) -> TokenBatch:
        """The sequences of these numbers (n,), with all that was counted of them, in this order."""
        part = TokenBatch.from_lists([self[int(i)] for i in order])
        counts = self.saturated[order], self.clipped[order], self.dropped[order], self.rechecked[order]
        return TokenBatch(part.ids, part.offsets, *counts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, index: slice) -> TokenBatch: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int32] | TokenBatch:
        if isinstance(index, slice):
            picked = range(len(self))[index]
            if picked.step != 1 or len(picked) == 0:
                return self.take(np.array(picked, np.int64))
            span = self.offsets[picked.start : picked.stop + 1]
            ids, offsets = self.ids[span[0] : span[-1]], span - span[0]
            counts = self.saturated[index], self.clipped[index], self.dropped[index], self.rechecked[index]
            return TokenBatch(ids, offsets, *counts)
        i = range(len(self))[index]
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        for i in range(len(self)):
            yield self.ids[self.offsets[i] : self.offsets[i + 1]]

    def __repr__(self) -> str:
        mean = len(self.ids) / max(1, len(self))
        return f"TokenBatch({len(self)} chunks, {len(self.ids)} ids, {mean:.1f} a chunk)"


def first_ids(batch: TokenBatch, counts: NDArray[np.integer]) -> NDArray[np.int32]:
    """The first `counts` (N,) ids of each sequence, one after the other."""
    position = np.arange(len(batch.ids)) - np.repeat(batch.offsets[:-1], batch.lengths)
    return batch.ids[position < np.repeat(counts, batch.lengths)]


def _integer_array(values: Any, what: str, rank: int) -> NDArray[np.signedinteger]:
    """`values` as int32; as int64 when an id does not fit, so that errors can name it."""
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what}: expected integers, got dtype {array.dtype}")
    if array.ndim != rank:
        hint = "; for one sequence of ids pass [ids]" if array.ndim == rank - 1 else ""
        raise ValueError(f"{what}: expected rank {rank}, got shape {array.shape}{hint}")
    if array.dtype.kind == "u":
        array = array.clip(None, np.iinfo(np.int64).max)
    int32 = np.iinfo(np.int32)
    fits = array.dtype.itemsize <= 4 and array.dtype.kind == "i"
    if not fits and array.size:
        fits = int(array.min()) >= int32.min and int(array.max()) <= int32.max
    return array.astype(np.int32 if fits or array.size == 0 else np.int64, copy=False)
