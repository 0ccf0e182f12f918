"""What the README says is true: its examples run, its commands are the ones that CI runs."""

import re
from pathlib import Path

import pytest

from fast_tokenizer import FastTokenizer

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


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


def test_the_first_two_commands_install_and_test() -> None:
    first, second = blocks("sh")[:2]
    assert first == "pip install .\nfast-tokenizer demo\n"
    assert second == 'pip install -c constraints.txt -e ".[test]"\npytest\n'


def test_the_format_is_stated_in_40_lines() -> None:
    section = README.split("## The artefact")[1].split("\n## ")[0]
    assert len([line for line in section.splitlines() if line.strip()]) <= 40
    assert "MUST" in section
    assert "MAY" in section
