"""LeRobot folders: v2.0, v2.1 (a parquet file an episode), v3.0 (many episodes a file), and how public ones deviate.

- v2.x: `meta/episodes.jsonl` says which episodes there are, `data_path` of `meta/info.json` where.
- v3.0: the tables in `meta/episodes/` say which, and in which file; the files themselves are asked, too.

Only the columns of actions, state, frame numbers, times and tasks are read: no image, no video, no recorded statistics
(`stats.json`, `episodes_stats.jsonl`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps
from fast_tokenizer.io.source import Outline, Source, joined, missing, of_files, require

_ACTION_KEYS = ("action", "actions")
_STATE_KEYS = ("observation.state", "state")
_TASK_KEYS = ("task", "tasks", "__index_level_0__")
_OPTIONAL = ("frame_index", "timestamp", "episode_index", "task_index")

_Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are, by `meta/info.json`."""

    root: Path
    version: str
    data_path: str
    chunks_size: int
    features: Mapping[str, Any]
    fps: float | None

    def file(self, **numbers: int) -> Path:
        """The data file of an episode (v2.x) or of a chunk and file (v3.0)."""
        try:
            relative = self.data_path.format(**numbers)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{self.root}/meta/info.json: data_path {self.data_path!r} asks for {error}") from None
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ValueError(f"{self.root}/meta/info.json: data_path {self.data_path!r} leaves the folder")
        return self.root / relative


def read_lerobot(source: Source) -> Dataset:
    """Opens a LeRobot folder.

    Raises:
        BrokenDataError: A data file is missing, a Git LFS pointer, or damaged, and nothing is skipped.
        ValueError: `meta/` is not as it should be, or there is no such column; the message has those that there are.
    """
    parquet = require("pyarrow.parquet", "lerobot", source.path)
    layout, claimed = _layout(source.path)
    listed = _listed_v3(layout, parquet) if layout.version == "v3.0" else _listed_v2(layout)
    if claimed > sum(len(o.episodes) for o in listed):
        # Nothing that could be read is lost, so this stops nothing.
        n = claimed - sum(len(o.episodes) for o in listed)
        message = f"{source.path}: meta/info.json claims {claimed} episodes, {claimed - n} are listed"
        source.left_out.append(BrokenDataError("missing file", message, n))
    outlines = []
    for outline in listed:
        if problem := missing(outline.file):
            source.broken(BrokenDataError(problem.reason, str(problem), len(outline.episodes)))
        else:
            outlines.append(outline)
    columns = _first_columns(source, outlines, parquet)
    action_keys: tuple[str, ...] = ()
    state_keys: tuple[str, ...] = ()
    if outlines:
        action_keys = _resolve(source.path, "action", source.action_keys, _ACTION_KEYS, columns)
        state_keys = _resolve(source.path, "state", source.state_keys, _STATE_KEYS, columns) if source.state else ()
    tasks = _tasks(layout, parquet)

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        yield from _load(parquet, outline, wanted, action_keys, state_keys, tasks)

    return of_files(
        source,
        outlines,
        load_file,
        sum(columns[k] for k in action_keys),
        hz=layout.fps,
        dimension_names=_names(layout.features, action_keys, columns),
        state_names=_names(layout.features, state_keys, columns),
    )


def download(repository: str) -> Path:
    """The folder, in the hub's cache, of a dataset. Only `meta/` and the tables are fetched.

    Raises:
        FileNotFoundError: There is no such dataset, or it cannot be fetched.
        ImportError: `huggingface_hub` is not installed.
        ValueError: It is no LeRobot dataset.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError(
            f"{repository}: no such file, and a hub id needs huggingface_hub: pip install 'fast-tokenizer[hub,lerobot]'"
        ) from None
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=["meta/*"]))
        if not (folder / "meta" / "info.json").is_file():
            raise ValueError(f"{repository}: is no LeRobot dataset: it has no meta/info.json")
        layout, _ = _layout(folder)
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=["meta/*", _glob(layout.data_path)])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{repository}: no such file, and the hub does not give it: {error}") from error


def _glob(data_path: str) -> str:
    """The pattern of all files that a data_path can name."""
    import string

    return "".join(text + ("*" if name is not None else "") for text, name, _, _ in string.Formatter().parse(data_path))


# ---- meta/ -------------------------------------------------------------------------------------------


def _layout(root: Path) -> tuple[_Layout, int]:
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no LeRobot description: {type(error).__name__} {error}") from None
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
    return _Layout(root, version, str(info.get("data_path") or usual), chunks_size, features, fps), claimed


def _listed_v2(layout: _Layout) -> list[Outline]:
    outlines = []
    path = layout.root / "meta" / "episodes.jsonl"
    for row in _json_lines(path):
        try:
            index, length = int(row["episode_index"]), int(row["length"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: expected rows with episode_index and length, got {dict(row)}") from None
        file = layout.file(episode_index=index, episode_chunk=index // layout.chunks_size)
        outlines.append(Outline(file, (EpisodeInfo(index, f"episode {index}", _texts(row)),), (length,)))
    return outlines


def _listed_v3(layout: _Layout, parquet: Any) -> list[Outline]:
    """By data file, in order of their episodes."""
    folder = layout.root / "meta" / "episodes"
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise BrokenDataError("missing file", f"{folder}: holds no parquet files")
    by_file: _Listed = {}
    for path in files:
        if problem := missing(path):
            raise problem
        needed = ("episode_index", "length", "data/chunk_index", "data/file_index")
        with _reading(path), parquet.ParquetFile(path) as opened:
            present = opened.schema_arrow.names
            rows = opened.read(columns=[n for n in present if n in (*needed, *_TASK_KEYS)]).to_pylist()
        if lacking := [n for n in needed if n not in present]:
            raise ValueError(f"{path}: has no column {lacking[0]!r}")
        for row in rows:
            file = layout.file(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            index = int(row["episode_index"])
            by_file.setdefault(file, []).append(
                (EpisodeInfo(index, f"episode {index}", _texts(row)), int(row["length"]))
            )
    return _outlines(_where_they_are(layout, by_file, parquet))


_Listed = dict[Path, list[tuple[EpisodeInfo, int]]]


def _outlines(by_file: _Listed) -> list[Outline]:
    outlines = []
    for file, listed in by_file.items():
        listed.sort(key=lambda e: e[0].index)
        outlines.append(Outline(file, tuple(e for e, _ in listed), tuple(n for _, n in listed)))
    return sorted(outlines, key=lambda o: o.episodes[0].index)


def _where_they_are(layout: _Layout, by_file: _Listed, parquet: Any) -> _Listed:
    """The same by what stands in the files, where they say it.

    lerobot 0.4.4's conversion from v2.1 names the wrong file for the first episode of each file but the first, and
    lerobot does not notice, because it reads all files as one table.
    """
    found: dict[int, list[Path]] = {}
    for file in sorted({*by_file, *layout.root.glob(_glob(layout.data_path))}):
        if missing(file):
            continue
        with suppress(BrokenDataError), _reading(file), parquet.ParquetFile(file) as opened:
            if "episode_index" in opened.schema_arrow.names:
                numbers = _numbers(opened.read(columns=["episode_index"]).column("episode_index"))
                for number in np.unique(numbers):
                    found.setdefault(int(number), []).append(file)
    located: _Listed = {}
    for file, listed in by_file.items():
        for info, length in listed:
            files = found.get(info.index, [file])
            located.setdefault(file if file in files else files[0], []).append((info, length))
    return located


def _tasks(layout: _Layout, parquet: Any) -> dict[int, str]:
    """Task texts by number, for episodes whose own row says none."""
    root = layout.root / "meta"
    if (root / "tasks.jsonl").is_file():
        rows = _json_lines(root / "tasks.jsonl")
    elif (root / "tasks.parquet").is_file() and not missing(root / "tasks.parquet"):
        with _reading(root / "tasks.parquet"), parquet.ParquetFile(root / "tasks.parquet") as opened:
            rows = opened.read().to_pylist()
    else:
        return {}
    return {int(row["task_index"]): text for row in rows if "task_index" in row for text in _texts(row)[:1]}


def _texts(row: _Row) -> tuple[str, ...]:
    """The task texts of a row, under whichever name: one, or a list."""
    for key in _TASK_KEYS:
        value = row.get(key)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(str(v) for v in value)
    return ()


def _json_lines(path: Path) -> list[_Row]:
    if problem := missing(path):
        raise problem
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(rows[-1], dict):
                raise ValueError(f"{path}: line {number} is no object")
    return rows


def _names(features: Mapping[str, Any], keys: Sequence[str], widths: Mapping[str, int]) -> tuple[str, ...] | None:
    """The dimensions' names; None where the features have none or another number of them."""
    names: list[str] = []
    for key in keys:
        found = _flat(features[key].get("names")) if isinstance(features.get(key), dict) else []
        if len(found) != widths[key]:
            return None
        names += found
    return tuple(names) or None


def _flat(names: Any) -> list[str]:
    """Names as people write them: a list, lists in a list, {"motors": [...]}, {"x": 0, "y": 1}."""
    if isinstance(names, dict):
        if all(isinstance(v, int) for v in names.values()):
            return sorted(names, key=lambda n: names[n])
        return [n for v in names.values() for n in _flat(v)]
    if isinstance(names, list):
        return [n for v in names for n in _flat(v)]
    return [] if names is None else [str(names)]


# ---- data/ -------------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into one error that names the file."""
    try:
        yield
    except BrokenDataError:
        raise
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise BrokenDataError("unreadable file", f"{path}: not a readable parquet file: {error}") from None


def _first_columns(source: Source, outlines: list[Outline], parquet: Any) -> dict[str, int]:
    """The columns of numbers in the first file that can be read, and their widths; others are taken out and noted."""
    while outlines:
        try:
            with _reading(outlines[0].file), parquet.ParquetFile(outlines[0].file) as file:
                schema = file.schema_arrow
                others = (*_OPTIONAL, "index")
                numbers = [n for n in schema.names if n not in others and _is_numbers(schema.field(n).type)]
                for batch in file.iter_batches(batch_size=1, columns=numbers):
                    return {n: _numbers(batch.column(n)).size for n in numbers if batch.column(n).null_count == 0}
            problem = BrokenDataError("other length", f"{outlines[0].file}: holds no rows")
        except BrokenDataError as error:
            problem = error
        source.broken(BrokenDataError(problem.reason, str(problem), len(outlines[0].episodes)))
        outlines.pop(0)
    return {}


def _is_numbers(kind: Any) -> bool:
    """Numbers, or lists of them: fixed in size or not, one level deep."""
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(t.is_floating(kind) or t.is_integer(kind))


def _numbers(column: Any) -> NDArray[Any]:
    """(L, D) or (L,) of a column. Raises BrokenDataError where rows differ in width or are missing."""
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
        values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return values
    rows, flat = len(array), array.flatten().to_numpy(zero_copy_only=False)
    widths = np.unique(array.value_lengths().to_numpy(zero_copy_only=False)) if _varies(array) else None
    if array.null_count or (rows and len(flat) % rows) or (widths is not None and len(widths) > 1):
        raise BrokenDataError("other dimensions", "rows are missing or differ in width")
    table: NDArray[Any] = flat.reshape(rows, -1)
    return table


def _varies(array: Any) -> bool:
    return hasattr(array, "value_lengths") and "fixed_size" not in str(array.type)


def _load(
    parquet: Any,
    outline: Outline,
    wanted: Sequence[int],
    action_keys: Sequence[str],
    state_keys: Sequence[str],
    tasks: Mapping[int, str],
) -> Iterator[Steps | BrokenDataError]:
    """The wanted episodes of a file, of which only the columns that matter are read."""
    file = outline.file
    if problem := missing(file):
        raise problem
    with _reading(file), parquet.ParquetFile(file) as opened:
        present = opened.schema_arrow.names
        if lacking := [k for k in (*action_keys, *state_keys) if k not in present]:
            raise BrokenDataError("missing column", f"{file}: has no column {lacking[0]!r}, only {present}")
        columns = dict.fromkeys([*action_keys, *state_keys, *(n for n in _OPTIONAL if n in present)])
        table = opened.read(columns=list(columns))
    for i, rows in zip(wanted, _row_ranges(table, outline, wanted), strict=True):
        info = outline.episodes[i]
        part = table.slice(rows.start, len(rows))
        if not rows:
            yield BrokenDataError("other length", f"{file}: holds no rows of {info.name}")
            continue
        try:
            yield Steps(
                joined([_numbers(part.column(k)) for k in action_keys]).copy(),
                joined([_numbers(part.column(k)) for k in state_keys]).copy() if state_keys else None,
                frame_index=_numbers(part.column("frame_index")).ravel() if "frame_index" in columns else None,
                timestamps=_numbers(part.column("timestamp")).ravel() if "timestamp" in columns else None,
                tasks=() if info.tasks or "task_index" not in columns else _seen(part, tasks),
            )
        except BrokenDataError as error:
            yield BrokenDataError(error.reason, f"{file} {info.name}: {error}")


def _row_ranges(table: Any, outline: Outline, wanted: Sequence[int]) -> list[range]:
    """The rows of each wanted episode: by the file's own numbering where there is one, else by the lengths."""
    if len(outline.episodes) == 1:
        return [range(table.num_rows)] * len(wanted)
    if "episode_index" in table.column_names:
        numbers = _numbers(table.column("episode_index")).ravel()
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
        ends = [*starts[1:].tolist(), len(numbers)]
        found = {int(numbers[s]): range(int(s), int(e)) for s, e in zip(starts, ends, strict=True)}
        return [found.get(outline.episodes[i].index, range(0)) for i in wanted]
    bounds = np.concatenate([[0], np.cumsum(outline.lengths)])
    return [range(int(bounds[i]), int(bounds[i + 1])) for i in wanted]


def _seen(part: Any, tasks: Mapping[int, str]) -> tuple[str, ...]:
    numbers = dict.fromkeys(int(n) for n in _numbers(part.column("task_index")).ravel())
    return tuple(tasks[n] for n in numbers if n in tasks)


def _resolve(
    path: Path, what: str, given: Sequence[str], usual: Sequence[str], columns: Mapping[str, int]
) -> tuple[str, ...]:
    """The columns that were asked for, or the first usual one that there is. A state need not be there."""
    if lacking := [k for k in given if k not in columns]:
        raise ValueError(f"{path}: has no column {lacking[0]!r} of numbers; there are {sorted(columns)}")
    if given:
        return tuple(given)
    found = next(((k,) for k in usual if k in columns), ())
    if not found and what == "action":
        raise ValueError(
            f"{path}: has no column {' or '.join(map(repr, usual))}; there are {sorted(columns)}: give an action key"
        )
    return found
