"""The label file of a hospital: CSV, one row for an image, a study or a patient.

Written by people and by spreadsheets: UTF-8 with or without a byte order mark, separated
by comma, semicolon or tab. Whatever could put a wrong label on a patient is an error that
names the rows by their line numbers. Cells are never quoted: any of them may hold an
identifier, the first row's too if the file has no header.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, get_args

from client.identity import normal
from common.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from client.archive import Found

Key = Literal["SOPInstanceUID", "StudyInstanceUID", "PatientID", "filename"]
KEYS: Final[tuple[Key, ...]] = get_args(Key)

_DELIMITERS: Final = (",", ";", "\t")
_SHOWN: Final = 10
_MOST_CLASSES: Final = 50


@dataclass(frozen=True)
class LabelFile:
    """Where the labels are and how to find an image's.

    Args:
        path: the CSV file.
        key: what its key column holds.
        key_column: the name of that column.
        label_column: the name of the column with the label.
    """

    path: Path
    key: Key
    key_column: str
    label_column: str


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, the key (sensitive) and the label."""

    line: int
    key: str = field(repr=False)
    label: str


@dataclass(frozen=True)
class Labels:
    """A label file that has been read and found consistent in itself.

    Attributes:
        file: where it came from.
        classes: the labels there are; a label's index is its place here.
        rows: by key. Sensitive.
    """

    file: LabelFile
    classes: tuple[str, ...]
    rows: Mapping[str, Row] = field(repr=False)

    def assign(self, files: Sequence[Found]) -> list[Row | None]:
        """The row of each file, or None.

        Raises:
            LabelError: a row names a file by a name that several have, or two rows name
                one file.
        """
        if self.file.key == "filename":
            return self._by_name(files)
        attribute = _ATTRIBUTES[self.file.key]
        return [self.rows.get(getattr(each.header, attribute)) for each in files]

    def _by_name(self, files: Sequence[Found]) -> list[Row | None]:
        bases = Counter(PurePosixPath(each.path).name for each in files)
        self._require_unique(bases, {each.path for each in files})
        assigned: list[Row | None] = []
        for each in files:
            full = self.rows.get(normal(each.path))
            base = PurePosixPath(each.path).name
            alone = bases[base] == 1 and base != each.path
            short = self.rows.get(normal(base)) if alone else None
            if full and short:
                raise self._error(
                    "two rows name one file",
                    [full.line, short.line],
                    remedy="keep one row for each file",
                )
            assigned.append(full or short)
        return assigned

    def _require_unique(self, bases: Counter[str], paths: set[str]) -> None:
        names = [name for name, count in bases.items() if count > 1 and name not in paths]
        lines = [row.line for name in names if (row := self.rows.get(normal(name)))]
        if lines:
            raise self._error(
                "a row names a file by a name that several files have",
                lines,
                wanted="the path below the folder of images, with /",
                remedy="write the path instead of the bare name in these rows",
            )

    def _error(
        self, what: str, lines: Iterable[int], *, wanted: str | None = None, remedy: str
    ) -> LabelError:
        return fault(self.file, what, lines, wanted=wanted, remedy=remedy)


_ATTRIBUTES: Final = {
    "SOPInstanceUID": "instance",
    "StudyInstanceUID": "study",
    "PatientID": "patient",
}


def read_labels(file: LabelFile, classes: tuple[str, ...] | None) -> Labels:
    """Read a label file and check it.

    Args:
        file: where it is and which columns to take.
        classes: the study's classes, in its order; None takes the labels that occur, sorted.

    Raises:
        LabelError: missing or not CSV in UTF-8, a column missing, a row of another length,
            without a key or a label, a label that is no class, or two rows with one key.
    """
    header, table = _table(file.path, {file.key_column, file.label_column})
    key_at = _column(file, header, file.key_column)
    label_at = _column(file, header, file.label_column)
    _require_lengths(file, header, table)
    rows = [
        Row(line, _key(file.key, cells[key_at]), normal(cells[label_at])) for line, cells in table
    ]
    _require_filled(file, rows)
    known = classes if classes is not None else _occurring(file, rows)
    _require_known(file, rows, known)
    _require_distinct(file, rows)
    return Labels(file, known, {row.key: row for row in rows})


def guess_key(path: Path, label_column: str) -> tuple[Key, str]:
    """The first kind of key that has a column of its name, and that column's name.

    Raises:
        LabelError: the file cannot be read, or has no such column.
    """
    header, _ = _table(path, {*KEYS, label_column})
    names = {name.lower(): name for name in header}
    for key in KEYS:
        if key.lower() in names:
            return key, names[key.lower()]
    raise LabelError(
        "no column of the label file says which image a row is about",
        where=path,
        found=f"{len(header)} columns",
        wanted="a column called " + ", ".join(KEYS[:-1]) + f" or {KEYS[-1]}",
        remedy="rename the column, or name it with --key-column and say with --key what it holds",
    )


def fault(
    file: LabelFile,
    what: str,
    lines: Iterable[int],
    *,
    found: str | None = None,
    wanted: str | None = None,
    remedy: str,
) -> LabelError:
    """An error about rows, which it names by their lines."""
    return LabelError(
        what, where=f"{file.path}, {listed(lines)}", found=found, wanted=wanted, remedy=remedy
    )


def listed(lines: Iterable[int]) -> str:
    """Line numbers as they are shown: ``lines 3, 7 and 12 more``."""
    numbers = sorted(set(lines))
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _table(path: Path, wanted: set[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row that is not blank with the line it begins on."""
    text = _text(path)
    delimiter = max(_DELIMITERS, key=lambda each: _promise(text, each, wanted))
    table = list(_rows(path, text, delimiter))
    if not table:
        raise LabelError("the label file is empty", where=path, wanted="a first row and others")
    header = [normal(name) for name in table[0][1]]
    return header, table[1:]


def _promise(text: str, delimiter: str, wanted: set[str]) -> tuple[int, int]:
    """How well a delimiter explains the first row: wanted names, then the number of cells."""
    filled = (line for line in StringIO(text) if line.strip())
    cells = next(csv.reader(filled, delimiter=delimiter), [])
    return len(wanted & {normal(name) for name in cells}), len(cells)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise LabelError(
            "there is no such label file",
            where=path.absolute(),
            wanted="a CSV file with a column of keys and a column of labels",
            remedy="name the file with --labels, or as labels in the site file",
        ) from error
    except UnicodeDecodeError as error:
        raise LabelError(
            "the label file is not UTF-8",
            where=f"{path}, byte {error.start}",
            remedy='save it again as "CSV UTF-8"',
        ) from error
    except OSError as error:
        raise LabelError(
            "the label file cannot be read", where=path, found=error.strerror
        ) from error


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise LabelError(
            "the label file is not CSV",
            where=f"{path}, line {begins}",
            remedy="look for a quotation mark that is not closed",
        ) from error


def _column(file: LabelFile, header: list[str], name: str) -> int:
    places = [place for place, each in enumerate(header) if each == name]
    if len(places) == 1:
        return places[0]
    if places:
        raise LabelError("two columns of the label file have one name", where=file.path, found=name)
    similar = next((each for each in header if each.lower() == name.lower()), None)
    raise LabelError(
        f'the label file has no column "{name}"',
        where=f"{file.path}, first row",
        found=f'"{similar}"' if similar else f"{len(header)} other column names",
        wanted=f'"{file.key_column}" and "{file.label_column}"',
        remedy="name the columns in the first row, or set which columns to take",
    )


def _require_lengths(
    file: LabelFile, header: list[str], table: list[tuple[int, list[str]]]
) -> None:
    width = len(header)
    odd = [
        line
        for line, cells in table
        if len(cells) < width or any(cell.strip() for cell in cells[width:])
    ]
    if odd:
        raise fault(
            file,
            "rows of the label file do not have as many cells as its first row",
            odd,
            wanted=f"{width} cells",
            remedy="mend these rows; a cell that holds the separator needs quotation marks",
        )


def _require_filled(file: LabelFile, rows: list[Row]) -> None:
    if not rows:
        raise LabelError(
            "the label file has a first row and no other", where=file.path, wanted="rows"
        )
    for name, empty in (
        (file.key_column, [row.line for row in rows if not row.key]),
        (file.label_column, [row.line for row in rows if not row.label]),
    ):
        if empty:
            raise fault(
                file,
                f'rows of the label file have nothing in the column "{name}"',
                empty,
                remedy="fill the cells in, or leave these rows out",
            )


def _require_known(file: LabelFile, rows: list[Row], classes: tuple[str, ...]) -> None:
    outside = [row.line for row in rows if row.label not in classes]
    if outside:
        raise fault(
            file,
            f"{len(outside)} of {len(rows)} rows have a label that is not one of the classes",
            outside,
            found=f'cells of the column "{file.label_column}"; they are not shown, since a wrong '
            "column may hold identifiers",
            wanted=", ".join(classes),
            remedy="mend these labels, or name the column that holds the labels",
        )


def _require_distinct(file: LabelFile, rows: list[Row]) -> None:
    lines = defaultdict(list)
    for row in rows:
        lines[row.key].append(row.line)
    repeated = [line for group in lines.values() if len(group) > 1 for line in group]
    if repeated:
        raise fault(
            file,
            f'rows of the label file repeat a value of the column "{file.key_column}"',
            repeated,
            wanted=f"one row for each {file.key}",
            remedy="keep one row of each group that says the same; decide where they differ",
        )


def _occurring(file: LabelFile, rows: list[Row]) -> tuple[str, ...]:
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) > _MOST_CLASSES:
        raise LabelError(
            "the label column holds too many different values to be labels",
            where=f'{file.path}, column "{file.label_column}"',
            found=f"{len(labels)} different values in {len(rows)} rows",
            wanted=f"at most {_MOST_CLASSES} classes",
            remedy="name the column that holds the labels",
        )
    return labels


def _key(kind: Key, cell: str) -> str:
    """A key as it is compared; file names with either slash, relative to the images."""
    key = normal(cell)
    return key.replace("\\", "/").removeprefix("./") if kind == "filename" else key
