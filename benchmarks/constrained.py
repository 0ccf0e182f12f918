"""What does the grammar cost at each step of generation? `python -m benchmarks.constrained [--output FILE]`.

`ActionLogitsProcessor` on B rows of scores of a PaliGemma-sized vocabulary (257,152 ids, 2,048 of them actions), about
halfway through a chunk of 50 x 14 symbols after a prompt of 200 ids, next to a bare softmax of the same scores, which
every step of sampling does once at least. Filling an array of that size with -inf, which any mask over the vocabulary
has to do, stands beside it; what is left is the grammar's own. The NumPy mask is that over the 2,048 token ids alone.

Calls take turns; figures are medians, and quartiles as shares of the processor's. Before timing: what the processor
allows is what the grammar does. Float32, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.contest import require
from benchmarks.measure import Call, time_in_turn
from benchmarks.report import Table, significant
from benchmarks.robustness import FAST_PLUS, measured
from fast_tokenizer import FastTokenizer
from fast_tokenizer.constrained import ActionGrammar
from fast_tokenizer.generation import ActionLogitsProcessor
from fast_tokenizer.vlm import VlmVocab

BATCHES = (1, 8, 64)
PROMPT, HORIZON, DIMS = 200, 50, 14
END = [235371, 1]
SEED = 0


def halfway(grammar: ActionGrammar, batch: int, rng: np.random.Generator) -> list[list[int]]:
    """Ids of rows of one length, with at least one that is not halfway through its symbols yet."""
    states, rows = grammar.start(batch), np.empty((batch, 0), np.int64)
    while states.remaining.min() > grammar.symbols // 2:
        # Ids of few symbols, as a trained model writes them.
        short = grammar.mask(states) & (grammar.tokens.begun <= 8)
        ids = np.array([rng.choice(np.flatnonzero(row)) for row in short])
        rows = np.column_stack([rows, ids])
        states = grammar.advance(states, ids)
    return rows.tolist()


def measure(name: str, tokenizer: FastTokenizer, seconds: float) -> list[list[str]]:
    """Lines of the table, one a batch size."""
    grammar = ActionGrammar.of(tokenizer, HORIZON, DIMS)
    vlm = VlmVocab.paligemma(tokenizer.vocab_size)
    processor = ActionLogitsProcessor(grammar, vlm, end=END, prompt_length=PROMPT)
    lines = []
    for batch in BATCHES:
        rows = halfway(grammar, batch, np.random.default_rng(SEED))
        ids = torch.from_numpy(np.column_stack([np.full((batch, PROMPT), 7), vlm.to_vlm(np.array(rows))]))
        scores = torch.randn(batch, vlm.vlm_vocab_size, generator=torch.Generator().manual_seed(SEED))
        states = grammar.state_after(rows)
        allowed = processor(ids, scores)[:, torch.from_numpy(vlm.action_ids)].isfinite().numpy()
        require(np.array_equal(allowed, grammar.mask(states)), "the processor allows what the grammar does not")
        calls: list[Call] = [
            lambda s=scores: s.softmax(dim=-1),
            lambda s=scores, i=ids: processor(i, s),
            lambda s=scores: torch.full_like(s, -torch.inf),
            lambda s=states: grammar.mask(s),
        ]
        softmax, ours, fill, mask = time_in_turn(calls, seconds)
        quartiles = f"{significant(ours.low / ours.seconds * 100)}-{significant(ours.high / ours.seconds * 100)} %"
        figures = [significant(t.seconds * 1e6) for t in (softmax, ours, fill, mask)]
        lines.append([name, str(batch), *figures, f"{significant(ours.seconds / softmax.seconds)} x", quartiles])
    return lines


def table(seconds: float) -> Table:
    """All vocabularies and batch sizes."""
    tokenizers = {"native": FastTokenizer.default()}
    if FAST_PLUS.is_dir():
        tokenizers["FAST+"] = FastTokenizer.from_pretrained(FAST_PLUS)
    lines = [line for name, tok in tokenizers.items() for line in measure(name, tok, seconds)]
    note = (
        f"Microseconds a step, one thread, torch {torch.__version__}. `benchmarks/constrained.py` says of what."
        f"\n\n{measured()}"
    )
    header = ["vocabulary", "B", "softmax", "processor", "fill alone", "NumPy mask", "processor / softmax", "quartiles"]
    return Table("The grammar at each step of generation", note, header, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = table(given.seconds).markdown()
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
