"""FAST action tokenization for vision-language-action models: exact, native, and honest about what is lost.

Example:
    >>> import numpy as np
    >>> from fast_tokenizer import FastTokenizer
    >>> tok = FastTokenizer.default()
    >>> chunk = np.sin(np.linspace(0, 3, 50))[:, None] * np.ones(7)
    >>> batch = tok.encode(chunk[None])
    >>> actions = tok.decode(batch, time_horizon=50, action_dim=7)
    >>> bool(abs(actions[0] - chunk).max() < 0.05)
    True
"""

from __future__ import annotations

from typing import Any

from fast_tokenizer import _core
from fast_tokenizer.chunk import Trajectory, windows
from fast_tokenizer.decode_status import DecodeStatus
from fast_tokenizer.errors import ArtefactError, DecodeError, DecodeRepairWarning, EncodeLossWarning
from fast_tokenizer.fitting import EmbodimentData, FitSummary
from fast_tokenizer.max_len import MaxLenReport, recommend_max_len
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.prompt import ExtractedTokens, PromptBatch, PromptBuilder
from fast_tokenizer.relative import Relative
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.statistics import NormalizerStatistics
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch
from fast_tokenizer.vlm import Slot, VlmVocab

__version__: str = _core.build_info()["version"]

__all__ = [
    "ArtefactError",
    "DecodeError",
    "DecodeRepairWarning",
    "DecodeStatus",
    "EmbodimentData",
    "EncodeLossWarning",
    "ExtractedTokens",
    "FastTokenizer",
    "FitSummary",
    "MaxLenReport",
    "MixtureSpec",
    "Normalizer",
    "NormalizerStatistics",
    "PromptBatch",
    "PromptBuilder",
    "Relative",
    "Slot",
    "TokenBatch",
    "TokenizerSpec",
    "Trajectory",
    "VlmVocab",
    "build_info",
    "recommend_max_len",
    "windows",
]


def build_info() -> dict[str, Any]:
    """How the native core was built, and what it uses on this machine.

    Returns:
        ``version``, ``compiler``, ``kernels`` (those this machine can run, narrowest first), ``kernel`` (the one in
        use: the widest, or the one that the environment variable ``FAST_TOKENIZER_KERNEL`` named before the import)
        and ``threads`` (the default of ``num_threads=None``).

    Example:
        >>> build_info()["kernel"] in build_info()["kernels"]
        True
    """
    return _core.build_info()
