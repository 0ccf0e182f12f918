"""Batches of ki_model: what they refuse, how they are put together, how they are made of text, states and chunks."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fast_tokenizer import EncodeLossWarning, FastTokenizer, Normalizer, VlmVocab
from fast_tokenizer.ki_model import Binning, KIBatch, KIBatchBuilder, KIConfig, KIModel, Prefix, Targets
from fast_tokenizer.text import TextEncoder

LETTERS = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
RNG = np.random.default_rng(0)
CHUNKS = np.cumsum(RNG.normal(0, 0.1, (200, 8, 2)), axis=1) * [1, 50]


def ids(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def true(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def prefix(rows: int = 2, length: int = 3) -> Prefix:
    return Prefix(torch.arange(rows * length).view(rows, length), true((rows, length)))


def targets(rows: int = 2, length: int = 3) -> Targets:
    every = true((rows, length))
    return Targets(torch.arange(rows * length).view(rows, length), every, every, ~every)


# ---- What is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Prefix(torch.zeros(2, 3), true((2, 3))),
            r"prefix.ids: expected torch.int64 \(B, L\), got torch.float32",
        ),
        (lambda: Prefix(torch.zeros(3).long(), true((3,))), r"prefix.ids: expected .* got torch.int64 \(3,\)"),
        (lambda: replace(prefix(), mask=true((2, 4))), r"prefix.mask: expected torch.bool \(2, 3\), got .* \(2, 4\)"),
        (lambda: replace(prefix(), mask=torch.ones(2, 3)), r"prefix.mask: expected torch.bool"),
        (lambda: replace(prefix(), image_mask=true((2, 1))), r"image_mask goes with images"),
        (
            lambda: replace(prefix(), images=torch.zeros(3, 1, 3, 8, 8)),
            r"prefix.images: expected floats \(B=2, N, ...\)",
        ),
        (
            lambda: replace(prefix(), images=torch.zeros(2, 1, 3, 8, 8), image_mask=true((2, 2))),
            r"prefix.image_mask: expected torch.bool \(2, 1\)",
        ),
        (lambda: replace(targets(), fast_mask=true((2, 2))), r"targets.fast_mask: expected torch.bool \(2, 3\)"),
        (
            lambda: Targets(ids([1, 2], [3, 4]), ~torch.eye(2).bool(), ~torch.eye(2).bool(), true((2, 2))),
            r"targets.mask: row 0 has padding before its end; 1 of 2 rows do",
        ),
        (lambda: replace(targets(), mask=~true((2, 3))), r"targets.loss_mask: row 0 counts padding; 2 of 2 rows do"),
        (lambda: KIBatch(prefix(2), targets(3)), r"got 2 prefixes, but 3 rows of targets"),
        (lambda: KIBatch(prefix(), None, torch.zeros(2, 4)), r"actions: expected floats \(B=2, H, A\)"),
        (lambda: KIBatch(prefix(), None, torch.zeros(2, 4, 2).long()), r"actions: expected floats .* torch.int64"),
        (lambda: KIBatch(prefix(), action_mask=true((2,))), r"action_mask goes with actions"),
        (
            lambda: KIBatch(prefix(), None, torch.zeros(2, 4, 2), true((2, 4))),
            r"action_mask: expected bool \(2,\) or \(2, 4, 2\), got torch.bool \(2, 4\)",
        ),
        (lambda: KIBatch.cat([]), r"there is no batch"),
        (
            lambda: KIBatch.cat([KIBatch(prefix(), None, torch.zeros(2, 4, d)) for d in (2, 3)]),
            r"actions of different shapes: \[\(4, 2\), \(4, 3\)\]",
        ),
        (
            lambda: KIBatch.cat([KIBatch(replace(prefix(), images=torch.zeros(2, 1, 3, s, s))) for s in (8, 16)]),
            r"images of different shapes",
        ),
        (lambda: KIBatch(prefix()).element_mask(), r"the batch has no actions"),
    ],
)
def test_one_clear_error(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- Putting together ------------------------------------------------------------------------------------


def test_cat_keeps_every_row_and_pads_the_rest() -> None:
    images = torch.rand(2, 1, 3, 8, 8)
    robot = KIBatch(
        Prefix(ids([5, 6], [7, 0]), torch.tensor([[True, True], [True, False]]), images.repeat(1, 2, 1, 1, 1)),
        targets(2, 4),
        torch.rand(2, 4, 2),
        lost={"clipped": torch.tensor([1, 2])},
    )
    language = KIBatch(Prefix(ids([8, 9, 10]), true((1, 3)), images[:1]), targets(1, 2))
    blind = KIBatch(prefix(1, 1), actions=torch.rand(1, 4, 2), action_mask=true((1, 4, 2)))
    batch = KIBatch.cat([robot, language, blind])
    assert len(batch) == 4
    assert batch.prefix.ids.tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10], [0, 0, 0]]
    assert batch.prefix.mask.sum(1).tolist() == [2, 1, 3, 1]
    assert batch.prefix.image_mask.tolist() == [[True, True]] * 2 + [[True, False], [False, False]]
    assert torch.equal(batch.prefix.images[2, 0], images[0, 0])
    assert batch.targets.mask.sum(1).tolist() == [4, 4, 2, 0]
    assert batch.element_mask().all((1, 2)).tolist() == [True, True, False, True]
    assert not batch.element_mask()[2].any()
    assert torch.equal(batch.actions[3], blind.actions[0])
    assert {k: v.tolist() for k, v in batch.lost.items()} == {"clipped": [1, 2, 0, 0]}


def test_cat_of_language_has_neither_images_nor_actions() -> None:
    batch = KIBatch.cat([KIBatch(prefix()), KIBatch(prefix(1, 5))])
    assert (batch.prefix.images, batch.prefix.image_mask, batch.targets, batch.actions) == (None, None, None, None)
    assert batch.prefix.ids.shape == (3, 5)


def test_to_moves_everything() -> None:
    batch = KIBatch(prefix(), targets(), torch.zeros(2, 4, 2), true((2,)), {"clipped": torch.zeros(2).long()}).to(
        "meta"
    )
    tensors = [batch.prefix.ids, batch.prefix.mask, batch.targets.loss_mask, batch.actions, batch.action_mask]
    assert {t.device.type for t in [*tensors, *batch.lost.values()]} == {"meta"}


# ---- From text, states and chunks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer.fit(CHUNKS, vocab_size=300, normalize="quantile")


def vlm(size: int) -> VlmVocab:
    return VlmVocab(vocab_size=size, vlm_vocab_size=128 + size, first_id=128)


def words(row: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return row[mask].tolist()


def test_robot_examples_have_prompt_tokens_and_the_chunk_in_one_unit(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    batch = builder.robot(["Lift\nit", "put_it down"], [[0.0, 1.0], [-1.5, 0.0]], CHUNKS[:2])
    tokens = tokenizer.encode(CHUNKS[:2])
    for row, text in enumerate(
        ["Task: Lift it, State: 128 255;\nAction: ", "Task: put it down, State: 0 128;\nAction: "]
    ):
        assert words(batch.prefix.ids[row], batch.prefix.mask[row]) == [2, *map(ord, text)]
        t = batch.targets
        said = [*(128 + tokens[row]), ord("|"), 1]
        assert words(t.ids[row], t.mask[row]) == said
        assert words(t.ids[row], t.fast_mask[row]) == (128 + tokens[row]).tolist()
        assert torch.equal(t.loss_mask, t.mask)
    normalized = tokenizer.one_spec.normalizer.apply(CHUNKS[:2])
    assert np.allclose(batch.actions, normalized, atol=1e-6)
    assert np.allclose(builder.denormalize(batch.actions), CHUNKS[:2], atol=1e-4)
    assert batch.lost["state_clipped"].tolist() == [0, 1]
    assert batch.lost["clipped"].tolist() == tokens.clipped.tolist()
    assert batch.action_mask.tolist() == [True, True]


def test_the_prefix_at_inference_is_that_of_training(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    images = torch.rand(1, 1, 3, 8, 8)
    trained = builder.robot(["lift"], [[0.5]], CHUNKS[:1], images=images, image_mask=true((1, 1))).prefix
    sampled = builder.prefix(["lift"], [[0.5]], images=images, image_mask=true((1, 1)))
    assert torch.equal(trained.ids, sampled.ids)
    assert torch.equal(trained.mask, sampled.mask)
    assert torch.equal(trained.images, sampled.images)
    assert torch.equal(trained.image_mask, sampled.image_mask)


def test_language_examples_have_no_action_token(tokenizer: FastTokenizer) -> None:
    batch = KIBatchBuilder(LETTERS, vlm(300), tokenizer).language(["what?", "colour of it?"], ["a cup", "red"])
    assert words(batch.prefix.ids[0], batch.prefix.mask[0]) == [2, *map(ord, "what?")]
    assert words(batch.targets.ids[1], batch.targets.loss_mask[1]) == [*map(ord, "red"), 1]
    assert not batch.targets.fast_mask.any()
    assert batch.actions is None


def test_an_answer_in_action_tokens_is_refused(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    with pytest.raises(ValueError, match=r"answer 1 has id 233, which is an action token"):
        builder.language(["a", "b"], ["c", "caf\u00e9"])
    with pytest.raises(ValueError, match="got 2 questions, but 1 answers"):
        builder.language(["a", "b"], ["c"])


def test_fixed_widths_pad_and_refuse(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer, prefix_length=50, target_length=60)
    batch = builder.robot(["lift"], [[0.5]], CHUNKS[:1])
    assert (batch.prefix.ids.shape[1], batch.targets.ids.shape[1]) == (50, 60)
    with pytest.raises(ValueError, match=r"the prefix of example 1 has 69 tokens, more than prefix_length 50"):
        builder.robot(["lift", "x" * 40], [[0.5]] * 2, CHUNKS[:2])
    with pytest.raises(ValueError, match=r"the target of example 0 has 71 tokens, more than target_length 60"):
        builder.language(["a"], ["b" * 70])


def test_naive_binning_takes_the_place_of_fast() -> None:
    normalizer = Normalizer.fit(CHUNKS, "quantile")
    binning = Binning(bins=64, stride=2)
    builder = KIBatchBuilder(LETTERS, vlm(64), binning, normalizer=normalizer)
    batch = builder.robot(["lift"] * 3, [[0.5]] * 3, CHUNKS[:3])
    assert batch.targets.fast_mask.sum(1).tolist() == [4 * 2] * 3
    kept = batch.targets.ids[batch.targets.fast_mask].view(3, 4, 2) - 128
    assert abs(binning.centers(kept.numpy()) - batch.actions[:, ::2].clip(-1, 1).numpy()).max() <= 1 / 64
    assert np.allclose(builder.denormalize(batch.actions), CHUNKS[:3], atol=1e-4)


def test_binning_counts_what_it_clips_and_refuses_what_is_no_chunk() -> None:
    batch = Binning(bins=4).encode(np.array([[[-3.0], [-1.0], [1.0], [1.5]], [[0.0], [0.0], [0.0], [0.0]]]))
    assert batch.to_list() == [[0, 0, 3, 3], [2, 2, 2, 2]]
    assert batch.clipped.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"expected chunks \(N, T, D\), got shape \(3,\)"):
        Binning().encode(np.zeros(3))
    with pytest.raises(ValueError, match="chunk 1 has values that are not finite"):
        Binning().encode(np.array([[[0.0]], [[np.nan]]]))
    for wrong in ({"bins": 0}, {"stride": 0}, {"bins": 2.5}):
        with pytest.raises(ValueError, match=r"positive|an integer"):
            Binning(**wrong)


def test_what_a_builder_refuses(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, the VLM room for 64"):
        KIBatchBuilder(LETTERS, vlm(64), tokenizer)
    with pytest.raises(ValueError, match="has a normaliser of its own"):
        KIBatchBuilder(LETTERS, vlm(300), tokenizer, normalizer=Normalizer.fit(CHUNKS, "quantile"))
    relative = FastTokenizer.fit(CHUNKS, vocab_size=300, normalize="quantile", relative=[0], state=CHUNKS[:, 0])
    with pytest.raises(ValueError, match="without_relative"):
        KIBatchBuilder(LETTERS, vlm(300), relative)


# ---- Robots that differ ----------------------------------------------------------------------------------


def test_robots_of_different_shapes_share_a_model(tokenizer: FastTokenizer) -> None:
    wide = np.cumsum(RNG.normal(0, 0.1, (100, 6, 3)), axis=1)
    other = FastTokenizer.fit(wide, vocab_size=300, normalize="quantile")
    builders = [KIBatchBuilder(LETTERS, vlm(300), tok, model_shape=(10, 4)) for tok in (tokenizer, other)]
    batches = [b.robot(["go"] * 2, [[0.0]] * 2, c[:2]) for b, c in zip(builders, (CHUNKS, wide), strict=True)]
    batch = KIBatch.cat(batches)
    assert batch.actions.shape == (4, 10, 4)
    assert batch.element_mask().sum((1, 2)).tolist() == [16, 16, 18, 18]
    assert not batch.actions[~batch.element_mask()].any()
    for builder, rows, chunks in zip(builders, (slice(2), slice(2, 4)), (CHUNKS, wide), strict=True):
        assert torch.equal(builder.action_mask(2), batch.element_mask()[rows])
        assert np.allclose(builder.denormalize(batch.actions[rows]), chunks[:2], atol=1e-4)
    model = KIModel(KIConfig.tiny(vocab_size=428, horizon=10, action_dim=4))
    sampled = model.sample_actions(batch.prefix, action_mask=batch.element_mask())
    assert not sampled[~batch.element_mask()].abs().gt(1e-5).any()
    assert int(model(batch).robot_examples) == 4


def test_an_episode_s_end_does_not_count(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    there = np.ones((2, 8, 2), bool)
    there[1, 5:] = False
    batch = builder.robot(["go"] * 2, [[0.0]] * 2, torch.from_numpy(CHUNKS[:2]), action_mask=there)
    assert batch.element_mask().sum((1, 2)).tolist() == [16, 10]
    with pytest.raises(ValueError, match=r"action_mask: expected bool \(2, 8, 2\), got bool \(2, 8\)"):
        builder.robot(["go"] * 2, [[0.0]] * 2, CHUNKS[:2], action_mask=there[..., 0])
    with pytest.raises(ValueError, match=r"actions: expected \(B, 8, 2\), got \(2, 7, 2\)"):
        builder.robot(["go"] * 2, [[0.0]] * 2, CHUNKS[:2, :7])


def test_shapes_that_do_not_fit_a_model(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match=r"model_shape \(8, 1\) is smaller than the chunks, \(8, 2\)"):
        KIBatchBuilder(LETTERS, vlm(300), tokenizer, model_shape=(8, 1))
    with pytest.raises(ValueError, match=r"model_shape needs chunk_shape=\(T, D\)"):
        KIBatchBuilder(LETTERS, vlm(64), Binning(64), model_shape=(8, 4))
    with pytest.raises(ValueError, match=r"model_shape: expected \(steps, dimensions\), got \(8,\)"):
        KIBatchBuilder(LETTERS, vlm(300), tokenizer, model_shape=(8,))
    with pytest.raises(ValueError, match="chunk_shape must be positive, got 0"):
        KIBatchBuilder(LETTERS, vlm(64), Binning(64), chunk_shape=(8, 0))
    with pytest.raises(ValueError, match=r"chunk_shape \(7, 2\) is not that of the tokenizer, \(8, 2\)"):
        KIBatchBuilder(LETTERS, vlm(300), tokenizer, chunk_shape=(7, 2))
    with pytest.raises(ValueError, match=r"actions: expected \(B, 8, 2\), got \(1, 9, 2\)"):
        KIBatchBuilder(LETTERS, vlm(300), tokenizer).denormalize(np.zeros((1, 9, 2)))
    with pytest.raises(ValueError, match="the tokenizer does not record it"):
        KIBatchBuilder(LETTERS, vlm(64), Binning(64)).action_mask(1)


# ---- What a loader does ----------------------------------------------------------------------------------


def test_states_that_are_clipped_at_inference_are_said_to_be(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    with pytest.warns(EncodeLossWarning, match=r"3 values of the states .* 2 of them in row 1; are they normalised\?"):
        builder.prefix(["a", "b"], [[300.0, 0.0], [-40.0, 2.0]])
    strict = KIBatchBuilder(LETTERS, vlm(300), tokenizer, out_of_range="refuse")
    with pytest.raises(ValueError, match="300"):
        strict.prefix(["a"], [[300.0]])


def test_texts_are_lists_of_known_ids(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    with pytest.raises(ValueError, match="questions: expected a list of texts, got one text"):
        builder.language("ab", ["c", "d"])
    with pytest.raises(ValueError, match=r"id 19968 of a text is outside the VLM's vocabulary 0\.\.427"):
        builder.language(["a"], ["\u4e00"])


def test_images_are_floats_of_one_dtype_and_may_be_numpy(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    images = np.random.default_rng(0).random((1, 1, 3, 8, 8), np.float32)
    given = builder.language(["a"], ["b"], images=images, image_mask=np.ones((1, 1), bool))
    assert np.array_equal(given.prefix.images, images)
    with pytest.raises(ValueError, match=r"prefix.images: expected floats .*, got torch.uint8"):
        builder.language(["a"], ["b"], images=(255 * images).astype(np.uint8))
    with pytest.raises(ValueError, match=r"images of different dtypes: \['torch.float32', 'torch.float64'\]"):
        KIBatch.cat([given, builder.language(["a"], ["b"], images=images.astype(np.float64))])
    with pytest.raises(ValueError, match=r"prefix.images: expected a torch tensor, got ndarray"):
        replace(given.prefix, images=images)
    with pytest.raises(ValueError, match=r"prefix.ids: expected a torch tensor, got ndarray"):
        replace(given.prefix, ids=given.prefix.ids.numpy())


def test_a_loader_s_workers_make_batches(tokenizer: FastTokenizer) -> None:
    builder = KIBatchBuilder(LETTERS, vlm(300), tokenizer)
    loader = torch.utils.data.DataLoader(
        range(6),
        batch_size=3,
        num_workers=1,
        collate_fn=partial(_robots, builder),
        multiprocessing_context="fork",
    )
    batches = list(loader)
    assert [len(b) for b in batches] == [3, 3]
    expected = _robots(builder, [3, 4, 5])
    assert torch.equal(batches[1].targets.ids, expected.targets.ids)
    assert torch.equal(batches[1].actions, expected.actions)


def _robots(builder: KIBatchBuilder, rows: list[int]) -> KIBatch:
    return builder.robot(["go"] * len(rows), [[0.0]] * len(rows), CHUNKS[rows])


def test_targets_without_actions_are_the_text_before_them() -> None:
    fast = torch.tensor([[False, True, False], [False, False, False]])
    text = replace(targets(2, 3), fast_mask=fast).without_actions()
    assert text.mask.tolist() == text.loss_mask.tolist() == [[True, False, False], [True, True, True]]
    assert not text.fast_mask.any()
