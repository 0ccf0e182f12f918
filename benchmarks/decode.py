"""What does decoding cost a chunk? `python -m benchmarks.decode`.

Token ids of held-out chunks to float64 chunks, in batches, all competitors in turn in one process. Each decodes the ids
that it encoded. Before timing: our chunks are within rounding of the originals, and encode to the same ids again.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import batches, fitted, machine, suite
from benchmarks.case import Case
from benchmarks.contest import Contender, race
from benchmarks.data import Chunks, workload
from benchmarks.measure import Call, for_each
from benchmarks.report import Table, listing
from benchmarks.rows import OURS, PUBLISHED, Row
from benchmarks.sizes import Sizes
from fast_tokenizer import FastTokenizer


def cases(sizes: Sizes) -> Iterator[Case]:
    """One workload a process."""
    return batches.cases("decode", sizes)


def measure(row: Row, fit_chunks: int, held_chunks: int, batch_sizes: list[int], seconds: float) -> Iterator[Row]:
    """One row a competitor and batch size."""
    work = workload(row.workload)
    held = work.held(held_chunks)
    for batch in batch_sizes:
        entry, parts = row.at(f"batch {batch:,}"), batches.parts_of(held, batch)
        if not parts:
            yield batches.too_large(entry, held, batch)
            continue
        contenders = [
            Contender(OURS, lambda p=parts, t=threads: _ours(fitted.ours(work, fit_chunks), p, t), threads)
            for threads in sorted({1, machine.threads() if batch > 1 else 1})
        ]
        contenders.append(Contender(PUBLISHED, lambda p=parts: _published(fitted.published(work, fit_chunks), p)))
        yield from race(entry, contenders, seconds=seconds, per=len(parts) * batch)


def _ours(tokenizer: FastTokenizer, parts: list[Chunks], threads: int) -> Call:
    tokens = [tokenizer.encode(part) for part in parts]
    for part, batch in zip(parts, tokens, strict=True):
        fitted.require_near(tokenizer, part, batch)
        decoded = tokenizer.decode(batch, num_threads=threads)
        fitted.require_round_trip(tokenizer, batch, decoded)
        fitted.require_decoded(tokenizer, batch, decoded)
    return for_each(lambda batch: tokenizer.decode(batch, num_threads=threads), tokens)


def _published(tokenizer: fitted.PublishedFast, parts: list[Chunks]) -> Call:
    shape = parts[0].shape[1:]
    tokens = [tokenizer.encode(part) for part in parts]
    return for_each(lambda batch: tokenizer.decode(batch, *shape), tokens)


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    return [listing("Decode", rows, ["us"], "Microseconds a chunk, side by side in one process.")]


if __name__ == "__main__":
    suite.main("benchmarks.decode")
