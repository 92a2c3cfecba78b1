"""The key with which a site connects: EC P-384, which Flower's node authentication requires."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from common.errors import SiteError
from common.files import write_atomic

FILE = "node.key"
"""Its name in the state folder."""


def new_node_key() -> bytes:
    """A new private key to connect with, EC P-384.

    In OpenSSH's format, as ``ssh-keygen`` writes it, which a stock ``flower-supernode`` wants.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    # Without a passphrase: the daemon starts unattended. The file is readable by its owner only.
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def load_node_key(path: Path, *, make: bool = False) -> ec.EllipticCurvePrivateKey:
    """The key that a site connects with.

    Args:
        path: of the file, which only its owner can read.
        make: whether to make one where there is none.

    Raises:
        SiteError: there is none, or it is no such key.
    """
    if make and not path.exists():
        write_atomic(path, new_node_key(), mode=0o600)
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("another kind of key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise SiteError(
            "the connection key of this site cannot be read",
            where=path,
            found=cause.strerror if isinstance(cause, OSError) else "no EC key in OpenSSH format",
            remedy="restore it from a backup; without one, make a new site and have it admitted",
        ) from cause
    return key


def public_node_key(key: ec.EllipticCurvePrivateKey) -> str:
    """The half that goes into ``SITE.json``, PEM."""
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
