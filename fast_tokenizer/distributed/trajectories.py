"""Chunks of trajectories that the tasks of a cluster read, normalise, cut and quantize, by Ray Data.

Every path must lead to the same data on every node, as on a shared file system.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import native_normalizer
from fast_tokenizer.chunk import ChunkBlock, chunk_blocks
from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed.corpus import RayCorpus
from fast_tokenizer.distributed.pieces import Quantizer, make_piece
from fast_tokenizer.distributed.tasks import Row, checked, running, shared, spans, trajectories_of
from fast_tokenizer.errors import ClusterError
from fast_tokenizer.fitting import Collected, FitOptions, Progress, collected_since, counts_of
from fast_tokenizer.io import Trajectories
from fast_tokenizer.relative import Relative
from fast_tokenizer.statistics import EXACT_ROWS, NormalizerStatistics

#: Coefficients that a task quantizes, at most, unless one trajectory has more: a second's work or less, and 10 to 60 MB
#: of words.
TASK_COEFFICIENTS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryChunks:
    """The chunks of trajectories, which the workers of a cluster read: `FastTokenizer.fit(chunks, engine="ray")`.

    Statistics are of the recorded steps of trajectories that have a chunk, once each, or of every chunk's steps where
    actions are relative. Of `max_chunks` or `sample_fraction` the sample is that of one machine.

    Attributes:
        trajectories: Those to fit on; their files must be there on every node, under the same path.
        cut: How they are cut; with the rule of relative actions, whose states are read too.

    Example:
        >>> from fast_tokenizer.io import read
        >>> np.savez("demo.npz", actions=np.zeros((200, 2)), episode_ends=[80, 200])
        >>> TrajectoryChunks(read("demo.npz").trajectories, Cut(horizon=50, stride=10)).available
        12
    """

    trajectories: Trajectories
    cut: Cut

    @property
    def available(self) -> int:
        """Chunks that there are."""
        return int(self.cut.count(self.trajectories.lengths).sum())

    @property
    def relative(self) -> Relative | None:
        """The rule of relative actions."""
        return self.cut.relative

    def collect(self, corpus: RayCorpus, options: FitOptions, report: Progress) -> Collected:
        """Takes the statistics that the options ask for, then quantizes.

        Raises:
            BrokenDataError: An episode cannot be used.
            ClusterError: Something was lost with a node and cannot be made again.
            ValueError: Options that need one machine; no chunks; or the data changed while it was read.
        """
        if options.has_target:
            raise ValueError(
                "target_rmse and target_max_error are fitted on one machine: fit a sample there (engine='threads', "
                "max_chunks=...), and give the scale that it finds"
            )
        count = self._count(options)
        has_chunk = self.cut.count(self.trajectories.lengths) > 0
        if not has_chunk.all():  # statistics are of what is fitted on
            return replace(self, trajectories=self.trajectories.select(has_chunk)).collect(corpus, options, report)
        data = shared((self.trajectories, self.cut))
        kind, normalizer = options.statistics, options.normalize
        if kind is not None:
            normalizer = self._statistics(data, report).normalizer(kind, clip=options.clip)
        assert not isinstance(normalizer, str)
        assert isinstance(options.scale, float | tuple)
        before, pieces_before = counts_of(corpus), len(corpus.settle())
        quantizer = Quantizer(options.scales, options.coding, native_normalizer(normalizer))
        tasks = self._tasks(count, options.seed)
        with running(functools.partial(_quantize, data, quantizer), tasks, "quantizing") as dataset:
            for done, bundle in enumerate(dataset.iter_internal_ref_bundles(), 1):
                for piece in bundle.block_refs:
                    corpus.add_piece(piece)
                report("quantize", count * done // max(done, len(tasks)), count)
        summaries = corpus.settle()[pieces_before:]
        made = sorted(s.item for s in summaries)
        if made != [task["item"] for task in tasks]:
            raise ClusterError(f"expected one piece of each of {len(tasks)} tasks, got those of {made}")
        horizons = {t for s in summaries for t in s.horizons}
        dims = max(s.action_dim for s in summaries)
        left_out = self.available - count
        collected = collected_since(before, corpus, normalizer, options.scale, left_out, horizons, dims)
        if collected.chunks != count:
            raise ValueError(f"the data has {count} chunks by its outline, but {collected.chunks} were read")
        return collected

    def _count(self, options: FitOptions) -> int:
        """Chunks to fit on."""
        available = self.available
        if not available:
            raise ValueError("got no chunks to fit on")
        if options.sample_fraction is not None:
            return max(1, round(options.sample_fraction * available))
        return available if options.max_chunks is None else min(available, options.max_chunks)

    def _statistics(self, data: Any, report: Progress) -> NormalizerStatistics:
        """Of every step once, or, of relative actions, of every step of every chunk.

        To the bit those of one machine, which sketches so many rows at a time in the order of the data: each task takes
        the rows of one of these sketches, and the driver merges them in order. (What a trajectory at the border of two
        has is read by both.)
        """
        rows = self.trajectories.lengths
        if self.cut.relative is not None:
            rows = self.cut.count(rows) * self.cut.horizon
        ends = np.cumsum(rows)
        total = int(ends[-1])
        tasks: list[Row] = []
        for begin in range(0, total, EXACT_ROWS):
            end = min(begin + EXACT_ROWS, total)
            first, last = (int(i) for i in np.searchsorted(ends, [begin, end - 1], side="right"))
            skip = begin - (int(ends[first - 1]) if first else 0)
            tasks.append({"item": len(tasks), "first": first, "last": last + 1, "skip": skip, "rows": end - begin})
        statistics = NormalizerStatistics()
        waiting: dict[int, NormalizerStatistics] = {}
        merged = 0
        with running(functools.partial(_take_statistics, data, len(tasks) > 1), tasks, "statistics") as dataset:
            for done, row in enumerate(map(checked, dataset.iter_rows()), 1):
                waiting[row["item"]] = pickle.loads(row["statistics"])
                while merged in waiting:
                    statistics.merge(waiting.pop(merged))
                    merged += 1
                report("statistics", done, len(tasks))
        if statistics.rows != total:
            raise ValueError(f"the data has {total} steps by its outline, but {statistics.rows} were read")
        return statistics

    def _tasks(self, count: int, seed: int) -> list[Row]:
        """Consecutive trajectories, and which of their chunks are in the sample; without those that have none."""
        counts = self.cut.count(self.trajectories.lengths)
        tasks = spans(counts, TASK_COEFFICIENTS // (self.cut.horizon * self.trajectories.action_dim))
        chosen = _sample(int(counts.sum()), count, seed)
        if chosen is None:
            return tasks
        firsts = np.concatenate([[0], np.cumsum(counts)])
        for task in tasks:
            task["chosen"] = np.packbits(chosen[firsts[task["first"]] : firsts[task["last"]]]).tobytes()
        return tasks


def _sample(available: int, count: int, seed: int) -> NDArray[np.bool_] | None:
    """The chunks that `ChunkSample` keeps: those with the smallest keys. None: all."""
    if count >= available:
        return None
    keys = np.random.default_rng(seed).random(available)
    return np.asarray(keys <= np.partition(keys, count - 1)[count - 1])


# ---- In a task -----------------------------------------------------------------------------------------


def _take_statistics(data: Any, sketch: bool, table: Any) -> Any:
    """Of the rows that a task is told to take."""
    import pyarrow as pa

    (row,) = table.to_pylist()
    trajectories, cut = trajectories_of(data, row)
    statistics = NormalizerStatistics()
    skip, left = row["skip"], row["rows"]
    parts = (t.actions for t in trajectories) if cut.relative is None else cut.model_chunks(trajectories)
    for part in parts:
        taken = part.reshape(-1, part.shape[-1])[skip : skip + left]
        skip = max(0, skip - part.size // part.shape[-1])
        if len(taken):
            statistics.update(taken)
            left -= len(taken)
        if left == 0:
            break
    if sketch:
        statistics = statistics.sketched()
    return pa.Table.from_pylist([{"item": row["item"], "statistics": pickle.dumps(statistics)}])


def _quantize(data: Any, quantizer: Quantizer, table: Any) -> Any:
    """A piece of the chunks that a task is told to take."""
    (row,) = table.to_pylist()
    trajectories, cut = trajectories_of(data, row)
    chosen = None
    if row.get("chosen"):
        count = int(cut.count(trajectories.lengths).sum())
        chosen = np.unpackbits(np.frombuffer(row["chosen"], np.uint8), count=count).astype(np.bool_)
    return make_piece(_chosen(chunk_blocks(cut.model_chunks(trajectories)), chosen), quantizer, row["item"])


def _chosen(blocks: Iterator[ChunkBlock], chosen: NDArray[np.bool_] | None) -> Iterator[ChunkBlock]:
    for block in blocks:
        yield block if chosen is None else block.take(chosen[block.first : block.first + len(block)])
