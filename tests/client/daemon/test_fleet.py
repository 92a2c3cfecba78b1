"""A site's connection: what it believes, what it refuses, how it comes back."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import hashlib
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from client.daemon.fleet import Fleet
from client.daemon.line_errors import ForeignCode, NotValidNow, Offline, Skewed, Unreadable
from client.node_key import load_node_key, public_node_key
from common.errors import SiteError
from common.process.ports import free_port
from common.wire.enrolment import CoordinatorCard, SiteCard
from common.wire.flower import Array, ArrayRecord, Message, RecordDict
from server.daemon.authority import coordinator_card, init, server_context
from server.superlink.grid import FleetGrid
from tests.network import Coordinator, coordinator, reply_to
from tests.waiting import PATIENCE, until

# isort: split
from flwr.app.message import remove_content_from_message
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import message_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import PushAppMessagesRequest

CODE = {
    "pyproject.toml": b"""\
[project]
name = "evil"
version = "1.0.0"
[tool.flwr.app]
publisher = "someone"
[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "evil:app"
""",
    "evil.py": b"import os\n",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with coordinator(tmp_path_factory.mktemp("coordinator"), hold_seconds=2.0) as running:
        yield running


@contextlib.contextmanager
def study(served: Coordinator) -> Iterator[FleetGrid]:
    line = served.line()
    grid = served.superlink.open_grid(served.superlink.start_run("study"), line)
    yield grid
    grid.finish()
    grid.close()
    line.close()


def request(node: int, size: int = 10) -> Message:
    array = Array(np.arange(size, dtype=np.float32))
    return Message(RecordDict({"arrays": ArrayRecord({"x": array})}), node, "train")


def activated(grid: FleetGrid, name: str) -> str | None:
    return next((node.last_activated_at for node in grid.get_nodes() if node.name == name), None)


KILLED = """
import sys
from pathlib import Path
from client.daemon.fleet import Fleet
from client.node_key import load_node_key
from common.wire.enrolment import read_coordinator_card

fleet = Fleet(read_coordinator_card(Path(sys.argv[1])), load_node_key(Path(sys.argv[2])))
fleet.connect()
print("connected", flush=True)
message = fleet.pull()
while message is None:
    message = fleet.pull()
print("pulled", flush=True)
sys.stdin.read()
"""


def test_a_killed_connection_is_back_at_once_and_asked_again(
    served: Coordinator, tmp_path: Path, root: Path
) -> None:
    """Flower would let it in again after a minute, and had handed out its request already."""
    key = served.new_key(tmp_path)
    served.admit("killed", key)
    card = tmp_path / "COORDINATOR.json"
    card.write_text(served.card.text)
    command = [sys.executable, "-c", KILLED, str(card), str(tmp_path / "node.key")]
    with (
        study(served) as grid,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "connected\n"
        before = activated(grid, "killed")
        fleet = Fleet(served.card, key)
        (lost,) = grid.push_messages([request(_node(grid, "killed"))])
        assert child.stdout.readline() == "pulled\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        fleet.connect()
        after = activated(grid, "killed")
        assert before is not None
        assert after is not None
        assert after > before  # by which the coordinator knows to ask again
        (again,) = grid.push_messages([request(fleet.node_id)])
        received = fleet.pull()
        assert received is not None
        assert received.metadata.message_id == again != lost
        assert fleet.push(Message(received.content, reply_to=received))
        assert reply_to(grid, again).has_content()
        grid.forget([lost])
        fleet.close()


def _node(grid: FleetGrid, name: str) -> int:
    return next(node.node_id for node in grid.get_nodes() if node.name == name)


def test_a_run_that_brings_code_is_refused_before_anything_is_fetched(
    served: Coordinator, tmp_path: Path
) -> None:
    content, _ = build_fab_from_files(CODE)
    fab = Fab(hash_str="", content=content)
    superlink = served.superlink
    with superlink._control() as control:  # noqa: SLF001 - as a coordinator that turned bad
        run = control.StartRun(StartRunRequest(fab=fab)).run_id
    task = superlink._acquire()  # noqa: SLF001
    assert task.task.run_id == run
    superlink._tokens[run] = task.token  # noqa: SLF001
    line = served.line()
    grid = superlink.open_grid(run, line)
    fleet = served.site("careful", tmp_path)
    fleet.connect()
    grid.push_messages([request(fleet.node_id)])
    with structlog.testing.capture_logs() as logged, pytest.raises(ForeignCode, match=r"evil\.py"):
        fleet.pull()
    assert any(e["event"] == "fleet.refused" and e["reason"] == "foreign-code" for e in logged)
    grid.finish()
    grid.close()
    line.close()
    fleet.close()


def push_garbage(grid: FleetGrid, node: int) -> None:
    """A request whose root object is no message, as a coordinator that turned bad may send."""
    body = b"\xff\xff\xff"
    root = b"Message  %d\0" % len(body) + body
    header = message_to_proto(remove_content_from_message(request(node)))
    header.metadata.message_id = key = hashlib.sha256(root).hexdigest()
    client = grid._runtime_client  # noqa: SLF001
    pushed = client.PushMessages(
        PushAppMessagesRequest(
            messages_list=[header], message_object_trees=[ObjectTree(object_id=key)]
        )
    )
    grid._push_object(header.metadata.run_id, pushed.session_id)(key, root)  # noqa: SLF001


def test_a_request_that_cannot_be_read_is_refused_and_the_next_one_pulled(
    served: Coordinator, tmp_path: Path
) -> None:
    fleet = served.site("steady", tmp_path)
    fleet.connect()
    with study(served) as grid:
        push_garbage(grid, fleet.node_id)
        with structlog.testing.capture_logs() as logged, pytest.raises(Unreadable):
            fleet.pull()
        assert [(e["event"], e["reason"]) for e in logged] == [("fleet.refused", "unreadable")]
        grid.push_messages([request(fleet.node_id)])
        received = fleet.pull()
        assert received is not None
        assert fleet.push(Message(received.content, reply_to=received))
    fleet.close()


def test_a_reply_that_nobody_waits_for_is_said_to_be_dropped(
    served: Coordinator, tmp_path: Path
) -> None:
    fleet = served.site("late", tmp_path)
    fleet.connect()
    with study(served) as grid:
        grid.push_messages([request(fleet.node_id)])
        received = fleet.pull()
        assert received is not None
        reply = Message(received.content, reply_to=received)
        assert fleet.push(reply)
        assert not fleet.push(Message(RecordDict(), reply_to=received))
    with pytest.raises(Offline, match="403"):  # the run is over
        fleet.push(Message(RecordDict(), reply_to=received))
    fleet.close()


def test_a_reply_goes_out_while_a_poll_is_held_and_connecting_anew_brings_work(
    served: Coordinator, tmp_path: Path
) -> None:
    fleet = served.site("busy", tmp_path)
    fleet.connect()
    with study(served) as grid:
        (first,) = grid.push_messages([request(fleet.node_id)])
        received = fleet.pull()
        assert received is not None
        pulled: list[Message] = []

        def poll() -> None:
            while not pulled:
                message = fleet.pull()
                if message is not None:
                    pulled.append(message)

        waiting = threading.Thread(target=poll)
        waiting.start()
        assert fleet.push(Message(received.content, reply_to=received))
        assert reply_to(grid, first).has_content()
        fleet.connect()
        (second,) = grid.push_messages([request(fleet.node_id)])
        waiting.join(PATIENCE)
        assert [message.metadata.message_id for message in pulled] == [second]
    fleet.close()


def test_a_restarted_superlink_is_found_again(tmp_path: Path) -> None:
    with coordinator(tmp_path, hold_seconds=1.0) as served:
        fleet = served.site("patient", tmp_path)
        fleet.connect()
        first = fleet.node_id
        served.superlink.stop()
        with pytest.raises(Offline, match="503"):
            fleet.pull()
        with pytest.raises(Offline):
            fleet.connect()
        served.superlink.start()
        served.superlink.wait_until_healthy()
        key = load_node_key(tmp_path / "patient" / "node.key")
        served.admit("patient", key)
        with pytest.raises(Offline, match="node"):
            fleet.pull()
        fleet.connect()
        assert fleet.node_id != first
        assert fleet.pull() is None
        fleet.close()


def test_where_nobody_listens_it_is_offline(served: Coordinator, tmp_path: Path) -> None:
    card = served.card.model_copy(update={"address": f"localhost:{free_port()}"})
    fleet = Fleet(card, served.new_key(tmp_path))
    with pytest.raises(Offline, match="tries again") as caught:
        fleet.connect()
    assert caught.value.details["found"] == "no answer at this address"
    with pytest.raises(Offline, match="connect first"):
        fleet.pull()


@contextlib.contextmanager
def clock(folder: Path, ahead: float) -> Iterator[CoordinatorCard]:
    """Something with a coordinator's certificate, whose clock runs otherwise than ours."""

    async def refuse(request: Request) -> JSONResponse:
        return JSONResponse({"code": "replay"}, status_code=401)

    async def health(request: Request) -> JSONResponse:
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
        date = email.utils.format_datetime(moment, usegmt=True)
        return JSONResponse({}, headers={"date": date})

    home = init(folder, "other", "localhost:1").home
    routes = [Route("/health", health), Route("/{rest:path}", refuse, methods=["POST"])]
    app = Starlette(routes=routes)
    port = free_port()
    config = uvicorn.Config(app, port=port, date_header=False, log_config=None, ws="none")
    config.load()
    config.ssl = server_context(home)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield coordinator_card(home).model_copy(update={"address": f"localhost:{port}"})
    server.should_exit = True
    thread.join(PATIENCE)


@pytest.mark.parametrize(("theirs", "way"), [(-60.0, "60 s ahead of"), (900.0, "900 s behind")])
def test_a_skewed_clock_is_named_with_its_remedy(tmp_path: Path, theirs: float, way: str) -> None:
    with clock(tmp_path, theirs) as card:
        fleet = Fleet(card, load_node_key(tmp_path / "node.key", make=True))
        with pytest.raises(Skewed, match="timedatectl") as error:
            fleet.connect()
        fleet.close()
    assert error.value.seconds == pytest.approx(-theirs, abs=20)
    assert way in str(error.value) or str(round(error.value.seconds)) in str(error.value)


def test_a_clock_that_is_slower_than_the_coordinator_is_old_is_no_replay(tmp_path: Path) -> None:
    with clock(tmp_path, 60.0) as card:
        fleet = Fleet(card, load_node_key(tmp_path / "node.key", make=True))
        with pytest.raises(Skewed, match="just started") as error:
            fleet.connect()
        fleet.close()
    assert error.value.seconds == pytest.approx(-60, abs=20)


@pytest.mark.parametrize(
    ("days", "says", "off"),
    [(3, "is not valid yet", "2 days behind"), (-4000, "has expired", "days ahead")],
)
def test_a_certificate_of_another_time_means_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, says: str, off: str
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return super().now(tz) + datetime.timedelta(days=days)

    monkeypatch.setattr("server.daemon.certificates.datetime.datetime", Clock)
    with clock(tmp_path, 0.0) as card:
        monkeypatch.undo()
        fleet = Fleet(card, load_node_key(tmp_path / "node.key", make=True))
        with pytest.raises(NotValidNow, match="timedatectl") as error:
            fleet.connect()
        fleet.close()
    assert says in error.value.what
    assert off in error.value.details["found"]
    assert "UTC" in error.value.details["wanted"]
    assert "proxy" not in str(error.value)


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(SiteError, match="backup"):
        load_node_key(path)
    made = public_node_key(load_node_key(path, make=True))
    assert public_node_key(load_node_key(path, make=True)) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    SiteCard(name="site", node_key=made, signing_key="00" * 32)  # which checks the curve
    path.write_text("no key")
    with pytest.raises(SiteError, match="no EC key"):
        load_node_key(path)


def test_an_idle_connection_waits_at_the_gateway(served: Coordinator, tmp_path: Path) -> None:
    fleet = served.site("idle", tmp_path)
    fleet.connect()
    fleet.pull()
    begun = time.monotonic()
    assert fleet.pull() is None
    assert time.monotonic() - begun > 1.5
    fleet.close()


def test_old_tls_is_not_spoken(served: Coordinator) -> None:
    context = ssl.create_default_context(cadata=served.card.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, OSError)):
        _shake_hands(served, context)


def _shake_hands(served: Coordinator, context: ssl.SSLContext) -> str | None:
    with socket.create_connection(("127.0.0.1", served.gateway.port), timeout=10) as plain:
        return context.wrap_socket(plain, server_hostname="localhost").version()
