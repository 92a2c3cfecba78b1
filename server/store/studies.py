"""The studies in the store, and their states."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, insert, select, update

from common.errors import CoordinatorError
from server.store.database import Database
from server.store.models import PARTICIPANTS, SITES, STUDIES
from server.store.rows import SiteState, StudyRecord, StudyState

# The largest number of the database's integers.
LARGEST_SEED: Final = 2**63 - 1


class StudyStore:
    """The studies of the store.

    A study's name is never used twice: its folder, its events and the sites' approvals have it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_study(self, name: str, document: str, seed: int, sites: Iterable[str]) -> StudyRecord:
        """A new study, in state ``offered``.

        Args:
            name: as in the study file.
            document: the study file's text.
            seed: of its first weights.
            sites: that it is offered to.

        Raises:
            CoordinatorError: the name was used before, a site is not admitted, or there is no site.
        """
        if not 0 <= seed <= LARGEST_SEED:
            raise CoordinatorError(
                "the seed cannot be used", found=seed, wanted=f"0 to {LARGEST_SEED}"
            )
        with self._database.write() as connection:
            _demand_new(connection, name)
            names = _demand_active(connection, sites)
            now = datetime.now(UTC)
            connection.execute(
                insert(STUDIES).values(
                    name=name,
                    document=document,
                    seed=seed,
                    state=StudyState.OFFERED.value,
                    why="",
                    created_at=now,
                    changed_at=now,
                )
            )
            rows = [{"study": name, "site": site} for site in names]
            connection.execute(insert(PARTICIPANTS), rows)
            return _get(connection, name)

    def study(self, name: str) -> StudyRecord:
        """One study.

        Raises:
            CoordinatorError: there is no such study.
        """
        with self._database.read() as connection:
            return _get(connection, name)

    def studies(self, states: Collection[StudyState] | None = None) -> tuple[StudyRecord, ...]:
        """All studies, or those in certain states, oldest first."""
        query = select(STUDIES).order_by(STUDIES.c.created_at, STUDIES.c.name)
        if states is not None:
            query = query.where(STUDIES.c.state.in_([state.value for state in states]))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            return tuple(_study(connection, row) for row in rows)

    def set_state(
        self,
        name: str,
        state: StudyState | str,
        why: str = "",
        *,
        expected: Collection[StudyState | str] | None = None,
    ) -> StudyRecord:
        """Set the state of a study.

        Args:
            name: of the study.
            state: the new one.
            why: the reason, in words.
            expected: the states it may be in now; ``None`` for any. If two processes change it
                at once, this lets only one of them succeed.

        Raises:
            CoordinatorError: there is no such study, or its state is not an expected one.
        """
        with self._database.write() as connection:
            found = _get(connection, name)
            if expected is not None and found.state not in expected:
                raise CoordinatorError(
                    f"the study is {found.state}",
                    where=f"study {name}",
                    found=found.state,
                    wanted=" or ".join(sorted(expected)),
                )
            connection.execute(
                update(STUDIES)
                .where(STUDIES.c.name == name)
                .values(state=StudyState(state).value, why=why, changed_at=datetime.now(UTC))
            )
            return _get(connection, name)


def _get(connection: Connection, name: str) -> StudyRecord:
    query = select(STUDIES).where(STUDIES.c.name == name)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise CoordinatorError(
            "there is no such study",
            found=name,
            remedy="consilium-coordinator studies lists them",
        )
    return _study(connection, row)


def _study(connection: Connection, row: RowMapping) -> StudyRecord:
    query = select(PARTICIPANTS.c.site).where(PARTICIPANTS.c.study == row["name"])
    sites = connection.execute(query.order_by(PARTICIPANTS.c.site)).scalars()
    return StudyRecord(**{**row, "state": StudyState(row["state"]), "sites": tuple(sites)})


def _demand_new(connection: Connection, name: str) -> None:
    query = select(STUDIES).where(STUDIES.c.name == name)
    row = connection.execute(query).mappings().one_or_none()
    if row is not None:
        raise CoordinatorError(
            "a study of this name exists, and a name is used once",
            where=f"study {name}",
            found=f"{row['state']}, started {row['created_at']:%Y-%m-%d %H:%M} UTC",
            remedy="give the new study another [study] name; to go on with the existing one: "
            f"consilium-coordinator resume {name}",
        )


def _demand_active(connection: Connection, sites: Iterable[str]) -> list[str]:
    wanted = sorted(set(sites))
    active = SITES.c.state == SiteState.ACTIVE.value
    found = set(connection.execute(select(SITES.c.name).where(active)).scalars())
    missing = [name for name in wanted if name not in found]
    if missing or not wanted:
        raise CoordinatorError(
            "the study names sites that are not admitted" if missing else "the study has no site",
            found=", ".join(missing) or None,
            wanted=", ".join(sorted(found)) or "an admitted site",
            remedy="admit each site first: consilium-coordinator admit SITE.json",
        )
    return wanted
