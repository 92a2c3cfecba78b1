"""The server optimiser's step: that of Flower's own class for a study's strategy.

A mean that was formed exactly is passed to ``aggregate_train`` as if it were the one reply
of the round; classes that need every reply get one message for each site. The class is
built again in each round and given the state that it carries, which is read from it afterwards:
so resuming is what happens in every round. ``configure_train`` is not used: it
samples sites without a seed, and a run could not be repeated.

A one-shot study has no such step: its head follows from the one sum that its sites released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import RoundError
from common.privacy.loudness import noise_variance
from common.privacy.mechanisms import NoMechanism, PatientMechanism
from common.strategies.strategy import FLAT, State
from common.study.aggregation import AggregationSettings
from common.study.study_file import Study
from common.wire.flower import Array, ArrayRecord, Message, RecordDict
from server.study.aggregation import Contribution, WeightedSum, Weights

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord
from flwr.app.exception import AppExitException

_LARGEST_NUMBER: Final = 8
"""Bytes of a number in the state of a strategy."""
_COUNT: Final = "num-examples"
"""The metric that Flower's strategies weigh replies by, unless told otherwise."""


@dataclass(frozen=True)
class OwnStep:
    """A server's step that a researcher wrote: a simulation's; a deployment has none.

    Attributes:
        step: gives weights and state, of the round's number, the weights before it, the weights
            that were reached with how much each counts, and the last state.
        every_reply: whether it is given each site's, by name; else their exact mean alone.
        where: the file, for errors.
    """

    step: Callable[[int, Weights, Sequence[Contribution], State], tuple[Any, Any]]
    every_reply: bool
    where: str

    def __call__(
        self,
        round_number: int,
        current: Weights,
        contributions: Sequence[Contribution],
        state: State,
    ) -> tuple[Weights, State]:
        """One step, as :func:`step`.

        Raises:
            RoundError: it failed, or gave no such weights.
        """
        try:
            given, carried = self.step(round_number, current.copy(), contributions, dict(state))
            weights = np.ascontiguousarray(given, dtype=np.float32)
            kept = {str(name): _numbers(value) for name, value in dict(carried).items()}
        except Exception as error:
            raise RoundError(
                f"your own strategy failed in round {round_number}",
                where=self.where,
                found=f"{type(error).__name__}: {error}",
                wanted="step(round_number, weights, reached, state) gives new weights and a "
                "dictionary of arrays of numbers",
                remedy="correct the file, and start again with another --out",
            ) from error
        if weights.shape != current.shape or not np.isfinite(weights).all():
            raise RoundError(
                f"your own strategy gave no usable weights after round {round_number}",
                where=self.where,
                found=f"shape {weights.shape}, finite: {bool(np.isfinite(weights).all())}",
                wanted=f"shape {current.shape}, all finite",
                remedy="correct the file, and start again with another --out",
            )
        return weights, kept


def _numbers(value: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - whatever the file gave
    """An array as a checkpoint holds it: so the next round has the same after a restart."""
    found = np.ascontiguousarray(value)  # a number by itself becomes an array of one
    if found.dtype.kind not in "biuf" or found.dtype.itemsize > _LARGEST_NUMBER:
        raise TypeError(f"{found.dtype} is no kind of number that a checkpoint holds")
    return found


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


def head_of_sums(
    study: Study,
    fold: WeightedSum,
    mechanisms: Mapping[str, PatientMechanism | NoMechanism],
) -> Weights:
    """The trained weights that follow from the sites' sums; public.

    Args:
        study: whose task says how.
        fold: of every site's update.
        mechanisms: of the sites, which say how much noise is in it.

    Returns:
        Flat float32, the head's weights and then its biases.
    """
    rows = study.heads.outputs
    # An update is the learning rate times the sum: minus the gradient of a loss that is minus it.
    change = fold.mean(study.fixed_point) / study.training.learning_rate
    weights, biases = change[:-rows].reshape(rows, -1), change[-rows:]
    variance = noise_variance((each, mechanisms[site]) for site, each in fold.weights.items())
    found = study.task.head(np.column_stack([weights, biases]), variance=variance)
    flat = np.concatenate([found[:, :-1].reshape(-1), found[:, -1]])
    return flat.astype(np.float32)
