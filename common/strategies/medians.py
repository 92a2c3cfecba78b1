"""Order statistics of each weight by itself, against sites that lie (Yin et al. 2018).

The two, arXiv:1803.01498, differ in an option.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from common.strategies.strategy import Strategy, option


class FedMedian(Strategy):
    """The median of each weight."""

    every_reply: ClassVar[bool] = True


class FedTrimmedAvg(Strategy):
    """The average of each weight without the largest and the smallest.

    Attributes:
        beta: share of the replies that is left out at each end.
    """

    every_reply: ClassVar[bool] = True
    beta: Annotated[
        float,
        option(
            "beta",
            "share of updates trimmed at each end",
            (1e-3, 0.499),
            (0, 0.4),
            "trimming half at each end leaves nothing",
            zero=True,
        ),
    ] = 0.2
