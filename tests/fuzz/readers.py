"""What the Python readers are fed: each target turns bytes into a file or folder and reads it.

Every input gives a result or one of the library's own errors, which says where: never another exception. The bytes are
choices (which part of a valid file to spoil, and how), so that most inputs get past the first check; zeros spoil
nothing. `outputs.py` has what our own commands write and read again, `targets.py` the names of all. No fuzzer is needed
to run a target over its corpus; `run.py` is what `atheris` drives.
"""

from __future__ import annotations

import copy
import json
import struct
import zipfile
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fast_tokenizer import ArtefactError, FastTokenizer
from fast_tokenizer import format as artefact
from fast_tokenizer.io import BrokenDataError, read
from fast_tokenizer.mixture import MixtureSpec

#: Stands for lists in lists, deeper than what goes through them may recurse.
NESTED = "<nested>"
#: What JSON values are replaced by.
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 7, 0.5, -0.0, 1e308, float("inf"), float("nan"), 2**31, 2**63, 10**400, "", "x", "é\ud800",
    "{", "../x", "/", "a b", [], [0], [[]], [1, 2], [[0, 0]], [None], {}, {"x": 1}, {"": {}}, "\x1b]0;x\x07", NESTED,
)  # fmt: skip


class Choices:
    """Reads choices off the front of an input; zeros once it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def rest(self) -> bytes:
        """All that is left."""
        self._at, rest = len(self._data), self._data[self._at :]
        return rest

    def number(self, size: int) -> int:
        """Of so many bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little")

    def below(self, end: int) -> int:
        """In 0..end - 1."""
        return self.number(max(1, ((end - 1).bit_length() + 7) // 8)) % end

    def one_in(self, n: int) -> bool:
        """Seldom; never once the input is used up."""
        return self.below(n) == n - 1

    def one_of(self, values: Sequence[Any]) -> Any:
        """Any of them."""
        return values[self.below(len(values))]

    def bytes(self, most: int) -> bytes:
        """Up to so many."""
        size = self.below(most + 1)
        part = self._data[self._at : self._at + size]
        self._at += size
        return part


def spoiled(content: bytes, choices: Choices) -> bytes:
    """The same with some bytes changed, left out, put in, or cut off."""
    out = bytearray(content)
    for _ in range(choices.below(6)):
        at = choices.below(len(out) + 1)
        match choices.below(5):
            case 0:
                out[at : at + 1] = choices.bytes(4)
            case 1:
                out[at : at + 1] = bytes([choices.below(256)])
            case 2:
                del out[at : at + choices.below(64)]
            case 3:
                out[at : at + 4] = struct.pack("<I", choices.number(4))
            case _:
                del out[at:]
    return bytes(out)


def spoiled_json(value: Any, choices: Choices) -> Any:
    """The same with some of its values replaced, left out, or put in."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(choices.below(4)):
        parent: Any = holder
        key: Any = ""
        while isinstance(parent[key], dict | list) and parent[key] and choices.below(4):
            parent = parent[key]
            key = choices.one_of(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
        hostile = copy.deepcopy(choices.one_of(HOSTILE))
        match choices.below(4):
            case 0 if parent is not holder:
                del parent[key]
            case 1 if isinstance(parent[key], dict):
                parent[key][choices.one_of(("x", "version", "normalizer", "names"))] = hostile
            case 2:
                parent[key] = choices.bytes(8).decode("latin-1")
            case _:
                parent[key] = hostile
    return holder[""]


def to_json(value: Any) -> bytes:
    """JSON in which what is to be nested is."""
    return json.dumps(value).replace(json.dumps(NESTED), "[" * 600 + "]" * 600).encode()


def dumped(value: Any, choices: Choices) -> bytes:
    """JSON, seldom with spoiled bytes."""
    content = to_json(value)
    return spoiled(content, choices) if choices.one_in(8) else content


def expect_own(error: Exception, where: Path) -> None:
    """Only the library's own errors, which name the file."""
    if type(error) not in (ValueError, BrokenDataError, ArtefactError, FileNotFoundError):
        raise AssertionError(f"not one of the library's errors: {type(error).__name__}: {error}") from error
    if str(where) not in str(error):
        raise AssertionError(f"does not say where: {type(error).__name__}: {error}") from error


def read_all(path: Path, choices: Choices) -> None:
    """Reads every trajectory."""
    skip = choices.below(2) == 1
    try:
        opened = read(path, on_broken="skip" if skip else "raise", state=not choices.one_in(4))
        for i, trajectory in enumerate(opened.trajectories):
            assert trajectory.actions.shape == (opened.lengths[i], opened.action_dim)
            assert np.isfinite(trajectory.actions).all()
    except (Exception, RecursionError) as error:
        if isinstance(error, AssertionError):
            raise
        expect_own(error, path.parent)


# ---- Artefacts --------------------------------------------------------------------------------------

ARTEFACT = {
    "format": "fast_tokenizer", "version": 2, "vocab_size": 6, "min_coefficient": -1, "max_coefficient": 1,
    "levels_beyond": 0, "order": "dimension-first", "end_of_block": "dimension", "parsing": "optimal", "dead_zone": 0.6,
    "scale": [10.0, 0.1], "time_horizon": 4, "action_dim": 2, "hz": 29.97, "dimension_names": ["x", "y"],
    "normalizer": {"kind": "quantile", "center": [0.25, -1e-07], "half_range": [0.5, 0.0], "clip": 1.5},
    "relative": {"dimensions": [1], "state_columns": [3], "state_dim": 5, "state_names": ["q3"]},
    "merges": [[1, 1], [3, 1]],
}  # fmt: skip
_EMBODIMENT = (
    "scale",
    "time_horizon",
    "action_dim",
    "hz",
    "dimension_names",
    "normalizer",
    "relative",
)
MIXTURE = {k: v for k, v in ARTEFACT.items() if k not in _EMBODIMENT} | {
    "embodiments": [{"name": name, **{k: ARTEFACT[k] for k in _EMBODIMENT}} for name in ("a", "b")]
}


def read_artefact(data: bytes, folder: Path) -> None:
    """One artefact of this library's."""
    choices = Choices(data)
    if choices.one_in(8):
        content = choices.rest()
    else:
        content = dumped(spoiled_json(choices.one_of([ARTEFACT, MIXTURE]), choices), choices)
    file = folder / artefact.FILE_NAME
    file.write_bytes(content)
    try:
        tokenizer = FastTokenizer.load(file)
    except (Exception, RecursionError) as error:
        expect_own(error, folder)
        return
    check_decoding(tokenizer, choices)
    again = artefact.loads(artefact.to_bytes(tokenizer.spec))
    assert artefact.fingerprint(again) == artefact.fingerprint(tokenizer.spec)


def check_decoding(tokenizer: FastTokenizer, choices: Choices) -> None:
    """A tokenizer that was accepted decodes any ids to finite chunks."""
    if isinstance(tokenizer.spec, MixtureSpec):
        tokenizer = tokenizer.embodiment(tokenizer.embodiments[0])
    horizon, dims = tokenizer.spec.time_horizon or 3, tokenizer.spec.action_dim
    dims = dims or (len(tokenizer.spec.scale) if isinstance(tokenizer.spec.scale, tuple) else 2)
    if horizon * dims > 1000 or tokenizer.spec.relative is not None:
        return
    ids = [choices.below(tokenizer.spec.vocab_size + 1) - 1 for _ in range(choices.below(20))]
    chunks, _ = tokenizer.decode_with_status([ids], time_horizon=horizon, action_dim=dims)
    assert chunks.shape == (1, horizon, dims)
    assert np.isfinite(chunks).all()


PROCESSOR = {"scale": 10.0, "min_token": -97, "time_horizon": None, "action_dim": 2, "vocab_size": 6}
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None,
        "vocab": {"a": 0, "b": 1, "Ã": 2, "¡": 3, "aa": 4, "Ã¡": 5, "aab": 6},
        "merges": [["a", "a"], "Ã ¡", ["aa", "b"]],
    },
}  # fmt: skip


def read_published(data: bytes, folder: Path) -> None:
    """A published artefact: two files of JSON."""
    choices = Choices(data)
    (folder / "processor_config.json").write_bytes(dumped(spoiled_json(PROCESSOR, choices), choices))
    (folder / "tokenizer.json").write_bytes(dumped(spoiled_json(TOKENIZER, choices), choices))
    try:
        tokenizer = FastTokenizer.load(folder)
    except (Exception, RecursionError) as error:
        expect_own(error, folder)
        return
    check_decoding(tokenizer, choices)


# ---- Datasets ---------------------------------------------------------------------------------------

_CELLS = (
    "0",
    "1",
    "0.5",
    "-1e3",
    "",
    "nan",
    "inf",
    "x",
    '"',
    "1,2",
    "\0",
    "2024-01-01T00:00:00",
    "é",
    " 3 ",
    "1_0",
    "٣",
)
_COLUMNS = ("action", "action_0", "action_x", "actions", "state_0", "episode_index", "episode", "timestamp", "task", "")


def read_csv(data: bytes, folder: Path) -> None:
    """Cells of all kinds; or any bytes."""
    choices = Choices(data)
    file = folder / "a.csv"
    if choices.one_in(4):
        file.write_bytes(choices.rest())
    else:
        names = [choices.one_of(_COLUMNS) for _ in range(1 + choices.below(5))]
        rows = [names]
        for _ in range(1 + choices.below(12)):
            rows.append([choices.one_of(_CELLS) for _ in range(choices.below(6) if choices.one_in(8) else len(names))])
        file.write_bytes(spoiled("\n".join(",".join(row) for row in rows).encode(), choices))
    read_all(file, choices)


_TYPES = ("<f4", "<f8", ">f8", "<f2", "<i8", "u1", "?", "<c16", "<U3", "S2", "<M8[s]", "<i4", "<f16", "V3", "<u8")


def an_array(choices: Choices) -> np.ndarray:
    """Of any type and a small shape."""
    shape = tuple(choices.one_of((0, 1, 2, 3, 6)) for _ in range(choices.below(5)))
    size = int(np.prod(shape, dtype=np.int64))
    kind = choices.one_of(_TYPES)
    if choices.below(2) and kind[-1] not in "?":
        values = np.arange(size)
        return values.astype(kind if kind[1:2] not in "M" else "<i8").reshape(shape)
    item = np.dtype(kind).itemsize
    return np.frombuffer(choices.bytes(255).ljust(size * item, b"\0")[: size * item], kind).reshape(shape).copy()


def read_npz(data: bytes, folder: Path) -> None:
    """Arrays of any type and shape under the names that matter; headers that lie; spoiled bytes."""
    choices = Choices(data)
    arrays: dict[str, Any] = {"actions": np.arange(12, dtype=np.float32).reshape(6, 2), "episode_ends": [2, 6]}
    if choices.below(2):
        arrays["state"] = np.zeros((6, 3))
    for _ in range(choices.below(4)):
        name = choices.one_of(
            ("actions", "episode_ends", "hz", "action_names", "state", "state_names", "chunks", "x/y", "")
        )
        if choices.one_in(8):
            arrays.pop(name, None)
        else:
            arrays[name] = an_array(choices)
    out = BytesIO()
    single = choices.one_in(6)
    if single:
        np.save(out, arrays.get("actions", np.zeros((2, 2))))
    else:
        kind = zipfile.ZIP_DEFLATED if choices.below(2) else zipfile.ZIP_STORED
        with zipfile.ZipFile(out, "w", kind) as file:
            for name, values in arrays.items():
                member = BytesIO()
                np.save(member, values, allow_pickle=False)
                content = member.getvalue()
                if choices.one_in(4):
                    content = spoiled(content, choices)
                if choices.one_in(8):  # a shape that is not what is there
                    shape = ", ".join(str(choices.one_of((0, 1, 6, -1, 2**31, 2**40, 2**62, 10**30))) for _ in range(2))
                    header = f"{{'descr': '{choices.one_of(_TYPES)}', 'fortran_order': False, 'shape': ({shape}), }}\n"
                    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content[128:]
                file.writestr(f"{name}.npy", content)
    path = folder / ("a.npy" if single and choices.below(4) else "a.npz")
    content = out.getvalue()
    path.write_bytes(spoiled(content, choices) if choices.one_in(3) else content)
    read_all(path, choices)


def _message(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def an_example(choices: Choices) -> bytes:
    """A tf.train.Example of an episode, some features of another kind or length."""
    features: dict[str, bytes] = {}
    steps = 1 + choices.below(4)
    floats = np.arange(2 * steps, dtype="<f4").tobytes()
    features["steps/action"] = _message(2, _message(1, floats))
    features["steps/is_first"] = _message(3, _message(1, bytes([1] * steps)))
    features["steps/observation/state"] = _message(2, _message(1, floats))
    features["steps/language_instruction"] = _message(1, _message(1, b"pick") * steps)
    for _ in range(choices.below(4)):
        name = choices.one_of((*features, "steps/reward", "steps/is_last", "steps/x", "é"))
        kind, content = choices.below(5), choices.bytes(24)
        features[name] = choices.one_of(
            (
                _message(kind, _message(1, content)),
                _message(kind, content),
                content,
                _message(2, b"\x0d" + content),
            )
        )
    entries = (_message(1, _message(1, name.encode()) + _message(2, value)) for name, value in features.items())
    return _message(1, b"".join(entries))


def read_tfrecord(data: bytes, folder: Path) -> None:
    """Records whose checksums fit, most of the time."""
    import google_crc32c

    def masked(content: bytes) -> bytes:
        crc = google_crc32c.value(content)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    choices = Choices(data)
    content = b""
    for _ in range(1 + choices.below(3)):
        record = an_example(choices)
        if choices.one_in(3):
            record = spoiled(record, choices)
        size = struct.pack("<Q", choices.number(8) if choices.one_in(16) else len(record))
        content += size + masked(size) + record + masked(record)
    path = folder / "a.tfrecord"
    path.write_bytes(spoiled(content, choices) if choices.one_in(4) else content)
    read_all(path, choices)


@cache
def _hdf5(kind: int) -> bytes:
    import h5py

    out = BytesIO()
    with h5py.File(out, "w", libver=("earliest", "latest")[kind % 2]) as file:
        if kind < 2:
            for i in range(2):
                file[f"data/demo_{i}/actions"] = np.arange(6.0, dtype=np.float32).reshape(3, 2)
                file[f"data/demo_{i}/obs/pos"] = np.zeros((3, 1))
            file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        else:
            file.create_dataset("action", data=np.zeros((4, 2)), chunks=(2, 2), compression="gzip")
            file["observations/qpos"] = np.zeros((4, 3))
    return out.getvalue()


def read_hdf5(data: bytes, folder: Path) -> None:
    """Any arrays, attributes and links in the places that are read. (What HDF5's own library makes of spoiled bytes is
    not ours to fuzz: it may end the process, see SECURITY.md.)"""
    import h5py

    choices = Choices(data)
    path = folder / "a.hdf5"
    path.unlink(missing_ok=True)
    content = BytesIO(_hdf5(choices.below(4)))
    with h5py.File(content, "r+") as file:
        for _ in range(choices.below(4)):
            name = choices.one_of(
                ("data/demo_0/actions", "data/demo_1", "data/demo_x/actions", "action", "observations/qpos", "data")
            )
            try:
                if name in file and choices.below(3):
                    del file[name]
                match choices.below(6):
                    case 0:
                        file[name] = h5py.SoftLink(choices.one_of(("/nowhere", "/data", "/", name)))
                    case 1:
                        file[name] = h5py.ExternalLink("none.h5", "/x")
                    case 2:
                        file[name] = h5py.Empty("f")
                    case 3:
                        file.require_group(name).attrs[choices.one_of(("problem_info", "env_args"))] = choices.one_of(
                            ("[]", '{"env_kwargs": {"control_freq": "x"}}', 3, b"\xff", '{"language_instruction": [1]}')
                        )
                    case _:
                        file[name] = an_array(choices)
            except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError):
                pass  # h5py itself does not write it
    path.write_bytes(content.getvalue())
    read_all(path, choices)


@cache
def _zarr(version: int) -> dict[str, bytes]:
    import tempfile

    import zarr

    with tempfile.TemporaryDirectory() as name:
        root = zarr.open_group(name, mode="w", zarr_format=version)
        for key, values in {
            "data/action": np.arange(12, dtype=np.float32).reshape(6, 2),
            "data/state": np.ones((6, 1)),
            "data/timestamp": np.arange(6) / 10,
            "meta/episode_ends": np.array([2, 6]),
        }.items():
            root.create_array(key, data=values, chunks=(3, *values.shape[1:]), compressors=None)
        folder = Path(name)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _claim(files: dict[str, bytes], choices: Choices) -> None:
    """Shapes and blocks of sizes that nothing has."""
    for _ in range(choices.below(4)):
        described = [n for n in sorted(files) if n.endswith((".zarray", "zarr.json"))]
        if not described:
            return
        name = choices.one_of(described)
        sizes = [choices.one_of((1, 3, 6, 2**20, 10**12, 2**62, 10**30)) for _ in range(2)]
        which = choices.one_of(("shape", "chunks", "chunk_grid"))
        try:
            metadata = json.loads(files[name])
            if which == "chunk_grid":
                metadata[which]["configuration"]["chunk_shape"] = sizes[: len(metadata["shape"])]
            else:
                metadata[which] = sizes[: len(metadata["shape"])]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # spoiled before
        files[name] = json.dumps(metadata).encode()


def read_zarr(data: bytes, folder: Path) -> None:
    """A folder or zip whose metadata and blocks are spoiled."""
    choices = Choices(data)
    files = dict(_zarr(choices.one_of((2, 3))))
    for _ in range(choices.below(4)):
        name = choices.one_of(sorted(files))
        if choices.one_in(8):
            del files[name]
        elif name.rpartition("/")[2].startswith((".z", "zarr.json")) and choices.below(4):
            try:
                files[name] = to_json(spoiled_json(json.loads(files[name]), choices))
            except ValueError:
                files[name] = b"{}"
        else:
            files[name] = spoiled(files[name], choices)
        if not files:
            break
    _claim(files, choices)
    if choices.one_in(4):
        path = folder / "a.zarr.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in files.items():
                file.writestr(name, content)
        if choices.one_in(4):
            path.write_bytes(spoiled(path.read_bytes(), choices))
    else:
        path = folder / "a.zarr"
        path.mkdir()
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    read_all(path, choices)


@cache
def _parquet(what: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    episodes = {"v2.1": [0], "v3.0": [0, 1]}.get(what)
    if episodes is None:
        table = {
            "episode_index": [0, 1],
            "length": [3, 3],
            "data/chunk_index": [0, 0],
            "data/file_index": [0, 0],
            "dataset_from_index": [0, 3],
            "dataset_to_index": [3, 6],
            "tasks": [["pick"], ["place"]],
        }
    else:
        rows = 3 * len(episodes)
        table = {
            "action": [[float(i), 1.0] for i in range(rows)],
            "observation.state": [[0.0]] * rows,
            "timestamp": [i / 10 for _ in episodes for i in range(3)],
            "frame_index": [i for _ in episodes for i in range(3)],
            "episode_index": [e for e in episodes for _ in range(3)],
            "task_index": [0] * rows,
        }
    out = BytesIO()
    pq.write_table(pa.table(table), out)
    return out.getvalue()


def with_columns(content: bytes, choices: Choices) -> bytes:
    """The table with some columns left out, of another type, or with nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(BytesIO(content))
    n = table.num_rows
    for _ in range(1 + choices.below(2)):
        names = table.column_names
        if not names:
            break
        i = choices.below(len(names))
        values = choices.one_of(
            (
                None,
                [None] * n,
                ["x"] * n,
                [[]] * n,
                [[1.0]] * (n - 1) + [None],
                [[1.0]] * (n - 1) + [[1.0, 2.0]],
                [-1] * n,
                [2**62] * n,
                [0.5] * n,
                [float("nan")] * n,
                [float("inf")] * n,
                [True] * n,
                [{"x": 1}] * n,
                pa.array([2**60] * n, pa.timestamp("us")),
                pa.array([2**60] * n, pa.date64()),
                [[[1.0]]] * n,
                [b"\xff"] * n,
                [[None, 1.0]] * n,
                list(range(n)),
            )
        )
        if values is None:
            table = table.remove_column(i)
        else:
            table = table.set_column(i, choices.one_of((names[i], names[i], names[0])), pa.array(values))
    out = BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


_INFO = {
    "codebase_version": "v2.1",
    "fps": 10,
    "total_episodes": 2,
    "chunks_size": 1000,
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "features": {
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "observation.state": {"dtype": "float32", "shape": [1], "names": ["q"]},
    },
}
_PATHS = (
    "{episode_index:999999}",
    "{x}",
    "{0}",
    "{episode_index!r}",
    "../{episode_index}",
    "{",
    "%s",
    "{episode_index.x}",
    ".",
    "*/{episode_index}.parquet",
    "x" * 5000 + ".parquet",
    "{episode_index:9999}" * 40 + ".parquet",
)


def read_lerobot(data: bytes, folder: Path) -> None:
    """A folder of either version, of which info, lists or tables are spoiled."""
    choices = Choices(data)
    version = choices.one_of(("v2.1", "v3.0"))
    info = {**_INFO, "codebase_version": version, "total_episodes": 1 if version == "v2.1" else 2}
    table, data_file = _parquet(version), "data/chunk-000/episode_000000.parquet"
    files: dict[str, bytes] = {
        "meta/episodes.jsonl": b'{"episode_index": 0, "length": 3, "tasks": ["pick"]}\n',
        "meta/tasks.jsonl": b'{"task_index": 0, "task": "pick"}\n',
    }
    if version == "v3.0":
        del info["data_path"], files["meta/episodes.jsonl"]
        files["meta/episodes/chunk-000/file-000.parquet"] = _parquet("episodes")
        data_file = "data/chunk-000/file-000.parquet"
    files[data_file] = table
    if choices.one_in(3):
        info = spoiled_json(info, choices)
    if choices.one_in(16) and isinstance(info, dict):
        info["data_path"] = choices.one_of(_PATHS)
    files["meta/info.json"] = dumped(info, choices)
    for _ in range(choices.below(3)):
        name = choices.one_of(sorted(files))
        if choices.one_in(8):
            del files[name]
        elif name.endswith(".parquet"):
            spoil = with_columns if choices.below(2) else spoiled
            try:
                files[name] = spoil(files[name], choices)
            except Exception:  # spoiled before, so that pyarrow does not read it
                files[name] = spoiled(files[name], choices)
        elif name.endswith(".jsonl"):
            try:
                files[name] += to_json(spoiled_json(json.loads(files[name].splitlines()[0]), choices))
            except (ValueError, IndexError, RecursionError):
                files[name] = spoiled(files[name], choices)
        if not files:
            break
    root = folder / "set"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    if root.exists():
        read_all(root, choices)
