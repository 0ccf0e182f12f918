"""Where does encoding's time go, and how far is it from the memory's? `python -m benchmarks.stages`.

One thread, held-out chunks that together are larger than the cache, 256 a call. Everything takes turns in one process:

- `encode`: float32 chunks to ids.
- `DCT`: the transform alone, float64 in and out.
- `BPE`: the same symbols, a call a sequence, less what a call costs on a sequence of one symbol.
- `copy`: NumPy copies the chunks, reading and writing every byte once. The limit is half of it, since encoding reads
  its input but writes next to nothing: no code that looks at every value once from memory can be faster.

Stages are measured apart, so they need not add up to `encode`; quantizing has no call of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import fitted, suite
from benchmarks.batches import parts_of
from benchmarks.case import Case
from benchmarks.contest import require
from benchmarks.data import workload
from benchmarks.measure import for_each, time_in_turn
from benchmarks.report import Table, significant
from benchmarks.rows import OURS, Row
from benchmarks.sizes import Sizes
from fast_tokenizer import _core

#: Held-out symbols are this many times the usual, so that they do not stay in the cache from round to round.
BEYOND_CACHE = 50
STAGES = ("encode", "dct", "bpe", "copy", "limit")
BATCH = 256


def cases(sizes: Sizes) -> Iterator[Case]:
    """One workload a process."""
    for name in sizes.workloads:
        work = workload(name)
        arguments = {
            "fit_chunks": work.count(sizes.fit_symbols),
            "held_chunks": work.count(BEYOND_CACHE * sizes.held_symbols),
            "seconds": 2 * sizes.seconds,
        }
        yield Case("benchmarks.stages", Row("stages", name, competitor=OURS), arguments)


def measure(row: Row, fit_chunks: int, held_chunks: int, seconds: float) -> Iterator[Row]:
    """One row, a figure a stage: seconds a chunk."""
    work = workload(row.workload)
    tokenizer, chunks = fitted.ours(work, fit_chunks), work.held(held_chunks)
    spec = tokenizer.spec
    codec = spec.codec()
    # What BPE gets: the symbols of the tokens, as ids that expand to them are all that encode shows of it.
    sequences = [codec.expand(ids) for ids in tokenizer.encode(chunks)]
    single = [sequence[:1].copy() for sequence in sequences]
    parts = parts_of(chunks, min(BATCH, len(chunks)))
    wide, targets = [part.astype(np.float64) for part in parts], [np.empty_like(part) for part in parts]
    tokens = tokenizer.encode(chunks)
    require(
        np.array_equal(np.concatenate([codec.encode_symbols(s) for s in sequences]), tokens.ids), "the stages differ"
    )
    calls = [
        for_each(lambda part: tokenizer.encode(part, num_threads=1), parts),
        for_each(lambda part: _core.dct2(part, num_threads=1), wide),
        for_each(codec.encode_symbols, sequences),
        for_each(codec.encode_symbols, single),
        for_each(lambda pair: np.copyto(*pair), list(zip(targets, parts, strict=True))),
    ]
    in_parts = len(parts) * len(parts[0])
    timings = time_in_turn(calls, seconds, [in_parts, in_parts, len(sequences), len(sequences), in_parts])
    encode, dct, bpe, call, copy = (timing.seconds for timing in timings)
    yield row.measured(
        encode=encode,
        dct=dct,
        bpe=max(0.0, bpe - call),
        copy=copy,
        limit=copy / 2,
        bytes_per_chunk=chunks[0].nbytes,
        copy_gb_per_second=2 * chunks[0].nbytes / copy / 1e9,
    )


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    header = ["workload", "encode", "DCT", "BPE", "copy", "limit", "encode / limit", "copy GB/s"]
    note = "Microseconds a chunk, one thread, stages measured apart; the limit is to read the chunks once."
    return [Table("Stages of encoding, and the memory's limit", note, header, [_line(row) for row in rows])]


def _line(row: Row) -> list[str]:
    f = row.figures
    if row.problem:
        return [row.workload, f"{row.problem}: {row.reason}", *[""] * 6]
    micro = [significant(f[stage] * 1e6) for stage in STAGES]
    return [row.workload, *micro, f"{significant(f['encode'] / f['limit'])} x", significant(f["copy_gb_per_second"])]


if __name__ == "__main__":
    suite.main("benchmarks.stages")
