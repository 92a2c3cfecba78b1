"""Values of a source that another object may hold: valid in their VR (PS3.5, 6.2), or left out.

Files have identifiers that are too long, dates of other standards and elements of another VR. A
text that is too long is cut; an identifier never is, since what is left may be another's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from datetime import date
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.uid import RE_VALID_UID
from pydicom.valuerep import PersonName, format_number_as_ds

from client.data.dicom import NO_VERDICT, quiet

LONGEST: Final = {"LO": 64, "SH": 16, "CS": 16, "UT": 2**16}
"""Characters of a value, by VR."""
CUT: Final = frozenset(
    {
        *("StudyDescription", "DeidentificationMethod", "CodeMeaning"),
        *("Manufacturer", "ManufacturerModelName"),
    }
)
"""Texts that mean the same when their end is missing. All others are identifiers."""
CHOICES: Final = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "Laterality": ("R", "L"),
}
"""Enumerated values (PS3.3, C.7), by keyword."""
MOST_ITEMS: Final = 16
"""Of a sequence that is copied."""
MOST_DEPTH: Final = 3
"""Of sequences within sequences that are copied. Those of patient and study have two (PS3.3,
10.14); a header may have hundreds, and what copies and writes an object calls itself for each."""
_DATE: Final = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):?(?:([0-5]\d):?(?:([0-5]\d|60)(\.\d{1,6})?)?)?")
_AGE: Final = re.compile(r"\d{3}[DWMY]")
_SIDES: Final = re.compile("[LRAPHF]{1,3}")
_CODE: Final = re.compile(r"[A-Z0-9_ ]+")


def read(dataset: Dataset, keyword: str) -> object:
    """The value of an element as it was read; None where it is absent or cannot be read."""
    try:
        with quiet():
            value: object = dataset.get(keyword)
            # Decoded only now, and that may fail or warn too.
            return str(value) if isinstance(value, PersonName) else value
    except NO_VERDICT:
        raise
    except BaseException:  # noqa: BLE001 - a value that cannot be converted raises whatever its reader does
        return None


def text(dataset: Dataset, keyword: str) -> str:
    """The same as text; empty where it is absent, or of a form of which no text can be made."""
    value = read(dataset, keyword)
    try:
        with quiet():
            return "" if value is None else str(value).strip()
    except NO_VERDICT:
        raise
    except BaseException:  # noqa: BLE001 - as above: a sequence in the place of a number is read as it is shown
        return ""


def cleaned(dataset: Dataset, keyword: str, depth: int = MOST_DEPTH) -> object:
    """The value of an element that another data set may hold.

    Args:
        dataset: that has it.
        keyword: of the element.
        depth: of sequences that are copied.

    Returns:
        A valid value of the VR that the Standard gives it; None where there is none.
    """
    vr, value = dictionary_VR(keyword), read(dataset, keyword)
    if vr == "SQ":
        return _items(value, depth)
    if isinstance(value, MultiValue | list | tuple):
        if keyword in CUT:
            value = " / ".join(map(str, value))
        elif vr == "PN" and value:
            value = value[0]
        else:
            return None
    if value is None or isinstance(value, bytes | Dataset | Items):
        return None
    found = _READERS[vr](str(value), keyword) if vr in _READERS else ""
    return found or None


def copied(
    dataset: Dataset, into: Dataset, keywords: tuple[str, ...], depth: int = MOST_DEPTH
) -> None:
    """Copy those elements that have a value."""
    for keyword in keywords:
        if (value := cleaned(dataset, keyword, depth)) is not None:
            setattr(into, keyword, value)


def patient_orientation(dataset: Dataset) -> list[str] | None:
    """Towards which side rows and columns run (PS3.3, C.7.6.1.1.1); None where it is not said."""
    value = read(dataset, "PatientOrientation")
    values = [str(each) for each in value] if isinstance(value, MultiValue | list | tuple) else []
    return values if len(values) == 2 and all(map(_SIDES.fullmatch, values)) else None


def uid(dataset: Dataset, keyword: str) -> str:
    """A UID; empty where there is none that is valid (PS3.5, 9.1)."""
    return str(cleaned(dataset, keyword) or "")


def plain(text: str) -> str:
    """A text without control characters and backslashes, and without blanks around it."""
    kept = "".join(
        " " if each == "\\" or unicodedata.category(each) in ("Cc", "Cs") else each for each in text
    )
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def _items(value: object, depth: int) -> list[Dataset] | None:
    """Items with those elements that are valid."""
    if depth == 0:
        return None
    found = []
    for item in list(value)[:MOST_ITEMS] if isinstance(value, Items) else ():
        made = Dataset()
        known = [str(element.keyword) for element in _elements(item)]
        copied(item, made, tuple(each for each in known if each), depth - 1)
        found += [made] if len(made) else []
    return found or None


def _elements(item: Dataset) -> list[Dataset]:
    try:
        with quiet():
            return list(item)  # type: ignore[arg-type]  # elements, of which the keyword is asked
    except NO_VERDICT:
        raise
    except BaseException:  # noqa: BLE001 - as in read
        return []


def _text(text: str, keyword: str) -> str:
    found, most = plain(text), LONGEST[dictionary_VR(keyword)]
    if len(found) <= most:
        return found
    return found[:most].rstrip() if keyword in CUT else ""


def _name(text: str, _keyword: str) -> str:
    """Three component groups of at most 64 characters, five components each (PS3.5, 6.2.1)."""
    groups = []
    for group in text.split("=")[:3]:
        parts = [plain(part) for part in group.split("^")]
        parts = [*parts[:4], " ".join(parts[4:]).strip()]
        groups.append("^".join(parts)[:64].rstrip("^ "))
    return "=".join(groups).rstrip("=")


def _date(text: str, _keyword: str) -> str:
    """``YYYYMMDD``, also of ACR-NEMA's ``YYYY.MM.DD``."""
    if not (match := _DATE.fullmatch(text.strip())):
        return ""
    try:
        return date(*map(int, match.groups())).strftime("%Y%m%d")
    except ValueError:
        return ""


def _time(text: str, _keyword: str) -> str:
    match = _TIME.fullmatch(text.strip())
    return "".join(part for part in match.groups() if part) if match else ""


def _choice(text: str, keyword: str) -> str:
    found = plain(text).upper()
    if keyword in CHOICES:
        return found if found in CHOICES[keyword] else ""
    return found if len(found) <= LONGEST["CS"] and _CODE.fullmatch(found) else ""


def _age(text: str, _keyword: str) -> str:
    return found if _AGE.fullmatch(found := text.strip().upper()) else ""


def _decimal(text: str, _keyword: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return ""
    return format_number_as_ds(number) if math.isfinite(number) else ""


def _uid(text: str, _keyword: str) -> str:
    found = text.strip(" \0")
    # Not pydicom's UID, which warns of what is none, and quotes it.
    return found if len(found) <= 64 and re.fullmatch(RE_VALID_UID, found) else ""


_READERS: Final[dict[str, Callable[[str, str], str]]] = {
    "AS": _age,
    "CS": _choice,
    "DA": _date,
    "DS": _decimal,
    "LO": _text,
    "PN": _name,
    "SH": _text,
    "TM": _time,
    "UI": _uid,
    "UT": _text,
}
