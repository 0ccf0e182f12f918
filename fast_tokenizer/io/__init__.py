"""Readers: one file a format. Each turns a file or folder into a `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps, Trajectories, blamed_on, of_arrays
from fast_tokenizer.io.source import Source, fetch, is_lfs_pointer

__all__ = ["BrokenDataError", "Dataset", "EpisodeInfo", "Steps", "Trajectories", "of_arrays", "read"]

_Reader: TypeAlias = Callable[[Source], Dataset]


def read(
    path: str | Path,
    *,
    action_key: str | Sequence[str] | None = None,
    state_key: str | Sequence[str] | None = None,
    state: bool = True,
    episodes: Collection[int] | None = None,
    on_broken: Literal["raise", "skip"] = "raise",
    hz: float | None = None,
) -> Dataset:
    """Opens a dataset, by what it is, and reads its outline.

    | what it is | actions | state |
    |---|---|---|
    | folder with `meta/info.json`, or hub id: LeRobot | `action`, `actions` | `observation.state`, `state` |
    | HDF5 file or folder of them: robomimic, LIBERO | `actions` of `data/demo_*` | none unless named |
    | the same: ALOHA | `action` | `observations/qpos` |
    | zarr folder or zip: diffusion policy | `data/action` | `data/state` |
    | the same: UMI | poses and gripper widths of all robots | none unless named |
    | RLDS: `*.tfrecord*` file or folder of them | `steps/action` | `steps/observation/state` |
    | CSV file or folder of them | columns `action...` | columns `state...` |
    | npz, npy: see `fast_tokenizer.io.npz` | `actions` | `state` |

    Args:
        path: File, folder, or the id of a dataset on the hub (`owner/name`), where there is no such folder.
        action_key: Where the actions are, when it is not the usual place; several are joined along D.
        state_key: The same of the state.
        state: Whether to read the state, too, where there is one.
        episodes: The numbers of those to keep. Default: all. What is wrong with others does not matter.
        on_broken: What is done about an episode that cannot be used (damaged or missing file, values that are not
            finite, lost frames, ...). "raise": an error, when it is met. "skip": it is left out, and stands in the
            dataset's `left_out`; to know them, everything is read once here.
        hz: Control rate, where the data does not say it or says it wrongly. Recorded times must agree with a recorded
            rate, but need not with this one: gaps are then measured by the time that most steps of an episode take.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package that reads this format is not installed; says how to install it.
        BrokenDataError: An episode cannot be used.
        ValueError: Unknown format, or a file that does not hold what it should; names the file and the field.

    Example:
        >>> np.savez("demo.npz", actions=np.zeros((8, 2)), episode_ends=[5, 8], hz=10.0)
        >>> [(t.episode, t.actions.shape, t.hz) for t in read("demo.npz").trajectories]
        [(0, (5, 2), 10.0), (1, (3, 2), 10.0)]
    """
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', got {on_broken!r}")
    if hz is not None and not (np.isfinite(hz) and hz > 0):
        raise ValueError(f"hz must be positive, got {hz}")
    local = fetch(path)
    source = Source(
        local,
        _keys(action_key),
        _keys(state_key),
        state,
        skip=on_broken == "skip",
        hz=hz,
        episodes=None if episodes is None else frozenset(episodes),
    )
    reader = _reader(local)
    with blamed_on(local):
        dataset = reader(source)
    if hz is not None:
        dataset = replace(dataset, hz=hz, hz_is_given=True)
    if source.left_out:
        dataset = dataset.select(np.ones(len(dataset.lengths), np.bool_), source.left_out)
    if source.episodes is not None:
        dataset = _chosen(dataset, source.episodes)
    if source.skip:
        dataset = _usable(dataset)
    elif problem := next((e.problem for e in dataset.episodes or () if e.problem), None):
        raise problem
    if not len(dataset.lengths):
        reasons = "; ".join(str(e) for e in dataset.left_out[:1])
        raise ValueError(f"{local}: holds no episode that can be used{': ' if reasons else ''}{reasons}")
    return dataset


def _keys(key: str | Sequence[str] | None) -> tuple[str, ...]:
    if key is None:
        return ()
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys or not all(keys):
        raise ValueError(f"a key must not be empty, got {key!r}")
    return keys


def _reader(path: Path) -> _Reader:
    """By the suffix of a file and what is in a folder."""
    from fast_tokenizer.io import csv, hdf5, lerobot, npz, rlds, zarr

    if path.is_dir():
        by_content: tuple[tuple[Callable[[Path], object], _Reader], ...] = (
            (lambda p: (p / "meta" / "info.json").is_file(), lerobot.read_lerobot),
            (lambda p: any((p / name).is_file() for name in zarr.MARKS), zarr.read_zarr),
            (lambda p: hdf5.files_in(p), hdf5.read_hdf5),
            (lambda p: rlds.files_in(p), rlds.read_rlds),
            (lambda p: csv.files_in(p), csv.read_csv),
        )
        for fits, reader in by_content:
            if fits(path):
                return reader
        raise ValueError(
            f"{path}: expected meta/info.json (LeRobot), a zarr group, or files .hdf5, .h5, .tfrecord or .csv; "
            f"got {sorted(p.name for p in path.iterdir())[:8]}"
        )
    if rlds.is_tfrecord(path):
        return rlds.read_rlds
    by_suffix: dict[str, _Reader] = {
        ".npz": npz.read_npz,
        ".npy": npz.read_npy,
        ".hdf5": hdf5.read_hdf5,
        ".h5": hdf5.read_hdf5,
        ".zip": zarr.read_zarr,
        ".csv": csv.read_csv,
    }
    if path.suffix.lower() not in by_suffix:
        known = ", ".join(by_suffix)
        raise ValueError(f"{path}: expected a folder, or a file ending in {known} or .tfrecord")
    if is_lfs_pointer(path):
        raise BrokenDataError("Git LFS pointer", f"{path}: is a Git LFS pointer, not the file: run git lfs pull")
    return by_suffix[path.suffix.lower()]


def _chosen(dataset: Dataset, numbers: frozenset[int]) -> Dataset:
    """The episodes of these numbers."""
    here = np.array([dataset.episode(i).index for i in range(len(dataset.lengths))], np.int64)
    unknown = sorted(numbers - set(here.tolist()))
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        known = f"; its {len(here)} are {here.min()}..{here.max()}" if len(here) else ", nor any other"
        raise ValueError(f"{dataset.path}: has no episode {listed}{known}")
    chosen = np.isin(here, sorted(numbers))
    others = int(np.count_nonzero(~chosen))
    message = f"{dataset.path}: {others} of {len(here)} episodes are not chosen"
    return dataset.select(chosen, [BrokenDataError("not chosen", message, others)] if others else [])


def _usable(dataset: Dataset) -> Dataset:
    """Reads everything once, and leaves out what cannot be used."""
    usable = np.ones(len(dataset.lengths), np.bool_)
    broken = []
    for i, steps in dataset.checked(usable.copy()):
        if isinstance(steps, BrokenDataError):
            usable[i] = False
            broken.append(steps.bare())
    return dataset.select(usable, broken) if broken else dataset
