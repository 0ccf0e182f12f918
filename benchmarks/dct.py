"""What does the DCT alone cost? `python -m benchmarks.dct`.

Float64, one thread, batches of about 40,000 values so that the data stays in the cache; every competitor allocates its
result. All take turns in one process a shape. Before timing, results are within 1e-11 of the cosine matrix's product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import suite
from benchmarks.case import Case
from benchmarks.competitors.transforms import TRANSFORMS, Array, Transform
from benchmarks.contest import Contender, race, require
from benchmarks.measure import Call
from benchmarks.report import Table, listing
from benchmarks.rows import Row
from benchmarks.sizes import QUICK, Sizes
from fast_tokenizer import _reference

SHAPES = (
    *((5, 7), (10, 7), (15, 8), (16, 7), (20, 14), (25, 14), (32, 14), (50, 14), (60, 29), (64, 14), (97, 14)),
    *((100, 14), (128, 14), (500, 14), (1000, 14), (1009, 14), (1024, 14), (2048, 14), (4096, 14)),
    *((128, 1), (500, 1), (1000, 1)),
)
VALUES = 40_000
SEED = 0


def cases(sizes: Sizes) -> Iterator[Case]:
    """One shape a process."""
    for horizon, dims in SHAPES[:3] if sizes is QUICK else SHAPES:
        row = Row("dct", f"{horizon} x {dims}")
        yield Case("benchmarks.dct", row, {"horizon": horizon, "dims": dims, "seconds": sizes.seconds / 4})


def measure(row: Row, horizon: int, dims: int, seconds: float) -> Iterator[Row]:
    """One row a competitor and direction."""
    count = max(8, VALUES // (horizon * dims))
    x = np.random.default_rng(SEED).normal(size=(count, horizon, dims))
    matrix = _reference.cosine_matrix(horizon)
    for setting, inverse, expected in (("DCT-II", False, matrix @ x), ("DCT-III", True, matrix.T @ x)):
        contenders = [
            Contender(name, lambda make=make, inverse=inverse, expected=expected: _checked(make, x, inverse, expected))
            for name, make in TRANSFORMS.items()
        ]
        yield from race(row.at(setting), contenders, seconds=seconds, per=count)


def _checked(make: Transform, x: Array, inverse: bool, expected: Array) -> Call:
    call = make(x, inverse)
    require(bool(np.allclose(call(), expected, rtol=0, atol=1e-11)), "coefficients are off by more than 1e-11")
    return call


def tables(rows: list[Row]) -> list[Table]:
    """Microseconds a chunk."""
    return [listing("DCT alone", rows, ["us"], "Microseconds a chunk, float64, one thread, data in the cache.")]


if __name__ == "__main__":
    suite.main("benchmarks.dct")
