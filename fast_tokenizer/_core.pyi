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
        dead_zone: float = 0.5,
        order: str = "frequency-first",
        end_of_block: str | None = None,
        parsing: str = "bpe",
        levels_beyond: int = 0,
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

class TextCodec:
    def __init__(
        self,
        scale: float,
        min_token: int,
        *,
        byte_tokens: list[int],
        alphabet_size: int,
        merges: NDArray[np.int64],
        ids: list[int],
        spellings: list[bytes],
        classes: bytes,
        repair_range: tuple[int, int],
    ) -> None: ...
    def quantize(
        self, chunks: NDArray[np.floating], row_offsets: _Offsets | None = None, num_threads: int = 0
    ) -> tuple[NDArray[np.int32], _Offsets, NDArray[np.int32], NDArray[np.bool_], bool]: ...
    def encode(
        self, text: NDArray[np.int32], offsets: _Offsets, num_threads: int = 0
    ) -> tuple[NDArray[np.int32], _Offsets, NDArray[np.int32]]: ...
    def words_as_bytes(self, text: NDArray[np.int32], offsets: _Offsets) -> tuple[NDArray[np.uint16], _Offsets]: ...
    def decode(
        self,
        ids: NDArray[np.int32],
        offsets: _Offsets,
        horizons: _Offsets,
        action_dim: int,
        num_threads: int = 0,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
    def expand(self, ids: NDArray[np.int32]) -> NDArray[np.int32]: ...

class Corpus:
    def __init__(
        self,
        scale: list[float],
        *,
        center: list[float] | None = None,
        half_range: list[float] | None = None,
        clip: float = ...,
        dead_zone: float = 0.5,
        order: str = "frequency-first",
        end_of_block: str | None = None,
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
        *,
        scale: list[float] | None = None,
        center: list[float] | None = None,
        half_range: list[float] | None = None,
        clip: float = ...,
    ) -> None:
        """Quantizes chunks and keeps them; with `scale`, by that and this normalizer instead of the corpus' own."""
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
    def histogram(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The coefficients that occur, ascending, and how often each does."""
    def words(self) -> NDArray[np.uint16]:
        """Everything that it holds besides the counts, for `add_words` of a corpus in another process."""
    def add_words(self, words: NDArray[np.uint16], chunks: int, symbols: int, clipped: int, saturated: int) -> None: ...
    def into_shards(
        self, lowest: int, highest: int, shards: int = 1, num_threads: int = 0, levels_beyond: int = 0
    ) -> CorpusShards:
        """Shards of the symbols that the range leaves. The corpus is used up."""
    def train(
        self,
        lowest: int,
        highest: int,
        vocab_size: int,
        min_frequency: int,
        max_token_symbols: int,
        num_threads: int = 0,
        progress: Callable[[int, int], None] | None = None,
        levels_beyond: int = 0,
    ) -> NDArray[np.int32]: ...

class CorpusShards:
    """Some of the chunks that BPE is trained on, for instance those of one process, for as many threads."""

    def count_pairs(self, num_threads: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Pairs (n, 2) and how often each stands here, before the first merge."""
    def apply(
        self, merges: NDArray[np.uint16], first: int, num_threads: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """Makes merges (n, 2), of which the first makes the id `first`.

        Returns for each (n, 2) how many ids stood left and right of it, then all these ids and how often each did, as
        `MergeDriver.add_effects` takes them.
        """

class MergeDriver:
    """Picks the merges for shards anywhere.

    Add the counts of each; then, while `next` returns merges, have each apply them and add the effects it returns.
    """

    def __init__(self, alphabet_size: int, vocab_size: int, min_frequency: int, max_token_symbols: int) -> None: ...
    def add_counts(self, pairs: NDArray[np.uint16], counts: NDArray[np.int64]) -> None: ...
    def next(self, most: int = 1) -> NDArray[np.uint16]:
        """The next merges (n, 2), n <= most: those that are certain before the first is made. None: n = 0."""
    def add_effects(self, entries: NDArray[np.int64], ids: NDArray[np.uint16], counts: NDArray[np.int64]) -> None: ...
    @property
    def merges(self) -> NDArray[np.int32]: ...

def fitted_range(
    values: NDArray[np.int32], counts: NDArray[np.int64], quantile: float, has_end: bool
) -> tuple[int, int]: ...
def train_bpe(
    symbols: NDArray[np.uint16],
    offsets: _Offsets,
    alphabet_size: int,
    vocab_size: int,
    min_frequency: int = 2,
    max_token_symbols: int = ...,
    num_threads: int = 0,
    shards: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int32]: ...
def dct2(
    x: NDArray[np.float64], *, method: str = "automatic", kernel: str | None = None, num_threads: int = 0
) -> NDArray[np.float64]: ...
def dct3(
    x: NDArray[np.float64], *, method: str = "automatic", kernel: str | None = None, num_threads: int = 0
) -> NDArray[np.float64]: ...
def build_info() -> dict[str, Any]: ...
