"""A coordinator that has its certificate, and says whatever a test has it say.

Two kinds: one that speaks in bytes, and one that speaks Flower's fleet protocol.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.process.ports import free_port
from common.wire.bundle import MANIFEST, PROJECT, PYPROJECT
from common.wire.enrolment import CoordinatorCard
from common.wire.flower import ConfigRecord, Message, RecordDict, identify
from server.daemon.authority import coordinator_card, init, server_context
from tests.common.wire.test_bundle import archive
from tests.waiting import PATIENCE, until

# isort: split
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

Speech = Callable[[ssl.SSLSocket], None]
"""What is done with a connection once something was asked on it."""
BUNDLE = archive((PROJECT, PYPROJECT), (MANIFEST, "list"))


@dataclass
class Liar:
    """Whoever speaks in bytes.

    Attributes:
        card: how to get there.
        speech: what is said to whoever asks.
        sent: bytes that the other side took, or that wait in sockets.
    """

    card: CoordinatorCard
    speech: Speech
    sent: int = 0

    def say(self, secure: ssl.SSLSocket, words: bytes) -> None:
        secure.sendall(words)
        self.sent += len(words)


@contextlib.contextmanager
def liar(folder: Path) -> Iterator[Liar]:
    """One that says nothing yet."""
    home = init(folder, "liar", "localhost:1").home
    context = server_context(home)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        it = Liar(coordinator_card(home).model_copy(update={"address": address}), lambda _: None)

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=speak, args=(plain,), daemon=True).start()

        def speak(plain: socket.socket) -> None:
            with plain, contextlib.suppress(OSError):
                plain.settimeout(PATIENCE)
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(2**14)
                    it.speech(secure)

        threading.Thread(target=serve, daemon=True).start()
        yield it
        listener.shutdown(socket.SHUT_RDWR)


@dataclass
class Deceiver:
    """Whoever speaks Flower's fleet protocol.

    Attributes:
        card: how to get there.
        answers: what the next polls are answered with; when there are none more, that there is
            no work.
        objects: of all messages, by their identifiers.
        bundles: by run; of every other it is the right one.
        asked: names of calls, in their order.
    """

    card: CoordinatorCard
    answers: list[bytes] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    bundles: dict[int, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def work(self, run: int = 1, kind: str = "train") -> bytes:
        """The answer to a poll that brings a message whose objects are there."""
        identify(run)
        message = Message(RecordDict({"c": ConfigRecord({"run": run})}), 7, kind)
        message.metadata.__dict__["_run_id"] = run
        message.metadata.__dict__["_message_id"] = message.object_id
        self.objects |= {key: one.deflate() for key, one in get_all_nested_objects(message).items()}
        pulled = PullMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
        return pulled.SerializeToString()

    def bundle(self, run: int) -> Fab:
        content = self.bundles.get(run, BUNDLE)
        return Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)

    def answer(self, name: str, body: bytes) -> bytes:
        self.asked.append(name)
        if name == "activate-node":
            return ActivateNodeResponse(node_id=7).SerializeToString()
        if name == "pull-messages":
            PullMessagesRequest.FromString(body)
            return self.answers.pop(0) if self.answers else b""
        if name == "get-run":
            run = GetRunRequest.FromString(body).run_id
            told = Run(run_id=run, fab_hash=self.bundle(run).hash_str)
            return GetRunResponse(run=told).SerializeToString()
        if name == "get-fab":
            run = GetFabRequest.FromString(body).run_id
            return GetFabResponse(fab=self.bundle(run)).SerializeToString()
        if name == "pull-object":
            content = self.objects.get(PullObjectRequest.FromString(body).object_id)
            return PullObjectResponse(
                object_found=content is not None,
                object_available=content is not None,
                object_content=content or b"",
            ).SerializeToString()
        kinds = {
            "deactivate-node": DeactivateNodeResponse,
            "send-node-heartbeat": SendNodeHeartbeatResponse,
            "confirm-message-received": ConfirmMessageReceivedResponse,
        }
        return bytes(kinds[name]().SerializeToString())


@contextlib.contextmanager
def deceiver(folder: Path) -> Iterator[Deceiver]:
    """One that lets everybody in, and has no work."""
    home = init(folder, "deceiver", "localhost:1").home
    port = free_port()
    it = Deceiver(coordinator_card(home).model_copy(update={"address": f"localhost:{port}"}))

    async def health(_request: Request) -> Response:
        return JSONResponse({})

    async def call(request: Request) -> Response:
        said = it.answer(request.path_params["name"], await request.body())
        return Response(said, media_type="application/protobuf")

    routes = [Route("/health", health), Route("/v1/fleet/{name}", call, methods=["POST"])]
    app = Starlette(routes=routes)
    config = uvicorn.Config(app, port=port, log_config=None, ws="none")
    config.load()
    config.ssl = server_context(home)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield it
    server.should_exit = True
    thread.join(PATIENCE)
