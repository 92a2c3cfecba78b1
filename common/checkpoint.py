"""What is known of a study after a round, on disk so that a crash costs nothing.

A checkpoint is two files: the arrays (safetensors) and a state (JSON) that holds the
arrays' SHA-256 and a checksum of its own. Each is written whole or not at all, the arrays
first, so that a state without its arrays never exists; a damaged checkpoint is known as
such and passed over for the one before it. All of it is public: no number here was
computed from patients except through an update or a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.documents import read_json
from common.errors import CheckpointError
from common.files import canonical_json, sha256, write_atomic
from common.process.killpoints import reach
from common.study.study_file import Study
from common.wire.messages import LedgerHead

FORMAT: Final = 1
KEPT: Final = 3
"""How many checkpoints of a study are kept."""
_PREFIX: Final = "round-"
_RESTORE: Final = "restore the folder from a backup, or start the study again with another --out"
_OPTIMISER: Final = "optimiser."

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a study after a round.

    Attributes:
        study: SHA-256 of the study's canonical JSON.
        seed: what the first weights follow from.
        plans: hash of each site's plan.
        round: the last round that was completed; 0 before the first.
        weights: flat float32 global weights after that round, of those that are trained.
        frozen: the others, flat float32, which no round changes; None where all are trained.
        average: flat float64 running sum of the exponential average, or None without one.
        optimiser: arrays that Flower's server optimiser carries from round to round.
        ledgers: the newest ledger head that each site has sent.
        evaluations: one record for each evaluation, oldest first.
        rounds: one record for each round, oldest first.
    """

    study: str
    seed: int
    plans: Mapping[str, str]
    round: int
    weights: npt.NDArray[np.float32] = field(repr=False)
    frozen: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    average: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    optimiser: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
    ledgers: Mapping[str, LedgerHead] = field(default_factory=dict)
    evaluations: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    rounds: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def study_hash(study: Study) -> str:
    """SHA-256 of the study's canonical JSON, as 64 hexadecimal digits."""
    return sha256(canonical_json(study.model_dump(mode="json")))


def write(folder: Path, checkpoint: Checkpoint, *, keep: int = KEPT) -> None:
    """Make a checkpoint durable, then drop all but the last ``keep``."""
    reach("checkpoint.begun", checkpoint.round)
    path = folder / f"{_PREFIX}{checkpoint.round:06d}.json"
    arrays = save(_arrays(checkpoint))
    # The arrays first: a state that can be read then always has its arrays.
    write_atomic(path.with_suffix(".safetensors"), arrays)
    body = _body(checkpoint) | {"arrays_sha256": sha256(arrays)}
    document = {"format": FORMAT, "checksum": sha256(canonical_json(body)), "state": body}
    write_atomic(path, canonical_json(document))
    _prune(folder, keep)
    reach("checkpoint.written", checkpoint.round)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Damaged ones are passed over, and the log says which and why.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    files = _state_files(folder)
    for path in reversed(files):
        try:
            return read(path)
        except CheckpointError as error:
            _log.warning("checkpoint.skipped", file=path.name, reason=error.what)
    if files:
        raise CheckpointError(
            "none of the checkpoints can be read",
            where=folder,
            found=f"{len(files)} damaged",
            remedy=_RESTORE,
        )
    return None


def kept(folder: Path) -> list[Checkpoint]:
    """Every checkpoint that is whole, by round; damaged ones are left out."""
    found = []
    for path in _state_files(folder):
        with suppress(CheckpointError):
            found.append(read(path))
    return found


def read(path: Path) -> Checkpoint:
    """Read the checkpoint whose state file is ``path``.

    Raises:
        CheckpointError: a file is missing, damaged or of another format.
    """
    try:
        document = read_json(path.read_bytes())
        body = document["state"]
        _demand(document["format"] == FORMAT, "its format is not known", path)
        _demand(document["checksum"] == sha256(canonical_json(body)), "its state changed", path)
        data = path.with_suffix(".safetensors").read_bytes()
        _demand(body.pop("arrays_sha256") == sha256(data), "its arrays changed", path)
        return _assemble(body, load(data))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise CheckpointError(
            "a checkpoint cannot be read",
            where=path,
            found=type(error).__name__,
            remedy=_RESTORE,
        ) from error


def demand_fresh(folder: Path) -> None:
    """Refuse to start a study over an older run.

    Raises:
        CheckpointError: the folder holds checkpoints.
    """
    files = _state_files(folder)
    if files:
        raise CheckpointError(
            "this run folder already holds a study",
            where=folder,
            found=f"{len(files)} checkpoints, the newest {files[-1].stem}",
            remedy="use --resume to continue it, or another --out to start a new one",
        )


def demand_same(checkpoint: Checkpoint, *, study: str, seed: int, plans: Mapping[str, str]) -> None:
    """Refuse to go on from the checkpoint of another study.

    Args:
        checkpoint: what was found.
        study: hash of the study that is to go on.
        seed: its seed.
        plans: its sites' plan hashes.

    Raises:
        CheckpointError: they differ; names in what.
    """
    found = {"study": checkpoint.study, "seed": checkpoint.seed, "plans": dict(checkpoint.plans)}
    wanted: dict[str, object] = {"study": study, "seed": seed, "plans": dict(plans)}
    for name, value in found.items():
        if value != wanted[name]:
            raise CheckpointError(
                "the checkpoint belongs to another study",
                where=name,
                found=value,
                wanted=wanted[name],
                remedy="resume with the study file and seed that it was started with, or use "
                "another --out",
            )


def _demand(condition: bool, what: str, path: Path) -> None:
    if not condition:
        raise CheckpointError(f"a checkpoint is damaged: {what}", where=path, remedy=_RESTORE)


def _state_files(folder: Path) -> list[Path]:
    # By number: after a million rounds the names are longer than six digits.
    return sorted(folder.glob(f"{_PREFIX}*.json"), key=lambda path: int(path.stem[len(_PREFIX) :]))


def _prune(folder: Path, keep: int) -> None:
    for path in _state_files(folder)[:-keep]:
        path.unlink()
    states = {path.stem for path in _state_files(folder)}
    for path in folder.glob(f"{_PREFIX}*.safetensors"):
        if path.stem not in states:
            path.unlink()
    for path in folder.glob(f".{_PREFIX}*.tmp"):  # what a crash left half-written
        path.unlink()


def _arrays(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {"weights": checkpoint.weights}
    if checkpoint.frozen is not None:
        arrays["frozen"] = checkpoint.frozen
    if checkpoint.average is not None:
        arrays["average"] = checkpoint.average
    arrays |= {_OPTIMISER + name: value for name, value in checkpoint.optimiser.items()}
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


def _body(checkpoint: Checkpoint) -> dict[str, Any]:
    in_arrays = {"weights", "frozen", "average", "optimiser"}
    body = {
        item.name: getattr(checkpoint, item.name)
        for item in fields(checkpoint)
        if item.name not in in_arrays
    }
    ledgers = {site: [head.length, head.hash] for site, head in checkpoint.ledgers.items()}
    return body | {"plans": dict(checkpoint.plans), "ledgers": ledgers}


def _assemble(body: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Checkpoint:
    ledgers = {site: LedgerHead(*head) for site, head in body.pop("ledgers").items()}
    evaluations, rounds = tuple(body.pop("evaluations")), tuple(body.pop("rounds"))
    optimiser = {
        name.removeprefix(_OPTIMISER): value
        for name, value in arrays.items()
        if name.startswith(_OPTIMISER)
    }
    return Checkpoint(
        **body,
        evaluations=evaluations,
        rounds=rounds,
        ledgers=ledgers,
        weights=arrays["weights"],
        frozen=arrays.get("frozen"),
        average=arrays.get("average"),
        optimiser=optimiser,
    )
