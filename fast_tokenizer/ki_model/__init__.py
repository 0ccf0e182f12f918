"""Knowledge insulation: a language model learns action tokens, and a flow expert beside it learns the same chunks.

The gradient of the flow stops at the keys and values that the expert reads of the language model (arXiv 2505.23705).
Needs ``pip install 'fast-tokenizer[ki]'``. Read `model` first; it goes from top to bottom.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError("fast_tokenizer.ki_model needs torch: pip install 'fast-tokenizer[ki]'") from _error

from fast_tokenizer.ki_model.backbone import Backbone, BackboneOutput, PatchEmbedder, PrefixCache
from fast_tokenizer.ki_model.batch import KIBatch, Prefix, Targets
from fast_tokenizer.ki_model.builder import KIBatchBuilder
from fast_tokenizer.ki_model.checkpoints import LoadReport, load_pi05, pi05_shapes, pi05_state_dict
from fast_tokenizer.ki_model.config import Cut, KIConfig, Mode, Objective, TowerConfig
from fast_tokenizer.ki_model.expert import ActionExpert
from fast_tokenizer.ki_model.flow import BetaTime, LogitNormalTime, TimeSampler, UniformTime
from fast_tokenizer.ki_model.masks import SEES, Segment, attention_mask
from fast_tokenizer.ki_model.model import KILoss, KIModel
from fast_tokenizer.ki_model.optim import clip_gradients, parameter_groups
from fast_tokenizer.ki_model.paligemma import load_paligemma, paligemma_backbone, paligemma_config, pi05_model
from fast_tokenizer.ki_model.routing import RoutingReport, open_gates, routing_report
from fast_tokenizer.ki_model.targets import Binning, DiscreteTargets

__all__ = [
    "SEES",
    "ActionExpert",
    "Backbone",
    "BackboneOutput",
    "BetaTime",
    "Binning",
    "Cut",
    "DiscreteTargets",
    "KIBatch",
    "KIBatchBuilder",
    "KIConfig",
    "KILoss",
    "KIModel",
    "LoadReport",
    "LogitNormalTime",
    "Mode",
    "Objective",
    "PatchEmbedder",
    "Prefix",
    "PrefixCache",
    "RoutingReport",
    "Segment",
    "Targets",
    "TimeSampler",
    "TowerConfig",
    "UniformTime",
    "attention_mask",
    "clip_gradients",
    "load_paligemma",
    "load_pi05",
    "open_gates",
    "paligemma_backbone",
    "paligemma_config",
    "parameter_groups",
    "pi05_model",
    "pi05_shapes",
    "pi05_state_dict",
    "routing_report",
]
