"""Proof of knowledge insulation, on CPU in seconds: every property of `ki_model_checks` on the real model.

`test_ki_mutations` shows that each of them can fail.
"""

import inspect
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from fast_tokenizer import ki_model
from fast_tokenizer.ki_model import BetaTime, Cut, LogitNormalTime, Objective, Prefix, UniformTime
from fast_tokenizer.ki_model.expert import embed_time
from fast_tokenizer.ki_model.flow import interpolate
from tests import ki_model_checks as checks
from tests import test_ki_paligemma as paligemma
from tests.ki_model_batches import (
    FROZEN,
    JOINT,
    KI,
    differs,
    gradients,
    make_model,
    mixed_batch,
    noise_and_time,
    recorded_steps,
    same,
    same_gradients,
    trained,
)
from tests.ki_model_reference import mask_of, openpi_mask, segments_and_positions

attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def proof(check):
    """A test of a check: with both kinds of attention, if it makes models."""
    if not inspect.signature(check).parameters:

        def test():
            check()
    else:

        @attentions
        def test(attention):
            check(partial(make_model, attention=attention))

    test.__doc__, test.check = check.__doc__, check
    return test


# ---- Routing of gradients ----------------------------------------------------------------------------

test_each_loss_reaches_the_weights_that_its_mode_says_and_no_others = proof(checks.check_routing)
test_the_backbone_s_gradient_is_that_of_pi0_fast = proof(checks.check_backbone_gradient)
test_the_routing_report_says_what_gradients_say_and_closed_gates_are_named = proof(checks.check_report)

# ---- Who sees whom, and where ------------------------------------------------------------------------

test_the_expert_does_not_see_the_targets = proof(checks.check_fast_invisible)
test_the_backbone_does_not_see_actions_nor_noise = proof(checks.check_actions_invisible)
test_a_target_changes_later_logits_alone = proof(checks.check_causality)
test_the_first_target_is_learned_in_every_row = proof(checks.check_first_token)
test_the_start_id_stands_before_the_targets = proof(checks.check_start_slot)
test_targets_and_actions_both_begin_behind_the_valid_prefix = proof(checks.check_positions)
test_text_is_scaled_once = proof(checks.check_embedding_scale)
test_padding_masked_cameras_and_other_rows_change_nothing = proof(checks.check_padding)
test_two_passes_equal_one_masked_pass_in_losses_and_all_gradients = proof(checks.check_reference)
test_the_cut_changes_no_value = proof(checks.check_cut_has_no_value)


def test_the_reference_s_mask_is_openpi_s_rule_without_actions_on_targets():
    words, _ = segments_and_positions(mixed_batch(), image_tokens=4, horizon=4)
    assert mask_of(words).equal(openpi_mask(words))
    assert words[1] == "pppp" + "----" + "ppp----" + "ttt-----" + "aaaa"  # one camera, three ids, three targets


# ---- Losses ------------------------------------------------------------------------------------------

test_cross_entropy_equals_that_by_hand_whatever_the_padding = proof(checks.check_cross_entropy)
test_the_flow_loss_equals_that_by_hand = proof(checks.check_flow_loss)
test_robots_text_and_questions_in_one_batch_are_the_weighted_parts = proof(checks.check_parts)
test_rows_without_actions_do_not_count_even_if_nan = proof(checks.check_language_rows)
test_without_robots_or_language_a_loss_is_0_with_finite_gradients = proof(checks.check_empty)
test_k_draws_are_the_mean_of_k_losses = proof(checks.check_draws)

# ---- Ids ---------------------------------------------------------------------------------------------

test_action_tokens_on_loc_are_refused_beside_detection = proof(checks.check_location_ids)

# ---- Training ----------------------------------------------------------------------------------------

test_twenty_steps_leave_the_backbone_equal_with_and_without_flow = proof(checks.check_training)
test_twenty_frozen_steps_leave_the_backbone_as_it_was = proof(checks.check_frozen_training)


def test_a_global_clip_couples_the_losses_again(monkeypatch):
    monkeypatch.setattr(ki_model, "clip_gradients", checks.clip_globally)
    with pytest.raises(AssertionError, match=r"after 20 steps with alpha 1, backbone\.\S+: differs by up to"):
        checks.check_training()


# ---- Sampling ----------------------------------------------------------------------------------------

test_training_has_the_velocity_of_sampling = proof(checks.check_training_equals_sampling)
test_sampling_is_one_pass_and_n_calls_and_cannot_reach_action_tokens = proof(checks.check_calls)
test_every_row_has_its_own_time = proof(checks.check_times_of_rows)
test_uncounted_values_follow_their_path_of_training = proof(checks.check_sampling_mask)


test_euler_on_a_gaussian_is_first_order = proof(checks.check_sampler)


def test_the_gaussian_s_velocity_is_the_least_squares_fit_of_noise_minus_actions():
    """The closed form above is itself held against samples: E[noise - action | x_t] is linear for a Gaussian."""
    random = np.random.default_rng(0)
    mean, deviation, n = 0.7, 0.3, 400_000
    noise, actions = random.normal(size=n), mean + deviation * random.normal(size=n)
    for t in (0.2, 0.5, 0.9):
        slope, constant = np.polyfit(t * noise + (1 - t) * actions, noise - actions, 1)
        velocity = checks.gaussian_velocity(mean, deviation)
        at = torch.tensor([-1.0, 2.0], dtype=torch.float64)
        got = velocity(at[:, None, None], torch.tensor([t, t])).flatten().numpy()
        np.testing.assert_allclose(got, slope * at.numpy() + constant, atol=0.01)


# ---- Times and noise ---------------------------------------------------------------------------------


def test_noise_is_at_1_actions_at_0_and_the_velocity_leads_from_one_to_the_other():
    random = torch.Generator().manual_seed(0)
    actions, noise = torch.randn(2, 3, 4, 2, generator=random, dtype=torch.float64)
    for t, expected in ((0.0, actions), (1.0, noise)):
        x, velocity = interpolate(actions, noise, torch.full((3,), t))
        same(f"x at {t}", x, expected)
    same("noise less the velocity", noise - velocity, actions, 1e-15)
    before, _ = interpolate(actions, noise, torch.full((3,), 0.25))
    after, velocity = interpolate(actions, noise, torch.full((3,), 0.75))
    same("slope of the path", (after - before) / 0.5, velocity, 1e-14)


def draw(sampler, n=4000, seed=0):
    return sampler(n, device=None, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sampler", "distribution"),
    [
        (BetaTime(), scipy.stats.beta(1.5, 1, loc=0.001, scale=0.999)),
        (BetaTime(a=3.0, first=0.0), scipy.stats.beta(3, 1)),
        (UniformTime(), scipy.stats.uniform()),
    ],
    ids=["openpi", "cubic", "uniform"],
)
def test_times_are_distributed_as_scipy_s(sampler, distribution):
    times = draw(sampler)
    assert times.dtype == torch.float32
    assert scipy.stats.kstest(times.numpy(), distribution.cdf).pvalue > 0.05
    other = distribution.dist.name != "uniform" and scipy.stats.uniform()
    if other:  # the test would see another distribution
        assert scipy.stats.kstest(times.numpy(), other.cdf).pvalue < 1e-6


def test_logit_normal_times_are_the_sigmoid_of_a_normal_number():
    times = draw(LogitNormalTime(0.5, 0.8)).double()
    assert scipy.stats.kstest(torch.logit(times).numpy(), scipy.stats.norm(0.5, 0.8).cdf).pvalue > 0.05


def test_beta_times_are_scipy_s_quantiles_of_uniform_numbers():
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(3)).double().numpy()
    expected = 0.001 + 0.999 * scipy.stats.beta(1.5, 1).ppf(uniform)
    np.testing.assert_allclose(draw(BetaTime(), 1000, seed=3), expected, atol=2e-7)


def test_time_is_embedded_by_openpi_s_formula():
    width, t = 24, np.array([0.0, 0.001, 0.3, 1.0], np.float32)
    expected = np.zeros((len(t), width))
    for row, time in enumerate(t.tolist()):
        for i in range(width // 2):
            period = 4e-3 * (4.0 / 4e-3) ** (i / (width // 2 - 1))
            expected[row, i] = math.sin(2 * math.pi * time / period)
            expected[row, width // 2 + i] = math.cos(2 * math.pi * time / period)
    got = embed_time(torch.from_numpy(t), width)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_training_draws_standard_noise_and_the_objective_s_times():
    """Drawn once for each draw of each example, from the generator that is given."""
    asked = []

    def times(n, *, device, generator):
        asked.append((n, generator))
        return torch.full((n,), 0.5)

    model = make_model(Objective(time=times, flow_draws=80), dtype=torch.float32)
    batch = mixed_batch()
    batch = replace(batch, actions=torch.zeros_like(batch.actions))
    generator = torch.Generator().manual_seed(0)
    with recorded_steps(model) as calls:
        first = model(batch, generator=generator).total
        again = model(batch, generator=generator.manual_seed(0)).total
        other = model(batch, generator=generator).total
    same("total, seeded alike", again, first)
    differs("total, drawn on", other, first)
    assert asked == [(5 * 80, generator)] * 3
    x_t, t, _ = calls[0]
    assert (t == 0.5).all()
    assert scipy.stats.kstest(x_t.flatten().numpy() / 0.5, scipy.stats.norm.cdf).pvalue > 0.05


def test_sampling_begins_with_standard_noise():
    ids = torch.full((400, 2), 5)
    model = make_model(dtype=torch.float32)
    with recorded_steps(model) as calls:
        model.sample_actions(Prefix(ids, ids > 0), steps=1, generator=torch.Generator().manual_seed(0))
    assert scipy.stats.kstest(calls[0][0].flatten().numpy(), scipy.stats.norm.cdf).pvalue > 0.05


# ---- Other ways to compute the same ------------------------------------------------------------------

every_cut = pytest.mark.parametrize(
    "objective", [JOINT, KI, Objective(cut=Cut.FEATURES), FROZEN], ids=lambda o: f"{o.mode.value}-{o.cut.value}"
)


@every_cut
def test_eager_and_fused_attention_agree_in_values_and_gradients(objective):
    batch, drawn, found = mixed_batch(), noise_and_time(5), []
    for attention in ("eager", "sdpa"):
        model = make_model(objective, attention=attention)
        losses, velocity, _ = trained(model, batch, **drawn)
        found.append((losses.total, velocity, gradients(losses.total, model)))
    same("total", found[1][0], found[0][0], 1e-12)
    same("velocity", found[1][1], found[0][1], 1e-12)
    same_gradients("total", found[1][2], found[0][2], 1e-10)


@every_cut
def test_gradient_checkpointing_changes_nothing(objective):
    batch, drawn, found = mixed_batch(), noise_and_time(5), []
    for checkpointing in (False, True):
        model = make_model(objective)
        model.backbone.gradient_checkpointing = model.expert.gradient_checkpointing = checkpointing
        runs = []
        model.backbone.layers[0].register_forward_pre_hook(lambda *a, runs=runs: runs.append("backbone"))
        model.expert.layers[0].register_forward_pre_hook(lambda *a, runs=runs: runs.append("expert"))
        losses = model(batch, **drawn)
        losses.total.backward()
        found.append((losses.total, {n: p.grad for n, p in model.named_parameters()}, runs))
    same("total", found[1][0], found[0][0])
    same_gradients("total", found[1][1], found[0][1])
    assert found[0][2] == ["backbone", "expert"]
    again = ["expert"] if objective is FROZEN else ["expert", "backbone"]
    assert found[1][2] == ["backbone", "expert", *again]  # it did compute layers twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "check",
    [
        checks.check_routing,
        checks.check_backbone_gradient,
        checks.check_actions_invisible,
        checks.check_causality,
        checks.check_training,
        checks.check_frozen_training,
    ],
    ids=lambda c: c.__name__,
)
def test_what_is_equal_bit_for_bit_is_so_in_other_dtypes(check, dtype):
    check(partial(make_model, dtype=dtype))


@attentions
def test_bfloat16_is_near_float32(attention):
    batch, found = mixed_batch(), {}
    batch = replace(batch, actions=batch.actions.float())
    drawn = noise_and_time(5, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(attention=attention, dtype=dtype)
        losses = model(batch, **drawn)
        sampled = model.sample_actions(batch.prefix, noise=drawn["noise"])
        assert sampled.dtype == losses.total.dtype == torch.float32  # sums of many terms are not in bfloat16
        found[dtype] = losses, gradients(losses.total, model), sampled
    (expected, wide, actions), (got, narrow, narrow_actions) = found.values()
    for name in ("ce", "flow"):
        assert getattr(got, name).item() == pytest.approx(getattr(expected, name).item(), rel=0.02)
    assert (narrow_actions - actions).abs().max() < 0.1
    for name, g in narrow.items():
        assert g.dtype == torch.bfloat16
        assert g.isfinite().all()
        cosine = torch.cosine_similarity(g.float().flatten(), wide[name].flatten(), dim=0)
        assert cosine > 0.98, name
    differs("bfloat16 and float32", got.flow, expected.flow, 1e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo itself reads it, of keys and values
def test_the_compiled_step_equals_the_eager_one_in_training_and_sampling():
    """In one graph, by the backend that is quick; inductor takes minutes, and gives the same."""
    batch, drawn = mixed_batch(), noise_and_time(5, dtype=torch.float32)
    batch = replace(batch, actions=batch.actions.float())
    found = []
    for compiled in (False, True):
        model = make_model(JOINT, dtype=torch.float32, depth=2)
        if compiled:
            torch.compiler.reset()
            model.expert.compile(fullgraph=True, backend="aot_eager")
        losses = model(batch, **drawn)
        sampled = model.sample_actions(batch.prefix, steps=3, noise=drawn["noise"])
        found.append((losses.flow, gradients(losses.total, model), sampled))
    same("flow loss", found[1][0], found[0][0], 1e-5)
    same_gradients("total", found[1][1], found[0][1], 1e-4)
    same("sampled actions", found[1][2], found[0][2], 1e-5)


def test_a_recorded_model_is_left_as_it_was():
    """What the checks put around a model is taken away again."""
    model = make_model()
    with recorded_steps(model):
        pass
    assert not model.expert._forward_hooks


# ---- The same with PaliGemma as the backbone ---------------------------------------------------------


def make_on_paligemma(objective=KI, *, dtype=torch.float64, open_gates=True):
    with torch.random.fork_rng():
        model = paligemma.make_model(paligemma.make_paligemma(), objective)
        if open_gates:
            ki_model.open_gates(model)
    return model.to(dtype)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_routing,
        checks.check_backbone_gradient,
        checks.check_report,
        checks.check_fast_invisible,
        checks.check_actions_invisible,
        checks.check_causality,
        checks.check_first_token,
        checks.check_positions,
        checks.check_embedding_scale,
        checks.check_padding,
        checks.check_cut_has_no_value,
        checks.check_cross_entropy,
        checks.check_empty,
        checks.check_training,
        checks.check_frozen_training,
        checks.check_training_equals_sampling,
        checks.check_calls,
    ],
    ids=lambda c: c.__name__,
)
def test_it_holds_with_paligemma_as_the_backbone(check):
    """All but what compares gradients closely: the softmax of its vision tower is float32 always."""
    check(make_on_paligemma)
