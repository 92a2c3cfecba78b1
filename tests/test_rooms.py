"""The layout that ``ARCHITECTURE.md`` draws: small folders, few imports, no circles, clear names.

A *room* is a folder of a package, or a module that stands beside the folders. Imports that only
say what something is called (under ``TYPE_CHECKING``) count like all others: a reader follows them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.test_imports import imports as imported

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES = ("client", "common", "server", "simulations")
MOST_MODULES = 14
MOST_IMPORTS = 15
GENERATED = ("_pb2", "_pb2_grpc")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages, by its dotted name; a package by its own."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }


def imports(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The project's modules that a module imports, inside functions too."""
    found = {name for _, name in imported(ast.parse(path.read_text()), ())}
    found |= {name.rpartition(".")[0] for name in found}  # of what is taken from a module
    return {name for name in found & known.keys() if known[name] != path}


def graph(root: Path) -> dict[str, set[str]]:
    """Which module imports which; a package counts where something of its own is taken."""
    known = modules(root)
    empty = {
        name
        for name, path in known.items()
        if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) <= 1
    }
    return {name: imports(path, known) - empty for name, path in known.items()}


def room_of(name: str) -> str:
    """``client.data`` of ``client.data.dicom``; ``client.site`` of itself."""
    parts = name.split(".")
    return ".".join(parts[:2])


def rooms(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between rooms."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, others in arrows.items():
        found[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    return found


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """One circle of arrows, from a node back to itself; empty where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def picture(arrows: Mapping[str, set[str]]) -> str:
    """The rooms of each package with their arrows to its other rooms, all of which are below.

    Which package may import which is another test.
    """
    between = rooms(arrows)

    def beneath(room: str) -> list[str]:
        package = room.split(".", maxsplit=1)[0]
        return sorted(
            (other for other in between[room] if other.startswith(f"{package}.")), key=from_the_top
        )

    def floor(room: str) -> int:
        return 1 + max(map(floor, beneath(room)), default=-1)

    def from_the_top(room: str) -> tuple[int, str]:
        return -floor(room), room

    lines = []
    for package in PACKAGES:
        inside = sorted((r for r in list(between) if r.startswith(f"{package}.")), key=from_the_top)
        width = max((len(room) for room in inside), default=0)
        lines.append(f"{package}/")
        for room in inside:
            others = " ".join(other.removeprefix(f"{package}.") for other in beneath(room))
            line = f"  {room:<{width}} -> {others}" if others else f"  {room}"
            lines.append(line.replace(f"{package}.", "", 1))
    return "\n".join(lines)


def public_classes(root: Path) -> dict[str, list[str]]:
    """Where each public class of the packages is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, path in modules(root).items():
        if name.endswith(GENERATED):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    return found


def test_a_folder_holds_no_more_modules_than_can_be_seen_at_once(root: Path) -> None:
    found: dict[Path, int] = defaultdict(int)
    for path in modules(root).values():
        found[path.parent.relative_to(root)] += path.name != "__init__.py"

    assert {folder: count for folder, count in found.items() if count > MOST_MODULES} == {}


def test_no_module_needs_to_know_more_than_a_few_others(root: Path) -> None:
    known = {
        name: len(others) for name, others in graph(root).items() if len(others) > MOST_IMPORTS
    }

    assert known == {}


def test_modules_import_each_other_in_no_circle(root: Path) -> None:
    assert circle(graph(root)) == []


def test_rooms_import_each_other_in_no_circle(root: Path) -> None:
    assert circle(rooms(graph(root))) == []


def test_the_picture_shows_every_arrow_between_rooms_and_no_other(root: Path) -> None:
    """Where it does not, the message has the picture to put in its place."""
    wanted = picture(graph(root))

    assert f"```text\n{wanted}\n```" in (root / "ARCHITECTURE.md").read_text(), wanted


def test_a_class_s_name_means_one_thing(root: Path) -> None:
    assert {name: where for name, where in public_classes(root).items() if len(where) > 1} == {}


PLANTED = {
    "client/data/one.py": "from common.wire import two\n\nclass Thing: ...\n",
    "client/data/three.py": "def late():\n    import client.site\n",
    "client/site.py": "from client.data.one import Thing\n\nclass Other: ...\n",
    "common/wire/two.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from client.site import Other\n"
        "class Thing: ...\n"
    ),
}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    for name, source in PLANTED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        (path.parent / "__init__.py").write_text('"""A room."""\n')
    return tmp_path


def test_the_check_sees_imports_wherever_they_stand(planted: Path) -> None:
    assert graph(planted)["client.data.one"] == {"common.wire.two"}
    assert graph(planted)["client.data.three"] == {"client.site"}
    assert graph(planted)["common.wire.two"] == {"client.site"}


def test_the_check_finds_a_circle_that_types_close(planted: Path) -> None:
    assert set(circle(graph(planted))) == {"client.data.one", "common.wire.two", "client.site"}


def test_the_check_finds_a_circle_of_rooms_where_no_module_is_in_one(planted: Path) -> None:
    (planted / "common" / "wire" / "two.py").write_text("class Thing: ...\n")
    arrows = graph(planted)

    assert circle(arrows) == []
    assert set(circle(rooms(arrows))) == {"client.data", "client.site"}


def test_the_picture_is_read_from_the_top(planted: Path) -> None:
    (planted / "client" / "site.py").write_text("class Other: ...\n")
    (planted / "client" / "cli.py").write_text("import client.site, client.data.one\n")

    assert picture(graph(planted)) == (
        "client/\n  cli  -> data site\n  data -> site\n  site\n"
        "common/\n  wire\nserver/\nsimulations/"
    )


def test_the_check_finds_two_classes_of_one_name(planted: Path) -> None:
    assert public_classes(planted)["Thing"] == ["client.data.one", "common.wire.two"]
