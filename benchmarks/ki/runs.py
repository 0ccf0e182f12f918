"""All runs in worker processes; each result is saved as it comes, and not asked for again."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.ki import measure, train, world
from benchmarks.ki.arms import ARMS, BY_NAME
from benchmarks.ki.records import choose_rate
from benchmarks.ki.settings import Settings
from benchmarks.machine import describe

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run, or the pretraining of a seed if it has no arm."""

    seed: int
    arm: str | None = None
    rate: float = 0.0
    gradients: bool = False

    @property
    def name(self) -> str:
        """Of its file."""
        if self.arm is None:
            return f"pretraining-{self.seed}"
        return f"{self.arm.replace(', ', '-')}-{self.seed}-{self.rate:g}"


def run(settings: Settings, folder: Path, processes: int) -> Record:
    """Pretraining, the sweep, the choice and the reported runs: the results as `report.write` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = (settings.selection_seed, *settings.seeds)
    with Progress() as progress:
        pretraining = _all([Job(seed) for seed in seeds], settings, folder, processes, progress, "pretraining")
        swept = [
            Job(settings.selection_seed, a.name, rate)
            for a in ARMS
            if a.trains_backbone
            for rate in settings.backbone_rates
        ]
        sweep = _all(swept, settings, folder, processes, progress, "learning rates")
        rates = {a.name: choose_rate([r for r in sweep if r["arm"] == a.name]) for a in ARMS if a.trains_backbone}
        reported = [Job(seed, a.name, rates.get(a.name, 0.0), True) for seed in settings.seeds for a in ARMS]
        runs = _all(reported, settings, folder, processes, progress, "reported runs")
    return {
        "fingerprint": settings.fingerprint(),
        "settings": json.loads(json.dumps(asdict(settings))),
        "world": {"spacing": world.SPACING, "image": world.IMAGE_SIZE},
        "machine": _machine(processes),
        "pretraining": pretraining,
        "sweep": sweep,
        "runs": runs,
    }


def _all(
    jobs: Sequence[Job], settings: Settings, folder: Path, processes: int, progress: Progress, title: str
) -> list[Record]:
    """Results of the jobs, in their order; those that are saved are read."""
    found = {job: saved for job in jobs if (saved := load(folder, job, settings)) is not None}
    task = progress.add_task(title, total=len(jobs), completed=len(found))
    missing = [job for job in jobs if job not in found]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(missing)) or 1, mp_context=context) as pool:
        futures = {pool.submit(perform, job, settings, folder): job for job in missing}
        for future in as_completed(futures):
            job = futures[future]
            found[job] = future.result()
            progress.advance(task)
            progress.console.print(f"{title}: {job.name} ({len(found)} of {len(jobs)})")
    return [found[job] for job in jobs]


def perform(job: Job, settings: Settings, folder: Path) -> Record:
    """Runs a job in this process, and saves what it gives."""
    weights = folder / f"pretrained-{job.seed}.pt"
    if job.arm is None:
        state, record = train.pretrain(settings, job.seed)
        torch.save(state, weights)
        record["references"] = measure.references(train.data_of(settings, job.seed))
    else:
        state = torch.load(weights, weights_only=True)
        record = train.train(settings, BY_NAME[job.arm], job.seed, job.rate, state, gradients=job.gradients)
    text = json.dumps({"fingerprint": settings.fingerprint(), **asdict(job), "record": record})
    partial = folder / f".{job.name}.partial"
    partial.write_text(text)
    partial.replace(folder / f"{job.name}.json")  # whole, or not there
    return record


def load(folder: Path, job: Job, settings: Settings) -> Record | None:
    """The saved result of this very job under these very settings."""
    file = folder / f"{job.name}.json"
    if not file.exists():
        return None
    saved: Mapping[str, Any] = json.loads(file.read_text())
    wanted = {"fingerprint": settings.fingerprint(), **asdict(job)}
    if any(saved.get(key) != value for key, value in wanted.items()):
        return None
    record: Record = saved["record"]
    return record


def _machine(processes: int) -> str:
    found = describe()
    where = f"{found['date'][:10]}, {found['cpu']}, {found['cores']} cores, {found['system']}"
    return f"{where}, Python {found['python']}, torch {torch.__version__}, {processes} processes of one thread"
