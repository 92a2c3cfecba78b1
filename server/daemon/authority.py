"""The coordinator's keys and certificates: made once, never overwritten, renewed in time.

The coordinator has its own certificate authority. It issues the certificates of the gateway, of
SuperLink and of the operators (X.509 as in RFC 5280; EC on P-384 for the authority and P-256 for
the rest). Sites trust the authority, which is valid for ten years, so the one-year certificates
are renewed without any work at the sites. A renewal keeps the key and writes one file: a crash
cannot leave a certificate with the wrong key.
"""

from __future__ import annotations

import datetime
import secrets
import shlex
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.errors import CoordinatorError, of_system
from common.files import require_private, write_atomic
from common.wire.enrolment import CoordinatorCard, split_address
from common.wire.signing import SigningKey
from server.daemon import certificates
from server.daemon.settings import FILE, Home, load_home, new_file

RENEWED_BEFORE: Final = datetime.timedelta(days=30)
"""A server's certificate is renewed when it expires in less time than this."""
_SECRET: Final = ("*.key", "*.secret", "*.sqlite*")


@dataclass(frozen=True)
class InitReport:
    """What ``init`` found and did.

    Attributes:
        home: ready to serve.
        made: new files.
        kept: files that existed, unchanged.
    """

    home: Home
    made: tuple[Path, ...]
    kept: tuple[Path, ...]


def init(folder: Path, name: str, address: str) -> InitReport:
    """Make a coordinator's home; existing files stay as they are.

    Args:
        folder: its home; made if it is missing.
        name: of the coordinator.
        address: ``host:port`` under which sites reach it.

    Raises:
        CoordinatorError: the name or address cannot be used, the folder has another coordinator,
            or a key or certificate in it is missing.
    """
    made: list[Path] = []
    kept: list[Path] = []

    def keep(path: Path, make: Callable[[], bytes]) -> None:
        if path.exists():
            kept.append(path)
        else:
            write_atomic(path, make(), mode=0o600)
            made.append(path)

    text = new_file(name, address)
    keep(folder / FILE, text.encode)
    home = load_home(folder)
    _demand_same(home, name, address)
    home.state.mkdir(mode=0o700, exist_ok=True)
    # mkdir does not change a folder that exists, such as a mounted volume.
    home.state.chmod(0o700)
    for inner in (home.operators, home.studies):
        inner.mkdir(mode=0o700, exist_ok=True)
    _demand_whole(home)
    # Each key before its certificate: a crash in between leaves a key that the next init uses.
    keep(home.ca_key, lambda: _new_key(ec.SECP384R1()))
    keep(home.ca_certificate, lambda: certificates.authority(name, _key(home.ca_key)))
    for certificate, key, hosts in _servers(home):
        keep(key, lambda: _new_key(ec.SECP256R1()))
        keep(certificate, partial(_issue, home, key, hosts))
    keep(home.signing_key, lambda: secrets.token_bytes(32))
    keep(home.guard_secret, lambda: secrets.token_hex(32).encode())
    return InitReport(home, tuple(made), tuple(kept))


def renew(home: Home) -> tuple[Path, ...]:
    """Issue a new certificate for each that expires soon, or was issued for another address.

    Call it at the start and once a day. A TLS context that loads certificate and key again uses
    them for new connections.

    Returns:
        The new certificates.

    Raises:
        CoordinatorError: a key or certificate is missing or cannot be read.
    """
    renewed = []
    for certificate, key, hosts in _servers(home):
        found = _certificate(certificate)
        left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        # Also if the address in coordinator.toml has changed.
        if left < RENEWED_BEFORE or not certificates.is_for(found, hosts, _key(key)):
            write_atomic(certificate, _issue(home, key, hosts), mode=0o600)
            renewed.append(certificate)
    return tuple(renewed)


def coordinator_card(home: Home) -> CoordinatorCard:
    """The card that a site joins with.

    Raises:
        CoordinatorError: the authority's certificate or the signing key cannot be read.
    """
    return CoordinatorCard(
        name=home.file.coordinator.name,
        address=home.file.coordinator.address,
        ca=_read(home.ca_certificate).decode(),
        signing_key=signing_key(home).public,
    )


def signing_key(home: Home) -> SigningKey:
    """The key that receipts are signed with.

    Raises:
        CoordinatorError: it is missing or cannot be read.
    """
    found = secret(home.signing_key)
    if len(found) != 32:
        raise _damaged(home.signing_key)
    return SigningKey(found)


def secret(path: Path) -> bytes:
    """The content of a secret file of the state folder, such as ``guard.secret``.

    Raises:
        CoordinatorError: it is missing, or accounts other than its owner may read it.
    """
    content = _read(path)
    require_private((path,), CoordinatorError, "coordinator")
    return content


def require_closed(home: Home) -> None:
    """Refuse a state folder that other accounts of the machine can enter: the store is in it too.

    Raises:
        CoordinatorError: its mode, or that of a secret in it, allows access to others.
    """
    secret = (path for pattern in _SECRET for path in sorted(home.state.glob(pattern)))
    close = f"chmod -R go= {shlex.quote(str(home.state))}"
    require_private((home.state, *secret), CoordinatorError, "coordinator", close=close)


def server_context(home: Home) -> ssl.SSLContext:
    """TLS of the gateway: 1.2 or later; only the server shows a certificate.

    Raises:
        CoordinatorError: certificate or key cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Compression leaks secrets by size (CRIME); renegotiation lets a client cost us handshakes.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(home.server_certificate, home.server_key)
    except (OSError, ssl.SSLError) as cause:
        raise _damaged(home.server_certificate) from cause
    return context


def ca_key(home: Home) -> ec.EllipticCurvePrivateKey:
    """The authority's key.

    Raises:
        CoordinatorError: it is missing or cannot be read.
    """
    return _key(home.ca_key)


def ca_certificate(home: Home) -> x509.Certificate:
    """The authority's certificate.

    Raises:
        CoordinatorError: it is missing or cannot be read.
    """
    return _certificate(home.ca_certificate)


def _servers(home: Home) -> tuple[tuple[Path, Path, tuple[str, ...]], ...]:
    """Certificate, key and hosts of each server: the gateway, and SuperLink behind it."""
    host = split_address(home.file.coordinator.address)[0]
    here = ("localhost", "127.0.0.1")
    public = (host, *(each for each in here if each != host))
    return (
        (home.server_certificate, home.server_key, public),
        (home.loopback_certificate, home.loopback_key, here),
    )


def _issue(home: Home, key: Path, hosts: tuple[str, ...]) -> bytes:
    return certificates.server(hosts, _key(key), _certificate(home.ca_certificate), ca_key(home))


def _demand_same(home: Home, name: str, address: str) -> None:
    found = home.file.coordinator
    if (found.name, found.address.lower()) != (name, address.lower()):
        raise CoordinatorError(
            "this folder already has another coordinator",
            where=home.folder / FILE,
            found=f"{found.name} at {found.address}",
            wanted=f"{name} at {address}",
            remedy=f"use another folder (--home), or edit {FILE}",
        )


def _demand_whole(home: Home) -> None:
    for certificate, key in (
        (home.ca_certificate, home.ca_key),
        (home.server_certificate, home.server_key),
        (home.loopback_certificate, home.loopback_key),
    ):
        if certificate.exists() and not key.exists():
            raise _damaged(key)


def _new_key(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(secret(path), password=None)
    except (ValueError, TypeError) as cause:
        raise _damaged(path) from cause
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _damaged(path)
    return key


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as cause:
        raise _damaged(path) from cause


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as cause:
        raise _damaged(path, cause.strerror) from cause
    except OSError as cause:  # not a reason to restore a backup
        what = "a key or certificate of the coordinator cannot be read"
        raise of_system(cause, CoordinatorError, what, where=path) from cause


def _damaged(path: Path, found: str | None = None) -> CoordinatorError:
    return CoordinatorError(
        "a key or certificate of the coordinator is missing or damaged",
        where=path,
        found=found,
        remedy="restore a backup of the state folder; with new keys, every site must join again",
    )
