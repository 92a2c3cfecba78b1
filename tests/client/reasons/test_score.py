"""The number that is explained: which output, over which pixels, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from client.reasons.score import Score, as_map
from common.errors import DataError, ModelError
from common.study.study_file import Study
from tests.common.studies import DENSE, small_study

DENSE_STUDY = small_study(
    task={"kind": "segmentation", "classes": ["a", "b"]}, model=DENSE, data={"mean": 0.0, "std": 1}
)


class Channels(nn.Module):
    """Background has the logit 0.5 everywhere; a has the pixel, b its negative."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(pixels, 0.5), pixels, -pixels], dim=1)


def ramp() -> torch.Tensor:
    return torch.arange(64.0).view(1, 8, 8) / 64


def test_it_is_the_output_of_the_normalised_image() -> None:
    study = small_study(data={"mean": 0.25, "std": 0.5})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    score = Score(model, study, ramp(), 1)
    expected = model((ramp()[None] - 0.25) / 0.5)[:, 1:]
    assert torch.equal(score(ramp()[None]), expected)


def test_a_class_has_the_pixels_where_it_is_the_largest() -> None:
    """Above 0.5 a is: 33/64 to 63/64, whose sum is 31 * 48 / 64."""
    score = Score(Channels(), DENSE_STUDY, ramp(), 1)
    assert float(score(ramp()[None])) == 31 * 48 / 64


def test_the_pixels_stay_those_of_the_image_when_it_changes() -> None:
    score = Score(Channels(), DENSE_STUDY, ramp(), 1)
    assert float(score(torch.ones(1, 1, 8, 8))) == 31


def test_a_class_that_is_nowhere_has_all_pixels() -> None:
    score = Score(Channels(), DENSE_STUDY, ramp(), 2)
    assert float(score(ramp()[None])) == -63 * 64 / 2 / 64


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_holds_no_number_is_refused(value: float) -> None:
    image = ramp()
    image[0, 3, 4] = value
    with pytest.raises(DataError, match="not numbers"):
        Score(Channels(), DENSE_STUDY, image, 1)


def test_weights_that_give_no_number_are_refused() -> None:
    linear = nn.Linear(64, 2)
    nn.init.constant_(linear.bias, math.inf)
    model = nn.Sequential(nn.Flatten(), linear)
    with pytest.raises(ModelError, match="no numbers"):
        Score(model, small_study(), ramp(), 1)
    with pytest.raises(ModelError, match="no numbers"):
        as_map(torch.tensor([[math.nan]]))


@pytest.mark.parametrize(
    ("image", "target"), [(torch.zeros(1, 8, 9), 0), (ramp(), 3), (ramp(), -1)]
)
def test_another_shape_or_output_is_refused(image: torch.Tensor, target: int) -> None:
    study: Study = DENSE_STUDY
    with pytest.raises(ValueError, match=r"shape|output"):
        Score(Channels(), study, image, target)
