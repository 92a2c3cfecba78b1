"""What the coordinator works with during a study, and hearing sites out.

``hear`` joins asking and verifying, so that nothing unverified reaches a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from common.errors import RoundError
from common.messages import Reply, Request
from server.asking import POLL_SECONDS, Absence, ask
from server.verify import Shape, fault

# isort: split
# Only after server.asking, whose common.flower tells Flower to stay off the network.
from flwr.serverapp import Grid

Observer = Callable[[str, dict[str, object]], None]
_TOO_LONG: Final = frozenset({"weights", "histogram", "metrics"})
"""Fields of events that only an observer gets."""

_log = structlog.get_logger(__name__)


def nobody(event: str, fields: dict[str, object]) -> None:
    """The observer that looks away."""


@dataclass(frozen=True)
class Desk:
    """How a study's coordinator reaches the sites, and who looks on.

    Attributes:
        grid: how messages travel.
        roster: each site's public key, hexadecimal; nobody else is asked or believed.
        timeout: how long a round waits for replies, as ``30m``.
        observer: is told every event.
        poll_seconds: pause after nobody had answered.
    """

    grid: Grid
    roster: Mapping[str, str]
    timeout: str
    observer: Observer = nobody
    poll_seconds: float = POLL_SECONDS

    def tell(self, event: str, **fields: object) -> None:
        """Log an event in a line, and tell the observer all of it."""
        shown = {name: value for name, value in fields.items() if name not in _TOO_LONG}
        _log.info(event, **shown)
        self.observer(event, fields)


def hear(
    desk: Desk, requests: Mapping[str, Request], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, Reply | Absence]]:
    """Ask sites; yield each once, as it answers, with a verified reply or an absence.

    Args:
        desk: who is asked.
        requests: what each site is asked.
        shapes: the array that each site's reply must carry.
    """
    most = max((shape.length for shape in shapes.values()), default=0)
    answers = ask(
        desk.grid,
        requests,
        timeout=desk.timeout,
        most_weights=most,
        poll_seconds=desk.poll_seconds,
    )
    for site, answer in answers:
        verdict = _verdict(desk, requests[site], site, shapes[site], answer)
        if isinstance(verdict, Absence):
            request = requests[site]
            desk.tell(
                "site.absent",
                round=request.round,
                purpose=request.purpose,
                site=site,
                reason=verdict.reason,
            )
        yield site, verdict


def _verdict(
    desk: Desk, request: Request, site: str, shape: Shape, answer: Reply | Absence
) -> Reply | Absence:
    if isinstance(answer, Absence):
        return answer
    reason = fault(answer, request=request, site=site, key=desk.roster[site], shape=shape)
    return answer if reason is None else Absence(reason)


def demand_enough(
    round_number: int,
    purpose: str,
    usable: Collection[str],
    absences: Mapping[str, str],
    fewest: int,
) -> None:
    """Stop where too few sites gave something that can be used.

    Raises:
        RoundError: says who was missing and why.
    """
    if len(usable) >= fewest:
        return
    missing = "\n".join(f"{'':<10}{site}: {absences[site]}" for site in sorted(absences))
    raise RoundError(
        f"round {round_number} got too few usable replies",
        where=f"{purpose}, round {round_number}",
        found=f"{len(usable)} usable, {len(absences)} missing\n{missing}".rstrip(),
        wanted=f"at least {fewest}",
        remedy="see to the sites that are named, then run again with --resume: the round is "
        "repeated, and no site is charged twice",
    )
