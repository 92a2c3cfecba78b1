"""Ways to form a batch's gradient: each gives a function that does it once, on the same model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping

from benchmarks.step.models import Setting
from client.engine.choice import measured
from client.engine.clipped import PLAIN, ClippedSum, place
from client.training.footprint import fitting
from client.training.gradients import summed_loss
from client.training.tuning import TIMED_SECONDS, tile_of
from common.numerics import EngineChoice

CLIP: Final = 1.0
MEMORY: Final = 2**30
"""What a site allows a tile by default, bytes."""
Step = Callable[[], torch.Tensor]


def choose(setting: Setting, blank: EngineChoice = PLAIN, memory: int = MEMORY) -> EngineChoice:
    """The kernels that are fastest on a device, in a memory.

    Args:
        setting: its batch is on the device.
        blank: the device and the precision.
        memory: bytes that a tile may take.
    """
    choice = tiled(setting, blank, memory)
    some = setting.batch[slice(0, choice.tile)]
    loss = summed_loss(setting.task)
    return measured(setting.build(), some, loss, choice, seconds=TIMED_SECONDS)


def tiled(setting: Setting, blank: EngineChoice, memory: int) -> EngineChoice:
    """The tile that fits into a memory, with modelled kernels; as for :func:`choose`."""
    shape, sketch = tuple(setting.batch.inputs.shape[2:]), setting.build().to("meta")
    fits = fitting(sketch, shape, setting.task, memory, items=1, blank=blank)
    return blank.model_copy(update={"tile": tile_of(len(setting.batch), fits)})


def _flat(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _plain(setting: Setting, layout: torch.memory_format) -> Step:
    model = setting.build().to(memory_format=layout)  # type: ignore[call-overload] # no type for it
    images = setting.batch.inputs[:, 0].contiguous(memory_format=layout)
    summed = summed_loss(setting.task)

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        loss = summed(model(images), setting.batch.each_target)
        loss.backward()
        return loss.detach()

    return step


def _sgd(setting: Setting, _: EngineChoice) -> Step:
    return _plain(setting, torch.contiguous_format)


def _sgd_channels_last(setting: Setting, _: EngineChoice) -> Step:
    return _plain(setting, torch.channels_last)


def _ours(setting: Setting, choice: EngineChoice) -> Step:
    model, loss = place(setting.build(), choice), summed_loss(setting.task)
    summed = ClippedSum(model, loss, CLIP, choice)

    def step() -> torch.Tensor:
        summed.start()
        summed.add(setting.batch)
        return summed.total

    return step


def _hooks(setting: Setting, _: EngineChoice) -> Step:
    # Kinds of layers that Opacus has no hook for go through torch.func, as it does by itself.
    model = GradSampleModule(setting.build(), batch_first=True, loss_reduction="sum")
    loss = summed_loss(setting.task)

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        _backward(loss(model(setting.batch.inputs[:, 0]), setting.batch.each_target))
        each = [parameter.grad_sample.flatten(1) for parameter in model.parameters()]
        norms = torch.stack([rows.norm(dim=1) for rows in each]).norm(dim=0)
        factors = (CLIP / norms).clamp(max=1.0)
        return _flat([factors @ rows for rows in each])

    return step


def _ghost(setting: Setting, _: EngineChoice) -> Step:
    model = GradSampleModuleFastGradientClipping(
        setting.build(), batch_first=True, loss_reduction="sum", max_grad_norm=CLIP
    )

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        outputs = model(setting.batch.inputs[:, 0])
        losses = torch.func.vmap(setting.task.loss)(outputs, setting.batch.each_target)
        _backward(losses.sum(), again=True)
        model.zero_grad(set_to_none=True)
        weighted = model.get_clipping_coef() * losses
        model.disable_hooks()
        _backward(weighted.sum())
        model.enable_hooks()
        return _flat([parameter.grad for parameter in model.parameters()])

    return step


def _loop(setting: Setting, _: EngineChoice) -> Step:
    model = setting.build()
    parameters, summed = list(model.parameters()), summed_loss(setting.task)

    def step() -> torch.Tensor:
        size = sum(parameter.numel() for parameter in parameters)
        total = parameters[0].new_zeros(size)
        for image, target in zip(setting.batch.inputs, setting.batch.each_target, strict=True):
            loss = summed(model(image), target[None])
            gradient = _flat(list(torch.autograd.grad(loss, parameters)))
            total += gradient * (CLIP / gradient.norm()).clamp(max=1.0)
        return total

    return step


def _backward(loss: torch.Tensor, *, again: bool = False) -> None:
    with warnings.catch_warnings():
        # Opacus' hooks sit on modules whose input needs no gradient: intended.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward(retain_graph=again)


CONTENDERS: Final[dict[str, Callable[[Setting, EngineChoice], Step]]] = {
    "plain SGD": _sgd,
    "plain SGD, channels_last": _sgd_channels_last,
    "ours": _ours,
    "Opacus hooks": _hooks,
    "Opacus ghost": _ghost,
    "per-patient loop": _loop,
}


def prepare(name: str, setting: Setting, choice: EngineChoice) -> Step:
    """A contender's step, on a model of its own with the setting's weights."""
    return CONTENDERS[name](setting, choice)
