"""Datasets: outlines that are checked when they are opened, actions that are read when they are iterated."""

import gc
import tracemalloc
import zipfile

import numpy as np
import pytest

from fast_tokenizer import chunk, cutting
from fast_tokenizer.chunk import windows
from fast_tokenizer.cli.workflow import iterate_windows, open_recording, parse_bytes, split_holdout
from fast_tokenizer.io import BrokenDataError, Trajectories, read
from fast_tokenizer.io import dataset as datasets_module


def episodes(*lengths, dims=3, dtype=np.float64):
    rows = np.arange(sum(lengths) * dims, dtype=dtype).reshape(-1, dims)
    return np.split(rows, np.cumsum(lengths)[:-1])


def save(path, parts, compress=False, **fields):
    ends = np.cumsum([len(p) for p in parts])
    (np.savez_compressed if compress else np.savez)(path, actions=np.concatenate(parts), episode_ends=ends, **fields)
    return path


def actions_of(trajectories):
    return [t.actions for t in trajectories]


def assert_same(got, expected):
    assert len(got) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


# ---- Outlines and actions ----------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_an_npz_of_episodes_is_read_as_often_as_it_is_iterated(tmp_path, compress):
    parts = episodes(4, 1, 7, dtype=np.float32)
    names = np.array(["x", "y", "z"])
    dataset = read(save(tmp_path / "a.npz", parts, compress, hz=20, action_names=names))
    assert (dataset.action_dim, dataset.hz, dataset.dimension_names) == (3, 20.0, ("x", "y", "z"))
    assert dataset.lengths.tolist() == [4, 1, 7]
    assert dataset.horizon is None
    for _ in range(2):
        assert_same(actions_of(dataset.trajectories), parts)
    first = next(iter(dataset.trajectories))
    assert first.name == f"{tmp_path / 'a.npz'} episode 0"
    assert (first.hz, first.dimension_names, first.actions.dtype) == (20.0, ("x", "y", "z"), np.float32)


def test_files_of_chunks_and_single_trajectories(tmp_path):
    chunks = np.random.default_rng(0).normal(size=(6, 5, 2))
    np.save(tmp_path / "chunks.npy", chunks)
    np.savez(tmp_path / "chunks.npz", chunks=chunks)
    np.save(tmp_path / "one.npy", chunks.reshape(-1, 2))
    for name in ("chunks.npy", "chunks.npz"):
        dataset = read(tmp_path / name)
        assert (dataset.horizon, dataset.lengths.tolist()) == (5, [5] * 6)
        assert_same(actions_of(dataset.trajectories), list(chunks))
    one = read(tmp_path / "one.npy")
    assert (one.horizon, one.lengths.tolist()) == (None, [30])
    assert_same(actions_of(one.trajectories), [chunks.reshape(-1, 2)])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_arrays_of_any_layout_are_read(tmp_path, order, dtype):
    rows = np.arange(30.0).reshape(10, 3)
    np.savez(tmp_path / "a.npz", actions=np.array(rows, dtype, order=order), episode_ends=[4, 10])
    np.save(tmp_path / "a.npy", np.array(rows, dtype, order=order))
    assert_same(actions_of(read(tmp_path / "a.npz").trajectories), [rows[:4], rows[4:]])
    assert_same(actions_of(read(tmp_path / "a.npy").trajectories), [rows])


def test_trajectories_of_several_files_are_selected_and_cut(tmp_path):
    parts = episodes(4, 1, 7, 2, 5)
    datasets = [read(save(tmp_path / "a.npz", parts[:3])), read(save(tmp_path / "b.npz", parts[3:]))]
    every = Trajectories(datasets)
    assert len(every) == 5
    long = every.select(every.lengths > 1)
    assert long.lengths.tolist() == [4, 7, 2, 5]
    chosen = long.select(np.array([False, True, False, True]))
    assert_same(actions_of(chosen), [parts[2], parts[4]])
    assert [t.name.rsplit("/")[-1] for t in chosen] == ["a.npz episode 2", "b.npz episode 1"]
    cut = Trajectories(datasets, dimensions=[2, 0]).select(np.arange(5) == 3)
    assert_same(actions_of(cut), [parts[3][:, [2, 0]]])


def test_a_file_of_which_nothing_is_chosen_is_not_opened_again(tmp_path):
    every = Trajectories([read(save(tmp_path / f"{n}.npz", episodes(n, n))) for n in (2, 3)])
    (tmp_path / "2.npz").unlink()
    assert len(actions_of(every.select(every.lengths == 3))) == 2


def test_one_file_is_in_memory_at_a_time(tmp_path):
    rows = np.zeros((40_000, 5))
    paths = [tmp_path / f"{i}.npz" for i in range(8)]
    for path in paths:
        save(path, np.array_split(rows, 10))
    gc.collect()
    tracemalloc.start()
    recording = open_recording(paths, None, None, lambda *_: None)
    assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 4, "opening reads outlines only"
    for _ in range(2):
        for _ in iterate_windows(recording.trajectories, 10, 10):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * rows.nbytes


def test_what_is_yielded_stays_as_it_is(tmp_path):
    parts = episodes(4, 1, 7)
    kept = actions_of(read(save(tmp_path / "a.npz", parts)).trajectories)
    for actions in kept:
        assert actions.base is None, "no hold of the whole file"
        actions += 1
    assert_same(actions_of(read(tmp_path / "a.npz").trajectories), parts)


# ---- What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 17, 99])
def test_a_value_that_is_not_finite_is_named_when_it_is_read(tmp_path, monkeypatch, at):
    monkeypatch.setattr(datasets_module, "_CHECKED_VALUES", 30)
    rows = np.zeros((100, 3))
    rows[at, 2] = np.inf
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "chunks.npy", rows.reshape(20, 5, 3))
    for name, where in (("a.npy episode 0", f"{at}, 2"), (f"chunks.npy chunk {at // 5}", f"{at % 5}, 2")):
        dataset = read(tmp_path / name.split()[0])
        with pytest.raises(BrokenDataError, match=rf"{name}: actions\[{where}\] is inf; actions must be finite"):
            list(dataset.trajectories)


def test_damage_that_shows_when_it_is_read_names_the_file(tmp_path):
    path = save(tmp_path / "a.npz", [np.random.default_rng(0).normal(size=(5000, 3))], compress=True)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("actions.npy").header_offset
    content[start + 20_000 : start + 20_050] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable npz file: "):
        list(read(path).trajectories)


def test_an_npy_that_is_called_npz_says_so(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros((4, 2)))
    with pytest.raises(
        BrokenDataError, match=r"a\.npz: not a readable npz file: it holds a single array; name it \.npy"
    ):
        read(tmp_path / "a.npz")


def test_single_numbers_are_no_actions(tmp_path):
    np.savez(tmp_path / "a.npz", actions=1.0, state=2.0, state_names=["x"], episode_ends=[1])
    with pytest.raises(ValueError, match=r"a\.npz: expected actions of shape \(L, D\) .*; got \(\)"):
        read(tmp_path / "a.npz")


def test_names_that_are_no_text_are_refused(tmp_path):
    names = np.array([0x110000, 0x20], "<u4").view("<U1")
    path = save(tmp_path / "a.npz", episodes(4, 5, dims=2), action_names=names)
    with pytest.raises(BrokenDataError, match=r"a\.npz: a dimension's name is no text"):
        read(path)


@pytest.mark.parametrize(
    ("hz", "got"),
    [
        (np.array(0.0), r"0\.0"),
        (np.array(np.nan), "nan"),
        (np.array([10, 20]), r"int64 of shape \(2,\)"),
        (np.array([0x110000], "<u4").view("<U1"), r"<U1 of shape \(1,\)"),
    ],
    ids=["zero", "NaN", "two", "no text either"],
)
def test_a_rate_that_is_no_positive_number_is_refused(tmp_path, hz, got):
    with pytest.raises(ValueError, match=rf"a\.npz: hz must be one positive number, got {got}"):
        read(save(tmp_path / "a.npz", episodes(4, 5), hz=hz))


@pytest.mark.parametrize("name", ["actions", "episode_ends", "hz"])
def test_members_that_are_no_arrays_are_refused(tmp_path, name):
    path = save(tmp_path / "a.npz", episodes(4, 5), hz=10)
    with zipfile.ZipFile(path) as file:
        members = {n: file.read(n) for n in file.namelist()}
    members[f"{name}.npy"] = b"no array"
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, content)
    with pytest.raises(BrokenDataError, match=r"a\.npz: not a readable npz file: "):
        read(path)


@pytest.mark.parametrize("shape", ["(2, 100000000000000000000)", "(1000000000000000, 2)", "(-1, 2)"])
def test_headers_that_claim_what_no_memory_holds_are_refused(tmp_path, shape):
    path = save(tmp_path / "a.npz", episodes(4, 5))
    with zipfile.ZipFile(path) as file:
        members = {n: file.read(n) for n in file.namelist()}
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    members["episode_ends.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, content)
    with pytest.raises(BrokenDataError, match=r"a\.npz: not a readable npz file: "):
        read(path)


def test_a_file_that_changes_between_reads_is_refused(tmp_path):
    dataset = read(save(tmp_path / "a.npz", episodes(4, 5)))
    save(tmp_path / "a.npz", episodes(4, 6))
    with pytest.raises(ValueError, match=r"a\.npz: changed while it was in use: .* shape \(9, 3\), .* shape \(10, 3\)"):
        list(dataset.trajectories)


# ---- Windows, shares, sizes --------------------------------------------------------------------------


@pytest.mark.parametrize("values", [1, 40, 1 << 22])
@pytest.mark.parametrize(("horizon", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5), (3, 7), (30, 2)])
def test_windows_of_long_trajectories_come_in_parts(tmp_path, monkeypatch, values, horizon, stride):
    monkeypatch.setattr(cutting, "WINDOW_VALUES", values)
    parts = episodes(1, 4, 5, 6, 29, 40)
    trajectories = read(save(tmp_path / "a.npz", parts)).trajectories
    got = list(iterate_windows(trajectories, horizon, stride))
    expected = [windows(p, horizon, stride) for p in parts]
    assert_same(np.concatenate(got), np.concatenate(expected))
    assert all(0 < chunks.size <= max(values, horizon * 3) for chunks in got)
    assert chunk.count_windows(trajectories.lengths, horizon, stride).tolist() == [len(e) for e in expected]


def test_the_same_share_of_episodes_is_held_out_as_ever(tmp_path):
    trajectories = read(save(tmp_path / "a.npz", episodes(*range(1, 11)))).trajectories
    fitted, held = split_holdout(trajectories, 0.2)
    chosen = set(np.random.default_rng(0).permutation(10)[:2].tolist())
    assert held.lengths.tolist() == [n + 1 for n in sorted(chosen)]
    assert sorted([*fitted.lengths, *held.lengths]) == list(range(1, 11))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("2GiB", 2 << 30), ("512MiB", 512 << 20), ("512 mib", 512 << 20), ("1.5KiB", 1536)),
        *(("1000000", 1_000_000), ("12B", 12), ("3GB", 3_000_000_000), ("1TiB", 1 << 40)),
    ],
)
def test_sizes_are_read_as_people_write_them(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "2 gibibytes", "1e9", "2GiBs", "0x10", "nan", "9" * 30])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match=r"^--memory-budget: expected bytes such as 2GiB"):
        parse_bytes(text)
