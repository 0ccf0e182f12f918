"""docs/ki_model.md: its tables are what the code gives, the code it names is there; `test_docs.py` runs its code."""

import functools
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from scripts import ki_figures
from tests import test_ki_mutations

GUIDE = ki_figures.GUIDE.read_text()


def between(name: str) -> list[list[str]]:
    """The cells of the table between two markers."""
    block = GUIDE.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]
    return cells(block)


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_attention_table_is_the_code_s() -> None:
    assert between("attention") == cells(ki_figures.attention_table())


def test_the_routing_table_is_what_is_measured() -> None:
    shown, measured = between("routing"), cells(ki_figures.routing_table())
    assert [row[0] for row in shown] == [row[0] for row in measured]
    for row, again in zip(shown[2:], measured[2:], strict=True):
        for cell, other in zip(row[1:], again[1:], strict=True):
            for a, b in zip(cell.split(" / "), other.split(" / "), strict=True):
                assert (a == "-") == (b == "-"), row[0]
                if a != "-":
                    assert float(a) == pytest.approx(float(b), rel=0.1)


def test_the_table_of_failures_has_every_injection_and_no_test_that_passes() -> None:
    block = ki_figures.FAILURES.read_text().split("<!-- failures -->\n")[1].split("\n<!-- /failures -->")[0]
    shown = cells(block)[2:]
    expected = [(m, test_ki_mutations.name_of_test(c)) for m in test_ki_mutations.MUTATIONS for c in m.fails]
    assert [row[3].strip("`") for row in shown] == [test for _, test in expected]
    injected = [" ".join(m.inject.__doc__.split()) for m in test_ki_mutations.MUTATIONS]
    assert [row[2] for row in shown if row[2]] == injected
    assert not any("**passes**" in row[4] for row in shown)


def test_the_figures_are_there_and_can_be_drawn(tmp_path: Path) -> None:
    named = re.findall(r"\]\((figures/[^)]+)\)", GUIDE)
    assert sorted(named) == [f"figures/{p.name}" for p in sorted(ki_figures.FIGURES.glob("ki-*.png"))]
    ki_figures.draw_attention(tmp_path / "attention.png")
    ki_figures.draw_routing(tmp_path / "routing.png")
    assert all(p.stat().st_size > 10_000 for p in tmp_path.iterdir())


def test_the_masks_drawn_are_those_of_the_layers() -> None:
    model, batch = ki_figures.example()
    backbone, expert = ki_figures.captured_masks(model, batch)
    prefix, targets, horizon = 8 + 5, 5, 4
    assert backbone.shape == (2, prefix + targets, prefix + targets)
    assert expert.shape == (2, horizon, prefix + horizon)
    assert not backbone[:, :prefix, prefix:].any()
    assert np.array_equal(backbone[0, prefix:, prefix:], np.tri(targets, dtype=bool))
    assert expert[0].all()
    assert expert[1].sum(1).tolist() == [4 + 3 + horizon] * horizon


def test_the_code_that_is_named_exists() -> None:
    table = GUIDE.split("## Where each equation stands")[1].split("\n## ")[0]
    names = re.findall(r"`(\w+\.[\w.]+)`", table)
    assert len(names) >= 12
    for name in names:
        module, *path = name.split(".")
        found = functools.reduce(getattr, path, importlib.import_module(f"fast_tokenizer.ki_model.{module}"))
        assert found is not None
    for link in re.findall(r"\]\(\.\./([^)]+)\)", GUIDE):
        assert (ki_figures.GUIDE.parents[1] / link).is_file(), link
