"""Flower's server optimisers by name, each with its own options and no others."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from common.study.strategies import OPTIONS, AggregationSettings, StrategyName

ACCEPTABLE: dict[str, Any] = {
    "proximal_mu": 0.1,
    "server_learning_rate": 1.0,
    "server_momentum": 0.9,
    "eta": 0.1,
    "eta_l": 0.1,
    "tau": 1e-3,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "beta": 0.2,
    "num_malicious_nodes": 1,
    "num_nodes_to_select": 2,
}


def settings(strategy: str, **options: Any) -> AggregationSettings:  # noqa: ANN401 - as TOML gives
    return AggregationSettings.model_validate({"strategy": strategy, "options": options})


def test_every_strategy_has_its_options_listed() -> None:
    assert set(OPTIONS) == set(get_args(StrategyName))
    assert {name for names in OPTIONS.values() for name in names} == set(ACCEPTABLE)


@pytest.mark.parametrize("strategy", get_args(StrategyName))
@pytest.mark.parametrize("option", ACCEPTABLE)
def test_a_strategy_takes_its_options_and_refuses_anothers(
    strategy: StrategyName, option: str
) -> None:
    given = {option: ACCEPTABLE[option]}
    if strategy == "fedprox":
        given |= {"proximal_mu": 0.1}
    if option in OPTIONS[strategy]:
        assert getattr(settings(strategy, **given).options, option) == ACCEPTABLE[option]
    else:
        with pytest.raises(ValidationError, match=f"strategy {strategy} has no option {option}"):
            settings(strategy, **given)


@pytest.mark.parametrize(
    ("strategy", "option", "value"),
    [
        ("fedprox", "proximal_mu", -0.1),
        ("fedavgm", "server_momentum", 1.0),
        ("fedadam", "tau", 0.0),
        ("fedadam", "beta_1", 1.0),
        ("fedtrimmedavg", "beta", 0.5),
        ("krum", "num_malicious_nodes", -1),
        ("multikrum", "num_nodes_to_select", 0),
    ],
)
def test_an_option_outside_its_range_is_refused(strategy: str, option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=option):
        settings(strategy, **{option: value})


def test_the_client_term_is_fedproxs_alone_and_must_be_given() -> None:
    assert settings("fedprox", proximal_mu=0.3).proximal_mu == 0.3
    assert settings("fedavg").proximal_mu == 0.0
    with pytest.raises(ValidationError, match=r"fedprox needs options\.proximal_mu"):
        settings("fedprox")


def test_momentum_that_is_left_out_stands_in_the_plan_for_fedavgm_alone() -> None:
    assert AggregationSettings().options.server_momentum == 0.9
    assert settings("fedavgm", server_learning_rate=0.5).options.server_momentum == 0.9
    assert settings("fedavgm", server_momentum=0.0).options.server_momentum == 0.0
    assert settings("fedavg").options.server_momentum is None
    written = AggregationSettings().model_dump(mode="json")
    assert written["options"]["server_momentum"] == 0.9
    assert AggregationSettings.model_validate(written) == AggregationSettings()
