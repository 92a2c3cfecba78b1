"""All layers' books together: each patient's norm over the whole model, and the weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from client.engine.rule import Book, Factored, Layer, Weighing, add_weighted, sum_squares

SMALL: Final = 2**13
"""Numbers for each patient up to which the gradients of many parameters are concatenated: one
operation on all biases and scales instead of several on each."""


class Sheet:
    """The books of one pass.

    Args:
        books: of the layers that the loss depends on.
        patients: how many places the tile has.
        device: where they are.

    Attributes:
        squared: float64 (patients,), at least the squared L2 norms over all parameters.
        gross: float64 (patients,), what the rounding of the sums is measured by, of all
            parameters that are not held: the root of the layers' squares.
    """

    def __init__(self, books: Mapping[Layer, Book], patients: int, device: torch.device) -> None:
        held = [
            (id(layer.parameters[role]), gradients)
            for layer, book in books.items()
            for role, gradients in book.held.items()
        ]
        small = [(key, each) for key, each in held if each[0].numel() <= SMALL]
        self._small = {key: each[0].numel() for key, each in small}
        self._arrays = [(key, each.flatten(1)) for key, each in held if each[0].numel() > SMALL]
        self._factored: list[tuple[int, Factored]] = [
            (id(layer.parameters[role]), factored)
            for layer, book in books.items()
            for role, factored in book.factored.items()
        ]
        if small:
            row = torch.cat([each.flatten(1) for _, each in small], dim=1)
            self._arrays.append((0, row))
        self.squared = torch.zeros(patients, dtype=torch.float64, device=device)
        gross = torch.zeros_like(self.squared)
        for _, array in self._arrays:
            self.squared += sum_squares(array)
        for _, factored in self._factored:
            self.squared += factored.squared
            gross += factored.gross.square()  # the layers are orthogonal parts of one vector
        self.gross = gross.sqrt()

    def add(self, totals: Mapping[int, torch.Tensor], weighing: Weighing) -> None:
        """Add the sum over patients of factor times gradient to each parameter's total.

        The gradients themselves are let go as their sums are made.

        Args:
            totals: by the parameter's ``id``, float64 of its shape, contiguous.
            weighing: of the patients.
        """
        # Popped one by one: each gradient's memory is free again before the next sum needs some.
        while self._arrays:
            key, array = self._arrays.pop()
            if key:
                add_weighted(totals[key].view(-1), array, weighing)
                continue
            sums = totals[next(iter(self._small))].new_zeros(array.shape[1])
            add_weighted(sums, array, weighing)
            parts = sums.split(list(self._small.values()))
            for name, part in zip(self._small, parts, strict=True):
                totals[name].view(-1).add_(part)
        while self._factored:
            key, factored = self._factored.pop()
            factored.add(totals[key], weighing)
