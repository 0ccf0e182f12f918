"""Orthonormal DCT-II and DCT-III along the middle axis of (N, T, D), float64, one thread.

Each function takes the input and returns the call to time, which returns the result in an array of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import _core, _reference

Array: TypeAlias = "NDArray[np.float64]"
Transform: TypeAlias = Callable[[Array, bool], Callable[[], Array]]


def _ours(x: Array, inverse: bool) -> Callable[[], Array]:
    transform = _core.dct3 if inverse else _core.dct2
    return lambda: transform(x, num_threads=1)


def _scipy(x: Array, inverse: bool) -> Callable[[], Array]:
    import scipy.fft

    transform = scipy.fft.idct if inverse else scipy.fft.dct
    return lambda: transform(x, axis=1, norm="ortho")


def _ducc0(x: Array, inverse: bool) -> Callable[[], Array]:
    import ducc0

    kind = 3 if inverse else 2
    return lambda: ducc0.fft.dct(x, type=kind, axes=(1,), inorm=1, nthreads=1)


def _pyfftw(x: Array, inverse: bool) -> Callable[[], Array]:
    """A measured plan. FFTW knows no orthonormal form, so the factors are a pass of their own."""
    import pyfftw

    source, target = pyfftw.empty_aligned(x.shape), pyfftw.empty_aligned(x.shape)
    direction = "FFTW_REDFT01" if inverse else "FFTW_REDFT10"
    plan: Any = pyfftw.FFTW(source, target, axes=(1,), direction=direction, flags=("FFTW_MEASURE",))
    factors = np.full((x.shape[1], 1), np.sqrt(0.5 / x.shape[1]))
    factors[0] *= np.sqrt(2.0) if inverse else np.sqrt(0.5)
    if not inverse:
        source[:] = x

        def forward() -> Array:
            plan()
            return target * factors

        return forward

    def backward() -> Array:
        np.multiply(x, factors, out=source)
        plan()
        return target.copy()

    return backward


def _numpy(x: Array, inverse: bool) -> Callable[[], Array]:
    """A product with the cosine matrix."""
    matrix = _reference.cosine_matrix(x.shape[1])
    matrix = np.ascontiguousarray(matrix.T) if inverse else matrix
    return lambda: matrix @ x


TRANSFORMS: dict[str, Transform] = {
    "ours": _ours,
    "scipy": _scipy,
    "ducc0": _ducc0,
    "pyfftw": _pyfftw,
    "numpy matmul": _numpy,
}
