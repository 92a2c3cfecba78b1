"""What the coordinator works with during a study, and hearing sites out.

``hear`` joins asking and verifying, so that nothing unverified reaches a caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from common.errors import RefusalCode, RoundError
from common.process.logs import place
from common.wire.messages import Reply, Request
from server.study.dispatch import SIMULATION, UNREADABLE, Absence, Dispatcher, Memory, RetryPolicy
from server.study.verify import ReplyShape, fault

# isort: split
# Only after server.study.dispatch, whose common.wire.flower tells Flower to stay off the network.
from flwr.serverapp import Grid

if TYPE_CHECKING:
    from server.study.receipts import CoordinatorReceipts

Observer = Callable[[str, dict[str, object]], None]
PENDING_SECONDS: Final = 60.0
"""How long until a site is asked again where a person has yet to decide. A site's daemon
activates its node anew when the person has, and is then asked at once."""
_TOO_LONG: Final = frozenset({"weights", "histogram", "metrics", "signature"})
"""Fields of events that only an observer gets."""
_REFUSED: Final = "refused: "
"""How the verdict on a refusal begins that answers the request and is signed."""

_log = structlog.get_logger(__name__)


def nobody(event: str, fields: dict[str, object]) -> None:
    """The observer that looks away."""


@dataclass(frozen=True)
class StudyContext:
    """How a study's coordinator reaches the sites, and who looks on.

    Attributes:
        grid: how messages travel.
        roster: each site's public key, hexadecimal; nobody else is asked or believed.
        timeout: how long a round waits for replies, as ``30m``.
        observer: is told every event.
        habits: how requests are asked again, and replies awaited.
        receipts: signs for what sites have sent; None where nobody keeps receipts.
        memory: of the study's questions; it changes.
    """

    grid: Grid
    roster: Mapping[str, str]
    timeout: str
    observer: Observer = nobody
    habits: RetryPolicy = SIMULATION
    receipts: CoordinatorReceipts | None = None
    memory: Memory = field(default_factory=Memory)

    def tell(self, event: str, **fields: object) -> None:
        """Log an event in a line, and tell the observer all of it."""
        shown = {name: value for name, value in fields.items() if name not in _TOO_LONG}
        _log.info(event, **shown)
        self.observer(event, fields)

    def ask(self, requests: Mapping[str, Request], most_weights: int) -> Dispatcher:
        """Put a question to sites, with a receipt for what each has sent before."""
        receipts = self.receipts
        if receipts is not None:
            requests = {site: receipts.attach(site, each) for site, each in requests.items()}
        return Dispatcher(
            self.grid,
            requests,
            timeout=self.timeout,
            most_weights=most_weights,
            habits=self.habits,
            memory=self.memory,
            awaited=lambda site: self.tell(
                "site.awaited",
                round=requests[site].round,
                purpose=requests[site].purpose,
                site=site,
            ),
        )

    def note(self, reply: Reply) -> None:
        """Sign for a reply that was verified."""
        signed = None if self.receipts is None else self.receipts.note(reply)
        if signed is not None:
            heads, signature = signed
            self.tell(
                "receipt.signed",
                site=reply.site,
                ledger=heads.ledger,
                seal=heads.seal,
                signature=signature,
            )


def hear(
    desk: StudyContext,
    requests: Mapping[str, Request],
    shapes: Mapping[str, ReplyShape],
    *,
    patience: float = 0.0,
) -> Iterator[tuple[str, Reply | Absence]]:
    """Ask sites; yield each once, as it answers, with a verified reply or an absence.

    Args:
        desk: who is asked.
        requests: what each site is asked.
        shapes: the array that each site's reply must carry.
        patience: seconds to go on asking where a person has yet to decide.
    """
    most = max((shape.length for shape in shapes.values()), default=0)
    asking = desk.ask(requests, most)
    until, undecided = time.monotonic() + patience, set[str]()
    for site, answer in asking:
        request = requests[site]
        verdict = _verdict(desk, request, site, shapes[site], answer)
        if not isinstance(verdict, Absence):
            yield site, verdict
        elif verdict.code == RefusalCode.PENDING and time.monotonic() < until:
            asking.put_off(site, until=until, pause=PENDING_SECONDS, reason=verdict.reason)
            if site not in undecided:
                undecided.add(site)
                desk.tell("approval.waiting", site=site, plan=request.plan_hash)
        else:
            desk.tell(
                "site.absent",
                round=request.round,
                purpose=request.purpose,
                site=site,
                reason=verdict.reason,
            )
            yield site, verdict


def _verdict(
    desk: StudyContext, request: Request, site: str, shape: ReplyShape, answer: Reply | Absence
) -> Reply | Absence:
    if isinstance(answer, Absence):
        return answer
    reason = _fault(answer, request=request, site=site, key=desk.roster[site], shape=shape)
    refused = reason is not None and reason.startswith(_REFUSED)
    if reason is None or refused:
        desk.note(answer)
    if reason is None:
        return answer
    return Absence(reason, code=answer.code if refused else "")


def _fault(
    answer: Reply, *, request: Request, site: str, key: str, shape: ReplyShape
) -> str | None:
    """Why a reply cannot be used; one that cannot even be looked at concerns its site alone."""
    try:
        return fault(answer, request=request, site=site, key=key, shape=shape)
    except Exception as error:  # noqa: BLE001 - whatever one site sends, the others go on
        _log.warning("reply.unreadable", site=site, error=type(error).__name__, at=place(error))
        return UNREADABLE


def demand_enough(
    study: str,
    round_number: int,
    purpose: str,
    usable: Collection[str],
    absences: Mapping[str, str],
    *,
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
        remedy="see to the sites that are named, then go on: consilium-coordinator resume "
        f"{study}, or in a simulation the same command with --resume; the round is repeated, "
        "and no site is charged twice",
    )
