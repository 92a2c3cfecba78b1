"""Flower's SuperLink in a process of ours: ``python -m server.superlink.launcher``.

What ``flower-superlink`` would start, on loopback with TLS, node authentication, its state
in memory, process isolation (so that it runs no app by itself) and the SuperExec secret.
Every request passes :mod:`server.superlink.control_auth` first. It ends when the process that
started it ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio.to_thread
import uvicorn

import common.wire.flower  # noqa: F401
from common.errors import CoordinatorError
from common.process import logs
from common.process.parent import die_with_parent
from server.superlink.control_auth import ControlAuth, read_secret, superexec_secret

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import (
    CONTROL_API_DEFAULT_SERVER_ADDRESS,
    ISOLATION_MODE_PROCESS,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.control.middlewares import (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from starlette.applications import Starlette

HOST: Final = "127.0.0.1"
KEEP_ALIVE_SECONDS: Final = 120
"""Longer than its clients keep an idle connection (60 s), so that they close it first."""
IDLE_LAYERS: Final = (
    ControlSensitiveResponseMiddleware,
    ControlLicenseMiddleware,
    ControlEventLogMiddleware,
    FleetEventLogMiddleware,
    RuntimeTracingMiddleware,
)


def configuration(port: int, cert: Path, key: Path, ca: Path, secret: bytes) -> (
    SuperLinkLifespanConfig
):  # fmt: skip
    """How the SuperLink is set up."""
    return SuperLinkLifespanConfig(
        control_address=CONTROL_API_DEFAULT_SERVER_ADDRESS,  # served only where asked for
        health_server_address=None,
        host=HOST,
        port=port,
        insecure=False,
        certificates=(ca.read_bytes(), cert.read_bytes(), key.read_bytes()),
        superexec_auth_secret=superexec_secret(secret),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(ca),
        ssl_certfile=str(cert),
        ssl_keyfile=str(key),
        # A poll costs 3.5 ms of processor time in memory and 10.7 ms on SQLite (flwr 1.41); what
        # must last is in the coordinator's own store.
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


def lean(app: Starlette) -> Starlette:
    """Remove the layers that do nothing here and cost time in every request.

    What they are for is off: event logs, tracing, licences and account logins.
    """
    idle: set[object] = set(IDLE_LAYERS)
    app.user_middleware[:] = [one for one in app.user_middleware if one.cls not in idle]
    return app


def in_one_thread() -> None:
    """Run Flower's handlers in the loop's own thread.

    They only touch memory and take microseconds. Handing each of them, and each of their
    dependencies, to a thread of a pool would take most of a request's time.
    """

    async def here(
        function: Callable[..., object], *arguments: object, **options: object
    ) -> object:
        return function(*arguments)

    anyio.to_thread.run_sync = here  # type: ignore[assignment]


def serve(port: int, cert: Path, key: Path, ca: Path, secret: bytes) -> None:
    """Serve until told to stop."""
    in_one_thread()
    config = configuration(port, cert, key, ca, secret)
    app = ControlAuth(lean(create_app(config, SuperLinkLifespan)), secret)
    settings = uvicorn.Config(
        app,
        host=HOST,
        port=port,
        ssl_certfile=str(cert),
        ssl_keyfile=str(key),
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(settings).run()


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="Flower's SuperLink on loopback")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--form", choices=("console", "json"), default="json")
    for name in ("cert", "key", "ca", "secret"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    logs.configure(arguments.form)
    try:
        secret = read_secret(arguments.secret)
        serve(arguments.port, arguments.cert, arguments.key, arguments.ca, secret)
    except (CoordinatorError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
