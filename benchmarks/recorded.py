"""How many tokens do recorded trajectories need, and what is lost? `python -m benchmarks.recorded`.

Each recorded set is fitted on 80 % of its episodes with the defaults (one-second chunks, quantile normalisation, scale
10, 1,024 ids) and measured on the others. Before anything is printed the round trip is asserted to be exact there. The
bundled default tokenizer, whose fit has seen these sets, stands beside as a yardstick for a vocabulary of 2,048.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fast_tokenizer import FastTokenizer, Normalizer
from fast_tokenizer.cli.workflow import iterate_windows, split_holdout
from fast_tokenizer.io import Dataset, read
from fast_tokenizer.metrics import QualityReport, evaluate

SHARED = Path(os.environ.get("FAST_TOKENIZER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
#: Windows taken of a set, at most: enough for stable figures in seconds.
MAX_CHUNKS = 40_000
COLUMNS = (
    *("set", "T x D", "chunks", "tokens", "p99", "max", "vs naive", "RMSE", "max error", "raw RMSE", "raw max"),
    *("saturated", "fit s", "default's tokens"),
)


def recorded_sets(shared: Path = SHARED) -> Iterator[tuple[str, Dataset]]:
    """Name and trajectories of each recorded set, by name."""
    for path in sorted((shared / "data" / "trajectories").glob("*/episodes.npz")):
        yield path.parent.name, read(path)


def fit_and_hold_out(dataset: Dataset) -> tuple[FastTokenizer, list[NDArray[np.floating]]]:
    """A tokenizer fitted on 80 % of the episodes, and the chunks (N_i, T, D) of the others."""
    assert dataset.hz is not None
    horizon = round(dataset.hz)
    windows = sum(max(0, len(t.actions) - horizon + 1) for t in dataset.trajectories)
    stride = max(1, round(windows / MAX_CHUNKS))
    fitted, held = split_holdout(dataset.trajectories, 0.2)
    normalizer = Normalizer.fit(np.concatenate([t.actions for t in fitted]), "quantile")
    tokenizer = FastTokenizer.fit(iterate_windows(fitted, horizon, stride), normalize=normalizer, hz=dataset.hz)
    return tokenizer, list(iterate_windows(held, horizon, stride))


def assert_exact_round_trip(tokenizer: FastTokenizer, chunks: list[NDArray[np.floating]]) -> None:
    """decode(encode(x)) is the quantized x: it has the same coefficients, and the same ids when encoded again."""
    for block in chunks:
        tokens = tokenizer.encode(block)
        again = tokenizer.encode(tokenizer.decode(tokens))
        if not (np.array_equal(tokens.ids, again.ids) and np.array_equal(tokens.offsets, again.offsets)):
            raise AssertionError("encode(decode(ids)) differs from ids")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", action="store_true", help="print the README's table instead")
    arguments = parser.parse_args()
    default = FastTokenizer.default()
    table = Table(title="Held-out episodes, one-second chunks, scale 10, 1,024 ids", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "set" else "right", no_wrap=True)
    figures: dict[str, dict[str, Any]] = {}
    for name, dataset in recorded_sets():
        tokenizer, held = fit_and_hold_out(dataset)
        assert_exact_round_trip(tokenizer, held)
        quality = evaluate(tokenizer, held)
        normalizer = tokenizer.spec.normalizer
        assert normalizer is not None
        assert tokenizer.fit_summary is not None
        with_default = evaluate(default, (normalizer.apply(block) for block in held))
        table.add_row(*_row(name, tokenizer, quality, with_default))
        figures[name] = {
            "shape": f"{tokenizer.spec.time_horizon} x {tokenizer.spec.action_dim}",
            "fit_chunks": tokenizer.fit_summary.chunks,
            "fit_seconds": tokenizer.fit_summary.seconds,
            **quality.to_json(),
            "default_mean_token_length": with_default.mean_token_length,
            "default_reconstruction_rmse": with_default.reconstruction_rmse,
        }
    if arguments.markdown:
        print(_markdown(figures))
    else:
        Console(width=160).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))


def _row(name: str, tokenizer: FastTokenizer, q: QualityReport, with_default: QualityReport) -> list[str]:
    assert tokenizer.fit_summary is not None
    return [
        name,
        f"{tokenizer.spec.time_horizon} x {tokenizer.spec.action_dim}",
        f"{q.chunks:,}",
        f"{q.mean_token_length:.1f}",
        f"{q.p99_token_length:.0f}",
        str(q.max_token_length),
        f"{q.compression_ratio:.1f} x",
        f"{q.reconstruction_rmse:.4f}",
        f"{q.reconstruction_max_abs_error:.3f}",
        f"{q.raw_rmse:.2g}",
        f"{q.raw_max_abs_error:.2g}",
        f"{q.saturated:,}",
        f"{tokenizer.fit_summary.seconds:.2f}",
        f"{with_default.mean_token_length:.1f}",
    ]


def _markdown(figures: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| recorded set | chunk | tokens, mean / p99 | fewer than naive | RMSE | RMSE, raw units | saturated |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in figures.items():
        share = f["saturated"] / (f["chunks"] * f["compression_ratio"] * f["mean_token_length"])
        lines.append(
            f"| {name} | {f['shape']} | {f['mean_token_length']:.1f} / {f['p99_token_length']:.0f} "
            f"| {f['compression_ratio']:.1f} x | {f['reconstruction_rmse']:.4f} | {f['raw_rmse']:.2g} | {share:.3%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
