"""Pieces: what a task makes of some of the chunks, as it travels. A row of an Arrow table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import _core
from fast_tokenizer.chunk import ChunkBlock
from fast_tokenizer.errors import ClusterError

#: The column that is large; the driver never reads it.
WORDS = "words"


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How chunks become coefficients.

    Attributes:
        scale: One entry, or one per dimension.
        coding: Order, ends of blocks and dead zone, as `_core.Corpus` takes them.
        normalizer: Center, half range and clip, as `_core.Corpus.add` takes them; empty for none.
    """

    scale: list[float]
    coding: dict[str, Any]
    normalizer: dict[str, Any]


def make_piece(blocks: Iterable[ChunkBlock], quantizer: Quantizer, item: int) -> Any:
    """Quantizes chunks of one D into a piece: the table."""
    import pyarrow as pa

    corpus = _core.Corpus(quantizer.scale, **quantizer.coding)
    horizons: set[int] = set()
    action_dim = 0
    for block in blocks:
        corpus.add(
            block.values, block.row_offsets, block.first, 1, scale=quantizer.scale, **quantizer.normalizer
        )  # one thread: a task has one CPU
        horizons |= block.horizons
        action_dim = block.action_dim
    values, counts = corpus.histogram()
    row = {
        "version": build(),
        "item": item,
        "chunks": corpus.chunks,
        "symbols": corpus.symbols,
        "clipped": corpus.clipped,
        "saturated": corpus.saturated,
        "horizons": sorted(horizons),
        "action_dim": action_dim,
        "values": values.tobytes(),
        "counts": counts.tobytes(),
        "words_bytes": 0,
    }
    words = corpus.words()
    row["words_bytes"] = words.nbytes
    table = pa.Table.from_pylist([row])
    return table.append_column(WORDS, pa.array([words.view(np.uint8).data], pa.large_binary()))


@dataclass(frozen=True, slots=True, eq=False)
class PieceSummary:
    """All of a piece but its words."""

    item: int
    chunks: int
    symbols: int
    clipped: int
    saturated: int
    horizons: frozenset[int]
    action_dim: int
    values: NDArray[np.int32]
    counts: NDArray[np.int64]
    words_bytes: int


def summary_rows(pieces: Any) -> list[dict[str, Any]]:
    """All of pieces (an Arrow table) but their words, as plain values."""
    rows: list[dict[str, Any]] = pieces.select([c for c in pieces.column_names if c != WORDS]).to_pylist()
    return rows


def to_summary(row: dict[str, Any]) -> PieceSummary:
    """From plain values. Raises ClusterError where another version of this package made the piece."""
    if row["version"] != build():
        raise other_version(row["version"], build())
    return PieceSummary(
        row["item"],
        row["chunks"],
        row["symbols"],
        row["clipped"],
        row["saturated"],
        frozenset(row["horizons"]),
        row["action_dim"],
        np.frombuffer(row["values"], np.int32),
        np.frombuffer(row["counts"], np.int64),
        row["words_bytes"],
    )


def add_to(corpus: _core.Corpus, pieces: Any) -> None:
    """Puts pieces (an Arrow table) into a corpus of the same coding."""
    for row, words in zip(summary_rows(pieces), pieces.column(WORDS), strict=True):
        array = np.frombuffer(words.as_buffer(), np.uint16)
        corpus.add_words(array, row["chunks"], row["symbols"], row["clipped"], row["saturated"])


def other_version(theirs: str, ours: str) -> ClusterError:
    """The error of a node that may not come to the same result."""
    return ClusterError(
        f"a node of the cluster runs fast_tokenizer {theirs}, this process {ours}: install the same version everywhere"
    )


def build() -> str:
    """What must be the same on all nodes, for the result to be that of one machine."""
    return str(_core.build_info()["version"])
