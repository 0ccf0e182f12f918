"""A run that writes a sidecar: what it writes lies in a folder of its own, and is moved to its place at the end.

Several may write to one output, by mistake: each process of `torchrun`, two jobs of a sweep. The one that began last
is to end whole, and the others with an error. A run may change the output as long as its own folder is there: whoever
begins moves the folders of those before into its own, and each move into or out of the output has one end in the
mover's folder, so that it fails from then on. That needs no lock, which would outlive a process that is killed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fast_tokenizer.sidecar.manifest import MANIFEST, RUN_NAME


@dataclass(frozen=True, slots=True)
class Run:
    """One run, in all processes that write for it.

    Attributes:
        output: Folder of the sidecar.
        name: That of the run's own folder in it.
    """

    output: Path
    name: str

    @classmethod
    def begin(cls, output: Path) -> Run:
        """A new one, which ends those that are there.

        Raises:
            ValueError: Another began at the same time, and goes on.
        """
        output.mkdir(parents=True, exist_ok=True)
        number = 1 + max((run._order[0] for run in runs_in(output)), default=0)
        run = cls(output, f"unfinished-{number}-{secrets.token_hex(8)}")
        run.folder.mkdir()
        run.end_others()
        return run

    @property
    def folder(self) -> Path:
        """Where all lies that it writes."""
        return self.output / self.name

    def end_others(self) -> None:
        """Takes the output from all runs that began before.

        Of two that begin at once the second sees the first, if not each the other; all agree on which is the later.

        Raises:
            ValueError: Another began later: this one is ended.
        """
        for other in runs_in(self.output):
            if other._order > self._order:
                _delete(self.folder)
                raise self._lost()
            if other != self:
                with suppress(FileNotFoundError):  # it is finished, or somebody ended it; or this one
                    other.folder.replace(self.folder / other.name)
                    _delete(self.folder / other.name)
        if not self.folder.is_dir():
            raise self._lost()

    def take(self, name: str) -> None:
        """Deletes a file or folder of the output, if it is there. Raises ValueError where this run was ended."""
        old = self.folder / f"old-{name}"
        try:
            (self.output / name).replace(old)
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise self._lost() from None
        _delete(old)

    def put(self, name: str) -> None:
        """Moves a file or folder of the run to its place in the output. Raises ValueError where it was ended."""
        with self._not_ended():
            (self.folder / name).replace(self.output / name)

    def make_folders(self, names: Iterable[Path]) -> None:
        """Makes folders in the run's, those around others first. Raises ValueError where it was ended."""
        with self._not_ended():
            for name in names:
                (self.folder / name).mkdir()  # without parents: it must not make the run's own folder again

    def write(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Writes a file of the run, whole or not at all.

        Whoever writes the same file at the same time cannot be in the way.

        Raises:
            ValueError: The run was ended, or another disk is meant.
        """
        temporary = self.folder / f"{secrets.token_hex(8)}.part"
        with self._not_ended():
            try:
                with temporary.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.folder / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def end(self) -> None:
        """Deletes its folder, with what killed writers left in it."""
        _delete(self.folder)

    @property
    def _order(self) -> tuple[int, str]:
        match = RUN_NAME.fullmatch(self.name)
        assert match
        return int(match[1]), match[2]

    @contextmanager
    def _not_ended(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if self.folder.is_dir():
                raise
            raise self._lost() from None

    def _lost(self) -> ValueError:
        if runs_in(self.output) or (self.output / MANIFEST).exists():
            return ValueError(
                f"{self.output}: another run has begun to write to this folder, and only the last one counts: let one "
                "process write it, or name another folder"
            )
        return ValueError(
            f"{self.folder}: is not there: was the sidecar begun on a disk that is not shared, or its folder deleted?"
        )


def runs_in(output: Path) -> list[Run]:
    """The runs whose folders are there: that write, or were killed."""
    try:
        names = [p.name for p in output.iterdir() if RUN_NAME.fullmatch(p.name) and not p.is_symlink()]
    except FileNotFoundError:
        return []
    return [Run(output, name) for name in names]


def _delete(path: Path) -> None:
    """Deletes what is there. Another run may have moved it, and delete it too; what is left goes with its folder."""
    for _ in range(10):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        shutil.rmtree(path, ignore_errors=True)
