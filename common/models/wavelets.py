"""Fixed first layers: how strong which edge is where, told without a weight to learn.

First-order scattering (Bruna and Mallat 2013, arXiv:1203.1513): an image is filtered with
Morlet wavelets of several orientations at several scales, and the moduli are averaged
locally. Tramer and Boneh 2021 (arXiv:2011.11660) found that private training on such
features beats private training of all layers until the privacy budget is large: nothing of
the budget goes into learning what edges are, and what is left to learn is small.

Coarser scales are the same wavelets on the image halved, as in a pyramid. Logarithms and
one normalisation for each image and scale leave out how the image was exposed. The filters
are constants and nothing is computed from other images, so that there is no state to travel
and no patient meets another.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_WIDTH: Final = 0.8
"""Standard deviation of a wavelet's envelope along its wave, pixels (Bruna and Mallat 2013)."""
_FREQUENCY: Final = 3 * math.pi / 4
"""Of a wavelet's wave, radians a pixel (the same)."""
_SLANT: Final = 0.5
"""How much narrower an envelope is along its wave than across."""
_RADIUS: Final = 3
"""Pixels to each side at which a filter ends."""
_FAINT: Final = 0.05
"""Added before the logarithm, so that noise in an even field counts little."""
_LEAST: Final = 1e-12
"""Added before the root, whose slope at zero is infinite."""


class Scattering(nn.Module):
    """Local brightness, and the local strength of edges by scale and orientation.

    It maps (batch, channels, height, width) to (batch, channels x (1 + scales x
    orientations), height >> scales, width >> scales). The low-pass channel and each scale
    have the same energy, and the features of an image have the L2 norm 1, so that a clip
    norm means the same whatever the image's size.

    Args:
        scales: how often the image is halved; the coarsest wave is ``2**scales`` pixels long.
        orientations: of the wavelets at each scale.
    """

    def __init__(self, scales: int, orientations: int) -> None:
        super().__init__()
        self.scales = scales
        self.orientations = orientations

    @property
    def smallest(self) -> int:
        """Pixels of the shortest side that fits: at the coarsest scale, more than a radius."""
        return (_RADIUS + 1) << (self.scales - 1)

    def channels(self, channels: int) -> int:
        """Output channels for an image of so many."""
        return channels * (1 + self.scales * self.orientations)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of each image by itself."""
        filters = wavelets(self.orientations).to(pixels)
        image = pixels.flatten(0, 1).unsqueeze(1)
        bands = []
        for scale in range(self.scales):
            strength = functional.avg_pool2d(_modulus(image, filters), 2 ** (self.scales - scale))
            bands.append(_unit(torch.log(strength + _FAINT)))
            image = functional.avg_pool2d(image, 2)
        features = torch.cat([_unit(image), *bands], dim=1)
        features = features / math.sqrt((1 + self.scales) * pixels.shape[1])
        # Not len(): to an exporter of graphs that would be a constant.
        return features.view(pixels.shape[0], -1, *features.shape[2:])

    def extra_repr(self) -> str:
        """What distinguishes it."""
        return f"scales={self.scales}, orientations={self.orientations}"


@lru_cache(maxsize=16)
def wavelets(orientations: int) -> torch.Tensor:
    """Morlet wavelets: the real parts of all orientations, then the imaginary ones.

    Each has mean zero, so that it answers to edges and not to brightness.

    Returns:
        float64 (2 x orientations, 1, side, side); a constant, computed once.
    """
    places = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float64)
    down, right = np.meshgrid(places, places, indexing="ij")
    angles = np.pi * np.arange(orientations).reshape(-1, 1, 1) / orientations
    along = right * np.cos(angles) + down * np.sin(angles)
    across = down * np.cos(angles) - right * np.sin(angles)
    envelope = np.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * _WIDTH**2))
    envelope /= envelope.sum(axis=(1, 2), keepdims=True)
    wave = envelope * np.exp(1j * _FREQUENCY * along)
    # Subtracts the mean: the wavelet then answers to edges and not to brightness.
    wave -= envelope * wave.sum(axis=(1, 2), keepdims=True)
    return torch.from_numpy(np.concatenate([wave.real, wave.imag])).unsqueeze(1)


def _modulus(image: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    edge = [_RADIUS] * 4
    # Mirrored: with zeros around it every image would have a strong edge at its border.
    answers = functional.conv2d(functional.pad(image, edge, mode="reflect"), filters)
    real, imaginary = answers.chunk(2, dim=1)
    return torch.sqrt(real**2 + imaginary**2 + _LEAST)


def _unit(band: torch.Tensor) -> torch.Tensor:
    """Mean zero and L2 norm 1 over the places and orientations of one image."""
    return functional.group_norm(band, 1) / math.sqrt(band[0].numel())
