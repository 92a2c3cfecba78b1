from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.metrics import mean_absolute_error, median_absolute_error, r2_score

from common.figures.figures import Figures
from common.figures.release import tally
from common.tasks.regression import Regression

AGE = Regression(quantity="age in years", lowest=20.0, highest=70.0)
WHOLE = Regression(reach=1.0)
"""Without errors that count as smaller ones."""


def patient(
    predicted: list[float], truth: float, task: Regression = AGE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets of a patient with these predictions, in the number's unit."""
    shares = (torch.tensor(predicted, dtype=torch.float64) - task.lowest) / task.width
    return (shares - 0.5)[:, None], torch.full((len(predicted),), truth)


def losses(
    task: Regression, outputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each item's loss and gradient, mapped over items as the engine does."""
    outputs = outputs.clone().requires_grad_()
    each = torch.func.vmap(task.loss)(outputs, targets)
    (gradient,) = torch.autograd.grad(each.sum(), outputs)
    return each.detach(), gradient


@pytest.mark.parametrize("huber", [0.001, 0.1, 1.0])
def test_the_loss_is_huber_s_of_the_share_of_the_range(huber: float) -> None:
    task = AGE.model_copy(update={"huber": huber})
    outputs = torch.linspace(-3.0, 3.0, 41)[:, None]
    targets = torch.linspace(0.0, 90.0, 41)
    error = outputs[:, 0].double() + 0.5 - ((targets.double() - 20.0) / 50.0).clamp(0.0, 1.0)
    square, straight = error**2 / (2.0 * huber), error.abs() - huber / 2.0
    found, gradient = losses(task, outputs, targets)

    assert torch.allclose(
        found.double(), torch.where(error.abs() < huber, square, straight), atol=1e-6
    )
    assert torch.allclose(gradient[:, 0].double(), (error / huber).clamp(-1.0, 1.0), atol=1e-4)


@given(
    arrays.arrays(np.float32, (5, 1), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    arrays.arrays(
        np.float32,
        5,
        elements=st.floats(width=32) | st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    ),
)
def test_finite_outputs_and_any_target_have_a_finite_loss_and_a_small_gradient(
    output: np.ndarray, target: np.ndarray
) -> None:
    for task in (AGE, Regression(lowest=-1e6, highest=1e6, huber=1e-3)):
        loss, gradient = losses(task, torch.tensor(output), torch.tensor(target))
        assert torch.isfinite(loss).all()
        assert (gradient.abs() <= 1.0).all()


def test_an_item_has_the_same_bits_at_every_place_and_beside_any_others() -> None:
    draw = torch.Generator().manual_seed(0)
    item, target = torch.randn(1, 1, generator=draw), torch.tensor(33.3)
    known = losses(AGE, item, target[None])
    for items in (2, 3, 16, 33):
        for at in range(items):
            outputs = 1e20 * torch.randn(items, 1, generator=draw)
            targets = 50.0 * torch.randn(items, generator=draw)
            outputs[at], targets[at] = item[0], target
            loss, gradient = losses(AGE, outputs, targets)
            assert torch.equal(loss[at], known[0][0]) and torch.equal(gradient[at], known[1][0])


@pytest.mark.parametrize(
    ("predicted", "truth", "third", "error", "number"),
    [
        ([45.0], 45.0, 1, 3, 2),
        ([46.0], 45.0, 1, 3, 2),  # 1 of a reach of 12.5: less than a quarter
        ([44.0], 45.0, 1, 2, 2),
        ([35.0], 45.0, 0, 1, 2),  # 10 of 12.5
        ([32.5], 45.0, 0, 1, 2),  # the reach itself
        ([32.0], 45.0, 0, 0, 2),  # beyond
        ([58.0], 45.0, 2, 5, 2),
        ([40.0, 52.0], 45.0, 1, 3, 2),  # the mean over the images
        ([300.0], 70.0, 2, 3, 3),  # predictions beyond the range lie at its end
        ([20.0], 5.0, 0, 3, 0),  # and so do numbers
        ([torch.nan], 25.0, 2, 5, 0),  # as wrong as can be
        ([torch.inf], 65.0, 0, 0, 3),
    ],
)
def test_marks_by_hand(
    predicted: list[float], truth: float, third: int, error: int, number: int
) -> None:
    marks = AGE.marks(*patient(predicted, truth), 4)
    assert marks.tolist() == [[0, third, error], [1, 0, number]]


def test_who_has_no_number_marks_nothing() -> None:
    release = AGE.release(4)
    none = AGE.marks(*patient([30.0], torch.nan), 4)
    assert tally([none], release).sum() == 0
    assert (release.shape, release.votes) == ((2, 3, 6), 2)


numbers = st.floats(width=32) | st.sampled_from([0.0, torch.nan, torch.inf, -torch.inf])


@given(
    arrays.arrays(np.float32, (3, 1), elements=numbers),
    numbers,
    st.integers(1, 30).map(lambda half: 2 * half),
    st.sampled_from([AGE, WHOLE, Regression(lowest=-1e6, highest=1e6, reach=0.01)]),
)
def test_whatever_a_patient_is_two_marks_lie_in_the_release(
    outputs: np.ndarray, target: float, bins: int, task: Regression
) -> None:
    marks = task.marks(torch.tensor(outputs), torch.full((3,), target), bins)
    counted = tally([marks], task.release(bins)).sum(axis=(1, 2)).tolist()

    assert counted == ([0, 0] if np.isnan(target) else [1, 1])
    assert len(marks) == sum(counted)
    if task is WHOLE and len(marks):
        assert 0 < marks[0, 2] < bins + 1


def test_exact_figures_are_scikit_learn_s_where_nothing_is_beyond() -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(20.0, 70.0, 200)
    predicted = np.clip(truth + generator.normal(2.0, 5.0, 200), 20.0, 70.0)
    task = AGE.model_copy(update={"reach": 1.0})
    pairs = [patient([p], t, task) for p, t in zip(predicted, truth, strict=True)]
    outputs, targets = map(list, zip(*pairs, strict=True))
    found = task.exact(zip(outputs, targets, strict=True))
    values = {name: each.value for name, each in found.values.items()}

    assert values["r2"] == pytest.approx(r2_score(truth, predicted), abs=1e-5)
    assert values["mean_error"] == pytest.approx(mean_absolute_error(truth, predicted), abs=1e-4)
    median = median_absolute_error(truth, predicted)
    assert values["median_error"] == pytest.approx(median, abs=0.1)
    assert values["bias"] == pytest.approx((predicted - truth).mean(), abs=1e-4)
    assert values["beyond"] == 0.0
    low = predicted < 20.0 + 50.0 / 3.0
    assert values["bias_lower"] == pytest.approx((predicted - truth)[low].mean(), abs=1e-4)
    assert found.patients.value == 200
    assert list(found.values) == list(Regression.names)
    assert Regression.headline in found.values


def test_a_larger_error_counts_as_the_reach() -> None:
    pairs = [patient([p], t) for p, t in ((45.0, 45.0), (70.0, 40.0), (45.0, 20.0), (30.0, 30.0))]
    outputs, targets = map(list, zip(*pairs, strict=True))
    found = AGE.exact(zip(outputs, targets, strict=True))

    assert found.values["mean_error"].value == pytest.approx(12.5 / 2.0)
    assert found.values["beyond"].value == 0.5
    assert AGE.doubts(found)[-1].startswith("LARGE ERRORS: for 50% of the patients")


@given(st.integers(0, 10_000))
def test_binned_and_exact_figures_agree(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.uniform(20.0, 70.0, 300)
    pairs = [patient([t + generator.normal(0.0, 4.0)], t) for t in truth]
    counts = tally([AGE.marks(*pair, 50) for pair in pairs], AGE.release(50))
    binned = AGE.figures(counts, noise_variance=0.0)
    exact = AGE.exact(pairs)

    assert binned.patients == exact.patients
    assert binned.values["beyond"] == exact.values["beyond"]
    for name, within in (("r2", 0.02), ("mean_error", 0.3), ("median_error", 0.6), ("bias", 0.3)):
        assert binned.values[name].value == pytest.approx(exact.values[name].value, abs=within)


noisy = st.lists(st.integers(-40, 200), min_size=36, max_size=36)


@given(noisy, st.floats(0.0, 2000.0), st.floats(0.1, 1000.0))
def test_whatever_noise_makes_of_the_counts_figures_stay_in_their_ranges(
    counts: list[int], noise: float, more: float
) -> None:
    array = np.array(counts).reshape(2, 3, 6)
    quiet = AGE.figures(array, noise_variance=noise).values
    loud = AGE.figures(array, noise_variance=noise + more).values
    for name, each in quiet.items():
        most = 1.0 if name in ("r2", "beyond") else 12.5
        least = -most if "bias" in name else 0.0
        assert least - 1e-9 <= each.low <= each.high <= most + 1e-9
        assert each.value is None or each.low - 1e-9 <= each.value <= each.high + 1e-9
        assert each.meaningful == (each.why is None)
        assert loud[name].high - loud[name].low >= each.high - each.low - 1e-9


def test_noise_that_drowns_the_patients_is_named_in_every_figure() -> None:
    counts = np.resize([30, -9, 80, 140, 200, -30, 10], (2, 3, 22))
    figures = AGE.figures(counts, noise_variance=9e4)
    assert not any(each.meaningful for each in (figures.patients, *figures.values.values()))
    assert all("noise exceeds signal" in str(each.why) for each in figures.values.values())


def test_of_patients_with_one_number_nothing_can_be_explained() -> None:
    pairs = [patient([p], 40.0) for p in (39.0, 40.0, 42.0)]
    figures = AGE.exact(pairs)
    assert figures.values["r2"].why == "every patient has the same number"
    assert AGE.doubts(figures) == (
        "NOT SHOWN TO BE BETTER THAN THE MEAN FOR ALL, which has R² 0: R² not defined",
    )
    assert not any(each.meaningful for each in AGE.exact([]).values.values())


def test_a_model_that_says_the_mean_explains_nothing_and_is_told_first() -> None:
    truth = np.linspace(20.0, 70.0, 400)
    pairs = [patient([45.0], t) for t in truth]
    figures = AGE.exact(pairs)
    assert figures.values["r2"].value == pytest.approx(0.0, abs=0.01)
    first, second = AGE.doubts(figures)
    assert first.startswith("NOT SHOWN TO BE BETTER THAN THE MEAN FOR ALL, which has R² 0: R² 0.0")
    assert second.startswith("LARGE ERRORS: for 50% of the patients")

    good = [patient([t + 1.0], t) for t in truth]
    assert AGE.doubts(AGE.exact(good)) == ()


def test_patients_are_counted_once_and_cells_that_nobody_marks_are_left_out() -> None:
    counts = np.zeros(AGE.release(4).shape, dtype=np.int64)
    counts[0, 1, 2], counts[1, 0, 3], counts[1, 1:], counts[1, 0, 4:] = 100, 100, 9, 9
    patients = AGE.figures(counts, noise_variance=4.0).patients
    # The two estimates are weighed by their variances, so the last bit is the processor's.
    assert AGE.groups(counts, 4).tolist() == [patients.value] == [pytest.approx(100.0)]
    # Of 18 and 4 cells with a variance of 4 each, weighing 4 and 18: sqrt(4 * 18 * 4 / 22).
    assert patients.high - 100.0 == pytest.approx(1.96 * (4.0 * 18.0 * 4.0 / 22.0) ** 0.5, rel=1e-3)


def test_every_figure_lies_in_a_range_of_its_span() -> None:
    nobody = AGE.figures(np.zeros((2, 3, 12), dtype=np.int64), noise_variance=0.0)
    drowned = AGE.figures(np.full((2, 3, 12), 9), noise_variance=1e9)
    assert set(nobody.values) == set(Regression.names)
    for name, each in drowned.values.items():
        assert each.high - each.low == pytest.approx(AGE.span(name))


Population = Callable[[np.random.Generator, int], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""True numbers and predictions, as shares of the range."""


def close(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    truth = generator.normal(0.5, 0.2, patients)
    return truth, truth + generator.normal(0.0, 0.07, patients)


def skewed(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    truth = generator.beta(2, 5, patients)
    return truth, 0.08 + 0.7 * truth + generator.normal(0.0, 0.08, patients)


def outlying(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    truth = generator.normal(0.5, 0.2, patients)
    lost = generator.random(patients) < 0.05
    near = truth + generator.normal(0.0, 0.05, patients)
    return truth, np.where(lost, generator.random(patients), near)


def shifted(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """All errors in one cell, beside its middle."""
    truth = generator.normal(0.5, 0.2, patients)
    return truth, truth + generator.normal(0.03, 0.01, patients)


def ignorant(generator: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    return generator.normal(0.5, 0.2, patients), generator.normal(0.5, 0.01, patients)


EVERYONE = 20_000
"""Patients of a population, from which a release draws."""


@cache
def everyone(population: Population) -> tuple[torch.Tensor, torch.Tensor]:
    truth, predicted = population(np.random.default_rng(3), EVERYONE)
    return torch.tensor(predicted)[:, None, None] - 0.5, torch.tensor(truth)[:, None]


@cache
def marks_of(population: Population, bins: int) -> list[NDArray[np.int64]]:
    task = Regression()
    return [task.marks(*pair, bins) for pair in zip(*everyone(population), strict=True)]


@dataclass(frozen=True)
class Setting:
    population: Population
    patients: int
    sigma: float
    bins: int | None = 10
    """None: the values themselves."""

    @property
    def name(self) -> str:
        return f"{self.population.__name__}, {self.patients}, {self.sigma}, {self.bins}"

    def draw(self, generator: np.random.Generator) -> Figures:
        task = Regression()
        who = generator.integers(0, EVERYONE, self.patients)
        outputs, targets = everyone(self.population)
        if self.bins is None:
            return task.exact(zip(outputs[who], targets[who], strict=True))
        marks = marks_of(self.population, self.bins)
        counts = tally([marks[each] for each in who], task.release(self.bins))
        noisy = np.rint(counts + generator.normal(0.0, self.sigma, counts.shape))
        variance = self.sigma**2 + 1.0 / 12.0 if self.sigma else 0.0
        return task.figures(noisy.astype(np.int64), noise_variance=variance)


def truths(population: Population) -> dict[str, float]:
    """Of everyone, in numpy; a third in which nobody is predicted has no figure."""
    outputs, targets = everyone(population)
    predicted = np.clip(outputs.numpy()[:, 0, 0] + 0.5, 0.0, 1.0)
    truth = np.clip(targets.numpy()[:, 0], 0.0, 1.0)
    error = np.clip(predicted - truth, -0.25, 0.25)
    away = np.minimum((truth - truth.mean()) ** 2, 0.25**2)
    found = {
        "r2": max(1.0 - float((error**2).mean() / away.mean()), 0.0),
        "mean_error": float(np.abs(error).mean()),
        "median_error": float(np.median(np.abs(error))),
        "bias": float(error.mean()),
        "beyond": float((np.abs(predicted - truth) > 0.25).mean()),
    }
    for third, (low, high) in zip(
        ("lower", "middle", "upper"), pairwise((0.0, 1 / 3, 2 / 3, 1.1)), strict=True
    ):
        here = (low <= predicted) & (predicted < high)
        if here.any():
            found[f"bias_{third}"] = float(error[here].mean())
    return found


@pytest.mark.matrix(setting=lambda setting: setting.population.__name__)
@pytest.mark.parametrize(
    "setting",
    [
        Setting(close, 400, 2.0),
        Setting(close, 1000, 8.0, 20),
        Setting(close, 50, 0.0, None),
        Setting(skewed, 100, 0.0),
        Setting(skewed, 1000, 8.0),
        Setting(outlying, 100, 0.0, None),
        Setting(outlying, 400, 2.0),
        Setting(shifted, 100, 0.0),
        Setting(shifted, 1000, 2.0, 20),
        Setting(ignorant, 400, 2.0),
        Setting(ignorant, 100, 0.0, None),
    ],
    ids=lambda setting: setting.name,
)
def test_intervals_cover_the_population_s_figures_in_93_of_100_releases(setting: Setting) -> None:
    """Of the values before they are binned; each release with new patients and new noise."""
    generator = np.random.default_rng(7)
    true = truths(setting.population)
    covered = dict.fromkeys(true, 0)
    releases = 200
    for _ in range(releases):
        values = setting.draw(generator).values
        for name, number in true.items():
            each = values[name]
            covered[name] += each.value is None or each.low <= number <= each.high
    # Of 200 releases, 93 in 100 less two standard deviations.
    assert min(covered.values()) / releases >= 0.93 - 0.036, covered


def test_where_noise_is_moderate_intervals_are_narrow_enough_to_be_figures() -> None:
    """Coverage is not bought with intervals that say nothing."""
    generator = np.random.default_rng(1)
    drawn = [Setting(close, 400, 2.0).draw(generator).values for _ in range(30)]
    for name, widest in (("r2", 0.25), ("mean_error", 0.04), ("bias", 0.05), ("bias_upper", 0.12)):
        assert np.mean([each[name].high - each[name].low for each in drawn]) < widest
    assert all(each.meaningful for values in drawn for each in values.values())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ("young", "old")}, "a number has no classes"),
        ({"lowest": 1.0}, "by at least a thousandth"),
        ({"lowest": 70.0, "highest": 20.0}, "task.highest is 20"),
        ({"lowest": 999.1, "highest": 1000.0}, "by at least a thousandth"),
        ({"lowest": 0.0, "highest": 0.0}, "should be above task.lowest"),
        ({"huber": 0.0}, "0.001 to 1"),
        ({"reach": 1.5}, "0.01 to 1"),
        ({"range": [0.0, 1.0]}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Regression.model_validate({"kind": "regression"} | keys)


def test_what_is_public_follows_from_the_section_alone() -> None:
    assert AGE.heads() == (1, False)
    assert AGE.words() == (
        "prediction of age in years, from 20 to 70; numbers beyond count as the nearer end",
    )
    assert (AGE.target, AGE.headline, AGE.largest_factor) == ("value", "r2", 1.0)
