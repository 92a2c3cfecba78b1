"""Which PatientIDs belong to one person, known only by their pseudonyms.

A person may have several identifiers: from two hospitals that merged, from before and after a
marriage, or from a typing mistake. Only the hospital knows, so it may list them in a text file:
each line has the PatientIDs (0010,0020) of one person, separated by comma, semicolon or tab; empty
lines and lines that begin with ``#`` are ignored. Lines that share an identifier are about one
person. An identifier that is not listed is a person of its own.

The file is read again at every request, so that an edit by hand takes effect at once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from client.data.pseudonyms import lines_of, normal, read_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from client.data.pseudonyms import Pseudonyms

_LIST: Final = "the list of PatientIDs of the same person"
_SEPARATORS: Final = re.compile(r"[,;\t]")


@dataclass(frozen=True)
class Joined:
    """Which pseudonyms are one person's. Sensitive, and shown as nothing.

    Attributes:
        persons: of each pseudonym that the file names, the pseudonym that its person goes by:
            that of the person's first identifier in the file.
        version: changes with the file's content; never leaves the site.
    """

    persons: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    def everything(self, pseudonyms: Iterable[str]) -> frozenset[str]:
        """The pseudonyms, and all others of the same persons."""
        given = frozenset(pseudonyms)
        wanted = {self.persons[each] for each in given if each in self.persons}
        return given | {name for name, person in self.persons.items() if person in wanted}

    def __repr__(self) -> str:
        return "Joined(<masked>)"


class Persons:
    """The file of one site.

    Args:
        path: of the file, which must be there; None where the site file names none.
        pseudonyms: under the site's key.
    """

    def __init__(self, path: Path | None, pseudonyms: Pseudonyms) -> None:
        self._path, self._pseudonyms = path, pseudonyms
        self._last = Joined()

    def read(self) -> Joined:
        """Which identifiers are one person's now.

        Raises:
            SiteError: the file is missing, cannot be read or is UTF-16. An unreadable list
                must not make one person count as two.
        """
        if self._path is None:
            return self._last
        content = read_list(self._path, _LIST, if_empty="if no person has two PatientIDs")
        version = hashlib.sha256(content).hexdigest()
        if version != self._last.version:
            lines = _lines(self._path, content)
            # Also as written: it may have an account from when no difference was ignored.
            forms = (self._pseudonyms.of, self._pseudonyms.written)
            named = ([form(name) for name in names for form in forms] for names in lines)
            self._last = Joined(join(named), version)
        return self._last


def join(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """The first member of the person of each member; groups that share a member are one.

    Which member is the first follows from the groups of that person alone, in their order.
    """
    person: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    order: dict[str, int] = {}
    for group in groups:
        names: dict[str, None] = {}
        for each in group:
            if each not in person:
                person[each], members[each], order[each] = each, [each], len(order)
            names[person[each]] = None
        if names:
            first = min(names, key=order.__getitem__)
            for other in names.keys() - {first}:
                moved = members.pop(other)
                members[first] += moved
                person |= dict.fromkeys(moved, first)
    return person


def _lines(path: Path, content: bytes) -> Iterator[list[str]]:
    for line in lines_of(path, content, _LIST, each="person"):
        if not line.lstrip().startswith("#"):
            yield [name for name in map(normal, _SEPARATORS.split(line)) if name]
