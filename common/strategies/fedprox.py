"""The average; sites are held near the weights sent out (Li et al. 2020, arXiv:1812.06127)."""

from __future__ import annotations

from typing import Annotated

from common.strategies.strategy import Strategy, option


class FedProx(Strategy):
    """Each step of a site is drawn back to the round's first weights.

    Attributes:
        proximal_mu: how strongly.
    """

    proximal_mu: Annotated[
        float,
        option(
            "proximal_mu",
            "FedProx: pull towards the round's first weights",
            (1e-6, 100),
            (0, 10),
            "less has no effect; more lets no weight move",
            zero=True,
        ),
    ]

    @property
    def pull(self) -> float:
        """The gradient of mu / 2 times the squared distance is mu times the distance."""
        return self.proximal_mu
