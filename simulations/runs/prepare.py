"""What a run works with: every hospital opened, every image decoded, before the first round."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from client.site import Site, open_site
from common.study.study_file import Study
from simulations.hospitals.archives import Hospitals
from simulations.runs.reading import ReadingProgress
from simulations.runs.run_settings import RunSettings, Watcher, recorded_in
from simulations.runs.testset import TestSet, load_test_set

TEST: Final = "test"


@dataclass(frozen=True)
class Prepared:
    """What a run works with once everything was read and found right."""

    settings: RunSettings
    study: Study
    hospitals: Hospitals
    sites: Mapping[str, Site]
    test: TestSet


def prepare(
    settings: RunSettings, study: Study, hospitals: Hospitals, stack: ExitStack, watcher: Watcher
) -> Prepared:
    """Open every site and decode every image, so that no bad file is found in a late round."""
    folders = {name: hospitals.folder / name for name in hospitals.sites}
    reading = ReadingProgress({**folders, TEST: hospitals.test_images.parent})
    sites, recorded = {}, {} if settings.like is None else recorded_in(settings.like, hospitals)
    with watcher.progress("reading the hospitals", reading.total, unit="steps") as job:
        for name in hospitals.sites:
            state = settings.run / "sites" / name
            opened = open_site(
                hospitals.site_file(name),
                state,
                settings.seed,
                threads=settings.threads,
                workers=settings.processes,
                # With --like, the site offers this numerics record and measures none of its own.
                recorded=recorded.get(name),
            )
            site = stack.enter_context(opened)
            with reading.of(name, job) as progress:
                site.cohorts.read(study, progress)
            sites[name] = site
        with reading.of(TEST, job) as progress:
            test = load_test_set(
                study,
                hospitals,
                seed=settings.seed,
                cache=settings.run / TEST / "cache",
                workers=settings.processes,
                progress=progress,
            )
    return Prepared(settings, study, hospitals, sites, test)
