"""A site's daemon from its start to its end: claim the state, look at it, serve, leave."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import structlog

from client.administration import service
from client.consent import problems
from client.daemon.control import SERVICE, SiteControl
from client.daemon.executor import SiteExecutor
from client.daemon.metrics import DaemonMetrics
from client.daemon.supervisor import Supervisor, until_told
from client.device_check import require_device
from client.process_limits import ProcessLimits
from client.records.state_folder import require_private
from client.records.verify import inspect_state
from client.sitefile import Programs, ServedSite
from common.control.site_pb2_grpc import add_SiteServicer_to_server
from common.control.sockets import add_health, listen, new_server
from common.errors import SiteError
from common.process.claim import Owner, claimed, notify

SOCKET: Final = "control.sock"
GRACE: Final = 0.5
"""Seconds that a call in progress has when the daemon ends."""

OWNER: Final = Owner("site", SiteError, "consilium-site status")

log = structlog.get_logger(__name__)


def serve(served: ServedSite, programs: Programs | None = None) -> None:
    """Serve a site until this process is asked to end.

    Raises:
        SiteError: the state cannot be used, another daemon serves it, the metrics cannot be
            served, or the graphics card of the site file is not there or too small.
    """
    card = require_device(served.file)
    if card is not None:
        log.info("card.found", card=card)
        # Before torch is loaded: an approval tries a study in this process, on the worker's card.
        os.environ.update(ProcessLimits(gpu=served.file.device.gpu).environment)
    # Here too, and before the claim makes the folder: with keys that others know as well, the key
    # that it connects with and its control socket are its own.
    require_private(served.state)
    with claimed(served.state, OWNER):
        asyncio.run(_serve(served, programs or Programs()))
    log.info("daemon.ended")


async def _serve(served: ServedSite, programs: Programs) -> None:
    metrics = DaemonMetrics()
    if served.file.metrics.listen:
        metrics.serve(served.file.metrics.listen)
    keys = (served.path, served.state, served.known_seed)
    quick, slow = SiteExecutor(*keys, keep_open=True), SiteExecutor(*keys, keep_open=False)
    # The first task opens the site: what is wrong with it is raised here, before the daemon starts.
    paused = await quick.ask(service.is_paused)
    chain, faults = await asyncio.to_thread(_verified, served)
    supervisor = Supervisor(
        served,
        metrics,
        programs,
        quick.note,
        lambda failed: quick.post(lambda site: problems.put(site, failed)),
    )
    server = new_server()
    control = SiteControl(supervisor, quick, slow, chain=chain, faults=faults)
    add_SiteServicer_to_server(control, server)
    health = await add_health(server, SERVICE)
    listen(server, served.state / SOCKET)
    async with supervisor.running(paused=paused):
        await server.start()
        notify("READY=1")
        log.info("daemon.started", state=str(served.state), pid=os.getpid(), audit=chain)
        await until_told()
        log.info("daemon.ending")
        await health.enter_graceful_shutdown()
        await server.stop(GRACE)
    # A slow task may still run: its thread ends with the process.
    for executor in (quick, slow):
        executor.close(GRACE)
    (served.state / SOCKET).unlink(missing_ok=True)


def _verified(served: ServedSite) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What the audit log's chain and its receipts say: in a line, and as warnings."""
    verdict = inspect_state(served.state, served.file.site.name)
    for each in verdict.disputed:
        log.warning("receipt.disputed", what=each)
    ask = "ask the coordinator why; to see all of them: consilium-site audit verify"
    disputed = tuple((each, ask) for each in verdict.disputed[:1])
    if verdict.sound:
        whole = f"verified up to line {verdict.head.length}"
        return f"{whole}, {verdict.receipts} receipts verified", disputed
    for fault in verdict.faults:
        log.error("audit.broken", fault=str(fault))
    remedy = "do not repair it: copy the state folder, then run consilium-site audit verify"
    first = str(verdict.faults[0])
    broken = (f"the audit log or the ledger was changed: {first}", remedy)
    return f"verification FAILED: {first}", (broken, *disputed)
