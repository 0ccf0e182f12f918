"""The quality report: what a tokenizer does to a recording, as numbers, figures and one self-contained page.

`measure` takes the numbers, `figures.draw` draws them (with matplotlib, extra `report`), `page.render` writes the page.
"""

from __future__ import annotations

from fast_tokenizer.report.numbers import ReportNumbers, measure
from fast_tokenizer.report.pipeline import Pipeline
from fast_tokenizer.report.sample import Sample, draw_sample

__all__ = ["Pipeline", "ReportNumbers", "Sample", "draw_sample", "measure"]
