"""The page: one HTML file that needs nothing else, neither scripts nor network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

from fast_tokenizer.report import html
from fast_tokenizer.report.html import number, seconds
from fast_tokenizer.report.numbers import ReportNumbers
from fast_tokenizer.report.picture import Picture
from fast_tokenizer.report.rates import NAIVE, NATIVE, PUBLISHED, RatePoint, scale_text
from fast_tokenizer.report.usage import RENYI_ALPHA

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$css</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

#: Unnormalised actions beyond this get a note: normalised ones reach as far, but not much further.
_MAX_INPUT = 5.0


def render(numbers: ReportNumbers, pictures: Mapping[str, Picture], *, title: str, notes: Sequence[str] = ()) -> str:
    """The page's HTML.

    Args:
        numbers: What `measure` found.
        pictures: What `figures.draw` drew of it.
        title: Its heading, such as the tokenizer's name and the data's.
        notes: What the reader should know besides, such as episodes that were left out.
    """
    css = resources.files("fast_tokenizer.report").joinpath("page.css").read_text()
    body = [_head(numbers, title, notes)]
    body += [
        section(numbers, pictures)
        for section in (_rates, _spectrum, _lengths, _usage, _entropy, _chunks, _dimensions, _prefix, _losses, _edits)
    ]
    body.append(_foot(numbers))
    return _PAGE.substitute(title=escape(title), css=css, body="\n".join(body))


# ---- Sections ----------------------------------------------------------------------------------------


def _head(numbers: ReportNumbers, title: str, notes: Sequence[str]) -> str:
    about, h, scale = numbers.about, numbers.reconstruction.headline, numbers.scale
    rate = "" if about.hz is None else f" at {about.hz:g} Hz"
    facts = (
        f"{h.chunks:,} chunks of {about.time_horizon} steps x {about.action_dim} dimensions{rate}, drawn from "
        f"the {about.chunks_drawn_from:,} of {about.episodes:,} {_episodes(about.measured_on, about.episodes)}. "
        f"Tokenizer: {about.kind}, {about.vocab_size:,} ids, scale {html.scale(about.scale)}, "
        f"{''.join(f'{name} {value}, ' for name, value in about.coding.items())}"
        f"normaliser {about.normalizer or 'none'}{'' if about.normalizer_in_tokenizer else ', before it'}."
    )
    tiles = (
        ("tokens a chunk", f"{h.mean_token_length:.1f}", f"99th percentile {h.p99_token_length:.0f}"),
        (
            "compression",
            f"{h.compression_ratio:.1f} x",
            f"{about.time_horizon * about.action_dim:,} values a chunk, each a token if binned",
        ),
        (
            "bits an action value",
            f"{numbers.usage.bits_per_action:.2f}",
            f"{numbers.usage.bits_per_chunk:.0f} bits a chunk",
        ),
        ("RMSE, normalised", number(h.reconstruction_rmse), f"mean absolute {number(h.reconstruction_mae)}"),
        ("largest error, normalised", number(h.reconstruction_max_abs_error), "of one value, in all chunks"),
        (
            "encode / decode a chunk",
            seconds(h.mean_encode_time_sec),
            f"{seconds(h.mean_decode_time_sec)} to decode",
        ),
        (
            "suggested scale",
            "none" if scale.scale is None else scale_text(scale.scale, numbers.rates.factors).removeprefix("scale "),
            f"the smallest tried with RMSE at most {scale.max_rmse:g}"
            + (
                ""
                if scale.scale is None
                else f"; {scale.mean_token_length:.1f} tokens a chunk, {scale.lost:,} coefficients lost to saturation"
            ),
        ),
        (
            "suggested max length",
            f"{numbers.max_len.recommended}",
            "action tokens; truncates no chunk measured; a multiple of 8. A prompt comes on top",
        ),
    )
    boxes = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>'
        for name, value, note in tiles
    )
    found = [*_findings(numbers), *notes]
    listed = "".join(f"<li>{escape(note)}</li>" for note in found)
    box = f'<ul class="notes">{listed}</ul>' if found else ""
    return (
        f'<h1>{escape(title)}</h1>\n<p class="quiet facts">{escape(facts)}</p>\n<dl class="tiles">{boxes}</dl>\n{box}'
    )


def _episodes(measured_on: str, count: int) -> str:
    """'given episodes', or 'given episode' of one."""
    return measured_on.replace("episodes", "episode", 1).replace("chunks", "chunk", 1) if count == 1 else measured_on


def _findings(numbers: ReportNumbers) -> list[str]:
    """What a reader must not miss."""
    h, found = numbers.reconstruction.headline, []
    coefficients = h.chunks * numbers.about.time_horizon * numbers.about.action_dim
    if numbers.about.normalizer is None and numbers.about.max_abs_input > _MAX_INPUT:
        found.append(
            f"The tokenizer does not normalise, and these actions reach {number(numbers.about.max_abs_input)}, where "
            "it takes them in about [-1, 1]: normalise them (--normalize), or read no more of this page."
        )
    if not numbers.rates.separate_episodes:
        found.append("The refits over scales and the entropy models are measured on the chunks they were fitted on.")
    if h.saturated:
        found.append(
            f"{h.saturated:,} of {coefficients:,} coefficients saturate: these chunks move more than what the "
            "tokenizer was fitted on, and rounding alone does not explain their errors."
        )
    if h.clipped:
        found.append(f"The normaliser cuts {h.clipped:,} of {coefficients:,} values.")
    if h.dropped:
        found.append(
            f"The published vocabulary has no ids for {h.dropped:,} coefficients: {h.malformed_chunks:,} of "
            f"{h.chunks:,} chunks do not decode strictly, and were repaired to be measured."
        )
    return found


def _rates(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    rates = numbers.rates
    how = (
        "Further down and to the left is better; along a curve the scale rises. Each point is fitted on "
        f"{rates.fitted_chunks:,} chunks{' of other episodes' if rates.separate_episodes else ''}, with at most "
        f"{rates.vocab_size:,} ids, and measured on the same {rates.measured_chunks:,} chunks; naive binning has equal "
        "bins between each dimension's lowest and highest fitted value."
    )
    rows = [("this tokenizer", rates.tokenizer)]
    rows += [(name, p) for name in (NATIVE, PUBLISHED, NAIVE) for p in rates.curve(name).points]
    table = html.table(
        (
            "",
            "factor, scale or bins" if rates.factors else "scale or bins",
            "tokens a chunk",
            "bits a chunk",
            "RMSE",
            "largest error",
            "lost",
        ),
        [(name, *_rate_cells(point)) for name, point in rows],
    )
    left_out = "".join(
        f"<p class=quiet>Left out of {escape(c.name)}: {escape('; '.join(c.left_out))}.</p>"
        for c in rates.curves
        if c.left_out
    )
    note = (
        "<p class=quiet>Lost: coefficients that saturate or that the published vocabulary has no ids for, and values "
        "outside the bins.</p>"
    )
    return html.section(
        "rate-distortion",
        "Rate and distortion",
        how,
        html.figures(pictures, "rate_tokens", "rate_bits")
        + _comparison(numbers)
        + html.details("All points", table + note + left_out),
    )


def _comparison(numbers: ReportNumbers) -> str:
    """The published fit next to ours at the tokenizer's own scale."""
    setting = numbers.rates.tokenizer.setting
    ours, theirs = (numbers.rates.curve(name).at(setting) for name in (NATIVE, PUBLISHED))
    if ours is None or theirs is None or numbers.rates.factors:  # no setting in common
        return ""
    more = 100 * (theirs.mean_token_length / ours.mean_token_length - 1)
    return (
        f"<p>At scale {setting:g}, on the same chunks, the published fit takes {theirs.mean_token_length:.1f} tokens a "
        f"chunk at RMSE {number(theirs.reconstruction_rmse)} and loses {theirs.lost:,} coefficients; this library's "
        f"takes {ours.mean_token_length:.1f} at RMSE {number(ours.reconstruction_rmse)} and loses {ours.lost:,}: the "
        f"published one takes {abs(more):.1f} % {'more' if more >= 0 else 'fewer'}.</p>"
    )


def _rate_cells(point: RatePoint) -> tuple[str, ...]:
    return (
        f"{point.setting:g}",
        f"{point.mean_token_length:.1f}",
        f"{point.bits_per_chunk:,.0f}",
        number(point.reconstruction_rmse),
        number(point.reconstruction_max_abs_error),
        f"{point.lost:,}",
    )


def _spectrum(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    how = (
        "Where the blue line is far above the dotted one, coefficients survive rounding and cost tokens; where they "
        "meet, coefficients become 0. Thin lines are single dimensions; red is what is lost: above the dotted line, to "
        "saturation or clipping."
    )
    s = numbers.spectrum
    table = html.table(
        ("share of the energy that moves", "lies at or below" + (", Hz" if s.in_hz else ", cycles a step")),
        [(f"{100 * share:g} %", number(frequency)) for share, frequency in s.bandwidth.items()],
    )
    note = "<p class=quiet>Energy that moves: without frequency 0, which is where a chunk is, not how it moves.</p>"
    figure = html.figures(pictures, "spectrum", beside=table + note if s.bandwidth else "")
    return html.section("energy", "Energy by frequency", how, figure)


def _lengths(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    h, m = numbers.reconstruction.headline, numbers.max_len
    how = "A model's maximum length must hold nearly all of the histogram; a long tail is expensive at inference."
    lengths = html.table(
        ("mean", "std", "min", "p50", "p99", "max"),
        [
            (
                f"{h.mean_token_length:.1f}",
                f"{h.std_token_length:.1f}",
                f"{h.min_token_length}",
                f"{h.p50_token_length:.0f}",
                f"{h.p99_token_length:.0f}",
                f"{h.max_token_length}",
            )
        ],
    )
    truncated = html.table(
        ("max length (action tokens)", "chunks truncated", "share"),
        [(f"{c}", f"{m.truncated(c):,}", f"{100 * m.truncated(c) / m.sequences:.2f} %") for c in m.candidates],
    )
    return html.section(
        "tokens", "Tokens a chunk", how, html.figures(pictures, "token_lengths", beside=lengths + truncated)
    )


def _usage(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    u = numbers.usage
    how = (
        "A line that stays high far to the right means that the vocabulary is used evenly; ids that never occur, or "
        "that stand for single symbols only, are wasted."
    )
    table = html.table(
        ("", ""),
        (
            ("ids used", f"{u.ids_used:,} of {u.vocab_size:,} ({100 * u.ids_used / u.vocab_size:.1f} %)"),
            ("entropy of an id", f"{u.entropy_bits:.2f} bits, {100 * u.normalized_entropy:.1f} % of log2 V"),
            (f"Renyi efficiency, order {RENYI_ALPHA}", f"{u.renyi_efficiency:.3f}"),
            ("bits a chunk, tokens x log2 V", f"{u.bits_per_chunk:,.1f}"),
            ("bits a chunk, tokens x entropy", f"{u.entropy_bits_per_chunk:,.1f}"),
            ("symbols a token, mean", f"{u.mean_expansion_length:.1f}"),
        ),
    )
    return html.section("usage", "Token usage", how, html.figures(pictures, "token_ranks", "expansion_lengths") + table)


def _entropy(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    how = (
        "What is between the first bar and the last is what a better vocabulary or a better order could still save at "
        "this scale. They are estimates by models, not bounds: a code that knows more than a model does can take fewer."
    )
    bits, tokens = numbers.entropy, numbers.entropy_tokens
    reached = numbers.reconstruction.headline.mean_token_length
    rows = [
        ("this tokenizer", numbers.usage.bits_per_chunk, reached),
        ("order 0: one distribution for all coefficients", bits.order_0, tokens.order_0),
        ("one for each frequency and dimension", bits.per_place, tokens.per_place),
        ("adaptive context model", bits.context, tokens.context),
    ]
    table = html.table(
        ("", "bits a chunk", "tokens a chunk", "of this tokenizer's"),
        [(name, f"{b:,.1f}", f"{t:,.1f}", f"{100 * t / reached:.0f} %") for name, b, t in rows],
    )
    names = [name for name, _, t in rows[1:] if reached < t]
    below = f"<p>This tokenizer takes fewer than the estimate of: {escape('; '.join(names))}.</p>" if names else ""
    return html.section("entropy", "Entropy estimates", how, html.figures(pictures, "entropy", beside=table + below))


def _chunks(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    r = numbers.reconstruction
    how = (
        "The blue line should hide in the grey one. The typical chunk has the median RMSE, the worst one the largest "
        "error of a single value, in the dimension whose name is red; actions are in their recorded units."
    )
    captions = {
        "typical_chunk": f"{r.typical.place}: {r.typical.tokens} tokens, RMSE {number(r.typical.rmse)}, largest error "
        f"{number(r.typical.max_abs_error)} (normalised)",
        "worst_chunk": f"{r.worst.place}: {r.worst.tokens} tokens, RMSE {number(r.worst.rmse)}, largest error "
        f"{number(r.worst.max_abs_error)} (normalised), in dimension {r.dimensions[r.worst.dimension].name}",
        "worst_episode": f"{_trajectory(numbers)}, decoded chunk by chunk; dotted lines are where one chunk follows "
        f"another, and where decoding adds a jump of at most {number(numbers.episode.max_join_error)} (normalised)",
    }
    return html.section("reconstruction", "Reconstruction", how, html.figures(pictures, *captions, captions=captions))


def _trajectory(numbers: ReportNumbers) -> str:
    """The episode of the worst chunk, and the steps of it that are shown."""
    episode = numbers.episode
    name = numbers.reconstruction.worst.place.rsplit(", step ", 1)[0]
    return f"{name}, steps {episode.first_step} to {episode.first_step + len(episode.recorded) - 1}"


def _dimensions(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    how = (
        "Dimensions whose marks stand far to the right are the ones to look at: normalised, to compare them in the "
        "figure, and in recorded units in the table, to judge what a robot would notice."
    )
    table = html.table(
        ("dimension", "MAE", "RMSE", "99th percentile", "largest", "RMSE, normalised", "largest, normalised"),
        [
            (
                d.name,
                *map(number, (d.raw_mae, d.raw_rmse, d.raw_p99_abs_error, d.raw_max_abs_error)),
                *map(number, (d.rmse, d.max_abs_error)),
            )
            for d in numbers.reconstruction.dimensions
        ],
    )
    return html.section(
        "dimensions", "Error of each dimension", how, html.figures(pictures, "dimension_errors") + table
    )


def _prefix(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    how = (
        "A line that falls early means that a chunk is useful before it is complete: its first tokens hold the slow "
        "part of the motion (in dimension-first order: the first dimensions). What is not read yet is coefficient 0."
    )
    if numbers.prefix is None:
        return html.section("prefix", "Error after the first tokens", how, "<p>No chunk decodes strictly.</p>")
    curve = numbers.prefix.by_fraction
    table = html.table(
        ("share of the tokens", "RMSE to the recorded", "largest", "RMSE to all decoded", "largest"),
        [
            (
                f"{100 * curve.at[i]:.0f} %",
                *(
                    number(float(values[i]))
                    for values in (
                        curve.actions_rmse,
                        curve.actions_max_abs_error,
                        curve.decoded_rmse,
                        curve.decoded_max_abs_error,
                    )
                ),
            )
            for i in (0, 5, 10, 15, 20)
        ],
    )
    count = f"<p class=quiet>{len(numbers.prefix.lengths):,} chunks, every beginning of each.</p>"
    figure = html.figures(pictures, "prefix_errors", beside=table + count)
    return html.section("prefix", "Error after the first tokens", how, figure)


def _losses(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    h = numbers.reconstruction.headline
    how = (
        "Saturated coefficients and clipped values are losses that no scale repairs; a few are outliers, many mean "
        "that the tokenizer does not fit this data."
    )
    count = h.chunks * numbers.about.time_horizon * numbers.about.action_dim
    table = html.table(
        ("", "count", "share"),
        [
            (name, f"{lost:,}", f"{100 * lost / count:.4f} %")
            for name, lost in (
                ("coefficients saturated", h.saturated),
                ("values clipped", h.clipped),
                ("coefficients dropped", h.dropped),
            )
        ],
    )
    return html.section("losses", "Saturation and clipping", how, html.figures(pictures, "losses", beside=table))


def _edits(numbers: ReportNumbers, pictures: Mapping[str, Picture]) -> str:
    edits = numbers.edits
    how = (
        "Each sequence of ids is harmed once, at a random place: what strict decoding does not find reaches the robot, "
        "and its largest action should stay near that of the recording."
    )
    table = html.table(
        ("harm", "sequences", "found", "RMSE, not found", "largest |action|", "RMSE, repaired", "largest |action|"),
        [
            (
                r.harm,
                f"{r.sequences:,}",
                f"{100 * r.found_share:.1f} %",
                *map(
                    number,
                    (r.accepted_rmse, r.accepted_max_abs_action, r.repaired_rmse, r.repaired_max_abs_action),
                ),
            )
            for r in edits.results
        ],
    )
    note = (
        f"<p class=quiet>Normalised; the largest action of the unharmed chunks is {number(edits.max_abs_action)}.</p>"
    )
    return html.section("edits", "Robustness to edits", how, html.figures(pictures, "edits", beside=table + note))


def _foot(numbers: ReportNumbers) -> str:
    from fast_tokenizer import __version__

    return (
        f"<footer>fast_tokenizer {escape(__version__)}; tokenizer <code>{numbers.about.fingerprint}</code>. "
        "Normalised units: the actions as the normaliser maps them, to about [-1, 1]; a dimension that is constant "
        "there has no error. Samples are drawn by a fixed seed.</footer>"
    )
