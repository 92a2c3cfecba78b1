"""An audit from beginning to end: premises, mechanism, one run, and what all of it found."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from common.checkpoint import study_hash
from common.errors import CheckpointError, StudyError
from common.privacy.mechanisms import PatientMechanism
from common.privacy.randomness import known_secret
from common.study.study_file import NoPrivacy, Study, load_study
from simulations.archives.manifest import read_hospitals
from simulations.audit.audit_settings import AuditSettings, Which
from simulations.audit.findings import Check, Findings, MechanismFinding, write_findings
from simulations.audit.mechanism import audit_mechanism
from simulations.audit.one_run import audit_one_run, plans
from simulations.audit.page import write_page
from simulations.audit.premises import check_all
from simulations.runs.preflight import check_study
from simulations.runs.run_settings import Clock, Watcher
from simulations.runs.summary import DISTRIBUTIONS

KNOWN_KEY: Final = "NOT PRIVATE: KNOWN KEY (an audit is a simulation)"


def audit(settings: AuditSettings, watcher: Watcher | None = None) -> Findings:
    """Try to break a study's claim; write ``audit.json``, ``audit.html`` and the pictures.

    Args:
        settings: what is asked for.
        watcher: told the progress.

    Raises:
        ConsiliumError: something that the researcher can fix.
    """
    watcher, clock = watcher or Watcher(), Clock()
    study, hospitals = load_study(settings.study), read_hospitals(settings.hospitals)
    _require_claim(settings, study)
    check_study(study, hospitals)
    _require_empty(settings.out)
    # The two audits share the allowed failure, so that all bounds hold at once (union bound).
    failure = (1.0 - settings.confidence) / (2 if settings.only is None else 1)
    checks: tuple[Check, ...] = ()
    mechanism: tuple[MechanismFinding, ...] = ()
    one_run = None
    if settings.only is not Which.ONE_RUN:
        planned = plans(study, hospitals)
        with clock.time("checks"):
            checks = _check_premises(settings, study, planned, watcher)
        with clock.time("mechanism"):
            mechanism = _audit_mechanisms(settings, study, planned, failure, watcher)
    if settings.only is not Which.MECHANISM:
        with clock.time("one run"):
            one_run = audit_one_run(settings, study, failure, watcher)
    findings = Findings(
        study=study.study.name,
        title=study.study.title,
        study_sha256=study_hash(study),
        warnings=(KNOWN_KEY, *hospitals.facts),
        confidence=settings.confidence,
        one_run=one_run,
        mechanism=mechanism,
        checks=checks,
        seed=settings.seed,
        seconds=dict(clock.seconds),
        versions={name: version(name) for name in DISTRIBUTIONS},
        command=settings.command,
    )
    write_findings(settings.out, findings)
    write_page(settings.out, findings)
    return findings


def _require_claim(settings: AuditSettings, study: Study) -> None:
    if isinstance(study.privacy, NoPrivacy):
        raise StudyError(
            "the study claims no privacy, so there is nothing to audit",
            where=f"{settings.study}: [privacy] mode",
            found="none",
            wanted="patient",
        )


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(
            "the audit's folder is not empty",
            where=out,
            wanted="an empty folder, or none",
            remedy="choose another --out: an audit cannot be resumed",
        )
    out.mkdir(parents=True, exist_ok=True)


def _key(settings: AuditSettings, site: str) -> bytes:
    return known_secret(settings.seed, site, "audit")


def _check_premises(
    settings: AuditSettings, study: Study, planned: Mapping[str, PatientMechanism], watcher: Watcher
) -> tuple[Check, ...]:
    """Sampling, noise and one patient's part at every hospital."""
    checks: tuple[Check, ...] = ()
    words = "checking sampling, clipping and noise"
    with watcher.progress(words, len(planned), unit="hospitals") as job:
        for site, mechanism in planned.items():
            checks += check_all(study, mechanism, site=site, key=_key(settings, site))
            job.advance()
    return checks


def _audit_mechanisms(
    settings: AuditSettings,
    study: Study,
    planned: Mapping[str, PatientMechanism],
    failure: float,
    watcher: Watcher,
) -> tuple[MechanismFinding, ...]:
    """The mechanism audit of every hospital, each at its part of the allowed failure."""
    total = settings.repetitions * len(planned)
    with watcher.progress("auditing the mechanism", total, unit="tiny studies") as job:
        return tuple(
            audit_mechanism(
                study,
                mechanism,
                site=site,
                key=_key(settings, site),
                failure=failure / len(planned),
                job=job,
                repetitions=settings.repetitions,
            )
            for site, mechanism in planned.items()
        )
