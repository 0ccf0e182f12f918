"""Fits the bundled default tokenizer: `python scripts/fit_default.py`.

From the generator's robots and the recorded sets whose licence allows it (NOTICE names them). Every source is
normalised by its own quantiles, cut into chunks of one second, and thinned evenly to the same number of coefficients,
so that no source has the vocabulary to itself. The same inputs give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec
from fast_tokenizer import format as artefact
from fast_tokenizer._core import Corpus
from fast_tokenizer.chunk import windows
from fast_tokenizer.io import read
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "fast_tokenizer" / "data" / "default.json"

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
VOCAB_SIZE = 2048
SCALE = 10.0
EPISODES, SEED = 200, 2501_09747
COEFFICIENTS_PER_SOURCE = 6_000_000
#: Holds a constant |x| of 2 at T = 50 and of 1.5 at T = 100 (the coefficient is scale * |x| * sqrt(T)). What the
#: sources have beyond saturates, and is counted: outliers must not take symbols from everybody.
LOWEST, HIGHEST = -150, 150


def sources(shared: Path) -> Iterator[tuple[str, float, list[NDArray[np.floating]]]]:
    """Name, control rate and trajectories (L, D) of each source."""
    for name, robot in ROBOTS.items():
        yield f"generated {name}", robot.hz, list(generate_trajectories(robot, EPISODES, SEED))
    for name in RECORDED:
        dataset = read(shared / "data" / "trajectories" / name / "episodes.npz")
        assert dataset.hz is not None
        yield name, dataset.hz, [t.actions for t in dataset.trajectories]


def normalized_chunks(hz: float, trajectories: list[NDArray[np.floating]]) -> NDArray[np.float64]:
    """(N, T, D) chunks of one second, evenly thinned."""
    horizon = round(hz)
    normalizer = Normalizer.fit(np.concatenate(trajectories), "quantile")
    available = sum(max(0, len(t) - horizon + 1) for t in trajectories)
    wanted = COEFFICIENTS_PER_SOURCE // (horizon * normalizer.action_dim)
    stride = max(1, math.ceil(available / wanted))
    return normalizer.apply(np.concatenate([windows(t, horizon, stride) for t in trajectories]))


def fit(shared: Path) -> TokenizerSpec:
    """The default tokenizer's artefact."""
    corpus = Corpus([SCALE])
    for name, hz, trajectories in sources(shared):
        chunks = normalized_chunks(hz, trajectories)
        corpus.add(chunks)
        print(f"{name:32s} {len(chunks):7,} chunks of {chunks.shape[1]} x {chunks.shape[2]}")
    print(f"{corpus.outside(LOWEST, HIGHEST):,} of {corpus.symbols:,} coefficients saturate at {LOWEST}..{HIGHEST}")
    merges = corpus.train(LOWEST, HIGHEST, VOCAB_SIZE, min_frequency=2, max_token_symbols=1024)
    return TokenizerSpec(scale=SCALE, min_coefficient=LOWEST, max_coefficient=HIGHEST, merges=merges)


def main() -> None:
    """Writes the artefact into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("FAST_TOKENIZER_SHARED", ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=Path(default), help="folder with data/trajectories")
    spec = fit(parser.parse_args().shared)
    artefact.save(spec, TARGET)
    print(f"{FastTokenizer(spec)}\nfingerprint {artefact.fingerprint(spec)}\nwritten to {TARGET}")


if __name__ == "__main__":
    main()
