"""Masks are read back with pydicom, nibabel and Pillow, not with the site's own reader."""

from __future__ import annotations

import gzip
from io import BytesIO

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom import dcmread

from simulations.hospitals.dicom_writer import Equipment, Storage, grey_dataset, uid
from simulations.hospitals.masks import dicom_seg, nifti, png
from simulations.hospitals.visit import Slice

MR = Equipment("Exampla Imaging", "Test", "1", "MR", "LIVER")
SHAPE = (7, 5)
VISITS = [Slice("north", 0, 1, number, shape=SHAPE) for number in (1, 2, 3)]
IMAGES = [
    grey_dataset(each.describe("north"), MR, Storage("explicit", 8, 0, 255), np.zeros(SHAPE))
    for each in VISITS
]
MASKS = arrays(np.uint8, SHAPE, elements=st.integers(0, 2))


def segmentation(masks: list[np.ndarray], *, fractional: bool = False) -> bytes:
    images = IMAGES[: len(masks)]
    labels = {1: "liver", 2: "lesion"}
    return dicom_seg(images, masks, labels, (uid(1), uid(2), uid(3)), MR, fractional=fractional)


@pytest.mark.filterwarnings("ignore")  # highdicom's, about masks without a pixel
@settings(max_examples=30)  # each takes highdicom some 20 ms
@given(masks=st.lists(MASKS, min_size=1, max_size=3), fractional=st.booleans())
def test_a_seg_has_each_segment_at_its_slice(masks: list[np.ndarray], fractional: bool) -> None:
    made = dcmread(BytesIO(segmentation(masks, fractional=fractional)))
    labels = {each.SegmentNumber: each.SegmentLabel for each in made.SegmentSequence}
    assert labels == {1: "liver", 2: "lesion"}
    found = {image.SOPInstanceUID: np.zeros(SHAPE, np.uint8) for image in IMAGES[: len(masks)]}
    frames = made.pixel_array.reshape(-1, *SHAPE)
    whole = made.get("MaximumFractionalValue", 1)
    for frame, group in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[source.ReferencedSOPInstanceUID][frame > whole / 2] = segment
    assert all(map(np.array_equal, found.values(), masks))


@given(mask=MASKS)
def test_a_nifti_file_has_each_pixel_where_the_image_has_it(mask: np.ndarray) -> None:
    plane = VISITS[1].plane
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(nifti(mask, plane)))
    values = np.asarray(image.dataobj)
    assert values.shape == (5, 7, 1)
    for row, column in np.ndindex(SHAPE):
        assert values[column, row, 0] == mask[row, column]
    # The last pixel's middle, by PS3.3, C.7.6.2.1.1, and NIfTI's axes are turned over.
    x, y, z = plane.position
    left, back = x + 4 * plane.spacing[1], y + 6 * plane.spacing[0]
    assert image.affine @ [4, 6, 0, 1] == pytest.approx([-left, -back, z, 1])


@given(mask=MASKS)
def test_a_png_file_has_the_levels_that_the_hospital_writes(mask: np.ndarray) -> None:
    with Image.open(BytesIO(png(mask, {1: 127, 2: 255}))) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), np.array([0, 127, 255])[mask])


@pytest.mark.parametrize("fractional", [False, True])
def test_the_same_mask_is_the_same_bytes(fractional: bool) -> None:
    mask = np.arange(35).reshape(SHAPE).astype(np.uint8) % 3
    first, second = (segmentation([mask], fractional=fractional) for _ in range(2))
    assert first == second
    assert nifti(mask, VISITS[0].plane) == nifti(mask, VISITS[0].plane)
