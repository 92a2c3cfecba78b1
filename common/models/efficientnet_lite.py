"""``efficientnet_lite0``: a small network that is meant to stand frozen with public weights.

EfficientNet-Lite0 is EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) without squeeze and
excitation and with ReLU6. Its batch normalisation was learned with public images and never changes
again, so it is folded into the convolutions: each has a bias, and no layer normalises. With public
weights and ``trainable = ["head"]`` nothing of a privacy budget goes into learning features.
Trained from nothing, such a network learns badly.

Padding is TensorFlow's, with which the published weights were trained. They expect pixels from -1
to 1: ``mean = 0.5`` and ``std = 0.5`` in ``[data]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from common.bounded import Bound
from common.models.initial import Arrays
from common.models.spec import BLOCKS, ModelSpec, Shape
from common.tasks.task import Heads

if TYPE_CHECKING:
    from torch import nn

STEM: Final = 32
TOP: Final = 1280
"""Channels of the first and of the last convolution."""
EPSILON: Final = 1e-3
"""Added to a variance before its root, as TensorFlow's network has it."""
_MOST: Final = 16
_STATISTICS: Final = ("weight", "bias", "running_mean", "running_var")


class Stage(NamedTuple):
    """Blocks of one width; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    widening: int
    channels: int


STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite0Spec(ModelSpec):
    """``[model]`` of an EfficientNet-Lite0, its batch normalisation folded into the convolutions.

    Attributes:
        blocks: how many of the 16 are kept; with fewer, the last convolution is left out too.
        pooling: what is known of a channel: its mean over an image's places, or also its standard
            deviation.
    """

    bounds: ClassVar[tuple[Bound, ...]] = (BLOCKS,)

    name: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    blocks: Annotated[int, BLOCKS, Field(le=_MOST)] = _MOST
    pooling: Literal["average", "average-spread"] = "average"

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`."""
        from torch import nn

        from common.models.blocks import AverageAndSpread, EfficientNetLite, InvertedResidual

        kept = list(_blocks())[: self.blocks]
        channels, top = kept[-1][-1], None
        if self.blocks == _MOST:
            channels, top = TOP, nn.Conv2d(channels, TOP, 1)
        pooling: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if self.pooling == "average-spread":
            channels, pooling = 2 * channels, AverageAndSpread()
        blocks = (InvertedResidual(*each) for each in kept)
        return EfficientNetLite(blocks, STEM, top, pooling, nn.Linear(channels, heads.outputs))

    def translated(self, arrays: Arrays) -> Arrays:
        """As :meth:`ModelSpec.translated`, of the published names, with batch normalisation.

        With the statistics of training a normalisation is linear, as the convolution before it is:
        ``scale (w x - mean) / sqrt(variance + epsilon) + shift`` is one convolution with a bias.
        """
        found = dict(arrays)
        for own, convolution, norm in _published():
            weight = arrays.get(f"{convolution}.weight", np.zeros(0, np.float32))
            held = [arrays.get(f"{norm}.{each}") for each in _STATISTICS]
            known = [each.astype(np.float64) for each in held if each is not None]
            if len(known) < len(held) or any(each.shape != weight.shape[:1] for each in known):
                continue
            scale, shift, mean, variance = known
            with np.errstate(invalid="ignore", divide="ignore"):
                factor = scale / np.sqrt(variance + EPSILON)
            folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            found[f"{own}.weight"] = folded.astype(np.float32)
            found[f"{own}.bias"] = (shift - mean * factor).astype(np.float32)
        heads = {f"head.{part}": arrays.get(f"_fc.{part}") for part in ("weight", "bias")}
        return found | {name: each for name, each in heads.items() if each is not None}


def _blocks() -> Iterator[tuple[int, int, int, int, int]]:
    """Of each block: channels in, kernel, stride, widening, channels out."""
    channels = STEM
    for stage in STAGES:
        for number in range(stage.repeats):
            stride = 1 if number else stage.stride
            yield channels, stage.kernel, stride, stage.widening, stage.channels
            channels = stage.channels


def _published() -> Iterator[tuple[str, str, str]]:
    """Of each convolution: its name here, and there that of it and of its normalisation."""
    yield "stem", "_conv_stem", "_bn0"
    for number in range(_MOST):
        for norm, part in enumerate(("expand", "depthwise", "project")):
            there = f"_blocks.{number}"
            yield f"blocks.{number}.{part}", f"{there}._{part}_conv", f"{there}._bn{norm}"
    yield "top", "_conv_head", "_bn1"
