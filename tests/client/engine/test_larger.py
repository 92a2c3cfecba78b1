"""MONAI's larger networks, narrow here: trained with group normalisation, else refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import EfficientNet, ResNet, SEResNet50
from monai.networks.nets.efficientnet import MBConvBlock
from torch import nn

from client.engine.alone import settled
from client.engine.choice import example_of
from client.engine.clipped import Patients, clipped_sum, place, plain_sum
from client.engine.probe import require_sound
from client.engine.tape import blocks
from client.training.footprint import room_of
from client.training.gradients import summed_loss
from client.training.tuning import (
    CHECKPOINTING,
    check,
    least_needed,
    mib,
    modelled,
    needed,
    room,
)
from common.errors import ModelError
from common.models.efficientnet_lite import EfficientNetLite0Spec
from common.models.networks import seeded_model, sketch, trained_count
from common.models.spec import Shape
from common.models.vit import ViTSpec
from common.numerics import EngineChoice
from common.study.study_file import Study
from common.tasks.task import Heads
from tests.client.engine.loop import LAYOUTS, Layout, exact, loss, patients_of, require_same
from tests.common.studies import small_study

GROUP = ("group", {"num_groups": 4})
BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25"]


def grouped(model: nn.Module) -> nn.Module:
    """Group normalisation where the original has batch normalisation."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, nn.GroupNorm(4, child.num_features))
    return model


def resnet(dimensions: int = 2) -> nn.Module:
    """The bottlenecks of ResNet-50, fewer and narrow."""
    return grouped(
        ResNet(
            "bottleneck",
            [1, 1, 1, 1],
            [4, 4, 8, 8],
            spatial_dims=dimensions,
            n_input_channels=1,
            num_classes=2,
            norm=GROUP,
        )
    )


def efficientnet(*, as_it_comes: bool = False) -> nn.Module:
    model = EfficientNet(
        BLOCKS,
        spatial_dims=2,
        in_channels=1,
        num_classes=2,
        image_size=32,
        norm=("batch", {}) if as_it_comes else GROUP,
    )
    if not as_it_comes:
        model.add_module("_dropout", nn.Identity())
        for block in model.modules():
            if isinstance(block, MBConvBlock):
                block.drop_connect_rate = 0.0
    return model


def transformer() -> nn.Module:
    spec = ViTSpec(patch=8, features=8, blocks=2, heads=2)
    return spec.build(Shape(1, 32, 32), Heads(2, dense=False))


def lite() -> nn.Module:
    spec = EfficientNetLite0Spec(blocks=4, pooling="average-spread")
    return spec.build(Shape(1, 33, 32), Heads(2, dense=False))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet of bottlenecks": (resnet, (1, 33, 33)),
    "the same of volumes": (lambda: resnet(3), (1, 17, 17, 17)),
    "EfficientNet": (efficientnet, (1, 32, 32)),
    "EfficientNet-Lite": (lite, (1, 33, 32)),
    "Vision Transformer": (transformer, (1, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_larger_network_gives_the_loops_sum(name: str, layout: Layout) -> None:
    build, shape = NETWORKS[name]
    if len(shape) == 4 and layout == "channels_last":
        pytest.skip("a layout of planes")
    choice = EngineChoice(tile=4, memory_format=layout)
    require_same(exact(build), patients_of(*shape, count=3), choice, within=1e-8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_computed_again_on_the_way_back_has_the_same_bits(
    name: str, precision: str
) -> None:
    build, shape = NETWORKS[name]
    drawn = patients_of(*shape, count=5)  # a tile, and a part of one
    model, patients = exact(build).float(), Patients(drawn.inputs.float(), drawn.targets)
    assert list(blocks(model))
    kept = EngineChoice.model_validate({"tile": 4, "precision": precision})
    again = kept.model_copy(update={"checkpointing": True})
    found = [clipped_sum(model, patients, loss, 1.0, choice) for choice in (kept, again)]
    assert float(found[0].norm()) > 0
    assert torch.equal(*found)
    assert "forward" not in {key for module in model.modules() for key in vars(module)}


@pytest.mark.parametrize("adapters", [None, 2])
def test_on_frozen_features_the_head_and_adapters_alone_are_trained(adapters: int | None) -> None:
    model = {"name": "efficientnet_lite0", "blocks": 4, "trainable": ["head"], "adapters": adapters}
    study = small_study(
        model=model | {"pooling": "average-spread"}, data={"image_size": [33, 32], "channels": 3}
    )
    check(study, modelled(study, 2**32))
    stem, widths = 3 * 9 + 32, [(32, 32, 16), (16, 96, 24), (24, 144, 24), (24, 144, 40)]
    expand = sum(narrow + wide for narrow, wide, _ in widths[1:])
    project = sum(wide + narrow for _, wide, narrow in widths)
    head = 2 * 40 * 2 + 2
    assert trained_count(study) == head + (adapters or 0) * (stem + expand + project)


class Written(nn.Module):
    """A block that writes over what the block before it gave, which was kept for it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(value.mul_(2.0)))  # type: ignore[no-any-return] # torch's


def test_a_block_that_writes_over_its_input_is_refused_where_it_is_computed_again() -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(4, 4), Written(), nn.Linear(4, 2)))
    patients = patients_of(4, count=3)
    choice = EngineChoice(tile=4)
    require_sound(model, patients, loss, choice)
    with pytest.raises(ModelError):
        require_sound(model, patients, loss, choice.model_copy(update={"checkpointing": True}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    ["ResNet of bottlenecks", "EfficientNet", "EfficientNet-Lite", "Vision Transformer"],
)
def test_the_probe_lets_it_through(name: str, precision: str) -> None:
    build, shape = NETWORKS[name]
    drawn = patients_of(*shape, count=3)
    model, patients = exact(build).float(), Patients(drawn.inputs.float(), drawn.targets)
    wanted = EngineChoice.model_validate({"tile": 4, "precision": precision})
    # Which kernels pass in a tile follows from the machine; one by one, nobody is beside.
    passing = settled(place(copy.deepcopy(model), wanted), patients, loss, wanted)
    require_sound(model, patients, loss, passing or wanted.model_copy(update={"tile": 1}))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: efficientnet(as_it_comes=True), "_conv_stem|_bn0"),
        (lambda: SEResNet50(spatial_dims=2, in_channels=1, num_classes=2), "layer0.bn1"),
    ],
    ids=["EfficientNet", "SEResNet-50"],
)
def test_as_it_comes_it_is_refused_by_the_modules_name(
    build: Callable[[], nn.Module], named: str
) -> None:
    patients = patients_of(1, 32, 32, count=3)
    with torch.device("meta"):
        model = build()
    with pytest.raises(ModelError, match=rf"mixes the patients of a batch(.|\n)*({named})"):
        clipped_sum(model, patients, loss, 1.0, EngineChoice(tile=4))


def test_drop_connect_is_refused_because_it_uses_chance() -> None:
    model = exact(efficientnet)
    for block in model.modules():
        if isinstance(block, MBConvBlock):
            block.drop_connect_rate = 0.5
    torch.manual_seed(0)  # by luck it may draw twice the same, and a later trial refuses it
    with pytest.raises(ModelError, match=r"random numbers of its own(.|\n)*module _blocks"):
        require_sound(model, patients_of(1, 32, 32, count=3), loss, EngineChoice(tile=4))


LARGER = (
    *("resnet18", "resnet50", "seresnet50", "densenet121"),
    *("efficientnet_b0", "efficientnet_lite0", "vit"),
)


def study_at_224(name: str) -> Study:
    return small_study(model={"name": name}, data={"image_size": [224, 224], "channels": 3})


@pytest.mark.parametrize("name", LARGER)
def test_at_224_a_patients_memory_is_known_before_anything_is_built(name: str) -> None:
    study = study_at_224(name)
    model, shape = sketch(study), (3, 224, 224)
    found = {
        blank.precision: room_of(model, shape, study.task, patients=1, items=1, blank=blank).bytes
        for blank in (EngineChoice(), EngineChoice(precision="bfloat16"))
    }
    weights = 4 * sum(each.numel() for each in model.parameters())
    assert weights < found["bfloat16"] < found["float32"] < 2**31


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "vit"])
def test_at_224_activations_are_checkpointed_where_a_patient_would_not_fit_else(name: str) -> None:
    study = study_at_224(name)
    study = study.model_copy(
        update={"training": study.training.model_copy(update={"images_per_patient": 8})}
    )
    much, less = needed(study, 2**40), needed(study, 2**40, CHECKPOINTING)
    assert less < much
    assert (least_needed(study, much), least_needed(study, much - 1)) == (much, less)
    assert room(study, CHECKPOINTING).work > room(study).work
    found = [modelled(study, memory, work=1).checkpointing for memory in (much, much - 1, less)]
    assert found == [False, True, True]
    with pytest.raises(ModelError, match="do not fit into memory") as caught:
        modelled(study, less - 1, work=1)
    assert caught.value.details["found"].startswith(f"{mib(less)} MiB")


@pytest.mark.long
@pytest.mark.parametrize("name", LARGER)
def test_at_224_a_step_clips_each_patient(name: str) -> None:
    study = study_at_224(name)
    model, loss, choice = seeded_model(study, 0), summed_loss(study.task), EngineChoice(tile=2)
    patients = example_of((3, 224, 224), 2, 1, model)
    each = (plain_sum(model, patients[slice(n, n + 1)], loss).double() for n in range(2))
    free = [one for one in each if one.norm() > 0]
    clip_norm = float(min(one.norm() for one in free)) / 2
    wanted = sum(clip_norm / one.norm() * one for one in free)
    found = clipped_sum(place(model, choice), patients, loss, clip_norm, choice)
    assert float((found - wanted).norm()) <= 1e-3 * clip_norm


def test_group_normalisation_in_squeeze_and_excitation_gives_the_loops_sum() -> None:
    """Channels are weighed by a small network of their own, image by image."""
    from monai.networks.blocks import ChannelSELayer

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.GroupNorm(4, 8),
            nn.ReLU(),
            ChannelSELayer(2, 8, r=2),
            nn.Flatten(),
            nn.Linear(8 * 36, 2),
        )

    place(build(), EngineChoice())
    require_same(exact(build), patients_of(1, 8, 8, items=2, count=5), EngineChoice(tile=8))
