"""Classification, by what it was before it was one task of several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from common.figures.figures import Figures
from common.figures.histogram import plane_scores
from common.figures.intervals import Estimate
from common.figures.release import tally
from tests.common.studies import classification


def items(seed: int, classes: int, count: int) -> torch.Tensor:
    return 3.0 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([2, 4, 10, 50]))
def test_marks_are_one_bin_of_each_plane_of_the_patients_class(
    seed: int, classes: int, bins: int
) -> None:
    """The bin of the mean probability over the images, counted by hand."""
    task = classification(classes=classes)
    release = task.release(bins)
    wanted = np.zeros(release.shape, dtype=np.int64)
    given = []
    for number in range(6):
        outputs, label = items(seed + number, classes, 1 + number), number % classes
        targets = torch.full((len(outputs),), label)
        given.append(task.marks(outputs, targets, bins))
        vote = outputs.double().softmax(dim=1).numpy().mean(axis=0)
        for plane, score in enumerate(plane_scores(vote[None])[0]):
            wanted[label, plane, sum(score >= edge / bins for edge in range(1, bins))] += 1

    assert all(each.shape == (release.votes, 3) for each in given)
    assert tally(given, release).tolist() == wanted.tolist()


@pytest.mark.parametrize("weights", [None, (0.25, 3.0, 1.0)])
def test_the_loss_of_items_is_weighted_cross_entropy(weights: tuple[float, ...] | None) -> None:
    """Mapped over items as the engine has it, and so its gradient."""
    task = classification(weights, classes=3)
    outputs, targets = items(0, 3, 12).requires_grad_(), torch.arange(12) % 3
    found = torch.func.vmap(task.loss)(outputs, targets)
    each = functional.cross_entropy(outputs, targets, reduction="none")
    wanted = each if weights is None else each * torch.tensor(weights)[targets]

    assert torch.equal(found, wanted)
    ours, theirs = (
        torch.autograd.grad(loss.sum(), outputs, retain_graph=True)[0] for loss in (found, wanted)
    )
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_the_largest_weight_scales_the_learning_rate() -> None:
    assert classification().largest_factor == 1.0
    assert classification((0.25, 3.0)).largest_factor == 3.0


def test_groups_are_the_patients_of_each_class() -> None:
    task = classification(classes=3)
    counts = np.zeros(task.release(4).shape, dtype=np.int64)
    counts[0, :, 1], counts[2, :, 3] = 5, 7

    assert task.groups(counts, 4).tolist() == [5, 0, 7]


def figures(
    auc: float | None,
    sensitivity: float | None,
    specificity: float | None,
    why: str | None = None,
) -> Figures:
    """Figures of exact counts, so far as doubts read them."""

    def of(value: float | None) -> Estimate:
        centre = 0.5 if value is None else value
        return Estimate(value, max(0.0, centre - 0.05), min(1.0, centre + 0.05), why is None, why)

    values = {"auc": of(auc), "sensitivity": of(sensitivity), "specificity": of(specificity)}
    return Figures(patients=Estimate(400.0, 400.0, 400.0), values=values)


SAME = "ONE CLASS FOR ALL: the shared model gives almost every patient the same class"
CHANCE = "NOT SHOWN TO BE BETTER THAN CHANCE, which has AUC 0.5: AUC "


@pytest.mark.parametrize(
    ("auc", "sensitivity", "specificity", "classes", "told"),
    [
        (0.8, 0.7, 0.7, 2, []),
        (0.56, 0.7, 0.4, 2, []),
        (0.54, 0.7, 0.4, 2, [CHANCE + "0.540 (0.490 to 0.590)"]),
        (0.3, 0.4, 0.3, 2, [CHANCE + "0.300 (0.250 to 0.350)"]),
        (None, 0.7, 0.7, 2, [CHANCE + "not defined"]),
        (0.8, 0.0, 1.0, 2, [SAME]),
        (0.8, 0.99, 0.01, 2, [SAME]),
        (0.5, 1.0, 0.0, 2, [CHANCE, SAME]),
        (0.8, None, 0.0, 2, []),
        (0.8, 0.6, 0.9, 5, []),
        (0.8, 0.2, 0.8, 5, [SAME]),
    ],
)
@pytest.mark.parametrize("few", [False, True], ids=["many patients", "few patients"])
def test_a_model_that_is_of_no_use_is_named(
    auc: float | None,
    sensitivity: float | None,
    specificity: float,
    classes: int,
    told: list[str],
    *,
    few: bool,
) -> None:
    """Also where few patients say it: it is what they say."""
    why = "too few patients: 3 patients" if few else None
    read = figures(auc, sensitivity, specificity, why)
    found = classification(classes=classes).doubts(read)
    assert len(found) == len(told)
    for line, words in zip(found, told, strict=True):
        assert line.startswith(words)


def test_noise_alone_does_not_say_one_class_for_all() -> None:
    """Noise can take a share that is hardly known to either end."""
    task, counts = classification(), np.array([[[9, 2, -8, -3]], [[1, 1, 4, 5]]])
    read = task.figures(counts, noise_variance=60.0)
    assert not read.values["specificity"].meaningful
    assert not any(line.startswith(SAME) for line in task.doubts(read))
    all_one = np.array([[[0, 0, 400, 0]], [[0, 0, 0, 400]]])
    assert any(
        line.startswith(SAME) for line in task.doubts(task.figures(all_one, noise_variance=4.0))
    )
