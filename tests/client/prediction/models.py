"""Packages whose model is as it was drawn, and folders of images to try them on."""

from __future__ import annotations

from pathlib import Path

from common.package.package import Package, read
from common.process.progress import silent
from common.study.study_file import Study
from tests.client.site_fixtures import write_images, write_mask
from tests.common.package.packages import kept, package
from tests.common.studies import DENSE, small_study

PATIENTS = {f"P{number:03}": 1 + number % 2 for number in range(24)}
"""By PatientID, how many images."""
QUIET = silent
OUTLINES = small_study(task={"kind": "segmentation", "classes": ["liver", "lesion"]}, model=DENSE)
NUMBERS = small_study(
    task={
        "kind": "regression",
        "quantity": "age in years",
        "lowest": 0.0,
        "highest": 90.0,
        "classes": None,
    }
)


def opened(folder: Path, study: Study | None = None, **changes: object) -> Package:
    """A package of a study, opened."""
    folder.mkdir(parents=True, exist_ok=True)
    return read(kept(folder, package(study, **changes)))


def archive(folder: Path, *, masks: bool = False) -> Path:
    """Images with labels, or with masks; gives the folder of images."""
    write_images(folder, PATIENTS)
    if masks:
        for patient, count in PATIENTS.items():
            for number in range(count):
                write_mask(folder / "masks" / f"{patient}-{number}.png", patient, number)
    return folder / "images"
