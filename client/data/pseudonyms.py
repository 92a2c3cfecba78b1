"""Keyed pseudonyms: the only form in which patients are known after the files were read.

A pseudonym is HMAC-SHA256 (RFC 2104, FIPS 198-1) of an identifier under a key that the site draws
once and never shows. A plain hash would not do: PatientIDs are short, and anyone could hash them
all and compare. Everything else that must not be linkable without the key (the name of a cached
image, the place in the split) has its own purpose in the message, so that a value of one purpose
says nothing about a value of another.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from collections import defaultdict
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, get_args

from common.errors import SiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

KEY_BYTES: Final = 32
Difference = Literal["unicode", "blanks", "case", "leading-zeros"]
"""In what two spellings of one PatientID may differ."""
DIFFERENCES: Final[tuple[Difference, ...]] = get_args(Difference)
_OF_PLAIN: Final[frozenset[Difference]] = frozenset({"case", "leading-zeros"})
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")
_PADDING: Final = " \t\r\n\0"


class Pseudonyms:
    """Turns identifiers into pseudonyms under one site's key.

    Args:
        key: 32 secret bytes. It stays in memory and in the site's key file; neither
            :func:`repr` nor an error shows it.
        ignored: in what identifiers of one patient may differ.

    Raises:
        SiteError: the key has another length.
    """

    __slots__ = ("_ignored", "_key")

    def __init__(self, key: bytes, ignored: Collection[Difference] = ()) -> None:
        if len(key) != KEY_BYTES:
            raise SiteError(
                "the key for pseudonyms has the wrong length",
                found=f"{len(key)} bytes",
                wanted=f"{KEY_BYTES} bytes",
                remedy="restore the latest full backup of the state folder; with a new key the "
                "privacy ledger would recognise no patient",
            )
        self._key, self._ignored = bytes(key), frozenset(ignored)

    @classmethod
    def throwaway(cls) -> Pseudonyms:
        """A key that nobody keeps, for counting patients where nothing is recorded."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def ignoring(self, ignored: Collection[Difference]) -> Pseudonyms:
        """Pseudonyms under the same key, for a site that ignores these differences."""
        return Pseudonyms(self._key, ignored)

    def of(self, identifier: str) -> str:
        """The pseudonym of a patient: 64 hexadecimal digits.

        Padding that DICOM does not count as part of a value (PS3.5, section 6.2: leading and
        trailing spaces of LO) is left out, and Unicode is composed (NFC), so that one
        patient written in two ways stays one. Of spellings that differ in nothing but what is
        ignored it is that of the plainest (:func:`folded`).
        """
        return self._patient(folded(identifier, self._ignored))

    def written(self, identifier: str) -> str:
        """The pseudonym of an identifier just as it is written, where nothing is ignored."""
        return self._patient(normal(identifier))

    def foldings(self, identifier: str) -> dict[str, tuple[int, ...]]:
        """The pseudonyms that an identifier has under all rules, where it is another than written.

        Returns:
            The rules of each, as :func:`rule_number` counts them.
        """
        found: defaultdict[str, list[int]] = defaultdict(list)
        written, fold = normal(identifier), cache(folded)
        # A quarter of the work for most: nothing else can change plain letters and digits.
        plain = written.isascii() and written.isalnum()
        for number in range(1, 2 ** len(DIFFERENCES)):
            ignored = rule(number)
            spelt = fold(written, ignored & _OF_PLAIN if plain else ignored)
            if spelt != written:
                found[spelt].append(number)
        return {self._patient(spelt): tuple(numbers) for spelt, numbers in found.items()}

    def _patient(self, identifier: str) -> str:
        return self._digest("patient", identifier.encode("utf-8", "surrogatepass"))

    def of_file(self, sha256: str, settings: str) -> str:
        """The name of a file's decoded images in the cache: 64 hexadecimal digits.

        Args:
            sha256: of the file's content.
            settings: everything else that decides the decoded values.
        """
        return self._digest("cached-file", f"{sha256}\0{settings}".encode())

    def of_folder(self, path: str, settings: str) -> str:
        """The name of a folder's cache: 32 hexadecimal digits."""
        # A path is bytes, and old file servers name folders in other encodings than UTF-8.
        message = f"{path}\0{settings}".encode("utf-8", "surrogateescape")
        return self._digest("cached-folder", message)[:32]

    def _digest(self, purpose: str, message: bytes) -> str:
        # Purposes contain no zero byte, so no message of one purpose equals one of another.
        tagged = b"consilium/" + purpose.encode() + b"\0" + message
        return hmac.new(self._key, tagged, hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return "Pseudonyms(<masked>)"

    def __reduce__(self) -> str:
        # Decoders run in other processes: the key must not reach one by accident.
        raise TypeError("a key for pseudonyms is not pickled")


def normal(identifier: str) -> str:
    """An identifier without padding, in composed Unicode."""
    return unicodedata.normalize("NFC", identifier.strip(_PADDING))


def folded(identifier: str, ignored: Collection[Difference]) -> str:
    """The one spelling that stands for all which differ in nothing but what is ignored.

    It is one of them, and folds to itself.
    """
    found, before = normal(identifier), ""
    while found != before:  # what one step leaves may be another's: a blank before a zero
        before = found
        for each in DIFFERENCES:
            if each in ignored:
                found = normal(_FOLDS[each](found)) or found
    return found


@cache
def rule(number: int) -> frozenset[Difference]:
    """The differences that a rule of this number ignores."""
    return frozenset(each for bit, each in enumerate(DIFFERENCES) if number >> bit & 1)


def rule_number(ignored: Collection[Difference]) -> int:
    """A number for each set of differences; 0 for none."""
    return sum(1 << bit for bit, each in enumerate(DIFFERENCES) if each in ignored)


def _one_form(text: str) -> str:
    """Compatible letters as one, and UTF-8 that was read as Latin-1 as what it is."""
    # pydicom reads a file that names no character set as Latin-1, and many such hold UTF-8.
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return unicodedata.normalize("NFKC", text)


def _without_blanks(text: str) -> str:
    return "".join(each for each in text if unicodedata.category(each) not in _BLANK)


_BLANK: Final = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
"""Also those without width, such as a byte order mark or a soft hyphen."""
_FOLDS: Final[Mapping[Difference, Callable[[str], str]]] = {
    "unicode": _one_form,
    "blanks": _without_blanks,
    "case": str.casefold,
    "leading-zeros": lambda text: text.lstrip("0") or "0",
}


def position(pseudonym: str) -> float:
    """A patient's own place in [0, 1), uniform, that no other patient influences.

    Keyed by the pseudonym, which is itself keyed by the site: nobody without the site's
    key can tell where a patient falls. 53 bits, the precision of a float64.
    """
    digest = hmac.new(pseudonym.encode(), b"consilium/split", hashlib.sha256).digest()
    # 53 bits are exact in a float64; more would round, and 2^64 - 1 would become 1.0.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def read_list(path: Path, name: str, *, if_empty: str) -> bytes:
    """The content of a list of PatientIDs.

    Raises:
        SiteError: it cannot be read: an unreadable list must not count as an empty one.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(
            f"{name} cannot be read",
            where=path,
            found=error.strerror,
            remedy=f"restore the file; {if_empty}, create an empty file",
        ) from error


def lines_of(path: Path, content: bytes, name: str, *, each: str) -> list[str]:
    """The lines of a list of PatientIDs, each read by itself.

    A line that is not UTF-8 is taken as Latin-1, which spreadsheets write: one line, which is
    about one patient, must not make the whole list unreadable.

    Raises:
        SiteError: the file is in UTF-16, so that no line of it can be read.
    """
    if content.startswith(_WIDE):
        raise SiteError(
            f"{name} is not UTF-8 text",
            where=path,
            remedy=f"save it as plain text in UTF-8, with one {each} per line",
        )
    found = []
    for line in content.removeprefix(b"\xef\xbb\xbf").splitlines():
        try:
            found += line.decode("utf-8").splitlines() or [""]
        except UnicodeDecodeError:
            found.append(line.decode("latin-1"))
    return found
