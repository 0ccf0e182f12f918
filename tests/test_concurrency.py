"""One tokenizer in many threads, in forked and in spawned processes; and work that can be stopped."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fast_tokenizer import FastTokenizer
from fast_tokenizer._core import Corpus

T, D = 50, 14

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
# Python 3.12 warns of any fork in a process with threads. Where the tests fork beside a thread, they mean to.
fork_is_meant = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def smooth_chunks(n, dtype=np.float64):
    return np.cumsum(np.random.default_rng(n).normal(0, 0.05, (n, T, D)), axis=1).astype(dtype)


CHUNKS = smooth_chunks(300)  # enough for several threads a call


@pytest.fixture(scope="module")
def tok():
    return FastTokenizer.fit(CHUNKS, 1024, normalize="quantile")


@pytest.fixture(scope="module")
def encoded(tok):
    """What encoding must give wherever it is done; made with threads, so that forks come after threads."""
    return tok.encode(CHUNKS, num_threads=4)


@pytest.fixture(scope="module")
def decoded(tok, encoded):
    return tok.decode(encoded, num_threads=4)


# ---- Threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 3])
def test_many_threads_share_one_tokenizer(tok, encoded, decoded, num_threads):
    parts = [slice(i % 7, None if i % 2 else 250, 1 + i % 3) for i in range(48)]

    def use(part):
        batch = tok.encode(CHUNKS[part], num_threads)
        assert batch.ids.tobytes() == encoded[part].ids.tobytes()
        assert tok.decode(batch, num_threads=num_threads).tobytes() == decoded[part].tobytes()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, parts))


def test_threads_of_differing_horizons_do_not_meet():
    spec = FastTokenizer.default()
    chunks = [CHUNKS[:20, : 3 + i] for i in range(40)]
    alone = [spec.encode(c).ids.tobytes() for c in chunks]
    with ThreadPoolExecutor(8) as pool:
        assert [b.ids.tobytes() for b in pool.map(spec.encode, chunks)] == alone


def test_several_fits_at_once_give_what_each_gives_alone():
    data = [CHUNKS[i::5] for i in range(5)]
    alone = [FastTokenizer.fit(d, 700).fingerprint() for d in data]
    with ThreadPoolExecutor(5) as pool:
        assert [t.fingerprint() for t in pool.map(lambda d: FastTokenizer.fit(d, 700), data)] == alone


BIG = smooth_chunks(6000, np.float32)


def filled_corpus():
    corpus = Corpus([20.0])
    corpus.add(BIG[:3000])
    return corpus


def native_calls(tok):
    big = tok.encode(BIG)
    corpus = filled_corpus()
    return {
        "encode": lambda: tok.encode(BIG, num_threads=1),
        "decode": lambda: tok.decode(big, num_threads=1),
        "collect": lambda: Corpus([20.0]).add(BIG, num_threads=1),
        "train": lambda: corpus.train(*corpus.range(1.0), 8192, 2, 1024, num_threads=1),
    }


@pytest.mark.parametrize("name", ["encode", "decode", "collect", "train"])
def test_python_runs_on_while_the_core_works(tok, name):
    call = native_calls(tok)[name]
    span = []

    def work():
        span.append(time.perf_counter())
        call()
        span.append(time.perf_counter())

    worker = threading.Thread(target=work)
    worker.start()
    ticks = []
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(2e-4)
    start, end = span
    margin = (end - start) / 10  # the core is certainly at work between the margins
    during = [t for t in ticks if start + margin < t < end - margin]
    assert len(during) >= 2, f"{len(during)} ticks in {end - start:.3f} s: the GIL was held"


# ---- Processes ---------------------------------------------------------------------------------------


def exit_code_of(pid, seconds=30):
    """The exit code of a child, which is killed when it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"still running after {seconds} s"


def forked(check):
    """Runs check() in a forked child; 0 when it returned True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return exit_code_of(pid)


@needs_fork
@fork_is_meant
def test_a_forked_child_encodes_and_decodes_with_threads(tok, encoded, decoded):
    def same():
        batch = tok.encode(CHUNKS, num_threads=4)
        return batch.ids.tobytes() == encoded.ids.tobytes() and tok.decode(batch).tobytes() == decoded.tobytes()

    assert forked(same) == 0


@needs_fork
@fork_is_meant
def test_a_forked_child_fits_with_threads(tok):
    assert forked(lambda: FastTokenizer.fit(CHUNKS, 1024, normalize="quantile", num_threads=4) == tok) == 0


@needs_fork
@fork_is_meant
def test_a_child_forked_while_another_thread_encodes_does_not_hang(tok, encoded, decoded):
    stop = threading.Event()
    rounds = []

    def encode_on():
        while not stop.is_set():
            horizon = 10 + len(rounds) % 40  # new plans all the time
            FastTokenizer.default().encode(CHUNKS[:, :horizon], num_threads=3)
            tok.decode(tok.encode(CHUNKS, num_threads=3), num_threads=3)
            rounds.append(horizon)

    def same():
        return tok.encode(CHUNKS, 3).ids.tobytes() == encoded.ids.tobytes() and tok.decode(encoded).tobytes() == (
            decoded.tobytes()
        )

    busy = threading.Thread(target=encode_on)
    busy.start()
    try:
        codes = [forked(same) for _ in range(25)]
    finally:
        stop.set()
        busy.join()
    assert codes == [0] * 25
    assert rounds, "the other thread never encoded"


@needs_fork
@fork_is_meant
def test_forked_workers_of_a_pool_share_the_work(tok, encoded):
    parts = [CHUNKS[i : i + 60] for i in range(0, 300, 60)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        batches = pool.map_async(tok.encode, [list(p) for p in parts]).get(timeout=30)
    assert [ids.tolist() for b in batches for ids in b] == encoded.to_list()


def test_spawned_workers_get_the_tokenizer_by_pickle(tok, encoded, decoded):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        batch = pool.apply_async(tok.encode, (list(CHUNKS),)).get(timeout=60)
        actions = pool.apply_async(tok.decode, (encoded,)).get(timeout=60)
        fingerprint = pool.apply_async(tok.fingerprint).get(timeout=60)
    assert batch.ids.tobytes() == encoded.ids.tobytes()
    assert batch.offsets.tobytes() == encoded.offsets.tobytes()
    assert actions.tobytes() == decoded.tobytes()
    assert fingerprint == tok.fingerprint()


@needs_fork
@fork_is_meant
def test_an_array_sent_to_a_worker_is_encoded_there(tok, encoded):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        batch = pool.apply_async(tok.encode, (CHUNKS,)).get(timeout=30)
    assert batch.ids.tobytes() == encoded.ids.tobytes()


# ---- Stopping ----------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818  # not an error
    """What the signal handler raises, as Ctrl-C raises KeyboardInterrupt."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_a_signal_stops_the_merging_without_a_progress_callback():
    assert any(stops_half_way() for _ in range(5)), "the signal waited for the last merge five times"


def stops_half_way():
    """Whether a signal early in the merging is heard well before its end, on a machine that may be busy."""

    def train(signal_after=0.0):
        corpus = Corpus([20.0])
        corpus.add(BIG)
        span = corpus.range(1.0)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, signal_after)
        try:
            corpus.train(*span, 16384, 1, 1024, num_threads=1)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Stop:
            pass
        return time.perf_counter() - start

    def handler(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        merging = train()
        return train(signal_after=0.1 * merging) < 0.7 * merging
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("enough")], ids=["KeyboardInterrupt", "ValueError"])
def test_a_progress_callback_stops_the_merging_half_way(error):
    done = []

    def progress(stage, at, of):
        if stage == "merge":
            done.append((at, of))
            raise error

    with pytest.raises(type(error)) as caught:
        FastTokenizer.fit(BIG[:3000], 16384, 20.0, min_frequency=1, num_threads=2, progress=progress)
    assert caught.value is error
    ((at, of),) = done
    assert at < of, "stopped before the last merge, and asked no more"
