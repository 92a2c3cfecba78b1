"""Approvals, rounds, figures and receipts in the store.

Writing the same thing again changes nothing: after a crash, a study may write its last round a
second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, ScalarSelect, Table, delete, insert, select

from common.documents import read_json
from common.wire.messages import LedgerHead
from server.store.database import Database
from server.store.models import APPROVALS, KEYS, METRICS, RECEIPTS, ROUNDS
from server.store.rows import (
    ApprovalRecord,
    ApprovalState,
    MetricsRecord,
    ReceiptRecord,
    RoundRecord,
)


class ResultStore:
    """The approvals, rounds, figures and receipts of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put_approval(
        self, study: str, site: str, plan_hash: str, state: ApprovalState | str, why: str = ""
    ) -> None:
        """A site's answer to its plan; the last one counts.

        Raises:
            CoordinatorError: there is no such study or site.
        """
        key = {"study": study, "site": site, "plan_hash": plan_hash}
        with self._database.write() as connection:
            said = {"state": ApprovalState(state).value, "why": why}
            _put(connection, APPROVALS, key, said | {"changed_at": datetime.now(UTC)})

    def approvals(self, study: str) -> tuple[ApprovalRecord, ...]:
        """The sites' answers, by site, a later plan after an earlier one."""
        query = select(APPROVALS).where(APPROVALS.c.study == study)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(APPROVALS.c.site, APPROVALS.c.changed_at))
            return tuple(map(_approval, rows.mappings()))

    def put_round(
        self,
        study: str,
        number: int,
        purpose: str,
        *,
        sites: Sequence[str],
        absences: Mapping[str, str],
        seconds: float,
    ) -> None:
        """A completed round.

        Args:
            study: its study.
            number: from 1 on.
            purpose: ``train`` or ``evaluate``.
            sites: those whose replies were added.
            absences: by site, why a reply was not.
            seconds: its duration.

        Raises:
            CoordinatorError: there is no such study.
        """
        key = {"study": study, "number": number, "purpose": purpose}
        values = {
            "sites": json.dumps(list(sites)),
            "absences": json.dumps(dict(absences)),
            "seconds": seconds,
            "completed_at": datetime.now(UTC),
        }
        with self._database.write() as connection:
            _put(connection, ROUNDS, key, values)

    def rounds(self, study: str) -> tuple[RoundRecord, ...]:
        """The completed rounds of a study, in order; a round's training before its evaluation."""
        query = select(ROUNDS).where(ROUNDS.c.study == study)
        with self._database.read() as connection:
            # Descending: "train" comes before "evaluate" of the same round.
            rows = connection.execute(query.order_by(ROUNDS.c.number, ROUNDS.c.purpose.desc()))
            return tuple(map(_round, rows.mappings()))

    def put_metrics(self, study: str, number: int, figures: Mapping[str, Any]) -> None:
        """The figures of the shared model after a round.

        Raises:
            CoordinatorError: there is no such study.
        """
        key = {"study": study, "round": number}
        values = {"figures": json.dumps(dict(figures)), "recorded_at": datetime.now(UTC)}
        with self._database.write() as connection:
            _put(connection, METRICS, key, values)

    def metrics(self, study: str) -> tuple[MetricsRecord, ...]:
        """The figures of a study, by round."""
        query = select(METRICS).where(METRICS.c.study == study).order_by(METRICS.c.round)
        with self._database.read() as connection:
            return tuple(map(_metrics, connection.execute(query).mappings()))

    def put_receipt(
        self, study: str, site: str, ledger: LedgerHead, seal: str, signature: bytes
    ) -> None:
        """A receipt that the coordinator has signed for a site.

        Raises:
            CoordinatorError: there is no such study or site.
        """
        values = {
            "study": study,
            "site": site,
            "ledger_length": ledger.length,
            "ledger_hash": ledger.hash,
            "seal": seal,
            "signing_key": _key_of(site),
            "signature": signature,
            "signed_at": datetime.now(UTC),
        }
        with self._database.write() as connection:
            connection.execute(insert(RECEIPTS).values(values))

    def receipts(self, site: str) -> tuple[ReceiptRecord, ...]:
        """All receipts for a site, of all studies, oldest first."""
        query = select(RECEIPTS).where(RECEIPTS.c.site == site).order_by(RECEIPTS.c.id)
        with self._database.read() as connection:
            return tuple(map(_receipt, connection.execute(query).mappings()))

    def newest_receipt(self, site: str) -> ReceiptRecord | None:
        """A site's receipt for the longest ledger, and of those the newest.

        Only receipts for the site's present key count: with new keys it has a new ledger, which
        never had the entries of the old one.
        """
        query = (
            select(RECEIPTS)
            .where(RECEIPTS.c.site == site, RECEIPTS.c.signing_key == _key_of(site))
            .order_by(RECEIPTS.c.ledger_length.desc(), RECEIPTS.c.id.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else _receipt(row)


def _key_of(site: str) -> ScalarSelect[str]:
    """The signing key that a site uses now."""
    in_use = (KEYS.c.site == site) & KEYS.c.retired_at.is_(None)
    return select(KEYS.c.signing_key).where(in_use).scalar_subquery()


def _put(
    connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Replace the row of this key; no upsert, since only one transaction writes at a time."""
    same = [table.c[name] == value for name, value in key.items()]
    connection.execute(delete(table).where(*same))
    connection.execute(insert(table).values({**key, **values}))


def _approval(row: RowMapping) -> ApprovalRecord:
    return ApprovalRecord(**{**row, "state": ApprovalState(row["state"])})


def _round(row: RowMapping) -> RoundRecord:
    sites, absences = tuple(read_json(row["sites"])), read_json(row["absences"])
    return RoundRecord(**{**row, "sites": sites, "absences": absences})


def _metrics(row: RowMapping) -> MetricsRecord:
    return MetricsRecord(**{**row, "figures": read_json(row["figures"])})


def _receipt(row: RowMapping) -> ReceiptRecord:
    return ReceiptRecord(
        site=row["site"],
        study=row["study"],
        ledger=LedgerHead(row["ledger_length"], row["ledger_hash"]),
        seal=row["seal"],
        signature=row["signature"],
        signed_at=row["signed_at"],
    )
