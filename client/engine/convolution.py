"""Convolutions of one to three dimensions: strided, dilated, grouped, depthwise, transposed.

A convolution is a linear map applied to the patches of its input (Rochette, Manoel and Tramel
2019, arXiv:1912.06015), so the kernels of :mod:`client.engine.rows` serve it once patches are
laid out. Besides, the library's own weight gradient can be asked for one patient at a time,
or for all at once as the groups of one wide convolution. Which is best depends on the layer.
A transposed convolution's weight gradient is that of the convolution in which input and
output gradient have changed places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch.nn import functional

from client.engine import rows
from client.engine.books import ROUNDING, Book, Norms, accurate, book_of, sum_of, sum_squares
from client.engine.patches import (
    grams_of,
    in_order,
    padding_of,
    patch_bytes,
    rows_of,
    shape_of,
    small_side,
)
from client.engine.rule import Layer

Record = tuple[torch.Tensor, torch.Tensor]
_FORWARD: dict[tuple[int, bool], Any] = {
    (1, False): functional.conv1d,
    (2, False): functional.conv2d,
    (3, False): functional.conv3d,
    (1, True): functional.conv_transpose1d,
    (2, True): functional.conv_transpose2d,
    (3, True): functional.conv_transpose3d,
}


class ConvolutionRule:
    """``nn.Conv1d`` to ``nn.ConvTranspose3d``; inputs (items, channels, *space)."""

    kernels: tuple[str, ...] = (
        "ghost",
        "patches",
        "patches-again",
        "looped",
        "looped-again",
        "grouped",
    )
    exact = "looped"

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output."""
        module = layer.options
        settings = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
        settings["padding"] = padding_of(module)
        if module.transposed:
            settings["output_padding"] = module.output_padding
        call = _FORWARD[value.dim() - 2, module.transposed]
        return call(value, layer.weight, layer.bias, **settings), ()

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
        record = (value, gradient)
        return (_backward(layer, value, gradient, (True, False)) if wanted else None), record

    def book(self, layer: Layer, records: list[Record], patients: int, kernel: str) -> Book:
        """The patients' gradients over all uses of the layer."""
        weight: torch.Tensor | Norms = (
            _added(layer, records, patients, kernel)
            if len(records) > 1
            else _KERNELS[kernel](layer, *records[0], patients)
        )
        if layer.bias is None:
            return book_of(weight, None)
        space = tuple(range(2, records[0][1].dim()))
        bias = [g.sum(dim=space).view(patients, -1, g.shape[1]).sum(dim=1) for _, g in records]
        return book_of(weight, sum_of(bias))

    def candidates(self, layer: Layer, records: list[Record], patients: int) -> tuple[str, ...]:
        """All but Gram matrices where positions are many, and gradients too large to be held."""
        value, gradient = records[0]
        positions = small_side(layer, value, gradient)[:, 0].numel() // patients
        kept = sum(value.numel() + gradient.numel() for value, gradient in records)
        allowed = list(self.kernels)
        if positions > FAR_APART:
            allowed.remove("ghost")
        if patients * layer.weight.numel() > kept:
            allowed = [name for name in allowed if name == "ghost" or name.endswith("-again")]
        return tuple(allowed)

    def modelled(self, layer: Layer, records: list[Record], patients: int) -> str:
        """By arithmetic and memory: Gram matrices late in a network, the library early."""
        value, gradient = records[0]
        positions = small_side(layer, value, gradient)[:, 0].numel() // patients
        out, wide = shape_of(layer)
        if positions <= min(FAR_APART, wide * out // (wide + out)):
            return "ghost"
        kept = patients * layer.weight.numel() <= value.numel() + gradient.numel()
        if patch_bytes(layer, value, gradient, patients) >= LARGE_PATCHES:
            return "looped" if kept else "looped-again"
        return "patches" if kept else "patches-again"


LARGE_PATCHES = 2**19
"""Bytes of a patient's patches above which the library's own weight gradient is faster."""
FAR_APART = 128
"""Positions above which Gram matrices are neither fast nor, in float32, accurate."""


def _backward(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, wanted: tuple[bool, bool]
) -> torch.Tensor:
    module = layer.options
    found = torch.ops.aten.convolution_backward(
        gradient,
        value,
        layer.weight.to(value.dtype),
        None,
        module.stride,
        padding_of(module),
        module.dilation,
        module.transposed,
        module.output_padding,
        module.groups,
        (*wanted, False),
    )
    chosen: torch.Tensor = found[0] if wanted[0] else found[1]
    return chosen


def _weight_gradient(layer: Layer, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return _backward(layer, value, gradient, (False, True))


def _added(layer: Layer, records: list[Record], patients: int, kernel: str) -> torch.Tensor:
    """A layer that is used more than once: its gradients add before the norm is taken."""
    form = _looped if kernel.startswith("looped") else _patches
    return sum_of([form(layer, *record, patients) for record in records])


def _ghost(layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int) -> Norms:
    grams = partial(grams_of, layer, value, gradient, patients)
    positions = small_side(layer, value, gradient)[:, 0].numel() // patients
    squared, doubt = rows.ghost_norms(grams, patients, 8 * layer.options.groups * positions**2)
    return Norms(squared, partial(_weighted, layer, value, gradient), doubt)


def _patches(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor:
    lay = partial(rows_of, layer, value, gradient, patients)
    each = rows.formed(lay, patients, patch_bytes(layer, value, gradient, patients))
    return in_order(layer, value, each)


def _patches_again(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> Norms:
    lay = partial(rows_of, layer, value, gradient, patients)
    formed = layer.weight.numel() * layer.weight.element_size()
    size = formed + patch_bytes(layer, value, gradient, patients)
    squared = rows.formed_norms(lay, patients, size)
    return _formed_again(layer, value, gradient, squared)


def _looped(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor:
    images = len(value) // patients
    each = zip(value.split(images), gradient.split(images), strict=True)
    return torch.stack([_weight_gradient(layer, *one) for one in each])


def _looped_again(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> Norms:
    images = len(value) // patients
    squared = torch.cat(
        [
            sum_squares(_weight_gradient(layer, *one)[None])
            for one in zip(value.split(images), gradient.split(images), strict=True)
        ]
    )
    return _formed_again(layer, value, gradient, squared)


def _formed_again(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, squared: torch.Tensor
) -> Norms:
    """Gradients formed once for the norm, and once more for the sum: rounded in two ways.

    Each is off by a few roundings of the root of the patches' squares times the gradients'.
    """
    module = layer.options
    overlaps = prod(
        ceil(k / step) for k, step in zip(module.kernel_size, module.stride, strict=True)
    )
    products = overlaps * _squares(value, len(squared)) * _squares(gradient, len(squared))
    off = ROUNDING * torch.finfo(value.dtype).eps * products.sqrt()
    doubt = off * (2 * squared.sqrt() + off)
    return Norms(squared, partial(_weighted, layer, value, gradient), doubt)


def _squares(array: torch.Tensor, patients: int) -> torch.Tensor:
    """Float64 (patients,), whatever the order in memory."""
    norms = torch.linalg.vector_norm(accurate(array), dim=tuple(range(1, array.dim())))
    squares: torch.Tensor = norms.double().square().view(patients, -1).sum(dim=1)
    return squares


def _grouped(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor:
    """All patients at once: each is a group of channels of one wide convolution."""
    module, images = layer.options, len(value) // patients
    found = torch.ops.aten.convolution_backward(
        _side_by_side(gradient, images),
        _side_by_side(value, images),
        layer.weight.to(value.dtype).repeat(patients, *[1] * (layer.weight.dim() - 1)),
        None,
        module.stride,
        padding_of(module),
        module.dilation,
        module.transposed,
        module.output_padding,
        module.groups * patients,
        (False, True, False),
    )[1]
    each: torch.Tensor = found.view(patients, *layer.weight.shape)
    return each


def _side_by_side(array: torch.Tensor, images: int) -> torch.Tensor:
    """(images, patients x channels, *space)."""
    space = array.shape[2:]
    apart = array.reshape(-1, images, array.shape[1], *space).transpose(0, 1)
    return apart.reshape(images, -1, *space)


_KERNELS: dict[str, Callable[..., torch.Tensor | Norms]] = {
    "ghost": _ghost,
    "patches": _patches,
    "patches-again": _patches_again,
    "looped": _looped,
    "looped-again": _looped_again,
    "grouped": _grouped,
}


def _weighted(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    each = factors.to(gradient.dtype).repeat_interleave(len(gradient) // len(factors))
    scaled = gradient * each.view(-1, *[1] * (gradient.dim() - 1))
    return _weight_gradient(layer, value, scaled)
