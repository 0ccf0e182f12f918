"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A record is: its length (uint64, little-endian), a checksum of that, the content, a checksum of that. An Example is a
map from names to lists of bytes, floats or integers; each is length-delimited, so that what is not wanted (images) is
stepped over. The packages that read such files need TensorFlow, or copy every image and check no checksum.

Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/{example,feature}.proto,
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError

#: A feature's values: bytes as a list, numbers as an array.
Values: TypeAlias = "list[bytes] | NDArray[np.float32] | NDArray[np.int64]"

#: Bytes that are copied at a time for their checksum.
_BLOCK = 1 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Record:
    """Where a record stands in a mapped file."""

    def __init__(self, file: Path, view: memoryview, start: int, end: int) -> None:
        self.file, self._view, self._start, self._end = file, view, start, end

    def __str__(self) -> str:
        return f"{self.file} record at byte {self._start - 12}"

    def check(self, crc32c: Any) -> None:
        """Raises BrokenDataError where the content is not what was written. Reads all of it, images too."""
        if _masked(crc32c, self._view[self._start : self._end]) != _uint(self._view[self._end : self._end + 4]):
            raise BrokenDataError("unreadable file", f"{self}: its checksum is wrong")

    def features(self, wanted: Collection[str] | None = None) -> dict[str, Values]:
        """The wanted features; those that are not there are left out. None: the numbers of all, their bytes unread.

        Raises:
            BrokenDataError: It is no tf.train.Example.
        """
        found: dict[str, Values] = {}
        try:
            for _, features in _fields(self._view[self._start : self._end], {1}):
                for _, entry in _fields(features, {1}):
                    parts = dict(_fields(entry, {1, 2}))
                    name = bytes(parts[1]).decode()
                    if wanted is None or name in wanted:
                        found[name] = _values(parts.get(2, memoryview(b"")), read_bytes=wanted is not None)
        except (ValueError, KeyError, IndexError) as error:
            raise BrokenDataError("unreadable file", f"{self}: is no tf.train.Example: {error}") from None
        return found


def records(file: Path, crc32c: Any) -> Iterator[Record]:
    """The records of a file, mapped into memory. Only their lengths are read and checked.

    Raises:
        BrokenDataError: It is damaged or cut.
    """
    if file.stat().st_size == 0:
        return
    # Not closed by hand: a record may be held longer than the loop runs, and is then what keeps the map open.
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    start = released = 0
    while start < len(view):
        if _masked(crc32c, view[start : start + 8]) != _uint(view[start + 8 : start + 12]):
            raise BrokenDataError(
                "unreadable file", f"{file}: no TFRecord file, or damaged: wrong checksum at byte {start}"
            )
        end = start + 12 + _uint(view[start : start + 8])
        if end + 4 > len(view):
            raise BrokenDataError("unreadable file", f"{file}: is cut within the record at byte {start}")
        yield Record(file, view, start + 12, end)
        start = end + 4
        pages = start // mmap.PAGESIZE * mmap.PAGESIZE - released
        if pages and hasattr(mmap, "MADV_DONTNEED"):  # else the whole file would stay in memory in the end
            mapped.madvise(mmap.MADV_DONTNEED, released, pages)
            released += pages


def _masked(crc32c: Any, content: memoryview) -> int:
    """The checksum as the format has it: rotated right by 15 bits, plus a constant."""
    crc = 0
    for first in range(0, len(content), _BLOCK):  # the package takes bytes only
        crc = crc32c.extend(crc, bytes(content[first : first + _BLOCK]))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _uint(content: memoryview) -> int:
    return int.from_bytes(content, "little")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next thing stands."""
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number does not end")


def _fields(view: memoryview, numbers: Collection[int]) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message that have these numbers; others are stepped over."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, at = _varint(view, at)
            end = at + size
        elif kind == _VARINT:
            _, end = _varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"a field is of kind {kind}")
        if end > len(view):
            raise ValueError("a field is longer than its message")
        if number in numbers:
            if kind != _BYTES:
                raise ValueError(f"field {number} is of kind {kind}")
            yield number, view[at:end]
        at = end


def _values(feature: memoryview, *, read_bytes: bool) -> Values:
    """A tf.train.Feature: bytes_list = 1, float_list = 2, int64_list = 3, of which the last one counts."""
    values: Values = np.empty(0, np.float32)
    for kind, content in _fields(feature, {1, 2, 3}):
        if kind == 1:
            values = [bytes(v) for _, v in _fields(content, {1})] if read_bytes else []
        else:
            values = _floats(content) if kind == 2 else _integers(content)
    return values


def _floats(content: memoryview) -> NDArray[np.float32]:
    """A FloatList: packed, as all writers have it, or value by value."""
    if len(content) and content[0] == (1 << 3 | _FIXED32):
        rows = np.frombuffer(content, np.uint8).reshape(-1, 5)
        if (rows[:, 0] != content[0]).any():
            raise ValueError("a list of floats is half packed")
        return rows[:, 1:].copy().view("<f4").ravel()
    packed = [np.frombuffer(v, "<f4") for _, v in _fields(content, {1})]
    return np.concatenate(packed) if packed else np.empty(0, np.float32)


def _integers(content: memoryview) -> NDArray[np.int64]:
    """An Int64List, packed: numbers of seven bits a byte, of which the last has no eighth bit."""
    packed = np.frombuffer(b"".join(v for _, v in _fields(content, {1})), np.uint8)
    if len(packed) == 0:
        return np.empty(0, np.int64)
    if packed[-1] >= 0x80:
        raise ValueError("a number does not end")
    ends = np.flatnonzero(packed < 0x80) + 1
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    places = np.arange(len(packed)) - np.repeat(starts, ends - starts)
    if (places > 9).any():
        raise ValueError("a number is longer than 64 bits")
    shifted = (packed & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(shifted, starts).view(np.int64)
