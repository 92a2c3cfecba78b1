"""A model whose clipped sums would be wrong is refused before its first step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import Patients
from client.engine.convolution import ConvolutionRule
from client.engine.probe import require_sound
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import LAYOUTS, Net, exact, forced, layers_of, loss, patients_of

CHOICE = EngineChoice()


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("items", [1, 3])
def test_a_sound_model_is_let_through_and_left_as_it_was(items: int, dtype: torch.dtype) -> None:
    model = exact(network).to(dtype)
    before = [parameter.clone() for parameter in model.parameters()]
    drawn = patients_of(1, 5, 5, count=5, items=items)
    require_sound(model, Patients(drawn.inputs.to(dtype), drawn.targets), loss, CHOICE)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.dtype == dtype
        assert torch.equal(parameter, old)
        assert parameter.grad is None


@pytest.mark.parametrize("kernel", ConvolutionRule.kernels)
def test_every_kernel_is_let_through(kernel: str) -> None:
    """In float32: the library's float64 convolutions differ by place in ``channels_last``."""
    drawn = patients_of(1, 5, 5, count=5, items=2)
    model, patients = exact(network).float(), Patients(drawn.inputs.float(), drawn.targets)
    for layout in LAYOUTS:
        require_sound(model, patients, loss, forced(model, patients, kernel, memory_format=layout))


def test_a_model_of_words_is_let_through() -> None:
    model = exact(lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)))
    require_sound(model, patients_of(4, words=5, count=5), loss, CHOICE)


class Outside(nn.Module):
    """Uses a parameter outside its own module's forward."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Linear(4, 4), nn.Linear(4, 4), how

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if self.how == "besides":
            value = self.first(value) @ self.second.weight
        if self.how == "instead":
            value = functional.linear(value, self.second.weight, self.second.bias)
        found: torch.Tensor = self.second(self.first(value)) * self.second.weight.norm()
        return found


@pytest.mark.parametrize("how", ["besides", "instead", "as a factor"])
def test_a_parameter_used_outside_its_module_is_refused_by_name(how: str) -> None:
    with pytest.raises(ModelError, match=r"parameter second\.weight"):
        require_sound(exact(lambda: Outside(how)), patients_of(4, count=5), loss, CHOICE)


class Mixing(nn.Module):
    """Lets the items of a batch meet."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        mixed: dict[str, Callable[[], torch.Tensor]] = {
            "mean": lambda: value - value.mean(dim=0),
            "mean of all": lambda: value - value.mean(),
            "largest": lambda: value / value.abs().max(),
            "neighbour": lambda: value + value.roll(1, dims=0),
            "order": lambda: value.sort(dim=0).values,
            "softmax": lambda: value.softmax(dim=0),
            "little": lambda: value - 1e-6 * value.mean(dim=0),
        }
        return mixed[self.how]()


@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize(
    "how", ["mean", "mean of all", "largest", "neighbour", "order", "softmax", "little"]
)
def test_a_module_in_which_patients_meet_is_refused_by_name(how: str, items: int) -> None:
    patients = patients_of(4, count=5, items=items)
    late = exact(lambda: nn.Sequential(nn.Linear(4, 4), Mixing(how), nn.Linear(4, 2)))
    with pytest.raises(ModelError, match=r"another patient's(.|\n)*module 1\b"):
        require_sound(late, patients, loss, CHOICE)
    early = exact(lambda: nn.Sequential(Mixing(how), nn.Linear(4, 2)))
    with pytest.raises(ModelError, match=r"another patient's(.|\n)*module 0\b"):
        require_sound(early, patients, loss, CHOICE)


def test_the_innermost_module_is_named() -> None:
    model = exact(lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), Mixing("mean"))))
    with pytest.raises(ModelError, match=r"module 0\.1\b"):
        require_sound(model, patients_of(4, count=5), loss, CHOICE)


def test_a_model_that_mixes_in_its_own_forward_is_refused() -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(value) - net.layer(value).mean(dim=0),
            layer=nn.Linear(4, 2),
        )

    with pytest.raises(ModelError, match="the model itself"):
        require_sound(exact(build), patients_of(4, count=5), loss, CHOICE)


class Chance(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return functional.dropout(value, 0.5)


def test_chance_in_a_module_is_refused_by_name() -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(8, 8), Chance(), nn.Linear(8, 2)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with pytest.raises(ModelError, match=r"module 1\b"):
            require_sound(model, patients_of(8, count=5), loss, CHOICE)


def test_a_loss_in_which_patients_meet_is_refused() -> None:
    def contrast(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(outputs - outputs.mean(dim=0), targets)

    model = exact(lambda: nn.Linear(4, 2))
    with pytest.raises(ModelError, match="this patient alone"):
        require_sound(model, patients_of(4, count=5), contrast, CHOICE)


def test_attention_over_the_batch_is_refused() -> None:
    """Without ``batch_first`` the first dimension is the steps, and patients attend to another."""

    def build() -> nn.Module:
        return Net(
            lambda net, value: net.attention(value, value, value)[0],
            attention=nn.MultiheadAttention(4, 2),
        )

    with pytest.raises(ModelError):
        require_sound(exact(build), patients_of(3, 4, count=5), loss, CHOICE)


def test_what_is_refused_leaves_the_model_as_it_was() -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(4, 4), Mixing("mean")))
    patients = patients_of(4, count=5)
    with pytest.raises(ModelError):
        require_sound(model, patients, loss, CHOICE)
    assert [layer.name for layer in layers_of(model, patients)] == ["0"]
    assert "forward" not in vars(next(model.children()))


class TimeFirst(nn.Module):
    """An LSTM whose output has time along the first dimension, and a layer on top of that."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(3, 4), nn.Linear(4, 2)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.lstm(value.transpose(0, 1))[0])
        return found.mean(dim=0)


class Turned(nn.Module):
    """A layer whose input has features along the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.inner(value).transpose(0, 1))
        return found.mean(dim=0)


class Twins(nn.Module):
    """Two views of each patient, one batch after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        flat = value.flatten(1)[:, :3]
        one, other = self.inner(torch.cat([flat, flat.flip(1)])).tanh().chunk(2)
        found: torch.Tensor = self.last(torch.cat([one, other], dim=1))
        return found


class Positions(nn.Module):
    """An embedding of positions, which belong to no patient."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.at, self.last, self.steps = nn.Embedding(steps, 3), nn.Linear(3, 2), steps

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(value + self.at(torch.arange(self.steps)))
        return found.mean(dim=1)


@pytest.mark.parametrize("steps", [4, 5, 10])
@pytest.mark.parametrize("build", [TimeFirst, Turned, Twins, Positions])
def test_a_model_that_moves_the_batch_from_the_first_dimension_is_refused(
    build: type[nn.Module], steps: int
) -> None:
    """Else one patient's gradient would count as another's, and none would be clipped."""
    model = exact(lambda: Positions(steps) if build is Positions else build())
    with pytest.raises(ModelError, match=r"first\s+dimension|another patient's output"):
        require_sound(model, patients_of(steps, 3), loss, CHOICE)


def test_chance_is_refused_as_such() -> None:
    class Chance(nn.Linear):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return functional.dropout(super().forward(value), 0.5)

    with pytest.raises(ModelError, match="random numbers"):
        require_sound(exact(lambda: Chance(4, 2)), patients_of(4), loss, CHOICE)


@pytest.mark.parametrize("kernels", [{"0": "nonsense"}, {"elsewhere": "ghost"}])
def test_a_recorded_kernel_that_there_is_not_is_refused(kernels: dict[str, str]) -> None:
    choice = EngineChoice(kernels=kernels)
    with pytest.raises(ModelError, match="recorded kernel"):
        require_sound(exact(network), patients_of(1, 5, 5), loss, choice)


def test_a_layer_whose_weight_is_fixed_and_whose_bias_is_trained_is_refused() -> None:
    model = exact(network)
    next(model.parameters()).requires_grad_(False)
    with pytest.raises(ModelError, match="but for weight"):
        require_sound(model, patients_of(1, 5, 5), loss, CHOICE)


def test_a_dense_layer_at_many_positions_may_be_followed_by_work_in_place() -> None:
    model = exact(
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(20, 2)
        )
    )
    require_sound(model, patients_of(5, 3), loss, CHOICE)
