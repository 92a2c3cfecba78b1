"""Every target by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from tests.fuzz.target import Target

TARGETS: Final = {
    "dicom": "tests.fuzz.dicom:DicomFiles",
    "labels": "tests.fuzz.files:Labels",
    "lists": "tests.fuzz.files:Lists",
    "study-file": "tests.fuzz.studies:StudyFiles",
    "plan": "tests.fuzz.studies:Plans",
    "site-file": "tests.fuzz.files:SiteFiles",
    "cards": "tests.fuzz.files:Cards",
    "bundle": "tests.fuzz.files:Bundles",
    "package": "tests.fuzz.packages:Packages",
    "checkpoint": "tests.fuzz.studies:Checkpoints",
    "run-folder": "tests.fuzz.studies:RunFolders",
    "control-errors": "tests.fuzz.files:Errors",
    "objects": "tests.fuzz.messages:Objects",
    "request": "tests.fuzz.messages:Requests",
    "document": "tests.fuzz.messages:Documents",
    "reply": "tests.fuzz.replies:Replies",
    "offer": "tests.fuzz.replies:Offers",
    "json": "tests.fuzz.files:Json",
}
"""Where each is; a process imports only what it needs."""


def known(name: str) -> type[Target]:
    """A target by its name, or by where it is."""
    module, _, inside = TARGETS.get(name, name).partition(":")
    found: type[Target] = getattr(import_module(module), inside)
    assert issubclass(found, Target)
    return found
