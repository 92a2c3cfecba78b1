"""Workers of a Ray cluster: on other machines too, with whole or shared graphics cards.

A worker keeps its sites open from round to round. The model is put into Ray's store once a round.
The hospitals, the run's folder and this package must be there under the same paths on every
machine. Ray is not installed with the rest: ``pip install consilium[ray]``.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import SiteError
from common.process.logs import configure
from common.wire.flower import Message, identify
from simulations.grids.grid import GridSettings
from simulations.grids.nodes import RUN_ID, answered
from simulations.grids.pool import RemoteSites
from simulations.grids.remote import Asked, Crew, Factory, Taken
from simulations.grids.transport import packed, unpacked

# isort: split
# Only after common.wire.flower, which tells Flower to stay off the network.
from flwr.common.constant import SUPERLINK_NODE_ID

Bytes = npt.NDArray[np.uint8]
_INSTALL: Final = "install it: pip install 'consilium[ray]', or use --grid pool"


class RaySites(RemoteSites):
    """In the workers of a Ray cluster."""

    def crew(self, programs: Sequence[Factory]) -> Crew:
        """Actors.

        Raises:
            SiteError: Ray is not installed, or the cluster cannot be reached.
        """
        return RayCrew(programs, self.settings)


class RayCrew(Crew):
    """Actors of a Ray cluster.

    Args:
        factories: of each worker's program.
        settings: address of the cluster, and the share of a card that a worker takes.
    """

    def __init__(self, factories: Sequence[Factory], settings: GridSettings) -> None:
        self._factories, self._gpus = factories, settings.gpus
        self._ray = _connected(settings.ray_address)
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, tuple[int, int]] = {}
        # By the parts themselves, so that no other gets the same id while it is stored.
        self._stored: dict[int, tuple[bytes, Any, int]] = {}
        self._parts = 0

    def start(self, worker: int) -> None:
        """Have Ray place an actor; it waits until a machine has room."""
        kind = self._ray.remote(_Host).options(num_cpus=1, num_gpus=self._gpus, max_restarts=0)
        self._actors[worker] = kind.remote(self._factories[worker])

    def give(self, worker: int, task: Asked) -> None:
        """Send a task."""
        refs: list[Any] = []

        def put(part: bytes) -> tuple[int, int]:
            if id(part) not in self._stored:
                self._parts += 1
                ref = self._ray.put(np.frombuffer(part, dtype=np.uint8))
                self._stored[id(part)] = part, ref, self._parts
            _, ref, number = self._stored[id(part)]
            refs.append(ref)
            return len(refs) - 1, number

        data = packed(task, put)
        self._asked[self._actors[worker].work.remote(data, *refs)] = worker, task.slot

    def take(self) -> Taken:
        """Wait for a reply or for the loss of an actor."""
        (ready, *_), _ = self._ray.wait(list(self._asked), num_returns=1)
        worker, slot = self._asked.pop(ready)
        try:
            data, parts = self._ray.get(ready)
        except self._ray.exceptions.RayActorError:
            self._asked = {ref: at for ref, at in self._asked.items() if at[0] != worker}
            return Taken(worker, 0, None)
        reply: Message = unpacked(data, lambda number: parts[number].tobytes())
        return Taken(worker, slot, reply)

    def rest(self) -> None:
        """Let the model of the round that is over go."""
        self._stored.clear()

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._stored.clear()
        self._ray.shutdown()


class _Host:
    """What an actor is: the program of its sites."""

    def __init__(self, factory: Factory) -> None:
        configure()
        identify(RUN_ID, node_id=SUPERLINK_NODE_ID)
        self._program = factory()
        self._read: dict[int, bytes] = {}

    def work(self, data: bytes, *parts: Bytes) -> tuple[bytes, list[Bytes]]:
        """Answer a task; the reply's large parts stay beside it."""
        task: Asked = unpacked(data, lambda name: self._part(parts[name[0]], name[1]))
        if task.before is not None:
            self._program.recover(task.name, task.before, task.message)
        answer = partial(self._program.answer, task.name)
        reply = answered(answer, task.name, task.message)
        beside: list[Bytes] = []

        def put(part: bytes) -> int:
            beside.append(np.frombuffer(part, dtype=np.uint8))
            return len(beside) - 1

        return packed(reply, put), beside

    def _part(self, stored: Bytes, number: int) -> bytes:
        """A part as bytes, made once while the same is sent."""
        # By its number, not by where it lies: a later round's model may lie where this one did.
        if number not in self._read:
            self._read = {number: stored.tobytes()}
        return self._read[number]


def _lock() -> None:
    """Have every process of a cluster that is started here know a secret.

    Ray listens on all interfaces, and who reaches it could run code as this user. It reads this
    when it is imported: where somebody has imported it before, it stays as they wanted it.
    """
    given = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if "ray" not in sys.modules and not given:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _connected(address: str | None) -> Any:  # noqa: ANN401 - the module
    """Ray, connected to a cluster; without an address to one that is started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    # As Ray will have it by itself: a worker without a card leaves the cards as they are.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        _lock()
    try:
        import ray
    except ImportError as error:
        raise SiteError(
            "Ray is not installed", where="--grid ray", found=str(error), remedy=_INSTALL
        ) from error
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SiteError(
            "the Ray cluster cannot be reached",
            where=f"--ray-address {address}" if address else "--grid ray",
            found=error,
            wanted="the address of a cluster's head that runs the same version of Ray",
            remedy="see ray status on the cluster's head; leave --ray-address out to start a "
            "cluster on this machine",
        ) from error
    return ray
