"""What a run works with: every hospital opened, every image decoded, before the first round."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from client.data.archive import summary
from client.data.parallel import kept_processes
from client.site import Site
from common import checkpoint
from common.process.progress import Progress
from common.study.study_file import Study
from server.app import CHECKPOINTS
from server.study import round_zero
from simulations.archives.decoded import decoded_beside
from simulations.archives.manifest import TEST, Hospitals
from simulations.grids.grid import Earlier, GridSettings, SimulationGrid, SiteDescription
from simulations.grids.grids import chosen, grid_of
from simulations.runs.reading import ReadingProgress
from simulations.runs.run_settings import (
    RunSettings,
    Watcher,
    coordinator_folder,
    recorded_in,
)
from simulations.runs.testset import TestSet, array_test_set, load_test_set

SITES: Final = "sites"
_FEW: Final = 0.5
"""Of the patients that a hospital declares: fewer in training are an accident."""


@dataclass(frozen=True)
class Prepared:
    """What a run works with once everything was read and found right."""

    settings: RunSettings
    study: Study
    hospitals: Hospitals
    grid: SimulationGrid
    test: TestSet
    notes: tuple[str, ...] = ()
    """What a researcher should know of the hospitals before any figure."""


def prepare(
    settings: RunSettings,
    study: Study,
    hospitals: Hospitals,
    stack: ExitStack,
    watcher: Watcher,
    *,
    listens: bool = False,
) -> Prepared:
    """Open every site and decode every image, so that no bad file is found in a late round.

    Args:
        settings: of the run.
        study: what is run.
        hospitals: whom with.
        stack: closes what is opened here.
        watcher: told the progress.
        listens: whether something listens between coordinator and sites, which it can in this
            process alone.
    """
    workers = settings.processes
    sites = described(settings, study, hospitals)
    asked = settings.grid
    kind = asked if asked != "auto" else chosen(study, len(sites), workers)
    where = GridSettings(
        workers, settings.ray_address, settings.gpus, settings.participation, settings.seed
    )
    grid = stack.enter_context(grid_of("process" if listens else kind)(sites, where))
    if hospitals.are_arrays:  # nothing is to be decoded: a site is opened when it is asked
        test = array_test_set(study, hospitals, settings.seed)
        return Prepared(settings, study, hospitals, grid, test)
    folders = {name: hospitals.folder / name for name in hospitals.sites}
    reading = ReadingProgress({**folders, TEST: hospitals.test_images.parent})
    notes: list[str | None] = []
    decoded = decoded_beside(hospitals.folder, settings.run)
    with (
        kept_processes(),
        watcher.progress("reading the hospitals", reading.total, unit="steps") as job,
    ):
        for name in hospitals.sites:
            with reading.of(name, job) as progress:
                notes.append(grid.at(name, partial(_read, study, progress)))
        with reading.of(TEST, job) as progress:
            test = load_test_set(
                study,
                hospitals,
                seed=settings.seed,
                decoded=decoded,
                workers=settings.processes,
                progress=progress,
            )
    return Prepared(settings, study, hospitals, grid, test, tuple(filter(None, notes)))


def described(
    settings: RunSettings, study: Study, hospitals: Hospitals
) -> tuple[SiteDescription, ...]:
    """How each site of a run is opened; where the run goes on, as the checkpoint says.

    Raises:
        CheckpointError: the run in ``--like`` is of other hospitals, or what is on disk cannot be
            read.
    """
    recorded = {} if settings.like is None else recorded_in(settings.like, hospitals)
    decoded = decoded_beside(hospitals.folder, settings.run).absolute()
    earlier = {} if settings.keep_records else _earlier(settings, study)
    return tuple(
        SiteDescription(
            name,
            hospitals.site_file(name).absolute(),  # another machine may have another folder
            (settings.run / SITES / name).absolute(),
            settings.seed,
            threads=settings.threads,
            workers=settings.processes,
            recorded=recorded.get(name),
            rows=hospitals.part(name),
            decoded=None if settings.keep_records else decoded,
            keeps_records=settings.keep_records,
            earlier=earlier.get(name),
        )
        for name in hospitals.sites
    )


def _earlier(settings: RunSettings, study: Study) -> dict[str, Earlier]:
    """What the newest checkpoint of the run says of its sites; none of a new run."""
    folder = coordinator_folder(settings.run)
    state = checkpoint.newest(folder / CHECKPOINTS)
    if state is None:
        return {}
    plans = round_zero.stored(folder, study, settings.seed) or {}
    evaluated = max((int(each["round"]) for each in state.evaluations), default=-1)
    return {
        name: Earlier(plan, state.ledgers[name], state.round, evaluated)
        for name, plan in plans.items()
        if name in state.ledgers
    }


def _read(study: Study, progress: Progress, site: Site) -> str | None:
    """Decode a site's images; gives what a researcher should know of how few there are."""
    cohort = site.cohorts.read(study, progress)
    declared, found = site.file.dataset(study).declared_patients, len(cohort.part("train"))
    if found >= _FEW * declared:
        return None
    return (
        f"FEW PATIENTS AT {site.name}: {found} can be trained on, and it declares {declared}; not "
        f"used: {summary(cohort.rejected)}; consilium-site check says why"
    )
