"""Which ids are used, how evenly, and what they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.tokenizer import FastTokenizer

#: Order of the Renyi entropy that goes best with the quality of trained models (Zouhar et al., arXiv 2306.16842).
RENYI_ALPHA = 2.5


@dataclass(frozen=True, slots=True, eq=False)
class TokenUsage:
    """Of the ids of a sample.

    Attributes:
        vocab_size: Ids that there are, V.
        ids_used: Ids that occur.
        entropy_bits: Entropy of single ids, in bits an id.
        normalized_entropy: That over log2 V; 1 where all ids are equally frequent.
        renyi_efficiency: Renyi entropy of order 2.5 over log2 V (arXiv 2306.16842); frequent ids weigh more.
        bits_per_chunk: Tokens of a chunk times log2 V: what a model has to choose.
        entropy_bits_per_chunk: Tokens of a chunk times the entropy.
        bits_per_action: Bits of a chunk over its values, T * D.
        counts: (V,) occurrences of each id.
        expansion_lengths: (V,) symbols that each id stands for.
        mean_expansion_length: Symbols an id stands for, on average over the sample.
    """

    vocab_size: int
    ids_used: int
    entropy_bits: float
    normalized_entropy: float
    renyi_efficiency: float
    bits_per_chunk: float
    entropy_bits_per_chunk: float
    bits_per_action: float
    counts: NDArray[np.int64]
    expansion_lengths: NDArray[np.int32]
    mean_expansion_length: float


def token_usage(tokenizer: FastTokenizer, ids: NDArray[np.integer], chunks: int, values: int) -> TokenUsage:
    """Of the ids of a number of chunks of so many values each."""
    vocab_size = tokenizer.vocab_size
    counts = np.bincount(ids, minlength=vocab_size).astype(np.int64)
    shares = counts[counts > 0] / len(ids)
    entropy = float(-(shares * np.log2(shares)).sum()) + 0.0
    renyi = float(np.log2(np.power(shares, RENYI_ALPHA).sum()) / (1 - RENYI_ALPHA)) + 0.0
    most = math.log2(vocab_size) or 1.0  # a vocabulary of one id has no entropy to reach
    mean_length = len(ids) / chunks
    lengths = tokenizer.expansion_lengths
    return TokenUsage(
        vocab_size=vocab_size,
        ids_used=len(shares),
        entropy_bits=entropy,
        normalized_entropy=entropy / most,
        renyi_efficiency=renyi / most,
        bits_per_chunk=mean_length * math.log2(vocab_size),
        entropy_bits_per_chunk=mean_length * entropy,
        bits_per_action=mean_length * math.log2(vocab_size) / values,
        counts=counts,
        expansion_lengths=lengths,
        mean_expansion_length=float(counts @ lengths) / len(ids),
    )
