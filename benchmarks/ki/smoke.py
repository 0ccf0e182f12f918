"""One seed in a minute: identities that hold whatever the figures are. CI runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ki import measure, train, world
from benchmarks.ki.arms import BY_NAME, Arm
from benchmarks.ki.batches import ID, WORDS, Data, rows_of, vocabulary
from benchmarks.ki.settings import SMOKE, Settings
from fast_tokenizer import VlmVocab
from fast_tokenizer.ki_model import KIModel, Mode, Objective, open_gates


@dataclass(frozen=True)
class Subject:
    """A pretrained seed, for all checks."""

    settings: Settings
    data: Data
    weights: train.Weights


def run(settings: Settings = SMOKE, say: Callable[[str], None] = print) -> None:
    """Asserts each identity, and says it.

    Raises:
        AssertionError: One does not hold.
    """
    data = train.data_of(settings, settings.seeds[0])
    subject = Subject(settings, data, train.pretrain(settings, data.seed)[0])
    for check in CHECKS:
        check(subject)
        say(f"holds: {check.__doc__}")


def require(holds: bool, what: str) -> None:
    """An assertion that python -O keeps."""
    if not holds:
        raise AssertionError(what)


def round_trip(on: Subject) -> None:
    """FAST targets of a batch decode to the chunks that the flow learns, within the scale's rounding."""
    batch = on.data.demonstrations(BY_NAME["KI"])
    assert batch.targets is not None
    assert batch.actions is not None
    chunks = on.data.demonstrated[2]
    require(np.array_equal(batch.actions.numpy(), chunks), "the flow's actions are not the chunks")
    vlm = VlmVocab(on.data.tokenizer.vocab_size, vocabulary(on.settings), first_id=len(WORDS))
    labels = [
        vlm.to_tokens(row[mask].numpy()) for row, mask in zip(batch.targets.ids, batch.targets.fast_mask, strict=True)
    ]
    decoded = on.data.tokenizer.decode(labels, world.HORIZON, world.ACTION_DIM)
    coefficients = np.linalg.norm(decoded - chunks, axis=1)  # the DCT is orthonormal: the same as of its coefficients
    most = np.sqrt(world.HORIZON) * 0.5 / on.settings.fast_scale
    require(
        bool((coefficients <= most * (1 + 1e-6)).all()), f"decoded chunks are off by {coefficients.max()}, not {most}"
    )
    markers = batch.targets.mask.sum(1) - batch.targets.fast_mask.sum(1)
    require(bool((markers == 2).all()), 'targets are not tokens, "|" and EOS')


def binned_round_trip(on: Subject) -> None:
    """Binned targets decode to the chunks within half a bin, and nothing is clipped."""
    batch = on.data.demonstrations(BY_NAME["KI, binning"])
    assert batch.targets is not None
    tokens = (batch.targets.ids[batch.targets.fast_mask] - len(WORDS)).reshape(-1, world.HORIZON, world.ACTION_DIM)
    centres = (tokens.numpy() + 0.5) / on.settings.bins * 2 - 1
    off = abs(centres - on.data.demonstrated[2]).max()
    require(off <= 1 / on.settings.bins + 1e-6, f"binned chunks are off by {off}")


def shortcut(on: Subject) -> None:
    """Training commands the object on the plate as often as the settings say, and test scenes differ in that alone."""
    scenes = on.data.demonstrated[0]
    share, off = float((scenes.commanded == scenes.plate).mean()), 4 * (0.25 / len(scenes)) ** 0.5
    require(abs(share - on.settings.on_plate) < off, f"{share} of the training commands name the object on the plate")
    test, _ = on.data.test_scenes(1 / world.OBJECTS)
    trained, _ = on.data.test_scenes(on.settings.on_plate)
    require(bool((test.cells == trained.cells).all()), "the two sets of test scenes differ in more than the command")


def streams_are_apart(on: Subject) -> None:
    """No picture is in two sets of a seed or of the one that rates are chosen by; test commands name any object."""
    # As many of each: only then would sets that are drawn from one stream be the same.
    count = on.settings.demonstrations
    settings = replace(on.settings, test_scenes=count, test_questions=count, pretraining_questions=count)
    sets: dict[str, set[bytes]] = {}
    for seed in (on.data.seed, settings.selection_seed):
        data = Data(settings, seed)
        test, images = data.test_scenes(1 / world.OBJECTS)
        share, off = float((test.commanded == test.plate).mean()), 4 * (0.25 * 0.75 / count) ** 0.5
        require(abs(share - 1 / world.OBJECTS) < off, f"{share} of the test commands name the object on the plate")
        sets[f"demonstrations of seed {seed}"] = canonical(data.demonstrated[1])
        sets[f"test scenes of seed {seed}"] = canonical(images)
        for name, questions in (("training", data.training_questions), ("test", data.test_questions)):
            assert questions.batch.prefix.images is not None
            sets[f"{name} questions of seed {seed}"] = canonical(questions.batch.prefix.images.numpy())
    for (a, of_a), (b, of_b) in combinations(sets.items(), 2):
        require(not of_a & of_b, f"{len(of_a & of_b)} pictures are in both the {a} and the {b}")


def canonical(images: NDArray[np.float32]) -> set[bytes]:
    """Pictures without their noise: they tell all of a scene but the command, whatever the order of its objects."""
    return {image.tobytes() for image in images > 0}


def perturbed(on: Subject, mode: Mode) -> KIModel:
    """With open gates: at zero gates nothing would flow back, cut or not."""
    model = train.new_model(on.settings, 0, mode)
    model.backbone.load_state_dict(on.weights)
    open_gates(model)
    return model


def gradients_are_cut(on: Subject) -> None:
    """The flow's gradient in the backbone is exactly 0 under KI, and is not without the cut."""
    for name, zero in (("KI", True), ("joint", False)):
        arm = BY_NAME[name]
        model = perturbed(on, arm.mode)
        batch = rows_of(on.data.demonstrations(arm), slice(0, 8))
        noise = torch.randn(8, world.HORIZON, world.ACTION_DIM, generator=torch.Generator().manual_seed(0))
        loss = model(batch, noise=noise, time=torch.full((8,), 0.5))
        found = torch.autograd.grad(loss.flow, list(model.backbone.parameters()), allow_unused=True, retain_graph=True)
        norm = sum(float(g.abs().sum()) for g in found if g is not None)
        require((norm == 0) is zero, f"the flow's gradient in the backbone of {name} is {norm}")
        expert = torch.autograd.grad(loss.flow, list(model.expert.parameters()), allow_unused=True)
        require(
            sum(float(g.abs().sum()) for g in expert if g is not None) > 0,
            f"the flow does not train the expert of {name}",
        )


def trained(on: Subject, arm: Arm, alpha: float = 1.0) -> KIModel:
    """After the smoke's steps at the middle rate."""
    model = train.new_model(on.settings, on.data.seed, arm.mode)
    model.objective = Objective(arm.mode, alpha=alpha)
    model.backbone.load_state_dict(on.weights)
    open_gates(model)
    batches = train.Batches(on.settings, on.data.seed, arm, on.data)
    steps = train.Steps(model, on.settings, on.settings.backbone_rates[1])
    for _ in range(on.settings.steps):
        steps.step(batches.next)
    return model


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def frozen_is_frozen(on: Subject) -> None:
    """A frozen backbone is the pretrained one bit for bit after training, and so are its answers."""
    before = train.new_model(on.settings, on.data.seed, Mode.VLM_PRETRAIN)
    before.backbone.load_state_dict(on.weights)
    logits = measure.answer_logits(before, on.data.test_questions)
    model = trained(on, BY_NAME["frozen"])
    require(same(model.backbone.state_dict(), dict(on.weights)), "the frozen backbone has changed")
    require(torch.equal(measure.answer_logits(model, on.data.test_questions), logits), "its answers have changed")
    kl = measure.answers(model, on.data.test_questions, logits)["kl"]
    require(abs(kl) < 1e-6, f"its answers are {kl} from the pretrained ones")


def flow_changes_no_weight_of_ki(on: Subject) -> None:
    """KI's backbone after training is the same bit for bit with the flow loss, without, and at ten times its weight."""
    for name in ("KI", "KI+VQA"):
        arm = BY_NAME[name]
        of = [trained(on, arm, alpha).backbone.state_dict() for alpha in (1.0, 0.0, 10.0)]
        require(not same(of[0], dict(on.weights)), f"{name} has not trained its backbone")
        require(same(of[0], of[1]) and same(of[0], of[2]), f"the flow loss has changed the backbone of {name}")
    joint = [trained(on, BY_NAME["joint"], alpha).backbone.state_dict() for alpha in (1.0, 0.0)]
    require(not same(*joint), "without the cut the flow loss changes nothing: the check above says nothing")


def calls_of_the_expert(on: Subject) -> None:
    """Sampling runs the backbone once and the expert exactly as often as there are Euler steps."""
    model = perturbed(on, Mode.KI)
    calls = dict.fromkeys(("backbone", "expert"), 0)
    for name in calls:

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        model.get_submodule(name).register_forward_hook(count)
    scenes, images = on.data.test_scenes(1 / world.OBJECTS)
    measure.endpoints(model, on.data, scenes, images)
    require(calls == {"backbone": 1, "expert": on.settings.euler_steps}, f"sampling made the calls {calls}")


def prefix_is_the_same(on: Subject) -> None:
    """What a policy sees at test is what it saw in training, and names the command."""
    scenes, images, _ = (x[:16] for x in on.data.demonstrated)
    told, seen = on.data.prefix(scenes, images), rows_of(on.data.demonstrations(BY_NAME["KI"]), slice(0, 16)).prefix
    require(torch.equal(told.ids, seen.ids) and torch.equal(told.mask, seen.mask), "the texts differ")
    assert told.images is not None
    assert seen.images is not None
    require(torch.equal(told.images, seen.images), "the pictures differ")
    swapped = on.data.prefix(scenes.commanding((scenes.commanded + 1) % world.OBJECTS), images)
    differ = (swapped.ids != told.ids).sum(1)
    require(bool((differ == 1).all()), "another command differs in other than one word")
    require(torch.equal(swapped.ids[:, 1], torch.full((16,), ID["Task: "])), "the prefix does not begin with the task")


def arms_share_their_data(on: Subject) -> None:
    """In a seed all arms see the same demonstrations, noise and times, with questions or without."""
    n = on.settings.robot_batch
    of_arms = []
    for arm in BY_NAME.values():
        batches = train.Batches(on.settings, on.data.seed, arm, on.data)
        batches.next()  # the second batch also tells what was drawn for the questions of the first
        batch, noise, times = batches.next()
        assert batch.actions is not None
        of_arms.append([batch.actions[:n], batch.prefix.ids[:n], noise[:n], times[:n]])
        require(len(batch) == n + arm.vqa * on.settings.vqa_batch, f"{arm.name} has batches of {len(batch)}")
    require(all(torch.equal(a, b) for given in of_arms for a, b in zip(given, of_arms[0], strict=True)), "arms differ")
    experts = [train.new_model(on.settings, on.data.seed, arm.mode).expert.state_dict() for arm in BY_NAME.values()]
    require(all(same(e, experts[0]) for e in experts), "the experts begin with different weights")


CHECKS = (
    round_trip,
    binned_round_trip,
    shortcut,
    streams_are_apart,
    gradients_are_cut,
    frozen_is_frozen,
    flow_changes_no_weight_of_ki,
    calls_of_the_expert,
    prefix_is_the_same,
    arms_share_their_data,
)
