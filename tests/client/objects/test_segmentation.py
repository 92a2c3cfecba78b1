from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import Segmentation
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.data.dicom import parse
from client.data.masks.segmentation import SegFile, instances
from client.objects.maker import Maker
from client.objects.segmentation import segmentation
from simulations.hospitals.dicom_writer import to_bytes
from tests.client.objects.object_files import (
    CLASSES,
    MAKER,
    SHAPE,
    WHEN,
    complaints,
    image,
    many_frames,
    marks,
    read_again,
    series,
    written,
)

IMAGES: dict[str, Callable[[], list[Dataset]]] = {
    "CT series": lambda: series("CT"),
    "MR series": lambda: series("MR"),
    "frames of one MR": lambda: [many_frames()],
    "DX": lambda: [image("DX", plane=False)],
    "CR": lambda: [image("CR", plane=False)],
    "US": lambda: [image("US", plane=False)],
    "CT without a place": lambda: [image("CT", plane=False)],
}


def sources(kind: str) -> list[Dataset]:
    return IMAGES[kind]()


def masks(images: list[Dataset]) -> NDArray[np.uint8]:
    """Two of three classes are found, and nothing on the second of several frames."""
    frames = sum(int(each.get("NumberOfFrames", 1)) for each in images)
    return marks(frames, empty=1 if frames > 1 else None)


def made(images: list[Dataset], values: NDArray[np.uint8], maker: Maker = MAKER) -> Dataset:
    found = segmentation(images, values, CLASSES, maker, when=WHEN)
    assert found is not None
    return read_again(found)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_validator_finds_no_error(kind: str, tmp_path: Path) -> None:
    images = sources(kind)

    assert complaints(written(made(images, masks(images)), tmp_path / "seg.dcm")) == []


@pytest.mark.parametrize("kind", IMAGES)
def test_this_project_s_own_reader_reads_the_masks_that_were_written(kind: str) -> None:
    images = sources(kind)
    values = masks(images)
    dataset = made(images, values)
    file, frame = SegFile.of(dataset), 0

    assert instances(dataset) == {each.SOPInstanceUID for each in images}
    for each in images:
        reading = parse(to_bytes(each))
        for own in range(int(each.get("NumberOfFrames", 1))):
            found = np.zeros(SHAPE, np.uint8)
            for label, layer in file.layers(reading, own):
                found[layer] = CLASSES.index(str(label)) + 1
            np.testing.assert_array_equal(found, values[frame])
            frame += 1
    assert frame == len(values)


def test_highdicom_reads_the_masks_of_a_series() -> None:
    images = sources("CT series")
    values = masks(images)
    reader = Segmentation.from_dataset(made(images, values))

    found = reader.get_pixels_by_source_instance(
        [each.SOPInstanceUID for each in images],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )

    np.testing.assert_array_equal(found, values)
    assert [each.segment_label for each in reader.SegmentSequence] == list(CLASSES)


def test_highdicom_reads_the_masks_of_an_image_of_several_frames() -> None:
    images = sources("frames of one MR")
    values = masks(images)
    reader = Segmentation.from_dataset(made(images, values))

    found = reader.get_pixels_by_source_frame(
        images[0].SOPInstanceUID,
        [1, 2, 3],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )

    np.testing.assert_array_equal(found, values)


def test_each_frame_lies_where_its_image_lies() -> None:
    images = sources("CT series")
    dataset = made(images, masks(images))
    positions = {each.SOPInstanceUID: each.ImagePositionPatient for each in images}

    for group in dataset.PerFrameFunctionalGroupsSequence:
        (derivation,) = group.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        assert source.SpatialLocationsPreserved == "YES"
        own = group.PlanePositionSequence[0].ImagePositionPatient
        assert own == positions[source.ReferencedSOPInstanceUID]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == images[0].PixelSpacing
    assert dataset.FrameOfReferenceUID == images[0].FrameOfReferenceUID


def test_segments_are_the_classes_in_their_order_and_say_who_found_them() -> None:
    images = sources("CT series")
    dataset = made(images, masks(images))

    assert [each.SegmentNumber for each in dataset.SegmentSequence] == [1, 2, 3]
    for words, segment in zip(CLASSES, dataset.SegmentSequence, strict=True):
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (segment.SegmentLabel, kind.CodeMeaning) == (words, words)
        assert kind.CodingSchemeDesignator == "99CONSILIUM"
        assert len(kind.CodeValue) <= 16
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MAKER.name, "0.1.0")
        assert MAKER.sha256 in algorithm.AlgorithmParameters


def test_an_item_with_more_than_ascii_names_its_character_set_itself() -> None:
    """A parser that does not hand it down to items reads the label all the same."""
    images = sources("DX")
    first, _, last = made(images, masks(images)).SegmentSequence

    assert "SpecificCharacterSet" not in first
    assert (last.SegmentLabel, last.SpecificCharacterSet) == ("Gefäß", "ISO_IR 192")


def test_it_says_that_it_is_for_research_only() -> None:
    images = sources("DX")
    dataset = made(images, masks(images))

    assert dataset.ContentQualification == "RESEARCH"
    assert "Research use only" in dataset.ContentDescription
    assert "Research use only" in dataset.SeriesDescription


def test_nothing_is_made_where_nothing_is_marked() -> None:
    images = sources("CT series")

    assert segmentation(images, marks(3, classes=0), CLASSES, MAKER, when=WHEN) is None


def test_the_same_prediction_gives_the_same_bytes() -> None:
    first, again = (made(series("CT"), masks(series("CT"))) for _ in range(2))

    assert to_bytes(first) == to_bytes(again)


def test_another_mask_or_model_gives_another_object_and_another_model_another_series() -> None:
    images, other = sources("CT series"), Maker("other", "0.1.0", "cd" * 32)
    values = masks(images)
    first, another = made(images, values), made(images, np.flip(values))
    of_other = made(images, values, other)

    assert len({each.SOPInstanceUID for each in (first, another, of_other)}) == 3
    assert first.SeriesInstanceUID == another.SeriesInstanceUID != of_other.SeriesInstanceUID


def test_directions_that_are_rounded_differently_are_one() -> None:
    images = sources("CT series")
    images[1].ImageOrientationPatient = [0.99999, 0, 0.0001, 0, 1, 0]

    assert made(images, marks(3)).NumberOfFrames == 6


def test_frames_whose_spacing_is_said_one_by_one_are_a_stack() -> None:
    """Functional groups may be shared or of each frame (PS3.3, C.7.6.16.1.1)."""
    (source,) = sources("frames of one MR")
    shared = source.SharedFunctionalGroupsSequence[0]
    for group in source.PerFrameFunctionalGroupsSequence:
        for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            setattr(group, keyword, shared[keyword].value)
    source.SharedFunctionalGroupsSequence = [Dataset()]

    dataset = made([source], marks(3))

    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.PixelSpacing == [0.8, 0.7]
