"""Grad-CAM: against its definition, and which feature map of which network is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.reasons.grad_cam import GRAD_CAM, feature_map
from common.models.networks import seeded_model
from common.study.study_file import Study
from tests.common.studies import small_study


def study_of(model: str, side: int, **settings: object) -> Study:
    dense = "unet" in model
    return small_study(
        task={"kind": "segmentation", "classes": ["lesion"]} if dense else {},
        model={"name": model, **settings},
        data={"image_size": [side, side]},
    )


@pytest.mark.parametrize(
    ("study", "places", "after"),
    [
        (study_of("cnn", 32, widths=[16, 16, 16], norm="group"), 8, "ReLU"),
        (study_of("cnn", 32, widths=[4, 4], hidden=8), 16, "ReLU"),
        (study_of("resnet18", 64), 4, "Sequential"),
        (study_of("resnet50", 64), 4, "Sequential"),
        (study_of("seresnet50", 64), 2, "Sequential"),
        (study_of("densenet121", 64), 2, "ReLU"),
        (study_of("efficientnet_b0", 64), 2, "GroupNorm"),
        (study_of("efficientnet_lite0", 64), 2, "ReLU6"),
        (study_of("efficientnet_lite0", 64, blocks=11), 4, "Sequential"),
        (study_of("unet", 32), 32, "PReLU"),
        (study_of("unet", 32, residual_units=0), 16, "SkipConnection"),
        (study_of("resunet", 32), 32, "ReLU"),
    ],
    ids=lambda value: value.model.name if isinstance(value, Study) else str(value),
)
def test_every_network_of_convolutions_fits(study: Study, places: int, after: str) -> None:
    assert GRAD_CAM.fits(study) is None
    model = seeded_model(study, 0)
    found = feature_map(model, study)
    assert found is not None
    assert found[1:] == (places, places)
    assert type(model.get_submodule(found.name)).__name__ == after
    image = torch.rand(study.shape, generator=torch.Generator().manual_seed(0))
    values = GRAD_CAM.of(model, study, image, 1)
    assert values.shape == study.shape[1:]
    assert np.isfinite(values).all()
    assert values.min() >= 0


def test_it_is_the_weighted_sum_of_the_maps() -> None:
    """With average pooling behind it, a channel's mean gradient is its weight over the places."""
    study = study_of("cnn", 8, widths=[3], norm="none", pooling="average")
    model = seeded_model(study, 2)
    assert isinstance(model, nn.Sequential)
    linear = model[-1]
    assert isinstance(linear, nn.Linear)
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = model[:2]((image[None] - study.data.mean) / study.data.std)[0]
        # The largest of four places alone has a gradient, 1 / 16 of the channel's weight.
        weights = linear.weight[1] / 16 / 4
        expected = torch.einsum("c,chw->hw", weights, maps).clamp(min=0)
    assert np.allclose(GRAD_CAM.of(model, study, image, 1), expected, atol=1e-7)


def test_a_model_without_convolutions_is_refused() -> None:
    why = GRAD_CAM.fits(small_study(model={"name": "scattering"}))
    assert why is not None
    assert "scattering" in why
    assert "contributions" in why


def test_a_network_whose_one_convolution_comes_first_is_refused() -> None:
    why = GRAD_CAM.fits(study_of("vit", 32))
    assert why is not None
    assert "vit has no feature map" in why
    assert "occlusion" in why


@pytest.mark.parametrize("study", [study_of("densenet121", 32)])
def test_a_map_of_one_place_is_refused(study: Study) -> None:
    why = GRAD_CAM.fits(study)
    assert why is not None
    assert "1 x 1" in why
    assert "occlusion" in why
