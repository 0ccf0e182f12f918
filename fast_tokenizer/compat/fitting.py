"""Fits a vocabulary as the published `fit` does: the same merges, for whoever has to stay comparable.

The trainer is the native one. What is published about it: the alphabet is the characters of the whole range of
coefficients and those that stand for the bytes that occur, sorted; pairs that occur once are not merged, nor what would
be longer than 10,000; the most frequent pair comes first, of equals the one of the smallest ids.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import thread_count
from fast_tokenizer._core import train_bpe
from fast_tokenizer.chunk import ChunksLike, Extent, chunk_blocks
from fast_tokenizer.compat.byte_level import BYTE_CHARACTERS
from fast_tokenizer.compat.published import PublishedSpec, quantize
from fast_tokenizer.fitting import FitOptions, FitSummary, Progress

_MIN_FREQUENCY = 2
_MAX_TOKEN_LENGTH = 10_000
#: There are not twice as many characters.
_MAX_COEFFICIENT = 0x10FFFF


def fit_published(chunks: ChunksLike, options: FitOptions, progress: Progress) -> tuple[PublishedSpec, FitSummary]:
    """The vocabulary that the published code fits on these chunks, and what was counted. Chunks are taken as they are.

    Raises:
        ValueError: Bad chunks; options that the published fit does not have; a range of coefficients that does not fit
            the vocabulary.
    """
    start = time.perf_counter()
    _require_published(options)
    assert isinstance(options.scale, float)
    coefficients, extent = _quantized(chunks, options.scale, progress)
    lowest = min(int(c.min()) for c in coefficients)
    highest = max(int(c.max()) for c in coefficients)
    if highest - lowest > options.vocab_size:
        raise ValueError(
            f"the quantized coefficients span {lowest}..{highest}, which does not fit vocab_size={options.vocab_size}; "
            "normalise the actions, lower scale, or raise vocab_size"
        )
    bytes_, word_ends = _words(coefficients, options.scale, lowest)
    used = [BYTE_CHARACTERS[b] for b in np.flatnonzero(np.bincount(bytes_, minlength=256)).tolist()]
    alphabet = sorted({*used, *(chr(i) for i in range(highest - lowest + 1))})
    symbol_of = {ch: s for s, ch in enumerate(alphabet)}
    symbols = np.array([symbol_of.get(ch, 0) for ch in BYTE_CHARACTERS], np.uint16)[bytes_]
    merges = train_bpe(
        symbols,
        word_ends,
        len(alphabet),
        max(options.vocab_size, len(alphabet)),
        min_frequency=_MIN_FREQUENCY,
        max_token_symbols=_MAX_TOKEN_LENGTH,
        num_threads=thread_count(options.num_threads),
        progress=lambda done, total: progress("merge", done, total),
    )
    tokens = list(alphabet)
    for a, b in merges.tolist():
        tokens.append(tokens[a] + tokens[b])
    horizons = {c.shape[1] for c in coefficients}
    spec = PublishedSpec(
        scale=options.scale,
        min_token=lowest,
        tokens=tuple(tokens),
        merges=merges,
        time_horizon=horizons.pop() if len(horizons) == 1 else None,
        action_dim=coefficients[0].shape[2],
    )
    summary = FitSummary(
        chunks=extent.chunks,
        chunks_left_out=0,
        coefficients=sum(c.size for c in coefficients),
        clipped=0,
        saturated=0,
        alphabet_size=len(alphabet),
        merges=len(merges),
        spilled_bytes=0,
        seconds=time.perf_counter() - start,
    )
    return spec, summary


#: What the published fit does, where `fit` does something else when it is not told.
_AS_PUBLISHED: dict[str, object] = {"end_of_block": None, "levels_beyond": 0}


def _require_published(options: FitOptions) -> None:
    """Only what the published fit takes may be asked for."""
    defaults = FitOptions()
    asked = [
        name
        for name in FitOptions.__dataclass_fields__
        if name not in ("vocab_size", "scale", "num_threads")
        and getattr(options, name) not in (getattr(defaults, name), _AS_PUBLISHED.get(name, getattr(defaults, name)))
    ]
    if asked:
        raise ValueError(f"{asked[0]} cannot be set with compat='published': the published fit has no such option")
    if not isinstance(options.scale, float):
        raise ValueError("scale must be one number with compat='published'")


def _quantized(chunks: ChunksLike, scale: float, progress: Progress) -> tuple[list[NDArray[np.int32]], Extent]:
    """Coefficients (N, T, D) of each block, of its chunks one by one where their horizons differ."""
    found: list[NDArray[np.int32]] = []
    extent = Extent()
    for block in chunk_blocks(chunks):
        block.require_finite()
        extent.add(block)
        found += [_as_integers(quantize(values, scale), extent.chunks) for values in block.rectangles()]
        progress("quantize", extent.chunks, None)
    if not found:
        raise ValueError("got no chunks to fit on")
    return found, extent


def _as_integers(coefficients: NDArray[np.floating], read: int) -> NDArray[np.int32]:
    highest = float(np.abs(coefficients).max())
    if highest > _MAX_COEFFICIENT:
        raise ValueError(
            f"a quantized coefficient of the first {read} chunks is {highest:g}, for which published tokenizers have "
            "no character; normalise the actions, or lower scale"
        )
    return coefficients.astype(np.int32)


def _words(
    coefficients: list[NDArray[np.int32]], scale: float, lowest: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Bytes of the words of all texts one after the other, and where each word ends, from 0 on."""
    core = PublishedSpec(scale, lowest, tuple(BYTE_CHARACTERS), np.empty((0, 2), np.int32)).codec().core
    parts, ends = [], [np.zeros(1, np.int64)]
    total = 0
    for block in coefficients:
        text = np.ascontiguousarray(block.reshape(-1) - lowest)
        offsets = np.arange(len(block) + 1, dtype=np.int64) * (block.shape[1] * block.shape[2])
        bytes_, word_ends = core.words_as_bytes(text, offsets)
        parts.append(bytes_)
        ends.append(word_ends[1:] + total)
        total += len(bytes_)
    return np.concatenate(parts), np.concatenate(ends)
