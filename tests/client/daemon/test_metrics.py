"""The daemon's own figures: served on loopback, of closed words, and never of a patient."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from client.daemon.metrics import DaemonMetrics
from common.errors import SiteError
from tests.waiting import PATIENCE


def test_the_figures_are_of_processes_and_messages_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    metrics = DaemonMetrics()
    metrics.line("online")
    metrics.answered("train", "ok")
    metrics.restarted("worker")
    metrics.sent(1000)
    metrics.serve(f"127.0.0.1:{port}")

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()

    figures = {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}
    assert figures == {
        "consilium_site_up",
        "consilium_site_connection",
        "consilium_site_process_restarts_total",
        "consilium_site_messages_total",
        "consilium_site_sent_bytes_total",
    }
    assert "consilium_site_sent_bytes_total 1000.0" in lines
    assert 'consilium_site_process_restarts_total{process="worker"} 1.0' in lines


def test_a_place_where_nobody_can_listen_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SiteError, match="metrics cannot be served") as caught:
            DaemonMetrics().serve(listen)
    assert listen in caught.value.details["found"]
