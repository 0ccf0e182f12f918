"""Published vocabularies as their own package reads them: an oracle that knows nothing of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

ARTEFACTS = ("fast_plus", "fast_calvin_a10_s50", "fast_libero_act_c50")


@dataclass(frozen=True)
class ByteLevel:
    """token_bytes: what each id stands for. tokenizer: decodes them."""

    token_bytes: list[bytes]
    tokenizer: Tokenizer

    @classmethod
    def load(cls, shared_data: Path, name: str) -> ByteLevel:
        path = shared_data / "fast_artifacts" / name / "tokenizer.json"
        ids = json.loads(path.read_text())["model"]["vocab"]
        return cls([_bytes_of(token) for token in sorted(ids, key=ids.get)], Tokenizer.from_file(str(path)))

    def decodes_to(self, ids: list[int], symbols: int) -> bool:
        """So many characters, and none of them put in for bytes that are none."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        return len(text) == symbols and text.encode() == b"".join(self.token_bytes[i] for i in ids)


def _bytes_of(token: str) -> bytes:
    """A character stands for a byte: its own where it can be printed, else 256 and up in the order of the bytes."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(byte): byte for byte in printed}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(printed)))}
    return bytes(byte_of[c] for c in token) if set(token) <= byte_of.keys() else token.encode()
