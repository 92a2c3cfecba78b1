"""The rounds of a study (McMahan et al. 2017; Reddi et al. 2021), from the last completed one.

State goes in and comes out. Starting is resuming from round zero: a run that was killed and a
run that was not take the same path. They end with the same weights, because the state is
durable before the next round is asked for, and a site answers the same request with the same
bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.bounded import seconds
from common.checkpoint import KEPT, Checkpoint
from common.errors import RoundError
from common.plan import Plan
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.process.killpoints import reach
from common.study.study_file import Study
from common.wire.messages import LedgerHead, Purpose, Request
from server.study import aggregation
from server.study.collect import RoundReplies, collect
from server.study.context import StudyContext
from server.study.optimisers import OwnStep as OwnStep  # noqa: PLC0414 - an app passes one on
from server.study.optimisers import fewest_replies, head_of_sums, step
from server.study.pooling import SiteCounts, nothing, pool, shown
from server.study.verify import NOTHING, cell_noise, counts_shape, update_shape

Save = Callable[[Checkpoint], None]
CLOSING: Final = "1m"
"""How long sites that are not connected are waited for when the study is over."""
RUNAWAY: Final = 32.0
"""A root mean square change of all weights in one round that no training has: first weights are
below 1. A quarter of the largest change that an update can hold counts, too."""


def run_rounds(
    context: StudyContext,
    study: Study,
    plans: Mapping[str, Plan],
    *,
    unavailable: Mapping[str, str],
    state: Checkpoint,
    save: Save,
    own: OwnStep | None = None,
) -> Checkpoint:
    """Continue a study until its last round is done and evaluated.

    Args:
        context: how the sites are reached.
        study: what is learned, and how.
        plans: of the sites that approved.
        unavailable: why the other sites of the study are not asked.
        state: after the last completed round.
        save: makes a state durable.
        own: the server's step of a simulation, in place of the study's strategy.

    Returns:
        The state after the last round.

    Raises:
        RoundError: a round got too few usable replies; the state before it is durable.
    """
    settings, rounds = study.aggregation, study.training.rounds
    counts = {site: plan.weight for site, plan in plans.items()}
    shapes = {site: update_shape(plan) for site, plan in plans.items()}
    while True:
        if _evaluation_due(study, state):
            state = evaluate(context, study, plans, unavailable, state)
            save(state)
            context.tell("evaluation.completed", **state.evaluations[-1])
        if state.round == rounds:
            return state
        number, started = state.round + 1, time.monotonic()
        context.tell("round.started", round=number, rounds=rounds, sites=len(plans))
        # Every site is asked in every round: only patients are sampled, at the sites.
        requests = _requests(study, plans, state, "train", state.weights)
        replies = RoundReplies(
            context, requests, shapes, unavailable=unavailable, fewest=fewest_replies(settings)
        )
        every_reply = None if own is None else own.every_reply
        fold = aggregation.begin(settings, state.weights.size, counts, every_reply=every_reply)
        for reply in replies:
            assert reply.arrays is not None
            fold.add(reply.site, reply.arrays)
            context.tell("reply.folded", round=number, site=reply.site)
            reach("update.folded", number)
        mechanisms = {site: each.mechanism for site, each in plans.items()}
        state = advance(study, state, fold, mechanisms, own)
        record = _record(number, started, replies)
        ledgers = {**state.ledgers, **replies.ledgers}
        state = replace(state, ledgers=ledgers, rounds=(*state.rounds, record))
        # Durable before anyone is told or asked for more: a site may forget its replies once a
        # later request acknowledges them.
        save(state)
        context.tell("round.completed", **record, weights=shared_weights(study, state))


def advance(
    study: Study,
    state: Checkpoint,
    fold: aggregation.Fold,
    mechanisms: Mapping[str, PatientMechanism | NoMechanism],
    own: OwnStep | None = None,
) -> Checkpoint:
    """The state one round later: the server optimiser's step, and the average of the weights.

    Args:
        study: what is learned, and how.
        state: before the round.
        fold: of the sites' updates.
        mechanisms: of the sites: a one-shot study leaves out what they say is noise.
        own: as of :func:`run_rounds`.

    Raises:
        RoundError: the new weights are not finite, or training runs away.
    """
    settings, number = study.aggregation, state.round + 1
    reached = fold.contributions(state.weights, study.fixed_point)
    if study.one_shot:
        assert isinstance(fold, aggregation.WeightedSum)
        _require_steady(study, number, state.weights, reached[0][0])
        return replace(state, round=number, weights=head_of_sums(study, fold, mechanisms))
    if own is not None:
        weights, optimiser = own(number, state.weights, reached, state.optimiser)
    else:
        weights, optimiser = step(settings, number, state.weights, reached, state.optimiser)
    # The mean before the server's own step, or what a median made of updates, one of which may lie.
    several = settings.options.every_reply or own is not None
    moved = weights if several else reached[0][0]
    _require_steady(study, number, state.weights, moved)
    average = _averaged(settings.average_decay, state.average, weights)
    return replace(state, round=number, weights=weights, average=average, optimiser=optimiser)


def _require_steady(
    study: Study, number: int, before: npt.NDArray[np.float32], after: npt.NDArray[Any]
) -> None:
    """Refuse the weights of a training that runs away, told by their change, which is public.

    An update is cut off at the largest number that it can hold, and a patient whose gradient
    overflows counts as zero: without this check a study would go on with noise to its end.

    Raises:
        RoundError: names the round, and how far the weights moved.
    """
    fixed_point = study.fixed_point
    most = min(RUNAWAY, fixed_point.limit * fixed_point.unit / 4)
    found = float(np.linalg.norm(after - before)) / math.sqrt(before.size)
    if not found <= most:
        raise RoundError(
            f"training ran away in round {number}: the updates moved the weights too far",
            where="[training] learning_rate, local_steps, momentum, class_weights",
            found=f"each weight moved by {found:.3g} (root mean square)",
            wanted=f"at most {most:.3g}; useful training moves a weight by less than 1",
            remedy="start a new study with a lower learning rate; if it ends in the same way, one "
            'site may send false updates: use strategy = "fedmedian" with three sites or more',
        )


def evaluate(
    context: StudyContext,
    study: Study,
    plans: Mapping[str, Plan],
    unavailable: Mapping[str, str],
    state: Checkpoint,
) -> Checkpoint:
    """Pool the sites' score histograms of the shared weights, and compute its figures.

    A site whose histogram is impossible is left out by name. Where too few others are left
    there are no figures, and the study continues.

    Raises:
        RoundError: too few sites gave a histogram.
    """
    number, started = state.round, time.monotonic()
    shapes = {site: counts_shape(plan) for site, plan in plans.items()}
    shape = next(iter(plans.values())).release.shape
    requests = _requests(study, plans, state, "evaluate", evaluated_weights(study, state))
    fewest = study.aggregation.min_sites  # Bulyan's 4f + 3 is about updates, not histograms
    replies = RoundReplies(context, requests, shapes, unavailable=unavailable, fewest=fewest)
    releases: dict[str, SiteCounts] = {}
    for reply in replies:
        assert reply.arrays is not None
        noise = cell_noise(plans[reply.site])
        releases[reply.site] = SiteCounts(reply.arrays.reshape(shape), noise)
    if len(releases) >= fewest:
        # Sorted, so that sums of floats do not depend on who answered first.
        pooled = pool(dict(sorted(releases.items())), study.task, study.evaluation.bins)
    else:
        pooled = nothing(
            study.task,
            study.evaluation.bins,
            f"the study needs {fewest} usable histograms and got {len(releases)}; impossible: "
            f"that of {' and '.join(replies.impossible)}",
        )
    record = _record(number, started, replies) | {
        "histogram": pooled.counts.tolist(),
        "noise_variance": pooled.variance,
        "metrics": shown(pooled.figures, study.task),
    }
    ledgers = {**state.ledgers, **replies.ledgers}
    return replace(state, ledgers=ledgers, evaluations=(*state.evaluations, record))


def close(
    context: StudyContext, study: Study, plans: Mapping[str, Plan], state: Checkpoint
) -> None:
    """Tell the sites that the study is over; a site that is away is told at the next resume."""
    requests = _requests(study, plans, state, "close", None)
    requests = {site: replace(each, acknowledged=state.round) for site, each in requests.items()}
    if context.retries.repeat and seconds(context.timeout) > seconds(CLOSING):
        context = replace(context, timeout=CLOSING)
    for _ in collect(context, requests, dict.fromkeys(plans, NOTHING)):
        pass  # no answer is needed


def shared_weights(study: Study, state: Checkpoint) -> npt.NDArray[np.float32]:
    """The flat float32 model that is handed out: :func:`evaluated_weights`, and the frozen ones."""
    weights = evaluated_weights(study, state)
    if state.frozen is None:
        return weights
    # Imported here: a study that trains all weights needs no torch to coordinate its rounds.
    from common.models.networks import join

    return join(study, weights, state.frozen)


def evaluated_weights(study: Study, state: Checkpoint) -> npt.NDArray[np.float32]:
    """The flat float32 weights that are trained, as they are evaluated.

    The global weights, or their exponential average, divided by 1 - decay**round so that
    the zeros it started from do not count (Kingma and Ba 2015, section 3).
    """
    decay = study.aggregation.average_decay
    if state.average is None or state.round == 0:
        return state.weights
    return (state.average / (1.0 - decay**state.round)).astype(np.float32)


def _averaged(
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
    purpose: Purpose,
    weights: npt.NDArray[np.float32] | None,
) -> dict[str, Request]:
    number = state.round + 1 if purpose == "train" else state.round
    shared = Request(
        study.study.name, "", number, purpose, arrays=weights, acknowledged=acknowledged(state)
    )
    requests = {
        site: replace(shared, plan_hash=plan.hash, ledger=state.ledgers.get(site, LedgerHead()))
        for site, plan in plans.items()
    }
    for each in requests.values():
        # All carry the same weights: they are hashed once, not once for each site.
        vars(each)["arrays_hash"] = shared.arrays_hash
    return requests


def acknowledged(state: Checkpoint) -> int:
    """The last round whose replies no restart can need again.

    It is the oldest of the checkpoints that are kept: if the newer ones are damaged, the
    rounds after it are asked for again, and the sites must still have their replies.
    """
    return max(0, state.round - KEPT + 1)


def _record(number: int, started: float, replies: RoundReplies) -> dict[str, Any]:
    return {
        "round": number,
        "seconds": round(time.monotonic() - started, 3),
        "sites": replies.sites,
        "absences": dict(sorted(replies.absences.items())),
    }
