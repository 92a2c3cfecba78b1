"""Images of which no segmentation can be made: each is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from client.objects.maker import Unmade
from client.objects.segmentation import segmentation
from tests.client.objects.object_files import CLASSES, MAKER, WHEN, image, marks, series


def turned(images: list[Dataset]) -> None:
    images[1].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def over_time(images: list[Dataset]) -> None:
    images[1].ImagePositionPatient = images[0].ImagePositionPatient


def without_place(images: list[Dataset]) -> None:
    del images[2].ImagePositionPatient


def of_two_series(images: list[Dataset]) -> None:
    images[2].SeriesInstanceUID = "1.2.3"


def of_two_studies(images: list[Dataset]) -> None:
    images[2].StudyInstanceUID = "1.2.3"


def of_two_patients(images: list[Dataset]) -> None:
    images[2].PatientID = "P-0043"


def of_two_sizes(images: list[Dataset]) -> None:
    images[2].Rows = 12


def of_two_frames_of_reference(images: list[Dataset]) -> None:
    images[2].FrameOfReferenceUID = "1.2.3"


def of_one_instance(images: list[Dataset]) -> None:
    images[2].SOPInstanceUID = images[1].SOPInstanceUID


def without_instance(images: list[Dataset]) -> None:
    del images[1].SOPInstanceUID


def with_a_study_that_is_no_uid(images: list[Dataset]) -> None:
    for each in images:
        each.StudyInstanceUID = "1.2.03"


def no_images(images: list[Dataset]) -> None:
    images[1].SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"


def one_too_few(images: list[Dataset]) -> None:
    del images[2]


SPOILT: dict[Callable[[list[Dataset]], None], str] = {
    turned: "not parallel",
    over_time: "in one place",
    without_place: "does not say where it lies",
    of_two_series: "several series",
    of_two_studies: "several studies",
    of_two_patients: "several patients",
    of_two_sizes: "differ in size",
    of_two_frames_of_reference: "several frames of reference",
    of_one_instance: "same SOPInstanceUID",
    without_instance: r"SOPInstanceUID \(0008,0018\) is missing",
    with_a_study_that_is_no_uid: r"StudyInstanceUID \(0020,000D\) is not valid",
    no_images: "not that of an image",
    one_too_few: "another size or number",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # it is meant to be
def test_images_of_which_none_can_be_made_are_told_in_a_sentence(
    spoil: Callable[[list[Dataset]], None],
) -> None:
    images = series("CT")
    spoil(images)

    with pytest.raises(Unmade, match=SPOILT[spoil]):
        segmentation(images, marks(3), CLASSES, MAKER, when=WHEN)


def test_a_value_that_is_no_class_is_told() -> None:
    with pytest.raises(Unmade, match="no class"):
        segmentation(series("CT"), marks(3, classes=4), CLASSES, MAKER, when=WHEN)


def test_an_image_without_a_place_is_enough_for_one_frame_only() -> None:
    images = [image("DX", number, plane=False) for number in range(2)]

    with pytest.raises(Unmade, match="does not say where it lies"):
        segmentation(images, marks(2), CLASSES, MAKER, when=WHEN)


def test_what_a_library_refuses_is_a_verdict_without_a_value_of_the_file() -> None:
    """A retired SOP class is an image, and highdicom does not know it."""
    source = image("US", plane=False)
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6"

    with pytest.raises(Unmade, match=r"^making the object ended in KeyError$"):
        segmentation([source], marks(1), CLASSES, MAKER, when=WHEN)
