"""The one-run audit: canaries among the patients of a study that runs as it really would.

The study runs as ``consilium-sim run`` runs it, on copies of the hospitals in which
canaries are DICOM files like all others; the adversary is the coordinator
(:mod:`simulations.audit.listener`). Several runs, each with canaries and keys of its own, are one
game with more canaries, so the same theorems hold for them together.

How many guesses are made is decided in advance: each of a few numbers gets an equal part of
the allowed failure, and the best of the bounds counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from client.site import open_site
from client.sitefile import load_site_file
from common.privacy.mechanisms import PatientMechanism, mechanism
from common.study.study_file import Study
from simulations.archives.manifest import Hospitals, read_hospitals
from simulations.audit.audit_settings import AuditSettings
from simulations.audit.bounds import (
    Guesses,
    curve_is_refuted_by_guesses,
    one_run_epsilon,
    tail_guesses,
)
from simulations.audit.canaries import insert, make
from simulations.audit.findings import LowerBound, Membership, OneRunFinding
from simulations.audit.listener import LabelledImages, Listener, frozen_weights
from simulations.audit.mechanism import Claim, climb
from simulations.audit.tradeoff import TradeOff, worst
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings, Watcher
from simulations.runs.testset import load_test_set

SHARES: Final = (1.0, 0.5, 0.25, 0.125, 0.05)
"""Of the canaries, how many are guessed on."""
# Few false alarms are where an attack hurts (Carlini et al. 2022, arXiv:2112.03570).
FALSE_ALARMS: Final = (0.001, 0.01, 0.1)
BOUNDS: Final = 2
RUNS: Final = "runs"
_POINTS: Final = 300


@dataclass(frozen=True, eq=False)
class Heard:
    """What the adversary made of a run: one entry a canary."""

    scores: npt.NDArray[np.float64]
    members: npt.NDArray[np.bool_]


def audit_one_run(
    settings: AuditSettings, study: Study, failure: float, watcher: Watcher
) -> OneRunFinding:
    """Play the game and say what it proves.

    Args:
        settings: what is asked for.
        study: the content of the study file.
        failure: probability with which any of the bounds may be wrong.
        watcher: told the progress of the runs.

    Raises:
        ConsiliumError: the study cannot be run, or the canaries cannot be made.
    """
    hospitals = read_hospitals(settings.hospitals)
    planned = plans(study, hospitals)
    seen = [
        play(settings, study, hospitals, planned, number=number, watcher=watcher)
        for number in range(settings.runs)
    ]
    heard = Heard(
        np.concatenate([one.scores for one in seen]), np.concatenate([one.members for one in seen])
    )
    claims = [Claim.of(study, each) for each in planned.values()]
    # An attacker that is always right: what even it could not show, no attack can.
    perfect = Heard(heard.members.astype(np.float64), heard.members)
    return OneRunFinding(
        claimed=max(claim.epsilon for claim in claims),
        delta=claims[0].delta,
        kind=settings.kind.value,
        canaries=len(heard.members),
        inserted=int(heard.members.sum()),
        sites=hospitals.sites,
        runs=settings.runs,
        bounds=prove(claims, heard, failure),
        ceiling=max(bound.epsilon for bound in prove(claims, perfect, failure)),
        membership=membership(heard),
    )


def plans(study: Study, hospitals: Hospitals) -> dict[str, PatientMechanism]:
    """The mechanism that each hospital's plan will have."""
    found = {}
    for site in hospitals.sites:
        file = load_site_file(hospitals.site_file(site))
        data = file.data[study.data.dataset]
        planned = mechanism(study, data.declared_patients, data.most_patients)
        assert isinstance(planned, PatientMechanism)
        found[site] = planned
    return found


def play(
    settings: AuditSettings,
    study: Study,
    hospitals: Hospitals,
    planned: Mapping[str, PatientMechanism],
    *,
    number: int,
    watcher: Watcher,
) -> Heard:
    """One run of the study with canaries, listened to."""
    folder, seed = settings.out / RUNS / f"run-{number}", settings.seed + number
    test = load_test_set(
        study,
        hospitals,
        seed=seed,
        decoded=settings.out / RUNS / "decoded",
        workers=settings.processes,
        progress=watcher.progress,
    )
    made = make(study, hospitals, count=settings.canaries, kind=settings.kind, seed=seed, test=test)
    insert(folder / "hospitals", study, hospitals, made)
    listener = Listener(
        study,
        planned,
        {
            site: LabelledImages(
                np.stack([one.picture for one in canaries]), tuple(one.label for one in canaries)
            )
            for site, canaries in made.items()
        },
        {site: _others(settings, study, hospitals, site, seed) for site in hospitals.sites},
        frozen_weights(study, seed, settings.study.parent),
    )
    run = RunSettings(
        study=settings.study,
        hospitals=folder / "hospitals",
        run=folder / "run",
        seed=seed,
        baselines=False,
        threads=settings.threads,
        processes=settings.processes,
    )
    run_study(run, watcher, tap=listener.tap)
    if listener.failure is not None:
        # The attacker's own defect: the grid would have reported it as a failure of the site.
        raise listener.failure
    return Heard(
        np.concatenate([listener.scores[site] for site in made]),
        np.array([one.inside for canaries in made.values() for one in canaries]),
    )


def prove(claims: Sequence[Claim], heard: Heard, failure: float) -> tuple[LowerBound, ...]:
    """The two bounds, each the best over the numbers of guesses; half of the failures each."""
    # Each number of guesses gets its part, so that the best of them may be taken (union bound).
    each = failure / BOUNDS / len(SHARES)
    games = [_guesses(heard, share) for share in SHARES]
    # All sites of a study have the same delta.
    delta = claims[0].delta
    proved = [one_run_epsilon(game, delta, each) for game in games]
    best = int(np.argmax(proved))
    reached = [_rung(claims, game, each) for game in games]
    rungs = [-1 if rung is None else rung for rung in reached]
    top = int(np.argmax(rungs))
    return (
        LowerBound(
            name="epsilon and delta, one run",
            epsilon=proved[best],
            confidence=1 - failure / BOUNDS,
            assumes="nothing",
            source="Steinke, Nasr and Jagielski 2023, theorem 5.2",
            detail=_counts(games[best]),
        ),
        LowerBound(
            name="trade-off curve, one run",
            epsilon=0.0 if rungs[top] < 0 else max(claim.cost(rungs[top]) for claim in claims),
            confidence=1 - failure / BOUNDS,
            assumes="the mechanism consists of sampled Gaussian steps",
            source="Mahloujifar, Melis and Chaudhuri 2024",
            detail=_counts(games[top]),
        ),
    )


def _rung(claims: Sequence[Claim], guesses: Guesses, failure: float) -> int | None:
    """The highest rung of noise that the guesses refute for the worst of the sites."""

    def curve(rung: int) -> TradeOff:
        # Canaries of all sites play one game, so the curve must hold for the site that reveals
        # most.
        return worst(tuple(claim.curve(rung) for claim in claims))

    return climb(curve, lambda each: curve_is_refuted_by_guesses(guesses, each, failure))


def membership(heard: Heard) -> Membership:
    """How well the scores tell members from others."""
    inside, outside = heard.scores[heard.members], heard.scores[~heard.members]
    # Mann and Whitney's statistic is the area under the curve; ties count half.
    ranks = rankdata(heard.scores)[heard.members]
    pairs = max(1, len(inside) * len(outside))
    auc = (ranks.sum() - len(inside) * (len(inside) + 1) / 2) / pairs
    thresholds = np.sort(heard.scores)[::-1]
    true = np.concatenate([[0.0], (inside >= thresholds[:, None]).mean(axis=1)])
    false = np.concatenate([[0.0], (outside >= thresholds[:, None]).mean(axis=1)])
    # A picture shows no more points.
    kept = np.unique(np.linspace(0, len(true) - 1, min(len(true), _POINTS)).astype(int))
    return Membership(
        members=len(inside),
        others=len(outside),
        auc=float(auc),
        caught=tuple((rate, float(true[false <= rate].max())) for rate in FALSE_ALARMS),
        points=tuple((float(false[k]), float(true[k])) for k in kept),
    )


def _guesses(heard: Heard, share: float) -> Guesses:
    return tail_guesses(heard.scores, heard.members, max(1, round(share * len(heard.members))))


def _counts(guesses: Guesses) -> str:
    return f"{guesses.right} of {guesses.made} guesses right, on {guesses.canaries} canaries"


def _others(
    settings: AuditSettings, study: Study, hospitals: Hospitals, site: str, seed: int
) -> LabelledImages:
    """A hospital's own training patients, as the guarantee lets an adversary know them."""
    # The original archive with the run's seed: the same patients are in training in the run.
    state = settings.out / RUNS / f"known-{seed}" / site
    path, workers = hospitals.site_file(site), settings.processes
    with open_site(path, state, seed, workers=workers) as opened:
        cohort = opened.cohorts.read(study)
    return LabelledImages.of(cohort.images, cohort.part("train"))
