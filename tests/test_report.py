"""The numbers of a report, next to computations of their own."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.fft import dct

from fast_tokenizer import DecodeError, FastTokenizer, Normalizer
from fast_tokenizer.cli.reporting import summary
from fast_tokenizer.cutting import Cut
from fast_tokenizer.entropy import entropy_bounds
from fast_tokenizer.io import of_arrays
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.prefix import prefix_errors
from fast_tokenizer.relative import Relative
from fast_tokenizer.report import Pipeline, Sample, draw_sample, measure
from fast_tokenizer.report.edits import HARMS, harmed, robustness_to_edits
from fast_tokenizer.report.rates import (
    BINS,
    NAIVE,
    NATIVE,
    PUBLISHED,
    SCALE_FACTORS,
    rate_distortion,
    suggest_scale,
)
from fast_tokenizer.report.reconstruction import around_the_worst, reconstruct
from fast_tokenizer.report.spectrum import spectrum
from fast_tokenizer.report.usage import token_usage

N, T, D = 150, 20, 4
NAMES = ("reach", "lift", "stuck", "grip")
LEROBOT = {
    *(f"reconstruction_{name}" for name in ("mae", "mse", "rmse", "max_abs_error")),
    *(f"{name}_token_length" for name in ("mean", "std", "min", "max", "p50", "p99")),
    *("per_dimension_mae", "compression_ratio", "mean_encode_time_sec", "mean_decode_time_sec"),
}


def walks(count, seed):
    """(N, T, D) in units of their own: the third dimension is constant."""
    chunks = np.cumsum(np.random.default_rng(seed).normal(0, 0.1, (count, T, D)), axis=1)
    return chunks * [1.0, 30.0, 0.0, 0.2] + [0.0, -100.0, 7.0, 1.0]


FITTED, HELD = walks(600, 0), walks(N, 1)


@pytest.fixture(scope="module")
def tok():
    return FastTokenizer.fit(FITTED, 256, normalize="quantile", dimension_names=NAMES, hz=20.0)


@pytest.fixture(scope="module")
def numbers(tok):
    held, fitted = Sample.of_chunks(HELD), Sample.of_chunks(FITTED)
    return measure(Pipeline(tok), held, fitted, measured_on="given chunks", hz=20.0)


def normalized(tok, values):
    n = tok.spec.normalizer
    return (values - n.center) / np.where(n.half_range == 0, np.inf, n.half_range)


# ---- Headline, dimensions, chunks --------------------------------------------------------------------


def test_the_headline_is_what_a_loop_over_the_chunks_finds(tok, numbers):
    errors, lengths = [], []
    for chunk in HELD:
        (ids,) = tok.encode(chunk[None])
        errors.append(np.abs(normalized(tok, tok.decode([ids])[0]) - normalized(tok, chunk)))
        lengths.append(len(ids))
    errors = np.array(errors)
    h = numbers.reconstruction.headline
    assert h.chunks == N
    assert h.reconstruction_mae == pytest.approx(errors.mean())
    assert h.reconstruction_mse == pytest.approx((errors**2).mean())
    assert h.reconstruction_rmse == pytest.approx(math.sqrt((errors**2).mean()))
    assert h.reconstruction_max_abs_error == pytest.approx(errors.max())
    assert h.per_dimension_mae == pytest.approx(errors.mean(axis=(0, 1)).tolist())
    assert h.per_dimension_mae[2] == 0
    assert h.compression_ratio == pytest.approx(T * D / np.mean(lengths))
    assert h.mean_token_length == pytest.approx(np.mean(lengths))
    assert h.std_token_length == pytest.approx(np.std(lengths))
    assert (h.min_token_length, h.max_token_length) == (min(lengths), max(lengths))
    assert h.p50_token_length == np.percentile(lengths, 50)
    assert h.p99_token_length == np.percentile(lengths, 99)
    assert 0 < h.mean_encode_time_sec < 1
    assert 0 < h.mean_decode_time_sec < 1
    assert numbers.reconstruction.token_lengths.tolist() == lengths
    assert numbers.max_len.recommended == -(-max(lengths) // 8) * 8


def test_the_headline_agrees_with_the_library_s_own_evaluation(tok, numbers):
    quality, h = evaluate(tok, [HELD]), numbers.reconstruction.headline
    for name in ("reconstruction_rmse", "reconstruction_max_abs_error", "compression_ratio", "saturated", "clipped"):
        assert getattr(h, name) == pytest.approx(getattr(quality, name)), name


def test_the_json_is_json_with_lerobot_s_fields_at_the_top(numbers):
    values = json.loads(json.dumps(numbers.to_json(), allow_nan=False))
    assert values.keys() >= LEROBOT
    assert values["about"]["dimension_names"] == list(NAMES)
    assert values["about"]["fingerprint"]
    assert values["suggested_max_length"] == numbers.max_len.recommended
    assert [c["name"] for c in values["rate_distortion"]["curves"]] == [NATIVE, PUBLISHED, NAIVE]


def test_errors_of_a_dimension_are_in_its_own_units(tok, numbers):
    raw = np.abs(tok.decode(tok.encode(HELD)) - HELD)
    unit = [*(1 / tok.spec.normalizer.half_range[:2]), 0, 1 / tok.spec.normalizer.half_range[3]]
    for d, found in enumerate(numbers.reconstruction.dimensions):
        assert found.name == NAMES[d]
        assert found.raw_mae == pytest.approx(raw[..., d].mean(), abs=1e-12)
        assert found.raw_rmse == pytest.approx(math.sqrt((raw[..., d] ** 2).mean()), abs=1e-12)
        assert found.raw_p99_abs_error == pytest.approx(np.quantile(raw[..., d], 0.99), abs=1e-12)
        assert found.raw_max_abs_error == pytest.approx(raw[..., d].max(), abs=1e-12)
        assert found.rmse == pytest.approx(found.raw_rmse * unit[d])
        assert found.max_abs_error == pytest.approx(found.raw_max_abs_error * unit[d])
    assert numbers.reconstruction.dimensions[1].raw_rmse > 10 * numbers.reconstruction.dimensions[0].raw_rmse


def test_the_worst_chunk_is_the_one_that_was_spoiled(tok):
    chunks = HELD.copy()
    chunks[37, 11:, 3] += 5.0  # a jump that needs more coefficients than the tokenizer has range for
    result, _ = reconstruct(Pipeline(tok), Sample.of_chunks(chunks), NAMES)
    assert (result.worst.index, result.worst.place, result.worst.dimension) == (37, "chunk 37, step 0", 3)
    np.testing.assert_array_equal(result.worst.recorded, chunks[37])
    np.testing.assert_allclose(result.worst.decoded, tok.decode(tok.encode(chunks[37:38]))[0])
    rmse = [
        math.sqrt((normalized(tok, d - c + tok.spec.normalizer.center) ** 2).mean())
        for d, c in zip(tok.decode(tok.encode(chunks)), chunks, strict=True)
    ]
    assert result.typical.rmse == pytest.approx(sorted(rmse)[(N - 1) // 2])
    assert result.typical.index == rmse.index(sorted(rmse)[(N - 1) // 2])


def test_the_episode_around_the_worst_chunk_is_decoded_end_to_end(tok):
    episode = np.concatenate(list(walks(7, 4)))[:-3]  # 6 whole chunks and a part
    trajectories = of_arrays("run", [np.concatenate(list(walks(3, 5))), episode]).trajectories
    sample = draw_sample(trajectories, Cut(T), 10**6)
    pipeline = Pipeline(tok)
    worst = reconstruct(pipeline, sample, NAMES)[0].worst
    for i in range(0, len(sample.places), 7):
        place = sample.places[i]
        found = around_the_worst(pipeline, sample, replace(worst, index=i))
        whole = episode if place.trajectory == "run episode 1" else np.concatenate(list(walks(3, 5)))
        assert (found.first_step - place.step) % T == 0
        assert found.first_step == max(place.step % T, place.step - 4 * T)
        assert len(found.recorded) % T == 0
        assert found.first_step + len(found.recorded) + T > min(len(whole), place.step + 5 * T)
        np.testing.assert_array_equal(found.recorded, whole[found.first_step :][: len(found.recorded)])
        np.testing.assert_array_equal(found.recorded[found.worst_step :][:T], sample.chunks[i])
        decoded = [tok.decode(tok.encode(c[None]))[0] for c in found.recorded.reshape(-1, T, D)]
        np.testing.assert_allclose(found.decoded, np.concatenate(decoded))
        error = normalized(tok, found.decoded) - normalized(tok, found.recorded)
        jumps = [np.abs(error[j] - error[j - 1]) for j in range(T, len(error), T)]
        assert found.max_join_error == pytest.approx(np.max(jumps))


def test_saturation_and_clipping_are_counted_where_they_happen():
    clipped = FastTokenizer.fit(FITTED, 256, normalize="quantile", clip=1.1)
    chunks = HELD.copy()
    chunks[3, :, 1] += 5000.0
    chunks[4, 5, 2] += 1.0
    y = normalized(clipped, chunks)
    expected_clipped = (np.abs(y) > 1.1).sum(axis=(0, 1))
    expected_clipped[2] = 1  # the constant was left once
    result, tokens = reconstruct(Pipeline(clipped), Sample.of_chunks(chunks), NAMES)
    assert [d.clipped for d in result.dimensions] == expected_clipped.tolist()
    assert result.headline.clipped == tokens.clipped.sum() == expected_clipped.sum()

    tok = FastTokenizer.fit(FITTED, 256, normalize="quantile")
    chunks[8, ::2, 0] += 40.0
    quantized = np.rint(dct(normalized(tok, chunks), axis=1, norm="ortho") * tok.spec.scale)
    outside = ((quantized < tok.spec.min_coefficient) | (quantized > tok.spec.max_coefficient)).sum(axis=(0, 1))
    result, tokens = reconstruct(Pipeline(tok), Sample.of_chunks(chunks), NAMES)
    assert outside[0] > 1
    assert outside[1] >= 1
    assert [d.saturated for d in result.dimensions] == outside.tolist()
    assert result.headline.saturated == tokens.saturated.sum() == outside.sum()


# ---- Curves ------------------------------------------------------------------------------------------


def test_points_of_the_curves_are_fits_at_their_scale(tok, numbers):
    rates = numbers.rates
    assert rates.separate_episodes
    assert (rates.fitted_chunks, rates.measured_chunks) == (600, N)
    fitted, held = normalized(tok, FITTED), normalized(tok, HELD)
    for name, compat in ((NATIVE, None), (PUBLISHED, "published")):
        for scale in (5.0, 10.0):
            refit = FastTokenizer.fit(fitted, 256, scale, compat=compat)
            tokens = refit.encode(held)
            error = refit.decode_with_status(tokens)[0] - held
            error[..., 2] = 0  # comes back as the constant, whatever is decoded
            point = rates.curve(name).at(scale)
            assert point.mean_token_length == pytest.approx(tokens.lengths.mean())
            assert point.reconstruction_rmse == pytest.approx(math.sqrt((error**2).mean()))
            assert point.reconstruction_max_abs_error == pytest.approx(np.abs(error).max())
            assert point.lost == tokens.saturated.sum() + tokens.dropped.sum()
    own = rates.tokenizer
    assert own.mean_token_length == numbers.reconstruction.headline.mean_token_length
    assert own.reconstruction_rmse == pytest.approx(numbers.reconstruction.headline.reconstruction_rmse)
    assert own.bits_per_chunk == pytest.approx(own.mean_token_length * 8)
    errors = [p.reconstruction_rmse for p in rates.curve(NATIVE).points]
    assert errors == sorted(errors, reverse=True)
    assert len(rates.curve(NATIVE).points) > 5


def test_naive_binning_gives_each_value_the_middle_of_its_bin(tok, numbers):
    low, high = FITTED.min(axis=(0, 1)), FITTED.max(axis=(0, 1))
    squares = 0.0
    for d in (0, 1, 3):
        edges = np.linspace(low[d], high[d], 65)
        middles = (edges[1:] + edges[:-1]) / 2
        at = np.digitize(HELD[..., d], edges[1:-1])
        squares += (((middles[at] - HELD[..., d]) / tok.spec.normalizer.half_range[d]) ** 2).sum()
    point = numbers.rates.curve(NAIVE).at(64)
    assert point.reconstruction_rmse == pytest.approx(math.sqrt(squares / HELD.size), rel=1e-6)
    assert (point.mean_token_length, point.bits_per_chunk) == (T * D, T * D * 6)
    assert point.lost == (HELD.clip(low, high) != HELD)[..., [0, 1, 3]].sum()
    assert [p.setting for p in numbers.rates.curve(NAIVE).points] == list(BINS)


def test_scales_without_room_are_left_out_and_said_so():
    small = FastTokenizer.fit(FITTED, 80, 4.0, normalize="quantile")
    rates = rate_distortion(Pipeline(small), FITTED, HELD, separate_episodes=True)
    for name in (NATIVE, PUBLISHED):
        curve = rates.curve(name)
        assert curve.points
        assert curve.left_out
        assert all("vocab_size=80" in reason and ";" not in reason for reason in curve.left_out)
        assert len(curve.points) + len(curve.left_out) == 11


def test_a_scale_for_each_dimension_is_swept_as_a_whole():
    tok = FastTokenizer.fit(FITTED, 256, [5.0, 10.0, 5.0, 20.0], normalize="quantile")
    rates = rate_distortion(Pipeline(tok), FITTED, HELD, separate_episodes=True)
    assert rates.curve(NATIVE).at(1.0).mean_token_length == pytest.approx(rates.tokenizer.mean_token_length)


def test_one_step_and_positive_values_leave_out_what_does_not_fit():
    chunks = np.random.default_rng(0).uniform(9.0, 10.0, (60, 1, 2))
    tok = FastTokenizer.fit(chunks, 150, 10.0)
    rates = rate_distortion(Pipeline(tok), chunks, chunks, separate_episodes=False)
    curve = rates.curve(NATIVE)
    assert curve.points
    assert curve.left_out
    assert len(curve.points) + len(curve.left_out) == 11


def test_factors_on_scales_of_dimensions_are_suggested_and_the_published_fit_is_swept():
    scales = [5.0, 20.0, 1.0, 10.0]
    tok = FastTokenizer.fit(FITTED, 256, scales, normalize="quantile")
    held, fitted = Sample.of_chunks(HELD), Sample.of_chunks(FITTED)
    found = measure(Pipeline(tok), held, fitted, measured_on="given chunks", max_rmse=0.05)
    assert found.rates.factors
    assert found.rates.tokenizer.setting == 1.0
    assert found.scale.scale in SCALE_FACTORS
    assert "of its scales" in summary(found)
    point = found.rates.curve(PUBLISHED).at(9.0)
    inputs = tok.spec.normalizer.apply(FITTED)
    refit = FastTokenizer.fit(inputs, 256, 9.0, compat="published")
    assert point.mean_token_length == refit.encode(tok.spec.normalizer.apply(HELD)).lengths.mean()


def test_huge_values_are_one_error_before_any_work(tok):
    stages = []
    huge = Sample.of_chunks(HELD * 1e200)
    with pytest.raises(ValueError, match=r"actions reach .*e\+20\d, too large to measure"):
        measure(Pipeline(tok), huge, huge, measured_on="given chunks", progress=lambda *stage: stages.append(stage))
    assert not stages


def test_the_tokenizer_itself_may_be_suggested_and_what_is_lost_is_said(tok):
    held, fitted = Sample.of_chunks(HELD * 1.5), Sample.of_chunks(FITTED)
    rates = rate_distortion(Pipeline(tok), fitted.chunks, held.chunks, separate_episodes=True)
    own = replace(rates.tokenizer, reconstruction_rmse=0.0)
    assert suggest_scale((own,)).scale == own.setting
    found = measure(Pipeline(tok), held, fitted, measured_on="given chunks", max_rmse=1e9)
    assert found.scale.lost == rates.curve(NATIVE).points[0].lost > 0
    assert f"{found.scale.lost:,} coefficients lost to saturation" in summary(found)


def test_a_smaller_scale_of_the_tokenizer_itself_is_a_candidate(monkeypatch, tok):
    monkeypatch.setattr("fast_tokenizer.report.rates.SCALE_FACTORS", (2.0, 4.0))
    found = measure(
        Pipeline(tok), Sample.of_chunks(HELD), Sample.of_chunks(FITTED), measured_on="given chunks", max_rmse=1e9
    )
    assert found.scale.scale == tok.spec.scale


def test_refits_code_as_the_tokenizer_does():
    coding = {"order": "dimension-first", "end_of_block": "dimension", "parsing": "optimal", "dead_zone": 0.65}
    tok = FastTokenizer.fit(FITTED, 256, normalize="quantile", **coding)
    numbers = measure_few(Pipeline(tok), HELD[:40], FITTED)
    own, refit = numbers.rates.tokenizer, numbers.rates.curve(NATIVE).at(10.0)
    assert refit.mean_token_length == pytest.approx(own.mean_token_length)
    assert refit.reconstruction_rmse == pytest.approx(own.reconstruction_rmse)
    assert numbers.rates.curve(PUBLISHED).at(10.0).mean_token_length > 1.05 * refit.mean_token_length
    named = {"order": "dimension-first", "end of block": "dimension", "parsing": "optimal", "dead zone": 0.65}
    assert numbers.about.coding == named
    assert [r.found_share for r in numbers.edits.results] != [1, 1, 1, 1]


# ---- Energy, usage -----------------------------------------------------------------------------------


def test_the_spectrum_has_its_energy_where_the_motion_is():
    step = np.arange(T) + 0.5
    motion = 0.5 * np.cos(np.pi * 6 * step / T)  # coefficient 6 and no other
    chunks = np.repeat(motion[None, :, None], 3, axis=0) * [1.0, 0.0]
    found = spectrum(chunks, chunks + 0.1, 20.0, np.array([10.0]))
    assert found.frequency[6] == pytest.approx(3.0)
    assert found.in_hz
    assert found.actions.argmax() == 6
    assert found.actions.sum() == pytest.approx((chunks**2).mean() * T)  # Parseval
    assert found.actions_by_dimension[:, 1].sum() == pytest.approx(0)
    assert found.errors[0] == pytest.approx(0.1**2 * T)
    assert found.errors[1:].max() < 1e-12
    coefficients = dct(chunks, axis=1, norm="ortho")
    left = np.square(np.rint(coefficients * 10) / 10 - coefficients).mean(axis=(0, 2))
    assert found.rounding == pytest.approx(left)
    scales = np.linspace(1.0, 9.0, chunks.shape[2])
    scaled = coefficients * scales
    left = np.where(np.abs(scaled) < 0.8, 0.0, np.rint(scaled)) / scales - coefficients
    assert spectrum(chunks, chunks, None, scales, 0.8).rounding == pytest.approx(np.square(left).mean(axis=(0, 2)))
    assert set(found.bandwidth.values()) == {found.frequency[6]}
    assert not spectrum(chunks * 0, chunks * 0, None, np.array([10.0])).bandwidth
    assert not spectrum(chunks[:, :1], chunks[:, :1], None, np.array([10.0])).in_hz


def test_usage_of_known_ids(tok):
    even = token_usage(tok, np.arange(256), 4, 80)
    assert (even.ids_used, even.entropy_bits, even.normalized_entropy) == (256, 8.0, 1.0)
    assert even.renyi_efficiency == pytest.approx(1.0)
    assert (even.bits_per_chunk, even.entropy_bits_per_chunk) == (64 * 8, 64 * 8)
    assert even.bits_per_action == pytest.approx(64 * 8 / 80)
    assert even.mean_expansion_length == pytest.approx(tok.expansion_lengths.mean())
    longest = int(tok.expansion_lengths.argmax())
    skewed = token_usage(tok, np.array([longest, 5, longest, longest]), 1, 80)
    assert skewed.ids_used == 2
    assert skewed.entropy_bits == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert skewed.renyi_efficiency == pytest.approx(math.log2(0.75**2.5 + 0.25**2.5) / (1 - 2.5) / 8)
    assert skewed.counts[[longest, 5]].tolist() == [3, 1]
    assert skewed.mean_expansion_length == (3 * tok.expansion_lengths[longest] + 1) / 4 > 2
    one = token_usage(tok, np.array([9, 9]), 1, 80)
    assert (one.entropy_bits, one.renyi_efficiency) == (0.0, 0.0)


def test_usage_is_that_of_all_chunks(tok, numbers):
    ids = [i for sequence in tok.encode(HELD).to_list() for i in sequence]
    assert numbers.usage.counts.tolist() == np.bincount(ids, minlength=256).tolist()
    quantized = np.rint(dct(normalized(tok, HELD), axis=1, norm="ortho") * tok.spec.scale).reshape(N, T * D)
    used = [int(np.flatnonzero(chunk).max()) + 1 for chunk in quantized]  # zeros after them are no symbols: an end is
    assert min(used) < T * D
    assert numbers.usage.counts @ tok.expansion_lengths == sum(u + (u < T * D) for u in used)


def test_the_spectrum_of_the_errors_has_their_energy(numbers):
    headline = numbers.reconstruction.headline
    assert numbers.spectrum.errors.sum() == pytest.approx(headline.reconstruction_mse * T)


@pytest.mark.parametrize(
    "coding",
    [{"end_of_block": None}, {"end_of_block": "chunk"}, {"order": "dimension-first", "end_of_block": "dimension"}],
    ids=["plain", "chunk", "dimension"],
)
def test_entropy_bounds_are_of_the_coefficients_that_the_tokens_describe(coding):
    tok = FastTokenizer.fit(FITTED, 256, normalize="quantile", **coding)
    found = measure_few(Pipeline(tok), HELD, FITTED).entropy

    def coefficients(chunks):
        return np.stack([tok.coefficients(ids).reshape(T, D) for ids in tok.encode(chunks)])

    assert found == entropy_bounds(coefficients(FITTED), coefficients(HELD))
    assert found.per_place < found.order_0


# ---- Prefixes, edits ---------------------------------------------------------------------------------


def test_prefixes_are_measured_as_the_library_does(tok, numbers):
    expected = prefix_errors(tok, [HELD])  # all: there are fewer than the report takes
    np.testing.assert_allclose(numbers.prefix.by_fraction.actions_rmse, expected.by_fraction.actions_rmse)
    assert numbers.prefix_left_out == 0


def test_edits_are_what_decoding_one_after_the_other_finds(tok):
    chunks = HELD[:12]
    found = robustness_to_edits(Pipeline(tok), chunks, 3, seed=5)
    whole = tok.encode(chunks)
    unharmed = normalized(tok, tok.decode(whole))
    assert [r.harm for r in found.results] == list(HARMS[1:])
    assert found.max_abs_action == pytest.approx(np.abs(unharmed).max())
    for result in found.results:
        rng = np.random.default_rng(5)
        refused, kept, repaired = 0, [], []
        for i, sequence in enumerate(whole.to_list()):
            for _ in range(3):
                wrong = harmed(result.harm, sequence, tok.vocab_size, rng)
                repaired.append((normalized(tok, tok.decode_with_status([wrong])[0][0]), unharmed[i]))
                try:
                    kept.append((normalized(tok, tok.decode([wrong])[0]), unharmed[i]))
                except DecodeError:
                    refused += 1
        assert result.sequences == 36
        assert result.found_share == pytest.approx(refused / 36)
        distance = [a - b for a, b in repaired]
        assert result.repaired_rmse == pytest.approx(math.sqrt(np.square(distance).mean()))
        assert result.repaired_max_abs_action == pytest.approx(max(np.abs(a).max() for a, _ in repaired))
        if kept:
            distance = [a - b for a, b in kept]
            assert result.accepted_rmse == pytest.approx(math.sqrt(np.square(distance).mean()))
            assert result.accepted_max_abs_action == pytest.approx(max(np.abs(a).max() for a, _ in kept))
        else:
            assert result.accepted_rmse is result.accepted_max_abs_action is None
    assert found.results[0].found_share < 1  # a substitution by an id of the same length is not found


# ---- Samples and pipelines ---------------------------------------------------------------------------


def test_a_sample_is_uniform_seeded_and_says_where_its_chunks_are_from():
    episodes = [np.arange(n * 2.0).reshape(n, 2) + 1000 * i for i, n in enumerate((30, 4, 12, 50))]
    trajectories = of_arrays("run", episodes).trajectories
    every = draw_sample(trajectories, Cut(5, 3), 10**6)
    expected = [(i, s) for i, e in enumerate(episodes) for s in range(0, len(e) - 4, 3)]
    assert [(p.trajectory, p.step) for p in every.places] == [(f"run episode {i}", s) for i, s in expected]
    for chunk, (i, s) in zip(every.chunks, expected, strict=True):
        np.testing.assert_array_equal(chunk, episodes[i][s : s + 5])
    assert (every.drawn_from, every.episodes) == (len(expected), 3)

    some = draw_sample(trajectories, Cut(5, 3), 6)
    assert [str(p) for p in some.places] == [str(p) for p in draw_sample(trajectories, Cut(5, 3), 6).places]
    assert len(set(some.places)) == 6
    assert set(some.places) < set(every.places)
    assert some.drawn_from == len(expected)
    drawn = [p for seed in range(300) for p in draw_sample(trajectories, Cut(5, 3), 6, seed=seed).places]
    counts = [drawn.count(p) for p in every.places]
    mean = 300 * 6 / len(expected)
    assert all(0.6 * mean < c < 1.4 * mean for c in counts)  # five standard deviations

    with pytest.raises(ValueError, match=r"^none of the 4 episodes has 51 steps$"):
        draw_sample(trajectories, Cut(51), 5)


def test_a_sample_may_be_relative_and_filled_at_the_end():
    rng = np.random.default_rng(0)
    actions, states = rng.normal(size=(2, 12, 2)), rng.normal(size=(2, 12, 3))
    dataset = of_arrays("run", list(actions))
    load = dataset.load

    def with_state(chosen):
        return (replace(s, state=states[i]) for s, i in zip(load(chosen), np.flatnonzero(chosen), strict=True))

    cut = Cut(5, 4, "repeat-last", Relative((1,), (2,), 3))
    sample = draw_sample(replace(dataset, load=with_state, state_dim=3).trajectories, cut, 10**6)
    assert [(p.trajectory, p.step) for p in sample.places] == [
        (f"run episode {i}", s) for i in (0, 1) for s in (0, 4, 8)
    ]
    for chunk, (i, s) in zip(sample.chunks, [(i, s) for i in (0, 1) for s in (0, 4, 8)], strict=True):
        expected = actions[i][np.minimum(np.arange(s, s + 5), 11)] - [0, states[i][s, 2]]
        np.testing.assert_allclose(chunk, expected)
    assert sample.around(2, 4)[0] == 1  # step 8 has step 3 before it, and nothing whole after it
    np.testing.assert_allclose(sample.around(2, 4)[1][0], actions[0][3:8] - [0, states[0][3, 2]])
    with pytest.raises(ValueError, match="has no state, which relative actions need"):
        draw_sample(dataset.trajectories, cut, 1)


def test_a_normaliser_before_a_tokenizer_is_undone_after_it(tok):
    n = tok.spec.normalizer
    bare = FastTokenizer.fit(normalized(tok, FITTED), 256)
    before = Pipeline(bare, Normalizer("quantile", n.center, n.half_range))
    inside = measure_few(Pipeline(tok))
    outside = measure_few(before)
    assert not outside.about.normalizer_in_tokenizer
    assert outside.about.normalizer == "quantile"
    a, b = inside.reconstruction, outside.reconstruction
    for name in ("reconstruction_rmse", "reconstruction_max_abs_error", "mean_token_length", "clipped", "saturated"):
        assert getattr(b.headline, name) == pytest.approx(getattr(a.headline, name)), name
    assert b.dimensions[1].raw_rmse == pytest.approx(a.dimensions[1].raw_rmse)
    assert outside.edits.results[3].repaired_rmse == pytest.approx(inside.edits.results[3].repaired_rmse)
    np.testing.assert_allclose(outside.spectrum.actions, inside.spectrum.actions)
    with pytest.raises(ValueError, match="has a normaliser of its own"):
        Pipeline(tok, n)


def measure_few(pipeline, chunks=HELD[:20], fitted=FITTED[:100]):
    held = Sample.of_chunks(chunks)
    return measure(pipeline, held, held if fitted is None else Sample.of_chunks(fitted), measured_on="given chunks")


def test_a_published_vocabulary_that_lacks_ids_is_measured_and_its_losses_counted(tok):
    fitted = normalized(tok, FITTED)[:30]
    published = FastTokenizer.fit(fitted, 160, compat="published")
    chunks = normalized(tok, HELD) * 1.5
    numbers = measure_few(Pipeline(published), chunks, fitted)
    tokens = published.encode(chunks)
    _, status = published.decode_with_status(tokens)
    assert tokens.dropped.sum() > 0
    assert numbers.reconstruction.headline.dropped == tokens.dropped.sum()
    assert numbers.reconstruction.headline.malformed_chunks == (~status.ok).sum() == numbers.prefix_left_out > 0
    assert numbers.about.kind == "published"
    assert numbers.about.max_abs_input == pytest.approx(np.abs(chunks).max())
    assert len(numbers.prefix.lengths) == status.ok.sum()


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 1, 3), (9, 16, 1)], ids=str)
def test_small_shapes_are_measured(shape):
    chunks = np.cumsum(np.random.default_rng(2).normal(0, 0.1, shape), axis=1)
    numbers = measure_few(Pipeline(FastTokenizer.default()), chunks, None)
    assert numbers.reconstruction.headline.chunks == shape[0]
    assert not numbers.rates.separate_episodes
    json.dumps(numbers.to_json(), allow_nan=False)


def test_data_that_never_moves_is_measured():
    chunks = np.full((5, 8, 2), 3.0)
    numbers = measure_few(Pipeline(FastTokenizer.fit(chunks, 4, normalize="quantile")), chunks, None)
    assert numbers.reconstruction.headline.reconstruction_max_abs_error == 0
    assert numbers.spectrum.actions.max() == 0
    assert not numbers.spectrum.bandwidth
    json.dumps(numbers.to_json(), allow_nan=False)
