"""What the commands do, without what they print."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import ChunkSample, Trajectory, chunk_blocks, windows
from fast_tokenizer.io import Trajectories, read
from fast_tokenizer.statistics import NormalizerStatistics

#: Told of a stage, the work done and the work to do (None: not known).
Report = Callable[[str, int, int | None], None]

#: Values in the windows that are cut from a trajectory at a time.
_WINDOW_VALUES = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The trajectories of all files named on a command line, cut to the chosen dimensions; not read yet."""

    trajectories: Trajectories
    action_dim: int
    hz: float | None
    dimension_names: tuple[str, ...] | None
    horizon: int | None


def open_recording(paths: Sequence[Path], hz: float | None, dims: str | None, report: Report) -> Recording:
    """Opens files that must agree in dimensions and, unless `hz` is given, in control rate."""
    if hz is not None and not (math.isfinite(hz) and 0 < hz < 1e6):
        raise ValueError(f"--hz must be a positive rate, got {hz}")
    datasets = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path}: given twice; its episodes would be fitted on and held out at once")
        seen.add(path.resolve())
        datasets.append(read(path))
        report("open", len(datasets), len(paths))
    first = datasets[0]
    for other in datasets[1:]:
        for what, a, b in (
            ("dimensions", first.action_dim, other.action_dim),
            ("Hz (give --hz to treat them alike)", None if hz else first.hz, None if hz else other.hz),
            ("steps a chunk", first.horizon, other.horizon),
        ):
            if a != b:
                raise ValueError(f"{other.path} has {b} {what}, {first.path} has {a}")
        if first.dimension_names and other.dimension_names and first.dimension_names != other.dimension_names:
            theirs, ours = list(other.dimension_names), list(first.dimension_names)
            raise ValueError(f"{other.path} has the dimensions {theirs}, {first.path} has {ours}")
    names = first.dimension_names
    if dims is None:
        return Recording(Trajectories(datasets), first.action_dim, hz or first.hz, names, first.horizon)
    chosen = parse_dims(dims, first.action_dim)
    names = None if names is None else tuple(names[d] for d in chosen)
    return Recording(Trajectories(datasets, dimensions=chosen), len(chosen), hz or first.hz, names, first.horizon)


def parse_dims(text: str, action_dim: int) -> list[int]:
    """Dimension indices from e.g. "0:6,7": ranges exclude their end, as slices do."""
    chosen: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"--dims: expected indices and ranges such as 0:6,7, got {text!r}")
        start = int(match[1])
        end = start + 1 if match[2] is None else int(match[2])
        if not start < end <= action_dim:
            raise ValueError(f"--dims: {part.strip()} does not lie in the data's dimensions 0..{action_dim - 1}")
        chosen += range(start, end)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"--dims: {text!r} names a dimension twice")
    return chosen


def check_stride(stride: int) -> None:
    """Refuses, before any work, what cuts no windows."""
    if stride < 1:
        raise ValueError(f"--stride must be positive, got {stride}")


def horizon_steps(text: str | None, recording: Recording) -> int:
    """Steps T from "50" (steps) or "1s" (seconds, by the control rate); by default one second, or the chunks' own T."""
    if text is None:
        if recording.horizon is not None:
            return recording.horizon
        if recording.hz is None:
            raise ValueError("the data does not say its control rate: give --horizon in steps, or --hz")
        text = "1s"
    match = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d+)?)s", text.strip())
    if match is None:
        raise ValueError(f"--horizon: expected steps such as 50, or seconds such as 1s, got {text!r}")
    if match[1] is not None:
        steps = int(match[1])
    elif recording.hz is None:
        raise ValueError(f"--horizon {text}: the data does not say its control rate: give --hz")
    else:
        steps = round(float(match[2]) * recording.hz)
    if steps < 1:
        raise ValueError(f"--horizon {text}: is less than one step")
    if recording.horizon is not None and steps > recording.horizon:
        raise ValueError(f"--horizon {text}: the data holds chunks of {recording.horizon} steps")
    return steps


def parse_bytes(text: str) -> int:
    """Bytes from "2GiB", "512 MiB", "1.5GB" or "1000000"."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmgt])(i?)b|b)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"--memory-budget: expected bytes such as 2GiB, 512MiB or 1000000, got {text!r}")
    power = "kmgt".index(match[2].lower()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def split_holdout(trajectories: Trajectories, share: float) -> tuple[Trajectories, Trajectories]:
    """Keeps a share of the episodes, chosen by a fixed seed, out of the fit."""
    if not 0 <= share < 1:
        raise ValueError(f"--holdout must lie in [0, 1), got {share}")
    held = round(share * len(trajectories))
    if share > 0 and len(trajectories) > 1:
        held = min(max(held, 1), len(trajectories) - 1)
    is_held = np.zeros(len(trajectories), np.bool_)
    is_held[np.random.default_rng(0).permutation(len(trajectories))[:held]] = True
    return trajectories.select(~is_held), trajectories.select(is_held)


def take_statistics(trajectories: Trajectories, statistics: NormalizerStatistics, report: Report) -> None:
    """Of every step once, however many chunks it is in."""
    for done, trajectory in enumerate(trajectories, 1):
        statistics.update(trajectory.actions)
        report("statistics", done, len(trajectories))


def sample_chunks(
    trajectories: Trajectories,
    horizon: int,
    stride: int,
    max_chunks: int,
    statistics: NormalizerStatistics | None,
    report: Report,
) -> ChunkSample:
    """A uniform sample of the chunks. Takes the statistics of all trajectories on the way."""

    def noted() -> Iterator[Trajectory]:
        for done, trajectory in enumerate(trajectories, 1):
            if statistics is not None:
                statistics.update(trajectory.actions)
            report("sample", done, len(trajectories))
            yield trajectory

    sample = ChunkSample(max_chunks)
    for block in chunk_blocks(iterate_windows(noted(), horizon, stride)):
        sample.add(block)
    return sample


def iterate_windows(trajectories: Iterable[Trajectory], horizon: int, stride: int) -> Iterator[NDArray[np.floating]]:
    """Chunks (N_i, T, D) of one trajectory after the other; shorter ones have none, long ones come in parts."""
    for trajectory in trajectories:
        actions = trajectory.actions
        rows = stride * max(1, _WINDOW_VALUES // (horizon * actions.shape[1]))  # from one part's start to the next
        for first in range(0, len(actions) - horizon + 1, rows):
            yield windows(actions[first : first + rows - stride + horizon], horizon, stride)


def gathered_windows(trajectories: Iterable[Trajectory], horizon: int, stride: int) -> Iterator[NDArray[np.floating]]:
    """The same of several episodes at a time, as a training loop would batch them: at least 1,024 but for the last."""
    gathered: list[NDArray[np.floating]] = []
    count = 0
    for chunks in iterate_windows(trajectories, horizon, stride):
        gathered.append(chunks)
        count += len(chunks)
        if count >= 1024:
            yield np.concatenate(gathered)
            gathered, count = [], 0
    if gathered:
        yield np.concatenate(gathered)


def count_windows(lengths: NDArray[np.int64], horizon: int, stride: int) -> NDArray[np.int64]:
    """(E,): chunks that `iterate_windows` cuts from trajectories of these lengths."""
    return np.maximum(0, (lengths - horizon) // stride + 1)


def peak_memory_mib() -> float | None:
    """Largest resident size of this process so far, where the system tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
