"""DCT-II and DCT-III: native against the textbook sum and scipy; the same bits from every kernel."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft

from fast_tokenizer import _reference, build_info
from fast_tokenizer._core import MAX_HORIZON, dct2, dct3

KERNELS = build_info()["kernels"]
DIMS = (1, 2, 3, 7, 8, 9, 14, 16, 17)
SHORT = range(1, 131)
# Powers of two and of other radices, primes (Bluestein), products with a large prime, lengths robots use.
LONG = (131, 143, 150, 169, 200, 241, 243, 254, 256, 257, 289, 343, 361, 500, 509, 512, 599, 600, 625, 719, 1000)
LONG += (1001, 1009, 1023, 1024, 1331, 1536, 2000, 2018, 2048, 2187, 2197, 3125, 3600, 4001, 4093, 4095, 4096)
LONGEST_MATRIX = 600


def methods(T):
    return ("matrix", "fft", "automatic") if T <= LONGEST_MATRIX else ("fft", "automatic")


def random_chunks(N, T, D, seed=0):
    return np.random.default_rng([seed, T, D]).uniform(-1, 1, (N, T, D))


def same_bits(a, b):
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@cache
def cosine_matrix(T):
    return _reference.cosine_matrix(T)


def assert_transforms(T, D, expected_forward, expected_inverse, x):
    """Every method is right in both directions, to the same bits in every kernel, and inverts itself."""
    for method in methods(T):
        forward = dct2(x, method=method, kernel=KERNELS[0])
        inverse = dct3(x, method=method, kernel=KERNELS[0])
        np.testing.assert_allclose(forward, expected_forward, rtol=0, atol=1e-12)
        np.testing.assert_allclose(inverse, expected_inverse, rtol=0, atol=1e-12)
        np.testing.assert_allclose(dct3(forward, method=method), x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(dct2(inverse, method=method), x, rtol=0, atol=1e-12)
        for kernel in KERNELS[1:]:
            assert same_bits(dct2(x, method=method, kernel=kernel), forward), (T, D, method, kernel)
            assert same_bits(dct3(x, method=method, kernel=kernel), inverse), (T, D, method, kernel)


# ---- The reference itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 3, 5, 16, 31])
def test_the_reference_is_the_textbook_sum(T):
    x = np.random.default_rng(T).normal(size=T)
    for k in range(T):
        total = sum(x[t] * np.cos(np.pi * k * (2 * t + 1) / (2 * T)) for t in range(T))
        expected = np.sqrt((1 if k == 0 else 2) / T) * total
        assert _reference.dct2(x[:, None])[k, 0] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("T", [1, 2, 7, 64, 130, 1000])
def test_the_reference_is_orthonormal(T):
    np.testing.assert_allclose(cosine_matrix(T) @ cosine_matrix(T).T, np.eye(T), rtol=0, atol=1e-13)


# ---- Native against the textbook sum and scipy -------------------------------------------------------


@pytest.mark.parametrize("D", DIMS)
def test_short_horizons(D):
    for T in SHORT:
        x = random_chunks(3, T, D)
        textbook_forward = cosine_matrix(T) @ x
        textbook_inverse = cosine_matrix(T).T @ x
        np.testing.assert_allclose(fft.dct(x, axis=1, norm="ortho"), textbook_forward, rtol=0, atol=1e-12)
        np.testing.assert_allclose(fft.idct(x, axis=1, norm="ortho"), textbook_inverse, rtol=0, atol=1e-12)
        assert_transforms(T, D, textbook_forward, textbook_inverse, x)


@pytest.mark.parametrize("T", LONG)
def test_long_horizons(T):
    for D in DIMS:
        x = random_chunks(2, T, D)
        forward, inverse = fft.dct(x, axis=1, norm="ortho"), fft.idct(x, axis=1, norm="ortho")
        assert_transforms(T, D, forward, inverse, x)


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8, 13, 16, 17, 24, 31, 37])
def test_basis_vectors(T):
    """Each unit impulse gives one column of the cosine matrix, each unit coefficient one row."""
    for method in methods(T):
        for kernel in KERNELS:
            forward = dct2(np.eye(T)[None], method=method, kernel=kernel)[0]
            inverse = dct3(np.eye(T)[None], method=method, kernel=kernel)[0]
            np.testing.assert_allclose(forward, cosine_matrix(T), rtol=0, atol=1e-14)
            np.testing.assert_allclose(inverse, cosine_matrix(T).T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("T", [1, 4, 50, 61, 128, 500])
def test_a_constant_has_one_coefficient(T):
    for method in methods(T):
        coefficients = dct2(np.full((1, T, 3), 0.7), method=method)[0]
        np.testing.assert_allclose(coefficients[0], 0.7 * np.sqrt(T), rtol=1e-14)
        np.testing.assert_allclose(coefficients[1:], 0, atol=1e-13)


@given(
    T=st.integers(1, 300),
    D=st.sampled_from(DIMS),
    magnitude=st.sampled_from([1e-300, 1e-6, 1.0, 1e6, 1e290]),
    method=st.sampled_from(["matrix", "fft", "automatic"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_magnitude(T, D, magnitude, method, seed):
    x = random_chunks(2, T, D, seed) * magnitude
    np.testing.assert_allclose(dct2(x, method=method), cosine_matrix(T) @ x, rtol=0, atol=1e-12 * magnitude)
    np.testing.assert_allclose(dct3(x, method=method), cosine_matrix(T).T @ x, rtol=0, atol=1e-12 * magnitude)


# ---- What makes token ids reproducible ---------------------------------------------------------------

SOME_OF_EACH_METHOD = (1, 2, 5, 16, 50, 64, 97, 127, 128, 206, 500)


@pytest.mark.parametrize("T", SOME_OF_EACH_METHOD)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_column_does_not_depend_on_the_others(T, kernel):
    columns = random_chunks(1, T, 17)
    for transform in (dct2, dct3):
        for method in methods(T):
            alone = [transform(columns[:, :, d : d + 1].copy(), method=method, kernel=kernel) for d in range(17)]
            for D in DIMS:
                together = transform(columns[:, :, :D].copy(), method=method, kernel=kernel)
                assert same_bits(together, np.concatenate(alone[:D], axis=2)), (D, method)


@pytest.mark.parametrize("D", DIMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_column_is_deaf_to_wild_neighbours(D, kernel):
    for T in (16, 50, 127, 128):
        for method in methods(T):
            x = random_chunks(2, T, D)
            calm = dct2(x, method=method, kernel=kernel)
            for wild in (np.nan, np.inf, 1e308, 5e-324):
                x_wild = x.copy()
                x_wild[:, :, 1::2] = wild
                kept = dct2(x_wild, method=method, kernel=kernel)[:, :, ::2]
                assert same_bits(kept.copy(), calm[:, :, ::2].copy()), (T, method, wild)


@pytest.mark.parametrize("D", DIMS)
def test_a_chunk_does_not_depend_on_the_batch(D):
    for T in (7, 50, 127):
        x = random_chunks(11, T, D)
        for transform in (dct2, dct3):
            one_by_one = np.concatenate([transform(x[i : i + 1]) for i in range(len(x))])
            assert same_bits(transform(x), one_by_one)


@pytest.mark.parametrize(("T", "D"), [(50, 1), (50, 7), (50, 14), (127, 3), (1000, 17)])
def test_threads_give_the_same_bits(T, D):
    x = random_chunks(1 + 400_000 // (T * D), T, D)  # enough values for a dozen threads
    for transform in (dct2, dct3):
        one = transform(x, num_threads=1)
        for num_threads in (2, 3, 5, 0):
            assert same_bits(transform(x, num_threads=num_threads), one)


@pytest.mark.parametrize("shape", [(0, 5, 3), (0, 1, 1), (1, 1, 1)])
def test_smallest_batches(shape):
    x = np.ones(shape)
    assert same_bits(dct2(x), x)
    assert same_bits(dct3(x), x)


@pytest.mark.parametrize("T", [0, MAX_HORIZON + 1])
def test_horizons_out_of_range_are_refused(T):
    x = np.empty((0, T, 1))
    with pytest.raises(ValueError, match=r"horizon must lie in|T is too large"):
        dct2(x)


def test_the_longest_horizon_works():
    x = random_chunks(1, MAX_HORIZON, 1)
    np.testing.assert_allclose(dct2(x), fft.dct(x, axis=1, norm="ortho"), rtol=0, atol=1e-10)
    np.testing.assert_allclose(dct3(dct2(x)), x, rtol=0, atol=1e-12)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(RuntimeError, match="abacus"):
        dct2(np.ones((1, 2, 3)), kernel="abacus")
