"""CSV files, written with pandas, NumPy and by hand."""

import numpy as np
import pandas as pd
import pytest

from fast_tokenizer.io import BrokenDataError, read

EPISODES = [np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate((6, 3, 8))]
STUB = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def frame(actions, prefix="action_", **columns):
    table = pd.DataFrame(actions, columns=[f"{prefix}{d}" for d in range(actions.shape[1])])
    return table.assign(time=np.arange(len(actions)) / 20, state_x=actions[:, 0] + 1, note=0, **columns)


def write_folder(folder, numbers=(0, 2, 10)):
    for number, actions in zip(numbers, EPISODES, strict=True):
        frame(actions, task=f"task {number}").to_csv(folder / f"episode_{number}.csv", index=False)
    return folder


def assert_whole(dataset, episodes=(0, 2, 10)):
    got = list(dataset.trajectories)
    assert dataset.lengths.tolist() == [len(e) for e in EPISODES]
    assert [t.episode for t in got] == list(episodes)
    for t, actions in zip(got, EPISODES, strict=True):
        np.testing.assert_array_equal(t.actions, actions)
    return got


def test_a_folder_with_a_file_an_episode(tmp_path):
    dataset = read(write_folder(tmp_path))
    assert (dataset.hz, dataset.dimension_names) == (20.0, ("action_0", "action_1", "action_2"))
    got = assert_whole(dataset)
    assert [t.tasks for t in got] == [("task 0",), ("task 2",), ("task 10",)]
    assert got[0].state_names == ("state_x",)
    np.testing.assert_array_equal(got[1].state, EPISODES[1][:, :1] + 1)
    assert next(iter(read(tmp_path, state=False).trajectories)).state is None


@pytest.mark.parametrize("column", ["episode_index", "episode"])
def test_a_file_with_all_episodes(tmp_path, column):
    frames = [frame(actions, prefix="action.", **{column: i + 3}) for i, actions in enumerate(EPISODES)]
    pd.concat(frames).to_csv(tmp_path / "all.csv")
    dataset = read(tmp_path / "all.csv")
    assert_whole(dataset, (3, 4, 5))
    assert [t.episode for t in read(tmp_path / "all.csv", episodes=[4]).trajectories] == [4]


def test_columns_are_chosen_by_their_names(tmp_path):
    np.savetxt(tmp_path / "a.csv", EPISODES[0], delimiter=",", header="z,x,yaw", comments="", fmt="%.17g")
    (t,) = read(tmp_path / "a.csv", action_key=["x", "yaw"], state_key="z").trajectories
    np.testing.assert_array_equal(t.actions, EPISODES[0][:, 1:])
    np.testing.assert_array_equal(t.state, EPISODES[0][:, :1])
    assert (t.dimension_names, t.hz, t.tasks) == (("x", "yaw"), None, ())
    with pytest.raises(ValueError, match=r"has no column 'action' or 'action_0' of actions, only \['z', 'x', 'yaw'\]"):
        read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"has no column 'y' or 'y_0' of actions"):
        read(tmp_path / "a.csv", action_key="y")


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


DAMAGE = {
    "empty": (lambda p: p.write_text(""), "unreadable file", r"episode_2\.csv: is empty"),
    "no rows": (lambda p: p.write_text(p.read_text().split("\n")[0]), "unreadable file", "holds no rows"),
    "pointer": (lambda p: p.write_text(STUB), "Git LFS pointer", "is a Git LFS pointer"),
    "bytes": (lambda p: p.write_bytes(b"action_0\n\xff\xfe\n"), "unreadable file", "not a readable CSV file"),
    "columns": (lambda p: replaced(p, "note", "noted"), "missing column", r"has the columns \['action_0'"),
    "cells": (lambda p: p.write_text(p.read_text() + "1,2\n"), "unreadable file", "line 5 has 2 cells, expected 7"),
    "text": (lambda p: replaced(p, str(EPISODES[1][1, 1]), "fast"), "unreadable file", "a cell is no number: .*'fast'"),
    "empty cell": (lambda p: replaced(p, str(EPISODES[1][1, 1]), ""), "not finite", r"actions\[1, 1\] is nan"),
    "gap": (
        lambda p: replaced(p, ",0.1,", ",0.2,"),
        "gap in time",
        r"step 2 comes 0\.15 s after .* it is 0\.05 s",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_stops_the_run_or_is_left_out_by_choice(tmp_path, kind):
    damage, reason, message = DAMAGE[kind]
    write_folder(tmp_path)
    damage(tmp_path / "episode_2.csv")
    with pytest.raises(BrokenDataError, match=message) as caught:
        list(read(tmp_path).trajectories)
    assert "episode_2.csv" in str(caught.value)
    dataset = read(tmp_path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 10]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [(reason, 1)]


def test_episodes_whose_rows_do_not_stand_together_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("episode,action_0\n0,1\n1,2\n0,3\n")
    with pytest.raises(BrokenDataError, match="the rows of an episode do not stand together"):
        read(tmp_path / "a.csv")


def test_a_file_that_is_damaged_after_it_was_opened_gives_what_stands_before(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("episode,action_0\n0,1\n0,2\n1,3\n1,4\n2,5\n")
    dataset = read(path)
    path.write_text("episode,action_0\n0,1\n0,2\n1,3\n1\n2,5\n")
    first, *others = (steps for _, steps in dataset.checked(np.ones(3, np.bool_)))
    np.testing.assert_array_equal(first.actions, [[1], [2]])
    assert [str(e) for e in others] == [f"{path}: line 5 has 1 cells, expected 2"] * 2


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    """As spreadsheets write them."""
    (tmp_path / "a.csv").write_bytes("\ufeffaction_0,action_1\r\n1,2\r\n\r\n3,4\r\n".encode())
    (t,) = read(tmp_path / "a.csv").trajectories
    np.testing.assert_array_equal(t.actions, [[1, 2], [3, 4]])
    assert t.dimension_names == ("action_0", "action_1")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0.0", "1.0", "2.0"], [0, 1, 2]),
        (["-1", "1"], [-1, 1]),
        (["run2_a", "run2_b"], [0, 1]),
        (["demo_3", "demo_5"], [3, 5]),
        (["0.5", "1.5", "7"], [0, 1, 2]),
        (["x", "demo_0"], [0, 1]),
    ],
)
def test_no_two_episodes_share_a_number(tmp_path, labels, expected):
    rows = [f"{label},{i}" for i, label in enumerate(labels)]
    (tmp_path / "x.csv").write_text("\n".join(["episode,action_0", *rows]))
    assert [t.episode for t in read(tmp_path / "x.csv").trajectories] == expected
    (chosen,) = read(tmp_path / "x.csv", episodes=[expected[1]]).trajectories
    assert chosen.actions.tolist() == [[1.0]]
