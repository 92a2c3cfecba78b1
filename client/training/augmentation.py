"""Random changes of one image at a time.

Flip, rotation, cropping window and zoom of an image are one affine map, applied by MONAI's
``AffineTransform`` to all images of a batch at once; contrast and brightness follow. Each
image has draws of its own and none sees another, so patients do not mix.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from common.study.study_file import Augmentation

DRAWS: Final = 7
"""Uniform numbers that decide about one image."""


def augment(images: torch.Tensor, settings: Augmentation, draws: torch.Tensor) -> torch.Tensor:
    """Change each image at random, and independently of the others.

    Args:
        images: float32 (images, channels, height, width) in [0, 1].
        settings: which changes and how large.
        draws: uniform in [0, 1), float64 (images, :data:`DRAWS`).

    Returns:
        The same shape; intensities may leave [0, 1]. Beyond the border an image goes on
        with the values at its border.
    """
    if not settings.active or not len(images):
        return images
    *_, contrast, brightness = _signed(draws)
    if settings.moves:
        images = _warped(images, settings, draws, "bilinear")
    gains = (1 + contrast * settings.intensity).to(images.dtype).view(-1, 1, 1, 1)
    offsets = (brightness * settings.intensity).to(images.dtype).view(-1, 1, 1, 1)
    # Each image's own mean: one over the batch would mix patients.
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - middle) * gains + middle + offsets


def move_masks(masks: torch.Tensor, settings: Augmentation, draws: torch.Tensor) -> torch.Tensor:
    """Move masks as :func:`augment` moves their images: by the same maps, to the nearest pixel.

    Args:
        masks: whole numbers (images, height, width).
        settings: as there.
        draws: as there.
    """
    if not settings.moves or not len(masks):
        return masks
    # Classes are small whole numbers, which float32 holds exactly; the nearest one is never mixed.
    warped = _warped(masks[:, None].float(), settings, draws, "nearest")
    return warped[:, 0].to(masks.dtype)


def _signed(draws: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What each draw says, from -1 to 1."""
    return (2 * draws - 1).unbind(dim=1)


def _warped(
    images: torch.Tensor, settings: Augmentation, draws: torch.Tensor, mode: str
) -> torch.Tensor:
    """Images (images, channels, height, width) at other places of theirs."""
    from monai.networks.layers import AffineTransform  # two seconds, for those who augment

    flip, rotate, zoom, down, right, *_ = _signed(draws)
    height, width = images.shape[-2:]
    maps = _affine_maps(
        mirrored=(flip < 0) if settings.flip else torch.zeros_like(flip, dtype=torch.bool),
        angles=rotate * math.radians(settings.rotate),
        zooms=1 + zoom * settings.zoom,
        shifts=2 * settings.crop * torch.stack([down, right], dim=1),
        aspect=width / height,
    )
    warp = AffineTransform(
        spatial_size=(height, width),
        normalized=True,
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    moved: torch.Tensor = warp(images, maps.to(images.dtype))
    return moved


def _affine_maps(
    mirrored: torch.Tensor,
    angles: torch.Tensor,
    zooms: torch.Tensor,
    shifts: torch.Tensor,
    aspect: float,
) -> torch.Tensor:
    """The maps (images, 2, 3) from output to input, in (row, column) order and [-1, 1]."""
    # Coordinates run from -1 to 1 along both sides, so turning needs the ratio of the sides.
    maps = angles.new_zeros(len(angles), 2, 3)
    sides = torch.where(mirrored, -1.0, 1.0)
    maps[:, 0, 0] = torch.cos(angles) * zooms
    maps[:, 0, 1] = -torch.sin(angles) * zooms * aspect * sides
    maps[:, 1, 0] = torch.sin(angles) * zooms / aspect
    maps[:, 1, 1] = torch.cos(angles) * zooms * sides
    maps[:, :, 2] = shifts
    return maps
