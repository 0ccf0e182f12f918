"""What the README and the pages it was once part of promise, beyond that their examples run (`test_docs.py`)."""

import inspect
import re
from pathlib import Path

import pytest
from typer.main import get_command

from fast_tokenizer import FastTokenizer
from fast_tokenizer.cli.app import app
from tests.pages import PAGES, ROOT, Runner, blocks, copy_data, write_data
from tests.pages import commands as commands_of

README = ROOT / "README.md"


def section(page: str, title: str) -> str:
    return (ROOT / page).read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_examples_print_what_their_comments_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    runner, printed = Runner(), []
    for block in blocks(README):
        if block.language == "python":
            runner.run(block)
            printed += (runner.printed or "").splitlines()
    assert printed[0] == "512 action tokens on VLM ids 256512..257023 of 257152"
    assert any(line.startswith("recommended max_len ") for line in printed)
    refused, repaired = printed[-2:]
    assert refused.startswith("chunk 0: too few symbols: got ")
    assert refused.endswith("decode_with_status() decode it all the same")
    assert re.fullmatch(r"chunk 0: \d+ of 350 symbols missing, filled with 0", repaired)
    assert FastTokenizer.load("first_try").spec.time_horizon == 50


def test_the_first_two_commands_install_and_test() -> None:
    """.ci/run takes them from here."""
    first, second = [block.text for block in blocks(README) if block.language == "sh"][:2]
    assert first == "pip install .\nfast-tokenizer demo\n"
    assert second == 'pip install -c constraints.txt -e ".[test]"\npytest -n auto --dist loadfile\n'


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text().splitlines()) <= 300


def test_the_format_is_stated_in_40_lines() -> None:
    stated = section("docs/format.md", "The format")
    assert len([line for line in stated.splitlines() if line.strip()]) <= 40
    assert "MUST" in stated
    assert "MAY" in stated


def test_the_commands_have_the_options_that_are_named() -> None:
    """Also those in tables and text, which nothing runs."""
    commands = get_command(app).commands
    known = {name for command in commands.values() for p in command.params for name in p.opts}
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "SECURITY.md") or page.parent.name == "benchmarks":
            continue
        if page.name == "checks.md":  # of scripts.fuzz
            continue
        text = re.sub(r"```sh\n.*?```", "", page.read_text(), flags=re.S)
        for name in re.findall(r"`(--[\w-]+)", text):
            assert name in known | {"--strict"}, f"{page}: {name}"
    shells = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    assert set(commands) <= {
        words[1] for block in shells for words in commands_of(block) if words[0] == "fast-tokenizer"
    }


def test_the_mixture_of_the_page_is_what_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_data(data)
    copy_data(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    runner = Runner()
    page = blocks(ROOT / "docs" / "fit.md")
    (config,) = (b for b in page if b.language == "toml")
    for block in (config, page[page.index(config) + 1]):
        runner.run(block)
    mixture = FastTokenizer.load("both")
    assert mixture.embodiments == ("droid", "aloha")
    assert mixture.embodiment("droid").takes_state
    assert mixture.embodiment("aloha").spec.hz == 50


def test_the_table_has_all_options_of_fit() -> None:
    table = section("docs/options.md", "All options of `fit`")
    named = [
        n for line in table.splitlines() if line.startswith("| `") for n in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    explained_elsewhere = {"chunks", "dimension_names", "hz", "num_threads", "progress", "compat"}
    assert sorted({*named} | explained_elsewhere) == sorted(inspect.signature(FastTokenizer.fit).parameters)
    assert len(named) == len(set(named))
