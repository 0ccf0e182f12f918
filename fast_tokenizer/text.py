"""One way to call the text tokenizers that VLMs come with: text in, ids out, and no special tokens.

None of their own accord, and none for their names in a text either: SentencePiece takes ``<eos>`` in a prompt for five
letters, which is openpi's rule, and the others are told to.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fast_tokenizer._arguments import integer


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A text tokenizer, as a prompt needs it. `text_encoder` makes one; any other tokenizer can be put into it by hand.

    Attributes:
        encode: N texts -> N lists of ids, without BOS, EOS, padding or truncation, and with special tokens in a text
            taken as text.
        bos_id: Id that begins a sequence.
        eos_id: Id that ends one.
    """

    encode: Callable[[Sequence[str]], list[list[int]]]
    bos_id: int
    eos_id: int


def text_encoder(source: Any, *, bos_id: int | None = None, eos_id: int | None = None) -> TextEncoder:
    """Adapts a text tokenizer, as it is now: of a ``tokenizers`` or `transformers` one, a copy is used.

    Args:
        source: A SentencePiece model (path, bytes, or ``SentencePieceProcessor``), a ``tokenizers.Tokenizer``, a
            `transformers` tokenizer, or a `TextEncoder`.
        bos_id: None: the one that the tokenizer names. ``tokenizers.Tokenizer`` names none.
        eos_id: Likewise.

    Raises:
        ValueError: None of these, no SentencePiece model, one that cannot be copied, or BOS or EOS is neither named
            nor given.
        FileNotFoundError: No file at the path.
    """
    known = isinstance(source, TextEncoder)
    encode, bos, eos = (source.encode, source.bos_id, source.eos_id) if known else _adapted(source)
    return TextEncoder(encode, _special("bos_id", bos_id, bos), _special("eos_id", eos_id, eos))


def _special(name: str, given: int | None, named: int | None) -> int:
    value = named if given is None else given
    if value is None:
        raise ValueError(f"the text tokenizer names no {name[:3].upper()}: give {name}=...")
    return integer(name, value, 0, 2**31 - 1, "0 or more")


_Adapted = tuple[Callable[[Sequence[str]], list[list[int]]], int | None, int | None]


def _adapted(source: Any) -> _Adapted:
    if isinstance(source, str | bytes | os.PathLike):
        return _from_sentencepiece(_load_sentencepiece(source))
    # By the packages that its classes come from, so that none has to be imported.
    packages = {c.__module__.partition(".")[0] for c in type(source).__mro__}
    if "transformers" in packages and hasattr(source, "convert_tokens_to_ids"):
        own = _copied(source)
        own.split_special_tokens = True  # slow tokenizers of transformers 4 look here, not at the call
        return partial(_encode_with_transformers, own), source.bos_token_id, source.eos_token_id
    if "tokenizers" in packages and hasattr(source, "encode_batch"):
        return _PlainTokenizer(_copied(source)), None, None
    if "sentencepiece" in packages:
        return _from_sentencepiece(source)
    raise ValueError(
        "expected a SentencePiece model, a tokenizers.Tokenizer, a transformers tokenizer or a TextEncoder, "
        f"got {type(source).__name__}"
    )


def _load_sentencepiece(source: str | bytes | os.PathLike[str]) -> Any:
    from sentencepiece import SentencePieceProcessor

    where = "the bytes given" if isinstance(source, bytes) else str(source)
    model = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not model:  # of which SentencePiece makes a processor that fails later
        raise ValueError(f"{where}: no SentencePiece model: empty")
    try:
        return SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"{where}: no SentencePiece model: {error}") from None


def _from_sentencepiece(processor: Any) -> _Adapted:
    bos, eos = processor.bos_id(), processor.eos_id()  # -1: the model has none
    return partial(_encode_with_sentencepiece, processor), None if bos < 0 else bos, None if eos < 0 else eos


def _copied(tokenizer: Any) -> Any:
    """Ours to set options on; `transformers` changes those of the tokenizer that it calls, too."""
    try:
        return copy.deepcopy(tokenizer)
    except Exception as error:  # what `tokenizers` raises for parts written in Python
        raise ValueError(f"{type(tokenizer).__name__} cannot be copied, use a TextEncoder: {error}") from None


# Functions and a class, not closures: a builder must reach the spawned workers of a data loader.


def _encode_with_sentencepiece(processor: Any, texts: Sequence[str]) -> list[list[int]]:
    # Options of the processor's own, sampling among them, would otherwise have their way.
    plain = {"add_bos": False, "add_eos": False, "reverse": False, "enable_sampling": False}
    ids: list[list[int]] = processor.encode(list(texts), out_type=int, **plain)
    return ids


class _PlainTokenizer:
    """A ``tokenizers.Tokenizer`` of ours, without truncation, which would cut texts silently, padding and specials."""

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    def __reduce__(self) -> tuple[type[_PlainTokenizer], tuple[Any]]:
        return _PlainTokenizer, (self._tokenizer,)  # set anew: pickling loses encode_special_tokens

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _encode_with_transformers(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:  # which it takes for one text
        return []
    # verbose: what is too long for the model is the prompt's to say.
    plain = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
    ids: list[list[int]] = tokenizer(list(texts), split_special_tokens=True, **plain)["input_ids"]
    return ids
