"""One hostile message: its name, what an attacker would gain, and what must come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.client.site_fixtures import Hospital
from tests.hostile.sound import Sent, Sound, changed, sent

SILENCE = "silence"
"""What a site answers about a study that it has stopped: nothing."""


@dataclass(frozen=True)
class Case:
    """A message that a malicious coordinator might send.

    Attributes:
        name: what is wrong with it.
        gain: what an attacker would have of it.
        build: makes it of what is sound.
        code: the refusal that it gets, or silence.
        after: how many steps of the sound script the site has answered before.
        hospital: what changes at the closed site before it comes; such a case cannot be sent to
            a daemon that others are sent to as well.
        lasts: whether the site refuses everything from then on, whoever asks; likewise.
    """

    name: str
    gain: str
    build: Callable[[Sound], Sent]
    code: str
    after: int = 1
    hospital: Callable[[Hospital], None] | None = None
    lasts: bool = False


def planned(name: str, code: str, gain: str, *changes: tuple[str, Any]) -> Case:
    """A proposal of the sound plan with values put at places."""
    return Case(name, gain, lambda s: sent(s.proposal(changed(s.plan.text, *changes))), code)
