"""An image of any size brought to the study's size, by Pillow's antialiased bilinear filter.

Pillow works on one channel at a time in 32-bit floating point and in a fixed order, so the
result does not depend on threads; it is what PyTorch calls ``interpolate(mode="bilinear",
antialias=True)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

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
    # Proportions stay, and the border is black: stretching would change the shape of organs.
    canvas = np.zeros((len(image), *size), dtype=np.float32)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    for channel, filled in zip(image, canvas, strict=True):
        # Clipped: rounding in the filter may leave [0, 1] by a little.
        scaled = _scaled(channel, inner)
        filled[top : top + inner[0], left : left + inner[1]] = np.clip(scaled, 0, 1)
    return canvas


def _scaled(channel: NDArray[np.float32], inner: tuple[int, int]) -> NDArray[np.float32]:
    height, width = inner
    source = Pillow.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(source.resize((width, height), Pillow.Resampling.BILINEAR))
