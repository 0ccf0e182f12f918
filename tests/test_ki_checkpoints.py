"""pi0.5 checkpoints: names, shapes and totals as published; values where they belong; the velocity they give."""

import math
import re

import pytest
import torch
from safetensors.torch import save_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from fast_tokenizer.ki_model import KIConfig, KIModel, Prefix
from fast_tokenizer.ki_model.checkpoints import load_pi05, pi05_shapes, pi05_state_dict
from fast_tokenizer.ki_model.paligemma import SO400M, paligemma_backbone, pi05_model

TINY_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PALIGEMMA = "paligemma_with_expert.paligemma"
EXPERT = "paligemma_with_expert.gemma_expert"
HEAD, EMBEDDING = f"{PALIGEMMA}.lm_head.weight", f"{PALIGEMMA}.model.language_model.embed_tokens.weight"
EXPERT_HEAD = f"{EXPERT}.lm_head.weight"


def published(config, vision):
    """Names and shapes of openpi's converted checkpoint, written down from its converter, not from our model."""
    shapes = {}
    tower, inner = vision["hidden_size"], vision["intermediate_size"]
    root = f"{PALIGEMMA}.model.vision_tower.vision_model"
    patch = (config.image_channels, config.patch_size, config.patch_size)
    shapes[f"{root}.embeddings.patch_embedding.weight"] = (tower, *patch)
    shapes[f"{root}.embeddings.patch_embedding.bias"] = (tower,)
    places = (config.image_size // config.patch_size) ** 2
    shapes[f"{root}.embeddings.position_embedding.weight"] = (places, tower)
    for layer in range(vision["num_hidden_layers"]):
        at = f"{root}.encoder.layers.{layer}"
        matrices = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), (tower, tower))
        matrices = {f"self_attn.{n}": s for n, s in matrices.items()}
        for name, (out, into) in (matrices | {"mlp.fc1": (inner, tower), "mlp.fc2": (tower, inner)}).items():
            shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}.{norm}.weight": (tower,), f"{at}.{norm}.bias": (tower,)}
    shapes |= {f"{root}.post_layernorm.weight": (tower,), f"{root}.post_layernorm.bias": (tower,)}
    width = config.backbone.width
    projector = f"{PALIGEMMA}.model.multi_modal_projector.linear"
    shapes |= {f"{projector}.weight": (width, tower), f"{projector}.bias": (width,)}

    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for root, size, adaptive in (
        (f"{PALIGEMMA}.model.language_model", config.backbone, False),
        (f"{EXPERT}.model", config.expert, True),
    ):
        norms = {}
        for layer in range(config.depth):
            at = f"{root}.layers.{layer}"
            shapes |= {
                f"{at}.self_attn.q_proj.weight": (queries, size.width),
                f"{at}.self_attn.k_proj.weight": (keys, size.width),
                f"{at}.self_attn.v_proj.weight": (keys, size.width),
                f"{at}.self_attn.o_proj.weight": (size.width, queries),
                f"{at}.mlp.gate_proj.weight": (size.mlp_width, size.width),
                f"{at}.mlp.up_proj.weight": (size.mlp_width, size.width),
                f"{at}.mlp.down_proj.weight": (size.width, size.mlp_width),
            }
            norms |= {f"{at}.input_layernorm": size.width, f"{at}.post_attention_layernorm": size.width}
        for norm, w in (norms | {f"{root}.norm": size.width}).items():
            shapes |= (
                {f"{norm}.dense.weight": (3 * w, w), f"{norm}.dense.bias": (3 * w,)}
                if adaptive
                else {f"{norm}.weight": (w,)}
            )
    shapes[HEAD] = (config.vocab_size, width)  # the converter stores it under this name, and not as embed_tokens
    w = config.expert.width
    shapes[EXPERT_HEAD] = (config.vocab_size, w)
    shapes |= {"action_in_proj.weight": (w, config.action_dim), "action_in_proj.bias": (w,)}
    shapes |= {"action_out_proj.weight": (config.action_dim, w), "action_out_proj.bias": (config.action_dim,)}
    for name in ("time_mlp_in", "time_mlp_out"):
        shapes |= {f"{name}.weight": (w, w), f"{name}.bias": (w,)}
    return shapes


def total(shapes, *parts):
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(parts or ""))


def tiny_model():
    return pi05_model(KIConfig.tiny(), vision=TINY_VISION)


def random_checkpoint(dtype=torch.float32, seed=0):
    """Every published tensor of a tiny pi0.5, random, so that no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    shapes = published(KIConfig.tiny(), TINY_VISION)
    return {name: (0.3 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}


def loaded(checkpoint, *, dtype=torch.float32):
    model = pi05_model(KIConfig.tiny(), vision=TINY_VISION, dtype=dtype)
    return model, load_pi05(model, checkpoint)


def a_prefix():
    """Ragged prompts, padded on the left too, and one camera masked."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False], [False, True, True, False]])
    images = torch.rand(3, 2, 3, 8, 8, generator=generator) * 2 - 1
    shown = torch.tensor([[True, True], [True, False], [False, True]])
    return Prefix(torch.randint(1, 64, (3, 4), generator=generator), mask, images, shown)


# ---- Names, shapes, totals ---------------------------------------------------------------------------


def test_the_published_names_and_shapes_are_ours():
    config = KIConfig.pi05()
    shapes = published(config, SO400M)
    assert pi05_shapes(pi05_model()) == shapes
    assert len(shapes) == 812  # as lerobot logs when it reads pi05_base
    assert shapes["action_in_proj.weight"] == (1024, 32)
    assert shapes[f"{PALIGEMMA}.model.language_model.layers.17.self_attn.k_proj.weight"] == (256, 2048)


def test_the_parameters_come_to_the_published_totals():
    shapes = published(KIConfig.pi05(), SO400M)
    weights_of_the_expert = {
        n: s for n, s in shapes.items() if n.startswith(f"{EXPERT}.model.layers") and "norm" not in n
    }
    assert total(weights_of_the_expert) == 311_427_072  # "311M", openpi's gemma.py
    assert total(shapes, f"{PALIGEMMA}.model.vision_tower") == 412_442_352  # SigLIP So400m/14 at 224 pixels
    rows = 257_216 - 257_152  # by which `transformers` pads PaliGemma's embedding
    assert total(shapes, PALIGEMMA) + rows * 2048 == 2_923_466_480  # google/paligemma-3b-pt-224
    assert total(shapes) + 257_152 * 2048 == 4_143_404_816  # lerobot/pi05_base, which counts the tied head twice
    assert sum(p.numel() for p in pi05_model().parameters()) == total(shapes) - 257_152 * 1024


def test_every_published_tensor_is_in_its_place():
    """Exported under the same names, all values come back, so that none was mixed up with another."""
    checkpoint = random_checkpoint()
    model, report = loaded(checkpoint)
    back = pi05_state_dict(model)
    assert set(back) == set(checkpoint)
    assert {name for name in back if not torch.equal(back[name], checkpoint[name])} == {EXPERT_HEAD}
    assert not back[EXPERT_HEAD].any()
    assert report.tensors == len(checkpoint) - 1 == len(list(model.parameters()))
    assert report.parameters == sum(t.numel() for t in checkpoint.values()) - checkpoint[EXPERT_HEAD].numel()
    assert report.ignored == {EXPERT_HEAD: "nothing reads the expert's head"}
    assert report.rounded == ()


def test_a_round_trip_through_a_file_is_exact(tmp_path):
    model, _ = loaded(random_checkpoint())
    save_file(pi05_state_dict(model), tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        other = tiny_model()
        load_pi05(other, source)
        for name, value in other.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name


# ---- What public files do besides --------------------------------------------------------------------


def renamed(checkpoint, pattern, replacement):
    return {re.sub(pattern, replacement, name): tensor for name, tensor in checkpoint.items()}


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^", "model."),  # lerobot
        (r"vision_tower\.vision_model\.", "vision_tower."),  # transformers 5
        (re.escape(HEAD), EMBEDDING),  # the other name of the tied matrix
        ("^time_mlp", "action_time_mlp"),  # pi0's names, which lerobot reads for pi0.5
    ],
    ids=["lerobot", "vision", "embedding", "time"],
)
def test_other_spellings_of_the_names_are_read(pattern, replacement):
    checkpoint = random_checkpoint()
    other = renamed(checkpoint, pattern, replacement)
    assert set(other) != set(checkpoint)
    model, report = loaded(other)
    back = pi05_state_dict(model)
    assert all(torch.equal(back[name], checkpoint[name]) for name in checkpoint if name != EXPERT_HEAD)
    assert len(report.ignored) == 1


def test_the_embedding_stored_twice_is_one_and_the_same():
    checkpoint = random_checkpoint()
    _, report = loaded(checkpoint | {EMBEDDING: checkpoint[HEAD].clone()})
    assert report.ignored[HEAD] == f"the model has one matrix for it and for {EMBEDDING}"


def test_an_embedding_that_lost_its_tie_wins_with_a_warning():
    checkpoint = random_checkpoint()
    embedding = checkpoint[HEAD] + 1
    with pytest.warns(UserWarning, match=rf"{HEAD} is dropped: .* and the two differ"):
        model, report = loaded(checkpoint | {EMBEDDING: embedding})
    assert torch.equal(model.backbone.embed_tokens.weight, embedding)
    assert "differ" in report.ignored[HEAD]


def test_what_pi05_does_not_use_is_reported():
    checkpoint = random_checkpoint()
    extra = {f"model.{EXPERT}.model.embed_tokens.weight": torch.zeros(1), "state_proj.bias": torch.zeros(1)}
    _, report = loaded(checkpoint | extra)
    assert set(report.ignored) == {EXPERT_HEAD, *extra}
    assert str(report).count("\nignored ") == 3
    assert "ignored state_proj.bias: pi0's; pi0.5 reads the state as text" in str(report)


# ---- Refusals ----------------------------------------------------------------------------------------


def refuse(checkpoint, *messages):
    """The checkpoint is refused with all messages, and the model is left as it was."""
    model, _ = loaded(random_checkpoint(seed=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^the checkpoint does not fit the model: ") as error:
        load_pi05(model, checkpoint)
    for message in messages:
        assert message in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_all_mistakes_are_in_one_message():
    checkpoint = random_checkpoint()
    del checkpoint["time_mlp_in.bias"]
    checkpoint["action_in_proj.weight"] = torch.zeros(24, 32)
    checkpoint["lora.A"] = checkpoint["lora.B"] = torch.zeros(1)
    checkpoint["action_in_proj.bias"] = torch.zeros(24, dtype=torch.int8)
    refuse(
        checkpoint,
        "1 missing (time_mlp_in.bias)",
        "2 unexpected (lora.A, lora.B)",
        "1 misshapen (action_in_proj.weight: got (24, 32), expected (24, 2))",
        "1 of a dtype that cannot be read (action_in_proj.bias: torch.int8)",
    )


def test_a_pi0_checkpoint_is_refused():
    """Its expert has plain norms, and an MLP of time and action together."""
    checkpoint = renamed(random_checkpoint(), "^time_mlp", "action_time_mlp")
    checkpoint["action_time_mlp_in.weight"] = torch.zeros(24, 48)
    for name in [n for n in checkpoint if n.endswith("dense.weight")]:
        checkpoint[name.replace("dense.weight", "weight")] = checkpoint.pop(name)[:24, 0]
        checkpoint.pop(name.replace("weight", "bias"))
    refuse(checkpoint, "14 missing (", ", and 8 more)", "7 unexpected (", "1 misshapen (action_time_mlp_in.weight")


def test_a_name_in_two_spellings_is_refused():
    checkpoint = random_checkpoint()
    checkpoint["model.action_in_proj.bias"] = torch.zeros(24)
    refuse(checkpoint, "1 there twice (action_in_proj.bias and model.action_in_proj.bias)")


def test_a_missing_embedding_is_refused():
    checkpoint = random_checkpoint()
    del checkpoint[HEAD]
    refuse(checkpoint, f"1 missing ({HEAD})")


def test_a_model_with_another_image_encoder_is_refused():
    with pytest.raises(ValueError, match="the model's image encoder is a PatchEmbedder"):
        load_pi05(KIModel(KIConfig.tiny()), random_checkpoint())


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a \.safetensors file or a folder with a model\.safetensors"):
        load_pi05(tiny_model(), tmp_path)


# ---- Dtypes and devices ------------------------------------------------------------------------------


def test_values_take_the_model_s_dtype_and_what_is_rounded_is_counted():
    checkpoint = random_checkpoint()
    mixed = {n: t if "norm" in n else t.to(torch.bfloat16) for n, t in checkpoint.items()}  # as openpi keeps it
    model, report = loaded(mixed, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert set(report.rounded) == {n for n in mixed if "norm" in n}
    assert "of them rounded to fewer bits" in str(report)
    model, report = loaded(mixed)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert report.rounded == ()
    assert torch.equal(model.expert.time_mlp_in.weight, mixed["time_mlp_in.weight"].float())


def in_memory():
    """A tiny pi0.5 that was made on the CPU, over a PaliGemma of its own."""
    config = KIConfig.tiny()
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    paligemma = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 4, **TINY_VISION}
            | {"vision_use_head": False},
            text_config={"model_type": "gemma", **text, **heads},
            projection_dim=32,
        )
    )
    return KIModel(config, backbone=paligemma_backbone(paligemma, config))


def test_a_model_in_memory_keeps_its_parameters():
    model, checkpoint = in_memory(), random_checkpoint(torch.bfloat16)
    model.backbone.requires_grad_(False)
    parameters = list(model.parameters())
    load_pi05(model, checkpoint)
    assert all(a is b and b.dtype == torch.float32 for a, b in zip(model.parameters(), parameters, strict=True))
    assert {p.requires_grad for p in model.backbone.parameters()} == {False}
    assert torch.equal(model.expert.time_mlp_in.bias, checkpoint["time_mlp_in.bias"].float())


@pytest.mark.parametrize("make", [in_memory, tiny_model])
def test_the_model_has_a_copy_of_the_checkpoint(make):
    model, checkpoint = make(), random_checkpoint()
    load_pi05(model, checkpoint)
    before = model.expert.time_mlp_in.bias.clone()
    checkpoint["time_mlp_in.bias"].zero_()
    assert torch.equal(model.expert.time_mlp_in.bias, before)


def test_a_model_from_the_meta_device_computes_as_one_in_memory():
    checkpoint, other = random_checkpoint(), in_memory()
    model, _ = loaded(checkpoint)
    load_pi05(other, checkpoint)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    actions = model.sample_actions(a_prefix(), noise=noise)
    assert actions.isfinite().all()
    assert torch.equal(actions, other.sample_actions(a_prefix(), noise=noise))


# ---- The velocity ------------------------------------------------------------------------------------


def published_velocity(weights, config, x_t, t, keys, values, mask):
    """openpi's equations for one denoising step, over checkpoint names; nothing of ours is called.

    Args:
        weights: The checkpoint.
        config: Sizes.
        x_t: (B, H, A).
        t: (B,).
        keys: (B, G, P, F) of each layer, rotated; `values` likewise.
        mask: (B, P).
    """
    heads, groups, features = config.num_heads, config.num_kv_heads, config.head_dim
    rows, horizon, _ = x_t.shape

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def silu(x):
        return x * torch.sigmoid(x)

    width = config.expert.width
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angle = 2 * math.pi * t.double()[:, None] / period
    embedded = torch.cat([angle.sin(), angle.cos()], dim=1).to(x_t.dtype)
    condition = silu(linear("time_mlp_out", silu(linear("time_mlp_in", embedded))))

    def norm(name, x):
        scale, shift, gate = linear(f"{name}.dense", condition)[:, None].tensor_split(3, dim=-1)
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift, gate

    positions = mask.sum(1)[:, None] + torch.arange(horizon)  # after the valid prefix
    frequency = 10_000.0 ** -(torch.arange(features // 2, dtype=torch.float64) / (features // 2))
    turn = torch.exp(1j * positions[:, None, :, None] * frequency)  # (B, 1, H, F / 2)

    def rope(x):
        turned = torch.complex(*x.double().chunk(2, dim=-1)) * turn
        return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)

    def split(x, count):
        return x.reshape(rows, horizon, count, features).transpose(1, 2)

    seen = torch.cat([mask, torch.ones(rows, horizon, dtype=torch.bool)], dim=1)[:, None, None, :]
    x = linear("action_in_proj", x_t)
    for layer in range(config.depth):
        at = f"{EXPERT}.model.layers.{layer}"
        y, gate = norm(f"{at}.input_layernorm", x)
        q = rope(split(linear(f"{at}.self_attn.q_proj", y), heads))
        k = torch.cat([keys[layer], rope(split(linear(f"{at}.self_attn.k_proj", y), groups))], dim=2)
        v = torch.cat([values[layer], split(linear(f"{at}.self_attn.v_proj", y), groups)], dim=2)
        k, v = (z.repeat_interleave(heads // groups, dim=1) for z in (k, v))
        weight = (q @ k.mT / features**0.5).where(seen, -1e30).softmax(-1)
        x = x + gate * linear(f"{at}.self_attn.o_proj", (weight @ v).transpose(1, 2).reshape(rows, horizon, -1))
        y, gate = norm(f"{at}.post_attention_layernorm", x)
        g = linear(f"{at}.mlp.gate_proj", y)
        gelu = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
        x = x + gate * linear(f"{at}.mlp.down_proj", gelu * linear(f"{at}.mlp.up_proj", y))
    x, _ = norm(f"{EXPERT}.model.norm", x)
    return linear("action_out_proj", x)


def test_the_velocity_is_that_of_the_published_equations():
    checkpoint = random_checkpoint()
    model, _ = loaded(checkpoint)
    generator = torch.Generator().manual_seed(7)
    x_t, t = torch.randn(3, 4, 2, generator=generator), torch.tensor([0.001, 0.4, 1.0])
    with torch.no_grad():
        cache = model.backbone(a_prefix()).cache
        ours = model.expert(x_t, t, cache)
    keys, values = zip(*cache.layers, strict=True)
    expected = published_velocity(checkpoint, model.config, x_t, t, keys, values, cache.mask)
    assert expected.std() > 0.3
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    # The prefix counts, so that a cache that is not read would be seen.
    nothing = published_velocity(checkpoint, model.config, x_t, t, keys, values, torch.zeros_like(cache.mask))
    assert (expected - nothing).abs().max() > 0.05
