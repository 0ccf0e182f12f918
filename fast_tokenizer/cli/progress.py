"""The progress line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fast_tokenizer.cli.workflow import Report


def labelled(report: Report, label: str | None) -> Report:
    """Names the work of one of several."""
    return (lambda stage, done, total: report(f"{label}: {stage}", done, total)) if label else report


@contextmanager
def shown_progress() -> Iterator[Report]:
    """A progress line on stderr: one task a stage, brought up to date ten times a second."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}
        due = 0.0

        def report(stage: str, done: int, total: int | None) -> None:
            nonlocal due
            now = time.monotonic()
            if progress.disable or (stage in tasks and now < due and done != total):
                return
            due = now + 0.1
            if stage not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report
