"""Folders that lerobot writes, converts and reads: our reader gives the same actions, states, tasks and episodes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.v30 import convert_dataset_v21_to_v30 as conversion

from fast_tokenizer.io import read

FEATURES = {
    "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "grip"]},
    "observation.state": {"dtype": "float32", "shape": (2,), "names": {"motors": ["p", "q"]}},
    "observation.images.top": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]},
}
LENGTHS = (7, 1, 12, 4)


@pytest.fixture(scope="session")
def recorded() -> Path:
    """The recorded folders."""
    shared = Path(os.environ.get("FAST_TOKENIZER_SHARED") or Path(__file__).parents[3] / "shared")
    return shared / "data" / "lerobot"


def written(root: Path, *, one_file: bool) -> Path:
    """Four episodes with pictures in the table, in as many files as lerobot likes, or a file each."""
    dataset = LeRobotDataset.create("someone/arm", fps=10, features=FEATURES, root=root, use_videos=False)
    if not one_file:
        dataset.meta.update_chunk_settings(data_files_size_in_mb=1e-9)
    rng = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for _ in range(length):
            dataset.add_frame(
                {
                    "action": rng.normal(size=3).astype(np.float32),
                    "observation.state": rng.normal(size=2).astype(np.float32),
                    "observation.images.top": rng.integers(256, size=(8, 8, 3)).astype(np.uint8),
                    "task": f"task {episode % 2}",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return root


def assert_read_alike(root: Path) -> None:
    """lerobot's own reading, frame by frame, against ours, episode by episode."""
    theirs = LeRobotDataset("someone/arm", root=root, download_videos=False)
    names = ("action", "observation.state", "episode_index", "task_index")
    frames = theirs.hf_dataset.with_format(None)
    table = {name: np.array(frames[name][:], np.float32 if "." in name or name == "action" else int) for name in names}
    ours = read(root)
    assert ours.lengths.tolist() == list(theirs.meta.episodes["length"])
    assert ours.hz == theirs.fps
    count = 0
    for t, first, last in zip(
        ours.trajectories,
        theirs.meta.episodes["dataset_from_index"],
        theirs.meta.episodes["dataset_to_index"],
        strict=True,
    ):
        np.testing.assert_array_equal(t.actions, table["action"][first:last])
        np.testing.assert_array_equal(t.state, table["observation.state"][first:last])
        assert set(table["episode_index"][first:last].tolist()) == {t.episode}
        numbers = np.unique(table["task_index"][first:last])
        assert t.tasks == tuple(theirs.meta.tasks.iloc[n].name for n in numbers)
        count += last - first
    assert count == len(theirs)


@pytest.mark.parametrize("one_file", [True, False])
def test_a_folder_that_lerobot_writes(tmp_path: Path, one_file: bool) -> None:
    root = written(tmp_path / "arm", one_file=one_file)
    assert len(list(root.glob("data/**/*.parquet"))) == (1 if one_file else len(LENGTHS))
    assert_read_alike(root)
    dataset = read(root)
    assert dataset.lengths.tolist() == list(LENGTHS)
    assert (dataset.dimension_names, dataset.state_names) == (("x", "y", "grip"), ("p", "q"))
    assert dataset.left_out == ()


def test_the_recorded_v30_folder(recorded: Path, tmp_path: Path) -> None:
    """Without the features whose videos are not there."""
    root = tmp_path / "so101"
    shutil.copytree(recorded / "so101_record_test", root, copy_function=shutil.copyfile)
    without_videos(root)
    assert_read_alike(root)
    theirs = LeRobotDataset("someone/arm", root=root)
    rows = iter(theirs)  # as a training loop has them
    for t in read(root).trajectories:
        for action, state in zip(t.actions, t.state, strict=True):
            row = next(rows)
            assert (row["episode_index"].item(), row["task"]) == (t.episode, t.tasks[0])
            np.testing.assert_array_equal(row["action"].numpy(), action)
            np.testing.assert_array_equal(row["observation.state"].numpy(), state)


def test_a_v21_folder_and_what_lerobot_converts_it_to(recorded: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "v21", tmp_path / "v30"
    shutil.copytree(recorded / "g1_inspire_pick", old, copy_function=shutil.copyfile)
    without_videos(old)
    conversion.convert_info(old, new, 1, 1)
    conversion.convert_tasks(old, new)
    rows = conversion.convert_data(old, new, 1)
    conversion.convert_episodes_metadata(old, new, rows)
    assert len(list(new.glob("data/**/*.parquet"))) > 1
    assert_read_alike(new)
    for a, b in zip(read(old).trajectories, read(new).trajectories, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.state, b.state)
        assert (a.episode, a.tasks, a.dimension_names) == (b.episode, b.tasks, b.dimension_names)


def without_videos(root: Path) -> None:
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"] = {k: v for k, v in info["features"].items() if v["dtype"] != "video"}
    path.write_text(json.dumps(info))
