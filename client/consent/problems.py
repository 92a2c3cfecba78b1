"""What last kept the site from its work, for its people to mend: nobody outside is told.

A site that fails is silent, as a machine that is off: a code for it might tell of a patient. What
failed is kept by its type and place, never by its words, which may count rows or name a file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

import structlog

from client.records.approvals import timestamp
from client.records.store import SiteDatabase
from client.site import Site
from common.documents import read_json
from common.errors import ConsiliumError, DataError, LabelError, SiteError
from common.process.logs import place

log = structlog.get_logger(__name__)

_FACT: Final = "trouble"
_CROWDED: Final = "crowded "
_PARTS: Final = {"train": "training", "validation": "validation"}
_READING: Final = (
    "run consilium-site check: the folder of images, the label file and the lists must be there "
    "and readable; the site is silent until they are, and then goes on by itself"
)
_DEFECT: Final = (
    "make sure that the disk has room and the state folder can be written; if it goes on, report "
    "the place that is named here; the site is silent about such requests"
)


@dataclass(frozen=True)
class Problem:
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
    new = Problem(
        timestamp(), study, type(error).__name__, place(error), _READING if reading else _DEFECT
    )
    log.error(
        "site.failed", site=site.name, study=study, error=new.error, at=new.where, do=new.remedy
    )
    with suppress(sqlite3.Error, ConsiliumError):  # the store may be what fails
        site.store.keep(_FACT, json.dumps(asdict(new)))


def keep_crowded(site: Site, plan_hash: str, held: Mapping[str, int]) -> None:
    """Keep which parts held more than ``most_patients`` as a plan's cohort was frozen.

    The site's people are told, and nobody outside: it follows from patients. Whoever is beyond
    takes no part.

    Args:
        site: an open site.
        plan_hash: which plan.
        held: how many patients each of these parts held; empty for none.
    """
    name = _CROWDED + plan_hash
    if held:
        site.store.keep(name, json.dumps(dict(held)))
    else:
        site.store.drop(name)


def forget(store: SiteDatabase, plan_hash: str) -> None:
    """Keep nothing of a plan."""
    store.execute("DELETE FROM facts WHERE name = ?", _CROWDED + plan_hash)


def crowded(site: Site) -> Iterator[tuple[str, str]]:
    """What running studies found more patients in than the site file says, and what to do."""
    told = set()
    for plan in (each.plan for each in site.approvals.running()):
        kept, name = site.store.fact(_CROWDED + plan.hash), plan.study.data.dataset
        held = read_json(kept) if kept else {}
        data = site.file.data.get(name)
        if data is not None and max(held.values(), default=0) > data.most_patients:
            told.add(too_many(name, data.most_patients, held))
    yield from sorted(told)


def too_many(dataset: str, most: int, held: Mapping[str, int]) -> tuple[str, str]:
    """What is said of a data set with more patients than it may have, and what to do."""
    parts = " and ".join(f"{count} in {_PARTS[part]}" for part, count in held.items())
    return (
        f"data set {dataset} has {parts}, and most_patients says {most}: those beyond take no "
        "part, and a patient may lose twice what a study states",
        f"raise most_patients in [data.{dataset}] of the site file, with room for patients to "
        "come; it is public, and a study that runs under the old number ends here",
    )


def over(site: Site) -> None:
    """Work went well again."""
    if site.store.fact(_FACT):
        site.store.keep(_FACT, "")


def trouble(site: Site) -> Problem | None:
    """What failed last, if nothing went well since."""
    kept = site.store.fact(_FACT)
    return Problem(**read_json(kept)) if kept else None
