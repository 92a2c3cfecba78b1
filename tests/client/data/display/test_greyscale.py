from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.sequence import Sequence

from client.data.dicom import Unusable
from client.data.display.elements import Layout, Module
from client.data.display.greyscale import Greyscale, Window, window_of

MakeDataset = Callable[..., Dataset]


def shown(dataset: Dataset, pixels: NDArray[Any], frame: int = 0) -> list[float]:
    """The first row of a frame as it is shown, to four places."""
    frames = pixels.reshape(-1, *pixels.shape[-2:])
    module = Module(dataset)
    layout = Layout.of(module, integer=pixels.dtype.kind != "f")
    image = Greyscale(module, layout, frames, little_endian=True).image(frame)
    assert image.dtype == np.float32
    return [round(float(value), 4) for value in image[0]]


def table(descriptor: list[int], data: object) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return Sequence([item])


def test_eight_bits_without_a_window_are_taken_as_they_are(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 51, 102, 255]], np.uint8)

    assert shown(make_dataset(pixels), pixels) == [0, 0.2, 0.4, 1]


def test_fewer_stored_bits_than_eight_fill_the_range(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 3, 15]], np.uint8)

    assert shown(make_dataset(pixels, BitsStored=4, HighBit=3), pixels) == [0, 0.2, 1]


def test_monochrome1_is_turned_over(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 51, 255]], np.uint8)
    dataset = make_dataset(pixels, PhotometricInterpretation="MONOCHROME1")

    assert shown(dataset, pixels) == [1, 0.8, 0]


def test_slope_and_intercept_come_before_the_window(make_dataset: MakeDataset) -> None:
    """Stored 1000, 1040 are -24, 16 Hounsfield units; a window from -24.5 to 15.5 holds both."""
    pixels = np.array([[1000, 1020, 1040]], np.uint16)
    dataset = make_dataset(
        pixels, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=-4, WindowWidth=41
    )

    assert shown(dataset, pixels) == [0.0125, 0.5125, 1]


def test_a_falling_slope_without_a_window_turns_the_image_over(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 51, 255]], np.uint8)

    assert shown(make_dataset(pixels, RescaleSlope=-1, RescaleIntercept=0), pixels) == [1, 0.8, 0]


def test_signed_values_are_windowed_below_zero(make_dataset: MakeDataset) -> None:
    pixels = np.array([[-100, 0, 100]], np.int16)
    dataset = make_dataset(pixels, WindowCenter=0.5, WindowWidth=201)

    assert shown(dataset, pixels) == [0, 0.5, 1]


def test_the_first_of_several_windows_counts(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 50, 100]], np.uint16)
    dataset = make_dataset(pixels, WindowCenter=[50.5, 9], WindowWidth=[101, 2])

    assert shown(dataset, pixels) == [0, 0.5, 1]


@given(
    centre=st.floats(-500, 500),
    width=st.floats(1, 2000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_agree_with_pydicom(centre: float, width: float, function: str) -> None:
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 12, 1
    dataset.WindowCenter, dataset.WindowWidth = centre, width
    dataset.VOILUTFunction = function
    values = np.linspace(-2048, 2047, 97)
    window = window_of(Module(dataset))

    assert window is not None
    with np.errstate(over="ignore"):
        theirs = (apply_windowing(values, dataset) + 2048) / 4095
    np.testing.assert_allclose(window(values), theirs, atol=1e-9)


def test_a_window_of_one_value_is_a_step() -> None:
    assert Window(10, 1, "LINEAR")(np.array([9.0, 9.5, 10.0])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": "", "WindowWidth": ""}])
def test_an_empty_window_is_none(make_dataset: MakeDataset, elements: dict[str, object]) -> None:
    pixels = np.array([[0, 51, 255]], np.uint8)

    assert shown(make_dataset(pixels, **elements), pixels) == [0, 0.2, 1]


def test_deep_images_without_a_window_span_their_own_percentiles(make_dataset: MakeDataset) -> None:
    """Of the values 0 to 1000, the 0.5th and 99.5th percentiles are 5 and 995."""
    pixels = np.arange(1001, dtype=np.uint16).reshape(1, -1)
    row = shown(make_dataset(pixels), pixels)

    assert row[5] == 0
    assert row[500] == 0.5
    assert row[995] == row[1000] == 1


def test_frames_of_one_file_share_their_range(make_dataset: MakeDataset) -> None:
    pixels = np.stack([np.full((1, 2), 100), np.full((1, 2), 300)]).astype(np.uint16)
    dataset = make_dataset(pixels)

    assert shown(dataset, pixels, 0) == [0, 0]
    assert shown(dataset, pixels, 1) == [1, 1]


def test_an_image_of_one_value_is_black(make_dataset: MakeDataset) -> None:
    pixels = np.full((2, 2), 700, np.uint16)

    assert shown(make_dataset(pixels), pixels) == [0, 0]


def test_padding_is_black_and_does_not_stretch_the_range(make_dataset: MakeDataset) -> None:
    pixels = np.array([[-2000, 0, 100, 200]], np.int16)
    dataset = make_dataset(pixels, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")

    row = shown(dataset, pixels)

    assert row[0] == 0
    assert row[1] == 1
    assert row[2] == 0.5
    assert row[3] == 0


def test_not_a_number_is_black_and_infinity_the_end_of_the_range(make_dataset: MakeDataset) -> None:
    pixels = np.array([[np.nan, -np.inf, 0, 1, 2, np.inf]], np.float32)

    row = shown(make_dataset(pixels), pixels)

    assert row[:2] == [0, 0]
    assert row[3] == 0.5
    assert row[-1] == 1


def test_a_modality_table_is_looked_up_and_its_ends_hold(make_dataset: MakeDataset) -> None:
    pixels = np.array([[0, 10, 11, 99]], np.uint8)
    dataset = make_dataset(
        pixels,
        ModalityLUTSequence=table([3, 10, 16], [0, 500, 1000]),
        WindowCenter=500.5,
        WindowWidth=1001,
    )

    assert shown(dataset, pixels) == [0, 0, 0.5, 1]


def test_a_voi_table_comes_before_a_window(make_dataset: MakeDataset) -> None:
    pixels = np.array([[4, 5, 6]], np.uint8)
    dataset = make_dataset(
        pixels, VOILUTSequence=table([3, 4, 8], [0, 51, 255]), WindowCenter=1, WindowWidth=2
    )

    assert shown(dataset, pixels) == [0, 0.2, 1]


def test_a_voi_table_of_fewer_bits_than_its_input_does_not_wrap(make_dataset: MakeDataset) -> None:
    """4096 entries of 8 bits, as mammography has: places beyond 255 must not start over."""
    pixels = np.array([[0, 256, 4095]], np.uint16)
    entries = (np.arange(4096) // 16).tolist()
    dataset = make_dataset(pixels, VOILUTSequence=table([4096, 0, 8], entries))

    assert shown(dataset, pixels) == [0, round(16 / 255, 4), 1]


@pytest.mark.parametrize(
    "data", [[0x3300, 0x00FF], b"\x00\x33\xff\x00"], ids=["as numbers", "as bytes"]
)
def test_entries_of_eight_bits_stand_two_in_a_word(
    make_dataset: MakeDataset, data: bytes | list[int]
) -> None:
    pixels = np.array([[0, 1, 2]], np.uint8)
    dataset = make_dataset(pixels, VOILUTSequence=table([3, 0, 8], data))

    assert shown(dataset, pixels) == [0, 0.2, 1]


def test_each_frame_of_an_enhanced_object_has_its_own_window(make_dataset: MakeDataset) -> None:
    pixels = np.tile(np.array([[0, 50, 100]], np.uint16), (2, 1, 1))
    groups = []
    for centre, width in ((50.5, 101), (100.5, 201)):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, width
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    shared, values = Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = 1, 0
    shared.PixelValueTransformationSequence = Sequence([values])
    dataset = make_dataset(
        pixels,
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )

    assert shown(dataset, pixels, 0) == [0, 0.5, 1]
    assert shown(dataset, pixels, 1) == [0, 0.25, 0.5]


def enhanced(make_dataset: MakeDataset, pixels: NDArray[Any], *items: Dataset) -> Dataset:
    groups = []
    for item in items:
        group = Dataset()
        group.PixelValueTransformationSequence = Sequence([item])
        groups.append(group)
    return make_dataset(pixels, PerFrameFunctionalGroupsSequence=Sequence(groups))


def test_a_frames_own_number_that_cannot_be_read_rejects_the_file(
    make_dataset: MakeDataset,
) -> None:
    pixels = np.tile(np.array([[0, 50, 100]], np.uint16), (2, 1, 1))
    good, bad = Dataset(), Dataset()
    good.RescaleSlope, good.RescaleIntercept = "1", "0"
    bad.RescaleIntercept = "0"
    bad.add_new("RescaleSlope", "LO", "1,5")
    dataset = enhanced(make_dataset, pixels, good, bad)

    assert shown(dataset, pixels, 0)[-1] == 1
    with pytest.raises(Unusable, match="Rescale Slope"):
        shown(dataset, pixels, 1)


def test_a_frame_without_an_item_of_its_own_rejects_the_file(make_dataset: MakeDataset) -> None:
    pixels = np.tile(np.array([[0, 50, 100]], np.uint16), (2, 1, 1))
    one = Dataset()
    one.RescaleSlope, one.RescaleIntercept = "1", "0"

    with pytest.raises(Unusable, match="fewer items than there are frames"):
        shown(enhanced(make_dataset, pixels, one), pixels, 0)


def test_padding_of_floating_point_is_black(make_dataset: MakeDataset) -> None:
    pixels = np.array([[-9.5, -8.5, 0, 1, 2, 3]], np.float32)
    dataset = make_dataset(
        pixels, FloatPixelPaddingValue=-9.5, FloatPixelPaddingRangeLimit=-8.5, WindowCenter=0
    )
    dataset.WindowWidth, dataset.VOILUTFunction = 8, "LINEAR_EXACT"

    assert shown(dataset, pixels) == [0, 0, 0.5, 0.625, 0.75, 0.875]


def test_signed_bytes_have_padding_that_was_filled_up_with_zeros(make_dataset: MakeDataset) -> None:
    """-128 as the 0080 of sixteen bits."""
    pixels = np.array([[-128, -127, 0, 127]], np.int8)
    dataset = make_dataset(pixels, PhotometricInterpretation="MONOCHROME1")
    dataset.add_new("PixelPaddingValue", "US", 128)

    assert shown(dataset, pixels)[0] == 0
