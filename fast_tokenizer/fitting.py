"""Fitting a vocabulary: from chunks, in whatever form they come, to all that decides the tokens."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from fast_tokenizer._arguments import integer, native_normalizer, thread_count
from fast_tokenizer._core import MAX_COEFFICIENT, MAX_TOKEN_SYMBOLS, MAX_VOCAB_SIZE, Corpus
from fast_tokenizer.chunk import ChunkBlock, ChunkSample, ChunksLike, Extent, blocks_again, chunk_blocks
from fast_tokenizer.normalize import Normalizer, NormalizerKind
from fast_tokenizer.relative import Relative, RelativeLike
from fast_tokenizer.scales import SAMPLE_VALUES, ErrorTargets, check_target, excess, fit_scales, safe_scales
from fast_tokenizer.spec import EndOfBlock, Order, Parsing, TokenizerSpec
from fast_tokenizer.statistics import NormalizerStatistics

if TYPE_CHECKING:
    from fast_tokenizer.distributed import RayCorpus

#: What quantizes and trains: the threads of this process, or a Ray cluster. The result is the same.
Engine: TypeAlias = Literal["threads", "ray"]

#: Where neither a scale nor an error is asked for.
DEFAULT_SCALE = 10.0

#: How often scales are raised where chunks outside the sample miss a target; then to what no chunk can miss.
_RAISES = 20

#: Called with the stage ("statistics", "sample", "scale", "quantize" or "merge"), the work done and the work to do:
#: chunks, or merges. None: not known yet.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class FitSummary:
    """What `fit` saw and what it cost.

    Attributes:
        chunks: Chunks fitted on.
        chunks_left_out: Chunks that were seen, but are not in the sample of `max_chunks`, `sample_fraction` or weights.
        coefficients: Coefficients in them.
        clipped: Values that the normaliser cut.
        saturated: Coefficients outside the fitted range.
        alphabet_size: Symbols of the fitted range.
        merges: Merges learned; fewer than asked for when no pair occurs `min_frequency` times any more.
        spilled_bytes: Bytes of temporary files that were made because of a `memory_budget`.
        seconds: Wall time.
        embodiments: What each embodiment of a mixture gave, by name; empty for a fit of one.
    """

    chunks: int
    chunks_left_out: int
    coefficients: int
    clipped: int
    saturated: int
    alphabet_size: int
    merges: int
    spilled_bytes: int
    seconds: float
    embodiments: Mapping[str, EmbodimentSummary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbodimentSummary:
    """What one embodiment gave to the vocabulary of a mixture.

    Attributes:
        chunks: Chunks fitted on.
        chunks_left_out: Chunks that are not among them, for the weights' or `max_chunks`' sake.
        coefficients: Coefficients in them.
        share: Their share of all coefficients fitted on.
        clipped: Values that the normaliser cut.
        outside: Coefficients outside the fitted range.
    """

    chunks: int
    chunks_left_out: int
    coefficients: int
    share: float
    clipped: int
    outside: int


@dataclass(frozen=True, slots=True, eq=False)
class EmbodimentData:
    """One embodiment's data for `FastTokenizer.fit_mixture`; all but `weight` as for `FastTokenizer.fit`.

    Attributes:
        chunks: Chunks of one D.
        weight: Share of the coefficients that the vocabulary is fitted on, relative to the other embodiments' weights;
            None, for all of them or none: every chunk is taken.
        scale: Factor on the coefficients before rounding; None: 10, or what the targets need.
        target_rmse: Root mean square error to keep, in raw units.
        target_max_error: Largest error to keep, in raw units.
        normalize: Statistics to take, or a `Normalizer`, or None.
        clip: Bound on normalised values, with statistics to take.
        dimension_names: D names.
        hz: Control rate.
        max_chunks: At most that many chunks, drawn uniformly.
        relative: Dimensions relative to the state.
        state: (N, S) states at the chunks' starts.
    """

    chunks: ChunksLike
    _: KW_ONLY
    weight: float | None = None
    scale: float | Sequence[float] | None = None
    target_rmse: ArrayLike | None = None
    target_max_error: ArrayLike | None = None
    normalize: Normalizer | NormalizerKind | None = None
    clip: float | None = None
    dimension_names: Sequence[str] | None = None
    hz: float | None = None
    max_chunks: int | None = None
    relative: RelativeLike | None = None
    state: ArrayLike | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class FitOptions:
    """The options of `FastTokenizer.fit`, which explains them. Made, they are valid: no chunk need be read to say so.

    Raises:
        ValueError: Bad options.
    """

    vocab_size: int = 1024
    scale: float | Sequence[float] | None = None
    target_rmse: ArrayLike | None = None
    target_max_error: ArrayLike | None = None
    min_frequency: int = 2
    normalize: Normalizer | NormalizerKind | None = None
    clip: float | None = None
    range_quantile: float = 1.0
    order: Order = "frequency-first"
    end_of_block: EndOfBlock | None = "chunk"
    parsing: Parsing = "bpe"
    dead_zone: float = 0.5
    levels_beyond: int | None = None
    max_token_symbols: int = 1024
    dimension_names: Sequence[str] | None = None
    hz: float | None = None
    max_chunks: int | None = None
    sample_fraction: float | None = None
    seed: int = 0
    relative: Relative | None = None
    memory_budget: int | None = None
    spill_directory: str | os.PathLike[str] | None = None
    num_threads: int | None = None
    engine: Engine = "threads"

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise ValueError(f"engine must be one of {get_args(Engine)}, got {self.engine!r}")
        if self.engine == "ray" and self.num_threads is not None:
            raise ValueError("num_threads goes with engine='threads': a cluster's tasks and shards go by its CPUs")
        self.vocab_size = integer("vocab_size", self.vocab_size, 1, MAX_VOCAB_SIZE, f"in 1..{MAX_VOCAB_SIZE}")
        self.min_frequency = integer("min_frequency", self.min_frequency, 1, 2**62, "at least 1")
        self.max_token_symbols = integer(
            "max_token_symbols", self.max_token_symbols, 1, MAX_TOKEN_SYMBOLS, f"in 1..{MAX_TOKEN_SYMBOLS}"
        )
        if self.levels_beyond is not None:
            most = MAX_VOCAB_SIZE // 2
            self.levels_beyond = integer("levels_beyond", self.levels_beyond, 0, most, f"in 0..{most}")
        self.target_rmse = check_target("target_rmse", self.target_rmse)
        self.target_max_error = check_target("target_max_error", self.target_max_error)
        if self.has_target and self.scale is not None:
            raise ValueError("give scale, or the errors that it is to keep")
        if self.has_target and self.range_quantile < 1:
            raise ValueError("range_quantile below 1 lets coefficients saturate, which no target allows")
        if not 0.99 <= self.range_quantile <= 1:
            raise ValueError(f"range_quantile must lie in [0.99, 1], got {self.range_quantile}")
        self._check_artefact()
        self._check_normalize()
        self._check_storage()
        thread_count(self.num_threads)

    def _check_artefact(self) -> None:
        """What the artefact would refuse."""
        names = self.dimension_names
        if isinstance(self.scale, str) or isinstance(names, str):
            raise ValueError("scale takes numbers and dimension_names a list of strings, got a string")
        if self.scale is not None:
            scale = np.asarray(self.scale, np.float64)
            self.scale = float(scale) if scale.ndim == 0 else tuple(float(s) for s in scale)
        elif not self.has_target:
            self.scale = DEFAULT_SCALE
        self.dimension_names = names = None if names is None else tuple(names)
        dims = len(self.scale) if isinstance(self.scale, tuple) else None if names is None else len(names)
        if self.relative is not None and dims is not None:
            self.relative.check_action_dim(dims)
        empty = np.empty((0, 2), np.int32)
        TokenizerSpec(
            DEFAULT_SCALE if self.scale is None else self.scale,
            0,
            0,
            empty,
            action_dim=dims,
            hz=self.hz,
            dimension_names=names,
            **self.coding,
            parsing=self.parsing,
        )

    def _check_normalize(self) -> None:
        if isinstance(self.normalize, str):
            Normalizer(self.normalize, np.zeros(1), np.ones(1), self.clip)
        elif self.normalize is not None and not isinstance(self.normalize, Normalizer):
            raise ValueError(f"normalize must be a kind of statistics, a Normalizer or None, got {self.normalize!r}")
        elif self.clip is not None:
            raise ValueError("clip goes with statistics to take; give a Normalizer its clip itself")

    def _check_storage(self) -> None:
        if self.max_chunks is not None:
            self.max_chunks = integer("max_chunks", self.max_chunks, 1, 2**62, "at least 1")
        self.seed = integer("seed", self.seed, 0, 2**63 - 1, "at least 0")
        if self.sample_fraction is not None:
            if self.max_chunks is not None:
                raise ValueError("give max_chunks or sample_fraction, not both")
            if not 0 < self.sample_fraction <= 1:
                raise ValueError(f"sample_fraction must lie in (0, 1], got {self.sample_fraction}")
        if self.memory_budget is not None:
            self.memory_budget = integer("memory_budget", self.memory_budget, 0, 2**62, "at least 0 bytes")
        if self.spill_directory is not None:
            if self.memory_budget is None:
                raise ValueError("spill_directory goes with memory_budget: without one, nothing is spilled")
            try:
                if self.engine == "threads":  # else it is on other machines
                    tempfile.TemporaryFile(dir=self.spill_directory).close()
            except OSError as error:
                raise ValueError(f"spill_directory: cannot write in {self.spill_directory}: {error.strerror}") from None

    @property
    def coding(self) -> dict[str, Any]:
        """Fields of the artefact that decide which symbols chunks become, for the core too."""
        return {"order": self.order, "end_of_block": self.end_of_block, "dead_zone": self.dead_zone}

    @property
    def statistics(self) -> NormalizerKind | None:
        """The statistics to take, or None."""
        return self.normalize if isinstance(self.normalize, str) else None

    @property
    def has_target(self) -> bool:
        """Scales are fitted to an error."""
        return self.target_rmse is not None or self.target_max_error is not None

    @property
    def targets(self) -> ErrorTargets:
        """The errors to keep."""
        return ErrorTargets(
            check_target("target_rmse", self.target_rmse), check_target("target_max_error", self.target_max_error)
        )

    @property
    def scales(self) -> list[float]:
        """The scale as a list of one or D entries; any, as long as the targets have not been asked."""
        scale = DEFAULT_SCALE if self.scale is None else self.scale
        return [scale] if isinstance(scale, float) else list(scale)

    def empty_corpus(self) -> AnyCorpus:
        """An empty corpus of the engine."""
        directory = None if self.spill_directory is None else str(Path(self.spill_directory).absolute())
        if self.engine == "ray":
            from fast_tokenizer.distributed import RayCorpus

            return RayCorpus(self.scales, **self.coding, memory_budget=self.memory_budget, spill_directory=directory)
        if self.memory_budget is not None and directory is None:
            directory = tempfile.gettempdir()
        return Corpus(self.scales, **self.coding, memory_budget=self.memory_budget, spill_directory=directory)


#: The coefficients of chunks, wherever they lie.
AnyCorpus: TypeAlias = "Corpus | RayCorpus"


@runtime_checkable
class ChunksOnWorkers(Protocol):
    """Chunks that an engine's workers read themselves."""

    @property
    def relative(self) -> Relative | None:
        """The rule of relative actions, which these are."""

    def collect(self, corpus: RayCorpus, options: FitOptions, report: Progress) -> Collected:
        """Quantizes them into the corpus."""


@dataclass(frozen=True, slots=True, eq=False)
class FitPart:
    """What one embodiment brings to a fit.

    Attributes:
        chunks: Relative already, where the options have a rule.
        options: Those of the vocabulary are the same in all parts.
        embodiment: Its name, or None where it is alone.
        left_out: Chunks that are not among them since whoever made the part sampled them.
    """

    chunks: ChunksLike | ChunksOnWorkers
    options: FitOptions
    embodiment: str | None = None
    left_out: int = 0


def fit_spec(
    chunks: ChunksLike | ChunksOnWorkers, options: FitOptions, report: Progress
) -> tuple[TokenizerSpec, FitSummary]:
    """What `FastTokenizer.fit` does: the vocabulary, with all that decides the tokens, and what was counted.

    The chunks are relative already, where the options have a rule for it.
    """
    (spec,), summary = fit_parts([FitPart(chunks, options)], report)
    return spec, summary


def fit_parts(parts: Sequence[FitPart], report: Progress) -> tuple[list[TokenizerSpec], FitSummary]:
    """One vocabulary for all parts: a spec of each, and what was counted."""
    start = time.perf_counter()
    options = parts[0].options
    corpus = options.empty_corpus()
    collected = [_collect(part, corpus, report) for part in parts]
    lowest, highest, levels_beyond = _fitted_range(corpus, options)
    left_out = sum(c.left_out for c in collected)
    counted = {  # training uses the corpus up
        "chunks": corpus.chunks,
        "chunks_left_out": left_out,
        "coefficients": corpus.symbols,
        "clipped": corpus.clipped,
        "saturated": corpus.outside(lowest, highest),
    }
    embodiments = {
        part.embodiment: EmbodimentSummary(
            chunks=c.chunks,
            chunks_left_out=c.left_out,
            coefficients=c.coefficients,
            share=c.coefficients / corpus.symbols,
            clipped=c.clipped,
            outside=c.outside(lowest, highest),
        )
        for part, c in zip(parts, collected, strict=True)
        if part.embodiment is not None
    }
    merges = corpus.train(
        lowest,
        highest,
        options.vocab_size,
        options.min_frequency,
        options.max_token_symbols,
        num_threads=thread_count(options.num_threads),
        progress=lambda done, total: report("merge", done, total),
        levels_beyond=levels_beyond,
    )
    specs = [
        TokenizerSpec(
            scale=c.scale,
            min_coefficient=lowest,
            max_coefficient=highest,
            levels_beyond=levels_beyond,
            merges=merges,
            **options.coding,
            parsing=options.parsing,
            normalizer=c.normalizer,
            time_horizon=c.horizons.pop() if len(c.horizons) == 1 else None,
            action_dim=c.action_dim,
            hz=part.options.hz,
            dimension_names=part.options.dimension_names,  # type: ignore[arg-type]
            relative=part.options.relative,
            embodiment=part.embodiment,
        )
        for part, c in zip(parts, collected, strict=True)
    ]
    seconds = time.perf_counter() - start
    summary = FitSummary(
        **counted,
        alphabet_size=specs[0].alphabet_size,
        merges=len(merges),
        spilled_bytes=corpus.spilled_bytes,
        seconds=seconds,
        embodiments=embodiments,
    )
    return specs, summary


def weighted(parts: Sequence[FitPart], weights: Sequence[float], report: Progress) -> list[FitPart]:
    """The same parts, of each a uniform sample, so that their coefficients stand in the proportion of the weights.

    None is repeated: the part that has the fewest for its weight is taken whole. Chunks are counted for it, so that an
    iterator is held in memory.
    """
    check_weights(weights)
    whole: list[FitPart] = []
    available: list[int] = []
    a_chunk: list[float] = []
    for part in parts:
        chunks = part.chunks
        if isinstance(chunks, ChunksOnWorkers):
            raise ValueError(f"embodiment {part.embodiment!r}: weights go with chunks that this process reads")
        if isinstance(chunks, Iterator):  # which may fill one buffer again and again
            chunks = [array for block in chunk_blocks(chunks) for array in block.rectangles()]
        count = coefficients = 0
        for block in chunk_blocks(chunks):
            count, coefficients = count + len(block), coefficients + block.values.size
            report("count", count, None)
        if count == 0:
            raise ValueError(f"embodiment {part.embodiment!r}: got no chunks to fit on")
        whole.append(replace(part, chunks=chunks))
        available.append(count if part.options.max_chunks is None else min(count, part.options.max_chunks))
        a_chunk.append(coefficients / count)
    counts = weighted_counts(available, a_chunk, weights)
    return [replace(p, options=replace(p.options, max_chunks=n)) for p, n in zip(whole, counts, strict=True)]


def weighted_counts(available: Sequence[int], a_chunk: Sequence[float], weights: Sequence[float]) -> list[int]:
    """Chunks to take of each source, given how many it has and the coefficients of one: most that keep to the weights.

    Example:
        >>> weighted_counts([1000, 400], [10, 50], weights=[1, 1])
        [1000, 200]
    """
    check_weights(weights)
    total = min(n * c / w for n, c, w in zip(available, a_chunk, weights, strict=True))
    return [min(n, max(1, round(total * w / c))) for n, c, w in zip(available, a_chunk, weights, strict=True)]


def check_weights(weights: Sequence[float | None]) -> bool:
    """Whether there are weights, which must be positive. Raises ValueError for others, or where some are missing."""
    given = [w for w in weights if w is not None]
    if given and len(given) < len(weights):
        raise ValueError("give every embodiment a weight, or none")
    if any(not 0 < w < float("inf") for w in given):
        raise ValueError(f"weights must be positive and finite, got {given}")
    return bool(given)


@dataclass(slots=True, eq=False)
class Collected:
    """What a part brought to the corpus.

    Attributes:
        normalizer: That its chunks went through, or None.
        scale: That they were quantized at.
        left_out: Chunks that the sample leaves out.
        horizons: Distinct T.
        action_dim: Dimensions D.
        chunks: Chunks quantized.
        coefficients: Coefficients in them.
        clipped: Values that the normaliser cut.
        histogram: How often each coefficient occurs.
    """

    normalizer: Normalizer | None
    scale: float | tuple[float, ...]
    left_out: int
    horizons: set[int]
    action_dim: int
    chunks: int
    coefficients: int
    clipped: int
    histogram: dict[int, int]

    def outside(self, lowest: int, highest: int) -> int:
        """Coefficients outside the range."""
        return sum(n for value, n in self.histogram.items() if not lowest <= value <= highest)


def _collect(part: FitPart, corpus: AnyCorpus, report: Progress) -> Collected:
    """Quantizes a part's chunks into the corpus."""
    try:
        if isinstance(part.chunks, ChunksOnWorkers):
            assert not isinstance(corpus, Corpus)
            collected = part.chunks.collect(corpus, part.options, report)
        else:
            collected = _collect_here(part.chunks, part.options, corpus, report)
    except ValueError as error:
        if part.embodiment is None:
            raise
        raise ValueError(f"embodiment {part.embodiment!r}: {error}") from None
    collected.left_out += part.left_out
    return collected


def _collect_here(chunks: ChunksLike, options: FitOptions, corpus: AnyCorpus, report: Progress) -> Collected:
    """Of chunks that this process reads."""
    blocks, normalizer, left_out = _blocks_to_fit(chunks, options, report)
    if options.has_target:
        blocks, scales = _fitted_scales(chunks, blocks, normalizer, options, report)
        options = replace(options, scale=scales, target_rmse=None, target_max_error=None)
    before = counts_of(corpus)
    horizons, dims = _add(blocks, normalizer, options, corpus, report)
    assert isinstance(options.scale, float | tuple)
    return collected_since(before, corpus, normalizer, options.scale, left_out, horizons, dims)


#: Chunks, coefficients, clipped values and the histogram of a corpus.
Counts: TypeAlias = tuple[int, int, int, dict[int, int]]


def counts_of(corpus: AnyCorpus) -> Counts:
    """What a corpus counts now."""
    values, counts = corpus.histogram()
    histogram = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return corpus.chunks, corpus.symbols, corpus.clipped, histogram


def collected_since(
    before: Counts,
    corpus: AnyCorpus,
    normalizer: Normalizer | None,
    scale: float | tuple[float, ...],
    left_out: int,
    horizons: set[int],
    action_dim: int,
) -> Collected:
    """What a corpus has now and had not `before`."""
    chunks, symbols, clipped, histogram = counts_of(corpus)
    return Collected(
        normalizer,
        scale,
        left_out,
        horizons,
        action_dim,
        chunks - before[0],
        symbols - before[1],
        clipped - before[2],
        {value: n - before[3].get(value, 0) for value, n in histogram.items()},
    )


def _fitted_scales(
    chunks: ChunksLike,
    blocks: Iterable[ChunkBlock],
    normalizer: Normalizer | None,
    options: FitOptions,
    report: Progress,
) -> tuple[Iterable[ChunkBlock], tuple[float, ...]]:
    """The blocks, which may have to be held for it, and the scales at which all of them keep the targets."""
    sampled = options.max_chunks is not None or options.sample_fraction is not None
    held = list(blocks) if sampled or isinstance(chunks, Iterator) else None

    def all_blocks() -> Iterator[ChunkBlock]:
        seen = 0
        for block in chunk_blocks(chunks) if held is None else held:
            block.require_finite()
            seen += len(block)
            report("scale", seen, None)
            yield block

    sample: ChunkSample | None = None
    for block in all_blocks():
        if sample is None:
            sample = ChunkSample(max(1, SAMPLE_VALUES * len(block) // block.values.size), options.seed)
        sample.add(block)
    if sample is None:
        raise ValueError("got no chunks to fit on")
    everything = sample.left_out == 0
    targets, dead_zone = options.targets, options.dead_zone
    scales = np.array(fit_scales(list(sample.drain()), normalizer, targets, dead_zone))
    for attempt in range(0 if everything else _RAISES):
        too_large, horizon = excess(all_blocks(), normalizer, scales.tolist(), targets, dead_zone)
        if (too_large <= 1).all():
            break
        half_range = np.ones(len(scales)) if normalizer is None else normalizer.half_range
        safe = safe_scales(half_range, targets.allowed(len(scales)), dead_zone, horizon)
        raised = safe if attempt == _RAISES - 1 else np.minimum(safe, scales * np.maximum(too_large, 1.005))
        scales = np.where(too_large > 1, raised, scales)
    return blocks if held is None else _drained(held), tuple(scales.tolist())


def _sample(chunks: ChunksLike, options: FitOptions) -> ChunkSample | None:
    """An empty sample of the size that is asked for; None where all are."""
    if options.sample_fraction is None:
        return None if options.max_chunks is None else ChunkSample(options.max_chunks, options.seed)
    if isinstance(chunks, Iterator):
        raise ValueError("sample_fraction needs chunks that can be counted first; give max_chunks for an iterator")
    total = sum(len(block) for block in chunk_blocks(chunks))
    return ChunkSample(max(1, round(options.sample_fraction * total)), options.seed)


def _blocks_to_fit(
    chunks: ChunksLike, options: FitOptions, report: Progress
) -> tuple[Iterable[ChunkBlock], Normalizer | None, int]:
    """Blocks to quantize, the normaliser, and how many chunks the sample leaves out. Reads what must be read before."""
    kind = options.statistics
    sample = _sample(chunks, options)
    if kind is None and sample is None:
        assert not isinstance(options.normalize, str)
        return chunk_blocks(chunks), options.normalize, 0
    in_memory = hasattr(chunks, "__array__") or isinstance(chunks, list | tuple)
    exact = in_memory or (sample is None and isinstance(chunks, Iterator))
    statistics = NormalizerStatistics()
    held: list[ChunkBlock] = []
    extent = Extent()
    for block in chunk_blocks(chunks):
        block.require_finite()
        extent.add(block)
        if sample is not None:
            sample.add(block)
        if kind is not None and exact:
            held.append(block)
        elif kind is not None:
            statistics.update(block.rows)
        report("statistics" if sample is None else "sample", extent.chunks, None)
    if extent.chunks == 0:
        raise ValueError("got no chunks to fit on")
    if kind is None:
        normalizer = options.normalize
    elif exact:
        normalizer = Normalizer.from_rows([block.rows for block in held], kind, clip=options.clip)
    else:
        normalizer = statistics.normalizer(kind, clip=options.clip)
    assert not isinstance(normalizer, str)
    if sample is not None:
        held.clear()
        return sample.drain(), normalizer, sample.left_out
    return _drained(held) if exact else blocks_again(chunks, extent), normalizer, 0


def _drained(blocks: list[ChunkBlock]) -> Iterator[ChunkBlock]:
    """Lets each block go when it was used: the corpus grows while they shrink."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()


def _add(
    blocks: Iterable[ChunkBlock],
    normalizer: Normalizer | None,
    options: FitOptions,
    corpus: AnyCorpus,
    report: Progress,
) -> tuple[set[int], int]:
    """Quantizes the blocks into the corpus; returns their horizons and their dimensions."""
    quantizer: dict[str, Any] = {"scale": options.scales, **native_normalizer(normalizer)}
    threads = thread_count(options.num_threads)
    horizons: set[int] = set()
    dims, seen = 0, corpus.chunks
    for block in blocks:
        corpus.add(block.values, block.row_offsets, block.first, threads, **quantizer)
        horizons |= block.horizons
        dims, seen = block.action_dim, seen + len(block)
        report("quantize", seen, None)
    if not horizons:
        raise ValueError("got no chunks to fit on")
    return horizons, dims


def _fitted_range(corpus: AnyCorpus, options: FitOptions) -> tuple[int, int, int]:
    """Lowest and highest coefficient, and levels beyond each; by default as many as the vocabulary can well spare."""
    lowest, highest = corpus.range(options.range_quantile)
    alphabet = highest - lowest + (1 if options.end_of_block is None else 2)
    if options.has_target and (corpus.saturated or alphabet > options.vocab_size):
        raise ValueError(
            f"the targets need coefficients {lowest}..{highest}, more than vocab_size={options.vocab_size} ids hold: "
            "allow larger errors, or raise vocab_size"
        )
    if options.range_quantile == 1.0 and corpus.saturated:
        raise ValueError(
            f"{corpus.saturated} quantized coefficients lie beyond +-{MAX_COEFFICIENT}; normalise the actions "
            '(normalize="quantile"), lower scale, or let outliers saturate (range_quantile=0.99999)'
        )
    levels = options.levels_beyond
    if levels is None:
        levels = min(options.vocab_size // 128, max(0, options.vocab_size - alphabet) // 2)
        reach = 2 * max(-lowest, highest) + levels  # the levels double the range, rounded up
        levels = 0 if reach > MAX_COEFFICIENT else levels
    alphabet += 2 * levels
    if alphabet > options.vocab_size:
        raise ValueError(
            f"the quantized coefficients span {lowest}..{highest}: {alphabet} symbols do not fit "
            f"vocab_size={options.vocab_size}; "
            'normalise the actions (normalize="quantile"), lower scale, let outliers saturate '
            "(range_quantile=0.99999), or raise vocab_size"
        )
    return lowest, highest, levels
