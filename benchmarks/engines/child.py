"""One measurement, in a process of its own: ``python -m benchmarks.engines.child JSON``."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from benchmarks.engines.apps import Kind, app_of, exchange
from common.process.logs import configure
from common.wire.flower import ClientApp, Context, Message, context
from simulations.grids.in_process import LocalGrid
from simulations.grids.remote import RemoteGrid
from simulations.grids.workers import ProcessCrew

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.serverapp import Grid, ServerApp


class Hosted:
    """The client in a worker of ours."""

    def __init__(self, kind: Kind) -> None:
        self._app = app_of(kind)

    def answer(self, name: str, message: Message) -> Message:
        """Its reply."""
        return self._app(message, context(1, 0, node={"site": name}, run={}))

    def recover(self, name: str, before: Sequence[Message], pending: Message) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


def ours(asked: dict[str, Any]) -> tuple[list[float], float]:
    """Under one of our grids."""
    names = {number: f"site-{number}" for number in range(1, asked["sites"] + 1)}
    if asked["engine"] == "process":
        sites: dict[int, tuple[str, Context]] = {
            number: (name, context(1, number, node={"site": name}, run={}))
            for number, name in names.items()
        }
        grid: Grid = LocalGrid(cast("Any", app_of(asked["client"])), sites)
        return exchange(grid, asked["parameters"], asked["rounds"])
    workers = len(os.sched_getaffinity(0))
    crew = ProcessCrew([partial(Hosted, asked["client"])] * workers)
    try:
        grid = RemoteGrid(names, crew, workers)
        return exchange(grid, asked["parameters"], asked["rounds"])
    finally:
        crew.close()


def flowers(asked: dict[str, Any]) -> tuple[list[float], float]:
    """Under Flower's own engine, with a processor for each of its actors."""
    from flwr.simulation import run_simulation

    found: list[tuple[list[float], float]] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, _: Context) -> None:
        found.append(exchange(grid, asked["parameters"], asked["rounds"]))

    logging.getLogger("flwr").setLevel(logging.ERROR)
    client: ClientApp = app_of(asked["client"])
    run_simulation(
        app,
        client,
        asked["sites"],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"log_to_driver": False, "include_dashboard": False},
        },
    )
    return found[0]


def main() -> None:
    """Measure what the first argument asks for."""
    configure(level="error")
    asked = json.loads(sys.argv[1])
    measure = flowers if asked["engine"] == "flower" else ours
    times, ended = measure(asked)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rounds": times, "ended": ended, "memory_mib": memory}), flush=True)
    os._exit(0)  # Flower's engine takes seconds to end, which nobody waits for


if __name__ == "__main__":
    main()
