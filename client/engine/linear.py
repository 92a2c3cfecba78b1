"""Dense layers at any number of positions, and embeddings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from client.engine import rows
from client.engine.rule import (
    Book,
    Factored,
    Layer,
    OneKernel,
    Weighing,
    accurate,
    book_of,
    sum_squares,
)

FAR = 4
"""How many times more memory than another way a kernel may need."""
Record = tuple[torch.Tensor, torch.Tensor]


class LinearRule:
    """``y = x W^T + b``; inputs (items, ..., in features).

    Rows are padded with zeros to whole cache lines. Otherwise the library sums each row in an order
    that depends on its address, and a patient's last bit would depend on the place in the tile
    (measured with MKL: rows of 54 or 833 features in tiles of all sizes; none when padded).
    """

    kernels: tuple[str, ...] = ("ghost", "materialised")
    multiplies = True

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output."""
        return functional.linear(_whole_lines(value), _whole_lines(layer.weight), layer.bias), ()

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, Record]:
        """The input's gradient, and what the book is made of."""
        before = _whole_lines(gradient) @ _whole_lines(layer.weight.mT).mT if wanted else None
        return before, (value, gradient)

    def book(self, layer: Layer, records: list[Record], patients: int, kernel: str) -> Book:
        """The patients' gradients over all uses of the layer."""
        inputs = _positions([value for value, _ in records], patients)
        gradients = _positions([gradient for _, gradient in records], patients)
        bias = None if layer.bias is None else accurate(gradients).sum(dim=1)
        return book_of(_weight(inputs, gradients, kernel), bias)

    def candidates(self, layer: Layer, records: list[Record], patients: int) -> tuple[str, ...]:
        """Gram matrices unless they would be far larger; gradients where they can be held."""
        positions = sum(value[..., 0].numel() for value, _ in records) // patients
        out, wide = layer.weight.shape
        kept = sum(value.numel() + gradient.numel() for value, gradient in records)
        # A Gram matrix has positions^2 entries, a gradient out x wide.
        ghost = positions**2 <= FAR * out * wide and positions * patients <= rows.MOST_TERMS
        held = patients * out * wide <= FAR * kept
        return tuple(["ghost"] * ghost + ["materialised"] * (held or not ghost))

    def modelled(self, layer: Layer, records: list[Record], patients: int) -> str:
        """Gram matrices where positions are fewer than the features that they would save."""
        positions = sum(value[..., 0].numel() for value, _ in records) // patients
        out, wide = layer.weight.shape
        # Operations for the norms: positions^2 (out + wide) against positions x out x wide.
        return "ghost" if positions * (out + wide) <= out * wide else "materialised"


def _whole_lines(array: torch.Tensor) -> torch.Tensor:
    """The same rows, each with zeros up to a multiple of 64 bytes."""
    missing = -array.shape[-1] % (rows.LINE // array.element_size())
    return functional.pad(array, (0, missing)) if missing else array


def _positions(arrays: list[torch.Tensor], patients: int) -> torch.Tensor:
    """(patients, positions, features) of all uses together."""
    parts = [array.reshape(patients, -1, array.shape[-1]) for array in arrays]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _weight(inputs: torch.Tensor, gradients: torch.Tensor, kernel: str) -> torch.Tensor | Factored:
    patients, positions, wide = inputs.shape
    # The proof of docs/privacy.md allows MOST_TERMS terms in one product.
    if patients * positions > rows.MOST_TERMS:
        kernel = "materialised"

    if kernel == "materialised":
        inputs, gradients = accurate(inputs), accurate(gradients)

        def form(mine: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
            return back[0].mT @ mine[0]

        def some(chosen: slice) -> rows.Rows:
            return rows.Rows(inputs[chosen, None], gradients[chosen, None])

        held = rows.formed(some, patients, inputs.element_size() * wide * gradients.shape[2])
        if held is None:
            return torch.stack(rows.each_alone(form, inputs, gradients, patients))
        return held.squeeze(1)

    def lay(exact: rows.Exact) -> rows.Rows:
        return rows.Rows(exact.inputs[:, None], exact.gradients[:, None])

    size = 8 * positions * (wide + gradients.shape[2] + positions)
    found = rows.factored(partial(rows.exactly, inputs, gradients, 1), lay, patients, size)
    return replace(found, add=lambda total, weighing: found.add(total[None], weighing))


class EmbeddingRule(OneKernel):
    """A table of vectors, looked up by integers (items, ...)."""

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The vectors looked up."""
        return functional.embedding(value, layer.weight), ()

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[None, Record]:
        """What the book is made of."""
        return None, (value, gradient)

    def book(self, layer: Layer, records: list[Record], patients: int, kernel: str) -> Book:
        """Each patient's gradients, summed for each word that the patient has."""
        words = torch.cat([value.reshape(patients, -1) for value, _ in records], dim=1)
        vectors = [
            gradient.reshape(*words.shape[:1], -1, gradient.shape[-1]) for _, gradient in records
        ]
        gradients = accurate(torch.cat(vectors, dim=1))
        padding = layer.options.padding_idx
        if padding is not None:
            # As torch does: the vector of the padding word is never trained.
            gradients = gradients * (words != padding)[..., None]
        size = layer.weight.shape[0]
        owners = torch.arange(patients, device=words.device)[:, None]
        # One cell for each pair of patient and word: a word that a patient has twice has one
        # gradient, the sum, and the norm of a sum is not the sum of norms.
        cells, where = torch.unique(owners * size + words, return_inverse=True)
        sums = gradients.new_zeros(len(cells), gradients.shape[-1])
        sums.index_add_(0, where.flatten(), gradients.flatten(0, 1))
        owner, word = cells // size, cells % size
        squared = torch.zeros(patients, dtype=torch.float64, device=words.device)
        squared.index_add_(0, owner, sum_squares(sums))

        def add(total: torch.Tensor, weighing: Weighing) -> None:
            rows = sums.double().masked_fill_(~weighing.counted[owner, None], 0.0)
            total.index_add_(0, word, rows.mul_(weighing.factors[owner, None]))

        return Book(factored={"weight": Factored(squared, squared.sqrt(), add)})
