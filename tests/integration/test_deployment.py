"""A study between real processes, over TLS, is the simulation of that study, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from typing import Any

import pytest

from common.process.progress import silent
from simulations.archives.manifest import read_hospitals
from simulations.hospitals.lesions import write_lesions
from simulations.hospitals.synth import Size
from simulations.runs.network import (
    NetworkSettings,
    coordinate,
    enrol,
    followed,
    run_network,
    simulate,
)
from tests.common.studies import toml
from tests.integration.conftest import study_text, write_hospitals

SEED = 3
OUTLINES: dict[str, dict[str, Any]] = {
    "study": {"name": "outlines", "title": "Outlines of the liver and of lesions"},
    "task": {"kind": "segmentation", "classes": ["liver", "lesion"]},
    "data": {"dataset": "liver-mr", "modalities": ["MR"], "image_size": [32, 32]},
    "model": {"name": "resunet", "widths": [4, 8], "norm": "group", "groups": 2},
    "training": {
        "rounds": 2,
        "batch_size": 8,
        "learning_rate": 0.5,
        "augmentation": {"flip": True, "rotate": 10.0},
    },
    "privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-5},
    "evaluation": {"rounds": "last", "bins": 4, "epsilon_share": 1.0},
    "aggregation": {"strategy": "fedavg", "min_sites": 3},
}


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> NetworkSettings:
    tmp_path = tmp_path_factory.mktemp("n")  # short: a path of a Unix socket has 107 bytes
    study, hospitals = tmp_path / "tiny.toml", tmp_path / "hospitals"
    study.write_text(study_text(aggregation={"min_sites": 3}))
    hospitals.mkdir()
    write_hospitals(hospitals)
    return NetworkSettings(study, hospitals, tmp_path / "network", SEED)


@pytest.mark.long
def test_three_daemons_and_a_simulation_end_with_the_same_weights(
    settings: NetworkSettings,
) -> None:
    said: list[str] = []
    found = run_network(settings, said.append)
    assert found.same
    assert len(found.network) == 64
    outcome = json.loads((settings.result / "outcome.json").read_bytes())
    assert outcome["rounds"] == 3
    assert outcome["absences"] == []
    assert any("KNOWN KEY" in note for note in outcome["warnings"])


@pytest.mark.long
def test_segmentation_ends_with_the_same_weights_in_both(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Three hospitals whose masks are DICOM SEG with bits, SEG with probabilities, and NIfTI."""
    folder = tmp_path_factory.mktemp("s")
    study, hospitals = folder / "outlines.toml", folder / "hospitals"
    study.write_text(toml(OUTLINES))
    size = Size(patients=20, test_patients=10, pixels=32, sites=3)
    write_lesions(hospitals, size, seed=SEED, progress=silent)
    found = run_network(NetworkSettings(study, hospitals, folder / "network", SEED), lambda _: None)
    assert found.same
    result = json.loads((folder / "network" / "simulation" / "result.json").read_bytes())
    assert result["study"]["task"] == "segmentation"
    assert result["federated_evaluation"][-1]["figures"]["dice"]["value"] is not None


ONE_SHOT: dict[str, dict[str, Any]] = {
    "training": {"method": "one-shot", "rounds": None, "local_steps": None, "learning_rate": None},
    "aggregation": {"strategy": None, "average_decay": None, "min_sites": 3},
}


@pytest.mark.long
def test_one_release_on_a_frozen_network_ends_with_the_same_weights_in_both(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its features are computed between rounds by a daemon, within the first in a simulation."""
    folder = tmp_path_factory.mktemp("h")
    study, hospitals = folder / "tiny.toml", folder / "hospitals"
    model = {"name": "cnn", "widths": [4], "trainable": ["head"], "projection": 3}
    study.write_text(study_text(model=model, **ONE_SHOT))
    hospitals.mkdir()
    write_hospitals(hospitals)
    settings = NetworkSettings(study, hospitals, folder / "network", SEED)
    found = run_network(settings, lambda _: None)
    assert found.same
    logged = "".join(path.read_text() for path in settings.logs.iterdir())
    assert logged.count("features.kept") == 3


@pytest.mark.long
def test_killing_every_process_of_the_sites_changes_no_bit(settings: NetworkSettings) -> None:
    """In round 1 a worker and another's connection die, in round 2 both of a third."""
    settings.logs.mkdir(parents=True)
    with ExitStack() as stack:
        daemons = enrol(settings, read_hospitals(settings.hospitals), stack, lambda _: None)
        coordinate(settings, "start", str(settings.study), "--seed", str(SEED))
        done = set()
        for line in followed(settings, "tiny"):
            for number in (1, 2):
                if f"round {number}" in line and number not in done:
                    done.add(number)
                    _kill(daemons, number)
        coordinate(settings, "result", "tiny", "--out", str(settings.result))
    simulate(settings)
    outcome = json.loads((settings.result / "outcome.json").read_bytes())
    alone = json.loads((settings.simulation / "coordinator" / "outcome.json").read_bytes())
    assert done == {1, 2}
    assert outcome["final_weights_sha256"] == alone["final_weights_sha256"]
    assert outcome["absences"] == []


def _kill(daemons: dict[str, subprocess.Popen[bytes]], number: int) -> None:
    """Kill some of the sites' processes; whoever keeps them starts them again."""
    first, second, third = (daemons[name].pid for name in sorted(daemons))
    for parent, program in ((first, "worker"), (second, "connection")) if number == 1 else ():
        os.kill(_child(parent, program), signal.SIGKILL)
    if number == 2:
        for program in ("connection", "worker"):
            os.kill(_child(third, program), signal.SIGKILL)


def _child(parent: int, program: str) -> int:
    """The child of a process that runs a program of the daemon."""
    listing = subprocess.run(
        ["ps", "--ppid", str(parent), "-o", "pid=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listing.stdout.splitlines():
        pid, arguments = line.split(maxsplit=1)
        if f"client.daemon.{program}" in arguments:
            return int(pid)
    raise AssertionError(f"process {parent} has no {program}")
