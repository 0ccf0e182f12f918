"""Small text tokenizers of all three kinds, trained on a few sentences."""

import functools
import io

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Task: pick up the red cup, State: 128 0 255;",
    "Task: open the drawer, State: 12 34 56 78 90;",
    "Action: |",
    "put the cup into the drawer and push the button twice",
    "0 1 2 3 4 5 6 7 8 9 ; : , . | A T S",
]
PAD, EOS, BOS, UNK = range(4)
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]


@functools.cache
def sentencepiece_model(**options) -> bytes:
    """As PaliGemma's: nothing is normalised, white space is kept, unknown text becomes bytes."""
    as_paligemma = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
    }
    special = {"pad_id": PAD, "eos_id": EOS, "bos_id": BOS, "unk_id": UNK}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        **({"vocab_size": 330, "hard_vocab_limit": False, "minloglevel": 2} | as_paligemma | special | options),
    )
    return model.getvalue()


def tokenizers_bpe() -> Tokenizer:
    """Byte-level BPE that puts BOS and EOS around a text unless it is told not to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return tokenizer


def transformers_bpe() -> PreTrainedTokenizerFast:
    """The same as `transformers` has it, with a length beyond which it would cut."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizers_bpe(), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=20
    )
