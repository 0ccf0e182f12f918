"""What an installed wheel must do, with nothing but its own dependencies: pytest, or ``python test_minimal.py``.

Stands alone, so that it runs far from the project, where no source can be imported in the wheel's place.
"""

import tempfile
from pathlib import Path

import numpy as np

import fast_tokenizer
from fast_tokenizer import DecodeError, FastTokenizer, PromptBuilder, VlmVocab
from fast_tokenizer.text import TextEncoder


def chunks(n: int = 200) -> np.ndarray:
    return np.cumsum(np.random.default_rng(0).normal(0, 0.05, (n, 20, 3)), axis=1)


def test_the_core_is_native_and_knows_its_version() -> None:
    info = fast_tokenizer.build_info()
    assert info["version"] == fast_tokenizer.__version__
    assert info["kernel"] in info["kernels"]


def test_fit_encode_decode_save_and_load() -> None:
    tok = FastTokenizer.fit(chunks(), vocab_size=256, normalize="quantile")
    batch = tok.encode(chunks())
    assert np.abs(tok.decode(batch) - chunks()).max() < 0.1
    with tempfile.TemporaryDirectory() as folder:
        tok.save(folder)
        assert FastTokenizer.load(folder) == tok
        assert FastTokenizer.load(folder).encode(chunks()).to_list() == batch.to_list()


def test_the_bundled_tokenizers_are_there() -> None:
    for order in ("frequency-first", "dimension-first"):
        tok = FastTokenizer.default(order)
        assert tok.vocab_size == 2048
        assert tok.decode(tok.encode(np.zeros((1, 20, 3))), 20, 3).tolist() == np.zeros((1, 20, 3)).tolist()


def test_malformed_ids_are_refused() -> None:
    tok, reason = FastTokenizer.default(), "decoded"
    try:
        tok.decode([[tok.vocab_size]], 20, 3)
    except DecodeError as error:
        reason = error.reason
    assert reason == "unknown token id"


def test_the_ids_are_those_of_every_machine() -> None:
    """Of a signal without rounding ties, by the bundled vocabulary."""
    t = np.arange(10)[:, None]
    ids = FastTokenizer.default().encode((np.sin(0.4 * t + np.arange(2)) * [0.7, 0.3])[None])
    assert ids.to_list() == [[906, 865, 731, 364, 623]]


def test_prompts_need_no_other_package() -> None:
    letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
    tok = FastTokenizer.default()
    builder = PromptBuilder(letters, VlmVocab.paligemma(tok.vocab_size), tokenizer=tok)
    batch = builder.build(["go"], [[0.0]], np.zeros((1, 20, 3)))
    assert builder.extract(batch.tokens).ok.all()


def test_typing_and_commands_are_installed() -> None:
    folder = Path(fast_tokenizer.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "_core.pyi").is_file()


if __name__ == "__main__":
    for name, test in sorted(globals().items()):
        if name.startswith("test_"):
            test()
            print(f"passed: {name}")
