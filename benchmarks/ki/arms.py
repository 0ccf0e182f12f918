"""The arms: what each trains on, and what the flow loss may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fast_tokenizer.ki_model import Mode


@dataclass(frozen=True)
class Arm:
    """One way to train on the robot task.

    Attributes:
        name: In tables.
        mode: Of the model's `Objective`.
        vqa: Questions are in every batch.
        targets: What the backbone learns to say of a chunk: FAST tokens, a token for every value, or nothing.
    """

    name: str
    mode: Mode
    vqa: bool = False
    targets: Literal["fast", "binning"] | None = None

    @property
    def trains_backbone(self) -> bool:
        """The backbone's learning rate matters."""
        return self.mode is not Mode.FROZEN


ARMS = (
    Arm("pi0", Mode.PI0),
    Arm("joint", Mode.JOINT, targets="fast"),
    Arm("joint+VQA", Mode.JOINT, vqa=True, targets="fast"),
    Arm("KI", Mode.KI, targets="fast"),
    Arm("KI+VQA", Mode.KI, vqa=True, targets="fast"),
    Arm("frozen", Mode.FROZEN),
    # The flow loss is cut off and robot examples have no targets: questions alone train the backbone.
    Arm("frozen+VQA", Mode.KI, vqa=True),
    Arm("joint, binning", Mode.JOINT, targets="binning"),
    Arm("KI, binning", Mode.KI, targets="binning"),
    Arm("KI+VQA, binning", Mode.KI, vqa=True, targets="binning"),
)
BY_NAME = {arm.name: arm for arm in ARMS}
