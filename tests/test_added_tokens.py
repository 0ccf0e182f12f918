"""`VlmVocab.add_to_tokenizer`, with small tokenizers of `transformers` made here."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from fast_tokenizer import VlmVocab

SENTENCES = ["pick up the red cup", "open the drawer", "put the cup into the drawer", "push the button twice"]


def exact_match(text):
    return f"^{re.escape(text)}$"


def words(vocab):
    model = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")


def plain_words():
    return words({"<unk>": 0, "pick": 1, "up": 2})


def byte_level_bpe():
    """As Qwen's: byte-level BPE, whose special tokens come after the model's vocabulary."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    model.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken("<|vision_start|>", special=True), AddedToken("<tool>")])
    return tokenizer


def lower_casing_words():
    tokenizer = plain_words()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


KINDS = [plain_words, byte_level_bpe, lower_casing_words]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("token_format", ["<robot_action_{i}>", "<|ACTION_token_{i}|>"])
def test_the_tokens_are_a_range_above_all_others(make, token_format):
    tokenizer = make()
    before = tokenizer.get_vocab()
    vlm = VlmVocab.add_to_tokenizer(tokenizer, 500, token_format=token_format)
    assert (vlm.vocab_size, vlm.first_id, vlm.step) == (500, len(before), 1)
    assert vlm.vlm_vocab_size == len(tokenizer) == len(before) + 500
    names = [token_format.format(i=i) for i in range(500)]
    assert tokenizer.convert_tokens_to_ids(names) == vlm.action_ids.tolist()
    assert tokenizer.get_vocab() == before | dict(zip(names, vlm.action_ids.tolist(), strict=True))
    text = f"pick {names[3]}{names[499]} up"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert vlm.to_tokens([i for i in ids if vlm.is_action(i)]).tolist() == [3, 499]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["pick", "up"]
    assert [(s.name, s.token_ids) for s in vlm.slots] == [(token_format, range(500))]


@pytest.mark.parametrize("make", KINDS)
def test_a_text_that_only_looks_like_a_token_is_none(make):
    tokenizer = make()
    vlm = VlmVocab.add_to_tokenizer(tokenizer, 10, token_format="<ACTION_{i}>")
    ids = tokenizer("<action_3><ACTION_10>", add_special_tokens=False)["input_ids"]
    assert not vlm.is_action(ids).any()


@pytest.mark.parametrize("make", KINDS)
def test_what_is_there_already_is_found_also_after_saving(make, tmp_path):
    tokenizer = make()
    vlm = VlmVocab.add_to_tokenizer(tokenizer, 100)
    after = tokenizer.get_vocab()
    assert VlmVocab.add_to_tokenizer(tokenizer, 100) == vlm
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert VlmVocab.add_to_tokenizer(again, 100) == vlm
    assert tokenizer.get_vocab() == again.get_vocab() == after


def test_tokens_added_later_belong_to_the_vlm():
    tokenizer = plain_words()
    vlm = VlmVocab.add_to_tokenizer(tokenizer, 10)
    tokenizer.add_tokens(["<tool>"])
    later = VlmVocab.add_to_tokenizer(tokenizer, 10)
    assert (later.first_id, later.vlm_vocab_size) == (vlm.first_id, vlm.vlm_vocab_size + 1)
    assert not later.is_action(tokenizer.convert_tokens_to_ids("<tool>"))


def test_an_embedding_may_have_more_rows_than_the_tokenizer_has_ids():
    vlm = VlmVocab.add_to_tokenizer(plain_words(), 10, embedding_size=64)
    assert (vlm.first_id, vlm.vlm_vocab_size) == (3, 64)
    assert VlmVocab.add_to_tokenizer(plain_words(), 10, embedding_size=13).vlm_vocab_size == 13


# ---- Refused, and left as they were ------------------------------------------------------------------


def with_tokens(names, vocab=None):
    tokenizer = plain_words() if vocab is None else words(vocab)
    tokenizer.add_tokens(names)
    return tokenizer


REFUSED = {
    "some": (
        lambda: with_tokens(["<robot_action_2>", "<robot_action_1>"]),
        {},
        "the tokenizer has 2 of the 4 action tokens, the first of them '<robot_action_1>'; expected all or none",
    ),
    "another order": (
        lambda: with_tokens([f"<robot_action_{i}>" for i in (0, 2, 1, 3)]),
        {},
        "'<robot_action_1>' has id 5, expected 4: the range is not contiguous",
    ),
    "not contiguous": (
        lambda: with_tokens(["<robot_action_0>", "<robot_action_1>", "<tool>", "<robot_action_2>", "<robot_action_3>"]),
        {},
        "'<robot_action_2>' has id 6, expected 5: the range is not contiguous",
    ),
    "more": (
        lambda: with_tokens([f"<robot_action_{i}>" for i in range(5)]),
        {},
        "the tokenizer has '<robot_action_4>', too: it was made for more than 4 action tokens",
    ),
    "an id given twice, at an earlier time": (
        lambda: with_tokens([f"<robot_action_{i}>" for i in range(4)], {"<unk>": 0, "pick": 1, "up": 5}),
        {},
        "id 5 belongs to 'up' and to '<robot_action_2>': the tokenizer's ids have holes",
    ),
    "in a hole": (
        lambda: words({"<unk>": 0, "pick": 1, "up": 500}),
        {},
        "'<robot_action_0>' would get id 3, which is not above the tokenizer's highest, 500: its ids have holes, and "
        "what looks free there may be in use (image placeholders, reserved ids)",
    ),
    "in a hole and beyond": (
        lambda: words({"<unk>": 0, "pick": 1, "up": 3}),
        {},
        "id 3 belongs to 'up' and to '<robot_action_0>': the tokenizer's ids have holes",
    ),
    "small embedding": (
        plain_words,
        {"embedding_size": 6},
        "the tokenizer has ids up to 6 with the action tokens, the model's embedding 6 rows; resize it to 7",
    ),
    "embedding not resized": (
        lambda: with_tokens([f"<robot_action_{i}>" for i in range(4)]),
        {"embedding_size": 3},
        "the tokenizer has ids up to 6 with the action tokens, the model's embedding 3 rows; resize it to 7",
    ),
    "one text for all": (
        plain_words,
        {"token_format": "<robot_action>"},
        "token_format must contain {i}, got '<robot_action>'",
    ),
    "unknown field": (
        plain_words,
        {"token_format": "<{name}>"},
        "token_format must have {i} as its only field, got '<{name}>'",
    ),
    "attribute of the field": (
        plain_words,
        {"token_format": "<{i.foo}>"},
        "token_format must have {i} as its only field, got '<{i.foo}>'",
    ),
    "item of the field": (
        plain_words,
        {"token_format": "<{i[0]}>"},
        "token_format must have {i} as its only field, got '<{i[0]}>'",
    ),
    "no text": (plain_words, {"token_format": 3}, "token_format must be a text with {i}, got 3"),
}


@pytest.mark.parametrize(("make", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_tokenizer_that_does_not_fit_is_refused_and_left_as_it_was(make, options, message):
    tokenizer = make()
    before = tokenizer.get_vocab()
    with pytest.raises(ValueError, match=exact_match(message)):
        VlmVocab.add_to_tokenizer(tokenizer, 4, **options)
    assert tokenizer.get_vocab() == before


@pytest.mark.parametrize("other", [Tokenizer(models.BPE()), "Qwen/Qwen2.5-VL-3B-Instruct", None])
def test_what_is_no_transformers_tokenizer_is_refused(other):
    with pytest.raises(ValueError, match=f"^expected a transformers tokenizer, got {type(other).__name__}$"):
        VlmVocab.add_to_tokenizer(other, 4)


def test_the_number_of_tokens_is_checked():
    with pytest.raises(ValueError, match=r"^vocab_size must be positive, got 0$"):
        VlmVocab.add_to_tokenizer(plain_words(), 0)
