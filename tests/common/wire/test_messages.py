"""What a request is, what is signed, and that nothing but a message is read as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from common.errors import Refusal, RefusalCode
from common.wire.flower import Array, ArrayRecord, ConfigRecord, RecordDict
from common.wire.messages import (
    HASH_OF_NOTHING,
    LARGEST,
    SEAL_DIGITS,
    LedgerHead,
    Purpose,
    Reply,
    Request,
    content_hash,
    receipt_bytes,
    reply_from_bytes,
    reply_from_record,
    reply_to_bytes,
    reply_to_record,
    request_from_record,
    request_to_record,
)
from common.wire.signing import SigningKey, verify

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
HASHES = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
ROUNDS = st.integers(0, LARGEST)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PURPOSES = st.sampled_from(get_args(Purpose))
HEADS = st.builds(LedgerHead, ROUNDS, HASHES)
SEALS = st.text("0123456789abcdef", min_size=SEAL_DIGITS, max_size=SEAL_DIGITS)
SIGNATURES = st.binary(min_size=64, max_size=64)
ARRAYS = st.none() | st.sampled_from([np.float32, np.int32, np.int64]).flatmap(
    lambda dtype: nps.arrays(dtype, st.integers(0, 20))
)
REQUESTS = st.builds(
    Request,
    NAMES,
    HASHES | st.just(""),
    ROUNDS,
    PURPOSES,
    ARRAYS,
    TEXTS,
    ROUNDS,
    HEADS,
    SIGNATURES | st.just(b""),
    HEADS,
    SEALS,
)
REPLIES = st.builds(
    Reply,
    NAMES,
    HASHES,
    NAMES,
    HASHES,
    ROUNDS,
    PURPOSES,
    st.sampled_from(["ok", *RefusalCode]).map(str),
    ARRAYS,
    TEXTS,
    HEADS,
    SEALS,
    SIGNATURES,
)
REQUEST = Request(
    study="small",
    plan_hash="ab" * 32,
    round=3,
    purpose="train",
    arrays=np.arange(3, dtype=np.float32),
    acknowledged=1,
    ledger=LedgerHead(2, "cd" * 32),
)
REPLY = Reply(
    site="north",
    request=REQUEST.identity,
    study="small",
    plan_hash="ab" * 32,
    round=3,
    purpose="train",
    arrays=np.arange(3, dtype=np.int32),
    ledger=LedgerHead(3, "ef" * 32),
    seal="12" * 68,
)


def same(first: Request | Reply, second: Request | Reply) -> bool:
    """Equal in every field; arrays in type and in every bit."""
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            if one.dtype != other.dtype or one.tobytes() != other.tobytes():
                return False
        elif one is not other and one != other:
            return False
    return True


@given(REQUESTS)
def test_a_request_survives_flowers_wire(request: Request) -> None:
    record = recorddict_from_proto(recorddict_to_proto(request_to_record(request)))
    read = request_from_record(record)
    assert same(read, request)
    assert read.identity == request.identity


@given(REPLIES)
def test_a_reply_survives_flowers_wire(reply: Reply) -> None:
    record = recorddict_from_proto(recorddict_to_proto(reply_to_record(reply)))
    read = reply_from_record(record)
    assert same(read, reply)
    assert read.signed_bytes == reply.signed_bytes


@given(REPLIES)
def test_a_reply_survives_the_store_byte_for_byte(reply: Reply) -> None:
    stored = reply_to_bytes(reply)
    read = reply_from_bytes(stored)
    assert same(read, reply)
    assert reply_to_bytes(read) == stored


@pytest.mark.parametrize(
    "change",
    [
        {"study": "other"},
        {"plan_hash": "ac" * 32},
        {"round": 4},
        {"purpose": "evaluate"},
        {"arrays": np.array([0, 1, 3], dtype=np.float32)},
        {"arrays": np.arange(3, dtype=np.int32)},
        {"arrays": np.zeros(0, dtype=np.float32)},
        {"arrays": None},
        {"document": "text"},
    ],
    ids=" ".join,
)
def test_whatever_identifies_a_request_changes_its_identity(change: dict[str, Any]) -> None:
    assert replace(REQUEST, **change).identity != REQUEST.identity


def test_what_is_said_beside_a_request_does_not() -> None:
    assert replace(REQUEST, acknowledged=2).identity == REQUEST.identity
    assert replace(REQUEST, ledger=LedgerHead(9, "00" * 32)).identity == REQUEST.identity
    receipted = REQUEST.with_receipt(LedgerHead(1, "0" * 64), "1" * SEAL_DIGITS, bytes(64))
    assert receipted.identity == REQUEST.identity


def test_a_receipt_speaks_of_one_site_and_two_heads() -> None:
    ledger, seal = LedgerHead(3, "ef" * 32), "12" * 68
    said = [
        receipt_bytes("north", ledger, seal),
        receipt_bytes("south", ledger, seal),
        receipt_bytes("north", LedgerHead(4, "ef" * 32), seal),
        receipt_bytes("north", ledger, "13" * 68),
    ]
    assert len(set(said)) == len(said)
    assert REPLY.signed_bytes not in said


@given(st.integers(1, 4))
def test_no_document_has_the_hash_of_an_array(count: int) -> None:
    """Not even one that holds the very bytes that were hashed for the array."""
    arrays = np.full(count, 1.5, dtype=np.int32)
    bytes_of_it = f'["int32",{count},""]'.encode() + arrays.tobytes()
    assert content_hash(None, bytes_of_it.decode()) != content_hash(arrays)
    assert content_hash(arrays, "x") != content_hash(arrays)
    assert content_hash(arrays.astype(np.int64)) != content_hash(arrays)


@pytest.mark.parametrize(
    "change",
    [
        {"site": "south"},
        {"request": "00" * 32},
        {"study": "other"},
        {"plan_hash": "ac" * 32},
        {"round": 4},
        {"purpose": "evaluate"},
        {"code": "budget"},
        {"arrays": np.array([0, 1, 3], dtype=np.int32)},
        {"arrays": np.arange(3, dtype=np.int64)},
        {"arrays": None},
        {"document": "text"},
        {"ledger": LedgerHead(4, "ef" * 32)},
        {"ledger": LedgerHead(3, "ee" * 32)},
        {"seal": "13" * 68},
    ],
    ids=" ".join,
)
def test_a_signature_covers_every_field(change: dict[str, Any]) -> None:
    key = SigningKey(bytes(32))
    signed = REPLY.with_signature(key.sign(REPLY.signed_bytes))
    assert verify(key.public, signed.signed_bytes, signed.signature)
    altered = replace(signed, **change)
    assert not verify(key.public, altered.signed_bytes, altered.signature)


def test_a_request_is_not_a_reply() -> None:
    with pytest.raises(Refusal):
        reply_from_record(request_to_record(REQUEST))
    with pytest.raises(Refusal):
        request_from_record(reply_to_record(REPLY))


def altered(**changes: Any) -> RecordDict:  # noqa: ANN401 - deliberately of any type
    """The request's record with fields replaced; None removes one."""
    record = request_to_record(REQUEST)
    config: dict[str, Any] = {**record.config_records["fields"], **changes}
    record["fields"] = ConfigRecord({key: each for key, each in config.items() if each is not None})
    return record


MALFORMED_FIELDS: dict[str, list[Any]] = {
    "study": [None, 3, b"small", "Small", "a b", "x" * 64, "../etc", "new\nline", "\ud800"],
    "plan_hash": [None, 3, "ab", "AB" * 32, "zz" * 32],
    "round": [None, "3", 3.0, -1, 2**31, True],
    "purpose": [None, 3, "", "training"],
    "acknowledged": [None, "1", -1, 2**63],
    "ledger_length": [None, 0.0, -1, 2**31],
    "ledger_hash": [None, "", "cd"],
    "receipt": [None, "", b"x", bytes(65)],
    "receipt_ledger_length": [None, "1", -1],
    "receipt_ledger_hash": [None, "", "cd"],
    "receipt_seal": [None, "", 0, "ZZ" * 68, "12" * 67, "12" * 69],
    "document": [None, b"", 3, "\ud800"],
    "surplus": ["", 1],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in MALFORMED_FIELDS.items() for value in values],
)
def test_a_field_of_another_form_is_refused(field: str, value: object) -> None:
    with pytest.raises(Refusal) as caught:
        request_from_record(altered(**{field: value}))
    assert caught.value.code is RefusalCode.MALFORMED


def with_arrays(**arrays: Array) -> RecordDict:
    record = request_to_record(REQUEST)
    record["arrays"] = ArrayRecord(arrays)
    return record


def flat(
    dtype: str = "float32", shape: tuple[int, ...] = (3,), stype: str = "little-endian"
) -> Array:
    return Array(dtype, shape, stype, bytes(12))


def surplus() -> RecordDict:
    record = request_to_record(REQUEST)
    record["more"] = ConfigRecord({})
    return record


def other_record(name: str, record: ConfigRecord | MetricRecord) -> RecordDict:
    content = request_to_record(REQUEST)
    del content[name]
    content[name] = record
    return content


@pytest.mark.parametrize(
    "malformed",
    [
        RecordDict,
        lambda: RecordDict({"arrays": ArrayRecord({"flat": flat()})}),
        surplus,
        lambda: other_record("fields", MetricRecord({"round": 3})),
        lambda: other_record("arrays", ConfigRecord({})),
        lambda: other_record("arrays", MetricRecord({})),
        with_arrays,
        lambda: with_arrays(flat=flat(), more=flat()),
        lambda: with_arrays(other=flat()),
        lambda: with_arrays(flat=flat(stype="numpy.ndarray")),
        lambda: with_arrays(flat=flat(dtype="float64")),
        lambda: with_arrays(flat=flat(dtype="object")),
        lambda: with_arrays(flat=flat(dtype=">f4")),
        lambda: with_arrays(flat=flat(shape=(4,))),
        lambda: with_arrays(flat=flat(shape=(2,))),
        lambda: with_arrays(flat=flat(shape=(-3,))),
        lambda: with_arrays(flat=flat(shape=(3, 1))),
        lambda: with_arrays(flat=flat(shape=())),
    ],
)
def test_records_of_another_form_are_refused(malformed: Callable[[], RecordDict]) -> None:
    with pytest.raises(Refusal) as caught:
        request_from_record(malformed())
    assert caught.value.code is RefusalCode.MALFORMED


def test_an_array_is_read_up_to_the_length_that_is_expected() -> None:
    assert request_from_record(request_to_record(REQUEST), most_weights=3).arrays is not None
    with pytest.raises(Refusal):
        request_from_record(request_to_record(REQUEST), most_weights=2)


def test_what_was_read_cannot_be_written_to() -> None:
    arrays = request_from_record(request_to_record(REQUEST)).arrays
    assert arrays is not None
    assert not arrays.flags.writeable


def test_reprs_show_no_content() -> None:
    shown = repr(replace(REPLY, document="DOCUMENT", signature=b"SIGNATURE")) + repr(REQUEST)
    assert "DOCUMENT" not in shown
    assert "SIGNATURE" not in shown
    assert "array" not in shown


def test_an_empty_ledger_has_the_hash_of_nothing() -> None:
    """FIPS 180-4: SHA-256 of the empty string."""
    assert LedgerHead() == LedgerHead(0, HASH_OF_NOTHING)
    assert HASH_OF_NOTHING.startswith("e3b0c44298fc1c149afbf4c8996fb924")
