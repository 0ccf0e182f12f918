"""All runs in worker processes; each result is saved as it comes, and not asked for again."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
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
        **computed(settings),
        "machine": _machine(processes),
        "pretraining": pretraining,
        "sweep": sweep,
        "runs": runs,
    }


def computed(settings: Settings) -> Record:
    """What follows from the settings without training."""
    return {"parameters": train.parameters(settings), "loss_tokens": train.loss_tokens(settings)}


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
        try:
            for future in as_completed(futures):
                job = futures[future]
                found[job] = future.result()
                progress.advance(task)
                progress.console.print(f"{title}: {job.name} ({len(found)} of {len(jobs)})")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else all that wait would be run before it is told
            raise
    return [found[job] for job in jobs]


def perform(job: Job, settings: Settings, folder: Path) -> Record:
    """Runs a job in this process, and saves what it gives.

    Raises:
        ValueError: The seed was not pretrained under these settings.
    """
    if job.arm is None:
        state, record = train.pretrain(settings, job.seed)
        with _whole(_weights(folder, job.seed)) as partial:
            torch.save({"fingerprint": settings.fingerprint(), "weights": state}, partial)
        record["references"] = measure.references(train.data_of(settings, job.seed))
    else:
        pretrained = load_weights(folder, job.seed, settings)
        if pretrained is None:
            raise ValueError(f"{_weights(folder, job.seed)}: expected pretrained weights of these settings")
        state = pretrained
        record = train.train(settings, BY_NAME[job.arm], job.seed, job.rate, state, gradients=job.gradients)
    with _whole(folder / f"{job.name}.json") as partial:
        partial.write_text(json.dumps({"fingerprint": settings.fingerprint(), **asdict(job), "record": record}))
    return record


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path to write to; the file has what was written there, whole, or is not touched."""
    partial = file.with_name(f".{file.name}.partial")
    yield partial
    partial.replace(file)


def _weights(folder: Path, seed: int) -> Path:
    return folder / f"pretrained-{seed}.pt"


def load_weights(folder: Path, seed: int, settings: Settings) -> train.Weights | None:
    """The backbone of a seed that was pretrained under these very settings; None: there is none that can be read."""
    try:
        saved = torch.load(_weights(folder, seed), weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):  # what torch says of a file that is cut short
        return None
    if saved.get("fingerprint") != settings.fingerprint():
        return None
    weights: train.Weights = saved["weights"]
    return weights


def load(folder: Path, job: Job, settings: Settings) -> Record | None:
    """The saved result of this very job under these very settings; None: there is none that can be read.

    A pretraining whose weights cannot be used is not done.
    """
    try:
        saved: Mapping[str, Any] = json.loads((folder / f"{job.name}.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    wanted = {"fingerprint": settings.fingerprint(), **asdict(job)}
    if any(saved.get(key) != value for key, value in wanted.items()):
        return None
    if job.arm is None and load_weights(folder, job.seed, settings) is None:
        return None
    record: Record = saved["record"]
    return record


def _machine(processes: int) -> str:
    found = describe()
    system = found["system"].split()[0]  # the build of its kernel is of one machine alone
    where = f"{found['date'][:10]}, {found['cpu']}, {found['cores']} cores, {system}"
    return f"{where}, Python {found['python']}, torch {torch.__version__}, {processes} processes of one thread"
