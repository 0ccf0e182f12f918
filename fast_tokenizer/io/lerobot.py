"""LeRobot folders: v2.0, v2.1 (a parquet file an episode), v3.0 (many episodes a file), and how public ones deviate.

- v2.x: `meta/episodes.jsonl` says which episodes there are, `data_path` of `meta/info.json` where.
- v3.0: the tables in `meta/episodes/` say which, and in which file; the files themselves are asked, too.

Only the columns of actions, state, frame numbers, times and tasks are read: no image, no video, no recorded statistics
(`stats.json`, `episodes_stats.jsonl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io._lerobot_meta import (
    glob_of,
    listed_v2,
    listed_v3,
    names_of,
    read_layout,
    task_texts,
)
from fast_tokenizer.io._parquet import column_array, reading
from fast_tokenizer.io.dataset import BrokenDataError, Dataset, Steps
from fast_tokenizer.io.source import Outline, Source, joined, missing, of_files, require

_ACTION_KEYS = ("action", "actions")
_STATE_KEYS = ("observation.state", "state")
_OPTIONAL = ("frame_index", "timestamp", "episode_index", "task_index")


def read_lerobot(source: Source) -> Dataset:
    """Opens a LeRobot folder.

    Raises:
        BrokenDataError: A data file is missing, a Git LFS pointer, or damaged, and nothing is skipped.
        ValueError: `meta/` is not as it should be, or there is no such column; the message has those that there are.
    """
    parquet = require("pyarrow.parquet", "lerobot", source.path)
    layout, claimed = read_layout(source.path)
    listed = listed_v3(layout, parquet) if layout.version == "v3.0" else listed_v2(layout)
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
    tasks = task_texts(layout, parquet)

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        yield from _load(parquet, outline, wanted, action_keys, state_keys, tasks)

    return of_files(
        source,
        outlines,
        load_file,
        sum(columns[k] for k in action_keys),
        hz=layout.fps,
        dimension_names=names_of(layout.features, action_keys, columns),
        state_names=names_of(layout.features, state_keys, columns),
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


def _first_columns(source: Source, outlines: list[Outline], parquet: Any) -> dict[str, int]:
    """The columns of numbers in the first file that can be read, and their widths; others are taken out and noted."""
    while outlines:
        try:
            with reading(outlines[0].file), parquet.ParquetFile(outlines[0].file) as file:
                schema = file.schema_arrow
                others = (*_OPTIONAL, "index")
                numbers = [n for n in schema.names if n not in others and _is_numbers(schema.field(n).type)]
                for batch in file.iter_batches(batch_size=1, columns=numbers):
                    return {n: column_array(batch.column(n)).size for n in numbers if batch.column(n).null_count == 0}
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
    with reading(file), parquet.ParquetFile(file) as opened:
        present = opened.schema_arrow.names
        if lacking := [k for k in (*action_keys, *state_keys) if k not in present]:
            raise BrokenDataError("missing column", f"{file}: has no column {lacking[0]!r}, only {present}")
        columns = dict.fromkeys([*action_keys, *state_keys, *(n for n in _OPTIONAL if n in present)])
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
        return [found.get(outline.episodes[i].index, range(0)) for i in wanted]
    if len(outline.episodes) == 1:
        return [range(table.num_rows)] * len(wanted)
    # Rows of an episode that is not listed may stand anywhere, so all must be accounted for.
    if outline.rows is None or sorted(i for rows in outline.rows for i in rows) != list(range(table.num_rows)):
        raise BrokenDataError(
            "missing column",
            f"{outline.file}: has no column 'episode_index', and meta/episodes does not say which rows are whose",
        )
    return [outline.rows[i] for i in wanted]


def _numbers(column: Any, name: str) -> NDArray[Any]:
    """(L,) of a column of numbers, of which none is missing."""
    values = column_array(column).ravel()
    if column.null_count or values.dtype.kind not in "fiu":
        raise BrokenDataError("other dimensions", f"{name} must be numbers, got {column.type}")
    return values


def _seen(part: Any, tasks: Mapping[int, str]) -> tuple[str, ...]:
    found = _numbers(part.column("task_index"), "task_index")
    numbers = dict.fromkeys(int(n) for n in found[np.isfinite(found)])
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
