"""The artefact: one JSON file. Read strictly, written atomically. The README states the format."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._core import MAX_VOCAB_SIZE
from fast_tokenizer.errors import ArtefactError
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.relative import Relative
from fast_tokenizer.spec import ARTEFACT_VERSION, EndOfBlock, Order, Parsing, TokenizerSpec

if TYPE_CHECKING:
    from fast_tokenizer.compat.published import PublishedSpec

FILE_NAME = "fast_tokenizer.json"
#: Largest file that is read. The largest possible vocabulary takes less than 1 MiB.
MAX_BYTES = 16 * 2**20

_Json = dict[str, Any]
_Value = TypeVar("_Value")


def fingerprint(spec: TokenizerSpec | MixtureSpec | PublishedSpec) -> str:
    """SHA-256, in hexadecimal, of the artefact with sorted keys and no white space."""
    canonical = json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def to_bytes(spec: TokenizerSpec | MixtureSpec) -> bytes:
    """Contents of the file: one line a field."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in spec.to_json().items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def save(spec: TokenizerSpec | MixtureSpec, target: Path) -> None:
    """Writes the artefact; an old file stays whole until the new one is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = to_bytes(spec)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_in(path: str | os.PathLike[str]) -> Path:
    """The artefact's file, given it or its folder."""
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def load(path: str | os.PathLike[str]) -> TokenizerSpec | MixtureSpec:
    """Reads an artefact from its folder or file.

    Raises:
        FileNotFoundError: There is none.
        ArtefactError: It is not a valid artefact; the message names the field.
    """
    file = file_in(path)
    with file.open("rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ArtefactError(f"{file}: larger than {MAX_BYTES} bytes, which no artefact is")
    return loads(data, where=str(file))


def loads(data: bytes, where: str = "artefact") -> TokenizerSpec | MixtureSpec:
    """Parses and validates an artefact; `where` starts the error messages."""
    return _Reader(_parse(data, where), where).spec()


def _parse(data: bytes, where: str) -> _Json:
    def no_repeats(pairs: list[tuple[str, Any]]) -> _Json:
        values: _Json = {}
        for name, value in pairs:
            if name in values:
                raise ArtefactError(f"{where}: field {_short(name)} is given twice")
            values[name] = value
        return values

    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=no_repeats)
    except ArtefactError:
        raise
    except RecursionError:
        raise ArtefactError(f"{where}: nested too deeply to be an artefact") from None
    except ValueError as error:
        raise ArtefactError(f"{where}: not valid JSON, truncated perhaps: {error}") from None
    if not isinstance(values, dict):
        raise ArtefactError(f"{where}: expected a JSON object, got {type(values).__name__}")
    return values


class _Reader:
    """Takes the fields out of parsed JSON one by one, refusing what is missing, left over or of a wrong type."""

    def __init__(self, values: _Json, where: str) -> None:
        self._values, self._where = dict(values), where
        self._version = ARTEFACT_VERSION

    def spec(self) -> TokenizerSpec | MixtureSpec:
        self._check_header()
        vocab_size = self._take("vocab_size", _integer)
        shared: _Json = {
            **self._coding(),
            "min_coefficient": self._take("min_coefficient", _integer),
            "max_coefficient": self._take("max_coefficient", _integer),
        }
        if self._version >= 2 and "embodiments" in self._values:
            embodiments = [self._named(i, e) for i, e in enumerate(self._take("embodiments", _embodiments))]
        else:
            embodiments = [self._embodiment()]
        merges = self._take("merges", _merges)
        self._refuse_the_rest()
        ends = 0 if shared.get("end_of_block") is None else 1
        alphabet_size = shared["max_coefficient"] - shared["min_coefficient"] + 1 + ends
        alphabet_size += 2 * shared.get("levels_beyond", 0)
        if alphabet_size + len(merges) != vocab_size:
            raise ArtefactError(
                f"{self._where}: vocab_size is {vocab_size}, but {alphabet_size} symbols and {len(merges)} merges "
                f"make {alphabet_size + len(merges)}"
            )
        if len(merges) > MAX_VOCAB_SIZE:
            raise ArtefactError(
                f"{self._where}: the vocabulary must have at most {MAX_VOCAB_SIZE} ids, got {vocab_size}"
            )
        self._check_merges(merges, alphabet_size)
        shared["merges"] = merges.astype(np.int32)
        try:
            specs = [TokenizerSpec(**shared, **fields) for fields in embodiments]
            return specs[0] if len(specs) == 1 else MixtureSpec(tuple(specs))
        except ValueError as error:
            raise ArtefactError(f"{self._where}: {error}") from None

    def _named(self, index: int, values: _Json) -> _Json:
        reader = _Reader(values, f"{self._where}: embodiment {index}")
        reader._version = self._version
        fields = {"embodiment": reader._take("name", _text), **reader._embodiment()}
        reader._refuse_the_rest()
        return fields

    def _embodiment(self) -> _Json:
        fields: _Json = {
            "scale": self._take("scale", _scale),
            "time_horizon": self._take("time_horizon", _optional(_integer)),
            "action_dim": self._take("action_dim", _optional(_integer)),
            "hz": self._take("hz", _optional(_number)),
            "dimension_names": self._take("dimension_names", _optional(_names)),
            "normalizer": self._take("normalizer", _optional(_normalizer)),
        }
        if self._version >= 2:
            fields["relative"] = self._take("relative", _optional(_relative))
        return fields

    def _refuse_the_rest(self) -> None:
        if self._values:
            raise ArtefactError(f"{self._where}: unknown field {_short(min(self._values))}")

    def _check_header(self) -> None:
        header = self._values.pop("format", None)
        if header is None and ("model" in self._values or "min_token" in self._values):
            raise ArtefactError(f"{self._where}: a part of a published tokenizer; give its folder")
        if header != "fast_tokenizer":
            raise ArtefactError(f"{self._where}: 'format' must be 'fast_tokenizer', got {_short(header)}")
        version = self._take("version", _integer)
        if not 1 <= version <= ARTEFACT_VERSION:
            raise ArtefactError(
                f"{self._where}: artefact version {version}; this library reads versions 1 to {ARTEFACT_VERSION}"
            )
        self._version = version

    def _coding(self) -> _Json:
        """What version 1 did not have yet, but for the only order that it had."""
        order = self._take("order", _choice(*get_args(Order)))
        if self._version == 1:
            return {"order": order}
        return {
            "order": order,
            "end_of_block": self._take("end_of_block", _optional(_choice(*get_args(EndOfBlock)))),
            "parsing": self._take("parsing", _choice(*get_args(Parsing))),
            "dead_zone": self._take("dead_zone", _number),
            "levels_beyond": self._take("levels_beyond", _integer),
        }

    def _take(self, name: str, read: Callable[[Any], _Value]) -> _Value:
        if name not in self._values:
            raise ArtefactError(f"{self._where}: field {name!r} is missing")
        try:
            return read(self._values.pop(name))
        except (ValueError, OverflowError) as error:
            raise ArtefactError(f"{self._where}: {name!r}: {error}") from None

    def _check_merges(self, merges: NDArray[np.int64], alphabet_size: int) -> None:
        """Each merge joins ids that exist before it, and no pair occurs twice."""
        own = alphabet_size + np.arange(len(merges), dtype=np.int64)
        bad = ((merges < 0) | (merges >= own[:, None])).any(axis=1)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise ArtefactError(
                f"{self._where}: merge {i} joins {merges[i].tolist()}, but only ids 0..{own[i] - 1} exist before it"
            )
        _, first, counts = np.unique(merges, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            i = int(first[counts > 1].min())
            raise ArtefactError(f"{self._where}: merge {i} {merges[i].tolist()} occurs more than once")


def _short(value: object) -> str:
    """A `repr` that stays short however long or deep the value is."""
    return _repr.repr(value)


_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxdict = 2, 4, 4


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
        raise ValueError(f"expected an integer of 32 bits, got {_short(value)}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"expected a number, got {_short(value)}")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"expected a finite number, got {_short(value)}")
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {_short(value)}")
    return value


def _choice(*allowed: str) -> Callable[[Any], Any]:
    def read(value: object) -> object:
        if value not in allowed:
            raise ValueError(f"must be {' or '.join(map(repr, allowed))}, got {_short(value)}")
        return value

    return read


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {_short(value)}")
    return value


def _scale(value: object) -> float | tuple[float, ...]:
    return tuple(_number(s) for s in value) if isinstance(value, list) else _number(value)


def _names(value: object) -> tuple[str, ...]:
    return tuple(_text(name) for name in _list(value))


def _optional(read: Callable[[Any], _Value]) -> Callable[[Any], _Value | None]:
    return lambda value: None if value is None else read(value)


def _normalizer(value: object) -> Normalizer:
    fields = {"kind", "center", "half_range", "clip"}
    if not isinstance(value, dict) or set(value) != fields:
        raise ValueError(f"expected an object with {sorted(fields)}, got {_short(value)}")
    return Normalizer(
        kind=_text(value["kind"]),  # type: ignore[arg-type]  # checked by Normalizer
        center=np.array([_number(x) for x in _list(value["center"])]),
        half_range=np.array([_number(x) for x in _list(value["half_range"])]),
        clip=_optional(_number)(value["clip"]),
    )


def _relative(value: object) -> Relative:
    names = {"dimensions", "state_columns", "state_dim", "state_names"}
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"expected an object with {sorted(names)}, got {_short(value)}")
    return Relative(
        tuple(_integer(d) for d in _list(value["dimensions"])),
        tuple(_integer(c) for c in _list(value["state_columns"])),
        _integer(value["state_dim"]),
        _optional(_names)(value["state_names"]),
    )


def _embodiments(value: object) -> list[_Json]:
    for i, embodiment in enumerate(_list(value)):
        if not isinstance(embodiment, dict):
            raise ValueError(f"embodiment {i}: expected an object, got {_short(embodiment)}")
    if not value:
        raise ValueError("expected at least one embodiment, got none")
    return value  # type: ignore[return-value]


def _merges(value: object) -> NDArray[np.int64]:
    for i, merge in enumerate(_list(value)):
        if not isinstance(merge, list) or len(merge) != 2:
            raise ValueError(f"merge {i}: expected two token ids, got {_short(merge)}")
        _integer(merge[0]), _integer(merge[1])
    return np.array(value, dtype=np.int64).reshape(-1, 2)
