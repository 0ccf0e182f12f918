"""Writes `golden.txt`: python -m tests.data.golden

What the C++ core must give on every machine: ids of chunks, counts, merges of a corpus, and decoded values. The C++
test `golden_tests` reads the file, also where there is no Python (aarch64 under qemu); a Python test holds the file and
the installed library together.

Inputs are integers, divided by a power of two: the same floats everywhere, whatever a library's random numbers or a
compiler make of constants. The file is a list of words; a list of numbers comes after its length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import FastTokenizer, TokenizerSpec
from fast_tokenizer._core import train_bpe
from fast_tokenizer.compat.byte_level import BYTE_CHARACTERS, character_classes
from fast_tokenizer.compat.published import PublishedSpec

FILE = Path(__file__).parent / "golden.txt"
#: What the integers in the file are divided by.
DIVISOR = 1024
#: (N, T, D): transformed by matrix, by FFT and by Bluestein's algorithm; dimensions beside and beyond a vector's.
SHAPES = ((3, 16, 7), (1, 50, 14), (1, 240, 1), (1, 127, 1), (2, 1, 9))


class Numbers:
    """A linear congruential generator (Knuth's MMIX): integers, the same in every language."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, end: int) -> int:
        """In 0..end - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % end


def walks(numbers: Numbers, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """(N, T, D) integers that go up and down in small steps, within +-1.1 of the divisor; some stand still."""
    out = np.zeros(shape, np.int64)
    for n in range(shape[0]):
        for d in range(shape[2]):
            at = numbers.below(2 * DIVISOR) - DIVISOR
            fastest = (0, 20, 60, 200)[numbers.below(4)]
            for t in range(shape[1]):
                out[n, t, d] = at
                at = max(-1126, min(1126, at + numbers.below(2 * fastest + 1) - fastest))
    return out


def line(name: str, *values: object) -> str:
    return " ".join([name, *map(str, values)]) + "\n"


def listed(values: Iterable[object]) -> str:
    """Its length, and then the numbers; floats in hexadecimal, so that none is rounded."""
    shown = [v.hex() if isinstance(v, float) else str(v) for v in values]
    return " ".join([str(len(shown)), *shown])


def inputs() -> list[NDArray[np.int64]]:
    """Chunks that every codec encodes."""
    numbers = Numbers(1)
    return [walks(numbers, shape) for shape in SHAPES]


def codecs() -> dict[str, TokenizerSpec]:
    """The bundled tokenizers, what options make of them, and one that normalises."""
    frequency_first, dimension_first = (
        FastTokenizer.default(order).spec for order in ("frequency-first", "dimension-first")
    )
    chunks = walks(Numbers(5), (200, 16, 7)) / DIVISOR
    small = FastTokenizer.fit(chunks, 300, scale=6.5, end_of_block="chunk", levels_beyond=4).spec
    normalized = FastTokenizer.fit(
        chunks, 300, scale=6.5, normalize="quantile", clip=1.5, order="dimension-first", end_of_block=None
    )
    return {
        "bundled_frequency_first": frequency_first,
        "bundled_dimension_first": dimension_first,
        "optimal_parse": dataclasses.replace(small, parsing="optimal"),
        "dead_zone": dataclasses.replace(small, dead_zone=0.65),
        "normalized": normalized.spec,
        "without_ends_of_blocks": FastTokenizer.fit(chunks, 200, scale=6.5, end_of_block=None).spec,
    }


def codec_lines(name: str, spec: TokenizerSpec) -> str:
    ends = {None: 0, "chunk": 1, "dimension": 2}[spec.end_of_block]
    out = line("codec", name)
    out += line("order", ("frequency-first", "dimension-first").index(spec.order), "end_of_block", ends)
    out += line("parsing", ("bpe", "optimal").index(spec.parsing), "levels_beyond", spec.levels_beyond)
    out += line("dead_zone", spec.dead_zone.hex(), "scale", listed(spec.scales))
    out += line("range", spec.min_coefficient, spec.max_coefficient)
    norm = spec.normalizer
    if norm is None:
        out += line("normalization", 0)
    else:
        clip = float("inf") if norm.clip is None else float(norm.clip)
        out += line("normalization", 1, clip.hex(), listed(norm.center.tolist()), listed(norm.half_range.tolist()))
    out += line("merges", listed(spec.merges.ravel().tolist()))
    tokenizer = FastTokenizer(spec)
    for i, integers in enumerate(inputs()):
        if norm is not None and integers.shape[2] != len(norm.center):
            continue
        for kind in (np.float32, np.float64):
            ids, offsets, saturated, clipped = tokenizer.spec.codec().encode((integers / DIVISOR).astype(kind))
            out += line("batch", i, int(kind is np.float32))
            out += line("ids", listed(ids.tolist()))
            out += line("offsets", listed(offsets.tolist()))
            out += line("saturated", listed(saturated.tolist()))
            out += line("clipped", listed(clipped.tolist()))
        if integers.size > 600 and name != "bundled_frequency_first":
            continue  # once will do
        first = ids[: offsets[1]], offsets[:2], np.array([integers.shape[1]]), integers.shape[2]
        out += line("decoded", listed(tokenizer.spec.codec().decode(*first)[0].ravel().tolist()))
    return out + line("end")


def training_lines() -> str:
    """Sequences of symbols, in runs, and the merges that they make."""
    numbers = Numbers(2)
    symbols: list[int] = []
    offsets = [0]
    for _ in range(60):
        while len(symbols) - offsets[-1] < 40:
            symbols += [min(numbers.below(12), numbers.below(12))] * (1 + numbers.below(5))
        offsets.append(len(symbols))
    merges = train_bpe(np.array(symbols, np.uint16), np.array(offsets), 12, 120)
    out = line("training", 12, 120, listed(symbols))
    return out + line("offsets", listed(offsets)) + line("merges", listed(merges.ravel().tolist()))


def text_lines() -> str:
    """A vocabulary as the published code fits it, and the ids and values that it gives."""
    chunks = (walks(Numbers(3), (150, 16, 7)) / DIVISOR).astype(np.float32)
    spec = FastTokenizer.fit(chunks, 400, scale=10.0, compat="published").spec
    assert isinstance(spec, PublishedSpec)
    made = spec.merged_ids
    ids = np.concatenate([np.setdiff1d(np.arange(spec.vocab_size), made), made])
    token_of = np.argsort(ids)
    id_of = {token: i for i, token in enumerate(spec.tokens)}
    out = line("text", spec.scale.hex(), spec.min_token, *spec.coefficient_range, spec.alphabet_size)
    out += line("byte_tokens", listed(int(token_of[id_of[ch]]) if ch in id_of else -1 for ch in BYTE_CHARACTERS))
    out += line("merges", listed(token_of[spec.merges].ravel().tolist()))
    out += line("token_ids", listed(ids.tolist()))
    out += line("spellings", listed(spelling.hex() for spelling in spec.token_bytes))
    out += line("classes", "".join(str(c) for c in character_classes()[:0x800]))  # of the characters that occur
    core = spec.codec().core
    integers = walks(Numbers(4), (6, 16, 7))
    text, offsets, saturated, uncertain, _ = core.quantize((integers / DIVISOR).astype(np.float32), None, 1)
    assert not uncertain.any()
    assert text.max() < 0x800
    encoded, id_offsets, dropped = core.encode(text, offsets, 1)
    out += line("input", *integers.shape, listed(integers.ravel().tolist()))
    out += line("characters", listed(text.tolist()))
    out += line("ids", listed(encoded.tolist()))
    out += line("offsets", listed(id_offsets.tolist()))
    out += line("saturated", listed(saturated.tolist()))
    out += line("dropped", listed(dropped.tolist()))
    first = encoded[: id_offsets[1]], id_offsets[:2], np.array([integers.shape[1]]), integers.shape[2], 1
    return out + line("decoded", listed(core.decode(*first)[0].ravel().tolist()))


def content() -> str:
    """The whole file."""
    chunks = "".join(line("input", *i.shape, listed(i.ravel().tolist())) for i in inputs())
    return chunks + "".join(codec_lines(*c) for c in codecs().items()) + training_lines() + text_lines()


if __name__ == "__main__":
    FILE.write_text(content())
