"""A receipt is held against ledger and log before anything is done, and is kept."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.administration.enrolment import join
from client.records import receipts
from client.records.audit_log import AuditHead
from client.records.receipts import read_receipts
from client.records.seals import Seals
from client.records.verify import inspect_state
from client.site import Site
from common.errors import SiteError
from common.wire.enrolment import COORDINATOR_CARD, CoordinatorCard
from common.wire.messages import HASH_OF_NOTHING, NO_SEAL, LedgerHead, Reply, Request, receipt_bytes
from common.wire.signing import SigningKey
from server.study.receipts import CoordinatorReceipts
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    offer_request,
    proposal,
)
from tests.common.studies import small_study

COORDINATOR = SigningKey(b"c" * 32)
STUDY = small_study()


def authority() -> str:
    """A certificate authority that nobody ever uses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a coordinator")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def card() -> CoordinatorCard:
    return CoordinatorCard(
        name="centre",
        address="centre.example.org:9092",
        ca=authority(),
        signing_key=COORDINATOR.public,
    )


@pytest.fixture
def hospital(tmp_path: Path, card: CoordinatorCard) -> Hospital:
    made = Hospital(tmp_path / "north")
    made.state.mkdir(mode=0o700)
    (made.state / COORDINATOR_CARD).write_text(card.text)
    return made


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def signed(request: Request, reply: Reply, key: SigningKey = COORDINATOR) -> Request:
    """A request with the receipt for a reply."""
    return speaking(request, reply.ledger, reply.seal, key)


def speaking(
    request: Request, ledger: LedgerHead, seal: str, key: SigningKey = COORDINATOR
) -> Request:
    return request.with_receipt(ledger, seal, key.sign(receipt_bytes("north", ledger, seal)))


def lines_at(site: Site, reply: Reply) -> int:
    """How long the site's log was when it sealed its head for a reply."""
    audit = Seals(site.key).opened(reply.ledger, reply.seal)
    assert audit is not None
    return audit.length


def test_a_receipt_that_holds_is_kept_once(site: Site, card: CoordinatorCard) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    assert code_of(site, signed(asking(plan, 2), first)) == "ok"
    assert code_of(site, signed(asking(plan, 3), first)) == "ok"
    ((number, kept),) = read_receipts(site.state)
    assert number == 1
    assert kept is not None
    assert (kept.ledger, kept.seal, kept.key) == (first.ledger, first.seal, COORDINATOR.public)
    assert kept.holds
    assert not replace(kept, site="south").holds
    found = inspect_state(site.state, "north")
    assert (found.faults, found.receipts, found.receipted) == ((), 1, lines_at(site, first))
    assert found.charges == 3
    assert found.coordinators == (card.fingerprint,)


def test_a_receipt_that_the_coordinator_did_not_sign_is_refused_and_noted(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    forged = signed(asking(plan, 2), first, SigningKey(b"x" * 32))
    assert code_of(site, forged) == "malformed"
    assert len(hospital.rows("charges")) == 1
    assert read_receipts(site.state) == []
    assert '"why":"a receipt with an invalid signature"' in site.audit.path.read_text()


NEVER: dict[str, Callable[[Reply, Reply], tuple[LedgerHead, str]]] = {
    "a longer ledger": lambda _, second: (LedgerHead(99, "00" * 32), second.seal),
    "another ledger": lambda _, second: (LedgerHead(2, "00" * 32), second.seal),
    "no seal": lambda _, second: (second.ledger, NO_SEAL),
    "a changed seal": lambda _, second: (second.ledger, "00" + second.seal[2:]),
    "a true ledger beside another's log": lambda first, second: (first.ledger, second.seal),
    "no ledger beside a true log": lambda _, second: (LedgerHead(0, HASH_OF_NOTHING), second.seal),
    "another site's seal": lambda _, second: (
        second.ledger,
        Seals(SigningKey(b"o" * 32)).seal(second.ledger, AuditHead(99, "00" * 32)),
    ),
}


@pytest.mark.parametrize("how", NEVER)
def test_a_receipt_for_heads_that_the_site_never_sent_ends_nothing(
    site: Site, hospital: Hospital, card: CoordinatorCard, how: str
) -> None:
    """It is refused and kept as evidence; the site goes on, and its log accuses nobody here."""
    plan = approved(site, STUDY)
    first, second = (answered(site, asking(plan, number)) for number in (1, 2))
    forged = speaking(asking(plan, 3), *NEVER[how](first, second))
    for _ in range(2):
        assert code_of(site, forged) == "malformed"
    assert len(hospital.rows("charges")) == 2
    assert read_receipts(site.state) == []
    ((_, evidence),) = read_receipts(site.state, receipts.DISPUTED)
    assert evidence is not None
    assert (evidence.signature, evidence.seal) == (forged.receipt, forged.receipt_seal)
    site.close()
    found = inspect_state(hospital.state, "north")
    assert found.faults == ()
    (told,) = found.disputed
    assert card.fingerprint in told
    assert "this site never had" in told
    with hospital.open() as again:
        assert code_of(again, signed(asking(plan, 3), second)) == "ok"


def test_a_coordinators_bare_word_ends_nothing_and_tells_nobody_to_give_anything_up(
    site: Site,
) -> None:
    """What it says that it has seen of a ledger is no receipt."""
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    with structlog.testing.capture_logs() as logs:
        assert code_of(site, asking(plan, 2, ledger=LedgerHead(9, "00" * 32))) == "ledger-behind"
    (refused,) = (each for each in logs if each["event"] == "request.refused")
    assert "if not, nothing is lost: ask the coordinator" in refused["do"]
    assert code_of(site, signed(asking(plan, 2), first)) == "ok"


def test_evidence_is_kept_up_to_a_bound(site: Site) -> None:
    plan = approved(site, STUDY)
    for length in range(receipts.MOST_DISPUTED + 5):
        forged = speaking(asking(plan), LedgerHead(length, "00" * 32), NO_SEAL)
        assert code_of(site, forged) == "malformed"
    assert len(read_receipts(site.state, receipts.DISPUTED)) == receipts.MOST_DISPUTED


def test_a_site_that_was_renamed_is_held_to_what_it_sent_before(
    site: Site, hospital: Hospital, tmp_path: Path
) -> None:
    plan = approved(site, STUDY)
    site.close()
    shutil.copytree(hospital.state, tmp_path / "backup")
    with hospital.open() as before:
        newest = answered(before, asking(plan))
        assert code_of(before, signed(asking(plan, 2), newest)) == "ok"
    shutil.copy(hospital.state / receipts.FILE, tmp_path / "backup" / receipts.FILE)
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "backup", hospital.state)
    hospital.name = "north-anew"
    with hospital.open() as renamed:
        assert code_of(renamed, offer_request(STUDY)) == "ledger-behind"
    assert not inspect_state(hospital.state, "north-anew").sound


def test_heads_without_a_receipt_are_refused(site: Site) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    unsigned = asking(plan, 2).with_receipt(first.ledger, first.seal, b"")
    assert code_of(site, unsigned) == "malformed"


def test_an_old_state_folder_is_refused_before_anything_is_done(
    site: Site, hospital: Hospital, tmp_path: Path
) -> None:
    """Again and again, however long the log becomes meanwhile; and an inspection says so."""
    plan = approved(site, STUDY)
    site.close()
    shutil.copytree(hospital.state, tmp_path / "backup")
    with hospital.open() as before:
        newest = answered(before, asking(plan))
        for number in (2, 3):
            newest = answered(before, asking(plan, number))
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "backup", hospital.state)
    with hospital.open() as restored:
        for _ in range(8):
            late = signed(asking(plan, 3, "evaluate"), newest)
            assert code_of(restored, late) == "ledger-behind"
        assert restored.audit.head.length > lines_at(restored, newest)
    assert hospital.rows("charges") == []
    faults = inspect_state(hospital.state, "north").faults
    assert len(faults) == 2
    assert all(each.file == receipts.FILE for each in faults)
    assert any("an older one was restored" in each.what for each in faults)


def test_an_old_state_folder_stays_refused_whatever_the_coordinator_makes_of_the_refusals(
    site: Site, hospital: Hospital, tmp_path: Path
) -> None:
    """Charges that were lost are never spent again: not in the study, not in a new one."""
    plan, coordinator = approved(site, STUDY), CoordinatorReceipts(COORDINATOR)

    def tell(asked: Site, request: Request) -> str:
        reply = answered(asked, coordinator.attach("north", request))
        coordinator.note(reply)
        return reply.code

    assert tell(site, asking(plan, 1)) == "ok"
    site.close()
    shutil.copytree(hospital.state, tmp_path / "backup")
    with hospital.open() as before:
        assert [tell(before, asking(plan, number)) for number in (2, 3)] == ["ok", "ok"]
        length = before.audit.head.length
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "backup", hospital.state)
    other = small_study(study={"name": "other"})
    for _ in range(3):
        with hospital.open() as restored:
            asked = [asking(plan, 4), asking(plan, 1), offer_request(other), proposal(plan)]
            for request in 2 * asked:
                assert tell(restored, request) == "ledger-behind"
                # A coordinator that has forgotten all, or was led to believe the refusals.
                assert code_of(restored, request) == "ledger-behind"
                misled = signed(request, answered(restored, request))
                assert code_of(restored, misled) == "ledger-behind"
            assert restored.audit.head.length > length
    assert len(hospital.rows("charges")) == 1
    assert not inspect_state(hospital.state, "north").sound


def test_a_newer_state_folder_that_is_brought_back_is_taken(
    site: Site, hospital: Hospital, tmp_path: Path
) -> None:
    """What was kept while the old one stood here holds again when its charges are back."""
    plan = approved(site, STUDY)
    site.close()
    shutil.copytree(hospital.state, tmp_path / "backup")
    with hospital.open() as before:
        newest = answered(before, asking(plan))
    shutil.copytree(hospital.state, tmp_path / "newest")
    for place, code in (("backup", "ledger-behind"), ("newest", "ok")):
        shutil.rmtree(hospital.state)
        shutil.copytree(tmp_path / place, hospital.state)
        with hospital.open() as there:
            assert code_of(there, signed(asking(plan, 2), newest)) == code
        shutil.copy(hospital.state / receipts.FILE, tmp_path / "newest" / receipts.FILE)


def test_an_inspection_finds_a_charge_that_was_changed(site: Site) -> None:
    plan = approved(site, STUDY)
    for number in (1, 2):
        answered(site, asking(plan, number))
    site.store.execute("UPDATE charges SET round = 7 WHERE length = 2")
    assert [str(each) for each in inspect_state(site.state, "north").faults] == [
        "site.sqlite, line 2: the charge was changed"
    ]


def test_a_log_that_was_cut_while_nothing_ran_is_found_by_the_store_and_by_receipts_elsewhere(
    site: Site, hospital: Hospital, tmp_path: Path
) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    assert code_of(site, signed(asking(plan, 2), first)) == "ok"
    site.close()
    assert inspect_state(hospital.state, "north").sound
    (tmp_path / "elsewhere").mkdir()
    shutil.move(hospital.state / receipts.FILE, tmp_path / "elsewhere" / receipts.FILE)
    path = hospital.state / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    for elsewhere, found in ((), 1), ((tmp_path / "elsewhere",), 2):
        faults = inspect_state(hospital.state, "north", elsewhere=elsewhere).faults
        assert len(faults) == found
        assert all("its tail was cut" in each.what for each in faults)
    path.unlink()
    (fault,) = inspect_state(hospital.state, "north").faults
    assert "and now has 0" in fault.what


def test_receipts_of_a_coordinator_hold_when_another_was_joined_since(
    site: Site, hospital: Hospital, card: CoordinatorCard
) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    site.close()
    other = card.model_copy(update={"signing_key": SigningKey(b"o" * 32).public})
    for each in (card, other):
        join(hospital.folder / "site.toml", each)
        if each is card:
            with hospital.open() as joined:
                assert code_of(joined, signed(asking(plan, 2), first)) == "ok"
    found = inspect_state(hospital.state, "north")
    assert (found.faults, found.coordinators) == ((), (card.fingerprint,))


def test_a_site_that_has_joined_nobody_keeps_no_receipts(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = approved(site, STUDY)
        first = answered(site, asking(plan))
        assert code_of(site, signed(asking(plan, 2), first)) == "ok"
        assert read_receipts(site.state) == []


def test_what_a_crash_left_of_a_receipt_is_passed_over(site: Site) -> None:
    (site.state / receipts.FILE).write_bytes(b'{"audit":[3,"ab')
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    assert code_of(site, signed(asking(plan, 2), first)) == "ok"
    ((number, kept),) = read_receipts(site.state)
    assert (number, kept is None) == (2, False)
    assert inspect_state(site.state, "north").sound


def test_a_folder_that_is_no_state_folder_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="cannot be verified"):
        inspect_state(tmp_path, "north")


def test_receipts_without_end_take_no_memory_when_the_site_opens(
    site: Site, hospital: Hospital
) -> None:
    """A coordinator may sign for each of any number of replies."""
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    assert code_of(site, signed(asking(plan, 2), first)) == "ok"
    kept = (site.state / receipts.FILE).read_bytes()
    (site.state / receipts.FILE).write_bytes(kept * 4000)
    with hospital.open() as again:
        tracemalloc.start()
        assert code_of(again, asking(plan, 3)) == "ok"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < len(kept) * 4000
        assert code_of(again, signed(asking(plan, 3, "evaluate"), first)) == "ok"
