"""Activations in bfloat16: weight gradients, norms and sums have no fewer bits than float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from client.engine import rows
from client.engine.clipped import Patients, backward, by_choice, clipped_sum, outputs, place
from client.engine.convolution import ConvolutionRule
from client.engine.probe import require_sound
from common.numerics import EngineChoice
from common.privacy.mechanisms import GAMMA
from tests.client.engine.loop import (
    LAYOUTS,
    Layout,
    Net,
    exact,
    gradients_of,
    layers_of,
    loss,
    patients_of,
)
from tests.client.engine.test_device import network
from tests.client.engine.test_vmapped import Raw

SHORT = EngineChoice(precision="bfloat16", tile=8)
KERNELS = (*ConvolutionRule.kernels, "")
NEAR = 0.1
"""Relative distance of what has 8 bits from what has 24, some layers deep."""


def single(build: Callable[[], nn.Module] = network) -> tuple[nn.Module, Patients]:
    drawn = patients_of(2, 8, 8, items=2, count=5)
    return exact(build).float(), Patients(drawn.inputs.float(), drawn.targets)


def choice_of(kernel: str, layout: Layout, model: nn.Module, patients: Patients) -> EngineChoice:
    kernels = {layer.name: kernel for layer in layers_of(model, patients)}
    return SHORT.model_copy(update={"kernels": kernels, "memory_format": layout})


def autocast(model: nn.Module, patients: Patients, at: int) -> torch.Tensor:
    """A patient's gradient as torch's own autocast forms it, in bfloat16 on the processor."""
    inputs, target = patients.inputs[at], patients.targets[at]
    with torch.autocast("cpu", torch.bfloat16):
        found = model(inputs)
    total = loss(found.float(), target.expand(len(inputs))) / len(inputs)
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return torch.cat([each.reshape(-1) for each in gradients])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_patients_gradient_is_as_near_as_autocasts(kernel: str, layout: Layout) -> None:
    model, patients = single()
    choice = choice_of(kernel, layout, model, patients)
    double = Patients(patients.inputs.double(), patients.targets)
    wanted = gradients_of(exact(network), double)
    theirs = [autocast(model, patients, at) for at in range(len(patients))]
    place(model, choice)
    for at in range(len(patients)):
        found = clipped_sum(model, patients[slice(at, at + 1)], loss, math.inf, choice)
        ours, peers = ((each - wanted[at]).norm() for each in (found, theirs[at]))
        assert 0 < float(ours) <= max(2 * float(peers), 1e-3 * float(wanted[at].norm()))


OTHERS: dict[str, tuple[Callable[[], nn.Module], Patients]] = {
    "words": (
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)),
        patients_of(4, words=5, count=5, items=2),
    ),
    "recurrent": (
        lambda: Net(
            lambda net, value: net.head(net.steps(value)[0][:, -1]),
            steps=nn.GRU(3, 4, batch_first=True),
            head=nn.Linear(4, 2),
        ),
        patients_of(3, 3, count=5),
    ),
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 3), nn.SiLU(), nn.ConvTranspose3d(2, 2, 2), nn.Flatten(),
            nn.Linear(2 * 27, 2),
        ),
        patients_of(1, 4, 4, 4, count=5),
    ),
    "a module that no rule knows": (
        lambda: nn.Sequential(nn.Linear(4, 4), Raw()),
        patients_of(4, count=5, items=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_rule_computes_with_short_activations(name: str) -> None:
    build, drawn = OTHERS[name]
    words = not drawn.inputs.is_floating_point()
    patients = Patients(drawn.inputs if words else drawn.inputs.float(), drawn.targets)
    model = exact(build).float()
    wanted = clipped_sum(model, patients, loss, 1.0, EngineChoice(tile=8))
    found = clipped_sum(model, patients, loss, 1.0, SHORT)
    assert 0 < float((found - wanted).norm()) <= NEAR * float(wanted.norm())


def test_what_gradients_are_made_of_has_no_fewer_bits_than_float32() -> None:
    """Of scales and shifts too, which are summed over many pixels."""
    model, patients = single()
    books = backward(model, patients, loss, by_choice(SHORT), SHORT)
    held = [each for book in books.values() for each in book.held.values()]
    assert {each.dtype for each in held} == {torch.float32}
    assert all((each.bfloat16().float() != each).any() for each in held if each[0].numel() > 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_rounded_to_bfloat16_after_the_clip_factor(kernel: str) -> None:
    """Else the sum of all were not the sum of each: 8 bits would show it, 53 do not."""
    model, patients = single()
    choice = choice_of(kernel, "contiguous", model, patients)
    each = [
        clipped_sum(model, patients[slice(at, at + 1)], loss, 0.5, choice)
        for at in range(len(patients))
    ]
    whole = clipped_sum(model, patients, loss, 0.5, choice)
    assert whole.dtype == torch.float64
    assert float((whole - torch.stack(each).sum(dim=0)).norm()) <= 1e-12 * float(whole.norm())
    for one in each:
        assert float(one.norm()) <= 0.5 * (1 + 2.0**-40) < 0.5 * (1 + GAMMA)


def truncated(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Towards zero, to so many bits, as an accumulator that is not rounded leaves it."""
    mask = -(1 << (24 - bits))
    return (values.view(torch.int32) & mask).view(torch.float32)


@pytest.mark.parametrize("bits", [8, 13, 22])
@pytest.mark.parametrize("kernel", ["patches", "materialised"])
def test_products_that_truncate_lengthen_no_patient(
    monkeypatch: pytest.MonkeyPatch, kernel: str, bits: int
) -> None:
    """The norm is taken of the very bits that a product left, however they came about."""
    model, patients = single()
    honest = rows.gradients_of

    def short(both: rows.Rows) -> torch.Tensor:
        return truncated(honest(both), bits)

    monkeypatch.setattr("client.engine.rows.gradients_of", short)
    choice = choice_of(kernel, "contiguous", model, patients)
    free = clipped_sum(model, patients[slice(0, 1)], loss, math.inf, choice)
    monkeypatch.undo()
    assert not torch.equal(free, clipped_sum(model, patients[slice(0, 1)], loss, math.inf, choice))
    monkeypatch.setattr("client.engine.rows.gradients_of", short)
    for clip_norm in (0.999 * float(free.norm()), 0.1 * float(free.norm())):
        found = clipped_sum(model, patients[slice(0, 1)], loss, clip_norm, choice)
        assert float(found.norm()) <= clip_norm * (1 + 2.0**-40)
        assert torch.allclose(found / found.norm(), free / free.norm(), rtol=1e-9, atol=1e-12)


def test_outputs_of_an_evaluation_are_short_inside_and_float32_outside() -> None:
    model, patients = single()
    images = patients.inputs.flatten(0, 1)
    whole, short = outputs(model, images), outputs(model, images, "bfloat16")
    assert short.dtype == torch.float32
    assert 0 < float((short - whole).norm()) <= NEAR * float(whole.norm())


def test_the_probe_tries_it_as_training_has_it() -> None:
    model, patients = single()
    require_sound(model, patients, loss, SHORT)
