from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from common.figures import confusion
from common.figures.histogram import histogram

BINARY = np.array([[[5, 3, 1, 1]], [[1, 2, 3, 6]]])


def test_two_classes_by_hand() -> None:
    """Of ten healthy patients two are named sick; of twelve sick ones, nine."""
    healthy, sick = confusion.tables(BINARY, 0.0, ("healthy", "sick"))

    assert confusion.matrix(BINARY) == ((8, 2), (3, 9))
    assert (sick.tp, sick.fn, sick.fp, sick.tn) == (9, 3, 2, 8)
    assert (healthy.tp, healthy.fn, healthy.fp, healthy.tn) == (8, 2, 3, 9)
    assert confusion.accuracy((healthy, sick)).value == pytest.approx(17 / 22)
    assert confusion.recall(sick).value == pytest.approx(9 / 12)
    assert confusion.specificity(sick).value == pytest.approx(8 / 10)
    assert confusion.precision(sick).value == pytest.approx(9 / 11)
    assert confusion.f1(sick).value == pytest.approx(18 / 23)


def test_noise_of_a_count_is_that_of_the_cells_it_adds_up() -> None:
    """Four bins: two cells on a side, for one true class or for the two others together."""
    counts = np.zeros((3, 3, 4), np.int64)

    assert {(t.noise, t.noise_of_others) for t in confusion.tables(counts, 5.0, "abc")} == {
        (10.0, 20.0)
    }


@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([2, 10, 14]))
def test_the_matrix_is_scikit_learn_s(seed: int, classes: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet(np.full(classes, 0.5), size=60)
    labels = generator.integers(0, classes, 60)
    counts = histogram(scores, labels, classes=classes, bins=bins)
    named = (scores[:, 1] >= 0.5).astype(int) if classes == 2 else scores.argmax(axis=1)

    expected = confusion_matrix(labels, named, labels=range(classes))
    assert confusion.matrix(counts) == tuple(tuple(row) for row in expected.tolist())


def test_nobody_named_means_no_precision_but_an_f1_of_zero() -> None:
    (_, sick) = confusion.tables(np.array([[[4, 0]], [[3, 0]]]), 0.0, ("healthy", "sick"))

    assert confusion.precision(sick).value is None
    assert confusion.precision(sick).why == "too few patients: 0 patients named sick"
    assert confusion.f1(sick).value == 0.0
