"""Disk space of decoded images: capped, and freed with the last study that uses them.

The coordinator decides how large a study's images are, and each size is decoded once more. So
nothing is decoded before a plan is approved, the person who approves is told what it would take,
and all together stay within ``[site] cache_gib``. Images of a running study are never deleted, and
its rounds never fail for the cap: the patients that they read were counted at its approval.
"""

from __future__ import annotations

from pathlib import Path

from client.data import cache
from client.data.cohort import Survey, image_shape, survey
from client.data.dicom import Rules
from client.records.accounts import join, join_spellings
from client.site import Site
from common.errors import Refusal
from common.study.study_file import Study


def bytes_free_for(site: Site, study: Study) -> int:
    """Bytes that a study's decoded images may take beside those of the others that run.

    Raises:
        Refusal: ``data-unavailable``.
    """
    own = _home(site, study)
    others = _homes(site) - {own}
    # First, so that the images of ended studies take none of the room.
    cache.delete_others(site.state / "cache", others | {own})
    return site.file.site.cache_bytes - sum(map(cache.size_of, others))


def tidy(site: Site, *, tick: int = 0) -> None:
    """Delete the decoded images that no running study uses; it takes longer the more there are.

    Args:
        site: an open site.
        tick: milliseconds at which it is over where there are any; 0 for no waiting.
    """
    folder, homes = site.state / "cache", _homes(site)
    if tick and cache.others(folder, homes):  # how long it takes tells how many images there were
        site.pace.begin(tick)
    cache.delete_others(folder, homes)
    site.cohorts.let_go()


def look(site: Site, study: Study) -> Survey:
    """Who would be in a study, and what its images would take, from headers and labels alone.

    Raises:
        ConsiliumError: as :meth:`client.cohorts.Cohorts.read`.
    """
    persons = site.cohorts.persons.read().persons
    join(site.store, persons)
    data, targets = site.file.dataset(study), site.file.targets(study, site.folder)
    found = survey(
        site.folder / data.images,
        targets,
        pseudonyms=site.pseudonyms,
        classes=study.task.classes,
        rules=Rules(study.data.modalities, data.derived),
        shape=image_shape(study, targets),
        split=data.parts,
        workers=site.cohorts.workers,
        without=site.cohorts.absent(),
        persons=persons,
    )
    join_spellings(site.store, found.foldings, site.cohorts.ignored, remember=False)
    return found


def _homes(site: Site) -> set[Path]:
    """Where the images of the studies that run are kept.

    While the site file does not name a study's data set, which ones are its images cannot be
    told: it may be named again, so all that there are count.
    """
    found: set[Path] = set()
    for approval in site.approvals.running():
        try:
            found.add(_home(site, approval.plan.study, approval.decoders))
        except Refusal:
            found.update(cache.others(site.state / "cache", ()))
    return found


def _home(site: Site, study: Study, decoders: str = "") -> Path:
    shape = image_shape(study, site.file.targets(study, site.folder), decoders)
    images = site.folder / site.file.dataset(study).images
    return cache.home_of(site.state / "cache", images, shape, site.pseudonyms)
