"""Print a table: by rich where it is installed, in plain columns, or as markdown.

text = Table("title", ["row", "step time"], [["untouched", "1.00"]])
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "—"
"""Stands where a row has no such number."""


@dataclass
class Table:
    """Cells of text under titled columns, the first column to the left and the others to the right.

    Attributes:
        title: one line.
        columns: their titles; a line break may stand where a printed title is broken.
        rows: as many cells each as there are columns.
        notes: lines below the table.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def without_empty_columns(self) -> Table:
        """Return the table less the columns that have no number in any row."""
        kept = [i for i in range(len(self.columns)) if i == 0 or any(row[i] != NOTHING for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table(self.title, [self.columns[i] for i in kept], rows, self.notes)

    def markdown(self) -> str:
        """Return the table and its notes as markdown."""
        titles = [column.replace("\n", " ") for column in self.columns]
        rule = ["---", *["---:"] * (len(titles) - 1)]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = ["| " + " | ".join(cells) + " |" for cells in [titles, rule, *rows]]
        return "\n".join([self.title, "", *lines, *(f"\n{note}" for note in self.notes)])

    def plain(self) -> str:
        """Return the table and its notes in columns of spaces."""
        titles = [column.replace("\n", " ") for column in self.columns]
        lines = [titles, *self.rows]
        widths = [max(len(cells[i]) for cells in lines) for i in range(len(titles))]
        aligned = [
            "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs)).rstrip()
            for pairs in (list(zip(cells, widths, strict=True)) for cells in lines)
        ]
        return "\n".join([self.title, "", *aligned, *self.notes])

    def show(self) -> None:
        """Print the table."""
        try:
            import rich.console
            import rich.table
            import rich.text
        except ImportError:
            print(self.plain())
            return
        table = rich.table.Table(title=self.title)
        for i, column in enumerate(self.columns):
            options: dict[str, Any] = {"justify": "right"} if i else {}
            table.add_column(column, overflow="fold", **options)
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row))  # brackets in cells are no markup
        # A file or a pipe has no width of its own that could cut the table.
        console = rich.console.Console(width=None if sys.stdout.isatty() else 240)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
