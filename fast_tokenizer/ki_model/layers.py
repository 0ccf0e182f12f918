"""Gemma's building blocks, for both towers. Submodules have the names that Gemma checkpoints have.

Shapes: B batch, L tokens of this call, M tokens remembered from another, W width, N heads, G heads of keys and values,
F features of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_tokenizer.ki_model.config import AttentionKind, KIConfig, TowerConfig

EPSILON = 1e-6

#: Keys and values of one layer, both (B, G, L, F), rotated to their positions.
KeysValues = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """``x / rms(x) * (1 + weight)``, in float32. The gate is None: the residual is added as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, L, W) and no gate. There is no condition."""
        assert condition is None
        return (_normalized(x) * (1 + _full(self.weight))).to(x.dtype), None


class AdaRMSNorm(nn.Module):
    """RMS norm whose scale, shift and gate come from a condition, here the flow time.

    ``x / rms(x) * (1 + scale) + shift``; the gate weighs what the block adds. All three begin at zero, weight and bias:
    a new expert changes nothing, and nothing flows back through it. A test of gradients must open the gates first.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, W) and a condition (B, C) -> (B, L, W) and a gate (B, 1, W)."""
        scale, shift, gate = _full(self.dense(condition))[:, None, :].chunk(3, dim=-1)  # (B, 1, W) each
        return (_normalized(x) * (1 + scale) + shift).to(x.dtype), gate.to(x.dtype)


def _full(x: Tensor) -> Tensor:
    """At least float32: float64 stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def _normalized(x: Tensor) -> Tensor:
    x = _full(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def add_gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """The residual: ``x + y``, or ``x + y * gate``."""
    return x + y if gate is None else x + y * gate


class GeGLU(nn.Module):
    """Gemma's MLP: ``down(gelu(gate(x)) * up(x))`` with the tanh form of gelu."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(tower.width, tower.mlp_width, bias=False)
        self.up_proj = nn.Linear(tower.width, tower.mlp_width, bias=False)
        self.down_proj = nn.Linear(tower.mlp_width, tower.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        y: Tensor = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return y


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, (B, 1, L, F/2) each, for positions (B, L)."""
    period = theta ** (torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions[:, None, :, None].float() / period
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (feature i, feature i + F/2) of x (B, N, L, F) by the angles of their positions."""
    cos, sin = rope
    first, second = _full(x).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def share(x: Tensor, heads: int) -> Tensor:
    """Keys or values (B, G, M, F) for N heads (B, N, M, F): each for N / G in a row. No copy where G is 1."""
    groups = heads // x.shape[1]
    return x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention spelled out: softmax(q k' / sqrt(F)) v over the keys that the mask allows.

    Args:
        q: (B, N, L, F).
        k: (B, G, M, F); N / G heads of the queries share one.
        v: (B, G, M, F).
        mask: (B, 1, L, M) bool, true where a query sees a key.

    Returns:
        (B, N, L, F).
    """
    k, v = share(k, q.shape[1]), share(v, q.shape[1])
    logits = _full(q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.matmul(weights.to(v.dtype), v)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same by torch, which takes a fused kernel where it has one that knows masks.

    Heads are shared here: told to share them itself (``enable_gqa``), torch has no fused kernel with a mask on a GPU.
    """
    return F.scaled_dot_product_attention(q, share(k, q.shape[1]), share(v, q.shape[1]), attn_mask=mask)


ATTENTION: dict[AttentionKind, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eager": eager_attention,
    "sdpa": sdpa_attention,
}


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, which can read the keys and values of another tower."""

    def __init__(self, config: KIConfig, width: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.attend = ATTENTION[config.attention]
        self.q_proj = nn.Linear(width, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, width, bias=False)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> KeysValues:
        """(B, L, W) -> keys, rotated, and values, (B, G, L, F) each."""
        return rotate(self._heads(self.k_proj(x)), rope), self._heads(self.v_proj(x))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, memory: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Attention of x over the memory, if any, followed by x itself.

        Args:
            x: (B, L, W).
            rope: Of the positions of x.
            mask: (B, 1, L, M + L) bool.
            memory: Keys and values (B, G, M, F) of another tower.

        Returns:
            (B, L, W), and the keys and values of x alone.
        """
        q = rotate(self._heads(self.q_proj(x)), rope)  # (B, N, L, F)
        own = self.keys_values(x, rope)
        k, v = (
            own if memory is None else (torch.cat([m.to(o.dtype), o], dim=2) for m, o in zip(memory, own, strict=True))
        )
        y = self.attend(q, k, v, mask)  # (B, N, L, F)
        return self.o_proj(y.transpose(1, 2).flatten(2)), own

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], x.shape[2] // self.head_dim, self.head_dim).transpose(
            1, 2
        )  # (B, L, N * F) -> (B, N, L, F)


class Block(nn.Module):
    """One layer of a tower. With a condition its norms are adaptive; with a memory it reads another tower's layer."""

    def __init__(self, config: KIConfig, tower: TowerConfig, condition_width: int | None = None) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return RMSNorm(tower.width) if condition_width is None else AdaRMSNorm(tower.width, condition_width)

        self.input_layernorm = norm()
        self.self_attn = Attention(config, tower.width)
        self.post_attention_layernorm = norm()
        self.mlp = GeGLU(tower)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        memory: KeysValues | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """(B, L, W) -> (B, L, W), and the keys and values that it had in this layer; see `Attention.forward`."""
        y, gate = self.input_layernorm(x, condition)
        y, own = self.self_attn(y, rope, mask, memory)
        x = add_gated(x, y, gate)
        y, gate = self.post_attention_layernorm(x, condition)
        return add_gated(x, self.mlp(y), gate), own

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> KeysValues:
        """The keys and values that `forward` has of x, without a condition."""
        y, _ = self.input_layernorm(x)
        own: KeysValues = self.self_attn.keys_values(y, rope)
        return own
