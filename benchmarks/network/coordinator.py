"""A coordinator's link in a process of its own: ``python -m benchmarks.network.coordinator``.

Makes a home in a folder, starts SuperLink and gateway there, admits some sites whose keys it
makes, writes a line of JSON that says where everything is, and serves until its standard
input ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any, Final

from client.node_key import load_node_key, public_node_key
from common.process import logs
from common.process.ports import free_port
from common.wire.enrolment import SiteCard
from server.daemon.authority import coordinator_card, init, server_context
from server.daemon.settings import Home
from server.gateway.authentication import Admitted
from server.gateway.gateway import Gateway, GatewaySettings
from server.superlink.notifications import NotificationBoard
from server.superlink.superlink import SuperLink

CARD: Final = "COORDINATOR.json"


class Book:
    """Admits the sites that it made."""

    def __init__(self) -> None:
        self.sites: dict[bytes, Admitted] = {}

    def lookup(self, node_key_pem: bytes) -> Admitted | None:
        """As :class:`server.gateway.authentication.Admission`."""
        return self.sites.get(node_key_pem)


def new_superlink(home: Home, port: int) -> SuperLink:
    """The SuperLink of a home."""
    return SuperLink(
        home.state,
        port,
        cert=home.loopback_certificate,
        key=home.loopback_key,
        ca=home.ca_certificate,
        secret=home.guard_secret,
    )


def key_file(folder: Path, site: int) -> Path:
    """Where a site's key lies."""
    return folder / f"site-{site}.key"


def admit(folder: Path, superlink: SuperLink, book: Book, sites: int) -> None:
    """Make keys of sites and admit them."""
    for site in range(sites):
        pem = public_node_key(load_node_key(key_file(folder, site), make=True))
        card = SiteCard(name=f"site-{site}", node_key=pem, signing_key="00" * 32)
        book.sites[pem.encode()] = Admitted(card.name, superlink.register(card), "admitted")


async def serve(folder: Path, sites: int) -> None:
    """Serve until standard input ends."""
    home = init(folder / "home", "bench", "localhost:8443").home
    superlink = new_superlink(home, free_port())
    superlink.start()
    await asyncio.to_thread(superlink.wait_until_healthy)
    book, board = Book(), NotificationBoard(home.notices_socket)
    admit(folder, superlink, book, sites)
    await board.start()
    settings = GatewaySettings("127.0.0.1:0", server_context(home), requests_per_second=10_000)
    gateway = Gateway(book, superlink, settings, board)
    gateway.expect_updates([2**27])
    serving = asyncio.create_task(gateway.serve())
    await gateway.listening.wait()
    address = f"localhost:{gateway.port}"
    card = coordinator_card(home).model_copy(update={"address": address})
    (folder / CARD).write_text(card.text)
    ready: dict[str, Any] = {"superlink": superlink.port, "superlink_pid": superlink.pid}
    print(json.dumps(ready), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    serving.cancel()
    superlink.stop()


if __name__ == "__main__":
    logs.configure(level="warning")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
