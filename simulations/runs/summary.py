"""A run's result, put together from what was planned, published and measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, Literal

from common.checkpoint import study_hash
from common.package.statement import Figure
from common.plan import Plan
from common.privacy.accounting import epsilon as composed
from common.privacy.mechanisms import Mechanism, NoMechanism
from common.study.study_file import PatientPrivacy, Study
from simulations.archives.manifest import Hospitals
from simulations.reports.result import (
    FederatedEvaluation,
    HospitalsFacts,
    Outcome,
    Result,
    Seeds,
    SiteFacts,
    SiteFigure,
    StudyFacts,
)
from simulations.runs.curve import curve_rounds

DISTRIBUTIONS: Final = (
    *("consilium", "cryptography", "dp-accounting", "flwr", "monai", "numpy", "opacus"),
    *("pydicom", "safetensors", "scipy", "torch"),
)
"""Whose version a reader needs to get the same again."""


def summarise(
    *,
    study: Study,
    hospitals: Hospitals,
    plans: Mapping[str, Plan],
    published: Mapping[str, Any],
    shared: Outcome,
    baselines: Sequence[Outcome],
    seed: int,
    seconds: Mapping[str, float],
    command: str,
    notes: Sequence[str] = (),
    records: Literal["memory", "disk"] = "disk",
    at_sites: Mapping[str, SiteFigure] = MappingProxyType({}),
) -> Result:
    """Put a result together.

    Args:
        study: what was run.
        hospitals: on whom.
        plans: by site.
        published: the coordinator's outcome.
        shared: the shared model on the test set.
        baselines: what it is compared with.
        seed: of the run.
        seconds: by phase.
        command: as typed.
        notes: what else must be said before any figure.
        records: where sites kept their ledgers.
        at_sites: the shared model at each hospital.
    """
    privacy = study.privacy
    return Result(
        warnings=(*_warnings(plans, published), *notes, *shared.doubts),
        study=_study_facts(study, plans),
        hospitals=HospitalsFacts(
            kind=hospitals.kind,
            seed=hospitals.seed,
            sha256=hospitals.sha256,
            facts=hospitals.facts,
            redraws=hospitals.redraws,
        ),
        final_weights_sha256=published["final_weights_sha256"],
        numerics={site: plan.numerics for site, plan in plans.items()},
        metrics=shared.metrics,
        shared=shared,
        federated_evaluation=tuple(_evaluation(record) for record in published["evaluations"]),
        per_site={
            site: _site_facts(plan, published["shares"][site]["share"])
            for site, plan in plans.items()
        },
        epsilon={site: bound(plan) for site, plan in plans.items()},
        delta=privacy.delta if isinstance(privacy, PatientPrivacy) else None,
        baselines=tuple(baselines),
        versions={name: version(name) for name in DISTRIBUTIONS},
        seeds=Seeds(run=seed, hospitals=hospitals.seed),
        seconds=dict(seconds),
        command=command,
        records=records,
        at_sites=dict(at_sites),
    )


def bound(plan: Plan) -> float | None:
    """The most that a plan costs a patient of its site; None where nothing bounds it."""
    return None if isinstance(plan.mechanism, NoMechanism) else plan.mechanism.epsilon


def _warnings(plans: Mapping[str, Plan], published: Mapping[str, Any]) -> tuple[str, ...]:
    """Each site's warnings once, the gravest first, and who was left out of what."""
    # Sites give the same warnings: each is said once, in its order.
    notes = dict.fromkeys(note for plan in plans.values() for note in plan.warnings)
    left_out: Mapping[str, str] = published["left_out"]
    missing: dict[tuple[str, str, str], list[int]] = {}
    for absence in published["absences"]:
        # Who was left out is said once, not for every round after.
        if absence["site"] not in left_out:
            key = (absence["site"], absence["purpose"], absence["reason"])
            missing.setdefault(key, []).append(absence["round"])
    absences = [
        f"{site} was missing in {len(rounds)} of the "
        f"{'rounds' if purpose == 'train' else 'evaluations'}, first in round {rounds[0]}: {reason}"
        for (site, purpose, reason), rounds in sorted(missing.items())
    ]
    gone = (f"{site} was left out of the study: {why}" for site, why in sorted(left_out.items()))
    return (*notes, *gone, *absences)


def _study_facts(study: Study, plans: Mapping[str, Plan]) -> StudyFacts:
    privacy, training = study.privacy, study.training
    private = privacy if isinstance(privacy, PatientPrivacy) else None
    return StudyFacts(
        name=study.study.name,
        title=study.study.title,
        sha256=study_hash(study),
        task=study.task.kind,
        classes=study.task.classes,
        figures=tuple(study.task.names.items()),
        rounds=training.rounds,
        local_steps=training.local_steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        model=study.model.name,
        weights=next(iter(plans.values())).weights,
        strategy=study.aggregation.strategy,
        average_decay=study.aggregation.average_decay,
        max_share=study.aggregation.max_share,
        privacy=privacy.mode,
        epsilon=private.epsilon if private else None,
        clip_norm=private.clip_norm if private else None,
    )


def _evaluation(record: Mapping[str, Any]) -> FederatedEvaluation:
    values = record["metrics"]["values"]
    figures = {name: Figure.model_validate(each) for name, each in values.items()}
    return FederatedEvaluation(round=record["round"], figures=figures)


def _site_facts(plan: Plan, share: float) -> SiteFacts:
    mechanism = plan.mechanism
    private = None if isinstance(mechanism, NoMechanism) else mechanism
    step = mechanism if isinstance(mechanism, NoMechanism) else mechanism.step
    numbers = curve_rounds(plan.study.training.rounds)
    costs = ((number, spent_after(plan.study, plan.mechanism, number)) for number in numbers)
    return SiteFacts(
        declared_patients=plan.declared_patients,
        weight=plan.weight,
        share=share,
        epsilon_training=private.epsilon_training if private else None,
        epsilon_evaluation=private.epsilon_evaluation if private else None,
        noise_multiplier=private.step.noise_multiplier if private else None,
        sampling_rate=step.sampling_rate,
        spent=tuple((number, cost) for number, cost in costs if cost is not None),
        plan_hash=plan.hash,
    )


def most_spent(mechanisms: Iterable[Mechanism], study: Study, rounds: int) -> float | None:
    """The most that training has cost any patient after this many rounds."""
    costs = [spent_after(study, each, rounds) for each in mechanisms]
    return max((cost for cost in costs if cost is not None), default=None)


def spent_after(study: Study, mechanism: Mechanism, rounds: int) -> float | None:
    """What training has cost a patient of a site after this many rounds."""
    if isinstance(mechanism, NoMechanism):
        return None
    steps = rounds * study.training.local_steps
    # Not the whole delta: a part of it pays for the cap on samples.
    return composed(((mechanism.step, steps),), mechanism.composed_delta)
