"""A CSV table from a hospital, in which every line is read by itself.

UTF-8, or UTF-16 with a byte order mark; separated by comma, semicolon or tab. A line is always one
row, also if a quotation mark is open at its end or its bytes are not text: an open quotation mark
in one patient's row must not swallow the rows of others. So what decides how the rows are read
(encoding, separator, where the header is) is taken from the lines up to the header alone.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from client.data.label_files.spelling import clean, columns_called
from client.data.pseudonyms import normal
from common.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Fault = Literal["", "cells", "quotes", "encoding"]
"""Why a row cannot be used: wrong number of cells, not CSV, not UTF-8."""

_DELIMITERS: Final = (",", ";", "\t")
_LINE_ENDS: Final = re.compile(r"\r\n|\n|\r")
_SEPARATOR: Final = re.compile(r'\s*"?sep=(.)"?[,;\s]*', re.IGNORECASE)
_WIDE: Final = {BOM_UTF16_LE: "utf-16-le", BOM_UTF16_BE: "utf-16-be"}

_OTHERS: Final = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a file packed with gzip"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "a database (SQLite)"),
    (b"<", "a web page or XML"),
    (b"{\\rtf", "a text document (RTF)"),
)
_AS_CSV: Final = (
    "open it in the spreadsheet program, give the column with the keys the format Text, and save "
    'it as "CSV UTF-8" (LibreOffice: "Text CSV" with the character set UTF-8)'
)


class CsvRow(NamedTuple):
    """A row that is not blank: its line, its cells, and what is wrong with it."""

    line: int
    cells: list[str]
    fault: Fault


class CsvTable(NamedTuple):
    """A table that has been read.

    Attributes:
        header: the names of the columns.
        rows: those below it. Sensitive.
        notes: what was read in a special way, in words; of the lines up to the header alone.
    """

    header: list[str]
    rows: list[CsvRow]
    notes: list[str]


def read_table(path: Path, wanted: set[str]) -> CsvTable:
    """The header, and every row that is not blank with its line and what is wrong with it.

    Bytes that are not UTF-8 are surrogates in the cells (:func:`is_text`): where they stand in a
    cell that nobody asks for, they do not matter.

    Args:
        path: of the file.
        wanted: names of columns, by which the separator is known.

    Raises:
        LabelError: the file cannot be read, is empty or is no text; its first row is not CSV.
    """
    whole = content(path)
    _require_csv(path, whole)
    lines, notes = _lines(whole)
    named = _SEPARATOR.fullmatch(lines[0][1]) if lines else None
    given = named[1] if named and named[1] in _DELIMITERS else ""
    if given:
        del lines[0]
        notes.append("the first line (sep=) names the separator and was left out")
    comments = 0
    while lines and _is_comment(lines[0][1], wanted):
        del lines[0]
        comments += 1
    if comments:
        notes.append(f"lines above the header that begin with # were left out: {comments}")
    if not lines:
        raise LabelError(
            "the label file is empty",
            where=path,
            wanted="a header row and others",
            remedy="export the labels again, or name the right file",
        )
    (first, head), *rest = lines
    delimiter = max(_DELIMITERS, key=lambda each: _promise(head, each, wanted, given))
    header, fault = _cells(head, delimiter)
    if fault:
        raise LabelError(
            "the label file is not CSV",
            where=f"{path}, line {first}",
            remedy="look for an opening quotation mark without a closing one",
        )
    names = [normal(name) for name in header]
    if any("\0" in name for name in names):
        raise _not_text(path)
    rows = [CsvRow(line, *_cells(text, delimiter)) for line, text in rest]
    return CsvTable(
        names,
        [row for row in rows if row.fault or any(map(clean, row.cells))],
        notes,
    )


def require_text(path: Path, header: Sequence[str]) -> None:
    """Require that a header is text, if a column is not found in it.

    Raises:
        LabelError: it is not UTF-8.
    """
    if not all(map(is_text, header)):
        raise _not_text(path)


def is_text(cell: str) -> bool:
    """Whether a cell was read without bytes that are not UTF-8."""
    return cell.isascii() or not any("\ud800" <= each <= "\udfff" for each in cell)


def content(path: Path) -> bytes:
    """The whole file.

    Raises:
        LabelError: it is missing, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise LabelError(
            "the label file does not exist",
            where=path.absolute(),
            wanted="a CSV file with a key column and a label column",
            remedy="give its path with --labels, or as labels in the site file",
        ) from error
    except IsADirectoryError as error:
        raise LabelError(
            "the label file is a folder",
            where=path.absolute(),
            wanted="a CSV file with a key column and a label column",
            remedy="name the CSV file, not a folder",
        ) from error
    except OSError as error:
        raise LabelError(
            "the label file cannot be read",
            where=path,
            found=error.strerror,
            remedy="let this user read it",
        ) from error


def _require_csv(path: Path, whole: bytes) -> None:
    found = next((name for mark, name in _OTHERS if whole.startswith(mark)), None)
    if whole.startswith(b"PK\x03\x04"):
        found = "a packed file (zip)"
        if b"opendocument.spreadsheet" in whole[:200]:
            found = "an OpenDocument spreadsheet (ods)"
        elif b"xl/" in whole:
            found = "an Excel workbook (xlsx)"
    if whole.startswith(bytes(128) + b"DICM"):
        found = "a DICOM file"
    if found:
        raise LabelError(
            "the label file is not a CSV file, whatever its name",
            where=path,
            found=found,
            wanted="a CSV file: text, with a header row, and a key and a label in each row",
            remedy=_AS_CSV,
        )


def _not_text(path: Path) -> LabelError:
    return LabelError(
        "the label file is not UTF-8",
        where=f"{path}, first row",
        remedy='save it again as "CSV UTF-8"',
    )


def _lines(whole: bytes) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines that are not blank, with their numbers, and notes on the encoding."""
    notes: list[str] = []
    codec = _WIDE.get(whole[:2])
    if codec:
        notes.append("the file is UTF-16")
        # A byte too many is the last line's fault alone.
        text = whole[2 : len(whole) // 2 * 2].decode(codec, "surrogatepass")
        text += "\udc80" * (len(whole) % 2)
    else:
        text = whole.removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    # Files put together from several have byte order marks inside.
    lines = (
        (number, line.lstrip("\ufeff")) for number, line in enumerate(_LINE_ENDS.split(text), 1)
    )
    return [(number, line) for number, line in lines if clean(line)], notes


def _is_comment(line: str, wanted: set[str]) -> bool:
    """Whether a line above the header is a comment, and not a header whose name begins with #."""
    if not clean(line).startswith("#"):
        return False
    cells = (_cells(line, delimiter)[0] for delimiter in _DELIMITERS)
    most = max(len(wanted & {normal(name) for name in each}) for each in cells)
    return most < min(2, len(wanted))


def _cells(text: str, delimiter: str) -> tuple[list[str], Fault]:
    """The cells of one line; none, where its quotation marks do not close on it."""
    try:
        # One reader for each line: a reader over the file would join lines after an open quotation.
        return next(csv.reader([text], delimiter=delimiter, strict=True), []), ""
    except csv.Error:
        return [], "quotes"


def _promise(head: str, delimiter: str, wanted: set[str], given: str) -> tuple[int, int, bool, int]:
    """How well a delimiter fits: wanted names, such in another spelling, given, number of cells."""
    names = [normal(name) for name in _cells(head, delimiter)[0]]
    found = [name for name in wanted if columns_called(names, name)]
    return len(wanted & set(names)), len(found), delimiter == given, len(names)
