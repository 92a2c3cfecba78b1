from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.hospitals.phantom import FAINT, MIMICS, Anatomy, Opacity, draw_anatomy, render
from simulations.hospitals.scanners import FOUR, NORTH, SyntheticHospital

PLAIN = Anatomy(
    width=1.0,
    height=1.0,
    lung_depth=0.34,
    heart=1.0,
    diaphragm=0.58,
    rib_phase=0.0,
    rib_slope=0.45,
    vessels=7,
    nipples=False,
    bedside=False,
    opacities=(),
)
SILENT = replace(NORTH.look, noise=0.0)


@pytest.mark.parametrize("hospital", FOUR, ids=lambda each: each.name)
def test_every_scanner_gives_a_picture_between_black_and_white(hospital: SyntheticHospital) -> None:
    rng = np.random.default_rng(0)
    for affected in (False, True):
        anatomy = draw_anatomy(rng, hospital.look, affected=affected)
        picture = render(anatomy, hospital.look, (40, 32), rng)
        assert picture.shape == (40, 32)
        assert np.isfinite(picture).all()
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert picture.std() > 0.05


@pytest.mark.parametrize("hospital", FOUR, ids=lambda each: each.name)
def test_the_ill_have_opacities_and_a_few_others_one_scar(hospital: SyntheticHospital) -> None:
    rng = np.random.default_rng(1)
    least, most = hospital.look.lesions
    ill = [draw_anatomy(rng, hospital.look, affected=True) for _ in range(400)]
    well = [draw_anatomy(rng, hospital.look, affected=False) for _ in range(400)]
    assert {len(each.opacities) for each in ill} == set(range(least, most + 1))
    scarred = [len(each.opacities) for each in well]
    assert max(scarred) == 1
    assert np.mean(scarred) == pytest.approx(MIMICS, abs=0.04)
    faint = [each.opacities[0].contrast < 0.5 * hospital.look.contrast for each in ill]
    assert np.mean(faint) == pytest.approx(FAINT, abs=0.05)


def test_who_is_pictured_in_bed_goes_with_illness_as_the_hospital_says() -> None:
    rng = np.random.default_rng(2)
    for affected, share in enumerate(NORTH.look.bedside):
        drawn = [draw_anatomy(rng, NORTH.look, affected=bool(affected)) for _ in range(400)]
        assert np.mean([each.bedside for each in drawn]) == pytest.approx(share, abs=0.08)


def test_an_opacity_brightens_the_lung_where_it_lies_and_nothing_far_away() -> None:
    lesion = Opacity(x=0.4, y=0.0, radius=0.12, aspect=1.0, angle=0.0, contrast=0.3)
    ill = replace(PLAIN, opacities=(lesion,))
    without = render(PLAIN, SILENT, (64, 64), np.random.default_rng(3))
    with_it = render(ill, SILENT, (64, 64), np.random.default_rng(3))
    change = with_it - without
    row, column = np.unravel_index(np.argmax(change), change.shape)
    assert abs(row - 32) <= 6
    assert abs(column - 44) <= 6
    assert change[row, column] > 0.1
    assert np.abs(change[:, :20]).max() < 0.01


def test_the_same_generator_draws_the_same_picture() -> None:
    pictures = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        anatomy = draw_anatomy(rng, NORTH.look, affected=True)
        pictures.append(render(anatomy, NORTH.look, (32, 32), rng))
    assert np.array_equal(pictures[0], pictures[1])


def test_two_exposures_of_one_patient_differ() -> None:
    rng = np.random.default_rng(6)
    first, second = (render(PLAIN, NORTH.look, (32, 32), rng) for _ in range(2))
    assert not np.array_equal(first, second)
