"""The coordinator signs for the newest of a site, and never for what cannot follow it."""

from __future__ import annotations

import pytest

from common.errors import RefusalCode
from common.files import sha256
from common.wire.messages import OK, SEAL_DIGITS, LedgerHead, Reply, Request
from common.wire.signing import SigningKey
from server.study.receipts import CoordinatorReceipts, SeenHeads

KEY = SigningKey(bytes(32))
NEXT = Request("small", "", 1, "train")


def heads(charges: int, seal: int, kind: str = "") -> SeenHeads:
    ledger = LedgerHead(charges, sha256(f"{kind} {charges}".encode()))
    return SeenHeads(ledger, f"{seal:0{SEAL_DIGITS}}")


KNOWN = heads(3, 9)


def reply(sent: SeenHeads, code: str = OK) -> Reply:
    return Reply("north", "", "small", "", 1, "train", code, ledger=sent.ledger, seal=sent.seal)


def attached(receipts: CoordinatorReceipts) -> SeenHeads:
    """What the coordinator says next that it knows of the site."""
    request = receipts.attach("north", NEXT)
    assert request.receipt
    return SeenHeads(request.receipt_ledger, request.receipt_seal)


def test_a_receipt_changes_nothing_of_what_identifies_a_request() -> None:
    receipted = CoordinatorReceipts(KEY, {"north": KNOWN}.get).attach("north", NEXT)
    assert receipted.receipt
    assert receipted.identity == NEXT.identity


@pytest.mark.parametrize("newer", [heads(3, 10), heads(4, 10), heads(4, 2)])
@pytest.mark.parametrize("code", [OK, RefusalCode.PENDING])
def test_what_follows_the_known_heads_is_signed(newer: SeenHeads, code: str) -> None:
    receipts = CoordinatorReceipts(KEY, {"north": KNOWN}.get)
    signed = receipts.note(reply(newer, code))
    assert signed is not None
    assert signed[0] == attached(receipts) == newer


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(heads(2, 7), id="a stored reply"),
        pytest.param(heads(2, 40), id="a shorter ledger"),
        pytest.param(heads(3, 40, "other"), id="another ledger as long"),
        pytest.param(SeenHeads(LedgerHead(), heads(0, 40).seal), id="a store that failed"),
        pytest.param(KNOWN, id="the same again"),
    ],
)
@pytest.mark.parametrize("code", [OK, RefusalCode.POLICY])
def test_what_cannot_follow_the_known_heads_is_neither_signed_nor_do_they_go(
    sent: SeenHeads, code: str
) -> None:
    receipts = CoordinatorReceipts(KEY, {"north": KNOWN}.get)
    assert receipts.note(reply(sent, code)) is None
    assert attached(receipts) == KNOWN


@pytest.mark.parametrize("known", [{}, {"north": KNOWN}])
def test_heads_of_a_site_that_says_its_ledger_is_behind_are_never_signed(
    known: dict[str, SeenHeads],
) -> None:
    receipts = CoordinatorReceipts(KEY, known.get)
    assert receipts.note(reply(heads(4, 40), RefusalCode.LEDGER_BEHIND)) is None
    assert receipts.note(reply(heads(3, 41), RefusalCode.LEDGER_BEHIND)) is None


def test_what_another_study_has_signed_meanwhile_is_known_here() -> None:
    store = {"north": KNOWN}
    receipts = CoordinatorReceipts(KEY, store.get)
    assert receipts.note(reply(heads(4, 12))) is not None
    store["north"] = heads(6, 20)
    assert attached(receipts) == heads(6, 20)
    assert receipts.note(reply(heads(5, 21))) is None
    store["north"] = heads(4, 12)
    assert receipts.note(reply(heads(7, 22))) is not None
    assert attached(receipts) == heads(7, 22)
