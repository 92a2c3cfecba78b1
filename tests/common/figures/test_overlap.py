from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.figures.intervals import share
from common.figures.overlap import Overlaps, binned, exactly

Population = Callable[[np.random.Generator, int], NDArray[np.float64]]
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def wide(generator: np.random.Generator, patients: int) -> NDArray[np.float64]:
    return generator.beta(8, 2, patients)


def narrow(generator: np.random.Generator, patients: int) -> NDArray[np.float64]:
    """All in one bin, beside its middle."""
    return np.clip(generator.normal(0.92, 0.01, patients), 0.01, 1.0)


def rarely_missed(generator: np.random.Generator, patients: int) -> NDArray[np.float64]:
    """Of few patients most samples have none at 0."""
    return np.where(generator.random(patients) < 0.05, 0.0, narrow(generator, patients))


def poor(generator: np.random.Generator, patients: int) -> NDArray[np.float64]:
    return np.where(generator.random(patients) < 0.6, 0.0, generator.beta(1, 4, patients))


def cells(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    at = np.where(values > 0.0, 1 + np.minimum(values * bins, bins - 1).astype(int), 0)
    return np.bincount(at, minlength=bins + 1).astype(np.int64)


def pooled(counts: list[int], noise: float = 0.0) -> Overlaps:
    return binned(np.array(counts), noise=noise, of="patients with lesion")


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

    def draw(self, generator: np.random.Generator) -> Overlaps:
        values = self.population(generator, self.patients)
        if self.bins is None:
            return exactly(values, of="patients")
        counts = cells(values, self.bins)
        noisy = np.rint(counts + generator.normal(0.0, self.sigma, counts.shape))
        variance = self.sigma**2 + 1.0 / 12.0 if self.sigma else 0.0
        return binned(noisy.astype(np.int64), noise=variance, of="patients")


def test_the_mean_is_that_of_the_middles_of_bins_and_of_0() -> None:
    """Two missed, one in (0, 1/2) and three in [1/2, 1]: (0.25 + 3 * 0.75) / 6."""
    assert pooled([2, 1, 3]).mean().value == pytest.approx(2.5 / 6)


def test_a_quantile_is_straight_within_its_bin() -> None:
    """Of ten patients the fifth is the third of four in [1/2, 3/4)."""
    assert pooled([1, 0, 1, 4, 4]).quantile(0.5).value == pytest.approx(0.5 + 0.25 * 3 / 4)
    assert pooled([6, 0, 1, 1, 2]).quantile(0.5).value == 0.0


def test_exact_values_have_their_own_mean_and_an_observed_median() -> None:
    values = np.random.default_rng(3).beta(8, 2, 101)
    found = exactly(values, of="patients")

    assert found.mean().value == pytest.approx(values.mean(), abs=1e-12)
    assert found.quantile(0.5).value == np.median(values)


def test_many_patients_have_student_s_interval() -> None:
    values = np.random.default_rng(0).beta(8, 2, 20_000)
    reach = 1.96 * values.std() / np.sqrt(len(values))

    figure = exactly(values, of="patients").mean()
    assert [figure.low, figure.high] == pytest.approx(
        [values.mean() - reach, values.mean() + reach], abs=1e-3
    )


@pytest.mark.parametrize("patients", [10, 100, 1000])
def test_where_no_patient_is_missed_the_interval_is_about_wilson_s(patients: int) -> None:
    figure = exactly(np.ones(patients), of="patients").mean()

    assert figure.value == figure.high == 1.0
    assert 1.0 - figure.low == pytest.approx(
        1.0 - share(patients, 0, of="").low, rel=0.25, abs=1e-3
    )


noisy = st.lists(st.integers(-40, 200), min_size=7, max_size=7)


@given(noisy, st.floats(0.0, 2000.0), st.sampled_from(SHARES))
def test_whatever_noise_makes_of_the_counts_a_figure_stays_in_its_range(
    counts: list[int], noise: float, part: float
) -> None:
    for figure in (pooled(counts, noise).mean(), pooled(counts, noise).quantile(part)):
        assert 0.0 <= figure.low <= figure.high <= 1.0
        assert figure.value is None or figure.low <= figure.value <= figure.high
        assert figure.meaningful == (figure.why is None)


@given(noisy, st.floats(0.0, 2000.0), st.floats(0.1, 1000.0))
def test_more_noise_never_narrows_an_interval(counts: list[int], noise: float, more: float) -> None:
    for part in (None, *SHARES):
        quiet, loud = (
            each.mean() if part is None else each.quantile(part)
            for each in (pooled(counts, noise), pooled(counts, noise + more))
        )
        assert loud.high - loud.low >= quiet.high - quiet.low - 1e-9


def test_why_a_figure_means_nothing_tells_noise_from_few_patients_and_coarse_bins() -> None:
    def whys(counts: list[int], noise: float = 0.0) -> set[str | None]:
        return {pooled(counts, noise).mean().why, pooled(counts, noise).quantile(0.5).why}

    assert whys([0, 1, 2, 8, 9], 900.0) == {
        "noise exceeds signal: 20 patients with lesion read through noise of ±131"
    }
    assert whys([0, 0, 1, 1, 0]) == {"too few patients: 2 patients with lesion"}
    assert whys([0, 0, 0, 0, 0]) == {"too few patients: 0 patients with lesion"}
    assert whys([0, -9, 0, 4, 2], 9.0) == {
        "noise exceeds signal: -3 patients with lesion read through noise of ±13"
    }
    assert whys([0, 500, 500]) == {"bins too coarse: each holds a wide range of values"}
    assert whys([0, 0, 20, 200, 900, 300]) == {None}


@pytest.mark.matrix(setting=lambda setting: setting.population.__name__)
@pytest.mark.parametrize(
    "setting",
    [
        Setting(wide, 5, 0.0),
        Setting(wide, 100, 0.0, None),
        Setting(wide, 100, 2.0),
        Setting(wide, 1000, 8.0, 20),
        Setting(rarely_missed, 20, 0.0),
        Setting(rarely_missed, 5, 0.0, None),
        Setting(rarely_missed, 50, 0.0, None),
        Setting(rarely_missed, 500, 4.0),
        Setting(narrow, 1000, 2.0),
        Setting(narrow, 20, 2.0),
        Setting(poor, 20, 8.0),
        Setting(poor, 1000, 8.0, 20),
        Setting(poor, 1000, 0.0, None),
    ],
    ids=lambda setting: setting.name,
)
def test_intervals_cover_the_population_s_figures_in_93_of_100_releases(setting: Setting) -> None:
    """Of the values before they are binned; each release with new patients and new noise."""
    generator = np.random.default_rng(7)
    everyone = setting.population(generator, 1_000_000)
    truth = np.append(everyone.mean(), np.quantile(everyone, SHARES))
    covered = np.zeros(len(truth))
    releases = 400
    for _ in range(releases):
        drawn = setting.draw(generator)
        figures = [drawn.mean(), *map(drawn.quantile, SHARES)]
        covered += [
            each.low <= true <= each.high for each, true in zip(figures, truth, strict=True)
        ]
    assert covered.min() / releases >= 0.93, covered / releases


def test_where_noise_is_moderate_the_interval_is_narrow_enough_to_be_a_figure() -> None:
    """Coverage is not bought with intervals that say nothing."""
    generator = np.random.default_rng(1)
    drawn = [Setting(wide, 1000, 4.0).draw(generator) for _ in range(50)]

    assert max(each.mean().high - each.mean().low for each in drawn) < 0.12
    assert all(each.quantile(part).meaningful for each in drawn for part in SHARES)
