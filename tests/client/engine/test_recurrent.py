"""Recurrent layers, unrolled, compute as torch's do and give the loop's sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from client.engine.clipped import clipped_sum
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import Net, exact, forced, loss, patients_of, require_same

KINDS: dict[str, Callable[..., nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
WIDE, HIDDEN, STEPS = 3, 4, 5
SETTINGS: dict[str, dict[str, int]] = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
    "without bias": {"bias": False},
}


class Sequences(nn.Module):
    """A recurrent layer whose outputs and last states all enter the loss."""

    def __init__(self, layer: nn.RNNBase, *, starts: str = "none") -> None:
        super().__init__()
        self.before = nn.Linear(WIDE, WIDE)
        self.layer, self.starts = layer, starts
        if starts == "learned":
            self.start = nn.Linear(WIDE, HIDDEN)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.before(value).tanh()
        state = self._state(value)
        if not self.layer.batch_first:
            value = value.transpose(0, 1)
        outputs, last = self.layer(value, state) if state is not None else self.layer(value)
        if not self.layer.batch_first:
            outputs = outputs.transpose(0, 1)
        parts = last if isinstance(last, tuple) else (last,)
        return torch.cat(
            [outputs.flatten(1), *(part.transpose(0, 1).flatten(1) for part in parts)], 1
        )

    def _state(self, value: torch.Tensor) -> object:
        if self.starts == "none":
            return None
        many = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        first = value[:, 0, :1].repeat(1, HIDDEN)
        if self.starts == "learned":
            first = self.start(value[:, 0])
        states = torch.stack([first * (number + 1) for number in range(many)])
        return (states, states.sin()) if isinstance(self.layer, nn.LSTM) else states


def model_of(kind: str, starts: str = "none", /, **settings: object) -> nn.Module:
    def build() -> nn.Module:
        return Sequences(KINDS[kind](WIDE, HIDDEN, **settings), starts=starts)

    return exact(build)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layers_give_the_loops_sum(kind: str, name: str, *, batch_first: bool) -> None:
    model = model_of(kind, batch_first=batch_first, **SETTINGS[name])
    for items in (1, 3):
        require_same(model, patients_of(STEPS, WIDE, items=items))


@pytest.mark.parametrize("kernel", ["ghost", "materialised"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_gives_the_loops_sum(kind: str, kernel: str) -> None:
    model, patients = model_of(kind, num_layers=2), patients_of(STEPS, WIDE, items=2)
    require_same(model, patients, forced(model, patients, kernel))


@pytest.mark.parametrize("starts", ["given", "learned"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_and_their_gradients_are_those_of_torch(
    kind: str, name: str, starts: str
) -> None:
    model = model_of(kind, starts, batch_first=True, **SETTINGS[name])
    require_same(model, patients_of(STEPS, WIDE, items=2))


def test_a_plain_network_may_have_the_other_activation() -> None:
    require_same(model_of("RNN", nonlinearity="relu"), patients_of(STEPS, WIDE, items=2))


def test_a_layer_that_is_used_twice_has_one_gradient() -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(net.layer(value)[0])[0],
            layer=nn.GRU(3, 3, batch_first=True),
        )

    require_same(exact(build), patients_of(STEPS, 3, items=2))


def test_a_projected_state_is_refused_by_name() -> None:
    def build() -> nn.Module:
        reader = nn.LSTM(WIDE, HIDDEN, proj_size=2, batch_first=True)
        return Net(lambda net, value: net.reader(value)[0], reader=reader)

    with pytest.raises(ModelError, match=r"module reader(.|\n)*proj_size=2"):
        clipped_sum(exact(build), patients_of(STEPS, WIDE), loss, 1.0, EngineChoice())


def test_packed_sequences_are_refused() -> None:
    def packed(net: nn.Module, value: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(value),), STEPS)
        sequences = pack_padded_sequence(value, lengths, batch_first=True)
        found: torch.Tensor = net.get_submodule("reader")(sequences)
        return found

    def build() -> nn.Module:
        return Net(packed, reader=nn.GRU(WIDE, HIDDEN, batch_first=True))

    with pytest.raises(ModelError, match="padded batch of sequences"):
        clipped_sum(exact(build), patients_of(STEPS, WIDE), loss, 1.0, EngineChoice())
