"""The two cards by which a site and a coordinator come to know each other.

Each is a small JSON file that a person mails; everything in it is public. A mail can be changed
on its way, so both sides show the fingerprint of a card and compare it by telephone: 80 bits of
SHA-256 over everything that the card says, in Crockford's base 32, which has no letters that
sound or look like others.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from pydantic import AfterValidator, Field

from common.documents import UnreadableError, read_json
from common.errors import ConsiliumError, CoordinatorError, SiteError, of_system
from common.files import canonical_json
from common.settings import Section, checked
from common.study.study_file import Patients
from common.text import Slug

FORMAT: Final = 1
LARGEST: Final = 2**16
"""Bytes of the largest file that can be a card; one takes about a thousand."""
INSTANCE_HEADER: Final = "consilium-instance"
"""Header of each call of a site: the number of the process that makes it."""
NODE_HEADER: Final = "consilium-node"
"""Header of an answer: the number of the site's node."""
TWINS_HEADER: Final = "consilium-twins"
"""Header of an answer: since when another machine calls with the same key, ISO 8601 in UTC."""
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GROUPS: Final = 4
# With an underscore, which no public name has and many names inside a hospital have: resolvers,
# OpenSSL and gRPC take it.
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address is in brackets, as in a URL.

    Raises:
        ValueError: it is something else. The message says what was wanted.
    """
    host, colon, port = address.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:
        raise ValueError("should be host:port, as in consilium.example.org:9092")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if re.fullmatch(r"[0-9.]+", host):
        return str(ipaddress.IPv4Address(host)), int(port)
    if len(host) > 253 or re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", host.lower()) is None:
        raise ValueError(
            "should be host:port without https://, the host an IP address (IPv6 in brackets, as in "
            "[2001:db8::7]:9092) or a DNS name of letters, digits, hyphens, underscores and dots "
            "(with other letters: its xn-- form)"
        )
    return host.lower(), int(port)


def _listen(text: str) -> str:
    split_address(text)
    return text


def _address(text: str) -> str:
    host, port = split_address(text)
    if port == 0:
        raise ValueError("should have a port from 1 to 65535")
    _require_one_machine(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _require_one_machine(host: str) -> None:
    """Refuse an IP address that leads nobody to the machine, such as 0.0.0.0."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:  # a DNS name
        return
    scoped = isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255" or scoped:
        raise ValueError(
            f"should name one machine, and {host} does not: write the name or the address under "
            "which the hospitals reach it"
        )


def _node_key(text: str) -> str:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("should be a public key in PEM") from None
    # Flower takes several curves; this is the one on which it makes its own keys.
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)):
        raise ValueError("should be a public key on the curve P-384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _authority(text: str) -> str:
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except (ValueError, x509.InvalidVersion):
        raise ValueError("should be a certificate in PEM") from None
    if len(certificates) != 1:
        raise ValueError("should be one certificate")
    try:
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        raise ValueError("should be the certificate of a certificate authority") from None
    if not constraints.value.ca:
        raise ValueError("should be the certificate of a certificate authority")
    return certificates[0].public_bytes(Encoding.PEM).decode()


def _signing_key(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise ValueError("should be 64 lower-case hexadecimal digits")
    return text


COORDINATOR_CARD: Final = "COORDINATOR.json"
"""Name of a coordinator's card: by mail, and in a site's state folder."""
Address = Annotated[str, AfterValidator(_address)]
"""``host:port`` under which a service is reached."""
Listen = Annotated[str, AfterValidator(_listen)]
"""``host:port`` to listen at; port 0 takes a free one."""
NodeKey = Annotated[str, AfterValidator(_node_key)]
"""PEM of the public half of a site's EC P-384 key, which Flower knows a node by."""
SigningKeyText = Annotated[str, AfterValidator(_signing_key)]
"""The public half of an Ed25519 key, as :class:`common.wire.signing.SigningKey` gives it."""


class _Card(Section):
    """What both cards share: how they are written and what they are known by."""

    @property
    def text(self) -> str:
        """The card as it is written to a file."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @property
    def fingerprint(self) -> str:
        """What two people compare by telephone, as in ``K7QM-2XNF-PA4T-9CRD``."""
        digest = hashlib.sha256(canonical_json(self.model_dump(mode="json"))).digest()
        # 80 bits: to find another card with the same 16 letters takes 2^80 attempts.
        digits = int.from_bytes(digest[:10], "big")
        letters = [_ALPHABET[digits >> shift & 31] for shift in range(75, -1, -5)]
        groups = ("".join(letters[start : start + _GROUPS]) for start in range(0, 16, _GROUPS))
        return "-".join(groups)


class SiteCard(_Card):
    """``SITE.json``: what a coordinator admits a site by.

    Attributes:
        format: of the card.
        name: what the site is called.
        node_key: the public half of the key that the site connects with.
        signing_key: the public half of the key that the site signs its replies with.
        patients: what the site declares of each data set, patients in training, which decides
            how much it counts: the coordinator's people agree to it, or to another number.
    """

    format: Literal[1] = FORMAT
    name: Slug
    node_key: NodeKey
    signing_key: SigningKeyText
    patients: dict[Slug, Patients] = Field(default_factory=dict, max_length=100)


class CoordinatorCard(_Card):
    """``COORDINATOR.json``: what a site joins a coordinator by.

    Attributes:
        format: of the card.
        name: what the coordinator is called.
        address: under which sites reach it.
        ca: certificate of the authority that its server certificates are issued by, PEM.
        signing_key: the public half of the key that it signs its receipts with.
    """

    format: Literal[1] = FORMAT
    name: Slug
    address: Address
    ca: Annotated[str, AfterValidator(_authority)]
    signing_key: SigningKeyText


Card = TypeVar("Card", SiteCard, CoordinatorCard)


def read_site_card(path: Path) -> SiteCard:
    """Read a site's card.

    Raises:
        SiteError: it is missing, or is not the card of a site.
    """
    return _read(path, SiteCard, SiteError, "`consilium-site init`")


def read_coordinator_card(path: Path) -> CoordinatorCard:
    """Read a coordinator's card.

    Raises:
        CoordinatorError: it is missing, or is not the card of a coordinator.
    """
    return _read(path, CoordinatorCard, CoordinatorError, "`consilium-coordinator admit`")


def _read(path: Path, card: type[Card], error: type[ConsiliumError], made_by: str) -> Card:
    wanted = f"the file that {made_by} writes"
    try:
        with path.open("rb") as file:
            # One byte more than is allowed: a larger file is refused, and not read in part.
            content = file.read(LARGEST + 1)
    except FileNotFoundError as cause:
        raise error(
            "there is no such file", where=path, wanted=wanted, remedy="give its path"
        ) from cause
    except OSError as cause:
        raise of_system(cause, error, where=path) from cause
    # A mistake of people, who mail the file beside the right one; the secret is then in a mailbox.
    if b"PRIVATE KEY" in content:
        raise error(
            "the file holds a private key, which is no longer secret",
            where=path,
            wanted=wanted,
            remedy="create a new key, and send only its public part",
        )
    document = _parse(content, path, error, wanted)
    _require_kind(document, path, card, error)
    if document.get("format") != FORMAT:
        raise error(
            "this version of Consilium cannot read the format of the card",
            where=path,
            found=f"format {document.get('format', 'not named')}",
            wanted=f"format {FORMAT}: {wanted}",
            remedy="if a newer Consilium wrote it, install that version here too",
        )
    return checked(document, path, card, error)


def _require_kind(
    document: dict[str, Any], path: Path, card: type[Card], error: type[ConsiliumError]
) -> None:
    """The two cards are easily taken for each other: each command wants the other side's."""
    if card is CoordinatorCard and "node_key" in document and "ca" not in document:
        raise error(
            "this is a SITE.json; to join, you need the coordinator's COORDINATOR.json",
            where=path,
            wanted="the COORDINATOR.json that the coordinator sends back",
            remedy="send SITE.json to the coordinator, who answers with COORDINATOR.json",
        )
    if card is SiteCard and "ca" in document and "node_key" not in document:
        raise error(
            "this is a COORDINATOR.json; to admit a site, you need its SITE.json",
            where=path,
            wanted="the SITE.json that `consilium-site init` writes",
            remedy="ask the site for its SITE.json",
        )


def _parse(content: bytes, path: Path, error: type[ConsiliumError], wanted: str) -> dict[str, Any]:
    name, sender = (
        (COORDINATOR_CARD, "the coordinator")
        if error is CoordinatorError
        else ("SITE.json", "the site")
    )
    what, remedy = f"this is not a complete {name}", f"ask {sender} to send it again"
    try:
        if len(content) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        # Of two values for one key, another program may show the one that is not used here.
        read_json(content)  # which bounds how deep it is
        document = json.loads(content, object_pairs_hook=_distinct)
    except UnreadableError as cause:
        found = "not JSON, or not the whole file" if content else "an empty file"
        raise error(what, where=path, found=found, wanted=wanted, remedy=remedy) from cause
    except ValueError as cause:
        raise error(what, where=path, found=cause, wanted=wanted, remedy=remedy) from cause
    if not isinstance(document, dict):
        raise error(what, where=path, wanted=wanted, remedy=remedy)
    return document


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document
