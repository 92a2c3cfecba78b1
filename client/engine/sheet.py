"""All layers' books together: each patient's norm over the whole model, and the weighted sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import torch

from client.engine.books import Book, Norms, accurate, sum_squares
from client.engine.rule import Layer

SMALL: Final = 2**13
"""Numbers for each patient up to which gradients of many parameters are worked on side by side."""


class Sheet:
    """The books of one pass.

    Args:
        books: of the layers that the loss depends on.
        patients: how many.
        device: where they are.

    Attributes:
        squared: float64 (patients,), squared L2 norms over all parameters.
        doubt: float64 (patients,), by how much they may be too small.
    """

    def __init__(self, books: Mapping[Layer, Book], patients: int, device: torch.device) -> None:
        held = [
            (id(layer.parameters[role]), accurate(gradients))
            for layer, book in books.items()
            for role, gradients in book.held.items()
        ]
        small = [(key, each) for key, each in held if each[0].numel() <= SMALL]
        self._small = {key: each[0].numel() for key, each in small}
        self._arrays = [(key, each.flatten(1)) for key, each in held if each[0].numel() > SMALL]
        self._shapes = {key: each.shape[1:] for key, each in held}
        self._norms: list[tuple[int, Norms]] = [
            (id(layer.parameters[role]), norms)
            for layer, book in books.items()
            for role, norms in book.norms.items()
        ]
        if small:
            row = torch.cat([each.flatten(1) for _, each in small], dim=1)
            self._arrays.append((0, row))
        self.squared = torch.zeros(patients, dtype=torch.float64, device=device)
        self.doubt = torch.zeros_like(self.squared)
        for _, array in self._arrays:
            self.squared += sum_squares(array)
        for _, norms in self._norms:
            self.squared += norms.squared
            if norms.doubt is not None:
                self.doubt += norms.doubt

    def sums(self, factors: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """By the parameter's ``id``, the sum over patients of factor times gradient.

        The gradients themselves are let go as their sums are made.
        """
        while self._arrays:
            key, array = self._arrays.pop()
            found = factors.to(array.dtype) @ array
            if key:
                yield key, found.view(self._shapes[key])
                continue
            for name, part in zip(
                self._small, found.split(list(self._small.values())), strict=True
            ):
                yield name, part.view(self._shapes[name])
        while self._norms:
            key, norms = self._norms.pop()
            yield key, norms.weighted(factors)
