"""When a site computes the features of a study's patients: once its frozen weights are there.

What a linear probe trains on (:mod:`client.training.features`) is computed after the reply by
which the weights came was sent, as the cohort is frozen. Where that could not be, such as in a
simulation, the next round does it, and takes the time that is given to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from client.consent import amendments
from client.data.cohort import Cohort, Patient
from client.records import membership
from client.records.approvals import Approval
from client.site import Site
from common import numerics
from common.files import canonical_json, sha256
from common.numerics import decisive
from common.plan import Plan


def are_due(site: Site, approval: Approval) -> bool:
    """Whether a plan trains on features, its frozen weights have come, and none were computed.

    Or they were computed for the cohort of an earlier approval, or with other arithmetic. It
    follows from messages and decisions alone, and from whether computing them failed.

    Raises:
        ModelError: the study's model cannot be built.
    """
    from client.training.features import in_rounds

    plan = approval.plan
    if not site.frozen.has(plan) or site.store.fact(_fact(plan)) == _stand(site, plan):
        return False
    return in_rounds(plan.study) is not plan.study


def forget(site: Site, plan: Plan) -> None:
    """Keep nothing of when the features of a plan were computed."""
    site.store.drop(_fact(plan))


def _fact(plan: Plan) -> str:
    return f"features {plan.hash}"


def _stand(site: Site, plan: Plan) -> str:
    """The arithmetic that features are computed with; forgotten where a cohort is frozen."""
    return sha256(canonical_json(decisive(amendments.arithmetic(site.store, plan).numerics)))


def tick(site: Site, plan: Plan) -> int:
    """Milliseconds that computing a plan's features is given, from public numbers of patients.

    None where rounds of the plan wait for nothing either.

    Raises:
        Refusal: ``data-unavailable``.
    """
    from client.training.features import time_of

    data = site.file.dataset(plan.study)
    agreed = amendments.arithmetic(site.store, plan).numerics
    if not agreed.ticks.train:
        return 0
    numerics.apply(agreed)
    return time_of(plan.study, agreed.choice, data.most_patients + data.most_validated)


def featured(
    site: Site, approval: Approval, cohort: Cohort, paying: Iterable[Patient] = ()
) -> Cohort:
    """The patients of a plan, with features of the frozen network in place of their images.

    Args:
        site: an open site.
        approval: of a plan whose cohort is frozen and whose frozen weights have come.
        cohort: its patients of today.
        paying: who is in the round: who left while it was read pays, and stays.

    Raises:
        Silence: a person has stopped the study meanwhile.
        Refusal: the frozen weights were damaged.
        DataError: the features cannot be written.
    """
    plan = approval.plan
    weights, agreed = site.frozen.of(plan), amendments.arithmetic(site.store, plan).numerics
    assert weights is not None  # a probe has a frozen part
    numerics.apply(agreed)
    members = membership.members(site.store, plan.hash)
    members |= {each.pseudonym: each.digest for each in paying}
    going = partial(site.approvals.require, plan.hash)
    found = site.features.of(plan, cohort, members, weights, agreed, going=going)
    stand = _stand(site, plan)
    if site.store.fact(_fact(plan)) != stand:
        site.store.keep(_fact(plan), stand)
    return found
