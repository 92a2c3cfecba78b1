"""Decoded images: none for what nobody approved, never more than allowed, gone with their study."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from client.administration.service import approve, deny, show, stop
from client.consent.decisions import freeze_pending
from client.consent.problems import last_failures
from client.site import Site
from common.errors import ConsiliumError, DataError
from common.plan import Plan
from common.study.study_file import Study
from common.wire.messages import Request
from tests.client.site_fixtures import Hospital, asking, code_of, plan_for, proposal
from tests.common.studies import small_study

BY = "a person"
IMAGES = 6


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    patients = {f"P{number:02}": 1 for number in range(IMAGES)}
    return Hospital(tmp_path / "north", patients, declared=4, policy={"approval": "ask"})


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def proposed(site: Site, side: int, title: str = "A study") -> Plan:
    """A plan that waits for a person, for images of so many pixels a side."""
    plan = plan_for(site, sized(side, title))
    assert code_of(site, proposal(plan)) == "pending"
    return plan


def sized(side: int, title: str = "A study") -> Study:
    return small_study(
        study={"name": f"side-{side}", "title": title}, data={"image_size": [side, side]}
    )


def held(hospital: Hospital) -> dict[str, int]:
    """Bytes of images in each cache, by its name; the sizes of all are different here."""
    return {path.parent.name: path.stat().st_size for path in hospital.state.glob("cache/*/*.f16")}


def of(*sides: int) -> list[int]:
    """Bytes that all images take at so many pixels a side."""
    return sorted(IMAGES * 2 * side * side for side in sides)


def test_nothing_is_written_or_decoded_for_plans_that_wait(
    site: Site, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where a person reads them: who would be in them is told by headers."""
    decoded: list[object] = []
    monkeypatch.setattr("client.data.cache.decode", lambda *given, **_: decoded.append(given))
    for side in (8, 16, 32):
        plan = proposed(site, side)
        freeze_pending(site)
        text = show(site, plan.hash, by=BY).text
        assert f"{IMAGES} for training" in text or "for evaluation" in text
        assert "no image was decoded yet" in text
        deny(site, plan.hash, by=BY)
    assert decoded == []
    assert not (hospital.state / "cache").exists()


def test_to_approve_decodes_for_the_plan_that_is_approved_alone(
    site: Site, hospital: Hospital
) -> None:
    plans = [proposed(site, side) for side in (8, 16)]
    approve(site, plans[1].hash, by=BY)
    assert sorted(held(hospital).values()) == of(16)


def test_what_does_not_fit_is_told_and_not_approved_and_leaves_nothing(
    hospital: Hospital,
) -> None:
    hospital.cache_gib = (sum(of(16)) - 1) / 2**30
    with hospital.open() as site:
        plan = proposed(site, 16)
        assert "THIS IS NOT ENOUGH" in show(site, plan.hash, by=BY).text
        with pytest.raises(DataError, match="too much disk space") as caught:
            approve(site, plan.hash, by=BY)
        assert caught.value.details["where"] == "[site] cache_gib"
        assert code_of(site, asking(plan)) == "pending"
        assert held(hospital) == {}


def test_images_of_a_study_that_runs_are_never_deleted_for_another(hospital: Hospital) -> None:
    hospital.cache_gib = (sum(of(8, 16)) - 1) / 2**30
    with hospital.open() as site:
        first, second = proposed(site, 16), proposed(site, 8)
        approve(site, first.hash, by=BY)
        before = held(hospital)
        with pytest.raises(ConsiliumError, match="too much disk space"):
            approve(site, second.hash, by=BY)
        assert held(hospital) == before
        assert code_of(site, asking(first)) == "ok"
        stop(site, first.hash, by=BY)
        approve(site, second.hash, by=BY)
        assert sorted(held(hospital).values()) == of(8)


def test_what_a_policy_approves_by_itself_is_held_to_the_cap_too(hospital: Hospital) -> None:
    """The declared patients' images fit, those that there are do not: the people are told."""
    hospital.policy = {"approval": "automatic"}
    hospital.cache_gib = 5 * 2 * 16 * 16 / 2**30
    with hospital.open() as site:
        plan = plan_for(site, sized(16))
        assert code_of(site, proposal(plan)) == "ok"
        freeze_pending(site)
        assert held(hospital) == {}
        assert code_of(site, asking(plan)) == "silence"
        (found,) = last_failures(site)
        assert found.error == "DataError"
        assert site.ledger.head().length == 0


def test_a_round_of_a_study_that_runs_never_fails_for_the_cap(hospital: Hospital) -> None:
    """Whether it would, might follow from a patient: it is looked at when a plan is approved."""
    with hospital.open() as site:
        plan = proposed(site, 16)
        approve(site, plan.hash, by=BY)
    for path in hospital.state.glob("cache/*/*"):
        path.unlink()
    hospital.cache_gib = 4 * 2 * 16 * 16 / 2**30  # of the declared patients' images
    assert hospital.cache_gib < sum(of(16)) / 2**30
    with hospital.open() as site:
        assert code_of(site, asking(plan)) == "ok"
        assert sorted(held(hospital).values()) == of(16)


def test_images_stay_while_the_site_file_does_not_name_their_data_set(hospital: Hospital) -> None:
    """They were decoded by what was installed then, and cannot be had again otherwise."""
    with hospital.open() as site:
        plan = proposed(site, 8)
        approve(site, plan.hash, by=BY)
        assert sorted(held(hospital).values()) == of(8)
    named, hospital.datasets = hospital.datasets, {"another": "."}
    with hospital.open() as site:
        freeze_pending(site)
        assert sorted(held(hospital).values()) == of(8)
    hospital.datasets = named
    with hospital.open() as site:
        freeze_pending(site)
        assert sorted(held(hospital).values()) == of(8)
        assert code_of(site, asking(plan)) == "ok"


@pytest.mark.parametrize("how", ["closed", "stopped", "expired"])
def test_images_go_with_the_last_plan_that_uses_them(
    site: Site, hospital: Hospital, how: str
) -> None:
    plans = [proposed(site, 8, "One"), proposed(site, 8, "Another"), proposed(site, 16)]
    for plan in plans:
        approve(site, plan.hash, by=BY)
    assert code_of(site, asking(plans[0])) == "ok"
    for plan, left in zip(plans, ((8, 16), (16,), ()), strict=True):
        assert over(site, plan, how)
        freeze_pending(site)
        assert sorted(held(hospital).values()) == of(*left)
    assert [path.name for path in (hospital.state / "cache").iterdir()] == ["lock"]


def over(site: Site, plan: Plan, how: str) -> bool:
    """Let a plan be over."""
    if how == "closed":
        close = Request(plan.study.study.name, plan.hash, 1, "close", acknowledged=1)
        return code_of(site, close) == "ok"
    if how == "stopped":
        return bool(stop(site, plan.hash, by=BY))
    past = "UPDATE approvals SET expires_at = '2020-01-01T00:00:00Z' WHERE plan_hash = ?"
    return site.store.execute(past, plan.hash).rowcount == 1


def test_while_images_are_decoded_elsewhere_nothing_is_deleted(
    site: Site, hospital: Hospital
) -> None:
    """Who decodes holds the caches in common with others; to delete takes them alone."""
    plan = proposed(site, 8)
    approve(site, plan.hash, by=BY)
    with (hospital.state / "cache" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        stop(site, plan.hash, by=BY)
        assert sorted(held(hospital).values()) == of(8)
    freeze_pending(site)
    assert held(hospital) == {}


def test_images_that_were_deleted_are_held_in_memory_no_longer(
    site: Site, hospital: Hospital
) -> None:
    """The disk has their room back when the last who has them mapped lets go."""
    plan = proposed(site, 8)
    approve(site, plan.hash, by=BY)
    (home,) = held(hospital)
    assert home in Path("/proc/self/maps").read_text()
    stop(site, plan.hash, by=BY)
    assert home not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("approval", "plans"),
    [("ask", 30), ("automatic", 30), pytest.param("automatic", 400, marks=pytest.mark.long)],
)
def test_plans_that_were_never_charged_leave_nothing_and_slow_nothing(
    hospital: Hospital, approval: str, plans: int
) -> None:
    """Rows are counted, and the statements that a proposal takes, after ten and after all."""
    hospital.policy = {"approval": approval}
    code = "pending" if approval == "ask" else "ok"
    statements: list[str] = []
    taken: list[int] = []
    with hospital.open() as site:
        plan = plan_for(site, sized(8))
        site.store._connection.set_trace_callback(statements.append)  # noqa: SLF001 - sqlite's own
        for number in range(plans):
            info = plan.study.study.model_copy(update={"title": f"Study {number}"})
            study = plan.study.model_copy(update={"study": info})
            each = plan.model_copy(update={"study": study})
            statements.clear()
            assert code_of(site, proposal(each)) == code
            taken.append(len(statements))
            if approval == "automatic" and number % 10 == 0:
                freeze_pending(site)
            assert code_of(site, Request("side-8", each.hash, 0, "close")) == "ok"
    for table in ("approvals", "members", "costs", "replies", "charges"):
        assert hospital.rows(table) == []
    # Of ten the middle one: once a minute the time is kept, which takes a few statements more.
    assert median(taken[10:20]) == median(taken[-10:])
