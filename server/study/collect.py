"""Taking sites' replies as they come: pulled one at a time, verified, and handed on.

One reply at a time is pulled, so that it can be folded and forgotten: memory does not grow with
the number of sites. Nothing that is not verified reaches a caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from common.bounded import seconds
from common.errors import Refusal, RefusalCode, RoundError
from common.process.logs import place
from common.wire.flower import ErrorCode, Message
from common.wire.messages import LedgerHead, Reply, Request, reply_from_record
from server.study.context import StudyContext
from server.study.dispatch import NOT_CONNECTED, Dispatcher
from server.study.verify import CUT_OFF, IMPOSSIBLE, REFUSED, ReplyShape, fault

PENDING_SECONDS: Final = 60.0
"""How long until a site is asked again where a person has yet to decide. When the person has
decided, the site's daemon activates its node again, and the site is asked at once."""
UNREADABLE: Final = "sent something that is not a reply"
_ERRORS: Final = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its client failed",
    ErrorCode.CLIENT_APP_CRASHED: "its client crashed",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its client could not be loaded",
    ErrorCode.NODE_UNAVAILABLE: "offline",
    ErrorCode.MESSAGE_UNAVAILABLE: "the request expired before it was answered",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply was lost on the way",
}
_LOST: Final = frozenset(
    {
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    }
)
"""Errors after which the same request may still be answered."""
_ASK: Final = (
    "ask the hospital to run consilium-site status: it says what failed there and what to do"
)
_RESTORE: Final = (
    "the hospital must restore the newest copy of its state folder; ask it whether a second "
    "machine runs with a copy"
)
_ROUNDS: Final = (
    "if this coordinator's folder or database is an older copy, restore the newest; else start the "
    "study under another name"
)
_SUSPECT: Final = (
    "a sound site does not send this: compare the versions of Consilium on both sides, and ask the "
    "hospital whether somebody changed its files; if nobody can explain it: consilium-coordinator "
    "remove SITE"
)
_REMEDIES: Final = {
    RefusalCode.MALFORMED: "compare the versions of Consilium on both sides; the hospital's is in "
    "consilium-site status",
    RefusalCode.WRONG_PLAN: "the hospital's site file was changed after its plan was made: "
    "consilium-site status there names the entry; it must restore it",
    RefusalCode.NOT_APPROVED: "ask the hospital whether its state folder is an old copy",
    RefusalCode.PENDING: "ask the hospital to read the plan and to approve or deny it: "
    "consilium-site show STUDY",
    RefusalCode.DENIED: "talk to the hospital before you propose another study",
    RefusalCode.POLICY: "ask the hospital to run consilium-site status, which names the limit; "
    "then the study or its policy must change",
    RefusalCode.DATA_UNAVAILABLE: "compare [data] of the study file with the hospital's site file",
    RefusalCode.ROUND_OUT_OF_ORDER: _ROUNDS,
    RefusalCode.ROUND_CONFLICT: _ROUNDS,
    RefusalCode.LEDGER_BEHIND: _RESTORE,
    RefusalCode.NUMERICS: "the hospital must restore its versions and settings (consilium-site "
    "status there names them), or you stop the study and resume it with --amend SITE",
}
_BEGINNINGS: Final = (
    (NOT_CONNECTED, "ask the hospital to run consilium-site status: it says why it cannot connect"),
    ("offline", _ASK),
    (
        "no reply in ",
        f"{_ASK}. It may also be paused, outside its hours, or have stopped the study",
    ),
    ("its client ", _ASK),
    ("its reply was lost", _ASK),
    ("the request expired", _ASK),
    ("its privacy ledger ", _RESTORE),
)
_CALLED: Final = {"train": "training", "evaluate": "evaluation"}
"""What an error calls the answers that a request asks for."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Absence:
    """A site that did not answer, and why.

    Attributes:
        reason: in words.
        code: of a refusal that the site signed; empty otherwise.
    """

    reason: str
    code: str = ""


def remedy(reason: str, otherwise: str = _SUSPECT) -> str:
    """What the coordinator can do about an absence; nothing more is known of it than its reason.

    Args:
        reason: of the absence.
        otherwise: for a reason that is neither a refusal nor silence.
    """
    if reason.startswith(REFUSED):
        code = reason.rpartition("(")[2].removesuffix(")")
        return _REMEDIES[RefusalCode(code)] if code in set(RefusalCode) else otherwise
    return next((do for begins, do in _BEGINNINGS if reason.startswith(begins)), otherwise)


class RoundReplies:
    """The verified replies of one round's sites, as they come.

    Iterating asks the sites and yields each usable reply once. Where too few have come in the
    end, it raises, so that nobody goes on with less than the study wants.

    Args:
        context: of the study.
        requests: what each site is asked.
        shapes: the array that each site's reply must carry.
        unavailable: why the other sites of the study are not asked.
        fewest: how many replies are needed.

    Attributes:
        absences: why each other site gave no usable reply.
        ledgers: the ledger head of each usable reply.

    Raises:
        RoundError: too few usable replies.
    """

    def __init__(
        self,
        context: StudyContext,
        requests: Mapping[str, Request],
        shapes: Mapping[str, ReplyShape],
        *,
        unavailable: Mapping[str, str],
        fewest: int,
    ) -> None:
        self.absences = dict(unavailable)
        self.ledgers: dict[str, LedgerHead] = {}
        self._context, self._requests, self._shapes = context, requests, shapes
        self._fewest = fewest

    @property
    def sites(self) -> list[str]:
        """The sites whose replies can be used, by name."""
        return sorted(self.ledgers)

    @property
    def impossible(self) -> list[str]:
        """The sites whose answer no honest site could have given, by name."""
        # Of those that were asked: an absence that was given beforehand stands for no reply.
        return sorted(
            site for site in self._requests if self.absences.get(site, "").startswith(IMPOSSIBLE)
        )

    def __iter__(self) -> Iterator[Reply]:
        """Ask; yield each usable reply as it comes; demand that they are enough."""
        for site, answer in collect(self._context, self._requests, self._shapes):
            if isinstance(answer, Absence):
                self.absences[site] = answer.reason
            else:
                self.ledgers[site] = answer.ledger
                yield answer
        # An impossible reply is stored at its site and comes again whenever it is asked for:
        # stopping the study because of it would stop it permanently.
        if len(self.ledgers) + len(self.impossible) < self._fewest:
            asked = next(iter(self._requests.values()))
            raise too_few(self._context, asked, self.sites, self.absences, self._fewest)


def collect(
    context: StudyContext,
    requests: Mapping[str, Request],
    shapes: Mapping[str, ReplyShape],
    *,
    approval_timeout: str = "0s",
) -> Iterator[tuple[str, Reply | Absence]]:
    """Ask sites; yield each once, as it answers, with a verified reply or an absence.

    Args:
        context: of the study.
        requests: what each site is asked.
        shapes: the array that each site's reply must carry.
        approval_timeout: how long a network's sites are asked again where a person has yet to
            decide, as ``3d``; a simulation has no person to wait for.
    """
    dispatcher, clock = _dispatcher(context, requests), context.retries.clock
    # What is longer is not even read into an array.
    most_weights = max((shape.length for shape in shapes.values()), default=0)
    until = clock() + (seconds(approval_timeout) if context.retries.repeat else 0.0)
    undecided = set[str]()
    for site, answer in answers(dispatcher, most_weights):
        request = requests[site]
        verdict = _verdict(context, request, site, shapes[site], answer)
        if not isinstance(verdict, Absence):
            yield site, verdict
        elif verdict.code == RefusalCode.PENDING and clock() < until:
            dispatcher.put_off(site, until=until, pause=PENDING_SECONDS, reason=verdict.reason)
            if site not in undecided:
                undecided.add(site)
                context.tell("approval.waiting", site=site, plan=request.plan_hash)
        else:
            context.tell(
                "site.absent",
                round=request.round,
                purpose=request.purpose,
                site=site,
                reason=verdict.reason,
                # A simulation has no hospital to call.
                do=remedy(verdict.reason) if context.retries.repeat else "",
            )
            yield site, verdict


def _dispatcher(context: StudyContext, requests: Mapping[str, Request]) -> Dispatcher:
    """Sends the requests, each with the newest receipt for what its site has sent."""
    receipts = context.receipts
    if receipts is not None:
        requests = {site: receipts.attach(site, each) for site, each in requests.items()}
    return Dispatcher(
        context.grid,
        requests,
        timeout=context.timeout,
        retries=context.retries,
        memory=context.memory,
        awaited=lambda site: context.tell(
            "site.awaited", round=requests[site].round, purpose=requests[site].purpose, site=site
        ),
    )


def answers(dispatcher: Dispatcher, most_weights: int) -> Iterator[tuple[str, Reply | Absence]]:
    """Send, and yield each site's answer as it comes.

    Each site comes once, with its reply, well formed and not verified, or the reason for its
    absence; a site that was put off comes once more.

    Args:
        dispatcher: of the question.
        most_weights: the longest array that a reply may carry.
    """
    retries = dispatcher.retries
    while dispatcher.deadline is not None:
        now, heard = retries.clock(), False
        dispatcher.send(now)
        for message_id in dispatcher.messages:
            for message in dispatcher.grid.pull_messages([message_id]):
                heard = True
                answered = dispatcher.arrived(message_id, _lost(message))
                if answered is not None:
                    yield answered, _read(message, most_weights)
        # After the replies: even with no time left every reply that is there is taken.
        for site, reason in dispatcher.give_up(now):
            yield site, Absence(reason)
        if dispatcher.deadline is not None and not heard:
            pause = min(retries.poll_seconds, dispatcher.deadline - retries.clock())
            retries.wait(max(0.0, pause))


def _lost(message: Message) -> str | None:
    """Why the request may have been lost on the way, where Flower says that it was."""
    lost = message.has_error() and message.error.code in _LOST
    return _ERRORS[message.error.code] if lost else None


def _read(message: Message, most_weights: int) -> Reply | Absence:
    if message.has_error():
        code = message.error.code
        return Absence(_ERRORS.get(code, f"Flower's error {code}"))
    try:
        return reply_from_record(message.content, most_weights)
    except Refusal:
        return Absence(UNREADABLE)
    except Exception as error:  # noqa: BLE001 - whatever one site sends, the others go on
        _log.warning("reply.unreadable", error=type(error).__name__, at=place(error))
        return Absence(UNREADABLE)


def _verdict(
    context: StudyContext, request: Request, site: str, shape: ReplyShape, answer: Reply | Absence
) -> Reply | Absence:
    if isinstance(answer, Absence):
        return answer
    try:
        # The key of the site that was asked, whatever name the reply carries.
        key = context.roster[site]
        reason = fault(answer, request=request, site=site, key=key, shape=shape)
    except Exception as error:  # noqa: BLE001 - whatever one site sends, the others go on
        _log.warning("reply.unreadable", site=site, error=type(error).__name__, at=place(error))
        reason = UNREADABLE
    refused = reason is not None and reason.startswith(REFUSED)
    if reason is None or refused:  # the site has signed it: a receipt may speak of its heads
        _sign_receipt(context, answer)
    if reason is None:
        return answer
    return Absence(reason, code=answer.code if refused else "")


def _sign_receipt(context: StudyContext, reply: Reply) -> None:
    signed = None if context.receipts is None else context.receipts.note(reply)
    if signed is not None:
        heads, signature = signed
        context.tell(
            "receipt.signed",
            site=reply.site,
            ledger=heads.ledger,
            seal=heads.seal,
            signature=signature,
        )


def too_few(
    context: StudyContext,
    asked: Request,
    usable: Collection[str],
    absences: Mapping[str, str],
    fewest: int,
) -> RoundError:
    """Why a study stops where too few sites gave something that can be used."""
    network = bool(context.retries.repeat)
    missing = "\n".join(
        f"{'':<10}{site}: {absences[site].removeprefix(REFUSED)}"
        + (f"; {do}" if network and (do := remedy(absences[site], "")) else "")
        for site in sorted(absences)
    )
    again = f"consilium-coordinator resume {asked.study}"
    if context.retries.repeat is None:  # a simulation: no daemon runs it
        again = "the same command with --resume"
    if asked.purpose not in _CALLED:
        return RoundError(
            f"too few sites can take part: {len(usable)} of {len(usable) + len(absences)}, "
            f"the study needs {fewest}",
            where=f"study {asked.study}",
            found=f"{len(usable)} usable, {len(absences)} missing\n{missing}".rstrip(),
            wanted=f"at least {fewest} ([aggregation] min_sites; bulyan: also 4 f + 3)",
            remedy=f"if only the hospitals must change something, let them do it, then: {again}; "
            "if the study file must change, start it under another name; this step has charged "
            "no patient",
        )
    advice = "fix the problems of the sites listed above, then continue: "
    if any(reason.startswith(CUT_OFF) for reason in absences.values()):
        advice = (
            "an honest update is cut off only where training runs away: if that is so at most of "
            "the sites, start a new study with a lower learning_rate, for the same round gives the "
            "same updates; else fix the problems of the sites listed above, then continue: "
        )
    return RoundError(
        f"round {asked.round} got too few usable replies",
        where=f"{_CALLED[asked.purpose]}, round {asked.round}",
        found=f"{len(usable)} usable, {len(absences)} missing\n{missing}".rstrip(),
        wanted=f"at least {fewest}",
        remedy=f"{advice}{again}; the round is repeated, and no patient is charged twice",
    )
