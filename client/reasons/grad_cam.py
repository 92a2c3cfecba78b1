"""``grad_cam``: where a late feature map of the network raises the score.

Selvaraju et al. 2017 (arXiv:1610.02391), as MONAI has it: the channels of a feature map, each with
the mean of the score's gradient as its weight, are summed, and what is below zero is left out.

For a whole image the feature map is the last one before the pooling that ends the convolutions.
Where there are outputs for each pixel, it is the one that enters the last convolution: all of the
output comes from it. The lowest level of a U-Net, which Vinogradova, Dibrov and Myers 2020
(arXiv:2002.11434) take, can be passed by: in a ``resunet`` that had learned to find a square
its map pointed elsewhere.

The map is taken after normalisation and activation. Before a normalisation the mean gradient of a
channel is next to nothing, and its map is noise. Even so a normalisation of few channels moves
evidence to other places: a square makes its channel's background flatter. Of four networks with one
channel in a group of the first layer, all of which had learned to find squares, three had maps that
pointed at them, and one had maps that pointed nowhere near; with two or more channels, fewer fail.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from client.reasons.score import Score, as_map
from common.models.networks import sketch
from common.study.study_file import Study

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_SIDE: Final = 2
"""Places along a side of a feature map: with one, a map has the same value everywhere."""
_CONVOLUTIONS: Final = (nn.Conv2d, nn.ConvTranspose2d)
_POOLINGS: Final = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class FeatureMap(NamedTuple):
    """What a module of a network gives.

    Attributes:
        name: of the module, as of ``Module.named_modules``.
        height: places from top to bottom.
        width: places from left to right.
    """

    name: str
    height: int
    width: int


class _GradCam:
    name: ClassVar[str] = "grad_cam"
    title: ClassVar[str] = "Grad-CAM"
    signed: ClassVar[bool] = False
    available: ClassVar[bool] = True
    install: ClassVar[str] = ""
    unit: ClassVar[str] = "weighted activation"
    shows: ClassVar[str] = (
        "Bright: places where a late feature map of the network raises this score. The scale of "
        "one picture cannot be compared with the scale of another."
    )
    hides: ClassVar[str] = (
        "What lowers the score is left out. For a whole image the map is coarse and smoothed: its "
        "edges are not the edges of a finding. For a mask it shows little more than the mask. "
        "Normalisation looks at the whole image, so evidence can appear beside its cause."
    )

    def fits(self, study: Study) -> str | None:
        """It needs convolutions, and a feature map of more than one place."""
        found = feature_map(sketch(study), study)
        if found is None:
            return (
                f"{self.name} needs a network that learns convolutions, and {study.model.name} "
                "does not; use contributions instead"
            )
        if study.model.tokens:
            return (
                f"{study.model.name} has no feature map after its first convolution; use "
                "occlusion instead"
            )
        if min(found.height, found.width) < LEAST_SIDE:
            return (
                f"for images of this size the last feature map of {study.model.name} has "
                f"{found.height} x {found.width} places, too few to tell one from another; use "
                "occlusion instead"
            )
        return None

    def of(
        self, model: nn.Module, study: Study, image: torch.Tensor, target: int
    ) -> NDArray[np.float32]:
        from monai.visualize import GradCAM

        score = Score(model, study, image, target)
        found = feature_map(score.model, study)
        assert found is not None, "asked for what does not fit"
        method = GradCAM(score, f"model.{found.name}", _enlarged, lambda values: values)
        return as_map(method(image[None], class_idx=0)[0, 0])


def feature_map(model: nn.Module, study: Study) -> FeatureMap | None:
    """The feature map that is explained; None without convolutions.

    Found by watching one image pass, so that it needs no list of models. Of a module that is used
    twice nobody could say which of its maps is meant.
    """
    if not any(isinstance(module, _CONVOLUTIONS) for module in model.modules()):
        return None
    given, taken = _watched(model, study)
    often = Counter(name for name, _ in given)
    maps = [(name, out) for name, out in given if often[name] == 1 and out.ndim == 4]
    if study.heads.dense:
        # The first that gives it: what comes later may be one of several ways that it takes.
        name, chosen = next((name, out) for name, out in maps if out is taken[-1])
    else:
        modules = dict(model.named_modules())
        # The last, not the smallest: those that weigh channels have one place, within a network.
        name, chosen = [each for each in maps if not isinstance(modules[each[0]], _POOLINGS)][-1]
    return FeatureMap(name, *chosen.shape[2:])


def _watched(
    model: nn.Module, study: Study
) -> tuple[list[tuple[str, torch.Tensor]], list[torch.Tensor]]:
    """What each module gives and what each convolution takes, in the order of their work."""
    given: list[tuple[str, torch.Tensor]] = []
    taken: list[torch.Tensor] = []

    def give(name: str, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        given.append((name, output))

    def take(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.append(inputs[0])

    def hooks() -> Iterator[torch.utils.hooks.RemovableHandle]:
        for name, module in model.named_modules():
            if name:
                yield module.register_forward_hook(partial(give, name))
            if isinstance(module, _CONVOLUTIONS):
                yield module.register_forward_pre_hook(take)

    handles = list(hooks())
    with torch.no_grad():
        model(torch.zeros(1, *study.shape, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return given, taken


def _enlarged(size: tuple[int, int]) -> Callable[[torch.Tensor], torch.Tensor]:
    # Not MONAI's default, which stretches the map until its outer places lie on the image's edge.
    return partial(functional.interpolate, size=tuple(size), mode="bilinear", align_corners=False)


GRAD_CAM: Final = _GradCam()
