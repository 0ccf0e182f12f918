"""Trajectories, the chunks cut from them, and the one check that every chunk passes on its way to the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_HORIZON

#: (N, T, D) array, or chunks of differing T: arrays of shape (T_i, D) or (N_i, T_i, D).
ChunksLike: TypeAlias = "NDArray[np.floating] | Iterable[NDArray[np.floating]]"

#: Values gathered before a block goes to the core, when chunks come one by one.
_BLOCK_VALUES = 1 << 22
#: What becomes of windows that start in a trajectory and run over its end: they are left out, or filled with its last
#: action. See `windows`.
EpisodeEnd: TypeAlias = Literal["drop", "repeat-last"]

_NATIVE_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One recorded episode.

    Attributes:
        actions: (L, D) float32 or float64, in raw units.
        name: Where it comes from, for messages.
        hz: Control rate, or None when not recorded.
        dimension_names: D names, or None.
        state: (L, S) what was measured when each action was given, in raw units, or None.
        state_names: S names, or None.
        episode: Its number in its source, or None.
        tasks: What was to be done, in words; several where the task changed.
    """

    actions: NDArray[np.floating]
    name: str = ""
    hz: float | None = None
    dimension_names: tuple[str, ...] | None = None
    state: NDArray[np.floating] | None = None
    state_names: tuple[str, ...] | None = None
    episode: int | None = None
    tasks: tuple[str, ...] = ()


def windows(
    actions: NDArray[np.floating], horizon: int, stride: int = 1, *, episode_end: EpisodeEnd = "drop"
) -> NDArray[np.floating]:
    """Cuts a trajectory into chunks.

    Args:
        actions: (L, D).
        horizon: Steps T of a chunk.
        stride: Steps between the starts of neighbouring chunks: 0, stride, 2 * stride, ...
        episode_end: "drop": windows that would run over the end are left out, so that none are cut from a trajectory
            that is shorter than a chunk. "repeat-last": every start below L gives a chunk, filled with the last action
            where it runs over the end. `count_windows` says how many that are.

    Returns:
        (N, T, D), a copy.

    Raises:
        ValueError: The actions are not of rank 2, or an option is none.

    Example:
        >>> windows(np.arange(5.0)[:, None], horizon=3, stride=2)[:, :, 0]
        array([[0., 1., 2.],
               [2., 3., 4.]])
        >>> windows(np.arange(5.0)[:, None], horizon=3, stride=2, episode_end="repeat-last")[:, :, 0]
        array([[0., 1., 2.],
               [2., 3., 4.],
               [4., 4., 4.]])
    """
    if actions.ndim != 2:
        raise ValueError(f"expected a trajectory of rank 2 (L, D), got shape {actions.shape}")
    count = int(count_windows(np.array([len(actions)]), horizon, stride, episode_end)[0])
    if count == 0:
        return np.empty((0, horizon, actions.shape[1]), actions.dtype)
    over = (count - 1) * stride + horizon - len(actions)
    if over > 0:
        actions = np.concatenate([actions, np.repeat(actions[-1:], over, axis=0)])
    view = sliding_window_view(actions, horizon, axis=0)[::stride]
    return np.array(view[:count].transpose(0, 2, 1), order="C")


def count_windows(
    lengths: NDArray[np.integer], horizon: int, stride: int = 1, episode_end: EpisodeEnd = "drop"
) -> NDArray[np.int64]:
    """(E,): chunks that `windows` cuts from trajectories of these lengths (E,).

    Example:
        >>> for rule in ("drop", "repeat-last"):
        ...     count_windows(np.array([2, 5, 6]), horizon=3, stride=2, episode_end=rule).tolist()
        [0, 2, 2]
        [1, 3, 3]
    """
    if horizon < 1 or stride < 1:
        raise ValueError(f"horizon and stride must be positive, got {horizon} and {stride}")
    if episode_end not in get_args(EpisodeEnd):
        raise ValueError(f"episode_end must be one of {get_args(EpisodeEnd)}, got {episode_end!r}")
    starts = lengths if episode_end == "repeat-last" else lengths - horizon + 1  # those that have a chunk are below
    counts: NDArray[np.int64] = np.maximum(0, -(-starts // stride)).astype(np.int64)
    return counts


@dataclass(slots=True, eq=False)
class ChunkBlock:
    """Validated chunks as the core takes them: (N, T, D), or rows (sum of T_i, D) with the offsets of the chunks."""

    values: NDArray[np.floating]
    row_offsets: NDArray[np.int64] | None
    first: int

    def __len__(self) -> int:
        return len(self.values) if self.row_offsets is None else len(self.row_offsets) - 1

    @property
    def action_dim(self) -> int:
        """Dimensions D."""
        return int(self.values.shape[-1])

    @property
    def rows(self) -> NDArray[np.floating]:
        """All time steps of all chunks: (sum of T_i, D), not a copy."""
        return self.values.reshape(-1, self.action_dim)

    def rectangles(self) -> list[NDArray[np.floating]]:
        """The same as arrays (N_i, T_i, D): one, or one a chunk where their T differ."""
        if self.row_offsets is None:
            return [self.values]
        return [rows[None] for rows in np.split(self.values, self.row_offsets[1:-1])]

    def take(self, chosen: NDArray[np.bool_]) -> ChunkBlock:
        """The chosen chunks (N,), a copy. Their numbers in error messages are no longer those of the input."""
        if self.row_offsets is None:
            return ChunkBlock(self.values[chosen], None, self.first)
        lengths = np.diff(self.row_offsets)
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
        return ChunkBlock(self.values[np.repeat(chosen, lengths)], offsets, self.first)

    def require_finite(self) -> None:
        """Raises the ValueError that the core raises for a value that is not finite."""
        rows = self.rows
        if np.isfinite(rows).all():
            return
        row, d = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        if self.row_offsets is None:
            chunk, step = divmod(row, self.values.shape[1])
        else:
            chunk = int(np.searchsorted(self.row_offsets, row, side="right")) - 1
            step = row - int(self.row_offsets[chunk])
        kind = "NaN" if np.isnan(rows[row, d]) else "infinite"
        raise ValueError(
            f"chunk {self.first + chunk}: value at time step {step}, dimension {d} is {kind}; actions must be finite"
        )

    @property
    def horizons(self) -> set[int]:
        """Distinct numbers of steps T."""
        if self.row_offsets is None:
            return {int(self.values.shape[1])}
        return {int(t) for t in np.unique(np.diff(self.row_offsets))}


def chunk_blocks(
    chunks: ChunksLike, *, horizon: int | None = None, action_dim: int | None = None
) -> Iterator[ChunkBlock]:
    """Checks chunks and gathers them into blocks, reading an iterator no further than a block ahead.

    Args:
        chunks: See `ChunksLike`.
        horizon: The only T that is allowed, or None.
        action_dim: The only D that is allowed; None: that of the first chunk.

    Raises:
        ValueError: Wrong rank, dtype, T or D, or no values; names the chunk. (That values are finite is checked by the
            core, as it reads them.)
    """
    if isinstance(chunks, str | bytes) or (not hasattr(chunks, "__array__") and not isinstance(chunks, Iterable)):
        raise ValueError(f"expected an array of chunks or an iterable of arrays, got {type(chunks).__name__}")
    if hasattr(chunks, "__array__"):
        array = _float_array(chunks, "chunks")
        if array.ndim != 3:
            hint = "; for one chunk pass chunk[None]" if array.ndim == 2 else ""
            raise ValueError(f"expected chunks of rank 3 (N, T, D), got shape {array.shape}{hint}")
        _check_shape(array.shape, 0, horizon, action_dim)
        step = max(1, _BLOCK_VALUES * 4 // (array.shape[1] * array.shape[2]))
        for first in range(0, len(array), step):
            yield ChunkBlock(np.ascontiguousarray(array[first : first + step]), None, first)
        return
    keeps = isinstance(chunks, list | tuple)  # an iterator may fill one buffer again and again
    gathered: list[NDArray[np.floating]] = []
    first = count = values = 0
    for item in chunks:
        array = _float_array(item, f"chunk {count}")
        if array.ndim == 2:
            array = array[None]
        if array.ndim != 3:
            raise ValueError(f"chunk {count}: expected rank 2 (T, D) or 3 (N, T, D), got shape {array.shape}")
        if len(array) == 0:
            continue
        _check_shape(array.shape, count, horizon, action_dim)
        action_dim = array.shape[2]
        if gathered and (values + array.size > _BLOCK_VALUES or array.dtype != gathered[0].dtype):
            yield _join(gathered, first)
            gathered, first, values = [], count, 0
        gathered.append(array if keeps else array.copy())
        count += len(array)
        values += array.size
    if gathered:
        yield _join(gathered, first)


class Extent:
    """How much was read, and from where to where: enough to notice that data read twice are not the same."""

    def __init__(self) -> None:
        self.chunks = self.rows = 0
        self._bounds: NDArray[np.floating] | None = None

    def add(self, block: ChunkBlock) -> None:
        """Takes in a block."""
        rows = block.rows
        self.chunks += len(block)
        self.rows += len(rows)
        bounds = np.stack([rows.min(axis=0), -rows.max(axis=0)])
        self._bounds = bounds if self._bounds is None else np.minimum(self._bounds, bounds)

    def difference(self, other: Extent) -> str:
        """What is not the same, in words; empty where nothing is."""
        for name in ("chunks", "rows"):
            if getattr(self, name) != getattr(other, name):
                return f"gave {getattr(self, name)} {name} the first time but {getattr(other, name)} the second"
        return "" if np.array_equal(self._bounds, other._bounds) else "hold other values the second time"  # type: ignore[arg-type]


def blocks_again(chunks: ChunksLike, first: Extent) -> Iterator[ChunkBlock]:
    """As `chunk_blocks`, of chunks that were read before. Raises ValueError where they visibly differ now."""
    extent = Extent()
    for block in chunk_blocks(chunks):
        extent.add(block)
        yield block
    if difference := first.difference(extent):
        raise ValueError(
            f"chunks are read twice, and {difference}; give iter(chunks) to have them read once and held in memory"
        )


class ChunkSample:
    """A uniform sample of chunks that are seen once: every set of `size` of them is as likely as any other.

    Each chunk draws a random key, and the `size` smallest stay. So the sample depends on the order of the chunks and
    on the seed, not on the blocks in which they come. Holds up to 1.5 times `size` chunks beyond those of two blocks.

    Attributes:
        size: Chunks that are kept, at most.
        seen: Chunks so far.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seen = 0
        self._generator = np.random.default_rng(seed)
        self._parts: list[tuple[NDArray[np.float64], ChunkBlock]] = []
        self._highest = np.inf  # no larger key can be among the smallest

    def add(self, block: ChunkBlock) -> None:
        """Shows it more chunks. What is kept of them is a copy."""
        self.seen += len(block)
        keys = self._generator.random(len(block))
        chosen = keys < self._highest
        if chosen.any():
            self._parts.append((keys[chosen], block.take(chosen)))
        if self._held > self.size + self.size // 2:
            self._shrink()

    def drain(self) -> Iterator[ChunkBlock]:
        """Hands over the chunks that are kept, in the order in which they came; the sample holds none of them then."""
        self._shrink()
        parts, self._parts = self._parts[::-1], []
        while parts:
            yield parts.pop()[1]

    @property
    def left_out(self) -> int:
        """Chunks seen that are not in the sample."""
        return max(0, self.seen - self.size)

    @property
    def _held(self) -> int:
        return sum(len(keys) for keys, _ in self._parts)

    def _shrink(self) -> None:
        if self._held <= self.size:
            return
        keys = np.concatenate([k for k, _ in self._parts])
        self._highest = np.partition(keys, self.size - 1)[self.size - 1]
        parts, self._parts = self._parts[::-1], []
        while parts:  # one after the other: what does not stay is let go before the next is copied
            keys, block = parts.pop()
            stays = keys <= self._highest
            if stays.all():
                self._parts.append((keys, block))
            elif stays.any():
                self._parts.append((keys[stays], block.take(stays)))


def one_block(
    chunks: ChunksLike, *, horizon: int | None = None, action_dim: int | None = None, one_dtype: bool = False
) -> ChunkBlock:
    """All chunks as one block, in the wider type where they differ, which `one_dtype` refuses.

    Raises:
        ValueError: As `chunk_blocks`; or there are no chunks.
    """
    # The training loop's case, without a detour.
    if type(chunks) is np.ndarray and chunks.ndim == 3 and chunks.dtype in _NATIVE_FLOATS and len(chunks) > 0:
        _check_shape(chunks.shape, 0, horizon, action_dim)
        return ChunkBlock(np.ascontiguousarray(chunks), None, 0)
    blocks = list(chunk_blocks(chunks, horizon=horizon, action_dim=action_dim))
    if not blocks:
        raise ValueError("got no chunks")
    for block in blocks:
        if one_dtype and block.values.dtype != blocks[0].values.dtype:
            raise ValueError(
                f"chunk {block.first} is {block.values.dtype}, chunk 0 {blocks[0].values.dtype}: a published tokenizer "
                "rounds ties as the dtype has it; give chunks of one dtype"
            )
    return blocks[0] if len(blocks) == 1 else _concatenate(blocks)


def _float_array(values: Any, what: str) -> NDArray[np.floating]:
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{what}: is a masked array; what stands under the mask cannot be encoded")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # a ragged list; a tensor that NumPy cannot read
        raise ValueError(f"{what}: not an array of numbers: {error}") from None
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise ValueError(f"{what}: expected float32 or float64, got dtype {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_shape(shape: Sequence[int], chunk: int, horizon: int | None, action_dim: int | None) -> None:
    _, got_horizon, got_dim = shape
    if got_horizon < 1 or got_dim < 1:
        raise ValueError(f"chunk {chunk}: is empty: {got_horizon} time steps of {got_dim} dimensions")
    if got_horizon > MAX_HORIZON:
        raise ValueError(f"chunk {chunk}: has {got_horizon} time steps; the longest horizon is {MAX_HORIZON}")
    if horizon is not None and got_horizon != horizon:
        raise ValueError(f"chunk {chunk}: has {got_horizon} time steps, expected {horizon}")
    if action_dim is not None and got_dim != action_dim:
        raise ValueError(f"chunk {chunk}: has {got_dim} dimensions, expected {action_dim}")


def _join(arrays: list[NDArray[np.floating]], first: int) -> ChunkBlock:
    """One block of (N_i, T_i, D) arrays: (N, T, D) when all T_i agree, rows and offsets otherwise."""
    if len({a.shape[1] for a in arrays}) == 1:
        return ChunkBlock(np.ascontiguousarray(np.concatenate(arrays)), None, first)
    lengths = np.concatenate([np.full(len(a), a.shape[1], np.int64) for a in arrays])
    rows = np.concatenate([a.reshape(-1, a.shape[2]) for a in arrays])
    return ChunkBlock(np.ascontiguousarray(rows), np.concatenate([[0], np.cumsum(lengths)]), first)


def _concatenate(blocks: list[ChunkBlock]) -> ChunkBlock:
    return _join([array for block in blocks for array in block.rectangles()], 0)
