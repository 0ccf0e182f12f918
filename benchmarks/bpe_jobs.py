"""The jobs of BPE alone: symbols of quantized chunks, cut to an alphabet.

128 symbols are what trainers that work on bytes can take as one byte each; the coefficients that this cuts are few.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.competitors.symbols import Corpus, symbols_of
from benchmarks.data import SCALE, Chunks, Workload, workload
from benchmarks.sizes import QUICK, Sizes


@dataclass(frozen=True, slots=True)
class Job:
    """Attributes: name of the workload; symbols A and ids V; the share of the usual corpus that is trained on."""

    workload: str
    alphabet: int
    vocab_size: int
    share: float = 1.0

    @property
    def setting(self) -> str:
        """For tables."""
        return f"A = {self.alphabet:,}, V = {self.vocab_size:,}"

    @property
    def work(self) -> Workload:
        """Where the chunks come from."""
        return workload(self.workload)

    def corpus(self, chunks: Chunks) -> Corpus:
        """Symbols of chunks."""
        lowest = -(self.alphabet // 2)
        return symbols_of(chunks, SCALE, lowest, lowest + self.alphabet - 1)


JOBS = (
    Job("aloha", 128, 896),
    Job("aloha", 128, 1920),
    Job("droid", 128, 896),
    Job("libero", 128, 896),
    Job("long", 128, 896),
    Job("noise", 128, 896, 0.3),
    Job("noise", 128, 4096, 0.1),
    Job("noise A=2000", 2000, 4096, 0.1),
    Job("noise", 128, 16384, 0.3),
)
QUICK_JOBS = (Job("droid", 128, 300), Job("noise A=2000", 2000, 2030))


def jobs(sizes: Sizes) -> tuple[Job, ...]:
    """All, or two."""
    return QUICK_JOBS if sizes is QUICK else JOBS
