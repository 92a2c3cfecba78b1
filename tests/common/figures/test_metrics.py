from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from common.figures.figures import Figures
from common.figures.histogram import histogram, one_vs_rest, plane_scores
from common.figures.intervals import Estimate
from common.figures.metrics import evaluate, exact
from common.figures.release import pool, pooled_variance

NAMES = ("a", "b", "c", "d")


def cohort(seed: int, classes: int, patients: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Votes that know something, and labels in which each class occurs."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, patients)])
    logits = generator.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += 1.0
    scores = np.exp(2.0 * logits)
    return scores / scores.sum(axis=1, keepdims=True), labels


def figures(found: Figures) -> dict[str, Estimate]:
    """The figures that are single estimates, by name."""
    return {"patients": found.patients, **found.values}


def released(counts: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    return np.rint(counts + generator.normal(0.0, sigma, counts.shape)).astype(np.int64)


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([4, 10, 20]))
def test_without_noise_counted_figures_are_scikit_learn_s(
    seed: int, classes: int, bins: int
) -> None:
    scores, labels = cohort(seed, classes)
    read = evaluate(
        histogram(scores, labels, classes=classes, bins=bins),
        noise_variance=0.0,
        classes=NAMES[:classes],
    )
    named = (scores[:, 1] >= 0.5).astype(int) if classes == 2 else scores.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"

    assert read.patients == Estimate(len(labels), len(labels), len(labels))
    assert read.values["accuracy"].value == pytest.approx(
        sklearn_metrics.accuracy_score(labels, named)
    )
    assert read.values["balanced_accuracy"].value == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, named)
    )
    assert read.values["sensitivity"].value == pytest.approx(
        sklearn_metrics.recall_score(labels, named, average=average)
    )
    assert read.values["f1"].value == pytest.approx(
        sklearn_metrics.f1_score(labels, named, average=average)
    )
    if all((named == k).any() for k in range(classes)):
        assert read.values["precision"].value == pytest.approx(
            sklearn_metrics.precision_score(labels, named, average=average)
        )
    assert [part.value for part in read.of["prevalence"]] == pytest.approx(
        (np.bincount(labels) / len(labels)).tolist()
    )


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([4, 10, 20]))
def test_without_noise_the_area_is_scikit_learn_s_but_for_half_the_pairs_tied_in_a_bin(
    seed: int, classes: int, bins: int
) -> None:
    scores, labels = cohort(seed, classes)
    counts = histogram(scores, labels, classes=classes, bins=bins)
    read = evaluate(counts, noise_variance=0.0, classes=NAMES[:classes])
    for k in range(classes):
        plane = scores[:, k] if classes == 2 else plane_scores(scores)[:, k]
        expected = sklearn_metrics.roc_auc_score(labels == k, plane)
        positives, negatives = one_vs_rest(counts, k)
        tied = float(positives @ negatives) / float(positives.sum() * negatives.sum())
        value = read.of["auc"][k].value

        assert value is not None
        assert abs(value - expected) <= tied / 2 + 1e-12


@given(st.integers(0, 2**32))
def test_scores_at_the_bins_centres_lose_nothing(seed: int) -> None:
    scores, labels = cohort(seed, 2)
    positive = (np.floor(scores[:, 1] * 10) + 0.5).clip(max=9.5) / 10
    centred = np.stack([1.0 - positive, positive], axis=1)
    counts = histogram(centred, labels, classes=2, bins=10)
    read = evaluate(counts, noise_variance=0.0, classes=NAMES[:2])
    seen = exact(centred, labels, classes=NAMES[:2])

    assert read.values["auc"].value == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, positive), abs=1e-12
    )
    for name, figure in figures(read).items():
        assert figure.value == pytest.approx(figures(seen)[name].value, abs=1e-12), name
    assert read.tables["confusion"] == seen.tables["confusion"]


@given(st.integers(0, 2**32), st.integers(2, 4))
def test_exact_areas_are_scikit_learn_s(seed: int, classes: int) -> None:
    scores, labels = cohort(seed, classes)
    seen = exact(scores, labels, classes=NAMES[:classes])
    areas = [
        sklearn_metrics.roc_auc_score(
            labels == k, scores[:, k] if classes == 2 else plane_scores(scores)[:, k]
        )
        for k in range(classes)
    ]

    assert [part.value for part in seen.of["auc"]] == pytest.approx(areas)
    assert seen.values["auc"].value == pytest.approx(areas[1] if classes == 2 else np.mean(areas))


@given(st.integers(0, 2**32), st.permutations(range(4)), st.integers(2, 3))
def test_the_order_of_the_sites_changes_nothing(seed: int, order: list[int], classes: int) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = cohort(seed, classes)
    sites = [
        released(histogram(scores[s::4], labels[s::4], classes=classes, bins=6), 2.0, generator)
        for s in range(4)
    ]
    variance = pooled_variance([2.0] * 4)
    straight = evaluate(pool(sites), noise_variance=variance, classes=NAMES[:classes])
    shuffled = pool(sites[site] for site in order)

    assert evaluate(shuffled, noise_variance=variance, classes=NAMES[:classes]) == straight


@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([0.5, 5.0, 100.0]))
def test_noise_of_any_size_gives_figures_in_their_range_or_says_why_not(
    seed: int, classes: int, sigma: float
) -> None:
    counts = histogram(*cohort(seed, classes, 30), classes=classes, bins=4)
    noisy = released(counts, sigma, np.random.default_rng(seed))
    read = evaluate(noisy, noise_variance=pooled_variance([sigma]), classes=NAMES[:classes])
    parts = [*read.of["auc"], *read.of["sensitivity"], *read.of["prevalence"]]
    rated = [figure for name, figure in figures(read).items() if name != "patients"]

    for figure in [*rated, *parts]:
        assert 0.0 <= figure.low <= figure.high <= 1.0
        assert figure.value is None or figure.low <= figure.value <= figure.high
        assert figure.meaningful == (figure.why is None)
    json.dumps(asdict(read), allow_nan=False)


def test_negative_cells_are_read_as_they_are() -> None:
    counts = np.array([[[40, -3, 5, 2]], [[-2, 9, 10, 30]]])
    read = evaluate(counts, noise_variance=4.0, classes=("healthy", "sick"))

    assert read.tables["confusion"] == ((37, 7), (7, 40))
    assert read.patients.value == 91.0
    assert read.values["accuracy"].value == pytest.approx(77 / 91)


def test_drowned_figures_say_so_and_name_the_class() -> None:
    counts = np.array([[[40, 3, 5, 2]], [[2, 9, 10, 30]]])
    read = evaluate(counts, noise_variance=900.0, classes=("healthy", "sick"))

    assert not any(figure.meaningful for figure in figures(read).values() if figure is not None)
    assert read.values["sensitivity"].why == (
        "noise exceeds signal: 51 patients of class sick read through noise of ±118"
    )
    assert read.patients.why == "noise exceeds signal: 101 patients read through noise of ±166"


def test_more_than_two_classes_have_no_calibration_error_and_say_why() -> None:
    scores, labels = cohort(0, 3)
    seen = exact(scores, labels, classes=NAMES[:3])

    assert seen.values["calibration_error"].value is None
    assert "more than two classes" in str(seen.values["calibration_error"].why)


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_cover_the_population_s_figures_through_noise(classes: int) -> None:
    generator = np.random.default_rng(9)
    truth = figures(exact(*cohort(1, classes, 200_000), classes=NAMES[:classes]))
    names = ["auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1"]
    covered = []
    for seed in range(150):
        counts = histogram(*cohort(seed, classes, 1000), classes=classes, bins=10)
        noisy = released(counts, 8.0, generator)
        read = figures(
            evaluate(noisy, noise_variance=pooled_variance([8.0]), classes=NAMES[:classes])
        )
        covered.append([read[n].low <= (truth[n].value or 0.0) <= read[n].high for n in names])

    assert np.mean(covered, axis=0).min() >= 0.92


def test_what_is_no_release_is_refused() -> None:
    with pytest.raises(ValueError, match="not the shape"):
        evaluate(np.zeros((3, 1, 4), np.int64), noise_variance=0.0, classes=NAMES[:3])
    with pytest.raises(ValueError, match="at least 0"):
        evaluate(np.zeros((2, 1, 4), np.int64), noise_variance=-1.0, classes=NAMES[:2])


def test_an_empty_test_set_has_no_figures() -> None:
    seen = exact(np.empty((0, 2)), np.empty(0, np.int64), classes=NAMES[:2])

    assert seen.values["auc"].value is None
    assert seen.values["accuracy"].why == "too few patients: 0 patients"
