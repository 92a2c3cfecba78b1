"""Patients who take no part: who they are, known only by their pseudonyms.

The lists are text files, one PatientID (0010,0020) a line; empty lines and lines that begin
with ``#`` say nothing. What follows a ``#`` within a line may be a remark or a part of the
identifier: both are taken for patients, since one too many is left out rather than one too
few. Each data set may name a file of its own, and ``opt-out.txt`` in the
state folder is always read. A patient on any of them takes no part with any data set, nor under
any other identifier that :mod:`client.data.persons` joins with that one: the wish is a person's,
not an archive's.

The files are read again at every request, so that an edit by hand holds at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.data.persons import Persons
from client.data.pseudonyms import Pseudonyms, lines_of, normal
from common.errors import SiteError
from common.files import write_atomic

FILE: Final = "opt-out.txt"
_HEADING: Final = "# Patients who take no part in any study: one PatientID a line.\n"


@dataclass(frozen=True)
class Absent:
    """Who takes no part.

    Attributes:
        pseudonyms: of the patients, and all others of the same persons; never leaves the site.
        version: changes with the files' content, and with who is whom; never leaves the site
            either, since it is a plain hash of identifiers.
    """

    pseudonyms: frozenset[str]
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
        self._last = Absent(frozenset(), "")
        self._listed: frozenset[str] = frozenset()

    def read(self) -> Absent:
        """Who takes no part now.

        Raises:
            SiteError: a file is missing or is no text, also that of the persons; nobody is left
                out by mistake.
        """
        joined = self._persons.read()
        contents = [(path, _content(path)) for path in self._named]
        if self._own.exists():
            contents.append((self._own, _content(self._own)))
        version = _version([*(content for _, content in contents), joined.version.encode()])
        if version != self._last.version:
            names = (name for path, content in contents for name in _names(path, content))
            self._listed = frozenset(map(self._pseudonyms.of, names))
            self._last = Absent(joined.everything(self._listed), version)
        return self._last

    def add(self, patients: Sequence[str]) -> tuple[int, int]:
        """Put patients on the list: the first that a data set names, else the site's own.

        Returns:
            How many were not on any list before, and how many were.

        Raises:
            SiteError: an identifier cannot be a line of the file, or the file cannot be written.
        """
        for patient in patients:
            _require_line(patient)
        self.read()
        path = (self._named or [self._own])[0]
        new: dict[str, str] = {}
        for patient in patients:
            new.setdefault(self._pseudonyms.of(patient), normal(patient))
        added = [name for pseudonym, name in new.items() if pseudonym not in self._listed]
        if added:
            before = path.read_text(encoding="utf-8") if path.exists() else _HEADING
            if before and not before.endswith("\n"):
                before += "\n"
            _write(path, before + "".join(f"{name}\n" for name in added))
        return len(added), len(new) - len(added)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(
            "the list of patients who take no part cannot be read",
            where=path,
            found=error.strerror,
            remedy="bring the file back; where nobody is on the list, make an empty one",
        ) from error


def _names(path: Path, content: bytes) -> list[str]:
    try:
        text = lines_of(content)
    except ValueError:
        raise SiteError(
            "the list of patients who take no part is not in UTF-8",
            where=path,
            remedy="save it as plain text in UTF-8, one PatientID a line",
        ) from None
    lines = (normal(line) for line in text)
    named = [line for line in lines if line and not line.startswith("#")]
    return named + [normal(line.split("#", 1)[0]) for line in named if "#" in line]


def _version(contents: Iterable[bytes]) -> str:
    digests = (hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _require_line(patient: str) -> None:
    name = normal(patient)
    if not name or name.startswith("#") or len(name.splitlines()) != 1:
        raise SiteError(
            "a PatientID cannot stand in the list of patients who take no part",
            found="an identifier that is empty, has several lines or begins with #",
            wanted="a PatientID (0010,0020), as the images have it",
        )


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text.encode(), mode=0o600)
    except OSError as error:
        raise SiteError(
            "the list of patients who take no part cannot be written",
            where=path,
            found=error.strerror,
            remedy="let this user write there; nobody was put on the list",
        ) from error
