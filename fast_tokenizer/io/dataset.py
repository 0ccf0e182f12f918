"""What readers give: a `Dataset`, of which the outline is read, and the `Trajectories` of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._plain_text import plain_text
from fast_tokenizer.chunk import Trajectory

#: Why an episode is not read.
Reason: TypeAlias = Literal[
    "missing file",
    "Git LFS pointer",
    "unreadable file",
    "missing column",
    "other length",
    "other dimensions",
    "not finite",
    "gap in time",
    "other control rate",
    "frame numbers",
    "not listed",
    "not chosen",
]

#: What costs a file, whatever it is. The fuzz targets look behind this net.
UNFORESEEN: tuple[type[Exception], ...] = (Exception,)
#: Values whose being finite is checked at a time.
_CHECKED_VALUES = 1 << 20


class BrokenDataError(ValueError):
    """Data that cannot be used.

    Attributes:
        reason: Why, in one of few words that can be counted.
        episodes: How many episodes it costs; 1 where a damaged file does not say.
    """

    def __init__(self, reason: Reason, message: str, episodes: int = 1) -> None:
        super().__init__(plain_text(message))  # names in files may be hostile
        self.reason: Reason = reason
        self.episodes = episodes

    def __reduce__(self) -> tuple[type[BrokenDataError], tuple[Reason, str, int]]:
        return type(self), (self.reason, str(self), self.episodes)

    def bare(self) -> BrokenDataError:
        """The same to keep: without the traceback, whose frames hold what was being read."""
        return BrokenDataError(self.reason, str(self), self.episodes)


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turns whatever is raised while a file is read into one error that names it.

    Readers refuse what they know to be wrong. Behind them stand other people's parsers, and no file may end a run that
    leaves out what is broken, or end in an error that does not say which file it was.
    """
    try:
        yield
    except (BrokenDataError, ImportError):
        raise
    except UNFORESEEN as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        message = f"{path}: cannot be read: {type(error).__name__}: {error}"
        raise BrokenDataError("unreadable file", message) from error


def as_many(path: Path, steps: Iterable[Steps | BrokenDataError], wanted: int) -> Iterator[Steps | BrokenDataError]:
    """What is read of a file: as many episodes as are wanted, whatever happens."""
    given = 0
    try:
        with blamed_on(path):
            for one in steps:
                yield one
                given += 1
    except BrokenDataError as error:
        yield error
        for _ in range(wanted - given - 1):
            yield error.bare()


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What is read of an episode. Whoever gives it has not checked the values.

    Attributes:
        actions: (L, D).
        state: (L, S), or None.
        frame_index: (L,) integers that rise by one where no frame was lost, or None.
        timestamps: (L,) seconds, or None.
        tasks: What was to be done, where only the steps say it.
        index: (L,) the frames' numbers in the whole dataset, where they were asked for.
    """

    actions: NDArray[np.floating]
    state: NDArray[np.floating] | None = None
    frame_index: NDArray[Any] | None = None
    timestamps: NDArray[Any] | None = None
    tasks: tuple[str, ...] = ()
    index: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class EpisodeInfo:
    """What the outline says of an episode besides its length.

    Attributes:
        index: Its number in the source.
        name: For messages, such as "demo_3".
        tasks: What was to be done, in words.
        problem: Why it cannot be read, where the outline shows it; its length is then not known, and 0.
    """

    index: int
    name: str
    tasks: tuple[str, ...] = ()
    problem: BrokenDataError | None = None


#: Reads the episodes of a mask (E,), in order.
Load: TypeAlias = Callable[[NDArray[np.bool_]], Iterator["Steps | BrokenDataError"]]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One source, of which only the outline has been read.

    Attributes:
        path: Where the trajectories come from.
        lengths: (E,) int64: steps of each trajectory.
        action_dim: Dimensions D.
        load: Reads trajectories; keeps nothing between calls. An episode that cannot be read comes as the error that
            says why, in its place.
        hz: Control rate, or None when not recorded.
        dimension_names: D names, or None; without control characters, as they go into artefacts and terminals.
        horizon: Set when the source holds chunks already: each trajectory is one chunk of that many steps.
        state_dim: Dimensions S; None: no state is read.
        state_names: S names, or None; as those.
        episodes: E infos; None: they are numbered.
        left_out: What is not among the E episodes, and why.
        hz_is_given: Whether `hz` is the caller's word, to which recorded times need not agree.
    """

    path: Path
    lengths: NDArray[np.int64]
    action_dim: int
    load: Load
    hz: float | None = None
    dimension_names: tuple[str, ...] | None = None
    horizon: int | None = None
    state_dim: int | None = None
    state_names: tuple[str, ...] | None = None
    episodes: tuple[EpisodeInfo, ...] | None = None
    left_out: tuple[BrokenDataError, ...] = ()
    hz_is_given: bool = False

    def __post_init__(self) -> None:
        for field in ("dimension_names", "state_names"):
            object.__setattr__(self, field, plain_names(getattr(self, field)))

    @property
    def trajectories(self) -> Trajectories:
        """All trajectories."""
        return Trajectories([self])

    def episode(self, i: int) -> EpisodeInfo:
        """The info of the i-th of the E episodes."""
        if self.episodes is not None:
            return self.episodes[i]
        return EpisodeInfo(i, f"{'episode' if self.horizon is None else 'chunk'} {i}")

    def select(self, chosen: NDArray[np.bool_], left_out: Iterable[BrokenDataError]) -> Dataset:
        """Some of the episodes, (E,) bool, and the reasons why the others are not among them."""
        kept = np.flatnonzero(chosen)

        def load(mask: NDArray[np.bool_]) -> Iterator[Steps | BrokenDataError]:
            among_all = np.zeros(len(chosen), np.bool_)
            among_all[kept[mask]] = True
            return self.load(among_all)

        return replace(
            self,
            lengths=self.lengths[chosen],
            load=load,
            episodes=tuple(self.episode(int(i)) for i in kept),
            left_out=(*self.left_out, *left_out),
        )

    def checked(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, Steps | BrokenDataError]]:
        """Reads the episodes of the mask; those whose values cannot be used come as the error that says why."""
        numbers = np.flatnonzero(chosen)
        for i, steps in zip(numbers, as_many(self.path, self.load(chosen), len(numbers)), strict=True):
            if isinstance(steps, BrokenDataError):
                yield int(i), steps
            else:
                yield int(i), self._problem(int(i), steps) or steps

    def _problem(self, i: int, steps: Steps) -> BrokenDataError | None:
        where = f"{self.path} {self.episode(i).name}"
        length = int(self.lengths[i])
        for name, values, letter, dim in (
            ("actions", steps.actions, "D", self.action_dim),
            ("state", steps.state, "S", self.state_dim),
        ):
            if values is None:
                continue
            if values.shape[1:] != (dim,):
                message = f"{where}: has {name} of shape {values.shape}, expected {letter}={dim}"
                return BrokenDataError("other dimensions", message)
            if len(values) != length:
                return BrokenDataError("other length", f"{where}: has {len(values)} {name}, expected {length}")
            if at := first_not_finite(values):
                place = f"{name}[{', '.join(map(str, at))}]"
                return BrokenDataError("not finite", f"{where}: {place} is {values[at]}; {name} must be finite")
        return _lost_frame(where, steps) or _wrong_times(where, steps, self.hz, given=self.hz_is_given)


class Trajectories:
    """Trajectories of several datasets, read anew at every iteration: one file is in memory at a time.

    Example:
        >>> dataset = of_arrays("two", [np.zeros((5, 2)), np.ones((3, 2))])
        >>> chosen = dataset.trajectories.select(np.array([False, True]))
        >>> chosen.lengths, [t.name for t in chosen]
        (array([3]), ['two episode 1'])
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        chosen: NDArray[np.bool_] | None = None,
        dimensions: Sequence[int] | None = None,
    ) -> None:
        """Those that are chosen, (E,) of all datasets, their actions cut to some dimensions; None: all."""
        self._datasets = datasets
        self._all_lengths = np.concatenate([d.lengths for d in datasets])
        self._chosen = np.ones(len(self._all_lengths), np.bool_) if chosen is None else chosen
        self._dimensions = None if dimensions is None else list(dimensions)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) int64: steps of each trajectory, known without reading them."""
        return self._all_lengths[self._chosen]

    @property
    def action_dim(self) -> int:
        """Dimensions D, of those that are kept."""
        return self._datasets[0].action_dim if self._dimensions is None else len(self._dimensions)

    def select(self, chosen: NDArray[np.bool_]) -> Trajectories:
        """Some of these, (E,) bool."""
        among_all = self._chosen.copy()
        among_all[self._chosen] = chosen
        return Trajectories(self._datasets, among_all, self._dimensions)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._chosen))

    def __iter__(self) -> Iterator[Trajectory]:
        """Reads them. Raises BrokenDataError for the first that cannot be used."""
        first = 0
        for dataset in self._datasets:
            chosen = self._chosen[first : first + len(dataset.lengths)]
            first += len(dataset.lengths)
            if chosen.any():
                yield from self._of(dataset, chosen)

    def _of(self, dataset: Dataset, chosen: NDArray[np.bool_]) -> Iterator[Trajectory]:
        names, dimensions = dataset.dimension_names, self._dimensions
        if names is not None and dimensions is not None:
            names = tuple(names[d] for d in dimensions)
        for i, steps in dataset.checked(chosen):
            if isinstance(steps, BrokenDataError):
                raise steps
            info = dataset.episode(i)
            yield Trajectory(
                steps.actions if dimensions is None else steps.actions[:, dimensions],
                f"{dataset.path} {info.name}",
                dataset.hz,
                names,
                state=steps.state,
                state_names=None if steps.state is None else dataset.state_names,
                episode=info.index,
                tasks=info.tasks or steps.tasks,
            )


def of_arrays(
    name: str,
    actions: Sequence[NDArray[np.floating]],
    hz: float | None = None,
    dimension_names: tuple[str, ...] | None = None,
) -> Dataset:
    """A dataset of trajectories (L_i, D) that are in memory."""

    def load(chosen: NDArray[np.bool_]) -> Iterator[Steps]:
        return (Steps(a) for a, is_chosen in zip(actions, chosen, strict=True) if is_chosen)

    lengths = np.array([len(a) for a in actions], np.int64)
    return Dataset(Path(name), lengths, actions[0].shape[1], load, hz, dimension_names)


def plain_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Dimensions' names without control characters."""
    return None if names is None else tuple(map(plain_text, names))


def first_not_finite(values: NDArray[np.floating]) -> tuple[int, ...]:
    """Where the first value that is not finite stands; () where all are. Looks at a part at a time."""
    step = max(1, _CHECKED_VALUES * len(values) // max(1, values.size))
    for first in range(0, len(values), step):
        finite = np.isfinite(values[first : first + step])
        if not finite.all():
            row, *rest = (int(i) for i in np.argwhere(~finite)[0])
            return (first + row, *rest)
    return ()


def _lost_frame(where: str, steps: Steps) -> BrokenDataError | None:
    """A frame that was lost, by the frames' numbers."""
    if steps.frame_index is None:
        return None
    by_one = np.diff(steps.frame_index) == 1
    if by_one.all():
        return None
    i = int(np.argmin(by_one))
    a, b = steps.frame_index[i : i + 2]
    return BrokenDataError("gap in time", f"{where}: step {i + 1} is frame {b}, the one before is frame {a}")


def _wrong_times(where: str, steps: Steps, hz: float | None, *, given: bool) -> BrokenDataError | None:
    """Times that leave a gap of half a period or more, or pass at another rate than the one that is recorded.

    Where no rate is recorded, or the caller knows better, gaps are measured by the time that most steps take.
    """
    if steps.timestamps is None or len(steps.timestamps) < 2:
        return None
    times = np.asarray(steps.timestamps, np.float64)
    if at := first_not_finite(times):
        return BrokenDataError("not finite", f"{where}: the time of step {at[0]} is {times[at]}; times must be finite")
    passed = np.diff(times)
    usual = float(np.sort(passed)[(len(passed) - 1) // 2])  # no gap shows in it, if there are as many steps without
    recorded = None if given else hz
    period = usual if recorded is None else 1 / recorded
    fits = (passed > 0) & (passed < 1.5 * period)
    if recorded is not None:
        if fits.all():
            usual = float(passed.mean())
        tolerance = 0.1 + 0.4 / len(passed)  # the first and the last frame may be early or late
        if usual > 0 and abs(usual / period - 1) > tolerance:
            message = (
                f"{where}: a step takes {usual:.4g} s by its times, {period:.4g} s at the {recorded:g} Hz of the "
                f"dataset{_unit_hint(usual / period)}; give hz if the times are wrong"
            )
            return BrokenDataError("other control rate", message)
    if fits.all():
        return None
    i = int(np.argmin(fits))
    expected = f"at {recorded:g} Hz it is" if recorded is not None else "most take"
    message = f"{where}: step {i + 1} comes {passed[i]:.4g} s after the one before; {expected} {period:.4g} s"
    return BrokenDataError("gap in time", message)


def _unit_hint(factor: float) -> str:
    """What may be wrong with times that pass so much too fast."""
    units = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}
    return next((f" (are they {unit}?)" for scale, unit in units.items() if 0.5 < factor / scale < 2), "")
