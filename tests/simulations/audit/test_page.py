from __future__ import annotations

import pytest

from simulations.audit.findings import (
    Check,
    Findings,
    LowerBound,
    MechanismFinding,
    Membership,
    OneRunFinding,
)
from simulations.audit.page import draw, render, verdict
from tests.simulations.reports.test_report import Page


def bound(epsilon: float) -> LowerBound:
    return LowerBound(
        name="trade-off curve, rates",
        epsilon=epsilon,
        confidence=0.975,
        assumes="independent canaries",
        source="Nasr et al. 2023",
        detail="guessed in: 12 of 20 members, 3 of 21 others",
    )


def findings(epsilon: float, *, passed: bool = True) -> Findings:
    """Claimed 8; at least ``epsilon`` shown at one site."""
    mechanism = MechanismFinding(
        site="north",
        claimed=8.0,
        delta=1e-5,
        sampling_rate=0.25,
        noise_multiplier=2.25,
        steps=200,
        canaries=1024,
        repetitions=20,
        bounds=(bound(epsilon), bound(1.0)),
    )
    membership = Membership(
        members=50,
        others=40,
        auc=0.6,
        caught=((0.001, 0.0), (0.01, 0.02), (0.1, 0.2)),
        points=((0.0, 0.0), (0.0, 0.02), (0.1, 0.2), (1.0, 1.0)),
    )
    one_run = OneRunFinding(
        claimed=8.0,
        delta=1e-5,
        kind="pattern",
        canaries=90,
        inserted=50,
        sites=("north", "south"),
        runs=1,
        bounds=(bound(0.0), bound(0.3)),
        ceiling=4.3,
        membership=membership,
    )
    check = Check(name="noise", site="north", wanted="noise", found="some", passed=passed)
    return Findings(
        study="demo",
        title="Opacities <on> radiographs",
        study_sha256="ab" * 32,
        warnings=("NOT PRIVATE: KNOWN KEY",),
        confidence=0.95,
        one_run=one_run,
        mechanism=(mechanism,),
        checks=(check,),
        seed=0,
        seconds={"mechanism": 12.0},
        versions={"torch": "2.13.0"},
        command="consilium-sim audit demo",
    )


@pytest.fixture(scope="module")
def page() -> Page:
    found = findings(6.5)
    return Page(render(found, draw(found)))


def test_the_page_says_claimed_shown_and_verdict(page: Page) -> None:
    assert page.words[0] == "NOT PRIVATE: KNOWN KEY"
    assert (
        "the claim survived with 95 % confidence that all bounds below hold together" in page.text
    )
    assert "ε 8.000 claimed for the training" in page.text
    assert "≥ 6.50 shown on the mechanism (north, of 1)" in page.text
    assert "≥ 0.30 shown on the whole study, in one run" in page.text


def test_the_membership_rates_stand_beside_what_can_be_told(page: Page) -> None:
    assert "50 members, 40 others: rates below 2.5 % look the same as zero" in page.text
    assert "0.1 % 0.0 % 1 % 2.0 % 10 % 20.0 %" in page.text


def test_what_so_many_canaries_could_have_shown_at_most_stands_beside_the_bounds(
    page: Page,
) -> None:
    assert "90 canaries could show at most 4.30, which is less than the claim" in page.text


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    assert page.loads
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.loads)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_text_of_the_study_is_escaped() -> None:
    assert "<on>" not in render(findings(1.0), ())


@pytest.mark.parametrize("broken", [findings(8.0), findings(20.0), findings(1.0, passed=False)])
def test_a_bound_that_reaches_the_claim_or_a_failed_premise_breaks_it(broken: Findings) -> None:
    assert verdict(broken) == "THE CLAIM IS BROKEN"
    assert "THE CLAIM IS BROKEN" in Page(render(broken, ())).text


def test_without_one_of_the_audits_the_page_tells_of_the_other() -> None:
    found = findings(6.5)
    pieces = Page(render(found.model_copy(update={"one_run": None}), ()))
    whole = Page(render(found.model_copy(update={"mechanism": (), "checks": ()}), ()))

    assert "The whole study" not in pieces.text
    assert "The mechanism" not in whole.text
    assert "ε 8.000 claimed" in whole.text


def test_the_same_findings_draw_the_same_picture() -> None:
    assert draw(findings(1.0))[0].png == draw(findings(1.0))[0].png
