"""Which loss reaches which weights: the gradient norms, group by group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fast_tokenizer.ki_model.batch import KIBatch
from fast_tokenizer.ki_model.layers import AdaRMSNorm
from fast_tokenizer.ki_model.model import KIModel
from fast_tokenizer.ki_model.optim import require_model

#: Groups of the report in its order: tower, group, and the pieces of a parameter's name that put it there.
GROUPS = (
    ("backbone", "image encoder", ("image_encoder.",)),
    ("backbone", "embedding and head", ("embed_tokens.",)),
    ("backbone", "keys and values", ("k_proj.", "v_proj.")),
    ("backbone", "norm before keys and values", ("input_layernorm.",)),
    ("backbone", "queries and outputs", ("q_proj.", "o_proj.")),
    ("backbone", "MLP and its norm", ("mlp.", "post_attention_layernorm.")),
    ("backbone", "last norm", ("norm.",)),
    ("expert", "actions in and out", ("action_in_proj.", "action_out_proj.")),
    ("expert", "time", ("time_mlp",)),
    ("expert", "attention", ("self_attn.",)),
    ("expert", "MLP", ("mlp.",)),
    ("expert", "adaptive norms", ("norm.",)),
)
LOSSES = ("ce", "flow")


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """Gradient norms of each loss in each group of weights.

    Attributes:
        mode: Label of the mode.
        norms: By group, as "backbone: keys and values", and by loss ("ce", "flow"). None: no weight of the group is
            connected with the loss, so that there is no gradient at all.
        gates_closed: All gates of the expert's layers are zero, as they are in a new one. Then nothing flows back from
            the expert, cut or no cut, and the flow column says nothing about the backbone.
    """

    mode: str
    norms: dict[str, dict[str, float | None]]
    gates_closed: bool

    def tower(self, tower: str, loss: str) -> float | None:
        """The norm of a loss over a whole tower, "backbone" or "expert"."""
        found = [
            n for group, row in self.norms.items() if group.startswith(f"{tower}:") and (n := row[loss]) is not None
        ]
        return sum(n * n for n in found) ** 0.5 if found else None

    def __str__(self) -> str:
        """A table to print."""

        def cell(norm: float | None) -> str:
            return "-" if norm is None else "0" if norm == 0 else f"{norm:.3g}"

        width = max(map(len, self.norms), default=len(self.mode) + 5)
        lines = [f"{'mode ' + self.mode:<{width}}" + "".join(f"  {loss:>9}" for loss in LOSSES)]
        lines += [
            f"{group:<{width}}" + "".join(f"  {cell(row[loss]):>9}" for loss in LOSSES)
            for group, row in self.norms.items()
        ]
        if self.gates_closed:
            lines.append("all gates of the expert are zero: its gradients cannot reach the backbone, cut or no cut")
        return "\n".join(lines)


def routing_report(
    model: KIModel,
    batch: KIBatch,
    *,
    noise: Tensor | None = None,
    time: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> RoutingReport:
    """Measures which loss reaches which weights, under the model's objective.

    The model's own gradients stay as they are. alpha does not enter.

    Args:
        model: The model.
        batch: Should hold targets and actions, or their column is 0.
        noise: See `KIModel.forward`.
        time: Likewise.
        generator: Likewise.

    Raises:
        ValueError: The model is wrapped; or gradients cannot be had, in ``torch.inference_mode()``.

    Example:
        >>> model = KIModel(KIConfig.tiny())
        >>> open_gates(model)
        >>> ids = torch.tensor([[5, 6, 7]])
        >>> every = torch.ones_like(ids, dtype=torch.bool)
        >>> batch = KIBatch(Prefix(ids, every), Targets(ids, every, every, every), torch.zeros(1, 4, 2))
        >>> report = routing_report(model, batch)
        >>> report.tower("backbone", "flow"), report.tower("expert", "ce"), report.tower("backbone", "ce") > 0
        (None, None, True)
    """
    require_model(model)
    if torch.is_inference_mode_enabled():
        raise ValueError("there are no gradients in torch.inference_mode()")
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    norms: dict[str, dict[str, float | None]] = {}
    with torch.enable_grad():
        losses = model(batch, noise=noise, time=time, generator=generator)
        for loss in LOSSES:
            for group, norm in _norms(getattr(losses, loss), named).items():
                norms.setdefault(group, {})[loss] = norm
    return RoutingReport(model.objective.mode.value, norms, gates_closed(model))


def _norms(loss: Tensor, named: list[tuple[str, nn.Parameter]]) -> dict[str, float | None]:
    """The norm of a loss in each group that the model has."""
    gradients: tuple[Tensor | None, ...] = (None,) * len(named)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    squares: dict[str, float | None] = {}
    groups = [_group_of(name) for name, _ in named]
    for _, group, _ in ((t, f"{t}: {g}", p) for t, g, p in GROUPS):
        found = [g for g, of in zip(gradients, groups, strict=True) if of == group and g is not None]
        if group in groups:
            squares[group] = float(torch.stack([g.float().square().sum() for g in found]).sum()) if found else None
    return {group: None if s is None else s**0.5 for group, s in squares.items()}


def _group_of(name: str) -> str:
    for tower, group, pieces in GROUPS:
        if name.startswith(f"{tower}.") and any(p in name for p in pieces):
            return f"{tower}: {group}"
    raise ValueError(f"{name} is in no group of the report; its modules are those of KIModel")


def gates_closed(model: KIModel) -> bool:
    """All gates of the expert's layers are zero, as they are in a new expert."""
    norms = [m for m in model.expert.layers.modules() if isinstance(m, AdaRMSNorm)]
    gates = [p.chunk(3)[2] for m in norms for p in (m.dense.weight, m.dense.bias)]
    return not any(bool(gate.any()) for gate in gates)


def open_gates(model: KIModel, std: float = 0.3, generator: torch.Generator | None = None) -> None:
    """Fills the expert's adaptive norms with random numbers, in place: for tests, which otherwise see zeros anyway.

    Args:
        model: The model.
        std: Standard deviation of the numbers.
        generator: Of what is drawn.
    """
    for norm in model.expert.modules():
        if isinstance(norm, AdaRMSNorm):
            for p in norm.parameters():
                nn.init.normal_(p, std=std, generator=generator)
