"""Batches for a training loop: from samples to rectangles of ids, in worker processes, and with static shapes."""

import json
import pickle
import re
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fast_tokenizer import FastTokenizer, Relative, TokenBatch, VlmVocab
from fast_tokenizer.io import read
from fast_tokenizer.sidecar import Sidecar, write_sidecar
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from fast_tokenizer.training import LOST, NumpyCollate, StaticBatches, TorchCollate, pad_tokens
from tests.lerobot_folders import write_v2

T = 20
RNG = np.random.default_rng(0)
CHUNKS = np.cumsum(RNG.normal(0, 0.1, (60, T, 3)), axis=1).astype(np.float32)
TOK = FastTokenizer.fit(CHUNKS, 256, normalize="quantile")
VLM = VlmVocab.paligemma(TOK.vocab_size)


def samples_of(chunks, **more):
    """Samples as LeRobot's datasets give them: a dict of tensors and texts each."""
    return [
        {
            "action": torch.from_numpy(chunk),
            "action_is_pad": torch.zeros(len(chunk), dtype=torch.bool),
            "observation.state": torch.from_numpy(chunk[0]),
            "index": torch.tensor(i),
            "task": f"task {i}",
            **{name: values[i] for name, values in more.items()},
        }
        for i, chunk in enumerate(chunks)
    ]


SAMPLES = samples_of(CHUNKS)

#: PyTorch warns of more workers than this machine has cores.
ONE_CORE = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def ids_of(batch, name="action.token_ids"):
    """Lists of the ids that the mask shows."""
    ids, mask = np.asarray(batch[name]), np.asarray(batch["action.token_mask"])
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


class Recorded:
    """Every third frame of a recorded folder, as LeRobot's datasets give them."""

    def __init__(self, shared_data, horizon):
        self.samples = []
        episodes = [t.actions for t in read(shared_data / "lerobot" / "so101_record_test").trajectories]
        starts = np.cumsum([0, *map(len, episodes)])
        for e, actions in enumerate(episodes):
            for i in range(0, len(actions), 3):
                steps = i + np.arange(horizon)
                chunk = actions[np.minimum(steps, len(actions) - 1)]
                self.samples.append((chunk, steps >= len(actions), int(starts[e]) + i, e, i))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        chunk, is_pad, index, episode, frame = self.samples[i]
        return {
            "action": torch.from_numpy(chunk),
            "action_is_pad": torch.from_numpy(is_pad),
            "index": torch.tensor(index),
            "episode_index": torch.tensor(episode),
            "frame_index": torch.tensor(frame),
            "task": f"task {i}",
        }


# ---- In worker processes -----------------------------------------------------------------------------


@ONE_CORE
@pytest.mark.parametrize(
    ("context", "workers", "from_sidecar"),
    [("fork", 2, False), ("fork", 2, True), ("spawn", 2, True), ("forkserver", 1, False)],
)
def test_workers_give_the_ids_of_a_direct_encode(context, workers, from_sidecar, shared_data, tmp_path):
    recorded = Recorded(shared_data, T)
    actions = np.stack([sample[0] for sample in recorded.samples])
    tok = FastTokenizer.fit(actions, 512, normalize="quantile")
    vlm = VlmVocab.paligemma(tok.vocab_size)
    source = tok
    if from_sidecar:
        out, _ = write_sidecar(tok, shared_data / "lerobot" / "so101_record_test", tmp_path / "tokens")
        source = Sidecar.open(out, tok)
        source[0]  # has read something before it goes to the workers
    collate = TorchCollate(source, vlm, max_len=64)
    loader = DataLoader(recorded, 100, num_workers=workers, multiprocessing_context=context, collate_fn=collate)
    direct = tok.encode(actions)
    batches = list(loader)
    assert [ids for b in batches for ids in ids_of(b)] == direct.to_list()
    assert [ids for b in batches for ids in ids_of(b, "action.vlm_ids")] == vlm.to_vlm(direct).to_list()
    assert torch.cat([b["action"] for b in batches]).numpy().tobytes() == actions.tobytes()
    assert [t for b in batches for t in b["task"]] == [f"task {i}" for i in range(len(recorded))]
    assert {tuple(b["action.token_ids"].shape[1:]) for b in batches} == {(64,)}
    assert torch.cat([b["action.lost"] for b in batches])[:, 0].tolist() == direct.saturated.tolist()


# ---- What is in a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_adds_lies_in_one_storage(workers):
    """Each storage takes the main process time to receive; without a worker nothing is copied."""
    collate = TorchCollate(TOK, VLM, batch_size=8)
    (batch,) = DataLoader(
        SAMPLES[:7], 8, num_workers=workers, multiprocessing_context="fork" if workers else None, collate_fn=collate
    )
    expected = collate(SAMPLES[:7])
    added = [name for name in expected if name not in SAMPLES[0]]
    assert len(added) == 5
    for name in added:
        assert torch.equal(batch[name], expected[name])
        assert batch[name].is_contiguous()
    assert len({batch[name].untyped_storage().data_ptr() for name in added}) == (1 if workers else len(added))


def test_a_batch_has_what_the_samples_have_and_the_ids():
    batch = TorchCollate(TOK, VLM)(SAMPLES)
    direct = TOK.encode(CHUNKS)
    assert ids_of(batch) == direct.to_list()
    assert ids_of(batch, "action.vlm_ids") == VLM.to_vlm(direct).to_list()
    mask = batch["action.token_mask"]
    assert set(batch["action.token_ids"][~mask].tolist()) == {-1}
    assert set(batch["action.vlm_ids"][~mask].tolist()) == {0}
    assert batch["action.token_ids"].shape == (60, direct.lengths.max())
    assert {batch[f"action.{name}"].dtype for name in ("token_ids", "vlm_ids", "lost")} == {torch.int64}
    assert mask.dtype == torch.bool
    assert batch["action_is_pad"].shape == (60, T)
    assert batch["task"] == [f"task {i}" for i in range(60)]
    assert set(batch) - set(SAMPLES[0]) == {f"action.{name}" for name in ("token_ids", "token_mask", "vlm_ids", "lost")}


def test_numpy_gives_the_same_as_torch():
    with_numbers = samples_of(CHUNKS, reward=list(np.arange(60) / 7), info=[{"step": i} for i in range(60)])
    ours, theirs = NumpyCollate(TOK, VLM, max_len=50)(with_numbers), TorchCollate(TOK, VLM, max_len=50)(with_numbers)
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        if key == "task":
            assert values == theirs[key]
        elif key == "info":
            assert values["step"].tolist() == theirs[key]["step"].tolist()
        else:
            np.testing.assert_array_equal(values, theirs[key].numpy(), err_msg=key)
    dtypes = {k: str(v.dtype) for k, v in ours.items() if k.startswith("action.")}
    assert set(dtypes.values()) == {"int32", "bool"}
    plain = [{k: v.numpy() if hasattr(v, "numpy") else v for k, v in s.items()} for s in with_numbers]
    np.testing.assert_array_equal(
        NumpyCollate(TOK, VLM)(plain)["action.vlm_ids"], NumpyCollate(TOK, VLM)(with_numbers)["action.vlm_ids"]
    )


def test_losses_are_counted_for_each_row():
    low = FastTokenizer.fit(CHUNKS[:5] * 0.2, 128, normalize="quantile", clip=1.5)
    direct = low.encode(CHUNKS)
    assert direct.saturated.sum() > 0
    assert direct.clipped.sum() > 0
    batch = NumpyCollate(low, max_len=9, overlong="cut")(SAMPLES)
    lost = dict(zip(LOST, batch["action.lost"].T.tolist(), strict=True))
    assert lost.pop("cut") == np.maximum(0, direct.lengths - 9).tolist() != [0] * 60
    assert lost == {name: getattr(direct, name).tolist() for name in ("saturated", "clipped", "dropped")}
    assert ids_of(batch) == [ids[:9] for ids in direct.to_list()]


def test_what_is_too_long_is_refused_unless_it_is_to_be_cut():
    lengths = TOK.encode(CHUNKS).lengths
    longest = int(lengths.max())
    assert NumpyCollate(TOK, max_len=longest)(SAMPLES)["action.token_ids"].shape == (60, longest)
    message = f"row {lengths.argmax()} has {longest} token ids, more than max_len {longest - 1}; "
    with pytest.raises(ValueError, match=re.escape(message)):
        NumpyCollate(TOK, max_len=longest - 1)(SAMPLES)


def test_the_vlm_s_own_padding_id_fills():
    private = VlmVocab.private(TOK.vocab_size)
    batch = NumpyCollate(TOK, private)(SAMPLES)
    assert set(batch["action.vlm_ids"][~batch["action.token_mask"]].tolist()) == {private.pad_id}
    assert ids_of(batch) == ids_of(batch, "action.vlm_ids")
    with pytest.raises(ValueError, match="VLM id 0 pads, and is an action token"):
        NumpyCollate(TOK, VlmVocab(256, 300, first_id=0))
    batch = NumpyCollate(TOK, VlmVocab(256, 300, first_id=0), pad_id=-100)(SAMPLES)
    assert set(batch["action.vlm_ids"][~batch["action.token_mask"]].tolist()) == {-100}


@pytest.mark.parametrize("width", [0, 1])
def test_relative_actions_take_the_state_of_the_sample(width):
    rule = Relative((0, 1), (0, 1), 3)
    state = CHUNKS[:, 0]
    tok = FastTokenizer.fit(CHUNKS, 256, relative=rule, state=state)
    samples = samples_of(CHUNKS)
    if width:  # one observation step
        samples = [{**s, "observation.state": s["observation.state"][None]} for s in samples]
    assert ids_of(TorchCollate(tok)(samples)) == tok.encode(CHUNKS, state=state).to_list()
    assert (
        ids_of(NumpyCollate(tok, state_key="observation.state")(samples)) == tok.encode(CHUNKS, state=state).to_list()
    )
    with pytest.raises(ValueError, match=r"the samples have no 'observation.state', only \['action'"):
        NumpyCollate(tok)([{"action": c} for c in CHUNKS])
    two = [{**s, "observation.state": torch.zeros(2, 3)} for s in samples]
    with pytest.raises(ValueError, match=re.escape("expected the state (S,) at the chunk's start, got (2, 3)")):
        NumpyCollate(tok)(two)


def test_half_precision_is_taken_as_float32():
    half = samples_of(CHUNKS)
    for s in half:
        s["action"] = s["action"].to(torch.bfloat16)
    direct = TOK.encode(torch.stack([s["action"] for s in half]).float().numpy())
    assert ids_of(TorchCollate(TOK)(half)) == direct.to_list()
    for dtype in (ml_dtypes.bfloat16, np.float16):  # JAX's arrays are NumPy's of these types, once they are here
        few = [{"action": chunk.astype(dtype)} for chunk in CHUNKS]
        direct = TOK.encode(CHUNKS.astype(dtype).astype(np.float32))
        batch = NumpyCollate(TOK)(few)
        assert ids_of(batch) == direct.to_list()
        assert batch["action"].dtype == dtype, "the samples' own entries stay as they are"


def test_it_goes_to_other_processes_and_stays_small():
    first = TorchCollate(TOK, VLM, max_len=40, overlong="cut", batch_size=64)
    first(SAMPLES)
    sent = pickle.dumps(first)
    assert len(sent) < len(pickle.dumps(TOK)) + 500
    collate = pickle.loads(sent)
    a, b = collate(SAMPLES), TorchCollate(TOK, VLM, max_len=40, overlong="cut", batch_size=64)(SAMPLES)
    assert torch.equal(a["action.vlm_ids"], b["action.vlm_ids"])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "got no samples"),
        ([{"actions": CHUNKS[0]}], "the samples have no 'action', only ['actions']"),
        ([{"action": CHUNKS[0][0]}], "expected chunks (T, D), got (3,); LeRobot gives them with delta_timestamps"),
        ([{"action": CHUNKS[0][:5]}], "chunk 0: has 5 time steps, expected 20"),
        ([{"action": np.full((T, 3), np.nan, np.float32)}], "chunk 0: value at time step 0, dimension 0 is NaN"),
        ([CHUNKS[0]], "expected samples that are dicts, got ndarray"),
        ([{"action": CHUNKS[0]}, {"action": CHUNKS[0], "x": 1}], "with the keys ['action'], as the first has"),
        ([{"action": CHUNKS[0]}, {"action": CHUNKS[0][:5]}], "'action': the samples have shapes [(5, 3), (20, 3)]"),
        ([{"action": CHUNKS[0], "x": x} for x in (2, "a")], "'x': the samples have ['<U1', 'int64'], which do not"),
        ([{"action": CHUNKS[0], "x": x} for x in (1.0, None)], "'x': the samples have ['float64', 'object'], which"),
        ([{"action": CHUNKS[0], "action.token_ids": [1]}], "the samples have ['action.token_ids'] already, which"),
    ],
)
def test_bad_samples_are_refused(samples, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NumpyCollate(TOK)(samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": 0}, "max_len must be positive, got 0"),
        ({"overlong": "drop"}, "overlong must be 'refuse' or 'cut', got 'drop'"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"vlm": VlmVocab.paligemma(100)}, "the tokenizer has 256 tokens, the VLM room for 100"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TorchCollate(TOK, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("robot.tokens",), "expected a FastTokenizer or a Sidecar, got str"),
        ((None,), "expected a FastTokenizer or a Sidecar, got NoneType"),
        ((TOK, 5), "expected a VlmVocab or None, got int"),
    ],
)
def test_what_ids_cannot_come_from_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        NumpyCollate(*arguments)


def test_numbers_of_several_kinds_stack():
    batch = NumpyCollate(TOK)([{"action": CHUNKS[0], "x": x, "y": y} for x, y in ((2, "a"), (0.5, None))])
    assert (batch["x"].tolist(), batch["y"]) == ([2.0, 0.5], ["a", None])


def test_several_embodiments_need_a_choice():
    from fast_tokenizer import EmbodimentData

    mixture = FastTokenizer.fit_mixture({"a": EmbodimentData(CHUNKS), "b": EmbodimentData(CHUNKS)}, 256)
    with pytest.raises(ValueError, match="embodiment"):
        NumpyCollate(mixture)
    one = mixture.embodiment("b")
    assert ids_of(NumpyCollate(one)(SAMPLES)) == one.encode(CHUNKS).to_list()


# ---- From a sidecar ----------------------------------------------------------------------------------


@pytest.fixture
def sidecar(tmp_path):
    tok = FastTokenizer.fit(np.random.default_rng(0).normal(size=(99, 5, 3)), 256)
    return Sidecar.open(write_sidecar(tok, write_v2(tmp_path / "robot"))[0], tok)


def test_ids_of_a_sidecar_need_no_actions(sidecar):
    asked = [3, 206, 100, 3]
    batch = TorchCollate(sidecar, VLM)([{"index": i} for i in asked])
    assert ids_of(batch) == [sidecar[i].tolist() for i in asked]
    assert batch["action.lost"][:, 0].tolist() == sidecar.frames(asked).tokens.saturated.tolist()
    assert NumpyCollate(sidecar, max_len=sidecar.manifest.longest)([{"index": 3}])["action.lost"][0, 3] == 0


def test_samples_of_another_dataset_are_refused(sidecar):
    good = {"index": 101, "episode_index": 1, "frame_index": 1, "action": np.zeros((5, 3))}
    collate = NumpyCollate(sidecar)
    assert ids_of(collate([good])) == [sidecar[101].tolist()]
    message = "sample 1, frame 101, has frame_index 2, but in .* that is 1: it was written from another dataset"
    with pytest.raises(ValueError, match=message):
        collate([good, {**good, "frame_index": 2}])
    with pytest.raises(ValueError, match=r"has chunks of 6 steps, those of .* have 5"):
        collate([{**good, "action": np.zeros((6, 3))}])
    with pytest.raises(ValueError, match="has no frame 104"):
        collate([{**good, "index": 104}])
    with pytest.raises(ValueError, match="the samples have no 'index'"):
        collate([{"action": np.zeros((5, 3))}])


# ---- Static shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("collate_class", [NumpyCollate, TorchCollate])
def test_a_small_batch_is_filled_up_with_rows_without_tokens(collate_class):
    collate = collate_class(TOK, VLM, max_len=48, batch_size=8)
    whole, part = collate(SAMPLES[:8]), collate(SAMPLES[:3])
    assert {k: np.shape(v) for k, v in whole.items()} == {k: np.shape(v) for k, v in part.items()}
    assert part["row_mask"].tolist() == [True] * 3 + [False] * 5
    assert whole["row_mask"].tolist() == [True] * 8
    assert ids_of(part) == [*TOK.encode(CHUNKS[:3]).to_list(), *[[]] * 5]
    assert part["action.lost"].tolist() == whole["action.lost"].tolist()[:3] + [[0] * 4] * 5
    with pytest.raises(ValueError, match="got 9 samples, more than batch_size 8"):
        collate(SAMPLES[:9])


def test_filled_rows_are_not_too_long():
    """They are copies; whoever is too long is so once."""
    lengths = TOK.encode(CHUNKS).lengths
    i = int(lengths.argmax())
    collate = NumpyCollate(TOK, max_len=int(lengths[i]) - 2, overlong="cut", batch_size=4)
    assert collate([SAMPLES[i]])["action.lost"][:, LOST.index("cut")].tolist() == [2, 0, 0, 0]


def test_the_last_batch_is_filled_or_left_out_and_counted():
    collate = NumpyCollate(TOK, max_len=48, batch_size=16)
    for last, rows, left_out, filled in (("pad", [16, 16, 16, 12], 0, 4), ("drop", [16, 16, 16], 12, 0)):
        batches = StaticBatches(SAMPLES, collate, last=last)
        for _ in range(2):  # anew at each iteration
            assert [int(b["row_mask"].sum()) for b in batches] == rows
            assert (batches.left_out, batches.filled) == (left_out, filled)
    exact = StaticBatches(SAMPLES[:32], collate, last="pad")
    assert (len(list(exact)), exact.filled, exact.left_out) == (2, 0, 0)
    with pytest.raises(ValueError, match="need a collate function with max_len"):
        StaticBatches(SAMPLES, NumpyCollate(TOK, batch_size=4), last="pad")
    with pytest.raises(ValueError, match="last must be 'pad' or 'drop', got 'keep'"):
        StaticBatches(SAMPLES, collate, last="keep")
    with pytest.raises(ValueError, match="expected a NumpyCollate or TorchCollate, got builtin_function_or_method"):
        StaticBatches(SAMPLES, len, last="pad")
    with pytest.raises(
        ValueError, match=re.escape("the samples have ['row_mask'] already, which would be overwritten")
    ):
        next(iter(StaticBatches([{**s, "row_mask": 1} for s in SAMPLES], collate, last="pad")))


def test_samples_that_are_read_once_give_no_second_epoch():
    batches = StaticBatches(iter(SAMPLES), NumpyCollate(TOK, max_len=48, batch_size=16), last="drop")
    assert len(list(batches)) == 3
    with pytest.raises(ValueError, match="the samples are an iterator, which was read: give what can be read anew"):
        list(batches)


def run_fresh(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numpy_batches_need_no_torch(sidecar, tmp_path):
    TOK.save(tmp_path / "tok")
    loaded = run_fresh(
        """
        import json, sys
        import numpy as np
        from fast_tokenizer import FastTokenizer
        from fast_tokenizer.training import NumpyCollate, StaticBatches
        tok = FastTokenizer.load(sys.argv[1])
        collate = NumpyCollate(tok, max_len=9, batch_size=2)
        assert len(list(StaticBatches([{"action": np.zeros((20, 3))}] * 5, collate, last="pad"))) == 3
        light = sorted({m.split(".")[0] for m in sys.modules})
        from fast_tokenizer.sidecar import Sidecar
        print(json.dumps([light, "torch" in sys.modules]))
        """,
        tmp_path / "tok",
    )
    assert not {"torch", "pyarrow", "jax", "scipy"} & set(loaded[0])
    assert loaded[1] is False


def test_jax_compiles_once_for_all_batches(tmp_path):
    TOK.save(tmp_path / "tok")
    np.save(tmp_path / "chunks.npy", CHUNKS)
    told = run_fresh(
        """
        import json, sys
        import jax, jax.numpy as jnp
        import numpy as np
        from fast_tokenizer import FastTokenizer, VlmVocab
        from fast_tokenizer.training import NumpyCollate, StaticBatches
        tok = FastTokenizer.load(sys.argv[1])
        samples = [{"action": c} for c in np.load(sys.argv[2])]
        traced = 0

        @jax.jit
        def step(batch):
            global traced
            traced += 1
            return jnp.where(batch["action.token_mask"], batch["action.token_ids"], 0).sum()

        def total(collate, batches):
            return int(sum(step(b) for b in batches))

        static = NumpyCollate(tok, VlmVocab.paligemma(tok.vocab_size), max_len=48, batch_size=16)
        sum_of_ids, shapes = total(static, StaticBatches(samples, static, last="pad")), traced
        loose = NumpyCollate(tok)
        total(loose, [loose(samples[i : i + 16]) for i in range(0, 60, 16)])
        print(json.dumps([sum_of_ids, shapes, traced - shapes]))
        """,
        tmp_path / "tok",
        tmp_path / "chunks.npy",
    )
    assert told[0] == int(TOK.encode(CHUNKS).ids.sum())
    assert told[1] == 1
    assert told[2] > 1  # and without static shapes it would have


# ---- Padding alone -----------------------------------------------------------------------------------


def test_padding_is_that_of_the_batch():
    tokens = TokenBatch.from_lists([[1, 2], [], [3, 4, 5]])
    padded = pad_tokens(tokens, max_len=4)
    ids, mask = tokens.pad(4)
    np.testing.assert_array_equal(padded.ids, ids)
    np.testing.assert_array_equal(padded.mask, mask)
    assert padded.vlm_ids is None
    assert pad_tokens(TokenBatch.from_lists([])).ids.shape == (0, 0)
    with pytest.raises(ValueError, match=r"token id 5 at index 5 is outside 0\.\.4"):
        pad_tokens(TokenBatch.from_lists([[1, 2], [3, 4, 0, 5]]), VlmVocab.paligemma(5))


@ONE_CORE
def test_the_benchmark_compares_before_it_times(monkeypatch):
    """Tiny: that it runs, and has a line for each contender."""
    from benchmarks import training as benchmark

    for name, value in {"BATCH": 8, "FIT_CHUNKS": 300, "ROUNDS": 1, "STEPS": 2, "STEP_SECONDS": 0.001}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "recorded_episodes", lambda: generate_trajectories(ROBOTS["aloha"], 2, seed=1))
    calls, waiting = benchmark.tables(0.01)
    assert len(calls.lines) == 6
    assert len(waiting.lines) == 12


def test_options_of_padding_that_make_no_sense():
    tokens, vlm = TokenBatch.from_lists([[5, 6, 7], [8]]), VlmVocab.paligemma(2048)
    for options, message in [
        ({"overlong": "refused"}, "overlong must be 'refuse' or 'cut'"),
        ({"max_len": -1}, "max_len must be positive"),
        ({"max_len": 2.5}, "max_len must be an integer"),
        ({"pad_id": 257_018}, "pads, and is an action token"),
    ]:
        with pytest.raises(ValueError, match=message):
            pad_tokens(tokens, vlm, **options)


def test_lists_of_which_pytorch_makes_batches_of_its_own_are_refused():
    samples = [{"action": np.zeros((20, 7)).tolist()}] * 2
    with pytest.raises(ValueError, match="2 samples gave 20 rows: expected arrays or tensors"):
        TorchCollate(FastTokenizer.default())(samples)
