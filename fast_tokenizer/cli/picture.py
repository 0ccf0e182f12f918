"""Small pictures for the terminal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from fast_tokenizer.layout import place
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_COLOURS = ("bright_cyan", "bright_magenta", "bright_green", "bright_yellow", "bright_blue", "bright_red")


def sparkline(values: NDArray[np.floating], low: float, high: float, *, ascii_only: bool = False) -> str:
    """One character a value, higher for larger ones between `low` and `high`."""
    bars = _ASCII_BARS if ascii_only else _BARS
    span = high - low or 1.0
    levels = np.clip((values - low) / span * (len(bars) - 1), 0, len(bars) - 1)
    return "".join(bars[round(float(level))] for level in levels)


def chunk_picture(tokenizer: FastTokenizer, chunk: NDArray[np.floating], *, ascii_only: bool = False) -> Text:
    """What became of one chunk: its liveliest dimension before and after, and which token covers which coefficient.

    Args:
        tokenizer: The tokenizer.
        chunk: (T, D), in the units that it takes.
        ascii_only: For a terminal that shows nothing else.
    """
    horizon, dims = chunk.shape
    tokens = tokenizer.encode(chunk[None])
    decoded = tokenizer.decode(tokens, horizon, dims)[0]
    moving = np.ptp(tokenizer.spec.normalizer.apply(chunk) if tokenizer.spec.normalizer else chunk, axis=0)
    d = int(moving.argmax())
    names = tokenizer.spec.dimension_names
    low, high = float(chunk[:, d].min()), float(chunk[:, d].max())
    text = Text()
    text.append(f"One chunk of {horizon} steps, dimension {names[d] if names else d}, from {low:.3g} to {high:.3g}:\n")
    text.append(f"  recorded  {sparkline(chunk[:, d], low, high, ascii_only=ascii_only)}\n")
    text.append("  decoded   ")
    text.append(sparkline(decoded[:, d], low, high, ascii_only=ascii_only), style="bright_green")
    text.append(f"\n  largest error {np.abs(decoded[:, d] - chunk[:, d]).max():.2g}\n\n")
    text.append(
        f"Its {horizon} x {dims} = {chunk.size} coefficients in {len(tokens.ids)} tokens\n"
        "(row: dimension, column: frequency, colour: token, # is not zero):\n"
    )
    text.append_text(_coverage(tokenizer, tokens[0], horizon, dims, "." if ascii_only else "·"))
    return text


def _coverage(tokenizer: FastTokenizer, ids: NDArray[np.int32], horizon: int, dims: int, zero: str) -> Text:
    """The coefficient matrix, each cell in the colour of the token that covers it."""
    assert isinstance(tokenizer.spec, TokenizerSpec)
    placed = place(tokenizer.symbols(ids), tokenizer.spec, horizon, dims)
    owner = np.repeat(np.arange(len(ids)), tokenizer.expansion_lengths[ids])[placed.symbol]
    nonzero = placed.coefficients != 0
    text = Text()
    for d in range(dims):
        text.append("  ")
        for k in range(horizon):
            text.append("#" if nonzero[k, d] else zero, style=_COLOURS[owner[k, d] % len(_COLOURS)])
        text.append("\n")
    return text
