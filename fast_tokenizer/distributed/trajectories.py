"""Chunks of trajectories that the tasks of a cluster read, normalise, cut and quantize, by Ray Data.

Every path must lead to the same data on every node, as on a shared file system.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import native_normalizer
from fast_tokenizer.chunk import ChunkBlock, chunk_blocks
from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed.cluster import connect, import_ray, plain_errors, quiet_data
from fast_tokenizer.distributed.corpus import RayCorpus
from fast_tokenizer.distributed.pieces import Quantizer, make_piece
from fast_tokenizer.fitting import Collected, FitOptions, Progress, collected_since, counts_of
from fast_tokenizer.io import Trajectories
from fast_tokenizer.statistics import EXACT_ROWS, NormalizerStatistics

#: Coefficients that a task makes, at most, unless one trajectory has more: a second's work or less, and 10 to 60 MB of
#: words. A task opens the files of its trajectories itself, so that smaller tasks would read large files more often.
TASK_COEFFICIENTS = 1 << 26

#: What tasks are told, and what they return: rows of plain values.
_Row = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryChunks:
    """The chunks of trajectories, as `FitPart` takes them.

    Attributes:
        trajectories: Those to fit on.
        cut: How they are cut.
        count: Chunks to take: all, or a uniform sample of so many, the one that `ChunkSample` draws.
    """

    trajectories: Trajectories
    cut: Cut
    count: int

    @property
    def available(self) -> int:
        """Chunks that there are."""
        return int(self.cut.count(self.trajectories.lengths).sum())

    def collect(self, corpus: RayCorpus, options: FitOptions, report: Progress) -> Collected:
        """Takes the statistics that the options ask for, then quantizes.

        Raises:
            BrokenDataError: An episode cannot be used.
            ClusterError: Something was lost with a node and cannot be made again.
            ValueError: Options that need one machine; or the data changed while it was read.
        """
        if options.has_target:
            raise ValueError(
                "target_rmse and target_max_error are fitted on one machine: fit a sample there (engine='threads', "
                "max_chunks=...), and give the scale that it finds"
            )
        connect()
        data = import_ray().put((self.trajectories, self.cut))
        kind, normalizer = options.statistics, options.normalize
        if kind is not None:
            normalizer = self._statistics(data, report).normalizer(kind, clip=options.clip)
        assert not isinstance(normalizer, str)
        assert isinstance(options.scale, float | tuple)
        before = counts_of(corpus)
        quantizer = Quantizer(options.scales, options.coding, native_normalizer(normalizer))
        tasks = self._tasks(options.seed)
        with _running(functools.partial(_quantize, data, quantizer), tasks, "quantizing") as dataset:
            for done, bundle in enumerate(dataset.iter_internal_ref_bundles(), 1):
                for piece in bundle.block_refs:
                    corpus.add_piece(piece)
                report("quantize", self.count * done // max(done, len(tasks)), self.count)
        summaries = corpus.settle()
        left_out = self.available - self.count
        horizons = {t for s in summaries for t in s.horizons}
        dims = max(s.action_dim for s in summaries)
        collected = collected_since(before, corpus, normalizer, options.scale, left_out, horizons, dims)
        if collected.chunks != self.count:
            raise ValueError(
                f"the data has {self.count} chunks by its outline, but {collected.chunks} were read: it changed meanwhile"
            )
        return collected

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
        tasks: list[_Row] = []
        for begin in range(0, total, EXACT_ROWS):
            end = min(begin + EXACT_ROWS, total)
            first, last = (int(i) for i in np.searchsorted(ends, [begin, end - 1], side="right"))
            skip = begin - (int(ends[first - 1]) if first else 0)
            tasks.append({"item": len(tasks), "first": first, "last": last + 1, "skip": skip, "rows": end - begin})
        statistics = NormalizerStatistics()
        waiting: dict[int, NormalizerStatistics] = {}
        merged = 0
        with _running(functools.partial(_take_statistics, data, len(tasks) > 1), tasks, "statistics") as dataset:
            for done, row in enumerate(dataset.iter_rows(), 1):
                waiting[row["item"]] = pickle.loads(row["statistics"])
                while merged in waiting:
                    statistics.merge(waiting.pop(merged))
                    merged += 1
                report("statistics", done, len(tasks))
        if statistics.rows != total:
            raise ValueError(f"the data has {total} steps by its outline, but {statistics.rows} were read")
        return statistics

    def _tasks(self, seed: int) -> list[_Row]:
        """Consecutive trajectories, and which of their chunks are in the sample; without those that have none."""
        counts = self.cut.count(self.trajectories.lengths)
        chosen = _sample(int(counts.sum()), self.count, seed)
        firsts = np.concatenate([[0], np.cumsum(counts)])
        a_chunk = self.cut.horizon * self.trajectories.action_dim
        tasks: list[_Row] = []
        first = 0
        while first < len(counts):
            last = int(np.searchsorted(firsts, firsts[first] + TASK_COEFFICIENTS // a_chunk, side="right")) - 1
            last = min(max(last, first + 1), len(counts))
            row: _Row = {"item": len(tasks), "first": first, "last": last, "chosen": b""}
            if chosen is not None:
                here = chosen[firsts[first] : firsts[last]]
                row["chosen"] = np.packbits(here).tobytes()
            if firsts[last] > firsts[first] and (chosen is None or here.any()):
                tasks.append(row)
            first = last
        return tasks


def _sample(available: int, count: int, seed: int) -> NDArray[np.bool_] | None:
    """The chunks that `ChunkSample` keeps: those with the smallest keys. None: all."""
    if count >= available:
        return None
    keys = np.random.default_rng(seed).random(available)
    return np.asarray(keys <= np.partition(keys, count - 1)[count - 1])


@contextmanager
def _running(task: Callable[[Any], Any], rows: list[_Row], doing: str) -> Iterator[Any]:
    """A Ray Data dataset of what the task makes of each row, a block each; and its errors as ours."""
    import_ray()
    from ray.data import from_items

    with quiet_data(), plain_errors(doing):
        dataset = from_items(rows, override_num_blocks=len(rows))
        yield dataset.map_batches(task, batch_size=1, batch_format="pyarrow")


# ---- In a task -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _opened(data: Any) -> tuple[Trajectories, Cut]:
    """What the tasks of a process share. It is large where there are many episodes, and takes time to unpack."""
    trajectories, cut = import_ray().get(data)
    return trajectories, cut


def _trajectories(data: Any, row: _Row) -> tuple[Trajectories, Cut]:
    """Those of a task."""
    trajectories, cut = _opened(data)
    mine = np.zeros(len(trajectories), np.bool_)
    mine[row["first"] : row["last"]] = True
    return trajectories.select(mine), cut


def _take_statistics(data: Any, sketch: bool, table: Any) -> Any:
    """Of the rows that a task is told to take."""
    import pyarrow as pa

    (row,) = table.to_pylist()
    trajectories, cut = _trajectories(data, row)
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
    trajectories, cut = _trajectories(data, row)
    chosen = None
    if row["chosen"]:
        count = int(cut.count(trajectories.lengths).sum())
        chosen = np.unpackbits(np.frombuffer(row["chosen"], np.uint8), count=count).astype(np.bool_)
    return make_piece(_chosen(chunk_blocks(cut.model_chunks(trajectories)), chosen), quantizer, row["item"])


def _chosen(blocks: Iterator[ChunkBlock], chosen: NDArray[np.bool_] | None) -> Iterator[ChunkBlock]:
    for block in blocks:
        yield block if chosen is None else block.take(chosen[block.first : block.first + len(block)])
