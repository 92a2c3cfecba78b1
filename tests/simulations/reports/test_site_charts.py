"""Pictures that stay readable, be it for four hospitals or for a thousand."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from simulations.reports.charts import MOST_SITES, comparison
from simulations.reports.report import MOST_ROWS, render
from simulations.reports.result import Result, SiteFacts, SiteFigure
from simulations.reports.site_charts import epsilon, fairness
from tests.simulations.conftest import figure, outcome, site


def axes() -> Axes:
    return Canvas().add_subplot()


def named(drawn: Axes) -> list[str]:
    return [str(each) for each in drawn.get_legend_handles_labels()[1]]


def spending(result: Result, sites: dict[str, SiteFacts]) -> list[str]:
    drawn = axes()
    epsilon(drawn, result.model_copy(update={"per_site": sites}))
    return named(drawn)


def test_hospitals_that_spend_alike_are_one_line(made_result: Result) -> None:
    sites = {f"site-{number:04d}": site(7.5) for number in range(1000)}
    assert spending(made_result, sites) == ["1000 hospitals: 7.500"]
    assert spending(made_result, sites | {"west": site(6.0)}) == [
        "1000 hospitals: 7.500",
        "west: 6.000",
    ]


def test_of_many_that_spend_differently_the_most_and_the_least_are_drawn(
    made_result: Result,
) -> None:
    sites = {f"site-{number:02d}": site(7.0 + number / 100) for number in range(40)}
    assert spending(made_result, sites) == [
        "most, site-39: 7.390",
        "least, site-00: 7.000",
    ]


def at_sites(result: Result, values: list[float]) -> Axes:
    drawn = axes()
    found = {
        f"site-{number:04d}": SiteFigure(patients=number, figure=figure(value, 0.1))
        for number, value in enumerate(values)
    }
    fairness(drawn, result.model_copy(update={"at_sites": found}))
    return drawn


def test_hospitals_are_named_with_their_patients_the_worst_first(made_result: Result) -> None:
    drawn = at_sites(made_result, [0.8, 0.6, 0.7])
    labels = [each.get_text() for each in drawn.get_yticklabels()]
    assert labels == ["site-0001 (1)", "site-0002 (2)", "site-0000 (0)"]


def test_many_hospitals_are_a_line_from_the_worst_to_the_best(made_result: Result) -> None:
    values = [0.5 + number / 1000 for number in range(MOST_SITES + 5)]
    (line,) = at_sites(made_result, values[::-1]).get_lines()
    across, up = line.get_data()
    np.testing.assert_array_equal(up, values)
    assert np.asarray(across)[-1] == 100


def test_of_many_hospitals_alone_the_best_the_middle_and_the_worst_are_drawn(
    made_result: Result,
) -> None:
    alone = tuple(outcome("alone", 0.5 + n / 1000, f"site-{n:04d}") for n in range(101))
    drawn = axes()
    comparison(drawn, made_result.model_copy(update={"baselines": alone}))
    labels = [each.get_text() for each in drawn.get_yticklabels()]
    assert labels == ["shared model", "site-0100 alone", "site-0050 alone", "site-0000 alone"]


def test_rows_of_many_hospitals_are_shown_on_a_click(made_result: Result) -> None:
    few = render(made_result.model_copy(update={"baselines": ()}), [])
    assert "<details>" not in few
    many = {f"site-{number:04d}": site(7.5) for number in range(MOST_ROWS + 1)}
    page = render(made_result.model_copy(update={"baselines": (), "per_site": many}), [])
    assert f"A row for each of the {MOST_ROWS + 1} hospitals" in page
    assert page.count("<details>") == page.count("</details>") == 1
