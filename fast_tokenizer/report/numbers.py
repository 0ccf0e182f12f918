"""All that a report says, as numbers; nothing here draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import dct2
from fast_tokenizer.entropy import EntropyBounds, entropy_bounds
from fast_tokenizer.max_len import MaxLenReport, recommend_max_len
from fast_tokenizer.prefix import PrefixErrors, prefix_errors
from fast_tokenizer.report.edits import Edits, robustness_to_edits
from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.report.rates import (
    DEFAULT_MAX_RMSE,
    NATIVE,
    RateDistortion,
    ScaleSuggestion,
    rate_distortion,
    suggest_scale,
)
from fast_tokenizer.report.reconstruction import EpisodeExample, Reconstruction, around_the_worst, reconstruct
from fast_tokenizer.report.sample import Sample
from fast_tokenizer.report.spectrum import Spectrum, spectrum
from fast_tokenizer.report.usage import TokenUsage, token_usage
from fast_tokenizer.spec import TokenizerSpec

#: Episodes of `split_holdout`; an artefact does not say what it was fitted on.
LEFT_OUT = "episodes that a fit with this seed and holdout leaves out (whether the tokenizer saw them is not known)"
#: Beyond, squares and what is drawn of them overflow (in float32 first).
_MAX_ABS_ACTION = 1e15
#: Coefficients that entropy estimates are learnt from, and measured on, at most.
_ENTROPY_VALUES = 2_000_000
#: Told of a stage, the work done and the work to do.
Progress = Callable[[str, int, int | None], None]

#: Tokens whose beginnings are decoded, and sequences that are harmed, at most.
_PREFIX_TOKENS, _PREFIX_CHUNKS, _EDIT_CHUNKS, _EDIT_DRAWS = 20_000, 200, 200, 3


@dataclass(frozen=True, slots=True)
class About:
    """What was measured, on what.

    Attributes:
        fingerprint: Of the tokenizer.
        kind: "native" or "published".
        vocab_size: Ids.
        merges: Those of them that merges made.
        scale: One, or one per dimension.
        coding: Coding options of a native tokenizer, by name, where they are not the defaults.
        normalizer: The kind of the normaliser that actions pass, or None.
        normalizer_in_tokenizer: Whether it is the tokenizer's own.
        max_abs_input: Largest normalised value of the chunks.
        time_horizon: Steps T of the chunks.
        action_dim: Dimensions D.
        hz: Control rate, or None.
        dimension_names: D names; numbers where the data has none.
        measured_on: What the chunks are, in words: `LEFT_OUT`, "given episodes" or "given chunks".
        episodes: Episodes that the chunks lie in.
        chunks_drawn_from: Chunks that there were to draw from.
    """

    fingerprint: str
    kind: str
    vocab_size: int
    merges: int
    scale: float | tuple[float, ...]
    coding: dict[str, str | float]
    normalizer: str | None
    normalizer_in_tokenizer: bool
    max_abs_input: float
    time_horizon: int
    action_dim: int
    hz: float | None
    dimension_names: tuple[str, ...]
    measured_on: str
    episodes: int
    chunks_drawn_from: int


@dataclass(frozen=True, slots=True, eq=False)
class ReportNumbers:
    """One attribute a section of the report."""

    about: About
    reconstruction: Reconstruction
    episode: EpisodeExample
    rates: RateDistortion
    spectrum: Spectrum
    usage: TokenUsage
    entropy: EntropyBounds
    prefix: PrefixErrors | None
    prefix_left_out: int
    edits: Edits
    scale: ScaleSuggestion
    max_len: MaxLenReport

    @property
    def entropy_tokens(self) -> EntropyBounds:
        """The estimates as tokens of log2 V bits; of a vocabulary of one id, which says nothing, as bits."""
        return self.entropy.tokens(max(2, self.about.vocab_size))

    def to_json(self) -> dict[str, Any]:
        """Plain values: lerobot's fields at the top, the sections beneath them.

        Errors at the top, `per_dimension_mae` too, are in normalised units, as lerobot's are; those in recorded units
        are the fields raw_* of each of `dimensions`.
        """
        reconstruction = self.reconstruction
        return {
            **_plain(reconstruction.headline),
            "about": _plain(self.about),
            "dimensions": _plain(reconstruction.dimensions),
            "token_lengths": reconstruction.token_lengths.tolist(),
            "typical_chunk": _plain(reconstruction.typical),
            "worst_chunk": _plain(reconstruction.worst),
            "worst_episode": _plain(self.episode),
            "rate_distortion": _plain(self.rates),
            "spectrum": _plain(self.spectrum),
            "usage": _plain(self.usage),
            "entropy_bits": _plain(self.entropy),
            "entropy_tokens": _plain(self.entropy_tokens),
            "prefix_errors": None if self.prefix is None else _plain(self.prefix),
            "prefix_chunks_left_out": self.prefix_left_out,
            "edits": _plain(self.edits),
            "suggested_scale": _plain(self.scale),
            "suggested_max_length": self.max_len.recommended,
            "max_length_truncates": {str(m): self.max_len.truncated(m) for m in self.max_len.candidates},
        }


def measure(
    pipeline: Pipeline,
    sample: Sample,
    fitted: Sample,
    *,
    measured_on: str,
    hz: float | None = None,
    dimension_names: Sequence[str] | None = None,
    max_rmse: float = DEFAULT_MAX_RMSE,
    progress: Progress = lambda *_: None,
) -> ReportNumbers:
    """Measures everything.

    Args:
        pipeline: The tokenizer, and what is done to actions before it.
        sample: Chunks to measure on.
        fitted: Chunks to refit on for the curves over scales; `sample` itself where there are no others.
        measured_on: What `sample` is, in words.
        hz: Control rate.
        dimension_names: D names; None: dimensions are numbered.
        max_rmse: Error that the suggested scale is to keep to, in normalised units.
        progress: Told how far each stage is.

    Raises:
        ValueError: The tokenizer does not take the chunks; or they have values above 1e15, before any work.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> chunks = np.cumsum(rng.normal(0, 0.02, (200, 50, 7)), axis=1)
        >>> tok = FastTokenizer.fit(chunks[:100], vocab_size=256)
        >>> held, fitted = Sample.of_chunks(chunks[100:]), Sample.of_chunks(chunks[:100])
        >>> numbers = measure(Pipeline(tok), held, fitted, measured_on="given chunks")
        >>> numbers.reconstruction.headline.chunks, numbers.max_len.recommended
        (100, 40)
    """
    chunks = sample.chunks
    count, horizon, dims = chunks.shape
    largest = max(float(np.abs(s.chunks).max()) for s in (sample, fitted))
    if not largest <= _MAX_ABS_ACTION:
        raise ValueError(
            f"actions reach {largest:.3g}, too large to measure (at most {_MAX_ABS_ACTION:g}): broken data?"
        )
    names = tuple(dimension_names or pipeline.tokenizer.spec.dimension_names or map(str, range(dims)))
    progress("encode and decode", 0, None)
    reconstruction, tokens = reconstruct(pipeline, sample, names)
    decoded, status = pipeline.decode(tokens, horizon, dims)
    rates = rate_distortion(
        pipeline,
        fitted.chunks,
        chunks,
        separate_episodes=fitted is not sample,
        progress=lambda done, total: progress("refit over scales", done, total),
    )
    prefix_chunks = chunks[status.ok][_spread(int(status.ok.sum()), _prefix_chunks(tokens.lengths))]
    progress("prefixes", 0, None)
    prefix = prefix_errors(pipeline.tokenizer, [pipeline.inputs(prefix_chunks)]) if len(prefix_chunks) else None
    progress("edits and entropy", 0, None)
    edits = robustness_to_edits(pipeline, chunks[_spread(count, _EDIT_CHUNKS)], _EDIT_DRAWS)
    return ReportNumbers(
        about=_about(pipeline, sample, names, hz, measured_on),
        reconstruction=reconstruction,
        episode=around_the_worst(pipeline, sample, reconstruction.worst),
        rates=rates,
        spectrum=spectrum(
            pipeline.normalized(chunks),
            pipeline.normalized(decoded),
            hz,
            np.atleast_1d(pipeline.tokenizer.spec.scale),
            getattr(pipeline.tokenizer.spec, "dead_zone", 0.5),
        ),
        entropy=_entropy(pipeline, fitted.chunks, decoded),
        usage=token_usage(pipeline.tokenizer, tokens.ids, count, horizon * dims),
        prefix=prefix,
        prefix_left_out=int((~status.ok).sum()),
        edits=edits,
        scale=suggest_scale((rates.tokenizer, *rates.curve(NATIVE).points), max_rmse),
        max_len=recommend_max_len(tokens.lengths),
    )


def _entropy(pipeline: Pipeline, fitted: NDArray[np.floating], decoded: NDArray[np.floating]) -> EntropyBounds:
    """Of the coefficients that the tokens describe, which decoding gives back exactly, whatever the coding."""
    _, horizon, dims = decoded.shape
    scales = np.asarray(pipeline.tokenizer.spec.scale)

    def coefficients(actions: NDArray[np.floating]) -> NDArray[np.int64]:
        quantized: NDArray[np.int64] = np.rint(dct2(pipeline.normalized(actions)) * scales).astype(np.int64)
        return quantized

    most = max(1, _ENTROPY_VALUES // (horizon * dims))
    train = fitted[_spread(len(fitted), most)]
    learnt, _ = pipeline.decode(pipeline.encode(train), horizon, dims)
    return entropy_bounds(coefficients(learnt), coefficients(decoded[_spread(len(decoded), most)]))


def _about(pipeline: Pipeline, sample: Sample, names: tuple[str, ...], hz: float | None, measured_on: str) -> About:
    spec, normalizer = pipeline.tokenizer.spec, pipeline.normalizer
    return About(
        fingerprint=pipeline.tokenizer.fingerprint(),
        kind="native" if isinstance(spec, TokenizerSpec) else "published",
        vocab_size=spec.vocab_size,
        merges=len(spec.merges),
        scale=spec.scale,
        coding=_coding(spec) if isinstance(spec, TokenizerSpec) else {},
        normalizer=None if normalizer is None else normalizer.kind,
        normalizer_in_tokenizer=pipeline.before is None,
        max_abs_input=float(np.abs(pipeline.normalized(sample.chunks)).max()),
        time_horizon=sample.chunks.shape[1],
        action_dim=sample.chunks.shape[2],
        hz=hz,
        dimension_names=names,
        measured_on=measured_on,
        episodes=sample.episodes,
        chunks_drawn_from=sample.drawn_from,
    )


def _coding(spec: TokenizerSpec) -> dict[str, str | float]:
    """What is not as in the published format."""
    chosen = {
        "order": (spec.order, "frequency-first"),
        "end of block": (spec.end_of_block, None),
        "parsing": (spec.parsing, "bpe"),
        "dead zone": (spec.dead_zone, 0.5),
    }
    return {name: value for name, (value, default) in chosen.items() if value is not None and value != default}


def _prefix_chunks(lengths: NDArray[np.int64]) -> int:
    """Every beginning of a chunk is decoded: of long ones, fewer are taken."""
    return int(np.clip(_PREFIX_TOKENS / max(1.0, float(lengths.mean())), 10, _PREFIX_CHUNKS))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of so many numbers, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def _plain(value: Any) -> Any:
    """Dataclasses and arrays as JSON has them."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
