from __future__ import annotations

import numpy as np
import pytest
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import stats
from torch import from_numpy

from common.figures.intervals import Estimate
from common.figures.surface import distances, lengths, mean_length


def square(left: int, side: int = 3, size: int = 16) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[4 : 4 + side, left : left + side] = True
    return mask


def test_a_square_moved_by_one_pixel_by_hand() -> None:
    """Of each edge's eight pixels, four lie on the other's and four lie one pixel from it."""
    assert list(distances([(square(4), square(5))])) == pytest.approx([1 / 2, 1.0])


def test_one_image_has_monai_s_distances() -> None:
    generator = np.random.default_rng(2)
    found, there = generator.random((2, 24, 24)) < 0.1
    one, other = (from_numpy(mask)[None, None] for mask in (found, there))

    average, farthest = distances([(found, there)])
    assert farthest == pytest.approx(float(compute_hausdorff_distance(one, other, percentile=95)))
    expected = compute_average_surface_distance(one, other, symmetric=True)
    assert average == pytest.approx(float(expected), rel=1e-5)


def test_distances_of_images_are_put_together_and_images_without_an_edge_left_out() -> None:
    empty = np.zeros((16, 16), dtype=bool)
    near, far = (square(4), square(5)), (square(4), square(4))

    together = distances([near, (empty, square(3)), far, (square(3), empty)])
    assert list(together) == pytest.approx([1 / 4, 1.0])
    assert all(map(np.isnan, distances([(empty, square(3))])))


def test_the_mean_over_patients_has_student_s_interval() -> None:
    values = np.array([2.0, 3.0, np.nan, 4.0, 3.5])
    known = values[~np.isnan(values)]
    low, high = stats.t.interval(0.95, 3, known.mean(), stats.sem(known))

    figure = lengths(values, of="patients")
    assert figure.meaningful
    assert [figure.value, figure.low, figure.high] == pytest.approx([3.125, low, high])


def test_few_or_scattered_patients_give_no_usable_distance() -> None:
    assert lengths(np.array([np.nan, 2.0]), of="patients").why == "too few patients: 1 patients"
    assert lengths(np.array([]), of="patients").value is None
    scattered = lengths(np.array([1.0, 90.0]), of="patients")
    assert scattered.low == 0.0
    assert scattered.why == "too few patients: 2 patients"


def test_the_mean_over_classes_is_absent_where_one_is() -> None:
    known, unknown = lengths(np.array([2.0, 2.0]), of="a"), lengths(np.array([]), of="b")

    assert mean_length([known, known]) == Estimate(2.0, 2.0, 2.0)
    assert mean_length([known, unknown]).why == "too few patients: 0 b"
