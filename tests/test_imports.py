"""Which package may import which, and what a process that computes nothing does without."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

from client.administration.service import approve
from tests.client.site_fixtures import Hospital, answered, asking, plan_for, proposal
from tests.common.studies import small_study

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DICOM = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls", "rle")
"""pydicom and its decoders, by the names they are imported by."""

NOT_SHIPPED = ("tests", "benchmarks")

FORBIDDEN = {
    "common": ("client", "server", "simulations", *NOT_SHIPPED),
    "client": ("server", "simulations", *NOT_SHIPPED),
    "server": ("client", "simulations", *DICOM, "monai.data", "monai.transforms", *NOT_SHIPPED),
    "simulations": NOT_SHIPPED,
}


def violations(root: Path, forbidden: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every import below ``root`` that its package may not have: ``file:line imports name``."""
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for package, names in forbidden.items()
        for path in sorted((root / package).rglob("*.py"))
        for line, name in imports(ast.parse(path.read_text()), path.relative_to(root).parent.parts)
        if any(f"{name}.".startswith(f"{bad}.") for bad in names)
    ]


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module of ``package`` imports, at any depth."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from ((node.lineno, alias.name) for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                parents = package[: len(package) - level + 1] if level else ()
                base = (*parents, *([module] if module else []))
                yield from ((node.lineno, ".".join((*base, alias.name))) for alias in aliases)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def test_no_package_imports_what_it_may_not(root: Path) -> None:
    assert violations(root, FORBIDDEN) == []


def test_the_coordinator_runs_where_nothing_can_read_dicom(root: Path) -> None:
    """MONAI loads pydicom wherever it is installed, so it is taken away for the proof."""
    program = f"""
import importlib, pkgutil, sys
for name in {DICOM}:
    sys.modules[name] = None  # importing it fails, as if it were not installed
import server
for module in pkgutil.walk_packages(server.__path__, "server."):
    importlib.import_module(module.name)
assert not [name for name in sys.modules if name.split(".")[0] in ("client", "simulations")]
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


HEAVY = ("torch", "monai", "opacus", "dp_accounting", "matplotlib")
"""What computes: seconds to import, and hundreds of megabytes that stay."""

LIGHT = (
    *("common.plan", "client.daemon.serving", "client.daemon.connection", "client.daemon.worker"),
    *(
        "client.administration.enrolment",
        "client.cli.app",
        "client.cli.commands",
        "client.records.verify",
    ),
    *(
        "server.daemon.supervisor",
        "server.daemon.study_process",
        "server.cli.app",
        "server.cli.commands",
    ),
)
"""What a process that computes nothing begins with, or one that computes only later."""

ADMINISTRATION = """
from client.administration import service
from client.records import audit_log
from client.site import open_site

with open_site(Path(sys.argv[1])) as site:
    states = [row.state for row in service.studies(site)]
    assert states == ["pending", "approved"], states
    assert service.ledger(site).most_spent > 0
    assert service.status(site).studies
    for study in ("waiting", "running"):
        assert service.show(site, study).text
    service.pause(site, by="a person")
    service.resume(site, by="a person")
    assert service.deny(site, "waiting", by="a person").state == "denied"
    assert service.stop(site, "running", by="a person").rounds == 1
    assert list(audit_log.entries(site.state))
"""


def heavy_after(root: Path, program: str, *arguments: str) -> str:
    """What a program in an interpreter of its own has loaded of what computes."""
    head = "import importlib, sys\nfrom pathlib import Path\n"
    tail = f"\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", head + program + tail, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_what_computes_nothing_loads_nothing_that_computes(root: Path) -> None:
    program = f"""
for each in {LIGHT}:
    importlib.import_module(each)
    assert not [name for name in {HEAVY} if name in sys.modules], each
"""
    assert heavy_after(root, program) == ""


def test_a_site_is_administered_without_what_computes(root: Path, tmp_path: Path) -> None:
    """All but approving, which tries the plan's model: what a plan costs is in the store."""
    hospital = Hospital(tmp_path / "north", policy={"approval": "ask"}, seed=None)
    with hospital.open() as site:
        running = plan_for(site, small_study(study={"name": "running"}))
        waiting = plan_for(site, small_study(study={"name": "waiting"}, training={"rounds": 4}))
        for plan in (running, waiting):
            assert answered(site, proposal(plan)).code == "pending"
        approve(site, "running", by="a person")
        assert answered(site, asking(running)).code == "ok"

    assert heavy_after(root, ADMINISTRATION, str(hospital.folder / "site.toml")) == ""


PLANTED = {
    "common/plain.py": "import client\n",
    "common/inner.py": "def late():\n    from simulations.grids.in_process import Grid\n",
    "client/typed.py": "if TYPE_CHECKING:\n    import server.study.rounds as rounds\n",
    "client/deep/up.py": "from ... import server\n",
    "server/loaded.py": "importlib.import_module('client.data.dicom')\n",
    "server/named.py": "from importlib import import_module\nimport_module('pydicom.pixels')\n",
    "server/reader.py": "from monai import data\n",
    "simulations/test.py": "__import__('tests.conftest')\n",
}

ALLOWED = {
    "common/own.py": "import clients\nfrom common import client\nfrom . import server\n",
    "client/own.py": "import pydicom\nimport common.plan\nfrom .server import x\n",
    "server/own.py": "from monai.networks.nets import resnet18\n'import client'  # import client\n",
    "simulations/own.py": "import client, server, common, pydicom\n",
}


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_the_check_finds_every_way_of_importing(tmp_path: Path) -> None:
    write(tmp_path, PLANTED)

    assert sorted(violations(tmp_path, FORBIDDEN)) == [
        "client/deep/up.py:1 imports server",
        "client/typed.py:2 imports server.study.rounds",
        "common/inner.py:2 imports simulations.grids.in_process.Grid",
        "common/plain.py:1 imports client",
        "server/loaded.py:1 imports client.data.dicom",
        "server/named.py:2 imports pydicom.pixels",
        "server/reader.py:1 imports monai.data",
        "simulations/test.py:1 imports tests.conftest",
    ]


def test_the_check_leaves_similar_names_and_text_alone(tmp_path: Path) -> None:
    write(tmp_path, ALLOWED)

    assert violations(tmp_path, FORBIDDEN) == []
