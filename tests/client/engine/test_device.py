"""On a graphics card the engine's sums are the processor's, and the probe lets them through."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from client.engine.alone import require_alone, settled
from client.engine.choice import measured
from client.engine.clipped import Patients, clipped_sum, outputs, place
from client.engine.convolution import ConvolutionRule
from client.engine.probe import require_sound, require_sums
from common.devices.device import Precision
from common.devices.devices import DEVICES
from common.numerics import EngineChoice
from common.privacy.mechanisms import GAMMA
from tests.client.engine.loop import (
    LAYOUTS,
    Layout,
    Net,
    biting,
    exact,
    gradients_of,
    layers_of,
    loss,
    patients_of,
)

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card is at hand")
pytestmark = [pytest.mark.cuda, on_a_card]
CUDA = DEVICES["cuda"]
KERNELS = (*ConvolutionRule.kernels, "")
CASES = [
    (torch.float64, "float32", 1e-10),
    (torch.float32, "float32", 1e-4),
    (torch.float32, "bfloat16", 0.1),
]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.Tanh(),
        Net(lambda net, value: net.each(value.flatten(2).mT), each=nn.Linear(8, 4)),
        nn.LayerNorm(4),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )


@pytest.fixture(autouse=True)
def _repeats() -> None:
    CUDA.repeat(1)


def moved(patients: Patients, dtype: torch.dtype) -> Patients:
    return Patients(CUDA.move(patients.inputs.to(dtype)), CUDA.move(patients.targets))


def choice_of(
    kernel: str, layout: Layout, model: nn.Module, patients: Patients, precision: Precision
) -> EngineChoice:
    kernels = {layer.name: kernel for layer in layers_of(model, patients)}
    return EngineChoice(device="cuda", kernels=kernels, memory_format=layout, precision=precision)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "precision", "within"), CASES, ids=str)
def test_the_sum_is_the_processors(
    kernel: str, layout: Layout, dtype: torch.dtype, precision: Precision, within: float
) -> None:
    model, patients = exact(network), patients_of(2, 8, 8, items=2, count=6)
    choice = choice_of(kernel, layout, model, patients, precision)
    clip_norm = biting(gradients_of(model, patients))
    wanted = clipped_sum(model, patients, loss, clip_norm, EngineChoice())
    there = place(copy.deepcopy(model).to(dtype), choice)
    found = clipped_sum(there, moved(patients, dtype), loss, clip_norm, choice)
    assert found.is_cuda
    assert found.dtype == torch.float64
    assert float((found.cpu() - wanted).norm()) <= within * float(wanted.norm())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_patient_exceeds_the_clip_norm(kernel: str, precision: Precision) -> None:
    model, patients = exact(network), patients_of(2, 8, 8, items=2, count=6)
    choice = choice_of(kernel, "contiguous", model, patients, precision)
    there, given = place(model.float(), choice), moved(patients, torch.float32)
    for at in range(len(patients)):
        patient = given[slice(at, at + 1)]
        free = float(clipped_sum(there, patient, loss, float("inf"), choice).norm())
        for clip_norm in (0.999 * free, 0.1 * free):
            found = clipped_sum(there, patient, loss, clip_norm, choice)
            assert float(found.norm()) <= clip_norm * (1 + GAMMA)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tile", [1, 8, 32])
def test_the_probe_lets_a_sound_model_through_with_kernels_that_pass(
    tile: int, precision: Precision
) -> None:
    drawn = patients_of(2, 8, 8, items=2, count=3)
    model, patients = exact(network).float(), moved(drawn, torch.float32)
    blank = EngineChoice(device="cuda", tile=tile, precision=precision)
    there = place(copy.deepcopy(model), blank)
    found = settled(there, patients, loss, blank)
    assert found is not None
    require_alone(there, patients, loss, found)
    require_sums(there, patients, loss, found)
    require_sound(model, patients, loss, found)


def test_kernels_are_timed_there() -> None:
    drawn = patients_of(2, 8, 8, items=2, count=4)
    choice = EngineChoice(device="cuda", tile=4)
    found = measured(
        exact(network).float(), moved(drawn, torch.float32), loss, choice, seconds=30.0
    )
    assert (found.device, found.tile) == ("cuda", 4)


def test_in_an_evaluation_outputs_are_the_processors() -> None:
    model, patients = exact(network), patients_of(2, 8, 8, count=4)
    wanted = outputs(model, patients.inputs.flatten(0, 1))
    there = place(model, EngineChoice(device="cuda"))
    found = outputs(there, moved(patients, torch.float64).inputs.flatten(0, 1))
    assert torch.allclose(found.cpu(), wanted, rtol=1e-10)
