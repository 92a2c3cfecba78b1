"""What a hospital would reach alone, and what pooling everything would: for comparison only.

A baseline takes the steps that the study takes, with the same functions: the site's local
training, the fixed point, the coordinator's optimiser and average, from the same first
weights. Only the number of hospitals differs, and where it says so, the privacy. Each runs
in a process of its own; none depends on another.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.cohort import Patient
from client.site import Site
from common import numerics
from common.errors import RoundError
from common.models.initial import Arrays
from common.models.networks import initial_weights
from common.numerics import NumericsRecord
from common.privacy.mechanisms import PatientMechanism, mechanism
from common.study.aggregation import AggregationSettings
from common.study.study_file import NoPrivacy, Study
from server.study.rounds import shared_weights
from simulations.reports.result import CurvePoint, Kind, Outcome
from simulations.runs.curve import curve_rounds
from simulations.runs.in_memory import Trained, rounds_in_memory
from simulations.runs.testset import Mapped, TestSet, curve_point, mapped_masks, outcome

MOST_PROCESSES: Final = 8


@dataclass(frozen=True)
class Holding:
    """The training patients of one hospital, as a baseline may use them. Sensitive."""

    site: str
    declared_patients: int
    most_patients: int
    images: Mapped
    patients: tuple[Patient, ...]
    numerics: NumericsRecord
    masks: Mapped | None = None

    @classmethod
    def of(cls, study: Study, site: Site) -> Holding:
        """What a site offers, with the training part of its cohort."""
        offer, cohort = site.offer(study), site.cohorts.read(study)
        return cls(
            site=offer.site,
            declared_patients=offer.declared_patients,
            most_patients=offer.most_patients,
            images=Mapped.of(cohort.images),
            patients=cohort.part("train"),
            numerics=offer.numerics,
            masks=mapped_masks(cohort),
        )


@dataclass(frozen=True)
class Baseline:
    """One training to compare with.

    Attributes:
        kind: what it stands for.
        study: the study, its privacy, batch and learning rate as this baseline has them.
        holdings: the hospitals whose patients it sees.
        seed: of the run.
        test: the kept-apart test set.
        initial: the study's public starting weights.
    """

    kind: Kind
    study: Study
    holdings: tuple[Holding, ...]
    seed: int
    test: TestSet
    initial: Arrays | None = None

    @property
    def site(self) -> str | None:
        """The hospital, where it is one."""
        return None if self.kind == "pooled" else self.holdings[0].site

    @property
    def name(self) -> str:
        """What its file is called."""
        return file_name(self.kind, self.site)


def file_name(kind: Kind, site: str | None) -> str:
    """The name of a baseline's file, without ending."""
    return f"{kind}-{site}" if site else kind


def plan_baselines(
    study: Study,
    holdings: Sequence[Holding],
    *,
    seed: int,
    test: TestSet,
    rate: float = 1.0,
    initial: Arrays | None = None,
) -> tuple[Baseline, ...]:
    """Every baseline of a study: each hospital alone, with and without privacy, and pooled.

    Args:
        study: what the hospitals did together.
        holdings: of every hospital.
        seed: of the run.
        test: the kept-apart test set.
        rate: factor on the learning rate, for finding the best of several.
        initial: the study's public starting weights.
    """
    alone = _changed(study, rate)
    open_ = _changed(study, rate, privacy=NoPrivacy(mode="none"))
    one = tuple(Baseline("alone", open_, (holding,), seed, test) for holding in holdings)
    # As many patients in a step as all hospitals together have in theirs.
    batch = sum(min(study.training.batch_size, each.declared_patients) for each in holdings)
    pooled = Baseline(
        "pooled",
        _changed(study, rate, privacy=NoPrivacy(mode="none"), batch_size=batch),
        tuple(holdings),
        seed,
        test,
    )
    found = (*one, pooled)
    if not isinstance(study.privacy, NoPrivacy):
        private = (Baseline("alone-private", alone, (holding,), seed, test) for holding in holdings)
        found = (*private, *found)
    return tuple(replace(each, initial=initial) for each in found)


def _changed(
    study: Study, rate: float, *, privacy: NoPrivacy | None = None, batch_size: int | None = None
) -> Study:
    """The study with another learning rate, and without privacy or with larger batches."""
    training = study.training.model_copy(
        update={
            "learning_rate": study.training.learning_rate * rate,
            "batch_size": batch_size or study.training.batch_size,
        }
    )
    changes = {"training": training, "aggregation": _for_one(study.aggregation)}
    return study.model_copy(update=changes | ({"privacy": privacy} if privacy else {}))


def _for_one(settings: AggregationSettings) -> AggregationSettings:
    """Medians, trimmed means and Krum of one reply are that reply: what FedAvg gives."""
    if not settings.options.every_reply:
        return settings
    return AggregationSettings(strategy="fedavg", average_decay=settings.average_decay)


def run_baselines(
    baselines: Sequence[Baseline], *, processes: int, done: Callable[[Outcome], None]
) -> tuple[Outcome, ...]:
    """Train every baseline and measure it on the test set.

    Args:
        baselines: what to train.
        processes: how many at once; 1 works in this process.
        done: told of each outcome as it comes, in the order of ``baselines``.
    """
    outcomes = []
    for result in _each(baselines, min(processes, len(baselines), MOST_PROCESSES)):
        outcomes.append(result)
        done(result)
    return tuple(outcomes)


def _each(baselines: Sequence[Baseline], processes: int) -> Iterator[Outcome]:
    if processes <= 1:
        yield from map(run_baseline, baselines)
        return
    # Spawned, not forked: a forked child would share torch's locks and threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        # The pooled one takes as long as all others: begun last, it would run alone at the end.
        longest = sorted(baselines, key=lambda each: -len(each.holdings))
        running = {each.name: pool.submit(run_baseline, each) for each in longest}
        try:
            for each in baselines:
                yield running[each.name].result()
        finally:
            pool.shutdown(cancel_futures=True)


def run_baseline(baseline: Baseline) -> Outcome:
    """Train one baseline to the study's last round and measure it."""
    study, holdings = baseline.study, baseline.holdings
    numerics.apply(holdings[0].numerics)
    planned = mechanism(
        study,
        sum(each.declared_patients for each in holdings),
        sum(each.most_patients for each in holdings),
    )
    wanted, curve, note = curve_rounds(study.training.rounds), list[CurvePoint](), None
    images, patients, masks = together(holdings)
    rounds = rounds_in_memory(
        study,
        {baseline.name: Trained(planned, images, patients, masks)},
        initial_weights(study, baseline.seed, baseline.initial),
        seed=baseline.seed,
        choice=holdings[0].numerics.choice,
    )
    state = next(rounds)
    try:
        for state in rounds:
            if state.round in wanted:
                weights = shared_weights(study, state)
                curve.append(curve_point(study, weights, baseline.test, state.round))
    except (RoundError, ValueError, FloatingPointError):
        note = f"training diverged in round {state.round + 1}; these are the weights before it"
    found = outcome(
        baseline.kind,
        study,
        shared_weights(study, state),
        baseline.test,
        epsilon=planned.epsilon if isinstance(planned, PatientMechanism) else None,
    )
    return found.model_copy(update={"site": baseline.site, "curve": tuple(curve), "note": note})


def together(
    holdings: Sequence[Holding],
) -> tuple[npt.NDArray[np.float16], tuple[Patient, ...], npt.NDArray[np.uint8] | None]:
    """All images in one array, the patients with their rows in it, and all masks if there are."""
    masks = [each.masks.open() for each in holdings if each.masks is not None]
    if len(holdings) == 1:
        return holdings[0].images.open(), holdings[0].patients, masks[0] if masks else None
    arrays = [holding.images.open() for holding in holdings]
    patients: list[Patient] = []
    start = 0
    for array, holding in zip(arrays, holdings, strict=True):
        for patient in holding.patients:
            rows = tuple(start + row for row in patient.images)
            patients.append(replace(patient, images=rows))
        start += len(array)
    return np.concatenate(arrays), tuple(patients), np.concatenate(masks) if masks else None
