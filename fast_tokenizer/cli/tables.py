"""Tables of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from fast_tokenizer.cli.workflow import EpisodeCounts
from fast_tokenizer.cutting import Cut
from fast_tokenizer.fitting import FitSummary
from fast_tokenizer.metrics import QualityReport
from fast_tokenizer.tokenizer import FastTokenizer

#: What decides how coefficients become tokens.
CODING = ("scale", "order", "end_of_block", "parsing", "dead_zone", "levels_beyond")


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A fitted tokenizer, and what it does on chunks; those of held-out episodes, where there are any."""

    tokenizer: FastTokenizer
    fit: FitSummary
    quality: QualityReport
    held_out: bool
    episodes: EpisodeCounts
    cut: Cut
    lengths: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        spec = self.tokenizer.spec
        return {
            "fingerprint": self.tokenizer.fingerprint(),
            "vocab_size": spec.vocab_size,
            "alphabet_size": spec.alphabet_size,
            "time_horizon": spec.time_horizon,
            "action_dim": spec.action_dim,
            **{name: getattr(spec, name) for name in CODING},
            "fit_chunks": self.fit.chunks,
            "fit_chunks_left_out": self.fit.chunks_left_out,
            "fit_saturated": self.fit.saturated,
            "fit_clipped": self.fit.clipped,
            "fit_spilled_bytes": self.fit.spilled_bytes,
            "fit_seconds": self.fit.seconds,
            "measured_on": "held-out episodes" if self.held_out else "fitted episodes",
            **self.episodes.to_json(),
            **self.cut.to_json(self.lengths),
            "relative": relative_pairs(self.tokenizer),
            **self.quality.to_json(),
        }


_ROWS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("chunk, steps x dims", lambda r: f"{r.tokenizer.spec.time_horizon} x {r.tokenizer.spec.action_dim}"),
    ("chunks fitted", lambda r: f"{r.fit.chunks:,}"),
    ("chunks measured", lambda r: f"{r.quality.chunks:,}"),
    ("symbols + merges", lambda r: f"{r.fit.alphabet_size}+{r.fit.merges}"),
    ("tokens a chunk, mean", lambda r: f"{r.quality.mean_token_length:.1f}"),
    ("  p50/p99/max", lambda r: _percentiles(r.quality)),
    ("naive binning / ours", lambda r: f"{r.quality.compression_ratio:.1f} x"),
    ("RMSE, normalised", lambda r: f"{r.quality.reconstruction_rmse:.4f}"),
    ("  max error", lambda r: f"{r.quality.reconstruction_max_abs_error:.3f}"),
    ("RMSE, raw units", lambda r: f"{r.quality.raw_rmse:.2g}"),
    ("  max error", lambda r: f"{r.quality.raw_max_abs_error:.2g}"),
    ("saturated coeffs", lambda r: f"{r.quality.saturated:,}"),
    ("values clipped", lambda r: f"{r.quality.clipped:,}"),
    ("fit, seconds", lambda r: f"{r.fit.seconds:.2f}"),
    ("encode, chunks / s", lambda r: f"{r.quality.chunks / r.quality.encode_seconds:,.0f}"),
    ("decode, chunks / s", lambda r: f"{r.quality.chunks / r.quality.decode_seconds:,.0f}"),
)


def result_table(results: Mapping[str, Result]) -> Table:
    """One column a result."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in results:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for label, cell in _ROWS:
        table.add_row(label, *(cell(r) for r in results.values()))
    return table


def _percentiles(q: QualityReport) -> str:
    return f"{q.p50_token_length:.0f}/{q.p99_token_length:.0f}/{q.max_token_length}"


def relative_pairs(tokenizer: FastTokenizer) -> list[dict[str, Any]] | None:
    """Each relative dimension and the column of the state that it is relative to; None where all are absolute."""
    spec = tokenizer.one_spec
    rule, names = spec.relative, spec.dimension_names
    if rule is None:
        return None
    return [
        {
            "dimension": d,
            "dimension_name": names and names[d],
            "state_column": column,
            "state_name": rule.state_names and rule.state_names[i],
        }
        for i, (d, column) in enumerate(zip(rule.dimensions, rule.state_columns, strict=True))
    ]


def relative_line(result: Result) -> str:
    """The same in words; empty where all are absolute."""

    def labelled(index: int, name: str | None) -> str:
        return str(index) if name is None else f"{index} ({name})"

    pairs = relative_pairs(result.tokenizer) or []
    return ", ".join(
        f"{labelled(p['dimension'], p['dimension_name'])} <- {labelled(p['state_column'], p['state_name'])}"
        for p in pairs
    )


def target_line(result: Result, rmse: list[float] | None) -> str:
    """Where the RMSE that was asked for is kept on what was measured, and where it is not."""
    if rmse is None:
        return ""
    got = result.quality.per_dimension_rmse
    asked = [float(t) for t in np.broadcast_to(rmse, len(got))]
    names = result.tokenizer.spec.dimension_names or [f"dimension {d}" for d in range(len(got))]
    missed = [f"{n} {g:.3g} of {t:g}" for n, g, t in zip(names, got, asked, strict=True) if g > t]
    where = "held-out" if result.held_out else "fitted"
    kept = f"Target RMSE kept in {len(got) - len(missed)} of {len(got)} dimensions on {where} episodes"
    return f"{kept}; missed: {', '.join(missed)}" if missed else kept
