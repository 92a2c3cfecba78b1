"""One hostile message: its name, what an attacker would gain, and what must come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.client.site_fixtures import Hospital
from tests.hostile.sound import Sent, Sound, changed, sent

SILENCE = "silence"
"""The answer of a site about a study that it has stopped: none."""


@dataclass(frozen=True)
class Case:
    """A message that a malicious coordinator might send.

    Attributes:
        name: what is wrong with it.
        gain: what an attacker would gain.
        build: makes it from sound parts.
        code: the refusal that it gets, or silence.
        after: how many steps of the sound script the site has answered before it.
        hospital: what changes at the closed site before it arrives. Such a case cannot share a
            daemon with other cases.
        lasts: whether the site refuses every request from then on. Such a case cannot share a
            daemon either.
    """

    name: str
    gain: str
    build: Callable[[Sound], Sent]
    code: str
    after: int = 1
    hospital: Callable[[Hospital], None] | None = None
    lasts: bool = False


def planned(name: str, code: str, gain: str, *changes: tuple[str, Any]) -> Case:
    """A proposal of the sound plan with some values replaced."""
    return Case(name, gain, lambda s: sent(s.proposal(changed(s.plan.text, *changes))), code)
