"""Relative actions: a chunk minus the state at its start, for chosen dimensions. Fitting and use go through here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import as_array, integer
from fast_tokenizer._core import MAX_MAGNITUDE
from fast_tokenizer.chunk import ChunkBlock, ChunksLike, chunk_blocks


@dataclass(frozen=True, slots=True)
class Relative:
    """Which dimensions of a chunk are taken relative to which columns of the state at its start.

    ``relative[t, d] = chunk[t, d] - state[c]`` for each chosen dimension d and its column c, in float64; the other
    dimensions stay as they are. The normaliser comes after it, so that its statistics are those of relative actions.

    Attributes:
        dimensions: (R,) action dimensions, rising.
        state_columns: (R,) the column of the state that each is relative to.
        state_dim: Columns S of the state.
        state_names: (R,) names of these columns, or None. Recorded, not used.

    Example:
        >>> rule = Relative((0,), (1,), state_dim=2)
        >>> rule.subtract(np.array([[[5.0, 1.0], [6.0, 0.0]]]), np.array([[9.0, 4.0]])).tolist()
        [[[1.0, 1.0], [2.0, 0.0]]]
    """

    dimensions: tuple[int, ...]
    state_columns: tuple[int, ...]
    state_dim: int
    state_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("dimensions", "state_columns"):
            values = tuple(integer(f"relative {name}", v, 0, 2**31 - 1, "at least 0") for v in getattr(self, name))
            object.__setattr__(self, name, values)
        object.__setattr__(self, "state_dim", integer("state_dim", self.state_dim, 1, 2**31 - 1, "positive"))
        if not self.dimensions:
            raise ValueError("relative must name at least one dimension; None is for absolute actions")
        if len(self.state_columns) != len(self.dimensions):
            raise ValueError(
                f"relative has {len(self.dimensions)} dimensions, but {len(self.state_columns)} columns of the state"
            )
        if any(a >= b for a, b in zip(self.dimensions, self.dimensions[1:], strict=False)):
            raise ValueError(f"relative dimensions must rise, got {list(self.dimensions)}")
        if max(self.state_columns) >= self.state_dim:
            raise ValueError(
                f"relative takes column {max(self.state_columns)} of the state, which has {self.state_dim} columns"
            )
        if self.state_names is not None:
            names = tuple(self.state_names)
            if len(names) != len(self.dimensions) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"state_names must be one string per relative dimension, got {list(names)}")
            object.__setattr__(self, "state_names", tuple(str(n) for n in names))

    def origin(self, state: ArrayLike, action_dim: int, chunks: int, first: int = 0) -> NDArray[np.float64]:
        """(N, D): what each chunk's dimensions are counted from; 0 for those that are absolute.

        Args:
            state: (N, S) float32 or float64, raw units.
            action_dim: Dimensions D.
            chunks: The number N that is expected.
            first: Number of the first chunk, for messages.

        Raises:
            ValueError: Wrong shape or dtype, or a value that is not finite in a column that is used.
        """
        self.check_action_dim(action_dim)
        rows = _state_rows(state, chunks, self.state_dim)
        origin = np.zeros((chunks, action_dim))
        origin[:, list(self.dimensions)] = used = rows[:, list(self.state_columns)].astype(np.float64)
        bad = ~(np.abs(used) <= MAX_MAGNITUDE)
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            raise ValueError(
                f"chunk {first + i}: state column {self.state_columns[j]} is {used[i, j]}; the state must be finite, "
                "and lie within +-1e100"
            )
        return origin

    def check_action_dim(self, action_dim: int) -> None:
        """Raises ValueError where the chunks have fewer dimensions than the rule names."""
        if self.dimensions[-1] >= action_dim:
            raise ValueError(f"dimension {self.dimensions[-1]} cannot be relative: the actions have {action_dim}")

    def subtract(self, chunks: NDArray[np.floating], state: ArrayLike) -> NDArray[np.float64]:
        """(N, T, D) relative actions of chunks (N, T, D) and the states (N, S) at their starts."""
        with np.errstate(over="ignore"):  # refused as infinite, where the chunk is named
            difference: NDArray[np.float64] = chunks - self.origin(state, chunks.shape[2], len(chunks))[:, None]
        return difference

    def subtract_from(self, block: ChunkBlock, state: ArrayLike) -> ChunkBlock:
        """The same of a block; the state is that of its chunks only."""
        origin = self.origin(state, block.action_dim, len(block), block.first)
        with np.errstate(over="ignore"):
            if block.row_offsets is None:
                return replace(block, values=block.values - origin[:, None])
            return replace(block, values=block.values - np.repeat(origin, np.diff(block.row_offsets), axis=0))


#: How `fit` is told which dimensions are relative: their indices (each to the column of the same index), or a rule.
RelativeLike: TypeAlias = "Relative | Sequence[int]"


def to_rule(relative: RelativeLike, state: ArrayLike) -> Relative:
    """The rule that dimensions and a state (N, S) make.

    Raises:
        ValueError: Dimensions that are none of the state, named twice, or no integers.
    """
    if isinstance(relative, Relative):
        return relative
    if isinstance(relative, str) or not isinstance(relative, Iterable):
        raise ValueError(f"relative must be a list of dimensions, or a Relative, got {relative!r}")
    dimensions = sorted(integer("a relative dimension", d, 0, 2**31 - 1, "at least 0") for d in relative)
    if len(set(dimensions)) < len(dimensions):
        raise ValueError(f"relative names a dimension twice: {dimensions}")
    shape = np.shape(as_array(state))
    if len(shape) != 2:
        raise ValueError(f"expected a state of rank 2 (N, S), got shape {shape}")
    return Relative(tuple(dimensions), tuple(dimensions), shape[1])


def relative_chunks(chunks: ChunksLike, rule: Relative, state: ArrayLike) -> ChunksLike:
    """Relative actions, to be read as often and in the same order as the chunks are; a copy of what is in memory.

    Raises:
        ValueError: Bad chunks or states; more of the one than of the other. For what is no array or list, when it is
            read.
    """
    rows = np.asarray(as_array(state))
    if hasattr(chunks, "__array__") or isinstance(chunks, list | tuple):
        return list(_subtracted(chunks, rule, rows))
    return _subtracted(chunks, rule, rows) if isinstance(chunks, Iterator) else _Again(chunks, rule, rows)


class _Again:
    """Relative actions of chunks that can be read several times."""

    def __init__(self, chunks: ChunksLike, rule: Relative, state: NDArray[np.floating]) -> None:
        self._parts = chunks, rule, state

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        return _subtracted(*self._parts)


def _subtracted(chunks: ChunksLike, rule: Relative, state: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    count = 0
    for block in chunk_blocks(chunks):
        of_block = state[count : count + len(block)]
        if len(of_block) < len(block):
            raise ValueError(f"got {len(state)} states, but more chunks: one state a chunk is needed")
        yield from rule.subtract_from(block, of_block).rectangles()
        count += len(block)
    if count < len(state):
        raise ValueError(f"got {len(state)} states, but {count} chunks: one state a chunk is needed")


def _state_rows(state: ArrayLike, chunks: int, state_dim: int) -> NDArray[np.floating]:
    if isinstance(state, np.ma.MaskedArray):
        raise ValueError("state: is a masked array; what stands under the mask cannot be used")
    try:
        rows = as_array(state)
    except ValueError as error:  # a ragged list
        raise ValueError(f"state: not an array of numbers: {error}") from None
    if rows.dtype.kind != "f" or rows.dtype.itemsize not in (4, 8):
        raise ValueError(f"state: expected float32 or float64, got dtype {rows.dtype}")
    if rows.shape != (chunks, state_dim):
        raise ValueError(
            f"expected a state of shape ({chunks}, {state_dim}), one of the start of each chunk, got {rows.shape}"
        )
    return rows
