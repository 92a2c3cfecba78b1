"""Modules that no rule knows: per-item gradients of that module by ``torch.func``.

Correct for every module that treats the items of its first dimension apart; slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from client.engine.books import Book, sum_of
from client.engine.rule import Layer, OneKernel
from common.errors import ModelError

Tensors = tuple[torch.Tensor, ...]
AT_ONCE = 16
"""Items whose gradients ``torch.func`` works out together."""


@contextmanager
def unwatched(module: nn.Module) -> Iterator[None]:
    """The module's own forward, where another stands in for it."""
    watching = module.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if watching is not None:
            module.__dict__["forward"] = watching


def detached(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters, no part of autograd."""
    return {name: value.detach() for name, value in module.named_parameters()}


def item_gradients(
    name: str, module: nn.Module, inputs: Tensors, gradients: Tensors
) -> dict[str, torch.Tensor]:
    """Each item's gradient of each parameter: (items, *parameter).

    Args:
        name: of the module, for the error.
        module: called with ``inputs``; gives one tensor, or several in a tuple.
        inputs: the items stand along the first dimension of each.
        gradients: of the module's output tensors.

    Raises:
        ModelError: ``torch.func`` cannot work on the module.
    """
    parameters = detached(module)

    def one(values: Tensors, output_gradients: Tensors) -> dict[str, torch.Tensor]:
        def apply(given: dict[str, torch.Tensor]) -> Tensors:
            alone = tuple(value[None] for value in values)
            return outputs(functional_call(module, given, alone))

        pull = vjp(apply, parameters)[1]
        found: dict[str, torch.Tensor] = pull(tuple(each[None] for each in output_gradients))[0]
        return found

    try:
        with unwatched(module):
            each: dict[str, torch.Tensor] = vmap(one, chunk_size=AT_ONCE)(inputs, gradients)
    except RuntimeError as error:
        raise ModelError(
            "a module is not known, and its gradients cannot be taken for each item",
            where=f"module {name}",
            found=f"{type(module).__name__}: {str(error).splitlines()[0]}",
            remedy="build it from layers that are known, or from operations that torch.func takes",
        ) from error
    return each


def outputs(found: Any) -> Tensors:  # noqa: ANN401 - whatever a module gives
    """The tensors among what a module gives."""
    parts = found if isinstance(found, tuple | list) else (found,)
    return tuple(part for part in parts if isinstance(part, torch.Tensor))


class VmappedRule(OneKernel):
    """The rule of modules that no other serves; a record is a module's inputs and gradients."""

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
        records: list[tuple[Tensors, Tensors]],
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
