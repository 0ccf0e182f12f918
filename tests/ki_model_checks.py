"""The properties of knowledge insulation, a function each; `test_ki_proof` runs them, `test_ki_mutations` breaks them.

A check takes ``make``, which makes a model of an objective, and raises AssertionError with what it found. It looks all
functions of the library up when it runs, so that a defect put into the library or into ``make`` shows.

Unless a check says otherwise numbers are float64, and "within rounding" is `ROUNDING`. Equal means equal bit for bit.
"""

import math
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fast_tokenizer import FastTokenizer, VlmVocab, ki_model
from fast_tokenizer.ki_model import Cut, KIBatch, Mode, Objective, Targets, backbone, expert
from fast_tokenizer.text import TextEncoder
from tests.ki_model_batches import (
    EVERY_CUT,
    FROZEN,
    JOINT,
    KI,
    PI0,
    PI0_FAST,
    ROUNDING,
    VLM_PRETRAIN,
    check,
    differs,
    examples,
    fields_of,
    gradients,
    listed,
    make_model,
    mixed_batch,
    noise_and_time,
    number,
    recorded_steps,
    same,
    same_gradients,
    trained,
    with_prefix_padding,
    with_targets,
)
from tests.ki_model_reference import one_pass

# ---- Gradient routing --------------------------------------------------------------------------------


def routing_table(names, depth):
    """For each objective the weights that cross-entropy reaches, and those that the flow reaches. All others: None.

    Of the backbone the expert reads the keys and values of each layer. What comes after those of the last layer - its
    queries, output, MLP, and the last norm - is `unread`: no flow gradient gets there even without a cut.
    """
    b = {n for n in names if n.startswith("backbone.")}
    e = {n for n in names if n.startswith("expert.")}
    after = ("q_proj", "o_proj", "mlp", "post_attention_layernorm")
    last = {n for n in b if n.startswith(f"backbone.layers.{depth - 1}.") and any(p in n for p in after)}
    unread = last | {"backbone.norm.weight"}
    layers = {n for n in b if n.startswith("backbone.layers.")}
    keys_values = {n for n in layers if any(p in n for p in ("k_proj", "v_proj", "input_layernorm"))}
    return {
        VLM_PRETRAIN: (b, set()),
        PI0: (set(), e | b - unread),
        PI0_FAST: (b, set()),
        JOINT: (b, e | b - unread),
        KI: (b, e),
        Objective(cut=Cut.FEATURES): (b, e | keys_values),
        Objective(cut=Cut.NONE): (b, e | b - unread),
        FROZEN: (set(), e),
    }


def check_routing(make=make_model):
    """Each loss reaches exactly the weights that its mode says: connected, and not zero. JOINT is the positive control.

    Not connected is stronger than zero: under KI there is no path at all from the flow loss to the backbone.
    """
    batch = mixed_batch()
    model = make(KI)
    names = [n for n, _ in model.named_parameters()]
    for objective, expected in routing_table(names, model.config.depth).items():
        model = make(objective)
        losses = model(batch, **noise_and_time(len(batch)))
        for loss, wanted in zip(("ce", "flow"), expected, strict=True):
            found = {n: g for n, g in gradients(getattr(losses, loss), model).items() if g is not None}
            where = f"{objective.mode.value} ({objective.effective_cut.value}): {loss}"
            check(all(g.isfinite().all() for g in found.values()), f"{where} has gradients that are not finite")
            extra, missing = found.keys() - wanted, wanted - {n for n, g in found.items() if g.any()}
            norm = math.sqrt(sum(found[n].square().sum().item() for n in extra))
            check(not extra, f"{where} reaches {listed(extra)}, norm {norm:.2g}")
            check(not missing, f"{where} does not reach {listed(missing)}")


def check_backbone_gradient(make=make_model):
    """Under KI the backbone's gradient of the total loss, with any alpha, equals that of PI0_FAST; without cut not."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    model = make(PI0_FAST)
    expected = gradients(model(batch, **drawn).total, model)
    for layer in range(model.config.depth):
        for w in "kv":
            name = f"backbone.layers.{layer}.self_attn.{w}_proj.weight"
            check(expected[name] is not None and expected[name].any(), f"cross-entropy does not reach {name}")
    for alpha in (1.0, 10.0):
        model = make(Objective(Mode.KI, alpha=alpha))
        got = gradients(model(batch, **drawn).total, model)
        same_gradients(f"KI with alpha {alpha:g} against PI0_FAST", got, expected, only="backbone.")
    model = make(JOINT)
    joint = gradients(model(batch, **drawn).total, model)
    name = "backbone.layers.0.self_attn.v_proj.weight"
    differs(f"positive control: gradient of {name} in JOINT", joint[name], expected[name])


def check_report(make=make_model):
    """`routing_report` says the same as gradients taken by hand, and that closed gates make its flow column vacuous."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    for objective in (VLM_PRETRAIN, PI0, PI0_FAST, JOINT, KI, Objective(cut=Cut.FEATURES), FROZEN):
        model = make(objective)
        report = ki_model.routing_report(model, batch, **drawn)
        losses = model(batch, **drawn)
        for loss in ("ce", "flow"):
            found = gradients(getattr(losses, loss), model)
            for tower in ("backbone", "expert"):
                squares = [g.square().sum() for n, g in found.items() if n.startswith(tower) and g is not None]
                norm, said = torch.stack(squares).sum().sqrt().item() if squares else None, report.tower(tower, loss)
                where = f"{objective.mode.value}: {loss} in the {tower}"
                check((norm is None) == (said is None), f"{where}: the report says {said}, found {norm}")
                check(norm is None or math.isclose(norm, said, rel_tol=1e-5), f"{where}: says {said}, found {norm}")
        check(not report.gates_closed and "gates" not in str(report), "open gates are called closed")
    closed = make(JOINT, open_gates=False)
    report = ki_model.routing_report(closed, batch, **drawn)
    check(report.gates_closed and "all gates of the expert are zero" in str(report), "closed gates are not reported")
    leak = report.tower("backbone", "flow")
    check(leak == 0, f"closed gates let {leak} through, so that they need no warning")


# ---- Who sees whom -----------------------------------------------------------------------------------


def check_fast_invisible(make=make_model):
    """The velocity of the training pass does not depend on the targets, whatever the cut.

    Equal where their content changes; within rounding where their number does, as sums over other widths are formed in
    another order. The positive control: it depends on the prefix.
    """
    batch, drawn = mixed_batch(), noise_and_time(5)
    t = batch.targets
    random = torch.randint(4, 64, t.ids.shape, generator=torch.Generator().manual_seed(5))
    for objective in EVERY_CUT:
        model, cut = make(objective), objective.effective_cut.value
        _, expected, _ = trained(model, batch, **drawn)
        for how, other, tolerance in (
            ("permuted", with_targets(batch, t.ids.flip(1)), 0),
            ("random", with_targets(batch, random), 0),
            ("padded", with_targets(batch, extra=5), ROUNDING),
            ("longer", with_targets(batch, extra=5, extra_valid=True), ROUNDING),
            ("cut to one", replace(batch, targets=Targets(*(x[:, :1] for x in fields_of(t)))), ROUNDING),
            ("none", replace(batch, targets=None), ROUNDING),
        ):
            _, got, _ = trained(model, other, **drawn)
            same(f"velocity (cut {cut}), targets {how}", got, expected, tolerance)
        other_prefix = replace(batch.prefix, ids=batch.prefix.ids.roll(1, 1))
        _, got, _ = trained(model, replace(batch, prefix=other_prefix), **drawn)
        differs(f"positive control: velocity (cut {cut}) with another prefix", got, expected)


def check_actions_invisible(make=make_model):
    """What predicts the targets, in the training pass itself, is equal whatever the actions, their noise and times."""
    batch, model = mixed_batch(), make(KI)
    losses, velocity, expected = trained(model, batch, **noise_and_time(5))
    other = replace(batch, actions=batch.actions * 0.5 + 0.1)
    for how, given, drawn in (
        ("other actions", other, noise_and_time(5)),
        ("other noise and times", batch, noise_and_time(5, seed=9)),
        ("no actions", replace(batch, actions=None, action_mask=None), noise_and_time(5)),
    ):
        got_losses, got_velocity, got = trained(model, given, **drawn)
        same(f"features of the targets, {how}", got, expected)
        same(f"cross-entropy, {how}", got_losses.ce, losses.ce)
        differs(f"positive control: velocity, {how}", got_velocity, velocity)


def check_causality(make=make_model):
    """Slot i predicts target i from the targets before it: another target i changes no logit of slots 0..i, but i + 1.

    The logits of unchanged slots, and of all other rows, are equal.
    """
    batch, model = mixed_batch(), make(KI)
    logits = model.target_logits(batch)
    for row, length in enumerate(batch.targets.mask.sum(1).tolist()):
        for i in range(length):
            ids = batch.targets.ids.clone()
            ids[row, i] = 5 if ids[row, i] != 5 else 6
            got = model.target_logits(with_targets(batch, ids))
            where = f"logits of row {row}, target {i} changed"
            same(f"{where}: slots up to {i}", got[row, : i + 1], logits[row, : i + 1])
            others = [r for r in range(len(batch)) if r != row]
            same(f"{where}: other rows", got[others], logits[others])
            if i + 1 < length:
                differs(f"{where}: slot {i + 1}", got[row, i + 1], logits[row, i + 1])


def check_first_token(make=make_model):
    """The first target is learned, whether action token or text, in every row, from a slot that sees the prefix.

    Its loss is counted, has the value computed by hand, and has a gradient; a change in the prefix changes its logits.
    """
    batch, model = mixed_batch(), make(KI)
    t = batch.targets
    first = torch.zeros_like(t.loss_mask)
    first[:, 0] = True
    losses = model(with_targets(batch, loss_mask=first), **noise_and_time(5))
    logits = model.target_logits(batch)
    counted = (losses.text_tokens + losses.fast_tokens).item()
    check(counted == len(batch), f"{counted} first targets are counted, of {len(batch)} rows")
    check(losses.fast_tokens == 1, f"{losses.fast_tokens} first targets are action tokens, not 1")
    by_hand = -logits[:, 0].log_softmax(-1).gather(1, t.ids[:, :1]).mean()
    same("loss of the first targets", losses.ce, by_hand, ROUNDING)
    found = gradients(losses.ce, model)["backbone.embed_tokens.weight"]
    check(found is not None and found.any(), "the loss of the first targets has no gradient")
    ids = batch.prefix.ids.clone()
    ids[:, 0] += 1
    moved = model.target_logits(replace(batch, prefix=replace(batch.prefix, ids=ids)))
    for row in range(len(batch)):
        differs(f"first logits of row {row}, with another prefix", moved[row, 0], logits[row, 0])


def check_start_slot(make=make_model):
    """Before the first target stands the start id, at a position of its own right behind the valid prefix."""
    batch, model = mixed_batch(), make(KI)
    shifted = model.backbone.shifted(batch.targets.ids)
    check((shifted[:, 0] == model.config.start_id).all(), "slot 0 does not hold the start id")
    same("slots 1..", shifted[:, 1:], batch.targets.ids[:, :-1])


def check_positions(make=make_model):
    """Targets and actions both begin at P, the number of valid prefix tokens of their row, in training and sampling."""
    batch, model = mixed_batch(), make(KI)
    valid = batch.prefix.mask.sum(1) + 4 * batch.prefix.image_mask.sum(1)  # 4 patches a camera
    seen = {"backbone": [], "expert": []}
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((backbone, "backbone"), (expert, "expert")):

            def spy(positions, *args, name=name, rotary=module.rotary):
                seen[name].append(positions)
                return rotary(positions, *args)

            patch.setattr(module, "rotary", spy)
        model(batch, **noise_and_time(5))
        model.sample_actions(batch.prefix, steps=1)
    slots = batch.targets.ids.shape[1]
    same("positions of targets", seen["backbone"][0][:, -slots:], valid[:, None] + torch.arange(slots))
    for when, found in zip(("training", "sampling"), seen["expert"], strict=True):
        same(f"positions of actions in {when}", found, valid[:, None] + torch.arange(4))
    for row, positions in enumerate(seen["backbone"][1]):
        shown = torch.cat([batch.prefix.image_mask[row].repeat_interleave(4), batch.prefix.mask[row]])
        same(f"positions of the prefix of row {row}", positions[shown], torch.arange(int(valid[row])))


def check_embedding_scale(make=make_model):
    """Text of prefix and targets enters the first layer times sqrt(d), once; image tokens as the encoder gives them."""
    batch, model = mixed_batch(), make(KI)
    seen = []
    hook = model.backbone.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(batch, **noise_and_time(5))
    hook.remove()
    said = model.backbone.shifted(batch.targets.ids)
    ids = torch.cat([batch.prefix.ids, said], dim=1)
    expected = model.backbone.embed_tokens.weight[ids] * math.sqrt(model.config.backbone.width)
    valid = torch.cat([batch.prefix.mask, batch.targets.mask], dim=1)
    same("text entering the first layer", seen[0][:, -ids.shape[1] :][valid], expected[valid])
    shown = batch.prefix.image_mask[:, 0]
    images = model.backbone.image_encoder(batch.prefix.images[:, 0])
    same("the first camera entering the first layer", seen[0][:, :4][shown], images[shown], ROUNDING)


def check_padding(make=make_model):
    """Padding of the prefix (before, within, behind), pixels of masked cameras and rows beside it change nothing.

    Compared within rounding: the velocity, the logits of valid targets, and both losses; row by row with a batch of
    that row alone, which has no padding at all.
    """
    batch, drawn = mixed_batch(), noise_and_time(5)
    model = make(KI)
    losses, velocity, _ = trained(model, batch, **drawn)
    logits, valid = model.target_logits(batch), batch.targets.mask
    noisy = torch.randn(batch.prefix.images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shown = batch.prefix.image_mask[:, :, None, None, None]
    pixels = replace(batch.prefix, images=torch.where(shown, batch.prefix.images, noisy))
    for how, prefix in (
        ("padded behind", with_prefix_padding(batch.prefix, right=6)),
        ("padded before and within", with_prefix_padding(batch.prefix, left=2, middle=3)),
        ("other pixels of masked cameras", pixels),
    ):
        other = replace(batch, prefix=prefix)
        got_losses, got_velocity, _ = trained(model, other, **drawn)
        same(f"velocity, {how}", got_velocity, velocity, ROUNDING)
        same(f"logits, {how}", model.target_logits(other)[valid], logits[valid], ROUNDING)
        same(f"cross-entropy, {how}", got_losses.ce, losses.ce, ROUNDING)
        same(f"flow loss, {how}", got_losses.flow, losses.flow, ROUNDING)
    for row, alone in enumerate(examples()):
        one = {name: x[row : row + 1] for name, x in drawn.items()}
        _, got_velocity, _ = trained(model, alone, **one)
        same(f"velocity of row {row} alone", got_velocity[0], velocity[row], ROUNDING)
        same(f"logits of row {row} alone", model.target_logits(alone)[0], logits[row][valid[row]], ROUNDING)


def check_reference(make=make_model):
    """Two passes equal one pass with one mask: losses and every gradient, without cut and with both cuts.

    The reference has the stop-gradient where the paper has it, in the rows of the action queries (eq. 5 and 6).
    """
    batch, drawn = mixed_batch(), noise_and_time(5)
    for objective in EVERY_CUT:
        model = make(objective)
        losses = model(batch, **drawn)
        reference = one_pass(model, batch, **drawn, cut=objective.effective_cut)
        for name, got, expected in zip(("ce", "flow"), (losses.ce, losses.flow), reference, strict=True):
            where = f"{objective.mode.value} ({objective.effective_cut.value}): {name}"
            same(where, got, expected, ROUNDING)
            # The reference multiplies by 0 what is masked; in the library some of that is not connected at all.
            same_gradients(
                where, gradients(got, model, unconnected=0.0), gradients(expected, model, unconnected=0.0), 1e-10
            )


def check_cut_has_no_value(make=make_model):
    """The cut changes no value: losses, velocity and features are equal with and without it."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    expected, velocity, features = trained(make(JOINT), batch, **drawn)
    for cut in Cut:
        losses, got_velocity, got_features = trained(make(Objective(Mode.KI, cut)), batch, **drawn)
        # Keys and values of FEATURES are products of another height, which may round otherwise.
        tolerance = ROUNDING if cut is Cut.FEATURES else 0
        same(f"velocity with cut {cut.value}", got_velocity, velocity, tolerance)
        same(f"features with cut {cut.value}", got_features, features)
        for name in ("ce", "flow", "total"):
            same(f"{name} with cut {cut.value}", getattr(losses, name), getattr(expected, name), tolerance)


# ---- Losses ------------------------------------------------------------------------------------------


def check_cross_entropy(make=make_model):
    """The cross-entropy is the mean over the tokens that count, by hand in plain Python, whatever the padding.

    Of text and of action tokens apart as well; VLM_PRETRAIN counts the text before the first action token alone.
    """
    batch, drawn = mixed_batch(), noise_and_time(5)
    t = batch.targets
    for objective in (KI, PI0_FAST, VLM_PRETRAIN):
        model = make(objective)
        log_p = model.target_logits(batch).log_softmax(-1)
        kinds = {"text": [], "fast": []}
        for row, slot in t.loss_mask.nonzero().tolist():
            if objective is VLM_PRETRAIN and t.fast_mask[row, : slot + 1].any():
                continue
            kinds["fast" if t.fast_mask[row, slot] else "text"].append(-log_p[row, slot, t.ids[row, slot]].item())
        counted = kinds["text"] + kinds["fast"]
        for how, other in (
            ("", batch),
            (", targets padded", with_targets(batch, extra=7)),
            (", prefix padded", replace(batch, prefix=with_prefix_padding(batch.prefix, middle=2, right=3))),
        ):
            losses, where = model(other, **drawn), f"{objective.mode.value}{how}"
            for kind, values in kinds.items():
                got, mean = getattr(losses, f"ce_{kind}"), sum(values) / max(len(values), 1)
                same(f"{where}: mean over {kind}", got.double(), number(mean), ROUNDING)
                tokens = int(getattr(losses, f"{kind}_tokens"))
                check(tokens == len(values), f"{where}: {tokens} {kind} tokens counted, not {len(values)}")
            same(f"{where}: mean over all", losses.ce, number(sum(counted) / len(counted)), ROUNDING)


def check_flow_loss(make=make_model):
    """The flow loss is the mean over robot examples of the mean over their counted values; total = ce + alpha flow."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    losses, velocity, _ = trained(make(Objective(alpha=3.0)), batch, **drawn)
    of_example = []
    for row, mask in enumerate(batch.element_mask()):
        wrong = [
            (velocity[row, h, a] - (drawn["noise"][row, h, a] - batch.actions[row, h, a])).item() ** 2
            for h, a in mask.nonzero().tolist()
        ]
        of_example += [sum(wrong) / len(wrong)] if wrong else []
    check(len(of_example) == 3 == int(losses.robot_examples), f"{losses.robot_examples} robot examples, not 3")
    same("flow loss", losses.flow, number(sum(of_example) / 3), ROUNDING)
    same("total", losses.total, losses.ce + 3 * losses.flow, ROUNDING)


def check_parts(make=make_model):
    """Losses of robots, text and questions in one batch are those of its rows, weighted by what each counts."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    model = make(KI)
    whole = model(batch, **drawn)
    ce = flow = tokens = robots = 0
    for row, alone in enumerate(examples()):
        losses = model(alone, **{name: x[row : row + 1] for name, x in drawn.items()})
        n = losses.text_tokens + losses.fast_tokens
        ce, tokens = ce + n * losses.ce, tokens + n
        flow, robots = flow + losses.robot_examples * losses.flow, robots + losses.robot_examples
    for what, got, expected in (("cross-entropy", whole.ce, ce / tokens), ("flow loss", whole.flow, flow / robots)):
        same(f"{what} of the whole batch", got, expected, ROUNDING)
        same_gradients(f"{what} of the whole batch", gradients(got, model), gradients(expected, model), 1e-10)


def check_language_rows(make=make_model):
    """The flow loss counts no row without actions, whatever stands there: losses and gradients are equal."""
    batch, drawn = mixed_batch(), noise_and_time(5)
    model = make(JOINT)
    losses = model(batch, **drawn)
    expected = gradients(losses.total, model)
    finite = torch.nan_to_num(batch.actions, nan=0.7)
    zeros = torch.where(batch.element_mask(), batch.actions, 0)
    for what, actions in (("0.7", finite), ("0", zeros)):
        got = model(replace(batch, actions=actions), **drawn)
        same(f"flow loss, {what} instead of NaN", got.flow, losses.flow)
        same_gradients(f"{what} instead of NaN", gradients(got.total, model), expected)
    robots = batch.element_mask().any((1, 2))
    alone = KIBatch.cat([e for e, r in zip(examples(), robots, strict=True) if r])
    got = model(alone, **{name: x[robots] for name, x in drawn.items()})
    same("flow loss of the robots alone", got.flow, losses.flow, ROUNDING)


def check_empty(make=make_model):
    """Without robot or language examples that loss is 0, and gradients are finite and there.

    "There" is not None: workers of a distributed training add up the same gradients.
    """
    batch, drawn = mixed_batch(), noise_and_time(5)
    nothing = torch.zeros_like(batch.targets.loss_mask)
    for how, given, loss, tower in (
        ("no actions", replace(batch, actions=None, action_mask=None), "flow", "expert."),
        ("no action counts", replace(batch, action_mask=torch.zeros(5).bool()), "flow", "expert."),
        ("no targets", replace(batch, targets=None), "ce", "backbone."),
        ("no target counts", with_targets(batch, loss_mask=nothing), "ce", "backbone."),
    ):
        for objective in (KI, JOINT):
            model = make(objective)
            losses, where = model(given, **drawn), f"{objective.mode.value}, {how}"
            check(getattr(losses, loss) == 0, f"{where}: {loss} is {getattr(losses, loss)}")
            check(losses.total.isfinite(), f"{where}: total is {losses.total}")
            check(losses.total > 0, f"{where}: nothing is learned at all")
            found = gradients(losses.total, model)
            wrong = [n for n, g in found.items() if g is not None and not g.isfinite().all()]
            check(not wrong, f"{where}: gradients of {listed(wrong)} are not finite")
            unconnected = [n for n, g in found.items() if n.startswith(tower) and g is None]
            check(not unconnected, f"{where}: {listed(unconnected)} have no gradient")


def check_draws(make=make_model):
    """K draws of noise and time for each prefix give the mean of K losses with one draw, and of their gradients."""
    batch, k = mixed_batch(), 3
    drawn = noise_and_time(5 * k)
    for objective in (KI, JOINT):
        model = make(replace(objective, flow_draws=k))
        losses = model(batch, **drawn)
        got = gradients(losses.flow, model)
        model.objective = objective
        one = [model(batch, **{name: x[i::k] for name, x in drawn.items()}) for i in range(k)]
        mean = torch.stack([x.flow for x in one]).mean()
        same("flow loss", losses.flow, mean, ROUNDING)
        check(losses.robot_examples == 3, f"{losses.robot_examples} robot examples, not 3")
        same_gradients("flow", got, gradients(mean, model), 1e-9)


# ---- Training ----------------------------------------------------------------------------------------


def clip_globally(groups, max_norm):
    """What most training scripts do: one norm over everything."""
    weights = [p for g in groups for p in g["params"]]
    return {"backbone": float(torch.nn.utils.clip_grad_norm_(weights, max_norm))}


def after_training(model, steps=20, max_norm=0.5):
    """The backbone's weights after some steps of AdamW, and whether clipping did anything."""
    optimizer = torch.optim.AdamW(ki_model.parameter_groups(model, backbone_lr=1e-3, expert_lr=3e-3), weight_decay=0.01)
    clipped = False
    for step in range(steps):
        optimizer.zero_grad()
        model(mixed_batch(seed=step % 4), **noise_and_time(5, seed=step)).total.backward()
        norms = ki_model.clip_gradients(optimizer.param_groups, max_norm)
        clipped |= any(n > max_norm for n in norms.values())
        optimizer.step()
    return {n: p.detach().clone() for n, p in model.backbone.named_parameters()}, clipped


def check_training(make=make_model):
    """After 20 clipped steps of AdamW the backbone is equal with and without the flow loss, and for alpha 1 and 10."""
    expected, clipped = after_training(make(PI0_FAST))
    check(clipped, "no gradient was clipped, so that the test would not see a clip that couples the losses")
    for alpha in (1.0, 10.0):
        got, _ = after_training(make(Objective(Mode.KI, alpha=alpha)))
        for name, weight in expected.items():
            same(f"after 20 steps with alpha {alpha:g}, backbone.{name}", got[name], weight)
    start = make(PI0_FAST).backbone.state_dict()
    for name, weight in expected.items():
        differs(f"positive control: {name} after training", weight, start[name])


def check_frozen_training(make=make_model):
    """After 20 steps of FROZEN, with weight decay, the backbone is what it was, and the expert is not."""
    model = make(FROZEN)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    after_training(model)
    for name, weight in model.named_parameters():
        if name.startswith("backbone."):
            same(name, weight, before[name])
        else:
            differs(f"positive control: {name}", weight, before[name])


# ---- Sampling ----------------------------------------------------------------------------------------


def check_training_equals_sampling(make=make_model):
    """At each point that sampling passes, the training pass has the same velocity, with targets beside it.

    Prompts are ragged and cameras masked; within rounding, as the training pass is over wider sequences.
    """
    batch, noise = mixed_batch(), noise_and_time(5)["noise"]
    for objective in EVERY_CUT:
        model, cut = make(objective), objective.effective_cut.value
        with recorded_steps(model) as calls:
            model.sample_actions(batch.prefix, steps=4, noise=noise)
        for x_t, t, expected in calls:
            given = replace(batch, actions=x_t, action_mask=None)  # actions and noise are x_t, and so is all between
            _, got, _ = trained(model, given, noise=x_t, time=t)
            same(f"velocity (cut {cut}) at t = {t[0]:g}", got, expected, ROUNDING)
        differs("positive control: velocity at the first and the last point", calls[0][2], calls[-1][2])


def check_calls(make=make_model):
    """Sampling calls the backbone once, without targets, the expert N times, and neither head nor shift at all."""
    batch, model, calls = mixed_batch(), make(KI), Counter()

    def unreachable(*args):
        raise AssertionError("sampling reached what makes action tokens")

    model.backbone.logits = model.backbone.shifted = unreachable
    model.backbone.embed_tokens.register_forward_hook(lambda _, args, out: calls.update(embedded=args[0].numel()))
    model.backbone.register_forward_hook(
        lambda _, args, kwargs, out: calls.update(backbone=1, targets=len(args) + len(kwargs) - 1), with_kwargs=True
    )
    given = {f.name for f in fields(batch.prefix)}
    check(given == {"ids", "mask", "images", "image_mask"}, f"a prefix holds {given}")
    for steps in (1, 7, 10, 33):
        calls.clear()
        with recorded_steps(model) as expert_calls:
            model.sample_actions(batch.prefix, steps=steps, noise=noise_and_time(5)["noise"])
        got = calls["backbone"], calls["targets"], len(expert_calls)
        check(got == (1, 0, steps), f"backbone passes, targets, expert calls: {got} instead of {(1, 0, steps)}")
        check(calls["embedded"] == batch.prefix.ids.numel(), f"{calls['embedded']} ids were embedded")
        times = torch.stack([t for _, t, _ in expert_calls])
        expected = torch.tensor([1 - i / steps for i in range(steps)])[:, None].expand(-1, 5)
        same(f"times of {steps} steps", times, expected)


def check_times_of_rows(make=make_model):
    """Every row is denoised at its own time, and the time matters."""
    batch, model = mixed_batch(), make(KI)
    cache = model.backbone(batch.prefix).cache
    x, times = noise_and_time(5)["noise"], torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    together = model.expert(x, times, cache)
    for row, t in enumerate(times):
        alone = model.expert(x, t.expand(5), cache)
        same(f"velocity of row {row} at t = {t:g}", together[row], alone[row], ROUNDING)
        differs(f"velocity of row {row} at another time", model.expert(x, 1 - t.expand(5) / 2, cache)[row], alone[row])


def check_sampling_mask(make=make_model):
    """Values that do not count follow in sampling the path they had in training, t * noise; the others are sampled."""
    batch, model = mixed_batch(), make(KI)
    noise, mask = noise_and_time(5)["noise"], batch.element_mask()
    with recorded_steps(model) as calls:
        got = model.sample_actions(batch.prefix, steps=4, noise=noise, action_mask=mask)
    for x_t, t, _ in calls:
        same(f"uncounted values at t = {t[0]:g}", x_t[~mask], (t[:, None, None] * noise)[~mask], ROUNDING)
    same("uncounted values in the end", got[~mask], torch.zeros_like(got[~mask]), ROUNDING)
    every = model.sample_actions(batch.prefix, steps=4, noise=noise)
    differs("positive control: counted values do not end at 0", got[mask], torch.zeros_like(got[mask]))
    differs("positive control: uncounted values without the mask", every[~mask], got[~mask])


def gaussian_velocity(mean, deviation):
    """E[noise - action | x_t] for actions ~ N(mean, deviation^2) and standard noise, in closed form."""

    def velocity(x, t):
        t = t[:, None, None].double()
        variance = t**2 + (1 - t) ** 2 * deviation**2
        return (t - (1 - t) * deviation**2) / variance * (x - (1 - t) * mean) - mean

    return velocity


def check_sampler():
    """Euler's method on a Gaussian, where the exact path ends at ``mean + deviation * noise``: first order in steps."""
    noise = noise_and_time(64)["noise"]
    for mean, deviation in ((0.7, 0.3), (-2.0, 1.5)):
        exact = mean + deviation * noise
        errors = [
            (ki_model.flow.euler(gaussian_velocity(mean, deviation), noise, n) - exact).abs().max().item()
            for n in (10, 40, 80, 160, 320)
        ]
        check(errors[-1] < 0.03, f"error after 320 steps {errors[-1]:.2g}")
        ratios = [a / b for a, b in pairwise(errors[1:])]
        check(all(1.8 < r < 2.2 for r in ratios), f"errors {errors} do not halve when steps double")


# ---- Ids ---------------------------------------------------------------------------------------------


def check_location_ids():
    """Action tokens that would lie on <loc> are refused beside detection, and answers in <loc> beside such tokens."""
    loc = 256_000  # PaliGemma's <loc0000>
    text = TextEncoder(lambda texts: [[loc + 7] if t == "<loc0007>" else [ord(c) for c in t] for t in texts], 2, 1)
    tokenizer = FastTokenizer.default()

    def refuses(what, why, call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except ValueError as error:
            check(why in str(error), f"{what} are refused for another reason: {error}")
            return
        raise AssertionError(f"{what} are not refused")

    size = tokenizer.vocab_size
    refuses("tokens on <loc> beside detection", "lie on <loc>", VlmVocab.paligemma, size, co_training=["detection"])
    on_loc = ki_model.KIBatchBuilder(text, VlmVocab.paligemma(size), tokenizer)
    refuses(
        "answers in <loc> beside action tokens there", "an action token", on_loc.language, ["where?"], ["<loc0007>"]
    )
    below = ki_model.KIBatchBuilder(text, VlmVocab.paligemma(size, anchor="loc"), tokenizer)
    batch = KIBatch.cat(
        [below.language(["where?"], ["<loc0007>"]), below.robot(["go"], np.zeros((1, 2)), np.zeros((1, 50, 7)))]
    )
    fast = batch.targets.fast_mask.any(1).tolist()
    check(fast == [False, True], f"rows with action tokens: {fast}")
