"""`VlmVocab`: where token ids lie in a VLM's vocabulary, what lies there already, what is refused."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import TokenBatch, VlmVocab

PALIGEMMA_BLOCKS = [
    ("control ids", range(4)),
    ("ordinary pieces", range(4, 256000)),
    ("<loc>", range(256000, 257024)),
    ("<seg>", range(257024, 257152)),
    ("<image>", range(257152, 257153)),
    ("rows without a piece", range(257153, 2**31)),
]


def exact_match(text):
    return f"^{re.escape(text)}$"


@st.composite
def vocabs(draw):
    """Any placement of a small vocabulary in a larger one."""
    size, below, above = draw(st.integers(1, 300)), draw(st.integers(0, 1000)), draw(st.integers(0, 1000))
    step = draw(st.sampled_from([1, -1]))
    first = below if step == 1 else below + size - 1
    return VlmVocab(size, below + size + above, first, step)


# ---- PaliGemma ---------------------------------------------------------------------------------------


def test_published_checkpoints_have_these_ids():
    vlm = VlmVocab.paligemma(2048)
    # Ends of <loc>, first ordinary piece; two ids that lerobot's parity test expects of FAST+.
    known = {0: 257023, 1023: 256000, 1024: 255999, 2047: 254976, 2003: 255020, 1434: 255589}
    assert vlm.to_vlm(list(known)).tolist() == list(known.values())
    assert vlm.to_tokens(list(known.values())).tolist() == list(known)
    assert (vlm.vocab_size, vlm.vlm_vocab_size) == (2048, 257152)


@pytest.mark.parametrize(
    ("anchor", "first"), [("seg", 257023), ("loc", 255999), (0, 257151), (128, 257023), (1100, 256051)]
)
def test_an_anchor_says_where_token_id_0_lies(anchor, first):
    assert VlmVocab.paligemma(100, anchor=anchor).to_vlm([0, 99]).tolist() == [first, first - 99]


@pytest.mark.parametrize(
    ("vocab_size", "options", "message"),
    [
        (10, {"anchor": "image"}, "anchor must be one of ['loc', 'seg'] or a number of ids to skip, got 'image'"),
        (10, {"anchor": -1}, "anchor must be 0 or more, got -1"),
        (10, {"anchor": 1.5}, "anchor must be an integer, got 1.5"),
        (0, {}, "vocab_size must be positive, got 0"),
        (257021, {}, "with 128 ids skipped there is room for 257020 action tokens, got vocab_size 257021"),
        (1, {"anchor": 257151}, "with 257151 ids skipped there is room for 0 action tokens, got vocab_size 1"),
        (10, {"embedding_size": 257151}, "embedding_size must be 257152 or more, got 257151"),
    ],
)
def test_what_does_not_fit_paligemma_is_refused(vocab_size, options, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        VlmVocab.paligemma(vocab_size, **options)


def test_the_largest_vocabulary_ends_above_the_control_ids():
    assert VlmVocab.paligemma(257020).to_vlm([257019]).tolist() == [4]


# ---- Co-training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "task", "collides"),
    [
        ("seg", "detection", "token ids 0..1023 lie on <loc>, which co-training on detection answers in"),
        ("seg", "segmentation", "token ids 0..1023 lie on <loc>, which co-training on segmentation answers in"),
        (0, "segmentation", "token ids 128..1151 lie on <loc>, which co-training on segmentation answers in; "
         "token ids 0..127 lie on <seg>, which co-training on segmentation answers in"),
        ("loc", "detection", None),
        ("loc", "segmentation", None),
        (1151, "detection", "token ids 0..0 lie on <loc>, which co-training on detection answers in"),
    ],
)  # fmt: skip
def test_a_collision_with_a_co_training_task_is_refused_unless_allowed(anchor, task, collides):
    allowed = VlmVocab.paligemma(2048, anchor=anchor, co_training=[task], allow_collision=True)
    assert allowed == VlmVocab.paligemma(2048, anchor=anchor), "without a declared task nothing is refused"
    for tasks in ([task], task):
        if collides is None:
            assert VlmVocab.paligemma(2048, anchor=anchor, co_training=tasks) == allowed
        else:
            with pytest.raises(ValueError, match=f'^{re.escape(collides)}\\. anchor="loc"'):
                VlmVocab.paligemma(2048, anchor=anchor, co_training=tasks)


def test_seg_alone_does_not_collide_with_detection():
    VlmVocab.paligemma(128, anchor=0, co_training=["detection"])
    with pytest.raises(ValueError, match=r"^token ids 128\.\.128 lie on <loc>"):
        VlmVocab.paligemma(129, anchor=0, co_training=["detection"])


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("unknown", ["caption", None, ["detection"]])
def test_an_unknown_task_is_refused_whatever_is_allowed(unknown, allowed):
    message = f"co-training task must be one of ['detection', 'segmentation'], got {unknown!r}"
    with pytest.raises(ValueError, match=exact_match(message)):
        VlmVocab.paligemma(10, anchor="loc", co_training=["detection", unknown], allow_collision=allowed)


@pytest.mark.parametrize("other", [None, 5])
def test_what_is_no_list_of_tasks_is_refused(other):
    with pytest.raises(ValueError, match=f"^co_training must be a sequence of tasks, got {other}$"):
        VlmVocab.paligemma(10, anchor="loc", co_training=other)


# ---- Mapping -----------------------------------------------------------------------------------------


@given(vocabs(), st.data())
def test_mapping_is_the_same_id_by_id(vlm, data):
    by_hand = {t: vlm.first_id + vlm.step * t for t in range(vlm.vocab_size)}
    assert vlm.action_ids.tolist() == list(by_hand.values())
    tokens = data.draw(st.lists(st.integers(0, vlm.vocab_size - 1), max_size=20))
    mapped = vlm.to_vlm(tokens)
    assert mapped.tolist() == [by_hand[t] for t in tokens]
    assert vlm.to_tokens(mapped).tolist() == tokens
    probe = np.arange(-5, vlm.vlm_vocab_size + 5)
    assert vlm.is_action(probe).tolist() == [p in by_hand.values() for p in probe.tolist()]


@given(vocabs(), st.data())
def test_the_first_id_out_of_range_is_named(vlm, data):
    outside = st.one_of(st.integers(-(2**62), -1), st.integers(vlm.vocab_size, 2**62))
    tokens = data.draw(st.lists(st.one_of(st.integers(0, vlm.vocab_size - 1), outside), min_size=1, max_size=20))
    bad = [(i, t) for i, t in enumerate(tokens) if not 0 <= t < vlm.vocab_size]
    if not bad:
        assert len(vlm.to_vlm(tokens)) == len(tokens)
        return
    more = f"; and {len(bad) - 1} more" if len(bad) > 1 else ""
    message = f"token id {bad[0][1]} at index {bad[0][0]} is outside 0..{vlm.vocab_size - 1}{more}"
    with pytest.raises(ValueError, match=exact_match(message)):
        vlm.to_vlm(tokens)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_any_integers_of_any_shape_are_taken(dtype):
    vlm = VlmVocab.paligemma(2048)
    tokens = np.arange(120).reshape(2, 3, 20)
    for array in (tokens.astype(dtype), np.asfortranarray(tokens.astype(dtype)), tokens.astype(dtype)[:, ::-1, ::2]):
        mapped = vlm.to_vlm(array)
        assert (mapped.dtype, mapped.shape) == (np.int32, array.shape)
        assert mapped.tolist() == (257023 - array.astype(int)).tolist()
        assert vlm.to_tokens(mapped).tolist() == array.tolist()
    assert not vlm.is_action(tokens.astype(dtype)).any(), "small ids are text"
    assert vlm.to_vlm(7) == 257016
    assert vlm.to_vlm([]).tolist() == []
    assert vlm.to_vlm(np.empty((3, 0))).shape == (3, 0)


def test_a_batch_stays_a_batch_with_its_counts():
    batch = TokenBatch.from_lists([[5, 0], [], [2047]])
    counts = {"saturated": [3, 0, 1], "clipped": [0, 2, 0], "dropped": [0, 4, 5], "rechecked": [False, True, True]}
    batch = TokenBatch(batch.ids, batch.offsets, *(np.array(c) for c in counts.values()))
    vlm = VlmVocab.paligemma(2048)
    mapped = vlm.to_vlm(batch)
    assert mapped.to_list() == [[257018, 257023], [], [254976]]
    assert {name: getattr(mapped, name).tolist() for name in counts} == counts
    assert vlm.to_tokens(mapped).to_list() == batch.to_list()
    assert vlm.is_action(mapped).tolist() == [True] * 3
    assert batch.to_list() == [[5, 0], [], [2047]], "what was given is not changed"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.to_vlm([[0, 1], [7, 10]]), "token id 10 at index (1, 1) is outside 0..9"),
        (lambda v: v.to_vlm(10), "token id 10 at index () is outside 0..9"),
        (lambda v: v.to_vlm([3, -1, 2**40]), "token id -1 at index 1 is outside 0..9; and 1 more"),
        (lambda v: v.to_vlm(np.array([2**64 - 1], np.uint64)), f"token id {2**64 - 1} at index 0 is outside 0..9"),
        (lambda v: v.to_vlm(TokenBatch.from_lists([[1], [], [2, 10, 11]])),
         "token id 10 at chunk 2, position 1 is outside 0..9; and 1 more"),
        (lambda v: v.to_tokens([257023, 1]), "VLM id 1 at index 1 is no action token, those are 257014..257023"),
        (lambda v: v.to_tokens(TokenBatch.from_lists([[257023], [257013]])),
         "VLM id 257013 at chunk 1, position 0 is no action token, those are 257014..257023"),
        (lambda v: v.to_vlm([1.0]), "token ids: expected integers, got dtype float64"),
        (lambda v: v.to_vlm([True]), "token ids: expected integers, got dtype bool"),
        (lambda v: v.to_vlm("12"), "token ids: expected integers, got dtype <U2"),
        (lambda v: v.is_action([None]), "VLM ids: expected integers, got dtype object"),
        (lambda v: v.to_tokens([[1], [1, 2]]),
         "VLM ids: expected a rectangular array; TokenBatch.from_lists takes others"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_is_refused(call, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        call(VlmVocab.paligemma(10))


def test_a_damaged_batch_is_refused():
    batch = TokenBatch.from_lists([[1, 2]])
    batch.offsets[-1] = 1
    for call in (VlmVocab.paligemma(10).to_vlm, VlmVocab.paligemma(10).is_action):
        with pytest.raises(ValueError, match="offsets must rise"):
            call(batch)


# ---- Report ------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(0, 3000), st.sampled_from([257152, 257216]))
def test_slots_say_what_each_id_lies_on(vocab_size, skip, embedding_size):
    vlm = VlmVocab.paligemma(vocab_size, anchor=skip, embedding_size=embedding_size)
    assert [t for slot in vlm.slots for t in slot.token_ids] == list(range(vocab_size))
    for slot in vlm.slots:
        assert slot.count == len(slot.token_ids) == len(slot.vlm_ids) > 0
        assert sorted(vlm.to_vlm(slot.token_ids).tolist()) == list(slot.vlm_ids)
        (block,) = (ids for name, ids in PALIGEMMA_BLOCKS if name == slot.name)
        assert slot.vlm_ids[0] in block
        assert slot.vlm_ids[-1] in block
    assert len({slot.name for slot in vlm.slots}) == len(vlm.slots)


def test_the_table_has_a_row_per_slot():
    lines = VlmVocab.paligemma(2048, anchor=0).describe().splitlines()
    assert lines[0] == "2048 action tokens on VLM ids 255104..257151 of 257152"
    assert [line.split() for line in lines[1:]] == [
        ["<seg>", "token", "ids", "0..127", "VLM", "ids", "257024..257151", "128"],
        ["<loc>", "token", "ids", "128..1151", "VLM", "ids", "256000..257023", "1024"],
        ["ordinary", "pieces", "token", "ids", "1152..2047", "VLM", "ids", "255104..255999", "896"],
    ]
    assert "pad_id 7, bos_id 8, eos_id 9" in VlmVocab.private(7).describe()


def test_blocks_without_a_name_for_all_are_one():
    (slot,) = VlmVocab(5, 20, first_id=10, step=-1).slots
    assert (slot.name, slot.token_ids, slot.vlm_ids) == ("VLM vocabulary", range(5), range(6, 11))


# ---- Private embedding, and any other ----------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [1, 2, 1024, 2048])
def test_special_ids_of_a_private_embedding_are_no_token(vocab_size):
    vlm = VlmVocab.private(vocab_size)
    specials = [vlm.pad_id, vlm.bos_id, vlm.eos_id]
    assert sorted([*vlm.action_ids.tolist(), *specials]) == list(range(vlm.vlm_vocab_size)), "one row each, none over"
    assert vlm.to_vlm([0]).tolist() == [0]
    assert not vlm.is_action(specials).any()
    with pytest.raises(ValueError, match=f"VLM id {vlm.eos_id} at index 1 is no action token"):
        vlm.to_tokens([0, vlm.eos_id])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_id": 5, "step": -1},
         "10 action tokens would lie on VLM ids -4..5, outside the VLM's vocabulary 0..19"),
        ({"first_id": 11}, "10 action tokens would lie on VLM ids 11..20, outside the VLM's vocabulary 0..19"),
        ({"first_id": -1}, "first_id must be 0 or more, got -1"),
        ({"first_id": 0.5}, "first_id must be an integer, got 0.5"),
        ({"first_id": 0, "step": 2}, "step must be 1 or -1, got 2"),
        ({"first_id": 0, "step": 1.0}, "step must be 1 or -1, got 1.0"),
        ({"first_id": 0, "step": True}, "step must be an integer, got True"),
        ({"first_id": 0, "pad_id": True}, "pad_id must be an integer, got True"),
        ({"first_id": 0, "bos_id": 15.0}, "bos_id must be an integer, got 15.0"),
        ({"first_id": 0, "pad_id": 0}, "pad_id 0 is also the VLM id of token id 0"),
        ({"first_id": 12, "step": -1, "bos_id": 4}, "bos_id 4 is also the VLM id of token id 8"),
        ({"first_id": 0, "eos_id": 20}, "eos_id must lie in the VLM's vocabulary 0..19, got 20"),
        ({"first_id": 0, "eos_id": 11, "pad_id": 11},
         "pad, BOS and EOS need an id each, got {'pad_id': 11, 'eos_id': 11}"),
        ({"first_id": 0, "blocks": (("a", 1),)}, "blocks must rise from id 0, got [1]"),
        ({"first_id": 0, "blocks": (("a", 0), ("b", 9), ("c", 9))}, "blocks must rise from id 0, got [0, 9, 9]"),
        ({"first_id": 0, "blocks": ()}, "blocks must rise from id 0, got []"),
    ],
)  # fmt: skip
def test_a_placement_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        VlmVocab(10, 20, **arguments)


def test_equal_placements_are_equal_wherever_they_come_from():
    vlm = VlmVocab.paligemma(np.int64(2048))
    assert vlm == pickle.loads(pickle.dumps(vlm)) == VlmVocab.paligemma(2048, anchor=128)
    assert hash(vlm) == hash(VlmVocab.paligemma(2048))
    assert type(vlm.vocab_size) is int
    numpy = VlmVocab(10, 20, 0, np.int64(1), pad_id=np.int64(15))
    assert [type(v) for v in (numpy.step, numpy.pad_id)] == [int, int]
    assert vlm != VlmVocab.paligemma(2048, anchor="loc")
