"""Readers: one file a format. Each turns a file or folder into a `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.chunk import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One source, of which only the outline has been read.

    Attributes:
        path: Where the trajectories come from.
        lengths: (E,) int64: steps of each trajectory.
        action_dim: Dimensions D.
        load: Reads the trajectories' actions, (L, D) in order; keeps nothing between calls. Raises ValueError for a
            value that is not finite, and for a source that cannot be read or has changed.
        hz: Control rate, or None when not recorded.
        dimension_names: D names, or None.
        horizon: Set when the source holds chunks already: each trajectory is one chunk of that many steps.
    """

    path: Path
    lengths: NDArray[np.int64]
    action_dim: int
    load: Callable[[], Iterator[NDArray[np.floating]]]
    hz: float | None = None
    dimension_names: tuple[str, ...] | None = None
    horizon: int | None = None

    @property
    def trajectories(self) -> Trajectories:
        """All trajectories."""
        return Trajectories([self])


class Trajectories:
    """Trajectories of several datasets, read anew at every iteration: one file is in memory at a time.

    Example:
        >>> episodes = [np.zeros((5, 2)), np.ones((3, 2))]
        >>> dataset = Dataset(Path("two"), np.array([5, 3]), 2, lambda: iter(episodes))
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
        """Those that are chosen, (E,) of all datasets, cut to some dimensions; None: all."""
        self._datasets = datasets
        self._all_lengths = np.concatenate([d.lengths for d in datasets])
        self._chosen = np.ones(len(self._all_lengths), np.bool_) if chosen is None else chosen
        self._dimensions = None if dimensions is None else list(dimensions)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) int64: steps of each trajectory, known without reading them."""
        return self._all_lengths[self._chosen]

    def select(self, chosen: NDArray[np.bool_]) -> Trajectories:
        """Some of these, (E,) bool."""
        among_all = self._chosen.copy()
        among_all[self._chosen] = chosen
        return Trajectories(self._datasets, among_all, self._dimensions)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._chosen))

    def __iter__(self) -> Iterator[Trajectory]:
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
        kind = "episode" if dataset.horizon is None else "chunk"
        for i, actions in enumerate(dataset.load()):
            if chosen[i]:
                kept = actions if dimensions is None else actions[:, dimensions]
                yield Trajectory(kept, f"{dataset.path} {kind} {i}", dataset.hz, names)


def read(path: Path) -> Dataset:
    """Opens a dataset, by its suffix, and reads its outline.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown suffix, or a file that does not hold what it should; names the file and the field. (That
            values are finite is checked when trajectories are read.)
    """
    from fast_tokenizer.io import npz

    readers = {".npz": npz.read_npz, ".npy": npz.read_npy}
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a file ending in {' or '.join(readers)}")
    return readers[path.suffix](path)
