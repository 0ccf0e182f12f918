"""One part of a sidecar: the token ids of each frame of one data file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import Trajectory
from fast_tokenizer.cutting import Cut
from fast_tokenizer.io.dataset import BrokenDataError, Steps
from fast_tokenizer.io.lerobot import LerobotFiles
from fast_tokenizer.io.source import Source, require
from fast_tokenizer.sidecar.manifest import EPISODE_END, FORMAT, VERSION
from fast_tokenizer.sidecar.run import Run
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: Frames that are read together. A loader that draws frames at random reads as many for one: of 512 frames of 50 ids
#: that takes 0.2 ms, of 1,024 0.5 ms; with 256 the file is 6 % larger. ids as a dictionary and not compressed take 83
#: bytes a frame; zstd makes that 54 and reading twice as slow.
ROW_GROUP = 512

#: What stands in the columns of a part.
COLUMNS = {
    "index": "number of the frame in the source, as its column index has it",
    "episode_index": "number of the episode, as in the source",
    "frame_index": "number of the frame in its episode, as in the source",
    "ids": "token ids of the chunk that starts at the frame",
    "real_steps": "steps of the chunk within the episode; the others repeat its last action",
    "saturated": "coefficients that were cut to the fitted range",
    "clipped": "values that the normaliser cut",
    "dropped": "coefficients that a published vocabulary has no ids for",
}


@dataclass(frozen=True, slots=True)
class PartRules:
    """What all parts of a sidecar have in common.

    Attributes:
        fingerprint: Of the tokenizer, with all its embodiments.
        embodiment: Which of them, or None.
        horizon: Steps T of a chunk.
        dimensions: Dimensions of the actions that are encoded; None: all.
        skip: Whether broken episodes are left out and counted; else they raise.
        hz: The control rate that the caller gives, or None.
    """

    fingerprint: str
    embodiment: str | None
    horizon: int
    dimensions: tuple[int, ...] | None = None
    skip: bool = False
    hz: float | None = None


@dataclass(frozen=True, slots=True)
class PartJob:
    """One part to write: plain values, which go to other processes.

    Attributes:
        output: Folder of the sidecar.
        part: Name of the part, relative to it; that of the data file in the source.
        rules: What all parts have in common.
        files: The source, with the outline of the one data file.
        wanted: Which of the outline's episodes to encode.
        run: The run that it is written for; None in a plan that has not begun.
    """

    output: Path
    part: str
    rules: PartRules
    files: LerobotFiles
    wanted: tuple[int, ...]
    run: Run | None = None

    @property
    def frames(self) -> int:
        """Frames that are listed of the wanted episodes."""
        return sum(self.files.outlines[0].lengths[i] for i in self.wanted)


@dataclass(frozen=True, slots=True)
class PartCounts:
    """What was written into a part. Where no episode could be used, nothing was, and there is no file.

    Attributes:
        part: As in the job.
        episodes: Episodes in it.
        frames: Frames in it, a row each.
        first_indices: `index` of the first frame of each row group.
        last_index: That of the last frame; -1 where there is none.
        tokens: Token ids.
        longest: Token ids of the frame that has most.
        saturated: Coefficients that were cut to the fitted range.
        clipped: Values that the normaliser cut.
        dropped: Coefficients that a published vocabulary has no ids for.
        filled_frames: Frames whose chunk runs over the end of the episode.
        left_out: The episodes that were not used, and why.
    """

    part: str
    episodes: int = 0
    frames: int = 0
    first_indices: tuple[int, ...] = ()
    last_index: int = -1
    tokens: int = 0
    longest: int = 0
    saturated: int = 0
    clipped: int = 0
    dropped: int = 0
    filled_frames: int = 0
    left_out: tuple[BrokenDataError, ...] = ()


def write_part(tokenizer: FastTokenizer, job: PartJob, *, num_threads: int = 1) -> PartCounts:
    """Encodes each frame of a data file and writes the part: whole, or not at all.

    The same job gives the same part, so that it may be done again after a failure, even at the same time.

    Args:
        tokenizer: The one that the job was planned for, with all its embodiments.
        job: One of `SidecarPlan.jobs`, of a plan that has begun.
        num_threads: Threads of `encode`. One, where many parts are written at the same time.

    Raises:
        BrokenDataError: An episode cannot be used, and the rules do not say to leave it out.
        OSError: The part cannot be written.
        ValueError: Another tokenizer than the job was planned for; or it does not take the actions; or another run
            has begun to write to the folder.
    """
    if job.run is None:
        raise ValueError(f"{job.part}: its plan has not begun; take the jobs of plan.begin()")
    table, counts = tokenize_part(tokenizer, job, num_threads=num_threads)
    if counts.frames:
        parquet = require("pyarrow.parquet", "lerobot", job.output)

        def write(file: Any) -> None:
            parquet.write_table(
                table, file, row_group_size=ROW_GROUP, compression="none", use_dictionary=["ids"], store_schema=True
            )

        job.run.write(job.part, write)
    return counts


def tokenize_part(tokenizer: FastTokenizer, job: PartJob, *, num_threads: int = 1) -> tuple[Any, PartCounts]:
    """The same without writing: the part as a `pyarrow.Table`, and its counts. Arguments and errors likewise."""
    if tokenizer.fingerprint() != job.rules.fingerprint:
        raise ValueError(
            f"{job.part}: is to be encoded with the tokenizer {job.rules.fingerprint[:16]}, got "
            f"{tokenizer.fingerprint()[:16]}"
        )
    one = tokenizer if job.rules.embodiment is None else tokenizer.embodiment(job.rules.embodiment)
    left_out: list[BrokenDataError] = []
    episodes = [_encoded(one, job, e, num_threads) for e in _usable(job, left_out)]
    tokens = TokenBatch.concatenate([e.tokens for e in episodes])
    numbers = np.array([e.number for e in episodes], np.int64)
    columns: dict[str, NDArray[Any]] = {
        "index": _joined([e.index for e in episodes]),
        "episode_index": np.repeat(numbers, [len(e.index) for e in episodes]),
        "frame_index": _joined([e.frame_index for e in episodes]),
        "real_steps": _joined([e.real_steps for e in episodes]).astype(np.int32),
    }
    index = columns["index"]
    counts = PartCounts(
        job.part,
        episodes=len(episodes),
        frames=len(index),
        first_indices=tuple(index[::ROW_GROUP].tolist()),
        last_index=int(index[-1]) if len(index) else -1,
        tokens=len(tokens.ids),
        longest=int(tokens.lengths.max(initial=0)),
        saturated=int(tokens.saturated.sum()),
        clipped=int(tokens.clipped.sum()),
        dropped=int(tokens.dropped.sum()),
        filled_frames=int((columns["real_steps"] < job.rules.horizon).sum()),
        left_out=tuple(left_out),
    )
    return _table(columns, tokens, job), counts


@dataclass(frozen=True, slots=True, eq=False)
class _Episode:
    """What is read of an episode, and the frames' numbers, checked."""

    number: int
    trajectory: Trajectory
    index: NDArray[np.int64]
    frame_index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """The rows of an episode."""

    number: int
    index: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    real_steps: NDArray[np.int64]
    tokens: TokenBatch


def _usable(job: PartJob, left_out: list[BrokenDataError]) -> Iterator[_Episode]:
    """The wanted episodes, one after the other; appends what is wrong with the others."""
    rules, files = job.rules, job.files
    dataset = files.dataset(Source(files.root, skip=rules.skip, hz=rules.hz), index=True)
    if rules.hz is not None:
        dataset = replace(dataset, hz=rules.hz, hz_is_given=True)
    mask = np.zeros(len(dataset.lengths), np.bool_)
    mask[list(job.wanted)] = True
    last = -1
    for i, steps in dataset.checked(mask):
        info = dataset.episode(i)
        name = f"{files.root} {info.name}"
        numbers = steps if isinstance(steps, BrokenDataError) else _frame_numbers(name, steps, last)
        if isinstance(numbers, BrokenDataError):
            if not rules.skip:
                raise numbers
            left_out.append(numbers.bare())
            continue
        assert not isinstance(steps, BrokenDataError)
        index, frame_index = numbers
        last = int(index[-1])
        actions = steps.actions if rules.dimensions is None else steps.actions[:, list(rules.dimensions)]
        state_names = None if steps.state is None else dataset.state_names
        trajectory = Trajectory(actions, name, dataset.hz, state=steps.state, state_names=state_names)
        yield _Episode(info.index, trajectory, index, frame_index)


def _frame_numbers(name: str, steps: Steps, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | BrokenDataError:
    """`index` and `frame_index`. A sidecar is looked up by the first, so that it must rise from episode to episode."""
    assert steps.index is not None
    given = np.asarray(steps.index)
    index = given.astype(np.int64) if np.isfinite(given).all() else np.full(len(given), -1)
    rises = (np.diff(index, prepend=last) > 0) & (index == given)
    if not rises.all():
        at = int(np.argmin(rises))
        before = last if at == 0 else given[at - 1]
        message = f"{name}: the column index must rise in whole numbers, but frame {at} has {given[at]} after {before}"
        return BrokenDataError("frame numbers", message)
    frame_index = np.arange(len(index)) if steps.frame_index is None else np.asarray(steps.frame_index)
    return index, frame_index.astype(np.int64)


def _encoded(tokenizer: FastTokenizer, job: PartJob, episode: _Episode, num_threads: int) -> _Encoded:
    cut = Cut(job.rules.horizon, 1, EPISODE_END, tokenizer.spec.relative)
    length = len(episode.index)
    try:
        batches = [tokenizer.encode(w.chunks, num_threads, state=w.state) for w in cut.windows([episode.trajectory])]
    except ValueError as error:
        name = episode.trajectory.name
        raise ValueError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    tokens = TokenBatch.concatenate(batches)
    real_steps = np.minimum(job.rules.horizon, length - np.arange(length))
    return _Encoded(episode.number, episode.index, episode.frame_index, real_steps, tokens)


def _joined(arrays: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _table(columns: dict[str, NDArray[Any]], tokens: TokenBatch, job: PartJob) -> Any:
    """The rows, with what a reader must know in the schema's metadata."""
    pyarrow = require("pyarrow", "lerobot", job.output)
    offsets = tokens.offsets
    if offsets[-1] >= 2**31:  # 40 million frames of 50 ids: no data file is that large
        raise ValueError(f"{job.part}: {offsets[-1]} token ids do not fit one part")
    arrays = {
        **{name: pyarrow.array(values) for name, values in columns.items()},
        "ids": pyarrow.ListArray.from_arrays(pyarrow.array(offsets.astype(np.int32)), pyarrow.array(tokens.ids)),
        **{name: pyarrow.array(getattr(tokens, name)) for name in ("saturated", "clipped", "dropped")},
    }
    about = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": job.rules.fingerprint,
        "embodiment": job.rules.embodiment,
        "horizon": job.rules.horizon,
        "dimensions": None if job.rules.dimensions is None else list(job.rules.dimensions),
        "action_keys": list(job.files.action_keys),
        "state_keys": list(job.files.state_keys),
        "episode_end": EPISODE_END,
        "columns": COLUMNS,
    }
    return pyarrow.table({name: arrays[name] for name in COLUMNS}, metadata={FORMAT: json.dumps(about)})
