"""`FastProcessor`: the call contract of the published FAST processor, over any `FastTokenizer`.

The contract is what openpi, lerobot, UniVLA, wall-x, VLANeXt, OpenTau and starVLA touch of the object that
``AutoProcessor.from_pretrained("physical-intelligence/fast", trust_remote_code=True)`` gives them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import as_array, check_errors, without_tensors
from fast_tokenizer.compat.export import export_hf, expressible, push_to_hub, single_scale
from fast_tokenizer.errors import EncodeLossWarning
from fast_tokenizer.prompt import PromptBatch
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: What `AutoProcessor` passes on, or needs for its own search, and we do not.
_OF_AUTO_PROCESSOR = frozenset({"trust_remote_code", "_from_auto", "code_revision", "use_fast", "proxies"})

Errors = Literal["strict", "repair"]


def _first_coefficient(tokenizer: FastTokenizer) -> int:
    """The coefficient of character U+0000."""
    spec = tokenizer.spec
    return spec.coefficient_range[0] if isinstance(spec, TokenizerSpec) else spec.min_coefficient


class BpeTokenizerView:
    """The text that a published processor's ``bpe_tokenizer`` writes: one character a coefficient.

    Attributes:
        vocab_size: Number of token ids.
    """

    def __init__(
        self, tokenizer: FastTokenizer, errors: Errors, time_horizon: int | None, action_dim: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._errors = errors
        self._shape = time_horizon, action_dim
        self.vocab_size = tokenizer.vocab_size

    def decode(self, token_ids: Any) -> str:
        """Text of one sequence of ids: ``ord(text[i]) + min_token`` is coefficient i, in frequency-first order.

        Where symbols are not just the coefficients in this order (ends of blocks, dimension-first order), the ids are
        taken for a chunk of the processor's `time_horizon` and `action_dim`.

        Never U+FFFD for bytes that are no UTF-8, which callers would take for coefficient 65179: they become 0.

        Args:
            token_ids: List, array or tensor of n ids.

        Raises:
            ValueError: With ``errors="strict"``, ids outside the vocabulary or part of a character. Otherwise they are
                repaired, with a `DecodeRepairWarning`; see `FastTokenizer.coefficients`. Or the chunk's T or D matters,
                and the processor does not say it.
        """
        coefficients = self._tokenizer.coefficients(as_array(token_ids), *self._shape, errors=self._errors)
        characters = coefficients - _first_coefficient(self._tokenizer)
        return characters.astype("<u4").tobytes().decode("utf-32-le")


class FastProcessor:
    """A `FastTokenizer` that is called like the published FAST processor.

    Actions are NumPy arrays or torch tensors, normalised by the caller as everywhere in the published FAST world. No
    call changes the object.

    Attributes:
        tokenizer: The tokenizer that it was made from.
        errors: What `decode` does with ids that describe no chunk: "repair" them with a `DecodeRepairWarning`, or
            "strict": raise `DecodeError`. The published processor returns zeros.
        time_horizon: Default of `decode`; may be set.
        action_dim: Default of `decode`; may be set.

    Example:
        >>> processor = FastProcessor(FastTokenizer.default())
        >>> chunk = np.sin(np.linspace(0, 3, 50))[:, None] * np.ones(7)
        >>> tokens = processor(chunk)
        >>> actions = processor.decode(tokens, time_horizon=50, action_dim=7)
        >>> actions.shape, bool(abs(actions[0] - chunk).max() < 0.05)
        ((1, 50, 7), True)
    """

    def __init__(self, tokenizer: FastTokenizer, *, errors: Errors = "repair") -> None:
        check_errors(errors)
        self.tokenizer, self.errors = tokenizer, errors
        spec = expressible(tokenizer)
        self.time_horizon: int | None = spec.time_horizon
        self.action_dim: int | None = spec.action_dim
        self._any_shape = _of_any_shape(tokenizer)

    # ---- Making one ------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        action_data: Iterable[Any],
        scale: float = 10,
        vocab_size: int = 1024,
        *,
        time_horizon: int | None = None,
        action_dim: int | None = None,
    ) -> FastProcessor:
        """Fits a native vocabulary; `FastTokenizer.fit` has more options.

        Args:
            action_data: (T_i, D) arrays or tensors.
            scale: Factor on the coefficients before rounding.
            vocab_size: Token ids.
            time_horizon: Default of `decode`; None: that of the chunks, where it is one.
            action_dim: The same for D.

        Raises:
            ValueError: As `FastTokenizer.fit`; or the chunks have another shape than was said.
        """
        chunks = [as_actions(chunk) for chunk in action_data]
        # Without ends of blocks and levels beyond the range, as in the published format: the result can be saved in it.
        processor = cls(FastTokenizer.fit(chunks, vocab_size, scale, end_of_block=None, levels_beyond=0))
        for name, given in (("time_horizon", time_horizon), ("action_dim", action_dim)):
            fitted = getattr(processor, name)
            if given is not None and fitted is not None and given != fitted:
                raise ValueError(f"{name}={given}, but the chunks have {fitted}")
            setattr(processor, name, fitted if given is None else given)
        return processor

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, errors: Errors = "repair", **hub_options: Any
    ) -> FastProcessor:
        """Reads a folder that `save_pretrained` wrote, or a published FAST artefact: a folder or a hub id.

        Args:
            pretrained_model_name_or_path: Folder, or id of a model repository.
            errors: See the class.
            hub_options: For `FastTokenizer.from_pretrained`: `revision`, `token`, `cache_dir` and the like; and
                `time_horizon` and `action_dim`, which replace what the folder records.
        """
        options = {k: v for k, v in hub_options.items() if k not in _OF_AUTO_PROCESSOR and v is not None}
        shape = {name: options.pop(name) for name in ("time_horizon", "action_dim") if name in options}
        processor = cls(FastTokenizer.from_pretrained(pretrained_model_name_or_path, **options), errors=errors)
        for name, value in shape.items():
            setattr(processor, name, value)
        return processor

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """`AutoProcessor` calls this on what it loads. Nothing to do: `save_pretrained` needs no registration."""

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes a folder for `AutoProcessor`, `PreTrainedTokenizerFast`, `tokenizers` and `from_pretrained`.

        To upload it, call the method `push_to_hub`.

        Raises:
            ValueError: The published format cannot express this tokenizer; see `export_hf`. Nothing is written.
        """
        export_hf(self._with_defaults(), save_directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes; see `fast_tokenizer.compat.export.push_to_hub`."""
        return push_to_hub(self._with_defaults(), repo_id, private=private, commit_message=commit_message, token=token)

    def _with_defaults(self) -> FastTokenizer:
        """The tokenizer with `time_horizon` and `action_dim` as they are set now."""
        spec = replace(expressible(self.tokenizer), time_horizon=self.time_horizon, action_dim=self.action_dim)
        return FastTokenizer(spec)

    # ---- What it is ------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.vocab_size

    @property
    def scale(self) -> float:
        """Factor on the coefficients before rounding. Raises ValueError when dimensions differ in it."""
        return single_scale(expressible(self.tokenizer))

    @property
    def min_token(self) -> int:
        """Coefficient of the character U+0000 in the text of `bpe_tokenizer`."""
        return _first_coefficient(self.tokenizer)

    @property
    def bpe_tokenizer(self) -> BpeTokenizerView:
        """For callers that go from text to actions by themselves, with `min_token` and `scale`.

        Raises:
            ValueError: The tokenizer has a normalizer, which these callers would leave out.
        """
        if self.tokenizer.spec.normalizer is not None:
            raise ValueError("this tokenizer has a normalizer: its coefficients are not those of actions; use decode")
        return BpeTokenizerView(self._any_shape, self.errors, self.time_horizon, self.action_dim)

    def __repr__(self) -> str:
        return (
            f"FastProcessor({self.tokenizer!r}, errors={self.errors!r}, time_horizon={self.time_horizon}, "
            f"action_dim={self.action_dim})"
        )

    # ---- Using it --------------------------------------------------------------------------------

    def __call__(self, action_chunk: Any) -> list[list[int]]:
        """Token ids of chunks.

        Args:
            action_chunk: (B, T, D) or (T, D), NumPy or torch.

        Returns:
            B lists of ids.

        Raises:
            ValueError: Not finite, empty or of another rank; names chunk, time step and dimension.
        """
        actions = as_actions(action_chunk)
        if actions.ndim == 3 and len(actions) == 0:
            return []
        batch = self._any_shape.encode(actions[None] if actions.ndim == 2 else actions)
        if loss := lost(batch):
            warnings.warn(loss, EncodeLossWarning, stacklevel=2)
        return batch.to_list()

    def decode(
        self, tokens: Any, *, time_horizon: int | None = None, action_dim: int | None = None
    ) -> NDArray[np.float64]:
        """Actions of B sequences of ids.

        Args:
            tokens: B lists, arrays or tensors of ids; a row that is None counts as one without ids.
            time_horizon: Steps T; None: the attribute.
            action_dim: Dimensions D; None: the attribute.

        Returns:
            (B, T, D).

        Raises:
            DecodeError: With ``errors="strict"``, ids that describe no chunk.
            ValueError: T or D is nowhere said.
        """
        return self._any_shape.decode(
            _rows(tokens),
            self.time_horizon if time_horizon is None else time_horizon,
            self.action_dim if action_dim is None else action_dim,
            errors=self.errors,
        )


def lost(batch: TokenBatch | PromptBatch) -> str | None:
    """What encoding lost of N chunks, by the counts of their batch; None when nothing."""
    chunks = np.count_nonzero(batch.saturated + batch.dropped + batch.clipped)
    if chunks == 0:
        return None
    return (
        f"of {chunks} of {len(batch.saturated)} chunks, {batch.saturated.sum()} coefficients were cut to the range of "
        f"the vocabulary, {batch.dropped.sum()} dropped as it has no tokens for them, and {batch.clipped.sum()} values "
        "clipped by the normalizer; are the actions normalised as those it was fitted on?"
    )


def _of_any_shape(tokenizer: FastTokenizer) -> FastTokenizer:
    """Without its T and D: to the published processor they are defaults of `decode`, and it takes any chunk."""
    spec = expressible(tokenizer)
    if isinstance(spec, TokenizerSpec):
        if isinstance(spec.scale, tuple) or spec.normalizer is not None:  # D is part of the meaning
            return FastTokenizer(replace(spec, time_horizon=None))
        spec = replace(spec, dimension_names=None)
    return FastTokenizer(replace(spec, time_horizon=None, action_dim=None))


def as_actions(values: Any) -> NDArray[np.floating]:
    """Actions in a dtype that the tokenizer takes: half precision, integers and booleans are exact in a wider one."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError("actions are a masked array; what stands under the mask cannot be encoded")
    actions = np.asarray(without_tensors(values))
    if actions.dtype == np.float16:
        return actions.astype(np.float32)
    return actions.astype(np.float64) if actions.dtype.kind in "iub" else actions


def _rows(tokens: Any) -> Sequence[Any]:
    if isinstance(tokens, TokenBatch):
        return tokens
    rows = as_array(tokens) if hasattr(tokens, "detach") else tokens
    return [np.empty(0, np.int32) if row is None else as_array(row) for row in rows]
