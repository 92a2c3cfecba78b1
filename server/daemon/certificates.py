"""The certificates that the coordinator's authority issues (RFC 5280), as pure functions."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Ten years: when the authority expires, every site must join again.
AUTHORITY_LIVES: Final = datetime.timedelta(days=3653)
LIVES: Final = datetime.timedelta(days=365)
_BACKDATED: Final = datetime.timedelta(hours=1)
"""A certificate is valid from this long ago, for sites whose clock is behind."""


def authority(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The certificate (PEM) of an authority that may not issue one to another authority.

    Args:
        name: of the coordinator.
        key: of the authority.
    """
    subject = _name(name, "Certificate authority")
    public = key.public_key()
    builder = (
        _builder(subject, subject, public, public, AUTHORITY_LIVES)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM)


def server(
    hosts: tuple[str, ...],
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """The certificate (PEM) of a server.

    Args:
        hosts: DNS names and IP addresses under which it is reached.
        key: of the server.
        issuer: the authority.
        issuer_key: the authority's key.
    """
    names = x509.SubjectAlternativeName([_general(host) for host in hosts])
    builder = _leaf("Server", key, issuer, ExtendedKeyUsageOID.SERVER_AUTH)
    return (
        builder.add_extension(names, critical=False)
        .sign(issuer_key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def client(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    """The certificate (PEM) of an operator of the coordinator's control service."""
    builder = _leaf(name, key, issuer, ExtendedKeyUsageOID.CLIENT_AUTH)
    return builder.sign(issuer_key, hashes.SHA384()).public_bytes(Encoding.PEM)


def is_for(
    certificate: x509.Certificate, hosts: tuple[str, ...], key: ec.EllipticCurvePrivateKey
) -> bool:
    """Whether a server's certificate names these hosts and this key."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    named = {str(value) for value in names.get_values_for_type(x509.DNSName)}
    named |= {str(value) for value in names.get_values_for_type(x509.IPAddress)}
    return named == set(hosts) and certificate.public_key() == key.public_key()


def _leaf(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    organisation = issuer.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    issuer_public = issuer.public_key()
    assert isinstance(issuer_public, ec.EllipticCurvePublicKey)
    subject = _name(str(organisation), name)
    return (
        _builder(subject, issuer.subject, key.public_key(), issuer_public, LIVES)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_public: ec.EllipticCurvePublicKey,
    lives: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lives)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False
        )
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(organisation: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
