from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from common.figures.confusion import recall, specificity, tables
from common.figures.histogram import histogram
from common.figures.intervals import Estimate, share
from common.scores.operating import (
    COST,
    HALF,
    YOUDEN,
    OperatingPoint,
    at_edges,
    at_least,
    cheapest,
    half,
    points,
    used,
    youden,
)

# Negatives, then positives, in four bins; edges at 1/4, 1/2 and 3/4.
FOUR = np.array([[[60, 25, 10, 5]], [[1, 9, 20, 70]]])


def test_shares_at_every_edge_by_hand() -> None:
    edges = at_edges(FOUR, noise_variance=0.0)

    assert [point.threshold for point in edges] == [0.25, 0.5, 0.75]
    assert [point.sensitivity.value for point in edges] == [0.99, 0.9, 0.7]
    assert [point.specificity.value for point in edges] == [0.6, 0.85, 0.95]
    assert {point.positive for point in edges} == {1}


def test_rules_choose_by_hand() -> None:
    """Youden 0.59, 0.75, 0.65. Costs at ratio 10 and prevalence a half: 5 * (miss) + fa / 2."""
    chosen = points(FOUR, noise_variance=0.0, cost_ratio=10.0, prevalence=0.5)

    assert {point.name: point.threshold for point in chosen} == {
        HALF: 0.5,
        YOUDEN: 0.5,
        "sensitivity at least 0.95": 0.25,
        "sensitivity at least 0.9": 0.5,
        COST: 0.25,
    }


def test_a_dear_false_alarm_raises_the_threshold() -> None:
    edges = at_edges(FOUR, noise_variance=0.0)
    found = cheapest(edges, cost_ratio=0.2, prevalence=0.5)

    assert found is not None and found.threshold == 0.75


def test_of_equal_edges_the_one_nearest_to_one_half_is_taken() -> None:
    found = youden(at_edges(np.array([[[50, 0, 0, 0]], [[0, 0, 0, 50]]]), noise_variance=0.0))

    assert found is not None and found.threshold == 0.5


def test_a_sensitivity_that_no_edge_reaches_has_no_point() -> None:
    low = np.array([[[100, 0, 0, 0]], [[50, 50, 0, 0]]])

    assert at_least(at_edges(low, noise_variance=0.0), 0.9) is None
    assert "sensitivity at least 0.9" not in {p.name for p in points(low, noise_variance=0.0)}


def test_a_sensitivity_that_rises_again_is_noise() -> None:
    """0.92, then 0.87, then 0.96 by a negative count: the first miss ends the search."""
    noisy = np.array([[[100, 100, 100, 100]], [[80, 50, -90, 960]]])
    found = at_least(at_edges(noisy, noise_variance=25.0), 0.9)

    assert found is not None and found.threshold == 0.25


def test_a_class_of_three_is_told_from_the_others() -> None:
    counts = np.zeros((3, 3, 4), dtype=np.int64)
    counts[2, 2], counts[0, 2], counts[1, 2] = [2, 8, 30, 60], [50, 30, 15, 5], [90, 10, 0, 0]
    found = half(counts, noise_variance=0.0, positive=2)

    assert (found.positive, found.sensitivity.value) == (2, 0.9)
    assert found.specificity.value == 0.9


def test_one_half_is_what_the_figures_of_a_report_say() -> None:
    found = half(FOUR, noise_variance=9.0)
    table = tables(FOUR, 9.0, ("0", "1"))[1]

    assert found.sensitivity == recall(table)
    assert found.specificity == specificity(table)


def test_intervals_of_edges_are_those_of_bonferroni() -> None:
    """Three edges: 1 - 0.05 / 6 of the normal distribution is 2.394 (any table of it)."""
    alone = share(90, 10, noise=(18.0, 18.0), of="patients of class 1", z=2.394)
    middle = at_edges(FOUR, noise_variance=9.0)[1].sensitivity

    assert middle.low == pytest.approx(alone.low, abs=1e-4)
    assert middle.high == pytest.approx(alone.high, abs=1e-4)


def population(
    generator: np.random.Generator, patients: int, prevalence: float, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    labels = (generator.random(patients) < prevalence).astype(np.int64)
    positive = expit(2.0 * generator.normal(apart * (labels - 0.5)))
    return np.stack([1.0 - positive, positive], axis=1), labels


@pytest.mark.parametrize(
    ("patients", "prevalence", "sigma", "bins", "apart"),
    [(100, 0.3, 0.0, 10, 2.0), (400, 0.5, 5.0, 40, 0.3), (2000, 0.2, 30.0, 10, 1.5)],
)
def test_the_exact_shares_at_chosen_edges_lie_in_their_intervals(
    patients: int, prevalence: float, sigma: float, bins: int, apart: float
) -> None:
    generator = np.random.default_rng(8)
    whole = histogram(*population(generator, 300_000, prevalence, apart), classes=2, bins=bins)
    truth = {point.threshold: point for point in at_edges(whole, noise_variance=0.0)}
    inside: dict[str, list[tuple[bool, bool]]] = {}
    for _ in range(400):
        counts = histogram(
            *population(generator, patients, prevalence, apart), classes=2, bins=bins
        )
        counts = np.rint(counts + generator.normal(0.0, sigma, counts.shape)).astype(np.int64)
        edges = at_edges(counts, noise_variance=sigma**2)
        best, cheap = youden(edges), cheapest(edges, cost_ratio=2.0, prevalence=prevalence)
        for point in (best, cheap, at_least(edges, 0.9)):
            if point is not None:
                exact = truth[point.threshold]
                inside.setdefault(point.name, []).append(
                    (
                        within(exact.sensitivity, point.sensitivity),
                        within(exact.specificity, point.specificity),
                    )
                )

    assert len(inside) >= 2
    for name, held in inside.items():
        assert np.mean(held, axis=0).min() >= 0.93, name


def within(exact: Estimate, stated: Estimate) -> bool:
    return exact.value is not None and stated.low <= exact.value <= stated.high


def test_the_report_decides_at_youden_s_point_if_that_means_something_and_else_at_one_half() -> (
    None
):
    skewed = np.array([[[900, 60, 30, 10]], [[50, 600, 250, 100]]])
    clear = points(skewed, noise_variance=4.0)
    drowned = points(skewed, noise_variance=4e5)

    assert (used(clear).name, used(clear).threshold) == (YOUDEN, 0.25)
    assert (used(drowned).name, used(drowned).threshold) == (HALF, 0.5)


def test_a_point_that_is_not_shown_to_be_better_than_chance_is_not_used() -> None:
    useless = np.array([[[100, 90, 110, 100]], [[90, 110, 90, 110]]])
    chosen = points(useless, noise_variance=0.0)

    assert not any(point.meaningful for point in chosen)
    assert used(chosen).name == HALF


@given(
    st.lists(st.integers(-40, 400), min_size=16, max_size=16),
    st.floats(0, 500),
    st.sampled_from([0, 1]),
)
def test_whatever_the_noise_one_half_is_there_and_shares_lie_in_their_intervals(
    cells: list[int], noise: float, positive: int
) -> None:
    counts = np.array(cells).reshape(2, 1, 8)
    chosen = points(counts, noise_variance=noise, positive=positive, cost_ratio=2.0, prevalence=0.1)

    assert chosen[0].name == HALF
    assert used(chosen) in chosen
    for point in chosen:
        assert point.threshold * 8 == round(point.threshold * 8)
        for figure in (point.sensitivity, point.specificity):
            assert figure.value is None or figure.low <= figure.value <= figure.high


def test_what_cannot_be_is_a_mistake_of_the_caller() -> None:
    edges: tuple[OperatingPoint, ...] = at_edges(FOUR, noise_variance=0.0)
    with pytest.raises(ValueError, match="no class 2"):
        at_edges(FOUR, noise_variance=0.0, positive=2)
    with pytest.raises(ValueError, match="shape of a release"):
        half(FOUR[:, 0], noise_variance=0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        at_least(edges, 1.0)
    with pytest.raises(ValueError, match="no cost follows"):
        cheapest(edges, cost_ratio=1.0, prevalence=0.0)
    with pytest.raises(ValueError, match="weighed with a prevalence"):
        points(FOUR, noise_variance=0.0, cost_ratio=1.0)
