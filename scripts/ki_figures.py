"""The figures and tables of docs/ki_model.md and docs/ki_failures.md: `python -m scripts.ki_figures`.

The masks are those that the layers are given in a forward pass; gradient norms are measured; failures are injected.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LogNorm
from torch import Tensor, nn

from benchmarks.readme import replace_between
from benchmarks.report import markdown_table
from fast_tokenizer.ki_model import (
    SEES,
    Cut,
    KIBatch,
    KIConfig,
    KIModel,
    Mode,
    Objective,
    Prefix,
    RoutingReport,
    Segment,
    Targets,
    open_gates,
    routing_report,
)

mpl.use("Agg")

GUIDE = Path(__file__).parents[1] / "docs" / "ki_model.md"
FAILURES = GUIDE.parent / "ki_failures.md"
FIGURES = GUIDE.parent / "figures"
SEGMENT_NAMES = {
    Segment.PAD: "padding",
    Segment.PREFIX: "prefix",
    Segment.TARGET: "targets (text, FAST)",
    Segment.ACTION: "noisy actions",
}
#: The columns of the routing table: all modes, and the other cut of knowledge insulation.
OBJECTIVES = {mode.value: Objective(mode) for mode in Mode} | {"ki, features": Objective(cut=Cut.FEATURES)}


def example() -> tuple[KIModel, KIBatch]:
    """A small model with open gates, and two ragged rows: one robot's, and one with a masked camera."""
    torch.manual_seed(0)
    model = KIModel(KIConfig.tiny(image_size=8, patch_size=4))
    open_gates(model)
    ids = torch.randint(4, 64, (2, 5))
    target_ids = torch.randint(4, 64, (2, 5))
    lengths = torch.tensor([[5], [3]])
    target_mask = torch.arange(5) < torch.tensor([[5], [4]])
    prefix = Prefix(
        ids, torch.arange(5) < lengths, torch.rand(2, 2, 3, 8, 8), torch.tensor([[True, True], [True, False]])
    )
    fast = target_mask & (torch.arange(5) > 1)
    return model, KIBatch(prefix, Targets(target_ids, target_mask, target_mask, fast), torch.randn(2, 4, 2))


def captured_masks(model: KIModel, batch: KIBatch) -> tuple[Tensor, Tensor]:
    """The masks (B, Q, K) that the first layers of backbone and expert are given in `forward`."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[2][:, 0])

    hooks = [tower.layers[0].register_forward_pre_hook(keep) for tower in (model.backbone, model.expert)]
    model(batch)
    for hook in hooks:
        hook.remove()
    of_backbone, of_expert = seen
    return of_backbone, of_expert


def draw_attention(path: Path) -> None:
    """Both masks of the row with a masked camera and a short prompt."""
    model, batch = example()
    backbone, expert = (mask[1].numpy() for mask in captured_masks(model, batch))
    targets, horizon = batch.targets.ids.shape[1], len(expert)  # type: ignore[union-attr]
    prefix = len(backbone) - targets
    spans = {"camera 1": 4, "masked camera": 4, "text": 3, "pad": prefix - 11}
    figure, axes = plt.subplots(
        1, 2, figsize=(13, 6), width_ratios=[len(backbone), prefix + horizon], layout="constrained"
    )
    panels = (
        (axes[0], backbone, spans | {"targets": targets}, spans | {"targets": targets}, "backbone: prefix and targets"),
        (
            axes[1],
            expert,
            {"actions": horizon},
            spans | {"actions": horizon},
            "expert: actions, over the prefix's cache",
        ),
    )
    for panel, mask, rows, columns, title in panels:
        panel.imshow(mask, cmap="Blues", vmin=0, vmax=1.4, aspect="equal")
        panel.set_title(title)
        _mark(panel.xaxis, columns)
        _mark(panel.yaxis, rows)
        for edges, line in ((columns, panel.axvline), (rows, panel.axhline)):
            for edge in np.cumsum(list(edges.values()))[:-1]:
                line(edge - 0.5, color="0.4", linewidth=0.8)
        panel.set(xlabel="keys", ylabel="queries")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mark(axis: mpl.axis.Axis, spans: dict[str, int]) -> None:
    ends = np.cumsum(list(spans.values()))
    axis.set_ticks([end - (n + 1) / 2 for end, n in zip(ends, spans.values(), strict=True)], list(spans))
    if isinstance(axis, mpl.axis.XAxis):
        axis.set_tick_params(rotation=30)


def reports() -> dict[str, RoutingReport]:
    """The measured routing of each objective."""
    model, batch = example()
    found = {}
    for name, objective in OBJECTIVES.items():
        model.objective = objective
        found[name] = routing_report(model, batch, generator=torch.Generator().manual_seed(0))
    return found


def routing_table() -> str:
    """Rows are groups of weights; a cell has the norm of the cross-entropy's gradient, then that of the flow's."""

    def cell(norm: float | None) -> str:
        return "-" if norm is None else f"{norm:.2g}"

    measured = reports()
    groups = list(next(iter(measured.values())).norms)
    rows = [
        [group, *(f"{cell(r.norms[group]['ce'])} / {cell(r.norms[group]['flow'])}" for r in measured.values())]
        for group in groups
    ]
    return markdown_table(["CE / flow", *measured], rows)


def attention_table() -> str:
    """`SEES`, in words."""
    rows = [[SEGMENT_NAMES[query], *(SEES[query][key] for key in Segment)] for query in Segment]
    return markdown_table([r"query \ key", *SEGMENT_NAMES.values()], rows)


def draw_routing(path: Path) -> None:
    """One panel for each loss; grey is no connection."""
    measured = reports()
    groups = list(next(iter(measured.values())).norms)
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5), sharey=True, layout="constrained")
    for panel, (loss, title) in zip(axes, {"ce": "cross-entropy", "flow": "flow matching"}.items(), strict=True):
        cells = [[r.norms[g][loss] for r in measured.values()] for g in groups]
        norms = np.array([[np.nan if norm is None else norm for norm in row] for row in cells])
        panel.set_facecolor("0.9")
        image = panel.imshow(norms, norm=LogNorm(1e-2, 10), cmap="viridis", aspect="auto")
        panel.set_xticks(range(len(measured)), list(measured), rotation=30, ha="right")
        panel.set_yticks(range(len(groups)), groups)
        panel.set_title(f"gradient of {title}")
        panel.axhline(sum(g.startswith("backbone") for g in groups) - 0.5, color="black", linewidth=1)
    figure.colorbar(image, ax=axes, label="norm; grey: no gradient at all")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tables() -> dict[str, str]:
    """Each marker of the guide, and what stands there."""
    return {"attention": attention_table(), "routing": routing_table()}


def failures_table() -> str:
    """Each failure with the tests that notice it."""
    from tests.test_ki_mutations import as_markdown, mutation_table

    return as_markdown(mutation_table())


def main() -> None:
    """Writes the figures, and the tables into their pages."""
    FIGURES.mkdir(exist_ok=True)
    draw_attention(FIGURES / "ki-attention.png")
    draw_routing(FIGURES / "ki-routing.png")
    text = GUIDE.read_text()
    for name, table in tables().items():
        text = replace_between(text, name, table)
    GUIDE.write_text(text)
    FAILURES.write_text(replace_between(FAILURES.read_text(), "failures", failures_table()))


if __name__ == "__main__":
    main()
