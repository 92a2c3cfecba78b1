"""What holds for every test: one thread each, no telemetry, no way out to a network."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch or Flower: these are read once. Tests run side by side, so a
# pool of threads in each would only make them wait for one another; and a subprocess that a
# test starts inherits the same.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MPLBACKEND": "Agg",
    }
)

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.tiers import mark_long

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = {"", "localhost", "::1", "0.0.0.0", "::"}

# A shared machine is slow now and then; that is no property of the code. Failures print how
# to repeat them, and nothing is remembered between runs.
settings.register_profile(
    "all",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("quick", settings.get_profile("all"), max_examples=25)


def _loopback_only(event: str, args: tuple[object, ...]) -> None:
    """Refuse to connect to another machine, or to ask for its address."""
    if event in {"socket.connect", "socket.sendto"}:
        address = args[1]
        host = address[0] if isinstance(address, tuple) else "localhost"  # else a Unix socket
    elif event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        host = args[0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name not in LOOPBACK and not name.startswith("127."):
        raise PermissionError(f"tests stay on this machine: {event} {name}")


gc.disable()  # until everything is collected
sys.addaudithook(_loopback_only)


def pytest_configure(config: pytest.Config) -> None:
    """With the short tests, a property is tried on fewer examples."""
    settings.load_profile("quick" if config.option.markexpr == "not long" else "all")


def pytest_collection_finish() -> None:
    """Keep out of garbage collection what was imported and collected: it stays to the end."""
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many tests wait for a process or a clock."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is long; begin with what starts processes, so that nobody ends alone with it."""
    mark_long(items)
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(autouse=True)
def _logs_as_at_the_start() -> Iterator[None]:
    """A command that a test ran in its own process set what is logged, and where."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and tables, kept beside the checkout; the test is skipped without them."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder.relative_to(ROOT.parent)} beside the checkout")
    return folder
