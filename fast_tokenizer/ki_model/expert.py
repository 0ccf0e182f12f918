"""The action expert: a smaller tower that reads the backbone's keys and values, and gives the flow's velocity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fast_tokenizer.ki_model.backbone import PrefixCache
from fast_tokenizer.ki_model.config import KIConfig
from fast_tokenizer.ki_model.layers import AdaRMSNorm, Block, rotary
from fast_tokenizer.ki_model.masks import Segment, attention_mask, parallel_positions

#: Periods of the sines that embed time, the shortest and the longest (openpi).
PERIODS = (4e-3, 4.0)


def embed_time(t: Tensor, width: int) -> Tensor:
    """(B,) times -> (B, width): sines, then cosines, of ``2 pi t / period`` for periods that rise geometrically.

    Example:
        >>> embed_time(torch.tensor([0.0]), 4).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    shortest, longest = PERIODS
    at = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    angle = 2 * torch.pi * t.double()[:, None] / (shortest * (longest / shortest) ** at)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


class ActionExpert(nn.Module):
    """A tower whose norms are adapted to the flow time.

    Attributes:
        gradient_checkpointing: Layers are computed again in the backward pass, instead of kept.
    """

    def __init__(self, config: KIConfig) -> None:
        super().__init__()
        width = config.expert.width
        self.config = config
        self.gradient_checkpointing = False
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self.layers = nn.ModuleList(Block(config, config.expert, condition_width=width) for _ in range(config.depth))
        self.norm = AdaRMSNorm(width, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)

    def forward(self, x_t: Tensor, t: Tensor, cache: PrefixCache) -> Tensor:
        """The velocity of noisy actions at time t: the one step that training and sampling share.

        Args:
            x_t: (B, H, A) float.
            t: (B,) float32.
            cache: Of B prefixes.

        Returns:
            (B, H, A), in the dtype of `x_t`.
        """
        config, (rows, horizon, _) = self.config, x_t.shape
        dtype = self.action_in_proj.weight.dtype
        x = self.action_in_proj(x_t.to(dtype))  # (B, H, W)
        condition = self.condition(t).to(dtype)  # (B, W)
        segments = torch.full((rows, horizon), int(Segment.ACTION), device=x.device)
        prefix = torch.where(cache.mask, int(Segment.PREFIX), int(Segment.PAD))
        mask = attention_mask(segments, torch.cat([prefix, segments], dim=1))[:, None]  # (B, 1, H, P + H)
        rope = rotary(parallel_positions(cache.length, horizon), config.head_dim, config.rope_theta)
        for block, memory in zip(self.layers, cache.layers, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x, _ = checkpoint(block, x, rope, mask, memory, condition, use_reentrant=False)
            else:
                x, _ = block(x, rope, mask, memory, condition)
        x, _ = self.norm(x, condition)
        velocity: Tensor = self.action_out_proj(x)
        return velocity.to(x_t.dtype)

    def condition(self, t: Tensor) -> Tensor:
        """(B,) times -> (B, W), what the norms are adapted to: ``silu(W_2 silu(W_1 e))``."""
        e = embed_time(t, self.config.expert.width).to(self.time_mlp_in.weight.dtype)
        condition: Tensor = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(e))))
        return condition
