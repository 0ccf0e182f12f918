"""Zarr replay buffers, format 2 and 3, folder or zip: `data/action` and `meta/episode_ends`.

UMI's have no `action`: there its training code joins, robot by robot, position, rotation and gripper width, and so
does this reader. `data/timestamp` in seconds, where there is one, gives the control rate and shows gaps.

zarr gives the fill value for blocks that are not stored, whether they were lost or, holding nothing else, never
written. Only who wrote them knows, so such a block costs the episodes in it.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import lt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, Steps
from fast_tokenizer.io.source import Source, common_rate, joined, require

#: Files of which one is in every zarr group.
MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_UMI_PARTS = ("eef_pos", "eef_rot_axis_angle", "gripper_width")
#: Values that are read at a time, but for one episode at least.
_BATCH_VALUES = 1 << 22
#: Rows and columns are fewer.
_MOST = 1 << 48


def read_zarr(source: Source) -> Dataset:
    """Opens a replay buffer.

    Raises:
        BrokenDataError: It is damaged.
        ValueError: It has no such arrays; the message has those that there are.
    """
    zarr = require("zarr", "zarr", source.path)
    path = source.path
    with _opened(zarr, path) as root:
        with _reading(path):
            names = _names(path) if "data" in root else []
            stored = _ends(path, root["meta/episode_ends"]) if "meta/episode_ends" in root else None
        if stored is None or not names:
            raise ValueError(f"{path}: expected the arrays data/action and meta/episode_ends; data has {names}")
        action_keys = source.action_keys or (("action",) if "action" in names else _umi_keys(names)) or ("action",)
        usual = ("state",) if "state" in names else ()
        state_keys = (source.state_keys or usual) if source.state else ()
        shapes = _shapes(path, root, names, (*action_keys, *state_keys))
        with _reading(path):
            time_keys = ("timestamp",) if "timestamp" in names and _is_list(root["data"]["timestamp"]) else ()
            arrays = {key: root["data"][key] for key in (*action_keys, *state_keys, *time_keys)}
        if stored.ndim != 1 or stored.dtype.kind not in "iu":
            got = f"{stored.dtype} of shape {stored.shape}"
            raise ValueError(f"{path}: episode_ends must be a list of integers, got {got}")
        ends = stored.astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        lengths = ends - starts
        rows = {key: array.shape[0] for key, array in arrays.items()}
        if not len(ends) or (lengths < 1).any() or any(n != ends[-1] for n in rows.values()):
            raise ValueError(
                f"{path}: episode_ends must rise to the number of rows; they end with {ends[-3:]}, rows: {rows}"
            )
        with _reading(path):
            absent = {key: _absent_blocks(path, array) for key, array in arrays.items()}
    buffer = _Buffer(path, action_keys, state_keys, time_keys, starts, ends, [a for of in absent.values() for a in of])
    action_dim, state_dim = (sum(shapes[k][1] for k in keys) for keys in (action_keys, state_keys))

    def load(chosen: NDArray[np.bool_]) -> Iterator[Steps | BrokenDataError]:
        with _opened(zarr, path) as root:
            for group in _batches(np.flatnonzero(chosen), lengths, action_dim):
                yield from buffer.each(root, group)

    periods: list[float] = []
    if time_keys:
        stored_times = np.ones(len(ends), np.bool_)
        for block, _ in absent["timestamp"]:
            stored_times &= (starts >= block.stop) | (ends <= block.start)
        with _opened(zarr, path) as root:
            for group in _batches(np.flatnonzero(stored_times), lengths, 1):
                with suppress(BrokenDataError), _reading(path):  # damage costs its episodes
                    first, last = starts[group[0]], ends[group[-1]]
                    times = np.asarray(_numbers(root["data"]["timestamp"])[first:last], np.float64)
                    periods += _periods(times, starts[group] - first, ends[group] - first)
    hz = common_rate(source, periods)
    return Dataset(path, lengths, action_dim, load, hz=hz, state_dim=state_dim or None)


def _numbers(array: Any) -> Any:
    """The array, nothing of it read yet. Raises ValueError where reading it would make objects, or unpickle them."""
    metadata = array.metadata.to_dict()
    codecs = [metadata.get(name) for name in ("filters", "compressor", "codecs") if metadata.get(name)]
    if array.dtype.kind not in "fiub" or "pickle" in str(codecs):
        raise ValueError(f"{array.path} holds {array.dtype}, packed by {codecs}: expected plain numbers")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class _Buffer:
    """What is read of a replay buffer.

    Attributes:
        starts: First row of each episode.
        ends: The row after its last.
        absent: Rows whose values are not stored, and the file that should hold them.
    """

    path: Path
    action_keys: tuple[str, ...]
    state_keys: tuple[str, ...]
    time_keys: tuple[str, ...]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    absent: list[tuple[range, str]]

    def each(self, root: Any, group: NDArray[np.intp]) -> Iterator[Steps | BrokenDataError]:
        """Neighbouring episodes; one by one where something is wrong with them, to know with which."""
        try:
            yield from self._steps(root, group)
        except BrokenDataError as error:
            if len(group) > 1:
                for i in group:
                    yield from self.each(root, np.array([i]))
            else:
                message = str(error).removeprefix(f"{self.path}: ")
                yield BrokenDataError(error.reason, f"{self.path} episode {group[0]}: {message}")

    def _steps(self, root: Any, group: NDArray[np.intp]) -> list[Steps]:
        first, last = self.starts[group[0]], self.ends[group[-1]]
        for block, name in self.absent:
            if block.start < last and block.stop > first:
                raise BrokenDataError(
                    "missing file",
                    f"{self.path}: {name} of the rows {block.start} to {block.stop - 1} is not stored; it is lost, or "
                    "holds nothing but the fill value (if so, write it anew with write_empty_chunks=True)",
                )
        with _reading(self.path):
            actions, state, times = (
                joined([_numbers(root["data"][k])[first:last] for k in keys]) if keys else None
                for keys in (self.action_keys, self.state_keys, self.time_keys)
            )
        assert actions is not None
        return [
            Steps(
                actions[rows].copy(),
                None if state is None else state[rows].copy(),
                timestamps=None if times is None else times[rows, 0],
            )
            for rows in (slice(self.starts[i] - first, self.ends[i] - first) for i in group)
        ]


def _periods(times: NDArray[np.float64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[float]:
    """Seconds that most steps take, of each episode that has two."""
    found = (float(np.median(np.diff(times[s:e]))) for s, e in zip(starts, ends, strict=True) if e - s > 1)
    return [period for period in found if 0 < period < np.inf]


def _ends(path: Path, array: Any) -> NDArray[Any]:
    """Where the episodes end. Not read where blocks are missing: a few bytes could claim any number of them."""
    numbers = _numbers(array)
    for block, name in _absent_blocks(path, array):
        raise BrokenDataError("missing file", f"{path}: {name} of the ends {block.start} to {block.stop - 1} is lost")
    return np.asarray(numbers[:])


def _absent_blocks(path: Path, array: Any) -> list[tuple[range, str]]:
    """The rows whose values are not stored, and the name of the file that should hold them.

    By what is stored: what there should be, is a claim that may be a million times that.
    """
    block = array.shards or array.chunks
    grid = [-(-n // b) for n, b in zip(array.shape, block, strict=True)]
    key = array.metadata.encode_chunk_key
    stored: dict[int, set[tuple[int, ...]]] = {}
    for name in _files_in(path, array.path, len(grid) + 1):
        place = tuple(int(i) for i in re.findall(r"\d{1,18}", name))
        if len(place) == len(grid) and all(map(lt, place, grid)) and key(place) == name:
            stored.setdefault(place[0], set()).add(place[1:])
    whole = math.prod(grid[1:])
    found = []
    end = 0  # of the blocks along the rows that have been looked at
    for i in (*sorted(i for i, others in stored.items() if len(others) == whole), grid[0]):
        if i > end:
            lost = next(j for j in np.ndindex(*grid[1:]) if j not in stored.get(end, ()))
            others = f" (and {i - end - 1:,} more)" if i - end > 1 else ""
            rows = range(end * block[0], min(i * block[0], array.shape[0]))
            found.append((rows, f"{array.path}/{key((end, *lost))}{others}"))
        end = i + 1
    return found


def _files_in(path: Path, folder: str, depth: int) -> Iterator[str]:
    """The names of the files in a folder of the group, at most so many folders deep."""
    if path.is_dir():
        for n in range(depth):
            for file in (path / folder).glob("/".join("*" * (n + 1))):
                if file.is_file():
                    yield file.relative_to(path / folder).as_posix()
        return
    with zipfile.ZipFile(path) as opened:
        for name in opened.namelist():
            if name.startswith(f"{folder}/"):
                yield name.removeprefix(f"{folder}/")


def _names(path: Path) -> list[str]:
    """What stands in `data`. zarr's own list opens all, and fails for images of a codec that is not installed (UMI)."""
    if path.is_dir():
        return sorted(p.name for p in (path / "data").iterdir() if p.is_dir())
    prefix = f"{_root_in_zip(path)}/data/".removeprefix("/")
    with zipfile.ZipFile(path) as file:
        inside = [n.removeprefix(prefix) for n in file.namelist() if n.startswith(prefix)]
    return sorted({n.partition("/")[0] for n in inside if "/" in n})


def _shapes(path: Path, root: Any, names: list[str], keys: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """(N, D) of the arrays that are asked for. Raises ValueError where one is none."""
    with _reading(path):
        shapes = {key: _shape(root["data"], key) for key in keys if key in names}
    for key in keys:
        if len(shapes.get(key, ())) not in (1, 2) or not all(0 < n < _MOST for n in shapes[key]):
            every = {name: _shape(root["data"], name, readable=False) for name in names}
            raise ValueError(f"{path}: expected an array data/{key} of shape (N, D); there are {every}")
    return {key: (shape[0], shape[1] if len(shape) == 2 else 1) for key, shape in shapes.items()}


def _is_list(array: Any) -> bool:
    """Whether it is an array (N,) of numbers."""
    return len(getattr(array, "shape", ())) == 1 and array.dtype.kind in "fiu"


def _shape(data: Any, name: str, *, readable: bool = True) -> tuple[int, ...]:
    """An array's shape; () of a group, and, unless it must be readable, of what cannot be opened."""
    try:
        return tuple(getattr(data[name], "shape", ()))
    except Exception:  # codecs raise what they like
        if readable:
            raise
        return ()


def _umi_keys(names: list[str]) -> tuple[str, ...]:
    robots = sorted({int(m[1]) for name in names if (m := re.fullmatch(r"robot(\d+)_eef_pos", name))})
    return tuple(f"robot{r}_{part}" for r in robots for part in _UMI_PARTS if f"robot{r}_{part}" in names)


def _batches(wanted: NDArray[np.intp], lengths: NDArray[np.int64], action_dim: int) -> Iterator[NDArray[np.intp]]:
    """Runs of neighbouring episodes: a stored block holds rows of many, and is to be unpacked once."""
    while len(wanted):
        together = (np.cumsum(lengths[wanted]) * action_dim <= _BATCH_VALUES) & (
            wanted - wanted[0] == np.arange(len(wanted))
        )
        count = max(1, int(np.argmin(together)) if not together.all() else len(wanted))
        yield wanted[:count]
        wanted = wanted[count:]


@contextmanager
def _opened(zarr: Any, path: Path) -> Iterator[Any]:
    store = zarr.storage.ZipStore(path) if path.is_file() else zarr.storage.LocalStore(path, read_only=True)
    try:
        with _reading(path):
            folder = _root_in_zip(path) if path.is_file() else None
            # Consolidated metadata would be parsed for all arrays.
            root = zarr.open_group(store, mode="r", path=folder, use_consolidated=False)
        yield root
    finally:
        with suppress(AttributeError):  # of a file that is no zip: it has nothing to close
            store.close()


def _root_in_zip(path: Path) -> str:
    """The folder of the outermost group: diffusion policy's zip files are to be unpacked, and have one."""
    with zipfile.ZipFile(path) as file:
        folders = [n.rpartition("/")[0] for n in file.namelist() if n.rpartition("/")[2] in MARKS]
    return min(folders, key=len, default="")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what zarr and its codecs raise into one error that names the file."""
    try:
        yield
    except BrokenDataError:
        raise
    except Exception as error:  # codecs raise what they like
        raise BrokenDataError("unreadable file", f"{path}: not a readable zarr group: {error}") from None
