"""The page of a report: as a file, and in a browser without a network."""

import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest

from fast_tokenizer import FastTokenizer
from fast_tokenizer.report import Pipeline, Sample, measure
from fast_tokenizer.report.figures import draw, save_pngs
from fast_tokenizer.report.page import render
from tests.browser import Browser

NASTY = "<script>alert('$x$')</script>&"
SECTIONS = [
    "rate-distortion",
    "energy",
    "tokens",
    "usage",
    "entropy",
    "reconstruction",
    "dimensions",
    "prefix",
    "losses",
    "edits",
]


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(0)
    chunks = np.cumsum(rng.normal(0, 0.1, (400, 25, 9)), axis=1)
    tok = FastTokenizer.fit(chunks[:300] * 0.5, 256, normalize="quantile", clip=4.0)
    names = [NASTY, "関節", *(f"a joint with quite a long name {d}" for d in range(2, 9))]
    held, fitted = Sample.of_chunks(chunks[300:]), Sample.of_chunks(chunks[:300])
    measured = measure(Pipeline(tok), held, fitted, measured_on="held-out episodes", hz=25.0, dimension_names=names)
    assert measured.reconstruction.headline.saturated  # so that every figure is drawn
    return measured


@pytest.fixture(scope="module")
def pictures_and_page(numbers):
    pictures = draw(numbers)
    return pictures, render(numbers, pictures, title=f"tokenizer on {NASTY}", notes=[f"left out: {NASTY}"])


class Outline(HTMLParser):
    """Tags and ids of a page; fails on tags that do not match."""

    VOID = ("meta", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.open, self.references = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attributes, counted=True)

    def handle_startendtag(self, tag, attributes, counted=False):
        if not counted:
            self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.references.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# ---- As a file ---------------------------------------------------------------------------------------


def test_the_page_refers_to_nothing_outside_and_its_ids_are_its_own(pictures_and_page):
    _, page = pictures_and_page
    outline = Outline(page)
    assert "script" not in outline.tags
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(SECTIONS) <= set(outline.ids)
    for reference in outline.references:
        assert reference == "data:," or reference.removeprefix("#") in outline.ids, reference
    for reference in re.findall(r"url\(([^)]*)\)", page):
        assert reference.removeprefix("#") in outline.ids, reference
    assert not re.search(r"@import|https?:(?!//www\.w3\.org/)", page)


def test_names_are_shown_as_they_are(pictures_and_page):
    _, page = pictures_and_page
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#x27;$x$&#x27;)&lt;/script&gt;&amp;") >= 3  # title, note, table
    assert "関節" in page


def test_every_figure_is_there_in_the_page_s_colours_and_as_png(pictures_and_page, tmp_path):
    pictures, page = pictures_and_page
    assert len(pictures) == 14
    files = save_pngs(pictures, tmp_path / "new" / "figures")
    assert [f.stem for f in files] == list(pictures)
    for file, picture in zip(files, pictures.values(), strict=True):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert picture.svg in page
        assert f'id="figure-{picture.name}"' in page
        assert "var(--ink)" in picture.svg
        assert "DejaVu" not in picture.svg


def test_figures_do_not_depend_on_the_user_s_settings(numbers, pictures_and_page):
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        again = draw(numbers)
        assert mpl.rcParams["font.size"] == 30
    assert {name: p.svg for name, p in again.items()} == {name: p.svg for name, p in pictures_and_page[0].items()}


def test_each_section_says_how_to_read_it(pictures_and_page):
    _, page = pictures_and_page
    for section in SECTIONS:
        assert re.search(rf'<section id="{section}">\n<h2>[^<]+</h2>\n<p class="how">[^<]{{60,}}</p>', page), section


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 12, 2)], ids=str)
def test_small_and_motionless_data_have_a_page(shape):
    chunks = np.full(shape, 2.0)
    sample = Sample.of_chunks(chunks)
    tok = FastTokenizer.fit(chunks, 4, normalize="quantile")
    numbers = measure(Pipeline(tok), sample, sample, measured_on="given episodes")
    page = render(numbers, draw(numbers), title="still")
    Outline(page)
    assert "measured on the chunks they were fitted on" in page


def test_the_page_warns_of_actions_that_should_have_been_normalised():
    chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (9, 5, 2)), axis=1)
    for factor, warned in ((1.0, False), (100.0, True)):
        sample = Sample.of_chunks(chunks * factor)
        numbers = measure(Pipeline(FastTokenizer.default()), sample, sample, measured_on="given episodes")
        assert ("normalise them (--normalize)" in render(numbers, {}, title="raw")) == warned


# ---- In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page_file(pictures_and_page, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(pictures_and_page[1], encoding="utf-8")
    return file


def test_the_browser_notices_what_the_page_must_not_do(browser, tmp_path):
    """The next test can fail."""
    file = tmp_path / "bad.html"
    file.write_text('<img src="http://192.0.2.1/x.png"><div style="width:3000px">x</div><script>nothing()</script>')
    browser.open(file, 375, 800)
    assert "http://192.0.2.1/x.png" in browser.requests
    assert any("nothing is not defined" in c for c in browser.complaints)
    assert any("ERR_INTERNET_DISCONNECTED" in c for c in browser.complaints)
    assert browser.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 375])
def test_the_page_is_whole_in_a_browser(browser, page_file, width, dark, pictures_and_page):
    browser.open(page_file, width, 900, dark=dark)
    assert [r for r in browser.requests if r != "data:,"] == [page_file.resolve().as_uri()]
    assert browser.complaints == []
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    boxes = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => {"
        "const b = s.getBoundingClientRect(), g = s.getBBox(); return [b.left, b.right, b.height, g.width, g.height]})"
    )
    assert len(boxes) == len(pictures_and_page[0])
    for left, right, height, drawn_width, drawn_height in boxes:
        assert 0 <= left < right <= width
        assert right - left > 300
        assert height > 100
        assert min(drawn_width, drawn_height) > 50
    # Of the page's colours: text on paper, and the same in the figures.
    ink, paper, label = browser.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor,"
        "getComputedStyle(document.querySelector('figure svg text')).fill]"
    )
    assert ink == label != paper
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert (brightness < 60) == dark
    assert (brightness > 220) == (not dark)


def test_text_of_figures_stays_inside_them(browser, page_file):
    """System fonts are not those that matplotlib measured with."""
    browser.open(page_file, 1280, 900)
    outside = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].flatMap(s => {const f = s.getBoundingClientRect();"
        "return [...s.querySelectorAll('text')].filter(t => {const b = t.getBoundingClientRect();"
        "return b.left < f.left - 3 || b.right > f.right + 3 || b.top < f.top - 3 || b.bottom > f.bottom + 3})"
        ".map(t => t.textContent)})"
    )
    assert outside == []
