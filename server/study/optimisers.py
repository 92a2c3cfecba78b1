"""The server optimiser's step: that of Flower's own class for a study's strategy.

A mean that was formed exactly is passed to ``aggregate_train`` as if it were the one reply
of the round; classes that need every reply get one message for each site. The class is
built again in each round and given the state that it carries, which is read from it afterwards:
so resuming is what happens in every round. ``configure_train`` is not used: it
samples sites without a seed, and a run could not be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import RoundError
from common.strategies.strategy import FLAT, State
from common.study.aggregation import AggregationSettings
from common.wire.flower import Array, ArrayRecord, Message, RecordDict
from server.study.aggregation import Contribution, Weights

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord
from flwr.app.exception import AppExitException

_COUNT: Final = "num-examples"
"""The metric that Flower's strategies weigh replies by, unless told otherwise."""


def fewest_replies(settings: AggregationSettings) -> int:
    """How many replies a round needs: ``min_sites``, or what the strategy needs itself."""
    return max(settings.min_sites, settings.options.fewest_replies)


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
    strategy = settings.options
    optimiser = strategy.optimiser()
    strategy.restore(optimiser, current, state)
    replies = [_message(weights, count) for weights, count in contributions]
    try:
        arrays, _ = optimiser.aggregate_train(round_number, replies)
    # AppExitException would end Flower's own process; here a resume may go on from the checkpoint.
    except (AppExitException, ValueError) as error:
        raise _failed(settings, round_number, str(error)) from error
    finally:
        _forget(replies)
    if arrays is None:
        raise _failed(settings, round_number, f"no result from {len(replies)} replies")
    # FedAdam and its kin give float64 for float32; the others the float64 of the exact mean.
    weights = arrays[FLAT].numpy().astype(np.float32)
    if not np.isfinite(weights).all():
        raise _failed(settings, round_number, "weights that are not finite")
    return weights, strategy.carried(optimiser)


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
            "arrays": ArrayRecord({FLAT: Array(weights)}),
            "metrics": MetricRecord({_COUNT: count}),
        }
    )
    return Message(content, 0, "train")  # to node 0: a strategy reads it, nothing is sent


def _forget(replies: Sequence[Message]) -> None:
    """Free the arrays now: Flower's records refer to each other until garbage is collected."""
    for reply in replies:
        for record in reply.content.values():
            record.clear()
