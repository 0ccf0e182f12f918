"""The object that stands in for the published FAST processor: what its callers do with it."""

import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import idct
from tokenizers import Tokenizer

from fast_tokenizer import DecodeError, DecodeRepairWarning, EncodeLossWarning, FastTokenizer, Normalizer, TokenizerSpec
from fast_tokenizer.compat.processor import FastProcessor
from fast_tokenizer.compat.published import PublishedSpec

T, D = 20, 3
Chunks = NDArray[np.float64]


def walks(count: int, seed: int = 0) -> Chunks:
    """(count, T, D) random walks."""
    return np.random.default_rng(seed).normal(0, 0.1, (count, T, D)).cumsum(axis=1)


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.fit(walks(400), 256, end_of_block=None, levels_beyond=0)


@pytest.fixture
def processor(tokenizer: FastTokenizer) -> FastProcessor:
    return FastProcessor(tokenizer)


@pytest.fixture
def any_shape(tokenizer: FastTokenizer) -> FastProcessor:
    """Of a tokenizer that records no shape, as FAST+."""
    spec = tokenizer.spec
    bare = TokenizerSpec(spec.scale, spec.min_coefficient, spec.max_coefficient, spec.merges)
    return FastProcessor(FastTokenizer(bare))


# ---- Calling it ----------------------------------------------------------------------------------------


def test_a_batch_gives_a_list_of_lists_of_integers(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    chunks = walks(5, seed=1)
    tokens = processor(chunks)
    assert tokens == [ids.tolist() for ids in tokenizer.encode(chunks)]
    assert type(tokens) is list
    assert type(tokens[0]) is list
    assert type(tokens[0][0]) is int


def test_one_chunk_is_a_batch_of_one(processor: FastProcessor) -> None:
    chunk = walks(1, seed=1)
    assert processor(chunk[0]) == processor(chunk)
    assert len(processor(chunk[0])) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tensors_give_the_ids_of_their_values(processor: FastProcessor, dtype: torch.dtype) -> None:
    tensor = torch.tensor(walks(4, seed=2)).to(dtype)
    values = tensor.numpy() if dtype in (torch.float64, torch.float32) else tensor.float().numpy()
    assert processor(tensor) == processor(values)
    assert processor(tensor[:1]) == processor(values)[:1]


def test_tensors_with_a_gradient_and_other_strides(processor: FastProcessor) -> None:
    chunks = walks(4, seed=2)
    tensor = torch.tensor(np.moveaxis(chunks, 1, 2).copy(), requires_grad=True).transpose(1, 2)
    assert not tensor.is_contiguous()
    assert processor(tensor) == processor(chunks)


def test_half_precision_and_integers_are_widened_exactly(processor: FastProcessor) -> None:
    half = walks(2, seed=3).astype(np.float16)
    assert processor(half) == processor(half.astype(np.float32))
    steps = np.random.default_rng(0).integers(-1, 2, (2, T, D))
    assert processor(steps) == processor(steps.astype(np.float64))


def test_a_chunk_of_another_shape_than_that_of_the_fit_is_taken(processor: FastProcessor) -> None:
    chunk = walks(1, seed=4)[:, : T // 2, : D - 1]
    decoded = processor.decode(processor(chunk), time_horizon=T // 2, action_dim=D - 1)
    assert abs(decoded - chunk).max() < 0.5


def test_bad_actions_are_refused(processor: FastProcessor) -> None:
    bad = walks(2)
    bad[1, 3, 2] = np.nan
    with pytest.raises(ValueError, match=r"chunk 1.*step 3.*dimension 2"):
        processor(bad)
    for rank in (np.zeros(5), np.zeros((1, 2, 3, 4))):
        with pytest.raises(ValueError, match="shape"):
            processor(rank)


def test_saturation_is_reported(processor: FastProcessor) -> None:
    chunks = walks(3)
    chunks[1] += 1000
    loss = f"of 1 of 3 chunks, {D} coefficients were cut to the range of the vocabulary, 0 dropped"
    with pytest.warns(EncodeLossWarning, match=loss):
        processor(chunks)


# ---- Decoding ------------------------------------------------------------------------------------------


def test_decoding_returns_the_actions(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    chunks = walks(5, seed=5)
    tokens = processor(chunks)
    actions = processor.decode(tokens, time_horizon=T, action_dim=D)
    assert actions.dtype == np.float64
    np.testing.assert_array_equal(actions, tokenizer.decode(tokens))


def test_every_form_of_tokens_is_taken(processor: FastProcessor) -> None:
    tokens = processor(walks(3, seed=6))
    expected = processor.decode(tokens)
    forms = [
        [np.array(t) for t in tokens],
        tuple(torch.tensor(t) for t in tokens),
        processor.tokenizer.encode(walks(3, seed=6)),
    ]
    for form in forms:
        np.testing.assert_array_equal(processor.decode(form), expected)
    one = [tokens[0]]
    for form in (np.array(one), np.array(one, np.uint16), torch.tensor(one), torch.tensor(one, dtype=torch.int32)):
        np.testing.assert_array_equal(processor.decode(form), expected[:1])


def test_one_sequence_without_a_batch_is_refused(processor: FastProcessor) -> None:
    with pytest.raises(ValueError, match=r"pass \[ids\]"):
        processor.decode(processor(walks(1))[0])


def test_malformed_rows_are_repaired_with_a_warning(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    good = processor(walks(1, seed=7))[0]
    rows = [good, good[:-1], None, [*good, 5], [*good, 10**9]]
    with pytest.warns(DecodeRepairWarning, match="repaired 4 of 5 chunks; chunk 1: .* missing, filled with 0"):
        actions = processor.decode(rows)
    expected, _ = tokenizer.decode_with_status([good, good[:-1], [], [*good, 5], [*good, 10**9]])
    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal(actions[3], actions[0])  # what is beyond the chunk is cut, what is unknown dropped
    np.testing.assert_array_equal(actions[4], actions[0])
    assert abs(actions[1] - actions[0]).max() > 0


def test_strict_decoding_raises(tokenizer: FastTokenizer) -> None:
    strict = FastProcessor(tokenizer, errors="strict")
    good = strict(walks(1))[0]
    np.testing.assert_array_equal(strict.decode([good]), tokenizer.decode([good]))
    for bad, reason in ((good[:-1], "too few"), ([*good, 0], "too many"), ([*good, -1], "unknown"), (None, "too few")):
        with pytest.raises(DecodeError, match=f"chunk 1: {reason}"):
            strict.decode([good, bad])


def test_the_way_of_handling_errors_is_one_of_two(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="errors must be 'strict' or 'repair', got 'zeros'"):
        FastProcessor(tokenizer, errors="zeros")  # type: ignore[arg-type]


def test_the_shape_may_be_set_and_no_call_changes_it(any_shape: FastProcessor) -> None:
    tokens = any_shape(walks(2, seed=8))
    with pytest.raises(ValueError, match="decode needs time_horizon="):
        any_shape.decode(tokens)
    any_shape.time_horizon, any_shape.action_dim = T, D
    assert any_shape.decode(tokens).shape == (2, T, D)
    half = any_shape(walks(2, seed=8)[:, : T // 2])
    assert any_shape.decode(half, time_horizon=T // 2).shape == (2, T // 2, D)
    assert any_shape.decode(half, time_horizon=D, action_dim=T // 2).shape == (2, D, T // 2)
    assert (any_shape.time_horizon, any_shape.action_dim) == (T, D)
    assert any_shape.decode(tokens).shape == (2, T, D)


def test_zero_is_not_unset(processor: FastProcessor) -> None:
    with pytest.raises(ValueError, match="time_horizon must be positive, got 0"):
        processor.decode(processor(walks(1)), time_horizon=0)


# ---- The text of the coefficients ------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_text_and_scale_give_the_actions(processor: FastProcessor, form) -> None:
    """What pi0_fast does by itself."""
    chunks = walks(4, seed=9)
    for ids, expected in zip(processor(chunks), processor.decode(processor(chunks)), strict=True):
        text = processor.bpe_tokenizer.decode(form(ids))
        coefficients = np.array([ord(character) for character in text]) + processor.min_token
        actions = idct(coefficients.reshape(T, D) / processor.scale, axis=0, norm="ortho")
        np.testing.assert_allclose(actions, expected, atol=1e-12)


def test_text_of_every_id_holds_its_coefficients(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    view = processor.bpe_tokenizer
    for i in range(view.vocab_size):
        got = [ord(character) + processor.min_token for character in view.decode([i])]
        assert got == tokenizer.coefficients([i]).tolist()
    assert view.decode([]) == ""


def test_text_of_ids_outside_the_vocabulary(tokenizer: FastTokenizer) -> None:
    view = FastProcessor(tokenizer).bpe_tokenizer
    with pytest.warns(DecodeRepairWarning, match="repaired 4 ids: 2 unknown ids dropped, 0 broken characters"):
        assert view.decode([3, -1, 256, 4]) == view.decode([3, 4])
    with pytest.raises(ValueError, match="256"):
        FastProcessor(tokenizer, errors="strict").bpe_tokenizer.decode([3, 256])


# ---- What it is ----------------------------------------------------------------------------------------


def test_the_attributes_that_callers_read(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    assert processor.scale == 10.0
    assert processor.min_token == tokenizer.spec.min_coefficient
    assert processor.vocab_size == processor.bpe_tokenizer.vocab_size == tokenizer.vocab_size == 256
    assert (processor.time_horizon, processor.action_dim) == (T, D)
    assert repr(processor).startswith("FastProcessor(FastTokenizer(vocab_size=256")


def test_the_parameters_have_the_published_names() -> None:
    def parameters(method) -> dict[str, object]:
        return {p.name: p.default for p in inspect.signature(method).parameters.values() if p.name != "self"}

    empty = inspect.Parameter.empty
    shape = {"time_horizon": None, "action_dim": None}
    assert parameters(FastProcessor.__call__) == {"action_chunk": empty}
    assert parameters(FastProcessor.decode) == {"tokens": empty, **shape}
    assert parameters(FastProcessor.fit) == {"action_data": empty, "scale": 10, "vocab_size": 1024, **shape}
    assert list(parameters(FastProcessor.push_to_hub))[:3] == ["repo_id", "private", "commit_message"]


def test_it_goes_to_workers(processor: FastProcessor) -> None:
    processor.time_horizon = 7
    copy = pickle.loads(pickle.dumps(processor))
    assert copy(walks(2)) == processor(walks(2))
    assert (copy.time_horizon, copy.action_dim, copy.errors) == (7, D, "repair")


def test_scales_that_differ_have_no_one_scale() -> None:
    processor = FastProcessor(FastTokenizer.fit(walks(200), 256, scale=(5, 10, 20)))
    assert processor.decode(processor(walks(2))).shape == (2, T, D)
    with pytest.raises(ValueError, match=r"one scale for all dimensions, this tokenizer \(5.0, 10.0, 20.0\)"):
        _ = processor.scale


def test_a_normalizer_works_but_not_through_text() -> None:
    raw = walks(200) * 50
    processor = FastProcessor(FastTokenizer.fit(raw, 256, normalize="min-max"))
    assert isinstance(processor.tokenizer.spec.normalizer, Normalizer)
    assert abs(processor.decode(processor(raw)) - raw).max() < 50
    with pytest.raises(ValueError, match="has a normalizer"):
        _ = processor.bpe_tokenizer


def test_what_the_normalizer_clips_is_reported() -> None:
    processor = FastProcessor(FastTokenizer.fit(walks(200), 256, normalize="min-max", clip=1.0))
    chunks = walks(2)
    chunks[0, 5, 1] = 100
    with pytest.warns(EncodeLossWarning, match="of 1 of 2 chunks, .* and 1 values clipped by the normalizer"):
        processor(chunks)


# ---- Fitting -------------------------------------------------------------------------------------------


def test_fitting_by_class_and_by_instance(processor: FastProcessor, tokenizer: FastTokenizer) -> None:
    data = list(walks(400))
    by_class = FastProcessor.fit(data, scale=10, vocab_size=256)
    by_instance = processor.fit(data, 10, 256, time_horizon=T, action_dim=D)
    assert by_class.tokenizer == by_instance.tokenizer == tokenizer
    assert (by_class.time_horizon, by_class.action_dim) == (T, D)


def test_fitting_on_tensors_and_on_differing_horizons(tokenizer: FastTokenizer) -> None:
    assert FastProcessor.fit(torch.tensor(walks(400)), vocab_size=256).tokenizer == tokenizer
    mixed = FastProcessor.fit([c[: T - i % 2] for i, c in enumerate(walks(400))], vocab_size=256, time_horizon=T)
    assert mixed.tokenizer.spec.time_horizon is None
    assert (mixed.time_horizon, mixed.action_dim) == (T, D)


def test_a_shape_that_the_chunks_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="time_horizon=50, but the chunks have 20"):
        FastProcessor.fit(list(walks(50)), vocab_size=256, time_horizon=50)
    with pytest.raises(ValueError, match="action_dim=7, but the chunks have 3"):
        FastProcessor.fit(list(walks(50)), vocab_size=256, action_dim=7)


# ---- Saving --------------------------------------------------------------------------------------------


def test_it_comes_back_from_its_folder(processor: FastProcessor, tmp_path: Path) -> None:
    processor.time_horizon = 2 * T  # a default that was set is saved
    processor.save_pretrained(tmp_path / "saved")
    again = FastProcessor.from_pretrained(tmp_path / "saved", errors="strict")
    assert (again.time_horizon, again.action_dim, again.errors) == (2 * T, D, "strict")
    chunks = walks(5, seed=10)
    assert again(chunks) == processor(chunks)
    assert FastTokenizer.load(tmp_path / "saved").merges.tolist() == processor.tokenizer.merges.tolist()


def test_well_formed_use_warns_of_nothing(processor: FastProcessor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor.decode(processor(walks(2)))
        processor.bpe_tokenizer.decode(processor(walks(1))[0])


def test_numpy_in_loads_neither_torch_nor_transformers() -> None:
    code = """
import sys, numpy as np
from fast_tokenizer import FastTokenizer
from fast_tokenizer.compat import export, openpi
from fast_tokenizer.compat.processor import FastProcessor
processor = FastProcessor(FastTokenizer.fit(np.random.default_rng(0).normal(size=(20, 5, 2)), 512))
processor.bpe_tokenizer.decode(processor(np.zeros((5, 2)))[0])
print(sorted({"torch", "transformers", "tokenizers", "huggingface_hub", "sentencepiece"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout == "[]\n", result.stderr


# ---- Over published artefacts ----------------------------------------------------------------------------


def golden(shared_data: Path, artefact: str) -> Iterator[tuple[str, NDArray[np.floating], list[list[int]]]]:
    """Name, chunks in the dtype they were encoded in, and the published processor's ids."""
    for file in sorted((shared_data / "golden").glob(f"{artefact}__*.npz")):
        with np.load(file) as data:
            ids = np.split(data["ids"], data["offsets"][1:-1])
            yield file.stem, data["chunks"].astype(file.stem.rsplit("__")[-1]), [i.tolist() for i in ids]


ARTEFACTS = ("fast_plus", "fast_calvin_a10_s50", "fast_libero_act_c50")


@pytest.mark.parametrize("artefact", ARTEFACTS)
@pytest.mark.filterwarnings("ignore::fast_tokenizer.EncodeLossWarning")
def test_published_ids_from_numpy_and_torch(artefact: str, shared_data: Path) -> None:
    processor = FastProcessor.from_pretrained(shared_data / "fast_artifacts" / artefact)
    files = 0
    for name, chunks, ids in golden(shared_data, artefact):
        assert processor(chunks) == processor(torch.from_numpy(chunks)) == ids, name
        assert [processor(chunk) for chunk in chunks[:5]] == [[i] for i in ids[:5]], name
        files += 1
    assert files >= 6


def test_lost_coefficients_of_a_published_vocabulary_are_reported(shared_data: Path) -> None:
    processor = FastProcessor.from_pretrained(shared_data / "fast_artifacts" / "fast_libero_act_c50")
    (chunks,) = (c for name, c, _ in golden(shared_data, "fast_libero_act_c50") if "edge_cases" in name)
    batch = processor.tokenizer.encode(chunks)
    lost = f"{batch.saturated.sum()} coefficients were cut to .*, {batch.dropped.sum()} dropped"
    assert batch.saturated.sum() > 0
    assert batch.dropped.sum() > 0
    with pytest.warns(EncodeLossWarning, match=lost):
        processor(chunks)


def test_attributes_of_fast_plus(shared_data: Path) -> None:
    processor = FastProcessor.from_pretrained(shared_data / "fast_artifacts" / "fast_plus", errors="strict")
    assert (processor.scale, processor.min_token, processor.vocab_size) == (10, -354, 2048)
    assert (processor.time_horizon, processor.action_dim, processor.errors) == (None, None, "strict")


def test_text_of_fast_plus_is_what_tokenizers_writes(shared_data: Path) -> None:
    folder = shared_data / "fast_artifacts" / "fast_plus"
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    view = FastProcessor.from_pretrained(folder, errors="strict").bpe_tokenizer
    whole = 0
    for _, _, sequences in golden(shared_data, "fast_plus"):
        for ids in sequences:
            assert view.decode(ids) == published.decode(ids)
            whole += 1
    assert whole > 100


def test_bytes_that_are_no_text_become_coefficient_0(shared_data: Path) -> None:
    """One stray byte is U+FFFD to the published decoder: coefficient 65179."""
    folder = shared_data / "fast_artifacts" / "fast_plus"
    processor = FastProcessor.from_pretrained(folder)
    spec = processor.tokenizer.spec
    assert isinstance(spec, PublishedSpec)
    part = next(i for i, b in enumerate(spec.token_bytes) if b == b"\xc5")
    ids = [*processor(np.zeros((1, 4, 1)))[0], part]
    assert "\ufffd" in Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids)
    with pytest.warns(DecodeRepairWarning, match="1 broken characters replaced by coefficient 0"):
        text = processor.bpe_tokenizer.decode(ids)
    assert [ord(ch) + processor.min_token for ch in text] == [0] * 5
    with pytest.raises(ValueError, match="1 characters in part only"):
        FastProcessor(processor.tokenizer, errors="strict").bpe_tokenizer.decode(ids)
    with pytest.raises(ValueError, match="errors must be 'strict' or 'repair', got 'zeros'"):
        processor.tokenizer.coefficients(ids, errors="zeros")  # type: ignore[arg-type]


def test_text_of_any_ids_stays_within_the_fitted_range(shared_data: Path) -> None:
    """What is no text as a whole is not believed in its other parts either."""
    processor = FastProcessor.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    low, high = processor.tokenizer.spec.coefficient_range
    rng = np.random.default_rng(0)
    repaired = 0
    for _ in range(200):
        ids = rng.integers(-2, 2050, 20)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            coefficients = [ord(ch) + processor.min_token for ch in processor.bpe_tokenizer.decode(ids)]
        if caught:
            assert low <= min(coefficients) <= max(coefficients) <= high
            repaired += 1
    assert repaired > 100


def test_actions_in_other_forms(processor: FastProcessor) -> None:
    grippers = np.zeros((2, 50, 7), bool)
    assert processor(grippers) == processor(grippers.astype(np.float64))
    tensors = [torch.zeros(50, 7, dtype=torch.bfloat16), torch.zeros(50, 7, dtype=torch.bfloat16, requires_grad=True)]
    assert processor(tensors) == processor(np.zeros((2, 50, 7), np.float32))
    assert processor(np.zeros((0, 50, 7))) == []
    with pytest.raises(ValueError, match="masked array"):
        processor(np.ma.masked_array(np.zeros((1, 50, 7)), mask=True))


def test_the_shape_may_be_given_when_loading(tmp_path: Path) -> None:
    spec = FastTokenizer.fit(walks(100), 256, end_of_block=None, levels_beyond=0).spec
    FastProcessor(FastTokenizer(replace(spec, time_horizon=None, action_dim=None))).save_pretrained(tmp_path)
    loaded = FastProcessor.from_pretrained(tmp_path, time_horizon=20, action_dim=3, use_fast=True)
    assert loaded.decode(loaded(np.zeros((1, 20, 3)))).shape == (1, 20, 3)
