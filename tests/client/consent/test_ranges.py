"""A hospital narrows what each number of a study may be; a plan beyond that is refused."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from client.consent.policy import require_bounds
from client.sitefile import Policy
from common.bounded import Bound
from common.errors import Refusal, RefusalCode
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.study.bounds import BY_KEY, stated
from common.tasks.tasks import KINDS
from tests.client.site_fixtures import (
    POLICY,
    Hospital,
    answered,
    approved,
    asking,
    code_of,
    plan_for,
    proposal,
)
from tests.common.studies import small_study, study_of

OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"groups": 2, "norm": "group"},
    "task": {"class_weights": [1.0, 2.0]},
    "evaluation": {"rounds": [1, 3]},
}
FREE: dict[str, Any] = SECTIONS | {"privacy": {"mode": "none"}}
MODELS: tuple[dict[str, Any], ...] = (
    {"name": "scattering"},
    {"name": "unet", "strides": [2, 2]},
    {"name": "vit"},
    {"name": "efficientnet_lite0"},
    {"name": "cnn", "trainable": ["head"], "adapters": 2, "projection": 5},
)
OPTIONS: dict[str, dict[str, float]] = {
    "fedprox": {"proximal_mu": 0.1},
    "fedavgm": {"server_learning_rate": 0.5, "server_momentum": 0.5},
    "fedadam": {"eta": 0.1, "eta_l": 0.1, "tau": 0.01, "beta_1": 0.5, "beta_2": 0.5},
    "fedtrimmedavg": {"beta": 0.1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 2},
}


def policy(**ranges: tuple[float, float]) -> Policy:
    more = {"allow_no_privacy": True, "tasks": list(KINDS), "ranges": ranges}
    return Policy.model_validate(POLICY | more)


@cache
def plans() -> list[Plan]:
    """Plans that together say every number there is."""
    studies = [small_study(**FREE), *(small_study(model=each) for each in MODELS)]
    studies += [study_of(kind, data={"spacing": [0.5, 0.5]}) for kind in KINDS]
    for strategy, options in OPTIONS.items():
        aggregation = {"strategy": strategy, "options": options}
        studies.append(small_study(**SECTIONS, aggregation=aggregation))
    return [write_plan(study, OFFER, weights=106) for study in studies]


def saying(key: str) -> tuple[Plan, tuple[float, ...]]:
    """A plan that says a number, and what it says."""
    return next(
        (plan, each.values)
        for plan in plans()
        for each in stated(plan.study, plan.mechanism)
        if each.bound.key == key
    )


@pytest.mark.parametrize("each", BY_KEY.values(), ids=lambda each: each.key)
def test_each_number_of_a_plan_is_held_to_its_range(each: Bound) -> None:
    plan, values = saying(each.key)
    require_bounds(plan.study, plan.mechanism, policy())
    require_bounds(plan.study, plan.mechanism, policy(**{each.key: (min(values), max(values))}))
    outside = []
    if max(values) < each.most:
        outside.append((max(math.nextafter(max(values), math.inf), each.least), each.most))
    if min(values) > each.least:
        outside.append((each.least, math.nextafter(min(values), -math.inf)))
    assert outside
    for ends in outside:
        with pytest.raises(Refusal) as caught:
            require_bounds(plan.study, plan.mechanism, policy(**{each.key: ends}))
        assert caught.value.code is RefusalCode.POLICY
        told = caught.value.details
        assert told["where"] == f"[policy.ranges] {each.key}"
        assert told["found"].startswith(f"{each.name} ")
        assert told["wanted"] == each.span(*ends)
        assert "change the policy" in told["do"]


def test_one_class_too_heavy_is_enough() -> None:
    plan, _ = saying("class_weights")
    with pytest.raises(Refusal) as caught:
        require_bounds(plan.study, plan.mechanism, policy(class_weights=(0.5, 1.5)))
    assert caught.value.details["found"] == "weight of a class in the loss 1, 2"


def test_without_privacy_the_ranges_hold_too() -> None:
    plan = plans()[0]
    with pytest.raises(Refusal) as caught:
        require_bounds(plan.study, plan.mechanism, policy(learning_rate=(0.001, 0.1)))
    assert caught.value.details["where"] == "[policy.ranges] learning_rate"
    require_bounds(
        plan.study, plan.mechanism, policy(clip_norm=(0.001, 0.002))
    )  # there is none to hold


@pytest.mark.parametrize("approval", ["automatic", "ask"])
def test_a_plan_beyond_a_range_never_waits_for_a_person(tmp_path: Path, approval: str) -> None:
    narrowed = {"approval": approval, "ranges": {"steps": [1, 5]}}
    with Hospital(tmp_path / "north", policy=narrowed).open() as site:
        assert code_of(site, proposal(plan_for(site, small_study()))) == "policy"
        assert not site.approvals.all()
        plan = plan_for(site, small_study(training={"local_steps": 1}))
        assert code_of(site, proposal(plan)) == ("ok" if approval == "automatic" else "pending")


def test_a_range_that_becomes_narrower_ends_a_study_that_runs(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north")
    with hospital.open() as site:
        plan = approved(site, small_study())
        assert answered(site, asking(plan)).code == "ok"
    hospital.policy = {"ranges": {"learning_rate": [0.001, 0.1]}}
    with hospital.open() as site:
        assert code_of(site, asking(plan, 2, ledger=site.ledger.head())) == "policy"
    assert len(hospital.rows("charges")) == 1
