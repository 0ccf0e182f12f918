"""What the commands do, without what they print."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import Trajectory, windows
from fast_tokenizer.io import read


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The trajectories of all files named on a command line, cut to the chosen dimensions."""

    trajectories: list[Trajectory]
    hz: float | None
    dimension_names: tuple[str, ...] | None
    horizon: int | None

    @property
    def action_dim(self) -> int:
        """Dimensions D."""
        return int(self.trajectories[0].actions.shape[1])


def read_recording(paths: Sequence[Path], hz: float | None, dims: str | None) -> Recording:
    """Reads files that must agree in dimensions and, unless `hz` is given, in control rate."""
    if hz is not None and not (math.isfinite(hz) and 0 < hz < 1e6):
        raise ValueError(f"--hz must be a positive rate, got {hz}")
    datasets = [read(path) for path in paths]
    first = datasets[0]
    for other in datasets[1:]:
        for what, a, b in (
            ("dimensions", first.action_dim, other.action_dim),
            ("Hz (give --hz to treat them alike)", None if hz else first.hz, None if hz else other.hz),
            ("steps a chunk", first.horizon, other.horizon),
        ):
            if a != b:
                raise ValueError(f"{other.path} has {b} {what}, {first.path} has {a}")
    trajectories = [t for d in datasets for t in d.trajectories]
    names = trajectories[0].dimension_names
    if dims is not None:
        chosen = parse_dims(dims, first.action_dim)
        names = None if names is None else tuple(names[d] for d in chosen)
        trajectories = [replace(t, actions=t.actions[:, chosen], dimension_names=names) for t in trajectories]
    return Recording(trajectories, hz or first.hz, names, first.horizon)


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


def split_holdout(trajectories: Sequence[Trajectory], share: float) -> tuple[list[Trajectory], list[Trajectory]]:
    """Keeps a share of the episodes, chosen by a fixed seed, out of the fit."""
    if not 0 <= share < 1:
        raise ValueError(f"--holdout must lie in [0, 1), got {share}")
    held = round(share * len(trajectories))
    if share > 0 and len(trajectories) > 1:
        held = min(max(held, 1), len(trajectories) - 1)
    chosen = set(np.random.default_rng(0).permutation(len(trajectories))[:held].tolist())
    fitted = [t for i, t in enumerate(trajectories) if i not in chosen]
    return fitted, [t for i, t in enumerate(trajectories) if i in chosen]


def iterate_windows(trajectories: Sequence[Trajectory], horizon: int, stride: int) -> Iterator[NDArray[np.floating]]:
    """Chunks (N_i, T, D) of one trajectory after the other; shorter ones have none."""
    for trajectory in trajectories:
        chunks = windows(trajectory.actions, horizon, stride)
        if len(chunks):
            yield chunks


def count_short(trajectories: Sequence[Trajectory], horizon: int) -> int:
    """Episodes shorter than a chunk."""
    return sum(len(t.actions) < horizon for t in trajectories)


def peak_memory_mib() -> float | None:
    """Largest resident size of this process so far, where the system tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
