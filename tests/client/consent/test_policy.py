"""The hospital decides: each number of a plan is its own, and each limit is the policy's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import time
from pathlib import Path
from typing import Any

import pytest

from client.consent.policy import require_acceptable, require_allowed, within
from client.site import Site
from common.errors import Refusal, RefusalCode
from common.numerics import EngineChoice
from common.plan import Plan
from common.privacy.accounting import exceeds
from common.privacy.mechanisms import PatientMechanism
from tests.client.site_fixtures import Hospital, plan_for
from tests.common.studies import small_study

FREE: dict[str, Any] = {"privacy": {"mode": "none"}}
Change = Callable[[Plan], dict[str, Any]]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"), {"P00": 1, "P01": 1})


@pytest.fixture
def site(hospital: Hospital) -> Iterator[Site]:
    hospital.policy = {}
    with hospital.open() as opened:
        yield opened


def verdict(site: Site, plan: Plan) -> tuple[RefusalCode, str]:
    """The code of the refusal, and the number or limit that it names."""
    with pytest.raises(Refusal) as caught:
        require_acceptable(plan, site)
    return caught.value.code, caught.value.details.get("where", "")


def mechanism(plan: Plan, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - a mechanism's fields
    return {"mechanism": plan.mechanism.model_copy(update=changes)}


def step(plan: Plan, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - an event's fields
    assert isinstance(plan.mechanism, PatientMechanism)
    return mechanism(plan, step=plan.mechanism.step.model_copy(update=changes))


def test_the_plan_that_follows_from_the_offer_is_allowed(site: Site) -> None:
    require_acceptable(plan_for(site, small_study()), site)


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        (lambda _: {"site": "south"}, "wrong-plan", "site"),
        (lambda _: {"declared_patients": 30}, "wrong-plan", "declared_patients"),
        (lambda _: {"known_key": False}, "wrong-plan", "known_key"),
        (lambda _: {"weights": 105}, "wrong-plan", "weights"),
        (lambda _: {"weight": 21}, "wrong-plan", "weight"),
        (
            lambda plan: {"numerics": plan.numerics.model_copy(update={"threads": 2})},
            "numerics",
            "numerics",
        ),
        (
            lambda plan: {
                "numerics": plan.numerics.model_copy(update={"choice": EngineChoice(tile=1)})
            },
            "numerics",
            "numerics",
        ),
        (lambda plan: step(plan, sampling_rate=0.2), "wrong-plan", "sampling_rate"),
        (lambda plan: step(plan, noise_multiplier=0.5), "wrong-plan", "epsilon_training"),
        (lambda plan: step(plan, noise_multiplier=1e-9), "wrong-plan", "epsilon_training"),
        (lambda plan: mechanism(plan, clip_norm=10.0), "wrong-plan", "clip_norm"),
        (lambda plan: mechanism(plan, divisor=1.0), "wrong-plan", "divisor"),
        (lambda plan: mechanism(plan, cell_noise=0.0), "wrong-plan", "cell_noise"),
        (lambda plan: mechanism(plan, epsilon_training=1.0), "wrong-plan", "epsilon_training"),
    ],
)
def test_each_number_is_compared_with_the_sites_own(
    site: Site, change: Change, code: str, where: str
) -> None:
    plan = plan_for(site, small_study())
    assert verdict(site, plan.model_copy(update=change(plan))) == (RefusalCode(code), where)


def test_an_equal_weight_is_one(site: Site) -> None:
    plan = plan_for(site, small_study(aggregation={"weights": "equal"}))
    require_acceptable(plan, site)
    heavier = plan.model_copy(update={"weight": 20})
    assert verdict(site, heavier) == (RefusalCode.WRONG_PLAN, "weight")


def test_a_weight_may_be_lower_where_the_study_caps_a_share(site: Site) -> None:
    plan = plan_for(site, small_study(aggregation={"max_share": 0.5}))
    for weight in (1, 19, 20):
        require_acceptable(plan.model_copy(update={"weight": weight}), site)
    heavier = plan.model_copy(update={"weight": 21})
    assert verdict(site, heavier) == (RefusalCode.WRONG_PLAN, "weight")
    lighter = plan_for(site, small_study()).model_copy(update={"weight": 19})
    assert verdict(site, lighter) == (RefusalCode.WRONG_PLAN, "weight")


@pytest.mark.parametrize(
    ("policy", "sections", "key"),
    [
        ({"tasks": ["segmentation"]}, {}, "tasks"),
        ({"tasks": []}, {}, "tasks"),
        ({"min_sites": 3}, {}, "min_sites"),
        ({"delta": 1e-6}, {}, "delta"),
        ({"max_epsilon_per_study": 7.0}, {}, "max_epsilon_per_study"),
        ({"allow_no_privacy": False}, FREE, "allow_no_privacy"),
    ],
)
def test_each_limit_of_the_policy_is_kept(
    hospital: Hospital, policy: dict[str, Any], sections: dict[str, Any], key: str
) -> None:
    hospital.policy = policy
    with hospital.open() as site:
        plan = plan_for(site, small_study(**sections))
        assert verdict(site, plan) == (RefusalCode.POLICY, f"[policy] {key}")


def test_no_privacy_needs_the_policys_leave_and_then_needs_no_epsilon(hospital: Hospital) -> None:
    hospital.policy = {"allow_no_privacy": True, "max_epsilon_per_study": 1.0}
    with hospital.open() as site:
        require_acceptable(plan_for(site, small_study(**FREE)), site)


def test_weights_that_were_trained_on_the_sites_patients_begin_no_private_study(
    hospital: Hospital,
) -> None:
    named = {"file": "own.safetensors", "sha256": "a" * 64, "source": "here"}
    initial = named | {"licence": "CC0-1.0", "trained_on": "our patients"}
    model = {"widths": [4], "initial": initial}
    hospital.policy = {"own_weights": ["a" * 64], "allow_no_privacy": True}
    with hospital.open() as site:
        plan = plan_for(site, small_study(model=model))
        assert verdict(site, plan) == (RefusalCode.POLICY, "[policy] own_weights")
        with pytest.raises(Refusal):
            require_allowed(plan, site)  # in each round, too
        other = plan_for(
            site, small_study(model={"widths": [4], "initial": initial | {"sha256": "b" * 64}})
        )
        require_acceptable(other, site)
        require_acceptable(plan_for(site, small_study(model=model, **FREE)), site)


def test_a_study_for_more_patients_than_are_declared_is_declined(site: Site) -> None:
    require_acceptable(plan_for(site, small_study(data={"min_patients": 20})), site)
    plan = plan_for(site, small_study(data={"min_patients": 21}))
    assert verdict(site, plan)[0] is RefusalCode.DATA_UNAVAILABLE


def test_a_plan_may_not_turn_privacy_off_for_a_private_study(hospital: Hospital) -> None:
    hospital.policy = {"allow_no_privacy": True}
    with hospital.open() as site:
        free = plan_for(site, small_study(**FREE)).mechanism
        plan = plan_for(site, small_study()).model_copy(update={"mechanism": free})
        assert verdict(site, plan) == (RefusalCode.WRONG_PLAN, "mode")


def test_the_accountant_is_not_asked_about_what_the_policy_forbids(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work grows with epsilon and steps, and those are the coordinator's wish."""
    asked: list[float] = []

    def counting(*given: float) -> bool:
        asked.append(given[-1])
        return exceeds(*given)  # type: ignore[arg-type] # a count among them

    monkeypatch.setattr("common.privacy.mechanisms.exceeds", counting)
    hospital.policy = {"max_epsilon_per_study": 7.0}
    with hospital.open() as site:
        plan = plan_for(site, small_study(privacy={"epsilon": 6.0}))
        asked.clear()
        dear = plan.model_copy(update=mechanism(plan, epsilon_training=7.5))
        assert verdict(site, dear) == (RefusalCode.POLICY, "[policy] max_epsilon_per_study")
        assert asked == []
        require_acceptable(plan, site)
        assert asked[0] == 6.0


VAST: dict[str, Any] = {
    "model": {"name": "scattering", "scales": 6, "orientations": 32}
    | dict.fromkeys(("widths", "hidden", "norm", "pooling")),
    "data": {"image_size": [256, 256]},
}
"""Few weights, and some hundred MiB for one image on its way through the fixed filters."""


def test_what_one_patient_takes_is_held_against_the_sites_own_memory(hospital: Hospital) -> None:
    vast = small_study(**VAST)
    hospital.policy = {}
    with hospital.open() as site:
        plan = plan_for(site, vast)
        require_acceptable(plan, site)
    hospital.memory_mib = 64
    try:
        with hospital.open() as site:
            assert verdict(site, plan) == (RefusalCode.POLICY, "[device] memory_mib")
    finally:
        hospital.memory_mib = 1024


@pytest.mark.long
def test_nothing_is_built_or_run_for_what_does_not_fit(tmp_path: Path) -> None:
    """In a process of its own, whose memory could not hold it: what is built there, ends it."""
    given = small_study(
        **VAST | {"data": {"image_size": [4096, 4096]}, "training": {"images_per_patient": 4}}
    )
    hospital = Hospital(tmp_path / "north", {"P00": 1})
    hospital.open().close()
    command = [sys.executable, "-c", ASKED, str(hospital.folder), given.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "policy"


ASKED = """
import resource, sys
from pathlib import Path
import client.training.tuning
from client.requests.handler import answer
from client.site import open_site
from common.study.study_file import Study
from tests.client.site_fixtures import SEED, offer_request

with open_site(Path(sys.argv[1]) / "site.toml", known_seed=SEED) as site:
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    now = int(status["VmSize"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
    print(answer(site, offer_request(Study.model_validate_json(sys.argv[2]))).code)
"""


def test_images_of_all_declared_patients_have_to_fit_on_the_disk(hospital: Hospital) -> None:
    """A public number for a public answer: how many images there are is not looked at."""
    hospital.policy = {}
    with hospital.open() as site:
        plan = plan_for(site, small_study())
    height, width = plan.study.data.image_size
    needed = 2 * height * width * hospital.declared
    try:
        for least, fits in ((needed, True), (needed - 1, False)):
            hospital.cache_gib = least / 2**30
            with hospital.open() as site:
                if fits:
                    require_acceptable(plan, site)
                else:
                    assert verdict(site, plan) == (RefusalCode.POLICY, "[site] cache_gib")
    finally:
        hospital.cache_gib = 64.0


def test_a_round_is_held_against_the_policy_and_its_cost_is_not_computed_again(
    hospital: Hospital,
) -> None:
    """An approval binds to the hash of the plan, whose cost was computed then."""
    with hospital.open() as site:
        plan = plan_for(site, small_study())
    hospital.policy = {"max_epsilon_per_study": 7.0}
    with hospital.open() as site, pytest.raises(Refusal) as caught:
        require_allowed(plan, site)
    assert caught.value.details["where"] == "[policy] max_epsilon_per_study"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        (None, ["00:00", "12:00"], []),
        ("20:00-06:00", ["20:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "19:59"]),
        ("08:30-17:00", ["08:30", "16:59"], ["17:00", "08:29", "00:00"]),
    ],
)
def test_the_hours_begin_with_the_first_and_end_before_the_last(
    hours: str | None, inside: list[str], outside: list[str]
) -> None:
    assert all(within(hours, time.fromisoformat(each)) for each in inside)
    assert not any(within(hours, time.fromisoformat(each)) for each in outside)
