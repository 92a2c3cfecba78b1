"""Synthetic hospitals whose MR slices come with masks of the liver and of lesions in it.

The four store and name their files as those of the radiographs do. Each keeps its masks in another
way, and two call the classes otherwise than a study does: their site files say what is meant. What
is drawn for an archive follows from the seed and the archive's name alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from common.process.progress import Progress, silent
from simulations.archives.manifest import MASKS, TEST
from simulations.hospitals.dicom_writer import grey_dataset, to_bytes, uid
from simulations.hospitals.layout import (
    File,
)
from simulations.hospitals.masks import ENDINGS, MaskKind, dicom_seg, nifti, png
from simulations.hospitals.phantom import Image
from simulations.hospitals.scanners import EAST, NORTH, SOUTH, WEST, SyntheticHospital, site_names
from simulations.hospitals.slices import (
    CLASSES,
    MOST_SLICES,
    Mask,
    SliceLook,
    draw_body,
    render_slices,
)
from simulations.hospitals.synth import (
    TEST_PATHS,
    Drawn,
    Size,
    describe,
    generator,
    mixed,
    shape_of,
    write_drawn,
)
from simulations.hospitals.unusable import KINDS, unusable_files
from simulations.hospitals.visit import Slice

DATASET: Final = "liver-mr"

_SLICES: Final = (1 / MOST_SLICES,) * MOST_SLICES
"""Share of patients with one, two, … slices."""
_UNMASKED: Final = ("text", "unlabelled")


@dataclass(frozen=True)
class LesionHospital:
    """What is special about one hospital.

    Attributes:
        archive: how it stores and names its files; its look is of radiographs, and not used.
        look: what its scanner makes of a slice.
        masks: how it keeps them.
        words: what its masks say for each of :data:`CLASSES`: a segment's label, or a value.
    """

    archive: SyntheticHospital
    look: SliceLook
    masks: MaskKind
    words: tuple[str, str]


def _mr(hospital: SyntheticHospital, model: str, prevalence: float) -> SyntheticHospital:
    equipment = replace(hospital.equipment, model=model, modality="MR", body_part="LIVER")
    paths = hospital.paths.replace("cxr", "mr")
    return replace(hospital, equipment=equipment, prevalence=prevalence, paths=paths)


FOUR: Final = (
    LesionHospital(
        _mr(NORTH, "Aurora 1.5T", 0.70),
        SliceLook(
            contrast=0.30,
            liver=0.42,
            fat=0.85,
            lesion_size=0.15,
            lesions=(1, 3),
            coil=0.3,
            noise=0.05,
            blur=0.006,
        ),
        masks="seg",
        words=CLASSES,
    ),
    LesionHospital(
        _mr(EAST, "Meridian 0.5T", 0.60),
        SliceLook(
            contrast=0.26,
            liver=0.34,
            fat=0.30,
            lesion_size=0.18,
            lesions=(1, 2),
            coil=0.7,
            noise=0.04,
            blur=0.016,
            gamma=0.8,
            black=0.05,
            white=0.9,
        ),
        masks="nifti",
        words=("1", "2"),
    ),
    LesionHospital(
        _mr(SOUTH, "Sol 3T", 0.80),
        SliceLook(
            contrast=0.34,
            liver=0.50,
            fat=0.55,
            lesion_size=0.12,
            lesions=(1, 5),
            coil=0.2,
            noise=0.035,
            blur=0.004,
            gamma=1.3,
        ),
        masks="png",
        # Greys that can be told apart by eye.
        words=("127", "255"),
    ),
    LesionHospital(
        _mr(WEST, "Vesper 1.0T", 0.70),
        SliceLook(
            contrast=0.28,
            liver=0.45,
            fat=0.95,
            lesion_size=0.15,
            lesions=(1, 4),
            coil=0.5,
            noise=0.065,
            blur=0.01,
            black=0.1,
            white=0.75,
        ),
        masks="seg-fractional",
        words=("Hepar", "Metastasis"),
    ),
)
_AT_TEST: Final = ("png", ("1", "2"))


@dataclass(frozen=True)
class _Stack:
    """A patient to be drawn: at whose scanner, with lesions or without, how many slices."""

    hospital: LesionHospital
    affected: bool
    slices: int


def lesion_hospitals(count: int) -> Iterator[tuple[str, LesionHospital]]:
    """``count`` sites and what is special about each: the four in turn."""
    return zip(site_names(count), islice(cycle(FOUR), count), strict=True)


def write_lesions(
    out: Path, size: Size, *, seed: int, progress: Progress = silent
) -> dict[str, Any]:
    """Draw hospitals with masks and a pooled test set.

    Args:
        out: new or empty, or hospitals made before, which are replaced.
        size: how much.
        seed: everything follows from it; the same seed gives the same bytes.
        progress: told of every file.

    Returns:
        The manifest.

    Raises:
        DataError: ``out`` cannot be used.
    """
    sites = dict(lesion_hospitals(size.sites))
    plans = {name: _plan(name, seed, [each], size.patients) for name, each in sites.items()}
    test = _plan(TEST, seed, list(dict.fromkeys(sites.values())), size.test_patients)
    total = sum(2 * each.slices for plan in (*plans.values(), test) for each in plan)
    pixels = size.pixels
    drawn = {
        name: Drawn(_site_files(name, each, plans[name], seed, pixels), None, _meanings(each))
        for name, each in sites.items()
    }
    apart = Drawn(_files(TEST, test, seed, pixels), None)
    about = describe(size, seed, DATASET, CLASSES, by=__name__)
    return write_drawn(out, drawn, apart, about, total=total, progress=progress)


def _meanings(hospital: LesionHospital) -> dict[str, str]:
    """What a site file has to say of its masks: nothing, where they say what a study does."""
    plain = (CLASSES, _AT_TEST[1])
    return {} if hospital.words in plain else dict(zip(hospital.words, CLASSES, strict=True))


def _plan(name: str, seed: int, sources: Sequence[LesionHospital], patients: int) -> list[_Stack]:
    prevalences = [each.archive.prevalence for each in sources]
    drawn = mixed(generator(name, seed, 3), prevalences, patients, _SLICES)
    return [_Stack(sources[source], bool(label), slices) for source, label, slices in drawn]


def _site_files(
    name: str, hospital: LesionHospital, plan: Sequence[_Stack], seed: int, pixels: int
) -> Iterator[File]:
    yield from _files(name, plan, seed, pixels)
    shape, rng = shape_of(hospital.archive, pixels), generator(name, seed, 5)

    def draw() -> Image:
        body = draw_body(rng, hospital.look, 1, affected=False)
        return render_slices(body, hospital.look, shape, rng)[0][0]

    first = Slice(name, seed, len(plan) + 1, shape=shape)
    # With a mask for each, so that what is wrong with a file is what its kind says.
    liver = np.ones(shape, np.uint8)
    for place, file in enumerate(unusable_files(hospital.archive, first, None, draw)):
        yield file
        if KINDS[place] not in _UNMASKED:
            visit = replace(first, serial=first.serial + place)
            dataset = _dataset(hospital, visit, liver.astype(float))
            yield from _mask_files(hospital, [visit], [dataset], [liver])


def _files(name: str, plan: Sequence[_Stack], seed: int, pixels: int) -> Iterator[File]:
    """The usable files of an archive, patient by patient: slices, then masks."""
    rng = generator(name, seed, 4)
    for serial, stack in enumerate(plan, start=1):
        hospital = stack.hospital
        shape = shape_of(hospital.archive, pixels)
        body = draw_body(rng, hospital.look, stack.slices, affected=stack.affected)
        pictures, masks = zip(*render_slices(body, hospital.look, shape, rng), strict=True)
        visits = [
            Slice(name, seed, serial, number, shape=shape) for number in range(1, stack.slices + 1)
        ]
        if name == TEST:
            hospital = replace(
                hospital,
                archive=replace(hospital.archive, paths=TEST_PATHS),
                masks=_AT_TEST[0],
                words=_AT_TEST[1],
            )
        datasets = [
            _dataset(hospital, visit, picture)
            for visit, picture in zip(visits, pictures, strict=True)
        ]
        for visit, dataset, mask in zip(visits, datasets, masks, strict=True):
            shows = tuple(CLASSES[value - 1] for value in np.unique(mask) if value)
            path = visit.path(hospital.archive.paths)
            yield File(path, to_bytes(dataset), None, visit.patient, shows=shows)
        yield from _mask_files(hospital, visits, datasets, masks)


def _dataset(hospital: LesionHospital, visit: Slice, picture: Image) -> Dataset:
    archive = hospital.archive
    storage = archive.storages[visit.serial % len(archive.storages)]
    return grey_dataset(visit.describe(archive.name), archive.equipment, storage, picture)


def _mask_files(
    hospital: LesionHospital,
    visits: Sequence[Slice],
    datasets: Sequence[Dataset],
    masks: Sequence[Mask],
) -> Iterator[File]:
    """The masks of one patient, as the hospital keeps them."""
    if hospital.masks in ("seg", "seg-fractional"):
        yield _segmentation(hospital, visits[0], datasets, masks)
        return
    for visit, mask in zip(visits, masks, strict=True):
        image = PurePath(visit.path(hospital.archive.paths))
        # A UID has points of its own, and a name without an ending may look as if it had one.
        stem = image.name.removesuffix(".dcm").removesuffix(".ima")
        data = (
            nifti(mask, visit.plane)
            if hospital.masks == "nifti"
            else png(mask, dict(enumerate(map(int, hospital.words), start=1)))
        )
        path = image.with_name(stem + ENDINGS[hospital.masks])
        yield File(str(path), data, None, None, folder=MASKS)


def _segmentation(
    hospital: LesionHospital,
    visit: Slice,
    datasets: Sequence[Dataset],
    masks: Sequence[Mask],
) -> File:
    series, instance, dimensions = (
        uid(visit.seed, visit.archive, visit.serial, "mask", part) for part in range(3)
    )
    data = dicom_seg(
        datasets,
        masks,
        dict(enumerate(hospital.words, start=1)),
        (series, instance, dimensions),
        hospital.archive.equipment,
        fractional=hospital.masks == "seg-fractional",
    )
    return File(f"{visit.patient}{ENDINGS[hospital.masks]}", data, None, None, folder=MASKS)
