"""Random changes of one image at a time, whose sizes a ramp of grey makes visible."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.training.augmentation import DRAWS
from client.training.augmentation import augment as augmented
from common.privacy.randomness import Stream, derive
from common.study.study_file import Augmentation

FLIP, ROTATE, ZOOM, DOWN, RIGHT, CONTRAST, BRIGHTNESS = range(7)


def stream(seed: int = 0) -> Stream:
    return Stream(derive(b"augmentation", seed=seed))


def augment(images: torch.Tensor, settings: Augmentation, source: Stream) -> torch.Tensor:
    """With draws from a stream."""
    return augmented(images, settings, torch.from_numpy(source.uniform((len(images), DRAWS))))


def draws(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What each image draws, in [-1, 1), in the documented order."""
    return np.asarray(2 * stream(seed).uniform((count, 7)) - 1)


def ramps(count: int, height: int, width: int) -> torch.Tensor:
    """Three channels: the row, the column, and one, so that a value says where it came from."""
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.float32)[None, :].expand(height, width)
    one = torch.stack([rows, columns, torch.ones(height, width)])
    return one.expand(count, 3, height, width).clone()


def origins(
    settings: Augmentation, count: int, height: int = 17, width: int = 17, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Where the pixels around the middle came from: (images, row or column, 3, 3)."""
    changed = augment(ramps(count, height, width), settings, stream(seed))
    row, column = height // 2, width // 2
    return changed[:, :2, row - 1 : row + 2, column - 1 : column + 2].numpy()


def test_without_settings_nothing_changes() -> None:
    images = torch.rand(2, 1, 8, 8)
    assert augment(images, Augmentation(copies=3), stream()) is images


def test_no_images_are_no_images() -> None:
    nothing = torch.zeros(0, 1, 8, 8)
    assert augment(nothing, Augmentation(flip=True), stream()).shape == (0, 1, 8, 8)


def test_a_flip_is_the_exact_mirror_image_for_half_of_them() -> None:
    images = torch.rand(200, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    changed = augment(images, Augmentation(flip=True), stream())
    mirrored = draws(200)[:, FLIP] < 0
    expected = torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(-1), images)
    assert torch.allclose(changed, expected, atol=1e-5)
    assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize(("height", "width"), [(17, 17), (17, 33), (33, 17)])
def test_a_rotation_turns_by_at_most_its_angle_and_keeps_distances(height: int, width: int) -> None:
    found = origins(Augmentation(rotate=30), 50, height, width)
    right = found[:, :, 1, 2] - found[:, :, 1, 1]
    down = found[:, :, 2, 1] - found[:, :, 1, 1]
    angles = np.degrees(np.arctan2(-right[:, 0], right[:, 1]))
    assert np.abs(angles) == pytest.approx(np.abs(30 * draws(50)[:, ROTATE]), abs=0.01)
    assert np.linalg.norm(right, axis=1) == pytest.approx(1, abs=1e-3)
    assert np.linalg.norm(down, axis=1) == pytest.approx(1, abs=1e-3)
    assert (right * down).sum(axis=1) == pytest.approx(0, abs=1e-3)
    assert found[:, 0, 1, 1] == pytest.approx(height // 2, abs=1e-3)


def test_a_zoom_changes_the_windows_size_by_at_most_its_share() -> None:
    found = origins(Augmentation(zoom=0.25), 50)
    step = found[:, 1, 1, 2] - found[:, 1, 1, 1]
    assert step == pytest.approx(1 + 0.25 * draws(50)[:, ZOOM], abs=1e-3)


def test_a_crop_moves_the_window_by_at_most_its_share_of_the_side() -> None:
    found = origins(Augmentation(crop=0.2), 50, height=17, width=33)
    moved = found[:, :, 1, 1] - [8, 16]
    drawn = draws(50)[:, [DOWN, RIGHT]]
    assert moved == pytest.approx(drawn * [0.2 * 17, 0.2 * 33], abs=1e-2)


def test_beyond_the_border_the_border_goes_on() -> None:
    changed = augment(ramps(50, 9, 9), Augmentation(crop=0.5, rotate=180, zoom=0.5), stream())
    assert changed[:, 2].numpy() == pytest.approx(1, abs=1e-5)
    assert -1e-4 <= changed[:, :2].min() <= changed[:, :2].max() <= 8 + 1e-4


def test_intensity_scales_about_the_images_own_mean_and_shifts() -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = augment(images, Augmentation(intensity=0.3), stream()).numpy()
    drawn = draws(20)[:, :, None, None]
    means = images.mean(dim=(1, 2, 3), keepdim=True).numpy()
    gains, offsets = 1 + 0.3 * drawn[:, [CONTRAST]], 0.3 * drawn[:, [BRIGHTNESS]]
    assert changed == pytest.approx((images.numpy() - means) * gains + means + offsets, abs=1e-5)


@given(st.integers(0, 9), st.integers(0, 3))
def test_no_image_sees_another(place: int, seed: int) -> None:
    """Whatever the other images are, an image is changed in the same way."""
    settings = Augmentation(flip=True, rotate=20, crop=0.1, zoom=0.1, intensity=0.2)
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    others = torch.full_like(images, math.nan)
    others[place] = images[place]
    together = augment(images, settings, stream(seed))[place]
    alone = augment(others, settings, stream(seed))[place]
    assert torch.equal(together, alone)


def test_the_same_stream_makes_the_same_bits() -> None:
    settings = Augmentation(flip=True, rotate=20, intensity=0.2)
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first = augment(images, settings, stream())
    assert torch.equal(augment(images, settings, stream()), first)
    assert not torch.equal(augment(images, settings, stream(1)), first)
    assert not torch.equal(first, images)
