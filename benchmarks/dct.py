"""What does the DCT cost, next to scipy's? `python -m benchmarks.dct`.

Float64, one thread, batches of about 40,000 values so that the data stays in the cache; equality is asserted first.
Both sides allocate their result. Figures are medians of runs taken in turn; the ratio is scipy's time over ours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.fft
from rich.console import Console
from rich.table import Table

from fast_tokenizer import _core

SHAPES = (
    *(
        (5, 7),
        (10, 7),
        (15, 8),
        (16, 7),
        (20, 14),
        (25, 14),
        (32, 14),
        (50, 14),
        (60, 29),
        (64, 14),
        (97, 14),
        (100, 14),
    ),
    *((128, 14), (500, 14), (1000, 14), (1009, 14), (1024, 14), (2048, 14), (4096, 14), (128, 1), (500, 1), (1000, 1)),
)


def median_seconds(*calls: Callable[[], object], rounds: int = 21) -> list[float]:
    """Median time of each call, taken in turn so that all see the same machine."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    """Prints the table."""
    table = Table(title="Microseconds a chunk, DCT-II / DCT-III")
    for column in ("T x D", "scipy", "ours", "ratio", "ns a value"):
        table.add_column(column, justify="right")
    rng = np.random.default_rng(0)
    for horizon, dims in SHAPES:
        count = max(8, 40_000 // (horizon * dims))
        x = rng.normal(size=(count, horizon, dims))
        y = _core.dct2(x, num_threads=1)
        np.testing.assert_allclose(y, scipy.fft.dct(x, axis=1, norm="ortho"), atol=1e-11)
        np.testing.assert_allclose(_core.dct3(y, num_threads=1), x, atol=1e-11)
        peer2, ours2, peer3, ours3 = median_seconds(
            lambda x=x: scipy.fft.dct(x, axis=1, norm="ortho"),  # type: ignore[misc]
            lambda x=x: _core.dct2(x, num_threads=1),  # type: ignore[misc]
            lambda y=y: scipy.fft.idct(y, axis=1, norm="ortho"),  # type: ignore[misc]
            lambda y=y: _core.dct3(y, num_threads=1),  # type: ignore[misc]
        )
        micro = [t / count * 1e6 for t in (peer2, peer3, ours2, ours3)]
        table.add_row(
            f"{horizon} x {dims}",
            f"{micro[0]:.2f} / {micro[1]:.2f}",
            f"{micro[2]:.2f} / {micro[3]:.2f}",
            f"{peer2 / ours2:.1f} / {peer3 / ours3:.1f}",
            f"{ours2 / x.size * 1e9:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
