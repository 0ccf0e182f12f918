"""BPE on integers: trainer and encoder against Hugging Face's `tokenizers` and against the reference."""

import json
from itertools import chain

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers

from fast_tokenizer import _reference
from fast_tokenizer._core import MAX_TOKEN_SYMBOLS, MAX_VOCAB_SIZE, Codec, Corpus, train_bpe

FIRST_CHARACTER = 0x4E00  # one CJK character per symbol: 20,992 in a row, all of one script


# ---- Three of the same -------------------------------------------------------------------------------


def native_merges(sequences, alphabet_size, vocab_size, min_frequency=2, **options):
    symbols = np.array([*chain.from_iterable(sequences)], np.uint16)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    merges = train_bpe(symbols, offsets, alphabet_size, vocab_size, min_frequency, **options)
    return [tuple(pair) for pair in merges.tolist()]


def text(symbols):
    return "".join(chr(FIRST_CHARACTER + s) for s in symbols)


def oracle_tokenizer(sequences, alphabet_size, vocab_size, min_frequency=2):
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=[chr(FIRST_CHARACTER + s) for s in range(alphabet_size)],
        limit_alphabet=alphabet_size,
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(text, sequences), trainer)
    return tokenizer


def oracle_merges(sequences, alphabet_size, vocab_size, min_frequency=2):
    """The merges that `tokenizers` learns, as ids, which are ours: symbols first, then in the order of merging."""
    model = json.loads(oracle_tokenizer(sequences, alphabet_size, vocab_size, min_frequency).to_str())["model"]
    ids = model["vocab"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    merges = [(ids[left], ids[right]) for left, right in pairs]
    assert [ids[left + right] for left, right in pairs] == [alphabet_size + i for i in range(len(merges))]
    assert all(ids[chr(FIRST_CHARACTER + s)] == s for s in range(alphabet_size))
    return merges


def oracle_of_merges(merges, alphabet_size):
    """A `tokenizers` encoder with given merges."""
    tokens = [text(symbols) for symbols in _reference.expansions(merges, alphabet_size)]
    assert len(set(tokens)) == len(tokens)
    vocab = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(models.BPE(vocab, [(tokens[left], tokens[right]) for left, right in merges]))


def native_codec(merges, alphabet_size, zero_symbol=0):
    """`zero_symbol` is the one whose runs the encoder jumps over."""
    table = np.array(merges, np.int64).reshape(-1, 2)
    return Codec([1.0], -zero_symbol, alphabet_size - 1 - zero_symbol, table)


def native_encode(codec, symbols):
    return codec.encode_symbols(np.array(symbols, np.uint16)).tolist()


# ---- Streams -----------------------------------------------------------------------------------------


def near_zero(rng, alphabet_size, n):
    """Quantized coefficients look so: mostly one symbol in the middle, falling off on both sides."""
    spread = rng.laplace(0, 0.05 + alphabet_size / 60, n)
    return np.clip(np.rint(spread + alphabet_size // 2), 0, alphabet_size - 1)


def periodic(rng, alphabet_size, n):
    pattern = rng.integers(0, alphabet_size, rng.integers(1, 12))
    return np.resize(pattern, n)


def runs(rng, alphabet_size, n):
    lengths = rng.integers(1, 9, n)
    return np.repeat(rng.integers(0, min(alphabet_size, 4), n), lengths)[:n]


def in_pieces(rng, alphabet_size, n):
    """Words of a small lexicon, one after the other."""
    words = [rng.integers(0, alphabet_size, rng.integers(2, 7)) for _ in range(8)]
    return np.concatenate([words[i] for i in rng.zipf(1.5, n // 2 + 1) % 8])[:n]


STREAMS = {
    "random": lambda rng, A, n: rng.integers(0, A, n),
    "constant": lambda rng, A, n: np.full(n, rng.integers(0, A)),
    "periodic": periodic,
    "near zero": near_zero,
    "runs": runs,
    "words": in_pieces,
    "ascending": lambda rng, A, n: np.arange(n) % A,  # all pairs of equal count: ties from end to end
    "mixed": lambda rng, A, n: np.concatenate([s(rng, A, n // 4 + 1) for s in (near_zero, runs, periodic)])[:n],
}


def make_sequences(kind, alphabet_size, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [STREAMS[kind](rng, alphabet_size, n).astype(int).tolist() if n else [] for n in lengths]


def symbols_of_recorded(recorded_chunks, name, horizon, count, scale=10.0):
    """Quantized chunks of a recorded set, per dimension to [-1, 1] first, as sequences; and the alphabet's size."""
    chunks = recorded_chunks(name, horizon, count).astype(np.float64)
    low, high = np.quantile(chunks, (0.01, 0.99), axis=(0, 1))
    center, half_range = (low + high) / 2, np.where(high > low, (high - low) / 2, 1)
    chunks = (chunks - center) / half_range
    corpus = Corpus([scale])
    corpus.add(chunks)
    lowest, highest = corpus.range(0.9999)
    ids, offsets, *_ = Codec([scale], lowest, highest, np.empty((0, 2), np.int64)).encode(chunks)
    return [s.tolist() for s in np.split(ids, offsets[1:-1])], highest - lowest + 1


RECORDED = [
    "adroit_door_vr",
    "g1_inspire_pick",
    "g1_moves",
    "handheld_tumvi",
    "omniglot_pen",
    "robosuite_handover_bimanual",
    "robosuite_panda_osc",
    "robosuite_sawyer_spacemouse",
]
every_recorded_set = pytest.mark.parametrize("name", RECORDED)


@st.composite
def corpora(draw, longest=300, most=6, largest_alphabet=300):
    """Sequences, the alphabet's size, and a vocabulary's: written out where short, so that failures shrink."""
    alphabet_size = draw(st.integers(1, 6) | st.integers(1, largest_alphabet))
    if draw(st.booleans()):
        symbol = st.integers(0, alphabet_size - 1)
        sequences = draw(st.lists(st.lists(symbol, max_size=30), max_size=most))
    else:
        lengths = draw(st.lists(st.integers(0, longest), max_size=most))
        sequences = make_sequences(draw(st.sampled_from([*STREAMS])), alphabet_size, lengths, draw(st.integers(0, 999)))
    return sequences, alphabet_size, draw(st.integers(alphabet_size, max(600, alphabet_size)))


# ---- The reference itself ----------------------------------------------------------------------------


@settings(max_examples=100)
@given(corpus=corpora(longest=120), min_frequency=st.integers(0, 3))
def test_reference_trains_as_tokenizers(corpus, min_frequency):
    sequences, alphabet_size, vocab_size = corpus
    vocab_size = min(vocab_size, alphabet_size + 60)
    expected = oracle_merges(sequences, alphabet_size, vocab_size, min_frequency)
    assert _reference.train_bpe(sequences, alphabet_size, vocab_size, min_frequency) == expected


def test_reference_by_hand():
    train = _reference.train_bpe
    assert train([[0, 0, 0]], 1, 9, 2) == [(0, 0)]  # (0, 0) stands twice in 0 0 0
    assert train([[0, 0, 0]], 1, 9, 3) == []
    assert train([[0, 0, 0]], 1, 9, 1) == [(0, 0), (1, 0)]
    assert train([[1, 2, 1, 2], [0, 3, 0, 3]], 4, 5, 2) == [(0, 3)]  # a tie: the smallest pair
    assert train([[0], [1], [0], [1]], 2, 9, 1) == []  # nothing across sequences
    assert train([[0, 1] * 4], 2, 9, 2, max_token_symbols=3) == [(0, 1)]


# ---- Training ----------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(corpus=corpora(), min_frequency=st.integers(0, 3))
@example(corpus=([], 1, 1), min_frequency=0)
@example(corpus=([[]], 1, 600), min_frequency=0)
@example(corpus=([[0], [0], []], 1, 600), min_frequency=0)
@example(corpus=([[0] * 9], 1, 600), min_frequency=0)
@example(corpus=([[299] * 2, [299] * 2], 300, 301), min_frequency=2)
def test_trains_as_tokenizers(corpus, min_frequency):
    sequences, alphabet_size, vocab_size = corpus
    expected = oracle_merges(sequences, alphabet_size, vocab_size, min_frequency)
    assert native_merges(sequences, alphabet_size, vocab_size, min_frequency) == expected


@settings(max_examples=200)
@given(corpus=corpora(longest=120), min_frequency=st.integers(0, 3), cap=st.integers(1, 12))
def test_trains_as_the_reference_with_a_cap_on_the_expansion(corpus, min_frequency, cap):
    sequences, alphabet_size, vocab_size = corpus
    vocab_size = min(vocab_size, alphabet_size + 60)
    expected = _reference.train_bpe(sequences, alphabet_size, vocab_size, min_frequency, cap)
    merges = native_merges(sequences, alphabet_size, vocab_size, min_frequency, max_token_symbols=cap)
    assert merges == expected
    assert max(map(len, _reference.expansions(merges, alphabet_size))) <= cap


@settings(max_examples=100)
@given(data=st.data(), min_frequency=st.integers(0, 3))
def test_engineered_ties(data, min_frequency):
    """Many pairs of exactly equal count, in shuffled order, some of which merging destroys."""
    alphabet_size = data.draw(st.integers(2, 40))
    pair = st.tuples(st.integers(0, alphabet_size - 1), st.integers(0, alphabet_size - 1))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=40, unique=True))
    repeats = data.draw(st.integers(1, 4))
    glue = data.draw(st.integers(1, 5))
    words = data.draw(st.permutations(pairs * repeats))
    sequences = [[*chain.from_iterable(words[i : i + glue])] for i in range(0, len(words), glue)]
    expected = oracle_merges(sequences, alphabet_size, alphabet_size + 80, min_frequency)
    assert native_merges(sequences, alphabet_size, alphabet_size + 80, min_frequency) == expected


@pytest.mark.parametrize("first", [(0, 9), (9, 0), (5, 5), (3, 4), (4, 3)])
def test_of_equal_counts_the_smallest_pair_is_first(first):
    larger = sorted(p for p in [(9, 9), (9, 8), (8, 9), (7, 7)] if p > first)
    sequences = [[*p] for p in [*larger, first]] * 3
    assert native_merges(sequences, 10, 11) == [first]
    assert native_merges(sequences[::-1], 10, 11 + len(larger)) == [first, *larger]


@settings(max_examples=100)
@given(
    corpus=corpora(),
    min_frequency=st.integers(0, 3),
    shards=st.sampled_from([1, 2, 7]),
    num_threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 99),
)
def test_shards_threads_and_order_do_not_matter(corpus, min_frequency, shards, num_threads, seed):
    sequences, alphabet_size, vocab_size = corpus
    expected = native_merges(sequences, alphabet_size, vocab_size, min_frequency, shards=1, num_threads=1)
    shuffled = [sequences[i] for i in np.random.default_rng(seed).permutation(len(sequences))]
    options = {"shards": shards, "num_threads": num_threads}
    assert native_merges(shuffled, alphabet_size, vocab_size, min_frequency, **options) == expected


# No token may grow beyond the core's limit of 16,384 symbols, which `tokenizers` does not have: hence the lengths.
# The trainer starts with passes over the stream, and goes to an index of places once the best pair has fewer than a
# 24th of the tokens left. So: streams that begin with the index, that switch early, late, and never.
LONG = {
    "indexed from the start": ("random", 300, [10_000] * 6, 600),
    "switch after some merges": ("near zero", 60, [700] * 150, 400),
    "switch amid runs": ("runs", 4, [5_000] * 12, 300),
    "words": ("words", 50, [2_500] * 30, 600),
    "passes to the end": ("constant", 1, [16_384] * 4, 600),
    "passes, few sequences": ("periodic", 9, [15_000] * 4, 30),
    "one sequence": ("mixed", 120, [60_000], 600),
    "all ties": ("ascending", 251, [13_000] * 4, 600),
    "many short sequences": ("near zero", 21, [16] * 4_000, 512),
}


def places_and_tokens(sequences, alphabet_size, merges):
    """For each merge, how often its pair stands and how many tokens (and ends) are left before it: small corpora."""
    for i, pair in enumerate(merges):
        counts = _reference.count_pairs(sequences)
        yield counts[pair], sum(len(s) + 1 for s in sequences)
        sequences = [_reference.replace_pair(s, pair, alphabet_size + i) for s in sequences]


@pytest.mark.parametrize(("stream", "least", "most"), [("near zero", 2, 59), ("runs", 1, 59)])
def test_streams_do_straddle_the_switch(stream, least, most):
    """So that the tests around this one mean something: of the first merges some are dense, later ones sparse."""
    kind, alphabet_size, lengths, _ = LONG["switch after some merges" if stream == "near zero" else "switch amid runs"]
    sequences = make_sequences(kind, alphabet_size, [n // 8 for n in lengths])
    merges = native_merges(sequences, alphabet_size, alphabet_size + 60)
    dense = [24 * places >= tokens for places, tokens in places_and_tokens(sequences, alphabet_size, merges)]
    assert least <= dense.index(False) <= most


@pytest.mark.parametrize(("kind", "alphabet_size", "lengths", "vocab_size"), LONG.values(), ids=[*LONG])
def test_long_streams(kind, alphabet_size, lengths, vocab_size):
    assert sum(lengths) > 50_000
    sequences = make_sequences(kind, alphabet_size, lengths, seed=1)
    expected = oracle_merges(sequences, alphabet_size, vocab_size)
    for shards, num_threads in ((1, 1), (2, 2), (7, 2)):
        merges = native_merges(sequences, alphabet_size, vocab_size, shards=shards, num_threads=num_threads)
        assert merges == expected, (shards, num_threads)


def test_merges_with_so_many_places_that_indexed_shards_use_threads():
    """50,000 places, and still fewer than a 24th of the tokens."""
    sequences = make_sequences("random", 5, [20_000] * 70, seed=3)
    counts = _reference.count_pairs(sequences)
    assert 50_000 < max(counts.values()) < 70 * 20_001 / 24
    expected = oracle_merges(sequences, 5, 5 + 12)
    for shards, num_threads in ((1, 1), (2, 2), (7, 3)):
        assert native_merges(sequences, 5, 5 + 12, shards=shards, num_threads=num_threads) == expected


@every_recorded_set
def test_recorded_streams(recorded_chunks, name):
    for horizon, count in ((16, 150), (50, 60)):
        sequences, alphabet_size = symbols_of_recorded(recorded_chunks, name, horizon, count)
        vocab_size = alphabet_size + 500
        expected = oracle_merges(sequences, alphabet_size, vocab_size)
        for shards, num_threads in ((1, 1), (2, 2), (7, 2)):
            merges = native_merges(sequences, alphabet_size, vocab_size, shards=shards, num_threads=num_threads)
            assert merges == expected, (horizon, shards, num_threads)
        assert len(merges) > 100


def test_a_large_recorded_stream(recorded_chunks):
    sequences, alphabet_size = symbols_of_recorded(recorded_chunks, "g1_inspire_pick", 50, 300)
    assert sum(map(len, sequences)) > 300_000
    expected = oracle_merges(sequences, alphabet_size, 1024)
    assert native_merges(sequences, alphabet_size, 1024, num_threads=2) == expected


def test_the_cap_on_recorded_streams(recorded_chunks):
    sequences, alphabet_size = symbols_of_recorded(recorded_chunks, "robosuite_panda_osc", 16, 30)
    for cap in (2, 5, 20):
        expected = _reference.train_bpe(sequences, alphabet_size, alphabet_size + 60, 2, cap)
        for shards in (1, 7):
            merges = native_merges(sequences, alphabet_size, alphabet_size + 60, max_token_symbols=cap, shards=shards)
            assert merges == expected


def test_the_largest_expansion_is_kept():
    """A constant stream doubles its token with every merge, up to the core's limit."""
    merges = native_merges([[0] * 4 * MAX_TOKEN_SYMBOLS], 1, 100)
    assert [2 ** (i + 1) for i in range(len(merges))][-1] == MAX_TOKEN_SYMBOLS
    assert native_codec(merges, 1).expansion_lengths().max() == MAX_TOKEN_SYMBOLS


@pytest.mark.parametrize(
    ("sequences", "alphabet_size", "vocab_size", "options", "message"),
    [
        ([[0, 3]], 3, 9, {}, "symbol 3 lies outside the alphabet 0..2"),
        ([[0, 1]], 3, 2, {}, "vocab_size 2 is smaller than the alphabet of 3 symbols"),
        ([[0, 1]], 3, MAX_VOCAB_SIZE + 1, {}, f"vocab_size must be at most {MAX_VOCAB_SIZE}"),
        ([[0, 1]], 3, 9, {"max_token_symbols": 0}, "max_token_symbols must lie in"),
        ([[0, 1]], 3, 9, {"max_token_symbols": MAX_TOKEN_SYMBOLS + 1}, "max_token_symbols must lie in"),
    ],
)
def test_training_refuses(sequences, alphabet_size, vocab_size, options, message):
    with pytest.raises(ValueError, match=message):
        native_merges(sequences, alphabet_size, vocab_size, **options)


# ---- Encoding ----------------------------------------------------------------------------------------


def assert_encodes(codec, oracle, merges, alphabet_size, symbols):
    ids = native_encode(codec, symbols)
    assert ids == oracle.encode(text(symbols)).ids
    assert codec.expand(np.array(ids, np.int32)).tolist() == symbols
    if len(symbols) <= 300:
        assert ids == _reference.encode_bpe(symbols, merges, alphabet_size)
        assert symbols == _reference.expand(ids, merges, alphabet_size)


@settings(max_examples=250)
@given(corpus=corpora(), cap=st.sampled_from([2, 3, 7, 100, MAX_TOKEN_SYMBOLS]), data=st.data())
def test_encodes_as_tokenizers_and_the_reference(corpus, cap, data):
    sequences, alphabet_size, vocab_size = corpus
    merges = native_merges(sequences, alphabet_size, vocab_size, 1, max_token_symbols=cap)
    codec = native_codec(merges, alphabet_size, data.draw(st.integers(0, alphabet_size - 1), "zero symbol"))
    oracle = oracle_of_merges(merges, alphabet_size)
    unseen = data.draw(st.lists(st.integers(0, alphabet_size - 1), max_size=60), "unseen symbols")
    seed = data.draw(st.integers(0, 999), "seed")
    alike = [make_sequences(kind, alphabet_size, [150], seed)[0] for kind in ("near zero", "runs", "words")]
    for symbols in [*sequences, unseen, *alike]:
        assert_encodes(codec, oracle, merges, alphabet_size, symbols)


@settings(max_examples=300)
@given(data=st.data())
def test_two_symbols_encode_right(data):
    """Few symbols, many overlaps: the encoder must step back often."""
    sequences = data.draw(st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=1, max_size=4), "trained on")
    merges = native_merges(sequences, 2, 2 + 30, 1, max_token_symbols=data.draw(st.integers(2, 40), "cap"))
    codec, oracle = native_codec(merges, 2, data.draw(st.integers(0, 1))), oracle_of_merges(merges, 2)
    for symbols in data.draw(st.lists(st.lists(st.integers(0, 1), max_size=60), max_size=5), "encoded"):
        assert_encodes(codec, oracle, merges, 2, symbols)


@pytest.mark.parametrize(("kind", "alphabet_size", "lengths", "vocab_size"), LONG.values(), ids=[*LONG])
def test_encodes_long_streams(kind, alphabet_size, lengths, vocab_size):
    sequences = make_sequences(kind, alphabet_size, [n // 4 for n in lengths], seed=2)
    merges = native_merges(sequences, alphabet_size, vocab_size)
    codec, oracle = native_codec(merges, alphabet_size, alphabet_size // 2), oracle_of_merges(merges, alphabet_size)
    for n in (10_000, 100_000):
        symbols = make_sequences(kind, alphabet_size, [n], seed=3)[0]
        assert_encodes(codec, oracle, merges, alphabet_size, symbols)


@every_recorded_set
def test_encodes_recorded_streams(recorded_chunks, name):
    sequences, alphabet_size = symbols_of_recorded(recorded_chunks, name, 50, 80)
    merges = native_merges(sequences[::2], alphabet_size, alphabet_size + 400)
    codec, oracle = native_codec(merges, alphabet_size, alphabet_size // 2), oracle_of_merges(merges, alphabet_size)
    for symbols in sequences:
        assert_encodes(codec, oracle, merges, alphabet_size, symbols)
    for symbols in sequences[:5]:
        assert native_encode(codec, symbols) == _reference.encode_bpe(symbols, merges, alphabet_size)


# Token lengths of a run: doubling, and such that leave a rest at every length.
RUN_CORPORA = {
    "doubling": [[1] * 4096, [2] * 4096],
    "odd lengths": [[1] * 7, [1] * 7, [1] * 7, [2] * 11, [2] * 11, [1] * 23, [1] * 23, [2] * 300],
    "runs with ends": [[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [2] * 5 + [0], [2] * 5 + [0], [1, 2, 2, 2, 1]] * 2,
    "no runs": [[0, 1, 2, 0, 1, 2]],
}


@pytest.mark.parametrize("corpus", RUN_CORPORA.values(), ids=[*RUN_CORPORA])
@pytest.mark.parametrize("n", [10_000, 9_999, 100_000])
def test_equal_symbols(corpus, n):
    """Of the symbol whose runs are jumped over (1), and of another (2)."""
    merges = native_merges(corpus, 3, 60)
    codec, oracle = native_codec(merges, 3, zero_symbol=1), oracle_of_merges(merges, 3)
    for symbols in ([1] * n, [2] * n, [0] * n, [0] + [1] * n + [0], [1] * n + [2] * n):
        assert_encodes(codec, oracle, merges, 3, symbols)


@pytest.mark.parametrize("corpus", RUN_CORPORA.values(), ids=[*RUN_CORPORA])
@pytest.mark.parametrize("n", [16_383, 16_384, 16_385, 40_001])
def test_other_symbols_after_long_runs(corpus, n):
    """The encoder tabulates runs of up to 16,384."""
    merges = native_merges(corpus, 3, 60)
    symbols = [0, *[1] * n, 0, 2, *[1] * (n // 2), 0]
    assert_encodes(native_codec(merges, 3, zero_symbol=1), oracle_of_merges(merges, 3), merges, 3, symbols)


@pytest.mark.parametrize("corpus", RUN_CORPORA.values(), ids=[*RUN_CORPORA])
def test_runs_of_every_length(corpus):
    merges = native_merges(corpus, 3, 60)
    codec, oracle = native_codec(merges, 3, zero_symbol=1), oracle_of_merges(merges, 3)
    for n in range(1, 130):
        for symbols in ([1] * n, [2] * n, [0] + [1] * n, [1] * n + [0], [2] * n + [1]):
            assert_encodes(codec, oracle, merges, 3, symbols)


def test_all_short_sequences():
    """Every sequence of up to nine of three symbols, by a vocabulary full of overlaps."""
    corpus = [[0, 1, 2, 0, 1], [1, 0, 0, 1], [2, 0, 1, 1, 0], [0, 0, 0, 1, 2, 2], [1, 1, 1, 0, 2]] * 2
    merges = native_merges(corpus, 3, 40, 1)
    codec, oracle = native_codec(merges, 3, zero_symbol=0), oracle_of_merges(merges, 3)
    for n in range(1, 10):
        for index in np.ndindex(*(3,) * n):
            symbols = [*index]
            assert native_encode(codec, symbols) == oracle.encode(text(symbols)).ids


def test_a_symbol_outside_the_alphabet_is_refused():
    codec = native_codec([(0, 1)], 3)
    with pytest.raises(ValueError, match=r"symbol 3 lies outside the alphabet 0\.\.2"):
        native_encode(codec, [0, 1, 3])
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=rf"token id {bad} lies outside the vocabulary 0\.\.3"):
            codec.expand(np.array([0, bad], np.int32))


def test_nothing_encodes_to_nothing():
    codec = native_codec([], 1)
    assert native_encode(codec, []) == []
    assert codec.expand(np.empty(0, np.int32)).tolist() == []


# ---- Merge tables ------------------------------------------------------------------------------------


def is_accepted(merges, alphabet_size):
    try:
        native_codec(merges, alphabet_size)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("merges", "reason"),
    [
        # 0 1 2 always becomes (0 1) 2: the last merge's pair can never stand.
        ([(0, 1), (1, 2), (0, 4)], r"merge 2 \(0, 4\): can never be produced"),
        # Of 0 0 0 the left pair is merged, so 0 never stands before (0 0).
        ([(0, 0), (0, 3)], r"merge 1 \(0, 3\): can never be produced"),
        # In (0 1)(1 2) the pair 1 1 stood in the middle, and was merged first.
        ([(1, 1), (0, 1), (1, 2), (4, 5)], r"merge 3 \(4, 5\): can never be produced"),
        ([(0, 1), (0, 1)], r"merge 1 \(0, 1\): the same pair is merged twice"),
        ([(0, 1), (4, 0)], r"merge 1 \(4, 0\): joins ids outside 0\.\.3, the ids that exist before it"),
        ([(3, 0)], r"merge 0 \(3, 0\): joins ids outside 0\.\.2"),
        ([(-1, 0)], r"merge 0 \(-1, 0\): joins ids outside 0\.\.2"),
        ([(0, 2**40)], r"merge 0 \(0, 1099511627776\): joins ids outside 0\.\.2"),
        ([(0, 0), *((i, i) for i in range(3, 17))], r"merge 14 \(16, 16\): expands to 32768 symbols, more than 16384"),
    ],
)
def test_merges_that_no_training_makes_are_refused(merges, reason):
    with pytest.raises(ValueError, match=reason):
        native_codec(merges, 3)
    if "expands" not in reason:
        assert not _reference.could_be_trained(merges, 3)


@settings(max_examples=600)
@given(data=st.data())
def test_a_table_is_accepted_exactly_if_its_tokens_encode_to_themselves(data):
    """Random tables, and random changes to trained ones. What is accepted then also encodes right."""
    alphabet_size = data.draw(st.integers(1, 3), "alphabet size")
    merges: list[tuple[int, int]] = []
    for i in range(data.draw(st.integers(0, 9), "merges")):
        part = st.integers(0, alphabet_size + i - 1)
        pair = data.draw(st.tuples(part, part))
        if _reference.could_be_trained([*merges, pair], alphabet_size):
            merges.append(pair)
            assert is_accepted(merges, alphabet_size)
        else:
            assert not is_accepted([*merges, pair], alphabet_size)
            break
    symbols = data.draw(st.lists(st.integers(0, alphabet_size - 1), max_size=60), "symbols")
    codec = native_codec(merges, alphabet_size, data.draw(st.integers(0, alphabet_size - 1), "zero symbol"))
    assert_encodes(codec, oracle_of_merges(merges, alphabet_size), merges, alphabet_size, symbols)


def test_all_small_tables():
    """Every sequence of up to four merges over two symbols."""

    def extend(merges):
        for pair in np.ndindex(2 + len(merges), 2 + len(merges)):
            longer = [*merges, pair]
            accepted = is_accepted(longer, 2)
            assert accepted == _reference.could_be_trained(longer, 2), longer
            if accepted and len(longer) < 4:
                extend(longer)

    extend([])


@settings(max_examples=200)
@given(corpus=corpora(longest=200), min_frequency=st.integers(0, 3), cap=st.integers(2, 200))
def test_whatever_training_makes_is_accepted(corpus, min_frequency, cap):
    sequences, alphabet_size, vocab_size = corpus
    merges = native_merges(sequences, alphabet_size, vocab_size, min_frequency, max_token_symbols=cap)
    codec = native_codec(merges, alphabet_size)
    lengths = codec.expansion_lengths()
    assert lengths.tolist() == [len(e) for e in _reference.expansions(merges, alphabet_size)]
    everything = np.arange(alphabet_size + len(merges), dtype=np.int32)
    for token in everything:
        assert native_encode(codec, codec.expand(token[None])) == [token]
    assert codec.expand(everything).tolist() == _reference.expand(everything.tolist(), merges, alphabet_size)
