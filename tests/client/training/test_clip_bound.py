"""No patient moves a sum by more than the clip norm and gamma, whatever the arithmetic.

Norms are measured in float64. One patient's own arithmetic (the norm, the factor, the product)
may take a quarter of gamma; the rest is for the rounding of a sum over patients. An adversary's
search for more is ``tests/adversary/test_engine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client.training.gradients import GradientSum
from client.training.sampling import Batch
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import GAMMA, PatientMechanism
from tests.common.studies import classification

ALONE = GAMMA / 4
UNCLIPPED = 1e37
ALIKE = {"one third": "constant", "geometric": "normal"}
"""Numbers of one kind: all equal, or none."""
JUST = (1e-1, 1e-3, 1e-5, 1e-7, 0.0, -1e-7, -1e-5)
"""How far below the gradient's norm the clip norm is: relative."""


def clipping(norm: float) -> PatientMechanism:
    return PatientMechanism(
        step=SampledGaussian(sampling_rate=0.5, noise_multiplier=1.0, count=1),
        evaluation=None,
        most_sampled=10**9,
        clip_norm=norm,
        divisor=1.0,
        cell_noise=0.0,
        epsilon_training=1.0,
        epsilon_evaluation=0.0,
        delta=1e-5,
    )


def clipped(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: list[int],
    norm: float,
    weights: tuple[float, ...] | None = None,
    *,
    tile: int = 16,
) -> torch.Tensor:
    """The sum of clipped gradients, float64."""
    batch, choice = Batch(pixels, torch.tensor(labels)), EngineChoice(tile=tile)
    return GradientSum(model, clipping(norm), classification(weights), choice).over([batch])


def patient(*images: torch.Tensor) -> torch.Tensor:
    """Pixels of one patient with these images."""
    return torch.stack(images)[None]


def require_bounded(
    model: nn.Module,
    pixels: torch.Tensor,
    weights: tuple[float, ...] | None = None,
    allowed: float = ALONE,
) -> float:
    """At clip norms around the gradient's own; returns that."""
    true = float(clipped(model, pixels, [0], UNCLIPPED, weights).norm())
    assert true > 0
    for below in JUST:
        norm = true * (1 - below)
        found = float(clipped(model, pixels, [0], norm, weights).norm())
        assert found <= norm * (1 + allowed)
        assert found >= min(norm, true) * (1 - 10 * allowed)
    return true


def dense(features: int, classes: int = 2, *, bias: bool = True) -> nn.Module:
    """A model whose gradient is known: with zero weights each class is as likely."""
    layer = nn.Linear(features, classes, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Flatten(), layer)


def small_network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.GroupNorm(2, width),
        nn.Tanh(),
        nn.Conv2d(width, width, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 9, 3),
    )


@pytest.mark.matrix(fill=lambda fill: ALIKE.get(fill, fill))
@pytest.mark.parametrize("fill", ["constant", "one third", "one large", "normal", "geometric"])
def test_a_norm_over_millions_of_numbers_loses_none_of_them(fill: str) -> None:
    """Running float32 sums of squares stop growing: a norm over 4 million comes out 0.3 % short."""
    features = 2**21
    image = {
        "constant": torch.full((features,), 0.1),
        "one third": torch.full((features,), 1 / 3),
        "one large": torch.cat([torch.tensor([1000.0]), torch.full((features - 1,), 0.1)]),
        "normal": torch.randn(features, generator=torch.manual_seed(0)),
        "geometric": torch.logspace(-6, 0, features),
    }[fill]
    require_bounded(dense(features), patient(image.view(1, 1, -1)))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1.0, 1e4, 1e9, 1e15])
def test_huge_and_tiny_gradients_are_held_alike(scale: float) -> None:
    image = torch.randn(1, 40, 40, generator=torch.manual_seed(1)) * scale
    if scale >= 1e-12:
        require_bounded(dense(1600), patient(image))
    for norm in (1e-6, 1.0, 1e3):
        found = clipped(dense(1600), patient(image), [0], norm)
        assert float(found.norm()) <= norm * (1 + ALONE)


@pytest.mark.parametrize("scale", [1e-38, 1e-41, 1e-45])
def test_what_underflows_adds_nothing_to_speak_of(scale: float) -> None:
    """Denormal gradients, whose squares are zero: 4 million of them are still far below C."""
    image = torch.full((1, 1, 2**21), scale)
    assert float(clipped(dense(2**21), patient(image), [0], 1e-6).norm()) <= 1e-6


@pytest.mark.parametrize("scale", [1e20, 1e25, 1e38, math.inf, math.nan])
def test_what_overflows_counts_as_zero_or_is_held(scale: float) -> None:
    image = torch.ones(1, 30, 30)
    image[0, 0, 0] = scale
    found = clipped(dense(900), patient(image), [0], 1.0)
    assert torch.isfinite(found).all()
    assert float(found.norm()) <= 1 + ALONE


@pytest.mark.parametrize("left", [1e-1, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("large", [1.0, 1e4])
def test_images_of_a_patient_that_cancel_leave_what_is_left_bounded(
    left: float, large: float
) -> None:
    """Two images with opposite gradients: their mean is small, their norms are not.

    A Gram matrix of them has errors that are larger than what is left.
    """
    image = torch.randn(1, 40, 40, generator=torch.manual_seed(2)) * large
    require_bounded(dense(1600), patient(image, -(image * (1 - left))))
    several = patient(image, -image, image * (1 + left), -image)
    require_bounded(dense(1600), several)


def positions(*, kernel: int, channels: int = 1, width: int = 4) -> nn.Module:
    """A convolution whose output gradients are equal at all positions."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2, bias=False),
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("large", [1.0, 1e3, 1e6])
def test_positions_that_cancel_leave_what_is_left_bounded(kernel: int, large: float) -> None:
    """A checkerboard: a weight's gradient is the sum over pixels, which nearly vanishes."""
    rows, columns = torch.meshgrid(torch.arange(33), torch.arange(32), indexing="ij")
    board = large * (1.0 - 2.0 * ((rows + columns) % 2))
    noise = torch.randn(33, 32, generator=torch.manual_seed(4))
    require_bounded(positions(kernel=kernel), patient((board + noise)[None]))


@pytest.mark.parametrize("weight", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_the_loss_may_be_scaled_by_any_class_weight(weight: float) -> None:
    image = torch.rand(1, 8, 8, generator=torch.manual_seed(5))
    require_bounded(small_network(), patient(image), (weight, 1.0, 1.0))


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 4),
    scale=st.floats(-15, 15),
    weight=st.floats(-6, 6),
    norm=st.floats(-6, 4),
    grown=st.floats(-4, 3),
)
@settings(max_examples=60, deadline=None)
def test_no_patient_of_any_network_is_longer_than_the_clip_norm(
    *, seed: int, images: int, scale: float, weight: float, norm: float, grown: float
) -> None:
    """Scales of images, weights, losses and clips drawn over many powers of ten."""
    model = small_network()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10**grown)
    pixels = torch.randn(1, images, 1, 8, 8, generator=generator) * 10**scale
    found = clipped(model, pixels, [1], 10**norm, (1.0, 10**weight, 1.0))
    assert torch.isfinite(found).all()
    assert float(found.norm()) <= 10**norm * (1 + ALONE)


LAYERS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "network": lambda: (small_network(), (1, 8, 8)),
    "positions": lambda: (positions(kernel=3), (1, 33, 32)),
    "dense": lambda: (dense(1600), (1, 40, 40)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activations_of_sixteen_bits_are_held_as_tightly(name: str) -> None:
    """A gradient's two factors have 8 bits; their products, norm and sum have 24."""
    model, shape = LAYERS[name]()
    image = torch.randn(shape, generator=torch.manual_seed(6)).bfloat16()
    require_bounded(model.bfloat16(), patient(image))


@pytest.mark.matrix
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("tile", [1, 7, 64])
def test_adding_a_patient_moves_the_computed_sum_by_at_most_the_clip_norm_and_gamma(
    alike: bool, tile: int
) -> None:
    """Rounding of the others' sum differs with and without; most where all point one way."""
    many, generator = 300, torch.manual_seed(7)
    first = torch.randn(1, 1, 8, 8, generator=generator)
    others = torch.randn(many, 1, 1, 8, 8, generator=generator)
    pixels = first.expand(many, 1, 1, 8, 8) + (0.01 if alike else 1.0) * others
    labels, norm = [0] * many, 1e-2
    model = small_network()
    with_all = clipped(model, pixels.contiguous(), labels, norm, tile=tile)
    assert float(with_all.norm()) > (0.9 * many * norm if alike else 0.0)
    for place in (0, many // 2, many - 1):
        kept = [index for index in range(many) if index != place]
        without = clipped(model, pixels[kept], labels[1:], norm, tile=tile)
        assert float((with_all - without).norm()) <= norm * (1 + GAMMA)
