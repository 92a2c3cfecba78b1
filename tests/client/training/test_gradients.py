"""A task that fails on one patient's image costs that patient alone."""

from __future__ import annotations

import math
from typing import Any, Literal
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.nn import functional

from client.engine.clipped import Patients, clipped_sum, plain_sum
from client.training import gradients
from client.training.gradients import GradientSum, summed_loss
from client.training.sampling import Batch
from common.numerics import EngineChoice
from common.privacy.accounting import SampledGaussian
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.tasks.classification import Classification
from common.tasks.segmentation import Segmentation
from common.tasks.task import Task


class OfPatients(Classification):
    """Its loss raises for a number that overflowed."""

    kind: Literal["classification"] = "classification"

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy(output.sigmoid()[:1], target[None].float())


class OfPixels(Segmentation):
    """The same for each pixel."""

    kind: Literal["segmentation"] = "segmentation"

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy(output.sigmoid()[0], (target > 0).float())


class Careless(Segmentation):
    """Its loss of some masks is no number of torch's, has no gradient or is not added up."""

    kind: Literal["segmentation"] = "segmentation"

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        each = functional.cross_entropy(output[None], target[None], reduction="none")
        odd: dict[int, Any] = {
            1: 0.0,
            2: torch.zeros(()),
            3: each,
            4: torch.zeros((), dtype=torch.int64),
        }
        found: torch.Tensor = odd.get(int(target.max()) if target.all() else 0, each.mean())
        return found


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def dense() -> nn.Module:
    return nn.Conv2d(1, 2, 3, padding=1)


PRIVATE = PatientMechanism(
    step=SampledGaussian(sampling_rate=1.0, noise_multiplier=1.0, count=1),
    evaluation=None,
    most_sampled=10,
    clip_norm=1.0,
    divisor=3.0,
    cell_noise=0.0,
    epsilon_training=1.0,
    epsilon_evaluation=0.0,
    delta=0.5,
)
CASES = [
    (OfPatients(classes=("no", "yes")), flat, torch.tensor([0, 1, 1])),
    (OfPixels(classes=("lesion",)), dense, torch.ones(3, 1, 8, 8, dtype=torch.int64)),
]


@pytest.mark.parametrize(("task", "model", "targets"), CASES, ids=["mapped", "one by one"])
def test_a_patient_on_whom_the_loss_fails_counts_as_nothing_and_the_others_as_before(
    task: Task, model: type[nn.Module], targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    network, choice = model(), EngineChoice(tile=4)
    everyone = Patients(torch.rand(3, 1, 1, 8, 8), targets)
    everyone.inputs[1] = torch.nan
    others = torch.tensor([0, 2])
    loss = summed_loss(task, total=True)

    together = clipped_sum(network, everyone, loss, 1.0, choice)
    alone = sum(
        clipped_sum(network, everyone[others[n : n + 1]], loss, 1.0, choice) for n in (0, 1)
    )
    assert together.any()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        clipped_sum(network, everyone, summed_loss(task), 1.0, choice)


@pytest.mark.parametrize(("task", "model", "targets"), CASES, ids=["mapped", "one by one"])
def test_where_the_loss_fails_for_all_there_is_no_gradient(
    task: Task, model: type[nn.Module], targets: torch.Tensor
) -> None:
    everyone = Patients(torch.full((3, 1, 1, 8, 8), torch.nan), targets)
    loss = summed_loss(task, total=True)
    assert not clipped_sum(model(), everyone, loss, 1.0, EngineChoice(tile=4)).any()


@pytest.mark.parametrize("private", [True, False], ids=["private", "not private"])
@pytest.mark.parametrize(("task", "model", "targets"), CASES, ids=["mapped", "one by one"])
def test_a_step_of_a_site_ends_in_no_error_for_one_patient(
    task: Task, model: type[nn.Module], targets: torch.Tensor, private: bool
) -> None:
    """An error would become a silence, which tells that this patient was drawn."""
    torch.manual_seed(0)
    mechanism = PRIVATE if private else NoMechanism(sampling_rate=1.0, divisor=3.0)
    pixels = torch.rand(3, 1, 1, 8, 8)
    pixels[1] = torch.nan
    steps = GradientSum(model(), mechanism, task, EngineChoice(tile=4))
    found = steps.over([Batch(pixels, targets)])
    assert found.any()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "how", [{}, {"precision": "bfloat16"}, {"checkpointing": True}], ids=["", "short", "again"]
)
def test_what_is_not_private_is_computed_as_what_is(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a comparison of both would compare bfloat16 with float32, or not fit into memory."""
    task, _, targets = CASES[0]
    torch.manual_seed(0)
    model, loss = flat(), summed_loss(task, total=True)
    pixels = torch.rand(3, 1, 1, 8, 8)
    choice = EngineChoice.model_validate({"tile": 4} | how)
    free = clipped_sum(model, Patients(pixels, targets), loss, math.inf, choice)
    plain = plain_sum(model, Patients(pixels, targets), loss).double()
    by_autograd = Mock(wraps=plain_sum)
    monkeypatch.setattr(gradients, "plain_sum", by_autograd)
    steps = GradientSum(model, NoMechanism(sampling_rate=1.0, divisor=3.0), task, choice)
    found = steps.over([Batch(pixels, targets)])
    assert torch.equal(found, free if how else plain)
    assert by_autograd.called == (not how)
    if "precision" in how:
        assert not torch.equal(found, plain)


@pytest.mark.parametrize("value", [1, 2, 3, 4])
def test_a_patient_whose_loss_is_not_one_number_counts_as_nothing(value: int) -> None:
    torch.manual_seed(0)
    choice = EngineChoice(tile=4)
    targets = torch.zeros(3, 1, 8, 8, dtype=torch.int64)
    targets[1] = value
    everyone = Patients(torch.rand(3, 1, 1, 8, 8), targets)
    network = nn.Conv2d(1, 5, 3, padding=1)
    loss = summed_loss(Careless(classes=("a", "b", "c", "d")), total=True)

    together = clipped_sum(network, everyone, loss, 1.0, choice)
    others = everyone[torch.tensor([0, 2])]
    assert torch.isfinite(together).all()
    assert torch.equal(together, clipped_sum(network, others, loss, 1.0, choice))
    assert not clipped_sum(network, everyone[slice(1, 2)], loss, 1.0, choice).any()
    assert not plain_sum(network, everyone[slice(1, 2)], loss).any()


@pytest.mark.parametrize("value", [1, 3, 4])
def test_of_made_up_patients_such_a_loss_is_an_error(value: int) -> None:
    loss = summed_loss(Careless(classes=("a", "b", "c", "d")))
    targets = torch.full((1, 8, 8), value)
    with pytest.raises(TypeError, match="one floating number"):
        loss(torch.rand(1, 5, 8, 8, requires_grad=True), targets)
