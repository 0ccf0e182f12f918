"""Tokenizers to encode and decode with. In a run of the suite each is fitted once and kept in the cache folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import require
from benchmarks.data import CACHE, SCALE, Workload
from fast_tokenizer import FastTokenizer, TokenBatch, _reference

if TYPE_CHECKING:
    from benchmarks.competitors.published import PublishedFast


def ours(workload: Workload, fit_chunks: int) -> FastTokenizer:
    """Ours, fitted on so many chunks."""
    path = _cached(workload, fit_chunks, "ours")
    if path is not None and path.exists():
        return FastTokenizer.load(path)
    tokenizer = FastTokenizer.fit(workload.train(fit_chunks), workload.vocab_size, SCALE)
    if path is not None:
        tokenizer.save(path)
    return tokenizer


def published(workload: Workload, fit_chunks: int) -> PublishedFast:
    """The published pipeline, fitted on the same chunks."""
    from benchmarks.competitors.published import PublishedFast

    path = _cached(workload, fit_chunks, "published.json")
    if path is not None and path.exists():
        return PublishedFast.load(path)
    tokenizer = PublishedFast.fit(workload.train(fit_chunks), workload.vocab_size, SCALE)
    if path is not None:
        tokenizer.save(path)
    return tokenizer


def _cached(workload: Workload, fit_chunks: int, suffix: str) -> Path | None:
    folder = os.environ.get(CACHE)
    return None if folder is None else Path(folder) / f"{workload.name}-{fit_chunks}-{suffix}".replace(" ", "_")


#: Symbols that the readable reference encodes before anything is timed; it takes some milliseconds a thousand.
REFERENCE_SYMBOLS = 10_000


def require_exact(tokenizer: FastTokenizer, chunks: NDArray[np.floating], tokens: TokenBatch) -> None:
    """The ids are the readable reference's (on some of the chunks), for one thread as for all."""
    step = max(1, chunks.size // REFERENCE_SYMBOLS)
    for i in range(0, len(chunks), step):
        expected = _reference.encode(chunks[i], tokenizer.spec).ids
        require(tokens[i].tolist() == expected, f"ids of chunk {i} differ from the reference's")
    alone = tokenizer.encode(chunks, num_threads=1)
    same = np.array_equal(alone.ids, tokens.ids) and np.array_equal(alone.offsets, tokens.offsets)
    require(same, "ids differ between one thread and all")


def near(decoded: NDArray[np.floating], chunks: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,): the chunk is as near as rounding allows: half a step in every coefficient; the transform keeps lengths."""
    error = np.linalg.norm((decoded - chunks).reshape(len(chunks), -1), axis=1)
    return error <= 0.5 / SCALE * np.sqrt(chunks[0].size) + 1e-6


def require_near(tokenizer: FastTokenizer, chunks: NDArray[np.floating], tokens: TokenBatch) -> None:
    """Decoded chunks are near, unless coefficients saturated."""
    right = near(tokenizer.decode(tokens), chunks) | (tokens.saturated > 0)
    require(bool(right.all()), "decoded chunks are further off than rounding explains")


#: Decoded chunks that are compared with the readable reference's.
REFERENCE_CHUNKS = 2


def require_decoded(tokenizer: FastTokenizer, tokens: TokenBatch, decoded: NDArray[np.floating]) -> None:
    """The first chunks are what the readable reference makes of their ids."""
    for i in range(min(REFERENCE_CHUNKS, len(tokens))):
        expected = _reference.decode(tokens[i].tolist(), tokenizer.spec, *decoded.shape[1:])
        same = np.allclose(decoded[i], expected.chunk, rtol=0, atol=1e-9)
        require(same, f"decoded chunk {i} differs from the reference's")


def require_round_trip(tokenizer: FastTokenizer, tokens: TokenBatch, decoded: NDArray[np.floating]) -> None:
    """Decoded chunks have the same coefficients: they encode to the same ids."""
    again = tokenizer.encode(decoded)
    same = np.array_equal(again.ids, tokens.ids) and np.array_equal(again.offsets, tokens.offsets)
    require(same, "decoded chunks encode to other ids")
