"""The shared models: their size, their flat form, and that no patient meets another in them."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT
from torch import nn

from common.errors import ModelError
from common.models.models import MODELS
from common.models.networks import (
    build_model,
    check_private,
    flatten,
    initial_weights,
    load_flat,
    sketch,
    weights_count,
)
from common.study.study_file import Study
from tests.common.studies import small_study

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def study(
    image_size: tuple[int, int] = (8, 8),
    channels: int = 1,
    **model: Any,  # noqa: ANN401 - as TOML gives
) -> Study:
    return small_study(
        data={"image_size": image_size, "channels": channels},
        model={"widths": None, "hidden": None} | model,
    )


def test_the_cnn_has_the_weights_that_a_hand_counts() -> None:
    """Convolutions 9 x in x out + out, dense in x out + out; 2 classes."""
    convolutions = (9 * 1 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 128 + 128)
    seed: dict[str, Any] = {"widths": [32, 64, 128], "hidden": 128}
    small = convolutions + (128 * 3 * 3 * 128 + 128) + (128 * 2 + 2)
    assert weights_count(study((28, 28), **seed)) == small == 240_514
    large = convolutions + 2 * 9 * 32 + (128 * 16 * 16 * 128 + 128) + (128 * 2 + 2)
    assert weights_count(study((128, 128), 3, **seed)) == large == 4_287_938


def test_what_is_left_out_is_one_linear_layer_on_fixed_features() -> None:
    """(1 + 2 scales x 8 orientations) channels of 7 x 7 places, two classes."""
    left_out = study((28, 28), name=None, norm=None, pooling=None)
    assert weights_count(left_out) == (1 + 2 * 8) * 7 * 7 * 2 + 2 == 1668
    names = [type(each).__name__ for _, each in build_model(left_out).named_children()]
    assert names == ["Scattering", "Flatten", "Linear"]
    assert [name for name, _ in build_model(left_out).named_parameters()] == ["2.weight", "2.bias"]


def test_a_cnn_of_which_nothing_is_said_is_narrow_and_normalised() -> None:
    """Convolutions 9 x in x out + out, scale and shift of each channel, a dense layer."""
    left_out = study((28, 28), norm=None, pooling=None)
    assert weights_count(left_out) == (160 + 32) + 2 * (2320 + 32) + (16 * 2 + 2)
    norms = [each for each in build_model(left_out).modules() if isinstance(each, nn.GroupNorm)]
    assert [each.num_groups for each in norms] == [8, 8, 8]


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (12, 4), (5, 1), (2, 2)])
def test_groups_that_are_left_out_fit_the_channels(width: int, groups: int) -> None:
    model = build_model(study(norm="group", widths=[width]))
    norms = [each for each in model.modules() if isinstance(each, nn.GroupNorm)]
    assert [each.num_groups for each in norms] == [groups]


def test_options_of_the_cnn_change_its_layers_as_named() -> None:
    names = [
        type(each).__name__
        for each in build_model(study(norm="group", widths=[8, 16], hidden=4)).children()
    ]
    assert names == [
        *["Conv2d", "GroupNorm", "ReLU", "MaxPool2d"] * 2,
        *["Flatten", "Linear", "ReLU", "Linear"],
    ]
    plain = build_model(study(hidden=0, pooling="average", activation="tanh", widths=[8]))
    names = [type(each).__name__ for each in plain.children()]
    assert names == ["Conv2d", "Tanh", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Linear"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("scattering", (8, 8)),
        ("cnn", (8, 8)),
        ("resnet18", (8, 8)),
        ("resnet50", (8, 8)),
        ("seresnet50", (8, 8)),
        ("densenet121", (32, 32)),
        ("efficientnet_b0", (9, 33)),
        ("efficientnet_lite0", (9, 33)),
        ("vit", (32, 16)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_patients_output_does_not_depend_on_the_others(
    name: str, size: tuple[int, int], channels: int
) -> None:
    """In training mode too: no layer sees the batch, and none has batch normalisation."""
    chosen = study(size, channels, name=name)
    model = build_model(chosen)
    load_flat(model, initial_weights(chosen, 1))
    model.double()  # libraries round float32 by the size of a batch, and deep networks magnify that
    assert model.training
    assert not any(isinstance(each, NORMS) for each in model.modules())
    generator = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 3, channels, *size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(images), model(images[:1])
        changed = model(torch.cat([images[:1], others[1:]]))
    assert together.shape == (3, 2)
    assert torch.allclose(together[:1], alone, atol=1e-9)
    assert torch.allclose(together[:1], changed[:1], atol=1e-9)
    assert not torch.allclose(together[1:], changed[1:], atol=1e-4)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm2d()])
def test_batch_normalisation_is_refused_by_name_and_with_the_reason(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(norm))
    with pytest.raises(ModelError, match="mixes the patients of a batch") as caught:
        check_private(model)
    assert caught.value.details["where"] == "module 1.0"
    assert caught.value.details["found"] == type(norm).__name__


def test_state_that_would_not_travel_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True))
    with pytest.raises(ModelError, match="no state other than its parameters") as caught:
        check_private(model)
    assert "1.running_mean" in caught.value.details["found"]


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([4, 6, 6])]
)
def test_norms_within_one_image_are_accepted(norm: nn.Module) -> None:
    check_private(nn.Sequential(nn.Conv2d(1, 4, 3), norm))


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("cnn", (7, 7), "8x8"),
        ("cnn", (4, 16), "8x8"),
        ("scattering", (4, 28), "8x8"),
        ("densenet121", (16, 16), "32x32"),
        ("densenet121", (64, 8), "32x32"),
    ],
)
def test_an_image_size_that_is_too_small_names_what_fits(
    name: str, size: tuple[int, int], fits: str
) -> None:
    with pytest.raises(ModelError, match="cannot take images of this size") as caught:
        build_model(study(size, name=name))
    assert caught.value.details["found"] == f"{size[0]}x{size[1]}"
    assert caught.value.details["wanted"] == f"{fits} or larger"
    side = int(fits.partition("x")[0])
    build_model(study((side, side), name=name))


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (28, 28), (13, 8)])
def test_any_size_that_survives_the_pooling_fits(size: tuple[int, int]) -> None:
    model = build_model(study(size))
    assert model(torch.zeros(2, 1, *size)).shape == (2, 2)


def test_a_vision_transformer_is_monais_own() -> None:
    """The same weights give the same outputs; only where its parameters stand is another."""
    given = study((16, 24), 3, name="vit", patch=8, features=12, blocks=2, heads=3)
    ours = build_model(given)
    theirs = ViT(
        in_channels=3,
        img_size=(16, 24),
        patch_size=8,
        hidden_size=12,
        mlp_dim=48,
        num_layers=2,
        num_heads=3,
        classification=True,
        num_classes=2,
        spatial_dims=2,
        post_activation="none",
        qkv_bias=True,
    )
    names = {"0.": "patch_embedding.patch_embeddings.", "2.": "blocks.0.", "3.": "blocks.1."}
    names |= {"5.": "norm.", "6.": "classification_head."}
    own: dict[str, torch.Tensor] = dict(theirs.named_parameters())
    for name in [name for name in own if ".qkv." in name]:
        parts = own.pop(name).chunk(3)
        own |= {name.replace("qkv", f"to_{part}"): parts[n] for n, part in enumerate("qkv")}
    positions = torch.cat([own.pop("cls_token"), own.pop("patch_embedding.position_embeddings")], 1)
    with torch.no_grad():
        for name, weights in ours.named_parameters():
            place = names.get(name[:2])
            weights.copy_(positions if place is None else own.pop(place + name[2:]))
        images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(ours(images), theirs(images)[0], atol=1e-6)
    assert {name.split(".")[2] for name in own} == {"norm_cross_attn"}


def test_a_patch_has_to_divide_the_image() -> None:
    with pytest.raises(ModelError, match="cannot take images of this size") as caught:
        build_model(study((32, 24), name="vit"))
    assert "multiples of 16" in caught.value.details["wanted"]


def test_widths_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be split into groups") as caught:
        build_model(study(norm="group", groups=8, widths=[12]))
    assert caught.value.details["found"] == "12 channels, 8 groups"


def test_a_model_of_more_weights_than_can_travel_is_refused_before_it_is_built() -> None:
    with pytest.raises(ModelError, match="too many weights"):
        build_model(study((4096, 4096), hidden=65_536))
    with pytest.raises(ModelError, match="too many weights"):
        build_model(study((4096, 4096), name="scattering", scales=1, orientations=32))


def test_a_sketch_has_shapes_and_no_numbers() -> None:
    """The same shapes as the model; to make it takes no memory, and its size is known from it."""
    for kind in MODELS:
        if kind.dense:
            continue
        given = study((32, 32), name=kind.model_fields["name"].default)
        made = list(sketch(given).named_parameters())
        assert {each.device.type for _, each in made} == {"meta"}
        built = list(build_model(given).named_parameters())
        assert [(key, each.shape) for key, each in made] == [
            (key, each.shape) for key, each in built
        ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert weights_count(study((512, 512), widths=[64], hidden=30)) > 125_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50 * 1024


def test_flat_weights_go_in_and_come_out_in_the_parameters_order() -> None:
    model = build_model(study(widths=[2], hidden=0))
    names = [(name, tuple(value.shape)) for name, value in model.named_parameters()]
    assert names == [
        ("0.weight", (2, 1, 3, 3)),
        ("0.bias", (2,)),
        ("4.weight", (2, 32)),
        ("4.bias", (2,)),
    ]
    weights = np.arange(18 + 2 + 64 + 2, dtype=np.float32)
    load_flat(model, weights)
    assert flatten(model).tolist() == weights.tolist()
    assert next(model.parameters()).flatten().tolist() == list(range(18))
    weights += 1
    assert flatten(model)[0] == 0


@pytest.mark.parametrize("count", [0, 85, 87])
def test_weights_of_another_length_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} weights do not fit"):
        load_flat(build_model(study(widths=[2], hidden=0)), np.zeros(count, dtype=np.float32))


def test_first_weights_follow_from_the_seed_alone_and_leave_the_global_one_untouched() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = initial_weights(study(), 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert initial_weights(study(), 7).tobytes() == first.tobytes()
    assert initial_weights(study(), 8).tobytes() != first.tobytes()
    assert first.dtype == np.float32
    assert first.shape == (weights_count(study()),)
