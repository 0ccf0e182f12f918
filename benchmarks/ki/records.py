"""Results as they are saved, and what is read from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.ki.statistics import Reached, at_time, time_to


@dataclass(frozen=True)
class Run:
    """One run of an arm."""

    record: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Which."""
        return int(self.record["seed"])

    @property
    def last(self) -> Mapping[str, float]:
        """The measurements after the last step."""
        last: Mapping[str, float] = self.record["curve"][-1]
        return last

    def column(self, name: str) -> list[float]:
        """One measurement along the curve."""
        return [point[name] for point in self.record["curve"]]

    def reached(self, threshold: float, clock: str = "step") -> Reached:
        """Steps, or seconds, to the threshold."""
        return time_to(threshold, self.column(clock), self.column("error"))

    def at(self, seconds: float, name: str) -> float:
        """A measurement at a time between two steps that were measured."""
        return at_time(seconds, self.column("seconds"), self.column(name))


class Runs:
    """The reported runs, by arm, in the order of their seeds."""

    def __init__(self, records: Iterable[Mapping[str, Any]], threshold: float) -> None:
        self.threshold = threshold
        self._by_arm: dict[str, list[Run]] = {}
        for record in sorted(records, key=lambda r: r["seed"]):
            self._by_arm.setdefault(record["arm"], []).append(Run(record))
        if len({tuple(run.seed for run in runs) for runs in self._by_arm.values()}) > 1:
            raise ValueError(
                f"arms have different seeds: { ({a: [r.seed for r in rs] for a, rs in self._by_arm.items()}) }"
            )

    def __getitem__(self, arm: str) -> list[Run]:
        return self._by_arm[arm]

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the first results."""
        return list(self._by_arm)

    def equal_time(self, seed: int) -> float:
        """Seconds that the fastest arm of a seed took for all its steps."""
        return min(run.last["seconds"] for runs in self._by_arm.values() for run in runs if run.seed == seed)

    def value(self, run: Run, measurement: str) -> float:
        """A figure of a run by its name; never reached counts as the steps of the run."""
        match measurement.split("_", 1):
            case ["swapped", name]:
                return float(run.record["swapped"][name])
            case ["steps", "to_threshold"]:
                return run.reached(self.threshold).at
            case [name, "in_equal_time"]:
                return run.at(self.equal_time(run.seed), name)
            case ["trained", name]:
                return float(run.record["as_trained"][name])
        return float(run.last[measurement])

    def values(self, arm: str, measurement: str) -> list[float]:
        """Of all seeds."""
        return [self.value(run, measurement) for run in self._by_arm[arm]]


def choose_rate(sweep: Iterable[Mapping[str, Any]]) -> float:
    """The learning rate, of those swept for one arm, with the smallest endpoint error after the last step."""
    return float(min(sweep, key=lambda record: record["curve"][-1]["error"])["rate"])
