"""Relative actions: what is subtracted, when statistics are taken, what decode adds again, what is refused."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import FastTokenizer, Normalizer, PromptBuilder, TokenizerSpec, VlmVocab, windows
from fast_tokenizer import _reference as reference
from fast_tokenizer.compat.processor import FastProcessor
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.prefix import decode_prefix
from fast_tokenizer.relative import Relative
from fast_tokenizer.text import TextEncoder

KINDS = ("quantile", "min-max", "mean-std", "identity")
RNG = np.random.default_rng(0)
N, T, D, S = 60, 12, 4, 6
#: Far from 0 and drifting, so that relative and absolute statistics differ by much.
STATE = RNG.normal(0, 20, (N, S)) + 100
CHUNKS = np.cumsum(RNG.normal(0, 0.1, (N, T, D)), axis=1) + STATE[:, None, :D]
RULE = Relative((0, 2), (0, 2), S)


def exactly(message):
    return f"^{re.escape(message)}$"


def subtracted(chunks=CHUNKS, state=STATE, dimensions=(0, 2), columns=(0, 2)):
    """By the definition, value by value."""
    relative = chunks.astype(np.float64)
    for n in range(len(chunks)):
        for d, c in zip(dimensions, columns, strict=True):
            for t in range(chunks.shape[1]):
                relative[n, t, d] = float(chunks[n, t, d]) - float(state[n, c])
    return relative


def assert_near(actions, expected):
    """Relative dimensions have the finer steps, as their statistics are narrower by far."""
    error = np.abs(actions - expected)
    assert error[..., [0, 2]].max() < 0.2
    assert error.max() < 10


@pytest.fixture(scope="module")
def tok():
    return FastTokenizer.fit(CHUNKS, 2000, normalize="quantile", relative=[0, 2], state=STATE)


# ---- The rule ----------------------------------------------------------------------------------------


def test_the_state_at_the_start_is_subtracted_from_every_step_of_chosen_dimensions():
    assert (RULE.subtract(CHUNKS, STATE) == subtracted()).all()
    crossed = Relative((1, 3), (5, 0), S)
    assert (crossed.subtract(CHUNKS, STATE) == subtracted(dimensions=(1, 3), columns=(5, 0))).all()


def test_the_readable_reference_agrees(tok):
    for chunk, state, ids in zip(CHUNKS[:5], STATE, tok.encode(CHUNKS[:5], state=STATE[:5]), strict=False):
        assert reference.encode(chunk, tok.spec, state=state).ids == ids.tolist()
        decoded = reference.decode(ids.tolist(), tok.spec, T, D, state=state).chunk
        np.testing.assert_allclose(tok.decode([ids], state=state[None])[0], decoded, rtol=0, atol=1e-9)


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.sets(st.integers(0, 2), min_size=1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_round_trip_for_any_rule(count, horizon, dimensions, seed, single):
    """Within half a step a coefficient, wherever the robot stands."""
    rng = np.random.default_rng(seed)
    columns = tuple(int(c) for c in rng.integers(0, 4, len(dimensions)))
    rule = Relative(tuple(sorted(dimensions)), columns, 4)
    state = rng.normal(0, 1000, (count, 4)).astype(np.float32 if single else np.float64)
    moved = rng.uniform(-1, 1, (count, horizon, 3))
    moved[:, :, rule.dimensions] += state[:, None, columns]
    spec = TokenizerSpec(10.0, -60, 60, np.array([[60, 60]]), action_dim=3, relative=rule)
    tok = FastTokenizer(spec)
    back = tok.decode(tok.encode(moved, state=state), time_horizon=horizon, state=state)
    assert np.abs(back - moved).max() <= 0.05 * np.sqrt(horizon) + 1e-9


def test_an_offset_of_state_and_actions_changes_no_token(tok):
    """What relative actions are for."""
    moved = STATE + np.array([1024.0, 0, -512.0, 0, 7, 7])
    chunks = CHUNKS + np.array([1024.0, 0, -512.0, 0])
    fixed = FastTokenizer(dataclasses.replace(tok.spec, normalizer=None, scale=1000.0))
    assert fixed.encode(chunks, state=moved).to_list() == fixed.encode(CHUNKS, state=STATE).to_list()
    assert fixed.encode(CHUNKS, state=moved).to_list() != fixed.encode(CHUNKS, state=STATE).to_list()


def test_each_chunk_goes_with_its_own_state(tok):
    order = RNG.permutation(N)
    shuffled = tok.encode(CHUNKS[order], state=STATE[order])
    assert shuffled.to_list() == [tok.encode(CHUNKS[i : i + 1], state=STATE[i : i + 1])[0].tolist() for i in order]
    actions = tok.decode(shuffled, state=STATE[order])
    assert (actions == tok.decode(tok.encode(CHUNKS, state=STATE), state=STATE)[order]).all()


# ---- Statistics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_taken_after_the_subtraction(kind):
    tok = FastTokenizer.fit(CHUNKS, 4000, scale=2.0, normalize=kind, relative=[0, 2], state=STATE)
    expected = Normalizer.fit(subtracted(), kind)
    assert (tok.spec.normalizer.center == expected.center).all()
    assert (tok.spec.normalizer.half_range == expected.half_range).all()
    if kind != "identity":
        before = Normalizer.fit(CHUNKS, kind)
        assert (before.half_range[[0, 2]] > 10 * expected.half_range[[0, 2]]).all()
        assert (before.half_range[[1, 3]] == expected.half_range[[1, 3]]).all()


@pytest.mark.parametrize(("kind", "clip"), [*((k, c) for k in KINDS for c in (None, 0.5)), (None, None)])
def test_fit_and_use_see_the_same_numbers(kind, clip):
    """Fitting on these chunks is fitting on relative ones; so is encoding, with the same values clipped."""
    options = {"vocab_size": 6000, "normalize": kind, "clip": clip}
    tok = FastTokenizer.fit(CHUNKS, relative=RULE, state=STATE, **options)
    plain = FastTokenizer.fit(subtracted(), **options)
    assert tok.without_relative() == plain
    assert tok != plain
    got, expected = tok.encode(CHUNKS, state=STATE), plain.encode(subtracted())
    assert got.to_list() == expected.to_list()
    assert got.saturated.sum() == tok.fit_summary.saturated == 0
    assert got.clipped.sum() == tok.fit_summary.clipped == expected.clipped.sum()
    assert (clip is None) == (tok.fit_summary.clipped == 0)


def as_list(chunks):
    return list(chunks)


def as_ragged(chunks):
    return [c[: T - i % 3] for i, c in enumerate(chunks)]


class Again:
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        return iter(np.split(self.chunks, 6))


@pytest.mark.parametrize("values", [1, 7 * T * D, 1 << 22])
@pytest.mark.parametrize("form", [np.array, as_list, Again, iter, as_ragged], ids=lambda f: f.__name__)
def test_every_form_of_chunks_is_fitted_alike(form, values, monkeypatch):
    monkeypatch.setattr("fast_tokenizer.chunk._BLOCK_VALUES", values)
    tok = FastTokenizer.fit(form(CHUNKS), 2000, normalize="quantile", relative=[0, 2], state=STATE)
    plain = FastTokenizer.fit(form(subtracted()), 2000, normalize="quantile")
    assert tok.without_relative() == plain
    assert tok.spec.relative == RULE


def test_a_sample_keeps_chunks_and_states_together():
    tok = FastTokenizer.fit(CHUNKS, 2000, normalize="min-max", relative=[0, 2], state=STATE, max_chunks=20)
    assert tok.spec.normalizer.half_range[[0, 2]].max() < 2
    assert (tok.fit_summary.chunks, tok.fit_summary.chunks_left_out) == (20, N - 20)


# ---- In the artefact, and back -----------------------------------------------------------------------


def test_decode_adds_the_state_that_encode_took_away(tok, tmp_path):
    tok.save(tmp_path)
    loaded = FastTokenizer.load(tmp_path)
    assert loaded.spec.relative == RULE
    tokens = loaded.encode(CHUNKS, state=STATE)
    back = loaded.decode(tokens, state=STATE)
    assert_near(back, CHUNKS)
    assert (loaded.decode_with_status(tokens, state=STATE)[0] == back).all()
    elsewhere = loaded.decode(tokens, state=STATE + 1)
    np.testing.assert_allclose(elsewhere - back, np.broadcast_to([1, 0, 1, 0], back.shape), rtol=0, atol=1e-9)
    # Malformed ids are the state itself, not zeros.
    repaired, status = loaded.decode_with_status([[]], state=STATE[:1])
    assert status.missing[0] == T * D
    middle = loaded.spec.normalizer.center
    np.testing.assert_allclose(repaired[0], np.tile(middle + STATE[0, :D] * [1, 0, 1, 0], (T, 1)))


def test_ragged_chunks_come_back():
    chunks = as_ragged(CHUNKS)
    tok = FastTokenizer.fit(chunks, 2000, normalize="quantile", relative=[0, 2], state=STATE)
    back = tok.decode_ragged(tok.encode(chunks, state=STATE), [len(c) for c in chunks], state=STATE)
    for a, b in zip(back, chunks, strict=True):
        assert_near(a, b)


def test_measuring_relative_chunks_is_measuring_absolute_ones(tok):
    report = evaluate(tok.without_relative(), [RULE.subtract(CHUNKS, STATE)])
    errors = tok.decode(tok.encode(CHUNKS, state=STATE), state=STATE) - CHUNKS
    np.testing.assert_allclose(report.raw_rmse, np.sqrt(np.square(errors).mean()), rtol=1e-9)


# ---- Windows of a trajectory -------------------------------------------------------------------------


def test_windows_do_not_leak_the_state_of_another_step():
    """The state is that of a window's first step: an action that follows it by 1 is relative 1 at every start."""
    from fast_tokenizer import Trajectory, cutting

    state = np.cumsum(RNG.integers(1, 50, (30, 2)), axis=0).astype(np.float64)
    trajectory = Trajectory(state + 1.0, state=state)
    rule = Relative((0, 1), (0, 1), 2)
    for stride in (1, 3, 7):
        for end in ("drop", "repeat-last"):
            cut = cutting.Cut(5, stride, end, rule)
            parts = list(cut.windows([trajectory]))
            starts = np.concatenate([p.state for p in parts])
            assert (starts == state[::stride][: len(starts)]).all()
            relative = np.concatenate(list(cut.model_chunks([trajectory])))
            assert len(relative) == cut.count(np.array([30]))[0] == len(starts)
            assert (relative[:, 0] == 1).all()
            raw = windows(trajectory.actions, 5, stride, episode_end=end)
            assert (relative == raw - state[::stride][: len(raw), None]).all()


# ---- What is refused ---------------------------------------------------------------------------------


def test_without_a_state_nothing_is_silently_absolute(tok):
    message = exactly("dimensions [0, 2] are relative to the state at the chunk's start: give state=..., shape (N, 6)")
    tokens = tok.encode(CHUNKS, state=STATE)
    for call in (
        lambda: tok.encode(CHUNKS),
        lambda: tok.decode(tokens),
        lambda: tok.decode_with_status(tokens),
        lambda: tok.decode_ragged(tokens, [T] * N),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="prefixes are decoded without a state"):
        decode_prefix(tok, tokens, 3)
    with pytest.raises(ValueError, match="the published format has no relative actions, but dimensions \\[0, 2\\]"):
        tok.save_pretrained("nowhere")
    with pytest.raises(ValueError, match="the published format has no relative actions, but dimensions \\[0, 2\\]"):
        FastProcessor(tok)


def test_a_state_that_is_not_used_is_refused():
    plain = FastTokenizer.fit(CHUNKS, 4000, normalize="quantile")
    for call in (lambda: plain.encode(CHUNKS, state=STATE), lambda: plain.decode(plain.encode(CHUNKS), state=STATE)):
        with pytest.raises(ValueError, match=exactly("this tokenizer's actions are absolute: it takes no state")):
            call()
    with pytest.raises(ValueError, match="state goes with relative"):
        FastTokenizer.fit(CHUNKS, state=STATE)
    with pytest.raises(ValueError, match="relative actions need the state at each chunk's start"):
        FastTokenizer.fit(CHUNKS, relative=[0])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (STATE[:-1], "expected a state of shape (60, 6), one of the start of each chunk, got (59, 6)"),
        (STATE[:, :4], "expected a state of shape (60, 6), one of the start of each chunk, got (60, 4)"),
        (STATE[0], "expected a state of shape (60, 6), one of the start of each chunk, got (6,)"),
        (STATE.astype(int), "state: expected float32 or float64, got dtype int64"),
        (np.ma.masked_array(STATE), "state: is a masked array; what stands under the mask cannot be used"),
    ],
    ids=["fewer", "narrower", "one", "integers", "masked"],
)
def test_other_states_are_refused(tok, state, message):
    with pytest.raises(ValueError, match=exactly(message)):
        tok.encode(CHUNKS, state=state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e101])
def test_a_state_that_is_not_finite_is_named_where_it_is_used(tok, value):
    state = STATE.copy()
    state[7, 5] = value
    assert tok.encode(CHUNKS, state=state).to_list() == tok.encode(CHUNKS, state=STATE).to_list(), (
        "column 5 is not used"
    )
    state[7, 2] = value
    message = f"chunk 7: state column 2 is {value}; the state must be finite, and lie within +-1e100"
    for call in (
        lambda: tok.encode(CHUNKS, state=state),
        lambda: FastTokenizer.fit(list(CHUNKS), relative=[0, 2], state=state),
    ):
        with pytest.raises(ValueError, match=exactly(message)):
            call()


@pytest.mark.parametrize("form", [np.array, list, Again, iter], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("states", "message"), [(59, "got 59 states, but more chunks"), (61, "61 states, but 60 chunks")]
)
def test_one_state_a_chunk(form, states, message):
    state = np.resize(STATE, (states, S))
    with pytest.raises(ValueError, match=message):
        FastTokenizer.fit(form(CHUNKS), 4000, relative=[0, 2], state=state)


@pytest.mark.parametrize(
    ("relative", "message"),
    [
        ([], "relative must name at least one dimension; None is for absolute actions"),
        ([0, 0], "relative names a dimension twice: [0, 0]"),
        ([-1], "a relative dimension must be at least 0, got -1"),
        ([4], "dimension 4 cannot be relative: the actions have 4"),
        ([6], "relative takes column 6 of the state, which has 6 columns"),
        ("0:2", "relative must be a list of dimensions, or a Relative, got '0:2'"),
        (True, "relative must be a list of dimensions, or a Relative, got True"),
    ],
)
def test_dimensions_that_there_are_not(relative, message):
    with pytest.raises(ValueError, match=exactly(message)):
        FastTokenizer.fit(CHUNKS, 4000, relative=relative, state=STATE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((2, 0), (0, 1), 3), "relative dimensions must rise, got [2, 0]"),
        (((0, 1), (0,), 3), "relative has 2 dimensions, but 1 columns of the state"),
        (((0,), (0,), 0), "state_dim must be positive, got 0"),
        (((0,), (0,), 3, ("a", "b")), "state_names must be one string per relative dimension, got ['a', 'b']"),
    ],
)
def test_rules_that_there_are_not(fields, message):
    with pytest.raises(ValueError, match=exactly(message)):
        Relative(*fields)


def test_compat_fits_have_no_relative_actions():
    with pytest.raises(ValueError, match="relative cannot be set with compat='published'"):
        FastTokenizer.fit(CHUNKS, relative=[0], state=STATE, compat="published")


def test_what_has_no_place_for_a_state_says_what_to_do(tok):
    assert tok.takes_state
    assert not tok.without_relative().takes_state
    with pytest.raises(ValueError, match=r"subtract it, and pass tokenizer\.without_relative\(\)"):
        evaluate(tok, [CHUNKS])
    letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
    builder = PromptBuilder(letters, VlmVocab.paligemma(tok.vocab_size), tokenizer=tok)
    with pytest.raises(ValueError, match=r"pass tokenizer\.encode\(chunks, state=\.\.\.\) instead of chunks"):
        builder.build(["go"], [[0.0]], CHUNKS[:1])
    assert builder.build(["go"], [[0.0]], tok.encode(CHUNKS[:1], state=STATE[:1])).loss_mask.any()
