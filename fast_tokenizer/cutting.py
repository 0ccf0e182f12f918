"""From trajectories to chunks: how they are cut, and what is left out or filled for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import EpisodeEnd, Trajectory, count_windows, windows
from fast_tokenizer.relative import Relative
from fast_tokenizer.tokenizer import Spec

#: Values in the windows that are cut from a trajectory at a time.
WINDOW_VALUES = 1 << 22


def check_same_robot(spec: Spec, hz: float | None, dimension_names: tuple[str, ...] | None) -> None:
    """What an artefact records of its data must agree with what is to be encoded.

    Raises:
        ValueError: Another control rate, or other names of dimensions.
    """
    if spec.hz is not None and hz is not None and not np.isclose(spec.hz, hz):
        raise ValueError(
            f"the data is at {hz:g} Hz, the tokenizer was fitted at {spec.hz:g} Hz; "
            f"resample the data, or give --hz {spec.hz:g} if it says its rate wrongly"
        )
    if spec.dimension_names is not None and dimension_names is not None and spec.dimension_names != dimension_names:
        raise ValueError(
            f"the data's dimensions are {list(dimension_names)}, the tokenizer's {list(spec.dimension_names)}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Chunks (N, T, D) in raw units, and the states (N, S) at their starts, where they are needed."""

    chunks: NDArray[np.floating]
    state: NDArray[np.floating] | None


@dataclass(frozen=True, slots=True)
class Cut:
    """How trajectories are cut into chunks.

    Attributes:
        horizon: Steps T of a chunk.
        stride: Steps between the starts of chunks.
        episode_end: As for `fast_tokenizer.windows`.
        relative: Which dimensions are relative to the state, or None.
        of_chunks: Whether the trajectories are chunks that were cut before: they have no ends to leave out.
    """

    horizon: int
    stride: int = 1
    episode_end: EpisodeEnd = "drop"
    relative: Relative | None = None
    of_chunks: bool = False

    @property
    def shortest(self) -> int:
        """Steps of the shortest trajectory that has a chunk."""
        return self.horizon if self.episode_end == "drop" else 1

    def count(self, lengths: NDArray[np.integer]) -> NDArray[np.int64]:
        """(E,): chunks of trajectories of these lengths."""
        return count_windows(lengths, self.horizon, self.stride, self.episode_end)

    def at_the_end(self, lengths: NDArray[np.integer]) -> int:
        """Windows that start in the trajectories and run over their ends: left out or filled, as the rule has it."""
        if self.of_chunks:
            return 0
        whole, all_starts = (count_windows(lengths, self.horizon, self.stride, e) for e in ("drop", "repeat-last"))
        return int((all_starts - whole).sum())

    def to_json(self, lengths: NDArray[np.integer]) -> dict[str, Any]:
        """The rule for ends, and what it did to trajectories of these lengths."""
        at_the_end = self.at_the_end(lengths)
        return {
            "stride": self.stride,
            "episode_end": self.episode_end,
            "chunks_dropped_at_end": at_the_end if self.episode_end == "drop" else 0,
            "chunks_filled_at_end": at_the_end if self.episode_end == "repeat-last" else 0,
        }

    def line(self, lengths: NDArray[np.integer]) -> str:
        """The same in words."""
        what = "left out" if self.episode_end == "drop" else "filled with the last action"
        return f"Ends of episodes ({self.episode_end}): {self.at_the_end(lengths):,} chunks {what}"

    def windows(self, trajectories: Iterable[Trajectory]) -> Iterator[Windows]:
        """Chunks of one trajectory after the other; some have none, long ones come in parts."""
        for trajectory in trajectories:
            actions, state = trajectory.actions, self._state(trajectory)
            count = int(self.count(np.array([len(actions)]))[0])
            step = max(1, WINDOW_VALUES // (self.horizon * actions.shape[1]))
            for first in range(0, count, step):
                n, start = min(step, count - first), first * self.stride
                part = actions[start : start + (n - 1) * self.stride + self.horizon]
                is_whole = len(part) == (n - 1) * self.stride + self.horizon
                chunks = windows(part, self.horizon, self.stride, episode_end="drop" if is_whole else self.episode_end)
                starts = slice(start, start + (n - 1) * self.stride + 1, self.stride)
                yield Windows(chunks[:n], None if state is None else state[starts])

    def gathered(self, trajectories: Iterable[Trajectory]) -> Iterator[Windows]:
        """The same of several trajectories at a time, as a training loop would batch them: but for the last, 1,024."""
        held: list[Windows] = []
        for part in self.windows(trajectories):
            held.append(part)
            if sum(len(w.chunks) for w in held) >= 1024:
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)

    def model_chunks(
        self, trajectories: Iterable[Trajectory], *, gather: bool = False
    ) -> Iterator[NDArray[np.floating]]:
        """Chunks as the vocabulary sees them: relative where the rule says so."""
        for part in self.gathered(trajectories) if gather else self.windows(trajectories):
            if self.relative is None:
                yield part.chunks
            else:
                assert part.state is not None
                yield self.relative.subtract(part.chunks, part.state)

    def _state(self, trajectory: Trajectory) -> NDArray[np.float64] | None:
        if self.relative is None:
            return None
        state, rule = trajectory.state, self.relative
        if state is None:
            raise ValueError(f"{trajectory.name}: has no state, which relative actions need; name it with --state-key")
        if state.ndim != 2 or state.shape[1] != rule.state_dim:
            raise ValueError(f"{trajectory.name}: has a state of shape {state.shape}, expected (L, {rule.state_dim})")
        if rule.state_names is not None:
            if trajectory.state_names is None:
                raise ValueError(
                    f"{trajectory.name}: does not name its state, but the actions are relative to the columns "
                    f"{list(rule.state_names)}"
                )
            theirs = tuple(trajectory.state_names[c] for c in rule.state_columns)
            if theirs != rule.state_names:
                raise ValueError(
                    f"{trajectory.name}: columns {list(rule.state_columns)} of the state are {list(theirs)}, but the "
                    f"actions are relative to {list(rule.state_names)}"
                )
        return state.astype(np.float64)


def _joined(parts: list[Windows]) -> Windows:
    states = [p.state for p in parts if p.state is not None]
    return Windows(np.concatenate([p.chunks for p in parts]), np.concatenate(states) if states else None)
