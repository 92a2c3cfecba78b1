"""What the daemon tells Prometheus: how sites, studies and the gateway are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import CoordinatorError
from common.wire.enrolment import split_address
from server.daemon.study_supervisor import ALIVE
from server.gateway.gateway import NODE_HEADER, Gateway
from server.store import CoordinatorStore
from server.store.rows import StudyState

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX: Final = "consilium_coordinator_"
_NODE: Final = NODE_HEADER.encode()


@dataclass
class Traffic:
    """Bytes of bodies that went through the gateway, by direction."""

    bytes: Counter[str] = field(default_factory=Counter)


class Meter:
    """An ASGI app around the gateway's: counts bytes, and tells whose requests were let in.

    Args:
        app: the gateway's.
        traffic: counted here.
        heard: called with the node of each request that was let in.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, heard: Callable[[int], None]) -> None:
        self._app = app
        self._bytes = traffic.bytes
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""

        async def counted_receive() -> Message:
            message = await receive()
            self._bytes["in"] += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            self._bytes["out"] += len(message.get("body", b""))
            for name, value in message.get("headers", ()):
                if name == _NODE:
                    self._heard(int(value))
            await send(message)

        await self._app(scope, counted_receive, counted_send)


class CoordinatorMetrics(Collector):
    """Read when Prometheus asks.

    Args:
        store: studies and rounds.
        online: each site that may come in, and whether it is connected.
        gateway: its refusals by reason, and its connections.
        traffic: of the gateway.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        online: Callable[[], Mapping[str, bool]],
        gateway: Gateway,
        traffic: Traffic,
    ) -> None:
        self._store = store
        self._online = online
        self._gateway = gateway
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        online = dict(self._online())
        yield _gauge("sites", "Sites that may come in", len(online))
        yield _gauge("sites_online", "Sites that are connected", sum(online.values()))
        studies = self._store.studies()
        states = Counter(str(study.state) for study in studies)
        counts = {str(state): states[str(state)] for state in StudyState}
        yield _gauges("studies", "Studies by where they stand", "state", counts)
        running = [study.name for study in studies if study.state in ALIVE]
        done = {name: len(_training(self._store, name)) for name in running}
        yield _gauges("rounds", "Rounds completed by a study that is under way", "study", done)
        refusals, held = self._gateway.refusals, self._gateway.connections
        yield _counter("refusals", "What the gateway refused or cut off", "reason", refusals)
        yield _gauge("gateway_connections", "Connections that the gateway holds", held)
        yield _counter("gateway_bytes", "Bytes of bodies", "direction", self._traffic.bytes)


def serve(listen: str, figures: CoordinatorMetrics) -> Callable[[], None]:
    """Answer Prometheus on ``host:port``; gives what ends it.

    Raises:
        CoordinatorError: nobody can listen there.
    """
    host, port = split_address(listen)
    registry = CollectorRegistry()
    registry.register(figures)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as cause:
        raise CoordinatorError(
            "the metrics cannot be served",
            where="coordinator.toml, [metrics] listen",
            found=f"{listen}: {cause.strerror}",
            remedy="name another port",
        ) from cause

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _training(store: CoordinatorStore, name: str) -> list[int]:
    return [each.number for each in store.rounds(name) if each.purpose == "train"]


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
