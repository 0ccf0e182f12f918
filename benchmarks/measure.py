"""Clocks and scales.

Time: the median of rounds. Contenders run in turn, one round each, in one process: whatever else the machine does hits
all of them, and their ratios come from one run. A turn lasts at least `TURN` seconds, short calls being repeated, so
that all are timed alike: in the state that their own work leaves the caches in, and not somebody else's.

Memory: what a call adds. The highest resident size during the call, less the resident size before it. On Linux the
high-water mark is reset before the call (`/proc/self/clear_refs`) and read from `/proc/self/status`; elsewhere it is
`getrusage`'s, which cannot be reset, so that the memory is what the call adds to the highest before. (On Linux,
`getrusage` also reports what the parent held when it started the process.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], object]
Clock = Callable[[], float]

FEWEST_ROUNDS = 3
MOST_ROUNDS = 25
TURN = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: the median of rounds, and their quartiles."""

    seconds: float
    low: float
    high: float

    @classmethod
    def of(cls, taken: Sequence[float], per: int = 1) -> Timing:
        """Of a list of times, of `per` pieces of work each."""
        low, median, high = np.percentile(taken, (25, 50, 75)) / per
        return cls(float(median), float(low), float(high))

    def figures(self) -> dict[str, float]:
        """For a row."""
        return asdict(self)


class Kept:
    """A call that keeps its last result. The one before is freed first, else every round would be done beside it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.result: Any = None

    def __call__(self) -> None:
        """Does it once more."""
        self.result = None
        self.result = self._call()


def for_each(do: Callable[[Any], object], items: Sequence[Any]) -> Call:
    """A call that does something with every item, and keeps no result.

    Kept results would need fresh memory for each, whose first touch costs more than some of what is measured here.
    """

    def call() -> None:
        for item in items:
            do(item)

    return call


def seconds_of(call: Call) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds_of_turn(call: Call, least: float, clock: Clock = time.perf_counter) -> float:
    """Time of one call by a clock, the mean of as many as `least` seconds take."""
    count, start, begun = 0, time.perf_counter(), clock()
    while count == 0 or time.perf_counter() - start < least:
        call()
        count += 1
    return (clock() - begun) / count


def time_in_turn(
    calls: Sequence[Call], budget: float, per: Sequence[int] | None = None, clock: Clock = time.perf_counter
) -> list[Timing]:
    """Times calls in turn, at least three rounds and until the budget in seconds is spent.

    Timings are of one piece of work, of which call i does `per[i]`, by a clock: wall time, or for what never waits and
    has but one thread `time.thread_time`, which does not count what the rest of the machine takes.
    """
    taken: list[list[float]] = [[] for _ in calls]
    if not calls:
        return []
    end = time.perf_counter() + budget
    while len(taken[0]) < MOST_ROUNDS and (len(taken[0]) < FEWEST_ROUNDS or time.perf_counter() < end):
        for call, times in zip(calls, taken, strict=True):
            times.append(seconds_of_turn(call, min(TURN, budget), clock))
    return [Timing.of(times, pieces) for times, pieces in zip(taken, per or [1] * len(calls), strict=True)]


def time_alone(call: Call, budget: float) -> tuple[Timing, float]:
    """Times one call that may take long, and the memory in MiB that the first round adds.

    Rounds are repeated while the next one is likely to end within the budget in seconds.
    """
    _reset_peak()
    before = _resident_mib()
    taken = [seconds_of(call)]
    added = _peak_mib() - before
    while len(taken) < MOST_ROUNDS and sum(taken) + taken[-1] < budget:
        taken.append(seconds_of(call))
    return Timing.of(taken), added


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**10
    raise KeyError(field)


if sys.platform == "linux":

    def _resident_mib() -> float:
        return _status("VmRSS:")

    def _peak_mib() -> float:
        return _status("VmHWM:")

    def _reset_peak() -> None:
        Path("/proc/self/clear_refs").write_text("5")

else:

    def _peak_mib() -> float:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

    _resident_mib = _peak_mib

    def _reset_peak() -> None:
        pass
