"""Tables of rows: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from benchmarks.data import workload
from benchmarks.rows import OURS, Row


@dataclass(frozen=True, slots=True)
class Table:
    """Text in cells. The first `left` columns are names, the others figures."""

    title: str
    note: str
    header: list[str]
    lines: list[list[str]]
    left: int = 1

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i < self.left else "right")
        for line in self.lines:
            table.add_row(*line)
        return table

    def markdown(self) -> str:
        """For results.md."""
        return f"## {self.title}\n\n{self.note}\n\n{markdown_table(self.header, self.lines)}\n"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table without a title."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


#: How a figure is spelled, by the name of its column.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "s": lambda row: significant(row.figures["seconds"]),
    "us": lambda row: significant(row.figures["seconds"] * 1e6),
    "ns a symbol": lambda row: significant(row.figures["seconds"] * 1e9 / _symbols(row)),
    "rechecked": lambda row: f"{row.figures['rechecked']:.2%}" if "rechecked" in row.figures else "",
    "added MiB": lambda row: f"{row.figures['added_mib']:,.0f}",
    "Msymbols/s": lambda row: significant(row.figures["million_symbols_per_second"]),
}


def significant(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{value:e}".split("e")[1]))
    return f"{value:,.{digits}f}"


def listing(title: str, rows: Sequence[Row], columns: Sequence[str], note: str) -> Table:
    """One line a competitor, in the order measured, with its time over that of ours on one thread."""
    ours = {_place(row): row.figures["seconds"] for row in rows if row.competitor == OURS and is_base(row)}
    lines = []
    for row in rows:
        name = [row.workload, row.setting, row.competitor, str(row.threads)]
        if row.problem:
            lines.append([*name, *[""] * len(columns), "", f"{row.problem}: {row.reason}"])
            continue
        base = ours.get(_place(row))
        ratio = "" if base is None else f"{significant(row.figures['seconds'] / base)} x"
        spread = f"{significant(row.figures['low'] / row.figures['seconds'] * 100)}-"
        spread += f"{significant(row.figures['high'] / row.figures['seconds'] * 100)} %"
        lines.append([*name, *(COLUMNS[column](row) for column in columns), ratio, spread])
    header = ["workload", "setting", "competitor", "threads", *columns, "time / ours", "quartiles, or why not"]
    return Table(title, note, header, lines, left=3)


def is_base(row: Row) -> bool:
    """Ours on one thread, measured."""
    return row.threads == 1 and not row.problem


def _symbols(row: Row) -> int:
    """Symbols of what a row's seconds are of: a chunk, or the chunks that its setting counts."""
    count, _, what = row.setting.partition(" ")
    return workload(row.workload).symbols_per_chunk * (int(count.replace(",", "")) if what == "chunks" else 1)


def _place(row: Row) -> tuple[str, str]:
    return row.workload, row.setting
