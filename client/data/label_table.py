"""A CSV table from a hospital, in which every line is read by itself.

UTF-8 with or without a byte order mark, separated by comma, semicolon or tab. A line is always one
row, also if a quotation mark is open at its end or its bytes are not text: an open quotation mark
in one patient's row must not swallow the rows of others.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Final, Literal

from client.data.pseudonyms import normal
from common.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Fault = Literal["", "cells", "quotes", "encoding"]
"""Why a row cannot be used: wrong number of cells, not CSV, not UTF-8."""

_DELIMITERS: Final = (",", ";", "\t")
_LINE_ENDS: Final = re.compile(rb"\r\n|\n|\r")


def read_table(
    path: Path, wanted: set[str]
) -> tuple[list[str], list[tuple[int, list[str], Fault]]]:
    """The header, and every row that is not blank with its line and what is wrong with it.

    Args:
        path: of the file.
        wanted: names of columns, by which the separator is known.

    Raises:
        LabelError: the file cannot be read or is empty, or its first row is not CSV in UTF-8.
    """
    lines = _lines(content(path))
    first = next(lines, None)
    if first is None:
        raise LabelError("the label file is empty", where=path, wanted="a header row and others")
    try:
        head = first[1].decode()
    except UnicodeDecodeError as error:
        raise LabelError(
            "the label file is not UTF-8",
            where=f"{path}, first row, byte {error.start}",
            remedy='save it again as "CSV UTF-8"',
        ) from None
    delimiter = max(_DELIMITERS, key=lambda each: _promise(head, each, wanted))
    header, fault = _cells(head, delimiter)
    if fault:
        raise LabelError(
            "the label file is not CSV",
            where=f"{path}, line {first[0]}",
            remedy="look for an opening quotation mark without a closing one",
        )
    rows: list[tuple[int, list[str], Fault]] = []
    for line, said in lines:
        # Undecodable bytes are kept as they are, so that the row still has its key and its fault.
        text = said.decode(errors="surrogateescape")
        broken = any("\udc80" <= each <= "\udcff" for each in text)
        cells, fault = _cells(text, delimiter)
        if fault or any(cell.strip() for cell in cells):
            rows.append((line, cells, fault or ("encoding" if broken else "")))
    return [normal(name) for name in header], rows


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


def _lines(whole: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    lines = _LINE_ENDS.split(whole.removeprefix(BOM_UTF8))
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _cells(text: str, delimiter: str) -> tuple[list[str], Fault]:
    """The cells of one line; none, where its quotation marks do not close on it."""
    try:
        # One reader for each line: a reader over the file would join lines after an open quotation.
        return next(csv.reader([text], delimiter=delimiter, strict=True), []), ""
    except csv.Error:
        return [], "quotes"


def _promise(head: str, delimiter: str, wanted: set[str]) -> tuple[int, int]:
    """How well a delimiter fits the first row: wanted names, then the number of cells."""
    cells, _ = _cells(head, delimiter)
    return len(wanted & {normal(name) for name in cells}), len(cells)
