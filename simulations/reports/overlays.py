"""Images with outlines: what is there, and what a model found."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from common.files import write_atomic
from simulations.reports.charts import SITE_COLOURS
from simulations.reports.plots import WIDTH, Plot, picture
from simulations.reports.result import Result

FILE: Final = "examples.npz"
_ACROSS: Final = 3
_KEY: Final = 0.25
"""Inches of a line of the key."""
_GAP: Final = 2
"""Pixels between two images."""


@dataclass(frozen=True)
class Examples:
    """An image of each of some patients, worst first.

    Attributes:
        images: float32 (patients, height, width) in [0, 1].
        truth: uint8, likewise: the mask.
        found: uint8, likewise: what the model named.
        values: the headline figure of each whole patient.
    """

    images: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    found: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float64]

    @classmethod
    def load(cls, path: Path) -> Examples | None:
        """What was saved; None where there is nothing."""
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["images"], kept["truth"], kept["found"], kept["values"])

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, images=self.images, truth=self.truth, found=self.found, values=self.values
        )
        write_atomic(path, buffer.getvalue())


def overlays(examples: Examples, result: Result) -> Plot:
    """The examples beside each other, worst first, with the outlines of every class."""
    rows = -(-len(examples.images) // _ACROSS)
    height, width = examples.images.shape[1:]
    words = result.study.headline
    classes = ", ".join(result.study.classes)

    def draw(axes: Axes) -> None:
        axes.imshow(_beside(examples.images, rows), cmap="gray", vmin=0, vmax=1)
        for number, name in enumerate(result.study.classes, start=1):
            colour = SITE_COLOURS[(number - 1) % len(SITE_COLOURS)]
            axes.plot([], [], color=colour, label=name)
            for masks, style in ((examples.truth, "solid"), (examples.found, "dashed")):
                outline = _beside((masks == number).astype(np.float32), rows)
                if outline.any():
                    axes.contour(outline, [0.5], colors=[colour], linestyles=style, linewidths=1.2)
        for place, value in enumerate(examples.values):
            row, column = divmod(place, _ACROSS)
            axes.text(
                column * (width + _GAP) + 2,
                row * (height + _GAP) + 2,
                f"{words} {value:.2f}",
                color="white",
                fontsize=8,
                va="top",
            )
        axes.set_axis_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=_ACROSS, fontsize=8)

    return picture(
        "examples",
        "What the shared model finds",
        f"Test patients from the worst to the best. Solid: what is there; dashed: what the model "
        f"found. Outlined: {classes}. The number is of all of a patient's images together.",
        height=WIDTH * rows * height / (_ACROSS * width)
        + _KEY * -(-len(result.study.classes) // _ACROSS)
        + 0.2,
        draw=draw,
        facts=result.hospitals.facts,
    )


def _beside(images: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    """Images in rows, with gaps."""
    height, width = images.shape[1] + _GAP, images.shape[2] + _GAP
    canvas = np.zeros((rows * height, _ACROSS * width), dtype=np.float32)
    for place, image in enumerate(images):
        top, left = height * (place // _ACROSS), width * (place % _ACROSS)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas[:-_GAP, :-_GAP]
