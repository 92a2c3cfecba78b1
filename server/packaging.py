"""The model package of a study that has ended (:mod:`common.package`).

It says what the coordinator publishes anyway, so it costs no privacy: calibration and operating
points follow from the counts that sites released, and the weights of the last rounds went to every
site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common import checkpoint
from common.checkpoint import Checkpoint, study_hash
from common.files import sha256, write_atomic
from common.package import package
from common.package.package import EARLIER_MOST
from common.package.statement import Figure, FigureSet, SitePart, Statement
from common.plan import Plan
from common.privacy.mechanisms import NoMechanism
from common.scores.adjustment import NOTHING, Adjustment
from common.study.study_file import PatientPrivacy, Study
from common.wire.signing import SigningKey
from server.app import CHECKPOINTS
from server.study import round_zero
from server.study.rounds import shared_weights

FILE: Final = "model.consilium"
DISTRIBUTIONS: Final = ("consilium", "flwr", "monai", "opacus", "torch")


def make(
    study: Study,
    plans: Mapping[str, Plan],
    folder: Path,
    key: SigningKey,
    *,
    figures: Sequence[FigureSet] = (),
    doubts: Sequence[str] = (),
    finished: str = "",
) -> bytes:
    """The package of a study's last state.

    Args:
        study: what was learned.
        plans: of the sites that took part.
        folder: where the coordinator keeps the study.
        key: that it is signed with.
        figures: more figures, such as those of a simulation's test set.
        doubts: what a reader must know first of the model; with figures of a test set, in place of
            what the hospitals' counts make one doubt.
        finished: the day on which it ended, ISO 8601; empty where that must not be told.

    Raises:
        CheckpointError: no state of it is whole.
    """
    state = _last(folder)
    weights, privacy = shared_weights(study, state), study.privacy
    last = state.evaluations[-1] if state.evaluations else None
    if last is not None and last["round"] != state.round:
        last = None  # of another model than the one that is handed out
    measured, found_doubts = _measured(last)
    statement = Statement(
        name=study.study.name,
        title=study.study.title,
        study=study_hash(study),
        weights=sha256(weights.astype("<f4").tobytes()),
        rounds=state.round,
        warnings=tuple(sorted({note for plan in plans.values() for note in plan.warnings})),
        # A test set says it better than counts with noise of a few validation patients.
        doubts=tuple(dict.fromkeys((*(() if figures else found_doubts), *doubts))),
        delta=privacy.delta if isinstance(privacy, PatientPrivacy) else None,
        sites={site: _part(plan) for site, plan in sorted(plans.items())},
        figures=(*measured, *figures),
        finished=finished,
        versions={name: version(name) for name in DISTRIBUTIONS},
    ).adjusted(_adjustment(study, last))
    return package.write(statement, study, weights, _earlier(study, folder), key)


def write_package(study: Study, folder: Path, seed: int, *, key: SigningKey) -> None:
    """Write the package into a study's folder, once: a study that is resumed keeps the first.

    Args:
        study: as for :func:`make`.
        folder: as there.
        seed: of the study.
        key: as for :func:`make`.
    """
    path = folder / FILE
    if not path.exists():
        today = datetime.now(UTC).date().isoformat()
        plans = round_zero.stored(folder, study, seed)
        assert plans, "a study that has ended has its plans"
        write_atomic(path, make(study, plans, folder, key, finished=today))


def _last(folder: Path) -> Checkpoint:
    state = checkpoint.newest(folder / CHECKPOINTS)
    assert state is not None, "a study that has ended has a state"
    return state


def _earlier(study: Study, folder: Path) -> npt.NDArray[np.float32]:
    """The global weights of the last rounds that are kept, (rounds, weights), oldest first."""
    kept = checkpoint.kept(folder / CHECKPOINTS)[-EARLIER_MOST:]
    # Imported here: it needs torch, which a coordinator needs for nothing else.
    from common.models.networks import join

    whole = [join(study, each.weights, each.frozen) for each in kept]
    return np.stack(whole).astype(np.float32)


def _part(plan: Plan) -> SitePart:
    mechanism = plan.mechanism
    return SitePart(
        declared_patients=plan.declared_patients,
        plan=plan.hash,
        epsilon=None if isinstance(mechanism, NoMechanism) else mechanism.epsilon,
    )


def _adjustment(study: Study, last: Mapping[str, Any] | None) -> Adjustment:
    if last is None:
        return NOTHING
    counts = np.array(last["histogram"], dtype=np.int64)
    return study.task.adjustment(counts, noise_variance=float(last["noise_variance"]))


def _measured(last: Mapping[str, Any] | None) -> tuple[tuple[FigureSet, ...], Sequence[str]]:
    """What the hospitals' own patients say of the model, and what to doubt in it."""
    if last is None:
        return (), ()
    told = last["metrics"]
    found = FigureSet(
        on="hospitals",
        patients=max(0.0, told["patients"]["value"] or 0.0),
        headline=told["headline"],
        figures={name: Figure.model_validate(each) for name, each in told["values"].items()},
        of={
            name: tuple(Figure.model_validate(each) for each in several)
            for name, several in told["of"].items()
        },
    )
    return (found,), told["doubts"]
