"""Kernels for a linear map that is applied at many positions of each patient.

A patient's weight gradient is ``G^T X``, where the rows of X are the inputs and those of G the
output gradients at the patient's positions (pixels, time steps, images). Its squared norm is
``sum(X X^T * G G^T)``: the *ghost norm* (Goodfellow 2015; Li et al. 2022), cheap where
positions are few; else ``G^T X`` is formed. Both work on a few patients at a time, so that
what they form stays in the processor's cache and in bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from client.engine.books import ROUNDING, accurate, sum_squares

CHUNK_BYTES: Final = 2**23
"""Memory for what a kernel forms of a few patients at a time."""


@dataclass(frozen=True)
class Rows:
    """Inputs and output gradients of some patients: (patients, groups, positions, features)."""

    inputs: torch.Tensor
    gradients: torch.Tensor


Chunks = Callable[[slice], Rows]
"""The rows of some patients, formed when they are asked for."""


def chunks(patients: int, bytes_each: int) -> Iterator[slice]:
    """The patients, a few at a time, so that ``bytes_each`` stays within :data:`CHUNK_BYTES`."""
    many = max(1, min(patients, CHUNK_BYTES // max(1, bytes_each)))
    for first in range(0, patients, many):
        yield slice(first, min(first + many, patients))


@dataclass(frozen=True)
class Grams:
    """Inner products of some patients' rows with one another: (patients, groups, rows, rows)."""

    inputs: torch.Tensor
    gradients: torch.Tensor


def gram(rows: torch.Tensor) -> torch.Tensor:
    """(..., rows, rows) of (..., rows, features), in a type that norms may be summed in."""
    exact = accurate(rows)
    found: torch.Tensor = exact @ exact.mT
    return found


def ghost_norms(
    grams: Callable[[slice], Grams], patients: int, bytes_each: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared norms without forming gradients, and by how much they may be too small.

    An entry of a Gram matrix is off by at most a few roundings of the product of its two rows'
    norms, so the matrix by as many roundings of its trace; Cauchy and Schwarz give the rest.

    Returns:
        Two float64 (patients,) arrays.
    """
    squared, doubt = [], []
    for chosen in chunks(patients, bytes_each):
        part = grams(chosen)
        left, right = part.inputs.flatten(2), part.gradients.flatten(2)
        products = torch.linalg.vecdot(left, right)
        squared.append(products.double().sum(dim=1))
        doubt.append(_doubt(part, left, right))
    return torch.cat(squared), torch.cat(doubt)


def _doubt(part: Grams, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    traces = [each.diagonal(dim1=2, dim2=3).sum(dim=2) for each in (part.inputs, part.gradients)]
    norms = [torch.linalg.vector_norm(each, dim=2) for each in (left, right)]
    scale = traces[0].double() * norms[1] + norms[0].double() * traces[1]
    doubt: torch.Tensor = ROUNDING * torch.finfo(left.dtype).eps * scale.sum(dim=1)
    return doubt


def gradients_of(rows: Rows) -> torch.Tensor:
    """(patients, groups, out features, in features): each patient's weight gradient."""
    found: torch.Tensor = rows.gradients.mT @ rows.inputs
    return found


def formed(rows: Chunks, patients: int, bytes_each: int) -> torch.Tensor:
    """All patients' weight gradients: (patients, groups, out features, in features)."""
    return torch.cat([gradients_of(rows(chosen)) for chosen in chunks(patients, bytes_each)])


def formed_norms(rows: Chunks, patients: int, bytes_each: int) -> torch.Tensor:
    """Float64 (patients,): squared norms of gradients that are formed and let go."""
    return torch.cat(
        [sum_squares(gradients_of(rows(chosen))) for chosen in chunks(patients, bytes_each)]
    )
