from __future__ import annotations

from typing import TYPE_CHECKING

from common.package.package import Package, read
from common.study.study_file import load_study
from common.wire.signing import SigningKey
from server.packaging import FILE, write_package
from tests.server.conftest import World

if TYPE_CHECKING:
    from pathlib import Path

KEY = SigningKey(bytes(32))


def packed(world: World) -> Package:
    write_package(load_study(world.study_file), world.coordinator, 0, key=KEY)
    return read(world.coordinator / FILE)


def test_a_package_says_what_the_coordinator_publishes(world: World) -> None:
    outcome = world.run()

    found = packed(world)

    assert found.statement.weights == outcome["final_weights_sha256"]
    assert set(found.statement.sites) == set(outcome["sites"])
    assert found.statement.rounds == outcome["rounds"]
    (measured,) = found.statement.figures
    told = outcome["evaluations"][-1]["metrics"]["values"]
    assert {name: each.value for name, each in measured.figures.items()} == {
        name: each["value"] for name, each in told.items()
    }
    assert found.statement.points


def test_figures_of_an_earlier_round_are_not_those_of_the_model(tmp_path: Path) -> None:
    world = World(tmp_path / "run", evaluations="[1]")
    outcome = world.run()
    assert [each["round"] for each in outcome["evaluations"]] == [1]

    found = packed(world)

    assert found.statement.figures == ()
    assert found.statement.points == ()
    assert "It was not measured" in found.card


def test_a_study_that_is_resumed_keeps_its_first_package(world: World) -> None:
    world.run()
    first = packed(world).sha256

    write_package(load_study(world.study_file), world.coordinator, 0, key=SigningKey(b"o" * 32))

    assert read(world.coordinator / FILE).sha256 == first
