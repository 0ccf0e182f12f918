"""Which parts a sidecar has, and how they become one."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fast_tokenizer._arguments import integer, thread_count
from fast_tokenizer._core import MAX_HORIZON, build_info
from fast_tokenizer.cutting import check_same_robot
from fast_tokenizer.io.dataset import BrokenDataError, EpisodeInfo
from fast_tokenizer.io.lerobot import LerobotFiles, lerobot_files
from fast_tokenizer.io.source import Outline, Source, fetch, require
from fast_tokenizer.sidecar.manifest import DATA, EPISODE_END, MANIFEST, PARTS, Manifest, is_manifest
from fast_tokenizer.sidecar.parts import PartCounts, PartJob, PartRules, write_part
from fast_tokenizer.sidecar.run import Run, runs_in
from fast_tokenizer.tokenizer import FastTokenizer

#: Told of the frames that are done and of those to do.
Report: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SidecarPlan:
    """The parts of a sidecar that is to be written.

    ``plan = plan.begin()`` first, then `write_part` for each of its jobs, wherever and in whatever order, then
    `finish`.

    Attributes:
        output: Folder of the sidecar.
        jobs: One for each data file of which episodes are wanted.
        left_out: Episodes of the source that no job has, and why.
        head: What the manifest says before anything is counted.
        run: What `begin` began; None before.
    """

    output: Path
    jobs: tuple[PartJob, ...]
    left_out: tuple[BrokenDataError, ...]
    head: dict[str, Any]
    run: Run | None = None

    @property
    def frames(self) -> int:
        """Frames that the jobs are to write."""
        return sum(job.frames for job in self.jobs)

    def begin(self) -> SidecarPlan:
        """Makes the folder ready; a sidecar that stands there is gone from now on, finished or not.

        Another run that still writes to the folder ends with an error, here or elsewhere.

        Returns:
            The plan whose jobs are to be written, and which is to be finished.

        Raises:
            ValueError: There is something else in the folder, or a link, and nothing is touched; or another run began
                at the same time.
        """
        # A run elsewhere may move things away while they are looked at; then the next look is another.
        problem = self._in_the_way() and self._in_the_way() and self._in_the_way()
        if problem:
            raise ValueError(problem)
        run = Run.begin(self.output)
        for name in (MANIFEST, PARTS, DATA):  # no moment has a manifest beside parts that are not its own
            run.take(name)
        folders = {folder for job in self.jobs for folder in Path(job.part).parents} - {Path()}
        run.make_folders(sorted(folders, key=lambda folder: folder.parts))
        return replace(self, run=run, jobs=tuple(replace(job, run=run) for job in self.jobs))

    def finish(self, counts: Iterable[PartCounts]) -> Manifest:
        """Writes the table of the parts, and then the manifest, which makes the folder a sidecar.

        Args:
            counts: What `write_part` returned, of every job once, in any order.

        Raises:
            ValueError: A job is missing or counted twice; a part is not there; frames are lost; the numbers of frames
                do not rise from part to part; or another run has begun. The folder is then no sidecar.
        """
        run = self.run
        if run is None:
            raise ValueError(f"{self.output}: this plan has not begun; finish what plan.begin() gives")
        run.end_others()
        by_part = self._of_all_jobs(counts)
        written = sorted((c for c in by_part.values() if c.frames), key=lambda c: (c.first_indices[0], c.part))
        for a, b in pairwise(written):
            if b.first_indices[0] <= a.last_index:
                raise ValueError(
                    f"the column index must number all frames once, but {b.part} begins at {b.first_indices[0]}, and "
                    f"{a.part} ends at {a.last_index}"
                )
        _check_parts(run, written)
        left_out = Counter[str]()
        for error in (*self.left_out, *(e for c in by_part.values() for e in c.left_out)):
            left_out[error.reason] += error.episodes
        content = _parts_table(written)
        names = ("episodes", "frames", "tokens", "saturated", "clipped", "dropped", "filled_frames")
        manifest = Manifest(
            **self.head,
            **{name: sum(getattr(c, name) for c in written) for name in names},
            longest=max((c.longest for c in written), default=0),
            episodes_left_out=dict(left_out),
            parts=len(written),
            parts_digest=hashlib.sha256(content).hexdigest(),
        )
        if not manifest.frames:
            raise ValueError(f"{self.head['source']}: holds no episode that can be used: {dict(left_out)}")
        run.write(PARTS, lambda file: file.write(content))
        run.write(MANIFEST, lambda file: file.write(manifest.content()))
        for name in (DATA, PARTS, MANIFEST):
            run.put(name)
        run.end()
        return manifest

    def write(
        self, tokenizer: FastTokenizer, *, num_threads: int | None = None, progress: Report | None = None
    ) -> Manifest:
        """All of it, on this machine; arguments and errors are those of `write_sidecar`."""
        plan = self.begin()
        counts, done = [], 0
        for job, counted in _written(tokenizer, plan.jobs, num_threads):
            counts.append(counted)
            done += job.frames
            if progress is not None:
                progress(done, plan.frames)
        return plan.finish(counts)

    def _in_the_way(self) -> str | None:
        """What is in the output that no sidecar has, and that may not be lost."""
        if not self.output.exists():
            return None
        if not self.output.is_dir():
            return f"{self.output}: is a file; name a folder"
        manifest = self.output / MANIFEST
        has_manifest = manifest.exists() or manifest.is_symlink()
        ours = is_manifest(manifest) if has_manifest else bool(runs_in(self.output))
        if not ours and any(self.output.iterdir()):
            return f"{self.output}: is not empty, and no sidecar; name another folder"
        if foreign := self._foreign():
            return f"{foreign}: is nothing that a sidecar has, and would be deleted; name another folder"
        return None

    def _foreign(self) -> Path | None:
        """Something in the folder of the parts that is none."""
        folder = self.output / DATA
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            return folder
        planned = {self.output / job.part for job in self.jobs}  # a source may call its files anything
        try:
            for path in folder.rglob("*"):
                is_part = path.is_file() and (path.suffix == ".parquet" or path in planned)
                if path.is_symlink() or not (path.is_dir() or is_part):
                    return path
        except FileNotFoundError:  # another run has just taken it
            return folder
        return None

    def _of_all_jobs(self, counts: Iterable[PartCounts]) -> dict[str, PartCounts]:
        """Counts by part, each of which accounts for all that its job was to do."""
        jobs = {job.part: job for job in self.jobs}
        by_part: dict[str, PartCounts] = {}
        for c in counts:
            if c.part not in jobs:
                raise ValueError(f"{c.part}: is none of the {len(jobs)} parts of this sidecar")
            if c.part in by_part:
                raise ValueError(f"{c.part}: is counted twice")
            by_part[c.part] = c
            got, wanted = c.episodes + len(c.left_out), len(jobs[c.part].wanted)
            whole = c.frames == jobs[c.part].frames if not c.left_out else c.frames <= jobs[c.part].frames
            if got != wanted or not whole:
                raise ValueError(
                    f"{c.part}: has {c.frames} frames of {c.episodes} episodes, with {len(c.left_out)} left out; "
                    f"expected {jobs[c.part].frames} frames of {wanted}"
                )
        if missing := [part for part in jobs if part not in by_part]:
            raise ValueError(f"{len(missing)} of {len(jobs)} parts are not written, the first is {missing[0]}")
        return {part: by_part[part] for part in jobs}  # in the order of the jobs, whichever was done first


def plan_sidecar(
    tokenizer: FastTokenizer,
    source: str | Path,
    output: str | Path | None = None,
    *,
    horizon: int | None = None,
    embodiment: str | None = None,
    dimensions: Sequence[int] | None = None,
    action_key: str | Sequence[str] | None = None,
    state_key: str | Sequence[str] | None = None,
    episodes: Collection[int] | None = None,
    on_broken: Literal["raise", "skip"] = "raise",
    hz: float | None = None,
) -> SidecarPlan:
    """Finds the parts of a sidecar by the source's `meta/`; writes nothing.

    Args:
        tokenizer: The one to encode with.
        source: LeRobot folder (v2.0, v2.1, v3.0), or the id of one on the hub.
        output: Folder of the sidecar. None: beside the source, under its name and `.tokens`. It may not lie within
            the source, which stays as it is, to the byte and to the list of its files; nor the source within it.
        horizon: Steps T of a chunk. Not needed where the tokenizer records it.
        embodiment: Name of the embodiment, where the tokenizer has several.
        dimensions: Which dimensions of the actions to encode. None: all.
        action_key: As for `fast_tokenizer.io.read`.
        state_key: As for `read`; the state is read where actions are relative to it, and nowhere else.
        episodes: As for `read`.
        on_broken: "raise": an episode that cannot be used stops the work when it is met. "skip": it is left out, and
            counted by reason.
        hz: As for `read`.

    Raises:
        FileNotFoundError: There is no such source.
        ImportError: `pyarrow` is not installed.
        BrokenDataError: An episode cannot be used, as `meta/` shows.
        ValueError: It is no LeRobot folder; the tokenizer does not fit it; there are no such episodes; or the output
            is in the way of the source.
    """
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', got {on_broken!r}")
    one = tokenizer if embodiment is None else tokenizer.embodiment(embodiment)
    spec = one.one_spec
    root = fetch(source)
    if not (root / "meta" / "info.json").is_file():
        raise ValueError(f"{root}: is no LeRobot folder: it has no meta/info.json")
    target = _output(root, output, is_local=Path(source).exists())
    opened = Source(
        root,
        _keys(action_key),
        _keys(state_key),
        state=spec.relative is not None,
        skip=on_broken == "skip",
        hz=hz,
        episodes=None if episodes is None else frozenset(episodes),
    )
    files = lerobot_files(opened)
    # First: where no file has a wanted episode, none was looked into, and nothing is known of the actions.
    wanted, left_out = _wanted(files, opened)
    chosen = None if dimensions is None else _dimensions(dimensions, files.action_dim)
    names = files.dimension_names
    if names is not None and chosen is not None:
        names = tuple(names[d] for d in chosen)
    check_same_robot(spec, hz or files.hz, names)
    action_dim = files.action_dim if chosen is None else len(chosen)
    if spec.action_dim not in (None, action_dim):
        raise ValueError(
            f"{root}: has actions of {action_dim} dimensions, the tokenizer was fitted for {spec.action_dim}"
        )
    if spec.relative is not None and files.state_dim is None:
        raise ValueError(f"{root}: has no state, which relative actions need; name it with state_key (--state-key)")
    rules = PartRules(
        tokenizer.fingerprint(), embodiment, _horizon(horizon, spec.time_horizon), chosen, opened.skip, hz
    )
    return SidecarPlan(
        target,
        tuple(_job(target, rules, files, outline, numbers) for outline, numbers in wanted),
        (*opened.left_out, *left_out),
        {
            "fingerprint": rules.fingerprint,
            "embodiment": embodiment,
            "vocab_size": tokenizer.vocab_size,
            "horizon": rules.horizon,
            "action_dim": action_dim,
            "episode_end": EPISODE_END,
            "action_keys": list(files.action_keys),
            "state_keys": list(files.state_keys),
            "dimensions": None if chosen is None else list(chosen),
            **source_facts(files),
        },
    )


def source_facts(files: LerobotFiles) -> dict[str, Any]:
    """What a manifest says of its source, by which it is known again."""
    listed = [
        [o.file.relative_to(files.root).as_posix(), [[e.index, n] for e, n in zip(o.episodes, o.lengths, strict=True)]]
        for o in files.outlines
    ]
    return {
        "source": files.root.name,
        "source_version": files.version,
        "source_episodes": sum(len(o.episodes) for o in files.outlines),
        "source_frames": sum(n for o in files.outlines for n in o.lengths),
        "source_digest": hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest(),
    }


def write_sidecar(
    tokenizer: FastTokenizer,
    source: str | Path,
    output: str | Path | None = None,
    *,
    num_threads: int | None = None,
    progress: Report | None = None,
    **options: Any,
) -> tuple[Path, Manifest]:
    """Writes the token ids of every frame of a LeRobot folder, on this machine.

    Args:
        tokenizer: The one to encode with.
        source: As for `plan_sidecar`.
        output: As for `plan_sidecar`. A sidecar that stands there is replaced.
        num_threads: Threads; None: all cores. Each has one data file in memory.
        progress: Told of the frames that are done and of those to do.
        options: As for `plan_sidecar`.

    Returns:
        The folder, and what it holds.

    Raises:
        OSError: The sidecar cannot be written.
        ValueError: As for `plan_sidecar`, `write_part` and `SidecarPlan`; one process may write, the others are told
            that another run has begun. There is then no sidecar.
    """
    plan = plan_sidecar(tokenizer, source, output, **options)
    return plan.output, plan.write(tokenizer, num_threads=num_threads, progress=progress)


def _written(
    tokenizer: FastTokenizer, jobs: Sequence[PartJob], num_threads: int | None
) -> Iterator[tuple[PartJob, PartCounts]]:
    """Writes the parts, several at a time, as they are done. The first error stops the others."""
    threads = thread_count(num_threads) or int(build_info()["threads"])
    at_once = max(1, min(threads, len(jobs)))
    waiting = iter(jobs)
    with ThreadPoolExecutor(at_once) as pool:
        running: dict[Future[PartCounts], PartJob] = {}
        try:
            while True:
                for job in islice(waiting, at_once - len(running)):
                    running[pool.submit(write_part, tokenizer, job, num_threads=threads // at_once)] = job
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def _wanted(files: LerobotFiles, source: Source) -> tuple[list[tuple[Outline, tuple[int, ...]]], list[BrokenDataError]]:
    """Each data file of which episodes are wanted, and which of its; and what else is listed, with the reason."""
    if source.episodes is not None:
        unknown = sorted(source.episodes - {e.index for o in files.outlines for e in o.episodes})
        if unknown:
            listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise ValueError(f"{files.root}: has no episode {listed}")
    found, left_out, others, total = [], [], 0, 0
    for outline in files.outlines:
        wanted = []
        for i, episode in enumerate(outline.episodes):
            total += 1
            if source.episodes is not None and episode.index not in source.episodes:
                others += 1
            elif episode.problem is None:
                wanted.append(i)
            elif source.skip:
                left_out.append(episode.problem)
            else:
                raise episode.problem
        if wanted:
            found.append((outline, tuple(wanted)))
    if others:
        message = f"{files.root}: {others} of {total} episodes are not chosen"
        left_out.append(BrokenDataError("not chosen", message, others))
    if not found:
        reasons = "; ".join(str(e) for e in left_out[:1])
        raise ValueError(f"{files.root}: holds no episode that can be used{': ' if reasons else ''}{reasons}")
    return found, left_out


def _job(output: Path, rules: PartRules, files: LerobotFiles, outline: Outline, wanted: tuple[int, ...]) -> PartJob:
    part = f"{DATA}/{outline.file.relative_to(files.root).as_posix().removeprefix(f'{DATA}/')}"
    return PartJob(output, part, rules, replace(files, outlines=(_without_texts(outline),), tasks={}), wanted)


def _without_texts(outline: Outline) -> Outline:
    """Jobs travel; the texts of tasks need not."""
    return replace(outline, episodes=tuple(EpisodeInfo(e.index, e.name, problem=e.problem) for e in outline.episodes))


def _output(root: Path, output: str | Path | None, *, is_local: bool) -> Path:
    """Where the sidecar goes: neither into the source, nor around it."""
    if output is None:
        if not is_local:
            raise ValueError(f"{root}: comes from the hub; say where its sidecar is to go")
        output = _beside(root)
    target, inside = Path(output), root.resolve()
    resolved = target.resolve()
    if resolved == inside or inside in resolved.parents:
        raise ValueError(f"{target}: lies within the source {root}, which stays as it is; name a folder beside it")
    if resolved in inside.parents:
        raise ValueError(f"{target}: the source {root} lies within it; name a folder of its own")
    return target


def _beside(root: Path) -> Path:
    """The default: the folder's own name, also of "." and "..", and `.tokens`."""
    return root.with_name(f"{root.name}.tokens") if root.name not in ("", "..") else _beside(root.resolve())


def _check_parts(run: Run, written: Sequence[PartCounts]) -> None:
    """Raises ValueError where a part is not there, or is not what was counted."""
    parquet = require("pyarrow.parquet", "lerobot", run.output)
    lost = [c.part for c in written if not (run.folder / c.part).is_file()]
    if lost:
        run.end_others()
        raise ValueError(
            f"{run.folder}: {len(lost)} of {len(written)} parts are not there, the first is {lost[0]}; was it "
            "written on a disk that is not shared?"
        )
    for c in written:
        try:
            rows = parquet.read_metadata(run.folder / c.part).num_rows
        except (OSError, ValueError) as error:
            run.end_others()
            raise ValueError(f"{run.folder / c.part}: cannot be read again: {error}") from None
        if rows != c.frames:
            raise ValueError(f"{run.folder / c.part}: has {rows} frames, {c.frames} were counted")


def _parts_table(parts: Sequence[PartCounts]) -> bytes:
    """The table of the parts, in the order of their frames."""
    pyarrow = require("pyarrow", "lerobot", Path(PARTS))
    parquet = require("pyarrow.parquet", "lerobot", Path(PARTS))
    names = ("part", "first_indices", "last_index", "episodes", "frames", "tokens")
    table = pyarrow.table({name: [getattr(p, name) for p in parts] for name in names})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _keys(key: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if key is None else (key,) if isinstance(key, str) else tuple(key)


def _dimensions(given: Sequence[int], action_dim: int) -> tuple[int, ...]:
    rule = f"in the data's dimensions 0..{action_dim - 1}"
    chosen = tuple(integer("a dimension", d, 0, action_dim - 1, rule) for d in given)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"dimensions must name at least one, and each once, got {list(given)}")
    return chosen


def _horizon(given: int | None, recorded: int | None) -> int:
    if given is None and recorded is None:
        raise ValueError("this tokenizer takes any horizon: give horizon=... (--horizon)")
    if given is not None and recorded is not None and given != recorded:
        raise ValueError(f"horizon={given}, but the tokenizer was fitted for {recorded}")
    value = recorded if given is None else given
    assert value is not None
    return integer("horizon", value, 1, MAX_HORIZON, "positive")
