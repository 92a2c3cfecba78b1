"""An image of any size brought to the study's size.

Separable triangle filter whose support grows with the reduction, so that nothing aliases
(what Pillow calls BILINEAR and PyTorch ``interpolate(mode="bilinear", antialias=True)``).
The sums run over the filter's taps in a fixed order and element by element: the result
does not depend on threads, on BLAS or on the processor.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def fit(image: Image, size: tuple[int, int]) -> Image:
    """Scale an image to fit, keeping its proportions, and fill the rest with zeros.

    Args:
        image: ``(channels, height, width)``.
        size: the height and width wanted.

    Returns:
        ``(channels, *size)`` with the image in the middle; an image that has the wanted
        size already is returned as it is.
    """
    height, width = image.shape[1:]
    if (height, width) == size:
        return image
    scale = min(size[0] / height, size[1] / width)
    inner = (
        max(1, min(size[0], round(height * scale))),
        max(1, min(size[1], round(width * scale))),
    )
    scaled = _along(_along(image.astype(np.float64), 1, inner[0]), 2, inner[1])
    canvas = np.zeros((len(image), *size), dtype=np.float32)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[:, top : top + inner[0], left : left + inner[1]] = np.clip(scaled, 0, 1)
    return canvas


def _along(image: NDArray[np.float64], axis: int, wanted: int) -> NDArray[np.float64]:
    """The image with ``wanted`` samples along one axis."""
    if image.shape[axis] == wanted:
        return image
    places, weights = _taps(image.shape[axis], wanted)
    moved = np.moveaxis(image, axis, -1)
    total = np.zeros((*moved.shape[:-1], wanted))
    for tap in range(places.shape[1]):
        total += moved[..., places[:, tap]] * weights[:, tap]
    return np.moveaxis(total, -1, axis)


def _taps(size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where each output sample looks, ``(wanted, taps)``, and with what weight; rows sum to 1."""
    step = size / wanted
    reach = max(1.0, step)
    centres = (np.arange(wanted) + 0.5) * step
    offsets = np.arange(2 * math.ceil(reach) + 1)
    places = np.floor(centres - reach).astype(np.int64)[:, np.newaxis] + offsets
    weights = np.maximum(0, 1 - np.abs(places + 0.5 - centres[:, np.newaxis]) / reach)
    weights[(places < 0) | (places >= size)] = 0
    return np.clip(places, 0, size - 1), weights / weights.sum(axis=1, keepdims=True)
