"""Dense layers at any number of positions, and embeddings, give the loop's sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from client.engine.clipped import Patients, clipped_sum
from client.engine.linear import LinearRule
from client.engine.rows import MOST_TERMS
from client.engine.rule import Book, Layer
from common.numerics import EngineChoice
from tests.client.engine.loop import (
    Net,
    exact,
    forced,
    layers_of,
    loss,
    patients_of,
    require_same,
)


def dense(*, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3, bias=bias))


@pytest.mark.parametrize("kernel", LinearRule.kernels)
@pytest.mark.parametrize("extra", [(), (7,), (2, 3)], ids=["none", "one", "two"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_layers_with_extra_dimensions_give_the_loops_sum(
    kernel: str, extra: tuple[int, ...], *, bias: bool
) -> None:
    model = exact(lambda: dense(bias=bias))
    for items in (1, 3):
        patients = patients_of(*extra, 4, items=items)
        require_same(model, patients, forced(model, patients, kernel))


@pytest.mark.parametrize("kernel", LinearRule.kernels)
def test_dense_layers_that_are_used_at_different_numbers_of_positions_have_one_gradient(
    kernel: str,
) -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, value: net.layer(net.layer(value).tanh().mean(dim=1)),
            layer=nn.Linear(4, 4),
        )

    model = exact(build)
    for items in (1, 3):
        patients = patients_of(6, 4, items=items)
        require_same(model, patients, forced(model, patients, kernel))


@pytest.mark.parametrize("kernel", LinearRule.kernels)
def test_a_use_that_does_not_lead_to_the_loss_adds_nothing(kernel: str) -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            self.layer(value * 2)
            self.unused(value)
            found: torch.Tensor = self.layer(value)
            return found

    model, patients = exact(Aside), patients_of(4, items=2)
    names = {"layer": kernel, "unused": kernel}
    require_same(model, patients, EngineChoice(kernels=names))


def test_gram_matrices_are_modelled_where_positions_are_few() -> None:
    model = exact(lambda: nn.Linear(40, 40))
    layer = layers_of(model, patients_of(40))[0]

    def modelled(positions: int) -> str:
        record = torch.zeros(5, positions, 40), torch.zeros(5, positions, 40)
        return layer.rule.modelled(layer, [record], 5)

    assert (modelled(1), modelled(20), modelled(21)) == ("ghost", "ghost", "materialised")


def embedded(**settings: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(6, 3, **settings), nn.Tanh(), nn.Flatten())  # type: ignore[arg-type] # as given

    return build


@pytest.mark.parametrize("padding", [None, 0, 4, -1])
@pytest.mark.parametrize("shape", [(8,), (2, 3), ()], ids=["words", "two dimensions", "one word"])
def test_embeddings_give_the_loops_sum(padding: int | None, shape: tuple[int, ...]) -> None:
    model = exact(embedded(padding_idx=padding))
    for items in (1, 3):
        require_same(model, patients_of(*shape, items=items, words=6, seed=1))


def test_a_word_that_fills_the_gap_adds_nothing_to_the_table() -> None:
    model, words = exact(embedded(padding_idx=2)), torch.tensor([[[2, 2, 5]]])
    total = clipped_sum(
        model, Patients(words, torch.tensor([1])), loss, float("inf"), EngineChoice()
    )
    rows = total.view(6, 3).abs().sum(dim=1)
    assert [bool(row) for row in rows] == [False, False, False, False, False, True]


def test_an_embedding_that_is_used_twice_has_one_gradient() -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, words: net.table(words[:, :4]) * net.table(words[:, 3:7]),
            table=nn.Embedding(5, 3, padding_idx=1),
        )

    for items in (1, 3):
        require_same(exact(build), patients_of(7, items=items, words=5))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_words_may_be_integers_of_either_size(dtype: torch.dtype) -> None:
    patients = patients_of(8, items=2, words=6)
    require_same(exact(embedded()), Patients(patients.inputs.to(dtype), patients.targets))


def test_words_are_summed_before_the_norm_is_taken() -> None:
    """A word that stands twice has one gradient, here 1 - 1: norms of the two do not add."""
    model = nn.Sequential(nn.Embedding(2, 1), nn.Flatten())
    total = clipped_sum(
        model,
        Patients(torch.tensor([[[1, 1, 0]]]), torch.tensor([0])),
        lambda outputs, _: (outputs @ torch.tensor([1.0, -1.0, 3.0])).sum(),
        3.0,
        EngineChoice(),
    )
    assert total.tolist() == [3.0, 0.0]


def test_no_product_adds_up_more_terms_than_the_proof_allows() -> None:
    """K of docs/privacy.md: a kernel that would is not taken, whoever asks for it."""
    model = exact(lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3 * 400, 2)))
    patients = patients_of(400, 4, count=2)
    seen: dict[str, Book] = {}

    def enter(layer: Layer, records: list[Any], count: int) -> Book:
        seen[layer.name] = layer.rule.book(layer, records, count, "ghost")
        return seen[layer.name]

    for tile, factored in ((16, True), (32, False)):
        clipped_sum(model, patients, loss, 1.0, EngineChoice(tile=tile), enter=enter)
        assert (tile * 400 <= MOST_TERMS) == factored
        assert ("weight" in seen["0"].factored) == factored
