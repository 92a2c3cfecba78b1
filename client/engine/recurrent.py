"""LSTM, GRU and plain recurrent networks, unrolled into dense layers used once a time step.

The equations are those of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` (Hochreiter and Schmidhuber
1997; Cho et al. 2014; Elman 1990). A layer's inputs are multiplied for all steps at once; its
state, step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from client.engine.layers import dense
from client.engine.rule import Layer
from common.errors import ModelError

Call = Callable[[Layer, torch.Tensor], torch.Tensor]
State = tuple[torch.Tensor, ...]
Cell = Callable[[torch.Tensor, torch.Tensor, State], State]
Apart = Callable[[Callable[..., torch.Tensor], torch.Tensor], torch.Tensor]
"""Applies a function that is not rounded exactly, patient by patient."""


def dense_layers(name: str, module: Any) -> dict[str, Layer]:  # noqa: ANN401 - nn.RNNBase lacks types
    """The dense layers of a recurrent module, by torch's endings: ``ih_l0``, ``hh_l0_reverse``.

    Raises:
        ModelError: the module projects its state.
    """
    if module.proj_size:
        raise ModelError(
            "a recurrent layer with a projection cannot be trained privately",
            where=f"module {name}",
            found=f"proj_size={module.proj_size}",
            wanted="proj_size=0",
        )
    endings = [
        f"{part}_l{number}{direction}"
        for number in range(module.num_layers)
        for direction in (("", "_reverse") if module.bidirectional else ("",))
        for part in ("ih", "hh")
    ]
    return {
        ending: dense(
            f"{name}.{ending}",
            getattr(module, f"weight_{ending}"),
            getattr(module, f"bias_{ending}") if module.bias else None,
        )
        for ending in endings
    }


def unrolled(
    module: Any,  # noqa: ANN401 - as above
    layers: dict[str, Layer],
    call: Call,
    apart: Apart,
) -> Callable[..., Any]:
    """The function that replaces the module's forward."""

    def forward(value: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:  # noqa: ANN401 - as torch has it
        steps = _batch_first(module, value)
        starts, ends = _starts(module, steps, state), list[State]()
        for number in range(module.num_layers):
            outputs = []
            for direction in ("", "_reverse") if module.bidirectional else ("",):
                ending = f"l{number}{direction}"
                pair = layers[f"ih_{ending}"], layers[f"hh_{ending}"]
                cell, start = _cell(module, apart), starts[len(ends)]
                out, end = _run(cell, pair, call, steps, start, bool(direction))
                outputs.append(out)
                ends.append(end)
            steps = torch.cat(outputs, dim=2)
        last = tuple(torch.stack(part) for part in zip(*ends, strict=True))
        output = steps if module.batch_first else steps.transpose(0, 1)
        return output, last if isinstance(module, nn.LSTM) else last[0]

    return forward


def _batch_first(module: Any, value: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - as above
    if not isinstance(value, torch.Tensor) or value.dim() != 3:
        raise ModelError(
            "a recurrent layer needs a padded batch of sequences",
            where=type(module).__name__,
            found=type(value).__name__,
            wanted="a tensor of three dimensions",
        )
    return value if module.batch_first else value.transpose(0, 1)


def _starts(module: Any, steps: torch.Tensor, state: Any) -> list[State]:  # noqa: ANN401 - as above
    many = module.num_layers * (2 if module.bidirectional else 1)
    parts = 2 if isinstance(module, nn.LSTM) else 1
    if state is None:
        zeros = steps.new_zeros(len(steps), module.hidden_size)
        return [(zeros,) * parts] * many
    given = state if isinstance(state, tuple) else (state,)
    return [tuple(part[place] for part in given) for place in range(many)]


def _run(  # noqa: PLR0917 - a recurrence has so many parts
    cell: Cell,
    pair: tuple[Layer, Layer],
    call: Call,
    steps: torch.Tensor,
    state: State,
    backwards: bool,
) -> tuple[torch.Tensor, State]:
    # All steps' inputs in one product: they do not depend on the state, and one use is one record.
    outputs = list[torch.Tensor]()
    inputs = call(pair[0], steps).unbind(dim=1)
    for value in reversed(inputs) if backwards else inputs:
        state = cell(value, call(pair[1], state[0]), state)
        outputs.append(state[0])
    if backwards:
        outputs.reverse()
    return torch.stack(outputs, dim=1), state


def _cell(module: Any, apart: Apart) -> Cell:  # noqa: ANN401 - as above
    if isinstance(module, nn.LSTM):
        return partial(_lstm, apart)
    if isinstance(module, nn.GRU):
        return partial(_gru, apart)
    if module.nonlinearity == "relu":
        return lambda value, recurrent, _: (torch.relu(value + recurrent),)
    return lambda value, recurrent, _: (apart(torch.tanh, value + recurrent),)


def _lstm(apart: Apart, value: torch.Tensor, recurrent: torch.Tensor, state: State) -> State:
    # Gates in torch's order: input, forget, cell, output.
    enter, forget, candidate, leave = (value + recurrent).chunk(4, dim=1)
    fresh = apart(torch.sigmoid, enter) * apart(torch.tanh, candidate)
    kept = apart(torch.sigmoid, forget) * state[1] + fresh
    return apart(torch.sigmoid, leave) * apart(torch.tanh, kept), kept


def _gru(apart: Apart, value: torch.Tensor, recurrent: torch.Tensor, state: State) -> State:
    # torch's GRU resets the product U h, not h as Cho et al. 2014 do: so the two stay apart here.
    reset, update, candidate = value.chunk(3, dim=1)
    reset_state, update_state, candidate_state = recurrent.chunk(3, dim=1)
    gate = apart(torch.sigmoid, reset + reset_state)
    mix = apart(torch.sigmoid, update + update_state)
    fresh = apart(torch.tanh, candidate + gate * candidate_state)
    return ((1 - mix) * fresh + mix * state[0],)
