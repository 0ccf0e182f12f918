"""How does each cost grow with N, T, D and V? `python -m benchmarks.growth`.

ALOHA-like chunks. Over N, chunks are streamed from an iterator that recombines a seeded pool; what producing them costs
is measured by iterating alone, and subtracted from the fit. Encoding and decoding N chunks are calls of 8,192 at most.
Over T, D and V, the number of chunks is fixed, the fit is from memory, and encoding and decoding are a chunk's cost.
Each point is a fresh process. Where training finds no more pairs, V is what it ended with.

The exponent is that of a power law, by least squares over the logarithms: 1 is proportional, 0 is constant. Small sizes
that cost more than their share (tables, threads) make it smaller. The memory is what the fit adds to the pool.

Before timing: the streamed fit is the fit from memory (where N is small), our ids are the readable reference's, and our
chunks decode to within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from benchmarks import fitted, machine, suite
from benchmarks.case import Case
from benchmarks.contest import problem, require
from benchmarks.data import SCALE, Chunks, Stream, workload
from benchmarks.measure import Call, Kept, time_alone
from benchmarks.report import Table, significant
from benchmarks.rows import OURS, PUBLISHED, LeftOutError, Row
from benchmarks.sizes import QUICK, Sizes
from fast_tokenizer import FastTokenizer

STAGES = ("fit", "encode", "decode")
AXES = ("N", "T", "D", "V")
POOL = 20_000
BLOCK = 8_192
#: Encoded and decoded over T, D and V.
FEW = 256
#: Streamed and in-memory fits are compared up to here.
COMPARED = 10_000


def cases(sizes: Sizes) -> Iterator[Case]:
    """One point a process."""
    fixed = dict.fromkeys("TDV", 100) if sizes is QUICK else {"T": 2_000, "D": 2_000, "V": 10_000}
    axes: dict[str, Sequence[int]] = {
        "N": sizes.growth_chunks,
        "T": sizes.growth_horizons,
        "D": sizes.growth_dims,
        "V": sizes.growth_vocabularies,
    }
    by_symbols = dict.fromkeys("TDV", sizes.published_symbols)
    limits = {"N": sizes.published_chunks * workload("aloha").symbols_per_chunk, **by_symbols}
    for axis, values in axes.items():
        for competitor, threads in ((OURS, 1), (OURS, machine.threads()), (PUBLISHED, machine.threads())):
            if axis != "N" and competitor == OURS and threads > 1:
                continue
            for value in values:
                arguments = {
                    "value": value,
                    "chunks": fixed.get(axis, value),
                    "most_symbols": limits[axis] if competitor == PUBLISHED else None,
                    "seconds": sizes.seconds,
                }
                yield Case(
                    "benchmarks.growth", Row("growth", axis, f"{value:,}", competitor, threads), arguments, threads
                )


def measure(row: Row, value: int, chunks: int, most_symbols: int | None, seconds: float) -> Iterator[Row]:
    """One row, a figure a stage."""
    entry = row.measured(value=value)
    try:
        figures = _point(row, value, chunks, most_symbols, seconds)
    except BaseException as error:
        yield problem(entry, error)
        return
    entry = entry.measured(**figures)
    yield entry.measured(value=figures["vocab_size"]) if row.workload == "V" else entry


def _point(row: Row, value: int, count: int, most_symbols: int | None, seconds: float) -> dict[str, float]:
    work = workload("aloha" if row.workload == "N" else f"aloha {row.workload}={value}")
    if most_symbols is not None and count * work.symbols_per_chunk > most_symbols:
        raise LeftOutError(f"{count * work.symbols_per_chunk:,} symbols; this size stops it at {most_symbols:,}")
    fit = _fit_published if row.competitor == PUBLISHED else _fit_ours
    streams = row.workload == "N"
    source: Stream | Chunks = Stream(work.train(min(count, POOL)), count) if streams else work.train(count)
    tokenizer, figures = fit(source, work.vocab_size, row.threads, seconds)
    held = work.held(min(count, BLOCK if streams else FEW))
    encode, decode = _calls(tokenizer, held, count if streams else len(held), row.threads)
    per = 1 if streams else len(held)
    for stage, call in (("encode", encode), ("decode", decode)):
        call() if not streams else None  # a short call is warm; a long one warms itself
        figures[stage] = time_alone(call, seconds)[0].seconds / per
    return figures


def _fit_ours(source: Stream | Chunks, vocab_size: int, threads: int, seconds: float) -> tuple[Any, dict[str, float]]:
    """Ours takes the stream."""
    produce = time_alone(lambda: [None for _ in source], seconds)[0].seconds if isinstance(source, Stream) else 0.0
    call = Kept(lambda: FastTokenizer.fit(source, vocab_size, SCALE, num_threads=threads))
    timing, added = time_alone(call, seconds)
    if isinstance(source, Stream) and source.count <= COMPARED:
        in_memory = FastTokenizer.fit(np.concatenate(list(source)), vocab_size, SCALE)
        require(in_memory == call.result, "the streamed fit differs from the fit from memory")
    took = max(timing.seconds - produce, 0.0)
    return call.result, {"fit": took, "produce": produce, "added_mib": added, "vocab_size": call.result.vocab_size}


def _fit_published(source: Stream | Chunks, vocab_size: int, _: int, seconds: float) -> tuple[Any, dict[str, float]]:
    """The published pipeline takes all chunks at once; its memory does not include them."""
    from benchmarks.competitors.published import PublishedFast

    chunks = np.concatenate(list(source)) if isinstance(source, Stream) else source
    call = Kept(lambda: PublishedFast.fit(chunks, vocab_size, SCALE))
    timing, added = time_alone(call, seconds)
    return call.result, {"fit": timing.seconds, "added_mib": added, "vocab_size": len(call.result.bpe)}


def _calls(tokenizer: Any, held: Chunks, count: int, threads: int) -> tuple[Call, Call]:
    """Encoding and decoding `count` chunks, the held-out ones again and again."""
    sizes = [min(len(held), count - start) for start in range(0, count, len(held))]
    options = {"num_threads": threads} if isinstance(tokenizer, FastTokenizer) else {}
    tokens = {size: tokenizer.encode(held[:size]) for size in set(sizes)}
    if isinstance(tokenizer, FastTokenizer):
        fitted.require_exact(tokenizer, held[: sizes[0]], tokens[sizes[0]])
        fitted.require_near(tokenizer, held[: sizes[0]], tokens[sizes[0]])
    shape = held.shape[1:]

    def encode() -> None:
        for size in sizes:
            tokenizer.encode(held[:size], **options)

    def decode() -> None:
        for size in sizes:
            tokenizer.decode(tokens[size], *shape, **options)

    return encode, decode


def fitted_exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """The b of seconds = a * values ** b, by least squares over logarithms; nan for fewer than two points."""
    if len(set(values)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def curves(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, list[float], list[float]]]:
    """Axis, stage, competitor, values and seconds of what was measured."""
    good = [row for row in rows if not row.problem]
    for (axis, competitor, threads), points in groupby(good, lambda row: (row.workload, row.competitor, row.threads)):
        name = competitor if threads == 1 or competitor != OURS else f"{competitor}, {threads} threads"
        measured = list(points)
        for stage in STAGES:
            kept = [(row.figures["value"], row.figures[stage]) for row in measured if row.figures[stage] > 0]
            yield axis, stage, name, [value for value, _ in kept], [took for _, took in kept]


def exponents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For results.json: of every curve of two points or more."""
    return [
        {"axis": axis, "stage": stage, "competitor": name, "points": len(x), "exponent": fitted_exponent(x, y)}
        for axis, stage, name, x, y in curves(rows)
        if len(x) > 1
    ]


def tables(rows: list[Row]) -> list[Table]:
    """The points, and the exponents."""
    header = ["axis", "value", "competitor", "threads", "fit s", "producing s", "added MiB", "ids", "encode", "decode"]
    note = "ALOHA-like chunks. Encode and decode: over N seconds for all N chunks, otherwise microseconds a chunk."
    points = Table("Growth", note, header, [_line(row) for row in rows], left=3)
    found = exponents(rows)
    names = list(dict.fromkeys((entry["stage"], entry["competitor"]) for entry in found))
    by_place = {(e["axis"], e["stage"], e["competitor"]): f"{e['exponent']:.2f}" for e in found}
    lines = [[stage, name, *(by_place.get((axis, stage, name), "") for axis in AXES)] for stage, name in sorted(names)]
    note = "1: in proportion; 0: constant. Over N the cost of all chunks, otherwise of one chunk (fit: of all)."
    return [points, Table("Fitted exponents", note, ["stage", "competitor", *AXES], lines, left=2)]


def _line(row: Row) -> list[str]:
    name, f = [row.workload, row.setting, row.competitor, str(row.threads)], row.figures
    if row.problem:
        return [*name, f"{row.problem}: {row.reason}", *[""] * 5]
    unit = 1 if row.workload == "N" else 1e6
    produce = significant(f["produce"]) if f.get("produce") else ""
    memory = [f"{f['added_mib']:,.0f}", f"{f['vocab_size']:,.0f}"]
    return [*name, significant(f["fit"]), produce, *memory, *(significant(f[s] * unit) for s in ("encode", "decode"))]


if __name__ == "__main__":
    suite.main("benchmarks.growth")
