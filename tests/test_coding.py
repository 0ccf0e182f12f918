"""Order, ends of blocks, parsing and dead zone: each exact and total, and known to all that reads tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_tokenizer import DecodeError, FastTokenizer, TokenizerSpec, _reference
from fast_tokenizer.compat import FastProcessor
from fast_tokenizer.constrained import ActionGrammar
from fast_tokenizer.layout import place
from fast_tokenizer.prefix import decode_prefix, decode_prefixes

T, D = 8, 3
CHUNKS = np.cumsum(np.random.default_rng(0).normal(0, 0.06, (200, T, D)), axis=1)
CHUNKS[:40, :, 1] = 0.25  # dimensions that are still
LAYOUTS = {
    "plain": {},
    "chunk": {"end_of_block": "chunk"},
    "dimension-first": {"order": "dimension-first"},
    "dimension-first, chunk": {"order": "dimension-first", "end_of_block": "chunk"},
    "dimension-first, dimension": {"order": "dimension-first", "end_of_block": "dimension"},
}
#: What `fit` takes, all of it, by name; its own default is "chunk".
PLAIN = {"order": "frequency-first", "end_of_block": None, "levels_beyond": 0}
LAYOUTS = {name: PLAIN | layout for name, layout in LAYOUTS.items()}
CODINGS = LAYOUTS | {
    f"{name}, optimal, dead zone": {**layout, "parsing": "optimal", "dead_zone": 0.7}
    for name, layout in LAYOUTS.items()
}


WITH_LEVELS = {
    f"{name}, levels": CODINGS[name] | {"levels_beyond": 3} for name in ("plain", "chunk", "dimension-first")
}


@pytest.fixture(scope="module", params=CODINGS | WITH_LEVELS)
def tok(request):
    return FastTokenizer.fit(CHUNKS, vocab_size=96, scale=4, **(CODINGS | WITH_LEVELS)[request.param])


# ---- Fitting -----------------------------------------------------------------------------------------


def test_the_merges_are_those_of_the_reference(tok):
    low, high = tok.spec.min_coefficient, tok.spec.max_coefficient
    bare = TokenizerSpec(4.0, low, high, np.empty((0, 2)), **coding_of(tok.spec))
    sequences = [_reference.arrange(_reference.quantize(chunk, bare).symbols, bare) for chunk in CHUNKS]
    expected = _reference.train_bpe(sequences, bare.alphabet_size, 96)
    assert tok.merges.tolist() == [list(pair) for pair in expected]
    assert tok.vocab_size == bare.alphabet_size + len(expected) > 80


def coding_of(spec):
    return {name: getattr(spec, name) for name in ("order", "end_of_block", "parsing", "dead_zone", "levels_beyond")}


@pytest.mark.parametrize("factor", [1, 1.7, 4])
def test_the_ids_are_those_of_the_reference(tok, factor):
    """Also where motions are larger than those that were fitted on."""
    batch = tok.encode(CHUNKS * factor)
    for chunk, ids, saturated in zip(CHUNKS * factor, batch, batch.saturated, strict=True):
        expected = _reference.encode(chunk, tok.spec)
        assert (ids.tolist(), int(saturated)) == (expected.ids, expected.saturated)
    assert batch.saturated.any() == (factor > 1)
    for ids, chunk in zip(batch, tok.decode(batch), strict=True):
        np.testing.assert_allclose(chunk, _reference.decode(ids.tolist(), tok.spec, T, D).chunk, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 1.7, 4])
def test_what_was_decoded_is_encoded_to_the_same_ids(tok, factor):
    batch = tok.encode(CHUNKS * factor)
    decoded = tok.decode(batch)
    again = tok.encode(decoded)
    assert again.to_list() == batch.to_list()
    assert tok.decode(again).tobytes() == decoded.tobytes()


def test_saturation_ends_no_block_in_the_corpus_that_encoding_would_not(tok):
    """The fitted range of a layout with ends has -1..1 at least: what saturates does not become 0."""
    slopes = np.linspace(1, 0, T)[:, None] * np.ones(D)  # whose coefficients are mostly positive
    chunks = np.concatenate([np.tile(slopes, (500, 1, 1)), -slopes[None]])
    coding = {k: v for k, v in coding_of(tok.spec).items() if k != "parsing"}
    fitted = FastTokenizer.fit(chunks, vocab_size=64, scale=4, range_quantile=0.99, **coding)
    assert fitted.fit_summary.saturated > 0
    assert fitted.spec.min_coefficient == (0 if fitted.spec.end_of_block is None else -1)
    sequences = [_reference.arrange(_reference.quantize(c, fitted.spec).symbols, fitted.spec) for c in chunks]
    expected = _reference.train_bpe(sequences, fitted.spec.alphabet_size, fitted.vocab_size)
    assert fitted.merges.tolist() == [list(pair) for pair in expected]


def test_the_end_of_a_block_takes_an_id():
    T = 5
    chunks = np.zeros((3, T, 1))
    chunks[:, :, 0] = [1.0, 0.0, 0.0, 0.0, 0.0]
    for end_of_block, ids in ((None, 0), ("chunk", 1)):
        tok = FastTokenizer.fit(chunks, vocab_size=64, scale=1.0, min_frequency=100, end_of_block=end_of_block)
        assert tok.spec.levels_beyond == 0
        low, high = tok.spec.coefficient_range
        assert tok.vocab_size == high - low + 1 + ids
        assert tok.spec.end_symbol == (None if ids == 0 else high - low + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "time-first"}, r"order must be one of \('frequency-first', 'dimension-first'\), got 'time-first'"),
        ({"end_of_block": "step"}, r"end_of_block must be one of \('chunk', 'dimension'\) or None, got 'step'"),
        ({"end_of_block": "dimension"}, "end_of_block='dimension' goes with order='dimension-first'"),
        ({"parsing": "greedy"}, r"parsing must be one of \('bpe', 'optimal'\), got 'greedy'"),
        ({"dead_zone": 1.0}, r"dead_zone must lie in \[0.5, 0.99\], got 1.0"),
        ({"dead_zone": float("nan")}, r"dead_zone must lie in \[0.5, 0.99\], got nan"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FastTokenizer.fit(CHUNKS, **options)


def test_levels_beyond_the_range():
    spec = TokenizerSpec(1.0, -5, 12, np.empty((0, 2)), levels_beyond=3, end_of_block="chunk")
    assert spec.levels[:18].tolist() == [*range(-5, 13)]
    assert spec.levels[18:].tolist() == [16, 20, 24, -7, -9, -11]
    assert (spec.coefficient_range, spec.end_symbol, spec.alphabet_size) == ((-11, 24), 24, 25)
    tok = FastTokenizer(spec)
    values = np.array([12.4, 13, 13.8, 14.2, 18.1, 24.4, 99, -5.9, -6.2, -7.9, -8.1, -11.4, -99])
    decoded = tok.decode(tok.encode(values.reshape(-1, 1, 1)), 1, 1).reshape(-1)
    assert decoded.tolist() == [12, 12, 16, 16, 20, 24, 24, -7, -7, -9, -9, -11, -11]
    assert tok.encode(values.reshape(-1, 1, 1)).saturated.tolist() == [0] + [1] * 12


def test_levels_bring_back_what_left_the_range():
    """A motion 1.9 times as large as those that were fitted on."""
    plain = FastTokenizer.fit(CHUNKS, 1024, levels_beyond=0)
    levels = FastTokenizer.fit(CHUNKS, 1024)
    assert levels.spec.levels_beyond == 8
    larger = CHUNKS * 1.9
    lost, kept = (np.sqrt(np.square(t.decode(t.encode(larger)) - larger).mean()) for t in (plain, levels))
    inside = np.sqrt(np.square(levels.decode(levels.encode(CHUNKS)) - CHUNKS).mean())
    assert kept < 2 * inside < lost


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"vocab_size": 2048}, 16),
        ({"vocab_size": 127}, 0),
        ({"vocab_size": 1024, "levels_beyond": 0}, 0),
        ({"vocab_size": 1024, "levels_beyond": 100}, 100),
    ],
)
def test_the_number_of_levels(options, expected):
    assert FastTokenizer.fit(CHUNKS, scale=4, **options).spec.levels_beyond == expected


def test_levels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="symbols do not fit vocab_size=96"):
        FastTokenizer.fit(CHUNKS, 96, scale=4, levels_beyond=45)
    with pytest.raises(ValueError, match=r"levels_beyond reach -10..24000, beyond \+-16382"):
        TokenizerSpec(1.0, -5, 12_000, np.empty((0, 2)), levels_beyond=1)


# ---- What each is for --------------------------------------------------------------------------------


def test_each_option_takes_fewer_tokens_of_smooth_motion():
    rng = np.random.default_rng(1)
    time = np.linspace(0, 1, 50)[:, None]
    chunks = np.sin(2 * np.pi * (rng.uniform(0, 2, (600, 1, 6)) * time + rng.uniform(0, 1, (600, 1, 6))))
    chunks *= rng.uniform(0, 1, (600, 1, 6))
    lengths = {
        name: FastTokenizer.fit(chunks[:500], 512, **options).encode(chunks[500:]).lengths.mean()
        for name, options in CODINGS.items()
    }
    assert lengths["chunk"] < lengths["plain"]
    assert lengths["dimension-first"] < lengths["plain"]
    assert lengths["dimension-first, dimension"] < lengths["dimension-first"]
    for name in LAYOUTS:
        assert lengths[f"{name}, optimal, dead zone"] < lengths[name]


def test_optimal_parsing_never_takes_more_tokens():
    for name, layout in LAYOUTS.items():
        greedy = FastTokenizer.fit(CHUNKS, 96, 4, **layout)
        optimal = FastTokenizer.fit(CHUNKS, 96, 4, **layout, parsing="optimal")
        assert np.array_equal(greedy.merges, optimal.merges)
        batch = optimal.encode(CHUNKS)
        assert (batch.lengths <= greedy.encode(CHUNKS).lengths).all(), name
        assert np.array_equal(greedy.decode(batch), optimal.decode(batch))


def test_a_dead_zone_zeroes_what_is_below_it_and_rounds_the_rest():
    scaled = np.array([0.49, 0.51, 0.69, 0.71, 1.49, 1.51, -0.51, -0.69, -0.71, -1.51])
    chunks = scaled.reshape(-1, 1, 1) / 10  # T = 1: the only coefficient is the value
    spec = TokenizerSpec(10.0, -2, 2, np.empty((0, 2)), dead_zone=0.7)
    coefficients = FastTokenizer(spec).encode(chunks).ids - 2
    assert coefficients.tolist() == [0, 0, 0, 1, 1, 2, 0, 0, -1, -2]


# ---- Symbols in their places -------------------------------------------------------------------------


@settings(max_examples=200)
@given(data=st.data())
def test_symbols_are_placed_as_the_reference_does(data):
    layout = data.draw(st.sampled_from([*LAYOUTS.values()]))
    spec = TokenizerSpec(1.0, -2, 2, np.empty((0, 2)), **layout)
    T, D = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    symbols = data.draw(st.lists(st.integers(0, spec.alphabet_size - 1), max_size=T * D + 3))
    placed = place(np.array(symbols, np.int32), spec, T, D)
    expected = _reference.rearrange(symbols, spec, T, D)
    assert placed.coefficients.tolist() == (expected.symbols - 2).tolist()
    assert (placed.missing, placed.extra) == (expected.missing, expected.extra)
    for n in range(len(symbols) + 1):  # what a beginning says is what is placed by its symbols
        beginning = _reference.rearrange(symbols[:n], spec, T, D)
        known = (placed.symbol >= 0) & (placed.symbol < n)
        assert np.where(known, placed.coefficients, 0).tolist() == (beginning.symbols - 2).tolist()
        assert (~known).sum() == beginning.missing


def test_coefficients_are_those_of_the_chunk(tok):
    for chunk, ids in zip(CHUNKS[:20], tok.encode(CHUNKS[:20]), strict=True):
        expected = _reference.quantized_coefficients(chunk, tok.spec)[0].reshape(-1)
        assert tok.coefficients(ids).tolist() == expected.tolist()


def test_coefficients_of_what_is_no_chunk(tok):
    ids = tok.encode(CHUNKS[:1])[0]
    if tok.spec.has_plain_layout:
        assert len(tok.coefficients(ids[:-1])) < T * D
        return
    with pytest.raises(ValueError, match=r"^the ids are no chunk: \d+ coefficients missing, 0 symbols too many$"):
        tok.coefficients(ids[:-1])
    with pytest.raises(ValueError, match="0 coefficients missing, 1 symbols too many"):
        tok.coefficients([*ids, 0])
    with pytest.warns(UserWarning, match="repaired"):
        repaired = tok.coefficients([*ids, 0], errors="repair")
    assert repaired.tolist() == tok.coefficients(ids).tolist()


def test_the_text_of_a_processor_is_frequency_first(tok):
    processor = FastProcessor(tok)
    ids = processor(CHUNKS[:1])[0]
    text = processor.bpe_tokenizer.decode(ids)
    expected = _reference.quantized_coefficients(CHUNKS[0], tok.spec)[0].reshape(-1)
    assert [ord(ch) + processor.min_token for ch in text] == expected.tolist()
    processor.time_horizon = None
    if tok.spec.has_plain_layout:
        assert processor.bpe_tokenizer.decode(ids) == text
    else:
        with pytest.raises(ValueError, match="time_horizon"):
            processor.bpe_tokenizer.decode(ids)


def test_the_published_format_refuses_what_it_cannot_say(tok, tmp_path):
    if tok.spec.has_plain_layout and tok.spec.parsing == "bpe" and tok.spec.levels_beyond == 0:
        tok.save_pretrained(tmp_path / "x")
        assert FastTokenizer.load(tmp_path / "x") == tok
        return
    with pytest.raises(ValueError, match="the published format knows only"):
        tok.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---- Beginnings --------------------------------------------------------------------------------------


def test_beginnings_hold_what_their_symbols_say(tok):
    for chunk, ids in zip(CHUNKS[:10], tok.encode(CHUNKS[:10]), strict=True):
        prefixes = decode_prefixes(tok, ids)
        assert len(prefixes) == len(ids) + 1
        for k, prefix in enumerate(prefixes):
            expected = _reference.decode(ids[:k].tolist(), tok.spec, T, D).chunk
            np.testing.assert_allclose(prefix, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(decode_prefix(tok, [ids], k)[0], expected, rtol=0, atol=1e-12)
        assert np.abs(prefixes[-1] - chunk).max() < 1


def test_beginnings_of_no_chunk_are_refused(tok):
    ids = tok.encode(CHUNKS[:1])[0]
    with pytest.raises(DecodeError, match="too many symbols"):
        decode_prefixes(tok, [*ids, 0])


# ---- What may come next ------------------------------------------------------------------------------


def decodes(tok, ids):
    return bool(tok.decode_with_status([ids])[1].ok[0])


def test_whatever_the_grammar_allows_decodes_strictly(tok):
    grammar = ActionGrammar.of(tok)
    rng = np.random.default_rng(0)
    lengths = tok.expansion_lengths
    for choose in (rng.choice, lambda a: max(a, key=lambda i: lengths[i]), lambda a: min(a, key=lambda i: lengths[i])):
        for _ in range(10):
            ids, states = [], grammar.start()
            while not grammar.done(states)[0]:
                allowed = np.flatnonzero(grammar.mask(states)[0])
                assert len(allowed), "dead end"
                ids.append(int(choose(allowed)))
                states = grammar.advance(states, ids[-1:])
            assert decodes(tok, ids)
            assert grammar.accepts(ids)
            assert not grammar.accepts(ids[:-1])
            assert not grammar.accepts([*ids, ids[0]])


def test_the_grammar_allows_an_id_if_and_only_if_a_chunk_can_follow(tok):
    """It can if the ids so far have no symbol too many: the rest can always be written with single ones."""
    grammar = ActionGrammar.of(tok)
    rng = np.random.default_rng(1)
    for _ in range(20):
        ids, states = [], grammar.start()
        while not grammar.done(states)[0]:
            extra = tok.decode_with_status([[*ids, i] for i in range(tok.vocab_size)])[1].extra
            np.testing.assert_array_equal(grammar.mask(states)[0], extra == 0)
            ids.append(int(rng.choice(np.flatnonzero(extra == 0))))
            states = grammar.advance(states, ids[-1:])


def test_the_grammar_accepts_exactly_what_decodes_strictly(tok):
    grammar = ActionGrammar.of(tok)
    rng = np.random.default_rng(2)
    accepted = 0
    for ids in tok.encode(CHUNKS).to_list():
        for _ in range(rng.integers(3)):
            ids[int(rng.integers(len(ids)))] = int(rng.integers(tok.vocab_size))
        accepted += grammar.accepts(ids)
        assert grammar.accepts(ids) == decodes(tok, ids)
    assert 30 < accepted < 190


def test_the_grammar_keeps_to_a_number_of_ids(tok):
    fewest = int(ActionGrammar.of(tok).fewest[0, -1])
    grammar = ActionGrammar.of(tok, max_tokens=fewest + 2)
    rng = np.random.default_rng(3)
    for _ in range(30):
        ids, states = [], grammar.start()
        while not grammar.done(states)[0]:
            ids.append(int(rng.choice(np.flatnonzero(grammar.mask(states)[0]))))
            states = grammar.advance(states, ids[-1:])
        assert len(ids) <= fewest + 2
        assert decodes(tok, ids)
    with pytest.raises(ValueError, match=f"takes at least {fewest} ids"):
        ActionGrammar.of(tok, max_tokens=fewest - 1)


def test_a_refused_id_is_explained(tok):
    grammar = ActionGrammar.of(tok)
    ids = tok.encode(CHUNKS[:1])[0]
    with pytest.raises(ValueError, match=r"token id 0 may not come here: it begins \d+ symbols.*, 0 of 24 remain"):
        grammar.advance(grammar.state_after([ids]), [0])


def test_a_language_model_writes_chunks(tok):
    from fast_tokenizer.generation import ActionLogitsProcessor

    grammar = ActionGrammar.of(tok)
    processor = ActionLogitsProcessor(grammar, range(10, 10 + tok.vocab_size), end=[1], prompt_length=2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((8, 2), 5)
    for _ in range(processor.max_new_tokens):
        scores = processor(ids, torch.randn(8, 200, generator=generator))
        written = processor.token_ids(ids)
        for row in range(8):
            states = grammar.state_after([written[row]])
            expected = np.flatnonzero(grammar.mask(states)[0]) + 10 if not grammar.done(states)[0] else [1]
            assert np.flatnonzero(scores[row].isfinite().numpy()).tolist() == list(expected)
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    assert tok.decode(processor.token_ids(ids)).shape == (8, T, D)
