"""What the command `sidecar` does, without what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fast_tokenizer.cli.workflow import Report, parse_dims, parse_episodes, steps_of
from fast_tokenizer.io._lerobot_meta import read_layout
from fast_tokenizer.io.lerobot import lerobot_files
from fast_tokenizer.io.source import Source, fetch
from fast_tokenizer.sidecar import Manifest, SidecarPlan, plan_sidecar
from fast_tokenizer.tokenizer import FastTokenizer


@dataclass(frozen=True, slots=True)
class Options:
    """The command's options, as they are given; its help says what each means."""

    horizon: str | None = None
    embodiment: str | None = None
    hz: float | None = None
    dims: str | None = None
    action_key: str | None = None
    state_key: str | None = None
    episodes: str | None = None
    on_broken: Literal["raise", "skip"] = "raise"


def plan_of(tokenizer: FastTokenizer, data: Path, output: Path | None, options: Options, report: Report) -> SidecarPlan:
    """The plan for options of the command line.

    Raises:
        ValueError: Bad options, or as `plan_sidecar`.
    """
    report("open", 0, None)
    root = fetch(data)
    is_lerobot = (root / "meta" / "info.json").is_file()
    one = tokenizer if options.embodiment is None else tokenizer.embodiment(options.embodiment)
    action_key, state_key = (
        None if k is None else [p.strip() for p in k.split(",")] for k in (options.action_key, options.state_key)
    )
    dimensions, horizon = None, one.spec.time_horizon
    if options.dims is not None and is_lerobot:
        # Nothing but names and widths is wanted here; what is broken is for the plan to say.
        files = lerobot_files(Source(root, tuple(action_key or ()), state=False, skip=True))
        dimensions = parse_dims(options.dims, files.action_dim, files.dimension_names, root)
    if is_lerobot and (options.horizon is not None or horizon is None):
        horizon = steps_of(options.horizon, options.hz or read_layout(root)[0].fps, None)
    return plan_sidecar(
        tokenizer,
        data,
        output,
        horizon=horizon,
        embodiment=options.embodiment,
        dimensions=dimensions,
        action_key=action_key,
        state_key=state_key,
        episodes=None if options.episodes is None else parse_episodes(options.episodes),
        on_broken=options.on_broken,
        hz=options.hz,
    )


def lines(manifest: Manifest, output: Path) -> str:
    """What was written, in words."""
    m = manifest
    left_out = "; left out: " + ", ".join(f"{n:,} {reason}" for reason, n in m.episodes_left_out.items())
    return "\n".join(
        [
            f"{m.frames:,} frames of {m.episodes:,} episodes in {m.tokens:,} tokens "
            f"({m.tokens / m.frames:.1f} a frame, at most {m.longest}) to {output}, {m.parts:,} parts",
            f"Chunks of {m.horizon} x {m.action_dim}; {m.filled_frames:,} run over the end of their episode and are "
            "filled with its last action",
            f"Lost: {m.saturated:,} coefficients saturated, {m.dropped:,} dropped; {m.clipped:,} values clipped"
            + (left_out if m.episodes_left_out else ""),
        ]
    )
