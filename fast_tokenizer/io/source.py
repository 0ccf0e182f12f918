"""What every reader is given, and the small questions that several of them ask."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps, as_many

_FILES = (".npz", ".npy", ".hdf5", ".h5", ".zarr", ".zip", ".csv", ".tfrecord")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
#: Seconds a step that are taken for another unit.
_SLOWEST_PERIOD = 2.0

_T = TypeVar("_T")


@dataclass(slots=True)
class Source:
    """What is to be read.

    Attributes:
        path: File or folder; it exists.
        action_keys: Where the actions are; empty: in the usual place.
        state_keys: The same of the state.
        state: Whether the state is read, too, where there is one.
        skip: Whether what is broken will be left out; else it will raise.
        hz: The control rate that the caller gives, or None.
        episodes: The numbers of those that will be kept; None: all.
        left_out: What is known of and not among the dataset's episodes. It stops nothing.
    """

    path: Path
    action_keys: tuple[str, ...] = ()
    state_keys: tuple[str, ...] = ()
    state: bool = True
    skip: bool = False
    hz: float | None = None
    episodes: frozenset[int] | None = None
    left_out: list[BrokenDataError] = field(default_factory=list)

    def wants(self, episodes: Iterable[EpisodeInfo]) -> bool:
        """Whether any of them will be kept."""
        return self.episodes is None or any(e.index in self.episodes for e in episodes)


@dataclass(frozen=True, slots=True)
class Outline:
    """One file's episodes, in order; their rows in it where these are listed; whether no other may stand in it."""

    file: Path
    episodes: tuple[EpisodeInfo, ...]
    lengths: tuple[int, ...]
    rows: tuple[range, ...] | None = None
    one_a_file: bool = False

    def failed(self, problem: BrokenDataError) -> Outline:
        """The same of a file that costs all its episodes."""
        bare = BrokenDataError(problem.reason, str(problem))
        return replace(self, episodes=tuple(replace(e, problem=bare) for e in self.episodes))


def failed_file(file: Path, number: int, problem: BrokenDataError) -> Outline:
    """A file of which nothing is known but what is wrong with it: it counts as one episode."""
    return Outline(file, (EpisodeInfo(number, file.name, problem=problem.bare()),), (0,))


#: Reads the episodes at these positions of a file, in order.
LoadFile: TypeAlias = Callable[[Outline, Sequence[int]], Iterator["Steps | BrokenDataError"]]


def of_files(
    source: Source, outlines: Sequence[Outline], load_file: LoadFile, action_dim: int, **facts: Any
) -> Dataset:
    """The dataset of several files, of which one is open at a time and those of which nothing is chosen never are.

    Numbers that two episodes share number neither, unless one is broken; all are then numbered by position.

    Episodes whose problem is known are not asked for. An error while a file is read costs all its episodes that have
    not been given by then.
    """
    counts = [len(o.episodes) for o in outlines]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def load(chosen: NDArray[np.bool_]) -> Iterator[Steps | BrokenDataError]:
        for outline, start, count in zip(outlines, starts[:-1], counts, strict=True):
            infos = {int(i): outline.episodes[i] for i in np.flatnonzero(chosen[start : start + count])}
            wanted = [i for i, info in infos.items() if info.problem is None]
            steps = as_many(outline.file, load_file(outline, wanted) if wanted else (), len(wanted))
            for info in infos.values():
                yield next(steps) if info.problem is None else info.problem.bare()

    episodes = [e for o in outlines for e in o.episodes]
    numbers = [e.index for e in episodes if e.problem is None]
    if len(set(numbers)) < len(numbers):
        episodes = [replace(e, index=i) for i, e in enumerate(episodes)]
    return Dataset(
        source.path,
        np.array([n for o in outlines for n in o.lengths], np.int64),
        action_dim,
        load,
        episodes=tuple(episodes),
        **facts,
    )


def most_common(values: Iterable[_T]) -> _T | None:
    """What most have, so that no first one decides for all; of several the first. None where there is nothing."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def common_rate(source: Source, periods: Sequence[float]) -> float | None:
    """The control rate of most episodes, by the seconds that a step takes in each.

    Raises:
        ValueError: No robot is that slow: the times are no seconds. Not where the caller gives the rate.
    """
    if source.hz is not None or not periods:
        return source.hz
    period = sorted(periods)[(len(periods) - 1) // 2]
    if period > _SLOWEST_PERIOD:
        raise ValueError(
            f"{source.path}: a step takes {period:g} by its times; they are expected in seconds (are they "
            "milliseconds?): convert them, or give hz (--hz)"
        )
    return float(f"{1 / period:.4g}")


def require(package: str, extra: str, path: Path) -> Any:
    """An optional package. Raises ImportError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.split(".")[0]
        raise ImportError(f"{path}: needs the package {name}: pip install 'fast-tokenizer[{extra}]'") from None


def leaves_folder(relative: str) -> bool:
    """Whether a path from a file leads out of the folder that it should be in, on whichever system it is read."""
    return any(kind(relative).anchor or ".." in kind(relative).parts for kind in (PurePosixPath, PureWindowsPath))


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves in the place of a large one that was not fetched."""
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def missing(path: Path) -> BrokenDataError | None:
    """What is wrong with a file that should be there; None where it can be opened."""
    try:
        if not path.is_file():
            return BrokenDataError("missing file", f"{path}: no such file")
    except OSError as error:  # a name that is too long
        return BrokenDataError("missing file", f"{path}: cannot be looked for: {error.strerror}")
    if is_lfs_pointer(path):
        return BrokenDataError("Git LFS pointer", f"{path}: is a Git LFS pointer, not the file: run git lfs pull")
    return None


def natural(path: Path | str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them, of however many digits: demo_2 before demo_10."""
    parts = [(p.lstrip("0"), p.isdecimal()) for p in re.split(r"(\d+)", str(path))]
    return [(len(p), p) if is_number else (-1, p) for p, is_number in parts]


def last_number(name: str) -> int | None:
    """The last number in a name; of a name that is a whole number ("-1", "2.0"), that number.

    None where it has none, or one that no episode has.
    """
    if re.fullmatch(r"-?\d{1,15}(\.0*)?", name.strip()):
        return int(float(name))
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found and len(found[-1]) <= 18 else None


def floats(values: NDArray[Any]) -> NDArray[np.floating]:
    """Numbers as float32, or float64 where those would not hold them; (L,) become (L, 1).

    Raises:
        BrokenDataError: What is no array of numbers of rank 1 or 2.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
        raise BrokenDataError(
            "other dimensions", f"expected numbers of shape (L, D), got {array.dtype} of shape {array.shape}"
        )
    if array.ndim == 1:
        array = array[:, None]
    if array.shape[1] == 0:
        raise BrokenDataError("other dimensions", f"expected numbers of shape (L, D), got shape {array.shape}")
    if array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)


def joined(parts: Iterable[NDArray[Any]]) -> NDArray[np.floating]:
    """Several (L, D_i) side by side. Raises BrokenDataError where their lengths differ, or as `floats` does."""
    arrays = [floats(p) for p in parts]
    if len({len(a) for a in arrays}) > 1:
        raise BrokenDataError("other length", f"what is to be joined has {[len(a) for a in arrays]} steps")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def fetch(path: str | Path) -> Path:
    """The local path: that of a file or folder, or, of a hub id, that of its copy in the hub's cache.

    Raises:
        FileNotFoundError: There is neither.
        ImportError: It may be a hub id, but `huggingface_hub` is not installed.
    """
    local = Path(path)
    if local.exists():
        return local
    # Only "owner/name", as it is typed; a name of its own would not be told from a misspelt file.
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) or local.suffix in _FILES:
        raise FileNotFoundError(f"{path}: no such file")
    from fast_tokenizer.io import lerobot

    return lerobot.download(str(path))
