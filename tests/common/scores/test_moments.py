"""Heads in closed form: they find what there is to find, and keep little of what is noise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.scores.moments import LENGTH, Numbers, discriminant, least_squares

FEATURES = 20


def features(rng: np.random.Generator, means: Numbers) -> Numbers:
    """One row for each row of means, of the length that all have."""
    found = means + rng.normal(size=(len(means), FEATURES))
    return np.asarray(LENGTH * found / np.linalg.norm(found, axis=1, keepdims=True))


def summed(values: Numbers, known: Numbers) -> Numbers:
    """(known, features + 1), over the number of patients."""
    beside = np.column_stack([values, np.ones(len(values))])
    return np.asarray(known.T @ beside / len(values))


def classes(
    rng: np.random.Generator, count: int, patients: int, shift: float = 0.0
) -> tuple[Numbers, np.ndarray]:
    """Features around a mean for each class, all of them moved alike; and the classes."""
    # The same means each time: what is learned of some patients is tried on others.
    means = np.random.default_rng(7).normal(size=(count, FEATURES)) + shift
    labels = rng.choice(count, patients, p=np.arange(1, count + 1) / np.arange(1, count + 1).sum())
    return features(rng, means[labels]), labels


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0], ids=["centred", "not centred"])
def test_without_noise_classes_are_told_apart(count: int, shift: float) -> None:
    rng = np.random.default_rng(1)
    values, labels = classes(rng, count, 4000, shift)
    head = discriminant(summed(values, np.eye(count)[labels]), 0.0)
    others, truths = classes(rng, count, 2000, shift)
    logits = others @ head[:, :-1].T + head[:, -1]
    assert (logits.argmax(axis=1) == truths).mean() > 0.9
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # What it says of its chances is true on average, though features are not quite alike in spread.
    assert abs(shares.max(axis=1).mean() - (logits.argmax(axis=1) == truths).mean()) < 0.05


def test_noise_shrinks_the_head_towards_what_was_thought_before() -> None:
    rng = np.random.default_rng(2)
    values, labels = classes(rng, 2, 200)
    sums = summed(values, np.eye(2)[labels])
    lengths = []
    for deviation in (0.0, 0.1, 1.0):
        noised = sums + rng.normal(0.0, deviation, sums.shape)
        lengths.append(float(np.linalg.norm(discriminant(noised, deviation**2)[:, :-1])))
    assert lengths[0] > lengths[1] > 2 * lengths[2]
    drowned = discriminant(sums + rng.normal(0.0, 100.0, sums.shape), 100.0**2)
    assert np.isfinite(drowned).all()
    assert np.exp(drowned[:, -1]) / np.exp(drowned[:, -1]).sum() == pytest.approx(
        [0.5, 0.5], abs=0.2
    )


def test_the_direction_is_left_where_the_noise_is_known_to_be_large() -> None:
    rng = np.random.default_rng(3)
    values, labels = classes(rng, 2, 500)
    sums, (others, truths) = summed(values, np.eye(2)[labels]), classes(rng, 2, 500)
    scores = []
    for _ in range(20):
        head = discriminant(sums + rng.normal(0.0, 0.3, sums.shape), 0.3**2)
        scores.append(roc_auc_score(truths, others @ (head[1] - head[0])[:-1]))
    assert np.mean(scores) > 0.8


def test_a_class_that_nobody_has_is_rare_and_no_error() -> None:
    values, _ = classes(np.random.default_rng(4), 2, 300)
    head = discriminant(summed(values, np.eye(3)[np.zeros(300, dtype=int)]), 0.0)
    assert np.isfinite(head).all()
    logits = values @ head[:, :-1].T + head[:, -1]
    assert (logits.argmax(axis=1) == 0).mean() > 0.9
    assert np.isfinite(discriminant(np.zeros((3, 4)), 0.0)).all()


def test_a_line_through_a_number_says_what_features_tell_of_it() -> None:
    rng = np.random.default_rng(5)
    values, slope = features(rng, np.zeros((5000, FEATURES))), rng.normal(size=FEATURES) / 8
    numbers = np.clip(values @ slope / LENGTH + 0.3, -1, 1)
    head = least_squares(summed(values, numbers[:, None]), 0.0)
    said = values @ head[0, :-1] + head[0, -1]
    assert np.corrcoef(said, numbers)[0, 1] > 0.95
    assert np.abs(said - numbers).mean() < 0.05
    drowned = least_squares(rng.normal(0.0, 10.0, (1, FEATURES + 1)), 100.0)
    assert np.linalg.norm(drowned[0, :-1]) * LENGTH / np.sqrt(FEATURES) <= 1.0
    assert abs(drowned[0, -1]) <= 1.0
