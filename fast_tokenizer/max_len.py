"""Which maximum length truncates how many sequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import integer

_SHARES = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class MaxLenReport:
    """Lengths of a corpus' sequences, and the maximum length that they need.

    Attributes:
        recommended: Smallest maximum length, of those allowed, that truncates no more than was allowed.
        counts: (longest + 1,) int64; sequences of each length.
        candidates: Maximum lengths in the printed table, rising.
    """

    recommended: int
    counts: NDArray[np.int64]
    candidates: tuple[int, ...]

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return int(self.counts.sum())

    def truncated(self, max_len: int) -> int:
        """Sequences that are longer than `max_len`."""
        return int(self.counts[integer("max_len", max_len, 0, 2**31 - 1, "0 or more") + 1 :].sum())

    def quantile(self, share: float) -> int:
        """Smallest length that at least this share of the sequences keeps to, in (0, 1]."""
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        return _length_for(self.counts, math.ceil(_exact(share) * self.sequences))

    def __str__(self) -> str:
        lengths = np.flatnonzero(self.counts)
        mean = float(self.counts @ np.arange(len(self.counts))) / self.sequences
        lines = [
            f"{self.sequences} sequences of {lengths[0]}..{lengths[-1]} tokens, {mean:.1f} on average",
            f"recommended max_len {self.recommended}",
            "  share of sequences    length",
            *(f"  {100 * share:>16.1f} %  {self.quantile(share):>8}" for share in _SHARES),
            "             max_len   truncated      share",
        ]
        for max_len in self.candidates:
            truncated = self.truncated(max_len)
            lines.append(f"  {max_len:>18}  {truncated:>10}  {100 * truncated / self.sequences:>7.3f} %")
        return "\n".join(lines)


def recommend_max_len(
    lengths: Iterable[ArrayLike],
    *,
    max_truncated: float = 0.0,
    multiple: int = 8,
    candidates: Sequence[int] = (),
) -> MaxLenReport:
    """Finds the maximum length for a corpus.

    Args:
        lengths: Numbers of tokens: one array, or arrays one at a time, such as
            ``(builder.lengths(p, s, a) for p, s, a in corpus)`` with a `PromptBuilder`. Only a histogram is held.
        max_truncated: Share of the sequences that may be truncated, in [0, 1).
        multiple: The recommended length is a multiple of this.
        candidates: Further maximum lengths for the printed table, besides those that the quantiles need.

    Raises:
        ValueError: There are no lengths, or they are no numbers of tokens.

    Example:
        >>> report = recommend_max_len([[90, 100, 120, 120], [130, 181]], max_truncated=0.2, candidates=[180])
        >>> report.recommended, report.truncated(136), report.truncated(180), report.quantile(0.5)
        (136, 1, 1, 120)
    """
    if not 0 <= max_truncated < 1:
        raise ValueError(f"max_truncated must lie in [0, 1), got {max_truncated}")
    step = integer("multiple", multiple, 1, 2**20, "positive")
    more = [integer("candidates", c, 1, 2**31 - 1, "positive") for c in candidates]
    counts = np.zeros(0, np.int64)
    if isinstance(lengths, str) or not isinstance(lengths, Iterable):
        raise ValueError(f"expected arrays of lengths, got {lengths!r}")
    parts: Iterable[Any] = [lengths] if hasattr(lengths, "__array__") else lengths
    for i, part in enumerate(parts):
        new = _histogram(part, i)
        if len(new) < len(counts):
            new, counts = counts, new
        new[: len(counts)] += counts
        counts = new
    total = int(counts.sum())
    if total == 0:
        raise ValueError("got no lengths to recommend from")

    def rounded(length: int) -> int:
        return max(1, -(-length // step)) * step

    recommended = rounded(_length_for(counts, total - math.floor(_exact(max_truncated) * total)))
    needed = {rounded(_length_for(counts, math.ceil(_exact(share) * total))) for share in _SHARES}
    return MaxLenReport(recommended, counts, tuple(sorted({recommended, *needed, *more})))


def _histogram(lengths: ArrayLike, part: int) -> NDArray[np.int64]:
    try:
        array = np.asarray(lengths)
    except ValueError as error:  # ragged
        raise ValueError(f"lengths, part {part}: not an array of numbers: {error}") from None
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 2**24:
        got = f"{array.dtype} {array.min()}..{array.max()}" if array.dtype.kind in "iuf" else f"dtype {array.dtype}"
        raise ValueError(f"lengths, part {part}: expected numbers of tokens in 0..2**24, got {got}")
    return np.bincount(array.reshape(-1).astype(np.int64))


def _length_for(counts: NDArray[np.int64], sequences: int) -> int:
    """Smallest length that so many sequences keep to."""
    return int(np.searchsorted(np.cumsum(counts), sequences))


def _exact(share: float) -> Fraction:
    """0.999 as 999 / 1000: the nearest float would count one sequence too few or many."""
    return Fraction(repr(float(share)))
