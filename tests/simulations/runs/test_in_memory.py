"""A study of one site gives a state before its first round and after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.checkpoint import Checkpoint
from common.models.networks import initial_weights
from common.privacy.mechanisms import mechanism
from simulations.runs.in_memory import Trained, rounds_in_memory
from tests.simulations.runs.test_baselines import PRIVATE, holding, study


def states(tmp_path: Path, name: str) -> Iterator[Checkpoint]:
    whole, east = study(PRIVATE), holding(tmp_path / name, "east", 20)
    planned = mechanism(whole, 20, 40)
    sites = {name: Trained(planned, east.images.open(), east.patients)}
    return rounds_in_memory(
        whole, sites, initial_weights(whole, 0), seed=0, choice=east.numerics.choice
    )


def test_the_first_state_has_the_studys_first_weights_and_each_later_one_a_round(
    tmp_path: Path,
) -> None:
    first, *later = states(tmp_path, "alone-east")

    assert first.round == 0
    np.testing.assert_array_equal(first.weights, initial_weights(study(PRIVATE), 0))
    assert [state.round for state in later] == [1, 2]


def test_the_same_name_has_the_same_noise_and_another_has_not(tmp_path: Path) -> None:
    names = ("alone-east", "alone-east", "pooled")
    last = [list(states(tmp_path, name))[-1].weights for name in names]

    np.testing.assert_array_equal(last[0], last[1])
    assert not np.array_equal(last[0], last[2])
