"""One way to call the text tokenizers that VLMs come with: text in, ids out, no special tokens on their own."""

from __future__ import annotations

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
        encode: N texts -> N lists of ids, without BOS, EOS, padding or truncation.
        bos_id: Id that begins a sequence.
        eos_id: Id that ends one.
    """

    encode: Callable[[Sequence[str]], list[list[int]]]
    bos_id: int
    eos_id: int


def text_encoder(source: Any, *, bos_id: int | None = None, eos_id: int | None = None) -> TextEncoder:
    """Adapts a text tokenizer.

    Args:
        source: A SentencePiece model (path, bytes, or ``SentencePieceProcessor``), a ``tokenizers.Tokenizer``, a
            `transformers` tokenizer, or a `TextEncoder`.
        bos_id: None: the one that the tokenizer names. ``tokenizers.Tokenizer`` names none.
        eos_id: Likewise.

    Raises:
        ValueError: None of these, no SentencePiece model, or BOS or EOS is neither named nor given.
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
        return partial(_encode_with_transformers, source), source.bos_token_id, source.eos_token_id
    if "tokenizers" in packages and hasattr(source, "encode_batch"):
        return partial(_encode_with_tokenizers, _without_cutting(source)), None, None
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


def _without_cutting(tokenizer: Any) -> Any:
    """A tokenizer that was saved with truncation would cut texts silently."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


# Functions, not closures: a builder must reach the spawned workers of a data loader.


def _encode_with_sentencepiece(processor: Any, texts: Sequence[str]) -> list[list[int]]:
    # Options of the processor's own, sampling among them, would otherwise have their way.
    plain = {"add_bos": False, "add_eos": False, "reverse": False, "enable_sampling": False}
    ids: list[list[int]] = processor.encode(list(texts), out_type=int, **plain)
    return ids


def _encode_with_tokenizers(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _encode_with_transformers(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:  # which it takes for one text
        return []
    # verbose: what is too long for the model is the prompt's to say.
    plain = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
    ids: list[list[int]] = tokenizer(list(texts), **plain)["input_ids"]
    return ids
