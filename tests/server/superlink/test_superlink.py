"""A SuperLink of our own: who may ask it things, whose runs are taken, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.errors import CoordinatorError, LinkError
from common.wire.flower import ConfigRecord, Message, RecordDict
from server.daemon.authority import init
from server.superlink.bundle import bundle
from server.superlink.control_auth import HEADER, read_secret
from server.superlink.superlink import SuperLink
from server.superlink.wire import trust
from tests.network import Coordinator, coordinator, new_superlink
from tests.waiting import until

# isort: split
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with coordinator(tmp_path_factory.mktemp("coordinator")) as running:
        yield running


def post(superlink: SuperLink, path: str, body: bytes, **headers: str) -> httpx.Response:
    told = {"content-type": "application/protobuf"} | headers
    url = f"https://{superlink.address}{path}"
    return httpx.post(url, content=body, headers=told, verify=trust(superlink.ca), trust_env=False)


@pytest.mark.parametrize("secret", [None, "", "00" * 32])
@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node"])
def test_a_local_account_without_the_secret_starts_no_run_and_registers_no_node(
    served: Coordinator, path: str, secret: str | None
) -> None:
    bodies = {
        "/v1/control/start-run": StartRunRequest(fab=bundle()).SerializeToString(),
        "/v1/control/register-node": RegisterNodeRequest(public_key=b"x").SerializeToString(),
    }
    headers = {} if secret is None else {HEADER: secret}
    answer = post(served.superlink, path, bodies[path], **headers)
    assert (answer.status_code, answer.json()) == (403, {"code": "no-secret"})
    until(lambda: any("superlink.refused" in line for line in served.superlink.recent))


def test_the_secret_alone_does_not_make_a_run_of_anyones_tasks(served: Coordinator) -> None:
    """Behind it Flower wants the SuperExec signature, or a task's token, as ever."""
    superlink = served.superlink
    body = AcquireTaskRequest(supported_task_types=["flwr-serverapp"]).SerializeToString()
    version = {"flwr-package-name": "flwr", "flwr-package-version": "1.41.0"}
    version |= {"flwr-component-name": "flwr-serverapp", HEADER: superlink.control_secret}
    assert post(superlink, "/v1/runtime/acquire-task", body, **version).status_code == 401
    assert post(superlink, "/v1/runtime/get-nodes", b"", **version).status_code == 401


def test_its_state_is_in_memory(served: Coordinator) -> None:
    pid = served.superlink.pid
    assert pid is not None
    served.superlink.start_run("study")
    writable = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that has closed meanwhile
            flags = int(Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split()[3], 8)
            if entry.resolve().is_file() and flags & (os.O_WRONLY | os.O_RDWR):
                writable.append(entry.resolve())
    assert writable == []
    assert not list(served.home.folder.rglob("*.db*"))


def test_it_listens_on_loopback_alone_and_its_secret_is_on_no_command_line(
    served: Coordinator,
) -> None:
    pid = served.superlink.pid
    command = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    secret = served.home.guard_secret.read_bytes()
    assert secret not in command
    assert secret.hex().encode() not in command
    port = f"{served.superlink.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [one for one in listening if one.endswith(f":{port}")] == [f"0100007F:{port}"]


def test_a_run_is_taken_by_who_started_it(served: Coordinator) -> None:
    """Flower hands out the oldest task; one that nobody took is passed over."""
    with served.superlink._control() as control:  # noqa: SLF001 - a run whose process died
        control.StartRun(StartRunRequest(fab=bundle()))
    other = new_superlink(served.home)
    other.port = served.superlink.port
    runs = {each: each.start_run("study") for each in (served.superlink, other)}
    for superlink, run in runs.items():
        grid = superlink.open_grid(run, None)
        assert grid.run.run_id == run
        grid.finish()
        grid.close()


def test_a_stopped_run_is_lost_to_its_grid(served: Coordinator) -> None:
    run = served.superlink.start_run("study")
    grid = served.superlink.open_grid(run, None)
    assert list(grid.get_nodes()) == []
    with served.superlink._control() as control:  # noqa: SLF001 - as another process may
        assert control.StopRun(StopRunRequest(run_id=run)).success
    with pytest.raises(LinkError, match="refused"):
        grid.get_nodes()
    with pytest.raises(LinkError):
        grid.push_messages([Message(RecordDict({"c": ConfigRecord()}), 7, "train")])
    grid.close()


def test_registering_again_gives_the_same_node(served: Coordinator, tmp_path: Path) -> None:
    key = served.new_key(tmp_path)
    assert served.admit("twice", key) == served.admit("twice", key)


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(os.urandom(32))
    path.chmod(0o640)
    with pytest.raises(CoordinatorError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert len(read_secret(path)) == 32
    path.write_bytes(b"short")
    with pytest.raises(CoordinatorError, match="at least 32"):
        read_secret(path)
    with pytest.raises(CoordinatorError, match="cannot be read"):
        read_secret(tmp_path / "none")


def test_why_it_did_not_start_stands_in_the_error(served: Coordinator, tmp_path: Path) -> None:
    home = init(tmp_path, "second", "localhost:1").home
    second = new_superlink(home)
    second.port = served.superlink.port  # which is taken
    second.start()
    with pytest.raises(LinkError, match="address already in use"):
        second.wait_until_healthy(30)


LIVES_AND_DIES = """
import sys
from pathlib import Path
from server.daemon.settings import load_home
from tests.network import new_superlink

superlink = new_superlink(load_home(Path(sys.argv[1])))
superlink.start()
superlink.wait_until_healthy()
print(superlink.pid, flush=True)
sys.stdin.read()
"""


def test_it_dies_with_whoever_started_it(tmp_path: Path, root: Path) -> None:
    init(tmp_path, "parent", "localhost:1")
    with subprocess.Popen(
        [sys.executable, "-c", LIVES_AND_DIES, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}/exe").exists())
