"""Which parts of a network are trained, and the small ones that are added to it.

What is not trained is *frozen*: public numbers that every site has, and that no patient changes.
Only trained weights are clipped, noised, sent and counted.

A low-rank adapter (Hu et al. 2022, arXiv:2106.09685) is added to a frozen convolution or dense
layer: what the layer gives, and beside it what a narrow layer and one back to the full width give.
The second starts at zero, so that an adapted network begins as the network it adapts.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from torch.nn import functional

from common.errors import ModelError
from common.scores.moments import LENGTH

HEAD: Final = "head"
"""The last layer that has weights."""
NORMS: Final = "norms"
"""Every normalisation."""
_NORMS: Final = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
_ADAPTERS: Final = ("down", "up")


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter beside it.

    Args:
        base: a convolution of one group, or a dense layer.
        rank: channels between the two layers of the adapter.
    """

    def __init__(self, base: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down: nn.Module
        self.up: nn.Conv2d | nn.Linear
        if isinstance(base, nn.Linear):
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        else:
            self.down = nn.Conv2d(
                base.in_channels,
                rank,
                base.kernel_size,  # type: ignore[arg-type] # torch has it as a tuple of any length
                stride=base.stride,  # type: ignore[arg-type] # as above
                padding=base.padding,  # type: ignore[arg-type] # as above
                dilation=base.dilation,  # type: ignore[arg-type] # as above
                bias=False,
            )
            self.up = nn.Conv2d(rank, base.out_channels, kernel_size=1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """What the layer gives, and what the adapter adds."""
        found: torch.Tensor = self.base(value) + self.up(self.down(value))
        return found


def adapt(model: nn.Module, rank: int, trainable: tuple[str, ...]) -> nn.Module:
    """The same model with adapters of a rank beside the layers that are not trained.

    Raises:
        ModelError: there is no such layer.
    """
    trained = _trained(model, trainable)
    fitting = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in list(parent.named_children())
        if isinstance(child, nn.Linear) or (isinstance(child, nn.Conv2d) and child.groups == 1)
        if not any(parameter in trained for parameter in map(id, child.parameters()))
    ]
    if not fitting:
        raise ModelError(
            "the model has no frozen layer that an adapter could stand beside",
            where="[model] adapters",
            found=f"trainable = {list(trainable)}",
            wanted="a convolution or dense layer that is not trained",
            remedy='leave adapters out, or write trainable = ["head"]',
        )
    for parent, name, child in fitting:
        setattr(parent, name, Adapted(child, rank))
    return model


class Projected(nn.Module):
    """A head on few numbers of an image, which have one length for every image.

    So that what an image can add to a gradient of the head is known, and the same for all: with
    the projection frozen, the head's input is a public function of the image, of L2 norm
    :data:`common.scores.moments.LENGTH`.

    Args:
        head: whose place it takes.
        width: to how many numbers its input is projected.
    """

    def __init__(self, head: nn.Linear, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(head.in_features, width)
        self.head = nn.Linear(width, head.out_features)

    def features(self, value: torch.Tensor) -> torch.Tensor:
        """What reaches the head, (..., width)."""
        return LENGTH * functional.normalize(self.projection(value), dim=-1)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """What the head gives."""
        found: torch.Tensor = self.head(self.features(value))
        return found


def project(model: nn.Module, width: int) -> nn.Module:
    """The same model with a projection before its head.

    Raises:
        ModelError: the head is no dense layer.
    """
    name, head = head_of(model)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            "the model has no dense layer to project for",
            where="[model] projection",
            found=f"the head {name} is a {type(head).__name__}",
            wanted="a model for whole images, whose head is a dense layer",
            remedy="leave projection out, or choose another model",
        )
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, Projected(head, width))
    return model


def freeze(model: nn.Module, trainable: tuple[str, ...]) -> nn.Module:
    """The same model, of which only some parts and the adapters require a gradient.

    Args:
        model: with its adapters.
        trainable: ``head``, ``norms``, or names of modules; all of it where it is empty.

    Raises:
        ModelError: a name is no part of the model.
    """
    if not trainable:
        return model
    trained = _trained(model, trainable)
    for module in model.modules():
        if isinstance(module, Adapted):
            added = (getattr(module, part) for part in _ADAPTERS)
            trained |= {id(each) for part in added for each in part.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return model


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that are trained, in the order of ``model.named_parameters``."""
    return [each for each in model.parameters() if each.requires_grad]


def head_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The last module that holds weights, and its name."""
    holders = [
        (name, module)
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    return holders[-1]


def _trained(model: nn.Module, trainable: tuple[str, ...]) -> set[int]:
    """The ids of the parameters that the names stand for."""
    found: set[int] = set()
    for name in trainable:
        parts = _named(model, name)
        if not parts:
            known = [each for each, _ in model.named_children()]
            raise ModelError(
                "the model has no such part",
                where="[model] trainable",
                found=name,
                wanted=f"{HEAD}, {NORMS}, or one of {', '.join(known)}",
                remedy="name a part that the model has, or leave trainable out to train all",
            )
        found |= {id(each) for part in parts for each in part.parameters()}
    return found


def _named(model: nn.Module, name: str) -> list[nn.Module]:
    if name == HEAD:
        return [head_of(model)[1]]
    if name == NORMS:
        return [each for each in model.modules() if isinstance(each, _NORMS)]
    parts = dict(model.named_modules())
    found = parts.get(name) if name else None
    return [] if found is None or not any(True for _ in found.parameters()) else [found]
