"""The small ones, by pytest-benchmark: `pytest benchmarks --benchmark-only`.

For a quick look while working on the core: one call each, ours only, on ALOHA-like chunks. Comparisons and everything
that takes long are in the suite (`python -m benchmarks.run`). A plain `pytest` does not collect this file.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.competitors.symbols import symbols_of
from benchmarks.data import SCALE, Chunks, workload
from benchmarks.measure import for_each
from fast_tokenizer import FastTokenizer, _core

WORK = workload("aloha")


@pytest.fixture(scope="module")
def train() -> Chunks:
    """To fit on."""
    return WORK.train(2_000)


@pytest.fixture(scope="module")
def held() -> Chunks:
    """Held out."""
    return WORK.held(256)


@pytest.fixture(scope="module")
def tokenizer(train: Chunks) -> FastTokenizer:
    """Fitted on `train`."""
    return FastTokenizer.fit(train, WORK.vocab_size, SCALE)


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_encode(benchmark: BenchmarkFixture, tokenizer: FastTokenizer, held: Chunks, batch: int) -> None:
    benchmark(tokenizer.encode, held[:batch], num_threads=1)


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_decode(benchmark: BenchmarkFixture, tokenizer: FastTokenizer, held: Chunks, batch: int) -> None:
    benchmark(tokenizer.decode, tokenizer.encode(held[:batch]), num_threads=1)


def test_fit(benchmark: BenchmarkFixture, train: Chunks) -> None:
    benchmark(FastTokenizer.fit, train, WORK.vocab_size, SCALE, num_threads=1)


def test_dct(benchmark: BenchmarkFixture, held: Chunks) -> None:
    benchmark(_core.dct2, held[:64].astype(np.float64), num_threads=1)


def test_bpe_training(benchmark: BenchmarkFixture, train: Chunks) -> None:
    corpus = symbols_of(train, SCALE, -64, 63)
    benchmark(_core.train_bpe, corpus.symbols.ravel(), corpus.offsets, corpus.alphabet, 896, num_threads=1)


def test_bpe_encoding(benchmark: BenchmarkFixture, tokenizer: FastTokenizer, held: Chunks) -> None:
    spec = tokenizer.spec
    codec = _core.Codec([SCALE], spec.min_coefficient, spec.max_coefficient, spec.merges.astype(np.int64))
    rows = list(symbols_of(held, SCALE, spec.min_coefficient, spec.max_coefficient).symbols)
    benchmark(for_each(codec.encode_symbols, rows))
