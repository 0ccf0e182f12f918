"""The commands: options in, one call of the library, a table or JSON out."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from fast_tokenizer import _core
from fast_tokenizer.cli.files import check_output_file, check_output_folder, load_tokens, save_npz, save_tokenizer
from fast_tokenizer.cli.fitting import fit_and_measure, measured
from fast_tokenizer.cli.inspection import json_of, tables_of
from fast_tokenizer.cli.mixture import read_mixture
from fast_tokenizer.cli.options import (
    ActionKeyOption,
    AddressOption,
    Data,
    DimsOption,
    EmbodimentOption,
    EndOfBlockChoice,
    EngineChoice,
    EngineOption,
    EpisodeEndChoice,
    EpisodeEndOption,
    EpisodesOption,
    ErrorsChoice,
    HorizonOption,
    HzOption,
    JsonOption,
    Model,
    NormalizeChoice,
    OnBrokenChoice,
    OnBrokenOption,
    OrderChoice,
    ParsingChoice,
    RelativeOption,
    StateKeyOption,
    ThreadsOption,
)
from fast_tokenizer.cli.picture import chunk_picture
from fast_tokenizer.cli.progress import labelled, shown_progress
from fast_tokenizer.cli.tables import Result, relative_line, result_table, target_line
from fast_tokenizer.cli.workflow import (
    Recording,
    encode_here,
    horizon_steps,
    iterate_windows,
    open_recording,
    parse_bytes,
    parse_numbers,
    peak_memory_mib,
    split_holdout,
    to_cut,
    use_engine,
)
from fast_tokenizer.cutting import check_same_robot
from fast_tokenizer.fitting import weighted_counts
from fast_tokenizer.io import of_arrays
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from fast_tokenizer.tokenizer import FastTokenizer

app = typer.Typer(
    name="fast-tokenizer",
    help="FAST action tokenization: fit a vocabulary on robot trajectories, encode, decode.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and how the core was built.")] = False,
) -> None:
    """FAST action tokenization: fit a vocabulary on robot trajectories, encode, decode."""
    if version:
        _print_json(_core.build_info())
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def fit(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to save the tokenizer in.", metavar="DIR")],
    horizon: HorizonOption = None,
    hz: HzOption = None,
    stride: Annotated[int, typer.Option("--stride", help="Steps between the starts of chunks.")] = 1,
    episode_end: EpisodeEndOption = EpisodeEndChoice.drop,
    relative: RelativeOption = None,
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Token ids, symbols included.")] = 1024,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Factor on coefficients before rounding. Default: 10.")
    ] = None,
    target_rmse: Annotated[
        str | None,
        typer.Option("--target-rmse", help="RMSE to keep instead, in raw units: a number, or e.g. 0.01,0.01,1."),
    ] = None,
    target_max_error: Annotated[
        str | None, typer.Option("--target-max-error", help="Largest error to keep, in raw units, likewise.")
    ] = None,
    order: Annotated[OrderChoice, typer.Option("--order", help="Of the coefficients.")] = OrderChoice.frequency_first,
    end_of_block: Annotated[
        EndOfBlockChoice,
        typer.Option("--end-of-block", help="What ends early; dimension goes with --order dimension-first."),
    ] = EndOfBlockChoice.chunk,
    parsing: Annotated[
        ParsingChoice, typer.Option("--parsing", help="Merge by merge, or as few tokens as there can be.")
    ] = ParsingChoice.bpe,
    dead_zone: Annotated[
        float, typer.Option("--dead-zone", help="Smaller scaled coefficients become 0; 0.5 to 0.99.")
    ] = 0.5,
    levels_beyond: Annotated[
        int | None,
        typer.Option("--levels-beyond", help="Symbols beyond each end of the range. Default: one for every 128 ids."),
    ] = None,
    normalize: Annotated[NormalizeChoice, typer.Option("--normalize")] = NormalizeChoice.quantile,
    clip: Annotated[float | None, typer.Option("--clip", help="Bound on normalised values. Default: none.")] = None,
    range_quantile: Annotated[
        float, typer.Option("--range-quantile", help="Share of the coefficients that each end of the range keeps.")
    ] = 1.0,
    min_frequency: Annotated[int, typer.Option("--min-frequency", help="Rarer pairs are not merged.")] = 2,
    max_token_symbols: Annotated[int, typer.Option("--max-token-symbols", help="Longest run of one token.")] = 1024,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    holdout: Annotated[float, typer.Option("--holdout", help="Share of the episodes to measure on.")] = 0.2,
    max_chunks: Annotated[
        int | None, typer.Option("--max-chunks", help="Fit on a uniform sample of that many chunks. Default: all.")
    ] = None,
    sample_fraction: Annotated[
        float | None, typer.Option("--sample-fraction", help="The same by their share, in (0, 1].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample.")] = 0,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            "--memory-budget",
            help="Memory for the corpus (2GiB, 512MiB, bytes); more goes to temporary files. Default: no limit.",
        ),
    ] = None,
    spill_directory: Annotated[
        Path | None, typer.Option("--spill-directory", help="Folder of these files. Default: the system's.")
    ] = None,
    threads: ThreadsOption = None,
    engine: EngineOption = EngineChoice.threads,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a vocabulary on trajectories, save it, and measure it on held-out episodes.

    Files are read one at a time: once for normalisation statistics, once to fit, those of held-out episodes once more.

    With --engine ray the workers of a cluster do the first two, each with some of the episodes: DATA must lead to the
    same files on all nodes. It measures on about 200,000 of the held-out chunks at most.
    """
    check_output_folder(output)
    use_engine(engine.value, address, threads)
    budget = None if memory_budget is None else parse_bytes(memory_budget)
    with shown_progress() as report:
        recording = open_recording(
            data,
            hz,
            dims,
            report,
            action_key=action_key,
            state_key=state_key,
            episodes=episodes,
            on_broken=on_broken.value,
            relative=relative,
        )
        cut = to_cut(recording, horizon_steps(horizon, recording), stride, episode_end.value)
        result = fit_and_measure(
            recording,
            cut,
            holdout,
            report,
            vocab_size=vocab_size,
            scale=scale,
            target_rmse=parse_numbers("--target-rmse", target_rmse),
            target_max_error=parse_numbers("--target-max-error", target_max_error),
            order=order.value,
            end_of_block=None if end_of_block is EndOfBlockChoice.none else end_of_block.value,
            parsing=parsing.value,
            dead_zone=dead_zone,
            levels_beyond=levels_beyond,
            normalize=normalize,
            clip=clip,
            range_quantile=range_quantile,
            min_frequency=min_frequency,
            max_token_symbols=max_token_symbols,
            max_chunks=max_chunks,
            sample_fraction=sample_fraction,
            seed=seed,
            memory_budget=budget,
            spill_directory=spill_directory,
            num_threads=threads,
            engine=engine.value,
        )
    save_tokenizer(result.tokenizer, output)
    if as_json:
        _print_json({**result.to_json(), "peak_memory_mib": peak_memory_mib(), "output": str(output)})
        return
    console = Console(markup=False, highlight=False)
    print(f"Measured on {_measured_on(result)}")
    console.print(result_table({"": result}))
    if line := target_line(result, parse_numbers("--target-rmse", target_rmse)):
        print(line)
    if result.fit.chunks_left_out:
        seen = result.fit.chunks + result.fit.chunks_left_out
        print(f"Fitted on {result.fit.chunks:,} of {seen:,} chunks, drawn uniformly: the others are left out.")
    if result.fit.spilled_bytes:
        print(f"{result.fit.spilled_bytes / 2**20:,.1f} MiB went to temporary files.")
    print(result.episodes.lines())
    print(result.cut.line(result.lengths))
    _print_relative(result)
    _print_peak_memory()
    print(f"Saved to {output}, fingerprint {result.tokenizer.fingerprint()[:16]}")


@app.command()
def fit_mixture(
    config: Annotated[Path, typer.Argument(help="TOML file; see below.", metavar="CONFIG")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to save the tokenizer in.", metavar="DIR")],
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit one vocabulary for several embodiments, each with its own data, normalisation and shape.

    CONFIG has options of the vocabulary at the top (vocab_size, range_quantile, order, holdout, seed, ...), and a table
    [embodiments.NAME] for each: data (a path or several), weight (share of the coefficients fitted on; all or none have
    one), and what fit takes for its data: horizon, stride, episode_end, hz, dims, relative, action_key, state_key,
    episodes, on_broken, scale, normalize, clip, max_chunks. Paths are relative to CONFIG.
    """
    check_output_folder(output)
    mixture = read_mixture(config)
    start = time.perf_counter()
    with shown_progress() as report:
        sources = [entry.open(mixture, threads, labelled(report, entry.name)) for entry in mixture.entries]
        counts = [source.available for source in sources]
        if mixture.weights is not None:
            counts = weighted_counts(counts, [s.coefficients_of_a_chunk for s in sources], mixture.weights)
        parts = [s.part(n, labelled(report, s.name)) for s, n in zip(sources, counts, strict=True)]
        tokenizer = FastTokenizer.of_parts(parts, report)
        seconds = time.perf_counter() - start
        results = {str(s.name): measured(s, tokenizer, seconds, labelled(report, s.name)) for s in sources}
    save_tokenizer(tokenizer, output)
    assert tokenizer.fit_summary is not None
    shares = {name: e.share for name, e in tokenizer.fit_summary.embodiments.items()}
    if as_json:
        _print_json(
            {
                "fingerprint": tokenizer.fingerprint(),
                "vocab_size": tokenizer.vocab_size,
                "embodiments": {name: {"share": shares[name], **r.to_json()} for name, r in results.items()},
                "peak_memory_mib": peak_memory_mib(),
                "output": str(output),
            }
        )
        return
    console = Console(markup=False, highlight=False)
    console.print(result_table(results))
    for name, result in results.items():
        counted = result.fit
        print(f"{name}: {shares[name]:.1%} of the coefficients; measured on {_measured_on(result)}")
        if counted.chunks_left_out:
            seen = counted.chunks + counted.chunks_left_out
            print(f"Fitted on {counted.chunks:,} of {seen:,} chunks, drawn uniformly: the others are left out.")
        print(f"{result.episodes.lines()}\n{result.cut.line(result.lengths)}")
        _print_relative(result)
    _print_peak_memory()
    print(f"Saved to {output}, fingerprint {tokenizer.fingerprint()[:16]}")


@app.command()
def encode(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="npz file to write.", metavar="FILE")],
    horizon: HorizonOption = None,
    hz: HzOption = None,
    stride: Annotated[int | None, typer.Option("--stride", help="Steps between chunks. Default: the horizon.")] = None,
    episode_end: EpisodeEndOption = EpisodeEndChoice.drop,
    embodiment: EmbodimentOption = None,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    threads: ThreadsOption = None,
    engine: EngineOption = EngineChoice.threads,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn trajectories into token ids (npz: ids, offsets, time_horizon, action_dim, fingerprint, counts).

    Where actions are relative, the states at the chunks' starts are read and kept beside the ids, for decode.
    With --engine ray the workers of a cluster read and encode: DATA must lead to the same files on all nodes.
    """
    check_output_file(output)
    use_engine(engine.value, address, threads)
    saved = FastTokenizer.load(model)
    tokenizer = _of_embodiment(saved, embodiment)
    with shown_progress() as report:
        recording = open_recording(
            data,
            hz,
            dims,
            report,
            action_key=action_key,
            state_key=state_key,
            episodes=episodes,
            on_broken=on_broken.value,
            relative=tokenizer.spec.relative,
        )
        check_same_robot(tokenizer.spec, recording.hz, recording.dimension_names)
        recorded = tokenizer.spec.time_horizon
        steps = recorded if recorded is not None and horizon is None else horizon_steps(horizon, recording)
        cut = to_cut(recording, steps, steps if stride is None else stride, episode_end.value)
        lengths = recording.trajectories.lengths
        counts = cut.count(lengths)
        if not counts.any():
            raise ValueError(f"none of the {len(lengths)} episodes has {steps} steps")
        chosen = recording.trajectories.select(counts > 0)
        if engine is EngineChoice.ray:
            from fast_tokenizer.distributed import encode_trajectories

            tokens, state = encode_trajectories(tokenizer, chosen, cut, report)
        else:
            tokens, state = encode_here(tokenizer, chosen, cut, report, threads)
    save_npz(
        output,
        ids=tokens.ids,
        offsets=tokens.offsets,
        saturated=tokens.saturated,
        clipped=tokens.clipped,
        dropped=tokens.dropped,
        time_horizon=np.int64(steps),
        action_dim=np.int64(recording.action_dim),
        fingerprint=np.array(saved.fingerprint()),
        episode_end=np.array(cut.episode_end),
        **({} if state is None else {"state": state}),
        **({} if embodiment is None else {"embodiment": np.array(embodiment)}),
    )
    rows = int(lengths.sum())
    covered = steps + min(cut.stride, steps) * (counts[counts > 0] - 1)
    covered = int(np.minimum(covered, lengths[counts > 0]).sum())
    summary = {
        "chunks": len(tokens),
        "ids": len(tokens.ids),
        "mean_token_length": len(tokens.ids) / len(tokens),
        "saturated": int(tokens.saturated.sum()),
        "clipped": int(tokens.clipped.sum()),
        "dropped": int(tokens.dropped.sum()),
        **recording.episodes(cut.shortest).to_json(),
        **cut.to_json(lengths),
        "steps_left_out": rows - covered,
        "output": str(output),
    }
    if as_json:
        _print_json(summary)
    else:
        print(
            f"{len(tokens):,} chunks of {steps} x {recording.action_dim} in {len(tokens.ids):,} tokens "
            f"({summary['mean_token_length']:.1f} a chunk) to {output}; saturated {summary['saturated']:,}, "
            f"clipped {summary['clipped']:,}, dropped {summary['dropped']:,}; "
            f"{summary['steps_left_out']:,} of {rows:,} steps fill no chunk"
        )
        print(recording.episodes(cut.shortest).lines())
        print(cut.line(lengths))


@app.command()
def sidecar(
    model: Model,
    data: Annotated[Path, typer.Argument(help="LeRobot folder or hub id; it is not changed.", metavar="DATA")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write. Default: DATA.tokens, beside it.", metavar="OUT"),
    ] = None,
    horizon: HorizonOption = None,
    hz: HzOption = None,
    embodiment: EmbodimentOption = None,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    threads: ThreadsOption = None,
    engine: EngineOption = EngineChoice.threads,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the token ids of every frame of a LeRobot folder beside it, for a training loop to read.

    Frame t has the chunk that starts at t; over the end of its episode, that is filled with the last action. The folder
    is written anew, and is a sidecar when its last file, sidecar.json, is there. With --engine ray the workers of a
    cluster write a part each: DATA and OUT must be the same folders on all nodes.
    """
    from fast_tokenizer.cli import sidecar as work

    use_engine(engine.value, address, threads)
    saved = FastTokenizer.load(model)
    _of_embodiment(saved, embodiment)
    options = work.Options(horizon, embodiment, hz, dims, action_key, state_key, episodes, on_broken.value)
    with shown_progress() as report:
        plan = work.plan_of(saved, data, output, options, report)
        check_output_folder(plan.output)
        if engine is EngineChoice.ray:
            from fast_tokenizer.distributed import write_sidecar

            manifest = write_sidecar(saved, plan, report)
        else:
            manifest = plan.write(
                saved, num_threads=threads, progress=lambda done, total: report("encode", done, total)
            )
    if as_json:
        _print_json({**manifest.to_json(), "output": str(plan.output)})
    else:
        print(work.lines(manifest, plan.output))


@app.command()
def decode(
    model: Model,
    tokens: Annotated[Path, typer.Argument(help="npz file that encode wrote.", metavar="TOKENS")],
    output: Annotated[Path, typer.Option("-o", "--output", help="npz file to write.", metavar="FILE")],
    errors: Annotated[ErrorsChoice, typer.Option("--errors", help="What malformed ids get.")] = ErrorsChoice.strict,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn token ids back into chunks (npz: actions (N, T, D) in raw units, and what was repaired)."""
    check_output_file(output)
    saved = FastTokenizer.load(model)
    file = load_tokens(tokens)
    if file.fingerprint != saved.fingerprint():
        raise ValueError(
            f"{tokens}: encoded with tokenizer {file.fingerprint[:16]}, but {model} is {saved.fingerprint()[:16]}"
        )
    tokenizer = _of_embodiment(saved, file.embodiment)
    batch, horizon, dims, state = file.batch, file.horizon, file.action_dim, file.state
    with shown_progress() as report:
        report("decode", 0, None)
        actions, status = tokenizer.decode_with_status(batch, horizon, dims, num_threads=threads, state=state)
        if errors is ErrorsChoice.strict and status.any_malformed:
            tokenizer.decode(batch, horizon, dims, state=state, num_threads=threads)  # its error names the chunk
    save_npz(output, actions=actions, **{f.name: getattr(status, f.name) for f in fields(status)})
    repaired = int((~status.ok).sum())
    if as_json:
        _print_json({"chunks": len(batch), "repaired": repaired, "output": str(output)})
    else:
        print(f"{len(batch):,} chunks of {horizon} x {dims} to {output}; {repaired:,} repaired")


@app.command()
def inspect(model: Model, as_json: JsonOption = False) -> None:
    """Show what a saved tokenizer holds."""
    tokenizer = FastTokenizer.load(model)
    if as_json:
        _print_json(json_of(tokenizer))
        return
    console = Console(markup=False, highlight=False)
    for table in tables_of(tokenizer):
        console.print(table)


@app.command("report")
def quality_report(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.", metavar="FILE")],
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder for the figures as PNG, too.", metavar="DIR")
    ] = None,
    horizon: HorizonOption = None,
    hz: HzOption = None,
    stride: Annotated[int, typer.Option("--stride", help="Steps between the starts of chunks.")] = 1,
    episode_end: EpisodeEndOption = EpisodeEndChoice.drop,
    embodiment: EmbodimentOption = None,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    holdout: Annotated[
        float, typer.Option("--holdout", help="Share of the episodes to measure on, those of fit. 0: all.")
    ] = 0.2,
    normalize: Annotated[
        NormalizeChoice, typer.Option("--normalize", help="For a tokenizer that does not normalise, such as FAST+.")
    ] = NormalizeChoice.none,
    max_chunks: Annotated[int, typer.Option("--max-chunks", help="Chunks to measure on, drawn uniformly.")] = 2000,
    max_rmse: Annotated[
        float, typer.Option("--max-rmse", help="Error that the suggested scale keeps to, normalised.")
    ] = 0.02,
    as_json: JsonOption = False,
) -> None:
    """Write a page on what a tokenizer does to a recording: tokens, errors, losses, and what to set.

    Curves over scales are refitted on a sample of the other episodes.
    """
    from fast_tokenizer.cli import reporting

    reporting.require_matplotlib()
    check_output_file(output)
    if figures is not None:
        check_output_folder(figures, "--figures")
        if output.resolve() in (figures.resolve(), *figures.resolve().parents):
            raise ValueError(f"--figures {figures}: -o writes a file there; name a folder")
    if not model.exists():
        raise ValueError(f"no tokenizer there: {model}")
    options = reporting.Options(holdout, normalize.value, max_chunks, max_rmse)
    saved = FastTokenizer.load(model)
    tokenizer = _of_embodiment(saved, embodiment)
    with shown_progress() as report:
        recording = open_recording(
            data,
            hz,
            dims,
            report,
            action_key=action_key,
            state_key=state_key,
            episodes=episodes,
            on_broken=on_broken.value,
            relative=tokenizer.spec.relative,
        )
        check_same_robot(tokenizer.spec, recording.hz, recording.dimension_names)
        recorded = tokenizer.spec.time_horizon
        steps = recorded if recorded is not None and horizon is None else horizon_steps(horizon, recording)
        cut = to_cut(recording, steps, stride, episode_end.value)
        numbers = reporting.measure_recording(tokenizer, saved.fingerprint(), recording, cut, options, report)
        title = f"{model}{f' ({embodiment})' if embodiment else ''} on {', '.join(map(str, data))}"
        written = reporting.write(numbers, title, reporting.notes(recording, cut), output, figures, report)
    if as_json:
        _print_json({**numbers.to_json(), **recording.episodes(cut.shortest).to_json(), **written})
        return
    print(reporting.summary(numbers))
    print(recording.episodes(cut.shortest).lines())
    print(f"Page: {output}" + ("" if figures is None else f"; {len(written['figures'])} figures: {figures}"))


@app.command()
def demo(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Your own data, in any format that fit takes.", metavar="[DATA]")
    ] = None,
    horizon: HorizonOption = None,
    hz: HzOption = None,
    generated: Annotated[
        int, typer.Option("--generated-episodes", help="Episodes to generate of each robot, where there is no DATA.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated episodes.")] = 0,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    as_json: JsonOption = False,
) -> None:
    """Fit, encode and decode generated robot trajectories (or yours), and show what comes out."""
    of_data = {"--dims": dims, "--action-key": action_key, "--state-key": state_key, "--episodes": episodes}
    if not data and (given := [name for name, value in of_data.items() if value is not None]):
        raise ValueError(f"{given[0]}: needs DATA, of which it chooses")
    with shown_progress() as report:
        if data:
            opened = open_recording(
                data,
                hz,
                dims,
                report,
                action_key=action_key,
                state_key=state_key,
                episodes=episodes,
                on_broken=on_broken.value,
            )
            recordings = {data[0].stem: opened}
        else:
            recordings = {name: _generated(name, generated, seed) for name in ROBOTS}
        results: dict[str, Result] = {}
        for name, recording in recordings.items():
            steps = horizon_steps(horizon, recording)
            results[name] = fit_and_measure(
                recording,
                to_cut(recording, steps, max(1, steps // 10)),
                0.2,
                report,
                label=name,
                normalize=NormalizeChoice.quantile,
            )
    if as_json:
        _print_json({name: result.to_json() for name, result in results.items()})
        return
    console = Console(markup=False, highlight=False)
    name, result = next(iter(results.items()))
    source = "your data" if data else "generated robot trajectories"
    print(f"Fitted on {source}, measured on {_measured_on(result)}")
    console.print(result_table(results))
    if data:
        print(result.episodes.lines())
    _print_peak_memory()
    horizon_ = result.tokenizer.spec.time_horizon
    assert horizon_ is not None
    fitted, held = split_holdout(recordings[name].trajectories, 0.2)
    chunk = next(iterate_windows(held if result.held_out else fitted, horizon_, horizon_))
    console.print(chunk_picture(result.tokenizer, chunk[len(chunk) // 2], ascii_only=console.options.ascii_only))


def _of_embodiment(tokenizer: FastTokenizer, name: str | None) -> FastTokenizer:
    if name is not None:
        return tokenizer.embodiment(name)
    if len(tokenizer.embodiments) > 1:
        names = ", ".join(tokenizer.embodiments)
        raise ValueError(f"the tokenizer has several embodiments: say which with --embodiment, one of {names}")
    return tokenizer


def _measured_on(result: Result) -> str:
    return "held-out episodes" if result.held_out else "the fitted episodes: none were held out"


def _print_relative(result: Result) -> None:
    if line := relative_line(result):
        print(f"Relative, dimension <- state column: {line}")


def _print_peak_memory() -> None:
    peak = peak_memory_mib()
    if peak is not None:
        print(f"Peak memory of the process: {peak:,.0f} MiB\n")


def _generated(name: str, episodes: int, seed: int) -> Recording:
    robot = ROBOTS[name]
    actions = generate_trajectories(robot, episodes, seed)
    if not actions:
        raise ValueError("--generated-episodes must be positive")
    dataset = of_arrays(name, actions, robot.hz, robot.dimension_names)
    return Recording(dataset.trajectories, dataset.action_dim, robot.hz, robot.dimension_names, None)


def _print_json(values: dict[str, Any]) -> None:
    json.dump(values, sys.stdout, indent=2)
    print()
