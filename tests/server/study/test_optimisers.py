"""Every strategy gives what Flower's own class gives on the same decoded replies."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.checkpoint import Checkpoint, newest, write
from common.errors import RoundError
from common.strategies.fedavgm import FedAvgM as Momentum
from common.strategies.strategies import STRATEGIES
from common.strategies.strategy import State
from common.study.aggregation import AggregationSettings
from common.study.fixed_point import FixedPoint
from common.wire.flower import Array, ArrayRecord, Message, RecordDict, identify
from server.study.aggregation import begin
from server.study.optimisers import fewest_replies, step

# isort: split
from flwr.app import MetricRecord
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)
from flwr.serverapp.strategy.fedopt import FedOpt

FLOWERS: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}
FIXED_POINT = FixedPoint(dtype="int32", fraction_bits=24)
LENGTH, SITES, ROUNDS = 40, 7, 4
WEIGHTS = {f"site-{number}": 10 * (number + 1) for number in range(SITES)}
OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.1},
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "fedadam": {"eta": 0.01, "beta_1": 0.8},
    "fedyogi": {},
    "fedadagrad": {"eta": 0.05},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "bulyan": {"num_malicious_nodes": 1},
}


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    """A run; and since Flower's Bulyan collects garbage at every array, little garbage."""
    identify(1)
    gc.freeze()
    yield
    gc.unfreeze()


def settings_of(name: str) -> AggregationSettings:
    return AggregationSettings.model_validate({"strategy": name, "options": OPTIONS[name]})


def updates(number: int) -> dict[str, npt.NDArray[np.int32]]:
    """What the sites send in a round: always the same."""
    random = np.random.default_rng(number)
    return {
        site: FIXED_POINT.encode(0.02 * random.normal(size=LENGTH)).astype(np.int32)
        for site in WEIGHTS
    }


@dataclass
class Ours:
    """This package's side of the comparison."""

    settings: AggregationSettings
    weights: npt.NDArray[np.float32]
    state: State

    def round(self, number: int) -> None:
        fold = begin(self.settings, LENGTH, WEIGHTS)
        for site, units in reversed(updates(number).items()):
            fold.add(site, units)
        reached = fold.contributions(self.weights, FIXED_POINT)
        self.weights, self.state = step(self.settings, number, self.weights, reached, self.state)


def flowers_own(
    strategy: FedAvg, current: npt.NDArray[np.float32], number: int
) -> npt.NDArray[Any]:
    """One round of Flower's class, fed with one message for each site."""
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = ArrayRecord({"flat": Array(current)})
    elif isinstance(strategy, FedOpt):
        strategy.current_arrays = {"flat": current}
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"flat": Array(current + FIXED_POINT.decode(units))}),
                    "metrics": MetricRecord({"num-examples": WEIGHTS[site]}),
                }
            ),
            0,
            "train",
        )
        for site, units in updates(number).items()
    ]
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    return arrays["flat"].numpy()


def begun(name: str) -> Ours:
    random = np.random.default_rng(99)
    weights = random.uniform(-0.5, 0.5, size=LENGTH).astype(np.float32)
    return Ours(settings_of(name), weights, {})


@pytest.mark.parametrize("name", STRATEGIES)
def test_equals_flowers_own_class_within_one_unit_over_several_rounds(name: str) -> None:
    ours, theirs = begun(name), FLOWERS[name](**OPTIONS[name])
    for number in range(1, ROUNDS + 1):
        expected = flowers_own(theirs, ours.weights, number)
        ours.round(number)
        assert ours.weights.dtype == np.float32
        assert np.abs(ours.weights - expected).max() <= FIXED_POINT.unit


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_state_that_went_through_a_checkpoint_changes_no_bit(name: str, tmp_path: Path) -> None:
    undisturbed, resumed = begun(name), begun(name)
    for number in range(1, ROUNDS + 1):
        undisturbed.round(number)
        resumed.round(number)
        write(
            tmp_path,
            Checkpoint("s", 0, {}, number, resumed.weights, optimiser=resumed.state),
        )
        restored = newest(tmp_path)
        assert restored is not None
        assert restored.optimiser.keys() == resumed.state.keys() != set()
        resumed = Ours(resumed.settings, restored.weights, restored.optimiser)
    assert resumed.weights.tobytes() == undisturbed.weights.tobytes()


def test_fedavgm_by_hand() -> None:
    """With momentum 1/2: the step of round two is its own change and half of round one's."""
    settings = AggregationSettings(
        strategy="fedavgm",
        options=Momentum(server_momentum=0.5, server_learning_rate=1.0),
    )
    first, state = step(settings, 1, np.zeros(1, dtype=np.float32), [(np.array([1.0]), 1)], {})
    second, state = step(settings, 2, first, [(np.array([2.0]), 1)], state)
    assert second.tolist() == [1.0 + 1.0 + 0.5]
    assert state["momentum_vector"].tolist() == [-1.5]


def test_bulyan_that_gets_too_few_replies_fails_loudly() -> None:
    settings = settings_of("bulyan")
    assert fewest_replies(settings) == 7
    with pytest.raises(RoundError, match="bulyan could not form the weights after round 3"):
        step(settings, 3, np.zeros(1, dtype=np.float32), [(np.zeros(1), 1)] * 6, {})


def test_weights_that_are_not_finite_stop_the_round() -> None:
    with pytest.raises(RoundError, match="fedavg"):
        step(
            AggregationSettings(),
            1,
            np.zeros(1, dtype=np.float32),
            [(np.array([np.inf]), 1)],
            {},
        )
