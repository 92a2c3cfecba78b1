"""A service on a Unix socket: who may ask, what comes back when it raises."""

# ruff: noqa: N802 - a service's methods are called as its proto calls them

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.control import site_pb2, site_pb2_grpc
from common.control.rpc_errors import ControlError, asking, decode, encode
from common.control.sockets import LONGEST_PATH, add_health, connect, listen, new_server
from common.errors import ConsiliumError, LinkError, Refusal, RefusalCode, SiteError
from tests.waiting import PATIENCE

SECRET = "Doe^Jane"
MISTAKE = SiteError("no such study", where="cxr", found="a", wanted="b", remedy="look at studies")


class Faulty(site_pb2_grpc.SiteServicer):
    """Raises whatever it is asked."""

    async def Deny(self, request: site_pb2.DenyRequest, context: object) -> site_pb2.StopReply:
        raise MISTAKE

    async def Pause(self, request: site_pb2.PauseRequest, context: object) -> site_pb2.PauseReply:
        raise ValueError(SECRET)

    async def Audit(
        self, request: site_pb2.AuditRequest, context: object
    ) -> AsyncIterator[site_pb2.AuditEntry]:
        yield site_pb2.AuditEntry(number=1)
        raise Refusal(RefusalCode.POLICY, "spent")


@contextmanager
def serving(path: Path) -> Iterator[None]:
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        server = new_server()
        site_pb2_grpc.add_SiteServicer_to_server(Faulty(), server)
        await add_health(server, "consilium.site.v1.Site")
        listen(server, path)
        await server.start()
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.02)
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        done.set()
        thread.join(PATIENCE)


def stub(path: Path) -> site_pb2_grpc.SiteStub:
    return site_pb2_grpc.SiteStub(connect(path, "the daemon", "start it"))


def test_a_mistake_comes_back_as_the_very_same_error(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "control.sock"),
        pytest.raises(SiteError) as caught,
        asking("the daemon", "start it"),
    ):
        stub(tmp_path / "control.sock").Deny(site_pb2.DenyRequest())

    assert caught.value.render() == MISTAKE.render()


def test_a_stream_ends_with_the_error_after_what_it_gave(tmp_path: Path) -> None:
    seen = []
    with (
        serving(tmp_path / "control.sock"),
        pytest.raises(Refusal) as caught,
        asking("the daemon", "start it"),
    ):
        for entry in stub(tmp_path / "control.sock").Audit(site_pb2.AuditRequest()):
            seen.append(entry.number)

    assert seen == [1]
    assert caught.value.code is RefusalCode.POLICY


def test_a_defect_is_opaque_and_logged_by_place(tmp_path: Path) -> None:
    with (
        structlog.testing.capture_logs() as events,
        serving(tmp_path / "control.sock"),
        pytest.raises(ControlError) as caught,
        asking("the daemon", "start it"),
    ):
        stub(tmp_path / "control.sock").Pause(site_pb2.PauseRequest())

    assert SECRET not in str(caught.value) + str(caught.value.__cause__) + str(events)
    assert [each["error"] for each in events if each["event"] == "control.failed"] == ["ValueError"]


def test_a_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control.sock"
    with serving(path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_told_whose_the_daemon_is(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control.sock"
    code = (
        "import os, sys; from pathlib import Path; from common.control.sockets import connect\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: connect(Path(sys.argv[1]), 'the daemon', '')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with serving(path):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )

    assert done.stdout.startswith("LinkError this user is not allowed to use the daemon")
    assert "user 65534" in done.stdout


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    code = f"import socket, os; s = socket.socket(1); s.bind({str(path)!r}); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with pytest.raises(LinkError, match="is not running"):
        connect(path, "the daemon", "start it")

    with serving(path):
        connect(path, "the daemon", "start it").close()


def test_without_a_daemon_the_remedy_is_shown(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="is not running") as caught:
        connect(tmp_path / "control.sock", "the daemon", "start it")

    assert caught.value.details["do"] == "start it"


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="too long"):
        connect(tmp_path / ("a" * LONGEST_PATH), "the daemon", "start it")


def test_health_says_serving(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path), connect(path, "the daemon", "start it") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "consilium.site.v1.Site"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_daemon_that_does_not_answer_in_time_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "control.sock"))
        deaf.listen()
        with pytest.raises(LinkError, match="does not answer"), asking("the daemon", "start it"):
            stub(tmp_path / "control.sock").Deny(site_pb2.DenyRequest(), timeout=0.3)


@pytest.mark.parametrize(
    "error",
    [
        MISTAKE,
        ConsiliumError("plain"),
        Refusal(RefusalCode.PENDING, "waits", remedy="approve it"),
        LinkError("far", found="é" * 3),
    ],
)
def test_every_kind_of_error_survives_the_way(error: ConsiliumError) -> None:
    back = decode(encode(error))

    assert type(back) is type(error)
    assert back.render() == error.render()


@pytest.mark.parametrize(
    "data", [b"", b"3", b"{}", b'{"kind": "Refusal", "what": "w", "details": {}, "code": "new"}']
)
def test_what_is_no_error_that_is_known_is_an_error_that_says_so(data: bytes) -> None:
    assert "same version" in decode(data).details["do"]


def test_an_error_of_another_module_travels_as_its_nearest_kin() -> None:
    class OfflineError(LinkError):
        """A kind that the other side does not know."""

    assert type(decode(encode(OfflineError("far")))) is LinkError


def test_a_long_detail_is_cut_to_what_metadata_hold() -> None:
    assert len(encode(SiteError("a" * 9999, found="b" * 9999))) < 8000
