"""Patients who opted out, known only by their pseudonyms.

The lists are text files with one PatientID (0010,0020) a line; empty lines and lines that begin
with ``#`` are ignored. Text after a ``#`` within a line may be a comment or a part of the
identifier. Both readings count as patients: better to leave out one too many than one too few.
Each data set may name its own file, and ``opt-out.txt`` in the state folder is always read. A
patient on any list takes no part with any data set, nor under any other identifier that
:mod:`client.data.persons` joins with it: the person opted out, not one archive's record.

The files are read again at every request, so that an edit by hand takes effect at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms, lines_of, normal, read_list
from common.errors import SiteError
from common.files import write_atomic

FILE: Final = "opt-out.txt"
_LIST: Final = "the opt-out list"
_HEADING: Final = "# Patients who opted out of all studies: one PatientID per line.\n"


@dataclass(frozen=True)
class Absent:
    """The patients who opted out.

    Attributes:
        pseudonyms: of the patients, and all others of the same persons; never leaves the site.
        spellings: of each listed identifier as written, the pseudonym of its patient.
        version: changes with the content of the files. It is a plain hash of identifiers, so it
            never leaves the site either.
    """

    pseudonyms: frozenset[str]
    spellings: Mapping[str, str]
    version: str

    def __repr__(self) -> str:
        return "Absent(<masked>)"


class OptOuts:
    """The opt-out lists of one site.

    Args:
        named: the files that data sets name; they must be there.
        state: the state folder; the file there may be absent.
        pseudonyms: under the site's key.
        persons: which of them are one person's.
    """

    def __init__(
        self, named: Iterable[Path], state: Path, pseudonyms: Pseudonyms, persons: Persons
    ) -> None:
        self._named, self._own, self._pseudonyms = sorted(set(named)), state / FILE, pseudonyms
        self._persons = persons
        self._last = Absent(frozenset(), {}, "")

    def read(self) -> Absent:
        """The patients who have opted out now.

        Raises:
            SiteError: a list, or the list of persons, is missing or is not text. An unreadable
                list must not count as an empty one.
        """
        joined = self._persons.read()
        contents = [(path, _content(path)) for path in self._named]
        if self._own.exists():
            contents.append((self._own, _content(self._own)))
        version = _version([*(content for _, content in contents), joined.version.encode()])
        if version != self._last.version:
            names = (name for path, content in contents for name in _names(path, content))
            own = self._pseudonyms
            spellings = {own.written(name): own.of(name) for name in names}
            listed = joined.everything({*spellings, *spellings.values()})
            self._last = Absent(listed, spellings, version)
        return self._last

    def add(self, patients: Sequence[str]) -> tuple[int, int]:
        """Put patients on the list: the first that a data set names, else the site's own.

        Returns:
            How many were not on any list before, and how many were.

        Raises:
            SiteError: an identifier cannot be a line of the file, or the file cannot be written.
        """
        # All are checked before any is written, so that an error means that nothing was added.
        for patient in patients:
            _require_line(patient)
        listed = self.read().spellings
        path = (self._named or [self._own])[0]
        new: dict[str, str] = {}
        for patient in patients:
            new.setdefault(self._pseudonyms.written(patient), normal(patient))
        added = [name for pseudonym, name in new.items() if pseudonym not in listed]
        if added:
            # As bytes: the lines before may be in another encoding, and stay as they are.
            before = _content(path) if path.exists() else _HEADING.encode()
            # Else the new identifier would be glued to the last one, and neither patient left out.
            if before and not before.endswith(b"\n"):
                before += b"\n"
            _write(path, before + "".join(f"{name}\n" for name in added).encode())
        return len(added), len(new) - len(added)


def _content(path: Path) -> bytes:
    return read_list(path, _LIST, if_empty="if no patient has opted out")


def _names(path: Path, content: bytes) -> list[str]:
    lines = map(normal, lines_of(path, content, _LIST, each="PatientID"))
    named = [line for line in lines if line and not line.startswith("#")]
    # "P01 # asked by phone" may be a remark or an identifier: both readings are left out.
    return named + [normal(line.split("#", 1)[0]) for line in named if "#" in line]


def _version(contents: Iterable[bytes]) -> str:
    digests = (hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _require_line(patient: str) -> None:
    name = normal(patient)
    if not name or name.startswith("#") or len(name.splitlines()) != 1:
        raise SiteError(
            "this PatientID cannot be written to the opt-out list",
            found="an identifier that is empty, has several lines or begins with #",
            wanted="a PatientID (0010,0020) exactly as in the images",
        )


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content, mode=0o600)
    except OSError as error:
        raise SiteError(
            "the opt-out list cannot be written",
            where=path,
            found=error.strerror,
            remedy="give this user write access there and try again; no patient was added",
        ) from error
