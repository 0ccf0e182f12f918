"""The world as what the model reads: words as ids, chunks as tokens, examples as `KIBatch`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ki import world
from benchmarks.ki.arms import Arm
from benchmarks.ki.settings import Settings
from fast_tokenizer import FastTokenizer, VlmVocab
from fast_tokenizer.ki_model import Binning, DiscreteTargets, KIBatch, KIBatchBuilder, Prefix, Targets
from fast_tokenizer.state import state_bins
from fast_tokenizer.text import TextEncoder

PAD, BOS, EOS, NEWLINE = "<pad>", "<bos>", "<eos>", "\n"
_MARKS = ("Task: ", ", State: ", ";\n", "Action: ", "|", NEWLINE)
_STATES = tuple(str(b) for b in np.unique(state_bins(world.CENTRES)[0]))
WORDS = tuple(
    dict.fromkeys(
        (PAD, BOS, EOS, *_MARKS, "reach", "of", *world.KINDS, *world.COLOURS, *world.SHAPES, *world.PLACES, *_STATES)
    )
)
ID = {word: i for i, word in enumerate(WORDS)}
_PIECES = re.compile("|".join(map(re.escape, _MARKS)) + r"|[\w-]+| ")


def encode_words(texts: Sequence[str]) -> list[list[int]]:
    """One id a word or mark; spaces between words have none.

    Raises:
        ValueError: A word that the vocabulary lacks.
    """
    rows = []
    for text in texts:
        pieces = _PIECES.findall(text)
        unknown = [p for p in pieces if p != " " and p not in ID]
        if unknown or "".join(pieces) != text:
            raise ValueError(f"{text!r} has words that the vocabulary lacks: {unknown or 'punctuation'}")
        rows.append([ID[p] for p in pieces if p != " "])
    return rows


TEXT = TextEncoder(encode_words, bos_id=ID[BOS], eos_id=ID[EOS])


def vocabulary(settings: Settings) -> int:
    """Ids of the model: the words, then room for the larger of the two sets of action tokens."""
    return len(WORDS) + max(settings.fast_vocabulary, settings.bins)


def rows_of(batch: KIBatch, rows: Tensor | slice) -> KIBatch:
    """Some rows of a batch."""
    p, t = batch.prefix, batch.targets
    prefix = Prefix(p.ids[rows], p.mask[rows], *(x if x is None else x[rows] for x in (p.images, p.image_mask)))
    targets = None if t is None else Targets(t.ids[rows], t.mask[rows], t.loss_mask[rows], t.fast_mask[rows])
    return KIBatch(prefix, targets, *(x if x is None else x[rows] for x in (batch.actions, batch.action_mask)))


@dataclass(frozen=True)
class QuestionSet:
    """Questions as a batch, and what is needed to judge answers.

    Attributes:
        batch: N rows; target 0 of each is the answer.
        allowed: (N, V) bool; the words that can answer a question of its kind.
    """

    batch: KIBatch
    allowed: Tensor

    @property
    def answers(self) -> Tensor:
        """(N,) ids."""
        assert self.batch.targets is not None
        return self.batch.targets.ids[:, 0]


class Data:
    """All data of one seed. The same for every arm: only what stands for a chunk differs."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def rng(self, purpose: int) -> np.random.Generator:
        """A stream of its own for each purpose, so that none depends on what was drawn before."""
        return np.random.default_rng((self.seed, purpose))

    # ---- Questions -------------------------------------------------------------------------------

    @cached_property
    def training_questions(self) -> QuestionSet:
        """For pretraining and for co-training."""
        return self._questions(self.settings.pretraining_questions, self.rng(0))

    @cached_property
    def test_questions(self) -> QuestionSet:
        """About other pictures."""
        return self._questions(self.settings.test_questions, self.rng(1))

    def _questions(self, count: int, rng: np.random.Generator) -> QuestionSet:
        scenes = world.scenes(count, rng, on_plate=1 / world.OBJECTS)
        asked = world.questions(scenes, rng)
        images = _cameras(world.pictures(scenes, rng))
        batch = self.builder("binning").language(asked.texts, asked.answers, images=images)
        of_kind = torch.zeros(len(world.KINDS), vocabulary(self.settings), dtype=torch.bool)
        for row, kind in zip(of_kind, world.KINDS, strict=True):
            row[[ID[word] for word in world.ANSWERS[kind]]] = True
        return QuestionSet(batch, of_kind[[world.KINDS.index(kind) for kind in asked.kinds]])

    # ---- Robot -----------------------------------------------------------------------------------

    @cached_property
    def demonstrated(self) -> tuple[world.Scenes, NDArray[np.float32], NDArray[np.float32]]:
        """Scenes, pictures and chunks to train on."""
        rng = self.rng(2)
        scenes = world.scenes(self.settings.demonstrations, rng, self.settings.on_plate)
        return scenes, world.pictures(scenes, rng), world.chunks(scenes)

    @cached_property
    def tokenizer(self) -> FastTokenizer:
        """Fitted on the chunks to train on."""
        return FastTokenizer.fit(self.demonstrated[2], self.settings.fast_vocabulary, self.settings.fast_scale)

    def targets(self, name: str) -> DiscreteTargets:
        """What encodes chunks."""
        return self.tokenizer if name == "fast" else Binning(self.settings.bins)

    def builder(self, name: str) -> KIBatchBuilder:
        """Makes batches; its action tokens lie behind the words."""
        targets = self.targets(name)
        vlm = VlmVocab(targets.vocab_size, vocabulary(self.settings), first_id=len(WORDS))
        return KIBatchBuilder(TEXT, vlm, targets)

    def demonstrations(self, arm: Arm, count: int | None = None) -> KIBatch:
        """What an arm trains on: all, or the first ones."""
        scenes, images, chunks = (part[:count] for part in self.demonstrated)
        batch = self.builder(arm.targets or "binning").robot(
            world.commands(scenes), world.states(scenes), chunks, images=_cameras(images)
        )
        return batch if arm.targets else KIBatch(batch.prefix, None, batch.actions, batch.action_mask)

    def test_scenes(self, on_plate: float) -> tuple[world.Scenes, NDArray[np.float32]]:
        """Scenes and pictures that were never trained on; the share `on_plate` as in training, or 1/4: any object."""
        rng = self.rng(3)
        scenes = world.scenes(self.settings.test_scenes, rng, on_plate)
        return scenes, world.pictures(scenes, rng)

    def prefix(self, scenes: world.Scenes, images: NDArray[np.float32]) -> Prefix:
        """What a policy sees."""
        return self.builder("binning").prefix(world.commands(scenes), world.states(scenes), images=_cameras(images))


def _cameras(images: NDArray[np.float32]) -> Tensor:
    """(N, C, h, w) -> (N, 1, C, h, w): there is one."""
    return torch.from_numpy(images)[:, None]
