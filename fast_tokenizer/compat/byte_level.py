"""How the published tokenizers write bytes as characters, and which characters they split words at."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import numpy as np


def _byte_characters() -> list[str]:
    """GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the other 68 for U+0100, U+0101, ..."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


#: The character that stands for each byte.
BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {ch: b for b, ch in enumerate(BYTE_CHARACTERS)}


def token_bytes(token: str) -> bytes:
    """The bytes that a token decodes to. One with a character that stands for no byte is taken as it is, in UTF-8."""
    if all(ch in _BYTE_OF for ch in token):
        return bytes(_BYTE_OF[ch] for ch in token)
    return token.encode("utf-8")


@cache
def character_classes() -> bytes:
    """Class of every code point, 0x110000 bytes: 0 other, 1 letter, 2 number, 3 white space."""
    file = resources.files("fast_tokenizer") / "data" / "character_classes.json"
    table = json.loads(file.read_text())
    starts = np.array([*table["starts"], 0x110000])
    return np.repeat(np.array([int(c) for c in table["classes"]], np.uint8), np.diff(starts)).tobytes()
