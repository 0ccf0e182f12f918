"""Small ragged batches and seeded models for tests of `ki_model`, and words for what differs.

Numbers are float64 unless a test says otherwise. "Equal" means equal bit for bit, "within rounding" is `ROUNDING`.
"""

import math
import re
from contextlib import contextmanager
from dataclasses import replace

import torch

from fast_tokenizer import ki_model
from fast_tokenizer.ki_model import Cut, KIBatch, KIConfig, KIModel, Mode, Objective, Prefix, Targets
from fast_tokenizer.ki_model.layers import RMSNorm

ROUNDING = 1e-13
JOINT, KI, PI0, PI0_FAST = (Objective(m) for m in (Mode.JOINT, Mode.KI, Mode.PI0, Mode.PI0_FAST))
FROZEN, VLM_PRETRAIN = Objective(Mode.FROZEN), Objective(Mode.VLM_PRETRAIN)
EVERY_CUT = (JOINT, KI, Objective(cut=Cut.FEATURES))
FIRST_FAST = 40  # ids 4..39 are text, 40..63 action tokens, 3 is the start


# ---- Models and batches ------------------------------------------------------------------------------


def make_model(objective=KI, *, attention="sdpa", dtype=torch.float64, open_gates=True, **sizes):
    """A small model of seeded weights with open gates, and norms that are not all one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KIModel(KIConfig.tiny(attention=attention, **sizes), objective)
        if open_gates:
            ki_model.open_gates(model)
        for module in model.modules():
            if isinstance(module, RMSNorm):
                torch.nn.init.normal_(module.weight, std=0.3)
    return model.to(dtype)


def example(text, say, *, cameras=None, robot=False, uncounted=(), action_mask=None, seed=0):
    """One row. `say` spells the targets, t for text and F for an action token; `uncounted` are slots without loss."""
    random = torch.Generator().manual_seed(1000 + seed)
    prefix_ids = torch.randint(4, FIRST_FAST, (1, text), generator=random)
    fast = torch.tensor([[s == "F" for s in say]])
    texts = torch.randint(4, FIRST_FAST, fast.shape, generator=random)
    ids = torch.where(fast, torch.randint(FIRST_FAST, 64, fast.shape, generator=random), texts)
    every = torch.ones_like(fast)
    loss_mask = torch.tensor([[i not in uncounted for i in range(len(say))]])
    images = image_mask = None
    if cameras is not None:
        images = torch.randn(1, len(cameras), 3, 8, 8, generator=random, dtype=torch.float64)
        image_mask = torch.tensor([cameras])
    return KIBatch(
        Prefix(prefix_ids, torch.ones_like(prefix_ids, dtype=torch.bool), images, image_mask),
        Targets(ids, every, loss_mask, fast),
        torch.randn(1, 4, 2, generator=random, dtype=torch.float64).clamp(-1, 1) if robot else None,
        action_mask,
    )


def examples(seed=0):
    """Five rows: three robots, a text, and a question about an image; ragged in every way."""
    some = torch.ones(1, 4, 2, dtype=torch.bool)
    some[:, 3], some[:, :, 1] = False, False  # the last step and the second dimension are padding
    return [
        example(5, "ttFFFFtt", cameras=(True, True), robot=True, seed=seed),
        example(3, "FFF", cameras=(True, False), robot=True, seed=seed + 1),
        example(7, "ttt", seed=seed + 2),
        example(4, "ttt", cameras=(False, True), uncounted=(0,), seed=seed + 3),
        example(6, "tFFFFFFt", cameras=(False, True), robot=True, action_mask=some, seed=seed + 4),
    ]


def mixed_batch(seed=0):
    """All of `examples`, with NaN for every action that does not count."""
    batch = KIBatch.cat(examples(seed))
    nan = torch.full_like(batch.actions, math.nan)
    return replace(batch, actions=torch.where(batch.element_mask(), batch.actions, nan))


def noise_and_time(rows, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 4, 2, generator=random, dtype=dtype)
    return {"noise": noise, "time": 0.05 + 0.9 * torch.rand(rows, generator=random)}


def with_prefix_padding(prefix, *, left=0, middle=0, right=0):
    """The same text with padding, of ids that mean something, put in."""
    rows, width = prefix.ids.shape
    cut = width // 2

    def spread(x, fill):
        pads = [torch.full((rows, n), fill, dtype=x.dtype) for n in (left, middle, right)]
        return torch.cat([pads[0], x[:, :cut], pads[1], x[:, cut:], pads[2]], dim=1)

    return replace(prefix, ids=spread(prefix.ids, 17), mask=spread(prefix.mask, False))


def with_targets(batch, ids=None, *, fast_mask=None, loss_mask=None, extra=0, extra_valid=False):
    """Other targets; `extra` slots of an action token are added at the end, as padding or as targets."""
    t = batch.targets
    given = (t.ids if ids is None else ids, t.mask, loss_mask, fast_mask)
    ids, mask, loss_mask, fast_mask = (b if a is None else a for a, b in zip(given, fields_of(t), strict=True))

    def longer(x, fill):
        return torch.nn.functional.pad(x, (0, extra), value=fill)

    mask = torch.ones_like(longer(mask, True)) if extra_valid else longer(mask, False)
    return replace(batch, targets=Targets(longer(ids, 50), mask, longer(loss_mask, False), longer(fast_mask, False)))


def fields_of(targets):
    return targets.ids, targets.mask, targets.loss_mask, targets.fast_mask


# ---- What a model does -------------------------------------------------------------------------------


def gradients(loss, model, *, unconnected=None):
    """By name; None (or zeros) where a weight is not connected with the loss."""
    names, weights = zip(*model.named_parameters(), strict=True)
    found = (None,) * len(names)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    if unconnected is not None:
        found = [torch.full_like(p, unconnected) if g is None else g for g, p in zip(found, weights, strict=True)]
    return dict(zip(names, found, strict=True))


@contextmanager
def recorded_steps(model):
    """A list that gets (x_t, t, velocity) of every call of the expert."""
    calls = []
    hook = model.expert.register_forward_hook(lambda _, args, velocity: calls.append((*args[:2], velocity)))
    try:
        yield calls
    finally:
        hook.remove()


def trained(model, batch, **noise_and_time):
    """The losses of a batch, and on the way: the velocity of the expert, and the features that predict the targets."""
    seen = []
    hook = model.backbone.register_forward_hook(lambda *a: seen.append(a[-1].target_features))
    with recorded_steps(model) as calls:
        losses = model(batch, **noise_and_time)
    hook.remove()
    return losses, calls[0][2] if calls else None, seen[0]


# ---- Words of a failure ------------------------------------------------------------------------------


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def same(what, got, expected, tolerance=0.0):
    """Two tensors are equal, bit for bit or within a tolerance, and there is something to compare."""
    check(got.shape == expected.shape, f"{what}: shape {tuple(got.shape)} instead of {tuple(expected.shape)}")
    check(got.numel() > 0, f"{what}: nothing to compare")
    worst = (got - expected).abs().max().item()
    check(worst <= tolerance, f"{what}: differs by up to {worst:.2g}, allowed {tolerance:g}")  # NaN is not


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def differs(what, got, expected, least=1e-6):
    """Two tensors differ by more than rounding: the positive control of `same`."""
    worst = (got - expected).abs().max().item()
    check(worst > least, f"{what}: differs by {worst:.2g}, expected more than {least:g}")


def same_gradients(what, got, expected, tolerance=0.0, only=""):
    """All gradients of two dictionaries are equal, relative to the largest of each weight; None is None."""
    names = [n for n in expected if n.startswith(only)]
    check(names, f"{what}: no weights")
    for name in names:
        a, b = got[name], expected[name]
        check((a is None) == (b is None), f"{what}: {name} is {'not ' if a is None else ''}connected")
        if a is not None:
            scale = b.abs().max().clamp(min=1e-12) if tolerance else 1.0
            same(f"{what}: gradient of {name}", a / scale, b / scale, tolerance)


def listed(names):
    kinds = sorted({re.sub(r"\d+", "*", name) for name in names})
    return f"{len(names)} weights ({', '.join(kinds[:5])}{', ...' if len(kinds) > 5 else ''})"
