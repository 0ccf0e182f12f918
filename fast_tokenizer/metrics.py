"""How many tokens a tokenizer needs, and what it loses."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.tokenizer import FastTokenizer


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Measured on chunks that the tokenizer should not have been fitted on.

    Names follow lerobot's tokenizer benchmark where it has one.

    Attributes:
        chunks: Chunks measured.
        mean_token_length: Tokens per chunk; p50, p99 and max likewise.
        p50_token_length: Median.
        p99_token_length: 99th percentile.
        max_token_length: Largest.
        compression_ratio: Tokens of naive binning (one per value, T * D) over tokens.
        reconstruction_rmse: Root mean square error after decoding, in normalised units.
        reconstruction_max_abs_error: Largest error, in normalised units.
        raw_rmse: Root mean square error in the actions' units, over all dimensions.
        raw_max_abs_error: Largest error in the actions' units.
        per_dimension_rmse: D root mean square errors in the actions' units.
        saturated: Coefficients cut to the fitted range.
        clipped: Values cut by the normaliser.
        dropped: Coefficients that a published vocabulary has no ids for; their chunks were repaired to be measured.
        encode_seconds: Wall time of encoding them all.
        decode_seconds: Wall time of decoding them all.
    """

    chunks: int
    mean_token_length: float
    p50_token_length: float
    p99_token_length: float
    max_token_length: int
    compression_ratio: float
    reconstruction_rmse: float
    reconstruction_max_abs_error: float
    raw_rmse: float
    raw_max_abs_error: float
    per_dimension_rmse: tuple[float, ...]
    saturated: int
    clipped: int
    dropped: int
    encode_seconds: float
    decode_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate(tokenizer: FastTokenizer, chunks: Iterable[NDArray[np.floating]]) -> QualityReport:
    """Encodes and decodes chunks, and compares.

    Args:
        tokenizer: Any tokenizer.
        chunks: Arrays (N_i, T_i, D), in the units that the tokenizer takes; read one at a time.

    Raises:
        ValueError: There are no chunks, the tokenizer does not take them, or its actions are relative to a state.

    Example:
        >>> chunks = np.zeros((4, 50, 7))
        >>> report = evaluate(FastTokenizer.default(), [chunks])
        >>> report.chunks, report.reconstruction_rmse
        (4, 0.0)
    """
    if tokenizer.takes_state:
        raise ValueError(
            "the tokenizer's actions are relative to a state, which chunks alone do not have: subtract it, and pass "
            "tokenizer.without_relative()"
        )
    lengths: list[NDArray[np.int64]] = []
    squares: NDArray[np.float64] | float = 0.0
    worst: NDArray[np.float64] | float = 0.0
    rows = values = saturated = clipped = dropped = 0
    encode_seconds = decode_seconds = 0.0
    for block in chunks:
        if len(block) == 0:
            continue
        if not lengths:  # tables and threads are set up before the clock starts
            tokenizer.decode_with_status(tokenizer.encode(block), block.shape[1], block.shape[2])
        start = time.perf_counter()
        tokens = tokenizer.encode(block)
        encoded = time.perf_counter()
        decoded, _ = tokenizer.decode_with_status(tokens, block.shape[1], block.shape[2])
        decode_seconds += time.perf_counter() - encoded
        encode_seconds += encoded - start
        error = (decoded - block).reshape(-1, block.shape[2])
        squares = squares + np.square(error).sum(axis=0)
        worst = np.maximum(worst, np.abs(error).max(axis=0))
        rows += len(error)
        values += error.size
        saturated += int(tokens.saturated.sum())
        clipped += int(tokens.clipped.sum())
        dropped += int(tokens.dropped.sum())
        lengths.append(tokens.lengths)
    if rows == 0:
        raise ValueError("got no chunks to measure on")
    mean_square = np.atleast_1d(squares / rows)
    unit = normalized_unit(tokenizer, mean_square.size)
    length = np.concatenate(lengths)
    return QualityReport(
        chunks=len(length),
        mean_token_length=float(length.mean()),
        p50_token_length=float(np.percentile(length, 50)),
        p99_token_length=float(np.percentile(length, 99)),
        max_token_length=int(length.max()),
        compression_ratio=values / float(length.sum()),
        reconstruction_rmse=float(np.sqrt((mean_square * unit**2).mean())),
        reconstruction_max_abs_error=float((worst * unit).max()),
        raw_rmse=float(np.sqrt(mean_square.mean())),
        raw_max_abs_error=float(np.max(worst)),
        per_dimension_rmse=tuple(np.sqrt(mean_square).tolist()),
        saturated=saturated,
        clipped=clipped,
        dropped=dropped,
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def normalized_unit(tokenizer: FastTokenizer, dims: int) -> NDArray[np.float64]:
    """(D,) factor from raw to normalised errors; 0 for a constant dimension, which has no unit."""
    return half_range_inverse(tokenizer.spec.normalizer, dims)


def half_range_inverse(normalizer: Normalizer | None, dims: int) -> NDArray[np.float64]:
    """The same of a normaliser; None leaves errors as they are."""
    if normalizer is None:
        return np.ones(dims)
    return np.where(normalizer.constant, 0.0, 1.0 / np.where(normalizer.constant, 1.0, normalizer.half_range))
