"""What the figures depend on besides the code: recorded with every result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.case import ROOT
from fast_tokenizer import build_info

PACKAGES = (
    *("numpy", "scipy", "tokenizers", "transformers", "tiktoken", "rustbpe", "bpeasy", "gigabpe", "sentencepiece"),
    *("ducc0", "pyfftw", "matplotlib"),
)


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """CPU, system, versions, commit and time."""
    info = build_info()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _cpu_model(),
        "cores": threads(),
        "memory_gib": round(_memory_gib(), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "kernel": info["kernel"],
        "compiler": info["compiler"],
        "versions": {"fast_tokenizer": info["version"], **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit(root: Path = ROOT) -> str:
    """The commit, "-dirty" when tracked files but results were changed; "unknown" outside of a checkout.

    Results are written while a run goes on: what they say does not change what is measured.
    """
    commands = (
        ("rev-parse", "--short=12", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)benchmarks/results"),
    )
    try:
        name, changed = (
            subprocess.run(["git", *c], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0
