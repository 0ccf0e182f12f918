"""The exported folder, as `tokenizers`, `transformers` and the published processor load it: they give our ids.

CI runs this file with transformers 5, and with transformers 4 in lerobot's environment.
"""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray
from scipy.fft import idct
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, dynamic_module_utils
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin

from fast_tokenizer import EncodeLossWarning, FastTokenizer, TokenizerSpec
from fast_tokenizer._core import MAX_VOCAB_SIZE
from fast_tokenizer.compat.processor import FastProcessor
from fast_tokenizer.compat.published import published_text
from fast_tokenizer.compat.registration import register_auto_processor

TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
COMMON_FILES = TOKENIZER_FILES | {"processor_config.json", "processing_fast_tokenizer.py"}
TOKENIZER_FILES_TWICE = TOKENIZER_FILES | {f"bpe_tokenizer/{name}" for name in TOKENIZER_FILES}
NATIVE_FILES = COMMON_FILES | TOKENIZER_FILES_TWICE | {"fast_tokenizer.json"}
T, D = 20, 3


def walks(count: int, seed: int = 0) -> NDArray[np.float64]:
    """(count, T, D) random walks, the last dimension a switch."""
    rng = np.random.default_rng(seed)
    chunks = rng.normal(0, 0.2, (count, T, D)).cumsum(axis=1)
    chunks[:, :, -1] = rng.random((count, T)).round() * 2 - 1
    return chunks


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.fit(walks(400), 512, scale=20, end_of_block=None, levels_beyond=0)


@pytest.fixture(scope="module")
def folder(tokenizer: FastTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "new" / "folder"
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _no_trace_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote code is copied to a cache and imported from there; what is registered stays so."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(PROCESSOR_MAPPING, "_extra_content", {})


# ---- What is written -----------------------------------------------------------------------------------


def test_the_files_of_a_native_tokenizer(folder: Path, tokenizer: FastTokenizer) -> None:
    files = files_in(folder)
    assert set(files) == NATIVE_FILES
    assert all(files[f"bpe_tokenizer/{name}"] == files[name] for name in TOKENIZER_FILES)
    assert json.loads(files["processor_config.json"]) == {
        "action_dim": D,
        "auto_map": {"AutoProcessor": "processing_fast_tokenizer.FastProcessor"},
        "min_token": tokenizer.spec.min_coefficient,
        "processor_class": "FastProcessor",
        "scale": 20,
        "time_horizon": T,
        "vocab_size": 512,
    }
    assert json.loads(files["tokenizer_config.json"])["clean_up_tokenization_spaces"] is False
    assert FastTokenizer.load(folder) == tokenizer
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]  # what was staged is gone


def test_a_fraction_stays_one_and_no_shape_is_null(tmp_path: Path) -> None:
    FastTokenizer(TokenizerSpec(2.5, -3, 3, np.empty((0, 2), np.int32))).save_pretrained(tmp_path / "x")
    config = json.loads((tmp_path / "x" / "processor_config.json").read_text())
    assert (config["scale"], config["time_horizon"], config["action_dim"]) == (2.5, None, None)


def test_equal_scales_of_all_dimensions_are_one(tmp_path: Path) -> None:
    spec = TokenizerSpec((5.0, 5.0), -3, 3, np.empty((0, 2), np.int32), action_dim=2)
    FastTokenizer(spec).save_pretrained(tmp_path / "x")
    assert json.loads((tmp_path / "x" / "processor_config.json").read_text())["scale"] == 5


# ---- What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"normalize": "quantile"}, "has no normalizer"), ({"scale": (5, 10, 20)}, "one scale for all dimensions")],
    ids=["normalizer", "scales"],
)
def test_what_the_format_cannot_express_is_refused_before_anything_is_written(
    options: dict[str, object], reason: str, tmp_path: Path, folder: Path
) -> None:
    refused = FastTokenizer.fit(walks(200), 512, end_of_block=None, levels_beyond=0, **options)  # type: ignore[arg-type]
    before = files_in(folder)
    for target in (tmp_path / "new" / "folder", folder):
        with pytest.raises(ValueError, match=reason):
            refused.save_pretrained(target)
    assert not (tmp_path / "new").exists()
    assert files_in(folder) == before


def test_a_file_is_no_folder(tmp_path: Path, tokenizer: FastTokenizer) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is no folder"):
        tokenizer.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# ---- All or nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [0, 3, 8])
def test_a_failed_export_leaves_no_half_folder(
    written: int, tmp_path: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "processor_config.json").write_text("old")
    count = iter(range(100))
    write_bytes = Path.write_bytes

    def fails_later(self: Path, content: bytes) -> int:
        if next(count) == written:
            raise OSError("disk full")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", fails_later)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="disk full"):
            tokenizer.save_pretrained(tmp_path / name)
        count = iter(range(100))
    assert files_in(tmp_path) == {"old/processor_config.json": b"old"}
    assert [p.name for p in tmp_path.iterdir() if p.name != "modules"] == ["old"]


def test_only_our_files_are_replaced(tmp_path: Path, tokenizer: FastTokenizer, folder: Path) -> None:
    other = FastTokenizer.fit(walks(100), 512, end_of_block=None, levels_beyond=0)
    other.save_pretrained(tmp_path / "x")
    (tmp_path / "x" / "README.md").write_text("mine")
    tokenizer.save_pretrained(tmp_path / "x")
    assert files_in(tmp_path / "x") == files_in(folder) | {"README.md": b"mine"}


# ---- Who loads it --------------------------------------------------------------------------------------


def assert_same_ids(encode, decode, tokenizer: FastTokenizer) -> None:
    """`encode` of the texts of our ids gives them back, and `decode` the texts."""
    text_of = FastProcessor(tokenizer).bpe_tokenizer.decode
    tokens = tokenizer.encode(walks(50, seed=1)).to_list()
    every = "".join(map(chr, range(tokenizer.spec.alphabet_size)))
    texts = [every, every[::-1], "", *map(text_of, tokens)]
    assert [encode(text) for text in texts[3:]] == tokens
    for text in texts:
        assert text_of(encode(text)) == decode(encode(text)) == text


def test_tokenizers_gives_our_ids(folder: Path, tokenizer: FastTokenizer) -> None:
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert loaded.get_vocab_size() == tokenizer.vocab_size
    assert_same_ids(lambda text: loaded.encode(text).ids, loaded.decode, tokenizer)


@pytest.mark.parametrize("place", ["", "bpe_tokenizer"])
@pytest.mark.parametrize("loader", [PreTrainedTokenizerFast, AutoTokenizer])
def test_transformers_gives_our_ids(loader, place: str, folder: Path, tokenizer: FastTokenizer) -> None:
    loaded = loader.from_pretrained(folder / place)
    assert loaded.vocab_size == len(loaded) == tokenizer.vocab_size
    assert_same_ids(lambda text: loaded(text)["input_ids"], loaded.decode, tokenizer)


@pytest.mark.parametrize("lowest", [0, -10, -133, -6000], ids=["NUL", "newline", "U+0085", "widest"])
def test_characters_that_text_tools_take_for_something_else(lowest: int, tmp_path: Path) -> None:
    """Coefficient 0, the most frequent, is a control character, or the alphabet is full of odd ones."""
    merges = np.array([[-lowest, -lowest], [12001, 12001], [-lowest, -lowest + 1], [12003, 12002]], np.int32)
    tok = FastTokenizer(TokenizerSpec(10.0, lowest, lowest + 12000, merges))
    tok.save_pretrained(tmp_path / "x")
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path / "x")
    text_of = FastProcessor(tok).bpe_tokenizer.decode
    zero, one = chr(-lowest), chr(-lowest + 1)
    odd = ["\0", "\t", "\n", "\r", " ", "'s", "\x85", "\xa0", "\xad", "\u0301", "\u200b", "\u2028", "\u202d", "</s>"]
    every = "".join(map(chr, range(12001)))
    for text in (zero * 7, zero + one, *odd, *(f"{one}{o} {zero}{o}" for o in odd), every, every[::-1]):
        ids = loaded(text)["input_ids"]
        assert text_of(ids) == loaded.decode(ids) == text
    assert loaded(zero * 7)["input_ids"] == [12002, 12001, -lowest]
    assert loaded(zero + one + zero * 4)["input_ids"] == [12004]


def test_no_symbol_reaches_the_surrogates() -> None:
    assert MAX_VOCAB_SIZE < 0xD800


def test_auto_processor_with_remote_code(folder: Path, tokenizer: FastTokenizer) -> None:
    loaded = AutoProcessor.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    assert type(loaded) is FastProcessor
    assert loaded.tokenizer == tokenizer
    chunks = walks(5, seed=2)
    assert loaded(chunks) == tokenizer.encode(chunks).to_list()


def test_auto_processor_without_remote_code(folder: Path, tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    for _ in range(2):
        register_auto_processor()
        for trust in (None, False, True):
            loaded = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
            assert type(loaded) is FastProcessor
            assert loaded.tokenizer == tokenizer


def test_auto_processor_passes_options_of_the_hub_on(
    tokenizer: FastTokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_auto_processor()
    asked: dict[str, object] = {}

    def from_pretrained(name: object, **options: object) -> FastTokenizer:
        asked.update(options)
        return tokenizer

    monkeypatch.setattr(FastTokenizer, "from_pretrained", from_pretrained)
    AutoProcessor.from_pretrained(folder, token="secret", local_files_only=True)
    assert asked == {"token": "secret", "local_files_only": True}


class PublishedProcessor(ProcessorMixin):
    """The published processor's way of loading and decoding, from its description."""

    attributes = ("bpe_tokenizer",)
    bpe_tokenizer_class = "AutoTokenizer"

    def __init__(
        self, bpe_tokenizer=None, scale=10, vocab_size=1024, min_token=0, action_dim=None, time_horizon=None
    ) -> None:
        self.scale, self.min_token = scale, min_token
        self.time_horizon, self.action_dim = time_horizon, action_dim
        super().__init__(bpe_tokenizer)

    def decode(self, tokens: list[list[int]]) -> NDArray[np.float64]:
        texts = [self.bpe_tokenizer.decode(ids) for ids in tokens]
        coefficients = np.array([[ord(ch) for ch in text] for text in texts]) + self.min_token
        return idct(coefficients.reshape(-1, self.time_horizon, self.action_dim) / self.scale, axis=1, norm="ortho")


def test_the_published_processor_decodes_what_was_exported(folder: Path, tokenizer: FastTokenizer) -> None:
    published = PublishedProcessor.from_pretrained(folder)
    tokens = tokenizer.encode(walks(5, seed=3)).to_list()
    np.testing.assert_allclose(published.decode(tokens), tokenizer.decode(tokens), atol=1e-12)


# ---- Published artefacts survive import and export ------------------------------------------------------

ARTEFACTS = ("fast_plus", "fast_calvin_a10_s50", "fast_libero_act_c50")


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_published_artefact_comes_out_as_it_went_in(name: str, shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "fast_artifacts" / name
    published = FastTokenizer.from_pretrained(original)
    published.save_pretrained(tmp_path / "x")
    assert set(files_in(tmp_path / "x")) == NATIVE_FILES - {"fast_tokenizer.json"}
    assert FastTokenizer.from_pretrained(tmp_path / "x") == published

    before, after = (json.loads((folder / "tokenizer.json").read_text()) for folder in (original, tmp_path / "x"))
    for model in (before["model"], after["model"]):
        model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    assert after == before
    before, after = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (original, tmp_path / "x")
    )
    assert set(after) == set(before) | {"auto_map"}
    for key in set(after) - {"auto_map", "processor_class"}:
        assert after[key] == before[key]


@pytest.mark.parametrize("name", ARTEFACTS)
def test_golden_ids_by_whoever_loads_an_exported_published_artefact(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    published = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / name)
    published.save_pretrained(tmp_path / "x")
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json"))
    by_transformers = PreTrainedTokenizerFast.from_pretrained(tmp_path / "x")
    processor = AutoProcessor.from_pretrained(tmp_path / "x", trust_remote_code=True)
    files = sorted((shared_data / "golden").glob(f"{name}__*.npz"))
    assert len(files) >= 6
    for file in files:
        with np.load(file) as golden:
            chunks = golden["chunks"].astype(file.stem.rsplit("__")[-1])
            expected = [ids.tolist() for ids in np.split(golden["ids"], golden["offsets"][1:-1])]
        codes, _ = published_text(chunks, published.spec, np.arange(len(chunks)))
        texts = ["".join(map(chr, row)) for row in codes.tolist()]
        assert [encoding.ids for encoding in loaded.encode_batch(texts)] == expected, file.stem
        assert [by_transformers(text)["input_ids"] for text in texts[:20]] == expected[:20], file.stem
        assert [by_transformers.decode(ids) for ids in expected[:20]] == [loaded.decode(ids) for ids in expected[:20]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EncodeLossWarning)
            assert processor(chunks) == expected, file.stem


def test_a_published_export_does_not_leave_a_native_one_behind(
    shared_data: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    tokenizer.save_pretrained(tmp_path / "x")
    published = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    published.save_pretrained(tmp_path / "x")
    assert FastTokenizer.from_pretrained(tmp_path / "x") == published


@pytest.mark.parametrize("name", ARTEFACTS)
def test_published_artefacts_as_they_are_load_without_their_code(name: str, shared_data: Path) -> None:
    register_auto_processor()
    folder = shared_data / "fast_artifacts" / name
    loaded = AutoProcessor.from_pretrained(folder)
    assert isinstance(loaded, FastProcessor)
    assert loaded.tokenizer == FastTokenizer.from_pretrained(folder)


# ---- The hub -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """Records what `huggingface_hub` would be asked to do."""
    calls: list[tuple[str, dict[str, object]]] = []

    class Api:
        def __init__(self, **options: object) -> None:
            calls.append(("HfApi", options))

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            calls.append(("create_repo", {"repo_id": repo_id, **options}))
            return SimpleNamespace(repo_id=f"owner/{repo_id}")

        def upload_folder(self, *, folder_path: str, **options: object) -> SimpleNamespace:
            calls.append(("upload_folder", {**options, "files": files_in(Path(folder_path))}))
            return SimpleNamespace(commit_url="address of the commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return calls


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, FastProcessor], ids=["tokenizer", "processor"])
def test_pushing_uploads_the_folder(wrap, hub, tokenizer: FastTokenizer, folder: Path) -> None:
    address = wrap(tokenizer).push_to_hub("robot", private=True, commit_message="Fitted", token="secret")
    assert address == "address of the commit"
    assert hub == [
        ("HfApi", {"token": "secret"}),
        ("create_repo", {"repo_id": "robot", "private": True, "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": "owner/robot",
                "commit_message": "Fitted",
                "delete_patterns": "fast_tokenizer.json",
                "files": files_in(folder),
            },
        ),
    ]


def test_pushing_asks_the_real_api_for_what_it_has() -> None:
    """The fake takes anything; these are the parameters' names."""
    from inspect import signature

    api = huggingface_hub.HfApi
    assert {"repo_id", "private", "exist_ok"} <= set(signature(api.create_repo).parameters)
    assert {"repo_id", "folder_path", "commit_message", "delete_patterns"} <= set(
        signature(api.upload_folder).parameters
    )
    assert "token" in signature(api).parameters
    assert "commit_url" in huggingface_hub.CommitInfo.__annotations__


def test_what_cannot_be_exported_is_not_pushed(hub) -> None:
    with pytest.raises(ValueError, match="normalizer"):
        FastTokenizer.fit(walks(100), 512, normalize="quantile", end_of_block=None, levels_beyond=0).push_to_hub(
            "robot"
        )
    assert hub == []


@pytest.mark.parametrize("call", range(1, 12))
def test_an_export_that_fails_leaves_the_old_one_whole(
    tokenizer: FastTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path, call: int
) -> None:
    native = tokenizer
    native.save_pretrained(tmp_path)
    before = files_in(tmp_path)
    rename, calls = Path.rename, 0

    def failing(self: Path, goal: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(28, "No space left on device")
        return rename(self, goal)

    published = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="No space left"):
            published.save_pretrained(tmp_path)
    assert files_in(tmp_path) == before
    assert FastTokenizer.load(tmp_path) == native
    published.save_pretrained(tmp_path)
    assert FastTokenizer.load(tmp_path) == published


def test_a_folder_in_the_way_of_a_file_is_refused_first(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(IsADirectoryError, match="would be a file"):
        tokenizer.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def test_whole_scales_are_written_as_integers(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert '"scale": 20,' in (tmp_path / "processor_config.json").read_text()
