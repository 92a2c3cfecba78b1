"""A plan in plain words, for a person who decides about patients and need not know statistics.

It is a list of headings with lines, which a terminal or a page shows as they are. What must be
read first stands first. Every figure is the plan's, the ledger's or the policy's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from client.consent.amendments import arithmetic, waiting
from client.consent.amendments import changes as changes_of
from client.consent.policy import require_bounds
from client.consent.problems import too_many
from client.records.approvals import Approval
from client.records.membership import Draft, departures, told
from client.site import Site
from client.sitefile import Policy
from common.amendment import Amendment
from common.errors import Refusal
from common.numerics import Ticks
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism
from common.study.bounds import FIELDS, MECHANISM, Stated, stated
from common.wire.enrolment import COORDINATOR_CARD, read_coordinator_card

Sections = tuple[tuple[str, tuple[str, ...]], ...]
"""Headings, each with its lines."""
_HISTOGRAM_BYTES: Final = 8
_NAMES: Final = {
    **{f"study.{bound.place}": bound.name for bound in FIELDS},
    **{f"mechanism.{bound.place}": bound.name for bound in MECHANISM},
    "study.study.title": "title",
    "study.task.kind": "task",
    "study.task.classes": "classes",
    "study.data.dataset": "data set",
    "study.data.modalities": "modalities",
    "study.data.channels": "colour channels",
    "study.model.name": "model",
    "study.privacy.mode": "privacy",
    "study.aggregation.strategy": "how the coordinator joins updates",
    "study.fixed_point.dtype": "type of an update's numbers",
    "declared_patients": "declared patients",
    "most_patients": "most patients of a part",
    "weight": "weight of this site in the average",
    "known_key": "known key",
    "weights": "numbers in an update",
    "numerics.threads": "threads",
    "numerics.cpu_capability": "processor",
    "numerics.ticks.train": "tick of a round, in ms",
    "numerics.ticks.evaluate": "tick of an evaluation, in ms",
}
"""What a person calls the entries of a plan; others are called by their place in it."""


def explain(
    site: Site, approval: Approval, drafted: Draft | None = None, images: int = 0
) -> Sections:
    """A recorded plan and what it would mean at this site today.

    Args:
        site: an open site; its ledger says what the patients have spent.
        approval: the plan and how it stands.
        drafted: whom it would find, where its cohort is not frozen and could be read.
        images: bytes that its decoded images would then take on disk.
    """
    plan = approval.plan
    sections = (
        ("READ THIS FIRST", (*plan.warnings, *_unusual(plan), *_beyond(site, approval, drafted))),
        ("The study", _study(site, approval)),
        ("What is computed, and from whom", _computed(site, approval, drafted, images)),
        ("What leaves this site", _leaves(plan)),
        ("When it leaves", _times(plan, arithmetic(site.store, plan).numerics.ticks)),
        ("What it can cost a patient", _cost(plan)),
        ("Every number", _numbers(plan, site.file.policy)),
        ("This site's ledger", _ledger(site, approval, drafted)),
        ("What the arithmetic depends on", _numerics(site, plan)),
        ("What differs from the plan approved before", _differences(site, plan)),
        ("What you can do", _choices(site, approval)),
        ("This very plan", _identity(approval)),
    )
    return tuple((heading, lines) for heading, lines in sections if lines)


def shown_epsilon(epsilon: float) -> str:
    """An epsilon to two decimals, never rounded down."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def bytes_of(plan: Plan) -> tuple[int, int]:
    """How many bytes one update's array has, and one evaluation's."""
    update = plan.weights * (4 if plan.study.fixed_point.dtype == "int32" else 8)
    return update, math.prod(plan.histogram_shape) * _HISTOGRAM_BYTES


def _unusual(plan: Plan) -> tuple[str, ...]:
    """Each number that honest studies hardly ever have, though they may."""
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
    """What of a plan that is not approved the site file does not allow."""
    if approval.standing in ("approved", "closed"):
        return ()
    plan, policy = approval.plan, site.file.policy
    lines = []
    try:
        require_bounds(plan, policy)
    except Refusal as refused:
        told = refused.details
        lines.append(_exceeds(told["where"], told["found"], told["wanted"]))
    if drafted is not None and drafted.crowded:
        what, remedy = too_many(plan.study.data.dataset, plan.most_patients, drafted.crowded)
        lines.append(f"TOO MANY PATIENTS: {what}; {remedy}; consilium-site approve would refuse it")
    return tuple(lines)


def _exceeds(where: str, asked: str, allowed: str) -> str:
    return (
        f"EXCEEDS YOUR POLICY: {where}: asked {asked}, allowed {allowed}; consilium-site approve "
        "would refuse it"
    )


def _study(site: Site, approval: Approval) -> tuple[str, ...]:
    study = approval.plan.study.study
    return (
        study.title,
        f"called {study.name}; asked for by {_coordinator(site)}",
        f"first proposed {approval.proposed}",
    )


def _coordinator(site: Site) -> str:
    if not (site.state / COORDINATOR_CARD).exists():
        return "a coordinator that this site has not joined"
    card = read_coordinator_card(site.state / COORDINATOR_CARD)
    return f"{card.name} at {card.address}"


def _computed(
    site: Site, approval: Approval, drafted: Draft | None, images: int
) -> tuple[str, ...]:
    plan = approval.plan
    study = plan.study
    height, width = study.data.image_size
    colour = "colour" if study.data.channels == 3 else "grey"
    training = study.training
    lines = [
        f"data set {study.data.dataset}: {', '.join(study.data.modalities)} images, brought to "
        f"{height} x {width} pixels, {colour}",
        f"patients: {plan.declared_patients} declared for training, and never more than "
        f"{plan.most_patients} in it or in evaluation; both numbers are public",
        *_cohort(site, approval, drafted),
        *(() if drafted is None else (_disk(site, images),)),
        f"task: {study.task.kind} as {', '.join(study.task.classes)}",
        f"a model ({study.model.name}, {plan.weights} weights) is trained in {training.rounds} "
        f"rounds of {training.local_steps} steps, each on {training.batch_size} patients on average"
        if training.batch_size < plan.declared_patients
        else f"a model ({study.model.name}, {plan.weights} weights) is trained in "
        f"{training.rounds} rounds of {training.local_steps} steps, each on all patients",
    ]
    if study.evaluation_rounds:
        lines.append(
            f"it is evaluated after {_rounds(study.evaluation_rounds)}, on at most "
            f"{study.evaluation.images_per_patient} images of a patient"
        )
    return tuple(lines)


def _cohort(site: Site, approval: Approval, drafted: Draft | None) -> tuple[str, ...]:
    """Who stands in it, or would, and who does not and why: for the hospital's people alone."""
    if not approval.frozen and drafted is None:
        return (
            "who would be in it is not known: the images, the labels or a list cannot be read "
            "now; consilium-site check says why",
        )
    plan_hash, stays = approval.plan.hash, "these numbers do not leave"
    if approval.frozen or drafted is None:
        counts, left_out = site.ledger.members(plan_hash), approval.left_out
        trained, evaluated = counts.get("train", 0), counts.get("validation", 0)
        gone = told(departures(site.store, plan_hash))
        lines = [f"in the cohort here: {trained} for training, {evaluated} for evaluation; {stays}"]
        lines += (
            [f"left the cohort since: {gone}; their rounds until then stay paid"] if gone else []
        )
    else:
        trained, evaluated = drafted.count("train"), drafted.count("validation")
        left_out = len(drafted.left_out)
        lines = [
            f"in the cohort, if it were approved now: {trained} for training, {evaluated} for "
            f"evaluation; {stays}"
        ]
    if left_out:
        lines.append(
            f"left out: {left_out} who have too little of [policy] max_epsilon_total left for "
            "the whole study; nobody outside is told"
        )
    if not trained + evaluated:
        lines.append("THERE IS NOBODY IN IT: what leaves is noise alone")
    return tuple(lines)


def _disk(site: Site, images: int) -> str:
    most = site.file.site.cache_gib
    room = "" if images <= site.file.site.cache_bytes else ", which is MORE THAN THERE IS ROOM FOR"
    return (
        f"no image was decoded yet: these numbers are what headers and labels tell. To approve "
        f"decodes the images, which takes at most {_size(images)} on this disk until the study is "
        f"over{room}; all studies together may take {most:g} GiB ([site] cache_gib)"
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
        f"{rounds} times the change of the model's weights, {noise}: {plan.weights} numbers, "
        f"{update} bytes each time",
    ]
    if evaluations:
        lines.append(
            f"{evaluations} times a histogram of the model's scores, {noise}: "
            f"{math.prod(plan.histogram_shape)} numbers, {counts} bytes each time"
        )
    lines += [
        f"at most {rounds * update + evaluations * counts} bytes in all",
        "with each: this site's name and signature, how long its ledger is, and its audit log's "
        "head, which this site alone can read",
        "never: images, labels, identifiers, or a count of patients",
    ]
    return tuple(lines)


def _times(plan: Plan, ticks: Ticks) -> tuple[str, ...]:
    if not isinstance(plan.mechanism, PatientMechanism) or not ticks.train:
        return ("as soon as it is ready: how long that took may tell how many patients there are",)
    lines = [
        f"the change of a round {ticks.train / 1000:g} s after its patients began to be looked at"
    ]
    if plan.study.evaluation_rounds:
        lines.append(f"a histogram {ticks.evaluate / 1000:g} s after")
    lines += [
        "so that how long the work took tells nothing of them; where it takes longer, after two "
        "such times, or four, eight and so on: that alone can be seen, and this site's log says so",
        "the times were measured here, on made-up images",
    ]
    return tuple(lines)


def _cost(plan: Plan) -> tuple[str, ...]:
    mechanism = plan.mechanism
    if not isinstance(mechanism, PatientMechanism):
        return ("nothing bounds what can be learned about a patient from what leaves",)
    most, surest = mechanism.epsilon, _best_guess(mechanism.epsilon, mechanism.delta)
    lines = [
        f"epsilon at most {shown_epsilon(most)} over the whole study, with delta "
        f"{mechanism.delta:g}",
        "what that means: somebody who knows everything about a patient but whether the patient's "
        "images are in the study, and who sees all that leaves, guesses right at most "
        f"{surest} times in 100, where tossing a coin would be right 50 times",
        f"training costs the patients who train epsilon {shown_epsilon(mechanism.epsilon_training)}"
        f", evaluation costs the others {shown_epsilon(mechanism.epsilon_evaluation)}; who was "
        "moved from one to the other pays both",
    ]
    if plan.study.evaluation_rounds:
        share = plan.study.evaluation.epsilon_share
        lines.append(f"evaluation may take {share:.0%} of what the study asks for")
    lines.append(
        f"each patient's part in a step is cut to length {mechanism.clip_norm:g}; noise of "
        f"{mechanism.step.noise_multiplier:g} times that is added to the sum"
    )
    if mechanism.step.sampling_rate < 1:
        lines.append(
            f"should a step ever draw more than {mechanism.most_sampled} patients by chance, it "
            "works on none of them; that hardly ever happens, and a part of delta pays for it"
        )
    return tuple(lines)


def _best_guess(epsilon: float, delta: float) -> str:
    """In how many of 100 cases a guess is right at most, where one in two was before.

    Of (epsilon, delta) privacy with even odds beforehand: (e^epsilon + delta) / (1 + e^epsilon).
    """
    right = 1 / (1 + math.exp(-epsilon)) + delta / (1 + math.exp(epsilon))
    return f"{math.ceil(min(right, 1.0) * 1e4 - 1e-9) / 100:.2f}"


def _ledger(site: Site, approval: Approval, drafted: Draft | None) -> tuple[str, ...]:
    policy, plan, before = site.file.policy, approval.plan, site.file.policy.spent_before
    lines = [
        f"the most charged of all patients has spent epsilon "
        f"{shown_epsilon(before + site.ledger.most_spent(policy.limits))} today, over all studies"
    ]
    if drafted is not None:
        lines += [
            f"the most charged patient of this cohort has spent epsilon "
            f"{shown_epsilon(before + drafted.before)} today, over all studies",
            f"and {shown_epsilon(before + drafted.after)} when this study, and all that run, "
            "are over",
        ]
    elif approval.frozen:
        lines.append(
            f"this study has cost the patient whom it cost most epsilon "
            f"{shown_epsilon(site.ledger.spent_on(plan))} so far"
        )
    lines.append(
        f"the policy allows {policy.max_epsilon_total:g} in total and "
        f"{policy.max_epsilon_per_study:g} for one study, with delta {policy.delta:g}; who cannot "
        "pay for a whole study is not in it"
    )
    if before:
        lines.append(
            f"of that, {shown_epsilon(before)} was spent under a state folder that is lost, by "
            "[policy] spent_before: it is in the figures above"
        )
    return tuple(lines)


def explain_amendment(site: Site, plan: Plan, amendment: Amendment) -> Sections:
    """What a person consents to: the same plan, computed otherwise from now on."""
    before = arithmetic(site.store, plan)
    return (
        (
            "Numerics that are to change",
            (
                *changes_of(before.numerics, amendment.numerics),
                f"for study {plan.study.study.name} at this site, after round {amendment.after}",
                "this site computes so today: until both sides agree, it takes no part",
            ),
        ),
        (
            "What stays",
            (
                "the plan, whom it finds, what it has cost and what it can cost at most",
                "rounds that were answered; noise of the rounds to come is drawn anew",
            ),
        ),
        ("This very amendment", (f"SHA-256 {amendment.hash}", f"of the plan {plan.hash}")),
    )


def _numerics(site: Site, plan: Plan) -> tuple[str, ...]:
    agreed, proposed = arithmetic(site.store, plan), waiting(site.store, plan.hash)
    record, more = agreed.numerics, []
    if agreed.number:
        more.append(f"amended {agreed.number} times since the plan was approved")
    if proposed is not None:
        more += [
            f"TO BE DECIDED: {line}" for line in changes_of(agreed.numerics, proposed.numerics)
        ]
        more.append(
            f"to consent: consilium-site approve {plan.study.study.name} --hash "
            f"{proposed.hash[:12]}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    return (
        f"{record.device}, {record.threads} threads, {record.dtype}; this project's arithmetic, "
        f"version {record.arithmetic}",
        f"versions: {versions}",
        "with others the site takes no part until an amendment is agreed on",
        *more,
    )


def _differences(site: Site, plan: Plan) -> tuple[str, ...]:
    name = plan.study.study.name
    others = [
        each
        for each in site.approvals.all()
        if each.plan.study.study.name == name
        and each.plan.hash != plan.hash
        and each.state not in ("pending", "denied")
    ]
    if not others:
        return ("no other plan of this study was approved here",)
    before = max(others, key=lambda each: each.decided).plan
    return tuple(changes(before, plan)) or ("nothing that a person could see",)


def changes(before: Plan, after: Plan) -> Iterable[str]:
    """Every entry of a plan that is not as in another, in a person's words."""
    old, new = (
        dict(_flat(before.model_dump(mode="json"))),
        dict(_flat(after.model_dump(mode="json"))),
    )
    for place in sorted(old.keys() | new.keys()):
        if old.get(place) != new.get(place):
            yield f"{_name(place)}: {_value(old.get(place))} before, now {_value(new.get(place))}"


def _flat(value: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, each in value.items():
        place = f"{above}{name}"
        if isinstance(each, dict):
            yield from _flat(each, f"{place}.")
        else:
            yield place, each


def _name(place: str) -> str:
    return _NAMES.get(place) or place.removeprefix("study.").replace("_", " ").replace(".", ", ")


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choices(site: Site, approval: Approval) -> tuple[str, ...]:
    name, days = approval.plan.study.study.name, site.file.policy.approval_days
    decide = {
        "pending": f"consilium-site approve {name} lets it run for {days} days; "
        f"consilium-site deny {name} says no",
        "approved": f"it is approved; consilium-site stop {name} ends it at any moment, and "
        "nothing of it leaves afterwards",
        "closed": "it is over; its key is erased",
    }
    standing = approval.standing
    again = f"it does not run; consilium-site approve {name} lets it run for {days} days"
    return (
        decide.get(standing, again),
        "once approved it can be stopped at any moment; what has left cannot be called back",
        "consilium-site opt-out PATIENT_ID takes a patient out; a running study goes on without "
        "the patient, and nobody outside can tell",
    )


def _identity(approval: Approval) -> tuple[str, ...]:
    lines = [f"SHA-256 {approval.plan.hash}", f"it is {approval.standing}"]
    if approval.by:
        lines[1] += f", decided {approval.decided} by {approval.by}"
    if approval.expires:
        lines.append(f"the approval ends {approval.expires}")
    return tuple(lines)
