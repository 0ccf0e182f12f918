"""What encode and decode share: held-out chunks, a round being all of them, in calls of one batch size."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import machine, recorded
from benchmarks.case import Case
from benchmarks.data import Chunks, Workload, workload
from benchmarks.rows import Row
from benchmarks.sizes import Sizes


def workloads(sizes: Sizes) -> Iterator[Workload]:
    """Those to encode and decode."""
    for name in sizes.workloads:
        yield workload(name)
    if sizes.recorded:
        for name in recorded.sets():
            yield workload(f"recorded {name}")


def cases(question: str, sizes: Sizes) -> Iterator[Case]:
    """One workload a process."""
    for work in workloads(sizes):
        arguments = {
            "fit_chunks": work.count(sizes.fit_symbols),
            "held_chunks": work.count(sizes.held(work.name), most=1024),
            "batch_sizes": sizes.batches,
            "seconds": sizes.seconds,
        }
        yield Case(f"benchmarks.{question}", Row(question, work.name), arguments, machine.threads())


def parts_of(held: Chunks, batch: int) -> list[Chunks]:
    """The held-out chunks in batches, without a smaller last one."""
    return [held[i : i + batch] for i in range(0, len(held) - batch + 1, batch)]


def too_large(row: Row, held: Chunks, batch: int) -> Row:
    """The row of a batch size that was left out."""
    return row.by("all").without("left out", f"{len(held)} held-out chunks at this size, {batch} make a batch")
