"""What does BPE encoding alone cost, on symbols? `python -m benchmarks.bpe_encoding`.

Held-out sequences with the same merges, all encoders in turn in one process; microseconds a sequence. Ours takes one
sequence a call, so that its figure includes a call from Python each. Every encoder's ids are compared with ours before
it is timed; sentencepiece has merges of its own, so that its round trip is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine, suite
from benchmarks.bpe_jobs import Job, jobs
from benchmarks.case import Case
from benchmarks.competitors import encoders
from benchmarks.contest import race
from benchmarks.report import Table, listing
from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from fast_tokenizer import _core, _reference


def cases(sizes: Sizes) -> Iterator[Case]:
    """One job a process."""
    for job in jobs(sizes):
        arguments = {
            "alphabet": job.alphabet,
            "vocab_size": job.vocab_size,
            "train_chunks": job.work.count(int(sizes.fit_symbols * job.share)),
            "held_chunks": job.work.count(sizes.held(job.workload), most=1024),
            "seconds": sizes.seconds,
        }
        yield Case(
            "benchmarks.bpe_encoding", Row("bpe encoding", job.workload, job.setting), arguments, machine.threads()
        )


def measure(
    row: Row, alphabet: int, vocab_size: int, train_chunks: int, held_chunks: int, seconds: float
) -> Iterator[Row]:
    """One row an encoder."""
    job = Job(row.workload, alphabet, vocab_size)
    train, held = job.corpus(job.work.train(train_chunks)), job.corpus(job.work.held(held_chunks))
    merges = _core.train_bpe(train.symbols.ravel(), train.offsets, alphabet, vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        task = encoders.Job(train, held, merges, Path(folder))
        _require_reference(task)
        yield from race(row, encoders.contenders(task, machine.threads()), seconds=seconds)


def _require_reference(task: encoders.Job) -> None:
    """Ours is what the others are compared with, so it is compared first."""
    pairs = [(int(left), int(right)) for left, right in task.merges]
    expected = _reference.encode_bpe(task.held.symbols[0].tolist(), pairs, task.alphabet)
    if task.ids()[0].tolist() != expected:
        raise AssertionError("ids differ from the reference's")


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a sequence."""
    return [
        listing("BPE encoding alone", rows, ["us"], "Microseconds a held-out sequence, side by side in one process.")
    ]


if __name__ == "__main__":
    suite.main("benchmarks.bpe_encoding")
