"""Figures and figures of the pages: what the results and the code give stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import readme, results
from scripts import doc_figures


def table(page: str, name: str) -> list[list[str]]:
    block = (doc_figures.DOCS / page).read_text().split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]
    return cells(block)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def assert_same(shown: list[list[str]], measured: list[list[str]]) -> None:
    """Words alike, numbers to a per cent: C libraries differ in last bits, and a fit may turn on one."""
    for ours, theirs in zip(shown, measured, strict=True):
        assert [re.sub(r"[\d.]+", "#", c) for c in ours] == [re.sub(r"[\d.]+", "#", c) for c in theirs]
        numbers = [[float(n) for c in row for n in re.findall(r"\d+(?:\.\d+)?", c)] for row in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.01)


def test_the_chunk_of_the_first_page_is_what_the_tokenizer_does(tmp_path: Path) -> None:
    way = doc_figures.way_of_a_chunk()
    assert_same(table("index.md", "pipeline"), cells(doc_figures.pipeline_table(way)))
    assert np.array_equal(np.rint(way.coefficients)[way.token >= 0], way.quantized[way.token >= 0])
    assert not way.quantized[way.token < 0].any()
    assert set(way.token[way.token >= 0]) == set(range(len(way.ids)))
    doc_figures.draw_pipeline(way, tmp_path / "pipeline.png")
    assert_same_size(tmp_path / "pipeline.png")


def test_the_rates_are_those_that_are_measured(tmp_path: Path) -> None:
    measured = doc_figures.rates()
    assert_same(table("options.md", "rates"), cells(doc_figures.rates_table(measured)))
    for name, points in measured.items():
        tokens = [p.tokens for p in points]
        assert tokens == sorted(tokens), name
    lost = {name: [p.dropped > 0 for p in points] for name, points in measured.items()}
    assert lost["published fit"] == [False, False, True, False, False], "the page says so"
    assert not any(lost["defaults"] + lost["dimension-first, all options"])
    doc_figures.draw_rates(measured, tmp_path / "rates.png")
    assert_same_size(tmp_path / "rates.png")


def assert_same_size(drawn: Path) -> None:
    assert imread(drawn).shape == imread(doc_figures.FIGURES / drawn.name).shape


def test_every_picture_is_on_a_page() -> None:
    shown = {
        n for page in doc_figures.DOCS.glob("*.md") for n in re.findall(r"\]\(figures/([^)]+)\)", page.read_text())
    }
    assert shown == {p.name for p in doc_figures.FIGURES.iterdir()}


def test_the_pages_have_the_figures_of_the_results() -> None:
    """After a measurement: `python -m benchmarks.run --readme`."""
    for page, text in readme.rewritten(*results.read(results.FOLDER), results.FOLDER).items():
        assert page.read_text() == text, page


def test_every_marker_of_a_page_is_filled() -> None:
    known = {"pipeline", "rates", "attention", "routing", "failures"}
    known |= {"measured", "speed", "million", "recorded", "robustness", "coding", "coding-mean", "coding-options"}
    known |= {"grammar-cost", "ki", "training", "scaling-constants", "scaling-clusters", "scaling-overhead"}
    for page in (*readme.PAGES, *(doc_figures.DOCS / "api").glob("*.md")):
        text = page.read_text()
        for name in re.findall(r"<!-- ([\w-]+) -->", text):
            assert name in known, f"{page}: {name}"
            assert text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip(), f"{page}: {name}"
