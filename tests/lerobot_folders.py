"""LeRobot folders of three short episodes, v2.1 and v3.0, with the ways in which public ones deviate."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ["x", "y", "z"]


def tree(folder):
    """Digests of all files in a folder, by path, and None of folders. Two of them differ in a line a file."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def episode(number, length, dims=3):
    rng = np.random.default_rng(number)
    return rng.normal(size=(length, dims)).astype(np.float32), rng.normal(size=(length, 2)).astype(np.float32)


EPISODES = [episode(i, n) for i, n in enumerate((7, 4, 9))]


def lists(values, kind="fixed"):
    flat = pa.array(values.ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    array = {"plain": pa.ListArray, "large": pa.LargeListArray}[kind]
    offsets = np.arange(len(values) + 1) * values.shape[1]
    return array.from_arrays(pa.array(offsets, pa.int64() if kind == "large" else pa.int32()), flat)


def table(number, drop=(), kind="fixed", action="action", state="observation.state"):
    """An episode's table, as LeRobot has it."""
    actions, states = EPISODES[number]
    n = len(actions)
    columns = {
        action: lists(actions, kind),
        state: lists(states, kind),
        "timestamp": pa.array(np.arange(n, dtype=np.float32) / 10),
        "frame_index": pa.array(np.arange(n)),
        "episode_index": pa.array(np.full(n, number)),
        "index": pa.array(100 * number + np.arange(n)),
        "task_index": pa.array(np.full(n, number % 2)),
    }
    return pa.table({k: v for k, v in columns.items() if k not in drop})


def write_info(root, version, **changes):
    feature = {"dtype": "float32", "shape": [3], "names": NAMES}
    info = {
        "codebase_version": version,
        "total_episodes": 3,
        "chunks_size": 2,
        "fps": 10,
        "features": {"action": feature, "observation.state": {**feature, "shape": [2], "names": ["p", "q"]}},
    } | changes
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    return info


def write_v2(root, task="tasks", data_path=None, info=None, **options):
    write_info(root, "v2.1", data_path=data_path, **(info or {}))
    pattern = data_path or "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    rows = []
    for i, (actions, _) in enumerate(EPISODES):
        path = root / pattern.format(episode_chunk=i // 2, episode_index=i)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(i, **options), path)
        text = {"tasks": [f"task {i % 2}"], "task": f"task {i % 2}", None: None}[task]
        rows.append({"episode_index": i, "length": len(actions)} | ({task: text} if task else {}))
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "\n")
    tasks = "".join(json.dumps({"task_index": i, "task": f"task {i}"}) + "\n" for i in range(2))
    (root / "meta" / "tasks.jsonl").write_text(tasks)
    return root


def write_v3(root, task="tasks", data_path=None, task_column="__index_level_0__", **options):
    """Episodes 0 and 1 in the first file, 2 in the second; their tables in two files, too."""
    write_info(root, "v3.0", data_path=data_path)
    pattern = data_path or "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    for file, numbers in enumerate(([0, 1], [2])):
        path = root / pattern.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([table(i, **options) for i in numbers]), path)
        rows = {
            "episode_index": numbers,
            "length": [len(EPISODES[i][0]) for i in numbers],
            "data/chunk_index": [0] * len(numbers),
            "data/file_index": [file] * len(numbers),
            "dataset_from_index": [[0, 7, 11][i] for i in numbers],
            "dataset_to_index": [[7, 11, 20][i] for i in numbers],
        } | ({task: [[f"task {i % 2}"] for i in numbers]} if task else {})
        listed = root / "meta" / "episodes" / "chunk-000" / f"file-{file:03d}.parquet"
        listed.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), listed)
    tasks = pa.table({"task_index": [0, 1], task_column: ["task 0", "task 1"]})
    pq.write_table(tasks, root / "meta" / "tasks.parquet")
    return root
