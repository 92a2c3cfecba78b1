"""What a layer enters while the backward pass goes by: a book of its patients' gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

Gradients = Mapping[str, torch.Tensor]
"""A gradient, or a sum of them, for each of a layer's parameters, by the parameter's role."""

ROUNDING: Final = 4.0
"""Roundings by which a dot product may be off, in units of the product of the vectors' norms.

Matrix products are summed in blocks, so that errors do not grow with the vectors' length.
"""

BLOCK: Final = 1024
"""Numbers whose squares are summed in float32."""


@dataclass(frozen=True)
class Norms:
    """Gradients of one parameter that are not held: their norms, and how to sum them.

    Attributes:
        squared: float64 (patients,), squared L2 norms.
        doubt: float64 (patients,), by how much ``squared`` may be too small because digits
            cancelled, or None where they cannot.
        weighted: for (patients,) factors, the sum of factor times gradient.
    """

    squared: torch.Tensor
    weighted: Callable[[torch.Tensor], torch.Tensor]
    doubt: torch.Tensor | None = None


@dataclass(frozen=True)
class Book:
    """One layer's share of each patient's gradient.

    Attributes:
        held: by the parameter's role, gradients that are held: (patients, *parameter).
        norms: by role, what is known of those that are not.
    """

    held: Gradients = field(default_factory=dict)
    norms: Mapping[str, Norms] = field(default_factory=dict)


def book_of(weight: torch.Tensor | Norms, bias: torch.Tensor | None) -> Book:
    """The book of a layer that has a weight and perhaps a bias, whose gradients are held."""
    held = {} if bias is None else {"bias": bias}
    if isinstance(weight, Norms):
        return Book(held, {"weight": weight})
    return Book({"weight": weight, **held})


def sum_squares(array: torch.Tensor) -> torch.Tensor:
    """Float64 (patients,): the squares' sum over all but the first dimension.

    In blocks: one running float32 sum over millions would stop growing, and a norm come out
    short by up to one part in a hundred.
    """
    rows = accurate(array.flatten(1))
    whole = rows.shape[1] // BLOCK * BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, BLOCK)), dim=2)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    return torch.cat([blocks, rest], dim=1).double().square().sum(dim=1)


def accurate(array: torch.Tensor) -> torch.Tensor:
    """The array in a type that norms may be summed in: float32, or float64 as it is."""
    return array if array.dtype == torch.float64 else array.float()


def sum_of(arrays: list[torch.Tensor]) -> torch.Tensor:
    """The sum of arrays of one shape, of the uses of a layer."""
    return arrays[0] if len(arrays) == 1 else torch.stack(arrays).sum(dim=0)
