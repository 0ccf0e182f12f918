"""Builds and runs the fuzz targets: `python -m scripts.fuzz --seconds 60`.

The C++ targets (tests/fuzz/*.cpp) need clang with its runtime library, the Python ones (tests/fuzz/targets.py)
`pip install 'fast-tokenizer[fuzz]'`. Inputs that are new go to `build/fuzz/corpus`, findings to `build/fuzz/findings`;
the corpus that is checked in only changes by `--minimise`. Ends with a table, and fails if anything was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fuzz"
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
CORE = ("artefact", "bpe", "chunks", "decode", "layout", "text", "utf8")
READERS = (
    *("artefact_json", "published_json", "csv", "npz", "tfrecord", "hdf5", "zarr", "lerobot"),
    *("sidecar", "tokens", "toml"),
)
#: Inputs of a Python target that are added to its corpus at a time.
NEWEST = 20
#: Memory goes back to the system seldom, and stacks of allocations are not kept: most of the time would go into both.
ASAN_OPTIONS = "quarantine_size_mb=4:allocator_release_to_os_interval_ms=-1:malloc_context_size=1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of a target came to."""

    target: str
    executions: int
    edges: int
    findings: tuple[Path, ...]
    seconds: float
    failed: bool


def command(target: str) -> list[str]:
    """Runs a target, libFuzzer's options to follow."""
    if target in CORE:
        return [str(BUILD / "core" / f"fuzz_{target}")]
    return [sys.executable, str(ROOT / "tests" / "fuzz" / "run.py"), target]


def build() -> None:
    """The C++ targets, with libFuzzer and the sanitizers."""
    where = str(BUILD / "core")
    options = ["-DFAST_TOKENIZER_FUZZ=ON", "-DFAST_TOKENIZER_WERROR=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    compiler = f"-DCMAKE_CXX_COMPILER={os.environ.get('CXX', 'clang++')}"
    subprocess.run(["cmake", "-S", str(ROOT), "-B", where, *options, compiler], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", where, "--parallel", "2"], check=True, stdout=subprocess.DEVNULL)


def run(target: str, seconds: int) -> Outcome:
    """Fuzzes one target for so long, or until it finds something."""
    new, findings, log = BUILD / "corpus" / target, BUILD / "findings", BUILD / "logs" / f"{target}.log"
    for folder in (new, findings, log.parent, CORPUS / target):
        folder.mkdir(parents=True, exist_ok=True)
    before = _findings(target)
    limits = ["-rss_limit_mb=3000", "-timeout=20", "-max_len=300" if target in READERS else "-max_len=160"]
    options = [f"-max_total_time={seconds}", "-entropic=0", "-print_final_stats=1", *limits]
    start = time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(
            [*command(target), str(new), str(CORPUS / target), *options, f"-artifact_prefix={findings}/{target}-"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ASAN_OPTIONS": ASAN_OPTIONS},
        )
    text = log.read_text(errors="replace")
    executions = re.findall(r"^(?:stat::number_of_executed_units:\s*|#)(\d+)", text, re.MULTILINE)
    edges = re.findall(r" cov: (\d+)", text)
    found = tuple(sorted(_findings(target) - before))
    return Outcome(
        target,
        max(map(int, executions), default=0),
        max(map(int, edges), default=0),
        found,
        time.monotonic() - start,
        done.returncode != 0,
    )


def _findings(target: str) -> set[Path]:
    """Of this target, while others run. What was only slow is none: on a machine that is shared, that is anything."""
    return {f for f in (BUILD / "findings").glob(f"{target}-*") if not f.name.startswith(f"{target}-slow-unit-")}


def minimise(target: str) -> None:
    """Replaces the corpus that is checked in by as few of all inputs as reach the same edges, where libFuzzer can tell.

    It cannot for Python, where it would start itself anew: there the newest inputs are added, which reached new edges.
    """
    old, small, new = CORPUS / target, BUILD / "minimised" / target, BUILD / "corpus" / target
    if target in READERS:
        for file in sorted(new.iterdir(), key=lambda f: f.stat().st_mtime)[-NEWEST:]:
            shutil.copy(file, old)
        return
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    subprocess.run(
        [*command(target), "-set_cover_merge=1", "-use_counters=0", str(small), str(old), str(new)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(old)
    shutil.copytree(small, old)


def coverage() -> None:
    """Which share of the core's lines the corpus that is checked in reaches: a table by file."""
    where = BUILD / "coverage"
    options = ["-DFAST_TOKENIZER_CORE_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_COMPILER=clang++"]
    flags = "-DCMAKE_CXX_FLAGS=-fprofile-instr-generate -fcoverage-mapping -O1"
    targets = [f"replay_{t}" for t in CORE]
    subprocess.run(["cmake", "-S", str(ROOT), "-B", str(where), *options, flags], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["cmake", "--build", str(where), "--parallel", "2", "--target", *targets],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for t in CORE:
        subprocess.run(
            [str(where / f"replay_{t}"), str(CORPUS / t)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LLVM_PROFILE_FILE": str(where / f"{t}.profraw")},
        )
    profile = where / "all.profdata"
    subprocess.run(["llvm-profdata", "merge", "-o", str(profile), *map(str, where.glob("*.profraw"))], check=True)
    objects = [o for t in targets for o in ("-object", str(where / t))][1:]
    subprocess.run(
        ["llvm-cov", "report", *objects, f"-instr-profile={profile}", str(ROOT / "csrc")],
        check=True,
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    lines = ["| target | inputs | a second | edges | findings |", "|---|---:|---:|---:|---:|"]
    for o in outcomes:
        rate = o.executions / o.seconds
        lines.append(f"| {o.target} | {o.executions:,} | {rate:,.0f} | {o.edges:,} | {len(o.findings)} |")
    lines.append(f"| all | {sum(o.executions for o in outcomes):,} | | | {sum(len(o.findings) for o in outcomes)} |")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join((*CORE, *READERS))}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (2)")
    parser.add_argument("--minimise", action="store_true", help="then replace the corpus that is checked in")
    parser.add_argument("--coverage", action="store_true", help="only say which lines of the core the corpus reaches")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - {*CORE, *READERS}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join((*CORE, *READERS))}")
    if arguments.coverage:
        coverage()
        return 0
    targets = arguments.targets or [*CORE, *READERS]
    if importlib.util.find_spec("atheris") is None and set(targets) & set(READERS):
        print("atheris is not installed, so the Python readers are left out: pip install 'fast-tokenizer[fuzz]'")
        targets = [t for t in targets if t not in READERS]
    if set(targets) & set(CORE):
        build()
    outcomes = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome in pool.map(lambda t: run(t, arguments.seconds), targets):
            outcomes.append(outcome)
            found = "".join(f"\n  {f}" for f in outcome.findings)
            failed = " FAILED, see its log" if outcome.failed and not outcome.findings else ""
            print(f"{outcome.target}: {outcome.executions:,} inputs{failed}{found}", flush=True)
    if arguments.minimise:
        for target in targets:
            minimise(target)
    print(table(outcomes))
    return int(any(o.failed or o.findings for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
