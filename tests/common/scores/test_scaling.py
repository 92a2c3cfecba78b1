from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax

from common.figures.histogram import histogram, plane_scores
from common.scores.logits import spread
from common.scores.scaling import NOT_NEEDED, Scaling, errors, fit


def two(positive: list[float]) -> np.ndarray:
    return np.stack([1.0 - np.array(positive), np.array(positive)], axis=1)


def patients_of_two(
    generator: np.random.Generator, patients: int, right: Scaling
) -> tuple[np.ndarray, np.ndarray]:
    """Scores that ``right`` would make exact, and what came true."""
    exact = generator.normal(-0.5, 1.6, patients)
    labels = (generator.random(patients) < expit(exact)).astype(np.int64)
    positive = expit((exact - right.offset) / right.slope)
    return np.stack([1.0 - positive, positive], axis=1), labels


def patients_of_more(
    generator: np.random.Generator, patients: int, slope: float, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    exact = generator.normal(0.0, 2.0, (patients, classes))
    drawn = generator.random((patients, 1)) > softmax(exact, axis=1).cumsum(axis=1)
    return softmax(exact / slope, axis=1), drawn.sum(axis=1)


def noisy(counts: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    return np.rint(counts + generator.normal(0.0, sigma, counts.shape)).astype(np.int64)


SURE = Scaling(0.4, 0.5)
"""What puts a model right that is much too sure of itself, and says too little."""


def test_scaled_scores_of_two_classes_by_hand() -> None:
    """Odds 4 to 1: squared they are 16, three times as large they are 12."""
    assert Scaling(2.0).apply(two([0.8]))[0].tolist() == pytest.approx([1 / 17, 16 / 17])
    assert Scaling(1.0, float(np.log(3.0))).apply(two([0.8]))[0, 1] == pytest.approx(12 / 13)


def test_scaled_scores_of_three_classes_by_hand() -> None:
    scaled = Scaling(2.0).apply(np.array([[0.5, 0.3, 0.2]]))

    assert scaled[0].tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38])


def test_ends_and_unknown_patients_have_scores_too() -> None:
    nothing = np.array([[np.nan, 1.0], [0.0, 0.0]])

    assert Scaling(0.5).apply(two([0.0, 1.0])).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert Scaling(0.5).apply(nothing).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert Scaling(0.5).apply(np.array([[1.0, 0.0, 0.0]]))[0].tolist() == pytest.approx([1, 0, 0])


@given(st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4), st.floats(0.1, 3.0))
def test_a_temperature_divides_the_logit_of_every_plane(cells: list[float], slope: float) -> None:
    scores = np.array([cells]) / sum(cells)
    scaled = Scaling(slope).apply(scores)

    assert scaled.sum() == pytest.approx(1.0)
    assert logit(plane_scores(scaled)) == pytest.approx(
        slope * logit(plane_scores(scores)), abs=1e-6
    )


def test_the_identity_leaves_scores() -> None:
    scores = np.random.default_rng(1).dirichlet(np.ones(4), 50)

    assert Scaling().apply(scores) == pytest.approx(scores)
    assert Scaling().apply(two([0.1, 0.7])) == pytest.approx(two([0.1, 0.7]))


def test_without_patients_scores_lie_flat_in_their_bins() -> None:
    """The mean of a bin's scores is then its centre, at the open ends too."""
    nobody = np.zeros(10)
    places = spread(nobody, nobody, np.arange(11) / 10, noise=(1.0, 1.0))

    centres = (np.arange(10) + 0.5) / 10
    assert (places.weights * expit(places.logits)).sum(axis=1) == pytest.approx(centres, abs=2e-3)


def test_patients_of_an_open_bin_lie_as_far_out_as_the_other_bins_foretell() -> None:
    """Normal logits with mean 3 and deviation 3, of which those above logit(0.9) lie on average at
    3 + 3 * h, with h = density / share above (2.197 - 3) / 3 = -0.268: 0.385 / 0.606 = 0.635."""
    logits = np.random.default_rng(2).normal(3.0, 3.0, 200_000)
    counts = np.histogram(expit(logits), np.arange(11) / 10)[0].astype(np.float64)
    places = spread(counts, np.zeros(10), np.arange(11) / 10, noise=(0.0, 0.0))

    assert (places.weights * places.logits).sum(axis=1)[-1] == pytest.approx(4.9, abs=0.1)


def test_a_noisy_total_promises_no_more_patients_than_its_square_speaks_for() -> None:
    """300 patients through noise of 900 in ten cells: 300 * (1 - 9000 / 300^2) = 270."""
    even = np.full(10, 30.0)
    places = spread(even, np.zeros(10), np.arange(11) / 10, noise=(900.0, 0.0))

    assert places.patients.sum() == pytest.approx(270.0)


@pytest.mark.parametrize("right", [Scaling(), SURE, Scaling(2.0, -0.5)])
@pytest.mark.parametrize("bins", [10, 40])
def test_many_patients_without_noise_give_what_was_wrong(right: Scaling, bins: int) -> None:
    scores = patients_of_two(np.random.default_rng(3), 20_000, right)
    found = fit(histogram(*scores, classes=2, bins=bins), noise_variance=0.0)

    assert found.slope == pytest.approx(right.slope, rel=0.06)
    assert found.offset == pytest.approx(right.offset, abs=0.08)


def test_a_model_that_needs_no_scaling_seldom_gets_one() -> None:
    """By a test at 5 %, which finds something more often with so few patients."""
    generator = np.random.default_rng(12)
    found = []
    for _ in range(100):
        drawn = patients_of_two(generator, 300, Scaling())
        counts = noisy(histogram(*drawn, classes=2, bins=10), 5.0, generator)
        found.append(fit(counts, noise_variance=25.0))

    assert sum(each == Scaling(why=NOT_NEEDED) for each in found) >= 88


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("slope", [0.4, 1.0, 2.0])
def test_many_patients_of_more_classes_give_the_temperature(classes: int, slope: float) -> None:
    """As nearly as margins can: the slope is a little too low, as the module says."""
    scores = patients_of_more(np.random.default_rng(4), 20_000, slope, classes)
    found = fit(histogram(*scores, classes=classes, bins=10), noise_variance=0.0)

    assert found.slope == pytest.approx(slope, rel=0.15)
    assert found.offset == 0.0


def test_noise_moves_single_fits_and_not_their_mean() -> None:
    generator = np.random.default_rng(5)
    exact = histogram(*patients_of_two(generator, 4000, SURE), classes=2, bins=10)
    quiet = fit(exact, noise_variance=0.0)
    found = [fit(noisy(exact, 5.0, generator), noise_variance=25.0) for _ in range(60)]

    assert np.mean([each.slope for each in found]) == pytest.approx(quiet.slope, abs=0.02)
    assert np.mean([each.offset for each in found]) == pytest.approx(quiet.offset, abs=0.05)


def test_the_more_noise_the_nearer_to_the_identity() -> None:
    """The same counts, said to carry more and more noise; in the end they say nothing."""
    counts = histogram(
        *patients_of_two(np.random.default_rng(6), 2000, Scaling(0.4)), classes=2, bins=10
    )
    slopes = [fit(counts, noise_variance=v).slope for v in (0.0, 1e2, 5e2, 1e3, 2e3)]
    lost = fit(counts, noise_variance=1e5)

    assert slopes == sorted(slopes)
    assert slopes[0] + 0.04 < slopes[-1] < 1.0
    assert (lost.slope, lost.offset) == (1.0, 0.0)
    assert lost.why is not None and lost.why.startswith("noise exceeds signal")


def test_much_noise_does_not_take_a_fit_far_beyond_what_is_right() -> None:
    """Right is a log slope of -0.92. Without shrinkage the 95th of 100 lies 2.5 away from 0."""
    generator = np.random.default_rng(7)
    far = []
    for _ in range(100):
        drawn = patients_of_two(generator, 600, SURE)
        counts = noisy(histogram(*drawn, classes=2, bins=10), 20.0, generator)
        found = fit(counts, noise_variance=400.0)
        far.append(max(abs(float(np.log(found.slope))), abs(found.offset)))

    assert np.quantile(far, 0.95) < 1.7


def test_noise_that_could_be_all_there_is_leaves_the_identity_and_says_so() -> None:
    generator = np.random.default_rng(8)
    nothing = np.zeros((2, 1, 10))
    found = [fit(noisy(nothing, 30.0, generator), noise_variance=900.0) for _ in range(40)]
    lost = fit(np.full((2, 1, 10), 5), noise_variance=900.0)

    assert sum(each.why is None for each in found) <= 1
    assert lost == Scaling(
        why="noise exceeds signal: 50 patients of class 1 read through noise of ±186"
    )
    assert fit(np.zeros((2, 1, 10), dtype=np.int64), noise_variance=0.0).why == (
        "too few patients: 0 patients of class 1"
    )


def test_a_handful_of_patients_says_too_little() -> None:
    counts = np.zeros((2, 1, 10), dtype=np.int64)
    counts[1, 0, 7] = counts[0, 0, 3] = 1

    assert fit(counts, noise_variance=0.0).why == "too few patients: 2 patients"


@given(
    st.lists(st.integers(-60, 600), min_size=16, max_size=16),
    st.sampled_from([0.0, 1.0, 100.0, 2500.0]),
)
def test_a_slope_is_positive_whatever_the_counts(cells: list[int], variance: float) -> None:
    found = fit(np.array(cells).reshape(2, 1, 8), noise_variance=variance)

    assert 0.0 < found.slope < np.inf and np.isfinite(found.offset)
    assert found.why is None or (found.slope, found.offset) == (1.0, 0.0)


def test_scores_that_point_the_wrong_way_are_flattened_and_never_turned_round() -> None:
    scores, labels = patients_of_two(np.random.default_rng(9), 5000, Scaling())
    found = fit(histogram(scores[:, ::-1], labels, classes=2, bins=10), noise_variance=0.0)

    assert 0.0 < found.slope < 0.2


@pytest.mark.parametrize(("patients", "sigma"), [(300, 0.0), (2000, 5.0), (2000, 30.0)])
def test_the_exact_errors_before_and_after_lie_in_their_intervals(
    patients: int, sigma: float
) -> None:
    generator = np.random.default_rng(10)
    scores, labels = patients_of_two(generator, 40_000, SURE)
    held = []
    for _ in range(30):
        drawn = patients_of_two(generator, patients, SURE)
        counts = noisy(histogram(*drawn, classes=2, bins=10), sigma, generator)
        scaling = fit(counts, noise_variance=sigma**2)
        before, after = errors(counts, scaling, noise_variance=sigma**2)
        held.append(
            (
                before.low <= true_error(scores, scores, labels) <= before.high,
                after.low <= true_error(scores, scaling.apply(scores), labels) <= after.high,
                after.value is not None and before.value is not None and after.value < before.value,
            )
        )

    assert np.mean(held, axis=0).min() >= 0.95


def true_error(counted: np.ndarray, scaled: np.ndarray, labels: np.ndarray) -> float:
    """Over the bins in which patients were counted before the scaling."""
    bin_of = np.minimum((counted[:, 1] * 10).astype(int), 9)
    gaps = np.bincount(bin_of, weights=scaled[:, 1] - labels, minlength=10)
    return float(np.abs(gaps).sum() / len(labels))


def test_what_cannot_be_is_a_mistake_of_the_caller() -> None:
    counts = np.ones((2, 1, 10), dtype=np.int64)
    with pytest.raises(ValueError, match="shape of a release"):
        fit(np.ones((3, 2, 8), dtype=np.int64), noise_variance=0.0)
    with pytest.raises(ValueError, match="at least 0"):
        fit(counts, noise_variance=-1.0)
    with pytest.raises(ValueError, match="no scores follow"):
        Scaling(0.0)
    with pytest.raises(ValueError, match="patients, classes"):
        Scaling().apply(np.array([0.5]))
    with pytest.raises(ValueError, match="no calibration error"):
        errors(np.ones((3, 3, 10), dtype=np.int64), Scaling(), noise_variance=0.0)
