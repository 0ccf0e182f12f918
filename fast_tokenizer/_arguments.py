"""Checks and conversions of what a call is given, shared by fitting and use."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.normalize import Normalizer

#: Bounds on what a call may ask for: far beyond use, below what overflows.
MAX_ACTION_DIM = 1 << 16
MAX_THREADS = 1024


def native_normalizer(normalizer: Normalizer | None) -> dict[str, Any]:
    """Keyword arguments of the core's classes."""
    if normalizer is None:
        return {}
    return {
        "center": normalizer.center.tolist(),
        "half_range": normalizer.half_range.tolist(),
        "clip": float("inf") if normalizer.clip is None else normalizer.clip,
    }


def thread_count(num_threads: int | None) -> int:
    """The core's count: 0 is all cores."""
    return (
        0
        if num_threads is None
        else integer("num_threads", num_threads, 1, MAX_THREADS, "positive, or None for all cores")
    )


def integer(name: str, value: int, lowest: int, highest: int, rule: str) -> int:
    """`value`, if it is an integer within the bounds, which `rule` puts into words."""
    try:
        if isinstance(value, bool):  # a flag in the wrong place, not 0 or 1; NumPy's has no index at all
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number > highest and not rule.startswith("in "):
        raise ValueError(f"{name} must be at most {highest}, got {number}")
    if not lowest <= number <= highest:
        raise ValueError(f"{name} must {'lie' if rule.startswith('in ') else 'be'} {rule}, got {number}")
    return number


def as_array(values: Any) -> NDArray[Any]:
    """As NumPy, without importing torch or JAX: of any device, with or without gradient, half precision as float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        return np.asarray(values.numpy())
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def without_tensors(values: Any) -> Any:
    """A tensor, or tensors in a list, by `as_array`; anything else as it is."""
    if isinstance(values, list | tuple):
        return [as_array(v) if hasattr(v, "detach") else v for v in values]
    return as_array(values) if hasattr(values, "detach") else values


def check_errors(errors: str) -> None:
    """Raises ValueError unless it is one of the two ways to take malformed ids."""
    if errors not in ("strict", "repair"):
        raise ValueError(f"errors must be 'strict' or 'repair', got {errors!r}")
