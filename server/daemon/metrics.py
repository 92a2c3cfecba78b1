"""Metrics for Prometheus: sites, studies and the gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import CoordinatorError
from common.wire.enrolment import NODE_HEADER, split_address
from server.daemon.study_supervisor import ALIVE
from server.gateway.gateway import Gateway
from server.store import CoordinatorStore
from server.store.rows import StudyState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX: Final = "consilium_coordinator_"
_NODE: Final = NODE_HEADER.encode()


class TrafficCounter:
    """Middleware of the gateway: counts bytes, and reports the node of each admitted request.

    Args:
        app: the gateway's.
        traffic: bytes of HTTP bodies by direction, counted here.
        heard: called with the node of each admitted request.
    """

    def __init__(self, app: ASGIApp, traffic: Counter[str], heard: Callable[[int], None]) -> None:
        self._app = app
        self._bytes = traffic
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def counted_receive() -> Message:
            message = await receive()
            self._bytes["in"] += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            self._bytes["out"] += len(message.get("body", b""))
            for name, value in message.get("headers", ()):
                # The gateway sets this header only on the answer to an admitted request.
                if name == _NODE:
                    self._heard(int(value))
            await send(message)

        await self._app(scope, counted_receive, counted_send)


class CoordinatorMetrics(Collector):
    """Read when Prometheus asks.

    Args:
        store: studies and rounds.
        online: each admitted site, and whether it is connected.
        gateway: its refusals by reason, and its connections.
        traffic: of the gateway.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        online: Callable[[], Mapping[str, bool]],
        gateway: Gateway,
        traffic: Counter[str],
    ) -> None:
        self._store = store
        self._online = online
        self._gateway = gateway
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        online = dict(self._online())
        yield _gauge("sites", "Sites that are admitted", len(online))
        yield _gauge("sites_online", "Sites that are connected", sum(online.values()))
        studies = self._store.studies()
        states = Counter(str(study.state) for study in studies)
        counts = {str(state): states[str(state)] for state in StudyState}
        yield _gauges("studies", "Studies by state", "state", counts)
        running = [study.name for study in studies if study.state in ALIVE]
        done = {
            name: sum(each.purpose == "train" for each in self._store.rounds(name))
            for name in running
        }
        yield _gauges("rounds", "Completed rounds of each running study", "study", done)
        refusals, held = self._gateway.refusals, self._gateway.connections
        yield _counter(
            "refusals",
            "Requests refused and connections closed by the gateway, by reason",
            "reason",
            refusals,
        )
        yield _gauge("gateway_connections", "Connections that the gateway holds now", held)
        yield _counter("gateway_bytes", "Bytes of HTTP bodies", "direction", self._traffic)


def serve(listen: str, figures: CoordinatorMetrics) -> Callable[[], None]:
    """Answer Prometheus on ``host:port``; gives a function that ends it.

    Raises:
        CoordinatorError: the address cannot be used.
    """
    host, port = split_address(listen)
    registry = CollectorRegistry()
    registry.register(figures)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as cause:
        raise CoordinatorError(
            "the metrics cannot be served on this address",
            where="coordinator.toml, [metrics] listen",
            found=f"{listen}: {cause.strerror}",
            remedy="set another port for [metrics] listen in coordinator.toml",
        ) from cause

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, documentation, value=value)


def _gauges(name: str, documentation: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, documentation: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, documentation, labels=[label])
    for key, value in dict(values).items():
        family.add_metric([key], value)
    return family
