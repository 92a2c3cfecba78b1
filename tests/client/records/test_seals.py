"""What goes out with a reply commits to the audit log, and tells nothing of how long it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.records.audit_log import AuditHead
from client.records.seals import Seals
from client.site import Site
from common.wire.messages import NO_SEAL, SEAL_DIGITS, LedgerHead, Reply, reply_to_record
from common.wire.signing import SigningKey
from tests.client.site_fixtures import Hospital, answered, approved, asking, offer_request
from tests.common.studies import small_study

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.serde import recorddict_to_proto

OURS, OTHERS = Seals(SigningKey(b"n" * 32)), Seals(SigningKey(b"s" * 32))
STUDY = small_study()
LEDGER = LedgerHead(3, "ab" * 32)
LENGTHS = st.integers(0, 2**63)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Hospital(tmp_path / "north").open() as opened:
        yield opened


@given(st.builds(AuditHead, LENGTHS, HASHES), st.builds(LedgerHead, LENGTHS, HASHES))
def test_a_site_opens_what_it_sealed_and_nobody_else_does(
    audit: AuditHead, ledger: LedgerHead
) -> None:
    seal = OURS.seal(ledger, audit)
    assert OURS.opened(ledger, seal) == audit
    assert OTHERS.opened(ledger, seal) is None
    assert len(seal) == SEAL_DIGITS


@given(st.integers(0, SEAL_DIGITS - 1), st.integers(1, 15))
def test_a_seal_that_was_changed_in_any_digit_does_not_open(place: int, change: int) -> None:
    seal = OURS.seal(LEDGER, AuditHead(9, "cd" * 32))
    digit = f"{int(seal[place], 16) ^ change:x}"
    assert OURS.opened(LEDGER, seal[:place] + digit + seal[place + 1 :]) is None


def test_a_seal_opens_beside_its_own_ledger_alone() -> None:
    seal = OURS.seal(LEDGER, AuditHead(9, "cd" * 32))
    for other in (replace(LEDGER, length=2), replace(LEDGER, hash="ac" * 32), LedgerHead()):
        assert OURS.opened(other, seal) is None
    assert OURS.opened(LedgerHead(), NO_SEAL) is None


def test_the_same_head_is_never_sealed_alike() -> None:
    """So no guess can be tried on it, and two replies do not tell whether a line came between."""
    assert len({OURS.seal(LEDGER, AuditHead(9, "cd" * 32)) for _ in range(100)}) == 100


def size_of(reply: Reply) -> int:
    """Of a reply as Flower carries it, in bytes."""
    return recorddict_to_proto(reply_to_record(reply)).ByteSize()


def test_a_reply_is_as_long_and_says_the_same_whatever_stands_in_the_log(site: Site) -> None:
    """An opt-out, a stop and an expiry differ in the lines that they leave."""
    plan = approved(site, STUDY)
    requests = (offer_request(STUDY), asking(plan, 9))
    first = answered(site, asking(plan, 1))
    before = [answered(site, request) for request in requests]
    for number in range(300):
        site.audit.append("study.stopped", study="small", number_of="things" * number)
    after = [answered(site, request) for request in requests]
    assert list(map(size_of, after)) == list(map(size_of, before))
    assert size_of(answered(site, asking(plan, 2))) == size_of(first)
    for one, other in zip(before, after, strict=True):
        assert replace(one, seal="", signature=b"") == replace(other, seal="", signature=b"")
