"""Chunk to ids and back: exact where it must be, bounded where it cannot be, the same by every way in."""

import doctest
import functools
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec, _reference, build_info
from fast_tokenizer._core import Codec

KERNELS = build_info()["kernels"]
SETS = ("g1_inspire_pick", "handheld_tumvi", "omniglot_pen", "robosuite_panda_osc")


def test_the_examples_of_the_reference_run():
    assert doctest.testmod(sys.modules[_reference.__name__]).failed == 0


# ---- Tokenizers and chunks ---------------------------------------------------------------------------


def wavy_chunks(N, T, D, seed=0, amplitude=1.0):
    """Sums of a few slow sines, as (N, T, D) in about +-amplitude."""
    rng = np.random.default_rng([seed, T, D])
    time = np.linspace(0, 1, T)[:, None]
    waves = [np.sin(2 * np.pi * (rng.uniform(0, 3, (N, 1, D)) * time + rng.uniform(0, 1, (N, 1, D)))) for _ in "123"]
    return amplitude * np.mean(waves, axis=0) + rng.normal(0, 0.01 * amplitude, (N, T, D))


@functools.cache
def trained_merges(limit, order="frequency-first", end_of_block=None, levels_beyond=0):
    """Merges of wavy chunks, for a range of coefficients -limit..limit and a layout."""
    coding = {"order": order, "end_of_block": end_of_block, "levels_beyond": levels_beyond}
    spec = TokenizerSpec(10.0, -limit, limit, np.empty((0, 2)), **coding)
    symbols = [_reference.arrange(_reference.quantize(c, spec).symbols, spec) for c in wavy_chunks(30, T=20, D=3)]
    return np.array(_reference.train_bpe(symbols, spec.alphabet_size, spec.alphabet_size + 120))


LIMITS = (3, 60, 2000)
LAYOUTS = (
    ("frequency-first", None),
    ("frequency-first", "chunk"),
    ("dimension-first", None),
    ("dimension-first", "chunk"),
    ("dimension-first", "dimension"),
)


NO_CLIP = st.none()


@st.composite
def tokenizers(draw, D, limit=None, clip=NO_CLIP):
    """Of every coding; with and without a normaliser, some of whose dimensions are constant; range -limit..limit."""
    limit = draw(st.sampled_from(LIMITS)) if limit is None else limit
    order, end_of_block = draw(st.sampled_from(LAYOUTS))
    parsing = draw(st.sampled_from(["bpe", "optimal"]))
    dead_zone = draw(st.just(0.5) | st.floats(0.5, 0.99))
    levels_beyond = draw(st.sampled_from([0, 0, 5]))
    scale = draw(st.floats(1, 30) | st.lists(st.floats(1, 30), min_size=D, max_size=D).map(tuple))
    normalizer = None
    if draw(st.booleans()):
        center = draw(st.lists(st.floats(-100, 100), min_size=D, max_size=D))
        half_range = draw(st.lists(st.just(0.0) | st.floats(1e-3, 1e3), min_size=D, max_size=D))
        normalizer = Normalizer("quantile", np.array(center), np.array(half_range), draw(clip))
    merges = trained_merges(limit, order, end_of_block, levels_beyond) if draw(st.booleans()) else np.empty((0, 2))
    coding = {
        "order": order,
        "end_of_block": end_of_block,
        "parsing": parsing,
        "dead_zone": dead_zone,
        "levels_beyond": levels_beyond,
    }
    return FastTokenizer(TokenizerSpec(scale, -limit, limit, merges, normalizer=normalizer, action_dim=D, **coding))


DIMS = st.integers(1, 9) | st.sampled_from([14, 16, 17])
HORIZONS = st.integers(1, 50) | st.sampled_from([61, 64, 100, 127, 128, 206])


@st.composite
def chunks_for(draw, tokenizer, N, T):
    """(N, T, D) in the tokenizer's raw units: any finite values, or recorded-like ones."""
    D = tokenizer.spec.action_dim
    if draw(st.booleans()):
        normalized = draw(arrays.arrays(np.float64, (N, T, D), elements=st.floats(-2, 2), fill=st.floats(-2, 2)))
    else:
        normalized = wavy_chunks(N, T, D, draw(st.integers(0, 999)), draw(st.floats(0.1, 2)))
    normalizer = tokenizer.spec.normalizer
    return normalized if normalizer is None else normalizer.invert(normalized)


def relative_to_largest(expected):
    return 1e-12 * max(1.0, np.abs(expected).max(initial=0))


def same_bytes(a, b):
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ("ids", "offsets", "saturated"))


# ---- Against the reference, end to end ---------------------------------------------------------------


@settings(max_examples=200)
@given(data=st.data())
def test_encode_and_decode_equal_the_reference(data):
    tokenizer = data.draw(DIMS.flatmap(lambda D: tokenizers(D, clip=st.none() | st.floats(0.2, 2))), "tokenizer")
    T = data.draw(HORIZONS, "T")
    D, spec = tokenizer.spec.action_dim, tokenizer.spec
    chunks = data.draw(chunks_for(tokenizer, 2, T), "chunks")
    batch = tokenizer.encode(chunks)
    decoded = tokenizer.decode(batch, T)
    for i, chunk in enumerate(chunks):
        expected = _reference.encode(chunk, spec)
        assert batch[i].tolist() == expected.ids
        assert (batch.saturated[i], batch.clipped[i]) == (expected.saturated, expected.clipped)
        quantized = _reference.dequantize(_reference.quantize(chunk, spec).symbols, spec)
        np.testing.assert_allclose(decoded[i], quantized, rtol=0, atol=relative_to_largest(quantized))
        np.testing.assert_array_equal(_reference.decode(expected.ids, spec, T, D).chunk, quantized)


@settings(max_examples=200)
@given(data=st.data())
def test_decoding_any_ids_equals_the_reference(data):
    """Too few, too many, and ids that do not exist."""
    tokenizer = data.draw(DIMS.flatmap(tokenizers), "tokenizer")
    D, spec = tokenizer.spec.action_dim, tokenizer.spec
    T = data.draw(st.integers(1, 40), "T")
    any_id = (
        st.integers(0, spec.vocab_size - 1) | st.integers(-3, spec.vocab_size + 3) | st.integers(-(2**31), 2**31 - 1)
    )
    sequences = data.draw(st.lists(st.lists(any_id, max_size=min(60, 2 * T * D)), min_size=1, max_size=4), "ids")
    chunks, status = tokenizer.decode_with_status(sequences, T)
    assert chunks.shape == (len(sequences), T, D)
    for i, ids in enumerate(sequences):
        expected = _reference.decode(ids, spec, T, D)
        np.testing.assert_allclose(chunks[i], expected.chunk, rtol=0, atol=relative_to_largest(expected.chunk))
        counted = (status.unknown[i], status.missing[i], status.extra[i], status.expected[i])
        assert counted == (expected.unknown, expected.missing, expected.extra, T * D)
        assert status.ok[i] == (counted == (0, 0, 0, T * D))


# ---- Encoding what was decoded -----------------------------------------------------------------------


@settings(max_examples=300)
@given(data=st.data())
def test_encoding_what_was_decoded_gives_the_same_ids(data):
    """Also where coefficients saturated: what comes back lies on the grid of quantized values, bit for bit."""
    tokenizer = data.draw(DIMS.flatmap(tokenizers), "tokenizer")
    T = data.draw(HORIZONS, "T")
    batch = tokenizer.encode(data.draw(chunks_for(tokenizer, 2, T), "chunks"))
    decoded = tokenizer.decode(batch, T)
    again = tokenizer.encode(decoded)
    assert again.to_list() == batch.to_list()
    assert again.clipped.sum() == 0
    # What a level beyond the range brought back lies beyond it again.
    assert (again.saturated <= (batch.saturated if tokenizer.spec.levels_beyond else 0)).all()
    assert tokenizer.decode(again, T).tobytes() == decoded.tobytes()


@settings(max_examples=100)
@given(data=st.data())
def test_decoding_symbols_and_encoding_them_gives_them_back(data):
    """Any grid point is a fixed point, not only those that smooth chunks lead to."""
    tokenizer = data.draw(DIMS.flatmap(tokenizers), "tokenizer")
    D, spec = tokenizer.spec.action_dim, tokenizer.spec
    T = data.draw(HORIZONS, "T")
    coefficients = len(spec.levels)
    symbols = np.random.default_rng(data.draw(st.integers(0, 999), "seed")).integers(0, coefficients, (T, D))
    symbols[data.draw(HORIZONS, "used") :] = spec.zero_symbol
    if spec.normalizer is not None:
        symbols[:, spec.normalizer.constant] = spec.zero_symbol
    sequence = _reference.arrange(symbols, spec)
    parse = _reference.encode_bpe if spec.parsing == "bpe" else _reference.encode_shortest
    assert tokenizer.encode(tokenizer.decode([sequence], T))[0].tolist() == parse(
        sequence, [tuple(m) for m in spec.merges.tolist()], spec.alphabet_size
    )


@settings(max_examples=100)
@given(data=st.data())
def test_with_clip_the_same_ids_unless_clipping_is_counted_again(data):
    """Half a step of quantization can lead beyond `clip`; encoding then cuts it, and says so."""
    clip = st.floats(0.2, 1.5)
    tokenizer = data.draw(DIMS.flatmap(lambda D: tokenizers(D, limit=2000, clip=clip)), "tokenizer")
    T = data.draw(HORIZONS, "T")
    batch = tokenizer.encode(data.draw(chunks_for(tokenizer, 3, T), "chunks"))
    again = tokenizer.encode(tokenizer.decode(batch, T))
    for i in range(3):
        assert again.clipped[i] > 0 or again[i].tolist() == batch[i].tolist()


@pytest.mark.parametrize("kind", ["gripper 0/1", "gripper +-1", "grid"])
@pytest.mark.parametrize("T", [4, 16, 25, 64])
def test_tied_data_round_trips(kind, T):
    rng = np.random.default_rng(T)
    values = {"gripper 0/1": [0.0, 1.0], "gripper +-1": [-1.0, 1.0], "grid": 0.05 * np.arange(-20, 21)}[kind]
    chunks = rng.choice(values, (100, T, 7))
    for scale in (2.5, 5.0, 10.0):
        tokenizer = FastTokenizer(TokenizerSpec(scale, -2000, 2000, trained_merges(2000)))
        batch = tokenizer.encode(chunks)
        decoded = tokenizer.decode(batch, T, 7)
        assert tokenizer.encode(decoded).to_list() == batch.to_list()
        # In float32 the grid's own points move by far less than half a step.
        assert tokenizer.encode(decoded.astype(np.float32)).to_list() == batch.to_list()


# ---- What is lost ------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(data=st.data())
def test_the_error_is_bounded(data):
    """Half a step (or the dead zone) per coefficient; the transform is orthonormal, so the chunk's error is bounded."""
    tokenizer = data.draw(DIMS.flatmap(lambda D: tokenizers(D, limit=2000)), "tokenizer")
    T = data.draw(HORIZONS, "T")
    chunk = data.draw(chunks_for(tokenizer, 1, T), "chunk")
    spec, D = tokenizer.spec, tokenizer.spec.action_dim
    batch = tokenizer.encode(chunk)
    assert batch.saturated[0] == 0
    difference = chunk[0] - tokenizer.decode(batch, T)[0]
    if spec.normalizer is not None:
        changing = ~spec.normalizer.constant
        difference[:, changing] /= spec.normalizer.half_range[changing]
        difference[:, ~changing] = 0
    half_step = np.broadcast_to(spec.dead_zone / np.array(spec.scales), D)
    # The values' own rounding: up to 100 + 2 * 1000 in raw units, over a half_range of 0.001.
    assert (np.abs(_reference.dct2(difference)) <= half_step + 1e-9).all()
    assert np.linalg.norm(difference) <= np.sqrt(T * np.sum(half_step**2)) + 1e-9
    assert np.abs(difference).max() <= np.sqrt(2 * T) * half_step.max() + 1e-9


def test_the_bound_is_reached():
    """Half a step in every coefficient: no smaller bound would do."""
    tokenizer = FastTokenizer(TokenizerSpec(10.0, -60, 60, np.empty((0, 2))))
    coefficients = np.full((12, 5), 0.4999 / 10)
    chunk = _reference.dct3(coefficients)
    assert (tokenizer.encode(chunk[None]).ids == 60).all()
    error = np.linalg.norm(chunk - tokenizer.decode(tokenizer.encode(chunk[None]), 12, 5)[0])
    assert 0.49 / 10 * np.sqrt(12 * 5) < error <= 0.5 / 10 * np.sqrt(12 * 5)


@settings(max_examples=100)
@given(
    center=st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=9),
    T=HORIZONS,
    is_float32=st.booleans(),
)
def test_constant_dimensions_come_back_exactly(center, T, is_float32):
    center = np.array([*center, 0.5])
    half_range = np.zeros(len(center))
    half_range[-1] = 1
    tokenizer = FastTokenizer(
        TokenizerSpec(10.0, -60, 60, np.empty((0, 2)), Normalizer("quantile", center, half_range), None, len(center))
    )
    chunk = np.broadcast_to(center, (2, T, len(center))).copy()
    chunk[:, :, -1] = wavy_chunks(2, T, 1)[:, :, 0]
    with np.errstate(over="ignore"):
        given_chunk = chunk.astype(np.float32) if is_float32 else chunk
    assume(np.isfinite(given_chunk).all())
    batch = tokenizer.encode(given_chunk)
    decoded = tokenizer.decode(batch, T)
    np.testing.assert_array_equal(decoded[:, :, :-1], chunk[:, :, :-1])
    changed = (given_chunk[:, :, :-1].astype(np.float64) != chunk[:, :, :-1]).sum(axis=(1, 2))
    np.testing.assert_array_equal(batch.clipped, changed)  # float32 cannot hold every constant


def test_fitted_constants_come_back_exactly():
    chunks = wavy_chunks(40, 20, 5)
    chunks[:, :, 1], chunks[:, :, 3] = 0.1, -7e5 / 3
    for kind in ("quantile", "min-max", "mean-std"):
        tokenizer = FastTokenizer.fit(chunks, vocab_size=512, normalize=kind)
        batch = tokenizer.encode(chunks)
        assert batch.clipped.sum() == 0
        np.testing.assert_array_equal(tokenizer.decode(batch)[:, :, [1, 3]], chunks[:, :, [1, 3]])


# ---- Every way in and out ----------------------------------------------------------------------------


def fitted(D=7, **options):
    return FastTokenizer.fit([wavy_chunks(40, T, D) for T in (10, 25)], vocab_size=512, **options)


@settings(max_examples=100)
@given(
    horizons=st.lists(st.integers(1, 60) | st.just(128), min_size=1, max_size=12),
    D=DIMS,
    dtype=st.sampled_from([np.float32, np.float64]),
    num_threads=st.sampled_from([1, 2, 5]),
)
def test_ragged_batches_equal_their_chunks(horizons, D, dtype, num_threads):
    tokenizer = FastTokenizer(TokenizerSpec(10.0, -60, 60, trained_merges(60)))
    chunks = [wavy_chunks(1, T, D, seed)[0].astype(dtype) for seed, T in enumerate(horizons)]
    batch = tokenizer.encode(chunks, num_threads=num_threads)
    decoded = tokenizer.decode_ragged(batch, horizons, D, num_threads=num_threads)
    for i, chunk in enumerate(chunks):
        alone = tokenizer.encode(chunk[None])
        assert batch[i].tolist() == alone[0].tolist()
        assert batch.saturated[i] == alone.saturated[0]
        assert decoded[i].tobytes() == tokenizer.decode(alone, horizons[i], D)[0].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_lists_and_iterators_are_the_same(dtype):
    chunks = wavy_chunks(30, 25, 7).astype(dtype)
    ways_in = {
        "array": lambda: chunks,
        "list of (T, D)": lambda: list(chunks),
        "tuple": lambda: tuple(chunks),
        "iterator of (T, D)": lambda: iter(chunks),
        "generator": lambda: (c for c in chunks),
        "list of (N, T, D)": lambda: [chunks[:11], chunks[11:12], chunks[12:]],
        "both ranks": lambda: [chunks[:11], chunks[11], chunks[12:]],
    }
    tokenizer = FastTokenizer.fit(chunks, vocab_size=512)
    expected = tokenizer.encode(chunks)
    for name, way_in in ways_in.items():
        assert FastTokenizer.fit(way_in(), vocab_size=512) == tokenizer, name
        assert same_bytes(tokenizer.encode(way_in()), expected), name
    assert all(tokenizer.encode(c[None])[0].tolist() == ids.tolist() for c, ids in zip(chunks, expected, strict=True))


ARRAYS = {
    "Fortran order": np.asfortranarray,
    "reversed view": lambda chunks: np.ascontiguousarray(chunks[:, ::-1])[:, ::-1],
    "every second of twice as many": lambda chunks: np.repeat(chunks, 2, axis=0)[::2],
    "read-only": lambda chunks: np.frombuffer(chunks.tobytes(), chunks.dtype).reshape(chunks.shape),
    "not aligned": lambda chunks: np.frombuffer(b"-" + chunks.tobytes(), chunks.dtype, offset=1).reshape(chunks.shape),
    "big-endian": lambda chunks: chunks.astype(chunks.dtype.newbyteorder(">")),
    "pickled": lambda chunks: pickle.loads(pickle.dumps(chunks)),  # so it comes from another process
    "dtype with metadata": lambda chunks: chunks.view(np.dtype(chunks.dtype, metadata={"unit": "rad"})),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", ARRAYS.values(), ids=[*ARRAYS])
def test_how_an_array_lies_in_memory_does_not_matter(variant, dtype):
    chunks = wavy_chunks(30, 25, 7).astype(dtype)
    tokenizer = FastTokenizer.fit(chunks, vocab_size=512)
    expected = tokenizer.encode(chunks)
    assert same_bytes(tokenizer.encode(variant(chunks)), expected)
    assert same_bytes(tokenizer.encode(list(variant(chunks))), expected)
    assert FastTokenizer.fit(variant(chunks), vocab_size=512) == tokenizer


@pytest.mark.parametrize("variant", [ARRAYS[name] for name in ARRAYS if name != "dtype with metadata"])
def test_how_the_ids_lie_in_memory_does_not_matter(variant):
    tokenizer = fitted()
    batch = tokenizer.encode(wavy_chunks(20, 25, 7))
    ids, mask = batch.pad(pad_id=0)
    expected = tokenizer.decode(batch, 25).tobytes()
    assert tokenizer.decode(variant(ids[:, :, None])[:, :, 0], 25, mask=mask).tobytes() == expected
    assert tokenizer.decode([variant(i[None, :, None])[0, :, 0] for i in batch], 25).tobytes() == expected
    assert tokenizer.decode(pickle.loads(pickle.dumps(batch)), 25).tobytes() == expected


def test_tokens_in_any_form_decode_the_same():
    tokenizer = fitted()
    batch = tokenizer.encode(wavy_chunks(20, 25, 7))
    expected = tokenizer.decode(batch, 25).tobytes()
    ids, mask = batch.pad(pad_id=0)
    assert tokenizer.decode(batch.to_list(), 25).tobytes() == expected
    assert tokenizer.decode(list(batch), 25).tobytes() == expected
    assert tokenizer.decode((i for i in batch), 25).tobytes() == expected
    assert tokenizer.decode(ids, 25, mask=mask).tobytes() == expected
    assert tokenizer.decode(ids.astype(np.int64), 25, mask=mask).tobytes() == expected
    assert tokenizer.decode(batch[3:9], 25).tobytes() == tokenizer.decode(batch, 25)[3:9].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("normalize", [None, "quantile"])
def test_threads_give_the_same_bytes(dtype, normalize):
    chunks = wavy_chunks(1500, 25, 7).astype(dtype)  # enough values for seven threads
    tokenizer = FastTokenizer.fit(chunks, vocab_size=512, normalize=normalize, num_threads=1)
    batch = tokenizer.encode(chunks, num_threads=1)
    decoded = tokenizer.decode(batch, num_threads=1)
    for num_threads in (2, 5, 64, None):
        assert FastTokenizer.fit(chunks, vocab_size=512, normalize=normalize, num_threads=num_threads) == tokenizer
        assert same_bytes(tokenizer.encode(chunks, num_threads=num_threads), batch)
        assert tokenizer.decode(batch, num_threads=num_threads).tobytes() == decoded.tobytes()


def test_threads_give_the_same_bytes_on_ragged_batches():
    chunks = [wavy_chunks(1, T, 7, seed=i)[0] for i, T in enumerate([5, 400, 1, 61, 128, 33] * 100)]
    tokenizer = FastTokenizer.fit(chunks, vocab_size=1024, num_threads=1)
    batch = tokenizer.encode(chunks, num_threads=1)
    horizons = [len(c) for c in chunks]
    decoded = tokenizer.decode_ragged(batch, horizons, num_threads=1)
    for num_threads in (2, 5):
        assert FastTokenizer.fit(chunks, vocab_size=1024, num_threads=num_threads) == tokenizer
        assert same_bytes(tokenizer.encode(chunks, num_threads=num_threads), batch)
        again = tokenizer.decode_ragged(batch, horizons, num_threads=num_threads)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(again, decoded, strict=True))


def test_one_tokenizer_serves_many_python_threads():
    tokenizer = fitted()
    work = [wavy_chunks(20, T, 7, seed) for seed in range(8) for T in (3, 25, 61, 128)]
    expected = [tokenizer.encode(chunks) for chunks in work]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(tokenizer.encode, work * 3))
        decoded = list(pool.map(lambda i: tokenizer.decode(expected[i], work[i].shape[1]), range(len(work))))
    assert all(same_bytes(batch, expected[i % len(work)]) for i, batch in enumerate(batches))
    for i, chunks in enumerate(decoded):
        assert chunks.tobytes() == tokenizer.decode(expected[i], work[i].shape[1]).tobytes()


def test_the_order_of_the_chunks_does_not_change_the_vocabulary():
    chunks = wavy_chunks(60, 25, 7)
    shuffled = chunks[np.random.default_rng(0).permutation(60)]
    assert FastTokenizer.fit(shuffled, vocab_size=512) == FastTokenizer.fit(chunks, vocab_size=512)


# ---- Recorded data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("horizon", [16, 50])
def test_recorded_chunks_round_trip(recorded_chunks, name, horizon):
    """Fitted on one half, used on the other, where values beyond the fitted range saturate."""
    chunks = recorded_chunks(name, horizon, 80)
    tokenizer = FastTokenizer.fit(chunks[::2], vocab_size=1024, normalize="quantile", range_quantile=0.9999)
    spec, other = tokenizer.spec, chunks[1::2]
    batch = tokenizer.encode(other)
    decoded = tokenizer.decode(batch)
    assert tokenizer.encode(decoded).to_list() == batch.to_list()
    for i in range(0, len(other), 5):
        expected = _reference.encode(other[i], spec)
        assert batch[i].tolist() == expected.ids
        assert (batch.saturated[i], batch.clipped[i]) == (expected.saturated, expected.clipped)
        quantized = _reference.decode(expected.ids, spec, horizon, spec.action_dim).chunk
        np.testing.assert_allclose(decoded[i], quantized, rtol=0, atol=relative_to_largest(quantized))


@pytest.mark.parametrize("name", SETS)
def test_every_kernel_gives_the_same_bytes_on_recorded_chunks(recorded_chunks, name):
    chunks = recorded_chunks(name, 50, 80)
    spec = FastTokenizer.fit(chunks, vocab_size=1024, normalize="quantile", range_quantile=0.9999).spec
    center, half_range = spec.normalizer.center.tolist(), spec.normalizer.half_range.tolist()
    results = set()
    for kernel in KERNELS:
        codec = Codec(
            list(spec.scales),
            spec.min_coefficient,
            spec.max_coefficient,
            spec.merges.astype(np.int64),
            center=center,
            half_range=half_range,
            order=spec.order,
            end_of_block=spec.end_of_block,
            levels_beyond=spec.levels_beyond,
            kernel=kernel,
        )
        ids, offsets, *counts = codec.encode(chunks)
        rows, _ = codec.decode(ids, offsets, np.array([50]), chunks.shape[2])
        results.add(b"".join(a.tobytes() for a in (ids, offsets, *counts, rows)))
    assert len(results) == 1
