"""Flower's stock parts on the same work: SuperLink, two SuperNodes, ``send_and_receive``.

As Flower's guides set them up, with TLS and node keys, state in the default database, a
process for every message. Its apps come in a bundle; the ServerApp writes how long each
round took.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.network.coordinator import key_file
from client.node_key import load_node_key, public_node_key
from common.process.ports import free_port
from server.daemon.authority import init
from server.superlink.wire import trust

# isort: split
import httpx
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient

SITES: Final = 2
LONGEST_SECONDS: Final = 400.0
PROJECT: Final = """\
[project]
name = "stockbench"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "stockbench:server_app"
clientapp = "stockbench:client_app"
[tool.flwr.app.config]
"""
APPS: Final = """\
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server_app, client_app = ServerApp(), ClientApp()


@client_app.train()
def train(message, context):
    return Message(RecordDict(dict(message.content)), reply_to=message)


@server_app.main()
def main(grid, context):
    times = {}
    while len(nodes := list(grid.get_node_ids())) < SITES:
        time.sleep(0.2)
    random = np.random.default_rng(0)
    for name, (tensors, entries, rounds) in WORK.items():
        times[name] = []
        for _ in range(rounds):
            arrays = [random.random(entries, dtype=np.float32) for _ in range(tensors)]
            before = time.perf_counter()
            record = ArrayRecord({str(i): Array(array) for i, array in enumerate(arrays)})
            content = RecordDict({"arrays": record, "request": ConfigRecord({"round": 1})})
            replies = list(
                grid.send_and_receive(
                    [Message(content, node, "train", group_id="1") for node in nodes]
                )
            )
            assert len(replies) == SITES and not any(reply.has_error() for reply in replies)
            times[name].append(time.perf_counter() - before)
    Path(RESULT).write_text(json.dumps(times))
"""


def rounds(folder: Path, work: dict[str, tuple[int, int, int]]) -> dict[str, list[float]]:
    """Seconds of each round of each kind of work.

    Args:
        folder: to work in.
        work: by name: how many tensors, of how many entries each, for how many rounds.

    Raises:
        TimeoutError: it did not end.
    """
    home = init(folder / "home", "stock", "localhost:1").home
    certificate = str(home.ca_certificate)
    result, port = folder / "times.json", free_port()
    address = f"127.0.0.1:{port}"
    tls = ["--ssl-ca-certfile", certificate, "--ssl-certfile", str(home.loopback_certificate)]
    tls += ["--ssl-keyfile", str(home.loopback_key), "--enable-supernode-auth"]
    off = ["--disable-runtime-dependency-installation"]
    with contextlib.ExitStack() as stack:
        superlink = ["superlink", "--host", "127.0.0.1", "--port", str(port), *tls, *off]
        stack.enter_context(_stock(folder, *superlink))
        control = stack.enter_context(_control(address, home.ca_certificate.read_text()))
        for site in range(SITES):
            key = load_node_key(key_file(folder, site), make=True)
            control.RegisterNode(RegisterNodeRequest(public_key=public_node_key(key).encode()))
            node = ["supernode", "--superlink", address, "--root-certificates", certificate]
            node += ["--auth-supernode-private-key", str(key_file(folder, site))]
            node += ["--port", str(free_port())]
            stack.enter_context(_stock(folder, *node))
        settings = f"\nSITES, RESULT, WORK = {SITES}, {str(result)!r}, {work!r}\n"
        files = {"pyproject.toml": PROJECT.encode(), "stockbench.py": (APPS + settings).encode()}
        content, _ = build_fab_from_files(files)
        control.StartRun(StartRunRequest(fab=Fab(content=content)))
        _wait_for(result)
        times: dict[str, list[float]] = json.loads(result.read_text())
        return times


def _wait_for(result: Path) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not result.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("Flower's stock parts did not end; see their log")
        time.sleep(0.2)


@contextlib.contextmanager
def _stock(folder: Path, kind: str, *arguments: str) -> Iterator[None]:
    """One of Flower's commands, ended with all that it started."""
    program = Path(sys.executable).with_name(f"flower-{kind}")
    environment = os.environ | {
        "FLWR_HOME": str(folder / "flower"),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    with (folder / f"{kind}.log").open("a") as log:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@contextlib.contextmanager
def _control(address: str, ca: str) -> Iterator[ControlHttpClient]:
    deadline = time.monotonic() + 60
    url = f"https://{address}/health"
    while True:
        try:
            httpx.get(url, verify=trust(ca), trust_env=False).raise_for_status()
            break
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    with ControlHttpClient.from_server_address(address, False, ca.encode(), []) as control:
        yield control
