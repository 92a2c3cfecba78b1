"""A coordinator's link on loopback for tests: SuperLink, gateway and admitted sites, for real."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from client.daemon.fleet import Fleet
from client.node_key import load_node_key, public_node_key
from common.process.ports import free_port
from common.wire.enrolment import CoordinatorCard, SiteCard
from common.wire.flower import Message
from server.daemon.authority import coordinator_card, init, server_context
from server.daemon.settings import Home
from server.gateway.authentication import Admitted
from server.gateway.gateway import Gateway, GatewaySettings
from server.superlink.grid import FleetGrid
from server.superlink.notifications import NotificationBoard, NotificationLine
from server.superlink.superlink import SuperLink
from tests.waiting import PATIENCE, until

SIGNING_KEY = "ab" * 32


@dataclass
class Book:
    """Admits whom it is told to."""

    sites: dict[bytes, Admitted] = field(default_factory=dict)

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        return self.sites.get(node_key_pem)


@dataclass
class Coordinator:
    """Everything between a study and a site's socket."""

    home: Home
    superlink: SuperLink
    gateway: Gateway
    book: Book
    refused: list[tuple[str, str | None, str]]
    loop: asyncio.AbstractEventLoop

    @property
    def card(self) -> CoordinatorCard:
        whole = coordinator_card(self.home)
        return whole.model_copy(update={"address": f"localhost:{self.gateway.port}"})

    def new_key(self, folder: Path) -> ec.EllipticCurvePrivateKey:
        folder.mkdir(parents=True, exist_ok=True)
        return load_node_key(folder / "node.key", make=True)

    def admit(self, name: str, key: ec.EllipticCurvePrivateKey) -> int:
        pem = public_node_key(key)
        card = SiteCard(name=name, node_key=pem, signing_key=SIGNING_KEY)
        node = self.superlink.register(card)
        self.book.sites[pem.encode()] = Admitted(name, node, "admitted")
        return node

    def suspend(self, key: ec.EllipticCurvePrivateKey) -> None:
        pem = public_node_key(key).encode()
        self.book.sites[pem] = replace(self.book.sites[pem], state="suspended")

    def site(self, name: str, folder: Path) -> Fleet:
        """Admit a site and give its connection, not connected yet."""
        key = self.new_key(folder / name)
        self.admit(name, key)
        return Fleet(self.card, key)

    def line(self) -> NotificationLine:
        return NotificationLine(self.home.notices_socket)


def new_superlink(home: Home) -> SuperLink:
    return SuperLink(
        home.state,
        free_port(),
        cert=home.loopback_certificate,
        key=home.loopback_key,
        ca=home.ca_certificate,
        secret=home.guard_secret,
    )


@contextlib.contextmanager
def coordinator(folder: Path, **settings: float) -> Iterator[Coordinator]:
    """A coordinator that serves, its gateway in a thread of its own."""
    home = init(folder, "test", "localhost:8443").home
    superlink = new_superlink(home)
    superlink.start()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        superlink.wait_until_healthy()
        with gateway_of(home, superlink, loop, settings) as served:
            yield served
    finally:
        superlink.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)


@contextlib.contextmanager
def gateway_of(
    home: Home,
    superlink: SuperLink,
    loop: asyncio.AbstractEventLoop,
    settings: dict[str, float],
    listen: str = "127.0.0.1:0",
) -> Iterator[Coordinator]:
    """A gateway before a SuperLink that runs; it admits nobody yet."""
    book, board = Book(), NotificationBoard(home.notices_socket)
    refused: list[tuple[str, str | None, str]] = []
    how = {"requests_per_second": 1000.0, "hold_seconds": 20.0} | settings
    gateway = Gateway(
        book,
        superlink,
        GatewaySettings(listen, server_context(home), **how),  # type: ignore[arg-type]
        board,
        lambda *refusal: refused.append(refusal),
    )

    ended = threading.Event()

    async def run() -> None:
        try:
            await board.start()
            await gateway.serve()
        finally:
            await board.stop()
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        until(lambda: gateway.listening.is_set() or future.done())
        if future.done():
            future.result()
        yield Coordinator(home, superlink, gateway, book, refused, loop)
    finally:
        future.cancel()
        ended.wait(PATIENCE)


def reply_to(grid: FleetGrid, message_id: str) -> Message:
    """The reply to a request, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for message in grid.pull_messages([message_id]):
            return message
        grid.wait(1.0)
    raise AssertionError("no reply")
