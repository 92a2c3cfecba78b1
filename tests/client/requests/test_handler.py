"""A site answers: each gate by itself, once for each request, and nothing but codes otherwise."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from client.administration.service import approve, stop
from client.records import audit_log
from client.requests.handler import answer_record
from client.site import Site
from client.training.local import local_change
from common.errors import RefusalCode
from common.plan import Plan, write_plan
from common.study.study_file import Study
from common.wire.flower import ConfigRecord, RecordDict
from common.wire.messages import (
    NO_SEAL,
    LedgerHead,
    Purpose,
    Reply,
    Request,
    reply_from_record,
    reply_to_bytes,
    request_to_record,
)
from common.wire.signing import verify
from tests.client.site_fixtures import (
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    offer_of,
    offer_request,
    plan_for,
    proposal,
    weights_of,
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


def test_outside_its_hours_a_site_is_silent_whatever_carries_the_messages(
    hospital: Hospital,
) -> None:
    now = datetime.now().astimezone()
    begin, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (-2, 2))
    with hospital.open() as site:
        plan = approved(site, STUDY)
    hospital.policy = {"hours": f"{end}-{begin}"}
    junk = RecordDict({"fields": ConfigRecord({"junk": b""})})
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == code_of(site, offer_request(STUDY)) == "silence"
        assert answer_record(site, junk, "train") is None
        silent = [each for each in audit_log.entries(site.state) if each.event == "message.silence"]
        assert [each.fields["why"] for each in silent] == ["outside the hours"] * 2
    hospital.policy = {"hours": f"{begin}-{end}"}
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"


def test_a_round_is_trained_charged_and_signed(site: Site, hospital: Hospital) -> None:
    plan = approved(site, STUDY)
    request = asking(plan)
    reply = answered(site, request)
    assert reply.code == "ok"
    assert (reply.site, reply.study, reply.round, reply.purpose) == ("north", "small", 1, "train")
    assert (reply.request, reply.plan_hash) == (request.identity, plan.hash)
    assert verify(site.key.public, reply.signed_bytes, reply.signature)
    assert reply.arrays is not None
    assert reply.arrays.dtype == np.int32
    assert reply.arrays.shape == (plan.weights,)
    assert reply.ledger == site.ledger.head()
    (charge,) = hospital.rows("charges")
    assert (charge["part"], charge["round"], charge["count"]) == ("train", 1, 2)
    assert charge["state"] == "committed"


def test_an_evaluation_is_a_noised_histogram_charged_to_validation(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    reply = answered(site, asking(plan, 3, "evaluate"))
    assert reply.arrays is not None
    assert reply.arrays.dtype == np.int64
    assert reply.arrays.shape == (8,)
    (charge,) = hospital.rows("charges")
    assert (charge["part"], charge["sampling_rate"]) == ("validation", 1.0)


def test_without_privacy_the_histogram_counts_every_validation_patient_once(
    hospital: Hospital,
) -> None:
    hospital.policy = {"allow_no_privacy": True}
    with hospital.open() as site:
        plan = approved(site, small_study(**FREE))
        reply = answered(site, asking(plan, 3, "evaluate"))
        patients = site.cohorts.read(plan.study).part("validation")
    assert reply.arrays is not None
    by_class = reply.arrays.reshape(2, 1, 4).sum(axis=(1, 2)).tolist()
    assert by_class == [sum(each.label == label for each in patients) for label in (0, 1)]


def test_the_same_request_gets_the_same_bytes_and_is_charged_once(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    first = reply_to_bytes(answered(site, asking(plan)))
    answered(site, asking(plan, 2, ledger=site.ledger.head()))
    site.close()
    with hospital.open() as reopened:
        again = asking(plan, ledger=reopened.ledger.head())
        assert reply_to_bytes(answered(reopened, again)) == first
    assert [row["round"] for row in hospital.rows("charges")] == [1, 2]


def test_after_its_acknowledgement_a_request_is_refused(site: Site, hospital: Hospital) -> None:
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan)) == "ok"
    assert code_of(site, asking(plan, 2, acknowledged=1)) == "ok"
    assert [row["round"] for row in hospital.rows("replies")] == [2]
    assert code_of(site, asking(plan)) == "round-out-of-order"
    assert code_of(site, asking(plan, 2)) == "ok"
    assert len(hospital.rows("charges")) == 2


def test_the_newest_round_is_not_released_again_once_it_was_acknowledged(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan, 3)) == "ok"
    assert code_of(site, asking(plan, 3, "evaluate", acknowledged=3)) == "ok"
    assert code_of(site, asking(plan, 3)) == "round-out-of-order"
    assert len(hospital.rows("charges")) == 2


def test_a_round_that_was_reserved_and_passed_over_stays_spent(
    site: Site, hospital: Hospital
) -> None:
    """A site that missed rounds joins again at the next one, and cannot be sent back."""
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan, 3)) == "ok"
    assert code_of(site, asking(plan, 2)) == "round-out-of-order"
    assert len(hospital.rows("charges")) == 1


Spoil = Callable[[Plan], dict[str, Any]]


def weights_like(plan: Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return weights_of(plan.study)


def with_nan(plan: Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    weights = weights_of(plan.study)
    weights[7] = np.nan
    return weights


GATES: list[tuple[str, Spoil, str]] = [
    ("another study's name", lambda _: {"study": "other"}, "wrong-plan"),
    ("an unknown plan", lambda _: {"plan_hash": "00" * 32}, "not-approved"),
    ("no plan", lambda _: {"plan_hash": ""}, "not-approved"),
    ("round zero", lambda _: {"round": 0}, "round-out-of-order"),
    ("a round after the last", lambda _: {"round": 4}, "round-out-of-order"),
    ("a longer ledger", lambda _: {"ledger": LedgerHead(1, "00" * 32)}, "ledger-behind"),
    ("another ledger", lambda _: {"ledger": LedgerHead(0, "00" * 32)}, "ledger-behind"),
    ("no weights", lambda _: {"arrays": None}, "malformed"),
    ("fewer weights", lambda plan: {"arrays": weights_like(plan)[:-1]}, "malformed"),
    ("weights of integers", lambda plan: {"arrays": np.zeros(plan.weights, "<i4")}, "malformed"),
    ("a weight that is none", lambda plan: {"arrays": with_nan(plan)}, "malformed"),
    ("text beside the weights", lambda _: {"document": "x"}, "malformed"),
]


@pytest.mark.parametrize(("spoil", "code"), [gate[1:] for gate in GATES], ids=[g[0] for g in GATES])
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_request_that_is_wrong_in_one_thing_alone_is_refused_and_costs_nothing(
    site: Site,
    hospital: Hospital,
    purpose: Purpose,
    spoil: Spoil,
    code: str,
) -> None:
    plan = approved(site, STUDY)
    sound = asking(plan, 3, purpose)
    assert code_of(site, replace(sound, **spoil(plan))) == code
    assert hospital.rows("charges") == hospital.rows("replies") == []
    assert code_of(site, sound) == "ok"


def test_an_evaluation_that_the_plan_does_not_foresee_is_refused(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan, 2, "evaluate")) == "round-out-of-order"
    assert hospital.rows("charges") == []


def test_the_same_round_with_other_arrays_is_a_conflict_and_is_logged(
    site: Site, hospital: Hospital
) -> None:
    plan = approved(site, STUDY)
    assert code_of(site, asking(plan)) == "ok"
    with structlog.testing.capture_logs() as logs:
        assert code_of(site, asking(plan, seed=1)) == "round-conflict"
    assert [(each["event"], each["code"]) for each in logs] == [
        ("request.refused", "round-conflict")
    ]
    assert len(hospital.rows("charges")) == len(hospital.rows("replies")) == 1


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"max_epsilon_per_study": 7.0}, "policy"),
        ({"delta": 1e-6}, "policy"),
        ({"min_sites": 3}, "policy"),
        ({"tasks": []}, "policy"),
    ],
    ids=str,
)
def test_a_policy_that_was_tightened_holds_for_studies_already_approved(
    hospital: Hospital, policy: dict[str, Any], code: str
) -> None:
    with hospital.open() as site:
        plan = approved(site, STUDY)
    hospital.policy = policy
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == code
    assert hospital.rows("charges") == []


def test_other_numerics_than_planned_are_refused(hospital: Hospital) -> None:
    with hospital.open() as site:
        plan = approved(site, STUDY)
    hospital.threads = 2
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "numerics"
    assert hospital.rows("charges") == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda _: {"document": "{}"}, "malformed"),
        (lambda plan: {"document": plan.text + "\n"}, "malformed"),
        (lambda _: {"plan_hash": "00" * 32}, "wrong-plan"),
        (lambda _: {"study": "other"}, "wrong-plan"),
        (lambda _: {"ledger": LedgerHead(1, "00" * 32)}, "ledger-behind"),
    ],
)
def test_a_proposal_must_be_about_the_plan_it_carries(
    site: Site, hospital: Hospital, spoil: Spoil, code: str
) -> None:
    plan = plan_for(site, STUDY)
    assert code_of(site, replace(proposal(plan), **spoil(plan))) == code
    assert hospital.rows("approvals") == []
    assert code_of(site, proposal(plan)) == "ok"


def test_a_plan_with_less_noise_than_its_study_needs_is_not_approved(
    site: Site, hospital: Hospital
) -> None:
    plan = plan_for(site, STUDY)
    quieter = plan.mechanism.model_copy(update={"cell_noise": 0.0})
    assert code_of(site, proposal(plan.model_copy(update={"mechanism": quieter}))) == "wrong-plan"
    assert hospital.rows("approvals") == hospital.rows("members") == []


def test_a_plan_waits_where_a_person_decides(hospital: Hospital) -> None:
    hospital.policy = {"approval": "ask"}
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        assert code_of(site, proposal(plan)) == "pending"
        assert code_of(site, proposal(plan)) == "pending"
        assert code_of(site, asking(plan)) == "pending"
    (waiting,) = hospital.rows("approvals")
    assert (waiting["state"], waiting["study_key"]) == ("pending", None)
    assert hospital.rows("charges") == []


def test_proposing_an_approved_plan_again_changes_nothing(site: Site, hospital: Hospital) -> None:
    plan = approved(site, STUDY)
    before = hospital.rows("approvals"), hospital.rows("members")
    assert code_of(site, proposal(plan)) == "ok"
    assert (hospital.rows("approvals"), hospital.rows("members")) == before


def test_a_closed_study_is_over_its_key_erased_and_its_replies_forgotten(
    hospital: Hospital,
) -> None:
    hospital.seed = None
    with hospital.open() as site:
        plan = approved(site, STUDY)
        (row,) = hospital.rows("approvals")
        assert code_of(site, asking(plan, 3)) == "ok"
        close = Request("small", plan.hash, 3, "close", acknowledged=3)
        assert code_of(site, close) == "ok"
        files = [each for each in hospital.state.glob("site.sqlite*") if each.is_file()]
        assert not any(row["study_key"] in each.read_bytes() for each in files)
        assert hospital.rows("replies") == []
        for late in (asking(plan, 3), asking(plan, 3, "evaluate"), proposal(plan)):
            assert code_of(site, late) == "not-approved"
        assert code_of(site, close) == "ok"
    assert len(hospital.rows("charges")) == 1


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("", "malformed"),
        ("{}", "malformed"),
        ("[" * 100_000, "malformed"),
        (small_study(data={"dataset": "hand"}), "data-unavailable"),
        (small_study(data={"image_size": [4, 4]}, model={"widths": [4, 4, 4]}), "malformed"),
        (small_study(data={"image_size": [4096, 4096]}, model={"hidden": 65_536}), "malformed"),
    ],
)
def test_an_offer_is_made_for_a_study_that_can_be_read_and_served(
    site: Site, document: str | Study, code: str
) -> None:
    if isinstance(document, Study):
        request = offer_request(document)
    else:
        request = Request("small", "", 0, "offer", document=document)
    assert code_of(site, request) == code


def everything_but_the_release(reply: Reply) -> Reply:
    """The seal is never twice the same."""
    return replace(reply, arrays=None, seal=NO_SEAL, signature=b"")


def test_with_one_patient_more_nothing_differs_but_the_private_results(tmp_path: Path) -> None:
    """Plan, hash, q, noise, steps, weight, offer, ledger heads, every field of every reply."""
    patients = {f"P{number:02}": 1 + number % 3 for number in range(24)}
    seen = []
    for name, cohort in (("n", patients), ("n+1", patients | {"P24": 2})):
        hospital = Hospital(tmp_path / name, cohort)
        with hospital.open() as site:
            part = site.file.data["chest-xray"].parts.part_of(site.pseudonyms.of("P24"))
            plan = plan_for(site, STUDY)
            requests = [
                offer_request(STUDY),
                proposal(plan),
                *(asking(plan, number) for number in (1, 2, 3)),
                asking(plan, 3, "evaluate"),
                asking(plan, 2, seed=5),
                Request("small", plan.hash, 3, "close", acknowledged=3),
            ]
            replies = [answered(site, request) for request in requests]
            counted = len(site.cohorts.read(STUDY).patients)
        charges = [
            {key: value for key, value in row.items() if key != "reserved_at"}
            for row in hospital.rows("charges")
        ]
        seen.append((counted, plan, replies, charges))
    assert part in ("train", "validation")
    (fewer, plan, replies, charges), (more, plan_more, replies_more, charges_more) = seen
    assert more == fewer + 1
    assert plan_more == plan
    assert plan_more.hash == plan.hash
    assert charges_more == charges
    assert [each.code for each in replies] == ["ok"] * 6 + ["round-out-of-order", "ok"]
    for one, other in zip(replies, replies_more, strict=True):
        assert everything_but_the_release(other) == everything_but_the_release(one)
        released = one.arrays is not None
        assert (other.arrays is not None) == released
        if one.arrays is not None and other.arrays is not None:
            assert (one.arrays.dtype, one.arrays.shape) == (other.arrays.dtype, other.arrays.shape)
            # In the other part nothing differs to the last bit.
            concerned = (one.purpose == "train") == (part == "train")
            assert (one.arrays.tolist() != other.arrays.tolist()) is concerned


def test_noise_never_meets_other_arrays_rounds_plans_or_patients(tmp_path: Path) -> None:
    """A hundred thousand declared patients: batches are empty and the update is the noise."""
    study = small_study(training={"batch_size": 1, "learning_rate": 5.0}, privacy={"delta": 1e-7})
    other_study = small_study(
        study={"title": "Another"},
        training={"batch_size": 1, "learning_rate": 5.0},
        privacy={"delta": 1e-7},
    )
    patients = {"P00": 1, "P01": 1, "P03": 1}

    def noise(
        place: str, cohort: dict[str, int], plan_study: Study, number: int = 1, seed: int = 0
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        folder = tmp_path / place
        hospital = Hospital(folder, cohort, declared=100_000, policy={"delta": 1e-7})
        with hospital.open() as site:
            reply = answered(site, asking(approved(site, plan_study), number, seed=seed))
        assert reply.arrays is not None
        assert np.abs(reply.arrays).min() > 0
        return reply.arrays

    first = noise("first", patients, study)
    assert noise("again", patients, study).tobytes() == first.tobytes()
    others = [
        noise("other weights", patients, study, seed=1),
        noise("other round", patients, study, number=2),
        noise("other plan", patients, other_study),
        noise("other patients", patients | {"P05": 1}, study),
    ]
    correlations = np.corrcoef(np.stack([first, *others])) - np.eye(5)
    assert np.abs(correlations).max() < 0.5


def read(record: RecordDict | None) -> Reply:
    assert record is not None
    return reply_from_record(record)


def test_a_record_that_is_no_request_gets_a_signed_code(site: Site) -> None:
    for content in (RecordDict(), RecordDict({"fields": ConfigRecord({"round": 1})})):
        reply = read(answer_record(site, content, "train"))
        assert (reply.code, reply.purpose, reply.round) == ("malformed", "train", 0)
        assert verify(site.key.public, reply.signed_bytes, reply.signature)


def test_a_request_in_a_message_of_another_purpose_is_refused(
    site: Site, hospital: Hospital
) -> None:
    content = request_to_record(asking(approved(site, STUDY)))
    assert read(answer_record(site, content, "evaluate")).code == "malformed"
    assert hospital.rows("charges") == []
    assert read(answer_record(site, content, "train")).code == "ok"


def test_refusals_differ_in_their_code_alone(site: Site) -> None:
    """Nothing else of a refusal says why: it repeats what was asked and the two heads."""
    plan = approved(site, STUDY)
    sound = asking(plan)
    for request in (replace(sound, round=9), replace(sound, arrays=None)):
        reply = answered(site, request)
        assert reply.code in set(RefusalCode)
        assert reply == replace(
            Reply(
                site="north",
                request=request.identity,
                study="small",
                plan_hash=plan.hash,
                round=request.round,
                purpose="train",
                ledger=LedgerHead(),
                seal=reply.seal,
            ),
            code=reply.code,
            signature=reply.signature,
        )


def test_a_plan_written_for_another_site_is_refused(tmp_path: Path, site: Site) -> None:
    south = Hospital(tmp_path / "south", {"P00": 1}, name="south")
    with south.open() as other:
        offer = offer_of(other, STUDY)
    plan = write_plan(STUDY, offer, 106)
    assert code_of(site, proposal(plan)) == "wrong-plan"


def test_an_approved_study_keeps_its_kernels_whatever_is_measured_later(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", kernels="measured")
    with hospital.open() as site:
        plan = approved(site, STUDY)
    (hospital.state / "kernels.json").unlink()
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"
    assert not (hospital.state / "kernels.json").exists()


def test_another_choice_of_kernels_than_the_sites_own_is_not_approved(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        offer = offer_of(site, STUDY)
        choice = offer.numerics.choice.model_copy(update={"tile": 3})
        numerics = offer.numerics.model_copy(update={"choice": choice})
        changed = offer.model_copy(update={"numerics": numerics})
        plan = write_plan(STUDY, changed, plan_for(site, STUDY).weights)
        assert code_of(site, proposal(plan)) == "numerics"


def test_a_study_that_does_not_fit_into_memory_costs_nothing(tmp_path: Path) -> None:
    training = {"images_per_patient": 64, "augmentation": {"copies": 4, "flip": True}}
    study = small_study(training=training, data={"image_size": [512, 512]})
    with Hospital(tmp_path / "north").open() as site:
        assert code_of(site, offer_request(study)) == "policy"
        assert site.ledger.head() == LedgerHead()


def test_what_is_stopped_while_it_is_computed_does_not_leave(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person is at another process; the round stays spent."""
    plan = approved(site, STUDY)

    def trained_and_stopped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is called
        with hospital.open() as other:
            stop(other, "small", by="the administrator")
        return local_change(*arguments, **named)

    monkeypatch.setattr("client.requests.round.local_change", trained_and_stopped)
    assert code_of(site, asking(plan)) == "silence"
    assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]
    assert hospital.rows("replies") == []


def test_what_is_stopped_and_approved_anew_while_it_is_computed_does_not_leave(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new approval has a new study key and another cohort: what the old one made is not its."""
    hospital.seed = None

    def trained_and_renewed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is called
        with hospital.open() as other:
            stop(other, "small", by="the administrator")
            approve(other, "small", by="the administrator")
        return local_change(*arguments, **named)

    with hospital.open() as site:
        plan = approved(site, STUDY)
        with monkeypatch.context() as patched:
            patched.setattr("client.requests.round.local_change", trained_and_renewed)
            assert code_of(site, asking(plan)) == "silence"
        assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]
        assert hospital.rows("replies") == []
        assert code_of(site, asking(plan)) == "ok"
    assert [row["state"] for row in hospital.rows("charges")] == ["committed"]


@pytest.mark.parametrize(
    "fails", ["INSERT ON replies", "UPDATE ON charges"], ids=["the reply", "the charge"]
)
def test_a_charge_is_committed_together_with_its_reply_or_not_at_all(
    site: Site, hospital: Hospital, fails: str
) -> None:
    """Where the database fails in between, the round is asked again and answered then."""
    plan = approved(site, STUDY)
    site.store.execute(
        f"CREATE TEMP TRIGGER broken BEFORE {fails} BEGIN SELECT RAISE(FAIL, 'disk full'); END"
    )
    assert code_of(site, asking(plan)) == "silence"
    assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]
    assert hospital.rows("replies") == []
    site.store.execute("DROP TRIGGER broken")
    assert code_of(site, asking(plan)) == "ok"
    assert [row["state"] for row in hospital.rows("charges")] == ["committed"]
    assert len(hospital.rows("replies")) == 1


@pytest.mark.parametrize("killed_at", ["put", "commit"])
def test_a_kill_between_the_charge_and_its_reply_leaves_both_undone(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    with hospital.open() as site:
        plan = approved(site, STUDY)

    def child() -> None:
        def dying(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with hospital.open() as opened:
            part = opened.replies if killed_at == "put" else opened.ledger
            monkeypatch.setattr(part, killed_at, dying)
            answer_record(opened, request_to_record(asking(plan)), "train")

    assert exit_code(child) == -signal.SIGKILL
    assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]
    assert hospital.rows("replies") == []
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"


def test_what_came_is_on_the_disk_before_a_round_is_computed_and_what_goes_before_it_leaves(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk is what the file held when it was last synced."""
    plan, on_disk = approved(site, STUDY), [0]
    log, really = site.audit.path, os.fsync

    def syncing(file: int) -> None:
        really(file)
        if os.path.sameopenfile(file, there.fileno()):
            on_disk.append(os.fstat(file).st_size)

    def events() -> list[str]:
        lines = log.read_bytes()[: on_disk[-1]].splitlines()
        return [json.loads(line)["event"] for line in lines[-2:]]

    seen: list[list[str]] = []

    def computing(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is called
        seen.append(events())
        return local_change(*arguments, **named)

    with log.open("rb") as there:
        monkeypatch.setattr(os, "fsync", syncing)
        monkeypatch.setattr("client.requests.round.local_change", computing)
        answered(site, asking(plan))
        assert on_disk[-1] == log.stat().st_size
        assert events() == ["round.charged", "message.out"]
        assert code_of(site, asking(plan, seed=1)) == "round-conflict"
        assert on_disk[-1] == log.stat().st_size
    assert seen == [["message.in", "round.charged"]]
