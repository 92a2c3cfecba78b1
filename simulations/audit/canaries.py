"""Canaries for a study as it really runs: made-up patients, put into copies of the hospitals.

Each canary is a patient with one image, in or out of its hospital's archive by a fair coin, and
always one who would train. Either kind (``CanaryKind``) is unlike real patients, so that its
gradients stay large.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from client.data.labels import Key, LabelFile
from client.data.pseudonyms import Pseudonyms
from client.sitefile import DataSet, load_site_file
from common.errors import DataError
from common.privacy.randomness import Stream, known_secret
from common.study.study_file import Study
from common.tasks.tasks import as_classification
from simulations.archives.manifest import Hospitals
from simulations.audit.audit_settings import CanaryKind
from simulations.hospitals.dicom_writer import (
    Equipment,
    Instance,
    Storage,
    byte_dataset,
    grey_dataset,
    to_bytes,
    uid,
)
from simulations.runs.testset import TestSet

FOLDER: Final = "canaries"
# 16 bits: the picture that trains is the one that the adversary knows.
_DEEP: Final = Storage("explicit", bits=16, low=0, high=65535, shown="window-exact")
_GRATINGS: Final = 3


@dataclass(frozen=True, eq=False)
class Canary:
    """One canary.

    Attributes:
        site: the hospital that it may be in.
        patient: its Patient ID.
        picture: float32 (channels, height, width) in [0, 1].
        label: index into the study's classes.
        inside: whether it is in.
    """

    site: str
    patient: str
    picture: npt.NDArray[np.float32] = field(repr=False)
    label: int
    inside: bool


def make(
    study: Study, hospitals: Hospitals, *, count: int, kind: CanaryKind, seed: int, test: TestSet
) -> dict[str, tuple[Canary, ...]]:
    """Canaries for every hospital.

    Args:
        study: image size, classes and data set.
        hospitals: who may have them.
        count: for each hospital.
        kind: of canary.
        seed: of the run that they will be in; everything follows from it.
        test: where mislabelled images are taken from.

    Raises:
        DataError: there are fewer test images than canaries that need one.
    """
    stream = Stream(known_secret(seed, "canaries", "audit"))
    total = count * len(hospitals.sites)
    pictures, labels = (
        _patterns(study, total, stream)
        if kind is CanaryKind.PATTERN
        else _mislabelled(study, total, stream, test)
    )
    # A fair coin for each canary, independent of all else: the theorems need it.
    inside = stream.uniform(total) < 0.5
    names = [
        name for site in hospitals.sites for name in _patients(study, hospitals, site, count, seed)
    ]
    made = [
        Canary(hospitals.sites[number // count], name, picture, label, bool(coin))
        for number, (name, picture, label, coin) in enumerate(
            zip(names, pictures, labels, inside, strict=True)
        )
    ]
    return {site: tuple(one for one in made if one.site == site) for site in hospitals.sites}


def insert(
    folder: Path, study: Study, hospitals: Hospitals, canaries: Mapping[str, Sequence[Canary]]
) -> None:
    """Copy the hospitals into a new folder, with the canaries that are in.

    What is copied shares its bytes on disk with the original where the file system can.
    """
    shutil.copytree(hospitals.folder, folder, copy_function=_link)
    for site, made in canaries.items():
        path = folder / site / hospitals.site_file(site).name
        file = load_site_file(path)
        data = file.data[study.data.dataset]
        labels = file.label_file(study.data.dataset, path.parent)
        _make_room(path, data, len(made))
        inside = [one for one in made if one.inside]
        rows = [_write(folder / site / data.images, study, labels.key, one) for one in inside]
        _append(labels, as_classification(study.task).classes, rows)


def _make_room(path: Path, data: DataSet, count: int) -> None:
    """Raise the most patients that a copy's site file allows by the number of canaries.

    Noise and sampling follow from what is declared, so the claim stays the hospital's.
    """
    line = f"most_patients = {data.most_patients}"
    before, found, after = path.read_text(encoding="utf-8").partition(line)
    if not found:
        raise DataError(
            "a hospital's site file does not set most_patients as expected",
            where=path,
            wanted=line,
            remedy="add that line below declared_patients, or make the hospitals again",
        )
    # The copy may be a hard link: writing into it would change the hospital itself.
    path.unlink()
    more = f"most_patients = {data.most_patients + count}"
    path.write_text(before + more + after, encoding="utf-8")


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _patients(study: Study, hospitals: Hospitals, site: str, count: int, seed: int) -> list[str]:
    """Patient IDs whose keyed place lies in the training part of the hospital."""
    file = load_site_file(hospitals.site_file(site))
    parts = file.data[study.data.dataset].parts
    # The key of the run: its site will put each of them into the same part.
    pseudonyms = Pseudonyms(known_secret(seed, file.site.name, "patients"))
    found: list[str] = []
    # A keyed hash of the ID decides the part, so IDs are tried until enough are in training.
    for number in range(1000 * count):
        name = f"CANARY-{site}-{number}"
        if parts.part_of(pseudonyms.of(name)) == "train":
            found.append(name)
        if len(found) == count:
            return found
    raise DataError(
        "a hospital has almost no training patients",
        where=f"{hospitals.site_file(site)}: split",
        found=parts.train,
        wanted="a larger first number",
    )


def _patterns(
    study: Study, count: int, stream: Stream
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Sums of a few gratings of random direction, width and phase, as black and white as can be."""
    data = study.data
    height, width = data.image_size
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    shape = (count, data.channels, _GRATINGS, 1, 1)
    angles, waves, phases = (stream.uniform(shape) for _ in range(3))
    along = rows * np.sin(2 * math.pi * angles) + columns * np.cos(2 * math.pi * angles)
    sums = np.sin(2 * math.pi * ((1 + 7 * waves) * along + phases)).sum(axis=2)
    labels = stream.uniform(count) * len(as_classification(study.task).classes)
    return (sums > 0).astype(np.float32), [int(label) for label in labels]


def _mislabelled(
    study: Study, count: int, stream: Stream, test: TestSet
) -> tuple[npt.NDArray[np.float32], list[int]]:
    if count > len(test.patients):
        raise DataError(
            "the test set has too few patients for this number of mislabelled canaries",
            where="--canaries",
            found=count,
            wanted=f"at most {len(test.patients)} over all hospitals",
            remedy="use fewer canaries, or --kind pattern",
        )
    chosen = [
        test.patients[place] for place in stream.uniform(len(test.patients)).argsort()[:count]
    ]
    images = test.images.open()[[patient.images[0] for patient in chosen]].astype(np.float32)
    # From 1 on: never back to the true class.
    shifts = 1 + (stream.uniform(count) * (len(as_classification(study.task).classes) - 1)).astype(
        int
    )
    classes = len(as_classification(study.task).classes)
    labels = [(one.label + int(by)) % classes for one, by in zip(chosen, shifts, strict=True)]
    return images, labels


def _write(images: Path, study: Study, kind: Key, canary: Canary) -> tuple[str, int]:
    """Write a canary's file; gives the key of its row in the label file, and its label."""
    path = Path(FOLDER) / f"{canary.patient}.dcm"
    instance = Instance(
        patient=canary.patient,
        study=uid("canary", canary.patient, "study"),
        series=uid("canary", canary.patient, "series"),
        instance=uid("canary", canary.patient, "instance"),
        date="20260101",
        number=1,
        site=canary.site,
    )
    equipment = Equipment("Consilium", "Canary", "1", study.data.modalities[0], "CHEST")
    if study.data.channels == 1:
        dataset = grey_dataset(instance, equipment, _DEEP, canary.picture[0].astype(np.float64))
    else:
        colours = np.rint(255 * canary.picture.transpose(1, 2, 0)).astype(np.uint8)
        dataset = byte_dataset(instance, equipment, "explicit", colours)
    (images / path).parent.mkdir(exist_ok=True)
    (images / path).write_bytes(to_bytes(dataset))
    key = {
        "SOPInstanceUID": instance.instance,
        "StudyInstanceUID": instance.study,
        "PatientID": instance.patient,
        "filename": path.as_posix(),
    }[kind]
    return key, canary.label


def _append(labels: LabelFile, classes: Sequence[str], rows: Sequence[tuple[str, int]]) -> None:
    """Add rows to a label file, which becomes a file of its own and is no longer shared."""
    path = labels.path
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns, known = list(reader.fieldnames or ()), list(reader)
    # Unlinked first: the file may be a hard link, too.
    path.unlink()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(known)
        writer.writerows(
            {labels.key_column: key, labels.label_column: classes[place]} for key, place in rows
        )
