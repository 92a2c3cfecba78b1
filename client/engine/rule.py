"""What a layer is to the engine, and what serves one kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from client.engine.books import Book


class Rule(Protocol):
    """How one kind of layer computes, and enters what its patients' gradients are."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """Ways to make the book; all give the same sums."""
        ...

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The output, and what else backward needs."""
        ...

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """The input's gradient where wanted, and the record that the book is made of."""
        ...

    def book(self, layer: Layer, records: list[Any], patients: int, kernel: str) -> Book:
        """The patients' gradients over all uses of the layer, by a kernel."""
        ...

    def candidates(self, layer: Layer, records: list[Any], patients: int) -> tuple[str, ...]:
        """The kernels worth timing: those that neither time nor memory forbids."""
        ...

    def modelled(self, layer: Layer, records: list[Any], patients: int) -> str:
        """The kernel that arithmetic and memory speak for, nothing being measured."""
        ...


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with weights of its own.

    Attributes:
        name: of the module in the model, and of the part of it where it has several.
        rule: serves it.
        options: the module; its settings are read, its forward is not called.
        parameters: by role, ``weight`` and perhaps ``bias``.
    """

    name: str
    rule: Rule
    options: Any
    parameters: Mapping[str, nn.Parameter]

    @property
    def weight(self) -> torch.Tensor:
        """The weight, no part of autograd."""
        return self.parameters["weight"].detach()

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, no part of autograd."""
        found = self.parameters.get("bias")
        return None if found is None else found.detach()


class OneKernel:
    """What rules have in common that know one way to make their book."""

    kernels: tuple[str, ...] = ("materialised",)

    def candidates(self, layer: Layer, records: list[Any], patients: int) -> tuple[str, ...]:
        """The one kernel."""
        return self.kernels

    def modelled(self, layer: Layer, records: list[Any], patients: int) -> str:
        """The one kernel."""
        return self.kernels[0]
