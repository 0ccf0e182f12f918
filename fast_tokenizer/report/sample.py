"""A bounded, seeded sample of the chunks of a recording, each with the place that it was cut from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import Trajectory
from fast_tokenizer.cutting import Cut
from fast_tokenizer.io import Trajectories


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk was cut from.

    Attributes:
        trajectory: What its reader calls the episode.
        step: The episode's step that the chunk begins with, from 0 on.
    """

    trajectory: str
    step: int

    def __str__(self) -> str:
        return f"{self.trajectory}, step {self.step}"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Chunks of one shape, drawn uniformly.

    Attributes:
        chunks: (N, T, D), in recorded units.
        places: N places.
        drawn_from: Chunks that there were to draw from.
        episodes: Trajectories that they lie in.
        around: Reads, for the i-th chunk and a number n, it and up to n whole chunks on each side that lie end to end
            with it in its episode: how many are before it, and all of them (M, T, D).
    """

    chunks: NDArray[np.floating]
    places: tuple[Place, ...]
    drawn_from: int
    episodes: int
    around: Callable[[int, int], tuple[int, NDArray[np.floating]]]

    @classmethod
    def of_chunks(cls, chunks: NDArray[np.floating]) -> Sample:
        """Given chunks (N, T, D), all of them, named by their number."""
        places = tuple(Place(f"chunk {i}", 0) for i in range(len(chunks)))
        return cls(chunks, places, len(chunks), len(chunks), lambda i, _: (0, chunks[i : i + 1]))


def draw_sample(
    trajectories: Trajectories,
    cut: Cut,
    most: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Sample:
    """Draws from all chunks, each as likely as any other; reads only episodes of which a chunk was drawn.

    Args:
        trajectories: At least one is as long as a chunk.
        cut: How they are cut; relative actions are relative in the sample.
        most: Chunks to draw; of fewer, all are taken.
        seed: Which ones.
        progress: Told how many of the episodes were read.

    Raises:
        ValueError: No trajectory is as long as a chunk; or one has no state that the relative actions need.
        BrokenDataError: A trajectory cannot be used.
    """
    counts = cut.count(trajectories.lengths)
    total = int(counts.sum())
    if total == 0:
        raise ValueError(f"none of the {len(counts)} episodes has {cut.shortest} steps")
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False))
    firsts = np.concatenate([[0], np.cumsum(counts)])
    owners = np.searchsorted(firsts, drawn, side="right") - 1
    needed = np.unique(owners)
    chunks: list[NDArray[np.floating]] = []
    places: list[Place] = []
    chosen = np.zeros(len(counts), np.bool_)
    chosen[needed] = True
    for done, (owner, trajectory) in enumerate(zip(needed, trajectories.select(chosen), strict=True), 1):
        steps = (drawn[owners == owner] - firsts[owner]) * cut.stride
        chunks += [_chunk(trajectory, step, cut) for step in steps.tolist()]
        places += [Place(trajectory.name, step) for step in steps.tolist()]
        progress(done, len(needed))

    def around(i: int, most: int) -> tuple[int, NDArray[np.floating]]:
        (trajectory,) = trajectories.select(np.arange(len(counts)) == owners[i])
        step = places[i].step
        before = min(most, step // cut.horizon)
        after = min(most, max(0, (len(trajectory.actions) - step) // cut.horizon - 1))
        steps = range(step - before * cut.horizon, step + after * cut.horizon + 1, cut.horizon)
        return before, np.stack([_chunk(trajectory, s, cut) for s in steps])

    return Sample(np.stack(chunks), tuple(places), total, len(needed), around)


def _chunk(trajectory: Trajectory, step: int, cut: Cut) -> NDArray[np.floating]:
    """A chunk (T, D), a copy: a view would hold the whole episode in memory."""
    part = slice(step, step + cut.horizon)
    state = None if trajectory.state is None else trajectory.state[part]
    first = next(cut.model_chunks([replace(trajectory, actions=trajectory.actions[part], state=state)]))
    return np.array(first[0])
