"""The names of the Python targets, and how one input is run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from fast_tokenizer.io import dataset
from tests.fuzz import outputs, readers

TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "artefact_json": readers.read_artefact,
    "published_json": readers.read_published,
    "csv": readers.read_csv,
    "npz": readers.read_npz,
    "tfrecord": readers.read_tfrecord,
    "hdf5": readers.read_hdf5,
    "zarr": readers.read_zarr,
    "lerobot": readers.read_lerobot,
    "sidecar": outputs.read_sidecar,
    "tokens": outputs.read_tokens,
    "toml": outputs.read_toml,
}


def run(target: str, data: bytes, folder: Path) -> None:
    """Runs one input; the folder is empty before and after. Errors that nobody thought of are not caught by a net."""
    try:
        with patch.object(dataset, "UNFORESEEN", (MemoryError,)):
            TARGETS[target](data, folder)
    finally:
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
