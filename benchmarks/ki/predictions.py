"""What was expected, written down before the runs that are reported; `outcomes` holds each against them.

A prediction is the sign of a paired difference. It held if the whole 95 % interval over the seeds is on the predicted
side of 0, is contradicted if the whole interval is on the other side, and is undecided otherwise. Most come from the
paper (arXiv 2505.23705) or carry its claims further, some from what is said about it; that they are here does not say
that anybody believes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.ki.records import Run, Runs
from benchmarks.ki.statistics import Interval, Verdict, paired

#: Where a prediction comes from.
PAPER, ARGUED, EXTENDED, SAID = "paper", "the paper's argument", "extension of the paper's", "said about the paper"


@dataclass(frozen=True)
class Prediction:
    """`first` minus `second` of a measurement has a sign.

    Attributes:
        claim: In words.
        source: Who says so.
        measurement: A method of `Run` without arguments, or a name with its loss for gradients.
        first: Arm, or loss of the gradients.
        second: The same.
        sign: 1: the first is larger.
        of_gradients: `first` and `second` are losses, compared within each run of the arm `joint`.
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
    """A prediction beside its paired difference."""

    prediction: Prediction
    difference: Interval
    seeds: int

    @property
    def verdict(self) -> Verdict:
        """Held, contradicted or undecided."""
        return self.difference.verdict(self.prediction.sign)


def outcomes(runs: Runs, predictions: Sequence[Prediction] = PREDICTIONS) -> list[Outcome]:
    """Each prediction beside what the runs say."""
    found = []
    for p in predictions:
        if p.of_gradients:
            pairs = [
                (_gradient(r, p.measurement, p.first), _gradient(r, p.measurement, p.second)) for r in runs["joint"]
            ]
        else:
            pairs = [
                (runs.value(a, p.measurement), runs.value(b, p.measurement))
                for a, b in zip(runs[p.first], runs[p.second], strict=True)
            ]
        found.append(Outcome(p, paired(*zip(*pairs, strict=True)), len(pairs)))
    return found


def _gradient(run: Run, measurement: str, loss: str) -> float:
    """Mean over the times at which gradients were taken, and over the flow times where the loss is the flow's."""
    values: list[Any] = [
        losses[measurement]
        for taken in run.record["gradients"]
        for name, losses in taken["losses"].items()
        if name == loss or (loss == "flow" and name.startswith("flow"))
    ]
    return sum(values) / len(values)
