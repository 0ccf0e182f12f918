"""Checks and conversions of what a call is given, shared by fitting and use."""

from __future__ import annotations

import operator
from typing import Any

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
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number > highest and not rule.startswith("in "):
        raise ValueError(f"{name} must be at most {highest}, got {number}")
    if not lowest <= number <= highest:
        raise ValueError(f"{name} must {'lie' if rule.startswith('in ') else 'be'} {rule}, got {number}")
    return number


def check_errors(errors: str) -> None:
    """Raises ValueError unless it is one of the two ways to take malformed ids."""
    if errors not in ("strict", "repair"):
        raise ValueError(f"errors must be 'strict' or 'repair', got {errors!r}")
