"""What knowledge insulation needs of an optimiser: that it does not couple again what the cut keeps apart.

One norm over all gradients does: a large flow gradient then shrinks the step of the backbone. So each tower is clipped
by its own norm, and has its own learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fast_tokenizer.ki_model.model import KIModel


def parameter_groups(model: KIModel, *, backbone_lr: float, expert_lr: float) -> list[dict[str, Any]]:
    """The two towers as groups of a torch optimiser.

    Args:
        model: The model; parameters that need no gradient are left out.
        backbone_lr: Learning rate of the vision-language model.
        expert_lr: Learning rate of the action expert.

    Returns:
        Groups with "name", "params" and "lr".

    Raises:
        ValueError: The model is wrapped.

    Example:
        >>> model = KIModel(KIConfig.tiny())
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, backbone_lr=1e-5, expert_lr=1e-4))
        >>> [(g["name"], g["lr"]) for g in optimizer.param_groups]
        [('backbone', 1e-05), ('expert', 0.0001)]
    """
    require_model(model)
    towers = {"backbone": (model.backbone, backbone_lr), "expert": (model.expert, expert_lr)}
    return [
        {"name": name, "params": [p for p in tower.parameters() if p.requires_grad], "lr": lr}
        for name, (tower, lr) in towers.items()
    ]


def require_model(model: KIModel) -> None:
    """Refuses a model within a wrapper, whose weights have other names or no towers."""
    if not isinstance(model, KIModel):
        got = type(model).__name__
        raise ValueError(f"expected the KIModel itself, got {got}; a wrapper has it as .module or ._orig_mod")


def clip_gradients(groups: Iterable[Mapping[str, Any]], max_norm: float) -> dict[str, float]:
    """Scales the gradients of each group down to a norm, by that group's norm alone.

    Args:
        groups: Of `parameter_groups`, or ``optimizer.param_groups``.
        max_norm: The largest norm that a group keeps.

    Returns:
        The norm of each group before.

    Raises:
        ValueError: A group has no name, or two have the same.

    Example:
        >>> model = KIModel(KIConfig.tiny())
        >>> clip_gradients(parameter_groups(model, backbone_lr=1e-5, expert_lr=1e-4), 1.0)
        {'backbone': 0.0, 'expert': 0.0}
    """
    groups = list(groups)
    names = [g.get("name") for g in groups]
    if None in names or len(set(names)) < len(names):
        raise ValueError(f"every group needs a name of its own, got {names}")
    return {g["name"]: float(torch.nn.utils.clip_grad_norm_(g["params"], max_norm)) for g in groups}
