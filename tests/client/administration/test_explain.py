"""A plan in plain words: what must be read first stands first, and every figure is the real one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.administration.cost import shown_epsilon
from client.administration.differences import changes
from client.administration.service import approve, show, stop
from client.consent.decisions import preview
from client.site import Site, open_site
from common.errors import Refusal
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism
from common.study.bounds import stated
from tests.client.site_fixtures import (
    Hospital,
    answered,
    asking,
    code_of,
    plan_for,
    proposal,
    write_mask,
)
from tests.common.studies import small_study, study_of, toml

FREE: dict[str, Any] = {"privacy": {"mode": "none"}}
USUAL: dict[str, dict[str, Any]] = {
    "data": {"image_size": [16, 16]},
    "training": {"batch_size": 16},
}
"""What makes no number of the small study unusual."""
BY = "the administrator"


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "north", policy={"approval": "ask"}, seed=None)


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    with hospital.open() as opened:
        yield opened


def proposed(site: Site, **sections: dict[str, Any]) -> Plan:
    usual = {name: section | sections.get(name, {}) for name, section in USUAL.items()}
    plan = plan_for(site, small_study(**sections | usual))
    assert code_of(site, proposal(plan)) == "pending"
    return plan


def words(site: Site, plan: Plan) -> dict[str, str]:
    return {heading: "\n".join(lines) for heading, lines in show(site, plan.hash).sections}


def test_a_plan_is_shown_with_its_own_figures(site: Site) -> None:
    plan = proposed(site)
    shown = words(site, plan)
    assert list(shown) == [
        "The study",
        "What is computed, and from which patients",
        "What leaves this site",
        "When it leaves",
        "What it can cost a patient",
        "Every number",
        "This site's privacy ledger",
        "Numerics (versions and settings that decide the last bits)",
        "Changes since the plan approved before",
        "What you can do",
        "This plan",
    ]
    assert "Hardly anything to learn" in shown["The study"]
    computed = shown["What is computed, and from which patients"]
    for part in (
        "chest-xray",
        "20 declared",
        "normal, pneumonia",
        "resized to 16 x 16 pixels",
        "learned from: column label of ",
        "and of each 1 image",
        "3 rounds of 2",
    ):
        assert part in computed
    leaves = shown["What leaves this site"]
    assert f"3 x the change of the model's weights, with noise: {plan.weights} numbers" in leaves
    assert f"at most {3 * 4 * plan.weights + 8 * 8} bytes in total" in leaves
    assert f"1 x counts of how well the model does, with noise: {plan.release.size} num" in leaves
    assert "never: images, labels, masks, patient identifiers" in leaves
    ticks = plan.numerics.ticks
    assert f"a round: {ticks.train / 1000:g} s after" in shown["When it leaves"]
    assert f"a histogram: {ticks.evaluate / 1000:g} s after" in shown["When it leaves"]
    assert plan.hash in shown["This plan"]
    assert "pending" in shown["This plan"]
    assert (
        plan.numerics.versions["torch"]
        in shown["Numerics (versions and settings that decide the last bits)"]
    )
    assert show(site, "small").document == plan.text
    assert show(site, "small").text.startswith("The study\n  Hardly anything to learn\n")


def test_a_study_that_learns_from_masks_says_where_they_are_and_what_they_mean(
    tmp_path: Path,
) -> None:
    policy = {"approval": "ask", "tasks": ["segmentation"]}
    hospital = Hospital(tmp_path / "north", policy=policy, seed=None, masks=True)
    for patient, count in hospital.patients.items():
        for number in range(count):
            write_mask(
                hospital.folder / "masks" / f"{patient}-{number}.png", patient, number, least=1
            )
    file = hospital.site_file()
    data = file["data"]["chest-xray"] | {"mask_classes": {"2": "pneumonia", "1": "normal"}}
    asked = study_of(
        "segmentation",
        data={"spacing": [0.5, 1.25], "image_size": [16, 16]},
        training={"images_per_patient": 3},
    )
    path, masks = hospital.folder / "site.toml", hospital.folder / "masks"
    path.write_text(toml(file | {"data": {"chest-xray": data}}))
    with open_site(path, hospital.state, None) as site:
        plan = plan_for(site, asked)
        assert code_of(site, proposal(plan)) == "pending"
        computed = words(site, plan)["What is computed, and from which patients"]
        masks.rename(tmp_path / "elsewhere")
        gone = words(site, plan)["What is computed, and from which patients"]
    assert f"masks in {masks}; values or segments in them: 1 = normal, 2 = pneumonia" in computed
    assert "scaled to 0.5 x 1.25 mm a pixel, then cropped or padded to 16 x 16" in computed
    assert "patients on average, and of each 3 images" in computed
    assert "in the cohort, if you approve it now: " in computed
    assert "the images, the labels or masks, or a list cannot be read now" in gone


def test_a_plan_that_does_not_wait_says_what_that_tells(tmp_path: Path) -> None:
    """Its key is known, so that nothing is private."""
    hospital = Hospital(tmp_path / "south", policy={"approval": "ask"})
    with hospital.open() as site:
        shown = words(site, proposed(site))
    assert shown["When it leaves"].startswith("as soon as it is ready: the time this takes can")


def test_the_cost_is_the_plans_and_its_meaning_is_the_definitions(site: Site) -> None:
    """With even odds a guess is right at most (e^epsilon + delta) / (1 + e^epsilon) times."""
    plan = proposed(site, privacy={"epsilon": 1.0})
    mechanism = plan.mechanism
    assert isinstance(mechanism, PatientMechanism)
    cost = words(site, plan)["What it can cost a patient"]
    assert f"epsilon at most {shown_epsilon(mechanism.epsilon)}" in cost
    assert shown_epsilon(mechanism.epsilon_training) in cost
    assert shown_epsilon(mechanism.epsilon_evaluation) in cost
    odds = math.exp(mechanism.epsilon)
    right = 100 * (odds + mechanism.delta) / (1 + odds)
    (stated,) = (
        float(line.split(" times in 100")[0].split()[-1]) for line in cost.split("\n")[1:2]
    )
    assert right <= stated < right + 0.02


def test_the_ledger_before_and_after_is_what_the_ledger_then_says(site: Site) -> None:
    """Two studies on the same patients, one run in part and stopped: the forecast comes true."""
    limits = site.file.policy.limits
    first = proposed(site)
    drafted, _ = preview(site, first)
    assert (drafted.before, drafted.after) == pytest.approx((0.0, first.mechanism.epsilon))
    approve(site, first.hash, by=BY)
    answered(site, asking(first))
    stop(site, first.hash, by=BY)
    second = proposed(site, study={"title": "Another"}, privacy={"epsilon": 1.0})
    drafted, _ = preview(site, second)
    before, after = drafted.before, drafted.after
    assert before == pytest.approx(site.ledger.most_spent(limits))
    assert after > before
    ledger = words(site, second)["This site's privacy ledger"]
    assert f"epsilon {shown_epsilon(before)} so far" in ledger
    assert f"and at most {shown_epsilon(after)} when this study and all running studies" in ledger
    assert "allows 20 in total and 8 for one study" in ledger
    approve(site, second.hash, by=BY)
    for number in (1, 2, 3):
        answered(site, asking(second, number))
    answered(site, asking(second, 3, "evaluate"))
    assert site.ledger.most_spent(limits) == pytest.approx(after)
    cost = f"cost its most charged patient epsilon {shown_epsilon(site.ledger.spent_on(second))}"
    assert cost in words(site, second)["This site's privacy ledger"]


def test_what_cannot_be_read_is_said_and_what_is_found_is_counted(
    site: Site, hospital: Hospital
) -> None:
    plan = proposed(site)
    counted, images = preview(site, plan)
    said = words(site, plan)["What is computed, and from which patients"]
    assert f"{counted.count('train')} for training, {counted.count('validation')} for" in said
    assert images == 16 * 16 * 2 * sum(hospital.patients.values())
    assert "at most 1 MiB of disk space until the study is over; all studies together" in said
    (hospital.folder / "images").rename(hospital.folder / "away")
    site.cohorts.forget()
    assert "cannot be read now" in words(site, plan)["What is computed, and from which patients"]


def test_what_is_not_private_says_so_before_all_else(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path / "north", policy={"approval": "ask", "allow_no_privacy": True})
    with hospital.open() as site:
        shown = show(site, proposed(site, **FREE).hash)
        heading, lines = shown.sections[0]
        assert heading == "READ THIS FIRST"
        assert [line.split(":")[0] for line in lines] == ["NOT PRIVATE", "NOT PRIVATE"]
        assert shown.text.index("NOT PRIVATE") < shown.text.index("The study")
        assert "WITHOUT NOISE" in shown.text
        assert "nothing limits" in shown.text


def test_what_the_policy_cannot_bear_is_said_before_all_else(hospital: Hospital) -> None:
    with hospital.open() as site:
        plan = proposed(site)
    hospital.policy |= {"max_epsilon_per_study": 2.0}
    with hospital.open() as site:
        heading, lines = show(site, plan.hash).sections[0]
        assert heading == "READ THIS FIRST"
        beginning = "EXCEEDS YOUR POLICY: [policy] max_epsilon_per_study: requested epsilon"
        assert any(line.startswith(beginning) and "at most 2;" in line for line in lines)
        with pytest.raises(Refusal):
            approve(site, plan.hash, by=BY)


def test_what_differs_from_the_plan_approved_before_is_named(site: Site) -> None:
    first = proposed(site)
    nothing = words(site, first)["Changes since the plan approved before"]
    assert nothing == "no other plan of this study was approved here"
    approve(site, first.hash, by=BY)
    stop(site, first.hash, by=BY)
    second = proposed(site, training={"rounds": 4}, study={"title": "Once more"})
    different = words(site, second)["Changes since the plan approved before"].split("\n")
    assert "training rounds: 3 before, now 4" in different
    assert "title: Hardly anything to learn before, now Once more" in different
    assert any(line.startswith("noise on a step") for line in different)
    assert list(changes(second, second)) == []


def test_each_number_of_a_plan_is_shown_with_what_is_usual(site: Site) -> None:
    plan = proposed(site)
    lines = words(site, plan)["Every number"].split("\n")
    told = [line.split(": ")[0] for line in lines]
    assert told == [each.bound.name for each in stated(plan.study, plan.mechanism)]
    assert "clip norm: 1; usual 0.1 to 10" in lines
    assert "weight decay: 0; usual 0 to 0.1" in lines
    assert "longest wait for a round: 30m; usual 1m to 1d" in lines
    noise = next(line for line in lines if line.startswith("noise on a step"))
    assert isinstance(plan.mechanism, PatientMechanism)
    assert f": {plan.mechanism.step.noise_multiplier:g};" in noise
    assert not any("UNUSUAL" in line for line in lines)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"privacy": {"clip_norm": 0.001}}, "clip norm: 0.001; usual 0.1 to 10"),
        (
            {"task": {"class_weights": [1.0, 500.0]}},
            "weight of a class in the loss: 1, 500; usual 0.1 to 50",
        ),
        (
            {"data": {"std": 0.001}},
            "standard deviation that each pixel is divided by: 0.001; usual 0.05 to 1",
        ),
        ({"aggregation": {"round_timeout": "2s"}}, "longest wait for a round: 2s; usual 1m to 1d"),
    ],
)
def test_an_unusual_number_is_said_before_all_else(
    site: Site, sections: dict[str, dict[str, Any]], told: str
) -> None:
    shown = words(site, proposed(site, **sections))
    assert next(iter(shown)) == "READ THIS FIRST"
    assert shown["READ THIS FIRST"].split("\n")[0] == f"UNUSUAL: {told}"
    assert f"UNUSUAL: {told}" in shown["Every number"].split("\n")


def test_a_range_of_the_policy_is_shown_and_what_lies_beyond_cannot_be_approved(
    hospital: Hospital,
) -> None:
    with hospital.open() as site:
        plan = proposed(site)
    hospital.policy |= {"ranges": {"clip_norm": [0.01, 0.5], "steps": [1, 100]}}
    with hospital.open() as site:
        shown = words(site, plan)
        told = "[policy.ranges] clip_norm: requested clip norm 1, allowed 0.01 to 0.5;"
        assert shown["READ THIS FIRST"].startswith(f"EXCEEDS YOUR POLICY: {told}")
        lines = shown["Every number"].split("\n")
        assert "clip norm: 1; usual 0.1 to 10; your policy allows 0.01 to 0.5" in lines
        assert "total steps: 6; usual 1 to 20000; your policy allows 1 to 100" in lines
        with pytest.raises(Refusal) as caught:
            approve(site, plan.hash, by=BY)
        assert caught.value.code == "policy"


def test_an_epsilon_is_never_shown_too_small() -> None:
    assert [shown_epsilon(each) for each in (0.0, 1.0, 7.991, 2.0000001, math.inf)] == [
        "0.00",
        "1.00",
        "8.00",
        "2.01",
        "no bound",
    ]
