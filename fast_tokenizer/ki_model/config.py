"""What a model is made of (`KIConfig`), and what it is trained to do (`Objective`).

Source: knowledge insulation, arXiv 2505.23705; the sizes of `KIConfig.pi05` are those of the published pi0.5 weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, get_args

from fast_tokenizer.ki_model.flow import BetaTime, TimeSampler

AttentionKind = Literal["sdpa", "eager"]


class Mode(Enum):
    """Which losses there are, and what the flow loss may change. One value for each stage of training.

    Attributes:
        VLM_PRETRAIN: Text alone, by cross-entropy.
        PI0: The expert, whose flow loss changes the backbone, too. No targets.
        PI0_FAST: Text and action tokens, by cross-entropy. No expert.
        JOINT: Both losses, and no cut between them.
        KI: Both losses, and the cut.
        FROZEN: The expert alone; the backbone stays as it is.

    Example:
        >>> Mode("ki").flow, [m.value for m in Mode if not m.cross_entropy]
        (True, ['pi0', 'frozen'])
    """

    VLM_PRETRAIN = "vlm-pretrain"
    PI0 = "pi0"
    PI0_FAST = "pi0-fast"
    JOINT = "joint"
    KI = "ki"
    FROZEN = "frozen"

    @property
    def cross_entropy(self) -> bool:
        """Text is learned by cross-entropy: answers, and what stands around action tokens where those are learned."""
        return self not in (Mode.PI0, Mode.FROZEN)

    @property
    def fast_ce(self) -> bool:
        """Action tokens are learned by cross-entropy, too. Otherwise the language model never reads any."""
        return self in (Mode.PI0_FAST, Mode.JOINT, Mode.KI)

    @property
    def flow(self) -> bool:
        """The action expert is learned by flow matching."""
        return self not in (Mode.VLM_PRETRAIN, Mode.PI0_FAST)


class Cut(Enum):
    """Where `Mode.KI` stops the gradient of the flow loss on its way into the backbone.

    None of the three changes a value. With KEYS_VALUES the forward pass is the same as with NONE bit for bit; FEATURES
    forms the same products once more in a matrix of another height, which may round them otherwise.

    Attributes:
        KEYS_VALUES: At the keys and values of every layer, as in the paper (eq. 5 and 6): the flow loss changes nothing
            of the backbone.
        FEATURES: At the features that every layer reads; keys and values are made of them anew. The flow loss then
            changes the key and value projections and the norm before them, and nothing else. For ablation.
        NONE: Nowhere, which makes it `Mode.JOINT`. For ablation.
    """

    KEYS_VALUES = "keys-values"
    FEATURES = "features"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Objective:
    """What `KIModel` minimises: ``ce + alpha * flow``, as far as the mode has them.

    Attributes:
        mode: The stage of training.
        cut: Of `Mode.KI` only.
        alpha: Weight of the flow loss (eq. 4). Under `Mode.KI` the two losses change separate weights, so that 1 is as
            good as any, if nothing else couples them: see `fast_tokenizer.ki_model.optim`. pi0.5 had 10 without a cut.
        time: How flow times are drawn.
        flow_draws: Noise and times drawn for each chunk, which share one pass of the backbone.

    Raises:
        ValueError: alpha is negative or not finite, or there is no draw.

    Example:
        >>> Objective(Mode.JOINT, alpha=10).mode.flow
        True
    """

    mode: Mode = Mode.KI
    cut: Cut = Cut.KEYS_VALUES
    alpha: float = 1.0
    time: TimeSampler = field(default_factory=BetaTime)
    flow_draws: int = 1

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("cut", Cut)):
            if not isinstance(getattr(self, name), kind):
                wanted = ", ".join(map(str, kind))
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")
        if isinstance(self.alpha, bool | str) or not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be finite and not negative, got {self.alpha!r}")
        if isinstance(self.flow_draws, bool) or not isinstance(self.flow_draws, int) or self.flow_draws < 1:
            raise ValueError(f"flow_draws must be a positive integer, got {self.flow_draws!r}")

    @property
    def effective_cut(self) -> Cut:
        """The cut that the mode asks for: `Mode.FROZEN` always cuts, the others but `Mode.KI` never do."""
        if self.mode is Mode.KI:
            return self.cut
        return Cut.KEYS_VALUES if self.mode is Mode.FROZEN else Cut.NONE


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """One of the two weight sets.

    Attributes:
        width: Features of a token.
        mlp_width: Features inside the MLP.
    """

    width: int
    mlp_width: int


@dataclass(frozen=True, slots=True)
class KIConfig:
    """Sizes of a `KIModel`. The two towers differ in width, and share what attention needs.

    Attributes:
        vocab_size: Rows of the embedding: `VlmVocab.vlm_vocab_size`.
        start_id: The id that stands before the targets, and from which the first of them is predicted. PaliGemma has
            a line feed (108) between prompt and answer.
        horizon: Time steps T of a chunk; H in the paper.
        action_dim: Dimensions D of an action.
        depth: Layers of each tower.
        num_heads: Heads of the queries.
        num_kv_heads: Heads of keys and values; divides `num_heads`.
        head_dim: Features of a head, even.
        backbone: The vision-language model's tower.
        expert: The action expert's tower.
        image_size: Height and width of an image in pixels, for the built-in `PatchEmbedder`.
        patch_size: Height and width of a patch; divides `image_size`.
        image_channels: Channels of an image.
        rope_theta: Base of the rotary embedding's periods.
        attention: "sdpa" (torch's own) or "eager" (spelled out; what the tests compare with).

    Raises:
        ValueError: A size that is not positive, does not divide, or an unknown attention.

    Example:
        >>> KIConfig.tiny(horizon=8, action_dim=3).depth
        3
        >>> KIConfig.pi05().expert
        TowerConfig(width=1024, mlp_width=4096)
    """

    vocab_size: int
    start_id: int
    horizon: int
    action_dim: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    backbone: TowerConfig
    expert: TowerConfig
    image_size: int
    patch_size: int
    image_channels: int = 3
    rope_theta: float = 10_000.0
    attention: AttentionKind = "sdpa"

    def __post_init__(self) -> None:
        sizes = {n: getattr(self, n) for n in self.__slots__ if n not in ("start_id", "rope_theta", "attention")}
        for tower in ("backbone", "expert"):
            given = sizes.pop(tower)
            sizes |= {f"{tower}.width": given.width, f"{tower}.mlp_width": given.mlp_width}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        if not 0 <= self.start_id < self.vocab_size:
            raise ValueError(f"start_id must be one of the ids 0..{self.vocab_size - 1}, got {self.start_id!r}")
        for whole, part in (("num_heads", "num_kv_heads"), ("image_size", "patch_size")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{part} {getattr(self, part)} does not divide {whole} {getattr(self, whole)}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for the rotary embedding, got {self.head_dim}")
        if self.expert.width % 2:
            raise ValueError(f"expert.width must be even for the embedding of time, got {self.expert.width}")
        if not 1 < self.rope_theta < float("inf"):
            raise ValueError(f"rope_theta must be finite and above 1, got {self.rope_theta!r}")
        if self.attention not in get_args(AttentionKind):
            raise ValueError(f"attention must be 'sdpa' or 'eager', got {self.attention!r}")

    @classmethod
    def tiny(cls, **changes: Any) -> KIConfig:
        """A model that a test trains in a second: widths 32 and 24, three layers."""
        sizes = cls(
            vocab_size=64,
            start_id=3,
            horizon=4,
            action_dim=2,
            depth=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            backbone=TowerConfig(32, 64),
            expert=TowerConfig(24, 48),
            image_size=8,
            patch_size=4,
        )
        return replace(sizes, **changes)

    @classmethod
    def pi05(cls, **changes: Any) -> KIConfig:
        """The published sizes: PaliGemma 2B and an expert of 300 million weights, chunks of 50 x 32."""
        sizes = cls(
            vocab_size=257_152,
            start_id=108,
            horizon=50,
            action_dim=32,
            depth=18,
            num_heads=8,
            num_kv_heads=1,
            head_dim=256,
            backbone=TowerConfig(2048, 16_384),
            expert=TowerConfig(1024, 4096),
            image_size=224,
            patch_size=14,
        )
        return replace(sizes, **changes)
