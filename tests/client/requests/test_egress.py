"""The one door out: what the plan foresees leaves signed, everything else not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.requests import egress
from common.errors import RefusalCode
from common.files import canonical_json
from common.numerics import EngineChoice, record
from common.plan import Offer, Plan, write_plan
from common.wire.messages import LedgerHead, Purpose, Reply, Request
from common.wire.signing import SigningKey, verify
from tests.common.studies import small_study

KEY = SigningKey(bytes(32))
HEAD = LedgerHead(2, "ab" * 32)
OFFER = Offer(
    site="north",
    public_key=KEY.public,
    declared_patients=20,
    most_patients=40,
    known_key=False,
    numerics=record(1, EngineChoice()),
)
FREE: dict[str, Any] = {"privacy": {"mode": "none"}}
Alter = Callable[[Reply], Reply]


def plan_with(dtype: str = "int32") -> Plan:
    study = small_study(**FREE, fixed_point={"dtype": dtype})
    return write_plan(study, OFFER, weights=106)


PLAN = plan_with()


def request(purpose: Purpose = "train", round_number: int = 3) -> Request:
    return Request("small", PLAN.hash, round_number, purpose)


def update(values: object = 5, dtype: str = "int32") -> Reply:
    return egress.answer(request(), "north", HEAD, arrays=np.full(106, values, dtype=dtype))


def histogram(value: int = 5) -> Reply:
    counts = np.full(2 * 1 * 4, value, dtype=np.int64)
    return egress.answer(request("evaluate"), "north", HEAD, arrays=counts)


def offer(offered: Offer = OFFER, **surplus: object) -> Reply:
    document = canonical_json(offered.model_dump(mode="json") | surplus).decode()
    asked = Request("small", "", 0, "offer")
    return egress.answer(asked, "north", HEAD, document=document)


def refused(reply: Reply, plan: Plan | None = PLAN) -> None:
    with pytest.raises(egress.EgressError):
        egress.let_out(reply, plan, KEY)


@pytest.mark.parametrize(
    "reply", [update(), histogram(), offer()], ids=["update", "counts", "offer"]
)
def test_what_is_foreseen_leaves_unchanged_and_signed(reply: Reply) -> None:
    sent = egress.let_out(reply, PLAN, KEY)
    assert verify(KEY.public, sent.signed_bytes, sent.signature)
    assert sent.signed_bytes == reply.signed_bytes
    assert (sent.site, sent.study, sent.plan_hash, sent.ledger) == (
        "north",
        "small",
        reply.plan_hash,
        HEAD,
    )


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_update_reaches_the_plans_limit_and_not_beyond(dtype: str) -> None:
    plan = plan_with(dtype)
    limit = plan.study.fixed_point.limit
    for value in (limit, -limit):
        reply = replace(update(value, dtype), plan_hash=plan.hash)
        assert egress.let_out(reply, plan, KEY).signature
    refused(replace(update(-limit - 1, dtype), plan_hash=plan.hash), plan)


def array(values: object, dtype: str = "int32") -> Alter:
    return lambda reply: replace(reply, arrays=np.array(values, dtype=dtype))


@pytest.mark.parametrize(
    "alter",
    [
        lambda reply: replace(reply, arrays=None),
        lambda reply: replace(reply, document="a word"),
        lambda reply: replace(reply, study="other"),
        lambda reply: replace(reply, plan_hash="00" * 32),
        lambda reply: replace(reply, site="south"),
        lambda reply: replace(reply, round=0),
        lambda reply: replace(reply, round=4),
        lambda reply: replace(reply, arrays=reply.arrays.reshape(2, 53)),
        array([5] * 105),
        array([5] * 107),
        array([5] * 106, "int64"),
        array([5] * 106, "uint32"),
        array([0.5] * 106, "float32"),
        array([None] * 106, "object"),
        array([-(2**31)] * 106),
    ],
)
def test_an_update_of_another_kind_stays(alter: Alter) -> None:
    refused(alter(update()))


@pytest.mark.parametrize(
    "alter",
    [
        lambda reply: replace(reply, arrays=None),
        lambda reply: replace(reply, document="a word"),
        lambda reply: replace(reply, round=2),
        lambda reply: replace(reply, arrays=reply.arrays.reshape(2, 1, 4)),
        array([5] * 7, "int64"),
        array([5] * 8, "int32"),
        array([5.0] * 8, "float64"),
        array([2**41] * 8, "int64"),
        array([-(2**63)] * 8, "int64"),
    ],
)
def test_a_histogram_of_another_kind_stays(alter: Alter) -> None:
    refused(alter(histogram()))


def test_negative_counts_may_leave() -> None:
    """Noise makes them; clipping here would bias the pooled figure."""
    assert egress.let_out(histogram(-3), PLAN, KEY).signature


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_no_result_leaves_without_a_plan(purpose: Purpose) -> None:
    refused(update() if purpose == "train" else histogram(), plan=None)


@pytest.mark.parametrize("purpose", ["propose", "close"])
def test_an_acknowledgement_is_empty(purpose: Purpose) -> None:
    empty = egress.answer(request(purpose), "north", HEAD)
    assert egress.let_out(empty, None, KEY).signature
    refused(replace(empty, document="a word"), plan=None)
    refused(replace(empty, arrays=np.zeros(1, dtype=np.int32)), plan=None)


@pytest.mark.parametrize(
    "reply",
    [
        offer(patients=213),
        offer(OFFER.model_copy(update={"site": "south"})),
        offer(OFFER.model_copy(update={"public_key": "00" * 32})),
        replace(offer(), document=" " + offer().document),
        replace(offer(), document=""),
        replace(offer(), arrays=np.zeros(1, dtype=np.int32)),
    ],
    ids=["surplus", "site", "key", "form", "empty", "array"],
)
def test_an_offer_holds_public_numbers_and_nothing_else(reply: Reply) -> None:
    refused(reply, plan=None)


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_is_a_code_and_nothing_else(code: RefusalCode) -> None:
    sent = egress.let_out(egress.answer(request(), "north", HEAD, code=code), None, KEY)
    assert sent.code == str(code)
    assert verify(KEY.public, sent.signed_bytes, sent.signature)


@pytest.mark.parametrize(
    "change",
    [
        {"code": "too few patients"},
        {"code": ""},
        {"document": "213 patients"},
        {"arrays": np.array([213], dtype=np.int64)},
    ],
    ids=str,
)
def test_a_refusal_that_says_more_stays(change: dict[str, Any]) -> None:
    reply = egress.answer(request(), "north", HEAD, code=RefusalCode.POLICY)
    refused(replace(reply, **change))
