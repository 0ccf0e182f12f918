"""Zarr replay buffers of diffusion policy and UMI, in both formats, as folders and as zip files."""

import json
import shutil
import sys
import warnings

import numpy as np
import pytest
import zarr

from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.io import zarr as reader

LENGTHS = (6, 3, 8, 1, 5)
ACTIONS = np.random.default_rng(0).normal(size=(sum(LENGTHS), 2)).astype(np.float32)


def write(path, zarr_format=2, **arrays):
    """A replay buffer; the arrays' chunks do not end where episodes do."""
    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else zarr.storage.LocalStore(path)
    root = zarr.create_group(store, zarr_format=zarr_format)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name, values in (arrays or {"action": ACTIONS, "state": ACTIONS + 1}).items():
        data.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    meta.create_array("episode_ends", data=np.cumsum(LENGTHS).astype(np.uint64))
    store.close()
    return path


def assert_whole(dataset, actions=ACTIONS):
    got = list(dataset.trajectories)
    assert dataset.lengths.tolist() == list(LENGTHS)
    assert [t.episode for t in got] == list(range(len(LENGTHS)))
    for t, expected in zip(got, np.split(actions, np.cumsum(LENGTHS)[:-1]), strict=True):
        np.testing.assert_array_equal(t.actions, expected)
        assert t.actions.base is None, "no hold of its neighbours"
    return got


@pytest.mark.parametrize("values", [1, 20, 1 << 22])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["pusht.zarr", "pusht.zarr.zip"])
def test_diffusion_policy(tmp_path, monkeypatch, name, zarr_format, values):
    monkeypatch.setattr(reader, "_BATCH_VALUES", values)
    got = assert_whole(read(write(tmp_path / name, zarr_format)))
    np.testing.assert_array_equal(np.concatenate([t.state for t in got]), ACTIONS + 1)
    assert next(iter(read(tmp_path / name, state=False).trajectories)).state is None
    some = read(tmp_path / name, episodes=[0, 2, 3]).trajectories
    np.testing.assert_array_equal(np.concatenate([t.actions for t in some]), np.delete(ACTIONS, slice(6, 9), 0)[:15])


def test_neighbours_are_read_together_as_far_as_they_are_small(monkeypatch):
    monkeypatch.setattr(reader, "_BATCH_VALUES", 20)
    lengths = np.array([3, 4, 4, 30, 1, 1, 1])
    groups = reader._batches(np.array([0, 1, 2, 3, 4, 6]), lengths, 2)
    assert [g.tolist() for g in groups] == [[0, 1], [2], [3], [4], [6]]


@pytest.mark.parametrize("robots", [1, 2])
def test_umi_s_actions_are_joined_robot_by_robot(tmp_path, robots):
    rng = np.random.default_rng(1)
    widths = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}
    parts = {f"robot{r}_{k}": rng.normal(size=(len(ACTIONS), w)) for r in range(robots) for k, w in widths.items()}
    others = {"camera0_rgb": np.zeros((len(ACTIONS), 4, 4, 3), np.uint8), "robot0_demo_start_pose": np.zeros((23, 6))}
    path = write(tmp_path / "umi.zarr.zip", **dict(reversed(parts.items())), **others)
    dataset = read(path)
    assert dataset.action_dim == 7 * robots
    assert_whole(dataset, np.concatenate(list(parts.values()), axis=1))


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("zipped", [False, True])
def test_arrays_that_are_not_asked_for_may_be_of_any_codec(tmp_path, zarr_format, zipped, consolidated):
    """UMI's images are of a codec that is rarely installed."""
    path = write(tmp_path / "x.zarr", zarr_format, action=ACTIONS, camera0_rgb=np.zeros((23, 4, 4, 3), np.uint8))
    if consolidated:
        with warnings.catch_warnings(action="ignore"):  # consolidated metadata is of no standard in format 3
            zarr.consolidate_metadata(path)
    for file in [p for p in path.rglob("*") if p.name in (".zarray", "zarr.json", ".zmetadata")]:
        described = json.loads(file.read_text())
        entries = described.get("metadata", {})
        entries = entries if zarr_format == 2 else described.get("consolidated_metadata", {}).get("metadata", {})
        for name, entry in {**entries, str(file.parent): described}.items():
            if "camera0_rgb" in name and "compressor" in entry:
                entry["compressor"] = {"id": "imagecodecs_jpegxl", "level": 1}
            elif "camera0_rgb" in name and "codecs" in entry:
                entry["codecs"] = [{"name": "imagecodecs_jpegxl", "configuration": {}}]
        file.write_text(json.dumps(described))
    if zipped:
        shutil.make_archive(str(tmp_path / "x"), "zip", path)
        path = tmp_path / "x.zip"
    assert_whole(read(path))
    with pytest.raises(ValueError, match=r"expected an array data/velocity .* there are .*'action': \(23, 2\)"):
        read(path, action_key="velocity")
    with pytest.raises(BrokenDataError, match="imagecodecs_jpegxl"):
        read(path, action_key="camera0_rgb")


def test_a_zip_that_holds_the_folder(tmp_path):
    """As diffusion policy publishes them, to be unpacked."""
    write(tmp_path / "in" / "pusht" / "replay.zarr")
    shutil.make_archive(str(tmp_path / "pusht"), "zip", tmp_path / "in")
    assert_whole(read(tmp_path / "pusht.zip"))


def test_arrays_are_read_by_their_keys(tmp_path):
    path = write(tmp_path / "x.zarr", action=ACTIONS, gripper=ACTIONS[:, 0], agent_pos=ACTIONS * 2)
    assert_whole(read(path, action_key=["action", "gripper"]), np.column_stack([ACTIONS, ACTIONS[:, 0]]))
    got = assert_whole(read(path, state_key="agent_pos"))
    np.testing.assert_array_equal(got[0].state, ACTIONS[:6] * 2)
    with pytest.raises(ValueError, match=r"expected an array data/velocity .* there are .*'agent_pos': \(23, 2\)"):
        read(path, action_key="velocity")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"velocity": ACTIONS}, "expected an array data/action of shape"),
        ({"action": ACTIONS[:, :, None]}, "expected an array data/action of shape"),
        ({"action": ACTIONS[:-1]}, r"episode_ends must rise to the number of rows; .*\{'action': 22\}"),
    ],
)
def test_what_is_no_replay_buffer_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "x.zarr", **arrays))


def test_ends_that_are_none_are_refused(tmp_path):
    path = write(tmp_path / "x.zarr")
    shutil.rmtree(path / "meta" / "episode_ends")
    zarr.open_group(path)["meta"].create_array("episode_ends", data=np.array([2.5, 23.0]))
    with pytest.raises(ValueError, match=r"episode_ends must be a list of integers, got float64 of shape \(2,\)"):
        read(path)


def test_a_group_without_ends_is_refused(tmp_path):
    shutil.rmtree(write(tmp_path / "x.zarr") / "meta" / "episode_ends")
    with pytest.raises(ValueError, match=r"expected the arrays data/action and meta/episode_ends; data has \['action'"):
        read(tmp_path / "x.zarr")


def test_a_zip_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.zip").write_text("hello")
    with pytest.raises(BrokenDataError, match=r"x\.zip: not a readable zarr group"):
        read(tmp_path / "x.zip")


def test_values_that_are_not_finite_cost_their_episode(tmp_path):
    actions = ACTIONS.copy()
    actions[7, 1] = np.nan
    path = write(tmp_path / "x.zarr", action=actions)
    with pytest.raises(BrokenDataError, match=r"x\.zarr episode 1: actions\[1, 1\] is nan"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 2, 3, 4]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("not finite", 1)]


def test_a_damaged_chunk_stops_the_run_or_costs_what_stands_in_it(tmp_path):
    path = write(tmp_path / "x.zarr")
    (path / "data" / "action" / "1.0").write_bytes(b"damaged")  # rows 4 to 7: episodes 0 and 1
    with pytest.raises(BrokenDataError, match=r"x\.zarr episode 0: not a readable zarr group"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [2, 3, 4]
    assert [e.reason for e in dataset.left_out] == ["unreadable file"] * 2


def test_without_zarr_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "x.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"x\.zarr: needs the package zarr: pip install 'fast-tokenizer\[zarr\]'"):
        read(path)


# ---- Blocks that are not stored ------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["action", "state"])
def test_a_block_that_is_not_stored_stops_the_run_or_costs_what_stands_in_it(tmp_path, zarr_format, zipped, name):
    """zarr itself would give zeros."""
    path = write(tmp_path / "x.zarr", zarr_format)
    (path / "data" / name / ("1.0" if zarr_format == 2 else "c/1/0")).unlink()  # rows 4 to 7: episodes 0 and 1
    if zipped:
        shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "x.zarr")
        path = tmp_path / "x.zip"
    with pytest.raises(BrokenDataError, match=rf"episode 0: data/{name}/.*1.0 of the rows 4 to 7 is not stored"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [2, 3, 4]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("missing file", 1)] * 2
    assert len(list(read(path, episodes=[2, 4]).trajectories)) == 2
    if name == "state":
        assert_whole(read(path, state=False))


def test_shards_that_are_not_stored_are_noticed(tmp_path):
    path = write(tmp_path / "x.zarr", 3)
    values = ACTIONS.copy()
    values[4:8] = 0  # a block within a shard need not be stored: it cannot be lost alone
    shutil.rmtree(path / "data" / "action")
    zarr.open_group(path)["data"].create_array("action", data=values, chunks=(4, 2), shards=(8, 2))
    assert_whole(read(path), values)
    (path / "data" / "action" / "c" / "2" / "0").unlink()
    with pytest.raises(BrokenDataError, match=r"episode 2: data/action/c/2/0 of the rows 16 to 22 is not stored"):
        list(read(path).trajectories)


def test_zeros_that_are_written_are_zeros(tmp_path):
    path = write(tmp_path / "x.zarr")
    shutil.rmtree(path / "data" / "state")
    config = {"write_empty_chunks": True}
    data = zarr.open_group(path)["data"]
    data.create_array("state", data=np.zeros((23, 2)), chunks=(4, 2), config=config)
    assert all((t.state == 0).all() for t in assert_whole(read(path)))


# ---- Times -------------------------------------------------------------------------------------------


TIMES = np.concatenate([100.0 * i + np.arange(n) / 20 for i, n in enumerate(LENGTHS)])


def test_times_give_the_rate(tmp_path):
    dataset = read(write(tmp_path / "x.zarr", action=ACTIONS, timestamp=TIMES))
    assert dataset.hz == 20.0
    assert_whole(dataset)
    assert read(tmp_path / "x.zarr", hz=10).hz == 10
    with pytest.raises(ValueError, match=r"x\.zarr: a step takes 50 by its times; .* milliseconds"):
        read(write(tmp_path / "y" / "x.zarr", action=ACTIONS, timestamp=TIMES * 1000))


def test_times_that_are_no_numbers_are_not_read(tmp_path):
    dataset = read(write(tmp_path / "x.zarr", action=ACTIONS, timestamp=TIMES.astype("U8")))
    assert dataset.hz is None
    assert_whole(dataset)


@pytest.mark.parametrize("hz", [None, 20.0])
def test_gaps_in_time_cost_their_episode(tmp_path, hz):
    times = TIMES.copy()
    times[12:17] += 9
    path = write(tmp_path / "x.zarr", action=ACTIONS, timestamp=times)
    with pytest.raises(BrokenDataError, match=r"episode 2: step 3 comes 9\.05 s after the one before"):
        list(read(path, hz=hz).trajectories)
    dataset = read(path, on_broken="skip", hz=hz)
    assert [t.episode for t in dataset.trajectories] == [0, 1, 3, 4]
    assert [e.reason for e in dataset.left_out] == ["gap in time"]
    (path / "data" / "timestamp" / "0").write_bytes(b"damaged")  # rows 0 to 3
    dataset = read(path, on_broken="skip", hz=hz)
    assert [t.episode for t in dataset.trajectories] == [1, 3, 4]


def test_an_array_without_columns_is_refused(tmp_path):
    path = write(tmp_path / "x.zarr")
    zarr.open_group(path)["data"].create_array("nothing", shape=(23, 0), chunks=(4, 1), dtype="f4")
    with pytest.raises(ValueError, match=r"expected an array data/nothing of shape \(N, D\)"):
        read(path, state_key="nothing")
