"""One figure of a page: how all of them look, and how matplotlib's SVG becomes an element that belongs there."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

#: What the page replaces by its own colours, light or dark.
INK, RULE = "#1c2128", "#dfe3e8"

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fast_tokenizer",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Attributes:
        name: Of its file and of its place in the page.
        title: What it shows.
        svg: It, for a page whose CSS says what --ink and --rule are.
        figure: It, laid out.
    """

    name: str
    title: str
    svg: str
    figure: Figure

    def png(self) -> bytes:
        """It, on white."""
        buffer = io.BytesIO()
        with style():
            self.figure.savefig(
                buffer, format="png", dpi=160, transparent=False, facecolor="white", metadata={"Software": None}
            )
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """The same pictures whatever the user's own settings are."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a name: in the page, the browser's fonts have it
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def as_element(figure: Figure, name: str) -> str:
    """A figure as SVG, an element of a page: ids of its own, fonts and colours of the page, as wide as its place."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    return svg.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")
