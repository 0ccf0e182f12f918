"""What becomes of a chunk when one of its ids is wrong? `python -m benchmarks.robustness [--output FILE]`.

Chunks of recorded sets, normalised, of episodes that nothing was fitted on, are encoded and then harmed once: one id
replaced by another, one put in, one taken out, or the tail cut off, each at a random place, with random ids (seeded).
Of every decoder:

- accepted: the share of sequences that it takes for well-formed;
- zeros: the share that comes back as zeros, in place of actions;
- worst |action|: the largest value of all that is returned (recorded actions are about 1 at most);
- RMSE: root mean square distance from what the unharmed ids decode to, over what is returned.

"published" is the published decoder: zeros where the count of characters is wrong, and U+FFFD, which stands for bytes
that are no character, is coefficient 65,179 of FAST+. "published, relaxed" is what lerobot and others do instead: cut
what is too long, fill what is too short with coefficient 0. "ours, strict" returns what it accepts, and refuses the
rest. "ours, repairing" returns everything, with a status. Normalised values are clipped to [-1, 1] before they are
encoded, as the published pipelines do. The native vocabulary has as many ids as FAST+, and is fitted
on the other episodes of each set; published decoders cannot read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from benchmarks import recorded
from benchmarks.competitors.published import PublishedFast
from benchmarks.machine import describe
from benchmarks.report import Table, significant
from fast_tokenizer import FastTokenizer
from fast_tokenizer.io import read
from fast_tokenizer.report.edits import HARMS, Chunks, Decoder, Ids, Tally, harmed, repairing, strict

FAST_PLUS = recorded.SHARED / "data" / "fast_artifacts" / "fast_plus"
SEED = 0

# ---- Decoders ----------------------------------------------------------------------------------------


def published(peer: PublishedFast) -> Decoder:
    """The published decoder."""

    def decode(ids: Ids, horizon: int, dims: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks]:
        accepted = np.array([len(peer.bpe.decode(sequence)) == horizon * dims for sequence in ids])
        return accepted, np.ones(len(ids), bool), peer.decode(ids, horizon, dims)

    return decode


def relaxed(peer: PublishedFast) -> Decoder:
    """As lerobot decodes: coefficients cut on the right, or filled with 0."""

    def decode(ids: Ids, horizon: int, dims: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Chunks]:
        coefficients = np.zeros((len(ids), horizon * dims))
        accepted = np.empty(len(ids), bool)
        for i, sequence in enumerate(ids):
            codes = np.array([ord(ch) for ch in peer.bpe.decode(sequence)]) + peer.min_token
            accepted[i] = len(codes) == horizon * dims
            kept = codes[: horizon * dims]
            coefficients[i, : len(kept)] = kept
        actions = scipy.fft.idct(coefficients.reshape(-1, horizon, dims) / peer.scale, axis=1, norm="ortho")
        return accepted, np.ones(len(ids), bool), actions

    return decode


# ---- Measuring ---------------------------------------------------------------------------------------


def cells(tally: Tally) -> list[str]:
    """What the table says of one decoder and one harm, over all sets."""
    accepted, zeros = (f"{100 * n / tally.chunks:.1f} %" for n in (tally.accepted, tally.zeros))
    if not tally.returned:
        return [accepted, zeros, "", ""]
    rmse = tally.rmse
    return [accepted, zeros, significant(tally.worst), "0" if rmse < 1e-9 else significant(rmse)]


def held_out(path: Path, most_fitted: int, most_held: int) -> tuple[Chunks, Chunks]:
    """Normalised chunks (N, T, D) of one set to fit on, and held out, evenly spread over their episodes.

    Clipped to [-1, 1], as the published pipelines do.
    """
    parts = recorded.split(read(path))

    def some(blocks: Iterator[Chunks], most: int) -> Chunks:
        chunks = np.concatenate(list(blocks))
        chosen = chunks[np.linspace(0, len(chunks) - 1, min(most, len(chunks))).astype(int)]
        return parts.normalizer.apply(chosen).clip(-1, 1)

    return some(parts.fitted(), most_fitted), some(parts.held(), most_held)


def measure(most_fitted: int, most_held: int, draws: int) -> dict[tuple[str, str, str], Tally]:
    """By vocabulary, harm and decoder."""
    fast_plus = FastTokenizer.from_pretrained(FAST_PLUS)
    peer = PublishedFast.of_folder(FAST_PLUS)
    tallies: dict[tuple[str, str, str], Tally] = {}
    for path in recorded.sets().values():
        fitted, held = held_out(path, most_fitted, most_held)
        native = FastTokenizer.fit(fitted, fast_plus.vocab_size)
        ours = {"ours, strict": strict, "ours, repairing": repairing}
        contenders: dict[str, tuple[FastTokenizer, dict[str, Decoder]]] = {
            "FAST+": (
                fast_plus,
                {"published": published(peer), "published, relaxed": relaxed(peer)}
                | {name: of(fast_plus) for name, of in ours.items()},
            ),
            "native": (native, {name: of(native) for name, of in ours.items()}),
        }
        for vocabulary, (tokenizer, decoders) in contenders.items():
            batch = tokenizer.encode(held)
            if batch.dropped.any():
                raise ValueError(f"{vocabulary} drops coefficients of {path}: there is nothing to compare with")
            ids = [list(sequence) for sequence in batch.to_list() for _ in range(draws)]
            unharmed = tokenizer.decode(batch, *held.shape[1:]).repeat(draws, axis=0)
            for harm in HARMS:
                rng = np.random.default_rng(SEED)
                wrong = [harmed(harm, sequence, tokenizer.vocab_size, rng) for sequence in ids]
                for name, decoder in decoders.items():
                    tally = tallies.setdefault((vocabulary, harm, name), Tally())
                    tally.add(decoder(wrong, *held.shape[1:]), unharmed)
    return tallies


def table(tallies: dict[tuple[str, str, str], Tally]) -> Table:
    """Grouped by harm."""
    lines = [
        [harm, vocabulary, decoder, *cells(tally)]
        for (vocabulary, harm, decoder), tally in sorted(tallies.items(), key=lambda item: HARMS.index(item[0][1]))
    ]
    chunks = max(tally.chunks for tally in tallies.values())
    note = (
        f"{chunks:,} sequences a row, of {len(recorded.sets())} recorded sets, one harm each, seed {SEED}; actions are "
        f"clipped to [-1, 1] first. `benchmarks/robustness.py` says what the columns are.\n\n{measured()}"
    )
    header = ["harm", "vocabulary", "decoder", "accepted", "zeros", "worst \\|action\\|", "RMSE"]
    return Table("One wrong id", note, header, lines, left=3)


def measured() -> str:
    """Where a table comes from."""
    machine = describe()
    return (
        f"Measured {machine['date'][:10]} at commit {machine['commit']} on {machine['cpu']}, {machine['cores']} cores."
    )


def count(text: str) -> int:
    """How many, on the command line: at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--fitted", type=count, default=4000, help="chunks of a set to fit on, at most")
    parser.add_argument("--held", type=count, default=100, help="held-out chunks of a set, at most")
    parser.add_argument("--draws", type=count, default=5, help="how often each chunk is harmed")
    given = parser.parse_args(arguments)
    recorded.require()
    text = table(measure(given.fitted, given.held, given.draws)).markdown()
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
