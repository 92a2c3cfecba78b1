"""Alembic runs this file where it upgrades a store, or compares one with the models."""

from __future__ import annotations

from typing import Final

from alembic import context

from server.store.models import METADATA

_ALEMBICS_NAME: Final = "env_py"
"""What Alembic calls this file when it loads it; under any other name it does nothing."""


def run() -> None:
    """Run the migrations in the transaction that the store has begun."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        transactional_ddl=True,
    )
    context.run_migrations()


if __name__ == _ALEMBICS_NAME:
    run()
