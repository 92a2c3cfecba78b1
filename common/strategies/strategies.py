"""Every strategy that a study may name: a closed list."""

from __future__ import annotations

from typing import Final

from common.bounded import Bound
from common.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from common.strategies.fedavg import FedAvg
from common.strategies.fedavgm import FedAvgM
from common.strategies.fedprox import FedProx
from common.strategies.krum import Bulyan, Krum, MultiKrum
from common.strategies.medians import FedMedian, FedTrimmedAvg
from common.strategies.strategy import Strategy

STRATEGIES: Final[dict[str, type[Strategy]]] = {
    each.name(): each
    for each in (
        FedAvg,
        FedProx,
        FedAvgM,
        FedAdam,
        FedYogi,
        FedAdagrad,
        FedMedian,
        FedTrimmedAvg,
        Krum,
        MultiKrum,
        Bulyan,
    )
}

OPTIONS: Final = tuple(
    dict.fromkeys(
        bound
        for strategy in STRATEGIES.values()
        for field in strategy.model_fields.values()
        for bound in field.metadata
        if isinstance(bound, Bound)
    )
)
"""The bound of each option, once."""
