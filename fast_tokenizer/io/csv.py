"""CSV: one file an episode, or a column `episode_index` or `episode` that says which rows are one.

The first row names the columns. Actions are all columns whose names begin with the key and go on with what is no
letter: `action_0`, `action.x`, `action[2]`; or columns of that very name: `--action-key x,y,z`. A column `timestamp` or
`time` in seconds gives the control rate, `task` the task text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps
from fast_tokenizer.io.source import Outline, Source, last_number, missing, natural, of_files

_EPISODE = ("episode_index", "episode")
_TIME = ("timestamp", "time")


def files_in(folder: Path) -> list[Path]:
    """The CSV files of a folder, by the numbers in their names."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() == ".csv"), key=lambda p: natural(p.name))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a row things stand."""

    actions: tuple[int, ...]
    state: tuple[int, ...]
    episode: int | None
    time: int | None
    task: int | None


def read_csv(source: Source) -> Dataset:
    """Opens a file, or all of a folder; they must have the same columns.

    Raises:
        BrokenDataError: A file is empty or has other columns, or a row has other cells, and nothing is skipped.
        ValueError: There are no such columns; the message has those that there are.
    """
    files = files_in(source.path) if source.path.is_dir() else [source.path]
    outlines: list[Outline] = []
    header: list[str] | None = None
    columns = _Columns((), (), None, None, None)
    rates: list[float] = []
    for file in files:
        try:
            with _rows(file) as (names, rows):
                if header is None:
                    header, columns = names, _columns(file, names, source)
                elif names != header:
                    raise BrokenDataError("missing column", f"{file}: has the columns {names}, others have {header}")
                before = sum(len(o.episodes) for o in outlines)
                outline = _outline(file, rows, columns, len(files), before, rates)
        except BrokenDataError as error:
            source.broken(error)
        else:
            outlines.append(outline)
    if header is None:
        raise ValueError(f"{source.path}: holds no file that can be read: {source.left_out[0]}")

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        with _rows(outline.file) as (_, rows):
            chosen = set(wanted)
            for i, (_, part) in enumerate(groupby(rows, lambda row: _episode(row, columns))):
                if i in chosen:
                    yield _steps(outline.file, list(part), columns)

    names = header
    return of_files(
        source,
        outlines,
        load_file,
        len(columns.actions),
        hz=float(f"{np.median(rates):.4g}") if rates else None,
        dimension_names=tuple(names[i] for i in columns.actions),
        state_names=tuple(names[i] for i in columns.state) or None,
    )


@contextmanager
def _rows(file: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """The names of the columns, and the rows, one at a time."""
    if problem := missing(file):
        raise problem
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.reader(opened)
            names = next(rows, None)
            if not names:
                raise BrokenDataError("unreadable file", f"{file}: is empty")

            def checked() -> Iterator[list[str]]:
                for row in rows:
                    if row and len(row) != len(names):
                        message = f"{file}: line {rows.line_num} has {len(row)} cells, expected {len(names)}"
                        raise BrokenDataError("unreadable file", message)
                    if row:
                        yield row

            yield [n.strip() for n in names], checked()
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenDataError("unreadable file", f"{file}: not a readable CSV file: {error}") from None


def _columns(file: Path, names: Sequence[str], source: Source) -> _Columns:
    def positions(keys: Sequence[str], what: str) -> tuple[int, ...]:
        found: list[int] = []
        for key in keys:
            here = [i for i, n in enumerate(names) if n == key]
            here = here or [i for i, n in enumerate(names) if re.match(re.escape(key) + r"[^A-Za-z]", n)]
            if not here:
                hint = "" if source.action_keys else ": give an action key"
                raise ValueError(f"{file}: has no column {key!r} or {key + '_0'!r} of {what}, only {list(names)}{hint}")
            found += here
        return tuple(found)

    def first(keys: Sequence[str]) -> int | None:
        return next((names.index(k) for k in keys if k in names), None)

    has_state = any(re.match(r"state([^A-Za-z]|$)", n) for n in names)
    usual = ("state",) if has_state else ()
    state_keys = (source.state_keys or usual) if source.state else ()
    return _Columns(
        positions(source.action_keys or ("action",), "actions"),
        positions(state_keys, "the state"),
        first(_EPISODE),
        first(_TIME),
        first(("task",)),
    )


def _episode(row: Sequence[str], columns: _Columns) -> str:
    return "" if columns.episode is None else row[columns.episode]


def _outline(
    file: Path, rows: Iterator[list[str]], columns: _Columns, files: int, before: int, rates: list[float]
) -> Outline:
    """The episodes of a file. Adds the control rate of each to `rates`."""
    episodes, lengths = [], []
    for i, (label, part) in enumerate(groupby(rows, lambda row: _episode(row, columns))):
        tasks: dict[str, None] = {}
        times, length = [], 0
        for row in part:
            length += 1
            if columns.task is not None:
                tasks[row[columns.task]] = None
            if columns.time is not None:
                times.append(row[columns.time])
        number = last_number(file.stem) if columns.episode is None else last_number(label) if files == 1 else None
        name = file.name if columns.episode is None else f"{file.name} episode {label}"
        episodes.append(EpisodeInfo(before + i if number is None else number, name, tuple(tasks)))
        lengths.append(length)
        passed = np.median(np.diff(_numbers(file, [times])[0])) if len(times) > 1 else 0.0
        if passed > 0:
            rates.append(float(1 / passed))
    labels = [e.name for e in episodes]
    if not episodes or len(set(labels)) < len(labels):
        what = "the rows of an episode do not stand together" if episodes else "holds no rows"
        raise BrokenDataError("unreadable file", f"{file}: {what}", len(set(labels)) or 1)
    return Outline(file, tuple(episodes), tuple(lengths))


def _steps(file: Path, rows: list[list[str]], columns: _Columns) -> Steps | BrokenDataError:
    try:
        return Steps(
            _numbers(file, [[row[i] for i in columns.actions] for row in rows]),
            _numbers(file, [[row[i] for i in columns.state] for row in rows]) if columns.state else None,
            timestamps=None if columns.time is None else _numbers(file, [[row[columns.time] for row in rows]])[0],
        )
    except BrokenDataError as error:
        return error


def _numbers(file: Path, cells: list[list[str]]) -> NDArray[np.float64]:
    """float64; an empty cell is NaN."""
    try:
        return np.array([[float(c) if c.strip() else np.nan for c in row] for row in cells], np.float64)
    except ValueError as error:
        raise BrokenDataError("unreadable file", f"{file}: a cell is no number: {error}") from None
