"""Every way in which knowledge insulation is known to go wrong is put into the library, and the named test fails.

Failures 1 to 16 are those that public implementations have had; what has no number was added so that every check of
`ki_model_checks` is seen to fail. ``python -m tests.test_ki_mutations`` prints the table, `mutation_table` returns it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from fast_tokenizer import VlmVocab, ki_model
from fast_tokenizer.ki_model import (
    SEES,
    ActionExpert,
    Backbone,
    Cut,
    KIModel,
    Objective,
    PrefixCache,
    Segment,
    Targets,
    flow,
    layers,
    routing,
)
from fast_tokenizer.ki_model import backbone as backbone_module
from fast_tokenizer.ki_model import model as model_module
from fast_tokenizer.ki_model.layers import Attention, rotate
from tests import ki_model_checks as checks
from tests import test_ki_proof as proof
from tests.ki_model_batches import gradients, make_model, mixed_batch, noise_and_time


@dataclass(frozen=True)
class Mutation:
    """A defect.

    Attributes:
        number: 1 to 16 as above, or None.
        failure: What goes wrong.
        inject: Puts it into the library through a `pytest.MonkeyPatch`; its docstring says how.
        fails: The checks that fail, and a pattern of what they say.
        make: Makes the models.
    """

    number: int | None
    failure: str
    inject: Callable[[pytest.MonkeyPatch], None]
    fails: dict[Callable[..., None], str]
    make: Callable[..., KIModel]


@dataclass(frozen=True)
class Row:
    """A row of the table: a failure, how it was injected, the test that fails, and what it says.

    `outcome` is empty if the test passed in spite of the defect.
    """

    number: int | None
    failure: str
    injected: str
    test: str
    outcome: str


MUTATIONS: list[Mutation] = []


def mutation(number, failure, fails, make=make_model):
    def register(inject):
        MUTATIONS.append(Mutation(number, failure, inject, fails, make))
        return inject

    return register


# ---- 1 to 4: what the expert may see, and where ------------------------------------------------------


@mutation(
    1,
    "action tokens visible to the expert",
    {checks.check_fast_invisible: "velocity .*, targets permuted: differs"},
)
def cache_keeps_target_slots(patch):
    """The cache is not sliced to the prefix; positions are as they should be."""
    run, forward, found, width = Backbone._run, Backbone.forward, [], [0]

    def recording(self, *args):
        x, keys_values = run(self, *args)
        found.append(keys_values)
        return x, keys_values

    def unsliced(self, prefix, targets=None, **options):
        found.clear()
        out = forward(self, prefix, targets, **options)
        width[0] = out.cache.mask.shape[1]
        seen = out.cache.mask if targets is None else torch.cat([out.cache.mask, targets.mask], dim=1)
        return backbone_module.BackboneOutput(out.target_features, PrefixCache(tuple(found), seen))

    patch.setattr(Backbone, "_run", recording)
    patch.setattr(Backbone, "forward", unsliced)
    patch.setattr(PrefixCache, "length", property(lambda self: self.mask[:, : width[0]].long().sum(1)))


@mutation(
    2,
    "positions differ between training and inference",
    {
        checks.check_positions: "positions of actions in training: differs",
        checks.check_training_equals_sampling: "velocity .* at t = 1: differs",
        checks.check_fast_invisible: "velocity .*, targets (padded|longer|cut to one): differs",
    },
)
def actions_begin_behind_the_targets(patch):
    """The first action's position is behind the targets of this pass, of which there are none in sampling."""
    forward, length, said = Backbone.forward, PrefixCache.length.fget, [0]

    def counting(self, prefix, targets=None, **options):
        said[0] = 0 if targets is None else targets.mask.long().sum(1)
        return forward(self, prefix, targets, **options)

    patch.setattr(Backbone, "forward", counting)
    patch.setattr(PrefixCache, "length", property(lambda self: length(self) + said[0]))


@mutation(
    2,
    "positions depend on padding",
    {checks.check_positions: "positions of targets: differs", checks.check_padding: "padded"},
)
def positions_count_padding(patch):
    """Positions of the prefix are slots, and targets and actions begin behind its padding."""

    def slots(valid):
        at = torch.arange(valid.shape[1]).expand(valid.shape)
        return at, torch.full((len(valid),), valid.shape[1])

    patch.setattr(backbone_module, "prefix_positions", slots)
    patch.setattr(PrefixCache, "length", property(lambda self: slots(self.mask)[1]))


@mutation(
    3,
    "a shared prefix carries action tokens to the expert",
    {
        checks.check_fast_invisible: "velocity .*, targets permuted: differs",
        checks.check_training_equals_sampling: "velocity .* at t = 1: differs",
    },
)
def prefix_sees_targets(patch):
    """The prefix sees the targets, so that its keys and values know them."""
    patch.setitem(SEES[Segment.PREFIX], Segment.TARGET, "all")


@mutation(
    4,
    "masks differ between training and inference",
    {checks.check_training_equals_sampling: "velocity .* at t = 1: differs"},
)
def prefix_is_causal_in_training(patch):
    """In the training pass the prefix is causal, in sampling bidirectional."""
    mask_of = backbone_module.attention_mask

    def mask(queries, keys):
        training = (keys == Segment.TARGET).any()
        return mask_of(queries, keys).tril() if training else mask_of(queries, keys)

    patch.setattr(backbone_module, "attention_mask", mask)


@mutation(4, "actions are causal among themselves", {checks.check_reference: r"joint \(none\): flow: differs"})
def actions_are_causal(patch):
    """An action sees the actions before it alone; the paper and openpi have them see each other."""
    patch.setitem(SEES[Segment.ACTION], Segment.ACTION, "causal")


# ---- 5 to 7: where the gradient is cut ---------------------------------------------------------------

LEAK = r"ki \(keys-values\): flow reaches \d+ weights"


@mutation(
    5,
    "only the input embeddings are detached",
    {checks.check_routing: LEAK, checks.check_backbone_gradient: "gradient of backbone.* differs"},
)
def embeddings_alone_are_detached(patch):
    """The expert gets the uncut keys and values of a pass over detached embeddings of the prefix."""
    forward, embed, given = Backbone.forward, Backbone.embed_prefix, []

    def remembering(self, prefix, *args, **options):
        given[:] = [prefix]
        return forward(self, prefix, *args, **options)

    def detached(self, prefix):
        x, valid = embed(self, prefix)
        return x.detach(), valid

    def insulated(self, cache):
        if self.objective.effective_cut is Cut.NONE:
            return cache
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Backbone, "embed_prefix", detached)
            return forward(self.backbone, given[0]).cache

    patch.setattr(Backbone, "forward", remembering)
    patch.setattr(KIModel, "insulated", insulated)


@mutation(
    6,
    "only the keys are detached",
    {checks.check_routing: LEAK, checks.check_training: "after 20 steps with alpha 1"},
)
def keys_alone_are_detached(patch):
    """`PrefixCache.detach` leaves the values connected."""
    patch.setattr(PrefixCache, "detach", lambda c: PrefixCache(tuple((k.detach(), v) for k, v in c.layers), c.mask))


@mutation(
    6,
    "only the values are detached",
    {checks.check_routing: LEAK, checks.check_training: "after 20 steps with alpha 1"},
)
def values_alone_are_detached(patch):
    """`PrefixCache.detach` leaves the keys connected."""
    patch.setattr(PrefixCache, "detach", lambda c: PrefixCache(tuple((k, v.detach()) for k, v in c.layers), c.mask))


@mutation(
    7,
    "over-insulation: cross-entropy no longer trains keys and values",
    {
        checks.check_routing: r"ce does not reach \d+ weights .*k_proj",
        checks.check_backbone_gradient: "cross-entropy does not reach backbone.layers.0.self_attn.k_proj",
        checks.check_reference: r"joint \(none\): ce: gradient of backbone.* differs",
    },
)
def keys_and_values_are_detached_for_all(patch):
    """The backbone's keys and values are detached before its own attention reads them, not on the way to the expert."""

    def forward(self, x, rope, mask, memory=None):
        own = self.keys_values(x, rope)
        if memory is None:
            own = tuple(y.detach() for y in own)
        k, v = own if memory is None else (torch.cat([m, o], dim=2) for m, o in zip(memory, own, strict=True))
        y = self.attend(rotate(self._heads(self.q_proj(x)), rope), k, v, mask)
        return self.o_proj(y.transpose(1, 2).flatten(2)), own

    patch.setattr(Attention, "forward", forward)


# ---- 8 to 11: what the language model sees and says --------------------------------------------------


@mutation(
    8, "targets see what they are to predict", {checks.check_causality: "target 0 changed: slots up to 0: differs"}
)
def targets_are_bidirectional(patch):
    """Targets see each other both ways."""
    patch.setitem(SEES[Segment.TARGET], Segment.TARGET, "all")


@mutation(
    8,
    "targets are copied, not predicted",
    {
        checks.check_causality: "target 0 changed: slots up to 0: differs",
        checks.check_start_slot: "slot 0 does not hold the start id",
    },
)
def targets_are_not_shifted(patch):
    """Slot i holds target i itself."""
    patch.setattr(Backbone, "shifted", lambda self, ids: ids)


@mutation(
    9,
    "the first target is not learned",
    {checks.check_first_token: "0 first targets are counted", checks.check_cross_entropy: "mean over"},
)
def first_target_is_not_counted(patch):
    """The loss begins at the second target, as it does where logits and labels are shifted against each other."""
    loss = KIModel._cross_entropy

    def shortened(self, out, targets):
        counted = targets.loss_mask.clone()
        counted[:, :1] = False
        return loss(self, out, Targets(targets.ids, targets.mask, counted, targets.fast_mask))

    patch.setattr(KIModel, "_cross_entropy", shortened)


@mutation(
    9,
    "the first target is predicted from padding",
    {checks.check_first_token: "first logits of row 0, with another prefix: differs by 0,"},
)
def first_target_is_predicted_from_padding(patch):
    """Where a prefix ends with padding, the slot that predicts the first target is padding too."""
    mask_of = backbone_module.attention_mask

    def mask(queries, keys):
        segments = queries.clone()
        is_target = (segments == Segment.TARGET).any(0)
        if is_target.any():
            first = int(is_target.long().argmax())
            segments[segments[:, first - 1] == Segment.PAD, first] = Segment.PAD
        return mask_of(segments, segments)

    patch.setattr(backbone_module, "attention_mask", mask)


@mutation(
    10,
    "a boolean mask is added as a number",
    {
        checks.check_causality: "differs",
        checks.check_fast_invisible: "velocity .*, targets permuted: differs",
        checks.check_padding: "differs",
    },
)
def mask_is_added(patch):
    """Attention adds 1 where a query sees a key and 0 where not, instead of 0 and minus infinity."""

    def attend(q, k, v, mask):
        bias = mask.to(q.dtype)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)

    patch.setitem(layers.ATTENTION, "sdpa", attend)


@mutation(
    11,
    "embeddings are scaled by sqrt(d) twice",
    {
        checks.check_embedding_scale: "text entering the first layer: differs",
        checks.check_reference: r"joint \(none\): ce: differs",
    },
)
def embeddings_are_scaled_twice(patch):
    """`embed_text` scales what is scaled."""
    embed = Backbone.embed_text
    patch.setattr(Backbone, "embed_text", lambda self, ids: embed(self, ids) * self.config.backbone.width**0.5)


# ---- 12 to 14: what counts ---------------------------------------------------------------------------


@mutation(
    12,
    "examples without actions count in the flow loss",
    {
        checks.check_flow_loss: "5 robot examples, not 3",
        checks.check_language_rows: "flow loss of the robots alone: differs",
    },
)
def all_rows_are_robots(patch):
    """The mask of actions is ignored: rows of language learn zeros."""
    actions = KIModel._actions

    def unmasked(self, batch):
        values, mask = actions(self, batch)
        return values, torch.ones_like(mask)

    patch.setattr(KIModel, "_actions", unmasked)


@mutation(
    13,
    "padding dilutes the cross-entropy",
    {
        checks.check_cross_entropy: "ki: mean over all: differs",
        checks.check_parts: "cross-entropy of the whole batch: differs",
    },
)
def mean_over_padding(patch):
    """The sum of the losses is divided by the number of slots."""
    loss = KIModel._cross_entropy

    def diluted(self, out, targets):
        ce, *rest = loss(self, out, targets)
        return ce * (rest[2] + rest[3]) / targets.mask.numel(), *rest

    patch.setattr(KIModel, "_cross_entropy", diluted)


@mutation(
    13,
    "only the first example of a batch is learned",
    {
        checks.check_cross_entropy: "ki: mean over text: differs",
        checks.check_parts: "cross-entropy of the whole batch: differs",
        checks.check_first_token: "1 first targets are counted, of 5 rows",
    },
)
def wrong_batch_index(patch):
    """`[:, :-1][0]` where `[:, :-1]` was meant: the loss is that of row 0."""
    loss = KIModel._cross_entropy

    def of_row_0(self, out, targets):
        one = backbone_module.BackboneOutput(out.target_features[:1], out.cache)
        return loss(self, one, Targets(targets.ids[:1], targets.mask[:1], targets.loss_mask[:1], targets.fast_mask[:1]))

    patch.setattr(KIModel, "_cross_entropy", of_row_0)


@mutation(
    14,
    "action tokens lie on <loc> ids that answers use",
    {checks.check_location_ids: "tokens on <loc> beside detection are not refused"},
)
def collisions_are_allowed(patch):
    """`VlmVocab.paligemma` takes co-training with detection as it would with `allow_collision`."""
    paligemma = VlmVocab.paligemma.__func__

    def allowing(cls, *args, **options):
        return paligemma(cls, *args, **options, allow_collision=True)

    patch.setattr(VlmVocab, "paligemma", classmethod(allowing))


@mutation(
    14,
    "answers hold ids that are action tokens",
    {checks.check_location_ids: "answers in <loc> beside action tokens there are not refused"},
)
def answers_are_not_looked_at(patch):
    """No id is recognised as an action token."""
    patch.setattr(VlmVocab, "is_action", lambda self, ids: np.zeros(np.shape(ids), bool))


# ---- 15 and 16: what hides or undoes the cut ---------------------------------------------------------


@mutation(
    15,
    "isolation is tested on a new model, whose gates are zero",
    {checks.check_routing: r"pi0 \(none\): flow does not reach \d+ weights"},
    make=partial(make_model, open_gates=False),
)
def closed_gates_hide_a_missing_cut(patch):
    """No cut at all, and gates as they are in a new model: all gradients of the flow in the backbone are 0 anyway."""
    patch.setattr(PrefixCache, "detach", lambda cache: cache)


@mutation(
    16,
    "a clip by the norm of all gradients couples the losses again",
    {checks.check_training: r"after 20 steps with alpha 1, backbone\.\S+: differs"},
)
def clip_is_global(patch):
    """`clip_gradients` scales both towers by one norm."""
    patch.setattr(ki_model, "clip_gradients", checks.clip_globally)


# ---- Others, for the checks that none of these breaks ------------------------------------------------


@mutation(None, "closed gates are not reported", {checks.check_report: "closed gates are not reported"})
def report_is_silent(patch):
    """`routing_report` does not look at the gates."""
    patch.setattr(routing, "gates_closed", lambda model: False)


@mutation(
    None,
    "the language model sees the actions that it is to predict",
    {checks.check_actions_invisible: "features of the targets, other actions: differs"},
)
def targets_see_actions(patch):
    """Embeddings of text know the sum of the batch's actions."""
    forward, embed, known = KIModel.forward, Backbone.embed_text, [0.0]

    def telling(self, batch, **drawn):
        known[0] = 0.0 if batch.actions is None else batch.actions.nansum()
        return forward(self, batch, **drawn)

    patch.setattr(KIModel, "forward", telling)
    patch.setattr(Backbone, "embed_text", lambda self, ids: embed(self, ids) + 0.01 * known[0])


@mutation(
    None,
    "the cut at features lets gradients through",
    {
        checks.check_routing: r"ki \(features\): flow reaches \d+ weights",
        checks.check_reference: r"ki \(features\): flow: gradient of backbone.* differs",
    },
)
def features_are_not_detached(patch):
    """Keys and values are made anew of features that are still connected."""

    def read(self, cache):
        positions, _ = backbone_module.prefix_positions(cache.mask)
        rope = layers.rotary(positions, self.config.head_dim, self.config.rope_theta)
        pairs = zip(self.layers, cache.features, strict=True)
        return PrefixCache(tuple(block.keys_values(x, rope) for block, x in pairs), cache.mask)

    patch.setattr(Backbone, "read_features", read)


@mutation(
    None,
    "the cut changes values",
    {checks.check_cut_has_no_value: "velocity with cut keys-values: differs"},
)
def cut_rounds(patch):
    """Detached keys and values are stored in half the width."""

    def rounded(cache):
        return PrefixCache(tuple((k.detach().float().double(), v.detach()) for k, v in cache.layers), cache.mask)

    patch.setattr(PrefixCache, "detach", rounded)


@mutation(None, "a batch without targets has no finite loss", {checks.check_empty: "no targets: ce is nan"})
def mean_over_nothing(patch):
    """The cross-entropy is divided by the number of tokens, which can be 0."""
    loss = KIModel._cross_entropy

    def divided(self, out, targets):
        ce, *rest = loss(self, out, targets)
        count = rest[2] + rest[3]
        return ce * count / count, *rest

    patch.setattr(KIModel, "_cross_entropy", divided)


@mutation(None, "draws meet the wrong prefix", {checks.check_draws: "flow loss: differs"})
def rows_are_tiled(patch):
    """Rows are repeated batch after batch, noise and times row after row."""

    def tiled(cache, times):
        pairs = tuple((k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in cache.layers)
        return PrefixCache(pairs, cache.mask.repeat(times, 1))

    patch.setattr(PrefixCache, "repeat", tiled)


@mutation(
    None,
    "a frozen backbone is moved by weight decay",
    {checks.check_frozen_training: "embed_tokens.weight: differs|places: differs"},
)
def frozen_weights_have_zero_gradients(patch):
    """All weights are connected with the loss times 0, as is done to please distributed training."""
    forward = KIModel.forward

    def connected(self, batch, **drawn):
        losses = forward(self, batch, **drawn)
        nothing = sum(0 * p.sum() for p in self.parameters())
        return replace(losses, total=losses.total + nothing)

    patch.setattr(KIModel, "forward", connected)


@mutation(None, "sampling makes one step too many", {checks.check_calls: r"\(1, 0, \d+\) instead of \(1, 0, \d+\)"})
def times_are_added_up(patch):
    """Euler's method runs until an added-up time is no longer above 0, which rounding decides."""

    def euler(velocity, noise, steps):
        x, t = noise, torch.ones(len(noise))
        while (t > 0).all():
            x = x - velocity(x, t) / steps
            t = t - 1 / steps
        return x

    patch.setattr(model_module, "euler", euler)


@mutation(
    None,
    "sampling goes through the head",
    {checks.check_calls: "sampling reached what makes action tokens"},
)
def sampling_writes_tokens(patch):
    """The backbone of a sampling pass gets a slot for a target."""
    forward = Backbone.forward

    def writing(self, prefix, targets=None, **options):
        return forward(self, prefix, targets or model_module._no_targets(prefix), **options)

    patch.setattr(Backbone, "forward", writing)


@mutation(None, "all rows have the first row's time", {checks.check_times_of_rows: "velocity of row 1"})
def time_of_row_0(patch):
    """The expert is conditioned on t[0]."""
    condition = ActionExpert.condition
    patch.setattr(ActionExpert, "condition", lambda self, t: condition(self, t[:1].expand_as(t)))


@mutation(None, "padded actions are sampled", {checks.check_sampling_mask: "uncounted values at t = 0.75: differs"})
def sampling_ignores_the_mask(patch):
    """`sample_actions` follows the velocity of values that training never counted."""
    sample = KIModel.sample_actions

    def unmasked(self, prefix, *, action_mask=None, **options):
        return sample(self, prefix, **options)

    patch.setattr(KIModel, "sample_actions", unmasked)


@mutation(None, "the flow is followed the wrong way", {checks.check_sampler: "error after 320 steps"})
def euler_goes_up(patch):
    """Euler's method adds the velocity, as it does where time runs from noise at 0."""
    euler = flow.euler
    patch.setattr(flow, "euler", lambda velocity, noise, steps: euler(lambda x, t: -velocity(x, t), noise, steps))


# ---- The table ---------------------------------------------------------------------------------------


def run(check, make=make_model):
    return check(make) if check.__code__.co_argcount else check()


def outcome(mutation, check):
    """What the check says of the mutation; empty if it passes."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.inject(patch)
        try:
            run(check, mutation.make)
        except AssertionError as error:
            return str(error)
    return ""


def name_of_test(check):
    """The name of the test that runs a check."""
    (name,) = (name for name, test in vars(proof).items() if getattr(test, "check", None) is check)
    return name


def rows_of(mutation):
    return [
        Row(
            mutation.number,
            mutation.failure,
            " ".join(mutation.inject.__doc__.split()),
            name_of_test(c),
            outcome(mutation, c),
        )
        for c in mutation.fails
    ]


def mutation_table() -> list[Row]:
    """Every failure with every test that fails under it; some seconds."""
    return [row for m in MUTATIONS for row in rows_of(m)]


def as_markdown(rows) -> str:
    lines = ["| | failure mode | injected how | test that fails | fails how |", "|---|---|---|---|---|"]
    before = None
    for row in rows:
        defect = ("" if row.number is None else str(row.number), row.failure, row.injected)
        said = defect if defect != before else ("", "", "")
        lines.append(f"| {' | '.join(said)} | `{row.test}` | {row.outcome or '**passes**'} |")
        before = defect
    return "\n".join(lines).replace("<loc>", "&lt;loc&gt;")


# ---- Tests -------------------------------------------------------------------------------------------

CHECKS = [c for name, c in vars(checks).items() if name.startswith("check_")]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.number or 'more'}-{m.inject.__name__}")
def test_the_named_test_fails_under_the_mutation(mutation):
    rows = rows_of(mutation)
    print("\n" + as_markdown(rows).split("\n", 2)[2])
    for row, pattern in zip(rows, mutation.fails.values(), strict=True):
        assert re.search(pattern, row.outcome), f"{row.test} says {row.outcome!r}"


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_without_a_mutation_it_passes(check):
    """After all mutations: that a test fails is due to them, and nothing of them is left."""
    run(check)


def test_every_failure_mode_is_injected():
    assert {m.number for m in MUTATIONS} == {None, *range(1, 17)}


def test_every_check_is_seen_to_fail():
    assert {c.__name__ for m in MUTATIONS for c in m.fails} == {c.__name__ for c in CHECKS}


def test_at_closed_gates_a_missing_cut_cannot_be_seen():
    """What makes failure 15 one: gradients of the flow in the backbone are 0, with a cut and without."""
    model = make_model(Objective(cut=Cut.NONE), open_gates=False)
    losses = model(mixed_batch(), **noise_and_time(5))
    found = gradients(losses.flow, model)
    connected = [g for n, g in found.items() if n.startswith("backbone.") and g is not None]
    assert connected
    assert not any(g.any() for g in connected)


def test_the_table_says_a_defect_once_and_marks_a_test_that_passes():
    rows = [Row(14, "ids on <loc>", "so", "test_x", "differs"), Row(14, "ids on <loc>", "so", "test_y", "")]
    assert as_markdown(rows).splitlines()[2:] == [
        "| 14 | ids on &lt;loc&gt; | so | `test_x` | differs |",
        "|  |  |  | `test_y` | **passes** |",
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(as_markdown(mutation_table()))
