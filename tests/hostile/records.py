"""Hostile records: not a request at all, or one that looks like another."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final

from common.wire.flower import Array, ArrayRecord, ConfigRecord, RecordDict
from common.wire.messages import Purpose, request_to_record
from tests.hostile.case import Case
from tests.hostile.sound import Sent, Sound, sent, weights

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.app import MetricRecord

Spoil = Callable[[RecordDict], None]
CONFUSED: Final = "a field that is checked as one thing and read as another"


def spoilt(name: str, gain: str, spoil: Spoil) -> Case:
    """The next round's content with the record itself changed."""

    def build(sound: Sound) -> Sent:
        content = request_to_record(sound.train())
        spoil(content)
        return "train", content

    return Case(name, gain, build, "malformed")


def field(name: str, key: str, value: Any, gain: str = CONFUSED) -> Case:  # noqa: ANN401
    """One field of the next round with another value."""

    def spoil(content: RecordDict) -> None:
        content.config_records["fields"][key] = value

    return spoilt(name, gain, spoil)


def array(name: str, make: Callable[[bytes, int], Array], gain: str = CONFUSED) -> Case:
    """The next round with another array, made from the bytes and number of the sound weights."""

    def spoil(content: RecordDict) -> None:
        data = weights(2).tobytes()
        content["arrays"] = ArrayRecord({"flat": make(data, len(data) // 4)})

    return spoilt(name, gain, spoil)


def as_type(name: str, purpose: Purpose, build: Callable[[Sound], Sent]) -> Case:
    """A sound request in a message whose type names another purpose."""
    gain = "one purpose's gates for another's work"
    return Case(name, gain, lambda s: (purpose, build(s)[1]), "malformed")


def _without(key: str) -> Spoil:
    def spoil(content: RecordDict) -> None:
        kept = {
            name: each for name, each in content.config_records["fields"].items() if name != key
        }
        content["fields"] = ConfigRecord(kept)

    return spoil


def _with(key: str, record: Any) -> Spoil:  # noqa: ANN401 - one of Flower's records
    def spoil(content: RecordDict) -> None:
        content.pop(key, None)
        content[key] = record

    return spoil


def _second_array(content: RecordDict) -> None:
    flat = content.array_records["arrays"]["flat"]
    content["arrays"] = ArrayRecord({"flat": flat, "more": flat})


def _renamed_array(content: RecordDict) -> None:
    content["arrays"] = ArrayRecord({"../flat": content.array_records["arrays"]["flat"]})


def _emptied(content: RecordDict) -> None:
    content["arrays"] = ArrayRecord({})


def _nothing(content: RecordDict) -> None:
    for key in list(content):
        del content[key]


class _Bomb:
    """Makes a file if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import pathlib; pathlib.Path('hostile-code-ran').touch()",)


FIELDS: Final = (
    field("an unknown purpose", "purpose", "export", "work that no gate knows"),
    field("no purpose", "purpose", "", "work that no gate knows"),
    field("a negative round", "round", -1, "a row of the ledger that sorts before all"),
    field("a round beyond 32 bits", "round", 2**31, "a number that wraps"),
    field("a round beyond all arithmetic", "round", 2**63 - 1, "a number that wraps"),
    field("a round as a string", "round", "2"),
    field("a round as a truth value", "round", True),
    field("a round as a fraction", "round", 2.0),
    field("a round as a list", "round", [2]),
    field("a negative acknowledgement", "acknowledged", -1),
    field("an acknowledgement as a truth value", "acknowledged", True),
    field("a negative ledger length", "ledger_length", -1),
    field("a ledger length beyond 32 bits", "ledger_length", 2**40),
    field("a ledger hash that is none", "ledger_hash", "nothing"),
    field("a ledger hash with a quote", "ledger_hash", "'" * 64, "a statement of its own in SQL"),
    field("a plan hash in capitals", "plan_hash", "AB" * 32),
    field("a plan hash with a line end", "plan_hash", "ab" * 32 + "\n"),
    field("a plan hash named as a path", "plan_hash", "../" * 21 + "x", "a file of the site's"),
    field("a plan hash as bytes", "plan_hash", b"ab" * 32),
    field("a study named as a path on the wire", "study", "../../etc", "a file of the site's"),
    field("a study with a zero byte", "study", "small\0", "a name that ends earlier for some"),
    field("a study with a line end", "study", "small\n", "a line of its own in the log"),
    field("a study in capitals", "study", "Small", "a study taken for another"),
    field("a study in Cyrillic", "study", "ѕmall", "a study taken for another"),  # noqa: RUF001
    field("a study with a hidden letter", "study", "sm\u200ball", "a study taken for another"),
    field("a study without end", "study", "s" * 10**6, "a full log"),
    field("a study as bytes", "study", b"small"),
    field("a document as bytes", "document", b"{}"),
    field("a receipt of half its length", "receipt", bytes(32), "a log without end"),
    field("a receipt without end", "receipt", bytes(10**6), "a log without end"),
    field("a receipt as a string", "receipt", "00" * 64),
    field("a seal of half its length", "receipt_seal", "0" * 68),
    field("a seal without end", "receipt_seal", "0" * 10**6, "a log without end"),
    field("a document with half a character", "document", "\ud800", "a crash"),
    field("an unknown field", "noise", 0.0, "what no reviewer knows"),
    field("one patient's number among the fields", "patient", "P03", "one patient's result"),
    field("a reply's fields", "signature", b"", "a request that is taken for a reply"),
    spoilt("no round", CONFUSED, _without("round")),
    spoilt("no ledger", "a site that goes on from an old backup", _without("ledger_hash")),
)

RECORDS: Final = (
    spoilt("an empty message", "a crash", _nothing),
    spoilt(
        "a metric record beside the request",
        "a metric of one patient",
        _with("metrics", MetricRecord({"patient": 3})),
    ),
    spoilt(
        "a configuration beside the request",
        "settings of the site's process",
        _with("config", ConfigRecord({"epsilon": 100.0})),
    ),
    spoilt("a second array record", CONFUSED, _with("more", ArrayRecord({}))),
    spoilt("metrics for fields", CONFUSED, _with("fields", MetricRecord({"round": 2}))),
    spoilt("a configuration for arrays", CONFUSED, _with("arrays", ConfigRecord({"flat": b""}))),
    spoilt("two arrays", "weights of which one is checked", _second_array),
    spoilt("an array named as a path", "a file of the site's", _renamed_array),
    spoilt("a record without its array", "a crash", _emptied),
    array("weights as halves", lambda data, n: Array("float16", (2 * n,), "little-endian", data)),
    array("weights as doubles", lambda data, n: Array("float64", (n // 2,), "little-endian", data)),
    array("weights as objects", lambda data, n: Array("object", (n,), "little-endian", data)),
    array("weights of an unknown type", lambda data, n: Array("V4", (n,), "little-endian", data)),
    array("weights in the other order", lambda data, n: Array("float32", (n,), "big-endian", data)),
    array(
        "weights as NumPy saves them",
        lambda data, n: Array("float32", (n,), "numpy.ndarray", data),
    ),
    array(
        "pickled code for weights",
        lambda _, n: Array("float32", (n,), "numpy.ndarray", pickle.dumps(_Bomb())),
        "code that runs at the site",
    ),
    array(
        "weights in two dimensions",
        lambda data, n: Array("float32", (2, n // 2), "little-endian", data),
    ),
    array("a single number", lambda data, _: Array("float32", (), "little-endian", data[:4])),
    array(
        "fewer bytes than weights",
        lambda data, n: Array("float32", (n,), "little-endian", data[:-4]),
    ),
    array(
        "fewer bytes than a vast shape says",
        lambda data, _: Array("float32", (2**40,), "little-endian", data),
        "an allocation without end",
    ),
    array("a negative shape", lambda data, n: Array("float32", (-n,), "little-endian", data)),
    array("bytes without weights", lambda data, _: Array("float32", (0,), "little-endian", data)),
)

TYPES: Final = (
    as_type("an evaluation in a message for training", "train", lambda s: sent(s.evaluate())),
    as_type("a round in a message for evaluation", "evaluate", lambda s: sent(s.train())),
    as_type("a plan in a message for training", "train", lambda s: sent(s.proposal())),
    as_type("a round in a message for a proposal", "propose", lambda s: sent(s.train())),
    as_type("an end in a message for an offer", "offer", lambda s: sent(s.close())),
    as_type("an offer in a message for the end", "close", lambda s: sent(s.offer())),
)

RAW: Final = (*FIELDS, *RECORDS, *TYPES)
