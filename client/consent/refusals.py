"""The latest proposals that were refused before a person saw them, so that staff can find them.

Only public numbers are kept: names that the coordinator gave, the hash of its plan and the site's
own settings. They stay at the hospital.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from client.records.store import SiteDatabase
from client.site import Site
from common.documents import read_json
from common.errors import ConsiliumError, Refusal, RefusalCode
from common.wire.messages import Request

MOST: Final = 20
"""Refused proposals that are kept: a coordinator may send any number."""
_FACT: Final = "refused-proposals"
_LONGEST: Final = 300
_DECIDED: Final = frozenset(
    {RefusalCode.POLICY, RefusalCode.WRONG_PLAN, RefusalCode.NUMERICS, RefusalCode.DATA_UNAVAILABLE}
)


@dataclass(frozen=True)
class RefusedProposal:
    """A study that was refused before a person saw it.

    Attributes:
        study: its name.
        plan_hash: of its plan; empty where it came to none.
        why: in words, with what was found and wanted.
    """

    study: str
    plan_hash: str
    why: str


def details(refused: Refusal) -> dict[str, str]:
    """Where, found and wanted of a refusal that concerns public numbers alone; else nothing."""
    if not refused.public:
        return {}
    names = ("where", "found", "wanted")
    # Cut: some of it is the coordinator's text, which could fill the log.
    return {name: refused.details[name][:_LONGEST] for name in names if name in refused.details}


def keep(site: Site, request: Request, refused: Refusal) -> None:
    """Keep that a proposal was refused, where it was and no plan waits or runs for it."""
    if request.purpose not in ("offer", "propose") or refused.code not in _DECIDED:
        return
    told = "; ".join(f"{name} {value}" for name, value in details(refused).items())
    new = RefusedProposal(
        request.study, request.plan_hash, ": ".join(filter(None, (refused.what, told)))
    )
    # A store that fails keeps nobody from refusing.
    with suppress(sqlite3.Error, ConsiliumError, ValueError, TypeError):
        if site.approvals.find(request.plan_hash) is None:
            mine = new.study, new.plan_hash
            others = (each for each in _kept(site.store) if (each.study, each.plan_hash) != mine)
            latest = [new, *others][:MOST]
            site.store.keep(_FACT, json.dumps([asdict(each) for each in latest]))


def refused_proposals(site: Site) -> tuple[RefusedProposal, ...]:
    """The latest of them, newest first, without those whose plan was taken after all."""
    known = {approval.plan.hash for approval in site.approvals.all()}
    return tuple(each for each in _kept(site.store) if each.plan_hash not in known)


def _kept(store: SiteDatabase) -> list[RefusedProposal]:
    return [RefusedProposal(**each) for each in read_json(store.fact(_FACT) or "[]")]
