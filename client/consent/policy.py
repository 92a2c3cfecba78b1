"""The hospital decides: a plan is compared with the site's own numbers and its policy.

The plan proposes, and the policy limits it. Nothing in a plan is taken on trust: before it
approves, the site computes the cost of the proposed noise itself and compares every public number
with its own. An approval holds for the plan's hash, so a round need not compute the cost again.

Building and trying a model needs torch, so only the functions that do it import it: the supervisor
reads the site's hours here and computes nothing.
"""

from __future__ import annotations

from datetime import time

from client.consent.amendments import arithmetic, require_same
from client.data.cohort import image_shape
from client.site import Site
from client.sitefile import Policy
from common.errors import Refusal, RefusalCode
from common.plan import Plan
from common.privacy.mechanisms import Mechanism, NoMechanism, understated
from common.study.bounds import stated
from common.study.study_file import Study


def require_acceptable(plan: Plan, site: Site) -> None:
    """Refuse a plan that this site would not let wait for a person.

    What is cheap comes first: public numbers, then the policy, then what the model would take,
    told from shapes. Only what all of that allows is counted by the accountant, whose work
    grows with the numbers that a policy allows.

    Raises:
        Refusal: as :func:`require_allowed`, and ``wrong-plan`` for a mechanism that costs more
            than it says.
    """
    _require_numbers(plan, site)
    require_bounds(plan.study, plan.mechanism, site.file.policy)
    require_fits_device(plan.study, site)
    agreed, today = arithmetic(site.store, plan).numerics, site.numerics(plan.study)
    require_same(agreed, today)
    # Computed, not believed: a plan that understates its cost would pass a policy that forbids it.
    fault = understated(plan.mechanism, plan.study, plan.declared_patients, plan.most_patients)
    if fault is not None:
        raise Refusal(
            RefusalCode.WRONG_PLAN,
            "the plan's noise settings do not match its study",
            where=fault,
            remedy="ask the coordinator to calculate the noise again",
        )
    # Last: a study that was changed after its offer has other ticks, which would hide the reason.
    require_same(agreed, today, ticks=True)


def require_trainable(plan: Plan, site: Site) -> None:
    """Refuse a plan that cannot be approved here: the model is tried on made-up numbers.

    It may take minutes, so it waits until a person or an automatic policy approves.

    Raises:
        Refusal: as :func:`require_acceptable`.
        ModelError: the study's model cannot be trained privately here.
    """
    require_acceptable(plan, site)
    from client.training.features import require_ready

    require_ready(plan.study, plan.mechanism, arithmetic(site.store, plan).numerics.choice)


def require_allowed(plan: Plan, site: Site) -> None:
    """Refuse a plan that this site does not carry out, or not any more; done in every round.

    Raises:
        Refusal: ``wrong-plan``, ``numerics``, ``policy`` or ``data-unavailable``.
    """
    agreed = arithmetic(site.store, plan).numerics
    _require_numbers(plan, site)
    # The policy is that of the opened site file and the plan that of its hash: asked once.
    if plan.hash not in site.within_policy:
        require_bounds(plan.study, plan.mechanism, site.file.policy)
        site.within_policy.add(plan.hash)
    # With the agreed choice: kernels that are timed again may differ, and would end the study.
    require_same(agreed, site.numerics(plan.study, agreed.choice))


def require_fits_device(study: Study, site: Site) -> None:
    """Refuse a study of which one patient's share of a step does not fit, or whose images do not.

    Both follow from the study's shapes and the site file. Nothing is built or run for it.

    Raises:
        Refusal: ``policy`` or ``data-unavailable``.
        ModelError: the study's model cannot be built, or not be trained privately.
    """
    from client.training.features import bytes_beside, least_needed
    from client.training.tuning import mib

    most = site.file.device.memory_mib
    found = mib(least_needed(study, most * 2**20))
    if found > most:
        raise Refusal.of_public(
            RefusalCode.POLICY,
            "one patient's images and the study's model need more memory than this site allows",
            where="[device] memory_mib",
            found=f"{found} MiB",
            wanted=f"at most {most} MiB",
            remedy="raise the limit if the machine has the memory, or ask the coordinator for "
            "smaller images, fewer images or copies of a patient, or a smaller model",
        )
    # From the declared number, which is public: how many images there are is not looked at.
    image = image_shape(study, site.file.targets(study, site.folder)).bytes
    image += bytes_beside(study)
    images = site.file.dataset(study).declared_patients * image
    if images > site.file.site.cache_bytes:
        raise Refusal.of_public(
            RefusalCode.POLICY,
            "the images of all declared patients, one each, need more disk than this site allows",
            where="[site] cache_gib",
            found=f"{images / 2**30:.3g} GiB",
            wanted=f"at most {site.file.site.cache_gib:g} GiB",
            remedy="raise the limit if the disk has room, or ask for smaller images",
        )


def require_bounds(study: Study, mechanism: Mechanism, policy: Policy) -> None:
    """Refuse a plan that asks for more than a policy allows, whatever the site has and computes.

    Of a plan only the study and the mechanism count, so a simulation can ask before it has one.

    Raises:
        Refusal: ``policy``.
    """
    if study.task.kind not in policy.tasks:
        raise _not_allowed(
            "tasks", f"the study asks for {study.task.kind}", f"one of {', '.join(policy.tasks)}"
        )
    if study.aggregation.min_sites < policy.min_sites:
        raise _not_allowed("min_sites", study.aggregation.min_sites, f"at least {policy.min_sites}")
    # Ranges bound each number that the coordinator chooses: a study may be private and still waste
    # the site's budget, memory or time.
    for each in stated(study, mechanism):
        ends = policy.ranges.get(each.bound.key)
        if ends and not each.within(ends):
            found = f"{each.bound.name} {each.text}"
            raise _not_allowed(each.bound.key, found, each.bound.span(*ends), "policy.ranges")
    if isinstance(mechanism, NoMechanism):
        if not policy.allow_no_privacy:
            raise _not_allowed("allow_no_privacy", 'mode = "none"', 'mode = "patient"')
        return
    # What they hold of this hospital's patients is out already, and no epsilon bounds it.
    initial = study.model.initial
    if initial is not None and initial.sha256 in policy.own_weights:
        raise _not_allowed(
            "own_weights",
            f"starting weights {initial.sha256[:16]}",
            'other weights, or mode = "none": these were trained on your patients without privacy, '
            "so the study's epsilon would not hold for them",
        )
    if mechanism.delta > policy.delta:
        raise _not_allowed("delta", mechanism.delta, f"at most {policy.delta:g}")
    if mechanism.epsilon > policy.max_epsilon_per_study:
        raise _not_allowed(
            "max_epsilon_per_study",
            f"epsilon {mechanism.epsilon:.3f}",
            f"at most {policy.max_epsilon_per_study:g}",
        )


def within(hours: str | None, now: time) -> bool:
    """Whether the site's hours allow it to work on studies.

    Args:
        hours: as in the site file, ``20:00-06:00``; None allows any time.
        now: the time of day at the site.
    """
    if hours is None:
        return True
    begin, end = (time.fromisoformat(each) for each in hours.split("-"))
    if begin < end:  # else the hours pass midnight
        return begin <= now < end
    return now >= begin or now < end


def _require_numbers(plan: Plan, site: Site) -> None:
    """Refuse a plan whose public numbers are not this site's."""
    from common.models.networks import trained_count, weights_count

    data, settings = site.file.dataset(plan.study), plan.study.aggregation
    weight = data.declared_patients if settings.weights == "declared" else 1
    if settings.max_share < 1:  # the cap on a site's share may lower its weight, never raise it
        weight = min(weight, plan.weight)
    told = {
        "site": (plan.site, site.name),
        "declared_patients": (plan.declared_patients, data.declared_patients),
        "most_patients": (plan.most_patients, data.most_patients),
        "known_key": (plan.known_key, site.known_seed is not None),
        "weights": (plan.weights, trained_count(plan.study)),
        "frozen": (bool(plan.frozen), weights_count(plan.study) > plan.weights),
        "weight": (plan.weight, weight),
    }
    for name, (found, ours) in told.items():
        if found != ours:
            what = "a public number in the plan is not this site's"
            raise Refusal.of_public(
                RefusalCode.WRONG_PLAN, what, where=name, found=found, wanted=ours
            )
    if plan.declared_patients < plan.study.data.min_patients:
        raise Refusal.of_public(
            RefusalCode.DATA_UNAVAILABLE,
            "the study needs more patients than this site declares",
            where="declared_patients",
            found=plan.declared_patients,
            wanted=plan.study.data.min_patients,
        )


def _not_allowed(key: str, found: object, wanted: str, section: str = "policy") -> Refusal:
    return Refusal.of_public(
        RefusalCode.POLICY,
        "the plan asks for more than this site's policy allows",
        where=f"[{section}] {key}",
        found=found,
        wanted=wanted,
        remedy="change the policy if you agree; the coordinator cannot change it",
    )
