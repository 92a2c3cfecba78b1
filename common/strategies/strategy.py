"""What every strategy is: its options, what a site adds to a step, and Flower's class for it.

A strategy is named as Flower's class in lower case, and its options as Flower's parameters. Both
halves of one are in its file: what a site computes, and what the coordinator does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from common.bounded import Bound
from common.settings import Section

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg as Optimiser
    from torch import Tensor

State = Mapping[str, npt.NDArray[Any]]
"""What an optimiser carries from round to round, by the name of Flower's attribute."""
FLAT: Final = "flat"
"""The name of the one array that travels."""


class Strategy(Section):
    """``[aggregation.options]``: a strategy, with its own options and no other's.

    Attributes:
        every_reply: whether it needs every reply at once, so that memory grows with the number
            of sites.
    """

    every_reply: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _options_belong(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        if isinstance(given, dict) and (foreign := sorted(given.keys() - cls.model_fields.keys())):
            takes = ", ".join(sorted(cls.model_fields)) or "no options"
            raise ValueError(
                f"strategy {cls.name()} has no option {', '.join(foreign)}; it takes {takes}"
            )
        return given

    @classmethod
    def name(cls) -> str:
        """What a study file calls it."""
        return cls.__name__.lower()

    @property
    def pull(self) -> float:
        """How much of its way from the round's first weights a site takes back in a step."""
        return 0.0

    def local_term(self, weights: Tensor, start: Tensor) -> Tensor:
        """What a site adds to a step, after the noise: a function of weights alone, which is free.

        Args:
            weights: flat, before the step.
            start: flat, those that the round began with.
        """
        return self.pull * (weights - start)

    @property
    def fewest_replies(self) -> int:
        """How many replies a round needs at least, whatever the study says."""
        return 1

    # Who calls what follows has imported common.wire.flower, which keeps Flower off the network.
    def optimiser(self) -> Optimiser:
        """Flower's class of this name, with these options."""
        from flwr.serverapp import strategy

        return cast("Optimiser", getattr(strategy, type(self).__name__)(**self.model_dump()))

    def restore(self, optimiser: Optimiser, current: npt.NDArray[np.float32], state: State) -> None:
        """Give an optimiser that was built again what it carried.

        Args:
            optimiser: of :meth:`optimiser`.
            current: flat weights before the round.
            state: what :meth:`carried` gave after the last round; empty before the first.
        """

    def carried(self, optimiser: Optimiser) -> State:
        """What an optimiser carries to the next round."""
        return {}


def option(
    key: str,
    name: str,
    ends: tuple[float, float],
    usual: tuple[float, float],
    why: str,
    *,
    zero: bool = False,
) -> Bound:
    """The bound of an option; as in :class:`common.bounded.Bound`."""
    return Bound(f"aggregation.options.{key}", key, name, *ends, usual, why, zero=zero)
