"""An adversary's search for a patient who weighs more than the clip norm, or moves another.

The adversary chooses weights, inputs, shapes, class weights, clip norm, tile, layout and kernels
(:mod:`tests.adversary.engine_search`). Whatever it finds is measured in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from client.engine.clipped import ClippedSum, Patients, Tile, backward, by_choice, clipped_sum
from client.engine.rule import Book, Layer
from client.engine.sheet import Sheet
from client.training.sampling import Batch
from client.training.targets import TARGETS
from common.models.networks import seeded_model
from common.privacy.mechanisms import GAMMA, PatientMechanism, mechanism
from common.tasks.tasks import KINDS
from simulations.audit.parts import PRODUCTION, Parts
from tests.adversary.engine_search import Attack, attack, evaluation
from tests.common.studies import study_of
from tests.planted_faults import FAULTS

FEW = range(12)
MANY = [pytest.param(first, marks=pytest.mark.long) for first in range(12, 276, 12)]
SEEDS = [FEW.start, *MANY]
"""Twelve choices to try in each case: the first case always, the others in the long run."""


def attacks(first: int) -> list[Attack]:
    return [attack(seed) for seed in range(first, first + len(FEW))]


def summed(tried: Attack, patients: Patients) -> torch.Tensor:
    return clipped_sum(tried.model, patients, tried.loss, tried.clip_norm, tried.choice)


@pytest.mark.parametrize("first", SEEDS)
def test_no_patient_of_any_choice_is_longer_than_the_clip_norm(first: int) -> None:
    """In float64, and far within gamma."""
    longest = 0.0
    for tried in attacks(first):
        for at in range(len(tried.patients)):
            found = summed(tried, tried.patients[slice(at, at + 1)])
            assert bool(torch.isfinite(found).all())
            longest = max(longest, _norm(found) / tried.clip_norm)
    assert longest <= 1 + 1e-9
    assert longest > 0.99, "some choice must reach the bound, or the search looks elsewhere"


@pytest.mark.parametrize("first", SEEDS)
def test_adding_a_patient_moves_the_sum_by_at_most_the_clip_norm_at_every_number_of_others(
    first: int,
) -> None:
    """From nobody to two tiles and one; the newcomer before the others, among them, behind."""
    for tried in attacks(first):
        everyone = tried.patients
        newcomer = everyone[slice(-1, None)]
        for count in range(len(everyone)):
            others = everyone[slice(0, count)]
            without = summed(tried, others)
            at = count // 2
            for together in (
                _joined(newcomer, others),
                _joined(others[slice(0, at)], newcomer, others[slice(at, None)]),
                _joined(others, newcomer),
            ):
                moved = _norm(summed(tried, together) - without)
                assert moved <= tried.clip_norm * (1 + GAMMA / 100)


@pytest.mark.parametrize("first", SEEDS)
def test_no_bit_of_another_patients_vector_changes_with_who_else_is_there(first: int) -> None:
    for tried in attacks(first):
        places = tried.choice.tile
        tile = Tile(tried.patients, places, tried.choice)
        alone = [_vector(tried, tile.hold(tried.patients[slice(at, at + 1)]), 0) for at in (0, 1)]
        turned = torch.roll(torch.arange(places), places // 2)
        for order in (torch.arange(places), turned, torch.arange(places).flip(0)):
            held_tile = tile.hold(tried.patients[order])
            for at in range(min(2, places)):
                place = int((order == at).nonzero())
                assert _vector(tried, held_tile, place) == alone[at]


def _vector(tried: Attack, tile: Tile, place: int) -> list[bytes]:
    """All bits that decide about one patient's vector: what it is made of, norm and gross."""
    bits: list[bytes] = []
    make = by_choice(tried.choice)

    def keep(values: torch.Tensor) -> None:
        rows = values.reshape(len(tile.patients), -1)[place]
        bits.append(torch.where(rows.isnan(), torch.nan, rows).numpy().tobytes())

    def enter(layer: Layer, records: list[Any], count: int) -> Book:
        book = make(layer, records, count)
        for held in book.held.values():
            keep(held)
        if book.factored:
            for record in records:
                for part in record:
                    keep(part)
        return book

    with torch.no_grad():
        books = backward(tried.model, tile.patients, tried.loss, enter)
        sheet = Sheet(books, len(tile.patients), torch.device("cpu"))
    keep(sheet.squared)
    keep(sheet.gross)
    return bits


@pytest.mark.parametrize("first", SEEDS)
def test_a_sum_of_many_is_finite_however_large_the_clip_norm(first: int) -> None:
    """Float32 sums overflowed before the noise, and a site's answer told so."""
    for tried in attacks(first)[:20]:
        summing = ClippedSum(tried.model, tried.loss, 1e36, tried.choice)
        for _ in range(10):
            summing.add(tried.patients)
        assert bool(torch.isfinite(summing.total).all())


def _norm(vector: torch.Tensor) -> float:
    """Float64, without under- or overflow of squares."""
    largest = float(vector.abs().max())
    if largest == 0.0:
        return 0.0
    return largest * math.sqrt(math.fsum(((vector / largest) ** 2).tolist()))


def _joined(*parts: Patients) -> Patients:
    return Patients(
        torch.cat([each.inputs for each in parts]), torch.cat([each.targets for each in parts])
    )


@pytest.mark.parametrize("first", SEEDS)
def test_adding_a_patient_moves_counts_by_at_most_their_bound_and_no_marks_of_another(
    first: int,
) -> None:
    """Weights that cancel put a vote on an edge, where its last bit decides about the cell.

    Others make outputs of some patients infinite, or not numbers.
    """
    for seed in range(first, first + 2 * len(KINDS)):
        tried = evaluation(seed)
        bound, alone = tried.study.task.release(tried.study.evaluation.bins).bound, {}
        for at in range(len(tried.cohort)):
            alone[at] = tried.marks((at,))[0]
        last = len(tried.cohort) - 1
        for count in range(last + 1):
            others = tuple(range(count))
            without = tried.counted(others)
            for some in ((last, *others), (*others, last)) if count < last else ():
                assert tried.marks(some) == [alone[at] for at in some]
                moved = np.linalg.norm((tried.counted(some) - without).astype(float))
                assert moved <= bound * (1 + 1e-12)


CLIPPING = ("clipping left out", "per-image instead of per-patient clipping")


@pytest.mark.parametrize("kind", KINDS)
def test_faults_of_the_clipped_sum_are_seen_whatever_the_task(kind: str) -> None:
    study = study_of(kind)
    planned = mechanism(study, 100, 200)
    assert isinstance(planned, PatientMechanism)
    planned, model = planned.model_copy(update={"clip_norm": 1e-3}), seeded_model(study, 1)
    pixels = torch.rand(1, 4, 1, 8, 8, generator=torch.manual_seed(0)) - 0.5
    batch = Batch(pixels, TARGETS[study.task.target].made_up(study.task, 1, 4, (8, 8)))

    def length(parts: Parts) -> float:
        return _norm(parts.clipped_sum(model, batch, planned, study)) / planned.clip_norm

    assert length(PRODUCTION) <= 1 + GAMMA / 100
    assert all(length(fault.parts) > 1.1 for fault in FAULTS if fault.name in CLIPPING)
