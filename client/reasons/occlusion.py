"""``occlusion``: by how much the score falls when a part of the image is hidden.

Zeiler and Fergus 2014 (arXiv:1311.2901), as MONAI has it: a window moves over the image, and what
is below it is replaced by the image's mean value. A pixel's value is the mean over the windows that
cover it.

Not for the ``scattering`` model, whose features are edges: a window makes new ones. Of a model that
had learned on which side a square is, one map of six pointed at the square, fewer than with random
weights.
"""

from __future__ import annotations

import warnings
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.reasons.score import Score, as_map
from common.models.scattering import ScatteringSpec
from common.study.study_file import Study

WINDOWS: Final = 8
"""Windows that lie beside each other along a side of the image."""
SMALLEST_WINDOW: Final = 2
"""Pixels of a window's side, at least."""
OVERLAP: Final = 0.5
"""Share of a window that the next one covers too: a pixel is in four windows, some 225 in all."""
_AT_ONCE: Final = 16


class _Occlusion:
    name: ClassVar[str] = "occlusion"
    title: ClassVar[str] = "Occlusion"
    signed: ClassVar[bool] = True
    available: ClassVar[bool] = True
    install: ClassVar[str] = ""
    unit: ClassVar[str] = "fall of the score when hidden"
    shows: ClassVar[str] = (
        "By how much this score falls when a window of about an eighth of the image's side is "
        "replaced by the image's mean value. Above zero: the place raises the score; below zero: "
        "it lowers the score."
    )
    hides: ClassVar[str] = (
        "An image with a grey window is an image of a kind that the model never saw, and it may "
        "react to the window itself. Where two places say the same, hiding one changes little. "
        "What is smaller than the window is blurred."
    )

    def fits(self, study: Study) -> str | None:
        """Every model that does not live on edges."""
        if isinstance(study.model, ScatteringSpec):
            return (
                f"{study.model.name} looks at edges, and a window that hides a part of the image "
                "makes new ones; use contributions instead"
            )
        return None

    def of(
        self, model: nn.Module, study: Study, image: torch.Tensor, target: int
    ) -> NDArray[np.float32]:
        from monai.visualize import OcclusionSensitivity

        score = Score(model, study, image, target)
        method = OcclusionSensitivity(
            score,
            mask_size=window(study.data.image_size),
            n_batch=_AT_ONCE,
            verbose=False,
            mode="mean_img",
            overlap=OVERLAP,
            activate=False,
        )
        with torch.no_grad(), warnings.catch_warnings():
            # MONAI indexes with lists, which torch warns of; nobody here can change that.
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            hidden, _ = method(image[None])
            return as_map(score(image[None])[0, 0] - hidden[0, 0])


def window(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what is hidden at a time, in pixels: it follows from the image's."""
    height, width = (max(SMALLEST_WINDOW, round(side / WINDOWS)) for side in size)
    return height, width


OCCLUSION: Final = _Occlusion()
