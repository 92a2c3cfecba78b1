"""Files that every archive holds and no study can use, one of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian

from simulations.hospitals.dicom_writer import Equipment, byte_dataset, grey_dataset, to_bytes
from simulations.hospitals.layout import File
from simulations.hospitals.phantom import Image
from simulations.hospitals.scanners import SyntheticHospital
from simulations.hospitals.visit import Visit

KINDS: Final = (
    "text",
    "no-pixels",
    "truncated",
    "other-modality",
    "localiser",
    "derived",
    "burned-in",
    "no-patient-id",
    "unlabelled",
)

_NOTE: Final = b"Exported from the archive of a made-up hospital. This file is not an image.\n"
_SCANNER_OF_PAPER: Final = Equipment("Specimen Systems", "Flatbed", "1.0", "OT", "CHEST")
_CHANGES: Final[dict[str, dict[str, object]]] = {
    "localiser": {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
    "derived": {"image_type": ("DERIVED", "SECONDARY")},
    "burned-in": {"burned_in": True},
    "no-patient-id": {"patient": ""},
}


def unusable_files(
    hospital: SyntheticHospital,
    first: Visit,
    label: str | None,
    draw: Callable[[], Image],
) -> Iterator[File]:
    """One file of each of :data:`KINDS`, each of a patient of its own.

    Args:
        hospital: whose archive it is.
        first: names of the first such patient; the others follow.
        label: what the label file says of them, where it says anything; None without one.
        draw: draws a picture.
    """
    for place, kind in enumerate(KINDS):
        visit = replace(first, serial=first.serial + place)
        if kind == "text":
            yield File("README.txt", _NOTE, None, None, kind)
            continue
        data = _CONTENTS.get(kind, _image)(hospital, visit, kind, draw())
        row = None
        if label is not None and not _unnamed(hospital, kind):
            row = (visit.key(hospital.key, hospital.paths), label)
        yield File(visit.path(hospital.paths), data, row, None, kind)


def _unnamed(hospital: SyntheticHospital, kind: str) -> bool:
    """Whether no row of the label file can be about the file."""
    return kind == "unlabelled" or (kind == "no-patient-id" and hospital.key == "PatientID")


def _dataset(hospital: SyntheticHospital, visit: Visit, kind: str, picture: Image) -> Dataset:
    instance = visit.describe(hospital.name, **_CHANGES.get(kind, {}))
    return grey_dataset(instance, hospital.equipment, hospital.storages[0], picture)


def _image(hospital: SyntheticHospital, visit: Visit, kind: str, picture: Image) -> bytes:
    return to_bytes(_dataset(hospital, visit, kind, picture))


def _truncated(hospital: SyntheticHospital, visit: Visit, kind: str, picture: Image) -> bytes:
    """A transfer that broke off in the middle of the pixels."""
    whole = _image(hospital, visit, kind, picture)
    # The header is whole: the file looks right until its pixels are read.
    return whole[: len(whole) * 6 // 10]


def _report(hospital: SyntheticHospital, visit: Visit, kind: str, picture: Image) -> bytes:
    """A structured report, which has no pixels."""
    dataset = _dataset(hospital, visit, kind, picture)
    for keyword in ("PixelData", "VOILUTSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.SOPClassUID, dataset.Modality = BasicTextSRStorage, "SR"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    return to_bytes(dataset)


def _letter(hospital: SyntheticHospital, visit: Visit, kind: str, picture: Image) -> bytes:
    """A scanned letter: of another modality."""
    pixels = np.rint(255 * (1 - 0.1 * picture)).astype(np.uint8)
    return to_bytes(
        byte_dataset(visit.describe(hospital.name), _SCANNER_OF_PAPER, "explicit", pixels)
    )


_CONTENTS: Final[dict[str, Callable[[SyntheticHospital, Visit, str, Image], bytes]]] = {
    "no-pixels": _report,
    "truncated": _truncated,
    "other-modality": _letter,
}
