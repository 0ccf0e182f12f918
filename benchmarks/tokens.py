"""How many tokens do chunks need, and what is lost? `python -m benchmarks.tokens`.

Held-out chunks through ours, the published pipeline, naive binning (a token a value: 256 bins over [-1, 1], the bin's
centre back) and our bundled tokenizer, whose fit has seen some of the recorded sets. Errors are root mean squares and
maxima, in normalised units and, of recorded sets, in those of the data. "Lost" are chunks that come back further off
than rounding explains: of the published pipeline, those with a symbol that training did not meet.

Recorded sets are fitted on four fifths of their episodes and measured on the others, the published pipeline on as many
of the chunks as its time allows. Before anything is reported, our round trip is exact. `--markdown` prints the README's
table of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import fitted, machine, recorded, suite
from benchmarks.case import Case
from benchmarks.contest import problem
from benchmarks.data import Chunks, Workload, workload
from benchmarks.report import Table, markdown_table
from benchmarks.rows import OURS, PUBLISHED, Row
from benchmarks.sizes import DEFAULT, QUICK, Sizes
from fast_tokenizer import FastTokenizer
from fast_tokenizer.io import read

NAIVE, BUNDLED = "naive binning", "ours, bundled tokenizer"
BINS = 256

#: Lengths (N,), decoded chunks (N, T, D), share of saturated coefficients.
Coded = tuple[NDArray[np.integer], NDArray[np.floating], float]


def cases(sizes: Sizes) -> Iterator[Case]:
    """One workload a process."""
    for name in sizes.workloads:
        work = workload(name)
        count = work.count(sizes.fit_symbols)
        arguments = {"fit_chunks": count, "published_chunks": count, "held": work.count(sizes.held(name), most=1024)}
        yield Case("benchmarks.tokens", Row("tokens", name), arguments, machine.threads())
    yield from () if sizes is QUICK else recorded_cases(sizes)


def recorded_cases(sizes: Sizes) -> Iterator[Case]:
    """One recorded set a process."""
    for name in recorded.sets():
        work = workload(f"recorded {name}")
        most = recorded.MAX_CHUNKS
        published = work.count(sizes.published_symbols, most)
        arguments = {"fit_chunks": most, "published_chunks": published, "held": most}
        yield Case("benchmarks.tokens", Row("tokens", work.name), arguments, machine.threads())


def measure(row: Row, fit_chunks: int, published_chunks: int, held: int) -> Iterator[Row]:
    """One row a competitor; of the row's own only, if it names one."""
    work = workload(row.workload)
    chunks, unit = work.held(held), _unit(work)
    coders: dict[str, Callable[[], Coded]] = {
        OURS: lambda: _ours(fitted.ours(work, fit_chunks), chunks),
        PUBLISHED: lambda: _published(fitted.published(work, published_chunks), chunks),
        NAIVE: lambda: _naive(chunks),
        BUNDLED: lambda: _ours(FastTokenizer.default(), chunks),
    }
    for name, code in coders.items():
        if row.competitor not in ("", name):
            continue
        entry = row.at(f"{work.horizon} x {work.action_dim}").by(name)
        try:
            yield entry.measured(**_quality(*code(), chunks, unit), held_chunks=len(chunks))
        except Exception as error:
            yield problem(entry, error)


def _unit(work: Workload) -> NDArray[np.float64]:
    """(D,): what a normalised 1 is in the units of the data; 1 for generated chunks."""
    path = recorded.sets().get(work.name.removeprefix("recorded "))
    return np.ones(work.action_dim) if path is None else recorded.split(read(path)).normalizer.half_range


def _ours(tokenizer: FastTokenizer, chunks: Chunks) -> Coded:
    tokens = tokenizer.encode(chunks)
    decoded = tokenizer.decode(tokens, *chunks.shape[1:])
    fitted.require_round_trip(tokenizer, tokens, decoded)
    return tokens.lengths, decoded, float(tokens.saturated.sum() / chunks.size)


def _published(tokenizer: fitted.PublishedFast, chunks: Chunks) -> Coded:
    ids = tokenizer.encode(chunks)
    return np.array([len(sequence) for sequence in ids]), tokenizer.decode(ids, *chunks.shape[1:]), 0.0


def _naive(chunks: Chunks) -> Coded:
    bins = np.clip(np.floor((chunks + 1) / 2 * BINS), 0, BINS - 1)
    cut = float((np.abs(chunks) > 1).mean())
    return np.full(len(chunks), chunks[0].size), (bins + 0.5) / BINS * 2 - 1, cut


def _quality(
    lengths: NDArray[np.integer],
    decoded: NDArray[np.floating],
    saturated: float,
    chunks: Chunks,
    unit: NDArray[np.float64],
) -> dict[str, float]:
    error = np.abs(decoded - chunks).reshape(-1, chunks.shape[2])
    return {
        "tokens": float(lengths.mean()),
        "tokens_p99": float(np.percentile(lengths, 99)),
        "tokens_max": float(lengths.max()),
        "fewer_than_naive": float(chunks[0].size / lengths.mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "max_error": float(error.max()),
        "raw_rmse": float(np.sqrt(np.square(error * unit).mean())),
        "raw_max_error": float((error * unit).max()),
        "lost": float((~fitted.near(decoded, chunks)).sum()),
        "saturated": saturated,
    }


def tables(rows: list[Row]) -> list[Table]:
    """Tokens and errors."""
    header = ["workload", "T x D", "competitor", "chunks", "tokens", "p99", "max", "vs naive"]
    header += ["RMSE", "max error", "raw RMSE", "raw max", "lost", "saturated or cut"]
    note = "Held-out chunks, scale 10, 1,024 ids unless V says otherwise; the bundled tokenizer has 2,048."
    return [Table("Tokens and error", note, header, [_line(row) for row in rows], left=3)]


def _line(row: Row) -> list[str]:
    name, f = [row.workload, row.setting, row.competitor], row.figures
    if row.problem:
        return [*name, *[""] * 10, f"{row.problem}: {row.reason}"]
    return [
        *name,
        f"{f['held_chunks']:,.0f}",
        f"{f['tokens']:.1f}",
        f"{f['tokens_p99']:.0f}",
        f"{f['tokens_max']:.0f}",
        f"{f['fewer_than_naive']:.1f} x",
        f"{f['rmse']:.4f}",
        f"{f['max_error']:.3f}",
        f"{f['raw_rmse']:.2g}",
        f"{f['raw_max_error']:.2g}",
        f"{f['lost']:.0f}",
        f"{f['saturated']:.3%}",
    ]


def readme_table(rows: list[Row]) -> str:
    """Ours on the recorded sets, as Markdown."""
    header = ["recorded set", "chunk", "tokens, mean / p99", "fewer than naive", "RMSE", "RMSE, raw units", "saturated"]
    lines = [
        [
            row.workload.removeprefix("recorded "),
            row.setting,
            f"{row.figures['tokens']:.1f} / {row.figures['tokens_p99']:.0f}",
            f"{row.figures['fewer_than_naive']:.1f} x",
            f"{row.figures['rmse']:.4f}",
            f"{row.figures['raw_rmse']:.2g}",
            f"{row.figures['saturated']:.3%}",
        ]
        for row in rows
        if row.competitor == OURS and not row.problem
    ]
    return markdown_table(header, lines)


def main() -> None:
    """The tables; with `--markdown`, the README's alone."""
    if "--markdown" not in sys.argv:
        suite.main("benchmarks.tokens")
        return
    recorded.require()
    cases = [replace(case, row=case.row.by(OURS)) for case in recorded_cases(DEFAULT)]
    rows, _ = suite.run_cases(cases, DEFAULT, Console(stderr=True))
    print(readme_table(rows))


if __name__ == "__main__":
    main()
