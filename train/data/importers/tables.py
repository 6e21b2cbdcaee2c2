"""Text files of numbers, as trajectories are written, and tables with named columns, as logs are exported."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def numbers_of(file: Path, columns: int) -> np.ndarray:
    """Lines of numbers between blanks or commas, [lines, columns]; comments begin with #.

    Raises:
        ValueError: if a line is no such line, or there are fewer than two.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise ValueError(f"line {number} holds no numbers: {line[:40]!r}") from error
        if len(words) != columns:
            raise ValueError(f"line {number} has {len(words)} numbers, expected {columns}")
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} lines of {columns} numbers, expected at least 2")
    return np.array(rows)


def prompt_of(file: Path) -> str:
    """What stands in a comment `# prompt: ...` of a trajectory."""
    found = re.search(r"^#\s*prompt:(.*)$", file.read_text(encoding="utf-8-sig"), re.MULTILINE)
    return found[1].strip() if found else ""


class Table:
    """A CSV with a header: columns by any of the names that exports give them."""

    def __init__(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "")
        if re.match(r"sep=.\s*\n", text):  # Excel's own way to name the separator
            text = text.partition("\n")[2]
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
        rows = list(csv.reader(text.splitlines(), delimiter=separator))
        self.names = [self._plain(name) for name in rows[0]] if rows else []
        self.rows = [row for row in rows[1:] if any(cell.strip() for cell in row)]

    @staticmethod
    def _plain(name: str) -> str:
        return re.sub(r"\s+", "", name).lower()

    def find(self, *names: str) -> str | None:
        """The first of these columns that the table has."""
        return next((name for name in map(self._plain, names) if name in self.names), None)

    def texts(self, *names: str) -> list[str]:
        """Cells of the first of these columns that there is.

        Raises:
            ValueError: if there is none.
        """
        name = self.find(*names)
        if name is None:
            raise ValueError(f"there is no column {names[0]}, only {', '.join(self.names[:12])}")
        index = self.names.index(name)
        return [row[index].strip() if index < len(row) else "" for row in self.rows]

    def numbers(self, *names: str) -> np.ndarray:
        """The same as numbers, [rows]; what is empty or no number is NaN."""
        return np.array([_number(cell) for cell in self.texts(*names)])


def _number(cell: str) -> float:
    try:
        return float(cell.replace(",", ".") if "," in cell and "." not in cell else cell)
    except ValueError:
        return float("nan")


def usable(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows are finite in all of these columns, [rows]; the columns are [rows] each."""
    return np.asarray(np.isfinite(np.stack(rows)).all(axis=0))
