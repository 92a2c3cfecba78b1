"""What fails at a site is shown to its staff, each study's last failure with what to do."""

from __future__ import annotations

import errno
import json
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from client.administration.service import approve, show, status, stop
from client.consent import problems
from client.consent.decisions import freeze_pending
from client.consent.problems import MOST, Problem, last_failures, settle
from client.site import Site
from common.control import site_pb2 as pb
from common.errors import DataError, LabelError, ModelError, RefusalCode
from common.wire.messages import LedgerHead, Request
from tests.client.site_fixtures import (
    Hospital,
    approved,
    asking,
    code_of,
    offer_request,
    plan_for,
    proposal,
)
from tests.common.studies import exit_code, small_study

STUDY = small_study()
OTHER = small_study(study={"name": "other", "title": "Another"})


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north", {"P00": 1, "P01": 1, "P02": 1})


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def told(site: Site, study: str = "small") -> list[tuple[str, str]]:
    """What status tells of a study's failure, and what to do."""
    return [each for each in status(site).warnings if each[0].startswith(study)]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def of_sqlite(words: str, code: int) -> sqlite3.Error:
    """What SQLite raises."""
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


WAYS: dict[str, tuple[Exception, str, str]] = {
    "a full disk": (OSError(errno.ENOSPC, "No space left"), "the disk is full", "free disk space"),
    "a quota": (OSError(errno.EDQUOT, "Quota"), "quota", "raise the quota"),
    "a full disk under the store": (
        of_sqlite("database or disk is full", sqlite3.SQLITE_FULL),
        "the disk is full",
        "free disk space",
    ),
    "a locked store": (
        of_sqlite("database is locked", sqlite3.SQLITE_BUSY),
        "database locked",
        "such as a backup",
    ),
    "a broken disk": (OSError(errno.EIO, "I/O"), "cannot be read or written", "system log"),
    "a missing right": (PermissionError(errno.EACCES, "P02"), "may not be read", "the right"),
    "another system error": (OSError(errno.ENODEV, "No such device"), "No such device", "state"),
    "no memory": (MemoryError(), "memory ran out", "[device] memory_mib"),
    "a file": (DataError("the folder is gone", where="images", found="3"), "images", "check"),
    "a file, with a remedy": (LabelError("no column", remedy="add it"), "no column", "add it"),
    "a model": (ModelError("no layer"), "no layer", "report the place"),
    "a defect": (ValueError("of patient P02"), "a defect in Consilium: ValueError at", "report"),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_fail_has_words_and_a_remedy_until_later_work_goes_well(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It outlives the daemon; the work of another study does not hide it."""
    error, words, remedy = WAYS[way]
    with hospital.open() as site:
        plan = approved(site, STUDY)
        monkeypatch.setattr("client.requests.round.local_change", failing(error))
        assert code_of(site, asking(plan)) == "silence"
        monkeypatch.undo()
    with hospital.open() as site:
        ((what, do),) = told(site)
        assert what.startswith("small got no answer for round 1 at 20")
        assert words in what
        assert remedy in do
        assert "P02" not in what + do
        assert code_of(site, asking(approved(site, OTHER))) == "ok"
        assert told(site) == [(what, do)]
        assert f"LAST FAILURE\n  {what}\n  do: {do}" in show(site, "small").text
        assert code_of(site, asking(plan)) == "ok"
        assert told(site) == []
        assert "LAST FAILURE" not in show(site, "small").text


def test_images_that_cannot_be_prepared_are_told_before_the_first_round(
    hospital: Hospital,
) -> None:
    with hospital.open() as site:
        approved(site, STUDY)
        (hospital.folder / "images").rename(hospital.folder / "away")
        freeze_pending(site)
        ((what, _),) = told(site)
        assert what.startswith("small got no answer for preparing its images at")
        (hospital.folder / "away").rename(hospital.folder / "images")
        freeze_pending(site)
        assert told(site) == []


def test_a_study_that_is_over_has_nothing_left_to_fix(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = approved(site, STUDY)
    monkeypatch.setattr("client.requests.round.local_change", failing(ValueError()))
    assert code_of(site, asking(plan)) == "silence"
    assert told(site)
    stop(site, "small", by="a person")
    assert told(site) == []


def test_what_this_site_refuses_for_a_change_of_its_own_is_told(hospital: Hospital) -> None:
    """And is gone once it is changed back."""
    with hospital.open() as site:
        plan = approved(site, STUDY)
    hospital.threads = 2
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == RefusalCode.NUMERICS
        ((what, do),) = told(site)
        assert what.startswith("small: this site refused round 1 at")
        assert "threads" in what
        assert "amend" in do
    hospital.threads = 1
    hospital.declared -= 1
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == RefusalCode.WRONG_PLAN
        ((what, do),) = told(site)
        assert "declared" in what
        assert "the site file was changed" in do
    hospital.declared += 1
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"
        assert told(site) == []


def test_a_ledger_that_is_behind_is_told_with_its_remedy(site: Site) -> None:
    plan = approved(site, STUDY)
    ahead = asking(plan, ledger=LedgerHead(5, "ab" * 32))
    assert code_of(site, ahead) == RefusalCode.LEDGER_BEHIND
    ((what, do),) = told(site)
    assert "another privacy ledger" in what
    assert "latest full backup" in do
    assert code_of(site, asking(approved(site, OTHER))) == "ok"  # there is one ledger for both
    assert told(site) == []


def test_a_coordinator_cannot_hide_a_failure_behind_a_refusal(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = approved(site, STUDY)
    monkeypatch.setattr("client.requests.round.local_change", failing(ValueError()))
    assert code_of(site, asking(plan)) == "silence"
    before = told(site)
    another = Request("small", "f" * 64, 1, "train", arrays=asking(plan).arrays)
    bare = plan_for(site, small_study(privacy={"mode": "none"}))  # which the policy forbids
    tricks = [asking(plan, 99), asking(plan, 0), another, proposal(bare)]
    tricks += [proposal(plan, document=text) for text in ("{}", bare.text)]
    for request in tricks:
        assert code_of(site, request) not in ("ok", "silence")
        assert told(site) == before
    assert code_of(site, proposal(plan)) == "ok"  # a plan that is known says nothing of its rounds
    assert code_of(site, offer_request(STUDY)) == "ok"
    assert told(site) == before


def test_a_coordinator_hides_no_failure_behind_late_replies_and_other_studies(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which replies it takes, and proposes as many studies as it likes."""
    plan = approved(site, STUDY)
    monkeypatch.setattr("client.requests.round.local_change", failing(ValueError()))
    assert code_of(site, asking(plan)) == "silence"
    before = told(site)
    problems.put(site, Problem("small", "train", 1, "late", "wait", "2026", "late"))
    assert told(site) == before
    for number in range(2 * MOST):
        problems.keep(site, f"another-{number}", "propose", 0, DataError("the folder is gone"))
    assert told(site) == before
    newest, *_, oldest = last_failures(site)
    assert (newest.study, oldest.study) == (f"another-{2 * MOST - 1}", "small")
    assert len(last_failures(site)) == MOST


def test_a_reply_that_comes_late_is_told_where_nothing_worse_is(site: Site) -> None:
    for number in (1, 2):
        problems.put(site, Problem("small", "train", number, "late", "wait", "2026", "late"))
        assert [each.round for each in last_failures(site)] == [number]
    problems.keep(site, "small", "train", 3, DataError("the folder is gone"))
    assert [each.how for each in last_failures(site)] == ["silence"]


def test_a_path_that_is_no_text_does_not_keep_status_from_answering(site: Site) -> None:
    path = os.fsdecode(b"/data/R\xf6ntgen")
    problems.keep(site, "small", "train", 1, DataError("the folder is gone", where=path))
    ((what, do),) = told(site)
    assert r"R\udcf6ntgen" in pb.Notice(what=what, remedy=do).what


STEPS = st.sampled_from(["offer", "propose", "amend", "train", "evaluate", "close", "prepare"])
NAMES = st.text(max_size=700) | st.sampled_from(["a", "b"])


@given(st.lists(st.tuples(st.booleans(), NAMES, STEPS), max_size=60))
def test_no_more_is_kept_than_a_line_a_study_and_a_fixed_number(
    done: list[tuple[bool, str, str]],
) -> None:
    """Whatever fails or goes well, in any order: the newest failure of a study, and short."""
    site = Standin()
    for number in range(MOST):  # as a coordinator that names many
        problems.put(site, Problem(f"study {number}", "offer", 0, "x", "y", "2026"))  # type: ignore[arg-type]
    for number, (fails, study, step) in enumerate(done):
        if fails:
            problems.put(site, Problem(study, step, number, "x" * 999, "y", "2026"))  # type: ignore[arg-type]
            assert last_failures(site)[0].round == number  # type: ignore[arg-type]
        else:
            settle(site, study, step)  # type: ignore[arg-type]
            kept = [(each.study, each.purpose) for each in last_failures(site)]  # type: ignore[arg-type]
            assert (study, step) not in kept
    names = [each.study for each in last_failures(site)]  # type: ignore[arg-type]
    assert len(names) == len(set(names)) <= MOST
    assert len(site.value) < MOST * 10_000


class Standin:
    """What a site's store does with one value."""

    def __init__(self) -> None:
        self.value = ""
        self.store = self.approvals = self

    def fact(self, _: str) -> str:
        return self.value

    def keep(self, _: str, value: str) -> None:
        json.loads(value)
        self.value = value

    def transaction(self) -> Any:  # noqa: ANN401 - a context that does nothing
        return memoryview(b"")

    def all(self) -> list[object]:
        return []


def test_a_disk_that_is_full_is_told_where_the_failure_itself_cannot_be_kept(
    hospital: Hospital,
) -> None:
    """A limit on the size of files is the same to SQLite and the audit log as a full disk."""
    with hospital.open() as site:
        plan = approved(site, STUDY)

    def child() -> None:
        # The test's own output is a file too, and has the same limit.
        with hospital.open() as opened, structlog.testing.capture_logs():
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            assert code_of(opened, asking(plan)) == "silence"
            (what, do), *_ = status(opened).warnings
            assert "answers no request, because nothing can be written" in what
            assert "free disk space" in do
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert not any("nothing can be written" in each for each, _ in status(opened).warnings)
            assert code_of(opened, asking(plan)) == "ok"

    assert exit_code(child) == 0


def test_a_state_folder_without_room_is_told_before_anything_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("nothing can be written" in what for what, _ in status(site).warnings)
    monkeypatch.setattr("os.posix_fallocate", failing(OSError(errno.ENOSPC, "No space")))
    assert any("nothing can be written" in what for what, _ in status(site).warnings)


def test_an_approval_by_a_person_settles_what_kept_the_images_from_being_prepared(
    tmp_path: Path,
) -> None:
    hospital = Hospital(tmp_path / "north", {"P00": 1, "P01": 1}, policy={"approval": "ask"})
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == RefusalCode.PENDING
        problems.keep(site, "small", problems.PREPARING, 0, DataError("the folder is gone"))
        assert told(site)
        approve(site, "small", plan_hash=plan.hash, by="a person")
        assert told(site) == []
