"""What does fitting cost, in time and memory? `python -m benchmarks.fit`.

From normalised float32 chunks in memory to a tokenizer. Each competitor is alone in a fresh process, so that its peak
is its own: the highest resident size during the fit, less the resident size with the data loaded and everything
imported. Time is of that fit, or the median of several where they are short. The published pipeline trains on all
cores, as it does for its users.

What was timed is checked before it is reported: ours against the readable trainer (on a few chunks) and against
itself on another number of threads; the merges of `tokenizers` on the same symbols, without its regex, against ours;
the published pipeline, whose merges are of bytes, by decoding what it was fitted on.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

from benchmarks import fitted, machine, suite
from benchmarks.case import Case
from benchmarks.competitors.symbols import Corpus, expansions
from benchmarks.competitors.trainers import TRAINERS
from benchmarks.contest import alone, require
from benchmarks.data import SCALE, Chunks, workload
from benchmarks.measure import Call
from benchmarks.report import Table, listing
from benchmarks.rows import OURS, PUBLISHED, LeftOutError, Row
from benchmarks.sizes import COMMON, SPARSE, Sizes
from fast_tokenizer import FastTokenizer, TokenizerSpec, _core, _reference

TOKENIZERS = "scipy + tokenizers without regex"
#: Chunks longer than this have fewer fitted on, so that all workloads are of similar size.
SYMBOLS_PER_CHUNK = 700
#: The readable trainer sees about so many symbols.
READABLE_SYMBOLS = 3_000


def cases(sizes: Sizes) -> Iterator[Case]:
    """One competitor a process."""
    outliers = ("aloha, 0 is a sign", "aloha, 0 is a letter") if set(SPARSE) <= set(sizes.workloads) else ()
    for name in (*sizes.workloads, *outliers):
        common = name in (*COMMON, *outliers)
        published = None if common else sizes.published_symbols
        limits = {OURS: None, TOKENIZERS: sizes.slow_trainer_symbols, PUBLISHED: published}
        for most in sizes.fit_chunks if common else sizes.fit_chunks[:1]:
            chunks = workload(name).count(most * SYMBOLS_PER_CHUNK, most)
            for competitor, limit in limits.items():
                for threads in {1, machine.threads()} if competitor == OURS else {machine.threads()}:
                    row = Row("fit", name, f"{chunks:,} chunks", competitor, threads)
                    arguments = {"chunks": chunks, "most_symbols": limit, "seconds": sizes.seconds}
                    yield Case("benchmarks.fit", row, arguments, threads)


def measure(row: Row, chunks: int, most_symbols: int | None, seconds: float) -> Iterator[Row]:
    """One row."""
    work, fitter = workload(row.workload), FITTERS[row.competitor]

    def prepare() -> Call:
        if most_symbols is not None and chunks * work.symbols_per_chunk > most_symbols:
            raise LeftOutError(f"{chunks * work.symbols_per_chunk:,} symbols; this size stops it at {most_symbols:,}")
        for module in fitter.imports:
            importlib.import_module(module)
        train = work.train(chunks)
        return lambda: fitter.fit(train, work.vocab_size, row.threads)

    def check(result: Any) -> None:
        fitter.check(result, work.train(chunks), work.vocab_size, row.threads)

    yield alone(row, prepare, check, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Fitter:
    """How one fits, (chunks, vocab_size, threads) to a result; how that is checked; what is imported before."""

    fit: Callable[[Chunks, int, int], Any]
    check: Callable[[Any, Chunks, int, int], None]
    imports: tuple[str, ...] = ()


def _fit_ours(chunks: Chunks, vocab_size: int, threads: int) -> FastTokenizer:
    return FastTokenizer.fit(chunks, vocab_size, SCALE, num_threads=threads)


def _check_ours(result: FastTokenizer, chunks: Chunks, vocab_size: int, threads: int) -> None:
    require(
        _fit_ours(chunks, vocab_size, 3 - min(threads, 2)) == result, "another number of threads, another tokenizer"
    )
    few, enough = chunks[: max(2, READABLE_SYMBOLS // chunks[0].size)], result.spec.alphabet_size + 20
    small = FastTokenizer.fit(few, enough, SCALE, num_threads=threads).spec
    assert isinstance(small, TokenizerSpec)
    symbols = [_reference.arrange(_reference.quantize(chunk, small).symbols, small) for chunk in few]
    expected = _reference.train_bpe(symbols, small.alphabet_size, enough)
    require([tuple(merge) for merge in small.merges.tolist()] == expected, "merges differ from the readable trainer's")


def _fit_tokenizers(chunks: Chunks, vocab_size: int, threads: int) -> Any:
    """The DCT of scipy, our rounding, one character a symbol, and the trainer of `tokenizers` without its regex."""
    scaled = scipy.fft.dct(chunks.astype(np.float64), axis=1, norm="ortho") * SCALE
    coefficients = _reference.round_ties_to_even(scaled).astype(np.int32)
    lowest, highest = int(coefficients.min()), int(coefficients.max())
    symbols = (coefficients - lowest).reshape(len(coefficients), -1).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        train = TRAINERS["tokenizers"].prepare(Corpus(symbols, highest - lowest + 1), vocab_size, threads, Path(folder))
        return train()


def _check_tokenizers(result: Any, chunks: Chunks, vocab_size: int, _: int) -> None:
    plain = {"end_of_block": None, "levels_beyond": 0}  # the same symbols: an id of each coefficient, and no other
    spec = FastTokenizer.fit(chunks, vocab_size, SCALE, max_token_symbols=_core.MAX_TOKEN_SYMBOLS, **plain).spec
    learned = TRAINERS["tokenizers"].learned(result, spec.alphabet_size)
    require(learned == expansions(spec.merges, spec.alphabet_size), "merges differ from ours")


def _fit_published(chunks: Chunks, vocab_size: int, _: int) -> Any:
    from benchmarks.competitors.published import PublishedFast

    return PublishedFast.fit(chunks, vocab_size, SCALE)


def _check_published(result: Any, chunks: Chunks, _: int, __: int) -> None:
    some = chunks[:32]
    decoded = result.decode(result.encode(some), *some.shape[1:])
    require(bool(fitted.near(decoded, some).mean() > 0.5), "most chunks do not come back")


FITTERS = {
    OURS: Fitter(_fit_ours, _check_ours),
    TOKENIZERS: Fitter(_fit_tokenizers, _check_tokenizers, ("tokenizers",)),
    PUBLISHED: Fitter(_fit_published, _check_published, ("benchmarks.competitors.published",)),
}


def tables(rows: list[Row]) -> list[Table]:
    """Seconds and memory."""
    return [
        listing(
            "Fit",
            rows,
            ["s", "ns a symbol", "added MiB"],
            "From chunks in memory to a tokenizer, each in its own process.",
        )
    ]


if __name__ == "__main__":
    suite.main("benchmarks.fit")
