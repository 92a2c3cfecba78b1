"""What each task says of new patients: by the contract, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.figures.intervals import Estimate
from common.scores.adjustment import NOTHING, Adjustment
from common.scores.operating import HALF, YOUDEN, OperatingPoint
from common.scores.scaling import Scaling
from common.tasks.tasks import KINDS
from tests.common.studies import task_of


def outputs_of(kind: str, items: int = 3) -> torch.Tensor:
    heads = task_of(kind).heads()
    shape = (items, heads.outputs, *((4, 4) if heads.dense else ()))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def point(name: str, positive: int, threshold: float, sure: float = 0.9) -> OperatingPoint:
    share = Estimate(sure, sure - 0.05, sure + 0.05)
    return OperatingPoint(name, positive, threshold, share, share)


@pytest.mark.parametrize("kind", [each for each in KINDS if task_of(each).heads().dense])
def test_what_is_said_of_masks_is_the_sum_over_items(kind: str) -> None:
    task, outputs = task_of(kind), outputs_of(kind)

    each = [task.numbers(item[None]) for item in outputs]

    assert list(np.sum(each, axis=0)) == list(task.numbers(outputs))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_said_of_a_patient_fits_together(kind: str) -> None:
    task, outputs = task_of(kind), outputs_of(kind)

    numbers = task.numbers(outputs)

    assert numbers.shape == (len(task.columns()),)
    assert len(task.outputs()) == task.heads().outputs
    assert task.readable(outputs).shape == outputs.shape
    assert all(math.isfinite(each.score) for each in task.findings(numbers))
    for output, name in task.explained(numbers):
        assert 0 <= output < task.heads().outputs
        assert name in (*task.classes, *task.columns())
    masks = task.masks(outputs)
    assert (masks is not None) == task.heads().dense


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_cannot_say_is_not_found(kind: str) -> None:
    task, outputs = task_of(kind), torch.full_like(outputs_of(kind), float("nan"))

    for finding in task.findings(task.numbers(outputs)):
        assert finding.present is not True
    if task.classes and not task.heads().dense:
        assert task.named(task.numbers(outputs)) is None


def test_a_vote_is_the_mean_of_the_images_chances() -> None:
    task = task_of("classification", classes=("a", "b"))
    outputs = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])

    np.testing.assert_allclose(task.numbers(outputs), [0.375, 0.625])


def test_a_threshold_decides_of_the_score_before_calibration() -> None:
    task = task_of("classification", classes=("a", "b"))
    adjustment = Adjustment(Scaling(2.0, 0.0), (point(HALF, 1, 0.5), point(YOUDEN, 1, 0.4)))
    numbers = np.array([0.55, 0.45])

    (finding,) = task.findings(numbers, adjustment)

    assert finding.present is True  # Youden's point is meaningful, and 0.45 is above it
    assert finding.score == pytest.approx(0.45**2 / (0.45**2 + 0.55**2))
    assert finding.threshold == pytest.approx(0.4**2 / (0.4**2 + 0.6**2), abs=1e-6)
    assert task.findings(numbers, adjustment, HALF)[0].present is False
    assert task.named(numbers, adjustment, HALF) == 0
    assert task.named(numbers, adjustment) == 1


def test_of_more_classes_each_is_a_finding() -> None:
    task = task_of("classification", classes=("a", "b", "c"))

    found = task.findings(np.array([0.2, 0.5, 0.3]), NOTHING)

    assert [each.name for each in found] == ["a", "b", "c"]
    assert [each.present for each in found] == [False, True, False]


def test_a_score_that_is_sure_and_wrong_is_furthest_away() -> None:
    task = task_of("classification", classes=("a", "b"))
    label = torch.tensor([1])

    apart = [task.apart(torch.tensor([[gap, 0.0]]), label) for gap in (-9.0, 0.0, 9.0)]

    assert apart == sorted(apart)
    assert apart[1] == pytest.approx(0.25)  # Brier's score of one half


def test_a_number_stays_in_its_range_and_keeps_its_unit() -> None:
    task = task_of("regression", quantity="age in years", lowest=0.0, highest=100.0)

    (finding,) = task.findings(task.numbers(torch.tensor([[0.1], [9.0]])))

    assert finding.score == pytest.approx(80.0)
    assert finding.unit == "years"
    assert task.answers(np.array([95.0]), 20.0) == "75 to 100"


def test_a_set_of_answers_begins_with_the_most_likely() -> None:
    task = task_of("classification", classes=("a", "b", "c"))

    assert task.answers(np.array([0.2, 0.5, 0.3]), 0.75) == "b, c"
    assert task.answers(np.array([0.2, 0.5, 0.3]), 0.0) == "b"


def test_pixels_of_each_class_are_counted_and_outlined() -> None:
    task = task_of("segmentation", classes=("liver", "lesion"))
    outputs = torch.zeros(2, 3, 4, 4)
    outputs[:, 1, 0] = 5.0
    outputs[1, 2, 3, 3] = 5.0

    assert list(task.numbers(outputs)) == [8.0, 1.0]
    assert [each.present for each in task.findings(task.numbers(outputs))] == [True, True]
    assert task.explained(np.array([8.0, 0.0])) == ((1, "liver"),)
