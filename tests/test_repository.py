"""What a clone of the repository promises: packages, pins, commands, and no stray addresses."""

from __future__ import annotations

import ast
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("client", "common", "server", "simulations")

# Written so that no line of this file is a match itself.
ADDRESSES = re.compile(
    r"[p]ypi\.|[p]ythonhosted|[d]ownload\.pytorch|[f]ile:///|"
    r"(?<![\w.])/(?:[h]ome|[U]sers)/\w|(?<![\w.])/[r]oot/"
)


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    """Every file of the repository that git does not ignore, relative to its root."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = (root / name for name in listing.stdout.split("\0") if name)
    return [path.relative_to(root) for path in paths if path.is_file()]


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    """Version that constraints.txt pins, by canonical name."""
    lines = (root / "constraints.txt").read_text().splitlines()
    matches = (re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if _says(line))
    found = [match.groups() if match else ("", "") for match in matches]
    assert all(name for name, _ in found), "a line of constraints.txt is not name==version"
    return {canonicalize_name(name): version for name, version in found}


def _says(line: str) -> bool:
    return bool(line) and not line.startswith("#")


def requirements(project: dict[str, Any]) -> Iterator[Requirement]:
    yield from map(Requirement, project["project"]["dependencies"])
    yield from map(Requirement, project["project"]["optional-dependencies"]["dev"])


def closure(project: dict[str, Any]) -> dict[str, str]:
    """Canonical name and installed version of everything the project depends on."""
    versions: dict[str, str] = {}
    todo = list(requirements(project))
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        versions[name] = metadata.version(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(map(needed.marker.evaluate, environments)):
                todo.append(needed)
    return versions


def test_every_package_that_exists_is_listed(root: Path, project: dict[str, Any]) -> None:
    found = sorted(
        ".".join(path.parent.relative_to(root).parts)
        for package in PACKAGES
        for path in (root / package).rglob("__init__.py")
    )

    assert found == sorted(project["tool"]["setuptools"]["packages"])


def test_a_wheel_holds_the_packages_with_their_data_and_nothing_else(
    root: Path, files: list[Path], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / "copy" / name)
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]  # the pinned setuptools is here
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            *offline,
            "--wheel-dir",
            tmp_path,
            tmp_path / "copy",
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert shipped == {str(name) for name in files if name.parts[0] in PACKAGES}


def test_every_dependency_is_pinned_to_what_is_installed(
    project: dict[str, Any], pins: dict[str, str]
) -> None:
    installed = closure(project)

    assert len(installed) > 80
    assert {name: pins.get(name) for name in installed} == {
        name: Version(version).public for name, version in installed.items()
    }


def test_every_import_of_the_packages_is_a_declared_dependency(
    root: Path, project: dict[str, Any]
) -> None:
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in (
            *project["project"]["dependencies"],
            # What it brings is asked for by name, and its absence is said.
            *chain.from_iterable(
                project["project"]["optional-dependencies"][extra]
                for extra in ("reasons", "ray", "tune", "trackers")
            ),
        )
    }
    providers = metadata.packages_distributions()
    undeclared = {
        name
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        for name in _top_level_imports(ast.parse(path.read_text()))
        if name not in sys.stdlib_module_names
        and name not in PACKAGES
        and not declared & set(map(canonicalize_name, providers.get(name, [])))
    }

    assert undeclared == set()


def _top_level_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_no_file_names_a_package_registry_or_someones_home(root: Path, files: list[Path]) -> None:
    found = [
        f"{name}:{number}"
        for name in files
        for number, line in enumerate((root / name).read_bytes().splitlines(), 1)
        if ADDRESSES.search(line.decode(errors="replace"))
    ]

    assert found == []


def test_the_address_check_finds_what_it_looks_for() -> None:
    for text in ("https://py" + "pi.org/simple", "cd /ho" + "me/ada/x", "fi" + "le:///opt"):
        assert ADDRESSES.search(text)
    for text in ("https://www.apache.org/licenses/", "a/home/page", "docs/root/index"):
        assert not ADDRESSES.search(text)


def test_the_readme_begins_with_the_two_commands(root: Path) -> None:
    before_first_section = (root / "README.md").read_text().split("\n## ")[0]

    assert re.findall(r"^make (\w+)", before_first_section, re.MULTILINE) == ["demo", "test"]


def test_make_alone_lists_a_command_for_each_thing(root: Path) -> None:
    listing = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^make (\w+) +\w", listing, re.MULTILINE)

    assert {"demo", "test", "lint", "types", "bench", "docs"} <= set(listed)


@pytest.mark.parametrize("address", [("192.0.2.1", 9), ("example.invalid", 9)])
def test_no_test_can_reach_another_machine(address: tuple[str, int]) -> None:
    with pytest.raises(PermissionError, match="stay on this machine"):
        socket.create_connection(address, timeout=1)


def test_the_readmes_table_is_that_of_the_recorded_demo(root: Path) -> None:
    """``make golden`` records the figures beside the weights that they are of."""
    rows = tomllib.loads((root / "tests" / "golden.toml").read_text()).values()
    recorded = [row["demo-auc"] for row in rows if "demo-auc" in row]
    line = re.search(r"^\| test AUC \|(.*)\|$", (root / "README.md").read_text(), re.MULTILINE)
    assert line is not None
    assert [float(cell) for cell in line[1].split("|")] in recorded
