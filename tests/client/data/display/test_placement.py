from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data.display.placement import Placement


def fit(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return Placement.fitting((image.shape[1], image.shape[2]), size).image(image)


def test_an_image_of_the_wanted_size_is_left_alone() -> None:
    image = np.random.default_rng(0).random((1, 5, 7), np.float32)

    assert fit(image, (5, 7)) is image


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.integers(1, 24),
    seed=st.integers(0, 9),
)
def test_square_images_agree_with_pytorchs_antialiased_filter(
    size: tuple[int, int], wanted: int, seed: int
) -> None:
    image = np.random.default_rng(seed).random((2, size[0], size[0]), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None].double(), (wanted, wanted), mode="bilinear", antialias=True
    )

    np.testing.assert_allclose(fit(image, (wanted, wanted)), expected[0], atol=1e-6)


def test_halving_weighs_neighbours_by_their_distance() -> None:
    """The triangle of reach 2 around the middle of two samples: 1, 3, 3, 1 eighths."""
    image = np.array([[[0.0, 0, 0.8, 0, 0, 0]]], np.float32).repeat(2, axis=1)

    np.testing.assert_allclose(fit(image, (1, 3)), [[[0.8 / 7, 0.3, 0]]], atol=1e-6)


def test_proportions_are_kept_and_the_rest_is_black() -> None:
    image = np.ones((3, 20, 10), np.float32)

    fitted = fit(image, (8, 8))

    assert fitted.shape == (3, 8, 8)
    np.testing.assert_allclose(fitted[:, :, 2:6], 1, atol=1e-6)
    assert not fitted[:, :, :2].any()
    assert not fitted[:, :, 6:].any()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30))
def test_any_size_fits_any_other_within_range(h: int, w: int, rows: int, columns: int) -> None:
    fitted = fit(np.ones((1, h, w), np.float32), (rows, columns))

    assert fitted.shape == (1, rows, columns)
    assert fitted.dtype == np.float32
    assert 0 <= fitted.min() <= fitted.max() <= 1


def test_a_mask_of_the_study_s_size_comes_back_as_it_is() -> None:
    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)

    np.testing.assert_array_equal(Placement.fitting((5, 7), (5, 7)).back(mask, (5, 7)), mask)


def test_on_the_way_back_each_pixel_takes_the_nearest_one_s_class() -> None:
    """Two pixels become six, and six become two: the middles of the first three meet one."""
    pair, six = np.array([[3, 4]], np.uint8), np.array([[3, 3, 3, 4, 4, 4]], np.uint8)

    np.testing.assert_array_equal(Placement((1, 2), (1, 2)).back(pair, (1, 6)), six)
    np.testing.assert_array_equal(Placement((1, 6), (1, 6)).back(six, (1, 2)), pair)


def test_on_the_way_back_what_was_added_is_dropped_and_what_was_cut_off_is_background() -> None:
    padded, cropped = Placement((2, 2), (4, 4)), Placement((4, 4), (2, 2))
    inside = np.pad(np.full((2, 2), 5, np.uint8), 1)

    np.testing.assert_array_equal(padded.back(inside, (2, 2)), np.full((2, 2), 5))
    np.testing.assert_array_equal(cropped.back(np.full((2, 2), 5, np.uint8), (4, 4)), inside)


SIDES = st.tuples(st.integers(2, 60), st.integers(2, 60))


@given(shape=SIDES, size=SIDES, where=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_block_that_goes_forth_and_back_agrees_except_at_its_edges(
    shape: tuple[int, int], size: tuple[int, int], where: tuple[float, float, float, float]
) -> None:
    """An edge moves by half a pixel of the coarser grid at most, in either direction.

    So nothing drifts: a shift by half a pixel would show at the edges of the larger grid.
    """
    placement = Placement.fitting(shape, size)
    mask = np.zeros(shape, np.uint8)
    (top, bottom), (left, right) = (
        sorted(round(share * side) for share in shares)
        for shares, side in zip((where[:2], where[2:]), shape, strict=True)
    )
    mask[top:bottom, left:right] = 1

    back = placement.back(placement.mask(mask), shape)

    assert back.dtype == np.uint8
    assert back.shape == shape
    for axis, edges in enumerate(((top, bottom), (left, right))):
        # Half a pixel of the study's on the way forth and on the way back, and this grid's own.
        reach = shape[axis] / placement.inner[axis] + 0.5
        centres = np.arange(shape[axis]) + 0.5
        near = np.min([np.abs(centres - edge) for edge in edges], axis=0) <= reach
        keep = np.flatnonzero(~near)
        mask, back = np.take(mask, keep, axis), np.take(back, keep, axis)
    np.testing.assert_array_equal(back, mask)


@given(side=st.integers(1, 20), factor=st.integers(2, 9))
def test_the_middle_of_a_mask_stays_its_middle(side: int, factor: int) -> None:
    """A mask that is its own mirror image comes back as one, at an odd ratio of the sizes."""
    factor += 1 - factor % 2
    placement = Placement.fitting((side, side), (side * factor, side * factor))
    mask = np.zeros((side * factor, side * factor), np.uint8)
    mask[side : side * (factor - 1), side : side * (factor - 1)] = 1

    back = placement.back(mask, (side, side))

    np.testing.assert_array_equal(back, back[::-1])
    np.testing.assert_array_equal(back, back[:, ::-1])
    np.testing.assert_array_equal(placement.mask(back), np.kron(back, np.ones((factor, factor))))
