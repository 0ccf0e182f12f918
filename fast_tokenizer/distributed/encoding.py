"""Encoding on a cluster: tasks of Ray Data, whose processes keep a tokenizer each."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed.cluster import connect
from fast_tokenizer.distributed.tasks import Row, checked, running, shared, spans, trajectories_of, unpacked
from fast_tokenizer.fitting import Progress
from fast_tokenizer.io import Trajectories
from fast_tokenizer.sidecar import Manifest, PartCounts, SidecarPlan, write_part
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: Values in the chunks of a task, at most, unless one trajectory has more.
TASK_VALUES = 1 << 24

#: Arrays of a TokenBatch, as they travel.
_ARRAYS = {"ids": np.int32, "lengths": np.int64, "saturated": np.int32, "clipped": np.int32, "dropped": np.int32}


def encode_trajectories(
    tokenizer: FastTokenizer, trajectories: Trajectories, cut: Cut, report: Progress
) -> tuple[TokenBatch, NDArray[np.floating] | None]:
    """The tokens of all chunks, in the order of the data, and the states at their starts where actions are relative.

    All of them come to this process, some 200 bytes a chunk; a sidecar is written by the workers instead.

    Raises:
        BrokenDataError: An episode cannot be used.
        ClusterError: Something was lost with a node and cannot be made again.
        ValueError: There are no chunks, or the data changed while it was read.
    """
    connect()
    counts = cut.count(trajectories.lengths)
    tasks = spans(counts, TASK_VALUES // (cut.horizon * trajectories.action_dim))
    total = int(counts.sum())
    if not total:
        raise ValueError("got no chunks")
    found: dict[int, Row] = {}
    done = 0
    encode = functools.partial(_encode, shared(tokenizer), shared((trajectories, cut)))
    with running(encode, tasks, "encoding") as dataset:
        for row in map(checked, dataset.iter_rows()):
            if row["item"] in found:
                raise ValueError(f"task {row['item']} of {len(tasks)} came twice")
            found[row["item"]] = row
            done += len(row["lengths"]) // np.dtype(_ARRAYS["lengths"]).itemsize
            report("encode", done, total)
    if len(found) != len(tasks) or done != total:
        raise ValueError(f"expected {total} chunks of {len(tasks)} tasks, got {done} of {len(found)}")
    ordered = [found[task["item"]] for task in tasks]
    arrays = {
        name: np.concatenate([np.frombuffer(row[name], dtype) for row in ordered]) for name, dtype in _ARRAYS.items()
    }
    offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])])
    tokens = TokenBatch(arrays["ids"], offsets, arrays["saturated"], arrays["clipped"], arrays["dropped"])
    if cut.relative is None:
        return tokens, None
    return tokens, np.concatenate([np.frombuffer(row["state"]) for row in ordered]).reshape(total, -1)


def write_sidecar(tokenizer: FastTokenizer, plan: SidecarPlan, report: Progress) -> Manifest:
    """Writes a sidecar, each part by a worker that encodes it: its folder must be there on every node.

    A part is a file, whole or not at all, and the same whoever writes it: the job of a node that dies is done again.

    Args:
        tokenizer: The one that the plan is for.
        plan: What `plan_sidecar` makes, here.
        report: Told of the frames.

    Raises:
        BrokenDataError: An episode cannot be used.
        ClusterError: A part cannot be written since nodes are lost.
        ValueError: Parts are missing or counted twice. The folder is then no sidecar.
    """
    connect()
    plan = plan.begin()
    tasks: list[Row] = [{"item": i, "job": pickle.dumps(job)} for i, job in enumerate(plan.jobs)]
    counts: list[PartCounts] = []
    done = 0
    if tasks:
        with running(functools.partial(_write_part, shared(tokenizer)), tasks, "writing parts") as dataset:
            for row in map(checked, dataset.iter_rows()):
                counts.append(pickle.loads(row["counts"]))
                done += plan.jobs[row["item"]].frames
                report("encode", done, plan.frames)
    return plan.finish(counts)


def _write_part(tokenizer: Any, table: Any) -> Any:
    """A task."""
    import pyarrow as pa

    (row,) = table.to_pylist()
    counts = write_part(unpacked(tokenizer), pickle.loads(row["job"]))
    return pa.Table.from_pylist([{"item": row["item"], "counts": pickle.dumps(counts)}])


def _encode(tokenizer: Any, data: Any, table: Any) -> Any:
    """A task."""
    import pyarrow as pa

    (row,) = table.to_pylist()
    trajectories, cut = trajectories_of(data, row)
    batches, states = [], []
    for part in cut.gathered(trajectories):
        batches.append(unpacked(tokenizer).encode(part.chunks, 1, state=part.state))
        if part.state is not None:
            states.append(part.state)
    tokens = TokenBatch.concatenate(batches)
    out = {name: getattr(tokens, name).astype(dtype, copy=False).tobytes() for name, dtype in _ARRAYS.items()}
    state = np.concatenate(states).astype(np.float64).tobytes() if states else b""
    return pa.Table.from_pylist(
        [{"item": row["item"], **out, "state": state}],
        pa.schema([("item", pa.int64()), *((name, pa.large_binary()) for name in (*_ARRAYS, "state"))]),
    )
