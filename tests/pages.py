"""Runs what documentation pages show: every fenced block falls under a rule, or it is an error.

| block | what is done |
|---|---|
| `python` | executed; the names of one block are there in the next of the same page |
| `pycon` | executed as doctest, with the same names |
| `sh` | `fast-tokenizer ...` is executed; of other commands it is checked that what they name exists |
| `toml`, `json` | parsed; with `title="x.toml"` written to that file, for the commands that follow |
| `text` | is what the block before it printed; `...` stands for anything |
| `diff` | a change to somebody else's code: the lines that it adds must import from us what there is |
| `bibtex` | nothing |

A block of `python` or `sh` below a line with "Not run by the tests:" is compiled, or its commands and options are
looked up. A page runs in a folder of its own, in which there are the data of `write_data`.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import io
import json
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from typer.main import get_command

from fast_tokenizer.cli.app import app
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

ROOT = Path(__file__).parents[1]
#: README, the pages of the site that are written by hand, and what stands beside them.
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NOT_RUN = "Not run by the tests:"
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
#: Commands of other programs, and where they come from: an extra, or nothing to install.
_PROGRAMS = {
    "pytest": "test",
    "mkdocs": "docs",
    "ruff": "dev",
    "mypy": "dev",
    "git": None,
    "apt-get": None,
    "cibuildwheel": None,
    "cmake": None,
    "ctest": None,
}


class UncoveredError(Exception):
    """A block for which there is no rule, or that breaks it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: What stands after the fence.
        title: Of its file, or "".
        text: Without the fences and their indentation.
        where: Page and line, for messages.
        run: False where the page says that it is not run.
    """

    language: str
    title: str
    text: str
    where: str
    line: int
    run: bool = True


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    content = page.read_text()
    found = []
    for match in _FENCE.finditer(content):
        before = content[: match.start()]
        line = before.count("\n") + 1
        indent = match["indent"]
        text = re.sub(f"^{indent}", "", match["text"], flags=re.M)
        title = re.search(r'title="([^"]+)"', match["rest"])
        last = next((part for part in reversed(before.splitlines()) if part.strip()), "")
        where = f"{page.relative_to(ROOT)}:{line}"
        found.append(Block(match["language"], title[1] if title else "", text, where, line, NOT_RUN not in last))
    if (fences := len(re.findall(r"^ *```", content, re.M))) != 2 * len(found):
        raise UncoveredError(f"{page}: {fences} fences, but {len(found)} blocks")
    return found


class Runner:
    """Runs the blocks of one page. The current folder must be the page's."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.printed: str | None = None
        self.executed = 0

    def run(self, block: Block) -> None:
        """Runs one.

        Raises:
            UncoveredError: There is no rule for it, or it breaks it.
        """
        rule = getattr(self, f"_{block.language}", None)
        if rule is None:
            raise UncoveredError(f"{block.where}: no rule for a block of {block.language or 'no language'}")
        if not block.run:
            check_unrun(block)
            return
        printed = rule(block)
        self.printed = printed

    def _python(self, block: Block) -> str:
        code = "\n" * block.line + block.text  # so that a traceback has the page's line
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, block.where.rpartition(":")[0], "exec"), self.names)
        self.executed += 1
        return out.getvalue()

    def _pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, self.names, block.where, block.where, block.line)
        out: list[str] = []
        result = doctest.DocTestRunner().run(test, out=out.append, clear_globs=False)
        if result.failed or not result.attempted:
            raise UncoveredError("".join(out) or f"{block.where}: no example in it")
        self.names = test.globs
        self.executed += result.attempted

    def _sh(self, block: Block) -> str:
        out = ""
        for words in commands(block):
            if words[0] == "fast-tokenizer":
                out += fast_tokenizer(words[1:])
                self.executed += 1
            else:
                check_command(words, block.where)
        return out

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)
        if block.title:
            Path(block.title).write_text(block.text)

    def _json(self, block: Block) -> None:
        json.loads(block.text)
        if block.title:
            Path(block.title).write_text(block.text)

    def _text(self, block: Block) -> None:
        if self.printed is None:
            raise UncoveredError(f"{block.where}: nothing was printed before")
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not doctest.OutputChecker().check_output(block.text, self.printed, flags):
            raise UncoveredError(f"{block.where}: shows\n{block.text}but what was printed is\n{self.printed}")

    def _diff(self, block: Block) -> None:
        for line in block.text.splitlines():
            if line[:1] not in ("+", "-", " ", "@", ""):
                raise UncoveredError(f"{block.where}: {line!r} is no line of a diff")
            code = line[1:].strip()
            if line.startswith("+") and code.startswith(("from fast_tokenizer", "import fast_tokenizer")):
                exec(compile(ast.parse(code), block.where, "exec"), {})

    def _bibtex(self, block: Block) -> None:
        if not block.text.startswith("@"):
            raise UncoveredError(f"{block.where}: expected an entry")


def fast_tokenizer(words: list[str]) -> str:
    """What a command prints. Its patterns of file names are expanded as a shell does."""
    arguments: list[str] = []
    for word in words:
        expanded = sorted(map(str, Path().glob(word))) if "*" in word else []
        arguments += expanded or [word]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = app(arguments, standalone_mode=False)
    if code:
        raise UncoveredError(f"fast-tokenizer {' '.join(words)}: exit code {code}")
    return out.getvalue()


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block of shell."""
    lines = [shlex.split(line, comments=True) for line in block.text.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


def check_unrun(block: Block) -> None:
    """What can be said of a block without running it: Python compiles, commands and their options exist."""
    if block.language == "python":
        compile(block.text, block.where, "exec")
    elif block.language == "sh":
        ours = get_command(app).commands
        for words in commands(block):
            if words[0] != "fast-tokenizer":
                check_command(words, block.where)
            elif words[1] not in ours:
                raise UncoveredError(f"{block.where}: there is no command {words[1]!r}")
            else:
                known = {name for parameter in ours[words[1]].params for name in parameter.opts}
                if unknown := [w for w in words[2:] if w.startswith("-") and w not in known]:
                    raise UncoveredError(f"{block.where}: {words[1]} has no option {unknown[0]}")
    else:
        raise UncoveredError(f"{block.where}: only python and sh may be marked as not run")


def check_command(words: list[str], where: str) -> None:
    """That what a command of another program names is there."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    program, *rest = words
    if words[:2] == ["python", "-m"]:
        if importlib.util.find_spec(words[2]) is None:
            raise UncoveredError(f"{where}: there is no module {words[2]}")
    elif words[:2] == ["pip", "install"]:
        for named in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            for extra in named.split(","):
                if extra not in extras:
                    raise UncoveredError(f"{where}: there is no extra {extra!r}")
    elif program.startswith("."):
        if not (ROOT / program).exists():
            raise UncoveredError(f"{where}: there is no {program}")
    elif program not in _PROGRAMS:
        raise UncoveredError(f"{where}: no rule for the command {shlex.join(words)}")
    elif (extra := _PROGRAMS[program]) and not any(re.match(rf"{program}\b", p) for p in extras[extra]):
        raise UncoveredError(f"{where}: {program} is not in the extra {extra!r}")


# ---- Data -------------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """What stands for a reader's own data: small generated recordings in every format."""
    episodes = generate_trajectories(ROBOTS["libero"], 12, seed=7, seconds=(3.0, 5.0))
    names = ROBOTS["libero"].dimension_names
    ends = np.cumsum([len(e) for e in episodes])
    joined = np.concatenate(episodes)
    whole = {"actions": joined, "episode_ends": ends, "hz": 20.0, "action_names": np.array(names)}
    np.savez(folder / "episodes.npz", **whole, state=joined[:, :6], state_names=np.array(names[:6]))
    (folder / "recordings").mkdir()
    for i, part in enumerate((episodes[:6], episodes[6:])):
        lengths = np.cumsum([len(e) for e in part])
        np.savez(folder / "recordings" / f"{i}.npz", actions=np.concatenate(part), episode_ends=lengths, hz=20.0)
    lerobot_folder(folder / "lerobot_folder", episodes, 20.0, names)
    droid = generate_trajectories(ROBOTS["droid"], 8, seed=7, seconds=(3.0, 5.0))
    lerobot_folder(folder / "droid_lerobot", droid, 15.0, ROBOTS["droid"].dimension_names)
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for i, episode in enumerate(episodes):
            file[f"data/demo_{i}/actions"] = episode
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
    aloha = generate_trajectories(ROBOTS["aloha"], 8, seed=7, seconds=(2.0, 3.0))
    for i in (1, 2):
        with h5py.File(folder / f"aloha_{i}.hdf5", "w") as file:
            for j, episode in enumerate(aloha[i - 1 :: 2]):
                file[f"data/demo_{j}/actions"] = episode
    root = zarr.create_group(folder / "replay.zarr", zarr_format=2)
    for name, values in {"data/action": joined, "meta/episode_ends": ends}.items():
        root.create_array(name, data=values, chunks=values.shape)


def lerobot_folder(root: Path, episodes: list[np.ndarray], fps: float, names: tuple[str, ...]) -> None:
    """LeRobot v2.1, as recorded: absolute poses as state, a task text."""
    (root / "meta").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    feature = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    info = {"codebase_version": "v2.1", "fps": fps, "chunks_size": 1000, "total_episodes": len(episodes)}
    info["features"] = {"action": feature, "observation.state": feature}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "length": len(e), "tasks": ["pick up the cup"]} for i, e in enumerate(episodes)]
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "pick up the cup"}) + "\n")
    before = 0
    for i, actions in enumerate(episodes):
        steps = np.arange(len(actions))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), actions.shape[1])
        columns = {"action": lists, "observation.state": lists, "timestamp": pa.array((steps / fps).astype(np.float32))}
        columns |= {"frame_index": steps, "episode_index": np.full(len(actions), i), "index": before + steps}
        columns["task_index"] = np.zeros(len(actions), np.int64)
        pq.write_table(pa.table(columns), root / "data" / "chunk-000" / f"episode_{i:06d}.parquet")
        before += len(actions)


def copy_data(source: Path, target: Path) -> None:
    """A page's own copy."""
    shutil.copytree(source, target, dirs_exist_ok=True)
