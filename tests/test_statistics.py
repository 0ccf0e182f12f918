"""`NormalizerStatistics`: exact while it can be, within its bound beyond, from any parts and in any order."""

import itertools
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import Normalizer, NormalizerStatistics, statistics

KINDS = ("quantile", "min-max", "mean-std", "identity")
#: Of the rank of q01 and q99, as the docstring states it.
BOUND = 1e-4
N = 3 * statistics.EXACT_ROWS + 12345


def exact_match(text):
    return f"^{re.escape(text)}$"


def taken(*parts):
    new = NormalizerStatistics()
    for part in parts:
        new.update(part)
    return new


def same(a, b):
    return (a.kind, a.clip, a.center.tobytes(), a.half_range.tobytes()) == (
        *(b.kind, b.clip),
        *(b.center.tobytes(), b.half_range.tobytes()),
    )


def large_columns():
    """N values each of what robots and sensors do."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(N)
    return {
        "normal": normal,
        "heavy-tailed": rng.standard_cauchy(N),
        "lognormal": rng.lognormal(0, 3, N),
        "bimodal gripper": (rng.random(N) < 0.3) * 0.7 + rng.normal(0, 1e-3, N),
        "two-valued gripper": np.where(rng.random(N) < 0.02, 0.7, 0.1),
        "offset": 1e6 + 1e-3 * normal,
        "sorted": np.sort(normal),
        "falling": np.sort(normal)[::-1],
        "drifting": normal + np.linspace(0, 5, N),
    }


@pytest.fixture(scope="module")
def large():
    """(N, D) rows, and their columns in order."""
    rows = np.stack(list(large_columns().values()), axis=1)
    return rows, np.sort(rows, axis=0)


def assert_within_bound(normalizer, ordered):
    """q01 and q99 of a quantile normaliser have the ranks 0.01 and 0.99, but for the bound."""
    for d, name in enumerate(large_columns()):
        for value, rank in (
            (normalizer.center[d] - normalizer.half_range[d], 0.01),
            (normalizer.center[d] + normalizer.half_range[d], 0.99),
        ):
            slack = 2 * np.spacing(abs(value))  # of taking center and half range apart
            below = np.searchsorted(ordered[:, d], value - slack, "left") / len(ordered)
            up_to = np.searchsorted(ordered[:, d], value + slack, "right") / len(ordered)
            assert below - BOUND <= rank <= up_to + BOUND, (name, rank, below, up_to)


# ---- Exact while everything is held ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(st.integers(1, 50), min_size=1, max_size=8), narrow=st.booleans())
def test_of_few_rows_it_is_the_normalizer_of_them_all(kind, parts, narrow):
    rows = np.random.default_rng(len(parts)).normal([0, 1e6, 3], [1, 1e-3, 0], (sum(parts), 3))
    rows = rows.astype(np.float32) if narrow else rows
    pieces = np.split(rows, np.cumsum(parts)[:-1])
    assert same(taken(*pieces).normalizer(kind, clip=2.0), Normalizer.fit(rows, kind, clip=2.0))
    first, *others = [taken(piece) for piece in reversed(pieces)]
    for other in others:
        first.merge(other)
    assert same(first.normalizer(kind), Normalizer.fit(rows, kind)), "in any order"


def test_it_is_exact_up_to_the_stated_number_of_rows(monkeypatch):
    assert statistics.EXACT_ROWS == 1 << 20
    monkeypatch.setattr(statistics, "EXACT_ROWS", 1000)
    rows = np.random.default_rng(0).lognormal(0, 2, (1001, 2))
    assert same(taken(rows[:300], rows[300:1000]).normalizer(), Normalizer.fit(rows[:1000]))
    assert not same(taken(rows[:300], rows[300:]).normalizer(), Normalizer.fit(rows))


def test_shapes_are_those_of_normalizer_fit():
    chunks = np.random.default_rng(0).normal(size=(40, 25, 3))
    assert same(taken(chunks[:7], chunks[7].tolist(), chunks[8:]).normalizer(), Normalizer.fit(chunks))


# ---- Beyond ------------------------------------------------------------------------------------------


def test_quantiles_are_within_the_stated_bound(large):
    rows, ordered = large
    assert_within_bound(taken(*np.array_split(rows, 40)).normalizer(), ordered)
    assert_within_bound(taken(rows[::-1]).normalizer(), ordered)


def test_quantiles_of_merged_parts_are_within_the_bound_in_any_order(large):
    rows, ordered = large
    cuts = [5, 700_000, 700_001, 2 * statistics.EXACT_ROWS + 700_002]  # held, held, one row, sketched
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 41):
        parts = np.split(rows, cuts)
        merged = NormalizerStatistics()
        for i in order:
            merged.merge(taken(parts[i]))
        assert merged.rows == N
        assert_within_bound(merged.normalizer(), ordered)


def test_extremes_are_exact_and_moments_up_to_rounding(large):
    rows, ordered = large
    streamed, exact = taken(*np.array_split(rows, 9)), Normalizer.fit(rows, "min-max")
    assert same(streamed.normalizer("min-max"), exact)
    moments = streamed.normalizer("mean-std")
    for d, name in enumerate(large_columns()):
        column = ordered[:, d].astype(np.longdouble)
        mean = column.mean()
        std = np.sqrt(np.square(column - mean).mean())
        assert abs(moments.center[d] - mean) <= 1e-12 * max(abs(mean), std), name
        assert abs(moments.half_range[d] - std) <= 1e-9 * std, name


def test_parts_do_not_matter_and_runs_do_not_differ(large):
    rows, _ = large
    whole = taken(rows).normalizer()
    for pieces in (np.array_split(rows, 3), np.split(rows, [1, 1_048_576, 1_048_577, 3_000_000])):
        assert same(taken(*pieces).normalizer(), whole)


def test_constants_and_rare_events_follow_the_rules_of_normalizer_fit(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 4096)
    for constant, moved in itertools.product((0.1, -1 / 3, 1e6 + 0.3, 1e-300, -0.0), (0, 500)):
        rows = np.full((100_000, 1), constant)
        rows[:moved] = constant + 1.0  # half a percent of the steps
        for kind in ("quantile", "min-max"):
            assert same(taken(*np.array_split(rows, 7)).normalizer(kind), Normalizer.fit(rows, kind)), constant


def test_asking_changes_nothing(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 1000)
    rows = np.random.default_rng(0).normal(size=(7500, 2))
    asked = NormalizerStatistics()
    for part in np.array_split(rows, 20):
        asked.update(part)
        asked.normalizer()
        NormalizerStatistics().merge(asked)
    assert same(asked.normalizer(), taken(rows).normalizer())


def test_it_survives_pickling_and_can_be_merged_with_itself(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 1000)
    rows = np.random.default_rng(0).normal(size=(2500, 2))
    one = taken(rows)
    again = pickle.loads(pickle.dumps(one))
    assert same(again.normalizer(), one.normalizer())
    again.merge(again)
    assert again.rows == 5000
    assert same(again.normalizer("min-max"), one.normalizer("min-max"))


def test_rows_are_copied_and_not_all_kept(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 1000)
    rows = np.random.default_rng(0).normal(size=(100, 2))
    filled = NormalizerStatistics()
    expected = np.concatenate([rows + i for i in range(25)])
    buffer = np.empty_like(rows)
    for i in range(25):
        buffer[:] = rows + i
        filled.update(buffer)
        assert sum(len(p) for p in filled._pending) <= 1000
    assert same(filled.normalizer(), taken(expected).normalizer())


# ---- What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3), "normalizer statistics need actions of shape (..., D), got (3,)"),
        (np.zeros((0, 3)), "normalizer statistics need actions of shape (..., D), got (0, 3)"),
        (np.zeros((2, 4)), "got actions of 4 dimensions, after others of 3"),
        (np.array([[0, 0, 0], [0, 0, np.nan]]), "action at row 6, dimension 2 is nan; actions must be finite"),
    ],
)
def test_bad_actions_are_refused_and_leave_no_trace(actions, message):
    some = taken(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=exact_match(message)):
        some.update(actions)
    assert some.rows == 5


def test_merging_other_dimensions_is_refused():
    with pytest.raises(ValueError, match=exact_match("got actions of 4 dimensions, after others of 3")):
        taken(np.zeros((5, 3))).merge(taken(np.zeros((5, 4))))


def test_statistics_of_nothing_are_refused():
    nothing = NormalizerStatistics()
    nothing.merge(NormalizerStatistics())
    with pytest.raises(ValueError, match=exact_match("normalizer statistics need actions, got none so far")):
        nothing.normalizer()


@pytest.mark.parametrize("kind", ["quantile", "min-max", "mean-std"])
def test_actions_too_large_for_statistics_are_refused(kind, monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 32)
    rows = np.tile([[0.0, 1.7e308], [1.0, -1.7e308], [2.0, 1.7e308]], (30, 1))
    with pytest.raises(ValueError, match=r"of dimension 1 is .*; it must (be finite|lie within)"):
        taken(rows).normalizer(kind)


@pytest.mark.parametrize("rows", [1, 50])
def test_another_kind_or_clip_is_refused(rows, monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 32)
    some = taken(np.zeros((rows, 2)))
    with pytest.raises(ValueError, match=r"^normalizer kind must be one of"):
        some.normalizer("z-score")
    with pytest.raises(ValueError, match=r"^clip must be positive and finite"):
        some.normalizer(clip=0.0)
