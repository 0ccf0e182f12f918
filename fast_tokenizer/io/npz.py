"""NumPy files.

- npz: `actions` (N, D) with `episode_ends` (E,) exclusive ends, or chunks (N, T, D) under `actions` or `chunks`;
  optional `hz` and `action_names`.
- npy: one trajectory (L, D), or chunks (N, T, D).

Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import Trajectory
from fast_tokenizer.io import Dataset


def read_npz(path: Path) -> Dataset:
    """Reads an npz file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array; name it .npy")
            fields = {name: file[name] for name in _FIELDS if name in file.files}
            names = sorted(file.files)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable npz file{_reason(error)}") from None
    actions = fields.get("actions", fields.get("chunks"))
    if actions is None:
        raise ValueError(f"{path}: expected an array 'actions' or 'chunks', got {names}")
    hz = _hz(path, fields.get("hz"))
    dimension_names = tuple(str(n) for n in fields["action_names"].ravel()) if "action_names" in fields else None
    if actions.ndim == 3:
        return _dataset_of_chunks(path, actions, hz, dimension_names)
    if "episode_ends" not in fields:
        raise ValueError(f"{path}: actions of shape {actions.shape} need 'episode_ends'; chunks have rank 3 (N, T, D)")
    _check(path, actions, rank=2)
    _check_names(path, dimension_names, actions.shape[-1])
    bounds = _episode_bounds(path, fields["episode_ends"], len(actions))
    trajectories = [
        Trajectory(actions[start:end], f"{path} episode {i}", hz, dimension_names)
        for i, (start, end) in enumerate(bounds)
    ]
    return Dataset(path, trajectories)


def read_npy(path: Path) -> Dataset:
    """Reads an npy file."""
    try:
        actions = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable npy file{_reason(error)}") from None
    if not isinstance(actions, np.ndarray):
        raise ValueError(f"{path}: holds several arrays; name it .npz")
    if actions.ndim == 3:
        return _dataset_of_chunks(path, actions, None, None)
    _check(path, actions, rank=2)
    return Dataset(path, [Trajectory(actions, str(path))])


_FIELDS = ("actions", "chunks", "episode_ends", "hz", "action_names")


def _dataset_of_chunks(
    path: Path, chunks: NDArray[Any], hz: float | None, dimension_names: tuple[str, ...] | None
) -> Dataset:
    _check(path, chunks, rank=3)
    _check_names(path, dimension_names, chunks.shape[-1])
    trajectories = [Trajectory(c, f"{path} chunk {i}", hz, dimension_names) for i, c in enumerate(chunks)]
    return Dataset(path, trajectories, horizon=chunks.shape[1])


def _check(path: Path, actions: NDArray[Any], rank: int) -> None:
    if actions.dtype.kind != "f" or actions.dtype.itemsize not in (4, 8):
        raise ValueError(f"{path}: expected actions of float32 or float64, got {actions.dtype}")
    if actions.ndim != rank or actions.size == 0:
        raise ValueError(f"{path}: expected actions of shape (L, D) or (N, T, D), not empty; got {actions.shape}")
    if not np.isfinite(actions).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(actions))[0])
        raise ValueError(f"{path}: actions[{', '.join(map(str, at))}] is {actions[at]}; actions must be finite")


def _check_names(path: Path, names: tuple[str, ...] | None, dims: int) -> None:
    if names is not None and len(names) != dims:
        raise ValueError(f"{path}: action_names has {len(names)} names for {dims} dimensions")


def _reason(error: Exception) -> str:
    """NumPy's reason, unless it is the advice to unpickle what cannot be trusted."""
    return "" if "pickle" in str(error) else f": {error}"


def _episode_bounds(path: Path, ends: NDArray[Any], rows: int) -> list[tuple[int, int]]:
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) == 0:
        raise ValueError(f"{path}: episode_ends must be a list of integers, got {ends.dtype} of shape {ends.shape}")
    starts = np.concatenate([[0], ends[:-1]])
    if (ends <= starts).any() or ends[-1] > rows:
        i = int(np.flatnonzero((ends <= starts) | (ends > rows))[0])
        raise ValueError(f"{path}: episode {i} runs from row {starts[i]} to {ends[i]} of {rows}; ends must rise")
    if ends[-1] < rows:
        raise ValueError(f"{path}: the last episode ends at row {ends[-1]}, but there are {rows} rows")
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def _hz(path: Path, hz: NDArray[Any] | None) -> float | None:
    if hz is None:
        return None
    if hz.size != 1 or hz.dtype.kind not in "fiu" or not (np.isfinite(hz).all() and float(hz.ravel()[0]) > 0):
        raise ValueError(f"{path}: hz must be one positive number, got {hz!r}")
    return float(hz.ravel()[0])
