"""HDF5 as robomimic, LIBERO and ALOHA lay it out, written with h5py, as they do."""

import json
import sys

import h5py
import numpy as np
import pytest

from fast_tokenizer.io import BrokenDataError, read

EPISODES = [np.random.default_rng(i).normal(size=(n, 7)) for i, n in enumerate((6, 3, 8))]
STUB = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def write_robomimic(path, episodes=EPISODES, numbers=(0, 2, 10), **attributes):
    """The layout of robomimic, which LIBERO shares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        for name, value in attributes.items():
            data.attrs[name] = value
        for number, actions in zip(numbers, episodes, strict=True):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(actions)
            demo.create_dataset("actions", data=actions)
            demo.create_dataset("obs/ee_states", data=actions[:, :6] + 1)
            demo.create_dataset("obs/gripper_states", data=actions[:, 6] + 2)
            demo.create_dataset("obs/agentview_rgb", data=np.zeros((len(actions), 4, 4, 3), np.uint8))
        mask = file.create_group("mask")
        mask.create_dataset("train", data=np.array([b"demo_0"]))
    return path


def write_aloha(folder, episodes=EPISODES, numbers=(0, 2, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, actions in zip(numbers, episodes, strict=True):
        with h5py.File(folder / f"episode_{number}.hdf5", "w", rdcc_nbytes=1024**2 * 2) as root:
            root.attrs["sim"] = True
            root.create_dataset("observations/qpos", data=actions + 1)
            root.create_dataset("observations/images/top", data=np.zeros((len(actions), 4, 4, 3), np.uint8))
            root.create_dataset("action", data=actions)
    return folder


def assert_whole(dataset, actions=EPISODES):
    got = list(dataset.trajectories)
    assert dataset.lengths.tolist() == [len(a) for a in actions]
    for ours, theirs in zip(got, actions, strict=True):
        np.testing.assert_array_equal(ours.actions, theirs)
    return got


def test_robomimic(tmp_path):
    got = assert_whole(read(write_robomimic(tmp_path / "low_dim.hdf5")))
    assert [t.episode for t in got] == [0, 2, 10], "by number, not by letter"
    assert [t.name.rpartition(" ")[2] for t in got] == ["demo_0", "demo_2", "demo_10"]
    assert {(t.hz, t.state is None, t.tasks) for t in got} == {(20.0, True, ())}


@pytest.mark.parametrize("text", ["open the drawer", ["open", " the drawer"]])
def test_libero(tmp_path, text):
    """Its task text is one string, or letters in a list."""
    path = write_robomimic(
        tmp_path / "open_demo.hdf5",
        problem_info=json.dumps({"problem_name": "libero", "language_instruction": text}),
    )
    got = assert_whole(read(path, state_key=["obs/ee_states", "obs/gripper_states"]))
    for t, actions in zip(got, EPISODES, strict=True):
        np.testing.assert_array_equal(t.state, np.column_stack([actions[:, :6] + 1, actions[:, 6] + 2]))
        assert t.tasks == ("open the drawer",)


def test_a_folder_of_many_demonstrations_a_file(tmp_path):
    write_robomimic(tmp_path / "task_2_demo.hdf5", EPISODES[:2], (0, 1), problem_info='{"language_instruction": "two"}')
    write_robomimic(tmp_path / "task_10_demo.hdf5", EPISODES[2:], (0,), problem_info='{"language_instruction": "ten"}')
    got = assert_whole(read(tmp_path))
    assert [(t.episode, *t.tasks) for t in got] == [(0, "two"), (1, "two"), (2, "ten")]
    assert got[2].name.endswith(" task_10_demo.hdf5 demo_0")


def test_aloha(tmp_path):
    got = assert_whole(read(write_aloha(tmp_path)))
    assert [t.episode for t in got] == [0, 2, 10]
    np.testing.assert_array_equal(got[1].state, EPISODES[1] + 1)
    assert got[0].hz is None
    (one,) = assert_whole(read(tmp_path / "episode_2.hdf5"), EPISODES[1:2])
    assert one.episode == 2
    assert next(iter(read(tmp_path, state=False).trajectories)).state is None
    assert [t.episode for t in read(tmp_path, episodes=[10, 2]).trajectories] == [2, 10]


def test_other_arrays_are_read_by_their_keys(tmp_path):
    write_aloha(tmp_path / "a")
    assert_whole(read(tmp_path / "a", action_key="observations/qpos"), [e + 1 for e in EPISODES])
    write_robomimic(tmp_path / "r.hdf5")
    joined = [np.column_stack([e, e[:, 6] + 2]) for e in EPISODES]
    assert_whole(read(tmp_path / "r.hdf5", action_key=["actions", "obs/gripper_states"]), joined)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "velocity",
            r"expected an array 'velocity' \(L, D\) in data/demo_0; there are \['actions', 'obs/agentv",
        ),
        ("obs", "expected an array 'obs' "),
    ],
)
def test_arrays_that_are_not_there_are_named(tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        read(write_robomimic(tmp_path / "r.hdf5"), action_key=key)


def test_another_layout_is_refused_with_what_there_is(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["positions"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"expected an array 'action' \(L, D\) in the file; there are \['positions'\]"):
        read(tmp_path / "x.h5")


def rewrite(path, **arrays):
    with h5py.File(path, "a") as root:
        for name, values in arrays.items():
            del root[name]
            if values is not None:
                root[name] = values


DAMAGE = {
    "pointer": (lambda p: p.write_text(STUB), "Git LFS pointer", "is a Git LFS pointer"),
    "text": (lambda p: p.write_text("hello"), "unreadable file", "not a readable HDF5 file"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-500]), "unreadable file", "not a readable HDF5 file"),
    "nan": (lambda p: rewrite(p, action=np.full((3, 7), np.nan)), "not finite", r"actions\[0, 0\] is nan"),
    "no action": (lambda p: rewrite(p, action=None), "missing column", r"has no array 'action'"),
    "wide": (lambda p: rewrite(p, action=np.ones((3, 9))), "other dimensions", "expected D=7"),
    "scalar": (lambda p: rewrite(p, action=1.0), "missing column", r"has no array 'action' \(L, D\)"),
    "text action": (lambda p: rewrite(p, action=["a", "b", "c"]), "other dimensions", "expected numbers of shape"),
    "state": (
        lambda p: rewrite(p, **{"observations/qpos": np.ones((2, 7))}),
        "other length",
        "has 2 state, expected 3",
    ),
}


# The first file says what the others must be.
@pytest.mark.parametrize(("kind", "number"), [*((k, 2) for k in DAMAGE), ("pointer", 0), ("cut", 0), ("nan", 0)])
def test_damage_stops_the_run_or_is_left_out_by_choice(tmp_path, kind, number):
    damage, reason, message = DAMAGE[kind]
    write_aloha(tmp_path, [EPISODES[1]] * 3)
    damage(tmp_path / f"episode_{number}.hdf5")
    with pytest.raises(BrokenDataError, match=message) as caught:
        list(read(tmp_path).trajectories)
    assert f"episode_{number}.hdf5" in str(caught.value)
    dataset = read(tmp_path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [n for n in (0, 2, 10) if n != number]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [(reason, 1)]


def test_a_demonstration_without_actions_costs_itself_only(tmp_path):
    path = write_robomimic(tmp_path / "r.hdf5")
    rewrite(path, **{"data/demo_2/actions": None})
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [0, 10]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("missing column", 1)]


def test_a_damaged_block_costs_its_demonstration_only(tmp_path):
    path = write_robomimic(tmp_path / "r.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_2/actions"]
        file["data/demo_2"].create_dataset("actions", data=EPISODES[1], chunks=EPISODES[1].shape, fletcher32=True)
        at = file["data/demo_2/actions"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenDataError, match=r"r\.hdf5 demo_2: cannot be read"):
        list(read(path).trajectories)
    assert [t.episode for t in read(path, on_broken="skip").trajectories] == [0, 10]


@pytest.mark.parametrize("write", [write_robomimic, lambda path: write_aloha(path.parent) / "episode_2.hdf5"])
def test_damage_anywhere_ends_in_an_error_that_names_the_file_or_in_none(tmp_path, write):
    path = write(tmp_path / "r.hdf5")
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), len(content) // 80):
        path.write_bytes(content[:at] + b"\xa5\x5a\xff\x00" + content[at + 4 :])
        try:
            list(read(path).trajectories)
        except ValueError as error:
            refused += 1
            assert path.name in str(error)  # noqa: PT017 (most damage is in pictures, which are not read)
    assert refused


def test_files_of_different_rates_are_refused(tmp_path):
    write_robomimic(tmp_path / "a.hdf5")
    write_robomimic(tmp_path / "b.hdf5", env_args='{"env_kwargs": {"control_freq": 10}}')
    with pytest.raises(ValueError, match=r"files of different control rates: \[10\.0, 20\.0\]"):
        read(tmp_path)


def test_without_h5py_it_says_what_to_install(tmp_path, monkeypatch):
    path = write_robomimic(tmp_path / "r.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"r\.hdf5: needs the package h5py: pip install 'fast-tokenizer\[hdf5\]'"):
        read(path)


def test_demonstrations_that_share_a_number_are_numbered_by_position(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for i in range(2):
            file[f"data/demo_{i}_v2/actions"] = np.full((4, 2), i, np.float32)
    assert [(t.episode, t.actions[0, 0]) for t in read(tmp_path / "x.hdf5").trajectories] == [(0, 0), (1, 1)]


def test_an_empty_dataset_costs_its_demonstration(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.ones((4, 2), np.float32)
        file["data/demo_1/actions"] = h5py.Empty("f4")
    with pytest.raises(BrokenDataError, match=r"x\.hdf5: demo_1 has no array 'actions'"):
        read(tmp_path / "x.hdf5")
    assert len(read(tmp_path / "x.hdf5", on_broken="skip").trajectories) == 1


def test_values_of_a_type_that_numpy_lacks_cost_their_demonstration(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.ones((4, 2), np.float32)
        group = file["data"].create_group("demo_1")
        h5py.h5d.create(group.id, b"actions", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4, 2)))
    with pytest.raises(BrokenDataError, match=r"x\.hdf5 demo_1: cannot be read"):
        list(read(tmp_path / "x.hdf5").trajectories)
    assert len(read(tmp_path / "x.hdf5", on_broken="skip").trajectories) == 1


def test_demonstrations_are_called_as_they_like(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for i, name in enumerate(("demo 0", "the demo 2", "3")):
            file[f"data/{name}/actions"] = np.full((4, 2), i, np.float32)
    got = [(t.episode, t.actions[0, 0]) for t in read(tmp_path / "x.hdf5").trajectories]
    assert got == [(3, 2), (0, 0), (2, 1)]
    (tmp_path / "y.hdf5").write_bytes((tmp_path / "x.hdf5").read_bytes())
    assert [t.actions[0, 0] for t in read(tmp_path).trajectories] == [2, 0, 1] * 2


@pytest.mark.parametrize("name", ["demo_2", "demo_9", "another"])
def test_a_link_to_nowhere_costs_its_demonstration(tmp_path, name):
    path = write_robomimic(tmp_path / "r.hdf5")
    with h5py.File(path, "a") as file:
        if name in file["data"]:
            del file["data"][name]
        file[f"data/{name}"] = h5py.SoftLink("/nowhere")
    with pytest.raises(BrokenDataError, match=rf"r\.hdf5: {name} cannot be opened; is it a link to nowhere"):
        read(path)
    dataset = read(path, on_broken="skip")
    assert [t.episode for t in dataset.trajectories] == [n for n in (0, 2, 10) if name != f"demo_{n}"]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("unreadable file", 1)]


@pytest.mark.parametrize("other", ["{}", '{"env_kwargs": {"control_freq": 10}}'])
def test_files_of_different_rates_are_treated_alike_by_choice(tmp_path, other):
    write_robomimic(tmp_path / "a.hdf5")
    write_robomimic(tmp_path / "b.hdf5", env_args=other)
    with pytest.raises(ValueError, match=r"files of different control rates: \[.*\]: give hz \(--hz\) to treat them"):
        read(tmp_path)
    assert {t.hz for t in read(tmp_path, hz=15.0).trajectories} == {15.0}
    assert {t.hz for t in read(tmp_path, episodes=[0, 2]).trajectories} == {20.0}, "the other's is no matter"


FIRST = {
    "no action": {"data/demo_0/actions": None},
    "wide": {"data/demo_0/actions": np.ones((6, 9))},
    "wide state": {"data/demo_0/obs/ee_states": np.ones((6, 9))},
    "no state": {"data/demo_0/obs/ee_states": None},
    "no steps": {"data/demo_0/actions": np.ones((0, 7))},
    "no dimensions": {"data/demo_0/actions": np.ones((6, 0))},
}


@pytest.mark.parametrize("kind", FIRST)
@pytest.mark.parametrize("folder", [False, True])
def test_a_first_demonstration_that_is_odd_costs_itself_only(tmp_path, kind, folder):
    path = write_robomimic(tmp_path / "a.hdf5")
    if folder:
        path = write_robomimic(tmp_path / "a.hdf5", EPISODES[:1], (0,))
        write_robomimic(tmp_path / "b.hdf5", EPISODES[1:], (1, 2))
    rewrite(path, **FIRST[kind])
    source = tmp_path if folder else path
    with pytest.raises(BrokenDataError, match=r"a\.hdf5:? (a\.hdf5 )?demo_0:?") as caught:
        list(read(source, state_key="obs/ee_states").trajectories)
    dataset = read(source, state_key="obs/ee_states", on_broken="skip")
    assert dataset.lengths.tolist() == [3, 8]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [(caught.value.reason, 1)]


def test_a_first_file_of_another_layout_costs_its_demonstrations(tmp_path):
    write_aloha(tmp_path)
    write_robomimic(tmp_path / "a.hdf5")
    with pytest.raises(BrokenDataError, match=r"a\.hdf5: is not laid out as the other files are"):
        read(tmp_path)
    dataset = read(tmp_path, on_broken="skip")
    assert dataset.lengths.tolist() == [6, 3, 8]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("missing column", 1)] * 3


def test_a_file_without_demonstrations_is_counted(tmp_path):
    write_robomimic(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
    with pytest.raises(BrokenDataError, match=r"b\.hdf5: its group 'data' holds no demonstrations"):
        read(tmp_path)
    (tmp_path / "a.hdf5").unlink()
    with pytest.raises(ValueError, match=r"b\.hdf5: its group 'data' holds no demonstrations"):
        read(tmp_path / "b.hdf5")


@pytest.mark.parametrize("kind", ["pointer", "cut", "no action", "nan"])
def test_a_broken_file_that_is_not_chosen_stops_nothing(tmp_path, kind):
    write_aloha(tmp_path, [EPISODES[1]] * 3)
    DAMAGE[kind][0](tmp_path / "episode_2.hdf5")
    dataset = read(tmp_path, episodes=[0, 10])
    assert [t.episode for t in dataset.trajectories] == [0, 10]
    assert [(e.reason, e.episodes) for e in dataset.left_out] == [("not chosen", 1)]
    left_out = read(tmp_path, episodes=[2, 10], on_broken="skip").left_out
    assert [(e.reason, e.episodes) for e in left_out] == [("not chosen", 1), (DAMAGE[kind][1], 1)]


def test_a_demonstration_without_steps_is_counted(tmp_path):
    path = write_robomimic(tmp_path / "r.hdf5")
    rewrite(path, **{"data/demo_2/actions": np.ones((0, 7))})
    with pytest.raises(BrokenDataError, match=r"r\.hdf5: demo_2 has no steps"):
        read(path)
    left_out = read(path, on_broken="skip").left_out
    assert [(e.reason, e.episodes) for e in left_out] == [("other length", 1)]
