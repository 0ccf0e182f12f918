"""Writes fast_tokenizer/data/character_classes.json: how the regex of `tokenizers` classes every code point.

Python's own tables will not do: which characters are letters depends on the Unicode version, hence on the Python
version, and token ids must not. Run again when `tokenizers` moves to a newer Unicode version; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

CODE_POINTS = 0x110000
#: Class numbers as in csrc/text_bpe.hpp; 0 is everything else.
PATTERNS = {1: r"\p{L}", 2: r"\p{N}", 3: r"\s"}
TARGET = Path(__file__).parents[1] / "fast_tokenizer" / "data" / "character_classes.json"


def character_classes() -> NDArray[np.uint8]:
    """(0x110000,) class of each code point; surrogates, which are no characters, have class 0."""
    classes = np.zeros(CODE_POINTS, np.uint8)
    for number, pattern in PATTERNS.items():
        matching = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for start in range(0, CODE_POINTS, 4096):
            text = "".join(chr(c) for c in range(start, start + 4096) if not 0xD800 <= c <= 0xDFFF)
            for piece, _ in matching.pre_tokenize_str(text):
                classes[[ord(ch) for ch in piece]] = number
    return classes


def main() -> None:
    """Writes the file."""
    classes = character_classes()
    starts = np.flatnonzero(np.diff(classes, prepend=255))
    values = {
        "source": f"tokenizers {tokenizers.__version__}",
        "starts": starts.tolist(),
        "classes": "".join(str(c) for c in classes[starts]),
    }
    TARGET.write_text(json.dumps(values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
