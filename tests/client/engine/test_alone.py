"""What a machine computes otherwise in another place, beside others or elsewhere is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from client.engine.alone import MOST_LOOKS, is_alone, require_alone, settled
from client.engine.clipped import Patients, place
from client.engine.convolution import ConvolutionRule
from client.engine.probe import require_sound
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import LAYOUTS, Layout, Net, exact, forced, loss, patients_of

LITTLE = 2.0**-20
"""A few last digits of float32, which no tolerance would see."""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.LayerNorm(16),
        nn.Linear(16, 2),
    )


def single(items: int = 1) -> tuple[nn.Module, Patients]:
    """A float32 model and three of its patients."""
    drawn = patients_of(1, 10, 10, items=items, count=3)
    return exact(network).float(), Patients(drawn.inputs.float(), drawn.targets)


@pytest.mark.matrix
@pytest.mark.parametrize("tile", [1, 8, 16, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", ConvolutionRule.kernels)
def test_every_kernel_computes_a_patient_alone_in_tiles_of_a_power_of_two(
    kernel: str, layout: Layout, tile: int
) -> None:
    model, patients = single(items=2)
    choice = forced(model, patients, kernel, memory_format=layout, tile=tile)
    require_alone(place(model, choice), patients, loss, choice)


Change = Callable[[torch.Tensor], torch.Tensor]


class Placed(torch.autograd.Function):
    """Forward and backward that may be told to see more than the patient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, ahead: Change, back: Change) -> torch.Tensor:  # noqa: ANN401 - torch's context is untyped
        ctx.back = back
        return ahead(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401 - as above
        return ctx.back(gradient), None, None


def changed(value: torch.Tensor, ahead: Change, back: Change) -> torch.Tensor:
    found: torch.Tensor = Placed.apply(value, ahead, back)  # type: ignore[no-untyped-call] # torch's is untyped
    return found


def by_place(value: torch.Tensor) -> torch.Tensor:
    return value * (1 + LITTLE * torch.arange(len(value)).view(-1, *[1] * (value.dim() - 1)))


def by_company(value: torch.Tensor) -> torch.Tensor:
    return value * (1 + LITTLE * float(value[0].sum() > value[-1].sum()))


def by_address(value: torch.Tensor) -> torch.Tensor:
    return value * (1 + LITTLE * (value.data_ptr() // 64 % 7))


def as_it_is(value: torch.Tensor) -> torch.Tensor:
    return value.clone()


@pytest.mark.parametrize("how", [by_place, by_company, by_address])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_last_digits_that_depend_on_more_than_the_patient_are_found(
    how: Change, where: str
) -> None:
    ahead, back = (how, as_it_is) if where == "forward" else (as_it_is, how)
    model = exact(
        lambda: Net(
            lambda net, value: net.last(changed(net.first(value).tanh(), ahead, back)),
            first=nn.Linear(6, 6),
            last=nn.Linear(6, 2),
        )
    ).float()
    drawn = patients_of(6, count=3)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    with pytest.raises(ModelError, match=r"module (first|last), in tiles of 8"):
        require_alone(model, patients, loss, EngineChoice(tile=8))


@pytest.mark.parametrize("outputs", [1, 2])
def test_last_digits_of_an_evaluation_that_depend_on_the_row_are_found(outputs: int) -> None:
    """Where no gradient shows them: a softmax of one number hides whatever it is."""
    model = exact(
        lambda: Net(
            lambda net, value: changed(net.layer(value), by_place, as_it_is),
            layer=nn.Linear(6, outputs),
        )
    ).float()
    drawn = patients_of(6, count=3)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    assert not is_alone(model, patients, lambda found, _: found.sum(), EngineChoice(tile=8))


def test_a_plain_model_of_the_same_shape_is_let_through() -> None:
    model = exact(lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))).float()
    drawn = patients_of(6, count=3)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    assert is_alone(model, patients, loss, EngineChoice(tile=8))


def test_the_probe_before_a_models_first_step_holds_it() -> None:
    """In float32, as training is: in float64 nothing of it shows."""
    model = exact(
        lambda: Net(
            lambda net, value: changed(net.layer(value), _in_float32, as_it_is),
            layer=nn.Linear(6, 2),
        )
    ).float()
    drawn = patients_of(6, count=5)
    patients = Patients(drawn.inputs.float(), drawn.targets)
    with pytest.raises(ModelError, match="changes with the other patients"):
        require_sound(model, patients, loss, EngineChoice(tile=8))


def _in_float32(value: torch.Tensor) -> torch.Tensor:
    return by_place(value) if value.dtype == torch.float32 else value.clone()


def test_kernels_are_looked_for_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a whole trial; a model of 121 layers, all of which differ, would take hours."""
    model = exact(lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(40)))).float()
    patients = Patients(patients_of(6, count=3).inputs.float(), torch.zeros(3).long())
    looks = list[EngineChoice]()

    def differing(
        _model: nn.Module, _patients: Patients, _loss: object, tried: EngineChoice
    ) -> str:
        looks.append(tried)
        return str(len(looks) - 1)

    monkeypatch.setattr("client.engine.alone._differing", differing)
    assert settled(model, patients, loss, EngineChoice(tile=4)) is None
    assert [len(each.kernels) for each in looks] == list(range(MOST_LOOKS))
