"""Fixed features: what each channel answers to, and that nothing about them is learned."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.models.wavelets import Scattering, wavelets


def images(count: int = 3, channels: int = 1, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, *size, generator=generator)


def stripes(angle: float, length: float, side: int = 32) -> torch.Tensor:
    """A wave whose brightness changes along ``angle`` (radians from the right, downwards)."""
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    along = right * math.cos(angle) + down * math.sin(angle)
    return (0.5 + 0.5 * torch.cos(2 * math.pi * along / length)).view(1, 1, side, side)


@pytest.mark.parametrize("orientation", range(8))
def test_stripes_are_strongest_in_the_channel_of_their_orientation(orientation: int) -> None:
    features = Scattering(1, 8)(stripes(math.pi * orientation / 8, length=2.8))
    assert int(features[0, 1:].mean(dim=(1, 2)).argmax()) == orientation


def test_an_image_twice_as_large_looks_the_same_one_scale_higher() -> None:
    small = images(2)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    fine, coarse = Scattering(1, 8)(small), Scattering(2, 8)(large)
    assert torch.allclose(coarse[:, 9:] * math.sqrt(3), fine[:, 1:] * math.sqrt(2), atol=1e-5)
    assert torch.allclose(coarse[:, 0] * math.sqrt(3), fine[:, 0] * math.sqrt(2), atol=1e-5)


def test_wavelets_have_mean_zero_and_are_made_once() -> None:
    filters = wavelets(6)
    assert filters.shape == (12, 1, 7, 7)
    assert filters.dtype == torch.float64
    assert filters.sum(dim=(1, 2, 3)).abs().max() < 1e-12
    assert wavelets(6) is filters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scales", "size"), [(1, (8, 9)), (2, (28, 28)), (3, (33, 16))])
def test_shape_and_norm_are_as_promised(channels: int, scales: int, size: tuple[int, int]) -> None:
    stem = Scattering(scales, 4)
    features = stem(images(2, channels, size))
    places = (size[0] >> scales, size[1] >> scales)
    assert features.shape == (2, stem.channels(channels), *places)
    assert torch.allclose(features.flatten(1).norm(dim=1), torch.ones(2), atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.5, 2.0), offset=st.floats(-1.0, 1.0))
def test_exposure_changes_little(gain: float, offset: float) -> None:
    """Contrast and brightness of an image go out with its own mean and norm."""
    stem, picture = Scattering(2, 8), 4 * images(1)
    difference = stem(gain * picture + offset) - stem(picture)
    assert difference.norm() < 0.1


def test_an_image_does_not_see_the_others() -> None:
    stem, batch = Scattering(2, 8), images(3)
    assert torch.allclose(stem(batch)[:1], stem(batch[:1]), atol=1e-6)


def test_there_is_nothing_to_learn_and_no_state_to_travel() -> None:
    stem = Scattering(2, 8)
    stem(images())
    assert not list(stem.parameters())
    assert not list(stem.buffers())
    assert not stem.state_dict()
    copy.deepcopy(stem)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_features_come_in_the_images_dtype(dtype: torch.dtype) -> None:
    features = Scattering(2, 8)(images().to(dtype))
    assert features.dtype == dtype
    assert torch.allclose(features.double(), Scattering(2, 8)(images().double()), atol=0.02)


def test_an_even_image_has_a_finite_slope() -> None:
    """Where nothing is seen, neither the root nor the normalisation may blow up."""
    picture = torch.full((1, 1, 16, 16), 0.3, requires_grad=True)
    Scattering(2, 8)(picture).sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()
