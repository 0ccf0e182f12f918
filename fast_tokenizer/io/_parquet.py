"""Columns of parquet files as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io.dataset import BrokenDataError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into one error that names the file."""
    try:
        yield
    except BrokenDataError:
        raise
    except Exception as error:  # pyarrow raises what it likes
        raise BrokenDataError("unreadable file", f"{path}: not a readable parquet file: {error}") from error


def column_array(column: Any) -> NDArray[Any]:
    """(L, D) or (L,) of a column. Raises BrokenDataError where rows differ in width or are missing."""
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
        values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return values
    rows, flat = len(array), array.flatten().to_numpy(zero_copy_only=False)
    widths = np.unique(array.value_lengths().to_numpy(zero_copy_only=False)) if _varies(array) else None
    if array.null_count or (rows and len(flat) % rows) or (widths is not None and len(widths) > 1):
        raise BrokenDataError("other dimensions", "rows are missing or differ in width")
    table: NDArray[Any] = flat.reshape(rows, -1)
    return table


def _varies(array: Any) -> bool:
    return hasattr(array, "value_lengths") and "fixed_size" not in str(array.type)
