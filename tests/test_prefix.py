"""Actions from the first tokens, and the errors that are left."""

import re

import numpy as np
import pytest
from scipy.fft import idct

from fast_tokenizer import DecodeError, FastTokenizer, TokenizerSpec, _reference, metrics
from fast_tokenizer.prefix import FRACTIONS, decode_prefix, decode_prefixes, prefix_errors
from tests.byte_level import ByteLevel

N, T, D = 60, 20, 3
CHUNKS = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (N, T, D)), axis=1) * [1, 3, 0.5] + [0, 40, -2]
NORMALIZED = (CHUNKS - CHUNKS.mean(axis=(0, 1))) / 2


@pytest.fixture(scope="module", params=["raw units", "scale per dimension", "default", "fast_plus"])
def case(request):
    """A tokenizer and chunks for it."""
    if request.param == "raw units":
        return FastTokenizer.fit(CHUNKS, 256, normalize="quantile"), CHUNKS
    if request.param == "scale per dimension":
        return FastTokenizer.fit(NORMALIZED, 256, [5.0, 10.0, 20.0]), NORMALIZED
    if request.param == "default":
        return FastTokenizer.default(), NORMALIZED
    folder = request.getfixturevalue("shared_data") / "fast_artifacts" / "fast_plus"
    return FastTokenizer.from_pretrained(folder), NORMALIZED


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1, np.abs(b).max()))


# ---- Actions -------------------------------------------------------------------------------------------


def test_all_tokens_give_what_decode_gives(case):
    tok, chunks = case
    batch = tok.encode(chunks)
    expected = tok.decode(batch, T, D)
    close(decode_prefix(tok, batch, int(batch.lengths.max()), T, D), expected)
    close(decode_prefix(tok, batch, 10**6, T, D), expected)
    for ids, actions in zip(batch, expected, strict=True):
        close(decode_prefixes(tok, ids, T, D)[-1], actions)


def test_each_prefix_is_the_whole_with_later_coefficients_zero(case):
    """By a way of its own: symbols that are whole in the first k tokens stay, the rest is zero."""
    tok, chunks = case
    scale, normalizer = tok.spec.scale, tok.spec.normalizer
    for ids in tok.encode(chunks[:5]):
        prefixes = decode_prefixes(tok, ids, T, D)
        assert prefixes.shape == (len(ids) + 1, T, D)
        for k, actions in enumerate(prefixes):
            if isinstance(tok.spec, TokenizerSpec):
                symbols = tok.symbols(ids[:k]).tolist()
                coefficients = _reference.rearrange(symbols, tok.spec, T, D).symbols + tok.spec.min_coefficient
            else:
                begun = tok.expansion_lengths[ids[:k]].sum()
                if k < len(ids):
                    begun -= tok.spec.token_bytes[ids[k]][0] & 0xC0 == 0x80  # the next id ends a character
                coefficients = np.where(np.arange(T * D) < begun, tok.coefficients(ids), 0).reshape(T, D)
            expected = idct(coefficients / scale, axis=0, norm="ortho")
            close(actions, expected if normalizer is None else normalizer.invert(expected))
            close(decode_prefix(tok, [ids], k, T, D)[0], actions)


def test_prefixes_are_what_repairing_gives_unless_it_clamps(case):
    tok, chunks = case
    batch = tok.encode(chunks)
    for k in (0, 1, 7):
        repaired, status = tok.decode_with_status([ids[:k] for ids in batch], T, D)
        same = status.clamped == 0
        assert same.sum() > len(batch) / 2
        close(decode_prefix(tok, batch, k, T, D)[same], repaired[same])


def test_an_unfinished_character_is_ignored(shared_data):
    tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    single = {spelled: i for i, spelled in enumerate(tok.spec.token_bytes) if len(spelled) == 1}
    coefficients = [2, 0, 5000, -300, 300, 70]  # two, two, three, one, two and two bytes, an id each
    text = "".join(chr(c - tok.spec.min_token) for c in coefficients)
    ids = [single[bytes([byte])] for byte in text.encode()]
    assert len(ids) == 2 + 2 + 3 + 1 + 2 + 2
    prefixes = decode_prefixes(tok, ids, 1, 6)
    ends = np.cumsum([2, 2, 3, 1, 2, 2])
    for k, actions in enumerate(prefixes):
        whole = (ends <= k).sum()
        close(actions[0], np.array(coefficients[:whole] + [0] * (6 - whole)) / 10)
        close(decode_prefix(tok, [ids[:k]], k, 1, 6)[0], actions)
    oracle = ByteLevel.load(shared_data, "fast_plus")
    assert [oracle.tokenizer.decode(ids[:k]).rstrip("\ufffd") for k in (2, 5, 7)] == [text[:1], text[:2], text[:3]]


def test_beginnings_that_are_cut_off_are_no_error(case):
    tok, chunks = case
    batch = tok.encode(chunks[:3])
    cut = [ids[:4] for ids in batch]
    close(decode_prefix(tok, cut, 9, T, D), decode_prefix(tok, batch, 4, T, D))
    assert decode_prefix(tok, [], 3, T, D).shape == (0, T, D)
    zero = decode_prefix(tok, batch, 0, T, D)
    close(zero, np.broadcast_to(zero[0, 0], zero.shape))


def test_tokens_that_begin_no_chunk_are_refused(case):
    tok, chunks = case
    batch = tok.encode(chunks[:2]).to_list()
    V = tok.vocab_size
    extra = tok.decode_with_status([batch[1] + batch[0]], T, D)[1].extra[0]
    for bad, reason in (
        ([batch[0], [0, V]], f"chunk 1: unknown token id: got {V}, expected 0..{V - 1}"),
        ([batch[0], [-1]], f"chunk 1: unknown token id: got -1, expected 0..{V - 1}"),
        ([batch[0], batch[1] + batch[0]], f"chunk 1: too many symbols: got {60 + extra}, expected exactly 60"),
    ):
        with pytest.raises(DecodeError, match=f"^{re.escape(reason)}"):
            decode_prefix(tok, bad, 10**6, T, D)
    assert decode_prefix(tok, [[0, V]], 1, T, D).shape == (1, T, D), "what is not read is not checked"
    with pytest.raises(ValueError, match=r"^k must be at least 0, got -1$"):
        decode_prefix(tok, batch, -1, T, D)
    for k in (2.5, None, np.arange(2)):
        with pytest.raises(ValueError, match=rf"^k must be an integer, got {re.escape(repr(k))}$"):
            decode_prefix(tok, batch, k, T, D)
    with pytest.raises(ValueError, match="expected rank 1"):
        decode_prefixes(tok, batch[:1] * 2, T, D)


def test_broken_characters_are_refused(shared_data):
    tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    single = {spelled: i for i, spelled in enumerate(tok.spec.token_bytes) if len(spelled) == 1}
    for broken in (b"\xc3a", b"\x80", b"a\xff"):
        with pytest.raises(DecodeError, match=r"^chunk 0: broken characters: got 1, expected exactly 0"):
            decode_prefixes(tok, [single[bytes([byte])] for byte in broken], 2, 3)


# ---- Errors --------------------------------------------------------------------------------------------


def test_the_curve_ends_at_the_error_of_the_whole(case):
    tok, chunks = case
    errors = prefix_errors(tok, [chunks[:10], chunks[10:]])
    report = metrics.evaluate(tok, [chunks])
    np.testing.assert_array_equal(errors.lengths, tok.encode(chunks).lengths)
    for curve in (errors.by_tokens, errors.by_fraction):
        assert curve.decoded_rmse[-1] < 1e-12
        assert curve.decoded_max_abs_error[-1] < 1e-12
        assert curve.actions_rmse[-1] == pytest.approx(report.reconstruction_rmse)
        assert curve.actions_max_abs_error[-1] == pytest.approx(report.reconstruction_max_abs_error)
        assert (np.diff(curve.decoded_rmse) <= 1e-12).all(), "the transform keeps lengths: no coefficient is in vain"
        assert curve.decoded_rmse[0] == pytest.approx(errors.by_tokens.decoded_rmse[0])
    assert errors.by_tokens.at.tolist() == list(range(report.max_token_length + 1))
    assert tuple(errors.by_fraction.at) == FRACTIONS


def test_the_curve_is_the_errors_of_all_values(case):
    """Chunks of several lengths in tokens and horizons in steps, against errors that are kept, all of them."""
    tok, chunks = case
    if tok.spec.time_horizon is None:
        blocks = [chunks[:4], chunks[4:6, :7], chunks[6:7, :1]]
    else:
        blocks = [chunks[:4], chunks[4:5]]
    unit = 1 if tok.spec.normalizer is None else 1 / tok.spec.normalizer.half_range
    errors = prefix_errors(tok, blocks)
    each = []  # (prefixes - whole, prefixes - actions) of each chunk
    for block in blocks:
        for chunk, ids in zip(block, tok.encode(block), strict=True):
            prefixes = decode_prefixes(tok, ids, *chunk.shape)
            each.append(((prefixes - prefixes[-1]) * unit, (prefixes - chunk) * unit))
    by_tokens = [[min(k, len(d) - 1) for d, _ in each] for k in range(len(errors.by_tokens.at))]
    by_fraction = [[int(np.ceil(round(f * (len(d) - 1), 6))) for d, _ in each] for f in FRACTIONS]
    assert len(set(map(tuple, by_fraction))) > 3
    for curve, places in ((errors.by_tokens, by_tokens), (errors.by_fraction, by_fraction)):
        for i, ks in enumerate(places):
            for name, which in (("decoded", 0), ("actions", 1)):
                values = np.concatenate([e[which][k].ravel() for e, k in zip(each, ks, strict=True)])
                assert getattr(curve, f"{name}_rmse")[i] == pytest.approx(np.sqrt(np.square(values).mean()))
                assert getattr(curve, f"{name}_max_abs_error")[i] == pytest.approx(np.abs(values).max())


def test_no_chunks_have_no_errors():
    with pytest.raises(ValueError, match="got no chunks to measure on"):
        prefix_errors(FastTokenizer.default(), [])


def test_blocks_without_chunks_are_passed_over():
    tok = FastTokenizer.default()
    errors = prefix_errors(tok, [NORMALIZED[:0], NORMALIZED[:3], NORMALIZED[:0], NORMALIZED[3:5]])
    np.testing.assert_array_equal(
        errors.by_tokens.actions_rmse, prefix_errors(tok, [NORMALIZED[:5]]).by_tokens.actions_rmse
    )
    with pytest.raises(ValueError, match="got no chunks to measure on"):
        prefix_errors(tok, [NORMALIZED[:0]])


def test_a_share_of_the_tokens_is_rounded_up_but_not_beyond_a_whole_one():
    """0.55 * 100 is 55.00000000000001 in floating point: 55 tokens, not 56."""
    tok = FastTokenizer(TokenizerSpec(np.array(10.0), -40, 40, np.empty((0, 2), np.int32)))
    chunks = np.random.default_rng(0).normal(0, 0.3, (5, 100, 1))  # an id a symbol
    errors = prefix_errors(tok, [chunks])
    assert errors.lengths.tolist() == [100] * 5
    assert np.ceil(FRACTIONS[11] * 100) == 56
    np.testing.assert_array_equal(errors.by_fraction.decoded_rmse, errors.by_tokens.decoded_rmse[::5])
    assert errors.by_tokens.decoded_rmse[55] > errors.by_tokens.decoded_rmse[56]


def test_chunks_that_the_vocabulary_dropped_part_of_are_refused():
    """What is left decodes to something for each of its beginnings, but it is no chunk."""
    rng = np.random.default_rng(0)
    tok = FastTokenizer.fit(np.cumsum(rng.laplace(0, 0.01, (300, 16, 3)), 1), vocab_size=256, compat="published")
    chunks = np.cumsum(rng.laplace(0, 0.05, (200, 16, 3)), 1)
    dropped = tok.encode(chunks).dropped > 0
    assert 0 < dropped.sum() < len(chunks)
    whole = chunks[~dropped]
    assert len(prefix_errors(tok, [whole]).lengths) == len(whole)
    for chunk in chunks[dropped][:20]:
        with pytest.raises(DecodeError, match=r"^chunk 1: (too few symbols|broken characters)"):
            prefix_errors(tok, [np.stack([whole[0], chunk])])
