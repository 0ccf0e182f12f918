"""The commands: options in, one call of the library, a table or JSON out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fast_tokenizer import _core
from fast_tokenizer.cli.files import check_output_file, check_output_folder, load_tokens, save_npz, save_tokenizer
from fast_tokenizer.cli.picture import chunk_picture
from fast_tokenizer.cli.tables import Result, result_table
from fast_tokenizer.cli.workflow import (
    Recording,
    Report,
    check_stride,
    count_windows,
    gathered_windows,
    horizon_steps,
    iterate_windows,
    open_recording,
    parse_bytes,
    peak_memory_mib,
    sample_chunks,
    split_holdout,
    take_statistics,
)
from fast_tokenizer.fitting import FitOptions, FitSummary
from fast_tokenizer.io import Trajectories, of_arrays
from fast_tokenizer.metrics import evaluate
from fast_tokenizer.normalize import Normalizer, NormalizerKind
from fast_tokenizer.statistics import NormalizerStatistics
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch

app = typer.Typer(
    name="fast-tokenizer",
    help="FAST action tokenization: fit a vocabulary on robot trajectories, encode, decode.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class NormalizeChoice(StrEnum):
    """Values of --normalize."""

    quantile = "quantile"
    min_max = "min-max"
    mean_std = "mean-std"
    identity = "identity"
    none = "none"


class OnBrokenChoice(StrEnum):
    """Values of --on-broken."""

    error = "raise"
    skip = "skip"


class ErrorsChoice(StrEnum):
    """Values of --errors."""

    strict = "strict"
    repair = "repair"


Data = Annotated[
    list[Path],
    typer.Argument(
        help="LeRobot folder or hub id, HDF5, zarr, RLDS (TFRecord), CSV, npz (actions, episode_ends; or chunks), npy.",
        metavar="DATA",
    ),
]
Model = Annotated[Path, typer.Argument(help="Folder of a saved or published tokenizer.", metavar="DIR")]
HorizonOption = Annotated[
    str | None,
    typer.Option("--horizon", help="Steps of a chunk (50) or seconds (1s). Default: 1s, or the data's own."),
]
HzOption = Annotated[
    float | None, typer.Option("--hz", help="Control rate, where the data does not say it or says it wrongly.")
]
DimsOption = Annotated[
    str | None, typer.Option("--dims", help="Dimensions to keep, by index, range of indices or name: 0:6,gripper.")
]
ActionKeyOption = Annotated[
    str | None, typer.Option("--action-key", help="Where the actions are, if not in the usual place: a or a,b to join.")
]
StateKeyOption = Annotated[str | None, typer.Option("--state-key", help="The same of the state; else it is not read.")]
EpisodesOption = Annotated[
    str | None, typer.Option("--episodes", help="Episodes to keep, of each DATA, e.g. 0:100,120. Default: all.")
]
OnBrokenOption = Annotated[
    OnBrokenChoice, typer.Option("--on-broken", help="Broken data stops the run, or is left out and counted.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads. Default: all cores.")]


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
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Token ids, symbols included.")] = 1024,
    scale: Annotated[float, typer.Option("--scale", help="Factor on coefficients before rounding.")] = 10.0,
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
    as_json: JsonOption = False,
) -> None:
    """Fit a vocabulary on trajectories, save it, and measure it on held-out episodes.

    Files are read one at a time: once for normalisation statistics, once to fit, those of held-out episodes once more.
    """
    check_output_folder(output)
    budget = None if memory_budget is None else parse_bytes(memory_budget)
    with _progress() as report:
        recording = open_recording(
            data,
            hz,
            dims,
            report,
            action_key=action_key,
            state_key=state_key,
            episodes=episodes,
            on_broken=on_broken.value,
        )
        steps = horizon_steps(horizon, recording)
        result = _fit_and_measure(
            recording,
            steps,
            stride,
            holdout,
            report,
            vocab_size=vocab_size,
            scale=scale,
            normalize=normalize,
            clip=clip,
            range_quantile=range_quantile,
            min_frequency=min_frequency,
            max_token_symbols=max_token_symbols,
            max_chunks=max_chunks,
            memory_budget=budget,
            spill_directory=spill_directory,
            num_threads=threads,
        )
    save_tokenizer(result.tokenizer, output)
    if as_json:
        _print_json({**result.to_json(), "peak_memory_mib": peak_memory_mib(), "output": str(output)})
        return
    console = Console(markup=False, highlight=False)
    print(f"Measured on {_measured_on(result)}")
    console.print(result_table({"": result}))
    if result.fit.chunks_left_out:
        seen = result.fit.chunks + result.fit.chunks_left_out
        print(f"Fitted on {result.fit.chunks:,} of {seen:,} chunks, drawn uniformly: the others are left out.")
    if result.fit.spilled_bytes:
        print(f"{result.fit.spilled_bytes / 2**20:,.1f} MiB went to temporary files.")
    print(result.episodes.lines())
    _print_peak_memory()
    print(f"Saved to {output}, fingerprint {result.tokenizer.fingerprint()[:16]}")


@app.command()
def encode(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="npz file to write.", metavar="FILE")],
    horizon: HorizonOption = None,
    hz: HzOption = None,
    stride: Annotated[int | None, typer.Option("--stride", help="Steps between chunks. Default: the horizon.")] = None,
    dims: DimsOption = None,
    action_key: ActionKeyOption = None,
    state_key: StateKeyOption = None,
    episodes: EpisodesOption = None,
    on_broken: OnBrokenOption = OnBrokenChoice.error,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn trajectories into token ids (npz: ids, offsets, time_horizon, action_dim, fingerprint, counts)."""
    check_output_file(output)
    tokenizer = FastTokenizer.load(model)
    with _progress() as report:
        recording = open_recording(
            data,
            hz,
            dims,
            report,
            action_key=action_key,
            state_key=state_key,
            episodes=episodes,
            on_broken=on_broken.value,
        )
        _check_same_robot(tokenizer, recording)
        recorded = tokenizer.spec.time_horizon
        steps = recorded if recorded is not None and horizon is None else horizon_steps(horizon, recording)
        stride = steps if stride is None else stride
        check_stride(stride)
        lengths = recording.trajectories.lengths
        counts = count_windows(lengths, steps, stride)
        if not counts.any():
            raise ValueError(f"none of the {len(lengths)} episodes has {steps} steps")
        batches, done = [], 0
        for chunks in gathered_windows(recording.trajectories.select(counts > 0), steps, stride):
            batches.append(tokenizer.encode(chunks, num_threads=threads))
            done += len(chunks)
            report("encode", done, int(counts.sum()))
    tokens = TokenBatch.concatenate(batches)
    save_npz(
        output,
        ids=tokens.ids,
        offsets=tokens.offsets,
        saturated=tokens.saturated,
        clipped=tokens.clipped,
        dropped=tokens.dropped,
        time_horizon=np.int64(steps),
        action_dim=np.int64(recording.action_dim),
        fingerprint=np.array(tokenizer.fingerprint()),
    )
    rows = int(lengths.sum())
    covered = int((steps + min(stride, steps) * (counts[counts > 0] - 1)).sum())
    summary = {
        "chunks": len(tokens),
        "ids": len(tokens.ids),
        "mean_token_length": len(tokens.ids) / len(tokens),
        "saturated": int(tokens.saturated.sum()),
        "clipped": int(tokens.clipped.sum()),
        "dropped": int(tokens.dropped.sum()),
        **recording.episodes(steps).to_json(),
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
        print(recording.episodes(steps).lines())


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
    tokenizer = FastTokenizer.load(model)
    batch, horizon, dims, written_by = load_tokens(tokens)
    if written_by != tokenizer.fingerprint():
        raise ValueError(
            f"{tokens}: encoded with tokenizer {written_by[:16]}, but {model} is {tokenizer.fingerprint()[:16]}"
        )
    with _progress() as report:
        report("decode", 0, None)
        actions, status = tokenizer.decode_with_status(batch, horizon, dims, num_threads=threads)
        if errors is ErrorsChoice.strict and status.any_malformed:
            tokenizer.decode(batch, horizon, dims, num_threads=threads)  # raises the error that names the chunk
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
    spec = tokenizer.spec
    lengths = tokenizer.expansion_lengths
    zero_runs = [int(n) for t, n in enumerate(lengths) if _stands_for_zeros(tokenizer, t)]
    facts: dict[str, Any] = {
        "fingerprint": tokenizer.fingerprint(),
        "vocab_size": spec.vocab_size,
        "symbols": spec.alphabet_size,
        "merges": len(spec.merges),
        "coefficients": f"{spec.min_coefficient}..{spec.max_coefficient}",
        "scale": spec.scale,
        "time_horizon": spec.time_horizon,
        "action_dim": spec.action_dim,
        "hz": spec.hz,
        "longest_token_symbols": int(lengths.max()),
        "zero_run_tokens": len(zero_runs),
        "longest_zero_run": max(zero_runs, default=0),
    }
    if as_json:
        normalizer = spec.normalizer
        _print_json(
            {
                **facts,
                "dimension_names": spec.dimension_names,
                "normalizer": normalizer
                and {
                    "kind": normalizer.kind,
                    "clip": normalizer.clip,
                    "center": normalizer.center.tolist(),
                    "half_range": normalizer.half_range.tolist(),
                },
            }
        )
        return
    console = Console(markup=False, highlight=False)
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text("any" if value is None else str(value), overflow="fold"))
    console.print(table)
    if spec.normalizer is not None:
        console.print(_normalizer_table(spec.normalizer, spec.dimension_names))


def _stands_for_zeros(tokenizer: FastTokenizer, token: int) -> bool:
    return bool((tokenizer.symbols([token]) == -tokenizer.spec.min_coefficient).all())


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
    with _progress() as report:
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
            results[name] = _fit_and_measure(
                recording, steps, max(1, steps // 10), 0.2, report, label=name, normalize=NormalizeChoice.quantile
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


# ---- Shared by fit and demo ------------------------------------------------------------------------


def _fit_and_measure(
    recording: Recording,
    steps: int,
    stride: int,
    holdout: float,
    report: Report,
    *,
    normalize: NormalizeChoice,
    clip: float | None = None,
    max_chunks: int | None = None,
    label: str = "",
    **options: Any,
) -> Result:
    """Fits on most episodes, and measures on the others where any is long enough."""

    def told(stage: str, done: int, total: int | None) -> None:
        report(f"{label}: {stage}" if label else stage, done, total)

    check_stride(stride)
    parts = split_holdout(recording.trajectories, holdout)
    fitted, held = (part.select(part.lengths >= steps) for part in parts)
    if not len(fitted):
        raise ValueError(f"none of the {len(parts[0])} episodes to fit on has {steps} steps")
    kind = None if normalize is NormalizeChoice.none else cast(NormalizerKind, normalize.value)
    if kind is None and clip is not None:
        raise ValueError("--clip needs --normalize")
    options |= {"dimension_names": recording.dimension_names, "hz": recording.hz}
    FitOptions(normalize=kind, clip=clip, max_chunks=max_chunks, **options)  # refused before anything is read
    tokenizer, summary = _fit(fitted, steps, stride, kind, clip, max_chunks, told, options)
    measured = held if len(held) else fitted
    quality = evaluate(tokenizer, _reported(measured, steps, stride, told))
    return Result(tokenizer, summary, quality, held_out=len(held) > 0, episodes=recording.episodes(steps))


def _fit(
    trajectories: Trajectories,
    steps: int,
    stride: int,
    kind: NormalizerKind | None,
    clip: float | None,
    max_chunks: int | None,
    report: Report,
    options: dict[str, Any],
) -> tuple[FastTokenizer, FitSummary]:
    """Fits on all chunks of the trajectories or on a sample; statistics are taken of every step once."""
    start = time.perf_counter()
    chunks: Iterable[NDArray[np.floating]]
    statistics = None if kind is None else NormalizerStatistics()
    if max_chunks is None:
        if statistics is not None:
            take_statistics(trajectories, statistics, report)
        chunks, left_out = iterate_windows(trajectories, steps, stride), 0
    else:
        sample = sample_chunks(trajectories, steps, stride, max_chunks, statistics, report)
        chunks, left_out = (block.values for block in sample.drain()), sample.left_out
    normalizer = None if kind is None or statistics is None else statistics.normalizer(kind, clip=clip)
    total = int(count_windows(trajectories.lengths, steps, stride).sum()) - left_out

    def told(stage: str, done: int, of: int | None) -> None:
        report(stage, done, total if stage == "quantize" else of)

    tokenizer = FastTokenizer.fit(chunks, normalize=normalizer, progress=told, **options)
    assert tokenizer.fit_summary is not None
    seconds = time.perf_counter() - start
    return tokenizer, replace(tokenizer.fit_summary, chunks_left_out=left_out, seconds=seconds)


def _reported(trajectories: Trajectories, steps: int, stride: int, report: Report) -> Iterator[NDArray[np.floating]]:
    total = int(count_windows(trajectories.lengths, steps, stride).sum())
    done = 0
    for chunks in gathered_windows(trajectories, steps, stride):
        yield chunks
        done += len(chunks)
        report("measure", done, total)


def _measured_on(result: Result) -> str:
    return "held-out episodes" if result.held_out else "the fitted episodes: none were held out"


def _check_same_robot(tokenizer: FastTokenizer, recording: Recording) -> None:
    """What the artefact records of its data must agree with what is to be encoded."""
    spec = tokenizer.spec
    if spec.hz is not None and recording.hz is not None and not np.isclose(spec.hz, recording.hz):
        raise ValueError(
            f"the data is at {recording.hz:g} Hz, the tokenizer was fitted at {spec.hz:g} Hz; "
            f"resample the data, or give --hz {spec.hz:g} if it says its rate wrongly"
        )
    names = recording.dimension_names
    if spec.dimension_names is not None and names is not None and spec.dimension_names != names:
        raise ValueError(f"the data's dimensions are {list(names)}, the tokenizer's {list(spec.dimension_names)}")


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


@contextmanager
def _progress() -> Iterator[Report]:
    """A progress line on stderr: one task a stage, brought up to date ten times a second."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}
        due = 0.0

        def report(stage: str, done: int, total: int | None) -> None:
            nonlocal due
            now = time.monotonic()
            if progress.disable or (stage in tasks and now < due and done != total):
                return
            due = now + 0.1
            if stage not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


def _normalizer_table(normalizer: Normalizer, names: tuple[str, ...] | None) -> Table:
    table = Table(title=f"normalizer: {normalizer.kind}, clip {normalizer.clip or 'none'}", title_justify="left")
    for column in ("dimension", "center", "half range"):
        table.add_column(column, justify="right")
    for d, (center, half_range) in enumerate(zip(normalizer.center, normalizer.half_range, strict=True)):
        label = names[d] if names else str(d)
        printable = "".join(c if c.isprintable() else "?" for c in label)
        table.add_row(Text(printable), f"{center:.6g}", f"{half_range:.6g}" if half_range else "constant")
    return table


def _print_json(values: dict[str, Any]) -> None:
    json.dump(values, sys.stdout, indent=2)
    print()
