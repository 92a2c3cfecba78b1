"""The folder of what is found, and its tables, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataError, of_system
from common.files import write_atomic
from common.visible import visible

Cell = str | int | float | bool | None
_EVERY: Final = 60.0
"""Seconds between two writings of a table that grows."""
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet, and a file name or PatientID may."""


def require_free(out: Path) -> None:
    """Make the folder, which may not hold anything yet: nothing is mixed, or written over."""
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = next(out.iterdir(), None)
    except OSError as cause:
        raise of_system(cause, DataError, where=out) from cause
    if held is not None:
        raise DataError(
            "the folder for what is written is not empty",
            where=out,
            found=f"{held.name!a} and perhaps more",
            remedy="name another folder with --out; nothing was changed",
        )


class GrowingTable:
    """A table that grows, and is written again each minute: what stops a prediction loses little.

    Args:
        folder: where.
        name: of its files.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._rows: list[Mapping[str, Cell]] = []
        self._written = time.monotonic()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Iterable[Mapping[str, Cell]]) -> None:
        """Add rows."""
        self._rows += rows
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> tuple[Path, ...]:
        """Write it as it is; gives the paths. An empty one is none."""
        found = write_tables(self._folder, self._name, self._rows) if self._rows else ()
        self._written = time.monotonic()
        return found


def write_tables(folder: Path, name: str, rows: Sequence[Mapping[str, Cell]]) -> tuple[Path, Path]:
    """Write ``NAME.csv`` and ``NAME.parquet``.

    Args:
        folder: where.
        name: of both files.
        rows: at least one.
    """
    # A patient of whom the network says nothing has fewer cells.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    # Each text in quotation marks: where a spreadsheet parts cells at ";", it ends none within.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(map(_plain, columns))
    writer.writerows([_plain(row.get(each)) for each in columns] for row in rows)
    table, binary = folder / f"{name}.csv", folder / f"{name}.parquet"
    # With a mark of its order, or a spreadsheet takes it for a Windows code page.
    write_atomic(table, text.getvalue().encode("utf-8-sig"), mode=0o600)
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({each: [_shown(row.get(each)) for row in rows] for each in columns}), buffer
    )
    write_atomic(binary, buffer.getvalue(), mode=0o600)
    return table, binary


def _plain(value: Cell) -> Cell:
    """A text that a spreadsheet shows and does not compute."""
    value = _shown(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _shown(value: Cell) -> Cell:
    """A text without signs that steer a screen, or that no UTF-8 has."""
    return visible(value) if isinstance(value, str) else value
