"""What a tokenizer is made of: everything that decides which tokens a chunk gets, and nothing else."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import native_normalizer
from fast_tokenizer._core import MAX_COEFFICIENT, MAX_HORIZON, MAX_MAGNITUDE, MAX_VOCAB_SIZE, Codec
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.relative import Relative

#: Version of the artefact's format. Version 1 had absolute actions and one embodiment only; it is read, not written.
ARTEFACT_VERSION = 2
#: Fields of `TokenizerSpec` that each embodiment has of its own. The others are the vocabulary, and shared.
OF_EMBODIMENT = (
    "scale",
    "normalizer",
    "time_horizon",
    "action_dim",
    "hz",
    "dimension_names",
    "relative",
    "embodiment",
)

Order: TypeAlias = Literal["frequency-first", "dimension-first"]
EndOfBlock: TypeAlias = Literal["chunk", "dimension"]
Parsing: TypeAlias = Literal["bpe", "optimal"]


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerSpec:
    """The contents of an artefact.

    Attributes:
        scale: Factor on the DCT coefficients before rounding: one for all dimensions, or one per dimension.
        dead_zone: Scaled coefficients below this in magnitude become 0, the others are rounded; in [0.5, 0.99]. 0.5
            is plain rounding.
        min_coefficient: Lowest quantized coefficient that has a symbol; at most 0.
        max_coefficient: Highest one; at least 0. Symbol s stands for coefficient ``min_coefficient + s``.
        levels_beyond: Coefficients beyond each end of this range that have a symbol too, evenly spaced to twice the
            end; see `levels`. What lies beyond the range takes the nearest.
        order: Of the symbols: "frequency-first" (all dimensions of frequency 0, then of frequency 1, ...) or
            "dimension-first".
        end_of_block: What ends early where all that is left is coefficient 0: the "chunk", or each "dimension", which
            goes with dimension-first order. One more symbol, the last, marks such an end. None: nothing does.
        parsing: How symbols become tokens: "bpe", merge by merge, or "optimal", as few as spell them.
        merges: (M, 2) int32. Merge i joins two token ids into id ``alphabet_size + i``.
        normalizer: Applied before the DCT; None when the caller has normalised.
        time_horizon: Steps T of every chunk, or None when it may differ.
        action_dim: Dimensions D of every chunk, or None when it may differ.
        hz: Control rate of the data, or None. Recorded, not used.
        dimension_names: (D,) names, or None. Recorded, not used.
        relative: Dimensions taken relative to the state at a chunk's start, before the normalizer; None: all are
            absolute.
        embodiment: Name of the robot and its data, where the vocabulary is shared with others; see `MixtureSpec`.
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
    order: Order = "frequency-first"
    end_of_block: EndOfBlock | None = None
    parsing: Parsing = "bpe"
    dead_zone: float = 0.5
    levels_beyond: int = 0
    relative: Relative | None = None
    embodiment: str | None = None

    def __reduce__(self) -> tuple[type[TokenizerSpec], tuple[object, ...]]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    def __post_init__(self) -> None:
        self._to_plain_values()
        for s in self.scales:
            if not (math.isfinite(s) and s > 0):
                raise ValueError(f"scale must be finite and positive, got {s}")
            if not 1 / MAX_MAGNITUDE <= s <= MAX_MAGNITUDE:
                raise ValueError(f"scale must lie in 1e-100..1e100, got {s}")
        if not -MAX_COEFFICIENT <= self.min_coefficient <= 0 <= self.max_coefficient <= MAX_COEFFICIENT:
            raise ValueError(
                f"the coefficient range must include 0 and lie within +-{MAX_COEFFICIENT}, "
                f"got {self.min_coefficient}..{self.max_coefficient}"
            )
        self._check_coding()
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(f"the vocabulary must have at most {MAX_VOCAB_SIZE} ids, got {self.vocab_size}")
        if self.time_horizon is not None and not 1 <= self.time_horizon <= MAX_HORIZON:
            raise ValueError(f"time_horizon must lie in 1..{MAX_HORIZON}, got {self.time_horizon}")
        if self.hz is not None and not (math.isfinite(self.hz) and self.hz > 0):
            raise ValueError(f"hz must be finite and positive, got {self.hz}")
        if self.embodiment is not None and (not isinstance(self.embodiment, str) or not self.embodiment):
            raise ValueError(f"an embodiment's name must be a string that is not empty, got {self.embodiment!r}")
        self._check_dimensions()

    def _to_plain_values(self) -> None:
        """NumPy scalars and equal numbers of another type must not make another artefact."""
        wide = np.array(self.merges, dtype=np.int64)
        if wide.ndim != 2 or wide.shape[1] != 2:
            raise ValueError(f"merges must have shape (M, 2), got {wide.shape}")
        if wide.size and not 0 <= wide.min() <= wide.max() < 2**31:
            raise ValueError(f"merges must join token ids, got {int(wide.min())}..{int(wide.max())}")
        if np.ndim(self.scale) and len(np.ravel(self.scale)) == 0:
            raise ValueError("scale must be a number or one per dimension, got none")
        merges = wide.astype(np.int32)
        merges.flags.writeable = False
        scale = tuple(float(s) for s in np.ravel(self.scale))
        plain: dict[str, object] = {"merges": merges, "scale": scale if np.ndim(self.scale) else scale[0]}
        for name in ("min_coefficient", "max_coefficient", "levels_beyond", "time_horizon", "action_dim"):
            value = getattr(self, name)
            plain[name] = None if value is None else operator.index(value)
        plain["dead_zone"] = float(self.dead_zone)
        plain["hz"] = None if self.hz is None else float(self.hz)
        if self.dimension_names is not None:
            for name in self.dimension_names:
                if not isinstance(name, str):
                    raise ValueError(f"dimension_names must be strings, got {name!r}")
            plain["dimension_names"] = tuple(str(name) for name in self.dimension_names)  # no numpy.str_
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def _check_coding(self) -> None:
        for name, allowed in (("order", get_args(Order)), ("parsing", get_args(Parsing))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.end_of_block is not None and self.end_of_block not in get_args(EndOfBlock):
            raise ValueError(f"end_of_block must be one of {get_args(EndOfBlock)} or None, got {self.end_of_block!r}")
        if self.end_of_block == "dimension" and self.order != "dimension-first":
            raise ValueError("end_of_block='dimension' goes with order='dimension-first'")
        if not 0 <= self.levels_beyond <= MAX_VOCAB_SIZE:
            raise ValueError(f"levels_beyond must lie in 0..{MAX_VOCAB_SIZE}, got {self.levels_beyond}")
        low, high = self.coefficient_range
        if not -MAX_COEFFICIENT <= low <= high <= MAX_COEFFICIENT:
            raise ValueError(f"levels_beyond reach {low}..{high}, beyond +-{MAX_COEFFICIENT}")
        if not 0.5 <= self.dead_zone <= 0.99:
            raise ValueError(f"dead_zone must lie in [0.5, 0.99], got {self.dead_zone}")

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
        if self.relative is not None:
            if self.action_dim is None:
                raise ValueError("relative dimensions need an action_dim, got None")
            self.relative.check_action_dim(self.action_dim)

    def codec(self) -> Codec:
        """The core's codec.

        Raises:
            ValueError: Merges that no training could have produced.
        """
        return Codec(
            list(self.scales),
            self.min_coefficient,
            self.max_coefficient,
            self.merges.astype(np.int64),
            dead_zone=self.dead_zone,
            order=self.order,
            end_of_block=self.end_of_block,
            parsing=self.parsing,
            levels_beyond=self.levels_beyond,
            **native_normalizer(self.normalizer),
        )

    def to_json(self) -> dict[str, Any]:
        """The artefact's fields; the README states the format."""
        own = self._embodiment_json()
        return {
            "format": "fast_tokenizer",
            "version": ARTEFACT_VERSION,
            "vocab_size": self.vocab_size,
            "min_coefficient": self.min_coefficient,
            "max_coefficient": self.max_coefficient,
            "levels_beyond": self.levels_beyond,
            "order": self.order,
            "end_of_block": self.end_of_block,
            "parsing": self.parsing,
            "dead_zone": self.dead_zone,
            **(own if self.embodiment is None else {"embodiments": [{"name": self.embodiment, **own}]}),
            "merges": self.merges.tolist(),
        }

    def _embodiment_json(self) -> dict[str, Any]:
        normalizer, relative = self.normalizer, self.relative
        return {
            "scale": self.scale if isinstance(self.scale, float) else list(self.scale),
            "time_horizon": self.time_horizon,
            "action_dim": self.action_dim,
            "hz": self.hz,
            "dimension_names": None if self.dimension_names is None else list(self.dimension_names),
            "normalizer": normalizer
            and {
                "kind": normalizer.kind,
                "center": normalizer.center.tolist(),
                "half_range": normalizer.half_range.tolist(),
                "clip": normalizer.clip,
            },
            "relative": relative
            and {
                "dimensions": list(relative.dimensions),
                "state_columns": list(relative.state_columns),
                "state_dim": relative.state_dim,
                "state_names": None if relative.state_names is None else list(relative.state_names),
            },
        }

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale as a tuple of one or D entries."""
        return (self.scale,) if isinstance(self.scale, float) else self.scale

    @property
    def coefficient_range(self) -> tuple[int, int]:
        """Lowest and highest coefficient that has a symbol."""
        down, up = self.level_steps
        return self.min_coefficient - self.levels_beyond * down, self.max_coefficient + self.levels_beyond * up

    @property
    def level_steps(self) -> tuple[int, int]:
        """Distance of the levels below the range, and of those above it."""
        n = max(1, self.levels_beyond)
        return max(1, -(self.min_coefficient // n)), max(1, -(-self.max_coefficient // n))

    @property
    def levels(self) -> NDArray[np.int32]:
        """The coefficient of each symbol but the end: those of the range, the levels above, the levels below."""
        (down, up), beyond = self.level_steps, np.arange(1, self.levels_beyond + 1)
        exact = np.arange(self.min_coefficient, self.max_coefficient + 1)
        above, below = self.max_coefficient + up * beyond, self.min_coefficient - down * beyond
        return np.concatenate([exact, above, below]).astype(np.int32)

    @property
    def has_plain_layout(self) -> bool:
        """Symbols are the coefficients, frequency-first."""
        return self.order == "frequency-first" and self.end_of_block is None

    @property
    def zero_symbol(self) -> int:
        """Symbol of coefficient 0."""
        return -self.min_coefficient

    @property
    def end_symbol(self) -> int | None:
        """Symbol of the end of a block, if there is one."""
        return None if self.end_of_block is None else self._coefficient_symbols

    @property
    def alphabet_size(self) -> int:
        """Number of symbols A: of the coefficients, and of the end of a block."""
        return self._coefficient_symbols + (0 if self.end_of_block is None else 1)

    @property
    def _coefficient_symbols(self) -> int:
        return self.max_coefficient - self.min_coefficient + 1 + 2 * self.levels_beyond

    @property
    def vocab_size(self) -> int:
        """Number of token ids V = A + M."""
        return self.alphabet_size + len(self.merges)
