"""Readers: one file a format. Each turns a file or folder into a `Dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fast_tokenizer.chunk import Trajectory


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Trajectories of one source.

    Attributes:
        path: Where they come from.
        trajectories: All with the same number of dimensions.
        horizon: Set when the source holds chunks already: each trajectory is one chunk of that many steps.
    """

    path: Path
    trajectories: list[Trajectory]
    horizon: int | None = None

    @property
    def action_dim(self) -> int:
        """Dimensions D."""
        return int(self.trajectories[0].actions.shape[1])

    @property
    def hz(self) -> float | None:
        """Control rate, or None when not recorded."""
        return self.trajectories[0].hz


def read(path: Path) -> Dataset:
    """Reads a dataset, by its suffix.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown suffix, or a file that does not hold what it should; names the file and the field.
    """
    from fast_tokenizer.io import npz

    readers = {".npz": npz.read_npz, ".npy": npz.read_npy}
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a file ending in {' or '.join(readers)}")
    return readers[path.suffix](path)
