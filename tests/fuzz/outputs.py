"""What our own commands write and read again, and are told: sidecars, files of tokens, `fit-mixture`'s TOML."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fast_tokenizer import DecodeError, FastTokenizer
from fast_tokenizer.cli.files import load_tokens, save_npz
from fast_tokenizer.cli.mixture import read_mixture
from fast_tokenizer.sidecar import Sidecar, write_sidecar
from fast_tokenizer.sidecar.manifest import MANIFEST, PARTS
from tests.fuzz import readers
from tests.fuzz.readers import Choices
from tests.pages import lerobot_folder

#: Numbers of frames that a sidecar is asked for; of those that the last has, some are none of its.
_FRAMES = ((0,), (5, 0, 5), tuple(range(12)), (), (11, 6), (-1,), (12,), (2**62,))


@cache
def _tokenizer() -> FastTokenizer:
    chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (20, 4, 2)), axis=1)
    return FastTokenizer.fit(chunks, 40, normalize="min-max")


@cache
def _sidecar() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        lerobot_folder(root, [np.full((6, 2), i, np.float32) for i in range(2)], 10.0, ("x", "y"))
        folder, _ = write_sidecar(_tokenizer(), root, num_threads=1)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read_sidecar(data: bytes, folder: Path) -> None:
    """Its manifest, the table of its parts, whose digest fits most of the time, and the parts."""
    choices = Choices(data)
    files = dict(_sidecar())
    for _ in range(choices.below(4)):
        name = choices.one_of(sorted(files))
        if choices.one_in(8):
            del files[name]
            break
        if name == MANIFEST and choices.below(4):
            try:
                files[name] = readers.dumped(readers.spoiled_json(json.loads(files[name]), choices), choices)
            except (ValueError, RecursionError):
                files[name] = readers.spoiled(files[name], choices)
            continue
        try:
            files[name] = readers.with_columns(files[name], choices)
        except Exception:  # no parquet file, or spoiled before
            files[name] = readers.spoiled(files[name], choices)
    if choices.below(4) != 3 and PARTS in files and MANIFEST in files:
        try:
            manifest = json.loads(files[MANIFEST])
            manifest["parts_digest"] = hashlib.sha256(files[PARTS]).hexdigest()
            files[MANIFEST] = json.dumps(manifest).encode()
        except (ValueError, TypeError, RecursionError):
            pass  # spoiled before
    root = folder / "set.tokens"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    wanted = np.array(choices.one_of(_FRAMES), np.int64)
    try:
        sidecar = Sidecar.open(root, _tokenizer())
        frames = sidecar.frames(wanted)
        assert len(frames.tokens) == len(wanted)
        assert all(0 <= i < _tokenizer().spec.vocab_size for i in frames.tokens.ids)
        indices = sidecar.indices()
        assert (np.diff(indices) > 0).all()
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        readers.expect_own(error, folder)


@cache
def _tokens() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        batch = _tokenizer().encode(np.zeros((3, 4, 2)))
        fields = {"ids": batch.ids, "offsets": batch.offsets, "fingerprint": np.array(_tokenizer().fingerprint())}
        save_npz(Path(name) / "t.npz", **fields, time_horizon=np.array(4), action_dim=np.array(2))
        with np.load(Path(name) / "t.npz", allow_pickle=False) as file:
            return dict(file)


def read_tokens(data: bytes, folder: Path) -> None:
    """What `decode` takes: arrays of any type and shape, or numbers beyond all bounds; spoiled bytes."""
    choices = Choices(data)
    fields = dict(_tokens())
    for _ in range(choices.below(4)):
        name = choices.one_of(("ids", "offsets", "time_horizon", "action_dim", "fingerprint", "embodiment", "state"))
        match choices.below(4):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[name] = readers.an_array(choices)
            case 2:
                shape = np.shape(fields.get(name, 0))
                fields[name] = np.full(shape, choices.one_of((-(2**63), -1, 0, 1, 3, 1000, 2**31, 2**63 - 1)))
            case _:
                fields[name] = np.array(choices.one_of(("", "x", "\ud800", "a" * 64)))
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, values in fields.items():
            member = BytesIO()
            np.save(member, values, allow_pickle=False)
            content = member.getvalue()
            file.writestr(f"{name}.npy", readers.spoiled(content, choices) if choices.one_in(6) else content)
    path = folder / "tokens.npz"
    path.write_bytes(readers.spoiled(out.getvalue(), choices) if choices.one_in(6) else out.getvalue())
    try:
        file = load_tokens(path)
    except Exception as error:
        readers.expect_own(error, folder)
        return
    if len(file.batch) * file.horizon * file.action_dim > 10_000:
        return
    try:
        actions, _ = _tokenizer().decode_with_status(file.batch, file.horizon, file.action_dim, state=file.state)
        assert actions.shape == (len(file.batch), 4, 2)
        assert np.isfinite(actions).all()
        _tokenizer().decode(file.batch, file.horizon, file.action_dim, state=file.state)
    except DecodeError:
        pass
    except ValueError as error:
        if type(error) is not ValueError:
            raise


_VALUES = (
    "1", "0", "-1", "0.5", "nan", "inf", "1e400", "1" + "0" * 400, "1" * 5000, "true", "1979-05-27", '""', '"x"',
    '"none"', '"a.npz"', '"missing.npz"', '["a.npz", "a.npz"]', "[]", "[1]", "[1.0, 2]", "{}", '{x = "y"}',
    '"~nobody/x"', '"\\u0000"', '"0:1"', '"0"', '"0=0"', '"1e9"', '"5s"', '"drop"', '"skip"',
    "[" * 600 + "]" * 600, '"someone/arm', "\x1b",
    '"/"', '"quantile"', '"state"', '"' + "a" * 300 + '"', "99999999999",
)  # fmt: skip
_KEYS = (
    "vocab_size", "min_frequency", "range_quantile", "order", "end_of_block", "parsing", "dead_zone", "levels_beyond",
    "max_token_symbols", "seed", "holdout", "memory_budget", "spill_directory", "embodiments", "hz", "dims", "relative",
    "action_key", "state_key", "episodes", "on_broken", "horizon", "stride", "episode_end", "scale", "target_rmse",
    "target_max_error", "normalize", "clip", "max_chunks", "data", "weight", "x", "'a b'",
)  # fmt: skip


def read_toml(data: bytes, folder: Path) -> None:
    """The options of a mixture, and the data that they name: `fit-mixture` up to where it would fit."""
    choices = Choices(data)
    lines = ["vocab_size = 40", "holdout = 0.5", "[embodiments.arm]", 'data = "a.npz"', "horizon = 2"]
    for _ in range(choices.below(5)):
        at = choices.below(len(lines) + 1)
        text = f"{choices.one_of(_KEYS)} = {choices.one_of(_VALUES)}"
        match choices.below(3):
            case 0:
                lines.insert(at, text)
            case 1:
                lines[at : at + 1] = [text]
            case _:
                lines.insert(at, choices.one_of(("[embodiments.b]", "[embodiments]", "[x]", "[[embodiments]]", "[")))
    content = "\n".join(lines).encode()
    config = folder / "mixture.toml"
    config.write_bytes(readers.spoiled(content, choices) if choices.one_in(8) else content)
    values = np.arange(24.0).reshape(12, 2)
    np.savez(folder / "a.npz", actions=values, episode_ends=[4, 8, 12], state=values)
    try:
        mixture = read_mixture(config)
    except Exception as error:
        readers.expect_own(error, folder)
        return
    for entry in mixture.entries:
        try:
            entry.open(mixture, 1, lambda *_: None)
        except ValueError as error:
            if f"embodiment {entry.name!r}: " not in str(error):
                raise AssertionError(f"does not say where: {error}") from error
