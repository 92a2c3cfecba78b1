"""Integrated gradients: completeness, and the values of a function whose integral is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.reasons.integrated_gradients import INTEGRATED_GRADIENTS, baseline
from client.reasons.score import Score
from tests.client.reasons.squares import examples, learned
from tests.common.studies import small_study


@pytest.mark.parametrize("model", ["cnn", "resunet", "unet", "scattering"])
def test_all_pixels_add_up_to_the_difference_of_the_scores(model: str) -> None:
    """Proposition 1 of Sundararajan et al. 2017, as far as the steps of the integral allow."""
    study, trained = learned(model)
    for image, _ in examples(model)[:2]:
        score = Score(trained, study, image, 1)
        with torch.no_grad():
            ends = score(torch.stack([image, baseline(image)]))[:, 0]
        total = INTEGRATED_GRADIENTS.of(trained, study, image, 1).sum(dtype=np.float64)
        assert total == pytest.approx(float(ends[0] - ends[1]), rel=0.02, abs=0.002)


class Squares(nn.Module):
    """Output 1 is the sum of the squared pixels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        total = (pixels**2).flatten(1).sum(dim=1)
        return torch.stack([total * 0, total], dim=1)


def test_a_square_has_the_difference_of_the_squares() -> None:
    """The integral of 2 x (v - b) along the way from b to v is v^2 - b^2, for each pixel."""
    study = small_study(data={"mean": 0.0, "std": 1})
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    values = INTEGRATED_GRADIENTS.of(Squares(), study, image, 1)
    assert np.allclose(values, image[0] ** 2 - image.mean() ** 2, atol=1e-5)


def test_colours_are_added() -> None:
    study = small_study(data={"mean": 0.0, "std": 1, "channels": 3})
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    values = INTEGRATED_GRADIENTS.of(Squares(), study, image, 1)
    assert np.allclose(values, (image**2 - image.mean() ** 2).sum(dim=0), atol=1e-5)
