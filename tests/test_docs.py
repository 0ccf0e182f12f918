"""Documentation pages: all that they show runs, links lead somewhere, figures and numbers are those of the results."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.pages import NOT_RUN, PAGES, ROOT, Block, Runner, UncoveredError

#: Blocks that may be marked as not run, in all pages together.
MOST_NOT_RUN = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pages.write_data(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_what_a_page_shows_runs(page: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.copy_data(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    runner = Runner()
    for block in pages.blocks(page):
        runner.run(block)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [line for page in PAGES for line in page.read_text().splitlines() if NOT_RUN in line]
    assert len(reasons) <= MOST_NOT_RUN, reasons
    for reason in reasons:
        assert len(reason.partition(NOT_RUN)[2].split()) >= 4, reason


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_no_marker_begins_a_line_of_text(page: Path) -> None:
    """It would begin a block of HTML, in which nothing is formatted, and end a list."""
    assert [line for line in page.read_text().splitlines() if re.match(r" *<!-- [\w-]+ -->[^\n]", line)] == []


# ---- The rules themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (("", "fast-tokenizer demo\n"), "no rule for a block of no language"),
        (("yaml", "a: 1\n"), "no rule for a block of yaml"),
        (("sh", "curl example.org\n"), "no rule for the command curl"),
        (("sh", "pip install 'fast-tokenizer[nothing]'\n"), "no extra 'nothing'"),
        (("sh", "python -m benchmarks.nothing\n"), "no module benchmarks.nothing"),
        (("sh", "./nothing.sh\n"), "there is no ./nothing.sh"),
        (("pycon", ">>> 1 + 1\n3\n"), "Expected:"),
        (("text", "anything\n"), "nothing was printed before"),
        (("diff", "no diff\n"), "no line of a diff"),
    ],
)
def test_what_no_rule_covers_is_an_error(block: tuple[str, str], message: str) -> None:
    language, text = block
    with pytest.raises(UncoveredError, match=re.escape(message)):
        Runner().run(Block(language, "", text, "page.md:1", 1))


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("sh", "fast-tokenizer fit data -o tok --nothing 3\n", "fit has no option --nothing"),
        ("sh", "fast-tokenizer nothing\n", "there is no command 'nothing'"),
        ("sh", "curl example.org\n", "no rule for the command curl"),
        ("toml", "a = 1\n", "only python and sh may be marked as not run"),
    ],
)
def test_what_is_not_run_must_at_least_exist(language: str, text: str, message: str) -> None:
    with pytest.raises(UncoveredError, match=re.escape(message)):
        Runner().run(Block(language, "", text, "page.md:1", 1, run=False))
    with pytest.raises(SyntaxError):
        Runner().run(Block("python", "", "1 +\n", "page.md:1", 1, run=False))


def test_examples_that_fail_fail() -> None:
    with pytest.raises(ZeroDivisionError):
        Runner().run(Block("python", "", "1 / 0\n", "page.md:1", 1))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Runner().run(Block("sh", "", "fast-tokenizer inspect nowhere\n", "page.md:1", 1))
    with pytest.raises(ImportError):
        Runner().run(Block("diff", "", "+from fast_tokenizer import Nothing\n", "page.md:1", 1))


def test_output_that_differs_is_an_error() -> None:
    runner = Runner()
    runner.run(Block("python", "", "print('one two')\n", "page.md:1", 1))
    runner.run(Block("text", "", "one ...\n", "page.md:3", 3))
    runner.run(Block("python", "", "print('one two')\n", "page.md:5", 5))
    with pytest.raises(UncoveredError, match="what was printed is\none two"):
        runner.run(Block("text", "", "two\n", "page.md:7", 7))


# ---- Links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """As they are in the repository; on the site `mkdocs build --strict` checks them, anchors too."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            assert re.match(r"https://(arxiv\.org/abs/|docs\.ray\.io|github\.com/|huggingface\.co/)", target), target
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


# ---- The reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["", ".compat", ".io", ".ki_model", ".report", ".sidecar", ".distributed"])
def test_every_public_name_has_its_place_in_the_reference(package: str) -> None:
    module = __import__(f"fast_tokenizer{package}", fromlist=["__all__"])
    shown = {name for page in (ROOT / "docs" / "api").glob("*.md") for name in directives(page)}
    missing = [name for name in module.__all__ if f"fast_tokenizer{package}.{name}" not in shown]
    assert not missing


def directives(page: Path) -> list[str]:
    return re.findall(r"^::: (\S+)$", page.read_text(), re.M)


def test_the_reference_names_what_there_is() -> None:
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in directives(page):
            module, _, leaf = name.rpartition(".")
            assert hasattr(__import__(module, fromlist=[leaf]), leaf), name


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    here = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert here <= set(listed)
    for name in set(listed) - here:
        assert (ROOT / name).is_file(), name


def test_hooks_of_the_site_are_read_by_what_is_installed_only() -> None:
    """`mkdocs` is of the extra `docs`, which tests do not need; the hooks must at least be whole."""
    for name in re.findall(r"scripts/\w+\.py", (ROOT / "mkdocs.yml").read_text()):
        ast.parse((ROOT / name).read_text())
    assert "mkdocs" not in sys.modules
