"""What a study can cost a patient, and what the patients have spent, in plain words."""

from __future__ import annotations

import math

from client.records.approvals import Approval
from client.records.membership import Draft
from client.site import Site
from common.plan import Plan
from common.privacy.mechanisms import PatientMechanism


def shown_epsilon(epsilon: float) -> str:
    """An epsilon to two decimals, never rounded down."""
    # 1e-9: a float that is 2.00 but for its last bits must not be shown as 2.01.
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def cost(plan: Plan) -> tuple[str, ...]:
    """What the whole study can cost a patient, and what that number means."""
    mechanism = plan.mechanism
    if not isinstance(mechanism, PatientMechanism):
        return ("nothing limits what others can learn about a patient from what leaves",)
    lines = [
        f"epsilon at most {shown_epsilon(mechanism.epsilon)} for the whole study, with delta "
        f"{mechanism.delta:g}",
        "meaning: suppose that someone sees everything that leaves, and knows everything about a "
        "patient except whether the patient is in the study. A guess is then right at most "
        f"{_best_guess(mechanism.epsilon, mechanism.delta)} times in 100; tossing a coin is right "
        "50 times in 100",
        f"a patient in training pays epsilon {shown_epsilon(mechanism.epsilon_training)}, a "
        f"patient in evaluation pays {shown_epsilon(mechanism.epsilon_evaluation)}; a patient who "
        "was moved from one to the other pays both",
    ]
    if plan.study.evaluation_rounds:
        share = plan.study.evaluation.epsilon_share
        lines.append(f"evaluation may use {share:.0%} of the epsilon that the study asks for")
    lines.append(
        f"each patient's contribution to a step is clipped to length {mechanism.clip_norm:g}; "
        f"noise of {mechanism.step.noise_multiplier:g} times that length is added to the sum"
    )
    if mechanism.step.sampling_rate < 1:
        lines.append(
            f"a step that draws more than {mechanism.most_sampled} patients by chance uses none of "
            "them; this is very rare, and a part of delta pays for it"
        )
    return tuple(lines)


def _best_guess(epsilon: float, delta: float) -> str:
    """In how many of 100 cases a guess is right at most, where one in two was before."""
    # (e^epsilon + delta) / (1 + e^epsilon): the most that (epsilon, delta) privacy allows at even
    # odds. Divided by e^epsilon, so that a large epsilon does not overflow.
    right = 1 / (1 + math.exp(-epsilon)) + delta / (1 + math.exp(epsilon))
    return f"{math.ceil(min(right, 1.0) * 1e4 - 1e-9) / 100:.2f}"


def spent(site: Site, approval: Approval, drafted: Draft | None) -> tuple[str, ...]:
    """What the patients have spent, what they would have spent after this study, and the limits."""
    policy, plan, before = site.file.policy, approval.plan, site.file.policy.spent_before
    lines = [
        f"over all studies, the most charged patient of this site has spent epsilon "
        f"{shown_epsilon(before + site.ledger.most_spent(policy.limits))} so far"
    ]
    if drafted is not None:
        lines += [
            f"over all studies, the most charged patient of this cohort has spent epsilon "
            f"{shown_epsilon(before + drafted.before)} so far",
            f"and at most {shown_epsilon(before + drafted.after)} when this study and all running "
            "studies are over",
        ]
    elif approval.frozen:
        lines.append(
            f"this study has cost its most charged patient epsilon "
            f"{shown_epsilon(site.ledger.spent_on(plan))} so far"
        )
    lines.append(
        f"your policy allows {policy.max_epsilon_total:g} in total and "
        f"{policy.max_epsilon_per_study:g} for one study, with delta {policy.delta:g}; a patient "
        "who cannot pay for the whole study is left out"
    )
    if before:
        lines.append(
            f"these figures include epsilon {shown_epsilon(before)} that was spent under a lost "
            "state folder ([policy] spent_before)"
        )
    return tuple(lines)
