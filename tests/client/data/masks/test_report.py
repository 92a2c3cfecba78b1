"""What ``check`` says of masks."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from client.data.dicom import Reason, Rules
from client.data.labels import LabelFile
from client.data.masks.sources import MaskFolder
from client.data.report import Report, check, require_usable, show, show_rejected
from common.errors import DataError
from tests.client.data.masks.mask_files import write_png

WriteDicom = Callable[..., Path]

MARKS = np.zeros((4, 4), np.uint8)
MARKS[0, :2], MARKS[1, 0] = 1, 2


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Four patients: a mask, an empty one, a wrong one, none; and a mask of nobody."""
    for number in range(1, 5):
        write_dicom(tmp_path / "images" / f"{number}.dcm", PatientID=f"P{number}")
    write_png(tmp_path / "masks" / "1.png", MARKS)
    write_png(tmp_path / "masks" / "2.png", MARKS * 0)
    write_png(tmp_path / "masks" / "3.png", MARKS[:3])
    write_png(tmp_path / "masks" / "Doe.png", MARKS[:2])
    return tmp_path


def report_of(
    folder: Path, *classes: str, labels: str = "", meanings: dict[str, str] | None = None
) -> Report:
    file = None
    if labels:
        (folder / "labels.csv").write_text(labels)
        file = LabelFile(folder / "labels.csv", "PatientID", "PatientID", "label")
    masks = MaskFolder(folder / "masks", meanings or {})
    return check(
        folder / "images",
        file,
        classes=None,
        rules=Rules(),
        masks=masks,
        mask_classes=classes or None,
    )


def said_of(report: Report, folder: Path) -> str:
    text = StringIO()
    console = Console(file=text, width=200)
    show(report, folder, None, console)
    show_rejected(report, console)
    return text.getvalue()


def test_masks_are_counted_by_class_in_images_and_pixels(folder: Path) -> None:
    report = report_of(folder, "lesion", "organ")

    assert report.as_json(paths=False)["masks"] == {
        "files": 4,
        "images": 2,
        "empty": 1,
        "patients": 2,
        "marked_images": {"lesion": 1, "organ": 1},
        "marked_pixels": {"lesion": 2, "organ": 1},
        "pixels": 32,
    }
    assert (report.used, report.patients) == (2, 2)
    assert {each.path: each.reason for each in report.all_rejected} == {
        "3.dcm": Reason.MASK_SIZE,
        "4.dcm": Reason.NO_MASK,
        "masks/Doe.png": Reason.NO_IMAGE,
    }
    said = said_of(report, folder)
    assert "4 files, for 2 images of 2 patients; 1 of these masks mark nothing" in said
    assert "lesion: on 1 images, 6.25% of the pixels of all" in said
    assert "3.dcm  mask-of-another-size" in said
    assert "(mask masks/3.png)" in said
    assert "4 found: 2 usable, 2 not" in said


def test_without_classes_what_occurs_is_counted(folder: Path) -> None:
    report = report_of(folder, meanings={"some label": "organ"})

    assert report.masks is not None
    assert report.masks.marked == {"value 1": 1, "value 2": 1}


def test_where_the_site_says_what_values_mean_others_are_mistakes(folder: Path) -> None:
    report = report_of(folder, meanings={"1": "liver"})
    assert report.masks is not None
    assert report.masks.images == 1
    wrong = {each.path: each.detail for each in report.masks.rejected}
    assert wrong["1.dcm"] == "value 2 is not among those of mask_classes"
    both = report_of(folder, meanings={"1": "liver", "2": "background"})
    assert both.masks is not None
    assert both.masks.marked == {"liver": 1}


def test_where_no_image_has_a_mask_the_error_says_so_and_what_to_do(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for number in range(3):
        write_dicom(tmp_path / "images" / f"{number}.dcm", PatientID=f"P{number}")
        write_png(tmp_path / "masks" / f"other{number}.png", MARKS)
        write_png(tmp_path / "masks" / f"another{number}.png", MARKS)
    with pytest.raises(DataError) as caught:
        require_usable(tmp_path / "images", report_of(tmp_path))
    said = str(caught.value)
    assert "6 mask-without-image, 3 no-mask" in said
    assert "a PatientID and a mask" in said
    assert "add masks of these images" in said
    assert "nothing to do" not in said


def test_beside_labels_masks_are_counted_for_themselves(folder: Path) -> None:
    report = report_of(folder, "a", "b", labels="PatientID,label\nP1,ill\nP2,well\nP4,ill\n")

    assert report.patients_by_label == {"ill": 2, "well": 1}
    assert report.masks is not None
    assert report.masks.patients == 2


def test_where_no_mask_can_be_used_is_an_error_that_says_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError, match="no image in the folder can be used"):
        require_usable(folder, _none(folder))
    with pytest.raises(DataError, match="no mask in the folder can be used"):
        labels = "PatientID,label\nP1,ill\nP2,well\n"
        require_usable(folder, report_of(folder, "a", "b", labels=labels))


def _none(folder: Path) -> Report:
    for name in "12":
        (folder / "masks" / f"{name}.png").unlink()
    return report_of(folder, "a", "b")


def test_numbers_are_counted_as_numbers(folder: Path) -> None:
    (folder / "labels.csv").write_text("PatientID,label\nP1,63.5\nP2,7\n")
    file = LabelFile(folder / "labels.csv", "PatientID", "PatientID", "label")

    report = check(folder / "images", file, classes=(), rules=Rules())

    assert report.labels == {"numbers from 7 to 63.5": 2}
    assert report.label_notes == ()
