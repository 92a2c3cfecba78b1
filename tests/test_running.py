"""What is shipped to run the daemons with: units, images and the compose file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DAEMONS = ("coordinator", "site")
MOST_EXPOSED = 2.0
"""Of systemd's scale from 0 to 10; it calls 0 to 3.9 OK."""


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_unit_leaves_the_daemon_few_rights(root: Path, daemon: str) -> None:
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        pytest.skip("no systemd-analyze")
    unit = root / "systemd" / f"consilium-{daemon}.service"
    done = subprocess.run(
        [analyse, "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_unit_has_no_unknown_or_wrong_setting(root: Path, daemon: str) -> None:
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        pytest.skip("no systemd-analyze")
    unit = root / "systemd" / f"consilium-{daemon}.service"
    done = subprocess.run(
        [analyse, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    about_us = [line for line in done.stderr.splitlines() if f"consilium-{daemon}" in line]
    assert [line for line in about_us if "is not executable" not in line] == []


@pytest.mark.parametrize("image", [*DAEMONS, "simulation"])
def test_an_image_runs_as_an_ordinary_user_and_copies_no_tests(root: Path, image: str) -> None:
    text = (root / "docker" / f"{image}.Dockerfile").read_text()
    assert re.search(r"^USER (?!root|0)\w+$", text, re.M)
    copied = re.findall(r"^COPY (.+) \S+$", text, re.M)
    assert all((root / name).exists() for names in copied for name in names.split())
    assert "tests" not in " ".join(copied)


@pytest.mark.parametrize("image", DAEMONS)
def test_a_daemons_image_says_whether_it_is_well(root: Path, image: str) -> None:
    assert "HEALTHCHECK" in (root / "docker" / f"{image}.Dockerfile").read_text()


def test_every_container_has_a_read_only_root_and_no_capabilities(root: Path) -> None:
    services = _compose(root)["services"]
    assert len([name for name in services if services[name].get("environment")]) == 3
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "ports" not in service, f"{name}: nothing is published beyond the machine"


def test_compose_accepts_the_compose_file(root: Path) -> None:
    command = _compose_command()
    if command is None:
        pytest.skip("no docker compose")
    done = subprocess.run(
        [*command, "-f", "docker/compose.yaml", "config", "--quiet"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _compose(root: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((root / "docker" / "compose.yaml").read_text())
    return document


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        found = subprocess.run([*command, "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return command
    return None


def test_the_firewall_keeps_other_accounts_from_the_superlink(root: Path, tmp_path: Path) -> None:
    """In a network namespace of its own: another account is turned away, the coordinator's not."""
    missing = [name for name in ("nft", "unshare", "setpriv", "ip") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    rules = (root / "systemd" / "consilium-superlink.nft").read_text()
    (tmp_path / "rules.nft").write_text(rules.replace('"consilium-coordinator"', "4711"))
    script = f"""
    ip link set lo up && nft --file {tmp_path}/rules.nft
    {sys.executable} -c 'import socket, time
s = socket.create_server(("127.0.0.1", 9093)); open("{tmp_path}/up", "w"); time.sleep(3600)' &
    until [ -e {tmp_path}/up ]; do sleep 0.05; done
    for uid in 4711 4712; do
      setpriv --reuid $uid --clear-groups bash -c ': < /dev/tcp/127.0.0.1/9093' 2>/dev/null \\
        && echo $uid in || echo $uid out
    done
    kill %1
    """
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script], capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no network namespace or firewall may be made here")
    assert done.stdout.split("\n")[:2] == ["4711 in", "4712 out"], done.stdout + done.stderr
