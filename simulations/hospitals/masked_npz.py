"""A file with images, masks, patients and their institutions becomes the archives of hospitals.

One ``.npz`` with an entry for each image in four arrays (each may have another name):

========== ==================================================================================
images     uint8 ``(n, rows, columns)``
masks      uint8 ``(n, rows, columns)``: 0 is background, k the k-th class; or, for one class,
           its bits as ``numpy.packbits`` leaves them, ``(n, ceil(rows * columns / 8))``
patient    ``(n,)``, text or whole numbers: whose image it is
site       ``(n,)``: at which institution
========== ==================================================================================

An institution is a hospital. One with too few patients is joined to the smallest that has enough,
and the manifest says so. Which patients are held out as test set follows from a hash of each
patient's own id; a hospital divides the rest in training and validation by its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.files import sha256_file
from common.process.progress import Progress, silent
from simulations.archives.manifest import MASKS, TEST
from simulations.hospitals.dicom_writer import Equipment, byte_dataset, to_bytes
from simulations.hospitals.layout import (
    File,
    fresh,
    write_archive,
    write_manifest,
    write_site,
)
from simulations.hospitals.masks import png
from simulations.hospitals.npz import modality_of, read_arrays, slug
from simulations.hospitals.visit import Stacked

SPLIT: Final = (0.8, 0.2, 0.0)
"""Of a hospital's patients; the test set was taken before."""
LEAST: Final = 10
TEST_SHARE: Final = 0.2

_PATHS: Final = "{patient}/{number:04d}.dcm"
_MASK_PATHS: Final = "{patient}/{number:04d}.png"
_KIND: Final = "an .npz file with images, masks, patients and sites"


@dataclass(frozen=True)
class Arrays:
    """Names of the four arrays in a file."""

    images: str = "images"
    masks: str = "masks"
    patient: str = "patient"
    site: str = "site"


@dataclass(frozen=True, eq=False)
class MaskedSource:
    """A file that has been read.

    Attributes:
        path: of the file.
        dataset: name that studies use.
        modality: DICOM modality.
        classes: names of mask values 1, 2, …
        images: uint8 ``(n, rows, columns)``.
        masks: uint8 of the same shape.
        patients: rows of each patient, by the institution's name and the patient's id.
    """

    path: Path
    dataset: str
    modality: str
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    patients: Mapping[str, Mapping[str, NDArray[np.int64]]]


def read_masked(
    path: Path,
    *,
    classes: Sequence[str],
    arrays: Arrays = Arrays(),
    dataset: str | None = None,
    modality: str = "OT",
) -> MaskedSource:
    """Read a file and hold that hospitals can be made of it.

    Raises:
        DataError: missing, not such a file, with other arrays; a name cannot be used.
    """
    names = (arrays.images, arrays.masks, arrays.patient, arrays.site)
    remedy = "name the arrays of this file: --images, --masks, --patient, --site"
    found = read_arrays(path, names, _KIND, remedy=remedy)
    images = found[arrays.images]
    _require(
        images.dtype == np.uint8 and images.ndim == 3 and images.size > 0,
        f"{path}, {arrays.images}",
        images,
        "uint8 (images, rows, columns)",
    )
    masks = _masks(f"{path}, {arrays.masks}", found[arrays.masks], images.shape)
    for name in (arrays.patient, arrays.site):
        _require(
            found[name].shape == (len(images),) and found[name].dtype.kind in "Uiu",
            f"{path}, {name}",
            found[name],
            f"{len(images)} texts or whole numbers, one for each image",
        )
    return MaskedSource(
        path=path,
        dataset=slug("--dataset", dataset or re.sub(r"[^a-z0-9]+", "-", path.stem.lower())),
        modality=modality_of("--modality", modality),
        classes=_classes(classes, int(masks.max()), bits=masks.shape != found[arrays.masks].shape),
        images=images,
        masks=masks,
        patients=_patients(path, found[arrays.patient], found[arrays.site]),
    )


def write_masked(
    out: Path,
    source: MaskedSource,
    *,
    seed: int,
    least: int = LEAST,
    test_share: float = TEST_SHARE,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make hospitals of a file's institutions.

    Args:
        out: new or empty, or hospitals made before, which are replaced.
        source: the file.
        seed: everything follows from it; the same seed gives the same bytes.
        least: patients of a hospital; an institution with fewer is joined to another.
        test_share: of all patients, held out as test set.
        progress: told of every file.

    Returns:
        The manifest.

    Raises:
        DataError: ``out`` cannot be used, or a hospital or the test set has too few patients.
    """
    sites, joined = join_small(source.patients, least)
    held_out, rest = _held_out(sites, seed, test_share)
    _require_trainable(rest, held_out)
    with (
        fresh(out) as folder,
        progress("writing files", 2 * len(source.images), unit="files") as job,
    ):
        per_site = {}
        for name, patients in rest.items():
            files = _files(name, source, list(patients.values()), seed)
            archive = write_archive(folder / name, None, files, job)
            # Not rounded: of few patients that would leave none, and the file is public.
            declared = int(len(archive.patients) * SPLIT[0] + 1e-9)
            per_site[name] = write_site(
                folder / name, name, archive, source.dataset, SPLIT, declared=declared
            )
        archive = write_archive(folder / TEST, None, _files(TEST, source, held_out, seed), job)
        manifest = {
            "kind": "masked-npz",
            "seed": seed,
            "dataset": source.dataset,
            "classes": list(source.classes),
            "sites": list(rest),
            "redraws": 0,
            "joined": joined,
            "notes": [
                f"The institution {small} has too few patients ({len(source.patients[small])}) "
                f"and is part of the hospital {large}."
                for small, large in joined.items()
            ],
            "source": {"file": source.path.name, "sha256": sha256_file(source.path)},
            "per_site": per_site,
            "test": {"folder": TEST, **archive.facts()},
        }
        write_manifest(folder, manifest)
    return manifest


def join_small(
    patients: Mapping[str, Mapping[str, NDArray[np.int64]]], least: int
) -> tuple[dict[str, dict[str, NDArray[np.int64]]], dict[str, str]]:
    """Institutions with enough patients, each with those of the small ones that it takes in.

    Returns:
        Patients by hospital, and the hospital by small institution.
    """
    large = {name: dict(each) for name, each in patients.items() if len(each) >= least}
    if not large:
        raise DataError(
            "no institution of the file has enough patients for a hospital",
            where="--least-patients",
            found=least,
            wanted=f"at most {max(map(len, patients.values()))}",
        )
    joined = {}
    for name in sorted(patients.keys() - large.keys()):
        smallest = min(sorted(large), key=lambda each: len(large[each]))
        large[smallest] |= patients[name]
        joined[name] = smallest
    return large, joined


def _held_out(
    sites: Mapping[str, Mapping[str, NDArray[np.int64]]], seed: int, share: float
) -> tuple[list[NDArray[np.int64]], dict[str, dict[str, NDArray[np.int64]]]]:
    """The test set's patients, and what is left to each hospital."""
    held_out, rest = [], {}
    for name, patients in sites.items():
        kept = {each: rows for each, rows in patients.items() if _place(seed, each) >= share}
        held_out += [rows for each, rows in patients.items() if each not in kept]
        rest[name] = kept
    return held_out, rest


def _place(seed: int, patient: str) -> float:
    """A patient's own place in [0, 1), whichever others there are."""
    digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _require_trainable(
    rest: Mapping[str, Mapping[str, Any]], held_out: Sequence[NDArray[np.int64]]
) -> None:
    few = min(rest, key=lambda name: len(rest[name]))
    if not held_out or len(rest[few]) < 2:
        raise DataError(
            "the file has too few patients to hold out a test set",
            where="--test-share",
            found=f"{len(held_out)} patients in the test set, {len(rest[few])} left at {few}",
            wanted="at least 1 in the test set and 2 at each hospital",
            remedy="choose another share or another seed, or raise --least-patients",
        )


def _files(
    name: str, source: MaskedSource, patients: Sequence[NDArray[np.int64]], seed: int
) -> Iterator[File]:
    """The files of an archive, patient by patient, in the order of the file."""
    equipment = Equipment("Consilium simulation", "npz", "1", source.modality, "UNKNOWN")
    levels = {value: value for value in range(1, len(source.classes) + 1)}
    for serial, rows in enumerate(patients, start=1):
        for number, row in enumerate(rows, start=1):
            visit, mask = Stacked(name, seed, serial, number), source.masks[row]
            dataset = byte_dataset(visit.describe(name), equipment, "explicit", source.images[row])
            shows = tuple(source.classes[value - 1] for value in np.unique(mask) if value)
            yield File(visit.path(_PATHS), to_bytes(dataset), None, visit.patient, shows=shows)
            yield File(visit.path(_MASK_PATHS), png(mask, levels), None, None, folder=MASKS)


def _masks(where: str, masks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Masks of the images' shape, unpacked where they are bits."""
    images, rows, columns = shape
    packed = masks.shape == (images, -(-rows * columns // 8))
    _require(
        masks.dtype == np.uint8 and (packed or masks.shape == shape),
        where,
        masks,
        f"uint8 {shape}, or packed bits {(images, -(-rows * columns // 8))}",
    )
    if not packed:
        return masks
    return np.unpackbits(masks, axis=1, count=rows * columns).reshape(shape)


def _classes(names: Sequence[str], highest: int, *, bits: bool) -> tuple[str, ...]:
    distinct = len(set(names)) == len(names) and all(name.strip() == name != "" for name in names)
    # Bits tell one class from background, and no second one.
    if names and len(names) >= highest and distinct and (len(names) == 1 or not bits):
        return tuple(names)
    raise DataError(
        "the class names do not match the masks",
        where="--classes",
        found=", ".join(names),
        wanted="one name: masks of bits know one class"
        if bits
        else f"{max(highest, 1)} different names, for mask values 1 to {max(highest, 1)}",
    )


def _patients(
    path: Path, patient: NDArray[Any], site: NDArray[Any]
) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Rows of each patient by institution; a patient of two is an error."""
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for value in np.unique(site):
        name = re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-")
        if name in (*found, TEST):
            raise DataError(
                "the name of an institution cannot be used",
                where=path,
                found=str(value),
                wanted=f"names that differ in letters or digits, and none of them {TEST}",
            )
        here = np.flatnonzero(site == value)
        found[slug(f"{path}, site", name)] = {
            str(each): here[patient[here] == each] for each in np.unique(patient[here])
        }
    both = sum(map(len, found.values())) - len(np.unique(patient))
    if both:
        raise DataError(
            "patients of the file have images at more than one institution",
            where=path,
            found=f"{both} patients",
            wanted="one institution for each patient",
        )
    return found


def _require(good: bool, where: str, array: NDArray[Any], wanted: str) -> None:
    if not good:
        raise DataError(
            "this array cannot be used",
            where=where,
            found=f"{array.dtype} {array.shape}",
            wanted=wanted,
        )
