"""Language models under the grammar: whatever their scores are, every row decodes strictly."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LogitsProcessor

from fast_tokenizer import DecodeError, FastTokenizer
from fast_tokenizer.constrained import ActionGrammar, TokenGrammar
from fast_tokenizer.generation import ActionLogitsProcessor
from fast_tokenizer.vlm import VlmVocab

T, D = 4, 3
PAD, EOS, BAR, MARKER = 2, 1, 5, [6, 7, 8]
END = [BAR, EOS]
ENDING = {"end": END, "pad_id": PAD}
#: Token id i is VLM id 2900 - i, as PaliGemma's lie backwards. The model's head is wider than the VLM vocabulary.
VLM_VOCAB_SIZE, HEAD = 2950, 3008


def vlm_ids(grammar):
    return range(2900, 2900 - grammar.vocab_size, -1)


@pytest.fixture(scope="module")
def small():
    """A native vocabulary of 64 ids for any T and D."""
    chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (200, 8, D)), axis=1)
    spec = FastTokenizer.fit(chunks, vocab_size=64).spec
    return FastTokenizer(replace(spec, time_horizon=None, action_dim=None))


@pytest.fixture(scope="module", params=["small", "default", "fast_plus"])
def vocabulary(request, small):
    """(grammar of tokens, whether ids decode strictly to T * D symbols)."""
    tok = small if request.param == "small" else FastTokenizer.default()
    if request.param == "fast_plus":
        tok = FastTokenizer.from_pretrained(request.getfixturevalue("shared_data") / "fast_artifacts" / "fast_plus")

    def decodes(ids):
        return tok.decode([ids], T, D).shape == (1, T, D)  # strict: raises otherwise

    return TokenGrammar.of(tok), decodes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The models are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=HEAD, n_positions=256, n_embd=16, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=HEAD, max_position_embeddings=256, **sizes)).eval()


def prompts():
    """Three prompts of several lengths, padded on the left. They hold action ids, the marker and the end, too."""
    rows = [[9, 10, 2900, 2899], [*MARKER, 2880, *END, 11], [12]]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


WIDTH = prompts()[0].shape[1]


def generate(model, processor, *before, **options):
    """Rows as they were generated, prompts cut off."""
    ids, attention = prompts()
    torch.manual_seed(1)
    out = model.generate(
        ids,
        attention_mask=attention,
        logits_processor=[*before, processor],
        max_new_tokens=processor.max_new_tokens,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
        **options,
    )
    assert len(out) == 3 * options.get("num_return_sequences", 1)
    return out


def assert_well_formed(out, processor, grammar, decodes, marker=MARKER):
    """Marker, one chunk, end, padding; nothing else, in every row."""
    token_of = {v: i for i, v in enumerate(vlm_ids(grammar))}
    for row, ids in zip(out.tolist(), processor.token_ids(out), strict=True):
        generated = row[WIDTH:]
        tokens = [token_of[v] for v in generated[len(marker) :] if v in token_of]
        length = len(marker) + len(tokens) + len(END)
        whole = [*marker, *(vlm_ids(grammar)[i] for i in tokens), *END]
        assert generated == whole + [PAD] * (len(generated) - length)
        assert tokens == ids.tolist()
        assert decodes(tokens)


class Illegal(LogitsProcessor):
    """Prefers by far what may not come: ends, padding and long tokens first, text next, action tokens last."""

    def __init__(self, grammar):
        self.bonus = torch.full((HEAD,), 1e4)
        self.bonus[[*END, PAD]] = 1e5
        self.bonus[torch.tensor(vlm_ids(grammar))] = torch.from_numpy(grammar.tokens.begun).float()

    def __call__(self, input_ids, scores):
        return scores + self.bonus


# ---- Every sequence decodes strictly ---------------------------------------------------------------------

STRATEGIES = {
    "greedy": {"do_sample": False},
    "sampling at 0.1": {"do_sample": True, "temperature": 0.1},
    "sampling at 1": {"do_sample": True, "temperature": 1.0, "top_k": 0},
    "sampling at 10": {"do_sample": True, "temperature": 10.0, "top_k": 0},
    "nucleus": {"do_sample": True, "top_p": 0.5, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "do_sample": False},
    "all beams": {"num_beams": 4, "do_sample": False, "num_return_sequences": 4, "early_stopping": True},
    "beams that sample": {"num_beams": 4, "do_sample": True, "temperature": 3.0, "num_return_sequences": 2},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_generated_row_decodes_strictly(gpt2, vocabulary, strategy):
    tokens, decodes = vocabulary
    grammar = ActionGrammar(tokens, T * D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=WIDTH, marker=MARKER, **ENDING)
    assert isinstance(processor, LogitsProcessor)
    out = generate(gpt2, processor, **STRATEGIES[strategy])
    assert_well_formed(out, processor, grammar, decodes)


def test_it_does_not_matter_which_model(llama, small):
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=WIDTH, marker=MARKER, **ENDING)
    out = generate(llama, processor, **STRATEGIES["beams that sample"])
    assert_well_formed(out, processor, grammar, lambda ids: small.decode([ids], T, D).shape == (1, T, D))


@pytest.mark.parametrize("strategy", ["greedy", "sampling at 1", "all beams", "beams that sample"])
def test_a_model_that_prefers_what_is_illegal_decodes_strictly(gpt2, vocabulary, strategy):
    tokens, decodes = vocabulary
    grammar = ActionGrammar(tokens, T * D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=WIDTH, **ENDING)
    out = generate(gpt2, processor, Illegal(grammar), **STRATEGIES[strategy])
    assert_well_formed(out, processor, grammar, decodes, marker=[])


@pytest.mark.parametrize("strategy", ["sampling at 10", "all beams"])
def test_a_budget_of_tokens_is_kept(gpt2, vocabulary, strategy):
    tokens, decodes = vocabulary
    fewest = int(ActionGrammar(tokens, T * D).fewest[0, -1])
    grammar = ActionGrammar(tokens, T * D, max_tokens=fewest + 2)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=WIDTH, **ENDING)
    assert processor.max_new_tokens == fewest + 2 + len(END)
    out = generate(gpt2, processor, **STRATEGIES[strategy])
    assert_well_formed(out, processor, grammar, decodes, marker=[])


@pytest.mark.parametrize("do_sample", [False, True])
def test_ids_that_an_assistant_proposes_are_checked_too(gpt2, llama, small, do_sample):
    """Several ids a step, some of which are taken back."""
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=2, marker=MARKER, **ENDING)
    torch.manual_seed(0)
    out = gpt2.generate(
        torch.tensor([[9, 10]]),
        attention_mask=torch.ones((1, 2), dtype=torch.long),
        assistant_model=llama,
        logits_processor=[processor],
        max_new_tokens=processor.max_new_tokens,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
        do_sample=do_sample,
    )
    assert out[0, 2:5].tolist() == MARKER
    assert out[0, -2:].tolist() == END
    assert small.decode(processor.token_ids(out), T, D).shape == (1, T, D)


def test_beams_that_run_out_of_sequences_stay_well_formed(gpt2, small):
    """A chunk of one symbol and a marker: at times fewer rows than beams may go on."""
    grammar = ActionGrammar.of(small, 1, 1)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=WIDTH, marker=MARKER, **ENDING)
    out = generate(gpt2, processor, num_beams=4, num_return_sequences=4, do_sample=False)
    assert_well_formed(out, processor, grammar, lambda ids: small.decode([ids], 1, 1).shape == (1, 1, 1))


def test_a_model_may_think_before_it_acts(gpt2, small):
    """Without a prompt length, actions begin after the marker, which each row writes when it likes."""
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=None, marker=MARKER, **ENDING)
    thoughts = [3, 0, 7]  # ids before the marker, by row

    class Thinks(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            for row, thought in enumerate(thoughts):
                said = input_ids.shape[1] - WIDTH - thought
                scores[row, ([42] * thought + MARKER)[said + thought] if said < len(MARKER) else 42] = 1e4
            return scores

    ids, attention = prompts()
    ids[1, 0] = 13  # the marker of this prompt is none any more
    out = gpt2.generate(
        ids,
        attention_mask=attention,
        logits_processor=[Thinks(), processor],
        max_new_tokens=processor.max_new_tokens + max(thoughts),
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
        do_sample=False,
    )
    assert small.decode(processor.token_ids(out), T, D).shape == (3, T, D)
    for row, thought in zip(out[:, ids.shape[1] :].tolist(), thoughts, strict=True):
        assert row[: thought + 3] == [42] * thought + MARKER
        assert row[row.index(BAR) :][:2] == END


# ---- One call ------------------------------------------------------------------------------------------


def random_prefixes(grammar, count, seed=0):
    """Ids that lead anywhere in a chunk, its end included."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids, states = [], grammar.start()
        for _ in range(rng.integers(2 * grammar.symbols)):
            allowed = np.flatnonzero(grammar.mask(states)[0])
            if not len(allowed):
                break
            ids.append(int(rng.choice(allowed)))
            states = grammar.advance(states, ids[-1:])
        rows.append(ids)
    return rows


def expected_ids(grammar, ids):
    allowed = {vlm_ids(grammar)[i] for i in np.flatnonzero(grammar.mask_after(ids))}
    return allowed or {BAR}


def finite(scores):
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in scores.float().numpy()]


@pytest.mark.parametrize("max_tokens", [None, 8])
def test_it_allows_what_the_grammar_allows(vocabulary, max_tokens):
    tokens, _ = vocabulary
    grammar = ActionGrammar(tokens, T * D, max_tokens)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), end=END, prompt_length=2)
    for ids in random_prefixes(grammar, 60):
        row = torch.tensor([[9, 2900, *(vlm_ids(grammar)[i] for i in ids)]])
        scores = torch.randn(1, HEAD)
        out = processor(row, scores)
        (found,) = finite(out)
        assert found == expected_ids(grammar, ids)
        if found != {BAR}:
            kept = torch.tensor(sorted(found))
            assert torch.equal(out[0, kept], scores[0, kept])


def test_rows_of_any_lengths_find_their_own_place_after_the_marker(vocabulary):
    tokens, _ = vocabulary
    grammar = ActionGrammar(tokens, T * D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=None, marker=MARKER, **ENDING)
    prefixes = random_prefixes(grammar, 20, seed=1)
    rows = [[9, *MARKER, 2900, *MARKER, *(vlm_ids(grammar)[i] for i in ids)] for ids in prefixes]
    expected = [expected_ids(grammar, ids) for ids in prefixes]
    complete = next(row for row, ids in zip(rows, expected, strict=True) if ids == {BAR})
    rows += [[*complete, BAR], [*complete, *END], [*complete, *END, PAD], [9, 2900, *MARKER[:2]]]
    expected += [{EOS}, {PAD}, {PAD}, set(range(HEAD))]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    assert finite(processor(ids, torch.zeros(len(ids), HEAD))) == expected
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    assert finite(processor(ids[order], torch.zeros(len(ids), HEAD))) == [expected[i] for i in order]


def test_marker_and_end_are_forced_and_then_only_padding_may_come(small):
    grammar = ActionGrammar.of(small, 1, 1)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=1, marker=MARKER, **ENDING)
    row = [9]
    for only in (*MARKER, None, *END, PAD, PAD):
        scores = torch.full((1, HEAD), -torch.inf) if only is not None else torch.zeros(1, HEAD)
        out = processor(torch.tensor([row]), scores)
        if only is None:
            row.append(min(finite(out)[0]))
            continue
        assert finite(out) == [{only}]
        assert out[0, only] == 0  # whatever the model thinks of it
        row.append(only)


def test_characters_of_four_ids_are_followed():
    """All 256 bytes, an id each: every character is a sequence of its own."""
    grammar = ActionGrammar(TokenGrammar.of_bytes([bytes([byte]) for byte in range(256)]), 3)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=None, marker=MARKER, **ENDING)
    texts = ["a", "é", "ࠀ", "\ud7ff", "\uffff", "\U00010000", "\U0010ffff"]
    rows, expected = [], []
    for first in texts:
        for last in texts:
            ids = [*(first + "b" + last).encode()]
            for k in range(len(ids) + 1):
                rows.append([*MARKER, *(vlm_ids(grammar)[i] for i in ids[:k])])
                expected.append(expected_ids(grammar, ids[:k]))
            rows += [[*rows[-1], BAR], [*rows[-1], *END]]
            expected += [{EOS}, {PAD}]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    assert finite(processor(ids, torch.zeros(len(ids), HEAD))) == expected


def test_a_row_that_is_no_prefix_may_only_end_and_pad(small):
    grammar = ActionGrammar.of(small, 1, 1)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=0, **ENDING)
    ids = torch.tensor([[2900, 2899, 2898]])  # three symbols for one
    assert finite(processor(ids, torch.zeros(1, HEAD))) == [{PAD}]
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=0, **ENDING)
    one = next(v for v, n in zip(vlm_ids(grammar), small.expansion_lengths, strict=True) if n == 1)
    ids = torch.tensor([[one, BAR, EOS]])  # ends too early
    assert finite(processor(ids[:, :2], torch.zeros(1, HEAD))) == [{EOS}]
    assert finite(processor(ids, torch.zeros(1, HEAD))) == [{PAD}]


def test_an_unfinished_character_is_not_closed():
    """Where the ids were not written under the processor, and the budget is used up within a character."""
    grammar = ActionGrammar(TokenGrammar.of_bytes([bytes([byte]) for byte in range(256)]), 1, max_tokens=1)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=0, **ENDING)
    ids = torch.tensor([[vlm_ids(grammar)[0xC3]], [vlm_ids(grammar)[0x61]]])
    assert finite(processor(ids, torch.zeros(2, HEAD))) == [{PAD}, {BAR}]


@pytest.mark.parametrize("bad", [-torch.inf, torch.inf, torch.nan])
def test_scores_among_which_nothing_can_be_chosen_are_refused(small, bad):
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), end=END, prompt_length=1)
    scores = torch.zeros(3, HEAD)
    scores[1, torch.tensor(vlm_ids(grammar))] = bad
    message = f"^row 1: the best score among the {grammar.mask(grammar.start()).sum()} action tokens that may come next"
    with pytest.raises(ValueError, match=f"{message} is {bad};"):
        processor(torch.full((3, 1), 9), scores)
    thinking = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=None, marker=MARKER, **ENDING)
    assert torch.equal(thinking(torch.full((3, 1), 2900), scores).isfinite(), scores.isfinite())
    scores = torch.zeros(3, HEAD)
    scores[:, : MARKER[0]] = bad  # where nothing may come in any case
    assert not processor(torch.full((3, 1), 9), scores).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2901, HEAD, 4000])
def test_dtypes_and_padded_heads(small, dtype, width):
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), end=END, prompt_length=1)
    scores = torch.randn(2, width).to(dtype)
    before = scores.clone()
    out = processor(torch.full((2, 1), 9), scores)
    assert out.dtype == dtype
    assert out.shape == (2, width)
    assert torch.equal(scores, before), "what other processors may hold stays as it is"
    assert finite(out) == [expected_ids(grammar, [])] * 2
    assert finite(processor(torch.full((2, 30), 2900), scores)) == [{EOS}] * 2  # past its end: the default padding


# ---- Several turns ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turns(small):
    """(processor without a prompt length, VLM ids of a chunk, its token ids, VLM ids of another)."""
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), prompt_length=None, marker=MARKER, **ENDING)
    ids, other = (batch.tolist() for batch in small.encode(CHUNKS))
    return processor, [2900 - i for i in ids], ids, [2900 - i for i in other]


CHUNKS = np.cumsum(np.random.default_rng(5).normal(0, 0.1, (2, T, D)), axis=1)


def test_a_row_is_free_again_after_the_chunk_of_an_earlier_turn(turns):
    processor, chunk, ids, other = turns
    earlier = [9, *MARKER, *chunk, *END]
    rows = {
        "ended": ([*earlier], {PAD}, ids),
        "padded": ([*earlier, PAD, PAD], {PAD}, ids),
        "a new turn": ([*earlier, 11], None, []),
        "a new turn after padding": ([*earlier, PAD, 11, PAD], None, []),
        "a turn that begins with an action id": ([*earlier, chunk[0]], None, []),
        "half a new marker": ([*earlier, 11, *MARKER[:2]], None, []),
        "the first of the end again": ([*earlier, BAR], None, []),
        "a new marker": ([*earlier, 11, *MARKER], "start", []),
        "a new chunk": ([*earlier, 11, *MARKER, *other], {BAR}, [2900 - i for i in other]),
        "a new chunk, ended": ([*earlier, 11, *MARKER, *other, *END, PAD], {PAD}, [2900 - i for i in other]),
        "two turns before": ([*earlier, 11, *MARKER, *other, *END, 12], None, []),
        "an end that is not whole": ([*earlier[:-1]], {EOS}, ids),
        "an end that is not whole, and text": ([*earlier[:-1], 11], {PAD}, ids),
        "an end that is not whole, and more text": ([*earlier[:-1], 11, 12, 13], {PAD}, ids),
    }
    width = max(len(row) for row, _, _ in rows.values())
    batch = torch.tensor([[PAD] * (width - len(row)) + row for row, _, _ in rows.values()])
    scores = torch.randn(len(rows), HEAD)
    out = processor(batch, scores)
    found = processor.token_ids(batch)
    single = [processor(torch.tensor([row]), scores[i : i + 1])[0] for i, (row, _, _) in enumerate(rows.values())]
    for i, (name, (_, allowed, tokens)) in enumerate(rows.items()):
        assert torch.equal(out[i], single[i]), name
        assert found[i].tolist() == tokens, name
        if allowed is None:
            assert torch.equal(out[i], scores[i]), name
        elif allowed == "start":
            assert finite(out)[i] == expected_ids(processor._grammar, []), name
        else:
            assert finite(out)[i] == allowed, name


def test_an_old_chunk_is_not_taken_for_a_new_one(small, turns):
    processor, chunk, _, _ = turns
    with pytest.raises(DecodeError, match=r"^chunk 0: too few symbols: got 0, expected exactly 12"):
        small.decode(processor.token_ids(torch.tensor([[*MARKER, *chunk, *END, 11, 12]])), T, D)


def test_a_model_answers_an_instruction_after_an_earlier_chunk(gpt2, small, turns):
    processor, chunk, _, _ = turns
    prompt = [9, *MARKER, *chunk, *END, 11, 12]

    class Acts(LogitsProcessor):
        def __call__(self, input_ids, scores):
            said = input_ids.shape[1] - len(prompt)
            scores = scores.clone()
            scores[:, [42, *MARKER][said] if said < 4 else 42] = 1e4
            return scores

    ids = torch.tensor([prompt])
    out = gpt2.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[Acts(), processor],
        max_new_tokens=processor.max_new_tokens + 1,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
        do_sample=False,
    )
    new = out[0, len(prompt) :].tolist()
    assert new[:4] == [42, *MARKER]
    assert new[-2:] == END
    (found,) = processor.token_ids(out)
    assert [2900 - i for i in found.tolist()] == new[4:-2]
    assert small.decode([found], T, D).shape == (1, T, D)


# ---- What it is made of --------------------------------------------------------------------------------


def test_it_takes_a_mapping_a_range_or_an_array(small):
    grammar = ActionGrammar.of(small, T, D)
    ids = np.array(vlm_ids(grammar))
    forms = [ids, torch.from_numpy(ids), ids.tolist(), VlmVocab(64, VLM_VOCAB_SIZE, first_id=2900, step=-1)]
    for form in forms:
        processor = ActionLogitsProcessor(grammar, form, end=END, prompt_length=0)
        out = processor(torch.empty((1, 0), dtype=torch.long), torch.zeros(1, HEAD))
        assert finite(out) == [expected_ids(grammar, [])]


def test_a_private_embedding_pads_with_its_own_id(small):
    grammar = ActionGrammar.of(small, 1, 1)
    vlm = VlmVocab.private(64)
    one = int(np.flatnonzero(small.expansion_lengths == 1)[0])
    ended = torch.tensor([[one, vlm.eos_id]])
    for pad_id, expected in ((None, vlm.pad_id), (vlm.bos_id, vlm.bos_id)):
        processor = ActionLogitsProcessor(grammar, vlm, end=[vlm.eos_id], prompt_length=0, pad_id=pad_id)
        assert finite(processor(ended, torch.zeros(1, vlm.vlm_vocab_size))) == [{expected}]


def test_a_mapping_may_have_more_room(small):
    """As for prompts: token id i is the mapping's i-th, and no model may write the ids beyond."""
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, VlmVocab(100, 2950, first_id=2900, step=-1), end=END, prompt_length=0)
    out = processor(torch.empty((1, 0), dtype=torch.long), torch.zeros(1, HEAD))
    assert finite(out) == [expected_ids(grammar, [])]


def test_ids_of_no_vocabulary_are_no_token_ids(small):
    processor = ActionLogitsProcessor(ActionGrammar.of(small, T, D), range(2900, 2836, -1), end=END, prompt_length=1)
    rows = torch.tensor([[9, 2900, 2**33, -1, 2890], [9, -(2**40), -100, 2901, 2837]])
    assert [ids.tolist() for ids in processor.token_ids(rows)] == [[0, 10], [63]]


def test_a_native_chunk_takes_an_id_a_symbol_at_most(small):
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), end=END, prompt_length=0, marker=MARKER)
    assert processor.max_new_tokens == len(MARKER) + T * D + len(END)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vlm_ids": range(10, 20)}, "expected 64 VLM ids, one a token id, got int64 of shape (10,)"),
        ({"vlm_ids": np.linspace(0, 1, 64)}, "expected 64 VLM ids, one a token id, got float64 of shape (64,)"),
        ({"vlm_ids": range(-1, 63)}, "VLM ids must not be negative, got -1"),
        ({"vlm_ids": [9, *range(9, 72)]}, "VLM id 9 stands for 2 token ids"),
        ({"vlm_ids": range(64)}, "VLM id 1 ends or pads a chunk, and is that of token id 1"),
        ({"pad_id": 2900}, "VLM id 2900 ends or pads a chunk, and is that of token id 0"),
        (
            {"vlm_ids": VlmVocab(64, 2901, first_id=2900, step=-1), "pad_id": 2901},
            "VLM id 2901 lies outside the VLM vocabulary 0..2900",
        ),
        ({"end": []}, "end needs at least one VLM id, such as EOS"),
        ({"marker": [-3]}, "marker must be VLM ids, got -3"),
        ({"end": [2**31]}, "end must be at most 2147483647, got 2147483648"),
        (
            {"vlm_ids": VlmVocab(63, 2950, first_id=2000)},
            "expected 64 VLM ids, one a token id, got int32 of shape (63,)",
        ),
        ({"prompt_length": -1}, "prompt_length must be at least 0, got -1"),
        ({"prompt_length": 3.0}, "prompt_length must be an integer, got 3.0"),
        ({"end": [1.9]}, "end must be an integer, got 1.9"),
        ({"marker": [6, 7.5]}, "marker must be an integer, got 7.5"),
        ({"pad_id": 2.0}, "pad_id must be an integer, got 2.0"),
        ({"prompt_length": None}, "without prompt_length, the marker says where actions begin: it needs at least"),
        (
            {"prompt_length": None, "marker": [2900, BAR]},
            "the marker (2900, 5) could occur among actions, ends and pads: give prompt_length",
        ),
    ],
)
def test_what_cannot_work_is_refused(small, changed, message):
    arguments = {"vlm_ids": range(2900, 2836, -1), "end": END, "prompt_length": 0, **changed}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ActionLogitsProcessor(ActionGrammar.of(small, T, D), **arguments)


def test_shapes_that_do_not_fit_are_refused(small):
    grammar = ActionGrammar.of(small, T, D)
    processor = ActionLogitsProcessor(grammar, vlm_ids(grammar), end=END, prompt_length=4)
    ids = torch.full((2, 4), 9)
    for arguments, message in (
        ((ids, torch.zeros(3, HEAD)), "expected ids (B, L) and scores (B, W), got (2, 4) and (3, 3008)"),
        ((ids[0], torch.zeros(HEAD)), "expected ids (B, L) and scores (B, W), got (4,) and (3008,)"),
        ((ids, torch.zeros(2, 2900)), "scores are of 2900 ids, but VLM id 2900 is in use"),
        ((ids[:, :3], torch.zeros(2, HEAD)), "input_ids have 3 columns, prompt_length is 4"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            processor(*arguments)


def test_it_works_without_transformers():
    code = """
import sys
import fast_tokenizer.constrained
assert "torch" not in sys.modules
sys.modules["transformers"] = None  # an import of it fails
import torch
from fast_tokenizer import FastTokenizer
from fast_tokenizer.constrained import ActionGrammar
from fast_tokenizer.generation import ActionLogitsProcessor
tok = FastTokenizer.default()
processor = ActionLogitsProcessor(ActionGrammar.of(tok, 1, 1), range(10, 2058), end=[1], prompt_length=1)
print(int(processor(torch.tensor([[3]]), torch.zeros(1, 3000)).isfinite().sum()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == (FastTokenizer.default().expansion_lengths == 1).sum()
