"""The sites and their keys in the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, insert, select, update

from common.errors import CoordinatorError
from common.wire.enrolment import SiteCard
from server.store.database import Database
from server.store.models import AGREED, KEYS, SITES
from server.store.rows import KeyRecord, SiteRecord, SiteState

SEEN_SECONDS: Final = 15.0
"""A site's "last seen" is written at most this often."""


class SiteStore:
    """The sites of the store.

    A removed site is suspended: it stays in the store with its history. Its keys change only if it
    was removed first and is then admitted with new ones. The old keys are retired and never
    accepted again, because someone else may have them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, float] = {}
        # The store's methods run in several threads.
        self._seen_lock = threading.Lock()

    def admit(self, card: SiteCard, patients: Mapping[str, int] | None = None) -> SiteRecord:
        """Let a site in, or let it in again.

        For a data set without an agreed number, the card's number becomes the agreed one. A number
        that was agreed before stays, so that a site cannot raise it with a new card.

        Args:
            card: of the site.
            patients: agreed numbers by data set, to be used instead of the card's.

        Raises:
            CoordinatorError: the name belongs to other keys, or the keys to another name.
        """
        with self._database.write() as connection:
            now = datetime.now(UTC)
            known = _find(connection, _current().where(SITES.c.name == card.name))
            _demand_free(connection, card)
            if known is None:
                connection.execute(insert(SITES).values(_new(card.name, now)))
                _add_key(connection, card, now)
            elif (known.node_key, known.signing_key) != (card.node_key, card.signing_key):
                _demand_suspended(known, card)
                _retire(connection, card.name, now)
                _add_key(connection, card, now)
            if known is not None and known.state is SiteState.SUSPENDED:
                _set_state(connection, card.name, SiteState.ACTIVE, now)
            _declare(connection, card)
            for dataset, number in (patients or {}).items():
                _agree(connection, card.name, dataset, number)
            return _get(connection, card.name)

    def agree(self, name: str, dataset: str, patients: int) -> SiteRecord:
        """Set the most patients of a data set that a site may declare.

        It applies to studies whose plans are made from now on.

        Raises:
            CoordinatorError: there is no such site.
        """
        with self._database.write() as connection:
            _get(connection, name)
            _agree(connection, name, dataset, patients)
            return _get(connection, name)

    def suspend(self, name: str) -> SiteRecord:
        """Refuse a site from now on; doing so twice changes nothing.

        Raises:
            CoordinatorError: there is no such site.
        """
        with self._database.write() as connection:
            if _get(connection, name).state is SiteState.ACTIVE:
                _set_state(connection, name, SiteState.SUSPENDED, datetime.now(UTC))
            return _get(connection, name)

    def site(self, name: str) -> SiteRecord:
        """One site.

        Raises:
            CoordinatorError: there is no such site.
        """
        with self._database.read() as connection:
            return _get(connection, name)

    def sites(self) -> tuple[SiteRecord, ...]:
        """All sites, suspended ones too, by name."""
        with self._database.read() as connection:
            rows = connection.execute(_current().order_by(SITES.c.name)).mappings().all()
            agreed = _agreements(connection, select(AGREED))
            return tuple(_site(row, agreed.get(row["name"], ())) for row in rows)

    def keys(self, name: str) -> tuple[KeyRecord, ...]:
        """All keys that a site has had, oldest first.

        Raises:
            CoordinatorError: there is no such site.
        """
        with self._database.read() as connection:
            _get(connection, name)
            query = select(KEYS).where(KEYS.c.site == name).order_by(KEYS.c.id)
            return tuple(_key(row) for row in connection.execute(query).mappings())

    def seen(self, name: str) -> None:
        """Write that a site called just now, unless that was written some seconds ago."""
        with self._seen_lock:
            now = time.monotonic()
            if now - self._seen.get(name, -SEEN_SECONDS) < SEEN_SECONDS:
                return
            self._seen[name] = now
        with self._database.write() as connection:
            moment = {"last_seen": datetime.now(UTC)}
            connection.execute(update(SITES).where(SITES.c.name == name).values(moment))


def _current() -> Select[Any]:
    """Sites with the keys in use."""
    columns = (*SITES.c, KEYS.c.node_key, KEYS.c.signing_key)
    in_use = (KEYS.c.site == SITES.c.name) & KEYS.c.retired_at.is_(None)
    return select(*columns).join(KEYS, in_use)


def _find(connection: Connection, query: Select[Any]) -> SiteRecord | None:
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    agreed = _agreements(connection, select(AGREED).where(AGREED.c.site == row["name"]))
    return _site(row, agreed.get(row["name"], ()))


def _agreements(connection: Connection, query: Select[Any]) -> dict[str, list[RowMapping]]:
    """Declared and agreed numbers, by site, a row for each data set."""
    found: dict[str, list[RowMapping]] = {}
    for row in connection.execute(query.order_by(AGREED.c.dataset)).mappings():
        found.setdefault(row["site"], []).append(row)
    return found


def _declare(connection: Connection, card: SiteCard) -> None:
    """Store the card's numbers of patients; they are agreed where nothing was agreed yet."""
    mine = AGREED.c.site == card.name
    known = set(connection.execute(select(AGREED.c.dataset).where(mine)).scalars())
    # A data set that the new card does not have must not keep its old number.
    connection.execute(update(AGREED).where(mine).values(declared=None))
    for dataset, number in card.patients.items():
        if dataset not in known:
            _agree(connection, card.name, dataset, number)
        which = mine & (AGREED.c.dataset == dataset)
        connection.execute(update(AGREED).where(which).values(declared=number))


def _agree(connection: Connection, name: str, dataset: str, patients: int) -> None:
    which = (AGREED.c.site == name) & (AGREED.c.dataset == dataset)
    if connection.execute(update(AGREED).where(which).values(patients=patients)).rowcount == 0:
        values = {"site": name, "dataset": dataset, "patients": patients}
        connection.execute(insert(AGREED).values(values))


def _get(connection: Connection, name: str) -> SiteRecord:
    found = _find(connection, _current().where(SITES.c.name == name))
    if found is None:
        names = connection.execute(select(SITES.c.name).order_by(SITES.c.name)).scalars()
        raise CoordinatorError(
            "there is no such site",
            found=name,
            wanted=", ".join(names) or "no site is admitted yet",
            remedy="check the name, or admit the site: consilium-coordinator admit SITE.json",
        )
    return found


def _demand_free(connection: Connection, card: SiteCard) -> None:
    """Refuse another site's key, and a key that this site no longer uses."""
    same = (KEYS.c.node_key == card.node_key) | (KEYS.c.signing_key == card.signing_key)
    for row in connection.execute(select(KEYS).where(same).order_by(KEYS.c.id)).mappings():
        old = _key(row)
        if old.site != card.name:
            raise CoordinatorError(
                "this key belongs to another site",
                where=f"the card of {card.name}",
                found=f"a key of {old.site}",
                remedy="each site needs its own keys; make them at the site: consilium-site init",
            )
        if old.node_key == card.node_key and (
            old.retired_at is not None or old.signing_key != card.signing_key
        ):
            raise CoordinatorError(
                "this site used this node key before, and an old key is never accepted again",
                where=f"the card of {card.name}",
                remedy="make new keys at the site: consilium-site init",
            )


def _demand_suspended(known: SiteRecord, card: SiteCard) -> None:
    if known.state is SiteState.ACTIVE:
        raise CoordinatorError(
            "a site of this name is admitted with other keys",
            where=f"the card of {card.name}",
            found=f"fingerprint {card.fingerprint}",
            wanted=f"fingerprint {known.card.fingerprint}",
            remedy=f"if this site has new keys: consilium-coordinator remove {card.name}, then "
            "admit it; if it is another site, it needs another name",
        )


def _new(name: str, now: datetime) -> dict[str, object]:
    return {"name": name, "state": SiteState.ACTIVE.value, "admitted_at": now, "changed_at": now}


def _add_key(connection: Connection, card: SiteCard, now: datetime) -> None:
    connection.execute(
        insert(KEYS).values(
            site=card.name,
            node_key=card.node_key,
            signing_key=card.signing_key,
            added_at=now,
        )
    )


def _retire(connection: Connection, name: str, now: datetime) -> None:
    in_use = (KEYS.c.site == name) & KEYS.c.retired_at.is_(None)
    connection.execute(update(KEYS).where(in_use).values(retired_at=now))


def _set_state(connection: Connection, name: str, state: SiteState, now: datetime) -> None:
    change = {"state": state.value, "changed_at": now}
    connection.execute(update(SITES).where(SITES.c.name == name).values(change))


def _site(row: RowMapping, agreed: Sequence[RowMapping]) -> SiteRecord:
    declared = {each["dataset"]: each["declared"] for each in agreed if each["declared"]}
    return SiteRecord(
        **{**row, "state": SiteState(row["state"])},
        declared=declared,
        agreed={each["dataset"]: each["patients"] for each in agreed},
    )


def _key(row: RowMapping) -> KeyRecord:
    return KeyRecord(**{name: value for name, value in row.items() if name != "id"})
