"""A published FAST tokenizer: what it is made of, and its codec.

A chunk's way to ids: DCT and rounding in the input's type, as scipy does both; coefficient minus `min_token` as a
character; characters as words of UTF-8 bytes; bytes merged. All of it is native but the rounding of coefficients on a
tie, which depends on the order in which scipy adds: chunks that have one go through scipy itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_MAGNITUDE, TextCodec
from fast_tokenizer.compat.byte_level import BYTE_CHARACTERS, character_classes, token_bytes

_MAX_CODE_POINT = 0x10FFFF


@dataclass(frozen=True, eq=False)
class PublishedSpec:
    """The contents of a published artefact (`processor_config.json` and `tokenizer.json`).

    Attributes:
        scale: Factor on the DCT coefficients before rounding.
        min_token: Lowest quantized coefficient. Character c of the text stands for coefficient ``min_token + c``.
        tokens: (V,) tokens by id, in GPT-2's characters for bytes.
        merges: (M, 2) int32, in order of rank. A merge joins two token ids to the id of the token they spell together.
        time_horizon: Steps T of every chunk, or None when it may differ.
        action_dim: Dimensions D of every chunk, or None when it may differ.
    """

    scale: float
    min_token: int
    tokens: tuple[str, ...]
    merges: NDArray[np.int32]
    time_horizon: int | None = None
    action_dim: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(self.scale))
        if not 1 / MAX_MAGNITUDE <= self.scale <= MAX_MAGNITUDE:
            raise ValueError(f"scale must lie in 1e-100..1e100, got {self.scale:g}")
        for name in ("time_horizon", "action_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        merges = np.array(self.merges, np.int32).reshape(-1, 2)
        merges.flags.writeable = False
        object.__setattr__(self, "merges", merges)

    def __reduce__(self) -> tuple[type[PublishedSpec], tuple[object, ...]]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))

    # What every spec has; nothing is normalised here, and nothing recorded of the data.
    normalizer = relative = embodiment = None
    hz = None
    dimension_names = None

    @property
    def vocab_size(self) -> int:
        """Number of token ids V."""
        return len(self.tokens)

    @property
    def alphabet_size(self) -> int:
        """Number of token ids that no merge makes."""
        return self.vocab_size - len(self.merges)

    @property
    def min_coefficient(self) -> int:
        """`min_token`; lower coefficients saturate."""
        return self.min_token

    @property
    def max_coefficient(self) -> int:
        """Highest coefficient in `coefficient_range`. What is higher takes several ids, if the bytes have tokens."""
        return self.coefficient_range[1]

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """(V,) the bytes that each id decodes to; characters may begin in one id and end in the next."""
        return tuple(token_bytes(token) for token in self.tokens)

    @cached_property
    def merged_ids(self) -> NDArray[np.int32]:
        """(M,) the id that each merge makes."""
        id_of = {token: i for i, token in enumerate(self.tokens)}
        return np.array([id_of[self.tokens[a] + self.tokens[b]] for a, b in self.merges.tolist()], np.int32)

    @cached_property
    def coefficient_range(self) -> tuple[int, int]:
        """Lowest and highest coefficient in tokens that merges made, and 0: what the data had that it was fitted on."""
        found = [0]
        for i in self.merged_ids.tolist():
            text = self.token_bytes[i].decode("utf-8", errors="ignore")
            found += [ord(ch) + self.min_token for ch in text]
        return min(found), max(found)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        return {
            "format": "published FAST",
            "scale": self.scale,
            "min_token": self.min_token,
            "time_horizon": self.time_horizon,
            "action_dim": self.action_dim,
            "tokens": list(self.tokens),
            "merges": self.merges.tolist(),
        }

    def codec(self) -> PublishedCodec:
        """The codec of these contents.

        Raises:
            ValueError: Merges that no training could have produced.
        """
        return PublishedCodec(self)


class PublishedCodec:
    """Encodes and decodes as the published processor does, where that loses nothing; counts where it does.

    Attributes:
        core: The native codec of texts.
    """

    def __init__(self, spec: PublishedSpec) -> None:
        self._spec = spec
        made = spec.merged_ids
        alphabet = np.setdiff1d(np.arange(spec.vocab_size, dtype=np.int32), made)
        ids = np.concatenate([alphabet, made])  # by the core's tokens: the alphabet, then one a merge
        if len(ids) != spec.vocab_size:
            raise ValueError("two merges make the same token")
        token_of = np.empty(spec.vocab_size, np.int64)
        token_of[ids] = np.arange(len(ids))
        id_of = {token: i for i, token in enumerate(spec.tokens)}
        self.core = TextCodec(
            spec.scale,
            spec.min_token,
            byte_tokens=[int(token_of[id_of[ch]]) if ch in id_of else -1 for ch in BYTE_CHARACTERS],
            alphabet_size=len(alphabet),
            merges=token_of[spec.merges],
            ids=ids.tolist(),
            spellings=list(spec.token_bytes),
            classes=character_classes(),
            repair_range=spec.coefficient_range,
        )

    def encode(
        self, values: NDArray[np.floating], row_offsets: NDArray[np.int64] | None, num_threads: int
    ) -> tuple[NDArray[Any], ...]:
        """As the core's codec, and per chunk: coefficients dropped, and whether scipy decided its rounding."""
        text, offsets, saturated, uncertain, any_uncertain = self.core.quantize(values, row_offsets, num_threads)
        if any_uncertain:
            self._recheck(values, row_offsets, np.flatnonzero(uncertain), offsets, text, saturated)
        ids, id_offsets, dropped = self.core.encode(text, offsets, num_threads)
        return ids, id_offsets, saturated, np.zeros(len(saturated), np.int32), dropped, uncertain

    def _recheck(
        self,
        values: NDArray[np.floating],
        row_offsets: NDArray[np.int64] | None,
        chunks: NDArray[np.int64],
        offsets: NDArray[np.int64],
        text: NDArray[np.int32],
        saturated: NDArray[np.int32],
    ) -> None:
        """Replaces the texts of these chunks by those that scipy's rounding gives."""
        spec = self._spec
        if row_offsets is None:
            codes, saturated[chunks] = published_text(values[chunks], spec, chunks)
            text.reshape(len(values), -1)[chunks] = codes
            return
        for i in chunks.tolist():
            chunk = values[None, row_offsets[i] : row_offsets[i + 1]]
            codes, below = published_text(chunk, spec, np.array([i]))
            text[offsets[i] : offsets[i + 1]], saturated[i] = codes[0], below[0]

    def decode(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        horizons: NDArray[np.int64],
        action_dim: int,
        num_threads: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As the core's codec."""
        return self.core.decode(ids, offsets, horizons, action_dim, num_threads)

    def expand(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Code points that ids stand for; -1 for each character of which they hold a part only."""
        return self.core.expand(ids)

    def expansion_lengths(self) -> NDArray[np.int32]:
        """(V,) characters that begin in each id."""
        return np.array([sum(b & 0xC0 != 0x80 for b in spelling) for spelling in self._spec.token_bytes], np.int32)


def quantize(chunks: NDArray[np.floating], scale: float) -> NDArray[np.floating]:
    """(N, T, D) integers in the type of the chunks: what scipy and NumPy make of them, ties included."""
    from scipy.fft import dct

    quantized: NDArray[np.floating] = np.around(dct(chunks, axis=1, norm="ortho") * scale)
    return quantized


def published_text(
    chunks: NDArray[np.floating], spec: PublishedSpec, names: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The published processor's own arithmetic, in the chunks' type.

    Args:
        chunks: (N, T, D), finite.
        spec: Scale and lowest coefficient.
        names: (N,) what error messages call the chunks.

    Returns:
        (N, T * D) code points, and (N,) how many coefficients were below the lowest.

    Raises:
        ValueError: A coefficient for which there is no character; the published processor fails on it as well.
    """
    quantized = quantize(chunks, spec.scale).reshape(len(chunks), -1)
    shifted = quantized - spec.min_token
    codes = np.maximum(shifted, 0)
    bad = (codes > _MAX_CODE_POINT) | ((codes >= 0xD800) & (codes <= 0xDFFF))
    if bad.any():
        chunk, at = np.argwhere(bad)[0]
        frequency, dimension = divmod(int(at), chunks.shape[2])
        raise ValueError(
            f"chunk {names[chunk]}: the coefficient at frequency {frequency}, dimension {dimension} is "
            f"{quantized[chunk, at]:.0f} after scaling, for which published tokenizers have no character: theirs lie "
            f"in {spec.min_token}..{_MAX_CODE_POINT + spec.min_token}, without {0xD800 + spec.min_token}.."
            f"{0xDFFF + spec.min_token}; normalise the actions"
        )
    return codes.astype(np.int32), (shifted < 0).sum(axis=1, dtype=np.int32)
