"""ki_model: what configurations, objectives and calls refuse, and what the import needs."""

import copy
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
    open_gates,
    parameter_groups,
    routing_report,
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
        (lambda: Objective(alpha="1"), "alpha must be finite and not negative, got '1'"),
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
    table = {m: (m.cross_entropy, m.fast_ce, m.flow, Objective(m).effective_cut) for m in Mode}
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
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stderr.strip().endswith("fast_tokenizer.ki_model needs torch: pip install 'fast-tokenizer[ki]'")


# ---- What wraps a model ----------------------------------------------------------------------------------


def small_batch() -> KIBatch:
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    every = ids.bool()
    return KIBatch(Prefix(ids, every), Targets(ids, every, every, every), torch.ones(2, 4, 2))


def test_a_copy_of_a_compiled_model_is_its_own(tmp_path) -> None:
    torch.manual_seed(0)
    model = KIModel(KIConfig.tiny())
    open_gates(model)
    model.expert.compile(backend="eager")
    noise = torch.randn(2, 4, 2)
    before = model.sample_actions(prefix(), noise=noise)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in copied.expert.parameters():
            p.zero_()
    assert torch.equal(copied.sample_actions(prefix(), noise=noise), noise)
    assert torch.equal(model.sample_actions(prefix(), noise=noise), before)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.allclose(loaded.sample_actions(prefix(), noise=noise), before, atol=1e-6)


def test_a_hook_on_the_expert_sees_every_step() -> None:
    model, calls = KIModel(KIConfig.tiny()), []
    model.expert.register_forward_hook(lambda *_: calls.append(1))
    model.sample_actions(prefix())
    assert len(calls) == 10


def _distributed(rank: int, folder: str) -> None:
    """One of two ranks: gradients after a backward pass, under each way to wrap a model."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    batch, found = small_batch(), {}
    part = KIBatch(
        Prefix(batch.prefix.ids[rank : rank + 1], batch.prefix.mask[:1]),
        Targets(*(getattr(batch.targets, n)[rank : rank + 1] for n in ("ids", "mask", "loss_mask", "fast_mask"))),
        batch.actions[:1],
    )
    noise, time = torch.ones(2, 4, 2)[rank : rank + 1], torch.tensor([0.3, 0.7])[rank : rank + 1]
    for mode in (Mode.KI, Mode.FROZEN, Mode.PI0_FAST):
        for options in ({"find_unused_parameters": True}, {"static_graph": True}):
            torch.manual_seed(0)
            model = KIModel(KIConfig.tiny(), Objective(mode))
            open_gates(model)
            wrapped = DistributedDataParallel(model, **options)
            for _ in range(2):  # a static graph averages from the second pass on by another way
                model.zero_grad()
                wrapped(part, noise=noise, time=time).total.backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            found[mode.value, next(iter(options))] = grads
    torch.save(found, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_distributed_ranks_have_the_gradients_of_the_whole_batch(tmp_path) -> None:
    folder = str(tmp_path)
    code = f"from tests.test_ki_config import _distributed; _distributed({{}}, {folder!r})"
    ranks = [subprocess.Popen([sys.executable, "-c", code.format(rank)]) for rank in range(2)]
    assert [r.wait(timeout=120) for r in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for (mode, options), grads in first.items():
        torch.manual_seed(0)
        model = KIModel(KIConfig.tiny(), Objective(Mode(mode)))
        open_gates(model)
        batch, noise, time = small_batch(), torch.ones(2, 4, 2), torch.tensor([0.3, 0.7])
        model(batch, noise=noise, time=time).total.backward()
        whole = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(whole) <= set(grads), options
        for name, grad in whole.items():
            assert torch.equal(grads[name], second[mode, options][name]), (mode, options, name)
            assert torch.allclose(grads[name], grad, rtol=1e-4, atol=1e-6), (mode, options, name)


def test_a_report_has_gradients_or_says_why_not() -> None:
    model = KIModel(KIConfig.tiny(), Objective(Mode.JOINT))
    open_gates(model)
    with torch.no_grad():
        assert routing_report(model, small_batch()).tower("backbone", "flow") > 0
    with torch.inference_mode(), pytest.raises(ValueError, match=r"no gradients in torch.inference_mode"):
        routing_report(model, small_batch())
    for call in (
        lambda m: routing_report(m, small_batch()),
        lambda m: parameter_groups(m, backbone_lr=1.0, expert_lr=1.0),
    ):
        with pytest.raises(ValueError, match="expected the KIModel itself, got DataParallel"):
            call(torch.nn.DataParallel(model))
    model.requires_grad_(False)
    assert "mode joint" in str(routing_report(model, small_batch()))


def test_gates_are_what_the_report_looks_at() -> None:
    model = KIModel(KIConfig.tiny(), Objective(Mode.JOINT))
    for norm in (model.expert.layers[0].input_layernorm, model.expert.norm):
        torch.nn.init.ones_(norm.dense.bias[: 2 * 24])  # scales and shifts, not gates
    assert routing_report(model, small_batch()).gates_closed
    torch.nn.init.ones_(model.expert.layers[0].input_layernorm.dense.bias[2 * 24 :])
    assert not routing_report(model, small_batch()).gates_closed


def test_pretraining_does_not_read_action_tokens() -> None:
    torch.manual_seed(0)
    model = KIModel(KIConfig.tiny(), Objective(Mode.VLM_PRETRAIN))
    ids, every = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.bool)
    fast = torch.tensor([[False, True, True, False]])
    losses = [
        model(KIBatch(prefix(1), Targets(i, every, every, fast))) for i in (ids, ids * torch.tensor([1, 2, 3, 1]))
    ]
    assert torch.equal(losses[0].ce, losses[1].ce)
    assert (int(losses[0].text_tokens), int(losses[0].fast_tokens)) == (1, 0)


@pytest.mark.parametrize("mode", Mode)
def test_an_empty_batch_has_losses_of_0(mode) -> None:
    model, ids = KIModel(KIConfig.tiny(), Objective(mode)), torch.zeros(0, 3, dtype=torch.int64)
    losses = model(KIBatch(Prefix(ids, ids.bool())))
    assert (float(losses.total.detach()), int(losses.robot_examples)) == (0.0, 0)
    assert model.sample_actions(Prefix(ids, ids.bool())).shape == (0, 4, 2)


def test_an_image_encoder_of_another_width_is_named() -> None:
    config = KIConfig.tiny()
    model = KIModel(config, backbone=Backbone(config, torch.nn.Flatten(2)))
    ids = torch.ones(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"the image encoder gave \(1, 3, 64\), expected \(1, tokens, 32\)"):
        model.sample_actions(Prefix(ids, ids.bool(), torch.rand(1, 1, 3, 8, 8)))


def test_an_objective_is_an_objective() -> None:
    model = KIModel(KIConfig.tiny())
    with pytest.raises(ValueError, match=r"expected an Objective, such as Objective\(Mode.KI\), got <Mode.KI"):
        model.objective = Mode.KI
    assert Objective(Mode("frozen")).mode is Mode.FROZEN
