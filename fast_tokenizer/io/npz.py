"""NumPy files.

- npz: `actions` (N, D) with `episode_ends` (E,) exclusive ends, or chunks (N, T, D) under `actions` or `chunks`;
  optional `hz`, `action_names`, `state` (N, S) and `state_names`. Names are of these arrays, not of others that a key
  asks for.
- npy: one trajectory (L, D), or chunks (N, T, D). Memory-mapped.

Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, Steps
from fast_tokenizer.io.source import Source

#: The arrays that are read: actions, and state or None.
_Arrays: TypeAlias = "tuple[NDArray[Any], NDArray[Any] | None]"


def read_npz(source: Source) -> Dataset:
    """Opens an npz file. Its arrays are read when the trajectories are, and let go after."""
    path = source.path
    field, state_field = _field(source.action_keys, "action"), _field(source.state_keys, "state")
    with _reading(path, "npz"), _opened(path) as file:
        names = sorted(file.files)
        usual = [field] if field else ["actions", "chunks"]
        field = next((name for name in usual if name in names), "")
        shape, dtype = _header(file, field) if field else ((), np.dtype(np.float64))
        if state_field in names or (state_field is None and "state" in names and source.state):
            state_field = state_field or "state"
            state_shape, state_dtype = _header(file, state_field)
        fields = {
            name: _array(file, name) for name in ("episode_ends", "hz", "action_names", "state_names") if name in names
        }
    if not field:
        raise ValueError(f"{path}: expected an array {' or '.join(map(repr, usual))}, got {names}")
    _require_rank(path, shape)
    if state_field is not None and state_field not in names:
        raise ValueError(f"{path}: expected an array {state_field!r}, got {names}")
    hz = _hz(path, fields.get("hz"))
    if len(shape) != 3 and "episode_ends" not in fields:
        raise ValueError(f"{path}: actions of shape {shape} need 'episode_ends'; chunks have rank 3 (N, T, D)")
    if state_field is not None and (len(state_shape) != len(shape) or state_shape[:-1] != shape[:-1]):
        raise ValueError(f"{path}: {state_field} of shape {state_shape} does not fit {field} of shape {shape}")
    if state_field is not None and (state_dtype.kind not in "fiub" or 0 in state_shape):
        raise ValueError(f"{path}: expected {state_field} of numbers, got {state_dtype} of shape {state_shape}")
    state_names = _names(path, fields.get("state_names")) if state_field == "state" else None
    if state_names is not None and len(state_names) != state_shape[-1]:
        raise ValueError(f"{path}: state_names has {len(state_names)} names for {state_shape[-1]} dimensions")

    action_names = _names(path, fields.get("action_names")) if field in ("actions", "chunks") else None

    def load() -> _Arrays:
        with _reading(path, "npz"), _opened(path) as file:
            return _array(file, field), None if state_field is None else _array(file, state_field)

    dataset = _dataset(path, shape, dtype, fields.get("episode_ends"), load, hz, action_names)
    return replace(dataset, state_dim=None if state_field is None else state_shape[-1], state_names=state_names)


def read_npy(source: Source) -> Dataset:
    """Opens an npy file. It is memory-mapped when the trajectories are read."""
    path = source.path
    if keys := (*source.action_keys, *source.state_keys):
        raise ValueError(f"{path}: an npy file holds one array without a name, so there is no {keys[0]!r}")

    def load() -> _Arrays:
        with _reading(path, "npy"):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError(f"{path}: holds several arrays; name it .npz")
        return mapped.view(np.ndarray), None

    actions, _ = load()
    ends = np.array([len(actions)]) if actions.ndim == 2 else None
    return _dataset(path, actions.shape, actions.dtype, ends, load, None, None)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what NumPy raises for a file that is not what it should be into one error that names the file."""
    try:
        yield
    except Exception as error:  # NumPy and zipfile raise what they like
        # NumPy's reason, unless it is the advice to unpickle what cannot be trusted.
        reason = "" if "pickle" in str(error) else f": {error}"
        raise BrokenDataError("unreadable file", f"{path}: not a readable {kind} file{reason}") from None


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz file, none of its arrays read yet."""
    opened = np.load(path, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it holds a single array; name it .npy")
    with opened as file:
        yield file


def _array(file: np.lib.npyio.NpzFile, field: str) -> NDArray[Any]:
    """An array. NumPy gives what is none as bytes."""
    values = file[field]
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{field!r} is no array")
    return values


def _header(file: np.lib.npyio.NpzFile, field: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array, without reading it."""
    assert file.zip is not None
    name = field if field in file.zip.namelist() else f"{field}.npy"
    with file.zip.open(name) as member:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(member)
        if version not in read:
            raise ValueError(f"{field!r} is of npy version {version}")
        shape, _, dtype = read[version](member)
    return shape, dtype


def _dataset(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    episode_ends: NDArray[Any] | None,
    load: Callable[[], _Arrays],
    hz: float | None,
    names: tuple[str, ...] | None,
) -> Dataset:
    """Checks the outline. Chunks of rank 3 are trajectories of equal length; their `episode_ends` count for nothing."""
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise ValueError(f"{path}: expected actions of float32 or float64, got {dtype}")
    _require_rank(path, shape)
    if names is not None and len(names) != shape[-1]:
        raise ValueError(f"{path}: action_names has {len(names)} names for {shape[-1]} dimensions")
    if len(shape) == 3:
        bounds = None
        lengths = np.full(shape[0], shape[1], np.int64)
    else:
        assert episode_ends is not None
        bounds = _episode_bounds(path, episode_ends, shape[0])
        lengths = bounds[:, 1] - bounds[:, 0]

    def episodes(chosen: NDArray[np.bool_]) -> Iterator[Steps | BrokenDataError]:
        wanted = np.flatnonzero(chosen)
        try:
            actions, state = load()
            if (actions.shape, actions.dtype) != (shape, dtype):
                raise BrokenDataError(
                    "other length",
                    f"{path}: changed while it was in use: actions were {dtype} of shape {shape}, "
                    f"are {actions.dtype} of shape {actions.shape}",
                )
        except BrokenDataError as error:
            yield from [BrokenDataError(error.reason, str(error))] * len(wanted)
            return
        if bounds is not None and len(bounds) == 1:
            yield Steps(actions, state)
            return
        for i in wanted:  # copies: who keeps one trajectory must not keep them all
            rows = i if bounds is None else slice(*bounds[i])
            yield Steps(actions[rows].copy(), None if state is None else state[rows].copy())

    return Dataset(path, lengths, shape[-1], episodes, hz, names, horizon=shape[1] if len(shape) == 3 else None)


def _require_rank(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"{path}: expected actions of shape (L, D) or (N, T, D), not empty; got {shape}")


def _field(keys: tuple[str, ...], what: str) -> str | None:
    if len(keys) > 1:
        raise ValueError(f"an npz file has the {what} in one array, got {list(keys)}")
    return keys[0] if keys else None


def _names(path: Path, names: NDArray[Any] | None) -> tuple[str, ...] | None:
    try:
        return None if names is None else tuple(str(n) for n in names.ravel())
    except SystemError:  # what NumPy raises for text with numbers that are no characters
        raise BrokenDataError("unreadable file", f"{path}: a dimension's name is no text") from None


def _episode_bounds(path: Path, ends: NDArray[Any], rows: int) -> NDArray[np.int64]:
    """(E, 2): first row of each episode, and the row after its last."""
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) == 0:
        raise ValueError(f"{path}: episode_ends must be a list of integers, got {ends.dtype} of shape {ends.shape}")
    ends = ends.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if (ends <= starts).any() or ends[-1] > rows:
        i = int(np.flatnonzero((ends <= starts) | (ends > rows))[0])
        raise ValueError(f"{path}: episode {i} runs from row {starts[i]} to {ends[i]} of {rows}; ends must rise")
    if ends[-1] < rows:
        raise ValueError(f"{path}: the last episode ends at row {ends[-1]}, but there are {rows} rows")
    return np.stack([starts, ends], axis=1)


def _hz(path: Path, hz: NDArray[Any] | None) -> float | None:
    if hz is None:
        return None
    if hz.size != 1 or hz.dtype.kind not in "fiu":
        raise ValueError(f"{path}: hz must be one positive number, got {hz.dtype} of shape {hz.shape}")
    if not (np.isfinite(hz).all() and float(hz.ravel()[0]) > 0):
        raise ValueError(f"{path}: hz must be one positive number, got {hz.ravel()[0]}")
    return float(hz.ravel()[0])
