"""How a convolution's input and output gradient are laid out as rows of a linear map.

A convolution is a linear map of the patches of its input (Rochette, Manoel and Tramel 2019,
arXiv:1912.06015). Where it is transposed, input and output gradient change places.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.nn import functional

from client.engine import rows
from client.engine.rule import Layer


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

    Where the convolution is transposed, patches are of the output's gradient and the input
    stands in the gradient's place, as the weight's own order (in, out, ...) has it.
    """
    images, module = len(value) // patients, layer.options
    of = slice(chosen.start * images, chosen.stop * images)
    wide, small = value[of], gradient[of]
    if module.transposed:
        wide, small = small, wide
    space = small.shape[2:]
    patches = _cut(wide, module, space)
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


def is_in_order(layer: Layer, value: torch.Tensor) -> bool:
    """Whether the features of a patch come in the weight's order."""
    return is_pointwise(layer.options) or not _channels_last(layer.options, value)


def in_order(layer: Layer, value: torch.Tensor, formed: torch.Tensor) -> torch.Tensor:
    """(..., out, features of a patch) in the weight's order."""
    before = formed.shape[:-3]
    if not _channels_last(layer.options, value):
        return formed.reshape(*before, *layer.weight.shape)
    out, channels, *kernel = layer.weight.shape
    return formed.reshape(*before, out, *kernel, channels).movedim(-1, len(before) + 1)
