"""Everything hostile or broken that an admitted site sends a coordinator, by name.

Each is made from the reply that an honest site would have sent. The malicious site holds only its
own key. The coordinator must name it and go on as if the site had been away.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from common.files import canonical_json, sha256
from common.wire.flower import Array, ArrayRecord, ConfigRecord, RecordDict
from common.wire.messages import (
    HASH_OF_NOTHING,
    LedgerHead,
    Purpose,
    Reply,
    Request,
    reply_to_record,
)
from common.wire.signing import SigningKey
from server.study.verify import IMPOSSIBLE

NO_REPLY: Final = "sent something that is not a reply"
SITE, OTHER = "south", "north"
"""Who is malicious, and who is not."""


def key_of(site: str) -> SigningKey:
    """The key that a site signs with."""
    return SigningKey(sha256(site.encode()).encode()[:32])


@dataclass(frozen=True)
class Update:
    """A reply that a malicious site might send.

    Attributes:
        name: what is wrong with it.
        reason: how the absence of the site is explained, or the beginning of it.
        spoil: makes it from the request and the sound, signed reply.
        purpose: of the request that it answers.
    """

    name: str
    reason: str
    spoil: Callable[[Request, Reply], RecordDict]
    purpose: Purpose = "train"


def signed(name: str, reason: str, asked: Purpose = "train", **changes: Any) -> Update:  # noqa: ANN401
    """A reply with other fields, signed by the site itself."""

    def spoil(_: Request, reply: Reply) -> RecordDict:
        return _signed(replace(reply, **changes))

    return Update(name, reason, spoil, asked)


def unsigned(name: str, reason: str, **changes: Any) -> Update:  # noqa: ANN401
    """A reply that was changed after it was signed."""
    return Update(name, reason, lambda _, reply: reply_to_record(replace(reply, **changes)))


def offering(name: str, reason: str, **changes: Any) -> Update:  # noqa: ANN401
    """A signed offer with other statements about the site."""

    def spoil(_: Request, reply: Reply) -> RecordDict:
        said = json.loads(reply.document) | changes
        return _signed(replace(reply, document=canonical_json(said).decode()))

    return Update(name, reason, spoil, "offer")


def array(name: str, reason: str, make: Callable[[Any], Any], purpose: Purpose = "train") -> Update:
    """A reply with another array, made of the sound one."""
    return Update(
        name, reason, lambda _, reply: _signed(replace(reply, arrays=make(reply.arrays))), purpose
    )


def record(name: str, spoil: Callable[[RecordDict], object]) -> Update:
    """The sound reply's record, changed."""

    def make(_: Request, reply: Reply) -> RecordDict:
        content = reply_to_record(reply)
        spoil(content)
        return content

    return Update(name, NO_REPLY, make)


def _signed(reply: Reply) -> RecordDict:
    return reply_to_record(reply.with_signature(key_of(SITE).sign(reply.signed_bytes)))


def _by_another(_: Request, reply: Reply) -> RecordDict:
    return reply_to_record(reply.with_signature(key_of(OTHER).sign(reply.signed_bytes)))


def _anothers(_: Request, reply: Reply) -> RecordDict:
    """Another site's reply, as it was signed by that site and seen on the wire."""
    theirs = replace(reply, site=OTHER)
    return reply_to_record(theirs.with_signature(key_of(OTHER).sign(theirs.signed_bytes)))


def _other_identity(request: Request, reply: Reply) -> RecordDict:
    assert request.arrays is not None
    other = replace(request, arrays=request.arrays + np.float32(1))
    return _signed(replace(reply, request=other.identity))


def _last_rounds(request: Request, reply: Reply) -> RecordDict:
    """Its answer of the round before, replayed."""
    before = replace(request, round=request.round - 1)
    return _signed(replace(reply, round=before.round, request=before.identity))


def _field(key: str, value: Any) -> Callable[[RecordDict], object]:  # noqa: ANN401
    def spoil(content: RecordDict) -> None:
        content.config_records["fields"][key] = value

    return spoil


def _flat(dtype: str, stype: str, data: bytes, *shape: int) -> Callable[[RecordDict], object]:
    def spoil(content: RecordDict) -> None:
        content.array_records["arrays"]["flat"] = Array(dtype, shape, stype, data)

    return spoil


def _more(key: str) -> Callable[[RecordDict], object]:
    def spoil(content: RecordDict) -> None:
        content[key] = ConfigRecord({"weight": 10**9})

    return spoil


def _second_array(content: RecordDict) -> None:
    arrays = content.array_records["arrays"]
    arrays["more"] = arrays["flat"]


def _put(array: Any, place: int, value: int) -> Any:  # noqa: ANN401 - an array
    changed = array.copy()
    changed[place] = value
    return changed


ORIGIN: Final = (
    unsigned("no signature", "bad signature", signature=bytes(64)),
    unsigned("a short signature", "bad signature", signature=b"mine"),
    unsigned("a ledger changed after signing", "bad signature", ledger=LedgerHead(9, "00" * 32)),
    unsigned("a code changed after signing", "bad signature", code="policy"),
    Update("signed with another site's key", "bad signature", _by_another),
    Update("another site's reply", "sent another site's reply", _anothers),
    signed("in another site's name", "sent another site's reply", site=OTHER),
    signed("in nobody's name", "sent another site's reply", site=""),
)
ANSWERS: Final = (
    signed("for another study", "answered study other, was asked for", study="other"),
    signed("for another plan", "answered plan hash 0000", plan_hash="00" * 32),
    signed("for no plan", "answered plan hash , was", plan_hash=""),
    signed("for another round", "answered round 9, was asked for 2", round=9),
    Update("last round's reply again", "answered round 1, was asked for 2", _last_rounds),
    signed("for another purpose", "answered purpose evaluate, was", purpose="evaluate"),
    signed(
        "for a request that never was", "answered a request with other content", request="00" * 32
    ),
    Update(
        "for the same round with other arrays",
        "answered a request with other content",
        _other_identity,
    ),
)
CONTENT: Final = (
    array("an entry out of range", "an entry beyond", lambda sound: _put(sound, 0, -(2**31))),
    array(
        "an entry at the end of its range",
        "an update that was cut off",
        lambda sound: _put(sound, 0, 2**31 - 1),
    ),
    array(
        "an entry at the other end of its range",
        "an update that was cut off",
        lambda sound: _put(sound, 0, 1 - 2**31),
    ),
    array("long integers", "an array of int64, not int32", lambda sound: sound.astype(np.int64)),
    array("floats", "an array of float32", lambda sound: sound.astype(np.float32)),
    array(
        "a float that is none",
        "an array of float32",
        lambda sound: np.full(sound.size, np.nan, np.float32),
    ),
    array("an entry less", "an array of", lambda sound: sound[:-1]),
    array("an empty array", "an array of 0 entries", lambda sound: sound[:0]),
    array("an entry more than any plan has", NO_REPLY, lambda sound: np.append(sound, sound[:1])),
    array("a giant array", NO_REPLY, lambda _: np.zeros(2_500_000, np.int32)),
    array("no array", "no array", lambda _: None),
    signed("a document where none is foreseen", "a document that was not asked for", document="x"),
    array(
        "a count out of range",
        "an entry beyond",
        lambda sound: _put(sound, 0, 2**41),
        "evaluate",
    ),
    array(
        "a negative count out of range",
        "an entry beyond",
        lambda sound: _put(sound, 0, -(2**63)),
        "evaluate",
    ),
    array(
        "more patients in a cell than it declares",
        f"{IMPOSSIBLE}1000000 patients in a cell; its declared patients allow 120",
        lambda sound: _put(sound, 0, 10**6),
        "evaluate",
    ),
    array(
        "more patients in a class than it declares",
        f"{IMPOSSIBLE}200 patients in 10 cells together",
        lambda sound: np.full(sound.size, 20, np.int64),
        "evaluate",
    ),
    array(
        "more patients in all classes than it declares",
        f"{IMPOSSIBLE}140 patients in 20 cells together",
        lambda sound: np.full(sound.size, 7, np.int64),
        "evaluate",
    ),
    array(
        "fewer patients than none",
        f"{IMPOSSIBLE}-1 patients in a cell; noise explains no less than -0",
        lambda sound: _put(sound, 0, -1),
        "evaluate",
    ),
    array("a histogram with a cell less", "an array of", lambda sound: sound[1:], "evaluate"),
    array(
        "an array where none was asked",
        "an array that was not asked for",
        lambda _: np.zeros(0, np.int32),
        "propose",
    ),
    signed(
        "words beside an approval", "a document that was not asked for", "propose", document="x"
    ),
)
LEDGERS: Final = (
    signed(
        "a ledger that moved back",
        "its privacy ledger moved back",
        ledger=LedgerHead(0, HASH_OF_NOTHING),
    ),
    Update(
        "a ledger rewritten",
        "its privacy ledger was rewritten",
        lambda asked, reply: _signed(
            replace(reply, ledger=LedgerHead(asked.ledger.length, "00" * 32))
        ),
    ),
)
REFUSALS: Final = (
    signed(
        "a refusal with an update", "refused: its policy does not allow the plan", code="policy"
    ),
    signed(
        "a refusal with text",
        "refused: its policy does not allow the plan",
        code="policy",
        arrays=None,
        document="P03 has opted out",
    ),
    signed(
        "a code that is not in the list",
        "refused, with a code that is not in the list",
        code="because-of-him",
        arrays=None,
    ),
    record("a code that is a sentence", _field("code", "P03 has opted out")),
)
RECORDS: Final = (
    record("an empty message", lambda content: [content.pop(key) for key in list(content)]),
    record("a weight beside the reply", _more("weights")),
    record("an unknown field", _field("weight", 10**9)),
    record("a negative round", _field("round", -1)),
    record("a round beyond 32 bits", _field("round", 2**40)),
    record("a ledger of negative length", _field("ledger_length", -1)),
    record("a site named as a path", _field("site", "../../south")),
    record("a study with a line end", _field("study", "small\n")),
    record("a signature as a string", _field("signature", "00" * 64)),
    record("two arrays", _second_array),
    record("fewer bytes than entries", _flat("int32", "little-endian", b"\0" * 4, 10**9)),
    record("entries of another type", _flat("object", "little-endian", b"\0" * 8, 1)),
    record(
        "pickled code",
        _flat("int32", "numpy.ndarray", pickle.dumps(ArrayRecord), 1),
    ),
)
OFFERS: Final = (
    offering("an offer in another site's name", "an offer in another site's name", site=OTHER),
    offering("an offer with another key", "an offer in another site's name", public_key="00" * 32),
    offering(
        "an offer of more patients than there are people",
        "an offer that cannot be read",
        declared_patients=10**10,
    ),
    offering(
        "an offer of patients beyond all arithmetic",
        "an offer that cannot be read",
        declared_patients=10**400,
    ),
    offering(
        "an offer of more patients than were agreed on",
        "a site declares more patients than were agreed on (61 declared patients, wanted at "
        "most 60, as agreed)",
        declared_patients=61,
    ),
    offering(
        "an offer of more patients than it may have",
        "an offer that cannot be read",
        most_patients=1,
    ),
    offering("an offer of no patients", "an offer that cannot be read", declared_patients=0),
    offering("an offer of half a patient", "an offer that cannot be read", declared_patients=0.5),
    offering("an offer with a field more", "an offer that cannot be read", weight=10**9),
    signed("an offer of nothing", "no document", "offer", document=""),
    signed("an offer in words", "an offer that cannot be read", "offer", document="Trust me."),
    signed("an offer of brackets", "an offer that cannot be read", "offer", document="[" * 10**5),
    array(
        "an offer with an array",
        NO_REPLY,
        lambda _: np.zeros(1, np.int32),
        "offer",
    ),
)
UPDATES: Final = (*ORIGIN, *ANSWERS, *CONTENT, *LEDGERS, *REFUSALS, *RECORDS, *OFFERS)
