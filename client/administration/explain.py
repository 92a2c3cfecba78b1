"""A plan in plain words, for a person who decides about patients and need not know statistics.

It is a list of headings with lines, which a terminal or a page shows as they are. The warnings
come first. Every figure is the plan's, the ledger's or the policy's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from client.administration.cost import cost, spent
from client.administration.differences import since_approved
from client.administration.inputs import images_in_words, some, targets_in_words
from client.consent.amendments import arithmetic, changes, waiting
from client.consent.policy import require_bounds
from client.consent.problems import too_many
from client.records.approvals import Approval
from client.records.membership import Draft, departures, departures_in_words
from client.site import Site
from client.sitefile import Policy, known_coordinator
from common.amendment import Amendment
from common.errors import Refusal
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism, sampling_rate
from common.study.bounds import Stated, stated

Sections = tuple[tuple[str, tuple[str, ...]], ...]
"""Headings, each with its lines."""
_HISTOGRAM_BYTES: Final = 8


def explain(
    site: Site, approval: Approval, drafted: Draft | None = None, images: int = 0
) -> Sections:
    """A recorded plan and what it would mean at this site today.

    Args:
        site: an open site; its ledger says what the patients have spent.
        approval: the plan and its state.
        drafted: the cohort it would have now, where it is not frozen yet and could be read.
        images: bytes that its decoded images would then take on disk.
    """
    plan = approval.plan
    sections = (
        ("READ THIS FIRST", (*plan.warnings, *_unusual(plan), *_beyond(site, approval, drafted))),
        ("The study", _study(site, approval)),
        ("What is computed, and from which patients", _computed(site, approval, drafted, images)),
        ("What leaves this site", _leaves(plan)),
        ("When it leaves", _times(site, plan)),
        ("What it can cost a patient", cost(plan)),
        ("Every number", _numbers(plan, site.file.policy)),
        ("This site's privacy ledger", spent(site, approval, drafted)),
        ("Numerics (versions and settings that decide the last bits)", _numerics(site, plan)),
        ("Changes since the plan approved before", since_approved(site, plan)),
        ("What you can do", _choices(site, approval)),
        ("This plan", _identity(approval)),
    )
    return tuple((heading, lines) for heading, lines in sections if lines)


def bytes_of(plan: Plan) -> tuple[int, int]:
    """How many bytes one update's array has, and one evaluation's."""
    update = plan.weights * (4 if plan.study.fixed_point.dtype == "int32" else 8)
    return update, plan.release.size * _HISTOGRAM_BYTES


def _unusual(plan: Plan) -> tuple[str, ...]:
    """Each number that is allowed, but rare in an honest study."""
    return tuple(_number(each) for each in _stated(plan) if not each.usual)


def _numbers(plan: Plan, policy: Policy) -> tuple[str, ...]:
    lines = []
    for each in _stated(plan):
        ends = policy.ranges.get(each.bound.key)
        narrowed = f"; your policy allows {each.bound.span(*ends)}" if ends else ""
        lines.append(_number(each) + narrowed)
    return tuple(lines)


def _stated(plan: Plan) -> Iterable[Stated]:
    return stated(plan.study, plan.mechanism)


def _number(each: Stated) -> str:
    bound, mark = each.bound, "" if each.usual else "UNUSUAL: "
    return f"{mark}{bound.name}: {each.text}; usual {bound.span(*bound.usual)}"


def _beyond(site: Site, approval: Approval, drafted: Draft | None) -> tuple[str, ...]:
    """What the site file does not allow, of a plan that is not approved."""
    if approval.standing in ("approved", "closed"):
        return ()
    plan, policy = approval.plan, site.file.policy
    lines = []
    try:
        require_bounds(plan.study, plan.mechanism, policy)
    except Refusal as refused:
        details = refused.details
        lines.append(
            _exceeds(
                details["where"],
                details["found"],
                details["wanted"],
            )
        )
    if drafted is not None and drafted.crowded:
        what, remedy = too_many(plan.study.data.dataset, plan.most_patients, drafted.crowded)
        lines.append(f"TOO MANY PATIENTS: {what}; {remedy}; consilium-site approve will refuse it")
    return tuple(lines)


def _exceeds(where: str, asked: str, allowed: str) -> str:
    return (
        f"EXCEEDS YOUR POLICY: {where}: requested {asked}, allowed {allowed}; consilium-site "
        "approve will refuse it"
    )


def _study(site: Site, approval: Approval) -> tuple[str, ...]:
    study = approval.plan.study.study
    return (
        study.title,
        f"name: {study.name}; requested by {_coordinator(site)}",
        f"first proposed {approval.proposed}",
    )


def _coordinator(site: Site) -> str:
    card = known_coordinator(site.state)
    return (
        f"{card.name} at {card.address}" if card else "a coordinator that this site has not joined"
    )


def _computed(
    site: Site, approval: Approval, drafted: Draft | None, images: int
) -> tuple[str, ...]:
    plan = approval.plan
    study, training = plan.study, plan.study.training
    on_all = sampling_rate(study, plan.declared_patients) == 1.0
    batch = "all patients" if on_all else f"{training.batch_size} patients on average"
    lines = [
        f"data set {study.data.dataset}: {images_in_words(study)}",
        f"patients: {plan.declared_patients} declared for training; never more than "
        f"{plan.most_patients} in training or in evaluation; both numbers are public",
        *_cohort(site, approval, drafted),
        *(() if drafted is None else _disk(site, images)),
        f"task: {'; '.join(study.task.words())}",
        *targets_in_words(site, study),
        f"model: {study.model.name} with {plan.weights} weights, {_trained(plan)}; each step uses "
        f"{batch}, and of each {some(training.images_per_patient)}",
        *_parts(plan),
    ]
    if study.evaluation_rounds:
        lines.append(
            f"evaluated after {_rounds(study.evaluation_rounds)}, on at most "
            f"{some(study.evaluation.images_per_patient)} of each patient"
        )
    return tuple(lines)


def _trained(plan: Plan) -> str:
    training = plan.study.training
    if plan.study.one_shot:
        return (
            "found from one release: each patient adds one vector, which follows from the images "
            "and from what is known, and the coordinator computes the weights from the noised sum"
        )
    return f"trained in {training.rounds} rounds of {training.local_steps} steps"


def _parts(plan: Plan) -> tuple[str, ...]:
    """What of the model is trained, and what it begins with."""
    model, lines = plan.study.model, []
    if model.trainable:
        adapters = f", and adapters of rank {model.adapters}" if model.adapters else ""
        lines.append(
            f"only a part is trained: {', '.join(model.trainable)}{adapters}; the rest "
            "is public, comes once after you approve, and no patient changes it"
        )
    if named := model.initial:
        lines.append(
            f"it begins with public weights: {named.file} from {named.source}, licence "
            f"{named.licence}, trained on {named.trained_on}; SHA-256 {named.sha256}; epsilon "
            "says nothing about the people in that data"
        )
    return tuple(lines)


def _cohort(site: Site, approval: Approval, drafted: Draft | None) -> tuple[str, ...]:
    """How many patients are or would be in it, how many are not, and why: for this site alone."""
    plan_hash, stays = approval.plan.hash, "these numbers stay at this site"
    if approval.frozen:
        counts, left_out = site.ledger.members(plan_hash), approval.left_out
        trained, evaluated = counts.get("train", 0), counts.get("validation", 0)
        gone = departures_in_words(departures(site.store, plan_hash))
        lines = [f"in the cohort: {trained} for training, {evaluated} for evaluation; {stays}"]
        if gone:
            lines.append(f"left the cohort: {gone}; they stay charged for the rounds before that")
    elif drafted is not None:
        trained, evaluated = drafted.count("train"), drafted.count("validation")
        left_out = len(drafted.left_out)
        lines = [
            f"in the cohort, if you approve it now: {trained} for training, {evaluated} for "
            f"evaluation; {stays}"
        ]
    else:
        return (
            "how many patients would be in the cohort is not known: the images, the labels or "
            "masks, or a list cannot be read now; consilium-site check says why",
        )
    if left_out:
        lines.append(
            f"left out: {left_out} patients who have too little of [policy] max_epsilon_total left "
            "for the whole study; nobody outside can tell"
        )
    if not trained + evaluated:
        lines.append("NO PATIENT IS IN THE COHORT: only noise leaves this site")
    return tuple(lines)


def _disk(site: Site, images: int) -> tuple[str, ...]:
    most = site.file.site.cache_gib
    over = "" if images <= site.file.site.cache_bytes else ": THIS IS NOT ENOUGH"
    return (
        "these numbers come from the headers of images, and from labels or masks: no image was "
        "decoded yet",
        f"approving it decodes the images, which takes at most {_size(images)} of disk space until "
        f"the study is over; all studies together may take {most:g} GiB ([site] cache_gib){over}",
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{-(-count // 2**20)} MiB"


def _rounds(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    if len(numbers) <= 6:
        return f"rounds {', '.join(map(str, numbers))}"
    return f"{len(numbers)} rounds, from {numbers[0]} to {numbers[-1]}"


def _leaves(plan: Plan) -> tuple[str, ...]:
    update, counts = bytes_of(plan)
    rounds, evaluations = plan.study.training.rounds, len(plan.study.evaluation_rounds)
    noise = "with noise" if isinstance(plan.mechanism, PatientMechanism) else "WITHOUT NOISE"
    lines = [
        f"{rounds} x the change of the model's weights, {noise}: {plan.weights} numbers, "
        f"{update} bytes each time",
    ]
    if evaluations:
        lines.append(
            f"{evaluations} x counts of how well the model does, {noise}: "
            f"{plan.release.size} numbers, {counts} bytes each time"
        )
    lines += [
        f"at most {rounds * update + evaluations * counts} bytes in total",
        "with each reply: this site's name and signature, the length of its privacy ledger, and "
        "the head of its audit log, which only this site can read",
        "never: images, labels, masks, patient identifiers, or how many patients there are",
    ]
    return tuple(lines)


def _times(site: Site, plan: Plan) -> tuple[str, ...]:
    ticks = arithmetic(site.store, plan).numerics.ticks
    # A site with a known key has no ticks: nothing of it is private anyway.
    if not isinstance(plan.mechanism, PatientMechanism) or not ticks.train:
        return ("as soon as it is ready: the time this takes can reveal how many patients it has",)
    lines = [f"the update of a round: {ticks.train / 1000:g} s after work on its patients began"]
    if plan.study.evaluation_rounds:
        lines.append(f"a histogram: {ticks.evaluate / 1000:g} s after work on its patients began")
    lines += [
        "these fixed times (ticks) hide how long the work took; work that takes longer leaves "
        "after 2, 4, 8... times as long: others can see only that, and this site's log reports it",
        "they were measured on this machine, on artificial images",
    ]
    return tuple(lines)


def explain_amendment(site: Site, plan: Plan, amendment: Amendment) -> Sections:
    """What a person consents to: the same plan, with other numerics from now on."""
    before = arithmetic(site.store, plan)
    return (
        (
            "Numerics that would change",
            (
                *changes(before.numerics, amendment.numerics),
                f"for study {plan.study.study.name} at this site, after round {amendment.after}",
                "this site has the new numerics today: it takes no part in the study until both "
                "sides agree",
            ),
        ),
        (
            "What stays the same",
            (
                "the plan, its patients, what it has cost and what it can cost at most",
                "rounds that were answered; later rounds get new noise",
            ),
        ),
        ("This amendment", (f"SHA-256 {amendment.hash}", f"of the plan {plan.hash}")),
    )


def _numerics(site: Site, plan: Plan) -> tuple[str, ...]:
    agreed, proposed = arithmetic(site.store, plan), waiting(site.store, plan.hash)
    record, more = agreed.numerics, []
    if agreed.number:
        more.append(f"amended {agreed.number} times since the plan was approved")
    if proposed is not None:
        more += [f"TO BE DECIDED: {line}" for line in changes(agreed.numerics, proposed.numerics)]
        more.append(
            f"to consent: consilium-site approve {plan.study.study.name} --hash "
            f"{proposed.hash[:12]}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    return (
        f"{record.choice.device}, threads: {record.threads}, {record.dtype}; "
        f"Consilium's arithmetic: version {record.arithmetic}",
        *([f"{record.card}; activations in {record.choice.precision}"] if record.card else []),
        f"versions: {versions}",
        "if one of these changes here, the site takes no part until both sides agree to amend it",
        *more,
    )


def _choices(site: Site, approval: Approval) -> tuple[str, ...]:
    name, days = approval.plan.study.study.name, site.file.policy.approval_days
    approve = f"to let it run for {days} days: consilium-site approve {name}"
    decide = {
        "pending": f"{approve}; to refuse it: consilium-site deny {name}",
        "approved": f"it is approved; to end it at any time: consilium-site stop {name}; "
        "nothing of it leaves after that",
        "closed": "it is over, and its key is erased",
    }
    return (
        decide.get(approval.standing, f"it is not running; {approve}"),
        "you can stop an approved study at any time; what has left cannot be called back",
        "to take a patient out of every study: consilium-site opt-out PATIENT_ID; running studies "
        "continue without the patient, and nobody outside can tell",
    )


def _identity(approval: Approval) -> tuple[str, ...]:
    lines = [f"SHA-256 {approval.plan.hash}", f"state: {approval.standing}"]
    if approval.by:
        lines[1] += f", decided {approval.decided} by {approval.by}"
    if approval.expires:
        lines.append(f"the approval ends {approval.expires}")
    return tuple(lines)
