"""Strategies: each with its own options and no others, and decided about in its own file alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from common.strategies.fedavgm import FedAvgM
from common.strategies.fedprox import FedProx
from common.strategies.strategies import OPTIONS, STRATEGIES
from common.study.aggregation import AggregationSettings
from common.study.study_file import Study
from tests.common.studies import small_study

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
NEEDED: dict[str, dict[str, Any]] = {"fedprox": {"proximal_mu": 0.1}}


def settings(strategy: str, **options: Any) -> AggregationSettings:  # noqa: ANN401 - as TOML gives
    return AggregationSettings.model_validate({"strategy": strategy, "options": options})


def test_every_option_has_one_bound() -> None:
    assert [bound.key for bound in OPTIONS] == list(ACCEPTABLE)
    fields = {name for each in STRATEGIES.values() for name in each.model_fields}
    assert fields == set(ACCEPTABLE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("option", ACCEPTABLE)
def test_a_strategy_takes_its_options_and_refuses_anothers(strategy: str, option: str) -> None:
    given = NEEDED.get(strategy, {}) | {option: ACCEPTABLE[option]}
    if option in STRATEGIES[strategy].model_fields:
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
    with pytest.raises(ValidationError, match=rf"options\.{option}\n"):
        settings(strategy, **{option: value})


def test_what_is_wrong_with_a_strategy_is_told_once() -> None:
    """Of a strategy that does not exist, no option is called wrong."""
    with pytest.raises(ValidationError, match="should be one of 'fedavg', 'fedprox'") as caught:
        settings("fedsgd", speed=3)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_option_that_is_left_out_is_flowers_default_and_in_the_plan(strategy: str) -> None:
    """But for fedavgm's momentum: Flower's own default makes it fedavg."""
    chosen = settings(strategy, **NEEDED.get(strategy, {}))
    defaults = inspect.signature(type(chosen.options.optimiser())).parameters
    said = chosen.model_dump(mode="json")["options"]
    assert said == chosen.options.model_dump()
    expected = {name: defaults[name].default for name in type(chosen.options).model_fields}
    assert said == expected | NEEDED.get(strategy, {}) | (
        {"server_momentum": 0.9} if strategy == "fedavgm" else {}
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_s_text_gives_the_same_strategy_again(strategy: str) -> None:
    study = small_study(aggregation={"strategy": strategy, "options": NEEDED.get(strategy, {})})
    again = Study.model_validate_json(study.model_dump_json())
    assert again == study
    assert type(again.aggregation.options) is STRATEGIES[strategy]


def test_options_of_another_strategy_s_class_are_refused() -> None:
    with pytest.raises(ValidationError, match="strategy fedprox has no option server_"):
        AggregationSettings(strategy="fedprox", options=FedAvgM())


def test_the_local_term_is_fedproxs_alone_and_must_be_given() -> None:
    weights, start = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert FedProx(proximal_mu=0.5).local_term(weights, start).tolist() == [1.0, 0.0]
    for name in STRATEGIES.keys() - {"fedprox"}:
        assert STRATEGIES[name]().local_term(weights, start).tolist() == [0.0, 0.0]
    with pytest.raises(ValidationError, match=r"options\.proximal_mu\n.*required"):
        settings("fedprox")


def deciding(tree: ast.AST) -> Iterator[int]:
    """Lines at which something is chosen by a strategy's name or class.

    A name may be said (``strategy="fedavg"``), and the list and the base class be used.
    """
    for node in ast.walk(tree):
        chosen: list[ast.expr] = []
        match node:
            case ast.Compare(left=left, comparators=others):
                chosen = [left, *others]
            case ast.MatchValue(value=value):
                chosen = [value]
            case ast.Dict(keys=keys):
                chosen = [key for key in keys if key is not None]
            case ast.Subscript(slice=index):
                chosen = [index]
            case ast.Set(elts=elements) | ast.Tuple(elts=elements) | ast.List(elts=elements):
                chosen = elements
            case ast.ImportFrom(module=str(module)) if module.startswith("common.strategies."):
                if module.rpartition(".")[2] not in {"strategies", "strategy"}:
                    yield node.lineno
        for each in chosen:
            for part in ast.walk(each):
                if isinstance(part, ast.Constant) and part.value in STRATEGIES:
                    yield part.lineno


def test_nothing_is_decided_by_a_strategy_outside_its_file(root: Path) -> None:
    found = [
        f"{path.relative_to(root)}:{line}"
        for package in ("client", "common", "server", "simulations")
        for path in sorted((root / package).rglob("*.py"))
        if path.parent != root / "common" / "strategies"
        for line in deciding(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "if settings.strategy == 'fedprox': ...",
        "x = name in ('krum', 'bulyan')",
        "ROBUST = frozenset({'fedmedian'})",
        "TERMS = {'fedprox': 1}",
        "x = TERMS['fedprox']",
        "match name:\n    case 'fedadam': ...",
        "def late():\n    from common.strategies.fedprox import FedProx",
    ],
)
def test_the_check_finds_what_decides(source: str) -> None:
    assert list(deciding(ast.parse(source)))


def test_the_check_leaves_alone_what_only_says_a_name() -> None:
    said = "from common.strategies.strategies import STRATEGIES\nmake(strategy='fedavg')\n"
    assert list(deciding(ast.parse(said))) == []
