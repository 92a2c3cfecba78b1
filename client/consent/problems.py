"""The last failure of each study at this site, for its own staff to fix.

A site that fails looks offline to the coordinator: an error code might tell something of a patient.
So the staff must see here what failed, in which step, and what to do. It is kept in the site's
store until later work of that study goes well, and is shown by ``status`` and ``show`` alone. The
log, which may be collected elsewhere, has the type and the place of an error and never its words,
which may count rows or name a file.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Final, Literal

import structlog

from client.process_limits import exhausted
from client.records.approvals import timestamp
from client.records.store import SiteDatabase
from client.site import Site
from common.documents import read_json
from common.errors import ConsiliumError, DataError, LabelError, Refusal, RefusalCode, SiteError
from common.process.logs import place
from common.visible import visible
from common.wire.messages import Request

log = structlog.get_logger(__name__)

MOST: Final = 20
"""Studies whose failure is kept: a coordinator may name any number."""
PREPARING: Final = "prepare"
"""The step in which the images of an approved plan are read."""
_LONGEST: Final = 500
_FACT: Final = "failures"
_CROWDED: Final = "crowded "
_PARTS: Final = {"train": "training", "validation": "validation"}
_STEPS: Final = {
    "train": "round {}",
    "evaluate": "the evaluation after round {}",
    "offer": "the offer",
    "propose": "the proposal",
    "amend": "the amendment",
    "provide": "the frozen weights",
    "close": "the end of the study",
    PREPARING: "preparing its images",
}
Fate = Literal["silence", "refused", "late"]
"""What became of a request that failed."""
_HEADS: Final[dict[Fate, str]] = {
    "silence": "{study} got no answer for {step} at {at}",
    "refused": "{study}: this site refused {step} at {at}",
    "late": "{study}: the coordinator did not take the reply for {step} at {at}",
}
_WORK: Final = ("train", "evaluate", "close")
"""After one of these went well, nothing of the study is left to fix."""
_READING: Final = (
    "Run consilium-site check. The image folder, the label file and the lists of patients must "
    "exist and be readable. Until then the coordinator gets no answer; after that the site "
    "continues by itself"
)
_DEFECT: Final = (
    "Check that the disk has free space and that the state folder is writable. If the failure "
    "comes again, report the place named here. The coordinator gets no answer to such requests"
)
_FULL: Final = (
    "free disk space, or raise the quota of the daemon's user; the state folder and its cache of "
    "decoded images need it. The site then continues by itself"
)
_MEMORY: Final = (
    "end other programs on this machine, or lower [device] memory_mib in the site file and restart "
    "the daemon"
)
_RIGHTS: Final = (
    "give the daemon's user the right to read the images, the label file and the lists, and to "
    "write in the state folder. The site then continues by itself"
)
_BY_NUMBER: Final = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota of the daemon's user is used up", _FULL),
    errno.EFBIG: ("a file may not become larger", _FULL),
    errno.EROFS: ("the disk is read-only", "look in the system log for errors of the disk"),
    errno.EIO: ("the disk cannot be read or written", "look in the system log for disk errors"),
    errno.EACCES: ("a file may not be read or written", _RIGHTS),
    errno.EPERM: ("a file may not be read or written", _RIGHTS),
    errno.EBUSY: (
        "another program keeps the site's database locked",
        "end the program that has site.sqlite in the state folder open, such as a backup. The site "
        "then continues by itself",
    ),
    errno.EMFILE: ("too many files are open", "raise LimitNOFILE of the service (ulimit -n)"),
    errno.ENFILE: ("too many files are open", "end other programs on this machine"),
}
_BY_SQLITE: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
_BY_CODE: Final = {
    RefusalCode.POLICY: "change the policy in the site file if you agree, and restart the daemon",
    RefusalCode.DATA_UNAVAILABLE: "restore this entry in the site file and restart the daemon, or "
    "stop the study",
    RefusalCode.WRONG_PLAN: "the site file was changed after the plan was made: restore this entry "
    "and restart the daemon, or stop the study and ask the coordinator for a new one",
    RefusalCode.NUMERICS: "restore the agreed versions and settings, or ask the coordinator to "
    "amend the study for this site",
    RefusalCode.LEDGER_BEHIND: "see docs/site.md, If the disk fails",
}
"""What to do about a refusal that follows from this site's own state, where it does not say."""


@dataclass(frozen=True)
class Problem:
    """What failed last in a study, and was not followed by work that went well.

    Attributes:
        study: its name; empty where it is of none.
        purpose: of the request, or :data:`PREPARING`.
        round: its number; 0 outside the rounds.
        what: in words.
        remedy: what to do.
        at: when, ISO 8601 in UTC.
        how: what became of the request.
        code: of a refusal.
        error: the type of what was raised.
    """

    study: str
    purpose: str
    round: int
    what: str
    remedy: str
    at: str
    how: Fate = "silence"
    code: str = ""
    error: str = ""

    @property
    def told(self) -> str:
        """What failed, when, in which step, and why, in a line."""
        study = self.study or "a request"
        step = _STEPS.get(self.purpose, "a message").format(self.round)
        return f"{_HEADS[self.how].format(study=study, step=step, at=self.at)}: {self.what}"


def keep(site: Site, study: str, purpose: str, number: int, error: Exception) -> None:
    """Log what failed, and keep it for the site's staff."""
    reading = isinstance(error, DataError | LabelError | SiteError)
    name, at = type(error).__name__, place(error)
    do = _READING if reading else _DEFECT
    log.error("site.failed", site=site.name, study=study, error=name, at=at, do=do)
    what, remedy = _explained(error)
    put(site, Problem(study, purpose, number, what, remedy or do, timestamp(), error=name))


def keep_refused(site: Site, request: Request, refused: Refusal) -> None:
    """Keep a refusal that this site's own staff can end, of a plan that was taken here.

    Not one that a coordinator brings about: it could hide a failure behind it.
    """
    with suppress(sqlite3.Error, ConsiliumError, ValueError, TypeError):
        behind = refused.code == RefusalCode.LEDGER_BEHIND
        if not behind and (
            refused.code not in _BY_CODE or not refused.public or _unknown(site, request)
        ):
            return
        do = refused.details.get("do", _BY_CODE[refused.code])
        at, code = timestamp(), str(refused.code)
        kept = (request.study, request.purpose, request.round, _in_words(refused), do, at)
        put(site, Problem(*kept, "refused", code))


def put(site: Site, new: Problem) -> None:
    """Keep a failure in place of the study's last one.

    A coordinator decides whether a reply was late, and how many studies it proposes. Neither hides
    what failed in a study that runs.
    """
    # The bytes of a path may be no text, which no answer to `status` can hold.
    texts = {name: visible(str(getattr(new, name))) for name in ("study", "what", "remedy")}
    cut = {name: text[:_LONGEST] for name, text in texts.items()}
    # The store may be what fails: then `status` finds that, as it tries to write.
    with suppress(sqlite3.Error, ConsiliumError), site.store.transaction():
        before = _kept(site.store)
        last = next((each for each in before if each.study == cut["study"]), new)
        if new.how == "late" and last.how != "late":
            return
        others = [each for each in before if each.study != cut["study"]]
        if len(others) == MOST:
            others.remove(_least(site, others))
        _write(site.store, [Problem(**(asdict(new) | cut)), *others])


def settle(site: Site, study: str, purpose: str) -> None:
    """Forget what failed before, where work that went well shows that it is fixed."""
    with suppress(sqlite3.Error):
        # Mostly there is none, and no round writes to the disk for it.
        if any(_is_settled(each, study, purpose) for each in _kept(site.store)):
            with site.store.transaction():
                kept = _kept(site.store)
                left = [each for each in kept if not _is_settled(each, study, purpose)]
                _write(site.store, left)


def last_failures(site: Site) -> tuple[Problem, ...]:
    """The last failure of each study that is not over, newest first."""
    kept = _kept(site.store)
    if not kept:
        return ()
    over: dict[str, bool] = {}
    for each in site.approvals.all():
        name, ended = each.plan.study.study.name, each.standing not in ("approved", "pending")
        over[name] = over.get(name, True) and ended
    return tuple(each for each in kept if not over.get(each.study, False))


def _is_settled(problem: Problem, study: str, purpose: str) -> bool:
    if purpose in ("offer", "propose"):  # they are alike for all studies
        return problem.purpose == purpose
    if problem.code == RefusalCode.LEDGER_BEHIND and purpose in ("train", "evaluate"):
        return True  # there is one ledger for all studies
    return problem.study == study and (purpose in _WORK or problem.purpose == purpose)


def _least(site: Site, problems: list[Problem]) -> Problem:
    """The failure that matters least: the oldest of a study that does not run, if there is one."""
    approved = (each.plan for each in site.approvals.all() if each.standing == "approved")
    running = {plan.study.study.name for plan in approved}
    return ([each for each in problems if each.study not in running] or problems)[-1]


def _unknown(site: Site, request: Request) -> bool:
    approval = site.approvals.find(request.plan_hash)
    return approval is None or approval.plan.study.study.name != request.study


def _explained(error: Exception) -> tuple[str, str]:
    """What failed, and what to do; empty where that follows from the kind of error alone."""
    if isinstance(error, ConsiliumError):
        return _in_words(error), error.details.get("do", "")
    if exhausted(error):
        return "memory ran out", _MEMORY
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, sqlite3.Error):
        number = _BY_SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if number in _BY_NUMBER:
        what, remedy = _BY_NUMBER[number]
        return f"{what} ({place(error)})", remedy
    if isinstance(error, OSError):
        return f"the system said: {error.strerror} ({place(error)})", ""
    return f"a defect in Consilium: {type(error).__name__} at {place(error)}", ""


def _in_words(error: ConsiliumError) -> str:
    parts = (f"{name} {error.details[name]}" for name in ("where", "found", "wanted")
             if name in error.details)  # fmt: skip
    return "; ".join((error.what, *parts)).replace("\n", " ")


def _kept(store: SiteDatabase) -> list[Problem]:
    known = {each.name for each in fields(Problem)}
    kept = read_json(store.fact(_FACT) or "[]")
    # Of another version: what it knows less or more of is passed over.
    return [Problem(**each) for each in kept if each.keys() == known]


def _write(store: SiteDatabase, problems: list[Problem]) -> None:
    store.keep(_FACT, json.dumps([asdict(each) for each in problems]))


def keep_crowded(site: Site, plan_hash: str, held: Mapping[str, int]) -> None:
    """Keep which parts held more than ``most_patients`` as a plan's cohort was frozen.

    Only the site's own staff is told, since it follows from patients. Patients beyond the number
    take no part.

    Args:
        site: an open site.
        plan_hash: which plan.
        held: how many patients each of these parts held; empty for none.
    """
    name = _CROWDED + plan_hash
    if held:
        site.store.keep(name, json.dumps(dict(held)))
    else:
        site.store.drop(name)


def forget(store: SiteDatabase, plan_hash: str) -> None:
    """Keep nothing of a plan."""
    store.execute("DELETE FROM facts WHERE name = ?", _CROWDED + plan_hash)


def crowded(site: Site) -> Iterator[tuple[str, str]]:
    """What running studies found more patients in than the site file says, and what to do."""
    told = set()
    for plan in (each.plan for each in site.approvals.running()):
        kept, name = site.store.fact(_CROWDED + plan.hash), plan.study.data.dataset
        held = read_json(kept) if kept else {}
        # The site file of today: once its number is raised, there is nothing left to tell.
        data = site.file.data.get(name)
        if data is not None and max(held.values(), default=0) > data.most_patients:
            told.add(too_many(name, data.most_patients, held))
    yield from sorted(told)


def too_many(dataset: str, most: int, held: Mapping[str, int]) -> tuple[str, str]:
    """What is said of a data set with more patients than it may have, and what to do."""
    parts = " and ".join(f"{count} in {_PARTS[part]}" for part, count in held.items())
    return (
        f"data set {dataset} has {parts}, but most_patients is {most}: patients beyond that take "
        "no part, and a patient may lose twice the privacy that a study states",
        f"raise most_patients in [data.{dataset}] of the site file, and leave room for new "
        "patients; the number is public, and running studies that use the old number end here",
    )
