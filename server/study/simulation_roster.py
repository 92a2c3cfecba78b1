"""The roster of a simulation: which sites take part, and what was agreed with each.

A file of JSON, ``{"north": {"key": "…", "patients": {"chest-xray": 100}}}``. A deployment keeps
its roster in the coordinator's store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from common.documents import read_json
from common.errors import SiteError
from common.settings import Section, checked
from common.study.study_file import Patients
from common.text import Slug
from common.wire.enrolment import SigningKeyText


class Member(Section):
    """A site of the roster.

    Attributes:
        key: its public key, 64 hexadecimal digits, as the site shows it.
        patients: the most that it may declare, by data set.
    """

    key: SigningKeyText
    patients: dict[Slug, Patients] = Field(default_factory=dict)


class Roster(Section):
    """Every site by its name."""

    sites: dict[Slug, Member] = Field(min_length=1)

    @property
    def keys(self) -> dict[str, str]:
        """Each site's public key."""
        return {site: member.key for site, member in self.sites.items()}

    def agreed(self, dataset: str) -> dict[str, int]:
        """The most patients of a data set that each site may declare; some may declare none."""
        known = {site: member.patients.get(dataset) for site, member in self.sites.items()}
        return {site: patients for site, patients in known.items() if patients is not None}

    @property
    def document(self) -> Mapping[str, object]:
        """What :func:`read_roster` reads."""
        document: Mapping[str, object] = self.model_dump(mode="json")["sites"]
        return document


def read_roster(path: Path) -> Roster:
    """Read a roster.

    Raises:
        SiteError: the file is missing or holds something else.
    """
    try:
        sites = read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SiteError(
            "the roster cannot be read",
            where=path,
            found=type(error).__name__,
            wanted="the file as it was written when the study began",
            remedy="restore it from a backup, or start a new run with another --out",
        ) from error
    return checked({"sites": sites}, path, Roster, SiteError)
