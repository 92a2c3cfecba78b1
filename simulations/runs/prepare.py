"""What a run works with: every hospital opened, every image decoded, before the first round."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from client.data.archive import summary
from client.site import Site
from common.process.progress import Progress
from common.study.study_file import Study
from simulations.grids.grid import SimulationGrid, SiteDescription
from simulations.grids.grids import GRIDS
from simulations.hospitals.archives import Hospitals
from simulations.runs.reading import ReadingProgress
from simulations.runs.run_settings import RunSettings, Watcher, recorded_in
from simulations.runs.testset import TestSet, load_test_set

TEST: Final = "test"
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
    settings: RunSettings, study: Study, hospitals: Hospitals, stack: ExitStack, watcher: Watcher
) -> Prepared:
    """Open every site and decode every image, so that no bad file is found in a late round."""
    folders = {name: hospitals.folder / name for name in hospitals.sites}
    reading = ReadingProgress({**folders, TEST: hospitals.test_images.parent})
    recorded = {} if settings.like is None else recorded_in(settings.like, hospitals)
    grid = GRIDS["local"](
        [
            SiteDescription(
                name,
                hospitals.site_file(name),
                settings.run / "sites" / name,
                settings.seed,
                threads=settings.threads,
                workers=settings.processes,
                recorded=recorded.get(name),
            )
            for name in hospitals.sites
        ]
    )
    stack.enter_context(grid)
    notes: list[str | None] = []
    with watcher.progress("reading the hospitals", reading.total, unit="steps") as job:
        for name in hospitals.sites:
            with reading.of(name, job) as progress:
                notes.append(grid.at(name, partial(_read, study, progress)))
        with reading.of(TEST, job) as progress:
            test = load_test_set(
                study,
                hospitals,
                seed=settings.seed,
                cache=settings.run / TEST / "cache",
                workers=settings.processes,
                progress=progress,
            )
    return Prepared(settings, study, hospitals, grid, test, tuple(filter(None, notes)))


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
