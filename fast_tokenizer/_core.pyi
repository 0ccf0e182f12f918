"""Native core. Arrays are C-contiguous; the callers in this package have validated them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_VOCAB_SIZE: int
MAX_TOKEN_SYMBOLS: int
MAX_COEFFICIENT: int
MAX_HORIZON: int
MAX_MAGNITUDE: float

_Offsets = NDArray[np.int64]

class Codec:
    def __init__(
        self,
        scale: list[float],
        lowest: int,
        highest: int,
        merges: NDArray[np.int64],
        *,
        center: list[float] | None = None,
        half_range: list[float] | None = None,
        clip: float = ...,
        kernel: str | None = None,
    ) -> None: ...
    def encode(
        self, chunks: NDArray[np.floating], row_offsets: _Offsets | None = None, num_threads: int = 0
    ) -> tuple[NDArray[np.int32], _Offsets, NDArray[np.int32], NDArray[np.int32]]: ...
    def decode(
        self,
        ids: NDArray[np.int32],
        offsets: _Offsets,
        horizons: _Offsets,
        action_dim: int,
        num_threads: int = 0,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
    def encode_symbols(self, symbols: NDArray[np.uint16]) -> NDArray[np.int32]: ...
    def expand(self, ids: NDArray[np.int32]) -> NDArray[np.uint16]: ...
    def expansion_lengths(self) -> NDArray[np.int32]: ...

class Corpus:
    def __init__(
        self,
        scale: list[float],
        *,
        center: list[float] | None = None,
        half_range: list[float] | None = None,
        clip: float = ...,
        memory_budget: int | None = None,
        spill_directory: str | None = None,
    ) -> None: ...
    @property
    def spilled_bytes(self) -> int: ...
    def add(
        self,
        chunks: NDArray[np.floating],
        row_offsets: _Offsets | None = None,
        first_chunk: int = 0,
        num_threads: int = 0,
    ) -> None: ...
    @property
    def chunks(self) -> int: ...
    @property
    def symbols(self) -> int: ...
    @property
    def clipped(self) -> int: ...
    @property
    def saturated(self) -> int: ...
    def range(self, quantile: float) -> tuple[int, int]: ...
    def outside(self, lowest: int, highest: int) -> int: ...
    def train(
        self,
        lowest: int,
        highest: int,
        vocab_size: int,
        min_frequency: int,
        max_token_symbols: int,
        num_threads: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.int32]: ...

def train_bpe(
    symbols: NDArray[np.uint16],
    offsets: _Offsets,
    alphabet_size: int,
    vocab_size: int,
    min_frequency: int = 2,
    max_token_symbols: int = ...,
    num_threads: int = 0,
    shards: int = 0,
) -> NDArray[np.int32]: ...
def dct2(
    x: NDArray[np.float64], *, method: str = "automatic", kernel: str | None = None, num_threads: int = 0
) -> NDArray[np.float64]: ...
def dct3(
    x: NDArray[np.float64], *, method: str = "automatic", kernel: str | None = None, num_threads: int = 0
) -> NDArray[np.float64]: ...
def build_info() -> dict[str, Any]: ...
