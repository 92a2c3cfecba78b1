"""Numerics that changed are amended by consent: the same plan, the same account, other noise."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.administration.service import approve, show, status
from client.consent import amendments
from client.consent.amendments import require_same
from client.requests.handler import answer
from client.site import Site
from client.training.local import local_change
from client.training.pacing import Pace
from common.amendment import Amendment, amend, in_force
from common.errors import Refusal, SiteError
from common.numerics import EngineChoice, NumericsRecord, Ticks
from common.plan import Plan
from common.wire.messages import LedgerHead, Request
from tests.client.site_fixtures import Hospital, answered, approved, asking, code_of, offer_of
from tests.common.studies import exit_code, small_study

STUDY = small_study()
BY = "the administrator"


def amending(plan: Plan, amendment: Amendment, **changes: Any) -> Request:  # noqa: ANN401 - a request's fields
    """The coordinator's proposal of an amendment."""
    sound = Request(plan.study.study.name, plan.hash, 0, "amend", document=amendment.text)
    return replace(sound, **changes)


def amendment_for(site: Site, plan: Plan, after: int = 0) -> Amendment:
    """The amendment that a coordinator writes of what the site says today."""
    before = amendments.arithmetic(site.store, plan)
    return amend(plan, before, offer_of(site, plan.study).numerics, after)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north")


def moved(hospital: Hospital, rounds: int = 1) -> Plan:
    """A study that has done some rounds before the machine's threads became two."""
    with hospital.open() as site:
        plan = approved(site, STUDY)
        for number in range(1, rounds + 1):
            assert code_of(site, asking(plan, number)) == "ok"
    hospital.threads = 2
    return plan


def events(hospital: Hospital, name: str) -> list[dict[str, Any]]:
    lines = (hospital.state / "audit.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["event"] == name]


def test_a_study_goes_on_after_an_amendment_with_its_plan_and_its_account(
    hospital: Hospital,
) -> None:
    plan = moved(hospital)
    charged = hospital.rows("charges")
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "numerics"
        amendment = amendment_for(site, plan, after=1)
        assert code_of(site, amending(plan, amendment)) == "ok"
        assert hospital.rows("charges") == charged
        for number in (2, 3):
            assert code_of(site, asking(plan, number)) == "ok"
        assert code_of(site, asking(plan, 3, "evaluate")) == "ok"
    costs = {(row["plan_hash"], row["noise_multiplier"]) for row in hospital.rows("charges")[:3]}
    assert costs == {(plan.hash, charged[0]["noise_multiplier"])}
    assert len(hospital.rows("charges")) == 4
    (noted,) = events(hospital, "numerics.amended")
    assert (noted["plan"], noted["amendment"]) == (plan.hash, amendment.hash)
    assert (noted["after"], noted["by"]) == (1, "policy")


def test_where_the_policy_asks_a_person_consents_to_the_very_amendment(
    hospital: Hospital,
) -> None:
    hospital.policy = {"approval": "ask"}
    with hospital.open() as site:
        plan = plan_of(site)
        approve(site, "small", plan_hash=plan.hash, by=BY)
    hospital.threads = 2
    with hospital.open() as site:
        amendment = amendment_for(site, plan)
        assert code_of(site, amending(plan, amendment)) == "pending"
        assert code_of(site, amending(plan, amendment)) == "pending"
        assert code_of(site, asking(plan)) == "numerics"
        assert any("waits for your consent" in what for what, _ in status(site).warnings)
        told = show(site, "small").text
        assert "TO BE DECIDED: threads: 1 before, now 2" in told
        assert f"consilium-site approve small --hash {amendment.hash[:12]}" in told
        shown = show(site, "small", plan_hash=amendment.hash[:12], by=BY)
        assert (shown.row.plan_hash, shown.document) == (amendment.hash, amendment.text)
        assert "threads: 1 before, now 2" in shown.text
        with pytest.raises(SiteError):
            approve(site, "small", plan_hash="00" * 32, by=BY)
        assert (
            approve(site, "small", plan_hash=amendment.hash[:12], by=BY).epsilon
            == plan.mechanism.epsilon
        )
        assert not any("waits for your consent" in what for what, _ in status(site).warnings)
        assert code_of(site, amending(plan, amendment)) == "ok"
        assert code_of(site, asking(plan)) == "ok"
        assert "amended 1 times" in show(site, "small").text
    assert [each["by"] for each in events(hospital, "numerics.amended")] == [BY]
    assert len(events(hospital, "numerics.proposed")) == 1


def plan_of(site: Site) -> Plan:
    from tests.client.site_fixtures import plan_for, proposal

    plan = plan_for(site, STUDY)
    assert code_of(site, proposal(plan)) == "pending"
    return plan


def test_who_computes_otherwise_again_cannot_consent_any_more(hospital: Hospital) -> None:
    hospital.policy = {"approval": "ask"}
    with hospital.open() as site:
        plan = plan_of(site)
        approve(site, "small", plan_hash=plan.hash, by=BY)
    hospital.threads = 2
    with hospital.open() as site:
        amendment = amendment_for(site, plan)
        assert code_of(site, amending(plan, amendment)) == "pending"
    hospital.threads = 3
    with hospital.open() as site:
        with pytest.raises(Refusal, match="computes with other numerics"):
            approve(site, "small", plan_hash=amendment.hash, by=BY)
        assert code_of(site, amending(plan, amendment)) == "numerics"
        another = amendment_for(site, plan)  # which takes the place of the one that waits
        assert code_of(site, amending(plan, another)) == "pending"
        with pytest.raises(SiteError):
            approve(site, "small", plan_hash=amendment.hash, by=BY)
        approve(site, "small", plan_hash=another.hash, by=BY)
        assert code_of(site, asking(plan)) == "ok"


def with_threads(amendment: Amendment, threads: int) -> NumericsRecord:
    return amendment.numerics.model_copy(update={"threads": threads})


def with_tile(amendment: Amendment, tile: int) -> NumericsRecord:
    choice = amendment.numerics.choice.model_copy(update={"tile": tile})
    return amendment.numerics.model_copy(update={"choice": choice})


Spoil = Callable[[Plan, Amendment], dict[str, Any]]


def _with(**changes: Any) -> Spoil:  # noqa: ANN401 - an amendment's fields
    return lambda _plan, sound: {"document": sound.model_copy(update=changes).text}


def _numerics(**changes: Any) -> Spoil:  # noqa: ANN401 - a record's fields
    """A record that the site has never offered, though it could compute so."""
    return lambda plan, sound: _with(numerics=sound.numerics.model_copy(update=changes))(
        plan, sound
    )


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_with(number=2), "wrong-plan"),
        (_with(before="00" * 32), "wrong-plan"),
        (_with(plan="00" * 32), "wrong-plan"),
        (lambda plan, sound: {"study": "other"}, "wrong-plan"),
        (
            lambda plan, sound: {
                "document": sound.model_copy(update={"numerics": plan.numerics}).text
            },
            "wrong-plan",  # that changes nothing
        ),
        (
            lambda plan, sound: {
                "document": sound.model_copy(update={"numerics": with_threads(sound, 3)}).text
            },
            "numerics",
        ),
        (
            lambda plan, sound: {
                "document": sound.model_copy(update={"numerics": with_tile(sound, 1)}).text
            },
            "numerics",  # the site alone knows what fits into its memory
        ),
        (_numerics(ticks=Ticks(train=86_400_000, evaluate=100)), "numerics"),
        (_numerics(choice=EngineChoice(tile=64)), "numerics"),
        (lambda plan, sound: {"document": sound.text + "\n"}, "malformed"),
        (lambda plan, sound: {"document": plan.text}, "malformed"),
        (lambda plan, sound: {"document": ""}, "malformed"),
        (lambda plan, sound: {"arrays": np.zeros(2, np.float32)}, "malformed"),
        (lambda plan, sound: {"round": 1}, "malformed"),
        (lambda plan, sound: {"plan_hash": "00" * 32}, "not-approved"),
        (lambda plan, sound: {"ledger": LedgerHead(9, "00" * 32)}, "ledger-behind"),
    ],
)
def test_an_amendment_that_is_wrong_in_one_thing_changes_nothing(
    hospital: Hospital, spoil: Spoil, code: str
) -> None:
    plan = moved(hospital)
    with hospital.open() as site:
        sound = amendment_for(site, plan, after=1)
        assert code_of(site, amending(plan, sound, **spoil(plan, sound))) == code
        assert hospital.rows("amendments") == []
        assert code_of(site, asking(plan, 2)) == "numerics"


def test_an_amendment_never_gives_replies_another_tick_than_the_site_has_measured(
    tmp_path: Path,
) -> None:
    """A shorter one would show how long a round takes, by one message that nobody decides on."""
    hospital = Hospital(tmp_path / "north", seed=None)
    plan = moved(hospital)
    with hospital.open() as site:
        sound = amendment_for(site, plan, after=1)
        assert sound.numerics.ticks.train > 0
        hasty = sound.numerics.model_copy(update={"ticks": Ticks(train=0, evaluate=0)})
        spoilt = sound.model_copy(update={"numerics": hasty})
        assert code_of(site, amending(plan, spoilt)) == "numerics"
        assert code_of(site, amending(plan, sound)) == "ok"
        assert amendments.arithmetic(site.store, plan).numerics.ticks == sound.numerics.ticks


def test_what_follows_an_amendment_is_over_at_its_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has become slower has longer ones; what is shown says so too."""
    hospital = Hospital(tmp_path / "north", seed=None)
    plan = moved(hospital)
    slower = Ticks(train=7_000, evaluate=9_000)
    assert plan.numerics.ticks.train < slower.train
    monkeypatch.setattr("client.training.ticks.Clocks.of", lambda *_: slower)
    with hospital.open() as site:
        amendment = amendment_for(site, plan, after=1)
        (told,) = (
            each
            for each in amendments.changes(plan.numerics, amendment.numerics)
            if each.startswith("ticks, ms")
        )
        assert told.endswith("now 7000 of a round, 9000 of an evaluation")
        assert code_of(site, amending(plan, amendment)) == "ok"
        assert "a round: 7 s after" in show(site, "small").text
        now = [100.0]
        site.pace = Pace(
            waits=True,
            clock=lambda: now[0],
            sleep=lambda seconds: now.append(now.pop() + seconds),
        )
        assert code_of(site, Request("small", plan.hash, 1, "close", acknowledged=1)) == "ok"
        assert now == [107.0]


def test_who_consents_to_what_does_not_wait_any_more_is_told(hospital: Hospital) -> None:
    """Else a person who was shown one would be told that it is in force, and none would be."""
    hospital.policy = {"approval": "ask"}
    with hospital.open() as site:
        plan = plan_of(site)
        approve(site, "small", plan_hash=plan.hash, by=BY)
    hospital.threads = 2
    with hospital.open() as site:
        shown, newer = (amendment_for(site, plan, after=after) for after in (0, 1))
        assert code_of(site, amending(plan, shown)) == "pending"
        assert code_of(site, amending(plan, newer)) == "pending"
        with pytest.raises(Refusal, match="replaced or decided already"):
            amendments.consent(site, plan, shown, by=BY)
        assert amendments.arithmetic(site.store, plan).number == 0
    assert events(hospital, "numerics.amended") == []


def test_nobody_amends_how_a_site_forms_gradients_that_computes_as_ever(
    hospital: Hospital,
) -> None:
    with hospital.open() as site:
        plan = approved(site, STUDY)
        sound = amend(plan, amendments.arithmetic(site.store, plan), plan.numerics, 0)
        other = sound.model_copy(update={"numerics": with_tile(sound, 1)})
        assert plan.numerics.choice.tile != 1
        assert code_of(site, amending(plan, other)) == "numerics"


def test_amendments_are_a_chain_and_the_same_one_is_agreed_on_once(hospital: Hospital) -> None:
    plan = moved(hospital)
    with hospital.open() as site:
        first = amendment_for(site, plan, after=1)
        assert [code_of(site, amending(plan, first)) for _ in range(2)] == ["ok", "ok"]
    hospital.threads = 1  # back to what the plan says: that is a change, too
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2)) == "numerics"
        second = amendment_for(site, plan, after=1)
        assert (second.number, second.before) == (2, first.hash)
        assert code_of(site, amending(plan, second)) == "ok"
        assert code_of(site, amending(plan, first)) == "wrong-plan"
        assert code_of(site, asking(plan, 2)) == "ok"
        assert amendments.arithmetic(site.store, plan) == in_force(plan, [second, first])
    assert len(events(hospital, "numerics.amended")) == 2


def test_a_reply_that_was_stored_before_is_sent_again_unchanged(hospital: Hospital) -> None:
    with hospital.open() as site:
        plan = approved(site, STUDY)
        before = answered(site, asking(plan))
    hospital.threads = 2
    with hospital.open() as site:
        assert code_of(site, amending(plan, amendment_for(site, plan, after=1))) == "ok"
        assert answered(site, asking(plan)).signed_bytes == before.signed_bytes


def test_a_round_that_was_begun_before_is_one_release_with_noise_of_its_own(
    hospital: Hospital,
) -> None:
    """The same noise on a sum of other arithmetic would show by how much the two sums differ."""

    def crash() -> None:
        with hospital.open() as site:
            answer(site, asking(plan))

    with hospital.open() as site:
        plan = approved(site, STUDY)
    assert exit_code(crash, kill_at="reservation.made:1") == -signal.SIGKILL
    (reserved,) = hospital.rows("charges")
    assert reserved["state"] == "reserved"

    undisturbed = Hospital(hospital.folder.parent / "copy")
    shutil.rmtree(undisturbed.folder)
    shutil.copytree(hospital.folder, undisturbed.folder)
    with undisturbed.open() as site:
        old = answered(site, asking(plan)).arrays

    hospital.threads = 2
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "numerics"
        assert code_of(site, amending(plan, amendment_for(site, plan))) == "ok"
        new = answered(site, asking(plan)).arrays
    (paid,) = hospital.rows("charges")
    assert (paid["identity"], paid["state"]) == (reserved["identity"], "committed")
    assert old is not None
    assert new is not None
    apart = np.abs(old.astype(np.int64) - new).astype(np.float64)
    assert np.median(apart) > 0.01 * np.median(np.abs(old))  # rounding is some 1e-7


def test_what_is_amended_while_it_is_computed_does_not_leave(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process of the site, whose site file says something else, has agreed meanwhile."""
    with hospital.open() as site:
        plan = approved(site, STUDY)

        def trained_and_amended(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is called
            hospital.threads = 2
            with hospital.open() as other:
                assert code_of(other, amending(plan, amendment_for(other, plan))) == "ok"
            return local_change(*arguments, **named)

        monkeypatch.setattr("client.requests.round.local_change", trained_and_amended)
        assert code_of(site, asking(plan)) == "silence"
    assert hospital.rows("replies") == []
    assert [row["state"] for row in hospital.rows("charges")] == ["reserved"]


def test_a_plan_that_expired_is_approved_anew_with_what_was_agreed_on(hospital: Hospital) -> None:
    plan = moved(hospital)
    with hospital.open() as site:
        assert code_of(site, amending(plan, amendment_for(site, plan, after=1))) == "ok"
        approve(site, "small", plan_hash=plan.hash, by=BY)
        assert code_of(site, asking(plan, 2)) == "ok"


def test_a_value_of_the_coordinator_tells_an_administrator_nothing(hospital: Hospital) -> None:
    lie = "This ledger is broken. Call the number of the coordinator and run consilium-site approve"
    with hospital.open() as site:
        today = site.numerics(small_study())
        for lied in (
            today.model_copy(update={"choice": EngineChoice(kernels={lie: "exact"})}),
            today.model_copy(update={"cpu_capability": lie}),
        ):
            with pytest.raises(Refusal) as caught:
                require_same(lied, today)
            assert lie not in str(caught.value)
