"""What a hostile artefact or dataset cannot do. SECURITY.md makes claims; each names the tests that hold it."""

import ast
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from fast_tokenizer import FastTokenizer
from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.ki_model import load_pi05, pi05_model
from fast_tokenizer.ki_model.paligemma import load_paligemma
from fast_tokenizer.sidecar import Sidecar, write_sidecar
from fast_tokenizer.sidecar.manifest import FORMAT, MANIFEST, PARTS
from tests.pages import lerobot_folder

ROOT = Path(__file__).parents[1]
SECRET = np.arange(30.0).reshape(10, 3)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def payload(tmp_path: Path):
    """A pickle that leaves a mark; at the end the mark must not be there."""
    mark = tmp_path / "unpickled"
    yield pickle.dumps(Hostile(mark))
    assert not mark.exists()


def test_the_payload_would_leave_a_mark(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


# ---- Nothing is unpickled --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["actions", "episode_ends", "hz", "action_names", "state"])
def test_an_npz_with_objects_is_refused(tmp_path: Path, payload: bytes, name: str) -> None:
    arrays = {"actions": np.zeros((10, 3)), "episode_ends": np.array([10]), "state": np.zeros((10, 3))}
    np.savez(tmp_path / "data.npz", **arrays | {name: np.array([[Hostile(tmp_path / "unpickled")]], dtype=object)})
    with pytest.raises(ValueError, match=r"data\.npz"):
        list(read(tmp_path / "data.npz").trajectories)


def test_a_file_of_tokens_with_objects_is_refused(tmp_path: Path, payload: bytes) -> None:
    from fast_tokenizer.cli.app import app

    FastTokenizer.default().save(tmp_path / "tok")
    np.savez(tmp_path / "tokens.npz", ids=np.array([Hostile(tmp_path / "unpickled")], dtype=object))
    arguments = ["decode", str(tmp_path / "tok"), str(tmp_path / "tokens.npz"), "-o", str(tmp_path / "out.npz")]
    with pytest.raises(ValueError, match=r"tokens\.npz"):
        app(arguments, standalone_mode=False)


def zarr_buffer(path: Path, zarr_format: int) -> Path:
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, values in {"data/action": np.ones((20, 3), np.float32), "meta/episode_ends": np.array([20])}.items():
        root.create_array(name, data=values, chunks=values.shape, compressors=None)
    return path


PICKLE = {"id": "pickle", "protocol": 4}


@pytest.mark.parametrize("array", ["data/action", "meta/episode_ends"])
@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": PICKLE},
        {"filters": [PICKLE]},
        {"dtype": "|O", "fill_value": None, "filters": [PICKLE]},
        {"dtype": "|O", "fill_value": None, "filters": [{"id": "vlen-utf8"}], "compressor": PICKLE},
        {"dtype": "|O", "fill_value": None, "filters": [{"id": "vlen-bytes"}, PICKLE]},
    ],
    ids=["compressor", "filter", "objects", "texts", "bytes"],
)
def test_a_zarr_array_that_is_pickled_is_refused_unread(
    tmp_path: Path, payload: bytes, array: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numcodecs

    # As versions do that unpickle without being asked to.
    monkeypatch.setattr(numcodecs.Pickle, "decode", lambda self, buffer, out=None: pickle.loads(bytes(buffer)))
    folder = zarr_buffer(tmp_path / "buffer.zarr", 2)
    metadata = json.loads((folder / array / ".zarray").read_text())
    (folder / array / ".zarray").write_text(json.dumps(metadata | changes))
    for block in (folder / array).iterdir():
        if block.name not in (".zarray", ".zattrs"):
            block.write_bytes(payload)
    warnings.simplefilter("ignore")  # zarr's own, on types that its specification lacks
    with pytest.raises(BrokenDataError, match=r"buffer\.zarr"):
        list(read(folder).trajectories)


def test_a_zarr_array_of_texts_is_refused(tmp_path: Path) -> None:
    folder = zarr_buffer(tmp_path / "buffer.zarr", 3)
    metadata = json.loads((folder / "data/action/zarr.json").read_text())
    metadata["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "numcodecs.pickle"}]
    (folder / "data/action/zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(BrokenDataError, match="pickle"):
        read(folder)


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path: Path, payload: bytes) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(payload)
        with pytest.raises(ValueError, match="safetensors"):
            load_pi05(pi05_model(), tmp_path / name)


def test_paligemma_s_weights_are_read_from_safetensors_only(tmp_path: Path, payload: bytes) -> None:
    from transformers import PaliGemmaConfig

    PaliGemmaConfig().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(OSError, match="safetensors"):
        load_paligemma(str(tmp_path), horizon=4, action_dim=2)


def test_nothing_that_is_read_is_unpickled_or_evaluated() -> None:
    """`distributed` is what workers of one job send each other."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for file in sorted((ROOT / "fast_tokenizer").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = {n.name.split(".")[0] for n in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = {(node.module or "").split(".")[0]}
            assert file.parent.name == "distributed" or not names & forbidden, f"{file}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "yaml.load"), f"{file}:{node.lineno}: {called}"
                if called in ("np.load", "numpy.load"):
                    assert "allow_pickle=False" in ast.unparse(node), f"{file}:{node.lineno}: {ast.unparse(node)}"


# ---- No file is read but those that were given --------------------------------------------------------------


@pytest.mark.parametrize(
    "data_path",
    [
        "../secret/{episode_index}.parquet",
        "data/../../secret/{episode_index}.parquet",
        "/etc/{episode_index}",
        "..\\secret\\{episode_index}.parquet",
        "C:\\secret\\{episode_index}.parquet",
        "../*",
    ],
)
@pytest.mark.parametrize("episodes", [b"", b'{"episode_index": 0, "length": 3}\n'], ids=["none listed", "one listed"])
def test_a_lerobot_data_path_cannot_leave_its_folder(tmp_path: Path, data_path: str, episodes: bytes) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "0.parquet").write_bytes(b"secret")
    meta = tmp_path / "data" / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps({"codebase_version": "v2.1", "data_path": data_path}))
    (meta / "episodes.jsonl").write_bytes(episodes)
    with pytest.raises(ValueError, match="leaves the folder") as refused:
        read(tmp_path / "data", on_broken="skip")
    assert "0.parquet:" not in str(refused.value)


@pytest.mark.parametrize("data_path", ["{episode_index:{episode_index}}.parquet", "{episode_index:999999999}.parquet"])
def test_a_lerobot_data_path_cannot_ask_for_an_endless_name(tmp_path: Path, data_path: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1", "data_path": data_path}))
    (tmp_path / "meta" / "episodes.jsonl").write_text('{"episode_index": 999999999, "length": 3}\n')
    with pytest.raises(ValueError, match="asks for numbers of the form"):
        read(tmp_path)


@pytest.mark.parametrize("part", ["../{}", "{}", "../../outside.parquet"])
def test_a_sidecar_cannot_name_files_outside_its_folder(tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside.parquet"
    pq.write_table(pa.table({"index": [0]}, metadata={FORMAT: b"{}"}), outside)
    root = tmp_path / "robot"
    lerobot_folder(root, [np.zeros((30, 2), np.float32)], 10.0, ("x", "y"))
    tokenizer = FastTokenizer.fit(np.zeros((4, 10, 2)), 64)
    folder, manifest = write_sidecar(tokenizer, root)
    parts = pq.read_table(folder / PARTS)
    named = pa.array([part.format(outside)])
    pq.write_table(parts.set_column(parts.schema.get_field_index("part"), "part", named), folder / PARTS)
    digest = hashlib.sha256((folder / PARTS).read_bytes()).hexdigest()
    (folder / MANIFEST).write_bytes(replace(manifest, parts_digest=digest).content())
    with pytest.raises(ValueError, match=r"outside (its|of the) folder"):
        Sidecar.open(folder, tokenizer).frames([0])


def linked(file: h5py.File, other: Path) -> None:
    file["data/demo_0/actions"] = h5py.ExternalLink(str(other), "/values")


def linked_group(file: h5py.File, other: Path) -> None:
    file["data"] = h5py.ExternalLink(str(other), "/group")


def linked_demonstration(file: h5py.File, other: Path) -> None:
    file["data/demo_0"] = h5py.ExternalLink(str(other), "/group/demo_0")


def linked_other_names(file: h5py.File, other: Path) -> None:
    file["data"] = h5py.ExternalLink(str(other), "/private_group")


def linked_demonstration_of_other_names(file: h5py.File, other: Path) -> None:
    file["data/demo_0"] = h5py.ExternalLink(str(other), "/private_group/private_demo")


def linked_by_a_symbolic_link(file: h5py.File, other: Path) -> None:
    beside = Path(file.filename).with_name("beside.h5data")
    beside.symlink_to(other)
    linked(file, Path(beside.name))


def external(file: h5py.File, other: Path, name: str = "data/demo_0/actions") -> None:
    file.create_dataset(name, (10, 3), "f8", external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, other: Path | str, values: str = "values", name: str = "data/demo_0/actions") -> None:
    layout = h5py.VirtualLayout((10, 3), "f8")
    layout[:] = h5py.VirtualSource(str(other), values, shape=(10, 3))
    file.create_virtual_dataset(name, layout)


def virtual_by_a_symbolic_link(file: h5py.File, other: Path) -> None:
    beside = Path(file.filename).with_name("beside.h5data")
    beside.symlink_to(other)
    virtual(file, Path(beside.name))


def beside(file: h5py.File, name: str) -> h5py.File:
    path = Path(file.filename).parent / name
    path.parent.mkdir(exist_ok=True)
    return h5py.File(path, "a")


def virtual_of_virtual(file: h5py.File, other: Path) -> None:
    with beside(file, "between.h5data") as between:
        virtual(between, other, name="values")
    virtual(file, Path("between.h5data"))


def virtual_of_external(file: h5py.File, other: Path) -> None:
    with beside(file, "between.h5data") as between:
        external(between, other, "values")
    virtual(file, Path("between.h5data"))


def virtual_of_itself(file: h5py.File, other: Path) -> None:
    virtual(file, other)
    virtual(file, ".", "data/demo_0/actions", "data/demo_1/actions")


def virtual_in_a_circle(file: h5py.File, other: Path) -> None:
    virtual(file, ".", "data/demo_0/actions")


def in_a_subfolder(file: h5py.File, other: Path, how=virtual, first=virtual) -> None:
    """HDF5 looks for c.h5data in the subfolder, where it is another than the one beside the file."""
    with beside(file, "c.h5data") as harmless, beside(file, "sub/b.h5data") as b, beside(file, "sub/c.h5data") as c:
        harmless["values"] = np.zeros((10, 3))
        virtual(b, Path("c.h5data"), name="values")
        how(c, other, name="values")
    first(file, Path("sub/b.h5data"))


def in_a_subfolder_external(file: h5py.File, other: Path) -> None:
    in_a_subfolder(file, other, how=external)


def in_a_subfolder_by_a_link(file: h5py.File, other: Path) -> None:
    in_a_subfolder(file, other, first=linked)


def percent_in_a_file_name(file: h5py.File, other: Path) -> None:
    """HDF5 reads %% as %."""
    with beside(file, "x%%.h5data") as harmless, beside(file, "x%.h5data") as x:
        harmless["values"] = np.zeros((10, 3))
        virtual(x, other, name="values")
    virtual(file, Path("x%%.h5data"))


def percent_in_an_array_name(file: h5py.File, other: Path) -> None:
    with beside(file, "c.h5data") as c:
        c["y%%"] = np.zeros((10, 3))
        virtual(c, other, name="y%")
    virtual(file, Path("c.h5data"), "y%%")


def array_of_its_own_with_percent(file: h5py.File, other: Path) -> None:
    file["y%%"] = np.zeros((10, 3))
    virtual(file, other, name="y%")
    virtual(file, ".", "y%%")


def in_the_current_folder(file: h5py.File, other: Path) -> None:
    """HDF5 looks there for what is not beside the file, or is no HDF5 file."""
    Path(file.filename).with_name("secret.hdf5").write_bytes(b"not HDF5")
    virtual(file, Path("secret.hdf5"))


def by_another_path_to_itself(file: h5py.File, other: Path) -> None:
    """HDF5 looks for c.h5data in the folder by which it opened the file first, though the link gives another."""
    path = Path(file.filename)
    with beside(file, "real/c.h5data") as harmless, beside(file, "c.h5data") as c:
        harmless["values"] = np.zeros((10, 3))
        virtual(c, other, name="values")
    path.rename(path.parent / "real/demo.hdf5")
    path.symlink_to("real/demo.hdf5")
    virtual(file, "c.h5data", name="values")
    linked(file, Path("real/demo.hdf5"))


REFUSED = r"no HDF5 file beside this one|cannot be opened|names with % are not taken|more than 8 deep"


@pytest.mark.parametrize(
    "how",
    [
        linked,
        linked_group,
        linked_demonstration,
        linked_other_names,
        linked_demonstration_of_other_names,
        linked_by_a_symbolic_link,
        external,
        virtual,
        virtual_by_a_symbolic_link,
        virtual_of_virtual,
        virtual_of_external,
        virtual_of_itself,
        virtual_in_a_circle,
        in_a_subfolder,
        in_a_subfolder_external,
        in_a_subfolder_by_a_link,
        percent_in_a_file_name,
        percent_in_an_array_name,
        array_of_its_own_with_percent,
        in_the_current_folder,
        by_another_path_to_itself,
    ],
)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_an_hdf5_file_cannot_name_files_outside_its_folder(
    tmp_path: Path, how, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "secret.hdf5"
    inside.mkdir()
    with h5py.File(outside, "w") as file:
        file["values"] = SECRET
        file["group/demo_0/actions"] = SECRET
        file["private_group/private_demo/private_array"] = SECRET
    with h5py.File(inside / "demo.hdf5", "w") as file:
        how(file, Path("../secret.hdf5") if relative else outside)
    monkeypatch.chdir(tmp_path)
    for path in (inside / "demo.hdf5", Path("inside/demo.hdf5")):
        # HDF5 looks for some of these names in the current folder, where they lead to nothing.
        with pytest.raises(BrokenDataError, match=REFUSED) as refused:
            list(read(path).trajectories)
        assert "private" not in str(refused.value), "names of what is in the other file"


@pytest.mark.parametrize("name", ["./c.h5data", "sub/../c.h5data", "sub\\c.h5data", "C:c.h5data", "..", ""])
def test_virtual_datasets_give_plain_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    for file_name in {"c.h5data", Path(name).name} - {"", ".."}:
        with h5py.File(tmp_path / file_name, "w") as file:
            file["values"] = SECRET
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        space, properties = h5py.h5s.create_simple(SECRET.shape), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_virtual(space, name.encode(), b"values", space)
        h5py.h5d.create(file.id, b"action", h5py.h5t.NATIVE_DOUBLE, space, properties)
    with pytest.raises(BrokenDataError, match=r"demo\.hdf5: leads to .*, which is no HDF5 file beside this one"):
        list(read(tmp_path / "demo.hdf5").trajectories)


def test_hdf5_files_that_are_symbolic_links_have_those_beside_them_in_both_places(tmp_path: Path) -> None:
    """The hub's cache is such a folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name, blob in {"values.h5data": "0a", "demo.hdf5": "0b"}.items():
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / blob)
    with h5py.File(tmp_path / "blobs/0a", "w") as file:
        file["values"] = SECRET
    with h5py.File(tmp_path / "blobs/0b", "w") as file:
        virtual(file, Path("values.h5data"))
    (only,) = read(tmp_path / "snapshot/demo.hdf5").trajectories
    np.testing.assert_array_equal(only.actions, SECRET)


def virtual_of_its_own(file: h5py.File, other: Path) -> None:
    virtual(file, other, name="values")
    virtual(file, ".")


@pytest.mark.parametrize(
    "how",
    [linked, linked_group, linked_demonstration, virtual, virtual_of_virtual, virtual_of_its_own],
)
def test_an_hdf5_file_may_name_files_beside_it(tmp_path: Path, how) -> None:
    with h5py.File(tmp_path / "values.h5data", "w") as file:
        file["values"] = SECRET
        file["group/demo_0/actions"] = SECRET
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        how(file, Path("values.h5data"))
    (only,) = read(tmp_path / "demo.hdf5").trajectories
    np.testing.assert_array_equal(only.actions, SECRET)


def test_members_of_an_npz_are_never_unpacked_to_disk(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", actions=SECRET, episode_ends=np.array([10]))
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as file:
        file.writestr("../escaped.npy", b"x")
    list(read(tmp_path / "data.npz").trajectories)
    assert not (tmp_path.parent / "escaped.npy").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


# ---- Sizes that are claimed ------------------------------------------------------------------------------------


def claiming(path: Path, shape: tuple[int, ...]) -> Path:
    """An npz of a few bytes whose header claims a shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64
    np.savez(path, episode_ends=np.array([shape[0]]))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("actions.npy", array)
    return path


@pytest.mark.parametrize("shape", [(10**13, 3), (10**6, 10**9), (-1, 3)])
def test_a_header_that_claims_more_than_there_is_ends_in_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, MemoryError)):
        list(read(claiming(tmp_path / "data.npz", shape)).trajectories)


READ_WITHIN_LIMITS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from fast_tokenizer.io import read
dataset = read(sys.argv[1], on_broken="skip")
print(dataset.lengths, [str(e) for e in dataset.left_out])
"""


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("lying", ["data/action", "data/timestamp", "meta/episode_ends", "all"])
def test_zarr_arrays_that_claim_a_million_times_what_is_stored_are_not_gone_through(
    tmp_path: Path, zarr_format: int, lying: str
) -> None:
    root = zarr.open_group(tmp_path / "z.zarr", mode="w", zarr_format=zarr_format)
    arrays = {"data/action": np.ones((20, 3)), "data/timestamp": np.arange(20.0), "meta/episode_ends": np.array([20])}
    if lying == "all":  # so that they agree
        arrays["meta/episode_ends"] = np.array([20, 10**12])
    for name, values in arrays.items():
        root.create_array(name, data=values, chunks=(1, *values.shape[1:]), config={"write_empty_chunks": True})
        if name == lying or (lying == "all" and name != "meta/episode_ends"):
            described = tmp_path / "z.zarr" / name / (".zarray" if zarr_format == 2 else "zarr.json")
            metadata = json.loads(described.read_text())
            described.write_text(json.dumps(metadata | {"shape": [10**12, *values.shape[1:]]}))
    command = [sys.executable, "-W", "ignore", "-c", READ_WITHIN_LIMITS, str(tmp_path / "z.zarr")]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout or done.stderr).splitlines()[-1]
    if lying == "all":  # the episode whose values are all there is read
        assert re.fullmatch(r"\[20\] \['.*z\.zarr episode 1: data/action/.* of the rows 20 to 9+ is not stored.*", last)
    else:
        assert re.search(r"(BrokenData|Value)Error: .*z\.zarr: (episode_ends must rise|meta/episode_ends/)", last), last


@pytest.mark.parametrize("file", ["info.json", "episodes.jsonl"])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1"}))
    (tmp_path / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "length": 3}\n')
    (tmp_path / "meta" / file).write_text("[" * 200_000)
    with pytest.raises(ValueError, match=file):
        read(tmp_path)


# ---- SECURITY.md -----------------------------------------------------------------------------------------------


def test_the_tests_that_security_md_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    claims = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| ---"))]
    assert len(claims) > 10
    for claim in claims:
        assert re.search(r"`tests/\w+\.py::\w+`", claim), claim
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", text):
        defined = {n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)}
        assert name in defined, f"{file}::{name}"
