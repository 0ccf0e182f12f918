"""`OpenpiFastTokenizer`: the class that openpi's pi0-FAST configuration takes in place of its own tokenizer."""

from __future__ import annotations

import os
import warnings
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import as_array, check_errors, integer
from fast_tokenizer.compat.export import expressible
from fast_tokenizer.compat.processor import Errors, as_actions, lost
from fast_tokenizer.errors import DecodeError, DecodeRepairWarning, EncodeLossWarning
from fast_tokenizer.prompt import Overlong, PromptBuilder
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.vlm import VlmVocab


class OpenpiFastTokenizer:
    """Stands in for openpi's ``FASTTokenizer``, one sample at a time; `PromptBuilder` does the same in batches.

    The ids are those of openpi, with three differences. A state below -1 gets the first bin, not "-1". Generated tokens
    are found by their ids and never pass through text. What describes no chunk is repaired or refused, not zeros.

    openpi builds it as ``fast_model_tokenizer(max_token_len, **fast_model_tokenizer_kwargs)``, with the two fields of
    its ``Pi0FASTConfig``.

    Example:
        >>> from fast_tokenizer.text import TextEncoder
        >>> letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
        >>> FastTokenizer.default().save("my_robot")
        >>> tokenizer = OpenpiFastTokenizer(64, text_tokenizer=letters, fast_tokenizer_path="my_robot")
        >>> tokens, token_mask, ar_mask, loss_mask = tokenizer.tokenize("Fold it", np.zeros(3), np.zeros((50, 7)))
        >>> tokens.shape, int(loss_mask.sum()), float(abs(tokenizer.extract_actions(tokens, 50, 7)).max())
        ((64,), 11, 0.0)
    """

    def __init__(
        self,
        max_len: int = 256,
        *,
        text_tokenizer: Any,
        fast_tokenizer_path: str | os.PathLike[str] = "physical-intelligence/fast",
        fast_skip_tokens: int = 128,
        overlong: Overlong = "cut",
        errors: Errors = "repair",
    ) -> None:
        """Loads both tokenizers.

        Args:
            max_len: Length L of every sequence; openpi's ``max_token_len``.
            text_tokenizer: PaliGemma's SentencePiece model file; or another that `PromptBuilder` takes.
            fast_tokenizer_path: For `FastTokenizer.from_pretrained`.
            fast_skip_tokens: Ids at the end of PaliGemma's vocabulary that no action token lies on.
            overlong: Longer sequences lose their end, with an `EncodeLossWarning` ("cut", as openpi does), or are
                refused ("refuse").
            errors: Generated tokens that describe no chunk are repaired, with a `DecodeRepairWarning`, or refused
                ("strict").

        Raises:
            ValueError: As `PromptBuilder`; or the tokenizer has a normalizer, and openpi normalises itself.
            FileNotFoundError: No such model file, folder or repository.
        """
        check_errors(errors)
        if overlong not in get_args(Overlong):
            raise ValueError(f"overlong must be 'refuse' or 'cut', got {overlong!r}")
        self._max_len = integer("max_len", max_len, 1, 2**20, "positive")
        self._overlong, self._errors = overlong, errors
        self._tokenizer = FastTokenizer.from_pretrained(fast_tokenizer_path)
        if expressible(self._tokenizer).normalizer is not None:
            raise ValueError(f"{fast_tokenizer_path} has a normalizer: openpi's actions are normalised already")
        vlm = VlmVocab.paligemma(self._tokenizer.vocab_size, anchor=fast_skip_tokens)
        self._builder = PromptBuilder(text_tokenizer, vlm, tokenizer=self._tokenizer)

    def tokenize(
        self, prompt: str, state: ArrayLike, actions: ArrayLike | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32], NDArray[np.bool_]]:
        """One sequence of prompt, state and actions.

        Args:
            prompt: The task.
            state: (S,), normalised to [-1, 1].
            actions: (T, D), normalised; None at inference.

        Returns:
            tokens, token_mask, ar_mask, loss_mask; each (L,). See `PromptBatch`.

        Raises:
            ValueError: The state or an action is not finite; a sequence is too long, where that is refused.
        """
        chunks = None if actions is None else as_actions(actions)[None]
        states = as_array(state)[None]
        batch = self._builder.build([prompt], states, chunks, max_len=self._max_len, overlong=self._overlong)
        losses = [lost(batch)]
        if batch.cut[0]:
            losses.append(f"{batch.cut[0]} tokens beyond max_len {self._max_len} were cut off")
        if batch.state_clipped[0]:
            losses.append(f"{batch.state_clipped[0]} values of the state outside [-1, 1] got the outermost bins")
        for loss in filter(None, losses):
            warnings.warn(loss, EncodeLossWarning, stacklevel=2)
        return batch.tokens[0], batch.token_mask[0], batch.ar_mask[0], batch.loss_mask[0]

    def extract_actions(self, tokens: ArrayLike, action_horizon: int, action_dim: int) -> NDArray[np.float64]:
        """Actions (T, D) of one generated sequence.

        Args:
            tokens: (L,) VLM ids, padded with 0.
            action_horizon: Steps T.
            action_dim: Dimensions D.

        Raises:
            DecodeError: With ``errors="strict"``, the ids describe no chunk.
        """
        found = self._builder.extract(np.asarray(tokens)[None])
        try:
            actions = self._tokenizer.decode(found.tokens, action_horizon, action_dim)
        except DecodeError as error:
            error.add_note(found.describe(0))
            if self._errors == "strict":
                raise
            actions, status = self._tokenizer.decode_with_status(found.tokens, action_horizon, action_dim)
            warnings.warn(f"{found.describe(0)}; {status.describe(0)}", DecodeRepairWarning, stacklevel=2)
        return actions.reshape(action_horizon, action_dim)
