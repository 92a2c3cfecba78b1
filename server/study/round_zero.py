"""Round zero: sites make offers, the coordinator writes plans, sites approve them.

Plans are durable before any site is asked to approve one, and are written once: after a
restart the stored ones are proposed again. So everything in a site's first offer, its numerics
included, holds for the whole study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from common.bounded import seconds
from common.checkpoint import study_hash
from common.documents import read_json
from common.errors import CheckpointError, PrivacyError, Refusal, StudyError
from common.files import canonical_json, write_atomic
from common.plan import Offer, Plan, read_plan, write_plan
from common.privacy.loudness import NEARLY_NOISE, loudness
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Reply, Request, content_hash
from server.study.collect import Absence, collect, remedy, too_few
from server.study.context import StudyContext
from server.study.optimisers import fewest_replies
from server.study.verify import NOTHING, OFFER
from server.study.weighing import counted, weigh

FILE: Final = "plans.json"
FORMAT: Final = 1
Plans = Mapping[str, Plan]
Flat = npt.NDArray[np.float32]


class ModelSize(NamedTuple):
    """Of a study's model.

    Attributes:
        trained: number of weights that are trained.
        frozen: hash of the others; empty where there are none.
    """

    trained: int
    frozen: str


def make_plans(
    context: StudyContext,
    study: Study,
    weights: int,
    agreed: Mapping[str, int],
    *,
    frozen: Flat | None = None,
) -> tuple[dict[str, Plan], dict[str, str]]:
    """Ask every site of the roster for its offer and write its plan.

    A site is left out if it makes no offer, if the study cannot use its offer, or if it declares
    more patients than were agreed on, since they decide how much it counts.

    Args:
        context: who is asked.
        study: what is proposed.
        weights: number of weights of the study's model that are trained.
        agreed: the most patients that each site may declare of the study's data set; one that
            is not named may declare none.
        frozen: the weights that are not trained; None where all are.

    Returns:
        Plans by site, in the order of the names; and why the others have none.

    Raises:
        StudyError: the sum of updates could overflow.
        RoundError: too few sites made an offer that can be used.
    """
    plans: dict[str, Plan] = {}
    absences: dict[str, str] = {}
    size = ModelSize(weights, "" if frozen is None else content_hash(frozen))
    for site, offer in offers(context, study, context.roster):
        most = agreed.get(site)
        plan = offer if isinstance(offer, Absence) else _plan(context, study, offer, size, most)
        if isinstance(plan, Absence):
            absences[site] = plan.reason
        else:
            plans[site] = plan
    fewest = fewest_replies(study.aggregation)
    if len(plans) < fewest:
        raise too_few(context, _question(study), plans, absences, fewest)
    # Only now: the cap on one site's share depends on all the others.
    plans = _weighed(study, dict(sorted(plans.items())))
    study.fixed_point.prove_no_overflow(tuple(plan.weight for plan in plans.values()))
    return plans, absences


def offers(
    context: StudyContext, study: Study, sites: Collection[str]
) -> Iterator[tuple[str, Offer | Absence]]:
    """What each of these sites offers today, or why it cannot be used."""
    requests = dict.fromkeys(sorted(sites), _question(study))
    for site, answer in collect(context, requests, dict.fromkeys(requests, OFFER)):
        yield site, _read_offer(context, site, answer)


def _question(study: Study) -> Request:
    document = canonical_json(study.model_dump(mode="json")).decode()
    return Request(study.study.name, "", 0, "offer", document=document)


def _read_offer(context: StudyContext, site: str, answer: Reply | Absence) -> Offer | Absence:
    if isinstance(answer, Absence):
        return answer
    try:
        offer = Offer.model_validate_json(answer.document)
    except ValidationError:
        return Absence("an offer that cannot be read")
    # The offer's key goes into the plan: it must be the one that the coordinator admitted.
    if offer.site != site or offer.public_key != context.roster[site]:
        return Absence("an offer in another site's name")
    return offer


def _weighed(study: Study, plans: Plans) -> dict[str, Plan]:
    """The plans with the weights of their sites, each relative to the others."""
    declared = {site: plan.declared_patients for site, plan in plans.items()}
    weights = weigh(study.aggregation, declared)
    return {site: plan.model_copy(update={"weight": weights[site]}) for site, plan in plans.items()}


def shares(plans: Plans) -> dict[str, dict[str, object]]:
    """By how much each of these sites counts, as it is shown."""
    declared = {site: plan.declared_patients for site, plan in plans.items()}
    weights = {site: plan.weight for site, plan in plans.items()}
    return {site: asdict(each) for site, each in counted(declared, weights).items()}


def _plan(
    context: StudyContext, study: Study, offer: Offer, size: ModelSize, agreed: int | None
) -> Plan | Absence:
    """The plan of one site, or why it is left out, which the observer is told."""
    try:
        _demand_agreed(study, offer, agreed)
        _demand_patients(study, offer)
        demand_time(study, offer)
        return write_plan(study, offer, size.trained, size.frozen)
    except (StudyError, PrivacyError) as error:
        details = error.details
        wanted = f", wanted {details['wanted']}" if "wanted" in details else ""
        reason = f"{error.what} ({details['found']}{wanted})"
        about = {"site": offer.site, "reason": reason, "do": details["do"]}
        context.tell("site.absent", round=0, purpose="offer", **about)
        return Absence(reason)


def _demand_agreed(study: Study, offer: Offer, agreed: int | None) -> None:
    # Also where nothing was agreed: no site may decide alone how much it counts.
    if agreed is None or offer.declared_patients > agreed:
        dataset = study.data.dataset
        raise StudyError(
            "a site declares more patients than were agreed on",
            where=f"site {offer.site}, data set {dataset}",
            found=f"{offer.declared_patients} declared patients",
            wanted="an agreed number: none was agreed on yet"
            if agreed is None
            else f"at most {agreed}, as agreed",
            remedy=f"call the site; if the number is right, run: consilium-coordinator agree "
            f"{offer.site} {dataset} {offer.declared_patients}; then resume the study if it has "
            "failed, or start it under another name if it goes on without this site",
        )


def _demand_patients(study: Study, offer: Offer) -> None:
    if offer.declared_patients < study.data.min_patients:
        raise StudyError(
            "a site has fewer patients than the study requires",
            where=f"site {offer.site}, data set {study.data.dataset}",
            found=f"{offer.declared_patients} declared patients",
            wanted=f"at least {study.data.min_patients} ([data] min_patients)",
            remedy="leave the site out of the study, or lower min_patients",
        )


def demand_time(study: Study, offer: Offer) -> None:
    """Refuse a site whose every reply would come too late: replies leave at its time slot (tick).

    It would be charged for every round, and none would count.

    Raises:
        StudyError: its tick is no shorter than a round's time-out.
    """
    ticks = offer.numerics.ticks
    tick = max(ticks.train, ticks.evaluate if study.evaluation_rounds else 0) / 1000
    if tick >= seconds(study.aggregation.round_timeout):
        raise StudyError(
            "a site's rounds take longer than the study waits for a reply",
            where=f"site {offer.site}, [aggregation] round_timeout",
            found=f"a time slot (tick) of {tick:g} s",
            wanted=f"less than {study.aggregation.round_timeout}",
            remedy="set round_timeout to several ticks, or give the site less work: fewer "
            "local_steps, a smaller batch_size or a smaller model",
        )


def approve(
    context: StudyContext, study: Study, plans: Plans, ledgers: Mapping[str, LedgerHead]
) -> tuple[frozenset[str], dict[str, str]]:
    """Propose each site its plan; over a network an administrator may need days to decide.

    A site that replied in an earlier round has approved: if it is away when a study continues,
    the rounds still ask it. The ledger heads that come with approvals are not kept: after a
    restart a site's stored replies are asked for again, and are older than its ledger of today.

    Args:
        context: who is asked.
        study: of the plans.
        plans: by site.
        ledgers: heads of the replies that were folded, by site.

    Returns:
        The sites to be asked in the rounds, and why the others are not.

    Raises:
        RoundError: too few sites approved.
    """
    requests = {
        site: Request(
            study.study.name,
            plan.hash,
            0,
            "propose",
            document=plan.text,
            ledger=ledgers.get(site, LedgerHead()),
        )
        for site, plan in plans.items()
    }
    approved: set[str] = set()
    absences: dict[str, str] = {}
    timeout, nothing = study.aggregation.approval_timeout, dict.fromkeys(plans, NOTHING)
    for site, answer in collect(context, requests, nothing, approval_timeout=timeout):
        if not isinstance(answer, Absence):
            approved.add(site)
            context.tell("approval.given", site=site, plan=plans[site].hash)
        elif site in ledgers and not answer.code and context.retries.repeat:
            # Away, and not refusing: it has approved, since it has replied in a round.
            approved.add(site)
        else:
            absences[site] = answer.reason
            if answer.code:
                context.tell(
                    "approval.refused",
                    site=site,
                    plan=plans[site].hash,
                    code=answer.code,
                    reason=answer.reason,
                    do=remedy(answer.reason) if context.retries.repeat else "",
                )
    fewest = fewest_replies(study.aggregation)
    if len(approved) < fewest:
        raise too_few(context, next(iter(requests.values())), approved, absences, fewest)
    return frozenset(approved), absences


def provide(
    context: StudyContext, study: Study, plans: Plans, frozen: Flat
) -> tuple[frozenset[str], dict[str, str]]:
    """Give sites that approved the frozen weights that their plans name; once a start.

    Args:
        context: who is asked.
        study: of the plans.
        plans: by site, of those that approved.
        frozen: flat float32.

    Returns:
        The sites that have them, and why the others are not asked in the rounds.

    Raises:
        RoundError: too few sites have them.
    """
    shared = Request(study.study.name, "", 0, "provide", arrays=frozen)
    requests = {site: replace(shared, plan_hash=plan.hash) for site, plan in plans.items()}
    for each in requests.values():
        vars(each)["arrays_hash"] = shared.arrays_hash  # hashed once, not once for each site
    have: set[str] = set()
    absences: dict[str, str] = {}
    for site, answer in collect(context, requests, dict.fromkeys(plans, NOTHING)):
        if isinstance(answer, Absence):
            absences[site] = answer.reason
        else:
            have.add(site)
    fewest = fewest_replies(study.aggregation)
    if len(have) < fewest:
        raise too_few(context, next(iter(requests.values())), have, absences, fewest)
    return frozenset(have), absences


def store(folder: Path, study: Study, seed: int, plans: Plans, left_out: Mapping[str, str]) -> None:
    """Make the plans durable, and why other sites have none, before any plan is proposed."""
    texts = {site: read_json(plan.text) for site, plan in plans.items()}
    head = {"format": FORMAT, "study": study_hash(study), "seed": seed}
    document = head | {"plans": texts, "left_out": dict(left_out)}
    write_atomic(folder / FILE, canonical_json(document))


def demand_none(folder: Path) -> None:
    """Refuse to start where a study was started before.

    Raises:
        CheckpointError: the folder holds plans.
    """
    path = folder / FILE
    if path.exists():
        raise CheckpointError(
            "this run folder already holds a study",
            where=path,
            remedy="use --resume to continue that study, or another --out to start a new one",
        )


def left_out(folder: Path) -> dict[str, str]:
    """Why sites have no plan in a study whose plans were read before (:func:`stored`)."""
    document = read_json((folder / FILE).read_bytes())
    return {str(site): str(reason) for site, reason in document["left_out"].items()}


def stored(folder: Path, study: Study, seed: int) -> dict[str, Plan] | None:
    """The plans of an earlier start; None where there was none.

    Raises:
        CheckpointError: they cannot be read, or belong to another study or seed.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        document = read_json(path.read_bytes())
        dict(document["left_out"])
        found = {"format": document["format"], "study": document["study"], "seed": document["seed"]}
        texts = {site: canonical_json(plan).decode() for site, plan in document["plans"].items()}
        plans = {site: read_plan(text) for site, text in sorted(texts.items())}
    except (ValueError, KeyError, TypeError, AttributeError, Refusal) as error:
        raise CheckpointError(
            "the stored plans cannot be read",
            where=path,
            remedy="restore the file from a backup, or start a new run with another --out",
        ) from error
    wanted = {"format": FORMAT, "study": study_hash(study), "seed": seed}
    for name, value in found.items():
        if value != wanted[name]:
            raise CheckpointError(
                "this run folder belongs to another study",
                where=f"{path}, {name}",
                found=value,
                wanted=wanted[name],
                remedy="resume with the study file and the seed that it was started with, or use "
                "another --out",
            )
    return plans


def drowned(plans: Mapping[str, Plan]) -> list[str]:
    """What to say of a study whose noise is louder than its patients."""
    plan = next(iter(plans.values()))
    training = plan.study.training
    found = loudness(
        [(each.weight, each.mechanism) for each in plans.values()],
        plan.weights,
        training.rounds * training.local_steps,
    )
    if found < NEARLY_NOISE:
        return []
    return [
        f"NEARLY NOISE: the noise is {found:.1f} times as long as all that the patients of "
        f"{len(plans)} hospitals can add together. Train fewer than {plan.weights} weights, or "
        "have more patients or a larger epsilon: consilium-sim advise says what would help"
    ]
