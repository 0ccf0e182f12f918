"""Recorded sets, where they are present: cut into one-second chunks, four fifths of the episodes to fit on.

They are looked for in `../shared` or in the folder that `FAST_TOKENIZER_SHARED` names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import Normalizer
from fast_tokenizer.cli.workflow import iterate_windows, split_holdout
from fast_tokenizer.io import Dataset

SHARED = Path(os.environ.get("FAST_TOKENIZER_SHARED") or Path(__file__).resolve().parents[2] / "shared")
#: Windows taken of a set, at most: enough for stable figures in seconds.
MAX_CHUNKS = 40_000

Blocks: TypeAlias = Callable[[], Iterator[NDArray[np.floating]]]


def sets(shared: Path = SHARED) -> dict[str, Path]:
    """The file of each recorded set, by name."""
    return {path.parent.name: path for path in sorted((shared / "data" / "trajectories").glob("*/episodes.npz"))}


def require() -> None:
    """Ends a script that is about the recorded sets where there are none."""
    if not sets():
        raise SystemExit(f"no recorded sets in {SHARED}; set FAST_TOKENIZER_SHARED to the folder that holds data/")


@dataclass(frozen=True, slots=True)
class Split:
    """A recorded set, raw: blocks (N_i, T, D) to fit on and held out, and the statistics of the former's episodes."""

    horizon: int
    normalizer: Normalizer
    fitted: Blocks
    held: Blocks


def split(dataset: Dataset) -> Split:
    """Four fifths of the episodes, and the others."""
    assert dataset.hz is not None
    horizon = round(dataset.hz)
    windows = sum(max(0, len(t.actions) - horizon + 1) for t in dataset.trajectories)
    stride = max(1, round(windows / MAX_CHUNKS))
    fitted, held = split_holdout(dataset.trajectories, 0.2)
    return Split(
        horizon,
        Normalizer.fit(np.concatenate([t.actions for t in fitted]), "quantile"),
        lambda: iterate_windows(fitted, horizon, stride),
        lambda: iterate_windows(held, horizon, stride),
    )
