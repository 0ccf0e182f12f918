"""Errors and warnings of the library. Bad input other than these raises a plain `ValueError`."""

from __future__ import annotations


class ArtefactError(ValueError):
    """A saved tokenizer that cannot be trusted. The message names the file, the field and what is wrong."""


class DecodeError(ValueError):
    """Token ids that do not describe a chunk.

    Attributes:
        chunk: Index of the first such chunk in the batch.
        reason: ``"unknown token id"``, ``"broken characters"``, ``"too few symbols"`` or ``"too many symbols"``.
        got: The unknown id; the characters of a published tokenizer of which the ids hold a part only; or the number
            of symbols that the ids expand to.
        expected: The vocabulary size; 0; or the number of symbols of a chunk.
    """

    def __init__(self, chunk: int, reason: str, got: int, expected: int) -> None:
        self.chunk, self.reason, self.got, self.expected = chunk, reason, got, expected
        wanted = f"0..{expected - 1}" if reason == "unknown token id" else f"exactly {expected}"
        super().__init__(
            f"chunk {chunk}: {reason}: got {got}, expected {wanted}; "
            'decode(..., errors="repair") or decode_with_status() decode it all the same'
        )

    def __reduce__(self) -> tuple[type[DecodeError], tuple[int, str, int, int]]:
        return type(self), (self.chunk, self.reason, self.got, self.expected)


class DecodeRepairWarning(UserWarning):
    """`decode(..., errors="repair")` had to repair something. The message says what and where."""


class EncodeLossWarning(UserWarning):
    """A call that returns no counts lost something on the way to tokens. The message says what, and how much."""


class ClusterError(RuntimeError):
    """A Ray cluster is not there, lost more than could be made again, or runs another version of this package."""
