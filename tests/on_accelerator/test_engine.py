"""On an accelerator the engine's sums are the processor's, and what differs there is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from client.engine.alone import require_alone, settled
from client.engine.choice import measured
from client.engine.clipped import Patients, clipped_sum, outputs, place
from client.engine.convolution import ConvolutionRule
from client.engine.probe import require_sound, require_sums
from common.errors import ModelError
from common.numerics import EngineChoice
from tests.client.engine.loop import (
    LAYOUTS,
    Layout,
    Net,
    biting,
    clipped_by_hand,
    exact,
    gradients_of,
    layers_of,
    loss,
    patients_of,
)
from tests.client.engine.test_device import network
from tests.client.engine.test_vmapped import Raw
from tests.on_accelerator.accelerator import FAULTS, HERE, Accelerator, MixedDevicesError, Resident

aten = torch.ops.aten
CUDA = EngineChoice(device="cuda", tile=4)
BITE = 2.0**-20
"""A few last digits of float32."""


def moved(accelerator: Accelerator, patients: Patients, dtype: torch.dtype) -> Patients:
    inputs = patients.inputs
    return Patients(
        accelerator.move(inputs.to(dtype) if inputs.is_floating_point() else inputs),
        accelerator.move(patients.targets),
    )


def test_the_accelerator_meets_no_tensor_of_the_processor(accelerator: Accelerator) -> None:
    here, there = torch.ones(2, 3), accelerator.move(torch.ones(2, 3))
    assert isinstance(there, Resident)
    assert there.device == HERE
    cases: tuple[Callable[[], object], ...] = (
        lambda: there + here,
        lambda: here @ there.mT,
        lambda: there[torch.tensor([0])],
        lambda: torch.where(here > 0, there, there),
        lambda: torch.stack([here, there]),
    )
    for mixed in cases:
        with pytest.raises((MixedDevicesError, RuntimeError), match=r"processor|device"):
            mixed()
    assert torch.equal((2 * there).cpu(), 2 * here)
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


@pytest.mark.parametrize("kernel", (*ConvolutionRule.kernels, ""))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)
def test_every_kernels_sum_is_the_processors_in_float64(
    accelerator: Accelerator, kernel: str, layout: Layout, dtype: torch.dtype, within: float
) -> None:
    model, patients = exact(network), patients_of(2, 8, 8, items=2, count=6)
    kernels = {layer.name: kernel for layer in layers_of(model, patients)}
    choice = CUDA.model_copy(update={"kernels": kernels, "memory_format": layout})
    gradients = gradients_of(model, patients)
    clip_norm = biting(gradients)
    wanted = clipped_by_hand(gradients, clip_norm)
    there = place(model.to(dtype), choice)
    found = clipped_sum(there, moved(accelerator, patients, dtype), loss, clip_norm, choice)
    assert (found.device, found.dtype) == (HERE, torch.float64)
    assert float((found.cpu() - wanted).norm()) <= within * float(wanted.norm())


def test_what_is_computed_again_on_the_way_back_has_the_same_bits(
    accelerator: Accelerator,
) -> None:
    def deep() -> nn.Module:
        rows = [nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1)) for _ in range(2)]
        return nn.Sequential(*rows, nn.Flatten(), nn.Linear(32, 2))

    patients = moved(accelerator, patients_of(2, 8, 8, items=2, count=6), torch.float32)
    there = place(exact(deep).float(), CUDA)
    again = CUDA.model_copy(update={"checkpointing": True})
    found = [clipped_sum(there, patients, loss, 1.0, choice) for choice in (CUDA, again)]
    assert float(found[0].cpu().norm()) > 0
    assert torch.equal(found[0].cpu(), found[1].cpu())


def recurrent(kind: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Net(
        lambda net, value: net.head(net.steps(value)[0][:, -1]),
        steps=kind(3, 4, batch_first=True, bidirectional=True),
        head=nn.Linear(8, 2),
    )


OTHERS: dict[str, tuple[Callable[[], nn.Module], Patients]] = {
    "words": (
        lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)),
        patients_of(4, words=5, count=5, items=2),
    ),
    "LSTM": (recurrent(nn.LSTM), patients_of(3, 3, count=5)),
    "GRU": (recurrent(nn.GRU), patients_of(3, 3, count=5)),
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 3), nn.SiLU(), nn.ConvTranspose3d(2, 2, 2), nn.Flatten(),
            nn.Linear(2 * 27, 2),
        ),
        patients_of(1, 4, 4, 4, count=5),
    ),
    "signals": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, groups=2), nn.InstanceNorm1d(4, affine=True), nn.ELU(),
            nn.Flatten(), nn.Linear(24, 2),
        ),
        patients_of(2, 8, count=5),
    ),
    "a module that no rule knows": (Raw, patients_of(4, count=5, items=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_rules_sum_is_the_processors_in_float64(accelerator: Accelerator, name: str) -> None:
    build, patients = OTHERS[name]
    model = exact(build)
    gradients = gradients_of(model, patients)
    clip_norm = biting(gradients)
    wanted = clipped_by_hand(gradients, clip_norm)
    there = place(model, CUDA)
    found = clipped_sum(there, moved(accelerator, patients, torch.float64), loss, clip_norm, CUDA)
    assert float((found.cpu() - wanted).norm()) <= 1e-10 * float(wanted.norm())


def test_in_an_evaluation_outputs_are_the_processors(accelerator: Accelerator) -> None:
    model, patients = exact(network), patients_of(2, 8, 8, count=4)
    wanted = outputs(model, patients.inputs.flatten(0, 1))
    there = moved(accelerator, patients, torch.float64).inputs.flatten(0, 1)
    assert torch.allclose(outputs(place(model, CUDA), there).cpu(), wanted, rtol=1e-12)


def single(accelerator: Accelerator) -> tuple[nn.Module, Patients]:
    drawn = patients_of(2, 8, 8, items=2, count=3)
    return exact(network).float(), moved(accelerator, drawn, torch.float32)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_the_probe_lets_a_sound_model_through(accelerator: Accelerator, precision: str) -> None:
    model, patients = single(accelerator)
    choice = CUDA.model_copy(update={"precision": precision})
    require_sound(model, patients, loss, choice)
    assert accelerator.done["place"]


def test_layouts_and_kernels_are_timed_there(accelerator: Accelerator) -> None:
    model, patients = single(accelerator)
    found = measured(model, patients, loss, CUDA, seconds=20.0)
    assert (found.device, found.tile) == ("cuda", 4)
    assert set(found.kernels) <= {layer.name for layer in layers_of(model, patients)}
    assert accelerator.done["finish"]


def in_float32(operation: Any) -> Callable[..., torch.Tensor]:
    """An operation that computes float64 numbers in float32."""

    def shorter(array: torch.Tensor, *more: Any, **named: Any) -> Any:
        if array.dtype != torch.float64:
            return operation(array, *more, **named)
        return operation(array.float(), *more, **named).double()

    return shorter


def test_norms_that_are_less_exact_than_float64_are_refused_by_the_cards_name(
    accelerator: Accelerator,
) -> None:
    model, patients = single(accelerator)
    there = place(model, CUDA)
    require_sums(there, patients, loss, CUDA)
    FAULTS[aten.sum.dim_IntList] = in_float32(aten.sum.dim_IntList)
    with pytest.raises(ModelError, match=r"squared norm(.|\n)*Test Card"):
        require_sums(there, patients, loss, CUDA)


def test_sums_that_are_less_exact_than_float64_are_refused_by_the_cards_name(
    accelerator: Accelerator,
) -> None:
    model, patients = single(accelerator)
    there = place(model, CUDA)

    def add(total: torch.Tensor, *arrays: torch.Tensor, **named: Any) -> torch.Tensor:
        return total.copy_(aten.addmv.default(total.float(), *(a.float() for a in arrays), **named))

    FAULTS[aten.addmv_.default] = add
    with pytest.raises(ModelError, match=r"clipped sum(.|\n)*Test Card"):
        require_sums(there, patients, loss, CUDA)


def test_sums_are_tried_at_the_size_of_a_tile(accelerator: Accelerator) -> None:
    """A library takes another kernel for eight patients than for the three that are tried."""
    model, patients = single(accelerator)
    choice = CUDA.model_copy(update={"tile": 8})
    there = place(model, choice)

    def add(total: torch.Tensor, *arrays: torch.Tensor, **named: Any) -> Any:
        if len(arrays[-1]) != choice.tile:
            return aten.addmv_.default(total, *arrays, **named)
        return total.copy_(aten.addmv.default(total.float(), *(a.float() for a in arrays), **named))

    FAULTS[aten.addmv_.default] = add
    require_sums(there, patients, loss, CUDA)
    with pytest.raises(ModelError, match=r"clipped sum(.|\n)*Test Card"):
        require_sums(there, patients, loss, choice)


def by_place(operation: Any, which: int | None = None) -> Callable[..., Any]:
    """An operation whose last digits depend on the address, or in float32 on the place."""

    def changed(*places: Any, **named: Any) -> Any:
        found = operation(*places, **named)
        if which is None:
            if found.dtype == torch.float64:
                return found
            rows = torch.arange(len(found)).view(-1, *[1] * (found.dim() - 1))
            return (found * (1 + BITE * rows)).to(found)
        if found[which] is None:
            return found
        some = found[which] * (1 + BITE * (places[1].data_ptr() // 64 % 7))
        return (*found[:which], some, *found[which + 1 :])

    return changed


@pytest.mark.long
def test_a_kernel_that_rounds_by_address_is_replaced_by_one_that_does_not(
    accelerator: Accelerator,
) -> None:
    model, patients = single(accelerator)
    there = place(model, CUDA)
    names = [layer.name for layer in layers_of(there, patients) if "looped" in layer.rule.kernels]
    choice = CUDA.model_copy(update={"kernels": dict.fromkeys(names, "looped")})
    assert settled(there, patients, loss, choice) == choice
    backward = aten.convolution_backward.default
    FAULTS[backward] = by_place(backward, which=1)  # the weight's gradient
    with pytest.raises(ModelError, match="changes with the other patients"):
        require_alone(there, patients, loss, choice)
    found = settled(there, patients, loss, choice)
    assert found is not None
    assert set(found.kernels) == set(names)
    assert "looped" not in found.kernels.values()
    require_alone(there, patients, loss, found)


def test_where_no_kernel_passes_the_study_is_refused_on_that_card_by_name(
    accelerator: Accelerator,
) -> None:
    model, patients = single(accelerator)
    there = place(model, CUDA)
    FAULTS[aten.convolution.default] = by_place(aten.convolution.default)
    assert settled(there, patients, loss, CUDA) is None
    with pytest.raises(ModelError, match=r"changes with the other patients(.|\n)*Test Card"):
        require_sound(model, patients, loss, CUDA)
