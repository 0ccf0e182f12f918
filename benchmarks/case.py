"""A case is a question's `measure` with its arguments, run in a process of its own.

The process writes its rows to a file, one JSON object a line, as soon as each is known: when it dies, the rows before
stay, and one more row says how it died. `watch` is the parent's side: it waits, and kills what takes too long or too
much memory - before the system does, which would take the parent along or slow down everything else.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import Problem, Row

ROOT = Path(__file__).resolve().parents[1]
#: Share of the machine's free memory that a case may take.
MEMORY_SHARE = 0.85
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """What one process does.

    Attributes:
        module: Where `measure` is, e.g. "benchmarks.encode".
        row: What its rows have in common; the row of a case that died.
        arguments: Of `measure`, after the row: plain values.
        threads: What thread pools of other libraries are limited to, by environment variables.
    """

    module: str
    row: Row
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 1

    @property
    def title(self) -> str:
        """For the progress bar."""
        row = self.row
        threads = f"{row.threads} threads" if row.threads > 1 else ""
        return " / ".join(filter(None, (row.question, row.workload, row.setting, row.competitor, threads)))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: `problem` is empty when it ended well."""

    problem: Problem
    reason: str


def run_fresh(case: Case, timeout: float, memory_mib: float | None = None) -> list[Row]:
    """Rows of a case, from a process that did nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        out.touch()
        message = json.dumps({"module": case.module, "row": case.row.to_json(), "arguments": case.arguments})
        ending = watch(
            [sys.executable, "-m", "benchmarks.case", message, str(out)],
            timeout=timeout,
            memory_mib=free_memory_mib() * MEMORY_SHARE if memory_mib is None else memory_mib,
            environment=_environment(case.threads),
        )
        rows = [Row(**json.loads(line)) for line in out.read_text().splitlines()]
    return rows if not ending.problem else [*rows, case.row.without(ending.problem, ending.reason)]


def watch(command: Sequence[str], timeout: float, memory_mib: float, environment: Mapping[str, str]) -> Ending:
    """Runs a command to its end, or to the limit of its time or resident memory."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        start = time.monotonic()
        try:
            while process.poll() is None:
                took = time.monotonic() - start
                if took > timeout:
                    return Ending("timed out", f"given up after {timeout:.0f} s")
                if resident_mib(process.pid) > memory_mib:
                    return Ending("killed", f"out of memory: took more than {memory_mib:.0f} MiB after {took:.0f} s")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        return _ending(process.returncode, log.read())


def _ending(code: int, said: str) -> Ending:
    if code == 0:
        return Ending("", "")
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    if code == -signal.SIGKILL:
        return Ending("killed", "by signal SIGKILL: the system ran out of memory, or somebody did it")
    if code < 0:
        return Ending("failed", f"by signal {signal.Signals(-code).name}: {last}")
    return Ending("failed", f"exit code {code}: {last}")


def _environment(threads: int) -> dict[str, str]:
    pools = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, **dict.fromkeys(pools, str(threads)), "PYTHONPATH": os.pathsep.join(paths)}


def resident_mib(pid: int) -> float:
    """Resident memory of a process, where the system tells it; 0 elsewhere, and when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_memory_mib() -> float:
    """Memory that is available, where the system tells it; no limit elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("MemAvailable:"))


def main() -> None:
    """The child: runs the case that the message describes, and appends its rows to a file."""
    message, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    measure = importlib.import_module(message["module"]).measure
    with out.open("a") as file:
        for row in measure(Row(**message["row"]), **message["arguments"]):
            file.write(json.dumps(row.to_json()) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
