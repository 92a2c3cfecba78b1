"""Networks with numbers for each pixel: as many pixels come out as went in, of that image alone."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from common.errors import ModelError
from common.models.networks import build_model, check_private, sketch, weights_count
from common.models.resunet import ResUNetSpec
from common.models.spec import ModelSpec, Shape
from common.models.unet import UNetSpec
from common.study.study_file import Study
from common.tasks.task import Heads
from tests.common.studies import small_study

SMALL: dict[str, ModelSpec] = {
    "unet": UNetSpec(widths=(4, 8, 8)),
    "unet, plain": UNetSpec(widths=(4, 8), residual_units=0, norm="instance", activation="relu"),
    "resunet": ResUNetSpec(widths=(4, 8, 8)),
    "resunet, smooth": ResUNetSpec(
        widths=(4, 8), norm="instance", upsampling="bilinear", activation="tanh", residual_units=2
    ),
}


def study(size: tuple[int, int] = (16, 16), **model: Any) -> Study:  # noqa: ANN401 - as TOML gives
    return small_study(
        task={"kind": "segmentation", "classes": ["lesion"]},
        data={"image_size": size},
        model={"name": "unet"} | model,
    )


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_every_pixel_gets_its_numbers_from_its_own_image(spec: ModelSpec) -> None:
    model = spec.build(Shape(3, 8, 16), Heads(5, dense=True))
    check_private(model)
    assert model.training
    images, others = torch.randn((2, 3, 3, 8, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(images)
        changed = model(torch.cat([images[:1], others[1:]]))
    assert found.shape == (3, 5, 8, 16)
    assert torch.allclose(found[0], changed[0], atol=1e-5)
    assert not torch.allclose(found[1], changed[1], atol=1e-3)


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_layers_are_normalised_within_one_image_and_nothing_is_dropped(spec: ModelSpec) -> None:
    model = spec.build(Shape(1, 16, 16), Heads(2, dense=True))
    norms = [each for each in model.modules() if isinstance(each, nn.GroupNorm)]
    instance = spec.model_dump()["norm"] == "instance"
    assert norms
    for each in norms:
        wanted = each.num_channels if instance else gcd(8, each.num_channels)
        assert each.num_groups == wanted
    assert not any(each.p for each in model.modules() if isinstance(each, nn.Dropout))
    assert not any(each.inplace for each in model.modules() if isinstance(each, nn.ReLU))


@settings(max_examples=10, deadline=None)
@given(
    strides=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
def test_a_size_fits_or_the_error_names_some_that_do(
    strides: list[int], size: tuple[int, int]
) -> None:
    model = {"widths": [16] * (len(strides) + 1), "strides": strides, "residual_units": 1}
    step = prod(strides)
    if all(side % step == 0 for side in size):
        fits = [size]
    else:
        with pytest.raises(ModelError, match="cannot take images of this size") as caught:
            sketch(study(size, **model))
        assert caught.value.details["found"] == f"{size[0]}x{size[1]}"
        told = caught.value.details["wanted"]
        assert told.startswith(f"sides that are multiples of {step}, such as ")
        fits = [each for word in told.split() if (each := _size(word))]
        assert len(fits) == 2
    for each in fits:
        with torch.device("meta"):
            found = sketch(study(each, **model))(torch.zeros(1, 1, *each))
        assert found.shape == (1, 2, *each)


def _size(word: str) -> tuple[int, int] | None:
    height, _, width = word.partition("x")
    return (int(height), int(width)) if height.isdigit() and width.isdigit() else None


def test_the_small_residual_one_halves_at_every_level() -> None:
    with pytest.raises(ModelError, match="cannot take images of this size") as caught:
        build_model(study((10, 16), name="resunet"))
    assert "multiples of 4, such as 8x16 or 12x20" in caught.value.details["wanted"]


def test_the_small_residual_one_has_the_weights_that_a_hand_counts() -> None:
    """Convolutions 9 x in x out + out or in x out + out; a norm has two numbers a channel."""
    block = {width: 2 * width + 9 * width * width + width for width in (4, 8)}
    level = 2 * block[4] + (9 * 4 * 8 + 8) + block[8] + (8 * 4 + 4)
    assert weights_count(study(name="resunet", widths=[4, 8])) == 40 + level + 8 + (4 * 2 + 2)


def test_there_is_one_stride_between_two_levels() -> None:
    with pytest.raises(ValidationError, match="strides has 1 numbers, widths 3"):
        study(widths=[4, 4, 4], strides=[2])


def test_groups_divide_the_widths_and_fit_the_outputs() -> None:
    groups = [
        each.num_groups
        for each in build_model(study(widths=[8, 16], groups=4)).modules()
        if isinstance(each, nn.GroupNorm)
    ]
    assert set(groups) == {4, 2}
    with pytest.raises(ModelError, match="cannot be split into groups") as caught:
        build_model(study(widths=[8, 12], groups=8))
    assert caught.value.details["found"] == "12 channels, 8 groups"


@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_a_model_too_large_to_travel_is_refused_before_it_is_built(name: str) -> None:
    with pytest.raises(ModelError, match="too many weights"):
        build_model(study(name=name, widths=[4096, 4096, 4096]))
