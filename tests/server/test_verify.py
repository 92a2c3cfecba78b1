"""A reply that is not exactly what was asked for is rejected, and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import RefusalCode
from common.messages import SEAL_DIGITS, LedgerHead, Reply, Request
from common.signing import SigningKey
from server.verify import NOTHING, OFFER, Shape, fault

KEY, OTHER = SigningKey(b"n" * 32), SigningKey(b"s" * 32)
SHAPE = Shape("int32", 3, 100)
REQUEST = Request(
    "small",
    "f" * 64,
    4,
    "train",
    arrays=np.zeros(3, dtype=np.float32),
    ledger=LedgerHead(5, "a" * 64),
)


def reply(key: SigningKey = KEY, **changes: Any) -> Reply:  # noqa: ANN401 - any field
    good = Reply(
        site="north",
        request=REQUEST.identity,
        study="small",
        plan_hash="f" * 64,
        round=4,
        purpose="train",
        arrays=np.array([-100, 0, 100], dtype=np.int32),
        ledger=LedgerHead(6, "b" * 64),
    )
    changed = replace(good, **changes)
    return changed.with_signature(key.sign(changed.signed_bytes))


def fault_of(answer: Reply, shape: Shape = SHAPE) -> str | None:
    return fault(answer, request=REQUEST, site="north", key=KEY.public, shape=shape)


def test_a_good_reply_has_no_fault() -> None:
    assert fault_of(reply()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "south"}, "another site's reply"),
        ({"study": "large"}, "study large, was asked for small"),
        ({"plan_hash": "e" * 64}, "answered plan hash"),
        ({"round": 3}, "round 3, was asked for 4"),
        ({"purpose": "evaluate"}, "purpose evaluate"),
        ({"request": "0" * 64}, "other content"),
        ({"arrays": None}, "no array"),
        ({"arrays": np.zeros(3, dtype=np.int64)}, "int64, not int32"),
        ({"arrays": np.zeros(3, dtype=np.float32)}, "float32, not int32"),
        ({"arrays": np.zeros(2, dtype=np.int32)}, "2 entries, not 3"),
        ({"arrays": np.array([0, 0, 101], dtype=np.int32)}, "beyond 100"),
        ({"arrays": np.array([0, 0, -(2**31)], dtype=np.int32)}, "beyond 100"),
        ({"document": "{}"}, "a document that was not asked for"),
        ({"ledger": LedgerHead(4, "b" * 64)}, "moved back, from 5 entries to 4"),
        ({"ledger": LedgerHead(5, "b" * 64)}, "rewritten"),
        ({"code": "policy"}, "its policy forbids it"),
        ({"code": "because"}, "not in the list"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], reason: str) -> None:
    found = fault_of(reply(**changes))
    assert found is not None
    assert reason in found


def test_another_key_s_signature_is_bad() -> None:
    assert fault_of(reply(OTHER)) == "bad signature"


def test_a_changed_entry_breaks_the_signature() -> None:
    changed = replace(reply(), arrays=np.array([-100, 1, 100], dtype=np.int32))
    assert fault_of(changed) == "bad signature"


def test_another_seal_breaks_the_signature() -> None:
    assert fault_of(replace(reply(), seal="c" * SEAL_DIGITS)) == "bad signature"


def test_the_same_round_for_other_weights_is_another_request() -> None:
    other = replace(REQUEST, arrays=np.ones(3, dtype=np.float32))
    found = fault(reply(), request=other, site="north", key=KEY.public, shape=SHAPE)
    assert found == "answered a request with other content"


def test_nothing_but_a_document_comes_with_an_offer() -> None:
    assert fault_of(reply(arrays=None, document="{}"), OFFER) is None
    assert fault_of(reply(arrays=None), OFFER) == "no document"
    assert fault_of(reply(document="{}"), OFFER) == "an array that was not asked for"
    assert fault_of(reply(arrays=None), NOTHING) is None


def test_a_ledger_that_stands_still_is_in_order() -> None:
    assert fault_of(reply(ledger=REQUEST.ledger)) is None


@pytest.mark.parametrize("code", RefusalCode)
def test_every_refusal_has_words(code: RefusalCode) -> None:
    found = fault_of(reply(code=str(code), arrays=None))
    assert found is not None
    assert found.startswith("refused: ")
    assert found.endswith(f"({code})")
