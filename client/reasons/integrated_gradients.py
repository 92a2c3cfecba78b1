"""``integrated_gradients``: how the score grows from an even grey image to this one, by pixel.

Sundararajan, Taly and Yan 2017 (arXiv:1703.01365), as captum has it: gradients along the straight
way from a baseline to the image, times the difference. The values of all pixels add up to the
difference of the two scores (their axiom of completeness), as exactly as the steps on the way
allow. The baseline has the image's mean value in every pixel: a black one would give no value to
what is black in the image.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.reasons.score import Score, as_map
from common.study.study_file import Study

STEPS: Final = 256
_AT_ONCE: Final = 16


class _IntegratedGradients:
    name: ClassVar[str] = "integrated_gradients"
    title: ClassVar[str] = "Integrated gradients"
    signed: ClassVar[bool] = True
    available: ClassVar[bool] = find_spec("captum") is not None
    install: ClassVar[str] = "pip install 'consilium[reasons]'"
    unit: ClassVar[str] = "part of the score"
    shows: ClassVar[str] = (
        "How much each pixel adds to this score on the way from an even grey image to this one. "
        "The values of all pixels add up to the difference between the two scores. Above zero: the "
        "pixel raises the score; below zero: it lowers the score."
    )
    hides: ClassVar[str] = (
        "Another baseline than the even grey image gives another map, and a pixel as grey as that "
        "gets no value, however much it matters. Neighbouring pixels often differ without meaning."
    )

    def fits(self, study: Study) -> str | None:
        """Every model."""
        del study
        return None

    def of(
        self, model: nn.Module, study: Study, image: torch.Tensor, target: int
    ) -> NDArray[np.float32]:
        from captum.attr import IntegratedGradients

        score = Score(model, study, image, target)
        found = IntegratedGradients(score).attribute(
            image[None],
            baselines=baseline(image)[None],
            target=0,
            n_steps=STEPS,
            internal_batch_size=_AT_ONCE,
        )
        return as_map(found[0].sum(dim=0))


def baseline(image: torch.Tensor) -> torch.Tensor:
    """The even image from which the way begins, of the same shape."""
    return image.mean().expand_as(image)


INTEGRATED_GRADIENTS: Final = _IntegratedGradients()
