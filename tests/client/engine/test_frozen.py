"""Frozen parts of a model: computed as ever, trained not at all, in no norm and in no sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from client.engine.alone import is_alone
from client.engine.choice import example_of
from client.engine.clipped import ClippedSum, Patients, clipped_sum, outputs
from client.engine.probe import require_sound
from client.training.footprint import room_of
from client.training.gradients import summed_loss
from common.errors import ModelError
from common.models.networks import build_model, seeded_model, sketch
from common.models.parts import trained_parameters
from common.numerics import EngineChoice
from common.study.study_file import Study
from tests.common.studies import small_study

PARTS: dict[str, dict[str, Any]] = {
    "head": {"trainable": ["head"]},
    "norms": {"trainable": ["norms"]},
    "first and head": {"trainable": ["0", "head"]},
    "adapters": {"trainable": ["head"], "adapters": 2},
    "adapters of resnet18": {
        "name": "resnet18",
        "widths": None,
        "hidden": None,
        "norm": None,
        "trainable": ["head", "norms"],
        "adapters": 1,
    },
}
CHOICE = EngineChoice(tile=4)


def study(name: str) -> Study:
    model = {"widths": [4, 6], "hidden": 5, "norm": "group"} | PARTS[name]
    return small_study(data={"image_size": (16, 16)}, model=model)


def patients_of(one: Study, model: nn.Module, count: int = 3, items: int = 2) -> Patients:
    found = example_of(tuple(one.shape), count, items, model)
    return Patients(found.inputs, torch.arange(count) % 2)


def own_gradients(one: Study, model: nn.Module, patients: Patients) -> torch.Tensor:
    """Each patient's mean gradient by autograd alone, (patients, trained), float64."""
    exact = model.double()
    rows = []
    for place in range(len(patients)):
        images = patients.inputs[place].double()
        losses = [one.task.loss(output, patients.targets[place]) for output in exact(images)]
        found = torch.autograd.grad(torch.stack(losses).mean(), trained_parameters(exact))
        rows.append(torch.cat([each.flatten() for each in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", PARTS)
def test_the_clipped_sum_is_of_what_is_trained_and_of_nothing_else(name: str) -> None:
    one = study(name)
    model = seeded_model(one, 1)
    with torch.no_grad():  # an adapter that adds nothing would have no gradient before its end
        for each in trained_parameters(model):
            each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(2)))
    before = [each.detach().clone() for each in model.parameters()]
    patients = patients_of(one, model)
    rows = own_gradients(one, seeded_like(one, model), patients)
    clip = float(rows.norm(dim=1).median())
    wanted = (rows * (clip / rows.norm(dim=1).clamp(min=clip))[:, None]).sum(dim=0)
    exact = Patients(patients.inputs.double(), patients.targets)
    found = clipped_sum(model.double(), exact, summed_loss(one.task), clip, CHOICE)
    assert found.shape == (sum(each.numel() for each in trained_parameters(model)),)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9 * clip)
    assert all(
        torch.equal(first.double(), now)
        for first, now in zip(before, model.parameters(), strict=True)
    )


def seeded_like(one: Study, model: nn.Module) -> nn.Module:
    other = build_model(one)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("name", PARTS)
def test_a_patient_s_bits_and_gradients_pass_the_probe(name: str) -> None:
    one = study(name)
    model = seeded_model(one, 1)
    patients, loss = patients_of(one, model), summed_loss(one.task)
    require_sound(model, patients, loss, CHOICE)
    assert is_alone(model, patients, loss, CHOICE)


def test_what_comes_before_the_first_trained_layer_keeps_nothing_for_the_way_back() -> None:
    """The memory of a step with a trained head is far below that with everything trained."""
    one, whole = study("head"), small_study(data={"image_size": (16, 16)})
    whole = one.model_copy(update={"model": one.model.model_copy(update={"trainable": ()})})
    rooms = [
        room_of(sketch(each), tuple(each.shape), each.task, patients=16, items=1).bytes
        for each in (one, whole)
    ]
    assert 2 * rooms[0] < rooms[1]


def test_frozen_layers_enter_no_book() -> None:
    one = study("head")
    seen: list[str] = []

    def enter(layer: Any, records: Any, count: int) -> Any:  # noqa: ANN401 - an engine's own types
        seen.append(layer.name)
        return layer.rule.book(layer, records, count, layer.rule.modelled(layer, records, count))

    model = seeded_model(one, 1)
    summed = ClippedSum(model, summed_loss(one.task), 1.0, CHOICE, enter=enter)
    summed.add(patients_of(one, model))
    assert len(seen) == 1


def test_an_evaluation_gives_what_the_model_itself_gives() -> None:
    one = study("adapters")
    model = seeded_model(one, 1)
    images = patients_of(one, model).inputs.flatten(0, 1)
    with torch.no_grad():
        assert torch.allclose(outputs(model, images), model(images), atol=1e-6)


class Scaled(nn.Module):
    """A module that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * self.scale + self.shift


def unknown() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), Scaled(), nn.Linear(3, 2))


def sum_of_squares(given: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return given.square().sum()


def test_a_module_that_no_rule_knows_may_be_frozen() -> None:
    model = unknown()
    for each in model[1].parameters():
        each.requires_grad_(False)
    patients = Patients(torch.randn(3, 1, 4), torch.zeros(3))
    require_sound(model, patients, sum_of_squares, CHOICE)
    found = clipped_sum(model, patients, sum_of_squares, 1e9, CHOICE)
    assert found.shape == (4 * 3 + 3 + 3 * 2 + 2,)


def test_a_layer_of_which_a_part_is_trained_is_refused_by_name() -> None:
    model = unknown()
    model[1].shift.requires_grad_(False)
    with pytest.raises(ModelError, match="trained but for shift") as caught:
        clipped_sum(
            model, Patients(torch.randn(3, 1, 4), torch.zeros(3)), sum_of_squares, 1.0, CHOICE
        )
    assert caught.value.details["where"] == "module 1"
