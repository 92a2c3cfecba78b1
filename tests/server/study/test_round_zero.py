"""Round zero: who takes part, under which plan, and what stops a study before it begins."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy

from common.errors import CheckpointError, RefusalCode, RoundError, StudyError
from common.files import canonical_json, sha256
from common.numerics import Ticks
from common.plan import Offer, read_plan
from common.study.study_file import PatientPrivacy, load_study
from common.wire.messages import Reply, Request
from server.study.context import StudyContext
from server.study.round_zero import make_plans

if TYPE_CHECKING:
    from tests.server.conftest import World


def test_a_plan_is_durable_before_it_is_proposed(world: World) -> None:
    plans: dict[str, str] = {}

    def look(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "propose":
            stored = json.loads((world.coordinator / "plans.json").read_bytes())
            plans[site] = sha256(canonical_json(stored["plans"][site]))
            assert plans[site] == request.plan_hash == sha256(request.document.encode())
        return reply

    world.alter = look
    world.run()
    assert plans.keys() == world.patients.keys()


def test_weights_and_warnings_of_the_plans_stand_in_the_outcome(world: World) -> None:
    outcome = world.run()
    assert {site: facts["weight"] for site, facts in outcome["sites"].items()} == world.patients
    assert {site: facts["epsilon"] for site, facts in outcome["sites"].items()} == {
        "north": None,
        "south": None,
        "west": None,
    }
    assert [note.split(":")[0] for note in outcome["warnings"]] == ["NOT PRIVATE"] * 2


FEW = (
    "a site has fewer patients than the study requires "
    "(40 declared patients, wanted at least 50 ([data] min_patients))"
)


def test_a_hospital_with_too_few_patients_is_gone_without(world: World) -> None:
    world.patients["south"] = 40
    told: list[object] = []
    outcome = world.run(
        observer=lambda event, fields: (
            told.extend((fields["reason"], fields["do"])) if event == "site.absent" else None
        )
    )
    assert told == [FEW, "leave the site out of the study, or lower min_patients"]
    assert outcome["sites"].keys() == {"north", "west"}
    assert {(each["site"], each["reason"]) for each in outcome["absences"]} == {("south", FEW)}


SLOW = "a site's rounds take longer than the study waits for a reply"


@pytest.mark.parametrize("ticks", [Ticks(train=300), Ticks(train=100, evaluate=300)])
def test_a_hospital_whose_tick_is_as_long_as_a_round_is_waited_for_is_gone_without(
    world: World, ticks: Ticks
) -> None:
    """Each of its replies would come too late, and cost its patients all the same."""
    world.ticks["south"] = ticks
    outcome = world.run()
    reason = f"{SLOW} (a time slot (tick) of 0.3 s, wanted less than 0.3s)"
    assert outcome["sites"].keys() == {"north", "west"}
    assert {(each["site"], each["reason"]) for each in outcome["absences"]} == {("south", reason)}
    assert {each.purpose for site, each in world.asked if site == "south"} == {"offer"}


def test_a_hospital_that_does_not_evaluate_may_take_long_for_it(world: World) -> None:
    world.ticks["south"], world.evaluations = Ticks(train=299, evaluate=10**6), '"none"'
    assert world.run()["absences"] == []


def test_too_few_hospitals_with_enough_patients_stop_the_study_before_anything_is_written(
    world: World,
) -> None:
    world.patients |= {"south": 40, "north": 40}
    with pytest.raises(RoundError) as caught:
        world.run()
    assert f"south: {FEW}" in caught.value.details["found"]
    assert caught.value.details["where"] == "study small"
    assert not world.coordinator.exists()


MORE = (
    "a site declares more patients than were agreed on "
    "(1000000000 declared patients, wanted at most 60, as agreed)"
)


def test_a_hospital_that_declares_more_than_was_agreed_on_is_gone_without(world: World) -> None:
    world.agreed = dict(world.patients)
    world.patients["south"] = 10**9
    told: list[object] = []
    outcome = world.run(
        observer=lambda event, fields: (
            told.extend((fields["reason"], fields["do"])) if event == "site.absent" else None
        )
    )
    assert told == [
        MORE,
        "call the site; if the number is right, run: consilium-coordinator agree south chest-xray "
        "1000000000; then resume the study if it has failed, or start it under another name if it "
        "goes on without this site",
    ]
    assert outcome["left_out"] == {"south": MORE}
    assert {site: each["weight"] for site, each in outcome["sites"].items()} == {
        "north": 100,
        "west": 210,
    }
    assert {request.purpose for site, request in world.asked if site == "south"} == {"offer"}


def test_a_hospital_may_declare_less_than_was_agreed_on(world: World) -> None:
    world.agreed = dict(world.patients)
    world.patients["south"] = 59
    assert world.run()["sites"]["south"]["weight"] == 59


def test_a_hospital_with_which_nothing_was_agreed_may_declare_nobody(world: World) -> None:
    study = load_study(world.study_file)
    context = StudyContext(
        world.grid(), {site: world.key(site).public for site in world.patients}, "1s"
    )
    plans, absences = make_plans(context, study, 100, {"north": 100, "west": 210})
    assert plans.keys() == {"north", "west"}
    assert absences["south"] == (
        "a site declares more patients than were agreed on "
        "(60 declared patients, wanted an agreed number: none was agreed on yet)"
    )


def test_why_a_site_was_left_out_is_known_after_a_restart(world: World) -> None:
    world.agreed = dict(world.patients)
    world.patients["south"] = 10**9
    world.killed_at("update.folded:2")
    outcome = world.run(resume=True)
    assert outcome["left_out"] == {"south": MORE}
    assert {each["reason"] for each in outcome["absences"]} == {MORE}


def test_weights_are_told_before_round_one_and_again_of_those_that_approved(world: World) -> None:
    def declines(site: str, request: Request, reply: Reply) -> Reply:
        if site == "south" and request.purpose == "propose":
            return world.sign(replace(reply, code=str(RefusalCode.NOT_APPROVED)))
        return reply

    world.alter = declines
    told: list[tuple[str, object]] = []
    world.run(observer=lambda event, fields: told.append((event, fields.get("shares"))))
    events = [event for event, _ in told]
    assert events.index("weights.settled") < events.index("round.started")
    shares = dict(told)
    assert shares["study.started"] == {
        "north": {"patients": 100, "weight": 100, "share": 100 / 370},
        "south": {"patients": 60, "weight": 60, "share": 60 / 370},
        "west": {"patients": 210, "weight": 210, "share": 210 / 370},
    }
    assert shares["weights.settled"] == {
        "north": {"patients": 100, "weight": 100, "share": 100 / 310},
        "west": {"patients": 210, "weight": 210, "share": 210 / 310},
    }


def test_a_capped_share_stands_in_the_plans_and_holds_in_every_round(world: World) -> None:
    """West may count 160 beside 100 and 60, and 60 beside 60: the sum is theirs by hand."""

    def units(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "train" or request.arrays is None:
            return reply
        if site == "north" and request.round > 1:
            return reply.with_signature(b"")
        value = {"north": 0, "south": -(2**22), "west": 2**22}[site]
        return world.sign(
            replace(reply, arrays=np.full(request.arrays.size, value, dtype=np.int32))
        )

    world.alter, world.rounds, world.evaluations = units, 2, '"none"'
    world.aggregation = 'strategy = "fedavg"\naverage_decay = 0.0\nmax_share = 0.5\n'
    outcome = world.run()
    assert {site: each["weight"] for site, each in outcome["sites"].items()} == {
        "north": 100,
        "south": 60,
        "west": 160,
    }
    proposed = {
        site: read_plan(request.document).weight
        for site, request in world.asked
        if request.purpose == "propose"
    }
    assert proposed == {"north": 100, "south": 60, "west": 160}
    assert outcome["shares"]["west"] == {"patients": 210, "weight": 160, "share": 0.5}
    sent = {
        request.round: request.arrays
        for _, request in world.asked
        if request.purpose == "train" and request.arrays is not None
    }
    final = safetensors.numpy.load_file(world.coordinator / "final.safetensors")["weights"]
    np.testing.assert_allclose(sent[2] - sent[1], 0.25 * (160 - 60) / 320, atol=2**-20)
    np.testing.assert_array_equal(final, sent[2])


def test_a_hospital_where_epsilon_cannot_be_reached_is_gone_without(world: World) -> None:
    """With 50 patients each of 400 steps shows a third of them; with 50 000, next to none."""
    world.rounds, world.evaluations = 400, "[400]"
    study = load_study(world.study_file)
    privacy = PatientPrivacy(mode="patient", epsilon=0.1, delta=1e-6, clip_norm=1.0)
    study = study.model_copy(update={"privacy": privacy})
    world.patients = {"north": 50, "south": 50_000, "west": 50_000}
    context = StudyContext(
        world.grid(), {site: world.key(site).public for site in world.patients}, "1s"
    )
    plans, absences = make_plans(context, study, 100, world.patients)
    assert list(plans) == ["south", "west"]
    assert absences["north"].startswith("this epsilon cannot be reached")


def test_a_sum_that_could_overflow_stops_the_study(world: World) -> None:
    world.aggregation = '[fixed_point]\ndtype = "int64"\n'
    world.patients = {"north": 40_000, "south": 30_000}
    with pytest.raises(StudyError, match="overflow"):
        world.run()
    assert not world.coordinator.exists()


def test_a_site_that_does_not_approve_is_left_out_and_named(world: World) -> None:
    def declines(site: str, request: Request, reply: Reply) -> Reply:
        if site == "south" and request.purpose == "propose":
            return world.sign(replace(reply, code=str(RefusalCode.NOT_APPROVED)))
        return reply

    world.alter = declines
    outcome = world.run()
    reasons = {absence["reason"] for absence in outcome["absences"]}
    assert reasons == {"refused: has not approved the plan (not-approved)"}
    trained = {site for site, request in world.asked if request.purpose == "train"}
    assert trained == {"north", "west"}


def test_too_few_approvals_stop_the_study_and_a_resume_proposes_the_same_plans(
    world: World,
) -> None:
    def declines(site: str, request: Request, reply: Reply) -> Reply:
        if site != "west" and request.purpose == "propose":
            return world.sign(replace(reply, code=str(RefusalCode.POLICY)))
        return reply

    world.alter = declines
    with pytest.raises(RoundError, match="north: its policy does not allow the plan"):
        world.run()
    first = {site: request.plan_hash for site, request in world.asked}
    world.alter = lambda _site, _request, reply: reply
    world.run(resume=True)
    assert {site: request.plan_hash for site, request in world.asked} == first
    assert [request.purpose for _, request in world.asked].count("offer") == 3


def test_an_offer_in_another_s_name_is_no_offer(world: World) -> None:
    def impostor(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "offer" or site == "west":
            return reply
        offer = Offer.model_validate_json(reply.document)
        changed = offer.model_copy(update={"public_key": world.key("west").public})
        return world.sign(replace(reply, document=changed.model_dump_json()))

    world.alter = impostor
    with pytest.raises(RoundError, match="an offer in another site's name"):
        world.run()


def test_an_offer_that_cannot_be_read_is_no_offer(world: World) -> None:
    def garbled(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "offer" and site != "west":
            return world.sign(replace(reply, document="{}"))
        return reply

    world.alter = garbled
    with pytest.raises(RoundError, match="an offer that cannot be read"):
        world.run()


def test_what_a_site_offers_later_changes_no_plan(world: World) -> None:
    world.killed_at("checkpoint.written:1")
    plans = (world.coordinator / "plans.json").read_bytes()
    world.patients["north"] = 5000
    outcome = world.run(resume=True)
    assert (world.coordinator / "plans.json").read_bytes() == plans
    assert outcome["sites"]["north"]["weight"] == 100


def test_stored_plans_that_were_changed_by_hand_are_refused(world: World) -> None:
    world.killed_at("checkpoint.written:1")
    path = world.coordinator / "plans.json"
    document = json.loads(path.read_bytes())
    document["plans"]["north"]["weight"] = 1
    assert read_plan(canonical_json(document["plans"]["north"]).decode()).weight == 1
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="belongs to another study"):
        world.run(resume=True)
