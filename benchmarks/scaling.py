"""What does a fit on many machines cost? `python -m benchmarks.scaling` measures it and writes docs/scaling.md.

On this machine: what a chunk costs to read and quantize and to merge, what it takes in memory, what travels for a
merge, and how long a trip of the driver to so many Ray actors takes. From these `project` works out other clusters.
Last, one recording is fitted by threads and by Ray, on two nodes of one CPU each, in turn: the artefacts must be equal
before a time is reported.

ALOHA-like chunks of 50 x 14 at every step of their trajectories, 1,024 ids, scale 10. Medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.case import ROOT
from benchmarks.readme import replace_between
from benchmarks.report import markdown_table, significant
from fast_tokenizer import FastTokenizer
from fast_tokenizer._core import Corpus, MergeDriver
from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed import TrajectoryChunks, connect
from fast_tokenizer.distributed.shards import MERGES_A_TRIP
from fast_tokenizer.io import Trajectories, read
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
CUT = Cut(horizon=50)
VOCAB_SIZE, SCALE, LEVELS = 1024, 10.0, 8
#: Chunks of the corpora. What grows with the chunks is the difference of two.
SIZES = (400_000, 100_000)
ACTORS = (1, 2, 4, 8, 16)
TRIPS = 100
REPEATS = 3
#: Clusters that the page shows: chunks, nodes, CPUs a node.
CLUSTERS = ((1_000_000, 1, 16), (10_000_000, 10, 16), (100_000_000, 100, 16), (100_000_000, 10, 64))


def tell(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Median of the repeats."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def recorded(folder: Path, chunks: int) -> Trajectories:
    """Trajectories of about so many chunks, as HDF5 files of 20 episodes each."""
    import h5py

    folder.mkdir()
    total = file = 0
    while total < chunks:
        episodes = generate_trajectories(ROBOTS["aloha"], 20, seed=file)
        with h5py.File(folder / f"{file:06d}.hdf5", "w") as group:
            for i, actions in enumerate(episodes):
                group.create_dataset(f"data/demo_{i}/actions", data=actions.astype(np.float32))
        total += int(CUT.count(np.array([len(a) for a in episodes])).sum())
        file += 1
    return read(folder, hz=50.0).trajectories


def collected(trajectories: Trajectories) -> Corpus:
    """What one task does with its trajectories: read, cut, quantize."""
    corpus = Corpus([SCALE], end_of_block="chunk")
    for chunks in CUT.model_chunks(trajectories):
        corpus.add(np.ascontiguousarray(chunks), num_threads=1)
    return corpus


def merged(corpus: Corpus, most: int = MERGES_A_TRIP) -> dict[str, Any]:
    """What one node's only shard and the driver do, and what travels between them."""
    lowest, highest = corpus.range(1.0)
    alphabet = highest - lowest + 1 + 2 * LEVELS + 1
    start = time.perf_counter()
    shards = corpus.into_shards(lowest, highest, levels_beyond=LEVELS, num_threads=1)
    counts = shards.count_pairs(1)
    shard_seconds = time.perf_counter() - start
    driver = MergeDriver(alphabet, VOCAB_SIZE, 2, 1024)
    driver.add_counts(*counts)
    trips, sent, pick_seconds, add_seconds = 0, 0, 0.0, 0.0
    while True:
        start = time.perf_counter()
        merges = driver.next(most)
        pick_seconds += time.perf_counter() - start
        if not len(merges):
            break
        start = time.perf_counter()
        effects = shards.apply(merges, alphabet + len(driver.merges) - len(merges), 1)
        shard_seconds += time.perf_counter() - start
        start = time.perf_counter()
        driver.add_effects(*effects)
        add_seconds += time.perf_counter() - start
        trips += 1
        sent += sum(a.nbytes for a in effects)
    return {
        "ids": driver.merges.tobytes(),
        "merges": len(driver.merges),
        "trips": trips,
        "bytes_a_merge": sent / len(driver.merges),
        "pair_count_bytes": sum(a.nbytes for a in counts),
        "shard_seconds": shard_seconds,
        "pick_seconds": pick_seconds,
        "add_seconds": add_seconds,
    }


def added_memory(words: Path, corpus: Corpus) -> int:
    """Bytes that a fresh process needs beyond the piece that it reads, to hold the words and train on them."""
    code = (
        "import sys, numpy as np; from benchmarks.scaling import *\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "words = np.load(sys.argv[1]); before = peak(); corpus = Corpus([SCALE], end_of_block='chunk')\n"
        "corpus.add_words(words, int(sys.argv[2]), int(sys.argv[3]), 0, 0); merged(corpus); print(peak() - before)"
    )
    command = [sys.executable, "-c", code, str(words), str(corpus.chunks), str(corpus.symbols)]
    return 1024 * int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def constants(folder: Path) -> dict[str, Any]:
    """What a chunk, a merge and a trip cost."""
    found: dict[int, dict[str, Any]] = {}
    for size in SIZES:
        tell(f"{size:,} chunks: reading, quantizing, merging")
        trajectories = recorded(folder / str(size), size)
        read_seconds = seconds(lambda t=trajectories: [None for _ in t])  # type: ignore[misc]
        runs, task_seconds = [], []
        for _ in range(REPEATS):
            start = time.perf_counter()
            corpus = collected(trajectories)
            task_seconds.append(time.perf_counter() - start)
            runs.append(merged(corpus))
        one_by_one = merged(collected(trajectories), 1)
        if one_by_one["ids"] != runs[0]["ids"]:
            raise AssertionError("several merges a trip are not those of one a trip")
        corpus = collected(trajectories)
        words = folder / "words.npy"
        np.save(words, corpus.words())
        found[size] = {
            "chunks": corpus.chunks,
            "steps": int(trajectories.lengths.sum()),
            "words_bytes": corpus.words().nbytes,
            "added_bytes": statistics.median(added_memory(words, corpus) for _ in range(REPEATS)),
            "read_seconds": read_seconds,
            "task_seconds": statistics.median(task_seconds),
            **{k: v for k, v in runs[0].items() if k != "ids"},
            **{
                name: statistics.median(r[name] for r in runs)
                for name in ("shard_seconds", "pick_seconds", "add_seconds")
            },
            **{f"one_by_one_{name}": one_by_one[name] for name in ("trips", "pick_seconds", "add_seconds")},
        }
    large, small = (found[size] for size in SIZES)
    more = large["chunks"] - small["chunks"]

    def slope(name: str) -> float:
        return float((large[name] - small[name]) / more)

    return {
        "chunks": large["chunks"],
        "float32_bytes_a_chunk": 4 * 14 * CUT.horizon,
        "recorded_bytes_a_chunk": 4 * 14 * large["steps"] / large["chunks"],
        "read_us_a_chunk": 1e6 * large["read_seconds"] / large["chunks"],
        "task_us_a_chunk": 1e6 * large["task_seconds"] / large["chunks"],
        "piece_bytes_a_chunk": large["words_bytes"] / large["chunks"],
        "shard_bytes_a_chunk": slope("added_bytes"),
        "shard_us_a_chunk": 1e6 * slope("shard_seconds"),
        "shard_fixed_seconds": small["shard_seconds"] - slope("shard_seconds") * small["chunks"],
        "merges": large["merges"],
        "trips": large["trips"],
        "trips_one_by_one": large["one_by_one_trips"],
        "one_by_one_pick_us_a_trip": 1e6 * large["one_by_one_pick_seconds"] / large["one_by_one_trips"],
        "one_by_one_add_us_a_trip_and_node": 1e6 * large["one_by_one_add_seconds"] / large["one_by_one_trips"],
        "bytes_a_merge": large["bytes_a_merge"],
        "pair_count_bytes": large["pair_count_bytes"],
        "pick_us_a_trip": 1e6 * large["pick_seconds"] / large["trips"],
        "add_us_a_trip_and_node": 1e6 * large["add_seconds"] / large["trips"],
    }


def trips(effect_bytes: int) -> dict[str, Any]:
    """How long the driver waits for so many actors that answer at once with so many bytes."""
    import ray

    class Answer:
        def apply(self, merges: Any, first: int) -> tuple[Any, ...]:  # noqa: ARG002  (what a shard is sent)
            return (
                np.zeros((len(merges), 2), np.int64),
                np.zeros(effect_bytes // 10, np.uint16),
                np.zeros(effect_bytes // 10, np.int64),
            )

    actor = ray.remote(num_cpus=0)(Answer)
    actors, found = [], {}
    for count in ACTORS:
        while len(actors) < count:
            actors.append(actor.remote())
        merges = np.zeros((6, 2), np.uint16)
        ray.get([a.apply.remote(merges, 0) for a in actors])
        taken = []
        for _ in range(TRIPS):
            start = time.perf_counter()
            ray.get([a.apply.remote(merges, 0) for a in actors])
            taken.append(time.perf_counter() - start)
        found[count] = 1000 * statistics.median(taken)
        tell(f"a trip to {count} actors: {found[count]:.2f} ms")
    for a in actors:
        ray.kill(a)
    base, a_node = np.polynomial.polynomial.polyfit(list(found), list(found.values()), 1)[:2]
    return {"trip_ms": found, "trip_base_ms": float(base), "trip_ms_a_node": float(a_node)}


@contextmanager
def two_nodes() -> Iterator[None]:
    """A Ray cluster of two nodes with a CPU each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 1 << 30}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    connect(cluster.address)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def overhead(folder: Path) -> list[dict[str, Any]]:
    """Threads and Ray on the same recordings, in turn."""
    found = []
    for size in reversed(SIZES):
        trajectories = read(folder / str(size), hz=50.0).trajectories
        chunks = TrajectoryChunks(trajectories, CUT)
        taken: dict[str, list[float]] = {"threads": [], "ray": []}
        for repeat in range(REPEATS + 1):  # the first starts the worker processes, and is not counted
            start = time.perf_counter()
            normalizer = _normalizer(trajectories)
            here = FastTokenizer.fit(_Again(trajectories), VOCAB_SIZE, SCALE, normalize=normalizer, num_threads=2)
            middle = time.perf_counter()
            there = FastTokenizer.fit(chunks, VOCAB_SIZE, SCALE, normalize="quantile", engine="ray")
            end = time.perf_counter()
            if here != there:
                raise AssertionError("Ray does not fit what threads fit")
            if repeat:
                taken["threads"].append(middle - start)
                taken["ray"].append(end - middle)
            tell(f"{chunks.available:,} chunks: threads {middle - start:.1f} s, Ray {end - middle:.1f} s")
        medians = {name: statistics.median(values) for name, values in taken.items()}
        found.append({"chunks": chunks.available, **medians})
    return found


class _Again:
    """The chunks, read anew at each iteration."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.trajectories = trajectories

    def __iter__(self) -> Iterator[Any]:
        return CUT.model_chunks(self.trajectories)


def _normalizer(trajectories: Trajectories) -> Any:
    from fast_tokenizer.statistics import NormalizerStatistics

    taken = NormalizerStatistics()
    for trajectory in trajectories:
        taken.update(trajectory.actions)
    return taken.normalizer("quantile")


def project(measured: dict[str, Any], chunks: int, nodes: int, cpus: int) -> dict[str, float]:
    """Times in seconds and sizes in bytes on a cluster of such CPUs, when storage gives data as fast as it is read.

    Quantizing and a shard's work are shared out over all CPUs; the driver waits for each trip, which takes longer the
    more nodes answer.
    """
    c = measured
    workers = nodes * cpus

    def trip(kind: str) -> float:
        waiting = (c["trip_base_ms"] + nodes * c["trip_ms_a_node"]) / 1e3
        return float(waiting + (c[f"{kind}pick_us_a_trip"] + nodes * c[f"{kind}add_us_a_trip_and_node"]) / 1e6)

    return {
        "statistics": c["read_us_a_chunk"] * 1e-6 * chunks / workers,
        "quantize": c["task_us_a_chunk"] * 1e-6 * chunks / workers,
        "merge_shards": max(0.0, c["shard_fixed_seconds"]) + c["shard_us_a_chunk"] * 1e-6 * chunks / workers,
        "merge_driver": c["trips"] * trip(""),
        "merge_driver_one_by_one": c["trips_one_by_one"] * trip("one_by_one_"),
        "store_bytes_a_node": c["piece_bytes_a_chunk"] * chunks / nodes,
        "shard_bytes_a_node": c["shard_bytes_a_chunk"] * chunks / nodes,
        "driver_bytes": nodes * (c["pair_count_bytes"] + c["merges"] * c["bytes_a_merge"]),
    }


def blocks(results: dict[str, Any]) -> dict[str, str]:
    """What stands between the markers of the page."""
    about, c = results["machine"], results["constants"]
    caption = f"Measured at commit {about['commit']} on {about['date'][:10]}: {about['cpu']}, {about['cores']} cores."
    lines = [
        ("recorded steps, float32, of a chunk (stride 1)", f"{c['recorded_bytes_a_chunk']:,.0f} B"),
        ("read a chunk's steps", f"{significant(c['read_us_a_chunk'])} us"),
        ("read, cut and quantize a chunk", f"{significant(c['task_us_a_chunk'])} us"),
        (
            "a chunk in a piece (as float32: " + f"{c['float32_bytes_a_chunk']:,} B)",
            f"{c['piece_bytes_a_chunk']:,.0f} B",
        ),
        ("a chunk in a shard, at the peak", f"{c['shard_bytes_a_chunk']:,.0f} B"),
        ("all merges, of a chunk", f"{significant(c['shard_us_a_chunk'])} us"),
        ("counts of all pairs, a node", f"{c['pair_count_bytes'] / 1e3:,.0f} kB"),
        ("effect of a merge, a node", f"{c['bytes_a_merge'] / 1e3:,.1f} kB"),
        (f"trips for {c['merges']} merges, one a trip", f"{c['trips_one_by_one']}"),
        (f"trips for {c['merges']} merges, all that are certain", f"{c['trips']}"),
        ("driver: to pick merges, a trip", f"{significant(c['pick_us_a_trip'])} us"),
        ("driver: to add the effects of a node, a trip", f"{significant(c['add_us_a_trip_and_node'])} us"),
        *((f"trip to {n} actor{'s' if n > '1' else ''}", f"{ms:.2f} ms") for n, ms in c["trip_ms"].items()),
    ]
    cluster = []
    for chunks, nodes, cpus in CLUSTERS:
        p = project(c, chunks, nodes, cpus)
        total = p["statistics"] + p["quantize"] + p["merge_shards"] + p["merge_driver"]
        cluster.append(
            (
                f"{chunks / 1e6:,.0f} M",
                f"{nodes} x {cpus}",
                f"{significant(p['statistics'] + p['quantize'])} s",
                f"{significant(p['merge_shards'])} s",
                f"{significant(p['merge_driver'])} s ({significant(p['merge_driver_one_by_one'])} s)",
                f"{significant(total)} s",
                f"{p['store_bytes_a_node'] / 2**30:,.2f} + {p['shard_bytes_a_node'] / 2**30:,.2f} GiB",
                f"{p['driver_bytes'] / 1e6:,.0f} MB",
            )
        )
    header = (
        *("chunks", "nodes x CPUs", "read and quantize", "merging: shards", "merging: trips (one a trip)", "together"),
        *("a node: pieces + shard", "to the driver"),
    )
    note = ""
    if c["shard_fixed_seconds"] < 0:
        note = (
            "\n\nA shard's time that does not grow with the chunks came out as "
            f"{1e3 * c['shard_fixed_seconds']:.0f} ms, the noise of two measurements, and is taken as none."
        )
    side_by_side = [
        (
            f"{row['chunks']:,}",
            f"{significant(row['threads'])} s",
            f"{significant(row['ray'])} s",
            f"{significant(row['ray'] / row['threads'])} x",
        )
        for row in results["overhead"]
    ]
    return {
        "scaling-constants": f"{caption}\n\n{markdown_table(('what', 'cost'), lines)}",
        "scaling-clusters": markdown_table(header, cluster) + note,
        "scaling-overhead": markdown_table(
            ("chunks", "2 threads", "Ray, 2 nodes x 1 CPU", "Ray / threads"), side_by_side
        ),
    }


def page(text: str, results: dict[str, Any]) -> str:
    """The page with the figures of the results."""
    for name, block in blocks(results).items():
        text = replace_between(text, name, block)
    return text


def main() -> None:
    """Measures, unless the page is only to be written anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    if not parser.parse_args().page:
        about = machine.describe()
        with tempfile.TemporaryDirectory() as name:
            measured = constants(Path(name))
            with two_nodes():
                measured |= trips(int(measured["bytes_a_merge"] * measured["merges"] / measured["trips"]))
                compared = overhead(Path(name))
        results = {"machine": about, "constants": measured, "overhead": compared}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    PAGE.write_text(page(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
