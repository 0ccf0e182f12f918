"""Reads a sidecar: token ids by the frame's number, of as much at a time as a training loop wants."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import as_array, integer
from fast_tokenizer.io.lerobot import lerobot_files
from fast_tokenizer.io.source import Source, fetch, leaves_folder, require
from fast_tokenizer.sidecar.manifest import FORMAT, MANIFEST, PARTS, Manifest
from fast_tokenizer.sidecar.plan import source_facts
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

#: Columns of a part that have a whole number a row, and their types; what `_Block.rows` has.
_NUMBERS = {
    "index": "int64",
    "episode_index": "int64",
    "frame_index": "int64",
    "real_steps": "int32",
    "saturated": "int32",
    "clipped": "int32",
    "dropped": "int32",
}
#: Types of all of them, and those of the table of the parts; a list's items may have any name.
_PART_TYPES = {**_NUMBERS, "ids": "list<int32>"}
_TABLE_TYPES = {
    "part": "string",
    "first_indices": "list<int64>",
    **dict.fromkeys(("last_index", "episodes", "frames", "tokens"), "int64"),
}
#: What parts say in their metadata as the manifest does.
_SHARED = ("fingerprint", "embodiment", "horizon", "dimensions", "action_keys", "state_keys")
#: What a damaged file, or one that somebody else made, raises in pyarrow, json or below.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, NotImplementedError, RecursionError)
#: Files that are kept open.
_OPEN_FILES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """N frames of a sidecar, in the order that they were asked for.

    Attributes:
        tokens: Token ids of the chunks that start at them, and what was counted of each.
        index: (N,) int64 numbers in the source.
        episode_index: (N,) int64 numbers of their episodes.
        frame_index: (N,) int64 numbers in their episodes.
        real_steps: (N,) int64 steps of each chunk within its episode; the others repeat its last action.
    """

    tokens: TokenBatch
    index: NDArray[np.int64]
    episode_index: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    real_steps: NDArray[np.int64]


class Sidecar:
    """Token ids of the frames of a LeRobot folder, as `write_sidecar` wrote them.

    Nothing but the table of the parts is read at first; then 512 frames at a time, of which the last used are kept.
    Goes to forked and spawned workers, each of which keeps its own; usable from several threads.

    Attributes:
        path: Its folder.
        manifest: What it holds.

    Example: see `fast_tokenizer.sidecar`.
    """

    def __init__(self, path: Path, manifest: Manifest, parts: Any, cache_bytes: int) -> None:
        self.path, self.manifest = path, manifest
        self._parts, self._cache_bytes = parts, cache_bytes
        first_indices = parts.column("first_indices").combine_chunks()
        self._first, self._groups = (a.to_numpy() for a in (first_indices.values, first_indices.offsets))
        self._forget()

    @classmethod
    def open(cls, path: str | os.PathLike[str], tokenizer: FastTokenizer, *, cache_bytes: int = 256 * 2**20) -> Sidecar:
        """Opens a sidecar that was written with this tokenizer.

        Args:
            path: Its folder.
            tokenizer: The one whose ids are wanted, with all its embodiments.
            cache_bytes: What is kept in memory, in each process. Some 250 bytes a frame of 50 ids; where a dataset is
                larger, frames drawn at random take 0.2 ms each.

        Raises:
            FileNotFoundError: There is no sidecar.
            ImportError: `pyarrow` is not installed.
            ValueError: It is not finished, damaged, or was written with another tokenizer; or no tokenizer is given.
        """
        if not isinstance(tokenizer, FastTokenizer):
            raise ValueError(f"expected a FastTokenizer, got {type(tokenizer).__name__}")
        sidecar = cls._load(Path(path), cache_bytes)
        written, wanted = sidecar.manifest.fingerprint, tokenizer.fingerprint()
        if written != wanted:
            name = sidecar.manifest.embodiment
            whole = f". It has the ids of {name!r}, one of several embodiments: give the tokenizer that has them all"
            raise ValueError(
                f"{path}: was written with the tokenizer {written[:16]}, but this one is {wanted[:16]}; "
                "its ids may mean something else: write the sidecar anew, or load the tokenizer it was written with"
                + ("" if name is None else whole)
            )
        if problem := _unlike(sidecar.manifest, tokenizer):
            raise ValueError(f"{sidecar.path / MANIFEST}: {problem}")
        return sidecar

    @classmethod
    def _load(cls, path: Path, cache_bytes: int) -> Sidecar:
        manifest = Manifest.load(path)
        parquet = require("pyarrow.parquet", "lerobot", path)
        try:
            content = (path / PARTS).read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != manifest.parts_digest:
            raise ValueError(f"{path / PARTS}: is not the table of parts that the manifest is about")
        try:
            parts = parquet.read_table(io.BytesIO(content), use_threads=False).combine_chunks()
            problem = _problem_of(parts, manifest)
        except _UNREADABLE as error:
            raise ValueError(f"{path / PARTS}: is no table of parts: {error}") from None
        if problem:
            raise ValueError(f"{path / PARTS}: {problem}")
        rule = "0 or more"
        return cls(path, manifest, parts, integer("cache_bytes", cache_bytes, 0, 2**62, rule))

    @classmethod
    def _reopen(cls, path: Path, parts_digest: str, cache_bytes: int) -> Sidecar:
        sidecar = cls._load(path, cache_bytes)
        if sidecar.manifest.parts_digest != parts_digest:
            raise ValueError(f"{path}: was replaced by another sidecar since it was opened")
        return sidecar

    def __reduce__(self) -> tuple[Any, tuple[Path, str, int]]:
        # By path: a worker reads its own, instead of receiving what this process has read.
        return type(self)._reopen, (self.path.resolve(), self.manifest.parts_digest, self._cache_bytes)

    def __len__(self) -> int:
        return self.manifest.frames

    __iter__ = None  # frames have numbers, with gaps where episodes were left out: `indices` has them

    def __repr__(self) -> str:
        m = self.manifest
        return f"Sidecar({self.path}: {m.frames} frames of {m.episodes} episodes, {m.tokens} ids, {m.parts} parts)"

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Token ids of one frame, by its number in the source."""
        return self.frames([index]).tokens[0]

    def indices(self) -> NDArray[np.int64]:
        """(N,) numbers of all frames that it has, rising. Reads that column of every part; 8 bytes a frame."""
        return np.concatenate([self._numbers(part) for part in range(self.manifest.parts)])

    def frames(self, indices: ArrayLike) -> Frames:
        """Frames by their numbers in the source, which is what LeRobot's samples have under `index`.

        Args:
            indices: (N,) integers, in any order, also repeatedly; a tensor, too.

        Raises:
            ValueError: No integers; a frame that it does not have; or a part that is damaged.
        """
        wanted = as_array(indices)
        if (wanted.dtype.kind not in "iu" and wanted.size) or wanted.ndim != 1:
            raise ValueError(f"expected frame numbers (N,), got {wanted.dtype} of shape {wanted.shape}")
        wanted = wanted.astype(np.int64, copy=False)
        group_of = np.searchsorted(self._first, wanted, "right") - 1
        rows, ids = np.empty((len(wanted), len(_NUMBERS)), np.int64), [np.empty(0, np.int32)] * len(wanted)
        order = np.argsort(group_of, kind="stable")
        ends = np.flatnonzero(np.diff(group_of[order], append=-2)) + 1
        for at in np.split(order, ends[:-1]) if len(order) else ():
            block = self._block(int(group_of[at[0]])) if group_of[at[0]] >= 0 else None
            row = None if block is None else block.find(wanted[at])
            if block is None or row is None:
                self._refuse(wanted[at], block)
            rows[at] = block.rows[row]
            starts, stops = block.offsets[row].tolist(), block.offsets[row + 1].tolist()
            for i, start, stop in zip(at.tolist(), starts, stops, strict=True):
                ids[i] = block.ids[start:stop]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(i) for i in ids], out=offsets[1:])
        counts = rows[:, 4:].astype(np.int32).T
        tokens = TokenBatch(np.concatenate([np.empty(0, np.int32), *ids]), offsets, *counts)
        return Frames(tokens, *rows[:, :4].T)

    def check_source(self, source: str | Path) -> None:
        """Compares a source with what the sidecar was written from, by `meta/`: files, episodes and their lengths.

        Values that were changed in place, with no frame more or less, are not noticed.

        Args:
            source: LeRobot folder, or the id of one on the hub.

        Raises:
            ValueError: It is another, or was changed; the message says how far.
        """
        m = self.manifest
        opened = Source(fetch(source), tuple(m.action_keys), tuple(m.state_keys), state=bool(m.state_keys), skip=True)
        facts = source_facts(lerobot_files(opened))
        for name in ("source_version", "source_episodes", "source_frames", "source_digest"):
            if facts[name] != getattr(m, name):
                what = name.removeprefix("source_")
                raise ValueError(
                    f"{source}: has {what} {str(facts[name])[:16]}, but {self.path} was written from one with {what} "
                    f"{str(getattr(m, name))[:16]}; write the sidecar anew"
                )

    # ---- Inside ----------------------------------------------------------------------------------

    def _refuse(self, wanted: NDArray[np.int64], block: _Block | None) -> NoReturn:
        absent = wanted if block is None else wanted[~np.isin(wanted, block.rows[:, 0])]
        raise ValueError(
            f"{self.path}: has no frame {absent[0]}, but {self.manifest.frames} others, from {self._first[0]} on; "
            f"episodes that were left out: {self.manifest.episodes_left_out or 'none'}"
        )

    def _forget(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._held = 0

    def _block(self, group: int) -> _Block:
        """A row group, counted through all parts."""
        if self._pid != os.getpid():  # forked: another thread may have held the lock
            self._forget()
        with self._lock:
            if group in self._blocks:
                self._blocks.move_to_end(group)
                return self._blocks[group]
            part = int(np.searchsorted(self._groups, group, "right")) - 1
            if part not in self._files:
                self._files[part] = self._file(part)
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)[1].close()
            self._files.move_to_end(part)
            begin, end = self._first[group], self._first[group + 1 : group + 2]
            try:
                block = _Block.read(self._files[part], group - int(self._groups[part]))
                problem = _wrong_numbers(block.rows[:, 0], begin, end) or block.wrong_values(self.manifest)
            except _UNREADABLE as error:
                problem = str(error)
            if problem:
                raise ValueError(f"{self.path / self._part(part)}: is damaged: {problem}")
            self._blocks[group] = block
            self._held += block.nbytes
            while self._held > self._cache_bytes and len(self._blocks) > 1:
                self._held -= self._blocks.popitem(last=False)[1].nbytes
            return block

    def _part(self, part: int) -> str:
        name = str(self._parts.column("part")[part].as_py())
        if leaves_folder(name):
            raise ValueError(f"{self.path / PARTS}: names a part outside of the folder, {name}")
        return name

    def _file(self, part: int) -> Any:
        """A part, opened and checked against manifest and table."""
        parquet = require("pyarrow.parquet", "lerobot", self.path)
        path = self.path / self._part(part)
        try:
            # Not mapped: a part that is overwritten in place, as by rsync --inplace, would end the process by SIGBUS.
            file = parquet.ParquetFile(path)
            about = json.loads((file.schema_arrow.metadata or {})[FORMAT.encode()])
            if not isinstance(about, dict):
                raise ValueError(f"its metadata is no object but {about!r:.80}")
            if problem := _wrong_types(file.schema_arrow, _PART_TYPES):
                raise ValueError(problem)
        except _UNREADABLE as error:
            raise ValueError(f"{path}: is no part of a sidecar: {error}") from None
        said = {"frames": file.metadata.num_rows, "row groups": file.num_row_groups}
        expected = {
            "frames": self._parts.column("frames")[part].as_py(),
            "row groups": int(self._groups[part + 1] - self._groups[part]),
        }
        for name in _SHARED:
            said[name], expected[name] = about.get(name), getattr(self.manifest, name)
        for name, value in expected.items():
            if said[name] != value:
                raise ValueError(
                    f"{path}: has {name} {said[name]!r:.80}, but the sidecar that was opened {value!r}; the part was "
                    "changed, or the sidecar was written anew"
                )
        return file

    def _numbers(self, part: int) -> NDArray[np.int64]:
        """`index` of a part's frames."""
        path = self.path / self._part(part)
        with self._file(part) as file:
            try:
                column = file.read(columns=["index"], use_threads=False).column("index")
                numbers: NDArray[np.int64] = column.to_numpy()
                first = self._groups[part]
                after = self._groups[part + 1]
                problem = "has empty cells" if column.null_count else None
                problem = problem or _wrong_numbers(numbers, self._first[first], self._first[after : after + 1])
            except _UNREADABLE as error:
                problem = str(error)
        if problem:
            raise ValueError(f"{path}: is damaged: {problem}")
        return numbers


def _unlike(manifest: Manifest, tokenizer: FastTokenizer) -> str | None:
    """What a manifest says that cannot be of a sidecar of this tokenizer, whose fingerprint it has."""
    try:
        spec = (tokenizer if manifest.embodiment is None else tokenizer.embodiment(manifest.embodiment)).one_spec
    except ValueError as error:
        return str(error)
    expected = {"vocab_size": tokenizer.vocab_size, "horizon": spec.time_horizon, "action_dim": spec.action_dim}
    for name, value in expected.items():
        if value is not None and getattr(manifest, name) != value:
            return f"has {name} {getattr(manifest, name)}, the tokenizer {value}"
    return None


def _problem_of(parts: Any, manifest: Manifest) -> str | None:
    """What is wrong with a table of parts, which may come from anywhere; None where all that is relied on holds."""
    if problem := _wrong_types(parts.schema, _TABLE_TYPES):
        return problem
    first = parts.column("first_indices").combine_chunks()
    if sum(parts.column(name).null_count for name in _TABLE_TYPES) or first.values.null_count:
        return "has empty cells"
    frames = parts.column("frames").to_numpy()
    if (frames < 1).any():
        return f"has a part of {frames.min()} frames"
    if (len(frames), int(frames.sum())) != (manifest.parts, manifest.frames):
        return f"has {int(frames.sum())} frames in {len(frames)} parts, expected {manifest.frames} in {manifest.parts}"
    for name in ("episodes", "tokens"):
        if (found := sum(parts.column(name).to_pylist())) != getattr(manifest, name):
            return f"has {found} {name}, the manifest {getattr(manifest, name)}"
    if not (np.diff(first.values.to_numpy()) > 0).all() or not (np.diff(first.offsets.to_numpy()) > 0).all():
        return "does not number its frames in rising order"
    return None


def _wrong_types(schema: Any, types: dict[str, str]) -> str | None:
    """Which column is not there, or of another type."""
    for name, expected in types.items():
        if name not in schema.names:
            return f"has no column {name!r}"
        kind = schema.field(name).type
        item = getattr(kind, "value_type", None)
        if expected != (str(kind) if item is None else f"{str(kind).partition('<')[0]}<{item}>"):
            return f"column {name!r} must be {expected}, got {kind}"
    return None


def _wrong_numbers(index: NDArray[np.int64], first: int, after: NDArray[np.int64]) -> str | None:
    """How numbers of frames are not those from `first` on, rising, up to the first that comes `after`, if any does."""
    if index[0] != first:
        return f"its frames begin at {index[0]}, by the table of the parts at {first}"
    if not (index[1:] > index[:-1]).all():  # a difference may overflow
        return "its frames are not in rising order"
    if len(after) and index[-1] >= after[0]:
        return f"its frames go up to {index[-1]}, by the table of the parts others begin at {after[0]}"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A row group: its numbers (n, 7), its ids, one after the other, and where those of each row begin."""

    rows: NDArray[np.int64]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    first: int
    has_gaps: bool

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.ids.nbytes + self.offsets.nbytes

    def find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The rows of frames, if all are here."""
        rows = np.searchsorted(self.rows[:, 0], wanted) if self.has_gaps else wanted - self.first
        inside = rows.min() >= 0 and rows.max() < len(self.rows)
        return rows if inside and (self.rows[rows, 0] == wanted).all() else None

    def wrong_values(self, manifest: Manifest) -> str | None:
        """What no writer writes: ids that the tokenizer does not have, steps beyond the chunk, losses below none."""
        for name, values, low, high in (
            ("ids", self.ids, 0, manifest.vocab_size - 1),
            ("ids a frame", np.diff(self.offsets), 0, manifest.longest),
            ("real_steps", self.rows[:, 3], 1, manifest.horizon),
            ("saturated, clipped or dropped", self.rows[:, 4:], 0, np.iinfo(np.int32).max),
        ):
            least, most = values.min(initial=low), values.max(initial=low)
            if least < low or most > high:
                return f"{name} must lie in {low}..{high}, got {least if least < low else most}"
        return None

    @classmethod
    def read(cls, file: Any, group: int) -> _Block:
        table = file.read_row_group(group, columns=[*_NUMBERS, "ids"], use_threads=False)
        if lacking := [name for name in _PART_TYPES if table.column(name).null_count]:
            raise ValueError(f"column {lacking[0]!r} has empty cells")
        ids = table.column("ids").combine_chunks()
        if ids.values.null_count:
            raise ValueError("column 'ids' has empty cells")
        rows = np.stack([table.column(n).to_numpy().astype(np.int64) for n in _NUMBERS], axis=1)
        first, last = int(rows[0, 0]), int(rows[-1, 0])
        # Copies: a view would keep the whole table.
        return cls(rows, ids.values.to_numpy().copy(), ids.offsets.to_numpy().copy(), first, last - first >= len(rows))
