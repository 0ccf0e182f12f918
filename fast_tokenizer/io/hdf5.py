"""HDF5 as robomimic, LIBERO and ALOHA write it: one file, or a folder of them.

- robomimic, LIBERO: many episodes a file, `data/demo_*/actions`; state by its key within a demonstration, such as
  `obs/robot0_eef_pos` or `obs/ee_states`. Control rate and task text where the file's attributes have them.
- ALOHA: one episode a file, `action` and `observations/qpos`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps
from fast_tokenizer.io.source import Outline, Source, joined, last_number, missing, natural, of_files, require


def files_in(folder: Path) -> list[Path]:
    """The HDF5 files of a folder, by the numbers in their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in (".hdf5", ".h5")), key=lambda p: natural(p.name))


def read_hdf5(source: Source) -> Dataset:
    """Opens a file, or all of a folder.

    Raises:
        BrokenDataError: A file is damaged or a Git LFS pointer, and nothing is skipped.
        ValueError: A file has none of the layouts, or not the same one as the others.
    """
    h5py = require("h5py", "hdf5", source.path)
    files = files_in(source.path) if source.path.is_dir() else [source.path]
    outlines: list[Outline] = []
    layout: _Layout | None = None
    rates = set()
    for file in files:
        try:
            with _opened(h5py, file) as root:
                layout = layout or _Layout(file, root, source)
                outline, hz = layout.outline(file, root, len(files), sum(len(o.episodes) for o in outlines), source)
        except BrokenDataError as error:
            source.broken(error)
            continue
        outlines.append(outline)
        rates.add(hz)
    if layout is None:
        raise ValueError(f"{source.path}: holds no file that can be read: {source.left_out[0]}")
    if len(rates) > 1:
        raise ValueError(f"{source.path}: has files of different control rates: {sorted(rates, key=str)}")

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        with _opened(h5py, outline.file) as root:
            for i in wanted:
                yield layout.steps(root, outline.file, outline.episodes[i].name.rpartition(" ")[2])

    return of_files(source, outlines, load_file, layout.action_dim, hz=rates.pop() if rates else None)


class _Layout:
    """Where the arrays of an episode are, by the first file that can be read."""

    def __init__(self, file: Path, root: Any, source: Source) -> None:
        self.many = "data" in root and hasattr(root["data"], "keys")
        self.action_keys = source.action_keys or (("actions",) if self.many else ("action",))
        usual = () if self.many or "observations/qpos" not in root else ("observations/qpos",)
        self.state_keys = (source.state_keys or usual) if source.state else ()
        names = _demos(root) if self.many else [file.name]
        if not names:
            raise ValueError(f"{file}: its group 'data' holds no demonstrations")
        first = root["data"][names[0]] if self.many else root
        for key in (*self.action_keys, *self.state_keys):
            if not _is_table(first, key):
                inside = f"data/{names[0]}" if self.many else "the file"
                raise ValueError(f"{file}: expected an array {key!r} (L, D) in {inside}; there are {_arrays(first)}")
        self.action_dim = sum(_width(first[key]) for key in self.action_keys)

    def outline(self, file: Path, root: Any, files: int, before: int, source: Source) -> tuple[Outline, float | None]:
        """The episodes of a file, and its control rate."""
        if self.many != ("data" in root and hasattr(root["data"], "keys")):
            raise BrokenDataError("missing column", f"{file}: is not laid out as the other files are")
        tasks, hz = _facts(root["data"].attrs) if self.many else ((), None)
        names = _demos(root) if self.many else [file.name]
        episodes, lengths = [], []
        for i, name in enumerate(names):
            group = root["data"][name] if self.many else root
            lacking = [k for k in (*self.action_keys, *self.state_keys) if not _is_table(group, k)]
            if lacking:
                source.broken(BrokenDataError("missing column", f"{file}: {name} has no array {lacking[0]!r} (L, D)"))
                continue
            number = last_number(Path(name).stem) if files == 1 or not self.many else None
            shown = f"{file.name} {name}" if files > 1 and self.many else name
            episodes.append(EpisodeInfo(before + i if number is None else number, shown, tasks))
            lengths.append(len(group[self.action_keys[0]]))
        return Outline(file, tuple(episodes), tuple(lengths)), hz

    def steps(self, root: Any, file: Path, name: str) -> Steps | BrokenDataError:
        """An episode's arrays."""
        try:
            group = root["data"][name] if self.many else root
            actions = joined([group[k][()] for k in self.action_keys])
            return Steps(actions, joined([group[k][()] for k in self.state_keys]) if self.state_keys else None)
        except BrokenDataError as error:
            return BrokenDataError(error.reason, f"{file} {name}: {error}")
        except (OSError, KeyError, RuntimeError, TypeError) as error:  # TypeError: a type that NumPy lacks
            return BrokenDataError("unreadable file", f"{file} {name}: cannot be read: {error}")


@contextmanager
def _opened(h5py: Any, file: Path) -> Iterator[Any]:
    if problem := missing(file):
        raise problem
    try:
        with h5py.File(file, "r") as root:
            yield root
    except BrokenDataError:
        raise
    except (OSError, KeyError, RuntimeError) as error:
        raise BrokenDataError("unreadable file", f"{file}: not a readable HDF5 file: {error}") from None


def _demos(root: Any) -> list[str]:
    return sorted((n for n in root["data"] if hasattr(root["data"][n], "keys")), key=natural)


def _is_table(group: Any, key: str) -> bool:
    return key in group and len(getattr(group[key], "shape", None) or ()) in (1, 2)  # None: h5py.Empty


def _width(array: Any) -> int:
    return int(array.shape[1]) if len(array.shape) == 2 else 1


def _arrays(group: Any) -> list[str]:
    names: list[str] = []
    group.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return sorted(names)[:20]


def _facts(attributes: Any) -> tuple[tuple[str, ...], float | None]:
    """Task text (LIBERO) and control rate (robomimic) in the JSON that the attributes hold."""
    problem, environment = (_json(attributes.get(name)) for name in ("problem_info", "env_args"))
    text = problem.get("language_instruction")
    words = "".join(map(str, text)) if isinstance(text, list) else text
    settings = environment.get("env_kwargs")
    rate = settings.get("control_freq") if isinstance(settings, dict) else None
    hz = float(rate) if isinstance(rate, int | float) and 0 < rate < np.inf else None
    return (words,) if isinstance(words, str) and words else (), hz


def _json(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
