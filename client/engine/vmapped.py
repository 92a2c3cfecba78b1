"""Modules that no rule knows: per-item gradients of that module by ``torch.func``.

Correct for every module that treats the items of its first dimension apart; slower.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from client.engine.rule import Book, Layer, OneKernel, sum_of
from common.errors import ModelError

Tensors = tuple[torch.Tensor, ...]
AT_ONCE = 16
"""Items whose gradients ``torch.func`` computes together: each holds a whole gradient in memory."""
_SETTINGS: Final = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModuleCall:
    """What a module was called with: tensors of items, and settings beside them.

    Attributes:
        values: by place.
        named: by name.
    """

    values: tuple[Any, ...]
    named: Mapping[str, Any]

    @property
    def tensors(self) -> Tensors:
        """The tensors among the arguments, no part of autograd."""
        every = (*self.values, *self.named.values())
        return tuple(each.detach() for each in every if isinstance(each, torch.Tensor))

    def lengthened(self) -> ModuleCall:
        """The same call, bfloat16 numbers among its arguments in float32."""

        def long(value: Any) -> Any:  # noqa: ANN401 - whatever a module takes
            short = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
            return value.float() if short else value

        return ModuleCall(
            tuple(map(long, self.values)), {name: long(each) for name, each in self.named.items()}
        )

    def on(self, tensors: Tensors) -> ModuleCall:
        """The same call with other tensors in the places of these."""
        left = iter(tensors)

        def put(value: Any) -> Any:  # noqa: ANN401 - whatever a module takes
            return next(left) if isinstance(value, torch.Tensor) else value

        return ModuleCall(
            tuple(put(value) for value in self.values),
            {name: put(value) for name, value in self.named.items()},
        )

    def require_apart(self, layer: Layer, patients: int) -> None:
        """Refuse arguments that do not say which patient they belong to.

        Raises:
            ModelError: names the module.
        """
        every = (*self.values, *self.named.values())
        known = all(isinstance(each, (torch.Tensor, *_SETTINGS)) for each in every)
        items = {len(each) if each.dim() else 0 for each in self.tensors}
        if known and len(items) == 1 and min(items) and min(items) % patients == 0:
            return
        raise ModelError(
            "the input of an unknown module cannot be divided among the patients",
            where=f"module {layer.name or 'the model itself'}",
            found=type(layer.options).__name__,
            wanted="tensors with the batch as their first dimension, and plain settings",
        )


@contextmanager
def unwatched(module: nn.Module) -> Iterator[None]:
    """The module's own forward, if another replaces it; its hooks run outside, and only once."""
    watching = module.__dict__.pop("forward", None)
    hooks, module._forward_hooks = module._forward_hooks, OrderedDict()  # noqa: SLF001 - no public way
    before, module._forward_pre_hooks = module._forward_pre_hooks, OrderedDict()  # noqa: SLF001 - as above
    try:
        yield
    finally:
        module._forward_hooks = hooks  # noqa: SLF001 - as above
        module._forward_pre_hooks = before  # noqa: SLF001 - as above
        if watching is not None:
            module.__dict__["forward"] = watching


def detached(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters, no part of autograd."""
    return {name: value.detach() for name, value in module.named_parameters()}


def item_gradients(
    name: str, module: nn.Module, call: ModuleCall, gradients: Tensors
) -> dict[str, torch.Tensor]:
    """Each item's gradient of each parameter: (items, *parameter).

    Args:
        name: of the module, for the error.
        module: gives one tensor, or several in a tuple.
        call: the items stand along the first dimension of each of its tensors.
        gradients: of the module's output tensors.

    Raises:
        ModelError: ``torch.func`` cannot work on the module.
    """
    parameters = detached(module)

    def one(values: Tensors, output_gradients: Tensors) -> dict[str, torch.Tensor]:
        def apply(given: dict[str, torch.Tensor]) -> Tensors:
            alone = call.on(tuple(value[None] for value in values))
            return outputs(functional_call(module, given, alone.values, dict(alone.named)))

        pull = vjp(apply, parameters)[1]
        found: dict[str, torch.Tensor] = pull(tuple(each[None] for each in output_gradients))[0]
        return found

    try:
        with unwatched(module):
            each: dict[str, torch.Tensor] = vmap(one, chunk_size=AT_ONCE)(call.tensors, gradients)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            "the gradients of an unknown module cannot be computed for each item",
            where=f"module {name or 'the model itself'}",
            found=f"{type(module).__name__}: {str(error).splitlines()[0]}",
            remedy="build it from supported layers (docs/engine.md), or from operations that "
            "torch.func supports",
        ) from error
    return each


def outputs(found: Any) -> Tensors:  # noqa: ANN401 - whatever a module gives
    """The tensors among what a module gives."""
    parts = found if isinstance(found, tuple | list) else (found,)
    return tuple(part for part in parts if isinstance(part, torch.Tensor))


class VmappedRule(OneKernel):
    """The rule of modules that no other serves; a record is a call and its gradients."""

    def forward(self, layer: Layer, value: torch.Tensor) -> tuple[torch.Tensor, Tensors]:
        """Never called: the module's own forward is observed."""
        raise NotImplementedError

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: Tensors,
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, Tensors]:
        """Never called: autograd goes through the module."""
        raise NotImplementedError

    def book(
        self,
        layer: Layer,
        records: list[tuple[ModuleCall, Tensors]],
        patients: int,
        kernel: str,
    ) -> Book:
        """The patients' gradients over all uses of the module."""
        uses = [item_gradients(layer.name, layer.options, *record) for record in records]
        return Book(
            {
                name: sum_of([_by_patient(use[name], patients) for use in uses])
                for name in layer.parameters
            }
        )


def _by_patient(gradients: torch.Tensor, patients: int) -> torch.Tensor:
    return gradients.reshape(patients, -1, *gradients.shape[1:]).sum(dim=1)
