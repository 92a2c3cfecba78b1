"""``flwr run .``: under Flower's own simulation a study ends in the bits of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w

from simulations.runs.run import run_study
from simulations.runs.run_settings import RunSettings
from tests.simulations.squares import square_hospitals, square_study
from tests.waiting import PATIENCE


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where Flower keeps its files; the SuperLink that it starts by itself is ended afterwards."""
    folder = tmp_path / "flower-home"
    folder.mkdir()
    yield folder
    mark = f"FLWR_HOME={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.long
def test_flwr_run_ends_in_the_same_weights(tmp_path: Path, home: Path, root: Path) -> None:
    square_hospitals(tmp_path / "hospitals", sites=3)
    study = square_study(tmp_path / "study.toml")
    ours = run_study(
        RunSettings(study, tmp_path / "hospitals", tmp_path / "ours", seed=5, baselines=False)
    )
    app = tmp_path / "app"
    app.mkdir()
    components = {
        "serverapp": "simulations.flower_app:server_app",
        "clientapp": "simulations.flower_app:client_app",
    }
    config = {
        "study": str(study),
        "hospitals": str(tmp_path / "hospitals"),
        "out": str(tmp_path / "flower"),
        "seed": 5,
    }
    document = {
        "build-system": {"requires": ["hatchling"], "build-backend": "hatchling.build"},
        "project": {"name": "a-study", "version": "1.0.0", "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {"publisher": "me", "components": components, "config": config}}},
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(document))
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        [
            *(binaries / "flwr", "run", app, "--stream", "--federation-config"),
            "num-supernodes=3 client-resources-num-cpus=1",
        ],
        env=os.environ
        | {
            "FLWR_HOME": str(home),
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "RAY_USAGE_STATS_ENABLED": "0",
            "FLWR_TELEMETRY_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    outcome = tmp_path / "flower" / "coordinator" / "outcome.json"
    assert outcome.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(outcome.read_text())
    assert found["final_weights_sha256"] == ours.final_weights_sha256
    assert (tmp_path / "flower" / "sites" / "site-000" / "site.sqlite").exists()
