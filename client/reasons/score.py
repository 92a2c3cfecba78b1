"""The one number that a map explains, as a function of an image's pixels.

For a whole image it is an output of the network: a class's logit, or the number that is predicted.
Where there are outputs for each pixel, it is the sum of the class's logit over a region: the pixels
of the image in which the class has the largest logit, or all pixels if there are none (Vinogradova,
Dibrov and Myers 2020, arXiv:2002.11434). The region stays as it is while the pixels change.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import ConsiliumError, DataError, ModelError
from common.study.study_file import Study


class Score(nn.Module):
    """One output of a copy of the model: float32 (images, channels, height, width) to (images, 1).

    Args:
        model: stays as it is.
        study: its intensity constants are applied here, so that pixels are those of the image.
        image: float32 (channels, height, width) in [0, 1]: the one that is explained. Sensitive.
        target: index of an output.

    Raises:
        DataError: the image holds what is not a number.
        ModelError: the model's output is not a number.
        ValueError: the image's shape or the output's index is not one of the study.
    """

    def __init__(self, model: nn.Module, study: Study, image: torch.Tensor, target: int) -> None:
        super().__init__()
        if tuple(image.shape) != tuple(study.shape):
            raise ValueError(f"an image of shape {tuple(image.shape)}, not {tuple(study.shape)}")
        if not 0 <= target < study.heads.outputs:
            raise ValueError(f"output {target} of {study.heads.outputs}")
        if not image.isfinite().all():
            raise DataError(
                "the image holds values that are not numbers",
                found="infinity, or not a number",
                wanted="intensities from 0 to 1",
                remedy="leave this image out, or get it again from where it comes from",
            )
        # A copy: a method may hang hooks on its layers.
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=True)
        self.target = target
        self.mean, self.std = study.data.mean, study.data.std
        self.region: torch.Tensor | None = None
        output = self._output(image[None]).detach()
        if not output.isfinite().all():
            raise _no_number()
        if study.heads.dense:
            largest = output[0].argmax(dim=0) == target
            # All pixels, so that there is a map for a class that was not found.
            self.region = (largest if largest.any() else ~largest).to(output.dtype)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The score of each image by itself."""
        output = self._output(pixels)[:, self.target]
        if self.region is None:
            return output[:, None]
        return (output * self.region).flatten(1).sum(dim=1, keepdim=True)

    def _output(self, pixels: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model((pixels - self.mean) / self.std)
        return output


def as_map(values: torch.Tensor) -> NDArray[np.float32]:
    """A map (height, width) as it leaves a method.

    Raises:
        ModelError: a value is not a number, as where weights are too large.
    """
    if not values.isfinite().all():
        raise _no_number()
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)


def _no_number() -> ConsiliumError:
    return ModelError(
        "the model gives no numbers for this image",
        found="infinity, or not a number",
        wanted="a finite output",
        remedy="use the model of another round: this one's weights have grown beyond all bounds",
    )
