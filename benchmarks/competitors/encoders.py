"""BPE encoders: each takes the same merges, and held-out sequences in its own form, and returns their ids.

Making the form (texts) is not timed. Where an encoder cannot be given merges (rustbpe, sentencepiece) it trains its own
on the same corpus. Ids are compared after mapping them to ours; sentencepiece learns other merges, so that only its
round trip is checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.competitors.symbols import Corpus, Merges, character_of, expansions, symbols_in
from benchmarks.competitors.trainers import BYTES, TRAINERS, WHOLE
from benchmarks.contest import Contender, require
from benchmarks.measure import Call, for_each
from benchmarks.rows import ImpossibleError
from fast_tokenizer import _core

Ids: TypeAlias = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Job:
    """Merges learned from `train`, to be applied to `held`."""

    train: Corpus
    held: Corpus
    merges: Merges
    folder: Path

    @property
    def alphabet(self) -> int:
        """Symbols A."""
        return self.train.alphabet

    @property
    def vocab_size(self) -> int:
        """Ids V."""
        return self.alphabet + len(self.merges)

    def first(self, count: int) -> Job:
        """The same with fewer sequences to encode."""
        return replace(self, held=Corpus(self.held.symbols[:count], self.alphabet))

    def codec(self) -> _core.Codec:
        """Ours. The most frequent symbol is said to be coefficient 0, as it is in the tokenizer."""
        zero = int(np.bincount(self.train.symbols.ravel()).argmax())
        return _core.Codec([1.0], -zero, self.alphabet - 1 - zero, self.merges.astype(np.int64))

    def ids(self) -> list[NDArray[np.int32]]:
        """What every encoder with these merges must return."""
        codec = self.codec()
        return [codec.encode_symbols(row) for row in self.held.symbols]


#: rustbpe scans the whole sequence for each merge. It gets sequences whose squared lengths sum to about this.
RESCANNED = 4e8


def contenders(job: Job, threads: int) -> list[Contender]:
    """All of them, one by one on one thread; those that take a batch also on all threads."""
    few = job.first(max(2, int(RESCANNED / job.held.symbols.shape[1] ** 2)))
    single = [
        _contender("ours", _ours, job),
        _contender("tokenizers, one by one", _tokenizers, job),
        _contender("tokenizers, encode_batch_fast", _tokenizers_batch, job),
        _contender("tiktoken, one by one", _tiktoken, job),
        _contender("rustbpe, one by one", _rustbpe, few),
        _contender("sentencepiece, own merges", _sentencepiece, job),
        _contender("bpeasy", _bpeasy, job),
        _contender("gigabpe", _gigabpe, job),
    ]
    if threads == 1:
        return single
    return [
        *single,
        _contender("tokenizers, encode_batch_fast", _tokenizers_batch, job, threads),
        _contender("tiktoken, batch", _tiktoken_batch, job, threads),
        _contender("rustbpe, batch", _rustbpe_batch, few, threads),
        _contender("sentencepiece, own merges", _sentencepiece, job, threads),
    ]


def _contender(name: str, prepare: Callable[[Job, int], Call], job: Job, threads: int = 1) -> Contender:
    return Contender(name, lambda: prepare(job, threads), threads, per=len(job.held.symbols))


def _require_ours(job: Job, ids: Iterable[Sequence[int]], ours_of: Sequence[int] | NDArray[np.int64] | None) -> None:
    """The ids (by the table `ours_of`, where theirs differ) are ours."""
    for i, (got, expected) in enumerate(zip(ids, job.ids(), strict=True)):
        mapped = np.asarray(got) if ours_of is None else np.asarray(ours_of)[np.asarray(got)]
        require(np.array_equal(mapped, expected), f"ids of sequence {i} differ from ours")


def _one_by_one(job: Job, encode: Callable[[Any], Sequence[int]], items: Sequence[Any], ours_of: Any = None) -> Call:
    _require_ours(job, map(encode, items), ours_of)
    return for_each(encode, items)


def _at_once(job: Job, encode: Callable[[], Ids], ours_of: Any = None) -> Call:
    _require_ours(job, encode(), ours_of)
    return encode


def _ours(job: Job, _: int) -> Call:
    codec, rows = job.codec(), list(job.held.symbols)
    return _one_by_one(job, codec.encode_symbols, rows)


def tokenizers_with(merges: Merges, alphabet: int) -> Any:
    """`tokenizers` on one character a symbol, without a regex: its ids are ours."""
    from tokenizers import Tokenizer, models

    tokens = [character_of([s]) for s in range(alphabet)]
    tokens += [character_of(e) for e in expansions(merges, alphabet)]
    pairs = [(tokens[left], tokens[right]) for left, right in merges]
    return Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))


def _tokenizers(job: Job, _: int) -> Call:
    model, texts = tokenizers_with(job.merges, job.alphabet), job.held.characters()
    return _one_by_one(job, lambda text: model.encode(text).ids, texts)


def _tokenizers_batch(job: Job, threads: int) -> Call:
    model, texts = tokenizers_with(job.merges, job.alphabet), job.held.characters()

    def encode() -> Ids:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"  # it looks at every call
        return [encoding.ids for encoding in model.encode_batch_fast(texts)]

    return _at_once(job, encode)


def _tiktoken_model(job: Job) -> tuple[Any, NDArray[np.int64]]:
    """The encoding over bytes (any byte is an id), and the table from its ids to ours."""
    import tiktoken

    ranks = {bytes([b]): b for b in range(BYTES)}
    ranks |= {bytes(e): BYTES + i for i, e in enumerate(expansions(job.merges, job.alphabet))}
    encoding = tiktoken.Encoding("symbols", pat_str=WHOLE, mergeable_ranks=ranks, special_tokens={})
    return encoding, _from_byte_ids(job)


def _from_byte_ids(job: Job) -> NDArray[np.int64]:
    ids = np.arange(BYTES + len(job.merges))
    return np.where(ids < BYTES, ids, ids - BYTES + job.alphabet)


def _tiktoken(job: Job, _: int) -> Call:
    texts = job.held.ascii()
    encoding, ours_of = _tiktoken_model(job)
    return _one_by_one(job, encoding.encode_ordinary, texts, ours_of)


def _tiktoken_batch(job: Job, threads: int) -> Call:
    texts = job.held.ascii()
    encoding, ours_of = _tiktoken_model(job)
    return _at_once(job, lambda: encoding.encode_ordinary_batch(texts, num_threads=threads), ours_of)


def _trained(name: str, job: Job, threads: int) -> Any:
    return TRAINERS[name].prepare(job.train, job.vocab_size, threads, job.folder)()


def _rustbpe(job: Job, _: int) -> Call:
    texts, tokenizer = job.held.ascii(), _trained("rustbpe", job, 1)
    return _one_by_one(job, tokenizer.encode, texts, _from_byte_ids(job))


def _rustbpe_batch(job: Job, _: int) -> Call:
    texts, tokenizer = job.held.ascii(), _trained("rustbpe", job, 1)
    return _at_once(job, lambda: tokenizer.batch_encode(texts), _from_byte_ids(job))


def _sentencepiece(job: Job, threads: int) -> Call:
    processor = _trained("sentencepiece", job, threads)
    texts = job.held.characters()
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]

    def encode() -> Ids:
        return processor.encode(texts, num_threads=threads)

    for i, (ids, row) in enumerate(zip(encode(), job.held.symbols, strict=True)):
        back = symbols_in("".join(pieces[token] for token in ids))
        require(back == tuple(row.tolist()), f"sequence {i} does not come back from its ids")
    return encode


def _bpeasy(_: Job, __: int) -> Call:
    import bpeasy  # noqa: F401

    raise ImpossibleError("trains only; it encodes with tiktoken")


def _gigabpe(_: Job, __: int) -> Call:
    import gigabpe  # noqa: F401

    raise ImpossibleError("trains only; it writes a file for tokenizers")
