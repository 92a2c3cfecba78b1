"""A site that fails is silent, and its own people are told why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from client.administration.service import status
from client.consent.decisions import freeze_pending
from client.process_limits import EXIT_MEMORY, MemoryLimit, ProcessLimits
from client.requests.handler import answer
from client.site import Site
from common.errors import ModelError
from tests.client.site_fixtures import (
    Hospital,
    approved,
    asking,
    code_of,
    offer_request,
    proposal,
)
from tests.common.studies import exit_code, small_study

STUDY = small_study()
FREE: dict[str, Any] = {"privacy": {"mode": "none"}}


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north")


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


@pytest.mark.parametrize("what", ["cache", "images", "labels.csv", "opt-out list", "replies"])
def test_a_site_that_fails_is_silent_and_its_people_are_told(hospital: Hospital, what: str) -> None:
    """Nothing is charged for what could not be read; outside, it looks like a machine that is off.

    Nobody leaves the cohort for it, and the next request goes on where the site is mended.
    """
    (hospital.folder / "list.txt").write_text("# nobody\n")
    hospital.opt_out = "list.txt"
    with hospital.open() as site:
        plan = approved(site, STUDY)
        freeze_pending(site)
    path = {
        "cache": hospital.state / "cache",
        "opt-out list": hospital.folder / "list.txt",
        "replies": hospital.folder / "nothing",
    }.get(what, hospital.folder / what)
    kept = path.with_name("kept")
    if path.exists():
        path.rename(kept)
    if what == "cache":
        path.write_text("in the way")
    with hospital.open() as site, structlog.testing.capture_logs() as logs:
        if what == "replies":
            site.store.execute("ALTER TABLE replies RENAME TO away")
        assert code_of(site, offer_request(STUDY)) == "ok"
        length = site.audit.head.length
        assert code_of(site, asking(plan)) == "silence"
        assert site.audit.head.length == length + 2
        (warning, *_) = status(site).warnings
        assert warning[0].startswith("small got no answer for round 1 at")
        failed = [each for each in logs if each["event"] == "site.failed"]
        assert len(failed) == 1
        assert failed[0].keys() == {"event", "log_level", "site", "study", "error", "at", "do"}
        assert not any(patient in str((logs, warning)) for patient in hospital.patients)
        assert len(hospital.rows("charges")) == 0
        assert all(row["until"] is None for row in hospital.rows("members"))
        if what == "replies":
            site.store.execute("ALTER TABLE away RENAME TO replies")
    path.unlink(missing_ok=True)
    if kept.exists():
        kept.rename(path)
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"
        assert not any("got no answer" in what for what, _ in status(site).warnings)


def test_what_fails_while_it_is_computed_is_silence_too(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect may depend on a patient, and so no code may tell of it."""
    plan = approved(site, STUDY)

    def failing(*_: Any, **__: Any) -> Any:  # noqa: ANN401 - as it is called
        raise ModelError("of patient P07")

    monkeypatch.setattr("client.requests.round.local_change", failing)
    with structlog.testing.capture_logs() as logs:
        assert code_of(site, asking(plan)) == "silence"
    assert "P07" not in str(logs)
    assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]
    monkeypatch.undo()
    assert code_of(site, asking(plan)) == "ok"
    assert len(hospital.rows("charges")) == 1


def test_a_site_whose_store_is_gone_is_silent(site: Site) -> None:
    plan = approved(site, STUDY)
    site.close()
    assert code_of(site, asking(plan)) == code_of(site, offer_request(STUDY)) == "silence"


def test_what_cannot_be_noted_is_not_done(site: Site, hospital: Hospital) -> None:
    plan = approved(site, STUDY)
    site.audit.close()
    assert code_of(site, asking(plan)) == "silence"
    assert code_of(site, proposal(plan)) == "silence"
    assert hospital.rows("charges") == []


@pytest.mark.parametrize("when", ["a round is computed", "a cohort is frozen"])
def test_a_worker_that_passes_its_memory_limit_ends_and_is_not_merely_silent(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its supervisor tells the administrator what to change, and starts another."""
    with hospital.open() as site:
        plan = approved(site, STUDY)
        if when == "a round is computed":
            freeze_pending(site)

    def hungry(*_: object, **__: object) -> None:
        bytearray(32 * 2**30)

    def child() -> None:
        with hospital.open() as opened:
            ProcessLimits(memory_mib=16 * 2**10).apply()
            try:
                if when == "a round is computed":
                    monkeypatch.setattr("client.requests.round.local_change", hungry)
                    answer(opened, asking(plan))
                else:
                    monkeypatch.setattr(opened.cohorts, "read", hungry)
                    freeze_pending(opened)
            except MemoryLimit:
                os._exit(EXIT_MEMORY)

    assert exit_code(child) == EXIT_MEMORY
