"""A study over real processes and sockets, whatever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.process.ports import free_port
from common.wire.flower import ClientApp
from common.wire.messages import Reply, Request
from server.daemon.authority import init
from server.daemon.supervisor import Daemon
from server.store import open_store
from tests.server.conftest import World
from tests.server.daemon.deployment import (
    Deployment,
    Hospital,
    connected,
    deployed,
    patient,
)
from tests.server.daemon.test_superlink_supervisor import card_of
from tests.waiting import until


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("coordinator")) as deployment:
        yield deployment


def hospitals_of(world: World, folder: Path) -> list[Hospital]:
    client: ClientApp = world.client()
    return [
        Hospital(name, client, folder / f"{name}.key", world.key(name).public, {})
        for name in world.patients
    ]


def document_of(world: World, **changes: str) -> str:
    return patient(world.study_file.read_text(), **changes)


class Once:
    """Does something the first time that a site is asked for a round."""

    def __init__(self) -> None:
        self._due: dict[int, Callable[[], None]] = {}

    def at(self, number: int, action: Callable[[], None]) -> None:
        self._due[number] = action

    def __call__(self, site: str, request: Request, reply: Reply) -> Reply:
        if site == "north" and request.purpose == "train" and request.round in self._due:
            self._due.pop(request.round)()
        return reply


@pytest.mark.long
def test_whatever_is_killed_a_study_ends_with_the_same_weights(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """The study's process, the SuperLink and the daemon itself are each killed in a round."""
    undisturbed, world, once = make_world(), make_world(), Once()
    for each in (undisturbed, world):
        each.rounds, each.evaluations = 8, "[4, 8]"
    expected = undisturbed.run(seed=3)["final_weights_sha256"]
    world.alter = once
    deployment = Deployment(tmp_path / "home")
    document = document_of(world)
    killed = False

    def kill_daemon() -> None:
        nonlocal killed
        deployment.kill()
        killed = True

    once.at(2, lambda: deployment.kill_process("server.daemon.study_process"))
    once.at(4, lambda: deployment.kill_process("server.superlink.launcher"))
    once.at(6, kill_daemon)
    with ExitStack() as stack:
        deployment.start()
        stack.callback(deployment.kill)
        stack.enter_context(connected(deployment, *hospitals_of(world, tmp_path)))
        deployment.ask("Start", document=document, seed=3)
        until(lambda: killed, "the daemon's end")
        deployment.start()
        outcome = deployment.outcome("small")
        kinds = deployment.kinds("small")
    assert outcome["final_weights_sha256"] == expected
    assert outcome["rounds"] == 8
    assert kinds.count("study.interrupted") >= 2
    assert kinds[-1] == "study.completed"
    asked = [request for _, request in world.asked if request.purpose == "train"]
    for number in range(1, 9):
        same = {request.identity for request in asked if request.round == number}
        assert len(same) == 3  # one for each plan, however often it was asked


def test_ctrl_c_ends_all_processes_without_a_traceback(tmp_path: Path) -> None:
    """A terminal interrupts its whole foreground group; the daemon alone is to hear of it."""
    with deployed(tmp_path / "home") as deployment:
        assert deployment.processes("server.superlink.launcher")
        said = deployment.interrupt()
        first = f"serving on 0.0.0.0:{deployment.address.rpartition(':')[2]}; 0 sites admitted; "
        assert f"{first}next: consilium-coordinator admit SITE.json\n" in said
        assert deployment.processes("server.") == []
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    assert "superlink.died" not in said


def test_the_gateway_takes_no_larger_update_than_the_studies_under_way_have(tmp_path: Path) -> None:
    home = init(tmp_path / "home", "demo", f"localhost:{free_port()}").home
    card = card_of("north", tmp_path)

    with open_store(home.store_url) as store:
        store.admit(card)

        async def follow() -> list[int]:
            daemon, sizes = Daemon(home, store), []

            async def note() -> None:
                await daemon._follow()  # noqa: SLF001 - one of its turns
                sizes.append(daemon.gateway._calls.largest_update)  # noqa: SLF001

            await note()
            for name, size in (("small", 1000), ("large", 2**28)):
                store.add_study(name, "never read", 0, ["north"])
                daemon.study_supervisor.begin(name)  # it waits for a SuperLink
                await note()
                store.record(name, "study.started", fields={"update_bytes": size})
                await note()
            await daemon.study_supervisor.end("large")
            await note()
            await daemon.study_supervisor.end_all()
            return sizes

        sizes = asyncio.run(follow())
    assert sizes == [2**20, 2**26, 2**20, 2**26, 2**28, 2**20]
