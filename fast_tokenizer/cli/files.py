"""Files that the commands read and write."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import MAX_ACTION_DIM
from fast_tokenizer._core import MAX_HORIZON
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch


def check_output_folder(folder: Path, option: str = "-o") -> None:
    """Refuses, before any work, a folder that cannot be made or written to."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {folder}: is a file; name a folder")
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{option} {folder}: cannot write in {nearest}")


def check_output_file(path: Path) -> None:
    """Refuses, before any work, a file that cannot be written."""
    if path.is_dir():
        raise ValueError(f"-o {path}: is a folder; name a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"-o {path}: cannot write in {path.parent}")


def save_tokenizer(tokenizer: FastTokenizer, folder: Path) -> None:
    """Saves it whole or not at all; an error names the folder."""
    try:
        tokenizer.save(folder)
    except OSError as error:
        raise OSError(f"-o {folder}: cannot write there: {error.strerror or error}") from None


def save_npz(path: Path, **arrays: Any) -> None:
    """Writes under the very name given (numpy would append .npz), as `save_file` does."""
    save_file(path, lambda file: np.savez(file, **arrays))


def save_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """What `write` writes: a file whole or not at all, a pipe as it comes."""
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            write(file)
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            write(file)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"-o {path}: cannot write there: {error.strerror or error}") from None
        raise


@dataclass(frozen=True, slots=True, eq=False)
class TokenFile:
    """What `encode` wrote.

    Attributes:
        batch: Token ids of N chunks.
        horizon: Steps T.
        action_dim: Dimensions D.
        fingerprint: Of the tokenizer, with all its embodiments.
        embodiment: Which one it was, or None.
        state: (N, S) states at the chunks' starts, where actions are relative to them.
    """

    batch: TokenBatch
    horizon: int
    action_dim: int
    fingerprint: str
    embodiment: str | None
    state: NDArray[np.floating] | None


def load_tokens(path: Path) -> TokenFile:
    """Reads a file of tokens. Raises ValueError for anything else."""
    wanted = {"ids": 1, "offsets": 1, "time_horizon": 0, "action_dim": 0, "fingerprint": 0}
    optional = {"embodiment": 0, "state": 2}
    kinds = {"fingerprint": ("U", "a string"), "embodiment": ("U", "a string"), "state": ("f", "numbers")}
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in (*wanted, *(o for o in optional if o in file.files))}
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a file that is not theirs
        reason = "" if "pickle" in str(error) else f": {error}"
        raise ValueError(f"{path}: not a file of tokens, as encode writes it{reason}") from None
    for name, rank in (wanted | optional).items():
        if name not in fields:
            continue
        allowed, what = kinds.get(name, ("iu", "integers"))
        if not isinstance(fields[name], np.ndarray):  # numpy gives what is no array as bytes
            raise ValueError(f"{path}: {name!r} is no array")
        if fields[name].ndim != rank or fields[name].dtype.kind not in allowed:
            got = f"{fields[name].dtype} of shape {fields[name].shape}"
            raise ValueError(f"{path}: {name!r} must be {what} of rank {rank}, got {got}")
    horizon, dims = int(fields["time_horizon"]), int(fields["action_dim"])
    if not (1 <= horizon <= MAX_HORIZON and 1 <= dims <= MAX_ACTION_DIM):
        raise ValueError(f"{path}: chunks of {horizon} x {dims} are none")
    try:
        batch = TokenBatch.from_flat(fields["ids"], fields["offsets"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    embodiment = str(fields["embodiment"]) if "embodiment" in fields else None
    return TokenFile(batch, horizon, dims, str(fields["fingerprint"]), embodiment, fields.get("state"))
