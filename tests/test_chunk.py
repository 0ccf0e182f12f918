"""Windows of a trajectory, and the blocks in which chunks reach the core."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import Trajectory, chunk, windows
from fast_tokenizer.chunk import chunk_blocks, count_windows, one_block


def exact_match(text):
    return f"^{re.escape(text)}$"


# ---- Windows -----------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_windows_are_slices_at_every_stride(length, horizon, stride, dims):
    actions = np.arange(length * dims, dtype=np.float32).reshape(length, dims)
    slices = [actions[i : i + horizon] for i in range(0, length - horizon + 1, stride)]
    cut = windows(actions, horizon, stride)
    assert cut.shape == (len(slices), horizon, dims)
    assert cut.dtype == np.float32
    assert cut.flags.c_contiguous
    assert all((a == b).all() for a, b in zip(cut, slices, strict=True))


@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_windows_over_the_end_repeat_the_last_action(length, horizon, stride, dims):
    actions = np.arange(length * dims, dtype=np.float32).reshape(length, dims)
    steps = [[min(start + t, length - 1) for t in range(horizon)] for start in range(0, length, stride)]
    cut = windows(actions, horizon, stride, episode_end="repeat-last")
    assert cut.shape == (len(steps), horizon, dims)
    assert cut.dtype == np.float32
    assert all((a == actions[b]).all() for a, b in zip(cut, steps, strict=True))


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(1, 12), st.integers(1, 12))
def test_windows_are_counted_without_cutting_them(lengths, horizon, stride):
    for rule in ("drop", "repeat-last"):
        counts = count_windows(np.array(lengths), horizon, stride, rule)
        assert counts.tolist() == [len(windows(np.zeros((n, 1)), horizon, stride, episode_end=rule)) for n in lengths]


@pytest.mark.parametrize("rule", ["repeat_last", "", None])
def test_there_are_two_rules_for_ends(rule):
    with pytest.raises(
        ValueError, match=exact_match(f"episode_end must be one of ('drop', 'repeat-last'), got {rule!r}")
    ):
        windows(np.zeros((5, 2)), 2, episode_end=rule)


@pytest.mark.parametrize(("horizon", "stride"), [(3, 1), (3, 2), (1, 1), (3, 3), (6, 1), (3, 9)], ids=lambda n: str(n))
def test_windows_are_a_copy(horizon, stride):
    actions = np.arange(12.0).reshape(6, 2)
    cut = windows(actions, horizon, stride)
    assert not np.shares_memory(cut, actions)
    cut += 1
    assert actions.tolist() == np.arange(12.0).reshape(6, 2).tolist()


def test_windows_of_a_view_are_those_of_its_copy():
    wide = np.arange(60.0).reshape(10, 6)
    for view in (wide[:, ::2], wide[::-1], wide.T, np.asfortranarray(wide)):
        assert (windows(view, 3, 2) == windows(view.copy(), 3, 2)).all()


@pytest.mark.parametrize(("horizon", "stride"), [(0, 1), (-1, 1), (1, 0), (1, -2)])
def test_horizon_and_stride_must_be_positive(horizon, stride):
    message = f"horizon and stride must be positive, got {horizon} and {stride}"
    with pytest.raises(ValueError, match=exact_match(message)):
        windows(np.zeros((5, 2)), horizon, stride)


def test_a_trajectory_needs_only_actions():
    trajectory = Trajectory(np.zeros((5, 2)))
    assert (trajectory.name, trajectory.hz, trajectory.dimension_names) == ("", None, None)
    with pytest.raises(AttributeError):
        trajectory.hz = 30.0


# ---- Blocks ------------------------------------------------------------------------------------------


def chunks_of(*horizons, dims=2, dtype=np.float64):
    """Chunks whose values number the steps throughout."""
    rows = np.arange(sum(horizons) * dims, dtype=dtype).reshape(-1, dims)
    return np.split(rows, np.cumsum(horizons)[:-1])


def unpack(block):
    """The chunks of a block."""
    if block.row_offsets is None:
        return list(block.values)
    return [block.values[a:b] for a, b in zip(block.row_offsets[:-1], block.row_offsets[1:], strict=True)]


def assert_same_chunks(blocks, chunks):
    unpacked = [c for b in blocks for c in unpack(b)]
    assert len(unpacked) == len(chunks)
    assert all(np.array_equal(a, b) for a, b in zip(unpacked, chunks, strict=True))


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=20),
    st.integers(1, 40),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_blocks_hold_every_chunk_in_order_whatever_their_size(horizons, values, narrow):
    chunks = [c.astype(np.float32) if n else c for c, n in zip(chunks_of(*horizons), narrow, strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk, "_BLOCK_VALUES", values)
        blocks = list(chunk_blocks(iter(chunks)))
    assert_same_chunks(blocks, chunks)
    assert [b.first for b in blocks] == np.cumsum([0] + [len(b) for b in blocks[:-1]]).tolist()
    for block in blocks:
        held = unpack(block)
        assert block.values.flags.c_contiguous
        assert block.horizons == {len(c) for c in held}
        assert block.action_dim == 2
        assert block.values.size <= values or len(held) == 1
        assert {c.dtype for c in chunks[block.first : block.first + len(block)]} == {block.values.dtype}


@pytest.mark.parametrize("values", [1, 2, 5, 100])
def test_an_array_is_cut_into_blocks_without_a_copy(monkeypatch, values):
    monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
    array = np.arange(84.0).reshape(7, 4, 3)
    blocks = list(chunk_blocks(array))
    assert_same_chunks(blocks, list(array))
    assert all(np.shares_memory(b.values, array) for b in blocks)
    assert (len(blocks) > 1) == (values < 21)


def test_chunks_of_one_horizon_stay_a_rectangle():
    (block,) = chunk_blocks(chunks_of(4, 4, 4))
    assert block.row_offsets is None
    assert block.values.shape == (3, 4, 2)


def test_chunks_of_several_horizons_become_rows_and_offsets():
    (block,) = chunk_blocks(chunks_of(4, 1, 3))
    assert block.values.shape == (8, 2)
    assert block.row_offsets.tolist() == [0, 4, 5, 8]
    assert block.row_offsets.dtype == np.int64


def test_an_iterator_is_read_no_further_than_a_block_ahead(monkeypatch):
    monkeypatch.setattr(chunk, "_BLOCK_VALUES", 20)  # five chunks of 2 x 2
    read = []

    def chunks():
        for i in range(100):
            read.append(i)
            yield np.full((2, 2), float(i))

    blocks = chunk_blocks(chunks())
    for n in range(1, 4):
        block = next(blocks)
        assert block.first == 5 * (n - 1)
        assert len(read) <= 5 * n + 1


def test_blocks_are_not_made_before_they_are_asked_for():
    def unread():
        pytest.fail("read the chunks first")
        yield

    chunk_blocks(unread())


def test_blocks_of_chunks_and_empty_blocks_count_on():
    a = np.zeros((3, 4, 2))
    with pytest.raises(ValueError, match=exact_match("chunk 7: has 5 dimensions, expected 2")):
        list(chunk_blocks([a, a[:0], a, a[0], np.zeros((4, 5))]))


def test_one_block_is_all_chunks(monkeypatch):
    for values in (1, 7, 1000):
        monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
        for chunks in (
            chunks_of(4, 4, 4),
            chunks_of(1, 2, 3, 3, 1),
            [*chunks_of(2, 2), *chunks_of(2, dtype=np.float32)],
        ):
            block = one_block(iter(chunks))
            assert block.first == 0
            assert_same_chunks([block], chunks)


def test_one_block_of_a_contiguous_array_is_no_copy():
    for dtype in (np.float32, np.float64):
        array = np.zeros((3, 4, 2), dtype)
        assert np.shares_memory(one_block(array).values, array)


def test_a_required_shape_is_required_of_every_chunk():
    chunks = chunks_of(4, 4, 3)
    with pytest.raises(ValueError, match=exact_match("chunk 2: has 3 time steps, expected 4")):
        one_block(chunks, horizon=4)
    with pytest.raises(ValueError, match=exact_match("chunk 0: has 2 dimensions, expected 7")):
        one_block(chunks, action_dim=7)
