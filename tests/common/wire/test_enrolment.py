"""The cards of site and coordinator: strict, the same after a mail, known by a fingerprint."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.errors import ConsiliumError, CoordinatorError, SiteError
from common.files import canonical_json
from common.wire.enrolment import (
    Address,
    CoordinatorCard,
    SiteCard,
    read_coordinator_card,
    read_site_card,
    split_address,
)
from common.wire.signing import SigningKey

SIGNING_KEY = SigningKey(bytes(range(32))).public
ADDRESS: TypeAdapter[str] = TypeAdapter(Address)


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoded = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def certificate(*, authority: bool) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made up")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.fixture(scope="module")
def site() -> SiteCard:
    key = public_pem(ec.generate_private_key(ec.SECP384R1()))
    return SiteCard(
        name="north", node_key=key, signing_key=SIGNING_KEY, patients={"chest-xray": 400}
    )


@pytest.fixture(scope="module")
def coordinator() -> CoordinatorCard:
    return CoordinatorCard(
        name="consilium",
        address="consilium.example.org:9092",
        ca=certificate(authority=True),
        signing_key=SIGNING_KEY,
    )


def test_a_card_comes_back_as_it_was_written(
    tmp_path: Path, site: SiteCard, coordinator: CoordinatorCard
) -> None:
    (tmp_path / "SITE.json").write_text(site.text)
    (tmp_path / "COORDINATOR.json").write_text(coordinator.text)

    assert read_site_card(tmp_path / "SITE.json") == site
    assert read_coordinator_card(tmp_path / "COORDINATOR.json") == coordinator


def test_what_a_mail_may_do_to_a_file_changes_no_fingerprint(
    tmp_path: Path, site: SiteCard
) -> None:
    path = tmp_path / "SITE.json"
    path.write_bytes(b"\xef\xbb\xbf" + site.text.replace("\n", "\r\n").encode() + b"\r\n")

    assert read_site_card(path).fingerprint == site.fingerprint


def test_the_fingerprint_is_eighty_bits_of_the_hash_in_base_32(site: SiteCard) -> None:
    shown = site.fingerprint
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", shown)
    value = 0
    for letter in shown.replace("-", ""):
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    digest = hashlib.sha256(canonical_json(site.model_dump())).digest()
    assert value.to_bytes(10, "big") == digest[:10]


def test_the_fingerprint_covers_every_field(site: SiteCard, coordinator: CoordinatorCard) -> None:
    other_key = public_pem(ec.generate_private_key(ec.SECP384R1()))
    signing_key = SigningKey(bytes(32)).public
    cards: list[SiteCard | CoordinatorCard] = [
        site,
        site.model_copy(update={"name": "south"}),
        site.model_copy(update={"node_key": other_key}),
        site.model_copy(update={"signing_key": signing_key}),
        coordinator,
        coordinator.model_copy(update={"name": "other"}),
        coordinator.model_copy(update={"address": "consilium.example.org:9093"}),
        coordinator.model_copy(update={"ca": certificate(authority=True)}),
        coordinator.model_copy(update={"signing_key": signing_key}),
    ]
    assert len({card.fingerprint for card in cards}) == len(cards)


Change = Callable[[dict[str, Any]], object]
SITE_FAULTS: dict[str, tuple[Change, str]] = {
    "an unknown key": (lambda card: card.update(port=1), "port: unknown key"),
    "a missing key": (lambda card: card.pop("name"), "name: missing"),
    "a name that is no slug": (lambda card: card.update(name="../x"), "1 to 63 lower-case"),
    "a number for a key": (lambda card: card.update(node_key=5), "valid string"),
    "no key at all": (lambda card: card.update(node_key="hello"), "a public key in PEM"),
    "a certificate for a key": (
        lambda card: card.update(node_key=certificate(authority=True)),
        "a public key in PEM",
    ),
    "a key on another curve": (
        lambda card: card.update(node_key=public_pem(ec.generate_private_key(ec.SECP256R1()))),
        "on the curve P-384",
    ),
    "a short signing key": (lambda card: card.update(signing_key="ab" * 31), "64 lower-case"),
    "another format": (lambda card: card.update(format=2), "format 2"),
    "no format": (lambda card: card.pop("format"), "not named"),
}
COORDINATOR_FAULTS: dict[str, tuple[Change, str]] = {
    "an unknown key": (lambda card: card.update(node_key="x"), "node_key: unknown key"),
    "an address without port": (lambda card: card.update(address="example.org"), "host:port"),
    "port zero": (lambda card: card.update(address="example.org:0"), "1 to 65535"),
    "a URL": (lambda card: card.update(address="https://example.org:1"), "DNS name"),
    "no certificate": (lambda card: card.update(ca="hello"), "a certificate in PEM"),
    "two certificates": (lambda card: card.update(ca=card["ca"] * 2), "one certificate"),
    "no authority": (
        lambda card: card.update(ca=certificate(authority=False)),
        "certificate authority",
    ),
    "another format": (lambda card: card.update(format="1"), "format 1"),
}


def told(path: Path, read: Callable[[Path], object], error: type[ConsiliumError]) -> str:
    with pytest.raises(error) as caught:
        read(path)
    assert caught.value.details["where"] == str(path)
    assert caught.value.details.keys() & {"wanted", "do"}
    return str(caught.value)


@pytest.mark.parametrize("fault", SITE_FAULTS)
def test_a_site_card_is_refused_by_name(tmp_path: Path, site: SiteCard, fault: str) -> None:
    change, says = SITE_FAULTS[fault]
    card = site.model_dump()
    change(card)
    (tmp_path / "SITE.json").write_text(json.dumps(card))

    assert says in told(tmp_path / "SITE.json", read_site_card, SiteError)


@pytest.mark.parametrize("fault", COORDINATOR_FAULTS)
def test_a_coordinator_card_is_refused_by_name(
    tmp_path: Path, coordinator: CoordinatorCard, fault: str
) -> None:
    change, says = COORDINATOR_FAULTS[fault]
    card = coordinator.model_dump()
    change(card)
    path = tmp_path / "COORDINATOR.json"
    path.write_text(json.dumps(card))

    assert says in told(path, read_coordinator_card, CoordinatorError)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe\xfd", b"[" * 60_000, b" " * 70_000, b'{"a": 1, "a": 2}'],
)
def test_what_is_no_card_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "SITE.json"
    path.write_bytes(content)

    assert "not a complete SITE.json" in told(path, read_site_card, SiteError)


def test_a_file_that_is_no_json_is_told_so_in_words(tmp_path: Path) -> None:
    path = tmp_path / "COORDINATOR.json"
    path.write_text("Dear colleague,")
    said = told(path, read_coordinator_card, CoordinatorError)
    assert "not JSON" in said
    assert "Expecting" not in said


def test_the_other_sides_card_is_known_by_its_name(
    tmp_path: Path, site: SiteCard, coordinator: CoordinatorCard
) -> None:
    path = tmp_path / "card.json"
    path.write_text(site.text)
    assert "this is a SITE.json" in told(path, read_coordinator_card, CoordinatorError)
    path.write_text(coordinator.text)
    assert "this is a COORDINATOR.json" in told(path, read_site_card, SiteError)


def test_a_number_of_patients_that_was_changed_on_its_way_changes_the_fingerprint(
    site: SiteCard,
) -> None:
    for patients in ({"chest-xray": 401}, {"chest-xray": 400, "skin": 1}, {}):
        assert site.model_copy(update={"patients": patients}).fingerprint != site.fingerprint


@pytest.mark.parametrize(
    "patients", [{"chest-xray": 0}, {"chest-xray": 10**9 + 1}, {"Chest X": 5}, {"a": 0.5}]
)
def test_patients_on_a_card_are_numbers_of_data_sets(
    tmp_path: Path, site: SiteCard, patients: dict[str, float]
) -> None:
    path = tmp_path / "SITE.json"
    path.write_text(json.dumps(json.loads(site.text) | {"patients": patients}))
    assert "patients" in told(path, read_site_card, SiteError)


def test_a_file_that_is_not_there_says_which_one_is_wanted(tmp_path: Path) -> None:
    assert "consilium-site init" in told(tmp_path / "SITE.json", read_site_card, SiteError)


def test_a_private_key_in_a_card_is_refused_without_showing_it(tmp_path: Path) -> None:
    secret = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    card = {"format": 1, "name": "n", "node_key": secret.decode(), "signing_key": SIGNING_KEY}
    path = tmp_path / "SITE.json"
    path.write_text(json.dumps(card))

    message = told(path, read_site_card, SiteError)
    assert "no longer secret" in message
    assert not any(line in message for line in secret.decode().splitlines()[1:-1])


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("Example.ORG:443", ("example.org", 443)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9092", ("::1", 9092)),
        ("_dicom.Radiology_2.klinik.local:1", ("_dicom.radiology_2.klinik.local", 1)),
    ],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@given(st.ip_addresses(v=4, network="0.0.0.0/1") | st.ip_addresses(v=6, network="::/3"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("fd00::7"))
@example(ipaddress.ip_address("192.168.0.7"))
def test_an_address_of_one_machine_is_one_that_sites_are_told(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assume(int(ip) != 0)
    written = f"[{ip}]:443" if ip.version == 6 else f"{ip}:443"

    assert ADDRESS.validate_python(written) == written
    assert split_address(written) == (str(ip), 443)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "[::]",
        "[::ffff:0.0.0.0]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "[fe80::1]",
    ],
)
def test_an_address_that_is_no_machines_is_refused_as_one_that_sites_are_told(host: str) -> None:
    """A listener may have it: there it means every address of the machine."""
    assert split_address(f"{host}:443")[1] == 443
    with pytest.raises(ValidationError, match="should name one machine"):
        ADDRESS.validate_python(f"{host}:443")


@pytest.mark.parametrize(
    ("address", "says"),
    [("::1:9092", "in brackets"), ("klinik am see:1", "underscores"), ("köln.de:1", "xn--")],
)
def test_what_is_wrong_with_a_host_is_said(address: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        split_address(address)


@pytest.mark.parametrize(
    "address", ["", ":1", "a:b", "a:65536", "::1:9", "1.2.3:4", "300.1.1.1:4", "-a:1", "a b:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        split_address(address)
