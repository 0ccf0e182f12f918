"""What was expected, written down before the runs that are reported; `outcomes` holds each against them.

A prediction is the sign of a paired difference. It held if the whole 95 % interval over the seeds is on the predicted
side of 0, is contradicted if the whole interval is on the other side, and is undecided otherwise. Most come from the
paper (arXiv 2505.23705) or carry its claims further, some from what is said about it; that they are here does not say
that anybody believes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.ki import world
from benchmarks.ki.records import Run, Runs
from benchmarks.ki.statistics import Interval, Verdict, mean_interval, paired

#: Where a prediction comes from.
PAPER, ARGUED, EXTENDED, SAID = "paper", "the paper's argument", "extension of the paper's", "said about the paper"

#: The arm whose runs the predictions on gradients are judged by.
GRADIENT_ARM = "joint"
#: Measurements of answers, and what counts as having lost them: masked answers as near to chance as this, or a share of
#: all ids below that.
ANSWERS, NEAR_CHANCE, NO_ANSWERS = ("full", "masked"), 0.03, 0.02


@dataclass(frozen=True)
class Prediction:
    """`first` minus `second` of a measurement has a sign.

    Attributes:
        claim: In words.
        source: Who says so.
        measurement: A name that `Runs.value` knows, or that of a figure of a loss's gradients.
        first: Arm, or loss of the gradients.
        second: The same.
        sign: 1: the first is larger.
        of_gradients: `first` and `second` are losses, compared within each run of the arm `joint`, by the mean of all
            steps at which gradients were taken.
    """

    claim: str
    source: str
    measurement: str
    first: str
    second: str
    sign: Literal[1, -1]
    of_gradients: bool = False


PREDICTIONS = (
    Prediction("The cut keeps more of the answers than joint training", ARGUED, "full", "KI", "joint", 1),
    Prediction("KI keeps more of the answers than flow into the backbone", ARGUED, "full", "KI", "pi0", 1),
    Prediction("Co-training keeps answers, with the cut", ARGUED, "full", "KI+VQA", "KI", 1),
    Prediction("Co-training keeps answers, without the cut", ARGUED, "full", "joint+VQA", "joint", 1),
    Prediction("With co-training the cut still keeps more", ARGUED, "full", "KI+VQA", "joint+VQA", 1),
    Prediction("KI follows a swapped command more often than pi0", PAPER, "swapped_follow", "KI", "pi0", 1),
    Prediction("KI follows a swapped command more often than joint", PAPER, "swapped_follow", "KI", "joint", 1),
    Prediction("Co-training helps joint to follow", PAPER, "swapped_follow", "joint+VQA", "joint", 1),
    Prediction("Co-training helps KI to follow", PAPER, "swapped_follow", "KI+VQA", "KI", 1),
    Prediction("After equal steps KI is more exact than pi0", PAPER, "error", "KI", "pi0", -1),
    Prediction("In equal time KI is more exact than pi0", EXTENDED, "error_in_equal_time", "KI", "pi0", -1),
    Prediction("KI needs fewer steps to the threshold than pi0", PAPER, "steps_to_threshold", "KI", "pi0", -1),
    Prediction("KI is more exact than a frozen backbone", PAPER, "error", "KI", "frozen", -1),
    Prediction("So it is with co-training", EXTENDED, "error", "KI+VQA", "frozen+VQA", -1),
    Prediction("KI is more exact than joint training", PAPER, "error", "KI", "joint", -1),
    Prediction("FAST is the better target for KI", EXTENDED, "error", "KI", "KI, binning", -1),
    Prediction("FAST is the better target for KI with co-training", EXTENDED, "error", "KI+VQA", "KI+VQA, binning", -1),
    Prediction("FAST is the better target for joint training", EXTENDED, "error", "joint", "joint, binning", -1),
    Prediction("Binned targets are still better than flow alone", PAPER, "error", "joint, binning", "pi0", -1),
    Prediction(
        "Gradients of action tokens have more signal than the flow's", SAID, "ratio", "action tokens", "flow", 1, True
    ),
    Prediction(
        "The flow's gradients go less along with the questions'", SAID, "cosine", "action tokens", "flow", 1, True
    ),
)


@dataclass(frozen=True)
class Outcome:
    """A prediction beside its paired difference.

    Attributes:
        prediction: What was expected.
        difference: What was found.
        seeds: Of how many.
        compared: What was subtracted from what, and in which runs.
        notes: What keeps the verdict from saying what it seems to.
        both_at_chance: Neither arm knows answers any more: the difference says nothing of which keeps more.
    """

    prediction: Prediction
    difference: Interval
    seeds: int
    compared: str
    notes: Sequence[str] = ()
    both_at_chance: bool = False

    @property
    def verdict(self) -> Verdict:
        """Held, contradicted or undecided."""
        return self.difference.verdict(self.prediction.sign)


def outcomes(runs: Runs, predictions: Sequence[Prediction] = PREDICTIONS) -> list[Outcome]:
    """Each prediction beside what the runs say."""
    found = []
    for p in predictions:
        if p.of_gradients:
            difference = gradient_difference(runs[GRADIENT_ARM], p.measurement, p.first, p.second)
            steps = " and ".join(str(taken["step"]) for taken in runs[GRADIENT_ARM][0].record["gradients"])
            compared = f"{p.measurement}: {p.first} - {p.second}; arm {GRADIENT_ARM}, mean of steps {steps}"
            notes = ["losses of different signal to noise"] if p.measurement == "cosine" else []
            found.append(Outcome(p, difference, len(runs[GRADIENT_ARM]), compared, notes))
        else:
            pairs = [
                (runs.value(a, p.measurement), runs.value(b, p.measurement))
                for a, b in zip(runs[p.first], runs[p.second], strict=True)
            ]
            compared = f"{p.measurement}: {p.first} - {p.second}"
            floor = [arm for arm in (p.first, p.second) if p.measurement in ANSWERS and at_chance(runs, arm)]
            notes = ["both at chance"] if len(floor) == 2 else [f"{arm} at chance" for arm in floor]
            if p.measurement == "steps_to_threshold":
                notes += _censored(runs, p.first, p.second)
            difference = paired(*zip(*pairs, strict=True))
            found.append(Outcome(p, difference, len(pairs), compared, notes, len(floor) == 2))
    return found


def chance() -> float:
    """Share of masked answers that a guess has right; kinds are asked equally often."""
    return sum(1 / len(words) for words in world.ANSWERS.values()) / len(world.ANSWERS)


def at_chance(runs: Runs, arm: str) -> bool:
    """Whether an arm has lost the answers.

    It has where the interval of masked answers contains chance or lies within `NEAR_CHANCE` of it, or where fewer than
    `NO_ANSWERS` are right of the whole vocabulary.
    """
    masked = mean_interval(runs.values(arm, "masked"))
    contains = math.isfinite(masked.low) and masked.low <= chance() <= masked.high  # one seed's interval has no ends
    near = max(abs(masked.low - chance()), abs(masked.high - chance())) <= NEAR_CHANCE
    return contains or near or mean_interval(runs.values(arm, "full")).mean < NO_ANSWERS


def _censored(runs: Runs, *arms: str) -> list[str]:
    """How many seeds of the arms were stopped before the threshold, if any."""
    reached = {arm: [run.reached(runs.threshold).censored for run in runs[arm]] for arm in arms}
    counts = [f"{arm} {sum(c)} of {len(c)}" for arm, c in reached.items() if any(c)]
    return [f"censored seeds: {', '.join(counts)}; interval of clipped values"] if counts else []


def gradient_difference(
    runs: Sequence[Run], measurement: str, first: str, second: str, step: int | None = None
) -> Interval:
    """Of a figure of two losses' gradients within each run, at one step, or of the mean of all steps."""
    return paired(*([gradient(run, measurement, loss, step) for run in runs] for loss in (first, second)))


def gradient(run: Run, measurement: str, loss: str, step: int | None = None) -> float:
    """Mean over the steps at which gradients were taken, or of one of them; and over flow times if it is the flow's."""
    values: list[Any] = [
        losses[measurement]
        for taken in run.record["gradients"]
        for name, losses in taken["losses"].items()
        if step in (None, taken["step"]) and (name == loss or (loss == "flow" and name.startswith("flow")))
    ]
    return sum(values) / len(values)
