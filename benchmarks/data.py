"""What is measured on: seeded chunks (N, T, D), float32, normalised to about [-1, 1] as users do.

Generated robots are windows of `fast_tokenizer.synthetic` episodes, normalised by the quantiles of those episodes. The
dense worst cases are made from their coefficients: iid Laplace integers, so that there are no runs of zeros and no two
chunks are alike. Recorded sets are in `benchmarks.recorded`.

In a run of the suite the arrays lie in a folder that the runner made (`FAST_TOKENIZER_BENCH_CACHE`). What is missing
there is made in a process of its own, so that making it leaves no trace in the memory of the process that measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from benchmarks import recorded
from benchmarks.sizes import DIMS, HORIZONS, VOCABULARIES
from fast_tokenizer import Normalizer, windows
from fast_tokenizer.io import Dataset, read
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

Chunks: TypeAlias = "NDArray[np.float32]"
#: (count, seed) to (count, T, D); fewer when a recorded set has no more.
Make: TypeAlias = Callable[[int, int], Chunks]

TRAIN_SEED, HELD_SEED = 1, 2
SCALE = 10.0
CACHE = "FAST_TOKENIZER_BENCH_CACHE"


@dataclass(frozen=True, slots=True)
class Workload:
    """Chunks of one shape, and the vocabulary they are used with."""

    name: str
    horizon: int
    action_dim: int
    make: Make
    vocab_size: int = 1024

    @property
    def symbols_per_chunk(self) -> int:
        """T * D."""
        return self.horizon * self.action_dim

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.name} ({self.horizon} x {self.action_dim})"

    def count(self, symbols: int, most: int = 1_000_000) -> int:
        """Chunks that have about so many symbols; at least 64."""
        return min(most, max(64, symbols // self.symbols_per_chunk))

    def chunks(self, count: int, seed: int) -> Chunks:
        """(count, T, D)."""
        folder = os.environ.get(CACHE)
        if folder is None:
            return self.make(count, seed)
        path = Path(folder) / f"{self.name}-{count}-{seed}.npy".replace(" ", "_")
        if not path.exists():
            arguments = ["-m", "benchmarks.data", self.name, str(count), str(seed), str(path)]
            subprocess.run([sys.executable, *arguments], check=True)
        return np.load(path)

    def train(self, count: int) -> Chunks:
        """To fit on."""
        return self.chunks(count, TRAIN_SEED)

    def held(self, count: int) -> Chunks:
        """Held out: of other episodes."""
        return self.chunks(count, HELD_SEED)


def _robot(name: str, horizon: int) -> Make:
    """Windows at a stride of 5 over enough episodes, shuffled."""

    def make(count: int, seed: int) -> Chunks:
        robot, stride = ROBOTS[name], 5
        length = max(round(14.0 * robot.hz), 2 * horizon)
        per_episode = (length - horizon) // stride + 1
        seconds = length / robot.hz
        episodes = generate_trajectories(robot, -(-count // per_episode), seed, (seconds, seconds))
        normalizer = Normalizer.fit(np.concatenate(episodes), "quantile")
        cut = np.concatenate([windows(e, horizon, stride) for e in episodes])
        order = np.random.default_rng(seed).permutation(len(cut))[:count]
        return normalizer.apply(cut[order]).astype(np.float32)

    return make


def _noise(horizon: int, dims: int, spread: float, alphabet: int) -> Make:
    """Chunks whose quantized coefficients are iid Laplace(spread) integers of a given alphabet, both ends present."""

    def make(count: int, seed: int) -> Chunks:
        rng = np.random.default_rng(seed)
        lowest, highest = -(alphabet // 2), alphabet - alphabet // 2 - 1
        coefficients = np.rint(rng.laplace(0, spread, (count, horizon, dims))).clip(lowest, highest)
        coefficients[0, -1, 0], coefficients[-1, -1, -1] = lowest, highest
        coefficients += rng.uniform(-0.45, 0.45, coefficients.shape)  # lost in rounding, as real ones are
        return scipy.fft.idct(coefficients / SCALE, axis=1, norm="ortho").astype(np.float32)

    return make


def _with_outlier(make: Make, lowest: int) -> Make:
    """One chunk of the fit is constant, so that the smallest coefficient of all is `lowest`."""

    def outlier(count: int, seed: int) -> Chunks:
        chunks = make(count, seed)
        if seed == TRAIN_SEED:
            chunks[0, :, 0] = lowest / SCALE / np.sqrt(chunks.shape[1])
        return chunks

    return outlier


def _of_width(make: Make, dims: int) -> Make:
    """Any D: the dimensions of unrelated chunks side by side."""

    def wide(count: int, seed: int) -> Chunks:
        width = make(1, seed).shape[2]
        beside = -(-dims // width)
        chunks = make(count * beside, seed).reshape(beside, count, -1, width)
        return np.ascontiguousarray(np.concatenate(list(chunks), axis=2)[:, :, :dims])

    return wide


def _recorded(dataset: Dataset) -> Make:
    """Windows of a recorded set: of four fifths of its episodes to fit on, of the others when held out."""

    def make(count: int, seed: int) -> Chunks:
        parts = recorded.split(dataset)
        blocks = parts.held() if seed == HELD_SEED else parts.fitted()
        chunks = parts.normalizer.apply(np.concatenate(list(blocks)))
        return chunks[np.random.default_rng(seed).permutation(len(chunks))[:count]].astype(np.float32)

    return make


def _generated_workloads() -> Iterator[Workload]:
    robots = {"aloha": 50, "droid": 15, "libero": 16, "humanoid": 60}
    for name, horizon in robots.items():
        yield Workload(name, horizon, ROBOTS[name].action_dim, _robot(name, horizon))
    yield Workload("long", 1000, 14, _robot("aloha", 1000), 2048)  # its coefficients alone take most of 1,024
    # The published pipeline's cost depends on which character coefficient 0 becomes: chr(-smallest coefficient).
    yield Workload("aloha, 0 is a sign", 50, 14, _with_outlier(_robot("aloha", 50), -182))
    yield Workload("aloha, 0 is a letter", 50, 14, _with_outlier(_robot("aloha", 50), -200))


def _dense_workloads() -> Iterator[Workload]:
    yield Workload("noise", 50, 14, _noise(50, 14, 4.0, 128))
    yield Workload("noise V=4096", 50, 14, _noise(50, 14, 4.0, 128), 4096)
    yield Workload("noise A=2000", 50, 14, _noise(50, 14, 80.0, 2000), 4096)
    yield Workload("noise V=16384", 50, 14, _noise(50, 14, 4.0, 128), 16384)


def _growth_workloads() -> Iterator[Workload]:
    for horizon in HORIZONS:
        yield Workload(f"aloha T={horizon}", horizon, 14, _robot("aloha", horizon), 2048)
    for dims in DIMS:
        yield Workload(f"aloha D={dims}", 50, dims, _of_width(_robot("aloha", 50), dims))
    for vocab_size in (256, *VOCABULARIES):
        yield Workload(f"aloha V={vocab_size}", 50, 14, _robot("aloha", 50), vocab_size)


_GENERATED: dict[str, Workload] = {
    workload.name: workload
    for family in (_generated_workloads, _dense_workloads, _growth_workloads)
    for workload in family()
}


def workload(name: str) -> Workload:
    """The workload of a name; "recorded " and the name of a set reads that set."""
    if name in _GENERATED:
        return _GENERATED[name]
    dataset = read(recorded.sets()[name.removeprefix("recorded ")])
    assert dataset.hz is not None
    return Workload(name, round(dataset.hz), dataset.action_dim, _recorded(dataset))


@dataclass(frozen=True, slots=True)
class Stream:
    """A million chunks that cost little to produce: each joins the halves of two chunks of a seeded pool.

    The first half of the dimensions comes from one chunk, the rest from another, both drawn at random: of a pool of P
    chunks there are P * P. Yields blocks (up to `block`, T, D).
    """

    pool: Chunks
    count: int
    seed: int = 3
    block: int = 2048

    def __iter__(self) -> Iterator[Chunks]:
        rng = np.random.default_rng(self.seed)
        half = self.pool.shape[2] // 2
        for start in range(0, self.count, self.block):
            size = min(self.block, self.count - start)
            chunks = self.pool[rng.integers(len(self.pool), size=size)]
            chunks[:, :, :half] = self.pool[rng.integers(len(self.pool), size=size), :, :half]
            yield chunks


def main() -> None:
    """Makes one array of the cache: name, count, seed, file."""
    name, count, seed, path = sys.argv[1:]
    os.environ.pop(CACHE, None)
    partial = Path(f"{path}.{os.getpid()}.npy")
    np.save(partial, workload(name).make(int(count), int(seed)))
    partial.rename(path)


if __name__ == "__main__":
    main()
