"""Flower's own SuperNode, unchanged, in whose environment Consilium is installed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from client.administration import service
from client.records.audit_log import entries
from client.site import open_site
from common.process.ports import free_port
from simulations.archives.manifest import read_hospitals
from simulations.runs.network import (
    NetworkSettings,
    coordinate,
    daemon,
    exchange_cards,
    followed,
    serve_coordinator,
    serve_site,
)
from tests.integration.conftest import study_text, write_hospitals

ROOT = Path(__file__).resolve().parents[2]
SEED = 3
SITES = OURS, STOCK, THEIRS = "alder", "birch", "cedar"
FOREIGN = '''
"""A client of somebody else's, under our name: it answers whatever it likes."""
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("offer")
def offer(message, context):
    update = ArrayRecord({"flat": Array(np.zeros(4, dtype=np.int32))})
    return Message(RecordDict({"arrays": update}), reply_to=message)
'''


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> NetworkSettings:
    tmp_path = tmp_path_factory.mktemp("n")  # short: a path of a Unix socket has 107 bytes
    study, hospitals = tmp_path / "tiny.toml", tmp_path / "hospitals"
    study.write_text(study_text())
    hospitals.mkdir()
    write_hospitals(hospitals)
    (tmp_path / "network" / "logs").mkdir(parents=True)
    return NetworkSettings(study, hospitals, tmp_path / "network", SEED)


@pytest.mark.long
def test_a_stock_supernode_runs_the_same_client_and_a_foreign_client_is_refused_by_name(
    settings: NetworkSettings, tmp_path: Path
) -> None:
    """One daemon, one stock SuperNode, and one whose environment holds another ``client.app``.

    It takes over a minute on a machine with nothing else to do, and many on a busy one, though no
    message is lost. A stock SuperNode looks for work every 3 s, starts a process for each message,
    which imports everything anew, looks for its answer every 0.5 s, and asks for an object that has
    not arrived yet after 1, 2, 4 and up to 10 s; here are seven messages, one after the other. On
    a busy machine most of the time goes into those processes. Where a message took more than a
    minute, the coordinator has asked again, and the same stored reply went out twice.
    """
    files = {name: read_hospitals(settings.hospitals).site_file(name) for name in SITES}
    foreign = tmp_path / "foreign" / "client"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").touch()
    (foreign / "app.py").write_text(FOREIGN)
    with ExitStack() as stack:
        address = serve_coordinator(settings, stack, lambda _: None)
        for file in files.values():
            exchange_cards(settings, file)
        serve_site(settings, OURS, files[OURS], stack)
        node = supernode(settings, STOCK, files[STOCK], address, first_on_path=())
        stack.enter_context(node)
        theirs = supernode(
            settings, THEIRS, files[THEIRS], address, first_on_path=(foreign.parent,)
        )
        stack.enter_context(theirs)
        coordinate(settings, "start", str(settings.study), "--seed", str(SEED))
        said = list(followed(settings, "tiny"))
        coordinate(settings, "result", "tiny", "--out", str(settings.result))
    outcome = json.loads((settings.result / "outcome.json").read_bytes())
    assert set(outcome["sites"]) == {OURS, STOCK}
    assert {(each["site"], each["reason"]) for each in outcome["absences"]} == {
        (THEIRS, "sent something that is not a reply")
    }
    refused = [line for line in said if THEIRS in line and "not a reply" in line]
    assert refused, said
    with open_site(files[STOCK], known_seed=SEED) as site:
        (row,) = service.studies(site)
        assert (row.state, row.round) == ("closed", 3)
        assert 0 < row.epsilon_spent <= row.epsilon
        assert service.ledger(site).length == 4
    noted = list(entries(files[STOCK].parent / "state"))
    out = [each.fields for each in noted if each.event == "message.out"]
    assert len({(each["purpose"], each["round"]) for each in out}) == 7
    assert [each.event for each in noted].count("study.approved") == 1


@contextmanager
def supernode(
    settings: NetworkSettings,
    name: str,
    file: Path,
    address: str,
    *,
    first_on_path: Sequence[Path],
) -> Iterator[None]:
    """Flower's SuperNode, as Flower's guide starts it, with the site's key."""
    state = file.parent / "state"
    card = json.loads((file.parent / "COORDINATOR.json").read_bytes())
    (state / "ca.pem").write_text(card["ca"])
    command = [
        str(Path(sys.executable).with_name("flower-supernode")),
        *("--superlink", address, "--root-certificates", str(state / "ca.pem")),
        *("--auth-supernode-private-key", str(state / "node.key")),
        *("--port", str(free_port())),
        *("--node-config", f'site="{file}" known-seed={settings.seed}'),
    ]
    before = os.environ.copy()
    os.environ |= {
        "FLWR_HOME": str(state / "flower"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), before["PATH"]]),
        "PYTHONPATH": os.pathsep.join(str(each) for each in (*first_on_path, ROOT)),
    }
    try:
        with daemon(settings.logs / f"{name}.log", command):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
