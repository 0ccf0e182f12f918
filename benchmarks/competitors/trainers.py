"""BPE trainers: each takes a `Corpus` in its own form and returns the merged tokens, in order.

`prepare` makes the form (texts, a file), which is not timed; the call it returns trains. All but sentencepiece promise
the merges that ours learns: most frequent pair first, ties to the smallest pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.competitors.symbols import Corpus, Expansions, character_of, expansions, symbols_in
from benchmarks.rows import ImpossibleError
from fast_tokenizer import _core

BYTES = 256
#: All of a text is one piece, whatever its characters.
WHOLE = r"(?s).+"


@dataclass(frozen=True, slots=True)
class Trainer:
    """A way to train.

    Attributes:
        name: Who.
        prepare: (corpus, vocab_size, threads, folder for files) to the call that trains.
        learned: What the call returned, and the alphabet, to the merged tokens.
        same_merges: Whether it promises ours.
        min_frequency: Pairs that occur less often are not merged; trainers that cannot be told go on to 1.
        splices: It rewrites whole sequences for each merge, so that its cost grows with their length.
        threads: It can use more than one.
    """

    name: str
    prepare: Callable[[Corpus, int, int, Path], Callable[[], Any]]
    learned: Callable[[Any, int], Expansions]
    same_merges: bool = True
    min_frequency: int = 2
    splices: bool = False
    threads: bool = False


def _ours(corpus: Corpus, vocab_size: int, threads: int, _: Path) -> Callable[[], Any]:
    flat, offsets = corpus.symbols.ravel(), corpus.offsets
    return lambda: _core.train_bpe(flat, offsets, corpus.alphabet, vocab_size, num_threads=threads)


def _tokenizers(corpus: Corpus, vocab_size: int, _: int, __: Path) -> Callable[[], Any]:
    from tokenizers import Tokenizer, models, trainers

    texts = corpus.characters()

    def train() -> Any:
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[character_of([s]) for s in range(corpus.alphabet)],
        )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    return train


def _tokenizers_learned(tokenizer: Any, _: int) -> Expansions:
    return [symbols_in(left + right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _gigabpe(corpus: Corpus, vocab_size: int, threads: int, folder: Path) -> Callable[[], Any]:
    import gigabpe

    file = folder / "gigabpe.txt"
    file.write_text("".join(text + "\n" for text in corpus.characters()), "utf-8")
    # It takes its alphabet from the text: symbols that do not occur make it smaller.
    occurring = len(set(corpus.symbols.ravel().tolist()))
    wanted = vocab_size - corpus.alphabet + occurring
    options: dict[str, Any] = {"min_frequency": 2, "special_tokens": [], "pretokenizer": "whitespace"}
    return lambda: gigabpe.train_bpe([str(file)], wanted, threads=threads, **options)


def _gigabpe_learned(result: Any, _: int) -> Expansions:
    return [symbols_in(left + right) for left, right in result[1]]


def _rustbpe(corpus: Corpus, vocab_size: int, _: int, __: Path) -> Callable[[], Any]:
    import rustbpe

    texts = corpus.ascii()

    def train() -> Any:
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator(iter(texts), BYTES + vocab_size - corpus.alphabet, pattern=WHOLE)
        return tokenizer

    return train


def _rustbpe_learned(tokenizer: Any, _: int) -> Expansions:
    return _in_rank_order({bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()})


def _bpeasy(corpus: Corpus, vocab_size: int, _: int, __: Path) -> Callable[[], Any]:
    import bpeasy

    texts = corpus.ascii()
    longest = corpus.symbols.shape[1] + 1  # a token must be shorter than it says
    return lambda: bpeasy.train_bpe(iter(texts), WHOLE, longest, BYTES + vocab_size - corpus.alphabet)


def _bpeasy_learned(vocabulary: Any, _: int) -> Expansions:
    return _in_rank_order(vocabulary)


def _in_rank_order(ranks: dict[bytes, int]) -> Expansions:
    return [tuple(token) for token, rank in sorted(ranks.items(), key=lambda item: item[1]) if rank >= BYTES]


def _sentencepiece(corpus: Corpus, vocab_size: int, threads: int, folder: Path) -> Callable[[], Any]:
    import sentencepiece

    # It knows the symbols that occur only: one more text has each of them once.
    texts = [*corpus.characters(), character_of(range(corpus.alphabet))]
    longest_text = max(corpus.symbols.shape[1], corpus.alphabet)
    longest_piece = 512  # its limit
    prefix = folder / "sentencepiece"
    options: dict[str, Any] = {
        **{"model_type": "bpe", "vocab_size": vocab_size + 1, "unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1},
        **{"character_coverage": 1.0, "normalization_rule_name": "identity", "hard_vocab_limit": False},
        **{"add_dummy_prefix": False, "remove_extra_whitespaces": False, "split_by_whitespace": False},
        **{"split_by_unicode_script": False, "split_by_number": False, "max_sentencepiece_length": longest_piece},
        **{"max_sentence_length": 4 * longest_text, "num_threads": threads, "minloglevel": 2},
    }

    def train() -> Any:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix=str(prefix), **options)
        return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")

    return train


def _sentencepiece_learned(processor: Any, _: int) -> Expansions:
    pieces = [processor.id_to_piece(i) for i in range(1, processor.vocab_size())]
    return [symbols_in(piece) for piece in pieces if len(piece) > 1]


def _tiktoken(_: Corpus, __: int, ___: int, ____: Path) -> Callable[[], Any]:
    raise ImpossibleError("it has no trainer, but for a module that is there to teach")


TRAINERS: dict[str, Trainer] = {
    trainer.name: trainer
    for trainer in (
        Trainer("ours", _ours, expansions, threads=True),
        Trainer("tokenizers", _tokenizers, _tokenizers_learned, splices=True),
        Trainer("gigabpe", _gigabpe, _gigabpe_learned, threads=True),
        Trainer("rustbpe", _rustbpe, _rustbpe_learned, min_frequency=1),
        Trainer("bpeasy", _bpeasy, _bpeasy_learned, min_frequency=1, splices=True),
        Trainer("tiktoken", _tiktoken, expansions),
        Trainer("sentencepiece", _sentencepiece, _sentencepiece_learned, same_merges=False),
    )
}
