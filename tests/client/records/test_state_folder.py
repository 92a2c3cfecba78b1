"""The parts of a state folder are held together: nothing emptied or older is gone on with."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.administration import service
from client.daemon.serving import serve
from client.records import audit_log
from client.records.state_folder import require_private
from client.records.store import SiteDatabase
from client.records.verify import inspect_state
from client.sitefile import served_site
from common.errors import SiteError
from common.plan import Plan
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    plan_for,
    proposal,
)
from tests.common.studies import exit_code, small_study

STUDY = small_study()
PATIENTS = {f"P{number:02}": 1 for number in range(8)}
STORE = "site.sqlite"


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    policy = {"allow_known_key": False}
    return Hospital(tmp_path / "north", dict(PATIENTS), policy=policy, seed=None)


@pytest.fixture
def plan(hospital: Hospital, tmp_path: Path) -> Plan:
    """A plan with two charges; the folder ``before`` is the state with the first alone."""
    with hospital.open() as site:
        found = approved(site, STUDY)
        answered(site, asking(found))
    shutil.copytree(hospital.state, tmp_path / "before")
    with hospital.open() as site:
        answered(site, asking(found, 2))
    assert inspect_state(hospital.state, "north").sound
    return found


def refused(hospital: Hospital) -> SiteError:
    with pytest.raises(SiteError) as caught:
        hospital.open()
    return caught.value


def emptied(state: Path, _: Path) -> None:
    (state / STORE).write_bytes(b"")


def newly_made(state: Path, _: Path) -> None:
    (state / STORE).unlink()
    SiteDatabase(state / STORE).close()


def older(state: Path, before: Path) -> None:
    shutil.copy(before / STORE, state / STORE)


def told(*statements: str) -> Callable[[Path, Path], None]:
    def change(state: Path, _: Path) -> None:
        store = sqlite3.connect(state / STORE)
        for statement in statements:
            store.execute(statement)
        store.commit()
        store.close()

    return change


LOSSES: dict[str, Callable[[Path, Path], None]] = {
    "zero bytes": emptied,
    "a new store": newly_made,
    "an older copy": older,
    "without a table": told("DROP TABLE members"),
    "without a column": told("ALTER TABLE charges DROP COLUMN reserved_at"),
    "without rows": told("DELETE FROM replies", "DELETE FROM charges"),
    "without any rows": told(
        *(f"DELETE FROM {table}" for table in ("replies", "charges", "members", "approvals")),
        "DELETE FROM facts",
    ),
    "without its newest charge": told("DELETE FROM charges WHERE length = 2"),
    "without its first charge": told("DELETE FROM charges WHERE length = 1"),
    "with a charge that was changed": told("UPDATE charges SET round = 3 WHERE length = 1"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_store_that_lost_charges_is_neither_believed_nor_called_sound(
    hospital: Hospital, plan: Plan, tmp_path: Path, loss: str
) -> None:
    LOSSES[loss](hospital.state, tmp_path / "before")
    for _ in range(2):  # the first attempt makes nothing whole
        error = refused(hospital)
        assert "ledger is missing" in error.what
        assert error.details["where"] == str(hospital.state / STORE)
        assert "latest full backup" in error.details["do"]
    found = inspect_state(hospital.state, "north")
    assert STORE in {each.file for each in found.faults}


def test_a_new_store_beside_a_log_is_refused_where_nothing_was_charged_yet(
    hospital: Hospital, tmp_path: Path
) -> None:
    """What people had decided is gone with it."""
    with hospital.open() as site:
        approved(site, STUDY)
    newly_made(hospital.state, tmp_path)
    assert "an empty database" in refused(hospital).details["found"]


def test_a_store_and_a_log_that_are_both_emptied_are_no_new_site_while_keys_are_there(
    hospital: Hospital, plan: Plan, tmp_path: Path
) -> None:
    emptied(hospital.state, tmp_path)
    (hospital.state / audit_log.FILE).unlink()
    assert refused(hospital).details["found"] == "site.sqlite without tables"


@pytest.mark.parametrize("lost", ["emptied", "gone", "cut", "older"])
def test_a_store_whose_log_lost_lines_is_not_gone_on_with(
    hospital: Hospital, plan: Plan, tmp_path: Path, lost: str
) -> None:
    """Without the log's lines an older store could be put in the place of this one."""
    log = hospital.state / audit_log.FILE
    if lost == "gone":
        log.unlink()
    elif lost == "older":
        shutil.copy(tmp_path / "before" / audit_log.FILE, log)
    else:
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:-1]) if lost == "cut" else b"")
    assert "audit log does not belong" in refused(hospital).what
    assert not inspect_state(hospital.state, "north").sound


def test_the_newest_folder_as_a_whole_is_gone_on_with(
    hospital: Hospital, plan: Plan, tmp_path: Path
) -> None:
    shutil.copytree(hospital.state, tmp_path / "newest")
    older(hospital.state, tmp_path / "before")
    refused(hospital)
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "newest", hospital.state)
    with hospital.open() as site:
        assert code_of(site, asking(plan, 3, ledger=site.ledger.head())) == "ok"


@pytest.mark.parametrize("moment", ["charge.committed:2", "reservation.made:2", "reply.stored:2"])
def test_a_kill_between_a_charge_and_its_line_costs_nothing(
    hospital: Hospital, moment: str
) -> None:
    """The charge is durable first; its line comes at the next opening; a round is paid once."""
    with hospital.open() as site:
        plan = approved(site, STUDY)
        answered(site, asking(plan))

    def child() -> None:
        with hospital.open() as site:
            answered(site, asking(plan, 2))

    assert exit_code(child, kill_at=moment) == -signal.SIGKILL
    assert inspect_state(hospital.state, "north").sound
    for code in ("", "ok"):
        with hospital.open() as site:
            assert not code or code_of(site, asking(plan, 2)) == code
        lines = (
            each for each in audit_log.entries(hospital.state) if each.event == audit_log.CHARGED
        )
        noted = [(each.fields["charge"], each.fields["head"]) for each in lines]
        rows = hospital.rows("charges")
        assert noted == [(row["length"], row["hash"]) for row in rows]
        assert len(noted) == 2
    assert inspect_state(hospital.state, "north").sound


def test_a_charge_that_the_log_passed_over_is_found(hospital: Hospital, plan: Plan) -> None:
    with hospital.open() as site:
        site.audit.append(audit_log.CHARGED, charge=4, head="ab" * 32)
    (fault,) = inspect_state(hospital.state, "north").faults
    assert (fault.file, fault.line) == (STORE, 4)
    assert "records another charge" in fault.what
    assert "records charge 4" in refused(hospital).details["found"]


@pytest.mark.parametrize(("before", "left_out"), [(0.5, 0), (1.5, len(PATIENTS))])
def test_a_new_site_begins_where_it_says_that_a_lost_one_ended(
    hospital: Hospital, before: float, left_out: int
) -> None:
    """A state folder that is lost gives no patient anything back: of epsilon + 1 this is gone."""
    hospital.split = (1.0, 0.0, 0.0)
    hospital.policy |= {"approval": "ask", "spent_before": before}
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
    hospital.policy |= {"max_epsilon_total": plan.mechanism.epsilon + 1}
    with hospital.open() as site:
        assert code_of(site, proposal(plan)) == "pending"
        given = service.approve(site, "small", by="a person")
        assert (given.patients, given.left_out) == (len(PATIENTS) - left_out, left_out)
        assert service.ledger(site).most_spent == before


@pytest.mark.parametrize("lost", ["patients.key", "signing.key"])
def test_a_key_is_not_made_anew_beside_a_log_with_lines(hospital: Hospital, lost: str) -> None:
    """Also where no plan was ever proposed: the coordinator knows the site by its key."""
    hospital.open().close()
    (hospital.state / lost).unlink()
    assert f"no {lost}" in refused(hospital).details["found"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (".", 0o750),
        (".", 0o705),
        ("signing.key", 0o640),
        ("patients.key", 0o604),
        ("node.key", 0o660),
        (STORE, 0o644),
        (audit_log.FILE, 0o602),
    ],
)
def test_what_others_can_get_at_is_refused_and_not_narrowed_in_silence(
    hospital: Hospital, name: str, mode: int
) -> None:
    hospital.open().close()
    path = hospital.state / name
    path.touch(mode=0o600)
    path.chmod(mode)
    error = refused(hospital)
    assert error.details["where"] == str(path)
    assert error.details["found"] == f"mode {mode:04o}"
    assert f"chmod -R go= {hospital.state}" in error.details["do"]
    assert path.stat().st_mode & 0o777 == mode
    path.chmod(mode & 0o700)
    hospital.open().close()


def test_a_site_whose_keys_others_know_is_not_served_from_an_open_folder_either(
    tmp_path: Path,
) -> None:
    """The key that it connects with is its own; a simulation, which has none, may be open."""
    hospital = Hospital(tmp_path / "north", dict(PATIENTS))
    hospital.open().close()
    hospital.state.chmod(0o755)
    hospital.open().close()
    with pytest.raises(SiteError, match="have access"):
        serve(served_site(hospital.folder / "site.toml", hospital.seed))


@pytest.mark.parametrize("name", ["signing.key", "patients.key"])
def test_a_key_in_the_place_of_another_is_refused(hospital: Hospital, name: str) -> None:
    """Under another key for patients everybody has spent nothing, and lines go on as ever."""
    hospital.open().close()
    path = hospital.state / name
    own = path.read_bytes()
    path.write_bytes(bytes(len(own)))
    error = refused(hospital)
    assert "does not belong to its privacy ledger" in str(error)
    assert path.read_bytes() == bytes(len(own))
    path.write_bytes(own)
    hospital.open().close()


def test_what_another_process_has_just_removed_is_no_fault(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own files go when the last process lets go of the store, as a command does."""
    listed = Path.glob

    def glob(folder: Path, pattern: str) -> Iterator[Path]:
        yield from listed(folder, pattern)
        yield folder / f"{pattern.rstrip('*')}-gone"

    with hospital.open():
        pass
    monkeypatch.setattr(Path, "glob", glob)
    require_private(hospital.state)


def test_a_simulations_folder_may_be_read_by_others(hospital: Hospital) -> None:
    """Its keys are known to everybody anyway."""
    hospital.seed, hospital.policy = 7, {"allow_known_key": True}
    hospital.open().close()
    hospital.state.chmod(0o755)
    hospital.open().close()
