"""A site at any step of the sound script, any number of times.

The script is run once; after each step the site's folder is kept. A copy of such a folder is a
site that knows nothing of what was sent to the other copies.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.requests.handler import answer_record
from client.site import Site
from common.wire.enrolment import COORDINATOR_CARD
from common.wire.messages import Reply, Request, reply_from_record
from server.daemon import authority
from tests.client.site_fixtures import Hospital, plan_for, proposal
from tests.hostile.case import SILENCE, Case
from tests.hostile.sound import STUDY, Sent, Sound, sent

STEPS: Final = 4
POLICY: Final[dict[str, Any]] = {"allow_known_key": False, "max_epsilon_total": 10.0}
PATIENTS: Final = {f"P{number:02}": 1 for number in range(12)}
REMEMBERED: Final = ("approvals", "amendments", "charges", "members", "replies", "joins")
"""Tables of the site's store that no refused message may change."""


@dataclass(frozen=True)
class Standing:
    """The kept folders, and what the sound coordinator received.

    Attributes:
        folder: has a folder for each step.
        hospital: as it was made.
        sound: after the last step.
        replies: what the site answered at each step.
    """

    folder: Path
    hospital: Hospital
    sound: Sound
    replies: tuple[Reply, ...]

    @contextmanager
    def at(self, case: Case, place: Path) -> Iterator[tuple[Hospital, Site, Sound]]:
        """A site in ``place`` that has answered the steps that a case needs."""
        shutil.copytree(self.folder / str(case.after), place, copy_function=_copied)
        hospital = copy.copy(self.hospital)
        hospital.folder = place
        if case.hospital is not None:
            case.hospital(hospital)
        with hospital.open() as site:
            yield hospital, site, self.sound.at(case.after)


def _copied(source: str, target: str) -> None:
    """Images are never written to, so a hard link is enough."""
    if source.endswith(".dcm"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def stand(folder: Path) -> Standing:
    """Make a hospital, have it approve the plan, and take it through the script."""
    hospital = Hospital(folder / "first", dict(PATIENTS), policy=dict(POLICY), seed=None)
    replies: list[Reply] = []
    home = authority.init(folder / "coordinator", "tests", "localhost:9093").home
    with hospital.open() as site:
        plan = plan_for(site, STUDY)
        approval = asked(site, proposal(plan))
        assert approval.code == "ok"
    (hospital.state / COORDINATOR_CARD).write_text(authority.coordinator_card(home).text)
    key = authority.signing_key(home)
    sound = Sound(plan, 0, (approval.ledger,), (approval.seal,), key)
    shutil.copytree(hospital.folder, folder / "0")
    for number in range(STEPS):
        with hospital.open() as site:
            reply = asked(site, sound.step(number))
        assert reply.code == "ok", f"step {number}: {reply.code}"
        replies.append(reply)
        heads, seals = (*sound.heads, reply.ledger), (*sound.seals, reply.seal)
        sound = Sound(plan, number + 1, heads, seals, key)
        shutil.copytree(hospital.folder, folder / str(number + 1))
    return Standing(folder, hospital, sound, tuple(replies))


def asked(site: Site, request: Request) -> Reply:
    """What a site answers to a request as it travels."""
    reply = heard(site, sent(request))
    assert reply is not None
    return reply


def heard(site: Site, message: Sent) -> Reply | None:
    """What a site answers to a message; None if it is silent."""
    purpose, content = message
    answer = answer_record(site, content, purpose)
    return None if answer is None else reply_from_record(answer)


def outcome(standing: Standing, case: Case, place: Path) -> str:
    """The code that a case gets, ``silence``, or what went wrong."""
    with standing.at(case, place) as (_, site, sound):
        message = case.build(sound)
        try:
            reply = heard(site, message)
        except Exception as error:  # noqa: BLE001 - with a check off, anything may happen
            return type(error).__name__
    return SILENCE if reply is None else reply.code


def remembered(hospital: Hospital) -> dict[str, list[dict[str, Any]]]:
    """What is durable at a site."""
    return {table: hospital.rows(table) for table in REMEMBERED}
