"""The label file of a hospital: CSV, one row for an image, a study or a patient.

Written by hand or by spreadsheets. Every line is one row and is read by itself: a mistake in the
row of one patient changes nothing in the rows of others, and another spelling is understood only
where that row alone tells what it means (:mod:`client.data.label_files.spelling`). A row that is
damaged, or whose label is not a class, gives its patient no usable label. A row that could be
understood only by comparing it with all images (zeros that a spreadsheet removed) names nobody, and
``check`` says so (:mod:`client.data.label_files.near_misses`).

A problem with the file as a whole is an error when it is read. Problems with rows are errors only
for a person at the command line (:meth:`Labels.require_sound`), and are named by their line
numbers. Cells are never quoted: any of them may hold an identifier, also in the first row if the
file has no header.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, get_args

from client.data.label_files.spelling import (
    class_of,
    clean,
    columns_called,
    number_of,
    simple_label,
    unquoted,
)
from client.data.label_files.table import Fault, content, is_text, read_table, require_text
from client.data.pseudonyms import folded, normal
from common.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from client.data.archive import Found
    from client.data.pseudonyms import Difference

Key = Literal["SOPInstanceUID", "StudyInstanceUID", "PatientID", "filename"]
KEYS: Final[tuple[Key, ...]] = get_args(Key)

_SHOWN: Final = 10
_MOST_CLASSES: Final = 50
"""A column with more different values is taken for identifiers, given by mistake."""


@dataclass(frozen=True)
class LabelFile:
    """Where the labels are and how to find an image's.

    Args:
        path: the CSV file.
        key: what its key column holds.
        key_column: the name of that column.
        label_column: the name of the column with the label.
        prefix: folders that the file names begin with, above the folder of images.
        ignored: in what PatientIDs of one patient may differ.
    """

    path: Path
    key: Key
    key_column: str
    label_column: str
    prefix: str = ""
    ignored: frozenset[Difference] = frozenset()

    @property
    def folders(self) -> str:
        """The prefix as it is compared: with /, also at its end."""
        return as_path(self.prefix.rstrip("/\\") + "/") if self.prefix else ""


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, the key (sensitive), the label, and what is wrong with it."""

    line: int
    key: str = field(repr=False)
    label: str = field(repr=False)
    fault: Fault = ""


@dataclass(frozen=True)
class Labels:
    """A label file that has been read.

    Attributes:
        file: where it came from.
        classes: the labels there are; a label's index is its place here. None: a label is a
            number.
        rows: all of them, in the file's order. Sensitive.
        notes: what was read in a special way, in words; it quotes no cell of a row.
    """

    file: LabelFile
    classes: tuple[str, ...]
    rows: tuple[Row, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def by_key(self) -> Mapping[str, tuple[Row, ...]]:
        """The rows about each key; rows without one are about nobody."""
        # An empty key would match every file whose header lacks the value.
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.key:
                groups[self.compared(row.key)].append(row)
        return {key: tuple(group) for key, group in groups.items()}

    def about(self, file: Found) -> tuple[Row, ...]:
        """The rows that name a file; other files do not matter.

        A file is named by its whole path below the folder. With a bare name, one patient's row
        could also mean another patient's file of the same name.
        """
        return self.by_key.get(self.compared(key_of(file, self.file.key)), ())

    def compared(self, key: str) -> str:
        """A key in the spelling that stands for all that are one patient's."""
        return folded(key, self.file.ignored) if self.file.key == "PatientID" else key

    def label(self, row: Row) -> int | float | None:
        """The class that a row gives, as an index, or its number; None where it gives none."""
        if row.fault:
            return None
        return class_of(row.label, self.classes) if self.classes else number_of(row.label)

    def require_sound(self) -> None:
        """Report every mistake in the rows to a person.

        Raises:
            LabelError: there is no row, or one has another length, no key or no label, is
                not CSV or not UTF-8, has a label that is no class, or contradicts another
                about the same key.
        """
        if not self.rows:
            raise LabelError(
                "the label file has a header row but no other rows",
                where=self.file.path,
                remedy="export the labels again, or name the right file",
            )
        _require_whole(self.file, self.rows)
        _require_filled(self.file, self.rows)
        _require_known(self)
        _require_distinct(self)


_ATTRIBUTES: Final = {
    "SOPInstanceUID": "instance",
    "StudyInstanceUID": "study",
    "PatientID": "patient",
}


def key_of(file: Found, kind: Key) -> str:
    """What names a file in a label file: its path below the folder, or one of its identifiers."""
    return clean(file.path if kind == "filename" else getattr(file.header, _ATTRIBUTES[kind]))


def read_labels(file: LabelFile, classes: tuple[str, ...] | None) -> Labels:
    """Read a label file; its rows are not checked.

    Args:
        file: where it is and which columns to take.
        classes: the study's classes, in its order; none where labels are numbers; None takes the
            labels that occur, sorted.

    Raises:
        LabelError: it is missing, cannot be read or is empty, its first row is not CSV in
            UTF-8 or lacks a column; without ``classes``, too many labels occur.
    """
    table = read_table(file.path, {file.key_column, file.label_column})
    header = table.header
    key_at = _column(file, header, file.key_column)
    label_at = _column(file, header, file.label_column)
    special: Counter[str] = Counter()
    rows: list[Row] = []
    for line, cells, damage in table.rows:
        key, label = (cells[at] if at < len(cells) else "" for at in (key_at, label_at))
        wrong = damage or _fault(cells, header, key, label)
        rows.append(Row(line, _key(file, key), unquoted(label), wrong))
        if not wrong:
            special.update(_special(file, cells, key, label))
    known = classes if classes is not None else _occurring(file, rows)
    labels = Labels(file, known, tuple(rows))
    special["rows spell a label in another way than the classes (capitals, blanks or .0)"] += sum(
        bool(known) and row.label not in known and labels.label(row) is not None for row in rows
    )
    if len({simple_label(each) for each in known}) < len(known):
        table.notes.append(
            "some labels differ only in capitals, blanks or .0, and are not the same"
        )
    table.notes.extend(
        f'the column "{name}" is called "{header[at]}"'
        for name, at in ((file.key_column, key_at), (file.label_column, label_at))
        if header[at] != name
    )
    counted = (f"{count} {what}" for what, count in special.items() if count)
    return replace(labels, notes=(*table.notes, *counted))


def as_path(name: str) -> str:
    """A file name as it is compared: with /, relative to the images."""
    return name.replace("\\", "/").removeprefix("./")


def require_readable(file: LabelFile) -> None:
    """Require that a label file exists and can be read, whatever its rows say.

    Raises:
        LabelError: it is missing or cannot be read.
    """
    content(file.path)


def guess_key(path: Path, label_column: str) -> tuple[Key, str]:
    """The first kind of key that has a column of its name, and that column's name.

    Raises:
        LabelError: the file cannot be read, or has no such column.
    """
    header = read_table(path, {*KEYS, label_column}).header
    for key in KEYS:
        places = columns_called(header, key)
        if len(places) > 1:
            raise _two_columns(path, [header[place] for place in places])
        if places:
            return key, header[places[0]]
    require_text(path, header)
    raise LabelError(
        "the label file has no column that identifies the images",
        where=path,
        found=f"{len(header)} column{'' if len(header) == 1 else 's'}",
        wanted="a column named " + ", ".join(KEYS[:-1]) + f" or {KEYS[-1]}",
        remedy="if the first row is data, add a row with the column names above it; else rename "
        "the column, or give its name with --key-column and its kind with --key",
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


@dataclass(frozen=True)
class Wording:
    """What is said of rows that are all wrong in one way.

    Args:
        what: is wrong.
        remedy: what to do.
    """

    what: str
    remedy: str

    def error(
        self,
        file: LabelFile,
        lines: Iterable[int],
        *,
        found: str | None = None,
        wanted: str | None = None,
    ) -> LabelError:
        """The error about some rows, by their lines."""
        return fault(file, self.what, lines, found=found, wanted=wanted, remedy=self.remedy)


def listed(lines: Iterable[int]) -> str:
    """Line numbers as they are shown: ``lines 3, 7 and 12 more``."""
    numbers = sorted(set(lines))
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _column(file: LabelFile, header: list[str], name: str) -> int:
    # Two columns of one name: taking the first would train on the wrong labels without a word.
    places = columns_called(header, name)
    if len(places) == 1:
        return places[0]
    if places:
        raise _two_columns(file.path, [header[place] for place in places])
    require_text(file.path, header)
    raise LabelError(
        f'the label file has no column "{name}"',
        where=f"{file.path}, first row",
        found=_others(header),
        wanted=f'"{file.key_column}" and "{file.label_column}"',
        remedy="if the first row is data, add a row with the column names above it; else correct "
        "the column names in the first row, or the names in the settings",
    )


def _two_columns(path: Path, names: list[str]) -> LabelError:
    return LabelError(
        "two columns of the label file have the same name",
        where=path,
        found=", ".join(names),
        wanted="one column of this name; capitals, blanks and punctuation do not count",
        remedy="rename or delete the other column",
    )


def _fault(cells: Sequence[str], header: Sequence[str], key: str, label: str) -> Fault:
    # Bytes that are not UTF-8 may be in any other column: which letter they are does not matter.
    if not (is_text(key) and is_text(label)):
        return "encoding"
    # Spreadsheets often add empty cells at the end of some rows: only content is too much, and
    # only a column with a name is missing.
    named = max(place for place, name in enumerate(header, 1) if name)
    return "cells" if len(cells) < named or any(map(clean, cells[len(header) :])) else ""


def _key(file: LabelFile, cell: str) -> str:
    key = unquoted(cell)
    return as_path(key).removeprefix(file.folders) if file.key == "filename" else key


def _special(file: LabelFile, cells: Sequence[str], key: str, label: str) -> Iterator[str]:
    """What is special in how a row is written, in words that follow a count."""
    if any(unquoted(each) != clean(each) for each in (key, label)):
        yield 'rows have a formula (="..."), of which the text was read'
    if any(clean(each) != normal(each) for each in (key, label)):
        yield "rows have no-break spaces or unseen characters around a key or label, left out"
    if not all(map(is_text, cells)):
        yield "rows are not UTF-8 in a column that is not used"
    if file.key == "filename" and file.folders and as_path(unquoted(key)) != _key(file, key):
        yield f'rows name files below "{file.folders}", which was left out'


def _others(header: list[str]) -> str:
    return f"{len(header)} other column{'' if len(header) == 1 else 's'}"


_FAULTS: Final[dict[Fault, Wording]] = {
    "quotes": Wording(
        "rows of the label file are not CSV",
        remedy="look for an opening quotation mark without a closing one; a cell cannot contain a "
        "line break",
    ),
    "encoding": Wording(
        "rows of the label file are not UTF-8", remedy='save it again as "CSV UTF-8"'
    ),
    "cells": Wording(
        "rows of the label file have more or fewer cells than its first row",
        remedy="correct these rows; a cell that contains the separator needs quotation marks, and "
        "comments are allowed only above the first row",
    ),
}


def _require_whole(file: LabelFile, rows: Sequence[Row]) -> None:
    for name, words in _FAULTS.items():
        lines = [row.line for row in rows if row.fault == name]
        if lines:
            raise words.error(file, lines)


def _require_filled(file: LabelFile, rows: Sequence[Row]) -> None:
    for name, empty in (
        (file.key_column, [row.line for row in rows if not row.key]),
        (file.label_column, [row.line for row in rows if not row.label]),
    ):
        if empty:
            raise fault(
                file,
                f'rows of the label file have an empty cell in the column "{name}"',
                empty,
                remedy="fill in these cells, or delete these rows",
            )


def _require_known(labels: Labels) -> None:
    file, rows = labels.file, labels.rows
    outside = [row.line for row in rows if labels.label(row) is None]
    if outside:
        raise fault(
            file,
            f"{len(outside)} of {len(rows)} rows have a label that is not one of the classes",
            outside,
            found=f'values of the column "{file.label_column}"; they are not shown, since a wrong '
            "column may contain identifiers",
            wanted=", ".join(labels.classes),
            remedy="correct the labels or the classes, or name the column with the labels",
        )


def _require_distinct(labels: Labels) -> None:
    groups = labels.by_key.values()
    apart = [rows for rows in groups if len(set(map(labels.label, rows))) > 1]
    if apart:
        raise fault(
            labels.file,
            "rows of the label file give different labels for the same value of the column "
            f'"{labels.file.key_column}"',
            [row.line for rows in apart for row in rows],
            wanted=f"one label for each {labels.file.key}",
            remedy="keep the correct label in these rows. If their keys look like 1.2E+05, Excel "
            "has shortened them: export the labels again, open that file in Excel with Data, From "
            "Text/CSV, and give the column with the keys the type Text",
        )


def _occurring(file: LabelFile, rows: Sequence[Row]) -> tuple[str, ...]:
    labels = tuple(sorted({row.label for row in rows if row.label and not row.fault}))
    if len(labels) > _MOST_CLASSES:
        raise LabelError(
            "the label column has too many different values",
            where=f'{file.path}, column "{file.label_column}"',
            found=f"{len(labels)} different values in {len(rows)} rows",
            wanted=f"at most {_MOST_CLASSES} classes",
            remedy="give the name of the column with the labels",
        )
    return labels
