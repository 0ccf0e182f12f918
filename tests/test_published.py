"""Published tokenizers: ids, losses and refusals, against recorded output, the peer rebuilt, and `tokenizers`."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from benchmarks.competitors.published import PublishedFast
from fast_tokenizer import ArtefactError, DecodeError, DecodeRepairWarning, FastTokenizer, _reference
from fast_tokenizer.compat import artefact
from fast_tokenizer.compat.byte_level import character_classes

ARTEFACTS = ("fast_plus", "fast_calvin_a10_s50", "fast_libero_act_c50")


@pytest.fixture(scope="module")
def folders(shared_data):
    return {name: shared_data / "fast_artifacts" / name for name in ARTEFACTS}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {name: FastTokenizer.from_pretrained(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def peers(folders):
    """The published pipeline over each artefact."""
    return {name: PublishedFast.of_folder(folder) for name, folder in folders.items()}


def quantized(chunks, tok):
    """(N, T * D) coefficients after scaling and rounding, before anything is lost."""
    spec = tok.spec
    from scipy.fft import dct

    return np.around(dct(chunks, axis=1, norm="ortho") * spec.scale).reshape(len(chunks), -1).astype(int)


# ---- Ids ---------------------------------------------------------------------------------------------


def test_every_golden_file_gives_its_ids_and_its_chunks(shared_data, tokenizers):
    """Where the ids hold the whole chunk, decoding gives the recorded one; where they do not, it says so."""
    files = sorted((shared_data / "golden").glob("*.npz"))
    assert len(files) == 19
    for file in files:
        name, _, dtype = file.stem.rsplit("__", 2)
        tok = tokenizers[name]
        with np.load(file) as golden:
            chunks, decoded = golden["chunks"].astype(dtype), golden["decoded"]
            batch = tok.encode(chunks)
            assert batch.ids.tolist() == golden["ids"].tolist(), file.stem
            assert batch.offsets.tolist() == golden["offsets"].tolist(), file.stem
        actions, status = tok.decode_with_status(batch, *chunks.shape[1:])
        whole = status.ok
        assert (whole == (batch.dropped == 0)).all()
        np.testing.assert_allclose(actions[whole], decoded[whole], atol=1e-12)
        below = (quantized(chunks, tok) < tok.spec.min_token).sum(axis=1)
        assert (batch.saturated == below).all()
        for i in np.flatnonzero(~whole).tolist():
            with pytest.raises(DecodeError):
                tok.decode(batch[i : i + 1], *chunks.shape[1:])


def test_the_golden_edge_cases_lose_coefficients_and_all_are_counted(shared_data, tokenizers):
    """The narrow LIBERO vocabulary lacks bytes: what it drops is known before anything is decoded."""
    with np.load(shared_data / "golden" / "fast_libero_act_c50__edge_cases__float64.npz") as golden:
        chunks = golden["chunks"]
    tok = tokenizers["fast_libero_act_c50"]
    batch = tok.encode(chunks)
    characters = quantized(chunks, tok) - tok.spec.min_token
    vocabulary = set(tok.spec.tokens)
    has_token = {b: ch in vocabulary for b, ch in enumerate(_reference.BYTE_CHARACTERS)}
    dropped = [sum(not all(has_token[b] for b in chr(max(c, 0)).encode()) for c in row) for row in characters.tolist()]
    assert batch.dropped.tolist() == dropped
    assert sum(dropped) == 34


def grid_chunks(kind, horizon, seed):
    """(300, T, 6): data whose coefficients lie on ties where sqrt(T) is rational."""
    rng = np.random.default_rng(seed)
    if kind == "grid":
        return rng.integers(-20, 21, (300, horizon, 6)) / 20
    closes_at = rng.integers(0, horizon + 1, (300, 1, 6))
    closed = np.arange(horizon)[None, :, None] >= closes_at
    return np.where(closed, 1.0, 0.0 if kind == "gripper 0/1" else -1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["gripper 0/1", "gripper -1/1", "grid"])
@pytest.mark.parametrize("horizon", [1, 9, 16, 25, 50, 64])
@pytest.mark.parametrize("name", ARTEFACTS)
def test_ties_are_rounded_as_the_published_processor_rounds_them(tokenizers, peers, name, horizon, kind, dtype):
    chunks = grid_chunks(kind, horizon, horizon).astype(dtype)
    assert tokenizers[name].encode(chunks).to_list() == peers[name].encode(chunks)


def test_chunks_with_a_tie_are_rechecked_and_others_are_not(tokenizers):
    tok = tokenizers["fast_plus"]
    gripper = grid_chunks("gripper 0/1", 16, 0)
    on_tie = np.abs(np.mod(np.abs(np.sum(gripper, axis=1) / 4 * 10), 1) - 0.5) < 1e-9
    rechecked = tok.encode(gripper).rechecked
    assert rechecked[on_tie.any(axis=1)].all()
    assert 0.5 < rechecked.mean() <= 1
    smooth = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (500, 50, 14)), axis=1)
    assert tok.encode(smooth).rechecked.mean() < 0.01
    assert tok.encode(smooth.astype(np.float32)).rechecked.mean() < 0.05


def test_float32_and_float64_decide_some_ties_differently(tokenizers, peers):
    """Or the test above would not show that the input's type is kept."""
    chunks = grid_chunks("grid", 64, 1)
    wide, narrow = peers["fast_plus"].encode(chunks), peers["fast_plus"].encode(chunks.astype(np.float32))
    assert wide != narrow
    assert tokenizers["fast_plus"].encode(chunks).to_list() == wide
    assert tokenizers["fast_plus"].encode(chunks.astype(np.float32)).to_list() == narrow


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("horizon", [3, 50, 59, 127, 197, 256, 509])
def test_scipy_stays_within_the_distance_at_which_a_tie_is_suspected(horizon, dtype):
    """The core suspects 16 units in the last place of a column's norm; scipy needs a quarter of them at most."""
    from scipy.fft import dct

    rng = np.random.default_rng(horizon)
    for chunk in (
        rng.normal(size=(horizon, 300)),
        rng.normal(size=(horizon, 300)).cumsum(axis=0),
        np.ones((horizon, 1)),
    ):
        given_type = chunk.astype(dtype)
        wide = given_type.astype(np.longdouble if dtype == np.float64 else np.float64)
        error = np.abs(dct(given_type, axis=0, norm="ortho") * dtype(10) - dct(wide, axis=0, norm="ortho") * 10)
        assert (error <= 4 * 10 * np.finfo(dtype).eps * np.linalg.norm(wide, axis=0)).all()


@pytest.mark.parametrize("scale_of_noise", [0.05, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", ARTEFACTS)
def test_noise_of_any_size_gives_the_published_ids(tokenizers, peers, name, scale_of_noise):
    """From one-byte characters to four-byte ones; the largest reach beyond what the native quantizer does."""
    chunks = np.random.default_rng(1).normal(0, scale_of_noise * 10 / tokenizers[name].spec.scale, (30, 12, 7))
    with np.errstate(all="raise"):
        batch = tokenizers[name].encode(chunks)
    assert batch.to_list() == peers[name].encode(chunks)
    if scale_of_noise == 1000.0:
        assert batch.rechecked.all()


def test_horizons_may_differ_and_threads_do_not_matter(tokenizers):
    tok = tokenizers["fast_plus"]
    rng = np.random.default_rng(2)
    chunks = [rng.integers(-4, 5, (t, 3)) / 4 for t in (16, 7, 64, 16, 25, 1)] * 40
    batch = tok.encode(chunks, num_threads=1)
    assert batch.to_list() == tok.encode(chunks, num_threads=3).to_list()
    assert batch.to_list() == [tok.encode(c[None]).to_list()[0] for c in chunks]
    assert batch.rechecked.any()
    decoded = tok.decode_ragged(batch, [len(c) for c in chunks], 3)
    for chunk, again in zip(chunks, decoded, strict=True):
        assert np.abs(chunk - again).max() < 0.5 / 10 * np.sqrt(2 * len(chunk)) + 1e-9
    large = rng.normal(0, 0.3, (600, 50, 3))
    assert tok.encode(large, num_threads=1).ids.tolist() == tok.encode(large, num_threads=4).ids.tolist()
    one, many = (tok.decode(tok.encode(large), 50, 3, num_threads=n) for n in (1, 4))
    assert (one == many).all()


@pytest.mark.parametrize("min_token", [3, -20_000])
def test_lowest_coefficients_where_no_quantizer_goes(copy, min_token):
    """Then scipy rounds all chunks, and what it saturates is counted all the same."""
    edit(copy / "processor_config.json", lambda j: j.update(min_token=min_token))
    tok, peer = FastTokenizer.from_pretrained(copy), PublishedFast.of_folder(copy)
    chunks = np.random.default_rng(0).normal(0, 1, (40, 6, 3)) * (1 if min_token > 0 else 900)
    for form in (chunks, [*chunks, chunks[0][:3]]):
        batch = tok.encode(form)
        assert batch.rechecked.all()
        below = [int((quantized(c[None], tok) < min_token).sum()) for c in form]
        assert batch.saturated.tolist() == below
        assert sum(below) > 0
        assert batch.to_list() == [peer.encode(c[None])[0] for c in form]


def test_chunks_of_two_dtypes_are_refused(tokenizers):
    """Joined, the narrower ones would round their ties as if they had been wide."""
    wide = np.zeros((2, 5, 3))
    with pytest.raises(ValueError, match="chunk 2 is float32, chunk 0 float64"):
        tokenizers["fast_plus"].encode([wide, wide.astype(np.float32)])
    assert len(FastTokenizer.default().encode([wide, wide.astype(np.float32)])) == 4


# ---- Text --------------------------------------------------------------------------------------------

interesting = st.one_of(
    st.sampled_from([ord(c) for c in " 'stmdrevl\t\n\r0a\u00a0\u0085\u2003\u0162"]),
    st.integers(0, 0x2FF),
    st.integers(0x300, 0x7FFF),
    st.integers(0x8000, 0xD7FF),
    st.integers(0xE000, 0x10FFFF),
)


@given(st.lists(interesting, max_size=60), st.sampled_from(ARTEFACTS))
def test_any_text_gives_the_ids_of_the_tokenizers_package(tokenizers, peers, codes, name):
    text = np.array(codes, np.int32)
    ids, offsets, dropped = tokenizers[name]._codec.core.encode(text, np.array([0, len(text)]))
    expected = peers[name].bpe.backend_tokenizer.encode("".join(map(chr, codes))).ids
    assert ids.tolist() == expected
    assert offsets.tolist() == [0, len(expected)]
    assert dropped[0] <= len(codes)


@given(st.lists(interesting, max_size=25), st.sampled_from(ARTEFACTS))
def test_the_reference_gives_them_too(tokenizers, codes, name):
    tok = tokenizers[name]
    text = np.array(codes, np.int32)
    ids, _, dropped = tok._codec.core.encode(text, np.array([0, len(text)]))
    assert ids.tolist() == _reference.encode_published("".join(map(chr, codes)), tok.spec)
    if not dropped[0] and 0xFFFD not in codes:
        assert _reference.decode_published(ids.tolist(), tok.spec) == (text + tok.spec.min_token).tolist()


@given(st.lists(interesting, max_size=40))
def test_words_end_where_the_regex_ends_them(codes):
    text = "".join(map(chr, codes))
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    assert _reference.split_words(text) == [piece for piece, _ in split.pre_tokenize_str(text)]


def test_a_chunk_goes_through_the_reference_step_by_step(tokenizers):
    chunks = np.random.default_rng(3).normal(0, 0.7, (5, 10, 4))
    for tok in tokenizers.values():
        texts = [_reference.published_text(chunk, tok.spec) for chunk in chunks]
        assert tok.encode(chunks).to_list() == [_reference.encode_published(text, tok.spec) for text in texts]


def test_every_code_point_has_the_class_that_tokenizers_gives_it():
    classes = np.frombuffer(character_classes(), np.uint8)
    assert len(classes) == 0x110000
    code_points = np.array([c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF])
    for number, pattern in ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s")):
        matching = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        pieces = matching.pre_tokenize_str("".join(map(chr, code_points.tolist())))
        found = np.sort([ord(ch) for piece, _ in pieces for ch in piece])
        assert np.array_equal(found, code_points[classes[code_points] == number]), pattern


@pytest.mark.parametrize("seed", range(6))
def test_vocabularies_fitted_by_the_published_code_are_read_exactly(tmp_path, seed):
    """Other offsets put other characters beside each other: control, white space, digits, letters of any length."""
    rng = np.random.default_rng(seed)
    amplitude = [0.2, 0.5, 1.0, 2.0, 4.0, 9.0][seed]
    chunks = (rng.normal(0, amplitude, (150, 10, 3)) * (rng.random((150, 10, 3)) < 0.4)).round(1 + seed % 2)
    peer = PublishedFast.fit(chunks, 700 + 100 * seed, 10)
    peer.export(tmp_path)
    tok = FastTokenizer.from_pretrained(tmp_path)
    others = rng.normal(0, amplitude, (200, 10, 3)).round(1)
    for batch in (chunks, others, others * 3):
        assert tok.encode(batch).to_list() == peer.encode(batch)


# ---- Losses and malformed ids ------------------------------------------------------------------------


def test_a_stray_partial_character_is_an_error_and_never_a_huge_action(tokenizers):
    tok = tokenizers["fast_plus"]
    chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (1, 10, 7)), axis=1)
    ids = tok.encode(chunks).to_list()[0]
    partial = next(i for i, b in enumerate(tok.spec.token_bytes) if b == b"\xc5")
    with pytest.raises(DecodeError, match="broken characters: got 1, expected exactly 0") as error:
        tok.decode([[*ids[:3], partial, *ids[3:]]], 10, 7)
    assert error.value.reason == "broken characters"
    with pytest.warns(DecodeRepairWarning, match="1 broken characters replaced by coefficient 0"):
        actions = tok.decode([[*ids[:3], partial, *ids[3:]]], 10, 7, errors="repair")
    assert np.abs(actions).max() < 5
    _, status = tok.decode_with_status([[*ids[:3], partial, *ids[3:]]], 10, 7)
    assert (status.broken[0], status.extra[0], status.ok[0]) == (1, 1, False)


@given(st.lists(st.integers(-2, 2050), max_size=60), st.sampled_from(ARTEFACTS))
def test_decoding_is_total_and_counts_as_a_lossy_reader_does(tokenizers, ids, name):
    tok = tokenizers[name]
    known = [i for i in ids if 0 <= i < tok.vocab_size]
    actions, status = tok.decode_with_status([ids], 5, 3)
    text = b"".join(tok.spec.token_bytes[i] for i in known).decode("utf-8", errors="replace")
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    assert status.unknown[0] == len(ids) - len(known)
    assert status.broken[0] == broken
    assert status.missing[0] == max(0, 15 - len(text))
    assert status.extra[0] == max(0, len(text) - 15)
    coefficients = [ord(ch) + tok.spec.min_token if ch != "\N{REPLACEMENT CHARACTER}" else 0 for ch in text[:15]]
    coefficients += [0] * (15 - len(coefficients))
    if not status.ok[0]:
        lowest, highest = tok.spec.coefficient_range
        clamped = np.clip(coefficients, lowest, highest)
        assert status.clamped[0] == (clamped != coefficients).sum()
        coefficients = clamped
    from scipy.fft import idct

    expected = idct(np.reshape(coefficients, (5, 3)) / tok.spec.scale, axis=0, norm="ortho")
    np.testing.assert_allclose(actions[0], expected, atol=1e-9)


def test_coefficients_are_those_of_the_ids(tokenizers):
    tok = tokenizers["fast_plus"]
    chunks = np.random.default_rng(0).normal(0, 0.5, (1, 10, 7))
    batch = tok.encode(chunks)
    assert tok.coefficients(batch[0]).tolist() == quantized(chunks, tok)[0].tolist()
    assert tok.expansion_lengths[batch[0]].sum() == 70
    partial = next(i for i, b in enumerate(tok.spec.token_bytes) if b == b"\xc5")
    with pytest.raises(ValueError, match="1 characters in part only"):
        tok.coefficients([partial])


def test_what_has_no_character_is_refused_by_name(tokenizers):
    """The published code raises TypeError or ValueError on these."""
    tok = tokenizers["fast_plus"]
    chunks = np.zeros((3, 1, 2))
    for value in (5560.0, 111500.0, 1e9):
        chunks[1, 0, 1] = value
        with pytest.raises(ValueError, match="chunk 1: the coefficient at frequency 0, dimension 1 is"):
            tok.encode(chunks)
    chunks[1, 0, 1] = np.nan
    with pytest.raises(ValueError, match="chunk 1: value at time step 0, dimension 1 is NaN"):
        tok.encode(chunks)


# ---- Reading -----------------------------------------------------------------------------------------


def test_fast_plus_is_what_its_figures_say(tokenizers):
    tok = tokenizers["fast_plus"]
    assert (tok.vocab_size, tok.spec.scale, tok.spec.min_token, len(tok.merges)) == (2048, 10.0, -354, 1792)
    partial = 0
    for spelling in tok.spec.token_bytes:
        try:
            spelling.decode("utf-8")
        except UnicodeDecodeError:
            partial += 1
    assert partial == 135
    assert tok.spec.normalizer is None
    assert "vocab_size=2048" in repr(tok)


def test_it_pickles_and_compares(tokenizers, folders):
    tok = tokenizers["fast_plus"]
    again = pickle.loads(pickle.dumps(tok))
    chunks = np.random.default_rng(0).normal(0, 0.3, (4, 10, 7))
    assert again.encode(chunks).to_list() == tok.encode(chunks).to_list()
    assert again == tok == FastTokenizer.load(folders["fast_plus"])
    assert tok != tokenizers["fast_calvin_a10_s50"]


@pytest.fixture
def copy(folders, tmp_path):
    """A copy of an artefact in which a test may change what it wants; `edit` rewrites one of its files."""
    shutil.copytree(folders["fast_libero_act_c50"], tmp_path, dirs_exist_ok=True)
    return tmp_path


def edit(file: Path, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_tokenizer_files_may_lie_in_their_own_folder(copy, tokenizers):
    (copy / "bpe_tokenizer").mkdir()
    shutil.move(copy / "tokenizer.json", copy / "bpe_tokenizer" / "tokenizer.json")
    assert FastTokenizer.from_pretrained(copy) == tokenizers["fast_libero_act_c50"]
    shutil.copy(copy / "bpe_tokenizer" / "tokenizer.json", copy / "tokenizer.json")
    assert FastTokenizer.from_pretrained(copy) == tokenizers["fast_libero_act_c50"]
    edit(copy / "tokenizer.json", lambda j: j["model"]["merges"].pop())
    with pytest.raises(ArtefactError, match="hold different vocabularies"):
        FastTokenizer.from_pretrained(copy)


def test_merges_may_be_strings_or_lists_and_the_scale_a_float(copy, tokenizers):
    def as_strings(j):
        j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]

    edit(copy / "tokenizer.json", as_strings)
    edit(copy / "processor_config.json", lambda j: j.update(scale=10.0, min_token=-71.0))
    assert FastTokenizer.from_pretrained(copy) == tokenizers["fast_libero_act_c50"]


def test_what_is_no_number_is_refused_and_not_taken_for_a_second_file(copy):
    edit(copy / "tokenizer.json", lambda j: j.update(model=float("nan")))
    with pytest.raises(ArtefactError, match="'model' must be of type BPE"):
        FastTokenizer.from_pretrained(copy)


def drop_last_token(j):
    del j["model"]["vocab"][max(j["model"]["vocab"], key=j["model"]["vocab"].get)]


REFUSED = {
    "not JSON": (lambda j: None, "x", "not valid JSON"),
    "a model that is no BPE": (lambda j: j["model"].update(type="Unigram"), None, "must be of type BPE"),
    "no vocabulary": (lambda j: j["model"].update(vocab=[]), None, "'vocab' must map tokens to ids"),
    "ids with gaps": (lambda j: j["model"]["vocab"].update({"G": 5000}), None, "ids must be 0..1023, each once"),
    "a merge of unknown tokens": (lambda j: j["model"]["merges"].append(["G", "?!"]), None, "is not in the vocabulary"),
    "a merge that makes no token": (drop_last_token, None, "is not in the vocabulary"),
    "a merge of three": (lambda j: j["model"]["merges"].append("G G G"), None, "must be 'a b' or"),
    "a merge twice": (lambda j: j["model"]["merges"].append(["G", "G"]), None, "both make 'GG'"),
    "merges out of order": (lambda j: j["model"]["merges"].reverse(), None, "merge 0"),
    "another split": (lambda j: j["pre_tokenizer"].update(use_regex=False), None, "'pre_tokenizer' must be"),
    "a prefix space": (lambda j: j["pre_tokenizer"].update(add_prefix_space=True), None, "'pre_tokenizer' must be"),
    "a normalizer": (lambda j: j.update(normalizer={"type": "NFC"}), None, "'normalizer' must be unset"),
    "special tokens": (lambda j: j.update(added_tokens=[{"id": 1}]), None, "'added_tokens' must be unset"),
    "a template": (lambda j: j.update(post_processor={"type": "TemplateProcessing"}), None, "may add ids"),
    "truncation": (lambda j: j.update(truncation={"max_length": 5}), None, "'truncation' must be unset"),
    "padding": (lambda j: j.update(padding={"length": 5}), None, "'padding' must be unset"),
    "whole words first": (lambda j: j["model"].update(ignore_merges=True), None, "'ignore_merges' must be unset"),
    "another decoder": (lambda j: j.update(decoder={"type": "Fuse"}), None, "'decoder' must be ByteLevel"),
    "no decoder": (lambda j: j.update(decoder=None), None, "'decoder' must be ByteLevel"),
    "an empty token": (lambda j: j["model"]["vocab"].update({"": 1024}), None, "the empty token, id 1024"),
    "dropout": (lambda j: j["model"].update(dropout=0.1), None, "'dropout' must be unset"),
    "an unknown token": (lambda j: j["model"].update(unk_token="G"), None, "'unk_token' must be unset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_fast_tokenizer_is_refused_with_the_reason(copy, case):
    change, text, message = REFUSED[case]
    file = copy / "tokenizer.json"
    if text is None:
        edit(file, change)
    else:
        file.write_text(text)
    with pytest.raises(ArtefactError, match=message) as error:
        FastTokenizer.from_pretrained(copy)
    assert "fast" in str(error.value) or str(copy) in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "10"}, "'scale' must be a number, got '10'"),
        ({"scale": None}, "'scale' must be a number, got None"),
        ({"scale": 0}, r"scale must lie in 1e-100..1e100, got 0"),
        ({"scale": 10**400}, "int too large to convert to float"),
        ({"scale": 1e300}, r"scale must lie in 1e-100..1e100, got 1e\+300"),
        ({"scale": True}, "'scale' must be a number, got True"),
        ({"min_token": None}, "'min_token' must be an integer of 32 bits, got None"),
        ({"min_token": 0.5}, "'min_token' must be an integer"),
        ({"time_horizon": -1}, "time_horizon must be positive, got -1"),
        ({"action_dim": "7"}, "'action_dim' must be an integer"),
    ],
)
def test_a_processor_config_that_makes_no_sense_is_refused(copy, values, message):
    edit(copy / "processor_config.json", lambda j: j.update(values))
    with pytest.raises(ArtefactError, match=message):
        FastTokenizer.from_pretrained(copy)


def test_a_recorded_shape_is_kept(copy):
    edit(copy / "processor_config.json", lambda j: j.update(time_horizon=10, action_dim=7))
    tok = FastTokenizer.from_pretrained(copy)
    chunks = np.random.default_rng(0).normal(0, 0.2, (3, 10, 7))
    assert tok.decode(tok.encode(chunks)).shape == (3, 10, 7)
    with pytest.raises(ValueError, match="has 12 time steps, expected 10"):
        tok.encode(np.zeros((1, 12, 7)))


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        FastTokenizer.from_pretrained(copy)


def test_one_file_of_an_artefact_is_not_enough(copy):
    for name in ("processor_config.json", "tokenizer.json"):
        with pytest.raises(ArtefactError, match="a part of a published tokenizer; give its folder"):
            FastTokenizer.load(copy / name)


def test_a_file_that_is_too_large_is_not_read(copy, monkeypatch):
    monkeypatch.setattr(artefact, "MAX_BYTES", 1000)
    with pytest.raises(ArtefactError, match="larger than 1000 bytes"):
        FastTokenizer.from_pretrained(copy)


def test_saving_beside_an_exported_tokenizer_is_refused(copy):
    with pytest.raises(ValueError, match="holds a tokenizer in the published format"):
        FastTokenizer.default().save(copy)


def test_what_is_neither_folder_nor_repository_is_said_to_be_neither(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError):
        FastTokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="'some/repository' is no folder, and the hub does not give it"):
        FastTokenizer.from_pretrained("some/repository", local_files_only=True)


def test_a_hub_id_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'fast-tokenizer\[hub\]'"):
        FastTokenizer.from_pretrained("physical-intelligence/fast")


def test_a_hub_id_goes_through_the_cache_of_huggingface_hub(folders, tokenizers, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(folders["fast_plus"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    tok = FastTokenizer.from_pretrained(
        "physical-intelligence/fast", revision="main", token="secret", local_files_only=True
    )
    assert tok == tokenizers["fast_plus"]
    assert asked == {
        "repository": "physical-intelligence/fast",
        "revision": "main",
        "token": "secret",
        "local_files_only": True,
        "cache_dir": None,
        "force_download": False,
        "allow_patterns": [
            *("fast_tokenizer.json", "processor_config.json", "tokenizer.json", "bpe_tokenizer/tokenizer.json")
        ],
    }


def test_the_reader_does_not_depend_on_what_is_beside_the_two_files(copy, tokenizers):
    """A tokenizer_config.json or code in the folder decides nothing."""
    (copy / "tokenizer_config.json").write_text("no JSON at all")
    (copy / "processing_action_tokenizer.py").write_text("raise SystemExit('this must not run')")
    assert artefact.load(copy).tokens == tokenizers["fast_libero_act_c50"].spec.tokens


# ---- Fitting as the published code does ------------------------------------------------------------------


def fit_data(kind, recorded_chunks):
    rng = np.random.default_rng(5)
    return {
        "walk": lambda: np.cumsum(rng.normal(0, 0.05, (300, 20, 4)), axis=1).clip(-1, 1),
        "walk32": lambda: np.cumsum(rng.normal(0, 0.05, (300, 20, 4)), axis=1).clip(-1, 1).astype(np.float32),
        "gripper": lambda: grid_chunks("gripper 0/1", 16, 3),
        "loud": lambda: rng.normal(0, 2, (80, 12, 3)).round(1),
        "constant": lambda: np.zeros((5, 10, 2)),
        "recorded": lambda: recorded_chunks("omniglot_pen", 30, 300) / 100,
    }[kind]()


@pytest.mark.parametrize(("vocab_size", "scale"), [(1024, 10), (400, 3.5)])
@pytest.mark.parametrize("kind", ["walk", "walk32", "gripper", "loud", "constant", "recorded"])
def test_fitting_in_compat_mode_gives_the_published_merges(recorded_chunks, tmp_path, kind, vocab_size, scale):
    chunks = fit_data(kind, recorded_chunks)
    peer = PublishedFast.fit(chunks, vocab_size, scale)
    tok = FastTokenizer.fit(chunks, vocab_size, scale, compat="published")
    model = json.loads(peer.bpe.backend_tokenizer.to_str())["model"]
    assert {t: i for i, t in enumerate(tok.spec.tokens)} == model["vocab"]
    assert [[tok.spec.tokens[i] for i in merge] for merge in tok.merges.tolist()] == model["merges"]
    assert (tok.spec.min_token, tok.spec.scale) == (peer.min_token, scale)
    assert tok.encode(chunks).to_list() == peer.encode(chunks)
    assert (tok.spec.time_horizon, tok.spec.action_dim) == chunks.shape[1:]
    assert tok.fit_summary.coefficients == chunks.size


def test_compat_mode_takes_chunks_of_any_form_and_reports(recorded_chunks):
    chunks = fit_data("walk", recorded_chunks)
    stages = set()
    whole = FastTokenizer.fit(chunks, 300, compat="published", progress=lambda stage, *_: stages.add(stage))
    assert stages == {"quantize", "merge"}
    parts = FastTokenizer.fit((c for c in chunks), 300, compat="published", num_threads=1)
    assert parts == whole
    mixed = [*chunks[:100], *(c[:7] for c in chunks[100:])]
    assert FastTokenizer.fit(mixed, 300, compat="published").spec.time_horizon is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "quantile"}, "normalize cannot be set with compat='published'"),
        ({"min_frequency": 3}, "min_frequency cannot be set"),
        ({"max_chunks": 5}, "max_chunks cannot be set"),
        ({"memory_budget": 5}, "memory_budget cannot be set"),
        ({"scale": [10.0, 5.0, 1.0, 1.0]}, "scale must be one number"),
        ({"vocab_size": 5}, r"span -?\d+..\d+, which does not fit vocab_size=5"),
        ({"scale": 1e9}, "for which published tokenizers have no character"),
        ({"compat": "huggingface"}, "compat must be 'published' or None"),
    ],
)
def test_compat_mode_refuses_what_the_published_fit_does_not_have(recorded_chunks, options, message):
    with pytest.raises(ValueError, match=message):
        FastTokenizer.fit(fit_data("walk", recorded_chunks), **{"compat": "published", **options})
    with pytest.raises(ValueError, match="got no chunks to fit on"):
        FastTokenizer.fit([], compat="published")
