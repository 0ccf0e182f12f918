"""From what a data loader has - texts, states, chunks, images - to a `KIBatch`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fast_tokenizer._arguments import as_array, integer
from fast_tokenizer.errors import EncodeLossWarning
from fast_tokenizer.ki_model.batch import KIBatch, Prefix, Targets
from fast_tokenizer.ki_model.targets import DiscreteTargets
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.prompt import ACTION_MARKER, PromptBatch, PromptBuilder
from fast_tokenizer.state import OutOfRange
from fast_tokenizer.text import text_encoder
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch
from fast_tokenizer.vlm import VlmVocab


class KIBatchBuilder:
    r"""Makes batches of robot examples and of language examples, which `KIBatch.cat` puts together.

    A robot example has the prefix ``"Task: {prompt}, State: {bins};\nAction: "``, as pi0.5's published weights expect
    it, and the targets action tokens, ``"|"`` and EOS; texts and ids are those of `PromptBuilder`, which counts
    ``"Action: "`` among the targets, as pi0-FAST does. At inference `prefix` makes the very same prefix. A language
    example has the question as its prefix, and the answer and EOS as its targets.

    The flow loss learns the same chunks as the tokens, in the normalised units of the tokenizer.

    Example:
        >>> from fast_tokenizer.text import TextEncoder
        >>> letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
        >>> tok = FastTokenizer.default()
        >>> builder = KIBatchBuilder(letters, VlmVocab.paligemma(tok.vocab_size), tok)
        >>> robot = builder.robot(["pick up the cup"], np.zeros((1, 3)), np.zeros((1, 50, 7)))
        >>> language = builder.language(["what colour is the cup?"], ["red"])
        >>> batch = KIBatch.cat([robot, language])
        >>> batch.action_mask.tolist(), batch.targets.mask.sum(1).tolist(), batch.targets.fast_mask.sum(1).tolist()
        ([True, False], [3, 4], [1, 0])
    """

    def __init__(
        self,
        text_tokenizer: Any,
        vlm: VlmVocab,
        tokenizer: DiscreteTargets,
        *,
        normalizer: Normalizer | None = None,
        chunk_shape: tuple[int, int] | None = None,
        model_shape: tuple[int, int] | None = None,
        out_of_range: OutOfRange = "clip",
        bos_id: int | None = None,
        eos_id: int | None = None,
        prefix_length: int | None = None,
        target_length: int | None = None,
    ) -> None:
        """Makes a builder.

        Args:
            text_tokenizer: What `text_encoder` takes.
            vlm: Where the action tokens lie in the language model's vocabulary.
            tokenizer: Makes the discrete targets.
            normalizer: Makes what the flow learns of raw actions, and what a tokenizer without statistics of its own,
                such as `Binning`, encodes. None: that of the `FastTokenizer`, if it has one.
            chunk_shape: Steps and dimensions (T, D) of the chunks. None: those that the `FastTokenizer` records.
            model_shape: Steps and dimensions (H, A) of the model, where it has more: chunks are filled up with zeros,
                which the flow loss does not count. So robots that differ share a model, each with a builder of its own.
                None: those of the chunks.
            out_of_range: States outside [-1, 1] are clipped and counted ("clip"), or refused ("refuse").
            bos_id: None: the text tokenizer's.
            eos_id: Likewise.
            prefix_length: Fixed width of `Prefix.ids`. None: the longest of each batch.
            target_length: Fixed width of `Targets.ids`. None: the longest of each batch.

        Raises:
            ValueError: The tokenizer's ids do not fit the vocabulary; a normaliser beside the tokenizer's own; a
                tokenizer of relative actions (subtract the state first, and pass ``tokenizer.without_relative()``); a
                model that is smaller than the chunks, or chunks of a shape that is not known; see also `PromptBuilder`.
        """
        if tokenizer.vocab_size > vlm.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the VLM room for {vlm.vocab_size}")
        self._prompts = PromptBuilder(
            text_tokenizer, vlm, bos_id=bos_id, eos_id=eos_id, out_of_range=out_of_range, prompt_rule="pi0.5"
        )
        self._text = text_encoder(text_tokenizer, bos_id=bos_id, eos_id=eos_id)
        self._marker_length = len(self._text.encode([ACTION_MARKER])[0])
        self._vlm, self._tokenizer = vlm, tokenizer
        own = _own_normalizer(tokenizer)
        if own is not None and normalizer is not None:
            raise ValueError("the tokenizer has a normaliser of its own; give none")
        self._normalizer = own or normalizer
        self._tokenizer_normalizes = own is not None
        self._prefix_length, self._target_length = prefix_length, target_length
        recorded = _recorded_shape(tokenizer)
        self._chunk_shape = recorded if chunk_shape is None else _shape("chunk_shape", chunk_shape)
        self._model_shape = None if model_shape is None else _shape("model_shape", model_shape)
        if recorded is not None and self._chunk_shape != recorded:
            raise ValueError(f"chunk_shape {chunk_shape} is not that of the tokenizer, {recorded}")
        if self._model_shape is not None:
            if self._chunk_shape is None:
                raise ValueError("model_shape needs chunk_shape=(T, D): the tokenizer does not record it")
            if any(m < c for m, c in zip(self._model_shape, self._chunk_shape, strict=True)):
                raise ValueError(f"model_shape {model_shape} is smaller than the chunks, {self._chunk_shape}")

    def prefix(
        self,
        prompts: Sequence[str],
        states: ArrayLike,
        *,
        images: Tensor | NDArray[np.floating] | None = None,
        image_mask: Tensor | NDArray[np.bool_] | None = None,
    ) -> Prefix:
        """What the policy sees, for `KIModel.sample_actions`; the same as in training.

        Args:
            prompts: B texts.
            states: (B, S), normalised to [-1, 1]; values outside are clipped with an `EncodeLossWarning`.
            images: (B, N, C, h, w) float.
            image_mask: (B, N) bool.
        """
        nothing = TokenBatch.from_lists([[]] * len(prompts))
        built = self._prompts.build(prompts, states, nothing)
        if built.state_clipped.any():
            row = int(built.state_clipped.argmax())
            warnings.warn(
                f"{built.state_clipped.sum()} values of the states lie outside [-1, 1] and were clipped, "
                f"{built.state_clipped[row]} of them in row {row}; are they normalised?",
                EncodeLossWarning,
                stacklevel=2,
            )
        return self._prefix(self._parts(built)[0], images, image_mask)

    def robot(
        self,
        prompts: Sequence[str],
        states: ArrayLike,
        actions: ArrayLike,
        *,
        action_mask: ArrayLike | None = None,
        images: Tensor | NDArray[np.floating] | None = None,
        image_mask: Tensor | NDArray[np.bool_] | None = None,
    ) -> KIBatch:
        """Examples that both losses learn.

        Args:
            prompts: B texts.
            states: (B, S), normalised to [-1, 1].
            actions: (B, T, D), raw units.
            action_mask: (B, T, D) bool; values that the flow loss counts, such as those before an episode's end. The
                tokens say the whole chunk. None: all.
            images: (B, N, C, h, w) float.
            image_mask: (B, N) bool.

        Returns:
            B rows. `KIBatch.lost` counts for each: "saturated", "clipped" and "dropped" as in `TokenBatch`, and
            "state_clipped" as in `PromptBatch`.

        Raises:
            ValueError: See `PromptBuilder.build`; chunks or mask are of another shape; or a sequence is longer than
                the fixed widths.
        """
        chunks = as_array(actions)
        if self._chunk_shape is not None and chunks.shape[1:] != tuple(self._chunk_shape):
            t, d = self._chunk_shape
            raise ValueError(f"actions: expected (B, {t}, {d}), got {chunks.shape}")
        normalized = chunks.astype(np.float64) if self._normalizer is None else self._normalizer.apply(chunks)
        tokens = self._tokenizer.encode(chunks if self._tokenizer_normalizes else normalized)
        built = self._prompts.build(prompts, states, tokens)
        prefix, targets = self._parts(built)
        lost = {
            name: torch.from_numpy(getattr(built, name).astype(np.int64))
            for name in ("saturated", "clipped", "dropped", "state_clipped")
        }
        counted = np.ones(len(chunks), np.bool_)  # whole examples, where no value is left out or filled up
        if action_mask is not None or self._model_shape is not None:
            counted = np.ones(chunks.shape, np.bool_) if action_mask is None else as_array(action_mask)
            if counted.dtype != np.bool_ or counted.shape != chunks.shape:
                raise ValueError(f"action_mask: expected bool {chunks.shape}, got {counted.dtype} {counted.shape}")
            counted = self._filled(counted)
        return KIBatch(
            self._prefix(prefix, images, image_mask),
            self._targets(targets),
            torch.from_numpy(self._filled(normalized.astype(np.float32))),
            torch.from_numpy(counted),
            lost,
        )

    def action_mask(self, rows: int) -> Tensor:
        """(B, H, A) bool: which of the model's values this robot has, for `KIModel.sample_actions`.

        Raises:
            ValueError: The shape of the chunks is not known.
        """
        if self._chunk_shape is None:
            raise ValueError("chunk_shape=(T, D) is not known: the tokenizer does not record it")
        return torch.from_numpy(self._filled(np.ones((rows, *self._chunk_shape), np.bool_)))

    def language(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        images: Tensor | NDArray[np.floating] | None = None,
        image_mask: Tensor | NDArray[np.bool_] | None = None,
    ) -> KIBatch:
        """Examples that the cross-entropy alone learns: questions about images, captions, text.

        Args:
            questions: B texts, as the model is to see them.
            answers: B texts; EOS is added.
            images: (B, N, C, h, w) float.
            image_mask: (B, N) bool.

        Raises:
            ValueError: Numbers of questions and answers differ; an answer has ids that are action tokens; an id is
                outside the VLM's vocabulary; a sequence is longer than the fixed widths.
        """
        for name, texts in (("questions", questions), ("answers", answers)):
            if isinstance(texts, str):
                raise ValueError(f"{name}: expected a list of texts, got one text")
        if len(questions) != len(answers):
            raise ValueError(f"got {len(questions)} questions, but {len(answers)} answers")
        prefix = TokenBatch.from_lists([[self._text.bos_id, *ids] for ids in self._text.encode(list(questions))])
        targets = TokenBatch.from_lists([[*ids, self._text.eos_id] for ids in self._text.encode(list(answers))])
        highest = max((int(part.ids.max()) for part in (prefix, targets) if len(part.ids)), default=0)
        if highest >= self._vlm.vlm_vocab_size:
            raise ValueError(
                f"id {highest} of a text is outside the VLM's vocabulary 0..{self._vlm.vlm_vocab_size - 1}"
            )
        for row, ids in enumerate(targets):
            if self._vlm.is_action(ids).any():
                taken = ids[self._vlm.is_action(ids)][0]
                raise ValueError(
                    f"answer {row} has id {taken}, which is an action token: {self._vlm.describe()}; "
                    "VlmVocab.paligemma(..., anchor='loc') leaves <loc> and <seg> to answers"
                )
        return KIBatch(self._prefix(prefix, images, image_mask), self._targets(targets))

    def denormalize(self, actions: Tensor | ArrayLike) -> NDArray[np.float64]:
        """Sampled actions (B, H, A) as chunks (B, T, D) in raw units.

        Raises:
            ValueError: The actions are of another shape.
        """
        values = as_array(actions).astype(np.float64)
        shape = self._model_shape or self._chunk_shape
        if shape is not None and values.shape[1:] != shape:
            raise ValueError(f"actions: expected (B, {shape[0]}, {shape[1]}), got {values.shape}")
        if self._model_shape is not None:
            assert self._chunk_shape is not None
            values = values[:, : self._chunk_shape[0], : self._chunk_shape[1]]
        return values if self._normalizer is None else self._normalizer.invert(values)

    def _filled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (B, T, D) with zeros up to the model's shape."""
        if self._model_shape is None:
            return values
        steps, dims = (m - c for m, c in zip(self._model_shape, values.shape[1:], strict=True))
        return np.pad(values, ((0, 0), (0, steps), (0, dims)))

    def _parts(self, built: PromptBatch) -> tuple[TokenBatch, TokenBatch]:
        """The prefixes, with ``"Action: "``, and what is left for the targets."""
        ends = (built.token_mask & ~built.loss_mask).sum(1) + self._marker_length
        in_prefix = built.token_mask & (np.arange(built.tokens.shape[1]) < ends[:, None])
        masks = in_prefix, built.token_mask & ~in_prefix
        prefix, targets = (TokenBatch.from_padded(built.tokens, mask) for mask in masks)
        return prefix, targets

    def _prefix(self, batch: TokenBatch, images: Any, image_mask: Any) -> Prefix:
        shown = (None if given is None else torch.as_tensor(given) for given in (images, image_mask))
        return Prefix(*_padded(batch, self._prefix_length, "prefix"), *shown)

    def _targets(self, batch: TokenBatch) -> Targets:
        ids, mask = _padded(batch, self._target_length, "target")
        fast = torch.from_numpy(self._vlm.is_action(ids.numpy())) & mask
        return Targets(ids, mask, mask, fast)


def _shape(name: str, given: tuple[int, int]) -> tuple[int, int]:
    if len(given) != 2:
        raise ValueError(f"{name}: expected (steps, dimensions), got {given}")
    steps, dims = (integer(name, size, 1, 2**31 - 1, "positive") for size in given)
    return steps, dims


def _recorded_shape(tokenizer: DiscreteTargets) -> tuple[int, int] | None:
    if not isinstance(tokenizer, FastTokenizer):
        return None
    horizon, dims = tokenizer.one_spec.time_horizon, tokenizer.one_spec.action_dim
    return None if horizon is None or dims is None else (horizon, dims)


def _own_normalizer(tokenizer: DiscreteTargets) -> Normalizer | None:
    if not isinstance(tokenizer, FastTokenizer):
        return None
    if tokenizer.takes_state:
        raise ValueError(
            "the tokenizer's actions are relative to the state: subtract it from them, and pass "
            "tokenizer.without_relative()"
        )
    found: Normalizer | None = getattr(tokenizer.one_spec, "normalizer", None)
    return found


def _padded(batch: TokenBatch, width: int | None, what: str) -> tuple[Tensor, Tensor]:
    """Ids (B, L) int64 and mask (B, L), padded on the right with id 0."""
    longest = int(batch.lengths.max(initial=0))
    if width is not None and longest > width:
        row = int(batch.lengths.argmax())
        raise ValueError(f"the {what} of example {row} has {longest} tokens, more than {what}_length {width}")
    ids, mask = batch.pad(width, pad_id=0)
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(mask)
