"""HDF5 as robomimic, LIBERO and ALOHA write it: one file, or a folder of them.

- robomimic, LIBERO: many episodes a file, `data/demo_*/actions`; state by its key within a demonstration, such as
  `obs/robot0_eef_pos` or `obs/ee_states`. Control rate and task text where the file's attributes have them.
- ALOHA: one episode a file, `action` and `observations/qpos`.

A file may say that values stand in other files. Links and virtual datasets may lead to HDF5 files in the same folder; a
dataset from somewhere else must not be able to name any other file of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps
from fast_tokenizer.io.source import (
    Outline,
    Source,
    failed_file,
    joined,
    last_number,
    missing,
    most_common,
    natural,
    of_files,
    require,
)


def files_in(folder: Path) -> list[Path]:
    """The HDF5 files of a folder, by the numbers in their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in (".hdf5", ".h5")), key=lambda p: natural(p.name))


def read_hdf5(source: Source) -> Dataset:
    """Opens a file, or all of a folder.

    Raises:
        ValueError: No file has one of the layouts, or they are of different control rates.
    """
    h5py = require("h5py", "hdf5", source.path)
    files = files_in(source.path) if source.path.is_dir() else [source.path]
    contents: list[_Contents | BrokenDataError] = []
    for file in files:
        try:
            with _opened(h5py, file) as root:
                contents.append(_contents(root, source))
        except BrokenDataError as error:
            contents.append(error.bare())
    readable = [c for c in contents if isinstance(c, _Contents)]
    layout = _layout(readable, source)
    if readable and not (layout.action_dim and (layout.state_dim or not layout.state_keys)):
        _refuse(h5py, files[contents.index(readable[0])], readable[0], layout)
    outlines: list[Outline] = []
    before = 0
    for file, content in zip(files, contents, strict=True):
        if isinstance(content, BrokenDataError):
            number = None if layout.many else last_number(file.stem)
            outlines.append(failed_file(file, before if number is None else number, content))
        else:
            outlines.append(layout.outline(file, content, len(files), before))
        before += len(outlines[-1].episodes)
    pairs = zip(outlines, contents, strict=True)
    rates = {c.hz for o, c in pairs if isinstance(c, _Contents) and c.many == layout.many and source.wants(o.episodes)}
    if source.hz is None and len(rates) > 1:
        raise ValueError(
            f"{source.path}: has files of different control rates: {sorted(rates, key=str)}: give hz (--hz) to treat "
            "them alike"
        )
    demos = {file: c.demos for file, c in zip(files, contents, strict=True) if isinstance(c, _Contents)}

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        with _opened(h5py, outline.file) as root:
            for i in wanted:
                yield layout.steps(root, outline.file, demos[outline.file][i].name)

    hz = rates.pop() if len(rates) == 1 else None
    return of_files(source, outlines, load_file, layout.action_dim, hz=hz, state_dim=layout.state_dim or None)


@dataclass(frozen=True, slots=True)
class _Demo:
    """A demonstration's name in its file, and the shapes of its arrays that may be read; None: cannot be opened."""

    name: str
    shapes: Mapping[str, tuple[int, ...]] | None


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a file.

    Attributes:
        many: Whether it is laid out for many demonstrations: robomimic, LIBERO.
    """

    many: bool
    demos: tuple[_Demo, ...]
    tasks: tuple[str, ...] = ()
    hz: float | None = None


def _contents(root: Any, source: Source) -> _Contents:
    keys = {*source.action_keys, *source.state_keys, "actions", "action", "observations/qpos"}
    if not ("data" in root and hasattr(root["data"], "keys")):
        return _Contents(False, (_Demo("", _shapes(root, keys)),))
    demos = []
    for name in sorted(root["data"], key=natural):
        try:
            demo = root["data"][name]
        except (KeyError, OSError, RuntimeError):  # a link to nowhere
            demos.append(_Demo(name, None))
        else:
            if hasattr(demo, "keys"):
                demos.append(_Demo(name, _shapes(demo, keys)))
    return _Contents(True, tuple(demos), *_facts(root["data"].attrs))


def _shapes(group: Any, keys: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Those of the arrays (L, D) or (L,) that there are."""
    shapes = {k: getattr(group[k], "shape", None) or () for k in keys if k in group}  # None: h5py.Empty
    return {k: shape if len(shape) == 2 else (*shape, 1) for k, shape in shapes.items() if len(shape) in (1, 2)}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the arrays of an episode are, and how wide, by what most files have."""

    many: bool
    action_keys: tuple[str, ...]
    state_keys: tuple[str, ...]
    action_dim: int
    state_dim: int

    def outline(self, file: Path, contents: _Contents, files: int, before: int) -> Outline:
        """The episodes of a file."""
        if not contents.demos:
            message = f"{file}: its group 'data' holds no demonstrations"
            return failed_file(file, before, BrokenDataError("other length", message))
        episodes, lengths = [], []
        for i, demo in enumerate(contents.demos):
            problem = self._problem(file, contents, demo)
            number = last_number(demo.name or file.stem) if files == 1 or not self.many else None
            shown = f"{file.name} {demo.name}" if files > 1 and contents.many else demo.name or file.name
            number = before + i if number is None else number
            episodes.append(EpisodeInfo(number, shown, contents.tasks, problem))
            lengths.append(0 if problem or demo.shapes is None else demo.shapes[self.action_keys[0]][0])
        return Outline(file, tuple(episodes), tuple(lengths))

    def _problem(self, file: Path, contents: _Contents, demo: _Demo) -> BrokenDataError | None:
        if contents.many != self.many:
            return BrokenDataError("missing column", f"{file}: is not laid out as the other files are")
        if demo.shapes is None:
            return BrokenDataError("unreadable file", f"{file}: {demo.name} cannot be opened; is it a link to nowhere?")
        where = f"{file}: {demo.name}" if demo.name else str(file)
        lacking = next((k for k in (*self.action_keys, *self.state_keys) if k not in demo.shapes), None)
        if lacking is not None:
            return BrokenDataError("missing column", f"{where} has no array {lacking!r} (L, D)")
        if demo.shapes[self.action_keys[0]][0] == 0:
            return BrokenDataError("other length", f"{where} has no steps")
        return None

    def steps(self, root: Any, file: Path, name: str) -> Steps | BrokenDataError:
        """An episode's arrays."""
        where = f"{file} {name}".rstrip()
        try:
            group = root["data"][name] if self.many else root
            actions, state = (
                joined([_values(group[k], file) for k in keys]) if keys else None
                for keys in (self.action_keys, self.state_keys)
            )
            assert actions is not None
            return Steps(actions, state)
        except BrokenDataError as error:
            return BrokenDataError(error.reason, f"{where}: {error}")
        except (OSError, KeyError, RuntimeError, TypeError) as error:  # TypeError: a type that NumPy lacks
            return BrokenDataError("unreadable file", f"{where}: cannot be read: {error}")


def _values(array: Any, file: Path) -> Any:
    """The values of an array. Raises BrokenDataError where they stand in a file that is not beside this one."""
    if elsewhere := next(_elsewhere(array, file.resolve().parent, set()), None):
        raise BrokenDataError(
            "unreadable file", f"its values shall stand in {elsewhere!r}, which is no HDF5 file beside this one"
        )
    return array[()]


def _elsewhere(array: Any, folder: Path, seen: set[tuple[Path, str]]) -> Iterator[str]:
    """Names of files outside the folder that an array, or one that it is put together from, has its values in."""
    yield from (name for name, *_ in array.external or ())  # raw bytes of any file at all, so of none
    here = Path(array.file.filename)  # where a link has led
    if not here.resolve().is_relative_to(folder):
        yield str(here)
    if not array.is_virtual:
        return
    for source in array.virtual_sources():
        path = here if source.file_name == "." else folder / source.file_name
        if not (path.is_file() and path.resolve().is_relative_to(folder)):
            yield source.file_name
        elif (part := (path.resolve(), source.dset_name)) not in seen:
            seen.add(part)
            with type(array.file)(path, "r") as opened:
                if source.dset_name in opened:
                    yield from _elsewhere(opened[source.dset_name], folder, seen)


def _layout(contents: Sequence[_Contents], source: Source) -> _Layout:
    many = bool(most_common(c.many for c in contents))
    shapes = [d.shapes for c in contents if c.many == many for d in c.demos if d.shapes is not None]

    def width(keys: Sequence[str]) -> int:
        return most_common(sum(s[k][1] for k in keys) for s in shapes if all(k in s for k in keys)) or 0

    action_keys = source.action_keys or (("actions",) if many else ("action",))
    qpos = not many and most_common("observations/qpos" in s for s in shapes)
    state_keys = (source.state_keys or (("observations/qpos",) if qpos else ())) if source.state else ()
    return _Layout(many, action_keys, state_keys, width(action_keys), width(state_keys))


def _refuse(h5py: Any, file: Path, contents: _Contents, layout: _Layout) -> NoReturn:
    """Says what there is, where no demonstration has the arrays."""
    demo = next((d for d in contents.demos if d.shapes is not None), None)
    if demo is None:
        raise ValueError(f"{file}: its group 'data' holds no demonstrations")
    keys = (*layout.action_keys, *layout.state_keys)
    key = next((k for k in keys if k not in (demo.shapes or ())), keys[0])
    inside = f"data/{demo.name}" if contents.many else "the file"
    with _opened(h5py, file) as root:
        there = _arrays(root["data"][demo.name] if contents.many else root)
    raise ValueError(f"{file}: expected an array {key!r} (L, D) in {inside}; there are {there}")


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
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
