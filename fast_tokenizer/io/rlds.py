"""RLDS episodes in TFRecord files, as Open X-Embodiment and `tensorflow_datasets` write them: a record an episode.

`steps/...` holds, for each key, the values of all steps one after the other. All files of a folder are read, whatever
split they are of. Every record's checksum is checked when it is read, and so its images are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io._tfrecord import Record, Values, records
from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps
from fast_tokenizer.io.source import Outline, Source, floats, joined, missing, natural, of_files, require

#: Features that have one value a step, and so tell how many steps there are.
_COUNTS = ("steps/is_last", "steps/is_first", "steps/is_terminal", "steps/reward", "steps/discount")
_STATE_KEYS = ("observation/state", "observation/proprio")
_TASKS = ("steps/language_instruction", "steps/observation/natural_language_instruction")


def is_tfrecord(path: Path) -> bool:
    """By its name: x.tfrecord, or x-train.tfrecord-00000-of-00008."""
    return ".tfrecord" in path.name


def files_in(folder: Path) -> list[Path]:
    """The TFRecord files of a folder."""
    return sorted((p for p in folder.iterdir() if is_tfrecord(p)), key=lambda p: natural(p.name))


def read_rlds(source: Source) -> Dataset:
    """Opens a file, or all of a folder. Of each record only the numbers are looked at, to know its length.

    Raises:
        BrokenDataError: A file is damaged or a Git LFS pointer, and nothing is skipped.
        ValueError: There are no such features; the message has those that there are.
    """
    crc32c = require("google_crc32c", "rlds", source.path)
    outlines: list[Outline] = []
    keys: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    action_dim = 0
    # Which records of each file are episodes that can be read.
    ordinals: dict[Path, list[int]] = {}
    before = 0
    for file in files_in(source.path) if source.path.is_dir() else [source.path]:
        episodes: list[EpisodeInfo] = []
        lengths: list[int] = []
        ordinals[file] = []
        count = 0
        try:
            if problem := missing(file):
                raise problem
            for count, record in enumerate(records(file, crc32c), 1):
                try:
                    if keys is None:  # it says what all others are expected to have
                        record.check(crc32c)
                    features = record.features(None if keys is None else {*keys[0], *_COUNTS})
                    length = _length(record, features)
                except BrokenDataError as error:  # the next one's place is known
                    source.broken(error)
                    continue
                keys = keys or _keys(source, features)
                action_dim = action_dim or sum(_width(features[k], length) for k in keys[0])
                episodes.append(EpisodeInfo(before + count - 1, f"{file.name} episode {count - 1}"))
                lengths.append(length)
                ordinals[file].append(count - 1)
        except BrokenDataError as error:  # what stands before the damage can be read
            source.broken(error)
        before += count
        outlines.append(Outline(file, tuple(episodes), tuple(lengths)))
    if keys is None:
        raise ValueError(
            f"{source.path}: holds no episode that can be read{''.join(f': {e}' for e in source.left_out[:1])}"
        )
    action_keys, state_keys = keys

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        chosen = {ordinals[outline.file][i]: outline.lengths[i] for i in wanted}
        for ordinal, record in enumerate(records(outline.file, crc32c)):
            if ordinal in chosen:
                yield _steps(record, crc32c, action_keys, state_keys, chosen[ordinal])
            if ordinal == max(chosen):
                return

    return of_files(source, outlines, load_file, action_dim)


def _length(record: Record, features: Mapping[str, Values]) -> int:
    counts = {len(features[k]) for k in _COUNTS if k in features}
    if len(counts) != 1 or 0 in counts:
        have = sorted(k for k in features if k.startswith("steps/")) or sorted(features)
        raise BrokenDataError(
            "missing column",
            f"{record}: expected an RLDS episode with one {' or '.join(_COUNTS[:2])} a step, got {have}",
        )
    return counts.pop()


def _keys(source: Source, features: Mapping[str, Values]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The full names of actions and state."""
    numbers = {k.removeprefix("steps/") for k, v in features.items() if k.startswith("steps/") and len(v)}
    action = source.action_keys or ("action",)
    usual = next(((k,) for k in _STATE_KEYS if k in numbers), ())
    state = (source.state_keys or usual) if source.state else ()
    for key in (*action, *state):
        if key not in numbers:
            raise ValueError(
                f"{source.path}: has no numbers steps/{key}, only {sorted(numbers)}: "
                "give an action key, or several to join"
            )
    return tuple(f"steps/{k}" for k in action), tuple(f"steps/{k}" for k in state)


def _width(values: Values, length: int) -> int:
    return max(1, len(values) // length)


def _steps(
    record: Record, crc32c: Any, action_keys: Sequence[str], state_keys: Sequence[str], length: int
) -> Steps | BrokenDataError:
    try:
        record.check(crc32c)
        features = record.features({*action_keys, *state_keys, *_TASKS})
        parts = [[_table(record, features, k, length) for k in keys] for keys in (action_keys, state_keys)]
        texts = [t.decode(errors="replace") for k in _TASKS for t in features.get(k, []) if isinstance(t, bytes)]
        return Steps(joined(parts[0]), joined(parts[1]) if parts[1] else None, tasks=tuple(dict.fromkeys(texts)))
    except BrokenDataError as error:
        return error


def _table(record: Record, features: Mapping[str, Values], key: str, length: int) -> NDArray[np.floating]:
    values = features.get(key)
    if not isinstance(values, np.ndarray) or len(values) == 0:
        raise BrokenDataError("missing column", f"{record}: has no numbers {key}")
    if len(values) % length:
        raise BrokenDataError("other dimensions", f"{record}: {key} has {len(values)} values in {length} steps")
    return floats(values.reshape(length, -1))
