"""The command line from trajectories to chunks: horizons in seconds, ends of episodes, samples, relative, mixtures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fast_tokenizer import FastTokenizer, Normalizer, windows
from fast_tokenizer.cli.mixture import read_mixture
from fast_tokenizer.cli.workflow import open_recording
from fast_tokenizer.cutting import Cut

RNG = np.random.default_rng(0)
LENGTHS = (40, 35, 7, 50, 43, 38, 41, 44)


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fast_tokenizer.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}, timeout=120)


def figures(*args: object) -> dict:
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(*args: object) -> str:
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def save(path: Path, dims: int = 3, hz: float = 10.0, seed: int = 0, **fields: object) -> Path:
    """Episodes whose state is far from 0, drifts, and stands in other columns than the actions: the last first."""
    rng = np.random.default_rng(seed)
    states = [np.cumsum(rng.normal(0, 1, (n, dims)), axis=0) + rng.normal(50, 40) for n in LENGTHS]
    actions = np.concatenate(states) + rng.normal(0, 0.1, (sum(LENGTHS), dims))
    names = [f"j{i}" for i in range(dims)]
    own = {"hz": hz, "action_names": np.array(names), "state_names": np.array(names[::-1])}
    np.savez(
        path, actions=actions, state=np.concatenate(states)[:, ::-1], episode_ends=np.cumsum(LENGTHS), **own | fields
    )
    return path


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "arm.npz")


def episodes(path):
    with np.load(path) as file:
        ends = file["episode_ends"][:-1]
        return np.split(file["actions"], ends), np.split(file["state"], ends)


# ---- Cutting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 3, 10])
@pytest.mark.parametrize("rule", ["drop", "repeat-last"])
def test_both_rules_for_ends_are_counted(path, tmp_path, rule, stride):
    out = figures(
        "fit", path, "-o", tmp_path / "tok", "--horizon", "1s", "--stride", stride, "--episode-end", rule,
        "--vocab-size", 400, "--holdout", 0,
    )  # fmt: skip
    parts, _ = episodes(path)
    whole = sum(len(windows(p, 10, stride)) for p in parts)
    all_starts = sum(len(range(0, len(p), stride)) for p in parts)
    kept = whole if rule == "drop" else all_starts
    assert (out["fit_chunks"], out["time_horizon"]) == (kept, 10)
    assert (out["episode_end"], out["stride"]) == (rule, stride)
    counts = (out["chunks_dropped_at_end"], out["chunks_filled_at_end"])
    assert counts == ((all_starts - whole, 0) if rule == "drop" else (0, all_starts - whole))
    assert out["episodes_left_out"] == ({"shorter than 10 steps": 1} if rule == "drop" else {})
    assert out["episodes"] == (7 if rule == "drop" else 8)


def test_encode_fills_ends_as_fit_does(path, tmp_path):
    figures("fit", path, "-o", tmp_path / "tok", "--vocab-size", 400, "--episode-end", "repeat-last")
    out = figures("encode", tmp_path / "tok", path, "-o", tmp_path / "ids.npz", "--episode-end", "repeat-last")
    parts, _ = episodes(path)
    chunks = np.concatenate([windows(p, 10, 10, episode_end="repeat-last") for p in parts])
    assert (out["chunks"], out["steps_left_out"]) == (len(chunks), 0)
    with np.load(tmp_path / "ids.npz") as file:
        assert str(file["episode_end"]) == "repeat-last"
        expected = FastTokenizer.load(tmp_path / "tok").encode(chunks)
        assert file["ids"].tolist() == expected.ids.tolist()
    dropped = figures("encode", tmp_path / "tok", path, "-o", tmp_path / "ids.npz")
    assert dropped["steps_left_out"] == sum(n % 10 for n in LENGTHS)


def test_horizons_in_seconds_go_by_each_dataset(tmp_path):
    for hz, steps in ((10.0, 5), (30.0, 15), (15.0, 8)):
        data = save(tmp_path / f"{hz}.npz", hz=hz)
        assert (
            figures("fit", data, "-o", tmp_path / "tok", "--horizon", "0.5s", "--vocab-size", 400)["time_horizon"]
            == steps
        )


def test_chunks_that_were_cut_before_have_no_end_to_fill(tmp_path):
    np.savez(tmp_path / "chunks.npz", chunks=np.zeros((5, 10, 2)), hz=10.0)
    message = "--episode-end repeat-last: the data holds chunks, not episodes that could be filled"
    assert message in fails("fit", tmp_path / "chunks.npz", "-o", tmp_path / "tok", "--episode-end", "repeat-last")
    out = figures("fit", tmp_path / "chunks.npz", "-o", tmp_path / "tok")
    assert (out["chunks_dropped_at_end"], out["episodes_left_out"]) == (0, {})


def test_samples_by_share_are_seeded(path, tmp_path):
    def fitted(*options):
        return figures("fit", path, "-o", tmp_path / "tok", "--vocab-size", 400, "--holdout", 0, *options)

    all_of = fitted()["fit_chunks"]
    share = fitted("--sample-fraction", 0.3)
    assert (share["fit_chunks"], share["fit_chunks_left_out"]) == (round(0.3 * all_of), all_of - round(0.3 * all_of))
    assert share["fingerprint"] == fitted("--sample-fraction", 0.3)["fingerprint"]
    assert share["fingerprint"] == fitted("--max-chunks", round(0.3 * all_of))["fingerprint"]
    assert share["fingerprint"] != fitted("--sample-fraction", 0.3, "--seed", 1)["fingerprint"]
    both = fails("fit", path, "-o", tmp_path / "tok", "--max-chunks", 5, "--sample-fraction", 0.3)
    assert "give max_chunks or sample_fraction, not both" in both
    assert "sample_fraction must lie in (0, 1], got 1.5" in fails("fit", path, "-o", tmp_path, "--sample-fraction", 1.5)


# ---- Relative ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [(), ("--sample-fraction", 0.9)])
def test_relative_actions_from_fit_to_decode(path, tmp_path, sample):
    model, ids, back = tmp_path / "tok", tmp_path / "ids.npz", tmp_path / "back.npz"
    out = figures("fit", path, "-o", model, "--vocab-size", 500, "--relative", "0:2", "--holdout", 0, *sample)
    tok = FastTokenizer.load(model)
    rule = tok.spec.relative
    assert (rule.dimensions, rule.state_columns, rule.state_dim) == ((0, 1), (2, 1), 3), "columns by their names"
    assert rule.state_names == ("j0", "j1")
    actions, states = episodes(path)
    chunks = np.concatenate([windows(a, 10) for a in actions])
    starts = np.concatenate([s[: max(0, len(s) - 9)] for s in states])
    relative = chunks.copy()
    relative[:, :, 0] -= starts[:, 2, None]
    relative[:, :, 1] -= starts[:, 1, None]
    expected = Normalizer.fit(relative, "quantile")
    np.testing.assert_allclose(tok.spec.normalizer.half_range, expected.half_range, rtol=1e-12)
    assert expected.half_range[0] < Normalizer.fit(chunks, "quantile").half_range[0] / 2
    errors = tok.decode(tok.encode(chunks, state=starts), state=starts) - chunks
    np.testing.assert_allclose(out["raw_rmse"], np.sqrt(np.square(errors).mean()), rtol=1e-9)

    figures("encode", model, path, "-o", ids)
    figures("decode", model, ids, "-o", back)
    with np.load(back) as file:
        decoded = file["actions"]
    every = np.concatenate([windows(a, 10, 10) for a in actions])
    assert decoded.shape == every.shape
    assert np.abs(decoded - every)[:, :, :2].max() < 1.5
    shown = json.loads(run("inspect", model, "--json").stdout)
    assert shown["relative"] == {
        "dimensions": [0, 1], "state_columns": [2, 1], "state_dim": 3, "state_names": ["j0", "j1"]
    }  # fmt: skip
    assert "0 to state 2, 1 to state 1" in run("inspect", model).stdout


@pytest.mark.parametrize(
    ("relative", "dims", "fields", "columns"),
    [
        ("j2,j0", None, {}, {0: 2, 2: 0}),
        ("0=j2,1:3=1:3", None, {}, {0: 0, 1: 1, 2: 2}),
        ("0:2", None, {"state_names": None, "action_names": None}, {0: 0, 1: 1}),
        ("0:2", "1:3", {"state_names": None, "action_names": None}, {0: 1, 1: 2}),
        ("0:2=0:2", None, {"state_names": None}, {0: 0, 1: 1}),
        ("0:2", "1:3", {}, {0: 1, 1: 0}),
        ("1", "2,0", {"state_names": None, "action_names": None}, {1: 0}),
    ],
)
def test_columns_of_the_state_go_by_name_or_by_the_datas_own_index(tmp_path, relative, dims, fields, columns):
    data = save(tmp_path / "arm.npz")
    with np.load(data) as file:
        kept = {k: file[k] for k in file.files if fields.get(k, 0) is not None}
    np.savez(data, **kept)
    rule = open_recording([data], None, dims, lambda *_: None, relative=relative).relative
    assert dict(zip(rule.dimensions, rule.state_columns, strict=True)) == columns


@pytest.mark.parametrize(
    ("relative", "message"),
    [
        ("7", "--relative: 7 does not lie in the data's dimensions 0..2"),
        ("0,0", "--relative: '0,0' names a dimension twice"),
        ("j0=elbow", "--relative, of the state: expected indices and ranges"),
        ("0:2=0", "--relative: '0:2=0' has 2 dimensions, but 1 columns"),
        ("0=", "--relative, of the state: expected indices and ranges"),
    ],
)
def test_other_rules_are_refused(path, relative, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        open_recording([path], None, None, lambda *_: None, relative=relative)


def without(path, *fields):
    other = path.with_name(f"without_{'_'.join(fields)}.npz")
    with np.load(path) as file:
        np.savez(other, **{k: file[k] for k in file.files if k not in fields})
    return other


@pytest.mark.parametrize("order", [1, -1])
def test_names_of_the_state_are_those_of_all_files(path, tmp_path, order):
    def rule(*paths, text):
        return open_recording(list(paths)[::order], None, None, lambda *_: None, relative=text).relative

    other = save(tmp_path / "other.npz", seed=1, state_names=np.array(["j0", "j1", "j2"]))
    with pytest.raises(ValueError, match=r"has the state columns \['j.', 'j1', 'j.'\], .* has \['j"):
        rule(path, other, text="0")
    unnamed = without(path, "state_names")
    for text in ("0", "0=j2"):
        with pytest.raises(ValueError, match=f"{unnamed} does not name its"):
            rule(path, unnamed, text=text)
    assert rule(path, unnamed, text="0=2").state_names is None
    no_actions = without(path, "action_names")
    for text in ("0", "j0"):
        with pytest.raises(ValueError, match=f"{no_actions} does not name its dimensions"):
            rule(path, no_actions, text=text)


def test_columns_that_could_be_meant_otherwise_have_to_be_said(path, tmp_path):
    for field, what in (("state_names", "state"), ("action_names", "dimensions")):
        one = without(path, field)
        with pytest.raises(ValueError, match=f"{one} does not name its {what}; say which column, as in 0=0"):
            open_recording([one], None, None, lambda *_: None, relative="0")
    neither = without(path, "state_names", "action_names")
    with np.load(neither) as file:
        np.savez(tmp_path / "wide.npz", **{**file, "state": np.tile(file["state"], 2)})
    with pytest.raises(ValueError, match="has 3 dimensions and 6 state columns, none with a name; say which column"):
        open_recording([tmp_path / "wide.npz"], None, None, lambda *_: None, relative="0")
    assert open_recording([tmp_path / "wide.npz"], None, None, lambda *_: None, relative="0=5").relative is not None


def test_what_is_relative_to_what_is_told(path, tmp_path):
    fit = ("fit", path, "-o", tmp_path / "tok", "--vocab-size", 500, "--relative", "0,1=2")
    assert figures(*fit)["relative"] == [
        {"dimension": 0, "dimension_name": "j0", "state_column": 2, "state_name": "j0"},
        {"dimension": 1, "dimension_name": "j1", "state_column": 2, "state_name": "j0"},
    ]
    assert "Relative, dimension <- state column: 0 (j0) <- 2 (j0), 1 (j1) <- 2 (j0)" in run(*fit).stdout
    unnamed = without(path, "state_names")
    message = "does not name its state, but the actions are relative to the columns ['j0', 'j0']"
    assert message in fails("encode", tmp_path / "tok", unnamed, "-o", tmp_path / "ids.npz")


def test_data_without_a_fitting_state_is_refused(path, tmp_path):
    other = save(tmp_path / "other.npz", state_names=np.array(["a", "b", "c"]))
    fit = ("-o", tmp_path / "tok", "--vocab-size", 500, "--relative", "0:2")
    assert "not one column of the state is called 'j0', of ['a', 'b', 'c']; say which, as in j0=a" in fails(
        "fit", other, *fit
    )
    figures("fit", path, *fit)
    message = "columns [2, 1] of the state are ['c', 'b'], but the actions are relative to ['j0', 'j1']"
    assert message in fails("encode", tmp_path / "tok", other, "-o", tmp_path / "ids.npz")
    with np.load(path) as file:
        np.savez(tmp_path / "none.npz", **{k: file[k] for k in file.files if "state" not in k})
    assert "has no state, which --relative needs" in fails("fit", tmp_path / "none.npz", *fit)
    assert "has no state, which relative actions need" in fails(
        "encode", tmp_path / "tok", tmp_path / "none.npz", "-o", tmp_path / "ids.npz"
    )


def test_long_trajectories_come_in_parts_with_their_states(path, monkeypatch):
    recording = open_recording([path], None, None, lambda *_: None, relative="0:3")
    for end in ("drop", "repeat-last"):
        cut = Cut(10, 3, end, recording.relative)
        whole = np.concatenate(list(cut.model_chunks(recording.trajectories)))
        monkeypatch.setattr("fast_tokenizer.cutting.WINDOW_VALUES", 60)
        parts = list(cut.model_chunks(recording.trajectories))
        assert max(len(p) for p in parts) == 2
        assert (np.concatenate(parts) == whole).all()
        assert len(whole) == cut.count(recording.trajectories.lengths).sum()
        monkeypatch.undo()


# ---- Mixtures ----------------------------------------------------------------------------------------

CONFIG = """
vocab_size = 700
holdout = 0.25
order = "dimension-first"

[embodiments.arm]
data = "arm.npz"
weight = 1
relative = "0:2"
stride = 2

[embodiments.hand]
data = ["hand.npz"]
weight = 3
horizon = "0.5s"
dims = "0:4"
scale = 5
normalize = "min-max"
episode_end = "repeat-last"
"""


@pytest.fixture
def mixture(path, tmp_path):
    save(tmp_path / "hand.npz", dims=6, hz=30.0, seed=1)
    (tmp_path / "mixture.toml").write_text(CONFIG)
    return tmp_path / "mixture.toml"


def test_a_mixture_from_its_file_to_decoded_actions(mixture, tmp_path):
    model, ids, back = tmp_path / "tok", tmp_path / "ids.npz", tmp_path / "back.npz"
    out = figures("fit-mixture", mixture, "-o", model)
    tok = FastTokenizer.load(model)
    assert tok.fingerprint() == out["fingerprint"]
    assert tok.embodiments == ("arm", "hand")
    arm, hand = (tok.embodiment(name).spec for name in tok.embodiments)
    assert (arm.time_horizon, arm.action_dim, arm.scale, arm.hz, arm.normalizer.kind) == (10, 3, 10.0, 10.0, "quantile")
    assert (hand.time_horizon, hand.action_dim, hand.scale, hand.hz, hand.normalizer.kind) == (
        15,
        4,
        5.0,
        30.0,
        "min-max",
    )
    assert (arm.relative.dimensions, hand.relative) == ((0, 1), None)
    assert arm.order == hand.order == "dimension-first"
    arm_out, hand_out = out["embodiments"]["arm"], out["embodiments"]["hand"]
    assert abs(arm_out["share"] - 0.25) < 0.02
    coefficients = arm_out["fit_chunks"] * 30, hand_out["fit_chunks"] * 60
    assert arm_out["share"] == coefficients[0] / sum(coefficients)
    assert 0 in (arm_out["fit_chunks_left_out"], hand_out["fit_chunks_left_out"])
    assert (arm_out["episode_end"], hand_out["episode_end"]) == ("drop", "repeat-last")
    assert {arm_out["measured_on"], hand_out["measured_on"]} == {"held-out episodes"}

    for name, dims in (("arm", ()), ("hand", ("--dims", "0:4"))):
        figures("encode", model, tmp_path / f"{name}.npz", "-o", ids, "--embodiment", name, *dims)
        figures("decode", model, ids, "-o", back)
        actions, _ = episodes(tmp_path / f"{name}.npz")
        spec = tok.embodiment(name).spec
        every = np.concatenate([windows(a, spec.time_horizon, spec.time_horizon) for a in actions])[
            :, :, : spec.action_dim
        ]
        with np.load(back) as file:
            assert file["actions"].shape == every.shape
            unit = spec.normalizer.half_range / spec.scale
            assert (np.abs(file["actions"] - every) <= unit * np.sqrt(spec.time_horizon)).mean() > 0.99
    message = "the tokenizer has several embodiments: say which with --embodiment, one of arm, hand"
    assert message in fails("encode", model, tmp_path / "arm.npz", "-o", ids)
    assert set(json.loads(run("inspect", model, "--json").stdout)["embodiments"]) == {"arm", "hand"}
    assert run("inspect", model).returncode == 0


def test_paths_of_a_mixture_are_beside_its_file_only(mixture, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    save(elsewhere / "other.npz")
    save(elsewhere / "data" / "other.npz")
    monkeypatch.chdir(elsewhere)
    for name in ("other.npz", "data/other.npz"):
        mixture.write_text(f'[embodiments.arm]\ndata = "{name}"\n')
        with pytest.raises(ValueError, match=rf"embodiments.arm: data '{name}' is not there: {tmp_path / name} does"):
            read_mixture(mixture)
    mixture.write_text('spill_directory = "spill"\n[embodiments.arm]\ndata = ["arm.npz", "lerobot/pusht"]\n')
    config = read_mixture(mixture)
    assert config.shared["spill_directory"] == str(tmp_path / "spill")
    assert config.entries[0].data == (tmp_path / "arm.npz", Path("lerobot/pusht"))
    mixture.write_text('[embodiments.arm]\ndata = ""\n')
    with pytest.raises(ValueError, match="data must be a path, or a list of them, got ''"):
        read_mixture(mixture)


def test_a_mixture_says_what_it_did(mixture, tmp_path):
    done = run("fit-mixture", mixture, "-o", tmp_path / "tok")
    assert done.returncode == 0, done.stderr
    for text in ("arm: 25.", "hand: 7", "drawn uniformly", "(repeat-last)", "(drop)", "Saved to"):
        assert text in done.stdout


def test_a_mixture_of_one_is_that_fit(mixture, tmp_path):
    mixture.write_text('vocab_size = 400\n[embodiments.arm]\ndata = "arm.npz"\nrelative = "0:2"\n')
    figures("fit-mixture", mixture, "-o", tmp_path / "a")
    figures("fit", tmp_path / "arm.npz", "-o", tmp_path / "b", "--vocab-size", 400, "--relative", "0:2")
    a, b = FastTokenizer.load(tmp_path / "a"), FastTokenizer.load(tmp_path / "b")
    assert (a.merges == b.merges).all()
    assert (a.spec.normalizer.center == b.spec.normalizer.center).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("vocab_size =", "not valid TOML"),
        ("vocab = 3", "unknown option 'vocab'; there are vocab_size, "),
        ("vocab_size = 400", "needs a table [embodiments.NAME] for each embodiment"),
        ('vocab_size = "400"', "vocab_size has a wrong type: '400'"),
        ("[embodiments]\narm = 3", "embodiments.arm: expected a table, got 3"),
        ("[embodiments.arm]", "embodiments.arm: data must be a path, or a list of them, got None"),
        ('[embodiments.arm]\ndata = "arm.npz"\nhorizons = 3', "embodiments.arm: unknown option 'horizons'"),
        ('[embodiments.arm]\ndata = "arm.npz"\nstride = true', "embodiments.arm: stride has a wrong type: True"),
        ('[embodiments.arm]\ndata = "arm.npz"\nepisode_end = "cut"', "embodiment 'arm': episode_end must be one of"),
        ('[embodiments.arm]\ndata = "arm.npz"\nnormalize = "max"', "embodiment 'arm': normalizer kind must be one of"),
        ('[embodiments.arm]\ndata = "leg.npz"', "embodiments.arm: data 'leg.npz' is not there"),
        ('[embodiments.arm]\ndata = "arm.npz"\nweight = -1', "weights must be positive and finite, got [-1]"),
    ],
)
def test_a_bad_configuration_is_refused(mixture, tmp_path, config, message):
    mixture.write_text(config)
    assert message in fails("fit-mixture", mixture, "-o", tmp_path / "tok")
