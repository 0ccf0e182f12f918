"""Shards on the nodes of a cluster: as many as there are nodes, each in an actor that is made again if it is lost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import _core
from fast_tokenizer.distributed.cluster import import_ray, nodes, plain_errors
from fast_tokenizer.distributed.pieces import PieceSummary, add_to
from fast_tokenizer.errors import ClusterError

#: Merges that the driver asks for at a time, at most. Fewer are certain at once: six to eight in the mean at 1,024 ids.
MERGES_A_TRIP = 64
#: A shard numbers its tokens in 32 bits.
_SHARD_SYMBOLS = 1 << 31
#: How often a share is made again, and how long to wait before. Together, more than the half minute in which Ray
#: notices that a node is gone.
_ATTEMPTS = 30
_SECONDS_BETWEEN = 2.0
#: The same where its node lives: then its process died, which it may do again, as for want of memory.
_CRASHES = 3


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What every shard is told.

    Attributes:
        coding: Order, ends of blocks and dead zone.
        memory_budget: Bytes of the heap that the corpus of an actor may take, or None.
        spill_directory: On the actor's node; None: the folder for temporary files there.
        lowest: Of the range.
        highest: Of the range.
        levels_beyond: Levels beyond each end.
        alphabet_size: Symbols of all that.
    """

    coding: dict[str, Any]
    memory_budget: int | None
    spill_directory: str | None
    lowest: int
    highest: int
    levels_beyond: int
    alphabet_size: int


class Shard:
    """What an actor does: holds the symbols of some pieces, and applies merges to them."""

    def fill(self, plan: ShardPlan, pieces: Sequence[Any], threads: int, merges: NDArray[np.uint16]) -> tuple[int, int]:
        """Holds pieces (references to Arrow tables) for so many threads, with these merges made.

        Not done where the actor is made: an error there would look as if its node were lost.

        Returns:
            The chunks and the coefficients that it holds.
        """
        ray = import_ray()
        directory = plan.spill_directory or tempfile.gettempdir()
        spill: dict[str, Any] = {"memory_budget": plan.memory_budget, "spill_directory": directory}
        self._corpus = _core.Corpus([1.0], **plan.coding, **spill)
        for piece in pieces:  # one in memory at a time
            add_to(self._corpus, ray.get(piece))
        counts = self._corpus.chunks, self._corpus.symbols
        self._threads = threads
        shards = max(threads, self._corpus.symbols // _SHARD_SYMBOLS + 1)
        self._shards = self._corpus.into_shards(plan.lowest, plan.highest, shards, threads, plan.levels_beyond)
        for begin in range(0, len(merges), MERGES_A_TRIP):
            self._shards.apply(merges[begin : begin + MERGES_A_TRIP], plan.alphabet_size + begin, threads)
        return counts

    def count_pairs(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """As `_core.CorpusShards.count_pairs`."""
        return self._shards.count_pairs(self._threads)

    def apply(
        self, merges: NDArray[np.uint16], first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """As `_core.CorpusShards.apply`."""
        return self._shards.apply(merges, first, self._threads)

    def spilled_bytes(self) -> int:
        """Bytes of temporary files made."""
        return self._corpus.spilled_bytes


@dataclass(slots=True, eq=False)
class _Share:
    """Some of the pieces, and the actor that holds them now."""

    number: int
    pieces: list[Any]
    chunks: int
    symbols: int
    node: str
    threads: int
    actor: Any = None
    filled: Any = None
    attempts: int = 0
    crashes: int = 0


class ClusterShards:
    """The shares of all nodes, as one: answers come once from each, whatever is lost on the way.

    An actor that is lost is made again on another node: filled from its pieces, which the cluster makes again where
    they were lost too, with the merges so far applied. It stands exactly where the lost one stood.
    """

    def __init__(self, plan: ShardPlan, pieces: Sequence[tuple[Any, list[PieceSummary]]]) -> None:
        """Shares out pieces (references and summaries) over the nodes, and has an actor filled on each."""
        self._plan = plan
        self._merges = np.empty((0, 2), np.uint16)  # that every share has made
        self._shares = _deal(pieces)
        for share in self._shares:
            self._start(share, share.node)

    def __len__(self) -> int:
        return len(self._shares)

    def train(
        self, vocab_size: int, min_frequency: int, max_token_symbols: int, progress: Callable[[int, int], object]
    ) -> NDArray[np.int32]:
        """The merges (M, 2) of all symbols."""
        alphabet_size = self._plan.alphabet_size
        driver = _core.MergeDriver(alphabet_size, vocab_size, min_frequency, max_token_symbols)
        for pairs, counts in self._ask("count_pairs"):
            driver.add_counts(pairs, counts)
        while len(merges := driver.next(MERGES_A_TRIP)):
            for effects in self._ask("apply", merges, alphabet_size + len(self._merges)):
                driver.add_effects(*effects)
            self._merges = np.concatenate([self._merges, merges])
            progress(len(self._merges), vocab_size - alphabet_size)
        return driver.merges

    def spilled_bytes(self) -> int:
        """Bytes of temporary files, on all nodes together."""
        return sum(self._ask("spilled_bytes"))

    def close(self) -> None:
        """Ends the actors; their symbols are gone."""
        ray = import_ray()
        for share in self._shares:
            if share.actor is not None:
                ray.kill(share.actor)
                share.actor = None

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """The answer of each share to one call, which all get at once."""
        answers = [getattr(share.actor, method).remote(*arguments) for share in self._shares]
        return [self._answer(share, a, method, arguments) for share, a in zip(self._shares, answers, strict=True)]

    def _answer(self, share: _Share, answer: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        ray = import_ray()
        while True:
            try:
                with plain_errors(f"share {share.number} of {len(self._shares)}", ray.exceptions.RayActorError):
                    if share.filled is not None:
                        self._check(share, ray.get(share.filled))
                        share.filled = None
                    return ray.get(answer)
            except ray.exceptions.RayActorError as error:
                self._restart(share, error)
            answer = getattr(share.actor, method).remote(*arguments)

    def _check(self, share: _Share, counts: tuple[int, int]) -> None:
        """No chunk is lost or counted twice."""
        if counts != (share.chunks, share.symbols):
            raise ClusterError(
                f"share {share.number} holds {counts[0]} chunks of {counts[1]} coefficients, expected {share.chunks} "
                f"of {share.symbols}; nothing was written"
            )

    def _restart(self, share: _Share, error: Exception) -> None:
        """Makes the actor of a share again, or gives up."""
        here = [node for node, _ in nodes()]
        share.attempts += 1
        share.crashes += share.node in here
        if share.attempts > _ATTEMPTS or share.crashes > _CRASHES:
            raise ClusterError(
                f"share {share.number} of {len(self._shares)} ({share.chunks} chunks) was lost {share.attempts} times, "
                f"last: {str(error).strip().splitlines()[0]}; nothing was written"
            ) from None
        import_ray().kill(share.actor)  # it may only have been out of reach
        time.sleep(_SECONDS_BETWEEN)
        others = [node for node in here if node != share.node] or [share.node]
        self._start(share, others[share.number % len(others)])

    def _start(self, share: _Share, node: str) -> None:
        """An actor reserves no CPU: where it did, the tasks that make lost pieces again could wait for ever."""
        ray = import_ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share.node = node
        share.actor = (
            ray.remote(Shard)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
            .remote()
        )
        share.filled = share.actor.fill.remote(self._plan, share.pieces, share.threads, self._merges)


def _deal(pieces: Sequence[tuple[Any, list[PieceSummary]]]) -> list[_Share]:
    """A share for each node, by its CPUs; the largest pieces first, each to whoever has the least for its CPUs."""
    usable = nodes()
    if not usable:
        raise ClusterError("no node of the cluster has a CPU")
    shares = [_Share(i, [], 0, 0, node, cpus) for i, (node, cpus) in enumerate(usable[: max(1, len(pieces))])]
    load = [0.0] * len(shares)
    sizes = [sum(s.words_bytes for s in summaries) for _, summaries in pieces]
    for p in sorted(range(len(pieces)), key=lambda p: -sizes[p]):
        i = min(range(len(shares)), key=lambda i: load[i])
        load[i] += sizes[p] / shares[i].threads
        reference, summaries = pieces[p]
        shares[i].pieces.append(reference)
        shares[i].chunks += sum(s.chunks for s in summaries)
        shares[i].symbols += sum(s.symbols for s in summaries)
    return [share for share in shares if share.pieces]
