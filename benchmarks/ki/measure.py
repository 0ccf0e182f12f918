"""What is asked of a model: answers to questions, and where it goes when it is told."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ki import world
from benchmarks.ki.batches import Data, QuestionSet
from fast_tokenizer.ki_model import KIModel


@torch.no_grad()
def answer_logits(model: KIModel, questions: QuestionSet) -> Tensor:
    """(N, V) at the slot of the answer."""
    return model.target_logits(questions.batch)[:, 0]


def answers(model: KIModel, questions: QuestionSet, pretrained: Tensor | None) -> dict[str, float]:
    """Share answered rightly, among all ids and among the words that can answer, and the KL divergence.

    The second tells a model that has lost the answer from one that only wants to say something else first.

    Args:
        model: Whose answers.
        questions: Test questions.
        pretrained: `answer_logits` before the robot task, for KL(pretrained || model) in nats; None: not measured.
    """
    logits = answer_logits(model, questions)
    right = questions.answers
    found = {
        "full": float((logits.argmax(-1) == right).float().mean()),
        "masked": float((logits.masked_fill(~questions.allowed, -torch.inf).argmax(-1) == right).float().mean()),
    }
    if pretrained is not None:
        p, q = pretrained.log_softmax(-1), logits.log_softmax(-1)
        found["kl"] = float((p.exp() * (p - q)).sum(-1).mean())
    return found


def noise(data: Data, count: int) -> Tensor:
    """(N, H, A) that sampling begins with; the same at every measurement of a seed."""
    drawn = data.rng(4).standard_normal((count, world.HORIZON, world.ACTION_DIM))
    return torch.from_numpy(drawn.astype(np.float32))


@torch.no_grad()
def endpoints(model: KIModel, data: Data, scenes: world.Scenes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 2) where sampled chunks end."""
    prefix = data.prefix(scenes, images)
    sampled = model.sample_actions(prefix, steps=data.settings.euler_steps, noise=noise(data, len(scenes)))
    ends: NDArray[np.float32] = sampled[:, -1].numpy()
    return ends


def control(model: KIModel, data: Data, on_plate: float = 1 / world.OBJECTS) -> dict[str, float]:
    """On test scenes: mean endpoint error, and the shares that went to the commanded object and on the right side."""
    scenes, images = data.test_scenes(on_plate)
    ends = endpoints(model, data, scenes, images)
    return {
        "error": float(np.linalg.norm(ends - scenes.endpoints(), axis=-1).mean()),
        "follow": float((world.reached(ends, scenes) == scenes.commanded).mean()),
        "side": float((world.sides(ends, scenes) == scenes.look).mean()),
    }


def swapped(model: KIModel, data: Data) -> dict[str, float]:
    """The same pictures, states and noise with each other command than the one that training nearly always paired them
    with: the shares that go to the newly commanded object, and to the plate all the same.
    """  # noqa: D205
    scenes, images = data.test_scenes(1 / world.OBJECTS)
    follow, plate = [], []
    for turn in range(1, world.OBJECTS):
        told = scenes.commanding((scenes.plate + turn) % world.OBJECTS)
        went = world.reached(endpoints(model, data, told, images), told)
        follow.append((went == told.commanded).mean())
        plate.append((went == told.plate).mean())
    return {"follow": float(np.mean(follow)), "plate": float(np.mean(plate))}


def references(data: Data) -> dict[str, float]:
    """Endpoint errors of policies that know a part: any object and side, any object, the object alone, the average."""
    scenes, _ = data.test_scenes(1 / world.OBJECTS)
    right = scenes.endpoints()[:, None]
    anywhere = scenes.centres()[:, :, None] + world.BESIDE * world.DIRECTIONS  # (N, 4, 4, 2)
    any_object = scenes.centres() + world.BESIDE * world.DIRECTIONS[scenes.look][:, None]
    centre = scenes.centres()[np.arange(len(scenes)), scenes.commanded][:, None]
    return {
        "any object, any side": float(np.linalg.norm(anywhere - right[:, None], axis=-1).mean()),
        "any object, right side": float(np.linalg.norm(any_object - right, axis=-1).mean()),
        "right object, its centre": float(np.linalg.norm(centre - right, axis=-1).mean()),
        "mean of all endpoints": float(np.linalg.norm(right[:, 0].mean(axis=0) - right[:, 0], axis=-1).mean()),
    }
