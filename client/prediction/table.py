"""Tables of predictions, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.files import write_atomic

Cell = str | int | float | bool | None
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet, and a file name or PatientID may."""


def write_tables(folder: Path, name: str, rows: Sequence[Mapping[str, Cell]]) -> tuple[Path, Path]:
    """Write ``NAME.csv`` and ``NAME.parquet``.

    Args:
        folder: where.
        name: of both files.
        rows: all with the same columns, at least one.
    """
    columns = list(rows[0])
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    table, binary = folder / f"{name}.csv", folder / f"{name}.parquet"
    # With a mark of its order, or a spreadsheet takes it for a Windows code page.
    write_atomic(table, text.getvalue().encode("utf-8-sig"), mode=0o600)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(map(dict, rows))), buffer)
    write_atomic(binary, buffer.getvalue(), mode=0o600)
    return table, binary


def _plain(value: Cell) -> Cell:
    """A text that a spreadsheet shows and does not compute."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
