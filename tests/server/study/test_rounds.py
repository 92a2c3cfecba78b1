"""The same study ends with the same weights, whatever happens to it on the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from common.checkpoint import Checkpoint, study_hash
from common.errors import RefusalCode, RoundError
from common.files import sha256
from common.wire.flower import Message, identify
from common.wire.messages import Reply, Request
from server.study.aggregation import begin
from server.study.rounds import advance
from simulations.grids.in_process import LocalGrid
from simulations.grids.nodes import RUN_ID
from tests.common.studies import small_study

if TYPE_CHECKING:
    from tests.server.conftest import World

    MakeWorld = Callable[..., World]

STRATEGIES = {
    "fedavg": 'strategy = "fedavg"\n',
    "fedavgm": 'strategy = "fedavgm"\n[aggregation.options]\nserver_momentum = 0.9\n',
    "fedadam": 'strategy = "fedadam"\n[aggregation.options]\neta = 0.01\n',
}
AVERAGE = "average_decay = 0.5\n"
POINTS = [
    "update.folded:2",
    "checkpoint.begun:3",
    "file.half-written:round-000003.safetensors",
    "file.half-written:round-000003.json",
    "checkpoint.written:2",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_order_of_replies_gives_the_same_weights(make_world: MakeWorld, strategy: str) -> None:
    orders = itertools.permutations(["north", "south", "west"])
    hashes = {
        make_world(STRATEGIES[strategy]).run(order=list(order))["final_weights_sha256"]
        for order in orders
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_anywhere_and_resumed_it_ends_as_if_undisturbed(
    make_world: MakeWorld, strategy: str
) -> None:
    aggregation = AVERAGE + STRATEGIES[strategy]
    undisturbed = make_world(aggregation).run()["final_weights_sha256"]
    for point in POINTS:
        world = make_world(aggregation)
        world.killed_at(point)
        assert world.run(resume=True)["final_weights_sha256"] == undisturbed, point


def test_killed_between_two_evaluations_asks_only_for_what_is_missing(world: World) -> None:
    world.killed_at("update.folded:3")
    world.run(resume=True)
    rounds = [(request.purpose, request.round) for site, request in world.asked if site == "west"]
    assert rounds == [
        ("propose", 0),
        ("train", 3),
        ("train", 4),
        ("evaluate", 4),
        ("close", 4),
    ]


def test_a_damaged_newest_checkpoint_costs_a_round_and_nothing_else(
    make_world: MakeWorld,
) -> None:
    undisturbed = make_world().run()["final_weights_sha256"]
    world = make_world()
    world.killed_at("update.folded:4")
    newest = world.checkpoints[-1]
    newest.with_suffix(".safetensors").write_bytes(b"damaged")
    assert world.run(resume=True)["final_weights_sha256"] == undisturbed
    assert ("train", 3) in [(request.purpose, request.round) for _, request in world.asked]


def test_sites_keep_their_replies_as_long_as_a_restart_may_need_them(world: World) -> None:
    """Three checkpoints are kept: round 4 may be asked for until the one of round 4 is old."""
    world.run()
    acknowledged = [
        (request.round, request.acknowledged)
        for site, request in world.asked
        if site == "west" and request.purpose == "train"
    ]
    assert acknowledged == [(1, 0), (2, 0), (3, 0), (4, 1)]


def test_fedavg_by_hand(make_world: MakeWorld) -> None:
    """One round of two sites: the weighted mean of their units, added to the first weights."""
    world = make_world('strategy = "fedavg"\naverage_decay = 0.0\n')
    after: list[Any] = []

    def units(_site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "train":
            return reply
        assert request.arrays is not None
        value = {"north": 2**24, "south": -(2**24), "west": 0}[reply.site]
        arrays = np.full(request.arrays.size, value if request.round == 1 else 0, dtype=np.int32)
        return world.sign(replace(reply, arrays=arrays))

    world.alter = units
    world.run(observer=lambda event, fields: after.append(fields.get("weights")))
    first = next(request for _, request in world.asked if request.purpose == "train").arrays
    assert first is not None
    shared = [weights for weights in after if weights is not None]
    change = (100 - 60) / (100 + 60 + 210)
    np.testing.assert_allclose(shared[0], first + np.float32(change), rtol=0, atol=2**-23)
    np.testing.assert_array_equal(shared[0], shared[3])


def test_average_by_hand(make_world: MakeWorld) -> None:
    """With decay 1/2 after two rounds the average is (w1 + 2 w2) / 3."""
    rounds: dict[str, list[Any]] = {"plain": [], "averaged": []}
    for name, lines in (("plain", "average_decay = 0.0\n"), ("averaged", AVERAGE)):

        def observe(event: str, fields: dict[str, object], name: str = name) -> None:
            if event == "round.completed":
                rounds[name].append(fields["weights"])

        make_world(lines).run(observer=observe)
    w1, w2 = (weights.astype(np.float64) for weights in rounds["plain"][:2])
    np.testing.assert_array_equal(rounds["averaged"][0], rounds["plain"][0])
    np.testing.assert_allclose(rounds["averaged"][1], (w1 + 2 * w2) / 3, rtol=1e-6)


def test_evaluations_are_pooled_exactly_over_the_averaged_weights(make_world: MakeWorld) -> None:
    world = make_world(AVERAGE)
    outcome = world.run()
    assert [record["round"] for record in outcome["evaluations"]] == [2, 4]
    pooled = np.array(outcome["evaluations"][0]["histogram"])
    np.testing.assert_array_equal(pooled.reshape(-1), 3 * (np.arange(20) // 4))
    evaluated = [request for _, request in world.asked if request.purpose == "evaluate"][-1]
    assert evaluated.arrays is not None
    final = safetensors.numpy.load_file(world.coordinator / "final.safetensors")["weights"]
    np.testing.assert_array_equal(evaluated.arrays, final)
    assert outcome["final_weights_sha256"] == sha256(final.tobytes())


def test_a_missing_site_does_not_stop_the_others(world: World) -> None:
    def fails_in_round_two(site: str, request: Request, reply: Reply) -> Reply:
        if site == "south" and request.round == 2 and request.purpose == "train":
            raise RuntimeError("disk full")
        return reply

    world.alter = fails_in_round_two
    outcome = world.run()
    (absence,) = outcome["absences"]
    assert absence["round"] == 2
    assert absence["site"] == "south"
    assert absence["reason"] == "its client failed"
    lines = (world.coordinator / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["sites"] for line in lines] == [
        ["north", "south", "west"],
        ["north", "west"],
        ["north", "south", "west"],
        ["north", "south", "west"],
    ]


def test_too_few_replies_name_who_was_missing_and_why_and_a_resume_mends_it(
    make_world: MakeWorld,
) -> None:
    undisturbed = make_world().run()["final_weights_sha256"]
    world = make_world()

    def unusable(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "train" or request.round != 3:
            return reply
        if site == "north":
            return reply.with_signature(b"\0" * 64)
        if site == "south":
            refusal = replace(reply, code=str(RefusalCode.POLICY), arrays=None)
            return world.sign(refusal)
        return reply

    world.alter = unusable
    with pytest.raises(RoundError) as caught:
        world.run()
    message = str(caught.value)
    assert "round 3 got too few usable replies" in message
    assert "north: bad signature" in message
    assert "south: its policy does not allow the plan (policy)" in message
    assert "at least 2" in message
    assert "continue: the same command with --resume" in message  # nobody runs a daemon here
    assert not (world.coordinator / "outcome.json").exists()
    assert world.checkpoints[-1].stem == "round-000002"
    world.alter = lambda _site, _request, reply: reply
    assert world.run(resume=True)["final_weights_sha256"] == undisturbed


def test_a_round_of_updates_that_are_cut_off_advises_a_lower_learning_rate(world: World) -> None:
    def cut_off(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "train" or reply.arrays is None:
            return reply
        return world.sign(replace(reply, arrays=np.full_like(reply.arrays, 2**31 - 1)))

    world.alter = cut_off
    with pytest.raises(RoundError) as caught:
        world.run()
    assert "north: an update that was cut off at the largest entry" in str(caught.value)
    assert "start a new study with a lower learning_rate" in caught.value.details["do"]


def test_too_few_evaluations_stop_the_study_after_the_round_is_durable(world: World) -> None:
    def none(_site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "evaluate":
            return replace(reply, round=3)
        return reply

    world.alter = none
    with pytest.raises(RoundError, match="evaluation, round 2"):
        world.run()
    assert world.checkpoints[-1].stem == "round-000002"


def counting(world: World, sites: set[str], count: int) -> Callable[..., Reply]:
    """Let sites claim so many patients in one cell."""

    def alter(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose != "evaluate" or site not in sites:
            return reply
        counts = np.zeros(20, dtype=np.int64)
        counts[-1] = count
        return world.sign(replace(reply, arrays=counts))

    return alter


def test_a_histogram_that_cannot_be_is_left_out_by_name_and_the_others_counted(
    world: World,
) -> None:
    world.alter = counting(world, {"south"}, 2**40)
    outcome = world.run()
    for record in outcome["evaluations"]:
        assert record["sites"] == ["north", "west"]
        assert record["histogram"] == (2 * (np.arange(20) // 4)).reshape(2, 1, 10).tolist()
    reason = (
        f"an impossible histogram: {2**40} patients in a cell; its declared patients "
        "allow 120, and noise at most 0 more"
    )
    assert [(each["round"], each["site"], each["reason"]) for each in outcome["absences"]] == [
        (2, "south", reason),
        (4, "south", reason),
    ]
    assert len(outcome["evaluations"][0]["metrics"]["tables"]["confusion"]) == 2


def test_where_too_few_histograms_can_be_there_are_no_figures_and_the_study_goes_on(
    world: World,
) -> None:
    """Their replies are stored, so that asking again would never bring another."""
    world.alter = counting(world, {"south", "west"}, 2**40)
    outcome = world.run()
    assert [record["round"] for record in outcome["evaluations"]] == [2, 4]
    assert outcome["rounds"] == 4
    auc = outcome["evaluations"][1]["metrics"]["values"]["auc"]
    assert (auc["value"], auc["meaningful"]) == (None, False)
    assert auc["why"] == (
        "the study needs 2 usable histograms and got 1; impossible: that of south and west"
    )
    assert outcome["evaluations"][1]["sites"] == ["north"]


def test_order_statistics_run_and_the_outcome_says_that_memory_grows(
    make_world: MakeWorld,
) -> None:
    orders = (["north", "south", "west"], ["west", "south", "north"])
    outcomes = [make_world('strategy = "fedmedian"\n').run(order=order) for order in orders]
    assert outcomes[0]["final_weights_sha256"] == outcomes[1]["final_weights_sha256"]
    assert "memory grows" in outcomes[0]["memory"]


def test_bulyan_with_three_sites_says_that_it_needs_more(make_world: MakeWorld) -> None:
    options = 'strategy = "bulyan"\n[aggregation.options]\nnum_malicious_nodes = 1\n'
    with pytest.raises(RoundError, match="at least 7"):
        make_world(options).run()


def test_a_replayed_reply_of_an_earlier_round_is_not_folded(world: World) -> None:
    earlier: dict[str, Reply] = {}

    def replay(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "train" and site == "south":
            return earlier.setdefault("first", reply)
        return reply

    world.alter = replay
    outcome = world.run()
    reasons = [absence["reason"] for absence in outcome["absences"]]
    assert reasons == [f"answered round 1, was asked for {number}" for number in (2, 3, 4)]


class Doubling(LocalGrid):
    """A grid that hands out every reply twice."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Each reply, and each again."""
        return [reply for reply in super().pull_messages(message_ids) for _ in range(2)]


def test_two_messages_for_one_request_are_folded_once(make_world: MakeWorld) -> None:
    undisturbed = make_world().run()["final_weights_sha256"]
    world = make_world()
    world.grid_type = Doubling
    assert world.run()["final_weights_sha256"] == undisturbed


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
@pytest.mark.parametrize(("change", "runs_away"), [(7.9, False), (8.1, True)])
def test_weights_that_move_too_far_end_the_study_in_that_round(
    strategy: str, change: float, runs_away: bool
) -> None:
    """With 26 fraction bits a change of 32 is the largest: a quarter of it is too far."""
    identify(RUN_ID)
    study = small_study(
        aggregation={"strategy": strategy}, fixed_point={"dtype": "int32", "fraction_bits": 26}
    )
    state = Checkpoint(study_hash(study), 0, {}, 4, np.zeros(6, np.float32))
    fold = begin(study.aggregation, 6, {"north": 1, "south": 3})
    for site in ("north", "south"):
        fold.add(site, study.fixed_point.encode(np.full(6, change)))
    if not runs_away:
        assert advance(study, state, fold, {}).round == 5
        return
    with pytest.raises(RoundError, match="ran away in round 5") as caught:
        advance(study, state, fold, {})
    assert "moved by 8.1" in caught.value.details["found"]
    assert "learning rate" in caught.value.details["do"]
