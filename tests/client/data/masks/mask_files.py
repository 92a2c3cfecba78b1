"""Mask files as tools write them: SEG by highdicom, NIfTI by nibabel, PNG by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import nibabel
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

ALGORITHM = highdicom.AlgorithmIdentificationSequence("test", codes.DCM.ArtificialIntelligence, "1")
OWN: dict[str, Any] = {
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "AccessionNumber": "1",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyID": "1",
    "ReferringPhysicianName": "",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
}
"""What a SEG takes over from its image."""
AXIAL = [1, 0, 0, 0, 1, 0]
"""ImageOrientationPatient: columns run to the left, rows to the back."""


def segmentation(
    images: Sequence[Path],
    marks: NDArray[Any],
    labels: Sequence[str],
    *,
    kind: str = "BINARY",
    omit: bool = True,
) -> Dataset:
    """A SEG of some images of one series: marks are ``(frames, rows, columns, segments)``."""
    sources = [dcmread(each) for each in images]
    study, series = generate_uid(), generate_uid()
    for source in sources:
        source.StudyInstanceUID, source.SeriesInstanceUID = study, series
        for keyword, value in OWN.items():
            setattr(source, keyword, value)
    made = highdicom.seg.Segmentation(
        sources,
        marks,
        kind,
        [
            highdicom.seg.SegmentDescription(
                number, label, codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", ALGORITHM
            )
            for number, label in enumerate(labels, 1)
        ],
        generate_uid(),
        2,
        generate_uid(),
        1,
        "maker",
        "model",
        "1",
        "0",
        omit_empty_frames=omit,
    )
    assert isinstance(made, Dataset)
    return made


def write_png(path: Path, values: NDArray[Any], mode: str = "L") -> Path:
    """A PNG of these values, grey or by their places in a palette."""
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([each for place in range(256) for each in (255 - place, place, 7)])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def write_nifti(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    """A NIfTI of these voxels; without an affine it says nothing of its orientation."""
    volume = nibabel.Nifti1Image(voxels, affine)  # type: ignore[no-untyped-call]  # nibabel
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(volume, path)
    return path
