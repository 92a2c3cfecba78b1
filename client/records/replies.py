"""Replies that the coordinator may ask for again.

A reply is durable before its first byte is sent, and kept until a later request says that the
round's checkpoint is durable. The same request gets the same bytes.
"""

from __future__ import annotations

from client.records.store import SiteDatabase
from common.wire.messages import Reply, Request, reply_from_bytes, reply_to_bytes


class Replies:
    """The stored replies of one site, in its store."""

    def __init__(self, store: SiteDatabase) -> None:
        self._store = store

    def find(self, request: Request) -> Reply | None:
        """The reply that was stored for exactly this request."""
        row = self._store.execute(
            "SELECT reply FROM replies WHERE identity = ?", request.identity
        ).fetchone()
        # The stored bytes, never a second computation: patients may have left in between.
        return reply_from_bytes(row["reply"]) if row else None

    def put(self, request: Request, reply: Reply) -> None:
        """Keep a reply; call it in the transaction that commits its charge."""
        self._store.execute(
            "INSERT INTO replies VALUES (?, ?, ?, ?)",
            request.identity,
            request.plan_hash,
            request.round,
            reply_to_bytes(reply),
        )

    def acknowledge(self, plan_hash: str, last_round: int) -> None:
        """Forget the replies of rounds that the coordinator will not ask for again."""
        self._store.execute(
            "DELETE FROM replies WHERE plan_hash = ? AND round <= ?", plan_hash, last_round
        )
