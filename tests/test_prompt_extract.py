"""`PromptBuilder.extract`: from generated VLM ids back to token ids, by ids alone."""

import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import DecodeError, FastTokenizer, PromptBuilder, TokenBatch, VlmVocab
from fast_tokenizer.text import TextEncoder
from tests.text_tokenizers import BOS, EOS, sentencepiece_model, tokenizers_bpe, transformers_bpe

V = 50
VLM = VlmVocab(V, 1000, first_id=999 - 128, step=-1)
BUILDERS = {
    "sentencepiece": PromptBuilder(sentencepiece_model(), VLM),
    "tokenizers": PromptBuilder(tokenizers_bpe(), VLM, bos_id=BOS, eos_id=EOS),
    "transformers": PromptBuilder(transformers_bpe(), VLM),
}
LETTERS = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=BOS, eos_id=EOS)
LETTER_BUILDER = PromptBuilder(LETTERS, VLM)
ACTION, END = [ord(c) for c in "Action: "], ord("|")

kinds = pytest.mark.parametrize("kind", BUILDERS)
token_lists = st.lists(st.lists(st.integers(0, V - 1), max_size=12), max_size=4)


def a(*token_ids):
    return [871 - t for t in token_ids]


@kinds
@given(lists=token_lists, more=st.integers(0, 5), prompt=st.text(max_size=10))
def test_what_was_built_is_found_again(kind, lists, more, prompt):
    builder, n = BUILDERS[kind], len(lists)
    batch = builder.build([prompt] * n, np.zeros((n, 2)), TokenBatch.from_lists(lists))
    padded = np.pad(batch.tokens, ((0, 0), (0, more)))
    mask = np.pad(batch.token_mask, ((0, 0), (0, more)))
    generated = [row[m] for row, m in zip(batch.tokens, batch.loss_mask, strict=True)]
    after_marker = [ids[len(builder._marker) :] for ids in generated]
    for found, has_marker in (
        (builder.extract(padded), True),
        (builder.extract(padded, mask), True),
        (builder.extract(TokenBatch.from_padded(padded, mask)), True),
        (builder.extract(generated), True),
        (builder.extract(after_marker), False),
    ):
        assert found.tokens.to_list() == lists
        assert found.marker_found.tolist() == [has_marker] * n
        assert found.ok.all()


def test_ids_survive_that_text_would_not_give_back():
    """Neighbouring pieces merge when their text is encoded again: what decoding through text does to action tokens."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(model_type="bpe", vocab_size=340))
    first, last = processor.piece_to_id("h"), processor.piece_to_id("s")
    vlm = VlmVocab(last - first + 1, processor.vocab_size(), first_id=first)
    builder = PromptBuilder(processor, vlm)
    generated = [processor.piece_to_id(letter) for letter in "dric"]
    sequence = [*processor.encode("Action: "), *generated, *processor.encode("|"), EOS]
    text = processor.decode(sequence).partition("Action: ")[2].partition("|")[0]
    assert (text, len(generated), len(processor.encode(text))) == ("dric", 4, 2), "through text the ids change"
    assert builder.extract([sequence]).tokens.to_list() == [[i - first for i in generated]]


CASES = {
    # sequence: tokens, marker found, end found, ids that are no action tokens
    "whole": ([*ACTION, *a(1, 2), END, EOS], [1, 2], True, True, 0),
    "EOS alone ends": ([*ACTION, *a(1, 2), EOS, *a(3)], [1, 2], True, True, 0),
    "the first end counts": ([*ACTION, *a(1), END, *a(2), END, EOS], [1], True, True, 0),
    "EOS before the end marker": ([*ACTION, *a(1), EOS, *a(2), END], [1], True, True, 0),
    "an end before the marker is none": ([END, EOS, *ACTION, *a(1), END], [1], True, True, 0),
    "the first marker counts": ([*ACTION, *a(1), *ACTION, *a(2), END], [1, *[-1] * 8, 2], True, True, 8),
    "no marker": ([*a(1, 2), END, EOS], [1, 2], False, True, 0),
    "half a marker": ([*ACTION[:-1], *a(1), END], [*[-1] * 7, 1], False, True, 7),
    "no end": ([*ACTION, *a(1, 2)], [1, 2], True, False, 0),
    "no end, padded": ([*ACTION, *a(1, 2), 0, 0, 0], [1, 2], True, False, 0),
    "padding inside": ([*ACTION, *a(1), 0, *a(2), END], [1, -1, 2], True, True, 1),
    "text between": ([*ACTION, ord("x"), *a(1), 999, END], [-1, 1, -1], True, True, 2),
    "ids next to the range": ([*ACTION, 872, 871, 822, 821, END], [-1, 0, 49, -1], True, True, 2),
    "no id of the VLM": ([*ACTION, -1, 2**31 - 1, END], [-1, -1], True, True, 2),
    "no actions": ([*ACTION, END, EOS], [], True, True, 0),
    "marker alone": (ACTION, [], True, False, 0),
    "nothing": ([], [], False, False, 0),
    "padding alone": ([0, 0], [], False, False, 0),
}


@pytest.mark.parametrize(("ids", "tokens", "marker", "end", "other"), CASES.values(), ids=CASES)
def test_what_is_wrong_with_a_sequence_is_said(ids, tokens, marker, end, other):
    found = LETTER_BUILDER.extract([ids])
    assert found.tokens.to_list() == [tokens]
    assert (found.marker_found[0], found.end_found[0], found.not_action[0]) == (marker, end, other)
    assert found.ok.tolist() == [end and not other]


def test_all_cases_at_once_are_the_cases_one_by_one():
    rows = [ids for ids, *_ in CASES.values()]
    found = LETTER_BUILDER.extract(rows)
    assert found.tokens.to_list() == [tokens for _, tokens, *_ in CASES.values()]
    assert found.marker_found.tolist() == [c[2] for c in CASES.values()]
    assert found.end_found.tolist() == [c[3] for c in CASES.values()]
    assert found.not_action.tolist() == [c[4] for c in CASES.values()]
    width = max(map(len, rows))
    padded = np.array([row + [0] * (width - len(row)) for row in rows])
    assert LETTER_BUILDER.extract(padded).tokens.to_list() == found.tokens.to_list()


def test_a_row_is_described_in_one_line():
    found = LETTER_BUILDER.extract([[*ACTION, *a(1), END], [ord("x"), *a(1)]])
    assert found.describe(0) == "row 0: 1 ids"
    assert (
        found.describe(1)
        == "row 1: 2 ids; no 'Action: ', taken from the start; 1 no action tokens; neither '|' nor EOS"
    )


def test_strict_decoding_refuses_what_repairing_decoding_drops():
    tok = FastTokenizer.default()
    vlm = VlmVocab.paligemma(tok.vocab_size)
    builder = PromptBuilder(LETTERS, vlm)
    chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (2, 10, 3)), axis=1)
    tokens = tok.encode(chunks)
    batch = builder.build(["a", "b"], np.zeros((2, 1)), tokens)
    assert tok.decode(builder.extract(batch.tokens).tokens, 10, 3).tolist() == tok.decode(tokens, 10, 3).tolist()
    at = int(vlm.is_action(batch.tokens[1]).argmax())
    damaged = batch.tokens.copy()
    damaged[1, at] = ord("x")
    found = builder.extract(damaged)
    assert found.ok.tolist() == [True, False]
    with pytest.raises(DecodeError, match=re.escape("chunk 1: unknown token id: got -1")):
        tok.decode(found.tokens, 10, 3)
    assert tok.decode_with_status(found.tokens, 10, 3)[1].unknown.tolist() == [0, 1]


def test_no_text_is_touched():
    calls = []

    def encode(texts):
        calls.append(texts)
        return LETTERS.encode(texts)

    builder = PromptBuilder(TextEncoder(encode, BOS, EOS), VLM)
    assert calls == [["Action: ", "|"]], "the markers are encoded once"
    builder.extract([[*ACTION, *a(1), END]])
    assert len(calls) == 1


def test_one_sequence_is_no_batch():
    with pytest.raises(ValueError, match="for one sequence of ids pass"):
        LETTER_BUILDER.extract(np.array([1, 2, 3]))


# ---- Published checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fast_plus", "fast_libero_act_c50"])
def test_recorded_chunks_go_into_a_prompt_and_come_back(shared_data, name):
    """From actions to the ids that a pi0-FAST checkpoint is trained on, and back, with what the vocabulary loses."""
    tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / name)
    with np.load(shared_data / "golden" / f"{name}__edge_cases__float64.npz") as golden:
        chunks, ids, offsets = golden["chunks"], golden["ids"], golden["offsets"]
    builder = PromptBuilder(LETTERS, VlmVocab.paligemma(tok.vocab_size), tokenizer=tok)
    batch = builder.build(["go"] * len(chunks), np.zeros((len(chunks), 1)), chunks)
    on_actions = batch.loss_mask & (batch.tokens > 200)
    assert batch.tokens[on_actions].tolist() == (257023 - ids.astype(int)).tolist()
    tokens = tok.encode(chunks)
    assert batch.dropped.tolist() == tokens.dropped.tolist()
    assert batch.dropped.any() == (name != "fast_plus")
    found = builder.extract(batch.tokens)
    assert found.ok.all()
    assert found.tokens.ids.tolist() == ids.tolist()
    assert found.tokens.offsets.tolist() == offsets.tolist()
