"""Who sees whom, and at which position: the attention table of knowledge insulation (arXiv 2505.23705, appendix B).

Every token belongs to a segment, and the table `SEES` is the only definition of the mask; the model, its tests and the
figures of the guide all read it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor

Sight = Literal["no", "all", "causal", "self"]


class Segment(IntEnum):
    """What a token is.

    Attributes:
        PAD: Nothing: padding, or the tokens of a camera that is masked. Nobody sees it.
        PREFIX: Image, text and the state as text.
        TARGET: What the language model learns to say: answers and action tokens. In training only.
        ACTION: The noisy actions, which the expert reads.
    """

    PAD = 0
    PREFIX = 1
    TARGET = 2
    ACTION = 3


#: What a token of one segment (the query) sees of another (the key). "causal": those that are not behind it.
#: Targets and actions never see each other, and the prefix sees neither: all it gives the expert is there at inference.
#: Padding sees itself, so that no softmax is over nothing.
SEES: dict[Segment, dict[Segment, Sight]] = {
    Segment.PAD: {Segment.PAD: "self", Segment.PREFIX: "no", Segment.TARGET: "no", Segment.ACTION: "no"},
    Segment.PREFIX: {Segment.PAD: "no", Segment.PREFIX: "all", Segment.TARGET: "no", Segment.ACTION: "no"},
    Segment.TARGET: {Segment.PAD: "no", Segment.PREFIX: "all", Segment.TARGET: "causal", Segment.ACTION: "no"},
    Segment.ACTION: {Segment.PAD: "no", Segment.PREFIX: "all", Segment.TARGET: "no", Segment.ACTION: "all"},
}


def attention_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """Which keys each query sees.

    The queries are the last tokens of the sequence that the keys are: query i is key ``K - Q + i``.

    Args:
        queries: (B, Q) segments.
        keys: (B, K) segments, K >= Q.

    Returns:
        (B, Q, K) bool.

    Raises:
        ValueError: There are fewer keys than queries.

    Example:
        >>> row = torch.tensor([[Segment.PREFIX, Segment.PAD, Segment.TARGET, Segment.TARGET]])
        >>> attention_mask(row, row).int()[0].tolist()
        [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    past = keys.shape[1] - queries.shape[1]
    if past < 0:
        raise ValueError(f"got {queries.shape[1]} queries, but {keys.shape[1]} keys")
    query_at = torch.arange(past, keys.shape[1], device=keys.device)[:, None]  # (Q, 1)
    key_at = torch.arange(keys.shape[1], device=keys.device)[None, :]  # (1, K)
    where = {"all": torch.ones_like(query_at == key_at), "causal": key_at <= query_at, "self": key_at == query_at}
    mask = torch.zeros(*queries.shape, keys.shape[1], dtype=torch.bool, device=keys.device)
    for query, row in SEES.items():
        for key, sight in row.items():
            if sight != "no":
                mask |= (queries == int(query))[:, :, None] & (keys == int(key))[:, None, :] & where[sight]
    return mask


def prefix_positions(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the prefix, which skip what is masked, and where it ends.

    Args:
        valid: (B, P) bool.

    Returns:
        (B, P) int64 positions (0 before the first valid token), and (B,) int64 numbers of valid tokens.

    Example:
        >>> positions, length = prefix_positions(torch.tensor([[True, False, True, True, False]]))
        >>> positions.tolist(), length.tolist()
        ([[0, 0, 1, 2, 2]], [3])
    """
    count = valid.long().cumsum(1)
    return (count - 1).clamp(min=0), valid.long().sum(1)


def parallel_positions(prefix_length: Tensor, slots: int) -> Tensor:
    """Positions of targets, and likewise of actions: both begin right after the valid prefix, row by row.

    Args:
        prefix_length: (B,) numbers of valid prefix tokens.
        slots: How many positions.

    Returns:
        (B, slots) int64.

    Example:
        >>> parallel_positions(torch.tensor([3, 5]), 2).tolist()
        [[3, 4], [5, 6]]
    """
    return prefix_length[:, None] + torch.arange(slots, device=prefix_length.device)
