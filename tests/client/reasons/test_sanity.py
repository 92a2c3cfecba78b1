"""What a map must do to be about the model: Adebayo et al. 2018 (arXiv:1810.03292), section 3.

With random weights it has to be another map, and of a model that has learned to find a square it
has to point at the square (the pointing game of Zhang et al. 2016, arXiv:1608.00507): at random it
would do so about once in sixteen times.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from client.reasons.methods import METHODS
from common.models.networks import seeded_model
from tests.client.reasons.squares import SIDE, examples, learned

Map = NDArray[np.float32]
LEARNED = [
    ("cnn", "grad_cam"),
    ("resunet", "grad_cam"),
    ("unet", "grad_cam"),
    ("cnn", "occlusion"),
    ("resunet", "occlusion"),
    ("unet", "occlusion"),
    ("cnn", "integrated_gradients"),
    ("resunet", "integrated_gradients"),
    ("unet", "integrated_gradients"),
    ("scattering", "integrated_gradients"),
    ("scattering", "contributions"),
]


@lru_cache
def maps(model: str, method: str, *, random: bool = False) -> list[tuple[Map, NDArray[Any]]]:
    """A map of each example, and where its square is; of each with other random weights."""
    study, trained = learned(model)
    reason = METHODS[method]
    assert reason.fits(study) is None
    return [
        (reason.of(seeded_model(study, 100 + place) if random else trained, study, image, 1), where)
        for place, (image, where) in enumerate(examples(model))
    ]


def hits(found: list[tuple[Map, NDArray[Any]]]) -> float:
    """The share of maps whose largest value is on the square."""
    return float(np.mean([where.reshape(-1)[values.argmax()] for values, where in found]))


@pytest.mark.parametrize(("model", "method"), LEARNED)
def test_a_map_points_at_what_the_model_learned_to_find(model: str, method: str) -> None:
    found = maps(model, method)
    assert hits(found) >= 0.75
    inside = [values[where].mean() for values, where in found]
    outside = [values[~where].mean() for values, where in found]
    assert np.mean(inside) > 3 * np.mean(outside)


@pytest.mark.parametrize(("model", "method"), LEARNED)
def test_random_weights_give_another_map(model: str, method: str) -> None:
    pairs = zip(maps(model, method), maps(model, method, random=True), strict=True)
    ranks = [_rank(one, other) for (one, _), (other, _) in pairs]
    assert abs(np.mean(ranks)) < 0.3
    assert np.mean(np.abs(ranks)) < 0.4
    assert hits(maps(model, method, random=True)) < hits(maps(model, method))


@pytest.mark.parametrize(("model", "method"), LEARNED)
def test_the_same_input_gives_the_same_bits_and_leaves_the_model_alone(
    model: str, method: str
) -> None:
    study, trained = learned(model)
    image, _ = examples(model)[0]
    before = [value.clone() for value in trained.parameters()]
    once, again = (METHODS[method].of(trained, study, image, 1) for _ in range(2))
    assert once.tobytes() == again.tobytes() == maps(model, method)[0][0].tobytes()
    assert once.shape == (SIDE, SIDE)
    assert once.dtype == np.float32
    assert METHODS[method].signed or once.min() >= 0
    assert all(map(torch.equal, before, trained.parameters()))
    assert trained.training
    assert not any(each._forward_hooks for each in trained.modules())  # noqa: SLF001 - no public way


@pytest.mark.parametrize(("model", "method"), LEARNED)
@pytest.mark.parametrize("grey", [0.0, 0.37, 1.0])
def test_an_even_image_has_a_map_of_numbers(model: str, method: str, grey: float) -> None:
    study, trained = learned(model)
    image = torch.full((1, SIDE, SIDE), grey)
    for target in range(study.heads.outputs):
        assert np.isfinite(METHODS[method].of(trained, study, image, target)).all()


def _rank(one: Map, other: Map) -> float:
    """Spearman's correlation; of a map without any difference, none."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
