"""What one connection may cost the gateway: real sockets and TLS, no SuperLink behind it.

Whoever is let in is answered that there is none, which is as good an answer as any here.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.node_key import public_node_key
from common.process.ports import free_port
from server.daemon.authority import init
from server.gateway import connection_limiter, tls_listener
from server.gateway import gateway as gateway_module
from server.gateway.authentication import Admitted
from server.gateway.fleet_calls import PacedResponse
from tests.network import Coordinator, gateway_of, new_superlink
from tests.server.gateway.test_gateway import Caller
from tests.waiting import PATIENCE, until

# isort: split
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

HOUR = 3600.0
ANSWER = re.compile(rb"HTTP/1\.1 .*\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n(.*)", re.DOTALL)
AWAY = b"HTTP/1.1 503"
"""What begins the answer to who was let in."""


@contextmanager
def door(
    folder: Path, address: str = "localhost:8443", listen: str = "127.0.0.1:0", **settings: float
) -> Iterator[Coordinator]:
    """A gateway that nothing stands behind."""
    home = init(folder, "test", address).home
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        with gateway_of(home, new_superlink(home), loop, settings, listen) as served:
            yield served
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)


class Site:
    """Whoever holds an admitted key, over connections of their own making."""

    def __init__(self, served: Coordinator, name: str, node: int) -> None:
        self.served = served
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.pem = public_node_key(self.key).encode()
        served.book.sites[self.pem] = Admitted(name, node, "admitted")
        self._caller = Caller(served, self.key)
        self._body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()

    def request(self, body: bytes | None = None, **headers: str) -> bytes:
        """A whole request, or its headers where they promise more than the body."""
        body = self._body if body is None else body
        told = {"host": "localhost", "content-length": str(len(body))}
        told |= self._caller.headers() | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = ["POST /v1/fleet/pull-messages HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in told.items() if value]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def open(self, address: str = "127.0.0.1") -> ssl.SSLSocket:
        """A connection on which a request was let in."""
        secure = dial(self.served, address)
        assert ask(secure, self.request()).startswith(AWAY)
        return secure

    def suspend(self) -> None:
        book = self.served.book
        book.sites[self.pem] = replace(book.sites[self.pem], state="suspended")


def dial(served: Coordinator, address: str = "127.0.0.1") -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=served.card.ca)
    plain = call(served, address)
    return context.wrap_socket(plain, server_hostname="localhost")


def call(served: Coordinator, address: str = "127.0.0.1") -> socket.socket:
    where = ("127.0.0.1", served.gateway.port)
    return socket.create_connection(where, PATIENCE, source_address=(address, 0))


def ask(secure: ssl.SSLSocket, request: bytes) -> bytes:
    """Send a request and read its answer; empty where the connection is over."""
    answer = b""
    try:
        secure.sendall(request)
        while (found := ANSWER.match(answer)) is None or len(found[2]) < int(found[1]):
            if not (piece := secure.recv(4096)):
                return b""
            answer += piece
    except OSError:
        return b""
    return answer


def over(secure: ssl.SSLSocket, trickle: bytes = b"") -> bool:
    """Whether the gateway has ended a connection; says a little on it, where it has not."""
    try:
        secure.settimeout(0.05)
        if trickle:
            secure.sendall(trickle)
        while secure.recv(2**16):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


def test_who_is_not_let_in_is_cut_off_however_often_they_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limiter, "STRANGER_SECONDS", 0.5)
    with door(tmp_path) as served:
        site = Site(served, "north", 1)
        known, stranger = site.open(), dial(served)
        assert ask(stranger, HEALTH).startswith(b"HTTP/1.1 200")
        until(lambda: over(stranger, HEALTH), "the end of a stranger's connection")
        assert ask(known, site.request()).startswith(AWAY)
        site.suspend()
        assert b"suspended" in ask(known, site.request())
        until(lambda: over(known, site.request()), "the end of a removed site's connection")
        until(lambda: served.gateway.connections == 0)


@pytest.mark.parametrize("trickle", [b"P", b"\r\n"], ids=["a method without end", "empty lines"])
def test_the_headers_of_a_second_request_have_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trickle: bytes
) -> None:
    monkeypatch.setattr(tls_listener, "HEADER_SECONDS", 0.5)
    with door(tmp_path) as served, structlog.testing.capture_logs() as logged:
        site = Site(served, "north", 1)
        known, first = site.open(), dial(served)
        begun = [b"POST /" + b"a" * 20] if trickle == b"P" else []
        for piece in begun:
            known.sendall(piece)
            first.sendall(piece)
        slow = trickle if not begun else b"a"
        until(lambda: over(known, slow), "the end of a connection")
        until(lambda: over(first, slow), "the end of another")
        assert ("slow-headers", "north", "127.0.0.1") in served.refused
        assert ("slow-headers", None, "127.0.0.1") in served.refused
        assert served.gateway.refusals["slow-headers"] == 2
    told = [each for each in logged if each.get("reason") == "slow-headers"]
    assert {each["site"] for each in told} == {"north", None}


def test_a_body_has_a_deadline_for_who_was_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "BODY_SECONDS", 0.3)
    with door(tmp_path) as served:
        site = Site(served, "north", 1)
        secure = dial(served)
        answer = ask(secure, site.request(b"", content_length="1000"))
        assert answer.startswith(b"HTTP/1.1 408")
        assert ("slow-body", "north", "127.0.0.1") in served.refused


def test_a_body_that_nobody_reads_has_a_deadline_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused by its length, and goes on all the same."""
    monkeypatch.setattr(tls_listener, "BODY_SECONDS", 0.5)
    with door(tmp_path) as served:
        site = Site(served, "north", 1)
        secure = site.open()
        assert ask(secure, site.request(b"", content_length=str(2**30))).startswith(b"HTTP/1.1 413")
        until(lambda: over(secure, b"x"), "the end of a body")
        assert ("slow-body", "north", "127.0.0.1") in served.refused


def test_what_is_beside_a_body_has_a_bound_to_the_end_of_it(tmp_path: Path) -> None:
    """After the last piece of a body there may be headers once more."""
    with door(tmp_path) as served:
        site = Site(served, "north", 1)
        secure = site.open()
        secure.sendall(site.request(b"0\r\n", content_length="", transfer_encoding="chunked"))
        line = b"a: " + b"b" * 1000 + b"\r\n"
        until(lambda: over(secure, 16 * line), "the end of a connection")
        assert ("size", "north", "127.0.0.1") in served.refused


def test_one_request_at_a_time(tmp_path: Path) -> None:
    with door(tmp_path) as served:
        secure = dial(served)
        secure.sendall(HEALTH + HEALTH)
        until(lambda: over(secure), "the end of a connection")
        assert ("pipelined", None, "127.0.0.1") in served.refused


def test_a_request_that_does_not_end_by_itself_ends_with_the_gateway_and_is_one_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """uvicorn would log a traceback for each, which looks like a defect."""
    begun = threading.Event()

    async def endless(_request: Request) -> Response:
        begun.set()
        await asyncio.sleep(HOUR)
        return Response()

    with structlog.testing.capture_logs() as logged:
        with door(tmp_path) as served:
            served.gateway.app.router.routes.append(Route("/endless", endless))
            secure = dial(served)
            secure.sendall(HEALTH.replace(b"/health", b"/endless"))
            assert begun.wait(PATIENCE)
        secure.close()
    (ended,) = [each for each in logged if each["event"] == "gateway.requests-ended"]
    assert ended["count"] == 1
    assert [each for each in caplog.records if each.name.startswith("uvicorn")] == []


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 address ::1")
def test_what_init_writes_for_an_ipv6_address_is_reached_over_ipv6_and_ipv4(tmp_path: Path) -> None:
    address = f"[::1]:{free_port()}"
    listen = init(tmp_path, "test", address).home.file.coordinator.listen
    with door(tmp_path, address, listen) as served:
        trusted = ssl.create_default_context(cadata=served.card.ca)
        for place in (address, f"127.0.0.1:{served.gateway.port}"):
            answer = httpx.get(f"https://{place}/health", verify=trusted, trust_env=False)
            assert answer.status_code == 200, place


def test_what_is_no_http_is_counted(tmp_path: Path) -> None:
    with door(tmp_path) as served:
        assert b" 400 " in ask(dial(served), b"\x16\x03\x01 what is this\r\n\r\n")
        assert ("no-http", None, "127.0.0.1") in served.refused


def test_who_does_not_read_an_answer_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(tls_listener, "KEEP_ALIVE_SECONDS", 3600)
    monkeypatch.setattr(connection_limiter, "STRANGER_SECONDS", HOUR)

    async def large(_request: Request) -> Response:
        return PacedResponse(b"x" * 2**25)

    with door(tmp_path) as served:
        served.gateway.app.router.routes.append(Route("/large", large))
        secure = dial(served)
        secure.sendall(HEALTH.replace(b"/health", b"/large"))
        until(lambda: served.gateway.connections == 0, "the end of a connection")
        assert ("slow-answer", None, "127.0.0.1") in served.refused
        secure.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x01\x00\x01"], ids=["nothing", "a beginning"])
def test_who_does_not_agree_on_tls_in_time_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(tls_listener, "TLS_SECONDS", 0.3)
    with door(tmp_path) as served:
        plain = call(served)
        plain.sendall(said)
        assert plain.recv(100) == b""
        until(lambda: ("slow-tls", None, "127.0.0.1") in served.refused)
        assert served.gateway.connections == 0


def test_who_does_not_take_leave_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_listener, "CLOSING_SECONDS", 0.3)
    monkeypatch.setattr(connection_limiter, "STRANGER_SECONDS", HOUR)
    with door(tmp_path) as served:
        secure = dial(served)
        secure.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        until(lambda: served.gateway.connections == 0, "the end of a connection")
        secure.close()


def test_what_has_not_agreed_on_tls_takes_up_a_place_and_keeps_nobody_out(tmp_path: Path) -> None:
    with door(tmp_path, connections=16) as served:
        held = [call(served) for _ in range(40)]
        until(lambda: served.gateway.refusals["connections"] == 36)
        assert served.gateway.connections == 4
        site = Site(served, "north", 1)
        assert ask(site.open(), site.request()).startswith(AWAY)
        assert served.gateway.connections <= 5
        for plain in held:
            plain.close()


def test_a_site_holds_as_many_connections_as_it_may_and_keeps_nobody_out(tmp_path: Path) -> None:
    with door(tmp_path, connections=16, connections_per_site=4) as served:
        greedy, other = Site(served, "greedy", 1), Site(served, "other", 2)
        held = [greedy.open() for _ in range(10)]
        assert served.refused == [("connections", "greedy", "127.0.0.1")] * 6
        assert served.gateway.connections == 4
        assert [bool(ask(each, greedy.request())) for each in held] == [False] * 6 + [True] * 4
        assert ask(other.open(), other.request()).startswith(AWAY)


def test_where_sites_take_up_all_the_room_a_further_one_comes_in(tmp_path: Path) -> None:
    with door(tmp_path, connections=6, connections_per_site=4) as served:
        sites = [Site(served, f"site-{number}", number) for number in range(1, 4)]
        owners = [sites[0]] * 4 + [sites[1]] * 2
        held = [owner.open() for owner in owners]
        assert served.gateway.connections == 6
        late = sites[2].open()
        assert served.gateway.connections == 6
        assert ask(late, sites[2].request()).startswith(AWAY)
        pairs = zip(held, owners, strict=True)
        left = [bool(ask(each, owner.request())) for each, owner in pairs]
        assert left == [False, True, True, True, True, True]


def test_a_gateway_without_room_for_another_connection_goes_on_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system says no to it, as where a process has as many files open as it may."""
    refusing = threading.Event()
    with door(tmp_path) as served:
        taking: Callable[..., object] = served.loop.sock_accept

        async def full(listener: socket.socket) -> object:
            taken = await taking(listener)  # type: ignore[misc]
            if refusing.is_set():
                refusing.clear()
                taken[0].close()
                raise OSError(24, "Too many open files")
            return taken

        monkeypatch.setattr(served.loop, "sock_accept", full)
        with structlog.testing.capture_logs() as logged:
            refusing.set()
            with suppress(OSError):
                for _ in range(2):  # one is being waited for as before
                    dial(served)
            until(lambda: not refusing.is_set())
            assert ask(dial(served), HEALTH).startswith(b"HTTP/1.1 200")
        assert [each["found"] for each in logged if each["event"] == "gateway.deaf"] == [
            "Too many open files"
        ]
