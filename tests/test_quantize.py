"""Normalise, transform, round, saturate: native against the reference, with ties and with every kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec, _reference, build_info
from fast_tokenizer._core import MAX_COEFFICIENT, Codec, Corpus, dct2

KERNELS = build_info()["kernels"]
DIMS = (1, 2, 3, 7, 8, 9, 14, 16, 17)
NO_MERGES = np.empty((0, 2), np.int64)  # token ids then are the symbols themselves


def make_spec(scale=10.0, lowest=-500, highest=500, normalizer=None, action_dim=None):
    if normalizer is not None:
        action_dim = normalizer.action_dim
    elif not isinstance(scale, float):
        action_dim = len(scale)
    return TokenizerSpec(scale, lowest, highest, NO_MERGES, normalizer, action_dim=action_dim)


def native_normalizer(normalizer):
    if normalizer is None:
        return {}
    clip = np.inf if normalizer.clip is None else normalizer.clip
    return {"center": list(normalizer.center), "half_range": list(normalizer.half_range), "clip": clip}


def codec(spec, kernel=None):
    normalizer = native_normalizer(spec.normalizer)
    return Codec(list(spec.scales), spec.min_coefficient, spec.max_coefficient, NO_MERGES, **normalizer, kernel=kernel)


def reference_symbols(chunks, spec):
    """Symbols (N, T * D), saturated (N,) and clipped (N,)."""
    quantized = [_reference.quantize(chunk, spec) for chunk in chunks]
    symbols, saturated, clipped = zip(*quantized, strict=True)
    return np.array(symbols).reshape(len(chunks), -1), np.array(saturated), np.array(clipped)


def assert_equals_reference(chunks, spec):
    """All kernels give the reference's symbols and counts, which are returned."""
    N, T, D = chunks.shape
    expected = reference_symbols(chunks, spec)
    for kernel in KERNELS:
        ids, offsets, saturated, clipped = codec(spec, kernel).encode(chunks)
        np.testing.assert_array_equal(ids.reshape(N, T * D), expected[0], err_msg=kernel)
        np.testing.assert_array_equal(offsets, T * D * np.arange(N + 1))
        np.testing.assert_array_equal(saturated, expected[1], err_msg=kernel)
        np.testing.assert_array_equal(clipped, expected[2], err_msg=kernel)
    return expected


# ---- Data --------------------------------------------------------------------------------------------


def smooth(rng, N, T, D):
    phase = rng.uniform(0, 2 * np.pi, (N, 1, D))
    return np.sin(phase + np.linspace(0, 3, T)[:, None])


DATA = {
    "smooth": smooth,
    "noise": lambda rng, N, T, D: rng.normal(0, 1, (N, T, D)),
    "outliers": lambda rng, N, T, D: rng.standard_cauchy((N, T, D)).clip(-1e6, 1e6),
    "zeros": lambda rng, N, T, D: np.zeros((N, T, D)),
    "grid of 0.05": lambda rng, N, T, D: rng.integers(-20, 21, (N, T, D)) * 0.05,
    "gripper 0/1": lambda rng, N, T, D: rng.integers(0, 2, (N, T, D)).astype(np.float64),
    "gripper +-1": lambda rng, N, T, D: rng.choice([-1.0, 1.0], (N, T, D)),
    "gripper closing": lambda rng, N, T, D: 1.0 * (np.arange(T)[:, None] >= rng.integers(0, T + 1, (N, 1, D))),
}


def make_chunks(kind, shape, seed=0, dtype=np.float64):
    return DATA[kind](np.random.default_rng(seed), *shape).astype(dtype)


def share_of_ties(chunks, scale):
    """Share of the scaled coefficients that lie within 1e-9 of halfway between two integers."""
    scaled = scale * (_reference.cosine_matrix(chunks.shape[1]) @ chunks)
    return np.mean(np.abs(np.abs(scaled - np.rint(scaled)) - 0.5) < 1e-9)


# ---- The rounding rule -------------------------------------------------------------------------------

# At T = 1 the transform is the identity: a chunk of one step shows the rounding itself.
ROUNDED = {
    0.0: 0,
    0.25: 0,
    0.4999: 0,
    0.5: 0,
    0.5 + 1e-12: 0,
    0.5 + 0.9e-9: 0,
    0.5 + 1.1e-9: 1,
    1.5 - 1.1e-9: 1,
    1.5 - 0.9e-9: 2,
    1.5: 2,
    1.5 + 0.9e-9: 2,
    2.5 - 0.9e-9: 2,
    2.5: 2,
    2.5 + 0.9e-9: 2,
    2.5 + 1.1e-9: 3,
    3.5 - 1.1e-9: 3,
    3.5 - 0.9e-9: 4,
    99.0: 99,
    99.5 - 0.9e-9: 100,
    99.5: 100,
    100.49: 100,
}


def test_rounding_rule_of_the_reference():
    y = np.array([*ROUNDED])
    np.testing.assert_array_equal(_reference.round_ties_to_even(y), [*ROUNDED.values()])
    np.testing.assert_array_equal(_reference.round_ties_to_even(-y), -np.array([*ROUNDED.values()]))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_rule_of_every_kernel(kernel, sign):
    ids, _, saturated, _ = codec(make_spec(1.0), kernel).encode(sign * np.array([[[*ROUNDED]]]))
    np.testing.assert_array_equal(ids - 500, sign * np.array([*ROUNDED.values()]))
    assert saturated == [0]


@given(y=st.floats(-40_000, 40_000), offset=st.sampled_from([0, 0.5, 0.5 - 1e-9, 0.5 + 1e-9, 0.5 + 1e-10]))
def test_any_number_rounds_as_the_reference_says(y, offset):
    for value in (y, np.rint(y) + offset):
        assert_equals_reference(np.full((1, 1, 1), value), make_spec(1.0, -8000, 8000))


# ---- Ties in recorded-like data ----------------------------------------------------------------------

# (data, T, scale, least share of exact ties); which T and scale tie depends on sqrt(T) * scale.
TIES = [
    ("grid of 0.05", 4, 10.0, 0.08),
    ("grid of 0.05", 16, 10.0, 0.01),
    ("grid of 0.05", 25, 10.0, 0.002),
    ("grid of 0.05", 64, 10.0, 0.001),
    ("gripper 0/1", 4, 5.0, 0.08),
    ("gripper 0/1", 16, 10.0, 0.04),
    ("gripper 0/1", 25, 2.5, 0.01),
    ("gripper 0/1", 64, 10.0, 0.004),
    ("gripper +-1", 4, 2.5, 0.08),
    ("gripper +-1", 16, 5.0, 0.04),
    ("gripper +-1", 25, 2.5, 0.01),
    ("gripper +-1", 64, 10.0, 0.01),
    ("gripper closing", 16, 10.0, 0.04),
    ("gripper closing", 64, 10.0, 0.002),
]


@pytest.mark.parametrize(("kind", "T", "scale", "least"), TIES)
def test_ties_go_to_even_in_every_kernel(kind, T, scale, least):
    for D in (1, 7, 8, 14):
        chunks = make_chunks(kind, (60, T, D), seed=D)
        assert share_of_ties(chunks, scale) > least
        assert_equals_reference(chunks, make_spec(scale))


@pytest.mark.parametrize(("kind", "T", "scale", "least"), TIES)
def test_ties_do_not_depend_on_dtype_or_neighbours(kind, T, scale, least):
    chunks = make_chunks(kind, (60, T, 9), seed=1)
    if kind.startswith("gripper"):  # exact in float32
        assert share_of_ties(chunks.astype(np.float32).astype(np.float64), scale) > least
        assert_equals_reference(chunks.astype(np.float32), make_spec(scale))
    tokenizer = FastTokenizer(make_spec(scale))
    together = tokenizer.encode(chunks).ids.reshape(60, T, 9)
    for d in range(9):
        alone = tokenizer.encode(chunks[:, :, d : d + 1]).ids.reshape(60, T)
        np.testing.assert_array_equal(alone, together[:, :, d])


@pytest.mark.parametrize(("kind", "T", "scale"), [(kind, T, s) for kind, T, s, _ in TIES if T in (16, 64)])
def test_plain_rounding_would_depend_on_the_order_of_summation(kind, T, scale):
    """What the rule is for: two correct transforms, one rounding to even, different symbols."""
    chunks = make_chunks(kind, (200, T, 7))
    by_matrix = scale * (_reference.cosine_matrix(T) @ chunks)
    by_fft = scale * fft.dct(chunks, axis=1, norm="ortho")
    np.testing.assert_allclose(by_matrix, by_fft, rtol=0, atol=1e-12)
    assert (np.rint(by_matrix) != np.rint(by_fft)).any()
    np.testing.assert_array_equal(_reference.round_ties_to_even(by_matrix), _reference.round_ties_to_even(by_fft))


@pytest.mark.parametrize("T", [16, 64])
def test_native_methods_tie_apart_without_the_rule(T):
    """The same of our own two transforms, whose switch would otherwise show in the ids."""
    chunks = make_chunks("gripper 0/1", (500, T, 8))
    by_matrix, by_fft = (10.0 * dct2(chunks, method=method) for method in ("matrix", "fft"))
    assert (np.rint(by_matrix) != np.rint(by_fft)).any()
    np.testing.assert_array_equal(_reference.round_ties_to_even(by_matrix), _reference.round_ties_to_even(by_fft))


# ---- Any data, any options ---------------------------------------------------------------------------


@st.composite
def normalizers(draw, D):
    """None, or statistics with some constant dimensions, with and without clipping."""
    if draw(st.booleans()):
        return None
    center = draw(st.lists(st.floats(-3, 3), min_size=D, max_size=D))
    half_range = draw(st.lists(st.just(0.0) | st.floats(0.1, 5), min_size=D, max_size=D))
    return Normalizer("quantile", np.array(center), np.array(half_range), draw(st.none() | st.floats(0.1, 2)))


@st.composite
def specs(draw, D):
    scale = draw(st.floats(0.5, 40) | st.lists(st.floats(0.5, 40), min_size=D, max_size=D).map(tuple))
    lowest, highest = draw(st.integers(-600, 0)), draw(st.integers(0, 600))
    return make_spec(scale, lowest, highest, draw(normalizers(D)))


@settings(max_examples=300)
@given(data=st.data())
def test_equals_the_reference(data):
    D = data.draw(st.sampled_from(DIMS) | st.integers(1, 33), "D")
    T = data.draw(st.integers(1, 70) | st.sampled_from([101, 127, 128, 206, 300]), "T")
    kind = data.draw(st.sampled_from([*DATA]), "kind")
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    spec = data.draw(specs(D), "spec")
    chunks = make_chunks(kind, (3, T, D), data.draw(st.integers(0, 1000), "seed"), dtype)
    normalizer = spec.normalizer
    if normalizer is not None and data.draw(st.booleans(), "constant dimensions keep their constant"):
        chunks = np.where(normalizer.constant, normalizer.center, chunks)
    assert_equals_reference(chunks, spec)


@pytest.mark.parametrize("D", DIMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_width_and_both_transforms(D, dtype):
    rng = np.random.default_rng(D)
    center, half_range = rng.normal(size=D), rng.uniform(0.5, 2, D)
    half_range[D // 2] = 0
    for T in (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 50, 64, 97, 128):
        chunks = make_chunks("noise", (3, T, D), seed=T, dtype=dtype)
        for scale in (10.0, tuple(rng.uniform(1, 20, D))):
            assert_equals_reference(chunks, make_spec(scale))
            assert_equals_reference(chunks, make_spec(scale, -9, 12, Normalizer("quantile", center, half_range, 0.8)))


def test_a_scale_per_dimension_is_that_of_each_dimension_alone():
    chunks = make_chunks("noise", (4, 20, 3))
    together = FastTokenizer(make_spec((1.0, 10.0, 33.3))).encode(chunks).ids.reshape(4, 20, 3)
    for d, scale in enumerate((1.0, 10.0, 33.3)):
        alone = FastTokenizer(make_spec(scale)).encode(chunks[:, :, d : d + 1]).ids
        np.testing.assert_array_equal(alone.reshape(4, 20), together[:, :, d])


@settings(max_examples=50)
@given(
    horizons=st.lists(st.integers(1, 70), min_size=1, max_size=12),
    D=st.sampled_from(DIMS),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_ragged_batches(horizons, D, dtype):
    chunks = [make_chunks("noise", (1, T, D), seed=i, dtype=dtype)[0] for i, T in enumerate(horizons)]
    spec = make_spec(10.0, -15, 15)
    row_offsets = np.concatenate([[0], np.cumsum(horizons)])
    expected = [_reference.quantize(chunk, spec) for chunk in chunks]
    for kernel in KERNELS:
        ids, offsets, saturated, _ = codec(spec, kernel).encode(np.concatenate(chunks), row_offsets)
        np.testing.assert_array_equal(offsets, D * row_offsets)
        np.testing.assert_array_equal(ids, np.concatenate([q.symbols.reshape(-1) for q in expected]))
        np.testing.assert_array_equal(saturated, [q.saturated for q in expected])


def test_symbols_stand_in_frequency_first_order():
    chunk = np.stack([np.full(4, 0.5), np.full(4, -0.3), np.linspace(-1, 1, 4)], axis=1)
    ids = FastTokenizer(make_spec()).encode(chunk[None])[0].reshape(4, 3) - 500
    assert ids[0].tolist() == [10, -6, 0]  # frequency 0: sqrt(4) * mean * scale
    assert ids[1:, :2].tolist() == [[0, 0]] * 3
    assert ids[1:, 2].tolist() == [-15, 0, -1]


# ---- Counting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_saturation_is_counted_at_both_ends(kernel):
    y = np.array([-9, -4, -3.6, -3.5, -3.4, -3, 0, 5, 5.4, 5.5, 5.6, 6, 99, 1e18, -1e300])
    ids, _, saturated, _ = codec(make_spec(1.0, -3, 5), kernel).encode(y[None, None])
    np.testing.assert_array_equal(ids - 3, [-3, -3, -3, -3, -3, -3, 0, 5, 5, 5, 5, 5, 5, 5, -3])
    # -3.5 rounds to -4 and 5.5 to 6, the even neighbours.
    assert saturated == [np.isin(y, [-9, -4, -3.6, -3.5, 5.5, 5.6, 6, 99, 1e18, -1e300]).sum()]


@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (-1, 0), (0, 1), (-8191, 8191), (-16382, 0), (0, 16382)])
def test_extreme_ranges(lowest, highest):
    chunks = make_chunks("outliers", (3, 20, 7)) * 1e4
    _, saturated, _ = assert_equals_reference(chunks, make_spec(10.0, lowest, highest))
    assert saturated.all()


def test_saturation_of_the_wide_range_is_exact_at_its_ends():
    y = np.array([-8191.5, -8191.49, -8190.5, 8190.5, 8191.49, 8191.5, 8192])
    _, saturated, _ = assert_equals_reference(y[None, None], make_spec(1.0, -8191, 8191))
    assert saturated == [3]


@pytest.mark.parametrize("kernel", KERNELS)
def test_clipping_is_counted(kernel):
    normalizer = Normalizer("quantile", np.array([1.0, 5.0, 0.0]), np.array([2.0, 0.0, 1.0]), clip=1.5)
    chunk = np.array(
        [
            [-2.1, 5.0, 1.5],  # -1.55: cut
            [-2.0, 5.0, -1.5],  # -1.5: the bound itself is inside
            [4.0, 5.1, 9.0],  # 1.5; leaves its constant; 9: cut
            [4.1, 5.0, -9.0],  # 1.55: cut; -9: cut
        ]
    )
    *_, clipped = codec(make_spec(normalizer=normalizer), kernel).encode(np.stack([chunk, chunk * 0 + [1, 5, 0]]))
    assert clipped.tolist() == [5, 0]
    assert _reference.quantize(chunk, make_spec(normalizer=normalizer)).clipped == 5


def test_without_clip_only_constants_count():
    normalizer = Normalizer("quantile", np.array([0.0, 2.0]), np.array([1e-3, 0.0]))
    chunks = make_chunks("noise", (5, 10, 2))
    _, _, clipped = assert_equals_reference(chunks, make_spec(normalizer=normalizer))
    assert clipped.tolist() == [10] * 5


@pytest.mark.parametrize("T", [1, 2, 8, 50, 61, 128])
def test_constant_dimensions_are_all_zero_symbols(T):
    normalizer = Normalizer("min-max", np.array([0.1, 0.7, -3.3]), np.array([0.0, 1.0, 0.0]))
    spec = make_spec(normalizer=normalizer)
    chunks = make_chunks("noise", (3, T, 3))
    symbols = FastTokenizer(spec).encode(chunks).ids.reshape(3, T, 3)
    assert (symbols[:, :, [0, 2]] == 500).all()
    assert (symbols[:, :, 1] != 500).any()


@pytest.mark.parametrize("T", [2, 8, 61, 128])
@pytest.mark.parametrize("overflow", ["in the transform", "in the normaliser"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_finite_values_that_overflow_are_refused(T, overflow, kernel):
    """A finite value can overflow to infinity, and a sum of such be NaN: no symbol stands for that."""
    chunk = np.where(np.random.default_rng(T).integers(0, 2, (T, 1)), 1.7e308, -1.7e308)
    spec = make_spec(10.0, -50, 50)
    if overflow == "in the normaliser":
        chunk, spec = chunk / 1e30, make_spec(10.0, -50, 50, Normalizer("quantile", np.zeros(1), np.array([1e-90])))
    with pytest.raises(ValueError, match=r"chunk 1: values as large as 1\.7e\+\d+ overflow"):
        codec(spec, kernel).encode(np.stack([chunk * 0, chunk]))


# ---- Values that are not finite ----------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_found_at_every_place(kernel, dtype, bad):
    for T, D in ((1, 1), (3, 2), (4, 7), (5, 9), (17, 3), (3, 17)):
        for normalizer in (None, Normalizer("quantile", np.zeros(D), np.arange(D) * 1.0, 1.0)):
            native = codec(make_spec(normalizer=normalizer), kernel)
            for place in np.ndindex(2, T, D):
                chunks = np.zeros((2, T, D), dtype)
                chunks[place] = bad
                i, t, d = place
                with pytest.raises(ValueError, match=f"chunk {i}: value at time step {t}, dimension {d} is"):
                    native.encode(chunks)


# ---- The corpus --------------------------------------------------------------------------------------


def reference_coefficients(blocks, spec):
    both = [_reference.quantized_coefficients(chunk, spec) for block in blocks for chunk in block]
    return np.concatenate([c.reshape(-1) for c, _ in both]), sum(clipped for _, clipped in both)


@settings(max_examples=60)
@given(data=st.data())
def test_corpus_range_and_counts(data):
    D = data.draw(st.sampled_from(DIMS), "D")
    kind = data.draw(st.sampled_from([*DATA]), "kind")
    spec = data.draw(specs(D), "spec")
    quantile = data.draw(st.sampled_from([1.0, 0.9999, 0.99, 0.9, 0.75, 0.51]), "quantile")
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=4), "shapes")
    blocks = [make_chunks(kind, (N, T, D), seed) for seed, (N, T) in enumerate(shapes)]
    corpus = Corpus(list(spec.scales), **native_normalizer(spec.normalizer))
    for block in blocks:
        corpus.add(block)
    coefficients, clipped = reference_coefficients(blocks, spec)
    assert (corpus.chunks, corpus.symbols) == (sum(N for N, _ in shapes), len(coefficients))
    assert corpus.clipped == clipped
    assert corpus.saturated == np.sum(np.abs(coefficients) > MAX_COEFFICIENT)
    lowest, highest = corpus.range(quantile)
    assert (lowest, highest) == _reference.fitted_range(coefficients, quantile)
    may_drop = (1 - quantile) * len(coefficients)
    assert np.sum(coefficients < lowest) <= may_drop or lowest == -MAX_COEFFICIENT
    assert np.sum(coefficients > highest) <= may_drop or highest == MAX_COEFFICIENT
    bounded = coefficients.clip(-MAX_COEFFICIENT, MAX_COEFFICIENT)
    assert corpus.outside(lowest, highest) == np.sum((bounded < lowest) | (bounded > highest))


@settings(max_examples=60)
@given(
    D=st.sampled_from([1, 3, 8]),
    T=st.integers(1, 20),
    kind=st.sampled_from([*DATA]),
    lowest=st.integers(-6, 0),
    highest=st.integers(0, 6),
    num_threads=st.sampled_from([1, 2, 5]),
)
def test_corpus_trains_on_the_symbols_of_the_range(D, T, kind, lowest, highest, num_threads):
    spec = make_spec(10.0, lowest, highest)
    blocks = [make_chunks(kind, (N, T, D), seed=N) for N in (1, 4, 2)]
    corpus = Corpus([10.0])
    for block in blocks:
        corpus.add(block)
    merges = corpus.train(lowest, highest, spec.alphabet_size + 20, 2, 50, num_threads=num_threads)
    quantized = [_reference.quantize(chunk, spec).symbols for block in blocks for chunk in block]
    symbols = [_reference.arrange(q, spec) for q in quantized]
    expected = _reference.train_bpe(symbols, spec.alphabet_size, spec.alphabet_size + 20, 2, max_token_symbols=50)
    assert [tuple(pair) for pair in merges.tolist()] == expected


def test_a_corpus_takes_chunks_of_several_embodiments():
    """Each by its own scale and normaliser, with its own D; the dead zone is that of all."""
    chunks = {D: make_chunks(next(iter(DATA)), (5, 9, D), seed=D) for D in (2, 5)}
    own = {
        D: {"scale": [float(D)], **native_normalizer(Normalizer("min-max", np.full(D, 0.1), np.full(D, 0.5), clip=1.0))}
        for D in chunks
    }
    together = Corpus([99.0], dead_zone=0.7)
    expected = np.zeros(0, np.int64)
    for D, values in chunks.items():
        alone = Corpus(**own[D], dead_zone=0.7)
        alone.add(values)
        together.add(values, **own[D])
        expected = np.concatenate([expected, np.repeat(*alone.histogram())])
    assert np.array_equal(np.repeat(*together.histogram()), np.sort(expected))
    assert (together.chunks, together.symbols) == (10, 45 * 7)
    with pytest.raises(ValueError, match="a normalizer goes with a scale"):
        together.add(chunks[2], center=[0.0, 0.0], half_range=[1.0, 1.0])


def test_corpus_keeps_count_of_what_lies_beyond_the_maximum():
    chunks = np.array([40_000.0, -40_000.0, MAX_COEFFICIENT, -MAX_COEFFICIENT, 0.0])[None, None]
    corpus = Corpus([1.0])
    corpus.add(chunks)
    assert corpus.saturated == 2
    assert corpus.range(1.0) == (-MAX_COEFFICIENT, MAX_COEFFICIENT)


# ---- Back --------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(data=st.data())
def test_dequantize_equals_the_reference(data):
    D = data.draw(st.sampled_from(DIMS), "D")
    T = data.draw(st.integers(1, 70) | st.sampled_from([101, 127, 128, 206, 300]), "T")
    spec = data.draw(specs(D), "spec")
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), "seed"))
    symbols = rng.integers(0, spec.alphabet_size, (3, T * D))
    used = data.draw(st.integers(0, T * D), "symbols up to the last that is not zero")
    symbols[:, used:] = -spec.min_coefficient  # high frequencies are often all zero, and skipped
    expected = np.stack([_reference.dequantize(s.reshape(T, D), spec) for s in symbols])
    largest = max(1.0, np.abs(expected).max())
    args = (symbols.astype(np.int32).reshape(-1), T * D * np.arange(4), np.array([T]), D)
    rows, counts = codec(spec, KERNELS[0]).decode(*args)
    np.testing.assert_allclose(rows.reshape(3, T, D), expected, rtol=0, atol=1e-12 * largest)
    assert (counts == [0, 0, 0, T * D, 0, 0]).all()
    for kernel in KERNELS[1:]:
        assert codec(spec, kernel).decode(*args)[0].tobytes() == rows.tobytes()


@pytest.mark.parametrize("T", [1, 2, 7, 16, 50, 61, 64, 127, 128])
@pytest.mark.parametrize("D", [1, 3, 8, 17])
def test_skipping_zero_frequencies_changes_little_and_no_kernel(T, D):
    spec = make_spec()
    for rows in range(T + 1):
        symbols = np.full((T, D), 500)
        symbols[:rows] += 1 + np.arange(D) % 3
        expected = _reference.dequantize(symbols, spec)
        args = (symbols.astype(np.int32).reshape(-1), np.array([0, T * D]), np.array([T]), D)
        decoded = [codec(spec, kernel).decode(*args)[0] for kernel in KERNELS] if rows in (0, 1, T // 2, T) else []
        for native in decoded:
            np.testing.assert_allclose(native, expected, rtol=0, atol=1e-12)
            assert native.tobytes() == decoded[0].tobytes()
