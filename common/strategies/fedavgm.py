"""The average, with the server's momentum (Hsu et al. 2019, arXiv:1909.06335)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt

from common.strategies.strategy import FLAT, State, Strategy, option

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg as Optimiser


class FedAvgM(Strategy):
    """A round's change and a share of the last round's.

    Attributes:
        server_learning_rate: factor of the step.
        server_momentum: share of the last change. Flower's own default, 0, makes it FedAvg.
    """

    server_learning_rate: Annotated[
        float,
        option(
            "server_learning_rate",
            "server learning rate",
            (1e-4, 100),
            (0.1, 2),
            "1 uses the average as it is; other values stay near 1",
        ),
    ] = 1.0
    server_momentum: Annotated[
        float,
        option(
            "server_momentum",
            "server momentum",
            (1e-3, 0.999),
            (0, 0.99),
            "less has no effect; more averages over a thousand rounds",
            zero=True,
        ),
    ] = 0.9

    def restore(self, optimiser: Optimiser, current: npt.NDArray[np.float32], state: State) -> None:
        """Weights and momentum."""
        from flwr.app import Array, ArrayRecord
        from flwr.serverapp import strategy

        assert isinstance(optimiser, strategy.FedAvgM)
        optimiser.current_arrays = ArrayRecord({FLAT: Array(current)})
        if "momentum_vector" in state:
            optimiser.momentum_vector = [state["momentum_vector"]]

    def carried(self, optimiser: Optimiser) -> State:
        """The momentum, once there was a round."""
        from flwr.serverapp import strategy

        assert isinstance(optimiser, strategy.FedAvgM)
        momentum = optimiser.momentum_vector
        return {} if momentum is None else {"momentum_vector": momentum[0]}
