"""Arguments and options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class NormalizeChoice(StrEnum):
    """Values of --normalize."""

    quantile = "quantile"
    min_max = "min-max"
    mean_std = "mean-std"
    identity = "identity"
    none = "none"


class OrderChoice(StrEnum):
    """Values of --order."""

    frequency_first = "frequency-first"
    dimension_first = "dimension-first"


class EndOfBlockChoice(StrEnum):
    """Values of --end-of-block."""

    none = "none"
    chunk = "chunk"
    dimension = "dimension"


class ParsingChoice(StrEnum):
    """Values of --parsing."""

    bpe = "bpe"
    optimal = "optimal"


class OnBrokenChoice(StrEnum):
    """Values of --on-broken."""

    error = "raise"
    skip = "skip"


class EpisodeEndChoice(StrEnum):
    """Values of --episode-end."""

    drop = "drop"
    repeat_last = "repeat-last"


class EngineChoice(StrEnum):
    """Values of --engine."""

    threads = "threads"
    ray = "ray"


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
EpisodeEndOption = Annotated[
    EpisodeEndChoice,
    typer.Option("--episode-end", help="Chunks that run over the end: left out, or filled with the last action."),
]
RelativeOption = Annotated[
    str | None,
    typer.Option(
        "--relative",
        help="Dimensions (of those kept) minus the state at a chunk's start, e.g. 0:6, or x=ee_x to name the column.",
    ),
]
EmbodimentOption = Annotated[str | None, typer.Option("--embodiment", help="Which one, where DIR has several.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
EngineOption = Annotated[
    EngineChoice, typer.Option("--engine", help="Threads of this process, or a Ray cluster; the result is the same.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Of the Ray cluster: auto, host:port, or local (started here). Default: RAY_ADDRESS, or one here.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads. Default: all cores.")]
