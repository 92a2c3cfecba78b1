"""Amending a running study's numerics, site by site: the coordinator's half.

The coordinator's operator names the sites (``consilium-coordinator resume STUDY --amend SITE``),
which is this side's consent. The site says in a new offer which numerics it has today. The
amendment that follows is durable before it is proposed, and is proposed again until the site has
answered, so that both sides come to the same result wherever one of them is killed. A study
without amendments continues unchanged. See :mod:`common.amendment`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from common.amendment import Amendment, amend, in_force, read_amendment
from common.checkpoint import Checkpoint
from common.documents import read_json
from common.errors import CheckpointError, Refusal, RefusalCode, StudyError
from common.files import canonical_json, write_atomic
from common.numerics import differences
from common.plan import Offer, Plan
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Request
from server.study.collect import Absence, collect
from server.study.context import StudyContext
from server.study.round_zero import Plans, demand_time, offers
from server.study.verify import NOTHING

FILE: Final = "amendments.json"
WISHES: Final = "amend.json"
FORMAT: Final = 1


@dataclass(frozen=True)
class Amended:
    """An amendment of one site's plan, and whether the site has agreed to it."""

    site: str
    amendment: Amendment
    agreed: bool = False


def wish(folder: Path, sites: Collection[str]) -> None:
    """Make the next start of a study propose amendments to these sites.

    Args:
        folder: the study's, at the coordinator.
        sites: by name.
    """
    write_atomic(folder / WISHES, canonical_json(sorted(sites)))


def propose_amendments(
    context: StudyContext,
    study: Study,
    plans: Plans,
    folder: Path,
    state: Checkpoint,
) -> None:
    """Write the requested amendments, and propose those without an answer.

    Args:
        context: who is asked.
        study: that continues.
        plans: by site, of those that approved.
        folder: the study's.
        state: after the last completed round.

    Raises:
        CheckpointError: what was written before cannot be read.
    """
    known = list(stored(folder))
    asked = _Asked(context, study, plans, folder, state)
    asked.propose(known)
    wished = _wished(folder) & plans.keys()
    if wished:
        known += list(_written(asked, known, wished))
        # Durable before it is proposed: a site may agree to it before a crash.
        _store(folder, known)
        asked.propose(known)
    # Last: a start that is killed before this asks for the same amendments again.
    (folder / WISHES).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Asked:
    """Who is asked about what; see :func:`propose_amendments`."""

    context: StudyContext
    study: Study
    plans: Plans
    folder: Path
    state: Checkpoint

    def propose(self, known: list[Amended]) -> None:
        """Propose what no site has agreed to; ``known`` becomes what is known then."""
        waiting = {each.site: each for each in known if not each.agreed and each.site in self.plans}
        requests = {
            site: Request(
                self.study.study.name,
                self.plans[site].hash,
                0,
                "amend",
                document=each.amendment.text,
                ledger=self.state.ledgers.get(site, LedgerHead()),
            )
            for site, each in waiting.items()
        }
        nothing = dict.fromkeys(requests, NOTHING)
        timeout = self.study.aggregation.approval_timeout
        for site, answer in collect(self.context, requests, nothing, approval_timeout=timeout):
            mine = waiting[site]
            place = known.index(mine)
            if not isinstance(answer, Absence):
                known[place] = replace(mine, agreed=True)
                _store(self.folder, known)
                change = _told(mine.amendment, self.plans[site], known)
                self.context.tell("numerics.amended", site=site, **change)
                continue
            self.context.tell("amendment.refused", site=site, reason=answer.reason)
            if answer.code == RefusalCode.NUMERICS:
                # Its numerics have changed again, so it can never agree to this one.
                del known[place]
                _store(self.folder, known)


def stored(folder: Path) -> tuple[Amended, ...]:
    """The amendments of a study, in the order of their writing.

    Raises:
        CheckpointError: they cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        document = read_json(path.read_bytes())
        return tuple(
            Amended(
                each["site"],
                read_amendment(canonical_json(each["amendment"]).decode()),
                bool(each["agreed"]),
            )
            for each in document["amendments"]
        )
    except (ValueError, KeyError, TypeError, Refusal) as error:
        raise CheckpointError(
            "the study's amendments cannot be read",
            where=path,
            found=type(error).__name__,
            wanted="the file as the coordinator wrote it",
            remedy="stop the coordinator and restore the file from a backup",
        ) from error


def amendments_for_result(folder: Path, plans: Plans) -> list[dict[str, Any]]:
    """What a result says about agreed amendments: which site, from which round, what changed."""
    known = stored(folder)
    return [
        {"site": each.site, **_told(each.amendment, plans[each.site], known)}
        for each in known
        if each.agreed
    ]


def _told(amendment: Amendment, plan: Plan, known: Iterable[Amended]) -> dict[str, Any]:
    earlier = (
        each.amendment
        for each in known
        if each.amendment.plan == plan.hash and each.amendment.number < amendment.number
    )
    changed = differences(in_force(plan, earlier).numerics, amendment.numerics)
    return {
        "from_round": amendment.after + 1,
        "amendment": amendment.hash,
        "changed": {name: list(values) for name, values in sorted(changed.items())},
    }


def _wished(folder: Path) -> set[str]:
    path = folder / WISHES
    return set(read_json(path.read_bytes())) if path.exists() else set()


def _written(asked: _Asked, known: Iterable[Amended], wished: Collection[str]) -> Iterable[Amended]:
    """The amendments that follow from the numerics that sites have today."""
    context, study = asked.context, asked.study
    for site, offer in offers(context, study, wished):
        agreed = [each.amendment for each in known if each.site == site and each.agreed]
        before = in_force(asked.plans[site], agreed)
        if isinstance(offer, Absence):
            context.tell("amendment.refused", site=site, reason=offer.reason)
        elif any(each.site == site and not each.agreed for each in known):
            # It may have agreed without our knowing: where a next one would start is unknown.
            context.tell(
                "amendment.refused",
                site=site,
                reason="its earlier amendment still waits for an answer",
            )
        elif not differences(before.numerics, offer.numerics):
            context.tell(
                "amendment.refused", site=site, reason="nothing has changed since the agreement"
            )
        elif (late := _too_late(study, offer)) is not None:
            context.tell("amendment.refused", site=site, reason=late)
        else:
            amendment = amend(asked.plans[site], before, offer.numerics, asked.state.round)
            yield Amended(site, amendment)


def _too_late(study: Study, offer: Offer) -> str | None:
    """Why the site's replies would always come too late from the machine that it has now."""
    try:
        demand_time(study, offer)
    except StudyError as error:
        return f"{error.what} ({error.details['found']}, wanted {error.details['wanted']})"
    return None


def _store(folder: Path, known: Iterable[Amended]) -> None:
    entries = [
        {
            "site": each.site,
            "amendment": each.amendment.model_dump(mode="json"),
            "agreed": each.agreed,
        }
        for each in known
    ]
    write_atomic(folder / FILE, canonical_json({"format": FORMAT, "amendments": entries}))
