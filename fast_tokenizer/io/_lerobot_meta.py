"""`meta/` of LeRobot folders: which episodes there are, where they stand, what they are called."""

from __future__ import annotations

import glob
import json
import reprlib
import string
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fast_tokenizer.io._parquet import column_array, reading
from fast_tokenizer.io.dataset import BrokenDataError, EpisodeInfo, plain_names
from fast_tokenizer.io.source import Outline, leaves_folder, missing

#: Names of the columns and fields that have task texts.
_TASK_KEYS = ("task", "tasks", "__index_level_0__")
#: First row of an episode, and the row after its last, in all files together (v3.0).
_BOUNDS = ("dataset_from_index", "dataset_to_index")
#: What a data_path may ask for.
_NUMBERS = {"v2": ("episode_chunk", "episode_index"), "v3": ("chunk_index", "file_index")}

#: Episodes and steps are fewer.
_MOST = 2**48
#: Characters of a path within a folder.
_LONGEST_PATH = 1000
#: Lists in lists of names.
_DEEPEST = 8

_Row: TypeAlias = Mapping[str, Any]
#: The episodes of each file, their lengths, and the first row of each in all files together, or None.
_Listed: TypeAlias = dict[Path, list[tuple[EpisodeInfo, int, int | None]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, by `meta/info.json`."""

    root: Path
    version: str
    data_path: str
    chunks_size: int
    features: Mapping[str, Any]
    fps: float | None

    def file(self, **numbers: int) -> Path:
        """The data file of an episode (v2.x) or of a chunk and file (v3.0)."""
        if len(self.data_path) > _LONGEST_PATH:
            raise ValueError(f"{self.root}/meta/info.json: data_path has {len(self.data_path)} characters, no path has")
        try:
            specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(self.data_path)]
            if wide := [spec for spec in specs if len(spec) > 4 or "{" in spec]:
                raise ValueError(f"numbers of the form {wide[0]!r}, which no path has")
            relative = self.data_path.format(**numbers)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{self.root}/meta/info.json: data_path {self.data_path!r} asks for {error}") from None
        if leaves_folder(relative):
            raise ValueError(f"{self.root}/meta/info.json: data_path {self.data_path!r} leaves the folder")
        if not relative.endswith(".parquet") or len(relative) > _LONGEST_PATH or "\0" in relative:
            got = reprlib.repr(relative)
            raise ValueError(f"{self.root}/meta/info.json: data_path gives {got}, expected the name of a .parquet file")
        return self.root / relative


def glob_of(data_path: str) -> str:
    """The pattern of all files that a data_path can name. The text around its numbers is no pattern."""
    parts = string.Formatter().parse(data_path)
    return "".join(glob.escape(text) + ("*" if name is not None else "") for text, name, _, _ in parts)


def read_layout(root: Path) -> tuple[Layout, int]:
    """What `meta/info.json` says, and how many episodes it claims."""
    path = root / "meta" / "info.json"
    if problem := missing(path):
        raise problem
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
        claimed = int(info.get("total_episodes") or 0)
        fps = None if info.get("fps") is None else float(info["fps"])
        chunks_size = int(info.get("chunks_size") or 1000)
        features = dict(info.get("features") or {})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: is no LeRobot description: {type(error).__name__} {error}") from None
    if chunks_size < 1:
        raise ValueError(f"{path}: chunks_size must be positive, got {info['chunks_size']!r}")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"{path}: fps must be positive, got {fps}")
    version = version if version.startswith("v") else f"v{version}"
    if version not in ("v2.0", "v2.1", "v3.0"):
        raise ValueError(f"{path}: expected codebase_version v2.0, v2.1 or v3.0, got {version}")
    usual = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if version == "v3.0"
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    )
    layout = Layout(root, version, str(info.get("data_path") or usual), chunks_size, features, fps)
    # Before anything is looked for by its pattern: files outside the folder are not even listed.
    layout.file(**dict.fromkeys(_NUMBERS[version[:2]], 0))
    return layout, claimed


def listed_v2(layout: Layout) -> tuple[list[Outline], list[BrokenDataError]]:
    """A file an episode, in the order of `meta/episodes.jsonl`; and how many files are of none of them."""
    outlines = []
    seen: set[int] = set()
    path = layout.root / "meta" / "episodes.jsonl"
    for row in _json_lines(path):
        try:
            index, length = _episode(row["episode_index"], row["length"])
        except (KeyError, TypeError, ValueError, OverflowError):
            got = reprlib.repr(dict(row))
            raise ValueError(f"{path}: expected rows with episode_index and length, got {got}") from None
        _once(path, index, seen)
        file = layout.file(episode_index=index, episode_chunk=index // layout.chunks_size)
        info = EpisodeInfo(index, f"episode {index}", _texts(row))
        outlines.append(Outline(file, (info,), (length,), one_a_file=True))
    others = sorted(set(layout.root.glob(glob_of(layout.data_path))) - {o.file for o in outlines})
    return outlines, _unlisted(path, [p.name for p in others])


def listed_v3(layout: Layout, parquet: Any) -> tuple[list[Outline], list[BrokenDataError]]:
    """By data file, in order of their episodes; and how many episodes in these files are not listed."""
    folder = layout.root / "meta" / "episodes"
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise BrokenDataError("missing file", f"{folder}: holds no parquet files")
    by_file: _Listed = {}
    seen: set[int] = set()
    for path in files:
        if problem := missing(path):
            raise problem
        needed = ("episode_index", "length", "data/chunk_index", "data/file_index")
        with reading(path), parquet.ParquetFile(path) as opened:
            present = opened.schema_arrow.names
            rows = opened.read(columns=[n for n in present if n in (*needed, *_BOUNDS, *_TASK_KEYS)]).to_pylist()
        if lacking := [n for n in needed if n not in present]:
            raise ValueError(f"{path}: has no column {lacking[0]!r}")
        for row in rows:
            try:
                index, length = _episode(row["episode_index"], row["length"])
                chunk, number = int(row["data/chunk_index"]), int(row["data/file_index"])
            except (TypeError, ValueError, OverflowError):
                got = {name: row[name] for name in needed}
                raise ValueError(f"{path}: expected rows with numbers in {list(needed)}, got {got}") from None
            _once(path, index, seen)
            first, end = (row.get(n) for n in _BOUNDS)
            if isinstance(first, int) and isinstance(end, int) and end - first != length:
                raise ValueError(f"{path}: episode {index} has {length} steps, but rows {first} to {end}")
            file = layout.file(chunk_index=chunk, file_index=number)
            info = EpisodeInfo(index, f"episode {index}", _texts(row))
            by_file.setdefault(file, []).append((info, length, first if isinstance(first, int) else None))
    located, found = _where_they_are(layout, by_file, parquet)
    return _outlines(located), _unlisted(folder, [f"episode {i}" for i in sorted(found - seen)])


def _episode(index: Any, length: Any) -> tuple[int, int]:
    """An episode's number and length. Raises ValueError, or what `int` does, where they are none."""
    number, steps = int(index), int(length)
    if abs(number) >= _MOST or not 0 <= steps < _MOST:
        raise ValueError("no episode has such numbers")
    return number, steps


def _unlisted(where: Path, names: Sequence[str]) -> list[BrokenDataError]:
    if not names:
        return []
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [BrokenDataError("not listed", f"{where}: does not list what is there: {some}", len(names))]


def _once(path: Path, index: int, seen: set[int]) -> None:
    if index in seen:
        raise ValueError(f"{path}: episode {index} is listed twice")
    seen.add(index)


def _outlines(by_file: _Listed) -> list[Outline]:
    outlines = []
    for file, listed in by_file.items():
        listed.sort(key=lambda e: e[0].index)
        starts = [first for _, _, first in listed if first is not None]
        rows = None
        if len(starts) == len(listed):
            rows = tuple(
                range(s - min(starts), s - min(starts) + n) for s, (_, n, _) in zip(starts, listed, strict=True)
            )
        outlines.append(Outline(file, tuple(e for e, _, _ in listed), tuple(n for _, n, _ in listed), rows))
    return sorted(outlines, key=lambda o: o.episodes[0].index)


def _where_they_are(layout: Layout, by_file: _Listed, parquet: Any) -> tuple[_Listed, set[int]]:
    """The same by what stands in the files, where they say it; and the episodes that do.

    lerobot 0.4.4's conversion from v2.1 names the wrong file for the first episode of each file but the first, and
    lerobot does not notice, because it reads all files as one table.
    """
    found: dict[int, list[Path]] = {}
    for file in sorted({*by_file, *layout.root.glob(glob_of(layout.data_path))}):
        if missing(file):
            continue
        with suppress(BrokenDataError), reading(file), parquet.ParquetFile(file) as opened:
            if "episode_index" in opened.schema_arrow.names:
                here = column_array(opened.read(columns=["episode_index"]).column("episode_index"))
                if here.dtype.kind not in "fiu":
                    continue  # what is wrong with it is said when it is read
                for number in np.unique(here[np.isfinite(here)]):
                    found.setdefault(int(number), []).append(file)
    located: _Listed = {}
    for file, listed in by_file.items():
        for info, length, first in listed:
            files = found.get(info.index, [file])
            located.setdefault(file if file in files else files[0], []).append((info, length, first))
    return located, set(found)


def task_texts(layout: Layout, parquet: Any) -> dict[int, str]:
    """Task texts by number, for episodes whose own row says none."""
    root = layout.root / "meta"
    if (root / "tasks.jsonl").is_file():
        rows = _json_lines(root / "tasks.jsonl")
    elif (root / "tasks.parquet").is_file():
        if problem := missing(root / "tasks.parquet"):
            raise problem
        with reading(root / "tasks.parquet"), parquet.ParquetFile(root / "tasks.parquet") as opened:
            rows = opened.read().to_pylist()
    else:
        return {}
    numbered = [row for row in rows if isinstance(row.get("task_index"), int)]
    return {row["task_index"]: text for row in numbered for text in _texts(row)[:1]}


def _texts(row: _Row) -> tuple[str, ...]:
    """The task texts of a row, under whichever name: one, or a list."""
    for key in _TASK_KEYS:
        value = row.get(key)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(str(v) for v in value if isinstance(v, str | int | float))
    return ()


def _json_lines(path: Path) -> list[_Row]:
    if problem := missing(path):
        raise problem
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(rows[-1], dict):
                raise ValueError(f"{path}: line {number} is no object")
    return rows


def names_of(features: Mapping[str, Any], keys: Sequence[str], widths: Mapping[str, int]) -> tuple[str, ...] | None:
    """The dimensions' names; None where the features have none or another number of them."""
    names: list[str] = []
    for key in keys:
        found = _flat(features[key].get("names")) if isinstance(features.get(key), dict) else []
        if len(found) != widths[key]:
            return None
        names += found
    return plain_names(names) or None


def width_of(features: Mapping[str, Any], key: str) -> int | None:
    """How wide a column should be; None where its feature does not say."""
    shape = features[key].get("shape") if isinstance(features.get(key), dict) else None
    return shape[0] if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) else None


def _flat(names: Any, depth: int = 0) -> list[str]:
    """Names as people write them: a list, lists in a list, {"motors": [...]}, {"x": 0, "y": 1}; else none."""
    if depth == _DEEPEST:
        return []
    if isinstance(names, dict):
        if all(isinstance(v, int) for v in names.values()):
            in_order = sorted(names, key=lambda n: names[n])
            return in_order if [names[n] for n in in_order] == list(range(len(names))) else []
        return [n for v in names.values() for n in _flat(v, depth + 1)]
    if isinstance(names, list):
        return [n for v in names for n in _flat(v, depth + 1)]
    return [] if names is None else [str(names)]
