"""What last kept the site from its work, for its people to mend: nobody outside is told.

A site that fails is silent, as a machine that is off: a code for it might tell of a patient. What
failed is kept by its type and place, never by its words, which may count rows or name a file.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

import structlog

from client.approvals import timestamp
from client.site import Site
from common.documents import read_json
from common.errors import ConsiliumError, DataError, LabelError, SiteError
from common.logs import place

log = structlog.get_logger(__name__)

_FACT: Final = "trouble"
_READING: Final = (
    "run consilium-site check: the folder of images, the label file and the lists must be there "
    "and readable; the site is silent until they are, and then goes on by itself"
)
_DEFECT: Final = (
    "make sure that the disk has room and the state folder can be written; if it goes on, report "
    "the place that is named here; the site is silent about such requests"
)


@dataclass(frozen=True)
class Trouble:
    """What failed last, and was not followed by work that went well.

    Attributes:
        at: when, ISO 8601 in UTC.
        study: its name; empty where it is of none.
        error: the type of what was raised.
        where: file and line of this program.
        remedy: what to do.
    """

    at: str
    study: str
    error: str
    where: str
    remedy: str


def keep(site: Site, study: str, error: Exception) -> None:
    """Log what failed, and keep it for the site's people."""
    reading = isinstance(error, DataError | LabelError | SiteError)
    new = Trouble(
        timestamp(), study, type(error).__name__, place(error), _READING if reading else _DEFECT
    )
    log.error(
        "site.failed", site=site.name, study=study, error=new.error, at=new.where, do=new.remedy
    )
    with suppress(sqlite3.Error, ConsiliumError):  # the store may be what fails
        site.store.keep(_FACT, json.dumps(asdict(new)))


def over(site: Site) -> None:
    """Work went well again."""
    if site.store.fact(_FACT):
        site.store.keep(_FACT, "")


def trouble(site: Site) -> Trouble | None:
    """What failed last, if nothing went well since."""
    kept = site.store.fact(_FACT)
    return Trouble(**read_json(kept)) if kept else None
