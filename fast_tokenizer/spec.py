"""What a tokenizer is made of: everything that decides which tokens a chunk gets, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_COEFFICIENT, MAX_HORIZON, MAX_VOCAB_SIZE
from fast_tokenizer.normalize import Normalizer


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerSpec:
    """The contents of an artefact.

    Attributes:
        scale: Factor on the DCT coefficients before rounding: one for all dimensions, or one per dimension.
        min_coefficient: Lowest quantized coefficient that has a symbol; at most 0.
        max_coefficient: Highest one; at least 0. Symbol s stands for coefficient ``min_coefficient + s``.
        merges: (M, 2) int32. Merge i joins two token ids into id ``alphabet_size + i``.
        normalizer: Applied before the DCT; None when the caller has normalised.
        time_horizon: Steps T of every chunk, or None when it may differ.
        action_dim: Dimensions D of every chunk, or None when it may differ.
        hz: Control rate of the data, or None. Recorded, not used.
        dimension_names: (D,) names, or None. Recorded, not used.
    """

    scale: float | tuple[float, ...]
    min_coefficient: int
    max_coefficient: int
    merges: NDArray[np.int32]
    normalizer: Normalizer | None = None
    time_horizon: int | None = None
    action_dim: int | None = None
    hz: float | None = None
    dimension_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        merges = np.array(self.merges, dtype=np.int32).reshape(-1, 2)
        merges.flags.writeable = False
        object.__setattr__(self, "merges", merges)
        for s in self.scales:
            if not (math.isfinite(s) and s > 0):
                raise ValueError(f"scale must be finite and positive, got {s}")
        if not -MAX_COEFFICIENT <= self.min_coefficient <= 0 <= self.max_coefficient <= MAX_COEFFICIENT:
            raise ValueError(
                f"the coefficient range must include 0 and lie within +-{MAX_COEFFICIENT}, "
                f"got {self.min_coefficient}..{self.max_coefficient}"
            )
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(f"the vocabulary must have at most {MAX_VOCAB_SIZE} ids, got {self.vocab_size}")
        if self.time_horizon is not None and not 1 <= self.time_horizon <= MAX_HORIZON:
            raise ValueError(f"time_horizon must lie in 1..{MAX_HORIZON}, got {self.time_horizon}")
        if self.hz is not None and not (math.isfinite(self.hz) and self.hz > 0):
            raise ValueError(f"hz must be finite and positive, got {self.hz}")
        self._check_dimensions()

    def _check_dimensions(self) -> None:
        """Everything that is said per dimension must be said of the same number of dimensions."""
        if self.action_dim is not None and self.action_dim < 1:
            raise ValueError(f"action_dim must be positive, got {self.action_dim}")
        per_dimension = {
            "scale": None if isinstance(self.scale, float) else len(self.scale),
            "normalizer": None if self.normalizer is None else self.normalizer.action_dim,
            "dimension_names": None if self.dimension_names is None else len(self.dimension_names),
        }
        for name, length in per_dimension.items():
            if length is not None and length != self.action_dim:
                raise ValueError(f"{name} has {length} dimensions, action_dim is {self.action_dim}")

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale as a tuple of one or D entries."""
        return (self.scale,) if isinstance(self.scale, float) else self.scale

    @property
    def alphabet_size(self) -> int:
        """Number of symbols A."""
        return self.max_coefficient - self.min_coefficient + 1

    @property
    def vocab_size(self) -> int:
        """Number of token ids V = A + M."""
        return self.alphabet_size + len(self.merges)
