"""Occlusion: on a linear model, where the fall of the score follows from the hidden pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.reasons.occlusion import OCCLUSION, window
from common.models.networks import seeded_model
from common.study.study_file import Study
from tests.common.studies import DENSE, small_study


def sum_of_pixels(weight: float = 1.0) -> nn.Module:
    """A network whose output 1 is the sum of the normalised pixels."""
    linear = nn.Linear(256, 2, bias=False)
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.weight[1], weight)
    return nn.Sequential(nn.Flatten(), linear)


def test_a_pixel_has_the_mean_fall_of_the_windows_that_cover_it() -> None:
    """Of sixteen pixels a side, a window has two, and the next begins one further.

    One pixel of 256 is 1 and the mean 1/256. Each window that hides that pixel lowers the sum by
    1 - 4/256, divided by the deviation; every other one raises it by 4/256.
    """
    study = small_study(data={"image_size": [16, 16], "mean": 0.0, "std": 0.5})
    image = torch.zeros(1, 16, 16)
    image[0, 8, 8] = 1.0
    values = OCCLUSION.of(sum_of_pixels(), study, image, 1)
    fall, rise = (1 - 4 / 256) / 0.5, -4 / 256 / 0.5
    expected = np.full((16, 16), rise)
    # Of the four windows that cover a neighbour beside, two hide the pixel; of one across, one.
    expected[8, 8] = fall
    expected[[7, 9, 8, 8], [8, 8, 7, 9]] = (fall + rise) / 2
    expected[[7, 7, 9, 9], [7, 9, 7, 9]] = (fall + 3 * rise) / 4
    assert np.allclose(values, expected, atol=1e-5)


def test_hiding_what_lowers_the_score_is_below_zero() -> None:
    study = small_study(data={"image_size": [16, 16]})
    image = torch.zeros(1, 16, 16)
    image[0, 8, 8] = 1.0
    assert OCCLUSION.of(sum_of_pixels(-1.0), study, image, 1)[8, 8] < 0


@pytest.mark.parametrize(
    ("size", "hidden"), [((4, 4), (2, 2)), ((28, 30), (4, 4)), ((64, 128), (8, 16))]
)
def test_the_window_follows_from_the_images_size(
    size: tuple[int, int], hidden: tuple[int, int]
) -> None:
    assert window(size) == hidden


COLOUR = small_study(data={"channels": 3, "image_size": [8, 11]}, model={"pooling": "average"})
NUMBER = small_study(task={"kind": "regression", "classes": None})
MASKS = small_study(task={"kind": "segmentation", "classes": ["a"]}, model=DENSE)


@pytest.mark.parametrize("study", [COLOUR, NUMBER, MASKS], ids=["colour", "number", "masks"])
def test_every_kind_of_study_has_a_map(study: Study) -> None:
    image = torch.rand(study.shape, generator=torch.Generator().manual_seed(0))
    assert OCCLUSION.fits(study) is None
    values = OCCLUSION.of(seeded_model(study, 0), study, image, 0)
    assert values.shape == study.shape[1:]
    assert np.isfinite(values).all()


def test_a_model_that_lives_on_edges_is_refused() -> None:
    why = OCCLUSION.fits(small_study(model={"name": "scattering"}))
    assert why is not None
    assert "contributions" in why
