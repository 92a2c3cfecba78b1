"""Hostile requests about decisions of a person, and receipts for heads that were never sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from client.consent.decisions import end
from common.wire.messages import HASH_OF_NOTHING, NO_SEAL, LedgerHead
from common.wire.signing import SigningKey
from tests.client.site_fixtures import Hospital
from tests.hostile.case import SILENCE, Case
from tests.hostile.sound import Sent, Sound, sent

TO_KNOW_WHY: Final = "why a site is away: a person's word, a patient's, or a cable"
Build = Callable[[Sound], Sent]


def _stopped(hospital: Hospital) -> None:
    with hospital.open() as site:
        (approval,) = site.approvals.running()
        end(site, approval.plan, "stopped", by="a person")


def _at_rest(hospital: Hospital) -> None:
    now = datetime.now().astimezone()
    begin, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (2, 4))
    hospital.policy = hospital.policy | {"hours": f"{begin}-{end}"}


def _paused(hospital: Hospital) -> None:
    with hospital.open() as site:
        site.store.keep("paused", "by a person")


def _decided(state: str) -> Callable[[Hospital], None]:
    """The plan was not approved, or no longer is."""
    return _written(f"UPDATE approvals SET state = '{state}', study_key = NULL")


def _written(statement: str) -> Callable[[Hospital], None]:
    def write(hospital: Hospital) -> None:
        with sqlite3.connect(hospital.state / "site.sqlite") as store:
            store.execute(statement)

    return write


_expired = _written("UPDATE approvals SET expires_at = '2020-01-01T00:00:00Z'")


def asking(name: str, code: str, hospital: Callable[[Hospital], None], build: Build) -> Case:
    """A request after a decision."""
    return Case(name, TO_KNOW_WHY, build, code, hospital=hospital)


def _round(sound: Sound) -> Sent:
    return sent(sound.train())


def _again(sound: Sound) -> Sent:
    return sent(sound.step(0))


def _in_another_type(sound: Sound) -> Sent:
    return "evaluate", sent(sound.train())[1]


def _junk(sound: Sound) -> Sent:
    purpose, content = sent(sound.train())
    del content["fields"]
    return purpose, content


DECIDED: Final = (
    asking("a round of a plan that waits for a person", "pending", _decided("pending"), _round),
    asking("a round of a plan that was denied", "denied", _decided("denied"), _round),
    asking(
        "a plan that was denied, again", "denied", _decided("denied"), lambda s: sent(s.proposal())
    ),
    asking("a round of a closed study", "not-approved", _decided("closed"), _round),
    asking(
        "a closed plan, again", "not-approved", _decided("closed"), lambda s: sent(s.proposal())
    ),
    asking("a round of a stopped study", SILENCE, _stopped, _round),
    asking("a stored reply of a stopped study", SILENCE, _stopped, _again),
    asking("a stopped plan, again", SILENCE, _stopped, lambda s: sent(s.proposal())),
    asking("the end of a stopped study", SILENCE, _stopped, lambda s: sent(s.close())),
    asking("a stopped study in a message of another type", SILENCE, _stopped, _in_another_type),
    asking("a round after the approval's last day", SILENCE, _expired, _round),
    asking("a stored reply after the approval's last day", SILENCE, _expired, _again),
    asking("a round for a site that is paused", SILENCE, _paused, _round),
    asking("a round outside the site's hours", SILENCE, _at_rest, _round),
    asking("an offer from a site that is paused", SILENCE, _paused, lambda s: sent(s.offer())),
    asking("junk for a site that is paused", SILENCE, _paused, _junk),
)


def receiving(name: str, code: str, gain: str, receipt: Callable[[Sound], dict[str, Any]]) -> Case:
    """The next round with a receipt.

    A receipt for something that the site sealed is kept: it proves charges or lines that were lost.
    """
    lasts = code == "ledger-behind"
    return Case(name, gain, lambda s: sent(replace(s.train(), **receipt(s))), code, lasts=lasts)


ENDED: Final = "a site that believes it is an old backup and answers nothing from then on"
FRAMED: Final = "a log that looks cut although it is whole"
RECEIPTS: Final = (
    receiving(
        "a forged receipt",
        "malformed",
        FRAMED,
        lambda s: s.receipt(s.ledger, s.seal) | {"receipt": bytes(64)},
    ),
    receiving(
        "a receipt signed by somebody else",
        "malformed",
        FRAMED,
        lambda s: s.receipt(s.ledger, s.seal, key=SigningKey(bytes(32))),
    ),
    receiving(
        "another site's receipt",
        "malformed",
        FRAMED,
        lambda s: s.receipt(s.ledger, s.seal, site="south"),
    ),
    receiving(
        "a receipt for other heads than it signs",
        "malformed",
        FRAMED,
        lambda s: s.receipt(s.ledger, s.seal) | {"receipt_ledger": s.heads[0]},
    ),
    receiving(
        "a receipt for a ledger that never was",
        "malformed",
        ENDED,
        lambda s: s.receipt(LedgerHead(1, "00" * 32), s.seal),
    ),
    receiving(
        "a receipt for a log that never was",
        "malformed",
        ENDED,
        lambda s: s.receipt(s.ledger, "00" * 67 + s.seal[-2:]),
    ),
    receiving(
        "a receipt for a log that is not sealed",
        "malformed",
        ENDED,
        lambda s: s.receipt(s.ledger, NO_SEAL),
    ),
    receiving(
        "a receipt for a ledger before any other",
        "malformed",
        ENDED,
        lambda s: s.receipt(LedgerHead(1, HASH_OF_NOTHING), s.seal),
    ),
    receiving(
        "a receipt for one ledger with another's log",
        "malformed",
        ENDED,
        lambda s: s.receipt(s.ledger, s.seals[0]),
    ),
    receiving(
        "heads without a receipt",
        "malformed",
        FRAMED,
        lambda s: {"receipt_ledger": s.ledger, "receipt_seal": s.seal},
    ),
    receiving(
        "a receipt for a longer ledger",
        "malformed",
        ENDED,
        lambda s: s.receipt(LedgerHead(99, "00" * 32), s.seal),
    ),
    receiving(
        "a receipt for charges that were lost",
        "ledger-behind",
        "a site that goes on from an old backup",
        lambda s: s.receipt(s.heads[3], s.seals[3]),
    ),
)

DECISIONS: Final = (*DECIDED, *RECEIPTS)
