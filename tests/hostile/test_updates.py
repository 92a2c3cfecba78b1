"""When a malicious site sends anything, the coordinator names it and goes on as if it were away."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.daemon.fleet import Fleet
from common.wire.flower import ClientApp, Context, Message, RecordDict
from common.wire.messages import LedgerHead, Reply, Request, reply_to_record, request_from_record
from common.wire.signing import SigningKey
from server.study.collect import Absence, collect
from server.study.context import StudyContext
from server.study.dispatch import Repeat, RetryPolicy
from server.study.verify import ReplyShape
from simulations.grids.in_process import LocalGrid
from tests.hostile.checks import VERIFYING, checks, off
from tests.hostile.guarded import VERIFIED
from tests.hostile.updates import OTHER, SITE, UPDATES, Update, key_of, signed
from tests.network import Coordinator, coordinator
from tests.server.conftest import World
from tests.waiting import PATIENCE

ROUND = 2
FEWEST = 40
AWAY = signed(
    "it declines",
    "refused: its numerics (versions, settings) differ from the plan's (numerics)",
    code="numerics",
)


@dataclass
class Hostile(World):
    """A world in which one site sends one malicious reply.

    Attributes:
        update: what it sends instead of the reply.
        absences: who was found absent at which purpose, and why.
        reasons: what the outcome says of the malicious site.
    """

    update: Update | None = None
    absences: list[tuple[str, str, str]] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    def key(self, site: str) -> SigningKey:
        return key_of(site)

    def client(self) -> ClientApp:
        app = ClientApp()

        def handle(message: Message, node: Context) -> Message:
            site = str(node.node_config["site"])
            request = request_from_record(message.content)
            self.asked.append((site, request))
            reply = self.sign(self.answer(site, request))
            return Message(self.sent(site, request, reply), reply_to=message)

        for register in (app.query("offer"), app.query("propose"), app.query("close")):
            register(handle)
        app.train()(handle)
        app.evaluate()(handle)
        return app

    def sent(self, site: str, request: Request, reply: Reply) -> RecordDict:
        due = request.purpose in ("offer", "propose") or request.round == ROUND
        if self.update and site == SITE and due and request.purpose == self.update.purpose:
            return self.update.spoil(request, reply)
        return reply_to_record(reply)

    def watch(self, event: str, fields: dict[str, object]) -> None:
        if event == "site.absent":
            site, purpose, reason = (str(fields[key]) for key in ("site", "purpose", "reason"))
            self.absences.append((site, purpose, reason))

    def end(self) -> tuple[str, Any]:
        """The last weights' hash and the pooled histograms of a run."""
        outcome = self.run(observer=self.watch)
        self.reasons = {each["reason"] for each in outcome["absences"] if each["site"] == SITE}
        histograms = [each["histogram"] for each in outcome["evaluations"]]
        return outcome["final_weights_sha256"], histograms


def world(folder: Path, update: Update | None) -> Hostile:
    return Hostile(folder, rounds=3, evaluations=f"[{ROUND}]", update=update)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """How the study ends when the site declines a request, by its purpose."""
    folder = tmp_path_factory.mktemp("without")
    return {
        purpose: world(folder / purpose, replace(AWAY, purpose=purpose)).end()
        for purpose in ("offer", "propose", "train", "evaluate")
    }


def test_enough_is_sent_and_every_name_is_anothers() -> None:
    assert len({update.name for update in UPDATES}) == len(UPDATES) >= FEWEST


@pytest.mark.matrix(update=lambda update: (update.purpose, update.reason))
@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.name)
def test_is_named_and_nothing_of_it_is_folded(
    update: Update, without: dict[str, tuple[str, Any]], tmp_path: Path
) -> None:
    hostile = world(tmp_path / "run", update)
    assert hostile.end() == without[update.purpose]
    if (
        update.purpose == "offer"
    ):  # it is in the outcome: a site without a plan is asked nothing more
        (reason,) = hostile.reasons
    else:
        ((site, purpose, reason),) = hostile.absences
        assert (site, purpose) == (SITE, update.purpose)
    assert reason.startswith(update.reason)
    assert "P03" not in reason


CHECKS = {check.name: check for check in checks(VERIFYING)}
BY_NAME = {update.name: update for update in UPDATES}


def test_every_check_of_a_reply_is_held_by_an_update() -> None:
    assert sorted(VERIFIED) == sorted(CHECKS)


@pytest.mark.parametrize("name", VERIFIED)
def test_without_the_check_the_update_is_not_kept_out(name: str, tmp_path: Path) -> None:
    update = BY_NAME[VERIFIED[name]]
    hostile = world(tmp_path / "run", update)
    with off(CHECKS[name]), suppress(Exception):  # with a check off, anything may happen
        hostile.end()
    assert not any(reason.startswith(update.reason) for _, _, reason in hostile.absences)


class Twice(LocalGrid):
    """Every reply arrives twice."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message in super().pull_messages(message_ids):
            yield from (message, message)


def test_what_is_sent_twice_is_folded_once(tmp_path: Path) -> None:
    once = world(tmp_path / "once", None)
    twice = replace(world(tmp_path / "twice", None), grid_type=Twice)
    assert twice.end() == once.end()
    assert twice.absences == []


class Long(Hostile):
    """Its updates are 64-bit integers, which leave less room for their sum."""

    def answer(self, site: str, request: Request) -> Reply:
        reply = super().answer(site, request)
        if reply.purpose != "train" or reply.arrays is None:
            return reply
        return replace(reply, arrays=reply.arrays.astype(np.int64))


def test_patients_that_overflow_the_sum_leave_their_site_out_and_nobody_else(
    tmp_path: Path,
) -> None:
    """One site could declare so many patients that the sum of all sites would overflow."""
    hostile = Long(tmp_path / "run", rounds=3, evaluations=f"[{ROUND}]")
    hostile.aggregation = "\n[fixed_point]\ndtype = 'int64'\n"
    hostile.agreed = dict(hostile.patients)
    hostile.patients[SITE] = 10**9
    hostile.end()
    assert hostile.reasons == {
        "a site declares more patients than were agreed on (1000000000 declared patients, "
        "wanted at most 60, as agreed)"
    }
    assert {site for site, request in hostile.asked if request.purpose == "train"} == {
        *hostile.patients.keys() - {SITE}
    }


@dataclass
class Line:
    """A real gateway, and a site behind it that sends whatever is due."""

    served: Coordinator
    context: StudyContext
    fleet: Fleet
    due: Update | None = None
    times: int = 1

    def serve(self, ended: threading.Event) -> None:
        while not ended.is_set():
            message = self.fleet.pull()
            if message is None:
                continue
            request = request_from_record(message.content)
            reply = sound_reply(request)
            content = self.due.spoil(request, reply) if self.due else reply_to_record(reply)
            for _ in range(self.times):
                self.fleet.push(Message(content, reply_to=message))

    def hear(self, request: Request) -> list[tuple[str, Reply | Absence]]:
        shape = ReplyShape("int32", 106, 2**31 - 1, saturates=True)
        return list(collect(self.context, {SITE: request}, {SITE: shape}))


def sound_reply(request: Request) -> Reply:
    """What an honest site would send."""
    reply = Reply(
        site=SITE,
        request=request.identity,
        study=request.study,
        plan_hash=request.plan_hash,
        round=request.round,
        purpose=request.purpose,
        arrays=np.arange(106, dtype=np.int32),
        ledger=LedgerHead(request.ledger.length + 1, "11" * 32),
    )
    return reply.with_signature(key_of(SITE).sign(reply.signed_bytes))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with coordinator(tmp_path_factory.mktemp("coordinator"), hold_seconds=1.0) as served:
        word = served.line()
        grid = served.superlink.open_grid(served.superlink.start_run("small"), word)
        fleet = served.site(SITE, tmp_path_factory.mktemp("south"))
        fleet.connect()
        retries = RetryPolicy(wait=grid.wait, repeat=Repeat(), poll_seconds=1.0)
        roster = {site: key_of(site).public for site in (SITE, OTHER)}
        it = Line(served, StudyContext(grid, roster, "30m", retries=retries), fleet)
        ended = threading.Event()
        thread = threading.Thread(target=it.serve, args=(ended,), daemon=True)
        thread.start()
        yield it
        ended.set()
        thread.join(PATIENCE)
        fleet.close()
        grid.close()
        word.close()


def request(number: int) -> Request:
    """A round's request, different for each number."""
    arrays = np.full(106, number, np.float32)
    head = LedgerHead(4, "22" * 32)
    return Request("small", "ab" * 32, ROUND, "train", arrays=arrays, ledger=head)


OVER_THE_WIRE = [update for update in UPDATES if update.purpose == "train"]


@pytest.mark.matrix(update=lambda update: update.reason)
@pytest.mark.parametrize("update", OVER_THE_WIRE, ids=lambda update: update.name)
def test_is_named_when_it_comes_through_the_gateway(update: Update, line: Line) -> None:
    """From a site that was admitted and has a normal connection."""
    line.due = update
    ((site, absence),) = line.hear(request(OVER_THE_WIRE.index(update)))
    assert site == SITE
    assert isinstance(absence, Absence)
    assert absence.reason.startswith(update.reason)
    assert "P03" not in absence.reason


def test_a_reply_pushed_twice_through_the_gateway_is_heard_once(line: Line) -> None:
    line.due, line.times = None, 2
    for number in (1000, 1001):
        ((site, reply),) = line.hear(request(number))
        assert site == SITE
        assert isinstance(reply, Reply)
        assert reply.request == request(number).identity
    line.times = 1
