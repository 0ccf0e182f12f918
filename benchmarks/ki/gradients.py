"""Gradients of single samples in the backbone: how much of them is signal, and whether they pull with the questions.

They are taken without a cut, whatever the arm was trained with: what the flow loss would do to the backbone if it
could.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ki import world
from benchmarks.ki.arms import ARMS, Arm
from benchmarks.ki.batches import Data, rows_of
from benchmarks.ki.statistics import bootstrap_signal_to_noise, cosine
from fast_tokenizer.ki_model import KIBatch, KIModel, Mode, Objective

VQA, TOKENS = "questions", "action tokens"


def per_sample(
    model: KIModel, mode: Mode, batch: KIBatch, noise: Tensor | None = None, time: float | None = None
) -> Tensor:
    """(n, parameters) gradients of each row's loss in the backbone."""
    kept = model.objective
    model.objective = Objective(mode)
    parameters = list(model.backbone.parameters())
    rows = []
    for i in range(len(batch)):
        times = None if time is None else torch.full((1,), time)
        loss = model(rows_of(batch, slice(i, i + 1)), noise=None if noise is None else noise[i : i + 1], time=times)
        found = torch.autograd.grad(loss.total, parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
            )
        )
    model.objective = kept
    return torch.stack(rows)


def measure_gradients(model: KIModel, arm: Arm, data: Data) -> dict[str, Any]:
    """Signal-to-noise of each loss's gradient, with a bootstrap interval, and its cosine with that of the questions.

    Samples are training examples that are the same in every arm; an arm without action tokens is measured with FAST's.
    """
    settings, n = data.settings, data.settings.gradient_samples
    told = arm if arm.targets else next(a for a in ARMS if a.targets == "fast")
    robot = data.demonstrations(told, n)
    noise = torch.from_numpy(data.rng(5).standard_normal((n, world.HORIZON, world.ACTION_DIM)).astype(np.float32))
    sets = {
        VQA: per_sample(model, Mode.VLM_PRETRAIN, rows_of(data.training_questions.batch, slice(0, n))),
        TOKENS: per_sample(model, Mode.PI0_FAST, robot),
        **{f"flow, t = {t:g}": per_sample(model, Mode.PI0, robot, noise, t) for t in settings.gradient_times},
    }
    asked = sets[VQA].double()
    within = _products(asked, asked)
    rng = data.rng(6)
    found = {}
    for name, gradients in sets.items():
        g = gradients.double()
        own = _products(g, g)
        ratio = bootstrap_signal_to_noise(own, settings.gradient_resamples, rng)
        found[name] = {
            "norm": float(g.mean(0).norm()),
            "ratio": ratio.mean,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
        if name != VQA:
            found[name]["cosine"] = cosine(own, within, _products(g, asked))
    return {"losses": found}


def _products(a: Tensor, b: Tensor) -> np.ndarray:
    products: np.ndarray = (a @ b.T).numpy()
    return products
