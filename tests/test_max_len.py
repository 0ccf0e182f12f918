"""`recommend_max_len`: counts of what would be truncated, by counting."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_tokenizer import PromptBuilder, TokenBatch, VlmVocab, recommend_max_len
from fast_tokenizer.text import TextEncoder


def exact_match(text):
    return f"^{re.escape(text)}$"


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=30), min_size=1).filter(any),
    st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.9]),
    st.sampled_from([1, 8, 10]),
)
def test_the_recommended_length_is_the_smallest_that_truncates_no_more_than_allowed(parts, allowed, multiple):
    lengths = [n for part in parts for n in part]
    report = recommend_max_len(parts, max_truncated=allowed, multiple=multiple)
    assert report.sequences == len(lengths)

    def truncated(max_len):
        return sum(n > max_len for n in lengths)

    assert [report.truncated(n) for n in range(70)] == [truncated(n) for n in range(70)]
    assert report.recommended % multiple == 0 < report.recommended
    assert truncated(report.recommended) <= round(allowed * 1000) * len(lengths) // 1000
    smaller = report.recommended - multiple
    assert smaller == 0 or truncated(smaller) > round(allowed * 1000) * len(lengths) // 1000
    assert report.recommended in report.candidates


@pytest.mark.parametrize("count", [10, 100, 1000, 3000])
def test_shares_are_not_off_by_the_rounding_of_a_float(count):
    report = recommend_max_len(np.arange(1, count + 1), multiple=1)
    assert report.quantile(0.9) == count * 9 // 10
    assert report.quantile(1.0) == count
    assert report.quantile(0.999) == -(-count * 999 // 1000)
    for allowed in (0.1, 0.3, 0.7):
        recommended = recommend_max_len(np.arange(1, count + 1), multiple=1, max_truncated=allowed).recommended
        assert recommended == count - round(count * allowed)


def test_a_corpus_is_read_once_batch_by_batch():
    letters = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], bos_id=2, eos_id=1)
    builder = PromptBuilder(letters, VlmVocab.paligemma(100))
    corpus = [
        (["go"] * 2, np.zeros((2, 1)), TokenBatch.from_lists([[1] * 5, [1] * 90])),
        (["stop"], np.zeros((1, 1)), TokenBatch.from_lists([[1] * 20])),
    ]
    report = recommend_max_len(builder.lengths(p, s, t) for p, s, t in corpus)
    assert np.flatnonzero(report.counts).tolist() == [38, 55, 123]
    assert report.recommended == 128
    for p, s, t in corpus:
        assert not builder.build(p, s, t, max_len=report.recommended).cut.any()
    assert report.truncated(122) == 1


def test_the_table_says_what_it_is_asked():
    report = recommend_max_len(
        np.repeat([100, 150, 181, 400], [500, 400, 99, 1]), max_truncated=0.001, candidates=[180]
    )
    assert report.candidates == (104, 152, 180, 184, 400)
    assert str(report).splitlines() == [
        "1000 sequences of 100..400 tokens, 128.3 on average",
        "recommended max_len 184",
        "  share of sequences    length",
        "              50.0 %       100",
        "              90.0 %       150",
        "              95.0 %       181",
        "              99.0 %       181",
        "              99.9 %       181",
        "             100.0 %       400",
        "             max_len   truncated      share",
        "                 104         500   50.000 %",
        "                 152         100   10.000 %",
        "                 180         100   10.000 %",
        "                 184           1    0.100 %",
        "                 400           0    0.000 %",
    ]


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {}, "got no lengths to recommend from"),
        ([[], []], {}, "got no lengths to recommend from"),
        ([[3], [-1]], {}, "lengths, part 1: expected numbers of tokens in 0..2**24, got int64 -1..-1"),
        ([[3.5]], {}, "lengths, part 0: expected numbers of tokens in 0..2**24, got float64 3.5..3.5"),
        ([[2**24 + 1]], {}, "lengths, part 0: expected numbers of tokens in 0..2**24, got int64 16777217..16777217"),
        ("abc", {}, "expected arrays of lengths, got 'abc'"),
        (5, {}, "expected arrays of lengths, got 5"),
        (["abc"], {}, "lengths, part 0: expected numbers of tokens in 0..2**24, got dtype <U3"),
        ([[3], None], {}, "lengths, part 1: expected numbers of tokens in 0..2**24, got dtype object"),
        ([[3]], {"max_truncated": 1.0}, "max_truncated must lie in [0, 1), got 1.0"),
        ([[3]], {"max_truncated": -0.1}, "max_truncated must lie in [0, 1), got -0.1"),
        ([[3]], {"multiple": 0}, "multiple must be positive, got 0"),
        ([[3]], {"candidates": [0]}, "candidates must be positive, got 0"),
    ],
)
def test_bad_lengths_and_options_are_refused(lengths, options, message):
    with pytest.raises(ValueError, match=exact_match(message)):
        recommend_max_len(lengths, **options)


def test_ragged_lengths_are_refused():
    with pytest.raises(ValueError, match=r"^lengths, part 1: not an array of numbers: "):
        recommend_max_len([[3], [[1], [2, 3]]])


def test_bad_questions_to_a_report_are_refused():
    report = recommend_max_len([[3]])
    with pytest.raises(ValueError, match=r"^share must lie in \(0, 1\], got 0$"):
        report.quantile(0)
    with pytest.raises(ValueError, match=r"^max_len must be 0 or more, got -1$"):
        report.truncated(-1)
