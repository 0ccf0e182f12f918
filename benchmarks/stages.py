"""Where does encoding's time go, and how far is it from the memory's? `python -m benchmarks.stages`.

One thread, one call with all held-out chunks. Everything takes turns in one process:

- `encode`: chunks to ids, measured.
- `BPE`: the same symbols, measured through one call a sequence, less what a call costs on a sequence of one symbol.
- `DCT + quantize`: the difference of the two. That is an estimate; the core offers no call for this stage alone.
- `DCT`: the transform alone, float64 in and out, which encoding does in scratch memory instead.
- `copy`: NumPy copies the chunks, reading and writing every byte once. The limit is half of it, since encoding reads
  its input but writes next to nothing: no code that looks at every value once from memory can be faster.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import fitted, suite
from benchmarks.case import Case
from benchmarks.competitors.symbols import symbols_of
from benchmarks.contest import require
from benchmarks.data import SCALE, workload
from benchmarks.measure import Call, time_in_turn
from benchmarks.report import Table, significant
from benchmarks.rows import OURS, Row
from benchmarks.sizes import Sizes
from fast_tokenizer import _core

#: Held-out symbols are this many times the usual, so that they do not stay in the cache from round to round.
BEYOND_CACHE = 50
STAGES = ("encode", "dct_and_quantize", "bpe", "dct", "copy", "limit")


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
    codec = _core.Codec([SCALE], spec.min_coefficient, spec.max_coefficient, spec.merges.astype(np.int64))
    sequences = list(symbols_of(chunks, SCALE, spec.min_coefficient, spec.max_coefficient).symbols)
    single = [sequence[:1].copy() for sequence in sequences]
    wide, target = chunks.astype(np.float64), np.empty_like(chunks)
    tokens = tokenizer.encode(chunks)
    require(
        np.array_equal(np.concatenate([codec.encode_symbols(s) for s in sequences]), tokens.ids), "the stages differ"
    )
    calls: list[Call] = [
        lambda: tokenizer.encode(chunks, num_threads=1),
        lambda: [codec.encode_symbols(sequence) for sequence in sequences],
        lambda: [codec.encode_symbols(symbol) for symbol in single],
        lambda: _core.dct2(wide, num_threads=1),
        lambda: np.copyto(target, chunks),
    ]
    timings = time_in_turn(calls, seconds, [len(chunks)] * len(calls))
    encode, with_calls, call, dct, copy = (timing.seconds for timing in timings)
    bpe = max(0.0, with_calls - call)
    yield row.measured(
        encode=encode,
        bpe=bpe,
        dct_and_quantize=max(0.0, encode - bpe),
        dct=dct,
        copy=copy,
        limit=copy / 2,
        bytes_per_chunk=chunks[0].nbytes,
        copy_gb_per_second=2 * chunks[0].nbytes / copy / 1e9,
    )


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    header = [
        "workload",
        "encode",
        "DCT + quantize",
        "BPE",
        "DCT alone",
        "copy",
        "limit",
        "encode / limit",
        "copy GB/s",
    ]
    note = "Microseconds a chunk, one thread. DCT + quantize is encode less BPE; the limit reads the chunks once."
    return [Table("Stages of encoding, and the memory's limit", note, header, [_line(row) for row in rows])]


def _line(row: Row) -> list[str]:
    f = row.figures
    if row.problem:
        return [row.workload, f"{row.problem}: {row.reason}", *[""] * 7]
    micro = [significant(f[stage] * 1e6) for stage in STAGES]
    return [row.workload, *micro, f"{significant(f['encode'] / f['limit'])} x", significant(f["copy_gb_per_second"])]


if __name__ == "__main__":
    suite.main("benchmarks.stages")
