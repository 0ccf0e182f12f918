"""LeRobot folders: v2.0, v2.1 (a parquet file an episode), v3.0 (many episodes a file), and how public ones deviate.

- v2.x: `meta/episodes.jsonl` says which episodes there are, `data_path` of `meta/info.json` where.
- v3.0: the tables in `meta/episodes/` say which, and in which file; the files themselves are asked, too.

Episodes that have files or rows, but are not listed, are not read; they are counted.

Only the columns of actions, state, frame numbers, times and tasks are read: no image, no video, no recorded statistics
(`stats.json`, `episodes_stats.jsonl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io._lerobot_meta import (
    Layout,
    glob_of,
    listed_v2,
    listed_v3,
    names_of,
    read_layout,
    task_texts,
    width_of,
)
from fast_tokenizer.io._parquet import column_array, reading
from fast_tokenizer.io.dataset import BrokenDataError, Dataset, Steps, blamed_on
from fast_tokenizer.io.source import Outline, Source, joined, missing, of_files, require

_ACTION_KEYS = ("action", "actions")
_STATE_KEYS = ("observation.state", "state")
_OPTIONAL = ("frame_index", "timestamp", "episode_index", "task_index")


@dataclass(frozen=True, slots=True)
class LerobotFiles:
    """The data files of a LeRobot folder, of which each can be read by itself: plain values, also for other processes.

    Attributes:
        root: The folder.
        version: "v2.0", "v2.1" or "v3.0".
        outlines: What is listed of each file, in the order of episodes.
        action_keys: Columns of the actions, which are joined.
        state_keys: Columns of the state; none where it is not read.
        action_dim: Dimensions D.
        state_dim: Columns S, or None.
        hz: Control rate, or None.
        dimension_names: D names, or None.
        state_names: S names, or None.
        tasks: Task texts by number, for episodes that are listed without.
    """

    root: Path
    version: str
    outlines: tuple[Outline, ...]
    action_keys: tuple[str, ...]
    state_keys: tuple[str, ...]
    action_dim: int
    state_dim: int | None
    hz: float | None
    dimension_names: tuple[str, ...] | None
    state_names: tuple[str, ...] | None
    tasks: Mapping[int, str]

    def load(
        self, outline: Outline, wanted: Sequence[int], *, index: bool = False
    ) -> Iterator[Steps | BrokenDataError]:
        """Reads episodes of a file; with `index`, their frames' numbers in the whole dataset, too."""
        parquet = require("pyarrow.parquet", "lerobot", self.root)
        return _load(parquet, outline, wanted, self.action_keys, self.state_keys, self.tasks, index=index)

    def dataset(self, source: Source, *, index: bool = False) -> Dataset:
        """All files as one dataset."""
        return of_files(
            source,
            self.outlines,
            lambda outline, wanted: self.load(outline, wanted, index=index),
            self.action_dim,
            hz=self.hz,
            dimension_names=self.dimension_names,
            state_dim=self.state_dim,
            state_names=self.state_names,
        )


def read_lerobot(source: Source) -> Dataset:
    """Opens a LeRobot folder; errors are those of `lerobot_files`."""
    return lerobot_files(source).dataset(source)


def lerobot_files(source: Source) -> LerobotFiles:
    """The files of a LeRobot folder, by `meta/`.

    Raises:
        BrokenDataError: A file of `meta/` is missing, a Git LFS pointer, or damaged.
        ValueError: `meta/` is not as it should be, or there is no such column; the message has those that there are.
    """
    parquet = require("pyarrow.parquet", "lerobot", source.path)
    with blamed_on(source.path):
        return _files(source, parquet)


def _files(source: Source, parquet: Any) -> LerobotFiles:
    layout, claimed = read_layout(source.path)
    listed, unlisted = listed_v3(layout, parquet) if layout.version == "v3.0" else listed_v2(layout)
    source.left_out += unlisted
    n = sum(len(o.episodes) for o in listed)
    if (lost := claimed - n - sum(e.episodes for e in unlisted)) > 0:
        # Nothing that could be read is lost, so this stops nothing.
        message = f"{source.path}: meta/info.json claims {claimed} episodes, {n} are listed"
        source.left_out.append(BrokenDataError("missing file", message, lost))
    outlines = [o.failed(problem) if (problem := missing(o.file)) else o for o in listed]
    outlines, columns = _columns(source, layout, outlines, parquet)
    return LerobotFiles(
        source.path,
        layout.version,
        tuple(outlines),
        columns.actions,
        columns.state,
        sum(columns.widths[k] for k in columns.actions),
        sum(columns.widths[k] for k in columns.state) or None,
        layout.fps,
        names_of(layout.features, columns.actions, columns.widths),
        names_of(layout.features, columns.state, columns.widths),
        task_texts(layout, parquet),
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
        layout, _ = read_layout(folder)
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=["meta/*", glob_of(layout.data_path)])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{repository}: no such file, and the hub does not give it: {error}") from error


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns that are read, and how wide the columns of numbers are."""

    actions: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    widths: Mapping[str, int] = field(default_factory=dict)


def _columns(source: Source, layout: Layout, outlines: list[Outline], parquet: Any) -> tuple[list[Outline], _Columns]:
    """Those of the first file that is as `meta/info.json` says, else of the first that has actions.

    Files that cannot be read are failed on the way.
    """
    first: _Columns | None = None
    refused: ValueError | None = None
    checked = list(outlines)
    for i, outline in enumerate(outlines):
        if outline.episodes[0].problem or not source.wants(outline.episodes):
            continue
        try:
            widths, others = _widths(outline.file, parquet)
            found = _Columns(
                _resolve(source.path, "action", source.action_keys, _ACTION_KEYS, widths, others),
                _resolve(source.path, "state", source.state_keys, _STATE_KEYS, widths, others) if source.state else (),
                widths,
            )
        except BrokenDataError as error:
            checked[i] = outline.failed(error)
        except ValueError as error:
            refused = refused or error
            if not source.skip:
                break
        else:
            first = first or found
            if _as_described(layout, found, source):
                return checked, found
    if first is None and refused is not None:
        raise refused
    return checked, first or _Columns()


def _as_described(layout: Layout, columns: _Columns, source: Source) -> bool:
    """Whether a file's columns are as wide as `meta/info.json` says, and the state is there if it says so."""
    if source.state and not columns.state and any(k in layout.features for k in _STATE_KEYS):
        return False
    described = {k: width_of(layout.features, k) for k in (*columns.actions, *columns.state)}
    return all(width in (None, columns.widths[k]) for k, width in described.items())


def _widths(file: Path, parquet: Any) -> tuple[dict[str, int], dict[str, str]]:
    """The columns of numbers and their widths, and the types of the other columns.

    Raises:
        BrokenDataError: It cannot be read, or holds no rows.
    """
    with reading(file), parquet.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        candidates = [n for n in schema.names if n not in (*_OPTIONAL, "index")]
        numbers = [n for n in candidates if _is_numbers(schema.field(n).type)]
        others = {n: str(schema.field(n).type) for n in candidates if n not in numbers}
        if not opened.metadata.num_rows:
            raise BrokenDataError("other length", f"{file}: holds no rows")
        widths: dict[str, int] = {}
        for batch in opened.iter_batches(batch_size=256, columns=numbers):
            for name in numbers:
                column = batch.column(name).drop_null()
                if len(column) and name not in widths:
                    widths[name] = column_array(column[:1]).size
            if len(widths) == len(numbers):
                break
    if empty := [n for n in numbers if not widths.get(n)]:
        others |= dict.fromkeys(empty, "empty")
    return {n: w for n, w in widths.items() if w}, others


def _is_numbers(kind: Any) -> bool:
    """Numbers, or lists of them: fixed in size or not, one level deep."""
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(t.is_floating(kind) or t.is_integer(kind))


def _load(
    parquet: Any,
    outline: Outline,
    wanted: Sequence[int],
    action_keys: Sequence[str],
    state_keys: Sequence[str],
    tasks: Mapping[int, str],
    *,
    index: bool,
) -> Iterator[Steps | BrokenDataError]:
    """The wanted episodes of a file, of which only the columns that matter are read."""
    file = outline.file
    if problem := missing(file):
        raise problem
    with reading(file), parquet.ParquetFile(file) as opened:
        present = opened.schema_arrow.names
        if lacking := [k for k in (*action_keys, *state_keys) if k not in present]:
            raise BrokenDataError("missing column", f"{file}: has no column {lacking[0]!r}, only {present}")
        if index and "index" not in present:
            raise BrokenDataError("missing column", f"{file}: has no column 'index', the frames' numbers")
        optional = [n for n in _OPTIONAL if n in present] + ["index"] * index
        columns = dict.fromkeys([*action_keys, *state_keys, *optional])
        if twice := [k for k in columns if present.count(k) > 1]:
            raise BrokenDataError("unreadable file", f"{file}: has {present.count(twice[0])} columns {twice[0]!r}")
        table = opened.read(columns=list(columns))
    if not table.num_rows:
        raise BrokenDataError("other length", f"{file}: holds no rows")
    try:
        ranges = _row_ranges(table, outline, wanted)
    except BrokenDataError as error:
        raise BrokenDataError(error.reason, f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    for i, rows in zip(wanted, ranges, strict=True):
        info = outline.episodes[i]
        part = table.slice(rows.start, len(rows))
        if not rows:
            yield BrokenDataError("other length", f"{file}: holds no rows of {info.name}")
            continue
        try:
            yield Steps(
                joined([column_array(part.column(k)) for k in action_keys]).copy(),
                joined([column_array(part.column(k)) for k in state_keys]).copy() if state_keys else None,
                frame_index=_numbers(part.column("frame_index"), "frame_index") if "frame_index" in columns else None,
                timestamps=_numbers(part.column("timestamp"), "timestamp") if "timestamp" in columns else None,
                tasks=() if info.tasks or "task_index" not in columns else _seen(part, tasks),
                index=_numbers(part.column("index"), "index") if index else None,
            )
        except BrokenDataError as error:
            yield BrokenDataError(error.reason, f"{file} {info.name}: {error}")


def _row_ranges(table: Any, outline: Outline, wanted: Sequence[int]) -> list[range]:
    """The rows of each wanted episode: by the file's own numbering where there is one, else as listed."""
    if "episode_index" in table.column_names:
        numbers = _numbers(table.column("episode_index"), "episode_index")
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
        ends = [*starts[1:].tolist(), len(numbers)]
        found = {numbers[s]: range(int(s), int(e)) for s, e in zip(starts, ends, strict=True)}
        if outline.one_a_file and len(found) > 1:
            numbers_found = sorted(n.item() for n in found)
            raise BrokenDataError(
                "other length", f"holds rows of the episodes {numbers_found[:5]}, expected those of one"
            )
        return [found.get(outline.episodes[i].index, range(0)) for i in wanted]
    if len(outline.episodes) == 1:
        return [range(table.num_rows)] * len(wanted)
    # Rows of an episode that is not listed may stand anywhere, so all must be accounted for.
    if outline.rows is None or not _are_all(outline.rows, table.num_rows):
        raise BrokenDataError(
            "missing column",
            f"{outline.file}: has no column 'episode_index', and meta/episodes does not say which rows are whose",
        )
    return [outline.rows[i] for i in wanted]


def _are_all(parts: Sequence[range], rows: int) -> bool:
    """Whether each of so many rows is in one part, whatever size a file says that its parts are."""
    if any(not 0 <= p.start <= p.stop <= rows for p in parts) or sum(map(len, parts)) != rows:
        return False
    return len({i for p in parts for i in p}) == rows


def _numbers(column: Any, name: str) -> NDArray[Any]:
    """(L,) of a column of numbers, of which none is missing."""
    values = column_array(column).ravel()
    if column.null_count or values.dtype.kind not in "fiu" or len(values) != len(column):
        raise BrokenDataError("other dimensions", f"{name} must be numbers, got {column.type}")
    return values


def _seen(part: Any, tasks: Mapping[int, str]) -> tuple[str, ...]:
    found = _numbers(part.column("task_index"), "task_index")
    numbers = dict.fromkeys(int(n) for n in found[np.isfinite(found)])
    return tuple(tasks[n] for n in numbers if n in tasks)


def _resolve(
    path: Path,
    what: str,
    given: Sequence[str],
    usual: Sequence[str],
    widths: Mapping[str, int],
    others: Mapping[str, str],
) -> tuple[str, ...]:
    """The columns that were asked for, or the first usual one that there is. A state need not be there."""
    unfit = next((k for k in given or usual if k in others), None)
    lacking = next((k for k in given if k not in widths), None)
    found = tuple(given) or next(((k,) for k in usual if k in widths), ())
    if unfit is not None and (lacking or not found):
        raise ValueError(
            f"{path}: expected a number or a list of numbers in each row of the column {unfit!r}, got {others[unfit]}"
        )
    if lacking is not None:
        raise ValueError(f"{path}: has no column {lacking!r} of numbers; there are {sorted(widths)}")
    if not found and what == "action":
        raise ValueError(
            f"{path}: has no column {' or '.join(map(repr, usual))}; there are {sorted(widths)}: give an action key"
        )
    return found
