"""The vision-language model: one pass over prefix and targets gives what to say, and what the expert may read.

Shapes: B batch, P prefix slots (image tokens, then text), S target slots, W width, G heads of keys and values, F
features of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fast_tokenizer.ki_model.batch import Prefix, Targets
from fast_tokenizer.ki_model.config import KIConfig
from fast_tokenizer.ki_model.layers import Block, KeysValues, RMSNorm, rotary
from fast_tokenizer.ki_model.masks import Segment, attention_mask, parallel_positions, prefix_positions


class PatchEmbedder(nn.Module):
    """The smallest image encoder: a linear map of each patch, and a learned vector for its place.

    Any module of the same contract can stand in its place: (n, C, h, w) images to (n, tokens, W).
    """

    def __init__(self, config: KIConfig) -> None:
        super().__init__()
        self.image_size, self.channels = config.image_size, config.image_channels
        self.patches = nn.Conv2d(config.image_channels, config.backbone.width, config.patch_size, config.patch_size)
        tokens = (config.image_size // config.patch_size) ** 2
        self.places = nn.Parameter(torch.randn(tokens, config.backbone.width) * 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, h, w) -> (n, tokens, W)."""
        expected = (self.channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images: expected {expected} each, got {tuple(images.shape[1:])}")
        tokens: Tensor = self.patches(images.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        return tokens + self.places


@dataclass(frozen=True, slots=True, eq=False)
class PrefixCache:
    """What the expert reads of the backbone: the prefix, layer by layer. It has no slot for a target.

    Attributes:
        layers: Keys, rotated to their positions, and values of each layer, (B, G, P, F).
        mask: (B, P) bool; true on valid tokens.
        features: (B, P, W) of each layer, of which its keys and values were made; empty unless asked for.
    """

    layers: tuple[KeysValues, ...]
    mask: Tensor
    features: tuple[Tensor, ...] = ()

    @property
    def length(self) -> Tensor:
        """(B,) number of valid tokens; the position of the first action."""
        return self.mask.long().sum(1)

    def detach(self) -> PrefixCache:
        """The same values, through which no gradient flows. This is the paper's stop-gradient (eq. 5 and 6)."""
        return PrefixCache(tuple((k.detach(), v.detach()) for k, v in self.layers), self.mask)

    def repeat(self, times: int) -> PrefixCache:
        """Each row `times` times, one after the other."""
        if times == 1:
            return self
        layers = tuple((k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in self.layers)
        return PrefixCache(layers, self.mask.repeat_interleave(times, 0))


@dataclass(frozen=True, slots=True, eq=False)
class BackboneOutput:
    """What one pass of the backbone gives.

    Attributes:
        target_features: (B, S, W) after the last norm; slot i predicts target i. None without targets.
        cache: What the expert reads.
    """

    target_features: Tensor | None
    cache: PrefixCache


class Backbone(nn.Module):
    """A Gemma-style tower over image tokens and text.

    Attributes:
        gradient_checkpointing: Layers are computed again in the backward pass, instead of kept. An image encoder is not
            concerned; those of `transformers` have a switch of their own.
    """

    def __init__(self, config: KIConfig, image_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.image_encoder = PatchEmbedder(config) if image_encoder is None else image_encoder
        self.embed_tokens = nn.Embedding(config.vocab_size, config.backbone.width)
        nn.init.normal_(self.embed_tokens.weight, std=config.backbone.width**-0.5)  # unit features once scaled
        self.layers = nn.ModuleList(Block(config, config.backbone) for _ in range(config.depth))
        self.norm = RMSNorm(config.backbone.width)

    def forward(self, prefix: Prefix, targets: Targets | None = None, *, keep_features: bool = False) -> BackboneOutput:
        """One pass over ``[images | text | targets]``.

        The keys and values of the prefix do not depend on the targets, as the prefix does not see them; so that the
        cache of this pass is the one that a pass without targets gives.

        Args:
            prefix: Images and text.
            targets: In training. They are shifted here: slot 0 holds `KIConfig.start_id`, slot i the target before.
            keep_features: The cache gets its `features`.
        """
        x, valid = self.embed_prefix(prefix)  # (B, P, W), (B, P)
        positions, length = prefix_positions(valid)
        segments = torch.where(valid, int(Segment.PREFIX), int(Segment.PAD))
        slots = x.shape[1]  # P
        if targets is not None:
            ids = _valid_ids("targets.ids", targets.ids, targets.mask, self.config.vocab_size)
            x = torch.cat([x, self.embed_text(self.shifted(ids))], dim=1)  # (B, P + S, W)
            positions = torch.cat([positions, parallel_positions(length, targets.ids.shape[1])], dim=1)
            segments = torch.cat([segments, torch.where(targets.mask, int(Segment.TARGET), int(Segment.PAD))], dim=1)
        mask = attention_mask(segments, segments)[:, None]  # (B, 1, P + S, P + S)
        rope = rotary(positions, self.config.head_dim, self.config.rope_theta)

        layers, features = [], []
        for block in self.layers:
            if keep_features:
                features.append(x[:, :slots])
            x, (k, v) = self._run(block, x, rope, mask)
            layers.append((k[:, :, :slots], v[:, :, :slots]))
        cache = PrefixCache(tuple(layers), valid, tuple(features))
        return BackboneOutput(None if targets is None else self.norm(x[:, slots:])[0], cache)

    def shifted(self, ids: Tensor) -> Tensor:
        """(B, S) targets -> (B, S) inputs: the start id, then all targets but the last."""
        start = torch.full_like(ids[:, :1], self.config.start_id)
        return torch.cat([start, ids[:, :-1]], dim=1)

    def embed_text(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, W), scaled by sqrt(W) as in Gemma. Image tokens are not scaled."""
        embedded: Tensor = self.embed_tokens(ids)
        return embedded * math.sqrt(self.config.backbone.width)

    def embed_prefix(self, prefix: Prefix) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, W) of all cameras, then of the text, and which of them are valid (B, P)."""
        text = self.embed_text(_valid_ids("prefix.ids", prefix.ids, prefix.mask, self.config.vocab_size))
        if prefix.images is None:
            return text, prefix.mask
        images, (rows, cameras) = prefix.images, prefix.images.shape[:2]
        shown = torch.ones(rows, cameras, dtype=torch.bool, device=images.device)
        if prefix.image_mask is not None:
            shown = prefix.image_mask
            images = torch.where(shown.view(rows, cameras, *[1] * (images.ndim - 2)), images, 0)  # NaN times 0 is NaN
        tokens = self.image_encoder(images.flatten(0, 1)).to(text.dtype)  # (B * N, tokens, W)
        if tokens.ndim != 3 or tokens.shape[::2] != (rows * cameras, text.shape[-1]):
            expected = f"({rows * cameras}, tokens, {text.shape[-1]})"
            raise ValueError(f"the image encoder gave {tuple(tokens.shape)}, expected {expected}")
        valid = shown[:, :, None].expand(-1, -1, tokens.shape[1]).flatten(1)  # (B, N * tokens)
        tokens = tokens.unflatten(0, (rows, cameras)).flatten(1, 2)  # (B, N * tokens, W)
        return torch.cat([tokens, text], dim=1), torch.cat([valid, prefix.mask], dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """(..., W) -> (..., V), by the embedding itself."""
        return F.linear(features, self.embed_tokens.weight)

    def read_features(self, cache: PrefixCache) -> PrefixCache:
        """Keys and values made anew of a cache's features, without the gradient of those (`Cut.FEATURES`)."""
        positions, _ = prefix_positions(cache.mask)
        rope = rotary(positions, self.config.head_dim, self.config.rope_theta)
        blocks: list[Any] = list(self.layers)
        layers = tuple(b.keys_values(x.detach(), rope) for b, x in zip(blocks, cache.features, strict=True))
        return PrefixCache(layers, cache.mask)

    def _run(self, block: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, KeysValues]:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            result: tuple[Tensor, KeysValues] = checkpoint(block, x, rope, mask, use_reentrant=False)
        else:
            result = block(x, rope, mask)
        return result


def _valid_ids(name: str, ids: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """The ids, with 0 for what is masked, whatever stands there (-100, say)."""
    ids = ids.masked_fill(~mask, 0)
    readable = ids.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere the embedding refuses them
    if readable and ids.numel():
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"{name} has id {wrong}, outside the model's vocabulary 0..{vocab_size - 1}")
    return ids
