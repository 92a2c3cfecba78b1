"""What the engine checks on random input before a model's first step.

That without clipping its sum is autograd's, for every parameter; and that no patient's
gradient depends on another patient. A model that fails is refused, by the name of the
parameter or of the module at fault.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Final

import torch
from torch import nn

from client.engine.clipped import Loss, Patients, clipped_sum, place
from common.errors import ModelError
from common.numerics import EngineChoice

SAME: Final = 1e-8
"""Relative difference in float64 up to which two sums are one."""


def require_sound(model: nn.Module, example: Patients, loss: Loss, choice: EngineChoice) -> None:
    """Refuse a model whose clipped sums would be wrong.

    Args:
        model: a copy of it is tried, in float64.
        example: at least two patients of random input.
        loss: as for :func:`client.engine.clipped.clipped_sum`.
        choice: as there.

    Raises:
        ModelError: names the parameter or module at fault.
    """
    trial = place(copy.deepcopy(model).double(), choice)
    exact = example.inputs.double() if example.inputs.is_floating_point() else example.inputs
    patients = Patients(exact, example.targets)
    _require_apart(trial, patients)
    together = clipped_sum(trial, patients, loss, math.inf, choice)
    _require_same(trial, together, _by_autograd(trial, patients, loss), "autograd's")
    alone = sum(
        clipped_sum(trial, patients[slice(place, place + 1)], loss, math.inf, choice)
        for place in range(len(patients))
    )
    _require_same(trial, together, torch.as_tensor(alone), "the sum of each patient's alone")


def _by_autograd(model: nn.Module, patients: Patients, loss: Loss) -> torch.Tensor:
    items = patients.inputs.shape[1]
    outputs = model(patients.inputs.flatten(0, 1))
    total = loss(outputs, patients.targets.repeat_interleave(items, dim=0)) / items
    gradients = torch.autograd.grad(
        total, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _require_same(model: nn.Module, ours: torch.Tensor, theirs: torch.Tensor, whose: str) -> None:
    start, scale = 0, float(theirs.norm())
    for name, parameter in model.named_parameters():
        stop = start + parameter.numel()
        apart = float((ours[start:stop] - theirs[start:stop]).norm())
        if not apart <= SAME * max(scale, 1.0):
            raise ModelError(
                "a parameter's gradient is not what it should be",
                where=f"parameter {name}",
                found=f"{apart:.2g} away, at norm {scale:.2g}",
                wanted=f"{whose} gradient",
                remedy="the parameter may be used outside its own module's forward: use it there",
            )
        start = stop


def _require_apart(model: nn.Module, patients: Patients) -> None:
    """No module's output for the first patient may change with the other patients."""
    first = patients.inputs[:1]
    others = patients.inputs.roll(1, dims=-1)[1:]
    others = 3 * others if others.is_floating_point() else others  # else sums stay as they are
    outputs = [
        _first_outputs(model, torch.cat([first, rest]), len(first[0]))
        for rest in (patients.inputs[1:], others)
    ]
    for (name, one), (_, other) in zip(*outputs, strict=True):
        if one.shape != other.shape or not _alike(one, other):
            raise ModelError(
                "a module lets one patient's image change what another's becomes",
                where=f"module {name or 'the model itself'}",
                wanted="outputs that are functions of that patient's input alone",
                remedy="replace it in the model",
            )


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=SAME, atol=SAME, equal_nan=True)


def _first_outputs(
    model: nn.Module, inputs: torch.Tensor, items: int
) -> list[tuple[str, torch.Tensor]]:
    """What each module gives for the first patient, in the order in which they are done."""
    seen: list[tuple[str, torch.Tensor]] = []

    def keep(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and len(output) == items * len(inputs):
                seen.append((name, output[:items].detach().clone()))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(inputs.flatten(0, 1))
    finally:
        for handle in hooks:
            handle.remove()
    return seen
