"""Study files, and what a coordinator keeps of a study."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from common import checkpoint
from common.amendment import Amendment
from common.errors import (
    CheckpointError,
    ConsiliumError,
    ModelError,
    PrivacyError,
    Refusal,
    SiteError,
    StudyError,
)
from common.files import canonical_json, sha256
from common.models.networks import weights_count
from common.numerics import EngineChoice, NumericsRecord
from common.plan import Offer, read_plan, write_plan
from common.study.study_file import Study, load_study
from common.wire.messages import LedgerHead
from common.wire.signing import SigningKey
from server.study import amending, round_zero
from server.study.simulation_roster import read_roster
from tests.common.studies import SMALL, small_study
from tests.fuzz.mutation import Draw, bytes_of, json_of, tree_of
from tests.fuzz.running import ROOT
from tests.fuzz.settings import Settings, sections
from tests.fuzz.target import Target, require_help

NUMERICS: Final = NumericsRecord(
    threads=1, choice=EngineChoice(), cpu_capability="a", versions={"torch": "1"}
)
OFFER: Final = Offer(
    site="north",
    public_key="a" * 64,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=NUMERICS,
)


class StudyFiles(Settings):
    """A study file."""

    errors: tuple[type[ConsiliumError], ...] = (StudyError,)
    document = SMALL

    def samples(self) -> Sequence[bytes]:
        shipped = [path.read_bytes() for path in sorted(ROOT.glob("simulations/**/*.toml"))]
        strategies = ("fedadam", "fedprox", "fedmedian", "krum")
        others = [
            sections(SMALL | {"aggregation": {"strategy": name}}).encode() for name in strategies
        ]
        return [*super().samples(), *others, *shipped]

    def take(self, data: bytes) -> str:
        path = self.folder / "study.toml"
        path.write_bytes(data)
        return self.use(load_study(path))

    def use(self, study: Study) -> str:
        """What is done with a study that was read."""
        assert study.fixed_point.limit > 0
        assert all(0 < number <= study.training.rounds for number in study.evaluation_rounds)
        return "read"


class Plans(StudyFiles):
    """A study file, and the plan that follows from it; accounting takes its time."""

    errors = (StudyError, PrivacyError, ModelError)

    def use(self, study: Study) -> str:
        plan = write_plan(study, OFFER, weights_count(study))
        study.fixed_point.prove_no_overflow((plan.weight,))
        try:
            read = read_plan(plan.text)
        except Refusal as error:
            raise AssertionError(f"a plan of ours that a site refuses: {error.what}") from error
        assert read == plan
        return "planned"


class Checkpoints(Target):
    """A checkpoint: as it lies there, and with checksums that fit whatever it says."""

    errors = (CheckpointError,)

    def samples(self) -> Sequence[bytes]:
        state = checkpoint.Checkpoint(
            study="a" * 64,
            seed=3,
            plans={"north": "b" * 64},
            round=1,
            weights=np.array([1, 0.1], dtype=np.float32),
            average=np.array([0.1, 1 / 3]),
            optimiser={"m_t": np.array([1e-300, 0.1])},
            ledgers={"north": LedgerHead(1, "c" * 64)},
            evaluations=({"round": 1, "metrics": {"auc": 0.75}},),
        )
        checkpoint.write(self.folder, state)
        written = (self.folder / "round-000001.json").read_bytes()
        arrays = (self.folder / "round-000001.safetensors").read_bytes()
        return [_pair(written, arrays)]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        written, arrays = _parts(data)
        match draw.randrange(4):
            case 0:
                return _pair(json_of(draw, written), arrays)
            case 1:
                return _pair(written, bytes_of(draw, arrays))
            case _:
                document, arrays = (
                    json.loads(written),
                    draw.choice((arrays, bytes_of(draw, arrays))),
                )
                body = tree_of(draw, document["state"])
                if isinstance(body, dict):
                    body["arrays_sha256"] = sha256(arrays)
                document |= {"checksum": _checksum(body), "state": body}
                return _pair(json.dumps(document).encode(), arrays)

    def take(self, data: bytes) -> str:
        written, arrays = _parts(data)
        path = self.folder / "round-000001.json"
        path.write_bytes(written)
        path.with_suffix(".safetensors").write_bytes(arrays)
        assert checkpoint.newest(self.folder) is not None
        return "read"


def _checksum(body: Any) -> str:  # noqa: ANN401 - what JSON can hold
    try:
        return sha256(canonical_json(body))
    except ValueError:
        return "0" * 64


def _pair(*parts: bytes) -> bytes:
    return b"\n".join(map(base64.b64encode, parts))


def _parts(data: bytes) -> list[bytes]:
    return [base64.b64decode(each) for each in data.split(b"\n")]


class RunFolders(Target):
    """What a coordinator's study keeps besides: plans, amendments, a roster."""

    errors = (CheckpointError, SiteError)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.study = small_study()

    def samples(self) -> Sequence[bytes]:
        plan = write_plan(self.study, OFFER, weights_count(self.study))
        round_zero.store(self.folder, self.study, 1, {"north": plan}, {"south": "offline"})
        change = Amendment(plan=plan.hash, number=1, before=plan.hash, after=1, numerics=NUMERICS)
        entry = {"site": "north", "amendment": change.model_dump(mode="json"), "agreed": True}
        roster = {"north": {"key": SigningKey(bytes(32)).public, "patients": {"chest-xray": 20}}}
        return [
            (self.folder / round_zero.FILE).read_bytes(),
            canonical_json({"format": 1, "amendments": [entry]}),
            canonical_json(roster),
            canonical_json(["north"]),
        ]

    def spoil(self, draw: Draw, data: bytes) -> bytes:
        return json_of(draw, data)

    def take(self, data: bytes) -> str:
        said = []
        for name, reader in (
            (round_zero.FILE, lambda: round_zero.stored(self.folder, self.study, 1)),
            (amending.FILE, lambda: amending.stored(self.folder)),
            ("roster.json", lambda: read_roster(self.folder / "roster.json")),
        ):
            (self.folder / name).write_bytes(data)
            try:
                reader()
                said.append(name)
            except self.errors as error:
                require_help(error)
        return " ".join(said) or "nothing"
