"""The grammar of action tokens: what it allows decodes strictly, what decodes strictly it allows."""

import codecs
import functools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_tokenizer import FastTokenizer, TokenBatch
from fast_tokenizer.compat import FastProcessor
from fast_tokenizer.constrained import UNREACHABLE, ActionGrammar, TokenGrammar
from tests.byte_level import ARTEFACTS, ByteLevel

T, D = 8, 3
CHUNKS = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (300, T, D)), axis=1)


@pytest.fixture(scope="module")
def small():
    return FastTokenizer.fit(CHUNKS, vocab_size=128)


@pytest.fixture(scope="module", params=["small", "default", *ARTEFACTS])
def vocabulary(request, any_shape):
    """(grammar of tokens, whether ids decode strictly to so many symbols), where published by its own package too."""
    if request.param in ARTEFACTS:
        shared_data = request.getfixturevalue("shared_data")
        published = ByteLevel.load(shared_data, request.param)
        tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / request.param)
    else:
        tok = any_shape if request.param == "small" else FastTokenizer.default()

    def decodes_to(ids, symbols):
        whole = bool(tok.decode_with_status([ids], symbols, 1)[1].ok[0])
        if request.param in ARTEFACTS:
            assert whole == published.decodes_to(ids, symbols)
        return whole

    return TokenGrammar.of(tok), decodes_to


@pytest.fixture(scope="module")
def any_shape(small):
    """`small` for any T and D."""
    return FastTokenizer(replace(small.spec, time_horizon=None, action_dim=None))


def walk(grammar, choose):
    """Ids that `choose` takes one by one from those allowed. No state may be a dead end."""
    ids, states = [], grammar.start()
    while not grammar.done(states)[0]:
        allowed = np.flatnonzero(grammar.mask(states)[0])
        assert len(allowed), f"dead end after {ids}"
        ids.append(int(choose(allowed)))
        states = grammar.advance(states, [ids[-1]])
        assert len(ids) <= grammar.max_tokens
    assert not grammar.mask(states).any(), "after the chunk only its end may come"
    return ids


# ---- What it allows decodes strictly -----------------------------------------------------------------


@pytest.mark.parametrize("symbols", [1, 2, 13, 70])
def test_whatever_is_chosen_decodes_strictly(vocabulary, symbols):
    tokens, decodes_to = vocabulary
    grammar = ActionGrammar(tokens, symbols)
    rng = np.random.default_rng(symbols)
    unfinished = (tokens.next_node > 0).any(axis=0)  # ends within a character
    longest = np.argsort(tokens.begun, kind="stable")
    preferences = {
        "any": rng.choice,
        "long": lambda allowed: max(allowed, key=lambda i: longest[i]),
        "short": lambda allowed: min(allowed, key=lambda i: tokens.begun[i]),
        "unfinished": lambda allowed: rng.choice(
            allowed[unfinished[allowed]] if unfinished[allowed].any() else allowed
        ),
    }
    for name, choose in preferences.items():
        for _ in range(5):
            ids = walk(grammar, choose)
            assert decodes_to(ids, symbols), name
            assert grammar.accepts(ids)
            assert not grammar.accepts(ids[:-1])
            assert not grammar.accepts([*ids, ids[0]])


def test_it_accepts_exactly_what_decodes_strictly(vocabulary):
    tokens, decodes_to = vocabulary
    symbols = 24
    grammar = ActionGrammar(tokens, symbols)
    rng = np.random.default_rng(3)
    accepted = 0
    for _ in range(300):
        ids = walk(grammar, rng.choice)
        for _ in range(rng.integers(1, 3)):
            place = int(rng.integers(len(ids)))
            ids[place : place + int(rng.integers(2))] = rng.integers(tokens.vocab_size, size=rng.integers(2)).tolist()
            ids = ids or [0]
        accepted += grammar.accepts(ids)
        assert grammar.accepts(ids) == decodes_to(ids, symbols), ids
    assert 0 < accepted < 300


def test_every_encoded_chunk_is_accepted(small, any_shape):
    grammar = ActionGrammar.of(small)
    batch = small.encode(CHUNKS)
    assert all(grammar.accepts(ids) for ids in batch)
    assert grammar.done(grammar.state_after(batch)).all()
    rng = np.random.default_rng(0)
    for tok in (any_shape, FastTokenizer.default()):
        for horizon, dims, scale in ((1, 1, 1), (10, 7, 0.3), (50, 14, 1), (17, 32, 5)):
            grammar = ActionGrammar.of(tok, horizon, dims)
            noise = rng.normal(0, scale, (3, horizon, dims))  # the widest saturates
            assert all(grammar.accepts(ids) for ids in tok.encode(noise))


@pytest.mark.parametrize("name", ARTEFACTS)
def test_every_chunk_that_the_published_tokenizer_encoded_whole_is_accepted(shared_data, name):
    published = ByteLevel.load(shared_data, name)
    tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / name)
    refused = []
    for path in sorted((shared_data / "golden").glob(f"{name}__*.npz")):
        with np.load(path) as golden:
            chunks, batch = golden["chunks"], TokenBatch.from_flat(golden["ids"], golden["offsets"])
        symbols = chunks[0].size
        grammar = ActionGrammar.of(tok, *chunks.shape[1:])
        accepted = [grammar.accepts(ids) for ids in batch]
        assert accepted == [published.decodes_to(ids.tolist(), symbols) for ids in batch]
        assert accepted == (tok.encode(chunks).dropped == 0).tolist()
        refused += [path.name] * accepted.count(False)
    # This vocabulary lacks bytes that its own encoder then drops, which leaves half characters.
    assert bool(refused) == (name == "fast_libero_act_c50")


# ---- Every state, against a search ---------------------------------------------------------------------


class Search:
    """Which ids may come next, by trying everything. Python's own decoder says what is UTF-8."""

    def __init__(self, token_bytes, highest=None):
        self.token_bytes, self.highest = token_bytes, 0x10FFFF if highest is None else highest
        self.can_end = functools.cache(self.can_end)

    def after(self, pending, i):
        """(bytes that wait for more, characters completed); None when no text continues so."""
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        try:
            text = decoder.decode(pending + self.token_bytes[i])
        except UnicodeDecodeError:
            return None
        return None if any(ord(ch) > self.highest for ch in text) else (decoder.getstate()[0], len(text))

    def can_end(self, pending, remaining, tokens_left):
        if not pending and remaining == 0:
            return True
        return tokens_left > 0 and any(self.allowed(pending, remaining, tokens_left))

    def allowed(self, pending, remaining, tokens_left):
        """Of each id."""
        if (not pending and remaining == 0) or tokens_left == 0:
            return [False] * len(self.token_bytes)
        steps = [self.after(pending, i) for i in range(len(self.token_bytes))]
        return [
            bool(self.token_bytes[i])
            and step is not None
            and step[1] <= remaining
            and self.can_end(step[0], remaining - step[1], tokens_left - 1)
            for i, step in enumerate(steps)
        ]


CHARACTERS = "a é ÿ ࠀ \ud7ff \ue000 \uffff \U00010000 \U0010ffff".replace(" ", "").encode()
BYTES = st.sampled_from(sorted({*CHARACTERS, 0x80, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, 0xFF}))
BOUNDS = [0x60, 0x61, 0x7F, 0xE8, 0xE9, 0xFF, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFE, 0x10FFFF]
PIECES = st.one_of(
    st.lists(BYTES, min_size=0, max_size=4).map(bytes),
    st.builds(
        lambda text, cut: text.encode()[cut[0] : cut[1]],
        st.text("aéࠀ\ud7ff\ue000\U00010000\U0010ffff", min_size=1, max_size=3),
        st.tuples(st.integers(0, 3), st.integers(1, 12)),
    ),
)


@settings(max_examples=300)
@given(
    st.lists(PIECES, min_size=1, max_size=8).map(lambda pieces: [b"a", *pieces] if len(pieces) % 2 else pieces),
    st.integers(1, 6),
    st.one_of(st.none(), st.integers(1, 8)),
    st.one_of(st.none(), st.sampled_from(BOUNDS)),
    st.randoms(use_true_random=False),
)
def test_every_state_allows_what_a_search_finds_and_nothing_else(token_bytes, symbols, max_tokens, highest, random):
    search = Search(token_bytes, highest)
    most = symbols * 4 if max_tokens is None else min(max_tokens, symbols * 4)
    if not search.can_end(b"", symbols, most):
        with pytest.raises(ValueError, match=r"no sequence of ids|takes at least"):
            ActionGrammar(TokenGrammar.of_bytes(token_bytes, highest), symbols, max_tokens)
        return
    grammar = ActionGrammar(TokenGrammar.of_bytes(token_bytes, highest), symbols, max_tokens)
    states, pending, remaining, ids = grammar.start(), b"", symbols, []
    while True:
        allowed = grammar.mask(states)[0].tolist()
        assert allowed == search.allowed(pending, remaining, most - len(ids))
        assert grammar.done(states)[0] == (not pending and remaining == 0)
        if grammar.done(states)[0]:
            break
        ids.append(random.choice(np.flatnonzero(allowed).tolist()))
        states = grammar.advance(states, ids[-1:])
        pending, completed = search.after(pending, ids[-1])
        remaining -= completed
    assert len(b"".join(token_bytes[i] for i in ids).decode("utf-8")) == symbols


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 12), st.randoms(use_true_random=False))
def test_whole_symbols_are_the_case_of_ascii(lengths, symbols, random):
    """A native vocabulary, also one without single symbols, where some sums cannot be had."""
    sums = {0}
    for _ in range(symbols):
        sums |= {total + n for total in sums for n in lengths}
    if symbols not in sums:
        for tokens in (TokenGrammar.of_lengths(np.array(lengths)), TokenGrammar.of_bytes([b"x" * n for n in lengths])):
            with pytest.raises(ValueError, match=f"^no sequence of ids .* stands for exactly {symbols} symbols$"):
                ActionGrammar(tokens, symbols)
        return
    grammar = ActionGrammar(TokenGrammar.of_lengths(np.array(lengths)), symbols)
    ascii_text = ActionGrammar(TokenGrammar.of_bytes([b"x" * n for n in lengths]), symbols)
    ids = walk(grammar, lambda allowed: random.choice(allowed.tolist()))
    assert sum(lengths[i] for i in ids) == symbols
    for k in range(len(ids) + 1):
        np.testing.assert_array_equal(grammar.mask_after(ids[:k]), ascii_text.mask_after(ids[:k]))


@pytest.mark.parametrize(
    "highest", [0, 0x61, 0x7F, 0x80, 0xE9, 0x7FF, 0x800, 0xFFF, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
)
def test_a_bound_lets_every_character_up_to_it_pass_and_no_other(highest):
    tokens = TokenGrammar.of_bytes([bytes([byte]) for byte in range(256)], highest)
    grammar = ActionGrammar(tokens, 1)
    near = {highest + off for off in (-65, -64, -2, -1, 0, 1, 2, 63, 64, 65, 4096)}
    for code in sorted({0, 0x62, 0x80, 0x800, 0x10000, 0x10FFFF} | near):
        if 0 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            assert grammar.accepts([*chr(code).encode()]) == (code <= highest), hex(code)


def test_a_bound_on_coefficients_bounds_what_a_model_can_write(shared_data, small):
    tok = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    bound = tok.spec.max_coefficient
    rng = np.random.default_rng(0)
    highest = {}
    for name, grammar in (
        ("bounded", ActionGrammar.of(tok, 10, 7, max_coefficient=bound)),
        ("free", ActionGrammar.of(tok, 10, 7)),
    ):
        walks = [walk(grammar, rng.choice) for _ in range(100)]
        assert tok.decode(walks, 10, 7).shape == (100, 10, 7)
        highest[name] = max(int(tok.coefficients(ids).max()) for ids in walks)
    assert highest["bounded"] <= bound < 200
    assert highest["free"] > 5000
    chunks = np.cumsum(rng.normal(0, 0.05, (20, 10, 7)), axis=1)
    bounded = ActionGrammar.of(tok, 10, 7, max_coefficient=bound)
    assert all(bounded.accepts(ids) for ids in tok.encode(chunks))
    with pytest.raises(ValueError, match=r"^there is no character -1: they are 0\.\.1114111"):
        ActionGrammar.of(tok, 10, 7, max_coefficient=tok.spec.min_token - 1)
    with pytest.raises(ValueError, match=r"^there is no character 55296"):
        TokenGrammar.of_bytes([b"a"], 0xD800)
    with pytest.raises(ValueError, match=r"^a native vocabulary has no coefficients beyond its fitted range"):
        ActionGrammar.of(small, max_coefficient=3)


def test_fewest_is_what_the_shortest_sequence_takes():
    grammar = ActionGrammar(TokenGrammar.of_lengths(np.array([2, 5])), 11)
    assert grammar.fewest[0, [0, 1, 2, 3, 4, 7, 10, 11]].tolist() == [0, UNREACHABLE, 1, UNREACHABLE, 2, 2, 2, 4]


def test_partial_characters_of_the_published_vocabulary_are_in_reach(shared_data):
    tokens = TokenGrammar.of_bytes(ByteLevel.load(shared_data, "fast_plus").token_bytes)
    partial = tokens.next_node[0] != 0  # no whole characters from the start of one
    assert partial.sum() == 135
    impossible = (tokens.next_node < 0).all(axis=0)  # C0, C1 and F5..FF occur in no text
    assert impossible.sum() == 13
    grammar = ActionGrammar(tokens, int(tokens.begun.max()) + 1)
    found = grammar.mask(grammar.start())[0]
    edge = [([], grammar.start())]
    for _ in range(3):  # a character has at most four bytes
        edge = [
            ([*ids, i], grammar.advance(states, [i]))
            for ids, states in edge
            for i in np.unique(tokens.next_node[states.node[0]], return_index=True)[1]
            if grammar.mask(states)[0, i]
        ]
        for _, states in edge:
            found |= grammar.mask(states)[0]
    np.testing.assert_array_equal(found[partial], ~impossible[partial])


# ---- max_tokens ----------------------------------------------------------------------------------------


def test_max_tokens_is_kept_and_everything_within_it_is_allowed(vocabulary):
    tokens, decodes_to = vocabulary
    symbols = 30
    fewest = int(ActionGrammar(tokens, symbols).fewest[0, -1])
    rng = np.random.default_rng(0)
    for most in (fewest, fewest + 1, fewest + 7):
        grammar = ActionGrammar(tokens, symbols, max_tokens=most)
        assert grammar.max_tokens == most
        lengths = []
        for _ in range(10):
            ids = walk(grammar, rng.choice)
            assert decodes_to(ids, symbols)
            lengths.append(len(ids))
        assert max(lengths) <= most
    with pytest.raises(ValueError, match=f"takes at least {fewest} ids, max_tokens is {fewest - 1}"):
        ActionGrammar(tokens, symbols, max_tokens=fewest - 1)


# ---- States --------------------------------------------------------------------------------------------


def test_rows_are_independent_and_can_be_reordered(vocabulary):
    tokens, _ = vocabulary
    grammar = ActionGrammar(tokens, 40)
    rng = np.random.default_rng(1)
    states, rows = grammar.start(6), [[] for _ in range(6)]
    for _ in range(6):
        ids = [rng.choice(np.flatnonzero(m)) if m.any() else -1 for m in grammar.mask(states)]
        going = np.array(ids) >= 0
        states = grammar.advance(states[going], np.array(ids)[going])
        rows = [[*row, i] for row, i in zip(rows, ids, strict=True) if i >= 0]
        order = rng.integers(0, len(rows), 6)
        states, rows = states[order], [rows[i] for i in order]
        again = grammar.state_after(rows)
        for field in ("node", "remaining", "tokens_left"):
            np.testing.assert_array_equal(getattr(states, field), getattr(again, field))
        for mask, row in zip(grammar.mask(states), rows, strict=True):
            np.testing.assert_array_equal(mask, grammar.mask_after(row))


def test_an_id_that_may_not_come_is_named():
    grammar = ActionGrammar(TokenGrammar.of_bytes([b"ab", b"c", b"\xc3", b"\xa9", b"\xf4", b""]), 2)
    states = grammar.start(2)
    for ids, why in (
        ([0, 6], "row 1: token id 6 may not come here: the vocabulary is 0..5"),
        ([-1, 0], "row 0: token id -1 may not come here: the vocabulary is 0..5"),
        ([1, 3], "row 1: token id 3 may not come here: its bytes do not continue a UTF-8 text"),
        ([5, 1], "row 0: token id 5 may not come here: its bytes do not continue a UTF-8 text"),
        ([4, 1], "row 0: token id 4 may not come here: what is left after it cannot be completed with this "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(why)}"):
            grammar.advance(states, ids)
    one_left = grammar.advance(states, [1, 1])
    with pytest.raises(ValueError, match=r"^row 0: token id 0 may not come here: it begins 2 symbols, 1 of 2 remain$"):
        grammar.advance(one_left, [0, 1])
    with pytest.raises(ValueError, match=r"^sequence 1, position 2: token id 1 may not come here: it begins 1 symbols"):
        grammar.state_after([[1], [1, 1, 1]])
    with pytest.raises(ValueError, match="expected 2 token ids, one a row, got int64 of shape"):
        grammar.advance(states, [1])
    with pytest.raises(ValueError, match="expected integers, got dtype float64"):
        grammar.accepts([1.0])


def test_shapes_come_from_the_tokenizer_or_the_call(small, any_shape):
    assert ActionGrammar.of(small).symbols == T * D
    assert ActionGrammar.of(any_shape, 5, 2).symbols == 10
    assert ActionGrammar.of(any_shape, 5, 2).vocab_size == any_shape.vocab_size
    with pytest.raises(ValueError, match="needs time_horizon="):
        ActionGrammar.of(any_shape)
    with pytest.raises(ValueError, match="fitted for 3"):
        ActionGrammar.of(small, T, 4)
    with pytest.raises(ValueError, match="symbols must be positive, got 0"):
        ActionGrammar(TokenGrammar.of(small), 0)
    with pytest.raises(ValueError, match=r"expected \(V,\) lengths of at least 1"):
        TokenGrammar.of_lengths(np.array([1, 0]))


def test_without_a_bound_a_chunk_takes_an_id_a_symbol_or_an_id_a_byte(small):
    assert ActionGrammar.of(small).max_tokens == T * D
    assert ActionGrammar.of(small, max_tokens=10**6).max_tokens == T * D
    assert ActionGrammar(TokenGrammar.of_bytes([bytes([byte]) for byte in range(256)]), 5).max_tokens == 20


def test_arguments_that_are_no_integers_are_refused(small, shared_data):
    with pytest.raises(ValueError, match=r"^max_tokens must be an integer, got 2\.5$"):
        ActionGrammar.of(small, max_tokens=2.5)
    with pytest.raises(ValueError, match=r"^max_tokens must be at least 0, got -1$"):
        ActionGrammar.of(small, max_tokens=-1)
    with pytest.raises(ValueError, match=r"^symbols must be an integer, got 2\.0$"):
        ActionGrammar(TokenGrammar.of(small), 2.0)
    with pytest.raises(ValueError, match=r"^highest must be an integer, got 97\.0$"):
        TokenGrammar.of_bytes([b"a"], 97.0)
    published = FastTokenizer.from_pretrained(shared_data / "fast_artifacts" / "fast_plus")
    with pytest.raises(ValueError, match=r"^max_coefficient must be an integer, got 3\.5$"):
        ActionGrammar.of(published, T, D, max_coefficient=3.5)


def test_what_is_no_tokenizer_is_refused(small):
    for of in (ActionGrammar.of, TokenGrammar.of):
        with pytest.raises(ValueError, match=r"^expected a FastTokenizer, got FastProcessor$"):
            of(FastProcessor(small))
