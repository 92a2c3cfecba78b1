"""A simulated site passes the same gates as a deployed one, in the same order, to the same end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from client.records.store import SCHEMA_VERSION, SiteDatabase, is_whole
from client.requests.handler import answer
from client.site import Site, open_site
from common.plan import Plan
from common.wire.messages import LedgerHead, Reply, Request
from tests.client.site_fixtures import SEED, Hospital, asking, plan_for, proposal
from tests.common.studies import small_study

STUDY = small_study(evaluation={"rounds": [1, 3], "epsilon_share": 0.5})
GATES = (
    *("requests/gates.py", "requests/handler.py", "requests/round.py", "requests/proposals.py"),
    *("requests/egress.py", "consent/policy.py", "consent/decisions.py", "consent/amendments.py"),
    *("records/approvals.py", "records/ledger.py", "records/membership.py"),
)


@contextmanager
def traced() -> Iterator[list[str]]:
    """The functions of the gates that are called, in their order."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        gate = event == "call" and code.co_filename.endswith(GATES) and "<" not in code.co_name
        if gate and not _for_the_log(frame):
            found.append(code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(before)


def _for_the_log(frame: FrameType | None) -> bool:
    """Whether it is called for a line of the audit log, of which a simulated site keeps none."""
    while frame is not None and not frame.f_code.co_filename.endswith("requests/journal.py"):
        frame = frame.f_back
    return frame is not None


def in_memory(hospital: Hospital) -> Site:
    hospital.open().close()  # writes the site file
    return open_site(
        hospital.folder / "site.toml", hospital.folder / "nowhere", SEED, in_memory=True
    )


def told(plan: Plan, last: Reply | None) -> list[Request]:
    """What a coordinator asks, and what one asks that lost its way."""
    seen = LedgerHead() if last is None else last.ledger
    return [
        asking(plan, 1),
        asking(plan, 2, ledger=seen),
        asking(plan, 9, ledger=seen),
        asking(plan, 1, "evaluate", ledger=seen),
        asking(plan, 2, study="another"),
        asking(plan, 2, plan_hash="0" * 64),
        asking(plan, 2, seed=5, ledger=LedgerHead(7, "f" * 64)),
        Request(plan.study.study.name, plan.hash, 3, "close", acknowledged=3),
        asking(plan, 3),
    ]


def walked(site: Site) -> tuple[list[list[str]], list[str]]:
    """The trace of each request, and how each was answered."""
    traces, ends = [], []
    plan = plan_for(site, STUDY)
    last: Reply | None = None
    for request in (proposal(plan), *told(plan, None)):
        with traced() as trace:
            reply = answer(site, request)
        last = reply or last
        traces.append(trace)
        ends.append("silence" if reply is None else reply.code)
    return traces, ends


def test_the_gates_are_the_same_in_the_same_order_with_the_same_end(tmp_path: Path) -> None:
    simulated = Hospital(tmp_path / "simulated")
    with in_memory(simulated) as site:
        record = site.numerics(STUDY)
        found = walked(site)
    # The deployed one has keys that nobody knows, and keeps everything on disk. It computes as the
    # other does; that its replies wait for ticks, which a simulation has none of, is no gate.
    deployed = Hospital(tmp_path / "deployed", seed=None)
    deployed.open().close()
    path = deployed.folder / "site.toml"
    with open_site(path, deployed.state, None, recorded=record) as site:
        wanted = walked(site)
    assert found[1] == wanted[1]
    assert found[1][:2] == ["ok", "ok"]
    assert {"round-out-of-order", "wrong-plan", "not-approved", "ledger-behind"} <= set(found[1])
    assert found[0] == wanted[0]
    assert sum(map(len, wanted[0])) > 200
    assert not list((tmp_path / "simulated" / "nowhere").glob("*.*"))  # but decoded images


def test_a_store_in_memory_is_a_whole_one() -> None:
    with SiteDatabase(None) as store:
        assert is_whole(store._connection)  # noqa: SLF001 - as it is asked of one on disk
        assert store.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        assert store.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_only_a_repeated_request_has_another_end_since_no_reply_is_kept(tmp_path: Path) -> None:
    """A simulation's coordinator repeats none; a thousand kept replies would fill the memory."""
    hospital = Hospital(tmp_path / "north")
    ends = []
    for opened in (Hospital.open, in_memory):
        with opened(hospital) as site:
            plan = plan_for(site, STUDY)
            answer(site, proposal(plan))
            first, again = (answer(site, asking(plan, 1)) for _ in range(2))
            assert first is not None
            assert again is not None
            ends.append((first.code, again.code))
            assert site.ledger.head().length == 1
    assert ends == [("ok", "ok"), ("ok", "round-out-of-order")]


@pytest.mark.parametrize(("rounds", "evaluated"), [(1, -1), (1, 1), (2, 1), (3, 3)], ids=str)
def test_a_site_that_was_lost_goes_on_as_if_it_had_not_been(
    tmp_path: Path, rounds: int, evaluated: int
) -> None:
    hospital = Hospital(tmp_path / "north")

    def all_of(site: Site, plan: Plan) -> LedgerHead:
        head = LedgerHead()
        for number in range(1, rounds + 1):
            for purpose in ("train", "evaluate"):
                if purpose == "evaluate" and not (number in {1, 3} and number <= evaluated):
                    continue
                reply = answer(site, asking(plan, number, purpose, ledger=head))
                assert reply is not None
                assert reply.code == "ok"
                head = reply.ledger
        return head

    with in_memory(hospital) as site:
        plan = plan_for(site, STUDY)
        answer(site, proposal(plan))
        head = all_of(site, plan)
        following = next_of(rounds, plan, head)
        wanted = [answer(site, each) for each in following]
    with in_memory(hospital) as again:
        again.ledger.go_on(plan, head, rounds, evaluated)
        assert again.ledger.head() == head
        assert answer(again, proposal(plan, ledger=head)) is not None
        found = [answer(again, each) for each in following]
    assert [signed(each) for each in found] == [signed(each) for each in wanted]


def next_of(rounds: int, plan: Plan, head: LedgerHead) -> list[Request]:
    """What comes next, and what must be refused since it was charged already."""
    found = [asking(plan, rounds, seed=4, ledger=head)]
    if rounds < STUDY.training.rounds:
        found.append(asking(plan, rounds + 1, ledger=head))
    return found


def signed(reply: Reply | None) -> Any:  # noqa: ANN401 - what is compared
    if reply is None:
        return None
    arrays = None if reply.arrays is None else reply.arrays.tobytes()
    return reply.code, reply.ledger, arrays
