"""Whatever is wrong with a folder, every command of the three command lines says so and no more.

The commands are those that are registered, and their arguments are made from their types: a new
command is tried by itself.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from client.administration import enrolment
from server.daemon import authority
from tests.integration.conftest import SITES, study_text, write_hospitals

COMMAND_LINES = ("client.cli.app", "server.cli.app", "simulations.cli.app")
SITE = SITES[0]
PATHS = {
    "images": "images",
    "labels": "labels.csv",
    "card": "SITE.json",
    "card_file": "COORDINATOR.json",
    "study": "study.toml",
    "hospitals": "hospitals",
    "file": "labels.csv",
    "site_file": "site.toml",
    "home": "coordinator",
    "receipts": "state",
}
"""Where parameters lead that are paths; any other one leads to something new."""
WORDS = {"study": "study.toml", "address": "localhost:8443", "patients": "40,60"}
"""Values of parameters that are words; any other one is a new name."""
MEANT = re.compile(r"(?m)^error: .+(\n .+)*\n  do: +\S")


def _states(world: Path) -> list[Path]:
    return [world / "state", world / "coordinator" / "state"]


def nobodys(world: Path) -> None:
    world.chmod(0)


def nobodys_states(world: Path) -> None:
    for state in _states(world):
        state.chmod(0)


def nobodys_files(world: Path) -> None:
    for path in world.rglob("*"):
        if path.is_file():
            path.chmod(0)


def nobodys_files_of_the_states(world: Path) -> None:
    for state in _states(world):
        for path in state.rglob("*"):
            if path.is_file():
                path.chmod(0)


def read_only(world: Path) -> None:
    for path in sorted(world.rglob("*"), reverse=True):
        path.chmod(0o500 if path.is_dir() else 0o400)
    world.chmod(0o500)


def files_for_states(world: Path) -> None:
    for state in _states(world):
        shutil.rmtree(state)
        state.write_text("a file")


def links_to_nowhere(world: Path) -> None:
    for state in _states(world):
        shutil.rmtree(state)
        state.symlink_to(world / "nowhere" / "at all")


def full(_world: Path) -> None:
    """No file may have a byte."""


SPOILT: tuple[Callable[[Path], None], ...] = (
    nobodys,
    nobodys_states,
    nobodys_files,
    nobodys_files_of_the_states,
    read_only,
    files_for_states,
    links_to_nowhere,
    full,
)
SIMULATED = (nobodys, read_only, full)
"""What hinders a simulation; with the others it would run to its end."""


class Command:
    """One command, with arguments of the kinds that it wants.

    Args:
        line: module of its command line.
        words: its name, with the group's before it.
        it: as it is registered.
    """

    def __init__(self, line: str, words: tuple[str, ...], it: click.Command) -> None:
        self.line, self.words, self.it = line, words, it

    def arguments(self, world: Path) -> list[str]:
        """Everything that it cannot do without, and every path that it can be given."""
        options, arguments = list[str](), list[str]()
        for parameter in self.it.params:
            value = _value(parameter, world)
            if isinstance(parameter, click.Argument):
                arguments += value
            elif parameter.name == "yes":
                options.append("--yes")
            elif value:
                options += [parameter.opts[0], *value]
        return [*self.words, *options, *arguments]


def _value(parameter: click.Parameter, world: Path) -> list[str]:
    name = str(parameter.name)
    if isinstance(parameter.type, click.Path):
        return [str(world / PATHS.get(name, f"new-{name}"))]
    if not parameter.required:
        return []
    if isinstance(parameter.type, click.types.IntParamType):
        return ["20"]
    return [str(world / WORDS[name]) if name == "study" else WORDS.get(name, "new")]


def commands(line: str) -> Iterator[Command]:
    """All commands that are registered."""
    root = typer.main.get_command(importlib.import_module(line).app)

    def below(words: tuple[str, ...], it: click.Command) -> Iterator[Command]:
        if isinstance(it, click.Group):
            for name, inner in it.commands.items():
                yield from below((*words, name), inner)
        if not isinstance(it, click.Group) or it.invoke_without_command:
            yield Command(line, words, it)

    assert isinstance(root, click.Group)
    for name, inner in root.commands.items():
        yield from below((name,), inner)


class Runner:
    """Runs commands of one command line without rights over files."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, words: list[str], most: int | None = None) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": words, "most": most}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(line: str, root: Path) -> Iterator[Runner]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.folder_launcher", line],
        cwd=root,
        # One thread: a child of a process with several may not compute.
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Runner(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site, the coordinator that it has joined, hospitals and a study, in one folder."""
    world = tmp_path_factory.mktemp("made")
    write_hospitals(world / "hospitals")
    for path in (world / "hospitals" / SITE).iterdir():
        path.rename(world / path.name)
    shutil.copytree(world / "images", world / "hospitals" / SITE / "images")
    for name in ("labels.csv", "site.toml"):
        shutil.copy(world / name, world / "hospitals" / SITE / name)
    (world / "study.toml").write_text(study_text())
    (world / "new").mkdir()
    enrolment.introduce(world / "site.toml")
    home = authority.init(world / "coordinator", "radiology", "localhost:8443").home
    card = authority.coordinator_card(home)
    (world / "COORDINATOR.json").write_text(card.text)
    enrolment.join(world / "site.toml", card)
    (world / "state" / "receipts.jsonl").touch(0o600)
    return world


def before(command: Command, world: Path) -> list[str]:
    """What goes before a command: the place that it is about."""
    new = world / "new" if command.words == ("init",) else world
    return {
        "client.cli.app": ["--site", str(new / "site.toml")],
        "server.cli.app": ["--home", str(new / "coordinator")],
        "simulations.cli.app": [],
    }[command.line]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("line", "spoil"),
    [(line, spoil) for line in COMMAND_LINES[:2] for spoil in SPOILT]
    + [pytest.param(COMMAND_LINES[2], spoil, marks=pytest.mark.long) for spoil in SIMULATED],
    ids=lambda value: getattr(value, "__name__", value),
    indirect=["line"],
)
def test_a_command_says_what_is_wrong_with_a_folder(
    line: str, run: Runner, made: Path, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    world, wrong = tmp_path / "world", []
    shutil.copytree(made, world)
    spoil(world)
    for command in commands(line):
        words = [*before(command, world), *command.arguments(world)]
        done = run(words, most=0 if spoil is full else None)
        well = done["code"] == 0 or (done["code"] == 2 and MEANT.search(done["said"]))
        if not well or "Traceback" in done["said"] or ".tmp" in done["said"]:
            wrong.append(f"{' '.join(command.words)}: {done['code']}\n{done['said']}")
    assert not wrong, "\n\n".join(wrong)


@pytest.fixture(autouse=True)
def removable(tmp_path: Path) -> Iterator[None]:
    """Give back the rights over what was made here, so that it can be removed."""
    yield
    for folder, _, names in os.walk(tmp_path):
        Path(folder).chmod(0o700)
        for name in names:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o600)
