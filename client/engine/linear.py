"""Dense layers at any number of positions, and embeddings."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from client.engine import rows
from client.engine.books import Book, Norms, book_of, sum_squares
from client.engine.rule import Layer, OneKernel

FAR = 4
"""How many times more memory than another way a kernel may need."""
Record = tuple[torch.Tensor, torch.Tensor]


class LinearRule:
    """``y = x W^T + b``; inputs (items, ..., in features)."""

    kernels: tuple[str, ...] = ("ghost", "materialised")
    exact = "materialised"

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output."""
        return functional.linear(value, layer.weight, layer.bias), ()

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
        return (gradient @ layer.weight if wanted else None), (value, gradient)

    def book(self, layer: Layer, records: list[Record], patients: int, kernel: str) -> Book:
        """The patients' gradients over all uses of the layer."""
        inputs = _positions([value for value, _ in records], patients)
        gradients = _positions([gradient for _, gradient in records], patients)
        bias = None if layer.bias is None else gradients.sum(dim=1)
        return book_of(_weight(inputs, gradients, kernel), bias)

    def candidates(self, layer: Layer, records: list[Record], patients: int) -> tuple[str, ...]:
        """Gram matrices unless they would be far larger; gradients where they can be held."""
        positions = sum(value[..., 0].numel() for value, _ in records) // patients
        out, wide = layer.weight.shape
        kept = sum(value.numel() + gradient.numel() for value, gradient in records)
        ghost = positions**2 <= FAR * out * wide
        held = patients * out * wide <= FAR * kept
        return tuple(["ghost"] * ghost + ["materialised"] * (held or not ghost))

    def modelled(self, layer: Layer, records: list[Record], patients: int) -> str:
        """Gram matrices where positions are fewer than the features that they would save."""
        positions = sum(value[..., 0].numel() for value, _ in records) // patients
        out, wide = layer.weight.shape
        return "ghost" if positions * (out + wide) <= out * wide else "materialised"


def _positions(arrays: list[torch.Tensor], patients: int) -> torch.Tensor:
    """(patients, positions, features) of all uses together."""
    parts = [array.reshape(patients, -1, array.shape[-1]) for array in arrays]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _weight(inputs: torch.Tensor, gradients: torch.Tensor, kernel: str) -> torch.Tensor | Norms:
    patients, positions, wide = inputs.shape

    def some(chosen: slice) -> rows.Rows:
        return rows.Rows(inputs[chosen, None], gradients[chosen, None])

    if kernel == "materialised":
        size = inputs.element_size() * wide * gradients.shape[2]
        return rows.formed(some, patients, size).squeeze(1)
    if positions == 1:
        squared, doubt = sum_squares(inputs) * sum_squares(gradients), None
    else:
        grams = partial(_grams, inputs, gradients)
        squared, doubt = rows.ghost_norms(grams, patients, 8 * positions * positions)

    def weighted(factors: torch.Tensor) -> torch.Tensor:
        scaled = gradients * factors.to(gradients.dtype)[:, None, None]
        return scaled.flatten(0, 1).mT @ inputs.flatten(0, 1)

    return Norms(squared, weighted, doubt)


def _grams(inputs: torch.Tensor, gradients: torch.Tensor, chosen: slice) -> rows.Grams:
    return rows.Grams(rows.gram(inputs[chosen, None]), rows.gram(gradients[chosen, None]))


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
        gradients = torch.cat(vectors, dim=1)
        padding = layer.options.padding_idx
        if padding is not None:
            gradients = gradients * (words != padding)[..., None]
        size = layer.weight.shape[0]
        owners = torch.arange(patients, device=words.device)[:, None]
        cells, where = torch.unique(owners * size + words, return_inverse=True)
        sums = gradients.new_zeros(len(cells), gradients.shape[-1])
        sums.index_add_(0, where.flatten(), gradients.flatten(0, 1))
        owner, word = cells // size, cells % size
        squared = torch.zeros(patients, dtype=torch.float64, device=words.device)
        squared.index_add_(0, owner, sum_squares(sums))

        def weighted(factors: torch.Tensor) -> torch.Tensor:
            table = sums.new_zeros(layer.weight.shape)
            return table.index_add_(0, word, sums * factors.to(sums.dtype)[owner, None])

        return Book(norms={"weight": Norms(squared, weighted)})
