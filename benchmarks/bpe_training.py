"""What does BPE training alone cost, on symbols? `python -m benchmarks.bpe_training`.

From sequences in each trainer's own form (arrays, texts, a file) to merges. Each trainer is alone in a fresh process;
the memory is what it adds to its input. Merges are compared with ours before anything is reported: all trainers but
sentencepiece promise the same ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine, suite
from benchmarks.bpe_jobs import Job, jobs
from benchmarks.case import Case
from benchmarks.competitors.symbols import Expansions, expansions
from benchmarks.competitors.trainers import TRAINERS
from benchmarks.contest import alone, require
from benchmarks.measure import Call
from benchmarks.report import Table, listing
from benchmarks.rows import LeftOutError, Row
from benchmarks.sizes import Sizes
from fast_tokenizer import _core


def cases(sizes: Sizes) -> Iterator[Case]:
    """One trainer a process."""
    corpora = [(job, int(sizes.train_symbols * job.share), tuple(TRAINERS)) for job in jobs(sizes)]
    if sizes.most_train_symbols:
        corpora.append((jobs(sizes)[0], sizes.most_train_symbols, ("ours", "gigabpe")))  # nobody else gets there
    for job, symbols, names in corpora:
        chunks = job.work.count(symbols)
        for trainer in (TRAINERS[name] for name in names):
            for threads in sorted({1, machine.threads()}) if trainer.threads else [1]:
                setting = f"{job.setting}, {chunks * job.work.symbols_per_chunk / 1e6:,.0f}M symbols"
                row = Row("bpe training", job.workload, setting, trainer.name, threads)
                arguments = {
                    "alphabet": job.alphabet,
                    "vocab_size": job.vocab_size,
                    "chunks": chunks,
                    "most_symbols": sizes.slow_trainer_symbols if trainer.splices else None,
                    "seconds": sizes.seconds,
                }
                yield Case("benchmarks.bpe_training", row, arguments, threads)


def measure(
    row: Row, alphabet: int, vocab_size: int, chunks: int, most_symbols: int | None, seconds: float
) -> Iterator[Row]:
    """One row."""
    job = Job(row.workload, alphabet, vocab_size)
    trainer, symbols = TRAINERS[row.competitor], chunks * job.work.symbols_per_chunk
    with tempfile.TemporaryDirectory() as folder:

        def prepare() -> Call:
            if most_symbols is not None and symbols > most_symbols:
                raise LeftOutError(f"{symbols:,} symbols; this size stops it at {most_symbols:,}")
            return trainer.prepare(job.corpus(job.work.train(chunks)), vocab_size, row.threads, Path(folder))

        def check(result: Any) -> None:
            if trainer.same_merges:
                corpus = job.corpus(job.work.train(chunks))
                flat, offsets = corpus.symbols.ravel(), corpus.offsets
                merges = _core.train_bpe(flat, offsets, alphabet, vocab_size, trainer.min_frequency)
                _require_equal(trainer.learned(result, alphabet), expansions(merges, alphabet))

        measured = alone(row, prepare, check, seconds=seconds)
    yield (
        measured
        if measured.problem
        else measured.measured(symbols=symbols, million_symbols_per_second=symbols / measured.figures["seconds"] / 1e6)
    )


def _require_equal(learned: Expansions, expected: Expansions) -> None:
    for i, (got, ours) in enumerate(zip(learned, expected, strict=False)):
        require(got == ours, f"merge {i} differs from ours")
    require(len(learned) == len(expected), f"{len(learned)} merges, ours are {len(expected)}")


def tables(rows: list[Row]) -> list[Table]:
    """Seconds, throughput and memory."""
    columns = ["s", "added MiB", "Msymbols/s"]
    return [listing("BPE training alone", rows, columns, "From symbols to merges, each in its own process.")]


if __name__ == "__main__":
    suite.main("benchmarks.bpe_training")
