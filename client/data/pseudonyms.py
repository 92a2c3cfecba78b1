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
from typing import TYPE_CHECKING, Final

from common.errors import SiteError

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES: Final = 32
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")
_PADDING: Final = " \t\r\n\0"


class Pseudonyms:
    """Turns identifiers into pseudonyms under one site's key.

    Args:
        key: 32 secret bytes. It stays in memory and in the site's key file; neither
            :func:`repr` nor an error shows it.

    Raises:
        SiteError: the key has another length.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SiteError(
                "the key for pseudonyms has the wrong length",
                found=f"{len(key)} bytes",
                wanted=f"{KEY_BYTES} bytes",
                remedy="restore the latest full backup of the state folder; with a new key the "
                "privacy ledger would recognise no patient",
            )
        self._key = bytes(key)

    @classmethod
    def throwaway(cls) -> Pseudonyms:
        """A key that nobody keeps, for counting patients where nothing is recorded."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def of(self, identifier: str) -> str:
        """The pseudonym of a patient: 64 hexadecimal digits.

        Padding that DICOM does not count as part of a value (PS3.5, section 6.2: leading and
        trailing spaces of LO) is left out, and Unicode is composed (NFC), so that one
        patient written in two ways stays one.
        """
        return self._digest("patient", normal(identifier).encode("utf-8", "surrogatepass"))

    def of_file(self, sha256: str, settings: str) -> str:
        """The name of a file's decoded images in the cache: 64 hexadecimal digits.

        Args:
            sha256: of the file's content.
            settings: everything else that decides the decoded values.
        """
        return self._digest("cached-file", f"{sha256}\0{settings}".encode())

    def of_folder(self, path: str, settings: str) -> str:
        """The name of a folder's cache: 32 hexadecimal digits."""
        return self._digest("cached-folder", f"{path}\0{settings}".encode())[:32]

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
