"""What a person decides at a site takes effect at once, and is silent outside."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.administration import service
from client.administration.service import approve, deny, opt_out, show, stop
from client.consent.refusals import refused_proposals
from client.records import audit_log
from client.records.ledger import Charge
from client.site import Site
from common.errors import Refusal, SiteError
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism
from common.study.study_file import Study
from common.wire.messages import Request
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    offer_request,
    plan_for,
    proposal,
    write_images,
)
from tests.common.studies import small_study

STUDY = small_study()
BY = "the administrator"


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north", policy={"approval": "ask"}, seed=None)


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def proposed(site: Site, study: Study = STUDY) -> Plan:
    """A plan that waits for a person."""
    plan = plan_for(site, study)
    assert code_of(site, proposal(plan)) == "pending"
    return plan


def running(site: Site, study: Study = STUDY) -> Plan:
    """A plan that a person has approved."""
    plan = proposed(site, study)
    approve(site, plan.hash, by=BY)
    return plan


def events(site: Site) -> list[str]:
    return [entry.event for entry in audit_log.entries(site.state)]


def key_of(hospital: Hospital) -> bytes | None:
    (row,) = hospital.rows("approvals")
    key: bytes | None = row["study_key"]
    return key


def expire(site: Site) -> None:
    site.store.execute("UPDATE approvals SET expires_at = '2020-01-01T00:00:00Z'")


def test_a_plan_waits_until_a_person_approves_it(site: Site, hospital: Hospital) -> None:
    plan = proposed(site)
    given = approve(site, "small", by=BY)
    assert (given.study, given.plan_hash) == ("small", plan.hash)
    assert given.epsilon == plan.mechanism.epsilon
    assert code_of(site, proposal(plan)) == "ok"
    assert code_of(site, asking(plan)) == "ok"
    (row,) = service.studies(site)
    assert (row.state, row.by, row.round, row.expires) == ("approved", BY, 1, given.expires)
    (entry,) = (each for each in audit_log.entries(site.state) if each.event == "study.approved")
    assert entry.fields == {
        "study": "small",
        "plan": plan.hash,
        "by": BY,
        "expires": given.expires,
    }


def test_an_expired_study_ends_for_good_and_its_key_is_in_no_file(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set back later revives nothing; a person may approve it anew."""
    plan = proposed(site)
    approve(site, "small", days=1, by=BY)
    assert code_of(site, asking(plan)) == "ok"
    key = key_of(hospital)
    assert key is not None
    today = datetime.now(UTC)
    for days in (2, 0):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None, days: int = days) -> datetime:  # type: ignore[override]
                return today + timedelta(days=days)

        monkeypatch.setattr("client.records.approvals.datetime", Clock)
        assert code_of(site, asking(plan, 2)) == code_of(site, asking(plan)) == "silence"
        assert key_of(hospital) is None
    assert not any(key in each.read_bytes() for each in hospital.state.glob("site.sqlite*"))
    assert events(site).count("study.expired") == 1
    (row,) = service.studies(site)
    assert (row.state, row.by) == ("expired", "clock")
    approve(site, "small", by=BY)
    assert code_of(site, asking(plan, 2)) == "ok"
    assert key_of(hospital) not in (None, key)


def test_a_refusal_by_the_policy_says_here_which_limit_and_is_found_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    strict = {"approval": "ask", "max_epsilon_per_study": 3.0}
    with Hospital(tmp_path / "north", policy=strict, seed=None).open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == code_of(site, proposal(plan)) == "policy"
        *_, last = audit_log.entries(site.state)
        told = {name: last.fields[name] for name in ("where", "found", "wanted")}
        assert told["where"] == "[policy] max_epsilon_per_study"
        assert told["wanted"] == "at most 3"
        (kept,) = refused_proposals(site)
        assert (kept.study, kept.plan_hash) == ("small", plan.hash)
        assert all(value in kept.why for value in told.values())
        assert service.status(site).refused_proposals == (kept,)
        assert not service.studies(site)
    assert "max_epsilon_per_study" in "".join(capfd.readouterr())


def test_no_more_refused_proposals_are_kept_than_can_be_read(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north", policy={"approval": "ask"}, seed=None).open() as site:
        for number in range(22):
            other = small_study(study={"name": f"s{number}"}, data={"dataset": "ct"})
            assert code_of(site, offer_request(other)) == "data-unavailable"
        names = [each.study for each in refused_proposals(site)]
        assert names == [f"s{number}" for number in range(21, 1, -1)]


def test_a_denied_plan_is_told_so_until_a_person_thinks_better_of_it(site: Site) -> None:
    plan = proposed(site)
    assert deny(site, "small", by=BY).state == "denied"
    assert code_of(site, proposal(plan)) == code_of(site, asking(plan)) == "denied"
    approve(site, "small", by=BY)
    assert code_of(site, proposal(plan)) == "ok"


def test_who_takes_a_denied_plan_back_cannot_propose_it_again(
    site: Site, hospital: Hospital
) -> None:
    """Else a no would hold for as long as the coordinator likes."""
    plan = proposed(site)
    deny(site, "small", by=BY)
    assert code_of(site, Request("small", plan.hash, 0, "close")) == "ok"
    assert code_of(site, proposal(plan)) == "not-approved"
    hospital.policy = {"approval": "automatic"}
    with hospital.open() as again:
        assert code_of(again, proposal(plan)) == "not-approved"


def test_an_approval_of_another_hash_shows_both(site: Site) -> None:
    plan = proposed(site)
    other = "ab" * 32
    with pytest.raises(SiteError) as caught:
        approve(site, "small", plan_hash=other, by=BY)
    assert plan.hash in caught.value.details["found"]
    assert other in caught.value.details["wanted"]
    (entry,) = (each for each in audit_log.entries(site.state) if each.event == "approval.refused")
    assert entry.fields == {"study": "small", "wanted": other, "by": BY}
    assert code_of(site, asking(plan)) == "pending"
    assert approve(site, "small", plan_hash=plan.hash[:12], by=BY).plan_hash == plan.hash


def test_the_beginning_of_a_hash_that_is_too_short_approves_nothing(site: Site) -> None:
    plan = proposed(site)
    with pytest.raises(SiteError):
        approve(site, "small", plan_hash=plan.hash[:11], by=BY)


def test_the_beginning_of_two_hashes_approves_neither(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator may look for two plans whose hashes begin alike."""
    monkeypatch.setattr("client.administration.lookup._SHOWN_DIGITS", 1)
    begun: set[str] = set()
    for number in range(17):  # with one digit, at the latest the 17th begins like another
        digit = proposed(site, small_study(study={"title": f"Number {number}"})).hash[0]
        if digit in begun:
            break
        begun.add(digit)
    with pytest.raises(SiteError, match="not the plan"):
        approve(site, "small", plan_hash=digit, by=BY)


def test_of_two_plans_of_one_name_each_is_approved_by_its_own_hash(site: Site) -> None:
    first, second = proposed(site), proposed(site, small_study(study={"title": "Another"}))
    approve(site, "small", plan_hash=first.hash, by=BY)
    assert [row.state for row in service.studies(site)] == ["pending", "approved"]
    assert show(site, "small").row.plan_hash == second.hash
    assert show(site, first.hash[:8]).row.plan_hash == first.hash


@pytest.mark.parametrize("call", [show, approve, deny, stop])
def test_a_study_that_was_never_proposed_is_named(site: Site, call: Any) -> None:  # noqa: ANN401 - a function
    named = {} if call is show else {"by": BY}
    with pytest.raises(SiteError, match="no study named unheard-of"):
        call(site, "unheard-of", **named)


def test_a_stopped_study_gets_no_answer_and_its_key_is_erased(
    site: Site, hospital: Hospital
) -> None:
    plan = running(site)
    reply = answered(site, asking(plan))
    assert code_of(site, asking(plan, 3, "evaluate")) == "ok"
    key = key_of(hospital)
    left = stop(site, "small", by=BY)
    assert reply.arrays is not None
    assert (left.rounds, left.replies, left.bytes) == (1, 2, reply.arrays.nbytes + 8 * 8)
    assert 0 < left.epsilon <= plan.mechanism.epsilon
    close = Request("small", plan.hash, 3, "close", acknowledged=3)
    for request in (asking(plan), asking(plan, 2), proposal(plan), close):
        assert code_of(site, request) == "silence"
    assert key is not None
    files = [each for each in hospital.state.glob("site.sqlite*") if each.is_file()]
    assert not any(key in each.read_bytes() for each in files)
    assert len(hospital.rows("charges")) == 2


def test_a_study_that_never_ran_cannot_be_stopped(site: Site) -> None:
    proposed(site)
    with pytest.raises(SiteError, match="does not run"):
        stop(site, "small", by=BY)


def test_denying_what_was_approved_is_silent_too(site: Site) -> None:
    plan = running(site)
    assert deny(site, "small", by=BY).state == "stopped"
    assert code_of(site, asking(plan)) == "silence"


def test_a_study_that_was_stopped_goes_on_when_it_is_approved_again(
    site: Site, hospital: Hospital
) -> None:
    """What was committed is not run again; what was only reserved is charged once."""
    plan = running(site)
    first = answered(site, asking(plan))
    site.ledger.reserve(charge(plan, 2), plan)
    stop(site, "small", by=BY)
    approve(site, "small", by=BY)
    assert answered(site, asking(plan)).signature == first.signature
    assert code_of(site, asking(plan, 2)) == "ok"
    assert [row["round"] for row in hospital.rows("charges")] == [1, 2]
    assert {row["state"] for row in hospital.rows("charges")} == {"committed"}


def charge(plan: Plan, number: int) -> Charge:
    """What a round costs, as the site reserves it."""
    assert isinstance(plan.mechanism, PatientMechanism)
    steps = plan.study.training.local_steps
    event = plan.mechanism.step.model_copy(update={"count": steps})
    return Charge(plan.hash, number, "train", asking(plan, number).identity, event)


def test_an_expired_approval_is_silent_and_a_new_proposal_waits_again(site: Site) -> None:
    plan = running(site)
    expire(site)
    assert code_of(site, asking(plan)) == "silence"
    assert service.studies(site)[0].state == "expired"
    assert code_of(site, proposal(plan)) == "pending"
    approve(site, "small", by=BY)
    assert code_of(site, asking(plan)) == "ok"


def test_an_expired_approval_that_the_policy_gave_is_given_again(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        plan = approved(site, STUDY)
        expire(site)
        assert code_of(site, asking(plan)) == "silence"
        assert code_of(site, proposal(plan)) == "ok"
        assert code_of(site, asking(plan)) == "ok"


def test_an_approval_holds_for_the_days_that_were_given_and_no_longer(site: Site) -> None:
    proposed(site)
    given = approve(site, "small", days=1, by=BY)
    assert given.expires < approve(site, "small", days=3, by=BY).expires
    for days in (0, 181):
        with pytest.raises(SiteError, match="so long"):
            approve(site, "small", days=days, by=BY)


def test_an_approval_that_is_prolonged_keeps_its_key(site: Site, hospital: Hospital) -> None:
    running(site)
    key = key_of(hospital)
    approve(site, "small", by=BY)
    assert key_of(hospital) == key


def test_who_came_later_is_in_it_when_a_person_approves_anew(
    site: Site, hospital: Hospital
) -> None:
    """The round that was answered before is not run again."""
    plan = running(site)
    first = answered(site, asking(plan))
    write_images(hospital.folder, hospital.patients | {"P99": 1})
    site.cohorts.forget()
    assert code_of(site, asking(plan, 2)) == "ok"
    newcomer = site.pseudonyms.of("P99")
    assert newcomer not in {row["patient"] for row in hospital.rows("members")}
    approve(site, "small", by=BY)
    (row,) = (row for row in hospital.rows("members") if row["patient"] == newcomer)
    assert (row["since"], row["until"]) == (2, None)
    assert answered(site, asking(plan)).signature == first.signature
    assert code_of(site, asking(plan, 3)) == "ok"
    assert len(hospital.rows("charges")) == 3


def test_who_left_a_cohort_stays_charged_and_is_told_of_here_alone(
    site: Site, hospital: Hospital
) -> None:
    plan = running(site)
    assert code_of(site, asking(plan)) == "ok"
    for image in hospital.folder.glob("images/P01-*.dcm"):
        image.unlink()
    site.cohorts.forget()
    assert code_of(site, asking(plan, 2)) == "ok"
    opt_out(site, ["P02"], by=BY)
    rows = hospital.rows("members")
    assert len(rows) == 24
    assert sorted(row["until"] for row in rows if row["until"] is not None) == [1, 2]
    (spending,) = service.ledger(site).studies
    assert (spending.patients, spending.left_out) == (22, 0)
    assert spending.gone == "1 images or label missing, 1 opted out"
    assert spending.gone in show(site, "small").text
    assert not any("left" in event or "opted" in event for event in events(site))


def test_who_cannot_pay_is_left_out_when_a_person_approves_and_the_person_is_told(
    hospital: Hospital,
) -> None:
    """Two plans can wait which the patients can bear only one of."""
    hospital.policy |= {"max_epsilon_total": 10.0}
    hospital.split = (1.0, 0.0, 0.0)
    with hospital.open() as site:
        first, second = proposed(site), proposed(site, small_study(study={"title": "Another"}))
        assert approve(site, first.hash, by=BY).patients == 24
        said = show(site, second.hash).text
        assert "left out: 24 patients who have too little" in said
        assert "NO PATIENT IS IN THE COHORT" in said
        given = approve(site, second.hash, by=BY)
        assert (given.patients, given.left_out) == (0, 24)
        assert "left_out" not in repr(given)
        assert code_of(site, asking(second)) == "ok"


def test_a_person_cannot_let_more_studies_run_than_the_policy_allows(hospital: Hospital) -> None:
    hospital.policy |= {"max_open_studies": 1}
    with hospital.open() as site:
        first, second = proposed(site), proposed(site, small_study(study={"title": "Another"}))
        approve(site, first.hash, by=BY)
        approve(site, first.hash, by=BY)
        with pytest.raises(Refusal, match="runs as many studies"):
            approve(site, second.hash, by=BY)
        stop(site, first.hash, by=BY)
        approve(site, second.hash, by=BY)


def test_a_study_that_was_charged_can_be_approved_again_within_its_own_cost(
    hospital: Hospital,
) -> None:
    """What it has spent already is a part of what it may cost."""
    hospital.policy |= {"max_epsilon_total": 9.0}
    with hospital.open() as site:
        plan = running(site)
        for number in (1, 2):
            assert code_of(site, asking(plan, number)) == "ok"
        stop(site, "small", by=BY)
        approve(site, "small", by=BY)
        assert code_of(site, asking(plan, 3)) == "ok"


def test_a_study_that_is_over_cannot_be_approved(site: Site) -> None:
    plan = running(site)
    assert code_of(site, asking(plan)) == "ok"
    assert code_of(site, Request("small", plan.hash, 3, "close", acknowledged=3)) == "ok"
    for call in (approve, deny, stop):
        with pytest.raises(SiteError, match="is over"):
            call(site, "small", by=BY)


def test_a_paused_site_is_silent_about_everything_also_after_a_restart(hospital: Hospital) -> None:
    with hospital.open() as site:
        plan = running(site)
        service.pause(site, by=BY)
    with hospital.open() as site:
        assert service.is_paused(site)
        assert service.status(site).paused_by == BY
        assert code_of(site, asking(plan)) == code_of(site, offer_request(STUDY)) == "silence"
        service.resume(site, by=BY)
        assert code_of(site, asking(plan)) == "ok"
        assert [each for each in events(site) if each in ("site.paused", "site.resumed")] == [
            "site.paused",
            "site.resumed",
        ]


def test_a_patient_who_opts_out_leaves_and_the_study_goes_on(
    site: Site, hospital: Hospital
) -> None:
    """What was computed before is sent again; the audit log gets no line, and names nobody."""
    plan = running(site)
    first = answered(site, asking(plan))
    length = site.audit.head.length
    outcome = opt_out(site, ["P07", " P07 ", "P08"], by=BY)
    assert (outcome.added, outcome.known, outcome.left) == (2, 0, ("small",))
    assert site.audit.refresh().length == length
    absent = {site.pseudonyms.of("P07"), site.pseudonyms.of("P08")}
    rows = {row["patient"]: (row["until"], row["why"]) for row in hospital.rows("members")}
    assert [rows.pop(each) for each in absent] == [(1, "opted out")] * 2
    assert set(rows.values()) == {(None, "")}
    assert answered(site, asking(plan)).signature == first.signature
    assert code_of(site, asking(plan, 2)) == code_of(site, proposal(plan)) == "ok"
    assert opt_out(site, ["P07"], by=BY).known == 1
    log = (hospital.state / "audit.jsonl").read_text()
    assert not any(name in log for name in ("P07", "P08", *absent))


def test_an_opt_out_of_somebody_whom_no_cohort_holds_says_so_and_is_kept(site: Site) -> None:
    running(site)
    outcome = opt_out(site, ["P07", "P0 7"], by=BY)
    assert (outcome.added, outcome.unknown) == (2, ("P0 7",))
    assert "P0 7" not in repr(outcome)
    assert "P0 7" not in (site.state / "audit.jsonl").read_text()
    assert opt_out(site, ["P0 7"], by=BY).unknown == ()  # on the list already


def test_an_opt_out_by_hand_holds_at_the_next_request(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north")
    hospital.opt_out = "opt-out.txt"
    listed = hospital.folder / "opt-out.txt"
    listed.write_text("# nobody yet\n")
    with hospital.open() as site:
        plan = approved(site, STUDY)
        assert code_of(site, asking(plan)) == "ok"
        listed.write_text("# by telephone\nP03 # on Monday\n")
        assert code_of(site, asking(plan, 2)) == "ok"
        (gone,) = (row for row in hospital.rows("members") if row["until"] is not None)
        assert (gone["patient"], gone["until"]) == (site.pseudonyms.of("P03"), 1)
        other = approved(site, small_study(study={"title": "Later"}))
        assert code_of(site, asking(other)) == "ok"
        pseudonym = site.pseudonyms.of("P03")
        assert pseudonym not in {each.pseudonym for each in site.cohorts.read(STUDY).patients}


def test_an_opt_out_list_that_is_missing_lets_no_patient_be_read(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north")
    hospital.opt_out = "opt-out.txt"
    with hospital.open() as site:
        assert code_of(site, asking(approved(site, STUDY))) == "silence"
        with pytest.raises(SiteError, match="cannot be read"):
            opt_out(site, ["P01"], by=BY)


@pytest.mark.parametrize("patient", ["", "  ", "#1", "P01\nP02", "P01\x85P02"])
def test_what_cannot_be_a_line_of_the_list_is_refused(site: Site, patient: str) -> None:
    with pytest.raises(SiteError, match="cannot be written"):
        opt_out(site, ["P01", patient], by=BY)
    assert not (site.state / "opt-out.txt").exists()


def test_outside_a_stopped_study_looks_as_an_expired_one(tmp_path: Path) -> None:
    """Every request gets the same: nothing."""
    answers = []
    for how in ("stop", "expiry"):
        with Hospital(tmp_path / how).open() as site:
            plan = approved(site, STUDY)
            assert code_of(site, asking(plan)) == "ok"
            if how == "stop":
                stop(site, "small", by=BY)
            else:
                expire(site)
            close = Request("small", plan.hash, 3, "close", acknowledged=3)
            wrong = asking(plan, 2, arrays=np.zeros(1, dtype=np.float32))
            answers.append([code_of(site, each) for each in (asking(plan), wrong, close)])
    assert answers == [["silence"] * 3] * 2


def test_the_ledger_says_what_each_study_and_the_most_charged_patient_have_spent(
    site: Site,
) -> None:
    plan = running(site)
    for number in (1, 2, 3):
        assert code_of(site, asking(plan, number)) == "ok"
    report = service.ledger(site)
    (spending,) = report.studies
    assert spending.patients == 24
    assert (spending.rounds, spending.evaluations, spending.state) == (3, 0, "approved")
    assert 0 < spending.epsilon_spent <= spending.epsilon
    assert report.most_spent == pytest.approx(plan.mechanism.epsilon)
    assert (report.length, report.head) == (3, site.ledger.head().hash)
    assert (report.limit_total, report.limit_per_study) == (20.0, 8.0)


def test_no_more_plans_wait_than_a_person_can_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.consent.decisions.MOST_PENDING", 1)
    proposed(site)
    second = plan_for(site, small_study(study={"title": "Another"}))
    assert code_of(site, proposal(second)) == "policy"


def test_a_plan_that_is_taken_back_before_anybody_decided_leaves_nothing_behind(
    site: Site, hospital: Hospital
) -> None:
    """Else a coordinator could fill the store with plans, a few at a time."""
    kept = proposed(site, small_study(study={"name": "kept"}))
    tables = ("approvals", "members")
    deny(site, "kept", by=BY)
    before = {table: hospital.rows(table) for table in tables}
    site.store.execute("DELETE FROM costs")
    for epsilon in (2.0, 3.0):
        plan = proposed(site, small_study(privacy={"epsilon": epsilon}))
        assert code_of(site, Request("small", plan.hash, 0, "close")) == "ok"
    assert {table: hospital.rows(table) for table in before} == before
    assert hospital.rows("costs") == []
    assert events(site).count("study.closed") == 2
    assert code_of(site, asking(kept)) == "denied"
    assert code_of(site, proposal(plan)) == "pending"


def test_a_plan_that_was_charged_is_kept_when_it_waits_again_and_is_taken_back(
    site: Site, hospital: Hospital
) -> None:
    plan = running(site)
    assert code_of(site, asking(plan)) == "ok"
    expire(site)
    assert code_of(site, proposal(plan)) == "pending"
    assert code_of(site, Request("small", plan.hash, 1, "close", acknowledged=1)) == "ok"
    assert [row["state"] for row in hospital.rows("approvals")] == ["closed"]
    assert hospital.rows("members")


def test_every_message_and_decision_stands_in_the_log(site: Site) -> None:
    plan = running(site)
    answered(site, asking(plan))
    answered(site, asking(plan))
    code_of(site, asking(plan, 9))
    stop(site, "small", by=BY)
    code_of(site, asking(plan))
    lines = list(audit_log.entries(site.state))
    assert [each.event for each in lines] == [
        "configuration.changed",
        *("message.in", "message.out"),
        *("message.in", "study.proposed", "message.out"),
        "study.approved",
        *("message.in", "round.charged", "message.out"),
        *("message.in", "message.out") * 2,
        "study.stopped",
        *("message.in", "message.silence"),
    ]
    sent = [each.fields for each in lines if each.event == "message.out"]
    first, again, refused = sent[-3:]
    assert first["size"] == 4 * plan.weights
    assert 0 < first["epsilon"] == pytest.approx(first["epsilon_after"])
    assert (again["again"], again["epsilon"], again["hash"]) == (True, 0, first["hash"])
    assert (refused["code"], refused["size"]) == ("round-out-of-order", 0)
    assert lines[-1].fields["why"] == "stopped"


def test_a_person_cannot_approve_what_the_policy_does_not_allow_any_more(
    hospital: Hospital,
) -> None:
    """The plan waited, and the policy was tightened meanwhile: by hand it is no more allowed."""
    with hospital.open() as site:
        plan = proposed(site)
    hospital.policy |= {"max_epsilon_per_study": 7.0}
    with hospital.open() as site:
        with pytest.raises(Refusal):
            approve(site, plan.hash, by=BY)
        assert key_of(hospital) is None
        assert [row["state"] for row in hospital.rows("approvals")] == ["pending"]
        assert hospital.rows("members") == []
        assert code_of(site, asking(plan)) == "pending"
