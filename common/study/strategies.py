"""The names and options of Flower's server optimisers, as a study may ask for them.

Names are Flower's class names in lower case; options carry Flower's parameter names. The
classes themselves are used in ``server.study.optimisers``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from common.bounded import Bound
from common.settings import Section
from common.study.bounds import bound

StrategyName = Literal[
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
]
Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhd]$")]
_ADAPTIVE: Final = frozenset({"eta", "eta_l", "tau"})
OPTIONS: Final[dict[StrategyName, frozenset[str]]] = {
    "fedavg": frozenset(),
    "fedprox": frozenset({"proximal_mu"}),
    "fedavgm": frozenset({"server_learning_rate", "server_momentum"}),
    "fedadam": _ADAPTIVE | {"beta_1", "beta_2"},
    "fedyogi": _ADAPTIVE | {"beta_1", "beta_2"},
    "fedadagrad": _ADAPTIVE,
    "fedmedian": frozenset(),
    "fedtrimmedavg": frozenset({"beta"}),
    "krum": frozenset({"num_malicious_nodes"}),
    "multikrum": frozenset({"num_malicious_nodes", "num_nodes_to_select"}),
    "bulyan": frozenset({"num_malicious_nodes"}),
}
ORDER_STATISTICS: Final = frozenset({"fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"})
"""Strategies that need every reply at once: their memory grows with the number of sites."""
SERVER_MOMENTUM: Final = 0.9
"""Of fedavgm, where a study leaves it out: Flower's own default, 0, makes it fedavg."""


def share_of(number: float) -> Fraction:
    """The share as it is written: 0.1 is one tenth, not the binary number beside it."""
    return Fraction(repr(number))


def _option(name: str) -> Bound:
    return bound(f"aggregation.options.{name}")


class StrategyOptions(Section):
    """``[aggregation.options]``: parameters of Flower's classes.

    What is left out is Flower's own default, but for the server momentum.
    """

    proximal_mu: Annotated[float, _option("proximal_mu")] | None = None
    server_learning_rate: Annotated[float, _option("server_learning_rate")] | None = None
    server_momentum: Annotated[float, _option("server_momentum")] | None = None
    eta: Annotated[float, _option("eta")] | None = None
    eta_l: Annotated[float, _option("eta_l")] | None = None
    tau: Annotated[float, _option("tau")] | None = None
    beta_1: Annotated[float, _option("beta_1")] | None = None
    beta_2: Annotated[float, _option("beta_2")] | None = None
    beta: Annotated[float, _option("beta")] | None = None
    num_malicious_nodes: Annotated[int, _option("num_malicious_nodes")] | None = None
    num_nodes_to_select: Annotated[int, _option("num_nodes_to_select")] | None = None


class AggregationSettings(Section):
    """``[aggregation]``: how the coordinator turns replies into the next global model.

    The defaults average noise: momentum that of the last rounds' gradients, the average of
    the weights that of the last rounds' models (evidence in ``docs/utility.md``).

    Attributes:
        strategy: one of Flower's server optimisers.
        options: its parameters.
        weights: ``declared`` weighs a site by its declared patients, ``equal`` by one.
        min_sites: usable replies that a round needs.
        max_share: the largest share of the average that one site may have, of those that have
            a plan; weights beyond it are lowered before round one. 1 caps nothing.
        round_timeout: how long a round waits for replies.
        approval_timeout: how long a study waits for people to decide about their plans.
        average_decay: above 0, the model that is evaluated and handed out is the
            exponential average of the global weights with this decay per round.
    """

    strategy: StrategyName = "fedavgm"
    options: StrategyOptions = StrategyOptions()
    weights: Literal["declared", "equal"] = "declared"
    min_sites: Annotated[int, bound("aggregation.min_sites")] = 2
    max_share: Annotated[float, bound("aggregation.max_share")] = 1.0
    round_timeout: Annotated[Duration, bound("aggregation.round_timeout")] = "30m"
    approval_timeout: Annotated[Duration, bound("aggregation.approval_timeout")] = "7d"
    average_decay: Annotated[float, bound("aggregation.average_decay")] = 0.95

    @model_validator(mode="before")
    @classmethod
    def _with_momentum(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        """Write out the momentum that is left out, so that the plan shows it."""
        if not isinstance(given, dict) or given.get("strategy", "fedavgm") != "fedavgm":
            return given
        options = given.get("options", {})
        options = options.model_dump() if isinstance(options, StrategyOptions) else options
        if not isinstance(options, dict) or options.get("server_momentum") is not None:
            return given
        return given | {"options": options | {"server_momentum": SERVER_MOMENTUM}}

    @model_validator(mode="after")
    def _options_belong(self) -> Self:
        given = self.options.model_dump(exclude_none=True)
        foreign = sorted(given.keys() - OPTIONS[self.strategy])
        if foreign:
            takes = ", ".join(sorted(OPTIONS[self.strategy])) or "no options"
            raise ValueError(
                f"strategy {self.strategy} has no option {', '.join(foreign)}; it takes {takes}"
            )
        if self.strategy == "fedprox" and self.options.proximal_mu is None:
            raise ValueError("strategy fedprox needs options.proximal_mu")
        return self

    @model_validator(mode="after")
    def _share_can_be_kept(self) -> Self:
        if share_of(self.max_share) * self.min_sites < 1:
            raise ValueError(
                f"max_share {self.max_share:g} is impossible with min_sites {self.min_sites}: of "
                f"{self.min_sites} sites, one has at least 1/{self.min_sites}; "
                "raise min_sites or max_share"
            )
        return self

    @property
    def proximal_mu(self) -> float:
        """FedProx's client term; 0 for every other strategy."""
        return self.options.proximal_mu or 0.0
