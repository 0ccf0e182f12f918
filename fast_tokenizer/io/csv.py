"""CSV: one file an episode, or a column `episode_index` or `episode` that says which rows are one.

The first row names the columns. Actions are all columns whose names begin with the key and go on with what is no
letter: `action_0`, `action.x`, `action[2]`, but for what is known to be no dimension (`action_valid`,
`action_timestamp`); or columns of that very name: `--action-key x,y,z`. A column `timestamp` or `time`, in seconds or
as ISO 8601, gives the control rate, `task` the task text.

A row or cell that cannot be read costs its episode; a row of another number of cells, or of an episode that is a number
and no whole one, of which it is not known whose it is, those on both sides. A file that cannot be read to its end
counts as one episode.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps, blamed_on
from fast_tokenizer.io.source import (
    Outline,
    Source,
    common_rate,
    failed_file,
    last_number,
    missing,
    most_common,
    natural,
    of_files,
)

_EPISODE = ("episode_index", "episode")
_TIME = ("timestamp", "time")
#: What may follow a key in the name of a column that is no dimension.
_NO_DIMENSION = ("valid", "is_valid", "mask", "is_pad", "pad", "timestamp", "time", "index", "id")

#: The number of its line, and its cells, or what is wrong with them.
_Row: TypeAlias = tuple[int, "list[str] | BrokenDataError"]


def files_in(folder: Path) -> list[Path]:
    """The CSV files of a folder, by the numbers in their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() == ".csv"), key=lambda p: natural(p.name))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a row things stand, and the names of all columns."""

    names: tuple[str, ...]
    actions: tuple[int, ...]
    state: tuple[int, ...]
    episode: int | None
    time: int | None
    task: int | None


def read_csv(source: Source) -> Dataset:
    """Opens a file, or all of a folder; those that do not have the columns that most have are broken.

    Raises:
        ValueError: There are no such columns, and the message has those that there are; or the times are no seconds.
    """
    files = files_in(source.path) if source.path.is_dir() else [source.path]
    headers = [_header(file) for file in files]
    header = most_common(h for h in headers if isinstance(h, tuple))
    columns = _Columns((), (), (), None, None, None)
    if header is not None:
        columns = _columns(files[headers.index(header)], header, source)
    outlines: list[Outline] = []
    periods: list[float] = []
    before = 0
    for file, names in zip(files, headers, strict=True):
        try:
            if isinstance(names, BrokenDataError):
                raise names
            if names != header:
                message = f"{file}: has the columns {list(names)}, others have {list(header or ())}"
                raise BrokenDataError("missing column", message)
            with blamed_on(file):
                outlines.append(_outline(file, columns, len(files), before, periods))
        except BrokenDataError as error:
            number = last_number(file.stem) if columns.episode is None else None
            outlines.append(failed_file(file, before if number is None else number, error))
        before += len(outlines[-1].episodes)

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        chosen = set(wanted)
        with _rows(outline.file) as (_, rows):
            for i, (_, part) in enumerate(_by_episode(outline.file, rows, columns)):
                if i in chosen:
                    yield _steps(outline.file, part, columns)

    return of_files(
        source,
        outlines,
        load_file,
        len(columns.actions),
        hz=common_rate(source, periods),
        dimension_names=tuple(header[i] for i in columns.actions) if header else None,
        state_dim=len(columns.state) or None,
        state_names=tuple(header[i] for i in columns.state) or None if header else None,
    )


def _header(file: Path) -> tuple[str, ...] | BrokenDataError:
    try:
        with blamed_on(file), _rows(file) as (names, _):
            return names
    except BrokenDataError as error:
        return error.bare()


@contextmanager
def _rows(file: Path) -> Iterator[tuple[tuple[str, ...], Iterator[_Row]]]:
    """The names of the columns, and the rows, one at a time."""
    if problem := missing(file):
        raise problem
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.reader(opened, strict=True)  # else a stray quote takes all that follows for one cell
            names = next(rows, None)
            if not names:
                raise BrokenDataError("unreadable file", f"{file}: is empty")
            if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
                message = f"{file}: expected columns separated by commas, got {other[0]!r}: {names[0][:80]!r}"
                raise BrokenDataError("unreadable file", message)

            def numbered() -> Iterator[_Row]:
                for row in rows:
                    if row and len(row) != len(names):
                        message = f"{file}: line {rows.line_num} has {len(row)} cells, expected {len(names)}"
                        yield rows.line_num, BrokenDataError("unreadable file", message)
                    elif row:
                        yield rows.line_num, row

            yield tuple(n.strip() for n in names), numbered()
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenDataError("unreadable file", f"{file}: not a readable CSV file: {error}") from None


def _columns(file: Path, names: tuple[str, ...], source: Source) -> _Columns:
    def positions(keys: Sequence[str], what: str) -> tuple[int, ...]:
        found: list[int] = []
        for key in keys:
            here = [i for i, n in enumerate(names) if n == key]
            here = here or [i for i, n in enumerate(names) if _is_dimension(n, key)]
            if not here:
                hint = "" if source.action_keys else ": give an action key"
                raise ValueError(f"{file}: has no column {key!r} or {key + '_0'!r} of {what}, only {list(names)}{hint}")
            found += here
        return tuple(found)

    def first(keys: Sequence[str]) -> int | None:
        return next((names.index(k) for k in keys if k in names), None)

    has_state = any(n == "state" or _is_dimension(n, "state") for n in names)
    usual = ("state",) if has_state else ()
    state_keys = (source.state_keys or usual) if source.state else ()
    columns = _Columns(
        names,
        positions(source.action_keys or ("action",), "actions"),
        positions(state_keys, "the state"),
        first(_EPISODE),
        first(_TIME),
        first(("task",)),
    )
    counts = Counter(names)
    single = (i for i in (columns.episode, columns.time, columns.task) if i is not None)
    for i in (*columns.actions, *columns.state, *single):
        if counts[names[i]] > 1:
            raise ValueError(f"{file}: line 1: has {counts[names[i]]} columns {names[i]!r}")
    return columns


def _is_dimension(name: str, key: str) -> bool:
    """Whether it is `key` and something more that begins with no letter."""
    rest = name.removeprefix(key)
    return re.match(r"[^A-Za-z]", rest) is not None and rest != name and rest.strip("_./ ").lower() not in _NO_DIMENSION


def _by_episode(file: Path, rows: Iterator[_Row], columns: _Columns) -> Iterator[tuple[str, Iterator[_Row]]]:
    """The rows of one episode after the other, and what the file calls it."""

    def known(row: _Row) -> _Row:
        """The row, unless its episode is a number and no whole one."""
        line, cells = row
        if columns.episode is None or isinstance(cells, BrokenDataError) or _names_episode(cells[columns.episode]):
            return row
        what = f"column {columns.names[columns.episode]!r}: {cells[columns.episode]!r} is no episode's number or name"
        return line, BrokenDataError("unreadable file", f"{file}: line {line}, {what}")

    def labelled() -> Iterator[tuple[str, _Row]]:
        label: str | None = None
        bad: _Row | None = None
        for row in map(known, rows):
            if isinstance(row[1], BrokenDataError):
                bad = bad or row
                if label is not None:
                    yield label, row
                continue
            previous, label = label, "" if columns.episode is None else row[1][columns.episode]
            if bad is not None and label != previous:
                yield label, bad
            bad = None
            yield label, row
        if label is None and bad is not None:
            yield "", bad

    for label, part in groupby(labelled(), lambda pair: pair[0]):
        yield label, (row for _, row in part)


def _names_episode(cell: str) -> bool:
    """Whether it is a whole number, or a text that is none."""
    try:
        float(cell)
    except ValueError:
        return bool(cell.strip())
    return re.fullmatch(r"[+-]?\d+(\.0*)?", cell.strip()) is not None


def _outline(file: Path, columns: _Columns, files: int, before: int, periods: list[float]) -> Outline:
    """The episodes of a file. Adds the seconds that a step takes in each to `periods`."""
    episodes, lengths = [], []
    with _rows(file) as (_, rows):
        for i, (label, part) in enumerate(_by_episode(file, rows, columns)):
            problem, times, tasks, length = _facts(file, part, columns)
            number = last_number(file.stem) if columns.episode is None else last_number(label) if files == 1 else None
            name = file.name if columns.episode is None else f"{file.name} episode {label}"
            episodes.append(EpisodeInfo(before + i if number is None else number, name, tasks, problem))
            lengths.append(0 if problem else length)
            if len(times) > 1 and np.isfinite(times).all() and (passed := np.median(np.diff(times))) > 0:
                periods.append(float(passed))
    labels = [e.name for e in episodes]
    if not episodes or len(set(labels)) < len(labels):
        what = "the rows of an episode do not stand together" if episodes else "holds no rows"
        raise BrokenDataError("unreadable file", f"{file}: {what}", len(set(labels)) or 1)
    return Outline(file, tuple(episodes), tuple(lengths))


def _facts(
    file: Path, rows: Iterator[_Row], columns: _Columns
) -> tuple[BrokenDataError | None, NDArray[np.float64], tuple[str, ...], int]:
    """What is wrong with an episode, the times of its steps, its tasks and its length."""
    tasks: dict[str, None] = {}
    times = array("d")
    length = 0
    try:
        for line, row in rows:
            cells = _cells(row)
            length += 1
            if columns.task is not None:
                tasks[cells[columns.task]] = None
            if columns.time is not None:
                times.append(_number(file, line, cells, columns.time, columns, _seconds))
    except BrokenDataError as error:
        return error.bare(), np.empty(0), (), 0
    return None, np.array(times), tuple(tasks), length


def _steps(file: Path, rows: Iterator[_Row], columns: _Columns) -> Steps | BrokenDataError:
    """Row by row: the text of a whole file takes many times its numbers' memory."""
    values, times = array("d"), array("d")
    try:
        for line, row in rows:
            cells = _cells(row)
            values.extend(_number(file, line, cells, i, columns) for i in (*columns.actions, *columns.state))
            if columns.time is not None:
                times.append(_number(file, line, cells, columns.time, columns, _seconds))
    except BrokenDataError as error:
        return error.bare()
    table = np.array(values).reshape(-1, len(columns.actions) + len(columns.state))
    actions, state = np.split(table, [len(columns.actions)], axis=1)
    return Steps(
        np.ascontiguousarray(actions),
        np.ascontiguousarray(state) if columns.state else None,
        timestamps=None if columns.time is None else np.array(times),
    )


def _cells(row: list[str] | BrokenDataError) -> list[str]:
    if isinstance(row, BrokenDataError):
        raise row
    return row


def _float(cell: str) -> float:
    """As `float`, which takes 1_000 for 1000 as in Python's source."""
    if "_" in cell:
        raise ValueError(f"could not convert string to float: {cell!r}")
    return float(cell)


def _number(
    file: Path, line: int, cells: Sequence[str], i: int, columns: _Columns, parse: Callable[[str], float] = _float
) -> float:
    """An empty cell is NaN."""
    try:
        return parse(cells[i]) if cells[i].strip() else np.nan
    except ValueError as error:
        message = f"{file}: line {line}, column {columns.names[i]!r}: a cell is no number: {error}"
        raise BrokenDataError("unreadable file", message) from None


def _seconds(cell: str) -> float:
    """A number, or a date and time."""
    try:
        return _float(cell)
    except ValueError as error:
        try:
            moment = datetime.fromisoformat(cell.strip())
        except ValueError:
            raise error from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
