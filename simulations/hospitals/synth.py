"""Synthetic hospitals: DICOM archives of drawn chest radiographs, and a pooled test set.

Every hospital has its own scanner, its own way to store and to name files, its own share of
ill patients, and a few unusable files. What is drawn for an archive follows from
the seed and the archive's name alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from client.data.labels import Key
from common.errors import DataError
from common.process.progress import Progress, silent
from simulations.archives.manifest import TEST
from simulations.hospitals.dicom_writer import grey_dataset, to_bytes
from simulations.hospitals.layout import (
    File,
    fresh,
    write_archive,
    write_manifest,
    write_site,
)
from simulations.hospitals.phantom import Image, draw_anatomy, render
from simulations.hospitals.scanners import SyntheticHospital, hospitals, site_names
from simulations.hospitals.unusable import KINDS, unusable_files
from simulations.hospitals.visit import Visit

CLASSES: Final = ("normal", "pneumonia")
DATASET: Final = "chest-xray"
SPLIT: Final = (0.8, 0.2, 0.0)
IMAGES: Final = (0.75, 0.18, 0.07)
"""Share of patients with one, two and three images."""
TEST_KEY: Final[Key] = "SOPInstanceUID"
TEST_PATHS: Final = "{instance}.dcm"


@dataclass(frozen=True)
class Size:
    """How much is drawn.

    Attributes:
        patients: at each site, training and validation together.
        test_patients: in the pooled test set, as many from each scanner.
        pixels: side of an image; some scanners have larger ones.
        sites: how many hospitals.

    Raises:
        DataError: a number is too small or too large.
    """

    patients: int = 300
    test_patients: int = 600
    pixels: int = 64
    sites: int = 4

    def __post_init__(self) -> None:
        _require("--sites", self.sites, 1, 1000)
        # 0.8 of 13 is the least that rounds down to ten declared patients.
        _require("--patients", self.patients, 13, 1_000_000)
        # So that each scanner has at least one patient of each class.
        _require("--test-patients", self.test_patients, 2 * len(_scanners(self.sites)), 1_000_000)
        _require("--size", self.pixels, 32, 4096)


def _require(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise DataError(
            f"a number is too {'small' if value < least else 'large'} to draw hospitals",
            where=option,
            found=value,
            wanted=f"at least {least}" if value < least else f"at most {most}",
        )


@dataclass(frozen=True)
class Planned:
    """A patient to be drawn: whose scanner, which class, how many images."""

    hospital: SyntheticHospital
    label: int
    images: int


def write_synthetic(
    out: Path, size: Size, *, seed: int, progress: Progress = silent
) -> dict[str, Any]:
    """Draw hospitals and a pooled test set.

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
    plans = {name: _plan(name, seed, [each], size.patients) for name, each in hospitals(size.sites)}
    test = _plan(TEST, seed, _scanners(size.sites), size.test_patients)
    total = sum(each.images for plan in (*plans.values(), test) for each in plan)
    total += len(KINDS) * size.sites
    pixels = size.pixels
    drawn = {
        name: Drawn(_site_files(name, each, plans[name], seed, pixels), each.key)
        for name, each in hospitals(size.sites)
    }
    apart = Drawn(_files(TEST, test, seed, pixels), TEST_KEY)
    about = describe(size, seed, DATASET, CLASSES, by=__name__)
    return write_drawn(out, drawn, apart, about, total=total, progress=progress)


class Drawn(NamedTuple):
    """What a hospital, or the test set, is made of.

    Attributes:
        files: in the order in which they are written.
        key: of its label file; None where it has masks instead.
        mask_classes: what its site file says of its masks.
    """

    files: Iterable[File]
    key: Key | None
    mask_classes: Mapping[str, str] = MappingProxyType({})


def write_drawn(
    out: Path,
    sites: Mapping[str, Drawn],
    test: Drawn,
    about: Mapping[str, Any],
    *,
    total: int,
    progress: Progress,
) -> dict[str, Any]:
    """Write hospitals and their test set.

    Args:
        out: new or empty, or hospitals made before, which are replaced.
        sites: by name.
        test: the test set.
        about: what the manifest begins with.
        total: files that are drawn.
        progress: told of every one.

    Returns:
        The manifest.

    Raises:
        DataError: ``out`` cannot be used.
    """
    dataset = str(about["dataset"])
    with fresh(out) as folder, progress("drawing hospitals", total, unit="files") as job:
        per_site = {}
        for name, each in sites.items():
            archive = write_archive(folder / name, each.key, each.files, job)
            per_site[name] = write_site(
                folder / name, name, archive, dataset, SPLIT, mask_classes=each.mask_classes
            )
        archive = write_archive(folder / TEST, test.key, test.files, job)
        manifest = {
            **about,
            "per_site": per_site,
            "test": {"folder": TEST, **archive.facts()},
        }
        write_manifest(folder, manifest)
    return manifest


def describe(
    size: Size, seed: int, dataset: str, classes: Sequence[str], *, by: str
) -> dict[str, Any]:
    """What the manifest of drawn hospitals begins with."""
    return {
        "kind": "synth",
        "seed": seed,
        "dataset": dataset,
        "classes": list(classes),
        "sites": list(site_names(size.sites)),
        "redraws": 0,
        "source": {"drawn_by": by, "size": size.pixels},
    }


def _scanners(sites: int) -> list[SyntheticHospital]:
    """The different hospitals among ``sites``."""
    return list(dict.fromkeys(hospital for _, hospital in hospitals(sites)))


def generator(name: str, seed: int, purpose: int) -> np.random.Generator:
    """A generator of one archive's own, whichever others there are."""
    # Purposes are 0: who is drawn, 1: their images, 2: unusable files, and 3 to 5 the same of
    # slices. More of one moves no other.
    return np.random.default_rng([seed, purpose, *name.encode()])


def mixed(
    rng: np.random.Generator,
    prevalences: Sequence[float],
    patients: int,
    shares: Sequence[float],
) -> list[tuple[int, int, int]]:
    """Who is drawn: as many from each source, each source's share of them ill, in any order.

    Args:
        rng: draws how many images each has, and the order.
        prevalences: share of the ill, by source.
        patients: in all.
        shares: of patients with one, two, … images.

    Returns:
        Source, class and number of images of each patient.
    """
    parts = np.array_split(np.arange(patients), len(prevalences))
    drawn = []
    for source, (prevalence, part) in enumerate(zip(prevalences, parts, strict=True)):
        ill = round(prevalence * len(part))
        images = 1 + rng.choice(len(shares), size=len(part), p=shares)
        drawn += [(source, int(at < ill), int(count)) for at, count in enumerate(images)]
    # Mixed: in this order a patient's number would tell the class.
    return [drawn[at] for at in rng.permutation(patients)]


def _plan(
    name: str, seed: int, sources: Sequence[SyntheticHospital], patients: int
) -> list[Planned]:
    prevalences = [each.prevalence for each in sources]
    drawn = mixed(generator(name, seed, 0), prevalences, patients, IMAGES)
    return [Planned(sources[source], label, images) for source, label, images in drawn]


def _site_files(
    name: str, hospital: SyntheticHospital, plan: Sequence[Planned], seed: int, pixels: int
) -> Iterator[File]:
    yield from _files(name, plan, seed, pixels)
    rng = generator(name, seed, 2)

    def draw() -> Image:
        anatomy = draw_anatomy(rng, hospital.look, affected=False)
        return render(anatomy, hospital.look, shape_of(hospital, pixels), rng)

    yield from unusable_files(hospital, Visit(name, seed, len(plan) + 1), CLASSES[0], draw)


def _files(name: str, plan: Sequence[Planned], seed: int, pixels: int) -> Iterator[File]:
    """The usable files of an archive, patient by patient."""
    rng = generator(name, seed, 1)
    for serial, planned in enumerate(plan, start=1):
        hospital = planned.hospital
        key, pattern = (TEST_KEY, TEST_PATHS) if name == TEST else (hospital.key, hospital.paths)
        storage = hospital.storages[serial % len(hospital.storages)]
        anatomy = draw_anatomy(rng, hospital.look, affected=bool(planned.label))
        for number in range(1, planned.images + 1):
            visit = Visit(name, seed, serial, number)
            picture = render(anatomy, hospital.look, shape_of(hospital, pixels), rng)
            dataset = grey_dataset(
                visit.describe(hospital.name), hospital.equipment, storage, picture
            )
            row = (visit.key(key, pattern), CLASSES[planned.label])
            yield File(visit.path(pattern), to_bytes(dataset), row, visit.patient, shows=row[1:])


def shape_of(hospital: SyntheticHospital, pixels: int) -> tuple[int, int]:
    """Rows and columns of a hospital's images."""
    return round(pixels * hospital.scale[0]), round(pixels * hospital.scale[1])
