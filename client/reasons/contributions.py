"""``contributions``: what each place adds to the logit of the ``scattering`` model, exactly.

The model is one linear layer on fixed features (:mod:`common.models.wavelets`), so that its logit
is a bias and a sum over places and channels of weight times feature. This map is that sum over the
channels of each place. Nothing is approximated: with the bias it adds up to the logit, up to the
rounding of float32.

What is exact is the part of each place's *features*. A feature does not follow from the place's
pixels alone: a wavelet reaches three pixels of its scale beyond the place, each band has the mean
and the norm of the whole image taken out, and moduli and logarithms are not linear. So the map says
what the features as they are add up to, and not what the logit would be if some pixels were others.
Zero is a band's mean: a place that is like the mean of the image adds
nothing. A logit alone holds what all classes have in common too; only their differences decide.
"""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.reasons.score import Score, as_map
from common.models.scattering import ScatteringSpec
from common.models.wavelets import Scattering
from common.study.study_file import Study


class Addends(NamedTuple):
    """A logit in parts.

    Attributes:
        places: float64 (height >> scales, width >> scales): what the features of each place add.
        bias: what the logit is without features.
    """

    places: torch.Tensor
    bias: float


class _Contributions:
    name: ClassVar[str] = "contributions"
    title: ClassVar[str] = "Contributions"
    signed: ClassVar[bool] = True
    available: ClassVar[bool] = True
    install: ClassVar[str] = ""
    unit: ClassVar[str] = "part of the score"
    shows: ClassVar[str] = (
        "How much the wavelet features of each place add to this score. This is exact, since the "
        "model is linear in these features: all places and one constant add up to the score. Above "
        "zero: the place raises the score; below zero: it lowers the score."
    )
    hides: ClassVar[str] = (
        "The features of a place also depend on pixels around it, and on the contrast of the whole "
        "image. So the map does not say what the score would be if some pixels were different."
    )

    def fits(self, study: Study) -> str | None:
        """The ``scattering`` model alone."""
        if isinstance(study.model, ScatteringSpec):
            return None
        other = "occlusion" if study.heads.dense else "grad_cam or occlusion"
        return (
            f"{self.name} is exact for the linear model scattering only, and {study.model.name} is "
            f"not linear; use {other} instead"
        )

    def of(
        self, model: nn.Module, study: Study, image: torch.Tensor, target: int
    ) -> NDArray[np.float32]:
        places = addends(model, study, image, target).places
        height, width = study.data.image_size
        cell = 1 << _stem(model).scales
        # Spread evenly over the place's pixels, so that the pixels add up to the same. A last row
        # or column that does not fill a place has none, and gets nothing.
        spread = (places / cell**2).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        below, beside = height - spread.shape[0], width - spread.shape[1]
        return as_map(nn.functional.pad(spread, (0, beside, 0, below)))


def addends(model: nn.Module, study: Study, image: torch.Tensor, target: int) -> Addends:
    """What each place adds to an output of a ``scattering`` model.

    Args:
        model: of the study.
        study: whose model is ``scattering``.
        image: float32 (channels, height, width) in [0, 1]. Sensitive.
        target: index of the output.
    """
    score = Score(model, study, image, target)  # refuses what is no number
    stem, linear = _stem(model), model.get_submodule("2")
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        features = stem((image[None] - study.data.mean) / study.data.std)[0].double()
        weights = linear.weight[score.target].double().view_as(features)
        return Addends((weights * features).sum(dim=0), float(linear.bias[score.target]))


def _stem(model: nn.Module) -> Scattering:
    stem = model.get_submodule("0")
    assert isinstance(stem, Scattering), "asked for what does not fit"
    return stem


CONTRIBUTIONS: Final = _Contributions()
