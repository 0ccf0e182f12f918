"""A corpus whose symbols lie on a cluster. To a fit it is what `_core.Corpus` is."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import _core
from fast_tokenizer.chunk import ChunkBlock
from fast_tokenizer.distributed.cluster import connect, import_ray, plain_errors
from fast_tokenizer.distributed.pieces import PieceSummary, Quantizer, make_piece, summary_rows, to_summary
from fast_tokenizer.distributed.shards import ClusterShards, ShardPlan
from fast_tokenizer.distributed.tasks import RETRIES, checked

#: Blocks of the driver's own that wait in the object store to be quantized, at most.
_WAITING = 8


class RayCorpus:
    """Coefficients of chunks on a Ray cluster: the driver holds their histogram and references to the rest.

    Attributes:
        coding: Order, ends of blocks and dead zone.
        spilled_bytes: Bytes of temporary files that training made.
    """

    def __init__(
        self,
        scale: list[float],
        *,
        memory_budget: int | None = None,
        spill_directory: str | None = None,
        **coding: Any,
    ) -> None:
        """An empty one, on the cluster that this process is connected to, or else as `connect()` finds one."""
        connect()
        self.coding = coding
        self.spilled_bytes = 0
        self._scale = scale
        self._memory_budget = memory_budget
        self._spill_directory = spill_directory
        self._pieces: list[tuple[Any, list[PieceSummary]]] = []
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._histogram = np.zeros(2 * _core.MAX_COEFFICIENT + 1, np.int64)

    def add(
        self,
        chunks: NDArray[np.floating],
        row_offsets: NDArray[np.int64] | None = None,
        first_chunk: int = 0,
        num_threads: int = 0,  # noqa: ARG002  (tasks have one each)
        *,
        scale: list[float] | None = None,
        **normalizer: Any,
    ) -> None:
        """As `_core.Corpus.add`, by a task of the cluster. An error of the values may come with a later call."""
        quantizer = Quantizer(scale or self._scale, self.coding, normalizer)
        block = import_ray().put(ChunkBlock(chunks, row_offsets, first_chunk))
        self.add_piece(_task(_quantize_block).remote(block, quantizer, len(self._pieces) + len(self._waiting)))
        while len(self._waiting) > _WAITING:
            self._take_first()

    def add_piece(self, piece: Any) -> None:
        """Takes pieces (a reference to their table) that a task is making. Their counts are known after `settle`.

        Raises what the task of an earlier one is known to have raised.
        """
        self._waiting.append((piece, _task(summary_rows).remote(piece)))
        while self._waiting and import_ray().wait([self._waiting[0][1]], timeout=0)[0]:
            self._take_first()

    def settle(self) -> list[PieceSummary]:
        """Waits for all pieces; what each counts, in the order in which they were added.

        Raises:
            ValueError: A value is not finite, as `_core.Corpus.add` says it.
            ClusterError: A piece was lost and cannot be made again.
        """
        while self._waiting:
            self._take_first()
        return [s for _, summaries in self._pieces for s in summaries]

    def _take_first(self) -> None:
        piece, reference = self._waiting.popleft()
        with plain_errors("quantizing"):
            summaries = [to_summary(checked(row)) for row in import_ray().get(reference)]
        self._pieces.append((piece, summaries))
        for summary in summaries:
            self._histogram[summary.values + _core.MAX_COEFFICIENT] += summary.counts

    @property
    def chunks(self) -> int:
        """Chunks."""
        return sum(s.chunks for s in self.settle())

    @property
    def symbols(self) -> int:
        """Coefficients."""
        return sum(s.symbols for s in self.settle())

    @property
    def clipped(self) -> int:
        """Values that the normaliser cut."""
        return sum(s.clipped for s in self.settle())

    @property
    def saturated(self) -> int:
        """Coefficients beyond the largest that is kept."""
        return sum(s.saturated for s in self.settle())

    def histogram(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The coefficients that occur, ascending, and how often each does."""
        self.settle()
        found = np.flatnonzero(self._histogram)
        return (found - _core.MAX_COEFFICIENT).astype(np.int32), self._histogram[found]

    def range(self, quantile: float) -> tuple[int, int]:
        """As `_core.Corpus.range`."""
        return _core.fitted_range(*self.histogram(), quantile, self.coding.get("end_of_block") is not None)

    def outside(self, lowest: int, highest: int) -> int:
        """Coefficients outside the range."""
        values, counts = self.histogram()
        return int(counts[(values < lowest) | (values > highest)].sum())

    def train(
        self,
        lowest: int,
        highest: int,
        vocab_size: int,
        min_frequency: int,
        max_token_symbols: int,
        num_threads: int = 0,  # noqa: ARG002  (a shard has the CPUs of its node)
        progress: Callable[[int, int], object] | None = None,
        levels_beyond: int = 0,
    ) -> NDArray[np.int32]:
        """As `_core.Corpus.train`; the same merges."""
        self.settle()
        alphabet_size = highest - lowest + 1 + 2 * levels_beyond + (self.coding.get("end_of_block") is not None)
        plan = ShardPlan(
            self.coding, self._memory_budget, self._spill_directory, lowest, highest, levels_beyond, alphabet_size
        )
        shards = ClusterShards(plan, self._pieces)
        try:
            merges = shards.train(vocab_size, min_frequency, max_token_symbols, progress or (lambda *_: None))
            if self._memory_budget is not None:
                self.spilled_bytes = shards.spilled_bytes()
        finally:
            shards.close()
        self._pieces = []
        return merges


def _quantize_block(block: ChunkBlock, quantizer: Quantizer, item: int) -> Any:
    return make_piece([block], quantizer, item)


@functools.cache
def _task(function: Callable[..., Any]) -> Any:
    """A function as a task, run again where its node is lost."""
    return import_ray().remote(function).options(max_retries=RETRIES)
