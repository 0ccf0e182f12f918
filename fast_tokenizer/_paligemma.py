"""What is known of PaliGemma's vocabulary: its blocks, where action tokens go, what they may collide with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fast_tokenizer._arguments import integer

#: Pieces: 256000 of Gemma, 1024 <loc>, 128 <seg>. In `transformers`, <image> comes after them.
VOCAB_SIZE = 257152

BLOCKS = (
    ("control ids", 0),  # <pad> <eos> <bos> <unk>
    ("ordinary pieces", 4),
    ("<loc>", 256000),
    ("<seg>", 257024),
    ("<image>", VOCAB_SIZE),
    ("rows without a piece", VOCAB_SIZE + 1),
)
#: Ids left free at the end, so that token id 0 lies directly below the block of that name.
ANCHORS = {"seg": 128, "loc": 128 + 1024}
#: What PaliGemma answers in: a box is four <loc>, a segment is a box and sixteen <seg>.
CO_TRAINING = {"detection": ("<loc>",), "segmentation": ("<loc>", "<seg>")}


def first_id(anchor: str | int, vocab_size: int) -> int:
    """VLM id of token id 0, if so many ids fit below it."""
    if isinstance(anchor, str):
        if anchor not in ANCHORS:
            raise ValueError(f"anchor must be one of {sorted(ANCHORS)} or a number of ids to skip, got {anchor!r}")
        skip = ANCHORS[anchor]
    else:
        skip = integer("anchor", anchor, 0, VOCAB_SIZE - 1, "0 or more")
    fits = max(0, VOCAB_SIZE - skip - BLOCKS[1][1])
    if vocab_size > fits:
        raise ValueError(f"with {skip} ids skipped there is room for {fits} action tokens, got vocab_size {vocab_size}")
    return VOCAB_SIZE - 1 - skip


def known_tasks(co_training: str | Sequence[str]) -> tuple[str, ...]:
    """The tasks, if they are known ones; one may be named alone."""
    if isinstance(co_training, str):
        co_training = (co_training,)
    if not isinstance(co_training, Iterable):
        raise ValueError(f"co_training must be a sequence of tasks, got {co_training!r}")
    tasks = tuple(co_training)
    for task in tasks:
        if not isinstance(task, str) or task not in CO_TRAINING:
            raise ValueError(f"co-training task must be one of {sorted(CO_TRAINING)}, got {task!r}")
    return tasks


def refuse_collisions(slots: Mapping[str, range], co_training: Sequence[str]) -> None:
    """`slots`: token ids by the block that they lie on. `co_training`: known tasks."""
    taken = {task: [block for block in CO_TRAINING[task] if block in slots] for task in co_training}
    collisions = [
        f"token ids {slots[block][0]}..{slots[block][-1]} lie on {block}, which co-training on {task} answers in"
        for task, blocks in taken.items()
        for block in blocks
    ]
    if collisions:
        raise ValueError(
            "; ".join(collisions) + '. anchor="loc" puts action tokens below both, allow_collision=True shares the ids'
        )
