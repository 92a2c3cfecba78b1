"""The two databases that the store lives in, and the cards of made-up sites."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.files import sha256
from common.wire.enrolment import SiteCard
from server.store import CoordinatorStore, open_store
from tests.server.store.postgres import Server, running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: each test runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/store.sqlite"
    server: Server = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def store(store_url: str) -> Iterator[CoordinatorStore]:
    with open_store(store_url) as store:
        yield store


@functools.cache
def node_key(number: int) -> str:
    """The public half of the key of that number."""
    key = ec.derive_private_key(number + 1, ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def card(name: str, number: int, signing: int | None = None) -> SiteCard:
    """The card of a site with the keys of that number."""
    signing_key = sha256(str(number if signing is None else signing).encode())
    return SiteCard(name=name, node_key=node_key(number), signing_key=signing_key)
