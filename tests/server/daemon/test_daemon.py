"""What an operator can have done, asked of a real daemon over its socket, by its command line."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import safetensors.numpy
from click.testing import Result
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from client.daemon.fleet import Fleet
from common.control import coordinator_pb2 as pb
from common.errors import ConsiliumError, CoordinatorError, LinkError, RefusalCode, StudyError
from common.files import sha256
from common.package.package import read as read_package
from common.process.ports import free_port
from common.wire.messages import Reply, Request
from server.app import FOLDER
from server.cli.app import app
from server.cli.rpc_client import Caller, calling
from server.daemon.authority import coordinator_card
from server.daemon.control import SERVICE
from server.daemon.recording import Recorder
from server.daemon.study_process import _pack
from server.gateway.gateway import GatewaySettings
from tests.server.conftest import World, as_is
from tests.server.daemon.deployment import (
    Deployment,
    Hospital,
    connected,
    deployed,
    patient,
)
from tests.server.store.postgres import Server, running
from tests.waiting import PATIENCE, until

OPERATORS = free_port()
HELD = 0.9 * GatewaySettings.hold_seconds
"""Seconds that a poll is held at the least, if nothing ends it."""


@pytest.fixture
def postgresql() -> Iterator[Server]:
    with running() as server:
        yield server


class Scene:
    """A coordinator with three sites that answer for as many studies as a test wants."""

    def __init__(self, deployment: Deployment, world: World, hospitals: list[Hospital]) -> None:
        self.deployment = deployment
        self.world = world
        self.hospitals = {hospital.name: hospital for hospital in hospitals}
        self.said: dict[str, Callable[[str, Request, Reply], Reply]] = {}
        self._studies = 0
        world.alter = self._alter

    def _alter(self, site: str, request: Request, reply: Reply) -> Reply:
        return self.said.get(request.study, as_is)(site, request, reply)

    def study(self, **changes: str) -> tuple[str, Path]:
        """A study that has not been yet: its name and its file."""
        self._studies += 1
        name = f"study-{self._studies}"
        path = self.deployment.folder / f"{name}.toml"
        text = patient(self.world.study_file.read_text(), **changes)
        path.write_text(text.replace('name = "small"', f'name = "{name}"'))
        return name, path

    def cli(self, *words: object) -> Result:
        home = str(self.deployment.folder)
        result = CliRunner().invoke(app, ["--home", home, *(str(word) for word in words)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def site(self, name: str) -> dict[str, Any]:
        rows = json.loads(self.cli("sites", "--json").stdout)
        found: dict[str, Any] = next(row for row in rows if row["name"] == name)
        return found

    def events(self, study: str) -> list[dict[str, Any]]:
        lines = self.cli("watch", study, "--no-follow", "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("coordinator")
    world = World(folder / "world", rounds=2, evaluations="[2]", remembers=False)
    listen = ("[metrics]", f'[control]\nlisten = "127.0.0.1:{OPERATORS}"\n\n[metrics]')
    plain = ("[control]\n# The socket for", "# The socket for")
    socket_line = ('socket = "state/control.sock"\n', "")
    client = world.client()
    hospitals = [
        Hospital(name, client, folder / f"{name}.key", world.key(name).public, {})
        for name in world.patients
    ]
    with (
        deployed(folder / "home", plain, socket_line, listen) as deployment,
        connected(deployment, *hospitals),
    ):
        yield Scene(deployment, world, hospitals)


def pending(site: str, code: RefusalCode, world: World) -> Callable[[str, Request, Reply], Reply]:
    def alter(name: str, request: Request, reply: Reply) -> Reply:
        if name == site and request.purpose == "propose":
            return world.sign(replace(reply, code=str(code)))
        return reply

    return alter


def test_a_package_that_cannot_be_made_costs_nothing_else_and_is_tried_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path = scene.study()
    scene.cli("start", path)
    scene.cli("watch", name)
    package = scene.deployment.home.studies / name / FOLDER / "model.consilium"
    package.unlink()
    with monkeypatch.context() as without, scene.deployment.store() as store:
        without.setattr("common.package.graph.OPERATORS", frozenset())
        _pack(scene.deployment.home, Recorder(store, name), store.study(name))

    (failed,) = [each for each in scene.events(name) if each["kind"] == "package.failed"]
    assert "operators of no model of ours" in json.dumps(failed)
    assert not package.exists()
    assert scene.cli("result", name, "--out", tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / "model.consilium").exists()

    scene.cli("resume", name)
    scene.cli("watch", name)

    assert read_package(package).statement.name == name


def test_a_study_from_its_file_to_its_result(scene: Scene, tmp_path: Path) -> None:
    name, path = scene.study()
    said = scene.cli("start", path).stdout
    assert f"{name} is offered to north, south, west" in said
    assert f"consilium-site show {name}" in said
    assert f"consilium-coordinator watch {name}" in said
    watched = scene.cli("watch", name).stdout
    for words in (
        "NOT PRIVATE: KNOWN KEY",
        "north: approved",
        "round 2 completed",
        "AUC",
        "completed",
    ):
        assert words in watched

    shown = scene.cli("result", name, "--out", tmp_path / "out").stdout
    outcome = json.loads((tmp_path / "out" / "outcome.json").read_bytes())
    assert shown.startswith("NOT PRIVATE")
    assert outcome["final_weights_sha256"] in shown
    weights = safetensors.numpy.load_file(tmp_path / "out" / "final.safetensors")["weights"]
    assert sha256(weights.astype("<f4").tobytes()) == outcome["final_weights_sha256"]
    assert json.loads(scene.cli("result", name, "--json").stdout) == outcome
    package = read_package(tmp_path / "out" / "model.consilium")
    assert package.key == scene.deployment.card.signing_key
    assert package.statement.weights == outcome["final_weights_sha256"]
    assert package.statement.finished

    (row,) = [r for r in json.loads(scene.cli("studies", "--json").stdout) if r["name"] == name]
    assert row["state"] == "completed"
    assert row["round"] == row["rounds"] == "2"
    with scene.deployment.store() as store:
        assert [each.purpose for each in store.rounds(name)] == ["train", "train", "evaluate"]
        assert [each.round for each in store.metrics(name)] == [2]
        assert {each.state for each in store.approvals(name)} == {"approved"}


def test_the_sites_are_listed_with_their_fingerprints(scene: Scene) -> None:
    rows = {row["name"]: row for row in json.loads(scene.cli("sites", "--json").stdout)}
    assert rows.keys() == {"north", "south", "west"}
    assert rows["north"]["fingerprint"] == scene.hospitals["north"].card.fingerprint
    assert rows["north"]["online"] is True
    assert scene.hospitals["west"].card.fingerprint in scene.cli("sites").stdout
    assert scene.deployment.kinds().count("site.seen") >= 3


def test_admitting_writes_the_card_and_shows_what_to_compare(scene: Scene, tmp_path: Path) -> None:
    card = scene.hospitals["north"].card
    (tmp_path / "SITE.json").write_text(card.text)
    said = scene.cli("admit", tmp_path / "SITE.json").stdout
    assert (tmp_path / "COORDINATOR.json").read_text() == scene.deployment.card.text
    assert card.fingerprint in said
    assert scene.deployment.card.fingerprint in said
    assert "by telephone" in said
    (tmp_path / "elsewhere").mkdir()
    elsewhere = scene.cli(
        "admit", tmp_path / "SITE.json", "--out", tmp_path / "x" / ".." / "elsewhere"
    )
    assert f"send {tmp_path.resolve() / 'elsewhere' / 'COORDINATOR.json'} to" in elsewhere.stdout
    assert (tmp_path / "elsewhere" / "COORDINATOR.json").exists()


@pytest.mark.long
def test_a_hospital_that_declares_more_than_was_agreed_on_is_left_out_and_all_can_see_why(
    scene: Scene,
) -> None:
    said = scene.cli("agree", "west", "chest-xray", 209).stdout
    assert "west may declare 209 patients of chest-xray (before: 300)" in said
    assert "chest-xray 209 (declares 300)" in scene.cli("sites").stdout
    name, path = scene.study()
    try:
        said = scene.cli("start", path).stdout
        watched = scene.cli("watch", name).stdout
    finally:
        scene.cli("agree", "west", "chest-xray", 300)
    agreed = "Agreed patients of chest-xray, and the share in the average if all sites take part:"
    assert agreed in said
    assert "  west: 209 patients, weight 209, 25.8 % of the average" in said
    reason = "a site declares more patients than were agreed on (210 declared patients, wanted"
    assert f"west is left out: {reason}" in " ".join(watched.split())
    counts = "north: 100 patients, weight 100, 62.5 % of the average"
    assert watched.index(counts) < watched.index("round 1 of")
    for shown in (scene.cli("studies").stdout, scene.cli("result", name).stdout):
        assert reason in " ".join(shown.split())
    assert f"{name}: {counts}" in scene.cli("studies").stdout
    assert "62.5 %" in scene.cli("result", name).stdout
    with scene.deployment.store() as store:
        (*_, event) = [one for one in store.events(None) if one.kind == "site.agreed"]
    assert event.fields["by"] == "the local operator"


def test_a_hospital_with_which_nothing_is_agreed_is_named_at_the_start(scene: Scene) -> None:
    name, path = scene.study()
    path.write_text(path.read_text().replace('"chest-xray"', '"retina"'))
    said = " ".join(scene.cli("start", path).stdout.split())
    assert "west: no number agreed, so it is left out. For the next study: " in said
    assert "consilium-coordinator agree west retina NUMBER" in said
    until(lambda: scene.deployment.row(name).state == "failed", "the end")
    assert "wanted an agreed number: none was agreed on yet" in scene.deployment.row(name).why


def test_admitting_agrees_on_what_the_card_declares_or_on_another_number(
    scene: Scene, tmp_path: Path
) -> None:
    card = scene.hospitals["north"].card.model_copy(update={"patients": {"skin": 10**9}})
    (tmp_path / "SITE.json").write_text(card.text)
    said = scene.cli("admit", tmp_path / "SITE.json", "--patients", "skin=70").stdout
    assert "may declare         300 patients of chest-xray" in said
    assert "may declare         70 patients of skin" in said
    assert (
        f"SITE.json declares {10**9}; if that is right: consilium-coordinator agree north skin"
        in said
    )
    assert card.fingerprint == scene.site("north")["fingerprint"]
    assert scene.site("north")["agreed"] == [
        {"dataset": "chest-xray", "patients": "300", "declared": "0"},
        {"dataset": "skin", "patients": "70", "declared": str(10**9)},
    ]
    for words in (["agree", "north", "skin", 0], ["agree", "north", "Skin!", 5]):
        with pytest.raises(CoordinatorError, match="not a number of patients of a data set"):
            scene.cli(*words)
    for wrong in ("skin", "skin=many", "=7"):
        with pytest.raises(CoordinatorError, match="not a number of patients of a data set"):
            scene.cli("admit", tmp_path / "SITE.json", "--patients", wrong)
    with pytest.raises(CoordinatorError, match="no such site"):
        scene.cli("agree", "nowhere", "skin", 5)
    assert "no data set chest-xra. It has: skin." in " ".join(
        scene.cli("agree", "north", "chest-xra", 100).stderr.split()
    )
    assert scene.cli("agree", "north", "skin", 70).stderr == ""


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"rounds": "0"}, StudyError, "cannot be used"),
        ({"min_sites": "4"}, StudyError, "fewer sites than the study requires"),
    ],
)
def test_nothing_is_sent_for_a_study_file_that_is_wrong(
    scene: Scene, changes: dict[str, str], error: type[ConsiliumError], what: str
) -> None:
    name, path = scene.study(**changes)
    with pytest.raises(error, match=what):
        scene.cli("start", path)
    assert name not in scene.cli("studies", "--json").stdout


def test_a_name_is_used_once_and_a_site_must_be_admitted(scene: Scene) -> None:
    name, path = scene.study()
    with pytest.raises(CoordinatorError, match="sites that are not admitted"):
        scene.cli("start", path, "--sites", "north,elsewhere")
    scene.cli("start", path, "--sites", "north,south")
    with pytest.raises(CoordinatorError, match="a name is used once"):
        scene.cli("start", path)
    assert list(scene.deployment.row(name).sites) == ["north", "south"]
    scene.cli("stop", name)


def test_a_mistake_ends_the_command_with_2_and_one_screen(scene: Scene) -> None:
    home = str(scene.deployment.folder)
    command = [sys.executable, "-m", "server.cli.app", "--home", home, "watch", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no such study")
    assert "Traceback" not in done.stderr


def test_a_study_waits_for_a_person_is_stopped_and_goes_on(scene: Scene) -> None:
    name, path = scene.study()
    scene.said[name] = pending("south", RefusalCode.PENDING, scene.world)
    scene.cli("start", path)
    until(lambda: "approval.waiting" in scene.deployment.kinds(name), "waiting")
    until(lambda: scene.deployment.row(name).state == "waiting", "the state")
    assert list(scene.deployment.row(name).undecided) == ["south"]
    assert "waits for a decision at south" in scene.cli("studies").stdout

    scene.cli("stop", name)
    assert scene.deployment.row(name).state == "stopped"
    assert scene.deployment.processes("server.daemon.study_process") == []
    with pytest.raises(CoordinatorError, match="not active"):
        scene.cli("stop", name)
    with pytest.raises(CoordinatorError, match="no result yet") as caught:
        scene.cli("result", name)
    assert "it is stopped after round 0 of" in str(caught.value)
    assert caught.value.details["do"] == f"consilium-coordinator resume {name}"

    scene.said.clear()
    with pytest.raises(CoordinatorError, match="does not take part in the study"):
        scene.cli("resume", name, "--amend", "elsewhere")
    scene.cli("resume", name, "--amend", "south")
    with pytest.raises(CoordinatorError, match="active already"):
        scene.cli("resume", name)
    watched = scene.cli("watch", name).stdout
    assert "stopped by the local operator" in watched
    assert "south: waiting for a person to approve or deny plan" in watched
    assert "the local operator asks to go on with the new numerics of south" in watched
    assert "south: numerics unchanged: " in watched
    assert "completed" in watched
    assert re.match(r"-- \d+ \w+ \d{4}, UTC --\n", watched)
    with pytest.raises(CoordinatorError, match="there is nothing to stop") as caught:
        scene.cli("stop", name)
    assert caught.value.details["do"] == f"consilium-coordinator result {name}"
    assert "No patient pays again" in " ".join(scene.cli("resume", name).stdout.split())
    scene.deployment.outcome(name)


def test_a_study_that_fails_says_what_to_do_and_can_be_resumed(scene: Scene) -> None:
    name, path = scene.study(min_sites="3")
    scene.said[name] = pending("south", RefusalCode.DENIED, scene.world)
    scene.cli("start", path)
    with pytest.raises(ConsiliumError, match="too few sites can take part") as caught:
        scene.cli("watch", name)
    later = scene.cli("watch", name, "--no-follow")
    assert later.stdout.count("too few sites can take part") == 1
    assert later.stderr.count("south: denied the plan") == 1
    assert "do: talk to the hospital" in " ".join(later.stdout.split())
    assert "south: denied the plan" in caught.value.details["found"]
    assert f"consilium-coordinator resume {name}" in caught.value.details["do"]
    assert scene.deployment.row(name).state == "failed"
    listed = " ".join(scene.cli("studies").stdout.split())
    assert "too few sites can take part" in listed
    assert "south: denied the plan (denied); talk to the hospital" in listed
    with scene.deployment.store() as store:
        (said,) = [each for each in store.approvals(name) if each.site == "south"]
        assert said.state == "denied"
    scene.cli("resume", name)
    assert scene.deployment.row(name).state != "failed"
    scene.cli("stop", name)


@pytest.mark.long
def test_a_study_that_meets_a_damaged_key_fails_and_names_it(scene: Scene) -> None:
    """It would not mend itself, however often the study's process was started again."""
    name, path = scene.study()
    key = scene.deployment.home.signing_key
    whole = key.read_bytes()
    key.write_bytes(b"cut off")
    try:
        scene.cli("start", path)
        with pytest.raises(ConsiliumError, match="missing or damaged") as caught:
            scene.cli("watch", name)
    finally:
        key.write_bytes(whole)
    assert caught.value.details["where"] == str(key)
    assert "study.interrupted" not in scene.deployment.kinds(name)
    scene.cli("resume", name)
    scene.deployment.outcome(name)


def test_a_removed_site_is_cut_off_at_once_and_may_come_back(scene: Scene) -> None:
    west = scene.hospitals["west"]
    name, path = scene.study()
    scene.cli("start", path)
    scene.deployment.outcome(name)  # since when its poll is held, and not yet for long
    west.troubles.clear()
    began = west.polled
    scene.cli("remove", "west")
    until(lambda: "suspended" in west.troubles, "the refusal")
    assert west.polled - began < HELD  # when it polled anew
    until(
        lambda: (
            {"reason": "suspended", "site": "west"}
            in [
                {"reason": entry["reason"], "site": entry["site"]}
                for entry in scene.deployment.logged("gateway.refused")
            ]
        ),
        "the log's entry",
    )
    until(lambda: "gateway.refused" in scene.deployment.kinds(), "the event")
    row = scene.site("west")
    assert (row["state"], row["online"]) == ("removed", False)
    scene.deployment.admit(west)
    until(lambda: scene.site("west")["online"], "the site's return")


def test_prometheus_reads_sites_studies_refusals_and_bytes(scene: Scene) -> None:
    listen = scene.deployment.home.file.metrics.listen
    with urllib.request.urlopen(f"http://{listen}/metrics") as answer:
        text = answer.read().decode()
    assert "consilium_coordinator_sites 3.0" in text
    for name in (
        "sites_online",
        'studies{state="completed"}',
        'gateway_bytes_total{direction="in"',
    ):
        assert f"consilium_coordinator_{name}" in text


def test_the_socket_is_its_owners_alone_and_answers_probes(scene: Scene) -> None:
    path = scene.deployment.home.control_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with grpc.insecure_channel(f"unix:{path}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_home_has_one_daemon(scene: Scene) -> None:
    command = [
        sys.executable,
        "-m",
        "server.cli.app",
        "--home",
        str(scene.deployment.folder),
        "serve",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another daemon is already running for this coordinator" in done.stderr


@pytest.fixture
def ada(scene: Scene, tmp_path: Path) -> Iterator[Caller]:
    """An operator with a certificate."""
    said = scene.cli("operator", "ada", "--out", tmp_path).stdout
    assert "--identity ada" in said
    yield Caller(tmp_path / "no-home", f"localhost:{OPERATORS}", tmp_path / "ada")
    (scene.deployment.home.operators / "ada.pem").unlink(missing_ok=True)


def test_an_operator_asks_over_the_network_and_is_named_in_events(
    scene: Scene, ada: Caller
) -> None:
    name, path = scene.study()
    with calling(ada) as daemon:
        daemon.Start(pb.StartRequest(document=path.read_text(), sites=["north", "south"]))
    (offered,) = [each for each in scene.events(name) if each["kind"] == "study.offered"]
    assert offered["fields"]["by"] == "ada"
    with calling(ada) as daemon:
        daemon.Stop(pb.StopRequest(study=name))
    assert scene.events(name)[-1]["fields"]["by"] == "ada"


def test_an_operator_who_was_shut_out_is_refused_everything(scene: Scene, ada: Caller) -> None:
    (scene.deployment.home.operators / "ada.pem").unlink()
    service = pb.DESCRIPTOR.services_by_name["Coordinator"]
    for method in service.methods:
        request = getattr(pb, method.input_type.name)()
        with pytest.raises(CoordinatorError, match="not one of an admitted operator"):  # noqa: SIM117
            with calling(ada) as daemon:
                answer = getattr(daemon, method.name)(request)
                if method.server_streaming:
                    list(answer)
    assert scene.deployment.logged("control.refused")


def test_an_operator_who_is_shut_out_while_watching_hears_no_more(
    scene: Scene, ada: Caller
) -> None:
    name, path = scene.study()
    answering = threading.Event()

    def when_told(_site: str, _request: Request, reply: Reply) -> Reply:
        answering.wait(PATIENCE)
        return reply

    scene.said[name] = when_told
    scene.cli("start", path)
    heard = []
    try:
        with pytest.raises(CoordinatorError, match="not one of an admitted operator"):  # noqa: SIM117
            with calling(ada) as daemon:
                for event in daemon.Watch(pb.WatchRequest(study=name, follow=True)):
                    heard.append(event.kind)
                    (scene.deployment.home.operators / "ada.pem").unlink(missing_ok=True)
    finally:
        answering.set()
    assert heard == ["study.offered"]


def test_without_a_certificate_nobody_asks_over_the_network(scene: Scene) -> None:
    ca = scene.deployment.home.ca_certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(ca)
    with grpc.secure_channel(f"localhost:{OPERATORS}", credentials) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Sites")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=PATIENCE)
    assert "UNAVAILABLE" in str(caught.value)


def test_a_daemon_that_is_not_there_is_named(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "home")
    with pytest.raises(LinkError, match="is not running") as caught:
        deployment.ask("Sites")
    assert "consilium-coordinator serve" in caught.value.details["do"]


def test_an_address_where_nobody_answers_is_named(scene: Scene, ada: Caller) -> None:
    wrong = f"127.0.0.1:{free_port()}"
    with pytest.raises(LinkError, match=wrong) as caught, calling(replace(ada, connect=wrong)) as c:
        c.Sites(pb.SitesRequest())
    assert "[control] listen" in caught.value.details["do"]


@pytest.mark.long
def test_systemd_is_told_and_a_study_goes_on_after_a_stop(
    tmp_path: Path,
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    postgresql: Server,
) -> None:
    """SIGTERM ends everything soon, and the next start goes on with what was under way.

    The store is a PostgreSQL server here.
    """
    address, told = tmp_path / "notify", list[bytes]()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(address))

    def listen() -> None:
        while True:
            told.append(listener.recv(100))

    threading.Thread(target=listen, daemon=True).start()
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    world, reached = make_world(), threading.Event()

    def alter(site: str, request: Request, reply: Reply) -> Reply:
        if request.purpose == "train" and request.round == 2:
            reached.set()
        return reply

    world.alter = alter
    client = world.client()
    hospitals = [
        Hospital(name, client, tmp_path / f"{name}.key", world.key(name).public, {})
        for name in world.patients
    ]
    store = ("sqlite:///state/coordinator.sqlite", postgresql.new_database())
    with deployed(tmp_path / "home", store) as deployment, connected(deployment, *hospitals):
        deployment.ask("Start", document=patient(world.study_file.read_text()))
        assert reached.wait(PATIENCE)
        watching = subprocess.Popen(
            [sys.executable, "-m", "server.cli.app", "--home", deployment.folder, "watch", "small"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        assert "UTC" in watching.stdout.readline()
        assert "offered to" in watching.stdout.readline()
        assert deployment.end() == 0
        assert (
            deployment.processes("server.daemon.") + deployment.processes("server.superlink.") == []
        )
        assert told == [b"READY=1", b"STOPPING=1"]
        deployment.start()
        outcome = deployment.outcome("small")
        watched = watching.stdout.read()  # not communicate: it misses what readline has buffered
        assert watching.wait(PATIENCE) == 0
    assert [watched.count(f"round {number} completed") for number in (1, 4)] == [1, 1]
    assert outcome["final_weights_sha256"] == make_world().run()["final_weights_sha256"]
    assert os.environ["NOTIFY_SOCKET"]


@pytest.mark.long  # a second machine is told from a restart after ten seconds
def test_two_machines_under_one_name_are_shown_with_what_to_do(scene: Scene) -> None:
    """Last of all: the site gets no request for more than a minute after it."""
    name, path = scene.study()
    twin = Fleet(coordinator_card(scene.deployment.home), scene.hospitals["west"].key)
    twin.connect()
    until(lambda: twin.pull() is None and twin.twins)
    assert twin.twins == scene.site("west")["twins"]
    warning = f"west: two machines are connected as this site since {twin.twins}"
    assert warning in " ".join(scene.cli("sites").stdout.split())
    scene.cli("start", path)
    listed = " ".join(scene.cli("studies").stdout.split())
    assert f"{name}: west is missing from every request: two machines" in listed
    assert "the hospital must stop one of them" in listed
    until(lambda: "gateway.refused" in scene.deployment.kinds())
    twin.close()
    scene.cli("stop", name)
