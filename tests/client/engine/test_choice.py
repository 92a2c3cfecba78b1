"""The choice of kernels: measured within bounds, the same bits where it is recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.engine.choice import example_of, measured
from client.engine.clipped import Patients, clipped_sum, place
from common.numerics import EngineChoice
from tests.client.engine.loop import LAYOUTS, exact, gradients_of, layers_of, loss, patients_of

MANY = 2**40


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


def single() -> tuple[nn.Module, Patients]:
    """A float32 model and its patients."""
    drawn = patients_of(1, 8, 8, items=2, count=9)
    return exact(network).float(), Patients(drawn.inputs.float(), drawn.targets)


def test_what_is_measured_names_known_layers_and_kernels_and_keeps_the_tile() -> None:
    model, patients = single()
    given = EngineChoice(tile=7)
    found = measured(model, patients, loss, given, seconds=60)
    known = {layer.name: layer.rule.kernels for layer in layers_of(model, patients)}
    assert found.kernels.keys() <= known.keys()
    assert all(kernel in known[name] for name, kernel in found.kernels.items())
    assert {"0", "4"} <= found.kernels.keys()
    assert "1" not in found.kernels, "a layer with one kernel needs no choice"
    assert found.memory_format in LAYOUTS
    assert found.tile == 7


def test_without_time_nothing_is_measured() -> None:
    model, patients = single()
    given = EngineChoice(tile=7)
    assert measured(model, patients, loss, given, seconds=0).kernels == {}


def test_measuring_changes_no_weight() -> None:
    model, patients = single()
    before = [parameter.clone() for parameter in model.parameters()]
    measured(model, patients, loss, EngineChoice(), seconds=60)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(parameter.grad is None for parameter in model.parameters())


def every_choice() -> list[EngineChoice]:
    return [
        EngineChoice(
            kernels={"0": kernel, "4": kernel, "7": dense},
            memory_format=layout,
            tile=tile,
        )
        for kernel, dense in (
            ("ghost", "ghost"),
            ("patches", "materialised"),
            ("looped", "materialised"),
        )
        for layout in LAYOUTS
        for tile in (3, 16)
    ]


def test_a_recorded_choice_gives_the_same_bits_twice() -> None:
    model, patients = single()
    for choice in every_choice():
        again = EngineChoice.model_validate_json(choice.model_dump_json())
        sums = []
        for each in (choice, again):
            place(model, each)
            sums.append(clipped_sum(model, patients, loss, 0.1, each))
        assert torch.equal(*sums)


def test_what_is_measured_gives_the_bits_that_its_record_gives() -> None:
    model, patients = single()
    found = measured(model, patients, loss, EngineChoice(tile=8), seconds=60)
    first = clipped_sum(place(model, found), patients, loss, 0.1, found)
    recorded = EngineChoice.model_validate_json(found.model_dump_json())
    later = exact(network).float()
    assert torch.equal(first, clipped_sum(place(later, recorded), patients, loss, 0.1, recorded))


def test_every_choice_gives_the_same_sum_but_for_rounding() -> None:
    model, patients = single()
    clip_norm = float(gradients_of(model, patients).norm(dim=1).median())
    wanted = clipped_sum(model, patients, loss, clip_norm, EngineChoice())
    for choice in every_choice():
        found = clipped_sum(place(model, choice), patients, loss, clip_norm, choice)
        assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_example_is_of_the_models_type_and_the_same_each_time(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2).to(dtype)
    one, other = (example_of((3, 4, 4), 5, 2, model) for _ in range(2))
    assert one.inputs.shape == (5, 2, 3, 4, 4)
    assert one.inputs.dtype == dtype
    assert one.targets.tolist() == [0] * 5
    assert torch.equal(one.inputs, other.inputs)
