"""Pictures of maps and masks: their size, their colours and their bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.reasons.pictures import (
    map_picture,
    outlines,
    overlay,
    png,
    strongest,
)
from common.palette import COLOURS, colour_of
from simulations.reports.charts import SITE_COLOURS

GREY = np.full((40, 60), 0.5)


def peak(value: float = 1.0) -> NDArray[np.float32]:
    values = np.zeros((20, 30), dtype=np.float32)
    values[5:10, 5:10] = value
    return values


def decoded(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_an_overlay_has_the_size_of_the_larger_image() -> None:
    picture = overlay(GREY, peak(), signed=False)
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    assert (picture[30:, 40:] == 128).all()
    assert picture[15, 15].tolist() == _mixed("inferno", 1.0)


@pytest.mark.parametrize(("value", "end"), [(3.0, 1.0), (-3.0, 0.0)])
def test_a_signed_map_has_a_colour_for_each_side_of_zero(value: float, end: float) -> None:
    picture = overlay(GREY, peak(value), signed=True)
    assert picture[15, 15].tolist() == _mixed("managua_r", end)
    assert (picture[30:, 40:] == 128).all()


def _mixed(colours: str, end: float) -> list[int]:
    red_green_blue = np.array(mpl.colormaps[colours](end)[:3])
    return np.rint(255 * (0.15 * 0.5 + 0.85 * red_green_blue)).astype(int).tolist()  # type: ignore[no-any-return] # numpy's lists are Any


def test_colour_images_become_grey_and_an_empty_map_leaves_them_alone() -> None:
    colour = np.stack([GREY * 0, GREY, GREY * 2])
    picture = overlay(colour, peak(0.0), signed=True)
    assert (picture == 128).all()


def test_one_odd_pixel_does_not_hide_the_others() -> None:
    values = np.ones((40, 60), dtype=np.float32)
    values[0, 0] = 1000.0
    assert strongest(values) == 1.0
    assert strongest(np.zeros((4, 4), dtype=np.float32)) == 1.0


def test_a_class_has_an_outline_in_its_colour() -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[5:15, 5:15] = 1
    mask[5:15, 20:] = 2
    picture = outlines(GREY, mask)
    assert picture.shape == (40, 60, 3)
    first, second = ([*bytes.fromhex(colour[1:])] for colour in COLOURS[:2])
    assert picture[10, 20].tolist() == picture[29, 20].tolist() == first
    assert picture[20, 40].tolist() == second
    assert picture[20, 59].tolist() == [128] * 3, "the image's border is no edge"
    assert picture[20, 20].tolist() == picture[9, 20].tolist() == [128] * 3


def test_an_outline_is_as_wide_as_the_image_needs() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[16:48, 16:48] = 1
    large = outlines(np.zeros((1024, 1024)), mask)
    assert int(large[512, :512].any(axis=-1).sum()) == 4


def test_classes_have_the_colours_of_the_reports() -> None:
    assert SITE_COLOURS == COLOURS
    assert colour_of(7) == COLOURS[0]


def test_a_png_holds_the_pixels_and_what_it_is_for() -> None:
    picture = overlay(GREY, peak(), signed=False)
    assert (decoded(png(picture)) == picture).all()
    assert _chunks(png(picture)) == {b"IHDR", b"tEXt", b"IDAT", b"IEND"}


def test_the_same_map_gives_the_same_bytes() -> None:
    given: dict[str, Any] = {"signed": True, "unit": "part of the score"}
    once, again = (map_picture(GREY, peak(-2.0), **given) for _ in range(2))
    assert once == again
    assert _chunks(once) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    assert decoded(once).shape[1] > 500


def _chunks(picture: bytes) -> set[bytes]:
    """The kinds of chunk of a PNG: eight bytes, then length, kind, data and checksum of each."""
    found, place = set(), 8
    while place < len(picture):
        found.add(picture[place + 4 : place + 8])
        place += 12 + int.from_bytes(picture[place : place + 4], "big")
    return found
