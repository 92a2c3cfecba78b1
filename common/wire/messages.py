"""Requests and replies: what they are, what identifies them, how they travel.

A request is identified by study, plan hash, round, purpose and the hash of the arrays it
carries; a reply says which request it answers and is signed over everything it holds.
Arrays travel as one flat little-endian array, since each Flower array costs a request of
its own. What arrives is checked for exactly the expected keys, types and sizes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from common.documents import read_json
from common.errors import Refusal, RefusalCode
from common.files import canonical_json, sha256
from common.wire.flower import Array, ArrayRecord, ConfigRecord, RecordDict

Purpose = Literal["offer", "propose", "amend", "provide", "train", "evaluate", "close"]
OK: Final = "ok"
STORAGE: Final = "little-endian"
Flat = npt.NDArray[Any]
DTYPES: Final = ("float32", "int32", "int64")
HASH_OF_NOTHING: Final = sha256(b"")
SIGNATURE_BYTES: Final = 64
SEAL_DIGITS: Final = 136
NO_SEAL: Final = "0" * SEAL_DIGITS
LARGEST: Final = 2**31 - 1
"""Largest round or ledger length that is read: what SQLite and Flower's wire can hold."""


@dataclass(frozen=True)
class LedgerHead:
    """How far a site's ledger had come: its length and the hash of its last entry."""

    length: int = 0
    hash: str = HASH_OF_NOTHING


@dataclass(frozen=True)
class Request:
    """What the coordinator asks of one site.

    Attributes:
        study: name of the study.
        plan_hash: SHA-256 of the plan that the site approved; empty before there is one.
        round: 1 and up; 0 before training.
        purpose: what is asked.
        arrays: flat float32 weights: of a round those that are trained, the frozen ones where a
            study provides them; or None.
        document: JSON text: the study of an offer, the plan of a proposal, or its amendment.
        acknowledged: the last round whose checkpoint is durable at the coordinator.
        ledger: the newest ledger head that the site has sent.
        receipt: the coordinator's Ed25519 signature of :func:`receipt_bytes`; empty without one.
        receipt_ledger: the ledger head that it speaks of.
        receipt_seal: the sealed head of the audit log that it speaks of.
    """

    study: str
    plan_hash: str
    round: int
    purpose: Purpose
    arrays: Flat | None = field(default=None, repr=False)
    document: str = field(default="", repr=False)
    acknowledged: int = 0
    ledger: LedgerHead = LedgerHead()
    receipt: bytes = field(default=b"", repr=False)
    receipt_ledger: LedgerHead = LedgerHead()
    receipt_seal: str = NO_SEAL

    @cached_property
    def arrays_hash(self) -> str:
        """SHA-256 of the arrays' bytes and of the document."""
        return content_hash(self.arrays, self.document)

    @property
    def identity(self) -> str:
        """SHA-256 of what makes two requests the same request."""
        return sha256(
            canonical_json([self.study, self.plan_hash, self.round, self.purpose, self.arrays_hash])
        )

    def with_receipt(self, ledger: LedgerHead, seal: str, signature: bytes) -> Request:
        """The same request with a receipt beside it, which is no part of its identity."""
        return replace(self, receipt=signature, receipt_ledger=ledger, receipt_seal=seal)


@dataclass(frozen=True)
class Reply:
    """What a site answers.

    Attributes:
        site: the site's name.
        request: identity of the request that it answers.
        study: as in the request.
        plan_hash: as in the request.
        round: as in the request.
        purpose: as in the request.
        code: ``ok`` or a :class:`common.errors.RefusalCode`.
        arrays: flat int32 update or int64 histogram, or None.
        document: JSON text: the offer of a site.
        ledger: the ledger's head after this reply's charge.
        seal: the audit log's head after the request was noted there; the site alone can read it.
        signature: Ed25519 over all of the above.
    """

    site: str
    request: str
    study: str
    plan_hash: str
    round: int
    purpose: Purpose
    code: str = OK
    arrays: Flat | None = field(default=None, repr=False)
    document: str = field(default="", repr=False)
    ledger: LedgerHead = LedgerHead()
    seal: str = NO_SEAL
    signature: bytes = field(default=b"", repr=False)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        fields = _config(self)
        fields["content"] = content_hash(self.arrays, self.document)
        # The first words keep a signature of one kind of document from passing for another kind.
        return b"consilium/1 reply " + canonical_json(fields)

    def with_signature(self, signature: bytes) -> Reply:
        """The same reply, signed."""
        return replace(self, signature=signature)


def receipt_bytes(site: str, ledger: LedgerHead, seal: str) -> bytes:
    """What a coordinator signs to say that a site has sent it these heads."""
    heads = [site, [ledger.length, ledger.hash], seal]
    return b"consilium/1 receipt " + canonical_json(heads)


def fingerprint(content: RecordDict) -> tuple[str, int]:
    """A hash of what arrived, and its size in bytes, where it cannot be read as a message."""
    digest, size = hashlib.sha256(), 0
    for name, record in content.items():
        parts = [name.encode("utf-8", "replace"), type(record).__name__.encode()]
        for key, value in record.items():
            whole = value.data if isinstance(value, Array) else repr(value).encode()
            parts += [str(key).encode("utf-8", "replace"), whole]
        # Each part with its length: "ab", "c" and "a", "bc" are two messages.
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
            size += len(part)
    return digest.hexdigest(), size


def content_hash(arrays: Flat | None, document: str = "") -> str:
    """SHA-256 over an array's type, length and bytes, and over a document.

    One JSON array comes before the bytes and says where it ends: no document has the hash of
    an array.
    """
    if arrays is None:
        return sha256(canonical_json([None, 0, document]))
    head = canonical_json([str(arrays.dtype), arrays.size, document])
    return sha256(head + _little_endian(arrays))


def request_to_record(request: Request) -> RecordDict:
    """The request as Flower carries it."""
    return _to_record(_config(request), request.arrays, request.document)


def request_from_record(content: RecordDict, most_weights: int | None = None) -> Request:
    """Read a request, and nothing but a request.

    Raises:
        Refusal: ``malformed``; the text stays at the site.
    """
    fields, arrays, document = _from_record(content, Request, most_weights)
    return Request(**fields, arrays=arrays, document=document)


def reply_to_record(reply: Reply) -> RecordDict:
    """The reply as Flower carries it."""
    return _to_record(_config(reply) | {"signature": reply.signature}, reply.arrays, reply.document)


def reply_from_record(content: RecordDict, most_weights: int | None = None) -> Reply:
    """Read a reply, and nothing but a reply.

    Raises:
        Refusal: ``malformed``.
    """
    fields, arrays, document = _from_record(content, Reply, most_weights)
    return Reply(**fields, arrays=arrays, document=document)


def reply_to_bytes(reply: Reply) -> bytes:
    """The reply as a site stores it: the length of a header, the header, the array."""
    arrays = reply.arrays
    header = canonical_json(
        _config(reply)
        | {
            "signature": reply.signature.hex(),
            "document": reply.document,
            "dtype": None if arrays is None else str(arrays.dtype),
        }
    )
    body = b"" if arrays is None else _little_endian(arrays)
    return len(header).to_bytes(8, "little") + header + body


def reply_from_bytes(data: bytes) -> Reply:
    """Read what :func:`reply_to_bytes` wrote."""
    end = 8 + int.from_bytes(data[:8], "little")
    fields: dict[str, Any] = read_json(data[8:end])
    dtype, signature = fields.pop("dtype"), bytes.fromhex(fields.pop("signature"))
    arrays = None if dtype is None else np.frombuffer(data[end:], dtype=_stored(dtype))
    return Reply(**_with_heads(fields, Reply), arrays=arrays, signature=signature)


_REQUEST_HEADS: Final = {
    "ledger": LedgerHead,
    "receipt_ledger": LedgerHead,
}
_REPLY_HEADS: Final = {"ledger": LedgerHead}


def _fields_of(heads: Iterable[str]) -> dict[str, type]:
    """A head travels as two fields: its length and its hash."""
    pairs = (((f"{name}_length", int), (f"{name}_hash", str)) for name in heads)
    return {field: type_ for pair in pairs for field, type_ in pair}


_REQUEST_FIELDS: Final = {
    "study": str,
    "plan_hash": str,
    "round": int,
    "purpose": str,
    "acknowledged": int,
    "receipt": bytes,
    "receipt_seal": str,
    **_fields_of(_REQUEST_HEADS),
}
_NAME: Final = r"([a-z0-9][a-z0-9-]{0,62})?"
_FORMS: Final = {
    "study": _NAME,
    "site": _NAME,
    "plan_hash": r"([0-9a-f]{64})?",
    "request": r"[0-9a-f]{64}",
    **dict.fromkeys((f"{name}_hash" for name in _REQUEST_HEADS | _REPLY_HEADS), r"[0-9a-f]{64}"),
    **dict.fromkeys(("seal", "receipt_seal"), rf"[0-9a-f]{{{SEAL_DIGITS}}}"),
    "code": r"[a-z-]{1,32}",
}
"""Allowed forms of fields: everything that is echoed, logged or looked up has a closed form."""
_REPLY_FIELDS: Final = {
    "site": str,
    "request": str,
    "study": str,
    "plan_hash": str,
    "round": int,
    "purpose": str,
    "code": str,
    "seal": str,
    "signature": bytes,
    **_fields_of(_REPLY_HEADS),
}


def _config(message: Request | Reply) -> dict[str, Any]:
    asks = isinstance(message, Request)
    fields, heads = (_REQUEST_FIELDS, _REQUEST_HEADS) if asks else (_REPLY_FIELDS, _REPLY_HEADS)
    values = {name: getattr(message, name, None) for name in fields if name != "signature"}
    for name in heads:
        head = getattr(message, name)
        values |= {f"{name}_length": head.length, f"{name}_hash": head.hash}
    return values


def _with_heads(fields: dict[str, Any], kind: type[Request] | type[Reply]) -> dict[str, Any]:
    """The fields with each head put together again."""
    heads = _REQUEST_HEADS if kind is Request else _REPLY_HEADS
    pairs = {
        name: head(fields.pop(f"{name}_length"), fields.pop(f"{name}_hash"))
        for name, head in heads.items()
    }
    return fields | pairs


def _to_record(fields: dict[str, Any], arrays: Flat | None, document: str) -> RecordDict:
    record = RecordDict({"fields": ConfigRecord(fields | {"document": document})})
    if arrays is not None:
        data = _little_endian(arrays)
        array = Array(str(arrays.dtype), (arrays.size,), STORAGE, data)
        record["arrays"] = ArrayRecord({"flat": array})
    return record


def _from_record(
    content: RecordDict, kind: type[Request] | type[Reply], most_weights: int | None
) -> tuple[dict[str, Any], Flat | None, str]:
    expected = _REQUEST_FIELDS if kind is Request else _REPLY_FIELDS
    wanted = {**expected, "document": str}
    _demand(set(content) <= {"fields", "arrays"} and "fields" in content, "records")
    config = content["fields"]
    if not isinstance(config, ConfigRecord) or set(config) != set(wanted):
        raise _unexpected("fields")
    values: dict[str, Any] = dict(config)
    for name, type_ in wanted.items():
        # Not isinstance: True is an int in Python, and would be a round.
        _demand(type(values[name]) is type_ and _well_formed(name, values[name]), name)
    document = values.pop("document")
    arrays = _read_arrays(content, most_weights) if "arrays" in content else None
    return _with_heads(values, kind), arrays, document


def _well_formed(name: str, value: Any) -> bool:  # noqa: ANN401 - a field's value
    if isinstance(value, int):
        return 0 <= value <= LARGEST
    if name == "purpose":
        return value in get_args(Purpose)
    if name == "receipt":
        return len(value) in (0, SIGNATURE_BYTES)
    if name == "document":
        return re.search("[\ud800-\udfff]", value) is None  # lone surrogates have no UTF-8
    # fullmatch: a "$" at the end of a pattern would let a line break through.
    return name not in _FORMS or re.fullmatch(_FORMS[name], value) is not None


def _read_arrays(content: RecordDict, most_weights: int | None) -> Flat:
    record = content["arrays"]
    if not isinstance(record, ArrayRecord) or set(record) != {"flat"}:
        raise _unexpected("arrays")
    array = record["flat"]
    _demand(array.stype == STORAGE, "storage")
    _demand(array.dtype in DTYPES and len(array.shape) == 1, "dtype or shape")
    count, dtype = array.shape[0], _stored(array.dtype)
    # The shape is the sender's word: without this, the next line would bound a word and no bytes.
    _demand(len(array.data) == count * dtype.itemsize, "length")
    _demand(most_weights is None or count <= most_weights, "size")
    return np.frombuffer(array.data, dtype=dtype)


def _stored(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _little_endian(arrays: Flat) -> bytes:
    return np.ascontiguousarray(arrays, dtype=arrays.dtype.newbyteorder("<")).tobytes()


def _demand(condition: bool, what: str) -> None:
    if not condition:
        raise _unexpected(what)


def _unexpected(what: str) -> Refusal:
    return Refusal(RefusalCode.MALFORMED, f"a message has unexpected {what}")
