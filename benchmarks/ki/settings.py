"""Every number of a run, and the fingerprint that says whether a saved result is one of these."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from benchmarks.ki import world
from benchmarks.ki.arms import ARMS

#: Raised when a change of the code changes results without changing a setting, an arm or a constant of the world.
REVISION = 2


@dataclass(frozen=True)
class Settings:
    """Sizes, rates and seeds; the defaults are the full run.

    Attributes:
        seeds: Of the reported runs. A seed decides the weights at the start, the data, their order and the noise.
        selection_seed: Of the runs that learning rates are chosen by; not one of `seeds`.
        backbone_rates: Learning rates of the backbone to choose from, for each arm by itself.
        expert_rate: Learning rate of the action expert, the same in all arms.
        on_plate: Share of training examples whose command is the object on the plate.
        threshold: Mean endpoint error that "steps to threshold" counts to.
        gradient_steps: Trained steps after which gradients are measured, besides the last.
    """

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    selection_seed: int = 0
    backbone_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    expert_rate: float = 2e-3
    max_norm: float = 1.0
    warmup_steps: int = 20

    width: int = 64
    mlp_width: int = 128
    expert_width: int = 48
    expert_mlp_width: int = 96
    depth: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    fast_vocabulary: int = 128
    fast_scale: float = 10.0
    bins: int = 256

    pretraining_steps: int = 1500
    pretraining_rate: float = 1e-3
    pretraining_batch: int = 64
    pretraining_questions: int = 16384
    steps: int = 1000
    robot_batch: int = 24
    vqa_batch: int = 12
    demonstrations: int = 16384
    on_plate: float = 0.95

    evaluate_every: int = 100
    test_scenes: int = 128
    test_questions: int = 192
    euler_steps: int = 10
    threshold: float = 0.3

    gradient_steps: tuple[int, ...] = (50,)
    gradient_samples: int = 24
    gradient_times: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    gradient_resamples: int = 400

    def fingerprint(self) -> str:
        """Of the settings, the arms, the world's constants and the revision of the code."""
        constants = {name: repr(value) for name, value in vars(world).items() if name.isupper()}
        about = {"revision": REVISION, "arms": repr(ARMS), "world": constants, "settings": asdict(self)}
        text = json.dumps(about, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


#: One seed, seconds: for identities, not for figures.
SMOKE = Settings(
    seeds=(1,),
    pretraining_steps=20,
    pretraining_questions=512,
    steps=8,
    demonstrations=256,
    evaluate_every=4,
    test_scenes=16,
    test_questions=24,
    gradient_steps=(4,),
    gradient_samples=4,
    gradient_times=(0.1, 0.9),
    gradient_resamples=20,
)
