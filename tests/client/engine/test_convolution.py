"""Every kernel of every convolution gives the loop's sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from client.engine.convolution import FAR_APART, ConvolutionRule
from common.numerics import EngineChoice
from tests.client.engine.loop import (
    CHANNELS,
    LAYOUTS,
    Net,
    exact,
    forced,
    layers_of,
    patients_of,
    require_same,
)

KERNELS = ConvolutionRule.kernels
C = CHANNELS
PLAIN: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
SETTINGS: dict[str, dict[str, object]] = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "pointwise strided": {"kernel_size": 1, "stride": 2},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 2, "dilation": 2, "padding": 1},
    "grouped": {"kernel_size": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": C, "padding": 1, "stride": 2},
    "without bias": {"kernel_size": 2, "bias": False},
}
ONLY_PLAIN: dict[str, dict[str, object]] = {
    "same": {"kernel_size": 3, "padding": "same", "dilation": 1},
    "same, dilated": {"kernel_size": 2, "padding": "same", "dilation": 2},
    "same, one more on one side": {"kernel_size": 2, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
}
ONLY_TRANSPOSED: dict[str, dict[str, object]] = {
    "output padding": {"kernel_size": 3, "stride": 2, "output_padding": 1},
    "padded output": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "grouped output padding": {"kernel_size": 2, "stride": 2, "groups": 2, "output_padding": 1},
    "pointwise output padding": {"kernel_size": 1, "dilation": 2, "output_padding": 1},
}
SIZES = {1: (9,), 2: (6, 5), 3: (3, 3, 4)}


def between(layer: nn.Module) -> nn.Module:
    """A network whose middle layer gets a gradient from behind and owes one to what is before."""
    dimensions = len(layer.kernel_size)  # type: ignore[arg-type] # a convolution has one
    return nn.Sequential(PLAIN[dimensions](2, C, 1), nn.Tanh(), layer, nn.Tanh(), nn.Flatten())


def cases() -> list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]:
    found: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = []
    for dimensions, size in SIZES.items():
        for kind, extra in (
            (PLAIN[dimensions], ONLY_PLAIN),
            (TRANSPOSED[dimensions], ONLY_TRANSPOSED),
        ):
            for name, given in (SETTINGS | extra).items():
                settings = {"out_channels": 2 * C, **given}

                def build(
                    kind: type[nn.Module] = kind, settings: dict[str, object] = settings
                ) -> nn.Module:
                    return between(kind(C, **settings))

                found.append((f"{kind.__name__} {name}", build, size))
    return found


CASES = {name: (build, size) for name, build, size in cases()}
SERVED = [name for name in CASES if "one more on one side" not in name]


@pytest.mark.matrix
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SERVED)
def test_every_kernel_gives_the_loops_sum(name: str, kernel: str) -> None:
    build, size = CASES[name]
    model, channels_last = exact(build), len(size) == 2
    for items in (1, 3):
        patients = patients_of(2, *size, items=items)
        require_same(model, patients, forced(model, patients, kernel))
        if channels_last:
            choice = forced(model, patients, kernel, memory_format="channels_last")
            require_same(model, patients, choice)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_that_is_modelled_gives_the_loops_sum(name: str) -> None:
    build, size = CASES[name]
    require_same(exact(build), patients_of(2, *size, items=2))


@pytest.mark.matrix
@pytest.mark.parametrize("padding", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_padding_that_is_not_of_zeros_goes_another_way_and_gives_the_loops_sum(
    padding: str, dimensions: int
) -> None:
    def build() -> nn.Module:
        return between(PLAIN[dimensions](C, C, 3, padding=1, padding_mode=padding))

    for items in (1, 3):
        require_same(exact(build), patients_of(2, *SIZES[dimensions], items=items))


@pytest.mark.matrix
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_that_is_used_twice_has_one_gradient(kernel: str, *, transposed: bool) -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(net.layer(value[..., :4]).tanh() + value[..., 1:]),
            layer=(TRANSPOSED if transposed else PLAIN)[2](2, 2, 3, padding=1),
        )

    model = exact(build)
    for items in (1, 3):
        patients = patients_of(2, 5, 5, items=items)
        for layout in LAYOUTS:
            require_same(model, patients, forced(model, patients, kernel, memory_format=layout))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_channel_whose_layout_is_both_gives_the_loops_sum(kernel: str) -> None:
    """An array with one channel is contiguous and channels-last at once."""
    model = exact(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 2)))
    patients = patients_of(1, 6, 6, items=2)
    for layout in LAYOUTS:
        require_same(model, patients, forced(model, patients, kernel, memory_format=layout))


@pytest.mark.parametrize("kernel", KERNELS)
def test_inputs_that_are_views_of_larger_arrays_give_the_loops_sum(kernel: str) -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(value[:, 1:3, 1:, ::2].transpose(2, 3)),
            layer=nn.Conv2d(2, 3, 2),
        )

    model, patients = exact(build), patients_of(4, 7, 8, items=2)
    require_same(model, patients, forced(model, patients, kernel))


def test_gram_matrices_are_a_candidate_only_where_positions_are_few() -> None:
    build = CASES["Conv2d plain"][0]
    few, many = patients_of(2, 6, 6), patients_of(2, 20, 20)
    seen: dict[int, tuple[str, ...]] = {}
    for patients in (few, many):
        model = exact(build)
        layer = next(each for each in layers_of(model, patients) if each.name == "2")
        value = torch.zeros(5, C, *patients.inputs.shape[-2:])
        gradient = torch.zeros(5, 2 * C, *(side - 2 for side in patients.inputs.shape[-2:]))
        positions = gradient[0, 0].numel()
        seen[positions] = layer.rule.candidates(layer, [(value, gradient)], 5)
    assert all(("ghost" in names) == (positions <= FAR_APART) for positions, names in seen.items())
    assert len(seen) == 2


def test_a_kernel_that_no_rule_knows_is_as_if_none_were_named() -> None:
    model, patients = exact(CASES["Conv2d padded"][0]), patients_of(2, 6, 5)
    require_same(model, patients, EngineChoice(kernels={"2": "of another release"}))
