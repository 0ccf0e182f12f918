"""Knowledge insulation in one pass and with one mask, as the paper writes it (arXiv 2505.23705, eq. 5 and 6).

The library makes two passes and hands keys and values over. Here all tokens stand in one sequence
``[images | text | targets | actions]``, each with the weights of its tower, and meet in one attention; the
stop-gradient is in the rows of the action queries. Of the model only the weights are taken, by name, and the image
encoder. Everything else is written again, for clarity and not for speed.
"""

import math

import torch

from fast_tokenizer.ki_model import Cut

PAD, PREFIX, TARGET, ACTION = "-pta"
#: Who sees whom, apart from order: prefix the prefix, targets the prefix and those before them, actions the prefix and
#: each other. No pair but these.
PAIRS = {PREFIX + PREFIX, TARGET + PREFIX, TARGET + TARGET, ACTION + PREFIX, ACTION + ACTION}


def sees(query, key, i, j):
    """Whether token i, of segment `query`, sees token j, of segment `key`. Padding has itself, for softmax's sake."""
    if PAD in (query, key):
        return i == j
    return query + key in PAIRS and (query + key != TARGET + TARGET or j <= i)


def segments_and_positions(batch, image_tokens, horizon):
    """For each row its segments, as a word such as "ppp-ttt-aaaa", and the position of each token."""
    words, positions = [], []
    cameras = [[]] * len(batch)
    if batch.prefix.images is not None:
        shown = batch.prefix.image_mask
        cameras = torch.ones(batch.prefix.images.shape[:2]).bool() if shown is None else shown
        cameras = cameras.tolist()
    for row, text, said in zip(cameras, batch.prefix.mask.tolist(), batch.targets.mask.tolist(), strict=True):
        valid = [camera for camera in row for _ in range(image_tokens)] + text
        words.append(
            "".join(PREFIX if v else PAD for v in valid)
            + "".join(TARGET if v else PAD for v in said)
            + ACTION * horizon
        )
        end = sum(valid)
        positions.append([max(sum(valid[: i + 1]) - 1, 0) for i in range(len(valid))])
        positions[-1] += [end + i for i in range(len(said))] + [end + j for j in range(horizon)]
    return words, torch.tensor(positions)


def mask_of(words):
    """(B, L, L) bool, pair by pair."""
    return torch.tensor([[[sees(q, k, i, j) for j, k in enumerate(w)] for i, q in enumerate(w)] for w in words])


def openpi_mask(words):
    """The same by openpi's rule: i sees j if ``cumsum(ar)[j] <= cumsum(ar)[i]`` and both are valid.

    ar is 1 where a block begins that tokens before cannot see. The rule knows one order of blocks, in which actions
    come after the targets and so see them: that they must not is a line of its own.
    """
    rows = []
    for word in words:
        first_action = word.index(ACTION)
        ar = torch.tensor([(s == TARGET) or i == first_action for i, s in enumerate(word)]).long()
        block, valid = ar.cumsum(0), torch.tensor([s != PAD for s in word])
        mask = (block[None, :] <= block[:, None]) & valid[None, :] & valid[:, None]
        mask &= ~torch.tensor([[q == ACTION and k == TARGET for k in word] for q in word])
        rows.append(mask | (torch.eye(len(word)).bool() & ~valid[:, None]))
    return torch.stack(rows)


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rope(x, positions, theta):
    """x (B, L, heads, F): features i and i + F/2 are a complex number, turned by position * theta^(-2i/F)."""
    half = x.shape[-1] // 2
    angle = positions[:, :, None].float() / theta ** (torch.arange(half) * 2 / x.shape[-1])  # float32, as in Gemma
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(angle.cos(), angle.sin())[:, :, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def attend(q, k, v, mask):
    """q (B, L, G, R, F), k and v (B, M, G, F), mask (B, L, M) -> (B, L, G * R * F). R queries share a key."""
    scores = torch.einsum("blgrf,bmgf->bgrlm", q, k) / math.sqrt(q.shape[-1])
    weights = torch.where(mask[:, None, None], scores, -torch.inf).softmax(-1)
    return torch.einsum("bgrlm,bmgf->blgrf", weights, v).flatten(2)


def one_pass(model, batch, noise, time, cut=Cut.NONE):
    """(ce, flow) of a batch that has targets and actions, one draw of noise and time for each row."""
    c, weights = model.config, dict(model.named_parameters())

    def linear(x, name):
        y = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def norm(x, name):
        return rms(x) * (1 + weights[f"{name}.weight"])

    def adaptive_norm(x, name):
        scale, shift, gate = linear(condition, f"{name}.dense")[:, None].chunk(3, -1)
        return rms(x) * (1 + scale) + shift, gate

    def mlp(x, name):
        gate = torch.nn.functional.gelu(linear(x, f"{name}.gate_proj"), approximate="tanh")
        return linear(gate * linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def heads(x, name, number):
        return linear(x, name).unflatten(-1, (number, c.head_dim))

    # ---- Tokens
    table = weights["backbone.embed_tokens.weight"]
    said = torch.cat([torch.full((len(batch), 1), c.start_id), batch.targets.ids[:, :-1]], dim=1)
    tokens = [table[ids] * math.sqrt(c.backbone.width) for ids in (batch.prefix.ids, said)]
    image_tokens = 0
    if batch.prefix.images is not None:
        images = [model.backbone.image_encoder(camera) for camera in batch.prefix.images.unbind(1)]
        tokens, image_tokens = [*images, *tokens], images[0].shape[1]
    xb = torch.cat(tokens, dim=1)
    counted = batch.element_mask()
    actions, t = torch.where(counted, batch.actions, 0), time[:, None, None]
    xa = linear(t * noise + (1 - t) * actions, "expert.action_in_proj")

    # ---- Time
    period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, c.expert.width // 2, dtype=torch.float64)
    angle = 2 * math.pi * time.double()[:, None] / period
    wave = torch.cat([angle.sin(), angle.cos()], dim=1).float().to(table.dtype)
    silu = torch.nn.functional.silu
    condition = silu(linear(silu(linear(wave, "expert.time_mlp_in")), "expert.time_mlp_out"))

    # ---- Layers
    words, positions = segments_and_positions(batch, image_tokens, c.horizon)
    mask, n = mask_of(words), xb.shape[1]
    sg = torch.Tensor.detach
    for layer in range(c.depth):
        b, a = f"backbone.layers.{layer}", f"expert.layers.{layer}"
        hb = norm(xb, f"{b}.input_layernorm")
        ha, gate = adaptive_norm(xa, f"{a}.input_layernorm")
        q, k, v = [], [], []
        for h, tower, at in ((hb, b, positions[:, :n]), (ha, a, positions[:, n:])):
            query = rope(heads(h, f"{tower}.self_attn.q_proj", c.num_heads), at, c.rope_theta)
            q.append(query.unflatten(2, (c.num_kv_heads, -1)))
            k.append(rope(heads(h, f"{tower}.self_attn.k_proj", c.num_kv_heads), at, c.rope_theta))
            v.append(heads(h, f"{tower}.self_attn.v_proj", c.num_kv_heads))
        k_read, v_read = k[0], v[0]  # what the action queries read of the backbone
        if cut is Cut.KEYS_VALUES:  # eq. 5: sg(K_b); eq. 6: sg(V_b)
            k_read, v_read = sg(k[0]), sg(v[0])
        elif cut is Cut.FEATURES:
            features = norm(sg(xb), f"{b}.input_layernorm")
            k_read = rope(heads(features, f"{b}.self_attn.k_proj", c.num_kv_heads), positions[:, :n], c.rope_theta)
            v_read = heads(features, f"{b}.self_attn.v_proj", c.num_kv_heads)
        of_backbone = attend(q[0], torch.cat(k, 1), torch.cat(v, 1), mask[:, :n])
        of_actions = attend(q[1], torch.cat([k_read, k[1]], 1), torch.cat([v_read, v[1]], 1), mask[:, n:])
        xb = xb + linear(of_backbone, f"{b}.self_attn.o_proj")
        xa = xa + gate * linear(of_actions, f"{a}.self_attn.o_proj")
        xb = xb + mlp(norm(xb, f"{b}.post_attention_layernorm"), f"{b}.mlp")
        ha, gate = adaptive_norm(xa, f"{a}.post_attention_layernorm")
        xa = xa + gate * mlp(ha, f"{a}.mlp")

    # ---- Losses
    logits = norm(xb[:, n - batch.targets.ids.shape[1] :], "backbone.norm") @ table.T
    log_p = logits.log_softmax(-1).gather(-1, batch.targets.ids[..., None])[..., 0]
    ce = -log_p[batch.targets.loss_mask].mean()
    velocity = linear(adaptive_norm(xa, "expert.norm")[0], "expert.action_out_proj")
    errors = [(v - (w - x))[m].square().mean() for v, w, x, m in zip(velocity, noise, actions, counted, strict=True)]
    return ce, torch.stack([e for e, m in zip(errors, counted, strict=True) if m.any()]).mean()
