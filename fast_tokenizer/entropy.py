"""How few bits could a chunk's quantized coefficients take? Yardsticks for a vocabulary, not a way to code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Chunks after which the context model learns what it has seen of the chunks that it is measured on.
_LEARN_EVERY = 32
#: Weight of the coarser context, in observations.
_BACKOFF = 16.0


@dataclass(frozen=True, slots=True)
class EntropyBounds:
    """Bits a chunk, over held-out chunks: estimates by models, not bounds, in spite of the name.

    A code over V ids that knows no more than the model needs about ``bits / log2(V)`` tokens a chunk; one that knows
    more, such as whole motions as single ids, can take fewer. On few chunks a model with more places may be the worse.

    Attributes:
        order_0: One distribution for all coefficients, that of the held-out chunks themselves.
        per_place: One for each frequency and dimension, learnt from other chunks.
        context: Adaptive: frequency, dimension, and how large the coefficients next to it are that are known by then
            (the two lower frequencies of the dimension, the same frequency of the dimension before); learnt from other
            chunks and from the held-out ones before.
    """

    order_0: float
    per_place: float
    context: float

    def tokens(self, vocab_size: int) -> EntropyBounds:
        """The same as tokens of log2(vocab_size) bits.

        Example:
            >>> EntropyBounds(300.0, 200.0, 100.0).tokens(1024)
            EntropyBounds(order_0=30.0, per_place=20.0, context=10.0)
        """
        bits = float(np.log2(vocab_size))
        return EntropyBounds(self.order_0 / bits, self.per_place / bits, self.context / bits)


def entropy_bounds(train: NDArray[np.integer], held: NDArray[np.integer]) -> EntropyBounds:
    """Bits a chunk of quantized coefficients.

    Args:
        train: (N, T, D) integers that the models learn from.
        held: (M, T, D), those that are measured.

    Raises:
        ValueError: Other shapes, or none.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> coefficients = rng.integers(0, 2, (2000, 8, 2)) * np.array([64, 8] + [0] * 6)[:, None]
        >>> bounds = entropy_bounds(coefficients[:1000], coefficients[1000:])  # 4 fair coins a chunk, in known places
        >>> round(bounds.order_0, 1), round(bounds.per_place, 1), round(bounds.context, 1)
        (10.6, 4.2, 4.0)
    """
    if train.ndim != 3 or train.shape[1:] != held.shape[1:] or len(train) == 0 or len(held) == 0:
        raise ValueError(f"expected coefficients (N, T, D) and (M, T, D), got {train.shape} and {held.shape}")
    both = np.concatenate([train, held]).astype(np.int64)
    values, symbol = np.unique(both, return_inverse=True)
    symbol = symbol.reshape(both.shape)
    counts = np.bincount(symbol[len(train) :].reshape(-1)).astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    place, *contexts = _contexts(both)
    a_chunk = len(held)
    return EntropyBounds(
        order_0=float(-(counts[counts > 0] * np.log2(shares)).sum() / a_chunk),
        per_place=_bits(symbol, [place], len(values), len(train), learn=False) / a_chunk,
        context=_bits(symbol, [place, *contexts], len(values), len(train), learn=True) / a_chunk,
    )


def _contexts(c: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Contexts of each coefficient, (N, T, D) numbers; each is smoothed by the one before.

    Finer ones, with more neighbours or finer sizes, need more data than recorded sets have: tried, they cost bits.
    """
    _, T, D = c.shape
    frequency, dimension = np.arange(T)[:, None], np.arange(D)
    place = np.broadcast_to(frequency * D + dimension, c.shape)
    below = np.pad(np.abs(c), ((0, 0), (2, 0), (0, 0)))
    one_below, two_below = below[:, 1:-1], below[:, :-2]
    beside = np.pad(np.abs(c), ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    half_octave = np.floor(2 * np.log2(frequency + 1)).astype(np.int64)
    activity = half_octave * 8 + _octave(2 * one_below + two_below, 7)
    return [place, activity, activity * 4 + _octave(beside, 3), place * 8 + _octave(2 * one_below + two_below, 7)]


def _octave(size: NDArray[np.int64], highest: int) -> NDArray[np.int64]:
    """0, 1, 2 for 2 and 3, 3 for 4 to 7, ...; at most `highest`."""
    return np.minimum(np.ceil(np.log2(size + 1)).astype(np.int64), highest)


def _bits(
    symbol: NDArray[np.int64], contexts: list[NDArray[np.int64]], alphabet: int, trained: int, *, learn: bool
) -> float:
    """Bits of the chunks from `trained` on, of (N, T, D) symbols, by counts in their contexts.

    The finest context's counts are smoothed by the next coarser one's prediction, and so on; the coarsest's by a
    uniform distribution.
    """
    levels = []
    for context in contexts:
        seen, number = np.unique(context, return_inverse=True)
        pairs, pair = np.unique(number.reshape(-1) * alphabet + symbol.reshape(-1), return_inverse=True)
        levels.append(_Level(number.reshape(symbol.shape), pair.reshape(symbol.shape), len(seen), len(pairs)))
    for level in levels:
        level.learn(slice(0, trained))
    bits = 0.0
    for first in range(trained, len(symbol), _LEARN_EVERY):
        part = slice(first, first + _LEARN_EVERY)
        probability = np.full(symbol[part].shape, 1 / alphabet)
        for level in levels:
            probability = level.predict(part, probability)
        bits -= float(np.log2(probability).sum())
        if learn:
            for level in levels:
                level.learn(part)
    return bits


class _Level:
    """Counts of the symbols in one kind of context."""

    def __init__(self, context: NDArray[np.int64], pair: NDArray[np.int64], contexts: int, pairs: int) -> None:
        self._context, self._pair = context, pair
        self._in_context, self._of_pair = np.zeros(contexts), np.zeros(pairs)

    def learn(self, part: slice) -> None:
        self._in_context += np.bincount(self._context[part].reshape(-1), minlength=len(self._in_context))
        self._of_pair += np.bincount(self._pair[part].reshape(-1), minlength=len(self._of_pair))

    def predict(self, part: slice, coarser: NDArray[np.float64]) -> NDArray[np.float64]:
        counted, total = self._of_pair[self._pair[part]], self._in_context[self._context[part]]
        return np.asarray((counted + _BACKOFF * coarser) / (total + _BACKOFF))
