"""What the commands do, without what they print."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import ChunkSample, EpisodeEnd, Trajectory, chunk_blocks
from fast_tokenizer.cutting import Cut
from fast_tokenizer.io import BrokenDataError, Dataset, Trajectories, read
from fast_tokenizer.relative import Relative
from fast_tokenizer.statistics import NormalizerStatistics
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: Told of a stage, the work done and the work to do (None: not known).
Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The trajectories of all files named on a command line, cut to the chosen dimensions; not read yet."""

    trajectories: Trajectories
    action_dim: int
    hz: float | None
    dimension_names: tuple[str, ...] | None
    horizon: int | None
    left_out: tuple[BrokenDataError, ...] = ()
    relative: Relative | None = None

    def episodes(self, steps: int) -> EpisodeCounts:
        """How many are used for chunks of so many steps, and why the others are not."""
        short = int(np.count_nonzero(self.trajectories.lengths < steps))
        return EpisodeCounts(len(self.trajectories) - short, short, steps, self.left_out)


@dataclass(frozen=True, slots=True)
class EpisodeCounts:
    """How many episodes are used, and why the others are not."""

    used: int
    short: int
    steps: int
    broken: tuple[BrokenDataError, ...]

    @property
    def left_out(self) -> dict[str, int]:
        """How many, by reason."""
        reasons = Counter({f"shorter than {self.steps} steps": self.short} if self.short else {})
        for error in self.broken:
            reasons[error.reason] += error.episodes
        return dict(reasons)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"episodes": self.used, "episodes_left_out": self.left_out, "short_episodes": self.short}

    def lines(self) -> str:
        """The counts, and the first episode that each reason cost."""
        left_out = self.left_out
        text = f"Episodes: {self.used:,} of {self.used + sum(left_out.values()):,} used"
        if left_out:
            text += "; left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        firsts = {e.reason: str(e) for e in reversed(self.broken) if e.reason != "not chosen"}
        return "\n".join([text, *(f"  {reason}: {message}" for reason, message in firsts.items())])


def open_recording(
    paths: Sequence[Path],
    hz: float | None,
    dims: str | None,
    report: Report,
    *,
    action_key: str | None = None,
    state_key: str | None = None,
    episodes: str | None = None,
    on_broken: Literal["raise", "skip"] = "raise",
    relative: str | Relative | None = None,
) -> Recording:
    """Opens files that must agree in dimensions and, unless `hz` is given, in control rate.

    The options are those of the command line: several keys stand with commas between them. `relative` is what is asked
    for there, or the rule of a tokenizer.
    """
    if hz is not None and not (math.isfinite(hz) and 0 < hz < 1e6):
        raise ValueError(f"--hz must be a positive rate, got {hz}")
    chosen_episodes = None if episodes is None else parse_episodes(episodes)
    datasets: list[Dataset] = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path}: given twice; its episodes would be fitted on and held out at once")
        seen.add(path.resolve())
        datasets.append(
            read(
                path,
                action_key=None if action_key is None else [k.strip() for k in action_key.split(",")],
                state_key=None if state_key is None else [k.strip() for k in state_key.split(",")],
                state=state_key is not None or relative is not None,
                episodes=chosen_episodes,
                on_broken=on_broken,
                hz=hz,
            )
        )
        report("open", len(datasets), len(paths))
    first = datasets[0]
    for other in datasets[1:]:
        for what, a, b in (
            ("dimensions", first.action_dim, other.action_dim),
            ("Hz (give --hz to treat them alike)", first.hz, other.hz),
            ("steps a chunk", first.horizon, other.horizon),
        ):
            if a != b:
                raise ValueError(f"{other.path} has {b} {what}, {first.path} has {a}")
    names, chosen = _common_names(datasets), None
    unnamed = next((d.path for d in datasets if d.dimension_names is None), None)
    if dims is not None:
        chosen = parse_dims(dims, first.action_dim, names, unnamed)
        names = None if names is None else tuple(names[d] for d in chosen)
    trajectories = Trajectories(datasets, dimensions=chosen)
    if isinstance(relative, str):
        columns = range(first.action_dim) if chosen is None else chosen
        relative = _rule(relative, datasets, columns, _Names(names, unnamed))
    return Recording(
        trajectories,
        first.action_dim if chosen is None else len(chosen),
        hz or first.hz,
        names,
        first.horizon,
        tuple(error for dataset in datasets for error in dataset.left_out),
        relative,
    )


def _common_names(datasets: Sequence[Dataset], *, of_state: bool = False) -> tuple[str, ...] | None:
    """The names of those that have any, of the actions or the state. Raises ValueError where two differ."""
    of = [(d.path, d.state_names if of_state else d.dimension_names) for d in datasets]
    named = [(path, names) for path, names in of if names is not None]
    what = "state columns" if of_state else "dimensions"
    for path, names in named[1:]:
        if names != named[0][1]:
            raise ValueError(f"{path} has the {what} {list(names)}, {named[0][0]} has {list(named[0][1])}")
    return named[0][1] if named else None


@dataclass(frozen=True, slots=True)
class _Names:
    """The names that files agree on, and the first file that has none: then they are not known to hold for all."""

    some: tuple[str, ...] | None
    unnamed: Path | None

    @property
    def of_all(self) -> tuple[str, ...] | None:
        return self.some if self.unnamed is None else None


def _rule(text: str, datasets: Sequence[Dataset], columns: Sequence[int], names: _Names) -> Relative:
    """The rule of --relative for actions that were these columns of the data.

    By name where all files name both sides; by the data's own indices where none names either and both are equally
    wide. Anything else could pair what does not belong together, and has to be said.
    """
    for dataset in datasets:
        if dataset.state_dim is None:
            raise ValueError(f"{dataset.path}: has no state, which --relative needs; name it with --state-key")
        if dataset.state_dim != datasets[0].state_dim:
            raise ValueError(
                f"{dataset.path} has {dataset.state_dim} state columns, {datasets[0].path} has {datasets[0].state_dim}"
            )
    width = datasets[0].state_dim
    assert width is not None
    state = _Names(
        _common_names(datasets, of_state=True), next((d.path for d in datasets if d.state_names is None), None)
    )
    column_of: dict[int, int] = {}
    for part in text.split(","):
        dim_text, equals, column_text = (p.strip() for p in part.partition("="))
        dims = parse_dims(dim_text, len(columns), names.some, names.unnamed, option="--relative")
        if equals:
            option = "--relative, of the state"
            given = parse_dims(column_text, width, state.some, state.unnamed, option=option)
            if len(given) != len(dims):
                raise ValueError(f"--relative: {part!r} has {len(dims)} dimensions, but {len(given)} columns")
        for i, d in enumerate(dims):
            if d in column_of:
                raise ValueError(f"--relative: {text!r} names a dimension twice")
            column_of[d] = given[i] if equals else _column(d, columns[d], datasets[0].action_dim, width, names, state)
    dimensions = tuple(sorted(column_of))
    state_columns = tuple(column_of[d] for d in dimensions)
    names_of = None if state.of_all is None else tuple(state.of_all[c] for c in state_columns)
    return Relative(dimensions, state_columns, width, names_of)


def _column(d: int, column: int, action_dim: int, width: int, names: _Names, state: _Names) -> int:
    """The column of the state for dimension d, which was this column of the data, where --relative names none."""
    if names.of_all and state.of_all:
        if state.of_all.count(names.of_all[d]) != 1:
            raise ValueError(
                f"--relative: not one column of the state is called {names.of_all[d]!r}, of {list(state.of_all)}; say "
                f"which, as in {names.of_all[d]}={state.of_all[0]}"
            )
        return state.of_all.index(names.of_all[d])
    if names.some or state.some:
        what, of = ("state", state) if state.unnamed else ("dimensions", names)
        raise ValueError(f"--relative: {of.unnamed} does not name its {what}; say which column, as in {d}=0")
    if action_dim != width:
        raise ValueError(
            f"--relative: the data has {action_dim} dimensions and {width} state columns, none with a name; say which "
            f"column, as in {d}=0"
        )
    return column


def parse_dims(
    text: str, action_dim: int, names: Sequence[str] | None = None, unnamed: Path | None = None, option: str = "--dims"
) -> list[int]:
    """Dimension indices from e.g. "0:6,gripper": ranges exclude their end, as slices do; a name may stand once only.

    There are no ranges of names: whether "x:z" has z would have to be remembered. Names are refused where there is a
    file, `unnamed`, of which it is not known that it has the same dimensions in the same places.
    """
    chosen: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        if names is not None and part in names and not part.isdigit():
            if unnamed is not None:
                raise ValueError(f"{option}: {unnamed} does not name its dimensions; give the index of {part!r}")
            if names.count(part) > 1:
                raise ValueError(f"{option}: {names.count(part)} dimensions are called {part!r}; give their indices")
            chosen.append(names.index(part))
            continue
        bounds = _range(part)
        if bounds is None:
            known = f", or names of {list(names)}" if names else "; the data has no names"
            raise ValueError(f"{option}: expected indices and ranges such as 0:6,7{known}; got {text!r}")
        start, end = bounds
        if not start < end <= action_dim:
            raise ValueError(f"{option}: {part} does not lie in the data's dimensions 0..{action_dim - 1}")
        chosen += range(start, end)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"{option}: {text!r} names a dimension twice")
    return chosen


def parse_episodes(text: str) -> set[int]:
    """Numbers of episodes from e.g. "0:100,120": ranges exclude their end, as slices do."""
    chosen: set[int] = set()
    for part in text.split(","):
        bounds = _range(part.strip())
        if bounds is None or not bounds[0] < bounds[1]:
            raise ValueError(f"--episodes: expected numbers and ranges such as 0:100,120, got {text!r}")
        if bounds[1] - bounds[0] > 100_000_000:
            raise ValueError(f"--episodes: {part.strip()} is more than any data has")
        chosen.update(range(*bounds))
    return chosen


def _range(text: str) -> tuple[int, int] | None:
    """The bounds of "3" or "3:7"; None of anything else."""
    match = re.fullmatch(r"(\d{1,12})(?::(\d{1,12}))?", text)
    if match is None:
        return None
    start = int(match[1])
    return start, start + 1 if match[2] is None else int(match[2])


def to_cut(recording: Recording, steps: int, stride: int, episode_end: EpisodeEnd = "drop") -> Cut:
    """How the recording is cut; refuses, before any work, what cuts no windows."""
    if stride < 1:
        raise ValueError(f"--stride must be positive, got {stride}")
    if recording.horizon is not None and episode_end != "drop":
        raise ValueError(f"--episode-end {episode_end}: the data holds chunks, not episodes that could be filled")
    return Cut(steps, stride, episode_end, recording.relative, of_chunks=recording.horizon is not None)


def horizon_steps(text: str | None, recording: Recording) -> int:
    """Steps T of a recording's chunks, as `steps_of` has it."""
    return steps_of(text, recording.hz, recording.horizon)


def steps_of(text: str | None, hz: float | None, chunk_steps: int | None) -> int:
    """Steps T from "50" (steps) or "1s" (seconds, by the control rate); by default one second, or the chunks' own T."""
    if text is None:
        if chunk_steps is not None:
            return chunk_steps
        if hz is None:
            raise ValueError("the data does not say its control rate: give --horizon in steps, or --hz")
        text = "1s"
    match = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d+)?)s", text.strip())
    if match is None:
        raise ValueError(f"--horizon: expected steps such as 50, or seconds such as 1s, got {text!r}")
    if match[1] is not None:
        steps = int(match[1])
    elif hz is None:
        raise ValueError(f"--horizon {text}: the data does not say its control rate: give --hz")
    else:
        steps = round(float(match[2]) * hz)
    if steps < 1:
        raise ValueError(f"--horizon {text}: is less than one step")
    if chunk_steps is not None and steps > chunk_steps:
        raise ValueError(f"--horizon {text}: the data holds chunks of {chunk_steps} steps")
    return steps


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """One number, or several: "0.01" or "0.01,0.01,1"."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: expected a number, or one per dimension such as 0.01,0.1; got {text!r}") from None


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


#: Chunks that a fit on a cluster measures on, at most: they are read on one machine.
MEASURED_CHUNKS = 200_000


def thinned(trajectories: Trajectories, cut: Cut, most: int) -> Trajectories:
    """Every second, third, ... trajectory, so that there are at most so many chunks, or one trajectory."""
    counts = cut.count(trajectories.lengths)
    every = 1
    while counts[::every].sum() > most and every < len(counts):
        every += 1
    chosen = np.zeros(len(counts), np.bool_)
    chosen[::every] = True
    return trajectories.select(chosen)


def encode_here(
    tokenizer: FastTokenizer, trajectories: Trajectories, cut: Cut, report: Report, threads: int | None
) -> tuple[TokenBatch, NDArray[np.floating] | None]:
    """The tokens of all chunks, and the states at their starts where actions are relative."""
    total = int(cut.count(trajectories.lengths).sum())
    batches, states, done = [], [], 0
    for part in cut.gathered(trajectories):
        batches.append(tokenizer.encode(part.chunks, num_threads=threads, state=part.state))
        if part.state is not None:
            states.append(part.state)
        done += len(part.chunks)
        report("encode", done, total)
    return TokenBatch.concatenate(batches), np.concatenate(states) if states else None


def use_engine(engine: str, address: str | None, threads: int | None) -> None:
    """Connects to the cluster, before any work, where there is one to be."""
    if engine == "ray":
        if threads is not None:
            raise ValueError("--threads goes with --engine threads: a cluster's tasks and shards go by its CPUs")
        from fast_tokenizer.distributed import connect

        connect(address)
    elif address is not None:
        raise ValueError("--address goes with --engine ray")


def take_statistics(trajectories: Trajectories, cut: Cut, statistics: NormalizerStatistics, report: Report) -> None:
    """Of every step once, however many chunks it is in.

    Of relative actions, which differ from chunk to chunk, of every step of every chunk.
    """
    noted = _noted(trajectories, "statistics", report)
    if cut.relative is None:
        for trajectory in noted:
            statistics.update(trajectory.actions)
    else:
        for chunks in cut.model_chunks(noted):
            statistics.update(chunks)


def sample_chunks(
    trajectories: Trajectories,
    cut: Cut,
    max_chunks: int,
    seed: int,
    statistics: NormalizerStatistics | None,
    report: Report,
) -> ChunkSample:
    """A uniform sample of the chunks. Takes the statistics of all trajectories on the way."""

    def counted() -> Iterator[Trajectory]:
        for trajectory in _noted(trajectories, "sample", report):
            if statistics is not None and cut.relative is None:
                statistics.update(trajectory.actions)
            yield trajectory

    sample = ChunkSample(max_chunks, seed)
    for block in chunk_blocks(cut.model_chunks(counted())):
        if statistics is not None and cut.relative is not None:
            statistics.update(block.rows)
        sample.add(block)
    return sample


def _noted(trajectories: Trajectories, stage: str, report: Report) -> Iterator[Trajectory]:
    for done, trajectory in enumerate(trajectories, 1):
        report(stage, done, len(trajectories))
        yield trajectory


def iterate_windows(trajectories: Iterable[Trajectory], horizon: int, stride: int) -> Iterator[NDArray[np.floating]]:
    """Chunks (N_i, T, D) of one trajectory after the other; shorter ones have none, long ones come in parts."""
    return Cut(horizon, stride).model_chunks(trajectories)


def peak_memory_mib() -> float | None:
    """Largest resident size of this process so far, where the system tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
