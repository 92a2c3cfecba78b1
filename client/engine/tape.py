"""One forward and backward pass of a model, watched layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from client.engine.layers import RECURRENT, approximate, layer_of, rule_of, served
from client.engine.recurrent import dense_layers, unrolled
from client.engine.rule import Book, Layer
from client.engine.vmapped import ModuleCall, VmappedRule, detached, outputs, unwatched
from common.devices.device import Precision
from common.errors import ModelError

Enter = Callable[[Layer, list[Any], int], Book]
"""Makes a layer's book from the records of its uses and the number of patients."""


class Tape:
    """What the layers enter in one pass.

    Args:
        patients: how many there are.
        items: how many stand along the first dimension of the model's input, patient by
            patient, as many for each.
        enter: makes the books.
        device: of the pass.
        precision: of activations. In bfloat16 products of a layer's input and weights are made of
            bfloat16 numbers, as autocast has it, and what a layer gives is bfloat16: so is all that
            the model does between its layers (activation functions, pooling, sums, attention).
            Within normalisations, PReLU and modules that no rule knows it is float32.

    Attributes:
        books: one for each layer that the loss depends on, when the backward pass is over.
    """

    def __init__(
        self,
        patients: int,
        items: int,
        enter: Enter,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        self.books: dict[Layer, Book] = {}
        self.short = torch.bfloat16 if precision == "bfloat16" else None
        self._patients, self._items = patients, items
        self._enter = enter
        # Autograd runs backward only through something that requires a gradient. Parameters do not
        # here, and neither do images: this scalar is what the first layer's backward hangs on.
        self._token = torch.zeros((), device=device, requires_grad=True)
        self._calls: Counter[Layer] = Counter()
        self._records: dict[Layer, list[Any]] = {}
        self._again = False

    def call(
        self,
        layer: Layer,
        value: torch.Tensor,
        *others: Any,  # noqa: ANN401 - what a rule does not know
        **named: Any,  # noqa: ANN401 - as above
    ) -> torch.Tensor:
        """Use a layer.

        Raises:
            ModelError: it is called with more than its input, or with an input whose first
                dimension cannot be the batch.
        """
        if others or named:
            raise ModelError(
                "a layer is called with more than one input",
                where=f"module {layer.name}",
                found=", ".join(named) or f"{1 + len(others)} arguments",
                remedy="call it with one tensor",
            )
        if not value.dim() or not len(value) or len(value) % self._items:
            raise ModelError(
                "a layer's input cannot be divided among the patients",
                where=f"module {layer.name or 'the model itself'}",
                found=f"shape {tuple(value.shape)}",
                wanted=f"a multiple of the batch size, {self._items}, as the first dimension",
                remedy="keep the batch as the first dimension, also in the layer before "
                "(batch_first=True)",
            )
        if layer.frozen:
            through: torch.Tensor = _Through.apply(value, layer, self)  # type: ignore[no-untyped-call] # torch's is untyped
            return through
        self._count(layer)
        output: torch.Tensor = _Use.apply(self._token, value, layer, self)  # type: ignore[no-untyped-call] # as above
        return output

    def observe(self, layer: Layer, *values: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the module takes and gives
        """Use a module that no rule knows."""
        module, call = layer.options, ModuleCall(values, named)
        if self.short is not None:  # nobody knows which of its operations would take such numbers
            call = call.lengthened()
        call.require_apart(layer, self._patients)
        values, named = call.values, dict(call.named)
        if layer.frozen:
            with unwatched(module):
                return torch.func.functional_call(module, detached(module), values, named)
        self._count(layer)
        with unwatched(module):
            found = torch.func.functional_call(module, detached(module), values, named)
        call = call.on(call.tensors)
        seen = iter(_Seen.apply(self._token, call, layer, self, *outputs(found)))  # type: ignore[no-untyped-call] # as above
        if isinstance(found, torch.Tensor):
            return next(seen)
        if type(found) not in {tuple, list}:
            raise ModelError(
                "the output of an unknown module cannot be divided among the patients",
                where=f"module {layer.name or 'the model itself'}",
                found=type(found).__name__,
                wanted="a tensor, or a tuple of tensors",
            )
        return tuple(next(seen) if isinstance(part, torch.Tensor) else part for part in found)

    def _count(self, layer: Layer) -> None:
        if not self._again:
            self._calls[layer] += 1

    @contextmanager
    def again(self) -> Iterator[None]:
        """Uses of layers in here were counted: they are computed once more, on the way back."""
        self._again = True
        try:
            yield
        finally:
            self._again = False

    def apart(self, function: Callable[..., torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        """A function of each item's numbers, on each patient's items by themselves.

        Where a library rounds the last numbers of an array otherwise than those before, it then
        does so alike for each patient. That it does is rare and small: a trial on random input
        may miss it.
        """
        # clone: each patient's numbers in an array of its own, which begins at an aligned address.
        if self._patients == 1 or not value.dim() or len(value) % self._patients:
            return function(value)
        parts = value.chunk(self._patients)
        return torch.cat([function(part.clone()) for part in parts])

    def record(self, layer: Layer, record: Any) -> None:  # noqa: ANN401 - each rule has its own
        """Keep what a use left; where it was the last of its layer, make the book."""
        # Book after the layer's last use only: its uses add up before the norm is taken.
        records = self._records.setdefault(layer, [])
        records.append(record)
        if len(records) == self._calls[layer]:
            self._close(layer)

    def close(self) -> None:
        """Make the books of layers of which not every use led to the loss."""
        for layer in list(self._records):
            self._close(layer)

    def _close(self, layer: Layer) -> None:
        with torch.no_grad():
            self.books[layer] = self._enter(layer, self._records.pop(layer), self._patients)


class _Use(torch.autograd.Function):
    """A layer's forward and backward; its parameters are no part of autograd."""

    @staticmethod
    def forward(ctx: Any, _: torch.Tensor, value: torch.Tensor, layer: Layer, tape: Tape) -> Any:  # noqa: ANN401 - torch's context is untyped
        return _computed(ctx, value, layer, tape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 - as above
        before, record = _returned(ctx, gradients[0], wanted=ctx.needs_input_grad[1])
        ctx.tape.record(ctx.layer, record)
        return None, before, None, None


class _Through(torch.autograd.Function):
    """A frozen layer's forward and backward: as :class:`_Use`, with no book.

    Before the first layer that is trained nothing requires a gradient, and nothing is kept.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, layer: Layer, tape: Tape) -> Any:  # noqa: ANN401 - as above
        return _computed(ctx, value, layer, tape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 - as above
        return _returned(ctx, gradients[0], wanted=True)[0], None, None


def _computed(ctx: Any, value: torch.Tensor, layer: Layer, tape: Tape) -> torch.Tensor:  # noqa: ANN401 - as above
    """What a layer gives; the context keeps what the way back needs."""
    used, ctx.given = _used(layer, tape), value.dtype
    if tape.short is not None and value.is_floating_point():
        # What is kept for the way back is as short as what came.
        value = value.to(tape.short)
    output, saved = used.rule.forward(used, _fitting(value, used, tape))
    output = output if tape.short is None else output.to(tape.short)
    output = output.clone() if output._is_view() else output  # noqa: SLF001 - what comes next may work in place
    ctx.layer, ctx.tape = layer, tape
    ctx.save_for_backward(value, *saved)
    return output


def _returned(
    ctx: Any,  # noqa: ANN401 - as above
    gradient: torch.Tensor,
    *,
    wanted: bool,
) -> tuple[torch.Tensor | None, Any]:
    """The gradient of a layer's input, and the record that its book is made of."""
    value, *saved = ctx.saved_tensors
    used = _used(ctx.layer, ctx.tape)
    value, gradient = (_fitting(each, used, ctx.tape) for each in (value.detach(), gradient))
    before, record = used.rule.backward(used, value, tuple(saved), gradient, wanted=wanted)
    return None if before is None else before.to(ctx.given), record


def _used(layer: Layer, tape: Tape) -> Layer:
    """The layer as it multiplies: with weights rounded to the type of activations."""
    short = tape.short is not None and layer.rule.multiplies
    return layer.rounded(tape.short) if short and tape.short is not None else layer


def _fitting(value: torch.Tensor, layer: Layer, tape: Tape) -> torch.Tensor:
    """Numbers in the type of the layer's weights; indices as they are."""
    mixed = tape.short is not None and value.is_floating_point()
    return value.to(layer.weight.dtype) if mixed else value


class _Seen(torch.autograd.Function):
    """What a module gave, its gradients kept as they come back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context is untyped
        _: torch.Tensor,
        call: ModuleCall,
        layer: Layer,
        tape: Tape,
        *found: torch.Tensor,
    ) -> Any:  # noqa: ANN401 - as above
        ctx.call, ctx.layer, ctx.tape = call, layer, tape
        ctx.save_for_backward(*call.tensors)  # which notices where one is changed in place
        return tuple(each.clone() for each in found)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 - as above
        ctx.tape.record(ctx.layer, (ctx.call.on(ctx.saved_tensors), gradients))
        return None, None, None, None, *gradients


@contextmanager
def watched(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Let every module that holds parameters enter on the tape, while the context lasts.

    Raises:
        ModelError: names a module that cannot be trained privately.
    """
    modules, apart = list(served(model)), list(approximate(model))
    # An instance attribute hides the class's forward: hooks still run, and nothing else is patched.
    try:
        for name, module in modules:
            module.__dict__["forward"] = _forward(name, module, tape)
        for module in apart:
            module.__dict__["forward"] = partial(tape.apart, module.forward)
        yield
    finally:
        for module in (*(module for _, module in modules), *apart):
            module.__dict__.pop("forward", None)


@contextmanager
def checkpointed(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Let blocks of a watched model keep their inputs alone; on the way back they compute again.

    A block is a module of two layers or more that stands in a row of modules. What it computes
    again has the same bits: the same code, on the same numbers, in the same places.
    """
    found = list(blocks(model))
    for block in found:
        block.__dict__["forward"] = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=False,  # the engine refuses models that draw
            context_fn=lambda: (nullcontext(), tape.again()),
        )
    try:
        yield
    finally:
        for block in found:
            block.__dict__.pop("forward", None)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of two layers or more that stand in a row of modules."""
    in_row = isinstance(model, nn.Sequential | nn.ModuleList)
    for child in model.children():
        layers = sum(1 for _ in served(child))
        if in_row and layers > 1 and not isinstance(child, nn.ModuleList):
            yield child
        elif layers:
            yield from blocks(child)


def _forward(name: str, module: nn.Module, tape: Tape) -> Callable[..., Any]:
    if type(module) in RECURRENT:
        return unrolled(module, dense_layers(name, module), tape.call, tape.apart)
    rule = rule_of(module)
    if rule is None:
        layer = Layer(name, VmappedRule(), module, dict(module.named_parameters()))
        return partial(tape.observe, layer)
    layer = layer_of(name, module, rule)
    return partial(tape.call, layer)
