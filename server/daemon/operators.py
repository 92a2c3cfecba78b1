"""Operators: named persons who use the coordinator from another machine, by mutual TLS.

A certificate of the coordinator's authority is not enough: the same certificate must also be in
the state folder's ``operators``. So deleting that file shuts its owner out, at once and without a
revocation list. The expiry date is checked here too, because a connection may outlive it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import TypeAdapter, ValidationError

from common.errors import CoordinatorError
from common.files import write_atomic
from common.text import Slug
from server.daemon import authority, certificates
from server.daemon.settings import Home


@dataclass(frozen=True)
class OperatorFiles:
    """The files of an operator: certificate, key and the coordinator's authority, each as PEM."""

    name: str
    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write ``NAME.pem``, ``NAME.key`` and ``ca.pem``, readable by their owner alone."""
        files = {
            folder / f"{self.name}.pem": self.certificate,
            folder / f"{self.name}.key": self.key,
            folder / "ca.pem": self.ca,
        }
        for path, content in files.items():
            write_atomic(path, content, mode=0o600)
        return tuple(files)


def admit_operator(home: Home, name: str) -> OperatorFiles:
    """Make a key and a certificate for an operator; the key is not stored here.

    Raises:
        CoordinatorError: the name cannot be used or is taken.
    """
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError as cause:
        raise CoordinatorError(
            "this is not a valid name for an operator",
            found=repr(name),
            wanted="1 to 63 lower-case letters, digits and hyphens",
        ) from cause
    authority.require_closed(home)
    # An existing one is not overwritten: that would shut out its owner without a word.
    kept = home.operators / f"{name}.pem"
    if kept.exists():
        raise CoordinatorError(
            "an operator of this name exists already",
            where=kept,
            remedy="to replace it, delete this file first; the old certificate is then refused",
        )
    key, issuer = ec.generate_private_key(ec.SECP256R1()), authority.ca_certificate(home)
    certificate = certificates.client(name, key, issuer, authority.ca_key(home))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomic(kept, certificate, mode=0o600)
    return OperatorFiles(name, certificate, secret, issuer.public_bytes(Encoding.PEM))


def operator_of(home: Home, certificate: bytes, at: datetime.datetime | None = None) -> str | None:
    """The operator whose certificate (PEM) a client showed, or ``None``.

    TLS has already checked that the authority issued it and that the client has its key. TLS
    checks the expiry date only when the connection is made.

    Args:
        home: the coordinator's.
        certificate: as shown.
        at: the time at which it must be valid; default now.
    """
    shown = _fingerprint(certificate)
    if shown is None:
        return None
    # Read again at each call, so that a deleted file takes effect at once.
    for path in sorted(home.operators.glob("*.pem")):
        try:
            kept = path.read_bytes()
        except OSError:  # deleted in this moment
            continue
        if _fingerprint(kept) == shown:
            until = x509.load_pem_x509_certificate(kept).not_valid_after_utc
            return path.stem if (at or datetime.datetime.now(datetime.UTC)) <= until else None
    return None


def _fingerprint(certificate: bytes) -> bytes | None:
    try:
        return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    except ValueError:
        return None
