"""Fitting without holding the data: read twice, read once, sampled, spilled - and the same result."""

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fast_tokenizer import FastTokenizer, Normalizer, chunk, statistics
from fast_tokenizer.chunk import ChunkSample, chunk_blocks

N, T, D = 400, 20, 3
CHUNKS = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (N, T, D)), axis=1)
RAGGED = [c[: 1 + i % T] for i, c in enumerate(CHUNKS)]
NORMALIZE = [None, "quantile", "min-max", "mean-std", "identity"]


class Reread:
    """An iterable that can be read again, and counts how often it is."""

    def __init__(self, chunks):
        self.chunks, self.reads = chunks, 0

    def __iter__(self):
        self.reads += 1
        buffer = None
        for c in self.chunks:
            buffer = c.copy() if buffer is None or buffer.shape != c.shape else buffer
            buffer[...] = c  # one buffer, filled again and again
            yield buffer


FORMS = {"array": np.asarray, "list": list, "iterator": iter, "re-iterable": Reread}


# ---- Read twice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_chunks", [None, N, 10 * N])
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_the_same_tokenizer(form, normalize, max_chunks, monkeypatch):
    expected = FastTokenizer.fit(CHUNKS, 512, normalize=normalize)
    for values in (1, 7 * T * D, 1 << 22):
        monkeypatch.setattr(chunk, "_BLOCK_VALUES", values)
        tok = FastTokenizer.fit(FORMS[form](CHUNKS), 512, normalize=normalize, max_chunks=max_chunks)
        assert tok == expected
        assert (tok.fit_summary.chunks, tok.fit_summary.chunks_left_out) == (N, 0)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_chunks_of_differing_horizon_too(normalize):
    expected = FastTokenizer.fit(RAGGED, 512, normalize=normalize)
    assert expected.spec.time_horizon is None
    for form in (iter, Reread):
        for max_chunks in (None, N):
            assert FastTokenizer.fit(form(RAGGED), 512, normalize=normalize, max_chunks=max_chunks) == expected


@pytest.mark.parametrize(
    ("normalize", "max_chunks", "reads"), [("quantile", None, 2), (None, None, 1), ("quantile", 9, 1)]
)
def test_it_is_read_as_often_as_need_be(normalize, max_chunks, reads):
    chunks = Reread(CHUNKS)
    FastTokenizer.fit(chunks, 512, normalize=normalize, max_chunks=max_chunks)
    assert chunks.reads == reads


def test_statistics_beyond_the_exact_rows_are_those_of_normalizer_statistics(monkeypatch):
    monkeypatch.setattr(statistics, "EXACT_ROWS", 1000)
    taken = statistics.NormalizerStatistics()
    taken.update(CHUNKS)
    expected = FastTokenizer.fit(CHUNKS, 512, normalize=taken.normalizer(clip=0.9))
    for max_chunks in (None, N):
        assert FastTokenizer.fit(Reread(CHUNKS), 512, normalize="quantile", clip=0.9, max_chunks=max_chunks) == expected
    exact = FastTokenizer.fit(CHUNKS, 512, normalize="quantile", clip=0.9)
    assert exact != expected
    for held in (list(CHUNKS), iter(CHUNKS)):
        assert FastTokenizer.fit(held, 512, normalize="quantile", clip=0.9) == exact


def test_no_more_than_a_block_is_held(monkeypatch):
    monkeypatch.setattr(chunk, "_BLOCK_VALUES", 1 << 15)
    monkeypatch.setattr(statistics, "EXACT_ROWS", 2000)

    class Many:
        def __iter__(self):
            return (np.random.default_rng(i).normal(size=(50, 50, 14)) for i in range(100))

    def peak(chunks):
        tracemalloc.start()
        FastTokenizer.fit(chunks, 1024, normalize="quantile")
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    data = 100 * 50 * 50 * 14 * 8
    assert peak(iter(Many())) > data
    assert peak(Many()) < data / 8


def test_chunks_that_differ_when_read_again_are_refused():
    class Fewer(Reread):
        def __iter__(self):
            self.reads += 1
            return iter(self.chunks[self.reads :])

    class Once(Reread):
        def __iter__(self):
            self.chunks = iter(self.chunks)
            return self.chunks

    class Changing(Reread):
        def __iter__(self):
            self.reads += 1
            return iter(np.asarray(self.chunks) * self.reads)

    with pytest.raises(ValueError, match="hold other values the second time"):
        FastTokenizer.fit(Changing(CHUNKS), 512, normalize="quantile")
    for chunks, first, second in ((Fewer(CHUNKS), N - 1, N - 2), (Once(CHUNKS), N, 0)):
        message = rf"gave {first} chunks the first time but {second} the second; give iter\(chunks\)"
        with pytest.raises(ValueError, match=message):
            FastTokenizer.fit(chunks, 512, normalize="quantile")


@pytest.mark.parametrize("max_chunks", [None, 5])
def test_a_bad_value_is_named_wherever_it_is(max_chunks):
    chunks = CHUNKS.copy()
    chunks[317, 4, 1] = np.nan
    for form in FORMS.values():
        for normalize in (None, "quantile"):
            with pytest.raises(ValueError, match="chunk 317: value at time step 4, dimension 1 is NaN"):
                FastTokenizer.fit(form(chunks), 512, normalize=normalize, max_chunks=max_chunks)


def test_progress_is_told_of_the_passes():
    def stages(chunks, **options):
        told = []
        FastTokenizer.fit(chunks, 800, progress=lambda stage, done, total: told.append(stage), **options)
        return list(dict.fromkeys(told))

    assert stages(Reread(CHUNKS), normalize="quantile") == ["statistics", "quantize", "merge"]
    assert stages(iter(CHUNKS), normalize="quantile", max_chunks=300) == ["sample", "quantize", "merge"]


# ---- Samples -----------------------------------------------------------------------------------------


def numbered(n):
    """Chunks (n, 2, 1) that hold their own number."""
    return np.repeat(np.arange(float(n)), 2).reshape(n, 2, 1)


def sampled(blocks, size, seed=0):
    sample = ChunkSample(size, seed)
    for block in blocks:
        sample.add(block)
    rows = [block.rows[::2, 0] for block in sample.drain()]
    return (np.concatenate(rows) if rows else np.empty(0)), sample


def test_every_chunk_is_as_likely_as_any_other():
    n, size, runs = 40, 7, 4000
    blocks = [*chunk_blocks([*np.array_split(numbered(n), 6)])]
    count = np.zeros(n)
    pairs = np.zeros((n, n))
    for seed in range(runs):
        kept, _ = sampled(blocks, size, seed)
        held = np.zeros(n)
        held[kept.astype(int)] = 1
        count += held
        pairs += np.outer(held, held)
    expected = runs * size / n
    # Counts of a sample without replacement vary less than a multinomial's, by (n - size) / (n - 1).
    chi_square = ((count - expected) ** 2 / expected).sum() * (n - 1) / (n - size)
    assert 16 < chi_square < 73, "39 degrees of freedom: 0.1 % on either side"
    both = pairs[np.triu_indices(n, 1)] / runs
    assert abs(both - size * (size - 1) / (n * (n - 1))).max() < 0.013, "five standard deviations"


@pytest.mark.parametrize("size", [1, 2, 10, 99, 100, 1000])
def test_a_sample_is_of_its_size_in_order_and_the_same_for_any_blocks(size):
    chunks = numbered(100)
    whole, sample = sampled(chunk_blocks(chunks), size)
    assert len(whole) == min(size, 100)
    assert (np.diff(whole) > 0).all()
    assert (sample.seen, sample.left_out) == (100, max(0, 100 - size))
    for parts in (1, 3, 100):
        pieces = np.array_split(chunks, parts)
        again, _ = sampled([b for p in pieces for b in chunk_blocks(p)], size)
        assert again.tolist() == whole.tolist()


def test_seeds_differ():
    assert (
        sampled(chunk_blocks(numbered(100)), 10, 0)[0].tolist()
        != sampled(chunk_blocks(numbered(100)), 10, 1)[0].tolist()
    )


def test_no_more_is_held_than_said_and_nothing_of_the_blocks():
    sample = ChunkSample(100)
    for i in range(200):
        block = next(chunk_blocks(numbered(30) + 30 * i))
        sample.add(block)
        assert sum(len(keys) for keys, _ in sample._parts) <= 150
        assert not any(np.shares_memory(b.values, block.values) for _, b in sample._parts)
    assert sum(len(b) for b in sample.drain()) == 100


@pytest.mark.parametrize("form", ["array", "list", "re-iterable"])
def test_a_share_is_a_sample_of_that_size(form):
    options = {"vocab_size": 512, "normalize": "quantile"}
    for share, count in ((0.25, 100), (0.001, 1), (1.0, N)):
        tok = FastTokenizer.fit(FORMS[form](CHUNKS), sample_fraction=share, **options)
        assert (tok.fit_summary.chunks, tok.fit_summary.chunks_left_out) == (count, N - count)
        assert tok == FastTokenizer.fit(CHUNKS, max_chunks=count, **options)
    assert tok == FastTokenizer.fit(CHUNKS, **options)


def test_the_seed_decides_the_sample():
    first, again, other = (FastTokenizer.fit(CHUNKS, 512, sample_fraction=0.25, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_fraction": 0.0}, r"^sample_fraction must lie in \(0, 1\], got 0.0$"),
        ({"sample_fraction": 1.1}, r"^sample_fraction must lie in \(0, 1\], got 1.1$"),
        ({"sample_fraction": float("nan")}, r"^sample_fraction must lie in \(0, 1\], got nan$"),
        ({"sample_fraction": 0.5, "max_chunks": 3}, "^give max_chunks or sample_fraction, not both$"),
        ({"seed": -1}, "^seed must be at least 0, got -1$"),
    ],
)
def test_bad_samples_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FastTokenizer.fit(CHUNKS, 512, **options)


def test_a_share_of_an_iterator_is_not_known():
    with pytest.raises(ValueError, match="sample_fraction needs chunks that can be counted first; give max_chunks"):
        FastTokenizer.fit(iter(CHUNKS), 512, sample_fraction=0.5)


def test_chunks_of_differing_horizon_are_sampled_whole():
    sample = ChunkSample(50)
    for i in range(0, N, 16):
        for block in chunk_blocks(RAGGED[i : i + 16]):
            sample.add(block)
    originals = {c.tobytes() for c in RAGGED}
    kept = [
        rows
        for block in sample.drain()
        for rows in (block.values if block.row_offsets is None else np.split(block.values, block.row_offsets[1:-1]))
    ]
    assert len(kept) == 50
    assert {c.tobytes() for c in kept} <= originals
    assert len({len(c) for c in kept}) > 10


@pytest.mark.parametrize("chunks", [CHUNKS, RAGGED], ids=["one horizon", "ragged"])
def test_statistics_are_of_all_chunks_and_the_rest_of_the_sample(chunks):
    rows = np.concatenate(list(chunks))
    prints = set()
    for form in (list, iter, Reread):
        tok = FastTokenizer.fit(form(chunks), 512, normalize="quantile", max_chunks=60)
        summary = tok.fit_summary
        assert (summary.chunks, summary.chunks_left_out) == (60, N - 60)
        assert summary.coefficients < rows.size
        assert tok.spec.normalizer.center.tolist() == Normalizer.fit(rows).center.tolist()
        prints.add(tok.fingerprint())
    assert len(prints) == 1


# ---- What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_chunks": 0}, "max_chunks must be at least 1, got 0"),
        ({"max_chunks": 2.5}, "max_chunks must be an integer, got 2.5"),
        ({"memory_budget": -1}, "memory_budget must be at least 0 bytes, got -1"),
        ({"memory_budget": "2GiB"}, "memory_budget must be an integer, got '2GiB'"),
        ({"spill_directory": "/"}, "spill_directory goes with memory_budget"),
        ({"memory_budget": 1, "spill_directory": "/nowhere"}, "cannot write in /nowhere: No such file or directory"),
        ({"normalize": "z-score"}, "normalizer kind must be one of"),
        ({"normalize": "quantile", "clip": -1.0}, "clip must be positive and finite"),
    ],
)
def test_bad_options_are_refused_before_any_chunk_is_read(options, message):
    def unread():
        raise AssertionError("was read")
        yield

    with pytest.raises(ValueError, match=message):
        FastTokenizer.fit(unread(), **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"normalize": "quantile"}, {"max_chunks": 5}])
def test_no_chunks_are_refused(form, options):
    with pytest.raises(ValueError, match=r"^got no chunks to fit on$"):
        FastTokenizer.fit(FORMS[form](CHUNKS[:0]), **options)


# ---- Spilled -----------------------------------------------------------------------------------------

ROUGH = np.random.default_rng(0).laplace(0, 0.3, (4000, T, D))


@pytest.mark.parametrize("normalize", [None, "quantile"])
@pytest.mark.parametrize("form", FORMS)
def test_a_memory_budget_changes_nothing_but_where_the_corpus_is(form, normalize, tmp_path):
    expected = FastTokenizer.fit(ROUGH, 1024, normalize=normalize)
    assert expected.fit_summary.spilled_bytes == 0
    for budget in (1, 100_000, 1 << 40):
        tok = FastTokenizer.fit(
            *(FORMS[form](ROUGH), 1024), normalize=normalize, memory_budget=budget, spill_directory=tmp_path
        )
        assert tok == expected
        assert (tok.fit_summary.spilled_bytes > 0) == (budget < 1 << 40)
        assert not list(tmp_path.iterdir())


def test_the_system_s_folder_takes_what_no_other_is_named_for():
    assert FastTokenizer.fit(ROUGH, 1024, memory_budget=0).fit_summary.spilled_bytes > 0


def test_a_spill_directory_that_cannot_take_more_is_an_os_error(tmp_path):
    resource = pytest.importorskip("resource")
    code = "import sys; from tests.test_streaming import fit_spilling; fit_spilling(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"memory budget.*{re.escape(str(tmp_path))}.*: File too large", done.stdout)


def fit_spilling(folder):
    """For a process of its own: prints the error."""
    try:
        FastTokenizer.fit(ROUGH, 1024, memory_budget=1, spill_directory=folder)
    except OSError as error:
        print(error)
