"""How much is measured: `--quick` asserts, the default takes minutes, `--full` is what gets published."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """Attributes say how much; no question chooses for itself.

    Attributes:
        name: quick, default or full.
        workloads: Workloads of fit, encode, decode, tokens and stages.
        fit_symbols: Symbols (N * T * D) that tokenizers of encode, decode and tokens are fitted on.
        fit_chunks: Chunk counts of the question `fit`; workloads that are not `COMMON` take the first only.
        train_symbols: Symbols that BPE trainers see.
        most_train_symbols: Symbols that those see once more which can take that many; 0: none.
        held_symbols: Held-out symbols that are encoded and decoded, 1,024 chunks at most; a quarter where dense.
        batches: Chunks a call; those of more than all held-out chunks are left out.
        growth_chunks: N.
        growth_horizons: T.
        growth_dims: D.
        growth_vocabularies: V.
        published_chunks: Where fits of the `COMMON` workloads, and growth in N, stop for the published pipeline.
        published_symbols: Where all others stop for the published pipeline, whose training takes a second per some
            million symbols and up to 200 bytes a symbol.
        slow_trainer_symbols: The same for trainers that splice (`tokenizers` without its regex, bpeasy).
        seconds: Time budget of one race, after the fewest rounds.
        recorded: Whether recorded sets are encoded and decoded too; tokens are always counted.
        timeout: Seconds after which a case is given up.
    """

    name: str
    workloads: tuple[str, ...]
    fit_symbols: int
    fit_chunks: tuple[int, ...]
    train_symbols: int
    most_train_symbols: int
    held_symbols: int
    batches: tuple[int, ...]
    growth_chunks: tuple[int, ...]
    growth_horizons: tuple[int, ...]
    growth_dims: tuple[int, ...]
    growth_vocabularies: tuple[int, ...]
    published_chunks: int
    published_symbols: int
    slow_trainer_symbols: int
    seconds: float
    recorded: bool
    timeout: float

    def held(self, workload: str) -> int:
        """Held-out symbols of a workload."""
        return round(self.held_symbols * (DENSE_SHARE if workload in DENSE else 1))


COMMON = ("aloha", "droid", "libero")
SPARSE = (*COMMON, "humanoid", "long")
DENSE = ("noise", "noise V=4096", "noise A=2000", "noise V=16384")
DENSE_SHARE = 0.25
BATCHES = (1, 32, 256, 1024)
HORIZONS = (10, 25, 50, 100, 200, 500, 1000)
DIMS = (1, 4, 14, 32, 64)
VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16384)

QUICK = Sizes(
    name="quick",
    workloads=("droid", "noise"),
    fit_symbols=20_000,
    fit_chunks=(100,),
    train_symbols=20_000,
    most_train_symbols=0,
    held_symbols=8_000,
    batches=(1, 32),
    growth_chunks=(100, 200),
    growth_horizons=(10, 25),
    growth_dims=(4,),
    growth_vocabularies=(256,),
    published_chunks=200,
    published_symbols=100_000,
    slow_trainer_symbols=100_000,
    seconds=0.01,
    recorded=False,
    timeout=60,
)

DEFAULT = Sizes(
    name="default",
    workloads=SPARSE + DENSE,
    fit_symbols=1_400_000,
    fit_chunks=(2_000, 100_000),
    train_symbols=2_100_000,
    most_train_symbols=0,
    held_symbols=720_000,
    batches=BATCHES,
    growth_chunks=(1_000, 10_000, 100_000, 1_000_000),
    growth_horizons=HORIZONS,
    growth_dims=DIMS,
    growth_vocabularies=VOCABULARIES,
    published_chunks=100_000,
    published_symbols=7_000_000,
    slow_trainer_symbols=7_000_000,
    seconds=1.0,
    recorded=False,
    timeout=300,
)

FULL = replace(
    DEFAULT,
    name="full",
    fit_symbols=7_000_000,
    fit_chunks=(10_000, 100_000),
    train_symbols=70_000_000,
    most_train_symbols=700_000_000,
    held_symbols=4_000_000,
    published_symbols=70_000_000,
    slow_trainer_symbols=70_000_000,
    seconds=5.0,
    recorded=True,
    timeout=3600,
)

SIZES = {sizes.name: sizes for sizes in (QUICK, DEFAULT, FULL)}
