"""Modules that no rule knows give the loop's sum too, or are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from client.engine.clipped import clipped_sum
from client.engine.layers import rule_of
from client.engine.vmapped import AT_ONCE, VmappedRule
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import Net, exact, layers_of, loss, patients_of, require_same


class Raw(nn.Module):
    """Parameters of its own, and a known layer within."""

    def __init__(self, wide: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(wide))
        self.shift = nn.Parameter(torch.zeros(1, wide))
        self.inner = nn.Linear(wide, wide)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(value.sin() * self.scale) + self.shift
        return found


class Table(nn.Module):
    """Parameters, and no input."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(4))

    def forward(self) -> torch.Tensor:
        return self.values * 2


class Attending(nn.Module):
    """Self-attention as it is written in practice."""

    def __init__(self, *, weights: bool = True, named: bool = False) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.weights, self.named = weights, named

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.before(value)
        if self.named:
            found, weights = self.attention(value, value, value.sin(), need_weights=self.weights)
        else:
            found, weights = self.attention(value, value, value.sin())
        parts = [found.flatten(1)] if weights is None else [found.flatten(1), weights.flatten(1)]
        return torch.cat(parts, dim=1)


class Patched(nn.Module):
    """A vision transformer in small: raw parameters at the top, so that all of it goes one way."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.places = nn.Parameter(torch.zeros(1, 5, 4))
        self.cut = nn.Conv2d(1, 4, 2, stride=2)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        patches = self.cut(value).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(value), -1, -1), patches], dim=1)
        found: torch.Tensor = self.head(self.block(tokens + self.places)[:, 0])
        return found


@pytest.mark.parametrize("items", [1, 3])
def test_raw_parameters_give_the_loops_sum(items: int) -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(4, 4), Raw(), nn.Tanh(), Raw(), nn.Linear(4, 2)))
    require_same(model, patients_of(6, 4, items=items))


def test_a_model_whose_top_holds_parameters_gives_the_loops_sum() -> None:
    require_same(exact(Patched), patients_of(1, 4, 4, items=2))


def test_a_module_that_is_used_twice_has_one_gradient() -> None:
    def build() -> nn.Module:
        return Net(lambda net, value: net.layer(net.layer(value).tanh() + value), layer=Raw())

    require_same(exact(build), patients_of(4, items=2))


def test_more_items_than_are_worked_on_at_once_give_the_loops_sum() -> None:
    require_same(exact(Raw), patients_of(4, items=2, count=AT_ONCE + 3))


@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize(
    ("weights", "named"), [(True, False), (True, True), (False, True)], ids=str
)
def test_attention_gives_the_loops_sum(items: int, *, weights: bool, named: bool) -> None:
    model = exact(lambda: Attending(weights=weights, named=named))
    require_same(model, patients_of(3, 4, items=items))


def test_a_transformers_layer_gives_the_loops_sum() -> None:
    def build() -> nn.Module:
        block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Linear(4, 4), block, nn.Flatten())

    require_same(exact(build), patients_of(3, 4, items=2))


@pytest.mark.parametrize("kind", ["Bilinear", "RMSNorm", "subclass", "parametrized"])
def test_layers_without_a_rule_give_the_loops_sum(kind: str) -> None:
    class Doubled(nn.Linear):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(value)

    def products() -> nn.Module:
        return Net(lambda net, value: net.layer(value, value.sin()), layer=nn.Bilinear(4, 4, 3))

    layers: dict[str, Callable[[], nn.Module]] = {
        "Bilinear": products,
        "RMSNorm": lambda: nn.RMSNorm(4),
        "subclass": lambda: Doubled(4, 3),
        "parametrized": lambda: weight_norm(nn.Linear(4, 3)),
    }
    model = exact(lambda: nn.Sequential(nn.Linear(4, 4), layers[kind](), nn.Tanh()))
    patients = patients_of(4, items=2)
    assert any(isinstance(layer.rule, VmappedRule) for layer in layers_of(model, patients))
    require_same(model, patients)


def test_a_subclass_that_computes_as_its_base_is_served_by_the_bases_rule() -> None:
    class Named(nn.Linear):
        pass

    assert rule_of(Named(2, 2)) is rule_of(nn.Linear(2, 2))


class Needy(nn.Module):
    """Holds a parameter, and does with its input what ``torch.func`` cannot follow."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.scale, self.how = nn.Parameter(torch.ones(4)), how

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if self.how == "value":
            return value * self.scale if float(value.detach().sum()) > 0 else -value * self.scale
        if self.how == "chance":
            return value * self.scale * torch.rand_like(value)
        return value * self.scale * len(value.nonzero())


@pytest.mark.parametrize("how", ["value", "chance", "shape"])
def test_what_torch_cannot_take_apart_is_refused_by_name(how: str) -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(4, 4), Needy(how)))
    with pytest.raises(ModelError, match=r"module 1\n(.|\n)*Needy"):
        clipped_sum(model, patients_of(4), loss, 1.0, EngineChoice())


CALLS: dict[str, Callable[[], nn.Module]] = {
    "a state within a tuple": lambda: Net(
        lambda net, value: net.cell(value, (value, value))[0], cell=nn.LSTMCell(4, 4)
    ),
    "one item": lambda: Net(lambda net, value: value + net.cell(value[:1]), cell=Raw()),
    "nothing": lambda: Net(lambda net, value: value * net.cell(), cell=Table()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_taken_apart_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match="module cell"):
        clipped_sum(exact(CALLS[name]), patients_of(4), loss, 1.0, EngineChoice())


def test_a_hook_that_changes_what_a_layer_gives_is_done_once() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        model[0].register_forward_hook(lambda _module, _inputs, output: output.sin() * 2)
        return model

    require_same(exact(build), patients_of(4, items=2))
