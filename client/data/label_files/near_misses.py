"""Rows that name no image, but would if a spreadsheet had not changed them.

To read such a row would be a guess: without the zeros in front, two patients may have one number.
And which guess fits could only be told from all rows and all images, while each patient's place
must follow from that patient alone. So a study does not guess. A person is told what differs, by
line numbers and by the shape of a number; no cell is quoted.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from client.data.archive import walk
from client.data.label_files.spelling import clean
from client.data.labels import KEYS, Wording, fault, key_of, read_labels
from client.data.pseudonyms import normal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from client.data.archive import Found
    from client.data.labels import LabelFile, Labels, Row
    from common.errors import LabelError

# Each pattern has one way to match: with two, a long cell takes as many tries as its square.
_NUMBER: Final = re.compile(r"0*([^\D0]\d*|0)(?:[.,]0+)?")
_SCIENTIFIC: Final = re.compile(r"\d(?:[.,]\d+)?E\+?(\d{1,3})", re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s_^-]+")
_PADDING: Final = re.compile(r"^[\W_]+|(?<![\W_])[\W_]+$")
_SUFFIX: Final = re.compile(r"\.(dcm|dicom|ima|img)$", re.IGNORECASE)

_AS_TEXT: Final = (
    "write the label file again from its source. Excel: do not open the CSV with a double click, "
    "but with Data, From Text/CSV; give the column with the keys the type Text; save as CSV UTF-8. "
    "Pandas: read with dtype=str"
)


class _Miss(NamedTuple):
    """How a row and an image differ; both functions give "" where it cannot be this."""

    of_row: Callable[[str], str]
    of_image: Callable[[str], str]
    words: Wording
    numbers: bool = False


def _number(key: str) -> str:
    found = _NUMBER.fullmatch(key)
    return found[1] if found else ""


def _digits(key: str) -> str:
    found = _SCIENTIFIC.fullmatch(key)
    return str(int(found[1]) + 1) if found else ""


def _length(key: str) -> str:
    return str(len(_number(key))) if key.isdecimal() else ""


def _without_case(key: str) -> str:
    # Blanks and hyphens are alike, and are not left out: 1-11 and 11-1 are two.
    return _PADDING.sub("", _BETWEEN.sub("-", key)).casefold()


def _asked(key: str) -> str:
    return key if "?" in key else ""


def _askable(key: str) -> str:
    return _asked(key.encode("ascii", "replace").decode())


def _decoded_again(key: str) -> str:
    # UTF-8 that was taken for Windows' encoding, and saved again: "Ã¼" for "ü".
    try:
        return normal(key.encode("cp1252").decode())
    except UnicodeError:
        return ""


def _whole(key: str) -> str:
    return key


def _without_suffix(key: str) -> str:
    return _SUFFIX.sub("", key).casefold()


def _last_part(key: str) -> str:
    return _without_suffix(PurePosixPath(key).name)


_ZEROS: Final = _Miss(
    _number,
    _number,
    Wording(
        "rows of the label file write numbers in another way than the images: zeros in front, or a "
        "decimal point",
        remedy=_AS_TEXT + ". If PatientIDs with and without zeros are one patient here, write "
        'ignore_in_patient_ids = ["leading-zeros"] in site.toml',
    ),
    numbers=True,
)
_SHORTENED: Final = _Miss(
    _digits,
    _length,
    Wording(
        "rows of the label file have numbers that a spreadsheet has shortened",
        remedy=_AS_TEXT,
    ),
    numbers=True,
)
_LOST: Final = _Miss(
    _asked,
    _askable,
    Wording(
        "rows of the label file have question marks where the images have letters",
        remedy='save the label file again from its source as "CSV UTF-8"',
    ),
)
_TWICE: Final = _Miss(
    _decoded_again,
    _whole,
    Wording(
        "rows of the label file have other letters in place of letters with accents",
        remedy='save the label file again from its source as "CSV UTF-8"',
    ),
)
_CASE: Final = _Miss(
    _without_case,
    _without_case,
    Wording(
        "rows of the label file differ from the images in capitals, blanks or punctuation alone",
        remedy="write these rows exactly as in the images; they may be two patients or files",
    ),
)
_NO_SUFFIX: Final = _Miss(
    _without_suffix,
    _without_suffix,
    Wording(
        "rows of the label file differ from the files in the ending of the name alone",
        remedy="write the whole file name in these rows, with its ending (such as .dcm) or "
        "without, as it is",
    ),
)
_FOLDERS: Final = _Miss(
    _last_part,
    _last_part,
    Wording(
        "rows of the label file name files in other folders",
        remedy="write the path below the image folder, with /. If all names begin with folders "
        "above it, give these folders as file_prefix in site.toml (--file-prefix)",
    ),
)


def require_no_near_misses(labels: Labels, found: Sequence[Found]) -> None:
    """Refuse rows that name no image, and look like an image that no row names.

    Args:
        labels: which have been read.
        found: every file of the folder that can be read.

    Raises:
        LabelError: there are such rows.
    """
    kind = labels.file.key
    there = {labels.compared(key_of(file, kind)) for file in found}
    missed = [row for row in labels.rows if row.key and labels.compared(row.key) not in there]
    unnamed = there - labels.by_key.keys() - {""}
    misses = [_LOST, _TWICE, _CASE]
    misses += [_NO_SUFFIX] if kind == "filename" else [_ZEROS, _SHORTENED]
    if missed and not there & labels.by_key.keys():
        _require_kind(labels, missed, found)
        # Only here: in every folder of an archive there may be an IM0001.
        misses += [_FOLDERS] if kind == "filename" else []
    for miss in misses:
        error = _error(labels, miss, missed, unnamed)
        if error:
            raise error


def guess_prefix(file: LabelFile, images: Path) -> str:
    """The folders that all file names begin with and the image folder has not; empty if none.

    For a person who sees the result and keeps it in the site file: it follows from all rows and all
    files, so a study does not ask for it.

    Raises:
        LabelError: the label file cannot be read.
        DataError: nor can the folder.
    """
    if file.key != "filename":
        return ""
    names = {row.key for row in read_labels(file, ()).rows if row.key}
    paths = {clean(path) for path in walk(images)}
    first, last = min(names, default=""), max(names, default="")
    if names & paths or first == last:
        return ""
    # The first and the last in order share what all share.
    parts = list(zip(first.split("/")[:-1], last.split("/")[:-1], strict=False))
    common = next((at for at, (one, other) in enumerate(parts) if one != other), len(parts))
    prefixes = ["/".join(first.split("/")[:end]) + "/" for end in range(1, common + 1)]
    matches = {each: {name.removeprefix(each) for name in names} & paths for each in prefixes}
    fit = [each for each in prefixes if matches[each]]
    # If two fit, x/a.dcm may be meant or a.dcm; if a name fits none, it may be another folder.
    return fit[0] if len(fit) == 1 and len(matches[fit[0]]) == len(names) else ""


def _require_kind(labels: Labels, missed: Sequence[Row], found: Sequence[Found]) -> None:
    for kind in KEYS:
        others = {key_of(file, kind) for file in found}
        lines = [row.line for row in missed if row.key in others]
        if lines and kind != labels.file.key:
            raise fault(
                labels.file,
                f'the column "{labels.file.key_column}" does not hold what the settings say',
                lines,
                found=f"{kind} of images",
                wanted=labels.file.key,
                remedy=f'write key = "{kind}" in site.toml (--key {kind}), or name another '
                "column (--key-column)",
            )


def _error(
    labels: Labels, miss: _Miss, missed: Sequence[Row], unnamed: Collection[str]
) -> LabelError | None:
    images: Mapping[str, str] = {miss.of_image(key): key for key in sorted(unnamed)}
    rows = [row for row in missed if miss.of_row(row.key) and miss.of_row(row.key) in images]
    if not rows:
        return None
    found = f"{len(rows)} of {len(labels.rows)} rows"
    if miss.numbers:
        row, image = rows[0], images[miss.of_row(rows[0].key)]
        found += (
            f"; line {row.line} has a number such as {_shape(row.key)} where an image has "
            f"{_shape(image)} (each # is a digit)"
        )
    return miss.words.error(
        labels.file,
        (row.line for row in rows),
        found=found,
        wanted=f"{labels.file.key} exactly as in the images",
    )


def _shape(number: str) -> str:
    """A number without its digits: ``00###``, ``###.0``."""
    whole, point, tail = number.partition(".")
    zeros = len(whole[:-1]) - len(whole[:-1].lstrip("0"))
    if set(tail) != {"0"}:
        tail = re.sub(r"\d", "#", tail)
    return "0" * zeros + re.sub(r"\d", "#", whole[zeros:]) + point + tail
