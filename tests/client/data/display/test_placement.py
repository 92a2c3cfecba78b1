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
