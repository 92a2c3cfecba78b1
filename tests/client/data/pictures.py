"""Pictures that are told apart by one value, and have a second one: a blank picture is not used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearly(value: int, *shape: int) -> NDArray[np.uint8]:
    """Bytes of one value, but for the first of each frame, which is next to it."""
    pixels = np.full(shape, value, np.uint8)
    pixels[..., 0, 0] = value + 1 if value < 255 else 254
    return pixels
