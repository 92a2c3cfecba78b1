"""What a result says first of a model that is of no use."""

from __future__ import annotations

import pytest

from simulations.reports.result import Figure, ResultMetrics
from simulations.runs.summary import useless


def figures(auc: float | None, sensitivity: float, specificity: float) -> ResultMetrics:
    def of(value: float | None) -> Figure:
        centre = 0.5 if value is None else value
        return Figure(value=value, low=max(0.0, centre - 0.05), high=min(1.0, centre + 0.05))

    return ResultMetrics(
        patients=400,
        auc=of(auc),
        accuracy=of(0.7),
        sensitivity=of(sensitivity),
        specificity=of(specificity),
        f1=of(0.5),
        calibration_error=of(0.1),
    )


@pytest.mark.parametrize(
    ("auc", "sensitivity", "specificity", "classes", "told"),
    [
        (0.8, 0.7, 0.7, 2, []),
        (0.56, 0.7, 0.4, 2, []),
        (0.54, 0.7, 0.4, 2, ["not better than chance: AUC 0.540 (0.490 to 0.590)"]),
        (0.3, 0.4, 0.3, 2, ["not better than chance"]),
        (None, 0.7, 0.7, 2, ["AUC not defined"]),
        (0.8, 0.0, 1.0, 2, ["almost every test patient the same class"]),
        (0.8, 0.99, 0.01, 2, ["almost every test patient the same class"]),
        (0.5, 1.0, 0.0, 2, ["not better than chance", "almost every test patient the same class"]),
        (0.8, 0.6, 0.9, 5, []),
        (0.8, 0.2, 0.8, 5, ["almost every test patient the same class"]),
    ],
)
def test_a_model_that_is_of_no_use_is_named(
    auc: float | None, sensitivity: float, specificity: float, classes: int, told: list[str]
) -> None:
    found = list(useless(figures(auc, sensitivity, specificity), classes))
    assert len(found) == len(told)
    for line, words in zip(found, told, strict=True):
        assert words in line
