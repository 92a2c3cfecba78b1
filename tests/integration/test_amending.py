"""A hospital gets a new machine while a study runs: the study goes on, and its result says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.app import build
from common.errors import CheckpointError, RoundError
from common.numerics import Ticks
from common.plan import Offer
from common.wire.flower import context
from server.app import RunConfig, run_study
from server.study import amending
from server.study.round_zero import offers
from simulations.grids.in_process import LocalGrid
from tests.client.site_fixtures import SEED, Hospital
from tests.common.studies import small_study

STUDY = small_study(aggregation={"min_sites": 2, "round_timeout": "20s"})
NAMES = ("north", "south")


class Stopped(Exception):  # noqa: N818 - an operator's order
    """The study's process was ended."""


class Study:
    """A study of two hospitals, conducted as often as one likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "coordinator"
        self.hospitals = {name: Hospital(folder / name, name=name) for name in NAMES}
        self.events: list[tuple[str, dict[str, object]]] = []

    def run_study(self, *, until: int = 0, resume: bool = True) -> dict[str, Any]:
        """Go on to the end, or until a round is over; gives the outcome."""
        keys = {}
        for name, hospital in self.hospitals.items():
            with hospital.open() as site:  # which writes its site file anew
                keys[name] = site.key.public

        def observe(event: str, fields: dict[str, object]) -> None:
            self.events.append((event, fields))
            if event == "round.completed" and fields["round"] == until:
                raise Stopped

        places = {
            number: (
                name,
                context(
                    1,
                    number,
                    node={
                        "site": str(hospital.folder / "site.toml"),
                        "known-seed": str(SEED),
                    },
                    run={},
                ),
            )
            for number, (name, hospital) in enumerate(self.hospitals.items(), start=1)
        }
        agreed = dict.fromkeys(keys, 10**6)
        config = RunConfig(STUDY, self.folder, keys, agreed, 0, resume)
        run_study(LocalGrid(build(), places), config, observe)
        outcome: dict[str, Any] = json.loads((self.folder / "outcome.json").read_bytes())
        return outcome

    def told(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name == event]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """One round is over, and then the north gets a machine that computes otherwise."""
    made = Study(tmp_path)
    with pytest.raises(Stopped):
        made.run_study(until=1, resume=False)
    made.hospitals["north"].threads = 2
    return made


def test_a_study_goes_on_with_what_both_sides_agreed_on_and_its_result_says_so(
    study: Study,
) -> None:
    with pytest.raises(RoundError, match="too few usable"):
        study.run_study()  # who computes otherwise than agreed is absent
    plans = json.loads((study.folder / "plans.json").read_bytes())
    amending.wish(study.folder, ["north"])
    outcome = study.run_study()
    assert json.loads((study.folder / "plans.json").read_bytes()) == plans
    (told,) = outcome["amendments"]
    assert (told["site"], told["from_round"]) == ("north", 2)
    assert told["changed"] == {"threads": ["1", "2"]}
    assert study.told("numerics.amended") == [told]
    assert outcome["rounds"] == 3
    assert outcome["absences"] == []
    for hospital in study.hospitals.values():
        assert [row["state"] for row in hospital.rows("charges")] == ["committed"] * 4
    (row,) = study.hospitals["north"].rows("amendments")
    assert (row["hash"], row["decided_by"]) == (told["amendment"], "policy")
    assert study.hospitals["south"].rows("amendments") == []


def test_a_machine_that_would_never_be_in_time_is_not_agreed_on(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replies leave at a tick that is longer than a round waits for it."""

    def slow(*asked: Any) -> Iterator[tuple[str, Offer]]:  # noqa: ANN401 - as it is called
        for site, offer in offers(*asked):
            assert isinstance(offer, Offer)
            numerics = offer.numerics.model_copy(update={"ticks": Ticks(train=30_000)})
            yield site, offer.model_copy(update={"numerics": numerics})

    monkeypatch.setattr(amending, "offers", slow)
    amending.wish(study.folder, ["north"])
    with pytest.raises(RoundError, match="too few usable"):
        study.run_study()
    (told,) = study.told("amendment.refused")
    assert "take longer than the study waits" in str(told["reason"])
    assert "a time slot (tick) of 30 s, wanted less than 20s" in str(told["reason"])
    assert amending.stored(study.folder) == ()


def test_who_dies_before_the_answer_is_known_comes_to_the_same_amendment(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    amending.wish(study.folder, ["north"])
    stores: list[object] = []

    def once(folder: Path, known: Any) -> None:  # noqa: ANN401 - as it is called
        store(folder, known)
        stores.append(known)
        if len(stores) == 1:
            raise Stopped  # durable, and not yet proposed

    store = amending._store  # noqa: SLF001 - the moment at which it dies
    monkeypatch.setattr(amending, "_store", once)
    with pytest.raises(Stopped):
        study.run_study()
    (written,) = amending.stored(study.folder)
    assert not written.agreed
    outcome = study.run_study()
    assert [each["amendment"] for each in outcome["amendments"]] == [written.amendment.hash]
    assert amending.stored(study.folder)[0].agreed


def test_a_site_that_computes_as_ever_is_not_amended(study: Study) -> None:
    amending.wish(study.folder, ["north", "south"])
    outcome = study.run_study()
    assert [each["site"] for each in outcome["amendments"]] == ["north"]
    (refused,) = study.told("amendment.refused")
    assert refused == {"site": "south", "reason": "nothing has changed since the agreement"}


def test_an_amendment_that_can_be_agreed_to_no_more_makes_room_for_the_next(study: Study) -> None:
    north = study.hospitals["north"]
    amending.wish(study.folder, ["north"])
    north.policy = {"approval": "ask"}
    with pytest.raises(RoundError):
        study.run_study()  # a person has yet to consent
    north.threads, north.policy = 3, {}
    amending.wish(study.folder, ["north"])
    outcome = study.run_study()
    assert [each["changed"] for each in outcome["amendments"]] == [{"threads": ["1", "3"]}]


def test_amendments_that_are_damaged_stop_the_study(study: Study) -> None:
    (study.folder / amending.FILE).write_text('{"amendments": [{}]}')
    with pytest.raises(CheckpointError, match="amendments cannot be read"):
        study.run_study()
