"""ki_model: what configurations, objectives and calls refuse, and what the import needs."""

import subprocess
import sys

import pytest
import torch

from fast_tokenizer.ki_model import (
    Backbone,
    BetaTime,
    Cut,
    KIBatch,
    KIConfig,
    KIModel,
    LogitNormalTime,
    Mode,
    Objective,
    Prefix,
    Targets,
    TowerConfig,
    clip_gradients,
    parameter_groups,
)
from fast_tokenizer.ki_model.flow import euler
from fast_tokenizer.ki_model.masks import attention_mask
from fast_tokenizer.ki_model.routing import GROUPS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be a positive integer, got 0"),
        ({"depth": 2.0}, "depth must be a positive integer, got 2.0"),
        ({"depth": True}, "depth must be a positive integer, got True"),
        ({"expert": TowerConfig(8, 0)}, "expert.mlp_width must be a positive integer, got 0"),
        ({"expert": TowerConfig(7, 8)}, "expert.width must be even for the embedding of time, got 7"),
        ({"start_id": 64}, r"start_id must be one of the ids 0..63, got 64"),
        ({"num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ({"patch_size": 3}, "patch_size 3 does not divide image_size 8"),
        ({"head_dim": 5}, "head_dim must be even for the rotary embedding, got 5"),
        ({"rope_theta": 1.0}, "rope_theta must be finite and above 1, got 1.0"),
        ({"attention": "flash"}, "attention must be 'sdpa' or 'eager', got 'flash'"),
    ],
)
def test_sizes_that_do_not_fit(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KIConfig.tiny(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective("ki"), "mode must be one of Mode.VLM_PRETRAIN, .*Mode.FROZEN, got 'ki'"),
        (lambda: Objective(cut="none"), "cut must be one of Cut.KEYS_VALUES, Cut.FEATURES, Cut.NONE, got 'none'"),
        (lambda: Objective(alpha=-1), "alpha must be finite and not negative, got -1"),
        (lambda: Objective(alpha=float("nan")), "alpha must be finite and not negative, got nan"),
        (lambda: Objective(flow_draws=0), "flow_draws must be a positive integer, got 0"),
        (lambda: BetaTime(a=0), "expected a > 0"),
        (lambda: BetaTime(first=1.0), "0 <= first < 1"),
        (lambda: LogitNormalTime(std=0), "std > 0"),
        (lambda: euler(lambda x, t: x, torch.zeros(1, 1, 1), 0), "steps must be a positive integer, got 0"),
        (lambda: attention_mask(torch.zeros(1, 3), torch.zeros(1, 2)), "got 3 queries, but 2 keys"),
    ],
)
def test_objectives_and_calls_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_each_mode_has_its_losses_and_its_cut() -> None:
    table = {m: (m.text_ce, m.fast_ce, m.flow, Objective(m).effective_cut) for m in Mode}
    assert table == {
        Mode.VLM_PRETRAIN: (True, False, False, Cut.NONE),
        Mode.PI0: (False, False, True, Cut.NONE),
        Mode.PI0_FAST: (True, True, False, Cut.NONE),
        Mode.JOINT: (True, True, True, Cut.NONE),
        Mode.KI: (True, True, True, Cut.KEYS_VALUES),
        Mode.FROZEN: (False, False, True, Cut.KEYS_VALUES),
    }
    assert Objective(Mode.JOINT, Cut.FEATURES).effective_cut is Cut.NONE
    assert Objective(Mode.KI, Cut.NONE).effective_cut is Cut.NONE


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        model = KIModel(KIConfig.pi05())
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    language = sum(p.numel() for n, p in model.backbone.named_parameters() if not n.startswith("image_encoder."))
    assert language == 2_506_172_416 + 1152 * 2048  # Gemma 2B, and PaliGemma's 1152 ids more
    layers = sum(p.numel() for n, p in model.expert.named_parameters() if "proj" in n and n.startswith("layers."))
    assert layers == 18 * (2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096)
    assert 300e6 < layers < count["expert"] < 450e6


def prefix(rows: int = 2) -> Prefix:
    ids = torch.ones(rows, 3, dtype=torch.int64)
    return Prefix(ids, ids.bool())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(KIBatch(prefix(), None, torch.zeros(2, 5, 2))),
            r"actions: expected \(B, H, A\) = \(2, 4, 2\), got",
        ),
        (lambda m: m(KIBatch(prefix()), noise=torch.zeros(2, 4, 3)), r"noise: expected \(2, 4, 2\), got \(2, 4, 3\)"),
        (lambda m: m(KIBatch(prefix()), time=torch.zeros(3)), r"time: expected \(2,\), got \(3,\)"),
        (lambda m: m.target_logits(KIBatch(prefix())), "the batch has no targets"),
        (
            lambda m: m.sample_actions(prefix(), noise=torch.zeros(1, 4, 2)),
            r"noise: expected \(2, 4, 2\), got \(1, 4, 2\)",
        ),
        (lambda m: m.sample_actions(prefix(), action_mask=torch.ones(2).bool()), r"action_mask: expected \(2, 4, 2\)"),
        (lambda m: m.sample_actions(prefix(), steps=0), "steps must be a positive integer"),
        (
            lambda m: m(KIBatch(Prefix(prefix().ids, prefix().mask, torch.zeros(2, 1, 3, 9, 9)))),
            r"images: expected \(3, 8, 8\) each, got \(3, 9, 9\)",
        ),
        (
            lambda m: m(KIBatch(Prefix(prefix().ids * 64, prefix().mask))),
            r"prefix.ids has id 64, outside the model's vocabulary 0..63",
        ),
        (
            lambda m: m(KIBatch(prefix(), Targets(-prefix().ids, *[prefix().mask] * 3))),
            r"targets.ids has id -1, outside the model's vocabulary 0..63",
        ),
        (lambda m: KIModel(KIConfig.tiny(depth=2), backbone=m.backbone), "the backbone was made for"),
    ],
)
def test_calls_that_do_not_fit_the_model(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(KIModel(KIConfig.tiny()))


def test_what_is_masked_is_never_read() -> None:
    torch.manual_seed(0)
    model = KIModel(KIConfig.tiny())
    ids, mask = torch.randint(4, 64, (2, 3)), torch.tensor([[True, True, True], [True, False, False]])
    images, shown = torch.rand(2, 2, 3, 8, 8), torch.tensor([[True, True], [False, True]])
    actions, valid = torch.rand(2, 4, 2), torch.ones(2, 4, 2, dtype=torch.bool)
    valid[1, :, 1] = False
    found = []
    for junk in (False, True):
        batch = KIBatch(
            Prefix(torch.where(mask, ids, -100 if junk else 0), mask, images.clone(), shown),
            Targets(torch.where(mask, ids, -100 if junk else 0), mask, mask, mask),
            actions.clone(),
            valid,
        )
        if junk:
            batch.prefix.images[~shown] = torch.nan
            batch.actions[~valid] = torch.nan
        model.zero_grad()
        loss = model(batch, generator=torch.Generator().manual_seed(0)).total
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_every_parameter_has_a_group_and_every_group_a_parameter() -> None:
    names = [n for n, _ in KIModel(KIConfig.tiny()).named_parameters()]
    for tower, group, pieces in GROUPS:
        assert any(n.startswith(f"{tower}.") and any(p in n for p in pieces) for n in names), group


def test_parameter_groups_are_the_towers_and_leave_out_what_is_frozen() -> None:
    model = KIModel(KIConfig.tiny())
    model.backbone.image_encoder.requires_grad_(False)
    backbone, expert = parameter_groups(model, backbone_lr=1.0, expert_lr=2.0)
    assert len(backbone["params"]) == len([*model.backbone.parameters()]) - 3
    assert {id(p) for p in expert["params"]} == {id(p) for p in model.expert.parameters()}


def test_clip_needs_named_groups() -> None:
    with pytest.raises(ValueError, match=r"every group needs a name of its own, got \[None\]"):
        clip_gradients(torch.optim.SGD(Backbone(KIConfig.tiny()).parameters(), lr=1.0).param_groups, 1.0)


def test_without_torch_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport fast_tokenizer\nimport fast_tokenizer.ki_model"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip().endswith("fast_tokenizer.ki_model needs torch: pip install 'fast-tokenizer[ki]'")
