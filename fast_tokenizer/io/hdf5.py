"""HDF5 as robomimic, LIBERO and ALOHA write it: one file, or a folder of them.

- robomimic, LIBERO: many episodes a file, `data/demo_*/actions`; state by its key within a demonstration, such as
  `obs/robot0_eef_pos` or `obs/ee_states`. Control rate and task text where the file's attributes have them.
- ALOHA: one episode a file, `action` and `observations/qpos`.

A file may say that values stand in other files. Links and virtual datasets may lead to HDF5 files in its own folder,
but not to folders within; a dataset from somewhere else must not be able to name any other file of this machine. How
HDF5 looks names up is not worked out again here: where a link has led it says itself, and the plain names of virtual
datasets it finds in that one folder first, unless the user's own environment (HDF5_VDS_PREFIX) sends it elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps, blamed_on
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

_DEEPEST = 8
"""How many virtual datasets may be put together from one another. HDF5 sets no end to it: a circle ends the process."""


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
            with blamed_on(file), _opened(h5py, file) as root:
                contents.append(_contents(root, source, file))
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
    """A demonstration's name in its file, and the shapes of its arrays that may be read; None: there is a problem."""

    name: str
    shapes: Mapping[str, tuple[int, ...]] | None
    problem: str = ""


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


def _contents(root: Any, source: Source, file: Path) -> _Contents:
    keys = {*source.action_keys, *source.state_keys, "actions", "action", "observations/qpos"}
    if not ("data" in root and hasattr(data := _at(root, "data", file), "keys")):
        return _Contents(False, (_Demo("", _shapes(root, keys, file)),))
    demos = []
    for name in sorted(data, key=natural):
        try:
            demo = _at(data, name, file)
            if hasattr(demo, "keys"):
                demos.append(_Demo(name, _shapes(demo, keys, file)))
        except BrokenDataError as error:
            demos.append(_Demo(name, None, str(error)))
        except (KeyError, OSError, RuntimeError, UnicodeDecodeError):
            demos.append(_Demo(name, None, "cannot be opened; is it a link to nowhere?"))
    return _Contents(True, tuple(demos), *_facts(data.attrs))


def _shapes(group: Any, keys: Iterable[str], file: Path) -> dict[str, tuple[int, ...]]:
    """Those of the arrays (L, D) or (L,) that there are."""
    arrays = {k: _at(group, k, file) for k in keys if k in group}
    shapes = {k: getattr(a, "shape", None) or () for k, a in arrays.items()}  # None: h5py.Empty
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
            return BrokenDataError("unreadable file", f"{file}: {demo.name} {demo.problem}")
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
            group = _at(_at(root, "data", file), name, file) if self.many else root
            actions, state = (
                joined([_at(group, k, file)[()] for k in keys]) if keys else None
                for keys in (self.action_keys, self.state_keys)
            )
            assert actions is not None
            return Steps(actions, state)
        except BrokenDataError as error:
            return BrokenDataError(error.reason, f"{where}: {error}")
        # TypeError: NumPy has no such type. ValueError, MemoryError: it need not hold what its shape claims.
        except (OSError, KeyError, RuntimeError, TypeError, ValueError, MemoryError) as error:
            return BrokenDataError("unreadable file", f"{where}: cannot be read: {error}")


def _at(group: Any, name: str, file: Path) -> Any:
    """What stands under a name. Raises BrokenDataError, before it is looked into, if it is not all beside this file."""
    found = group[name]
    if hasattr(found, "is_virtual"):
        _require_own(found, file, set(), 0)
    else:
        _require_beside(Path(found.file.filename), file)
    return found


def _require_own(array: Any, file: Path, seen: set[tuple[Path, str, int]], depth: int) -> None:
    """Refuses an array if it, or one that it is put together from, has values in a file that is not beside this one."""
    here = Path(array.file.filename)  # where a link has led
    _require_beside(here, file)
    for name, *_ in array.external or ():
        raise _elsewhere(name)  # raw bytes of any file at all, so of none
    if not array.is_virtual:
        return
    if depth == _DEEPEST:
        raise BrokenDataError("unreadable file", f"virtual datasets of virtual datasets, more than {_DEEPEST} deep")
    for source in array.virtual_sources():
        name = source.file_name
        path = here if name == "." else here.parent / name
        if (part := (path, source.dset_name, depth)) in seen:
            continue
        seen.add(part)
        if "%" in name + source.dset_name:  # %% and %b: HDF5 opens another name than the one that stands here
            shown = f"{name!r}, {source.dset_name!r}"
            raise BrokenDataError("unreadable file", f"a virtual dataset leads to {shown}: names with % are not taken")
        if PureWindowsPath(name).name != name and name != ".":  # separators of either system, drives
            raise _elsewhere(name)
        _require_beside(path, file)
        with type(array.file)(path, "r") as opened:
            found = opened[source.dset_name]
            if not isinstance(found, type(array)):
                raise BrokenDataError("unreadable file", f"{source.dset_name!r} in {path} is no array")
            _require_own(found, file, seen, depth + 1)


def _require_beside(path: Path, file: Path) -> None:
    """Both must be in one folder, where symbolic links lead and also as they are called.

    HDF5 looks for names in the folder by which it opened a file first, whatever path leads to that file later.
    """
    folders = [(p.absolute().parent, p.resolve().parent) for p in (path, file)]
    if not (path.is_file() and folders[0] == folders[1]):
        raise _elsewhere(str(path))


def _elsewhere(name: str) -> BrokenDataError:
    return BrokenDataError("unreadable file", f"leads to {name!r}, which is no HDF5 file beside this one")


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
        for broken in contents.demos:
            raise BrokenDataError("unreadable file", f"{file}: {broken.name} {broken.problem}")
        raise ValueError(f"{file}: its group 'data' holds no demonstrations")
    keys = (*layout.action_keys, *layout.state_keys)
    key = next((k for k in keys if k not in (demo.shapes or ())), keys[0])
    inside = f"data/{demo.name}" if contents.many else "the file"
    with _opened(h5py, file) as root:
        there = _arrays(_at(_at(root, "data", file), demo.name, file) if contents.many else root)
    raise ValueError(f"{file}: expected an array {key!r} (L, D) in {inside}; there are {there}")


@contextmanager
def _opened(h5py: Any, file: Path) -> Iterator[Any]:
    if problem := missing(file):
        raise problem
    try:
        with h5py.File(file, "r") as root:
            yield root
    except BrokenDataError as error:
        raise BrokenDataError(error.reason, f"{file}: {error}") from None
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:  # UnicodeDecodeError: names that are no text
        raise BrokenDataError("unreadable file", f"{file}: not a readable HDF5 file: {error}") from None


def _arrays(group: Any) -> list[str]:
    names: list[str] = []
    group.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return sorted(names)[:20]


def _facts(attributes: Any) -> tuple[tuple[str, ...], float | None]:
    """Task text (LIBERO) and control rate (robomimic) in the JSON that the attributes hold."""
    problem, environment = (_json(attributes, name) for name in ("problem_info", "env_args"))
    text = problem.get("language_instruction")
    words = "".join(t for t in text if isinstance(t, str)) if isinstance(text, list) else text
    settings = environment.get("env_kwargs")
    rate = settings.get("control_freq") if isinstance(settings, dict) else None
    hz = float(rate) if isinstance(rate, int | float) and 0 < rate <= sys.float_info.max else None
    return (words,) if isinstance(words, str) and words else (), hz


def _json(attributes: Any, name: str) -> dict[str, Any]:
    try:
        found = json.loads(attributes.get(name))
    except (TypeError, ValueError, RecursionError):  # TypeError: also of attributes of a type that NumPy lacks
        return {}
    return found if isinstance(found, dict) else {}
