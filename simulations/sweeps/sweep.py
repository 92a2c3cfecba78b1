"""Carrying a sweep out: in parallel, and as often as it is interrupted.

Each run has a folder of its own, named by all that its result follows from. A run that is there is
not run again; one that was interrupted goes on from its last round. So a sweep that was killed and
started again ends in the same table as one that was left alone.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.errors import CheckpointError, ConsiliumError, StudyError, of_system
from common.process.claim import locked
from common.process.logs import configure
from common.process.parent import die_with_parent
from simulations.archives.manifest import read_hospitals
from simulations.reports.result import FILE, Result, read_result
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from simulations.sweeps.cells import Cell, SweepCells
from simulations.sweeps.records import Record, Records
from simulations.sweeps.search import Search
from simulations.sweeps.sweep_file import Runs, SweepFile, load_sweep

LOCK: Final = "sweep.lock"


@dataclass(frozen=True)
class SweepSettings:
    """What a researcher asks for.

    Attributes:
        file: of the sweep; the study and the hospitals that it names are looked for beside it.
        study: path of the study.
        folder: that everything is written to.
        processes: runs at a time.
        keep: whether the folders of finished runs are kept; else only their results.
    """

    file: Path
    study: Path
    folder: Path
    processes: int
    keep: bool = False


@dataclass(frozen=True)
class Outcomes:
    """How a sweep ended.

    Attributes:
        records: of every finished run.
        failed: runs that could not be finished, and why.
    """

    records: tuple[Record, ...]
    failed: tuple[tuple[Cell, str], ...]

    def require_all(self) -> None:
        """Refuse a sweep of which a run failed.

        Raises:
            StudyError: says why the first did.
        """
        if self.failed:
            cell, why = self.failed[0]
            raise StudyError(
                f"{len(self.failed)} runs of the sweep failed",
                where=f"seed {cell.seed}, {dict(cell.settings)}",
                found=why,
                remedy="correct the settings and run the sweep again: finished runs are kept",
            )


def run_sweep(settings: SweepSettings, told: Told | None = None) -> Outcomes:
    """Run what is missing of a sweep.

    Args:
        settings: what is asked for.
        told: how it goes.

    Raises:
        ConsiliumError: the sweep, its study or its hospitals cannot be used.
    """
    with claimed_sweep(settings.folder):
        return _run_sweep(settings, told or Told())


@contextmanager
def claimed_sweep(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder: two that write the same runs would break both.

    Raises:
        StudyError: another process works on it.
        CheckpointError: it cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holder = stack.enter_context(locked(folder / LOCK))
        except OSError as error:
            raise of_system(
                error, CheckpointError, "the sweep cannot be kept", where=folder
            ) from error
        if holder is not None:
            raise StudyError(
                "another process works on this sweep",
                where=folder,
                found=f"process {holder}",
                remedy="wait for it, or stop it and give the same command again",
            )
        yield


def _run_sweep(settings: SweepSettings, told: Told) -> Outcomes:
    sweep = load_sweep(settings.file)
    folder = settings.file.parent / sweep.sweep.hospitals
    made = SweepCells.of(sweep, settings.study, read_hospitals(folder))
    records = Records(settings.folder)
    work = _Work(settings, folder, sweep, records, told)
    if sweep.sweep.method == "optuna":
        work.search(made)
    else:
        cells = {each.name: each for each in made.all()}
        told.begin(len(cells))
        work.do(cells)
    records.export()
    known = {each.name: each for each in records.all()}
    # In the order of the file: what comes first is what the others are held against.
    done = tuple(known[name] for name in work.cells if name in known)
    return Outcomes(done, tuple(work.failed))


class Told:
    """Is told how a sweep goes. This one ignores it."""

    def begin(self, runs: int) -> None:
        """So many runs there are in all."""

    def known(self, record: Record) -> None:
        """A run was done before."""

    def done(self, record: Record) -> None:
        """A run is done."""

    def failed(self, cell: Cell, why: str) -> None:
        """A run could not be finished."""


@dataclass
class _Work:
    """The runs of a sweep as they are done."""

    settings: SweepSettings
    hospitals: Path
    sweep: SweepFile
    records: Records
    told: Told
    cells: dict[str, Cell] = field(default_factory=dict)
    failed: list[tuple[Cell, str]] = field(default_factory=list)

    def do(self, cells: Mapping[str, Cell]) -> list[Record]:
        """Do those that were not done; gives the records of all that were finished."""
        self.cells.update(cells)
        known = {each.name: each for each in self.records.all() if each.name in cells}
        for each in known.values():
            self.told.known(each)
        runs = self.sweep.sweep
        jobs = [
            _Job(each, self.hospitals, self.settings.folder, runs.threads, keep=self.settings.keep)
            for each in cells.values()
            if each.name not in known
        ]
        for cell, found in _each(jobs, at_a_time(self.settings.processes, runs)):
            if isinstance(found, str):
                self.failed.append((cell, found))
                self.told.failed(cell, found)
            else:
                known[cell.name] = record = Record.of(cell, found)
                self.records.add(record)
                self.told.done(record)
        return list(known.values())

    def search(self, made: SweepCells) -> None:
        """Do what a search asks for, one setting after the other."""
        search, seeds = Search(self.sweep), len(self.sweep.sweep.seeds)
        self.told.begin(self.sweep.sweep.runs * seeds)
        for settings in search.each():
            try:
                cells = made.at(settings)
            except StudyError as error:
                self.told.failed(Cell("", settings, 0, {}), str(error))
                search.tell(None)
                continue
            found = self.do({each.name: each for each in cells})
            whole = len(found) == seeds
            search.tell(sum(each.reached for each in found) / seeds if whole else None)


def at_a_time(processes: int, runs: Runs) -> int:
    """How many runs are made at a time, within processors, memory and graphics cards."""
    most = processes
    if runs.memory_gib:
        most = min(most, int(_free_memory() / 2**30 / runs.memory_gib))
    if runs.gpus:
        import torch

        most = min(most, int(torch.cuda.device_count() / runs.gpus))
    return max(1, most)


def _free_memory() -> int:
    """Bytes that programs may still take."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


@dataclass(frozen=True)
class _Job:
    """A run, as another process is asked for it."""

    cell: Cell
    hospitals: Path
    folder: Path
    threads: int
    keep: bool

    def __call__(self) -> Result | str:
        """The result, or why there is none."""
        configure(level="error")
        kept = self.folder / "results" / self.cell.name
        if (kept / FILE).exists():
            return read_result(kept)
        run = self.folder / "runs" / self.cell.name
        try:
            settings = RunSettings(
                study=self.cell.write(self.folder),
                hospitals=self.hospitals,
                run=run,
                seed=self.cell.seed,
                resume=True,
                baselines=False,
                report=self.keep,  # of a run that is not kept, nobody would see it
                threads=self.threads,
                processes=1,
                participation=self.cell.participation,
                grid="process",
                command="consilium-sim sweep",
            )
            found = read_result(run) if (run / FILE).exists() else run_study(settings)
        except ConsiliumError as error:
            return str(error)
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / FILE, kept / "part")
        (kept / "part").replace(kept / FILE)
        if not self.keep:
            shutil.rmtree(run)
        return found


def _each(jobs: Sequence[_Job], processes: int) -> Iterator[tuple[Cell, Result | str]]:
    """What each job came to, as they end.

    Raises:
        StudyError: a process was killed, perhaps for its memory.
    """
    if not jobs:
        return
    spawn, here = multiprocessing.get_context("spawn"), os.getpid()
    with ProcessPoolExecutor(
        min(processes, len(jobs)), spawn, initializer=die_with_parent, initargs=(here,)
    ) as pool:
        asked: dict[Future[Result | str], Cell] = {pool.submit(job): job.cell for job in jobs}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        except BrokenProcessPool as error:
            raise StudyError(
                "a process of the sweep was killed",
                found="perhaps the machine has too little memory for so many runs at a time",
                wanted="fewer --processes",
                remedy="give the same command again: finished runs are kept, others go on",
            ) from error
        except KeyboardInterrupt:
            # A run that is killed goes on from its last round: nobody need wait for its end.
            for child in multiprocessing.active_children():
                child.kill()
            raise
        finally:
            for each in asked:
                each.cancel()
