"""The benchmark of knowledge insulation: its world, its statistics and its report; and its smoke, which trains."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.ki import notes, report, statistics, world
from benchmarks.ki.arms import ARMS
from benchmarks.ki.predictions import PREDICTIONS, chance, outcomes
from benchmarks.ki.records import Runs, choose_rate
from benchmarks.ki.settings import SMOKE, Settings

# ---- World -------------------------------------------------------------------------------------------


def some(count=400, on_plate=0.95, seed=0):
    return world.scenes(count, np.random.default_rng(seed), on_plate)


def cell_of(image, cell):
    row, column = divmod(cell, world.GRID)
    at = (
        slice(None),
        slice(row * world.CELL, (row + 1) * world.CELL),
        slice(column * world.CELL, (column + 1) * world.CELL),
    )
    return image[at]


def test_objects_differ_and_no_two_things_share_a_cell():
    scenes = some()
    for names in (scenes.colours, scenes.shapes, np.c_[scenes.cells, scenes.gripper]):
        assert all(len(set(row)) == names.shape[1] for row in names.tolist())


def test_a_picture_shows_what_the_scene_says(monkeypatch):
    monkeypatch.setattr(world, "PIXEL_NOISE", 0.0)
    scenes = some(20)
    for i, image in enumerate((world.pictures(scenes, np.random.default_rng(0)) + 1) / 2):
        for j in range(world.OBJECTS):
            cell = cell_of(image, scenes.cells[i, j])
            ink = np.array([[c == "#" for c in line] for line in list(world.SHAPES.values())[scenes.shapes[i, j]]])
            colour = np.array(list(world.COLOURS.values())[scenes.colours[i, j]])
            np.testing.assert_array_equal(cell[:, :-1, :-1], ink * colour[:, None, None])
            assert (cell[:, -1].min() == cell[:, :, -1].min() == 1) == (scenes.plate[i] == j)
        assert cell_of(image, scenes.gripper[i]).sum() == 3 * sum(
            line.count("#") for line in world.LOOKS[scenes.look[i]]
        )
        empty = set(range(9)) - {*scenes.cells[i].tolist(), int(scenes.gripper[i])}
        assert all((cell_of(image, cell) == 0).all() for cell in empty)


def test_answers_are_true_and_every_kind_is_asked():
    scenes = some(300)
    asked = world.questions(scenes, np.random.default_rng(1))
    colours, shapes = list(world.COLOURS), list(world.SHAPES)
    for i, (text, answer, kind) in enumerate(zip(asked.texts, asked.answers, asked.kinds, strict=True)):
        word = text.split()[-1]
        names = [shapes[s] for s in scenes.shapes[i]] if kind == "colour" else [colours[c] for c in scenes.colours[i]]
        j = names.index(word)
        truth = {
            "colour": colours[scenes.colours[i, j]],
            "shape": shapes[scenes.shapes[i, j]],
            "place": world.PLACES[scenes.cells[i, j]],
        }
        assert answer == truth[kind]
        assert answer in world.ANSWERS[kind]
    assert {k: asked.kinds.count(k) for k in world.KINDS} == dict.fromkeys(world.KINDS, 100)


def test_questions_do_not_depend_on_gripper_look_plate_or_command():
    scenes = some()
    other = world.Scenes(
        **{**vars(scenes), **{n: vars(scenes)[n][::-1] for n in ("gripper", "look", "plate", "commanded")}}
    )
    assert world.questions(scenes, np.random.default_rng(1)) == world.questions(other, np.random.default_rng(1))


def test_command_and_plate_go_together_in_training_and_not_at_test():
    trained, tested = some(20_000, 0.95), some(20_000, 0.25)
    assert (trained.commanded == trained.plate).mean() == pytest.approx(0.95, abs=0.01)
    assert (tested.commanded == tested.plate).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(np.bincount(tested.commanded) > 4500, True)
    for scenes in (trained, tested):  # and the look tells nothing of the command
        assert abs(np.corrcoef(scenes.look, scenes.commanded)[0, 1]) < 0.03


def test_a_chunk_starts_at_the_gripper_bows_to_the_side_of_the_look_and_ends_there_beside_the_object():
    scenes = some()
    chunks = world.chunks(scenes)
    assert chunks.shape == (400, world.HORIZON, world.ACTION_DIM)
    assert chunks.dtype == np.float32
    assert abs(chunks).max() < 1
    np.testing.assert_allclose(chunks[:, -1], scenes.endpoints(), atol=1e-6)
    straight = (world.states(scenes) + scenes.endpoints()) / 2  # halfway
    bow = ((chunks[:, world.HORIZON // 2 - 1] - straight) * world.DIRECTIONS[scenes.look]).sum(-1)
    np.testing.assert_allclose(bow, world.BOW, atol=1e-6)
    assert (world.reached(chunks[:, -1], scenes) == scenes.commanded).all()
    assert (world.sides(chunks[:, -1], scenes) == scenes.look).all()


def test_an_endpoint_counts_for_the_object_it_is_beside_whatever_was_commanded():
    scenes = some()
    swapped = scenes.commanding((scenes.commanded + 1) % world.OBJECTS)
    assert (world.reached(scenes.endpoints(), swapped) == scenes.commanded).all()


# ---- Statistics --------------------------------------------------------------------------------------


def test_the_interval_is_students():
    x = [0.3, 0.5, 0.1, 0.9, 0.4]
    found = statistics.mean_interval(x)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(x), scale=stats.sem(x))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(x), low, high))
    assert statistics.paired([1, 2, 4], [0, 1, 1]) == statistics.mean_interval([1, 1, 3])


def test_one_seed_has_no_interval_and_decides_nothing():
    found = statistics.mean_interval([0.5])
    assert (found.mean, found.low, found.high) == (0.5, -math.inf, math.inf)
    assert found.verdict(1) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "sign", "verdict"),
    [
        (0.1, 0.2, 1, "held"),
        (0.1, 0.2, -1, "contradicted"),
        (-0.2, -0.1, -1, "held"),
        (-0.2, -0.1, 1, "contradicted"),
        (-0.1, 0.2, 1, "undecided"),
        (0.0, 0.0, 1, "undecided"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, high, sign, verdict):
    assert statistics.Interval((low + high) / 2, low, high).verdict(sign) == verdict


def test_a_threshold_that_is_never_reached_is_censored():
    assert str(statistics.time_to(0.3, [0, 50, 100], [0.9, 0.3, 0.5])) == "50"
    never = statistics.time_to(0.3, [0, 50, 100], [0.9, 0.4, 0.5])
    assert (never.at, never.censored, str(never)) == (100, True, "> 100")


def test_a_curve_is_read_between_measurements_and_not_beyond():
    assert statistics.at_time(1.5, [0, 1, 2], [0, 10, 30]) == 20
    with pytest.raises(ValueError, match="outside the curve's 0 to 2"):
        statistics.at_time(3, [0, 1, 2], [0, 10, 30])


def gaussian(n, mean, std, dims=400, seed=0):
    rng = np.random.default_rng(seed)
    return mean + std * rng.standard_normal((n, dims))


def test_signal_to_noise_is_unbiased_where_there_is_no_signal():
    found = [statistics.signal_to_noise(g @ g.T) for s in range(300) for g in [gaussian(8, 0.0, 1.0, 50, s)]]
    assert abs(np.mean(found)) < 3 * np.std(found) / 300**0.5
    naive = [(g.mean(0) @ g.mean(0)) / g.var(0).sum() for s in range(50) for g in [gaussian(8, 0.0, 1.0, 50, s)]]
    assert np.mean(naive) > 0.1  # what the correction is for


def test_signal_to_noise_is_the_ratio_it_says():
    g = gaussian(400, 0.5, 2.0)
    assert statistics.signal_to_noise(g @ g.T) == pytest.approx(0.5**2 / 2.0**2, rel=0.05)
    found = statistics.bootstrap_signal_to_noise(g @ g.T, 200, np.random.default_rng(0))
    assert found.low < found.mean < found.high
    assert found.low < 0.0625 < found.high


def test_a_resampled_signal_is_not_made_of_copies():
    g = gaussian(12, 0.0, 1.0)
    weights = np.array([3.0, *[0.0] * 2, *[1.0] * 9])
    kept = np.r_[0, 3:12]
    products, w = g[kept] @ g[kept].T, weights[kept]
    pairs = [(w[i] * w[j], products[i, j]) for i in range(10) for j in range(10) if i != j]
    by_hand = sum(a * b for a, b in pairs) / sum(a for a, _ in pairs)
    assert statistics.mean_square(g @ g.T, weights) == pytest.approx(by_hand)


def test_the_cosine_is_that_of_the_means():
    a, b = gaussian(30, 0.3, 1.0, seed=1), gaussian(20, -0.2, 1.0, seed=2)
    u, v = a.mean(0), b.mean(0)
    expected = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert statistics.cosine(a @ a.T, b @ b.T, a @ b.T) == pytest.approx(expected)


def test_noise_shrinks_the_cosine_as_the_report_says():
    n, found = 24, []
    for noise in (0.5, 4.0):
        a, b = (gaussian(n, 0.2, noise, seed=s) for s in (1, 2))
        found.append(statistics.cosine(a @ a.T, b @ b.T, a @ b.T))
    assert found[0] > 0.7
    assert found[1] < found[0] / 2
    assert "shrinks it towards 0" in notes.GRADIENTS


# ---- Results -----------------------------------------------------------------------------------------


def record(arm, seed, error=0.5, full=0.9, seconds=10.0):
    """A made-up run whose error falls in a straight line."""
    points = [0.0, 0.5, 1.0]
    losses = {
        name: {
            "norm": 1.0,
            "ratio": r,
            "ratio_low": r - 0.1,
            "ratio_high": r + 0.1,
            "cosine": c,
        }
        for name, r, c in (("action tokens", 0.1 + seed / 100, 0.2 + seed / 100), ("flow, t = 0.5", 0.3, 0.1))
    }
    losses["questions"] = {"norm": 1.0, "ratio": 0.5, "ratio_low": 0.4, "ratio_high": 0.6}
    return {
        "arm": arm,
        "seed": seed,
        "rate": 3e-4,
        "curve": [
            {"step": 100 * p, "seconds": seconds * p, "full": 1 - p * (1 - full), "masked": 1.0, "kl": p,
             "error": 1 - p * (1 - error), "follow": p, "side": p}
            for p in points
        ],
        "swapped": {"follow": 0.5 + seed / 100, "plate": 0.25},
        "as_trained": {"error": 0.4, "follow": 0.9, "side": 0.8},
        "gradients": [{"step": 100, "losses": losses}],
    }  # fmt: skip


def results():
    """Five seeds of every arm; pi0 is more exact than KI in each, and forgets more."""
    ends = {"pi0": (0.2, 0.5), "KI": (0.4, 0.8)}
    runs = [
        record(arm.name, seed, *(x + seed / 1000 * (1 + i) for x in ends.get(arm.name, (0.6, 0.9))), seconds=10 + i)
        for i, arm in enumerate(ARMS)
        for seed in (1, 2, 3, 4, 5)
    ]
    sweep = [
        {**record(arm.name, 0, error), "rate": rate}
        for arm in ARMS
        if arm.trains_backbone
        for rate, error in ((3e-4, 0.6), (1e-3, 0.4), (3e-3, 0.5))
    ]
    references = {"any object, any side": 0.7, "any object, right side": 0.6, "right object, its centre": 0.18}
    easier = dict.fromkeys(references, 0.5)  # of the seed that learning rates are chosen by
    pretraining = [
        {"seed": s, "seconds": 30.0, "full": 1.0, "masked": 1.0, "references": references if s else easier}
        for s in range(6)
    ]
    settings = json.loads(json.dumps(vars(Settings(threshold=0.5, steps=100))))
    about = {"fingerprint": "0", "settings": settings, "world": {"spacing": 0.5, "image": 15}, "machine": "a machine"}
    asked = {
        a.name: {"chunk": 5.5, "question": 2.0 * a.vqa, "questions_share": 0.25 * a.vqa} for a in ARMS if a.targets
    }
    about |= {"parameters": {"backbone": 1234567, "expert": 89}, "loss_tokens": asked}
    return {**about, "pretraining": pretraining, "sweep": sweep, "runs": runs}


def test_every_prediction_has_the_verdict_that_the_figures_give():
    made = results()
    runs = Runs(made["runs"], 0.5)
    found = {(o.prediction.measurement, o.prediction.first, o.prediction.second): o for o in outcomes(runs)}
    assert len(found) == len(PREDICTIONS)
    assert found["full", "KI", "pi0"].verdict == "held"
    assert found["error", "KI", "pi0"].verdict == "contradicted"
    assert found["steps_to_threshold", "KI", "pi0"].difference.mean == 0
    assert found["ratio", "action tokens", "flow"].verdict == "contradicted"
    assert found["cosine", "action tokens", "flow"].verdict == "held"
    assert found["swapped_follow", "KI", "pi0"].verdict == "undecided"


def test_a_rate_at_the_edge_of_the_range_is_marked():
    made = results()
    made["sweep"] = [r for r in made["sweep"] if r["rate"] > 3e-4]
    text = report.text(made, Runs(made["runs"], 0.5), [])
    assert text.count("| chosen, at the edge |") == sum(arm.trains_backbone for arm in ARMS)


def test_equal_time_is_that_of_the_fastest_arm():
    runs = Runs(results()["runs"], 0.5)
    assert runs.equal_time(1) == 10
    last = runs["KI+VQA"][0]
    assert last.last["seconds"] == 14
    assert runs.value(last, "step_in_equal_time") == pytest.approx(100 * 10 / 14)


def test_policies_that_know_a_part_are_those_of_the_reported_seeds():
    made = results()
    text = report.text(made, Runs(made["runs"], 0.5), [])
    assert "| any object, any side | 0.700 |" in text
    assert "| right object, its centre | 0.180 |" in text


def test_what_the_paper_does_not_compare_is_not_called_the_papers():
    for p in PREDICTIONS:
        arms = {p.first, p.second}
        beyond = "frozen+VQA" in arms or "time" in p.measurement or any(f"{a}, binning" in arms for a in arms)
        assert (p.source == "extension of the paper's") is beyond, p.claim


def outcome(made, measurement, first, second):
    found = outcomes(Runs(made["runs"], 0.5))
    return next(
        o
        for o in found
        if (o.prediction.measurement, o.prediction.first, o.prediction.second) == (measurement, first, second)
    )


def answering(made, arm, full, masked):
    """The arm's last answers, each seed a little off."""
    for i, run in enumerate(r for r in made["runs"] if r["arm"] == arm):
        run["curve"][-1] |= {"full": full, "masked": masked + (i - 2) / 1000}


def test_chance_is_that_of_the_three_kinds_together():
    assert chance() == pytest.approx((1 / 6 + 1 / 6 + 1 / 9) / 3)
    text = report.text(results(), Runs(results()["runs"], 0.5), [])
    assert "0.148 together" in text


@pytest.mark.parametrize(
    ("full", "masked", "lost"),
    [(0.3, chance(), True), (0.3, 0.165, True), (0.3, 0.3, False), (0.01, 0.9, True), (0.03, 0.9, False)],
)
def test_an_arm_that_has_lost_the_answers_is_marked(full, masked, lost):
    made = results()
    answering(made, "KI", full, masked)
    assert list(outcome(made, "full", "KI", "joint").notes) == ["KI at chance"] * lost
    answering(made, "joint", full, masked)
    found = outcome(made, "full", "KI", "joint")
    assert list(found.notes) == ["both at chance"] * lost
    assert found.both_at_chance is lost
    assert f"Both arms at chance: {int(lost)} of these." in report.text(made, Runs(made["runs"], 0.5), [])
    assert not outcome(made, "error", "KI", "joint").notes


def test_one_seed_that_answers_is_not_at_chance():
    assert not outcome({"runs": [r for r in results()["runs"] if r["seed"] == 1]}, "full", "KI", "joint").notes


def test_censored_seeds_stand_beside_the_prediction():
    made = results()
    assert not outcome(made, "steps_to_threshold", "KI", "pi0").notes
    next(r for r in made["runs"] if (r["arm"], r["seed"]) == ("KI", 2))["curve"][-1]["error"] = 0.6
    note = "censored seeds: KI 1 of 5; interval of clipped values"
    assert outcome(made, "steps_to_threshold", "KI", "pi0").notes == [note]


def test_gradients_are_compared_in_every_arm_and_step():
    made = results()
    for run in made["runs"]:
        later = json.loads(json.dumps(run["gradients"][0])) | {"step": 200}
        if run["arm"] == "frozen":
            later["losses"]["flow, t = 0.5"]["ratio"] = 0.0
        run["gradients"].append(later)
    text = report.text(made, Runs(made["runs"], 0.5), [])
    assert "arm joint, mean of steps 100 and 200 |" in text
    assert "| frozen | -0.170 [-0.190, -0.150] | +0.130 [+0.110, +0.150] |" in text
    assert "Of 20 differences 1 have the whole interval above 0, 19 below." in text


def test_a_choice_among_rates_that_have_learned_nothing_is_marked():
    made = results()
    assert "none has learned" not in report.text(made, Runs(made["runs"], 0.5), []).replace('"None has', "")
    made["pretraining"][0]["references"]["any object, right side"] = 0.39
    text = report.text(made, Runs(made["runs"], 0.5), [])
    assert text.count("| chosen, none has learned |") == sum(arm.trains_backbone for arm in ARMS)


def test_each_seed_is_printed_and_whether_the_error_still_falls():
    made = results()
    for run in made["runs"]:
        if run["arm"] == "frozen":
            run["curve"][0]["error"] = run["curve"][-1]["error"]
    text = report.text(made, Runs(made["runs"], 0.5), [])
    assert "| pi0 | 0.20 / 0.51 / 0.50 | 0.20 / 0.52 / 0.50 |" in text
    assert "change of error in the last 100 steps" in text
    falling = next(line for line in text.splitlines() if line.startswith("Arms whose error still falls"))
    assert "`frozen+VQA`" in falling
    assert "`frozen`" not in falling


def test_the_questions_share_of_the_cross_entropy_is_counted_and_printed():
    from benchmarks.ki import train

    settings = replace(SMOKE, demonstrations=64, pretraining_questions=48)
    found = train.loss_tokens(settings)
    assert set(found) == {arm.name for arm in ARMS if arm.targets or arm.vqa}
    values = world.HORIZON * world.ACTION_DIM
    assert found["KI+VQA, binning"] == {
        "chunk": values + 2,  # and the mark and the end
        "question": 2,
        "questions_share": pytest.approx(12 * 2 / (12 * 2 + 24 * (values + 2))),
    }
    assert 3 < found["KI"]["chunk"] < values
    assert found["KI"]["questions_share"] == 0
    assert found["frozen+VQA"]["questions_share"] == 1
    # The model's own count, of one batch.
    arm = next(a for a in ARMS if a.name == "KI+VQA, binning")
    batch, _, _ = train.Batches(settings, 1, arm, train.data_of(settings, 1)).next()
    of_rows = batch.targets.loss_mask.sum(1)
    assert of_rows[24:].sum() / of_rows.sum() == pytest.approx(found[arm.name]["questions_share"])

    text = report.text(results(), Runs(results()["runs"], 0.5), [])
    assert "| joint+VQA | 5.50 | 2.00 | 25.0% |" in text
    assert "| joint | 5.50 |  | 0.0% |" in text


def test_the_size_of_the_model_is_counted_and_printed():
    from benchmarks.ki import train

    model = train.new_model(SMOKE, 0, ARMS[0].mode)
    assert sum(train.parameters(SMOKE).values()) == sum(p.numel() for p in model.parameters())
    assert "1,234,567 parameters, the expert 89." in report.text(results(), Runs(results()["runs"], 0.5), [])


def test_arms_must_have_the_same_seeds():
    with pytest.raises(ValueError, match="different seeds"):
        Runs([record("pi0", 1), record("KI", 2)], 0.5)


def test_the_learning_rate_with_the_smallest_error_is_chosen():
    assert choose_rate([{**record("KI", 0, e), "rate": r} for r, e in ((1e-4, 0.3), (3e-4, 0.2), (1e-3, 0.25))]) == 3e-4


def test_the_report_prints_every_arm_prediction_and_censored_run(tmp_path):
    made = results()
    written = report.write(json.loads(json.dumps(made)), tmp_path)
    text = (tmp_path / "ki.md").read_text()
    assert [p.name for p in written] == [
        "ki.md",
        *(f"ki-{n}.png" for n in ("pareto", "curves", "threshold", "gradients")),
    ]
    assert all(p.stat().st_size > 0 for p in written)
    for arm in ARMS:
        assert text.count(f"| {arm.name} |") >= 5
    for prediction in PREDICTIONS:
        assert prediction.claim in text
    assert "| joint | > 100 | > 100 | > 100 | > 100 | > 100 | 0 of 5 |" in text
    assert "| pi0 | 100 | 100 | 100 | 100 | 100 | 5 of 5 |" in text
    assert "error: KI - pi0 | < 0 | +0.209 [" in text
    assert text.count("| contradicted |") == sum(o.verdict == "contradicted" for o in outcomes(Runs(made["runs"], 0.5)))
    assert text.count("| chosen |") == sum(arm.trains_backbone for arm in ARMS)
    assert "| chosen, at the edge |" not in text
    assert "frozen | | no choice" in text.replace("|  |", "| |")


def test_error_bars_stand_beside_each_other_and_the_untrained_error_does_not_stretch_the_axis():
    from benchmarks.ki import plots

    runs = Runs(results()["runs"], 0.5)
    gradients, curves = plots.gradients(runs), plots.curves(runs)
    try:
        bars = [container.lines[0].get_xdata()[0] for container in gradients.axes[0].containers]
        assert len(bars) == len(set(bars)) == 2 * len(ARMS)  # of the flow, and of the action tokens
        errors = [panel for panel in curves.axes if panel.get_ylabel() == "endpoint error"]
        assert [panel.get_ylim() for panel in errors] == [(0, plots.HIGHEST_ERROR)] * 2
    finally:
        plots.plt.close("all")


def test_the_published_report_is_that_of_the_published_results():
    folder = Path(report.__file__).parents[1] / "results"
    published = json.loads((folder / "ki.json").read_text())
    text = (folder / "ki.md").read_text()
    pictures = [name for name in notes.PICTURES if (folder / name).exists()]
    assert len(pictures) == len(notes.PICTURES)
    assert report.text(published, Runs(published["runs"], published["settings"]["threshold"]), pictures) == text


def test_a_saved_result_counts_only_under_its_own_settings(tmp_path):
    from benchmarks.ki.runs import Job, load

    job = Job(1, "KI, binning", 3e-4, True)
    saved = {"fingerprint": SMOKE.fingerprint(), **vars(job), "record": {"seed": 1}}
    (tmp_path / f"{job.name}.json").write_text(json.dumps(saved))
    assert load(tmp_path, job, SMOKE) == {"seed": 1}
    assert load(tmp_path, job, Settings()) is None
    assert load(tmp_path, Job(1, "KI, binning", 3e-4, False), SMOKE) is None
    assert load(tmp_path, Job(2, "KI, binning", 3e-4, True), SMOKE) is None


def test_a_fingerprint_is_of_the_arms_and_the_world_too(monkeypatch):
    from benchmarks.ki import settings

    seen = {SMOKE.fingerprint(), Settings().fingerprint()}
    monkeypatch.setattr(world, "BOW", 0.3)
    seen.add(SMOKE.fingerprint())
    monkeypatch.setattr(settings, "ARMS", ARMS[:-1])
    seen.add(SMOKE.fingerprint())
    assert len(seen) == 4


def test_a_file_that_is_cut_short_is_made_again(tmp_path):
    from benchmarks.ki.runs import Job, load, load_weights, perform

    settings = replace(SMOKE, pretraining_steps=1, steps=1, gradient_steps=())
    job, arm = Job(1), Job(1, "frozen")
    assert load(tmp_path, job, settings) is None
    perform(job, settings, tmp_path)
    assert load(tmp_path, job, settings)["seed"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pretrained-1.pt", "pretraining-1.json"]

    result = tmp_path / "pretraining-1.json"
    whole = result.read_text()
    result.write_text(whole[:-20])
    assert load(tmp_path, job, settings) is None
    result.write_text(whole)

    weights = tmp_path / "pretrained-1.pt"
    assert load_weights(tmp_path, 1, replace(settings, steps=2)) is None
    content = weights.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 10):
        weights.write_bytes(content[:size])
        assert load_weights(tmp_path, 1, settings) is None
    assert load(tmp_path, job, settings) is None
    with pytest.raises(ValueError, match=r"pretrained-1.pt: expected pretrained weights of these settings"):
        perform(arm, settings, tmp_path)


def test_a_job_that_fails_cancels_those_that_wait(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from rich.progress import Progress

    from benchmarks.ki import runs

    done = []

    def fails(job, settings, folder):
        done.append(job)
        time.sleep(0.1)
        raise RuntimeError(f"seed {job.seed}")

    monkeypatch.setattr(runs, "perform", fails)
    monkeypatch.setattr(runs, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))
    with pytest.raises(RuntimeError, match="seed"), Progress(disable=True) as progress:
        runs._all([runs.Job(seed) for seed in range(50)], SMOKE, tmp_path, 1, progress, "all")
    assert len(done) < 25


def test_words_that_the_vocabulary_lacks_are_refused():
    from benchmarks.ki.batches import ID, encode_words

    assert encode_words(["Task: reach ring, State: 57 128;\n"])[0][:3] == [ID["Task: "], ID["reach"], ID["ring"]]
    with pytest.raises(ValueError, match=r"lacks: \['teapot'\]"):
        encode_words(["reach teapot"])
    with pytest.raises(ValueError, match="punctuation"):
        encode_words(["reach ring!"])


def test_a_run_repeats_itself_and_is_saved(tmp_path):
    from benchmarks.ki.runs import Job, load, perform

    settings = replace(SMOKE, pretraining_steps=2, steps=2, gradient_steps=())
    perform(Job(1), settings, tmp_path)
    job = Job(1, "KI+VQA", 3e-4, True)
    first, second = (perform(job, settings, tmp_path) for _ in range(2))
    for made in (first, second):
        for point in made["curve"]:
            assert point.pop("seconds") >= 0
    assert first == second
    saved = load(tmp_path, job, settings)
    assert [point["step"] for point in saved["curve"]] == [0, 2]
    assert saved["swapped"] == first["swapped"]
    assert saved["gradients"] == first["gradients"]


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (
            lambda data, purpose: (data.seed, 0),
            "are in both the demonstrations of seed 1 and the test scenes of seed 1",
        ),
        (lambda data, purpose: (data.seed, min(purpose, 2)), "demonstrations of seed 1 and the test scenes of seed 1"),
        (lambda data, purpose: (data.seed, max(purpose, 1)), "training questions of seed 1 and the test questions"),
        (lambda data, purpose: (0, purpose), "demonstrations of seed 1 and the demonstrations of seed 0"),
    ],
)
def test_streams_that_are_shared_are_found(monkeypatch, key, what):
    from benchmarks.ki import batches, smoke

    on = smoke.Subject(SMOKE, batches.Data(SMOKE, 1), {})
    smoke.streams_are_apart(on)
    monkeypatch.setattr(batches.Data, "rng", lambda data, purpose: np.random.default_rng(key(data, purpose)))
    with pytest.raises(AssertionError, match=what):
        smoke.streams_are_apart(on)


def test_test_scenes_that_command_the_plate_are_found(monkeypatch):
    from benchmarks.ki import batches, smoke

    kept = batches.Data.test_scenes
    monkeypatch.setattr(batches.Data, "test_scenes", lambda data, on_plate: kept(data, 0.4))
    with pytest.raises(AssertionError, match="of the test commands name the object on the plate"):
        smoke.streams_are_apart(smoke.Subject(SMOKE, batches.Data(SMOKE, 1), {}))


def test_the_smoke_holds():
    from benchmarks.ki import smoke

    said = []
    smoke.run(say=said.append)
    assert len(said) == len(smoke.CHECKS)
