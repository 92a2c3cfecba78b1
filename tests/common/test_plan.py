"""A plan is canonical, hashed whole, and written from public numbers alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import Refusal, RefusalCode
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, read_plan, write_plan
from common.study.study_file import Study
from tests.common.studies import small_study

OFFER = Offer(
    site="north",
    public_key="ab" * 32,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
FREE = {"privacy": {"mode": "none"}}


def plan_of(study: Study | None = None, **changes: Any) -> Plan:  # noqa: ANN401 - an offer's fields
    return write_plan(study or small_study(), OFFER.model_copy(update=changes), weights=106)


def test_it_holds_the_offers_public_numbers_and_the_calibrated_mechanism() -> None:
    plan = plan_of()
    assert (plan.site, plan.declared_patients, plan.weight, plan.weights) == ("north", 20, 20, 106)
    assert plan.mechanism.mode == "patient"
    assert plan.mechanism.step.sampling_rate == 5 / 20
    assert plan.mechanism.divisor == 5.0
    assert plan.release.shape == (2, 1, 4)


def test_its_hash_is_the_sha256_of_its_text() -> None:
    plan = plan_of()
    assert plan.hash == hashlib.sha256(plan.text.encode()).hexdigest()
    assert plan.text == json.dumps(
        json.loads(plan.text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def test_the_same_study_and_offer_make_the_same_plan() -> None:
    assert plan_of().hash == plan_of(small_study()).hash
    assert read_plan(plan_of().text) == plan_of()


@pytest.mark.parametrize(
    "change",
    [
        {"site": "south"},
        {"declared_patients": 30},
        {"known_key": True},
        {"numerics": record(2, EngineChoice())},
        {"numerics": record(1, EngineChoice(tile=7))},
    ],
    ids=str,
)
def test_another_offer_is_another_plan(change: dict[str, Any]) -> None:
    study = small_study(**FREE)
    assert plan_of(study, **change).hash != plan_of(study).hash


@pytest.mark.parametrize(
    "sections",
    [
        {"study": {"title": "Other"}},
        {"task": {"classes": ["pneumonia", "normal"]}},
        {"data": {"mean": 0.4}},
        {"model": {"activation": "tanh"}},
        {"training": {"learning_rate": 0.25}},
        {"training": {"augmentation": {"flip": True}}},
        {"evaluation": {"bins": 6}},
        {"aggregation": {"min_sites": 3}},
        {"fixed_point": {"fraction_bits": 20}},
    ],
    ids=str,
)
def test_whatever_a_study_changes_changes_the_plan(sections: dict[str, Any]) -> None:
    assert plan_of(small_study(**FREE, **sections)).hash != plan_of(small_study(**FREE)).hash


def test_a_bound_on_patients_is_no_less_than_what_is_declared() -> None:
    said = OFFER.model_dump()
    assert Offer.model_validate(said | {"most_patients": 20}).most_patients == 20
    with pytest.raises(ValidationError, match="most_patients is 19; should be at least"):
        Offer.model_validate(said | {"most_patients": 19})


def test_a_site_weighs_what_it_declares_or_one() -> None:
    assert plan_of(small_study(**FREE)).weight == 20
    assert plan_of(small_study(**FREE, aggregation={"weights": "equal"})).weight == 1


def test_what_is_not_private_is_said_first() -> None:
    assert plan_of().warnings == ()
    assert plan_of(known_key=True).warnings[0].startswith("NOT PRIVATE: KNOWN KEY")
    both = plan_of(small_study(**FREE), known_key=True).warnings
    assert [note.startswith("NOT PRIVATE") for note in both] == [True, True]


def tampered(**changes: Any) -> str:  # noqa: ANN401 - deliberately of any type
    return json.dumps(
        json.loads(plan_of().text) | changes,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        plan_of().text + " ",
        plan_of().text.replace(",", ", ", 1),
        plan_of().text.replace('"declared_patients":20', '"declared_patients":20.0'),
        plan_of().text.replace('"declared_patients":20', '"declared_patients":"20"'),
        plan_of().text.replace('"format":1', '"format":1,"format":1'),
        tampered(extra=1),
        tampered(hash="0" * 64),
        tampered(format=2),
        tampered(site="No Slug"),
        tampered(declared_patients=0),
        tampered(declared_patients=20.5),
        tampered(weight=0),
        tampered(mechanism={"mode": "off"}),
        tampered(mechanism=None),
        tampered(numerics={}),
    ],
)
def test_a_text_that_is_not_a_canonical_plan_is_malformed(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_plan(text)
    assert caught.value.code is RefusalCode.MALFORMED


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_with_other_values_has_another_text_and_hash(*, deep: bool) -> None:
    """Both are kept once they were asked for, and an approval binds to the hash."""
    plan = plan_of()
    assert plan.hash == hashlib.sha256(plan.text.encode()).hexdigest()
    other = plan.model_copy(update={"weight": plan.weight + 1}, deep=deep)
    assert other.text != plan.text
    assert other.hash == hashlib.sha256(other.text.encode()).hexdigest() != plan.hash
    assert read_plan(other.text) == other
    assert plan.model_copy(deep=deep).hash == plan.hash
