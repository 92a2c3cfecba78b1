"""The daemon as a process: how it begins, ends, and shares nothing with another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.daemon import serving
from client.daemon.control import SERVICE
from client.sitefile import served_site
from common.control.sockets import connect
from common.errors import SiteError
from common.process.ports import free_port
from common.wire.messages import Request
from tests.client.daemon.process import daemon
from tests.client.daemon.quick_worker import HABITS
from tests.client.daemon.standin import coordinator
from tests.client.site_fixtures import Hospital
from tests.common.studies import toml
from tests.waiting import PATIENCE, alive, until

REQUEST = Request("small", "a" * 64, 1, "train")


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    hospital = Hospital(tmp_path, patients={"P00": 1, "P01": 1}, seed=None)
    document = hospital.site_file() | {"metrics": {"listen": f"127.0.0.1:{free_port()}"}}
    (tmp_path / "site.toml").write_text(toml(document))
    return tmp_path / "site.toml"


@pytest.mark.parametrize("mode", [0o750, 0o705])
def test_a_folder_that_others_may_enter_is_not_served_with_keys_that_they_know(
    site_file: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Its connection key and its control socket are its own all the same."""
    monkeypatch.setattr(serving, "_serve", None)  # not come to
    served = served_site(site_file, known_seed=7)
    served.state.mkdir(exist_ok=True)
    served.state.chmod(mode)

    with pytest.raises(SiteError, match="access to the site's secrets") as caught:
        serving.serve(served)

    assert f"chmod -R go= {served.state}" in caught.value.details["do"]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_serves_tells_and_ends_at_once(site_file: Path, tmp_path: Path) -> None:
    """systemd, health, metrics; a reply that would be an hour on its way does not keep it."""
    with (
        coordinator(tmp_path / "state") as centre,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with daemon(site_file, environment=environment) as it:
            assert systemd.recv(100) == b"READY=1"
            assert systemd.recv(100) == b"WATCHDOG=1"
            centre.ask(REQUEST)
            until(lambda: centre.pushed)
            until(lambda: it.events("reply.pushed"))
            figures = _figures(site_file)
            assert 'consilium_site_messages_total{code="ok",purpose="train"} 1.0' in figures
            assert 'consilium_site_connection{state="online"} 1.0' in figures
            assert "consilium_site_up 1.0" in figures
            assert "seconds" not in figures
            with connect(tmp_path / "state" / "control.sock", "it", "") as channel:
                request = health_pb2.HealthCheckRequest(service=SERVICE)
                answer = health_pb2_grpc.HealthStub(channel).Check(request)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            (tmp_path / "state" / HABITS).write_text('{"bytes": 20000000}')
            centre.rate = 5_000
            centre.ask(REQUEST)
            until(lambda: centre.received > 2_000)

            assert it.end() == 0

            assert it.events("daemon.ended")
            assert not (tmp_path / "state" / "control.sock").exists()
            systemd.settimeout(PATIENCE)
            while systemd.recv(100) != b"STOPPING=1":
                continue


def _figures(site_file: Path) -> str:
    address = next(line for line in site_file.read_text().splitlines() if "listen" in line)
    port = address.rsplit(":", 1)[1].split('"')[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def test_two_daemons_never_share_a_state_and_none_leaves_anything_running(
    site_file: Path, tmp_path: Path
) -> None:
    with coordinator(tmp_path / "state"), daemon(site_file) as it:
        until(lambda: len(_children(it.process.pid)) == 2)
        with daemon(site_file) as second:
            assert second.process.wait(PATIENCE) == 1
            said = second.log.read_text()
        assert "another daemon is already running for this site" in said
        assert f"process {it.process.pid}" in said

        children = _children(it.process.pid)
        it.end(signal.SIGKILL)
        until(lambda: not any(alive(each) for each in children))

        with daemon(site_file) as again:  # the lock and the socket went with the process
            assert again.end(signal.SIGINT) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_may_not_ask(site_file: Path, tmp_path: Path) -> None:
    with coordinator(tmp_path / "state"), daemon(site_file):
        code = (
            "import os, sys; from pathlib import Path; from client.cli.commands import daemon\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "try:\n    with daemon(Path(sys.argv[1])): pass\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(site_file)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "the site file cannot be read" in done.stdout
    assert "sudo -u" in done.stdout
    assert "user 65534" in done.stdout
