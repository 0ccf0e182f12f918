"""Symbol sequences in the forms that other packages take.

Packages that work on text get one character a symbol: CJK ideographs, 20,992 code points in a row, all of one script
and no white space, in the order of the symbols, so that "the smallest pair" means the same. Packages that work on bytes
get ASCII, one byte a symbol, which is the same job as ours for alphabets up to 128; beyond, a symbol would be several
bytes that they merge first, and the merges are not those of symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import ImpossibleError
from fast_tokenizer import _core, _reference

FIRST_CHARACTER = 0x4E00
ASCII = 128

Merges: TypeAlias = "NDArray[np.int32]"
#: What a token stands for, for each merge in order: comparable between trainers that do not tell the pairs.
Expansions: TypeAlias = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sequences of one length: (N, T * D) uint16 below `alphabet`."""

    symbols: NDArray[np.uint16]
    alphabet: int

    @property
    def offsets(self) -> NDArray[np.int64]:
        """N + 1, as the core takes them."""
        return np.arange(len(self.symbols) + 1) * self.symbols.shape[1]

    def characters(self) -> list[str]:
        """One character a symbol."""
        points = self.symbols.astype("<u4") + FIRST_CHARACTER
        return [row.tobytes().decode("utf-32-le") for row in points]

    def ascii(self) -> list[str]:
        """One byte a symbol."""
        if self.alphabet > ASCII:
            raise ImpossibleError(f"works on bytes: {self.alphabet} symbols would be several bytes each")
        return [row.tobytes().decode("ascii") for row in self.symbols.astype(np.uint8)]


def symbols_of(chunks: NDArray[np.floating], scale: float, lowest: int, highest: int) -> Corpus:
    """Quantized chunks (N, T, D), by a codec without merges: its ids are the symbols."""
    codec = _core.Codec([scale], lowest, highest, np.empty((0, 2), np.int64))
    ids = codec.encode(np.ascontiguousarray(chunks))[0]
    return Corpus(ids.reshape(len(chunks), -1).astype(np.uint16), highest - lowest + 1)


def expansions(merges: Merges, alphabet: int) -> Expansions:
    """The symbols of each merged token."""
    return [tuple(e) for e in _reference.expansions([(int(a), int(b)) for a, b in merges], alphabet)[alphabet:]]


def character_of(symbols: Sequence[int]) -> str:
    """The text of one token."""
    return "".join(chr(FIRST_CHARACTER + s) for s in symbols)


def symbols_in(text: str) -> tuple[int, ...]:
    """The reverse."""
    return tuple(ord(character) - FIRST_CHARACTER for character in text)
