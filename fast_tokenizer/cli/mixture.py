"""The configuration of `fit-mixture`: a TOML file, read strictly."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fast_tokenizer.chunk import EpisodeEnd
from fast_tokenizer.cli.fitting import Source, prepare
from fast_tokenizer.cli.workflow import Report, horizon_steps, open_recording, parse_bytes, to_cut
from fast_tokenizer.fitting import check_weights

_NUMBER = (int, float)
#: Options of the vocabulary, and what they may be.
_SHARED: dict[str, Any] = {
    "vocab_size": int,
    "min_frequency": int,
    "range_quantile": _NUMBER,
    "order": str,
    "end_of_block": str,
    "parsing": str,
    "dead_zone": _NUMBER,
    "levels_beyond": int,
    "max_token_symbols": int,
    "seed": int,
    "holdout": _NUMBER,
    "memory_budget": (str, int),
    "spill_directory": str,
    "embodiments": dict,
}
#: Options of an embodiment: of opening its data, of cutting it, of fitting it.
_OPEN: dict[str, Any] = {
    "hz": _NUMBER,
    "dims": str,
    "relative": str,
    "action_key": str,
    "state_key": str,
    "episodes": str,
    "on_broken": str,
}
_CUT: dict[str, Any] = {"horizon": (str, int), "stride": int, "episode_end": str}
_FIT: dict[str, Any] = {
    "scale": (*_NUMBER, list),
    "target_rmse": (*_NUMBER, list),
    "target_max_error": (*_NUMBER, list),
    "normalize": str,
    "clip": _NUMBER,
    "max_chunks": int,
}
_OWN: dict[str, Any] = {"data": (str, list), "weight": _NUMBER, **_OPEN, **_CUT, **_FIT}


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """What the file says.

    Attributes:
        entries: One an embodiment, in the file's order.
        weights: Theirs, or None.
        holdout: Share of the episodes to measure on.
        shared: Options of the vocabulary, as `FitOptions` takes them.
    """

    entries: tuple[Entry, ...]
    weights: list[float] | None
    holdout: float
    shared: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One embodiment of the file."""

    name: str
    data: tuple[Path, ...]
    options: dict[str, Any]

    def open(self, mixture: MixtureConfig, threads: int | None, report: Report) -> Source:
        """Opens its data; errors name the embodiment."""
        try:
            opening = {k: v for k, v in self.options.items() if k in _OPEN}
            fitting = {"normalize": "quantile", **{k: v for k, v in self.options.items() if k in _FIT}}
            end = self.options.get("episode_end", "drop")
            if end not in get_args(EpisodeEnd):
                raise ValueError(f"episode_end must be one of {get_args(EpisodeEnd)}, got {end!r}")
            hz, dims = opening.pop("hz", None), opening.pop("dims", None)
            recording = open_recording(self.data, hz, dims, report, **opening)
            horizon = self.options.get("horizon")
            steps = horizon_steps(None if horizon is None else str(horizon), recording)
            cut = to_cut(recording, steps, self.options.get("stride", 1), end)
            options = {**mixture.shared, **fitting, "name": self.name, "num_threads": threads}
            return prepare(recording, cut, mixture.holdout, **options)
        except (ValueError, OSError, OverflowError, TypeError) as error:  # numbers of any size, lists of anything
            raise ValueError(f"embodiment {self.name!r}: {error}") from None


def read_mixture(path: Path) -> MixtureConfig:
    """Reads the file. Raises ValueError for what is unknown, missing or of a wrong type, with its place."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    _check(values, _SHARED, str(path))
    tables = values.pop("embodiments", {})
    if not tables:
        raise ValueError(f"{path}: needs a table [embodiments.NAME] for each embodiment")
    entries = []
    weights = []
    for name, table in tables.items():
        where = f"{path}: embodiments.{name}"
        if not isinstance(table, dict):
            raise ValueError(f"{where}: expected a table, got {table!r}")
        _check(table, _OWN, where)
        data = table.pop("data", None)
        paths = [data] if isinstance(data, str) else data
        if not paths or not all(isinstance(p, str) and p.strip() for p in paths):
            raise ValueError(f"{where}: data must be a path, or a list of them, got {data!r}")
        weights.append(table.pop("weight", None))
        entries.append(Entry(name, tuple(_located(p, path.parent, where) for p in paths), table))
    holdout = values.pop("holdout", 0.2)
    if "memory_budget" in values:
        try:
            values["memory_budget"] = parse_bytes(str(values["memory_budget"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if "spill_directory" in values:
        values["spill_directory"] = str(_beside(values["spill_directory"], path.parent, f"{path}: spill_directory"))
    if values.get("end_of_block") == "none":  # TOML has no null
        values["end_of_block"] = None
    try:
        has_weights = check_weights(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return MixtureConfig(tuple(entries), weights if has_weights else None, holdout, values)


def _located(text: str, folder: Path, where: str) -> Path:
    """Relative to the file, never to where the command is run; a hub id is as it is."""
    beside = _beside(text, folder, f"{where}: data")
    try:
        if beside.exists():
            return beside
    except OSError as error:  # a name that is too long
        raise ValueError(f"{where}: data {text!r}: {error.strerror}") from None
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith(".") and not Path(text).exists():
        return Path(text)
    raise ValueError(f"{where}: data {text!r} is not there: {beside} does not exist")


def _beside(text: str, folder: Path, where: str) -> Path:
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{where} {text!r}: there is no such user") from None


def _check(values: dict[str, Any], allowed: dict[str, Any], where: str) -> None:
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(f"{where}: unknown option {name!r}; there are {', '.join(allowed)}")
        if not isinstance(value, allowed[name]) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} has a wrong type: {value!r}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{where}: {name} must lie within +-2^63, got {len(str(abs(value)))} digits")
