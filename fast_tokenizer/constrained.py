"""Which token ids may come next, so that a model can write nothing but well-formed chunks.

A chunk is T * D coefficients. What an id does to a chunk that is being written depends on two things only: how many
coefficients have not begun yet, and, where ids stand for bytes, which bytes of a character are still to come. That is a
small automaton, `TokenGrammar`; with the number of coefficients to write, and the length of the blocks that may end
early, it is an `ActionGrammar`, which says what may come next. The mask for language models is
`fast_tokenizer.generation.ActionLogitsProcessor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import integer
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch, TokensLike

#: No sequence of ids gets there. Far above every count of ids that does.
UNREACHABLE = 1 << 30
_REJECT = -1


@dataclass(frozen=True, slots=True, eq=False)
class TokenGrammar:
    """What each of V ids does to a chunk that is being written, as an automaton of S nodes.

    Node 0: between symbols. A native vocabulary has no other, because an id stands for whole symbols. In a byte-level
    one an id stands for bytes of UTF-8 text, and seven other nodes say what an unfinished character still needs; they
    follow the table of well-formed byte sequences in the Unicode standard (3.9, D92), so that overlong forms and
    surrogates are refused at the first byte that makes them so. A bound on the characters adds up to three.

    Attributes:
        next_node: (S, V) int8. The node after an id; -1 where the id cannot follow.
        begun: (V,) int64. Coefficients that an id begins. What is counted is beginnings, not ends: they do not depend
            on the node before.
        runs: What an id spells, where blocks may end early: V tuples of the numbers of coefficients before, between and
            after its ends of blocks. None: an id has no such ends.
    """

    next_node: NDArray[np.int8]
    begun: NDArray[np.int64]
    runs: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, tokenizer: FastTokenizer, max_coefficient: int | None = None) -> TokenGrammar:
        """The grammar of a tokenizer: of bytes where its ids stand for bytes, of whole symbols otherwise.

        Args:
            tokenizer: Any tokenizer.
            max_coefficient: Of a published one, the highest quantized coefficient to allow.

        Raises:
            ValueError: No `FastTokenizer`; a bound that no character has, or one for a native vocabulary.
        """
        _check_tokenizer(tokenizer)
        spec = tokenizer.one_spec
        if isinstance(spec, TokenizerSpec):
            if max_coefficient is not None:
                raise ValueError("a native vocabulary has no coefficients beyond its fitted range: no max_coefficient")
            if spec.end_symbol is None:
                return cls.of_lengths(tokenizer.expansion_lengths)
            return cls.of_runs([_runs(tokenizer.symbols([i]), spec.end_symbol) for i in range(tokenizer.vocab_size)])
        if max_coefficient is None:
            return cls.of_bytes(spec.token_bytes)
        highest = integer("max_coefficient", max_coefficient, -(2**62), 2**62, "an integer")
        return cls.of_bytes(spec.token_bytes, highest - spec.min_coefficient)

    @classmethod
    def of_lengths(cls, lengths: NDArray[np.integer]) -> TokenGrammar:
        """Of ids that stand for `lengths` (V,) whole symbols.

        Raises:
            ValueError: A length below 1.
        """
        begun = np.asarray(lengths, np.int64)
        if begun.ndim != 1 or (begun < 1).any():
            raise ValueError(f"expected (V,) lengths of at least 1, got {lengths!r}")
        return cls(np.zeros((1, len(begun)), np.int8), begun)

    @classmethod
    def of_runs(cls, runs: Sequence[Sequence[int]]) -> TokenGrammar:
        """Of ids that stand for coefficients and ends of blocks; see `runs`.

        Raises:
            ValueError: An id that stands for nothing.
        """
        for i, counts in enumerate(runs):
            if len(counts) < 1 or min(counts) < 0 or (len(counts) == 1 and counts[0] < 1):
                raise ValueError(f"id {i}: expected numbers of coefficients around ends of blocks, got {counts!r}")
        begun = np.array([sum(counts) for counts in runs], np.int64)
        return cls(np.zeros((1, len(begun)), np.int8), begun, tuple(tuple(counts) for counts in runs))

    @classmethod
    def of_bytes(cls, token_bytes: Sequence[bytes], highest: int | None = None) -> TokenGrammar:
        """Of ids that stand for these bytes, in texts of characters up to the code point `highest`.

        One that stands for none is never allowed: it gets nobody further.

        Raises:
            ValueError: `highest` is no character.
        """
        table = _AFTER if highest is None else _bounded(highest)
        next_node = np.full((len(table), len(token_bytes)), _REJECT, np.int8)
        begun = np.zeros(len(token_bytes), np.int64)
        for i, text in enumerate(token_bytes):
            begun[i] = sum(not _is_continuation(byte) for byte in text)
            for node in range(len(table)) if text else ():
                next_node[node, i] = _run(table, node, text)
        return cls(next_node, begun)

    @property
    def vocab_size(self) -> int:
        """Number of token ids V."""
        return len(self.begun)

    def after(self, symbols: int, block: int) -> NDArray[np.int32]:
        """(V, symbols + 1): what remains after an id, by what remained before; -1 where the id does not fit."""
        before = np.arange(symbols + 1)
        if self.runs is None:
            left = before - self.begun[:, None]
            return np.where(left < 0, _REJECT, left).astype(np.int32)
        table = np.empty((self.vocab_size, symbols + 1), np.int32)
        for i, counts in enumerate(self.runs):
            left, fits = before, np.full(len(before), True)
            for n, count in enumerate(counts):
                if n > 0:  # an end: the rest of the block, if any block is left
                    fits, left = fits & (left > 0), (left - 1) // block * block
                fits, left = fits & (left >= count), left - count
            table[i] = np.where(fits, left, _REJECT)
        return table

    @property
    def reset_node(self) -> NDArray[np.int8]:
        """(V,): the node after an id that begins a symbol, which does not depend on the node before; else -1."""
        node: NDArray[np.int8] = self.next_node.max(axis=0)
        return np.where(self.begun > 0, node, np.int8(_REJECT))


@dataclass(frozen=True, slots=True, eq=False)
class GrammarStates:
    """Where B sequences stand. ``states[rows]`` picks, repeats or reorders them, as beam search does.

    Nothing here writes to the arrays once it has handed them out.

    Attributes:
        node: (B,) int64, of `TokenGrammar`.
        remaining: (B,) int64, coefficients that have not begun.
        tokens_left: (B,) int64, ids that may still come.
    """

    node: NDArray[np.int64]
    remaining: NDArray[np.int64]
    tokens_left: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.node)

    def __getitem__(self, rows: slice | NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> GrammarStates:
        return GrammarStates(self.node[rows], self.remaining[rows], self.tokens_left[rows])


class ActionGrammar:
    """The sequences of ids that decode strictly to one chunk, and no other.

    An id is allowed when it fits the coefficients that remain, and when what is left after it can still be completed:
    with the ids that this vocabulary has, and within `max_tokens`. So no sequence of allowed ids leads into a dead end.
    The end is allowed when nothing remains, and nothing else is allowed then.

    It is not asked that ids be those that `encode` would choose: a chunk can be written in many ways.

    Immutable: it remembers nothing from call to call.

    Args:
        tokens: What each id does.
        symbols: Coefficients of a chunk, T * D.
        max_tokens: Most ids of a chunk, the end not counted. None: as many as it takes.
        block: Coefficients of a block that may end early, a divisor of `symbols`. None: all of them.

    Raises:
        ValueError: No sequence of the vocabulary has so many coefficients, or none of at most `max_tokens` ids; or a
            number that is no integer.

    Example:
        >>> from fast_tokenizer.constrained import ActionGrammar
        >>> tok = FastTokenizer.default()
        >>> grammar = ActionGrammar.of(tok, time_horizon=10, action_dim=7)
        >>> rng = np.random.default_rng(0)
        >>> ids, states = [], grammar.start()
        >>> while not grammar.done(states)[0]:
        ...     ids.append(int(rng.choice(np.flatnonzero(grammar.mask(states)[0]))))
        ...     states = grammar.advance(states, ids[-1:])
        >>> tok.decode([ids], 10, 7).shape  # strictly: noise, but a chunk
        (1, 10, 7)
    """

    __slots__ = ("_after", "_class_of", "_classes", "_fewest", "_max_tokens", "_symbols", "_tokens")

    def __init__(
        self, tokens: TokenGrammar, symbols: int, max_tokens: int | None = None, *, block: int | None = None
    ) -> None:
        self._tokens, self._symbols = tokens, integer("symbols", symbols, 1, 2**31 - 1, "positive")
        block = self._symbols if block is None else integer("block", block, 1, self._symbols, f"in 1..{symbols}")
        if self._symbols % block != 0:
            raise ValueError(f"block must divide the {symbols} symbols of a chunk, got {block}")
        self._classes, self._class_of = _classes(tokens)
        self._after = self._classes.after(self._symbols, block)
        self._fewest = _fewest_tokens(self._classes, self._after)
        fewest = int(self._fewest[0, -1])
        if fewest >= UNREACHABLE:
            raise ValueError(f"no sequence of ids of this vocabulary stands for exactly {symbols} symbols")
        # A symbol takes an id at least, or four of a byte each: no sequence is longer.
        most = self._symbols * (1 if len(tokens.next_node) == 1 else 4)
        self._max_tokens = (
            most if max_tokens is None else min(integer("max_tokens", max_tokens, 0, 2**62, "at least 0"), most)
        )
        if self._max_tokens < fewest:
            raise ValueError(f"a chunk of {symbols} symbols takes at least {fewest} ids, max_tokens is {max_tokens}")

    @classmethod
    def of(
        cls,
        tokenizer: FastTokenizer,
        time_horizon: int | None = None,
        action_dim: int | None = None,
        *,
        max_tokens: int | None = None,
        max_coefficient: int | None = None,
    ) -> ActionGrammar:
        """Of a tokenizer's chunks.

        Args:
            tokenizer: Any tokenizer.
            time_horizon: Steps T. Not needed when the artefact records it.
            action_dim: Dimensions D. Not needed when the artefact records it.
            max_tokens: As for the constructor.
            max_coefficient: Of a published tokenizer, the highest quantized coefficient to allow, such as
                ``tokenizer.spec.max_coefficient``. None: all that decode strictly. Those go up to a million, which is
                thousands of times the range of an action, should a model that is off its track write one.

        Raises:
            ValueError: No `FastTokenizer`; T or D is missing, or contradicts the artefact; or as for the constructor.
        """
        _check_tokenizer(tokenizer)
        horizon = tokenizer._shape("time_horizon", time_horizon, tokenizer.spec.time_horizon)
        dims = tokenizer._shape("action_dim", action_dim, tokenizer.spec.action_dim)
        spec = tokenizer.one_spec
        per_dimension = isinstance(spec, TokenizerSpec) and spec.end_of_block == "dimension"
        block = horizon if per_dimension else horizon * dims
        return cls(TokenGrammar.of(tokenizer, max_coefficient), horizon * dims, max_tokens, block=block)

    # ---- What it is ------------------------------------------------------------------------------

    @property
    def tokens(self) -> TokenGrammar:
        """What each id does."""
        return self._tokens

    @property
    def classes(self) -> tuple[TokenGrammar, NDArray[np.int64]]:
        """The grammar of C classes of ids that do the same, and the class (V,) of each id."""
        return self._classes, self._class_of

    @property
    def after(self) -> NDArray[np.int32]:
        """(C, T * D + 1): coefficients that remain after a class of ids, by those that remained before; -1: no fit."""
        return self._after

    @property
    def fewest(self) -> NDArray[np.int32]:
        """(S, T * D + 1): fewest ids that complete a chunk, by node and what remains; `UNREACHABLE` if none."""
        return self._fewest

    @property
    def symbols(self) -> int:
        """Coefficients of a chunk, T * D."""
        return self._symbols

    @property
    def vocab_size(self) -> int:
        """Number of token ids V."""
        return self._tokens.vocab_size

    @property
    def max_tokens(self) -> int:
        """Most ids that a chunk can take: what the constructor was given, or an id a symbol, or an id a byte."""
        return self._max_tokens

    # ---- Sequences that are being written --------------------------------------------------------

    def start(self, batch: int = 1) -> GrammarStates:
        """The states of `batch` empty sequences."""
        return GrammarStates(
            np.zeros(batch, np.int64), np.full(batch, self._symbols, np.int64), np.full(batch, self._max_tokens)
        )

    def done(self, states: GrammarStates) -> NDArray[np.bool_]:
        """(B,) bool: the chunk is complete. The end may come, and nothing else."""
        done: NDArray[np.bool_] = (states.remaining == 0) & (states.node == 0)
        return done

    def mask(self, states: GrammarStates) -> NDArray[np.bool_]:
        """(B, V) bool: the ids that may come next. No row of it is empty, but of those that are `done`."""
        node = self._classes.next_node[states.node]
        left = self._after[:, states.remaining].T
        needed = self._fewest[np.maximum(node, 0), np.maximum(left, 0)]
        allowed = (node >= 0) & (left >= 0) & (needed < states.tokens_left[:, None])
        return np.take(allowed, self._class_of, axis=1)

    def advance(self, states: GrammarStates, ids: NDArray[np.integer] | Sequence[int]) -> GrammarStates:
        """The states after one more id (B,) in each sequence.

        Raises:
            ValueError: An id that is not allowed. Names the row.
        """
        array = np.asarray(ids)
        if array.shape != (len(states),) or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"expected {len(states)} token ids, one a row, got {array.dtype} of shape {array.shape}")
        after, allowed = self._step(states, array)
        if not allowed.all():
            row = int(allowed.argmin())
            raise ValueError(f"row {row}: {self._why_not(states, row, int(array[row]))}")
        return after

    def _step(self, states: GrammarStates, ids: NDArray[np.integer]) -> tuple[GrammarStates, NDArray[np.bool_]]:
        """The states after one more id each, and whether it was allowed; where not, the state means nothing."""
        known = (ids >= 0) & (ids < self.vocab_size)
        safe = np.where(known, ids, 0).astype(np.int64)
        node = self._tokens.next_node[states.node, safe].astype(np.int64)
        left = self._after[self._class_of[safe], states.remaining].astype(np.int64)
        tokens_left = states.tokens_left - 1
        allowed = known & (node >= 0) & (left >= 0)
        allowed &= self._fewest[np.where(allowed, node, 0), np.where(allowed, left, 0)] <= tokens_left
        return GrammarStates(node, left, tokens_left), allowed

    def _why_not(self, states: GrammarStates, row: int, token: int) -> str:
        refused = f"token id {token} may not come here: "
        if not 0 <= token < self.vocab_size:
            return f"{refused}the vocabulary is 0..{self.vocab_size - 1}"
        begun, remaining = int(self._tokens.begun[token]), int(states.remaining[row])
        if self._after[self._class_of[token], remaining] < 0:
            ends = 0 if self._tokens.runs is None else len(self._tokens.runs[token]) - 1
            and_ends = f" and ends {ends} blocks" if ends else ""
            return f"{refused}it begins {begun} symbols{and_ends}, {remaining} of {self._symbols} remain"
        if self._tokens.next_node[states.node[row], token] < 0:
            return f"{refused}its bytes do not continue a UTF-8 text"
        return f"{refused}what is left after it cannot be completed with this vocabulary and max_tokens"

    # ---- Sequences that are there ----------------------------------------------------------------

    def state_after(self, tokens: TokensLike) -> GrammarStates:
        """The states of B sequences of any lengths.

        Raises:
            ValueError: An id that is not allowed where it stands. Names sequence and position.
        """
        return self._state_after(TokenBatch.coerce(tokens))

    def _state_after(self, batch: TokenBatch) -> GrammarStates:
        states = self.start(len(batch))  # of its own until it returns: it may write to their arrays
        for position in range(int(batch.lengths.max(initial=0))):
            rows = np.flatnonzero(batch.lengths > position)
            ids = batch.ids[batch.offsets[rows] + position]
            after, allowed = self._step(states[rows], ids)
            if not allowed.all():
                i = int(allowed.argmin())
                raise ValueError(
                    f"sequence {rows[i]}, position {position}: {self._why_not(states, rows[i], int(ids[i]))}"
                )
            states.node[rows], states.remaining[rows] = after.node, after.remaining
            states.tokens_left[rows] = after.tokens_left
        return states

    def mask_after(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.bool_]:
        """(V,) bool: the ids that may follow one sequence of ids. All false where only the end may.

        Raises:
            ValueError: An id that is not allowed where it stands.
        """
        allowed: NDArray[np.bool_] = self.mask(self.state_after([ids]))[0]
        return allowed

    def accepts(self, ids: Sequence[int] | NDArray[np.integer]) -> bool:
        """Whether the ids are a whole chunk, which `decode` takes strictly.

        Raises:
            ValueError: They are no integers.
        """
        batch = TokenBatch.from_lists([ids])
        try:
            return bool(self.done(self._state_after(batch))[0])
        except ValueError:
            return False


def _check_tokenizer(tokenizer: FastTokenizer) -> None:
    if not isinstance(tokenizer, FastTokenizer):
        raise ValueError(f"expected a FastTokenizer, got {type(tokenizer).__name__}")


def _classes(tokens: TokenGrammar) -> tuple[TokenGrammar, NDArray[np.int64]]:
    """Ids that do the same share a class: a few hundred instead of thousands. And the class (V,) of each id."""
    runs = tokens.runs if tokens.runs is not None else tuple((n,) for n in tokens.begun.tolist())
    number = {counts: i for i, counts in enumerate(sorted(set(runs)))}
    columns = np.vstack([tokens.next_node, [number[counts] for counts in runs]])
    _, first, class_of = np.unique(columns, axis=1, return_index=True, return_inverse=True)
    chosen = None if tokens.runs is None else tuple(runs[i] for i in first)
    return TokenGrammar(tokens.next_node[:, first], tokens.begun[first], chosen), class_of.reshape(-1)


def _runs(symbols: NDArray[np.integer], end_symbol: int) -> tuple[int, ...]:
    """Numbers of coefficients before, between and after the ends of blocks."""
    ends = np.flatnonzero(symbols == end_symbol)
    return tuple(int(n) for n in np.diff([-1, *ends, len(symbols)]) - 1)


def _fewest_tokens(classes: TokenGrammar, after_class: NDArray[np.int32]) -> NDArray[np.int32]:
    """(S, T * D + 1): fewest ids from a node and a number of remaining coefficients to the end.

    Nodes in their order: an id that begins no symbol leads to a node that stands before, and is known by then.
    """
    symbols = after_class.shape[1] - 1
    fewest = np.full((len(classes.next_node), symbols + 1), UNREACHABLE, np.int32)
    fewest[0, 0] = 0
    if len(classes.next_node) == 1:  # ids stand for whole symbols
        for remaining in range(1, symbols + 1):
            left = after_class[:, remaining]
            fewest[0, remaining] = min(int(fewest[0, left[left >= 0]].min(initial=UNREACHABLE)) + 1, UNREACHABLE)
        return fewest
    edges = [_edges(node, classes.begun) for node in classes.next_node]
    for remaining in range(symbols + 1):
        for node, (after, begun) in enumerate(edges):
            if node == remaining == 0:
                continue
            fits = slice(0, int(np.searchsorted(begun, remaining, "right")))
            best = fewest[after[fits], remaining - begun[fits]].min(initial=UNREACHABLE)
            fewest[node, remaining] = min(int(best) + 1, UNREACHABLE)
    return fewest


def _edges(next_node: NDArray[np.int8], begun: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct (node after, symbols begun) of the ids that may follow a node, by symbols begun."""
    possible = next_node >= 0
    pairs = np.unique(np.stack([begun[possible], next_node[possible].astype(np.int64)]), axis=1)
    return pairs[1], pairs[0]


# ---- UTF-8 -------------------------------------------------------------------------------------------

_Ranges = tuple[tuple[int, int, int], ...]
#: First byte, last byte, node after them; by node. Nodes that need fewer bytes come first.
_UTF8: tuple[_Ranges, ...] = (
    (
        (0x00, 0x7F, 0),
        (0xC2, 0xDF, 1),
        (0xE0, 0xE0, 3),
        (0xE1, 0xEC, 2),
        (0xED, 0xED, 4),
        (0xEE, 0xEF, 2),
        (0xF0, 0xF0, 6),
        (0xF1, 0xF3, 5),
        (0xF4, 0xF4, 7),
    ),
    ((0x80, 0xBF, 0),),
    ((0x80, 0xBF, 1),),
    ((0xA0, 0xBF, 1),),  # after E0: below is overlong
    ((0x80, 0x9F, 1),),  # after ED: above is a surrogate
    ((0x80, 0xBF, 2),),
    ((0x90, 0xBF, 2),),  # after F0: below is overlong
    ((0x80, 0x8F, 2),),  # after F4: above is beyond Unicode
)


#: Node after a byte, by node and byte; -1 where it cannot follow.
_AFTER = [
    [next((after for first, last, after in ranges if first <= byte <= last), _REJECT) for byte in range(256)]
    for ranges in _UTF8
]


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _run(table: list[list[int]], node: int, text: bytes) -> int:
    """The node after `text`, or -1."""
    for byte in text:
        node = table[node][byte]
        if node == _REJECT:
            break
    return node


def _bounded(highest: int) -> list[list[int]]:
    """`_AFTER` for characters up to `highest`: whose bytes so far are its own may not exceed it in the next.

    UTF-8 sorts as code points do. The nodes of its own bytes are appended, those that need fewer bytes first.
    """
    highest = integer("highest", highest, -(2**63), 2**63, "a code point")
    if not 0 <= highest <= 0x10FFFF or 0xD800 <= highest <= 0xDFFF:
        raise ValueError(f"there is no character {highest}: they are 0..1114111, without 55296..57343")
    table = [list(row) for row in _AFTER]
    own = chr(highest).encode()
    row = table[0]
    tight: list[list[int]] = []
    for i, byte in enumerate(own):
        row[byte + 1 :] = [_REJECT] * (255 - byte)
        if i + 1 < len(own):
            following = list(_AFTER[row[byte]])
            row[byte] = len(_AFTER) + len(own) - 2 - i
            tight.insert(0, following)
            row = following
    return table + tight
