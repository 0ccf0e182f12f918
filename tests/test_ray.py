"""Fitting and encoding on a real Ray cluster: the artefact of one machine, on whatever nodes, whichever dies."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from fast_tokenizer import FastTokenizer, windows
from fast_tokenizer._core import Corpus
from fast_tokenizer.chunk import ChunkSample, chunk_blocks
from fast_tokenizer.cutting import Cut
from fast_tokenizer.distributed import TrajectoryChunks, connect, encode_trajectories, write_sidecar
from fast_tokenizer.distributed import cluster as ray_cluster
from fast_tokenizer.distributed import shards as ray_shards
from fast_tokenizer.distributed import tasks as ray_tasks
from fast_tokenizer.distributed import trajectories as ray_trajectories
from fast_tokenizer.distributed.pieces import Quantizer, make_piece, summary_rows, to_summary
from fast_tokenizer.distributed.tasks import spans
from fast_tokenizer.errors import ClusterError
from fast_tokenizer.fitting import EmbodimentData
from fast_tokenizer.io import BrokenDataError, Trajectories, of_arrays, read
from fast_tokenizer.io.dataset import Dataset, Steps
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.relative import Relative
from fast_tokenizer.sidecar import Sidecar, plan_sidecar
from fast_tokenizer.statistics import EXACT_ROWS, NormalizerStatistics
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from tests.lerobot_folders import lists, tree, write_info

# Ray itself leaves files and sockets open, and warns of its own future.
pytestmark = pytest.mark.filterwarnings("default")

HORIZON = 50
CUT = Cut(HORIZON, stride=5)
EPISODES = [a.astype(np.float32) for a in generate_trajectories(ROBOTS["aloha"], 24, seed=3, seconds=(6.0, 12.0))]
CHUNKS = np.concatenate([windows(a, HORIZON, 5) for a in EPISODES])
OPTIONS = {"vocab_size": 512, "normalize": "quantile"}


class Nodes:
    """A cluster whose head runs the driver's calls only; workers come, go, and are killed."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        # What is dead is to be noticed within a second or two, not half a minute; what only has to wait for a CPU, or
        # lacks none of the memory that others on this machine use up, is to live.
        health = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 200,
            "health_check_timeout_ms": 20_000,
            "health_check_failure_threshold": 3,
            "memory_monitor_refresh_ms": 0,
        }
        head = {"num_cpus": 0, "object_store_memory": 200 << 20, "include_dashboard": False, "_system_config": health}
        self.folder = folder  # of the nodes; the driver's is another, as on a cluster
        with contextlib.chdir(folder):
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self.add_node()]

    def add_node(self):
        with contextlib.chdir(self.folder):
            return self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20)

    def be(self, count):
        """So many workers of one CPU, new ones for those that died by themselves."""
        deadline = time.monotonic() + 120
        while (alive := {node for node, _ in ray_cluster.nodes()}) != {w.node_id for w in self.workers} or len(
            self.workers
        ) != count:
            assert time.monotonic() < deadline, f"{len(alive)} nodes live, {len(self.workers)} are known"
            for worker in [w for w in self.workers if w.node_id not in alive] or self.workers[count:]:
                self.workers.remove(worker)
                self.cluster.remove_node(worker, allow_graceful=worker.node_id in alive)
            while len(self.workers) < count:
                self.workers.append(self.add_node())
            time.sleep(0.1)

    def kill(self, node_id=None):
        """As a power cut would: this worker, or the last."""
        worker = next((w for w in self.workers if w.node_id == node_id), self.workers[-1])
        self.workers.remove(worker)
        self.cluster.remove_node(worker, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    found = Nodes(tmp_path_factory.mktemp("nodes"))
    os.environ["RAY_ADDRESS"] = found.cluster.address
    connect(found.cluster.address)
    yield found
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()
    found.cluster.shutdown()


@pytest.fixture
def small_tasks(monkeypatch):
    """A dozen tasks, as larger data would make."""
    monkeypatch.setattr(ray_trajectories, "TASK_COEFFICIENTS", 200 * CHUNKS[0].size)
    monkeypatch.setattr("fast_tokenizer.distributed.encoding.TASK_VALUES", 200 * CHUNKS[0].size)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "episodes.npz"
    state = np.concatenate([np.roll(a, 1, axis=0) for a in EPISODES])
    ends = np.cumsum([len(a) for a in EPISODES])
    np.savez(path, actions=np.concatenate(EPISODES), state=state, episode_ends=ends, hz=50.0)
    return path


def run_cli(*arguments, folder=None):
    program = [sys.executable, "-m", "fast_tokenizer", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False, cwd=folder)


def same(fitted, expected):
    """The artefact to the byte, and the counts."""
    a, b = fitted.fit_summary, expected.fit_summary
    counts = ("chunks", "chunks_left_out", "coefficients", "clipped", "saturated", "alphabet_size", "merges")
    return fitted.spec.to_json() == expected.spec.to_json() and all(getattr(a, c) == getattr(b, c) for c in counts)


@pytest.fixture(scope="module")
def expected(recording):
    """What one machine fits on the recording: statistics are of its steps."""
    normalizer = Normalizer.fit(np.concatenate(EPISODES), "quantile")
    return FastTokenizer.fit(CHUNKS, **(OPTIONS | {"normalize": normalizer}), hz=50.0)


# ---- The artefact of one machine -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_nodes_do_not_matter(nodes, recording, expected, small_tasks, monkeypatch, count):
    nodes.be(count)
    deal, shares = ray_shards._deal, []
    monkeypatch.setattr(ray_shards, "_deal", lambda pieces: shares.extend(deal(pieces)) or shares)
    stages = []
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    told = lambda *told: stages.append(told)  # noqa: E731
    fitted = FastTokenizer.fit(chunks, **OPTIONS, hz=50.0, engine="ray", progress=told)
    assert same(fitted, expected)
    assert {s for s, _, _ in stages} == {"statistics", "quantize", "merge"}
    assert all(done <= total for _, done, total in stages)
    assert len([s for s, _, _ in stages if s == "quantize"]) > 5, "there are several tasks"
    assert len({share.node for share in shares}) == count


def test_the_command_line_fits_and_encodes_the_same(nodes, recording, tmp_path):
    """Paths are those of the folder in which the command is given, which is not that of the nodes."""
    nodes.be(2)
    here = recording.parent
    common = [recording.name, "--stride", "5", "--vocab-size", "512", "--max-chunks", "900", "--json"]
    found = {}
    for engine in ("threads", "ray"):
        done = run_cli("fit", *common, "-o", tmp_path / engine, "--engine", engine, folder=here)
        assert done.returncode == 0, done.stderr
        found[engine] = json.loads(done.stdout)
        output = tmp_path / f"{engine}.npz"
        done = run_cli(
            "encode", tmp_path / "threads", recording.name, "-o", output, "--engine", engine, "--json", folder=here
        )
        assert done.returncode == 0, done.stderr
        with np.load(output) as file:
            found[engine]["tokens"] = {name: file[name].tolist() for name in file.files}
    for key in ("fingerprint", "fit_chunks", "fit_chunks_left_out", "chunks", "mean_token_length", "tokens"):
        assert found["ray"][key] == found["threads"][key], key
    files = [(tmp_path / engine / "fast_tokenizer.json").read_bytes() for engine in found]
    assert files[0] == files[1]


def test_chunks_in_memory_are_sent(nodes):
    nodes.be(2)
    options = OPTIONS | {"order": "dimension-first", "end_of_block": "dimension", "dead_zone": 0.6, "clip": 1.5}
    for more in ({}, {"max_chunks": 300, "seed": 4}, {"scale": None, "target_rmse": 0.02}):
        here, there = (FastTokenizer.fit(CHUNKS, **options, **more, engine=e) for e in ("threads", "ray"))
        assert same(there, here)
    ragged = [CHUNKS[i, : 10 + i % 7] for i in range(200)]
    here, there = (FastTokenizer.fit(ragged, 512, engine=e) for e in ("threads", "ray"))
    assert same(there, here)


def test_mixtures_are_fitted_too(nodes, recording):
    nodes.be(2)
    parts = {
        "a": EmbodimentData(CHUNKS[:, :15, :7], weight=1, normalize="quantile"),
        "b": EmbodimentData(CHUNKS, weight=3, normalize="min-max"),
    }
    here, there = (FastTokenizer.fit_mixture(parts, 512, engine=e) for e in ("threads", "ray"))
    assert same(there, here)
    assert there.fit_summary.embodiments == here.fit_summary.embodiments
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    both = {"a": parts["a"], "c": EmbodimentData(chunks, normalize="quantile")}
    with pytest.raises(ValueError, match="give every embodiment a weight, or none"):
        FastTokenizer.fit_mixture(both, 512, engine="ray")
    both["c"] = EmbodimentData(chunks, weight=1, normalize="quantile")
    with pytest.raises(ValueError, match="embodiment 'c': weights go with chunks that this process reads"):
        FastTokenizer.fit_mixture(both, 512, engine="ray")


def test_relative_actions_and_their_states(nodes, recording, small_tasks):
    nodes.be(2)
    dataset = read(recording)
    rule = Relative((0, 3), (1, 3), 14)
    cut = Cut(HORIZON, 7, "repeat-last", rule)
    parts = list(cut.windows(dataset.trajectories))
    chunks = np.concatenate([w.chunks for w in parts])
    state = np.concatenate([w.state for w in parts])
    here = FastTokenizer.fit(chunks, **OPTIONS, relative=rule, state=state)
    there = FastTokenizer.fit(TrajectoryChunks(dataset.trajectories, cut), **OPTIONS, engine="ray")
    assert same(there, here)
    tokens, states = encode_trajectories(there, dataset.trajectories, cut, lambda *_: None)
    alone = here.encode(chunks, state=state)
    assert (tokens.ids.tolist(), tokens.offsets.tolist()) == (alone.ids.tolist(), alone.offsets.tolist())
    assert np.array_equal(states, state)


def test_a_budget_goes_to_the_workers(nodes, recording, expected, small_tasks, tmp_path):
    nodes.be(2)
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    storage = {"memory_budget": 0, "spill_directory": tmp_path}
    fitted = FastTokenizer.fit(chunks, **OPTIONS, hz=50.0, engine="ray", **storage)
    assert same(fitted, expected)
    assert fitted.fit_summary.spilled_bytes > 0
    assert [*tmp_path.iterdir()] == []


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    """A LeRobot folder (v2.1) of the episodes, a file each."""
    root = tmp_path_factory.mktemp("lerobot") / "source"
    write_info(root, "v2.1", features={"action": {"dtype": "float32", "shape": [14]}}, fps=50)
    first, rows = 0, []
    for i, actions in enumerate(EPISODES):
        n = len(actions)
        path = root / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {"frame_index": np.arange(n), "episode_index": np.full(n, i), "index": first + np.arange(n)}
        pq.write_table(pa.table({"action": lists(actions), **numbers}), path)
        rows.append({"episode_index": i, "length": n})
        first += n
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def test_a_sidecar_is_written_by_the_workers(nodes, expected, lerobot, tmp_path):
    nodes.be(2)
    expected.save(tmp_path / "tok")
    source = tree(lerobot)
    found = {}
    for engine in ("threads", "ray"):
        output = tmp_path / engine
        done = run_cli("sidecar", "tok", lerobot, "-o", engine, "--engine", engine, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found[engine] = tree(output)
    assert found["ray"] == found["threads"]
    assert sum(digest is not None for digest in found["ray"].values()) == len(EPISODES) + 2
    assert tree(lerobot) == source


# ---- What must be the same as on one machine, without a cluster ------------------------------------------


def test_a_sample_is_that_of_one_machine():
    for count, seed in [(1, 0), (50, 0), (50, 1), (len(CHUNKS) - 1, 2)]:
        sample = ChunkSample(count, seed)
        for block in chunk_blocks(np.array_split(CHUNKS, 7)):
            sample.add(block)
        kept = np.concatenate([block.values for block in sample.drain()])
        assert np.array_equal(CHUNKS[ray_trajectories._sample(len(CHUNKS), count, seed)], kept)
    assert ray_trajectories._sample(10, 10, 0) is None


@pytest.mark.parametrize("rows", [1000, EXACT_ROWS, EXACT_ROWS + 1, 3 * EXACT_ROWS, 3 * EXACT_ROWS + 17])
def test_statistics_of_parts_are_those_of_the_whole_to_the_bit(rows):
    values = np.random.default_rng(rows).lognormal(size=(rows, 1))
    whole, merged = NormalizerStatistics(), NormalizerStatistics()
    for part in np.array_split(values, 5):
        whole.update(part)
    firsts = range(0, rows, EXACT_ROWS)
    for first in firsts:
        part = NormalizerStatistics()
        part.update(values[first : first + EXACT_ROWS])
        merged.merge(part.sketched() if len(firsts) > 1 else part)
    assert merged.rows == rows
    for kind in ("quantile", "min-max", "mean-std"):
        a, b = whole.normalizer(kind), merged.normalizer(kind)
        assert (a.center.tobytes(), a.half_range.tobytes()) == (b.center.tobytes(), b.half_range.tobytes())


@pytest.mark.parametrize("symbols", [CHUNKS[0].size, 10 * CHUNKS[0].size, ray_shards._SHARD_SYMBOLS])
def test_a_shard_has_no_more_symbols_than_it_can_number(monkeypatch, symbols):
    """An actor's work, in this process."""
    monkeypatch.setattr(ray_shards, "_SHARD_SYMBOLS", symbols)
    monkeypatch.setattr(ray, "get", lambda piece: piece)
    corpus = Corpus([10.0])
    corpus.add(CHUNKS[:60])
    span = corpus.range(1.0)
    pieces = [make_piece(chunk_blocks(part), Quantizer([10.0], {}, {}), 0) for part in np.split(CHUNKS[:60], 3)]
    plan = ray_shards.ShardPlan({}, None, None, *span, 0, span[1] - span[0] + 1)
    shard = ray_shards.Shard()
    assert shard.fill(plan, pieces, 2, np.empty((0, 2), np.uint16)) == (60, corpus.symbols)
    alone = corpus.into_shards(*span)
    assert [a.tolist() for a in shard.count_pairs()] == [a.tolist() for a in alone.count_pairs()]


def test_spans_cover_each_chunk_once():
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 9, rng.integers(1, 30)) * rng.integers(0, 2)
        tasks = spans(counts, int(rng.integers(1, 40)))
        covered = np.concatenate([np.zeros(0, int), *(np.arange(t["first"], t["last"]) for t in tasks)])
        assert len(set(covered.tolist())) == len(covered)
        assert counts[covered].sum() == counts.sum()
        assert [t["item"] for t in tasks] == list(range(len(tasks)))


# ---- What dies -----------------------------------------------------------------------------------------


def wait_for_go(folder):
    """In a task: leaves its node and process in the folder, and goes on when there is "go"."""
    (folder / f"{ray.get_runtime_context().get_node_id()}-{os.getpid()}").touch()
    deadline = time.monotonic() + 300
    while not (folder / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.02)


def gated(folder, episodes):
    """Trajectories at which a task waits."""

    def load(chosen):
        for i in np.flatnonzero(chosen):
            wait_for_go(folder)
            yield Steps(episodes[i])

    lengths = np.array([len(a) for a in episodes], np.int64)
    return Trajectories([Dataset(Path("gated"), lengths, episodes[0].shape[1], load, 50.0)])


def is_alive(pid):
    """Whether a process runs; nobody may reap the children of a node that was killed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_who_waits(nodes, folder):
    """Waits until two nodes wait at the gate, kills one in the middle of its work, and lets the others go on."""
    try:
        deadline = time.monotonic() + 180
        while len(waiting := {m.name.split("-")[0] for m in folder.iterdir()}) < 2:
            assert time.monotonic() < deadline, f"only {waiting} wait"
            time.sleep(0.02)
        killed = sorted(waiting)[0]
        nodes.kill(killed)
        while any(is_alive(int(m.name.split("-")[1])) for m in folder.glob(f"{killed}-*")):
            assert time.monotonic() < deadline, "the worker outlives its node"
            time.sleep(0.02)
    finally:
        (folder / "go").touch()


@pytest.fixture
def beside():
    """Runs a function in a thread, and raises what it raises."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def test_a_node_killed_while_it_reads(nodes, expected, small_tasks, tmp_path, beside):
    nodes.be(3)
    normalizer = expected.spec.normalizer
    chunks = TrajectoryChunks(gated(tmp_path, EPISODES), CUT)
    killed = beside(kill_who_waits, nodes, tmp_path)
    fitted = FastTokenizer.fit(chunks, **(OPTIONS | {"normalize": normalizer}), hz=50.0, engine="ray")
    killed.result()
    assert same(fitted, expected)
    assert len(nodes.workers) == 2


def noted(folder):
    """Trajectories that leave a file, with the node's name in front, for each time that one is read."""

    def load(chosen):
        for i in np.flatnonzero(chosen):
            (folder / f"{ray.get_runtime_context().get_node_id()}-{i}-{time.time_ns()}").touch()
            yield Steps(EPISODES[i])

    lengths = np.array([len(a) for a in EPISODES], np.int64)
    return Trajectories([Dataset(Path("noted"), lengths, EPISODES[0].shape[1], load, 50.0)])


def test_nodes_killed_while_they_merge(nodes, monkeypatch, tmp_path):
    """All of them: their symbols are read, quantized and merged again on a new one, and no pair is counted twice."""
    nodes.be(3)
    cut = Cut(HORIZON)
    chunks = TrajectoryChunks(noted(tmp_path), cut)
    # Pieces must lie in the object stores of the nodes: smaller ones than 100 kB would be sent to the driver.
    monkeypatch.setattr(ray_trajectories, "TASK_COEFFICIENTS", 1_200 * CHUNKS[0].size)
    sizes, read_before = [], []
    deal = ray_shards._deal

    def dealt(pieces):
        sizes.extend(s.words_bytes for _, summaries in pieces for s in summaries)
        return deal(pieces)

    monkeypatch.setattr(ray_shards, "_deal", dealt)

    def progress(stage, done, total):
        if stage == "merge" and done > 100 and len(nodes.workers) == 3:
            read_before.extend(tmp_path.iterdir())
            while nodes.workers:  # one that lived might have a copy of every piece
                nodes.kill()
            nodes.workers.append(nodes.add_node())

    normalizer = Normalizer.fit(np.concatenate(EPISODES), "quantile")
    options = OPTIONS | {"normalize": normalizer}
    fitted = FastTokenizer.fit(chunks, **options, engine="ray", progress=progress)
    assert len(nodes.workers) == 1
    assert sum(size > 100_000 for size in sizes) >= 3
    assert len([*tmp_path.iterdir()]) > len(read_before) == len(EPISODES), "nothing was lost"
    assert same(fitted, FastTokenizer.fit([windows(a, HORIZON) for a in EPISODES], **options))


def test_a_process_that_dies_on_some_data_ends_with_one_error(nodes, tmp_path, monkeypatch):
    """It is not tried for ever."""
    nodes.be(1)
    monkeypatch.setattr(ray_tasks, "RETRIES", 1)
    chunks = TrajectoryChunks(dying(), CUT)
    with pytest.raises(ClusterError, match="quantizing: WorkerCrashedError"):
        FastTokenizer.fit(chunks, 512, engine="ray")


def test_a_task_without_memory_is_not_tried_for_ever():
    """On a cluster that others started, and in which the memory monitor ends every task."""
    code = """
        import os
        import numpy as np
        from ray.cluster_utils import Cluster
        from fast_tokenizer import FastTokenizer
        from fast_tokenizer.cutting import Cut
        from fast_tokenizer.distributed import TrajectoryChunks, cluster
        from fast_tokenizer.io import of_arrays
        cluster.OOM_RETRIES = 1
        node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        cluster.connect(Cluster(initialize_head=True, head_node_args=node).address)
        assert "RAY_task_oom_retries" not in os.environ
        chunks = TrajectoryChunks(of_arrays("some", [np.zeros((400, 3))]).trajectories, Cut(20))
        FastTokenizer.fit(chunks, 256, normalize="quantile", engine="ray")
    """
    environment = {**os.environ, "RAY_memory_usage_threshold": "0.001"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=180)
    assert "ClusterError: statistics: OutOfMemoryError: " in done.stderr, done.stderr


def dying():
    def load(chosen):
        os._exit(1)

    return Trajectories([Dataset(Path("dying"), np.array([300]), 14, load, 50.0)])


def test_an_error_that_cannot_be_sent_is_told(nodes):
    nodes.be(1)

    class OddError(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    def load(chosen):
        raise OddError(1, 2)

    chunks = TrajectoryChunks(Trajectories([Dataset(Path("odd"), np.array([300]), 14, load, 50.0)]), CUT)
    with pytest.raises(RuntimeError, match="OddError: 1 and 2"):
        FastTokenizer.fit(chunks, 512, engine="ray")


def test_a_node_killed_while_it_encodes(nodes, expected, small_tasks, tmp_path, beside):
    nodes.be(3)
    trajectories = gated(tmp_path, EPISODES)
    killed = beside(kill_who_waits, nodes, tmp_path)
    tokens, state = encode_trajectories(expected, trajectories, CUT, lambda *_: None)
    killed.result()
    alone = expected.encode(CHUNKS)
    assert (tokens.ids.tolist(), tokens.offsets.tolist()) == (alone.ids.tolist(), alone.offsets.tolist())
    assert (len(tokens), state) == (len(CHUNKS), None)


def gated_parts(gate, begun):
    """A task that writes a part, and waits when its file is written but has no name yet."""

    def write(tokenizer, table):
        from fast_tokenizer.distributed.encoding import _write_part

        (begun / f"{table.to_pylist()[0]['item']}-{time.time_ns()}").touch()
        fsync = os.fsync

        def gated_fsync(file):
            fsync(file)
            wait_for_go(gate)

        os.fsync = gated_fsync
        try:
            return _write_part(tokenizer, table)
        finally:
            os.fsync = fsync

    return write


def test_a_node_killed_while_it_writes_a_sidecar(nodes, expected, lerobot, tmp_path, beside, monkeypatch):
    """Each frame is there once, as one machine writes it; a folder that is not finished is no sidecar."""
    nodes.be(3)
    plan = plan_sidecar(expected, lerobot, tmp_path / "tokens")
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    gate.mkdir()
    begun.mkdir()
    seen, left = [], []

    def report(stage, done, total):
        if not seen:
            with pytest.raises(ValueError, match="the sidecar is not finished"):
                Sidecar.open(plan.output, expected)
        seen.append((done, total))
        if done == total:
            left.extend(plan.output.glob("unfinished*/*.part"))

    monkeypatch.setattr("fast_tokenizer.distributed.encoding._write_part", gated_parts(gate, begun))
    killed = beside(kill_who_waits, nodes, gate)
    manifest = write_sidecar(expected, plan, report)
    killed.result()
    assert manifest.frames == seen[-1][0] == seen[-1][1] == sum(map(len, EPISODES))
    assert len(nodes.workers) == 2
    assert len(seen) == len(EPISODES)
    times = Counter(mark.name.split("-")[0] for mark in begun.iterdir())
    assert (len(times), max(times.values())) == (len(EPISODES), 2), "a part was begun twice"
    assert len(left) == 1, "the first time it was written, but had no name"
    plan_sidecar(expected, lerobot, tmp_path / "alone").write(expected)
    assert tree(plan.output) == tree(tmp_path / "alone")


def test_an_actor_lost_again_and_again_ends_with_one_error(nodes, recording, small_tasks, monkeypatch, tmp_path):
    nodes.be(2)
    monkeypatch.setattr(ray_shards, "_ATTEMPTS", 1)
    monkeypatch.setattr(ray_shards, "_SECONDS_BETWEEN", 0.0)
    original = ray_shards.ClusterShards._start

    def killed_at_once(self, share, node):
        original(self, share, node)
        ray.kill(share.actor)

    monkeypatch.setattr(ray_shards.ClusterShards, "_start", killed_at_once)
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    with pytest.raises(ClusterError, match=r"share 0 of 2 \(\d+ chunks\) was lost 2 times, last: .*; nothing was"):
        FastTokenizer.fit(chunks, **OPTIONS, engine="ray")


def test_counts_that_do_not_add_up_are_an_error(nodes, recording, small_tasks, monkeypatch):
    nodes.be(2)
    original = ray_shards._deal

    def one_twice(pieces):
        shares = original(pieces)
        shares[1].pieces.append(shares[1].pieces[0])
        return shares

    monkeypatch.setattr(ray_shards, "_deal", one_twice)
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    with pytest.raises(ClusterError, match=r"share 1 holds \d+ chunks of \d+ coefficients, expected"):
        FastTokenizer.fit(chunks, **OPTIONS, engine="ray")


# ---- What is refused -----------------------------------------------------------------------------------


def test_an_error_of_a_task_is_raised_as_it_was(nodes, recording, tmp_path, small_tasks):
    nodes.be(1)
    with np.load(recording) as file:
        arrays = dict(file)
    arrays["actions"][700, 3] = np.nan
    broken = tmp_path / "broken.npz"
    np.savez(broken, **arrays)
    chunks = TrajectoryChunks(read(broken).trajectories, CUT)
    with pytest.raises(BrokenDataError, match=r"broken.npz episode \d+: actions\[\d+, 3\] is nan") as caught:
        FastTokenizer.fit(chunks, **OPTIONS, engine="ray")
    assert caught.value.reason == "not finite"
    bad = CHUNKS.copy()
    bad[250, 3, 1] = np.nan
    with pytest.raises(ValueError, match="chunk 250: value at time step 3, dimension 1 is NaN"):
        FastTokenizer.fit(bad, 512, engine="ray")
    done = run_cli("fit", broken, "-o", tmp_path / "tok", "--engine", "ray")
    assert (done.returncode, (tmp_path / "tok").exists()) == (1, False)
    assert done.stderr.count("\n") == 1
    assert "is nan; actions must be finite" in done.stderr


def test_options_that_make_no_sense(recording):
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    for options, message in [
        ({"engine": "dask"}, "engine must be one of"),
        ({"engine": "ray", "num_threads": 2}, "num_threads goes with engine='threads'"),
        ({}, "give engine='ray'"),
        ({"engine": "ray", "relative": [0]}, "give the rule of relative actions to their Cut"),
        ({"engine": "ray", "compat": "published"}, "fits on one machine"),
    ]:
        with pytest.raises(ValueError, match=message):
            FastTokenizer.fit(chunks, 512, **options)


def test_targets_need_one_machine(nodes, recording):
    chunks = TrajectoryChunks(read(recording).trajectories, CUT)
    with pytest.raises(ValueError, match="target_rmse and target_max_error are fitted on one machine"):
        FastTokenizer.fit(chunks, 512, target_rmse=0.01, engine="ray")
    trajectories, none = read(recording).trajectories, Cut(10_000)
    with pytest.raises(ValueError, match="got no chunks to fit on"):
        FastTokenizer.fit(TrajectoryChunks(trajectories, none), 512, engine="ray")
    with pytest.raises(ValueError, match="got no chunks"):
        encode_trajectories(FastTokenizer.default(), trajectories, none, lambda *_: None)
    with pytest.raises(ClusterError, match=r"connected to the Ray cluster at .*, not to 192\.0\.2\.9:1"):
        connect("192.0.2.9:1")


def test_trajectories_without_a_chunk_are_not_in_the_statistics(nodes):
    nodes.be(1)
    short = np.full((HORIZON - 1, 14), 50.0, np.float32)
    trajectories = of_arrays("some", [EPISODES[0], short, EPISODES[1]]).trajectories
    fitted = FastTokenizer.fit(TrajectoryChunks(trajectories, CUT), 512, normalize="min-max", engine="ray")
    alone = Normalizer.fit(np.concatenate(EPISODES[:2]), "min-max")
    assert fitted.spec.normalizer.half_range.tolist() == alone.half_range.tolist()


def test_another_version_on_a_node_is_refused():
    piece = make_piece(chunk_blocks(CHUNKS[:3]), Quantizer([10.0], {}, {}), 0)
    (row,) = summary_rows(piece)
    assert to_summary(row).chunks == 3
    with pytest.raises(ClusterError, match=r"a node of the cluster runs fast_tokenizer 0\.0\.1, this process"):
        to_summary(row | {"version": "0.0.1"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "auto"], "--address goes with --engine ray"),
        (["--engine", "ray", "--threads", "2"], "--threads goes with --engine threads"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1: Connection refused"),
        (
            ["--engine", "ray", "--address", "auto"],
            "no Ray cluster at 127.0.0.1:3: Connection refused, which RAY_ADDRESS",
        ),
        (
            ["--engine", "ray"],
            'no Ray cluster at 127.0.0.1:2: Connection refused, the last one started here; "ray stop"',
        ),
    ],
)
def test_a_command_without_its_cluster_is_one_line(tmp_path, recording, options, message, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "auto" in options:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:3")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where a cluster was that is gone
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:2")
    done = run_cli("fit", recording, "-o", tmp_path / "tok", *options)
    assert (done.returncode, (tmp_path / "tok").exists()) == (1, False)
    assert done.stderr.startswith(f"fast-tokenizer: {message}")
    assert done.stderr.count("\n") == 1


def test_an_address_that_is_given_comes_before_the_variable():
    """Also of a cluster that is gone, which the variable names."""
    code = (
        "import ray; from fast_tokenizer.distributed import cluster\n"
        "for address in ('local', None):\n"
        "    cluster.connect(address); print(len(cluster.nodes())); ray.shutdown()"
    )
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "1\n"
    assert "ClusterError: no Ray cluster at 127.0.0.1:3: Connection refused, which RAY_ADDRESS names" in done.stderr


def test_without_ray_one_line_says_how_to_install_it(monkeypatch, recording, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs the package ray: pip install 'fast-tokenizer\[ray\]'"):
        FastTokenizer.fit(CHUNKS, 512, engine="ray")
