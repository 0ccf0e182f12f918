"""`Normalizer`: the statistics it takes, what it does with them, what it refuses."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fast_tokenizer import Normalizer, TokenizerSpec
from fast_tokenizer import format as artefact

KINDS = ("quantile", "min-max", "mean-std", "identity")
RNG = np.random.default_rng(0)
ACTIONS = RNG.normal([0.0, 5e4, -3e-5], [1.0, 2e3, 1e-6], (40, 25, 3))


def exact_match(text):
    return f"^{re.escape(text)}$"


# ---- Statistics --------------------------------------------------------------------------------------


def test_quantile_takes_the_1st_and_99th_percentile():
    normalizer = Normalizer.fit(ACTIONS, "quantile")
    q01, q99 = np.quantile(ACTIONS.reshape(-1, 3), [0.01, 0.99], axis=0)
    assert np.allclose(normalizer.center, (q01 + q99) / 2, rtol=1e-12)
    assert np.allclose(normalizer.half_range, (q99 - q01) / 2, rtol=1e-9)
    inside = np.abs(normalizer.apply(ACTIONS)) <= 1 + 1e-9
    assert np.allclose(inside.mean(axis=(0, 1)), 0.98, atol=0.005)


def test_min_max_maps_onto_minus_1_to_1():
    normalizer = Normalizer.fit(ACTIONS, "min-max")
    y = normalizer.apply(ACTIONS).reshape(-1, 3)
    assert np.allclose(y.min(axis=0), -1)
    assert np.allclose(y.max(axis=0), 1)


def test_mean_std_standardises():
    normalizer = Normalizer.fit(ACTIONS, "mean-std")
    y = normalizer.apply(ACTIONS).reshape(-1, 3)
    assert np.allclose(y.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(y.std(axis=0), 1)


def test_identity_changes_nothing():
    normalizer = Normalizer.fit(ACTIONS, "identity")
    assert normalizer.apply(ACTIONS).tobytes() == ACTIONS.tobytes()
    assert normalizer.invert(ACTIONS).tobytes() == ACTIONS.tobytes()


def test_quantile_is_the_default():
    assert Normalizer.fit(ACTIONS).kind == "quantile"


@pytest.mark.parametrize("kind", KINDS)
def test_all_axes_but_the_last_are_samples(kind):
    shaped = Normalizer.fit(ACTIONS, kind)
    for other in (ACTIONS.reshape(-1, 3), ACTIONS.reshape(2, 20, 25, 3), ACTIONS.tolist()):
        flat = Normalizer.fit(other, kind)
        assert flat.center.tolist() == shaped.center.tolist()
        assert flat.half_range.tolist() == shaped.half_range.tolist()


@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std"])
@pytest.mark.parametrize("constant", [0.1, -1 / 3, 1e-300, 1e100, 0.0])
def test_a_constant_dimension_maps_to_0_and_comes_back_exactly(kind, constant):
    actions = ACTIONS.copy()
    actions[..., 1] = constant
    normalizer = Normalizer.fit(actions, kind)
    assert normalizer.constant.tolist() == [False, True, False]
    assert normalizer.half_range[1] == 0
    assert (normalizer.apply(actions)[..., 1] == 0).all()
    assert (normalizer.apply(actions + 7.0)[..., 1] == 0).all()
    assert (normalizer.invert(normalizer.apply(actions))[..., 1] == constant).all()
    assert (normalizer.invert(np.full((5, 3), 123.0))[..., 1] == constant).all()


@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std"])
def test_one_sample_is_constant(kind):
    normalizer = Normalizer.fit(np.array([[1.5, -2.5]]), kind)
    assert normalizer.constant.all()
    assert normalizer.invert(np.zeros((1, 2))).tolist() == [[1.5, -2.5]]


def test_a_constant_float32_comes_back_as_its_float64():
    actions = np.full((10, 1), 0.1, np.float32)
    normalizer = Normalizer.fit(actions)
    assert normalizer.invert(normalizer.apply(actions))[0, 0] == np.float64(np.float32(0.1))


def test_a_gripper_that_moves_in_few_steps_takes_its_minimum_and_maximum():
    gripper = np.zeros((1000, 1))
    gripper[500:505] = 1.0  # half a percent of the steps
    normalizer = Normalizer.fit(gripper, "quantile")
    assert (normalizer.center[0], normalizer.half_range[0]) == (0.5, 0.5)
    assert set(normalizer.apply(gripper).ravel()) == {-1.0, 1.0}


def test_a_dimension_with_quantiles_of_its_own_does_not_take_them():
    assert np.abs(Normalizer.fit(ACTIONS, "quantile").apply(ACTIONS)).max() > 1.1


# ---- Use ---------------------------------------------------------------------------------------------


def test_values_beyond_the_range_are_kept_without_clip_and_cut_with_it():
    free = Normalizer("min-max", np.zeros(2), np.array([1.0, 2.0]))
    cut = Normalizer("min-max", np.zeros(2), np.array([1.0, 2.0]), clip=1.5)
    x = np.array([[-9.0, 9.0], [1.5, 3.0], [0.1, -3.1]])
    assert free.apply(x).tolist() == [[-9.0, 4.5], [1.5, 1.5], [0.1, -1.55]]
    assert cut.apply(x).tolist() == [[-1.5, 1.5], [1.5, 1.5], [0.1, -1.5]]


def test_applying_to_another_number_of_dimensions_is_refused():
    normalizer = Normalizer("min-max", np.zeros(3), np.ones(3))
    for shape in ((5, 2), (5, 1), (5, 4)):
        with pytest.raises(ValueError, match="3"):
            normalizer.apply(np.zeros(shape))
        with pytest.raises(ValueError, match="3"):
            normalizer.invert(np.zeros(shape))


finite_rows = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.integers(1, 4)),
    elements=st.floats(-1e99, 1e99) | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
)


@pytest.mark.parametrize("kind", KINDS)
@given(rows=finite_rows)
def test_inverting_undoes_applying(kind, rows):
    normalizer = Normalizer.fit(rows, kind)
    back = normalizer.invert(normalizer.apply(rows))
    spread = np.abs(rows - normalizer.center).max(axis=0) + np.abs(normalizer.center)
    assert (np.abs(back - rows) <= 1e-14 * spread + 2e-100).all()  # a range below 1e-100 counts as constant


@given(finite_rows)
def test_statistics_are_finite_whatever_the_actions(rows):
    for kind in KINDS:
        normalizer = Normalizer.fit(rows, kind)
        assert np.isfinite(normalizer.center).all()
        assert (normalizer.half_range >= 0).all()
        assert np.isfinite(normalizer.apply(rows)).all()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std"])
def test_actions_too_large_for_statistics_are_refused(kind):
    with pytest.raises(ValueError, match=r"of dimension 1 is .*; it must (be finite|lie within)"):
        Normalizer.fit(np.array([[0.0, 1.7e308], [1.0, -1.7e308], [2.0, 1.7e308]]), kind)


def test_clip_is_kept_with_every_kind():
    for kind in KINDS:
        assert Normalizer.fit(ACTIONS, kind, clip=2.5).clip == 2.5


# ---- Keeping -----------------------------------------------------------------------------------------


def through_json(normalizer):
    spec = TokenizerSpec(10.0, -1, 1, np.empty((0, 2)), normalizer, action_dim=normalizer.action_dim)
    return artefact.loads(json.dumps(spec.to_json()).encode()).normalizer


@pytest.mark.parametrize("duplicate", [through_json, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 1 / 3])
def test_a_copy_does_the_same_to_the_last_bit(duplicate, kind, clip):
    normalizer = Normalizer.fit(ACTIONS, kind, clip=clip)
    again = duplicate(normalizer)
    assert (again.kind, again.clip) == (kind, clip)
    assert again.center.tobytes() == normalizer.center.tobytes()
    assert again.half_range.tobytes() == normalizer.half_range.tobytes()
    assert again.apply(ACTIONS).tobytes() == normalizer.apply(ACTIONS).tobytes()


def test_it_is_immutable_and_keeps_no_hold_of_its_arguments():
    center = np.zeros(2)
    normalizer = Normalizer("min-max", center, np.ones(2))
    center[0] = 7.0
    assert normalizer.center.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        normalizer.center[0] = 7.0
    with pytest.raises(AttributeError):
        normalizer.clip = 1.0


# ---- What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3), "normalizer statistics need actions of shape (..., D), got (3,)"),
        (np.zeros((0, 3)), "normalizer statistics need actions of shape (..., D), got (0, 3)"),
        (np.zeros((3, 0)), "normalizer statistics need actions of shape (..., D), got (3, 0)"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), "action at row 1, dimension 0 is nan; actions must be finite"),
        (np.array([[0.0, np.inf]]), "action at row 0, dimension 1 is inf; actions must be finite"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_actions_are_refused(actions, message, kind):
    with pytest.raises(ValueError, match=exact_match(message)):
        Normalizer.fit(actions, kind)


@pytest.mark.parametrize(
    ("center", "half_range", "message"),
    [
        ([0.0], [1.0, 1.0], "center and half_range must be vectors of one length, got (1,) and (2,)"),
        ([], [], "center and half_range must be vectors of one length, got (0,) and (0,)"),
        ([[0.0]], [[1.0]], "center and half_range must be vectors of one length, got (1, 1) and (1, 1)"),
        ([0.0, np.nan], [1.0, 1.0], "center of dimension 1 is nan; it must be finite, half_range >= 0"),
        ([0.0, 0.0], [1.0, -1.0], "half_range of dimension 1 is -1.0; it must be finite, half_range >= 0"),
        ([0.0, 0.0], [np.inf, 1.0], "half_range of dimension 0 is inf; it must be finite, half_range >= 0"),
        ([0.0], [1e-310], "half_range of dimension 0 is 1e-310; it must lie in 1e-100..1e100, or be 0"),
    ],
)
def test_bad_statistics_are_refused(center, half_range, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        Normalizer("min-max", np.array(center), np.array(half_range))


@pytest.mark.parametrize("clip", [0, -1.0, np.nan, np.inf])
def test_a_clip_that_cuts_nothing_or_everything_is_refused(clip):
    for make in (lambda: Normalizer.fit(ACTIONS, clip=clip), lambda: Normalizer("identity", [0.0], [1.0], clip)):
        with pytest.raises(ValueError, match=exact_match(f"clip must be positive and finite, or None, got {clip}")):
            make()


@pytest.mark.parametrize("kind", ["z-score", "", None, "Quantile"])
def test_an_unknown_kind_is_refused(kind):
    for make in (lambda: Normalizer.fit(ACTIONS, kind), lambda: Normalizer(kind, np.zeros(1), np.ones(1))):
        with pytest.raises(ValueError, match=r"^normalizer kind must be one of \('quantile', 'min-max', .*, got "):
            make()
