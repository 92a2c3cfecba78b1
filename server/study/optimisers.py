"""The server optimiser: Flower's own strategy classes, by name.

A mean that was formed exactly is passed to ``aggregate_train`` as if it were the one reply
of the round; classes that need every reply get one message for each site. The class is
built again in each round and given the state that it carries (momentum of FedAvgM, Hsu et al.
2019; moments of FedAdam, FedYogi and FedAdagrad, Reddi et al. 2021), which is read from it
afterwards: so resuming is what happens in every round. ``configure_train`` is not used: it
samples sites without a seed, and a run could not be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import RoundError
from common.study.strategies import AggregationSettings, StrategyName
from common.wire.flower import Array, ArrayRecord, Message, RecordDict
from server.study.aggregation import Contribution, Weights

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord
from flwr.app.exception import AppExitException
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

State = Mapping[str, npt.NDArray[Any]]
"""What an optimiser carries from round to round, by the name of Flower's attribute."""
CLASSES: Final[dict[StrategyName, type[FedAvg]]] = {
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
_FLAT: Final = "flat"
_COUNT: Final = "num-examples"
"""The metric that Flower's strategies weigh replies by, unless told otherwise."""


def build(settings: AggregationSettings) -> FedAvg:
    """Flower's class for these settings; what the study leaves out is Flower's default."""
    options = settings.options.model_dump(exclude_none=True)
    return CLASSES[settings.strategy](**options)


def fewest_replies(settings: AggregationSettings) -> int:
    """How many replies a round needs: ``min_sites``, and for Bulyan 4f + 3 (El Mhamdi 2018)."""
    if settings.strategy != "bulyan":
        return settings.min_sites
    malicious = getattr(build(settings), "num_malicious_nodes", 0)
    return max(settings.min_sites, 4 * malicious + 3)


def step(
    settings: AggregationSettings,
    round_number: int,
    current: Weights,
    contributions: Sequence[Contribution],
    state: State,
) -> tuple[Weights, State]:
    """One step of the server optimiser.

    Args:
        settings: which, with which parameters.
        round_number: 1 and up; FedAdam's bias correction depends on it.
        current: flat float32 weights before the round.
        contributions: weights that were reached, and by how much each counts.
        state: what the last step left.

    Returns:
        The flat float32 weights after the round, and the state for the next step.

    Raises:
        RoundError: the strategy gave nothing, or something that is not finite.
    """
    strategy = build(settings)
    _restore(strategy, current, state)
    replies = [_message(weights, count) for weights, count in contributions]
    try:
        arrays, _ = strategy.aggregate_train(round_number, replies)
    # AppExitException would end Flower's own process; here a resume may go on from the checkpoint.
    except (AppExitException, ValueError) as error:
        raise _failed(settings, round_number, str(error)) from error
    finally:
        _forget(replies)
    if arrays is None:
        raise _failed(settings, round_number, f"no result from {len(replies)} replies")
    # FedAdam and its kin give float64 for float32; the others the float64 of the exact mean.
    weights = arrays[_FLAT].numpy().astype(np.float32)
    if not np.isfinite(weights).all():
        raise _failed(settings, round_number, "weights that are not finite")
    return weights, _extract(strategy)


def _failed(settings: AggregationSettings, round_number: int, found: str) -> RoundError:
    return RoundError(
        f"{settings.strategy} could not form the weights after round {round_number}",
        where="[aggregation] strategy, options",
        found=found,
        remedy="choose other options or another strategy, and start a new study",
    )


def _message(weights: npt.NDArray[np.float64], count: int) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({_FLAT: Array(weights)}),
            "metrics": MetricRecord({_COUNT: count}),
        }
    )
    return Message(content, 0, "train")  # to node 0: a strategy reads it, nothing is sent


def _forget(replies: Sequence[Message]) -> None:
    """Free the arrays now: Flower's records refer to each other until garbage is collected."""
    for reply in replies:
        for record in reply.content.values():
            record.clear()


def _restore(strategy: FedAvg, current: Weights, state: State) -> None:
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = ArrayRecord({_FLAT: Array(current)})
        if "momentum_vector" in state:
            strategy.momentum_vector = [state["momentum_vector"]]
    elif isinstance(strategy, FedOpt):
        strategy.current_arrays = {_FLAT: current}
        for name in ("m_t", "v_t"):
            if name in state:
                setattr(strategy, name, {_FLAT: state[name]})


def _extract(strategy: FedAvg) -> State:
    if isinstance(strategy, FedAvgM):
        momentum = strategy.momentum_vector
        return {} if momentum is None else {"momentum_vector": momentum[0]}
    if isinstance(strategy, FedOpt):
        moments = {"m_t": strategy.m_t, "v_t": strategy.v_t}
        return {name: value[_FLAT] for name, value in moments.items() if value}
    return {}
