"""What a model is given: `Prefix`, which is there at inference, and `Targets` and actions, which are not.

The three are separate objects on purpose. Sampling takes a `Prefix` and nothing else, so that no action token can reach
it, and targets are shifted by the backbone, so that no caller can shift them wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class _Tensors:
    """What all of a dataclass's tensors do at once."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return self._mapped(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in pinned memory; a `DataLoader` with ``pin_memory=True`` asks for it."""
        return self._mapped(lambda part: part.pin_memory())

    def _mapped(self, change: Callable[[Any], Any]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: change(v) for k, v in value.items()}
            return None if value is None else change(value)

        parts = {f.name: changed(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **parts)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix(_Tensors):
    """What the policy sees: images, and a text that names the task and the state.

    Attributes:
        ids: (B, L) int64 VLM ids; what stands in padding is never read.
        mask: (B, L) bool; true on all but padding, wherever that is.
        images: (B, N, C, h, w) float, or what the image encoder takes; None without cameras.
        image_mask: (B, N) bool; false where a row lacks the camera, whose image is never read. None: all are there.

    Raises:
        ValueError: Shapes or dtypes that do not go together.
    """

    ids: Tensor
    mask: Tensor
    images: Tensor | None = None
    image_mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check("prefix.ids", self.ids, "BL", torch.int64)
        _check("prefix.mask", self.mask, "BL", torch.bool, self.ids.shape)
        if self.images is None:
            if self.image_mask is not None:
                raise ValueError("prefix.image_mask goes with images, which are None")
            return
        images, rows = self.images, len(self.ids)
        _check_tensor("prefix.images", images)
        if images.ndim < 3 or len(images) != rows or not images.is_floating_point():
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"prefix.images: expected floats (B={rows}, N, ...), got {got}")
        if self.image_mask is not None:
            _check("prefix.image_mask", self.image_mask, "BN", torch.bool, self.images.shape[:2])

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Targets(_Tensors):
    """What the language model learns to say after the prefix, not shifted: slot i holds the id to be predicted there.

    Attributes:
        ids: (B, S) int64 VLM ids, each row from slot 0 on.
        mask: (B, S) bool; true on all but padding, which is at the end.
        loss_mask: (B, S) bool; ids that count (the paper's M^l). None that is padding.
        fast_mask: (B, S) bool; ids that are action tokens. The others are text.

    Raises:
        ValueError: Shapes or dtypes that do not go together, padding before the end, or a loss on padding.
    """

    ids: Tensor
    mask: Tensor
    loss_mask: Tensor
    fast_mask: Tensor

    def __post_init__(self) -> None:
        _check("targets.ids", self.ids, "BS", torch.int64)
        for name in ("mask", "loss_mask", "fast_mask"):
            _check(f"targets.{name}", getattr(self, name), "BS", torch.bool, self.ids.shape)

        if self.ids.device.type == "cpu":  # where batches are made; elsewhere reading the values would wait for them
            self._check_values()

    def _check_values(self) -> None:
        gaps = self.mask[:, 1:] & ~self.mask[:, :-1]
        for name, bad, what in (
            ("mask", gaps, "has padding before its end"),
            ("loss_mask", self.loss_mask & ~self.mask, "counts padding"),
        ):
            rows = bad.any(1).nonzero().flatten().tolist()
            if rows:
                raise ValueError(f"targets.{name}: row {rows[0]} {what}; {len(rows)} of {len(self.ids)} rows do")

    def without_actions(self) -> Targets:
        """The text before the first action token of each row; the rest is padding."""
        keep = self.fast_mask.cumsum(1) == 0
        return Targets(self.ids, self.mask & keep, self.loss_mask & keep, self.fast_mask & keep)


@dataclass(frozen=True, slots=True, eq=False)
class KIBatch(_Tensors):
    """B examples of robots, of language, or of both.

    Attributes:
        prefix: What is there at inference.
        targets: What the language model learns; None where there is nothing to say.
        actions: (B, H, A) float, normalised; whatever stands in the rows of other examples is never read.
        action_mask: Which actions the flow loss counts (the paper's M^act): (B,) bool for whole examples, or (B, H, A)
            where some dimensions or steps are padding. None: all, where there are actions.
        lost: What encoding could not keep, (B,) int64 by kind: see `KIBatchBuilder.robot`.

    Raises:
        ValueError: Numbers of rows differ, or the mask fits neither form.
    """

    prefix: Prefix
    targets: Targets | None = None
    actions: Tensor | None = None
    action_mask: Tensor | None = None
    lost: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.prefix)
        if self.targets is not None and len(self.targets.ids) != rows:
            raise ValueError(f"got {rows} prefixes, but {len(self.targets.ids)} rows of targets")
        if self.actions is None:
            if self.action_mask is not None:
                raise ValueError("action_mask goes with actions, which are None")
            return
        _check_tensor("actions", self.actions)
        shape = tuple(self.actions.shape)
        if self.actions.ndim != 3 or shape[0] != rows or not self.actions.is_floating_point():
            raise ValueError(f"actions: expected floats (B={rows}, H, A), got {self.actions.dtype} {shape}")
        if self.action_mask is not None and (
            self.action_mask.dtype != torch.bool or tuple(self.action_mask.shape) not in (shape[:1], shape)
        ):
            got = f"{self.action_mask.dtype} {tuple(self.action_mask.shape)}"
            raise ValueError(f"action_mask: expected bool {shape[:1]} or {shape}, got {got}")

    def __len__(self) -> int:
        return len(self.prefix)

    def element_mask(self) -> Tensor:
        """(B, H, A) bool: every value that the flow loss counts."""
        if self.actions is None:
            raise ValueError("the batch has no actions")
        if self.action_mask is None:
            return torch.ones_like(self.actions, dtype=torch.bool)
        mask = self.action_mask if self.action_mask.ndim == 3 else self.action_mask[:, None, None]
        return mask.expand(self.actions.shape)

    @classmethod
    def cat(cls, batches: Sequence[KIBatch]) -> KIBatch:
        """One batch of all rows, padded on the right to the longest prefix and target, and to the most cameras.

        Raises:
            ValueError: There is no batch, or their images or actions are of different shapes.

        Example:
            >>> ids = torch.tensor([[5, 6]])
            >>> prefix = Prefix(ids, torch.ones_like(ids, dtype=torch.bool))
            >>> both = KIBatch.cat([KIBatch(prefix), KIBatch(prefix, actions=torch.zeros(1, 4, 2))])
            >>> len(both), both.action_mask.tolist()
            (2, [False, True])
        """
        if not batches:
            raise ValueError("there is no batch to put together")
        prefix = Prefix(
            _stack([b.prefix.ids for b in batches]),
            _stack([b.prefix.mask for b in batches]),
            *_cat_images([b.prefix for b in batches]),
        )
        return cls(prefix, _cat_targets(batches), *_cat_actions(batches), _cat_lost(batches))


def _check(name: str, tensor: Tensor, axes: str, dtype: torch.dtype, shape: Sequence[int] | None = None) -> None:
    _check_tensor(name, tensor)
    wrong = tensor.ndim != len(axes) or tensor.dtype != dtype or (shape is not None and tensor.shape != tuple(shape))
    if wrong:
        wanted = f"({', '.join(axes)})" if shape is None else tuple(shape)
        raise ValueError(f"{name}: expected {dtype} {wanted}, got {tensor.dtype} {tuple(tensor.shape)}")


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(value).__name__}")


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Rows of all (B, L), padded with 0 or false to the widest."""
    width = max(p.shape[1] for p in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in parts])


def _cat_images(prefixes: Sequence[Prefix]) -> tuple[Tensor | None, Tensor | None]:
    shown = [p.images for p in prefixes if p.images is not None]
    if not shown:
        return None, None
    if len({tuple(i.shape[2:]) for i in shown}) > 1:
        raise ValueError(f"images of different shapes: {sorted({tuple(i.shape[2:]) for i in shown})}")
    if len({i.dtype for i in shown}) > 1:
        raise ValueError(f"images of different dtypes: {sorted({str(i.dtype) for i in shown})}")
    cameras = max(i.shape[1] for i in shown)
    images = shown[0].new_zeros(sum(map(len, prefixes)), cameras, *shown[0].shape[2:])
    mask = torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
    first = 0
    for p in prefixes:
        if p.images is not None:
            rows, n = slice(first, first + len(p)), p.images.shape[1]
            images[rows, :n] = p.images
            mask[rows, :n] = True if p.image_mask is None else p.image_mask
        first += len(p)
    return images, mask


def _cat_targets(batches: Sequence[KIBatch]) -> Targets | None:
    if all(b.targets is None for b in batches):
        return None

    def part(name: str) -> Tensor:
        dtype = torch.int64 if name == "ids" else torch.bool
        nothing = [b.prefix.ids.new_zeros(len(b), 0, dtype=dtype) for b in batches]
        given = [n if b.targets is None else getattr(b.targets, name) for b, n in zip(batches, nothing, strict=True)]
        return _stack(given)

    return Targets(*(part(f.name) for f in fields(Targets)))


def _cat_actions(batches: Sequence[KIBatch]) -> tuple[Tensor | None, Tensor | None]:
    given = [b.actions for b in batches if b.actions is not None]
    if not given:
        return None, None
    if len({tuple(a.shape[1:]) for a in given}) > 1:
        raise ValueError(f"actions of different shapes: {sorted({tuple(a.shape[1:]) for a in given})}")
    actions = torch.cat(
        [given[0].new_zeros(len(b), *given[0].shape[1:]) if b.actions is None else b.actions for b in batches]
    )
    masks = [
        torch.zeros(len(b), dtype=torch.bool, device=actions.device)
        if b.actions is None
        else torch.ones(len(b), dtype=torch.bool, device=actions.device)
        if b.action_mask is None
        else b.action_mask
        for b in batches
    ]
    if any(m.ndim == 3 for m in masks):
        masks = [m if m.ndim == 3 else m[:, None, None].expand(-1, *actions.shape[1:]) for m in masks]
    return actions, torch.cat(masks)


def _cat_lost(batches: Sequence[KIBatch]) -> dict[str, Tensor]:
    kinds = dict.fromkeys(kind for b in batches for kind in b.lost)
    nothing = [b.prefix.ids.new_zeros(len(b)) for b in batches]
    return {kind: torch.cat([b.lost.get(kind, n) for b, n in zip(batches, nothing, strict=True)]) for kind in kinds}
