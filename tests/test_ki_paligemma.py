"""PaliGemma of `transformers` as a backbone: equal values, shared parameters, and the same routing of gradients."""

import copy
import dataclasses
import sys

import pytest
import torch
from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from fast_tokenizer.ki_model import Cut, KIBatch, KIModel, Mode, Objective, Prefix, Targets, TowerConfig, open_gates
from fast_tokenizer.ki_model.paligemma import load_paligemma, paligemma_backbone, paligemma_config

IMAGE, START, PAD = 95, 5, 0
TOKENS = 4  # of an image

TEXT = {
    "model_type": "gemma",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "vision_use_head": False,
}
SIZES = {"horizon": 4, "action_dim": 2, "expert": TowerConfig(24, 48), "start_id": START}


def make_paligemma(*, text=None, vision=None, **changes):
    """A small PaliGemma with random weights in every parameter, norms and biases too."""
    config = PaliGemmaConfig(
        text_config=TEXT | (text or {}),
        vision_config=VISION | (vision or {}),
        **{"projection_dim": 32, "hidden_size": 32, "image_token_index": IMAGE} | changes,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    paligemma = PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in paligemma.parameters():
            parameter.normal_(std=0.3)
        paligemma.model.language_model.embed_tokens.weight.mul_(0.3)
    return paligemma


def make_model(paligemma, objective=None, **changes):
    config = paligemma_config(paligemma.config, **SIZES | changes)
    return KIModel(config, objective, backbone=paligemma_backbone(paligemma, config))


def right_padded(rows):
    """Lists of ids as (B, L) int64 with its mask."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return ids, torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])


PROMPTS = [[7, 8, 9, 10, 11], [12, 13], [14, 15, 16]]
ANSWERS = [[20, 21, 22], [23, 24, 25, 26, 27], [28]]


def make_batch(images=True, dtype=torch.float32):
    """Ragged prompts and answers, with one image each."""
    generator = torch.Generator().manual_seed(1)
    shown = torch.rand(3, 1, 3, 8, 8, generator=generator, dtype=dtype) * 2 - 1 if images else None
    ids, mask = right_padded(ANSWERS)
    targets = Targets(ids, mask, mask, mask)
    return KIBatch(Prefix(*right_padded(PROMPTS), shown), targets, torch.randn(3, 4, 2, generator=generator))


def their_inputs(batch, row):
    """One row as `transformers` takes it: image placeholders, prompt, and the suffix that begins with the start id."""
    image = [IMAGE] * TOKENS if batch.prefix.images is not None else []
    prefix = image + PROMPTS[row]
    suffix = [START, *ANSWERS[row][:-1]]
    return prefix, suffix


def their_forward(paligemma, batch, *, side="right"):
    """Logits of every target by `transformers`' own forward, as a list of (targets, V), and its keys and values."""
    rows = [their_inputs(batch, row) for row in range(3)]
    length = max(len(p) + len(s) for p, s in rows)

    def padded(values, filler):
        padding = [filler] * (length - len(values))
        return values + padding if side == "right" else padding + values

    ids = torch.tensor([padded(p + s, PAD) for p, s in rows])
    seen = torch.tensor([padded([1] * len(p + s), 0) for p, s in rows])
    suffix = torch.tensor([padded([0] * len(p) + [1] * len(s), 0) for p, s in rows])
    images = batch.prefix.images
    out = paligemma(
        input_ids=ids,
        pixel_values=None if images is None else images[:, 0],
        attention_mask=seen,
        token_type_ids=suffix,
        labels=ids.masked_fill(suffix == 0, -100),  # version 4 makes the suffix causal only with labels
        use_cache=True,
    )
    logits = [out.logits[r][(suffix[r] == 1) & (seen[r] == 1)] for r in range(3)]
    prefix = [(suffix[r] == 0) & (seen[r] == 1) for r in range(3)]
    return logits, prefix, out.past_key_values


def keys_values(cache, layer):
    """(B, heads, L, F) keys and values of one layer, in either major version."""
    return (cache.layers[layer].keys, cache.layers[layer].values) if hasattr(cache, "layers") else cache[layer]


def turned_back(keys, positions, theta=10_000.0):
    """Undoes the rotary embedding of keys (..., L, F) at positions (L,)."""
    half = keys.shape[-1] // 2
    angle = positions[:, None].double() * theta ** -(torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(keys[..., :half].double(), keys[..., half:].double())
    pairs = pairs * torch.polar(torch.ones_like(angle), -angle)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


# ---- Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "text"])
def test_logits_are_those_of_transformers(images, side, attention):
    paligemma, batch = make_paligemma(), make_batch(images)
    with torch.no_grad():
        ours = make_model(paligemma, attention=attention).target_logits(batch)
        theirs, _, _ = their_forward(paligemma, batch, side=side)
    for row, expected in enumerate(theirs):
        torch.testing.assert_close(ours[row, : len(ANSWERS[row])], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("wrong", ["text", "images", "prompts"])
def test_they_would_not_be_with_a_wrong_scale_or_prompt(wrong):
    """What the comparison can see: text without sqrt(W), images with it (failure mode 11), one other prompt token."""
    paligemma, batch = make_paligemma(), make_batch()
    model = make_model(paligemma)
    scale = model.config.backbone.width**0.5
    with torch.no_grad():
        theirs, _, _ = their_forward(paligemma, batch)
        if wrong == "text":
            model.backbone.embed_tokens.register_forward_hook(lambda *call: call[-1] / scale)
        elif wrong == "images":
            model.backbone.image_encoder.register_forward_hook(lambda *call: call[-1] * scale)
        else:
            batch.prefix.ids[:, 0] += 1
        ours = model.target_logits(batch)
    assert min((ours[r, : len(t)] - t).abs().max() for r, t in enumerate(theirs)) > 0.05


def test_the_prefix_cache_is_that_of_transformers():
    """Keys are compared without their positions, which `transformers` counts from 1."""
    paligemma, batch = make_paligemma(), make_batch()
    with torch.no_grad():
        cache = make_model(paligemma).backbone(batch.prefix, batch.targets).cache
        _, prefix, theirs = their_forward(paligemma, batch)
    for layer in range(3):
        for row in range(3):
            their_keys, their_values = (x[row][:, prefix[row]] for x in keys_values(theirs, layer))
            our_keys, our_values = (x[row][:, cache.mask[row]] for x in cache.layers[layer])
            torch.testing.assert_close(our_values, their_values, rtol=0, atol=2e-5)
            at = torch.arange(our_keys.shape[1])
            expected = turned_back(their_keys, at + 1)
            torch.testing.assert_close(turned_back(our_keys, at), expected, rtol=0, atol=2e-5)


def test_a_masked_camera_is_as_if_it_were_not_there():
    paligemma, batch = make_paligemma(), make_batch()
    model = make_model(paligemma)
    hidden = dataclasses.replace(batch.prefix, image_mask=torch.zeros(3, 1, dtype=torch.bool))
    without = dataclasses.replace(batch.prefix, images=None)
    with torch.no_grad():
        logits = [model.target_logits(dataclasses.replace(batch, prefix=p)) for p in (hidden, without)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_transformers_is():
    batch = make_batch()
    exact, _, _ = their_forward(make_paligemma(), batch)
    half = make_paligemma().to(torch.bfloat16)
    rounded = dataclasses.replace(
        batch, prefix=dataclasses.replace(batch.prefix, images=batch.prefix.images.bfloat16())
    )
    with torch.no_grad():
        ours = make_model(half).to(torch.bfloat16).target_logits(rounded)
        theirs, _, _ = their_forward(half, rounded)

    def error(rows):
        return max((row[: len(e)] - e).abs().max() for row, e in zip(rows, exact, strict=True))

    assert ours.dtype == torch.bfloat16
    assert 0 < error(ours) < 2 * error(theirs)


def test_an_image_of_another_size_is_refused():
    model, batch = make_model(make_paligemma()), make_batch()
    prefix = dataclasses.replace(batch.prefix, images=torch.zeros(3, 1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"images: expected \(3, 8, 8\) each, got \(3, 16, 16\)"):
        model.backbone(prefix)


# ---- Parameters --------------------------------------------------------------------------------------


def test_every_parameter_is_paligemma_s_own_and_each_is_there_once():
    paligemma = make_paligemma()
    model = make_model(paligemma)
    ours, theirs = {id(p) for p in model.backbone.parameters()}, {id(p) for p in paligemma.parameters()}
    assert ours == theirs
    assert len(dict(model.backbone.named_parameters())) == len(theirs)
    assert not any(p.is_meta for p in model.parameters())


def test_frozen_parameters_stay_frozen():
    paligemma = make_paligemma()
    paligemma.model.vision_tower.requires_grad_(False)
    paligemma.model.language_model.embed_tokens.requires_grad_(False)
    model = make_model(paligemma)
    frozen = {n for n, p in model.backbone.named_parameters() if not p.requires_grad}
    assert "embed_tokens.weight" in frozen
    assert len(frozen) == 1 + len(list(paligemma.model.vision_tower.parameters()))


def test_a_step_changes_paligemma_itself():
    paligemma, batch = make_paligemma(), make_batch()
    before = copy.deepcopy(paligemma.state_dict())
    model = make_model(paligemma)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = model(batch)
    losses.total.backward()
    optimizer.step()
    assert model(batch).ce < losses.ce
    after = paligemma.state_dict()
    for name in (
        "embeddings.patch_embedding.weight",
        "projector.linear.weight",
        "embed_tokens.weight",
        "k_proj.weight",
    ):
        (key, *_) = (k for k in after if k.endswith(name))
        assert not torch.equal(after[key], before[key]), key
    with torch.no_grad():  # and `transformers` computes with what was trained
        theirs, _, _ = their_forward(paligemma, batch)
        ours = model.target_logits(batch)
    torch.testing.assert_close(ours[1, :5], theirs[1], rtol=0, atol=2e-5)


def test_the_state_is_saved_and_loaded(tmp_path):
    model, batch = make_model(make_paligemma()), make_batch()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        expected = model.target_logits(batch)
    other = make_paligemma()
    with torch.no_grad():
        other.model.language_model.embed_tokens.weight.zero_()
    loaded = make_model(other)
    assert loaded.load_state_dict(torch.load(tmp_path / "model.pt")).missing_keys == []
    with torch.no_grad():
        assert torch.equal(loaded.target_logits(batch), expected)


# ---- Routing -----------------------------------------------------------------------------------------


def flow_gradients(objective):
    """The gradient of the flow loss in every parameter of PaliGemma, by name."""
    paligemma = make_paligemma()
    model = make_model(paligemma, objective)
    open_gates(model, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(3))
    loss = model(make_batch(), noise=noise, time=torch.tensor([0.2, 0.5, 0.9])).flow
    named = list(paligemma.named_parameters())
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    expert = torch.autograd.grad(loss, list(model.expert.parameters()))
    assert all(g.any() for g in expert)
    return {n: g for (n, _), g in zip(named, gradients, strict=True)}


def test_under_ki_no_flow_gradient_reaches_paligemma():
    assert all(g is None or not g.any() for g in flow_gradients(Objective(Mode.KI)).values())


def test_without_the_cut_it_reaches_every_parameter_that_the_expert_reads():
    """All but what comes after the last layer's keys and values."""
    unread = {n for n, g in flow_gradients(Objective(Mode.KI, cut=Cut.NONE)).items() if g is None or not g.any()}
    last = "model.language_model.layers.2."
    after = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    expected = {f"{last}{leaf}.weight" for leaf in (*after, "post_attention_layernorm")}
    # A bias of a key moves all logits of a query alike, which the softmax does not see.
    biases = {n for n in unread if n.endswith("k_proj.bias")}
    assert unread - biases == expected | {"model.language_model.norm.weight"}


# ---- Loading -----------------------------------------------------------------------------------------


def test_load_paligemma_reads_a_folder(tmp_path):
    paligemma, batch = make_paligemma(), make_batch()
    paligemma.save_pretrained(tmp_path)
    model = load_paligemma(str(tmp_path), **SIZES)
    with torch.no_grad():
        loaded, expected = model.target_logits(batch), make_model(paligemma).target_logits(batch)
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-5)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_load_paligemma_in_bfloat16(tmp_path):
    make_paligemma().save_pretrained(tmp_path)
    model = load_paligemma(str(tmp_path), dtype=torch.bfloat16, **SIZES)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    loss = model(make_batch())
    loss.total.backward()
    assert loss.total.isfinite()


def test_load_paligemma_refuses_a_folder_that_lacks_weights(tmp_path):
    paligemma = make_paligemma()
    state = {n: p for n, p in paligemma.state_dict().items() if "layers.1.mlp.up_proj" not in n or "vision" in n}
    paligemma.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"1 missing_keys \(model.language_model.layers.1.mlp.up_proj.weight"):
        load_paligemma(str(tmp_path), **SIZES)


# ---- Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}, "rope_type 'linear'"),
        ({"use_bidirectional_attention": False}, "use_bidirectional_attention False"),
        ({"hidden_size": 64}, "projection_dim 32 for a language model of width 64"),
        ({"model_type": "gemma2"}, "model_type 'gemma2', attn_logit_softcapping 50.0, final_logit_softcapping 30.0"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_what_our_layers_cannot_give_is_refused(change, message):
    config = PaliGemmaConfig(text_config=TEXT | change, vision_config=VISION, projection_dim=32)
    with pytest.raises(ValueError, match=f"a Backbone cannot be this PaliGemma's language model, which has {message}"):
        paligemma_config(config, **SIZES)


def test_an_untied_head_is_refused():
    untied = PaliGemmaConfig(text_config=TEXT, vision_config=VISION, projection_dim=32, tie_word_embeddings=False)
    with pytest.raises(ValueError, match="tie_word_embeddings False"):
        paligemma_config(untied, **SIZES)
    paligemma = make_paligemma()
    config = paligemma_config(paligemma.config, **SIZES)
    paligemma.lm_head.weight = torch.nn.Parameter(paligemma.lm_head.weight.clone())
    with pytest.raises(ValueError, match="lm_head is not tied"):
        paligemma_backbone(paligemma, config)


def test_a_config_of_another_model_is_refused():
    paligemma = make_paligemma()
    config = paligemma_config(make_paligemma(text={"num_hidden_layers": 2}).config, **SIZES)
    with pytest.raises(ValueError, match="the config is not of this PaliGemma, see paligemma_config: depth 2 for 3"):
        paligemma_backbone(paligemma, config)


def test_parameters_that_do_not_fit_the_config_are_refused():
    paligemma = make_paligemma()
    paligemma.config.text_config.vocab_size = 97
    config = paligemma_config(paligemma.config, **SIZES)
    with pytest.raises(ValueError, match=r"other parameters than its config says: embed_tokens\.weight$"):
        paligemma_backbone(paligemma, config)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"PaliGemma needs transformers: pip install 'fast-tokenizer\[paligemma\]'"):
        load_paligemma("anything", **SIZES)


def test_the_sizes_are_read_from_the_config():
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**TEXT | {"num_key_value_heads": 1}), vision_config=VISION, projection_dim=32
    )
    sizes = paligemma_config(config, **SIZES)
    assert (sizes.depth, sizes.num_heads, sizes.num_kv_heads, sizes.head_dim) == (3, 4, 1, 8)
    assert (sizes.backbone, sizes.image_size, sizes.patch_size, sizes.vocab_size) == (TowerConfig(32, 48), 8, 4, 96)
    assert sizes.rope_theta == 10_000.0
