"""What does encoding cost a chunk? `python -m benchmarks.encode`.

Held-out float32 chunks to token ids, in batches. All competitors take turns in one process, a round being all held-out
chunks; figures are a chunk's share of the median round. There are 1,024 of them: with 256, the branch predictor of a
current processor learns them by heart, and our encoder looks 1.7 times as fast; more than 1,024 change nothing. The
published pipeline runs as users run it, one chunk a call, and with as many chunks a call as ours (it loops inside); a
third row gives its tokenizer all texts of a call at once, which it does not do itself.

Before timing: our ids are the readable reference's (on some chunks), those of `tokenizers` with our merges on the same
symbols, and the same for one thread and all; our chunks decode to within rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks import batches, fitted, machine, suite
from benchmarks.case import Case
from benchmarks.competitors.encoders import tokenizers_with
from benchmarks.competitors.symbols import character_of
from benchmarks.contest import Contender, race, require
from benchmarks.data import Chunks, Workload, workload
from benchmarks.measure import Call, for_each
from benchmarks.report import Table, listing
from benchmarks.rows import OURS, PUBLISHED, Row
from benchmarks.sizes import Sizes
from fast_tokenizer import FastTokenizer, TokenizerSpec, _reference

ONE_BY_ONE = "published, one chunk a call"
AT_ONCE = "published, texts at once"
#: Chunks that `tokenizers` encodes too before anything is timed.
CHECKED = 64


def cases(sizes: Sizes) -> Iterator[Case]:
    """One workload a process."""
    return batches.cases("encode", sizes)


def measure(row: Row, fit_chunks: int, held_chunks: int, batch_sizes: list[int], seconds: float) -> Iterator[Row]:
    """One row a competitor and batch size."""
    work = workload(row.workload)
    held = work.held(held_chunks)
    _require_exact(fitted.ours(work, fit_chunks), held)
    for batch in batch_sizes:
        entry, parts = row.at(f"batch {batch:,}"), batches.parts_of(held, batch)
        if not parts:
            yield batches.too_large(entry, held, batch)
            continue
        contenders = list(_contenders(work, fit_chunks, parts))
        yield from race(entry, contenders, seconds=seconds, per=len(parts) * batch)


def _contenders(work: Workload, fit_chunks: int, parts: list[Chunks]) -> Iterator[Contender]:
    def ours(threads: int) -> Contender:
        return Contender(OURS, lambda: _ours(fitted.ours(work, fit_chunks), parts, threads), threads)

    def peer(name: str, prepare: Callable[..., Call], threads: int = 1) -> Contender:
        return Contender(name, lambda: prepare(fitted.published(work, fit_chunks), parts, threads), threads)

    yield ours(1)
    yield peer(PUBLISHED, _published)
    if len(parts[0]) == 1:  # a call is a chunk, whoever makes it, and not worth a thread
        return
    yield peer(ONE_BY_ONE, _one_by_one)
    yield peer(AT_ONCE, _at_once)
    if machine.threads() > 1:
        yield peer(AT_ONCE, _at_once, machine.threads())
        yield ours(machine.threads())


def _require_exact(tokenizer: FastTokenizer, chunks: Chunks) -> None:
    """See the module."""
    tokens, spec = tokenizer.encode(chunks), tokenizer.spec
    fitted.require_exact(tokenizer, chunks, tokens)
    fitted.require_near(tokenizer, chunks, tokens)
    assert isinstance(spec, TokenizerSpec)
    peer = tokenizers_with(spec.merges, spec.alphabet_size)
    for i, chunk in enumerate(chunks[:CHECKED]):
        text = character_of(_reference.arrange(_reference.quantize(chunk, spec).symbols, spec))
        require(tokens[i].tolist() == peer.encode(text).ids, f"ids of chunk {i} differ from those of tokenizers")


def _ours(tokenizer: FastTokenizer, parts: list[Chunks], threads: int) -> Call:
    ids = np.concatenate([tokenizer.encode(part, num_threads=threads).ids for part in parts])
    expected = tokenizer.encode(np.concatenate(parts), num_threads=1).ids
    require(np.array_equal(ids, expected), "ids differ between batch sizes or numbers of threads")
    return for_each(lambda part: tokenizer.encode(part, num_threads=threads), parts)


def _published(tokenizer: fitted.PublishedFast, parts: list[Chunks], _: int) -> Call:
    tokenizer.encode(parts[0])
    return for_each(tokenizer.encode, parts)


def _one_by_one(tokenizer: fitted.PublishedFast, parts: list[Chunks], threads: int) -> Call:
    return _published(tokenizer, [chunk[None] for part in parts for chunk in part], threads)


def _at_once(tokenizer: fitted.PublishedFast, parts: list[Chunks], threads: int) -> Call:
    require(tokenizer.encode_texts_at_once(parts[0]) == tokenizer.encode(parts[0]), "ids differ from one by one")

    def encode(part: Chunks) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"  # it looks at every call
        tokenizer.encode_texts_at_once(part)

    return for_each(encode, parts)


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    return [
        listing("Encode", rows, ["us", "ns a symbol"], "Microseconds a held-out chunk, side by side in one process.")
    ]


if __name__ == "__main__":
    suite.main("benchmarks.encode")
