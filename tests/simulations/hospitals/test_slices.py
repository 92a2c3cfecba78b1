from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.hospitals.lesions import FOUR, LesionHospital
from simulations.hospitals.slices import (
    FAINT,
    GAP,
    MOST_SLICES,
    Body,
    Lesion,
    SliceLook,
    draw_body,
    render_slices,
)

EXACT = SliceLook(
    contrast=0.3,
    liver=0.4,
    fat=0.8,
    lesion_size=0.12,
    lesions=(1, 3),
    coil=0.0,
    noise=0.0,
    blur=0.0,
)
PLAIN = replace(draw_body(np.random.default_rng(0), EXACT, 1, affected=False), texture=7)


def rendered(
    body: Body, shape: tuple[int, int] = (96, 96), seed: int = 3
) -> list[tuple[np.ndarray, np.ndarray]]:
    return render_slices(body, EXACT, shape, np.random.default_rng(seed))


@pytest.mark.parametrize("hospital", FOUR, ids=lambda each: each.archive.name)
def test_every_scanner_gives_pictures_and_masks_of_one_shape(hospital: LesionHospital) -> None:
    rng = np.random.default_rng(0)
    for slices in range(1, MOST_SLICES + 1):
        body = draw_body(rng, hospital.look, slices, affected=True)
        stack = render_slices(body, hospital.look, (40, 32), rng)
        assert len(stack) == slices
        for picture, mask in stack:
            assert picture.shape == mask.shape == (40, 32)
            assert (picture.min(), picture.max()) >= (0, 0)
            assert picture.max() <= 1
            assert picture.std() > 0.05
            assert set(np.unique(mask)) <= {0, 1, 2}
            assert (mask == 1).any()


@pytest.mark.parametrize("hospital", FOUR, ids=lambda each: each.archive.name)
@pytest.mark.parametrize("slices", [1, MOST_SLICES])
def test_every_patient_with_lesions_shows_one_and_the_others_none(
    hospital: LesionHospital, slices: int
) -> None:
    rng = np.random.default_rng(1)
    for affected in (True, False):
        for _ in range(40):
            body = draw_body(rng, hospital.look, slices, affected=affected)
            stack = render_slices(body, hospital.look, (48, 48), rng)
            assert any((mask == 2).any() for _, mask in stack) == affected


def test_number_size_and_contrast_of_lesions_vary() -> None:
    rng = np.random.default_rng(2)
    drawn = [draw_body(rng, EXACT, 4, affected=True).lesions for _ in range(300)]
    assert {len(each) for each in drawn} == {1, 2, 3}
    lesions = [lesion for each in drawn for lesion in each]
    radii = [lesion.radius for lesion in lesions]
    assert np.quantile(radii, 0.9) > 2 * np.quantile(radii, 0.1)
    faint = [lesion.contrast < 0.6 * EXACT.contrast for lesion in lesions]
    assert np.mean(faint) == pytest.approx(FAINT, abs=0.05)


def test_a_lesion_brightens_the_pixels_of_its_mask_and_no_others() -> None:
    """Its edge is where it is half as bright as in its middle."""
    lesion = Lesion((-0.35, -0.05, 0.0), radius=0.2, aspect=1.2, angle=0.5, contrast=0.3)
    (without, plain), (with_it, mask) = (
        rendered(body)[0] for body in (PLAIN, replace(PLAIN, lesions=(lesion,)))
    )
    brighter = with_it - without > 0.15
    assert (mask == 2).sum() > 100
    # A pixel whose middle is on the edge may count either way.
    assert (brighter != (mask == 2)).sum() <= 2
    assert np.array_equal(plain > 0, mask > 0)


def test_a_lesion_is_a_ball_through_the_slices() -> None:
    """Radius 0.2 and slices 0.16 apart: the next circle has radius 0.12, and then there is none."""
    lesion = Lesion((-0.35, -0.05, 0.0), radius=0.2, aspect=1.0, angle=0.0, contrast=0.3)
    body = replace(PLAIN, slices=3, lesions=(lesion,))
    areas = [int((mask == 2).sum()) for _, mask in rendered(body)]
    assert pytest.approx(0.16) == GAP
    assert areas[1] / areas[0] == pytest.approx((0.12 / 0.2) ** 2, rel=0.1)
    assert areas[2] == 0


def test_a_lesion_stays_inside_the_liver() -> None:
    lesion = Lesion((-0.7, -0.05, 0.0), radius=0.26, aspect=1.0, angle=0.0, contrast=0.3)
    plain, ill = (rendered(body)[0][1] for body in (PLAIN, replace(PLAIN, lesions=(lesion,))))
    assert np.array_equal(ill > 0, plain > 0)
    assert (ill == 2).any()


def test_brightness_alone_finds_no_lesion() -> None:
    """Fat, gallbladder and spinal canal are brighter than any lesion."""
    rng = np.random.default_rng(4)
    body = draw_body(rng, EXACT, 1, affected=True)
    picture, mask = render_slices(body, EXACT, (96, 96), rng)[0]
    assert (picture[mask == 0] > np.quantile(picture[mask == 2], 0.5)).mean() > 0.02


def test_the_same_generator_draws_the_same_slices() -> None:
    first, second = (rendered(replace(PLAIN, slices=2), seed=5) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
