"""Contenders: each proves its result before it is timed, and nothing that goes wrong goes unreported."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Call, Kept, time_alone, time_in_turn
from benchmarks.rows import DiffersError, ImpossibleError, LeftOutError, Row


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do a job.

    Attributes:
        name: Who.
        prepare: Builds whatever is not timed, does the job once, raises `DiffersError` if the result is wrong, and
            returns the call to time. ImportError and `ImpossibleError` are reported as what they say.
        threads: How many it may use.
        per: Pieces of work in a call; None: as many as everybody's.
    """

    name: str
    prepare: Callable[[], Call]
    threads: int = 1
    per: int | None = None


def race(row: Row, contenders: Sequence[Contender], *, seconds: float, per: int = 1) -> Iterator[Row]:
    """Times contenders in turn. Figures are of one piece of work, of which a call does `per`."""
    entries = [row.by(contender.name, contender.threads) for contender in contenders]
    calls: dict[int, Call] = {}
    for i, contender in enumerate(contenders):
        try:
            calls[i] = contender.prepare()
        except BaseException as error:
            entries[i] = problem(entries[i], error)
    gc.collect()
    pieces = [contenders[i].per or per for i in calls]
    timings = dict(zip(calls, time_in_turn(list(calls.values()), seconds, pieces), strict=True))
    for i, entry in enumerate(entries):
        yield entry.measured(**timings[i].figures()) if i in timings else entry


def alone(row: Row, prepare: Callable[[], Call], check: Callable[[Any], None], *, seconds: float) -> Row:
    """Times the one contender of this process, and measures the memory it adds.

    The result of what was timed is checked afterwards, because checking first would leave memory behind that the
    timed call then takes without adding any; nothing is reported before it was.
    """
    try:
        call = Kept(prepare())
        gc.collect()
        timing, added = time_alone(call, seconds)
        check(call.result)
    except BaseException as error:
        return problem(row, error)
    return row.measured(**timing.figures(), added_mib=added)


def problem(row: Row, error: BaseException) -> Row:
    """The row of a contender that did not make it. A panic in Rust arrives as a BaseException."""
    match error:
        case KeyboardInterrupt() | SystemExit():
            raise error
        case ImportError():
            if os.environ.get("FAST_TOKENIZER_CI"):
                return row.without("failed", f"not installed, but CI must have it: {error}")
            return row.without("not installed", str(error))
        case ImpossibleError():
            return row.without("impossible", str(error))
        case LeftOutError():
            return row.without("left out", str(error))
        case DiffersError():
            return row.without("differs", str(error))
        case MemoryError():
            return row.without("killed", f"out of memory: {error}")
        case _:
            return row.without("failed", f"{type(error).__name__}: {error}")


def require(right: bool, what: str) -> None:
    """Raises `DiffersError`."""
    if not right:
        raise DiffersError(what)
