"""Networks: any that is drawn gives the loop's sum; in float32, as exactly as the loop does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import nn

from client.engine.clipped import Patients, clipped_sum, place
from client.engine.convolution import ConvolutionRule
from client.engine.layers import rule_of, served
from client.engine.linear import LinearRule
from client.engine.probe import require_sound
from client.engine.vmapped import VmappedRule
from client.training.gradients import summed_loss
from client.training.targets import TARGETS
from common.models.resunet import ResUNetSpec
from common.models.spec import ModelSpec, Shape
from common.models.unet import UNetSpec
from common.numerics import EngineChoice
from common.tasks.segmentation import Segmentation
from common.tasks.task import Heads
from tests.client.engine.loop import (
    LAYOUTS,
    Layout,
    Net,
    biting,
    clipped_by_hand,
    exact,
    gradients_of,
    layers_of,
    loss,
    patients_of,
    require_same,
)

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.SiLU, nn.Softplus)
CONVOLUTIONS: dict[tuple[int, bool], Callable[..., nn.Module]] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
}


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(value)
        return found + value


@st.composite
def spatial(draw: st.DrawFn, dimensions: int, channels: int) -> tuple[Callable[[], nn.Module], int]:
    """A layer for (items, channels, *space), and the channels that it gives."""
    kind = draw(st.sampled_from(["convolution", "normalisation", "activation", "residual"]))
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS)), channels
    if kind == "normalisation":
        groups = draw(st.integers(1, channels // 2))  # one number alone has no deviation
        return lambda: nn.GroupNorm(groups, channels), channels
    if kind == "residual":
        width = draw(st.sampled_from([1, 3]))
        convolution = CONVOLUTIONS[dimensions, False]
        return lambda: Residual(convolution(channels, channels, width, padding="same")), channels
    transposed = draw(st.booleans())
    groups, width = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    stride, bias = draw(st.integers(1, 2)), draw(st.booleans())
    dilation = 1 if transposed else draw(st.integers(1, 2))
    out = draw(st.sampled_from([2, 4]))
    given = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias}
    padding = dilation * (width - 1) // 2
    call = CONVOLUTIONS[dimensions, transposed]
    return lambda: call(channels, out, width, padding=padding, **given), out


@st.composite
def networks(draw: st.DrawFn) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """A small network, and the shape of an item."""
    dimensions, channels = draw(st.integers(1, 2)), 2
    builders: list[Callable[[], nn.Module]] = []
    for _ in range(draw(st.integers(1, 4))):
        layer, channels = draw(spatial(dimensions, channels))
        builders.append(layer)
    head = draw(st.sampled_from(["flat", "average", "dense at positions", "recurrent"]))

    def build() -> nn.Module:
        return nn.Sequential(*(each() for each in builders), ending(head, channels))

    return build, (2, *(draw(st.integers(4, 6)) for _ in range(dimensions)))


def ending(head: str, channels: int) -> nn.Module:
    if head == "flat":
        return nn.Sequential(nn.Flatten(), nn.Tanh())
    if head == "average":
        return Net(
            lambda net, value: net.last(value.flatten(2).mean(2)), last=nn.Linear(channels, 2)
        )
    layers = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 3), nn.Tanh())
    if head == "dense at positions":
        return Net(lambda net, value: net.each(value.flatten(2).mT), each=layers)
    return Net(
        lambda net, value: net.reader(value.flatten(2).mT)[0][:, -1],
        reader=nn.GRU(channels, 3, batch_first=True),
    )


@given(
    drawn=networks(),
    seed=st.integers(0, 2**31 - 1),
    items=st.integers(1, 3),
    tile=st.integers(1, 16),
    convolution=st.sampled_from([*ConvolutionRule.kernels, None]),
    dense=st.sampled_from([*LinearRule.kernels, None]),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=settings().max_examples * 2 // 5)
def test_any_network_gives_the_loops_sum(
    *,
    drawn: tuple[Callable[[], nn.Module], tuple[int, ...]],
    seed: int,
    items: int,
    tile: int,
    convolution: str | None,
    dense: str | None,
    layout: Layout,
) -> None:
    build, shape = drawn
    model = exact(lambda: nn.Sequential(build(), nn.Flatten()), seed)
    wide = model(torch.zeros(1, *shape, dtype=torch.float64)).shape[1]
    model = exact(lambda: nn.Sequential(build(), nn.Flatten(), nn.Linear(wide, 3)), seed)
    patients = patients_of(*shape, items=items, count=4, seed=seed)
    kernels = {
        layer.name: kernel
        for layer in layers_of(model, patients)
        for kernel in (convolution, dense)
        if kernel is not None and kernel in layer.rule.kernels
    }
    choice = EngineChoice(kernels=kernels, memory_format=layout, tile=tile)
    # What a ghost norm's rounding may come to is added to it.
    require_same(model, patients, choice, within=1e-8)


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 2),
    )


def grouped(model: nn.Module) -> nn.Module:
    """The same model with group normalisation, and nothing done in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(4, child.num_features))
            elif isinstance(child, nn.ReLU):
                setattr(parent, name, nn.ReLU())
        if isinstance(parent, ResNetBlock):
            parent.bn2 = nn.Sequential(parent.bn2, Net(lambda _, value: value.clone()))
    return model


def small_resnet() -> nn.Module:
    """ResNet-18's blocks, a sixteenth as wide."""
    return grouped(
        ResNet(
            "basic", [2, 2, 2, 2], [4, 8, 16, 32], spatial_dims=2, n_input_channels=1, num_classes=2
        )
    )


def small_densenet() -> nn.Module:
    """DenseNet's blocks, few and narrow."""
    return grouped(
        DenseNet(2, 1, 2, init_features=8, growth_rate=4, block_config=(2, 3), bn_size=2)
    )


DENSE: dict[str, ModelSpec] = {
    "unet": UNetSpec(widths=(4, 8), residual_units=1),
    "resunet": ResUNetSpec(
        widths=(4, 8), norm="instance", activation="silu", upsampling="bilinear"
    ),
}


def small(name: str) -> Callable[[], nn.Module]:
    return partial(DENSE[name].build, Shape(1, 16, 16), Heads(2, dense=True))


MODELS = {
    "cnn": small_cnn,
    "resnet18": small_resnet,
    "densenet": small_densenet,
    **{name: small(name) for name in DENSE},
}
KERNELS = (None, "ghost", "patches", "looped")
DRAWN = 5


@pytest.mark.matrix
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_networks_of_the_kinds_that_studies_use_give_the_loops_sum(
    name: str, kernel: str | None
) -> None:
    model, patients = exact(MODELS[name]), patients_of(1, 16, 16, items=2, count=4)
    for layout in LAYOUTS if kernel is None else LAYOUTS[:1]:
        require_same(model, patients, choice_of(model, patients, kernel, layout))


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_networks_of_the_kinds_that_studies_use_are_let_through(name: str, layout: Layout) -> None:
    patients = patients_of(1, 16, 16, count=5)
    require_sound(exact(MODELS[name]), patients, loss, EngineChoice(memory_format=layout))


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DENSE)
def test_with_a_loss_of_pixels_a_patient_has_the_same_bits_at_every_place(
    name: str, layout: Layout
) -> None:
    """In float32, as training has it, and with no layer left to ``torch.func``."""
    task = Segmentation(classes=("lesion",))
    images = patients_of(1, 16, 16, count=3, items=2)
    masks = TARGETS["mask"].made_up(task, 3, 2, (16, 16))
    patients, summed = Patients(images.inputs.float(), masks), summed_loss(task)
    model = exact(MODELS[name]).float()
    assert not any(isinstance(each, VmappedRule) for each in rules_of(model))
    require_sound(model, patients, summed, EngineChoice(memory_format=layout, tile=4))


def rules_of(model: nn.Module) -> list[object]:
    """Of every module that holds parameters."""
    return [rule_of(module) or VmappedRule() for _, module in served(model)]


def choice_of(
    model: nn.Module, patients: Patients, kernel: str | None, layout: Layout
) -> EngineChoice:
    """The kernel for convolutions; its like for dense layers."""
    dense = "ghost" if kernel == "ghost" else "materialised"
    kernels = {
        layer.name: kernel if kernel in layer.rule.kernels else dense
        for layer in layers_of(model, patients)
        if kernel is not None
    }
    return EngineChoice(kernels=kernels, memory_format=layout)


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MODELS)
def test_float32_is_at_most_twice_as_far_from_float64_as_the_loop_is(
    name: str, kernel: str | None, layout: Layout
) -> None:
    """Root mean square over draws of weights and images, with clipping and without.

    The loop's images and weights lie in memory in the same order: the library's own kernels
    round otherwise in another.
    """
    ours, loops = list[float](), list[float]()
    for seed in range(DRAWN):
        model = MODELS[name]()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        drawn = patients_of(1, 16, 16, count=6, seed=seed)
        patients = Patients(drawn.inputs.float(), drawn.targets)
        doubled = Patients(patients.inputs.double(), patients.targets)
        rows = gradients_of(copy.deepcopy(model).double(), doubled)
        choice = choice_of(model, patients, kernel, layout)
        place(model, choice)
        single = gradients_of(model, in_order(patients, layout))
        for clip_norm in (math.inf, biting(rows)):
            true = clipped_by_hand(rows, clip_norm)
            found = clipped_sum(model, patients, loss, clip_norm, choice)
            ours.append(float((found - true).norm() / true.norm()))
            loops.append(float((clipped_by_hand(single, clip_norm) - true).norm() / true.norm()))
    assert root_mean_square(ours) <= 2 * root_mean_square(loops)


def in_order(patients: Patients, layout: Layout) -> Patients:
    """The same images, each patient's in memory as the layout has it."""
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    images = patients.inputs.flatten(0, 1).contiguous(memory_format=order)
    return Patients(images.unflatten(0, patients.inputs.shape[:2]), patients.targets)


def root_mean_square(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))
