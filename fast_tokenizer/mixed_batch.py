"""Batches whose chunks are of different embodiments: taken apart by embodiment, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer._arguments import as_array
from fast_tokenizer.errors import DecodeError
from fast_tokenizer.mixture import MixtureSpec

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The chunks of a mixed batch that are of one embodiment.

    Attributes:
        name: The embodiment's.
        at: (n,) int64: their places in the batch, rising.
    """

    name: str
    at: NDArray[np.int64]


def groups(names: Sequence[str], mixture: MixtureSpec) -> list[Group]:
    """The chunks of each embodiment that occurs. Raises ValueError for a name that is none, with its place."""
    for i, name in enumerate(names):
        if name not in mixture.names:
            raise ValueError(
                f"chunk {i}: no embodiment is called {name!r}; there are {', '.join(map(repr, mixture.names))}"
            )
    array = np.array(list(names), dtype=object)
    return [Group(name, np.flatnonzero(array == name)) for name in mixture.names if name in names]


def each_group(members: Sequence[Group], make: Callable[[str, NDArray[np.int64]], _Made]) -> list[tuple[Group, _Made]]:
    """What `make` makes of each group: it is given the embodiment's name and the chunks' places in the batch.

    Raises:
        DecodeError, ValueError: As `make` does, of a chunk by its place in the batch, not in the group.
    """
    found = []
    for group in members:
        try:
            found.append((group, make(group.name, group.at)))
        except ValueError:
            _raise_of_its_chunk(group, make)
            raise
    return found


def _raise_of_its_chunk(group: Group, make: Callable[[str, NDArray[np.int64]], Any]) -> None:
    """Raises the error of the first chunk of the group that has one by itself."""
    for i in group.at.tolist():
        try:
            make(group.name, np.array([i]))
        except DecodeError as error:
            raise DecodeError(i, error.reason, error.got, error.expected) from None
        except ValueError as error:
            raise ValueError(f"chunk {i} ({group.name!r}): {str(error).removeprefix('chunk 0: ')}") from None


def chunks_of(chunks: Any, names: Sequence[str], mixture: MixtureSpec) -> list[NDArray[np.floating]]:
    """The chunks (T_i, D_i) of a mixed batch, one a name: a list or (N, T, D), padded to a common D or not.

    Raises:
        ValueError: Another number of chunks than of names, a wrong rank, or padding that holds anything but 0 or NaN.
    """
    if hasattr(chunks, "__array__") and np.ndim(chunks) != 3:
        raise ValueError(f"expected chunks of rank 3 (N, T, D), got shape {np.shape(chunks)}")
    arrays = [np.asarray(chunk) for chunk in chunks]
    if len(arrays) != len(names):
        raise ValueError(f"got {len(arrays)} chunks, but {len(names)} names of embodiments")
    for i, (array, name) in enumerate(zip(arrays, names, strict=True)):
        if array.ndim != 2:
            raise ValueError(f"chunk {i}: expected rank 2 (T, D) in a batch of several embodiments, got {array.shape}")
        dims = mixture[name].action_dim
        if dims is not None:
            arrays[i] = _without_padding(array, dims, f"chunk {i} ({name!r})", "dimension")
    return arrays


def without_padding_of(chunks: Any, name: str, mixture: MixtureSpec) -> Any:
    """Chunks of one embodiment: an array or a list whose D may be padded, as in a mixed batch; others as they are."""
    dims = mixture[name].action_dim
    if dims is None or not isinstance(chunks, np.ndarray | list | tuple) or isinstance(chunks, np.ma.MaskedArray):
        return chunks
    if isinstance(chunks, np.ndarray):
        return _chunk_without_padding(chunks, dims, 0, name) if chunks.ndim == 3 else chunks
    return [_chunk_without_padding(chunk, dims, i, name) for i, chunk in enumerate(chunks)]


def state_without_padding_of(state: Any, name: str, mixture: MixtureSpec) -> Any:
    """The states (N, S) of one embodiment, without padding of S."""
    rule = mixture[name].relative
    if rule is None or not isinstance(state, np.ndarray) or state.ndim != 2 or state.dtype.kind != "f":
        return state
    for i in np.flatnonzero(_held(state[:, rule.state_dim :]).any(axis=1))[:1]:
        _without_padding(state[i : i + 1], rule.state_dim, f"chunk {i} ({name!r})", "state column")
    return state[:, : rule.state_dim]


def states_of(state: Any, names: Sequence[str], mixture: MixtureSpec) -> list[NDArray[np.floating] | None]:
    """The states (S_i,) of a mixed batch: a list, or (N, S) padded; None for embodiments whose actions are absolute."""
    if state is None:
        for i, name in enumerate(names):
            require_state(mixture[name], None, f"chunk {i}: ")
        return [None] * len(names)
    rows = list(state)
    if len(rows) != len(names):
        raise ValueError(f"got {len(rows)} states, but {len(names)} names of embodiments")
    found: list[NDArray[np.floating] | None] = []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        rule = mixture[name].relative
        if rule is None:
            found.append(None)
            continue
        if row is None:
            require_state(mixture[name], None, f"chunk {i}: ")
        array = as_array(row)
        if array.ndim != 1:
            raise ValueError(f"chunk {i}: expected a state of rank 1 (S,), got shape {array.shape}")
        if array.dtype.kind == "f":
            array = _without_padding(array[None], rule.state_dim, f"chunk {i} ({name!r})", "state column")[0]
        if len(array) != rule.state_dim:
            raise ValueError(f"chunk {i} ({name!r}): has a state of {len(array)} columns, expected {rule.state_dim}")
        found.append(array)
    return found


def stacked(
    states: Sequence[NDArray[np.floating] | None], at: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.floating] | None:
    """The states (n, S) of chunks of one embodiment; None where its actions are absolute."""
    rows = [row for row in (states[i] for i in at) if row is not None]
    return np.stack(rows) if rows else None


def require_state(spec: Any, state: ArrayLike | None, where: str = "") -> None:
    """Refuses a call without the state that relative actions need, or with one that would not be used."""
    rule = spec.relative
    if rule is not None and state is None:
        of = "" if spec.embodiment is None else f" of {spec.embodiment!r}"
        raise ValueError(
            f"{where}dimensions {list(rule.dimensions)}{of} are relative to the state at the chunk's start: give "
            f"state=..., shape (N, {rule.state_dim})"
        )
    if rule is None and state is not None:
        raise ValueError(f"{where}this tokenizer's actions are absolute: it takes no state")


def in_order(parts: Iterable[tuple[Group, Sequence[Any]]], count: int) -> list[Any]:
    """What was made of the chunks of each group, in the batch's order."""
    found: list[Any] = [None] * count
    for group, values in parts:
        for i, value in zip(group.at, values, strict=True):
            found[i] = value
    return found


def _chunk_without_padding(chunk: Any, dims: int, first: int, name: str) -> Any:
    """The first `dims` dimensions of (T, D) or (N, T, D)."""
    is_plain = isinstance(chunk, np.ndarray) and not isinstance(chunk, np.ma.MaskedArray)
    if not is_plain or chunk.ndim not in (2, 3) or chunk.shape[-1] <= dims or chunk.dtype.kind != "f":
        return chunk
    stack = chunk[None] if chunk.ndim == 2 else chunk
    for i in np.flatnonzero(_held(stack[..., dims:]).any(axis=(1, 2)))[:1]:
        _without_padding(stack[i], dims, f"chunk {first + i} ({name!r})", "dimension")
    return chunk[..., :dims]


def _held(padding: NDArray[Any]) -> NDArray[np.bool_]:
    """Where padding is neither 0 nor NaN."""
    held: NDArray[np.bool_] = (padding != 0) & ~np.isnan(padding)
    return held


def _without_padding(array: NDArray[Any], dims: int, where: str, what: str) -> NDArray[Any]:
    """The first `dims` columns of (n, D). Padding is cut off, never encoded, so it must not hold anything."""
    padding = array[:, dims:]
    held = _held(padding)
    if held.any():
        step, d = (int(i) for i in np.argwhere(held)[0])
        at = "" if what == "state column" else f" at time step {step}"
        raise ValueError(
            f"{where}: padded {what} {dims + d} holds {padding[step, d]}{at}; the embodiment has {dims}, and padding "
            "must be 0 or NaN"
        )
    return array[:, :dims]
