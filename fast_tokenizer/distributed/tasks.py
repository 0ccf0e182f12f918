"""Tasks of Ray Data that read trajectories: what they are told, and how they run.

A task is told of consecutive trajectories and opens their files itself: every path must lead to the same data on every
node, as on a shared file system. Small tasks would read large files again and again.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed.cluster import import_ray, plain_errors, quiet_data
from fast_tokenizer.distributed.pieces import build, other_version
from fast_tokenizer.io import Trajectories

#: What tasks are told, and what they return: plain values. `first` and `last` are the trajectories, `last` excluded.
Row: TypeAlias = dict[str, Any]

#: How often a task is run again where its process or its node died: on some data it may die every time. What Ray's
#: memory monitor ends is counted by itself (`cluster.OOM_RETRIES`).
RETRIES = 10


def shared(value: Any) -> Any:
    """A reference to what all tasks need."""
    return import_ray().put(value)


def checked(row: Row) -> Row:
    """A row of what tasks made; raises what one of them raised."""
    if row.get("error") is not None:
        raise pickle.loads(row["error"])
    return row


def _guarded(task: Callable[[Any], Any], version: str, folder: str, table: Any) -> Any:
    """What the task makes of the table, or the row of its error. Relative paths are those of the driver's folder."""
    import pyarrow as pa

    try:
        if version != build():
            raise other_version(build(), version)
        with contextlib.chdir(folder) if Path(folder).is_dir() else contextlib.nullcontext():
            return task(table)
    except Exception as error:
        return pa.table({"error": [_pickled(error)]})


def _pickled(error: Exception) -> bytes:
    """An error, or what can be said of one that does not come back."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pickled


@functools.lru_cache(maxsize=4)
def unpacked(reference: Any) -> Any:
    """In a task: what a reference to a `shared` value leads to. A process unpacks it once."""
    return import_ray().get(reference)


def spans(counts: NDArray[np.int64], most: int) -> list[Row]:
    """Tasks of so many chunks, at most, unless one trajectory has more; without those that would have none.

    Args:
        counts: (E,) chunks of each trajectory.
        most: Chunks of a task.
    """
    firsts = np.concatenate([[0], np.cumsum(counts)])
    tasks: list[Row] = []
    first = 0
    while first < len(counts):
        last = int(np.searchsorted(firsts, firsts[first] + most, side="right")) - 1
        last = min(max(last, first + 1), len(counts))
        if firsts[last] > firsts[first]:
            tasks.append({"item": len(tasks), "first": first, "last": last})
        first = last
    return tasks


@contextmanager
def running(task: Callable[[Any], Any], rows: list[Row], doing: str) -> Iterator[Any]:
    """A Ray Data dataset of what a task makes of each row, in no order.

    What a task raises is a row too, for `checked`: Ray Data would log it, and keep its text alone.

    Args:
        task: Takes an Arrow table of one row, and returns one.
        rows: What each is told; at least one.
        doing: What is done, for errors.
    """
    import_ray()
    from ray.data import from_items

    with quiet_data(), plain_errors(doing):
        dataset = from_items(rows, override_num_blocks=len(rows))
        guarded = functools.partial(_guarded, task, build(), str(Path.cwd()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no other way yet to say how often a task is tried
            made = dataset.map_batches(guarded, batch_size=1, batch_format="pyarrow", max_retries=RETRIES)
        yield made


def trajectories_of(reference: Any, row: Row) -> tuple[Trajectories, Cut]:
    """In a task: the trajectories that it is told of, and how they are cut."""
    trajectories, cut = unpacked(reference)
    mine = np.zeros(len(trajectories), np.bool_)
    mine[row["first"] : row["last"]] = True
    return trajectories.select(mine), cut
