"""The public door over real sockets: what passes, and each way of being refused."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from client.daemon.fleet import Fleet
from client.daemon.line_errors import NotAdmitted, Untrusted
from client.node_key import public_node_key
from common.wire.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from server.daemon.authority import coordinator_card, init
from server.superlink.grid import FleetGrid
from tests.network import Coordinator, coordinator, gateway_of, reply_to
from tests.waiting import PATIENCE, until

# isort: split
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import sign_message
from google.protobuf.message import Message as ProtoMessage

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973  # noqa: E501


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with coordinator(tmp_path_factory.mktemp("coordinator"), hold_seconds=3.0) as running:
        yield running


@pytest.fixture(scope="module")
def grid(served: Coordinator) -> Iterator[FleetGrid]:
    line = served.line()
    run = served.superlink.start_run("study")
    grid = served.superlink.open_grid(run, line)
    yield grid
    grid.finish()
    grid.close()
    line.close()


@pytest.fixture
def site(served: Coordinator, tmp_path: Path) -> Iterator[Fleet]:
    fleet = served.site(f"site-{tmp_path.name[-12:].strip('_')}".replace("_", "-"), tmp_path)
    fleet.connect()
    yield fleet
    fleet.close()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


class Caller:
    """Speaks to the gateway in raw HTTP, as whoever holds a key."""

    def __init__(
        self,
        served: Coordinator,
        key: ec.EllipticCurvePrivateKey,
        address: str = "127.0.0.1",
    ) -> None:
        self.key = key
        context = ssl.create_default_context(cadata=served.card.ca)
        self._base = f"https://{served.card.address}"
        way = httpx.HTTPTransport(verify=context, trust_env=False, local_address=address)
        self._client = httpx.Client(transport=way, trust_env=False)

    def headers(self, ahead: float = 0.0) -> dict[str, str]:
        moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
        stamp = moment.isoformat()
        signature = sign_message(self.key, stamp.encode())
        return {
            "flwr-public-key": b64encode(public_node_key(self.key).encode()).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": b64encode(signature).decode(),
            "content-type": "application/protobuf",
        }

    def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        told = self.headers() | headers
        return self._client.post(self._base + path, content=body, headers=told)

    def call(self, name: str, message: ProtoMessage) -> httpx.Response:
        return self.post(f"/v1/fleet/{name}", message.SerializeToString())


def admitted(served: Coordinator, folder: Path, name: str) -> tuple[Caller, int]:
    key = served.new_key(folder / name)
    node = served.admit(name, key)
    caller = Caller(served, key)
    body = ActivateNodeRequest(public_key=public_node_key(key).encode(), heartbeat_interval=30)
    assert caller.call("activate-node", body).status_code == 200
    return caller, node


def refused(answer: httpx.Response, status: int, code: str, logged: list[Any]) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert any(e["event"] == "gateway.refused" and e["reason"] == code for e in logged)


def request(node: int, size: int = 1000) -> Message:
    array = Array(np.random.default_rng(node % 2**32).random(size, dtype=np.float32))
    content = RecordDict({"arrays": ArrayRecord({"x": array}), "c": ConfigRecord({"n": str(node)})})
    return Message(content, node, "train")


def test_request_and_reply_pass_whole(grid: FleetGrid, site: Fleet) -> None:
    asked = request(site.node_id, size=3_000_000)  # in three pieces
    (message_id,) = grid.push_messages([asked])
    received = site.pull()
    assert received is not None
    assert received.content == asked.content
    assert site.push(Message(received.content, reply_to=received))
    reply = reply_to(grid, message_id)
    assert reply.content == asked.content
    assert reply.metadata.reply_to_message_id == message_id


def test_a_reply_goes_on_while_its_site_connects_anew(grid: FleetGrid, site: Fleet) -> None:
    """As after a person's approval of another study."""
    (message_id,) = grid.push_messages([request(site.node_id)])
    received = site.pull()
    assert received is not None
    client = site._client  # noqa: SLF001 - between the announcement and the first object
    bring, anew = client.PushObject, iter([site.connect])

    def interrupted(told: PushObjectRequest) -> object:
        next(anew, lambda: None)()
        return bring(told)

    client.PushObject = interrupted  # type: ignore[method-assign, assignment]
    assert site.push(Message(RecordDict({"c": ConfigRecord({"n": "8"})}), reply_to=received))
    reply = reply_to(grid, message_id)
    assert reply.content.config_records["c"]["n"] == "8"


def test_an_unknown_key_is_refused(served: Coordinator, tmp_path: Path, logged: list[Any]) -> None:
    fleet = Fleet(served.card, served.new_key(tmp_path))
    with pytest.raises(NotAdmitted, match="unknown-key"):
        fleet.connect()
    assert any(e["event"] == "gateway.refused" and e["reason"] == "unknown-key" for e in logged)
    assert ("unknown-key", None, "127.0.0.1") in served.refused


def test_a_suspended_site_is_refused_and_may_be_admitted_again(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    key = served.new_key(tmp_path)
    served.admit("left", key)
    served.suspend(key)
    fleet = Fleet(served.card, key)
    with pytest.raises(NotAdmitted, match="suspended"):
        fleet.connect()
    assert ("suspended", "left", "127.0.0.1") in served.refused
    assert any(e["event"] == "gateway.refused" and e.get("site") == "left" for e in logged)
    served.admit("left", key)
    fleet.connect()
    fleet.close()


def test_a_client_that_trusts_another_authority_ends_the_handshake(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    other = coordinator_card(init(tmp_path / "other", "other", "localhost:1").home)
    card = served.card.model_copy(update={"ca": other.ca})
    fleet = Fleet(card, served.new_key(tmp_path))
    with pytest.raises(Untrusted, match="fingerprint"):
        fleet.connect()
    until(lambda: any(e.get("reason") == "other-authority" for e in logged))


def test_plain_http_gets_no_answer(served: Coordinator, logged: list[Any]) -> None:
    with socket.create_connection(("127.0.0.1", served.gateway.port), timeout=PATIENCE) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP")
    until(lambda: any(e.get("reason") == "plain-http" for e in logged))


def captured(caller: Caller, name: str, body: bytes) -> bytes:
    lines = [f"POST /v1/fleet/{name} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{header}: {value}" for header, value in caller.headers().items()]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + body


def send(served: Coordinator, data: bytes) -> bytes:
    context = ssl.create_default_context(cadata=served.card.ca)
    with (
        socket.create_connection(("127.0.0.1", served.gateway.port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(data)
        return b"".join(iter(lambda: secure.recv(4096), b""))


def test_bytes_that_were_captured_are_not_taken_again(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    caller, node = admitted(served, tmp_path, "watched")
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    data = captured(caller, "pull-messages", body)
    assert b" 200 OK" in send(served, data).split(b"\r\n")[0]
    assert b'"replay"' in send(served, data)
    assert any(e.get("reason") == "replay" for e in logged)


def test_bytes_that_were_captured_before_a_restart_are_not_taken_after_it(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    """The gateway that saw them is gone, with what it remembered."""
    caller, node = admitted(served, tmp_path, "recorded")
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    data = captured(caller, "pull-messages", body)
    with gateway_of(served.home, served.superlink, served.loop, {"hold_seconds": 0.01}) as anew:
        anew.book.sites.update(served.book.sites)
        assert b'"replay"' in send(anew, data)
        assert any(e.get("reason") == "replay" and e["site"] == "recorded" for e in logged)
        fresh = Caller(anew, caller.key)
        assert fresh.post("/v1/fleet/pull-messages", body).status_code == 200


def test_the_other_half_of_a_signature_does_not_make_it_a_new_one(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    """ECDSA: with (r, s) also (r, -s) is valid, and anybody can compute it."""
    caller, node = admitted(served, tmp_path, "twisted")
    headers = caller.headers()
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    assert caller.post("/v1/fleet/pull-messages", body, **headers).status_code == 200
    r, s = decode_dss_signature(b64decode(headers["flwr-signature"]))
    twisted = b64encode(encode_dss_signature(r, P384_ORDER - s)).decode()
    answer = caller.post("/v1/fleet/pull-messages", body, **headers | {"flwr-signature": twisted})
    refused(answer, 401, "replay", logged)


def test_a_signature_of_another_time_is_refused(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    caller, node = admitted(served, tmp_path, "signer")
    headers = caller.headers() | {"flwr-timestamp": caller.headers(-1)["flwr-timestamp"]}
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    refused(caller.post("/v1/fleet/pull-messages", body, **headers), 401, "signature", logged)


@pytest.mark.parametrize("ahead", [12.0, -400.0])
def test_a_skewed_clock_is_named(
    served: Coordinator, tmp_path: Path, logged: list[Any], ahead: float
) -> None:
    caller, node = admitted(served, tmp_path, "early" if ahead > 0 else "late")
    body = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
    answer = caller.post("/v1/fleet/pull-messages", body, **caller.headers(ahead))
    refused(answer, 401, "clock", logged)
    assert answer.json()["ahead"] == pytest.approx(ahead, abs=5)
    assert "date" in answer.headers


def test_what_is_not_signed_is_refused(served: Coordinator, logged: list[Any]) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    answer = Caller(served, key).post("/v1/fleet/get-run", b"", **{"flwr-signature": "?"})
    refused(answer, 401, "unsigned", logged)


def reply_header(source: int, message_id: str = "ab" * 32) -> PushMessagesRequest:
    metadata = MetadataProto(
        run_id=1, message_id=message_id, src_node_id=source, dst_node_id=1, reply_to_message_id="x"
    )
    return PushMessagesRequest(
        messages_list=[MessageProto(metadata=metadata)],
        message_object_trees=[ObjectTree(object_id=message_id)],
    )


def test_one_sites_key_cannot_push_as_another(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    thief, node = admitted(served, tmp_path, "thief")
    _, victim = admitted(served, tmp_path, "victim")
    push = reply_header(source=victim)
    push.node.node_id = node
    refused(thief.call("push-messages", push), 403, "sender", logged)
    push.node.node_id = victim
    refused(thief.call("push-messages", push), 401, "node", logged)
    assert ("sender", "thief", "127.0.0.1") in served.refused


def test_a_number_from_before_the_superlink_began_anew_alarms_nobody(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    caller, node = admitted(served, tmp_path, "returning")
    answer = caller.call("pull-messages", PullMessagesRequest(node=Node(node_id=node + 1)))
    assert (answer.status_code, answer.json()["code"]) == (401, "node")
    (said,) = [entry for entry in logged if entry.get("site") == "returning"]
    assert (said["event"], said["log_level"]) == ("gateway.stale-node", "info")
    assert ("node", "returning", "127.0.0.1") not in served.refused


def test_a_key_cannot_activate_anothers(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    thief, _ = admitted(served, tmp_path, "thief-2")
    victim, _ = admitted(served, tmp_path, "victim-2")
    body = ActivateNodeRequest(public_key=public_node_key(victim.key).encode())
    refused(thief.call("activate-node", body), 401, "node", logged)


def test_another_sites_objects_cannot_be_had(
    served: Coordinator, grid: FleetGrid, tmp_path: Path, logged: list[Any]
) -> None:
    thief, node = admitted(served, tmp_path, "reader")
    victim, other = admitted(served, tmp_path, "owner")
    (message_id,) = grid.push_messages([request(other)])
    pull = PullMessagesRequest(node=Node(node_id=other))
    assert message_id.encode() in victim.call("pull-messages", pull).content
    run_id = grid.run.run_id
    wanted = PullObjectRequest(node=Node(node_id=other), run_id=run_id, object_id=message_id)
    assert victim.call("pull-object", wanted).status_code == 200
    wanted.node.node_id = node
    refused(thief.call("pull-object", wanted), 403, "object", logged)
    confirm = ConfirmMessageReceivedRequest(
        node=Node(node_id=node), run_id=run_id, message_object_id=message_id
    )
    refused(thief.call("confirm-message-received", confirm), 403, "object", logged)
    brought = PushObjectRequest(node=Node(node_id=node), run_id=run_id, object_id=message_id)
    refused(thief.call("push-object", brought), 403, "object", logged)
    confirm.node.node_id = other
    assert victim.call("confirm-message-received", confirm).status_code == 200
    wanted.node.node_id = other
    refused(victim.call("pull-object", wanted), 403, "object", logged)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/get-run/",
        "//v1/fleet/get-run",
        "/docs",
        "/",
    ],
)
def test_no_other_path_leads_anywhere(
    served: Coordinator, tmp_path: Path, logged: list[Any], path: str
) -> None:
    caller, _ = admitted(served, tmp_path, "wanderer")
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-length: 0", "connection: close"]
    lines += [f"{name}: {value}" for name, value in caller.headers().items()]
    answer = send(served, "\r\n".join([*lines, "", ""]).encode())
    assert b" 404 " in answer.split(b"\r\n")[0]
    assert any(e.get("reason") == "path" for e in logged)


def test_calls_are_posted_and_nothing_else(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    context = ssl.create_default_context(cadata=served.card.ca)
    url = f"https://{served.card.address}/v1/fleet/get-run"
    refused(httpx.get(url, verify=context, trust_env=False), 405, "method", logged)


def test_an_oversized_body_is_refused_by_its_length_and_while_it_is_read(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    caller, _ = admitted(served, tmp_path, "heavy")
    refused(caller.post("/v1/fleet/get-run", b"x" * 2**19), 413, "size", logged)
    lines = ["POST /v1/fleet/get-run HTTP/1.1", "host: localhost", "transfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in caller.headers().items()]
    head = "\r\n".join([*lines, "connection: close", "", ""]).encode()
    piece = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    logged.clear()
    assert b'"size"' in send(served, head + 6 * piece + b"0\r\n\r\n")
    assert any(e.get("reason") == "size" and e.get("site") == "heavy" for e in logged)


def test_a_reply_that_is_larger_than_any_update_is_refused(
    served: Coordinator, grid: FleetGrid, site: Fleet, logged: list[Any]
) -> None:
    served.gateway.expect_updates([2**20])
    try:
        grid.push_messages([request(site.node_id)])
        received = site.pull()
        assert received is not None
        content = RecordDict({"arrays": ArrayRecord({"x": Array(np.zeros(2**20))})})
        with pytest.raises(Exception, match="413 size"):
            site.push(Message(content, reply_to=received))
    finally:
        served.gateway.expect_updates([2**26])
    assert any(e.get("reason") == "size" for e in logged)


def test_what_is_not_the_calls_message_is_refused(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    caller, node = admitted(served, tmp_path, "garbler")
    refused(caller.post("/v1/fleet/get-run", b"\xff\xff"), 400, "malformed", logged)
    empty = PushMessagesRequest(node=Node(node_id=node))
    refused(caller.call("push-messages", empty), 400, "malformed", logged)


def test_a_poll_is_held(site: Fleet) -> None:
    assert site.pull() is None  # whatever was there before
    begun = time.monotonic()
    assert site.pull() is None
    assert time.monotonic() - begun > 2.0


def test_a_poll_is_released_by_work(
    served: Coordinator, grid: FleetGrid, site: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would end it before the client gives up."""
    assert site.pull() is None  # whatever was there before
    monkeypatch.setattr(served.gateway._calls, "_hold_seconds", 3600.0)  # noqa: SLF001
    with ThreadPoolExecutor() as threads:
        pulled = threads.submit(site.pull)
        holds = served.gateway._calls.polls._polls  # noqa: SLF001
        until(lambda: site.node_id in holds)
        grid.push_messages([request(site.node_id)])
        assert pulled.result(PATIENCE) is not None


@pytest.mark.long
def test_who_is_refused_too_often_is_not_told_why_and_a_site_beside_it_is_served(
    tmp_path: Path,
) -> None:
    """Several hospitals, and whoever else, may have one address."""
    with coordinator(tmp_path, hold_seconds=0.01) as served:
        site, node = admitted(served, tmp_path, "neighbour")
        caller = Caller(served, ec.generate_private_key(ec.SECP384R1()))
        code = caller.call("get-run", PushMessagesRequest()).json()["code"]
        assert code == "unknown-key"
        for _ in range(1000):
            if (code := caller.call("get-run", PushMessagesRequest()).json()["code"]) == "rate":
                break
        answers = []
        for _ in range(20):  # while the stranger goes on
            caller.call("get-run", PushMessagesRequest())
            body = PullMessagesRequest(node=Node(node_id=node))
            answers.append(site.call("pull-messages", body).status_code)
    assert code == "rate"
    assert answers == [200] * 20


def test_nobody_takes_up_the_room_that_there_is_for_sites(
    tmp_path: Path, logged: list[Any]
) -> None:
    with coordinator(tmp_path, connections=12, hold_seconds=0.01) as served, ExitStack() as stack:
        near, node = admitted(served, tmp_path, "near")  # at the stranger's own address
        far = Caller(served, near.key, "127.0.0.2")
        context = ssl.create_default_context(cadata=served.card.ca)
        held = []
        for _ in range(12):
            plain = socket.create_connection(("127.0.0.1", served.gateway.port), timeout=PATIENCE)
            held.append(
                stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            )
        until(lambda: served.gateway.refusals["connections"] == 9)
        body = PullMessagesRequest(node=Node(node_id=node))
        for site in (near, far):
            assert site.call("pull-messages", body).status_code == 200
        assert ("connections", None, "127.0.0.1") in served.refused
        for each in held:
            each.close()
        again = Caller(served, near.key)
        until(lambda: _served(again, body))
    assert any(e["event"] == "gateway.refused" and e["reason"] == "connections" for e in logged)


def _served(caller: Caller, body: ProtoMessage) -> bool:
    try:
        return caller.call("pull-messages", body).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_site_cannot_ask_for_more_than_its_share(tmp_path: Path) -> None:
    with coordinator(tmp_path, requests_per_second=0.5, hold_seconds=0.01) as served:
        caller, node = admitted(served, tmp_path, "eager")
        body = PullMessagesRequest(node=Node(node_id=node))
        statuses: list[int] = []
        while 429 not in statuses and len(statuses) < 1000:  # it gets a little more meanwhile
            statuses.append(caller.call("pull-messages", body).status_code)
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_health_needs_no_key_and_tells_the_time(served: Coordinator) -> None:
    context = ssl.create_default_context(cadata=served.card.ca)
    answer = httpx.get(f"https://{served.card.address}/health", verify=context, trust_env=False)
    assert answer.status_code == 200
    assert "date" in answer.headers
    assert json.loads(answer.text) == {"status": "ok"}


def test_without_its_superlink_the_gateway_says_so(tmp_path: Path) -> None:
    with coordinator(tmp_path) as served:
        caller, node = admitted(served, tmp_path, "left-alone")
        served.superlink.stop()
        answer = caller.call("pull-messages", PullMessagesRequest(node=Node(node_id=node)))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_pushed_replies_are_announced_by_their_root(
    served: Coordinator, tmp_path: Path, logged: list[Any]
) -> None:
    """A tree that begins elsewhere could name another site's objects as its own message."""
    caller, node = admitted(served, tmp_path, "grafter")
    push = reply_header(source=node)
    push.node.node_id = node
    push.message_object_trees[0].object_id = "cd" * 32
    refused(caller.call("push-messages", push), 400, "malformed", logged)


def test_two_machines_with_one_key_are_told_and_get_no_request_until_one_is_gone(
    served: Coordinator,
    grid: FleetGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[Any],
) -> None:
    """Neither loses its connection: each must hear why it gets no work."""
    monkeypatch.setattr("server.gateway.instances.LINGERING_SECONDS", 0.1)
    first = served.site("copied", tmp_path)
    first.connect()
    assert not first.twins
    second = Fleet(served.card, served.new_key(tmp_path / "copied"))
    second.connect()
    until(lambda: first.pull() is None and first.twins)
    assert second.pull() is None
    assert second.twins == first.twins == served.gateway.twins("copied")
    (message_id,) = grid.push_messages([request(first.node_id)])
    assert first.pull() is second.pull() is None
    assert any(e["event"] == "gateway.refused" and e["reason"] == "twins" for e in logged)
    second.close()
    monkeypatch.setattr("server.gateway.instances.ACTIVE_SECONDS", 0.5)
    first.connect()
    received = None
    while received is None:
        received = first.pull()
    assert not first.twins
    assert first.push(Message(received.content, reply_to=received))
    assert reply_to(grid, message_id).has_content()
    first.close()
