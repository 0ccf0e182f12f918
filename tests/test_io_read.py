"""Which reader a path gets, which episodes and dimensions are kept, and what the command line says of the others."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from fast_tokenizer import FastTokenizer
from fast_tokenizer.cli.workflow import open_recording, parse_dims, parse_episodes
from fast_tokenizer.io import BrokenDataError, of_arrays, read

RNG = np.random.default_rng(0)
STUB = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fast_tokenizer.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def ok(*args: object) -> str:
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*args: object) -> str:
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


def save(path: Path, *lengths: int, broken: tuple[int, ...] = (), **fields: object) -> Path:
    parts = [np.cumsum(RNG.normal(size=(n, 3)), axis=0) for n in lengths]
    for i in broken:
        parts[i][2, 1] = np.nan
    ends = np.cumsum(lengths)
    np.savez(path, actions=np.concatenate(parts), episode_ends=ends, hz=10.0, **fields)
    return path


# ---- Which reader ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.hdf5", "x.h5", "x.zip", "x.csv", "x.tfrecord"])
def test_a_pointer_is_recognised_in_every_format(tmp_path: Path, name: str):
    (tmp_path / name).write_text(STUB)
    with pytest.raises(BrokenDataError, match=f"{name}: is a Git LFS pointer, not the file: run git lfs pull"):
        read(tmp_path / name)


def test_what_is_of_no_format_is_refused_with_what_there_is(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        ValueError, match=r"notes\.txt: expected a folder, or a file ending in \.npz, .*\.csv or \.tfrecord"
    ):
        read(tmp_path / "notes.txt")
    with pytest.raises(
        ValueError, match=r"expected meta/info\.json \(LeRobot\), a zarr group, .*; got \['notes\.txt'\]"
    ):
        read(tmp_path)
    for name in ("nowhere", "nowhere.npz", "no where/at all", "a/b/c", "data/run.npz"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read(name)


def test_options_that_make_no_sense_are_refused(tmp_path: Path):
    path = save(tmp_path / "a.npz", 5)
    with pytest.raises(ValueError, match="on_broken must be 'raise' or 'skip', got 'ignore'"):
        read(path, on_broken="ignore")
    for key in ("", [], ["a", ""]):
        with pytest.raises(ValueError, match="a key must not be empty"):
            read(path, action_key=key)


def test_arrays_of_an_npz_are_read_by_their_names(tmp_path: Path):
    path = save(tmp_path / "a.npz", 5, 4, state=np.ones((9, 2)), state_names=["u", "v"], velocity=np.zeros((9, 6)))
    first, second = read(path).trajectories
    assert (first.state.shape, second.state.shape, first.state_names) == ((5, 2), (4, 2), ("u", "v"))
    assert next(iter(read(path, state=False).trajectories)).state is None
    (t, _) = read(path, action_key="velocity", state_key="actions").trajectories
    assert (t.actions.shape, t.state.shape) == ((5, 6), (5, 3))
    with pytest.raises(ValueError, match=r"expected an array 'torque', got \['actions', 'episode_ends', "):
        read(path, action_key="torque")
    with pytest.raises(ValueError, match=r"expected an array 'torque'"):
        read(path, state_key="torque")
    with pytest.raises(ValueError, match="has the action in one array, got"):
        read(path, action_key=["actions", "velocity"])
    with pytest.raises(ValueError, match=r"episode_ends of shape \(2,\) does not fit actions of shape \(9, 3\)"):
        read(path, state_key="episode_ends")
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"an npy file holds one array without a name, so there is no 'x'"):
        read(tmp_path / "a.npy", action_key="x")


# ---- Which episodes ----------------------------------------------------------------------------------


def test_what_is_left_out_is_in_neither_pass(tmp_path: Path):
    path = save(tmp_path / "a.npz", 5, 6, 7, 8, broken=(1,))
    with pytest.raises(BrokenDataError, match=r"a\.npz episode 1: actions\[2, 1\] is nan"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip", episodes=range(3))
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("not chosen", 1), ("not finite", 1)]
    assert dataset.lengths.tolist() == [5, 7]
    for _ in range(2):
        assert [(t.episode, len(t.actions)) for t in dataset.trajectories] == [(0, 5), (2, 7)]
    last = dataset.trajectories.select(np.array([False, True]))
    assert [(t.episode, t.name) for t in last] == [(2, f"{path} episode 2")]


def test_what_is_kept_of_an_error_holds_no_data(tmp_path: Path):
    (tmp_path / "episode_0.csv").write_text("action_0\n1\n2\n")
    (tmp_path / "episode_1.csv").write_text("action_0\n1\nfast\n")
    (error,) = read(tmp_path, on_broken="skip").left_out
    assert (error.__traceback__, error.__context__) == (None, None)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, again.episodes, str(again)) == (
        BrokenDataError,
        "unreadable file",
        1,
        str(error),
    )


def test_nothing_is_read_beforehand_unless_to_be_skipped(tmp_path: Path):
    path = save(tmp_path / "a.npz", 5, 6, broken=(1,))
    dataset = read(path)
    assert dataset.lengths.tolist() == [5, 6]
    assert len(list(dataset.trajectories.select(np.array([True, False])))) == 1, "what is not asked for is not checked"


def test_arrays_in_memory_are_a_dataset():
    dataset = of_arrays("two", [np.zeros((5, 2)), np.ones((3, 2), np.float32)], hz=5.0)
    got = list(dataset.trajectories.select(np.array([False, True])))
    assert [(t.name, t.episode, t.hz, t.actions.shape) for t in got] == [("two episode 1", 1, 5.0, (3, 2))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", {3}), ("0:3,5", {0, 1, 2, 5}), (" 1 , 1:3", {1, 2}), ("0:1", {0})],
)
def test_episodes_are_numbers_and_ranges(text: str, expected: set[int]):
    assert parse_episodes(text) == expected


@pytest.mark.parametrize("text", ["", "3:3", "5:2", "a", "1,,2", "-1", "1:", ":4", "1.5", "0:999999999999"])
def test_other_episodes_are_refused(text: str):
    with pytest.raises(ValueError, match=r"^--episodes: "):
        parse_episodes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("z", [2]), ("0:2,grip", [0, 1, 3]), ("grip, x", [3, 0]), ("x", [0]), ("2", [2])],
)
def test_dimensions_are_indices_ranges_and_names(text: str, expected: list[int]):
    assert parse_dims(text, 5, ("x", "y", "z", "grip", "2")) == expected


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("q", ("x", "y"), r"expected indices and ranges such as 0:6,7, or names of \['x', 'y'\]; got 'q'"),
        ("q", None, "the data has no names; got 'q'"),
        ("x,0", ("x", "y"), "'x,0' names a dimension twice"),
        ("x", ("x", "x"), "2 dimensions are called 'x'; give their indices"),
        ("0:3", ("x", "y"), r"0:3 does not lie in the data's dimensions 0\.\.1"),
    ],
)
def test_other_dimensions_are_refused(text: str, names, message: str):
    with pytest.raises(ValueError, match=message):
        parse_dims(text, 2, names)


def test_a_recording_counts_what_it_leaves_out(tmp_path: Path):
    paths = [save(tmp_path / "a.npz", 5, 30, 30, broken=(1,)), save(tmp_path / "b.npz", 30, 30, 30, 30, broken=(0, 2))]
    recording = open_recording(paths, None, None, lambda *_: None, episodes="0:3", on_broken="skip")
    counts = recording.episodes(10)
    expected = {"shorter than 10 steps": 1, "not finite": 3, "not chosen": 1}
    assert (counts.used, counts.left_out) == (2, expected)
    first, *examples = counts.lines().splitlines()
    assert first == "Episodes: 2 of 7 used; left out: 1 shorter than 10 steps, 3 not finite, 1 not chosen"
    assert examples == [f"  not finite: {paths[0]} episode 1: actions[2, 1] is nan; actions must be finite"]


# ---- The command line --------------------------------------------------------------------------------


def test_fit_and_encode_say_what_is_left_out(tmp_path: Path):
    names = np.array(["x", "y", "grip"])
    path = save(tmp_path / "a.npz", *[40] * 8, 5, broken=(3,), action_names=names)
    model, tokens = tmp_path / "tok", tmp_path / "tokens.npz"
    assert "a.npz episode 3: actions[2, 1] is nan" in fails("fit", path, "-o", model, "--vocab-size", 300)
    options = ("--on-broken", "skip", "--episodes", "0:6,8", "--dims", "0,grip")
    out = ok("fit", path, "-o", model, "--vocab-size", 300, *options)
    assert "Episodes: 5 of 9 used; left out: 1 shorter than 10 steps, 2 not chosen, 1 not finite\n" in out
    assert "not finite: " in out
    assert FastTokenizer.load(model).spec.dimension_names == ("x", "grip")
    out = ok("encode", model, path, "-o", tokens, *options)
    assert "Episodes: 5 of 9 used; left out: " in out
    figures = json.loads(ok("encode", model, path, "-o", tokens, *options, "--json"))
    left_out = {"shorter than 10 steps": 1, "not chosen": 2, "not finite": 1}
    assert (figures["episodes"], figures["episodes_left_out"], figures["chunks"]) == (5, left_out, 20)
    out = ok("demo", path, "--on-broken", "skip")
    assert "Episodes: 7 of 9 used; left out: 1 shorter than 10 steps, 1 not finite\n" in out


def test_a_lerobot_folder_is_fitted_like_its_arrays(shared_data: Path, tmp_path: Path):
    folder = tmp_path / "so101"
    shutil.copytree(shared_data / "lerobot" / "so101_record_test", folder, copy_function=shutil.copyfile)
    fit = ("--vocab-size", 300, "--json", "--state-key")
    figures = json.loads(ok("fit", folder, "-o", tmp_path / "a", *fit, "observation.state"))
    dataset = read(folder)
    actions = np.concatenate([t.actions for t in dataset.trajectories])
    fields = {"episode_ends": np.cumsum(dataset.lengths), "hz": 30, "action_names": dataset.dimension_names}
    np.savez(tmp_path / "so101.npz", actions=actions, state=actions, **fields)
    again = json.loads(ok("fit", tmp_path / "so101.npz", "-o", tmp_path / "b", *fit, "state"))
    assert figures["fingerprint"] == again["fingerprint"]
    assert (figures["episodes"], figures["episodes_left_out"]) == (4, {})


def test_keys_reach_the_reader_and_errors_are_one_line(tmp_path: Path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i in range(3):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"] = np.cumsum(RNG.normal(size=(40, 3)), axis=0)
            demo["obs/pose"] = np.zeros((40, 2))
    fit = ("fit", tmp_path / "a.hdf5", "-o", tmp_path / "tok", "--horizon", 10, "--vocab-size", 300, "--json")
    assert json.loads(ok(*fit, "--action-key", "actions,obs/pose"))["action_dim"] == 5
    assert "expected an array 'torque'" in fails(*fit, "--action-key", "torque")
    assert "expected an array 'torque'" in fails(*fit, "--state-key", "torque")
    assert "has no episode 7" in fails(*fit, "--episodes", "7")


@pytest.mark.parametrize("state", [np.full((5, 2), "a"), np.zeros((5, 2), complex)])
def test_a_state_of_no_numbers_is_refused(tmp_path: Path, state):
    np.savez(tmp_path / "x.npz", actions=np.zeros((5, 2)), episode_ends=[5], state=state)
    with pytest.raises(ValueError, match=r"x\.npz: expected state of numbers, got (<U1|complex128)"):
        read(tmp_path / "x.npz")
