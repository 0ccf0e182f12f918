"""Training in pieces: shards in other processes, memory above its budget, and what is left behind when it fails."""

import multiprocessing
import resource
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_tokenizer import FastTokenizer, TokenizerSpec, _reference
from fast_tokenizer._core import MAX_COEFFICIENT, Corpus, CorpusShards, MergeDriver, fitted_range
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories

SCALE, VOCAB_SIZE, MIN_FREQUENCY, MAX_TOKEN_SYMBOLS = 10.0, 512, 2, 1024
LIMITS = (VOCAB_SIZE, MIN_FREQUENCY, MAX_TOKEN_SYMBOLS)


def make_chunks(count=300):
    trajectories = generate_trajectories(ROBOTS["aloha"], -(-count // 20), seed=3, seconds=(20.0, 20.0))
    return np.concatenate([t[: 20 * 50].reshape(20, 50, -1) for t in trajectories]).astype(np.float32)[:count]


CHUNKS = make_chunks()


def filled(chunks, **options):
    corpus = Corpus([SCALE], **options)
    for block in np.array_split(chunks, 3):
        corpus.add(block)
    return corpus


def merges_of(shards, alphabet_size, most=1, sizes=None):
    """What the driver and these shards learn. A shard may be CorpusShards or whatever stands for them."""
    driver = MergeDriver(alphabet_size, *LIMITS)
    for shard in shards:
        driver.add_counts(*shard.count_pairs())
    while len(merges := driver.next(most)):
        first = alphabet_size + len(driver.merges) - len(merges)
        for shard in shards:
            driver.add_effects(*shard.apply(merges, first))
        if sizes is not None:
            sizes.append(len(merges))
    return driver.merges


CODINGS = {
    "plain": {"end_of_block": None, "levels_beyond": 0},
    "ends and levels": {"end_of_block": "chunk", "levels_beyond": 4},
}


@pytest.fixture(scope="module", params=CODINGS)
def fitted(request):
    coding = CODINGS[request.param]
    return FastTokenizer.fit(CHUNKS, VOCAB_SIZE, scale=SCALE, min_frequency=MIN_FREQUENCY, **coding).spec


# ---- One process -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.02, 0.3, 3.0]),
    reach=st.integers(0, 6),
    shards=st.sampled_from([1, 2, 7]),
    budget=st.sampled_from([None, 0, 700_000]),
    end_of_block=st.sampled_from([None, "chunk"]),
    levels=st.sampled_from([0, 1, 3]),
    most=st.sampled_from([1, 2, 16]),
    threads=st.sampled_from([1, 3]),
)
def test_shards_and_a_driver_train_as_the_reference(
    seed, spread, reach, shards, budget, end_of_block, levels, most, threads
):
    """The range is often narrower than the coefficients, so that neighbours become equal."""
    rng = np.random.default_rng(seed)
    chunks = np.cumsum(rng.laplace(0, spread, (9, 16, 3)), axis=1)
    share = [Corpus([SCALE], memory_budget=budget, end_of_block=end_of_block) for _ in range(shards)]
    for i, chunk in enumerate(chunks):
        share[i % shards].add(chunk[None])
    coding = {"end_of_block": end_of_block, "levels_beyond": levels}
    spec = TokenizerSpec(SCALE, -reach, reach, np.empty((0, 2)), **coding)
    alphabet = spec.alphabet_size
    coefficients = [_reference.quantized_coefficients(chunk, spec)[0].reshape(-1) for chunk in chunks]
    symbols = [_reference.arrange(_reference.quantize(chunk, spec).symbols, spec) for chunk in chunks]
    expected = _reference.train_bpe(symbols, alphabet, min(VOCAB_SIZE, alphabet + 40), MIN_FREQUENCY, MAX_TOKEN_SYMBOLS)
    merges = merges_of([c.into_shards(-reach, reach, threads, levels_beyond=levels) for c in share], alphabet, most)
    assert [tuple(m) for m in merges.tolist()][: len(expected)] == expected
    values, counts = (np.concatenate(x) for x in zip(*(c.histogram() for c in [filled(chunks)]), strict=True))
    all_values, all_counts = np.unique(np.concatenate(coefficients), return_counts=True)
    assert values.tolist() == all_values.tolist()
    assert counts.tolist() == all_counts.tolist()


def test_a_run_longer_than_any_count_of_it():
    """In one chunk of 70,001 equal coefficients, every merge doubles the token until the cap."""
    chunk = np.full((1, 1, 70_001), 0.3)
    corpus = Corpus([SCALE])
    corpus.add(chunk)
    assert [x.tolist() for x in corpus.histogram()] == [[3], [70_001]]
    merges = corpus.train(0, 3, 4 + 20, 1, MAX_TOKEN_SYMBOLS)
    assert merges[:10].tolist() == [[3, 3], *([4 + i, 4 + i] for i in range(9))]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_do_not_matter(fitted, num_threads):
    coding = {"end_of_block": fitted.end_of_block, "levels_beyond": fitted.levels_beyond}
    spec = FastTokenizer.fit(CHUNKS, VOCAB_SIZE, scale=SCALE, num_threads=num_threads, **coding).spec
    assert spec.merges.tobytes() == fitted.merges.tobytes()


def test_a_corpus_is_as_it_was_after_a_chunk_is_refused(fitted):
    corpus = filled(CHUNKS, end_of_block=fitted.end_of_block)
    before = [x.tolist() for x in corpus.histogram()]
    bad = CHUNKS.copy()
    bad[250, 3, 1] = np.nan
    with pytest.raises(ValueError, match="chunk 250: value at time step 3, dimension 1 is NaN"):
        corpus.add(bad)
    assert corpus.chunks == len(CHUNKS)
    assert [x.tolist() for x in corpus.histogram()] == before
    span = fitted.min_coefficient, fitted.max_coefficient
    merges = corpus.train(*span, *LIMITS, levels_beyond=fitted.levels_beyond)
    assert merges.tobytes() == fitted.merges.tobytes()


def test_what_cannot_be_is_refused():
    corpus = filled(CHUNKS)
    for lowest, highest in [(3, 2), (-MAX_COEFFICIENT - 1, 0), (-MAX_COEFFICIENT, MAX_COEFFICIENT)]:
        with pytest.raises(ValueError, match="no alphabet has the coefficients"):
            corpus.into_shards(lowest, highest)
    shard = corpus.into_shards(-5, 5)
    with pytest.raises(ValueError, match="used up"):
        corpus.histogram()
    with pytest.raises(ValueError, match=r"expected one into 11, got \(0, 1\) into 12"):
        shard.apply(np.array([[0, 1]], np.uint16), 12)
    driver = MergeDriver(11, *LIMITS)
    with pytest.raises(ValueError, match="id 11 does not exist"):
        driver.add_counts(np.array([[0, 11]], np.uint16), np.array([5]))
    with pytest.raises(ValueError, match="shape"):
        driver.add_counts(np.array([[0, 1]], np.uint16), np.array([5, 6]))
    with pytest.raises(ValueError, match="smaller than the alphabet"):
        MergeDriver(11, 10, 2, 8)
    driver.add_counts(np.array([[0, 1]], np.uint16), np.array([5]))
    assert driver.next().tolist() == [[0, 1]]
    ids, counts = np.array([3, 12], np.uint16), np.array([1, 1])
    for entries, message in [
        ([[1, 0]], "as many entries as ids"),
        ([[1, -1]], "as many entries as ids"),
        ([[3, 0]], "as many entries as ids"),
        ([[1, 1]], "id 12 does not exist: there are 12"),
        ([[0, 0], [1, 1]], "there is no pick 1: there are 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            driver.add_effects(np.array(entries), ids, counts)


# ---- Merges that are certain before one is made ------------------------------------------------------


@settings(max_examples=300)
@given(
    sequences=st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=60), min_size=1, max_size=8),
    most=st.integers(2, 20),
    min_frequency=st.sampled_from([1, 2]),
    max_token_symbols=st.sampled_from([2, 3, 5, 64]),
)
def test_several_merges_at_a_time_are_those_of_one_at_a_time(sequences, most, min_frequency, max_token_symbols):
    """Of five symbols, so that ties, runs, and pairs that share a token are everywhere."""
    found = []
    for at_a_time in (1, most):
        corpus = Corpus([1.0])
        for sequence in sequences:
            corpus.add_words(*words_of(sequence))
        shards = corpus.into_shards(-2, 2)
        driver = MergeDriver(5, 60, min_frequency, max_token_symbols)
        driver.add_counts(*shards.count_pairs())
        while len(merges := driver.next(at_a_time)):
            driver.add_effects(*shards.apply(merges, 5 + len(driver.merges) - len(merges)))
        found.append(driver.merges.tolist())
    assert found[0] == found[1]
    symbols = [[s + 2 for s in sequence] for sequence in sequences]
    assert [tuple(m) for m in found[0]] == _reference.train_bpe(symbols, 5, 60, min_frequency, max_token_symbols)


def words_of(sequence):
    """The words and counts of one chunk of these coefficients."""
    words, values = [], np.array(sequence) + MAX_COEFFICIENT
    for run in np.split(values, 1 + np.flatnonzero(np.diff(values))):
        words += [int(run[0]), *([0x8000 + len(run) - 1] if len(run) > 1 else [])]
    return np.array([*words, 0x7FFF], np.uint16), 1, len(sequence), 0, 0


def test_no_merges_at_a_time_are_none():
    """Nor is any pair offered twice for it."""
    driver = MergeDriver(4, 9, 1, 8)
    driver.add_counts(np.array([[0, 1], [2, 3]], np.uint16), np.array([5, 4]))
    assert [driver.next(most).tolist() for most in (0, 0, 16)] == [[], [], [[0, 1], [2, 3]]]


def test_several_merges_at_a_time_are_several(fitted):
    sizes = []
    corpus = filled(CHUNKS, end_of_block=fitted.end_of_block)
    span = fitted.min_coefficient, fitted.max_coefficient
    shards = [corpus.into_shards(*span, levels_beyond=fitted.levels_beyond)]
    merges = merges_of(shards, fitted.alphabet_size, 16, sizes)
    assert merges.tobytes() == fitted.merges.tobytes()
    assert sum(sizes) == len(merges)
    assert np.mean(sizes) > 1.5


# ---- What goes from one process to another -----------------------------------------------------------


@pytest.mark.parametrize("end_of_block", [None, "chunk"])
def test_a_corpus_goes_in_pieces(end_of_block):
    whole = filled(CHUNKS, end_of_block=end_of_block)
    merged = Corpus([1.0], end_of_block=end_of_block)
    for block in np.array_split(CHUNKS, 4):
        part = filled(block, end_of_block=end_of_block)
        merged.add_words(part.words(), part.chunks, part.symbols, part.clipped, part.saturated)
    for name in ("chunks", "symbols", "clipped", "saturated"):
        assert getattr(merged, name) == getattr(whole, name)
    assert [x.tolist() for x in merged.histogram()] == [x.tolist() for x in whole.histogram()]
    for quantile in (1.0, 0.999):
        assert fitted_range(*merged.histogram(), quantile, end_of_block is not None) == whole.range(quantile)
    span = whole.range(1.0)
    assert merged.train(*span, *LIMITS).tobytes() == whole.train(*span, *LIMITS).tobytes()


ZERO = MAX_COEFFICIENT
END_OF_BLOCK = 2 * MAX_COEFFICIENT + 1
END = 0x7FFF


@pytest.mark.parametrize(
    ("words", "counts", "message"),
    [
        ([0x8001, END], (1, 1, 0, 0), "a repeat of nothing"),
        ([ZERO, 0x8000, END], (1, 1, 0, 0), "a repeat of nothing"),
        ([ZERO, END, 0x8001, END], (2, 2, 0, 0), "a repeat of nothing"),
        ([END_OF_BLOCK, END], (1, 1, 0, 0), "a value that no coefficient has"),
        ([END_OF_BLOCK + 1, END], (1, 1, 0, 0), "a value that no coefficient has"),
        ([ZERO, ZERO, END], (1, 2, 0, 0), "a run in two pieces"),
        ([ZERO], (1, 1, 0, 0), "a chunk without an end"),
        ([ZERO, END], (2, 1, 0, 0), "another number of chunks"),
        ([ZERO, 0x8002, END], (1, 2, 0, 0), "another number of symbols"),
        ([ZERO, END], (1, 2, 0, 0), "another number of symbols"),
        ([ZERO, END], (1, 1, -1, 0), "nothing below 0"),
        ([END], (1, 0, 0, 0), "a chunk without a value"),
        ([ZERO, END], (1, 1, 2**62, 0), "more than can be counted"),
    ],
)
def test_words_that_no_corpus_has_are_refused(words, counts, message):
    corpus = filled(CHUNKS)
    before = corpus.words().tobytes()
    with pytest.raises(ValueError, match=message):
        corpus.add_words(np.array([*words_of([1, 2])[0], *words], np.uint16), counts[0] + 1, counts[1] + 2, *counts[2:])
    assert corpus.words().tobytes() == before
    assert corpus.chunks == len(CHUNKS)


def test_an_end_of_a_block_may_stand_for_zeros():
    corpus = Corpus([1.0], end_of_block="chunk")
    for words in ([END_OF_BLOCK, ZERO, END], [END_OF_BLOCK, 0x8001, END]):
        with pytest.raises(ValueError, match="a value after the end of a chunk"):
            corpus.add_words(np.array(words, np.uint16), 1, 10, 0, 0)
    corpus.add_words(np.array([ZERO + 1, END_OF_BLOCK, END], np.uint16), 1, 10, 0, 0)
    assert [x.tolist() for x in corpus.histogram()] == [[0, 1], [9, 1]]


# ---- Several processes -------------------------------------------------------------------------------


def serve_shard(pipe, chunks, end_of_block, budget, directory):
    """A worker: fills its corpus, says what it holds, then answers as CorpusShards would."""
    corpus = filled(chunks, end_of_block=end_of_block, memory_budget=budget, spill_directory=directory)
    pipe.send(corpus.histogram())
    lowest, highest, levels_beyond = pipe.recv()
    shard: CorpusShards = corpus.into_shards(lowest, highest, levels_beyond=levels_beyond)
    while (call := pipe.recv()) is not None:
        method, *arguments = call
        pipe.send(getattr(shard, method)(*arguments))


class RemoteShard:
    def __init__(self, *what_it_serves):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_shard, args=(theirs, *what_it_serves), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pipe.send(None)
        self.process.join(60)
        assert self.process.exitcode == 0

    def count_pairs(self):
        self.pipe.send(("count_pairs",))
        return self.pipe.recv()

    def apply(self, merges, first):
        self.pipe.send(("apply", merges, first))
        return self.pipe.recv()


@pytest.mark.parametrize(
    ("fitted", "count", "budget"),
    [("ends and levels", 1, None), ("plain", 2, 0), ("ends and levels", 2, 0), ("plain", 7, None)],
    indirect=["fitted"],
)
def test_shards_in_processes_of_their_own_learn_the_same(fitted, tmp_path, count, budget):
    with ExitStack() as stack:
        shares = [CHUNKS[i::count] for i in range(count)]
        options = fitted.end_of_block, budget, str(tmp_path)
        shards = [stack.enter_context(RemoteShard(share, *options)) for share in shares]
        values = np.concatenate([shard.pipe.recv()[0] for shard in shards])
        span = min(0, int(values.min())), max(0, int(values.max()))
        assert span == (fitted.min_coefficient, fitted.max_coefficient)
        for shard in shards:
            shard.pipe.send((*span, fitted.levels_beyond))
        merges = merges_of(shards, fitted.alphabet_size)
        assert [*tmp_path.iterdir()] == []
    assert merges.tobytes() == fitted.merges.tobytes()


# ---- Memory above its budget -------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 300_000, 700_000, 2**62])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_a_budget_changes_where_memory_lies_and_nothing_else(fitted, tmp_path, budget, num_threads):
    where = {"memory_budget": budget, "spill_directory": str(tmp_path)}
    corpus = Corpus([SCALE], end_of_block=fitted.end_of_block, **where)
    for block in np.array_split(CHUNKS, 3):
        corpus.add(block, num_threads=num_threads)
    span = fitted.min_coefficient, fitted.max_coefficient
    merges = corpus.train(*span, *LIMITS, num_threads=num_threads, levels_beyond=fitted.levels_beyond)
    assert merges.tobytes() == fitted.merges.tobytes()
    assert (corpus.spilled_bytes > 0) == (budget < 2**60)
    assert [*tmp_path.iterdir()] == []


def test_without_a_budget_nothing_goes_to_files():
    corpus = filled(CHUNKS)
    corpus.train(*corpus.range(1.0), *LIMITS)
    assert corpus.spilled_bytes == 0


def test_a_budget_below_0_is_refused():
    with pytest.raises(TypeError):
        Corpus([SCALE], memory_budget=-1)


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path):
    corpus = Corpus([SCALE], memory_budget=0, spill_directory=str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=r"bytes beyond its memory budget, and no file in .*missing can"):
        corpus.add(CHUNKS)
    assert corpus.chunks == 0


def test_nothing_is_left_behind_by_an_exception(tmp_path):
    corpus = filled(CHUNKS, memory_budget=0, spill_directory=str(tmp_path))

    def stop(done, total):
        raise KeyError(done, total)

    with pytest.raises(KeyError):
        corpus.train(*corpus.range(1.0), corpus.range(1.0)[1] - corpus.range(1.0)[0] + 2, 2, 1024, progress=stop)
    assert [*tmp_path.iterdir()] == []


def run_python(code, *arguments, **options):
    program = "import sys, numpy as np\nfrom fast_tokenizer._core import Corpus\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], text=True, **options)


def test_nothing_is_left_behind_by_a_kill(tmp_path):
    code = """
        corpus = Corpus([10.0], memory_budget=0, spill_directory=sys.argv[1])
        corpus.add(np.cumsum(np.random.default_rng(0).laplace(0, 0.3, (2000, 50, 14)), axis=1))
        merged = lambda done, total: print("merged", flush=True)
        corpus.train(-2000, 2000, 16384, 1, 1024, progress=merged)
    """
    with run_python(code, tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "merged\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_is_one_clear_error(tmp_path):
    code = """
        corpus = Corpus([10.0], memory_budget=0, spill_directory=sys.argv[1])
        try:
            corpus.add(np.random.default_rng(0).laplace(0, 1, (100, 50, 14)))
        except OSError as e:
            print(e.errno, e.strerror)
    """
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    with run_python(code, tmp_path, stdout=subprocess.PIPE, preexec_fn=limit) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    number, message = out.strip().split(" ", 1)
    assert int(number) == 27, "EFBIG"
    assert message.startswith("training needs 4194304 bytes beyond its memory budget, and no file in ")
    assert message.endswith(f" {tmp_path} can take them: File too large")
    assert [*tmp_path.iterdir()] == []
