"""Sites in other processes: the same bits, and a worker that is killed changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from common.wire.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from simulations.grids.grid import GridSettings
from simulations.grids.on_ray import RayCrew
from simulations.grids.remote import AHEAD, RemoteGrid, dealt
from simulations.grids.transport import LARGE
from simulations.grids.workers import ProcessCrew
from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings, Watcher
from tests.simulations.squares import square_hospitals, square_study

NAMES = {number: f"site-{number}" for number in range(1, 9)}


@dataclass
class Echo:
    """Gives back what it got, and dies as often as a file says."""

    folder: Path

    def answer(self, name: str, message: Message) -> Message:
        deaths = self.folder / name
        if deaths.exists() and (left := int(deaths.read_text())):
            deaths.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        if message.metadata.message_type == "query.propose":
            (self.folder / f"{name} proposed").open("a").write("x")
        content = RecordDict(dict(message.content.items()))
        content["by"] = ConfigRecord({"pid": os.getpid(), "name": name})
        return Message(content, reply_to=message)

    def recover(self, name: str, before: Sequence[Message], pending: Message) -> None:
        for message in before:
            self.answer(name, message)
        (self.folder / f"{name} recovered").write_text(pending.metadata.message_type)

    def close(self) -> None:
        (self.folder / f"closed {os.getpid()}").touch()


def grid_of(folder: Path, workers: int = 2) -> tuple[RemoteGrid, ProcessCrew]:
    crew = ProcessCrew([partial(Echo, folder)] * workers)
    return RemoteGrid(NAMES, crew, workers, kept=("query.propose",)), crew


def asked(kind: str = "train", size: int = LARGE // 4, start: int = 0) -> list[Message]:
    shared = ArrayRecord({"flat": Array(np.arange(start, start + size, dtype=np.float32))})
    return [
        Message(
            RecordDict({"arrays": shared, "body": ConfigRecord({"node": number})}), number, kind
        )
        for number in NAMES
    ]


def test_every_request_is_answered_by_the_worker_of_its_site(tmp_path: Path) -> None:
    grid, crew = grid_of(tmp_path)
    try:
        for number in range(4):
            messages = asked(start=number)  # a later model may lie where an earlier one did
            replies = list(grid.send_and_receive(messages))
            for message, reply in zip(messages, replies, strict=True):
                assert reply.metadata.reply_to_message_id == message.metadata.message_id
                assert reply.content["body"] == message.content["body"]
                assert reply.content["arrays"] == message.content["arrays"]
        by = {str(each.content["by"]["name"]): each.content["by"]["pid"] for each in replies}
        assert len(set(by.values())) == 2
        worker_of = dealt(sorted(NAMES.values()), 2)
        assert len({(worker_of[name], pid) for name, pid in by.items()}) == 2
    finally:
        crew.close()
    assert len(list(tmp_path.glob("closed *"))) == 2
    assert not multiprocessing.active_children()


def test_replies_may_be_pulled_in_any_order(tmp_path: Path) -> None:
    grid, crew = grid_of(tmp_path, workers=1)
    assert len(NAMES) > AHEAD
    try:
        ids = list(grid.push_messages(asked()))
        for message_id in reversed(ids):
            (reply,) = grid.pull_messages([message_id])
            assert reply.metadata.reply_to_message_id == message_id
        assert list(grid.pull_messages(ids)) == []
    finally:
        crew.close()


def test_a_worker_that_is_killed_is_replaced_and_its_sites_are_made_ready_again(
    tmp_path: Path,
) -> None:
    grid, crew = grid_of(tmp_path)
    try:
        list(grid.send_and_receive(asked("query.propose")))
        (tmp_path / "site-3").write_text("1")
        with capture_logs() as logs:
            replies = list(grid.send_and_receive(asked()))
        assert [each.content["body"]["node"] for each in replies] == list(NAMES)
        assert [each["event"] for each in logs] == ["worker.lost"]
        mates = [name for name, at in dealt(sorted(NAMES.values()), 2).items() if at == 0]
        assert "site-3" in mates
        list(grid.send_and_receive(asked()))  # those that had answered before the loss
        for name in NAMES.values():
            assert (tmp_path / f"{name} recovered").exists() == (name in mates)
            assert len((tmp_path / f"{name} proposed").read_text()) == 1 + (name in mates)
        list(grid.send_and_receive(asked()))  # none is made ready once more
        assert len((tmp_path / "site-3 proposed").read_text()) == 2
    finally:
        crew.close()


def test_a_request_that_kills_every_worker_costs_its_site_alone(tmp_path: Path) -> None:
    grid, crew = grid_of(tmp_path)
    (tmp_path / "site-5").write_text("99")
    try:
        with capture_logs() as logs:
            replies = list(grid.send_and_receive(asked()))
        assert [each.has_error() for each in replies] == [
            name == "site-5" for name in NAMES.values()
        ]
        assert [each["site"] for each in logs if each["event"] == "site.failed"] == ["site-5"]
    finally:
        crew.close()


class Killing(Watcher):
    """Kills a worker after a round, as the kernel does where memory ends."""

    def __init__(self, after: int = 1) -> None:
        self.killed: list[int] = []
        self._after = after

    def round_done(self, number: int, point: object, spent: float | None) -> None:
        if number == self._after:
            child = multiprocessing.active_children()[0]
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            self.killed.append(child.pid)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five hospitals, and a study with evaluations."""
    folder = tmp_path_factory.mktemp("squares")
    square_hospitals(folder / "hospitals", sites=5)
    study = square_study(folder / "study.toml", evaluation={"rounds": [1, 3], "epsilon_share": 0.5})
    return study, folder / "hospitals"


def settings(there: tuple[Path, Path], run: Path, **more: object) -> RunSettings:
    study, hospitals = there
    return RunSettings(
        study,
        hospitals,
        run,
        baselines=False,
        processes=2,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.long
def test_a_cluster_gives_each_round_its_own_model(tmp_path: Path) -> None:
    crew = RayCrew([partial(Echo, tmp_path)] * 2, GridSettings())
    try:
        grid = RemoteGrid(NAMES, crew, 2)
        for number in range(6):
            messages = asked(start=number, size=2**20)
            replies = list(grid.send_and_receive(messages))
            assert [each.content["arrays"] for each in replies] == [
                each.content["arrays"] for each in messages
            ]
            del messages, replies  # so that the next model may lie in the same place
    finally:
        crew.close()


OURS = """
import os, subprocess, sys
from functools import partial
from pathlib import Path

from simulations.grids.grid import GridSettings
from simulations.grids.on_ray import RayCrew
from simulations.grids.remote import RemoteGrid
from tests.simulations.grids.test_remote import Echo, NAMES, asked

STRANGER = '''
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: "ran").remote()))
'''
crew = RayCrew([partial(Echo, Path(sys.argv[1]))], GridSettings())
replies = list(RemoteGrid(NAMES, crew, 1).send_and_receive(asked()))
import ray

address = ray.get_runtime_context().gcs_address
others = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}
command = [sys.executable, "-c", STRANGER, address]
done = subprocess.run(command, env=others, capture_output=True, text=True)
crew.close()
print(len(replies), "ran" in done.stdout, done.returncode)
"""


@pytest.mark.long
def test_a_cluster_that_is_started_here_runs_nobody_elses_code(root: Path, tmp_path: Path) -> None:
    """In a process of its own: Ray reads when it is imported what it asks of others."""
    command = [sys.executable, "-c", OURS, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{len(NAMES)} False 1"


@pytest.mark.long
@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "on disk"])
def test_a_run_that_went_on_may_lose_a_worker(
    there: tuple[Path, Path], tmp_path: Path, *, kept: bool
) -> None:
    calm = run_study(settings(there, tmp_path / "calm", grid="process", keep_records=kept))

    class Stop(Watcher):
        def round_done(self, number: int, point: object, spent: float | None) -> None:
            if number == 1:
                raise KeyboardInterrupt

    out = tmp_path / "hurt"
    with pytest.raises(KeyboardInterrupt):
        run_study(settings(there, out, grid="pool", keep_records=kept), Stop())
    killing = Killing(after=2)
    hurt = run_study(settings(there, out, grid="pool", keep_records=kept, resume=True), killing)
    assert killing.killed
    assert hurt.final_weights_sha256 == calm.final_weights_sha256


@pytest.fixture
def two_machines() -> Iterator[str]:
    """The address of a cluster of two nodes of Ray's with a processor each, both here."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


class KillingActor(Watcher):
    """Kills the worker on one of the cluster's nodes after the first round."""

    def __init__(self) -> None:
        self.nodes: set[str] = set()
        self.killed = 0

    def round_done(self, number: int, point: object, spent: float | None) -> None:
        import ray

        found = ray._private.state.actors().values()  # noqa: SLF001 - its public list needs a dashboard
        alive = [each for each in found if each["State"] == "ALIVE"]
        self.nodes |= {each["Address"]["NodeID"] for each in alive}
        if number == 1:
            self.killed = alive[0]["Pid"]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.long
def test_two_nodes_of_a_cluster_end_in_the_same_bits_even_if_a_worker_is_killed(
    there: tuple[Path, Path], tmp_path: Path, two_machines: str
) -> None:
    here = run_study(settings(there, tmp_path / "process", grid="process"))
    killing = KillingActor()
    cluster = run_study(
        settings(there, tmp_path / "ray", grid="ray", ray_address=two_machines), killing
    )
    assert len(killing.nodes) == 2
    assert killing.killed
    assert cluster.final_weights_sha256 == here.final_weights_sha256


@pytest.mark.long
def test_processes_and_a_cluster_end_in_the_same_bits_even_if_a_worker_is_killed(
    there: tuple[Path, Path], tmp_path: Path
) -> None:
    here = run_study(settings(there, tmp_path / "process", grid="process"))
    pool = run_study(settings(there, tmp_path / "pool", grid="pool"))
    killing = Killing()
    hurt = run_study(settings(there, tmp_path / "hurt", grid="pool"), killing)
    assert killing.killed
    cluster = run_study(settings(there, tmp_path / "ray", grid="ray"))
    left_out = {"seconds", "command"}
    found = [each.model_dump(exclude=left_out) for each in (here, pool, hurt, cluster)]
    assert found[1:] == found[:1] * 3
    assert here.records == "memory"
    assert not (tmp_path / "process" / "sites").exists()
    kept = run_study(settings(there, tmp_path / "kept", grid="process", keep_records=True))
    assert kept.final_weights_sha256 == here.final_weights_sha256
    assert (tmp_path / "kept" / "sites" / "site-000" / "site.sqlite").exists()
