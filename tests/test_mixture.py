"""Several embodiments under one vocabulary: fitted in proportion, encoded as each on its own, padding never encoded."""

import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import (
    ArtefactError,
    DecodeError,
    DecodeRepairWarning,
    EmbodimentData,
    FastTokenizer,
    Normalizer,
    TokenizerSpec,
)
from fast_tokenizer import format as artefact
from fast_tokenizer.constrained import ActionGrammar
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.relative import Relative

RNG = np.random.default_rng(0)
KINDS = ("quantile", "min-max", "mean-std", "identity")
SHAPES = {"droid": (15, 7), "aloha": (50, 14), "pusher": (10, 2)}
NAMES = tuple(SHAPES)
CHUNKS = {
    name: np.cumsum(RNG.normal(0, 0.2 * (i + 1), (n, *SHAPES[name])), axis=1) + 5 * i
    for i, (name, n) in enumerate(zip(NAMES, (120, 60, 200), strict=True))
}
STATE = CHUNKS["droid"][:, 0] + RNG.normal(0, 0.1, (120, 7))


def data(**changes):
    fields = {
        "droid": {"relative": [0, 1, 2], "state": STATE, "hz": 15.0, "clip": 0.9},
        "aloha": {"scale": 5.0, "hz": 50.0},
        "pusher": {"scale": (10.0, 20.0), "dimension_names": ("x", "y")},
    }
    common = {"normalize": "quantile", **changes}
    return {name: EmbodimentData(CHUNKS[name], **{**common, **fields[name]}) for name in NAMES}


@pytest.fixture(scope="module")
def tok():
    return FastTokenizer.fit_mixture(data(), 600)


def exactly(message):
    return f"^{re.escape(message)}$"


def state_of(name):
    return STATE if name == "droid" else None


def mixed(count=30, seed=1):
    """Names, chunks and states in random order."""
    rng = np.random.default_rng(seed)
    names = [NAMES[i] for i in rng.integers(0, 3, count)]
    at = [int(rng.integers(len(CHUNKS[name]))) for name in names]
    states = [STATE[i] if name == "droid" else np.zeros(0) for name, i in zip(names, at, strict=True)]
    return names, [CHUNKS[name][i] for name, i in zip(names, at, strict=True)], states


def padded(arrays, dims, fill=0.0):
    out = np.full((len(arrays), *arrays[0].shape[:-1], dims), fill)
    for row, array in zip(out, arrays, strict=True):
        row[..., : array.shape[-1]] = array
    return out


# ---- Fitting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_embodiment_is_normalised_at_use_as_it_was_at_fit(kind):
    """Of every kind, with relative actions and clipping: the same values reach the quantizer in both."""
    tok = FastTokenizer.fit_mixture(data(normalize=kind), 4000)
    for name in NAMES:
        one, summary = tok.embodiment(name), tok.fit_summary.embodiments[name]
        chunks = CHUNKS[name].copy()
        if name == "droid":
            chunks[:, :, :3] -= STATE[:, None, :3]
        expected = Normalizer.fit(chunks, kind, clip=0.9 if name == "droid" else None)
        assert (one.spec.normalizer.center == expected.center).all()
        assert (one.spec.normalizer.half_range == expected.half_range).all()
        tokens = tok.encode(CHUNKS[name], state=state_of(name), embodiment=name)
        assert tokens.clipped.sum() == summary.clipped
        assert tokens.saturated.sum() == summary.outside == 0
        assert (summary.chunks, summary.chunks_left_out) == (len(chunks), 0)
        assert summary.coefficients == chunks.size
    assert tok.fit_summary.embodiments["droid"].clipped > 0
    assert tok.fit_summary.clipped == tok.fit_summary.embodiments["droid"].clipped


def test_the_vocabulary_is_that_of_all_chunks_together():
    """Normalised beforehand and of one D, a mixture is one corpus."""
    same = np.cumsum(RNG.normal(0, 0.2, (90, 20, 3)), axis=1)
    parts = {str(i): EmbodimentData(part, normalize=None) for i, part in enumerate(np.split(same, 3))}
    both = FastTokenizer.fit_mixture(parts, 300), FastTokenizer.fit(same, 300)
    assert (both[0].merges == both[1].merges).all()
    assert both[0].spec.coefficient_range == both[1].spec.coefficient_range


def test_the_order_of_embodiments_does_not_matter():
    forwards = FastTokenizer.fit_mixture(data(), 600)
    backwards = FastTokenizer.fit_mixture(dict(reversed(data().items())), 600)
    assert (forwards.merges == backwards.merges).all()
    assert {n: forwards.embodiment(n) for n in NAMES} == {n: backwards.embodiment(n) for n in NAMES}


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 0.5), (0.2, 0.7, 0.1)])
def test_weights_are_shares_of_the_coefficients(weights):
    weighted = {n: dataclasses.replace(d, weight=w) for (n, d), w in zip(data().items(), weights, strict=True)}
    tok = FastTokenizer.fit_mixture(weighted, 600)
    summaries = tok.fit_summary.embodiments
    for name, weight in zip(NAMES, weights, strict=True):
        coefficients = SHAPES[name][0] * SHAPES[name][1]
        assert abs(summaries[name].share - weight / sum(weights)) < 0.02
        assert summaries[name].coefficients == summaries[name].chunks * coefficients
        assert summaries[name].chunks + summaries[name].chunks_left_out == len(CHUNKS[name])
    assert min(s.chunks_left_out for s in summaries.values()) == 0, "nothing is thinned more than it has to be"
    assert tok.fit_summary.chunks_left_out == sum(s.chunks_left_out for s in summaries.values())
    assert tok == FastTokenizer.fit_mixture(weighted, 600)
    assert (tok.merges.shape != FastTokenizer.fit_mixture(weighted, 600, seed=1).merges.shape) or (
        tok.merges != FastTokenizer.fit_mixture(weighted, 600, seed=1).merges
    ).any()
    everything = FastTokenizer.fit_mixture(data(), 600)
    for name in NAMES:
        a, b = (t.embodiment(name).spec.normalizer for t in (tok, everything))
        assert (a.center == b.center).all(), "statistics are of all chunks"


def one_buffer(chunks):
    """The chunks one by one, in one array that is filled again and again."""
    buffer = np.empty_like(chunks[0])
    for chunk in chunks:
        buffer[...] = chunk
        yield buffer


def test_iterators_can_be_weighted():
    as_iterators = {n: dataclasses.replace(d, weight=1, chunks=one_buffer(d.chunks)) for n, d in data().items()}
    as_arrays = {n: dataclasses.replace(d, weight=1) for n, d in data().items()}
    assert FastTokenizer.fit_mixture(as_iterators, 600) == FastTokenizer.fit_mixture(as_arrays, 600)


@pytest.mark.parametrize(
    ("embodiments", "message"),
    [
        ({}, "got no embodiments to fit on"),
        ({"a": EmbodimentData(CHUNKS["droid"], weight=0)}, "weights must be positive and finite, got [0]"),
        (
            {"a": EmbodimentData(CHUNKS["droid"], weight=1), "b": EmbodimentData(CHUNKS["aloha"])},
            "give every embodiment a weight, or none",
        ),
        (
            {"a": EmbodimentData(CHUNKS["droid"], scale=-1)},
            "embodiment 'a': scale must be finite and positive, got -1.0",
        ),
        ({"a": EmbodimentData(CHUNKS["droid"][0])}, "embodiment 'a': expected chunks of rank 3 (N, T, D), got shape "),
        ({"a": EmbodimentData([])}, "embodiment 'a': got no chunks to fit on"),
        ({"": EmbodimentData(CHUNKS["droid"])}, "an embodiment's name must be a string that is not empty, got ''"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_mixtures_name_the_embodiment(embodiments, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        FastTokenizer.fit_mixture(embodiments, 4000)


# ---- Use ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_embodiment_on_its_own(tok, name):
    one = tok.embodiment(name)
    tokens = tok.encode(CHUNKS[name], state=state_of(name), embodiment=name)
    assert one.encode(CHUNKS[name], state=state_of(name)).to_list() == tokens.to_list()
    actions = tok.decode(tokens, state=state_of(name), embodiment=name)
    assert (one.decode(tokens, state=state_of(name)) == actions).all()
    assert actions.shape == CHUNKS[name].shape
    unit = one.spec.normalizer.half_range * np.sqrt(SHAPES[name][0]) / np.min(one.spec.scale)
    assert (np.abs(actions - CHUNKS[name])[:, :, one.spec.normalizer.half_range > 0] <= unit + 1e-9).mean() > 0.9
    assert one.vocab_size == tok.vocab_size
    assert (one.merges == tok.merges).all()
    ragged = tok.decode_ragged(tokens, [SHAPES[name][0]] * len(tokens), state=state_of(name), embodiment=name)
    assert all((a == b).all() for a, b in zip(ragged, actions, strict=True))


def test_mixed_batches_are_each_chunk_on_its_own(tok):
    names, chunks, states = mixed()
    tokens = tok.encode(chunks, state=states, embodiment=names)
    actions, status = tok.decode_with_status(tokens, state=states, embodiment=names)
    assert status.ok.all()
    assert [a.shape for a in actions] == [c.shape for c in chunks]
    for i, name in enumerate(names):
        state = states[i][None] if name == "droid" else None
        alone = tok.encode(chunks[i][None], state=state, embodiment=name)
        assert tokens[i].tolist() == alone[0].tolist()
        for counted in ("saturated", "clipped", "dropped"):
            assert getattr(tokens, counted)[i] == getattr(alone, counted)[0]
        assert (actions[i] == tok.decode(alone, state=state, embodiment=name)[0]).all()
    assert all((a == b).all() for a, b in zip(tok.decode(tokens, state=states, embodiment=names), actions, strict=True))


@given(st.sampled_from([0.0, np.nan]), st.integers(0, 2**32 - 1), st.integers(14, 20))
def test_padding_is_cut_off_not_encoded(fill, seed, dims):
    """Chunks of one T and differing D, padded to a common one: the same ids as without."""
    rng = np.random.default_rng(seed)
    names = [("a", "b")[i] for i in rng.integers(0, 2, 6)]
    arrays = [rng.uniform(-1, 1, (5, {"a": 3, "b": 14}[name])) for name in names]
    a = TokenizerSpec(10.0, -60, 60, np.empty((0, 2)), None, 5, 3, relative=Relative((1,), (0,), 2), embodiment="a")
    tok = FastTokenizer(MixtureSpec((a, dataclasses.replace(a, action_dim=14, relative=None, embodiment="b"))))
    states = rng.uniform(-1, 1, (6, 2))
    expected = tok.encode(arrays, state=states, embodiment=names)
    wide_states = padded(list(states), 9, fill)
    got = tok.encode(padded(arrays, dims, fill), state=wide_states, embodiment=names)
    assert got.to_list() == expected.to_list()
    assert [len(ids) for ids in got] == [5 * (3 if name == "a" else 14) for name in names]


@pytest.mark.parametrize("value", [1e-300, -1.0, np.inf])
def test_padding_that_holds_something_is_named(value):
    a = TokenizerSpec(10.0, -60, 60, np.empty((0, 2)), None, 5, 3, embodiment="a")
    tok = FastTokenizer(MixtureSpec((a, dataclasses.replace(a, action_dim=6, embodiment="b"))))
    chunks = np.zeros((4, 5, 6))
    names = ["b", "a", "a", "b"]
    chunks[0, 3, 4] = chunks[3, 3, 5] = 1
    tok.encode(chunks, embodiment=names)
    chunks[2, 3, 4] = value
    message = (
        f"chunk 2 ('a'): padded dimension 4 holds {value} at time step 3; the embodiment has 3, and padding must be 0 "
        "or NaN"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        tok.encode(chunks, embodiment=names)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_padding_of_one_embodiment_is_cut_off_too(tok, fill):
    chunks, state = CHUNKS["droid"][:4], STATE[:4]
    wide, wide_state = (np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 3)], constant_values=fill) for a in (chunks, state))
    expected = tok.encode(chunks, state=state, embodiment="droid")
    for form in (wide, list(wide), [wide[:1], *wide[1:]]):
        got = tok.encode(form, state=wide_state, embodiment="droid")
        assert got.to_list() == expected.to_list()
    mixed_lists = tok.encode(list(wide), state=list(wide_state), embodiment=["droid"] * 4)
    assert mixed_lists.to_list() == expected.to_list()
    decoded = tok.decode(expected, state=wide_state, embodiment="droid")
    assert (decoded == tok.decode(expected, state=state, embodiment="droid")).all()
    wide[2, 3, 8] = 1
    for form in (wide, list(wide)):
        with pytest.raises(ValueError, match=r"^chunk 2 \('droid'\): padded dimension 8 holds 1.0 at time step 3"):
            tok.encode(form, state=wide_state, embodiment="droid")
    wide_state[1, 7] = 2
    with pytest.raises(ValueError, match=r"^chunk 1 \('droid'\): padded state column 7 holds 2.0"):
        tok.decode(expected, state=wide_state, embodiment="droid")


def test_padding_of_a_state_that_holds_something_is_named(tok):
    names, chunks, _ = ["droid"], [CHUNKS["droid"][0]], None
    state = padded([STATE[0]], 9)
    tok.encode(chunks, state=state, embodiment=names)
    state[0, 8] = 3
    with pytest.raises(
        ValueError,
        match=exactly(
            "chunk 0 ('droid'): padded state column 8 holds 3.0; the embodiment has 7, and padding must be 0 or NaN"
        ),
    ):
        tok.encode(chunks, state=state, embodiment=names)


def test_malformed_ids_of_a_mixed_batch_are_named_by_their_place(tok):
    names, chunks, states = mixed()
    tokens = tok.encode(chunks, state=states, embodiment=names).to_list()
    tokens[17] = tokens[17][:-1]
    tokens[23] = [*tokens[23], tok.vocab_size]
    with pytest.raises(DecodeError) as raised:
        tok.decode(tokens, state=states, embodiment=names)
    assert (raised.value.chunk, raised.value.reason) == (17, "too few symbols")
    with pytest.warns(DecodeRepairWarning, match="repaired 2 of 30 chunks; chunk 17: "):
        repaired = tok.decode(tokens, state=states, embodiment=names, errors="repair")
    _, status = tok.decode_with_status(tokens, state=states, embodiment=names)
    assert np.flatnonzero(~status.ok).tolist() == [17, 23]
    assert (status.expected == [c.size for c in chunks]).all()
    assert [a.shape for a in repaired] == [c.shape for c in chunks]


def test_mixed_batches_of_free_horizons_are_decoded_with_one_a_chunk():
    a = TokenizerSpec(10.0, -60, 60, np.empty((0, 2)), None, None, 3, relative=Relative((1,), (0,), 2), embodiment="a")
    tok = FastTokenizer(MixtureSpec((a, dataclasses.replace(a, action_dim=5, relative=None, embodiment="b"))))
    names, horizons = ["b", "a", "b", "a"], [4, 6, 2, 3]
    chunks = [RNG.uniform(-1, 1, (t, 3 if n == "a" else 5)) for t, n in zip(horizons, names, strict=True)]
    states = [None, np.ones(2), None, np.zeros(2)]
    tokens = tok.encode(chunks, state=states, embodiment=names)
    back = tok.decode_ragged(tokens, horizons, state=states, embodiment=names)
    assert [c.shape for c in back] == [c.shape for c in chunks]
    assert max(np.abs(x - y).max() for x, y in zip(back, chunks, strict=True)) < 0.2
    with pytest.raises(DecodeError) as caught:
        tok.decode_ragged(tokens, [4, 6, 2, 5], state=states, embodiment=names)
    assert caught.value.chunk == 3
    with pytest.raises(ValueError, match="got 4 sequences of ids, but 3 names"):
        tok.decode_ragged(tokens, horizons, state=states, embodiment=names[:3])


def test_errors_of_a_mixed_decode_name_the_chunk_by_its_place(tok):
    names, chunks, states = mixed()
    tokens = tok.encode(chunks, state=states, embodiment=names)
    at = [i for i, name in enumerate(names) if name == "droid"][-1]
    states[at] = np.full(7, np.nan)
    with pytest.raises(ValueError, match=rf"^chunk {at} \('droid'\): state column 0 is nan"):
        tok.decode(tokens, state=states, embodiment=names)


def test_errors_of_a_mixed_batch_name_the_chunk_by_its_place(tok):
    names, chunks, states = mixed()
    chunks[19] = chunks[19].copy()
    chunks[19][2, 1] = np.nan
    with pytest.raises(ValueError, match=rf"^chunk 19 \('{names[19]}'\): value at time step 2, dimension 1 is NaN"):
        tok.encode(chunks, state=states, embodiment=names)
    chunks[19] = chunks[19][:-1]
    with pytest.raises(ValueError, match=rf"^chunk 19 \('{names[19]}'\): has \d+ time steps, expected"):
        tok.encode(chunks, state=states, embodiment=names)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: t.encode(CHUNKS["aloha"], embodiment="panda"),
            "no embodiment of this tokenizer is called 'panda'; ",
        ),
        (lambda t: t.encode([CHUNKS["aloha"][0]], embodiment=["panda"]), "chunk 0: no embodiment is called 'panda'; "),
        (lambda t: t.encode(CHUNKS["aloha"], embodiment=["aloha"]), "got 60 chunks, but 1 names of embodiments"),
        (lambda t: t.decode([[0]], embodiment=["aloha"] * 2), "got 1 sequences of ids, but 2 names of embodiments"),
        (
            lambda t: t.encode(CHUNKS["aloha"][..., :7], embodiment="droid", state=STATE[:60]),
            "chunk 0: has 50 time steps, expected",
        ),
        (
            lambda t: t.encode(CHUNKS["droid"], embodiment="droid"),
            "dimensions [0, 1, 2] of 'droid' are relative to the",
        ),
        (
            lambda t: t.encode([CHUNKS["aloha"][0], CHUNKS["droid"][0]], embodiment=["aloha", "droid"]),
            "chunk 1: dimensions [0, 1, 2] of 'droid' are relative to the state",
        ),
        (
            lambda t: t.decode([[0], [0]], embodiment=["aloha", "droid"], state=[None, None]),
            "chunk 1: dimensions [0, 1, 2] of 'droid' are relative to the state",
        ),
        (
            lambda t: t.encode([CHUNKS["droid"][0]], embodiment=["droid"], state=[STATE[0, :3]]),
            "chunk 0 ('droid'): has a state of 3 columns, expected 7",
        ),
        (lambda t: t.encode([], embodiment=[]), "got no chunks"),
    ],
)
def test_what_is_refused(tok, call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call(tok)


def test_without_a_name_the_names_are_listed(tok, tmp_path):
    tokens = tok.encode(CHUNKS["aloha"], embodiment="aloha")
    expected = "this tokenizer has several embodiments: 'droid', 'aloha', 'pusher'; say which: embodiment="
    for call in (
        lambda: tok.encode(CHUNKS["aloha"]),
        lambda: tok.decode(tokens),
        lambda: tok.decode_with_status(tokens),
        lambda: tok.decode_ragged(tokens, [50] * 60),
        lambda: tok.coefficients(tokens[0]),
        lambda: tok.spec.scale,
        lambda: tok.spec.normalizer,
        lambda: tok.spec.time_horizon,
        lambda: tok.spec.action_dim,
        lambda: ActionGrammar.of(tok),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            call()
    with pytest.raises(
        ValueError, match="the published format has no embodiments, this tokenizer has 'droid', 'aloha'"
    ):
        tok.save_pretrained(tmp_path)
    with pytest.raises(AttributeError):
        tok.spec.nonsense  # noqa: B018


def test_names_where_there_are_none():
    plain = FastTokenizer.fit(CHUNKS["pusher"], 600, normalize="quantile")
    assert plain.embodiments == ()
    with pytest.raises(ValueError, match=r"no embodiment of this tokenizer is called 'pusher'; it has no names"):
        plain.encode(CHUNKS["pusher"], embodiment="pusher")
    with pytest.raises(ValueError, match="this tokenizer has no named embodiments: leave out embodiment="):
        plain.encode(list(CHUNKS["pusher"]), embodiment=["pusher"] * 200)


def test_one_named_embodiment_needs_no_name():
    one = FastTokenizer.fit_mixture({"pusher": data()["pusher"]}, 600)
    assert one.embodiments == ("pusher",)
    expected = one.encode(CHUNKS["pusher"]).to_list()
    for name in ("pusher", ["pusher"] * 200):
        assert one.encode(CHUNKS["pusher"], embodiment=name).to_list() == expected
    assert one.embodiment("pusher") is one


# ---- The artefact ------------------------------------------------------------------------------------


def test_a_mixture_is_saved_and_loaded_whole(tok, tmp_path):
    tok.save(tmp_path)
    loaded = FastTokenizer.load(tmp_path)
    assert loaded == tok
    assert loaded.embodiments == NAMES
    assert loaded.embodiment("pusher").spec.dimension_names == ("x", "y")
    assert [loaded.embodiment(n).spec.hz for n in NAMES] == [15.0, 50.0, None]
    names, chunks, states = mixed()
    tokens = tok.encode(chunks, state=states, embodiment=names)
    assert loaded.encode(chunks, state=states, embodiment=names).to_list() == tokens.to_list()
    assert pickle.loads(pickle.dumps(tok)) == tok
    one = tok.embodiment("aloha")
    one.save(tmp_path / "one")
    assert FastTokenizer.load(tmp_path / "one") == one
    assert "embodiments=['droid', 'aloha', 'pusher']" in repr(tok)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v["embodiments"].clear(), "'embodiments': expected at least one embodiment, got none"),
        (lambda v: v["embodiments"].append(3), "'embodiments': embodiment 3: expected an object, got 3"),
        (lambda v: v["embodiments"][1].pop("scale"), "embodiment 1: field 'scale' is missing"),
        (lambda v: v["embodiments"][1].update(more=1), "embodiment 1: unknown field 'more'"),
        (
            lambda v: v["embodiments"][1].update(name="droid"),
            "two embodiments have one name: ['droid', 'droid', 'pusher']",
        ),
        (
            lambda v: v["embodiments"][1].update(name=""),
            "an embodiment's name must be a string that is not empty, got ''",
        ),
        (lambda v: v["embodiments"][1].update(name=None), "embodiment 1: 'name': expected a string, got None"),
        (lambda v: v["embodiments"][0]["relative"].update(dimensions=[0, 1, 9]), "dimension 9 cannot be relative: the"),
        (lambda v: v["embodiments"][0].update(relative=[0]), "embodiment 0: 'relative': expected an object with"),
        (lambda v: v.update(scale=3.0), "unknown field 'scale'"),
    ],
)
def test_a_damaged_mixture_is_refused(tok, damage, message):
    values = json.loads(artefact.to_bytes(tok.spec))
    damage(values)
    with pytest.raises(ArtefactError, match=re.escape(message)):
        artefact.loads(json.dumps(values).encode())


def test_embodiments_share_the_vocabulary(tok):
    first, second, _ = tok.spec.members
    with pytest.raises(
        ValueError, match="embodiments share the vocabulary, but max_coefficient of 'aloha' is not that"
    ):
        MixtureSpec((first, dataclasses.replace(second, max_coefficient=first.max_coefficient + 1)))
    with pytest.raises(ValueError, match="every embodiment of a mixture needs a name"):
        MixtureSpec((first, dataclasses.replace(second, embodiment=None)))
    with pytest.raises(ValueError, match="a mixture needs at least one embodiment"):
        MixtureSpec(())


def test_a_missing_configuration_is_named(tmp_path):
    from fast_tokenizer.cli.mixture import read_mixture

    with pytest.raises(FileNotFoundError, match=r"nope\.toml: no such file$"):
        read_mixture(tmp_path / "nope.toml")
