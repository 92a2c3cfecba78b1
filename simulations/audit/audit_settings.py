"""What a researcher asks of an audit, and the whole of it from beginning to end."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from common.checkpoint import study_hash
from common.errors import CheckpointError, StudyError
from common.privacy.randomness import known_secret
from common.study.study_file import NoPrivacy, Study, load_study
from simulations.audit.choices import CanaryKind, Which
from simulations.audit.findings import (
    Check,
    Findings,
    MechanismFinding,
    OneRunFinding,
    write_findings,
)
from simulations.audit.mechanism import REPETITIONS, audit_mechanism
from simulations.audit.one_run import CANARIES, Game, audit_one_run, plans
from simulations.audit.page import write_page
from simulations.audit.premises import check_all
from simulations.hospitals.archives import Hospitals, read_hospitals
from simulations.runs.preflight import check_study
from simulations.runs.run_settings import PROCESSES, Clock, Watcher
from simulations.runs.summary import DISTRIBUTIONS

CONFIDENCE: Final = 0.95
RUNS: Final = "runs"
KNOWN_KEY: Final = "NOT PRIVATE: KNOWN KEY (an audit is a simulation)"


@dataclass(frozen=True)
class AuditOrder:
    """What a researcher asks for.

    Attributes:
        study: the study file.
        hospitals: folder of the hospitals.
        out: new or empty folder that everything is written to.
        only: one of the two audits, or None for both.
        seed: what all follows from.
        canaries: of the one-run audit, for each hospital.
        kind: of those canaries.
        runs: of the one-run audit.
        repetitions: of the mechanism audit, at each hospital.
        confidence: with which all bounds hold at once.
        threads: torch threads of every site, instead of those in the site files.
        processes: for decoding.
        command: as typed, for the report.
    """

    study: Path
    hospitals: Path
    out: Path
    only: Which | None = None
    seed: int = 0
    canaries: int = CANARIES
    kind: CanaryKind = CanaryKind.PATTERN
    runs: int = 1
    repetitions: int = REPETITIONS
    confidence: float = CONFIDENCE
    threads: int | None = None
    processes: int = PROCESSES
    command: str = ""


@dataclass
class _Audit:
    """An audit as it goes on."""

    order: AuditOrder
    study: Study
    hospitals: Hospitals
    watcher: Watcher
    clock: Clock = field(default_factory=Clock)

    @property
    def failure(self) -> float:
        """Probability with which the bounds of one of the audits may be wrong."""
        both = self.order.only is None
        return (1.0 - self.order.confidence) / (2 if both else 1)


def audit(order: AuditOrder, watcher: Watcher | None = None) -> Findings:
    """Try to break a study's claim; write ``audit.json``, ``audit.html`` and the pictures.

    Args:
        order: what is asked for.
        watcher: told how far it is.

    Raises:
        ConsiliumError: something a person can mend.
    """
    study, hospitals = load_study(order.study), read_hospitals(order.hospitals)
    _require_claim(order, study)
    check_study(study, hospitals)
    _require_room(order.out)
    work = _Audit(order, study, hospitals, watcher or Watcher())
    pieces = order.only is not Which.ONE_RUN
    checks, mechanism = _pieces(work) if pieces else ((), ())
    one_run = _whole(work) if order.only is not Which.MECHANISM else None
    findings = Findings(
        study=study.study.name,
        title=study.study.title,
        study_sha256=study_hash(study),
        warnings=(KNOWN_KEY, *hospitals.facts),
        confidence=order.confidence,
        one_run=one_run,
        mechanism=mechanism,
        checks=checks,
        seed=order.seed,
        seconds=dict(work.clock.seconds),
        versions={name: version(name) for name in DISTRIBUTIONS},
        command=order.command,
    )
    write_findings(order.out, findings)
    write_page(order.out, findings)
    return findings


def _require_claim(order: AuditOrder, study: Study) -> None:
    if isinstance(study.privacy, NoPrivacy):
        raise StudyError(
            "the study claims no privacy, so there is nothing to audit",
            where=f"{order.study}: [privacy] mode",
            found="none",
            wanted="patient",
        )


def _require_room(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(
            "the audit's folder is not empty",
            where=out,
            wanted="an empty folder, or none",
            remedy="take another --out: an audit is not gone on with",
        )
    out.mkdir(parents=True, exist_ok=True)


def _pieces(work: _Audit) -> tuple[tuple[Check, ...], tuple[MechanismFinding, ...]]:
    """Checks and mechanism audit of every hospital."""
    order, planned = work.order, plans(work.study, work.hospitals)
    keys = {site: known_secret(order.seed, site, "audit") for site in planned}
    with (
        work.clock.time("checks"),
        work.watcher.progress(
            "checking sampling, clipping and noise", len(planned), unit="hospitals"
        ) as job,
    ):
        checks: list[Check] = []
        for site, mechanism in planned.items():
            checks += check_all(work.study, mechanism, site=site, key=keys[site])
            job.advance()
    total = order.repetitions * len(planned)
    with (
        work.clock.time("mechanism"),
        work.watcher.progress("auditing the mechanism", total, unit="tiny studies") as job,
    ):
        found = tuple(
            audit_mechanism(
                work.study,
                mechanism,
                site=site,
                key=keys[site],
                failure=work.failure / len(planned),
                job=job,
                repetitions=order.repetitions,
            )
            for site, mechanism in planned.items()
        )
    return tuple(checks), found


def _whole(work: _Audit) -> OneRunFinding:
    order = work.order
    game = Game(
        study=order.study,
        hospitals=order.hospitals,
        out=order.out / RUNS,
        seed=order.seed,
        canaries=order.canaries,
        kind=order.kind,
        runs=order.runs,
        failure=work.failure,
        threads=order.threads,
        processes=order.processes,
    )
    with work.clock.time("one run"):
        return audit_one_run(game, work.study, work.watcher)
