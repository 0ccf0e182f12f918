"""Drives one target of `targets.py`: `python tests/fuzz/run.py TARGET [corpus] [libFuzzer's options]`.

Needs `atheris` (`pip install 'fast-tokenizer[fuzz]'`).
"""

from __future__ import annotations

import gc
import sys
import tempfile
import types
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
from fast_tokenizer.cli import files, mixture  # noqa: F401
from fast_tokenizer.compat import artefact, published  # noqa: F401
from fast_tokenizer.io import csv, hdf5, lerobot, npz, rlds, zarr  # noqa: F401
from fast_tokenizer.sidecar import manifest, reading  # noqa: F401
from tests.fuzz import targets


def instrument() -> None:
    """Counts what is covered of the library. (atheris' import hook does not see editable installs.)"""
    for function in [f for f in gc.get_objects() if isinstance(f, types.FunctionType)]:
        if (function.__module__ or "").startswith("fast_tokenizer"):
            atheris.instrument_func(function)


def main() -> None:
    """Runs until libFuzzer's options say stop, or an input fails."""
    target = sys.argv.pop(1)
    instrument()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        atheris.Setup(sys.argv, lambda data: targets.run(target, data, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
