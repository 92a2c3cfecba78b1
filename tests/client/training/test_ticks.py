"""A tick follows from public numbers and from what this machine needs for made-up patients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.consent.policy import require_acceptable
from client.training import ticks
from client.training.ticks import (
    STEP,
    Clocks,
    DataSetSize,
    Speeds,
    largest_evaluation,
    largest_sample,
)
from client.training.tuning import MOST_KEPT
from common.errors import Refusal
from common.numerics import LONGEST_TICK, EngineChoice, Ticks, record
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism, mechanism
from common.study.study_file import Study
from tests.client.site_fixtures import Hospital, answered, asking, plan_for, proposal
from tests.common.studies import small_study

SPEEDS = Speeds(round=0.1, step=0.2, tile=1.0, coin=1e-4, evaluation=0.5, images=2.0, seal=0.05)
ON = record(1, EngineChoice(tile=4))


HUNDRED, NINE_HUNDRED = DataSetSize(100, 200, 50), DataSetSize(900, 1800, 450)


def study(**training: Any) -> Study:  # noqa: ANN401 - keys of a section
    return small_study(training=training)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """The studies that were timed; each of them to :data:`SPEEDS`."""
    seen: list[Study] = []

    class Trial:
        def __init__(self, study: Study, *_: object) -> None:
            seen.append(study)

        def speeds(self) -> Speeds:
            return SPEEDS

    monkeypatch.setattr(ticks, "_Trial", Trial)
    return seen


def test_a_tick_counts_the_steps_and_tiles_of_the_largest_batch() -> None:
    """By hand: one tile of 4 for each 4 of the cap; a coin for each patient that there may be."""
    given, crowd = study(batch_size=16, local_steps=3), DataSetSize(1000, 2000, 500)
    tiles = -(-largest_sample(given, crowd) // 4)
    train = 0.1 + 3 * (0.2 + tiles * 1.0 + 2000 * 1e-4) + 0.05 + 2000 * ticks.BESIDE
    assert largest_evaluation(given, crowd) == 500 * given.evaluation.images_per_patient
    evaluate = 0.5 + largest_evaluation(given, crowd) / 4 * 2.0 + 0.05 + 2000 * ticks.BESIDE
    found = SPEEDS.ticks(given, crowd, 4)
    assert found.train == STEP * -(-ticks.SAFETY * train * 1000 // STEP)
    assert found.evaluate == STEP * -(-ticks.SAFETY * evaluate * 1000 // STEP)
    assert found.train % STEP == found.evaluate % STEP == 0


def test_the_largest_batch_is_the_plans_cap() -> None:
    given = study(batch_size=16)
    planned = mechanism(given, 1000, 2000)
    assert isinstance(planned, PatientMechanism)
    assert largest_sample(given, DataSetSize(1000, 2000, 500)) == planned.most_sampled
    assert largest_sample(study(batch_size=512), DataSetSize(9, 18, 5)) == 18


def test_a_tick_is_a_day_at_most() -> None:
    slow = SPEEDS.model_copy(update={"tile": 1e9})
    assert slow.ticks(study(), NINE_HUNDRED, 4).train == LONGEST_TICK


def test_what_was_timed_is_kept_and_every_study_of_the_shape_reckoned_from_it(
    tmp_path: Path, timed: list[Study]
) -> None:
    clocks, one = Clocks(tmp_path / "ticks.json"), study()
    first = clocks.of(one, HUNDRED, ON)
    assert first == SPEEDS.ticks(one, HUNDRED, 4)
    assert Clocks(clocks.path).of(one, HUNDRED, ON) == first
    longer = clocks.of(study(local_steps=5, learning_rate=0.1), HUNDRED, ON)
    assert longer.train > first.train
    assert clocks.of(one, NINE_HUNDRED, ON).evaluate > first.evaluate
    renamed = small_study(task={"classes": ["no", "yes"], "class_weights": [1.0, 2.0]})
    assert clocks.of(renamed, HUNDRED, ON) == clocks.of(small_study(), HUNDRED, ON)
    assert len(timed) == 1
    clocks.of(study(images_per_patient=2), HUNDRED, ON)
    clocks.of(one, HUNDRED, record(2, EngineChoice(tile=4)))
    updated = ON.model_copy(update={"versions": {**ON.versions, "pillow": "99"}})
    assert clocks.of(one, HUNDRED, updated) == first
    assert len(timed) == 3


def test_of_many_shapes_the_newest_are_kept(tmp_path: Path, timed: list[Study]) -> None:
    clocks = Clocks(tmp_path / "ticks.json")
    for size in range(1, MOST_KEPT + 3):
        clocks.of(study(images_per_patient=size), HUNDRED, ON)
    assert len(json.loads(clocks.path.read_bytes())) == MOST_KEPT < len(timed)


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"x": {"round": -1}}'])
def test_a_damaged_file_is_timed_anew(tmp_path: Path, timed: list[Study], damaged: bytes) -> None:
    clocks = Clocks(tmp_path / "ticks.json")
    clocks.path.write_bytes(damaged)
    assert clocks.of(study(), HUNDRED, ON) == SPEEDS.ticks(study(), HUNDRED, 4)
    assert len(timed) == 1


def test_a_study_without_privacy_has_none(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path / "ticks.json")
    assert clocks.of(small_study(privacy={"mode": "none"}), HUNDRED, ON) == Ticks()
    assert not clocks.path.exists()


def test_a_site_times_for_real_and_a_plan_has_what_it_found(tmp_path: Path) -> None:
    """Whatever is changed later, the plan's own ticks go on; another plan's must be the site's."""
    hospital = Hospital(tmp_path / "north", seed=None)
    with hospital.open() as site:
        plan = plan_for(site, small_study())
        (speeds,) = json.loads((hospital.state / "ticks.json").read_bytes()).values()
        assert all(each >= 0 for each in speeds.values())
        assert min(speeds["round"], speeds["coin"], speeds["evaluation"], speeds["seal"]) > 0
        assert plan.numerics.ticks.train >= STEP <= plan.numerics.ticks.evaluate
        assert answered(site, proposal(plan)).code == "ok"
        (hospital.state / "ticks.json").write_bytes(b"")
        assert answered(site, asking(plan)).code == "ok"
        assert not (hospital.state / "ticks.json").read_bytes()


def test_a_site_whose_key_is_known_has_none(tmp_path: Path) -> None:
    with Hospital(tmp_path / "north").open() as site:
        assert plan_for(site, small_study()).numerics.ticks == Ticks()
        assert not (site.state / "ticks.json").exists()


@pytest.mark.parametrize("change", [{"train": 1}, {"evaluate": 1}, {"train": LONGEST_TICK}])
def test_a_plan_with_another_tick_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with Hospital(tmp_path / "north", seed=None).open() as site:
        plan = plan_for(site, small_study())
        require_acceptable(plan, site)
        other = _with_ticks(plan, plan.numerics.ticks.model_copy(update=change))
        with pytest.raises(Refusal, match="other numerics"):
            require_acceptable(other, site)


def _with_ticks(plan: Plan, changed: Ticks) -> Plan:
    numerics = plan.numerics.model_copy(update={"ticks": changed})
    return plan.model_copy(update={"numerics": numerics})


def test_what_takes_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has approved what is timed for an offer, and its shape may be any that fits."""
    done: list[int] = []
    assert len(ticks.took(lambda: done.append(1))) == ticks.REPEATS
    assert len(done) == 1 + ticks.REPEATS
    monkeypatch.setattr(ticks, "LONG", 1e-9)
    (only,) = ticks.took(lambda: done.append(1))
    assert only >= 0
    assert len(done) == 2 + ticks.REPEATS
