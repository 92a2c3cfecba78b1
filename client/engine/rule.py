"""A layer, the rule that serves one kind of layer, and the book of its gradients.

A layer fills its book during the backward pass. A gradient is either *held*, in the bits in which
it was formed from that patient alone, or *factored*: a product of inputs and output gradients that
is never formed for one patient. In both cases it is made of float32 numbers at most, and
everything that follows (norms, factors, sums) is float64. A product of four float32 numbers lies
between 1e-180 and 1e154, so no square underflows and none overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import torch
from torch import nn

Gradients = Mapping[str, torch.Tensor]
"""A gradient, or a sum of them, for each of a layer's parameters, by the parameter's role."""

BLOCK: Final = 2**15
"""Numbers of each patient that are converted to float64 at once: 256 KiB stay in the cache."""


@dataclass(frozen=True)
class Weighing:
    """What each patient of a tile counts for in a sum.

    Attributes:
        factors: float64 (patients,), finite; zero for a patient who does not count.
        counted: bool (patients,), who counts. The gradients of others are never multiplied: zero
            times infinity is NaN.
    """

    factors: torch.Tensor
    counted: torch.Tensor


@dataclass(frozen=True)
class Factored:
    """Gradients of one parameter that are not formed patient by patient.

    Attributes:
        squared: float64 (patients,), at least the squared L2 norms, rounding allowed for.
        gross: float64 (patients,), the sum over positions of input norm times gradient norm:
            what the rounding of a product is measured by.
        add: adds the sum of factor times gradient to a float64 array of the parameter's shape.
    """

    squared: torch.Tensor
    gross: torch.Tensor
    add: Callable[[torch.Tensor, Weighing], None]


@dataclass(frozen=True)
class Book:
    """One layer's share of each patient's gradient.

    Attributes:
        held: by the parameter's role, gradients that are held: (patients, *parameter).
        factored: by role, those that are not.
    """

    held: Gradients = field(default_factory=dict)
    factored: Mapping[str, Factored] = field(default_factory=dict)


def book_of(weight: torch.Tensor | Factored, bias: torch.Tensor | None) -> Book:
    """The book of a layer that has a weight and perhaps a bias, whose gradients are held."""
    held = {} if bias is None else {"bias": bias}
    if isinstance(weight, Factored):
        return Book(held, {"weight": weight})
    return Book({"weight": weight, **held})


def accurate(array: torch.Tensor) -> torch.Tensor:
    """What gradients are made of, in a type that they may be formed and summed in."""
    # bfloat16 has 8 bits: sums formed in it let a patient's vector exceed the clip norm. Records
    # fill the memory, so they stay as short as they came, and are made longer where they are used.
    half = array.is_floating_point() and array.dtype != torch.float64
    return array.float() if half else array


def blocks(array: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The columns of (patients, numbers), some at a time, as float64 that may be written over."""
    for first in range(0, array.shape[1], BLOCK):
        part = slice(first, first + BLOCK)
        yield part, array[:, part].to(torch.float64, copy=True)


def sum_squares(array: torch.Tensor) -> torch.Tensor:
    """Float64 (patients,): the squares' sum over all but the first dimension."""
    # float64: a running float32 sum made the norms of large layers come out too small.
    total = torch.zeros(len(array), dtype=torch.float64, device=array.device)
    for _, part in blocks(array.flatten(1)):
        total += torch.linalg.vecdot(part, part)
    return total


def add_weighted(total: torch.Tensor, array: torch.Tensor, weighing: Weighing) -> None:
    """Add the sum over patients of factor times row.

    Args:
        total: float64 (numbers,); it is added to.
        array: (patients, numbers).
        weighing: of the patients.
    """
    # Filled with zeros: a factor of zero would turn an infinite gradient into NaN.
    left_out = ~weighing.counted[:, None]
    for part, rows in blocks(array):
        total[part].addmv_(rows.masked_fill_(left_out, 0.0).mT, weighing.factors)


def sum_of(arrays: list[torch.Tensor]) -> torch.Tensor:
    """The sum of arrays of one shape, of the uses of a layer."""
    return arrays[0] if len(arrays) == 1 else torch.stack(arrays).sum(dim=0)


class Rule(Protocol):
    """How one kind of layer computes, and enters what its patients' gradients are."""

    @property
    def multiplies(self) -> bool:
        """Whether it is a product of its input and its weights, which bfloat16 makes fast."""
        ...

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
    def frozen(self) -> bool:
        """Whether nothing of it is trained: it has no book."""
        return not any(each.requires_grad for each in self.parameters.values())

    def rounded(self, dtype: torch.dtype) -> Layer:
        """The same layer with weights of another type, to compute with once."""
        fewer = {
            role: nn.Parameter(each.detach().to(dtype), requires_grad=False)
            for role, each in self.parameters.items()
        }
        return replace(self, parameters=fewer)

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
    multiplies = False

    def candidates(self, layer: Layer, records: list[Any], patients: int) -> tuple[str, ...]:
        """The one kernel."""
        return self.kernels

    def modelled(self, layer: Layer, records: list[Any], patients: int) -> str:
        """The one kernel."""
        return self.kernels[0]
