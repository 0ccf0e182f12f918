"""Damaged and hostile files: one error that names the file, and, where what is broken is left out, all others read."""

import csv
import json
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from fast_tokenizer.cli.files import load_tokens
from fast_tokenizer.cli.mixture import read_mixture
from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.io import csv as csv_reader
from fast_tokenizer.io.dataset import Steps, as_many, blamed_on
from fast_tokenizer.io.lerobot import lerobot_files
from fast_tokenizer.io.source import Source, last_number, natural
from tests.lerobot_folders import table, write_info, write_v2
from tests.pages import lerobot_folder

ONE = "data/chunk-000/episode_000001.parquet"


def refused(path, name):
    """The error's text; it is of the library and names the file."""
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        list(read(path).trajectories)
    assert type(error.value) in (ValueError, BrokenDataError)
    return str(error.value)


# ---- LeRobot -----------------------------------------------------------------------------------------------


def replaced(name, values):
    def write(path):
        old = table(1)
        pq.write_table(old.set_column(old.column_names.index(name), name, pa.array(values(len(old)))), path)

    return write


def twice(name):
    def write(path):
        old = table(1)
        pq.write_table(pa.Table.from_arrays([*old.columns, old.column(name)], [*old.column_names, name]), path)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (replaced("episode_index", lambda n: [np.nan] * n), "holds rows of the episodes [nan, nan, nan, nan]"),
        (replaced("episode_index", lambda n: [1.0] * (n - 1) + [np.inf]), "holds rows of the episodes [1.0, inf]"),
        (replaced("frame_index", lambda n: pa.array([2**62] * n, pa.timestamp("ns"))), "frame_index must be numbers"),
        (replaced("timestamp", lambda n: pa.array([2**60] * n, pa.date64())), "timestamp must be numbers"),
        (twice("episode_index"), "has 2 columns 'episode_index'"),
        (twice("action"), "has 2 columns 'action'"),
        (twice("timestamp"), "has 2 columns 'timestamp'"),
    ],
    ids=["nan", "inf", "dates", "dates out of range", "two episode_index", "two action", "two timestamp"],
)
def test_a_hostile_file_of_a_lerobot_folder_costs_its_episode(tmp_path, write, message):
    root = write_v2(tmp_path / "set")
    write(root / ONE)
    assert message in refused(root, "episode_000001.parquet")
    dataset = read(root, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 2]
    assert [e.episodes for e in dataset.left_out] == [1]


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


def test_names_that_are_nested_too_deeply_are_none(tmp_path):
    """They need not stop anything: other forms of names that are not known do not."""
    feature = {"dtype": "float32", "shape": [3], "names": nested(600)}
    root = write_v2(tmp_path / "set", info={"features": {"action": feature}})
    assert read(root).dimension_names is None


def test_texts_that_are_nested_are_none(tmp_path):
    root = write_v2(tmp_path / "set")
    row = {"episode_index": 0, "length": 7, "tasks": [nested(600)]}
    (root / "meta" / "episodes.jsonl").write_text(json.dumps(row) + "\n")
    assert next(iter(read(root).trajectories)).tasks == ("task 0",)


def test_numbers_that_are_nested_are_refused(tmp_path):
    root = write_v2(tmp_path / "set")
    row = {"episode_index": nested(600), "length": 7}
    (root / "meta" / "episodes.jsonl").write_text(json.dumps(row) + "\n")
    assert "expected rows with episode_index and length" in refused(root, "episodes.jsonl")


@pytest.mark.parametrize("column", [pa.array([2**60] * 2, pa.date64()), pa.array([2**60] * 2, pa.timestamp("us"))])
@pytest.mark.parametrize("name", ["when", "task"])
def test_tasks_that_are_dates_out_of_range_are_refused(tmp_path, column, name):
    root = write_v2(tmp_path / "set")
    (root / "meta" / "tasks.jsonl").unlink()
    pq.write_table(pa.table({"task_index": [0, 1], name: column}), root / "meta" / "tasks.parquet")
    refused(root, "tasks.parquet")


@pytest.mark.parametrize(
    ("data_path", "message"),
    [
        (".", "expected the name of a .parquet file"),
        ("data", "expected the name of a .parquet file"),
        ("{episode_index}", "expected the name of a .parquet file"),
        ("x" * 5000 + ".parquet", "data_path has 5008 characters"),
        ("{episode_index:9999}" * 40 + ".parquet", "expected the name of a .parquet file"),
        ("data/\0{episode_index}.parquet", "expected the name of a .parquet file"),
        ("x" * 900 + ".parquet", "File name too long"),
    ],
)
def test_a_data_path_that_no_file_has_is_refused(tmp_path, data_path, message):
    root = write_v2(tmp_path / "set")
    write_info(root, "v2.1", data_path=data_path)
    assert message in refused(root, str(root))


# ---- HDF5 --------------------------------------------------------------------------------------------------


def demos(path, **actions):
    with h5py.File(path, "w") as file:
        for name, values in actions.items():
            file[f"data/{name}/actions"] = values
    return path


GOOD = np.arange(15.0).reshape(5, 3)


@pytest.mark.parametrize(
    ("rows", "message"), [(2**40, "Unable to allocate"), (2**60, "array is too big")], ids=["2^40", "2^60"]
)
def test_an_array_that_claims_more_than_memory_costs_its_episode(tmp_path, rows, message):
    path = demos(tmp_path / "x.hdf5", demo_0=GOOD)
    with h5py.File(path, "a") as file:
        file.create_dataset("data/demo_1/actions", (rows, 3), "f4", chunks=(1000, 3))
    assert path.stat().st_size < 20_000
    assert f"demo_1: cannot be read: {message}" in refused(path, "x.hdf5")
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0]


@pytest.mark.parametrize(
    "attribute",
    ['{"env_kwargs": {"control_freq": 1%s}}' % ("0" * 400), json.dumps({"env_kwargs": nested(600)}), None],
    ids=["10^400", "nested", "time"],
)
def test_a_control_rate_that_is_none_is_not_there(tmp_path, attribute):
    path = demos(tmp_path / "x.hdf5", demo_0=GOOD)
    with h5py.File(path, "a") as file:
        if attribute is not None:
            file["data"].attrs["env_args"] = attribute
        else:  # of a type that NumPy lacks
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5a.create(file["data"].id, b"env_args", h5py.h5t.UNIX_D32LE, space)
    dataset = read(path)
    assert dataset.hz is None
    assert len(list(dataset.trajectories)) == 1


def test_numbers_of_thousands_of_digits_number_no_episode(tmp_path):
    digits = "9" * 5000
    path = demos(tmp_path / "x.hdf5", **{"demo_3": GOOD, f"demo_{digits}": GOOD + 1})
    assert [t.episode for t in read(path).trajectories] == [3, 1]
    assert len(list(read(path, episodes=[3]).trajectories)) == 1
    (tmp_path / "x.csv").write_text(f"action_0,episode_index\n1,7\n2,{digits}\n")
    assert [t.episode for t in read(tmp_path / "x.csv").trajectories] == [7, 1]
    assert last_number("demo_" + digits) is None
    assert sorted(["a10", f"a{digits}", "a9", "a010", "a2b", "a2a"], key=natural) == [
        "a2a", "a2b", "a9", "a10", "a010", f"a{digits}",
    ]  # fmt: skip


def test_a_zarr_array_of_more_columns_than_there_can_be_is_none(tmp_path):
    root = zarr.open_group(tmp_path / "z.zarr", mode="w", zarr_format=2)
    root.create_array("data/action", data=GOOD)
    root.create_array("meta/episode_ends", data=np.array([5]))
    described = tmp_path / "z.zarr/data/action/.zarray"
    metadata = json.loads(described.read_text()) | {"shape": [5, 10**30], "chunks": [5, 10**30]}
    described.write_text(json.dumps(metadata))
    assert "expected an array data/action of shape (N, D)" in refused(tmp_path / "z.zarr", "z.zarr")


# ---- Names -------------------------------------------------------------------------------------------------

ESCAPES = ["\x1b]0;pwned\x07\x1b[31mred", "\x9b31m", "\x00\ud800", "a\nb", "größe ✓"]
SHOWN = ("?]0;pwned??[31mred", "?31m", "??", "a b", "größe ✓")


def test_control_characters_and_surrogates_in_names_are_question_marks(tmp_path):
    root = tmp_path / "set"
    lerobot_folder(root, [np.zeros((10, 5), np.float32)], 10.0, ESCAPES)
    dataset = read(root)
    assert (dataset.dimension_names, dataset.state_names) == (SHOWN, SHOWN)
    assert lerobot_files(Source(root)).dimension_names == SHOWN, "what a sidecar compares with the artefact"

    values = np.zeros((10, 5))
    np.savez(tmp_path / "x.npz", actions=values, episode_ends=[10], action_names=ESCAPES, state=values)
    assert read(tmp_path / "x.npz").dimension_names == SHOWN
    (tmp_path / "x.csv").write_text("action_\x1b[31m,state_\x07\n1,2\n3,4\n")
    dataset = read(tmp_path / "x.csv")
    assert (dataset.dimension_names, dataset.state_names) == (("action_?[31m",), ("state_?",))


def test_control_characters_in_what_a_message_names_are_question_marks(tmp_path):
    path = demos(tmp_path / "x.hdf5", **{"demo_0": GOOD, "demo_\x1b[31m1": np.zeros((0, 3))})
    (left_out,) = read(path, on_broken="skip").left_out
    assert "demo_?[31m1 has no steps" in str(left_out)


# ---- The net -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RecursionError("x"), MemoryError("x"), KeyError("x"), OSError("x"), ValueError("x")])
def test_what_nobody_thought_of_becomes_an_error_that_names_the_file(tmp_path, error):
    with (
        pytest.raises(BrokenDataError, match=r"a\.csv: cannot be read: \w+: ") as caught,
        blamed_on(tmp_path / "a.csv"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [BrokenDataError("not finite", "x"), ImportError("x"), KeyboardInterrupt(), ValueError("a.csv: x")]
)
def test_errors_that_say_where_and_those_that_are_no_file_s_fault_stay(tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(type(error)) as caught, blamed_on(Path("a.csv")):
        raise error
    assert caught.value is error


def test_an_episode_is_given_for_each_that_is_wanted(tmp_path):
    steps = Steps(np.zeros((1, 1)))

    def broken():
        yield steps
        raise RuntimeError("x")

    given = list(as_many(tmp_path, broken(), 4))
    assert given[0] is steps
    assert [type(g) for g in given[1:]] == [BrokenDataError] * 3
    assert isinstance(given[1].__cause__, RuntimeError)
    assert all(g.__traceback__ is None for g in given[2:])
    assert str(pickle.loads(pickle.dumps(given[1]))) == str(given[3])


@pytest.mark.parametrize("place", ["_header", "_outline", "_steps"])
def test_a_file_whose_reader_fails_is_left_out_and_the_others_are_read(tmp_path, monkeypatch, place):
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text("action_0\n1\n2\n")
    real = csv.reader

    def failing(file, **options):
        if file.name.endswith("1.csv"):
            times[0] += 1
            if times[0] == ["_header", "_outline", "_steps"].index(place) + 1:
                raise RecursionError("too deep")
        return real(file, **options)

    times = [0]
    monkeypatch.setattr(csv_reader.csv, "reader", failing)
    dataset = read(tmp_path, on_broken="skip")
    monkeypatch.undo()
    assert [t.episode for t in dataset.trajectories] == [0, 2]
    (left_out,) = dataset.left_out
    assert "1.csv: cannot be read: RecursionError: too deep" in str(left_out)


def test_a_reader_that_fails_as_a_whole_names_what_it_was_to_read(tmp_path, monkeypatch):
    (tmp_path / "0.csv").write_text("action_0\n1\n2\n")

    def fail(*args, **options):
        raise AttributeError("x")

    monkeypatch.setattr(csv_reader, "of_files", fail)
    with pytest.raises(BrokenDataError, match=r"0\.csv: cannot be read: AttributeError: x"):
        read(tmp_path / "0.csv")


# ---- What commands are given -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = " + "1" * 5000, "not valid TOML: Exceeds the limit"),
        ("spill_directory = " + "[" * 600 + "]" * 600, "not valid TOML: maximum recursion depth exceeded"),
        ("memory_budget = 'x'", "expected bytes such as 2GiB"),
        ("spill_directory = '~nobody-here/x'", "spill_directory '~nobody-here/x': there is no such user"),
    ],
)
def test_a_mixture_s_options_are_refused_by_the_name_of_the_file(tmp_path, line, message):
    (tmp_path / "m.toml").write_text(f"{line}\n[embodiments.arm]\ndata = '{tmp_path}'\n")
    with pytest.raises(ValueError, match=rf"m\.toml: .*{message}"):
        read_mixture(tmp_path / "m.toml")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("data = 'x.npz'\nweight = nan", "m.toml: weights must be positive and finite"),
        ("data = 'x.npz'\nweight = 1" + "0" * 400, "embodiments.arm: weight must lie within +-2^63, got 401 digits"),
        ("data = '~nobody-here/x.npz'", "embodiments.arm: data '~nobody-here/x.npz': there is no such user"),
        (f"data = '{'x' * 300}.npz'", "File name too long"),
        ("data = 'x.npz'\nhz = 1" + "0" * 400, "embodiments.arm: hz must lie within +-2^63, got 401 digits"),
        ("data = 'x.npz'\nscale = [1, 1" + "0" * 400 + "]", "embodiment 'arm': int too large to convert to float"),
        ("data = 'x.npz'\nstride = 1" + "0" * 400, "embodiments.arm: stride must lie within +-2^63"),
    ],
)
def test_an_embodiment_s_options_are_refused_by_its_name(tmp_path, lines, message):
    np.savez(tmp_path / "x.npz", actions=np.zeros((20, 2)), episode_ends=[10, 20])
    (tmp_path / "m.toml").write_text(f"[embodiments.arm]\nhorizon = 2\n{lines}\n")

    def run():
        mixture = read_mixture(tmp_path / "m.toml")
        mixture.entries[0].open(mixture, 1, lambda *_: None)

    with pytest.raises(ValueError, match=re.escape(message)):
        run()


def test_a_member_of_a_file_of_tokens_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as file:
        for name in ("ids", "offsets", "time_horizon", "action_dim", "fingerprint"):
            file.writestr(f"{name}.npy", b"hello")
    with pytest.raises(ValueError, match=r"t\.npz: 'ids' is no array"):
        load_tokens(tmp_path / "t.npz")
