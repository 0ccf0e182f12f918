"""Which reader a path gets, which episodes and dimensions are kept, and what the command line says of the others."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
        ("x:y", ("x", "y"), "expected indices and ranges .* got 'x:y'"),
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


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.full((5, 2), "a"), r"expected state of numbers, got <U1 of shape \(5, 2\)"),
        (np.zeros((5, 2), complex), "expected state of numbers, got complex128"),
        (np.zeros((5, 0)), r"expected state of numbers, got float64 of shape \(5, 0\)"),
        (np.zeros(5), r"state of shape \(5,\) does not fit actions of shape \(5, 2\)"),
        (np.zeros((5, 3)), "state_names has 2 names for 3 dimensions"),
    ],
)
def test_a_state_that_is_none_is_refused(tmp_path: Path, state, message: str):
    np.savez(tmp_path / "x.npz", actions=np.zeros((5, 2)), episode_ends=[5], state=state, state_names=["a", "b"])
    with pytest.raises(ValueError, match=rf"x\.npz: {message}"):
        read(tmp_path / "x.npz")


def test_names_are_of_the_arrays_that_have_them_only(tmp_path: Path):
    names = {"action_names": ["x", "y", "z"], "state_names": ["u", "v"]}
    path = save(
        tmp_path / "a.npz", 5, state=np.ones((5, 2)), velocity=np.zeros((5, 3)), force=np.zeros((5, 2)), **names
    )
    (t,) = read(path, action_key="velocity", state_key="force").trajectories
    assert (t.dimension_names, t.state_names) == (None, None)


# ---- Several files -----------------------------------------------------------------------------------


def test_names_of_all_files_must_agree(tmp_path: Path):
    order = {"a": None, "b": ["x", "y", "z"], "c": ["y", "x", "z"]}
    paths = {k: save(tmp_path / f"{k}.npz", 9, **({"action_names": v} if v else {})) for k, v in order.items()}

    def opened(*names: str, **options):
        return open_recording([paths[n] for n in names], None, options.get("dims"), lambda *_: None)

    with pytest.raises(ValueError, match=r"c\.npz has the dimensions \['y', 'x', 'z'\], .*b\.npz has \['x',"):
        opened("a", "b", "c")
    assert opened("a", "b").dimension_names == opened("b", "a").dimension_names == ("x", "y", "z")
    for names in (("a", "b"), ("b", "a")):
        with pytest.raises(ValueError, match=r"--dims: .*a\.npz does not name its dimensions; give the index of 'z'"):
            opened(*names, dims="z")
        assert opened(*names, dims="2,0:1").dimension_names == ("z", "x")
    assert opened("b", dims="z").dimension_names == ("z",)


def test_a_rate_that_is_given_reaches_the_readers(tmp_path: Path):
    (tmp_path / "a.csv").write_text("time,action_0\n" + "".join(f"{100 * i},{i}\n" for i in range(9)))
    (tmp_path / "b.csv").write_text("action_0\n" + "".join(f"{i}\n" for i in range(9)))
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(ValueError, match="are they milliseconds"):
        open_recording(paths, None, None, lambda *_: None)
    recording = open_recording(paths, 10.0, None, lambda *_: None)
    assert [t.hz for t in recording.trajectories] == [10.0, 10.0]


def test_keys_may_stand_apart(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    keys = {"action_key": "a, c", "state_key": " b "}
    (t,) = open_recording([tmp_path / "a.csv"], None, None, lambda *_: None, **keys).trajectories
    assert (t.actions.tolist(), t.state.tolist()) == ([[1, 3]], [[2]])
    with pytest.raises(ValueError, match="a key must not be empty"):
        open_recording([tmp_path / "a.csv"], None, None, lambda *_: None, action_key="a,")


def test_a_hub_id_is_data(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    folder = str(shared_data / "lerobot" / "so101_record_test")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: folder)
    monkeypatch.chdir(tmp_path)
    recording = open_recording([Path("someone/so101")], None, "gripper.pos", lambda *_: None)
    assert (len(recording.trajectories), recording.dimension_names) == (4, ("gripper.pos",))


def test_every_reason_is_counted_and_reported(tmp_path: Path):
    """Episodes too short, with a gap in time, with NaN, as a pointer, missing, not listed."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "data").mkdir()
    info = {"codebase_version": "v2.1", "fps": 10, "data_path": "data/{episode_index}.parquet", "total_episodes": 9}
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    for i in range(8):
        actions = np.cumsum(RNG.normal(size=(40 if i else 5, 2)), axis=0)
        times = np.arange(len(actions)) / 10
        times[20:] += 0.5 * (i == 1)
        actions[3] += np.nan if i == 2 else 0
        pq.write_table(pa.table({"action": actions.tolist(), "timestamp": times}), tmp_path / "data" / f"{i}.parquet")
    lines = [json.dumps({"episode_index": i, "length": 40 if i else 5}) for i in range(7)]
    (tmp_path / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    (tmp_path / "data" / "3.parquet").write_text(STUB)
    (tmp_path / "data" / "4.parquet").unlink()
    fit = ("fit", tmp_path, "-o", tmp_path / "tok", "--horizon", "1s", "--vocab-size", 300)
    expected = {
        "shorter than 10 steps": 1,
        "gap in time": 1,
        "not finite": 1,
        "Git LFS pointer": 1,
        "missing file": 2,
        "not listed": 1,
    }
    figures = json.loads(ok(*fit, "--on-broken", "skip", "--json"))
    assert (figures["episodes"], figures["episodes_left_out"]) == (2, expected)
    out = ok("encode", tmp_path / "tok", tmp_path, "-o", tmp_path / "tokens.npz", "--on-broken", "skip")
    assert "Episodes: 2 of 9 used; left out: " in out
    assert all(f"{count} {reason}" in out for reason, count in expected.items())
    assert all(f"\n  {reason}: {tmp_path}" in out for reason in list(expected)[1:])


def test_the_demo_takes_the_options_of_fit(tmp_path: Path):
    path = save(tmp_path / "a.npz", *[40] * 8, state=np.ones((320, 1)), action_names=["x", "y", "grip"])
    options = ("--dims", "0,grip", "--state-key", "state", "--episodes", "0:6")
    figures = json.loads(ok("demo", path, *options, "--json"))["a"]
    assert (figures["action_dim"], figures["episodes"], figures["episodes_left_out"]) == (2, 6, {"not chosen": 2})
    assert "--dims: needs DATA" in fails("demo", *options)
