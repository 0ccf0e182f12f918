"""`text_encoder`: every kind of text tokenizer gives plain ids, and says which begin and end a sequence."""

import io
import pickle
import re

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers

from fast_tokenizer.text import TextEncoder, text_encoder
from tests.text_tokenizers import BOS, EOS, PAD, UNK, sentencepiece_model, tokenizers_bpe, transformers_bpe

TEXTS = ["Action: ", "|", "Task: pick up the red cup, State: 1 2 255;\n", "", " 日本\0 e\u0301", "x" * 300]


def exact_match(text):
    return f"^{re.escape(text)}$"


def processor(**options):
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(), **options)


def cutting_bpe():
    tokenizer = tokenizers_bpe()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=8)
    return tokenizer


SOURCES = {
    "sentencepiece bytes": (sentencepiece_model, {}),
    "sentencepiece": (processor, {}),
    "sentencepiece with options": (lambda: processor(add_bos=True, add_eos=True, reverse=True, out_type=str), {}),
    "sentencepiece that samples": (lambda: processor(enable_sampling=True, nbest_size=-1, alpha=0.1), {}),
    "tokenizers": (tokenizers_bpe, {"bos_id": BOS, "eos_id": EOS}),
    "tokenizers that cuts": (cutting_bpe, {"bos_id": BOS, "eos_id": EOS}),
    "transformers": (transformers_bpe, {}),
}


@pytest.mark.parametrize(("make", "specials"), SOURCES.values(), ids=SOURCES)
def test_texts_become_plain_ids_one_by_one(make, specials):
    source = make()
    encoder = text_encoder(source, **specials)
    ids = encoder.encode(TEXTS)
    assert (encoder.bos_id, encoder.eos_id) == (BOS, EOS)
    if "sentencepiece" in str(type(source)) or isinstance(source, bytes):
        plain = processor()
        expected = [plain.encode(text) for text in TEXTS]
    else:
        plain = tokenizers_bpe()
        expected = [plain.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [list(i) for i in ids] == expected
    assert [encoder.encode([text])[0] for text in TEXTS] == expected
    assert encoder.encode([]) == []
    assert max(map(len, expected)) > 20, "some text is longer than what cuts would leave"


NAMES = ["pick <eos> up", "<bos>", "<pad><unk> cup"]


@pytest.mark.parametrize(("make", "specials"), SOURCES.values(), ids=SOURCES)
def test_the_name_of_a_special_token_is_text(make, specials):
    encoder = text_encoder(make(), **specials)
    for encode in (encoder.encode, pickle.loads(pickle.dumps(encoder)).encode):
        ids = encode(NAMES)
        assert all(len(i) > 2 for i in ids), "a few characters a token"
        assert not {PAD, EOS, BOS, UNK} & {i for row in ids for i in row}


def state(tokenizer):
    """What a call may change of a tokenizer; its JSON does not have all of it."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    attributes = {k: repr(v) for k, v in vars(tokenizer).items()} if backend is not tokenizer else {}
    return backend.to_str(), backend.encode_special_tokens, attributes, tokenizer.get_vocab()


def cutting_transformers():
    tokenizer = transformers_bpe()
    tokenizer("pick up the cup", truncation=True, max_length=3, padding="max_length")
    return tokenizer


@pytest.mark.parametrize("make", [tokenizers_bpe, cutting_bpe, transformers_bpe, cutting_transformers])
def test_a_tokenizer_s_own_state_is_as_it_was(make):
    source = make()
    before = state(source)
    encoder = text_encoder(source, bos_id=BOS, eos_id=EOS)
    encoder.encode(NAMES)
    assert state(source) == before
    encoded = source.encode("pick <eos> up")
    assert EOS in getattr(encoded, "ids", encoded)[1:-1], "the caller's own still knows it"


def test_a_tokenizer_that_cannot_be_copied_is_refused():
    class Whole:
        def pre_tokenize(self, text):
            pass

    source = tokenizers_bpe()
    source.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Whole())
    with pytest.raises(ValueError, match=r"^Tokenizer cannot be copied, use a TextEncoder: "):
        text_encoder(source, bos_id=BOS, eos_id=EOS)


@pytest.mark.parametrize(("make", "specials"), SOURCES.values(), ids=SOURCES)
def test_an_encoder_reaches_another_process(make, specials):
    encoder = text_encoder(make(), **specials)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.encode(TEXTS) == encoder.encode(TEXTS)
    assert (again.bos_id, again.eos_id) == (BOS, EOS)


def test_a_tokenizer_that_is_adapted_is_not_changed():
    source = cutting_bpe()
    text_encoder(source, bos_id=BOS, eos_id=EOS).encode(TEXTS)
    assert source.truncation["max_length"] == 5
    assert source.padding["length"] == 8


def test_a_model_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "small.model"
    path.write_bytes(sentencepiece_model())
    for source in (path, str(path)):
        assert text_encoder(source).encode(TEXTS) == text_encoder(processor()).encode(TEXTS)
    with pytest.raises(FileNotFoundError):
        text_encoder(tmp_path / "none.model")


def test_given_specials_go_before_named_ones():
    for source in (processor(), transformers_bpe(), TextEncoder(lambda texts: [], 1, 2)):
        encoder = text_encoder(source, bos_id=7, eos_id=0)
        assert (encoder.bos_id, encoder.eos_id) == (7, 0)


def test_an_encoder_made_by_hand_is_taken_as_it_is():
    encoder = TextEncoder(lambda texts: [[len(t)] for t in texts], bos_id=1, eos_id=2)
    assert text_encoder(encoder) == encoder


@pytest.mark.parametrize(
    ("make", "specials", "message"),
    [
        (tokenizers_bpe, {}, "the text tokenizer names no BOS: give bos_id=..."),
        (tokenizers_bpe, {"bos_id": 1}, "the text tokenizer names no EOS: give eos_id=..."),
        (lambda: sentencepiece_model(bos_id=-1), {}, "the text tokenizer names no BOS: give bos_id=..."),
        (lambda: sentencepiece_model(eos_id=-1), {}, "the text tokenizer names no EOS: give eos_id=..."),
        (processor, {"bos_id": -1}, "bos_id must be 0 or more, got -1"),
        (processor, {"eos_id": "</s>"}, "eos_id must be an integer, got '</s>'"),
        (lambda: b"", {}, "the bytes given: no SentencePiece model: empty"),
    ],
)
def test_bad_sources_and_specials_are_refused(make, specials, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        text_encoder(make(), **specials)


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {}}')
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: no SentencePiece model: "):
        text_encoder(path)


@pytest.mark.parametrize("other", [None, 5, io.BytesIO(), models.BPE(), len, Tokenizer])
def test_what_is_no_text_tokenizer_is_refused(other):
    message = "expected a SentencePiece model, a tokenizers.Tokenizer, a transformers tokenizer or a TextEncoder, got "
    with pytest.raises(ValueError, match=exact_match(message + type(other).__name__)):
        text_encoder(other)
