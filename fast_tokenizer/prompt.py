r"""The pi0-FAST prompt: task, state and action tokens as one sequence of a VLM's ids, with its masks; and back.

The rules are openpi's (``models/tokenizer.py``, class ``FASTTokenizer``), for the prefix
``"Task: {prompt}, State: {bins};\n"`` and the postfix ``"Action: " + action tokens + "|" + EOS``. Action tokens never
pass through text: they are mapped by `VlmVocab`, and found again between the ids of the two markers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import integer, without_tensors
from fast_tokenizer.chunk import ChunksLike
from fast_tokenizer.state import OutOfRange, state_bins
from fast_tokenizer.text import text_encoder
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch, TokensLike, first_ids
from fast_tokenizer.vlm import VlmVocab

Overlong = Literal["refuse", "cut"]
PromptRule = Literal["pi0-fast", "pi0.5"]

ACTION_MARKER = "Action: "
END_MARKER = "|"

#: Far beyond any context, and below what takes the machine's memory for a slip.
MAX_LEN = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """N sequences of L ids, padded on the right with id 0.

    Attributes:
        tokens: (N, L) int32 VLM ids.
        token_mask: (N, L) bool; true on all but padding.
        ar_mask: (N, L) int32; 0 on the prefix, whose tokens see each other, 1 on the postfix, which is causal.
        loss_mask: (N, L) bool; true on the postfix, with its markers and EOS.
        cut: (N,) int64; tokens that were cut off at the end. A sequence that lost any can no longer be decoded.
        state_clipped: (N,) int64; values of the state outside [-1, 1].
        saturated: (N,) int32; coefficients cut to the fitted range, from the `TokenBatch`.
        clipped: (N,) int32; action values that the normaliser cut, from the `TokenBatch`.
        dropped: (N,) int32; coefficients that a published vocabulary has no ids for, from the `TokenBatch`.
    """

    tokens: NDArray[np.int32]
    token_mask: NDArray[np.bool_]
    ar_mask: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    cut: NDArray[np.int64]
    state_clipped: NDArray[np.int64]
    saturated: NDArray[np.int32]
    clipped: NDArray[np.int32]
    dropped: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class ExtractedTokens:
    """Action tokens found in N generated sequences.

    Attributes:
        tokens: Token ids; -1 stands where an id is no action token, so that strict decoding refuses it and repairing
            decoding drops it.
        marker_found: (N,) bool; ``"Action: "`` was there. Otherwise the sequence is taken from its start, as is right
            when the marker was given to the model instead of generated.
        end_found: (N,) bool; ``"|"`` or EOS was there. Otherwise generation stopped early.
        not_action: (N,) int64; ids between the two that are no action tokens.
    """

    tokens: TokenBatch
    marker_found: NDArray[np.bool_]
    end_found: NDArray[np.bool_]
    not_action: NDArray[np.int64]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) bool: the sequence ends, and has action tokens only. Whether they describe a chunk, decoding says."""
        ok: NDArray[np.bool_] = self.end_found & (self.not_action == 0)
        return ok

    def describe(self, row: int) -> str:
        """One line about one sequence."""
        parts = [
            *(["no 'Action: ', taken from the start"] if not self.marker_found[row] else []),
            *([f"{self.not_action[row]} no action tokens"] if self.not_action[row] else []),
            *(["neither '|' nor EOS"] if not self.end_found[row] else []),
        ]
        return f"row {row}: {len(self.tokens[row])} ids" + "".join(f"; {p}" for p in parts)


class PromptBuilder:
    """Builds pi0-FAST sequences in batches, and finds the action tokens of generated ones.

    Immutable; usable from several threads, and in forked or spawned workers.

    Example:
        >>> from fast_tokenizer.text import TextEncoder
        >>> letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
        >>> tok = FastTokenizer.default()
        >>> builder = PromptBuilder(letters, VlmVocab.paligemma(tok.vocab_size), tokenizer=tok)
        >>> actions = np.zeros((1, 50, 7))
        >>> batch = builder.build(["Pick_up the cup"], np.array([[0.0, 0.5, -1.2]]), actions, max_len=64)
        >>> "".join(map(chr, batch.tokens[0, 1:41]))
        'Task: pick up the cup, State: 128 192 0;'
        >>> batch.tokens.shape, int(batch.state_clipped[0]), int(batch.loss_mask[0].sum())
        ((1, 64), 1, 11)
        >>> found = builder.extract(batch.tokens)
        >>> bool(found.ok.all()), float(abs(tok.decode(found.tokens, 50, 7)).max())
        (True, 0.0)
    """

    __slots__ = ("_end", "_marker", "_out_of_range", "_rule", "_text", "_tokenizer", "_vlm")

    def __init__(
        self,
        text_tokenizer: Any,
        vlm: VlmVocab,
        *,
        tokenizer: FastTokenizer | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        out_of_range: OutOfRange = "clip",
        prompt_rule: PromptRule = "pi0-fast",
    ) -> None:
        """Makes a builder.

        Args:
            text_tokenizer: What `text_encoder` takes: a SentencePiece model, a ``tokenizers`` or `transformers`
                tokenizer.
            vlm: Where the token ids lie.
            tokenizer: Encodes chunks that `build` is given; not needed for a `TokenBatch`.
            bos_id: None: the text tokenizer's.
            eos_id: Likewise.
            out_of_range: States outside [-1, 1] go to the first or last bin and are counted ("clip"), or are refused.
            prompt_rule: How prompts are cleaned; see `clean_prompt`.

        Raises:
            ValueError: Markers or special tokens lie on action tokens or outside the VLM's vocabulary; the tokenizer
                has more tokens than the VLM was given room for; see `text_encoder`.
        """
        if out_of_range not in get_args(OutOfRange):
            raise ValueError(f"out_of_range must be 'clip' or 'refuse', got {out_of_range!r}")
        if prompt_rule not in get_args(PromptRule):
            raise ValueError(f"prompt_rule must be 'pi0-fast' or 'pi0.5', got {prompt_rule!r}")
        if tokenizer is not None and tokenizer.vocab_size > vlm.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the VLM room for {vlm.vocab_size}")
        self._text = text_encoder(text_tokenizer, bos_id=bos_id, eos_id=eos_id)
        self._vlm, self._tokenizer, self._out_of_range = vlm, tokenizer, out_of_range
        self._rule: PromptRule = prompt_rule
        self._marker, self._end = (np.array(ids, np.int64) for ids in self._text.encode([ACTION_MARKER, END_MARKER]))
        self._check_markers()

    def _check_markers(self) -> None:
        if self._vlm.is_action(0):
            raise ValueError(f"VLM id 0 pads, and is an action token: {self._vlm.describe()}")
        specials = {"BOS": self._text.bos_id, "EOS": self._text.eos_id}
        for what, ids in ({repr(ACTION_MARKER): self._marker, repr(END_MARKER): self._end} | specials).items():
            array = np.atleast_1d(ids)
            if array.size == 0:
                raise ValueError(f"the text tokenizer has no ids for {what}")
            if self._vlm.is_action(array).any():
                raise ValueError(f"{what} has ids {array.tolist()}, which are action tokens: {self._vlm.describe()}")
            self._check_in_vocabulary(array, what)

    def _check_in_vocabulary(self, ids: NDArray[np.integer], what: str) -> None:
        highest = int(ids.max(initial=0))
        if highest >= self._vlm.vlm_vocab_size:
            raise ValueError(f"{what} has id {highest}, outside the VLM's vocabulary 0..{self._vlm.vlm_vocab_size - 1}")

    def build(
        self,
        prompts: Sequence[str],
        states: ArrayLike,
        actions: TokenBatch | ChunksLike | None = None,
        *,
        max_len: int | None = None,
        overlong: Overlong = "refuse",
    ) -> PromptBatch:
        """Sequences of prompt, state and actions.

        Args:
            prompts: N texts. A special token's name in one is text like any other, never that token.
            states: (N, S), normalised to [-1, 1]; NumPy or torch.
            actions: Token ids of N chunks; or N chunks, which the builder's tokenizer encodes; or None for the prefix
                alone, from which the model generates.
            max_len: Width L, at most 2**20; None: the longest sequence. `recommend_max_len` finds one.
            overlong: Sequences longer than `max_len` are refused, or lose their end ("cut"), which is counted.

        Raises:
            ValueError: Numbers of prompts, states and chunks differ; a state is not finite, or out of range where that
                is refused; a token id is unknown; a sequence is too long; see also `FastTokenizer.encode`.
        """
        if overlong not in get_args(Overlong):
            raise ValueError(f"overlong must be 'refuse' or 'cut', got {overlong!r}")
        prefix, postfix, state_clipped = self._sequences(prompts, states, actions)
        lengths = prefix.lengths + postfix.lengths
        longest = int(lengths.max(initial=0))
        width = longest if max_len is None else integer("max_len", max_len, 1, MAX_LEN, "positive")
        too_long = lengths > width
        if too_long.any() and overlong == "refuse":
            i = int(lengths.argmax())
            raise ValueError(
                f"sequence {i} has {lengths[i]} tokens ({prefix.lengths[i]} of prompt and state, "
                f"{postfix.lengths[i]} of actions), more than max_len {width}; {int(too_long.sum())} of {len(lengths)} "
                "are too long; recommend_max_len() says what would do, overlong='cut' cuts"
            )
        column = np.arange(width)
        token_mask = column < lengths[:, None]
        in_postfix = token_mask & (column >= prefix.lengths[:, None])
        tokens = np.zeros(token_mask.shape, np.int32)
        tokens[token_mask & ~in_postfix] = first_ids(prefix, np.minimum(prefix.lengths, width))
        tokens[in_postfix] = first_ids(postfix, np.minimum(width - prefix.lengths, postfix.lengths))
        return PromptBatch(
            tokens,
            token_mask,
            in_postfix.astype(np.int32),
            in_postfix,
            np.maximum(lengths - width, 0),
            state_clipped,
            postfix.saturated,
            postfix.clipped,
            postfix.dropped,
        )

    def lengths(
        self, prompts: Sequence[str], states: ArrayLike, actions: TokenBatch | ChunksLike | None = None
    ) -> NDArray[np.int64]:
        """(N,) tokens of the sequences that `build` makes of these, for `recommend_max_len`."""
        prefix, postfix, _ = self._sequences(prompts, states, actions)
        return prefix.lengths + postfix.lengths

    def extract(self, vlm_ids: TokensLike, mask: NDArray[np.bool_] | None = None) -> ExtractedTokens:
        """Finds the action tokens of generated sequences, by their ids.

        They are what lies between the first ``"Action: "`` and the first ``"|"`` or EOS after it.

        Args:
            vlm_ids: N generated sequences, with or without what the model was given: (N, L), or a list of arrays.
                Padding with id 0 at the end needs no mask.
            mask: (N, L), true on the ids that count.

        Example:
            >>> from fast_tokenizer.text import TextEncoder
            >>> letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
            >>> builder = PromptBuilder(letters, VlmVocab.paligemma(100))
            >>> found = builder.extract([[*map(ord, "Action: "), 257023, 5, 257022]])
            >>> found.tokens.to_list(), found.describe(0)
            ([[0, -1, 1]], "row 0: 3 ids; 1 no action tokens; neither '|' nor EOS")
        """
        sequences = TokenBatch.coerce(vlm_ids, mask)
        marker_found, end_found = np.zeros((2, len(sequences)), bool)
        rows = []
        for i, ids in enumerate(sequences):
            at = _find(ids, self._marker)
            marker_found[i] = at >= 0
            ids = ids[at + len(self._marker) :] if at >= 0 else ids
            ends = [e for e in (_find(ids, self._end), _find(ids, np.array([self._text.eos_id]))) if e >= 0]
            end_found[i] = bool(ends)
            rows.append(ids[: min(ends)] if ends else np.trim_zeros(ids, "b"))
        found = TokenBatch.from_lists(rows)
        is_action = self._vlm.is_action(found)
        token_ids = np.full(len(found.ids), -1, np.int32)
        token_ids[is_action] = self._vlm.to_tokens(found.ids[is_action])
        tokens = TokenBatch.from_flat(token_ids, found.offsets)
        other = np.concatenate([[0], np.cumsum(~is_action)])
        return ExtractedTokens(tokens, marker_found, end_found, np.diff(other[found.offsets]))

    def _sequences(
        self, prompts: Sequence[str], states: ArrayLike, actions: TokenBatch | ChunksLike | None
    ) -> tuple[TokenBatch, TokenBatch, NDArray[np.int64]]:
        """Prefixes, postfixes (with the counts of the chunks), and values of each state that were clipped."""
        texts = [clean_prompt(p, self._rule) for p in _checked_prompts(prompts)]
        bins, state_clipped = state_bins(states, self._out_of_range)
        if len(bins) != len(texts):
            raise ValueError(f"got {len(texts)} prompts, but states of shape {bins.shape}")
        lines = [f"Task: {t}, State: {' '.join(map(str, b))};\n" for t, b in zip(texts, bins.tolist(), strict=True)]
        prefix = _batch([self._text.bos_id, *ids] for ids in self._text.encode(lines))
        if len(prefix) != len(texts):
            raise ValueError(f"the text tokenizer made {len(prefix)} sequences of {len(texts)} texts")
        if len(prefix.ids):
            self._check_in_vocabulary(prefix.ids, f"prompt {self._row_of_highest(prefix)}")
        if actions is None:
            return prefix, TokenBatch.from_lists([[]] * len(texts)), state_clipped
        tokens = self._vlm.to_vlm(self._tokens_of(actions))
        if len(tokens) != len(texts):
            raise ValueError(f"got {len(texts)} prompts, but {len(tokens)} chunks")
        return prefix, _between(self._marker, tokens, np.append(self._end, self._text.eos_id)), state_clipped

    @staticmethod
    def _row_of_highest(batch: TokenBatch) -> int:
        return int(np.searchsorted(batch.offsets, int(batch.ids.argmax()), side="right")) - 1

    def _tokens_of(self, actions: TokenBatch | ChunksLike) -> TokenBatch:
        if isinstance(actions, TokenBatch):
            return actions
        if self._tokenizer is None:
            raise ValueError("chunks need PromptBuilder(..., tokenizer=...); a TokenBatch does not")
        if self._tokenizer.takes_state:
            raise ValueError(
                "the tokenizer's actions are relative to the raw state, which a prompt does not have: pass "
                "tokenizer.encode(chunks, state=...) instead of chunks"
            )
        return self._tokenizer.encode(without_tensors(actions))


def clean_prompt(prompt: str, rule: PromptRule = "pi0-fast") -> str:
    r"""The text of a prompt as the model sees it: without outer white space, ``_`` as a space.

    Args:
        prompt: As the user wrote it.
        rule: openpi's pi0-FAST makes it lower case besides; its pi0.5 makes line feeds spaces.

    Example:
        >>> clean_prompt(" Pick_up the cup "), clean_prompt("Pick_up\nthe cup", "pi0.5")
        ('pick up the cup', 'Pick up the cup')
    """
    text = prompt.strip().replace("_", " ")
    return text.lower() if rule == "pi0-fast" else text.replace("\n", " ")


def _checked_prompts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str):
        raise ValueError("expected a sequence of prompts, got one text; for one prompt pass [prompt]")
    texts = list(prompts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"prompt {i}: expected a text, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            surrogate = f"{text[error.start]!r} at {error.start}"
            raise ValueError(f"prompt {i}: is no Unicode text: lone surrogate {surrogate}") from None
    return texts


def _batch(sequences: Iterable[list[int]]) -> TokenBatch:
    """As `TokenBatch.from_lists`, which looks at each sequence for itself: here it is most of the time of `build`."""
    rows = list(sequences)
    ids = np.fromiter(chain.from_iterable(rows), np.int64)
    return TokenBatch.from_flat(ids, np.cumsum([0, *map(len, rows)]))


def _between(before: NDArray[np.int64], batch: TokenBatch, after: NDArray[np.int64]) -> TokenBatch:
    """Every sequence of the batch with the same ids before and after it, and the batch's counts."""
    around = len(before) + len(after)
    offsets = batch.offsets + around * np.arange(len(batch) + 1)
    ids = np.empty(offsets[-1], np.int32)
    inside = np.ones(len(ids), bool)
    for at, part in ((offsets[:-1], before), (offsets[1:] - len(after), after)):
        places = at[:, None] + np.arange(len(part))
        ids[places], inside[places] = part, False
    ids[inside] = batch.ids
    return batch._with_ids(ids, offsets)


def _find(ids: NDArray[np.integer], pattern: NDArray[np.integer]) -> int:
    """Where `pattern` first begins in `ids`, or -1."""
    starts = max(0, len(ids) - len(pattern) + 1)
    hit = np.ones(starts, bool)
    for j, value in enumerate(pattern):
        hit &= ids[j : j + starts] == value
    return int(hit.argmax()) if hit.any() else -1
