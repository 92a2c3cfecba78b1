"""The first tables: sites with their keys, studies, and what became of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NAME = sa.String(63)
HASH = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them, those that others refer to first."""
    _sites()
    _studies()
    _progress()
    _proofs()


def _sites() -> None:
    op.create_table(
        "sites",
        sa.Column("name", NAME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("admitted_at", MOMENT, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.Column("last_seen", MOMENT),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "keys",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("site", NAME, nullable=False),
        sa.Column("node_key", sa.Text(), nullable=False),
        sa.Column("signing_key", HASH, nullable=False),
        sa.Column("added_at", MOMENT, nullable=False),
        sa.Column("retired_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        _refers("keys", "site"),
        sa.UniqueConstraint("node_key", name="uq_keys_node_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "agreed",
        sa.Column("site", NAME, nullable=False),
        sa.Column("dataset", NAME, nullable=False),
        sa.Column("declared", sa.BigInteger()),
        sa.Column("patients", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "dataset", name="pk_agreed"),
        _refers("agreed", "site"),
    )
    op.create_index("ix_keys_site", "keys", ["site"])
    op.create_index("ix_keys_signing_key", "keys", ["signing_key"])


def _studies() -> None:
    op.create_table(
        "studies",
        sa.Column("name", NAME, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_studies"),
    )
    op.create_table(
        "participants",
        sa.Column("study", NAME, nullable=False),
        sa.Column("site", NAME, nullable=False),
        sa.PrimaryKeyConstraint("study", "site", name="pk_participants"),
        _refers("participants", "study"),
        _refers("participants", "site"),
    )


def _progress() -> None:
    op.create_table(
        "rounds",
        sa.Column("study", NAME, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("sites", sa.Text(), nullable=False),
        sa.Column("absences", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("completed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("study", "number", "purpose", name="pk_rounds"),
        _refers("rounds", "study"),
    )
    op.create_table(
        "metrics",
        sa.Column("study", NAME, nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("study", "round", name="pk_metrics"),
        _refers("metrics", "study"),
    )
    op.create_table(
        "events",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("study", NAME),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("round", sa.Integer()),
        sa.Column("site", NAME),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        _refers("events", "study"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_kind", "events", ["kind"])
    op.create_index("ix_events_study_id", "events", ["study", "id"])


def _proofs() -> None:
    op.create_table(
        "approvals",
        sa.Column("study", NAME, nullable=False),
        sa.Column("site", NAME, nullable=False),
        sa.Column("plan_hash", HASH, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("study", "site", "plan_hash", name="pk_approvals"),
        _refers("approvals", "study"),
        _refers("approvals", "site"),
    )
    op.create_table(
        "receipts",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("site", NAME, nullable=False),
        sa.Column("study", NAME, nullable=False),
        sa.Column("ledger_length", sa.BigInteger(), nullable=False),
        sa.Column("ledger_hash", HASH, nullable=False),
        sa.Column("seal", sa.String(136), nullable=False),
        sa.Column("signing_key", HASH, nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        _refers("receipts", "site"),
        _refers("receipts", "study"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_receipts_site_ledger_length", "receipts", ["site", "ledger_length"])


def _refers(table: str, column: str) -> sa.ForeignKeyConstraint:
    """A column that names a site or a study."""
    target = {"site": "sites", "study": "studies"}[column]
    return sa.ForeignKeyConstraint(
        [column], [f"{target}.name"], name=f"fk_{table}_{column}_{target}"
    )
