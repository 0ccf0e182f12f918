"""What the README says is true: its examples run, its commands are the ones that CI runs."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fast_tokenizer import FastTokenizer
from fast_tokenizer.cli.app import app
from fast_tokenizer.cli.mixture import read_mixture

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(*languages: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for language, text in fenced if language in languages]


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "512 action tokens on VLM ids 256512..257023 of 257152"
    assert any(line.startswith("recommended max_len ") for line in printed)
    refused, repaired = printed[-2:]
    assert refused.startswith("chunk 0: too few symbols: got ")
    assert refused.endswith("decode_with_status() decode it all the same")
    assert re.fullmatch(r"chunk 0: \d+ of 350 symbols missing, filled with 0", repaired)
    assert FastTokenizer.load("my_robot").spec.time_horizon == 50
    assert names["reasons"] == [("not chosen", 10)]
    assert names["both"].embodiments == ("droid", "aloha")


def test_the_first_two_commands_install_and_test() -> None:
    first, second = blocks("sh")[:2]
    assert first == "pip install .\nfast-tokenizer demo\n"
    assert second == 'pip install -c constraints.txt -e ".[test]"\npytest\n'


def test_the_format_is_stated_in_40_lines() -> None:
    section = README.split("## The artefact")[1].split("\n## ")[0]
    assert len([line for line in section.splitlines() if line.strip()]) <= 40
    assert "MUST" in section
    assert "MAY" in section


def test_the_commands_have_the_options_that_are_named() -> None:
    commands = get_command(app).commands
    lines = [line.split("#")[0] for block in blocks("sh", "") for line in block.splitlines()]
    shown = [shlex.split(line)[1:] for line in lines if line.startswith("fast-tokenizer ")]
    assert {"fit", "encode", "decode", "inspect", "report", "demo"} <= {command for command, *_ in shown}
    for command, *rest in shown:
        known = {name for parameter in commands[command].params for name in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known, command


def test_the_mixture_file_is_read(tmp_path: Path) -> None:
    for name in ("droid_lerobot", "aloha_1.hdf5", "aloha_2.hdf5"):
        (tmp_path / name).touch()
    (text,) = blocks("toml")
    (tmp_path / "config.toml").write_text(text)
    mixture = read_mixture(tmp_path / "config.toml")
    assert [entry.name for entry in mixture.entries] == ["droid", "aloha"]
    assert mixture.weights == [1, 3]


def test_the_table_has_all_options_of_fit() -> None:
    table = README.split("## What the options do")[1].split("\n## ")[0]
    named = [
        n for line in table.splitlines() if line.startswith("| `") for n in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    explained_elsewhere = {"chunks", "dimension_names", "hz", "num_threads", "progress", "compat"}
    assert sorted({*named} | explained_elsewhere) == sorted(inspect.signature(FastTokenizer.fit).parameters)
    assert len(named) == len(set(named))
