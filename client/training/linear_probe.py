"""A network of which the head alone is trained, in two halves: a linear probe on its features.

What reaches the head, its *features*, is then a public function of each image, which no round
changes (Alain and Bengio 2016, arXiv:1610.01644). So it is computed once for each image instead of
in each step, and what is trained is one dense layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from common.models.networks import Described, sketch
from common.models.parts import head_of, trained_parameters
from common.models.spec import ModelSpec, Shape
from common.tasks.task import Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class LinearProbeSpec(ModelSpec):
    """The head alone, on features; no study names it."""

    name: Literal["linear_probe"] = "linear_probe"

    def build(self, shape: Shape, heads: Heads) -> nn.Module:
        """As :meth:`ModelSpec.build`; an image's channels are its features."""
        return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels, heads.outputs))


@lru_cache(maxsize=64)
def features_count(study: Described) -> int:
    """How many features reach the head of a study's network; 0 where more than it is trained.

    Found on torch's ``meta`` device: nothing is computed. The head has to be the last thing that
    is computed, once, by a dense layer, so that the two halves give what the whole gives.

    Raises:
        ModelError: as :func:`common.models.networks.build_model`.
    """
    if not study.model.trainable or study.model.adapters:
        return 0
    model = sketch(study)
    _, head = head_of(model)
    trained = trained_parameters(model)
    if (
        not isinstance(head, nn.Linear)
        or list(map(id, trained)) != [id(head.weight), id(head.bias)]
        or len(trained) == len(list(model.parameters()))
    ):
        return 0
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def called(_: nn.Module, given: Sequence[Any], found: torch.Tensor) -> None:
        calls.append((given[0], found))

    head.register_forward_hook(called)
    image = torch.zeros(1, *study.shape, device="meta")
    with torch.no_grad():
        outputs = model(image)
        features = without_head(model)(image)
    if len(calls) != 1 or calls[0][1] is not outputs:
        return 0
    fits = calls[0][0].shape == features.shape == (1, head.in_features)
    return head.in_features if fits else 0


def without_head(model: nn.Module) -> nn.Module:
    """The same network, changed: it gives what reached its head, (items, features)."""
    model.set_submodule(head_of(model)[0], nn.Identity())
    return model
