"""Replies of a real daemon leave at the tick, and what a person decides meanwhile comes at once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.consent.decisions import freeze_pending
from client.records import audit_log
from common.plan import Plan
from tests.client.daemon.process import REAL, Daemon, daemon
from tests.client.daemon.standin import Coordinator, coordinator
from tests.client.site_fixtures import Hospital, approved, asking, offer_request
from tests.common.studies import small_study
from tests.waiting import until

HOUR = 3600_000
"""Longer than any test waits: what comes before did not wait for it."""


@dataclass(frozen=True)
class World:
    """A site with keys of its own whose daemon runs, and a coordinator that asks it."""

    hospital: Hospital
    centre: Coordinator
    site: Daemon
    plan: Plan

    @property
    def worker(self) -> int:
        """The worker's process."""
        started = self.site.events("process.started")
        return [int(str(each["pid"])) for each in started if each["process"] == "worker"][-1]

    def stored(self) -> None:
        """Wait until a round is computed and its reply durable."""
        until(lambda: self.hospital.rows("replies"), "a stored reply")


@contextmanager
def world(folder: Path, *, seal: float | None = None) -> Iterator[World]:
    """As it is measured here, or with as long a time as ``seal`` says for what is beside."""
    hospital = Hospital(folder, {f"P{number:02}": 1 for number in range(6)}, seed=None)
    kept = hospital.state / "ticks.json"
    with hospital.open() as site:
        plan = approved(site, small_study())
        if seal is not None:
            speeds = json.loads(kept.read_bytes())
            slow = {key: each | {"seal": seal} for key, each in speeds.items()}
            kept.write_text(json.dumps(slow))
            plan = approved(site, small_study())
        freeze_pending(site)
    with (
        coordinator(hospital.state) as centre,
        daemon(folder / "site.toml", worker=REAL) as running,
    ):
        yield World(hospital, centre, running, plan)


def test_a_reply_never_leaves_before_its_tick(tmp_path: Path) -> None:
    with world(tmp_path, seal=1.0) as it:
        tick = it.plan.numerics.ticks.train / 1000
        assert tick >= 1.5
        for number in (1, 2):
            asked = time.monotonic()
            it.centre.ask(asking(it.plan, number))
            until(lambda: len(it.centre.pushed) == number)  # noqa: B023 - it is called now
            assert time.monotonic() - asked >= tick
        assert [each.code for each in it.centre.replies()] == ["ok", "ok"]


def test_a_study_that_is_stopped_while_its_reply_waits_is_over_at_once(tmp_path: Path) -> None:
    with world(tmp_path, seal=2400.0) as it:
        assert it.plan.numerics.ticks.train >= HOUR
        it.centre.ask(asking(it.plan))
        it.stored()
        first = it.worker
        it.site.ask("stop", "small")
        it.centre.ask(asking(it.plan))
        it.centre.ask(offer_request(small_study(study={"name": "later"})))
        until(lambda: it.centre.pushed)
        assert [each.study for each in it.centre.replies()] == ["later"]
        assert it.worker != first
        why = [each.fields.get("why") for each in audit_log.entries(it.hospital.state)]
        assert [each for each in why if each] == ["stopped before it was answered", "stopped"]


def test_a_worker_that_dies_while_a_reply_waits_has_it_sent_when_it_is_asked_again(
    tmp_path: Path,
) -> None:
    """It was released, and paid for, once; what it says and when follows from the death alone."""
    with world(tmp_path, seal=2400.0) as it:
        it.centre.ask(asking(it.plan))
        it.stored()
        assert not it.centre.pushed
        it.site.ask("pause")  # which is answered, though the worker sleeps
        it.site.ask("resume")
        os.kill(it.worker, signal.SIGKILL)
        until(lambda: it.centre.pushed)
        assert [each.code for each in it.centre.replies()] == ["ok"]
        assert len(it.hospital.rows("charges")) == 1
