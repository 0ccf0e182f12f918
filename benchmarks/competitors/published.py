"""The published FAST pipeline, rebuilt from its description over the packages it uses.

scipy's DCT in the input's dtype, symbols written as characters, byte-level BPE with GPT-2's splitting regex by
`tokenizers`, called through `transformers`. Its behaviour, losses included, is the peer's own: a symbol that did not
occur in training is dropped, and a chunk whose count does not fit comes back as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer, Tokenizer, trainers
from transformers import PreTrainedTokenizerFast


class PublishedFast:
    """Fit, encode and decode as the published processor does."""

    def __init__(self, bpe: PreTrainedTokenizerFast, scale: float, min_token: int) -> None:
        self.bpe, self.scale, self.min_token = bpe, scale, min_token

    @classmethod
    def over(cls, tokenizer: Tokenizer, scale: float, min_token: int) -> PublishedFast:
        """The pipeline over the contents of a published artefact."""
        return cls(_wrapped(tokenizer), scale, min_token)

    @classmethod
    def fit(cls, chunks: NDArray[np.floating], vocab_size: int, scale: float) -> PublishedFast:
        """Trains on (N, T, D) chunks."""
        coefficients = [_quantize(chunk, scale).ravel() for chunk in chunks]
        joined = np.concatenate(coefficients)
        lowest, highest = int(joined.min()), int(joined.max())

        def texts() -> Iterator[str]:
            for c in coefficients:
                yield _text(c, lowest)

        bpe = ByteLevelBPETokenizer()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[chr(i) for i in range(highest - lowest + 1)],
            max_token_length=10_000,
        )
        bpe._tokenizer.train_from_iterator(texts(), trainer=trainer)
        return cls.over(bpe._tokenizer, scale, lowest)

    @classmethod
    def of_folder(cls, folder: Path) -> PublishedFast:
        """The pipeline over a published artefact."""
        config = json.loads((folder / "processor_config.json").read_text())
        return cls.over(Tokenizer.from_file(str(folder / "tokenizer.json")), config["scale"], config["min_token"])

    def export(self, folder: Path) -> None:
        """The two files that make a published artefact."""
        config = {"scale": self.scale, "min_token": self.min_token, "vocab_size": len(self.bpe)}
        (folder / "processor_config.json").write_text(json.dumps(config))
        self.bpe.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def save(self, path: Path) -> None:
        """For `load`."""
        path.write_text(f"{self.scale} {self.min_token}\n{self.bpe.backend_tokenizer.to_str()}")

    @classmethod
    def load(cls, path: Path) -> PublishedFast:
        """What `save` wrote."""
        numbers, model = path.read_text().split("\n", 1)
        scale, min_token = numbers.split()
        return cls.over(Tokenizer.from_str(model), float(scale), int(min_token))

    def encode(self, chunks: NDArray[np.floating]) -> list[list[int]]:
        """Ids of (N, T, D) chunks: one DCT, then a call of the tokenizer a chunk, as the published processor does."""
        return [self.bpe(text)["input_ids"] for text in self._texts(chunks)]

    def encode_texts_at_once(self, chunks: NDArray[np.floating]) -> list[list[int]]:
        """The same ids by one call of the tokenizer, which may use threads. The published processor does not do it."""
        return self.bpe(list(self._texts(chunks)))["input_ids"]

    def decode(self, ids: Sequence[Sequence[int]], time_horizon: int, action_dim: int) -> NDArray[np.float64]:
        """(N, T, D); zeros where the count does not fit."""
        out = []
        for sequence in ids:
            codes = np.array([ord(ch) for ch in self.bpe.decode(sequence)]) + self.min_token
            if codes.size != time_horizon * action_dim:
                codes = np.zeros(time_horizon * action_dim)
            coefficients = codes.reshape(time_horizon, action_dim) / self.scale
            out.append(scipy.fft.idct(coefficients, axis=0, norm="ortho"))
        return np.stack(out)

    def _texts(self, chunks: NDArray[np.floating]) -> Iterator[str]:
        return (_text(c.ravel(), self.min_token) for c in _quantize(chunks, self.scale, axis=1))


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _quantize(actions: NDArray[np.floating], scale: float, axis: int = 0) -> NDArray[np.floating]:
    return np.around(scipy.fft.dct(actions, axis=axis, norm="ortho") * scale)


def _text(coefficients: NDArray[np.floating], lowest: int) -> str:
    return "".join(map(chr, np.maximum(coefficients - lowest, 0).astype(int)))
