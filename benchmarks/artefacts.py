"""What do the ids of a published tokenizer cost? `python -m benchmarks.artefacts`.

The same artefact, read by the published pipeline and imported by ours: held-out float32 chunks to ids and back, in
turn in one process. FAST+ and the other published artefacts where the shared data are present, and one that the
published code fits on the workload. Before timing: all ids are the published ones, whatever the number of threads, and
where they hold the whole chunk, the decoded chunks are the published ones too.

"rechecked" is the share of chunks whose rounding scipy decides, as a coefficient lies on a tie or near one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import batches, fitted, machine, suite
from benchmarks.case import Case
from benchmarks.contest import Contender, race, require
from benchmarks.data import Chunks, workload
from benchmarks.measure import Call, for_each
from benchmarks.recorded import SHARED
from benchmarks.report import Table, listing
from benchmarks.rows import OURS, PUBLISHED, Row
from benchmarks.sizes import COMMON, Sizes
from fast_tokenizer import FastTokenizer

#: Of those in the shared data: by which name they are known.
FAST_PLUS = "FAST+"
ARTEFACTS = {
    FAST_PLUS: "fast_plus",
    "CALVIN, scale 50": "fast_calvin_a10_s50",
    "LIBERO, scale 10": "fast_libero_act_c50",
}
FITTED = "fitted on this"
#: Hardly a coefficient is 0, so that most take a token: the worst case.
WORST = "noise"


def cases(sizes: Sizes) -> Iterator[Case]:
    """One workload and artefact a process."""
    folder = SHARED / "data" / "fast_artifacts"
    names = [*(name for name, path in ARTEFACTS.items() if (folder / path).is_dir()), FITTED]
    for work in map(workload, [name for name in sizes.workloads if name in (*COMMON, WORST)]):
        for name in names:
            arguments = {
                "fit_chunks": work.count(sizes.fit_symbols),
                "held_chunks": work.count(sizes.held(work.name), most=1024),
                "batch_sizes": [b for b in sizes.batches if b in (1, 256)] or [sizes.batches[-1]],
                "seconds": sizes.seconds,
            }
            yield Case("benchmarks.artefacts", Row("artefacts", work.name, name), arguments, machine.threads())


def measure(row: Row, fit_chunks: int, held_chunks: int, batch_sizes: list[int], seconds: float) -> Iterator[Row]:
    """Encode and decode, one row a competitor and batch size."""
    from benchmarks.competitors.published import PublishedFast

    work = workload(row.workload)
    held = work.held(held_chunks)
    with tempfile.TemporaryDirectory() as scrap:
        folder = Path(scrap)
        if row.setting == FITTED:
            fitted.published(work, fit_chunks).export(folder)
        else:
            folder = SHARED / "data" / "fast_artifacts" / ARTEFACTS[row.setting]
        ours, published = FastTokenizer.from_pretrained(folder), PublishedFast.of_folder(folder)
    require_same(ours, published, held)
    rechecked = float(ours.encode(held).rechecked.mean())
    for batch in batch_sizes:
        entry, parts = row.at(f"{row.setting}, batch {batch:,}"), batches.parts_of(held, batch)
        if not parts:
            yield batches.too_large(entry, held, batch)
            continue
        contenders = [
            Contender(OURS, lambda p=parts, t=threads: _encode(ours, p, t), threads)
            for threads in sorted({1, machine.threads() if batch > 1 else 1})
        ]
        contenders.append(Contender(PUBLISHED, lambda p=parts: for_each(published.encode, p)))
        for timed in race(entry, contenders, seconds=seconds, per=len(parts) * batch):
            yield timed.measured(rechecked=rechecked) if timed.competitor == OURS else timed
    entry, parts = row.at(f"{row.setting}, decode {batch_sizes[-1]:,}"), batches.parts_of(held, batch_sizes[-1])
    if parts:
        contenders = [
            Contender(OURS, lambda: _decode(ours, parts)),
            Contender(PUBLISHED, lambda: _decode_published(published, parts)),
        ]
        yield from race(entry, contenders, seconds=seconds, per=sum(map(len, parts)))


def require_same(ours: FastTokenizer, published: fitted.PublishedFast, chunks: Chunks) -> None:
    """The ids are the published ones; so are the chunks that they decode to, where nothing was lost."""
    tokens = ours.encode(chunks)
    require(tokens.to_list() == published.encode(chunks), "ids differ from the published ones")
    alone = ours.encode(chunks, num_threads=1)
    require(np.array_equal(alone.ids, tokens.ids), "ids differ between one thread and all")
    decoded, status = ours.decode_with_status(tokens, *chunks.shape[1:])
    expected = published.decode(tokens.to_list(), *chunks.shape[1:])
    same = np.allclose(decoded[status.ok], expected[status.ok], rtol=0, atol=1e-9)
    require(same, "decoded chunks differ from the published ones")


def _encode(tokenizer: FastTokenizer, parts: list[Chunks], threads: int) -> Call:
    return for_each(lambda part: tokenizer.encode(part, num_threads=threads), parts)


def _decode(tokenizer: FastTokenizer, parts: list[Chunks]) -> Call:
    shape = parts[0].shape[1:]
    tokens = [tokenizer.encode(part) for part in parts]
    return for_each(lambda batch: tokenizer.decode_with_status(batch, *shape, num_threads=1), tokens)


def _decode_published(tokenizer: fitted.PublishedFast, parts: list[Chunks]) -> Call:
    shape = parts[0].shape[1:]
    tokens = [tokenizer.encode(part) for part in parts]
    return for_each(lambda batch: tokenizer.decode(batch, *shape), tokens)


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    note = "Microseconds a held-out chunk, side by side in one process; all ids are the published ones."
    return [listing("Published artefacts", rows, ["us", "rechecked"], note)]


if __name__ == "__main__":
    suite.main("benchmarks.artefacts")
