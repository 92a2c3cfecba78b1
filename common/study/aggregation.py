"""``[aggregation]`` of a study: a strategy, and how replies are weighed and waited for."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from common.settings import Section
from common.strategies.strategies import STRATEGIES
from common.strategies.strategy import Strategy
from common.study.bounds import bound


def _listed(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"should be one of {', '.join(map(repr, STRATEGIES))}")
    return name


Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhd]$")]


def share_of(number: float) -> Fraction:
    """The share as it is written: 0.1 is one tenth, not the binary number beside it."""
    return Fraction(repr(number))


class AggregationSettings(Section):
    """``[aggregation]``: how the coordinator turns replies into the next global model.

    The defaults average noise: momentum that of the last rounds' gradients, the average of
    the weights that of the last rounds' models (evidence in ``docs/utility.md``).

    Attributes:
        strategy: the name of one of :data:`common.strategies.strategies.STRATEGIES`.
        options: the strategy itself, with its own options.
        weights: ``declared`` weighs a site by its declared patients, ``equal`` by one.
        min_sites: usable replies that a round needs.
        max_share: the largest share of the average that one site may have, of those that have
            a plan; weights beyond it are lowered before round one. 1 caps nothing.
        round_timeout: how long a round waits for replies.
        approval_timeout: how long a study waits for people to decide about their plans.
        average_decay: above 0, the model that is evaluated and handed out is the
            exponential average of the global weights with this decay per round.
    """

    strategy: Annotated[str, AfterValidator(_listed)] = "fedavgm"
    options: SerializeAsAny[Strategy] = Field(default_factory=dict, validate_default=True)
    weights: Literal["declared", "equal"] = "declared"
    min_sites: Annotated[int, bound("aggregation.min_sites")] = 2
    max_share: Annotated[float, bound("aggregation.max_share")] = 1.0
    round_timeout: Annotated[Duration, bound("aggregation.round_timeout")] = "30m"
    approval_timeout: Annotated[Duration, bound("aggregation.approval_timeout")] = "7d"
    average_decay: Annotated[float, bound("aggregation.average_decay")] = 0.95

    @field_validator("options", mode="before")
    @classmethod
    def _of_the_strategy(cls, given: Any, info: ValidationInfo) -> Strategy:  # noqa: ANN401 - whatever the file holds
        # A strategy that does not exist is told of by itself, and nothing of its options.
        if (name := info.data.get("strategy")) is None:
            return Strategy()
        if isinstance(given, Strategy):
            given = given.model_dump()
        return STRATEGIES[name].model_validate(given)

    @model_validator(mode="after")
    def _share_can_be_kept(self) -> Self:
        if share_of(self.max_share) * self.min_sites < 1:
            raise ValueError(
                f"max_share {self.max_share:g} is impossible with min_sites {self.min_sites}: of "
                f"{self.min_sites} sites, one has at least 1/{self.min_sites}; "
                "raise min_sites or max_share"
            )
        return self
