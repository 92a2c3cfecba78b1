"""On a graphics card the sums are the processor's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from client.engine.clipped import Patients, clipped_sum, place
from client.engine.convolution import ConvolutionRule
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

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card is at hand")
KERNELS = (*ConvolutionRule.kernels, "")


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


def moved(patients: Patients, dtype: torch.dtype) -> Patients:
    return Patients(patients.inputs.to("cuda", dtype), patients.targets.to("cuda"))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "within"),
    [(torch.float64, 1e-10), (torch.float32, 2e-3), (torch.bfloat16, 0.1)],
    ids=str,
)
def test_the_sum_is_the_processors(
    kernel: str, layout: Layout, dtype: torch.dtype, within: float
) -> None:
    """Float32 may be multiplied in 10 bits of precision there; bfloat16 has 8 anywhere."""
    model, patients = exact(network), patients_of(2, 8, 8, items=2, count=6)
    kernels = {layer.name: kernel for layer in layers_of(model, patients)}
    choice = EngineChoice(kernels=kernels, memory_format=layout)
    clip_norm = biting(gradients_of(model, patients))
    wanted = clipped_sum(model, patients, loss, clip_norm, EngineChoice())
    there = place(copy.deepcopy(model), choice).to("cuda", dtype)
    found = clipped_sum(there, moved(patients, dtype), loss, clip_norm, choice)
    assert found.is_cuda
    assert found.dtype == torch.float64
    assert float((found.double().cpu() - wanted).norm()) <= within * float(wanted.norm())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_patient_exceeds_the_clip_norm(kernel: str, dtype: torch.dtype) -> None:
    model, patients = exact(network), patients_of(2, 8, 8, items=2, count=6)
    kernels = {layer.name: kernel for layer in layers_of(model, patients)}
    choice = EngineChoice(kernels=kernels)
    there, given = model.to("cuda", dtype), moved(patients, dtype)
    for at in range(len(patients)):
        patient = given[slice(at, at + 1)]
        free = float(clipped_sum(there, patient, loss, float("inf"), choice).double().norm())
        for clip_norm in (0.999 * free, 0.1 * free):
            found = clipped_sum(there, patient, loss, clip_norm, choice).double()
            assert float(found.norm()) <= clip_norm * (1 + GAMMA)
