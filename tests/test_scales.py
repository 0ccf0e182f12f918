"""Scales that keep an error: small enough, and no smaller than that."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fast_tokenizer import FastTokenizer, Normalizer, TokenizerSpec
from fast_tokenizer import scales as scales_module
from fast_tokenizer.chunk import ChunkBlock
from fast_tokenizer.cli.app import app
from fast_tokenizer.scales import ErrorTargets, check_target


class Again:
    """Chunks that can be read again, and are never held."""

    def __init__(self, chunks=None):
        self.chunks = CHUNKS if chunks is None else chunks

    def __iter__(self):
        yield from np.array_split(self.chunks, 5)


N, T = 300, 25
SPREAD, OFFSET = np.array([0.05, 0.2, 1.0]), np.array([0.0, 10.0, -5.0])
CHUNKS = np.cumsum(np.random.default_rng(0).normal(0, SPREAD, (N, T, 3)), axis=1) + OFFSET


def fit_scales(blocks, normalizer, dead_zone=0.5, target_rmse=None, target_max_error=None):
    return scales_module.fit_scales(blocks, normalizer, ErrorTargets(target_rmse, target_max_error), dead_zone)


def errors(chunks, scales, normalizer=None, dead_zone=0.5):
    """(N, T, D): what is off, through the tokenizer itself."""
    coefficients = np.empty((0, 2))
    spec = TokenizerSpec(scales, -8000, 8000, coefficients, normalizer, action_dim=3, dead_zone=dead_zone)
    tok = FastTokenizer(spec)
    batch = tok.encode(chunks)
    assert not batch.saturated.any()
    return tok.decode(batch, chunks.shape[1]) - chunks


def rmse(error):
    return np.sqrt(np.square(error).mean(axis=(0, 1)))


def largest(error):
    return np.abs(error).max(axis=(0, 1))


@pytest.mark.parametrize("normalizer", [None, Normalizer.fit(CHUNKS, "quantile")])
@pytest.mark.parametrize("dead_zone", [0.5, 0.7])
@pytest.mark.parametrize(("target", "measure"), [("target_rmse", rmse), ("target_max_error", largest)])
@pytest.mark.parametrize("allowed", [(0.02,), (0.005, 0.01, 0.2)])
def test_the_smallest_scales_that_keep_the_error(normalizer, dead_zone, target, measure, allowed):
    blocks = [ChunkBlock(CHUNKS[:200], None, 0), ChunkBlock(CHUNKS[200:], None, 200)]
    scales = fit_scales(blocks, normalizer, dead_zone=dead_zone, **{target: allowed})
    assert (measure(errors(CHUNKS, scales, normalizer, dead_zone)) <= np.array(allowed) * (1 + 1e-9)).all()
    smaller = tuple(s * 0.97 for s in scales)
    assert (measure(errors(CHUNKS, smaller, normalizer, dead_zone)) > np.array(allowed) * 0.999).any()
    assert (measure(errors(CHUNKS, tuple(s * 0.6 for s in scales), normalizer, dead_zone)) > allowed).all()


def test_both_targets_are_kept():
    blocks = [ChunkBlock(CHUNKS, None, 0)]
    one = fit_scales(blocks, None, target_rmse=(0.05,))
    other = fit_scales(blocks, None, target_max_error=(0.1, 1.0, 0.01))
    both = fit_scales(blocks, None, target_rmse=(0.05,), target_max_error=(0.1, 1.0, 0.01))
    assert (np.array(both) >= np.maximum(one, other) * (1 - 1e-9)).all()


@pytest.mark.parametrize("seed", range(40))
def test_both_targets_are_kept_together(seed):
    """The largest error is not monotone in the scale: what keeps each of them need not keep both."""
    chunks = np.random.default_rng(seed).normal(0, 0.1, (40, 16, 5)).cumsum(axis=1)
    tok = FastTokenizer.fit(chunks, 1024, target_rmse=0.06, target_max_error=0.2)
    error = tok.decode(tok.encode(chunks)) - chunks
    assert np.abs(error).max() <= 0.2
    assert (rmse(error) <= 0.06).all()


@pytest.mark.parametrize("source", [lambda c: c, iter, lambda c: Again(c)], ids=["array", "iterator", "again"])
def test_all_chunks_keep_the_targets_not_only_the_sample(monkeypatch, source):
    monkeypatch.setattr("fast_tokenizer.fitting.SAMPLE_VALUES", 2000)
    lively = CHUNKS * np.where(np.arange(N) % 50 == 7, 4.0, 1.0)[:, None, None]
    tok = FastTokenizer.fit(source(lively), 8192, target_rmse=0.05, target_max_error=0.1)
    error = tok.decode(tok.encode(lively)) - lively
    assert np.abs(error).max() <= 0.1
    assert (rmse(error) <= 0.05).all()
    alone = FastTokenizer.fit(lively[:50], 8192, target_rmse=0.05, target_max_error=0.1)
    assert max(tok.spec.scale) < 10 * max(alone.spec.scale), "raised, not given up"


def test_what_lets_coefficients_saturate_is_refused():
    with pytest.raises(ValueError, match="range_quantile below 1 lets coefficients saturate, which no target allows"):
        FastTokenizer.fit(CHUNKS, target_rmse=0.1, range_quantile=0.999)


def test_a_dimension_that_is_still_needs_no_scale():
    chunks = CHUNKS.copy()
    chunks[:, :, 1] = 7.0
    scales = fit_scales([ChunkBlock(chunks, None, 0)], Normalizer.fit(chunks, "quantile"), target_rmse=(0.01,))
    assert scales[1] == 1.0
    zeros = np.zeros_like(chunks)
    assert fit_scales([ChunkBlock(zeros, None, 0)], None, target_max_error=(0.01,)) == (1.0, 1.0, 1.0)


def test_a_target_beyond_all_motion_leaves_nothing():
    (scale,) = fit_scales([ChunkBlock(CHUNKS[:, :, :1], None, 0)], None, target_rmse=(1e6,))
    largest = np.abs(CHUNKS[:, :, 0]).sum(axis=1).max()
    assert 0 < scale * largest < 5


def test_chunks_of_differing_horizon():
    rows = CHUNKS.reshape(-1, 3)
    ragged = ChunkBlock(rows[: 10 + 40 + 25], np.array([0, 10, 50, 75]), 0)
    scales = fit_scales([ragged], None, target_rmse=(0.02,))
    parts = [rows[0:10], rows[10:50], rows[50:75]]
    squares = sum(np.square(errors(p[None], scales)).sum(axis=(0, 1)) for p in parts)
    assert (np.sqrt(squares / 75) <= 0.02 + 1e-9).all()


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), [], [0.1, 0.0], [[0.1]], "a", True])
def test_targets_that_cannot_be_kept_are_refused(bad):
    with pytest.raises(ValueError, match="target_rmse must be positive, a number or one per dimension"):
        check_target("target_rmse", bad)


def test_a_target_of_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="target_max_error has 2 entries, the chunks have 3 dimensions"):
        fit_scales([ChunkBlock(CHUNKS, None, 0)], None, target_max_error=(0.1, 0.2))


# ---- In a fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [lambda: CHUNKS, Again, lambda: iter(Again())], ids=["array", "again", "iterator"])
@pytest.mark.parametrize("normalize", [None, "quantile"])
def test_a_fit_keeps_its_targets(source, normalize):
    tok = FastTokenizer.fit(source(), 4096, normalize=normalize, target_rmse=[0.02, 0.05, 0.3], dead_zone=0.6)
    assert (rmse(tok.decode(tok.encode(CHUNKS)) - CHUNKS) <= [0.02, 0.05, 0.3]).all()
    assert len(tok.spec.scale) == 3
    coarse = FastTokenizer.fit(source(), 4096, normalize=normalize, target_rmse=[0.04, 0.1, 0.6], dead_zone=0.6)
    assert coarse.encode(CHUNKS).lengths.mean() < tok.encode(CHUNKS).lengths.mean()
    exact = FastTokenizer.fit(source(), 4096, normalize=normalize, target_max_error=0.5)
    assert (largest(exact.decode(exact.encode(CHUNKS)) - CHUNKS) <= 0.5).all()


def test_a_fit_of_a_sample_keeps_its_targets_on_it():
    tok = FastTokenizer.fit(CHUNKS, 4096, max_chunks=100, target_rmse=0.1)
    assert tok.fit_summary.chunks == 100
    whole = tok.encode(CHUNKS).saturated == 0  # others may leave the range
    assert (rmse((tok.decode(tok.encode(CHUNKS)) - CHUNKS)[whole]) <= 0.11).all()


def test_targets_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="allow larger errors, or raise vocab_size"):
        FastTokenizer.fit(CHUNKS, target_rmse=1e-6)


def test_the_published_fit_may_be_told_what_it_does():
    told = FastTokenizer.fit(CHUNKS, 4096, end_of_block=None, levels_beyond=0, compat="published")
    assert told == FastTokenizer.fit(CHUNKS, 4096, compat="published")


def test_a_scale_and_a_target_exclude_each_other():
    with pytest.raises(ValueError, match="give scale, or the errors that it is to keep"):
        FastTokenizer.fit(CHUNKS, scale=10.0, target_rmse=0.1)
    with pytest.raises(ValueError, match="target_rmse has 2 entries, the chunks have 3 dimensions"):
        FastTokenizer.fit(CHUNKS, target_rmse=[0.1, 0.2])
    with pytest.raises(ValueError, match="target_rmse cannot be set with compat='published'"):
        FastTokenizer.fit(CHUNKS, target_rmse=0.1, compat="published")


def test_the_command_line_keeps_targets_and_records_its_coding(tmp_path):
    np.savez(tmp_path / "e.npz", actions=CHUNKS.reshape(-1, 3), episode_ends=np.arange(25, 7501, 25) * 1, hz=25.0)
    command = ["fit", str(tmp_path / "e.npz"), "-o", str(tmp_path / "tok"), "--vocab-size", "2048"]
    options = ["--target-rmse", "0.05,0.05,0.2", "--order", "dimension-first", "--end-of-block", "dimension"]
    result = CliRunner().invoke(app, [*command, *options, "--parsing", "optimal", "--dead-zone", "0.65", "--json"])
    assert result.exit_code == 0, result.output
    tok = FastTokenizer.load(tmp_path / "tok")
    spec = tok.spec
    coding = (spec.order, spec.end_of_block, spec.parsing, spec.dead_zone)
    assert coding == ("dimension-first", "dimension", "optimal", 0.65)
    assert (rmse(tok.decode(tok.encode(CHUNKS)) - CHUNKS) < np.array([0.05, 0.05, 0.2]) * 1.2).all()
    result = CliRunner().invoke(app, [*command, *options])
    assert "Target RMSE kept in" in result.output
    inspected = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "tok"), "--json"]).output)
    assert (inspected["order"], inspected["end_of_block"], inspected["parsing"]) == (
        "dimension-first",
        "dimension",
        "bpe",
    )
    assert "order='dimension-first', end_of_block='dimension'" in repr(FastTokenizer.load(tmp_path / "tok"))
    result = CliRunner().invoke(app, [*command, "--target-rmse", "small"])
    assert "--target-rmse: expected a number" in str(result.exception)
    result = CliRunner().invoke(app, [*command, "--target-rmse", "0.1", "--scale", "5"])
    assert "give scale, or the errors" in str(result.exception)
