"""RLDS: episodes that tensorflow_datasets wrote (tests/data/rlds/generate.py), and others of tfrecord's writer."""

import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from tfrecord import TFRecordWriter

from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.io._tfrecord import records

ARM = Path(__file__).parent / "data" / "rlds" / "arm"
STUB = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
EPISODES = [np.random.default_rng(i).normal(size=(n, 3)).astype(np.float32) for i, n in enumerate((4, 2, 6))]


def example(actions, **changes):
    n = len(actions)
    features = {
        "steps/action": (actions.ravel().tolist(), "float"),
        "steps/is_first": ([1] + [0] * (n - 1), "int"),
        "steps/is_last": ([0] * (n - 1) + [1], "int"),
        "steps/reward": ([0.0] * n, "float"),
        "steps/observation/image": ([b"\x89PNG" * 400] * n, "byte"),
        "steps/observation/natural_language_instruction": ([b"pick", b"place"][:n] + [b"place"] * (n - 2), "byte"),
        **changes,
    }
    return {name: feature for name, feature in features.items() if feature is not None}


def write(path, *examples):
    writer = TFRecordWriter(str(path))
    for features in examples:
        writer.write(features)
    writer.close()
    return path


def write_shards(folder):
    write(folder / "toy-train.tfrecord-00000-of-00002", *map(example, EPISODES[:2]))
    return write(folder / "toy-train.tfrecord-00001-of-00002", example(EPISODES[2]))


def bounds(path):
    """First and last byte of the records' contents."""
    return [(r._start, r._end) for r in records(path, google_crc32c)]


def test_what_tensorflow_datasets_writes_is_read():
    dataset = read(ARM)
    assert (dataset.lengths.tolist(), dataset.action_dim, dataset.hz) == ([5, 1, 9], 3, None)
    found = set()
    for t in dataset.trajectories:
        e = int(t.actions[0, 0])  # the writer shuffles
        found.add(e)
        steps = np.arange(len(t.actions), dtype=np.float32)
        np.testing.assert_array_equal(t.actions, np.column_stack([np.full_like(steps, e), steps, -steps / 8]))
        np.testing.assert_array_equal(t.state, np.arange(4) + steps[:, None])
        assert t.tasks == (f"task {e}",)
        assert (t.actions.dtype, t.state.dtype) == (np.float32, np.float32)
    assert found == {0, 1, 2}


def test_all_kinds_of_features_are_read():
    (file,) = ARM.glob("*.tfrecord*")
    for record in records(file, google_crc32c):
        record.check(google_crc32c)
        names = {"episode_metadata/number", "episode_metadata/file_path", "steps/observation/image", "steps/is_last"}
        values = record.features(names)
        assert set(values) == names
        e = int(values["episode_metadata/file_path"][0].removesuffix(b".npy"))
        assert values["episode_metadata/number"].tolist() == [-(3**30) * e]
        assert values["steps/is_last"].tolist() == [0] * (len(values["steps/is_last"]) - 1) + [1]
        assert all(image.startswith(b"\x89PNG") for image in values["steps/observation/image"])


@pytest.mark.parametrize("values", [[], [0], [1, 127, 128, 300, -1, 2**63 - 1, -(2**63)], list(range(-300, 300, 7))])
def test_integers_are_those_that_were_written(tmp_path, values):
    path = write(tmp_path / "x.tfrecord", {"n": (values, "int"), "f": ([0.5, -2.0], "float")})
    (record,) = records(path, google_crc32c)
    assert record.features({"n"})["n"].tolist() == values
    assert record.features()["f"].tolist() == [0.5, -2.0]


def test_shards_of_a_folder_and_files_alone(tmp_path):
    second = write_shards(tmp_path)
    got = list(read(tmp_path).trajectories)
    assert [t.episode for t in got] == [0, 1, 2]
    for t, actions in zip(got, EPISODES, strict=True):
        np.testing.assert_array_equal(t.actions, actions)
        assert (t.state, t.tasks) == (None, ("pick", "place"))
    (t,) = read(second).trajectories
    np.testing.assert_array_equal(t.actions, EPISODES[2])
    assert [t.episode for t in read(tmp_path, episodes=[2, 0]).trajectories] == [0, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_file_is_not_held_in_memory(tmp_path):
    """Pictures are gone through, for their checksums, and let go."""
    features = example(EPISODES[0], **{"steps/observation/image": ([bytes(4 << 20)] * 4, "byte")})
    path = write(tmp_path / "x.tfrecord", *[features] * 4)
    code = (
        "import re, sys; from pathlib import Path; from fast_tokenizer.io import read\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "dataset = read(sys.argv[1]); before = peak()\n"
        "print(len(list(dataset.trajectories)), peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, mebibytes = done.stdout.split()
    assert count == "4"
    assert float(mebibytes) < 40, "one record of 16 MiB, not all of 64"


def test_actions_in_several_features_are_joined(tmp_path):
    """As Open X-Embodiment's first sets have them."""
    parts = {
        "steps/action": None,
        "steps/action/world_vector": (EPISODES[0].ravel().tolist(), "float"),
        "steps/action/open_gripper": ([1, 0, 0, 1], "int"),
        "steps/observation/state": (EPISODES[0][:, :2].ravel().tolist(), "float"),
    }
    path = write(tmp_path / "x.tfrecord", example(EPISODES[0], **parts))
    with pytest.raises(ValueError, match=r"has no numbers steps/action, only \['action/open_gripper', 'action/world"):
        read(path)
    (t,) = read(path, action_key=["action/world_vector", "action/open_gripper"]).trajectories
    np.testing.assert_array_equal(t.actions, np.column_stack([EPISODES[0], [1, 0, 0, 1]]))
    np.testing.assert_array_equal(t.state, EPISODES[0][:, :2])


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "pointer": (lambda p: p.write_text(STUB), "Git LFS pointer", "is a Git LFS pointer"),
    "text": (lambda p: p.write_text("hello " * 10), "unreadable file", "no TFRecord file, or damaged: wrong checksum"),
    "length": (lambda p: flipped(p, 0), "unreadable file", "wrong checksum at byte 0"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "unreadable file", "is cut within the record at byte 0"),
    "content": (
        lambda p: flipped(p, bounds(p)[0][1] - 300),
        "unreadable file",
        "at byte 0: its checksum is wrong",
    ),
    "nan": (lambda p: write(p, example(EPISODES[2] * np.nan)), "not finite", r"actions\[0, 0\] is nan"),
    "wide": (lambda p: write(p, example(np.ones((6, 4), np.float32))), "other dimensions", "expected D=3"),
    "ragged": (
        lambda p: write(p, example(EPISODES[2], **{"steps/action": ([1.0] * 17, "float")})),
        "other dimensions",
        "steps/action has 17 values in 6 steps",
    ),
    "no action": (
        lambda p: write(p, example(EPISODES[2], **{"steps/action": None})),
        "missing column",
        "has no numbers steps/action",
    ),
    "bytes": (
        lambda p: write(p, example(EPISODES[2], **{"steps/action": ([b"x"], "byte")})),
        "missing column",
        "has no numbers steps/action",
    ),
    "no steps": (
        lambda p: write(p, {"label": ([1], "int")}),
        "missing column",
        "expected an RLDS episode with one steps/is_last or steps/is_first a step",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_stops_the_run_or_is_left_out_by_choice(tmp_path, kind):
    damage, reason, message = DAMAGE[kind]
    second = write_shards(tmp_path)
    damage(second)
    with pytest.raises(BrokenDataError, match=message) as caught:
        list(read(tmp_path).trajectories)
    assert "00001-of-00002" in str(caught.value)
    dataset = read(tmp_path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 1]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [(reason, 1)]


def test_what_stands_before_the_damage_is_read(tmp_path):
    path = write(tmp_path / "x.tfrecord", *map(example, EPISODES))
    flipped(path, bounds(path)[2][0] - 12)
    dataset = read(path, on_broken="skip")
    assert dataset.lengths.tolist() == [4, 2]
    assert len(dataset.left_out) == 1


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("changes", [{"steps/is_first": None, "steps/is_last": None, "steps/reward": None}, None])
def test_a_bad_record_costs_itself_only(tmp_path, bad, changes):
    examples = [example(e, **((changes or {}) if i == bad else {})) for i, e in enumerate(EPISODES)]
    path = write(tmp_path / "x.tfrecord", *examples)
    if changes is None:  # its content, not its length
        content = bytearray(path.read_bytes())
        content[bounds(path)[bad][0]] = 0xFF
        path.write_bytes(content)
    with pytest.raises(BrokenDataError, match=r"x\.tfrecord record at byte"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    got = list(dataset.trajectories)
    assert [t.episode for t in got] == [i for i in range(3) if i != bad]
    for t in got:
        np.testing.assert_array_equal(t.actions, EPISODES[t.episode])
    assert [e.episodes for e in dataset.left_out] == [1]


FIRST = {
    "no action": {"steps/action": None},
    "wide": {"steps/action": ([1.0] * 16, "float")},
    "no state": {"steps/observation/state": None},
    "wide state": {"steps/observation/state": ([1.0] * 16, "float")},
}


@pytest.mark.parametrize("kind", FIRST)
def test_a_first_episode_that_is_odd_costs_itself_only(tmp_path, kind):
    states = [{"steps/observation/state": ([0.5] * 2 * len(e), "float")} for e in EPISODES]
    states[0] |= FIRST[kind]
    path = write(tmp_path / "x.tfrecord", *(example(e, **s) for e, s in zip(EPISODES, states, strict=True)))
    with pytest.raises(BrokenDataError, match=r"at byte 0: has no numbers|episode 0: has (actions|state) of shape"):
        list(read(path).trajectories)
    dataset = read(path, on_broken="skip")
    assert [(t.episode, t.actions.shape[1], t.state.shape[1]) for t in dataset.trajectories] == [(1, 3, 2), (2, 3, 2)]
    assert [e.episodes for e in dataset.left_out] == [1]
    assert len(list(read(path, episodes=[1, 2]).trajectories)) == 2


def test_a_first_shard_that_is_broken_does_not_hide_what_there_is(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "toy-train.tfrecord-00000-of-00002").write_text(STUB)
    with pytest.raises(ValueError, match=r"has no numbers steps/velocity, only \['action', 'is_first', "):
        read(tmp_path, action_key="velocity", on_broken="skip")


def test_a_file_that_is_cut_behind_what_is_chosen_stops_nothing(tmp_path):
    path = write(tmp_path / "x.tfrecord", *map(example, EPISODES))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BrokenDataError, match="is cut within the record"):
        read(path)
    assert [t.episode for t in read(path, episodes=[0, 1]).trajectories] == [0, 1]


def test_the_index_of_other_tools_is_no_data(tmp_path):
    second = write_shards(tmp_path)
    for name in ("toy.tfrecord.idx", "toy-train.tfrecord-00000-of-00002.idx", "toy.tfrecord.json"):
        (tmp_path / name).write_text("0 2180\n")
        with pytest.raises(ValueError, match="expected a folder, or a file ending in"):
            read(tmp_path / name)
    assert len(read(tmp_path).trajectories) == 3
    for name in ("a.tfrecord", "a.tfrecords", "a.tfrecord-3", "a.tfrecord_0003_of_0007"):
        assert len(read(second.rename(tmp_path / name)).trajectories) == 1
        second = tmp_path / name


@pytest.mark.parametrize("seed", range(30))
def test_bytes_that_are_no_example_are_refused_by_name(tmp_path, seed):
    """Content that is damaged, under a right checksum."""
    rng = np.random.default_rng(seed)
    content = bytearray(TFRecordWriter.serialize_tf_example(example(EPISODES[0], **{"steps/observation/image": None})))
    for at in rng.integers(len(content), size=8):
        content[at] = rng.integers(256)
    length = len(content).to_bytes(8, "little")
    crc = TFRecordWriter.masked_crc
    path = tmp_path / "x.tfrecord"
    path.write_bytes(length + crc(length) + bytes(content) + crc(bytes(content)))
    try:
        list(read(path).trajectories)
    except ValueError as error:
        assert "x.tfrecord" in str(error)  # noqa: PT017 (whether it is damaged beyond reading is up to the bytes)


def test_without_the_checksum_s_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(ImportError, match=r"needs the package google_crc32c: pip install 'fast-tokenizer\[rlds\]'"):
        read(ARM)
