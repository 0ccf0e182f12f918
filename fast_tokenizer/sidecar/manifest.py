"""The manifest of a sidecar, which is written last."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

FORMAT = "fast_tokenizer.sidecar"
VERSION = 1
#: The manifest; a folder that has it is a whole sidecar.
MANIFEST = "sidecar.json"
#: The only way in which chunks over the end of an episode are filled.
EPISODE_END: Final = "repeat-last"
#: Folder of one that is being written; its number and random digits are those of the run (`run.Run`).
RUN_NAME = re.compile(r"unfinished-(\d{1,18})-([0-9a-f]{16})")
#: Folder of the parts, which are called as the source's data files are.
DATA = "data"
#: Table of the parts: name, first `index` of each row group, last `index`, episodes, frames, token ids.
PARTS = "parts.parquet"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sidecar holds, and what it was made of. In the file, `format` and `version` stand before it.

    Attributes:
        fingerprint: Of the tokenizer, with all its embodiments.
        embodiment: Which of them, or None.
        vocab_size: Token ids of the tokenizer.
        horizon: Steps T of a chunk.
        action_dim: Dimensions D of a chunk.
        episode_end: What chunks over the end of an episode are filled with: always `EPISODE_END`.
        action_keys: Columns of the source that the actions are.
        state_keys: Columns that relative actions are relative to; none where all are absolute.
        dimensions: Which dimensions of the actions are encoded, or None: all.
        source: Name of the source's folder.
        source_version: Its LeRobot version.
        source_episodes: Episodes that it lists.
        source_frames: Frames that it lists.
        source_digest: SHA-256 of the files, episodes and lengths that it lists.
        episodes: Episodes in the sidecar.
        frames: Frames in it.
        tokens: Token ids.
        longest: Token ids of the frame that has most.
        saturated: Coefficients that were cut to the fitted range.
        clipped: Values that the normaliser cut.
        dropped: Coefficients that a published vocabulary has no ids for.
        filled_frames: Frames whose chunk runs over the end of its episode.
        episodes_left_out: Episodes that are not in it, by reason.
        parts: Number of parts.
        parts_digest: SHA-256 of the table of the parts.
    """

    fingerprint: str
    embodiment: str | None
    vocab_size: int
    horizon: int
    action_dim: int
    episode_end: str
    action_keys: list[str]
    state_keys: list[str]
    dimensions: list[int] | None
    source: str
    source_version: str
    source_episodes: int
    source_frames: int
    source_digest: str
    episodes: int
    frames: int
    tokens: int
    longest: int
    saturated: int
    clipped: int
    dropped: int
    filled_frames: int
    episodes_left_out: dict[str, int]
    parts: int
    parts_digest: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they stand in the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def content(self) -> bytes:
        """What the file has."""
        return (json.dumps(self.to_json(), indent=2) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads the manifest of a sidecar.

        Raises:
            FileNotFoundError: There is no sidecar.
            ValueError: It is not finished; or the manifest is damaged, or of another version. The message says which.
        """
        path = folder / MANIFEST
        if not path.is_file():
            if folder.is_dir() and any(RUN_NAME.fullmatch(p.name) for p in folder.iterdir()):
                raise ValueError(f"{folder}: the sidecar is not finished: its writing was interrupted, or still runs")
            raise FileNotFoundError(f"{folder}: no sidecar there: it has no {MANIFEST}")
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"{path}: is no manifest of a sidecar")
        if values.get("version") != VERSION:
            raise ValueError(f"{path}: expected version {VERSION}, got {values.get('version')!r}")
        types = get_type_hints(cls)
        for field in fields(cls):
            if field.name not in values:
                raise ValueError(f"{path}: has no {field.name!r}")
            if not _is_a(values[field.name], types[field.name]):
                raise ValueError(f"{path}: {field.name!r} must be {types[field.name]}, got {values[field.name]!r}")
        if values["episode_end"] != EPISODE_END:
            raise ValueError(f"{path}: 'episode_end' must be {EPISODE_END!r}, got {values['episode_end']!r:.80}")
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def read_json(path: Path) -> Any:
    """What a file says that may come from anywhere. Raises ValueError, which names it, where it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON: {error}") from None


def is_manifest(path: Path) -> bool:
    """Whether a file is a sidecar's manifest, by what it says: others may have files of this name."""
    try:
        values = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is what an annotation says, of those that `Manifest` has."""
    if isinstance(kind, UnionType):
        return any(_is_a(value, k) for k in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(v, get_args(kind)[0]) for v in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(v, get_args(kind)[1]) for v in value.values())
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, kind)
