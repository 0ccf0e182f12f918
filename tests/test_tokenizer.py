"""`FastTokenizer` from the outside: what it takes, what it gives, what it says when it refuses."""

import copy
import functools
import json
import pickle
import re
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_tokenizer import (
    DecodeError,
    DecodeRepairWarning,
    FastTokenizer,
    Normalizer,
    TokenBatch,
    TokenizerSpec,
    _reference,
    chunk,
)
from fast_tokenizer import format as artefact

N, T, D = 200, 20, 3
NO_MERGES = np.empty((0, 2), np.int32)


def smooth_chunks(n=N, horizon=T, dims=D, seed=0):
    rng = np.random.default_rng([seed, n, horizon, dims])
    return np.cumsum(rng.normal(0, 0.05, (n, horizon, dims)), axis=1)


def ragged_chunks(n=60, seed=0):
    """Chunks of 1..30 steps."""
    horizons = np.random.default_rng(seed).integers(1, 31, n)
    return [smooth_chunks(1, t, seed=i)[0] for i, t in enumerate(horizons)]


CHUNKS = smooth_chunks()


#: Symbols are coefficients here and stand for themselves; `test_coding` has orders and ends of blocks.
fit = functools.partial(FastTokenizer.fit, end_of_block=None, levels_beyond=0)


@pytest.fixture(scope="module")
def tok():
    """Fitted for T = 20, D = 3."""
    return fit(CHUNKS, vocab_size=128)


@pytest.fixture(scope="module")
def any_shape(tok):
    """The same vocabulary without T and D."""
    return FastTokenizer(replace(tok.spec, time_horizon=None, action_dim=None))


def same_batch(a, b):
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("ids", "offsets", "saturated", "clipped"))


def exact_match(text):
    return f"^{re.escape(text)}$"


# ---- The issue's example -----------------------------------------------------------------------------


def test_fit_encode_decode_as_the_issue_shows_it(tmp_path):
    tok = fit(CHUNKS, vocab_size=256, scale=10.0)
    batch = tok.encode(CHUNKS, num_threads=None)
    assert batch.ids.dtype == np.int32
    assert batch.offsets.dtype == np.int64
    assert len(batch) == N
    assert batch[0].ndim == 1
    assert [ids.tolist() for ids in batch] == batch.to_list()
    ids, mask = batch.pad(max_len=int(batch.lengths.max()) + 3, pad_id=0)
    assert ids.shape == mask.shape == (N, batch.lengths.max() + 3)
    actions = tok.decode(batch, time_horizon=T, action_dim=D)
    assert actions.dtype == np.float64
    assert actions.shape == (N, T, D)
    assert np.abs(actions - CHUNKS).max() <= 0.05 * np.sqrt(T)
    assert tok.vocab_size == 256
    assert tok.merges.shape == (tok.fit_summary.merges, 2)
    assert tok.expansion_lengths.shape == (256,)
    tok.save(tmp_path / "dir")
    assert FastTokenizer.load(tmp_path / "dir").fingerprint() == tok.fingerprint()


def test_rounding_moves_no_coefficient_by_more_than_half_a_step(tok):
    matrix = _reference.cosine_matrix(T)
    off = matrix @ (tok.decode(tok.encode(CHUNKS)) - CHUNKS)
    assert np.abs(off).max() <= 0.5 / 10.0 + 1e-9


def test_a_scale_per_dimension_bounds_each_dimension_by_its_own():
    scales = np.array([2.0, 10.0, 50.0])
    tok = fit(CHUNKS, 512, scales)
    off = _reference.cosine_matrix(T) @ (tok.decode(tok.encode(CHUNKS)) - CHUNKS)
    worst = np.abs(off).max(axis=(0, 1))
    assert (worst <= 0.5 / scales + 1e-9).all()
    assert (worst > 0.4 / scales).all(), "a finer scale must really be finer"


def test_default_takes_chunks_of_any_shape():
    tok = FastTokenizer.default()
    for shape in ((1, 1, 1), (2, 50, 7), (1, 100, 14), (3, 17, 32)):
        chunks = smooth_chunks(*shape)
        batch = tok.encode(chunks)
        x = tok.decode(batch, time_horizon=shape[1], action_dim=shape[2])
        assert x.shape == shape
        assert np.abs(x - chunks).max() <= 0.5 / min(tok.spec.scales) * np.sqrt(shape[1]) + 1e-9
        assert not batch.saturated.any()


def test_default_is_the_same_tokenizer_every_time():
    assert FastTokenizer.default() == FastTokenizer.default()


# ---- What fit and encode take ------------------------------------------------------------------------

AS_OTHER_ARRAYS = {
    "list of (T, D)": list,
    "tuple of (T, D)": tuple,
    "generator of (T, D)": lambda x: (c for c in x),
    "list of (N, T, D)": lambda x: np.array_split(x, 7),
    "generator of (N, T, D)": lambda x: iter(np.array_split(x, 7)),
    "(T, D) and (N, T, D) mixed": lambda x: [x[0], x[1:50], x[50], x[51:]],
    "with empty blocks between": lambda x: [x[:0], x[:50], x[:0], x[50:], x[:0]],
    "nested Python lists": lambda x: x.tolist(),
    "Fortran order": np.asfortranarray,
    "every second row of a larger array": lambda x: np.repeat(x, 2, axis=0)[::2],
    "a column block of a wider array": lambda x: np.concatenate([x, x], axis=2)[:, :, :D],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"1" + x.tobytes(), np.float64, offset=1).reshape(x.shape),
    "big-endian": lambda x: x.astype(">f8"),
    "list of big-endian": lambda x: list(x.astype(">f8")),
    "unpickled": lambda x: pickle.loads(pickle.dumps(x)),
    "deep copy": copy.deepcopy,
    "a dtype with metadata": lambda x: x.astype(np.dtype(np.float64, metadata={"unit": "rad"})),
}


@pytest.fixture(params=AS_OTHER_ARRAYS, ids=[k.replace(" ", "_") for k in AS_OTHER_ARRAYS])
def other(request):
    """A function that puts an (N, T, D) array into another form."""
    return AS_OTHER_ARRAYS[request.param]


def test_any_form_of_the_same_chunks_fits_the_same_tokenizer(tok, other):
    assert fit(other(CHUNKS), vocab_size=128) == tok


def test_any_form_of_the_same_chunks_fits_the_same_normalizer(other):
    expected = fit(CHUNKS, 512, normalize="quantile")
    assert fit(other(CHUNKS), 512, normalize="quantile") == expected


def test_any_form_of_the_same_chunks_has_the_same_ids(tok, other):
    assert same_batch(tok.encode(other(CHUNKS)), tok.encode(CHUNKS))


def test_float32_is_taken_as_the_float64_it_stands_for(tok):
    narrow = CHUNKS.astype(np.float32)
    assert same_batch(tok.encode(narrow), tok.encode(narrow.astype(np.float64)))
    assert fit(narrow, 128) == fit(narrow.astype(np.float64), 128)


@pytest.mark.parametrize("form", [">f4", "unpickled"])
def test_float32_of_other_origin_has_the_same_ids(tok, form):
    narrow = CHUNKS.astype(np.float32)
    other = pickle.loads(pickle.dumps(narrow)) if form == "unpickled" else narrow.astype(form)
    assert same_batch(tok.encode(other), tok.encode(narrow))


def test_float32_and_float64_may_stand_in_one_list(tok):
    mixed = [c.astype(np.float32) if i % 3 else c for i, c in enumerate(CHUNKS)]
    one_by_one = [tok.encode(c[None])[0].tolist() for c in mixed]
    assert tok.encode(mixed).to_list() == one_by_one
    assert fit(mixed, 128) == fit([c.astype(np.float64) for c in mixed], 128)


def test_an_iterator_is_read_once():
    reads = []

    def chunks():
        for i, c in enumerate(CHUNKS):
            reads.append(i)
            yield c

    for normalize in (None, "quantile"):
        fit(chunks(), 512, normalize=normalize)
        assert reads == list(range(N))
        reads.clear()


def test_input_is_left_as_it_was(tok):
    before = CHUNKS.tobytes()
    fit(CHUNKS, 128, normalize="quantile", clip=0.5)
    tok.encode(CHUNKS)
    assert CHUNKS.tobytes() == before


def test_chunks_of_differing_horizon_are_encoded_one_by_one(any_shape):
    chunks = ragged_chunks()
    batch = any_shape.encode(chunks)
    assert len(batch) == len(chunks)
    for ids, c in zip(batch, chunks, strict=True):
        assert ids.tolist() == any_shape.encode(c[None])[0].tolist()


def test_horizon_and_dimensions_are_recorded_when_fixed(tok):
    assert (tok.spec.time_horizon, tok.spec.action_dim) == (T, D)


def test_horizon_is_not_recorded_when_it_differs():
    spec = fit(ragged_chunks(), 128).spec
    assert (spec.time_horizon, spec.action_dim) == (None, D)


def test_horizon_is_not_recorded_when_it_differs_only_between_blocks(monkeypatch):
    monkeypatch.setattr(chunk, "_BLOCK_VALUES", 1)
    chunks = [*smooth_chunks(5, 10), *smooth_chunks(5, 11)]
    assert fit(chunks, 128).spec.time_horizon is None


def test_rate_and_names_are_recorded():
    spec = fit(CHUNKS, 128, hz=29.97, dimension_names=["x", "y", "z"]).spec
    assert (spec.hz, spec.dimension_names) == (29.97, ("x", "y", "z"))


# ---- What fit decides --------------------------------------------------------------------------------


def replay(tok, chunks):
    """(pair, how often it stands there) before each of the merges; and what is left after them."""
    spec = tok.spec
    sequences = [_reference.arrange(_reference.quantize(c, spec).symbols, spec) for c in chunks]
    seen = []
    for i, (left, right) in enumerate(spec.merges.tolist()):
        seen.append(_reference.count_pairs(sequences)[left, right])
        sequences = [_reference.replace_pair(s, (left, right), spec.alphabet_size + i) for s in sequences]
    return seen, _reference.count_pairs(sequences)


@pytest.mark.parametrize("min_frequency", [1, 2, 7, 50])
def test_pairs_below_min_frequency_are_not_merged_and_all_others_are(min_frequency):
    chunks = CHUNKS[:30]
    tok = fit(chunks, 1024, min_frequency=min_frequency)
    merged, left_over = replay(tok, chunks)
    assert tok.vocab_size < 1024, "the corpus must run out of pairs"
    assert min(merged) >= min_frequency
    assert max(left_over.values(), default=0) < min_frequency
    assert merged == sorted(merged, reverse=True)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 12])
def test_no_token_stands_for_more_than_max_token_symbols(limit):
    lengths = fit(CHUNKS, 256, max_token_symbols=limit).expansion_lengths
    assert lengths.max() == limit
    assert lengths.min() == 1


def low_frequency_chunks():
    """3,000 chunks of 1,000 steps in one dimension: a few low frequencies, then a long run of zeros."""
    walks = np.cumsum(np.cumsum(np.random.default_rng(0).normal(size=(3000, 1000, 1)), axis=1), axis=1)
    return walks / np.abs(walks).max(axis=1, keepdims=True)


def sparse_chunks():
    """6,000 chunks whose coefficients are 0, but for one in fifty that is +-1."""
    signs = np.random.default_rng(0).choice([-1, 0, 1], size=(6000, 50, 14), p=[0.01, 0.98, 0.01])
    return _reference.cosine_matrix(50).T @ (signs / 10)


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        (low_frequency_chunks, {"scale": 5.0, "max_token_symbols": 16384}),
        (sparse_chunks, {"scale": 10.0}),
    ],
    ids=["long runs of zeros", "short runs of zeros"],
)
def test_a_vocabulary_within_the_documented_limits_is_fitted_used_and_loaded(chunks, options, tmp_path):
    data = chunks()
    tok = fit(data, 16384, min_frequency=1, **options)
    # Training leaves out what would take all tokens together beyond 2^22 symbols.
    assert tok.vocab_size == 16384 or 2**22 - tok.expansion_lengths.sum() < tok.expansion_lengths.max()
    assert tok.vocab_size > 14_000
    tok.save(tmp_path)
    again = FastTokenizer.load(tmp_path)
    sample = data[::100]
    assert np.abs(again.decode(tok.encode(sample)) - sample).max() <= 0.5 / options["scale"] * np.sqrt(data.shape[1])


def test_expansion_lengths_add_up(tok):
    lengths, symbols = tok.expansion_lengths, tok.spec.alphabet_size
    assert (lengths[:symbols] == 1).all()
    assert np.array_equal(lengths[symbols:], lengths[tok.merges].sum(axis=1))
    batch = tok.encode(CHUNKS)
    assert [lengths[ids].sum() for ids in batch] == [T * D] * N


def test_the_range_is_that_of_the_coefficients(tok):
    coefficients = np.array([_reference.quantized_coefficients(c, tok.spec)[0] for c in CHUNKS])
    assert (tok.spec.min_coefficient, tok.spec.max_coefficient) == (coefficients.min(), coefficients.max())


def test_the_range_always_holds_0():
    spec = fit(np.full((3, 4, 1), 5.0), 128).spec
    assert (spec.min_coefficient, spec.max_coefficient) == (0, 100)
    spec = fit(np.full((3, 1, 1), -5.0), 128).spec
    assert (spec.min_coefficient, spec.max_coefficient) == (-50, 0)


def test_constant_zero_needs_one_symbol():
    tok = fit(np.zeros((5, 8, 2)), 16)
    assert tok.spec.alphabet_size == 1
    assert tok.encode(np.zeros((1, 8, 2))).lengths[0] == 1
    assert (tok.decode(tok.encode(np.zeros((2, 8, 2)))) == 0).all()


def with_outlier(value):
    chunks = CHUNKS.copy()
    chunks[17, 5, 1] = value
    return chunks


def test_an_outlier_eats_the_vocabulary_unless_it_may_saturate():
    with pytest.raises(ValueError, match=r"the quantized coefficients span -\d+\.\.\d+: \d+ symbols do not fit") as e:
        fit(with_outlier(1000.0), 256)
    for advice in ("vocab_size=256", 'normalize="quantile"', "lower scale", "range_quantile=0.99999"):
        assert advice in str(e.value)


def test_an_outlier_beyond_the_maximum_is_refused_unless_it_may_saturate():
    with pytest.raises(ValueError, match=r"^\d+ quantized coefficients lie beyond \+-16382; ") as e:
        fit(with_outlier(1e6), 256)
    for advice in ('normalize="quantile"', "lower scale", "range_quantile=0.99999"):
        assert advice in str(e.value)


@pytest.mark.parametrize("outlier", [1000.0, 1e6, -1e12])
def test_range_quantile_spares_the_vocabulary_and_counts_what_saturates(outlier):
    clean = fit(CHUNKS, 256)
    chunks = with_outlier(outlier)
    tok = fit(chunks, 256, range_quantile=0.998)
    assert tok.spec.alphabet_size <= clean.spec.alphabet_size
    batch = tok.encode(chunks)
    assert batch.saturated[17] >= T // 2, "the outlier's own chunk"
    assert batch.saturated.sum() == tok.fit_summary.saturated
    outside = [_reference.quantize(c, tok.spec).saturated for c in chunks]
    assert batch.saturated.tolist() == outside


@pytest.mark.parametrize("quantile", [0.99, 0.995, 0.999])
def test_each_end_of_the_range_drops_at_most_its_share(quantile):
    tok = fit(CHUNKS, 256, range_quantile=quantile)
    coefficients = np.array([_reference.quantized_coefficients(c, tok.spec)[0] for c in CHUNKS])
    low, high = tok.spec.min_coefficient, tok.spec.max_coefficient
    below, above = (coefficients < low).sum(), (coefficients > high).sum()
    may_drop = (1 - quantile) * coefficients.size
    assert below <= may_drop
    assert above <= may_drop
    assert below + (coefficients == low).sum() > may_drop or low == 0, "the next symbol would be one too many"
    assert above + (coefficients == high).sum() > may_drop or high == 0
    assert tok.fit_summary.saturated == below + above == tok.encode(CHUNKS).saturated.sum()


def test_nothing_saturates_by_default(tok):
    assert tok.fit_summary.saturated == 0
    assert not tok.encode(CHUNKS).saturated.any()


def test_fit_summary_counts():
    tok = fit(ragged_chunks(), 200, normalize="quantile", clip=1.0)
    summary = tok.fit_summary
    assert summary.chunks == 60
    assert summary.coefficients == sum(c.size for c in ragged_chunks())
    assert summary.clipped == tok.encode(ragged_chunks()).clipped.sum() > 0
    assert summary.alphabet_size == tok.spec.alphabet_size
    assert summary.merges == len(tok.merges) == tok.vocab_size - summary.alphabet_size
    assert 0 < summary.seconds < 60


def test_a_loaded_tokenizer_has_no_fit_summary(tok, tmp_path):
    tok.save(tmp_path)
    assert FastTokenizer.load(tmp_path).fit_summary is None


def test_progress_is_told_of_both_stages():
    told = []
    tok = fit(iter(np.array_split(CHUNKS, 4)), 128, progress=lambda *a: told.append(a))
    assert told[0] == ("quantize", N, None)
    assert told[-1] == ("merge", tok.fit_summary.merges, 128 - tok.spec.alphabet_size)
    assert {stage for stage, _, _ in told} == {"quantize", "merge"}


@pytest.mark.parametrize("error", [ValueError("enough"), KeyboardInterrupt()], ids=["ValueError", "KeyboardInterrupt"])
@pytest.mark.parametrize("stage", ["quantize", "merge"])
def test_what_progress_raises_stops_fitting_and_comes_out(tok, stage, error):
    def progress(now, done, total):
        if now == stage:
            raise error

    with pytest.raises(type(error)) as caught:
        fit(CHUNKS, 128, progress=progress)
    assert caught.value is error
    assert fit(CHUNKS, 128) == tok, "and fitting works as before"


# ---- Same result from any order, any threads, any blocks ---------------------------------------------

NORMALIZE = [None, "quantile", "min-max", "mean-std", "identity"]


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_order_of_the_chunks_does_not_matter(normalize):
    orders = [np.random.default_rng(i).permutation(N) for i in range(8)]
    assert len({fit(CHUNKS[o], 512, normalize=normalize).fingerprint() for o in orders}) == 1


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_order_of_the_chunks_does_not_matter_where_zeros_have_signs(normalize):
    chunks = CHUNKS.copy()
    chunks[:, :, 1] = 0.0
    chunks[::2, :, 1] = -0.0
    orders = [np.random.default_rng(i).permutation(N) for i in range(8)]
    assert len({fit(chunks[o], 512, normalize=normalize).fingerprint() for o in orders}) == 1


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_threads_do_not_matter_to_fit(normalize):
    chunks = smooth_chunks(400, 50, 14)
    prints = {fit(chunks, 700, normalize=normalize, num_threads=n).fingerprint() for n in (None, 1, 3, 8)}
    assert len(prints) == 1


def test_blocks_do_not_matter_to_fit(tok, monkeypatch):
    ragged = fit(ragged_chunks(), 128)
    for values in (1, T * D, 10 * T * D + 1):
        monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
        assert fit(list(CHUNKS), 128) == tok
        assert fit(CHUNKS, 128) == tok
        assert fit(ragged_chunks(), 128) == ragged


def test_blocks_do_not_matter_to_encode(tok, any_shape, monkeypatch):
    whole, ragged = tok.encode(CHUNKS), any_shape.encode(ragged_chunks())
    for values in (1, T * D, 10 * T * D + 1):
        monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
        assert same_batch(tok.encode(list(CHUNKS)), whole)
        assert same_batch(any_shape.encode(ragged_chunks()), ragged)


def test_threads_do_not_matter_to_encode_and_decode():
    chunks = smooth_chunks(400, 50, 14)  # enough for eight threads
    tok = fit(chunks, 700, normalize="quantile", clip=0.9, range_quantile=0.99)
    once = tok.encode(chunks, num_threads=1)
    assert once.saturated.any()
    assert once.clipped.any()
    for threads in (2, 3, 8, 1000, None):
        assert same_batch(tok.encode(chunks, num_threads=threads), once)
        decoded = tok.decode(once, num_threads=threads)
        assert decoded.tobytes() == tok.decode(once, num_threads=1).tobytes()


def test_a_batch_is_its_chunks_one_by_one(tok):
    batch = tok.encode(CHUNKS)
    for i in range(0, N, 17):
        alone = tok.encode(CHUNKS[i : i + 1])
        assert alone[0].tolist() == batch[i].tolist()
        assert tok.decode(alone).tobytes() == tok.decode(batch)[i].tobytes()


# ---- Normalisation belongs to the artefact -----------------------------------------------------------


def raw_chunks():
    """Three dimensions of very different size and place; the last never changes."""
    chunks = CHUNKS * [1e3, 1e-4, 0.0] + [5e4, -2.0, 0.7]
    return np.concatenate([chunks, CHUNKS[:, :, :1]], axis=2)


@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std", "identity"])
def test_encoding_with_a_normalizer_is_normalising_by_hand_first(kind, clip):
    chunks = raw_chunks() if kind != "identity" else np.repeat(CHUNKS, 2, axis=2)[:, :, :4]
    tok = fit(chunks, 2048, normalize=kind, clip=clip)
    s, normalizer = tok.spec, tok.spec.normalizer
    assert (normalizer.kind, normalizer.clip) == (kind, clip)
    bare = FastTokenizer(TokenizerSpec(s.scale, s.min_coefficient, s.max_coefficient, s.merges))
    for raw in (chunks, chunks.astype(np.float32)):
        batch, by_hand = tok.encode(raw), bare.encode(normalizer.apply(raw))
        assert np.array_equal(batch.ids, by_hand.ids)
        assert np.array_equal(batch.saturated, by_hand.saturated)
        back = normalizer.invert(bare.decode(by_hand, T, 4))
        assert tok.decode(batch).tobytes() == back.tobytes()


@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std"])
def test_a_constant_dimension_comes_back_exactly_whatever_the_ids_say(kind):
    tok = fit(raw_chunks(), 2048, normalize=kind)
    assert (tok.decode(tok.encode(raw_chunks()))[:, :, 2] == 0.7).all()
    ids = np.random.default_rng(0).integers(0, tok.vocab_size, (20, 30))
    actions, _ = tok.decode_with_status(ids)
    assert (actions[:, :, 2] == 0.7).all()


def test_clipped_values_are_counted_per_chunk():
    tok = fit(raw_chunks(), 2048, normalize="quantile", clip=0.5)
    unclipped = Normalizer("quantile", tok.spec.normalizer.center, tok.spec.normalizer.half_range)
    beyond = (np.abs(unclipped.apply(raw_chunks())) > 0.5).sum(axis=(1, 2))
    assert beyond.any()
    assert tok.encode(raw_chunks()).clipped.tolist() == beyond.tolist()
    assert tok.fit_summary.clipped == beyond.sum()


def test_leaving_a_constant_is_counted_as_clipped():
    tok = fit(raw_chunks(), 2048, normalize="quantile")
    moved = raw_chunks()
    moved[3, 4:9, 2] += 0.1
    clipped = tok.encode(moved).clipped
    assert clipped[3] == 5
    assert clipped.sum() == 5


def test_a_given_normalizer_is_used_as_it_is():
    normalizer = Normalizer("min-max", np.zeros(D), np.full(D, 2.0), clip=0.3)
    tok = fit(CHUNKS, 128, normalize=normalizer)
    assert tok.spec.normalizer is normalizer
    assert tok.encode(CHUNKS).clipped.sum() == (np.abs(CHUNKS) > 0.6).sum() > 0


def test_statistics_are_taken_over_all_blocks():
    a, b = smooth_chunks(20), smooth_chunks(20, seed=1) + 3.0
    together = Normalizer.fit(np.concatenate([a, b]), "quantile")
    for chunks in ([a, b], iter([*a, *b]), np.concatenate([a, b])):
        fitted = fit(chunks, 1024, normalize="quantile").spec.normalizer
        assert fitted.center.tolist() == together.center.tolist()
        assert fitted.half_range.tolist() == together.half_range.tolist()


# ---- Decoding what is well-formed --------------------------------------------------------------------


def test_every_form_of_tokens_decodes_alike(tok):
    batch = tok.encode(CHUNKS)
    expected = tok.decode(batch).tobytes()
    ids, mask = batch.pad()
    shifted_ids, shifted_mask = np.pad(ids, ((0, 0), (5, 0))), np.pad(mask, ((0, 0), (5, 0)))
    assert tok.decode(batch.to_list()).tobytes() == expected
    assert tok.decode(tuple(batch)).tobytes() == expected
    assert tok.decode(iter(batch)).tobytes() == expected
    assert tok.decode([i.astype(np.int64) for i in batch]).tobytes() == expected
    assert tok.decode([i.astype(np.uint16) for i in batch]).tobytes() == expected
    assert tok.decode(ids, mask=mask).tobytes() == expected
    assert tok.decode(ids.astype(np.int64), mask=mask).tobytes() == expected
    assert tok.decode(ids.tolist(), mask=mask.tolist()).tobytes() == expected
    assert tok.decode(np.asfortranarray(ids), mask=mask).tobytes() == expected
    assert tok.decode(shifted_ids, mask=shifted_mask).tobytes() == expected, "a mask may count anywhere"


def test_a_rectangle_without_a_mask_counts_whole():
    tok = FastTokenizer(TokenizerSpec(10.0, -3, 3, NO_MERGES, time_horizon=4, action_dim=1))
    ids = np.array([[3, 4, 5, 6], [0, 1, 2, 3]])
    assert tok.decode(ids).tobytes() == tok.decode(ids.tolist()).tobytes()


def test_slices_of_a_batch_decode_to_slices(tok):
    batch = tok.encode(CHUNKS)
    whole = tok.decode(batch)
    for part in (slice(3, 9), slice(None, None, -1), slice(5, 2), slice(0, 50, 7)):
        assert np.array_equal(tok.decode(batch[part]), whole[part])


def test_shapes_that_are_recorded_need_not_be_given(tok):
    batch = tok.encode(CHUNKS)
    assert tok.decode(batch).tobytes() == tok.decode(batch, T, D).tobytes()
    assert tok.decode_with_status(batch)[0].tobytes() == tok.decode(batch, time_horizon=np.int64(T)).tobytes()


def test_shapes_that_are_not_recorded_must_be_given(any_shape):
    batch = any_shape.encode(CHUNKS)
    with pytest.raises(
        ValueError, match=exact_match("this tokenizer takes any time_horizon: decode needs time_horizon=...")
    ):
        any_shape.decode(batch, action_dim=D)
    with pytest.raises(
        ValueError, match=exact_match("this tokenizer takes any action_dim: decode needs action_dim=...")
    ):
        any_shape.decode(batch, T)


def test_shapes_that_contradict_the_artefact_are_refused(tok):
    batch = tok.encode(CHUNKS)
    with pytest.raises(ValueError, match=exact_match("time_horizon=10, but this tokenizer was fitted for 20")):
        tok.decode(batch, time_horizon=10)
    with pytest.raises(ValueError, match=exact_match("action_dim=6, but this tokenizer was fitted for 3")):
        tok.decode(batch, action_dim=6)


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["time_horizon", "action_dim"])
def test_shapes_must_be_positive(any_shape, name, value):
    shape = {"time_horizon": T, "action_dim": D} | {name: value}
    with pytest.raises(ValueError, match=exact_match(f"{name} must be positive, got {value}")):
        any_shape.decode([[1]], **shape)


def test_a_horizon_beyond_the_longest_is_refused(any_shape):
    with pytest.raises(ValueError, match="1048577"):
        any_shape.decode([[1]], time_horizon=2**20 + 1, action_dim=1)


def test_no_chunks_decode_to_no_chunks(tok, any_shape):
    for nothing in ([], TokenBatch.from_lists([]), np.empty((0, 5), np.int32)):
        assert tok.decode(nothing).shape == (0, T, D)
        assert any_shape.decode(nothing, 7, 2).shape == (0, 7, 2)
        actions, status = tok.decode_with_status(nothing)
        assert actions.shape == (0, T, D)
        assert status.ok.shape == (0,)
    assert tok.decode_ragged([], []) == []


def test_nothing_depends_on_an_earlier_call(any_shape):
    long, short = smooth_chunks(4, 50), smooth_chunks(4, 20)
    alone = any_shape.decode(any_shape.encode(short), 20, D).tobytes()
    any_shape.decode(any_shape.encode(long), 50, D)
    assert any_shape.decode(any_shape.encode(short), 20, D).tobytes() == alone
    with pytest.raises(ValueError, match="decode needs time_horizon"):
        any_shape.decode(any_shape.encode(short))
    with pytest.raises(DecodeError, match="too many symbols: got 150, expected exactly 60"):
        any_shape.decode(any_shape.encode(long), 20, D)
    with pytest.raises(DecodeError, match="too few symbols: got 60, expected exactly 150"):
        any_shape.decode(any_shape.encode(short), 50, D)


def test_ragged_decoding_gives_back_each_horizon(any_shape):
    chunks = ragged_chunks()
    decoded = any_shape.decode_ragged(any_shape.encode(chunks), [len(c) for c in chunks], D)
    assert [x.shape for x in decoded] == [c.shape for c in chunks]
    for x, c in zip(decoded, chunks, strict=True):
        assert x.tobytes() == any_shape.decode(any_shape.encode(c[None]), len(c), D)[0].tobytes()


def test_ragged_decoding_is_strict_and_checks_its_horizons(tok, any_shape):
    batch = any_shape.encode(ragged_chunks(3))
    horizons = [len(c) for c in ragged_chunks(3)]
    with pytest.raises(ValueError, match=exact_match("got 2 horizons for 3 chunks")):
        any_shape.decode_ragged(batch, horizons[:2], D)
    with pytest.raises(ValueError, match="time_horizon must be positive, got 0"):
        any_shape.decode_ragged(batch, [*horizons[:2], 0], D)
    with pytest.raises(DecodeError, match=r"^chunk 1: too few symbols") as e:
        any_shape.decode_ragged(batch, [horizons[0], horizons[1] + 1, horizons[2]], D)
    assert (e.value.chunk, e.value.got, e.value.expected) == (1, horizons[1] * D, (horizons[1] + 1) * D)
    with pytest.raises(ValueError, match="time_horizon=19, but this tokenizer was fitted for 20"):
        tok.decode_ragged(tok.encode(CHUNKS[:1]), [19])


# ---- Decoding what is not ----------------------------------------------------------------------------


def well_formed(tok, i=0):
    return tok.encode(CHUNKS)[i].tolist()


@pytest.mark.parametrize("unknown", [-1, -5, 128, 2**31 - 1, -(2**31), 2**31, 2**40, -(2**40)])
def test_an_unknown_id_is_named(tok, unknown):
    good = well_formed(tok)
    with pytest.raises(DecodeError) as e:
        tok.decode([good, good, [*good[:3], unknown, *good[3:], -7], [-9]])
    error = e.value
    assert (error.chunk, error.reason, error.got, error.expected) == (2, "unknown token id", unknown, 128)
    assert str(error).startswith(f"chunk 2: unknown token id: got {unknown}, expected 0..127; ")
    assert 'errors="repair"' in str(error)
    assert "decode_with_status" in str(error)


def test_too_few_symbols_are_counted(tok):
    good = well_formed(tok)
    lost = int(tok.expansion_lengths[good[-1]])
    with pytest.raises(DecodeError) as e:
        tok.decode([good, good[:-1], []])
    assert (e.value.chunk, e.value.reason, e.value.got, e.value.expected) == (1, "too few symbols", 60 - lost, 60)
    assert f"chunk 1: too few symbols: got {60 - lost}, expected exactly 60" in str(e.value)


def test_too_many_symbols_are_counted(tok):
    good = well_formed(tok)
    longest = int(tok.expansion_lengths.argmax())
    more = int(tok.expansion_lengths[longest])
    with pytest.raises(DecodeError) as e:
        tok.decode([[*good, longest]])
    assert (e.value.chunk, e.value.reason, e.value.got, e.value.expected) == (0, "too many symbols", 60 + more, 60)


def test_an_empty_sequence_has_too_few(tok):
    with pytest.raises(DecodeError, match="chunk 0: too few symbols: got 0, expected exactly 60"):
        tok.decode([[]])


def test_a_decode_error_is_a_value_error_and_survives_pickling(tok):
    with pytest.raises(ValueError, match="too few") as e:
        tok.decode([[]])
    again = pickle.loads(pickle.dumps(e.value))
    assert (type(again), str(again), vars(again)) == (DecodeError, str(e.value), vars(e.value))


def test_status_tells_what_was_done_to_each_chunk(tok):
    good = well_formed(tok)
    lost = int(tok.expansion_lengths[good[-1]])
    zero = -tok.spec.min_coefficient
    sequences = [good, [-1, *good, 500], good[:-1], [*good, zero, zero], [], [*good[:-1], 128], [zero] * 61 + [-1]]
    actions, status = tok.decode_with_status(sequences)
    assert actions.shape == (7, T, D)
    assert status.ok.tolist() == [True] + [False] * 6
    assert status.unknown.tolist() == [0, 2, 0, 0, 0, 1, 1]
    assert status.missing.tolist() == [0, 0, lost, 0, 60, lost, 0]
    assert status.extra.tolist() == [0, 0, 0, 2, 0, 0, 1]
    assert status.expected.tolist() == [60] * 7
    for counts in (status.unknown, status.missing, status.extra, status.expected):
        assert counts.dtype == np.int64
    assert [status.describe(i) for i in range(7)] == [
        "chunk 0: well-formed",
        "chunk 1: 2 unknown ids dropped",
        f"chunk 2: {lost} of 60 symbols missing, filled with 0",
        "chunk 3: 2 symbols beyond 60 cut off",
        "chunk 4: 60 of 60 symbols missing, filled with 0",
        f"chunk 5: 1 unknown ids dropped, {lost} of 60 symbols missing, filled with 0",
        "chunk 6: 1 unknown ids dropped, 1 symbols beyond 60 cut off",
    ]


def test_repair_drops_fills_and_cuts(tok):
    good = well_formed(tok)
    intact = tok.decode([good])[0]
    zero, dims = -tok.spec.min_coefficient, D
    one_by_one = FastTokenizer(TokenizerSpec(10.0, tok.spec.min_coefficient, tok.spec.max_coefficient, NO_MERGES))
    symbols = one_by_one.encode(CHUNKS[:1])[0].tolist()
    half_filled = one_by_one.decode([symbols[:30] + [zero] * 30], T, dims)[0]
    with pytest.warns(DecodeRepairWarning):
        repaired = tok.decode([[-1, *good], [*good, 5, 5], good, []], errors="repair")
    with pytest.warns(DecodeRepairWarning):
        filled = one_by_one.decode([symbols[:30]], T, dims, errors="repair")[0]
    assert all(repaired[i].tobytes() == intact.tobytes() for i in range(3))
    assert (repaired[3] == 0).all()
    assert filled.tobytes() == half_filled.tobytes()


def test_repair_warns_at_the_caller_and_says_what(tok):
    good = well_formed(tok)
    with pytest.warns(DecodeRepairWarning) as caught:
        tok.decode([good, [*good, -1], []], errors="repair")
    (warning,) = caught
    assert str(warning.message) == "repaired 2 of 3 chunks; chunk 1: 1 unknown ids dropped"
    assert warning.filename == __file__


def test_repair_of_what_is_well_formed_is_silent_and_changes_nothing(tok):
    batch = tok.encode(CHUNKS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tok.decode(batch, errors="repair").tobytes() == tok.decode(batch).tobytes()


def test_the_status_comes_without_a_warning(tok):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tok.decode_with_status([[-1], []])


def test_another_word_for_errors_is_refused(tok):
    with pytest.raises(ValueError, match=exact_match("errors must be 'strict' or 'repair', got 'ignore'")):
        tok.decode([[1]], errors="ignore")


any_ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 130), max_size=80)


@settings(max_examples=200)
@given(st.lists(any_ids, max_size=5))
def test_decoding_is_total(tok, sequences):
    actions, status = tok.decode_with_status(sequences)
    assert actions.shape == (len(sequences), T, D)
    assert np.isfinite(actions).all()
    steps = _reference.cosine_matrix(T) @ actions * 10.0
    assert (steps >= tok.spec.min_coefficient - 1e-9).all()
    assert (steps <= tok.spec.max_coefficient + 1e-9).all()
    known = [[i for i in s if 0 <= i < tok.vocab_size] for s in sequences]
    assert status.unknown.tolist() == [len(s) - len(k) for s, k in zip(sequences, known, strict=True)]
    symbols = np.array([tok.expansion_lengths[k].sum() for k in known], np.int64)
    assert (status.expected - status.missing + status.extra).tolist() == symbols.tolist()


@pytest.mark.parametrize(
    ("scale", "center", "half_range"),
    [(1e-306, 0.0, 1.0), (5e-324, 0.0, 1.0), (10.0, 0.0, 1e308), (1e-200, 0.0, 1e200), (10.0, 1.7e308, 1e306)],
)
def test_no_artefact_decodes_to_what_is_not_finite(scale, center, half_range):
    try:
        normalizer = Normalizer("min-max", np.array([center]), np.array([half_range]))
        spec = TokenizerSpec(scale, -5000, 5000, NO_MERGES, normalizer, time_horizon=T, action_dim=1)
        tok = FastTokenizer(artefact.loads(json.dumps(spec.to_json()).encode()))
    except ValueError:
        return  # refused: as good
    actions, _ = tok.decode_with_status(np.random.default_rng(0).integers(0, 10001, (50, T)))
    assert np.isfinite(actions).all()


# ---- What is refused ---------------------------------------------------------------------------------


def both(tok, chunks):
    """The messages with which fit and encode refuse the same chunks (or what a function of no arguments makes)."""
    messages = []
    for use in (lambda c: fit(c, 128), tok.encode):
        with pytest.raises(ValueError) as e:  # noqa: PT011  # the caller looks at the message
            use(chunks() if isinstance(chunks, types.FunctionType) else chunks)
        messages.append(str(e.value))
    return messages


BAD = {"NaN": np.nan, "infinite": np.inf, "-infinite": -np.inf}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("horizon", "dims"), [(1, 1), (20, 3), (20, 8), (9, 13), (500, 2)])
def test_a_value_that_is_not_finite_is_named(bad, dtype, horizon, dims):
    tok = FastTokenizer(TokenizerSpec(10.0, -40, 40, NO_MERGES))
    rng = np.random.default_rng([horizon, dims])
    for _ in range(5):
        i, t, d = (int(rng.integers(n)) for n in (7, horizon, dims))
        chunks = smooth_chunks(7, horizon, dims).astype(dtype)
        chunks[i, t, d] = BAD[bad]
        kind = bad.removeprefix("-")
        expected = f"chunk {i}: value at time step {t}, dimension {d} is {kind}; actions must be finite"
        assert both(tok, chunks) == [expected, expected]


def test_the_first_of_several_bad_values_is_named_whatever_the_threads():
    tok = FastTokenizer(TokenizerSpec(10.0, -400, 400, NO_MERGES))
    chunks = smooth_chunks(400, 50, 14)
    for i in (399, 260, 130, 77):
        chunks[i, 3, 5] = np.nan
        for threads in (1, 2, 8, None):
            with pytest.raises(ValueError, match=rf"^chunk {i}: value at time step 3, dimension 5 is NaN"):
                tok.encode(chunks, num_threads=threads)
            with pytest.raises(ValueError, match=rf"^chunk {i}: value at time step 3, dimension 5 is NaN"):
                fit(chunks, 1024, num_threads=threads)


@pytest.mark.parametrize("values", [1, 3 * T * D, 10**6])
def test_chunks_are_counted_over_blocks(any_shape, monkeypatch, values):
    monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
    bad = CHUNKS.copy()
    bad[150, 2, 1] = np.nan
    ragged = [*ragged_chunks(), bad[150], *ragged_chunks()]
    named = "value at time step 2, dimension 1 is NaN; actions must be finite"
    assert both(any_shape, bad) == [f"chunk 150: {named}"] * 2
    assert both(any_shape, lambda: iter(bad)) == [f"chunk 150: {named}"] * 2
    assert both(any_shape, lambda: iter(np.array_split(bad, 9))) == [f"chunk 150: {named}"] * 2
    assert both(any_shape, ragged) == [f"chunk 60: {named}"] * 2


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_fit_names_chunk_step_and_dimension_with_every_normalizer(normalize):
    bad = CHUNKS.copy()
    bad[150, 2, 1] = np.inf
    for chunks in (bad, list(bad), [*ragged_chunks(150), *bad[150:]]):
        with pytest.raises(ValueError, match=r"^chunk 150: value at time step 2, dimension 1 is inf"):
            fit(chunks, 512, normalize=normalize)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (CHUNKS[0], "expected chunks of rank 3 (N, T, D), got shape (20, 3); for one chunk pass chunk[None]"),
        (CHUNKS[0, 0], "expected chunks of rank 3 (N, T, D), got shape (3,)"),
        (CHUNKS[None], "expected chunks of rank 3 (N, T, D), got shape (1, 200, 20, 3)"),
        (np.float64(1), "expected chunks of rank 3 (N, T, D), got shape ()"),
        ([CHUNKS[0], CHUNKS[1, 0]], "chunk 1: expected rank 2 (T, D) or 3 (N, T, D), got shape (3,)"),
        ([CHUNKS[:7], CHUNKS[None]], "chunk 7: expected rank 2 (T, D) or 3 (N, T, D), got shape (1, 200, 20, 3)"),
    ],
)
def test_a_wrong_rank_is_refused(tok, chunks, message):
    assert both(tok, chunks) == [message, message]


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int64, np.uint8, bool, np.complex128, object, "U8"])
def test_a_wrong_dtype_is_refused(tok, dtype):
    chunks = CHUNKS.astype(dtype)
    named = f"expected float32 or float64, got dtype {chunks.dtype}"
    assert both(tok, chunks) == [f"chunks: {named}"] * 2
    assert both(tok, [CHUNKS[0], CHUNKS[1], chunks[2]]) == [f"chunk 2: {named}"] * 2


@pytest.mark.parametrize("chunks", [None, 3, "chunks", b"chunks", len], ids=str)
def test_what_is_no_array_is_refused(tok, chunks):
    message = f"expected an array of chunks or an iterable of arrays, got {type(chunks).__name__}"
    assert both(tok, chunks) == [message, message]


def test_a_list_of_uneven_rows_is_refused(tok):
    for message in both(tok, [CHUNKS[0], [[1.0, 2.0, 3.0], [1.0, 2.0]]]):
        assert message.startswith("chunk 1: not an array of numbers: ")


def test_other_dimensions_than_the_first_chunk_s_are_refused(any_shape):
    chunks = [smooth_chunks(4), smooth_chunks(3, T, 5)]
    assert both(any_shape, chunks) == ["chunk 4: has 5 dimensions, expected 3"] * 2


def test_other_dimensions_than_the_artefact_s_are_refused(tok):
    for chunks in (smooth_chunks(4, T, 2), list(smooth_chunks(4, T, 2))):
        with pytest.raises(ValueError, match=exact_match("chunk 0: has 2 dimensions, expected 3")):
            tok.encode(chunks)


def test_another_horizon_than_the_artefact_s_is_refused(tok):
    with pytest.raises(ValueError, match=exact_match("chunk 0: has 19 time steps, expected 20")):
        tok.encode(smooth_chunks(4, 19))
    with pytest.raises(ValueError, match=exact_match("chunk 5: has 21 time steps, expected 20")):
        tok.encode([*CHUNKS[:5], smooth_chunks(1, 21)[0]])


@pytest.mark.parametrize(("shape", "got"), [((2, 0, 3), "0 time steps of 3"), ((2, 5, 0), "5 time steps of 0")])
def test_chunks_without_values_are_refused(any_shape, shape, got):
    assert both(any_shape, np.empty(shape)) == [f"chunk 0: is empty: {got} dimensions"] * 2
    assert both(any_shape, [np.empty(shape[1:])]) == [f"chunk 0: is empty: {got} dimensions"] * 2


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, T, D)), [np.empty((0, T, D))]], ids=repr)
@pytest.mark.parametrize("normalize", [None, "quantile"])
def test_no_chunks_are_refused(tok, nothing, normalize):
    with pytest.raises(ValueError, match=exact_match("got no chunks to fit on")):
        fit(nothing, 128, normalize=normalize)
    with pytest.raises(ValueError, match=exact_match("got no chunks")):
        tok.encode(nothing)


def test_a_horizon_beyond_the_longest_is_refused_before_it_is_read(any_shape):
    endless = np.lib.stride_tricks.as_strided(np.zeros(1), (1, 2**20 + 1, 1), (0, 0, 0))
    message = "chunk 0: has 1048577 time steps; the longest horizon is 1048576"
    assert both(any_shape, endless) == [message, message]


@pytest.mark.parametrize("size", [1e155, 1e300])
def test_large_values_saturate_and_are_counted(size):
    tok = FastTokenizer(TokenizerSpec(10.0, -5, 5, NO_MERGES))
    signs = np.random.default_rng(0).uniform(-1, 1, (20, T, D))
    expected = tok.encode(signs * 1e100)
    assert (expected.saturated == T * D).all(), "every coefficient lies far outside the range"
    assert same_batch(tok.encode(signs * size), expected)


def test_finite_values_too_large_to_sum_are_refused():
    signs = np.random.default_rng(0).uniform(-1, 1, (20, T, D))
    message = "chunk 0: values as large as .* overflow in the transform; normalise the actions"
    with pytest.raises(ValueError, match=message):
        FastTokenizer(TokenizerSpec(10.0, -5, 5, NO_MERGES)).encode(signs * 1.7e308)
    normalizer = Normalizer("min-max", np.zeros(D), np.full(D, 1e-100))
    with pytest.raises(ValueError, match=message):
        FastTokenizer(TokenizerSpec(10.0, -5, 5, NO_MERGES, normalizer, action_dim=D)).encode(signs * 1e250)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must lie in 1..16384, got 0"),
        ({"vocab_size": 16385}, "vocab_size must lie in 1..16384, got 16385"),
        ({"min_frequency": 0}, "min_frequency must be at least 1, got 0"),
        ({"range_quantile": 0.5}, "range_quantile must lie in [0.99, 1], got 0.5"),
        ({"range_quantile": 1.1}, "range_quantile must lie in [0.99, 1], got 1.1"),
        ({"range_quantile": np.nan}, "range_quantile must lie in [0.99, 1], got nan"),
        ({"max_token_symbols": 0}, "max_token_symbols must lie in 1..16384, got 0"),
        ({"max_token_symbols": 16385}, "max_token_symbols must lie in 1..16384, got 16385"),
        ({"num_threads": 0}, "num_threads must be positive, or None for all cores, got 0"),
        ({"num_threads": -2}, "num_threads must be positive, or None for all cores, got -2"),
        ({"scale": 0}, "scale must be finite and positive, got 0.0"),
        ({"scale": -1.0}, "scale must be finite and positive, got -1.0"),
        ({"scale": np.nan}, "scale must be finite and positive, got nan"),
        ({"scale": np.inf}, "scale must be finite and positive, got inf"),
        ({"scale": [10.0, 0.0, 10.0]}, "scale must be finite and positive, got 0.0"),
        ({"scale": [10.0, np.nan, 10.0]}, "scale must be finite and positive, got nan"),
        ({"scale": [10.0, 10.0]}, "scale has 2 entries, the chunks have 3 dimensions"),
        ({"hz": 0}, "hz must be finite and positive, got 0.0"),
        ({"hz": np.nan}, "hz must be finite and positive, got nan"),
        ({"dimension_names": ["x"]}, "dimension_names has 1 dimensions, action_dim is 3"),
        ({"clip": 1.0}, "clip goes with statistics to take; give a Normalizer its clip itself"),
        ({"clip": 0.0, "normalize": "quantile"}, "clip must be positive and finite, or None, got 0.0"),
        (
            {"normalize": "z-score"},
            "normalizer kind must be one of ('quantile', 'min-max', 'mean-std', 'identity'), got 'z-score'",
        ),
        (
            {"normalize": Normalizer("identity", np.zeros(2), np.ones(2))},
            "the normalizer has 2 dimensions, the chunks have 3",
        ),
        (
            {"normalize": Normalizer("identity", np.zeros(3), np.ones(3)), "clip": 1.0},
            "clip goes with statistics to take; give a Normalizer its clip itself",
        ),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        fit(CHUNKS, **({"vocab_size": 128} | options))


def test_an_empty_scale_is_refused_as_such():
    with pytest.raises(ValueError, match="scale"):
        fit(CHUNKS, 128, [])


@pytest.mark.parametrize("merges", [[[2**32, 1]], [[2**32 + 1, 1]], [[-(2**32), 0]]])
def test_merges_that_do_not_fit_int32_are_refused_not_wrapped(merges):
    with pytest.raises((ValueError, OverflowError)):
        TokenizerSpec(10.0, -1, 1, np.array(merges, np.int64))


@pytest.mark.parametrize("scale", [np.float32(10), np.float64(10), np.int64(10), 10, np.array(10.0)], ids=repr)
def test_any_number_serves_as_scale(tok, scale):
    assert fit(CHUNKS, 128, scale) == tok


@pytest.mark.parametrize(
    "options", [{"vocab_size": 0}, {"num_threads": 0}, {"scale": np.nan}, {"scale": 0.0}, {"hz": -1.0}], ids=str
)
def test_options_that_no_chunk_can_save_are_refused_before_any_is_read(options):
    def unread():
        pytest.fail("fit read the chunks first")
        yield

    with pytest.raises(ValueError, match=next(iter(options))):
        fit(unread(), **options)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_must_be_positive(tok, threads):
    message = exact_match(f"num_threads must be positive, or None for all cores, got {threads}")
    with pytest.raises(ValueError, match=message):
        tok.encode(CHUNKS, threads)
    with pytest.raises(ValueError, match=message):
        tok.decode([[1]], num_threads=threads)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1.5, 2.0]], "sequence 0: expected integers, got dtype float64"),
        ([[1], ["a"]], "sequence 1: expected integers, got dtype <U1"),
        ([[1], [[2]]], "sequence 1: expected rank 1, got shape (1, 1)"),
        ([1, 2, 3], "sequence 0: expected rank 1, got shape (); for one sequence of ids pass [ids]"),
        (np.array([1, 2, 3]), "token ids: expected rank 2, got shape (3,); for one sequence of ids pass [ids]"),
        (np.ones((2, 3)), "token ids: expected integers, got dtype float64"),
        (np.ones((2, 3), bool), "token ids: expected integers, got dtype bool"),
    ],
)
def test_what_are_no_tokens_is_refused(tok, tokens, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        tok.decode(tokens)


def test_a_mask_must_fit_its_padded_array(tok):
    with pytest.raises(ValueError, match=exact_match("mask has shape (2, 4), the token ids (2, 3)")):
        tok.decode(np.ones((2, 3), int), mask=np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="a TokenBatch has none"):
        tok.decode(TokenBatch.from_lists([[1]]), mask=np.ones((1, 1), bool))


# ---- Python's own ------------------------------------------------------------------------------------


def test_nothing_is_printed(tok, tmp_path, capfd):
    fit(CHUNKS, 128)
    tok.decode(tok.encode(CHUNKS))
    tok.decode_with_status([[-1], []])
    with pytest.raises(DecodeError):
        tok.decode([[-1]])
    with pytest.warns(DecodeRepairWarning):
        tok.decode([[-1]], errors="repair")
    with pytest.raises(ValueError, match="NaN"):
        tok.encode(np.full((1, T, D), np.nan))
    tok.save(tmp_path)
    FastTokenizer.load(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_equality_is_that_of_the_artefacts(tok, tmp_path):
    tok.save(tmp_path)
    loaded, other = FastTokenizer.load(tmp_path), fit(CHUNKS, 127)
    assert tok == loaded
    assert hash(tok) == hash(loaded)
    assert tok != other
    assert len({tok, loaded, other}) == 2
    assert tok != tok.fingerprint()
    assert (tok == None) is False  # noqa: E711


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(protocol):
    tok = fit(raw_chunks(), 512, normalize="quantile", clip=0.7)
    again = pickle.loads(pickle.dumps(tok, protocol))
    assert again == tok
    assert again.fit_summary == tok.fit_summary
    assert same_batch(again.encode(raw_chunks()), tok.encode(raw_chunks()))


def test_copies_are_equal(tok):
    assert copy.copy(tok) == copy.deepcopy(tok) == tok


@pytest.mark.parametrize(
    "get", [lambda t: t, lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy], ids=["fitted", "unpickled", "copied"]
)
def test_merges_and_statistics_are_read_only(get):
    tok = get(fit(raw_chunks(), 512, normalize="quantile"))
    for array in (tok.merges, tok.spec.normalizer.center, tok.spec.normalizer.half_range):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_expansion_lengths_are_the_caller_s_own(tok):
    before = tok.expansion_lengths.copy()
    tok.expansion_lengths[:] = 0
    assert np.array_equal(tok.expansion_lengths, before)


@pytest.mark.parametrize("name", ["spec", "fit_summary", "vocab_size", "merges", "anything"])
def test_a_tokenizer_is_immutable(tok, name):
    with pytest.raises(AttributeError):
        setattr(tok, name, getattr(tok, name, None))


def test_repr_says_what_matters(tok):
    low, high = tok.spec.min_coefficient, tok.spec.max_coefficient
    assert repr(tok) == (
        f"FastTokenizer(vocab_size=128, scale=10.0, coefficients={low}..{high}, "
        "time_horizon=20, action_dim=3, normalizer=None)"
    )
    assert "normalizer=quantile" in repr(fit(CHUNKS, 512, normalize="quantile"))


def test_coefficients_are_what_the_ids_stand_for(tok):
    for ids, c in zip(tok.encode(CHUNKS[:5]), CHUNKS, strict=False):
        expected = _reference.quantized_coefficients(c, tok.spec)[0].reshape(-1)
        assert tok.coefficients(ids).tolist() == expected.tolist()
    for unknown in (128, -1, -5, 2**31 - 1, 2**31, 2**40):
        with pytest.raises(ValueError, match=rf"{unknown} lies outside the vocabulary 0\.\.127"):
            tok.coefficients([3, unknown])
