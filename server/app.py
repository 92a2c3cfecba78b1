"""The coordinator's ``ServerApp``: a whole study, from its file to its last weights.

One app serves simulation and deployment. Where to read and write stands in Flower's run
configuration: ``study`` (the study file), ``run`` (the run folder), ``roster``
(:mod:`server.study.roster`), ``seed``, and ``resume`` ("1" to go on with a run).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from common import checkpoint
from common.checkpoint import Checkpoint, study_hash
from common.errors import CheckpointError
from common.files import canonical_json, sha256, write_atomic
from common.plan import Plan
from common.study.bounded import seconds
from common.study.study_file import Study, load_study
from common.wire.flower import Context
from common.wire.messages import LedgerHead, Request
from server.study import amending
from server.study import plans as round_zero
from server.study.aggregation import MEMORY_NOTES, needs_every_reply
from server.study.context import Observer, StudyContext, hear, nobody
from server.study.dispatch import SIMULATION, RetryPolicy
from server.study.receipts import CoordinatorReceipts
from server.study.roster import read_roster
from server.study.rounds import run_rounds, shared_weights
from server.study.verify import NOTHING
from server.study.weighing import counted

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid, ServerApp

FOLDER: Final = "coordinator"
CHECKPOINTS: Final = "checkpoints"
CLOSING: Final = "1m"
"""How long sites that are not connected are waited for when the study is over."""


@dataclass(frozen=True)
class RunConfig:
    """What a coordinator is told to do.

    Attributes:
        study: what to learn.
        folder: where it keeps everything.
        roster: each site's public key, hexadecimal.
        agreed: the most patients of the study's data set that each site may declare.
        seed: what the first weights follow from.
        resume: whether to go on with what is in the folder.
    """

    study: Study
    folder: Path
    roster: Mapping[str, str]
    agreed: Mapping[str, int]
    seed: int
    resume: bool


def build(observer: Observer | None = None) -> ServerApp:
    """The app; ``observer`` is told every event, with the weights after each round."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(grid, read_run_config(context.run_config), observer or nobody)

    return server_app


def read_run_config(config: Mapping[str, Any]) -> RunConfig:
    """Read the run configuration and the files that it names.

    Raises:
        StudyError: the study file cannot be used.
        SiteError: the roster cannot be used.
    """
    study = load_study(Path(str(config["study"])))
    roster = read_roster(Path(str(config["roster"])))
    return RunConfig(
        study=study,
        folder=Path(str(config["run"])) / FOLDER,
        roster=roster.keys,
        agreed=roster.agreed(study.data.dataset),
        seed=int(config.get("seed", 0)),
        resume=str(config.get("resume", "0")) == "1",
    )


def run_study(
    grid: Grid,
    commission: RunConfig,
    observer: Observer = nobody,
    *,
    habits: RetryPolicy = SIMULATION,
    receipts: CoordinatorReceipts | None = None,
) -> Checkpoint:
    """Run a study to its end, from its beginning or from where it stands.

    Args:
        grid: how sites are reached.
        commission: what to do.
        observer: is told every event.
        habits: how requests are asked again, and replies awaited: over a network not as in a
            simulation.
        receipts: signs for what sites have sent.

    Raises:
        ConsiliumError: it cannot be begun or gone on with; what is on disk is whole.
    """
    study, folder = commission.study, commission.folder
    timeout = study.aggregation.round_timeout
    desk = StudyContext(grid, commission.roster, timeout, observer, habits, receipts)
    plans, state = _where_it_stands(commission)
    weights = _first_weights(study, commission.seed) if state is None else state.weights
    if plans is None:
        plans, out = round_zero.make_plans(desk, study, weights.size, commission.agreed)
        round_zero.store(folder, study, commission.seed, plans, out)
    out = round_zero.left_out(folder)
    if state is None:
        hashes = {site: plan.hash for site, plan in plans.items()}
        state = Checkpoint(study_hash(study), commission.seed, hashes, 0, weights)
    desk.tell(
        "study.started",
        study=study.study.name,
        sites=sorted(plans),
        round=state.round,
        shares=_shares(plans),
        left_out=out,
        warnings=_warnings(plans),
        update_bytes=weights.size * np.dtype(study.fixed_point.dtype).itemsize,
    )
    if not _finished(study, state):
        approved, refused = round_zero.approve(desk, study, plans, state.ledgers)
        unavailable = _missing(desk, plans) | out | refused
        asked = {site: plan for site, plan in plans.items() if site in approved}
        desk.tell("weights.settled", round=state.round, shares=_shares(asked))
        amending.settle(
            desk,
            study,
            asked,
            folder=folder,
            completed=state.round,
            ledgers=state.ledgers,
        )
        state = run_rounds(
            desk,
            study,
            asked,
            unavailable=unavailable,
            state=state,
            save=lambda after: _save(folder, after),
        )
    _publish(folder, study, plans, state)
    _close(desk, study, plans, state)
    desk.tell("study.completed", study=study.study.name, weights=shared_weights(study, state))
    return state


def _first_weights(study: Study, seed: int) -> npt.NDArray[np.float32]:
    from common.models.networks import (
        initial_weights,  # a study that goes on starts sooner without torch
    )

    return initial_weights(study, seed)


def _where_it_stands(commission: RunConfig) -> tuple[dict[str, Plan] | None, Checkpoint | None]:
    study, folder, seed = commission.study, commission.folder, commission.seed
    if not commission.resume:
        checkpoint.demand_fresh(folder / CHECKPOINTS)
        _demand_no_plans(folder)
        return None, None
    plans = round_zero.stored(folder, study, seed)
    state = checkpoint.newest(folder / CHECKPOINTS)
    if state is not None:
        hashes = {site: plan.hash for site, plan in (plans or {}).items()}
        checkpoint.demand_same(state, study=study_hash(study), seed=seed, plans=hashes)
    return plans, state


def _demand_no_plans(folder: Path) -> None:
    path = folder / round_zero.FILE
    if path.exists():
        raise CheckpointError(
            "this run folder already holds a study",
            where=path,
            remedy="pass --resume to go on with it, or another --out to start anew",
        )


def _finished(study: Study, state: Checkpoint) -> bool:
    evaluated = {record["round"] for record in state.evaluations}
    return state.round == study.training.rounds and evaluated >= set(study.evaluation_rounds)


def _missing(desk: StudyContext, plans: Mapping[str, Plan]) -> dict[str, str]:
    return dict.fromkeys(sorted(desk.roster.keys() - plans.keys()), "has no plan in this study")


def _save(folder: Path, state: Checkpoint) -> None:
    checkpoint.write(folder / CHECKPOINTS, state)
    lines = [canonical_json(record) + b"\n" for record in state.rounds]
    write_atomic(folder / "rounds.jsonl", b"".join(lines))


def _publish(folder: Path, study: Study, plans: Mapping[str, Plan], state: Checkpoint) -> None:
    weights = shared_weights(study, state)
    digest = sha256(weights.astype("<f4").tobytes())
    metadata = {"study": state.study, "sha256": digest}
    arrays = safetensors.numpy.save({"weights": weights}, metadata)
    write_atomic(folder / "final.safetensors", arrays)
    outcome = {
        "final_weights_sha256": digest,
        "study": study.study.name,
        "study_sha256": state.study,
        "seed": state.seed,
        "rounds": state.round,
        "evaluations": list(state.evaluations),
        "sites": {site: _site(plan) for site, plan in plans.items()},
        "shares": _shares(plans),
        "max_share": study.aggregation.max_share,
        "left_out": round_zero.left_out(folder),
        "absences": _absences(state),
        "amendments": amending.told(folder, plans),
        "strategy": study.aggregation.strategy,
        "memory": MEMORY_NOTES[needs_every_reply(study.aggregation.strategy)],
        "warnings": _warnings(plans),
    }
    write_atomic(folder / "outcome.json", json.dumps(outcome, indent=2).encode() + b"\n")


def _warnings(plans: Mapping[str, Plan]) -> list[str]:
    return sorted({note for plan in plans.values() for note in plan.warnings})


def _shares(plans: Mapping[str, Plan]) -> dict[str, dict[str, object]]:
    """By how much each of these sites counts, as it is told."""
    declared = {site: plan.declared_patients for site, plan in plans.items()}
    weights = {site: plan.weight for site, plan in plans.items()}
    return {site: asdict(each) for site, each in counted(declared, weights).items()}


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


def _close(desk: StudyContext, study: Study, plans: Mapping[str, Plan], state: Checkpoint) -> None:
    requests = {
        site: Request(
            study.study.name,
            plan.hash,
            state.round,
            "close",
            acknowledged=state.round,
            ledger=state.ledgers.get(site, LedgerHead()),
        )
        for site, plan in plans.items()
    }
    if desk.habits.repeat and seconds(desk.timeout) > seconds(CLOSING):
        desk = replace(desk, timeout=CLOSING)
    for _ in hear(desk, requests, dict.fromkeys(plans, NOTHING)):
        pass  # who does not hear of it is told again at the next --resume


app = build()
