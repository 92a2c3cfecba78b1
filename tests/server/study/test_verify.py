"""A reply that is not exactly what was asked for is rejected, and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import RefusalCode
from common.figures.release import Release
from common.wire.messages import SEAL_DIGITS, LedgerHead, Reply, Request
from common.wire.signing import SigningKey
from server.study.verify import (
    IMPOSSIBLE,
    NOTHING,
    OFFER,
    CountLimits,
    ReplyShape,
    _wrong_array,
    fault,
)

KEY, OTHER = SigningKey(b"n" * 32), SigningKey(b"s" * 32)
SHAPE = ReplyShape("int32", 3, 100)
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


def fault_of(answer: Reply, shape: ReplyShape = SHAPE) -> str | None:
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
        ({"code": "policy"}, "its policy does not allow the plan"),
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


NOISY = CountLimits(Release((2, 1, 10), once=(0, 2)), most=100, noise=3.0)
"""Of 20 cells: 7 standard deviations are 21 in a cell, 66.4 in a class, 93.9 in all classes."""


@pytest.mark.parametrize(
    ("counts", "votes", "reason"),
    [
        ({0: 121}, NOISY, None),
        ({0: 122}, NOISY, "122 patients in a cell; its declared patients allow 100, and"),
        ({0: -21}, NOISY, None),
        ({0: -22}, NOISY, "-22 patients in a cell; noise explains no less than -21"),
        (dict.fromkeys(range(8), 20), NOISY, None),
        (dict.fromkeys(range(9), 20), NOISY, "180 patients in 10 cells together"),
        (dict.fromkeys(range(3, 7), -16), NOISY, None),
        (dict.fromkeys(range(3, 8), -16), NOISY, "-80 patients in 10 cells together"),
        (dict.fromkeys(range(4, 16), 16), NOISY, None),
        (dict.fromkeys(range(4, 17), 16), NOISY, "208 patients in 20 cells together"),
        ({0: 50, 19: 50}, replace(NOISY, noise=0.0), None),
        ({0: 50, 19: 51}, replace(NOISY, noise=0.0), "101 patients in 20 cells together"),
        ({4: -1}, replace(NOISY, noise=0.0), "-1 patients in a cell"),
    ],
)
def test_a_histogram_lies_within_what_declared_patients_and_noise_allow(
    counts: dict[int, int], votes: CountLimits, reason: str | None
) -> None:
    array = np.zeros(20, dtype=np.int64)
    for cell, count in counts.items():
        array[cell] = count
    found = fault_of(reply(arrays=array), ReplyShape("int64", 20, 2**40, votes=votes))
    if reason is None:
        assert found is None
    else:
        assert str(found).startswith(IMPOSSIBLE + reason)


def test_each_plane_counts_every_patient_once() -> None:
    """With three classes a patient stands in three planes: 100 patients are 300 votes."""
    counts = np.zeros((3, 3, 4), dtype=np.int64)
    counts[0, :, 2] = 100
    limits = CountLimits(Release(counts.shape, once=(0, 2)), most=100, noise=0.0)
    shape = ReplyShape("int64", 36, 2**40, votes=limits)
    assert fault_of(reply(arrays=counts.reshape(-1)), shape) is None
    counts[1, 1, 0] = 1
    found = fault_of(reply(arrays=counts.reshape(-1)), shape)
    assert found == (
        f"{IMPOSSIBLE}101 patients in 12 cells together; its declared patients allow 100, and "
        "noise at most 0 more"
    )


def test_honest_noise_is_never_beyond_what_is_allowed() -> None:
    """2000 releases of a site with as many patients as there may be, wherever they lie."""
    generator = np.random.default_rng(3)
    shape = ReplyShape("int64", 20, 2**40, votes=NOISY)
    for _ in range(2000):
        counts = generator.multinomial(100, generator.dirichlet(np.full(20, 0.2)))
        noisy = np.rint(counts + generator.normal(0, 2.98, 20)).astype(np.int64)
        assert _wrong_array(noisy, shape) is None


@pytest.mark.parametrize("end", [-100, 100])
def test_an_update_at_the_end_of_its_range_was_cut_off(end: int) -> None:
    update = reply(arrays=np.array([0, end, 0], dtype=np.int32))
    assert fault_of(update) is None
    found = fault_of(update, replace(SHAPE, saturates=True))
    assert found == "an update that was cut off at the largest entry, 100"
