"""`PromptBuilder.build`: openpi's rules for one sample, read out in plain Python, against the batch."""

import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_tokenizer import FastTokenizer, PromptBuilder, TokenBatch, VlmVocab
from fast_tokenizer.prompt import clean_prompt
from fast_tokenizer.state import state_bins
from fast_tokenizer.text import TextEncoder
from tests.text_tokenizers import BOS, EOS, PAD, sentencepiece_model, tokenizers_bpe, transformers_bpe

V = 50
VLM = VlmVocab(V, 1000, first_id=999 - 128, step=-1)
SPECIALS = {"bos_id": BOS, "eos_id": EOS}
#: SentencePiece as it comes adds a space in front and takes double ones away; PaliGemma's does not.
SOURCES = {
    "sentencepiece": sentencepiece_model(),
    "sentencepiece that normalises": sentencepiece_model(
        normalization_rule_name="nmt_nfkc", add_dummy_prefix=True, remove_extra_whitespaces=True
    ),
    "tokenizers": tokenizers_bpe(),
    "transformers": transformers_bpe(),
}
BUILDERS = {name: PromptBuilder(source, VLM, **SPECIALS) for name, source in SOURCES.items()}
ENCODE = {name: builder._text.encode for name, builder in BUILDERS.items()}
LETTERS = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=BOS, eos_id=EOS)
WIDE = VlmVocab(V, 2**21, first_id=2**20 + 2**18)  # above every letter

kinds = pytest.mark.parametrize("kind", SOURCES)
token_lists = st.lists(st.integers(0, V - 1), max_size=12)
texts = st.one_of(st.text(max_size=20), st.sampled_from(["Pick_UP the red cup", " _open_ the drawer\n", "İ|Action: "]))


def exact_match(text):
    return f"^{re.escape(text)}$"


def reference(encode, prompt, state, token_ids, max_len):
    """One sample by openpi's rules; states outside [-1, 1] clipped. Tokens, three masks, tokens cut, values clipped."""
    text = prompt.lower().strip().replace("_", " ")
    bins, state_clipped = [], 0
    for value in state:
        b = math.floor((Fraction(float(value)) + 1) * 128)  # exact
        bins.append(min(max(b, 0), 255))
        state_clipped += value < -1 or value > 1
    prefix = [BOS, *encode([f"Task: {text}, State: {' '.join(str(b) for b in bins)};\n"])[0]]
    postfix = []
    if token_ids is not None:
        postfix = [*encode(["Action: "])[0], *(1000 - 1 - 128 - t for t in token_ids), *encode(["|"])[0], EOS]
    tokens = prefix + postfix
    ar = [0] * len(prefix) + [1] * len(postfix)
    loss = [False] * len(prefix) + [True] * len(postfix)
    mask = [True] * len(tokens)
    pad = [False] * (max_len - len(tokens))
    rows = [(row + pad)[:max_len] for row in (tokens, mask, ar, loss)]
    return *rows, max(0, len(tokens) - max_len), state_clipped


def assert_as_reference(batch, encode, prompts, states, tokens, max_len):
    arrays = (batch.tokens, batch.token_mask, batch.ar_mask, batch.loss_mask, batch.cut, batch.state_clipped)
    for i, (prompt, state) in enumerate(zip(prompts, states, strict=True)):
        expected = reference(encode, prompt, state, None if tokens is None else tokens[i], max_len)
        assert [a[i].tolist() for a in arrays] == list(expected)
    assert [a.dtype for a in arrays] == [np.int32, bool, np.int32, bool, np.int64, np.int64]
    assert all(a.shape == (len(prompts), max_len) for a in arrays[:4])


# ---- Against the reference ---------------------------------------------------------------------------


@kinds
@settings(max_examples=60)
@given(data=st.data())
def test_a_batch_is_its_samples_by_the_rules(kind, data):
    n = data.draw(st.integers(0, 4))
    width = data.draw(st.sampled_from([32, 64]))
    state = st.lists(st.floats(-1.5, 1.5, width=width), min_size=3, max_size=3)
    prompts = data.draw(st.lists(texts, min_size=n, max_size=n))
    states = np.array(data.draw(st.lists(state, min_size=n, max_size=n)), f"f{width // 8}").reshape(n, 3)
    tokens = data.draw(st.one_of(st.none(), st.lists(token_lists, min_size=n, max_size=n)))
    batch = None if tokens is None else TokenBatch.from_lists(tokens)

    lengths = BUILDERS[kind].lengths(prompts, states, batch)
    longest = int(lengths.max(initial=0))
    built = BUILDERS[kind].build(prompts, states, batch)
    assert_as_reference(built, ENCODE[kind], prompts, states, tokens, longest)
    assert built.token_mask.sum(axis=1).tolist() == lengths.tolist()
    assert not built.cut.any()

    max_len = data.draw(st.integers(1, longest + 5))
    cut = BUILDERS[kind].build(prompts, states, batch, max_len=max_len, overlong="cut")
    assert_as_reference(cut, ENCODE[kind], prompts, states, tokens, max_len)


@kinds
def test_inference_is_the_prefix_of_training(kind):
    prompts, states = ["pick up the cup", "Open"], np.array([[0.1, -0.3], [0.5, 0.9]])
    whole = BUILDERS[kind].build(prompts, states, TokenBatch.from_lists([[1, 2, 3], [49]]))
    prefix = BUILDERS[kind].build(prompts, states)
    for i in range(2):
        length = int(prefix.token_mask[i].sum())
        assert whole.tokens[i, :length].tolist() == prefix.tokens[i, :length].tolist()
        assert whole.ar_mask[i].argmax() == whole.loss_mask[i].argmax() == length
    assert not prefix.ar_mask.any()
    assert not prefix.loss_mask.any()


def test_the_text_is_the_published_one():
    """Written out once, so that the reference is not the only witness."""
    builder = PromptBuilder(LETTERS, WIDE)
    batch = builder.build(
        ["  Pick_up the CUP "], [[-1.0, -0.0, 0.5, 1.0]], TokenBatch.from_lists([[0, 49]]), max_len=80
    )
    first = WIDE.first_id
    text = [*map(ord, "Task: pick up the cup, State: 0 128 192 255;\n")]
    assert batch.tokens[0].tolist() == (
        [BOS, *text, *map(ord, "Action: "), first, first + 49, ord("|"), EOS] + [0] * (80 - 1 - len(text) - 12)
    )


def test_prompts_are_cleaned_as_published():
    assert clean_prompt("\n _Pick__UP\tthe_CUP_ \n") == " pick  up\tthe cup "
    assert clean_prompt("ÄÖ\ndone") == "äö\ndone", "line ends inside stay"
    assert clean_prompt("\n _Pick__UP\nthe_CUP_ \n", "pi0.5") == " Pick  UP the CUP "


def test_the_rule_of_a_builder_is_one_of_two():
    with pytest.raises(ValueError, match=r"prompt_rule must be 'pi0-fast' or 'pi0.5', got 'pi0'"):
        PromptBuilder(LETTERS, WIDE, prompt_rule="pi0")


# ---- States ------------------------------------------------------------------------------------------


def test_every_edge_falls_into_the_bin_that_begins_there():
    edges = np.arange(256) / 128 - 1
    for dtype in (np.float32, np.float64):
        at = edges.astype(dtype)
        below = np.nextafter(at, dtype(-2))
        assert state_bins(at[None])[0].tolist() == [list(range(256))]
        assert state_bins(below[None])[0].tolist() == [[0, *range(255)]]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_no_state_leaves_the_256_bins(values):
    bins, clipped = state_bins([values] if values else np.empty((1, 0)))
    assert bins.tolist() == [[min(max(math.floor((Fraction(v) + 1) * 128), 0), 255) for v in values]]
    assert clipped.tolist() == [sum(abs(v) > 1 for v in values)]


def test_clipped_is_what_lies_outside_not_what_is_in_the_last_bin():
    bins, clipped = state_bins([[0.9921875, 1.0, np.nextafter(1.0, 2)], [-1.0, np.nextafter(-1.0, -2), -1e300]])
    assert bins.tolist() == [[255, 255, 255], [0, 0, 0]]
    assert clipped.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.float16, np.float32])
def test_states_of_any_number_type(dtype):
    assert state_bins(np.array([[0, 1]], dtype))[0].tolist() == [[128, 255]]
    if dtype == np.int8:
        assert [a.tolist() for a in state_bins(np.array([[-128, -1]], dtype))] == [[[0, 0]], [1]]


def test_states_outside_are_refused_where_asked():
    builder = PromptBuilder(LETTERS, WIDE, out_of_range="refuse")
    states = np.zeros((3, 2), np.float32)
    states[1, 1], states[2, 0] = -1.5, 2
    message = "state 1, dimension 1: expected a value in [-1, 1], got -1.5; 2 of 6 values are such"
    with pytest.raises(ValueError, match=exact_match(message)):
        builder.build(["a"] * 3, states)
    assert builder.build(["a"], [[-1.0, 1.0]]).state_clipped.tolist() == [0]


def test_a_misspelt_choice_does_not_clip():
    with pytest.raises(ValueError, match=r"^out_of_range must be 'clip' or 'refuse', got 'Refuse'$"):
        state_bins([[2.0]], "Refuse")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("out_of_range", ["clip", "refuse"])
def test_a_state_that_is_not_finite_is_refused_always(value, out_of_range):
    builder = PromptBuilder(LETTERS, WIDE, out_of_range=out_of_range)
    message = f"state 0, dimension 1: expected a value in [-1, 1], got {value}; 1 of 2 values are such"
    with pytest.raises(ValueError, match=exact_match(message)):
        builder.build(["a"], [[0.0, value]])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros(3), "expected states of shape (N, S), got float64 of shape (3,); for one state pass [state]"),
        (np.zeros((1, 2, 3)), "expected states of shape (N, S), got float64 of shape (1, 2, 3)"),
        ([[True]], "expected states of shape (N, S), got bool of shape (1, 1)"),
        ([["0.5"]], "expected states of shape (N, S), got <U3 of shape (1, 1)"),
        (np.zeros((2, 3)), "got 1 prompts, but states of shape (2, 3)"),
        ([], "got 1 prompts, but states of shape (0, 0)"),
    ],
)
def test_states_of_another_form_are_refused(states, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        PromptBuilder(LETTERS, WIDE).build(["a"], states)


def test_ragged_states_are_refused():
    with pytest.raises(ValueError, match=r"^expected states of shape \(N, S\), got no array of numbers: "):
        PromptBuilder(LETTERS, WIDE).build(["a", "b"], [[0.0], [0.0, 0.5]])


@kinds
def test_an_empty_batch_is_a_batch(kind):
    for actions in (None, TokenBatch.from_lists([])):
        batch = BUILDERS[kind].build([], [], actions, max_len=5)
        assert (batch.tokens.shape, batch.cut.shape, batch.state_clipped.shape) == ((0, 5), (0,), (0,))
        assert BUILDERS[kind].lengths([], [], actions).shape == (0,)


@kinds
def test_the_name_of_a_special_token_in_a_prompt_is_text(kind):
    batch = BUILDERS[kind].build(["pick <eos> up <pad>"], [[0.0]])
    ids = batch.tokens[0, 1:]  # without BOS
    assert not np.isin([PAD, EOS, BOS], ids).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("as_list", [False, True])
def test_tensors_are_taken(dtype, as_list):
    rng = np.random.default_rng(0)
    states, chunks = (
        torch.tensor(rng.uniform(-0.9, 0.9, shape)).to(getattr(torch, dtype)) for shape in ((4, 3), (4, 16, 3))
    )
    tok = FastTokenizer.default()
    builder = PromptBuilder(LETTERS, VlmVocab(tok.vocab_size, 2**21, first_id=2**20 + 2**18), tokenizer=tok)
    expected = builder.build(["a"] * 4, states.double().numpy(), chunks.double().numpy())
    states.requires_grad_()
    given = (list(states), list(chunks)) if as_list else (states, chunks)
    assert builder.build(["a"] * 4, *given).tokens.tolist() == expected.tokens.tolist()


# ---- Length ------------------------------------------------------------------------------------------


def test_overlong_sequences_are_refused_and_named():
    builder = PromptBuilder(LETTERS, WIDE)
    tokens = TokenBatch.from_lists([[1], [1] * 30, [1] * 5])
    lengths = builder.lengths(["a", "b", "cc"], np.zeros((3, 1)), tokens)
    assert lengths.tolist() == [33, 62, 38]
    message = (
        "sequence 1 has 62 tokens (22 of prompt and state, 40 of actions), more than max_len 37; 2 of 3 are too long; "
        "recommend_max_len() says what would do, overlong='cut' cuts"
    )
    with pytest.raises(ValueError, match=exact_match(message)):
        builder.build(["a", "b", "cc"], np.zeros((3, 1)), tokens, max_len=37)
    cut = builder.build(["a", "b", "cc"], np.zeros((3, 1)), tokens, max_len=37, overlong="cut")
    assert cut.cut.tolist() == [0, 25, 1]
    assert builder.build(["a", "b", "cc"], np.zeros((3, 1)), tokens, max_len=62).cut.tolist() == [0, 0, 0]


def test_a_cut_may_leave_no_actions_at_all():
    batch = PromptBuilder(LETTERS, WIDE).build(
        ["a"], np.zeros((1, 1)), TokenBatch.from_lists([[1]]), max_len=5, overlong="cut"
    )
    assert batch.tokens.tolist() == [[BOS, *map(ord, "Task")]]
    assert (batch.cut.tolist(), batch.loss_mask.any()) == ([28], False)


# ---- Actions -----------------------------------------------------------------------------------------


def test_chunks_are_encoded_by_the_builder_s_tokenizer_and_its_counts_kept():
    rng = np.random.default_rng(0)
    chunks = np.cumsum(rng.normal(0, 0.02, (100, 16, 3)), axis=1)
    tok = FastTokenizer.fit(chunks, vocab_size=200, normalize="quantile", clip=1.0, range_quantile=0.999)
    vlm = VlmVocab(tok.vocab_size, 2**21, first_id=2**20 + 2**18)
    builder = PromptBuilder(LETTERS, vlm, tokenizer=tok)
    prompts, states = ["go"] * 100, np.zeros((100, 3))
    tokens = tok.encode(chunks)
    from_chunks, from_tokens = builder.build(prompts, states, chunks), builder.build(prompts, states, tokens)
    assert from_chunks.tokens.tolist() == from_tokens.tokens.tolist()
    for batch in (from_chunks, from_tokens):
        assert batch.saturated.tolist() == tokens.saturated.tolist()
        assert batch.clipped.tolist() == tokens.clipped.tolist()
    assert tokens.saturated.any()
    assert tokens.clipped.any()
    assert not builder.build(prompts, states).saturated.any()


@pytest.mark.parametrize(
    ("prompts", "actions", "message"),
    [
        ("go", None, "expected a sequence of prompts, got one text; for one prompt pass [prompt]"),
        (["go", 5], None, "prompt 1: expected a text, got 5"),
        (["go", b"go"], None, "prompt 1: expected a text, got b'go'"),
        (["go", "up \ud800"], None, "prompt 1: is no Unicode text: lone surrogate '\\ud800' at 3"),
        (["go"], None, "got 1 prompts, but states of shape (2, 1)"),
        (["go", "on"], TokenBatch.from_lists([[1]]), "got 2 prompts, but 1 chunks"),
        (["go", "on"], TokenBatch.from_lists([[1], [2, V]]), f"token id {V} at chunk 1, position 1 is outside 0..49"),
        (["go", "on"], np.zeros((2, 5, 3)), "chunks need PromptBuilder(..., tokenizer=...); a TokenBatch does not"),
        (["go", "\U0010ffff"], None, "prompt 1 has id 1114111, outside the VLM's vocabulary 0..99999"),
    ],
)
def test_what_does_not_go_together_is_refused(prompts, actions, message):
    builder = PromptBuilder(LETTERS, VlmVocab(V, 100_000, first_id=99_000))
    with pytest.raises(ValueError, match=exact_match(message)):
        builder.build(prompts, np.zeros((2, 1)), actions)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"out_of_range": "ignore"}, {}, "out_of_range must be 'clip' or 'refuse', got 'ignore'"),
        ({}, {"overlong": "truncate"}, "overlong must be 'refuse' or 'cut', got 'truncate'"),
        ({}, {"max_len": 0}, "max_len must be positive, got 0"),
        ({}, {"max_len": 2**20 + 1}, "max_len must be at most 1048576, got 1048577"),
        ({}, {"max_len": 9.5}, "max_len must be an integer, got 9.5"),
        ({"tokenizer": FastTokenizer.default()}, {}, "the tokenizer has 2048 tokens, the VLM room for 50"),
    ],
)
def test_bad_options_are_refused(options, call, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        PromptBuilder(LETTERS, WIDE, **options).build(["a"], [[0.0]], **call)


@pytest.mark.parametrize(
    ("vlm", "specials", "message"),
    [
        (
            VlmVocab(V, 1000, first_id=100),
            {},
            "'Action: ' has ids [65, 99, 116, 105, 111, 110, 58, 32], which are action",
        ),
        (VlmVocab(5, 1000, first_id=120), {}, "'|' has ids [124], which are action tokens: 5 action tokens on VLM ids"),
        (VlmVocab(V, 1000, first_id=500), {"bos_id": 500}, "BOS has ids [500], which are action tokens"),
        (VlmVocab(V, 1000, first_id=500), {"eos_id": 549}, "EOS has ids [549], which are action tokens"),
        (VlmVocab(V, 1000, first_id=500), {"eos_id": 1000}, "EOS has id 1000, outside the VLM's vocabulary 0..999"),
        (VlmVocab(5, 120, first_id=20), {}, "'|' has id 124, outside the VLM's vocabulary 0..119"),
        (VlmVocab(3, 1000, first_id=0), {}, "VLM id 0 pads, and is an action token: 3 action tokens on VLM ids 0..2"),
    ],
)
def test_markers_that_cannot_be_told_from_actions_are_refused(vlm, specials, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        PromptBuilder(LETTERS, vlm, **specials)


def test_a_text_tokenizer_without_the_markers_is_refused():
    silent = TextEncoder(lambda texts: [[] for _ in texts], BOS, EOS)
    with pytest.raises(ValueError, match=r"^the text tokenizer has no ids for 'Action: '$"):
        PromptBuilder(silent, WIDE)


def test_a_text_tokenizer_that_takes_a_batch_for_one_text_is_refused():
    joining = TextEncoder(lambda texts: LETTERS.encode(texts)[:2], BOS, EOS)
    with pytest.raises(ValueError, match="the text tokenizer made 2 sequences of 3 texts"):
        PromptBuilder(joining, WIDE).build(["a"] * 3, np.zeros((3, 1)))


@kinds
def test_a_builder_reaches_another_process(kind):
    builder = PromptBuilder(SOURCES[kind], VLM, tokenizer=None, **SPECIALS)
    arguments = (["pick up"], [[0.5]], TokenBatch.from_lists([[1, 2]]))
    again = pickle.loads(pickle.dumps(builder))
    assert again.build(*arguments).tokens.tolist() == builder.build(*arguments).tokens.tolist()
