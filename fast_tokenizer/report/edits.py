"""What becomes of a chunk when one of its ids is wrong: what strict decoding finds, and what repair costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.errors import DecodeError
from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.tokenizer import FastTokenizer

Ids: TypeAlias = list[list[int]]
Chunks: TypeAlias = NDArray[np.floating]
#: ids, T, D -> accepted (N,), returned (N,), actions (N, T, D)
Decoder: TypeAlias = Callable[[Ids, int, int], tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks]]

#: What is done to a sequence of ids, once each.
HARMS = ("nothing", "substitution", "insertion", "deletion", "truncation")


def harmed(harm: str, ids: list[int], vocab_size: int, rng: np.random.Generator) -> list[int]:
    """A sequence after one harm, at a random place, with random ids; of a truncation, at least one id is gone."""
    at = int(rng.integers(len(ids) + (harm == "insertion")))
    match harm:
        case "substitution":
            other = int(rng.integers(vocab_size - 1))
            return [*ids[:at], other + (other >= ids[at]), *ids[at + 1 :]]
        case "insertion":
            return [*ids[:at], int(rng.integers(vocab_size)), *ids[at:]]
        case "deletion":
            return ids[:at] + ids[at + 1 :]
        case "truncation":
            return ids[:at]
    return ids


def strict(tokenizer: FastTokenizer) -> Decoder:
    """`decode`, a sequence at a time: it raises on what it does not accept."""

    def decode(ids: Ids, horizon: int, dims: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks]:
        actions = np.zeros((len(ids), horizon, dims))
        accepted = np.ones(len(ids), bool)
        for i, sequence in enumerate(ids):
            try:
                actions[i] = tokenizer.decode([sequence], horizon, dims)[0]
            except DecodeError:
                accepted[i] = False
        return accepted, accepted, actions

    return decode


def repairing(tokenizer: FastTokenizer) -> Decoder:
    """`decode_with_status`."""

    def decode(ids: Ids, horizon: int, dims: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks]:
        actions, status = tokenizer.decode_with_status(ids, horizon, dims)
        return status.ok, np.ones(len(ids), bool), actions

    return decode


@dataclass(slots=True)
class Tally:
    """What one decoder made of one harm."""

    chunks: int = 0
    accepted: int = 0
    returned: int = 0
    zeros: int = 0
    worst: float = 0.0
    squares: float = 0.0
    values: int = 0

    def add(self, decoded: tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks], unharmed: Chunks) -> None:
        """Takes in chunks, next to what their unharmed ids decode to."""
        accepted, returned, actions = decoded
        actions, unharmed = actions[returned], unharmed[returned]
        self.chunks += len(accepted)
        self.accepted += int(accepted.sum())
        self.returned += int(returned.sum())
        self.zeros += int((~actions.any(axis=(1, 2)) & unharmed.any(axis=(1, 2))).sum())
        self.worst = max(self.worst, float(np.abs(actions).max(initial=0)))
        self.squares += float(np.square(actions - unharmed).sum())
        self.values += actions.size

    @property
    def rmse(self) -> float:
        """Root mean square distance from the unharmed, of what is returned; 0 where nothing is."""
        return float(np.sqrt(self.squares / self.values)) if self.values else 0.0


@dataclass(frozen=True, slots=True)
class EditResult:
    """One kind of harm, done once to each sequence.

    Attributes:
        harm: Which.
        sequences: How many were harmed.
        found_share: Share that strict decoding refuses.
        accepted_rmse: Of those that it accepts, and so of what is not found: root mean square distance from what the
            unharmed ids decode to, in normalised units. None: it accepts none.
        accepted_max_abs_action: Largest normalised value that they decode to, or None.
        repaired_rmse: Of all, repaired where needed.
        repaired_max_abs_action: Largest normalised value of all.
    """

    harm: str
    sequences: int
    found_share: float
    accepted_rmse: float | None
    accepted_max_abs_action: float | None
    repaired_rmse: float
    repaired_max_abs_action: float


@dataclass(frozen=True, slots=True)
class Edits:
    """Results by harm, and what to compare them with.

    Attributes:
        results: One a harm.
        max_abs_action: Largest normalised value of the unharmed chunks.
        left_out: Chunks that are not used, as a published vocabulary has no ids for all of them.
    """

    results: tuple[EditResult, ...]
    max_abs_action: float
    left_out: int


def robustness_to_edits(pipeline: Pipeline, chunks: Chunks, draws: int, *, seed: int = 0) -> Edits:
    """Harms the ids of chunks (N, T, D), in recorded units, `draws` times each.

    A vocabulary of one id has no other to put in its place: then only the other harms are done.
    """
    tokenizer, shape = pipeline.tokenizer, chunks.shape[1:]
    whole = pipeline.encode(chunks)
    actions, status = pipeline.decode(whole, *shape)
    ids = [list(sequence) for sequence, ok in zip(whole.to_list(), status.ok, strict=True) if ok for _ in range(draws)]
    unharmed = pipeline.normalized(actions[status.ok]).repeat(draws, axis=0)
    results = []
    for harm in HARMS[1:] if ids else ():
        if harm == "substitution" and tokenizer.vocab_size == 1:
            continue
        rng = np.random.default_rng(seed)
        wrong = [harmed(harm, sequence, tokenizer.vocab_size, rng) for sequence in ids]
        tallies = []
        for decoder in (strict(tokenizer), repairing(tokenizer)):
            accepted, returned, decoded = decoder(wrong, *shape)
            tallies.append(Tally())
            tallies[-1].add((accepted, returned, pipeline.normalized(pipeline.outputs(decoded))), unharmed)
        found, repaired = tallies
        results.append(
            EditResult(
                harm=harm,
                sequences=found.chunks,
                found_share=1 - found.accepted / found.chunks,
                accepted_rmse=found.rmse if found.accepted else None,
                accepted_max_abs_action=found.worst if found.accepted else None,
                repaired_rmse=repaired.rmse,
                repaired_max_abs_action=repaired.worst,
            )
        )
    most = float(np.abs(unharmed).max(initial=0))
    return Edits(tuple(results), most, int((~status.ok).sum()))
