"""RLDS episodes in TFRecord files, as Open X-Embodiment and `tensorflow_datasets` write them: a record an episode.

`steps/...` holds, for each key, the values of all steps one after the other. All files of a folder are read, whatever
split they are of. Every record's checksum is checked when it is read, and so its images are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer.io._tfrecord import Record, Values, records
from fast_tokenizer.io.dataset import BrokenDataError, Dataset, EpisodeInfo, Steps, blamed_on
from fast_tokenizer.io.source import (
    Outline,
    Source,
    failed_file,
    floats,
    joined,
    missing,
    most_common,
    natural,
    of_files,
    require,
)

#: Features that have one value a step, and so tell how many steps there are.
_COUNTS = ("steps/is_last", "steps/is_first", "steps/is_terminal", "steps/reward", "steps/discount")
_STATE_KEYS = ("observation/state", "observation/proprio")
_TASKS = ("steps/language_instruction", "steps/observation/natural_language_instruction")


def is_tfrecord(path: Path) -> bool:
    """By its name: x.tfrecord, or x-train.tfrecord-00000-of-00008; not x.tfrecord.idx, an index of other tools."""
    return re.search(r"\.tfrecords?([-_.]\d+([-_]of[-_]\d+)?)?$", path.name) is not None


def files_in(folder: Path) -> list[Path]:
    """The TFRecord files of a folder."""
    return sorted((p for p in folder.iterdir() if is_tfrecord(p)), key=lambda p: natural(p.name))


@dataclass(frozen=True, slots=True)
class _Outlined:
    """How many steps a record has, and how many values in each step of the features that may be read."""

    length: int
    widths: Mapping[str, int]


def read_rlds(source: Source) -> Dataset:
    """Opens a file, or all of a folder. Of each record only the numbers are looked at, to know its length.

    Raises:
        ValueError: There are no such features; the message has those that there are.
    """
    crc32c = require("google_crc32c", "rlds", source.path)
    action_keys = tuple(f"steps/{k}" for k in source.action_keys or ("action",))
    state_keys = tuple(f"steps/{k}" for k in source.state_keys) if source.state else ()
    usual = tuple(f"steps/{k}" for k in _STATE_KEYS) if source.state and not state_keys else ()
    keys = (*action_keys, *state_keys, *usual)
    outlines: list[Outline] = []
    outlined: list[_Outlined] = []
    before = 0
    for file in files_in(source.path) if source.path.is_dir() else [source.path]:
        episodes: list[EpisodeInfo] = []
        lengths: list[int] = []
        try:
            if problem := missing(file):
                raise problem
            with blamed_on(file):
                for record in records(file, crc32c):
                    info = EpisodeInfo(before + len(episodes), f"{file.name} episode {len(episodes)}")
                    try:
                        outlined.append(_outlined(record, crc32c, keys))
                        lengths.append(outlined[-1].length)
                    except BrokenDataError as error:  # the next one's place is known
                        info = replace(info, problem=error.bare())
                        lengths.append(0)
                    episodes.append(info)
        except BrokenDataError as error:  # what stands before the damage can be read
            rest = failed_file(file, before + len(episodes), error)
            episodes, lengths = [*episodes, *rest.episodes], [*lengths, 0]
        before += len(episodes)
        outlines.append(Outline(file, tuple(episodes), tuple(lengths)))
    if most := most_common(next((k for k in usual if k in o.widths), None) for o in outlined):
        state_keys = (most,)
    for key in (*action_keys, *state_keys):
        if outlined and not any(key in o.widths for o in outlined):
            raise ValueError(
                f"{source.path}: has no numbers {key}, only {_numbers(outlines, crc32c)}: "
                "give an action key, or several to join"
            )

    def load_file(outline: Outline, wanted: Sequence[int]) -> Iterator[Steps | BrokenDataError]:
        chosen = set(wanted)
        for i, record in enumerate(records(outline.file, crc32c)):
            if i in chosen:
                yield _steps(record, crc32c, action_keys, state_keys, outline.lengths[i])
            if i == max(chosen):
                return

    action_dim, state_dim = (
        most_common(sum(o.widths[k] for k in ks) for o in outlined if all(k in o.widths for k in ks)) or 0
        for ks in (action_keys, state_keys)
    )
    return of_files(source, outlines, load_file, action_dim, state_dim=state_dim or None)


def _outlined(record: Record, crc32c: Any, keys: Sequence[str]) -> _Outlined:
    features = record.features({*keys, *_COUNTS})
    counts = {len(features[k]) for k in _COUNTS if k in features}
    if len(counts) != 1 or 0 in counts:
        record.check(crc32c)  # is it damaged?
        have = sorted(k for k in record.features() if k.startswith("steps/")) or sorted(record.features())
        raise BrokenDataError(
            "missing column",
            f"{record}: expected an RLDS episode with one {' or '.join(_COUNTS[:2])} a step, got {have}",
        )
    length = counts.pop()
    numbers = {k: v for k, v in features.items() if k in keys and isinstance(v, np.ndarray) and len(v)}
    return _Outlined(length, {k: max(1, len(v) // length) for k, v in numbers.items()})


def _numbers(outlines: Sequence[Outline], crc32c: Any) -> list[str]:
    """The features of numbers in the first record that can be read."""
    for outline in outlines:
        if all(e.problem for e in outline.episodes):
            continue
        for info, record in zip(outline.episodes, records(outline.file, crc32c), strict=False):
            if info.problem is None:
                found = record.features()
                return sorted(k.removeprefix("steps/") for k, v in found.items() if k.startswith("steps/") and len(v))
    return []


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
