"""LeRobot folders: as recorded, as public ones deviate, damaged. (As lerobot writes them: integration/lerobot.)"""

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fast_tokenizer.io import BrokenDataError, lerobot, read
from tests.lerobot_folders import EPISODES, NAMES, lists, table, write_info, write_v2, write_v3

STUB = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def assert_whole(dataset):
    """All three episodes, with everything."""
    got = list(dataset.trajectories)
    assert dataset.lengths.tolist() == [7, 4, 9]
    for i, (t, (actions, state)) in enumerate(zip(got, EPISODES, strict=True)):
        np.testing.assert_array_equal(t.actions, actions)
        np.testing.assert_array_equal(t.state, state)
        assert t.actions.dtype == np.float32
        assert (t.episode, t.hz, t.tasks) == (i, 10.0, (f"task {i % 2}",))


def reasons(dataset):
    counts = Counter()
    for error in dataset.left_out:
        counts[error.reason] += error.episodes
    return dict(counts)


# ---- As recorded -------------------------------------------------------------------------------------


def test_a_v21_folder_has_the_episodes_that_were_recorded(shared_data: Path):
    dataset = read(shared_data / "lerobot" / "g1_inspire_pick")
    recorded = read(shared_data / "trajectories" / "g1_inspire_pick" / "episodes.npz")
    assert dataset.lengths.tolist() == recorded.lengths.tolist()
    assert (dataset.action_dim, dataset.hz, dataset.left_out) == (26, 30.0, ())
    assert dataset.dimension_names == recorded.dimension_names
    assert dataset.state_names == recorded.dimension_names
    for ours, theirs in zip(dataset.trajectories, recorded.trajectories, strict=True):
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.state, theirs.state)
        assert ours.tasks == ("Pick up the yellow bottle on the table.",)


def test_a_v30_folder_is_cut_where_its_own_numbers_say(shared_data: Path):
    folder = shared_data / "lerobot" / "so101_record_test"
    stored = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    numbers = stored["episode_index"].to_numpy()
    dataset = read(folder)
    assert (len(dataset.lengths), dataset.hz) == (4, 30.0)
    assert dataset.dimension_names[0] == "shoulder_pan.pos"
    for i, t in enumerate(dataset.trajectories):
        for ours, column in ((t.actions, "action"), (t.state, "observation.state")):
            np.testing.assert_array_equal(ours, np.array(stored[column].to_pylist(), np.float32)[numbers == i])
        assert t.tasks == ("Pick the orange cube and place it in the box",)


def test_a_v20_folder_made_of_the_v21_one_is_read_alike(shared_data: Path, tmp_path: Path):
    source = shared_data / "lerobot" / "g1_inspire_pick"
    shutil.copytree(source / "meta", tmp_path / "meta", copy_function=shutil.copyfile)
    (tmp_path / "meta").chmod(0o755)
    (tmp_path / "data").symlink_to(source / "data")
    info = json.loads((source / "meta" / "info.json").read_text()) | {"codebase_version": "v2.0"}
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    (tmp_path / "meta" / "episodes_stats.jsonl").rename(tmp_path / "meta" / "stats.json")  # never looked at
    new, old = read(tmp_path), read(source)
    assert new.dimension_names == old.dimension_names
    for a, b in zip(new.trajectories, old.trajectories, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)


# ---- As public ones deviate --------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize(
    "deviation",
    [
        {},
        {"kind": "plain"},
        {"kind": "large"},
        {"action": "actions", "state": "state"},
        {"drop": ("timestamp", "frame_index", "index")},
        {"drop": ("timestamp", "frame_index", "index", "episode_index", "task_index")},
        {"task": "task"},
        {"task": None},
    ],
    ids=str,
)
def test_deviations_change_nothing(tmp_path: Path, write, deviation):
    assert_whole(read(write(tmp_path, **deviation)))


def test_v3_s_task_texts_stand_in_either_column(tmp_path: Path):
    assert_whole(read(write_v3(tmp_path, task=None, task_column="task")))


def test_v3_s_episodes_are_found_in_another_file_than_the_one_that_is_named(tmp_path: Path):
    root = write_v3(tmp_path)
    for path in root.glob("meta/episodes/**/*.parquet"):
        change(path, **{"data/file_index": pa.array([0] * pq.read_metadata(path).num_rows)})
    assert_whole(read(root))


def test_rows_of_episodes_that_are_not_listed_are_counted(tmp_path: Path):
    root = write_v3(tmp_path)
    listed = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(listed)[1:], listed)
    dataset = read(root)
    (first, _) = dataset.trajectories
    np.testing.assert_array_equal(first.actions, EPISODES[1][0])
    assert reasons(dataset) == {"not listed": 1}
    assert "meta/episodes: does not list what is there: episode 0" in str(dataset.left_out[0])


def test_a_v2_file_with_another_s_number_is_refused(tmp_path: Path):
    root = write_v2(tmp_path)
    change(root / "data" / "chunk-001" / "episode_000002.parquet", episode_index=pa.array([77] * 9))
    with pytest.raises(BrokenDataError, match=r"episode_000002\.parquet: holds no rows of episode 2"):
        list(read(root).trajectories)


def test_a_v3_episode_alone_in_a_file_that_holds_another_is_refused(tmp_path: Path):
    root = write_v3(tmp_path)
    change(root / "meta" / "episodes" / "chunk-000" / "file-001.parquet", episode_index=pa.array([9]))
    with pytest.raises(BrokenDataError, match=r"file-001\.parquet: holds no rows of episode 9"):
        list(read(root).trajectories)


def test_v3_s_rows_without_numbers_are_cut_where_meta_says(tmp_path: Path):
    """In the first file, episode 1 stands before episode 0."""
    root = write_v3(tmp_path)
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.concat_tables([table(1), table(0)]).drop_columns(["episode_index"]), path)
    first, second = sorted(root.glob("meta/episodes/**/*.parquet"))
    change(first, dataset_from_index=pa.array([4, 0]), dataset_to_index=pa.array([11, 4]))
    assert_whole(read(root))
    change(second, dataset_to_index=pa.array([21]))
    with pytest.raises(ValueError, match=r"file-001\.parquet: episode 2 has 9 steps, but rows 11 to 21"):
        read(root)
    change(second, dataset_to_index=pa.array([20]))
    pq.write_table(pq.read_table(path)[1:], path)
    with pytest.raises(BrokenDataError, match=r"file-000\.parquet: .* does not say which rows are whose"):
        list(read(root).trajectories)
    change(first, dataset_from_index=None)
    with pytest.raises(BrokenDataError, match=r"file-000\.parquet: .* does not say which rows are whose"):
        list(read(root).trajectories)


def test_an_episode_that_is_listed_twice_is_refused(tmp_path: Path):
    listed = write_v2(tmp_path / "2") / "meta" / "episodes.jsonl"
    listed.write_text(listed.read_text() + '{"episode_index": 1, "length": 4}\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl: episode 1 is listed twice"):
        read(tmp_path / "2")
    change(write_v3(tmp_path / "3") / "meta/episodes/chunk-000/file-001.parquet", episode_index=pa.array([1]))
    with pytest.raises(ValueError, match=r"file-001\.parquet: episode 1 is listed twice"):
        read(tmp_path / "3")


def test_data_stand_where_the_description_says(tmp_path: Path):
    assert_whole(read(write_v2(tmp_path / "2", data_path="all/{episode_chunk}/{episode_index}.parquet")))
    assert_whole(read(write_v3(tmp_path / "3", data_path="some=where/{chunk_index}-{file_index}.parquet")))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NAMES, ("x", "y", "z")),
        ([NAMES], ("x", "y", "z")),
        ({"motors": NAMES}, ("x", "y", "z")),
        ({"z": 2, "x": 0, "y": 1}, ("x", "y", "z")),
        ({"arm": ["x", "y"], "hand": ["z"]}, ("x", "y", "z")),
        (None, None),
        (["motors"], None),
    ],
)
def test_names_are_found_however_they_are_nested(tmp_path: Path, names, expected):
    features = {"action": {"dtype": "float32", "shape": [3], "names": names}}
    dataset = read(write_v2(tmp_path, info={"features": features}))
    assert dataset.dimension_names == expected
    assert dataset.state_names is None


def test_episodes_that_are_claimed_and_not_listed_are_counted_and_stop_nothing(tmp_path: Path):
    dataset = read(write_v2(tmp_path, info={"total_episodes": 5}))
    assert_whole(dataset)
    assert reasons(dataset) == {"missing file": 2}
    assert "claims 5 episodes, 3 are listed" in str(dataset.left_out[0])


def test_keys_are_joined_and_the_state_is_left_unread(tmp_path: Path):
    root = write_v2(tmp_path)
    first = next(iter(read(root, action_key=["observation.state", "action"], state_key="action").trajectories))
    np.testing.assert_array_equal(first.actions, np.concatenate(EPISODES[0][::-1], axis=1))
    assert first.dimension_names == ("p", "q", "x", "y", "z")
    np.testing.assert_array_equal(first.state, EPISODES[0][0])
    assert next(iter(read(root, state=False).trajectories)).state is None


def test_only_the_columns_that_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_v2(tmp_path)
    for path in root.glob("data/**/*.parquet"):
        pictures = pa.array([b"\xff" * 1000] * pq.read_metadata(path).num_rows)
        pq.write_table(pq.read_table(path).append_column("image", pictures), path)
    asked = []
    whole = pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, columns: asked.append(columns) or whole(self, columns))
    list(read(root, state=False).trajectories)
    assert asked == [["action", "frame_index", "timestamp", "episode_index", "task_index"]] * 3


def test_files_of_which_nothing_is_chosen_are_not_opened(tmp_path: Path):
    root = write_v2(tmp_path)
    dataset = read(root, episodes=[0, 2])
    (root / "data" / "chunk-000" / "episode_000001.parquet").write_bytes(b"broken")
    assert [t.episode for t in dataset.trajectories] == [0, 2]
    assert reasons(dataset) == {"not chosen": 1}
    with pytest.raises(ValueError, match=r"has no episode 3, 8; its 3 are 0\.\.2"):
        read(root, episodes=[1, 3, 8])


# ---- Damage ------------------------------------------------------------------------------------------


def change(path, **new):
    """Puts other columns in the place of a file's own; None: takes them out."""
    changed = pq.read_table(path)
    for name, column in new.items():
        i = changed.column_names.index(name)
        changed = changed.remove_column(i) if column is None else changed.set_column(i, name, column)
    pq.write_table(changed, path)


def with_value(values, at, value):
    values = values.copy()
    values[at] = value
    return values


ACTIONS = EPISODES[1][0]
DAMAGE = {
    "missing": (lambda p: p.unlink(), "missing file", "no such file"),
    "pointer": (
        lambda p: p.write_text(STUB),
        "Git LFS pointer",
        "is a Git LFS pointer, not the file: run git lfs pull",
    ),
    "empty": (lambda p: p.write_bytes(b""), "unreadable file", "not a readable parquet file"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "unreadable file", "not a readable parquet file"),
    "nan": (
        lambda p: change(p, action=lists(with_value(ACTIONS, (2, 1), np.nan))),
        "not finite",
        r"actions\[2, 1\] is nan",
    ),
    "state": (
        lambda p: change(p, **{"observation.state": lists(with_value(EPISODES[1][1], (3, 0), np.inf))}),
        "not finite",
        r"state\[3, 0\] is inf",
    ),
    "null row": (
        lambda p: change(p, action=pa.array([*ACTIONS[:3].tolist(), None], pa.list_(pa.float32()))),
        "other dimensions",
        "rows are missing or differ in width",
    ),
    "ragged": (
        lambda p: change(p, action=pa.array([[1, 2], [3, 4, 5, 6], [1, 2, 3], [1, 2, 3]], pa.list_(pa.float32()))),
        "other dimensions",
        "rows are missing or differ in width",
    ),
    "wide": (lambda p: change(p, action=lists(np.ones((4, 5)))), "other dimensions", r"expected D=3"),
    "frames": (
        lambda p: change(p, frame_index=pa.array([0, 1, 3, 4])),
        "gap in time",
        "step 2 is frame 3, the one before",
    ),
    "times": (
        lambda p: change(p, timestamp=pa.array([0.0, 0.1, 0.2, 0.4])),
        "gap in time",
        r"step 3 comes 0\.2 s after the one before; at 10 Hz it is 0\.1 s",
    ),
    "back": (lambda p: change(p, timestamp=pa.array([0.0, 0.1, 0.1, 0.2])), "gap in time", "step 2 comes 0 s after"),
    "no rows": (lambda p: pq.write_table(pq.read_table(p)[:0], p), "other length", "holds no rows"),
    **{
        f"{name} {kind}": (
            lambda p, name=name, values=values: change(p, **{name: pa.array(values)}),
            "other dimensions",
            f"{name} must be numbers",
        )
        for name in ("frame_index", "timestamp", "episode_index")
        for kind, values in (("text", ["1"] * 4), ("null", [None] * 4))
    },
    "column": (lambda p: change(p, action=None), "missing column", "has no column 'action', only"),
    "short": (lambda p: pq.write_table(pq.read_table(p)[:3], p), "other length", "has 3 actions, expected 4"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_stops_the_run_or_is_left_out_by_choice(tmp_path: Path, kind: str):
    damage, reason, message = DAMAGE[kind]
    root = write_v2(tmp_path)
    damage(root / "data" / "chunk-000" / "episode_000001.parquet")
    with pytest.raises(BrokenDataError, match=message) as caught:
        list(read(root).trajectories)
    assert caught.value.reason == reason
    assert "episode 1" in str(caught.value) or "episode_000001.parquet" in str(caught.value)
    dataset = read(root, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 2]
    assert dataset.lengths.tolist() == [7, 9]
    assert reasons(dataset) == {reason: 1}


@pytest.mark.parametrize("values", [["1"] * 4, [None] * 4])
def test_task_numbers_of_another_type_are_an_error(tmp_path: Path, values):
    root = write_v2(tmp_path, task=None)
    change(root / "data" / "chunk-000" / "episode_000001.parquet", task_index=pa.array(values))
    with pytest.raises(BrokenDataError, match=r"episode_000001\.parquet episode 1: task_index must be numbers"):
        list(read(root).trajectories)


@pytest.mark.parametrize("kind", ["missing", "pointer", "cut"])
def test_a_broken_first_file_of_v3_costs_its_episodes(tmp_path: Path, kind: str):
    root = write_v3(tmp_path)
    DAMAGE[kind][0](root / "data" / "chunk-000" / "file-000.parquet")
    with pytest.raises(BrokenDataError, match=DAMAGE[kind][2]):
        read(root)
    dataset = read(root, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [2]
    assert reasons(dataset) == {DAMAGE[kind][1]: 2}


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("length", [-1, 2**62])
def test_lengths_that_no_episode_has_are_refused(tmp_path: Path, write, length):
    root = write(tmp_path)
    if write is write_v2:
        listed = root / "meta" / "episodes.jsonl"
        listed.write_text(json.dumps({"episode_index": 0, "length": length if length < 0 else 10**400}))
    else:
        listed = root / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
        change(listed, length=pa.array([length]), dataset_from_index=None, dataset_to_index=None)
    with pytest.raises(ValueError, match=r"meta/episodes.*: expected rows with "):
        read(root)


def test_rows_that_no_file_has_are_not_counted_one_by_one(tmp_path: Path):
    root = write_v3(tmp_path)
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["episode_index"]), path)
    listed = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    lengths = [2**47, 2**47]
    change(
        listed,
        length=pa.array(lengths),
        dataset_from_index=pa.array([0, 2**47]),
        dataset_to_index=pa.array([2**47, 2**48]),
    )
    with pytest.raises(BrokenDataError, match="does not say which rows are whose"):
        list(read(root).trajectories)


def test_episode_numbers_of_two_a_row_are_refused(tmp_path: Path):
    root = write_v2(tmp_path)
    path = root / "data" / "chunk-000" / "episode_000000.parquet"
    change(path, episode_index=pa.array([[0, 0]] * 7))
    with pytest.raises(BrokenDataError, match=r"episode_index must be numbers, got list"):
        list(read(root).trajectories)


def test_an_episode_that_is_not_in_its_file_is_left_out(tmp_path: Path):
    root = write_v3(tmp_path)
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path)[:7], path)
    dataset = read(root, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 2]
    assert reasons(dataset) == {"other length": 1}
    with pytest.raises(BrokenDataError, match="holds no rows of episode 1"):
        list(read(root).trajectories)


def test_nothing_that_can_be_used_is_an_error(tmp_path: Path):
    root = write_v2(tmp_path)
    for path in root.glob("data/**/*.parquet"):
        path.write_text(STUB)
    with pytest.raises(ValueError, match=r"holds no episode that can be used: .*000000\.parquet: is a Git LFS pointer"):
        read(root, on_broken="skip")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"codebase_version": "v1.6"}, r"expected codebase_version v2\.0, v2\.1 or v3\.0, got v1\.6"),
        ({"codebase_version": None}, "is no LeRobot description: KeyError 'codebase_version'"),
        ({"fps": -1}, "fps must be positive"),
        ({"chunks_size": 0.5}, "chunks_size must be positive, got 0.5"),
        ({"chunks_size": -1}, "chunks_size must be positive, got -1"),
        ({"fps": "fast"}, "is no LeRobot description: ValueError"),
        ({"data_path": "{video_key}.parquet"}, "asks for 'video_key'"),
        ({"data_path": "{episode_index.foo}"}, "info.json: data_path '{episode_index.foo}' asks for"),
        ({"data_path": "{episode_index:>9999999999}.parquet"}, "asks for numbers of the form '>9999999999'"),
        ({"data_path": "../{episode_index}.parquet"}, "leaves the folder"),
    ],
)
def test_a_description_that_is_wrong_is_named(tmp_path: Path, info, message: str):
    write_v2(tmp_path)
    write_info(tmp_path, **({"version": "v2.1"} | info))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("episodes.jsonl", b'{"episode_index": 1}', "episode_index and length, got {'episode_index': 1}"),
        ("episodes.jsonl", b'{"episode_index": 1, "length": 1e400}', "expected rows with episode_index and length"),
        ("episodes.jsonl", b'{"episode_index": 1, ', "line 2 is no JSON"),
        ("episodes.jsonl", b"[1, 2]", "line 2 is no object"),
        ("tasks.jsonl", b"\xff\xfe", "line 2 is no JSON"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path: Path, name: str, line: bytes, message: str):
    path = write_v2(tmp_path) / "meta" / name
    lines = path.read_bytes().splitlines()
    lines[1] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(tmp_path)
    assert name in str(caught.value)


def test_task_numbers_that_are_none_are_passed_over(tmp_path: Path):
    root = write_v2(tmp_path)
    with (root / "meta" / "tasks.jsonl").open("a") as file:
        file.write('{"task_index": [], "task": "x"}\n{"task": "y"}\n')
    assert_whole(read(root))


def test_rows_of_v3_that_are_wrong_are_named(tmp_path: Path):
    root = write_v3(tmp_path)
    path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    change(path, length=pa.array([7, None]))
    with pytest.raises(ValueError, match=r"file-000\.parquet: expected rows with numbers in .*'length': None"):
        read(root)
    change(path, length=None)
    with pytest.raises(ValueError, match=r"file-000\.parquet: has no column 'length'"):
        read(root)
    shutil.rmtree(root / "meta" / "episodes")
    with pytest.raises(BrokenDataError, match="episodes: holds no parquet files"):
        read(root)


def test_one_file_is_in_memory_at_a_time(tmp_path: Path):
    rows = np.zeros((50_000, 8), np.float32)
    write_info(tmp_path, "v2.1", total_episodes=8)
    folder = tmp_path / "data" / "chunk-000"
    folder.mkdir(parents=True)
    lines = [json.dumps({"episode_index": i, "length": len(rows)}) for i in range(8)]
    (tmp_path / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    written = pa.table({"action": lists(rows), "picture": pa.array([i.to_bytes(8) * 25 for i in range(len(rows))])})
    for i in range(8):
        target = tmp_path / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
        target.parent.mkdir(exist_ok=True)
        pq.write_table(written, target, compression="none")
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read(tmp_path).trajectories]
    assert len(held) == 8
    # Arrow frees what it decoded with a little later, so two files may be seen at once, with buffers.
    assert max(held) < 5 * rows.nbytes, "neither all files before, 8 times as large, nor the pictures, 6 times"


def test_columns_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no column 'actions\.arm' of numbers; there are \['action', 'obs"):
        read(write_v2(tmp_path / "a"), action_key="actions.arm")
    with pytest.raises(
        ValueError, match=r"has no column 'action' or 'actions'; there are .*'velocity'.*: give an action key"
    ):
        read(write_v2(tmp_path / "b", action="velocity"))


# ---- Times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fps", "scale", "message"),
    [
        (2, 1, r"a step takes 0\.1 s by its times, 0\.5 s at the 2 Hz of the dataset; give hz if the times are wrong"),
        (30, 1, r"a step takes 0\.1 s by its times, 0\.03333 s at the 30 Hz"),
        (8, 1, r"a step takes 0\.1 s by its times, 0\.125 s at the 8 Hz"),
        (10, 1e3, r"a step takes 100 s by its times, 0\.1 s at the 10 Hz of the dataset \(are they milliseconds\?\)"),
        (10, 1e9, r"\(are they nanoseconds\?\)"),
    ],
)
def test_a_rate_that_is_not_that_of_the_times_is_refused(tmp_path: Path, fps, scale, message: str):
    root = write_v2(tmp_path, info={"fps": fps})
    for i, (actions, _) in enumerate(EPISODES):
        times = pa.array(np.arange(len(actions)) / 10 * scale)
        change(root / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet", timestamp=times)
    with pytest.raises(BrokenDataError, match=message) as caught:
        list(read(root).trajectories)
    assert caught.value.reason == "other control rate"
    assert [t.hz for t in read(root, hz=12.0).trajectories] == [12.0] * 3, "the caller's word counts"


def test_times_may_be_early_or_late(tmp_path: Path):
    root = write_v2(tmp_path)
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, 9)
    change(root / "data/chunk-001/episode_000002.parquet", timestamp=pa.array(np.arange(9) / 10 + jitter))
    change(root / "data/chunk-000/episode_000001.parquet", timestamp=pa.array([0.02, 0.12, 0.19, 0.28]))
    assert_whole(read(root))


@pytest.mark.parametrize(("fps", "hz"), [(None, None), (None, 10.0), (30, 10.0)])
def test_gaps_are_noticed_without_a_rate_and_with_that_of_the_caller(tmp_path: Path, fps, hz):
    root = write_v2(tmp_path, info={"fps": fps})
    assert {t.hz for t in read(root, hz=hz or 10.0).trajectories} == {10.0}
    change(root / "data/chunk-000/episode_000001.parquet", timestamp=pa.array([0.0, 0.1, 0.4, 0.5]))
    with pytest.raises(BrokenDataError, match=r"step 2 comes 0\.3 s after the one before; most take 0\.1 s") as caught:
        list(read(root, hz=hz).trajectories)
    assert caught.value.reason == "gap in time"


@pytest.mark.parametrize("hz", [0, -1.0, np.nan, np.inf])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, hz):
    with pytest.raises(ValueError, match="hz must be positive, got"):
        read(write_v2(tmp_path), hz=hz)


# ---- What the first file has, others need not ----------------------------------------------------------


def first_file(root):
    return root / "data" / "chunk-000" / "episode_000000.parquet"


FIRST = {
    "null row": lambda p: change(p, action=pa.array([None, *EPISODES[0][0][1:].tolist()], pa.list_(pa.float32()))),
    "null state": lambda p: change(p, **{"observation.state": pa.array([None] + [[1.0, 2.0]] * 6)}),
    "no action": lambda p: change(p, action=None),
    "no state": lambda p: change(p, **{"observation.state": None}),
    "empty": lambda p: change(p, action=pa.array([[]] * 7, pa.list_(pa.float32()))),
    "wide": lambda p: change(p, action=lists(np.ones((7, 5), np.float32))),
    "wide state": lambda p: change(p, **{"observation.state": lists(np.ones((7, 5), np.float32))}),
    "text": lambda p: change(p, action=pa.array(["a"] * 7)),
}


@pytest.mark.parametrize("kind", FIRST)
def test_a_first_file_that_is_odd_costs_itself_only(tmp_path: Path, kind: str):
    root = write_v2(tmp_path)
    FIRST[kind](first_file(root))
    with pytest.raises(ValueError, match=r"episode_000000|episode 0|has no column 'action'|of the column 'action'"):
        list(read(root).trajectories)
    dataset = read(root, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [1, 2]
    assert (dataset.dimension_names, dataset.state_names) == (("x", "y", "z"), ("p", "q"))
    assert [e.episodes for e in dataset.left_out] == [1]


def test_a_description_of_another_width_is_no_matter_if_all_files_agree(tmp_path: Path):
    """And one that has a state which no file has."""
    feature = {"dtype": "float32", "shape": [7], "names": None}
    features = {"action": feature, "state": feature}
    dataset = read(write_v2(tmp_path, drop=("observation.state",), info={"features": features}))
    assert [t.actions.shape[1] for t in dataset.trajectories] == [3, 3, 3]
    assert {t.state is None for t in dataset.trajectories} == {True}


def test_a_state_of_another_width_is_refused(tmp_path: Path):
    root = write_v2(tmp_path)
    change(root / "data/chunk-001/episode_000002.parquet", **{"observation.state": lists(np.ones((9, 5)))})
    with pytest.raises(BrokenDataError, match=r"episode 2: has state of shape \(9, 5\), expected S=2"):
        list(read(root).trajectories)
    assert reasons(read(root, on_broken="skip")) == {"other dimensions": 1}


def test_numbers_that_are_nested_deeper_are_refused_by_their_type(tmp_path: Path):
    root = write_v2(tmp_path)
    change(first_file(root), action=pa.array([[[1.0, 2.0]]] * 7))
    with pytest.raises(ValueError, match=r"numbers in each row of the column 'action', got list<.*list<.*double"):
        read(root)


@pytest.mark.parametrize("names", [{"x": 0, "y": 0, "z": 1}, {"x": 0, "y": 1, "z": 7}, {"x": 1, "y": 2, "z": 3}])
def test_names_in_no_order_are_none(tmp_path: Path, names):
    features = {"action": {"dtype": "float32", "shape": [3], "names": names}}
    assert read(write_v2(tmp_path, info={"features": features})).dimension_names is None


# ---- What is not listed, and what is not chosen --------------------------------------------------------


def test_files_that_are_not_listed_are_counted(tmp_path: Path):
    root = write_v2(tmp_path)
    listed = root / "meta" / "episodes.jsonl"
    listed.write_text(listed.read_text().split("\n")[1] + "\n")
    dataset = read(root)
    assert [t.episode for t in dataset.trajectories] == [1]
    assert reasons(dataset) == {"not listed": 2}
    assert "episodes.jsonl: does not list what is there: episode_000000.parquet, ep" in str(dataset.left_out[0])


def test_rows_of_another_episode_in_a_v2_file_are_refused(tmp_path: Path):
    root = write_v2(tmp_path)
    change(first_file(root), episode_index=pa.array([0] * 5 + [4] * 2))
    with pytest.raises(BrokenDataError, match=r"000000\.parquet: holds rows of the episodes \[0, 4\], "):
        list(read(root).trajectories)


@pytest.mark.parametrize("write", [write_v2, write_v3])
@pytest.mark.parametrize("kind", ["missing", "pointer", "cut", "nan"])
def test_what_is_not_chosen_stops_nothing(tmp_path: Path, write, kind: str):
    root = write(tmp_path)
    path = root / "data" / "chunk-000" / ("file-000.parquet" if write is write_v3 else "episode_000001.parquet")
    if kind == "nan":
        change(path, action=lists(np.full((pq.read_metadata(path).num_rows, 3), np.nan, np.float32)))
    else:
        DAMAGE[kind][0](path)
    lost = [0, 1] if write is write_v3 else [1]
    kept = [i for i in range(3) if i not in lost]
    dataset = read(root, episodes=kept)
    assert [t.episode for t in dataset.trajectories] == kept
    assert reasons(dataset) == {"not chosen": len(lost)}
    with pytest.raises(BrokenDataError, match=DAMAGE[kind][2].replace("2, 1", "0, 0")):
        list(read(root, episodes=[1, 2]).trajectories)
    dataset = read(root, episodes=[1, 2], on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [2]
    assert reasons(dataset) == {"not chosen": 1, DAMAGE[kind][1]: 1}


def test_a_pointer_in_the_place_of_the_tasks_is_an_error(tmp_path: Path):
    root = write_v3(tmp_path)
    (root / "meta" / "tasks.parquet").write_text(STUB)
    with pytest.raises(BrokenDataError, match=r"tasks\.parquet: is a Git LFS pointer"):
        read(root)


# ---- Hub and packages --------------------------------------------------------------------------------


def test_a_hub_id_fetches_tables_and_no_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_v2(tmp_path / "cached", data_path="all/{episode_chunk}/{episode_index:06d}.parquet")
    asked = []

    def snapshot(repository, *, repo_type, allow_patterns):
        asked.append((repository, repo_type, allow_patterns))
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert_whole(read("someone/arm.v2"))
    assert asked[-1] == ("someone/arm.v2", "dataset", ["meta/*", "all/*/*.parquet"])


@pytest.mark.parametrize(
    ("data_path", "fetched"),
    [
        ("{episode_index}.parquet", ["all/0.parquet", "all/a[1]b/0.parquet", "all/x/0.parquet", "meta/info.json"]),
        ("all/a[1]b/{episode_index}.parquet", ["all/a[1]b/0.parquet", "meta/info.json"]),
        ("all/*/{episode_index}.parquet", ["meta/info.json"]),
        ("{episode_index}", None),
        ("{episode_index}*", None),
    ],
)
def test_a_hub_id_cannot_ask_for_more_than_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_path, fetched):
    """The hub's `*` goes beyond a `/`."""
    files = ["README.md", "all/0.parquet", "all/a[1]b/0.parquet", "all/x/0.parquet", "meta/info.json", "videos/0.mp4"]
    write_info(tmp_path, "v2.1", data_path=data_path)
    asked = []

    def snapshot(repository, *, repo_type, allow_patterns):
        asked.append(sorted(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    if fetched is None:
        with pytest.raises(ValueError, match=r"data_path gives '0\*?', expected the name of a \.parquet file"):
            lerobot.download("someone/arm")
    else:
        lerobot.download("someone/arm")
    assert asked == [["meta/info.json"]] + ([] if fetched is None else [fetched])


def test_what_the_hub_does_not_give_is_no_such_file(monkeypatch: pytest.MonkeyPatch):
    def snapshot(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(FileNotFoundError, match="someone/arm: no such file, and the hub does not give it: offline"):
        read("someone/arm")


@pytest.mark.parametrize(("package", "path"), [("pyarrow", None), ("huggingface_hub", "someone/arm")])
def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package, path):
    root = write_v2(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.parquet", raising=False)
    with pytest.raises(ImportError, match=rf"needs .*{package}.*: pip install 'fast-tokenizer\[.*lerobot\]'"):
        read(path or root)
