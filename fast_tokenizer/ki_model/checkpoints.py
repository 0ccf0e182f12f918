"""pi0.5 checkpoints of openpi and lerobot (PyTorch), in and out.

The names are openpi's: ``paligemma_with_expert.paligemma.model.language_model.layers.0.self_attn.q_proj.weight``. What
published files do besides, and a reader has to know:

- lerobot puts ``model.`` before every name.
- The embedding and PaliGemma's head are one tensor, which the converter stored under the head's name. A trainer that
  lost the tie stores both.
- The expert is a language model to `transformers`, with a head over the vocabulary that nothing reads.
- Newer `transformers` have no ``vision_model`` in the vision tower's names.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fast_tokenizer.ki_model.model import KIModel

PALIGEMMA = "paligemma_with_expert.paligemma."
EXPERT = "paligemma_with_expert.gemma_expert."
EMBEDDING = f"{PALIGEMMA}model.language_model.embed_tokens.weight"
HEAD = f"{PALIGEMMA}lm_head.weight"
EXPERT_HEAD = f"{EXPERT}lm_head.weight"
VISION = f"{PALIGEMMA}model.vision_tower."
NESTED = "vision_model."

#: Beginnings of our names and of openpi's, the first that fits counts.
PREFIXES = (
    ("backbone.image_encoder.vision_tower.", f"{VISION}{NESTED}"),
    ("backbone.image_encoder.multi_modal_projector.", f"{PALIGEMMA}model.multi_modal_projector."),
    ("backbone.", f"{PALIGEMMA}model.language_model."),
    ("expert.layers.", f"{EXPERT}model.layers."),
    ("expert.norm.", f"{EXPERT}model.norm."),
    ("expert.", ""),
)

#: Names, or beginnings of names, that pi0.5 does not use.
UNUSED = {
    EXPERT_HEAD: "nothing reads the expert's head",
    f"{EXPERT}model.embed_tokens.weight": "nothing reads the expert's embedding",
    "state_proj.": "pi0's; pi0.5 reads the state as text",
}

#: Others are codes of a quantised checkpoint, which need more than a cast.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: Listed of each kind of mistake.
LISTED = 6


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What `load_pi05` did.

    Attributes:
        tensors: Tensors of the checkpoint that are in the model now.
        parameters: Numbers in them.
        ignored: Names of the checkpoint that are not, and why.
        rounded: Names whose values the model holds in fewer bits than the checkpoint.
    """

    tensors: int
    parameters: int
    ignored: Mapping[str, str]
    rounded: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.tensors} tensors, {self.parameters:,} parameters loaded"]
        if self.rounded:
            lines.append(f"{len(self.rounded)} of them rounded to fewer bits")
        return "\n".join([*lines, *(f"ignored {name}: {why}" for name, why in self.ignored.items())])


def pi05_shapes(model: KIModel) -> dict[str, tuple[int, ...]]:
    """The tensors that openpi's checkpoint of a model has, by name.

    Args:
        model: Over PaliGemma, which `pi05_model` and `load_paligemma` make.

    Returns:
        Shapes by name; 812 of them for the published sizes.

    Raises:
        ValueError: The image encoder is not PaliGemma's.

    Example:
        >>> vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> pi05_shapes(pi05_model(KIConfig.tiny(), vision=vision))["action_in_proj.weight"]
        (24, 2)
    """
    shapes = {_published(name): tuple(parameter.shape) for name, parameter in _parameters(model).items()}
    return shapes | {EXPERT_HEAD: (model.config.vocab_size, model.config.expert.width)}


def load_pi05(model: KIModel, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Fills a model with the weights of openpi's or lerobot's pi0.5.

    All names and shapes are compared before anything is changed. Values are rounded to the model's dtype where it has
    fewer bits, and counted. A model on the meta device gets memory on the CPU for each tensor as it comes.

    Published weights expect images of 224 x 224 with values in [-1, 1], 32 action dimensions, normalised and filled up
    with zeros, and the prefix of `KIBatchBuilder`.

    Args:
        model: Over PaliGemma, of the checkpoint's sizes: `pi05_model`.
        source: A ``.safetensors`` file, a folder with a ``model.safetensors``, or tensors by name.

    Returns:
        What was loaded, what not, and why.

    Raises:
        ValueError: Names are missing, unexpected or there twice, or shapes differ; one message lists them with their
            numbers.

    Example:
        >>> vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = pi05_model(KIConfig.tiny(), vision=vision)
        >>> checkpoint = {"model." + name: torch.randn(shape) for name, shape in pi05_shapes(model).items()}
        >>> print(load_pi05(model, checkpoint))
        95 tensors, 62,314 parameters loaded
        ignored model.paligemma_with_expert.gemma_expert.lm_head.weight: nothing reads the expert's head
    """
    tensors, where = _read(source)
    given, ignored, twice = _canonical(tensors)
    parameters = {_published(name): (name, parameter) for name, parameter in _parameters(model).items()}

    wrong = {"there twice": twice}
    wrong["missing"] = [name for name in parameters if name not in given]
    wrong["unexpected"] = [original for name, original in given.items() if name not in parameters]
    wrong["misshapen"] = [
        f"{given[name]}: got {tuple(tensors[given[name]].shape)}, expected {tuple(parameter.shape)}"
        for name, (_, parameter) in parameters.items()
        if name in given and tensors[given[name]].shape != parameter.shape
    ]
    wrong["of a dtype that cannot be read"] = [
        f"{original}: {tensors[original].dtype}"
        for name, original in given.items()
        if name in parameters and tensors[original].dtype not in DTYPES
    ]
    _refuse(where, wrong)

    rounded = []
    for name, (own, parameter) in parameters.items():
        tensor = tensors[given[name]]
        if torch.promote_types(tensor.dtype, parameter.dtype) != parameter.dtype:
            rounded.append(given[name])
        _assign(model, own, parameter, tensor)
    return LoadReport(len(parameters), sum(p.numel() for _, p in parameters.values()), ignored, tuple(rounded))


def pi05_state_dict(model: KIModel) -> dict[str, Tensor]:
    """The tensors of a model by openpi's names; ``safetensors.torch.save_file`` writes what openpi and lerobot read.

    The head of the expert, which both want to find, is zeros. The other tensors are the model's own.

    Args:
        model: Over PaliGemma, of openpi's sizes if openpi is to read it.

    Raises:
        ValueError: The image encoder is not PaliGemma's.
    """
    tensors = {_published(name): parameter.detach() for name, parameter in _parameters(model).items()}
    like = model.expert.action_in_proj.weight
    head = torch.zeros(model.config.vocab_size, model.config.expert.width, dtype=like.dtype, device=like.device)
    return tensors | {EXPERT_HEAD: head}


def _parameters(model: KIModel) -> dict[str, nn.Parameter]:
    encoder = model.backbone.image_encoder
    if not hasattr(encoder, "vision_tower"):
        raise ValueError(f"pi0.5 has PaliGemma's vision tower, the model's image encoder is a {type(encoder).__name__}")
    return dict(model.named_parameters())


def _published(name: str) -> str:
    """The name that openpi has for one of our parameters."""
    if name == "backbone.embed_tokens.weight":
        return HEAD
    ours, theirs = next(p for p in PREFIXES if name.startswith(p[0]))
    return theirs + name.removeprefix(ours)


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """Tensors by name, and what to call them in an error. A file's are mapped to memory, and read when copied."""
    if isinstance(source, Mapping):
        return source, "the checkpoint"
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{source}: needs safetensors: pip install 'fast-tokenizer[paligemma]'") from error
    path = Path(source)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{source}: expected a .safetensors file or a folder with a model.safetensors")
    try:
        return load_file(file), str(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no whole safetensors file: {error}") from error


def _canonical(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The checkpoint's names by those of `_published`; which are ignored, and why; which there are twice."""
    given: dict[str, str] = {}
    ignored: dict[str, str] = {}
    twice: list[str] = []
    for original in tensors:
        name = original.removeprefix("model.")
        if name.startswith(VISION) and not name.startswith(VISION + NESTED):
            name = VISION + NESTED + name.removeprefix(VISION)
        for pi0 in ("action_time_mlp_in.", "action_time_mlp_out."):  # which lerobot reads, too
            if name.startswith(pi0):
                name = name.removeprefix("action_")
        why = next((why for unused, why in UNUSED.items() if name.startswith(unused)), None)
        if why is not None:
            ignored[original] = why
        elif name in given:
            twice.append(f"{given[name]} and {original}")
        else:
            given[name] = original
    if EMBEDDING in given:
        embedding, head = given.pop(EMBEDDING), given.get(HEAD)
        given[HEAD] = embedding  # of the two it is what the prefix was embedded by
        if head is not None:
            ignored[head] = f"the model has one matrix for it and for {embedding}"
            if not _equal(tensors[head], tensors[embedding]):
                ignored[head] += ", and the two differ"
                warnings.warn(f"{head} is dropped: {ignored[head]}", UserWarning, stacklevel=3)
    return given, ignored, twice


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _refuse(where: str, wrong: Mapping[str, list[str]]) -> None:
    parts = []
    for kind, names in wrong.items():
        if names:
            more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:LISTED])}{more})")
    if parts:
        raise ValueError(f"{where} does not fit the model: {'; '.join(parts)}")


@torch.no_grad()
def _assign(model: KIModel, name: str, parameter: nn.Parameter, tensor: Tensor) -> None:
    if not parameter.is_meta:
        parameter.copy_(tensor)
        return
    module, _, leaf = name.rpartition(".")
    own = torch.empty_like(parameter, device="cpu").copy_(tensor)
    setattr(model.get_submodule(module), leaf, nn.Parameter(own, requires_grad=parameter.requires_grad))
