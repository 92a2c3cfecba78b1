"""Whole replies that are near the others, against sites that lie (Blanchard et al. 2017).

Multi-Krum is in the same paper, arXiv:1703.02757; Bulyan (El Mhamdi et al. 2018,
arXiv:1802.07927) trims what Krum selects. All three choose by the same distances.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from common.strategies.strategy import Strategy, option


class Krum(Strategy):
    """The one reply that is closest to the others.

    Attributes:
        num_malicious_nodes: sites that may be dishonest.
    """

    every_reply: ClassVar[bool] = True
    num_malicious_nodes: Annotated[
        int,
        option(
            "num_malicious_nodes",
            "sites that may be dishonest",
            (1, 1000),
            (0, 100),
            "no study has more sites",
            zero=True,
        ),
    ] = 0


class MultiKrum(Krum):
    """The average of several such replies.

    Attributes:
        num_nodes_to_select: how many.
    """

    num_nodes_to_select: Annotated[
        int,
        option(
            "num_nodes_to_select",
            "sites whose updates are used",
            (1, 10_000),
            (1, 1000),
            "no study has more sites",
        ),
    ] = 1


class Bulyan(Krum):
    """A trimmed average of several such replies."""

    @property
    def fewest_replies(self) -> int:
        """4 f + 3 against f dishonest sites, by the paper."""
        return 4 * self.num_malicious_nodes + 3
