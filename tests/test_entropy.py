"""Entropy bounds: known where the source is known, in order, and blind to what is not in the data."""

import numpy as np
import pytest

from fast_tokenizer.entropy import EntropyBounds, entropy_bounds


def laplace(shape, spread, seed=0):
    return np.rint(np.random.default_rng(seed).laplace(0, spread, shape)).astype(np.int64)


def entropy(coefficients):
    """Of the values, bits each."""
    counts = np.unique(coefficients, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def test_independent_coefficients_take_their_entropy():
    """No model finds more than there is, and each comes near it."""
    train, held = laplace((3000, 6, 4), 3.0), laplace((500, 6, 4), 3.0, seed=1)
    bounds = entropy_bounds(train, held)
    expected = 24 * entropy(held)
    assert bounds.order_0 == pytest.approx(expected, rel=1e-12)
    for learnt in (bounds.per_place, bounds.context):  # what is learnt is not quite known
        assert 0.99 * expected < learnt < 1.06 * expected


def test_places_of_differing_spread_are_told_apart():
    spread = np.geomspace(20, 0.05, 8)[:, None] * np.ones(3)
    train, held = laplace((3000, 8, 3), spread), laplace((500, 8, 3), spread, seed=1)
    bounds = entropy_bounds(train, held)
    by_place = sum(entropy(held[:, k, d]) for k in range(8) for d in range(3))
    assert bounds.per_place == pytest.approx(by_place, rel=0.06)
    assert bounds.per_place < 0.8 * bounds.order_0


def test_what_neighbours_tell_is_used():
    """Chunks are quiet or lively as a whole: only the neighbours tell which."""
    lively = np.random.default_rng(2).random((3500, 1, 1)) < 0.3
    coefficients = laplace((3500, 10, 3), 8.0) * lively
    bounds = entropy_bounds(coefficients[:3000], coefficients[3000:])
    assert bounds.context < 0.85 * bounds.per_place


def test_the_context_model_learns_from_what_it_has_measured():
    """Of data that nothing was learnt from, the more there is, the less each chunk takes."""
    train, held = np.zeros((1, 4, 2), np.int64), laplace((2000, 4, 2), 2.0)
    few, many = entropy_bounds(train, held[:64]), entropy_bounds(train, held)
    assert many.context < 0.95 * few.context
    assert many.per_place > 1.25 * many.context


def test_tokens_are_bits_over_those_of_an_id():
    assert EntropyBounds(30.0, 20.0, 10.0).tokens(1024) == EntropyBounds(3.0, 2.0, 1.0)


@pytest.mark.parametrize(("train", "held"), [((2, 3, 4), (2, 3, 5)), ((3, 4), (3, 4)), ((0, 3, 4), (2, 3, 4))])
def test_other_shapes_are_refused(train, held):
    with pytest.raises(ValueError, match="expected coefficients"):
        entropy_bounds(np.zeros(train, int), np.zeros(held, int))
