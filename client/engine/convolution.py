"""Convolutions of one to three dimensions: strided, dilated, grouped, depthwise, transposed.

A convolution is a linear map applied to the patches of its input (Rochette, Manoel and Tramel
2019, arXiv:1912.06015): with the patches as rows of X and the output gradients as rows of G, a
patient's weight gradient is ``G^T X``, and the kernels of :mod:`client.engine.rows` serve it. The
library's own weight gradient can also be asked for one patient at a time. Which is best depends on
the layer.

A transposed convolution's weight gradient is that of the convolution in which input and output
gradient have changed places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch.nn import functional

from client.engine import rows
from client.engine.rule import Book, Factored, Layer, Weighing, accurate, book_of, sum_of


def padding_of(module: Any) -> tuple[int, ...]:  # noqa: ANN401 - torch's convolutions share no typed base
    """Zeros on each side, by dimension, also where the module says ``same`` or ``valid``."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding == "same":
        spans = zip(module.dilation, module.kernel_size, strict=True)
        return tuple(dilation * (size - 1) // 2 for dilation, size in spans)
    return tuple(module.padding)


def is_even(module: Any) -> bool:  # noqa: ANN401 - torch's convolutions share no typed base
    """Whether the padding is of zeros and the same on both sides, as the library pads."""
    if module.padding_mode != "zeros":
        return False
    spans = zip(module.dilation, module.kernel_size, strict=True)
    return module.padding != "same" or all(
        dilation * (size - 1) % 2 == 0 for dilation, size in spans
    )


def shape_of(layer: Layer) -> tuple[int, int]:
    """Features out of, and into, the linear map of one group."""
    # Weights are (out, in / groups, ...), those of transposed convolutions (in, out / groups, ...):
    # in both, the first dimension is the side with one position for each patch.
    first = layer.weight.shape[0] // layer.options.groups
    return first, prod(layer.weight.shape[1:])


def small_side(layer: Layer, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The side that has one position for each patch."""
    return value if layer.options.transposed else gradient


def patch_bytes(layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int) -> int:
    """Memory of one patient's patches, bytes; nothing where they are the input itself."""
    module = layer.options
    if is_pointwise(module):
        return 0  # the input itself
    positions = small_side(layer, value, gradient)[:, 0].numel() // patients
    _, wide = shape_of(layer)
    return value.element_size() * positions * wide * int(module.groups)


def is_pointwise(module: Any) -> bool:  # noqa: ANN401 - as above
    """Whether each position of the output looks at one of the input, and at all in turn."""
    return (
        all(size == 1 for size in module.kernel_size)
        and all(step == 1 for step in module.stride)
        and not any(padding_of(module))
        and not any(module.output_padding)
    )


def rows_of(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int, chosen: slice
) -> rows.Rows:
    """Patches against output gradients, of some patients, each group by itself.

    In a transposed convolution the patches are those of the output's gradient, and the input takes
    the gradient's place, as in the weight's own order (in, out, ...).
    """
    images, module = len(value) // patients, layer.options
    of = slice(chosen.start * images, chosen.stop * images)
    wide, small = value[of], gradient[of]
    if module.transposed:
        wide, small = small, wide
    space = small.shape[2:]
    patches = _cut(wide, module, space)
    # reshape copies the patches, which repeat each input as often as the kernel covers it: hence
    # only of some patients at a time.
    members = chosen.stop - chosen.start
    if _channels_last(module, value):
        inputs = patches.movedim(tuple(range(-len(space), 0)), tuple(range(1, 1 + len(space))))
        inputs = inputs.movedim(1 + len(space), -1)  # (items, *space, *kernel, channels)
        return rows.Rows(
            inputs=inputs.reshape(members, 1, images * prod(space), -1),
            gradients=small.movedim(1, -1).reshape(members, 1, images * prod(space), -1),
        )
    return rows.Rows(
        inputs=_by_patient(
            patches.reshape(len(wide), -1, prod(space)), members, images, module.groups
        ),
        gradients=_by_patient(small.flatten(2), members, images, module.groups),
    )


def _cut(wide: torch.Tensor, module: Any, space: torch.Size) -> torch.Tensor:  # noqa: ANN401 - as above
    """(items, channels, *kernel, *space): what each position of the output looks at, a view."""
    sides = [side for padding in reversed(padding_of(module)) for side in (padding, padding)]
    padded = functional.pad(wide, sides) if any(sides) else wide
    # A view, like unfold without its copy: overlapping patches share memory, so that a few
    # patients' patches are formed only when they are multiplied.
    strides = padded.stride()
    return padded.as_strided(
        (*padded.shape[:2], *module.kernel_size, *space),
        (
            *strides[:2],
            *(step * dilation for step, dilation in zip(strides[2:], module.dilation, strict=True)),
            *(step * stride for step, stride in zip(strides[2:], module.stride, strict=True)),
        ),
    )


def _by_patient(array: torch.Tensor, members: int, images: int, groups: int) -> torch.Tensor:
    """(items, channels, positions) as (patients, groups, positions, channels of a group)."""
    apart = array.reshape(members, images, groups, -1, array.shape[-1])
    if images == 1:
        return apart.squeeze(1).mT
    return apart.permute(0, 2, 1, 4, 3).reshape(members, groups, -1, apart.shape[3])


def _channels_last(module: Any, value: torch.Tensor) -> bool:  # noqa: ANN401 - as above
    """Whether a position's channels lie together in memory, so that patches are copied whole."""
    return module.groups == 1 and value.shape[1] > 1 and value.stride(1) == 1


def in_order(layer: Layer, value: torch.Tensor, formed: torch.Tensor) -> torch.Tensor:
    """(..., out, features of a patch) in the weight's order."""
    before = formed.shape[:-3]
    if not _channels_last(layer.options, value):
        return formed.reshape(*before, *layer.weight.shape)
    out, channels, *kernel = layer.weight.shape
    return formed.reshape(*before, out, *kernel, channels).movedim(-1, len(before) + 1)


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

    kernels: tuple[str, ...] = ("ghost", "patches", "looped")
    multiplies = True

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
        weight: torch.Tensor | Factored = (
            _added(layer, records, patients, kernel)
            if len(records) > 1
            else _KERNELS[kernel](layer, *records[0], patients)
        )
        if layer.bias is None:
            return book_of(weight, None)
        space = tuple(range(2, records[0][1].dim()))
        each = [accurate(gradient).sum(dim=space) for _, gradient in records]
        bias = [one.view(patients, -1, one.shape[1]).sum(dim=1) for one in each]
        return book_of(weight, sum_of(bias))

    def candidates(self, layer: Layer, records: list[Record], patients: int) -> tuple[str, ...]:
        """All but Gram matrices where positions are many, and gradients too large to be held."""
        # A ghost norm costs positions^2 (out + in) operations, a formed gradient positions x out x
        # in (Bu, Mao and Xu 2022): with many positions the first is hopeless and is not timed.
        value, gradient = records[0]
        if _positions(layer, value, gradient, patients) > FAR_APART:
            return self.kernels[1:]
        return self.kernels if _can_be_held(layer, records, patients) else self.kernels[:1]

    def modelled(self, layer: Layer, records: list[Record], patients: int) -> str:
        """By arithmetic and memory: Gram matrices late in a network, the library early."""
        value, gradient = records[0]
        positions = _positions(layer, value, gradient, patients)
        out, wide = shape_of(layer)
        # positions^2 (out + in) <= positions x out x in, solved for the positions.
        if positions <= min(FAR_APART, wide * out // (wide + out)):
            return "ghost"
        large = patch_bytes(layer, value, gradient, patients) >= LARGE_PATCHES
        return "looped" if large else "patches"


LARGE_PATCHES = 2**19
"""Bytes of a patient's patches above which the library's own weight gradient is faster. Measured:
the memory of the patches decides, not the arithmetic."""
LITTLE = 2**23
"""Numbers that all patients' gradients of a layer may have in any case."""
FAR_APART = 128
"""Positions above which Gram matrices are not fast."""


def _positions(layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int) -> int:
    """Of one patient."""
    return small_side(layer, value, gradient)[:, 0].numel() // patients


def _can_be_held(layer: Layer, records: list[Record], patients: int) -> bool:
    """Whether the patients' gradients take little memory, or no more than they are formed of."""
    kept = sum(value.numel() + gradient.numel() for value, gradient in records)
    return patients * layer.weight.numel() <= max(kept, LITTLE)


def _backward(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, wanted: tuple[bool, bool]
) -> torch.Tensor:
    module = layer.options
    found = torch.ops.aten.convolution_backward(
        gradient,
        value,
        layer.weight.to(value.dtype),  # float32 in the records of a bfloat16 model
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


def _added(layer: Layer, records: list[Record], patients: int, kernel: str) -> torch.Tensor:
    """A layer that is used more than once: its gradients add before the norm is taken."""
    form = _looped if kernel == "looped" else _patches
    return sum_of([form(layer, *record, patients) for record in records])


def _ghost(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor | Factored:
    # The proof of docs/privacy.md allows MOST_TERMS terms in one product. A choice may have been
    # made for fewer patients, so it is checked here again.
    if patients * _positions(layer, value, gradient, patients) > rows.MOST_TERMS:
        return _patches(layer, value, gradient, patients)
    groups, images = layer.options.groups, len(value) // patients
    positions, (out, wide) = _positions(layer, value, gradient, patients), shape_of(layer)

    def lay(exact: rows.Exact) -> rows.Rows:
        members = len(exact.inputs) // images
        return rows_of(layer, exact.inputs, exact.gradients, members, slice(0, members))

    size = 8 * groups * positions * (out + wide + positions)
    take = partial(rows.exactly, value, gradient, images)
    found = rows.factored(take, lay, patients, size)

    def add(total: torch.Tensor, weighing: Weighing) -> None:
        grouped = total.view(groups, out, wide)
        if is_pointwise(layer.options) or not _channels_last(layer.options, value):
            found.add(grouped, weighing)
            return
        # Patches of channels_last images have their features in another order than the weight.
        sums = torch.zeros_like(grouped)
        found.add(sums, weighing)
        total.add_(in_order(layer, value, sums))

    return replace(found, add=add)


def _patches(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor:
    value, gradient = accurate(value), accurate(gradient)

    def form(mine: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        return rows.gradients_of(rows_of(layer, mine, back, 1, slice(0, 1)))

    lay = partial(rows_of, layer, value, gradient, patients)
    found = rows.formed(lay, patients, patch_bytes(layer, value, gradient, patients))
    if found is None:  # one product would round a patient by its place in the tile
        found = torch.cat(rows.each_alone(form, value, gradient, patients))
    return in_order(layer, value, found)


def _looped(
    layer: Layer, value: torch.Tensor, gradient: torch.Tensor, patients: int
) -> torch.Tensor:
    form = partial(_backward, layer, wanted=(False, True))
    value, gradient = accurate(value), accurate(gradient)
    return torch.stack(rows.each_alone(form, value, gradient, patients))


_KERNELS: dict[str, Callable[..., torch.Tensor | Factored]] = {
    "ghost": _ghost,
    "patches": _patches,
    "looped": _looped,
}
