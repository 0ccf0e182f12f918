"""lerobot's own code with our object and with the published processor, side by side: the same tokens and actions.

Not collected by the project's `pytest`: it runs in an environment of its own, see `requirements.txt` and `.ci/run`.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pi0_fast import modeling_pi0_fast
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import create_transition
from lerobot.processor.core import TransitionKey
from lerobot.processor.tokenizer_processor import ActionTokenizerProcessorStep
from lerobot.scripts import lerobot_train_tokenizer
from lerobot.utils.constants import ACTION_TOKEN_MASK, ACTION_TOKENS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import AutoProcessor, AutoTokenizer

from benchmarks.competitors.published import PublishedFast
from fast_tokenizer import DecodeRepairWarning, FastTokenizer
from fast_tokenizer.compat.processor import FastProcessor

T, D = 50, 7
VOCAB = 257152


@pytest.fixture(scope="session")
def fast_plus() -> Path:
    """The published FAST+ artefact."""
    shared = Path(os.environ.get("FAST_TOKENIZER_SHARED") or Path(__file__).parents[3] / "shared")
    return shared / "data" / "fast_artifacts" / "fast_plus"


@pytest.fixture(scope="session")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of PaliGemma's class, size and layout: 256000 pieces, 1024 <loc>, 128 <seg>."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    merges = [("A", "c"), ("Ac", "t"), ("Act", "i"), ("Acti", "o"), ("Actio", "n")]
    characters = ["▁", *map(chr, range(0x21, 0x7F))]
    pieces = special + characters + [a + b for a, b in merges]
    pieces += [f"piece{i}" for i in range(len(pieces), 256000)]
    pieces += [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
    assert len(set(pieces)) == VOCAB
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    folder = tmp_path_factory.mktemp("paligemma")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizerFast"}))
    return folder


class PublishedProcessor:
    """The published processor's call contract over the published pipeline, rebuilt from its description."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = PublishedFast.of_folder(folder)
        self.scale, self.min_token = self.pipeline.scale, self.pipeline.min_token
        self.bpe_tokenizer = self.pipeline.bpe

    def __call__(self, action_chunk: torch.Tensor) -> list[list[int]]:
        return self.pipeline.encode(np.asarray(action_chunk))


@pytest.fixture(scope="session")
def published(fast_plus: Path) -> PublishedProcessor:
    return PublishedProcessor(fast_plus)


@pytest.fixture(scope="session")
def ours(fast_plus: Path) -> FastProcessor:
    return FastProcessor.from_pretrained(fast_plus)


@pytest.fixture(scope="session")
def exported(ours: FastProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our folder, for lerobot to load by name."""
    folder = tmp_path_factory.mktemp("exported") / "fast"
    ours.save_pretrained(folder)
    return folder


def actions(batch: int, horizon: int = T, dim: int = D, seed: int = 0) -> torch.Tensor:
    """(batch, horizon, dim) float32 in about [-1, 1], the last dimension a gripper's."""
    rng = np.random.default_rng(seed)
    chunks = np.tanh(rng.normal(0, 0.1, (batch, horizon, dim)).cumsum(axis=1))
    chunks[:, :, -1] = (np.arange(horizon) > rng.integers(1, horizon, (batch, 1))) * 2 - 1
    return torch.tensor(chunks, dtype=torch.float32)


def step_with(paligemma: Path, processor: object = None, **options: object) -> ActionTokenizerProcessorStep:
    return ActionTokenizerProcessorStep(
        action_tokenizer_input_object=processor, paligemma_tokenizer_name=str(paligemma), **options
    )


def tokenized(step: ActionTokenizerProcessorStep, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the step writes for a batch."""
    data = step(create_transition(action=action))[TransitionKey.COMPLEMENTARY_DATA]
    return data[ACTION_TOKENS], data[ACTION_TOKEN_MASK]


# ---- The processor step ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("horizon", "dim"), [(50, 7), (10, 7), (16, 14), (100, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_step_writes_the_same_tokens_with_both(
    horizon: int, dim: int, dtype: torch.dtype, ours, published, paligemma: Path
) -> None:
    batch = actions(24, horizon, dim).to(dtype)
    tokens, mask = tokenized(step_with(paligemma, ours), batch)
    expected_tokens, expected_mask = tokenized(step_with(paligemma, published), batch)
    assert tokens.shape == (24, 256)
    assert torch.equal(tokens, expected_tokens)
    assert torch.equal(mask, expected_mask)
    assert not mask.all()  # not all of them cut at 256
    for row, ids in zip(tokens, published(batch), strict=True):
        assert row[4 : 4 + min(len(ids), 252)].tolist() == [257023 - i for i in ids[:252]]


def test_the_step_loads_our_folder_by_name(exported: Path, ours, paligemma: Path) -> None:
    batch = actions(4, seed=1)
    step = step_with(paligemma, action_tokenizer_name=str(exported))
    assert type(step.action_tokenizer) is FastProcessor
    assert torch.equal(tokenized(step, batch)[0], tokenized(step_with(paligemma, ours), batch)[0])


def test_a_pipeline_with_the_step_is_saved_and_loaded(exported: Path, paligemma: Path, tmp_path: Path) -> None:
    step = step_with(paligemma, action_tokenizer_name=str(exported), max_action_tokens=128)
    PolicyProcessorPipeline([step], name="pre").save_pretrained(tmp_path)
    (config,) = tmp_path.glob("*.json")
    overrides = {"action_tokenizer_processor": {"paligemma_tokenizer_name": str(paligemma)}}  # the step saves no name
    (loaded,) = PolicyProcessorPipeline.from_pretrained(tmp_path, config.name, overrides=overrides).steps
    assert type(loaded.action_tokenizer) is FastProcessor
    batch = actions(4, seed=2)
    assert torch.equal(tokenized(loaded, batch)[0], tokenized(step, batch)[0])


# ---- The policy ------------------------------------------------------------------------------------------


@pytest.fixture
def policy(exported: Path, paligemma: Path, monkeypatch: pytest.MonkeyPatch) -> modeling_pi0_fast.PI0FastPolicy:
    """The real policy with our folder's name in its configuration. Only its network is left out."""
    monkeypatch.setattr(modeling_pi0_fast, "PI0FastPytorch", lambda *_, **__: torch.nn.Linear(1, 1))
    config = PI0FastConfig(
        action_tokenizer_name=str(exported),
        text_tokenizer_name=str(paligemma),
        device="cpu",
        input_features={"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 224, 224))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (D,))},
    )
    return modeling_pi0_fast.PI0FastPolicy(config)


def generated(batch: torch.Tensor, processor: object, paligemma: Path) -> torch.Tensor:
    """What a perfect model would generate: the step's sequences without BOS."""
    return tokenized(step_with(paligemma, processor), batch)[0][:, 1:]


def test_the_policy_detokenizes_with_our_object(policy, ours, published, paligemma: Path) -> None:
    assert type(policy.action_tokenizer) is FastProcessor
    batch = actions(16, seed=3)
    tokens = generated(batch, ours, paligemma)
    got = policy.detokenize_actions(tokens, action_horizon=T, action_dim=D)
    assert got.shape == (16, T, D)
    np.testing.assert_allclose(got, ours.decode(ours(batch), time_horizon=T, action_dim=D), atol=1e-6)
    assert abs(got - batch).max() < 0.6  # the gripper's edges ring; half a step in each of 350 coefficients
    policy.action_tokenizer = published
    assert torch.equal(got, policy.detokenize_actions(tokens, action_horizon=T, action_dim=D))


def test_a_stray_byte_does_not_make_the_arm_jump(policy, ours, published, paligemma: Path) -> None:
    """The policy pads and cuts by itself; what it must not get is U+FFFD, which is coefficient 65179."""
    tokens = generated(actions(1, seed=4), ours, paligemma)
    part = next(i for i, b in enumerate(ours.tokenizer.spec.token_bytes) if b == b"\xc5")
    tokens[0, 10] = 257023 - part
    with pytest.warns(DecodeRepairWarning, match="broken characters replaced by coefficient 0"):
        got = policy.detokenize_actions(tokens, action_horizon=T, action_dim=D)
    policy.action_tokenizer = published
    assert abs(policy.detokenize_actions(tokens, action_horizon=T, action_dim=D)).max() > 500
    assert abs(got).max() < 60


# ---- Training a tokenizer --------------------------------------------------------------------------------


def test_lerobot_trains_measures_and_saves_with_our_object(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """`lerobot-train-tokenizer`, from the chunks on; the hub id it starts from is our folder."""
    names = {"physical-intelligence/fast": exported}
    loader = SimpleNamespace(from_pretrained=lambda name, **kw: AutoProcessor.from_pretrained(names[name], **kw))
    monkeypatch.setattr(lerobot_train_tokenizer, "AutoProcessor", loader)
    chunks = actions(300, horizon=10, seed=5).numpy()
    trained = lerobot_train_tokenizer.train_fast_tokenizer(chunks, vocab_size=512, scale=10.0)
    stats = lerobot_train_tokenizer.compute_compression_stats(trained, chunks)
    assert "Tokenizer training complete" in capsys.readouterr().out
    assert type(trained) is FastProcessor
    assert trained.tokenizer == FastTokenizer.fit(chunks, 512, end_of_block=None, levels_beyond=0)
    assert stats["mean_token_length"] == np.mean([len(ids) for ids in trained(chunks)])
    folder = tmp_path / "out"
    folder.mkdir()
    trained.save_pretrained(folder)
    again = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert (again.time_horizon, again.action_dim, again.vocab_size) == (10, D, 512)
    assert again(chunks) == trained(chunks)


def test_the_stand_in_is_laid_out_as_paligemma(paligemma: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(paligemma, add_eos_token=True, add_bos_token=False)
    assert tokenizer.vocab_size == VOCAB
    assert tokenizer.convert_ids_to_tokens([256000, 257023, 257024]) == ["<loc0000>", "<loc1023>", "<seg000>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("Action: ")) == ["Action", ":", "▁", "<eos>"]
