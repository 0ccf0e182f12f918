"""Parts of a page: sections, figures, tables, and numbers as they are written. What they are given is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from fast_tokenizer.report.picture import Picture


def section(anchor: str, title: str, how: str, content: str) -> str:
    """A section of HTML content under its title and one sentence on how to read it."""
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n<p class="how">{escape(how)}</p>\n{content}\n</section>'


def figures(
    pictures: Mapping[str, Picture], *names: str, beside: str = "", captions: Mapping[str, str] | None = None
) -> str:
    """Those of the names that were drawn, and what stands beside them where there is room."""
    shown = [pictures[name] for name in names if name in pictures]
    if not shown:
        return beside
    captions = captions or {}
    parts = (
        f'<figure id="figure-{p.name}"><figcaption><b>{escape(p.title)}</b>'
        f"{'. ' + escape(captions[p.name]) if p.name in captions else ''}</figcaption>\n{p.svg}</figure>"
        for p in shown
    )
    beside = f"<div>{beside}</div>" if beside else ""
    return f'<div class="figures">{"".join(parts)}{beside}</div>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text, which scrolls by itself where it is wider than the page."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>\n'


def details(summary: str, content: str) -> str:
    """HTML content that is folded away."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"


def number(value: float | None) -> str:
    """Three significant digits; a dash where there is nothing to measure."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.2e}"


def seconds(value: float) -> str:
    """Three significant digits of a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def scale(scale: float | tuple[float, ...]) -> str:
    """A tokenizer's scale."""
    return f"{scale:g}" if isinstance(scale, float) else f"per dimension, {min(scale):g} to {max(scale):g}"
