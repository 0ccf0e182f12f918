"""Recorded trajectories: the main job on real data."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.recorded import split
from fast_tokenizer import FastTokenizer
from fast_tokenizer.io import Dataset, read
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.spec import Order

SETS = (
    "adroit_door_vr",
    "g1_inspire_pick",
    "g1_moves",
    "handheld_tumvi",
    "omniglot_pen",
    "robosuite_handover_bimanual",
    "robosuite_panda_osc",
    "robosuite_sawyer_spacemouse",
)


def fit_and_hold_out(dataset: Dataset) -> tuple[FastTokenizer, list[NDArray[np.floating]]]:
    """A tokenizer fitted with the defaults on four fifths of the episodes, and the raw chunks of the others."""
    parts = split(dataset)
    return FastTokenizer.fit(parts.fitted(), normalize=parts.normalizer), list(parts.held())


def assert_exact_round_trip(tokenizer: FastTokenizer, chunks: list[NDArray[np.floating]]) -> None:
    """decode(encode(x)) is the quantized x: it has the same coefficients, and the same ids when encoded again."""
    for block in chunks:
        tokens = tokenizer.encode(block)
        again = tokenizer.encode(tokenizer.decode(tokens))
        np.testing.assert_array_equal(tokens.ids, again.ids)
        np.testing.assert_array_equal(tokens.offsets, again.offsets)


def test_no_recorded_set_is_forgotten(shared_data: Path) -> None:
    assert {p.name for p in (shared_data / "trajectories").iterdir()} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_round_trip_on_held_out_episodes(name: str, shared_data: Path) -> None:
    dataset = read(shared_data / "trajectories" / name / "episodes.npz")
    tokenizer, held = fit_and_hold_out(dataset)
    assert tokenizer.vocab_size == 1024
    assert_exact_round_trip(tokenizer, held)
    normalizer = tokenizer.spec.normalizer
    assert normalizer is not None
    for block in held[:20]:
        tokens = tokenizer.encode(block)
        decoded = normalizer.apply(tokenizer.decode(tokens))
        error = np.linalg.norm((decoded - normalizer.apply(block)).reshape(len(block), -1), axis=1)
        values = block.shape[1] * block.shape[2]
        bound = 0.5 / 10 * np.sqrt(values)  # half a step in every coefficient; the transform keeps lengths
        assert (error[tokens.saturated == 0] <= bound + 1e-9).all()


@pytest.mark.parametrize("name", SETS)
def test_every_token_count_is_what_it_claims(name: str, shared_data: Path) -> None:
    dataset = read(shared_data / "trajectories" / name / "episodes.npz")
    tokenizer, held = fit_and_hold_out(dataset)
    report = evaluate(tokenizer, held)
    lengths = np.concatenate([tokenizer.encode(block).lengths for block in held])
    values = held[0].shape[1] * held[0].shape[2]
    assert report.mean_token_length == pytest.approx(lengths.mean())
    assert report.max_token_length == lengths.max()
    assert report.compression_ratio == pytest.approx(values / lengths.mean())
    assert report.compression_ratio > 2


def test_the_default_tokenizers_are_what_their_script_fits(shared_data: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    try:
        from fit_default import CODINGS, fit, sources
    finally:
        sys.path.pop(0)
    chunks_of = list(sources(shared_data.parent))
    for order in CODINGS:
        assert FastTokenizer(fit(chunks_of, order)).fingerprint() == FastTokenizer.default(order).fingerprint()


@pytest.mark.parametrize("order", ["frequency-first", "dimension-first"])
def test_the_default_tokenizer_needs_no_data(order: Order) -> None:
    tokenizer = FastTokenizer.default(order)
    assert tokenizer.spec.order == order
    assert tokenizer.vocab_size == 2048
    for horizon, dims in ((1, 1), (15, 8), (50, 14), (100, 32)):
        chunks = np.sin(np.linspace(0, 2, horizon))[None, :, None] * np.ones((3, 1, dims))
        tokens = tokenizer.encode(chunks)
        assert not tokens.saturated.any()
        np.testing.assert_allclose(tokenizer.decode(tokens, horizon, dims), chunks, atol=0.2)
