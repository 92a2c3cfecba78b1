"""An open site: keys that stay, files that belong together, and public numbers only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from client.records.audit_log import AuditLog
from client.site import open_site
from common.errors import SiteError
from common.numerics import EngineChoice, record
from common.privacy.randomness import known_secret
from common.wire.signing import SigningKey
from tests.client.site_fixtures import Hospital, approved, offer_of
from tests.common.studies import exit_code, small_study

FREE = {"privacy": {"mode": "none"}}
ALLOWED = {"allow_no_privacy": True}


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path, {f"P{number:02}": 1 for number in range(8)}, policy=dict(ALLOWED))


def refusal(hospital: Hospital) -> SiteError:
    with pytest.raises(SiteError) as caught:
        hospital.open()
    return caught.value


def test_its_own_keys_are_drawn_once_and_kept(hospital: Hospital) -> None:
    hospital.seed = None
    with hospital.open() as site:
        key, pseudonym = site.key.public, site.pseudonyms.of("P01")
        drawn = site.keys.new_study_key("plan")
        assert site.keys.new_study_key("plan") != drawn
    with hospital.open() as site:
        assert (site.key.public, site.pseudonyms.of("P01")) == (key, pseudonym)
    for name in ("signing.key", "patients.key", "site.sqlite"):
        assert (hospital.state / name).stat().st_mode & 0o777 == 0o600
    assert hospital.state.stat().st_mode & 0o777 == 0o700


def test_known_keys_follow_from_seed_and_name_alone(hospital: Hospital, tmp_path: Path) -> None:
    with hospital.open() as site:
        assert site.key.public == SigningKey(known_secret(7, "north", "signing")).public
        assert site.keys.new_study_key("plan").secret == known_secret(7, "north", "study plan")
        pseudonym = site.pseudonyms.of("P01")
    moved = tmp_path / "moved"
    with open_site(tmp_path / "site.toml", moved, 7) as site:
        assert site.pseudonyms.of("P01") == pseudonym


def test_known_keys_need_the_policys_leave(hospital: Hospital) -> None:
    hospital.policy |= {"allow_known_key": False}
    assert "allow_known_key" in refusal(hospital).details["where"]
    assert not hospital.state.exists()
    hospital.seed = None
    hospital.open().close()


@pytest.mark.parametrize(("first", "then"), [(7, None), (None, 7), (7, 8)])
def test_a_state_folder_never_changes_the_kind_of_its_keys(
    hospital: Hospital, first: int | None, then: int | None
) -> None:
    """Else a daemon would go on with keys that a simulation had let everyone know."""
    hospital.seed = first
    hospital.open().close()
    hospital.seed = then
    assert "keys of another kind" in refusal(hospital).what
    hospital.seed = first
    hospital.open().close()


@pytest.mark.parametrize("written", ["", "x", " 7\n", "007", "+7"])
def test_a_damaged_mark_of_known_keys_is_named_and_not_guessed(
    hospital: Hospital, written: str
) -> None:
    hospital.seed = 7
    hospital.open().close()
    (hospital.state / "known-seed").write_text(written)
    assert "is damaged" in refusal(hospital).what


def test_a_lost_ledger_is_not_begun_anew(hospital: Hospital) -> None:
    hospital.open().close()
    (hospital.state / "site.sqlite").unlink()
    error = refusal(hospital)
    assert "ledger is missing" in error.what
    assert "restore the latest full backup" in error.details["do"]
    assert "spent_before" in error.details["do"]
    assert not (hospital.state / "site.sqlite").exists()


@pytest.mark.parametrize("lost", ["patients.key", "signing.key"])
def test_a_lost_key_is_not_replaced_once_patients_are_known_by_it(
    hospital: Hospital, lost: str
) -> None:
    with hospital.open() as site:
        approved(site, small_study(**FREE))
    (hospital.state / lost).unlink()
    error = refusal(hospital)
    assert "recognise no patient" in error.what
    assert error.details["found"] == f"no {lost}"


@pytest.mark.parametrize("moment", ["signing.key", "patients.key", "the log"])
def test_a_first_start_that_was_cut_short_is_gone_on_with(hospital: Hospital, moment: str) -> None:
    def child() -> None:
        if moment == "the log":
            AuditLog.append = kill  # type: ignore[method-assign,assignment]
        hospital.open()

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    hospital.seed = None
    assert exit_code(child, kill_at=f"file.half-written:{moment}") == -signal.SIGKILL
    hospital.open().close()
    hospital.open().close()


@pytest.mark.parametrize("damaged", ["patients.key", "signing.key"])
def test_a_damaged_key_is_an_error_that_shows_none_of_it(hospital: Hospital, damaged: str) -> None:
    hospital.open().close()
    (hospital.state / damaged).write_bytes(b"SECRET")
    error = refusal(hospital)
    assert error.details["found"] == "6 bytes"
    assert "SECRET" not in str(error)


def test_a_state_folder_that_cannot_be_made_is_an_error_that_instructs(hospital: Hospital) -> None:
    hospital.state.write_text("a file in the way")
    error = refusal(hospital)
    assert error.details["where"] == str(hospital.state)
    assert error.details["found"] in {"File exists", "Not a directory"}


def test_an_offer_holds_public_numbers_whatever_the_true_count(hospital: Hospital) -> None:
    with hospital.open() as site:
        offer = offer_of(site, small_study())
        key = site.key.public
    assert offer.model_dump() == {
        "site": "north",
        "public_key": key,
        "declared_patients": 20,
        "most_patients": 40,
        "known_key": True,
        "numerics": record(1, EngineChoice(tile=4)).model_dump(),
    }


def test_the_device_decides_the_numerics(hospital: Hospital) -> None:
    hospital.threads = 2
    with hospital.open() as site:
        assert site.numerics(small_study()) == record(2, EngineChoice(tile=4))


def test_no_secret_and_no_patient_is_shown(hospital: Hospital) -> None:
    with hospital.open() as site:
        site.cohorts.read(small_study())
        shown = repr(site)
    for secret in ("signing", "patients"):
        assert known_secret(7, "north", secret).hex() not in shown
    assert "P01" not in shown
    assert "cohorts" not in shown
