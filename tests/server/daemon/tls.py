"""A coordinator's home, and one connection over real TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path

from server.daemon.authority import server_context
from server.daemon.settings import Home
from tests.waiting import PATIENCE

ADDRESS = "consilium.example.org:8443"
Shown = Mapping[str, object]
"""What Python tells of the certificate that the other side showed."""


def greet(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> Shown | None:
    """One connection over a real socket; what the server saw of the client's certificate."""
    seen: list[Shown | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            try:
                with server.wrap_socket(plain, server_side=True) as taken:
                    seen.append(taken.getpeercert())
                    taken.sendall(b"x")
            except (ssl.SSLError, OSError):
                plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=PATIENCE) as plain,
                client.wrap_socket(plain, server_hostname=host) as opened,
            ):
                assert opened.version() in {"TLSv1.2", "TLSv1.3"}
                if opened.recv(1) != b"x":
                    raise ConnectionResetError
        finally:
            thread.join(10)
    return seen[0]


def operator_context(home: Home) -> ssl.SSLContext:
    """The gateway's TLS, where the client too must show a certificate of the authority."""
    context = server_context(home)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=str(home.ca_certificate))
    return context


def trusting(home: Home) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(home.ca_certificate))


def shown(files: tuple[Path, ...], home: Home) -> ssl.SSLContext:
    context = trusting(home)
    certificate, key, _ = files
    context.load_cert_chain(certificate, key)
    return context
