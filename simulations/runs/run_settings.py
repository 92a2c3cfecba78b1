"""What a researcher asks of a run, who is told its progress, and what binds a folder to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

from common.checkpoint import study_hash
from common.documents import read_json
from common.errors import CheckpointError, ConsiliumError, StudyError
from common.files import canonical_json, sha256_file, write_atomic
from common.numerics import NumericsRecord
from common.process.progress import Progress, silent
from common.study.study_file import Study
from server.app import FOLDER
from simulations.archives.manifest import Hospitals
from simulations.grids.grids import GridName
from simulations.grids.participation import Participation
from simulations.reports.result import CurvePoint, Outcome, read_result

RECORD: Final = "run.json"
STUDY: Final = "study.toml"
HALF_WRITTEN: Final = ".*.tmp"
"""Name of a file that a killed process was still writing."""
FORMAT: Final = 1
# Not os.cpu_count(): a container may be allowed fewer processors.
PROCESSES: Final = len(os.sched_getaffinity(0))
MOST_SEED: Final = 2**63 - 1
"""A coordinator's database holds no larger number, and torch takes none."""
_ENDS: Final = {
    "seed": (0, MOST_SEED),
    "baseline_rate": (1e-6, 1e6),
    "threads": (1, 1024),
    "processes": (1, 10_000),
}


@dataclass(frozen=True)
class RunSettings:
    """What a researcher asks for.

    Attributes:
        study: the study file.
        hospitals: folder of the hospitals.
        run: folder that everything is written to.
        seed: what first weights and all keys follow from.
        resume: continue the run in the folder.
        site_order: names in the order in which sites are asked; no result depends on it.
        baselines: whether to train what the shared model is compared with.
        baseline_rate: factor on the baselines' learning rate.
        threads: torch threads of every site, instead of those in the site files.
        like: folder of a finished run whose sites' threads and kernels are taken instead.
        processes: for decoding and baselines.
        package: whether to write the model package too, which takes some seconds.
        report: whether to draw the report and its pictures.
        keep_records: whether each site's ledger and audit log are kept on disk, as a hospital's
            are; else they end with the process, and each round is faster.
        grid: where sites are computed; no bit of the result depends on it.
        ray_address: of a Ray cluster, where the grid is Ray's.
        gpus: of each of Ray's workers; less than 1 shares a card.
        participation: which sites take part in a round; None for all in each.
        strategy: a Python file with a strategy of the researcher's own.
        command: as typed, for the report.

    Raises:
        StudyError: a number is out of range.
    """

    study: Path
    hospitals: Path
    run: Path
    seed: int = 0
    resume: bool = False
    site_order: tuple[str, ...] | None = None
    baselines: bool = True
    baseline_rate: float = 1.0
    threads: int | None = None
    like: Path | None = None
    processes: int = PROCESSES
    package: bool = False
    report: bool = True
    keep_records: bool = False
    grid: GridName | Literal["auto"] = "auto"
    ray_address: str | None = None
    gpus: float = 0.0
    participation: Participation | None = None
    strategy: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        for name, (least, most) in _ENDS.items():
            found = getattr(self, name)
            # NaN is in no range; a command line's own check lets it pass.
            if found is not None and not least <= found <= most:
                raise StudyError(
                    "a number of the run is out of range",
                    where=f"--{name.replace('_', '-')}",
                    found=found,
                    wanted=f"{least:g} to {most}",
                    remedy="give a number in this range, or leave the option out",
                )


class Watcher:
    """Is told the progress of a run. This one ignores it."""

    progress: Progress = staticmethod(silent)

    def begin(self, figure: str) -> None:
        """The run begins; its models are measured by this figure, in words."""

    def resumed(self, number: int) -> None:
        """An earlier start has completed this many rounds."""

    def round_done(self, number: int, point: CurvePoint | None, spent: float | None) -> None:
        """A round was completed.

        Args:
            number: of the round.
            point: the test set after it, if it was measured.
            spent: if it was, the most that training has cost any patient.
        """

    def baseline_done(self, found: Outcome) -> None:
        """A baseline was trained and measured."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[None]:
        """A part of the run begins and, on leaving, ends."""
        yield


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Count what happens inside for a phase."""
        start = perf_counter()
        yield
        self.seconds[phase] = round(perf_counter() - start, 3)


def coordinator_folder(run: Path) -> Path:
    """Where the coordinator of a run keeps plans, checkpoints and what it published."""
    return run / FOLDER


def check_site_order(settings: RunSettings, hospitals: Hospitals) -> None:
    """Refuse a ``--site-order`` that does not fit these hospitals.

    Raises:
        StudyError: it does not name every hospital once.
    """
    names = settings.site_order
    if names is not None and sorted(names) != list(hospitals.sites):
        raise StudyError(
            "--site-order must name every hospital exactly once",
            found=", ".join(names),
            wanted=", ".join(hospitals.sites),
        )


def recorded_in(run: Path, hospitals: Hospitals) -> dict[str, NumericsRecord]:
    """What the arithmetic of each hospital depended on in a finished run.

    Raises:
        CheckpointError: there is no result, or it is of other hospitals.
    """
    found = read_result(run).numerics
    if sorted(found) != sorted(hospitals.sites):
        raise CheckpointError(
            "the run in --like used other hospitals",
            where=f"--like {run}",
            found=", ".join(sorted(found)),
            wanted=", ".join(hospitals.sites),
            remedy="give a run of these hospitals, or leave out --like",
        )
    return found


def _record(settings: RunSettings, study: Study, hospitals: Hospitals) -> dict[str, Any]:
    part = settings.participation
    return {
        "format": FORMAT,
        # Of the values, not of the file: its comments may change.
        "study": study_hash(study),
        "hospitals": hospitals.sha256,
        "seed": settings.seed,
        # Threads decide the last bits, so a resumed run must have as many.
        "threads": settings.threads,
        # Weights name the run: the same weights come from the same numerics record.
        # A run whose records are on disk has no others; one without them may not begin some.
        **({"keep_records": True} if settings.keep_records else {}),
        **({"strategy": sha256_file(settings.strategy)} if settings.strategy else {}),
        **({"participation": part.model_dump(mode="json")} if part else {}),
        "like": None if settings.like is None else read_result(settings.like).final_weights_sha256,
    }


def check_record(settings: RunSettings, study: Study, hospitals: Hospitals) -> None:
    """Refuse to resume the run of another study.

    Raises:
        CheckpointError: says what differs.
    """
    path = settings.run / RECORD
    if not contents(settings):
        return
    try:
        found = read_json(path.read_bytes())
    except (OSError, ValueError) as cause:
        raise CheckpointError(
            "this folder does not hold a run",
            where=path,
            found=type(cause).__name__,
            remedy="give the --out that the run was started with",
        ) from cause
    asked = _record(settings, study, hospitals)
    for name in {**asked, **found}:  # also what was asked for before and is not now
        if found.get(name) != asked.get(name):
            raise CheckpointError(
                "the checkpoints in this folder belong to another study",
                where=f"{path}, {name}",
                found=found.get(name),
                wanted=asked.get(name),
                remedy="resume with the same study, hospitals, seed, threads, strategy and "
                "participation as before, or choose another --out",
            )


def write_record(settings: RunSettings, study: Study, hospitals: Hospitals) -> None:
    """Bind the folder to the settings, before anything else is written there."""
    # Left by a process that was killed; the whole file has another name.
    for path in settings.run.glob(HALF_WRITTEN):
        path.unlink()
    if not (settings.run / RECORD).exists():
        write_atomic(settings.run / RECORD, canonical_json(_record(settings, study, hospitals)))
    if not (settings.run / STUDY).exists():
        if named := study.model.initial:  # first: a study file that is there has it beside it
            beside = settings.study.with_name(named.file)
            write_atomic(settings.run / named.file, beside.read_bytes())
        write_atomic(settings.run / STUDY, settings.study.read_bytes())


@contextmanager
def nothing_left_behind(settings: RunSettings) -> Iterator[None]:
    """Remove what a new run has written if it cannot even begin."""
    existed, new = settings.run.exists(), not contents(settings)
    try:
        yield
    except ConsiliumError:
        # Only after an error: what an interrupted run has decoded is kept for --resume.
        if new:
            clear(settings)
            if not existed and settings.run.exists():
                settings.run.rmdir()
        raise


def contents(settings: RunSettings) -> list[Path]:
    """What the run's folder holds besides the hospitals, which may lie in it; sorted."""
    if not settings.run.exists():
        return []
    hospitals = settings.hospitals.resolve()
    return sorted(
        path
        for path in settings.run.iterdir()
        # The demo keeps its hospitals in the folder of its run.
        if path.resolve() != hospitals and not path.match(HALF_WRITTEN)
    )


def clear(settings: RunSettings) -> None:
    """Remove the run, but not the hospitals."""
    for path in contents(settings):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_folder(settings: RunSettings) -> None:
    """Refuse to write a new run into a folder that holds something.

    Raises:
        CheckpointError: it is not empty and nothing is to be resumed.
    """
    if settings.run.exists() and not settings.run.is_dir():
        raise CheckpointError(
            "the run's folder is a file", where=settings.run, remedy="choose another --out"
        )
    found = contents(settings)
    if found and not settings.resume:
        raise CheckpointError(
            "the run's folder is not empty",
            where=settings.run,
            found=", ".join(path.name for path in found[:5]),
            wanted="an empty folder, or none",
            remedy="add --resume to continue the run that is there, or choose another --out",
        )
