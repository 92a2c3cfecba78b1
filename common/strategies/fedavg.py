"""The weighted average of the replies (McMahan et al. 2017, arXiv:1602.05629)."""

from __future__ import annotations

from common.strategies.strategy import Strategy


class FedAvg(Strategy):
    """The average as it is."""
