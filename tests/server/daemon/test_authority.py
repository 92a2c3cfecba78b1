"""Keys and certificates: made once, readable by their owner alone, trusted over real TLS."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from common.errors import CoordinatorError
from common.wire.enrolment import read_coordinator_card
from common.wire.signing import verify
from server.daemon import authority
from server.daemon.settings import FILE, Home, load_home
from tests.server.daemon.tls import ADDRESS, greet, trusting


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return authority.init(tmp_path / "home", "radiology", ADDRESS).home


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_init_twice_says_what_exists_and_changes_nothing(tmp_path: Path) -> None:
    first = authority.init(tmp_path, "radiology", ADDRESS)
    before = everything(tmp_path)
    again = authority.init(tmp_path, "radiology", ADDRESS)

    assert first.kept == again.made == ()
    assert first.made == again.kept
    assert {path.name for path in again.kept} == {FILE, "ca.pem", "ca.key", "server.pem"} | {
        "server.key",
        "loopback.pem",
        "loopback.key",
        "signing.key",
        "guard.secret",
    }
    assert everything(tmp_path) == before


def test_an_init_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    authority.init(tmp_path, "radiology", ADDRESS)
    (tmp_path / "state" / "loopback.pem").unlink()
    before = everything(tmp_path)

    assert [path.name for path in authority.init(tmp_path, "radiology", ADDRESS).made] == [
        "loopback.pem"
    ]
    assert before.items() < everything(tmp_path).items()


def test_another_coordinator_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    authority.init(tmp_path, "radiology", ADDRESS)
    before = everything(tmp_path)
    with pytest.raises(CoordinatorError, match="another coordinator"):
        authority.init(tmp_path, "radiology", "elsewhere.example.org:1")
    assert everything(tmp_path) == before


def test_a_certificate_without_its_key_is_refused(home: Home) -> None:
    home.ca_key.unlink()
    with pytest.raises(CoordinatorError, match=r"restore a backup") as caught:
        authority.init(home.folder, "radiology", ADDRESS)
    assert caught.value.details["where"] == str(home.ca_key)
    assert not home.ca_key.exists()


def test_everything_is_its_owners_alone(home: Home) -> None:
    folders = [home.state, home.operators, home.studies]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    files = [path for path in home.folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_secret_is_long_and_each_coordinators_own(home: Home, tmp_path: Path) -> None:
    other = authority.init(tmp_path / "other", "radiology", ADDRESS).home
    found = {home.guard_secret.read_text(), other.guard_secret.read_text()}
    assert {len(secret) for secret in found} == {64}
    assert len(found) == 2


def test_the_authority_issues_to_no_other_authority(home: Home) -> None:
    found = x509.load_pem_x509_certificate(home.ca_certificate.read_bytes())
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)

    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )
    years = (found.not_valid_after_utc - found.not_valid_before_utc).days / 365.25
    assert years == pytest.approx(10, abs=0.01)


def test_the_card_is_read_by_the_site_and_its_key_signs(tmp_path: Path, home: Home) -> None:
    (tmp_path / "COORDINATOR.json").write_text(authority.coordinator_card(home).text)
    card = read_coordinator_card(tmp_path / "COORDINATOR.json")

    assert (card.name, card.address) == ("radiology", ADDRESS)
    assert verify(card.signing_key, b"receipt", authority.signing_key(home).sign(b"receipt"))


@pytest.mark.parametrize("host", ["consilium.example.org", "localhost", "127.0.0.1"])
def test_a_site_that_trusts_the_card_reaches_the_gateway(home: Home, host: str) -> None:
    card = authority.coordinator_card(home)
    site = ssl.create_default_context(cadata=card.ca)
    site.verify_flags |= ssl.VERIFY_X509_STRICT

    greet(authority.server_context(home), site, host)


def test_an_address_that_is_an_ip_address_is_one_in_the_certificate(tmp_path: Path) -> None:
    home = authority.init(tmp_path, "radiology", "192.0.2.7:8443").home

    greet(authority.server_context(home), trusting(home), "192.0.2.7")


def test_a_name_with_underscores_is_one_in_the_certificate(tmp_path: Path) -> None:
    host = "_dicom.radiology_2.klinik.local"
    home = authority.init(tmp_path, "radiology", f"{host}:8443").home

    greet(authority.server_context(home), trusting(home), host)
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(authority.server_context(home), trusting(home), host.replace("_", "-"))


def test_a_site_that_trusts_another_authority_does_not_connect(tmp_path: Path, home: Home) -> None:
    other = authority.init(tmp_path / "other", "radiology", ADDRESS).home
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(authority.server_context(home), trusting(other), "localhost")


def test_old_tls_is_not_spoken(home: Home) -> None:
    """The client here would speak TLS 1.1, and its library's security level lets it."""
    client, server = trusting(home), authority.server_context(home)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    greet(server, client, "localhost")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        greet(server, client, "localhost")


def expiring(home: Home, path: Path, left: datetime.timedelta) -> None:
    """Issue a certificate anew with a given time left, as if it had been made long ago."""
    found = x509.load_pem_x509_certificate(path.read_bytes())
    key = load_pem_private_key(home.ca_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        found.issuer, found.subject, found.public_key(), found.serial_number
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = builder.not_valid_before(now - datetime.timedelta(days=300))
    builder = builder.not_valid_after(now + left)
    for extension in found.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path.write_bytes(builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))


def test_nothing_is_renewed_while_a_month_is_left(home: Home) -> None:
    expiring(home, home.server_certificate, datetime.timedelta(days=31))

    assert authority.renew(home) == ()


@pytest.mark.parametrize("days", [29, -1])
def test_a_renewal_costs_the_sites_nothing(home: Home, days: int) -> None:
    site = ssl.create_default_context(cadata=authority.coordinator_card(home).ca)
    expiring(home, home.server_certificate, datetime.timedelta(days=days))
    before = everything(home.folder)

    assert authority.renew(home) == (home.server_certificate,)
    assert authority.renew(home) == ()
    after = everything(home.folder)
    assert {name for name in after if after[name] != before[name]} == {"state/server.pem"}
    renewed = x509.load_pem_x509_certificate(home.server_certificate.read_bytes())
    left = renewed.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=364)
    greet(authority.server_context(home), site, "localhost")


def test_a_changed_address_gets_a_certificate(home: Home) -> None:
    path = home.folder / FILE
    path.write_text(path.read_text().replace(ADDRESS, "new.example.org:8443"))
    changed = load_home(home.folder)

    assert authority.renew(changed) == (home.server_certificate,)
    greet(authority.server_context(changed), trusting(home), "new.example.org")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_a_damaged_file_is_named(home: Home, content: bytes) -> None:
    home.ca_certificate.write_bytes(content)
    with pytest.raises(CoordinatorError) as caught:
        authority.ca_certificate(home)
    assert caught.value.details["where"] == str(home.ca_certificate)


def test_a_secret_that_others_may_read_is_refused(home: Home) -> None:
    for path, use in (
        (home.signing_key, lambda: authority.signing_key(home)),
        (home.ca_key, lambda: authority.ca_key(home)),
        (home.guard_secret, lambda: authority.secret(home.guard_secret)),
    ):
        use()
        path.chmod(0o640)
        with pytest.raises(CoordinatorError, match="chmod 600"):
            use()
