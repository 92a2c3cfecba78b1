"""The site's latest failure, for its own staff to fix; the coordinator is not told.

A site that fails looks offline: an error code might tell something of a patient. A failure is kept
by its type and place, never by its words, which may count rows or name a file.
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
    "Run consilium-site check. The image folder, the label file and the lists of patients must "
    "exist and be readable. Until then the coordinator gets no answer; after that the site "
    "continues by itself"
)
_DEFECT: Final = (
    "Check that the disk has free space and that the state folder is writable. If the failure "
    "comes again, report the place named here. The coordinator gets no answer to such requests"
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
    """Log what failed, and keep it for the site's staff."""
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

    Only the site's own staff is told, since it follows from patients. Patients beyond the number
    take no part.

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
        # The site file of today: once its number is raised, there is nothing left to tell.
        data = site.file.data.get(name)
        if data is not None and max(held.values(), default=0) > data.most_patients:
            told.add(too_many(name, data.most_patients, held))
    yield from sorted(told)


def too_many(dataset: str, most: int, held: Mapping[str, int]) -> tuple[str, str]:
    """What is said of a data set with more patients than it may have, and what to do."""
    parts = " and ".join(f"{count} in {_PARTS[part]}" for part, count in held.items())
    return (
        f"data set {dataset} has {parts}, but most_patients is {most}: patients beyond that take "
        "no part, and a patient may lose twice the privacy that a study states",
        f"raise most_patients in [data.{dataset}] of the site file, and leave room for new "
        "patients; the number is public, and running studies that use the old number end here",
    )


def clear(site: Site) -> None:
    """Forget the latest failure: work went well again."""
    if site.store.fact(_FACT):  # mostly there is none, and no round writes to the disk for it
        site.store.keep(_FACT, "")


def latest(site: Site) -> Problem | None:
    """What failed last, if no round went well since."""
    kept = site.store.fact(_FACT)
    return Problem(**read_json(kept)) if kept else None
