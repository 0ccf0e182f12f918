"""Sidecars: token ids of every frame of a LeRobot folder, beside it."""

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fast_tokenizer import EmbodimentData, FastTokenizer, Relative
from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.sidecar import Manifest, Sidecar, plan_sidecar, write_part, write_sidecar
from fast_tokenizer.sidecar.run import Run
from tests.lerobot_folders import EPISODES, tree, write_v2, write_v3

T = 5
LENGTHS = [7, 4, 9]
#: Numbers of the frames of `write_v2` and `write_v3`: there are gaps between the episodes.
INDEX = np.concatenate([100 * i + np.arange(n) for i, n in enumerate(LENGTHS)])


def fitted(seed=0, **options):
    chunks = np.random.default_rng(seed).normal(size=(200, T, 3))
    return FastTokenizer.fit(chunks, 256, normalize="quantile", **options)


TOK = fitted()


def window(actions, t, horizon=T):
    """The chunk of frame t, one step after the other; beyond the end the last action again."""
    return np.stack([actions[min(t + k, len(actions) - 1)] for k in range(horizon)])


def expected(tok, episodes, horizon=T, states=None):
    """A list of ids for each frame of all episodes, each encoded by itself."""
    found = []
    for e, actions in enumerate(episodes):
        for t in range(len(actions)):
            state = None if states is None else states[e][t : t + 1].astype(np.float64)
            found.append(tok.encode(window(actions, t, horizon)[None], num_threads=1, state=state).to_list()[0])
    return found


def rows(folder):
    """All rows of all parts, as Python has them, by no code of the library."""
    manifest = json.loads((folder / "sidecar.json").read_text())
    files = sorted((folder / "data").rglob("*.parquet"))
    assert len(files) == manifest["parts"]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture(params=["v2.1", "v3.0"])
def source(request, tmp_path):
    return {"v2.1": write_v2, "v3.0": write_v3}[request.param](tmp_path / "robot")


@pytest.fixture
def v2(tmp_path):
    return write_v2(tmp_path / "robot")


# ---- What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["g1_inspire_pick", "so101_record_test"])
def test_a_recorded_folder_gets_each_frame_once_and_is_not_changed(name, shared_data, tmp_path):
    source = shared_data / "lerobot" / name
    before = tree(source)
    actions = [t.actions for t in read(source).trajectories]
    dims = actions[0].shape[1]
    every = np.concatenate([np.stack([window(a, t, 20) for t in range(0, len(a), 7)]) for a in actions])
    tok = FastTokenizer.fit(every, 512, normalize="quantile")
    out, manifest = write_sidecar(tok, source, tmp_path / "tokens")
    assert tree(source) == before
    found = rows(out)
    assert [(r["episode_index"], r["frame_index"]) for r in found] == [
        (e, t) for e, a in enumerate(actions) for t in range(len(a))
    ]
    assert [r["index"] for r in found] == list(range(manifest.source_frames))
    assert (manifest.frames, manifest.episodes, manifest.action_dim) == (len(found), len(actions), dims)
    assert manifest.tokens == sum(len(r["ids"]) for r in found)
    assert manifest.longest == max(len(r["ids"]) for r in found)
    assert manifest.filled_frames == 19 * len(actions) == sum(r["real_steps"] < 20 for r in found)
    direct = tok.encode(np.concatenate([np.stack([window(a, t, 20) for t in range(len(a))]) for a in actions]))
    assert [r["ids"] for r in found] == direct.to_list()
    assert [r["saturated"] for r in found] == direct.saturated.tolist()
    frames = Sidecar.open(out, tok).frames(np.arange(len(found)))
    np.testing.assert_array_equal(frames.tokens.ids, direct.ids)
    np.testing.assert_array_equal(frames.tokens.offsets, direct.offsets)


def test_rows_are_those_of_chunks_encoded_one_by_one(source, tmp_path):
    before = tree(source)
    out, manifest = write_sidecar(TOK, source)
    assert out == tmp_path / "robot.tokens"
    assert tree(source) == before
    found = rows(out)
    assert [r["ids"] for r in found] == expected(TOK, [a for a, _ in EPISODES])
    assert [r["index"] for r in found] == INDEX.tolist()
    assert [r["real_steps"] for r in found] == [min(T, n - t) for n in LENGTHS for t in range(n)]
    assert (manifest.frames, manifest.filled_frames, manifest.episodes_left_out) == (20, 12, {})
    assert not list(out.rglob(".*"))


def test_the_parts_are_the_source_s_data_files_and_say_whose_ids_they_are(source, tmp_path):
    out, manifest = write_sidecar(TOK, source)
    parts = [p.relative_to(out) for p in sorted((out / "data").rglob("*.parquet"))]
    assert parts == [p.relative_to(source) for p in sorted((source / "data").rglob("*.parquet"))]
    for part in parts:
        about = json.loads(pq.read_schema(out / part).metadata[b"fast_tokenizer.sidecar"])
        assert (about["fingerprint"], about["horizon"]) == (TOK.fingerprint(), T)
        assert list(about["columns"]) == pq.read_schema(out / part).names
    assert manifest.fingerprint == TOK.fingerprint()


def test_saturated_and_clipped_values_are_counted(v2):
    tok = FastTokenizer.fit(np.random.default_rng(0).normal(0, 0.3, (50, T, 3)), 64, normalize="quantile", clip=1.0)
    direct = tok.encode(np.concatenate([[window(a, t) for t in range(len(a))] for a, _ in EPISODES]))
    out, manifest = write_sidecar(tok, v2)
    assert manifest.clipped == direct.clipped.sum() > 0
    assert [r["clipped"] for r in rows(out)] == direct.clipped.tolist()
    low = FastTokenizer.fit(np.random.default_rng(0).normal(0, 0.1, (50, T, 3)), 64)
    out, manifest = write_sidecar(low, v2)
    assert manifest.saturated == sum(r["saturated"] for r in rows(out)) > 0


def test_relative_actions_are_relative_to_the_state_of_their_frame(source):
    rng = np.random.default_rng(0)
    rule = Relative((0, 2), (1, 0), 2)
    tok = FastTokenizer.fit(rng.normal(size=(99, T, 3)), 256, relative=rule, state=rng.normal(size=(99, 2)))
    out, manifest = write_sidecar(tok, source)
    assert [r["ids"] for r in rows(out)] == expected(tok, [a for a, _ in EPISODES], states=[s for _, s in EPISODES])
    assert manifest.state_keys == ["observation.state"]
    for path in source.glob("data/**/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["observation.state"]), path)
    with pytest.raises(ValueError, match="has no state, which relative actions need; name it with state_key"):
        write_sidecar(tok, source)


def test_the_state_is_not_read_where_no_action_is_relative_to_it(v2):
    path = v2 / "data/chunk-000/episode_000000.parquet"
    bad = pq.read_table(path).drop_columns(["observation.state"])
    pq.write_table(bad.append_column("observation.state", pa.array(["?"] * 7)), path)
    assert write_sidecar(TOK, v2)[1].frames == 20


def test_a_mixture_s_embodiment_is_named_and_the_fingerprint_is_the_mixture_s(v2):
    chunks = np.random.default_rng(0).normal(size=(100, T, 3))
    mixture = FastTokenizer.fit_mixture({"a": EmbodimentData(chunks), "b": EmbodimentData(3 * chunks, scale=4.0)}, 256)
    with pytest.raises(ValueError, match="embodiment"):
        write_sidecar(mixture, v2)
    out, manifest = write_sidecar(mixture, v2, embodiment="b")
    assert (manifest.embodiment, manifest.fingerprint) == ("b", mixture.fingerprint())
    assert [r["ids"] for r in rows(out)] == expected(mixture.embodiment("b"), [a for a, _ in EPISODES])
    assert Sidecar.open(out, mixture)[INDEX[3]].tolist() == rows(out)[3]["ids"]
    with pytest.raises(ValueError, match="It has the ids of 'b', one of several embodiments: give the tokenizer that"):
        Sidecar.open(out, mixture.embodiment("b"))


def test_some_dimensions_some_episodes_any_horizon(source):
    tok = FastTokenizer.default()
    out, manifest = write_sidecar(tok, source, horizon=3, dimensions=[2, 0], episodes=[2, 0])
    assert [r["ids"] for r in rows(out)] == expected(tok, [EPISODES[i][0][:, [2, 0]] for i in (0, 2)], 3)
    assert (manifest.dimensions, manifest.horizon, manifest.episodes_left_out) == ([2, 0], 3, {"not chosen": 1})
    assert (manifest.episodes, manifest.source_episodes, manifest.source_frames) == (2, 3, 20)


# ---- What cannot be used -----------------------------------------------------------------------------


def spoil(path, number, **columns):
    """Replaces columns in the rows of an episode."""
    table = pq.read_table(path)
    at = np.flatnonzero(table["episode_index"].to_numpy() == number)
    for name, change in columns.items():
        values = table[name].to_pylist()
        for k, i in enumerate(at):
            values[i] = change(k, values[i])
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    pq.write_table(table, path)


def file_of(source, number):
    v3 = source / f"data/chunk-000/file-{0 if number < 2 else 1:03d}.parquet"
    return v3 if v3.exists() else source / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"


def test_a_broken_episode_stops_the_work_or_is_left_out_and_counted(source):
    spoil(file_of(source, 1), 1, action=lambda k, v: [np.nan] * 3 if k == 2 else v)
    with pytest.raises(BrokenDataError, match=r"episode 1: actions\[2, 0\] is nan"):
        write_sidecar(TOK, source)
    with pytest.raises(ValueError, match="not finished"):
        Sidecar.open(source.with_name("robot.tokens"), TOK)
    out, manifest = write_sidecar(TOK, source, on_broken="skip")
    assert (manifest.episodes, manifest.frames, manifest.episodes_left_out) == (2, 16, {"not finite": 1})
    assert [r["ids"] for r in rows(out)] == expected(TOK, [EPISODES[0][0], EPISODES[2][0]])
    sidecar = Sidecar.open(out, TOK)
    with pytest.raises(ValueError, match=re.escape("has no frame 102, but 16 others, from 0 on; episodes that were")):
        sidecar[102]


def test_a_file_that_is_not_there_costs_its_episodes(source):
    file_of(source, 2).unlink()
    with pytest.raises(BrokenDataError, match="no such file"):
        write_sidecar(TOK, source)
    with pytest.raises(ValueError, match=r"holds no episode that can be used: .*no such file"):
        write_sidecar(TOK, source, on_broken="skip", episodes=[2])
    out, manifest = write_sidecar(TOK, source, on_broken="skip")
    assert (manifest.frames, manifest.episodes_left_out) == (11, {"missing file": 1})
    assert len(rows(out)) == 11


def test_nothing_that_could_be_used_is_no_sidecar(v2):
    for number in range(3):
        spoil(file_of(v2, number), number, action=lambda k, v: [np.nan] * 3)
    with pytest.raises(ValueError, match=r"robot: holds no episode that can be used: \{'not finite': 3\}"):
        write_sidecar(TOK, v2, on_broken="skip")
    with pytest.raises(ValueError, match="not finished"):
        Sidecar.open(v2.with_name("robot.tokens"), TOK)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_frame_numbers_that_repeat_are_refused(version, tmp_path):
    """Some converters count each episode's frames from 0: which frame is meant would be anyone's guess."""
    source = (write_v2 if version == "v2.1" else write_v3)(tmp_path / "robot")
    for number in range(3):
        spoil(file_of(source, number), number, index=lambda k, v: k)
    message = "must number all frames once" if version == "v2.1" else r"episode 1: the column index must rise"
    with pytest.raises(ValueError, match=message):
        write_sidecar(TOK, source)
    if version == "v3.0":
        with pytest.raises(ValueError, match=r"data/chunk-000/file-001\.parquet begins at 0"):
            write_sidecar(TOK, source, on_broken="skip")


@pytest.mark.parametrize(
    ("kind", "change", "refused"),
    [
        (pa.uint64(), 0, None),
        (pa.float64(), 0, None),
        (pa.float64(), 0.5, "frame 0 has 100.5 after -1"),
        (pa.float64(), np.nan, "frame 0 has nan after -1"),
        (pa.int64(), -200, "frame 0 has -100 after -1"),
    ],
)
def test_frame_numbers_are_whole_whatever_their_type(v2, kind, change, refused):
    table = pq.read_table(file_of(v2, 1))
    numbers = pa.array(100 + np.arange(4) + change).cast(kind)
    pq.write_table(table.set_column(table.column_names.index("index"), "index", numbers), file_of(v2, 1))
    if refused is None:
        assert [r["index"] for r in rows(write_sidecar(TOK, v2)[0])] == INDEX.tolist()
    else:
        with pytest.raises(
            BrokenDataError, match=re.escape(f"episode 1: the column index must rise in whole numbers, but {refused}")
        ):
            write_sidecar(TOK, v2)


def test_a_file_without_frame_numbers_is_refused(tmp_path):
    source = write_v2(tmp_path / "robot", drop=("index",))
    with pytest.raises(BrokenDataError, match="has no column 'index', the frames' numbers"):
        write_sidecar(TOK, source)


def test_frame_index_is_counted_where_the_source_does_not_say_it(tmp_path):
    out, _ = write_sidecar(TOK, write_v2(tmp_path / "robot", drop=("frame_index",)))
    assert [r["frame_index"] for r in rows(out)] == [t for n in LENGTHS for t in range(n)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 6}, "horizon=6, but the tokenizer was fitted for 5"),
        ({"dimensions": [0, 1]}, "has actions of 2 dimensions, the tokenizer was fitted for 3"),
        ({"dimensions": [0, 1, 3]}, "a dimension must lie in the data's dimensions 0..2, got 3"),
        ({"dimensions": [0, 1, 1]}, "each once"),
        ({"episodes": [0, 7]}, "has no episode 7"),
        ({"episodes": [99]}, "has no episode 99"),
        ({"episodes": [99], "dimensions": [0, 1, 2]}, "has no episode 99"),
        ({"embodiment": "a"}, "no embodiment of this tokenizer is called 'a'"),
        ({"action_key": "actoin"}, "has no column 'actoin' of numbers"),
        ({"on_broken": "ignore"}, "on_broken must be 'raise' or 'skip', got 'ignore'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(v2, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_sidecar(TOK, v2, **options)
    assert not v2.with_name("robot.tokens").exists()


def test_another_robot_is_refused(v2):
    with pytest.raises(ValueError, match="the data is at 10 Hz, the tokenizer was fitted at 50 Hz"):
        write_sidecar(fitted(hz=50.0), v2)
    with pytest.raises(ValueError, match="the data's dimensions are"):
        write_sidecar(fitted(dimension_names=["a", "b", "c"]), v2)
    with pytest.raises(ValueError, match="takes any horizon"):
        write_sidecar(FastTokenizer.default(), v2)
    with pytest.raises(ValueError, match="is no LeRobot folder"):
        write_sidecar(TOK, v2 / "data")


def test_values_that_the_tokenizer_refuses_name_their_episode(v2):
    rng = np.random.default_rng(0)
    tok = FastTokenizer.fit(rng.normal(size=(99, T, 3)), 256, relative=[0], state=rng.normal(size=(99, 2)))
    table = pq.read_table(file_of(v2, 1))
    far = pa.array([[0.0, 0.0], [1e200, 0.0], [0.0, 0.0], [0.0, 0.0]], pa.list_(pa.float64()))
    at = table.column_names.index("observation.state")
    pq.write_table(table.set_column(at, "observation.state", far), file_of(v2, 1))
    with pytest.raises(ValueError, match=r"robot episode 1: chunk 1: state column 0 is 1e\+200"):
        write_sidecar(tok, v2)


# ---- Where it goes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "tokens", "data/../deep/er"])
def test_an_output_within_the_source_is_refused(v2, inside):
    before = tree(v2)
    with pytest.raises(ValueError, match="lies within the source"):
        write_sidecar(TOK, v2, v2 / inside)
    link = v2.with_name("link")
    link.symlink_to(v2)
    with pytest.raises(ValueError, match="lies within the source"):
        write_sidecar(TOK, v2, link / "tokens")
    with pytest.raises(ValueError, match=r"the source .* lies within it"):
        write_sidecar(TOK, v2, v2.parent)
    assert tree(v2) == before


def test_a_folder_that_holds_something_else_is_left_alone(v2, tmp_path):
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data" / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and no sidecar"):
        write_sidecar(TOK, v2, other)
    assert (other / "data" / "mine").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        write_sidecar(TOK, v2, tmp_path / "file")


#: The folder of a run that was killed.
KILLED = "unfinished-1-0123456789abcdef"


@pytest.mark.parametrize("content", ["", "{}", "[" * 200_000, '{"format": "of somebody else"}'])
def test_somebody_else_s_file_of_that_name_makes_no_sidecar(v2, tmp_path, content):
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    (other / "data" / "mine.parquet").write_text("mine")
    (other / "sidecar.json").write_text(content)
    before = tree(other)
    with pytest.raises(ValueError, match="is not empty, and no sidecar"):
        write_sidecar(TOK, v2, other)
    assert tree(other) == before
    (other / KILLED).mkdir()
    with pytest.raises(ValueError, match="is not empty, and no sidecar"):  # theirs would be lost
        write_sidecar(TOK, v2, other)


def linked_part(data):
    part = next(data.rglob("*.parquet"))
    part.rename(data.parent.parent / "kept.parquet")
    part.symlink_to(data.parent.parent / "kept.parquet")


def linked_folder(data):
    data.rename(data.parent.parent / "kept")
    data.symlink_to(data.parent.parent / "kept")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: (data / "chunk-000" / "notes.txt").write_text("mine"), "data/chunk-000/notes.txt"),
        (linked_part, "data/chunk-00"),
        (linked_folder, "data"),
    ],
)
def test_what_no_sidecar_has_is_not_deleted(v2, change, named, finished):
    out, _ = write_sidecar(TOK, v2)
    if not finished:  # as a run leaves it that is killed before its last move
        (out / KILLED).mkdir()
        (out / "sidecar.json").rename(out / KILLED / "sidecar.json")
    change(out / "data")
    before = tree(v2.parent)
    with pytest.raises(ValueError, match=rf"{out / named}.*: is nothing that a sidecar has, and would be deleted"):
        write_sidecar(TOK, v2, on_broken="skip")
    assert tree(v2.parent) == before


def test_what_a_killed_writer_left_is_deleted(v2):
    out, _ = write_sidecar(TOK, v2)
    before = tree(out)
    (out / KILLED / "data").mkdir(parents=True)
    (out / KILLED / "0a1b2c3d.part").write_text("half")
    write_sidecar(TOK, v2)
    assert tree(out) == before


def test_a_sidecar_is_replaced_whole(v2):
    write_sidecar(fitted(seed=1), v2)
    out, manifest = write_sidecar(TOK, v2, episodes=[1])
    assert len(rows(out)) == manifest.frames == 4  # no part of the old one is left
    assert Sidecar.open(out, TOK).indices().tolist() == [100, 101, 102, 103]


def test_a_sidecar_that_could_not_be_replaced_is_none(v2):
    """Its parts may be gone, or be those of the other tokenizer."""
    out, _ = write_sidecar(TOK, v2)
    spoil(file_of(v2, 2), 2, action=lambda k, v: [np.nan] * 3)
    with pytest.raises(BrokenDataError):
        write_sidecar(TOK, v2)
    with pytest.raises(ValueError, match="not finished"):
        Sidecar.open(out, TOK)


# ---- Written by many ---------------------------------------------------------------------------------


def test_parts_are_written_by_other_processes_in_any_order(source, tmp_path):
    alone, manifest = write_sidecar(TOK, source, tmp_path / "alone")
    plan = plan_sidecar(TOK, source, tmp_path / "together").begin()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        counts = [pool.submit(write_part, TOK, job).result() for job in reversed(plan.jobs)]
    again = write_part(TOK, plan.jobs[0])  # as an engine does that is not sure of it
    assert again == counts[-1]
    with pytest.raises(ValueError, match="not finished"):
        Sidecar.open(plan.output, TOK)
    assert plan.finish(counts) == manifest
    assert tree(plan.output) == tree(alone)


def killed_within_a_part(job):
    """A process that writes a part, and is killed when it is on the disk but has no name yet."""

    def killed(_file):
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = killed
    write_part(TOK, job)


def test_nothing_is_left_of_writers_that_were_killed(source, tmp_path):
    """Others do their jobs again, as on a cluster."""
    alone, manifest = write_sidecar(TOK, source, tmp_path / "alone")
    plan = plan_sidecar(TOK, source, tmp_path / "together").begin()
    for job in plan.jobs:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        with pool, pytest.raises(BrokenProcessPool):
            pool.submit(killed_within_a_part, job).result()
    assert len(list(plan.run.folder.glob("*.part"))) == len(plan.jobs)
    assert plan.finish([write_part(TOK, job) for job in plan.jobs]) == manifest
    assert tree(plan.output) == tree(alone)


def test_counts_that_do_not_account_for_every_frame_finish_nothing(v2):
    plan = plan_sidecar(TOK, v2).begin()
    counts = [write_part(TOK, job) for job in plan.jobs]
    assert [c.frames for c in counts] == LENGTHS
    for wrong, message in (
        (counts[:2], "1 of 3 parts are not written, the first is data/chunk-001/episode_000002.parquet"),
        ([*counts, counts[0]], "data/chunk-000/episode_000000.parquet: is counted twice"),
        ([*counts, replace(counts[0], part="data/x")], "data/x: is none of the 3 parts"),
        ([replace(counts[0], frames=6), *counts[1:]], "has 6 frames of 1 episodes, with 0 left out; expected 7"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            plan.finish(wrong)
    part = plan.run.folder / counts[1].part
    whole = part.read_bytes()
    pq.write_table(pq.read_table(part).slice(1), part)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(part))}: has 3 frames, 4 were counted"):
        plan.finish(counts)
    part.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(part))}: cannot be read again"):
        plan.finish(counts)
    part.unlink()
    with pytest.raises(ValueError, match=r"1 of 3 parts are not there.*a disk that is not shared"):
        plan.finish(counts)
    with pytest.raises(ValueError, match="not finished"):
        Manifest.load(plan.output)


def test_a_worker_with_another_tokenizer_is_refused(v2):
    plan = plan_sidecar(TOK, v2).begin()
    with pytest.raises(ValueError, match="is to be encoded with the tokenizer"):
        write_part(fitted(seed=1), plan.jobs[0])


def test_a_plan_must_begin_before_it_is_written(v2):
    plan = plan_sidecar(TOK, v2)
    with pytest.raises(ValueError, match=r"its plan has not begun; take the jobs of plan.begin\(\)"):
        write_part(TOK, plan.jobs[0])
    with pytest.raises(ValueError, match="this plan has not begun"):
        plan.finish([])
    assert not plan.output.exists()


def test_a_killed_write_leaves_no_sidecar(v2):
    """Killed before each file that is written gets its name, and before each move: SIGKILL, no clean-up."""
    TOK.save(v2.with_name("tok"))
    code = f"""
        import os, signal, sys
        from fast_tokenizer import FastTokenizer
        from fast_tokenizer.sidecar import Sidecar, write_sidecar
        TOK = FastTokenizer.load({str(v2.with_name("tok"))!r})
        out, replace = {str(v2.with_name("robot.tokens"))!r}, os.replace
        for survived in range(13):
            pid = os.fork()
            if pid == 0:
                left = [survived]
                def killed(*names):
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    replace(*names)
                os.replace = killed
                write_sidecar(TOK, {str(v2)!r}, num_threads=1)
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            try:
                print(survived, status, len(Sidecar.open(out, TOK)), flush=True)
            except (ValueError, FileNotFoundError) as error:
                print(survived, status, type(error).__name__, str(error)[-30:], flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    lines = done.stdout.splitlines()
    for line in lines[:12]:  # the folder of the one before, three that are not there, five files, three moves
        assert re.fullmatch(r"\d+ 9 ValueError.*interrupted, or still runs", line), (line, done.stderr)
    assert lines[12:] == ["12 0 20"], done.stderr
    assert not list(v2.with_name("robot.tokens").glob("unfinished*"))


def outcome(work):
    """Whether a run ended whole; else it was told why."""
    try:
        work()
    except ValueError as error:
        if "robot.tokens: another run has begun to write to this folder" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("function", ["replace", "mkdir", "fsync", "listdir", "rmdir", "unlink"])
@pytest.mark.parametrize("whole", [True, False])
def test_another_run_in_the_middle_of_one(v2, tmp_path, monkeypatch, function, whole):
    """Whatever the one is about to do: the one that began last ends whole, the other with one error."""
    mine, others = [0, 1, 2], [2, 1, 0]
    alone = {
        str(d): tree(write_sidecar(TOK, v2, tmp_path / str(d), num_threads=1, dimensions=d)[0]) for d in (mine, others)
    }
    original, lost = getattr(os, function), 0
    for moment in range(99):
        out, _ = write_sidecar(TOK, v2)
        calls, begun = [], []

        def hooked(*args, calls=calls, begun=begun, moment=moment, **kwargs):
            calls.append(args)
            if len(calls) == moment + 1:
                with monkeypatch.context() as now:
                    now.setattr(os, function, original)
                    begun.append(plan_sidecar(TOK, v2, dimensions=others).begin())
                    if whole:
                        begun[0].finish([write_part(TOK, job) for job in begun[0].jobs])
            return original(*args, **kwargs)

        plan = plan_sidecar(TOK, v2, dimensions=mine)
        with monkeypatch.context() as during:
            during.setattr(os, function, hooked)
            ended = outcome(lambda plan=plan: plan.write(TOK, num_threads=1))
        if not begun:
            assert ended
            break
        lost += not ended
        (second,) = begun
        second_ended = whole or outcome(lambda s=second: s.finish([write_part(TOK, job) for job in s.jobs]))
        # Both end where one was done before the other began.
        possible = [alone[str(d)] for d, e in ((mine, ended), (others, second_ended)) if e]
        assert tree(out) in possible, (moment, calls[moment])
    assert lost >= {"replace": 11, "fsync": 5}.get(function, 1)


@pytest.mark.parametrize("done", [False, True])
def test_a_run_that_was_ended_when_its_parts_were_written(v2, done):
    first = plan_sidecar(TOK, v2).begin()
    counts = [write_part(TOK, job) for job in first.jobs]
    second = plan_sidecar(TOK, v2).begin()
    if done:
        second.finish([write_part(TOK, job) for job in second.jobs])
    assert not outcome(lambda: first.finish(counts))
    assert second.run.folder.exists() is not done


def test_of_two_that_begin_at_the_same_moment_one_goes_on(v2, monkeypatch):
    """Each has made its folder before the other looked."""
    out = v2.with_name("robot.tokens")
    earlier, later = (Run(out, f"unfinished-1-{digit * 16}") for digit in "0f")
    mkdir = os.mkdir

    def both(path, *more, **options):
        mkdir(path, *more, **options)
        if Path(path) == earlier.folder:
            mkdir(later.folder)

    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    monkeypatch.setattr(os, "mkdir", both)
    assert not outcome(lambda: Run.begin(out))
    later.end_others()
    assert list(out.iterdir()) == [later.folder]


def test_many_that_write_one_sidecar_at_once(v2, tmp_path):
    """As the processes of `torchrun` would. Somebody has written it, the others say so."""
    options = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]]
    alone = [tree(write_sidecar(TOK, v2, tmp_path / str(d), dimensions=d)[0]) for d in options]
    at_once = threading.Barrier(len(options))

    def write(dimensions):
        at_once.wait(60)
        return outcome(lambda: write_sidecar(TOK, v2, num_threads=1, dimensions=dimensions))

    with ThreadPoolExecutor(len(options)) as pool:
        for _ in range(10):
            ended = list(pool.map(write, options))
            assert tree(v2.with_name("robot.tokens")) in [a for a, e in zip(alone, ended, strict=True) if e]


# ---- Read back ---------------------------------------------------------------------------------------


@pytest.fixture
def sidecar(source):
    return Sidecar.open(write_sidecar(TOK, source)[0], TOK)


def test_frames_come_by_their_numbers_in_any_order(sidecar):
    ids = dict(zip(INDEX.tolist(), expected(TOK, [a for a, _ in EPISODES]), strict=True))
    asked = np.random.default_rng(0).choice(INDEX, 50)
    for form in (asked, asked.tolist(), torch.from_numpy(asked)):
        frames = sidecar.frames(form)
        assert frames.tokens.to_list() == [ids[i] for i in asked]
        assert frames.index.tolist() == asked.tolist()
        assert frames.episode_index.tolist() == (asked // 100).tolist()
        assert frames.frame_index.tolist() == (asked % 100).tolist()
        assert frames.real_steps.tolist() == [min(T, LENGTHS[i // 100] - i % 100) for i in asked]
    assert sidecar[203].tolist() == ids[203]
    assert (len(sidecar), sidecar.indices().tolist()) == (20, INDEX.tolist())
    assert sidecar.frames([]).tokens.to_list() == []
    with pytest.raises(TypeError, match="not iterable"):  # it would begin at 0 and stop at the first gap
        iter(sidecar)


@pytest.mark.parametrize("index", [-1, 7, 104, 209, 10**12])
def test_frames_that_it_does_not_have_are_refused(sidecar, index):
    with pytest.raises(ValueError, match=f"has no frame {index}, but 20 others"):
        sidecar.frames([0, index])
    with pytest.raises(ValueError, match="expected frame numbers"):
        sidecar.frames([0.5])


def test_it_is_right_however_little_is_kept(source):
    out, _ = write_sidecar(TOK, source)
    little = Sidecar.open(out, TOK, cache_bytes=0)
    ids = expected(TOK, [a for a, _ in EPISODES])
    for _ in range(2):
        assert [little[i].tolist() for i in INDEX] == ids
    assert len(little._blocks) == 1


def test_row_groups_of_a_long_part_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("fast_tokenizer.sidecar.parts.ROW_GROUP", 3)
    source = write_v3(tmp_path / "robot")
    out, _ = write_sidecar(TOK, source)
    assert pq.ParquetFile(out / "data/chunk-000/file-000.parquet").num_row_groups == 4
    sidecar = Sidecar.open(out, TOK)
    assert sidecar.frames(INDEX[::-1]).tokens.to_list() == expected(TOK, [a for a, _ in EPISODES])[::-1]
    with pytest.raises(ValueError, match="has no frame 7"):  # between two episodes of one row group
        sidecar[7]


def test_another_tokenizer_is_refused(sidecar):
    other = fitted(seed=1)
    with pytest.raises(ValueError, match=rf"was written with the tokenizer {TOK.fingerprint()[:16]}, but this one is"):
        Sidecar.open(sidecar.path, other)


def test_it_goes_to_other_processes_by_its_path(sidecar):
    sidecar.frames(INDEX)
    state = pickle.dumps(sidecar)
    assert len(state) < 500
    assert pickle.loads(state)[100].tolist() == sidecar[100].tolist()
    write_sidecar(TOK, sidecar.path.with_name("robot"), sidecar.path, episodes=[0])
    with pytest.raises(ValueError, match="was replaced by another sidecar"):
        pickle.loads(state)


def test_a_forked_process_reads_for_itself(sidecar):
    sidecar[0]
    sidecar._lock.acquire()  # as another thread may at the moment of the fork
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)  # instead of waiting for ever
            os._exit(0 if sidecar[101].tolist() == expected(TOK, [EPISODES[1][0]])[1] else 1)
        except BaseException:  # would go on as a second pytest
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_damage_is_named(sidecar):
    folder, part = sidecar.path, next((sidecar.path / "data").rglob("*.parquet"))
    whole = part.read_bytes()

    def refused(message):
        with pytest.raises(ValueError, match=message):
            Sidecar.open(folder, TOK).frames(INDEX)

    part.write_bytes(whole[: len(whole) // 2])
    refused("is no part of a sidecar")
    pq.write_table(pq.read_table(pa.BufferReader(whole)).slice(1), part)
    refused("the part was changed")
    part.unlink()
    refused("is no part of a sidecar")
    part.write_bytes(whole)
    (folder / "parts.parquet").write_bytes(b"")
    refused("is not the table of parts that the manifest is about")
    manifest = json.loads((folder / "sidecar.json").read_text())
    for change, message in (
        ({"version": 2}, "expected version 1, got 2"),
        ({"format": "x"}, "is no manifest of a sidecar"),
        ({"frames": "20"}, "'frames' must be <class 'int'>, got '20'"),
        ({"action_keys": [1]}, "'action_keys' must be"),
        ({"fingerprint": None}, "'fingerprint' must be"),
    ):
        (folder / "sidecar.json").write_text(json.dumps(manifest | change))
        refused(re.escape(message))
    del manifest["horizon"]
    (folder / "sidecar.json").write_text(json.dumps(manifest))
    refused("has no 'horizon'")
    (folder / "sidecar.json").write_text("{")
    refused("is no JSON")
    (folder / "sidecar.json").unlink()
    with pytest.raises(FileNotFoundError, match="no sidecar there"):
        Sidecar.open(folder, TOK)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"[]", b'"x"', b"7"])
def test_a_manifest_that_is_none_is_refused(sidecar, content):
    (sidecar.path / "sidecar.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"sidecar\.json: is no (JSON|manifest)"):
        Sidecar.open(sidecar.path, TOK)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab_size": 2**31 - 1}, "sidecar.json: has vocab_size 2147483647, the tokenizer 256"),
        ({"horizon": 4}, "sidecar.json: has horizon 4, the tokenizer 5"),
        ({"action_dim": 4}, "sidecar.json: has action_dim 4, the tokenizer 3"),
        ({"embodiment": "a"}, "sidecar.json: no embodiment of this tokenizer is called 'a'"),
        ({"episode_end": "drop"}, "sidecar.json: 'episode_end' must be 'repeat-last', got 'drop'"),
        ({"tokens": 7}, "parts.parquet: has 176 tokens, the manifest 7"),
        ({"episodes": 4}, "parts.parquet: has 3 episodes, the manifest 4"),
        ({"longest": 1}, "is damaged: ids a frame must lie in 0..1, got 12"),
    ],
)
def test_a_manifest_that_somebody_changed_is_refused(sidecar, changed, message):
    path = sidecar.path / "sidecar.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=re.escape(message)):
        Sidecar.open(sidecar.path, TOK)[0]


def test_a_part_that_is_overwritten_while_it_is_open_is_one_error(v2):
    """As by rsync --inplace; in a process of its own, since SIGBUS would end it."""
    TOK.save(v2.with_name("tok"))
    out, _ = write_sidecar(TOK, v2)
    code = f"""
        import os
        from fast_tokenizer import FastTokenizer
        from fast_tokenizer.sidecar import Sidecar
        sidecar = Sidecar.open({str(out)!r}, FastTokenizer.load({str(v2.with_name("tok"))!r}), cache_bytes=0)
        sidecar[0], sidecar[100]
        os.truncate({str(out / "data/chunk-000/episode_000000.parquet")!r}, 0)
        sidecar[0]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "episode_000000.parquet: is damaged: " in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("content", [b"xx", b"PAR1" + bytes(50) + b"PAR1"])
def test_a_table_of_parts_that_is_no_parquet_is_refused(sidecar, content):
    (sidecar.path / "parts.parquet").write_bytes(content)
    manifest = json.loads((sidecar.path / "sidecar.json").read_text())
    manifest["parts_digest"] = hashlib.sha256(content).hexdigest()
    (sidecar.path / "sidecar.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"parts\.parquet: is no table of parts"):
        Sidecar.open(sidecar.path, TOK)


def test_parts_that_were_exchanged_are_refused(v2):
    """Each is whole, and has as many frames as the other: only their numbers say that they are each other's."""
    longer = pq.read_table(file_of(v2, 0)).to_pydict() | {"episode_index": [1] * 7, "index": list(range(100, 107))}
    pq.write_table(pa.table(longer), file_of(v2, 1))
    listed = v2 / "meta/episodes.jsonl"
    listed.write_text(listed.read_text().replace('"length": 4', '"length": 7'))
    out, _ = write_sidecar(TOK, v2)
    a, b, _ = sorted((out / "data").rglob("*.parquet"))
    a.rename(out / "a")
    b.rename(a)
    (out / "a").rename(b)
    for ask in (lambda s: s[2], lambda s: s.frames([101]), lambda s: s.indices()):
        with pytest.raises(ValueError, match=r"episode_00000\d\.parquet: is damaged: its frames begin at (0|100), by"):
            ask(Sidecar.open(out, TOK))


def other_part(folder, metadata=None, **columns):
    """A sidecar of whose first part, of 7 frames, somebody exchanged columns or the metadata."""
    path = folder / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    about = table.schema.metadata if metadata is None else {b"fast_tokenizer.sidecar": metadata}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(*values))
    pq.write_table(table.replace_schema_metadata(about), path)
    return path


INT64, INT32, IDS = pa.int64(), pa.int32(), pa.list_(pa.int32())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"index": ([6, 5, 4, 3, 2, 1, 0], INT64)}, "its frames begin at 6, by the table of the parts at 0"),
        ({"index": ([10, 11, 12, 13, 14, 15, 16], INT64)}, "its frames begin at 10, by the table of the parts at 0"),
        ({"index": ([0, 2, 1, 3, 4, 5, 6], INT64)}, "its frames are not in rising order"),
        ({"index": ([0, 1, 1, 3, 4, 5, 6], INT64)}, "its frames are not in rising order"),
        ({"index": ([0, 1, 2, 3, 4, 5, 100], INT64)}, "go up to 100, by the table of the parts others begin at 100"),
        ({"index": ([0, 1, None, 3, 4, 5, 6], INT64)}, "'index' has empty cells"),
        ({"index": (["a"] * 7,)}, "column 'index' must be int64, got string"),
        ({"ids": ([[1, -5]] * 7, IDS)}, "ids must lie in 0..255, got -5"),
        ({"ids": ([[256, 1]] * 7, IDS)}, "ids must lie in 0..255, got 256"),
        ({"ids": ([[1, None]] * 7, IDS)}, "'ids' has empty cells"),
        ({"ids": ([[1]] * 6 + [None], IDS)}, "'ids' has empty cells"),
        ({"ids": ([[1.5]] * 7,)}, "column 'ids' must be list<int32>, got list<"),
        ({"ids": ([[2**40]] * 7, pa.list_(INT64))}, "column 'ids' must be list<int32>, got list<"),
        ({"ids": ([[1]] * 7, pa.large_list(INT32))}, "column 'ids' must be list<int32>, got large_list<"),
        ({"ids": (["a"] * 7,)}, "column 'ids' must be list<int32>, got string"),
        ({"real_steps": ([5, 5, 5, 4, 3, 2, 0], INT32)}, "real_steps must lie in 1..5, got 0"),
        ({"real_steps": ([6, 5, 5, 4, 3, 2, 1], INT32)}, "real_steps must lie in 1..5, got 6"),
        ({"clipped": ([0] * 6 + [-1], INT32)}, "dropped must lie in 0..2147483647, got -1"),
    ],
)
def test_a_part_of_other_values_is_refused(v2, columns, message):
    out, _ = write_sidecar(TOK, v2)
    path = other_part(out, **columns)
    sidecar = Sidecar.open(out, TOK)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: is (damaged|no part).*{re.escape(message)}"):
        sidecar.frames([3])
    if "index" in columns:
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: is (damaged|no part)"):
            sidecar.indices()


@pytest.mark.parametrize("metadata", [b"[" * 200_000, b"[]", b"7", b"{"])
def test_a_part_of_other_metadata_is_refused(v2, metadata):
    out, _ = write_sidecar(TOK, v2)
    path = other_part(out, metadata)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: is no part of a sidecar"):
        Sidecar.open(out, TOK)[0]


@pytest.mark.parametrize(
    ("anew", "message"),
    [
        ({"horizon": 4}, "has horizon 4, but the sidecar that was opened 3"),
        ({"horizon": 3, "dimensions": [2, 1]}, r"has dimensions \[2, 1\], but the sidecar that was opened None"),
        ({"horizon": 3, "action_key": "observation.state"}, r"has action_keys \['observation.state'\], but"),
    ],
)
def test_a_sidecar_that_is_written_anew_while_it_is_open_is_not_mixed(v2, anew, message):
    tok = FastTokenizer.default()
    sidecar = Sidecar.open(write_sidecar(tok, v2, horizon=3)[0], tok)
    before = sidecar[0].tolist()
    write_sidecar(tok, v2, **anew)
    assert sidecar[0].tolist() == before
    with pytest.raises(ValueError, match=message):
        sidecar[100]


def test_embodiments_of_one_mixture_are_not_mixed(v2):
    chunks = np.random.default_rng(0).normal(size=(100, T, 3))
    mixture = FastTokenizer.fit_mixture({"a": EmbodimentData(chunks), "b": EmbodimentData(3 * chunks, scale=4.0)}, 256)
    sidecar = Sidecar.open(write_sidecar(mixture, v2, embodiment="a")[0], mixture)
    write_sidecar(mixture, v2, embodiment="b")
    with pytest.raises(ValueError, match="has embodiment 'b', but the sidecar that was opened 'a'"):
        sidecar[0]


@pytest.mark.parametrize("given", ["my_robot", None])
def test_what_is_no_tokenizer_is_refused(sidecar, given):
    with pytest.raises(ValueError, match=f"expected a FastTokenizer, got {type(given).__name__}"):
        Sidecar.open(sidecar.path, given)


def rewritten(folder, **columns):
    """A sidecar whose table of parts somebody else made, with the digest that goes with it."""
    table = pq.read_table(folder / "parts.parquet")
    values = {name: columns.get(name, table[name].to_pylist()) for name in table.column_names}
    pq.write_table(pa.table({k: v for k, v in values.items() if v is not None}), folder / "parts.parquet")
    manifest = json.loads((folder / "sidecar.json").read_text())
    manifest["parts_digest"] = hashlib.sha256((folder / "parts.parquet").read_bytes()).hexdigest()
    (folder / "sidecar.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"part": ["/etc/passwd", "b", "c"]}, "names a part outside of the folder, /etc/passwd"),
        ({"part": ["data/../../x", "b", "c"]}, "names a part outside of the folder"),
        ({"frames": None}, "has no column 'frames'"),
        ({"frames": [7, None, 9]}, "has empty cells"),
        ({"frames": [7, 4, 10]}, "has 21 frames in 3 parts, expected 20 in 3"),
        ({"first_indices": [[0], [200], [100]]}, "does not number its frames in rising order"),
        ({"first_indices": [[0], [], [100]]}, "does not number its frames in rising order"),
        ({"first_indices": [[0, 50], [100], [200]]}, "has row groups 1, but the sidecar that was opened 2"),
        ({"first_indices": [[1], [100], [200]]}, "its frames begin at 0, by the table of the parts at 1"),
        ({"first_indices": [0, 100, 200]}, "column 'first_indices' must be list<int64>, got int64"),
        ({"first_indices": [[0], [None], [200]]}, "has empty cells"),
        ({"frames": ["7", "4", "9"]}, "column 'frames' must be int64, got string"),
        ({"frames": [-7, 18, 9]}, "has a part of -7 frames"),
        ({"part": ["C:/x", "b", "c"]}, "names a part outside of the folder, C:/x"),
        ({"part": [r"..\..\x", "b", "c"]}, r"names a part outside of the folder, ..\..\x"),
        ({"part": [r"\\host\x", "b", "c"]}, "names a part outside of the folder"),
        ({"part": ["a\0b", "b", "c"]}, "is no part of a sidecar"),
    ],
)
def test_a_table_of_parts_that_cannot_be_is_refused(v2, columns, message):
    out, _ = write_sidecar(TOK, v2)
    rewritten(out, **columns)
    with pytest.raises(ValueError, match=re.escape(message)):
        Sidecar.open(out, TOK).frames([1, 50])


def test_a_part_without_its_columns_is_refused(v2):
    out, _ = write_sidecar(TOK, v2)
    part = out / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["real_steps"]), part)
    with pytest.raises(ValueError, match="is no part of a sidecar: has no column 'real_steps'"):
        Sidecar.open(out, TOK)[0]


def test_a_source_is_known_again(source):
    sidecar = Sidecar.open(write_sidecar(TOK, source)[0], TOK)
    sidecar.check_source(source)
    if (source / "meta/episodes.jsonl").exists():
        listed = (source / "meta/episodes.jsonl").read_text()
        (source / "meta/episodes.jsonl").write_text(listed.replace('"length": 9', '"length": 8'))
        message = "has frames 19, but .* was written from one with frames 20"
    else:
        shutil.rmtree(source)
        write_v2(source)
        message = "has version v2.1, but .* was written from one with version v3.0"
    with pytest.raises(ValueError, match=message):
        sidecar.check_source(source)


# ---- The command -------------------------------------------------------------------------------------


def run(*args):
    command = [sys.executable, "-c", "from fast_tokenizer.cli import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_a_sidecar(source, tmp_path):
    TOK.save(tmp_path / "tok")
    done = run(
        "sidecar", tmp_path / "tok", source, "--json", "--episodes", "0,2", "--dims", "0:3", "--on-broken", "skip"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["frames"], told["horizon"], told["output"]) == (16, T, str(tmp_path / "robot.tokens"))
    assert told["episodes_left_out"] == {"not chosen": 1}
    assert [r["ids"] for r in rows(tmp_path / "robot.tokens")] == expected(TOK, [EPISODES[0][0], EPISODES[2][0]])
    # in words, and with a horizon in seconds, at 10 Hz
    done = run("sidecar", tmp_path / "tok", source, "-o", tmp_path / "other", "--horizon", "0.5s")
    assert done.returncode == 0, done.stderr
    assert "20 frames of 3 episodes" in done.stdout
    assert "Chunks of 5 x 3; 12 run over the end" in done.stdout


def test_the_command_s_errors_are_one_line(v2, tmp_path):
    TOK.save(tmp_path / "tok")
    for args, message in (
        (("-o", v2 / "tokens"), "lies within the source"),
        (("--episodes", "99"), "has no episode 99"),
        (("--horizon", "1s"), "horizon=10, but the tokenizer was fitted for 5"),
    ):
        done = run("sidecar", tmp_path / "tok", v2, *args)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
