"""Fits the bundled default tokenizers, one of each order: `python scripts/fit_default.py`.

From the generator's robots and the recorded sets whose licence allows it (NOTICE names them). Every source is
normalised by its own quantiles, cut into chunks of one second, and thinned evenly to the same number of coefficients,
so that no source has the vocabulary to itself. The same inputs give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec
from fast_tokenizer import format as artefact
from fast_tokenizer._core import Corpus
from fast_tokenizer.chunk import windows
from fast_tokenizer.io import read
from fast_tokenizer.spec import Order
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from fast_tokenizer.tokenizer import default_file

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "fast_tokenizer" / "data"

#: MIT, Apache-2.0 or CC-BY-4.0, stated by the source itself. handheld_tumvi is left out: its licence is not.
RECORDED = (
    "adroit_door_vr",
    "g1_inspire_pick",
    "g1_moves",
    "omniglot_pen",
    "robosuite_handover_bimanual",
    "robosuite_panda_osc",
    "robosuite_sawyer_spacemouse",
)
#: By order. Each ends blocks as suits it.
CODINGS: dict[Order, dict[str, Any]] = {
    "frequency-first": {"order": "frequency-first", "end_of_block": "chunk"},
    "dimension-first": {"order": "dimension-first", "end_of_block": "dimension"},
}
VOCAB_SIZE = 2048
SCALE = 10.0
EPISODES, SEED = 200, 2501_09747
COEFFICIENTS_PER_SOURCE = 6_000_000
#: Levels beyond the range, on each side, to twice its end.
LEVELS_BEYOND = 16
#: Holds a constant |x| of 2 at T = 50 and of 1.5 at T = 100 (the coefficient is scale * |x| * sqrt(T)). What the
#: sources have beyond takes the nearest level: outliers must not take symbols from everybody.
LOWEST, HIGHEST = -150, 150


#: Name, and chunks (N, T, D).
Source: TypeAlias = "tuple[str, NDArray[np.float64]]"


def sources(shared: Path) -> Iterator[Source]:
    """The chunks of each source."""
    for name, robot in ROBOTS.items():
        episodes = list(generate_trajectories(robot, EPISODES, SEED))
        yield f"generated {name}", normalized_chunks(robot.hz, episodes)
    for name in RECORDED:
        dataset = read(shared / "data" / "trajectories" / name / "episodes.npz")
        assert dataset.hz is not None
        yield name, normalized_chunks(dataset.hz, [t.actions for t in dataset.trajectories])


def normalized_chunks(hz: float, trajectories: list[NDArray[np.floating]]) -> NDArray[np.float64]:
    """(N, T, D) chunks of one second, evenly thinned."""
    horizon = round(hz)
    normalizer = Normalizer.fit(np.concatenate(trajectories), "quantile")
    available = sum(max(0, len(t) - horizon + 1) for t in trajectories)
    wanted = COEFFICIENTS_PER_SOURCE // (horizon * normalizer.action_dim)
    stride = max(1, math.ceil(available / wanted))
    return normalizer.apply(np.concatenate([windows(t, horizon, stride) for t in trajectories]))


def fit(sources: Iterable[Source], order: Order) -> TokenizerSpec:
    """The artefact of one order."""
    coding = CODINGS[order]
    corpus = Corpus([SCALE], **coding)
    for _, chunks in sources:
        corpus.add(chunks)
    merges = corpus.train(
        LOWEST, HIGHEST, VOCAB_SIZE, min_frequency=2, max_token_symbols=1024, levels_beyond=LEVELS_BEYOND
    )
    return TokenizerSpec(SCALE, LOWEST, HIGHEST, merges, levels_beyond=LEVELS_BEYOND, **coding)


def main() -> None:
    """Writes the artefacts into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("FAST_TOKENIZER_SHARED", ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=Path(default), help="folder with data/trajectories")
    chunks_of = list(sources(parser.parse_args().shared))
    for name, chunks in chunks_of:
        print(f"{name:32s} {len(chunks):7,} chunks of {chunks.shape[1]} x {chunks.shape[2]}")
    for order in CODINGS:
        spec = fit(chunks_of, order)
        tokenizer = FastTokenizer(spec)
        saturated = sum(int(tokenizer.encode(chunks).saturated.sum()) for _, chunks in chunks_of)
        total = sum(chunks.size for _, chunks in chunks_of)
        target = TARGET / default_file(order)
        artefact.save(spec, target)
        print(
            f"{tokenizer}\n{saturated:,} of {total:,} coefficients saturate\nfingerprint {artefact.fingerprint(spec)}"
        )
        print(f"written to {target}")


if __name__ == "__main__":
    main()
