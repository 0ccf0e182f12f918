"""openpi's injection contract: built as its configuration builds it, against its rules for one sample."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from fast_tokenizer import DecodeError, DecodeRepairWarning, EncodeLossWarning, FastTokenizer
from fast_tokenizer.compat.openpi import OpenpiFastTokenizer
from tests.text_tokenizers import sentencepiece_model

T, D, MAX_LEN = 10, 7, 180


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "paligemma_tokenizer.model"
    path.write_bytes(sentencepiece_model())
    return path


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "fast_artifacts" / "fast_plus"


@pytest.fixture(scope="module")
def fast_plus(folder: Path) -> FastTokenizer:
    return FastTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def kwargs(text_model: Path, folder: Path) -> dict[str, object]:
    """A configuration's ``fast_model_tokenizer_kwargs``."""
    return {"text_tokenizer": text_model, "fast_tokenizer_path": str(folder)}


@pytest.fixture(scope="module")
def of_the_input(kwargs: dict[str, object]) -> OpenpiFastTokenizer:
    return OpenpiFastTokenizer(MAX_LEN, **kwargs)


@pytest.fixture(scope="module")
def of_the_output(kwargs: dict[str, object]) -> OpenpiFastTokenizer:
    """openpi builds a second one for what the model generates."""
    return OpenpiFastTokenizer(MAX_LEN, **kwargs)


def by_the_rules(text_model, fast, max_len, prompt, state, actions):
    """openpi's four arrays for one sample, as `fast-reference` reads them out of its code."""
    text = sentencepiece.SentencePieceProcessor(model_file=str(text_model))
    bins = np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1
    line = f"Task: {prompt.lower().strip().replace('_', ' ')}, State: {' '.join(map(str, bins))};\n"
    prefix = text.encode(line, add_bos=True)
    postfix = []
    if actions is not None:
        codes = fast.encode(actions[None])[0].tolist()
        postfix = text.encode("Action: ") + [257152 - 1 - 128 - code for code in codes] + text.encode("|", add_eos=True)
    tokens = (prefix + postfix)[:max_len]
    padding = [0] * (max_len - len(tokens))
    causal = ([0] * len(prefix) + [1] * len(postfix))[:max_len]
    return tokens + padding, [1] * len(tokens) + padding, causal + padding, causal + padding


def samples(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        actions = np.tanh(rng.normal(0, 0.15, (T, D)).cumsum(axis=0))
        actions[:, -1] = (np.arange(T) > rng.integers(1, T)) * 2 - 1
        prompt = ["Pick_up the RED cup", " open the drawer\n", "a|b Action: c", ""][i % 4]
        state = rng.uniform(-1, 1, 8)
        state[:3] = -1, 1, 127 / 128
        yield (
            prompt,
            state.astype([np.float32, np.float64][i % 2]),
            actions.astype([np.float64, np.float32][i // 2 % 2]),
        )


def test_training_sequences_are_openpi_s(of_the_input, text_model: Path, fast_plus: FastTokenizer) -> None:
    for prompt, state, actions in samples(24):
        arrays = of_the_input.tokenize(prompt, state, actions)
        expected = by_the_rules(text_model, fast_plus, MAX_LEN, prompt, state, actions)
        assert [a.tolist() for a in arrays] == [list(e) for e in expected]
        assert [a.shape for a in arrays] == [(MAX_LEN,)] * 4
        assert [a.dtype for a in arrays] == [np.int32, bool, np.int32, bool]


def test_inference_sequences_have_no_postfix(of_the_input, text_model: Path, fast_plus: FastTokenizer) -> None:
    for prompt, state, _ in samples(4):
        arrays = of_the_input.tokenize(prompt, state, None)
        assert [a.tolist() for a in arrays] == list(by_the_rules(text_model, fast_plus, MAX_LEN, prompt, state, None))
        assert not arrays[3].any()


def generated(tokenizer: OpenpiFastTokenizer, prompt: str, state, actions) -> np.ndarray:
    """What a perfect model generates after the prompt: the postfix, padded with 0."""
    tokens, _, ar_mask, _ = tokenizer.tokenize(prompt, state, actions)
    out = np.zeros(256, np.int32)
    postfix = tokens[ar_mask == 1]
    out[: len(postfix)] = postfix
    return out


def test_generated_tokens_come_back_as_actions(of_the_input, of_the_output, fast_plus: FastTokenizer) -> None:
    for prompt, state, actions in samples(24, seed=1):
        got = of_the_output.extract_actions(generated(of_the_input, prompt, state, actions), T, D)
        np.testing.assert_array_equal(got, fast_plus.decode(fast_plus.encode(actions[None]), T, D)[0])


def test_a_malformed_sequence_is_repaired_with_a_warning(of_the_input, of_the_output) -> None:
    prompt, state, actions = next(samples(1))
    tokens = generated(of_the_input, prompt, state, actions)
    ids = tokens[tokens > 200000]
    tokens[np.flatnonzero(tokens > 200000)[-1] :] = 0  # neither the last code nor "|"
    whole = of_the_output.extract_actions(generated(of_the_input, prompt, state, actions), T, D)
    with pytest.warns(DecodeRepairWarning, match=f"row 0: {len(ids) - 1} ids; neither .* EOS; chunk 0: .* missing"):
        repaired = of_the_output.extract_actions(tokens, T, D)
    assert 0 < abs(repaired - whole).max() < 2
    with pytest.warns(DecodeRepairWarning, match="no 'Action: '.*70 of 70 symbols missing"):
        of_the_output.extract_actions(np.zeros(256, np.int32), T, D)


def test_strict_extraction_raises_and_says_where(kwargs: dict[str, object]) -> None:
    strict = OpenpiFastTokenizer(MAX_LEN, errors="strict", **kwargs)
    tokens = generated(strict, *next(samples(1)))
    assert strict.extract_actions(tokens, T, D).shape == (T, D)
    with pytest.raises(DecodeError, match="too many symbols") as caught:
        strict.extract_actions(tokens, T - 1, D)
    assert caught.value.__notes__[0].startswith("row 0: ")


def test_overlong_sequences_are_cut_or_refused(
    kwargs: dict[str, object], text_model: Path, fast_plus: FastTokenizer
) -> None:
    prompt, state, actions = next(samples(1))
    short = OpenpiFastTokenizer(60, **kwargs)
    with pytest.warns(EncodeLossWarning, match="tokens beyond max_len 60 were cut off"):
        arrays = short.tokenize(prompt, state, actions)
    assert [a.tolist() for a in arrays] == list(by_the_rules(text_model, fast_plus, 60, prompt, state, actions))
    with pytest.raises(ValueError, match="more than max_len 60"):
        OpenpiFastTokenizer(60, overlong="refuse", **kwargs).tokenize(prompt, state, actions)


def test_states_and_actions_that_do_not_fit_are_reported(of_the_input) -> None:
    prompt, state, actions = next(samples(1))
    inside = of_the_input.tokenize(prompt, np.clip(state, -1, 1), None)[0]
    outside = state.copy()
    outside[:2] = -1.5, 7
    with pytest.warns(EncodeLossWarning, match=r"2 values of the state outside \[-1, 1\] got"):
        assert of_the_input.tokenize(prompt, outside, None)[0].tolist() == inside.tolist()
    with pytest.warns(EncodeLossWarning, match="coefficients were cut to the range"):
        of_the_input.tokenize(prompt, state, actions - 60)


def test_other_skips_move_the_ids(kwargs: dict[str, object], of_the_input) -> None:
    sample = next(samples(1))
    moved = OpenpiFastTokenizer(MAX_LEN, fast_skip_tokens=1152, **kwargs).tokenize(*sample)[0]
    tokens = of_the_input.tokenize(*sample)[0]
    np.testing.assert_array_equal(tokens[tokens > 200000] - 1024, moved[moved > 200000])


def test_bad_options_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="errors must be"):
        OpenpiFastTokenizer(MAX_LEN, errors="zeros", **kwargs)
    with pytest.raises(ValueError, match="overlong must be"):
        OpenpiFastTokenizer(MAX_LEN, overlong="nope", **kwargs)
    with pytest.raises(ValueError, match="max_len must be an integer, got 'a'"):
        OpenpiFastTokenizer("a", **kwargs)
    with pytest.raises(FileNotFoundError):
        OpenpiFastTokenizer(MAX_LEN, **{**kwargs, "text_tokenizer": "no such file"})


def test_a_tokenizer_that_normalises_is_refused(kwargs: dict[str, object], tmp_path: Path) -> None:
    chunks = np.random.default_rng(0).normal(0, 5, (50, 10, 3))
    FastTokenizer.fit(chunks, 512, normalize="quantile").save(tmp_path)
    with pytest.raises(ValueError, match="has a normalizer: openpi's actions are normalised already"):
        OpenpiFastTokenizer(MAX_LEN, **{**kwargs, "fast_tokenizer_path": tmp_path})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, bool])
def test_actions_of_any_number_type_are_taken(of_the_input, dtype: type) -> None:
    actions = np.zeros((10, 3), dtype)
    tokens = of_the_input.tokenize("fold it", np.zeros(2), actions)[0]
    np.testing.assert_array_equal(tokens, of_the_input.tokenize("fold it", np.zeros(2), np.zeros((10, 3)))[0])
