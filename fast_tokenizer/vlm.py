"""Token ids as ids of a vision-language model's vocabulary, and back: arithmetic, never text.

Three ways to give action tokens a place in a VLM are in use, and `VlmVocab` has one constructor for each: rare ids at
the end of the vocabulary (`VlmVocab.paligemma`), tokens added to it (`VlmVocab.add_to_tokenizer`), and an embedding of
their own (`VlmVocab.private`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer import _paligemma
from fast_tokenizer._added_tokens import add_range
from fast_tokenizer._arguments import integer
from fast_tokenizer.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class Slot:
    """A run of action tokens within one named block of the VLM's vocabulary.

    Attributes:
        name: The block.
        token_ids: Rising range of token ids.
        vlm_ids: Rising range of the VLM ids that they have.
    """

    name: str
    token_ids: range
    vlm_ids: range

    @property
    def count(self) -> int:
        """Number of ids."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class VlmVocab:
    """Where the token ids 0..V-1 lie in a VLM's vocabulary: ``vlm_id = first_id + step * token_id``.

    Attributes:
        vocab_size: Number of token ids V.
        vlm_vocab_size: Rows of the VLM's embedding, so that its ids are ``0..vlm_vocab_size - 1``.
        first_id: VLM id of token id 0.
        step: 1 where VLM ids rise with token ids, -1 where they fall.
        blocks: (name, first VLM id) of the parts of the VLM's vocabulary in rising order, from id 0; for `slots`.
        pad_id: VLM id for padding; only a private embedding has one of its own. `bos_id` and `eos_id` likewise.

    Raises:
        ValueError: An id would lie outside the VLM's vocabulary, or two on the same row.

    Example:
        >>> vlm = VlmVocab.paligemma(2048)
        >>> vlm.to_vlm([0, 1, 2047])
        array([257023, 257022, 254976], dtype=int32)
        >>> vlm.to_tokens([[257023], [254976]]).tolist()
        [[0], [2047]]
        >>> vlm.is_action([108, 257023])
        array([False,  True])

        Another tail, falling from below the padding id, which is how UniVLA places them in Emu3:

        >>> pad_id = 151643
        >>> VlmVocab(2048, 184622, first_id=pad_id - 1, step=-1).to_vlm([0, 7]).tolist()
        [151642, 151635]
    """

    vocab_size: int
    vlm_vocab_size: int
    first_id: int
    step: Literal[1, -1] = 1
    blocks: tuple[tuple[str, int], ...] = (("VLM vocabulary", 0),)
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("vocab_size", 1), ("vlm_vocab_size", 1), ("first_id", 0)):
            rule = "positive" if lowest else "0 or more"
            object.__setattr__(self, name, integer(name, getattr(self, name), lowest, 2**31 - 1, rule))
        if isinstance(self.step, float) or self.step not in (1, -1):  # 1.0 would make float ids
            raise ValueError(f"step must be 1 or -1, got {self.step!r}")
        object.__setattr__(self, "step", integer("step", self.step, -1, 1, "1 or -1"))
        ids = self._range
        if ids.start < 0 or ids.stop > self.vlm_vocab_size:
            raise ValueError(
                f"{self.vocab_size} action tokens would lie on VLM ids {_span(ids)}, "
                f"outside the VLM's vocabulary 0..{self.vlm_vocab_size - 1}"
            )
        starts = [start for _, start in self.blocks]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"blocks must rise from id 0, got {starts}")
        specials = {n: v for n in ("pad_id", "bos_id", "eos_id") if (v := getattr(self, n)) is not None}
        rule = f"in the VLM's vocabulary 0..{self.vlm_vocab_size - 1}"
        for name, given in specials.items():
            specials[name] = value = integer(name, given, 0, self.vlm_vocab_size - 1, rule)
            object.__setattr__(self, name, value)
            if value in ids:
                raise ValueError(f"{name} {value} is also the VLM id of token id {self.step * (value - self.first_id)}")
        if len(set(specials.values())) < len(specials):
            raise ValueError(f"pad, BOS and EOS need an id each, got {specials}")

    # ---- Making one ------------------------------------------------------------------------------

    @classmethod
    def paligemma(
        cls,
        vocab_size: int,
        *,
        anchor: Literal["seg", "loc"] | int = "seg",
        embedding_size: int = _paligemma.VOCAB_SIZE,
        co_training: Sequence[str] = (),
        allow_collision: bool = False,
    ) -> VlmVocab:
        """The last ids of PaliGemma's vocabulary, falling: ``257152 - 1 - skip - token_id``.

        Published pi0-FAST checkpoints, openpi and lerobot have ``skip = 128``, which is the default. The first 1024
        token ids then lie on <loc>, the rest on ordinary pieces.

        Args:
            vocab_size: Number of token ids V.
            anchor: The block that token id 0 lies directly below: "seg" (skip 128) or "loc" (skip 1152), which leaves
                both to detection and segmentation; or the number of ids to skip (lerobot's ``fast_skip_tokens``).
            embedding_size: Rows of the model's embedding. openpi has 257152; `transformers` pads it, to 257216.
            co_training: Tasks that the model is trained on besides: "detection" (answers in <loc>), "segmentation"
                (answers in <loc> and <seg>).
            allow_collision: Action tokens may lie on ids that a co-training task answers in.

        Raises:
            ValueError: A collision that is not allowed, an unknown anchor or task, or a vocabulary that does not fit.

        Example:
            >>> print(VlmVocab.paligemma(2048).describe())
            2048 action tokens on VLM ids 254976..257023 of 257152
              <loc>               token ids 0..1023           VLM ids 256000..257023          1024
              ordinary pieces     token ids 1024..2047        VLM ids 254976..255999          1024
            >>> VlmVocab.paligemma(2048, anchor="loc", co_training=["detection"]).first_id
            255999
        """
        size = integer("vocab_size", vocab_size, 1, 2**31 - 1, "positive")
        smallest = _paligemma.VOCAB_SIZE
        rows = integer("embedding_size", embedding_size, smallest, 2**31 - 1, f"{smallest} or more")
        vocab = cls(size, rows, _paligemma.first_id(anchor, size), -1, blocks=_paligemma.BLOCKS)
        tasks = _paligemma.known_tasks(co_training)
        if not allow_collision:
            _paligemma.refuse_collisions({s.name: s.token_ids for s in vocab.slots}, tasks)
        return vocab

    @classmethod
    def add_to_tokenizer(
        cls,
        tokenizer: Any,
        vocab_size: int,
        *,
        token_format: str = "<robot_action_{i}>",
        embedding_size: int | None = None,
    ) -> VlmVocab:
        """Adds one special token per token id to a `transformers` tokenizer (Qwen-VL, SmolVLM, Molmo), in place.

        Where the tokenizer has the very range already, say because it was saved with it, nothing is added. The model's
        embedding must have `vlm_vocab_size` rows or more afterwards. Only where it has fewer, call
        ``model.resize_token_embeddings(vlm.vlm_vocab_size)``: many are padded (Qwen-VL to 151936 rows and more), and
        the call would shrink those.

        Args:
            tokenizer: A `transformers` tokenizer, fast or slow. Not changed when it is refused.
            vocab_size: Number of token ids V.
            token_format: Text of a token, with ``{i}`` for the token id. starVLA and nora have the default, wall-x
                ``"<|action_token_{i}|>"``, MolmoAct2 ``"<action_{i}>"``.
            embedding_size: Rows of the model's embedding, when it is not to be resized any more.

        Raises:
            ValueError: The ids are, or would be, not one rising range of their own; the range would begin in a hole
                below ids in use; the tokenizer has some of the tokens only, or more of them; it has ids beyond
                `embedding_size`.

        Example:
            >>> from tokenizers import Tokenizer, models
            >>> from transformers import PreTrainedTokenizerFast
            >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "pick": 1, "up": 2}, unk_token="<unk>"))
            >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
            >>> vlm = VlmVocab.add_to_tokenizer(tokenizer, 1000)
            >>> vlm.to_vlm([0, 999]), vlm.vlm_vocab_size
            (array([   3, 1002], dtype=int32), 1003)
            >>> vlm == VlmVocab.add_to_tokenizer(tokenizer, 1000)
            True
        """
        size = integer("vocab_size", vocab_size, 1, 2**20, "positive")
        rows = None if embedding_size is None else integer("embedding_size", embedding_size, 1, 2**31 - 1, "positive")
        first, last_id = add_range(tokenizer, size, token_format, rows)
        rows = last_id + 1 if rows is None else rows
        blocks = [("VLM vocabulary", 0), (token_format, first), ("VLM vocabulary", first + size)]
        return cls(size, rows, first, blocks=tuple(blocks[1:] if first == 0 else blocks))

    @classmethod
    def private(cls, vocab_size: int) -> VlmVocab:
        """An embedding of the action tokens' own: token ids as they are, then pad, BOS and EOS.

        Token id 0 is a token like any other, so none of the three may be 0.

        Example:
            >>> vlm = VlmVocab.private(1024)
            >>> vlm.pad_id, vlm.bos_id, vlm.eos_id, vlm.vlm_vocab_size
            (1024, 1025, 1026, 1027)
        """
        v = integer("vocab_size", vocab_size, 1, 2**31 - 4, "positive")
        blocks = (("action tokens", 0), ("pad, BOS, EOS", v))
        return cls(v, v + 3, 0, blocks=blocks, pad_id=v, bos_id=v + 1, eos_id=v + 2)

    # ---- Mapping ---------------------------------------------------------------------------------

    @overload
    def to_vlm(self, token_ids: TokenBatch) -> TokenBatch: ...
    @overload
    def to_vlm(self, token_ids: ArrayLike) -> NDArray[np.int32]: ...
    def to_vlm(self, token_ids: TokenBatch | ArrayLike) -> TokenBatch | NDArray[np.int32]:
        """VLM ids of token ids.

        Args:
            token_ids: A `TokenBatch`, or integers of any shape. Pad afterwards: a padding id is no token id.

        Returns:
            The same form, int32.

        Raises:
            ValueError: Not integers, or an id outside 0..V-1; names the first one and where it stands.
        """
        ids = _integers(token_ids, "token ids")
        self._refuse(token_ids, (ids < 0) | (ids >= self.vocab_size), "token id", f"outside 0..{self.vocab_size - 1}")
        return _in_form_of(token_ids, self.first_id + self.step * ids.astype(np.int32))

    @overload
    def to_tokens(self, vlm_ids: TokenBatch) -> TokenBatch: ...
    @overload
    def to_tokens(self, vlm_ids: ArrayLike) -> NDArray[np.int32]: ...
    def to_tokens(self, vlm_ids: TokenBatch | ArrayLike) -> TokenBatch | NDArray[np.int32]:
        """Token ids of VLM ids: undoes `to_vlm`.

        Args:
            vlm_ids: A `TokenBatch` of VLM ids, or integers of any shape.

        Returns:
            The same form, int32.

        Raises:
            ValueError: Not integers, or an id that is no action token (`is_action` tells); names the first one and
                where it stands.
        """
        ids = _integers(vlm_ids, "VLM ids")
        rule = f"no action token, those are {_span(self._range)}"
        self._refuse(vlm_ids, ~self._contains(ids), "VLM id", rule)
        return _in_form_of(vlm_ids, self.step * (ids.astype(np.int32) - self.first_id))

    def is_action(self, vlm_ids: TokenBatch | ArrayLike) -> NDArray[np.bool_]:
        """Which VLM ids are action tokens: bool of the shape of `vlm_ids`; (total,) for a `TokenBatch`.

        Any integer has an answer, also one that is no id of the VLM.
        """
        return self._contains(_integers(vlm_ids, "VLM ids"))

    @property
    def action_ids(self) -> NDArray[np.int32]:
        """(V,) VLM id of each token id."""
        return self.to_vlm(np.arange(self.vocab_size, dtype=np.int32))

    # ---- Report ----------------------------------------------------------------------------------

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The named blocks that action tokens lie on, in the order of token ids."""
        ends = [start for _, start in self.blocks[1:]] + [max(self.vlm_vocab_size, self.blocks[-1][1])]
        found = []
        for (name, start), end in zip(self.blocks, ends, strict=True):
            vlm_ids = range(max(start, self._range.start), min(end, self._range.stop))
            if vlm_ids:
                tokens = sorted(self.step * (v - self.first_id) for v in (vlm_ids[0], vlm_ids[-1]))
                found.append(Slot(name, range(tokens[0], tokens[1] + 1), vlm_ids))
        return tuple(found[:: self.step])

    def describe(self) -> str:
        """`slots` as a table to print."""
        head = f"{self.vocab_size} action tokens on VLM ids {_span(self._range)} of {self.vlm_vocab_size}" + "".join(
            f", {n} {v}" for n in ("pad_id", "bos_id", "eos_id") if (v := getattr(self, n)) is not None
        )
        rows = [
            f"  {s.name:<18}  token ids {_span(s.token_ids):<16}  VLM ids {_span(s.vlm_ids):<20}  {s.count:>6}"
            for s in self.slots
        ]
        return "\n".join([head, *rows])

    # ---- Inside ----------------------------------------------------------------------------------

    @property
    def _range(self) -> range:
        """VLM ids of the action tokens, rising."""
        low = self.first_id if self.step == 1 else self.first_id - self.vocab_size + 1
        return range(low, low + self.vocab_size)

    def _contains(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (ids >= self._range.start) & (ids < self._range.stop)
        return inside

    @staticmethod
    def _refuse(source: TokenBatch | ArrayLike, bad: NDArray[np.bool_], what: str, rule: str) -> None:
        if not bad.any():
            return
        flat = int(bad.argmax())
        if isinstance(source, TokenBatch):
            chunk = int(np.searchsorted(source.offsets, flat, side="right")) - 1
            value, where = source.ids[flat], f"chunk {chunk}, position {flat - int(source.offsets[chunk])}"
        else:
            index = tuple(int(i) for i in np.unravel_index(flat, bad.shape))
            value, where = np.asarray(source)[index], f"index {index[0] if len(index) == 1 else index}"
        others = f"; and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
        raise ValueError(f"{what} {value} at {where} is {rule}{others}")


def _integers(values: TokenBatch | ArrayLike, what: str) -> NDArray[np.integer]:
    """`values` as an array of any shape."""
    if isinstance(values, TokenBatch):
        values = TokenBatch.coerce(values).ids
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        raise ValueError(f"{what}: expected a rectangular array; TokenBatch.from_lists takes others") from None
    if array.size == 0:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what}: expected integers, got dtype {array.dtype}")
    return array


def _in_form_of(source: object, ids: NDArray[np.int32]) -> TokenBatch | NDArray[np.int32]:
    if isinstance(source, TokenBatch):
        return source._with_ids(ids, source.offsets)
    return np.asarray(ids, np.int32)


def _span(ids: range) -> str:
    return f"{ids[0]}..{ids[-1]}"
