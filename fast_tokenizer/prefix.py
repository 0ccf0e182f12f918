"""Actions from the first tokens of a chunk, coarse to fine, and what is still missing after each.

In frequency-first order the first tokens hold the slow part of the motion; in dimension-first order, the first
dimensions. What is not there yet is coefficient 0: a chunk that is still being written means something after every
token.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import integer
from fast_tokenizer._core import dct3
from fast_tokenizer.errors import DecodeError
from fast_tokenizer.layout import place
from fast_tokenizer.metrics import normalized_unit
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch, TokensLike

if TYPE_CHECKING:
    from fast_tokenizer.compat.published import PublishedSpec

#: Shares of a chunk's tokens at which `prefix_errors` measures.
FRACTIONS = tuple(i / 20 for i in range(21))


def decode_prefix(
    tokenizer: FastTokenizer,
    tokens: TokensLike,
    k: int,
    time_horizon: int | None = None,
    action_dim: int | None = None,
) -> NDArray[np.float64]:
    """Actions from the first k tokens of each chunk.

    A chunk of fewer tokens is taken as far as it goes. Of published tokenizers, a character that the tokens leave
    unfinished is ignored. With all its tokens a chunk is what `FastTokenizer.decode` gives.

    Args:
        tokenizer: Any tokenizer.
        tokens: As for `decode`: whole chunks, or the beginnings of some.
        k: How many tokens of each.
        time_horizon: Steps T. Not needed when the artefact records it.
        action_dim: Dimensions D. Not needed when the artefact records it.

    Returns:
        (N, T, D) float64, in raw units when the artefact has a normaliser.

    Raises:
        DecodeError: Tokens that begin no chunk: unknown ones, more symbols than a chunk has, broken characters.
        ValueError: A k that is negative or no integer; T or D is missing, or contradicts the artefact.

    Example:
        >>> from fast_tokenizer.prefix import decode_prefix
        >>> tok = FastTokenizer.default()
        >>> chunk = np.sin(np.linspace(0, 6, 50))[:, None] * np.linspace(0.5, 1, 7)
        >>> tokens = tok.encode(chunk[None])
        >>> [round(float(abs(decode_prefix(tok, tokens, k, 50, 7)[0] - chunk).max()), 2) for k in (0, 10, 20, 40)]
        [1.0, 0.88, 0.26, 0.05]
    """
    k = integer("k", k, 0, 2**62, "at least 0")
    horizon, dims = _shape(tokenizer, time_horizon, action_dim)
    batch = TokenBatch.coerce(tokens)
    begun = [_beginning(tokenizer, ids[:k], i, horizon, dims)[0] for i, ids in enumerate(batch)]
    return _actions(tokenizer, np.array(begun, np.float64).reshape(-1, horizon, dims))


def decode_prefixes(
    tokenizer: FastTokenizer,
    ids: Sequence[int] | NDArray[np.integer],
    time_horizon: int | None = None,
    action_dim: int | None = None,
) -> NDArray[np.float64]:
    """Actions from the first 0, 1, ..., K tokens of one chunk of K tokens.

    Args:
        tokenizer: Any tokenizer.
        ids: (K,) token ids.
        time_horizon: As for `decode_prefix`.
        action_dim: As for `decode_prefix`.

    Returns:
        (K + 1, T, D) float64; entry k is ``decode_prefix(tokenizer, [ids], k)[0]``.

    Raises:
        DecodeError: As for `decode_prefix`.
        ValueError: As for `decode_prefix`.
    """
    horizon, dims = _shape(tokenizer, time_horizon, action_dim)
    (array,) = TokenBatch.from_lists([ids])
    begun, needed = _beginning(tokenizer, array, 0, horizon, dims)
    read = np.arange(len(array) + 1)[:, None, None]
    return _actions(tokenizer, np.where(needed <= read, begun, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class ErrorCurve:
    """Errors over all values of all chunks, in normalised units, at P places; each of shape (P,) float64.

    Attributes:
        at: Tokens read, or the share of a chunk's tokens.
        decoded_rmse: Root mean square distance from what all tokens decode to.
        decoded_max_abs_error: Largest such distance.
        actions_rmse: Root mean square distance from the actions that were encoded.
        actions_max_abs_error: Largest such distance.
    """

    at: NDArray[np.float64]
    decoded_rmse: NDArray[np.float64]
    decoded_max_abs_error: NDArray[np.float64]
    actions_rmse: NDArray[np.float64]
    actions_max_abs_error: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixErrors:
    """What is missing after some of the tokens.

    Attributes:
        by_tokens: After 0, 1, ... tokens, up to those of the longest chunk. A chunk of fewer counts with all it has.
        by_fraction: After each of `FRACTIONS` of a chunk's own tokens, rounded up to whole ones.
        lengths: (N,) tokens of each chunk.
    """

    by_tokens: ErrorCurve
    by_fraction: ErrorCurve
    lengths: NDArray[np.int64]


def prefix_errors(tokenizer: FastTokenizer, chunks: Iterable[NDArray[np.floating]]) -> PrefixErrors:
    """Encodes chunks, and decodes every beginning of each.

    Args:
        tokenizer: Any tokenizer.
        chunks: Arrays (N_i, T_i, D), in the units that the tokenizer takes; read one at a time. N_i may be 0.

    Raises:
        ValueError: There are no chunks, or the tokenizer does not take them.
        DecodeError: A published tokenizer dropped part of a chunk, so that its tokens are none. Names the chunk within
            its array.

    Example:
        >>> from fast_tokenizer.prefix import prefix_errors
        >>> chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.03, (20, 50, 7)), axis=1)
        >>> curve = prefix_errors(FastTokenizer.default(), [chunks]).by_fraction
        >>> [round(float(e), 2) for e in curve.actions_rmse[[0, 5, 10, 20]]]
        [0.16, 0.06, 0.03, 0.02]
    """
    lengths: list[int] = []
    by_tokens, by_fraction = _Sums(), _Sums()
    for block in chunks:
        if not len(block):
            continue
        tokens = tokenizer.encode(block)
        # Strictly: the beginnings of what is no chunk would each be taken for a beginning of one.
        tokenizer.decode(tokens, *block.shape[1:])
        for chunk, ids in zip(block, tokens, strict=True):
            prefixes = decode_prefixes(tokenizer, ids, *chunk.shape)
            unit = normalized_unit(tokenizer, chunk.shape[1])
            errors = np.stack([prefixes - prefixes[-1], prefixes - chunk]) * unit
            squares, worst = np.square(errors).sum(axis=(2, 3)), np.abs(errors).max(axis=(2, 3))
            places = np.ceil(np.array(FRACTIONS) * len(ids) - 1e-9).astype(int)
            by_tokens.add(squares, worst, chunk.size)
            by_fraction.add(squares[:, places], worst[:, places], chunk.size)
            lengths.append(len(ids))
    if not lengths:
        raise ValueError("got no chunks to measure on")
    at = np.arange(max(lengths) + 1, dtype=np.float64)
    return PrefixErrors(by_tokens.curve(at), by_fraction.curve(np.array(FRACTIONS)), np.array(lengths))


class _Sums:
    """Squares (2, P) and largest errors (2, P) of chunks, against the decoded and against the actions."""

    def __init__(self) -> None:
        self.squares, self.worst, self.values = np.zeros((2, 1)), np.zeros((2, 1)), 0

    def add(self, squares: NDArray[np.float64], worst: NDArray[np.float64], values: int) -> None:
        """One more chunk. Where it ends first, its last errors hold on; where the sums end first, theirs do."""
        places = max(squares.shape[1], self.squares.shape[1])
        self.squares = _extended(self.squares, places) + _extended(squares, places)
        self.worst = np.maximum(_extended(self.worst, places), _extended(worst, places))
        self.values += values

    def curve(self, at: NDArray[np.float64]) -> ErrorCurve:
        """The errors of all."""
        rmse = np.sqrt(self.squares / self.values)
        return ErrorCurve(at, rmse[0], self.worst[0], rmse[1], self.worst[1])


def _extended(rows: NDArray[np.float64], places: int) -> NDArray[np.float64]:
    return np.pad(rows, ((0, 0), (0, places - rows.shape[1])), mode="edge")


def _shape(tokenizer: FastTokenizer, time_horizon: int | None, action_dim: int | None) -> tuple[int, int]:
    return (
        tokenizer._shape("time_horizon", time_horizon, tokenizer.spec.time_horizon),
        tokenizer._shape("action_dim", action_dim, tokenizer.spec.action_dim),
    )


def _beginning(
    tokenizer: FastTokenizer, ids: NDArray[np.integer], chunk: int, T: int, D: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Whole coefficients (T, D) of a chunk's ids, 0 where there are none, and how many ids it takes to know each."""
    unknown = ids[(ids < 0) | (ids >= tokenizer.vocab_size)]
    if len(unknown):
        raise DecodeError(chunk, "unknown token id", int(unknown[0]), tokenizer.vocab_size)
    spec = tokenizer.one_spec
    if isinstance(spec, TokenizerSpec):
        placed = place(tokenizer.symbols(ids), spec, T, D)
        if placed.extra:
            raise DecodeError(chunk, "too many symbols", T * D + placed.extra, T * D)
        ends = np.cumsum(tokenizer.expansion_lengths[ids])
        known = np.searchsorted(ends, placed.symbol, "right") + 1
        return placed.coefficients, np.where(placed.symbol < 0, len(ids) + 1, known)
    text, whole = _characters(tokenizer, spec, ids, chunk)
    if len(text) > T * D:
        raise DecodeError(chunk, "too many symbols", len(text), T * D)
    coefficients, needed = np.zeros(T * D, np.int32), np.full(T * D, len(ids) + 1)
    coefficients[: len(text)] = text + spec.min_coefficient
    needed[: len(text)] = np.searchsorted(whole, np.arange(len(text)), "right")
    return coefficients.reshape(T, D), needed.reshape(T, D)


def _characters(
    tokenizer: FastTokenizer, spec: PublishedSpec, ids: NDArray[np.integer], chunk: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Whole characters (n,) of K published ids, and how many of them the first 0, 1, ..., K ids hold (K + 1,)."""
    spelled = [spec.token_bytes[i] for i in ids]
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(b"".join(spelled))
    except UnicodeDecodeError:
        broken = tokenizer.decode_with_status([ids], max(1, sum(map(len, spelled))), 1)[1].broken[0]
        raise DecodeError(chunk, "broken characters", int(broken), 0) from None
    ends = np.cumsum([len(ch.encode()) for ch in text])
    whole = np.searchsorted(ends, np.cumsum([0, *map(len, spelled)]), "right")
    return np.array([ord(ch) for ch in text], np.int32), whole


def _actions(tokenizer: FastTokenizer, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, T, D) actions of quantized coefficients."""
    if tokenizer.spec.relative is not None:
        raise ValueError(
            "prefixes are decoded without a state: take tokenizer.without_relative(), and add the state to the actions"
        )
    normalized = dct3(coefficients / np.asarray(tokenizer.spec.scale))
    normalizer = tokenizer.spec.normalizer
    return normalized if normalizer is None else normalizer.invert(normalized)
