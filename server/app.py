"""The coordinator's ``ServerApp``: a whole study, from its file to its last weights.

One app serves simulation and deployment. Where to read and write is given in Flower's run
configuration: ``study`` (the study file), ``run`` (the run folder), ``roster``
(:mod:`server.study.simulation_roster`), ``seed``, and ``resume`` ("1" to continue a run).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from common import checkpoint
from common.checkpoint import Checkpoint, study_hash
from common.files import canonical_json, sha256, write_atomic
from common.models.initial import Arrays
from common.plan import Plan
from common.study.study_file import Study, load_initial, load_study
from common.wire.flower import Context
from server.study import amending, round_zero
from server.study.aggregation import MEMORY_NOTES
from server.study.context import Observer, StudyContext, nobody
from server.study.dispatch import SIMULATION, RetryPolicy
from server.study.receipts import CoordinatorReceipts
from server.study.rounds import OwnStep, close, run_rounds, shared_weights
from server.study.simulation_roster import read_roster

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid, ServerApp

FOLDER: Final = "coordinator"
CHECKPOINTS: Final = "checkpoints"
Flat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunConfig:
    """What a coordinator is told to do.

    Attributes:
        study: what to learn.
        folder: where it keeps everything.
        roster: each site's public key, hexadecimal.
        agreed: the most patients of the study's data set that each site may declare.
        seed: what the first weights follow from.
        resume: whether to continue what is in the folder.
        initial: the study's public starting weights; None where it names none.
    """

    study: Study
    folder: Path
    roster: Mapping[str, str]
    agreed: Mapping[str, int]
    seed: int
    resume: bool
    initial: Arrays | None = None


def build(observer: Observer | None = None, own: OwnStep | None = None) -> ServerApp:
    """The app; ``observer`` is told every event, with the weights after each round.

    Args:
        observer: who is told.
        own: the server's step of a simulation, in place of the study's strategy.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(grid, read_run_config(context.run_config), observer or nobody, own=own)

    return server_app


def read_run_config(config: Mapping[str, Any]) -> RunConfig:
    """Read the run configuration and the files that it names.

    Raises:
        StudyError: the study file cannot be used.
        SiteError: the roster cannot be used.
    """
    path = Path(str(config["study"]))
    study = load_study(path)
    roster = read_roster(Path(str(config["roster"])))
    return RunConfig(
        study=study,
        folder=Path(str(config["run"])) / FOLDER,
        roster=roster.keys,
        agreed=roster.agreed(study.data.dataset),
        seed=int(config.get("seed", 0)),
        resume=str(config.get("resume", "0")) == "1",
        initial=load_initial(study, path.parent),
    )


def run_study(
    grid: Grid,
    config: RunConfig,
    observer: Observer = nobody,
    *,
    retries: RetryPolicy = SIMULATION,
    receipts: CoordinatorReceipts | None = None,
    own: OwnStep | None = None,
) -> Checkpoint:
    """Run a study to its end, from its beginning or from the last completed round.

    Args:
        grid: how sites are reached.
        config: what to do.
        observer: is told every event.
        retries: how requests are sent again, and replies waited for.
        receipts: signs for what sites have sent.
        own: as of :func:`build`.

    Raises:
        ConsiliumError: it cannot start or continue; what is on disk is whole.
    """
    study, folder = config.study, config.folder
    timeout = study.aggregation.round_timeout
    context = StudyContext(grid, config.roster, timeout, observer, retries, receipts)
    plans, state = _stored(config)
    weights, frozen = _first_weights(config) if state is None else (state.weights, state.frozen)
    if plans is None:
        plans, out = round_zero.make_plans(
            context, study, weights.size, config.agreed, frozen=frozen
        )
        # Durable before a site approves one: after a crash the same plans are proposed again, not
        # others that the same site would have to approve as well.
        round_zero.store(folder, study, config.seed, plans, out)
    out = round_zero.left_out(folder)
    if state is None:
        hashes = {site: plan.hash for site, plan in plans.items()}
        state = Checkpoint(study_hash(study), config.seed, hashes, 0, weights, frozen=frozen)
    context.tell(
        "study.started",
        study=study.study.name,
        sites=sorted(plans),
        round=state.round,
        shares=round_zero.shares(plans),
        left_out=out,
        warnings=[*_warnings(plans), *round_zero.drowned(plans)],
        update_bytes=weights.size * np.dtype(study.fixed_point.dtype).itemsize,
    )
    if not _finished(study, state):
        without = sorted(context.roster.keys() - plans.keys())
        no_plan = dict.fromkeys(without, "has no plan in this study")
        approved, refused = round_zero.approve(context, study, plans, state.ledgers)
        unavailable = no_plan | out | refused
        asked = {site: plan for site, plan in plans.items() if site in approved}
        if frozen is not None:
            have, missing = round_zero.provide(context, study, asked, frozen)
            unavailable |= missing
            asked = {site: plan for site, plan in asked.items() if site in have}
        context.tell("weights.settled", round=state.round, shares=round_zero.shares(asked))
        amending.propose_amendments(context, study, asked, folder, state)
        save = partial(_save, folder)
        state = run_rounds(
            context, study, asked, unavailable=unavailable, state=state, save=save, own=own
        )
    # Published first: once a site has been told that the study is over, it need not keep the
    # replies that a restart would ask for.
    _publish(folder, study, plans, state)
    close(context, study, plans, state)
    context.tell("study.completed", study=study.study.name, weights=shared_weights(study, state))
    return state


def _first_weights(config: RunConfig) -> tuple[Flat, Flat | None]:
    """The trained weights of round zero, and the frozen ones; None where all are trained."""
    # Imported here: a study that continues needs no first weights, and starts sooner without torch.
    from common.models.networks import initial_weights, split

    whole = initial_weights(config.study, config.seed, config.initial)
    trained, frozen = split(config.study, whole)
    return trained, frozen if frozen.size else None


def _stored(config: RunConfig) -> tuple[dict[str, Plan] | None, Checkpoint | None]:
    study, folder, seed = config.study, config.folder, config.seed
    if not config.resume:
        checkpoint.demand_fresh(folder / CHECKPOINTS)
        round_zero.demand_none(folder)
        return None, None
    plans = round_zero.stored(folder, study, seed)
    state = checkpoint.newest(folder / CHECKPOINTS)
    if state is not None:
        hashes = {site: plan.hash for site, plan in (plans or {}).items()}
        checkpoint.demand_same(state, study=study_hash(study), seed=seed, plans=hashes)
    return plans, state


def _finished(study: Study, state: Checkpoint) -> bool:
    evaluated = {record["round"] for record in state.evaluations}
    return state.round == study.training.rounds and evaluated >= set(study.evaluation_rounds)


def _save(folder: Path, state: Checkpoint) -> None:
    # The checkpoint counts; the lines are for people, and are written again with the next one.
    checkpoint.write(folder / CHECKPOINTS, state)
    lines = [canonical_json(record) + b"\n" for record in state.rounds]
    write_atomic(folder / "rounds.jsonl", b"".join(lines))


def _publish(folder: Path, study: Study, plans: Mapping[str, Plan], state: Checkpoint) -> None:
    weights = shared_weights(study, state)
    # Of the bytes in one order on every machine: what a simulation and a deployment compare.
    written = np.ascontiguousarray(weights, dtype="<f4")
    digest = sha256(written.tobytes())
    metadata = {"study": state.study, "sha256": digest}
    arrays = safetensors.numpy.save({"weights": written}, metadata)
    write_atomic(folder / "final.safetensors", arrays)
    outcome = {
        "final_weights_sha256": digest,
        "study": study.study.name,
        "study_sha256": state.study,
        "seed": state.seed,
        "rounds": state.round,
        "evaluations": list(state.evaluations),
        "sites": {site: _site(plan) for site, plan in plans.items()},
        "shares": round_zero.shares(plans),
        "max_share": study.aggregation.max_share,
        "left_out": round_zero.left_out(folder),
        "absences": _absences(state),
        "amendments": amending.amendments_for_result(folder, plans),
        "strategy": study.aggregation.strategy,
        "memory": MEMORY_NOTES[study.aggregation.options.every_reply],
        "warnings": _warnings(plans),
    }
    write_atomic(folder / "outcome.json", json.dumps(outcome, indent=2).encode() + b"\n")


def _warnings(plans: Mapping[str, Plan]) -> list[str]:
    return sorted({note for plan in plans.values() for note in plan.warnings})


def _site(plan: Plan) -> dict[str, object]:
    epsilon = plan.mechanism.epsilon
    return {
        "plan": plan.hash,
        "declared_patients": plan.declared_patients,
        "weight": plan.weight,
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "warnings": list(plan.warnings),
    }


def _absences(state: Checkpoint) -> list[dict[str, object]]:
    return [
        {"round": record["round"], "purpose": purpose, "site": site, "reason": reason}
        for purpose, records in (("train", state.rounds), ("evaluate", state.evaluations))
        for record in records
        for site, reason in record["absences"].items()
    ]


app = build()
