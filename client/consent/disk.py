"""Disk space of decoded images: capped, and freed with the last study that uses them.

The coordinator decides how large a study's images are, and each size is decoded once more. So
nothing is decoded before a plan is approved, the person who approves is told what it would take,
and all together stay within ``[site] cache_gib``. Images of a running study are never deleted, and
its rounds never fail for the cap: the patients that they read were counted at its approval.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
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

    So many that there is room for their features too, where the study trains on these.

    Raises:
        Refusal: ``data-unavailable``.
        ModelError: the study's model cannot be built.
    """
    own = _home(site, study)
    others = _homes(site) - {own, *_features_of(site, study)}
    # First, so that the images of ended studies take none of the room.
    cache.delete_others(site.state / "cache", _homes(site) | {own})
    free = site.file.site.cache_bytes - sum(map(cache.size_of, others)) - _foreseen(site, study)
    image = image_shape(study, site.file.targets(study, site.folder)).bytes
    return free * image // (image + _beside(study))


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
    site.frozen.tidy(each.plan for each in site.approvals.running())
    site.cohorts.let_go()


def look(site: Site, study: Study) -> Survey:
    """Who would be in a study, and what its images would take, from headers and labels alone.

    Raises:
        ConsiliumError: as :meth:`client.cohorts.Cohorts.read`.
    """
    persons = site.cohorts.persons.read().persons
    join(site.store, persons)
    data, targets = site.file.dataset(study), site.file.targets(study, site.folder)
    shape = image_shape(study, targets)
    found = survey(
        site.folder / data.images,
        targets,
        pseudonyms=site.pseudonyms,
        classes=study.task.classes,
        rules=Rules(study.data.modalities, data.derived),
        shape=shape,
        split=data.parts,
        workers=site.cohorts.workers,
        without=site.cohorts.absent(),
        persons=persons,
    )
    join_spellings(site.store, found.foldings, site.cohorts.ignored, remember=False)
    features = found.bytes // shape.bytes * _beside(study)
    return replace(found, bytes=found.bytes + features)


def _beside(study: Study) -> int:
    """Bytes of one image's features, where the study trains on these."""
    if not study.model.trainable:
        return 0  # most studies are shown without torch
    from client.training.features import bytes_beside

    return bytes_beside(study)


def _features_of(site: Site, study: Study) -> set[Path]:
    """Where the features of a study's running plans are kept."""
    plans = (each.plan for each in site.approvals.running())
    return {site.features.home(plan) for plan in plans if plan.study == study}


def _foreseen(site: Site, study: Study) -> int:
    """Bytes that the features of the other running plans will take, and do not take yet."""
    missing = 0
    for approval in site.approvals.running():
        other = approval.plan.study
        if other == study or not (beside := _beside(other)):
            continue
        with suppress(Refusal):  # a data set that the site file does not name any more
            image = image_shape(other, site.file.targets(other, site.folder)).bytes
            whole = cache.size_of(_home(site, other, approval.decoders)) // image * beside
            missing += max(0, whole - cache.size_of(site.features.home(approval.plan)))
    return missing


def _homes(site: Site) -> set[Path]:
    """Where the images of the studies that run are kept.

    While the site file does not name a study's data set, which ones are its images cannot be
    told: it may be named again, so all that there are count.
    """
    found: set[Path] = set()
    for approval in site.approvals.running():
        found.add(site.features.home(approval.plan))
        try:
            found.add(_home(site, approval.plan.study, approval.decoders))
        except Refusal:
            found.update(cache.others(site.state / "cache", ()))
    return found


def _home(site: Site, study: Study, decoders: str = "") -> Path:
    shape = image_shape(study, site.file.targets(study, site.folder), decoders)
    images = site.folder / site.file.dataset(study).images
    return cache.home_of(site.state / "cache", images, shape, site.pseudonyms)
