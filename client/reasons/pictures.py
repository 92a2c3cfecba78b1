"""A map over its image, and the outlines of a mask, for a person to look at.

Maps that are never below zero are in *inferno*, signed ones in *managua* turned round (Crameri
2018, doi:10.5281/zenodo.1243862): yellow above zero, blue below. Both are perceptually uniform, can
be read with any common colour blindness, and grow lighter with a value's size. The larger that is,
the less of the image shows through. The same map and image give the same bytes.
"""

from __future__ import annotations

import io
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from torch.nn import functional

from common.palette import colour_of, rgb

STRONGEST: Final = 0.995
"""Quantile of a map's sizes that has the last colour: one odd pixel would leave the rest grey."""
OPAQUE: Final = 0.85
"""How much of the image the strongest value covers; some of it always shows through."""
FINE: Final = 256
"""Pixels of an image's shorter side for each pixel of an outline's width."""
_WIDTH: Final = 7.0
_DPI: Final = 110
_BAR: Final = 0.85
"""Inches below the images for the bar of colours."""
_BEHIND: Final = 0.4
"""Grey over which the bar shows the colours."""
_STYLE: Final[Any] = {  # matplotlib types the keys as a literal of every name it knows
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": "#24292f",
    "axes.labelcolor": "#24292f",
    "axes.edgecolor": "#8c959f",
    "xtick.color": "#24292f",
    "xtick.major.size": 0,
}


def overlay(
    background: NDArray[np.floating], values: NDArray[np.float32], *, signed: bool
) -> NDArray[np.uint8]:
    """The grey image with a map over it, uint8 (height, width, 3) of the image's size. Sensitive.

    Args:
        background: (height, width) or (channels, height, width) in [0, 1]; it may be larger than
            the map, and must show the same field.
        values: (height, width), as a method gives them.
        signed: whether they may be below zero.
    """
    grey = _grey(background)
    strength = _resized(values, grey.shape) / strongest(values)
    return _bytes(_laid_over(grey, np.clip(strength, -1.0 if signed else 0.0, 1.0), signed=signed))


def outlines(background: NDArray[np.floating], mask: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The grey image with the outline of each class, uint8 (height, width, 3). Sensitive.

    Args:
        background: as for :func:`overlay`.
        mask: (height, width): 0 is background, k the k-th class, in the k-th colour.
    """
    grey = _grey(background)
    height, width = grey.shape
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    large = np.asarray(mask)[rows[:, None], columns]
    picture = np.repeat(_bytes(grey)[..., None], 3, axis=2)
    for number in np.unique(large[large > 0]):
        picture[_edge(large == number, -(-min(height, width) // FINE))] = rgb(colour_of(number))
    return picture


def strongest(values: NDArray[np.float32]) -> float:
    """The size of a value that has the last colour; never 0."""
    sizes = np.abs(values, dtype=np.float64)
    return float(np.quantile(sizes, STRONGEST)) or float(sizes.max()) or 1.0


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (height, width, 3) as a PNG, which says that it is for research."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    buffer, said = io.BytesIO(), PngInfo()
    said.add_text("Description", "Research use only. Not for diagnosis.")
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=said)
    return buffer.getvalue()


def map_picture(
    background: NDArray[np.floating], values: NDArray[np.float32], *, signed: bool, unit: str
) -> bytes:
    """A PNG: the image, beside it the image with the map over it, and the bar of colours below.

    Args:
        background: as for :func:`overlay`.
        values: as there.
        signed: as there.
        unit: what the values are, in words.
    """
    grey = _grey(background)
    height, width = grey.shape
    with mpl.rc_context(_STYLE):
        # Not by pyplot, which would keep every figure in memory.
        inches = min(_WIDTH / 2 * height / width, _WIDTH)
        canvas = Canvas(figsize=(_WIDTH, inches + _BAR), layout="constrained")
        places: list[Axes] = list(canvas.subplots(1, 2))
        both = (np.repeat(_bytes(grey)[..., None], 3, 2), overlay(grey, values, signed=signed))
        for place, picture in zip(places, both, strict=True):
            place.imshow(picture, interpolation="nearest" if max(grey.shape) < FINE else "auto")
            place.set_axis_off()
        _bar(canvas, places, strongest(values), signed=signed, unit=unit)
        return _saved(canvas)


def _laid_over(
    grey: NDArray[np.float64], strength: NDArray[np.float64], *, signed: bool
) -> NDArray[np.float64]:
    """Colours (..., 3) of strengths in [-1, 1] or [0, 1] over greys, in [0, 1]."""
    colours = _colours(signed)((strength + 1.0) / 2.0 if signed else strength)[..., :3]
    share = OPAQUE * np.sqrt(np.abs(strength))[..., None]
    over: NDArray[np.float64] = grey[..., None] * (1.0 - share) + colours * share
    return over


def _bar(canvas: Canvas, places: list[Axes], most: float, *, signed: bool, unit: str) -> None:
    scale = Normalize(-most if signed else 0.0, most)
    steps = np.linspace(-1.0 if signed else 0.0, 1.0, 256)
    # As they look over the grey of _BEHIND, and not as they are where nothing shows through.
    seen = ListedColormap(_laid_over(np.full_like(steps, _BEHIND), steps, signed=signed))
    bar = canvas.colorbar(
        ScalarMappable(scale, seen),
        orientation="horizontal",
        extend="both" if signed else "max",
        label=unit,
        ax=places,
        fraction=0.06,
        aspect=45,
        pad=0.03,
    )
    ends = (-most, 0.0, most) if signed else (0.0, most)
    bar.set_ticks(list(ends), labels=[f"{end:.2g}".replace("-", "−") for end in ends])


def _saved(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    # The version of matplotlib would change the bytes.
    canvas.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _colours(signed: bool) -> Colormap:
    return mpl.colormaps["managua_r" if signed else "inferno"]


def _grey(background: NDArray[np.floating]) -> NDArray[np.float64]:
    grey = np.asarray(background, dtype=np.float64)
    return np.clip(grey.mean(axis=0) if grey.ndim == 3 else grey, 0.0, 1.0)


def _resized(values: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float64]:
    if values.shape == size:
        return values.astype(np.float64)
    given = torch.from_numpy(values.astype(np.float64))[None, None]
    large = functional.interpolate(given, size=size, mode="bilinear", align_corners=False)
    return np.asarray(large[0, 0].numpy())


def _edge(inside: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """What of an area is so near to what is outside; the image's own border is no edge."""
    kernel = inside
    for _ in range(pixels):
        padded = np.pad(kernel, 1, constant_values=True)
        kernel = (
            kernel & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )
    return inside & ~kernel


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(255.0 * values).astype(np.uint8)
