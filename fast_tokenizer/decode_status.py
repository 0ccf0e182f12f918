"""What decoding did to the chunks of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DecodeStatus:
    """What decoding did to each of N chunks; all counts are (N,) int64.

    Attributes:
        unknown: Ids outside the vocabulary, dropped.
        missing: Symbols that were filled with coefficient 0.
        extra: Symbols that were cut off.
        expected: Symbols that the chunk has: T * D.
        broken: Of a published tokenizer: characters of which the ids hold a part only, replaced by coefficient 0.
        clamped: Of a published tokenizer: coefficients of a chunk that is not `ok`, cut to what its vocabulary was
            fitted on.
    """

    unknown: NDArray[np.int64]
    missing: NDArray[np.int64]
    extra: NDArray[np.int64]
    expected: NDArray[np.int64]
    broken: NDArray[np.int64]
    clamped: NDArray[np.int64]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) bool: the ids described the chunk exactly."""
        ok: NDArray[np.bool_] = (self.unknown == 0) & (self.missing == 0) & (self.extra == 0) & (self.broken == 0)
        return ok

    @property
    def any_malformed(self) -> bool:
        """Some chunk is not `ok`."""
        return bool(self.unknown.any() or self.missing.any() or self.extra.any() or self.broken.any())

    def describe(self, chunk: int) -> str:
        """One line about one chunk."""
        if self.ok[chunk]:
            return f"chunk {chunk}: well-formed"
        parts = [
            f"{counts[chunk]} {what}"
            for counts, what in (
                (self.unknown, "unknown ids dropped"),
                (self.broken, "broken characters replaced by coefficient 0"),
                (self.missing, f"of {self.expected[chunk]} symbols missing, filled with 0"),
                (self.extra, f"symbols beyond {self.expected[chunk]} cut off"),
                (self.clamped, "coefficients clamped"),
            )
            if counts[chunk]
        ]
        return f"chunk {chunk}: " + ", ".join(parts)
