"""A stream is heard for as long as there is a right to, and no longer."""

# ruff: noqa: N802 - a service's methods are called as its proto calls them

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.control import site_pb2, site_pb2_grpc
from common.control.rpc_errors import asking
from common.control.sockets import connect, listen, new_server
from common.errors import CoordinatorError
from server.daemon import rights
from server.daemon.rights import Rights
from tests.waiting import PATIENCE

SHUT_OUT = CoordinatorError("this certificate is not one of an admitted operator")


class Speaker(site_pb2_grpc.SiteServicer):
    """Says one thing at once, and each other thing when it is told to; is silent in between."""

    def __init__(self) -> None:
        self.said = 0
        self.more = threading.Event()

    async def Audit(
        self, request: site_pb2.AuditRequest, context: object
    ) -> AsyncIterator[site_pb2.AuditEntry]:
        while True:
            self.said += 1
            yield site_pb2.AuditEntry(number=self.said)
            while not self.more.is_set():
                await asyncio.sleep(0.02)
            if request.after:
                return


@contextmanager
def serving(
    path: Path, speaker: Speaker, require: Callable[[object], None]
) -> Iterator[site_pb2_grpc.SiteStub]:
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        server = new_server(Rights(require))
        site_pb2_grpc.add_SiteServicer_to_server(speaker, server)
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
        yield site_pb2_grpc.SiteStub(connect(path, "the daemon", "start it"))
    finally:
        done.set()
        thread.join(PATIENCE)


class Right:
    """Held until it is taken away."""

    def __init__(self) -> None:
        self.taken = threading.Event()

    def require(self, context: object) -> None:
        if self.taken.is_set():
            raise SHUT_OUT


def test_a_silent_stream_ends_when_the_right_is_gone(tmp_path: Path) -> None:
    right, speaker = Right(), Speaker()
    with (
        serving(tmp_path / "control.sock", speaker, right.require) as stub,
        pytest.raises(CoordinatorError, match="admitted operator"),
        asking("the daemon", "start it"),
    ):
        stream = stub.Audit(site_pb2.AuditRequest(follow=True), timeout=PATIENCE)
        assert next(stream).number == 1
        right.taken.set()
        next(stream)  # nothing more is ever said
    assert speaker.said == 1


def test_what_comes_after_the_right_was_gone_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is until the next look: each thing is looked at by itself."""
    monkeypatch.setattr(rights, "LOOK_SECONDS", 3600.0)
    right, speaker = Right(), Speaker()
    heard = []
    with (
        serving(tmp_path / "control.sock", speaker, right.require) as stub,
        pytest.raises(CoordinatorError, match="admitted operator"),
        asking("the daemon", "start it"),
    ):
        for entry in stub.Audit(site_pb2.AuditRequest(follow=True), timeout=PATIENCE):
            heard.append(entry.number)
            right.taken.set()
            speaker.more.set()
    assert heard == [1]


def test_who_keeps_the_right_hears_all_to_the_end(tmp_path: Path) -> None:
    speaker = Speaker()
    with serving(tmp_path / "control.sock", speaker, Right().require) as stub:
        stream = stub.Audit(site_pb2.AuditRequest(after=1), timeout=PATIENCE)
        assert next(stream).number == 1
        speaker.more.set()
        assert list(stream) == []
