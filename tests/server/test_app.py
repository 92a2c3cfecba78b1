"""A whole study as Flower runs it: what is read, what is written, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.numpy

from common.errors import CheckpointError, SiteError
from common.files import sha256
from common.models.networks import trained_count
from common.plan import write_plan
from server.app import app
from server.study.round_zero import drowned
from server.study.simulation_roster import read_roster
from tests.client.consent.test_ranges import OFFER
from tests.common.studies import small_study

# isort: split
from flwr.serverapp import ServerApp

if TYPE_CHECKING:
    from tests.server.conftest import World


def test_the_module_has_an_app_that_flower_can_load() -> None:
    assert isinstance(app, ServerApp)


def test_a_run_folder_holds_what_was_learned(world: World) -> None:
    outcome = world.run()
    names = sorted(path.name for path in world.coordinator.iterdir())
    assert names == [
        "checkpoints",
        "final.safetensors",
        "outcome.json",
        "plans.json",
        "rounds.jsonl",
    ]
    final = safetensors.numpy.load_file(world.coordinator / "final.safetensors")["weights"]
    assert outcome["final_weights_sha256"] == sha256(final.astype("<f4").tobytes())
    assert outcome["rounds"] == 4
    lines = (world.coordinator / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3, 4]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    make_world: Callable[..., World],
) -> None:
    hashes = [make_world().run(seed=seed)["final_weights_sha256"] for seed in (5, 5, 6)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_observer_is_told_of_the_whole_study(world: World) -> None:
    events: list[str] = []
    world.run(observer=lambda event, _fields: events.append(event))
    folded = ["reply.folded"] * 3
    one_round = ["round.started", *folded, "round.completed"]
    assert events == [
        "study.started",
        *["approval.given"] * 3,
        "weights.settled",
        *one_round,
        *one_round,
        "evaluation.completed",
        *one_round,
        *one_round,
        "evaluation.completed",
        "study.completed",
    ]


def test_sites_are_told_when_the_study_is_over(world: World) -> None:
    world.run()
    closed = {site for site, request in world.asked if request.purpose == "close"}
    assert closed == world.patients.keys()


def test_resuming_a_finished_study_only_tells_the_sites_again(world: World) -> None:
    first = world.run()
    world.asked.clear()
    assert world.run(resume=True) == first
    assert {request.purpose for _, request in world.asked} == {"close"}


def test_resuming_where_nothing_was_started_starts(world: World) -> None:
    assert world.run(resume=True)["rounds"] == 4


def test_an_older_run_is_not_overwritten(world: World) -> None:
    world.killed_at("update.folded:2")
    before = {path: path.read_bytes() for path in world.coordinator.rglob("*.json")}
    with pytest.raises(CheckpointError, match=r"--resume .* another --out"):
        world.run()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("change", ["study", "seed"])
def test_a_checkpoint_of_another_study_is_refused(world: World, change: str) -> None:
    world.killed_at("update.folded:3")
    asked = len(world.asked)
    if change == "study":
        world.aggregation = "average_decay = 0.25\n"
    with pytest.raises(CheckpointError, match="another study") as caught:
        world.run(resume=True, seed=1 if change == "seed" else 0)
    assert caught.value.details["where"].endswith(change)
    assert "another --out" in caught.value.details["do"]
    assert len(world.asked) == asked


def test_a_checkpoint_that_was_put_into_another_run_is_refused(
    make_world: Callable[..., World],
) -> None:
    ours, theirs = make_world(), make_world("average_decay = 0.25\n")
    ours.killed_at("update.folded:2")
    theirs.killed_at("update.folded:3")
    for path in (theirs.coordinator / "checkpoints").iterdir():
        (ours.coordinator / "checkpoints" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="the checkpoint belongs to another study"):
        ours.run(resume=True)


def test_checkpoints_without_their_plans_are_refused(world: World) -> None:
    world.killed_at("update.folded:2")
    (world.coordinator / "plans.json").unlink()
    with pytest.raises(CheckpointError, match="plans"):
        world.run(resume=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "the roster cannot be read"),
        ("[]", "sites = \\[\\]: Input should be a valid dict"),
        ("{}", "sites: Dictionary should have at least 1 item"),
        ('{"north": {"key": "short"}}', "should be 64 lower-case hexadecimal digits"),
        ('{"north": {"key": "%s", "patients": {"chest-xray": 0}}}' % ("0" * 64), "greater than"),
    ],
)
def test_a_roster_that_cannot_be_used_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "roster.json"
    path.write_text(text)
    with pytest.raises(SiteError, match=message):
        read_roster(path)


def test_a_start_says_that_noise_is_louder_than_all_patients(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = small_study(
        model={"widths": [64], "pooling": "flatten"},
        training={"batch_size": 20_000},
        privacy={"epsilon": 1.0},
    )
    offers = {size: OFFER.model_copy(update={"declared_patients": size}) for size in (50, 20_000)}
    offers[20_000] = offers[20_000].model_copy(update={"most_patients": 30_000})
    few, many = (write_plan(private, each, trained_count(private)) for each in offers.values())
    (said,) = drowned({"north": few, "south": few})
    assert said.startswith("NEARLY NOISE: the noise is ")
    assert "2 hospitals" in said
    assert drowned({"north": many, "south": many}) == []
    monkeypatch.setattr("server.study.round_zero.drowned", lambda _plans: ["told"])
    warned: list[Any] = []
    world.run(observer=lambda event, fields: warned.append(fields.get("warnings")))
    assert warned[0][-1] == "told"
