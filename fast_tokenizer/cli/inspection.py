"""What `fast-tokenizer inspect` says of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from fast_tokenizer._plain_text import plain_text
from fast_tokenizer.normalize import Normalizer
from fast_tokenizer.tokenizer import FastTokenizer


def json_of(tokenizer: FastTokenizer) -> dict[str, Any]:
    """All of it, as plain values."""
    facts = _facts(tokenizer)
    if not tokenizer.embodiments:
        return facts | _own_json(tokenizer)
    return {**facts, "embodiments": {name: _own_json(tokenizer.embodiment(name)) for name in tokenizer.embodiments}}


def tables_of(tokenizer: FastTokenizer) -> Iterator[Table]:
    """The facts, and the normalisers; one after the other of each embodiment."""
    facts = _facts(tokenizer)
    yield _facts_table(facts if tokenizer.embodiments else facts | _own_facts(tokenizer))
    for member in _members(tokenizer):
        own = member.spec
        if own.embodiment is not None:
            yield _facts_table({"embodiment": own.embodiment, **_own_facts(member)})
        if own.normalizer is not None:
            yield _normalizer_table(own.normalizer, own.dimension_names)


def _members(tokenizer: FastTokenizer) -> list[FastTokenizer]:
    return [tokenizer.embodiment(name) for name in tokenizer.embodiments] or [tokenizer]


def _facts(tokenizer: FastTokenizer) -> dict[str, Any]:
    """What is of the vocabulary."""
    spec, lengths, first = tokenizer.spec, tokenizer.expansion_lengths, _members(tokenizer)[0]
    zero_runs = [int(n) for token, n in enumerate(lengths) if _stands_for_zeros(first, token)]
    return {
        "fingerprint": tokenizer.fingerprint(),
        "vocab_size": spec.vocab_size,
        "symbols": spec.alphabet_size,
        "merges": len(spec.merges),
        "coefficients": f"{spec.min_coefficient}..{spec.max_coefficient}",
        **_coding(spec),
        "longest_token_symbols": int(lengths.max()),
        "zero_run_tokens": len(zero_runs),
        "longest_zero_run": max(zero_runs, default=0),
    }


def _coding(spec: Any) -> dict[str, Any]:
    """How coefficients become tokens; nothing of a published tokenizer, which has no choice."""
    names = ("order", "end_of_block", "parsing", "dead_zone", "levels_beyond")
    return {name: getattr(spec, name) for name in names if hasattr(spec, name)}


def _stands_for_zeros(tokenizer: FastTokenizer, token: int) -> bool:
    return bool((tokenizer.symbols([token]) == -tokenizer.spec.min_coefficient).all())


def _own_facts(tokenizer: FastTokenizer) -> dict[str, Any]:
    """What one embodiment has of its own, in short."""
    spec = tokenizer.spec
    facts = {name: getattr(spec, name) for name in ("scale", "time_horizon", "action_dim", "hz")}
    rule = spec.relative
    if rule is not None:
        pairs = zip(rule.dimensions, rule.state_columns, strict=True)
        facts["relative"] = ", ".join(f"{d} to state {c}" for d, c in pairs)
    return facts


def _own_json(tokenizer: FastTokenizer) -> dict[str, Any]:
    """The same, whole."""
    spec = tokenizer.spec
    normalizer, rule = spec.normalizer, spec.relative
    return {
        **_own_facts(tokenizer),
        "dimension_names": spec.dimension_names,
        "normalizer": normalizer
        and {
            "kind": normalizer.kind,
            "clip": normalizer.clip,
            "center": normalizer.center.tolist(),
            "half_range": normalizer.half_range.tolist(),
        },
        "relative": rule and asdict(rule),
    }


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text("any" if value is None else plain_text(str(value)), overflow="fold"))
    return table


def _normalizer_table(normalizer: Normalizer, names: tuple[str, ...] | None) -> Table:
    table = Table(title=f"normalizer: {normalizer.kind}, clip {normalizer.clip or 'none'}", title_justify="left")
    for column in ("dimension", "center", "half range"):
        table.add_column(column, justify="right")
    for d, (center, half_range) in enumerate(zip(normalizer.center, normalizer.half_range, strict=True)):
        label = names[d] if names else str(d)
        table.add_row(Text(plain_text(label)), f"{center:.6g}", f"{half_range:.6g}" if half_range else "constant")
    return table
