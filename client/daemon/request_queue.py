"""Requests that wait or are worked on, and replies that wait: the daemon's state between processes.

A request goes from ``waiting`` to ``working`` to the ``outbox`` to ``sending``, and is forgotten
when its reply was pushed. One identity is held once: if it is asked again, the newest message is
answered. What an administrator stopped leaves none of the four.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from common.text import reads_as_hash

MOST_DEATHS: Final = 3
"""Workers that a request may take down before it is given up."""

MOST_WAITING: Final = 64
"""Requests that may wait for the worker, and replies for the coordinator; an honest one has one a
study."""
MOST_BYTES: Final = 2**29
"""What they may hold together; beyond it nothing more is taken until half of it is done."""


@dataclass(frozen=True)
class QueuedRequest:
    """A request that was received and is not answered yet.

    Attributes:
        identity: what makes two messages the same request.
        study: its study, plan, round and purpose, as far as they could be read.
        message: number of the newest message that asks for it, counted here.
        request: that message.
        deaths: workers that died of it.
    """

    identity: str
    study: str
    plan_hash: str
    round: int
    purpose: str
    message: int
    request: bytes = field(repr=False)
    deaths: int = 0


@dataclass(frozen=True)
class Outgoing:
    """A reply that waits to be pushed.

    Attributes:
        job: what it answers.
        code: what it says: ``ok``, or a refusal's code.
        reply: the message.
    """

    job: QueuedRequest
    code: str
    reply: bytes = field(repr=False)


@dataclass(frozen=True)
class Stopped:
    """What was held of a study when it was stopped.

    Attributes:
        worker: whether the worker was at it.
        connection: whether a reply was on its way.
        forgotten: requests that get no answer.
    """

    worker: bool
    connection: bool
    forgotten: tuple[QueuedRequest, ...] = ()


class RequestQueue:
    """The queue; every method leaves it consistent."""

    def __init__(self) -> None:
        self.waiting: dict[str, QueuedRequest] = {}
        self.outbox: dict[str, Outgoing] = {}
        self.working: QueuedRequest | None = None
        self.sending: Outgoing | None = None
        self._silenced: Counter[str] = Counter()

    def arrive(self, job: QueuedRequest) -> bool:
        """Hold a request; False where it was held already, and now has a newer message."""
        # What waits there answers an older message, which the coordinator has given up.
        self.outbox.pop(job.identity, None)
        working = self.working
        if working is not None and working.identity == job.identity:
            self.working = replace(working, message=job.message, request=job.request)
            return False
        before = self.waiting.get(job.identity)
        self.waiting[job.identity] = replace(job, deaths=before.deaths) if before else job
        return before is None

    def take(self) -> QueuedRequest | None:
        """The next request to work on; None where one is worked on, or none waits."""
        if self.working is not None or not self.waiting:
            return None
        identity = next(iter(self.waiting))
        self.working = self.waiting.pop(identity)
        return self.working

    def answered(self, message: int, code: str, reply: bytes) -> Outgoing | None:
        """The worker has answered what it was given.

        Args:
            message: number of the message that it was given.
            code: what the reply says.
            reply: the message; empty where the site keeps silent.

        Returns:
            What was put into the outbox: None where the site keeps silent, the study is
            silenced, or a newer message asks the same, which then goes to the worker.
        """
        job, self.working = self.working, None
        if job is None or any(_is_of(job, study) for study in +self._silenced):
            return None
        # A newer message came while it was computed: the worker answers it from the stored reply.
        if job.message != message:
            self.waiting = {job.identity: job, **self.waiting}
            return None
        if not reply:
            return None
        # Without the request, which is not needed any more: replies may wait for long.
        self.outbox[job.identity] = Outgoing(replace(job, request=b""), code, reply)
        return self.outbox[job.identity]

    def died(self, *, killed: bool = False) -> QueuedRequest | None:
        """The worker has died; what it worked on goes to the next, before all else.

        Args:
            killed: whether the daemon itself ended it, for which no request is to blame.

        Returns:
            The request, where it is given up instead.
        """
        job, self.working = self.working, None
        if job is None:
            return None
        job = job if killed else replace(job, deaths=job.deaths + 1)
        if job.deaths >= MOST_DEATHS:
            return job
        self.waiting = {job.identity: job, **self.waiting}
        return None

    def send(self) -> Outgoing | None:
        """The next reply to push; None where one is being pushed, or none waits."""
        if self.sending is not None or not self.outbox:
            return None
        identity = next(iter(self.outbox))
        self.sending = self.outbox.pop(identity)
        return self.sending

    def pushed(self) -> Outgoing | None:
        """The reply that was being pushed has left, or never can."""
        sent, self.sending = self.sending, None
        return sent

    def line_lost(self) -> None:
        """What was being pushed may not have arrived: it waits again, before all else."""
        sent, self.sending = self.sending, None
        if sent is None or sent.job.identity in self.waiting or self._is_at(sent.job.identity):
            return  # a newer message asks the same, and will have its answer
        self.outbox = {sent.job.identity: sent, **self.outbox}

    def stop(self, study: str) -> Stopped:
        """Forget a study's requests and replies; says who is at one of them now.

        Args:
            study: a name, or the beginning of a plan's hash.
        """
        worker = self.working is not None and _is_of(self.working, study)
        connection = self.sending is not None and _is_of(self.sending.job, study)
        at_work = [self.working] if self.working else []
        jobs = (*at_work, *self.waiting.values())
        forgotten = tuple(job for job in jobs if _is_of(job, study))
        self.waiting = {key: job for key, job in self.waiting.items() if not _is_of(job, study)}
        self.outbox = {key: it for key, it in self.outbox.items() if not _is_of(it.job, study)}
        if worker:
            self.working = None
        if connection:
            self.sending = None
        return Stopped(worker, connection, forgotten)

    def silence(self, study: str) -> None:
        """Let no reply of a study out until :meth:`speak` is called as often.

        Args:
            study: a name, or the beginning of a plan's hash.
        """
        # A count: two commands may be ending one study at the same time.
        self._silenced[study] += 1

    def speak(self, study: str) -> None:
        """Let a study's replies out again."""
        self._silenced[study] -= 1

    def has_room(self, *, again: bool = False) -> bool:
        """Whether more requests may come; replies count that the coordinator does not take.

        Args:
            again: whether there was none a moment ago, when there must be more of it.
        """
        # Half of it: else the connection would go on and off with each reply that leaves.
        share = 2 if again else 1
        replies = [*self.outbox.values(), *([self.sending] if self.sending else [])]
        held = sum(len(job.request) for job in self.waiting.values())
        held += sum(len(each.reply) for each in replies)
        many = len(self.waiting) + len(replies)
        return many < MOST_WAITING // share and held < MOST_BYTES // share

    @property
    def replies(self) -> int:
        """Replies that wait or are being pushed."""
        return len(self.outbox) + (self.sending is not None)

    def _is_at(self, identity: str) -> bool:
        return self.working is not None and self.working.identity == identity


def _is_of(job: QueuedRequest, study: str) -> bool:
    """Whether a request is of a study, named or by the beginning of its plan's hash.

    What reads as a hash is one: a coordinator cannot name a study like another one's hash.
    """
    if reads_as_hash(study):
        return job.plan_hash.startswith(study.lower())
    return bool(study) and job.study == study
