"""How fast are fit, encode and decode, next to the published pipeline? `python -m benchmarks.published_pipeline`.

One thread on our side; the peer as users run it (it calls its tokenizer chunk by chunk, whatever the batch, and trains
on all cores). Held-out generated chunks, 1,024 ids, scale 10. Both sides run in turn in one process; figures are
medians. Before timing, our side is held against the readable reference on some of the chunks, and both against the
quantization bound.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.data import WORKLOADS
from benchmarks.dct import median_seconds
from benchmarks.published import PublishedFast
from fast_tokenizer import FastTokenizer, _reference

SCALE = 10.0
BATCHES = (1, 32, 256)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit-chunks", type=int, default=10_000)
    arguments = parser.parse_args()
    table = Table(title="Microseconds a chunk (fit: seconds), published / ours", title_justify="left")
    for column in ("workload", "stage", "published", "ours", "ratio"):
        table.add_column(column, justify="left" if column in ("workload", "stage") else "right")
    for workload in WORKLOADS:
        train, held = workload.chunks(arguments.fit_chunks, seed=1), workload.chunks(1024, seed=2)
        start = time.perf_counter()
        published = PublishedFast.fit(train, 1024, SCALE)
        published_fit = time.perf_counter() - start
        (our_fit,) = median_seconds(lambda t=train: FastTokenizer.fit(t, 1024, SCALE, num_threads=1), rounds=3)  # type: ignore[misc]
        ours = FastTokenizer.fit(train, 1024, SCALE)
        _assert_right(ours, held)
        rows = [(f"fit {len(train):,}", published_fit, our_fit, 1.0)]
        for batch in BATCHES:
            peer, own = _time_encode(published, ours, held, batch)
            rows.append((f"encode, batches of {batch}", peer, own, 1e6))
        rows.append(("decode, one batch", *_time_decode(published, ours, held), 1e6))
        tokens = published.encode(held), ours.encode(held)
        rows.append(("tokens a chunk", np.mean([len(t) for t in tokens[0]]), tokens[1].lengths.mean(), 1.0))
        for stage, peer, own, unit in rows:
            table.add_row(workload.name, stage, f"{peer * unit:.2f}", f"{own * unit:.2f}", f"{peer / own:.1f} x")
        table.add_section()
    Console(width=120).print(table)


def _assert_right(tokenizer: FastTokenizer, chunks: NDArray[np.float32]) -> None:
    tokens = tokenizer.encode(chunks)
    for i in range(0, len(chunks), 64):
        if tokens[i].tolist() != _reference.encode(chunks[i], tokenizer.spec).ids:
            raise AssertionError(f"chunk {i}: ids differ from the reference's")
    error = np.linalg.norm((tokenizer.decode(tokens) - chunks).reshape(len(chunks), -1), axis=1)
    if (error[tokens.saturated == 0] > 0.5 / SCALE * np.sqrt(chunks[0].size) + 1e-9).any():
        raise AssertionError("decoded chunks are further off than rounding explains")


def _time_encode(
    published: PublishedFast, ours: FastTokenizer, chunks: NDArray[np.float32], batch: int
) -> tuple[float, float]:
    """Seconds a chunk, over all chunks in each run."""
    parts = [chunks[i : i + batch] for i in range(0, len(chunks), batch)]
    peer, own = median_seconds(
        lambda: [published.encode(p) for p in parts],
        lambda: [ours.encode(p, num_threads=1) for p in parts],
        rounds=9,
    )
    count = len(parts) * batch
    return peer / count, own / count


def _time_decode(published: PublishedFast, ours: FastTokenizer, chunks: NDArray[np.float32]) -> tuple[float, float]:
    shape = chunks.shape[1:]
    theirs, tokens = published.encode(chunks), ours.encode(chunks)
    peer, own = median_seconds(
        lambda: published.decode(theirs, *shape), lambda: ours.decode(tokens, num_threads=1), rounds=9
    )
    return peer / len(chunks), own / len(chunks)


if __name__ == "__main__":
    main()
