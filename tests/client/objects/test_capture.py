from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.objects.capture import capture
from client.objects.maker import Unmade
from simulations.hospitals.dicom_writer import to_bytes
from tests.client.objects.object_files import (
    MAKER,
    WHEN,
    complaints,
    image,
    many_frames,
    read_again,
    written,
)

PICTURE = np.random.default_rng(0).integers(0, 255, (31, 17, 3), dtype=np.uint8)
IMAGES: dict[str, Callable[[], Dataset]] = {
    "CT": lambda: image("CT"),
    "frames of one MR": many_frames,
    "DX": lambda: image("DX", plane=False),
    "US": lambda: image("US", plane=False),
}


def made(source: Dataset, title: str = "lesions of the liver") -> Dataset:
    return read_again(capture(source, PICTURE, MAKER, title, when=WHEN))


@pytest.mark.parametrize("kind", IMAGES)
def test_a_validator_finds_no_error(kind: str, tmp_path: Path) -> None:
    assert complaints(written(made(IMAGES[kind]()), tmp_path / "sc.dcm")) == []


def test_the_picture_is_read_as_it_was_drawn() -> None:
    """31 times 17 times 3 bytes are odd in number, and a value's length is even (PS3.5, 7.1)."""
    dataset = made(image("CT"))

    np.testing.assert_array_equal(dataset.pixel_array, PICTURE)
    assert dataset.PhotometricInterpretation == "RGB"


def test_it_names_the_image_that_it_was_drawn_of() -> None:
    source = image("CT")
    dataset = made(source)

    (reference,) = dataset.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert dataset.StudyInstanceUID == source.StudyInstanceUID


def test_it_is_derived_and_says_that_it_is_for_research_only() -> None:
    dataset = made(image("CT"))

    assert dataset.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert dataset.BurnedInAnnotation == "NO"
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.ImageComments.startswith("lesions of the liver. Research use only.")
    assert "Research use only" in dataset.SeriesDescription


def test_the_same_prediction_gives_the_same_bytes() -> None:
    assert to_bytes(made(image("CT"))) == to_bytes(made(image("CT")))
    assert made(image("CT")).SOPInstanceUID != made(image("CT"), "another").SOPInstanceUID


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (2**16, 1, 3)])
def test_what_is_no_picture_in_colour_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(Unmade, match="three colours"):
        capture(image("CT"), np.zeros(shape, np.uint8), MAKER, "title", when=WHEN)
