"""Contributions: that they add up to the logit, whatever the image's size, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.reasons.contributions import CONTRIBUTIONS, addends
from common.models.networks import seeded_model
from common.study.study_file import Study
from tests.common.studies import DENSE, small_study


def study_of(size: tuple[int, int], channels: int = 1, **settings: object) -> Study:
    data = {"image_size": list(size), "channels": channels}
    return small_study(model={"name": "scattering", **settings}, data=data)


@pytest.mark.parametrize(
    "study",
    [
        study_of((8, 8)),
        study_of((33, 30)),
        study_of((24, 17), 3, scales=3, orientations=4),
        small_study(task={"kind": "regression", "classes": None}, model={"name": "scattering"}),
    ],
    ids=["small", "odd", "colour", "number"],
)
def test_the_map_and_the_bias_add_up_to_the_output(study: Study) -> None:
    model = seeded_model(study, 0)
    image = torch.rand(study.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model((image[None] - study.data.mean) / study.data.std)[0]
    for target, output in enumerate(outputs):
        values = CONTRIBUTIONS.of(model, study, image, target)
        assert values.shape == study.data.image_size
        bias = addends(model, study, image, target).bias
        assert values.sum(dtype=np.float64) + bias == pytest.approx(float(output), abs=1e-6)


def test_a_weight_counts_at_its_place_alone() -> None:
    """Only the low-pass weight of row 1, column 2 is not zero: a cell of 4 x 4 pixels."""
    study = study_of((16, 16))
    model = seeded_model(study, 0)
    with torch.no_grad():
        linear = model.get_submodule("2")
        assert isinstance(linear, nn.Linear)
        linear.weight.zero_()
        linear.weight[1].view(-1, 4, 4)[0, 1, 2] = 2.0
    image = torch.rand(study.shape, generator=torch.Generator().manual_seed(0))
    values = CONTRIBUTIONS.of(model, study, image, 1)
    feature = model.get_submodule("0")((image[None] - study.data.mean) / study.data.std)[0, 0, 1, 2]
    expected = np.zeros((16, 16))
    expected[4:8, 8:12] = 2.0 * float(feature) / 16
    assert np.allclose(values, expected, atol=1e-8)


def test_a_last_row_that_fills_no_place_gets_nothing() -> None:
    study = study_of((11, 10))
    image = torch.rand(study.shape, generator=torch.Generator().manual_seed(0))
    values = CONTRIBUTIONS.of(seeded_model(study, 0), study, image, 0)
    assert not values[8:].any()
    assert not values[:, 8:].any()
    assert values[:8, :8].all()


@pytest.mark.parametrize(
    ("study", "instead"),
    [
        (small_study(), "grad_cam"),
        (small_study(task={"kind": "segmentation", "classes": ["a"]}, model=DENSE), "occlusion"),
    ],
)
def test_another_model_is_refused_by_name(study: Study, instead: str) -> None:
    why = CONTRIBUTIONS.fits(study)
    assert why is not None
    assert study.model.name in why
    assert instead in why
