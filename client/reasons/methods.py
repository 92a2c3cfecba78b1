"""The methods that say why: a closed list, which a hospital can review.

A new one is a file with an object that has all of :class:`Method`, and a line here. Each has passed
the test of Adebayo et al. 2018 (arXiv:1810.03292): with random weights it gives another map.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from client.reasons.contributions import CONTRIBUTIONS
from client.reasons.grad_cam import GRAD_CAM
from client.reasons.integrated_gradients import INTEGRATED_GRADIENTS
from client.reasons.occlusion import OCCLUSION
from common.errors import ConsiliumError
from common.study.study_file import Study


class Method(Protocol):
    """A method: which parts of one image make one output of a model what it is.

    Attributes:
        name: by which it is asked for.
        title: as a reader sees it.
        signed: whether the map has values below zero, of what lowers the score.
        available: whether all that it needs is installed.
        install: the command that installs it, where it is not a part of every installation.
        unit: of the map's values, in words.
        shows: what a reader may take from a map.
        hides: what a reader may not.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the class says it, and so all below

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def signed(self) -> bool: ...  # noqa: D102

    @property
    def available(self) -> bool: ...  # noqa: D102

    @property
    def install(self) -> str: ...  # noqa: D102

    @property
    def unit(self) -> str: ...  # noqa: D102

    @property
    def shows(self) -> str: ...  # noqa: D102

    @property
    def hides(self) -> str: ...  # noqa: D102

    def fits(self, study: Study) -> str | None:
        """None if it can explain the study's model; otherwise why not, and what to use instead."""
        ...

    def of(
        self, model: torch.nn.Module, study: Study, image: torch.Tensor, target: int
    ) -> NDArray[np.float32]:
        """The map of one image: float32 (height, width), always finite. Sensitive.

        The same input gives the same bits.

        Args:
            model: of the study, with its weights; it stays as it is.
            study: which fits; its intensity constants are applied here.
            image: float32 (channels, height, width) in [0, 1]. Sensitive.
            target: index of an output of the network, which
                :class:`client.reasons.score.Score` makes one number of.

        Raises:
            DataError: the image holds what is not a number.
            ModelError: the model gives no numbers.
        """
        ...


_ALL: Final[tuple[Method, ...]] = (GRAD_CAM, OCCLUSION, INTEGRATED_GRADIENTS, CONTRIBUTIONS)
METHODS: Final[dict[str, Method]] = {reason.name: reason for reason in _ALL}
"""By name."""


def method_for(name: str, study: Study) -> Method:
    """The method of this name, which is installed and fits the study.

    Raises:
        ConsiliumError: there is no such method, it is not installed, or it does not fit.
    """
    reason = METHODS.get(name)
    if reason is None:
        raise ConsiliumError(
            "there is no such method to explain a model",
            where="--reasons",
            found=name,
            wanted=f"one of {', '.join(METHODS)}",
            remedy="choose one of them",
        )
    if not reason.available:
        raise ConsiliumError(
            "the method needs a package that is not installed",
            where="--reasons",
            found=name,
            wanted=f"one of {', '.join(each.name for each in _ALL if each.available)}",
            remedy=f"install it: {reason.install}",
        )
    if (why := reason.fits(study)) is not None:
        raise ConsiliumError(
            "the method cannot explain this model",
            where="--reasons",
            found=f"{name}: {why}",
            wanted=f"one of {', '.join(fitting(study))}",
            remedy="choose another method",
        )
    return reason


def fitting(study: Study) -> tuple[str, ...]:
    """Names of the methods that are installed and fit the study."""
    return tuple(each.name for each in _ALL if each.available and each.fits(study) is None)
