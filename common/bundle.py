"""The Flower app bundle of a study: it carries no code, and whoever gets one makes sure of it.

Flower sends an app to its nodes as an archive. Ours holds ``pyproject.toml`` alone, which
names modules that every side has installed already, so that stock tools can run it and
nothing comes in with it (Flower itself adds a list of what the archive holds).
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, Final

from common.documents import read_toml

PROJECT: Final = "pyproject.toml"
MANIFEST: Final = ".info/CONTENT"
SERVER_APP: Final = "server.app:app"
CLIENT_APP: Final = "client.app:app"
LARGEST: Final = 2**16
"""Bytes that either file may take; they take some hundred."""

PYPROJECT: Final = f"""\
[project]
name = "consilium-study"
version = "1.0.0"
description = "Runs the Consilium that is installed; carries no code"
dependencies = []

[tool.flwr.app]
publisher = "consilium"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
"""


def foreign(content: bytes) -> str | None:
    """What a bundle brings with it that it must not, in words; None where it brings nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = sorted(entry.filename for entry in entries)
            if names != sorted((MANIFEST, PROJECT)):
                others = [name for name in names if name not in (MANIFEST, PROJECT)]
                return f"files: {', '.join(others[:3]) or 'one of them twice, or none'}"
            if any(entry.file_size > LARGEST for entry in entries):
                return f"a file of more than {LARGEST} bytes"
            project = read_toml(archive.read(PROJECT).decode())
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError, EOFError):
        return "something that is not a bundle"
    return _foreign_project(project)


def _foreign_project(project: dict[str, Any]) -> str | None:
    try:
        components = project["tool"]["flwr"]["app"]["components"]
        dependencies = project["project"].get("dependencies", [])
    except (KeyError, TypeError, AttributeError):
        return "no app"
    if components != {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}:
        return "other apps than those that are installed"
    if dependencies:
        return "dependencies"
    return None
