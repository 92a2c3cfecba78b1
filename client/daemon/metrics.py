"""What the daemon tells Prometheus: the state of its own processes, and nothing about patients.

A coordinator sees the same counts of messages and bytes. No duration is told: how long training
took would tell how many patients there are.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    start_http_server,
)

from common.errors import SiteError
from common.wire.enrolment import split_address

STATES: Final = (
    "none",
    "connecting",
    "online",
    "offline",
    "skewed",
    "refused",
    "paused",
    "restarting",
)


class DaemonMetrics:
    """The figures, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # when each count began
        self.registry = registry = CollectorRegistry()
        up = Gauge("consilium_site_up", "The daemon runs", registry=registry)
        up.set(1)
        self._line = Gauge(
            "consilium_site_connection",
            "1 for the state that the connection is in",
            ["state"],
            registry=registry,
        )
        self._restarts = Counter(
            "consilium_site_process_restarts",
            "Starts after the first of a process",
            ["process"],
            registry=registry,
        )
        self._messages = Counter(
            "consilium_site_messages",
            "Requests answered",
            ["purpose", "code"],
            registry=registry,
        )
        self._bytes = Counter("consilium_site_sent_bytes", "Bytes of replies", registry=registry)
        self.line("none")
        # All of them from the start: a counter that appears with its first event shows no increase.
        for process in ("connection", "worker"):
            self._restarts.labels(process)

    def line(self, state: str) -> None:
        """The connection is in this state now."""
        for each in STATES:
            self._line.labels(each).set(each == state)

    def restarted(self, process: str) -> None:
        """A process has died and is started again."""
        self._restarts.labels(process).inc()

    def answered(self, purpose: str, code: str) -> None:
        """A request has its answer; both words are of closed lists."""
        self._messages.labels(purpose, code).inc()

    def sent(self, count: int) -> None:
        """A reply of so many bytes was pushed."""
        self._bytes.inc(count)

    def serve(self, listen: str) -> None:
        """Answer on ``host:port`` from now on.

        Raises:
            SiteError: this address cannot be used.
        """
        host, port = split_address(listen)
        try:
            start_http_server(port, host, self.registry)
        except OSError as error:
            raise SiteError(
                "the metrics cannot be served",
                where="site.toml: [metrics] listen",
                found=f"{listen}: {error.strerror}",
                remedy="choose another port, or remove the setting",
            ) from error
