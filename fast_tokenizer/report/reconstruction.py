"""How many tokens chunks take, and what is lost on the way: overall, per dimension, and in the worst of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.report.sample import Sample
from fast_tokenizer.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class Headline:
    """The figures that tokenizers are compared by, named as in lerobot's benchmark.

    Attributes:
        chunks: Chunks measured.
        reconstruction_mae: Mean absolute error after decoding, in normalised units; mse, rmse likewise.
        reconstruction_mse: Mean square.
        reconstruction_rmse: Root of it.
        reconstruction_max_abs_error: Largest error.
        per_dimension_mae: D mean absolute errors, in normalised units.
        compression_ratio: Values of a chunk, T * D, over its tokens on average.
        mean_token_length: Tokens of a chunk; std, min, max, p50 and p99 likewise.
        std_token_length: Standard deviation.
        min_token_length: Smallest.
        max_token_length: Largest.
        p50_token_length: Median.
        p99_token_length: 99th percentile.
        mean_encode_time_sec: Of one chunk, when all are encoded in one call.
        mean_decode_time_sec: The same of decoding.
        saturated: Coefficients cut to the fitted range.
        clipped: Values cut by the normaliser.
        dropped: Coefficients that a published vocabulary has no ids for.
        malformed_chunks: Chunks whose own ids do not decode strictly, which only a published vocabulary has; they
            were repaired to be measured.
    """

    chunks: int
    reconstruction_mae: float
    reconstruction_mse: float
    reconstruction_rmse: float
    reconstruction_max_abs_error: float
    per_dimension_mae: tuple[float, ...]
    compression_ratio: float
    mean_token_length: float
    std_token_length: float
    min_token_length: int
    max_token_length: int
    p50_token_length: float
    p99_token_length: float
    mean_encode_time_sec: float
    mean_decode_time_sec: float
    saturated: int
    clipped: int
    dropped: int
    malformed_chunks: int


@dataclass(frozen=True, slots=True)
class DimensionErrors:
    """One dimension's errors, in recorded units (raw) and in normalised ones.

    Attributes:
        name: As recorded, or its number.
        raw_mae: Mean absolute error; root mean square, 99th percentile and largest likewise.
        raw_rmse: Root mean square error.
        raw_p99_abs_error: 99th percentile of absolute errors.
        raw_max_abs_error: Largest error.
        rmse: Normalised root mean square error; 0 of a constant dimension, which has no unit.
        p99_abs_error: Normalised 99th percentile.
        max_abs_error: Normalised largest error.
        saturated: Coefficients of this dimension that were cut to the fitted range.
        clipped: Values that the normaliser cut.
    """

    name: str
    raw_mae: float
    raw_rmse: float
    raw_p99_abs_error: float
    raw_max_abs_error: float
    rmse: float
    p99_abs_error: float
    max_abs_error: float
    saturated: int
    clipped: int


@dataclass(frozen=True, slots=True, eq=False)
class ChunkExample:
    """One chunk before and after.

    Attributes:
        place: The episode and step that it begins with.
        index: Its number in the sample.
        tokens: How many it took.
        rmse: Its root mean square error, in normalised units.
        max_abs_error: Its largest error, in normalised units.
        dimension: The dimension that is worst in it, by largest normalised error.
        recorded: (T, D), in recorded units.
        decoded: (T, D), in recorded units.
        normalized_errors: (D,) largest normalised error of each dimension.
        half_range: (D,) recorded units of one normalised unit; 0 of a constant dimension.
    """

    place: str
    index: int
    tokens: int
    rmse: float
    max_abs_error: float
    dimension: int
    recorded: NDArray[np.floating]
    decoded: NDArray[np.floating]
    normalized_errors: NDArray[np.float64]
    half_range: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeExample:
    """The part of an episode around the worst chunk, decoded chunk by chunk, as a robot that runs them whole gets it.

    Attributes:
        first_step: The episode's step that `recorded` begins with.
        worst_step: Where in `recorded` the worst chunk begins.
        recorded: (L, D), whole chunks, in recorded units.
        decoded: (L, D), in recorded units.
        max_join_error: Largest change of the error of a dimension from the last step of a chunk to the first of the
            next, in normalised units: the jump that decoding adds there. 0 of a single chunk.
    """

    first_step: int
    worst_step: int
    recorded: NDArray[np.floating]
    decoded: NDArray[np.floating]
    max_join_error: float


#: Chunks before and after the worst one.
_CHUNKS_AROUND = 4


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """A sample, encoded and decoded.

    Attributes:
        headline: Overall figures.
        dimensions: D errors.
        token_lengths: (N,) tokens of each chunk.
        typical: The chunk whose RMSE is the median.
        worst: The chunk with the largest error of one value.
    """

    headline: Headline
    dimensions: tuple[DimensionErrors, ...]
    token_lengths: NDArray[np.int64]
    typical: ChunkExample
    worst: ChunkExample


def reconstruct(pipeline: Pipeline, sample: Sample, names: Sequence[str]) -> tuple[Reconstruction, TokenBatch]:
    """Encodes and decodes a sample, and compares.

    Args:
        pipeline: Takes the chunks in recorded units.
        sample: N chunks.
        names: D names of dimensions.
    """
    chunks = sample.chunks
    count, horizon, dims = chunks.shape
    pipeline.decode(pipeline.encode(chunks[:1]), horizon, dims)  # tables are set up before the clock starts
    start = time.perf_counter()
    tokens = pipeline.encode(chunks)
    encoded = time.perf_counter()
    decoded, status = pipeline.decode(tokens, horizon, dims)
    finished = time.perf_counter()
    raw = np.abs(decoded - chunks)
    unit = pipeline.unit(dims)
    errors = raw * unit
    half_range = np.divide(1.0, unit, out=np.zeros(dims), where=unit > 0)
    lengths = tokens.lengths
    mse = float(np.square(errors).mean())
    headline = Headline(
        chunks=count,
        reconstruction_mae=float(errors.mean()),
        reconstruction_mse=mse,
        reconstruction_rmse=float(np.sqrt(mse)),
        reconstruction_max_abs_error=float(errors.max()),
        per_dimension_mae=tuple(errors.mean(axis=(0, 1)).tolist()),
        compression_ratio=horizon * dims / float(lengths.mean()),
        mean_token_length=float(lengths.mean()),
        std_token_length=float(lengths.std()),
        min_token_length=int(lengths.min()),
        max_token_length=int(lengths.max()),
        p50_token_length=float(np.percentile(lengths, 50)),
        p99_token_length=float(np.percentile(lengths, 99)),
        mean_encode_time_sec=(encoded - start) / count,
        mean_decode_time_sec=(finished - encoded) / count,
        saturated=int(tokens.saturated.sum()),
        clipped=int(pipeline.clipped(chunks).sum()),
        dropped=int(tokens.dropped.sum()),
        malformed_chunks=int((~status.ok).sum()),
    )
    chunk_rmse = np.sqrt(np.square(errors).mean(axis=(1, 2)))
    typical = int(np.argsort(chunk_rmse, kind="stable")[(count - 1) // 2])
    worst = int(errors.max(axis=(1, 2)).argmax())

    def example(i: int) -> ChunkExample:
        per_dimension = errors[i].max(axis=0)
        return ChunkExample(
            place=str(sample.places[i]),
            index=i,
            tokens=int(lengths[i]),
            rmse=float(chunk_rmse[i]),
            max_abs_error=float(per_dimension.max()),
            dimension=int(per_dimension.argmax()),
            recorded=chunks[i],
            decoded=decoded[i],
            normalized_errors=per_dimension,
            half_range=half_range,
        )

    dimensions = _dimensions(names, raw, errors, _saturated(pipeline, chunks, tokens), pipeline.clipped(chunks))
    return Reconstruction(headline, dimensions, lengths, example(typical), example(worst)), tokens


def around_the_worst(pipeline: Pipeline, sample: Sample, worst: ChunkExample) -> EpisodeExample:
    """Decodes the neighbours of the worst chunk in its episode, end to end with it."""
    before, chunks = sample.around(worst.index, _CHUNKS_AROUND)
    _, horizon, dims = chunks.shape
    start = before * horizon
    decoded, _ = pipeline.decode(pipeline.encode(chunks), horizon, dims)
    error = (decoded - chunks) * pipeline.unit(dims)
    joins = float(np.abs(error[1:, 0] - error[:-1, -1]).max(initial=0.0))
    first = sample.places[worst.index].step - start
    return EpisodeExample(first, start, chunks.reshape(-1, dims), decoded.reshape(-1, dims), joins)


def _dimensions(
    names: Sequence[str],
    raw: NDArray[np.floating],
    errors: NDArray[np.floating],
    saturated: NDArray[np.int64],
    clipped: NDArray[np.int64],
) -> tuple[DimensionErrors, ...]:
    return tuple(
        DimensionErrors(
            name=names[d],
            raw_mae=float(raw[..., d].mean()),
            raw_rmse=float(np.sqrt(np.square(raw[..., d]).mean())),
            raw_p99_abs_error=float(np.percentile(raw[..., d], 99)),
            raw_max_abs_error=float(raw[..., d].max()),
            rmse=float(np.sqrt(np.square(errors[..., d]).mean())),
            p99_abs_error=float(np.percentile(errors[..., d], 99)),
            max_abs_error=float(errors[..., d].max()),
            saturated=int(saturated[d]),
            clipped=int(clipped[d]),
        )
        for d in range(raw.shape[2])
    )


def _saturated(pipeline: Pipeline, chunks: NDArray[np.floating], tokens: TokenBatch) -> NDArray[np.int64]:
    """(D,) coefficients that were cut: each dimension is encoded with the others at rest, whose coefficients are 0.

    So the count is the codec's own, whatever the order of its symbols.
    """
    counts = np.zeros(chunks.shape[2], np.int64)
    affected = chunks[tokens.saturated > 0]
    if not len(affected):
        return counts
    rest = np.zeros(chunks.shape[2]) if pipeline.normalizer is None else pipeline.normalizer.center
    for d in range(chunks.shape[2]):
        alone = np.broadcast_to(rest, affected.shape).astype(affected.dtype)
        alone[..., d] = affected[..., d]
        counts[d] = pipeline.encode(alone).saturated.sum()
    return counts
