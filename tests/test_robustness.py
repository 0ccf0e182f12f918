"""The scripts on malformed tokens, prefixes and the grammar's cost: what they count is what they say."""

import numpy as np
import pytest

from benchmarks import coding, constrained, prefix, readme, recorded, robustness
from benchmarks.competitors.published import PublishedFast
from benchmarks.machine import describe
from fast_tokenizer import FastTokenizer
from fast_tokenizer.report import edits

REPLACEMENT = 0xFFFD


@pytest.mark.parametrize("harm", edits.HARMS)
def test_one_harm_is_one(harm):
    ids = [3, 1, 4, 1, 5]
    rng = np.random.default_rng(0)
    found = [edits.harmed(harm, ids, 7, rng) for _ in range(400)]
    assert all(0 <= i < 7 for wrong in found for i in wrong)
    wrong = {tuple(sequence) for sequence in found}
    expected = {
        "nothing": {tuple(ids)},
        "substitution": {(*ids[:k], i, *ids[k + 1 :]) for k in range(5) for i in range(7) if i != ids[k]},
        "insertion": {(*ids[:k], i, *ids[k:]) for k in range(6) for i in range(7)},
        "deletion": {(*ids[:k], *ids[k + 1 :]) for k in range(5)},
        "truncation": {tuple(ids[:k]) for k in range(5)},
    }
    assert wrong == expected[harm]


def test_decoders_do_what_the_table_says_of_them(shared_data):
    folder = shared_data / "fast_artifacts" / "fast_plus"
    tok, peer = FastTokenizer.from_pretrained(folder), PublishedFast.of_folder(folder)
    single = {spelled: i for i, spelled in enumerate(tok.spec.token_bytes) if len(spelled) == 1}

    def ids(text):
        return [single[bytes([byte])] for byte in text]

    def character(coefficient):
        return chr(coefficient - tok.spec.min_token).encode()

    good = character(10) + character(-20)
    sequences = [ids(good), ids(good + character(30)), ids(good[:2]), ids(good[:2] + b"\xff")]
    stray = (REPLACEMENT + tok.spec.min_token) / tok.spec.scale
    expected = {
        "published": ([1, 0, 0, 1], [1, 1, 1, 1], [[1, -2], [0, 0], [0, 0], [1, stray]]),
        "relaxed": ([1, 0, 0, 1], [1, 1, 1, 1], [[1, -2], [1, -2], [1, 0], [1, stray]]),
        "strict": ([1, 0, 0, 0], [1, 0, 0, 0], [[1, -2]]),
        "repairing": ([1, 0, 0, 0], [1, 1, 1, 1], [[1, -2], [1, -2], [1, 0], [1, 0]]),
    }
    for name, (accepted, returned, actions) in expected.items():
        peers = name in ("published", "relaxed")
        decoder = getattr(robustness if peers else edits, name)(peer if peers else tok)
        found = decoder(sequences, 1, 2)
        assert found[0].tolist() == [bool(a) for a in accepted], name
        assert found[1].tolist() == [bool(r) for r in returned], name
        np.testing.assert_allclose(found[2][found[1]][:, 0], actions, atol=1e-9)
    assert abs(stray) > 6000


def test_a_tally_counts_what_is_returned():
    tally = edits.Tally()
    unharmed = np.full((4, 1, 2), 0.5)
    actions = np.array([[[0.5, 0.5]], [[0.0, 0.0]], [[9.0, 9.0]], [[0.5, -2.5]]])
    tally.add((np.array([1, 0, 0, 0], bool), np.array([1, 1, 0, 1], bool), actions), unharmed)
    assert robustness.cells(tally) == ["25.0 %", "25.0 %", "2.50", significant_rmse([0, 0, 0.5, 0.5, 0, 3])]
    assert robustness.cells(edits.Tally(chunks=3)) == ["0.0 %", "0.0 %", "", ""]


def significant_rmse(errors):
    return f"{np.sqrt(np.square(errors).mean()):.2f}"


def test_the_scripts_write_their_tables(shared_data, monkeypatch, tmp_path, capsys):
    path = shared_data / "trajectories" / "omniglot_pen" / "episodes.npz"
    monkeypatch.setattr(recorded, "sets", lambda: {"omniglot_pen": path})
    monkeypatch.setattr(robustness, "FAST_PLUS", shared_data / "fast_artifacts" / "fast_plus")
    few = ["--fitted", "500", "--held", "4", "--output", str(tmp_path / "table.md")]
    robustness.main([*few, "--draws", "2"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| ") == 2 + len(edits.HARMS) * 6
    assert "8 sequences a row, of 1 recorded sets" in text
    assert "clipped to [-1, 1]" in text
    assert robustness.measured() in text
    assert capsys.readouterr().out.strip() == text.strip()
    monkeypatch.setattr(prefix, "FAST_PLUS", shared_data / "fast_artifacts" / "fast_plus")
    prefix.main([*few, "--picture", str(tmp_path / "curve.png")])
    text = (tmp_path / "table.md").read_text()
    assert text.count("| omniglot_pen |") == 2
    assert "clipped to [-1, 1]" in text
    assert robustness.measured() in text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("script", "option"),
    [*((robustness, o) for o in ("--held", "--fitted", "--draws")), *((prefix, o) for o in ("--held", "--fitted"))],
)
def test_no_chunks_are_an_error_of_the_command_line(script, option, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        script.main([option, "0"])
    assert f"argument {option}: must be at least 1, got 0" in capsys.readouterr().err


def test_a_table_says_where_it_comes_from():
    machine = describe()
    for part in (machine["commit"], machine["cpu"], machine["date"][:10]):
        assert part in robustness.measured()


def test_strict_is_decode_a_sequence_at_a_time(monkeypatch):
    tok = FastTokenizer.default()
    calls = []

    def decode(self, ids, *shape):
        calls.append(ids)
        return original(self, ids, *shape)

    original = FastTokenizer.decode
    monkeypatch.setattr(FastTokenizer, "decode", decode)
    whole = tok.encode(np.zeros((1, 4, 2))).to_list()[0]
    accepted, returned, actions = edits.strict(tok)([whole, [*whole, *whole], [tok.vocab_size]], 4, 2)
    assert calls == [[whole], [[*whole, *whole]], [[tok.vocab_size]]]
    assert accepted.tolist() == returned.tolist() == [True, False, False]
    assert actions.shape == (3, 4, 2)


def test_the_cost_of_a_step_is_measured_next_to_a_softmax(monkeypatch, tmp_path):
    monkeypatch.setattr(constrained, "BATCHES", (2,))
    monkeypatch.setattr(constrained, "FAST_PLUS", tmp_path / "none")
    table = constrained.table(seconds=0.01)
    assert robustness.measured() in table.markdown()
    (line,) = table.lines
    assert line[:2] == ["native", "2"]
    assert float(line[6].removesuffix(" x")) > 0


def test_the_coding_script_writes_its_tables(shared_data, monkeypatch, tmp_path, capsys):
    name = "robosuite_panda_osc"
    path = shared_data / "trajectories" / name / "episodes.npz"
    monkeypatch.setattr(coding.recorded, "sets", lambda: {name: path})
    walks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (60, 20, 7)), axis=1)
    monkeypatch.setattr(coding.fit_default, "sources", lambda shared: iter([("walks", walks)]))
    coding.main(["--fitted", "300", "--held", "60", "--output", str(tmp_path / "coding.md")])
    text = (tmp_path / "coding.md").read_text()
    assert capsys.readouterr().out.strip().endswith(text.strip())
    blocks = readme.coding_blocks(text)
    row = next(line for line in blocks["coding"].splitlines() if line.startswith(f"| {name} |"))
    assert len(row.split("|")) == 7
    fitted, held = coding.chunks_of(path, 300, 60)
    expected = FastTokenizer.fit(fitted, 1024, **coding.CODINGS["defaults"]).encode(held).lengths.mean()
    assert f" {expected:.1f} (" in row
    assert coding.rmse(fitted, coding.scale_of_equal_error(fitted, 0.65), 0.65) <= coding.rmse(fitted, 10.0, 0.5)
