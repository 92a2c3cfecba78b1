"""What the audit log says about messages.

Each message gets a line before anything is done for it, and a line before its reply leaves or
before the site stays silent. A charge gets a line in between. Outsiders cannot count the lines
(:mod:`client.records.seals`), and no line depends on who the patients are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.records.accounts import Part
from client.site import Site
from common.files import sha256
from common.privacy.cap import composed
from common.wire.flower import RecordDict
from common.wire.messages import OK, Reply, Request, fingerprint


def came(site: Site, request: Request) -> None:
    """Note a request.

    Raises:
        OSError: it cannot be noted, and so must not be answered.
    """
    if not site.audit.keeps:
        site.audit.append("message.in")
        return
    size = len(request.document.encode()) + (0 if request.arrays is None else request.arrays.nbytes)
    site.audit.append("message.in", hash=request.identity, size=size, **_about(request))


def unreadable(site: Site, content: RecordDict, purpose: str) -> None:
    """Note what arrived and is no request."""
    digest, size = fingerprint(content)
    site.audit.append("message.in", hash=digest, size=size, purpose=purpose, unreadable=True)


def goes(
    site: Site,
    request: Request,
    reply: Reply,
    *,
    again: bool = False,
    why: str = "",
    details: Mapping[str, str] | None = None,
) -> None:
    """Note a reply before it leaves.

    Args:
        site: an open site.
        request: what it answers.
        reply: signed.
        again: whether it was released before, and so costs nothing more.
        why: of a refusal, in words that stay here and name nobody.
        details: of a refusal, public numbers and settings alone.

    Raises:
        OSError: it cannot be noted, and so must not leave.
    """
    if not site.audit.keeps:
        site.audit.append("message.out")
        return
    size = len(reply.document.encode()) + (0 if reply.arrays is None else reply.arrays.nbytes)
    more: dict[str, object] = {"again": True} if again else {}
    if why:
        more |= {"why": why, **(details or {})}
    # Only arrays follow from patients, so only they have a cost.
    if reply.code == OK and reply.arrays is not None:
        more |= _epsilon(site, reply, again=again)
    digest = sha256(reply.signed_bytes)
    site.audit.append(
        "message.out", hash=digest, size=size, code=reply.code, **_about(request), **more
    )


def kept_silent(site: Site, request: Request, why: str) -> None:
    """Note that a request gets no answer."""
    site.audit.append("message.silence", why=why, **_about(request))


def unanswered(site: Site, content: RecordDict, why: str) -> None:
    """Note a message that nothing here answers, and that it gets no answer.

    Not its type, which is the sender's own unchecked text.
    """
    unreadable(site, content, "unknown")
    site.audit.append("message.silence", why=why, purpose="unknown")


def _about(request: Request) -> dict[str, object]:
    about = {"study": request.study, "plan": request.plan_hash, "round": request.round}
    return {"purpose": request.purpose, **about}


def _epsilon(site: Site, reply: Reply, *, again: bool) -> dict[str, object]:
    """The epsilon of this release, and of the plan so far for that part; None: unbounded."""
    delta = site.file.policy.delta
    # The same bytes again are no second release.
    alone = 0.0 if again else site.ledger.cost_of(reply.request, composed(delta))
    approval = site.approvals.find(reply.plan_hash)
    part: Part = "train" if reply.purpose == "train" else "validation"
    after = math.inf if approval is None else site.ledger.charged_to(approval.plan, part)
    return {"epsilon": _finite(alone), "epsilon_after": _finite(after), "delta": delta}


def _finite(epsilon: float) -> float | None:
    return round(epsilon, 6) if math.isfinite(epsilon) else None
