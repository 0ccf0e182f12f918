"""What does tokenization cost a training loop? `python -m benchmarks.training [--output FILE]`.

Batches of 256 chunks of 50 x 14 (the generated ALOHA of the suite), as samples of a LeRobot dataset: a dict each, with
the chunk as a float32 tensor, its padding mask, the state, a task. Out come token ids, mask and PaliGemma's ids, padded
to a fixed width, as int64 tensors.

First table, milliseconds of processor time a batch, on one thread, all in turn in one process. "Collate" is the whole
call of `TorchCollate`, with PyTorch's default collate of the samples in it, which every loop pays anyway; "own" is the
call less that. Frames are drawn at random from 40 episodes of 14 s. The sidecar is of a v2.1 folder of them: read from
what is in memory, and from its files, as of a dataset that is much larger than the memory given to it. The peer is the
published pipeline with one call a chunk and the ids mapped and padded one by one, which is the loop of lerobot's
processor step, without its prompt.

Second table: what the main process waits for data in a step of 100 ms, in which it sleeps, as one that waits for its
accelerator does; loops of all contenders in turn. Workers are forked, two batches ahead each; the first steps, in which
they start, are left out. With "nothing" PyTorch collates by itself: receiving a batch from a worker takes its time
whatever is in it.

Before timing: ids, masks and VLM ids of every contender are the same. For that ours has imported the peer's vocabulary;
the rows "own vocabulary" are of a tokenizer fitted by this library on the same chunks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, default_collate

from benchmarks import fitted
from benchmarks.competitors.published import PublishedFast
from benchmarks.contest import require
from benchmarks.data import HELD_SEED, Chunks, workload
from benchmarks.measure import Timing, time_in_turn
from benchmarks.report import Table, significant
from benchmarks.robustness import measured
from fast_tokenizer import FastTokenizer, Normalizer, VlmVocab, windows
from fast_tokenizer.sidecar import Sidecar, write_sidecar
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from fast_tokenizer.training import TorchCollate

BATCH, FIT_CHUNKS, MAX_LEN, STEP_SECONDS = 256, 2_000, 192, 0.1
EPISODES, EPISODE_SECONDS = 40, 14.0
#: Loops of each contender, in turn; of each, the steps that are left out, and those that are measured.
ROUNDS, FIRST_STEPS, STEPS = 4, 10, 20
WORKERS = (0, 1, 2)

Batch = dict[str, Any]
Collate = Callable[[list[Mapping[str, Any]]], Batch]


class LerobotLoop:
    """The peer; see the module."""

    def __init__(self, tokenizer: PublishedFast, vlm: VlmVocab) -> None:
        self._tokenizer, self._vlm = tokenizer, vlm

    def __call__(self, samples: list[Mapping[str, Any]]) -> Batch:
        """The batch that `TorchCollate` makes, but for the counts, which there are none of."""
        batch: Batch = default_collate(samples)
        ids, masks, vlm_ids = [], [], []
        for i in range(len(samples)):
            row = torch.tensor(self._tokenizer.encode(batch["action"][i : i + 1].cpu().numpy())[0])
            fill = MAX_LEN - len(row)
            ids.append(torch.nn.functional.pad(row, (0, fill), value=-1))
            vlm_ids.append(torch.nn.functional.pad(self._vlm.first_id + self._vlm.step * row, (0, fill), value=0))
            masks.append(torch.arange(MAX_LEN) < len(row))
        return batch | {
            "action.token_ids": torch.stack(ids),
            "action.token_mask": torch.stack(masks),
            "action.vlm_ids": torch.stack(vlm_ids),
        }


class Frames:
    """Chunks in memory, whose samples look like LeRobot's; `index` is where they come from."""

    def __init__(self, chunks: Chunks, index: NDArray[np.int64]) -> None:
        self._chunks, self._index = torch.from_numpy(chunks), torch.from_numpy(index)
        self._is_pad = torch.zeros(chunks.shape[1], dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, i: int) -> Batch:
        chunk = self._chunks[i]
        return {
            "action": chunk,
            "action_is_pad": self._is_pad,
            "observation.state": chunk[0],
            "index": self._index[i],
            "task": "pick up the cup",
        }


def recorded_episodes() -> list[Chunks]:
    """Episodes (L, D) of the suite's ALOHA that nothing was fitted on, normalised as its chunks are."""
    length = (EPISODE_SECONDS, EPISODE_SECONDS)
    episodes = generate_trajectories(ROBOTS["aloha"], EPISODES, HELD_SEED, length)
    normalizer = Normalizer.fit(np.concatenate(episodes), "quantile")
    return [normalizer.apply(e).astype(np.float32) for e in episodes]


def lerobot_folder(root: Path, episodes: Sequence[Chunks]) -> Path:
    """A v2.1 folder of them."""
    (root / "meta").mkdir(parents=True)
    (root / "data").mkdir()
    dims, first, listed = episodes[0].shape[1], 0, []
    feature = {"dtype": "float32", "shape": [dims], "names": None}
    info = {"codebase_version": "v2.1", "total_episodes": len(episodes), "fps": 50, "features": {"action": feature}}
    info["data_path"] = "data/{episode_index}.parquet"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (root / "meta" / "tasks.jsonl").write_text("")
    for i, actions in enumerate(episodes):
        frame_index = np.arange(len(actions))
        rows = {
            "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), dims),
            "frame_index": frame_index,
            "episode_index": np.full(len(actions), i),
            "index": first + frame_index,
        }
        pq.write_table(pa.table(rows), root / "data" / f"{i}.parquet")
        listed.append(json.dumps({"episode_index": i, "length": len(actions)}))
        first += len(actions)
    (root / "meta" / "episodes.jsonl").write_text("\n".join(listed))
    return root


def require_same(contenders: Mapping[str, Collate], samples: list[Batch]) -> None:
    """All make the same ids, masks and VLM ids."""
    expected, *others = (collate(samples) for collate in contenders.values())
    for name, batch in zip(list(contenders)[1:], others, strict=True):
        for key in ("action.token_ids", "action.token_mask", "action.vlm_ids"):
            require(torch.equal(batch[key], expected[key]), f"{name}: {key} differs")


def waits(frames: Frames, collate: Collate, workers: int) -> list[float]:
    """Seconds that the main process waits for each batch of a loop."""
    loader = DataLoader(
        frames,  # type: ignore[arg-type]
        BATCH,
        sampler=[i % len(frames) for i in range((FIRST_STEPS + STEPS) * BATCH)],
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        collate_fn=collate,
    )
    taken = []
    batches = iter(loader)
    for _ in range(FIRST_STEPS + STEPS):
        start = time.perf_counter()
        next(batches)
        taken.append(time.perf_counter() - start)
        time.sleep(STEP_SECONDS)
    return taken[FIRST_STEPS:]


def calls_table(contenders: Mapping[str, Collate], samples: Sequence[list[Batch]], seconds: float) -> Table:
    """Milliseconds a batch."""
    turn = count()

    def call(collate: Collate) -> Callable[[], object]:
        return lambda: collate(samples[next(turn) % len(samples)])

    default, *others = time_in_turn(
        [call(default_collate), *map(call, contenders.values())], seconds, clock=time.thread_time
    )
    lines = [["PyTorch's default collate alone", *_cells(default), "", ""]]
    for name, timing in zip(contenders, others, strict=True):
        own = timing.seconds - default.seconds
        share = f"{significant(100 * own / STEP_SECONDS)} %"
        lines.append([name, *_cells(timing), significant(own * 1e3), share])
    note = (
        f"Milliseconds of processor time a batch of {BATCH} chunks of 50 x 14, one thread; a share of a step of 100 ms."
    )
    return Table("Collate", note, ["", "collate", "quartiles", "own", "own, of a step"], lines)


def waits_table(frames: Frames, contenders: Mapping[str, Collate]) -> Table:
    """Milliseconds that the main process waits, and how much longer than for the first contender."""
    taken: dict[tuple[str, int], list[float]] = {(name, workers): [] for name in contenders for workers in WORKERS}
    for _ in range(ROUNDS):
        for (name, workers), seconds in taken.items():
            seconds += waits(frames, contenders[name], workers)
    lines = []
    first = next(iter(contenders))
    for (name, workers), seconds in taken.items():
        timing, plain = Timing.of(seconds), Timing.of(taken[first, workers])
        share = f"{significant(100 * (timing.seconds - plain.seconds) / STEP_SECONDS)} %"
        lines.append([name, str(workers), *_cells(timing), "" if name == first else share])
    header = ["tokenized by", "workers", "waits", "quartiles", "beyond nothing, of a step"]
    return Table(
        "Waiting for data", f"Milliseconds a step, {ROUNDS} x {STEPS} steps of 100 ms.\n\n{measured()}", header, lines
    )


def _cells(timing: Timing) -> list[str]:
    return [significant(timing.seconds * 1e3), f"{significant(timing.low * 1e3)}-{significant(timing.high * 1e3)}"]


def tables(seconds: float) -> list[Table]:
    """Both."""
    work, episodes = workload("aloha"), recorded_episodes()
    every = np.concatenate([windows(e, work.horizon, episode_end="repeat-last") for e in episodes])
    index = np.random.default_rng(0).choice(len(every), 8 * BATCH, replace=False)
    frames = Frames(every[index], index)
    samples = [[frames[i] for i in range(first, first + BATCH)] for first in range(0, len(index), BATCH)]
    peer, own = fitted.published(work, FIT_CHUNKS), fitted.ours(work, FIT_CHUNKS)
    vlm = VlmVocab.paligemma(work.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        peer.export(Path(folder))
        imported = FastTokenizer.from_pretrained(folder)
    lerobot, same = LerobotLoop(peer, vlm), TorchCollate(imported, vlm, max_len=MAX_LEN)
    require_same({"ours": same, "peer": lerobot}, samples[0])
    ours = TorchCollate(own, vlm, max_len=MAX_LEN)
    with tempfile.TemporaryDirectory() as folder:
        written, _ = write_sidecar(own, lerobot_folder(Path(folder) / "robot", episodes), horizon=work.horizon)
        in_memory, from_files = (
            TorchCollate(Sidecar.open(written, own, cache_bytes=size), vlm, max_len=MAX_LEN) for size in (2**28, 0)
        )
        require_same({"ours": ours, "memory": in_memory, "files": from_files}, samples[0])
        for batch in samples:
            in_memory(batch)
        contenders: dict[str, Collate] = {
            "`TorchCollate`, own vocabulary": ours,
            "`TorchCollate`, the peer's vocabulary": same,
            "`TorchCollate` over a sidecar in memory": in_memory,
            "`TorchCollate` over a sidecar, from its files": from_files,
            "published pipeline, chunk by chunk": lerobot,
        }
        first = calls_table(contenders, samples, seconds)
        second = waits_table(
            frames,
            {
                "nothing": default_collate,
                "`TorchCollate`": ours,
                "`TorchCollate` over a sidecar": in_memory,
                "published pipeline, chunk by chunk": lerobot,
            },
        )
    return [first, second]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables as Markdown, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the first table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = "\n".join(table.markdown() for table in tables(given.seconds))
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
