"""The grammar of action tokens in a language model's generation. Needs torch; `transformers` is optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fast_tokenizer._arguments import integer
from fast_tokenizer.constrained import UNREACHABLE, ActionGrammar
from fast_tokenizer.vlm import VlmVocab

if TYPE_CHECKING:
    _Base = object
else:
    try:
        from transformers import LogitsProcessor as _Base
    except ImportError:
        _Base = object

#: The last ids of a row that decide its node: at most three continuation bytes follow the id that begins a character.
_LOOK_BACK = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """An `ActionGrammar` on a device. C classes of ids that do the same; S nodes, and node S for what is no prefix.

    Attributes:
        vlm_ids: (V,) VLM id of each token id.
        class_of: (V,) class of each token id.
        class_of_vlm: class of each VLM id up to the highest action id; C on others, and in one entry more.
        next_node: (S + 1, C + 1); class C leaves the node as it is, node S is never left.
        reset_node: (C + 1,) node after a class that begins a symbol; else -1.
        begun: (C + 1,) coefficients that a class begins.
        after: (C + 1, T * D + 1) coefficients that remain after a class, -1: it does not fit. Class C leaves them.
        fewest: (S + 1, T * D + 1); nothing completes what is no prefix.
    """

    vlm_ids: torch.Tensor
    class_of: torch.Tensor
    class_of_vlm: torch.Tensor
    next_node: torch.Tensor
    reset_node: torch.Tensor
    begun: torch.Tensor
    after: torch.Tensor
    fewest: torch.Tensor

    @classmethod
    def of(cls, grammar: ActionGrammar, vlm_ids: NDArray[np.int64], device: torch.device) -> _Tables:
        classes, class_of = grammar.classes
        nodes, other = len(classes.next_node), classes.vocab_size
        class_of_vlm = np.full(int(vlm_ids.max()) + 2, other, np.int64)
        class_of_vlm[vlm_ids] = class_of
        next_node = np.full((nodes + 1, other + 1), nodes)
        next_node[:nodes, :other] = np.where(classes.next_node < 0, nodes, classes.next_node)
        next_node[:, other] = np.arange(nodes + 1)
        return cls(
            *(
                torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device)
                for a in (
                    vlm_ids,
                    class_of,
                    class_of_vlm,
                    next_node,
                    np.append(classes.reset_node, -1),
                    np.append(classes.begun, 0),
                    np.vstack([grammar.after, np.arange(grammar.symbols + 1)]),
                    np.vstack([grammar.fewest, np.full_like(grammar.fewest[:1], UNREACHABLE)]),
                )
            )
        )


class ActionLogitsProcessor(_Base):
    """Lets a language model generate nothing but `marker`, one well-formed chunk, `end`; then padding.

    For `generate(logits_processor=[...])` of `transformers`, and for any loop of one's own: it is called with the ids
    so far (B, L) and the next scores (B, W), and returns scores in which whatever may not come is -inf. Where only one
    id may come (in marker and end), its score is 0.

    It remembers nothing from call to call: where a row stands is read from its ids, so rows may be reordered, repeated
    and dropped between calls, and one processor serves any batch with prompts of one width. With `transformers`, give
    the last id of `end` as `eos_token_id`, and `max_new_tokens=processor.max_new_tokens`: with fewer, a sequence can be
    cut off before its end, unless the grammar has `max_tokens`.

    A row whose ids did not come about under the processor may only end and pad. (Beam search fills its ranks with such
    rows, at score -inf, where fewer rows than beams can go on.)

    Args:
        grammar: Of the chunk to write.
        vlm_ids: A `VlmVocab`, which may have room for more than V tokens; or a range or an array (V,), the VLM id of
            each token id.
        end: VLM ids that end the chunk, e.g. those of "|" and EOS.
        prompt_length: Columns of `input_ids` before what is generated, left padding included: ``input_ids.shape[1]`` of
            the call to `generate`; 0 when that is given embeddings. None: the actions begin after the last place where
            the row has the `marker`, wherever that is, and a row without it is left as it is. So is a row whose last
            marker belongs to a chunk of an earlier turn: one that has its whole `end`, and after that any id that is
            not `pad_id`. It is free until a new marker comes. (A row that stops at its end, or pads, is over.)
        marker: VLM ids that come before the actions, e.g. those of "Action: ".
        pad_id: VLM id after the end; None: that of the `VlmVocab` if it has one, else the last of `end`. It must be the
            `pad_token_id` of `generate`, which fills finished rows with that: without `prompt_length` another id there
            reads as the next turn.

    Raises:
        ValueError: Ids that are no integers, negative, repeated, outside the VLM vocabulary, or both an action and an
            end; or none.

    Example:
        >>> import torch
        >>> from fast_tokenizer import FastTokenizer
        >>> from fast_tokenizer.constrained import ActionGrammar
        >>> from fast_tokenizer.generation import ActionLogitsProcessor
        >>> from fast_tokenizer.vlm import VlmVocab
        >>> tok = FastTokenizer.default()
        >>> grammar = ActionGrammar.of(tok, 10, 7, max_tokens=60)
        >>> vlm = VlmVocab.paligemma(tok.vocab_size)
        >>> processor = ActionLogitsProcessor(grammar, vlm, end=[235371, 1], prompt_length=5)
        >>> ids = torch.full((2, 5), 7)
        >>> for _ in range(processor.max_new_tokens):
        ...     ids = torch.cat([ids, processor(ids, torch.randn(2, 257152)).argmax(-1, keepdim=True)], dim=1)
        >>> tok.decode(processor.token_ids(ids), 10, 7).shape  # strictly
        (2, 10, 7)
    """

    def __init__(
        self,
        grammar: ActionGrammar,
        vlm_ids: VlmVocab | Sequence[int] | NDArray[np.integer],
        *,
        end: Sequence[int],
        prompt_length: int | None,
        marker: Sequence[int] = (),
        pad_id: int | None = None,
    ) -> None:
        vocab_size = vlm_ids.vlm_vocab_size if isinstance(vlm_ids, VlmVocab) else None
        if isinstance(vlm_ids, VlmVocab):
            pad_id = vlm_ids.pad_id if pad_id is None else pad_id
            vlm_ids = vlm_ids.action_ids[: grammar.vocab_size]
        self._vlm_ids = np.asarray(vlm_ids)
        _check_action_ids(self._vlm_ids, grammar.vocab_size)
        self._vlm_ids = self._vlm_ids.astype(np.int64)
        self._grammar = grammar
        self._marker, self._end = _other_ids("marker", marker), _other_ids("end", end)
        if not self._end:
            raise ValueError("end needs at least one VLM id, such as EOS")
        if prompt_length is None and not self._marker:
            raise ValueError("without prompt_length, the marker says where actions begin: it needs at least one id")
        if prompt_length is not None:
            prompt_length = integer("prompt_length", prompt_length, 0, 2**62, "at least 0")
        self._prompt_length = prompt_length
        self._pad = self._end[-1] if pad_id is None else _other_ids("pad_id", [pad_id])[0]
        if prompt_length is None and not {*self._marker} - {*self._vlm_ids.tolist(), *self._end, self._pad}:
            raise ValueError(f"the marker {self._marker} could occur among actions, ends and pads: give prompt_length")
        self._check_other_ids(vocab_size)
        self._tables: dict[torch.device, _Tables] = {}

    def _check_other_ids(self, vocab_size: int | None) -> None:
        others = {*self._marker, *self._end, self._pad}
        highest = max(int(self._vlm_ids.max()), *others)
        if vocab_size is not None and highest >= vocab_size:
            raise ValueError(f"VLM id {highest} lies outside the VLM vocabulary 0..{vocab_size - 1}")
        both = sorted({*self._end, self._pad} & set(self._vlm_ids.tolist()))
        if both:
            token = int(np.flatnonzero(self._vlm_ids == both[0])[0])
            raise ValueError(f"VLM id {both[0]} ends or pads a chunk, and is that of token id {token}")
        self._width = highest + 1

    @property
    def max_new_tokens(self) -> int:
        """Most ids that a row can take: marker, chunk, end."""
        return len(self._marker) + self._grammar.max_tokens + len(self._end)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores (B, W) with -inf on every id that may not come next.

        Args:
            input_ids: (B, L) integers, prompts and what was generated.
            scores: (B, W) floating, logits or log probabilities; W may exceed the VLM vocabulary. Left as they are.

        Raises:
            ValueError: Shapes that do not fit; or all ids that may come next have the score -inf, +inf or NaN, so that
                nothing can be chosen among them. Names the row.
        """
        self._check_shapes(input_ids, scores)
        result = torch.full_like(scores, -torch.inf)
        if self._prompt_length is None:
            start = self._chunk_start(input_ids)
            self._write(result, scores, input_ids, start)
            return torch.where((start < 0)[:, None], scores, result)
        generated = input_ids[:, self._prompt_length :]
        if generated.shape[1] < len(self._marker):
            result[:, self._marker[generated.shape[1]]] = 0
            return result
        self._write(result, scores, generated[:, len(self._marker) :], None)
        return result

    def _check_shapes(self, input_ids: torch.Tensor, scores: torch.Tensor) -> None:
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            raise ValueError(
                f"expected ids (B, L) and scores (B, W), got {tuple(input_ids.shape)} and {tuple(scores.shape)}"
            )
        if scores.shape[1] < self._width:
            raise ValueError(f"scores are of {scores.shape[1]} ids, but VLM id {self._width - 1} is in use")
        if self._prompt_length is not None and input_ids.shape[1] < self._prompt_length:
            raise ValueError(f"input_ids have {input_ids.shape[1]} columns, prompt_length is {self._prompt_length}")

    def _write(self, result: torch.Tensor, scores: torch.Tensor, ids: torch.Tensor, start: torch.Tensor | None) -> None:
        """Fills in the scores of what may come after ids (B, L), of which row i begins at start[i] (-1: not at all)."""
        tables = self._on(scores.device)
        allowed, ended = self._next(tables, ids, start)
        picked = scores.index_select(1, tables.vlm_ids).masked_fill(~allowed[:, tables.class_of], -torch.inf)
        best = picked.amax(dim=1)
        writing = allowed.any(dim=1)
        hopeless = writing & ~best.isfinite()
        if hopeless.any():
            row = int(hopeless.int().argmax())
            count = int(allowed[row][tables.class_of].sum())
            raise ValueError(
                f"row {row}: the best score among the {count} action tokens that may come next is {float(best[row])}; "
                "the model overflowed, or another processor forbids them"
            )
        result[:, tables.vlm_ids] = picked
        ending = torch.tensor([*self._end, self._pad], device=ids.device)[ended.clamp_max(len(self._end))]
        score = torch.where(writing, -torch.inf, 0.0).to(result.dtype)
        result[torch.arange(len(ids), device=ids.device), ending] = score

    def _next(
        self, tables: _Tables, ids: torch.Tensor, start: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What may come after ids (B, L): classes (B, C) bool; where none, how far into the end the row is (B,)."""
        other = len(tables.begun) - 1
        classes = tables.class_of_vlm[ids.clamp(0, len(tables.class_of_vlm) - 1)]
        written = ids.new_full((len(ids),), ids.shape[1])
        if start is not None:
            before = torch.arange(ids.shape[1], device=ids.device) < start[:, None]
            classes = classes.masked_fill(before, other)
            written = written - start.clamp_min(0)
        ended = written - (classes != other).sum(dim=1)
        remaining = self._remaining(tables, classes)
        node = self._node_after(tables, classes)

        left = tables.after[:-1, remaining.clamp_min(0)].T.masked_fill(remaining[:, None] < 0, -1)
        needed = tables.fewest[tables.next_node[node, :-1], left.clamp_min(0)]
        tokens_left = torch.where(ended == 0, self._grammar.max_tokens - written, 0)
        allowed = (left >= 0) & (needed < tokens_left[:, None])
        if start is not None:
            allowed &= (start >= 0)[:, None]
        complete = (ended > 0) | ((remaining == 0) & (node == 0))
        return allowed, torch.where(complete, ended, len(self._end))  # what is no prefix is over

    def _remaining(self, tables: _Tables, classes: torch.Tensor) -> torch.Tensor:
        """(B,) coefficients that have not begun after classes (B, L); negative for what is no prefix."""
        if self._grammar.tokens.runs is None:
            return self._grammar.symbols - tables.begun[classes].sum(dim=1)
        remaining = classes.new_full((len(classes),), self._grammar.symbols)
        for column in classes.unbind(dim=1):  # what an end of a block skips depends on where it stands
            after = tables.after[column, remaining.clamp_min(0)]
            remaining = torch.where(remaining < 0, remaining, after)
        return remaining

    def _node_after(self, tables: _Tables, classes: torch.Tensor) -> torch.Tensor:
        """(B,) node after classes (B, L): the last few decide it."""
        node = torch.zeros(len(classes), dtype=torch.long, device=classes.device)
        for column in classes[:, -_LOOK_BACK:].unbind(dim=1):
            reset = tables.reset_node[column]
            node = torch.where(reset >= 0, reset, tables.next_node[node, column])
        return node

    def _after_last_marker(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B,): the column after the last marker; -1 where there is none."""
        marker = torch.tensor(self._marker, device=input_ids.device)
        if input_ids.shape[1] < len(marker):
            return input_ids.new_full((len(input_ids),), -1)
        at = (input_ids.unfold(1, len(marker), 1) == marker).all(dim=2)
        columns = torch.arange(at.shape[1], device=at.device) + len(marker)
        return torch.where(at, columns, -1).amax(dim=1)

    def _chunk_start(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B,): the column where a row's chunk begins; -1 without a marker, or when another turn follows the chunk."""
        start = self._after_last_marker(input_ids)
        width = input_ids.shape[1]
        if width < len(self._marker) + len(self._end) + 1:
            return start  # no room for a turn after an end
        tables = self._on(input_ids.device)
        columns = torch.arange(width, device=input_ids.device)
        classes = tables.class_of_vlm[input_ids.clamp(0, len(tables.class_of_vlm) - 1)]
        other = (classes == len(tables.begun) - 1) & (columns >= start[:, None])
        written = torch.where(other, columns, width).amin(dim=1)
        end = torch.tensor(self._end, device=input_ids.device)
        at = written[:, None] + torch.arange(len(end), device=input_ids.device)
        ended = (input_ids.gather(1, at.clamp_max(width - 1)) == end).all(dim=1)
        follows = ((columns > at[:, -1:]) & (input_ids != self._pad)).any(dim=1)
        return torch.where(ended & follows, -1, start)

    def _on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            self._tables[device] = _Tables.of(self._grammar, self._vlm_ids, device)
        return self._tables[device]

    def token_ids(self, sequences: torch.Tensor) -> list[NDArray[np.int32]]:
        """Token ids of each row of `sequences` (B, L), for `decode`: the action ids after the prompt and the marker.

        An array of another length than the chunk's says that the row was cut off, not that something was dropped: in a
        row that was generated under this processor, ids before the end are action ids, and ids after it are not.

        Without `prompt_length`, a row that has no marker, or none since a chunk of an earlier turn, has no token ids.
        """
        ids = sequences.cpu().numpy()
        none = int(self._vlm_ids.max()) + 1
        token_of = np.full(none + 1, -1, np.int32)
        token_of[self._vlm_ids] = np.arange(len(self._vlm_ids))
        ids = np.where((ids < 0) | (ids > none), none, ids)
        if self._prompt_length is None:
            starts = self._chunk_start(sequences).cpu().numpy()
            starts = np.where(starts < 0, ids.shape[1], starts)
        else:
            starts = np.full(len(ids), self._prompt_length + len(self._marker))
        tokens = (token_of[row[start:]] for row, start in zip(ids, starts, strict=True))
        return [row[row >= 0] for row in tokens]


def _other_ids(name: str, ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(integer(name, i, 0, 2**31 - 1, "VLM ids") for i in ids)


def _check_action_ids(ids: NDArray[Any], vocab_size: int) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) != vocab_size:
        raise ValueError(f"expected {vocab_size} VLM ids, one a token id, got {ids.dtype} of shape {ids.shape}")
    if int(ids.min()) < 0:
        raise ValueError(f"VLM ids must not be negative, got {ids.min()}")
    values, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"VLM id {values[counts.argmax()]} stands for {counts.max()} token ids")
