"""The Flower app bundle of a study: it carries no code, and the receiver checks that.

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
"""Bytes that either file may take, packed or not; they take some hundred."""
PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How they may be packed: no more than so many bytes are unpacked at a time."""
LONGEST: Final = 60
"""Characters of a foreign file's name that are shown."""

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
        return _foreign(content)
    except Exception:  # noqa: BLE001 - an archive may be broken in as many ways as there are
        return "something that is not a bundle"


def _foreign(content: bytes) -> str | None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = sorted(entry.filename for entry in entries)
        if names != sorted((MANIFEST, PROJECT)):
            others = [name[:LONGEST] for name in names if name not in (MANIFEST, PROJECT)]
            return f"files: {', '.join(others[:3]) or 'one of them twice, or none'}"
        # Before anything is unpacked: zeros grow a thousandfold when they are.
        if any(max(entry.file_size, entry.compress_size) > LARGEST for entry in entries):
            return f"a file of more than {LARGEST} bytes"
        if any(entry.compress_type not in PACKED for entry in entries):
            return "a file compressed with another method"
        texts = {}
        for name in names:  # both, so that nobody after us meets a broken one
            with archive.open(name) as file:
                texts[name] = file.read(LARGEST + 1)
    return _foreign_project(read_toml(texts[PROJECT]))


def _foreign_project(project: dict[str, Any]) -> str | None:
    try:
        components = project["tool"]["flwr"]["app"]["components"]
        dependencies = project["project"].get("dependencies", [])
    except (KeyError, TypeError, AttributeError):
        return "no app"
    if components != {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}:
        return "apps other than the installed ones"
    if dependencies:
        return "dependencies"
    return None
