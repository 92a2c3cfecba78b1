"""Operators: let in by the very certificate that was made for them, and by no other."""

from __future__ import annotations

import datetime
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
import pytest
from cryptography import x509

from common.errors import CoordinatorError
from server.cli.rpc_client import Caller, calling
from server.daemon import authority, operators
from server.daemon.settings import Home
from tests.server.daemon.tls import ADDRESS, greet, operator_context, shown, trusting
from tests.waiting import PATIENCE


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return authority.init(tmp_path / "home", "radiology", ADDRESS).home


def test_an_operator_is_known_by_name(tmp_path: Path, home: Home) -> None:
    files = operators.admit_operator(home, "ada").write(tmp_path)
    saw = greet(operator_context(home), shown(files, home), "localhost")

    assert saw is not None
    assert operators.operator_of(home, files[0].read_bytes()) == "ada"
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_nobody_without_a_certificate_is_let_in(home: Home) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        greet(operator_context(home), trusting(home), "localhost")


def test_a_servers_certificate_makes_no_operator(home: Home) -> None:
    files = (home.server_certificate, home.server_key, home.ca_certificate)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        greet(operator_context(home), shown(files, home), "localhost")
    assert operators.operator_of(home, home.server_certificate.read_bytes()) is None


def test_an_operator_makes_no_server(tmp_path: Path, home: Home) -> None:
    files = operators.admit_operator(home, "localhost").write(tmp_path)
    pretended = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pretended.load_cert_chain(files[0], files[1])
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(pretended, trusting(home), "localhost")


def test_an_operator_whose_file_was_deleted_is_nobody(home: Home) -> None:
    ada, bob = (operators.admit_operator(home, name) for name in ("ada", "bob"))
    (home.operators / "ada.pem").unlink()

    assert operators.operator_of(home, ada.certificate) is None
    assert operators.operator_of(home, bob.certificate) == "bob"
    operators.admit_operator(home, "ada")
    assert operators.operator_of(home, ada.certificate) is None
    assert operators.operator_of(home, b"no certificate") is None


def test_a_damaged_file_shuts_out_its_owner_alone(home: Home) -> None:
    ada, bob = (operators.admit_operator(home, name) for name in ("ada", "bob"))
    (home.operators / "ada.pem").write_text("damaged")
    (home.operators / "also.pem").mkdir()

    assert operators.operator_of(home, ada.certificate) is None
    assert operators.operator_of(home, bob.certificate) == "bob"


def test_an_operator_whose_certificate_has_expired_is_nobody(home: Home) -> None:
    """TLS looks at that when a connection is made, and never again while it lasts."""
    ada = operators.admit_operator(home, "ada")
    until = x509.load_pem_x509_certificate(ada.certificate).not_valid_after_utc
    second = datetime.timedelta(seconds=1)
    assert operators.operator_of(home, ada.certificate, until - second) == "ada"
    assert operators.operator_of(home, ada.certificate, until + second) is None


@pytest.mark.parametrize(("name", "says"), [("ada", "of this name"), ("../x", "not a valid name")])
def test_an_operators_name_is_new_and_plain(home: Home, name: str, says: str) -> None:
    operators.admit_operator(home, "ada")
    with pytest.raises(CoordinatorError, match=says):
        operators.admit_operator(home, name)


def test_no_key_is_shown(home: Home) -> None:
    files = operators.admit_operator(home, "ada")
    assert "PRIVATE" not in repr(files) + repr(home)


Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class WhoIsThere(grpc.GenericRpcHandler):
    """Answers every call with the name of the operator who made it."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            (certificate,) = cast("dict[str, list[bytes]]", context.auth_context())["x509_pem_cert"]
            return str(operators.operator_of(self.home, certificate)).encode()

        handler: Handler = grpc.unary_unary_rpc_method_handler(answer)
        return handler


def test_grpc_tells_who_an_operator_is(tmp_path: Path, home: Home) -> None:
    files = operators.admit_operator(home, "ada").write(tmp_path)
    certificate, key, ca = (path.read_bytes() for path in files)
    pair = (home.server_key.read_bytes(), home.server_certificate.read_bytes())
    server = grpc.server(ThreadPoolExecutor(1), handlers=[WhoIsThere(home)])
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=True),
    )
    server.start()
    try:
        for credentials, answer in (
            (grpc.ssl_channel_credentials(ca, key, certificate), b"ada"),
            (grpc.ssl_channel_credentials(ca), None),
            (grpc.ssl_channel_credentials(ca, *pair), None),
        ):
            with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
                call: Any = channel.unary_unary("/any/Method")
                if answer is not None:
                    assert call(b"", timeout=PATIENCE) == answer
                else:
                    with pytest.raises(grpc.RpcError):
                        call(b"", timeout=PATIENCE)
    finally:
        server.stop(None)


def test_an_operators_key_that_others_may_read_is_refused(tmp_path: Path, home: Home) -> None:
    operators.admit_operator(home, "ada").write(tmp_path / "ada")
    key = tmp_path / "ada" / "ada.key"
    key.chmod(0o640)
    caller = Caller(home.folder, "localhost:1", tmp_path / "ada")

    with pytest.raises(CoordinatorError, match="have access") as caught, calling(caller):
        pass
    assert caught.value.details["do"].endswith(f"chmod 600 {key}")
