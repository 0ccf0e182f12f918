"""CSV files, written with pandas, NumPy and by hand."""

import tracemalloc

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
        (["demo_5", "run_5", "7"], [0, 1, 2]),
        (["+1", "02", " 3 "], [1, 2, 3]),
        (["x", "demo_0"], [0, 1]),
    ],
)
def test_no_two_episodes_share_a_number(tmp_path, labels, expected):
    rows = [f"{label},{i}" for i, label in enumerate(labels)]
    (tmp_path / "x.csv").write_text("\n".join(["episode,action_0", *rows]))
    assert [t.episode for t in read(tmp_path / "x.csv").trajectories] == expected
    (chosen,) = read(tmp_path / "x.csv", episodes=[expected[1]]).trajectories
    assert chosen.actions.tolist() == [[1.0]]


@pytest.mark.parametrize("label", ["nan", "0.5", "inf", "", "1e3"])
def test_rows_of_no_episode_are_no_episode(tmp_path, label):
    """They were one, with a number that stood nowhere."""
    (tmp_path / "x.csv").write_text("episode_index,action_0\n" + f"{label},1\n" * 3)
    expected = f"line 2, column 'episode_index': '{label}' is no episode's number or name"
    with pytest.raises(BrokenDataError, match=expected):
        read(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="holds no episode that can be used: .*" + expected):
        read(tmp_path / "x.csv", on_broken="skip")


@pytest.mark.parametrize("name", ["action_0", "state_0", "episode", "time", "task"])
def test_two_columns_of_one_name_are_refused_where_they_matter(tmp_path, name):
    names = ["action_0", "state_0", "episode", "time", "task", "other", "other"]
    (tmp_path / "x.csv").write_text(",".join(names) + "\n0,0,0,0,0,0,0\n0,0,0,1,0,0,0\n")
    assert len(read(tmp_path / "x.csv").trajectories) == 1
    (tmp_path / "x.csv").write_text(",".join([*names, name]) + "\n0,0,0,0,0,0,0,0\n0,0,0,1,0,0,0,0\n")
    with pytest.raises(ValueError, match=rf"x\.csv: line 1: has 2 columns '{name}'"):
        read(tmp_path / "x.csv")


# ---- Times -------------------------------------------------------------------------------------------


def timed(path, times, **columns):
    pd.DataFrame({"time": times, "action_0": np.arange(len(times)) * 1.0, **columns}).to_csv(path, index=False)
    return path


def test_files_of_another_rate_than_most_are_refused(tmp_path):
    for number, hz in enumerate((50, 10, 10)):
        timed(tmp_path / f"episode_{number}.csv", np.arange(6) / hz)
    with pytest.raises(BrokenDataError, match=r"episode_0\.csv: a step takes 0\.02 s by its times, 0\.1 s at"):
        list(read(tmp_path).trajectories)
    dataset = read(tmp_path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [1, 2]
    assert [e.reason for e in dataset.left_out] == ["other control rate"]
    assert [t.hz for t in read(tmp_path, hz=10.0).trajectories] == [10.0] * 3, "who gives the rate knows"


def test_times_that_are_no_seconds_are_noticed(tmp_path):
    path = timed(tmp_path / "x.csv", np.arange(6) * 100)
    with pytest.raises(ValueError, match=r"x\.csv: a step takes 100 by its times; .* \(are they milliseconds\?\)"):
        read(path)
    assert next(iter(read(path, hz=10).trajectories)).hz == 10
    timed(path, [0, 100, 200, 500, 600])
    with pytest.raises(BrokenDataError, match="step 3 comes 300 s after the one before; most take 100 s"):
        list(read(path, hz=10).trajectories)


@pytest.mark.parametrize("zone", [None, "Europe/Rome"])
def test_dates_are_times(tmp_path, zone):
    """The hour that an October night has twice is no gap."""
    times = pd.date_range("2024-10-27 00:59:59.700", periods=8, freq="100ms", tz="UTC").tz_convert(zone)
    dataset = read(timed(tmp_path / "x.csv", times))
    assert (dataset.hz, len(list(dataset.trajectories))) == (10.0, 1)
    timed(tmp_path / "x.csv", times.delete(3))
    with pytest.raises(BrokenDataError, match=r"step 3 comes 0\.2 s after the one before"):
        list(read(tmp_path / "x.csv").trajectories)


def test_a_time_that_is_missing_is_no_time(tmp_path):
    timed(tmp_path / "x.csv", [0, 0.1, None, 0.3])
    with pytest.raises(BrokenDataError, match=r"x\.csv: the time of step 2 is nan; times must be finite"):
        list(read(tmp_path / "x.csv").trajectories)


# ---- What one episode or file has, others need not -----------------------------------------------------


ROWS = [f"{e},{i / 10},{i}" for e in range(4) for i in range(3)]


@pytest.mark.parametrize(
    ("row", "text", "lost", "message"),
    [
        (4, "1,now,1", [1], "line 6, column 'time': a cell is no number: could not convert string to float: 'now'"),
        (4, "1,0.1,x", [1], "line 6, column 'action_0': a cell is no number"),
        (4, "1,0.1,1_000", [1], "line 6, column 'action_0': a cell is no number: .* '1_000'"),
        (4, "1,1_0,1", [1], "line 6, column 'time': a cell is no number: .* '1_0'"),
        (4, "nan,0.1,1", [1], "line 6, column 'episode': 'nan' is no episode's number or name"),
        (4, "0.5,0.1,1", [1], "line 6, column 'episode': '0.5' is no episode's number or name"),
        (4, ",0.1,1", [1], "line 6, column 'episode': '' is no episode's number or name"),
        (5, "1_000,0.1,1", [1, 2], "line 7, column 'episode': '1_000' is no episode's number or name"),
        (4, "1,0.1", [1], "line 6 has 2 cells, expected 3"),
        (5, "1", [1, 2], "line 7 has 1 cells"),
        (3, "1,0.0,0,0", [0, 1], "line 5 has 4 cells"),
        (0, "0", [0], "line 2 has 1 cells"),
        (11, "3,", [3], "line 13 has 2 cells"),
    ],
)
def test_a_bad_row_costs_its_episode(tmp_path, row, text, lost, message):
    """Of a row with other cells it is not known whose it is: at a border it costs both sides."""
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["episode,time,action_0", *ROWS[:row], text, *ROWS[row + 1 :]]) + "\n")
    with pytest.raises(BrokenDataError, match=f"x.csv: {message}"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    assert [(t.episode, len(t.actions)) for t in dataset.trajectories] == [(e, 3) for e in range(4) if e not in lost]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("unreadable file", 1)] * len(lost)
    others = read(path, episodes=[e for e in range(4) if e not in lost])
    assert len(list(others.trajectories)) == 4 - len(lost), "what is not chosen stops nothing"


def test_a_quote_that_is_not_closed_does_not_hide_what_follows(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('episode,action_0,task\n0,1,pick\n0,2,"pick\n1,3,pick\n1,4,pick\n')
    with pytest.raises(BrokenDataError, match=r"x\.csv: not a readable CSV file: unexpected end of data"):
        read(path)


def test_a_file_of_bad_rows_holds_nothing(tmp_path):
    (tmp_path / "x.csv").write_text("action_0,action_1\n1\n2\n")
    with pytest.raises(BrokenDataError, match=r"x\.csv: line 2 has 1 cells, expected 2"):
        read(tmp_path / "x.csv")


def test_the_columns_are_those_that_most_files_have(tmp_path):
    write_folder(tmp_path)
    replaced(tmp_path / "episode_0.csv", "action_2", "velocity_2")
    with pytest.raises(BrokenDataError, match=r"episode_0\.csv: has the columns .*'velocity_2'"):
        read(tmp_path)
    dataset = read(tmp_path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [2, 10]
    assert dataset.dimension_names == ("action_0", "action_1", "action_2")


@pytest.mark.parametrize("damage", ["pointer", "bytes", "columns"])
def test_a_broken_file_that_is_not_chosen_stops_nothing(tmp_path, damage):
    write_folder(tmp_path)
    DAMAGE[damage][0](tmp_path / "episode_2.csv")
    dataset = read(tmp_path, episodes=[0, 10])
    assert [t.episode for t in dataset.trajectories] == [0, 10]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("not chosen", 1)]
    left_out = read(tmp_path, episodes=[0, 2], on_broken="skip").left_out
    assert [(e.reason, e.episodes) for e in left_out] == [("not chosen", 1), (DAMAGE[damage][1], 1)]


def test_columns_that_are_known_to_be_no_dimension_are_none(tmp_path):
    beside = {"action_valid": 1, "action_timestamp": 5.0, "action.is_pad": 0, "state_index": 3}
    frame(EPISODES[0], **beside).to_csv(tmp_path / "x.csv", index=False)
    dataset = read(tmp_path / "x.csv")
    assert dataset.dimension_names == ("action_0", "action_1", "action_2")
    assert dataset.state_names == ("state_x",)
    assert read(tmp_path / "x.csv", action_key="action_valid").dimension_names == ("action_valid",), "unless asked for"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_named(tmp_path, separator):
    frame(EPISODES[0]).to_csv(tmp_path / "x.csv", index=False, sep=separator)
    with pytest.raises(BrokenDataError, match=r"x\.csv: expected columns separated by commas, got .*action_0"):
        read(tmp_path / "x.csv")


def test_the_text_of_a_file_is_not_held(tmp_path):
    table = np.random.default_rng(0).normal(size=(6000, 8))
    pd.DataFrame(table, columns=[f"action_{i}" for i in range(8)]).to_csv(tmp_path / "x.csv", index=False)
    tracemalloc.start()
    (t,) = read(tmp_path / "x.csv").trajectories
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(t.actions, table)
    assert peak < 4 * table.nbytes, "as text it is 19 times as large"
