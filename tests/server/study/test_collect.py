"""What an answer leads to: a usable reply, a receipt, waiting for a person, or an absence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import RefusalCode, RoundError
from common.files import sha256
from common.study.study_file import load_study
from common.wire.flower import (
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Message,
    RecordDict,
    context,
)
from common.wire.messages import (
    SEAL_DIGITS,
    LedgerHead,
    Reply,
    Request,
    receipt_bytes,
    reply_to_record,
    request_from_record,
)
from common.wire.signing import SigningKey, verify
from server.app import FOLDER, RunConfig, run_study
from server.study import collect
from server.study import verify as verify_module
from server.study.collect import UNREADABLE, Absence, RoundReplies, answers, remedy
from server.study.context import StudyContext
from server.study.dispatch import NOT_CONNECTED, Dispatcher, Repeat, RetryPolicy
from server.study.receipts import CoordinatorReceipts
from server.study.verify import IMPOSSIBLE, REFUSED, ReplyShape
from simulations.grids.in_process import LocalGrid

# isort: split
from flwr.proto.node_pb2 import NodeInfo

if TYPE_CHECKING:
    from tests.server.conftest import World

KEY = SigningKey(bytes(32))
REQUEST = Request("small", "", 1, "train", arrays=np.zeros(4, dtype=np.float32))


class Revived(LocalGrid):
    """A grid whose nodes may be activated anew."""

    activated = "0"

    def get_nodes(self) -> list[NodeInfo]:
        nodes = list(super().get_nodes())
        for node in nodes:
            node.last_activated_at = self.activated
        return nodes


class Deployed:
    """A world's study, conducted as over a network.

    Attributes:
        waited: called whenever the coordinator waits.
        events: what an observer was told.
    """

    def __init__(self, world: World, aggregation: str = "") -> None:
        self.world = world
        world.grid_type = Revived
        world.aggregation = 'approval_timeout = "30m"\n' + aggregation
        self.waited: Callable[[], None] = lambda: None
        self.events: list[tuple[str, dict[str, object]]] = []
        self.grid = world.grid()

    def run_study(self, receipts: CoordinatorReceipts | None = None) -> None:
        world = self.world
        config = RunConfig(
            study=load_study(world.study_file),
            folder=world.folder / FOLDER,
            roster={site: world.key(site).public for site in world.patients},
            agreed=world.patients,
            seed=0,
            resume=True,
        )
        retries = RetryPolicy(
            wait=lambda _seconds: self.waited(), repeat=Repeat(look=0.0), poll_seconds=0.0
        )
        run_study(
            self.grid,
            config,
            lambda event, fields: self.events.append((event, fields)),
            retries=retries,
            receipts=receipts,
        )

    def told(self, event: str) -> list[object]:
        return [fields["site"] for name, fields in self.events if name == event]


def declining(world: World, site: str, code: RefusalCode | None) -> None:
    """Let a site answer every proposal with a code, or approve again."""

    def alter(name: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "propose" and name == site and code is not None:
            return world.sign(replace(reply, code=str(code)))
        return reply

    world.alter = alter


def test_a_study_waits_until_a_person_has_decided(world: World) -> None:
    deployed = Deployed(world)
    declining(world, "south", RefusalCode.PENDING)
    waits = 0

    def decide() -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            declining(world, "south", None)
            Revived.activated = "1"  # as a site's daemon does

    deployed.waited = decide
    deployed.run_study()
    assert deployed.told("approval.waiting") == ["south"]
    assert deployed.told("approval.given") == ["north", "west", "south"]
    names = [name for name, _ in deployed.events]
    assert names.index("round.started") > names.index("approval.waiting")
    rounds = [fields for name, fields in deployed.events if name == "round.completed"]
    assert rounds[0]["sites"] == ["north", "south", "west"]


def test_a_person_who_declines_is_gone_without(world: World) -> None:
    deployed = Deployed(world)
    declining(world, "south", RefusalCode.DENIED)
    deployed.run_study()
    assert deployed.told("approval.refused") == ["south"]
    rounds = [fields for name, fields in deployed.events if name == "round.completed"]
    assert rounds[0]["sites"] == ["north", "west"]
    assert rounds[0]["absences"] == {"south": "refused: denied the plan (denied)"}


def test_a_person_who_never_decides_is_waited_for_as_long_as_the_study_says(world: World) -> None:
    deployed = Deployed(world)
    world.aggregation = 'approval_timeout = "0.2s"\n'
    declining(world, "south", RefusalCode.PENDING)
    began = time.monotonic()
    deployed.run_study()
    assert time.monotonic() - began >= 0.2
    rounds = [fields for name, fields in deployed.events if name == "round.completed"]
    absences = {"south": "refused: waits for an administrator to approve the plan (pending)"}
    assert rounds[0]["absences"] == absences


def test_a_simulation_does_not_wait_for_people(world: World) -> None:
    world.patients.pop("west")
    declining(world, "south", RefusalCode.PENDING)
    with pytest.raises(RoundError, match="too few"):
        world.run()


def test_who_was_heard_before_is_asked_though_it_is_away_when_the_study_goes_on(
    world: World,
) -> None:
    deployed = Deployed(world)
    world.killed_at("update.folded:2")

    class Away(Revived):
        """West comes when the proposals have been given up."""

        def get_nodes(self) -> list[NodeInfo]:
            here = any(name == "round.started" for name, _ in deployed.events)
            return [node for node in super().get_nodes() if here or node.name != "west"]

    world.grid_type = Away
    deployed.grid = world.grid()
    deployed.run_study()
    last = [fields for name, fields in deployed.events if name == "round.completed"][-1]
    assert last["sites"] == ["north", "south", "west"]
    assert deployed.told("site.awaited") == ["west"]


def test_each_site_is_receipted_the_newest_it_has_sent(world: World) -> None:
    deployed = Deployed(world)
    lengths = {"north": 0, "south": 0, "west": 0}

    def alter(site: str, _request: Request, reply: Reply) -> Reply:
        lengths[site] += 1
        digest = sha256(f"{site} {lengths[site]}".encode())
        seal = f"{lengths[site]:0{SEAL_DIGITS}}"
        return world.sign(replace(reply, ledger=LedgerHead(lengths[site], digest), seal=seal))

    world.alter = alter
    deployed.run_study(CoordinatorReceipts(KEY))
    asked = [request for site, request in world.asked if site == "south"]
    assert asked[0].receipt == b""
    for number, request in enumerate(asked[1:], start=1):
        assert int(request.receipt_seal) == request.receipt_ledger.length == number
        signed = receipt_bytes("south", request.receipt_ledger, request.receipt_seal)
        assert verify(KEY.public, signed, request.receipt)
    assert deployed.told("receipt.signed").count("south") == len(asked)


def test_what_is_not_signed_by_the_site_gets_no_receipt(world: World) -> None:
    deployed = Deployed(world)
    seal = "9" * SEAL_DIGITS
    world.alter = lambda site, _request, reply: (
        replace(reply, seal=seal) if site == "south" else reply
    )
    deployed.run_study(CoordinatorReceipts(KEY))
    assert "south" not in deployed.told("receipt.signed")


def answer_of(client: object) -> Reply | Absence:
    """What one site's client answered, as the coordinator reads it."""
    sites = {1: ("north", context(1, 1, node={}, run={}))}
    grid = LocalGrid(client, sites)  # type: ignore[arg-type]
    dispatcher = Dispatcher(grid, {"north": REQUEST}, timeout="0.1s")
    ((_, answer),) = answers(dispatcher, most_weights=4)
    return answer


def test_flowers_errors_become_reasons() -> None:
    def offline(message: Message, _node: Context) -> Message:
        error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="never shown")
        return Message(error, reply_to=message)

    assert answer_of(offline) == Absence("offline")


def test_a_message_that_is_no_reply_is_an_absence() -> None:
    def rubbish(message: Message, _node: Context) -> Message:
        return Message(RecordDict({"fields": ConfigRecord({"n": 1})}), reply_to=message)

    assert answer_of(rubbish) == Absence(UNREADABLE)


def test_an_array_longer_than_the_plan_foresees_is_not_read() -> None:
    def long(message: Message, _node: Context) -> Message:
        request = request_from_record(message.content)
        reply = Reply("north", request.identity, "small", "", 1, "train")
        return Message(
            reply_to_record(replace(reply, arrays=np.zeros(5, dtype=np.int32))), reply_to=message
        )

    assert answer_of(long) == Absence(UNREADABLE)


def test_only_what_was_answered_now_can_stand_in_for_a_reply() -> None:
    """An absence that was given beforehand allows no round with fewer than min_sites."""

    def offline(message: Message, _node: Context) -> Message:
        return Message(Error(code=ErrorCode.NODE_UNAVAILABLE, reason=""), reply_to=message)

    sites = {1: ("north", context(1, 1, node={}, run={}))}
    grid = LocalGrid(offline, sites)
    study = StudyContext(grid, {"north": KEY.public}, "0.1s")
    earlier = {"south": f"{IMPOSSIBLE}fewer patients than none"}
    shapes = {"north": ReplyShape("int32", 4, 1)}
    asked = {"north": REQUEST}
    replies = RoundReplies(study, asked, shapes, unavailable=earlier, fewest=1)
    with pytest.raises(RoundError):
        list(replies)


REASONS = [
    *(REFUSED + text + f" ({code})" for code, text in verify_module._REFUSALS.items()),  # noqa: SLF001
    *collect._ERRORS.values(),  # noqa: SLF001 - each reason that there is
    *(NOT_CONNECTED, "no reply in 30m", UNREADABLE, "bad signature", "Flower's error 99"),
]


@pytest.mark.parametrize("reason", REASONS)
def test_each_absence_says_what_the_coordinator_can_do(reason: str) -> None:
    assert remedy(reason)
    silent = reason in ("bad signature", UNREADABLE, "Flower's error 99")
    assert (remedy(reason, "") == "") == silent
    if reason.startswith("no reply in"):
        assert "consilium-site status" in remedy(reason)


def test_every_code_that_a_site_may_send_has_a_remedy() -> None:
    """And a code that is none of the list is never looked up."""
    assert verify_module._REFUSALS.keys() == set(RefusalCode) == collect._REMEDIES.keys()  # noqa: SLF001
    assert remedy(f"{REFUSED}something (invented)", "else") == "else"
