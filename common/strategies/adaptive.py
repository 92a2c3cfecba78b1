"""The average, with a step size for each weight (Reddi et al. 2021, arXiv:2003.00295).

The three share all but how the squares of earlier changes are remembered, and a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import numpy.typing as npt

from common.strategies.strategy import FLAT, State, Strategy, option

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg as Optimiser

_FORGETS: Final = "less has no effect; more averages over ten thousand rounds"
Eta = Annotated[
    float,
    option(
        "eta",
        "server learning rate (eta)",
        (1e-6, 100),
        (1e-3, 1),
        "less learns nothing; more makes training unstable",
    ),
]
SitesEta = Annotated[
    float,
    option(
        "eta_l",
        "sites' learning rate for the server optimiser (eta_l)",
        (1e-6, 1000),
        (1e-3, 20),
        "the same reason as for the learning rate",
    ),
]
Tau = Annotated[
    float,
    option(
        "tau",
        "server adaptivity (tau)",
        (1e-10, 10),
        (1e-9, 0.1),
        "it prevents a division by zero; more stops all learning",
    ),
]
Beta1 = Annotated[
    float,
    option(
        "beta_1",
        "server memory of changes (beta 1)",
        (1e-3, 0.9999),
        (0, 0.99),
        _FORGETS,
        zero=True,
    ),
]
Beta2 = Annotated[
    float,
    option(
        "beta_2",
        "server memory of squares (beta 2)",
        (1e-3, 0.9999),
        (0, 0.9999),
        _FORGETS,
        zero=True,
    ),
]


class Adaptive(Strategy):
    """What the three share; the defaults are Flower's.

    Attributes:
        eta: the server's learning rate.
        eta_l: the sites'.
        tau: added to each weight's divisor.
    """

    eta: Eta = 0.1
    eta_l: SitesEta = 0.1
    tau: Tau = 1e-3

    def restore(self, optimiser: Optimiser, current: npt.NDArray[np.float32], state: State) -> None:
        """Weights and both moments."""
        from flwr.serverapp.strategy.fedopt import FedOpt

        assert isinstance(optimiser, FedOpt)
        optimiser.current_arrays = {FLAT: current}
        for name in ("m_t", "v_t"):
            if name in state:
                setattr(optimiser, name, {FLAT: state[name]})

    def carried(self, optimiser: Optimiser) -> State:
        """Both moments, once there was a round."""
        from flwr.serverapp.strategy.fedopt import FedOpt

        assert isinstance(optimiser, FedOpt)
        moments = {"m_t": optimiser.m_t, "v_t": optimiser.v_t}
        return {name: value[FLAT] for name, value in moments.items() if value}


class FedAdam(Adaptive):
    """It forgets old squares at a constant rate.

    Attributes:
        beta_1: memory of changes.
        beta_2: memory of their squares.
    """

    beta_1: Beta1 = 0.9
    beta_2: Beta2 = 0.99


class FedYogi(Adaptive):
    """It lowers its memory of squares only slowly.

    Attributes:
        beta_1: memory of changes.
        beta_2: memory of their squares.
    """

    eta: Eta = 0.01
    eta_l: SitesEta = 0.0316
    beta_1: Beta1 = 0.9
    beta_2: Beta2 = 0.99


class FedAdagrad(Adaptive):
    """It forgets no square."""
