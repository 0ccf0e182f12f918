"""How good are the actions after the first tokens? `python -m benchmarks.prefix [--output FILE] [--picture FILE]`.

Held-out chunks of each recorded set, normalised and clipped to [-1, 1] as the published pipelines do, through FAST+ and
through a native vocabulary of as many ids that is fitted on the set's other episodes. Errors are root mean squares and
maxima over all values of all chunks against the clipped actions, after a share of each chunk's own tokens; the picture
has them after each token, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import recorded
from benchmarks.report import Table, significant
from benchmarks.robustness import FAST_PLUS, count, held_out, measured
from fast_tokenizer import FastTokenizer
from fast_tokenizer.prefix import FRACTIONS, PrefixErrors, prefix_errors

SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)

#: By set and vocabulary.
Curves = Mapping[tuple[str, str], PrefixErrors]


def measure(most_fitted: int, most_held: int) -> dict[tuple[str, str], PrefixErrors]:
    """The curves of every set."""
    fast_plus = FastTokenizer.from_pretrained(FAST_PLUS)
    curves = {}
    for name, path in recorded.sets().items():
        fitted, held = held_out(path, most_fitted, most_held)
        for vocabulary, tokenizer in (
            ("FAST+", fast_plus),
            ("native", FastTokenizer.fit(fitted, fast_plus.vocab_size)),
        ):
            curves[name, vocabulary] = prefix_errors(tokenizer, [held])
    return curves


def table(curves: Curves) -> Table:
    """RMSE and largest error after shares of the tokens."""
    places = [FRACTIONS.index(share) for share in SHOWN]
    lines = []
    for (name, vocabulary), errors in curves.items():
        curve = errors.by_fraction
        cells = [
            f"{significant(float(curve.actions_rmse[i]))} ({significant(float(curve.actions_max_abs_error[i]))})"
            for i in places
        ]
        lines.append([name, vocabulary, f"{errors.lengths.mean():.1f}", *cells])
    header = ["recorded set", "vocabulary", "tokens", *(f"{share:.0%}" for share in SHOWN)]
    note = (
        "RMSE, and in brackets the largest error, in normalised units, after that share of a chunk's tokens; actions "
        f"are clipped to [-1, 1] first.\n\n{measured()}"
    )
    return Table("Actions from the first tokens", note, header, lines, left=2)


def draw(curves: Curves, file: Path) -> None:
    """A panel a set: RMSE against tokens."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for name, _ in curves))
    columns = min(4, len(names))
    figure, panels = plt.subplots(
        int(np.ceil(len(names) / columns)), columns, figsize=(4 * columns, 6), squeeze=False, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        for vocabulary in ("FAST+", "native"):
            curve = curves[name, vocabulary].by_tokens
            (line,) = panel.plot(curve.at, curve.actions_rmse, label=f"{vocabulary}, to the actions")
            panel.plot(curve.at, curve.decoded_rmse, "--", color=line.get_color(), label=f"{vocabulary}, to the whole")
        panel.set(title=name, xlabel="tokens read", ylabel="RMSE, normalised", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels.flat[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown, writes it, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    parser.add_argument("--fitted", type=count, default=4000, help="chunks of a set to fit on, at most")
    parser.add_argument("--held", type=count, default=200, help="held-out chunks of a set, at most")
    given = parser.parse_args(arguments)
    recorded.require()
    curves = measure(given.fitted, given.held)
    text = table(curves).markdown()
    print(text)
    if given.output:
        given.output.write_text(text)
    if given.picture:
        draw(curves, given.picture)


if __name__ == "__main__":
    main()
