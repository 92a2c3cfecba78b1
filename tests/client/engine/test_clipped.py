"""The clipped sum over patients: tiles, patients without a gradient, lost digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from client.engine.clipped import KAPPA, Patients, Tile, by_choice, clipped_sum, place, weighing
from client.engine.rule import Book, Factored, Layer
from client.engine.sheet import Sheet
from common.numerics import EngineChoice
from common.privacy.mechanisms import GAMMA
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
    require_same,
)

SHAPE = (2, 6, 6)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.LayerNorm(5),
    )


@pytest.mark.parametrize("tile", [1, 2, 5, 7, 64])
@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_give_the_loops_sum(tile: int, items: int, layout: Layout) -> None:
    choice = EngineChoice(tile=tile, memory_format=layout)
    require_same(exact(network), patients_of(*SHAPE, items=items, count=7), choice)


@pytest.mark.parametrize(("tile", "passes"), [(1, 7), (2, 4), (3, 3), (7, 1), (64, 1)])
def test_every_pass_is_over_as_many_places_however_many_patients_there_are(
    tile: int, passes: int
) -> None:
    seen, choice = list[int](), EngineChoice(tile=tile)

    def enter(layer: Layer, records: list[object], patients: int) -> Book:
        seen.append(patients)
        return by_choice(choice)(layer, records, patients)

    patients = patients_of(*SHAPE, items=2, count=7)
    clipped_sum(exact(network), patients, loss, 1.0, choice, enter=enter)
    assert seen == [tile] * (passes * 5)  # five layers have weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tile_begins_where_the_library_has_its_arrays_begin(layout: Layout) -> None:
    """The last bits of small products depend on it."""
    whole = patients_of(*SHAPE, count=9)
    tile = Tile(whole, 4, EngineChoice(tile=4, memory_format=layout))
    before = tile.patients.inputs.data_ptr()
    for first in range(5):
        tile.hold(whole[slice(first, first + 3)])
        assert tile.patients.inputs.data_ptr() == before
        assert before % 64 == 0
        assert tile.taken.tolist() == [True, True, True, False]
        assert not tile.patients.inputs[3].any()


def test_a_patients_images_are_averaged_before_the_clip() -> None:
    """Two images whose gradients are opposite leave nothing, whatever their norms are."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    image = torch.tensor([[100.0], [-100.0]], dtype=torch.float64)
    with torch.no_grad():
        next(model.parameters()).zero_()
    pair = Patients(image[None], torch.tensor([0]))
    assert clipped_sum(model, pair, loss, 1.0, EngineChoice()).tolist() == [0.0, 0.0]
    one = Patients(image[None, :1], torch.tensor([0]))
    found = clipped_sum(model, one, loss, 1.0, EngineChoice())
    assert found.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_a_gradient_at_the_clip_norm_is_left_as_it_is() -> None:
    """3 and 4: the norm is 5."""
    model = nn.Linear(2, 1, bias=False).double()
    patients = Patients(torch.tensor([[[3.0, 4.0]]], dtype=torch.float64), torch.tensor([0]))
    for clip_norm, wanted in ((5.0, [3.0, 4.0]), (2.5, [1.5, 2.0]), (math.inf, [3.0, 4.0])):
        found = clipped_sum(
            model, patients, lambda outputs, _: outputs.sum(), clip_norm, EngineChoice()
        )
        assert found.tolist() == pytest.approx(wanted, rel=1e-15)


def test_no_patients_sum_to_zero() -> None:
    model = exact(network)
    for count in (0, 5):
        patients = patients_of(*SHAPE, count=5)[slice(0, count)]
        found = clipped_sum(model, patients, loss, 1.0, EngineChoice())
        assert found.shape == (sum(each.numel() for each in model.parameters()),)
        assert bool(found.any()) == bool(count)


def test_a_loss_that_depends_on_no_weight_sums_to_zero() -> None:
    model = exact(lambda: Net(lambda _, value: value.flatten(1), unused=nn.Linear(2, 2)))
    assert not clipped_sum(model, patients_of(4), loss, 1.0, EngineChoice()).any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", ["ghost", "patches", "looped", ""])
def test_a_patient_whose_gradient_is_not_finite_counts_as_zero_and_the_others_as_ever(
    value: float, layout: Layout, kernel: str
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(48, 2))

    model, patients = exact(build), patients_of(*SHAPE, items=2, count=6)
    others = torch.tensor([0, 2, 3, 5])
    patients.inputs[1, 0, 0, 2, 2] = value
    patients.inputs[4, 1, 1, 0, 5] = -value
    kernels = {"0": kernel, "3": kernel}
    choice = EngineChoice(kernels=kernels, memory_format=layout)
    clip_norm = biting(gradients_of(model, patients[others]))
    found = clipped_sum(model, patients, loss, clip_norm, choice)
    wanted = clipped_by_hand(gradients_of(model, patients[others]), clip_norm)
    finite = [bool(torch.isfinite(each).all()) for each in gradients_of(model, patients)]
    assert finite == [True, False, True, True, False, True]
    assert float((found - wanted).norm()) <= 1e-10 * float(wanted.norm())


def test_nothing_but_patients_without_a_gradient_sum_to_zero() -> None:
    model, patients = exact(network), patients_of(*SHAPE)
    patients.inputs.fill_(math.nan)
    assert not clipped_sum(model, patients, loss, 1.0, EngineChoice()).any()


def cancelling(*, count: int = 4, positions: int = 64, left: float = 1e-3) -> Patients:
    """Images whose weight gradient nearly vanishes: a checkerboard, and a little besides.

    The terms that the ghost norm adds are near the square of the number of positions; what
    they add up to is near ``left`` squared times that number.
    """
    board = 1.0 - 2.0 * (torch.arange(positions) % 2)
    noise = torch.randn(count, 1, 1, positions, generator=torch.Generator().manual_seed(0))
    inputs = board * torch.arange(1, count + 1).view(-1, 1, 1, 1) + left * noise
    return Patients(inputs, torch.arange(count) % 2)


def averaging() -> nn.Module:
    """Every position has the same output gradient."""
    return Net(
        lambda net, value: net.layer(value).mean(dim=2),
        layer=nn.Conv1d(1, 3, 1, bias=False),
    )


def linear_at_positions() -> nn.Module:
    return Net(
        lambda net, value: net.layer(value.transpose(2, 1)).mean(dim=1),
        layer=nn.Linear(1, 3, bias=False),
    )


CANCELLING: list[tuple[Callable[[], nn.Module], str]] = [
    (averaging, "ghost"),
    (averaging, "patches"),
    (averaging, "looped"),
    (linear_at_positions, "ghost"),
    (linear_at_positions, "materialised"),
]


@pytest.mark.parametrize(("build", "kernel"), CANCELLING)
@pytest.mark.parametrize("left", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_digits_that_cancel_let_no_patient_exceed_the_clip_norm(
    build: Callable[[], nn.Module], kernel: str, left: float
) -> None:
    """Norm and sum must be of the same gradient, rounding and all."""
    model, patients = exact(build).float(), cancelling(left=left)
    choice = EngineChoice(kernels={"layer": kernel})
    for at in range(len(patients)):
        patient = patients[slice(at, at + 1)]
        norm = float(gradients_of(model, patient).double().norm())
        for clip_norm in (0.999 * norm, 0.5 * norm, 1e-3 * norm):
            found = clipped_sum(model, patient, loss, clip_norm, choice)
            assert float(found.norm()) <= clip_norm * (1 + GAMMA / 4)
            assert float(found.norm()) >= clip_norm * min(0.5, KAPPA * left / 250)


@pytest.mark.parametrize("build", [averaging, linear_at_positions])
def test_what_cancels_beyond_kappa_makes_a_patient_shorter_and_nobody_else(
    build: Callable[[], nn.Module],
) -> None:
    """Products are rounded by their sizes before they cancel: those are held down too."""
    model, hard = exact(build).float(), cancelling(left=1e-5)
    generator = torch.Generator().manual_seed(1)
    easy = Patients(torch.randn(4, 1, 1, 64, generator=generator) + 1, hard.targets)
    choice = EngineChoice(kernels={"layer": "ghost"})
    for patients, held in ((hard, True), (easy, False)):
        rows = gradients_of(model, patients).double()
        clip_norm = float(rows.norm(dim=1).min()) / 2
        for at in range(len(patients)):
            found = clipped_sum(model, patients[slice(at, at + 1)], loss, clip_norm, choice)
            assert (float(found.norm()) < 0.9 * clip_norm) == held
    both = Patients(torch.cat([hard.inputs, easy.inputs]), torch.cat([hard.targets, easy.targets]))
    sums = [clipped_sum(model, each, loss, 1e-3, choice) for each in (both, hard, easy)]
    assert float((sums[0] - sums[1] - sums[2]).norm()) <= 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", [averaging, linear_at_positions])
def test_a_ghost_norm_is_never_too_small_and_hardly_too_large(
    build: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    """Over patients whose gradients cancel to different degrees, held against exact fractions."""
    model = exact(build).to(dtype)
    for left in (1e-6, 1e-4, 1e-2, 1.0):
        drawn = cancelling(left=left, count=4)
        patients = Patients(drawn.inputs.to(dtype), drawn.targets)
        found: list[tuple[Factored, list[Any]]] = []

        def enter(
            layer: Layer,
            records: list[Any],
            count: int,
            found: list[tuple[Factored, list[Any]]] = found,
        ) -> Book:
            book = layer.rule.book(layer, records, count, "ghost")
            found.append((book.factored["weight"], records))
            return book

        clipped_sum(model, patients, loss, math.inf, EngineChoice(tile=4), enter=enter)
        factored, [(value, gradient)] = found[0]
        positions = 64
        inputs = value.reshape(4, positions).tolist()
        outputs = (gradient.transpose(1, 2) if build is averaging else gradient).tolist()
        for at in range(4):
            gross = float(factored.gross[at])
            each = (
                sum(Fraction(inputs[at][p]) * Fraction(outputs[at][p][o]) for p in range(positions))
                for o in range(3)
            )
            true = sum(one * one for one in each)
            over = Fraction(float(factored.squared[at])) - true
            assert 0 <= over <= Fraction(2.0**-38 * gross**2)


def test_nothing_about_the_model_is_changed() -> None:
    model, patients = exact(network), patients_of(*SHAPE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    clipped_sum(model, patients, loss, 1.0, EngineChoice())
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None
        assert value.requires_grad
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_error_within_the_model_leaves_it_as_it_was() -> None:
    def failing(net: nn.Module, value: torch.Tensor) -> torch.Tensor:
        net.get_submodule("layer")(value)
        raise ZeroDivisionError

    model = exact(lambda: Net(failing, layer=nn.Linear(4, 2)))
    with pytest.raises(ZeroDivisionError):
        clipped_sum(model, patients_of(4), loss, 1.0, EngineChoice())
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_layout_moves_weights_in_memory_and_changes_none() -> None:
    model = exact(network)
    before = [value.clone() for value in model.parameters()]
    placed = place(model, EngineChoice(memory_format="channels_last"))
    assert placed is model
    first = next(placed.parameters())
    assert first.stride(1) == 1
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_sum_is_float64_whatever_the_weights_are(dtype: torch.dtype) -> None:
    drawn = patients_of(*SHAPE)
    patients = Patients(drawn.inputs.to(dtype), drawn.targets)
    found = clipped_sum(exact(network).to(dtype), patients, loss, 1.0, EngineChoice())
    assert found.dtype == torch.float64
    assert bool(torch.isfinite(found).all())


SIXTEEN: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "network": (network(), SHAPE, 0),
    "words": (nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2)), (4,), 9),
    "positions": (averaging(), (1, 64), 0),
    "dense at positions": (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), (5, 4), 0),
    "attention": (
        nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)),
        (3, 4),
        0,
    ),
    "sequences": (
        Net(lambda net, value: net.layer(value)[0], layer=nn.GRU(4, 3, batch_first=True)),
        (3, 4),
        0,
    ),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_activations_of_sixteen_bits_let_no_patient_exceed_the_clip_norm(name: str) -> None:
    """By every kernel: norm, factor and sum have 24 bits, whatever the activations have."""
    model, shape, words = SIXTEEN[name]
    model = exact(lambda: model).bfloat16()
    drawn = patients_of(*shape, items=2, count=4, words=words)
    inputs = drawn.inputs if words else drawn.inputs.bfloat16()
    patients = Patients(inputs, drawn.targets)
    layers = layers_of(model, patients)
    for kernel in sorted({kernel for layer in layers for kernel in layer.rule.kernels}):
        choice = EngineChoice(kernels={layer.name: kernel for layer in layers})
        for at in range(len(patients)):
            patient = patients[slice(at, at + 1)]
            free = clipped_sum(model, patient, loss, math.inf, choice).double()
            for below in (0.999, 0.7, 0.1):
                clip_norm = below * float(free.norm())
                found = clipped_sum(model, patient, loss, clip_norm, choice).double()
                assert float(found.norm()) <= clip_norm * (1 + GAMMA / 4)


def test_what_each_patient_counts_for_by_hand() -> None:
    """C over the largest of C, the norm and gross over 256; nothing for who is not there."""
    sheet = Sheet({}, 5, torch.device("cpu"))
    sheet.squared = torch.tensor([0.25, 4.0, math.inf, 1.0, 9.0], dtype=torch.float64)
    sheet.gross = torch.tensor([0.0, 0.0, 0.0, 1024.0, 0.0], dtype=torch.float64)
    taken = torch.tensor([True, True, True, True, False])
    clipped = weighing(sheet, taken, 1.0)
    assert clipped.factors.tolist() == [1.0, 0.5, 0.0, 0.25, 0.0]
    assert clipped.counted.tolist() == [True, True, False, True, False]
    assert weighing(sheet, taken, math.inf).factors.tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
