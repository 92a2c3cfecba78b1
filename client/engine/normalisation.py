"""Group, layer and instance normalisation, and PReLU: a few numbers of each channel.

A channel's scale and shift, or slope: so each item's gradient is small, and is held.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from client.engine.rule import Book, Layer, OneKernel, accurate, sum_of

Record = tuple[torch.Tensor, ...]


class _OfChannels(OneKernel):
    """A rule whose records are each item's gradients: of the weight, and of the bias if any."""

    def book(self, layer: Layer, records: list[Record], patients: int, kernel: str) -> Book:
        """The patients' gradients over all uses of the layer."""
        apart = (patients, -1, *layer.weight.shape)
        uses = [dict(zip(("weight", "bias"), record, strict=False)) for record in records]
        return Book(
            {
                role: sum_of([accurate(use[role]).reshape(apart).sum(dim=1) for use in uses])
                for role in layer.parameters
            }
        )


class GroupRule(_OfChannels):
    """``nn.GroupNorm``, and ``nn.InstanceNorm*d`` as one group a channel."""

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output; mean and reciprocal deviation are saved."""
        items, channels = value.shape[:2]
        output, mean, scale = torch.native_group_norm(
            value.contiguous(memory_format=_order(value)),
            layer.weight,
            layer.bias,
            items,
            channels,
            value[0, 0].numel(),
            _groups(layer, channels),
            layer.options.eps,
        )
        return output, (mean, scale)

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, Record]:
        """The input's gradient, and (items, channels) gradients of scale and shift."""
        order = _order(value)
        value, gradient = (each.contiguous(memory_format=order) for each in (value, gradient))
        kind = _apart if value.is_contiguous() else _pixel_by_pixel
        return kind(layer, value, saved, gradient, wanted=wanted)


def _order(value: torch.Tensor) -> torch.memory_format:
    """The memory order that the library's kernels, called directly, assume without a check."""
    last = torch.channels_last
    if value.is_cpu and value.dim() == 4 and value.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


def _groups(layer: Layer, channels: int) -> int:
    return int(getattr(layer.options, "num_groups", channels))


def _apart(
    layer: Layer,
    value: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    gradient: torch.Tensor,
    *,
    wanted: bool,
) -> tuple[torch.Tensor | None, Record]:
    """The library sums gradients of scale and shift over items.

    Asked about one item that has all items' channels side by side, it gives them apart, at the
    same cost.
    """
    items, channels = value.shape[:2]
    mean, scale = saved
    found = torch.ops.aten.native_group_norm_backward(
        gradient,
        value,
        mean.view(1, -1),
        scale.view(1, -1),
        layer.weight.repeat(items),
        1,
        items * channels,
        value[0, 0].numel(),
        items * _groups(layer, channels),
        (wanted, True, True),
    )
    apart = (found[1].view(items, channels), found[2].view(items, channels))
    return (found[0].view(value.shape) if wanted else None), apart


def _pixel_by_pixel(
    layer: Layer,
    value: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    gradient: torch.Tensor,
    *,
    wanted: bool,
) -> tuple[torch.Tensor | None, Record]:
    """Where a pixel's channels lie together, so that channels cannot be put side by side."""
    items, channels = value.shape[:2]
    groups = _groups(layer, channels)
    mean, scale = (each.repeat_interleave(channels // groups, dim=1) for each in saved)
    # y = scale (x - mean) weight + shift, so the weight's gradient is the sum of
    # g scale (x - mean) = scale (sum of g x - mean sum of g).
    space = tuple(range(2, value.dim()))
    shift = gradient.sum(dim=space)
    products = (gradient * value).sum(dim=space)
    before = None
    if wanted:
        before = torch.ops.aten.native_group_norm_backward(
            gradient,
            value,
            *saved,
            layer.weight,
            items,
            channels,
            value[0, 0].numel(),
            groups,
            (True, False, False),
        )[0]
    return before, ((products - mean * shift) * scale, shift)


class LayerRule(_OfChannels):
    """``nn.LayerNorm`` over the last dimensions."""

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output; mean and reciprocal deviation are saved."""
        shape, eps = list(layer.options.normalized_shape), layer.options.eps
        output, mean, scale = torch.native_layer_norm(value, shape, layer.weight, layer.bias, eps)
        return output, (mean, scale)

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, Record]:
        """The input's gradient, and gradients of scale and shift for each item."""
        mean, scale = saved
        shape, weight, bias = list(layer.options.normalized_shape), layer.weight, layer.bias
        mask = (wanted, False, False)
        found = torch.ops.aten.native_layer_norm_backward(
            gradient, value, shape, mean, scale, weight, bias, mask
        )
        # The library gives these gradients summed over items, so they are formed here for each.
        normalised = (value - mean) * scale
        apart = (len(value), -1, *layer.weight.shape)
        pair = (
            (gradient * normalised).reshape(apart).sum(dim=1),
            gradient.reshape(apart).sum(dim=1),
        )
        return (found[0] if wanted else None), pair


class PReluRule(_OfChannels):
    """``nn.PReLU``: one slope below zero for all channels, or one for each."""

    def forward(
        self, layer: Layer, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The layer's output."""
        return functional.prelu(value, layer.weight), ()

    def backward(
        self,
        layer: Layer,
        value: torch.Tensor,
        saved: tuple[torch.Tensor, ...],
        gradient: torch.Tensor,
        *,
        wanted: bool,
    ) -> tuple[torch.Tensor | None, Record]:
        """The input's gradient, and (items, slopes) gradients of the slopes."""
        slopes = gradient * value.clamp(max=0.0)
        every = len(layer.weight) > 1
        apart = tuple(range(1 + every, value.dim()))
        record = slopes.sum(dim=apart).view(len(value), -1) if apart else slopes
        return (
            torch.where(value > 0, gradient, gradient * _of_channel(layer.weight, value))
            if wanted
            else None
        ), (record,)


def _of_channel(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A channel's number beside each of its pixels."""
    return weight.view(1, -1, *[1] * (value.dim() - 2)) if len(weight) > 1 else weight
