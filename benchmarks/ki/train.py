"""Training: the pretraining of a seed's backbone, and of one arm on the robot task, measured along the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.ki import measure, world
from benchmarks.ki.arms import ARMS, Arm
from benchmarks.ki.batches import ID, NEWLINE, Data, rows_of, vocabulary
from benchmarks.ki.gradients import measure_gradients
from benchmarks.ki.settings import Settings
from fast_tokenizer.ki_model import KIBatch, KIConfig, KIModel, Mode, Objective, TowerConfig
from fast_tokenizer.ki_model.optim import clip_gradients, parameter_groups

Record = dict[str, Any]
Weights = dict[str, Tensor]


def config(settings: Settings) -> KIConfig:
    """Of the model that all arms share."""
    return KIConfig(
        vocab_size=vocabulary(settings),
        start_id=ID[NEWLINE],
        horizon=world.HORIZON,
        action_dim=world.ACTION_DIM,
        depth=settings.depth,
        num_heads=settings.heads,
        num_kv_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        backbone=TowerConfig(settings.width, settings.mlp_width),
        expert=TowerConfig(settings.expert_width, settings.expert_mlp_width),
        image_size=world.IMAGE_SIZE,
        patch_size=world.CELL,
    )


def parameters(settings: Settings) -> dict[str, int]:
    """How many each tower has."""
    model = KIModel(config(settings))
    return {name: sum(p.numel() for p in tower.parameters()) for name, tower in model.named_children()}


def loss_tokens(settings: Settings) -> dict[str, dict[str, float]]:
    """Of each arm that has a cross-entropy: tokens of a chunk and of a question that count, and the questions' share.

    The cross-entropy is a mean over the tokens of a batch, so that the share of tokens is the weight. Counted on all
    examples of the reported seeds.
    """
    counted: dict[str, list[float]] = {}
    for seed in settings.seeds:
        data = Data(settings, seed)
        counted.setdefault("question", []).append(_tokens_of(data.training_questions.batch))
        for arm in (a for a in ARMS if a.targets and not a.vqa and a.mode is Mode.KI):
            counted.setdefault(str(arm.targets), []).append(_tokens_of(data.demonstrations(arm)))
    means = {name: sum(values) / len(values) for name, values in counted.items()}
    found = {}
    for arm in ARMS:
        chunk, question = means[arm.targets] if arm.targets else 0.0, means["question"] if arm.vqa else 0.0
        asked = settings.vqa_batch * question
        if total := asked + settings.robot_batch * chunk:
            found[arm.name] = {"chunk": chunk, "question": question, "questions_share": asked / total}
    return found


def _tokens_of(batch: KIBatch) -> float:
    assert batch.targets is not None
    return float(batch.targets.loss_mask.sum(1).double().mean())


@lru_cache(maxsize=1)
def data_of(settings: Settings, seed: int) -> Data:
    """The last seed's data is kept: runs of a seed follow each other."""
    return Data(settings, seed)


def new_model(settings: Settings, seed: int, mode: Mode) -> KIModel:
    """The seed's weights at the start; the same expert in every arm."""
    torch.manual_seed(seed)
    return KIModel(config(settings), Objective(mode))


class Steps:
    """An optimiser with the two groups' rates and norms kept apart, and the clock of its steps.

    Attributes:
        seconds: Processor time of the steps so far, batches included, measurements not.
    """

    def __init__(self, model: KIModel, settings: Settings, backbone_rate: float) -> None:
        self.model, self.settings, self.taken, self.seconds = model, settings, 0, 0.0
        groups = parameter_groups(model, backbone_lr=backbone_rate, expert_lr=settings.expert_rate)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, make: Callable[[], tuple[KIBatch, Tensor | None, Tensor | None]]) -> None:
        """One step on the batch, noise and times that `make` gives."""
        start = time.process_time()
        batch, noise, times = make()
        warm = min(1.0, (self.taken + 1) / self.settings.warmup_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = warm * rate
        self.optimizer.zero_grad(set_to_none=True)
        self.model(batch, noise=noise, time=times).total.backward()
        clip_gradients(self.optimizer.param_groups, self.settings.max_norm)
        self.optimizer.step()
        self.taken += 1
        self.seconds += time.process_time() - start


def pretrain(settings: Settings, seed: int) -> tuple[Weights, Record]:
    """The backbone's weights after questions alone, and how it answers."""
    torch.set_num_threads(1)
    data = data_of(settings, seed)
    model = new_model(settings, seed, Mode.VLM_PRETRAIN)
    order = torch.Generator().manual_seed(seed)
    questions = data.training_questions.batch
    steps = Steps(model, settings, settings.pretraining_rate)
    for step in range(settings.pretraining_steps):
        rows = torch.randint(len(questions), (settings.pretraining_batch,), generator=order)
        # The rate falls to 0: what is asked afterwards of an arm is to be its doing, not the last step's noise.
        steps.rates = [settings.pretraining_rate * (1 - step / settings.pretraining_steps)] * len(steps.rates)
        steps.step(lambda rows=rows: (rows_of(questions, rows), None, None))
    answers = measure.answers(model, data.test_questions, None)
    return model.backbone.state_dict(), {"seed": seed, "seconds": steps.seconds, **answers}


class Batches:
    """The batches of a run, with their noise and times: the same robot examples in every arm of a seed."""

    def __init__(self, settings: Settings, seed: int, arm: Arm, data: Data) -> None:
        self.settings, self.arm = settings, arm
        self.robot = data.demonstrations(arm)
        self.questions = data.training_questions.batch
        # One stream each: an arm that asks no questions sees the same demonstrations and noise.
        self.of_robot, self.of_questions = (torch.Generator().manual_seed(1000 * seed + i) for i in (1, 2))
        self.time = Objective().time

    def next(self) -> tuple[KIBatch, Tensor, Tensor]:
        """A batch, its noise (B, H, A) and its times (B,); those of questions are never read."""
        n = self.settings.robot_batch
        batch = rows_of(self.robot, torch.randint(len(self.robot), (n,), generator=self.of_robot))
        noise = torch.randn(n, world.HORIZON, world.ACTION_DIM, generator=self.of_robot)
        times = self.time(n, device=None, generator=self.of_robot)
        if self.arm.vqa:
            m = self.settings.vqa_batch
            asked = rows_of(self.questions, torch.randint(len(self.questions), (m,), generator=self.of_questions))
            batch = KIBatch.cat([batch, asked])
            noise = torch.cat([noise, torch.zeros(m, *noise.shape[1:])])
            times = torch.cat([times, torch.zeros(m)])
        return batch, noise, times


def train(settings: Settings, arm: Arm, seed: int, backbone_rate: float, start: Weights, *, gradients: bool) -> Record:
    """One run of an arm: a curve of measurements, the last of them in full, and gradients if asked for."""
    torch.set_num_threads(1)
    data = data_of(settings, seed)
    model = new_model(settings, seed, arm.mode)
    model.backbone.load_state_dict(start)
    pretrained = measure.answer_logits(model, data.test_questions)
    batches = Batches(settings, seed, arm, data)
    steps = Steps(model, settings, backbone_rate)
    curve: list[Record] = []
    measured: list[Record] = []

    def look() -> None:
        answers = measure.answers(model, data.test_questions, pretrained)
        curve.append({"step": steps.taken, "seconds": steps.seconds, **answers, **measure.control(model, data)})

    look()
    while steps.taken < settings.steps:
        steps.step(batches.next)
        if steps.taken % settings.evaluate_every == 0 or steps.taken == settings.steps:
            look()
        if gradients and steps.taken in (*settings.gradient_steps, settings.steps):
            measured.append({"step": steps.taken, **measure_gradients(model, arm, data)})
    return {
        "arm": arm.name,
        "seed": seed,
        "rate": backbone_rate,
        "curve": curve,
        "swapped": measure.swapped(model, data),
        "as_trained": measure.control(model, data, on_plate=settings.on_plate),
        "gradients": measured,
    }
