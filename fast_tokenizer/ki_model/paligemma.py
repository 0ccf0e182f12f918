"""`transformers`' PaliGemma as the backbone of a `KIModel`: the very same parameters, no copy, no patched file.

PaliGemma is a SigLIP vision tower, a projector and a Gemma language model. The first two become the image encoder as
they are. The language model's parameters get into our own layers, which give its values, and its keys and values to
the expert. `transformers` 4.56 and later, and 5, differ in how they spell the model; its parameters are the same.

Values are equal, with one difference in what is prefix. To `transformers` the line feed that ends a PaliGemma prompt is
its last token, which the others see. Here it is the start id, and the first of the causal part; so a question is given
without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fast_tokenizer.ki_model.backbone import Backbone
from fast_tokenizer.ki_model.config import AttentionKind, KIConfig, Objective, TowerConfig
from fast_tokenizer.ki_model.layers import EPSILON
from fast_tokenizer.ki_model.model import KIModel

if TYPE_CHECKING:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

#: The line feed that PaliGemma was trained to find between prompt and answer.
LINE_FEED = 108
EXPERT_300M = TowerConfig(1024, 4096)

#: The vision tower of PaliGemma and of pi0.5 (SigLIP So400m/14); image and patch sizes are in `KIConfig`.
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}

#: What a language model must have for our layers to give its values. Gemma 2 and 3 have others; absent means as here.
EXPRESSIBLE: dict[str, tuple[Any, ...]] = {
    "model_type": ("gemma",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "rms_norm_eps": (EPSILON,),
    "attention_bias": (False,),
    "attention_dropout": (0.0,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "sliding_window": (None,),
    "use_adarms": (False, None),
    "use_bidirectional_attention": (True, None),
}


class PaliGemmaImages(nn.Module):
    """SigLIP and the projector: images (n, C, h, w) with values in [-1, 1] to tokens (n, tokens, W).

    The tokens are as the projector gives them. `transformers` 4 divides them by sqrt(W), only to multiply them with
    the text's embeddings again; text alone is scaled, and once.
    """

    def __init__(self, vision_tower: nn.Module, projector: nn.Module, config: KIConfig) -> None:
        super().__init__()
        # `transformers` 4 wraps the tower once more. Without the wrapper a state dict fits both.
        self.vision_tower = getattr(vision_tower, "vision_model", vision_tower)
        self.multi_modal_projector = projector
        self.image_shape = (config.image_channels, config.image_size, config.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, h, w) -> (n, tokens, W)."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images: expected {self.image_shape} each, got {tuple(images.shape[1:])}")
        tokens: Tensor = self.multi_modal_projector(self.vision_tower(images).last_hidden_state)
        return tokens


def paligemma_config(
    config: PaliGemmaConfig,
    *,
    horizon: int,
    action_dim: int,
    expert: TowerConfig = EXPERT_300M,
    start_id: int = LINE_FEED,
    attention: AttentionKind = "sdpa",
) -> KIConfig:
    """The sizes of a `KIModel` over a PaliGemma.

    Args:
        config: ``paligemma.config``.
        horizon: Time steps of a chunk.
        action_dim: Dimensions of an action.
        expert: Sizes of the action expert; pi0.5's by default.
        start_id: `KIConfig.start_id`.
        attention: `KIConfig.attention`.

    Raises:
        ValueError: The language model has something that our layers cannot give, as Gemma 2 does.

    Example:
        >>> from transformers import PaliGemmaConfig
        >>> paligemma_config(PaliGemmaConfig(), horizon=10, action_dim=7).backbone
        TowerConfig(width=2048, mlp_width=16384)
    """
    sizes = _sizes(config)
    return KIConfig(
        **sizes, horizon=horizon, action_dim=action_dim, expert=expert, start_id=start_id, attention=attention
    )


def paligemma_backbone(paligemma: PaliGemmaForConditionalGeneration, config: KIConfig) -> Backbone:
    """A backbone that computes with the parameters of `paligemma`: training either trains both.

    Args:
        paligemma: Of any dtype, on any device; frozen parameters stay frozen.
        config: From `paligemma_config`.

    Raises:
        ValueError: The language model has something that our layers cannot give; its head is not tied to its embedding;
            or `config` has other sizes.

    Example:
        >>> import transformers
        >>> sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> paligemma = transformers.PaliGemmaForConditionalGeneration(
        ...     transformers.PaliGemmaConfig(
        ...         vision_config=sizes | {"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 4},
        ...         text_config=sizes
        ...         | {"model_type": "gemma", "vocab_size": 200, "num_key_value_heads": 1, "head_dim": 4},
        ...         projection_dim=8,
        ...     )
        ... )
        >>> config = paligemma_config(paligemma.config, horizon=4, action_dim=2, expert=TowerConfig(8, 16))
        >>> model = KIModel(config, backbone=paligemma_backbone(paligemma, config))
        >>> model.backbone.embed_tokens.weight is paligemma.get_input_embeddings().weight
        True
    """
    sizes = _sizes(paligemma.config)
    wrong = [f"{n} {getattr(config, n)} for {size}" for n, size in sizes.items() if getattr(config, n) != size]
    if wrong:
        raise ValueError(f"the config is not of this PaliGemma, see paligemma_config: {', '.join(wrong)}")
    language = paligemma.model.language_model
    if paligemma.lm_head.weight is not language.embed_tokens.weight:
        raise ValueError("PaliGemma's lm_head is not tied to its embed_tokens; a Backbone has one matrix for both")
    images = PaliGemmaImages(paligemma.model.vision_tower, paligemma.model.multi_modal_projector, config)
    with torch.device("meta"):  # no memory, and no random numbers drawn
        backbone = Backbone(config, images)
    theirs = dict(language.named_parameters())
    ours = {name: p.shape for name, p in backbone.named_parameters() if not name.startswith("image_encoder.")}
    wrong = sorted(n for n in ours.keys() | theirs if n not in ours or n not in theirs or ours[n] != theirs[n].shape)
    if wrong:
        raise ValueError(
            f"PaliGemma's language model has other parameters than its config says: {', '.join(wrong[:8])}"
        )
    for name in ours:
        module, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(module), leaf, theirs[name])
    return backbone


def load_paligemma(
    name_or_path: str,
    *,
    horizon: int,
    action_dim: int,
    expert: TowerConfig = EXPERT_300M,
    start_id: int = LINE_FEED,
    attention: AttentionKind = "sdpa",
    objective: Objective | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> KIModel:
    """A `KIModel` with the weights of a PaliGemma and a new action expert.

    Args:
        name_or_path: A folder, or a name on the hub such as ``"google/paligemma-3b-pt-224"``.
        horizon: Time steps of a chunk.
        action_dim: Dimensions of an action.
        expert: Sizes of the action expert; pi0.5's by default.
        start_id: `KIConfig.start_id`.
        attention: `KIConfig.attention`.
        objective: What is trained.
        dtype: Of all parameters.
        **options: For ``from_pretrained``: `revision`, `token`, `local_files_only`, ... Weights are not unpickled:
            they are read from safetensors files only, unless told ``use_safetensors=None``.

    Raises:
        ValueError: Weights are missing, left over or of another shape, or see `paligemma_backbone`.
    """
    paligemma, info = _transformers().PaliGemmaForConditionalGeneration.from_pretrained(
        name_or_path, dtype=dtype, output_loading_info=True, **{"use_safetensors": True} | options
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        listed = "; ".join(f"{len(keys)} {kind} ({', '.join(keys[:4])}, ...)" for kind, keys in wrong.items())
        raise ValueError(f"{name_or_path} is not the weights of this PaliGemma: {listed}")
    config = paligemma_config(
        paligemma.config,
        horizon=horizon,
        action_dim=action_dim,
        expert=expert,
        start_id=start_id,
        attention=attention,
    )
    backbone = paligemma_backbone(paligemma, config)
    return KIModel(config, objective, backbone=backbone).to(dtype)


def pi05_model(
    config: KIConfig | None = None,
    objective: Objective | None = None,
    *,
    vision: dict[str, int] = SO400M,
    dtype: torch.dtype = torch.float32,
) -> KIModel:
    """The architecture of pi0.5, without weights: on the meta device, for `load_pi05` to fill.

    Args:
        config: `KIConfig.pi05()` by default.
        objective: What is trained.
        vision: Sizes of the vision tower, by the names that SigLIP's configuration has for them.
        dtype: Of all parameters.

    Example:
        >>> model = pi05_model(dtype=torch.bfloat16)
        >>> sum(p.numel() for p in model.parameters())
        3353433872
    """
    transformers = _transformers()
    config = config or KIConfig.pi05()
    paligemma_sizes = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "num_channels": config.image_channels,
            "vision_use_head": False,
            **vision,
        },
        text_config={
            "model_type": "gemma",
            "vocab_size": config.vocab_size,
            "hidden_size": config.backbone.width,
            "intermediate_size": config.backbone.mlp_width,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
        },
        image_token_index=config.vocab_size,  # beyond the embedding: there is no such token
        projection_dim=config.backbone.width,
        hidden_size=config.backbone.width,
    )
    with torch.device("meta"):
        paligemma = transformers.PaliGemmaForConditionalGeneration(paligemma_sizes).to(dtype)
        backbone = paligemma_backbone(paligemma, config)
        model = KIModel(config, objective, backbone=backbone).to(dtype)
    # The one buffer, which no checkpoint has.
    places = torch.arange((config.image_size // config.patch_size) ** 2)[None]
    embeddings = backbone.get_submodule("image_encoder.vision_tower.embeddings")
    embeddings.register_buffer("position_ids", places, persistent=False)
    return model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("PaliGemma needs transformers: pip install 'fast-tokenizer[paligemma]'") from error
    return transformers


def _sizes(config: PaliGemmaConfig) -> dict[str, Any]:
    """What a PaliGemma fixes of a `KIConfig`, refused where our layers cannot give its values."""
    text, vision = config.text_config, config.vision_config
    wrong = [
        f"{name} {getattr(text, name)!r}"
        for name, allowed in EXPRESSIBLE.items()
        if getattr(text, name, allowed[0]) not in allowed
    ]
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        wrong.append(f"rope_type {kind!r}")
    if not config.tie_word_embeddings:
        wrong.append("tie_word_embeddings False")
    if vision.projection_dim != text.hidden_size:
        wrong.append(f"projection_dim {vision.projection_dim} for a language model of width {text.hidden_size}")
    if wrong:
        raise ValueError(f"a Backbone cannot be this PaliGemma's language model, which has {', '.join(wrong)}")
    return {
        "vocab_size": text.vocab_size,
        "depth": text.num_hidden_layers,
        "num_heads": text.num_attention_heads,
        "num_kv_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "backbone": TowerConfig(text.hidden_size, text.intermediate_size),
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "image_channels": vision.num_channels,
        "rope_theta": float(rope.get("rope_theta", getattr(text, "rope_theta", 10_000.0))),
    }
