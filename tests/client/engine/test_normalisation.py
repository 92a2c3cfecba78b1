"""Normalisation layers and PReLU give the loop's sum, however their input lies in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from client.engine.normalisation import PReluRule
from common.numerics import EngineChoice
from tests.client.engine.loop import (
    LAYOUTS,
    Layout,
    Net,
    exact,
    layers_of,
    patients_of,
    require_same,
)

C = 4
SIZES = {1: (6,), 2: (3, 5), 3: (2, 3, 2)}
INSTANCE: dict[int, type[nn.Module]] = {
    1: nn.InstanceNorm1d,
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}


class Among(nn.Module):
    """A layer that gets another layout than its input has, and a gradient that has neither."""

    def __init__(self, layer: nn.Module, *, swap: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.before, self.layer, self.swap = nn.PReLU(), layer, swap

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.before(value)
        if self.swap:
            value = value.transpose(*self.swap)
        found: torch.Tensor = self.layer(value)
        return torch.cat([found.sin().flatten(1).mean(dim=1, keepdim=True), found.flatten(1)], 1)


def group(groups: int, channels: int = C) -> Callable[[], nn.Module]:
    return lambda: Among(nn.GroupNorm(groups, channels))


@pytest.mark.parametrize("groups", [1, 2, C])
@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_group_normalisation_gives_the_loops_sum(groups: int, dimensions: int) -> None:
    size = SIZES.get(dimensions, ())
    if not size and groups == C:
        pytest.skip("one number in a group: torch itself gives no gradient to speak of")
    for items in (1, 3):
        patients = patients_of(C, *size, items=items)
        require_same(exact(group(groups)), patients)
        if dimensions == 2:
            choice = EngineChoice(memory_format="channels_last")
            require_same(exact(group(groups)), patients, choice)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_instance_normalisation_gives_the_loops_sum(dimensions: int) -> None:
    for items in (1, 3):
        patients = patients_of(C, *SIZES[dimensions], items=items)
        model = exact(lambda: Among(INSTANCE[dimensions](C, affine=True)))
        require_same(model, patients)
        if dimensions == 2:
            require_same(model, patients, EngineChoice(memory_format="channels_last"))


def test_normalisation_without_weights_needs_no_book() -> None:
    model = exact(
        lambda: nn.Sequential(
            nn.Linear(5, 6),
            nn.LayerNorm(6, elementwise_affine=False),
            nn.GroupNorm(2, 6, affine=False),
            nn.Linear(6, 2),
        )
    )
    require_same(model, patients_of(5, items=2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("over", [(5,), (3, 5), (2, 3, 5)])
def test_layer_normalisation_gives_the_loops_sum(over: tuple[int, ...], *, bias: bool) -> None:
    for items in (1, 3):
        model = exact(lambda: Among(nn.LayerNorm(over, bias=bias)))
        require_same(model, patients_of(2, 3, 5, items=items))


@pytest.mark.parametrize("swap", [(1, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("kind", ["group", "instance", "layer"])
def test_views_of_every_order_give_the_loops_sum(kind: str, swap: tuple[int, int]) -> None:
    """All sides are equal, so that only the order in memory differs."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "group": lambda: nn.GroupNorm(2, C),
        "instance": lambda: nn.InstanceNorm2d(C, affine=True),
        "layer": lambda: nn.LayerNorm(C),
    }
    model = exact(lambda: Among(layers[kind](), swap=swap))
    for layout in LAYOUTS:
        choice = EngineChoice(memory_format=layout)
        require_same(model, patients_of(C, C, C, items=2), choice)


@pytest.mark.parametrize("swap", [(1, 2), (1, 3), (2, 3)])
def test_layer_normalisation_over_a_part_of_a_view_gives_the_loops_sum(
    swap: tuple[int, int],
) -> None:
    model = exact(lambda: Among(nn.LayerNorm((C, C)), swap=swap))
    require_same(model, patients_of(C, C, C, items=2))


@pytest.mark.parametrize("kind", ["group", "layer"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_that_is_used_twice_has_one_gradient(kind: str, layout: Layout) -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(net.layer(value).sin() + value),
            layer=nn.GroupNorm(2, C) if kind == "group" else nn.LayerNorm(C),
        )

    choice = EngineChoice(memory_format=layout)
    require_same(exact(build), patients_of(C, C, C, items=2), choice)


@pytest.mark.parametrize("slopes", [1, C])
@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_a_slope_below_zero_gives_the_loops_sum(slopes: int, dimensions: int) -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(net.layer(value).sin() - value),
            layer=nn.PReLU(slopes),
        )

    for layout in LAYOUTS if dimensions == 2 else LAYOUTS[:1]:
        patients = patients_of(C, *SIZES.get(dimensions, ()), items=2)
        model = exact(build)
        require_same(model, patients, EngineChoice(memory_format=layout))
        assert {type(each.rule) for each in layers_of(model, patients)} == {PReluRule}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(C, 1, 1), (1, 3, 3)], ids=["one pixel", "one channel"])
def test_arrays_whose_order_is_both_give_the_loops_sum(
    shape: tuple[int, ...], layout: Layout
) -> None:
    choice = EngineChoice(memory_format=layout)
    require_same(exact(group(1, shape[0])), patients_of(*shape, items=2), choice)
