"""The figures of docs/index.md and docs/options.md, and the tables beside them: `python -m scripts.doc_figures`.

All data are generated and seeded; tests/test_doc_figures.py takes the numbers anew and holds the tables against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from scipy.fft import dct

from benchmarks.readme import replace_between
from benchmarks.report import markdown_table
from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec, windows
from fast_tokenizer.layout import place
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.report.picture import style
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

mpl.use("Agg")

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "figures"
#: Frequencies that the matrices show, of all T.
SHOWN = 16

# ---- One chunk on its way ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One chunk at each stage.

    Attributes:
        names: D dimension names.
        chunk: (T, D), normalised.
        coefficients: (T, D) orthonormal DCT-II along T, times the scale.
        quantized: (T, D), integers.
        token: (T, D), number of the token that says each coefficient; -1 where the end of the chunk does.
        ids: The token ids.
        decoded: (T, D).
    """

    names: tuple[str, ...]
    chunk: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    quantized: NDArray[np.int32]
    token: NDArray[np.int64]
    ids: NDArray[np.int32]
    decoded: NDArray[np.float64]


def way_of_a_chunk() -> Way:
    """One second of the left arm of a generated two-armed robot, by the bundled tokenizer."""
    robot = ROBOTS["aloha"]
    actions = generate_trajectories(robot, 1, seed=11, seconds=(8.0, 8.0))[0][:, :7].astype(np.float64)
    chunk = Normalizer.fit(actions, "quantile").apply(actions)[100:150]
    tok = FastTokenizer.default()
    spec = tok.spec
    assert isinstance(spec, TokenizerSpec)
    batch = tok.encode(chunk[None])
    ids = batch[0]
    symbols = tok.symbols(ids)
    placed = place(symbols, spec, *chunk.shape)
    token = np.repeat(np.arange(len(ids)), tok.expansion_lengths[ids])[placed.symbol]
    token[symbols[placed.symbol] == spec.end_symbol] = -1
    return Way(
        tuple(name.removeprefix("left_") for name in robot.dimension_names[:7]),
        chunk,
        dct(chunk, axis=0, norm="ortho") * spec.scales[0],
        placed.coefficients,
        token,
        ids,
        tok.decode(batch, *chunk.shape)[0],
    )


def pipeline_table(way: Way) -> str:
    """What is left at each stage."""
    rows = [
        ["chunk: steps x dimensions", f"{way.chunk.shape[0]} x {way.chunk.shape[1]} = {way.chunk.size} values"],
        ["coefficients that are not 0 after rounding", str(np.count_nonzero(way.quantized))],
        ["coefficients before the end of the chunk, which is a symbol", str((way.token >= 0).sum())],
        ["tokens", str(len(way.ids))],
        ["RMSE after decoding, normalised", f"{np.sqrt(np.mean((way.decoded - way.chunk) ** 2)):.4f}"],
    ]
    return markdown_table(["stage", "one second of an arm"], rows)


def draw_pipeline(way: Way, path: Path) -> None:
    """Four panels, one a stage."""
    with style():
        figure, ((curves, waves), (integers, tokens)) = plt.subplots(2, 2, figsize=(12, 7.2))
        colours = mpl.colormaps["tab10"].colors
        for d in range(len(way.names)):
            curves.plot(way.chunk[:, d], color=colours[d], linewidth=1.6)
            curves.plot(way.decoded[:, d], color="black", linewidth=0.9, linestyle=(0, (2, 2)))
        curves.plot([], [], color="black", linewidth=0.9, linestyle=(0, (2, 2)), label="decoded")
        curves.set(xlabel="step", ylabel="normalised action", title="1. A chunk, one curve a dimension")
        curves.legend(loc="upper center")
        shown = way.coefficients[:SHOWN].T
        image = waves.imshow(shown, cmap="RdBu_r", norm=mpl.colors.SymLogNorm(0.5, vmin=-60, vmax=60), aspect="auto")
        waves.set_title("2. Cosines along time, slow to fast, times 10")
        figure.colorbar(image, ax=waves, ticks=[-30, -5, 0, 5, 30], format="%d", label="coefficient")
        rounded = way.quantized[:SHOWN].T
        integers.imshow(rounded != 0, cmap=ListedColormap(["#f4f5f7", "#cfe3f5"]), aspect="auto", vmin=0, vmax=1)
        for (d, k), value in np.ndenumerate(rounded):
            integers.text(k, d, str(value), ha="center", va="center", color="#9aa3ad" if value == 0 else "black")
        integers.set_title("3. Rounded: most of the fast ones are 0")
        _draw_tokens(tokens, way)
        for panel in (waves, integers, tokens):
            panel.grid(visible=False)
            panel.set_yticks(range(len(way.names)), way.names)
            for label, colour in zip(panel.get_yticklabels(), colours, strict=False):
                label.set_color(colour)
            panel.set_xticks(range(SHOWN))
            panel.set_xlabel(f"frequency, the first {SHOWN} of {len(way.chunk)}")
        figure.savefig(path, dpi=110, facecolor="white", transparent=False, metadata={"Software": None})
        plt.close(figure)


def _draw_tokens(panel: Axes, way: Way) -> None:
    """Cells in the colour of their token, its number in its first cell: column by column, as they are read."""
    token = way.token[:SHOWN].T
    pastel = np.array(mpl.colormaps["Set3"].colors)
    colours = pastel[token % len(pastel)]
    colours[token < 0] = 0.96
    panel.imshow(colours, aspect="auto")
    seen: set[int] = set()
    for k in range(token.shape[1]):
        for d in range(token.shape[0]):
            if (number := int(token[d, k])) not in seen and number >= 0:
                seen.add(number)
                panel.text(k, d, str(number + 1), ha="center", va="center")
    panel.set_title(f"4. Read column by column, merged: {len(way.ids)} tokens")


# ---- Tokens against error ----------------------------------------------------------------------------------------

SCALES = (2.5, 5.0, 10.0, 20.0, 40.0)
#: What is compared: options of `fit`, colour and marker.
FITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "published fit": ({"compat": "published"}, "#8a939e", "s"),
    "defaults": ({}, "#1f6fb4", "o"),
    "dimension-first, all options": (
        {"order": "dimension-first", "end_of_block": "dimension", "parsing": "optimal", "dead_zone": 0.65},
        "#d1495b",
        "^",
    ),
}


@dataclass(frozen=True)
class Rate:
    """One point: scale, tokens a chunk in the mean, normalised RMSE, coefficients that got no ids; held out."""

    scale: float
    tokens: float
    rmse: float
    dropped: int


def rates() -> dict[str, list[Rate]]:
    """Measured on generated episodes that were not fitted on."""
    episodes = generate_trajectories(ROBOTS["aloha"], 40, seed=2)
    normalizer = Normalizer.fit(np.concatenate(episodes[8:]), "quantile")
    held, fitted = (
        np.concatenate([windows(normalizer.apply(e), 50, 10) for e in part]) for part in (episodes[:8], episodes[8:])
    )
    found: dict[str, list[Rate]] = {}
    for name, (options, *_) in FITS.items():
        for scale in SCALES:
            quality = evaluate(FastTokenizer.fit(fitted, 1024, scale, **options), [held])
            point = Rate(scale, quality.mean_token_length, quality.reconstruction_rmse, quality.dropped)
            found.setdefault(name, []).append(point)
    return found


def rates_table(measured: dict[str, list[Rate]]) -> str:
    """A row a scale; tokens and RMSE of each fit."""
    rows = [
        [f"{scale:g}", *(f"{points[i].tokens:.1f} / {points[i].rmse:.4f}" for points in measured.values())]
        for i, scale in enumerate(SCALES)
    ]
    return markdown_table(["scale: tokens / RMSE", *measured], rows)


def draw_rates(measured: dict[str, list[Rate]], path: Path) -> None:
    """Tokens over error; each point has its scale."""
    with style():
        figure, panel = plt.subplots(figsize=(8, 4.4))
        for name, points in measured.items():
            _, colour, marker = FITS[name]
            panel.plot([p.rmse for p in points], [p.tokens for p in points], color=colour, marker=marker, label=name)
        for p in measured["published fit"]:
            lost = f": {p.dropped} coefficients dropped" if p.dropped else ""
            panel.annotate(
                f"scale {p.scale:g}{lost}",
                (p.rmse, p.tokens),
                (6, 6),
                textcoords="offset points",
                fontsize=9,
                color="#5a636e",
            )
        panel.set(xscale="log", xlabel="RMSE, normalised (left is better)", ylabel="tokens a chunk of 50 x 14")
        panel.set_ylim(bottom=0)
        ticks = [0.005, 0.01, 0.02, 0.05]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        panel.legend()
        figure.savefig(path, dpi=110, facecolor="white", transparent=False, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    """Writes the figures, and the tables into their pages."""
    FIGURES.mkdir(exist_ok=True)
    way, measured = way_of_a_chunk(), rates()
    draw_pipeline(way, FIGURES / "pipeline.png")
    draw_rates(measured, FIGURES / "rates.png")
    for page, name, table in (
        ("index.md", "pipeline", pipeline_table(way)),
        ("options.md", "rates", rates_table(measured)),
    ):
        (DOCS / page).write_text(replace_between((DOCS / page).read_text(), name, table))


if __name__ == "__main__":
    main()
