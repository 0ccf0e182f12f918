"""What is each coding option worth? `python -m benchmarks.coding [--output FILE]`.

Vocabularies of 1,024 ids are fitted on four fifths of the episodes of each recorded set and measured on the others, at
the same error: without a dead zone all have the coefficients of scale 10, and with one the scale is raised until the
error on the chunks fitted on is that of scale 10 again (the held-out error is printed too). The published fit is our
exact one (`fit(compat="published")`, whose merges the tests hold against the published code). Entropies are those of
`fast_tokenizer.entropy`, over log2(1,024) bits: estimates by models, no bounds on what another model could do.

The second table is of vocabularies of 2,048 ids for any robot, on sets that they were not fitted on: FAST+, and what
`scripts/fit_default.py` fits on all sets but the one that is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from rich.progress import track

from benchmarks import recorded
from benchmarks.report import Table
from benchmarks.robustness import FAST_PLUS, count, measured
from fast_tokenizer import FastTokenizer
from fast_tokenizer.entropy import entropy_bounds
from fast_tokenizer.io import read
from scripts import fit_default

VOCAB_SIZE, SCALE, DEAD_ZONE = 1024, 10.0, 0.65
PUBLISHED = "published fit"
#: By name; the first is what `fit` does when it is told nothing.
CODINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no end of block": {"end_of_block": None},
    "+ optimal parsing": {"parsing": "optimal"},
    "+ dead zone": {"dead_zone": DEAD_ZONE},
    "dimension-first": {"order": "dimension-first", "end_of_block": None},
    "dimension-first, end per dimension": {"order": "dimension-first", "end_of_block": "dimension"},
    "the same + optimal parsing": {
        "order": "dimension-first",
        "end_of_block": "dimension",
        "parsing": "optimal",
    },
    "all options": {
        "order": "dimension-first",
        "end_of_block": "dimension",
        "parsing": "optimal",
        "dead_zone": DEAD_ZONE,
    },
}

Chunks = NDArray[np.float64]


def chunks_of(path: Path, most_fitted: int, most_held: int) -> tuple[Chunks, Chunks]:
    """Normalised chunks to fit on, and held out."""
    split = recorded.split(read(path))
    rng = np.random.default_rng(0)
    fitted, held = (split.normalizer.apply(np.concatenate(list(part()))) for part in (split.fitted, split.held))
    return fitted[rng.permutation(len(fitted))[:most_fitted]], held[rng.permutation(len(held))[:most_held]]


def rmse(chunks: Chunks, scale: float, dead_zone: float) -> float:
    """Of rounding alone."""
    scaled = scipy.fft.dct(chunks, axis=1, norm="ortho") * scale
    quantized = np.where(np.abs(scaled) < dead_zone, 0, np.rint(scaled))
    return float(np.sqrt(np.square(quantized - scaled).mean()) / scale)


def scale_of_equal_error(chunks: Chunks, dead_zone: float) -> float:
    """The scale at which a dead zone has the error that plain rounding has at `SCALE`."""
    allowed, low, high = rmse(chunks, SCALE, 0.5), SCALE, 2 * SCALE
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (low, middle) if rmse(chunks, middle, dead_zone) <= allowed else (middle, high)
    return high


def one_set(fitted: Chunks, held: Chunks) -> Iterator[tuple[str, float, float, float]]:
    """Name, tokens a chunk, RMSE and largest error of each."""
    scale = scale_of_equal_error(fitted, DEAD_ZONE)

    def entry(name: str, tokenizer: FastTokenizer) -> tuple[str, float, float, float]:
        tokens = tokenizer.encode(held)
        error = tokenizer.decode_with_status(tokens, *held.shape[1:])[0] - held
        return name, float(tokens.lengths.mean()), float(np.sqrt(np.square(error).mean())), float(np.abs(error).max())

    yield entry(PUBLISHED, FastTokenizer.fit(fitted, VOCAB_SIZE, SCALE, compat="published"))
    for name, coding in CODINGS.items():
        at = scale if "dead_zone" in coding else SCALE
        yield entry(name, FastTokenizer.fit(fitted, VOCAB_SIZE, at, **coding))


def bounds(fitted: Chunks, held: Chunks) -> list[float]:
    """Tokens a chunk that the entropy models allow."""
    train, measured_on = (
        np.rint(scipy.fft.dct(c, axis=1, norm="ortho") * SCALE).astype(np.int64) for c in (fitted[:3000], held[:500])
    )
    tokens = entropy_bounds(train, measured_on).tokens(VOCAB_SIZE)
    return [tokens.order_0, tokens.per_place, tokens.context]


def own_vocabularies(most_fitted: int, most_held: int) -> list[Table]:
    """The first table: tokens by set and option; and the errors."""
    names = [PUBLISHED, *CODINGS]
    lines, errors, changes = [], [], []
    for name, path in track(recorded.sets().items(), "vocabularies of 1,024"):
        fitted, held = chunks_of(path, most_fitted, most_held)
        rows = {row[0]: row[1:] for row in one_set(fitted, held)}
        tokens = np.array([rows[n][0] for n in names])
        changes.append(tokens / tokens[0] - 1)
        cells = [
            f"{t:.1f} ({c:+.1%})" if i else f"{t:.1f}" for i, (t, c) in enumerate(zip(tokens, changes[-1], strict=True))
        ]
        lines.append([name, *cells, *(f"{b:.1f}" for b in bounds(fitted, held))])
        errors.append(
            [
                name,
                *(
                    f"{rows[n][1]:.4f} / {rows[n][2]:.3f}"
                    for n in (PUBLISHED, "defaults", "+ dead zone", "all options")
                ),
            ]
        )
    mean = np.mean(changes, axis=0)
    lines.append(["mean change", *["" if i == 0 else f"{c:+.1%}" for i, c in enumerate(mean)], "", "", ""])
    note = (
        f"Tokens a chunk of one second, held-out episodes, {VOCAB_SIZE:,} ids, at equal error (second table); in "
        "brackets against the published fit. Entropies: what an ideal code over as many ids needs that knows how often "
        "each coefficient occurs (order 0), the same by frequency and dimension, or an adaptive model of its "
        "neighbours.\n\n"
        f"{measured()}"
    )
    header = ["recorded set", *names, "entropy: order 0", "entropy: per place", "entropy: context model"]
    return [
        Table("What each coding option is worth", note, header, lines, left=1),
        Table(
            "Errors at which that is",
            "RMSE / largest error, normalised, on the held-out chunks.",
            ["recorded set", PUBLISHED, "defaults", "+ dead zone", "all options"],
            errors,
            left=1,
        ),
    ]


def universal(most_held: int) -> Table:
    """The second table."""
    sources = list(fit_default.sources(recorded.SHARED))
    fast_plus = FastTokenizer.from_pretrained(FAST_PLUS)
    lines, changes = [], []
    for name, path in track(recorded.sets().items(), "universal vocabularies"):
        _, held = chunks_of(path, 1, most_held)
        others = [source for source in sources if source[0] != name]
        tokenizers = [fast_plus, *(FastTokenizer(fit_default.fit(others, order)) for order in fit_default.CODINGS)]
        batches = [tokenizer.encode(held) for tokenizer in tokenizers]
        tokens = np.array([batch.lengths.mean() for batch in batches])
        errors = [
            float(np.sqrt(np.square(tokenizer.decode_with_status(batch, *held.shape[1:])[0] - held).mean()))
            for tokenizer, batch in zip(tokenizers, batches, strict=True)
        ]
        changes.append(tokens[1:] / tokens[0] - 1)
        cells = [f"{t:.1f} ({c:+.1%})" for t, c in zip(tokens[1:], changes[-1], strict=True)]
        lines.append([name, f"{tokens[0]:.1f}", *cells, " / ".join(f"{e:.4f}" for e in errors)])
    lines.append(["mean change", "", *(f"{c:+.1%}" for c in np.mean(changes, axis=0)), ""])
    note = "Tokens a chunk at scale 10, vocabularies of 2,048 ids, on sets that none of them was fitted on."
    header = ["recorded set", "FAST+", *fit_default.CODINGS, "RMSE of each"]
    return Table("Vocabularies for any robot", note, header, lines, left=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables as Markdown, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--fitted", type=count, default=recorded.MAX_CHUNKS, help="chunks of a set to fit on, at most")
    parser.add_argument("--held", type=count, default=4000, help="held-out chunks of a set, at most")
    given = parser.parse_args(arguments)
    recorded.require()
    tables = [*own_vocabularies(given.fitted, given.held), universal(given.held)]
    text = "\n".join(table.markdown() for table in tables)
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
