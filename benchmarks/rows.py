"""What a case reports: one row a competitor and setting, with figures, or with the reason why there are none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

Problem: TypeAlias = Literal["", "impossible", "left out", "not installed", "failed", "differs", "killed", "timed out"]

OURS = "ours"
#: The published pipeline, called with as many chunks as our side is.
PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        question: fit, encode, ...
        workload: Name of the workload.
        setting: What else was varied, e.g. "batch 32"; may be empty.
        competitor: Who.
        threads: How many it could use.
        figures: "seconds" (median, a chunk or a fit as the question says), "low" and "high" (quartiles), "added_mib",
            and what else the question measures.
        problem: Empty, or why there are no figures.
        reason: The problem in words.
    """

    question: str
    workload: str
    setting: str = ""
    competitor: str = ""
    threads: int = 1
    figures: dict[str, float] = field(default_factory=dict)
    problem: Problem = ""
    reason: str = ""

    def by(self, competitor: str, threads: int = 1) -> Row:
        """The same for a competitor."""
        return replace(self, competitor=competitor, threads=threads)

    def at(self, setting: str) -> Row:
        """The same in a setting."""
        return replace(self, setting=setting)

    def measured(self, **figures: float) -> Row:
        """The same with figures."""
        return replace(self, figures={**self.figures, **figures})

    def without(self, problem: Problem, reason: str) -> Row:
        """The same without figures."""
        return replace(self, problem=problem, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class ImpossibleError(Exception):
    """The competitor cannot do this job; the message says why."""


class LeftOutError(Exception):
    """The competitor could, but not at this size within reason; the message says what it would take."""


class DiffersError(AssertionError):
    """A competitor's result is not what it must be."""
