"""The rounds of a study (McMahan et al. 2017; Reddi et al. 2021), from wherever it stands.

State goes in and comes out. Starting is resuming from round zero: a run that was killed
and one that nobody disturbed take the same path, and since the state is durable before the
next round is asked for, and a site answers the same request with the same bytes, they end
with the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from common.checkpoint import KEPT, Checkpoint
from common.plan import Plan
from common.process.killpoints import reach
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Purpose, Request
from server.study import aggregation
from server.study.context import StudyContext, demand_enough, hear
from server.study.dispatch import Absence
from server.study.optimisers import fewest_replies, step
from server.study.pooling import Release, nothing, pool
from server.study.verify import IMPOSSIBLE, cell_noise, histogram_shape, update_shape

Save = Callable[[Checkpoint], None]


def run_rounds(
    desk: StudyContext,
    study: Study,
    plans: Mapping[str, Plan],
    *,
    unavailable: Mapping[str, str],
    state: Checkpoint,
    save: Save,
) -> Checkpoint:
    """Go on with a study until its last round is done and evaluated.

    Args:
        desk: how the sites are reached.
        study: what is learned, and how.
        plans: of the sites that approved.
        unavailable: why the other sites of the study are not asked.
        state: after the last completed round.
        save: makes a state durable.

    Returns:
        The state after the last round.

    Raises:
        RoundError: a round got too few usable replies; the state before it is durable.
    """
    settings = study.aggregation
    counts = {site: plan.weight for site, plan in plans.items()}
    shapes = {site: update_shape(plan) for site, plan in plans.items()}
    while True:
        if _evaluation_due(study, state):
            state = evaluate(desk, study, plans, unavailable, state)
            save(state)
            desk.tell("evaluation.completed", **state.evaluations[-1])
        if state.round == study.training.rounds:
            return state
        number, started = state.round + 1, time.monotonic()
        desk.tell("round.started", round=number, rounds=study.training.rounds, sites=len(plans))
        fold = aggregation.begin(settings, state.weights.size, counts)
        absences, ledgers = dict(unavailable), dict(state.ledgers)
        requests = _requests(
            study, plans, state, purpose="train", number=number, weights=state.weights
        )
        for site, answer in hear(desk, requests, shapes):
            if isinstance(answer, Absence):
                absences[site] = answer.reason
                continue
            assert answer.arrays is not None
            fold.add(site, answer.arrays)
            ledgers[site] = answer.ledger
            desk.tell("reply.folded", round=number, site=site)
            reach("update.folded", number)
        fewest = fewest_replies(settings)
        demand_enough(study.study.name, number, "training", fold.sites, absences, fewest=fewest)
        reached = fold.contributions(state.weights, study.fixed_point)
        weights, optimiser = step(settings, number, state.weights, reached, state.optimiser)
        record = _record(number, started, fold.sites, absences)
        state = replace(
            state,
            round=number,
            weights=weights,
            average=averaged(settings.average_decay, state.average, weights),
            optimiser=optimiser,
            ledgers=ledgers,
            rounds=(*state.rounds, record),
        )
        save(state)
        desk.tell("round.completed", **record, weights=shared_weights(study, state))


def evaluate(
    desk: StudyContext,
    study: Study,
    plans: Mapping[str, Plan],
    unavailable: Mapping[str, str],
    state: Checkpoint,
) -> Checkpoint:
    """Pool the sites' score histograms of the shared weights, and compute its figures.

    A site whose histogram cannot be an honest one is left out by name. Its stored reply will be
    the same whenever it is asked, so where too few others are left there are no figures, and
    the study goes on.

    Raises:
        RoundError: too few sites gave a histogram.
    """
    number, started = state.round, time.monotonic()
    shapes = {site: histogram_shape(plan) for site, plan in plans.items()}
    shape = next(iter(plans.values())).histogram_shape
    absences, ledgers = dict(unavailable), dict(state.ledgers)
    releases: dict[str, Release] = {}
    left_out: list[str] = []
    requests = _requests(
        study,
        plans,
        state,
        purpose="evaluate",
        number=number,
        weights=shared_weights(study, state),
    )
    for site, answer in hear(desk, requests, shapes):
        if isinstance(answer, Absence):
            absences[site] = answer.reason
            left_out += [site] if answer.reason.startswith(IMPOSSIBLE) else []
            continue
        assert answer.arrays is not None
        releases[site] = Release(answer.arrays.reshape(shape), cell_noise(plans[site]))
        ledgers[site] = answer.ledger
    fewest = study.aggregation.min_sites
    if len(releases) + len(left_out) < fewest:
        demand_enough(study.study.name, number, "evaluation", releases, absences, fewest=fewest)
    if len(releases) >= fewest:
        pooled = pool(dict(sorted(releases.items())), study.task.classes)
    else:
        pooled = nothing(shape, _too_few(len(releases), fewest, left_out))
    record = _record(number, started, tuple(sorted(releases)), absences) | {
        "histogram": pooled.counts.tolist(),
        "noise_variance": pooled.variance,
        "metrics": asdict(pooled.figures),
    }
    return replace(state, ledgers=ledgers, evaluations=(*state.evaluations, record))


def shared_weights(study: Study, state: Checkpoint) -> npt.NDArray[np.float32]:
    """The flat float32 model that is evaluated and handed out.

    The global weights, or their exponential average, divided by 1 - decay**round so that
    the zeros it started from do not count (Kingma and Ba 2015, section 3).
    """
    decay = study.aggregation.average_decay
    if state.average is None or state.round == 0:
        return state.weights
    return (state.average / (1.0 - decay**state.round)).astype(np.float32)


def averaged(
    decay: float, average: npt.NDArray[np.float64] | None, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64] | None:
    """The exponential average after one more round, flat float64; None where none is kept."""
    if decay == 0:
        return None
    before = np.zeros(weights.size) if average is None else average
    return decay * before + (1.0 - decay) * weights.astype(np.float64)


def _evaluation_due(study: Study, state: Checkpoint) -> bool:
    done = {record["round"] for record in state.evaluations}
    return state.round in study.evaluation_rounds and state.round not in done


def _requests(
    study: Study,
    plans: Mapping[str, Plan],
    state: Checkpoint,
    *,
    purpose: Purpose,
    number: int,
    weights: npt.NDArray[np.float32],
) -> dict[str, Request]:
    return {
        site: Request(
            study.study.name,
            plan.hash,
            number,
            purpose,
            arrays=weights,
            acknowledged=acknowledged(state),
            ledger=state.ledgers.get(site, LedgerHead()),
        )
        for site, plan in plans.items()
    }


def acknowledged(state: Checkpoint) -> int:
    """The last round whose replies no restart can need again.

    It is the oldest of the checkpoints that are kept: should the newer ones be damaged,
    the rounds after it are asked for again, and the sites must still have their replies.
    """
    return max(0, state.round - KEPT + 1)


def _too_few(usable: int, fewest: int, left_out: list[str]) -> str:
    return (
        f"{usable} usable histograms, and the study wants {fewest}: what "
        f"{' and '.join(sorted(left_out))} sent cannot be"
    )


def _record(
    number: int, started: float, sites: tuple[str, ...], absences: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "round": number,
        "seconds": round(time.monotonic() - started, 3),
        "sites": list(sites),
        "absences": dict(sorted(absences.items())),
    }
