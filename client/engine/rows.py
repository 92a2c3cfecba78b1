"""Kernels for a linear map that is applied at many positions of each patient.

A patient's weight gradient is ``G^T X``, where the rows of X are the inputs and those of G the
output gradients at the patient's positions (pixels, time steps, images). Either it is formed,
patient by patient, or it stays a product: its squared norm is ``sum(X X^T * G G^T)``, the *ghost
norm* (Goodfellow 2015; Li et al. 2022), and the clipped sum over all patients and positions is one
product in float64.

*Rounding* (Higham 2002, section 3.1). With K terms, a float64 product is off by at most about
``K 2^-53`` times the product of the absolute values. So a Gram entry of two rows is off by
``features 2^-53`` times the rows' norms; the squared norm, by as much for either side and for the
terms that are added up, first along rows and then over them, times the square of ``gross``, the
sum over positions of ``|x| |g|``. Twice that is added to the squared norm. The clipped sum is off
by ``K 2^-53`` times the patients' clipped ``gross``, which :data:`client.engine.clipped.KAPPA`
bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from client.engine.rule import Factored, Weighing

LINE: Final = 64
"""Bytes of a cache line, and of the widest vector instructions (AVX-512)."""
CHUNK_BYTES: Final = 2**23
"""Memory for what a kernel forms of a few patients at a time: 8 MiB."""
MOST_TERMS: Final = 2**13
"""Positions of all patients of a tile that one product may add up: K of ``docs/privacy.md``."""
DOUBT: Final = 2.0**-52
"""Twice the relative error of one float64 operation, 2^-53."""


@dataclass(frozen=True)
class Rows:
    """Inputs and output gradients of some patients: (patients, groups, positions, features)."""

    inputs: torch.Tensor
    gradients: torch.Tensor


Chunks = Callable[[slice], Rows]
"""The rows of some patients, formed when they are asked for."""


def chunks(patients: int, bytes_each: int) -> Iterator[slice]:
    """The patients, a few at a time, so that ``bytes_each`` stays within :data:`CHUNK_BYTES`.

    Every chunk has the same number of patients, so that what is computed of one patient does not
    depend on how many there are.
    """
    # Only divisors: a last, smaller chunk might be computed, and rounded, by another kernel.
    fits = max(1, min(patients, CHUNK_BYTES // max(1, bytes_each)))
    many = next(count for count in range(fits, 0, -1) if patients % count == 0)
    for first in range(0, patients, many):
        yield slice(first, first + many)


@dataclass(frozen=True)
class Exact:
    """Some patients' inputs and output gradients in float64.

    Attributes:
        inputs: (items, ...).
        gradients: (items, ...).
    """

    inputs: torch.Tensor
    gradients: torch.Tensor

    def weighed(self, weighing: Weighing, chosen: slice) -> Exact:
        """Zeros for patients who do not count; the others' gradients times their factors."""
        counted, factors = weighing.counted[chosen], weighing.factors[chosen]
        each = len(self.inputs) // len(factors)

        def beside(array: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            return numbers.repeat_interleave(each).view(-1, *[1] * (array.dim() - 1))

        # Filled, not multiplied by zero: zero times infinity is NaN, and would spoil the whole sum.
        self.inputs.masked_fill_(~beside(self.inputs, counted), 0.0)
        self.gradients.masked_fill_(~beside(self.gradients, counted), 0.0)
        self.gradients.mul_(beside(self.gradients, factors))
        return self


def exactly(inputs: torch.Tensor, gradients: torch.Tensor, items: int, chosen: slice) -> Exact:
    """Copies of what some patients, of ``items`` each, bring."""
    of = slice(chosen.start * items, chosen.stop * items)
    return Exact(*(each[of].to(torch.float64, copy=True) for each in (inputs, gradients)))


def factored(
    take: Callable[[slice], Exact], lay: Callable[[Exact], Rows], patients: int, bytes_each: int
) -> Factored:
    """Norms without forming gradients, and how to add them to a total.

    The total is (groups, out features, in features).

    Args:
        take: copies what some patients bring.
        lay: lays it out in rows.
        patients: how many there are.
        bytes_each: memory of one patient's rows.
    """
    squared, gross = [], []
    for chosen in chunks(patients, bytes_each):
        both = lay(take(chosen))
        # |G^T X|^2 = sum over positions s, t of <x_s, x_t> <g_s, g_t>: two Gram matrices instead of
        # a gradient of out x in numbers (Goodfellow 2015 for one position; Li et al. 2022).
        left, right = gram(aligned(both.inputs)), gram(aligned(both.gradients))
        # At least the number of roundings in a squared norm, each of at most 2^-53 relative.
        terms = left.shape[1] * left.shape[2] + left.shape[-1] + 8
        terms += both.inputs.shape[-1] + both.gradients.shape[-1]
        # The diagonal of a Gram matrix holds squared norms: |x| and |g| at each position.
        norms = (each.diagonal(dim1=2, dim2=3).sqrt() for each in (left, right))
        each = torch.linalg.vecdot(*norms).sum(dim=1)
        total = torch.linalg.vecdot(left, right).sum(dim=(1, 2))
        # Rounded up: a norm that comes out too small would clip too little and break sensitivity.
        squared.append(total + DOUBT * terms * each.square())
        gross.append(each)

    def add(total: torch.Tensor, weighing: Weighing) -> None:
        for chosen in chunks(patients, bytes_each):
            both = lay(take(chosen).weighed(weighing, chosen))
            # One product over patients and positions is their weighted sum: sum of c_i G_i^T X_i.
            total.baddbmm_(_together(both.gradients).mT, _together(both.inputs))

    return Factored(torch.cat(squared), torch.cat(gross), add)


def _together(rows: torch.Tensor) -> torch.Tensor:
    """(groups, patients x positions, features)."""
    return rows.transpose(0, 1).flatten(1, 2)


def aligned(rows: torch.Tensor) -> torch.Tensor:
    """The same rows, so laid out that each patient's begin at a multiple of 64 bytes.

    Zeros are added as features: they change no inner product.
    """
    line = LINE // rows.element_size()
    if rows[0].numel() % line == 0:
        return rows
    return functional.pad(rows, (0, -rows.shape[-1] % line))


def gram(rows: torch.Tensor) -> torch.Tensor:
    """Inner products (..., rows, rows) of (..., rows, features)."""
    found: torch.Tensor = rows @ rows.mT
    return found


def gradients_of(rows: Rows) -> torch.Tensor:
    """(patients, groups, out features, in features): each patient's weight gradient."""
    found: torch.Tensor = rows.gradients.mT @ rows.inputs
    return found


def formed(rows: Chunks, patients: int, bytes_each: int) -> torch.Tensor | None:
    """All patients' weight gradients: (patients, groups, out features, in features).

    None where one patient's arrays, of any of the three kinds, do not fill whole cache lines:
    then the next patient's begin elsewhere in a line, and :func:`each_alone` has to form them.
    """
    found = []
    for chosen in chunks(patients, bytes_each):
        both = rows(chosen)
        sizes = both.inputs[0].numel(), both.gradients[0].numel()
        product = both.inputs.shape[-1] * both.gradients.shape[-1]
        line = LINE // both.inputs.element_size()
        begins = both.inputs.data_ptr() % LINE, both.gradients.data_ptr() % LINE
        if any(begins) or any(size % line for size in (*sizes, product)):
            return None
        found.append(gradients_of(both))
    return torch.cat(found)


def each_alone(
    form: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    patients: int,
) -> list[torch.Tensor]:
    """What is formed of each patient's inputs and output gradients, in arrays of its own.

    All patients' at once would lie at addresses that depend on the place in the tile, and small
    products are rounded by those. Where a patient's positions cancel, that is not small.
    """
    items = len(inputs) // patients
    each = zip(inputs.split(items), gradients.split(items), strict=True)
    return [form(mine.clone(), back.clone()) for mine, back in each]
