"""What the native core does, in plain NumPy and Python: slow, short, and meant to be read.

One action chunk's way to token ids, one function per step::

    chunk (T, D) raw units --normalize--> (T, D) about [-1, 1] --dct2--> (T, D) coefficients, a row per frequency
      --scale, round_ties_to_even--> integers --saturate, shift--> symbols 0..A-1 --encode_bpe--> token ids 0..V-1

and back::

    token ids --expand--> symbols --fit_to_length--> T * D symbols --shift, unscale--> coefficients --dct3--> (T, D)
      --denormalize--> chunk (T, D) raw units

`fitted_range` and `train_bpe` make the vocabulary. The published tokenizers go by text instead; that is the last
section. The tests hold each native stage against its function here, and nothing else imports this file. The words
(chunk, coefficient, symbol, token, merge) mean the same everywhere.

Example:
    >>> from fast_tokenizer.spec import TokenizerSpec
    >>> spec = TokenizerSpec(10.0, -20, 20, np.array([[20, 20]]))  # symbol 20 is coefficient 0, id 41 two of them
    >>> chunk = np.linspace(-1, 1, 8)[:, None]
    >>> encode(chunk, spec)
    Encoded(ids=[20, 2, 20, 18, 20, 19, 41], saturated=0, clipped=0)
    >>> decoded = decode([20, 2, 20, 18, 20, 19, 41], spec, T=8, D=1)
    >>> bool(np.linalg.norm(decoded.chunk - chunk) < 0.5 / 10 * np.sqrt(8 * 1))  # half a step per coefficient
    True
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_COEFFICIENT, MAX_TOKEN_SYMBOLS
from fast_tokenizer.compat.byte_level import BYTE_CHARACTERS, character_classes
from fast_tokenizer.compat.published import PublishedSpec
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.spec import TokenizerSpec

Pair = tuple[int, int]

# ---- Relative actions --------------------------------------------------------------------------------


def origin(spec: TokenizerSpec, D: int, state: NDArray[np.floating] | None) -> NDArray[np.float64]:
    """(D,): what each dimension of a chunk is counted from: a column of the state at its start, or 0."""
    values = np.zeros(D)
    if spec.relative is not None:
        assert state is not None
        for d, column in zip(spec.relative.dimensions, spec.relative.state_columns, strict=True):
            values[d] = state[column]
    return values


# ---- Normalisation -----------------------------------------------------------------------------------


def normalize(chunk: NDArray[np.floating], normalizer: Normalizer | None) -> tuple[NDArray[np.float64], int]:
    """Maps every dimension to about [-1, 1], and cuts what lies beyond `clip` where there is one.

    A dimension with ``half_range`` 0 was constant when the normaliser was fitted: all its values map to 0.

    Args:
        chunk: (T, D), raw units.
        normalizer: None: the chunk is taken as it is.

    Returns:
        (T, D) float64, and the count of clipped values: those that were cut, and those in a constant dimension that
        are not its constant.
    """
    x = chunk.astype(np.float64)
    if normalizer is None:
        return x, 0
    constant = normalizer.half_range == 0
    # Times 1 / half_range, as the core does it: the last bit can differ from a division's.
    gain = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, normalizer.half_range))
    y = (x - normalizer.center) * gain
    clip = np.inf if normalizer.clip is None else normalizer.clip
    clipped = (np.abs(y) > clip) | (constant & (x != normalizer.center))
    return np.clip(y, -clip, clip), int(clipped.sum())


def denormalize(normalized: NDArray[np.float64], normalizer: Normalizer | None) -> NDArray[np.float64]:
    """The reverse, (T, D) to (T, D). A constant dimension comes back as its constant, whatever the values are."""
    if normalizer is None:
        return normalized
    return normalized * normalizer.half_range + normalizer.center


# ---- Discrete cosine transform -----------------------------------------------------------------------


def cosine_matrix(T: int) -> NDArray[np.float64]:
    """(T, T) orthonormal DCT-II: row k holds ``a_k cos(pi k (2t + 1) / 2T)``, a_0 = sqrt(1/T), a_k = sqrt(2/T).

    Example:
        >>> bool(np.allclose(cosine_matrix(5) @ cosine_matrix(5).T, np.eye(5)))
        True
    """
    k, t = np.arange(T)[:, None], np.arange(T)
    quarter_turns = k * (2 * t + 1) % (4 * T)  # the cosine repeats after 4T; reduced as integers, so exactly
    amplitude = np.where(k == 0, np.sqrt(1 / T), np.sqrt(2 / T))
    return np.asarray(amplitude * np.cos(np.pi * quarter_turns / (2 * T)), np.float64)


def dct2(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """DCT-II along time: (T, D) values to (T, D) coefficients, a row per frequency."""
    return np.asarray(cosine_matrix(len(x)) @ x)


def dct3(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """DCT-III, the inverse: (T, D) coefficients to (T, D) values."""
    return np.asarray(cosine_matrix(len(coefficients)).T @ coefficients)


# ---- Quantization ------------------------------------------------------------------------------------


def round_ties_to_even(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest integer; what lies within 1e-9 of halfway is a tie and goes to the even neighbour.

    On recorded data exact ties are common (a gripper of 0 and 1 at T = 16), and whether a sum comes out as 2.5 or as
    2.4999999999999996 depends on the order of its additions. With a tie this wide, no order changes the result.

    Example:
        >>> round_ties_to_even(np.array([0.5, 1.5, 2.5, 2.5 + 1e-12, 2.5 + 1e-6])).tolist()
        [0.0, 2.0, 2.0, 2.0, 3.0]
    """
    nearest = np.rint(y)
    is_tie = np.abs(y - nearest) >= 0.5 - 1e-9
    nearest_even = 2 * np.rint(y / 2)
    return np.where(is_tie, nearest_even, nearest)


def quantized_coefficients(chunk: NDArray[np.floating], spec: TokenizerSpec) -> tuple[NDArray[np.int64], int]:
    """Integer coefficients before any are cut to the fitted range.

    Args:
        chunk: (T, D), raw units.
        spec: Its normaliser and scale are used.

    Returns:
        (T, D) int64, and the count of values that the normaliser clipped.
    """
    y, clipped = normalize(chunk, spec.normalizer)
    scaled = dct2(y) * np.array(spec.scales)
    rounded = round_ties_to_even(scaled)
    if spec.dead_zone > 0.5:
        rounded[np.abs(scaled) < spec.dead_zone + 1e-9] = 0
    return rounded.astype(np.int64), clipped


class Quantized(NamedTuple):
    """A chunk as (T, D) symbols; how many coefficients were cut to the fitted range, how many values clipped."""

    symbols: NDArray[np.int64]
    saturated: int
    clipped: int


def quantize(chunk: NDArray[np.floating], spec: TokenizerSpec) -> Quantized:
    """Chunk (T, D) to symbols (T, D), a row per frequency.

    Symbol s stands for coefficient ``spec.levels[s]``. A coefficient outside the fitted range takes the nearest of
    them, of two the one farther out, and is counted.
    """
    coefficients, clipped = quantized_coefficients(chunk, spec)
    symbols = coefficients - spec.min_coefficient
    outside = (coefficients < spec.min_coefficient) | (coefficients > spec.max_coefficient)
    levels = spec.levels.astype(np.int64)
    outwards = np.argsort(-np.abs(levels), kind="stable")  # of two that are equally near, the first is taken
    distance = np.abs(coefficients[outside][:, None] - levels[outwards])
    symbols[outside] = outwards[distance.argmin(axis=1)]
    return Quantized(symbols, int(outside.sum()), clipped)


def dequantize(symbols: NDArray[np.integer], spec: TokenizerSpec) -> NDArray[np.float64]:
    """Symbols (T, D) to the chunk (T, D) that they stand for, in raw units."""
    coefficients = spec.levels[symbols.astype(np.int64)]
    return denormalize(dct3(coefficients / np.array(spec.scales)), spec.normalizer)


def fitted_range(coefficients: NDArray[np.int64], quantile: float) -> Pair:
    """Lowest and highest coefficient that get a symbol; 0 always does.

    Args:
        coefficients: All the quantized coefficients of a corpus, in any order and shape.
        quantile: At most a share ``1 - quantile`` of them lies below the range, and at most that share above. 1: none.

    Example:
        >>> fitted_range(np.array([-9, -1, 0, 0, 0, 0, 1, 2, 3, 3]), 0.875)
        (-1, 3)
    """
    ordered = np.sort(np.clip(coefficients, -MAX_COEFFICIENT, MAX_COEFFICIENT).reshape(-1))
    may_drop = int((1.0 - quantile) * len(ordered))
    return min(0, int(ordered[may_drop])), max(0, int(ordered[-1 - may_drop]))


# ---- Order, and ends of blocks -----------------------------------------------------------------------


def arrange(symbols: NDArray[np.integer], spec: TokenizerSpec) -> list[int]:
    """Symbols (T, D), a row per frequency, to the sequence that is byte-pair-encoded.

    Frequency-first: all dimensions of frequency 0, then of 1, ...; dimension-first: the other way round. With an end of
    block, a block's last zeros are left out, and the end-of-block symbol stands for them, if there are any.
    """
    ordered = symbols if spec.order == "frequency-first" else symbols.T
    if spec.end_of_block is None:
        return [int(s) for s in ordered.reshape(-1)]
    blocks = ordered if spec.end_of_block == "dimension" else ordered.reshape(1, -1)
    sequence: list[int] = []
    for block in blocks.tolist():
        used = len(block)
        while used > 0 and block[used - 1] == spec.zero_symbol:
            used -= 1
        sequence += block[:used]
        if used < len(block):
            assert spec.end_symbol is not None
            sequence.append(spec.end_symbol)
    return sequence


class Arranged(NamedTuple):
    """Symbols (T, D), a row per frequency; how many the sequence did not describe, and how many it had too many."""

    symbols: NDArray[np.int64]
    missing: int
    extra: int


def rearrange(sequence: Sequence[int], spec: TokenizerSpec, T: int, D: int) -> Arranged:
    """The reverse of `arrange`, of any sequence: missing symbols are coefficient 0, those too many are left out."""
    block = T if spec.end_of_block == "dimension" else T * D
    flat = np.full(T * D, spec.zero_symbol)
    at, extra = 0, 0
    for symbol in sequence:
        if at == T * D:
            extra += 1
        elif symbol == spec.end_symbol:
            at = (at // block + 1) * block
        else:
            flat[at] = symbol
            at += 1
    symbols = flat.reshape(T, D) if spec.order == "frequency-first" else flat.reshape(D, T).T
    return Arranged(symbols, T * D - at, extra)


# ---- Byte-pair encoding, on integers -----------------------------------------------------------------
#
# Token ids 0..A-1 are the symbols. Merge i joins a pair of smaller ids into id A + i; i is its rank.


def count_pairs(sequences: Iterable[Sequence[int]]) -> Counter[Pair]:
    """Counts neighbours, at every position: in (a, a, a) the pair (a, a) stands twice. None spans two sequences.

    Example:
        >>> count_pairs([[7, 7, 7], [7, 8]])
        Counter({(7, 7): 2, (7, 8): 1})
    """
    return Counter(pair for tokens in sequences for pair in pairwise(tokens))


def replace_pair(tokens: Sequence[int], pair: Pair, merged: int) -> list[int]:
    """Puts `merged` wherever `pair` stands, from left to right: of an odd run, the last one stays.

    Example:
        >>> replace_pair([7, 7, 7, 8, 7, 7], (7, 7), merged=9)
        [9, 7, 8, 9]
    """
    out: list[int] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(merged)
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def train_bpe(
    sequences: Iterable[Sequence[int]],
    alphabet_size: int,
    vocab_size: int,
    min_frequency: int = 2,
    max_token_symbols: int = MAX_TOKEN_SYMBOLS,
) -> list[Pair]:
    """Exact greedy training: again and again merges the most frequent pair; of equals, the smallest one.

    Args:
        sequences: One per chunk, of symbols below `alphabet_size`.
        alphabet_size: Number of symbols A.
        vocab_size: Ids to end with, symbols included.
        min_frequency: A pair that occurs less often is not merged. (Nor is one that does not occur at all.)
        max_token_symbols: A pair that would stand for more symbols is not merged.

    Returns:
        At most ``vocab_size - alphabet_size`` merges; fewer when no pair is left to merge.

    Example:
        >>> train_bpe([[0, 1, 0, 1, 2], [0, 1, 2]], alphabet_size=3, vocab_size=5)
        [(0, 1), (3, 2)]
    """
    corpus = [list(tokens) for tokens in sequences]
    lengths = [1] * alphabet_size  # symbols that each token stands for
    merges: list[Pair] = []
    while alphabet_size + len(merges) < vocab_size:
        counts = {
            (left, right): count
            for (left, right), count in count_pairs(corpus).items()
            if count >= min_frequency and lengths[left] + lengths[right] <= max_token_symbols
        }
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merged = alphabet_size + len(merges)
        corpus = [replace_pair(tokens, best, merged) for tokens in corpus]
        merges.append(best)
        lengths.append(lengths[best[0]] + lengths[best[1]])
    return merges


def encode_bpe(symbols: Sequence[int], merges: Sequence[Pair], alphabet_size: int) -> list[int]:
    """Symbols to token ids: repeats the training, merge by merge.

    Of the merges whose pair is present the one of lowest rank is made, wherever its pair stands; until none is left.

    Example:
        >>> encode_bpe([0, 1, 0, 0, 1, 2], merges=[(0, 1), (3, 2)], alphabet_size=3)
        [3, 0, 4]
    """
    rank = {pair: i for i, pair in enumerate(merges)}
    tokens = list(symbols)
    while True:
        present = [rank[pair] for pair in count_pairs([tokens]) if pair in rank]
        if not present:
            return tokens
        lowest = min(present)
        tokens = replace_pair(tokens, merges[lowest], merged=alphabet_size + lowest)


def encode_shortest(symbols: Sequence[int], merges: Sequence[Pair], alphabet_size: int) -> list[int]:
    """Symbols to as few token ids as spell them; of several such, the one whose first token is longest, and so on.

    Example:
        >>> encode_bpe([0, 1, 2, 2], merges=[(1, 2), (0, 1), (2, 2)], alphabet_size=3)
        [0, 3, 2]
        >>> encode_shortest([0, 1, 2, 2], merges=[(1, 2), (0, 1), (2, 2)], alphabet_size=3)
        [4, 5]
    """
    ids_of: dict[tuple[int, ...], int] = {}
    for token, spelling in enumerate(expansions(merges, alphabet_size)):
        ids_of.setdefault(tuple(spelling), token)  # of those that are spelled alike, the first
    longest = max(map(len, ids_of))
    fewest = [0] * (len(symbols) + 1)  # tokens from each place on
    end_of = [0] * len(symbols)  # of the first of them
    for begin in reversed(range(len(symbols))):
        ends = [e for e in range(begin + 1, len(symbols) + 1)[:longest] if tuple(symbols[begin:e]) in ids_of]
        end_of[begin] = min(ends, key=lambda end: (fewest[end], -end))
        fewest[begin] = 1 + fewest[end_of[begin]]
    ids, at = [], 0
    while at < len(symbols):
        ids.append(ids_of[tuple(symbols[at : end_of[at]])])
        at = end_of[at]
    return ids


def expansions(merges: Sequence[Pair], alphabet_size: int) -> list[list[int]]:
    """The symbols that each of the V token ids stands for.

    Example:
        >>> expansions([(0, 1), (2, 0)], alphabet_size=2)
        [[0], [1], [0, 1], [0, 1, 0]]
    """
    table = [[symbol] for symbol in range(alphabet_size)]
    for left, right in merges:
        table.append(table[left] + table[right])
    return table


def expand(ids: Iterable[int], merges: Sequence[Pair], alphabet_size: int) -> list[int]:
    """Token ids back to symbols. The ids must be in the vocabulary."""
    table = expansions(merges, alphabet_size)
    return [symbol for token in ids for symbol in table[token]]


def could_be_trained(merges: Sequence[Pair], alphabet_size: int) -> bool:
    """Whether the core accepts these merges.

    Each must join two ids that exist before it, no pair may occur twice, and the symbols of every token must encode to
    that token: training made it from them, so it must be found again.

    Example:
        >>> could_be_trained([(0, 1), (3, 2)], alphabet_size=3)
        True
        >>> could_be_trained([(0, 1), (1, 2), (0, 4)], alphabet_size=3)  # 0 1 2 becomes 3 2, never 0 4
        False
    """
    if any(not 0 <= part < alphabet_size + i for i, pair in enumerate(merges) for part in pair):
        return False
    if len(set(merges)) < len(merges):
        return False
    return all(
        encode_bpe(symbols, merges, alphabet_size) == [token]
        for token, symbols in enumerate(expansions(merges, alphabet_size))
    )


# ---- All of it ---------------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Token ids of a chunk; how many coefficients were cut to the fitted range, how many values clipped."""

    ids: list[int]
    saturated: int
    clipped: int


def encode(chunk: NDArray[np.floating], spec: TokenizerSpec, state: NDArray[np.floating] | None = None) -> Encoded:
    """Chunk (T, D), raw units, to token ids; `state` (S,) is that at its start, for relative dimensions."""
    chunk = chunk - origin(spec, chunk.shape[1], state)
    symbols, saturated, clipped = quantize(chunk, spec)
    parse = encode_bpe if spec.parsing == "bpe" else encode_shortest
    return Encoded(parse(arrange(symbols, spec), _pairs(spec), spec.alphabet_size), saturated, clipped)


class Decoded(NamedTuple):
    """A chunk (T, D), and what had to be done to its ids: all zero when they described it exactly."""

    chunk: NDArray[np.float64]
    unknown: int
    missing: int
    extra: int


def decode(
    ids: Sequence[int], spec: TokenizerSpec, T: int, D: int, state: NDArray[np.floating] | None = None
) -> Decoded:
    """Token ids to the chunk (T, D), raw units. Any ids have a result.

    Ids outside the vocabulary are dropped, missing symbols are coefficient 0, and symbols too many are cut off.
    """
    known = [i for i in ids if 0 <= i < spec.vocab_size]
    symbols, missing, extra = rearrange(expand(known, _pairs(spec), spec.alphabet_size), spec, T, D)
    chunk = dequantize(symbols, spec) + origin(spec, D, state)
    return Decoded(chunk, len(ids) - len(known), missing, extra)


def _pairs(spec: TokenizerSpec) -> list[Pair]:
    return [(int(left), int(right)) for left, right in spec.merges]


# ---- Published tokenizers ----------------------------------------------------------------------------
#
# chunk --scipy's dct, scale, round, minus min_token--> characters --split_words--> words --UTF-8--> bytes
#   --apply_merges in each word--> token ids


def published_text(chunk: NDArray[np.floating], spec: PublishedSpec) -> str:
    """The text of a chunk (T, D): one character a coefficient; lower ones than `min_token` become character 0."""
    quantized = np.around(scipy.fft.dct(chunk, axis=0, norm="ortho") * spec.scale)
    return "".join(chr(int(c)) for c in np.maximum(quantized.ravel() - spec.min_token, 0))


def split_words(text: str) -> list[str]:
    r"""GPT-2's words: ``'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+``."""
    classes = character_classes()
    kinds = "".join("oLNs"[classes[ord(ch)]] for ch in text)  # other, letter, number, white space
    words, at = [], 0
    while at < len(text):
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, at)), None)
        if contraction is not None:
            end = at + len(contraction)
        else:
            space = text[at] == " " and at + 1 < len(text) and kinds[at + 1] != "s"  # one goes with the next word
            first = at + 1 if space else at
            end = first + len(kinds[first:]) - len(kinds[first:].lstrip(kinds[first]))
            if kinds[first] == "s" and end < len(text) and end - at > 1:
                end -= 1  # the last white space is left to the word
        words.append(text[at:end])
        at = end
    return words


def encode_published(text: str, spec: PublishedSpec) -> list[int]:
    """Ids of a text. Bytes without a token are left out."""
    id_of = {token: i for i, token in enumerate(spec.tokens)}
    ranks = {(a, b): rank for rank, (a, b) in enumerate(spec.merges.tolist())}
    ids: list[int] = []
    for word in split_words(text):
        tokens = [id_of[BYTE_CHARACTERS[b]] for b in word.encode("utf-8") if BYTE_CHARACTERS[b] in id_of]
        while True:
            pair = min(pairwise(tokens), key=lambda p: ranks.get(p, len(ranks)), default=None)
            if pair is None or pair not in ranks:
                break
            merged, at = id_of[spec.tokens[pair[0]] + spec.tokens[pair[1]]], 0
            while at + 1 < len(tokens):
                if (tokens[at], tokens[at + 1]) == pair:
                    tokens[at : at + 2] = [merged]
                at += 1
        ids += tokens
    return ids


def decode_published(ids: Sequence[int], spec: PublishedSpec) -> list[int | None]:
    """Coefficients that ids stand for; None where bytes are part of no whole character."""
    text = b"".join(spec.token_bytes[i] for i in ids).decode("utf-8", errors="replace")
    whole = "\N{REPLACEMENT CHARACTER}".encode()
    if whole in b"".join(spec.token_bytes[i] for i in ids):
        raise ValueError("U+FFFD itself cannot be told from what is broken here")
    return [None if ch == "\N{REPLACEMENT CHARACTER}" else ord(ch) + spec.min_token for ch in text]
