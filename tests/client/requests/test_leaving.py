"""A study finds whoever is there and can pay, and goes on with whoever is left."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.administration.service import approve, opt_out, stop
from client.consent.decisions import freeze_pending
from client.data.cohort import Cohort
from client.records.accounts import join
from client.records.approvals import Approval
from client.records.membership import paying_members
from client.requests.handler import answer
from client.site import Site
from client.training.local import local_change
from common.wire.messages import Purpose, Request
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    plan_for,
    proposal,
    write_images,
)
from tests.common.studies import exit_code, small_study

STUDY = small_study()


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north")


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


@pytest.mark.parametrize("change", ["a patient more", "a patient less", "a label", "a pixel"])
def test_a_study_goes_on_with_whoever_is_left_of_the_frozen_cohort(
    hospital: Hospital, change: str
) -> None:
    """Who comes later is not in it; who is not as on that day leaves, and has paid until then."""
    hospital.split = (1.0, 0.0, 0.0)
    with hospital.open() as site:
        plan = approved(site, STUDY)
        assert code_of(site, asking(plan)) == "ok"
        changed = site.pseudonyms.of("P99" if change == "a patient more" else "P00")
    labels = hospital.folder / "labels.csv"
    first = hospital.folder / "images" / "P00-0.dcm"
    if change == "a patient more":
        write_images(hospital.folder, hospital.patients | {"P99": 1})
    elif change == "a patient less":
        first.unlink()
    elif change == "a label":
        lines = labels.read_text().splitlines()
        lines[1] = lines[1].replace("normal", "pneumonia")
        labels.write_text("\n".join(lines))
    else:
        content = bytearray(first.read_bytes())
        content[-1] ^= 1
        first.write_bytes(content)
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "ok"
        assert code_of(site, proposal(plan)) == "ok"
        members = {row["patient"]: row for row in hospital.rows("members")}
        rest = [row["until"] for name, row in members.items() if name != changed]
        assert rest == [None] * (24 if change == "a patient more" else 23)
        if change == "a patient more":
            assert changed not in members
        else:
            assert members[changed]["until"] == 1
        assert len(hospital.rows("charges")) == 2


def test_no_account_is_looked_at_in_a_round(hospital: Hospital) -> None:
    """Who stands in both studies and cannot pay for the second is not in the second."""
    hospital.policy, hospital.split = {"max_epsilon_total": 10.0}, (1.0, 0.0, 0.0)
    other = small_study(study={"title": "Another"})
    with hospital.open() as site:
        plan, second = approved(site, STUDY), approved(site, other)
        codes = [code_of(site, asking(each, n)) for n in (1, 2, 3) for each in (plan, second)]
        assert codes == ["ok"] * 6
        assert [each.left_out for each in site.approvals.all()] == [0, 24]
        assert site.ledger.most_spent(site.file.policy.limits) <= 10.0
    assert len(hospital.rows("charges")) == 6


def test_a_round_that_was_reserved_before_a_crash_is_computed_on_whoever_is_left(
    hospital: Hospital,
) -> None:
    """The same charge; the noise is other noise, since it meets other patients."""
    hospital.split = (1.0, 0.0, 0.0)
    with hospital.open() as site:
        request = asking(approved(site, STUDY))
    copy = shutil.copytree(hospital.folder, hospital.folder.with_name("undisturbed"))
    undisturbed = Hospital(copy, hospital.patients, split=hospital.split)

    def ask() -> object:
        with hospital.open() as site:
            return answer(site, request)

    assert exit_code(ask, kill_at="reservation.made:1") == -signal.SIGKILL
    (hospital.folder / "images" / "P00-0.dcm").unlink()
    with hospital.open() as site, undisturbed.open() as beside:
        reply, whole = answered(site, request), answered(beside, request)
        (row,) = hospital.rows("charges")
        gone = site.pseudonyms.of("P00")
    assert row["state"] == "committed"
    assert reply.arrays is not None
    assert whole.arrays is not None
    assert reply.arrays.tobytes() != whole.arrays.tobytes()
    assert {row["patient"]: row["until"] for row in hospital.rows("members")}[gone] == 1
    assert [row["until"] for row in hospital.rows("members")].count(None) == 23


def test_a_stored_reply_is_sent_again_unchanged_whoever_left_since(site: Site) -> None:
    plan = approved(site, STUDY)
    first = answered(site, asking(plan))
    opt_out(site, ["P01", "P02"], by="the administrator")
    assert answered(site, asking(plan)).signature == first.signature
    assert code_of(site, asking(plan, 2)) == "ok"


def test_a_part_of_nobody_is_answered_and_charged_as_any_other(hospital: Hospital) -> None:
    hospital.split = (0.0, 0.0, 1.0)
    with hospital.open() as site:
        plan = approved(site, STUDY)
        asked = [*(asking(plan, number) for number in (1, 2, 3)), asking(plan, 3, "evaluate")]
        replies = [answered(site, request) for request in asked]
    assert [reply.code for reply in replies] == ["ok"] * 4
    assert all(reply.arrays is not None and np.abs(reply.arrays).max() > 0 for reply in replies)
    assert len(hospital.rows("charges")) == 4


def test_noise_is_keyed_to_who_is_in_the_round_now(hospital: Hospital) -> None:
    """One weight and the same arrays, with one patient less: other noise, in that part alone."""
    with hospital.open() as site:
        plan = approved(site, STUDY)
        cohort = site.cohorts.read(STUDY)
        known = {site.pseudonyms.of(name): name for name in hospital.patients}
        (someone, *_) = (known[each.pseudonym] for each in cohort.part("train"))
    copy = shutil.copytree(hospital.folder, hospital.folder.with_name("less"))
    less = Hospital(copy, hospital.patients)
    with hospital.open() as site, less.open() as other:
        opt_out(other, [someone], by="the administrator")
        purposes: tuple[tuple[Purpose, bool], ...] = (("train", False), ("evaluate", True))
        for purpose, same in purposes:
            request = asking(plan, 3, purpose)
            one, two = answered(site, request).arrays, answered(other, request).arrays
            assert one is not None
            assert two is not None
            assert (one.tobytes() == two.tobytes()) is same


def test_a_proposal_is_answered_before_any_patient_is_read(hospital: Hospital) -> None:
    """There is no image and no label, and nobody could pay: the answer is the same."""
    hospital.policy = {"max_epsilon_total": 1.0}
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        shutil.rmtree(hospital.folder / "images")
        (hospital.folder / "labels.csv").unlink()
        assert code_of(site, proposal(plan)) == "ok"
        assert hospital.rows("members") == []
        assert code_of(site, asking(plan)) == "silence"
        assert hospital.rows("charges") == []
        write_images(hospital.folder, hospital.patients)
        assert code_of(site, asking(plan)) == "ok"
        assert hospital.rows("approvals")[0]["left_out"] == 24


def test_what_a_proposal_approved_is_frozen_when_its_answer_has_left(site: Site) -> None:
    plan = approved(site, STUDY)
    assert not site.approvals.require(plan.hash).frozen
    freeze_pending(site)
    assert site.approvals.require(plan.hash).frozen
    assert sum(site.ledger.members(plan.hash).values()) == 24


def test_no_more_studies_run_at_once_than_the_policy_allows(hospital: Hospital) -> None:
    """Each sets aside what it may cost, and so a coordinator could lock all there is."""
    hospital.policy = {"max_open_studies": 2}
    with hospital.open() as site:
        plans = [plan_for(site, small_study(study={"name": f"s{each}"})) for each in range(3)]
        assert [code_of(site, proposal(plan)) for plan in plans] == ["ok", "ok", "policy"]
        assert code_of(site, Request("s0", plans[0].hash, 0, "close")) == "ok"
        assert code_of(site, proposal(plans[2])) == "ok"


def test_what_is_stopped_while_patients_are_read_is_not_charged(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person is at another process; by then the request has passed every gate."""
    plan = approved(site, STUDY)
    freeze_pending(site)
    read = site.cohorts.of

    def read_and_stopped(approval: Approval) -> Cohort:
        with hospital.open() as other:
            stop(other, "small", by="the administrator")
        return read(approval)

    monkeypatch.setattr(site.cohorts, "of", read_and_stopped)
    assert code_of(site, asking(plan)) == "silence"
    assert hospital.rows("charges") == []


def test_patients_that_another_process_froze_after_they_were_read_here_are_read_again(
    site: Site, hospital: Hospital
) -> None:
    """A worker that is as old as the approval before must not take the new ones for gone."""
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan)) == "ok"
    (hospital.folder / "images" / "P00-0.dcm").unlink()
    write_images(hospital.folder, hospital.patients | {"P99": 1})
    with hospital.open() as other:
        approve(other, "small", by="the administrator")
    assert code_of(site, asking(plan, 2)) == "ok"
    rows = {row["patient"]: row["until"] for row in hospital.rows("members")}
    assert rows[site.pseudonyms.of("P99")] is None
    assert list(rows.values()).count(None) == 25


def test_an_opt_out_of_one_identifier_takes_out_the_person_for_good(
    site: Site, hospital: Hospital
) -> None:
    """Whoever was joined once stays joined, also where the list of the site forgets it."""
    plan = approved(site, STUDY)
    freeze_pending(site)
    one, other = site.pseudonyms.of("P01"), site.pseudonyms.of("P02")
    join(site.store, {other: one})
    left = opt_out(site, ["P02"], by="the administrator")
    assert left.left == ("small",)
    assert code_of(site, asking(plan)) == "ok"
    gone = {row["patient"] for row in hospital.rows("members") if row["until"] is not None}
    assert gone == {one, other}
    assert not {one, other} & {each.pseudonym for each in site.cohorts.read(STUDY).patients}


def test_who_turns_out_to_be_one_person_leaves_as_two_and_comes_back_as_one(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, small_study(privacy={"epsilon": 2.0}))
    assert code_of(site, asking(plan)) == "ok"
    (hospital.folder / "same.txt").write_text("P02, P04\n")
    hospital.same_person = "same.txt"
    # Two in one round cost more than twice as much.
    hospital.policy = {"max_epsilon_total": 20.0, "max_epsilon_per_study": 20.0}
    with hospital.open() as again:
        assert code_of(again, asking(plan, 2)) == "ok"
        one, other = again.pseudonyms.of("P02"), again.pseudonyms.of("P04")
        gone = {row["patient"]: row["until"] for row in hospital.rows("members")}
        assert (gone[one], gone[other]) == (1, 1)
        approve(again, "small", by="the administrator")
        present = {row["patient"] for row in hospital.rows("members") if row["until"] is None}
        assert one in present
        assert other not in present
    assert [(row["patient"], row["person"]) for row in hospital.rows("joins")] == [(other, one)]


@pytest.mark.parametrize("change", ["erased", "other pixels", "other label"])
def test_who_changes_while_the_site_is_open_is_not_in_the_next_round(
    site: Site, hospital: Hospital, change: str
) -> None:
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan)) == "ok"
    file, labels = hospital.folder / "images" / "P00-0.dcm", hospital.folder / "labels.csv"
    if change == "erased":
        file.unlink()
    elif change == "other pixels":
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    else:
        labels.write_text(labels.read_text().replace("normal", "pneumonia", 1))
    assert code_of(site, asking(plan, 2)) == "ok"
    rows = {row["patient"]: row["until"] for row in hospital.rows("members")}
    assert rows.pop(site.pseudonyms.of("P00")) == 1
    assert set(rows.values()) == {None}


def test_nobody_leaves_for_a_folder_that_was_exchanged_while_the_site_is_open(
    site: Site, hospital: Hospital
) -> None:
    """A disk that was unmounted leaves an empty folder behind."""
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan)) == "ok"
    images = hospital.folder / "images"
    images.rename(hospital.folder / "away")
    images.mkdir()
    assert code_of(site, asking(plan, 2)) == "silence"
    images.rmdir()
    (hospital.folder / "away").rename(images)
    assert code_of(site, asking(plan, 2)) == "ok"
    assert {row["until"] for row in hospital.rows("members")} == {None}


def test_who_left_does_not_come_back_when_the_files_do(site: Site, hospital: Hospital) -> None:
    hospital.split = (1.0, 0.0, 0.0)
    with hospital.open() as opened:
        plan = approved(opened, STUDY)
        assert code_of(opened, asking(plan)) == "ok"
        file = hospital.folder / "images" / "P00-0.dcm"
        content = file.read_bytes()
        file.unlink()
        assert code_of(opened, asking(plan, 2)) == "ok"
        file.write_bytes(content)
        assert code_of(opened, asking(plan, 3)) == "ok"
        cohort = opened.cohorts.read(STUDY)
        charge = hospital.rows("charges")[-1]["identity"]
        there = paying_members(opened.store, plan.hash, cohort, "train", charge)
        assert set(cohort.patients) - set(there) == {
            each for each in cohort.patients if each.pseudonym == site.pseudonyms.of("P00")
        }
        assert len(there) == 23


def test_who_came_after_a_round_was_reserved_is_not_in_it_and_pays_from_the_next(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash the round is computed for those who pay it, though somebody approved anew."""
    seen: list[int] = []

    def watching(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has them
        seen.append(len(given[3]))
        return local_change(*given, **named)

    def dying(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    hospital.split = (1.0, 0.0, 0.0)
    with hospital.open() as opened:
        plan = approved(opened, STUDY)
        assert code_of(opened, asking(plan)) == "ok"
        monkeypatch.setattr("client.requests.round.local_change", dying)
        with pytest.raises(KeyboardInterrupt):
            code_of(opened, asking(plan, 2))
    write_images(hospital.folder, hospital.patients | {f"P{n}": 1 for n in range(50, 60)})
    monkeypatch.setattr("client.requests.round.local_change", watching)
    with hospital.open() as opened:
        approve(opened, plan.study.study.name, by="a person")
        assert code_of(opened, asking(plan, 2)) == "ok"
        assert code_of(opened, asking(plan, 3)) == "ok"
    assert seen == [24, 34]
    since = [row["since"] for row in hospital.rows("members")]
    assert sorted(since) == [0] * 24 + [2] * 10


def test_a_round_that_another_process_answered_meanwhile_is_not_released_twice(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other released it and was acknowledged: its reply is stored no more."""
    with hospital.open() as slow, hospital.open() as quick:
        plan = approved(slow, STUDY)

        def overtaken(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has them
            monkeypatch.setattr("client.requests.round.local_change", local_change)
            assert code_of(quick, asking(plan)) == "ok"
            assert code_of(quick, asking(plan, 2, acknowledged=1)) == "ok"
            return local_change(*given, **named)

        monkeypatch.setattr("client.requests.round.local_change", overtaken)
        assert code_of(slow, asking(plan)) == "silence"
    assert [row["round"] for row in hospital.rows("charges")] == [1, 2]


def test_who_opts_out_while_patients_are_read_is_not_in_the_round(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list was edited by hand: nothing but a second look at it, in the transaction, tells."""
    hospital.split = (1.0, 0.0, 0.0)
    seen: list[int] = []

    def watching(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has them
        seen.append(len(given[3]))
        return local_change(*given, **named)

    with hospital.open() as opened:
        plan = approved(opened, STUDY)
        freeze_pending(opened)
        read = opened.cohorts.of

        def read_and_opted_out(approval: Approval) -> Cohort:
            cohort = read(approval)
            (opened.state / "opt-out.txt").write_text("P00\n")
            return cohort

        monkeypatch.setattr(opened.cohorts, "of", read_and_opted_out)
        monkeypatch.setattr("client.requests.round.local_change", watching)
        assert code_of(opened, asking(plan)) == "ok"
        gone = opened.pseudonyms.of("P00")
    assert seen == [23]
    left = [row for row in hospital.rows("members") if row["until"] is not None]
    assert [(row["patient"], row["until"]) for row in left] in ([], [(gone, 0)])


def test_who_opts_out_while_a_round_is_computed_has_paid_for_it_and_is_in_none_that_comes(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.split = (1.0, 0.0, 0.0)
    seen: list[int] = []

    def computing(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function has them
        seen.append(len(given[3]))
        if len(seen) == 1:
            with hospital.open() as other:
                opt_out(other, ["P00"], by="the administrator")
        return local_change(*given, **named)

    with hospital.open() as opened:
        plan = approved(opened, STUDY)
        monkeypatch.setattr("client.requests.round.local_change", computing)
        assert [code_of(opened, asking(plan, number)) for number in (1, 2)] == ["ok", "ok"]
        gone = opened.pseudonyms.of("P00")
    assert seen == [24, 23]
    assert {row["patient"]: row["until"] for row in hospital.rows("members")}[gone] == 1
