"""`TokenBatch`: a list of arrays without padding, and back and forth to a padded rectangle."""

import copy
import pickle
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import TokenBatch

LISTS = [[5, 6, 7], [8], [], [9, 10], [11]]


@pytest.fixture
def batch():
    """Five sequences, with counts that differ."""
    b = TokenBatch.from_lists(LISTS)
    return TokenBatch(b.ids, b.offsets, np.arange(5, dtype=np.int32), np.arange(10, 15, dtype=np.int32))


def exact_match(text):
    return f"^{re.escape(text)}$"


sequences = st.lists(st.lists(st.integers(-1, 2**31 - 1), max_size=6), max_size=6)
indices = st.none() | st.integers(-8, 8)


# ---- As a sequence -----------------------------------------------------------------------------------


def test_it_is_a_sequence_of_int32_arrays(batch):
    assert isinstance(batch, Sequence)
    assert len(batch) == 5
    assert [ids.tolist() for ids in batch] == LISTS
    assert [batch[i].tolist() for i in range(5)] == LISTS
    assert [ids.tolist() for ids in reversed(batch)] == LISTS[::-1]
    assert {ids.dtype for ids in batch} == {np.dtype(np.int32)}
    assert batch.to_list() == LISTS
    assert {type(i) for ids in batch.to_list() for i in ids} == {int}
    assert batch.lengths.tolist() == [3, 1, 0, 2, 1]


def test_indices_count_from_either_end(batch):
    assert [batch[i].tolist() for i in range(-5, 0)] == LISTS
    assert batch[np.int64(3)].tolist() == [9, 10]


@pytest.mark.parametrize("index", [5, -6, 1000])
def test_an_index_beyond_the_end_is_an_index_error(batch, index):
    with pytest.raises(IndexError):
        batch[index]


@pytest.mark.parametrize("index", [1.0, "1", None, (1, 2)])
def test_an_index_must_be_an_integer_or_a_slice(batch, index):
    with pytest.raises(TypeError):
        batch[index]


def test_a_sequence_is_a_view_not_a_copy(batch):
    for ids in (batch[0], batch[-1], next(iter(batch)), batch[1:4].ids):
        assert np.shares_memory(ids, batch.ids)
    batch.ids[3] = 99
    assert batch[1].tolist() == [99]
    assert batch[1:2].to_list() == [[99]]


@given(sequences, indices, indices, st.none() | st.integers(-3, 3).filter(bool))
def test_a_slice_is_the_batch_of_the_sliced_lists(lists, start, stop, step):
    whole = TokenBatch.from_lists(lists)
    counts = np.arange(2 * len(lists), dtype=np.int32).reshape(2, -1)
    whole = TokenBatch(whole.ids, whole.offsets, *counts)
    cut = slice(start, stop, step)
    part = whole[cut]
    assert isinstance(part, TokenBatch)
    assert part.to_list() == lists[cut]
    assert part.saturated.tolist() == counts[0, cut].tolist()
    assert part.clipped.tolist() == counts[1, cut].tolist()
    assert part.offsets[0] == 0
    assert part.offsets[-1] == len(part.ids)
    assert (part.ids.dtype, part.offsets.dtype) == (np.int32, np.int64)


def test_a_slice_of_a_slice(batch):
    assert batch[1:][1:3].to_list() == [[], [9, 10]]
    assert batch[::-1][::-1].to_list() == LISTS


def test_repr_counts(batch):
    assert repr(batch) == "TokenBatch(5 chunks, 7 ids, 1.4 a chunk)"
    assert repr(batch[:0]) == "TokenBatch(0 chunks, 0 ids, 0.0 a chunk)"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_and_pickles_keep_everything(batch, duplicate):
    again = duplicate(batch)
    for name in ("ids", "offsets", "saturated", "clipped"):
        assert getattr(again, name).tolist() == getattr(batch, name).tolist()
        assert getattr(again, name).dtype == getattr(batch, name).dtype


# ---- From lists --------------------------------------------------------------------------------------


@given(sequences)
def test_lists_come_back(lists):
    batch = TokenBatch.from_lists(lists)
    assert batch.to_list() == lists
    assert (batch.ids.dtype, batch.offsets.dtype) == (np.int32, np.int64)
    assert not batch.saturated.any()
    assert not batch.clipped.any()
    assert len(batch.saturated) == len(batch.clipped) == len(lists)


@pytest.mark.parametrize("lists", [[], [[]], [[], [], []]])
def test_empty_lists_are_lists(lists):
    batch = TokenBatch.from_lists(lists)
    assert len(batch) == len(lists)
    assert batch.to_list() == lists
    assert batch.ids.shape == (0,)


def test_any_iterable_of_any_integers_will_do():
    assert TokenBatch.from_lists(iter([(1, 2), [3]])).to_list() == [[1, 2], [3]]
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4", ">i8"):
        assert TokenBatch.from_lists([np.array([1, 100], dtype)]).to_list() == [[1, 100]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_an_id_that_fits_int32_stays_what_it_is(dtype):
    ids = [-(2**31), -5, -2, -1, 0, 2**31 - 1]
    assert TokenBatch.from_lists([np.array(ids, dtype)]).to_list() == [ids]


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64])
def test_an_id_too_large_for_int32_does_not_become_another_one(dtype):
    (ids,) = TokenBatch.from_lists([np.array([2**31, 2**31 + 7, 5], dtype)]).to_list()
    assert ids[2] == 5
    assert ids[:2] == [2**31, 2**31 + 7], "neither is a token id of any vocabulary"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[1], [2.0]], "sequence 1: expected integers, got dtype float64"),
        ([[1], [True]], "sequence 1: expected integers, got dtype bool"),
        ([[1], "ab"], "sequence 1: expected integers, got dtype <U2"),
        ([[1], [None]], "sequence 1: expected integers, got dtype object"),
        ([[1], 2], "sequence 1: expected rank 1, got shape (); for one sequence of ids pass [ids]"),
        ([[[1, 2]]], "sequence 0: expected rank 1, got shape (1, 2)"),
    ],
)
def test_what_is_no_list_of_integers_is_refused(lists, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        TokenBatch.from_lists(lists)


# ---- To and from a rectangle -------------------------------------------------------------------------


def test_padding_fills_on_the_right(batch):
    ids, mask = batch.pad()
    assert ids.tolist() == [[5, 6, 7], [8, -1, -1], [-1, -1, -1], [9, 10, -1], [11, -1, -1]]
    assert mask.tolist() == (ids >= 0).tolist()
    assert (ids.dtype, mask.dtype) == (np.int32, bool)


def test_padding_takes_width_and_fill(batch):
    ids, mask = batch[:2].pad(max_len=5, pad_id=77)
    assert ids.tolist() == [[5, 6, 7, 77, 77], [8, 77, 77, 77, 77]]
    assert mask.sum(axis=1).tolist() == [3, 1]


def test_padding_cuts_nothing(batch):
    message = "chunk 0 has 3 tokens, more than max_len 2; 1 of 5 chunks are too long"
    with pytest.raises(ValueError, match=exact_match(message)):
        batch.pad(max_len=2)
    message = "chunk 0 has 3 tokens, more than max_len 0; 4 of 5 chunks are too long"
    with pytest.raises(ValueError, match=exact_match(message)):
        batch.pad(max_len=0)


@pytest.mark.parametrize("unfit", [2**31, 2**32 + 5, -(2**31) - 1, 2**40])
def test_padding_never_turns_an_id_that_does_not_fit_into_one_that_does(unfit):
    try:
        ids, _ = TokenBatch.from_lists([[1, unfit], [2]]).pad()
    except (ValueError, OverflowError):
        return  # refused: as good
    assert ids[0].tolist() in ([1, unfit], [1, -1], [1, 2**31 - 1])


def test_padding_names_the_longest_chunk():
    with pytest.raises(ValueError, match=r"^chunk 2 has 4 tokens, more than max_len 1; 2 of 4 chunks"):
        TokenBatch.from_lists([[1], [1, 2], [1, 2, 3, 4], []]).pad(1)


@pytest.mark.parametrize(("lists", "shape"), [([], (0, 0)), ([[]], (1, 0)), ([[], []], (2, 0))])
def test_nothing_pads_to_nothing(lists, shape):
    ids, mask = TokenBatch.from_lists(lists).pad()
    assert ids.shape == mask.shape == shape
    ids, mask = TokenBatch.from_lists(lists).pad(3)
    assert ids.shape == mask.shape == (shape[0], 3)
    assert not mask.any()


@given(sequences, st.integers(0, 3), st.integers(-(2**31), 2**31 - 1))
def test_padding_and_back(lists, more, fill):
    batch = TokenBatch.from_lists(lists)
    width = max(map(len, lists), default=0) + more
    ids, mask = batch.pad(width, fill)
    assert ids.shape == (len(lists), width)
    assert (ids[~mask] == fill).all()
    assert TokenBatch.from_padded(ids, mask).to_list() == lists


def test_a_mask_may_count_anywhere_in_a_row():
    ids = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    mask = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]])
    for m in (mask, mask.astype(bool), mask.tolist()):
        assert TokenBatch.from_padded(ids, m).to_list() == [[1, 2], [3, 5], []]


def test_without_a_mask_all_ids_count():
    ids = np.arange(6).reshape(2, 3)
    for array in (ids, np.asfortranarray(ids), ids.astype(np.uint8), ids.astype(">i2"), np.repeat(ids, 2, 1)[:, ::2]):
        assert TokenBatch.from_padded(array).to_list() == [[0, 1, 2], [3, 4, 5]]
    assert TokenBatch.from_padded(np.empty((3, 0), np.int32)).to_list() == [[], [], []]


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (np.ones(3, int), None, "token ids: expected rank 2, got shape (3,); for one sequence of ids pass [ids]"),
        (np.ones((1, 2, 3), int), None, "token ids: expected rank 2, got shape (1, 2, 3)"),
        (np.ones((2, 3)), None, "token ids: expected integers, got dtype float64"),
        (np.ones((2, 3), int), np.ones((3, 2), bool), "mask has shape (3, 2), the token ids (2, 3)"),
        (np.ones((2, 3), int), np.ones(2, bool), "mask has shape (2,), the token ids (2, 3)"),
    ],
)
def test_what_is_no_rectangle_is_refused(ids, mask, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        TokenBatch.from_padded(ids, mask)


# ---- Any of the forms --------------------------------------------------------------------------------


def test_a_batch_is_passed_on_as_it_is(batch):
    assert TokenBatch.coerce(batch) is batch
    with pytest.raises(ValueError, match="a TokenBatch has none"):
        TokenBatch.coerce(batch, np.ones((5, 3), bool))


def test_lists_arrays_and_rectangles_are_told_apart(batch):
    ids, mask = batch.pad()
    assert TokenBatch.coerce(LISTS).to_list() == LISTS
    assert TokenBatch.coerce(iter(LISTS)).to_list() == LISTS
    assert TokenBatch.coerce(list(batch)).to_list() == LISTS
    assert TokenBatch.coerce(ids, mask).to_list() == LISTS
    assert TokenBatch.coerce(ids.tolist(), mask.tolist()).to_list() == LISTS
    assert TokenBatch.coerce(ids[:1]).to_list() == [[5, 6, 7]]
