"""A projection that makes features of public images uncorrelated and alike in spread.

Of features with such a covariance a mean for each class tells as much as a covariance would, and
a mean costs a private study far less noise (:mod:`common.scores.moments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.sampling import pixels_of
from common.devices.cpu import CPU
from common.errors import ModelError
from common.models.parts import Projected
from common.study.study_file import Study

_AT_ONCE: Final = 64
"""Images that go through the network together."""

_RIDGE: Final = 0.1
"""Added to the variances of directions, in units of a feature's own: what varies less on public
images is not blown up, since on a hospital's it may vary otherwise."""
_LEAST: Final = 1e-6


def whitening(
    features: NDArray[np.float64], width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights and the bias of a projection to the directions that vary most.

    Args:
        features: of public images, (images, features), two images or more.
        width: to how many numbers.

    Returns:
        (width, features) and (width,).

    Raises:
        ModelError: there are fewer features than that.
    """
    if width > features.shape[1]:
        raise ModelError(
            "a projection has no more numbers than the features that are projected",
            where="[model] projection",
            found=f"{width}",
            wanted=f"at most {features.shape[1]}",
            remedy=f"write projection = {features.shape[1]} or less",
        )
    middle, spread = features.mean(axis=0), features.std(axis=0) + _LEAST
    scaled = (features - middle) / spread
    variances, directions = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    most = slice(None, -width - 1, -1)
    weights = (directions[:, most] / np.sqrt(np.maximum(variances[most], 0.0) + _RIDGE)).T / spread
    return weights.astype(np.float32), -(weights @ middle).astype(np.float32)


@torch.no_grad()
def whiten(model: nn.Module, study: Study, images: Iterable[NDArray[np.floating[Any]]]) -> None:
    """Set the projection before a model's head, where there is one, from public images.

    Args:
        model: is changed.
        study: whose intensity constants are used.
        images: of each hospital, (images, channels, height, width) in [0, 1].

    Raises:
        ModelError: as :func:`whitening`.
    """
    projected = next((each for each in model.modules() if isinstance(each, Projected)), None)
    if projected is None:
        return
    found: list[torch.Tensor] = []
    hook = projected.projection.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for each in images:
        for first in range(0, len(each), _AT_ONCE):
            rows = list(range(first, min(first + _AT_ONCE, len(each))))
            model((pixels_of(each, rows, CPU) - study.data.mean) / study.data.std)
    hook.remove()
    features = torch.cat(found).double().numpy()
    weights, bias = whitening(features, projected.projection.out_features)
    projected.projection.weight.copy_(torch.from_numpy(weights))
    projected.projection.bias.copy_(torch.from_numpy(bias))
